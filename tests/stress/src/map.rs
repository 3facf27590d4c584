// SPDX-License-Identifier: LGPL-2.1-or-later
//! What user space knows of a volume's map, and how the target's messages say it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Result, bail};
use fastrand::Rng;

use crate::snapshot::Snapshot;
use crate::store::Place;

/// A chunk that has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where it is.
    pub place: Place,
    /// Whether writes to it wait.
    pub protected: bool,
    /// The generation that it is of.
    pub generation: u64,
}

/// What user space knows of the map. Who holds it sends the messages.
pub struct Map {
    /// Chunks that the live table has.
    pub chunks: u64,
    /// Whether its table says so.
    pub skip_zero_writes: bool,
    /// Chunks and their places.
    pub mapped: BTreeMap<u64, Mapped>,
    /// The generation that the volume is in.
    pub generation: u64,
    /// Chunks of older generations are shared.
    pub mark: u64,
    /// The snapshots that there are, in the order in which they were taken.
    pub snapshots: Vec<Snapshot>,
    /// Counters of devices that were removed.
    pub counters: BTreeMap<String, u64>,
    /// What chooses places, and forms of messages.
    pub rng: Rng,
}

impl Map {
    /// All holes.
    pub fn new(chunks: u64, rng: Rng) -> Self {
        Self {
            chunks,
            skip_zero_writes: true,
            mapped: BTreeMap::new(),
            generation: 0,
            mark: 0,
            snapshots: Vec::new(),
            counters: BTreeMap::new(),
            rng,
        }
    }

    /// The end of the last chunk that has a place.
    pub fn end(&self) -> u64 {
        self.mapped.keys().next_back().map_or(0, |last| last + 1)
    }

    /// A chunk that is new, or was copied.
    pub fn own(&self, place: Place) -> Mapped {
        Mapped { place, protected: false, generation: self.generation }
    }

    /// Whether a chunk belongs to a snapshot.
    pub fn is_shared(&self, mapped: &Mapped) -> bool {
        mapped.generation < self.mark
    }

    /// Whether a chunk of one of the ranges does.
    pub fn any_shared(&self, ranges: &[Range<u64>]) -> bool {
        let mut mapped = ranges.iter().flat_map(|range| self.mapped.range(range.clone()));
        mapped.any(|(_, mapped)| self.is_shared(mapped))
    }

    /// Whether a snapshot has that place.
    pub fn has_snapshot_of(&self, place: Place) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.has(place))
    }

    /// The ranges, as far as the volume reaches.
    pub fn clip(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let clipped = ranges.iter().map(|range| range.start..range.end.min(self.chunks));
        clipped.filter(|range| !range.is_empty()).collect()
    }

    /// A run of one chunk, whose generation is named, or is that of the volume.
    pub fn run(&mut self, chunk: u64, mapped: &Mapped, watched: bool) -> String {
        let named = mapped.generation != self.generation || self.rng.bool();
        let mut flags = String::new();
        flags += if watched { "w" } else { "" };
        flags += if mapped.protected { "p" } else { "" };
        if named {
            flags += &mapped.generation.to_string();
        }
        place_run(chunk, mapped.place, &flags)
    }

    /// The runs of all chunks of the ranges that have a place.
    pub fn runs(&mut self, ranges: &[Range<u64>]) -> Vec<String> {
        let all = ranges.iter().flat_map(|range| self.mapped.range(range.clone()));
        let all: Vec<(u64, Mapped)> = all.map(|(&chunk, &mapped)| (chunk, mapped)).collect();
        all.iter().map(|(chunk, mapped)| self.run(*chunk, mapped, false)).collect()
    }
}

/// A run of one chunk that is there, with flags.
pub fn place_run(chunk: u64, place: Place, flags: &str) -> String {
    let colon = if flags.is_empty() { "" } else { ":" };
    format!("{chunk}:{}:{}:1{colon}{flags}", place.device, place.chunk)
}

/// Ranges as a message lists them.
pub fn list(ranges: &[Range<u64>]) -> String {
    let words = ranges.iter().map(|range| format!("{}:{}", range.start, range.end - range.start));
    words.collect::<Vec<_>>().join(" ")
}

/// What the kernel says of its map.
#[derive(Default)]
pub struct Dump {
    /// Chunks and their places.
    pub mapped: BTreeMap<u64, Mapped>,
    /// Holes whose former place is not forgotten.
    pub leaving: BTreeSet<u64>,
}

impl Dump {
    /// Takes a line in, of a volume in that generation.
    pub fn read(&mut self, line: &str, generation: u64) -> Result<()> {
        if let Some(rest) = line.strip_prefix("leaving ") {
            let Some((chunk, count)) = rest.split_once(' ') else { bail!("no line: {line}") };
            let chunk: u64 = chunk.parse()?;
            self.leaving.extend(chunk..chunk + count.parse::<u64>()?);
            return Ok(());
        }
        let words: Vec<&str> = line.split(':').collect();
        let [chunk, device, place, count, flags @ ..] = words.as_slice() else {
            bail!("no run: {line}");
        };
        let (chunk, place): (u64, u64) = (chunk.parse()?, place.parse()?);
        let flags = flags.first().copied().unwrap_or_default();
        let number = flags.trim_start_matches(|c: char| c.is_ascii_lowercase());
        let generation = if number.is_empty() { generation } else { number.parse()? };
        let protected = flags.contains('p');
        for i in 0..count.parse()? {
            let place = Place { device: device.parse()?, chunk: place + i };
            self.mapped.insert(chunk + i, Mapped { place, protected, generation });
        }
        Ok(())
    }
}
