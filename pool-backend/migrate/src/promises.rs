// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a choice has to know of the moves that are under way, and of those that failed.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use virtnotify_model::{Bytes, PoolName};

use crate::owner::Mover;
use crate::policy::{Margin, Needs};
use crate::prepare::Question;

impl Mover {
    /// What a peer is chosen from, for that VM.
    pub(super) fn question(&self, uuid: Uuid) -> Question {
        let open = self.open.values().filter(|open| !open.is_over());
        Question {
            peers: self.config.peers.clone(),
            avoid: self.avoided(uuid),
            promised: self.promised(),
            moving: open.map(|open| open.record.uuid).collect(),
            margin: Margin::default(),
            no_return: self.config.timing.no_return,
            coming: self.coming(),
            keeps_apart: true,
        }
    }

    /// The groups that are on their way to each peer.
    fn coming(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut coming: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for open in self.open.values().filter(|open| !open.is_over()) {
            let (record, groups) = (&open.record, open.record.apart.iter().cloned());
            let there = coming.entry(record.to().to_owned()).or_default();
            there.extend(groups.map(|group| (group, record.domain.clone())));
        }
        coming
    }

    /// What the moves under way will give back to a pool. One that does not end may never do so.
    pub(super) fn leaving(&self, pool: &PoolName) -> Bytes {
        let open = self.open.values().filter(|open| !open.is_over() && !open.is_stuck());
        open.filter_map(|open| open.record.frees().get(pool).copied()).sum()
    }

    /// Peers to leave out: those where an earlier move of the VM is still being tidied up, and
    /// all that failed it lately, unless no other is left.
    fn avoided(&self, uuid: Uuid) -> BTreeSet<String> {
        let untidy = self.open.keys().filter(|(of, _)| *of == uuid).map(|(_, peer)| peer.clone());
        let untidy: BTreeSet<String> = untidy.collect();
        let held = self.waiting.get(&uuid).map(|waiting| &waiting.held);
        let held = held.into_iter().chain(self.held.get(&uuid));
        let failed = held.flat_map(|held| held.avoid.iter().cloned());
        let all: BTreeSet<String> = untidy.iter().cloned().chain(failed).collect();
        let others = self.config.peers.iter().any(|peer| !all.contains(&peer.name));
        if others { all } else { untidy }
    }

    /// What the moves under way still take, for each peer.
    fn promised(&self) -> BTreeMap<String, Needs> {
        let mut promised: BTreeMap<String, Needs> = BTreeMap::new();
        for open in self.open.values().filter(|open| !open.is_over()) {
            let peer = promised.entry(open.record.peer().name).or_default();
            for (pool, need) in open.record.needs() {
                let sum = peer.entry(pool).or_default();
                *sum = sum.saturating_add(need);
            }
        }
        promised
    }
}
