// SPDX-License-Identifier: LGPL-2.1-or-later
//! Layers: maps on top of each other, through which volumes and snapshots share chunks.
//!
//! A read of a volume looks for the chunk in the volume's layer, then in the layer's parent, and so on: the first entry
//! with the chunk is used, and it may be a hole. A chunk belongs to exactly one layer.
//!
//! ```text
//!    disk0        clone      names
//!      │            │
//!    [ 5 ]        [ 6 ]      tops: they are written
//!      └──────┬─────┘
//!           [ 4 ]            frozen: 'disk0@mon'
//!             │
//!           [ 2 ]            frozen, without a name and with one child: merged into 4
//! ```
//!
//! Invariants: a parent has a lower number than its children, so there is no circle. The content of a layer with
//! children never changes: its chunks may move, and may become holes if they are all zeroes. The chunks of a child
//! are of later generations than those of its parent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::account::Account;
use super::{Broken, Place, Ranges, Run, VolumeMap};

/// A layer's number. Zero is none.
pub(crate) type LayerId = u64;

/// A layer without its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerRow {
    /// The layer below it.
    pub(crate) parent: Option<LayerId>,
    /// The generation that its new chunks have in the kernel.
    pub(crate) generation: u16,
    /// The lowest generation of its chunks: lower than its own after other layers were merged into it.
    pub(crate) since: u16,
}

impl LayerRow {
    /// A layer without a parent.
    pub(crate) const FIRST: Self = Self { parent: None, generation: 0, since: 0 };

    /// Whether the layer `id` with this row can be on top of its parent, which has the row `below`.
    pub(crate) fn fits(self, id: LayerId, below: Self) -> bool {
        let later = below.generation < self.since && self.since <= self.generation;
        self.parent.is_some_and(|parent| parent < id) && later
    }
}

/// A layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) row: LayerRow,
    /// Its own entries, among them holes over chunks of the layers below.
    pub(crate) map: VolumeMap,
    pub(crate) children: BTreeSet<LayerId>,
    /// Whether it is the layer of a volume or of a snapshot.
    pub(crate) named: bool,
    /// The number of chunks that it shows, including those of the layers below.
    pub(crate) shown: u64,
    /// The number of its parent's own chunks that it hides.
    pub(super) hidden: u64,
    /// Who shows its own chunks.
    pub(super) account: Account,
}

impl Layer {
    /// Whether it is merged into its only child.
    pub(crate) fn merges(&self) -> bool {
        !self.named && self.children.len() == 1
    }

    /// Whether no volume or snapshot shows its chunks.
    pub(crate) fn is_waste(&self) -> bool {
        !self.named && self.children.is_empty()
    }

    /// Whether some of its chunks are hidden by all that stands on it.
    pub(crate) fn has_unseen(&self) -> bool {
        !self.named && self.children.len() > 1 && self.account.has_unseen()
    }
}

/// All layers of a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers {
    pub(super) all: BTreeMap<LayerId, Layer>,
    last: LayerId,
    /// Those whose chunks are not all counted.
    pub(super) to_count: BTreeSet<LayerId>,
    /// Those with a name of which another number of chunks may be alone.
    pub(super) recounted: BTreeSet<LayerId>,
}

impl Layers {
    /// The layers that the metadata has.
    pub(crate) fn load(rows: BTreeMap<LayerId, (LayerRow, Vec<Run>)>) -> Result<Self, Broken> {
        let mut layers = Self::default();
        for (id, (row, runs)) in rows {
            let mut map = VolumeMap::default();
            for run in runs {
                map.insert(run)?;
            }
            map.changes();
            layers.add(id, row)?;
            if let Some(layer) = layers.all.get_mut(&id) {
                layer.map = map;
            }
            layers.count_hidden(id);
            layers.count_anew(id);
            let shown = match row.parent {
                None => layers.all.get(&id).map_or(0, |layer| layer.map.chunks()),
                Some(_) => layers.shown(id, 0..u64::MAX),
            };
            if let Some(layer) = layers.all.get_mut(&id) {
                layer.shown = shown;
            }
        }
        Ok(layers)
    }

    /// The highest generation of all layers.
    pub(crate) fn highest_generation(&self) -> u16 {
        self.all.values().map(|layer| layer.row.generation).max().unwrap_or(0)
    }

    /// The rows of layers that change when each gets the number of layers below it as its generation.
    pub(crate) fn counted_anew(&self) -> Vec<(LayerId, LayerRow)> {
        let mut counted: BTreeMap<LayerId, u16> = BTreeMap::new();
        // Those below come first.
        for (&id, layer) in &self.all {
            let below = layer.row.parent.and_then(|parent| counted.get(&parent));
            // The generation that it has is no lower than this: it is above that of the one below.
            counted.insert(id, below.map_or(0, |below| below + 1));
        }
        let row = |(id, generation)| {
            let before = self.all.get(&id)?.row;
            let row = LayerRow { generation, since: generation, ..before };
            (row != before).then_some((id, row))
        };
        counted.into_iter().filter_map(row).collect()
    }

    pub(crate) fn get(&self, id: LayerId) -> Option<&Layer> {
        self.all.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LayerId) -> Option<&mut Layer> {
        self.all.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LayerId, &Layer)> {
        self.all.iter().map(|(&id, layer)| (id, layer))
    }

    /// A number that no layer had before.
    pub(crate) fn next_id(&mut self) -> LayerId {
        self.last += 1;
        self.last
    }

    /// Numbers up to this one are not given again.
    pub(crate) fn keep_numbers(&mut self, other: &Self) {
        self.last = self.last.max(other.last);
    }

    /// Adds an empty layer on top of its parent, whose chunks it shows.
    pub(crate) fn add(&mut self, id: LayerId, row: LayerRow) -> Result<(), Broken> {
        let mut shown = 0;
        if let Some(parent) = row.parent {
            let below = self.all.get_mut(&parent).filter(|below| row.fits(id, below.row));
            let Some(below) = below else {
                return Err(Broken(format!("the layer {id} cannot stand on {parent}")));
            };
            below.children.insert(id);
            shown = below.shown;
        }
        let (map, children) = (VolumeMap::default(), BTreeSet::new());
        let account = Account::empty();
        self.all.insert(id, Layer { row, map, children, named: false, shown, hidden: 0, account });
        self.last = self.last.max(id);
        Ok(())
    }

    /// Removes a layer that has neither children nor chunks.
    pub(crate) fn remove(&mut self, id: LayerId) -> Option<Layer> {
        let layer = self.all.remove(&id)?;
        self.set_child(layer.row.parent, id, false);
        self.to_count.remove(&id);
        Some(layer)
    }

    /// Puts back a layer that [`Layers::remove`] removed.
    pub(crate) fn put_back(&mut self, id: LayerId, layer: Layer) {
        self.set_child(layer.row.parent, id, true);
        self.all.insert(id, layer);
        self.count_anew(id);
    }

    /// Notes in a parent that a layer is, or is no longer, its child.
    fn set_child(&mut self, parent: Option<LayerId>, id: LayerId, stands: bool) {
        let below = parent.and_then(|parent| self.all.get_mut(&parent));
        if let Some(below) = below {
            if stands {
                below.children.insert(id);
            } else {
                below.children.remove(&id);
            }
        }
    }

    /// Changes a layer's row; its new parent must show the same chunks to it.
    pub(crate) fn set_row(&mut self, id: LayerId, row: LayerRow) {
        let Some(layer) = self.all.get_mut(&id) else { return };
        let before = std::mem::replace(&mut layer.row, row).parent;
        self.set_child(before, id, false);
        self.set_child(row.parent, id, true);
        if before != row.parent {
            self.count_hidden(id);
        }
    }

    /// Puts an entry into a layer's map.
    pub(crate) fn insert(&mut self, id: LayerId, run: Run) -> Result<(), Broken> {
        let below = self.below(id, run);
        below.iter().for_each(|part| self.tally(*part, false));
        let inserted = self.all.get_mut(&id).map_or(Ok(()), |layer| layer.map.insert(run));
        if inserted.is_ok() {
            self.hide(id, run, |hidden, chunks| hidden + chunks);
            self.tally((id, run.at, run.end()), true);
        }
        below.iter().for_each(|part| self.tally(*part, true));
        inserted
    }

    /// Removes all entries of a part of a layer's map; returns them.
    pub(crate) fn take(&mut self, id: LayerId, from: u64, length: u64) -> Vec<Run> {
        let Some(layer) = self.all.get(&id) else { return Vec::new() };
        let there: Vec<Run> = layer.map.within(from, length).collect();
        let below: Vec<_> = there.iter().flat_map(|run| self.below(id, *run)).collect();
        let own = there.iter().map(|run| (id, run.at, run.end()));
        below.iter().copied().chain(own).for_each(|part| self.tally(part, false));
        let removed = self.all.get_mut(&id).map_or_else(Vec::new, |l| l.map.remove(from, length));
        for &run in &removed {
            self.hide(id, run, |hidden, chunks| hidden.saturating_sub(chunks));
        }
        below.into_iter().for_each(|part| self.tally(part, true));
        removed
    }

    /// Counts an entry that a layer gets or loses: the entry hides chunks of the parent, and children hide the entry.
    fn hide(&mut self, id: LayerId, run: Run, change: impl Fn(u64, u64) -> u64) {
        let Some(layer) = self.all.get(&id) else { return };
        let (parent, children) = (layer.row.parent, layer.children.clone());
        let below = parent.and_then(|parent| self.all.get(&parent));
        let hides = below.map_or(0, |below| below.map.chunks_within(run.at, run.to.length));
        if let Some(layer) = self.all.get_mut(&id) {
            layer.hidden = change(layer.hidden, hides);
        }
        for child in children.iter().filter(|_| !run.to.is_hole()) {
            if let Some(child) = self.all.get_mut(child) {
                let covered = child.map.covered(run.at, run.to.length);
                child.hidden = change(child.hidden, covered);
            }
        }
    }

    fn count_hidden(&mut self, id: LayerId) {
        let Some(layer) = self.all.get(&id) else { return };
        let below = layer.row.parent.and_then(|parent| self.all.get(&parent));
        let hidden = below.map_or(0, |below| layer.map.hides(&below.map));
        if let Some(layer) = self.all.get_mut(&id) {
            layer.hidden = hidden;
        }
    }

    /// The number of its parent's chunks that a layer hides.
    #[cfg(test)]
    pub(crate) fn hidden(&self, top: LayerId) -> Option<u64> {
        self.all.get(&top).map(|layer| layer.hidden)
    }

    /// This layer and those below it, from the top down.
    pub(crate) fn down(&self, top: LayerId) -> impl Iterator<Item = (LayerId, &Layer)> {
        let first = self.all.get(&top).map(|layer| (top, layer));
        std::iter::successors(first, |(_, layer)| {
            let parent = layer.row.parent?;
            self.all.get(&parent).map(|below| (parent, below))
        })
    }

    /// Those of them that nothing else shows: their chunks belong to this layer's volume or snapshot alone.
    pub(crate) fn exclusive(&self, top: LayerId) -> impl Iterator<Item = (LayerId, &Layer)> {
        self.down(top).take_while(move |(id, layer)| *id == top || layer.merges())
    }

    /// The first layer, from this one down, that others show as well.
    pub(crate) fn first_shared(&self, top: LayerId) -> Option<LayerId> {
        self.exclusive(top).last().and_then(|(_, layer)| layer.row.parent)
    }

    /// Whether only the volume or snapshot of `top` shows the layer `owner`.
    pub(crate) fn is_exclusive(&self, top: LayerId, owner: LayerId) -> bool {
        self.exclusive(top).any(|(id, _)| id == owner)
    }

    /// The end, at most `end`, of the part from `at` on that lies in one run or in no run, and the chunk at `at`.
    fn segment(&self, top: LayerId, at: u64, end: u64) -> (u64, Option<(LayerId, Place)>) {
        shown(self.down(top).map(|(id, layer)| (id, layer.map.iter_from(at).next())), at, end)
    }

    /// The runs that a layer shows in a range, each with the layer that it belongs to. Runs that continue each
    /// other in one layer are one.
    pub(crate) fn flat<'a>(
        &'a self,
        top: LayerId,
        range: Range<u64>,
    ) -> impl Iterator<Item = (LayerId, Run)> + 'a {
        let mut at = range.start;
        // One walk through each layer: a look-up of each run in each layer costs many times that.
        let walk = |(id, layer): (LayerId, &'a Layer)| (id, layer.map.iter_from(at).peekable());
        let mut walks: Vec<_> = self.down(top).map(walk).collect();
        std::iter::from_fn(move || {
            while at < range.end {
                let from = at;
                let next = walks.iter_mut().map(|(owner, runs)| {
                    while runs.next_if(|run| run.end() <= from).is_some() {}
                    (*owner, runs.peek().copied())
                });
                let (end, found) = shown(next, from, range.end);
                at = end;
                if let Some((owner, start)) = found {
                    let to = super::Extent { start, length: end - from };
                    return Some((owner, Run { at: from, to }));
                }
            }
            None
        })
    }

    /// The layers that show this layer's chunks in these ranges, itself among them, each with the ranges that it shows.
    pub(crate) fn showing(&self, layer: LayerId, ranges: &Ranges) -> BTreeMap<LayerId, Ranges> {
        let (mut showing, mut next) = (BTreeMap::new(), vec![(layer, ranges.clone())]);
        while let Some((id, shown)) = next.pop() {
            for child in self.all.get(&id).into_iter().flat_map(|layer| &layer.children) {
                let Some(map) = self.all.get(child).map(|child| &child.map) else { continue };
                let mut seen = shown.clone();
                for (at, length) in shown.iter() {
                    map.within(at, length).for_each(|run| seen.remove(run.at, run.to.length));
                }
                if !seen.is_empty() {
                    next.push((*child, seen));
                }
            }
            showing.insert(id, shown);
        }
        showing
    }

    /// All that a layer shows, as one map.
    pub(crate) fn flattened(&self, top: LayerId) -> Result<VolumeMap, Broken> {
        let mut map = VolumeMap::default();
        self.flat(top, 0..u64::MAX).try_for_each(|(_, run)| map.insert(run))?;
        Ok(map)
    }

    /// The place of a chunk, and the layer that it belongs to.
    pub(crate) fn place(&self, top: LayerId, chunk: u64) -> Option<(LayerId, Place)> {
        self.segment(top, chunk, chunk.saturating_add(1)).1
    }

    /// How many chunks from `chunk` on are a hole, `limit` at most.
    pub(crate) fn hole(&self, top: LayerId, chunk: u64, limit: u64) -> u64 {
        let (mut at, end) = (chunk, chunk.saturating_add(limit));
        while at < end
            && let (next, None) = self.segment(top, at, end)
        {
            at = next;
        }
        at - chunk
    }

    /// The first hole between `from` and `end`, and how long it is.
    pub(crate) fn first_hole(&self, top: LayerId, from: u64, end: u64) -> Option<(u64, u64)> {
        let mut at = from;
        while at < end
            && let (next, Some(_)) = self.segment(top, at, end)
        {
            at = next;
        }
        (at < end).then(|| (at, self.hole(top, at, end - at)))
    }

    /// The end of the last chunk that a layer shows.
    pub(crate) fn end(&self, top: LayerId) -> u64 {
        match self.all.get(&top) {
            Some(layer) if layer.row.parent.is_none() => layer.map.end(),
            _ => self.flat(top, 0..u64::MAX).last().map_or(0, |(_, run)| run.end()),
        }
    }

    /// How many chunks from `from` on, `length` at most, are shown in so many runs.
    pub(crate) fn reach(&self, top: LayerId, from: u64, length: u64, runs: usize) -> u64 {
        let end = from.saturating_add(length);
        self.flat(top, from..end).nth(runs).map_or(length, |(_, run)| run.at - from)
    }

    /// How many chunks a layer shows in a range.
    pub(crate) fn shown(&self, top: LayerId, range: Range<u64>) -> u64 {
        self.flat(top, range).map(|(_, run)| run.to.length).sum()
    }

    /// Where two layers may show different chunks: ranges that go upwards. `base` is below `top`,
    /// or `None`: then it is all that is shown.
    pub(crate) fn difference(&self, top: LayerId, base: Option<LayerId>) -> Option<Ranges> {
        let mut ranges = Ranges::default();
        for (id, layer) in self.down(top) {
            if Some(id) == base {
                return Some(ranges);
            }
            layer.map.iter().for_each(|run| ranges.insert(run.at, run.to.length));
        }
        base.is_none().then_some(ranges)
    }
}

/// How far what layers show at `at` goes on in the same way, `end` at most, and what that is. Of each layer,
/// from the top down, there is the run that the chunk is in, or the next one.
fn shown(
    layers: impl Iterator<Item = (LayerId, Option<Run>)>,
    at: u64,
    mut end: u64,
) -> (u64, Option<(LayerId, Place)>) {
    for (id, run) in layers {
        let Some(run) = run else { continue };
        if run.at <= at {
            let place = run.to.start.after(at - run.at);
            return (end.min(run.end()), (!run.to.is_hole()).then_some((id, place)));
        }
        end = end.min(run.at);
    }
    (end, None)
}
