// SPDX-License-Identifier: LGPL-2.1-or-later
//! A started pool's state: metadata, layers, free space. The one writer of the metadata.
//!
//! It is behind a mutex that is held for memory work and for a commit, never across LVM, a table
//! load or libvirt. Every change is staged, committed, and only then told to anybody ([`txn`]). If
//! a commit fails, what was staged is dropped, and nobody knows what the disk has: the core is
//! `broken` from then on and changes nothing more, until it has been read again from the disk
//! ([`super::recover`]).

mod collect;
mod copy;
mod growth;
mod heritage;
mod layers;
pub(super) mod relocate;
mod txn;
pub(super) mod zeroes;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use virtnotify_model::{BackendError, Bytes, ChunkSize, PoolName, VolumeKind, VolumeName};

pub(crate) use self::copy::{Copied, Copy, told};
pub(crate) use self::growth::Growth;
pub(crate) use self::heritage::Heritage;
pub(super) use self::txn::Txn;
pub(crate) use self::txn::{Durable, Gap};
use super::occupied::Occupied;
use super::recover;
use crate::alloc::{Broken, FreeSpace, LayerId, Layers, Place, Ranges, Vacated};
use crate::grow::policy::Writer;
use crate::meta::{Contents, MetaError, Store, VolumeRow};
use crate::names;
use crate::target::DeviceId;

/// How many runs one commit changes, about: a guest's write must not wait long for it.
pub(super) const MOST_RUNS: usize = 512;

/// A volume's number in the metadata.
pub(crate) type VolumeId = u64;

/// A volume of a started pool.
#[derive(Debug)]
pub(crate) struct Volume {
    /// As the metadata has it: see [`txn`].
    row: VolumeRow,
    pub(crate) device: DeviceId,
    /// The device's minor; `None` while it has no device.
    pub(crate) minor: Option<u32>,
    /// It has a device, of an earlier daemon, and that could not be taken over: its guest may use it.
    pub(super) not_taken_over: bool,
    pub(crate) writer: Writer,
    /// It was told that there is no space.
    pub(crate) out_of_space: bool,
    /// It is being deleted or wiped: it gets nothing.
    pub(crate) closing: bool,
    /// A call is at work with it: see [`super::occupied`].
    pub(super) occupied: Option<Occupied>,
    /// Chunks that the guest discarded, as the target said.
    pub(crate) discarded: Ranges,
    /// Chunks that were given ahead and that no write is known to have reached.
    pub(crate) ahead: Ranges,
    /// Those of them that are watched.
    pub(crate) bells: BTreeSet<u64>,
    /// Chunks that are about to be taken from the volume: see [`super::giveback`].
    pub(super) leaving: Ranges,
    /// How many have yet to tell the target what they decided about this volume's map.
    pub(super) sending: u32,
    /// It is about to end at this chunk, and gets none beyond it.
    pub(super) end: Option<u64>,
    /// Its device may not be as the metadata says: see [`super::settle`].
    pub(super) unsettled: bool,
    /// It is looked up what the device has: nothing that has left it is given away meanwhile.
    pub(super) settling: bool,
    /// A snapshot of it is being taken: it gets nothing, and gives nothing.
    pub(super) cutting: bool,
    /// Chunks of a snapshot that the guest discarded: they are to be holes here.
    pub(super) holed: Ranges,
    /// Chunks that are being copied: those of a snapshot that are to be written, and what moves.
    pub(super) copying: Ranges,
    /// Those of them whose copy is durable, and which the device did not take when it was told.
    pub(super) untold: Ranges,
    /// What is shared in the kernel is being changed: nothing is copied meanwhile.
    pub(super) unsharing: bool,
    /// How often its device took copies, or let chunks of a snapshot go; one that was taken over may have
    /// done so just before.
    pub(super) took: u64,
    /// How often it had done so when it was last drained: no read of what was copied before that is
    /// on its way any more.
    pub(super) drained: u64,
}

/// A volume that could not be made, nor removed.
#[derive(Debug, Clone)]
pub(super) struct Unwanted {
    layer: LayerId,
    pub(super) name: VolumeName,
    pub(super) device: DeviceId,
    /// Whether it has no device: that may be open, and show what it has.
    gone: bool,
}

/// A volume or a snapshot that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewVolume {
    pub(crate) uuid: Uuid,
    pub(crate) name: VolumeName,
    pub(crate) kind: VolumeKind,
    pub(crate) capacity: Bytes,
    /// The volume that it is a snapshot of, or what it is made from.
    pub(crate) origin: Option<Uuid>,
    /// The layer that its own stands on.
    pub(crate) parent: Option<LayerId>,
}

/// How well growth is grouped, since the pool was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrowthFigures {
    /// How often a volume grew.
    pub growths: u64,
    /// How many commits that took.
    pub commits: u64,
    /// How many chunks that were.
    pub chunks: u64,
    /// How many of them a write waited for; the others were there before it came.
    pub held: u64,
    /// How many chunks volumes gave back, because they were discarded or never written.
    pub given_back: u64,
    /// How many commits that took.
    pub give_back_commits: u64,
    /// How many chunks of snapshots were copied because they were to be written.
    pub copied: u64,
    /// How many commits that took.
    pub copy_commits: u64,
}

/// A started pool's state.
#[derive(Debug)]
pub(crate) struct Core {
    pool: PoolName,
    /// `None` only while it is opened again.
    store: Option<Store>,
    chunk: ChunkSize,
    pub(crate) free: FreeSpace,
    /// As the metadata has them: see [`txn`].
    layers: Layers,
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    by_name: BTreeMap<VolumeName, VolumeId>,
    by_minor: BTreeMap<u32, VolumeId>,
    /// The highest number that a volume has had.
    last_id: VolumeId,
    /// Whose turn it was last to give something back.
    pub(super) turn: VolumeId,
    /// Volumes that the metadata has and nobody was told of: they go when they have no device.
    unwanted: BTreeMap<VolumeId, Unwanted>,
    /// Whether what nothing shows goes: not before all devices are as the metadata says.
    collecting: bool,
    /// The highest generation that there may be.
    pub(super) last_generation: u16,
    /// Where chunks were that have moved, and devices may have them still.
    vacated: BTreeMap<Place, Vacated>,
    broken: Option<recover::Broken>,
    pub(super) figures: GrowthFigures,
}

fn contradiction(error: Broken) -> MetaError {
    MetaError::Damaged(error.0)
}

impl Core {
    /// The state that the metadata describes, on data LVs of so many chunks.
    pub(crate) fn load(
        pool: PoolName,
        store: Store,
        contents: Contents,
        sizes: BTreeMap<u16, u64>,
    ) -> Result<Self, MetaError> {
        let last_id = contents.volumes.keys().next_back().copied().unwrap_or(0);
        let vacated = contents.vacated.iter().map(|vacated| vacated.from);
        let used = contents.owned().map(|(_, run)| run.to).chain(vacated);
        let clean = contents.clean.iter().copied();
        let free = FreeSpace::new(sizes, used, clean).map_err(contradiction)?;
        let layers = Layers::load(contents.layers).map_err(contradiction)?;
        let (by_minor, figures) = (BTreeMap::new(), GrowthFigures::default());
        let mut core = Self {
            pool,
            store: Some(store),
            chunk: contents.settings.chunk,
            free,
            layers,
            volumes: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_minor,
            last_id,
            turn: 0,
            unwanted: BTreeMap::new(),
            collecting: false,
            last_generation: u16::MAX,
            vacated: contents.vacated.iter().map(|v| (v.from.start, *v)).collect(),
            broken: None,
            figures,
        };
        let mut uuids = BTreeSet::new();
        for (id, row) in contents.volumes {
            if !uuids.insert(row.uuid) {
                let what = format!("two volumes have the uuid {}", row.uuid);
                return Err(MetaError::Damaged(what));
            }
            core.add_loaded(id, row)?;
        }
        Ok(core)
    }

    /// Takes over a volume that the metadata has.
    fn add_loaded(&mut self, id: VolumeId, row: VolumeRow) -> Result<(), MetaError> {
        let top = row.kind == VolumeKind::Volume;
        let layer = self.layers.get(row.layer);
        if layer.is_none_or(|l| l.named || (top && !l.children.is_empty())) {
            let what = format!("the volume '{}' cannot have the layer {}", row.name, row.layer);
            return Err(MetaError::Damaged(what));
        }
        self.layers.set_named(row.layer, true);
        if self.by_name.insert(row.name.clone(), id).is_some() {
            return Err(MetaError::Damaged(format!("two volumes are named '{}'", row.name)));
        }
        self.volumes.insert(id, Volume::new(row));
        Ok(())
    }

    /// How well growth is grouped.
    pub(crate) fn figures(&self) -> GrowthFigures {
        self.figures
    }

    /// How many bytes the database has.
    pub(crate) fn metadata_length(&self) -> u64 {
        self.store.as_ref().map_or(0, Store::length)
    }

    pub(super) fn pool_name(&self) -> PoolName {
        self.pool.clone()
    }

    /// Whether nothing can be changed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether that may end when the metadata is opened again.
    pub(super) fn can_be_reopened(&self) -> bool {
        self.free.busy() == 0 && self.broken.as_ref().is_some_and(|broken| broken.on_commit)
    }

    /// Lets go of the metadata.
    pub(super) fn close(&mut self) {
        self.store = None;
    }

    /// Takes over what only memory knows of a volume.
    pub(super) fn inherit(&mut self, id: VolumeId, old: Volume) {
        self.set_minor(id, old.minor);
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.not_taken_over = old.not_taken_over;
            volume.writer = old.writer;
            volume.out_of_space = old.out_of_space;
            volume.closing = old.closing && (old.minor.is_some() || old.occupied.is_some());
            volume.occupied = old.occupied;
            volume.discarded = old.discarded;
            (volume.ahead, volume.bells) = (old.ahead, old.bells);
            volume.sending = old.sending;
            (volume.end, volume.cutting) = (old.end, old.cutting);
            (volume.holed, volume.unsharing) = (old.holed, old.unsharing);
            // What is durable, and not taken by the kernel yet.
            (volume.copying, volume.untold) = (old.copying, old.untold);
            (volume.took, volume.drained) = (old.took, old.drained);
        }
    }

    /// A number that was used is not used again.
    pub(super) fn keep_numbers(&mut self, old: &Self) {
        self.last_id = self.last_id.max(old.last_id);
        self.layers.keep_numbers(&old.layers);
        self.free.leave_out_as(&old.free);
        self.collecting = old.collecting;
        self.turn = old.turn;
    }

    pub(crate) fn chunk(&self) -> ChunkSize {
        self.chunk
    }

    pub(crate) fn volumes(&self) -> impl Iterator<Item = (VolumeId, &Volume)> {
        self.volumes.iter().map(|(&id, volume)| (id, volume))
    }

    pub(crate) fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id)
    }

    pub(crate) fn volume_mut(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.volumes.get_mut(&id)
    }

    pub(crate) fn id_of_minor(&self, minor: u32) -> Option<VolumeId> {
        self.by_minor.get(&minor).copied()
    }

    /// The volume of that name.
    pub(crate) fn find(&self, name: &VolumeName) -> Result<VolumeId, BackendError> {
        self.find_this(name, None)
    }

    /// Finds a volume, which has that UUID where one is given.
    pub(crate) fn find_this(
        &self,
        name: &VolumeName,
        uuid: Option<&Uuid>,
    ) -> Result<VolumeId, BackendError> {
        let is_it = |id: &VolumeId| {
            let own = self.volumes.get(id).map(|volume| &volume.row.uuid);
            uuid.is_none() || uuid == own
        };
        let found = self.by_name.get(name).copied().filter(is_it);
        found.ok_or_else(|| BackendError::NoVolume {
            pool: self.pool.to_string(),
            volume: name.to_string(),
        })
    }

    /// Says which device a volume has now.
    pub(crate) fn set_minor(&mut self, id: VolumeId, minor: Option<u32>) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.not_taken_over = false;
        if let Some(old) = std::mem::replace(&mut volume.minor, minor)
            && self.by_minor.get(&old) == Some(&id)
        {
            self.by_minor.remove(&old);
        }
        if let Some(minor) = minor {
            self.by_minor.insert(minor, id);
        }
    }

    /// A volume that could not be made, and not be removed either, is nobody's. What the metadata
    /// has of it goes when its device is known to be gone.
    pub(super) fn disown(&mut self, id: VolumeId) {
        self.set_minor(id, None);
        let Some(Volume { row, device, .. }) = self.volumes.remove(&id) else { return };
        self.by_name.remove(&row.name);
        let (layer, name) = (row.layer, row.name);
        self.unwanted.insert(id, Unwanted { layer, name, device, gone: false });
    }

    /// Adds a volume on nothing, or on a layer that is frozen.
    pub(crate) fn create(&mut self, new: NewVolume) -> Result<VolumeId, BackendError> {
        self.check_new(&new)?;
        self.change(|txn| {
            let layer = txn.add_layer(new.parent)?;
            Ok(txn.create(new, layer))
        })
        .map(|id| *id)
    }

    /// Refuses a volume whose name or uuid another one has.
    pub(super) fn check_new(&self, new: &NewVolume) -> Result<(), BackendError> {
        self.usable()?;
        let device = DeviceId(names::dm_uuid(new.uuid));
        let mut unwanted = self.unwanted.values();
        if unwanted.any(|of| of.name == new.name || of.device == device) {
            return Err(BackendError::Refused(format!(
                "a volume '{}' could not be made, and its device cannot be removed yet: it may be open",
                new.name
            )));
        }
        if self.by_name.contains_key(&new.name) {
            let (pool, volume) = (self.pool.to_string(), new.name.to_string());
            return Err(BackendError::VolumeExists { pool, volume });
        }
        if let Some(other) = self.volumes.values().find(|other| other.row.uuid == new.uuid) {
            let (uuid, other) = (new.uuid, &other.row.name);
            return Err(BackendError::Refused(format!("the volume '{other}' has the uuid {uuid}")));
        }
        Ok(())
    }

    /// Gives a volume another capacity; chunks beyond it must be unmapped already.
    pub(crate) fn set_capacity(
        &mut self,
        id: VolumeId,
        capacity: Bytes,
    ) -> Result<(), BackendError> {
        self.change(|txn| {
            txn.set_row(id, |row| row.capacity = capacity);
            Ok(())
        })
        .map(drop)
    }

    /// From now on a volume gets nothing from this chunk on, or (`None`) up to its capacity again.
    pub(super) fn set_end(&mut self, id: VolumeId, end: Option<u64>) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.end = end;
        }
    }

    /// The device of a volume may not be as the metadata says.
    pub(super) fn unsettle(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.unsettled = true;
        }
    }

    /// Makes durable that the pool has another data LV, which nothing is on yet.
    pub(super) fn add_data_lv(&mut self, lv: u16, uuid: &str) -> Result<(), BackendError> {
        self.change(|txn| {
            txn.add_data_lv(lv, uuid);
            Ok(())
        })
        .map(drop)
    }

    /// Makes a change of the free space durable.
    pub(crate) fn commit_free(&mut self) -> Result<(), BackendError> {
        self.change(|_| Ok(())).map(drop)
    }

    /// A rule of the maps or the free space was broken: this is a bug or damage.
    pub(crate) fn damage(&mut self, error: Broken) -> BackendError {
        let what = error.0;
        self.broken = Some(recover::Broken { what: what.clone(), on_commit: false });
        BackendError::Damaged { pool: self.pool.to_string(), what }
    }

    /// Refuses when nothing can be made durable.
    pub(crate) fn usable(&self) -> Result<(), BackendError> {
        match &self.broken {
            None => Ok(()),
            Some(broken) => {
                let (pool, what) = (self.pool.to_string(), broken.what.clone());
                Err(BackendError::Damaged { pool, what })
            }
        }
    }
}

impl Volume {
    /// What the metadata says of it.
    pub(crate) fn row(&self) -> &VolumeRow {
        &self.row
    }

    /// Its device is about to be told something: [`Core::sent`] has to follow.
    pub(crate) fn begin_sending(&mut self) -> DeviceId {
        self.sending += 1;
        self.device.clone()
    }

    /// These chunks of a snapshot, which the guest discarded, become holes later.
    pub(crate) fn hole_later(&mut self, chunks: &[u64]) {
        chunks.iter().for_each(|&chunk| self.holed.insert(chunk, 1));
    }

    /// What its guest is known to have discarded, and not to have written, is another layer's now. What of
    /// that has left its device already has to come back.
    pub(super) fn forget_guest(&mut self) {
        self.unsettled |= !self.discarded.is_empty();
        self.discarded.clear();
        self.ahead.clear();
        self.bells.clear();
    }

    /// Whether chunks can be taken from it now.
    pub(super) fn gives(&self) -> bool {
        self.minor.is_some() && !self.closing && !self.cutting && self.sending == 0
    }

    /// Whether nobody is about to change its map in the kernel.
    pub(crate) fn settled(&self) -> bool {
        self.sending == 0 && self.leaving.is_empty() && self.has_its_copies()
    }

    /// Whether no copy of a chunk is on its way to its device.
    pub(super) fn has_its_copies(&self) -> bool {
        self.copying.is_empty() && self.untold.is_empty()
    }

    /// Whether its device may still read a chunk where it was before it was copied.
    pub(super) fn reads_elsewhere(&self) -> bool {
        self.minor.is_some() && self.took > self.drained
    }

    fn new(row: VolumeRow) -> Self {
        let device = DeviceId(names::dm_uuid(row.uuid));
        let writer = Writer::default();
        Self {
            row,
            device,
            minor: None,
            not_taken_over: false,
            writer,
            out_of_space: false,
            closing: false,
            occupied: None,
            discarded: Ranges::default(),
            ahead: Ranges::default(),
            bells: BTreeSet::new(),
            leaving: Ranges::default(),
            sending: 0,
            end: None,
            unsettled: false,
            settling: false,
            cutting: false,
            holed: Ranges::default(),
            copying: Ranges::default(),
            untold: Ranges::default(),
            unsharing: false,
            took: 1,
            drained: 0,
        }
    }
}
