// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where others wake the headroom thread, tell it what they need, and wait for it.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::core::VolumeId;
use super::lock;
use crate::runtime::{Condvar, Mutex, MutexGuard};

/// How an attempt to fill the headroom ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is enough.
    Full,
    /// There is enough for now; the rest comes when nobody grows.
    Later,
    /// The volume group has nothing more.
    Exhausted,
    /// A step failed; it is tried again.
    Failed,
    /// The pool stops.
    Stopped,
}

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waking {
    Kicked,
    TimeOver,
    Stopped,
}

/// Of what that is to go back which nobody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// Of all volumes, and then of the pool.
    Pool,
    /// Of one volume: to the pool.
    Volume(VolumeId),
}

#[derive(Debug, Default)]
struct GateState {
    kicked: bool,
    stop: bool,
    /// Chunks that callers need on top of the usual headroom, together.
    demand: u64,
    /// Of what that is to go back which is not needed.
    reclaim: Option<Reclaim>,
    /// Chunks that the data LV is to have more, in one piece.
    stretch: Option<u64>,
    /// Counts the attempts that began...
    begun: u64,
    /// ... and those that ended.
    round: u64,
    last: Option<Outcome>,
    /// Why the last one that failed did.
    why: String,
}

impl GateState {
    /// How the attempt that a caller waited for ended.
    fn outcome(&self) -> Outcome {
        if self.stop { Outcome::Stopped } else { self.last.unwrap_or(Outcome::Failed) }
    }
}

/// The headroom thread's door.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// How many chunks writes wait for at this moment.
    hungry: AtomicU64,
    /// With fewer clean chunks than this, the headroom is filled at once.
    mark: AtomicU64,
    /// Whether a volume grew a moment ago.
    busy: AtomicBool,
}

impl Gate {
    /// Has the headroom looked at soon.
    pub(crate) fn kick(&self) {
        if !std::mem::replace(&mut lock(&self.state).kicked, true) {
            self.changed.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    /// Asks for `chunks` on top of the headroom, and waits for an attempt to get them.
    pub(crate) fn ask(&self, chunks: u64) -> Outcome {
        let mut state = lock(&self.state);
        state.demand = state.demand.saturating_add(chunks);
        let mut state = self.next_attempt(state);
        state.demand = state.demand.saturating_sub(chunks);
        state.outcome()
    }

    /// Why the last attempt that failed did.
    pub(super) fn why(&self) -> String {
        lock(&self.state).why.clone()
    }

    /// Notes why the attempt fails that is under way.
    pub(super) fn fails(&self, why: String) {
        lock(&self.state).why = why;
    }

    /// Asks for what is not needed to go back, and waits until that was tried.
    pub(super) fn reclaim(&self, of: Reclaim) -> Outcome {
        let mut state = lock(&self.state);
        state.reclaim = Some(of);
        self.next_attempt(state).outcome()
    }

    /// Takes what [`Gate::reclaim`] asked for.
    pub(super) fn take_reclaim(&self) -> Option<Reclaim> {
        lock(&self.state).reclaim.take()
    }

    /// Asks for the data LV to be extended by this many chunks, which lie together then, and waits
    /// until that was tried; says whether the pool works on.
    pub(super) fn stretch(&self, chunks: u64) -> Outcome {
        let mut state = lock(&self.state);
        state.stretch = Some(chunks);
        self.next_attempt(state).outcome()
    }

    /// Takes the chunks that [`Gate::stretch`] asked for.
    pub(super) fn take_stretch(&self) -> Option<u64> {
        lock(&self.state).stretch.take()
    }

    /// Waits for the end of an attempt that begins now or later.
    fn next_attempt<'a>(&self, mut state: MutexGuard<'a, GateState>) -> MutexGuard<'a, GateState> {
        // The attempt that runs now may have begun without what is asked for.
        let goal = state.round + 2;
        while state.round < goal && !state.stop {
            state.kicked = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// How many chunks callers ask for with [`Gate::ask`].
    pub(crate) fn demand(&self) -> u64 {
        lock(&self.state).demand
    }

    /// Says for how many chunks writes wait.
    pub(crate) fn set_hungry(&self, chunks: u64) {
        self.hungry.store(chunks, Ordering::Relaxed);
    }

    pub(crate) fn hungry(&self) -> u64 {
        self.hungry.load(Ordering::Relaxed)
    }

    /// Says below how many clean chunks the headroom has to be filled at once.
    pub(crate) fn set_mark(&self, chunks: u64) {
        self.mark.store(chunks, Ordering::Relaxed);
    }

    pub(crate) fn mark(&self) -> u64 {
        self.mark.load(Ordering::Relaxed)
    }

    /// Says whether a volume grew a moment ago.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    pub(crate) fn busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn stopping(&self) -> bool {
        lock(&self.state).stop
    }

    /// How many attempts have begun: one that begins later has a higher number.
    pub(crate) fn begun(&self) -> u64 {
        lock(&self.state).begun
    }

    /// Begins an attempt; says its number.
    pub(super) fn begin(&self) -> u64 {
        let mut state = lock(&self.state);
        state.begun += 1;
        state.begun
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        state.round += 1;
        state.last = Some(outcome);
        self.changed.notify_all();
    }

    /// Waits for this long at most, and until a kick. `true`: nothing waits for room, and the pool is not
    /// being stopped.
    pub(super) fn pause(&self, limit: Duration) -> bool {
        let state = lock(&self.state);
        let idle = |state: &mut GateState| !state.kicked && !state.stop;
        let waited = self.changed.wait_timeout_while(state, limit, idle);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.stop && state.demand == 0 && self.hungry() == 0
    }

    /// Sleeps until it is kicked.
    pub(super) fn sleep(&self, limit: Duration) -> Waking {
        let state = lock(&self.state);
        let waiting = |state: &mut GateState| !state.kicked && !state.stop;
        let woken = self.changed.wait_timeout_while(state, limit, waiting);
        let (mut state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        let kicked = std::mem::take(&mut state.kicked);
        match (state.stop, kicked) {
            (true, _) => Waking::Stopped,
            (false, true) => Waking::Kicked,
            (false, false) => Waking::TimeOver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_says_whether_others_wait_for_room() {
        let gate = Gate::default();
        assert!(gate.pause(Duration::from_millis(1)), "nobody does");
        gate.kick();
        assert!(gate.pause(Duration::from_secs(3600)), "a kick that is not for room");
        assert_eq!(gate.sleep(Duration::ZERO), Waking::Kicked, "which is not forgotten");
        gate.set_hungry(1);
        assert!(!gate.pause(Duration::ZERO), "a write");
        gate.set_hungry(0);
        gate.stop();
        assert!(!gate.pause(Duration::from_secs(3600)), "the pool ends");
    }
}
