// SPDX-License-Identifier: LGPL-2.1-or-later
//! The headroom thread: keeps zeroed chunks ready, one per pool.
//!
//! It is the only thread that runs LVM for a started pool without being asked. Each step is
//! complete in itself, so it may be killed between any two:
//!
//! - extend the data LV (the new chunks are dirty, and nothing says otherwise);
//! - zero free chunks, flush, then record them as clean;
//! - take chunks back that were discarded or never written ([`giveback`]);
//! - give the free tail back: forget that it is clean, then reduce the LV.
//!
//! Zeroing costs the host's processors and disks what guests could use, so it waits until no volume
//! grows, unless less than half of the headroom is left, or a write waits. Then what writes wait
//! for is zeroed first.

use std::time::{Duration, SystemTime};

use virtnotify_model::{AtLowMark, BackendError, Bytes, Chunks, Event, PoolInfo};

use super::core::Core;
use super::gate::{Outcome, Reclaim, Waking};
use super::plan::{Meter, Plan, Terms, plan};
use super::{Shared, giveback, recover, relocate, room, settle};
use crate::alloc::{Extent, Place};
use crate::runtime::Instant;

/// The most that one call of zeroing covers.
const ZERO_STEP: Bytes = Bytes::mib(16);
/// The most chunks in a row that cannot be zeroed without the disk itself being at fault.
const MOST_SPOILT: usize = 4;
/// How long the thread sleeps unless it is woken: with enough headroom, when the volume group is
/// full, and after a failure.
const IDLE: Duration = Duration::from_secs(300);
const LOOK_FOR_ROOM: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
/// How often it looks meanwhile whether the volume group was changed, which costs nothing.
const GLANCE: Duration = Duration::from_secs(10);
const GLANCE_FOR_ROOM: Duration = Duration::from_secs(1);

/// The headroom thread's own state.
struct Filler<'a> {
    shared: &'a Shared,
    meter: Meter,
    low: bool,
    /// The numbers of the pool that were last told.
    told: Option<PoolInfo>,
    /// When LVM last wrote its backup of the group's metadata, as of our last look at the group.
    /// What we change ourselves is looked at as well, when all is quiet.
    stamp: Option<SystemTime>,
    /// When LVM was last asked how the group is.
    looked: Instant,
    mending: recover::Mending,
    cut: room::Cut,
    /// Chunks that could not be zeroed since one could, and why.
    spoilt: Vec<(Place, std::io::Error)>,
}

/// Works until the pool stops.
pub(crate) fn run(shared: &Shared) {
    let now = Instant::now();
    let (meter, mending) = (Meter::new(now), recover::Mending::default());
    let (cut, spoilt) = (room::Cut::default(), Vec::new());
    let (low, told, stamp, looked) = (false, None, None, now);
    let mut filler = Filler { shared, meter, low, told, stamp, looked, mending, cut, spoilt };
    while filler.round() {}
}

impl Filler<'_> {
    /// One attempt, and a sleep; says whether to go on.
    fn round(&mut self) -> bool {
        let shared = self.shared;
        let attempt = shared.gate.begin();
        let outcome = self.attempt();
        if outcome == Outcome::Exhausted {
            shared.note(|notes| notes.exhausted = Some(attempt));
        }
        let enough = matches!(outcome, Outcome::Full | Outcome::Later);
        let mut unfinished = false;
        let mut more = enough
            && (self
                .done("take back what was discarded", giveback::discards(shared).map(|d| d.more))
                || {
                    let deletes = giveback::deletes(shared);
                    unfinished = deletes.is_err();
                    self.done("finish a delete", deletes)
                });
        if outcome == Outcome::Full && !more && !shared.collector.is_working() {
            let plan = self.plan();
            let trimmed = room::trim(shared, plan, &mut self.cut);
            more = self.done("give back free space", trimmed);
        }
        if let Some(chunks) = shared.gate.take_stretch() {
            let step = self.plan().step;
            let extended = self.cut.end(shared).and_then(|()| room::extend(shared, chunks, step));
            self.done("make room in one piece", extended.map(|_| false));
        }
        if let Some(of) = shared.gate.take_reclaim() {
            let reclaimed = self.reclaim(of);
            self.done("take back what is not needed", reclaimed.map(|()| false));
        }
        shared.gate.ended(outcome);
        self.tell_changed();
        match outcome {
            Outcome::Stopped => false,
            _ if unfinished || self.is_needed() => self.rest(RETRY, RETRY),
            _ if more => true,
            Outcome::Full | Outcome::Later => self.rest(IDLE, GLANCE),
            // Where LVM keeps no backups, a glance shows nothing.
            Outcome::Exhausted if self.stamp.is_none() => self.rest(LOOK_FOR_ROOM, GLANCE_FOR_ROOM),
            Outcome::Exhausted => self.rest(LOOK_AGAIN, GLANCE_FOR_ROOM),
            Outcome::Failed => self.rest(RETRY, RETRY),
        }
    }

    /// Whether something waits that could not be done yet.
    fn is_needed(&self) -> bool {
        let shared = self.shared;
        settle::is_needed(shared)
            || shared.core().has_vacated()
            || !shared.data.unknown().is_empty()
            || shared.data.has_left_over()
    }

    /// Tells when the pool's numbers have changed.
    fn tell_changed(&mut self) {
        let info = self.shared.view().info();
        if self.told.replace(info) != Some(info) {
            self.shared.emit(Event::PoolChanged(self.shared.name.clone()));
        }
    }

    /// Takes back all chunks that were given and never written, and, for all volumes, gives the group what is
    /// beyond the headroom. Ends when a write waits: that goes before.
    fn reclaim(&mut self, of: Reclaim) -> Result<(), BackendError> {
        let shared = self.shared;
        let volume = match of {
            Reclaim::Pool => None,
            Reclaim::Volume(id) => Some(id),
        };
        while shared.gate.hungry() == 0 && !shared.gate.stopping() {
            let more = giveback::discards(shared)?.more
                || giveback::deletes(shared)?
                || giveback::unwritten(shared, volume)?;
            if !more && volume.is_some() {
                return Ok(());
            }
            if !more {
                let plan = self.plan();
                if !room::trim(shared, Plan { step: 1, ..plan }, &mut self.cut)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn attempt(&mut self) -> Outcome {
        let shared = self.shared;
        if shared.core().is_broken() {
            // With a part of the data LV in hand the metadata cannot be opened again.
            let ended = self.cut.end(shared).map(|()| true);
            self.done("find out how large the data LV is", ended);
        }
        if !self.mending.mend(shared) {
            shared.gate.fails("the metadata cannot be written at this moment".to_owned());
            return if shared.gate.stopping() { Outcome::Stopped } else { Outcome::Failed };
        }
        settle::all(shared);
        let freed = relocate::free_vacated(shared, Duration::ZERO);
        self.done("free what chunks have left", freed);
        let taken = room::take_unused(shared).map(|()| false);
        self.done("use a data LV that is there", taken);
        let filled = self.fill().and_then(|outcome| {
            // Chunks that were zeroed while a write waited, and were not taken.
            shared.core().commit_free()?;
            Ok(outcome)
        });
        filled.unwrap_or_else(|error| {
            tracing::warn!(pool = %shared.name, %error, "the headroom cannot be filled");
            shared.gate.fails(error.to_string());
            Outcome::Failed
        })
    }

    /// A step that may fail without harm to the others.
    fn done(&self, step: &str, result: Result<bool, BackendError>) -> bool {
        result.unwrap_or_else(|error| {
            tracing::warn!(pool = %self.shared.name, %error, "cannot {step}");
            false
        })
    }

    /// Sleeps until there is something to do; says whether to go on.
    fn rest(&mut self, limit: Duration, glance: Duration) -> bool {
        let began = Instant::now();
        loop {
            let left = limit.saturating_sub(began.elapsed());
            match self.shared.gate.sleep(left.min(glance)) {
                Waking::Stopped => return false,
                Waking::Kicked => return true,
                Waking::TimeOver if self.shared.core().is_broken() => return true,
                Waking::TimeOver if left > glance && self.stamp_now() == self.stamp => {}
                Waking::TimeOver => {
                    self.look();
                    return true;
                }
            }
        }
    }

    /// When LVM last wrote its backup of the group's metadata, which it does at each change.
    fn stamp_now(&self) -> Option<SystemTime> {
        let path = self.shared.config.lvm_backup.join(self.shared.vg.as_str());
        std::fs::metadata(path).and_then(|data| data.modified()).ok()
    }

    /// Asks LVM how the group is.
    fn look(&mut self) {
        self.looked = Instant::now();
        self.stamp = self.stamp_now();
        let looked = room::look(self.shared);
        self.done("look at the volume group", looked.map(|_| false));
    }

    /// How much headroom there should be now.
    fn plan(&mut self) -> Plan {
        let shared = self.shared;
        self.meter.sample(shared.core().figures().chunks, Instant::now());
        let config = &shared.config;
        let terms = Terms {
            chunk: shared.chunk,
            group: shared.view().info().capacity,
            chosen: config.headroom,
            most: config.headroom_limit,
            step: config.step,
        };
        let burst = self.meter.burst(Instant::now());
        let mut plan = plan(&terms, self.meter.while_extending(), burst);
        shared.gate.set_mark(plan.mark);
        plan.goal += shared.gate.demand();
        plan
    }

    fn fill(&mut self) -> Result<Outcome, BackendError> {
        let shared = self.shared;
        if let Err(error) = room::extend_metadata(shared) {
            tracing::warn!(pool = %shared.name, %error, "there is little room left for metadata");
        }
        loop {
            if shared.gate.stopping() {
                return Ok(Outcome::Stopped);
            }
            self.low = tell_low(shared, self.low);
            let plan = self.plan();
            let (clean, dirty) = {
                let core = shared.core();
                (core.free.clean(), core.free.dirty())
            };
            let needed = shared.gate.hungry().max(shared.gate.demand());
            if clean >= plan.goal {
                return Ok(Outcome::Full);
            }
            if needed == 0 && clean >= plan.mark && shared.gate.busy() {
                return Ok(Outcome::Later);
            }
            let wanted = plan.goal - clean;
            if dirty > 0 {
                self.zero_some(wanted)?;
                continue;
            }
            // Discards that free nothing hold up no waiting write.
            let discards = giveback::discards(shared)?;
            let more = discards.freed > 0
                || giveback::deletes(shared)?
                || self.extend(wanted, plan.step)?
                || discards.more
                || (needed > 0 && giveback::unwritten(shared, None)?);
            if !more {
                return Ok(Outcome::Exhausted);
            }
        }
    }

    /// Extends the data LV; `false` when there is nothing in the group.
    fn extend(&mut self, wanted: u64, step: u64) -> Result<bool, BackendError> {
        let shared = self.shared;
        let waited = shared.gate.hungry() > 0 || shared.gate.demand() > 0;
        if !waited && !room::known_room(shared) && self.looked.elapsed() < LOOK_FOR_ROOM {
            return Ok(false);
        }
        self.cut.end(shared)?;
        let (began, stamp) = (Instant::now(), self.stamp_now());
        let extended = room::extend(shared, wanted, step)?;
        match extended {
            room::Extended::Directly => {
                let now = Instant::now();
                self.meter.extended(wanted.max(step), now.saturating_duration_since(began), now);
            }
            _ => (self.looked, self.stamp) = (Instant::now(), stamp),
        }
        Ok(extended != room::Extended::NoRoom)
    }

    /// Zeroes some dirty chunks and records that durably.
    fn zero_some(&mut self, wanted: u64) -> Result<(), BackendError> {
        let shared = self.shared;
        let step = shared.chunk.whole_chunks(ZERO_STEP).0.max(1).min(wanted);
        // What writes wait for comes first.
        let limit = match shared.gate.hungry() {
            0 => step,
            hungry => hungry.min(step),
        };
        let Some(extent) = shared.core().free.begin_cleaning(limit) else { return Ok(()) };
        let began = Instant::now();
        if zero(shared, extent).is_err() {
            return self.zero_each(extent);
        }
        self.tell_spoilt();
        let mut core = shared.core();
        core.free.cleaned(extent).map_err(|e| core.damage(e))?;
        // The commit of a growth that waits for these chunks records the rest of them as well.
        if shared.gate.hungry() == 0 {
            core.commit_free()?;
        }
        shared.view().refresh(&mut core, &[]);
        drop(core);
        self.meter.zeroed(began.elapsed());
        shared.note(|notes| notes.replenished = true);
        Ok(())
    }
}

/// Those of these chunks that come after `done` of them were not zeroed.
fn put_back(core: &mut Core, extent: Extent, done: u64) -> Result<(), BackendError> {
    let rest = Extent { start: extent.start.after(done), length: extent.length - done };
    match rest.length {
        0 => Ok(()),
        _ => core.free.not_cleaned(rest).map_err(|e| core.damage(e)),
    }
}

impl Filler<'_> {
    /// Zeroes these chunks one by one, because they cannot be zeroed together: those that cannot
    /// be are left out. When nothing can be, it is not these chunks, and all of them are tried again.
    fn zero_each(&mut self, extent: Extent) -> Result<(), BackendError> {
        let shared = self.shared;
        for n in 0..extent.length {
            let start = extent.start.after(n);
            let chunk = Extent { start, length: 1 };
            let zeroed = zero(shared, chunk);
            let mut core = shared.core();
            let Err(error) = zeroed else {
                core.free.cleaned(chunk).map_err(|e| core.damage(e))?;
                if let Err(error) = core.commit_free() {
                    // With nothing in hand the metadata can be opened again.
                    put_back(&mut core, extent, n + 1)?;
                    return Err(error);
                }
                shared.view().refresh(&mut core, &[]);
                drop(core);
                self.tell_spoilt();
                shared.note(|notes| notes.replenished = true);
                continue;
            };
            if self.spoilt.len() < MOST_SPOILT {
                core.free.spoilt(chunk).map_err(|e| core.damage(e))?;
                self.spoilt.push((start, error));
                continue;
            }
            put_back(&mut core, extent, n)?;
            core.free.retry_spoilt().map_err(|e| core.damage(e))?;
            self.spoilt.clear();
            return Err(BackendError::failed("cannot zero free chunks", error));
        }
        Ok(())
    }

    /// Others could be zeroed, so it is these chunks.
    fn tell_spoilt(&mut self) {
        for (Place { lv, chunk }, error) in self.spoilt.drain(..) {
            let what = format!("chunk {chunk} of data LV {lv} cannot be written, and is left out");
            self.shared.damage(format!("{what}: {error}"));
        }
    }
}

/// Says when the pool's room falls below the low mark; returns whether it is below.
fn tell_low(shared: &Shared, was: bool) -> bool {
    let info = shared.view().info();
    let policy = shared.policy();
    let low = info.available < policy.low_mark.of(info.capacity);
    if low && !was && policy.at_low_mark != AtLowMark::Nothing {
        let (pool, available) = (shared.name.clone(), info.available);
        tracing::warn!(%pool, "the space is low: {available} is left");
        shared.emit(Event::SpaceLow { pool, available });
    }
    low
}

fn zero(shared: &Shared, extent: Extent) -> std::io::Result<()> {
    let bytes = |chunks| shared.chunk.bytes_of(Chunks(chunks)).0;
    let Some(device) = shared.data.get(extent.start.lv) else {
        return Err(std::io::Error::other("there is no such data LV"));
    };
    device.zero(bytes(extent.start.chunk), bytes(extent.length))?;
    device.sync()
}
