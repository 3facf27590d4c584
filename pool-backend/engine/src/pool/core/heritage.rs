// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a new device gets at once from another one, instead of run by run.
//!
//! The kernel copies the chunks of the layers that both stand on: those up to a generation. What lies
//! in the other volume's own layers is told afterwards, from the metadata, which knows of each copy
//! before the kernel does. What was discarded leaves the kernel first: the number of chunks that are mapped says whether
//! any is missing. So an heir never has what the metadata does not.

use std::collections::{BTreeMap, VecDeque};

use virtnotify_model::VolumeKind;

use super::{Core, Durable, MOST_RUNS, Volume, VolumeId};
use crate::alloc::{LayerId, Ranges};
use crate::target::DeviceId;

/// How many runs a device that another one gets chunks from may have beside these: they are looked
/// through at once, while growth waits.
const MOST_BESIDE: usize = 4 * MOST_RUNS;

/// A device that another one gets chunks from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heritage {
    pub(crate) minor: u32,
    /// The youngest generation whose chunks both show.
    pub(crate) generation: u16,
}

/// Whose device that is, and the layer that both stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::pool) struct Relative {
    pub(in crate::pool) heritage: Heritage,
    pub(in crate::pool) device: DeviceId,
    id: VolumeId,
    layer: LayerId,
}

impl Core {
    /// A device that has nearly all that a new device of a volume is to show. There is none while a device
    /// may have chunks where they were before they moved.
    pub(in crate::pool) fn relative(&self, id: VolumeId) -> Option<Durable<Relative>> {
        if !self.vacated.is_empty() {
            return None;
        }
        let others = self.volumes().filter(|(other, v)| *other != id && v.minor.is_some());
        let by_layer = others.map(|(id, volume)| (volume.row.layer, (id, volume))).collect();
        for (layer, below) in self.layers.down(self.layer_of(id)) {
            let generation = below.row.generation;
            if let Some(relative) = self.shows_layer(layer, generation, &by_layer) {
                return self.durable(relative).ok();
            }
            // What the volume has of its own would lie below what it inherits.
            if below.map.runs() > 0 {
                return None;
            }
        }
        None
    }

    /// One of these volumes, which have devices, that stands on a layer and has little beside what that layer
    /// shows: the nearest one. Only that of the layer itself may be a snapshot.
    fn shows_layer(
        &self,
        layer: LayerId,
        generation: u16,
        by_layer: &BTreeMap<LayerId, (VolumeId, &Volume)>,
    ) -> Option<Relative> {
        let mut next = VecDeque::from([(layer, 0)]);
        while let Some((at, beside)) = next.pop_front() {
            let found = by_layer.get(&at);
            let found = found.filter(|(_, v)| at == layer || v.row.kind == VolumeKind::Volume);
            if let Some((id, volume)) = found {
                let heritage = Heritage { minor: volume.minor?, generation };
                return Some(Relative { heritage, device: volume.device.clone(), id: *id, layer });
            }
            for child in self.layers.get(at).into_iter().flat_map(|layer| &layer.children) {
                let runs = self.layers.get(*child).map_or(0, |child| child.map.runs());
                if beside + runs <= MOST_BESIDE {
                    next.push_back((*child, beside + runs));
                }
            }
        }
        None
    }

    /// Which parts of a volume its device lacks, or may lack, after it has inherited.
    pub(in crate::pool) fn not_inherited(&self, from: &Relative) -> Ranges {
        let differing = self.layers.difference(self.layer_of(from.id), Some(from.layer));
        differing.unwrap_or_else(Ranges::all)
    }
}
