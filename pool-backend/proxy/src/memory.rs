// SPDX-License-Identifier: LGPL-2.1-or-later
//! Memory for frames of users who are not root: so much for all of them, and a part of it for each.
//!
//! A short frame is not counted: how many clients a user has bounds those. A longer one waits, before more of it is read,
//! until there is room for all of it, and gives the room back when nothing of it is needed any more. So a client that
//! announces much and sends little holds up clients of its own user alone.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use virtnotify_wire::frame::FRAME_MAX;

/// In what memory is counted.
const UNIT: usize = 1024;
/// No longer frame is left uncounted.
const SHORT: usize = 4096;
/// No user has more than this part of it, or than one frame takes.
const PART: usize = 4;

/// Of all users.
#[derive(Debug)]
pub(crate) struct Memory {
    all: Arc<Semaphore>,
    each: usize,
}

/// What one user has.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// Room for a frame, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        let each = (bytes / PART).max(FRAME_MAX).div_ceil(UNIT);
        Self { all: Arc::new(Semaphore::new((bytes / UNIT).max(each))), each }
    }

    /// The part of a user who has none yet.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance { all: Arc::clone(&self.all), own: Arc::new(Semaphore::new(self.each)) }
    }
}

impl Allowance {
    /// Waits for room for a frame; one that is short needs none.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Taken> {
        if bytes <= SHORT {
            return None;
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        // A user waits for its own part first: until it has that, it holds nothing of the others'.
        let _own = Arc::clone(&self.own).acquire_many_owned(units).await.ok()?;
        let _all = Arc::clone(&self.all).acquire_many_owned(units).await.ok()?;
        Some(Taken { _own, _all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waits(taking: impl Future<Output = Option<Taken>>) {
        tokio::select! {
            biased;
            _ = taking => panic!("there is room"),
            () = tokio::task::yield_now() => {}
        }
    }

    #[tokio::test]
    async fn a_user_who_has_taken_all_of_a_part_keeps_nobody_else_waiting() {
        let memory = Memory::new(4 * FRAME_MAX);
        let (one, other) = (memory.allowance(), memory.allowance());
        let longest = one.take(FRAME_MAX).await;
        assert!(longest.is_some());
        waits(one.take(SHORT + 1)).await;
        assert!(one.take(SHORT).await.is_none(), "a short one is not counted");
        assert!(other.take(FRAME_MAX).await.is_some());
        drop(longest);
        assert!(one.take(FRAME_MAX).await.is_some());
    }

    #[tokio::test]
    async fn all_users_together_have_so_much() {
        let memory = Memory::new(4 * FRAME_MAX);
        let users: Vec<_> = (0..5).map(|_| memory.allowance()).collect();
        let mut taken = Vec::new();
        for user in users.iter().take(3) {
            taken.push(user.take(FRAME_MAX).await);
        }
        waits(async {
            taken.push(users[3].take(FRAME_MAX).await);
            users[4].take(FRAME_MAX).await
        })
        .await;
        taken.pop();
        assert!(users[4].take(FRAME_MAX).await.is_some());
    }
}
