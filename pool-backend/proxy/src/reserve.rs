// SPDX-License-Identifier: LGPL-2.1-or-later
//! Reservations of names for pools that are being defined.
//!
//! Two daemons know which names are taken, and time passes between the question to one and the
//! definition in the other. So a definition reserves its name and its UUID here: a second definition of the same
//! name waits, and then finds the first. A definition whose name cannot be read may have any name, so it runs
//! alone.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::route::PoolNames;

/// What a definition without a known name holds.
const ANY: &str = "any";

/// What is held.
#[derive(Debug, Default)]
pub struct Reservations {
    held: Mutex<HashSet<String>>,
    freed: Notify,
}

/// Names held until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    of: Arc<Reservations>,
    keys: Vec<String>,
}

impl Reservations {
    /// Waits until these names are free, and reserves them.
    pub async fn hold(self: &Arc<Self>, names: &PoolNames) -> Reservation {
        let name = names.name.iter().map(|name| format!("name {name}"));
        let uuid = names.uuid.iter().map(|uuid| format!("uuid {uuid}"));
        let mut keys: Vec<String> = name.chain(uuid).collect();
        if keys.is_empty() {
            keys.push(ANY.to_owned());
        }
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
        let any = keys.iter().any(|key| key == ANY);
        let free = if any { held.is_empty() } else { !held.contains(ANY) }
            && keys.iter().all(|key| !held.contains(key));
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

    #[tokio::test]
    async fn a_definition_without_a_known_name_is_made_alone() {
        let all = Arc::new(Reservations::default());
        let (known, unknown) = (names("vms"), PoolNames::default());
        for (first, second) in [(&known, &unknown), (&unknown, &known), (&unknown, &unknown)] {
            let held = all.hold(first).await;
            let waiting = all.hold(second);
            tokio::pin!(waiting);
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("held beside the other"),
                () = tokio::task::yield_now() => {}
            }
            drop(held);
            waiting.await;
        }
    }
}
