// SPDX-License-Identifier: LGPL-2.1-or-later
//! What volumes show of the layers below theirs.

use std::ops::Range;

use virtnotify_model::{BackendError, Bytes, VolumeExtent, VolumeKind};

use super::{Core, Durable, Gap, Txn, VolumeId};
use crate::alloc::{LayerId, LayerRow, Place, Ranges, Run};
use crate::meta::VolumeRow;
use crate::target::{MappedRun, Status};

/// Adds the parts of a run that are not in these ranges.
fn add_outside(mapped: MappedRun, ranges: &Ranges, to: &mut Vec<MappedRun>) {
    let (mut at, end) = (mapped.run.at, mapped.run.end());
    for (from, length) in ranges.within(at, end - at) {
        if at < from {
            to.push(MappedRun { run: mapped.run.part(at, from), ..mapped });
        }
        at = from + length;
    }
    if at < end {
        to.push(MappedRun { run: mapped.run.part(at, end), ..mapped });
    }
}

impl Core {
    pub(in crate::pool) fn layer_of(&self, id: VolumeId) -> LayerId {
        self.volumes.get(&id).map_or(0, |volume| volume.row.layer)
    }

    /// The runs that a volume shows in a range.
    pub(crate) fn runs(&self, id: VolumeId, part: Range<u64>) -> impl Iterator<Item = Run> + '_ {
        self.layers.flat(self.layer_of(id), part).map(|(_, run)| run)
    }

    /// All that a volume shows, as one map.
    #[cfg(test)]
    pub(crate) fn map(
        &self,
        id: VolumeId,
    ) -> Result<crate::alloc::VolumeMap, crate::alloc::Broken> {
        self.layers.flattened(self.layer_of(id))
    }

    /// Whether it is a volume that is there, and no snapshot.
    pub(crate) fn is_written(&self, id: VolumeId) -> bool {
        self.volumes.get(&id).is_some_and(|volume| volume.row.kind == VolumeKind::Volume)
    }

    /// How many chunks a volume shows.
    pub(crate) fn shown(&self, id: VolumeId) -> u64 {
        self.layers.get(self.layer_of(id)).map_or(0, |layer| layer.shown)
    }

    /// How many of them nothing else shows.
    pub(crate) fn exclusive(&self, id: VolumeId) -> u64 {
        self.layers.alone(self.layer_of(id))
    }

    /// The volumes and snapshots beside these of which another number of chunks may be their alone, since the last call.
    pub(in crate::pool) fn take_recounted(&mut self, beside: &[VolumeId]) -> Vec<VolumeId> {
        let mut layers = self.layers.take_recounted();
        let known: Vec<LayerId> = beside.iter().map(|&id| self.layer_of(id)).collect();
        layers.retain(|layer| !known.contains(layer));
        if layers.is_empty() {
            return Vec::new();
        }
        let named = self.volumes.iter().filter(|(_, v)| layers.binary_search(&v.row.layer).is_ok());
        named.map(|(&id, _)| id).collect()
    }

    /// The runs that a volume has and nothing else shows.
    pub(crate) fn exclusive_runs(&self, id: VolumeId) -> Vec<Run> {
        let layers = self.layers.exclusive(self.layer_of(id));
        let runs = layers.flat_map(|(_, layer)| layer.map.iter());
        runs.filter(|run| !run.to.is_hole()).collect()
    }

    /// Where a chunk of a volume is.
    pub(crate) fn place(&self, id: VolumeId, chunk: u64) -> Option<Place> {
        self.layers.place(self.layer_of(id), chunk).map(|(_, place)| place)
    }

    /// Where a chunk is that others show as well.
    pub(super) fn shared_place(&self, id: VolumeId, chunk: u64) -> Option<Place> {
        let top = self.layer_of(id);
        let (owner, place) = self.layers.place(top, chunk)?;
        (!self.layers.is_exclusive(top, owner)).then_some(place)
    }

    /// The run of a volume's own chunks that a chunk is in.
    pub(crate) fn own_run(&self, id: VolumeId, chunk: u64) -> Option<Run> {
        let run = self.layers.get(self.layer_of(id))?.map.containing(chunk)?;
        (!run.to.is_hole()).then_some(run)
    }

    /// The first hole of a volume between two chunks, and how long it is.
    pub(crate) fn first_hole(&self, id: VolumeId, part: Range<u64>) -> Option<Gap> {
        self.layers.first_hole(self.layer_of(id), part.start, part.end)
    }

    /// How many chunks from `chunk` on are a hole, `limit` at most.
    pub(super) fn hole(&self, id: VolumeId, chunk: u64, limit: u64) -> u64 {
        self.layers.hole(self.layer_of(id), chunk, limit)
    }

    /// The place that would continue the chunk before this one.
    pub(super) fn continuation(&self, id: VolumeId, chunk: u64) -> Option<Place> {
        self.place(id, chunk.checked_sub(1)?).map(|place| place.after(1))
    }

    /// The end of the last chunk that a volume shows.
    pub(crate) fn last_end(&self, id: VolumeId) -> u64 {
        self.layers.end(self.layer_of(id))
    }

    /// How many chunks from `from` on, `length` at most, a volume shows in so many runs.
    pub(crate) fn reach(&self, id: VolumeId, from: u64, length: u64, runs: usize) -> u64 {
        self.layers.reach(self.layer_of(id), from, length, runs)
    }

    /// Whether a volume shows chunks of others.
    pub(crate) fn shares(&self, id: VolumeId) -> bool {
        self.layers.first_shared(self.layer_of(id)).is_some()
    }

    /// The lowest generation of chunks that are a volume's alone; 0 if all are.
    pub(crate) fn mark(&self, id: VolumeId) -> u16 {
        let last = self.layers.exclusive(self.layer_of(id)).last();
        last.filter(|(_, layer)| layer.row.parent.is_some()).map_or(0, |(_, l)| l.row.since)
    }

    /// The generation of the chunks that a volume gets.
    pub(crate) fn generation(&self, id: VolumeId) -> u16 {
        self.layers.get(self.layer_of(id)).map_or(0, |layer| layer.row.generation)
    }

    /// The generation that begins after this one.
    pub(in crate::pool) fn generation_after(&self, before: u16) -> Result<u16, BackendError> {
        let last = self.last_generation;
        if before < last { Ok(before + 1) } else { Err(no_generation(last)) }
    }

    /// How many more may begin in a volume.
    pub(in crate::pool) fn generations_left(&self, id: VolumeId) -> u16 {
        self.last_generation.saturating_sub(self.generation(id))
    }

    /// Gives all layers the lowest generations that tell them apart, if half of all are used up; says
    /// whether it did. For a time at which no device has chunks of the old ones.
    pub(in crate::pool) fn count_generations_anew(&mut self) -> Result<bool, BackendError> {
        if self.layers.highest_generation() <= self.last_generation / 2 {
            return Ok(false);
        }
        let rows = self.layers.counted_anew();
        let changes = !rows.is_empty();
        self.change(|txn| {
            rows.into_iter().for_each(|(id, row)| txn.set_layer_row(id, row));
            Ok(())
        })?;
        Ok(changes)
    }

    /// Copies that a volume has and its device, which has `live`, has not taken yet: it still has the
    /// snapshot's chunks there, and holds writes to them. Whatever else differs is said.
    pub(in crate::pool) fn untaken(
        &self,
        id: VolumeId,
        live: &[MappedRun],
        status: &Status,
    ) -> Result<Durable<Vec<MappedRun>>, String> {
        let top = self.layer_of(id);
        let mut untaken = Vec::new();
        for mapped in live {
            let held = mapped.generation.unwrap_or(status.generation) < status.mark;
            let mut at = mapped.run.at;
            while at < mapped.run.end() {
                let there = mapped.run.to.start.after(at - mapped.run.at);
                let mut known = self.layers.flat(top, at..mapped.run.end());
                let known = known.next().filter(|(_, run)| run.at == at);
                let below = |owner| self.layers.get(owner).and_then(|layer| layer.row.parent);
                match known {
                    Some((_, run)) if run.to.start == there => at = run.end(),
                    Some((owner, run)) if self.had_at(owner, at, there) => {
                        untaken.push(self.mapped_run(owner, run.part(at, at + 1)));
                        at += 1;
                    }
                    Some((owner, run))
                        if held
                            && below(owner)
                                .and_then(|below| self.layers.place(below, at))
                                .is_some_and(|(_, place)| place == there) =>
                    {
                        let generation = Some(self.generation(id));
                        let run = run.part(at, at + 1);
                        untaken.push(MappedRun { generation, ..MappedRun::plain(run) });
                        at += 1;
                    }
                    _ => {
                        return Err(format!(
                            "the kernel's map has {mapped}, which the metadata does not have"
                        ));
                    }
                }
            }
        }
        self.durable(untaken).map_err(|e| e.to_string())
    }

    /// The device of a volume may not have taken these copies.
    pub(in crate::pool) fn not_taken(&mut self, id: VolumeId, runs: &[MappedRun]) {
        self.taken(id, runs);
        if let Some(volume) = self.volumes.get_mut(&id) {
            runs.iter()
                .for_each(|mapped| volume.untold.insert(mapped.run.at, mapped.run.to.length));
            volume.unsettled = true;
        }
    }

    /// The device of a volume has taken these copies.
    pub(in crate::pool) fn taken(&mut self, id: VolumeId, runs: &[MappedRun]) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            runs.iter()
                .for_each(|mapped| volume.copying.remove(mapped.run.at, mapped.run.to.length));
            volume.took += u64::from(!runs.is_empty());
        }
    }

    /// Which parts of what a volume shows may differ from what one below it shows, or all of it;
    /// `None` if it does not stand on that one.
    pub(in crate::pool) fn difference(
        &self,
        row: &VolumeRow,
        base: Option<&VolumeRow>,
    ) -> Option<Vec<VolumeExtent>> {
        let chunk = self.chunk.bytes().0;
        let changed = self.layers.difference(row.layer, base.map(|base| base.layer))?;
        let mut extents: Vec<VolumeExtent> = Vec::new();
        let mut add = |from: u64, to: u64, data: bool| {
            let (offset, end) = (from * chunk, (to * chunk).min(row.capacity.0));
            match extents.last_mut() {
                Some(last) if last.data == data && last.offset.0 + last.length.0 == offset => {
                    last.length.0 += end - offset;
                }
                _ if offset < end => {
                    let (offset, length) = (Bytes(offset), Bytes(end - offset));
                    extents.push(VolumeExtent { offset, length, data });
                }
                _ => {}
            }
        };
        for (from, length) in changed.iter() {
            let (mut at, end) = (from, from + length);
            for (_, run) in self.layers.flat(row.layer, from..end) {
                if base.is_some() && at < run.at {
                    add(at, run.at, false);
                }
                add(run.at, run.end(), true);
                at = run.end();
            }
            if base.is_some() && at < end {
                add(at, end, false);
            }
        }
        Some(extents)
    }

    /// The generation of a chunk of a volume.
    pub(super) fn generation_of(&self, id: VolumeId, chunk: u64) -> u16 {
        let owner = self.layers.place(self.layer_of(id), chunk).map(|(owner, _)| owner);
        owner.and_then(|owner| self.layers.get(owner)).map_or(0, |layer| layer.row.generation)
    }

    /// Chunks of a volume, each named with its generation.
    fn mapped(&self, id: VolumeId, part: Range<u64>) -> impl Iterator<Item = MappedRun> + '_ {
        let shown = self.layers.flat(self.layer_of(id), part);
        shown.map(move |(owner, run)| self.mapped_run(owner, run))
    }

    /// Chunks of a layer as devices have them.
    pub(super) fn mapped_run(&self, owner: LayerId, run: Run) -> MappedRun {
        let generation = self.layers.get(owner).map(|layer| layer.row.generation);
        MappedRun { generation, ..MappedRun::plain(run) }
    }

    fn mapped_outside(
        &self,
        id: VolumeId,
        part: Range<u64>,
        ranges: &Ranges,
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        let mut runs = Vec::new();
        self.mapped(id, part).for_each(|mapped| add_outside(mapped, ranges, &mut runs));
        self.durable(runs)
    }

    /// What a volume shows in these ranges: so many runs at most.
    pub(in crate::pool) fn durable_runs(
        &self,
        id: VolumeId,
        ranges: &Ranges,
        most: usize,
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        let parts = ranges.iter().flat_map(|(at, length)| self.mapped(id, at..at + length));
        self.durable(parts.take(most).collect())
    }

    /// What a part of a volume has and nothing else shows.
    pub(in crate::pool) fn durable_own_runs(
        &self,
        id: VolumeId,
        part: Range<u64>,
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        let shared: Ranges = self.shared_runs(id, part.clone()).collect();
        self.mapped_outside(id, part, &shared)
    }

    /// What a part of a volume shows.
    pub(in crate::pool) fn durable_all_runs(
        &self,
        id: VolumeId,
        part: Range<u64>,
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        self.durable(self.mapped(id, part).collect())
    }

    /// What a part of a volume shows that others show as well.
    pub(crate) fn shared_runs(
        &self,
        id: VolumeId,
        part: Range<u64>,
    ) -> impl Iterator<Item = Run> + '_ {
        let top = self.layer_of(id);
        let shared = self.layers.flat(top, part);
        shared.filter(move |(owner, _)| !self.layers.is_exclusive(top, *owner)).map(|(_, run)| run)
    }

    /// What is leaving a part of a volume and is a snapshot's becomes a hole: see
    /// [`crate::target::Wish::Holed`].
    pub(in crate::pool) fn hole_shared(&mut self, id: VolumeId, part: Range<u64>) {
        let shared: Vec<Run> = self.shared_runs(id, part).collect();
        if let Some(volume) = self.volumes.get_mut(&id) {
            shared.iter().for_each(|run| volume.holed.insert(run.at, run.to.length));
        }
    }

    /// Some of the chunks that are to become holes, which nobody looks at meanwhile.
    pub(crate) fn take_holed(&mut self, id: VolumeId, most: usize) -> Vec<u64> {
        let Some(volume) = self.volumes.get_mut(&id) else { return Vec::new() };
        if volume.closing || volume.cutting {
            return Vec::new();
        }
        let one = |_| volume.holed.take_first(1).map(|(chunk, _)| chunk);
        (0..most).map_while(one).collect()
    }

    /// What a volume shows and this map of its device lacks.
    pub(in crate::pool) fn durable_rest(
        &self,
        id: VolumeId,
        live: &[MappedRun],
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        self.mapped_outside(id, 0..u64::MAX, &live.iter().map(|live| live.run).collect())
    }

    /// What a part of a volume lacks.
    pub(in crate::pool) fn durable_gaps(
        &self,
        id: VolumeId,
        part: Range<u64>,
    ) -> Result<Durable<Vec<Gap>>, BackendError> {
        let (mut gaps, mut at) = (Vec::new(), part.start);
        while let Some((from, length)) = self.first_hole(id, at..part.end) {
            gaps.push((from, length));
            at = from + length;
        }
        self.durable(gaps)
    }
}

impl Txn<'_> {
    /// Adds a layer on a frozen one, or on nothing.
    pub(in crate::pool) fn add_layer(
        &mut self,
        parent: Option<LayerId>,
    ) -> Result<LayerId, BackendError> {
        let below = parent.and_then(|parent| self.layers.get(parent));
        match below.map(|below| below.row.generation) {
            None => self.insert_layer(LayerRow::FIRST),
            Some(before) => {
                let next = self.generation_after(before)?;
                self.add_layer_of(parent, next)
            }
        }
    }

    /// Adds a layer whose chunks are of this generation.
    fn add_layer_of(
        &mut self,
        parent: Option<LayerId>,
        generation: u16,
    ) -> Result<LayerId, BackendError> {
        self.insert_layer(LayerRow { parent, generation, since: generation })
    }

    /// Freezes what a volume shows, and has it go on with a new layer, whose chunks are of this
    /// generation; says which layer is frozen.
    pub(in crate::pool) fn freeze(
        &mut self,
        id: VolumeId,
        generation: u16,
    ) -> Result<LayerId, BackendError> {
        let frozen = self.layer_of(id);
        let top = self.add_layer_of(Some(frozen), generation)?;
        self.set_row(id, |row| row.layer = top);
        Ok(frozen)
    }

    /// Maps chunks that were taken into a hole.
    pub(super) fn map(&mut self, id: VolumeId, run: Run) -> Result<(), BackendError> {
        let top = self.layer_of(id);
        // A hole over what lies below is an entry.
        self.remove(top, run.at, run.to.length);
        self.insert(top, run)?;
        let shown = self.shown(id) + run.to.length;
        self.set_shown(top, shown);
        Ok(())
    }

    /// Gives a volume chunks of its own where it shows others; says what it had of its own there. It
    /// is to be released.
    pub(super) fn replace(&mut self, id: VolumeId, run: Run) -> Result<Vec<Run>, BackendError> {
        let removed = self.remove_own(id, run.at, run.to.length);
        self.insert(self.layer_of(id), run)?;
        Ok(removed)
    }

    /// Makes a part of a volume a hole; says which of its own chunks were there. They are to be
    /// released.
    pub(in crate::pool) fn unmap(
        &mut self,
        id: VolumeId,
        from: u64,
        length: u64,
    ) -> Result<Vec<Run>, BackendError> {
        let (top, range) = (self.layer_of(id), from..from.saturating_add(length));
        let shown = self.shown(id) - self.layers.shown(top, range.clone());
        let below = self.layers.first_shared(top);
        let removed = self.remove_own(id, from, length);
        self.hole_over(top, below, range)?;
        self.set_shown(top, shown);
        Ok(removed)
    }

    /// Makes holes in a layer over what the one below shows in a range.
    pub(super) fn hole_over(
        &mut self,
        layer: LayerId,
        below: Option<LayerId>,
        range: Range<u64>,
    ) -> Result<(), BackendError> {
        let Some(below) = below else { return Ok(()) };
        let shown: Vec<Run> = self.layers.flat(below, range).map(|(_, run)| run).collect();
        for Run { at, to } in shown {
            self.insert(layer, Run::hole(at, to.length))?;
        }
        Ok(())
    }

    /// Takes away what a part of a volume has that nothing else shows.
    fn remove_own(&mut self, id: VolumeId, from: u64, length: u64) -> Vec<Run> {
        let own: Vec<_> = self.layers.exclusive(self.layer_of(id)).map(|(id, _)| id).collect();
        own.into_iter().flat_map(|layer| self.remove(layer, from, length)).collect()
    }
}

/// When none is left.
fn no_generation(last: u16) -> BackendError {
    BackendError::Refused(format!(
        "the volume has had {last} snapshots since they were counted anew, more than can be told apart: stop \
         the pool and start it again, while no VM uses it"
    ))
}
