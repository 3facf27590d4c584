// SPDX-License-Identifier: LGPL-2.1-or-later
//! What volumes ask for, and what they get: all that wait at one moment in one commit.

use std::collections::{BTreeMap, BTreeSet};

use virtnotify_model::{BackendError, GrowthLimits};

use super::{Copy, Core, Durable, Gap, MOST_RUNS, Txn, VolumeId};
use crate::alloc::{Extent, Run, Vacated};
use crate::grow::policy;
use crate::target::{ChunkState, MappedRun, Wish};

/// What [`Core::grow`] did.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// How much a volume gets at a time.
    limits: GrowthLimits,
    /// What to send to the target, per volume.
    pub(crate) maps: BTreeMap<VolumeId, Vec<MappedRun>>,
    /// How many chunks each volume got.
    pub(crate) grown: BTreeMap<VolumeId, u64>,
    /// Volumes with writes that still wait, and the number of chunks they wait for.
    pub(crate) unmet: BTreeMap<VolumeId, u64>,
    /// How many of those chunks a write waited for.
    pub(crate) held: u64,
    /// Chunks that are protected, and for no reason that this daemon knows.
    pub(crate) unprotect: Vec<(VolumeId, u64)>,
    /// Whether a guest discarded something.
    pub(crate) discards: bool,
    /// Chunks of snapshots that are to be copied before they are written.
    pub(crate) copies: Vec<Copy>,
    /// The same, to look them up.
    copied: BTreeSet<(VolumeId, u64)>,
    /// Chunks of snapshots that a guest discarded, and that are holes here now.
    pub(crate) holes: Vec<(VolumeId, Gap)>,
}

/// What [`Core::preallocate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preallocated {
    /// What to send to the target, if the volume has a device.
    pub(crate) runs: Vec<MappedRun>,
    /// How many chunks are still missing.
    pub(crate) missing: u64,
    /// Whether that is because others have to have a turn.
    pub(crate) partly: bool,
}

impl Core {
    /// Answers what volumes ask for: allocates, and makes all of it durable in one commit.
    pub(crate) fn grow(
        &mut self,
        asks: &[(VolumeId, Vec<Wish>)],
        limits: GrowthLimits,
    ) -> Result<Durable<Growth>, BackendError> {
        let growth = self.change(|txn| {
            let mut growth = Growth { limits, ..Growth::default() };
            for (id, wishes) in asks {
                // What has been discarded needs nothing ahead of it.
                let (discards, others): (Vec<Wish>, Vec<Wish>) =
                    wishes.iter().partition(|wish| matches!(wish, Wish::Discarded(_)));
                for wish in discards.into_iter().chain(others) {
                    txn.answer(*id, wish, &mut growth)?;
                }
            }
            Ok(growth)
        })?;
        // Until the target has heard of it, none of this may be taken away again.
        for id in growth.told() {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.begin_sending();
            }
        }
        self.begin_copying(&growth.copies);
        self.figures.growths += growth.grown.len() as u64;
        self.figures.held += growth.held;
        self.figures.chunks += growth.grown.values().sum::<u64>();
        self.figures.commits += u64::from(!growth.grown.is_empty());
        Ok(growth)
    }

    /// The target has heard of what [`Core::grow`] decided for these volumes.
    pub(crate) fn sent(&mut self, volumes: impl Iterator<Item = VolumeId>) {
        for id in volumes {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.sending = volume.sending.saturating_sub(1);
            }
        }
    }

    /// Maps so many clean chunks at most into the holes of a part of a volume; says which, and how many holes are left.
    /// The target has to be told afterwards, if the volume has a device.
    pub(crate) fn preallocate(
        &mut self,
        id: VolumeId,
        part: &std::ops::Range<u64>,
        most: u64,
    ) -> Result<Durable<Preallocated>, BackendError> {
        self.change(|txn| {
            let (mut from, mut left, mut runs) = (part.start, most, Vec::new());
            let generation = Some(txn.generation(id));
            while runs.len() < MOST_RUNS
                && left > 0
                && let Some((mut at, length)) = txn.first_hole(id, from..part.end)
            {
                let hint = txn.continuation(id, at);
                let pieces = txn.take(hint, length.min(left));
                if pieces.is_empty() {
                    break;
                }
                for to in pieces {
                    let run = Run { at, to };
                    txn.map(id, run)?;
                    runs.push(MappedRun { generation, ..MappedRun::plain(run) });
                    at += to.length;
                    left -= to.length;
                }
                from = at;
            }
            let length = part.end.saturating_sub(part.start);
            let mapped = txn.runs(id, part.clone()).map(|run| run.to.length).sum();
            let partly = runs.len() >= MOST_RUNS;
            Ok(Preallocated { runs, missing: length.saturating_sub(mapped), partly })
        })
    }
}

impl Txn<'_> {
    fn answer(
        &mut self,
        id: VolumeId,
        wish: Wish,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let Some(volume) = self.volume_mut(id) else { return Ok(()) };
        let changes = volume.closing || volume.cutting;
        match wish {
            // It is told once.
            Wish::Holed(chunk) if changes || volume.settling => {
                volume.holed.insert(chunk, 1);
                Ok(())
            }
            _ if changes => Ok(()),
            // The thread that takes it asks again when it has left, or leaves it there.
            Wish::Write(chunk) | Wish::Copy(chunk) if volume.leaving.contains(chunk) => Ok(()),
            Wish::Write(chunk) => match self.place(id, chunk) {
                // It came with the run of another one just now.
                Some(_) if growth.sends(id, chunk) => Ok(()),
                // The thread that has it in hand asks again: it may be about to leave.
                Some(_) if self.is_in_hand(id, chunk) => Ok(()),
                // The message that should have said so was lost: it is sent again.
                Some(start) => {
                    let to = Extent { start, length: 1 };
                    let generation = Some(self.generation_of(id, chunk));
                    growth.send(
                        id,
                        MappedRun { generation, ..MappedRun::plain(Run { at: chunk, to }) },
                    );
                    Ok(())
                }
                None => self.fill(id, chunk, true, growth),
            },
            Wish::Ahead(chunk) => self.answer_ahead(id, chunk, growth),
            Wish::Copy(chunk) => {
                self.answer_copy(id, chunk, growth);
                Ok(())
            }
            Wish::Holed(chunk) => self.answer_holed(id, chunk, growth),
            Wish::Discarded(chunk) => {
                // Watched chunks beside it are not reported: there is nothing to discard in them.
                let watched = |chunk: &u64| volume.bells.contains(chunk);
                let before = (0..chunk).rev().take_while(watched).count() as u64;
                let behind = (chunk + 1..).take_while(watched).count() as u64;
                volume.discarded.insert(chunk - before, before + 1 + behind);
                growth.discards = true;
                Ok(())
            }
        }
    }

    /// The device has let a chunk go, and may still read there. It belongs to a snapshot, or did when
    /// the device was last told.
    fn answer_holed(
        &mut self,
        id: VolumeId,
        chunk: u64,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let layer = self.layer_of(id);
        for Run { at, to: from } in self.unmap(id, chunk, 1)? {
            if !from.is_hole() {
                self.vacate(Vacated { from, layer, at });
                growth.discards = true;
            }
        }
        if let Some(volume) = self.volume_mut(id) {
            volume.took += 1;
        }
        growth.holes.push((id, (chunk, 1)));
        Ok(())
    }

    /// Whether a chunk of a volume is being copied, or taken back.
    fn is_in_hand(&self, id: VolumeId, chunk: u64) -> bool {
        self.volume(id).is_some_and(|volume| volume.copying.contains(chunk))
    }

    /// A watched chunk was written.
    fn answer_ahead(
        &mut self,
        id: VolumeId,
        chunk: u64,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let (size, run) = (self.chunk, self.own_run(id, chunk));
        let Some(volume) = self.volume_mut(id) else { return Ok(()) };
        volume.bells.remove(&chunk);
        // A sequential writer has been where it came from.
        if let Some((from, _)) = volume.ahead.around(chunk) {
            volume.ahead.remove(from, chunk + 1 - from);
        }
        // What lies behind it in its run is not known to be written.
        if let Some(run) = run {
            let end = run.end().min(chunk.saturating_add(policy::longest(size)));
            volume.ahead.insert(chunk + 1, end.saturating_sub(chunk + 1));
        }
        let gone = volume.discarded.contains(chunk) || volume.leaving.contains(chunk);
        match run.map(Run::end).filter(|_| !gone) {
            Some(end) if volume.writer.expects(end) => self.fill(id, end, false, growth),
            _ => Ok(()),
        }
    }

    /// Maps clean chunks into the hole at `chunk`.
    fn fill(
        &mut self,
        id: VolumeId,
        chunk: u64,
        held: bool,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let (clean, size) = (self.free.clean(), self.chunk);
        let Some(volume) = self.volume(id) else { return Ok(()) };
        let end = size.chunks_for(volume.row.capacity).0;
        let end = volume.end.map_or(end, |earlier| earlier.min(end));
        let length = growth.limits.clamp(volume.writer.wants(chunk, clean, size), size);
        let room = self.hole(id, chunk, length.min(end.saturating_sub(chunk)));
        let hint = self.continuation(id, chunk);
        let pieces = if room > 0 { self.take(hint, room) } else { Vec::new() };
        if pieces.is_empty() {
            if held {
                growth.miss(id);
            }
            return Ok(());
        }
        let got = pieces.iter().map(|piece| piece.length).sum();
        let bell = policy::bell(got, held).map(|offset| chunk + offset);
        let (mut at, generation) = (chunk, Some(self.generation(id)));
        for to in pieces {
            let run = Run { at, to };
            self.map(id, run)?;
            let mapped = MappedRun { generation, ..MappedRun::plain(run) };
            growth.send_with_bell(id, mapped, bell);
            at = run.end();
        }
        let Some(volume) = self.volume_mut(id) else { return Ok(()) };
        volume.writer.got(chunk, at - chunk);
        volume.bells.extend(bell);
        let reached = u64::from(held);
        volume.ahead.insert(chunk + reached, got - reached);
        growth.held += reached;
        *growth.grown.entry(id).or_default() += at - chunk;
        Ok(())
    }
}

impl Growth {
    /// What to send to the device of a volume.
    pub(crate) fn runs(&self, id: VolumeId) -> &[MappedRun] {
        self.maps.get(&id).map_or(&[], Vec::as_slice)
    }

    /// What has become a hole.
    pub(crate) fn holes(&self) -> &[(VolumeId, Gap)] {
        &self.holes
    }

    /// The volumes whose devices have to be told something.
    pub(crate) fn told(&self) -> Vec<VolumeId> {
        let unprotected = self.unprotect.iter().map(|(id, _)| *id);
        let holes = self.holes.iter().map(|(id, _)| *id);
        let told = self.maps.keys().copied().chain(unprotected).chain(holes);
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        told.dedup();
        told
    }

    /// Whether a chunk is in what is sent already: the target refuses a message that has it twice.
    fn sends(&self, id: VolumeId, chunk: u64) -> bool {
        let sent = |sent: &MappedRun| (sent.run.at..sent.run.end()).contains(&chunk);
        self.maps.get(&id).is_some_and(|runs| runs.iter().any(sent))
    }

    fn send(&mut self, id: VolumeId, mapped: MappedRun) {
        self.maps.entry(id).or_default().push(mapped);
    }

    /// A write of a volume waits for a chunk that is not there.
    pub(super) fn miss(&mut self, id: VolumeId) {
        *self.unmet.entry(id).or_default() += 1;
    }

    /// Whether a chunk is among those that are to be copied.
    pub(super) fn copies(&self, id: VolumeId, chunk: u64) -> bool {
        self.copied.contains(&(id, chunk))
    }

    pub(super) fn copy(&mut self, copy: Copy) {
        self.copied.insert((copy.id, copy.at));
        self.copies.push(copy);
    }

    /// Sends a run whose chunk `bell` is watched, when it is in it.
    fn send_with_bell(&mut self, id: VolumeId, mapped: MappedRun, bell: Option<u64>) {
        let run = mapped.run;
        let Some(bell) = bell.filter(|bell| (run.at..run.end()).contains(bell)) else {
            return self.send(id, mapped);
        };
        let mut part = |from: u64, to: u64, state| {
            if from < to {
                self.send(id, MappedRun { run: run.part(from, to), state, ..mapped });
            }
        };
        part(run.at, bell, ChunkState::PLAIN);
        part(bell, bell + 1, ChunkState::WATCHED);
        part(bell + 1, run.end(), ChunkState::PLAIN);
    }
}
