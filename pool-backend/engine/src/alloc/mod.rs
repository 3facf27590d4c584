// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which chunk is where: pure code, no I/O.
//!
//! [`VolumeMap`] is one layer's map, [`Layers`] all of them and how they stand on each other (`account`: who shows what),
//! [`ExtentSet`] a set of chunks of data LVs, [`FreeSpace`] all chunks that no map names, [`Ranges`] a
//! set of a volume's chunks. Maps and sets of extents remember what changed, entry by entry, so that
//! the metadata can be told exactly that.

mod account;
mod extents;
mod free;
mod layers;
mod map;
mod ranges;
#[cfg(test)]
mod tests;

pub(crate) use extents::ExtentSet;
pub(crate) use free::FreeSpace;
pub(crate) use layers::{Layer, LayerId, LayerRow, Layers};
pub(crate) use map::VolumeMap;
pub(crate) use ranges::Ranges;

/// A chunk of a data LV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Which data LV.
    pub(crate) lv: u16,
    /// Which chunk of it.
    pub(crate) chunk: u64,
}

impl Place {
    /// The number of no data LV: what lies there is a hole.
    pub(crate) const NOWHERE: u16 = u16::MAX;

    /// The chunk so many further on the same LV.
    pub(crate) fn after(self, chunks: u64) -> Self {
        Self { lv: self.lv, chunk: self.chunk + chunks }
    }
}

/// Chunks of a data LV that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Extent {
    /// The first of them.
    pub(crate) start: Place,
    /// How many; never zero.
    pub(crate) length: u64,
}

impl Extent {
    pub(crate) fn end(self) -> Place {
        self.start.after(self.length)
    }

    #[cfg(test)]
    pub(crate) fn contains(self, place: Place) -> bool {
        self.start <= place && place < self.end()
    }

    /// Whether these are no chunks: a hole over what a layer below has.
    pub(crate) fn is_hole(self) -> bool {
        self.start.lv == Place::NOWHERE
    }
}

/// Chunks of a volume that follow each other on the volume and on a data LV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    /// The first virtual chunk.
    pub(crate) at: u64,
    /// Where they are.
    pub(crate) to: Extent,
}

impl Run {
    /// A hole over what a layer below has. Neighbours are one, as with chunks.
    pub(crate) fn hole(at: u64, length: u64) -> Self {
        Self { at, to: Extent { start: Place { lv: Place::NOWHERE, chunk: at }, length } }
    }

    pub(crate) fn end(self) -> u64 {
        self.at + self.to.length
    }

    /// The part of it that lies in `from..end`, which is not empty.
    pub(crate) fn part(self, from: u64, end: u64) -> Self {
        let (at, stop) = (self.at.max(from), self.end().min(end));
        let start = self.to.start.after(at - self.at);
        Self { at, to: Extent { start, length: stop.saturating_sub(at) } }
    }
}

/// Chunks of a layer that are elsewhere now, while a device may have them here still: nobody gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vacated {
    /// Where they were.
    pub(crate) from: Extent,
    pub(crate) layer: LayerId,
    /// The first of them in the layer.
    pub(crate) at: u64,
}

impl Vacated {
    /// Whether a chunk of a layer is among them.
    pub(crate) fn covers(&self, layer: LayerId, chunk: u64) -> bool {
        layer == self.layer && (self.at..self.at + self.from.length).contains(&chunk)
    }

    /// Whether a chunk of a layer was at this place.
    pub(crate) fn had(&self, layer: LayerId, chunk: u64, place: Place) -> bool {
        self.covers(layer, chunk) && place == self.from.start.after(chunk - self.at)
    }
}

/// A rule of a map or set was about to be broken; the sentence says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);
