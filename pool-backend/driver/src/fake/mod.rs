// SPDX-License-Identifier: LGPL-2.1-or-later
//! A backend in memory, with the refusals of the real one. A test's tool: it makes no device,
//! and what is in it is gone with it.
//!
//! A volume is chunks at places; snapshots and clones have the same places until one of them is
//! written ([`layers`]).

mod layers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::SystemTime;

use uuid::Uuid;
use virtnotify_model::{
    Backend, BackendError, BuildMode, Bytes, Change, ChunkSize, Chunks, JobInfo, JobState, Policy,
    PoolInfo, PoolName, PoolSource, PoolSpec, SnapshotName, Task, VgName, VolumeExtent, VolumeInfo,
    VolumeKind, VolumeName, VolumeSpec, WipeMode,
};

use crate::driver::lock;

/// As many chunks as the real target can address: 16 TiB at 4 MiB.
const CHUNKS_MAX: u64 = 1 << 22;

#[derive(Debug, Clone)]
struct Volume {
    uuid: Uuid,
    kind: VolumeKind,
    /// How many volumes and snapshots were made before it; its age in seconds.
    made: u64,
    path: PathBuf,
    capacity: Bytes,
    /// The place of each chunk that it has.
    mapped: BTreeMap<u64, u64>,
    /// What it is a snapshot of, or was made from.
    backing: Option<Uuid>,
    /// The snapshots that it goes back to.
    before: BTreeSet<Uuid>,
    openers: u32,
}

/// A volume group, with the volumes of the pool in it.
#[derive(Debug)]
struct Group {
    size: Bytes,
    volumes: BTreeMap<VolumeName, Volume>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<VgName, Group>,
    started: BTreeMap<PoolName, VgName>,
    policies: BTreeMap<PoolName, Policy>,
    damaged: bool,
    /// How many places were given out, and how many volumes and snapshots made.
    places: u64,
    made: u64,
    /// How the last volume was wiped.
    wiped: Option<WipeMode>,
    /// What the next call that changes something answers.
    failure: Option<BackendError>,
    /// Changing calls wait until it is not set.
    held: bool,
    /// How many of them wait.
    waiting: usize,
    /// Where volumes have files in the place of devices.
    devices: Option<PathBuf>,
    /// All jobs there were.
    jobs: Vec<JobInfo>,
}

/// The backend.
#[derive(Debug, Default)]
pub struct FakeBackend {
    state: Mutex<State>,
    released: Condvar,
}

impl FakeBackend {
    /// A host without volume groups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same host with one more volume group, which is empty.
    #[must_use]
    pub fn with_group(self, vg: &VgName, size: Bytes) -> Self {
        self.add_group(vg, size);
        self
    }

    /// The same host, where each volume made from now on has a file in the place of its device,
    /// below that directory.
    #[must_use]
    pub fn with_devices(self, directory: impl Into<PathBuf>) -> Self {
        lock(&self.state).devices = Some(directory.into());
        self
    }

    /// Adds an empty volume group.
    pub fn add_group(&self, vg: &VgName, size: Bytes) {
        lock(&self.state).groups.insert(vg.clone(), Group { size, volumes: BTreeMap::new() });
    }

    /// Takes a volume group away.
    pub fn remove_group(&self, vg: &VgName) {
        lock(&self.state).groups.remove(vg);
    }

    /// The host reboots: no pool is started any more.
    pub fn stop(&self) {
        lock(&self.state).started.clear();
    }

    /// A guest writes: the chunks it touches are mapped.
    ///
    /// # Errors
    /// When there is no such volume, or no space left.
    pub fn write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), BackendError> {
        let chunk = ChunkSize::default();
        let first = chunk.whole_chunks(offset).0;
        let last = chunk.chunks_for(Bytes(offset.0 + length.0)).0;
        lock(&self.state).own(pool, volume, first..last).map(drop)
    }

    /// A program opens a volume's device (`1`), or closes it (`-1`).
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn open(&self, pool: &PoolName, volume: &VolumeName, by: i32) -> Result<(), BackendError> {
        let mut state = lock(&self.state);
        let found = state.volume_mut(pool, volume)?;
        found.openers = found.openers.saturating_add_signed(by);
        Ok(())
    }

    /// How the last volume was wiped.
    #[must_use]
    pub fn wiped(&self) -> Option<WipeMode> {
        lock(&self.state).wiped
    }

    /// Makes the pools' metadata damaged, or whole again.
    pub fn set_damaged(&self, damaged: bool) {
        lock(&self.state).damaged = damaged;
    }

    /// Lets the next changing call fail.
    pub fn fail_next(&self, error: BackendError) {
        lock(&self.state).failure = Some(error);
    }

    /// Lets changing calls wait, as a slow LVM command does, until [`FakeBackend::release`].
    pub fn hold(&self) {
        lock(&self.state).held = true;
    }

    /// Lets them go on.
    pub fn release(&self) {
        lock(&self.state).held = false;
        self.released.notify_all();
    }

    /// Returns when this many calls wait.
    pub fn wait_for_held(&self, calls: usize) {
        let mut state = lock(&self.state);
        while state.waiting < calls {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins a changing call.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let mut state = lock(&self.state);
        state.waiting += 1;
        self.released.notify_all();
        while state.held {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        match state.failure.take() {
            Some(error) => Err(error),
            None => change(&mut state),
        }
    }
}

impl State {
    fn vg(&self, pool: &PoolName) -> Result<&VgName, BackendError> {
        self.started.get(pool).ok_or_else(|| BackendError::PoolNotActive(pool.to_string()))
    }

    fn group(&self, pool: &PoolName) -> Result<&Group, BackendError> {
        let vg = self.vg(pool)?;
        self.groups.get(vg).ok_or_else(|| missing(vg))
    }

    fn group_mut(&mut self, pool: &PoolName) -> Result<&mut Group, BackendError> {
        let vg = self.vg(pool)?.clone();
        self.groups.get_mut(&vg).ok_or_else(|| missing(&vg))
    }

    fn volume_mut(
        &mut self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<&mut Volume, BackendError> {
        let found = self.group_mut(pool)?.volumes.get_mut(volume);
        found.ok_or_else(|| no_volume(pool, volume))
    }

    /// A volume that may be changed: no snapshot.
    fn writable(
        &mut self,
        pool: &PoolName,
        name: &VolumeName,
    ) -> Result<&mut Volume, BackendError> {
        let volume = self.volume_mut(pool, name)?;
        if volume.kind == VolumeKind::Snapshot {
            return Err(BackendError::Refused(format!(
                "'{name}' is a snapshot: it stays as it is"
            )));
        }
        Ok(volume)
    }

    /// A volume that nobody has open.
    fn unused(&mut self, pool: &PoolName, name: &VolumeName) -> Result<&mut Volume, BackendError> {
        let volume = self.volume_mut(pool, name)?;
        if volume.openers > 0 {
            return Err(BackendError::VolumeInUse(name.to_string()));
        }
        Ok(volume)
    }

    fn info(&self, pool: &PoolName) -> Result<PoolInfo, BackendError> {
        let group = self.group(pool)?;
        let allocation = bytes_of(group.places(|_| true).len());
        let written = group.volumes.values().filter(|v| v.kind == VolumeKind::Volume);
        Ok(PoolInfo {
            capacity: group.size,
            allocation,
            available: group.size.saturating_sub(allocation),
            headroom: Bytes::ZERO,
            obtainable: group.size,
            promised: written.map(|volume| volume.capacity).sum(),
            chunk: ChunkSize::default(),
        })
    }

    fn start(&mut self, spec: &PoolSpec) -> Result<Change, BackendError> {
        if !self.groups.contains_key(&spec.vg) {
            return Err(missing(&spec.vg));
        }
        match self.started.iter().find(|(_, vg)| **vg == spec.vg) {
            Some((pool, _)) if *pool == spec.name => Ok(Change::Identity),
            Some((pool, vg)) => {
                let text = format!("the volume group '{vg}' holds the started pool '{pool}'");
                Err(BackendError::Source(text))
            }
            None => {
                self.started.insert(spec.name.clone(), spec.vg.clone());
                self.policies.insert(spec.name.clone(), spec.policy);
                Ok(Change::Changed)
            }
        }
    }

    fn stop(&mut self, pool: &PoolName) -> Result<Change, BackendError> {
        if !self.started.contains_key(pool) {
            return Ok(Change::Identity);
        }
        let open = self.group(pool)?.volumes.iter().find(|(_, volume)| volume.openers > 0);
        if let Some((name, _)) = open {
            return Err(BackendError::VolumeInUse(name.to_string()));
        }
        self.started.remove(pool);
        Ok(Change::Changed)
    }

    fn make_device(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<PathBuf, BackendError> {
        let Some(directory) = &self.devices else {
            return Ok(format!("/dev/notify/{pool}/{volume}").into());
        };
        let directory = directory.join(pool.as_str());
        let path = directory.join(volume.as_str());
        fs::create_dir_all(directory)
            .and_then(|()| File::create(&path)?.set_len(capacity.0))
            .map_err(|error| BackendError::failed("cannot make a file", error))?;
        Ok(path)
    }

    fn create(&mut self, pool: &PoolName, spec: &VolumeSpec) -> Result<VolumeInfo, BackendError> {
        let available = self.info(pool)?.available;
        if self.group(pool)?.volumes.contains_key(&spec.name) {
            let (pool, volume) = (pool.to_string(), spec.name.to_string());
            return Err(BackendError::VolumeExists { pool, volume });
        }
        let capacity = check_capacity(spec.capacity)?;
        let chunks = ChunkSize::default().chunks_for(spec.allocation);
        let wanted = ChunkSize::default().bytes_of(chunks);
        if wanted > available {
            return Err(BackendError::NoSpace { pool: pool.to_string(), wanted });
        }
        let under = self.under(pool, spec)?;
        let path = self.make_device(pool, &spec.name, capacity)?;
        let (made, openers, uuid) = (self.count_made(), 0, spec.uuid);
        let volume = Volume { uuid, made, path, capacity, openers, ..under };
        self.group_mut(pool)?.volumes.insert(spec.name.clone(), volume);
        if let Some(backing) = &spec.backing {
            self.copy_device(pool, backing, &spec.name)?;
        }
        self.own(pool, &spec.name, 0..chunks.0)?;
        self.group(pool)?.volume_info(pool, &spec.name)
    }
}

/// The size of this many chunks.
fn bytes_of(chunks: usize) -> Bytes {
    ChunkSize::default().bytes_of(Chunks(chunks.try_into().unwrap_or(u64::MAX)))
}

fn missing(vg: &VgName) -> BackendError {
    BackendError::Source(format!("there is no volume group '{vg}'"))
}

fn no_volume(pool: &PoolName, volume: &VolumeName) -> BackendError {
    BackendError::NoVolume { pool: pool.to_string(), volume: volume.to_string() }
}

fn check_capacity(capacity: Bytes) -> Result<Bytes, BackendError> {
    let limit = ChunkSize::default().bytes_of(Chunks(CHUNKS_MAX));
    let rounded = capacity.round_up(Bytes(4096)).filter(|size| *size <= limit);
    match rounded {
        Some(size) if size > Bytes::ZERO => Ok(size),
        _ => {
            let reason = format!("from 1 byte to {limit} are");
            Err(BackendError::Capacity { capacity, reason })
        }
    }
}

impl FakeBackend {
    /// Changes a job, which does nothing by itself.
    pub fn change_job(&self, id: u64, change: impl FnOnce(&mut JobInfo)) {
        if let Some(job) = lock(&self.state).jobs.iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }
}

impl Backend for FakeBackend {
    fn start_job(&self, pool: &PoolName, task: &Task) -> Result<u64, BackendError> {
        let mut state = lock(&self.state);
        state.group(pool)?;
        let runs = |job: &JobInfo| job.pool == *pool && job.state == JobState::Running;
        if state.jobs.iter().any(runs) {
            return Err(BackendError::Refused(format!("a job of the pool '{pool}' runs")));
        }
        state.jobs.retain(|job| job.pool != *pool);
        let id = state.jobs.iter().map(|job| job.id).max().unwrap_or(0) + 1;
        state.jobs.push(JobInfo {
            id,
            pool: pool.clone(),
            task: task.clone(),
            state: JobState::Running,
            began: SystemTime::now(),
            looked: Bytes::ZERO,
            to_look: Bytes::ZERO,
            moved: Bytes::ZERO,
            total: Bytes::mib(64),
            runs_before: 16,
            runs: 16,
            freed: Bytes::ZERO,
            to_group: Bytes::ZERO,
        });
        Ok(id)
    }

    fn jobs(&self) -> Vec<JobInfo> {
        lock(&self.state).jobs.clone()
    }

    fn cancel_job(&self, id: u64) -> Result<(), BackendError> {
        self.change_job(id, |job| job.state = JobState::Cancelled);
        Ok(())
    }

    fn build_pool(&self, spec: &PoolSpec, mode: BuildMode) -> Result<(), BackendError> {
        self.change(|state| {
            if spec.devices.is_empty() {
                let text = format!("the pool '{}' names no devices", spec.name);
                return Err(BackendError::Source(text));
            }
            if state.groups.contains_key(&spec.vg) && mode != BuildMode::Overwrite {
                let text = format!("there is a volume group '{}' already", spec.vg);
                return Err(BackendError::Refused(text));
            }
            let size = Bytes::mib(1024);
            state.groups.insert(spec.vg.clone(), Group { size, volumes: BTreeMap::new() });
            Ok(())
        })
    }

    fn delete_pool(&self, spec: &PoolSpec) -> Result<(), BackendError> {
        self.change(|state| {
            if state.started.contains_key(&spec.name) {
                return Err(BackendError::PoolActive(spec.name.to_string()));
            }
            let group = state.groups.get(&spec.vg).ok_or_else(|| missing(&spec.vg))?;
            if !group.volumes.is_empty() {
                let text = format!("the pool '{}' has volumes", spec.name);
                return Err(BackendError::Refused(text));
            }
            state.groups.remove(&spec.vg);
            Ok(())
        })
    }

    fn start_pool(&self, spec: &PoolSpec) -> Result<Change, BackendError> {
        self.change(|state| state.start(spec))
    }

    fn stop_pool(&self, pool: &PoolName) -> Result<Change, BackendError> {
        self.change(|state| state.stop(pool))
    }

    fn refresh_pool(&self, pool: &PoolName) -> Result<(), BackendError> {
        self.change(|state| state.group(pool).map(|_| ()))
    }

    fn set_policy(&self, pool: &PoolName, policy: &Policy) -> Result<Change, BackendError> {
        let mut state = lock(&self.state);
        state.vg(pool)?;
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        let before = state.policies.insert(pool.clone(), *policy);
        Ok(if before == Some(*policy) { Change::Identity } else { Change::Changed })
    }

    fn policy(&self, pool: &PoolName) -> Result<Policy, BackendError> {
        let state = lock(&self.state);
        state.vg(pool)?;
        Ok(state.policies.get(pool).copied().unwrap_or_default())
    }

    fn find_sources(&self) -> Result<Vec<PoolSource>, BackendError> {
        let state = lock(&self.state);
        let device = |vg: &VgName| PathBuf::from(format!("/dev/disk/by-id/{vg}"));
        let source = |vg: &VgName| PoolSource { vg: vg.clone(), devices: vec![device(vg)] };
        Ok(state.groups.keys().map(source).collect())
    }

    fn is_started(&self, pool: &PoolName) -> bool {
        lock(&self.state).started.contains_key(pool)
    }

    fn is_damaged(&self, _: &PoolName) -> bool {
        lock(&self.state).damaged
    }

    fn pool_info(&self, pool: &PoolName) -> Result<PoolInfo, BackendError> {
        lock(&self.state).info(pool)
    }

    fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, BackendError> {
        let state = lock(&self.state);
        let group = state.group(pool)?;
        group.volumes.keys().map(|name| group.volume_info(pool, name)).collect()
    }

    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, BackendError> {
        lock(&self.state).group(pool)?.volume_info(pool, volume)
    }

    fn create_volume(
        &self,
        pool: &PoolName,
        spec: &VolumeSpec,
    ) -> Result<VolumeInfo, BackendError> {
        self.change(|state| state.create(pool, spec))
    }

    fn delete_this_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), BackendError> {
        if self.volume(pool, volume)?.uuid != *uuid {
            let (pool, volume) = (pool.to_string(), volume.to_string());
            return Err(BackendError::NoVolume { pool, volume });
        }
        self.delete_volume(pool, volume)
    }

    fn delete_volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<(), BackendError> {
        self.change(|state| {
            state.unused(pool, volume)?;
            state.group_mut(pool)?.volumes.remove(volume);
            Ok(())
        })
    }

    fn snapshot(
        &self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, BackendError> {
        self.change(|state| state.snapshot(pool, volumes, name))
    }

    fn roll_back(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), BackendError> {
        self.change(|state| state.roll_back(pool, snapshot))
    }

    fn difference(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<Vec<VolumeExtent>, BackendError> {
        lock(&self.state).difference(pool, volume, base)
    }

    fn resize_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<Change, BackendError> {
        self.change(|state| {
            let found = state.writable(pool, volume)?;
            let capacity = check_capacity(capacity)?;
            let chunks = ChunkSize::default().chunks_for(capacity).0;
            if found.mapped.last_key_value().is_some_and(|(last, _)| *last >= chunks) {
                let text = format!("the volume '{volume}' is written beyond that size");
                return Err(BackendError::Refused(text));
            }
            let change =
                if found.capacity == capacity { Change::Identity } else { Change::Changed };
            found.capacity = capacity;
            Ok(change)
        })
    }

    fn allocate_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<Change, BackendError> {
        self.change(|state| {
            let all = ChunkSize::default().chunks_for(state.writable(pool, volume)?.capacity);
            state.own(pool, volume, 0..all.0)
        })
    }

    fn prepare_write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), BackendError> {
        self.write(pool, volume, offset, length)
    }

    fn wipe_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        mode: WipeMode,
    ) -> Result<(), BackendError> {
        self.change(|state| {
            state.writable(pool, volume)?;
            state.unused(pool, volume)?.mapped.clear();
            state.wiped = Some(mode);
            Ok(())
        })
    }
}
