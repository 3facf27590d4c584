// SPDX-License-Identifier: LGPL-2.1-or-later
//! Chunks that leave a volume while it is in use: what its guest discarded, and, when space is
//! short, what was given ahead and never written. Also what deletes leave to be freed, in parts.
//!
//! ```text
//!   in the map ──"leaving"──▶ has left the kernel ──commit──▶ free ──▶ forgotten by the kernel
//!       ▲                         │ refused: written meanwhile
//!       └─────────────────────────┘
//! ```
//!
//! The kernel's map never has what the metadata lacks: so a chunk leaves the kernel first, and when
//! that has returned no I/O is on its way to it. A daemon that is killed before the commit leaves
//! a hole that the metadata knows as a chunk; it is mapped again, with what the volume itself had
//! there. So until the commit is durable and the kernel is told to forget the chunk, nothing that
//! is written there may be acknowledged, not even zeroes: all of it waits in the kernel.
//!
//! Two marks keep the other threads from undoing that. A chunk that is *leaving* is not mapped
//! again by the thread that serves a write to it: the write waits until the chunk has left or stays. A
//! volume for which a thread is *sending* what it decided about its map gives nothing away until
//! the target has heard it.
//!
//! What was never written is found by looking: the chunks are protected, which holds writes to
//! them, and read. Those that are zeroes leave, and are clean: the disk was flushed after the
//! last write to them and before they were read. A daemon that is killed here leaves chunks
//! protected; the next one ends that when it takes the volume over.

use std::time::Duration;

use nix::errno::Errno;
use virtnotify_model::{BackendError, Bytes, Event};

use super::core::{Core, Durable, Gap, MOST_RUNS, Unwanted, Volume, VolumeId};
use super::{Shared, held, zeroes};
use crate::alloc::Run;
use crate::names;
use crate::runtime::Instant;
use crate::target::{DeviceId, TargetError};

/// How many chunks the target lets go at once, without force.
const MOST_CHUNKS: u64 = 1 << 16;
/// How much is protected and read at once.
const PART: Bytes = Bytes::mib(16);
/// How long discards are worked on before others have a turn, and when a write waits.
const LONG: Duration = Duration::from_millis(200);
const SHORT: Duration = Duration::from_millis(20);

/// What has left a volume.
#[derive(Debug)]
struct Left {
    chunks: u64,
    /// Where that was.
    gone: Vec<Gap>,
}

/// Chunks of one volume that are about to leave it.
#[derive(Debug)]
struct Leaving {
    id: VolumeId,
    device: DeviceId,
    /// First chunk and length of each range.
    ranges: Vec<(u64, u64)>,
    /// What is mapped there.
    runs: Vec<Run>,
}

impl Core {
    /// The next volume of which this is true: each has its turn.
    fn next_turn(&mut self, ready: impl Fn(&Volume) -> bool) -> Option<VolumeId> {
        let behind = self.volumes.range(self.turn + 1..);
        let (&id, _) = behind.chain(&self.volumes).find(|(_, volume)| ready(volume))?;
        self.turn = id;
        Some(id)
    }

    /// The next discards to work on, marked as leaving.
    fn begin_discards(&mut self) -> Option<Leaving> {
        let id = self.next_turn(|volume| volume.gives() && !volume.discarded.is_empty())?;
        let (mut ranges, mut runs) = (Vec::new(), Vec::new());
        while runs.len() < MOST_RUNS
            && let Some((from, length)) =
                self.volumes.get_mut(&id)?.discarded.take_first(MOST_CHUNKS)
        {
            let reach = self.reach(id, from, length, MOST_RUNS - runs.len());
            let before = runs.len();
            let found: Vec<Run> = self.runs(id, from..from + reach).collect();
            runs.extend(found);
            let volume = self.volumes.get_mut(&id)?;
            volume.discarded.insert(from + reach, length - reach);
            if runs.len() > before {
                volume.leaving.insert(from, reach);
                ranges.push((from, reach));
            }
        }
        let device = self.volumes.get(&id)?.device.clone();
        Some(Leaving { id, device, ranges, runs })
    }

    /// Some chunks that were given ahead and may not have been written, of that volume or of any, marked as
    /// leaving.
    fn begin_ahead(&mut self, of: Option<VolumeId>) -> Option<Leaving> {
        let most = self.chunk().whole_chunks(PART).0.max(1);
        let ready = |volume: &Volume| volume.gives() && !volume.ahead.is_empty();
        let id = match of {
            Some(id) => self.volumes.get(&id).is_some_and(ready).then_some(id),
            None => self.next_turn(ready),
        }?;
        let volume = self.volumes.get_mut(&id)?;
        // From the end on: a sequential writer comes from the other side.
        let (from, length) = volume.ahead.take_last(most)?;
        let device = volume.device.clone();
        volume.leaving.insert(from, length);
        let runs = self.runs(id, from..from + length).collect();
        Some(Leaving { id, device, ranges: vec![(from, length)], runs })
    }

    /// These ranges have left the kernel's map, and leave the volume now; the rest of what was
    /// leaving stays.
    fn end_leaving(
        &mut self,
        leaving: &Leaving,
        gone: &[Gap],
        clean: bool,
    ) -> Result<Durable<Left>, BackendError> {
        let marked = |volume: &Volume, &(from, length): &Gap| volume.leaving.covers(from, length);
        let mut gone = gone.to_vec();
        if let Some(volume) = self.volumes.get_mut(&leaving.id) {
            gone.retain(|range| marked(volume, range));
            for &(from, length) in &leaving.ranges {
                volume.leaving.remove(from, length);
            }
        }
        let left = self.change(|txn| {
            let mut chunks = 0;
            for &(from, length) in &gone {
                let runs = txn.unmap(leaving.id, from, length)?;
                chunks += runs.iter().map(|run| run.to.length).sum::<u64>();
                txn.release(&runs, clean)?;
            }
            Ok(Left { chunks, gone })
        })?;
        if left.chunks > 0 {
            self.figures.given_back += left.chunks;
            self.figures.give_back_commits += 1;
        }
        Ok(left)
    }

    /// A volume whose device is gone is no volume any more; what it alone had comes free by
    /// [`Core::collect`].
    pub(crate) fn drop_volume(&mut self, id: VolumeId) -> Result<(), BackendError> {
        self.set_minor(id, None);
        self.change(|txn| {
            txn.drop_volume(id);
            Ok(())
        })
        .map(drop)
    }

    /// A volume without a device shows nothing any more; what it alone had comes free by
    /// [`Core::collect`].
    pub(crate) fn empty(&mut self, id: VolumeId) -> Result<(), BackendError> {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.forget_guest();
        }
        self.change(|txn| {
            let layer = txn.add_layer(None)?;
            txn.set_row(id, |row| row.layer = layer);
            Ok(())
        })
        .map(drop)
    }
}

/// What came of a step of [`discards`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Discards {
    /// How many chunks came free.
    pub(super) freed: u64,
    /// Whether there may be more to do at once.
    pub(super) more: bool,
}

/// Works on some of the discards, for a bounded time.
pub(super) fn discards(shared: &Shared) -> Result<Discards, BackendError> {
    let Some(leaving) = shared.core().begin_discards() else { return Ok(Discards::default()) };
    let (began, mut gone, mut failed) = (Instant::now(), Vec::new(), None);
    // The next one last.
    let mut left: Vec<_> = leaving.ranges.iter().rev().copied().collect();
    while let Some((from, length)) = left.pop() {
        match shared.target.leave(&leaving.device, from, length, false) {
            Ok(()) => gone.push((from, length)),
            // One of them at least has been written since.
            Err(error) if error.errno() == Some(Errno::EBUSY) => {
                let half = length / 2;
                if half > 0 {
                    left.extend([(from + half, length - half), (from, half)]);
                }
            }
            Err(error) => {
                left.push((from, length));
                failed = Some(error);
                break;
            }
        }
        // Each of them waits for I/O, and a write may wait for what has come free already.
        let waited = shared.gate.hungry() > 0;
        let limit = if waited { SHORT } else { LONG };
        if began.elapsed() > limit || (waited && !gone.is_empty()) {
            break;
        }
    }
    // Where that fails, what has left comes back as the metadata has it then: see settle.
    let freed = leave(shared, &leaving, &gone, false);
    if let Some(volume) = shared.core().volume_mut(leaving.id) {
        left.into_iter().for_each(|(from, length)| volume.discarded.insert(from, length));
    }
    let freed = freed?;
    let Some(error) = failed else { return Ok(Discards { freed, more: true }) };
    // A device that goes away, or is about to be resumed; or it has done it, and said otherwise.
    shared.core().unsettle(leaving.id);
    tracing::debug!(pool = %shared.name, %error, "discards stay for later");
    Ok(Discards { freed, more: freed > 0 })
}

/// Makes durable what has left, and lets everybody know.
fn leave(
    shared: &Shared,
    leaving: &Leaving,
    gone: &[Gap],
    clean: bool,
) -> Result<u64, BackendError> {
    let mut core = shared.core();
    let left = core.end_leaving(leaving, gone, clean);
    if let Some(volume) = core.volume_mut(leaving.id) {
        volume.begin_sending();
    }
    shared.view().refresh(&mut core, &[leaving.id]);
    drop(core);
    if let Ok(left) = &left {
        for gap in left.part(|left| left.gone.as_slice()).each() {
            held::forget(shared, leaving.id, &leaving.device, gap);
        }
    }
    // Threads that wait for the volume to be settled go on.
    shared.sent(&[leaving.id]);
    shared.tell_changed(leaving.id);
    // Writes that came to these chunks meanwhile were not answered.
    shared.note(|notes| {
        notes.look_at.insert(leaving.id);
        notes.replenished |= clean;
    });
    left.map(|left| left.chunks)
}

/// Takes back some chunks that were given ahead and never written, of that volume or of any; `false` when there
/// are none.
pub(super) fn unwritten(shared: &Shared, of: Option<VolumeId>) -> Result<bool, BackendError> {
    loop {
        let Some(leaving) = shared.core().begin_ahead(of) else { return Ok(false) };
        let empty = protect_and_look(shared, &leaving);
        let mut gone = Vec::new();
        for &(from, length) in empty.iter().flatten() {
            match shared.target.leave(&leaving.device, from, length, true) {
                Ok(()) => gone.push((from, length)),
                Err(error) => {
                    shared.core().unsettle(leaving.id);
                    tracing::warn!(pool = %shared.name, %error, "an empty chunk stays mapped");
                }
            }
        }
        if let Err(error) = shared.target.protect(&leaving.device, &leaving.ranges, false) {
            tracing::debug!(pool = %shared.name, %error, "chunks stay protected");
        }
        if leave(shared, &leaving, &gone, true)? > 0 {
            return Ok(true);
        }
        if let Err(error) = empty {
            tracing::warn!(pool = %shared.name, %error, "cannot look for unwritten chunks");
        }
    }
}

/// Holds writes to what is leaving, and says which of it is zeroes, durably.
fn protect_and_look(shared: &Shared, leaving: &Leaving) -> Result<Vec<(u64, u64)>, BackendError> {
    let failed = |e: TargetError| BackendError::failed("cannot protect chunks", e);
    let unread = |e: std::io::Error| BackendError::failed("cannot read chunks", e);
    shared.target.protect(&leaving.device, &leaving.ranges, true).map_err(failed)?;
    shared.data.sync().map_err(unread)?;
    let mut empty = crate::alloc::Ranges::default();
    for run in &leaving.runs {
        for n in 0..run.to.length {
            let (at, mut read) = (run.at + n, Bytes::ZERO);
            let chunk = run.part(at, at + 1);
            let is_empty = zeroes::is_empty(shared, chunk, &mut read, &|| false);
            if is_empty.map_err(unread)? == Some(true) {
                empty.insert(at, 1);
            }
        }
    }
    Ok(empty.iter().collect())
}

/// Does a part of what deletes have left to be done; says whether there was any.
pub(super) fn deletes(shared: &Shared) -> Result<bool, BackendError> {
    remove_unwanted(shared);
    drain(shared)?;
    let mut core = shared.core();
    let collected = core.collect()?;
    if !collected.some {
        return Ok(false);
    }
    if let Some(id) = collected.unshared {
        // The kernel still holds writes to what is the volume's alone now.
        core.unsettle(id);
    }
    shared.view().refresh_all(&mut core);
    drop(core);
    shared.emit(Event::VolumesChanged(shared.name.clone()));
    Ok(true)
}

/// Removes the devices of volumes that could not be made: as long as one is there, it shows what it
/// was given.
fn remove_unwanted(shared: &Shared) {
    let unwanted = shared.core().unwanted();
    for (id, Unwanted { name, device, .. }) in unwanted {
        let gone = match shared.target.device(&device) {
            Ok(there) if there.name == names::dm_name(&shared.name, &name) => {
                shared.target.remove(&device).is_ok()
            }
            // Where a group was copied, another pool has a device of this id.
            Ok(_) => true,
            Err(error) => error.is_gone(),
        };
        if gone {
            shared.core().unwanted_is_gone(id);
        }
    }
}

/// Waits for reads that went to a snapshot's chunks before those were copied: what is copied comes free
/// with the snapshot, and others write there.
fn drain(shared: &Shared) -> Result<(), BackendError> {
    let reading = shared.core().to_be_drained();
    for (id, device, took) in reading {
        match shared.target.drain(&device) {
            Err(error) if !error.is_gone() => {
                return Err(BackendError::failed("cannot wait for reads of a snapshot", error));
            }
            _ => shared.core().drained(id, took),
        }
    }
    Ok(())
}
