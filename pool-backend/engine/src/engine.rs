// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backend: which pools are started, and each call handed to the right one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::{
    Backend, BackendError, BuildMode, Bytes, Change, Event, EventBus, JobInfo, Policy, PoolInfo,
    PoolName, PoolSource, PoolSpec, SnapshotName, Task, VgName, VolumeExtent, VolumeInfo,
    VolumeName, VolumeSpec, VolumeStats, WipeMode,
};

use crate::device::HostDisks;
use crate::lvm::LvmError;
use crate::lvm::command::LvmProgram;
use crate::names;
use crate::pool::core::GrowthFigures;
use crate::pool::start::{self, GroupState, Parts};
use crate::pool::{Pool, Shared, lock};
use crate::runtime::Mutex;
use crate::target::dm::DeviceMapper;
use crate::target::{Target, TargetError};

/// What can be set.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// LVM's program, an absolute path.
    pub lvm: PathBuf,
    /// How long an LVM command may take before it is killed.
    pub lvm_timeout: Duration,
    /// The lock file that keeps a second daemon out.
    pub run_dir: PathBuf,
    /// How much zeroed space a pool keeps ready, at most half of its volume group. If none is
    /// chosen: 64 MiB, at most a sixteenth of the volume group.
    pub headroom: Option<Bytes>,
    /// The most that the headroom may grow to by itself while volumes grow fast.
    pub headroom_limit: Bytes,
    /// The least that a data LV grows by at a time.
    pub step: Bytes,
    /// The most bytes a second that the collector moves in a pool.
    pub collector_budget: Bytes,
    /// Seconds after which a write that still waits fails with "no space"; 0: never.
    pub hold_timeout: u32,
    /// The size of a new metadata LV; it grows when it has to.
    pub metadata: Bytes,
    /// Where LVM writes a backup of each group's metadata when that has changed.
    pub lvm_backup: PathBuf,
    /// Where the text backups of pools' metadata are kept.
    pub backup_dir: PathBuf,
    pub(crate) dev_dir: PathBuf,
    /// The highest generation that the kernel counts to; fewer in tests.
    pub(crate) last_generation: u16,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            lvm: "/usr/sbin/lvm".into(),
            lvm_timeout: Duration::from_secs(60),
            run_dir: "/run/virtnotify".into(),
            headroom: None,
            headroom_limit: Bytes::mib(1024),
            step: Bytes::mib(64),
            collector_budget: Bytes::mib(64),
            hold_timeout: 30,
            metadata: Bytes::mib(16),
            lvm_backup: "/etc/lvm/backup".into(),
            backup_dir: "/etc/virtnotify/backup".into(),
            dev_dir: "/dev".into(),
            last_generation: u16::MAX,
        }
    }
}

impl EngineConfig {
    pub(crate) fn device_path(&self, vg: &VgName, lv: &str) -> PathBuf {
        names::lv_path(&self.dev_dir, vg, lv)
    }

    pub(crate) fn lv_path(&self, vg: &VgName, index: u16) -> PathBuf {
        self.device_path(vg, &names::data_lv(index))
    }
}

/// Why the engine cannot run on this host, now.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Another process holds the lock.
    #[error("another virtnotifyd runs on this host: it holds '{0}'")]
    SecondDaemon(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot lock '{path}': {source}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device mapper or the target is not usable.
    #[error("{0}")]
    Kernel(String),
}

/// The backend over LVM and the device mapper.
pub struct Engine {
    pub(crate) parts: Parts,
    /// Held while a pool is started or stopped, which runs LVM: no other call takes it.
    pub(crate) changing: Mutex<()>,
    pub(crate) pools: Mutex<BTreeMap<PoolName, Pool>>,
    /// The number of the last job.
    last_job: AtomicU64,
    _lock: Flock<File>,
}

pub(crate) fn lock_file(directory: &Path) -> Result<Flock<File>, EngineError> {
    let path = directory.join("engine.lock");
    let failed = |source| EngineError::Lock { path: path.clone(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    match Flock::lock(open.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(EngineError::SecondDaemon(path)),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

impl Engine {
    /// An engine without a started pool. One per host: the lock file sees to that.
    ///
    /// # Errors
    /// When another one runs, or the kernel lacks the target.
    pub fn new(config: EngineConfig, bus: EventBus) -> Result<Arc<Self>, EngineError> {
        let lock = lock_file(&config.run_dir)?;
        let kernel = |error: TargetError| EngineError::Kernel(error.to_string());
        let target = DeviceMapper::open().map_err(kernel)?;
        target.check().map_err(kernel)?;
        let lvm = LvmProgram::new(config.lvm.clone(), config.lvm_timeout);
        let (lvm, target) = (Arc::new(lvm), Arc::new(target));
        let parts = Parts { config, lvm, target, disks: Arc::new(HostDisks), bus };
        Ok(Self::assemble(parts, lock))
    }

    fn assemble(parts: Parts, lock: Flock<File>) -> Arc<Self> {
        let pools = Mutex::new(BTreeMap::new());
        Arc::new(Self {
            parts,
            changing: Mutex::new(()),
            pools,
            last_job: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// The metadata of a started pool, for readers beside the engine.
    #[cfg(test)]
    pub(crate) fn contents(&self, pool: &PoolName) -> Result<crate::meta::Contents, BackendError> {
        let contents = self.started(pool)?.reader.contents();
        contents.map_err(|e| BackendError::failed("cannot read", e))
    }

    /// An engine over other parts, for tests and the simulator.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn with_parts(parts: Parts) -> Result<Arc<Self>, EngineError> {
        let lock = lock_file(&parts.config.run_dir)?;
        Ok(Self::assemble(parts, lock))
    }

    /// Pools that have devices in the kernel: they were started before the daemon was, and have
    /// to be started again before anything else, because VMs may wait for them.
    #[must_use]
    pub fn live_pools(&self) -> Vec<PoolName> {
        let devices = self.parts.target.devices().unwrap_or_default();
        let mut pools: Vec<_> =
            devices.iter().filter_map(|device| names::pool_of_dm_name(&device.name)).collect();
        pools.sort();
        pools.dedup();
        pools
    }

    /// How well a started pool's growth is grouped into commits.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`].
    pub fn growth_figures(&self, pool: &PoolName) -> Result<GrowthFigures, BackendError> {
        Ok(self.started(pool)?.core().figures())
    }

    /// The started pools whose grow thread has been busy with one thing for at least this long, and for
    /// how long. The thread looks at all devices each ten seconds, so one that works is never silent for
    /// much longer than that.
    #[must_use]
    pub fn silent(&self, at_least: Duration) -> BTreeMap<PoolName, Duration> {
        let pools = lock(&self.pools);
        let silent = pools.iter().map(|(name, pool)| (name.clone(), pool.shared.silence()));
        silent.filter(|(_, silence)| *silence >= at_least).collect()
    }

    /// Tells all listeners that something is wrong with a started pool.
    pub fn tell_damage(&self, pool: &PoolName, what: String) {
        if let Ok(shared) = self.started(pool) {
            shared.damage(what);
        }
    }

    /// Ends all threads. Devices stay, and what guests write to holes waits for the next daemon.
    pub fn halt(&self) {
        let _changing = lock(&self.changing);
        let pools = std::mem::take(&mut *lock(&self.pools));
        for pool in pools.into_values() {
            pool.halt();
        }
    }

    pub(crate) fn started(&self, pool: &PoolName) -> Result<Arc<Shared>, BackendError> {
        let pools = lock(&self.pools);
        let found = pools.get(pool).map(|pool| pool.shared.clone());
        found.ok_or_else(|| BackendError::PoolNotActive(pool.to_string()))
    }

    fn group(&self, step: &str, vg: &VgName, error: LvmError) -> BackendError {
        BackendError::failed(format!("cannot {step} the volume group '{vg}'"), error)
    }
}

impl Backend for Engine {
    fn build_pool(&self, spec: &PoolSpec, mode: BuildMode) -> Result<(), BackendError> {
        if spec.devices.is_empty() {
            let what = format!("no devices are named to make the volume group '{}' of", spec.vg);
            return Err(BackendError::Refused(what));
        }
        if let Some(bad) = spec.devices.iter().find(|device| !device.is_absolute()) {
            let what = format!("'{}' is no absolute path of a device", bad.display());
            return Err(BackendError::Refused(what));
        }
        let force = mode == BuildMode::Overwrite;
        let made = self.parts.lvm.create_vg(&spec.vg, &spec.devices, force);
        made.map_err(|e| self.group("make", &spec.vg, e))
    }

    fn delete_pool(&self, spec: &PoolSpec) -> Result<(), BackendError> {
        let _changing = lock(&self.changing);
        if self.is_started(&spec.name) {
            return Err(BackendError::PoolActive(spec.name.to_string()));
        }
        let report = start::usable_group(&self.parts, &spec.vg)?;
        let state = start::state_of(&report)?;
        if state == GroupState::Ours {
            start::check_empty(&self.parts, spec, &report)?;
        }
        start::remove(&self.parts, spec, &report)
    }

    fn start_pool(&self, spec: &PoolSpec) -> Result<Change, BackendError> {
        let _changing = lock(&self.changing);
        let in_use = lock(&self.pools)
            .values()
            .find_map(|pool| (pool.shared.vg == spec.vg).then(|| pool.shared.name.clone()));
        match in_use {
            Some(name) if name == spec.name => return Ok(Change::Identity),
            Some(name) => {
                let what = format!("the volume group '{}' holds the pool '{name}'", spec.vg);
                return Err(BackendError::Source(what));
            }
            None if self.is_started(&spec.name) => {
                return Err(BackendError::PoolActive(spec.name.to_string()));
            }
            None => {}
        }
        let pool = start::start(&self.parts, spec)?;
        lock(&self.pools).insert(spec.name.clone(), pool);
        self.parts.bus.emit(Event::PoolStarted(spec.name.clone()));
        Ok(Change::Changed)
    }

    fn stop_pool(&self, pool: &PoolName) -> Result<Change, BackendError> {
        let _changing = lock(&self.changing);
        let Ok(shared) = self.started(pool) else { return Ok(Change::Identity) };
        start::detach_all(&shared)?;
        let stopped = lock(&self.pools).remove(pool);
        if let Some(stopped) = stopped {
            stopped.halt();
            start::deactivate(shared);
        }
        self.parts.bus.emit(Event::PoolStopped(pool.clone()));
        Ok(Change::Changed)
    }

    fn refresh_pool(&self, pool: &PoolName) -> Result<(), BackendError> {
        let shared = self.started(pool)?;
        let looked = start::usable_group(&self.parts, &shared.vg)?;
        shared.view().set_vg(looked.size, looked.free);
        self.parts.bus.emit(Event::PoolChanged(pool.clone()));
        shared.gate.kick();
        Ok(())
    }

    fn start_job(&self, pool: &PoolName, task: &Task) -> Result<u64, BackendError> {
        let shared = self.started(pool)?;
        let id = self.last_job.fetch_add(1, Ordering::Relaxed) + 1;
        shared.start_job(id, task)?;
        Ok(id)
    }

    fn jobs(&self) -> Vec<JobInfo> {
        lock(&self.pools).values().filter_map(|pool| pool.shared.collector.job()).collect()
    }

    fn cancel_job(&self, id: u64) -> Result<(), BackendError> {
        let cancelled = |pool: &Pool| pool.shared.collector.cancel(id);
        match lock(&self.pools).values().any(cancelled) {
            true => Ok(()),
            false => Err(BackendError::Refused(format!("no job {id} runs"))),
        }
    }

    fn volume_stats(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<VolumeStats, BackendError> {
        self.started(pool)?.volume_stats(volume)
    }

    fn set_policy(&self, pool: &PoolName, policy: &Policy) -> Result<Change, BackendError> {
        let shared = self.started(pool)?;
        if std::mem::replace(&mut *lock(&shared.policy), *policy) == *policy {
            return Ok(Change::Identity);
        }
        self.parts.bus.emit(Event::PoolChanged(pool.clone()));
        // The low mark may be elsewhere now.
        shared.gate.kick();
        Ok(Change::Changed)
    }

    fn policy(&self, pool: &PoolName) -> Result<Policy, BackendError> {
        Ok(self.started(pool)?.policy())
    }

    fn find_sources(&self) -> Result<Vec<PoolSource>, BackendError> {
        let groups = self.parts.lvm.groups();
        groups.map_err(|e| BackendError::failed("cannot look for volume groups", e))
    }

    fn is_started(&self, pool: &PoolName) -> bool {
        lock(&self.pools).contains_key(pool)
    }

    fn is_damaged(&self, pool: &PoolName) -> bool {
        self.started(pool).is_ok_and(|shared| shared.is_damaged())
    }

    fn pool_info(&self, pool: &PoolName) -> Result<PoolInfo, BackendError> {
        Ok(self.started(pool)?.view().info())
    }

    fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, BackendError> {
        let shared = self.started(pool)?;
        let views = shared.view().volumes();
        Ok(views.iter().map(|view| shared.info_of(view)).collect())
    }

    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, BackendError> {
        self.started(pool)?.volume_info(volume)
    }

    fn create_volume(
        &self,
        pool: &PoolName,
        spec: &VolumeSpec,
    ) -> Result<VolumeInfo, BackendError> {
        self.started(pool)?.create_volume(spec)
    }

    fn delete_volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<(), BackendError> {
        self.started(pool)?.delete_volume(volume, None)
    }

    fn delete_this_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), BackendError> {
        self.started(pool)?.delete_volume(volume, Some(uuid))
    }

    fn snapshot(
        &self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, BackendError> {
        self.started(pool)?.snapshot(volumes, name)
    }

    fn roll_back(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), BackendError> {
        self.started(pool)?.roll_back(snapshot)
    }

    fn difference(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<Vec<VolumeExtent>, BackendError> {
        self.started(pool)?.difference(volume, base)
    }

    fn resize_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<Change, BackendError> {
        self.started(pool)?.resize_volume(volume, capacity)
    }

    fn allocate_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<Change, BackendError> {
        self.started(pool)?.allocate(volume)
    }

    fn prepare_write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), BackendError> {
        self.started(pool)?.prepare(volume, offset, length).map(drop)
    }

    fn wipe_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        mode: WipeMode,
    ) -> Result<(), BackendError> {
        self.started(pool)?.wipe_volume(volume, mode)
    }
}
