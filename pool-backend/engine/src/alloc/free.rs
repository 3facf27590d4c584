// SPDX-License-Identifier: LGPL-2.1-or-later
//! The chunks of the data LVs that no map names.
//!
//! Invariants: each such chunk is in exactly one of four sets: `clean` (its zeroes are durable),
//! `dirty` (it may hold anybody's old data), `bad` (it could not be zeroed, and others could) and
//! `busy` (a thread works on it: it is being zeroed, or is about to leave the LV). Only clean
//! chunks are ever given to a volume. One that a device has against what the metadata says is in none:
//! it counts as used until the pool is started the next time.

use std::collections::BTreeMap;

use super::{Broken, Extent, ExtentSet, Place};

/// The free chunks of a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct FreeSpace {
    clean: ExtentSet,
    dirty: ExtentSet,
    bad: ExtentSet,
    busy: u64,
    /// What was left out.
    shown: Vec<Extent>,
    sizes: BTreeMap<u16, u64>,
}

impl FreeSpace {
    /// The free space of data LVs of so many chunks each, when `used` are named by maps and
    /// `clean` are known to be zeroed.
    pub(crate) fn new(
        sizes: BTreeMap<u16, u64>,
        used: impl Iterator<Item = Extent>,
        clean: impl Iterator<Item = Extent>,
    ) -> Result<Self, Broken> {
        let mut free = Self { sizes, ..Self::default() };
        for (&lv, &length) in free.sizes.iter().filter(|(_, length)| **length > 0) {
            free.dirty.insert(Extent { start: Place { lv, chunk: 0 }, length })?;
        }
        for extent in used {
            free.dirty.remove(extent).map_err(|_| {
                Broken(format!("{extent:?} is mapped twice, or is not on its data LV"))
            })?;
        }
        for extent in clean {
            free.dirty.remove(extent).map_err(|_| {
                Broken(format!("{extent:?} is clean and mapped, or is not on its data LV"))
            })?;
            free.clean.insert(extent)?;
        }
        free.clean.changes();
        free.dirty.changes();
        Ok(free)
    }

    /// Leaves out what is free of an extent that a device shows; how many chunks of it are.
    pub(crate) fn leave_out(&mut self, extent: Extent) -> u64 {
        let before = self.shown.len();
        for set in [&mut self.clean, &mut self.dirty] {
            self.shown.extend(std::iter::from_fn(|| set.take_within(extent)));
        }
        self.shown[before..].iter().map(|piece| piece.length).sum()
    }

    /// Leaves out what another one, whose place this takes, had left out.
    pub(crate) fn leave_out_as(&mut self, other: &Self) {
        for extent in &other.shown {
            self.leave_out(*extent);
        }
    }

    /// Chunks that a volume can get at once.
    pub(crate) fn clean(&self) -> u64 {
        self.clean.chunks()
    }

    /// Chunks that have to be zeroed first.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.chunks()
    }

    /// Chunks that are being zeroed, copied or cut off.
    pub(crate) fn busy(&self) -> u64 {
        self.busy
    }

    /// All chunks that no map names.
    pub(crate) fn total(&self) -> u64 {
        self.clean() + self.dirty() + self.bad.chunks() + self.busy
    }

    /// All chunks that maps name.
    pub(crate) fn used(&self) -> u64 {
        self.all().saturating_sub(self.total())
    }

    /// How many chunks a data LV has.
    pub(crate) fn size(&self, lv: u16) -> u64 {
        self.sizes.get(&lv).copied().unwrap_or(0)
    }

    /// How many chunks of a data LV are not free.
    pub(crate) fn used_on(&self, lv: u16) -> u64 {
        let sets = [&self.clean, &self.dirty, &self.bad].into_iter();
        let free = sets.flat_map(ExtentSet::iter).filter(|extent| extent.start.lv == lv);
        self.size(lv).saturating_sub(free.map(|extent| extent.length).sum())
    }

    /// How many chunks all data LVs have.
    pub(crate) fn all(&self) -> u64 {
        self.sizes.values().sum()
    }

    /// Takes `want` clean chunks, fewer when there are no more: at `hint` if that is free, else
    /// in as few pieces as possible.
    pub(crate) fn allocate(&mut self, hint: Option<Place>, want: u64) -> Vec<Extent> {
        let mut pieces: Vec<Extent> = Vec::new();
        let mut missing = want;
        if let Some(piece) = hint.and_then(|place| self.clean.take_at(place, want)) {
            missing -= piece.length;
            pieces.push(piece);
        }
        while missing > 0 {
            let Some(piece) = self.clean.take_best(missing) else { break };
            missing -= piece.length;
            pieces.push(piece);
        }
        pieces
    }

    /// Takes back what a volume had: it holds the volume's data.
    pub(crate) fn release(&mut self, extent: Extent) -> Result<(), Broken> {
        self.dirty.insert(extent)
    }

    /// Takes back what a volume had and never wrote: it is zeroes, durably.
    pub(crate) fn release_clean(&mut self, extent: Extent) -> Result<(), Broken> {
        self.clean.insert(extent)
    }

    /// Undoes a release.
    pub(crate) fn take_back(&mut self, extent: Extent, clean: bool) -> Result<(), Broken> {
        if clean { self.clean.remove(extent) } else { self.dirty.remove(extent) }
    }

    /// Takes dirty chunks to be zeroed; [`FreeSpace::cleaned`] or [`FreeSpace::not_cleaned`]
    /// has to follow.
    pub(crate) fn begin_cleaning(&mut self, limit: u64) -> Option<Extent> {
        let taken = self.dirty.take_first(limit)?;
        self.busy += taken.length;
        Some(taken)
    }

    /// Takes `want` chunks that are to be overwritten as a whole, fewer when there are no more:
    /// dirty ones first. [`FreeSpace::filled`] or [`FreeSpace::not_cleaned`] has to follow.
    pub(crate) fn begin_filling(&mut self, want: u64) -> Vec<Extent> {
        let mut pieces = Vec::new();
        let mut missing = want;
        while missing > 0 {
            let dirty = self.dirty.take_first(missing);
            let Some(piece) = dirty.or_else(|| self.clean.take_best(missing)) else { break };
            missing -= piece.length;
            self.busy += piece.length;
            pieces.push(piece);
        }
        pieces
    }

    /// The same in one piece, at `hint` if that is free; none if there is no such piece, or if it
    /// would leave fewer than `spare` clean chunks.
    pub(crate) fn begin_filling_piece(
        &mut self,
        hint: Option<Place>,
        want: u64,
        spare: u64,
    ) -> Option<Extent> {
        let may_be_clean = self.clean() >= want.saturating_add(spare);
        let piece = self
            .dirty
            .take_piece(hint, want)
            .or_else(|| may_be_clean.then(|| self.clean.take_piece(hint, want)).flatten())?;
        self.busy += piece.length;
        Some(piece)
    }

    /// The same with the first free chunks of a data LV, `want` at most and all of them before
    /// `end`, in one piece.
    pub(crate) fn begin_filling_before(&mut self, end: Place, want: u64) -> Option<Extent> {
        let first = |set: &ExtentSet| set.first_of(end.lv).filter(|e| e.start < end);
        let (clean, dirty) = (first(&self.clean), first(&self.dirty));
        let from_clean = match (clean, dirty) {
            (Some(clean), Some(dirty)) => clean.start < dirty.start,
            (clean, _) => clean.is_some(),
        };
        let (set, first) = match from_clean {
            true => (&mut self.clean, clean?),
            false => (&mut self.dirty, dirty?),
        };
        let piece = set.take_at(first.start, want.min(end.chunk - first.start.chunk))?;
        self.busy += piece.length;
        Some(piece)
    }

    /// They are a volume's.
    pub(crate) fn filled(&mut self, extent: Extent) {
        self.busy -= extent.length;
    }

    /// Undoes that.
    pub(crate) fn unfilled(&mut self, extent: Extent) {
        self.busy += extent.length;
    }

    /// They are zeroes, durably.
    pub(crate) fn cleaned(&mut self, extent: Extent) -> Result<(), Broken> {
        self.busy -= extent.length;
        self.clean.insert(extent)
    }

    /// They may hold anything.
    pub(crate) fn not_cleaned(&mut self, extent: Extent) -> Result<(), Broken> {
        self.busy -= extent.length;
        self.dirty.insert(extent)
    }

    /// They could not be zeroed, and are left out.
    pub(crate) fn spoilt(&mut self, extent: Extent) -> Result<(), Broken> {
        self.busy -= extent.length;
        self.bad.insert(extent)
    }

    /// What was left out is tried again: nothing can be zeroed, so it is not these chunks.
    pub(crate) fn retry_spoilt(&mut self) -> Result<(), Broken> {
        while let Some(extent) = self.bad.take_first(u64::MAX) {
            self.dirty.insert(extent)?;
        }
        Ok(())
    }

    /// A data LV has so many chunks now, which is not fewer than before.
    pub(crate) fn extended(&mut self, lv: u16, chunks: u64) -> Result<(), Broken> {
        let before = self.size(lv);
        if chunks < before {
            return Err(Broken(format!("data LV {lv} had {before} chunks and has {chunks}")));
        }
        if chunks > before {
            let start = Place { lv, chunk: before };
            self.dirty.insert(Extent { start, length: chunks - before })?;
        }
        self.sizes.insert(lv, chunks);
        Ok(())
    }

    /// How many chunks at the end of a data LV are free.
    pub(crate) fn tail(&self, lv: u16) -> u64 {
        let size = self.size(lv);
        let mut start = size;
        while let Some(chunk) = start.checked_sub(1) {
            let place = Place { lv, chunk };
            let free = self.clean.containing(place).or_else(|| self.dirty.containing(place));
            let Some(extent) = free else { break };
            start = extent.start.chunk;
        }
        size - start
    }

    /// Takes the last `chunks` chunks of a data LV, all free, out of use;
    /// [`FreeSpace::tail_cut`] has to follow.
    pub(crate) fn begin_cut(&mut self, lv: u16, chunks: u64) -> Result<(), Broken> {
        let size = self.size(lv);
        if chunks > self.tail(lv) {
            return Err(Broken(format!("the last {chunks} chunks of data LV {lv} are in use")));
        }
        let mut at = size - chunks;
        while at < size {
            let place = Place { lv, chunk: at };
            let limit = size - at;
            let piece = self.clean.take_at(place, limit);
            let piece = piece.or_else(|| self.dirty.take_at(place, limit));
            let Some(piece) = piece else {
                return Err(Broken(format!("{place:?} is not free")));
            };
            at = piece.end().chunk;
        }
        self.busy += chunks;
        Ok(())
    }

    /// The data LV has `now` chunks, after [`FreeSpace::begin_cut`] of `chunks`.
    pub(crate) fn tail_cut(&mut self, lv: u16, chunks: u64, now: u64) -> Result<(), Broken> {
        let kept = self.size(lv) - chunks;
        self.busy -= chunks;
        self.sizes.insert(lv, kept);
        self.extended(lv, now)
    }

    /// The entries of `clean` that changed since the last call (`None`: gone).
    pub(crate) fn clean_changes(&mut self) -> Vec<(Place, Option<u64>)> {
        self.dirty.changes();
        self.bad.changes();
        self.clean.changes()
    }

    /// For checks: the clean and dirty extents.
    #[cfg(test)]
    pub(crate) fn extents(&self) -> (Vec<Extent>, Vec<Extent>) {
        (self.clean.iter().collect(), self.dirty.iter().collect())
    }
}
