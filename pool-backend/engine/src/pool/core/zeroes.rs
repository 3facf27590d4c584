// SPDX-License-Identifier: LGPL-2.1-or-later
//! Chunks of a layer that are all zeroes, and become holes while guests use them.
//!
//! ```text
//!   all zeroes ──▶ nobody writes, and nobody has written ──▶ has left every device ──commit──▶ free
//!       ▲                 │ put back: a write came                    │ killed: mapped again, or a hole
//!       └─────────────────┘                                           └─ both read as zeroes
//! ```
//!
//! What the layer shows reads the same before and after: where a layer below has a chunk, the hole is an
//! entry over it.

use virtnotify_model::BackendError;

use super::relocate::Holder;
use super::{Core, Durable, Gap, Txn, VolumeId};
use crate::alloc::{LayerId, Ranges, Run};

/// Chunks of one layer that were read as zeroes, and the devices that show them.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Empty {
    pub(in crate::pool) layer: LayerId,
    pub(in crate::pool) runs: Vec<Run>,
    pub(in crate::pool) holders: Vec<Holder>,
}

impl Empty {
    /// All of the chunks.
    pub(in crate::pool) fn ranges(&self) -> Ranges {
        self.runs.iter().copied().collect()
    }
}

impl Core {
    /// The chunks that a layer has from a chunk on, `most` at most, but for those that are about to be
    /// written for the first time or were discarded: these come back by themselves. Says where to go on,
    /// if there is more.
    pub(in crate::pool) fn quiet_runs(
        &self,
        layer: LayerId,
        from: u64,
        most: u64,
    ) -> (Vec<Run>, Option<u64>) {
        let (mut quiet, mut left) = (Vec::new(), most);
        let in_motion = self.in_motion(layer);
        for run in self.layer_runs_from(layer, from) {
            if left == 0 {
                return (quiet, Some(run.at));
            }
            let part = run.part(run.at, run.end().min(run.at.saturating_add(left)));
            if in_motion(&part) {
                let chunks = (part.at..part.end()).map(|chunk| part.part(chunk, chunk + 1));
                quiet.extend(chunks.filter(|chunk| !in_motion(chunk)));
            } else {
                quiet.push(part);
            }
            left -= part.to.length;
            if part.end() < run.end() {
                return (quiet, Some(part.end()));
            }
        }
        (quiet, None)
    }

    /// Begins to take chunks from a layer that were read as zeroes: all that are still where they were,
    /// and in nobody's hands. `None` if others change the volumes just now.
    pub(in crate::pool) fn begin_emptying(
        &mut self,
        layer: LayerId,
        mut runs: Vec<Run>,
    ) -> Option<Empty> {
        // What was decided about a volume before may be to map these chunks where they are.
        let sending = self.standing_on(layer).any(|(_, volume)| volume.sending > 0);
        if sending || !self.can_relocate(layer) {
            return None;
        }
        let in_motion = self.in_motion(layer);
        runs.retain(|run| self.has_run(layer, *run) && !in_motion(run));
        drop(in_motion);
        let holders = self.hold(layer, &runs);
        Some(Empty { layer, runs, holders })
    }

    /// Whether a layer has these chunks at this place.
    fn has_run(&self, layer: LayerId, run: Run) -> bool {
        let map = self.layers.get(layer).map(|layer| &layer.map);
        map.is_some_and(|map| map.within(run.at, run.to.length).next() == Some(run))
    }

    /// These chunks have left every device that showed them, as `left` says of each volume: the layer
    /// has holes in their place now, and they are free, and zeroes.
    pub(in crate::pool) fn emptied(
        &mut self,
        empty: &Empty,
        gone: &Ranges,
        left: &[(VolumeId, Ranges)],
    ) -> Result<Durable<Vec<(VolumeId, Gap)>>, BackendError> {
        self.usable()?;
        self.check_holders(empty.layer, &empty.holders)?;
        let of = |run: &Run| {
            let (run, parts) = (*run, gone.within(run.at, run.to.length));
            parts.into_iter().map(move |(at, length)| run.part(at, at + length))
        };
        let runs: Vec<Run> = empty.runs.iter().flat_map(of).collect();
        let done = self.change(|txn| {
            txn.show_less(empty.layer, gone);
            runs.iter().try_for_each(|run| txn.empty(empty.layer, *run))?;
            let gaps = left.iter().flat_map(|(id, ranges)| ranges.iter().map(|gap| (*id, gap)));
            Ok(gaps.collect())
        })?;
        self.figures.given_back += runs.iter().map(|run| run.to.length).sum::<u64>();
        self.figures.give_back_commits += 1;
        Ok(done)
    }

    /// Nobody takes chunks of these any more.
    pub(in crate::pool) fn end_emptying(&mut self, empty: &Empty) {
        for holder in &empty.holders {
            if let Some(volume) = self.volumes.get_mut(&holder.id) {
                volume.copying.remove_all(&holder.ranges);
            }
        }
    }
}

impl Txn<'_> {
    /// These chunks of a layer are shown no more, by any layer on it.
    fn show_less(&mut self, layer: LayerId, gone: &Ranges) {
        for (top, ranges) in self.layers.showing(layer, gone) {
            let less: u64 = ranges.iter().map(|(_, length)| length).sum();
            let before = self.layers.get(top).map_or(0, |top| top.shown);
            self.set_shown(top, before - less);
        }
    }

    /// Makes a hole of chunks that a layer has, which are zeroes, for all that show them.
    fn empty(&mut self, layer: LayerId, run: Run) -> Result<(), BackendError> {
        if self.remove(layer, run.at, run.to.length) != [run] {
            let at = run.at;
            let what = format!("chunks at {at} of the layer {layer} are not where they were read");
            return Err(BackendError::Refused(what));
        }
        let below = self.layers.get(layer).and_then(|layer| layer.row.parent);
        self.hole_over(layer, below, run.at..run.end())?;
        self.release(&[run], true)
    }
}
