// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pools, as virtnotifyd told them last, and whether it runs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use virtnotify_wire::StoragePool;

/// How long a call's own change is waited for after its answer: the watch tells both within moments.
const LAG_MAX: Duration = Duration::from_secs(5);
/// How long after a call's connection that of the watch may break, when virtnotifyd ends.
const NOTICE_MAX: Duration = Duration::from_millis(200);

pub(crate) struct Mirror {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pools: Vec<StoragePool>,
    generation: u64,
    up: bool,
    /// When it was there last, or the mirror began.
    since: Instant,
    /// Why it is not up.
    why: Option<String>,
}

impl Mirror {
    /// What is known before virtnotifyd was heard.
    pub(crate) fn new(pools: Vec<StoragePool>) -> Self {
        let (generation, since) = (0, Instant::now());
        let state = State { pools, generation, up: false, since, why: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It told all pools. True if it had not run before.
    pub(crate) fn told(&self, generation: u64, pools: Vec<StoragePool>) -> bool {
        let mut state = self.state();
        let new = !state.up;
        *state = State { pools, generation, up: true, since: state.since, why: None };
        self.changed.notify_all();
        new
    }

    /// It does not run. True if it did before, or for another reason.
    pub(crate) fn lost(&self, why: String) -> bool {
        let mut state = self.state();
        if state.up {
            (state.up, state.since) = (false, Instant::now());
        }
        let news = state.why.as_ref() != Some(&why);
        state.why = Some(why);
        self.changed.notify_all();
        news
    }

    /// Waits until it runs, if it does not for less than `patience`; false if it does not.
    pub(crate) fn wait_until_up(&self, patience: Duration) -> bool {
        let mut state = self.state();
        while !state.up {
            let Some(left) = patience.checked_sub(state.since.elapsed()) else { return false };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until it was heard, which is about to be.
    pub(crate) fn wait_until_heard(&self) {
        self.wait_while(LAG_MAX, |state| !state.up);
    }

    /// Waits until it is known to have ended, after a connection to it broke: both are seen at the same
    /// moment, unless that connection alone has ended.
    pub(crate) fn wait_for_its_end(&self) {
        self.wait_while(NOTICE_MAX, |state| state.up);
    }

    /// Waits until what it told is as new as that.
    pub(crate) fn wait_for(&self, generation: u64) {
        self.wait_while(LAG_MAX, |state| state.up && state.generation < generation);
    }

    fn wait_while(&self, most: Duration, so: impl Fn(&State) -> bool) {
        let waited = self.changed.wait_timeout_while(self.state(), most, |state| so(state));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// All pools that are known.
    pub(crate) fn pools(&self) -> Vec<StoragePool> {
        self.state().pools.clone()
    }

    pub(crate) fn find(&self, is: impl Fn(&StoragePool) -> bool) -> Option<StoragePool> {
        self.state().pools.iter().find(|pool| is(pool)).cloned()
    }

    /// Why it does not run, as far as that is known.
    pub(crate) fn why(&self) -> String {
        self.state().why.clone().unwrap_or_default()
    }
}
