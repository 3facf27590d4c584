// SPDX-License-Identifier: LGPL-2.1-or-later
//! A started pool's state: metadata, maps, free space. The one writer of the metadata.
//!
//! It is behind a mutex that is held for memory work and for a commit, never across LVM, a table
//! load or libvirt. Every change is staged, committed, and only then told to anybody ([`txn`]). If
//! a commit fails, what was staged is dropped, and nobody knows what the disk has: the core is
//! `broken` from then on and changes nothing more, until it has been read again from the disk
//! ([`super::recover`]).

mod growth;
mod txn;

use std::collections::{BTreeMap, BTreeSet};

use virtnotify_model::{BackendError, Bytes, ChunkSize, PoolName, VolumeName};

pub(crate) use self::growth::{Growth, Preallocated};
pub(super) use self::txn::Txn;
pub(crate) use self::txn::{Durable, Gap};
use super::recover;
use crate::alloc::{Broken, FreeSpace, Ranges, VolumeMap};
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
    pub(crate) row: VolumeRow,
    /// As the metadata has it: see [`txn`].
    map: VolumeMap,
    pub(crate) device: DeviceId,
    /// The device's minor; `None` while it has no device.
    pub(crate) minor: Option<u32>,
    pub(crate) writer: Writer,
    /// It was told that there is no space.
    pub(crate) out_of_space: bool,
    /// Somebody deletes or wipes it: it gets nothing.
    pub(crate) closing: bool,
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
}

/// A started pool's state.
#[derive(Debug)]
pub(crate) struct Core {
    pool: PoolName,
    /// `None` only while it is opened again.
    store: Option<Store>,
    chunk: ChunkSize,
    pub(crate) free: FreeSpace,
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    by_name: BTreeMap<VolumeName, VolumeId>,
    by_minor: BTreeMap<u32, VolumeId>,
    /// The highest number that a volume has had.
    last_id: VolumeId,
    /// Whose turn it was last to give something back.
    pub(super) turn: VolumeId,
    /// Volumes that are being deleted, with what they still hold.
    pub(super) doomed: BTreeMap<VolumeId, VolumeMap>,
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
        let (mut volumes, mut uuids) = (BTreeMap::new(), BTreeSet::new());
        let (mut by_name, mut doomed) = (BTreeMap::new(), BTreeMap::new());
        for (id, (row, runs)) in contents.volumes {
            let mut map = VolumeMap::default();
            for run in runs {
                map.insert(run).map_err(contradiction)?;
            }
            map.changes();
            if row.capacity == Bytes::ZERO {
                // A daemon was killed while it deleted this one.
                doomed.insert(id, map);
                continue;
            }
            if by_name.insert(row.name.clone(), id).is_some() {
                return Err(MetaError::Damaged(format!("two volumes are named '{}'", row.name)));
            }
            if !uuids.insert(row.uuid) {
                let what = format!("two volumes have the uuid {}", row.uuid);
                return Err(MetaError::Damaged(what));
            }
            volumes.insert(id, Volume::new(row, map));
        }
        let maps = volumes.values().map(|v: &Volume| &v.map).chain(doomed.values());
        let used = maps.flat_map(|map: &VolumeMap| map.iter().map(|run| run.to));
        let free =
            FreeSpace::new(sizes, used, contents.clean.into_iter()).map_err(contradiction)?;
        let chunk = contents.settings.chunk;
        let (by_minor, figures) = (BTreeMap::new(), GrowthFigures::default());
        let broken = None;
        Ok(Self {
            pool,
            store: Some(store),
            chunk,
            free,
            volumes,
            by_name,
            by_minor,
            last_id,
            turn: 0,
            doomed,
            broken,
            figures,
        })
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
            volume.writer = old.writer;
            volume.out_of_space = old.out_of_space;
            volume.closing = old.closing && old.minor.is_some();
            volume.discarded = old.discarded;
            (volume.ahead, volume.bells) = (old.ahead, old.bells);
            volume.sending = old.sending;
            volume.end = old.end;
        }
    }

    /// A number that was used is not used again.
    pub(super) fn keep_numbers(&mut self, old: &Self) {
        self.last_id = self.last_id.max(old.last_id);
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
        self.by_name.get(name).copied().ok_or_else(|| BackendError::NoVolume {
            pool: self.pool.to_string(),
            volume: name.to_string(),
        })
    }

    /// Says which device a volume has now.
    pub(crate) fn set_minor(&mut self, id: VolumeId, minor: Option<u32>) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut volume.minor, minor)
            && self.by_minor.get(&old) == Some(&id)
        {
            self.by_minor.remove(&old);
        }
        if let Some(minor) = minor {
            self.by_minor.insert(minor, id);
        }
    }

    /// A volume that could not be made, and not be removed either, is nobody's: it goes when the
    /// metadata is opened again.
    pub(super) fn disown(&mut self, id: VolumeId) -> Option<VolumeMap> {
        self.set_minor(id, None);
        let volume = self.volumes.remove(&id)?;
        self.by_name.remove(&volume.row.name);
        Some(volume.map)
    }

    /// The metadata has such a one.
    pub(super) fn give_up(&mut self, id: VolumeId) {
        if let Some(map) = self.disown(id) {
            self.doomed.insert(id, map);
        }
    }

    /// Adds a volume.
    pub(crate) fn create(&mut self, row: VolumeRow) -> Result<VolumeId, BackendError> {
        self.usable()?;
        if self.by_name.contains_key(&row.name) {
            let (pool, volume) = (self.pool.to_string(), row.name.to_string());
            return Err(BackendError::VolumeExists { pool, volume });
        }
        if let Some(other) = self.volumes.values().find(|other| other.row.uuid == row.uuid) {
            let (uuid, other) = (row.uuid, &other.row.name);
            return Err(BackendError::Refused(format!("the volume '{other}' has the uuid {uuid}")));
        }
        self.change(|txn| Ok(txn.create(row))).map(|id| *id)
    }

    /// Gives a volume another capacity; chunks beyond it must be unmapped already.
    pub(crate) fn set_capacity(
        &mut self,
        id: VolumeId,
        capacity: Bytes,
    ) -> Result<(), BackendError> {
        self.change(|txn| {
            txn.set_capacity(id, capacity);
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
    /// Which of its chunks are where.
    pub(crate) fn map(&self) -> &VolumeMap {
        &self.map
    }

    /// Its device is about to be told something: [`Core::sent`] has to follow.
    pub(super) fn begin_sending(&mut self) -> DeviceId {
        self.sending += 1;
        self.device.clone()
    }

    /// Whether chunks can be taken from it now.
    pub(super) fn gives(&self) -> bool {
        self.minor.is_some() && !self.closing && self.sending == 0
    }

    /// Whether nobody is about to change its map in the kernel.
    pub(crate) fn settled(&self) -> bool {
        self.sending == 0 && self.leaving.is_empty()
    }

    fn new(row: VolumeRow, map: VolumeMap) -> Self {
        let device = DeviceId(names::dm_uuid(row.uuid));
        let writer = Writer::default();
        Self {
            row,
            map,
            device,
            minor: None,
            writer,
            out_of_space: false,
            closing: false,
            discarded: Ranges::default(),
            ahead: Ranges::default(),
            bells: BTreeSet::new(),
            leaving: Ranges::default(),
            sending: 0,
            end: None,
            unsettled: false,
        }
    }
}
