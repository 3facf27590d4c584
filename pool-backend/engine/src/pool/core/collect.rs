// SPDX-License-Identifier: LGPL-2.1-or-later
//! What becomes of layers that nobody names: they are freed, or merged into the only one on them.

use virtnotify_model::BackendError;

use super::super::occupied::Occupied;
use super::{Core, MOST_RUNS, Txn, Unwanted, Volume, VolumeId};
use crate::alloc::{LayerId, LayerRow, Run};
use crate::target::DeviceId;

/// What a step of [`Core::collect`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Whether there was anything to do.
    pub(crate) some: bool,
    /// The volume whose chunks are its own alone now, which were shared before.
    pub(crate) unshared: Option<VolumeId>,
}

impl Core {
    /// Every device has what the metadata says: what nothing shows can go.
    pub(in crate::pool) fn begin_collecting(&mut self) {
        self.collecting = true;
    }

    /// Whether a layer is shown by the device of a volume that has yet to take a copy of what is in
    /// it, or may still read what was copied; or by a volume whose chunks are being overwritten, hidden ones too.
    fn is_needed(&self, layer: LayerId) -> bool {
        let copying = |volume: &Volume| !volume.has_its_copies() || volume.reads_elsewhere();
        let wiped = |volume: &Volume| volume.occupied == Some(Occupied::Wiped);
        let needing = |volume: &&Volume| volume.not_taken_over || wiped(volume) || copying(volume);
        let mut needing = self.volumes.values().filter(needing);
        needing.any(|v| self.layers.down(v.row.layer).any(|(id, _)| id == layer))
    }

    /// The devices that may still read what would come free, where layers are merged or have what nothing shows, and
    /// how often each of them took copies.
    pub(in crate::pool) fn to_be_drained(&self) -> Vec<(VolumeId, DeviceId, u64)> {
        let frees = |volume: &Volume| {
            let mut layers = self.layers.down(volume.row.layer);
            layers.any(|(_, layer)| layer.merges() || layer.has_unseen())
        };
        let reading = self.volumes.iter().filter(|(_, v)| v.reads_elsewhere() && frees(v));
        reading.map(|(&id, volume)| (id, volume.device.clone(), volume.took)).collect()
    }

    /// What a device was reading when it had taken copies so often has ended.
    pub(in crate::pool) fn drained(&mut self, id: VolumeId, took: u64) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.drained = took;
        }
    }

    /// The volumes that could not be made, nor removed, whose devices may be there.
    pub(in crate::pool) fn unwanted(&self) -> Vec<(VolumeId, Unwanted)> {
        let there = self.unwanted.iter().filter(|(_, unwanted)| !unwanted.gone);
        there.map(|(&id, unwanted)| (id, unwanted.clone())).collect()
    }

    /// One of them has no device.
    pub(in crate::pool) fn unwanted_is_gone(&mut self, id: VolumeId) {
        if let Some(unwanted) = self.unwanted.get_mut(&id) {
            unwanted.gone = true;
        }
    }

    /// Does a part of what deletes, rollbacks and writes leave to be done: rows that nobody wants, chunks
    /// that nothing shows, layers that are merged into their only child, chunks that are to be counted.
    pub(crate) fn collect(&mut self) -> Result<Collected, BackendError> {
        self.usable()?;
        if !self.collecting {
            return Ok(Collected::default());
        }
        let done = Collected { some: true, unshared: None };
        if let Some((&id, _)) = self.unwanted.iter().find(|(_, unwanted)| unwanted.gone) {
            return self
                .change(|txn| {
                    txn.drop_unwanted(id);
                    Ok(())
                })
                .map(|_| done);
        }
        // A device may have a chunk of it where it was before it moved.
        let moving = |id: LayerId| self.vacated.values().any(|vacated| vacated.layer == id);
        let waste =
            |(id, layer): &(LayerId, &crate::alloc::Layer)| layer.is_waste() && !moving(*id);
        let waste = self.layers.iter().find(waste).map(|(id, _)| id);
        if let Some(id) = waste {
            return self.change(|txn| txn.free_part(id)).map(|_| done);
        }
        let ready = |(id, _): &(LayerId, _)| !self.is_needed(*id) && !moving(*id);
        let merging = self.layers.iter().filter(|(_, layer)| layer.merges()).find(ready);
        let Some((id, _)) = merging else {
            let unseen = self.layers.iter().filter(|(_, layer)| layer.has_unseen()).find(ready);
            return match unseen.map(|(id, _)| id) {
                Some(id) => self.change(|txn| txn.free_unseen(id)).map(|_| done),
                None => Ok(Collected { some: self.layers.count_part(MOST_RUNS), ..done }),
            };
        };
        let ended = self.change(|txn| txn.merge_part(id))?;
        let whose = |layer: LayerId| {
            self.volumes.iter().find(|(_, v)| v.row.layer == layer).map(|(&id, _)| id)
        };
        Ok(Collected { unshared: ended.and_then(whose), ..done })
    }

    /// Whether a layer still holds what nothing shows.
    pub(in crate::pool) fn has_waste(&self) -> bool {
        self.layers.iter().any(|(_, layer)| layer.is_waste())
    }

    /// What is counted along is what would be counted now.
    #[cfg(test)]
    pub(crate) fn check_counts(&self) {
        let rows =
            self.layers.iter().map(|(id, layer)| (id, (layer.row, layer.map.iter().collect())));
        let fresh = crate::alloc::Layers::load(rows.collect()).unwrap();
        let alone = self.count_alone();
        for (id, volume) in &self.volumes {
            let count = |layers: &crate::alloc::Layers| {
                let layer = volume.row.layer;
                (layers.get(layer).map(|layer| layer.shown), layers.hidden(layer))
            };
            assert_eq!(count(&self.layers), count(&fresh), "{}", volume.row.name);
            let (counted, is) = (self.exclusive(*id), alone[id]);
            let right = counted == is || (counted < is && self.layers.is_counting());
            assert!(right, "{counted} chunks are '{}' alone, and {is} are", volume.row.name);
        }
    }

    /// How many chunks of each volume and snapshot no other one shows, counted one by one.
    #[cfg(test)]
    pub(crate) fn count_alone(&self) -> std::collections::BTreeMap<VolumeId, u64> {
        let mut viewers = std::collections::BTreeMap::<_, Vec<VolumeId>>::new();
        for &id in self.volumes.keys() {
            let places = self
                .runs(id, 0..u64::MAX)
                .flat_map(|run| (0..run.to.length).map(move |chunk| run.to.start.after(chunk)));
            places.for_each(|place| viewers.entry(place).or_default().push(id));
        }
        let mut alone: std::collections::BTreeMap<_, _> =
            self.volumes.keys().map(|&id| (id, 0)).collect();
        for one in viewers.values().filter(|viewers| viewers.len() == 1) {
            *alone.entry(one[0]).or_default() += 1;
        }
        alone
    }

    /// Whether nothing is left to be collected.
    #[cfg(test)]
    pub(crate) fn is_collected(&self) -> bool {
        let rests = |layer: &crate::alloc::Layer| {
            !layer.is_waste() && !layer.merges() && !layer.has_unseen()
        };
        self.unwanted.is_empty()
            && !self.layers.is_counting()
            && self.layers.iter().all(|(_, layer)| rests(layer))
    }
}

impl Txn<'_> {
    /// Frees a part of a layer that nothing shows, and the layer when that was the last one.
    fn free_part(&mut self, id: LayerId) -> Result<(), BackendError> {
        let from = self.layers.get(id).map_or(0, |layer| layer.map.last_part(MOST_RUNS));
        let removed = self.remove(id, from, u64::MAX - from);
        self.release(&removed, false)?;
        if from == 0 {
            self.remove_layer(id);
        }
        Ok(())
    }

    /// Frees some of the chunks that all hide which stand on their layer.
    fn free_unseen(&mut self, id: LayerId) -> Result<(), BackendError> {
        let Some(layer) = self.layers.get(id) else { return Ok(()) };
        let (parent, mut shown) = (layer.row.parent, layer.shown);
        for (at, length) in self.layers.unseen(id, MOST_RUNS) {
            let removed = self.remove(id, at, length);
            self.release(&removed, false)?;
            shown -= length;
            // What is below stays hidden.
            self.hole_over(id, parent, at..at + length)?;
        }
        self.set_shown(id, shown);
        Ok(())
    }

    /// Gives a part of a layer that nobody names to its only child, and frees what that hides. Says
    /// which layer the child is, when that was the last part.
    fn merge_part(&mut self, id: LayerId) -> Result<Option<LayerId>, BackendError> {
        let Some(layer) = self.layers.get(id) else { return Ok(None) };
        let (row, from) = (layer.row, layer.map.last_part(MOST_RUNS));
        let Some(&child) = layer.children.first() else { return Ok(None) };
        let given = self.remove(id, from, u64::MAX - from);
        for run in given {
            self.give(run, child, row.parent)?;
        }
        if from > 0 {
            return Ok(None);
        }
        if let Some(found) = self.layers.get(child) {
            let merged = LayerRow { parent: row.parent, since: row.since, ..found.row };
            self.set_layer_row(child, merged);
        }
        self.remove_layer(id);
        Ok(Some(child))
    }

    /// Gives a run to a layer, as far as that has no entries of its own there. A hole is only needed
    /// over what is below.
    fn give(&mut self, run: Run, to: LayerId, below: Option<LayerId>) -> Result<(), BackendError> {
        let mut at = run.at;
        while at < run.end() {
            let Some(layer) = self.layers.get(to) else { return Ok(()) };
            let free = layer.map.hole(at, run.end() - at);
            if free == 0 {
                let end = layer.map.containing(at).map_or(run.end(), |run| run.end());
                self.release(&[run.part(at, end)], false)?;
                at = end.min(run.end());
                continue;
            }
            let part = run.part(at, at + free);
            if run.to.is_hole() {
                self.hole_over(to, below, part.at..part.end())?;
            } else {
                self.insert(to, part)?;
            }
            at += free;
        }
        Ok(())
    }
}
