// SPDX-License-Identifier: LGPL-2.1-or-later
//! A started pool's state: metadata, maps, free space. The one writer of the metadata.
//!
//! It is behind a mutex that is held for memory work and for a commit, never across LVM, a table
//! load or libvirt. Every change is made in memory, committed, and only then told to anybody. If
//! a commit fails, memory is ahead of the disk: the core is `broken` from then on, grants nothing
//! more and changes nothing more, until it has been read again from what the disk has
//! ([`super::recover`]).

use std::collections::{BTreeMap, BTreeSet};

use virtnotify_model::{BackendError, Bytes, ChunkSize, GrowthLimits, PoolName, VolumeName};

use super::recover;
use crate::alloc::{Broken, Extent, FreeSpace, Ranges, Run, VolumeMap};
use crate::grow::policy::{self, Writer};
use crate::meta::{Change, Contents, MetaError, Store, VolumeRow};
use crate::names;
use crate::target::{ChunkState, DeviceId, MappedRun, Wish};

/// How many runs one commit changes, about: a guest's write must not wait long for it.
pub(super) const MOST_RUNS: usize = 512;

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

/// What [`Core::grow`] did.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// How much a volume gets at a time.
    limits: GrowthLimits,
    /// What to send to the target, per volume: durable.
    pub(crate) maps: BTreeMap<VolumeId, Vec<MappedRun>>,
    /// How many chunks each volume got.
    pub(crate) grown: BTreeMap<VolumeId, u64>,
    /// Volumes with writes that still wait, and the number of chunks they wait for.
    pub(crate) unmet: BTreeMap<VolumeId, u64>,
    /// How many of those chunks a write waited for.
    pub(crate) held: u64,
    /// Chunks that are protected, and for no reason that this daemon knows.
    pub(crate) unprotect: Vec<(VolumeId, u64)>,
    /// Whether a guest discarded something.
    pub(crate) discards: bool,
}

/// What [`Core::preallocate`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preallocated {
    /// How many chunks are still missing.
    pub(crate) missing: u64,
    /// Whether that is because others have to have a turn.
    pub(crate) partly: bool,
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

    /// Answers what volumes ask for: allocates, and makes all of it durable in one commit.
    pub(crate) fn grow(
        &mut self,
        asks: &[(VolumeId, Vec<Wish>)],
        limits: GrowthLimits,
    ) -> Result<Growth, BackendError> {
        self.usable()?;
        let mut growth = Growth { limits, ..Growth::default() };
        for (id, wishes) in asks {
            // What has been discarded needs nothing ahead of it.
            let (discards, others): (Vec<Wish>, Vec<Wish>) =
                wishes.iter().partition(|wish| matches!(wish, Wish::Discarded(_)));
            for wish in discards.into_iter().chain(others) {
                self.answer(*id, wish, &mut growth)?;
            }
        }
        let touched: BTreeSet<_> = growth.grown.keys().copied().collect();
        self.commit(&touched, Vec::new())?;
        // Until the target has heard of it, none of this may be taken away again.
        for id in growth.told() {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.begin_sending();
            }
        }
        self.figures.growths += growth.grown.len() as u64;
        self.figures.held += growth.held;
        self.figures.chunks += growth.grown.values().sum::<u64>();
        self.figures.commits += u64::from(!growth.grown.is_empty());
        Ok(growth)
    }

    /// The target has heard of what [`Core::grow`] decided for these volumes.
    pub(crate) fn sent(&mut self, volumes: impl Iterator<Item = VolumeId>) {
        for id in volumes {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.sending = volume.sending.saturating_sub(1);
            }
        }
    }

    fn answer(
        &mut self,
        id: VolumeId,
        wish: Wish,
        growth: &mut Growth,
    ) -> Result<(), BackendError> {
        let Some(volume) = self.volumes.get_mut(&id).filter(|volume| !volume.closing) else {
            return Ok(());
        };
        match wish {
            // Whoever takes it asks again when it is gone, or lets it be.
            Wish::Write(chunk) | Wish::Copy(chunk) if volume.leaving.contains(chunk) => Ok(()),
            Wish::Write(chunk) => match volume.map.place(chunk) {
                // It came with the run of another one just now.
                Some(_) if growth.sends(id, chunk) => Ok(()),
                // The message that should have said so was lost: it is sent again.
                Some(start) => {
                    let to = Extent { start, length: 1 };
                    growth.send(id, Run { at: chunk, to }, ChunkState::PLAIN);
                    Ok(())
                }
                None => self.fill(id, chunk, true, growth),
            },
            Wish::Ahead(chunk) => {
                volume.bells.remove(&chunk);
                // A sequential writer has been where it came from.
                if let Some((from, _)) = volume.ahead.around(chunk) {
                    volume.ahead.remove(from, chunk + 1 - from);
                }
                // What lies behind it in its run is not known to be written.
                if let Some(run) = volume.map.containing(chunk) {
                    let end = run.end().min(chunk.saturating_add(policy::longest(self.chunk)));
                    volume.ahead.insert(chunk + 1, end.saturating_sub(chunk + 1));
                }
                let gone = volume.discarded.contains(chunk) || volume.leaving.contains(chunk);
                match volume.map.containing(chunk).map(Run::end).filter(|_| !gone) {
                    Some(end) if volume.writer.expects(end) => self.fill(id, end, false, growth),
                    _ => Ok(()),
                }
            }
            // No chunk is shared yet: a daemon was killed while it looked at this one.
            Wish::Copy(chunk) => {
                growth.unprotect.push((id, chunk));
                Ok(())
            }
            Wish::Discarded(chunk) => {
                // Watched chunks beside it are not reported: there is nothing to discard in them.
                let watched = |chunk: &u64| volume.bells.contains(chunk);
                let before = (0..chunk).rev().take_while(watched).count() as u64;
                let behind = (chunk + 1..).take_while(watched).count() as u64;
                volume.discarded.insert(chunk - before, before + 1 + behind);
                growth.discards = true;
                Ok(())
            }
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
        let end = volume.end.map_or(end, |earlier| earlier.min(end));
        let length = growth.limits.clamp(volume.writer.wants(chunk, clean, size), size);
        let room = volume.map.hole(chunk, length.min(end.saturating_sub(chunk)));
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
        let got = pieces.iter().map(|piece| piece.length).sum();
        let bell = policy::bell(got, held).map(|offset| chunk + offset);
        let mut at = chunk;
        for to in pieces {
            let run = Run { at, to };
            if let Err(error) = volume.map.insert(run) {
                return Err(self.damage(error));
            }
            growth.send_with_bell(id, run, bell);
            at = run.end();
        }
        volume.writer.got(chunk, at - chunk);
        volume.bells.extend(bell);
        let reached = u64::from(held);
        volume.ahead.insert(chunk + reached, got - reached);
        growth.held += reached;
        *growth.grown.entry(id).or_default() += at - chunk;
        Ok(())
    }

    /// Maps clean chunks into the holes of a part of a volume; says how many holes are left. The
    /// target has to be told afterwards, if the volume has a device.
    pub(crate) fn preallocate(
        &mut self,
        id: VolumeId,
        part: &std::ops::Range<u64>,
    ) -> Result<Preallocated, BackendError> {
        self.usable()?;
        let (mut from, mut runs) = (part.start, 0);
        while runs < MOST_RUNS
            && let Some(volume) = self.volumes.get_mut(&id)
            && let Some((mut at, length)) = volume.map.first_hole(from, part.end)
        {
            let pieces = self.free.allocate(volume.map.continuation(at), length);
            if pieces.is_empty() {
                break;
            }
            runs += pieces.len();
            for to in pieces {
                let inserted = volume.map.insert(Run { at, to });
                at += to.length;
                if let Err(error) = inserted {
                    return Err(self.damage(error));
                }
            }
            from = at;
        }
        self.commit(&BTreeSet::from([id]), Vec::new())?;
        let length = part.end.saturating_sub(part.start);
        let mapped = self.volumes.get(&id).map_or(length, |volume| {
            volume.map.within(part.start, length).iter().map(|run| run.to.length).sum()
        });
        Ok(Preallocated { missing: length.saturating_sub(mapped), partly: runs >= MOST_RUNS })
    }

    /// A volume is none any more.
    pub(super) fn forget(&mut self, id: VolumeId) {
        self.set_minor(id, None);
        if let Some(volume) = self.volumes.remove(&id) {
            self.by_name.remove(&volume.row.name);
            self.doomed.insert(id, volume.map);
        }
    }

    /// A volume that could not be made, and not be removed either, is nobody's: it goes when the
    /// metadata is opened again.
    pub(crate) fn disown(&mut self, id: VolumeId) {
        self.forget(id);
        self.doomed.remove(&id);
    }

    /// All that a volume has, for whoever sends it to the target: [`Core::sent`] has to follow.
    pub(crate) fn send_part(
        &mut self,
        id: VolumeId,
        part: &std::ops::Range<u64>,
    ) -> Vec<MappedRun> {
        let Some(volume) = self.volumes.get_mut(&id) else { return Vec::new() };
        volume.begin_sending();
        let mut map = VolumeMap::default();
        for run in volume.map.within(part.start, part.end.saturating_sub(part.start)) {
            // Runs of one map never overlap.
            let _ = map.insert(run);
        }
        for (from, length) in volume.leaving.iter() {
            map.remove(from, length);
        }
        map.iter().map(|run| MappedRun { run, state: ChunkState::PLAIN }).collect()
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
        // What an earlier volume of a number left on the disk may still be there.
        let id = self.last_id + 1;
        self.last_id = id;
        let change = Change::Volume { id, row: row.clone() };
        self.commit(&BTreeSet::new(), vec![change])?;
        self.by_name.insert(row.name.clone(), id);
        self.volumes.insert(id, Volume::new(row, VolumeMap::default()));
        Ok(id)
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
        self.usable()?;
        self.commit(&BTreeSet::new(), Vec::new())
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

    pub(super) fn commit(
        &mut self,
        touched: &BTreeSet<VolumeId>,
        mut changes: Vec<Change>,
    ) -> Result<(), BackendError> {
        for &volume in touched {
            let map = self.volumes.get_mut(&volume).map(|volume| &mut volume.map);
            if let Some(map) = map.or_else(|| self.doomed.get_mut(&volume)) {
                let runs = map.changes().into_iter();
                changes.extend(runs.map(|(at, to)| Change::Run { volume, at, to }));
            }
        }
        let clean = self.free.clean_changes().into_iter();
        changes.extend(clean.map(|(start, length)| Change::Clean { start, length }));
        let committed = self.store.as_ref().map_or(Ok(()), |store| store.commit(&changes));
        committed.map_err(|error| {
            let what = format!("a change could not be made durable: {error}");
            self.broken = Some(recover::Broken { what, on_commit: true });
            BackendError::failed(format!("cannot write the metadata of '{}'", self.pool), error)
        })
    }
}

impl Volume {
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

impl Growth {
    /// The volumes whose devices have to be told something.
    pub(crate) fn told(&self) -> Vec<VolumeId> {
        let unprotected = self.unprotect.iter().map(|(id, _)| *id);
        let mut told: Vec<_> = self.maps.keys().copied().chain(unprotected).collect();
        told.sort_unstable();
        told.dedup();
        told
    }

    /// Whether a chunk is in what is sent already: the target refuses a message that has it twice.
    fn sends(&self, id: VolumeId, chunk: u64) -> bool {
        let sent = |sent: &MappedRun| (sent.run.at..sent.run.end()).contains(&chunk);
        self.maps.get(&id).is_some_and(|runs| runs.iter().any(sent))
    }

    fn send(&mut self, id: VolumeId, run: Run, state: ChunkState) {
        self.maps.entry(id).or_default().push(MappedRun { run, state });
    }

    /// Sends a run whose chunk `bell` is watched, when it is in it.
    fn send_with_bell(&mut self, id: VolumeId, run: Run, bell: Option<u64>) {
        let Some(bell) = bell.filter(|bell| (run.at..run.end()).contains(bell)) else {
            return self.send(id, run, ChunkState::PLAIN);
        };
        let part = |from: u64, to: u64| Run {
            at: from,
            to: Extent { start: run.to.start.after(from - run.at), length: to - from },
        };
        if run.at < bell {
            self.send(id, part(run.at, bell), ChunkState::PLAIN);
        }
        self.send(id, part(bell, bell + 1), ChunkState::WATCHED);
        if bell + 1 < run.end() {
            self.send(id, part(bell + 1, run.end()), ChunkState::PLAIN);
        }
    }
}
