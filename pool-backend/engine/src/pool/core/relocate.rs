// SPDX-License-Identifier: LGPL-2.1-or-later
//! Chunks of a layer that move to another place while guests use them.
//!
//! ```text
//!   room taken ──▶ copied, flushed ──▶ protected, and nobody has written ──commit──▶ "vacated" ──▶ free
//!        ▲              │ put back: a write came, or the copy failed                  remap, drain
//!        └──────────────┘
//! ```
//!
//! All devices that show a chunk hold writes to it from before the commit until their `remap`, so no
//! write is acknowledged at a place that the metadata does not have. The old place is *vacated*, which
//! the metadata knows too: nobody gets it until every device has been told of the new one and has
//! drained, whichever daemon does that.

use std::collections::{BTreeMap, BTreeSet};

use virtnotify_model::{BackendError, VolumeKind};

use super::{Core, Durable, MOST_RUNS, Txn, Volume, VolumeId};
use crate::alloc::{Extent, LayerId, Place, Ranges, Run, Vacated};
use crate::target::{DeviceId, MappedRun};

/// Chunks of a layer, where they are, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) struct Relocation {
    pub(in crate::pool) run: Run,
    pub(in crate::pool) to: Place,
}

impl Relocation {
    /// The part of it that lies in `from..end`, which is not empty.
    pub(in crate::pool) fn part(self, from: u64, end: u64) -> Self {
        let run = self.run.part(from, end);
        Self { run, to: self.to.after(run.at - self.run.at) }
    }

    pub(in crate::pool) fn target(self) -> Extent {
        Extent { start: self.to, length: self.run.to.length }
    }
}

/// A volume or a snapshot that shows chunks that move.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Holder {
    pub(in crate::pool) id: VolumeId,
    pub(in crate::pool) device: DeviceId,
    /// Whether its guest can write to them where they are.
    pub(in crate::pool) written: bool,
    /// Which of them it shows.
    pub(in crate::pool) ranges: Ranges,
}

/// What moves together: chunks of one layer.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Batch {
    pub(in crate::pool) layer: LayerId,
    pub(in crate::pool) relocations: Vec<Relocation>,
    pub(in crate::pool) holders: Vec<Holder>,
}

impl Batch {
    /// The relocations of these chunks.
    pub(in crate::pool) fn part(&self, ranges: &Ranges) -> Vec<Relocation> {
        let of = |relocation: &Relocation| {
            let (relocation, run) = (*relocation, relocation.run);
            let parts = ranges.within(run.at, run.to.length).into_iter();
            parts.map(move |(at, length)| relocation.part(at, at + length))
        };
        self.relocations.iter().flat_map(of).collect()
    }

    /// Where the chunks are.
    pub(in crate::pool) fn runs(&self) -> Vec<Run> {
        self.relocations.iter().map(|relocation| relocation.run).collect()
    }
}

/// Which chunks of a run of a device are where these runs have them.
pub(in crate::pool) fn still_there(runs: &[Run], live: Run) -> Vec<(u64, u64)> {
    let within = |run: &&Run| run.at < live.end() && live.at < run.end();
    let common = |run: &Run| {
        let expected = run.part(live.at, live.end());
        let found = live.part(expected.at, expected.end());
        (expected == found).then_some((expected.at, expected.to.length))
    };
    runs.iter().filter(within).filter_map(common).collect()
}

/// What is to be free.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Vacating {
    /// The devices that may have had chunks there, and whether their volumes know of them.
    pub(in crate::pool) devices: BTreeMap<DeviceId, bool>,
    pub(in crate::pool) places: Vec<Vacated>,
}

/// Relocations that are durable: what to send to the devices of these volumes.
pub(in crate::pool) type Relocated = Vec<(VolumeId, MappedRun)>;

impl Core {
    /// The volumes and snapshots that stand on a layer.
    pub(super) fn standing_on(&self, layer: LayerId) -> impl Iterator<Item = (VolumeId, &Volume)> {
        let on = move |volume: &Volume| {
            self.layers.down(volume.row.layer).any(|(below, _)| below == layer)
        };
        self.volumes().filter(move |(_, volume)| on(volume))
    }

    /// Whether chunks of a layer can move now: each device that may show them is there, is as the
    /// metadata says, and nobody changes it.
    pub(crate) fn can_relocate(&self, layer: LayerId) -> bool {
        let quiet = |volume: &Volume| {
            let changing = volume.closing || volume.cutting || volume.unsharing;
            let whole = volume.leaving.is_empty() && volume.has_its_copies();
            let there = volume.minor.is_some() && volume.end.is_none();
            there && whole && !changing && !volume.unsettled && !volume.settling
        };
        let mut standing = self.standing_on(layer).peekable();
        let known = self.layers.get(layer).is_some_and(|found| !found.is_waste());
        let unwanted = self.unwanted.values();
        let mut below = unwanted.flat_map(|unwanted| self.layers.down(unwanted.layer));
        self.collecting
            && below.all(|(id, _)| id != layer)
            && known
            && self.vacated.is_empty()
            && standing.peek().is_some()
            && standing.all(|(_, volume)| quiet(volume))
    }

    /// Says of runs of a layer whether a guest is about to write chunks of them for the first time, or
    /// has discarded some: these come back by themselves.
    pub(in crate::pool) fn in_motion(&self, layer: LayerId) -> impl Fn(&Run) -> bool + '_ {
        let standing: Vec<&Volume> = self.standing_on(layer).map(|(_, volume)| volume).collect();
        move |run| {
            let in_run = |ranges: &Ranges| !ranges.within(run.at, run.to.length).is_empty();
            standing.iter().any(|volume| {
                in_run(&volume.ahead)
                    || in_run(&volume.discarded)
                    || volume.bells.range(run.at..run.end()).next().is_some()
            })
        }
    }

    /// Begins to move what `choose` takes room for; `None` if that is nothing.
    pub(in crate::pool) fn begin_relocating(
        &mut self,
        layer: LayerId,
        choose: impl FnOnce(&mut Txn<'_>) -> Vec<Relocation>,
    ) -> Result<Option<Batch>, BackendError> {
        if !self.can_relocate(layer) {
            return Ok(None);
        }
        // What was zeroed and is written now must not be taken for zeroes after a crash.
        let relocations = self.change(|txn| Ok(choose(txn)))?.to_vec();
        if relocations.is_empty() {
            return Ok(None);
        }
        let runs: Vec<Run> = relocations.iter().map(|relocation| relocation.run).collect();
        let holders = self.hold(layer, &runs);
        Ok(Some(Batch { layer, relocations, holders }))
    }

    /// The volumes and snapshots that show chunks of a layer. Their devices are about to be told, and
    /// nobody else copies these chunks meanwhile.
    pub(super) fn hold(&mut self, layer: LayerId, runs: &[Run]) -> Vec<Holder> {
        let showing = self.layers.showing(layer, &runs.iter().copied().collect());
        let holder = |(id, volume): (VolumeId, &Volume)| Holder {
            id,
            device: volume.device.clone(),
            written: volume.row.kind == VolumeKind::Volume
                && self.layers.is_exclusive(volume.row.layer, layer),
            ranges: showing.get(&volume.row.layer).cloned().unwrap_or_default(),
        };
        let holders: Vec<Holder> = self.standing_on(layer).map(holder).collect();
        for holder in &holders {
            if let Some(volume) = self.volumes.get_mut(&holder.id) {
                volume.begin_sending();
                volume.copying.insert_all(&holder.ranges);
            }
        }
        holders
    }

    /// Refuses when a volume shows chunks of a layer that was not among these.
    pub(super) fn check_holders(
        &self,
        layer: LayerId,
        holders: &[Holder],
    ) -> Result<(), BackendError> {
        let known = |id: VolumeId| holders.iter().any(|holder| holder.id == id);
        if self.standing_on(layer).all(|(id, _)| known(id)) {
            return Ok(());
        }
        // Made meanwhile: its device has, or is about to get, what the others have.
        let what = "another volume shows the chunks that were to move".to_owned();
        Err(BackendError::Refused(what))
    }

    /// These of a batch are copied, and no device writes to them: the layer has them at their new
    /// place now. `shown` says which of the ranges each holder's device has.
    pub(in crate::pool) fn relocated(
        &mut self,
        batch: &Batch,
        relocations: &[Relocation],
        shown: &[(VolumeId, Ranges)],
    ) -> Result<Durable<Relocated>, BackendError> {
        self.usable()?;
        self.check_holders(batch.layer, &batch.holders)?;
        for (holder, (_, there)) in batch.holders.iter().zip(shown) {
            // What its guest has discarded is a hole there, and nothing that it has to be told of.
            if let Some(volume) = self.volumes.get_mut(&holder.id) {
                for Relocation { run, .. } in relocations {
                    let mut gone = Ranges::default();
                    gone.insert(run.at, run.to.length);
                    gone.remove_all(there);
                    volume.copying.remove_all(&gone);
                }
            }
        }
        self.change(|txn| {
            for relocation in relocations {
                txn.relocate(batch.layer, *relocation)?;
            }
            let mut told = Relocated::new();
            for (id, ranges) in shown {
                for relocation in relocations {
                    let moved = Run { at: relocation.run.at, to: relocation.target() };
                    for (from, length) in ranges.within(moved.at, moved.to.length) {
                        let run = moved.part(from, from + length);
                        told.push((*id, txn.mapped_run(batch.layer, run)));
                    }
                }
            }
            Ok(told)
        })
    }

    /// These of a batch stay where they are: their new places are free again.
    pub(in crate::pool) fn not_relocated(
        &mut self,
        batch: &Batch,
        relocations: &[Relocation],
    ) -> Result<(), BackendError> {
        for relocation in relocations {
            self.free.not_cleaned(relocation.target()).map_err(|e| self.damage(e))?;
        }
        for holder in &batch.holders {
            if let Some(volume) = self.volumes.get_mut(&holder.id) {
                for relocation in relocations {
                    volume.copying.remove(relocation.run.at, relocation.run.to.length);
                }
            }
        }
        Ok(())
    }

    /// The layers that a volume shows, its own first.
    pub(in crate::pool) fn layers_below(&self, id: VolumeId) -> Vec<LayerId> {
        self.layers.down(self.layer_of(id)).map(|(layer, _)| layer).collect()
    }

    /// All layers that something shows.
    pub(in crate::pool) fn live_layers(&self) -> Vec<LayerId> {
        let live = self.layers.iter().filter(|(_, layer)| !layer.is_waste());
        live.map(|(id, _)| id).collect()
    }

    /// The runs that a layer has.
    pub(in crate::pool) fn layer_runs(&self, layer: LayerId) -> impl Iterator<Item = Run> + '_ {
        self.layer_runs_from(layer, 0)
    }

    /// Those of them that begin at a chunk or behind it.
    pub(in crate::pool) fn layer_runs_from(
        &self,
        layer: LayerId,
        at: u64,
    ) -> impl Iterator<Item = Run> + '_ {
        let map = self.layers.get(layer).map(|layer| &layer.map);
        let runs = map.into_iter().flat_map(move |map| map.within(at, u64::MAX));
        runs.filter(|run| !run.to.is_hole())
    }

    /// Where a layer has a chunk of its own.
    pub(in crate::pool) fn own_place(&self, layer: LayerId, chunk: u64) -> Option<Place> {
        let place = self.layers.get(layer)?.map.place(chunk);
        place.filter(|place| place.lv != Place::NOWHERE)
    }

    /// Where chunks were that devices may have there still.
    pub(crate) fn has_vacated(&self) -> bool {
        !self.vacated.is_empty()
    }

    /// Whether a chunk of a layer has moved, and devices may have it where it was.
    pub(super) fn has_moved(&self, layer: LayerId, chunk: u64) -> bool {
        self.vacated.values().any(|vacated| vacated.covers(layer, chunk))
    }

    /// Whether a layer had a chunk at this place until it moved.
    pub(super) fn had_at(&self, layer: LayerId, chunk: u64, place: Place) -> bool {
        let before = self.vacated.range(..=place).next_back();
        before.is_some_and(|(_, vacated)| vacated.had(layer, chunk, place))
    }

    /// Some of what is vacated; `None` while all of it is on layers that a device shows which is being changed, or has
    /// not been told of the new places.
    pub(in crate::pool) fn vacating(&self) -> Option<Vacating> {
        if !self.collecting || self.broken.is_some() {
            return None;
        }
        let layers: BTreeSet<LayerId> =
            self.vacated.values().map(|vacated| vacated.layer).collect();
        // What waits for a device is settled when it has one.
        let quiet = |volume: &Volume| {
            let settled = !volume.unsettled || volume.waits_for_device();
            settled && volume.sending == 0 && volume.has_its_copies()
        };
        let is_quiet = |layer: &LayerId| self.standing_on(*layer).all(|(_, volume)| quiet(volume));
        let layers: BTreeSet<LayerId> = layers.into_iter().filter(is_quiet).collect();
        let here = |vacated: &&Vacated| layers.contains(&vacated.layer);
        let places = self.vacated.values().filter(here).take(MOST_RUNS).copied().collect();
        let standing = layers.iter().flat_map(|layer| self.standing_on(*layer));
        let device =
            |(_, volume): (VolumeId, &Volume)| (volume.device.clone(), volume.minor.is_some());
        (!layers.is_empty()).then(|| Vacating { devices: standing.map(device).collect(), places })
    }

    /// No device has these chunks any more where they were.
    pub(in crate::pool) fn free_vacated(
        &mut self,
        vacated: &[Vacated],
    ) -> Result<(), BackendError> {
        self.change(|txn| vacated.iter().try_for_each(|vacated| txn.free_vacated(*vacated)))
            .map(drop)
    }
}
