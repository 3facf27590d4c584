// SPDX-License-Identifier: LGPL-2.1-or-later
//! A copy of the core's numbers for questions, so that an answer never waits for a commit.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, Chunks, PoolInfo, VolumeKind, VolumeName, VolumeState};

use super::core::{Core, Volume, VolumeId};
use crate::target::DeviceId;

/// A volume, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeView {
    pub(crate) name: VolumeName,
    pub(crate) uuid: Uuid,
    pub(crate) capacity: Bytes,
    pub(crate) kind: VolumeKind,
    /// In seconds since 1970.
    pub(crate) created: u64,
    pub(crate) origin: Option<Uuid>,
    pub(crate) allocation: Bytes,
    pub(crate) exclusive: Bytes,
    pub(crate) state: VolumeState,
    pub(crate) device: DeviceId,
}

/// A pool, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    chunk: ChunkSize,
    /// The volume group, when LVM was last asked.
    vg_size: Bytes,
    vg_free: Bytes,
    meta: Bytes,
    used: Chunks,
    free: Chunks,
    volumes: BTreeMap<VolumeId, VolumeView>,
    /// Those of which more or fewer chunks are their alone, since that was told.
    recounted: BTreeSet<VolumeId>,
}

impl View {
    pub(crate) fn new(core: &Core, vg_size: Bytes, vg_free: Bytes, meta: Bytes) -> Self {
        let chunk = core.chunk();
        let volumes = core.volumes().map(|(id, volume)| (id, VolumeView::new(core, id, volume)));
        let (used, free) = (Chunks(core.free.used()), Chunks(core.free.total()));
        let (volumes, recounted) = (volumes.collect(), BTreeSet::new());
        Self { chunk, vg_size, vg_free, meta, used, free, volumes, recounted }
    }

    /// What should be shown of what is shown.
    #[cfg(test)]
    pub(crate) fn anew(&self, core: &Core) -> Self {
        let mut anew = self.clone();
        let all: Vec<_> = self.volumes.keys().copied().collect();
        anew.take(core, &all);
        anew
    }

    /// Takes over the pool's numbers, and these volumes as they are now, and those of which more or fewer chunks are
    /// their alone. A volume that is being made is shown when it has its device.
    pub(crate) fn refresh(&mut self, core: &mut Core, volumes: &[VolumeId]) {
        let recounted = core.take_recounted(volumes);
        self.take(core, volumes);
        self.take(core, &recounted);
        self.recounted.extend(recounted);
    }

    /// The volumes of which another number of chunks is shown as their alone, and neither these nor what they were
    /// made from, or was made from them: who hears of these looks at those as well.
    pub(crate) fn take_recounted(&mut self, told: &[VolumeId]) -> Vec<VolumeName> {
        let told: Vec<&VolumeView> = told.iter().filter_map(|id| self.volumes.get(id)).collect();
        let is_related = |view: &VolumeView| {
            let made = |view: &VolumeView, from: &VolumeView| view.origin == Some(from.uuid);
            told.iter()
                .any(|other| other.uuid == view.uuid || made(view, other) || made(other, view))
        };
        let others = self.recounted.iter().filter_map(|id| self.volumes.get(id));
        let others = others.filter(|view| !is_related(view)).map(|view| view.name.clone());
        let others = others.collect();
        self.recounted.clear();
        others
    }

    fn take(&mut self, core: &Core, volumes: &[VolumeId]) {
        for id in volumes {
            let shown = self.volumes.contains_key(id);
            match core.volume(*id).filter(|volume| shown || volume.minor.is_some()) {
                Some(volume) => self.volumes.insert(*id, VolumeView::new(core, *id, volume)),
                None => self.volumes.remove(id),
            };
        }
        self.used = Chunks(core.free.used());
        self.free = Chunks(core.free.total());
    }

    /// The same for all volumes.
    pub(crate) fn refresh_all(&mut self, core: &mut Core) {
        let all: Vec<_> =
            self.volumes.keys().copied().chain(core.volumes().map(|(id, _)| id)).collect();
        self.refresh(core, &all);
    }

    /// Shows a volume whether it has its device or not.
    pub(crate) fn show(&mut self, core: &Core, id: VolumeId) {
        if let Some(volume) = core.volume(id) {
            self.volumes.insert(id, VolumeView::new(core, id, volume));
        }
    }

    /// Takes over what LVM said.
    pub(crate) fn set_vg(&mut self, size: Bytes, free: Bytes) {
        (self.vg_size, self.vg_free) = (size, free);
    }

    /// The free space of the group as LVM told it last, less what was taken since.
    pub(crate) fn group_free(&self) -> Bytes {
        self.vg_free
    }

    /// Notes that space was taken from the group since.
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
        let available = headroom.saturating_add(outside);
        let volumes = self.volumes.values().filter(|view| view.kind == VolumeKind::Volume);
        PoolInfo {
            capacity: self.vg_size,
            allocation: self.chunk.bytes_of(self.used).saturating_add(self.meta),
            available,
            headroom,
            obtainable: self.chunk.bytes_of(self.used).saturating_add(available),
            promised: volumes.map(|view| view.capacity).sum(),
            chunk: self.chunk,
        }
    }

    /// All volumes, by name.
    pub(crate) fn volumes(&self) -> Vec<VolumeView> {
        let mut all: Vec<_> = self.volumes.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The name of the volume with this uuid.
    pub(crate) fn name_of(&self, uuid: Uuid) -> Option<VolumeName> {
        self.volumes.values().find(|volume| volume.uuid == uuid).map(|volume| volume.name.clone())
    }

    /// The volume of that name.
    pub(crate) fn volume(&self, name: &VolumeName) -> Option<VolumeView> {
        self.volumes.values().find(|volume| volume.name == *name).cloned()
    }
}

impl VolumeView {
    fn new(core: &Core, id: VolumeId, volume: &Volume) -> Self {
        let bytes = |chunks| core.chunk().bytes_of(Chunks(chunks));
        let row = volume.row();
        let state = match (volume.minor, volume.out_of_space) {
            (None, _) => VolumeState::Inactive,
            (Some(_), true) => VolumeState::OutOfSpace,
            (Some(_), false) => VolumeState::Growing,
        };
        Self {
            name: row.name.clone(),
            uuid: row.uuid,
            kind: row.kind,
            created: row.created,
            origin: row.origin,
            capacity: row.capacity,
            allocation: bytes(core.shown(id)),
            exclusive: bytes(core.exclusive(id)),
            state,
            device: volume.device.clone(),
        }
    }
}
