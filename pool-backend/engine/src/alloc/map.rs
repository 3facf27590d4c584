// SPDX-License-Identifier: LGPL-2.1-or-later
//! One layer's map: which of its chunks are where, and where it has holes over the layers below.
//!
//! Invariants: no run is empty, no two overlap on the volume, and two runs that continue each
//! other on the volume and on the data LV are one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Broken, Extent, Place, Run};

/// The map of a layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumeMap {
    runs: BTreeMap<u64, Extent>,
    chunks: u64,
    touched: BTreeSet<u64>,
}

impl VolumeMap {
    /// How many chunks it has; holes are none.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// How many runs and holes it has.
    pub(crate) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// All runs in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Run> + '_ {
        self.runs.iter().map(|(&at, &to)| Run { at, to })
    }

    /// The run that a virtual chunk is in.
    pub(crate) fn containing(&self, chunk: u64) -> Option<Run> {
        let (&at, &to) = self.runs.range(..=chunk).next_back()?;
        let run = Run { at, to };
        (chunk < run.end()).then_some(run)
    }

    /// The runs in order, from the one that a virtual chunk is in, or the next one.
    pub(crate) fn iter_from(&self, chunk: u64) -> impl Iterator<Item = Run> + '_ {
        let first = self.containing(chunk).map_or(chunk, |run| run.at);
        self.runs.range(first..).map(|(&at, &to)| Run { at, to })
    }

    /// Where a virtual chunk is.
    pub(crate) fn place(&self, chunk: u64) -> Option<Place> {
        self.containing(chunk).map(|run| run.to.start.after(chunk - run.at))
    }

    /// Where the first run begins that begins at a chunk or after it.
    fn next_from(&self, chunk: u64) -> Option<u64> {
        self.runs.range(chunk..).next().map(|(&at, _)| at)
    }

    /// The entries of a range, holes among them.
    pub(crate) fn within(&self, from: u64, length: u64) -> impl Iterator<Item = Run> + '_ {
        let end = from.saturating_add(length);
        let runs = self.iter_from(from).take_while(move |run| run.at < end);
        runs.map(move |run| run.part(from, end))
    }

    /// How many of the chunks that it has lie in a range.
    pub(crate) fn chunks_within(&self, from: u64, length: u64) -> u64 {
        let runs = self.within(from, length).filter(|run| !run.to.is_hole());
        runs.map(|run| run.to.length).sum()
    }

    /// How many chunks of a range have an entry, be it a hole.
    pub(crate) fn covered(&self, from: u64, length: u64) -> u64 {
        self.within(from, length).map(|run| run.to.length).sum()
    }

    /// How many chunks of another map lie where this one has an entry, be it a hole.
    pub(crate) fn hides(&self, other: &Self) -> u64 {
        self.iter().map(|run| other.chunks_within(run.at, run.to.length)).sum()
    }

    /// How many chunks from `chunk` on have no entry, `limit` at most.
    pub(crate) fn hole(&self, chunk: u64, limit: u64) -> u64 {
        if self.containing(chunk).is_some() {
            return 0;
        }
        limit.min(self.next_from(chunk).unwrap_or(u64::MAX) - chunk)
    }

    /// Maps a run into a hole.
    pub(crate) fn insert(&mut self, run: Run) -> Result<(), Broken> {
        let Run { mut at, mut to } = run;
        if to.length == 0 || self.hole(at, to.length) < to.length {
            return Err(Broken(format!("{run:?} is empty or partly mapped already")));
        }
        self.chunks += if to.is_hole() { 0 } else { to.length };
        if let Some(&next) = self.runs.get(&run.end()).filter(|next| next.start == to.end()) {
            to.length += next.length;
            self.drop_entry(run.end());
        }
        let previous = at.checked_sub(1).and_then(|before| self.containing(before));
        if let Some(previous) = previous.filter(|previous| previous.to.end() == to.start) {
            at = previous.at;
            to = Extent { start: previous.to.start, length: previous.to.length + to.length };
        }
        self.put_entry(at, to);
        Ok(())
    }

    /// Unmaps a range, holes and all; says what was mapped there.
    pub(crate) fn remove(&mut self, from: u64, length: u64) -> Vec<Run> {
        let end = from.saturating_add(length);
        let first = self.containing(from).map_or(from, |run| run.at);
        let runs: Vec<Run> = self.runs.range(first..end).map(|(&at, &to)| Run { at, to }).collect();
        let mut removed = Vec::with_capacity(runs.len());
        for run in runs {
            let cut = run.at.max(from);
            let stop = run.end().min(end);
            self.drop_entry(run.at);
            if run.at < cut {
                self.put_entry(run.at, Extent { length: cut - run.at, ..run.to });
            }
            if stop < run.end() {
                let start = run.to.start.after(stop - run.at);
                self.put_entry(stop, Extent { start, length: run.end() - stop });
            }
            let start = run.to.start.after(cut - run.at);
            self.chunks -= if run.to.is_hole() { 0 } else { stop - cut };
            removed.push(Run { at: cut, to: Extent { start, length: stop - cut } });
        }
        removed
    }

    /// Where the last `runs` runs begin, or zero when there are no more than those.
    pub(crate) fn last_part(&self, runs: usize) -> u64 {
        let before = self.runs.iter().rev().nth(runs);
        before.map_or(0, |(&at, to)| at + to.length)
    }

    /// The end of the last run.
    pub(crate) fn end(&self) -> u64 {
        self.iter().next_back().map_or(0, Run::end)
    }

    /// The entries that changed since the last call, as they are now (`None`: gone).
    pub(crate) fn changes(&mut self) -> Vec<(u64, Option<Extent>)> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|at| (at, self.runs.get(&at).copied())).collect()
    }

    fn put_entry(&mut self, at: u64, to: Extent) {
        self.runs.insert(at, to);
        self.touched.insert(at);
    }

    fn drop_entry(&mut self, at: u64) {
        self.runs.remove(&at);
        self.touched.insert(at);
    }
}
