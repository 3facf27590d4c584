// SPDX-License-Identifier: LGPL-2.1-or-later
//! Limits on the number of clients: of all, of each user, and a reserve for root.
//!
//! Without them one user could take all places, and root, and with it libvirt's own daemons, could not connect any
//! more. A client above its user's limit is turned away; when all places are taken, a client waits for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::memory::{Allowance, Memory};

/// One of this many places is kept for root.
const KEPT: usize = 10;
/// No user has more than this part of the places for clients that have not authenticated yet.
const ANONYMOUS_PART: usize = 4;

/// The places of both sockets.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    kept: Arc<Semaphore>,
    users: Mutex<HashMap<u32, User>>,
    memory: Memory,
    each: usize,
    anonymous_each: usize,
}

/// The clients of a user that is not root.
#[derive(Debug)]
struct User {
    clients: usize,
    own: Own,
}

/// What the clients of a user share.
#[derive(Debug, Clone)]
struct Own {
    anonymous: Arc<Semaphore>,
    memory: Allowance,
}

/// A client is counted among those of its user until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    places: Arc<Places>,
    /// `None` is root, who is not counted.
    user: Option<(u32, Own)>,
}

/// A client's place, and that it is counted: until nothing is done for it any more, whether or not it is still there.
#[derive(Debug)]
pub(crate) struct Seat {
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Seat {
    pub(crate) fn new(place: OwnedSemaphorePermit, counted: Counted) -> Arc<Self> {
        Arc::new(Self { _place: place, _counted: counted })
    }
}

impl Places {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let all = config.max_clients.max(1);
        let kept = all / KEPT;
        Arc::new(Places {
            all: Arc::new(Semaphore::new(all - kept)),
            kept: Arc::new(Semaphore::new(kept)),
            users: Mutex::default(),
            memory: Memory::new(config.frame_memory),
            each: config.max_user_clients.max(1),
            anonymous_each: config.max_anonymous_clients.div_ceil(ANONYMOUS_PART).max(1),
        })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a client; `None` if its user has as many as a user may have.
    pub(crate) fn count(self: &Arc<Self>, uid: u32) -> Option<Counted> {
        let places = Arc::clone(self);
        if uid == 0 {
            return Some(Counted { places, user: None });
        }
        let mut users = self.users();
        let user = users.entry(uid).or_insert_with(|| User {
            clients: 0,
            own: Own {
                anonymous: Arc::new(Semaphore::new(self.anonymous_each)),
                memory: self.memory.allowance(),
            },
        });
        if user.clients >= self.each {
            return None;
        }
        user.clients += 1;
        let user = Some((uid, user.own.clone()));
        Some(Counted { places, user })
    }
}

impl Counted {
    /// Waits for a place; `None` never comes.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.places.all).acquire_owned();
        if self.user.is_some() {
            return all.await.ok();
        }
        let kept = Arc::clone(&self.places.kept).acquire_owned();
        tokio::select! {
            biased;
            place = all => place.ok(),
            place = kept => place.ok(),
        }
    }

    /// Waits for the user's turn to authenticate one more client.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let (_, own) = self.user.as_ref()?;
        Arc::clone(&own.anonymous).acquire_owned().await.ok()
    }

    /// The memory that the user's frames may take; root's are not counted.
    pub(crate) fn memory(&self) -> Option<Allowance> {
        self.user.as_ref().map(|(_, own)| own.memory.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((uid, _)) = &self.user else { return };
        let mut users = self.places.users();
        let Some(user) = users.get_mut(uid) else { return };
        user.clients -= 1;
        if user.clients == 0 {
            users.remove(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize, each: usize) -> Arc<Places> {
        let mut config = Config::new("/x", "/y");
        (config.max_clients, config.max_user_clients) = (all, each);
        Places::new(&config)
    }

    #[tokio::test]
    async fn a_user_has_so_many_and_another_user_its_own() {
        let places = places(100, 2);
        let first = places.count(7).unwrap();
        let _second = places.count(7).unwrap();
        assert!(places.count(7).is_none());
        places.count(8).unwrap();
        drop(first);
        places.count(7).unwrap();
        assert_eq!(places.users().len(), 1, "users without clients are forgotten");
    }

    #[tokio::test]
    async fn root_gets_a_place_when_others_have_taken_all_of_theirs() {
        let places = places(20, 100);
        let counted = places.count(7).unwrap();
        let mut taken = Vec::new();
        for _ in 0..18 {
            taken.push(counted.place().await.unwrap());
        }
        tokio::select! {
            biased;
            _ = counted.place() => panic!("a place that is kept for root"),
            () = tokio::task::yield_now() => {}
        }
        let root = places.count(0).unwrap();
        let _kept = (root.place().await.unwrap(), root.place().await.unwrap());
        drop(taken.pop());
        drop(root.place().await.unwrap());
    }
}
