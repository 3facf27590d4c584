// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which chunk is where: pure code, no I/O.
//!
//! [`VolumeMap`] is one volume's map, [`ExtentSet`] a set of chunks of data LVs, [`FreeSpace`]
//! all chunks that no map names, [`Ranges`] a set of a volume's chunks. The first two remember
//! what changed, entry by entry, so that the metadata can be told exactly that.

mod extents;
mod free;
mod map;
mod ranges;
#[cfg(test)]
mod tests;

pub(crate) use extents::ExtentSet;
pub(crate) use free::FreeSpace;
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

/// A rule of a map or set was about to be broken; the sentence says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);
