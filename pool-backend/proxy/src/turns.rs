// SPDX-License-Identifier: LGPL-2.1-or-later
//! Turns at something that all clients need, polkit or a thread: so many at once in all, and no more than a part of them
//! for the clients of one user, who would otherwise have all others wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// No user has more than this part of the turns.
const PART: usize = 4;

/// The turns of all users.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    users: Mutex<HashMap<u32, Arc<Semaphore>>>,
    each: usize,
}

/// One turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _place: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(at_once: usize) -> Self {
        let each = at_once.div_ceil(PART);
        Turns { all: Arc::new(Semaphore::new(at_once)), users: Mutex::default(), each }
    }

    /// Waits for the user's turn; `None` never comes.
    pub(crate) async fn next(&self, uid: u32) -> Option<Turn> {
        // The user's own first: who waits for that is in nobody's way.
        let own = self.user(uid).acquire_owned().await.ok()?;
        let place = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _place: place, _own: own })
    }

    fn user(&self, uid: u32) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who neither have a turn nor wait for one are forgotten.
        users.retain(|_, user| Arc::strong_count(user) > 1);
        Arc::clone(users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn one_user_leaves_turns_for_others_and_is_forgotten_afterwards() {
        let turns = Turns::new(8);
        let (first, second) = (turns.next(1000).await, turns.next(1000).await);
        assert!(timeout(MOMENT, turns.next(1000)).await.is_err(), "more than a user's part");
        let others: Vec<_> = [turns.next(1001).await, turns.next(1001).await].into();
        drop(first);
        let again = timeout(MOMENT, turns.next(1000)).await.expect("its turn has come");
        drop((second, again, others));
        let _turn = turns.next(1002).await;
        assert_eq!(turns.users.lock().unwrap().len(), 1);
    }
}
