// SPDX-License-Identifier: LGPL-2.1-or-later
//! A started pool's state: metadata, maps, free space. The one writer of the metadata.
//!
//! It is behind a mutex that is held for memory work and for a commit, never across LVM, a table
//! load or libvirt. Every change is made in memory, committed, and only then told to anybody. If
//! a commit fails, memory is ahead of the disk: the core is `broken` from then on, grants nothing
//! more and changes nothing more, until the pool is started again from what the disk has.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use virtnotify_model::{BackendError, Bytes, ChunkSize, PoolName, VolumeName};

use crate::alloc::{Broken, Extent, FreeSpace, Run, VolumeMap};
use crate::grow::policy::Writer;
use crate::meta::{Change, Contents, MetaError, Store, VolumeRow};
use crate::names;
use crate::target::{ChunkState, DeviceId, MappedRun, Wish};

/// A volume's number in the metadata.
pub(crate) type VolumeId = u64;

/// A volume of a started pool.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) row: VolumeRow,
    pub(crate) map: VolumeMap,
    pub(crate) device: DeviceId,
    /// The device's minor; `None` while it has no device.
    pub(crate) minor: Option<u32>,
    pub(crate) writer: Writer,
    /// It was told that there is no space.
    pub(crate) out_of_space: bool,
    /// Somebody deletes or wipes it: it gets nothing.
    pub(crate) closing: bool,
}

/// What [`Core::grow`] did.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// What to send to the target, per volume: durable.
    pub(crate) maps: BTreeMap<VolumeId, Vec<MappedRun>>,
    /// How many chunks each volume got.
    pub(crate) grown: BTreeMap<VolumeId, u64>,
    /// Volumes with writes that still wait, and the number of chunks they wait for.
    pub(crate) unmet: BTreeMap<VolumeId, u64>,
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
}

/// A started pool's state.
#[derive(Debug)]
pub(crate) struct Core {
    pool: PoolName,
    store: Store,
    chunk: ChunkSize,
    pub(crate) free: FreeSpace,
    volumes: BTreeMap<VolumeId, Volume>,
    by_name: BTreeMap<VolumeName, VolumeId>,
    by_minor: BTreeMap<u32, VolumeId>,
    broken: Option<String>,
    figures: GrowthFigures,
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
        let mut volumes = BTreeMap::new();
        let mut by_name = BTreeMap::new();
        for (id, (row, runs)) in contents.volumes {
            let mut map = VolumeMap::default();
            for run in runs {
                map.insert(run).map_err(contradiction)?;
            }
            map.changes();
            if by_name.insert(row.name.clone(), id).is_some() {
                return Err(MetaError::Damaged(format!("two volumes are named '{}'", row.name)));
            }
            volumes.insert(id, Volume::new(row, map));
        }
        let used = volumes.values().flat_map(|v: &Volume| v.map.iter().map(|run| run.to));
        let free =
            FreeSpace::new(sizes, used, contents.clean.into_iter()).map_err(contradiction)?;
        let chunk = contents.settings.chunk;
        let (by_minor, figures) = (BTreeMap::new(), GrowthFigures::default());
        Ok(Self { pool, store, chunk, free, volumes, by_name, by_minor, broken: None, figures })
    }

    /// How well growth is grouped.
    pub(crate) fn figures(&self) -> GrowthFigures {
        self.figures
    }

    /// How many bytes the database has.
    pub(crate) fn metadata_length(&self) -> u64 {
        self.store.length()
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
        if let Some(old) = std::mem::replace(&mut volume.minor, minor) {
            self.by_minor.remove(&old);
        }
        if let Some(minor) = minor {
            self.by_minor.insert(minor, id);
        }
    }

    /// Answers what volumes ask for: allocates, and makes all of it durable in one commit.
    pub(crate) fn grow(&mut self, asks: &[(VolumeId, Vec<Wish>)]) -> Result<Growth, BackendError> {
        self.usable()?;
        let mut growth = Growth::default();
        for (id, wishes) in asks {
            for wish in wishes {
                self.answer(*id, *wish, &mut growth)?;
            }
        }
        let touched: BTreeSet<_> = growth.grown.keys().copied().collect();
        self.commit(&touched, Vec::new())?;
        self.figures.growths += growth.grown.len() as u64;
        self.figures.chunks += growth.grown.values().sum::<u64>();
        self.figures.commits += u64::from(!growth.grown.is_empty());
        Ok(growth)
    }

    fn answer(
        &mut self,
        id: VolumeId,
        wish: Wish,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let Some(volume) = self.volumes.get(&id).filter(|volume| !volume.closing) else {
            return Ok(());
        };
        match wish {
            Wish::Write(chunk) => match volume.map.place(chunk) {
                // The message that should have said so was lost: it is sent again.
                Some(start) => {
                    let to = Extent { start, length: 1 };
                    growth.send(id, Run { at: chunk, to }, ChunkState::Plain);
                    Ok(())
                }
                None => self.fill(id, chunk, true, growth),
            },
            Wish::Ahead(chunk) => match volume.map.containing(chunk).map(Run::end) {
                Some(end) if volume.writer.expects(end) => self.fill(id, end, false, growth),
                _ => Ok(()),
            },
            // No chunk is ever protected yet, and what is discarded stays with the volume.
            Wish::Copy(_) | Wish::Discarded(_) => Ok(()),
        }
    }

    /// Maps clean chunks into the hole at `chunk`.
    fn fill(
        &mut self,
        id: VolumeId,
        chunk: u64,
        held: bool,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let (clean, size) = (self.free.clean(), self.chunk);
        let Some(volume) = self.volumes.get_mut(&id) else { return Ok(()) };
        let end = size.chunks_for(volume.row.capacity).0;
        let portion = volume.writer.wants(chunk, held, clean, size);
        let room = volume.map.hole(chunk, portion.length.min(end.saturating_sub(chunk)));
        let pieces = match room {
            0 => Vec::new(),
            room => self.free.allocate(volume.map.continuation(chunk), room),
        };
        if pieces.is_empty() {
            if held {
                *growth.unmet.entry(id).or_default() += 1;
            }
            return Ok(());
        }
        let mut at = chunk;
        for to in pieces {
            let run = Run { at, to };
            if let Err(error) = volume.map.insert(run) {
                return Err(self.damage(error));
            }
            let bell = portion.watch.map(|offset| chunk + offset);
            growth.send_with_bell(id, run, bell);
            at = run.end();
        }
        volume.writer.got(chunk, at - chunk);
        *growth.grown.entry(id).or_default() += at - chunk;
        Ok(())
    }

    /// Maps clean chunks into the holes among the first `chunks` of a volume that has no device
    /// yet; says how many of them are mapped now.
    pub(crate) fn preallocate(&mut self, id: VolumeId, chunks: u64) -> Result<u64, BackendError> {
        self.usable()?;
        while let Some(volume) = self.volumes.get_mut(&id)
            && let Some((mut at, length)) = volume.map.first_hole(chunks)
        {
            let pieces = self.free.allocate(volume.map.continuation(at), length);
            if pieces.is_empty() {
                break;
            }
            for to in pieces {
                let inserted = volume.map.insert(Run { at, to });
                at += to.length;
                if let Err(error) = inserted {
                    return Err(self.damage(error));
                }
            }
        }
        self.commit(&BTreeSet::from([id]), Vec::new())?;
        let mapped = self.volumes.get(&id).map_or(chunks, |volume| volume.map.chunks());
        Ok(mapped.min(chunks))
    }

    /// Adds a volume.
    pub(crate) fn create(&mut self, row: VolumeRow) -> Result<VolumeId, BackendError> {
        self.usable()?;
        if self.by_name.contains_key(&row.name) {
            let (pool, volume) = (self.pool.to_string(), row.name.to_string());
            return Err(BackendError::VolumeExists { pool, volume });
        }
        let id = self.volumes.keys().next_back().map_or(1, |last| last + 1);
        let change = Change::Volume { id, row: row.clone() };
        self.commit(&BTreeSet::new(), vec![change])?;
        self.by_name.insert(row.name.clone(), id);
        self.volumes.insert(id, Volume::new(row, VolumeMap::default()));
        Ok(id)
    }

    /// Takes a volume out, device gone; its chunks are free afterwards.
    pub(crate) fn delete(&mut self, id: VolumeId) -> Result<(), BackendError> {
        self.usable()?;
        self.commit(&BTreeSet::new(), vec![Change::DropVolume { id }])?;
        self.set_minor(id, None);
        let Some(volume) = self.volumes.remove(&id) else { return Ok(()) };
        self.by_name.remove(&volume.row.name);
        for run in volume.map.iter() {
            self.free.release(run.to).map_err(|e| self.damage(e))?;
        }
        Ok(())
    }

    /// Gives a volume another capacity; chunks beyond it must be unmapped already.
    pub(crate) fn set_capacity(
        &mut self,
        id: VolumeId,
        capacity: Bytes,
    ) -> Result<(), BackendError> {
        self.usable()?;
        let Some(volume) = self.volumes.get_mut(&id) else { return Ok(()) };
        volume.row.capacity = capacity;
        let row = volume.row.clone();
        self.commit(&BTreeSet::new(), vec![Change::Volume { id, row }])
    }

    /// Takes chunks of a volume away; they are free (and dirty) afterwards. The kernel must have
    /// unmapped them already.
    pub(crate) fn unmap(
        &mut self,
        id: VolumeId,
        from: u64,
        length: u64,
    ) -> Result<(), BackendError> {
        self.usable()?;
        let Some(volume) = self.volumes.get_mut(&id) else { return Ok(()) };
        let removed = volume.map.remove(from, length);
        self.commit(&BTreeSet::from([id]), Vec::new())?;
        for run in removed {
            self.free.release(run.to).map_err(|e| self.damage(e))?;
        }
        Ok(())
    }

    /// Makes a change of the free space durable.
    pub(crate) fn commit_free(&mut self) -> Result<(), BackendError> {
        self.usable()?;
        self.commit(&BTreeSet::new(), Vec::new())
    }

    /// A rule of the maps or the free space was broken: this is a bug or damage.
    pub(crate) fn damage(&mut self, error: Broken) -> BackendError {
        let what = self.broken.insert(error.0).clone();
        BackendError::Damaged { pool: self.pool.to_string(), what }
    }

    fn usable(&self) -> Result<(), BackendError> {
        match &self.broken {
            None => Ok(()),
            Some(what) => {
                let (pool, what) = (self.pool.to_string(), what.clone());
                Err(BackendError::Damaged { pool, what })
            }
        }
    }

    fn commit(
        &mut self,
        touched: &BTreeSet<VolumeId>,
        mut changes: Vec<Change>,
    ) -> Result<(), BackendError> {
        for &volume in touched {
            if let Some(v) = self.volumes.get_mut(&volume) {
                let runs = v.map.changes().into_iter();
                changes.extend(runs.map(|(at, to)| Change::Run { volume, at, to }));
            }
        }
        let clean = self.free.clean_changes().into_iter();
        changes.extend(clean.map(|(start, length)| Change::Clean { start, length }));
        self.store.commit(&changes).map_err(|error| {
            let what = format!("a change could not be made durable: {error}");
            self.broken = Some(what);
            BackendError::failed(format!("cannot write the metadata of '{}'", self.pool), error)
        })
    }
}

impl Volume {
    fn new(row: VolumeRow, map: VolumeMap) -> Self {
        let device = DeviceId(names::dm_uuid(row.uuid));
        let writer = Writer::default();
        Self { row, map, device, minor: None, writer, out_of_space: false, closing: false }
    }
}

impl Growth {
    fn send(&mut self, id: VolumeId, run: Run, state: ChunkState) {
        self.maps.entry(id).or_default().push(MappedRun { run, state });
    }

    /// Sends a run whose chunk `bell` is watched, when it is in it.
    fn send_with_bell(&mut self, id: VolumeId, run: Run, bell: Option<u64>) {
        let Some(bell) = bell.filter(|bell| (run.at..run.end()).contains(bell)) else {
            return self.send(id, run, ChunkState::Plain);
        };
        let part = |from: u64, to: u64| Run {
            at: from,
            to: Extent { start: run.to.start.after(from - run.at), length: to - from },
        };
        if run.at < bell {
            self.send(id, part(run.at, bell), ChunkState::Plain);
        }
        self.send(id, part(bell, bell + 1), ChunkState::Watched);
        if bell + 1 < run.end() {
            self.send(id, part(bell + 1, run.end()), ChunkState::Plain);
        }
    }
}

/// The uuid and the clean row of a volume that is made now.
pub(crate) fn new_row(name: VolumeName, capacity: Bytes) -> VolumeRow {
    VolumeRow { uuid: Uuid::new_v4(), name, capacity }
}
