// SPDX-License-Identifier: LGPL-2.1-or-later
//! A set of chunks, kept as the fewest extents.
//!
//! Invariants: no extent is empty, no two overlap, no two touch (they would be one).

use std::collections::{BTreeMap, BTreeSet};

use super::{Broken, Extent, Place};

/// A set of chunks of data LVs.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExtentSet {
    extents: BTreeMap<Place, u64>,
    chunks: u64,
    touched: BTreeSet<Place>,
}

impl ExtentSet {
    /// How many chunks are in the set.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The extents in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + '_ {
        self.extents.iter().map(|(&start, &length)| Extent { start, length })
    }

    /// The extent that `place` is in.
    pub(crate) fn containing(&self, place: Place) -> Option<Extent> {
        let (&start, &length) = self.extents.range(..=place).next_back()?;
        let extent = Extent { start, length };
        (start.lv == place.lv && place < extent.end()).then_some(extent)
    }

    /// The first extent that begins at `place` or later on the same LV.
    fn next_from(&self, place: Place) -> Option<Extent> {
        let (&start, &length) = self.extents.range(place..).next()?;
        (start.lv == place.lv).then_some(Extent { start, length })
    }

    /// Adds chunks, none of which may be in the set.
    pub(crate) fn insert(&mut self, extent: Extent) -> Result<(), Broken> {
        let Extent { mut start, mut length } = extent;
        let overlaps = self.containing(start).is_some()
            || self.next_from(start).is_some_and(|next| next.start < extent.end());
        if length == 0 || overlaps {
            return Err(Broken(format!("{extent:?} is empty or partly in the set already")));
        }
        self.chunks += length;
        if let Some(next) = self.next_from(extent.end()).filter(|n| n.start == extent.end()) {
            length += next.length;
            self.drop_entry(next.start);
        }
        let before = start.chunk.checked_sub(1).map(|chunk| Place { lv: start.lv, chunk });
        if let Some(previous) = before.and_then(|place| self.containing(place)) {
            start = previous.start;
            length += previous.length;
        }
        self.put_entry(start, length);
        Ok(())
    }

    /// Takes chunks out, all of which must be in the set.
    pub(crate) fn remove(&mut self, extent: Extent) -> Result<(), Broken> {
        let whole = self.containing(extent.start).filter(|whole| extent.end() <= whole.end());
        let Some(whole) = whole.filter(|_| extent.length > 0) else {
            return Err(Broken(format!("{extent:?} is not in the set")));
        };
        self.chunks -= extent.length;
        let before = extent.start.chunk - whole.start.chunk;
        let after = whole.end().chunk - extent.end().chunk;
        if before > 0 {
            self.put_entry(whole.start, before);
        } else {
            self.drop_entry(whole.start);
        }
        if after > 0 {
            self.put_entry(extent.end(), after);
        }
        Ok(())
    }

    /// Takes out the first `limit` chunks at most of the first extent.
    pub(crate) fn take_first(&mut self, limit: u64) -> Option<Extent> {
        let first = self.iter().next()?;
        let taken = Extent { start: first.start, length: first.length.min(limit) };
        self.remove(taken).ok()?;
        Some(taken)
    }

    /// Takes out the part of the set that begins exactly at `place`, `limit` chunks at most.
    pub(crate) fn take_at(&mut self, place: Place, limit: u64) -> Option<Extent> {
        let whole = self.containing(place)?;
        let length = (whole.end().chunk - place.chunk).min(limit);
        let taken = Extent { start: place, length };
        self.remove(taken).ok()?;
        Some(taken)
    }

    /// Takes out the first piece of the set that lies within an extent.
    pub(crate) fn take_within(&mut self, extent: Extent) -> Option<Extent> {
        let first = match self.containing(extent.start) {
            Some(_) => extent.start,
            None => self.next_from(extent.start)?.start,
        };
        let left = extent.end().chunk.checked_sub(first.chunk).filter(|left| *left > 0)?;
        self.take_at(first, left)
    }

    /// Takes out `want` chunks in one piece, from the smallest extent that has them; when none
    /// has, the largest extent whole.
    pub(crate) fn take_best(&mut self, want: u64) -> Option<Extent> {
        let fits = self.iter().filter(|e| e.length >= want).min_by_key(|e| e.length);
        let best = fits.or_else(|| self.iter().max_by_key(|e| e.length))?;
        let taken = Extent { start: best.start, length: best.length.min(want) };
        self.remove(taken).ok()?;
        Some(taken)
    }

    /// Takes out `want` chunks in one piece: those at `hint` if they are in the set, else from the
    /// smallest extent that has them.
    pub(crate) fn take_piece(&mut self, hint: Option<Place>, want: u64) -> Option<Extent> {
        let reaches = |place: &Place| {
            self.containing(*place).is_some_and(|e| e.end().chunk - place.chunk >= want)
        };
        if let Some(place) = hint.filter(reaches) {
            return self.take_at(place, want);
        }
        let fits = self.iter().filter(|e| e.length >= want).min_by_key(|e| e.length)?;
        self.take_at(fits.start, want)
    }

    /// The first extent on a data LV.
    pub(crate) fn first_of(&self, lv: u16) -> Option<Extent> {
        self.next_from(Place { lv, chunk: 0 })
    }

    /// The entries that changed since the last call, as they are now (`None`: gone).
    pub(crate) fn changes(&mut self) -> Vec<(Place, Option<u64>)> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|start| (start, self.extents.get(&start).copied())).collect()
    }

    fn put_entry(&mut self, start: Place, length: u64) {
        self.extents.insert(start, length);
        self.touched.insert(start);
    }

    fn drop_entry(&mut self, start: Place) {
        self.extents.remove(&start);
        self.touched.insert(start);
    }
}
