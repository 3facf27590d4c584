// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who shows the chunks of a layer: what is one volume's or snapshot's alone, and what nothing shows.
//!
//! A chunk is shown by the layers with a name that see it: its own one, and those on it on whose way to it
//! no layer has an entry. Of each layer's chunks are counted those that one name alone shows, by that name;
//! deleting it gives them back. And those are noted that no name shows: they are waste, however many layers
//! stand on theirs.
//!
//! What was counted is kept by what changes: an entry that comes or goes changes who sees the chunks right
//! below it. When a name or a layer comes or goes, layers that the answer follows for from numbers have it
//! at once. Others are counted anew in parts, as their chunks may be many; until that is done fewer are
//! counted than there are.

use std::collections::BTreeMap;

use super::{Layer, LayerId, Layers};
use crate::alloc::{Ranges, Run};

/// Who shows a layer's own chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// How many of them one layer with a name alone shows, by that layer.
    sole: BTreeMap<LayerId, u64>,
    /// Those that no layer with a name shows.
    unseen: Ranges,
    /// From this chunk on they are not counted.
    end: u64,
}

impl Account {
    /// Of a layer of which all is known.
    fn known(sole: impl IntoIterator<Item = (LayerId, u64)>) -> Self {
        let sole = sole.into_iter().filter(|(_, chunks)| *chunks > 0).collect();
        Self { sole, unseen: Ranges::default(), end: u64::MAX }
    }

    /// Of a layer that has no chunks.
    pub(super) fn empty() -> Self {
        Self::known(None)
    }

    pub(super) fn has_unseen(&self) -> bool {
        !self.unseen.is_empty()
    }
}

/// Who shows a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Viewers {
    Nobody,
    One(LayerId),
    Several,
}

impl Viewers {
    fn and(self, other: LayerId) -> Self {
        match self {
            Self::Nobody => Self::One(other),
            _ => Self::Several,
        }
    }
}

/// Some chunks of a layer.
type Part = (LayerId, u64, u64);

impl Layers {
    /// How many chunks nothing would show any more without the name on this layer.
    pub(crate) fn alone(&self, top: LayerId) -> u64 {
        let without_a_name = self.down(top).take_while(|(id, layer)| *id == top || !layer.named);
        without_a_name.filter_map(|(_, layer)| layer.account.sole.get(&top)).sum()
    }

    /// Chunks of a layer that nothing shows, although layers stand on it that have a name: so many ranges at most.
    pub(crate) fn unseen(&self, id: LayerId, most: usize) -> Vec<(u64, u64)> {
        let shared = self.get(id).filter(|layer| layer.has_unseen());
        shared.into_iter().flat_map(|layer| layer.account.unseen.iter()).take(most).collect()
    }

    /// The layers with a name of which [`Layers::alone`] may have changed since the last call.
    pub(crate) fn take_recounted(&mut self) -> Vec<LayerId> {
        std::mem::take(&mut self.recounted).into_iter().collect()
    }

    /// Whether chunks have yet to be counted.
    #[cfg(test)]
    pub(crate) fn is_counting(&self) -> bool {
        !self.to_count.is_empty()
    }

    /// Counts a part of a layer that is not counted, so many runs at most; says whether there was one.
    pub(crate) fn count_part(&mut self, runs: usize) -> bool {
        let Some(id) = self.to_count.first().copied() else { return false };
        let Some(layer) = self.get_mut(id) else { return self.to_count.remove(&id) };
        let from = layer.account.end;
        let end = layer.map.iter_from(from).nth(runs).map_or(u64::MAX, |next| next.at);
        layer.account.end = end;
        if end == u64::MAX {
            self.to_count.remove(&id);
        }
        self.tally((id, from, end), true);
        true
    }

    /// Gives a layer a name, or takes it away; says whether it had one.
    pub(crate) fn set_named(&mut self, id: LayerId, named: bool) -> Option<bool> {
        let before = std::mem::replace(&mut self.get_mut(id)?.named, named);
        self.recounted.insert(id);
        // Two names that are nearer see whatever lies further down, with it or without it.
        let (mut affected, mut names) = (Vec::new(), 0);
        for (below, layer) in self.down(id) {
            names += u8::from(below != id && layer.named);
            if names > 1 {
                break;
            }
            affected.push(below);
        }
        affected.into_iter().for_each(|below| self.count_anew(below));
        Some(before)
    }

    /// The parts of other layers that are seen, or not, by way of an entry of this one.
    pub(super) fn below(&self, id: LayerId, run: Run) -> Vec<Part> {
        let parent = self.get(id).and_then(|layer| layer.row.parent);
        let Some(parent) = parent.filter(|_| self.has_viewers(id)) else { return Vec::new() };
        self.flat(parent, run.at..run.end())
            .map(|(owner, run)| (owner, run.at, run.end()))
            .collect()
    }

    /// Counts, or no more, who shows the chunks that a layer has in a part of it.
    pub(super) fn tally(&mut self, (owner, from, end): Part, add: bool) {
        let Some(layer) = self.get(owner) else { return };
        let end = end.min(layer.account.end);
        let own: Vec<Run> = match from < end {
            true => layer.map.within(from, end - from).filter(|run| !run.to.is_hole()).collect(),
            false => return,
        };
        for run in own {
            let mut at = run.at;
            while at < run.end() {
                let (next, viewers) = self.viewers(owner, at, run.end());
                self.enter(owner, viewers, (at, next - at), add);
                at = next;
            }
        }
    }

    fn enter(&mut self, owner: LayerId, viewers: Viewers, (at, length): (u64, u64), add: bool) {
        let Some(layer) = self.get_mut(owner) else { return };
        let account = &mut layer.account;
        match viewers {
            Viewers::Several => {}
            Viewers::Nobody if add => account.unseen.insert(at, length),
            Viewers::Nobody => account.unseen.remove(at, length),
            Viewers::One(name) => {
                let chunks = account.sole.entry(name).or_default();
                *chunks = if add { *chunks + length } else { chunks.saturating_sub(length) };
                if *chunks == 0 {
                    account.sole.remove(&name);
                }
                self.recounted.insert(name);
            }
        }
    }

    /// How far what a layer has at `at` is shown by the same ones, `end` at most, and by whom.
    fn viewers(&self, owner: LayerId, at: u64, mut end: u64) -> (u64, Viewers) {
        let (mut viewers, mut next) = (Viewers::Nobody, vec![owner]);
        while let Some(id) = next.pop() {
            let Some(layer) = self.get(id) else { continue };
            if layer.named {
                viewers = viewers.and(id);
            }
            if viewers == Viewers::Several {
                break;
            }
            for &child in &layer.children {
                let entry = self.get(child).and_then(|child| child.map.iter_from(at).next());
                match entry {
                    Some(run) if run.at <= at => end = end.min(run.end()),
                    Some(run) => {
                        end = end.min(run.at);
                        next.push(child);
                    }
                    None => next.push(child),
                }
            }
        }
        (end, viewers)
    }

    /// Whether a layer with a name is this one or stands on it.
    fn has_viewers(&self, id: LayerId) -> bool {
        let Some(layer) = self.get(id) else { return false };
        layer.named || layer.children.iter().any(|child| self.has_viewers(*child))
    }

    /// Who shows a layer's chunks is another question now.
    pub(in crate::alloc) fn count_anew(&mut self, id: LayerId) {
        let account = self.known(id);
        match &account {
            Some(_) => self.to_count.remove(&id),
            None => self.to_count.insert(id),
        };
        let Some(layer) = self.all.get_mut(&id) else { return };
        let before = std::mem::replace(&mut layer.account, account.unwrap_or_default());
        let after = layer.account.sole.keys().copied();
        self.recounted.extend(before.sole.into_keys().chain(after));
    }

    /// Who shows a layer's chunks, where that follows from how many of them each layer on it hides.
    fn known(&self, id: LayerId) -> Option<Account> {
        let layer = self.get(id)?;
        let own = layer.map.chunks();
        let mut named_all = u8::from(layer.named);
        let mut viewing: Vec<(LayerId, &Layer)> = Vec::new();
        for &child in &layer.children {
            let Some(found) = self.get(child).filter(|_| self.has_viewers(child)) else { continue };
            named_all += u8::from(found.named && found.hidden == 0);
            if named_all > 1 {
                return Some(Account::empty());
            }
            viewing.push((child, found));
        }
        match (layer.named, viewing.as_slice()) {
            (_, []) => Some(Account::known(layer.named.then_some((id, own)))),
            (true, [(_, child)]) if child.named => Some(Account::known([(id, child.hidden)])),
            (false, [(only, child)])
                if child.named && child.children.is_empty() && layer.merges() =>
            {
                Some(Account::known([(*only, own - child.hidden)]))
            }
            _ => None,
        }
    }
}
