// SPDX-License-Identifier: LGPL-2.1-or-later
//! The collector thread: moves chunks, one job at a time, while guests use them. One per pool.
//!
//! - *Defragment*: chunks of a layer that follow each other get to lie together ([`super::join`]).
//! - *Reclaim zeroes*: chunks that are all zeroes come back ([`super::zeroes`]).
//! - *Reclaim*: chunks leave the end of the data LV, which the headroom thread then gives back with
//!   all that is not needed.
//! - *Evacuate*: all that the pool has on a physical volume moves to others ([`super::evacuate`]).
//!
//! Guests come first: it moves no more in a second than its budget, and nothing while a write waits
//! for space. Each batch is complete in itself ([`super::relocate`]), so it may be killed at any
//! point; a job that a kill has ended is forgotten.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use virtnotify_model::{BackendError, Bytes, Chunks, Event, JobInfo, JobState, Task, VolumeName};

use super::core::relocate::{Batch, Relocation};
use super::core::{Core, Txn};
use super::gate::Reclaim;
use super::join::{self, Next};
use super::relocate::relocate;
use super::{Shared, evacuate, lock, zeroes};
use crate::alloc::{LayerId, Place, Run};
use crate::runtime::{Condvar, Instant, Mutex};

/// How much moves together at most, and how long a run is that need not become longer.
const BATCH: Bytes = Bytes::mib(16);
/// How long it lets others go first before it looks again.
pub(super) const YIELD: Duration = Duration::from_millis(50);
/// How often it looks for chunks that are being changed before it leaves them out.
pub(super) const MOST_TRIES: u32 = 100;
/// How often others are told how far a job is.
const TELL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    job: Option<JobInfo>,
    cancelled: bool,
    stop: bool,
}

impl State {
    /// The job, if it runs.
    fn running(&self) -> Option<&JobInfo> {
        self.job.as_ref().filter(|job| job.state == JobState::Running)
    }
}

/// The job of a pool.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    state: Mutex<State>,
    changed: Condvar,
}

impl Collector {
    /// The job that runs, or the last one.
    pub(crate) fn job(&self) -> Option<JobInfo> {
        lock(&self.state).job.clone()
    }

    /// Whether a job runs.
    pub(super) fn is_working(&self) -> bool {
        lock(&self.state).running().is_some()
    }

    /// Whether a job runs that has LVM move the pool's logical volumes.
    pub(super) fn evacuates(&self) -> bool {
        lock(&self.state).running().is_some_and(|job| job.task.device().is_some())
    }

    /// Has a job end soon; says whether it runs.
    pub(crate) fn cancel(&self, id: u64) -> bool {
        let mut state = lock(&self.state);
        let runs = state.running().is_some_and(|job| job.id == id);
        state.cancelled |= runs;
        self.changed.notify_all();
        runs
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    /// The next job; `None` when the pool stops.
    fn next(&self) -> Option<JobInfo> {
        let idle = |state: &mut State| !state.stop && state.running().is_none();
        let waited = self.changed.wait_while(lock(&self.state), idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        state.job.clone().filter(|_| !state.stop)
    }

    /// Whether the pool stops.
    pub(super) fn stops(&self) -> bool {
        lock(&self.state).stop
    }

    /// Whether the job is to end.
    pub(super) fn ends(&self) -> bool {
        let state = lock(&self.state);
        state.cancelled || state.stop
    }

    /// Waits, but not when the job is to end.
    pub(super) fn pause(&self, limit: Duration) {
        let goes_on = |state: &mut State| !state.cancelled && !state.stop;
        drop(self.changed.wait_timeout_while(lock(&self.state), limit, goes_on));
    }

    /// Waits, unless the pool stops.
    pub(super) fn rest(&self, limit: Duration) {
        let goes_on = |state: &mut State| !state.stop;
        drop(self.changed.wait_timeout_while(lock(&self.state), limit, goes_on));
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut JobInfo)) {
        if let Some(job) = &mut lock(&self.state).job {
            change(job);
        }
    }
}

impl Shared {
    /// Begins a job of this number.
    pub(crate) fn start_job(&self, id: u64, task: &Task) -> Result<(), BackendError> {
        if let Some(volume) = task.volume() {
            self.core().find(volume)?;
        }
        if let Some(device) = task.device() {
            evacuate::check(self, device)?;
        }
        let runs = self.count_runs(task);
        let job = JobInfo {
            id,
            pool: self.name.clone(),
            task: task.clone(),
            state: JobState::Running,
            began: std::time::SystemTime::now(),
            looked: Bytes::ZERO,
            to_look: Bytes::ZERO,
            moved: Bytes::ZERO,
            total: Bytes::ZERO,
            runs_before: runs,
            runs,
            freed: Bytes::ZERO,
            to_group: Bytes::ZERO,
        };
        let mut state = lock(&self.collector.state);
        if let Some(other) = state.running() {
            return Err(BackendError::Refused(format!(
                "the job {} of the pool '{}' runs: {}; cancel it, or wait for its end",
                other.id,
                self.name,
                other.task.name()
            )));
        }
        (state.job, state.cancelled) = (Some(job), false);
        drop(state);
        self.collector.changed.notify_all();
        self.tell_job(id);
        Ok(())
    }

    fn tell_job(&self, id: u64) {
        self.emit(Event::JobChanged { pool: self.name.clone(), id });
    }

    /// The layers that a job is about.
    fn layers_of(&self, task: &Task) -> Vec<LayerId> {
        let core = self.core();
        match task.volume() {
            Some(volume) => core.find(volume).map(|id| core.layers_below(id)).unwrap_or_default(),
            None => core.live_layers(),
        }
    }

    /// How many runs the layers have that a job is about.
    fn count_runs(&self, task: &Task) -> u64 {
        let layers = self.layers_of(task);
        let core = self.core();
        layers.into_iter().map(|layer| core.layer_runs(layer).count() as u64).sum()
    }
}

/// Works until the pool stops.
pub(super) fn run(shared: &Shared) {
    while let Some(job) = shared.collector.next() {
        let mut work = Work { shared, job: &job, told: Instant::now(), stretched: false };
        let done = work.run();
        let state = match done {
            Err(error) => JobState::Failed(error.to_string()),
            Ok(()) if shared.collector.ends() => JobState::Cancelled,
            Ok(()) => JobState::Done,
        };
        if let JobState::Failed(error) = &state {
            tracing::warn!(pool = %shared.name, job = job.task.name(), error, "a job has failed");
        }
        let runs = shared.count_runs(&job.task);
        shared.collector.change(|job| (job.state, job.runs) = (state, runs));
        shared.tell_job(job.id);
        // What the job kept goes back to the group.
        shared.gate.kick();
    }
}

/// A job that runs.
pub(super) struct Work<'a> {
    pub(super) shared: &'a Shared,
    job: &'a JobInfo,
    told: Instant,
    /// Whether more room was asked for in vain.
    stretched: bool,
}

impl Work<'_> {
    fn run(&mut self) -> Result<(), BackendError> {
        match &self.job.task {
            Task::Defragment(_) => self.defragment(),
            Task::Reclaim(None) => self.reclaim(),
            Task::Reclaim(Some(volume)) => self.reclaim_of(volume),
            Task::ReclaimZeroes(None) => self.take_back_zeroes().and_then(|()| self.reclaim()),
            Task::ReclaimZeroes(Some(volume)) => {
                self.take_back_zeroes().and_then(|()| self.reclaim_of(volume))
            }
            Task::Evacuate(device) => self.evacuate(device),
        }
    }

    /// How many chunks move together.
    fn batch(&self) -> u64 {
        self.shared.chunk.whole_chunks(BATCH).0.max(2)
    }

    /// Waits while writes wait for space; says whether to go on.
    pub(super) fn goes_on(&self) -> bool {
        while self.shared.gate.hungry() > 0 && !self.shared.collector.ends() {
            self.shared.collector.pause(YIELD);
        }
        !self.shared.collector.ends()
    }

    /// Moves a batch, and waits for as long as the budget says.
    fn relocate(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let shared = self.shared;
        let began = Instant::now();
        let moved = relocate(shared, batch, &|| self.stops())?;
        let moved = shared.chunk.bytes_of(Chunks(moved));
        shared.collector.change(|job| job.moved = job.moved.saturating_add(moved));
        self.tell();
        self.pace(moved, began);
        Ok(())
    }

    /// Whether others need the disk, or the job is not wanted any more.
    fn stops(&self) -> bool {
        self.shared.gate.hungry() > 0 || self.shared.collector.ends()
    }

    /// Says now and then how far the job is.
    pub(super) fn tell(&mut self) {
        let shared = self.shared;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let runs = shared.count_runs(&self.job.task);
            shared.collector.change(|job| job.runs = runs);
            shared.tell_job(self.job.id);
        }
    }

    /// Waits as long as the budget says after this much was copied or read since then.
    pub(super) fn pace(&self, done: Bytes, began: Instant) {
        let shared = self.shared;
        let micros = done.0.saturating_mul(1_000_000) / shared.config.collector_budget.0.max(1);
        let pace = Duration::from_micros(micros);
        shared.collector.pause(pace.saturating_sub(began.elapsed()));
    }

    fn defragment(&mut self) -> Result<(), BackendError> {
        let layers = self.shared.layers_of(&self.job.task);
        let total: u64 = {
            let core = self.shared.core();
            layers.iter().map(|&layer| join::total(core.layer_runs(layer), self.batch())).sum()
        };
        let total = self.shared.chunk.bytes_of(Chunks(total));
        self.shared.collector.change(|job| job.total = total);
        layers.into_iter().try_for_each(|layer| self.join(layer))
    }

    /// Joins the runs of a layer.
    fn join(&mut self, layer: LayerId) -> Result<(), BackendError> {
        let (mut at, mut length, mut tries) = (0, self.batch(), 0);
        while self.goes_on() {
            let spare = self.shared.gate.mark();
            let next = join::begin(&mut self.shared.core(), layer, at, length, spare)?;
            match next {
                Next::End => break,
                Next::Batch(batch, end) => {
                    self.relocate(&batch)?;
                    (at, length, tries) = (end, self.batch(), 0);
                }
                Next::Skip(end) => (at, length, tries) = (end, self.batch(), 0),
                Next::Busy(end) => {
                    tries += 1;
                    self.shared.collector.pause(YIELD);
                    if tries >= MOST_TRIES {
                        (at, tries) = (end, 0);
                    }
                }
                Next::NoRoom(want, end) => {
                    let more = !self.stretched && self.stretch(want);
                    self.stretched |= !more;
                    // Less at once may have room.
                    if !more && length / 2 >= 2 {
                        length /= 2;
                    } else if !more {
                        (at, length) = (end, self.batch());
                    }
                }
            }
        }
        Ok(())
    }

    /// Has a data LV extended, if the group has room; says whether it was.
    fn stretch(&self, chunks: u64) -> bool {
        let size = || self.shared.core().free.all();
        let before = size();
        self.shared.gate.stretch(chunks);
        size() > before
    }

    fn take_back_zeroes(&mut self) -> Result<(), BackendError> {
        let layers = self.shared.layers_of(&self.job.task);
        let chunks: u64 = {
            let core = self.shared.core();
            let runs = layers.iter().flat_map(|&layer| core.layer_runs(layer));
            runs.map(|run| run.to.length).sum()
        };
        let to_look = self.shared.chunk.bytes_of(Chunks(chunks));
        self.shared.collector.change(|job| job.to_look = to_look);
        layers.into_iter().try_for_each(|layer| self.look_for_zeroes(layer))
    }

    /// Reads the chunks of a layer, and takes back those that are all zeroes.
    fn look_for_zeroes(&mut self, layer: LayerId) -> Result<(), BackendError> {
        let (shared, mut next) = (self.shared, Some(0));
        while let Some(from) = next
            && self.goes_on()
        {
            let began = Instant::now();
            let (runs, behind) = shared.core().quiet_runs(layer, from, self.batch());
            let seen = zeroes::read(shared, &runs, &|| self.stops());
            let seen = seen.map_err(|e| BackendError::failed("chunks cannot be read", e))?;
            next = seen.stopped_at.or(behind);
            let looked = shared.chunk.bytes_of(Chunks(seen.chunks));
            shared.collector.change(|job| job.looked = job.looked.saturating_add(looked));
            self.tell();
            self.pace(seen.read, began);
            if !seen.empty.is_empty() && !self.take_back(layer, &seen.empty)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes back chunks of a layer that were read as zeroes. `false`: others keep changing its volumes.
    fn take_back(&mut self, layer: LayerId, runs: &[Run]) -> Result<bool, BackendError> {
        let (shared, mut tries) = (self.shared, 0);
        while tries < MOST_TRIES && self.goes_on() {
            let began = Instant::now();
            let begun = shared.core().begin_emptying(layer, runs.to_vec());
            let Some(empty) = begun else {
                tries += 1;
                shared.collector.pause(YIELD);
                continue;
            };
            let taken = zeroes::take_back(shared, &empty, &|| self.stops())?;
            let freed = shared.chunk.bytes_of(Chunks(taken.chunks));
            shared.collector.change(|job| job.freed = job.freed.saturating_add(freed));
            self.pace(taken.read, began);
            if !taken.stopped {
                return Ok(true);
            }
        }
        Ok(tries < MOST_TRIES)
    }

    /// Takes back what a volume was given and never wrote, and what it discarded. What grows, or is settled,
    /// gives nothing at that moment.
    fn reclaim_of(&self, volume: &VolumeName) -> Result<(), BackendError> {
        let id = self.shared.core().find(volume)?;
        let is_left = || self.shared.core().volume(id).is_some_and(|v| !v.ahead.is_empty());
        for _ in 0..MOST_TRIES {
            if !self.goes_on() {
                break;
            }
            self.take_back_unwritten(Reclaim::Volume(id))?;
            if !is_left() {
                break;
            }
            self.shared.collector.pause(YIELD);
        }
        Ok(())
    }

    fn take_back_unwritten(&self, of: Reclaim) -> Result<(), BackendError> {
        let freed = self.shared.reclaim(of)?;
        self.shared.collector.change(|job| job.freed = job.freed.saturating_add(freed));
        Ok(())
    }

    pub(super) fn reclaim(&mut self) -> Result<(), BackendError> {
        let shared = self.shared;
        let before = shared.view().group_free();
        self.take_back_unwritten(Reclaim::Pool)?;
        let total = {
            let core = shared.core();
            let end = end_of_data(&core, shared.gate.mark());
            beyond(&core, end).iter().map(|(_, run)| run.to.length).sum()
        };
        let total = shared.chunk.bytes_of(Chunks(total));
        shared.collector.change(|job| job.total = total);
        let mut tries = 0;
        while tries < MOST_TRIES && self.goes_on() {
            let begun = {
                let mut core = shared.core();
                let end = end_of_data(&core, shared.gate.mark());
                begin_compacting(&mut core, end, self.batch())?
            };
            match begun {
                Begun::Batch(batch) => {
                    self.relocate(&batch)?;
                    tries = 0;
                }
                Begun::Busy => {
                    tries += 1;
                    shared.collector.pause(YIELD);
                }
                Begun::Nothing => break,
            }
        }
        if !shared.collector.ends() {
            shared.reclaim(Reclaim::Pool)?;
        }
        let to_group = shared.view().group_free().saturating_sub(before);
        shared.collector.change(|job| job.to_group = to_group);
        Ok(())
    }
}

/// Where the data could end if all free chunks but the headroom lay behind it.
fn end_of_data(core: &Core, headroom: u64) -> Place {
    Place { lv: 0, chunk: core.free.used().saturating_add(headroom) }
}

/// Runs that lie beyond a place, on its data LV or on a later one: the last ones first.
fn beyond(core: &Core, end: Place) -> Vec<(LayerId, Run)> {
    let mut runs = Vec::new();
    for layer in core.live_layers() {
        for run in core.layer_runs(layer).filter(|run| run.to.end() > end) {
            let before = match run.to.start.lv == end.lv {
                true => end.chunk.saturating_sub(run.to.start.chunk),
                false => 0,
            };
            runs.push((layer, run.part(run.at + before, run.end())));
        }
    }
    runs.sort_by_key(|(_, run)| std::cmp::Reverse(run.to.start));
    runs
}

/// How a step of compacting begins.
enum Begun {
    Batch(Batch),
    /// All that has to move is being changed.
    Busy,
    Nothing,
}

/// Begins to move some of what lies beyond a place to free space before it.
fn begin_compacting(core: &mut Core, end: Place, most: u64) -> Result<Begun, BackendError> {
    let mut by_layer: BTreeMap<LayerId, Vec<Run>> = BTreeMap::new();
    let mut order = Vec::new();
    for (layer, run) in beyond(core, end) {
        let runs = by_layer.entry(layer).or_default();
        if runs.is_empty() {
            order.push(layer);
        }
        runs.push(run);
    }
    let mut busy = false;
    for layer in order {
        let runs = by_layer.remove(&layer).unwrap_or_default();
        if !core.can_relocate(layer) {
            busy = true;
            continue;
        }
        let (moving, quiet): (Vec<Run>, Vec<Run>) =
            runs.into_iter().partition(core.in_motion(layer));
        busy |= !moving.is_empty();
        if let Some(batch) = core.begin_relocating(layer, |txn| pack(txn, &quiet, end, most))? {
            return Ok(Begun::Batch(batch));
        }
    }
    Ok(if busy { Begun::Busy } else { Begun::Nothing })
}

/// Takes room before a place for these runs, `most` chunks at most.
fn pack(txn: &mut Txn<'_>, runs: &[Run], end: Place, most: u64) -> Vec<Relocation> {
    let (mut relocations, mut left) = (Vec::new(), most);
    for run in runs {
        let mut at = run.at;
        while at < run.end() && left > 0 {
            let want = (run.end() - at).min(left);
            let Some(piece) = txn.take_first_to_fill(end, want) else { return relocations };
            relocations.push(Relocation { run: run.part(at, at + piece.length), to: piece.start });
            at += piece.length;
            left -= piece.length;
        }
    }
    relocations
}
