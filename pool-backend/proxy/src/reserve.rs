// SPDX-License-Identifier: LGPL-2.1-or-later
//! PoolNames that are being defined right now.
//!
//! Whether a name is free is known to two daemons, and asking one before telling the
//! other takes time. Whoever defines a pool holds its name and UUID here meanwhile, so
//! that of two definitions of one name the second sees the first.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::route::PoolNames;

/// What is held.
#[derive(Debug, Default)]
pub struct Reservations {
    held: Mutex<HashSet<String>>,
    freed: Notify,
}

/// PoolNames held until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    of: Arc<Reservations>,
    keys: Vec<String>,
}

impl Reservations {
    /// Waits until nobody holds any of these names, and holds them.
    pub async fn hold(self: &Arc<Self>, names: &PoolNames) -> Reservation {
        let name = names.name.iter().map(|name| format!("name {name}"));
        let uuid = names.uuid.iter().map(|uuid| format!("uuid {uuid}"));
        let keys: Vec<String> = name.chain(uuid).collect();
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on no wake-up is missed, taken before the look at the set.
            freed.as_mut().enable();
            if self.take(&keys) {
                return Reservation { of: Arc::clone(self), keys };
            }
            freed.await;
        }
    }

    fn take(&self, keys: &[String]) -> bool {
        let mut held = self.held();
        let free = keys.iter().all(|key| !held.contains(key));
        if free {
            held.extend(keys.iter().cloned());
        }
        free
    }

    fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.of.held().retain(|key| !self.keys.contains(key));
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str) -> PoolNames {
        PoolNames { name: Some(name.to_owned()), uuid: None }
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_others_do_not() {
        let all = Arc::new(Reservations::default());
        let first = all.hold(&names("vms")).await;
        all.hold(&names("other")).await;
        let again = names("vms");
        let second = all.hold(&again);
        tokio::pin!(second);
        tokio::select! {
            biased;
            _ = &mut second => panic!("held twice"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        second.await;
    }
}
