// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the pool shows to whoever asks: a copy of the core's numbers, so that an answer never
//! waits for a commit.

use std::collections::BTreeMap;

use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, Chunks, PoolInfo, VolumeName, VolumeState};

use super::core::{Core, Volume, VolumeId};
use crate::target::DeviceId;

/// What is shown of a volume.
#[derive(Debug, Clone)]
pub(crate) struct VolumeView {
    pub(crate) name: VolumeName,
    pub(crate) uuid: Uuid,
    pub(crate) capacity: Bytes,
    pub(crate) allocation: Bytes,
    pub(crate) state: VolumeState,
    pub(crate) device: DeviceId,
}

/// What is shown of a pool.
#[derive(Debug, Clone)]
pub(crate) struct View {
    chunk: ChunkSize,
    /// The volume group, when LVM was last asked.
    vg_size: Bytes,
    vg_free: Bytes,
    meta: Bytes,
    used: Chunks,
    free: Chunks,
    volumes: BTreeMap<VolumeId, VolumeView>,
}

impl View {
    pub(crate) fn new(core: &Core, vg_size: Bytes, vg_free: Bytes, meta: Bytes) -> Self {
        let (used, free) = (Chunks::ZERO, Chunks::ZERO);
        let chunk = core.chunk();
        let mut view = Self { chunk, vg_size, vg_free, meta, used, free, volumes: BTreeMap::new() };
        let all: Vec<_> = core.volumes().map(|(id, _)| id).collect();
        view.refresh(core, &all);
        view
    }

    /// Takes over the pool's numbers, and these volumes as they are now.
    pub(crate) fn refresh(&mut self, core: &Core, volumes: &[VolumeId]) {
        for &id in volumes {
            match core.volume(id) {
                Some(volume) => {
                    let shown = VolumeView::new(volume, self.chunk);
                    let old = self.volumes.insert(id, shown);
                    let old = old.map_or(Bytes::ZERO, |old| old.allocation);
                    self.used = self.used.saturating_sub(self.chunk.whole_chunks(old));
                    self.used = self.used.saturating_add(Chunks(volume.map.chunks()));
                }
                None => {
                    if let Some(old) = self.volumes.remove(&id) {
                        let gone = self.chunk.whole_chunks(old.allocation);
                        self.used = self.used.saturating_sub(gone);
                    }
                }
            }
        }
        self.free = Chunks(core.free.total());
    }

    /// Takes over what LVM said.
    pub(crate) fn set_vg(&mut self, size: Bytes, free: Bytes) {
        (self.vg_size, self.vg_free) = (size, free);
    }

    /// What LVM said was free in the group, less what was taken since.
    pub(crate) fn group_free(&self) -> Bytes {
        self.vg_free
    }

    /// So much has been taken from the group since.
    pub(crate) fn take_from_group(&mut self, taken: Bytes) {
        self.vg_free = self.vg_free.saturating_sub(taken);
    }

    /// Takes over the size of the metadata LV.
    pub(crate) fn set_meta(&mut self, size: Bytes) {
        self.meta = size;
    }

    /// The pool in numbers.
    pub(crate) fn info(&self) -> PoolInfo {
        let headroom = self.chunk.bytes_of(self.free);
        // What is free in the volume group counts in whole chunks: no volume gets less.
        let outside = self.chunk.bytes_of(self.chunk.whole_chunks(self.vg_free));
        PoolInfo {
            capacity: self.vg_size,
            allocation: self.chunk.bytes_of(self.used).saturating_add(self.meta),
            available: headroom.saturating_add(outside),
            headroom,
            chunk: self.chunk,
        }
    }

    /// All volumes, by name.
    pub(crate) fn volumes(&self) -> Vec<VolumeView> {
        let mut all: Vec<_> = self.volumes.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The volume of that name.
    pub(crate) fn volume(&self, name: &VolumeName) -> Option<VolumeView> {
        self.volumes.values().find(|volume| volume.name == *name).cloned()
    }
}

impl VolumeView {
    fn new(volume: &Volume, chunk: ChunkSize) -> Self {
        let state = match (volume.minor, volume.out_of_space) {
            (None, _) => VolumeState::Inactive,
            (Some(_), true) => VolumeState::OutOfSpace,
            (Some(_), false) => VolumeState::Growing,
        };
        Self {
            name: volume.row.name.clone(),
            uuid: volume.row.uuid,
            capacity: volume.row.capacity,
            allocation: chunk.bytes_of(Chunks(volume.map.chunks())),
            state,
            device: volume.device.clone(),
        }
    }
}
