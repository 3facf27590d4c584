// SPDX-License-Identifier: LGPL-2.1-or-later
//! The headroom thread: keeps zeroed chunks ready, one per pool.
//!
//! It is the only thread that runs LVM for a started pool without being asked. Each step is
//! complete in itself, so it may be killed between any two:
//!
//! - extend the data LV (the new chunks are dirty, and nothing says otherwise);
//! - zero free chunks, flush, then record them as clean;
//! - give the free tail back: forget that it is clean, then reduce the LV.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use virtnotify_model::{BackendError, Bytes, Chunks, Event};

use super::{Shared, lock};
use crate::alloc::Extent;
use crate::lvm::{LvmError, VgReport};
use crate::meta::DATA_START;
use crate::names::{self, META_LV};

/// What one call of zeroing covers at most.
const ZERO_STEP: Bytes = Bytes::mib(16);
/// How long the thread sleeps when nobody wakes it: with enough headroom, when the volume group
/// is full, and after a failure.
const IDLE: Duration = Duration::from_secs(300);
const LOOK_FOR_ROOM: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// The data LV that grows. (Further ones belong to other hosts.)
const LV: u16 = 0;

/// How an attempt to fill the headroom ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is enough.
    Full,
    /// The volume group has nothing more.
    Exhausted,
    /// A step failed; it is tried again.
    Failed,
    /// The pool stops.
    Stopped,
}

#[derive(Debug, Default)]
struct GateState {
    kicked: bool,
    stop: bool,
    /// Chunks that somebody needs on top of the usual headroom.
    demand: u64,
    /// Counts the attempts that began...
    begun: u64,
    /// ... and those that ended.
    round: u64,
    last: Option<Outcome>,
}

/// Where others wake the headroom thread, and wait for it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

impl Gate {
    /// Has the headroom looked at soon.
    pub(crate) fn kick(&self) {
        lock(&self.state).kicked = true;
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    /// Asks for `chunks` on top of the headroom, and waits for an attempt to get them.
    pub(crate) fn ask(&self, chunks: u64) -> Outcome {
        let mut state = lock(&self.state);
        state.demand = state.demand.max(chunks);
        state.kicked = true;
        // The attempt that runs now may have begun without this demand.
        let goal = state.round + 2;
        while state.round < goal && !state.stop {
            state.kicked = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.demand = 0;
        if state.stop { Outcome::Stopped } else { state.last.unwrap_or(Outcome::Failed) }
    }

    fn stopping(&self) -> bool {
        lock(&self.state).stop
    }

    /// How many attempts have begun: one that begins later has a higher number.
    pub(crate) fn begun(&self) -> u64 {
        lock(&self.state).begun
    }

    /// Begins an attempt; says its number.
    fn begin(&self) -> u64 {
        let mut state = lock(&self.state);
        state.begun += 1;
        state.begun
    }

    fn ended(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        state.round += 1;
        state.last = Some(outcome);
        self.changed.notify_all();
    }

    /// Sleeps until somebody kicks; says whether to go on.
    fn sleep(&self, limit: Duration) -> bool {
        let state = lock(&self.state);
        let waiting = |state: &mut GateState| !state.kicked && !state.stop;
        let woken = self.changed.wait_timeout_while(state, limit, waiting);
        let (mut state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        state.kicked = false;
        !state.stop
    }

    fn demand(&self) -> u64 {
        lock(&self.state).demand
    }
}

/// Works until the pool stops.
pub(crate) fn run(shared: &Shared) {
    let mut low = false;
    loop {
        let attempt = shared.gate.begin();
        let outcome = fill(shared, &mut low).unwrap_or_else(|error| {
            tracing::warn!(pool = %shared.name, %error, "the headroom cannot be filled");
            Outcome::Failed
        });
        if outcome == Outcome::Exhausted {
            shared.note(|notes| notes.exhausted = Some(attempt));
        }
        if outcome == Outcome::Full
            && let Err(error) = trim(shared)
        {
            tracing::warn!(pool = %shared.name, %error, "free space cannot be given back");
        }
        shared.gate.ended(outcome);
        let limit = match outcome {
            Outcome::Full => IDLE,
            Outcome::Exhausted => LOOK_FOR_ROOM,
            Outcome::Failed => RETRY,
            Outcome::Stopped => return,
        };
        if !shared.gate.sleep(limit) {
            return;
        }
    }
}

/// Says when the pool's room falls below the low mark; returns whether it is below.
fn tell_low(shared: &Shared, was: bool) -> bool {
    let info = shared.view().info();
    let mark = Bytes(info.capacity.0 / 100 * u64::from(shared.config.low_percent));
    let low = info.available < mark;
    if low && !was {
        let (pool, available) = (shared.name.clone(), info.available);
        shared.emit(Event::SpaceLow { pool, available });
    }
    low
}

/// How many clean chunks there should be.
pub(crate) fn goal(shared: &Shared) -> u64 {
    let chunk = shared.core().chunk();
    let usual = chunk.whole_chunks(shared.config.headroom).0.max(8);
    // A small group is not to be all headroom.
    let limit = chunk.whole_chunks(Bytes(shared.view().info().capacity.0 / 16)).0;
    usual.min(limit.max(1)) + shared.gate.demand()
}

fn fill(shared: &Shared, low: &mut bool) -> Result<Outcome, BackendError> {
    if let Err(error) = extend_metadata(shared) {
        tracing::warn!(pool = %shared.name, %error, "there is little room left for metadata");
    }
    loop {
        if shared.gate.stopping() {
            return Ok(Outcome::Stopped);
        }
        *low = tell_low(shared, *low);
        let goal = goal(shared);
        let (clean, dirty) = {
            let core = shared.core();
            (core.free.clean(), core.free.dirty())
        };
        if clean >= goal {
            return Ok(Outcome::Full);
        }
        if dirty > 0 {
            zero_some(shared, goal - clean)?;
        } else if !extend(shared, goal - clean)? {
            return Ok(Outcome::Exhausted);
        }
    }
}

/// Keeps room for the metadata ahead of the data: a full database doubles, and that must never
/// be what fails. It may double twice before this is asked again.
fn extend_metadata(shared: &Shared) -> Result<(), BackendError> {
    let failed = |e: std::io::Error| BackendError::failed("cannot size the metadata LV", e);
    let length = shared.core().metadata_length();
    let room = |times: u64| Bytes(DATA_START.saturating_add(length.saturating_mul(times)));
    if shared.meta.size().map_err(failed)? >= room(4).0 {
        return Ok(());
    }
    let report = look(shared)?;
    let to = room(8).round_up(report.extent).unwrap_or(room(8));
    shared
        .lvm
        .extend_lv(&shared.vg, META_LV, to)
        .map_err(|e| BackendError::failed(format!("cannot extend '{}/{META_LV}'", shared.vg), e))?;
    let size = shared.meta.size().map_err(failed)?;
    shared.view().set_meta(Bytes(size));
    look(shared).map(drop)
}

/// Zeroes some dirty chunks and records that durably.
fn zero_some(shared: &Shared, wanted: u64) -> Result<(), BackendError> {
    let mut core = shared.core();
    let chunk = core.chunk();
    let limit = chunk.whole_chunks(ZERO_STEP).0.max(1).min(wanted);
    let Some(extent) = core.free.begin_cleaning(limit) else { return Ok(()) };
    drop(core);
    let zeroed = zero(shared, extent);
    let mut core = shared.core();
    if let Err(error) = zeroed {
        core.free.not_cleaned(extent).map_err(|e| core.damage(e))?;
        return Err(BackendError::failed("cannot zero free chunks", error));
    }
    core.free.cleaned(extent).map_err(|e| core.damage(e))?;
    core.commit_free()?;
    shared.view().refresh(&core, &[]);
    drop(core);
    shared.note(|notes| notes.replenished = true);
    Ok(())
}

fn zero(shared: &Shared, extent: Extent) -> std::io::Result<()> {
    let chunk = shared.core().chunk();
    let bytes = |chunks| chunk.bytes_of(Chunks(chunks)).0;
    let Some(device) = shared.data.get(&extent.start.lv) else {
        return Err(std::io::Error::other("there is no such data LV"));
    };
    device.zero(bytes(extent.start.chunk), bytes(extent.length))?;
    device.sync()
}

/// Asks LVM how the group is, and shows it.
pub(crate) fn look(shared: &Shared) -> Result<VgReport, BackendError> {
    let report = shared.lvm.report(&shared.vg).map_err(|error| {
        BackendError::failed(format!("cannot look at the volume group '{}'", shared.vg), error)
    })?;
    shared.view().set_vg(report.size, report.free);
    Ok(report)
}

/// Extends the data LV by what is wanted and a step more, or by all that there is; `false` when
/// there is nothing.
fn extend(shared: &Shared, wanted: u64) -> Result<bool, BackendError> {
    let report = look(shared)?;
    let chunk = shared.core().chunk();
    let name = names::data_lv(LV);
    let Some(lv) = report.lv(&name) else {
        let what = format!("the volume group '{}' has no '{name}' any more", shared.vg);
        return Err(BackendError::Source(what));
    };
    let now = chunk.whole_chunks(lv.size);
    let most = lv.size.saturating_add(report.free);
    if chunk.whole_chunks(most) <= now {
        return Ok(false);
    }
    let step = chunk.whole_chunks(shared.config.step).0.max(wanted);
    let ask = |chunks: u64| chunk.bytes_of(now.saturating_add(Chunks(chunks)));
    let whole = |size: Bytes| size.round_up(report.extent).unwrap_or(size).min(most);
    let mut extended = shared.lvm.extend_lv(&shared.vg, &name, whole(ask(step)));
    if extended.as_ref().is_err_and(LvmError::is_full) {
        // Free extents may be on devices that may not be used: a little may still be had.
        extended = shared.lvm.extend_lv(&shared.vg, &name, whole(ask(1)));
    }
    match extended {
        Ok(()) => {}
        Err(error) if error.is_full() => {
            tracing::warn!(pool = %shared.name, %error, "LVM has free extents and gives none");
            return Ok(false);
        }
        Err(error) => {
            if matches!(error, LvmError::Timeout { .. }) {
                unblock(shared, &name);
            }
            let what = format!("cannot extend '{}/{name}'", shared.vg);
            return Err(BackendError::failed(what, error));
        }
    }
    let size = take_over(shared)?;
    // What LVM would say if it were asked again, which takes it as long as the extension did.
    shared.view().set_vg(report.size, most.saturating_sub(size));
    Ok(true)
}

/// LVM suspends a logical volume for a moment while it changes it. A command that was killed just
/// then leaves it suspended, and every guest of the pool waits.
fn unblock(shared: &Shared, lv: &str) {
    if let Err(error) = shared.lvm.refresh_lv(&shared.vg, lv) {
        tracing::warn!(pool = %shared.name, %error, "a logical volume may be suspended");
    }
}

/// Takes over the size that the data LV has now.
fn take_over(shared: &Shared) -> Result<Bytes, BackendError> {
    let Some(device) = shared.data.get(&LV) else { return Ok(Bytes::ZERO) };
    let size = device.size().map_err(|e| BackendError::failed("cannot size the data LV", e))?;
    let mut core = shared.core();
    let chunks = core.chunk().whole_chunks(Bytes(size)).0;
    core.free.extended(LV, chunks).map_err(|e| core.damage(e))?;
    shared.view().refresh(&core, &[]);
    Ok(Bytes(size))
}

/// Gives the free tail of the data LV back when there is much more than the headroom.
fn trim(shared: &Shared) -> Result<(), BackendError> {
    let goal = goal(shared);
    let mut core = shared.core();
    let chunk = core.chunk();
    let step = chunk.whole_chunks(shared.config.step).0.max(1);
    let surplus = core.free.total().saturating_sub(goal.saturating_add(step / 2));
    let cut = surplus.min(core.free.tail(LV));
    if cut < step {
        return Ok(());
    }
    let keep = core.free.size(LV) - cut;
    core.free.begin_cut(LV, cut).map_err(|e| core.damage(e))?;
    core.commit_free()?;
    drop(core);
    let reduced = reduce(shared, chunk.bytes_of(Chunks(keep)));
    if let Err(error @ LvmError::Timeout { .. }) = reduced {
        // It may still happen: the tail is not used again before the pool is next started.
        unblock(shared, &names::data_lv(LV));
        return Err(BackendError::failed("cannot reduce the data LV", error));
    }
    let size = shared.data.get(&LV).map_or(Ok(0), |device| device.size());
    let size = size.map_err(|e| BackendError::failed("cannot size the data LV", e))?;
    let mut core = shared.core();
    let chunks = chunk.whole_chunks(Bytes(size)).0;
    core.free.tail_cut(LV, cut, chunks).map_err(|e| core.damage(e))?;
    shared.view().refresh(&core, &[]);
    drop(core);
    reduced.map_err(|e| BackendError::failed("cannot reduce the data LV", e))?;
    look(shared).map(drop)
}

fn reduce(shared: &Shared, size: Bytes) -> Result<(), LvmError> {
    let report = shared.lvm.report(&shared.vg)?;
    let to = size.round_up(report.extent).unwrap_or(size);
    shared.lvm.reduce_lv(&shared.vg, &names::data_lv(LV), to)
}
