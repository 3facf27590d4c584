// SPDX-License-Identifier: LGPL-2.1-or-later
//! Threads on which the driver does what may block.
//!
//! They are of one pool with all else that may block, such as looking who a client is. While the driver hangs, so do the
//! threads that wait for it: those of users who are not root are so many that enough are left for everyone else.

use std::sync::Arc;

use tokio::task::JoinError;

use crate::turns::Turns;

/// Those of one client.
#[derive(Debug, Clone)]
pub(crate) struct Threads {
    turns: Arc<Turns>,
    uid: u32,
}

impl Threads {
    pub(crate) fn new(turns: &Arc<Turns>, uid: u32) -> Self {
        Self { turns: Arc::clone(turns), uid }
    }

    /// Does something on a thread, when the user's turn has come; root's always has.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = match self.uid {
            0 => None,
            uid => self.turns.next(uid).await,
        };
        let work = move || {
            let done = work();
            // Not before: a thread goes on when its client has hung up.
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await
    }
}
