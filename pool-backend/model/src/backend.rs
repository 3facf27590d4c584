// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a storage backend promises to the parts that use it.
//!
//! It mirrors the table of functions that libvirt has for its own pool types
//! (`virStorageBackend` in libvirt's `src/storage/storage_backend.h`): the driver keeps the
//! pools' definitions, the backend does the work on pools that are started. All calls block,
//! may take as long as an LVM command does, and may be made from any thread at once; the grow
//! path never waits for any of them. Results say what changed, so that a repeat is harmless.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    BackendError, Bytes, ChunkSize, JobInfo, Policy, PoolName, SnapshotName, Task, VgName,
    VolumeName,
};

/// What a call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Everything was as asked already.
    Identity,
    /// Something was made, changed or removed.
    Changed,
}

/// How [`Backend::build_pool`] treats devices that hold something
/// (libvirt's `virStoragePoolBuildFlags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildMode {
    /// As libvirt's logical pool without flags: refuse what is in use.
    New,
    /// Refuse devices that carry any signature.
    NoOverwrite,
    /// Overwrite whatever is there.
    Overwrite,
}

/// A pool as it is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name; also the directory of its volumes below `/dev/notify`.
    pub name: PoolName,
    /// libvirt's UUID of the pool. It is the host's, not the volume group's: a pool that is
    /// undefined and defined again has the same volumes.
    pub uuid: Uuid,
    /// The volume group that holds it. A volume group holds one pool at most.
    pub vg: VgName,
    /// Devices that [`Backend::build_pool`] makes the volume group of.
    pub devices: Vec<PathBuf>,
    /// Chunk size for a pool that is made new; an existing one keeps its own.
    pub chunk: ChunkSize,
    /// What it does by itself.
    pub policy: Policy,
}

/// A volume group that a pool could lie in, or lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSource {
    /// The volume group.
    pub vg: VgName,
    /// Its physical volumes.
    pub devices: Vec<PathBuf>,
}

impl PoolSpec {
    /// The directory in which the volumes' links stand: `/dev/notify/POOL`.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        Path::new("/dev/notify").join(self.name.as_str())
    }
}

/// A started pool in numbers. `capacity >= allocation + available`: the rest of the volume
/// group belongs to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// The size of the volume group.
    pub capacity: Bytes,
    /// What volumes hold, metadata included.
    pub allocation: Bytes,
    /// What volumes can still get: free in the volume group, and the pool's headroom.
    pub available: Bytes,
    /// The part of `available` that the pool has taken from the volume group already.
    pub headroom: Bytes,
    /// What volumes hold and can still get: the most that they can have together.
    pub obtainable: Bytes,
    /// The capacities of its volumes, all together; those of snapshots are not counted.
    pub promised: Bytes,
    /// The pool's chunk size.
    pub chunk: ChunkSize,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name.
    pub name: VolumeName,
    /// Its size, not zero; rounded up to a multiple of 4 KiB.
    pub capacity: Bytes,
    /// What is to be allocated at once, from its beginning; zero for a thin volume.
    pub allocation: Bytes,
    /// Its UUID. The caller chooses it, and so can note it down before the volume exists.
    pub uuid: Uuid,
    /// The volume or snapshot whose content it begins with. Nothing is copied: both have the same
    /// chunks until one of them is written.
    pub backing: Option<VolumeName>,
}

/// What a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// It is written.
    Volume,
    /// `VOLUME@SNAPSHOT`: what the volume held at one moment. Its device is read-only.
    Snapshot,
}

/// A part of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeExtent {
    /// Where it begins.
    pub offset: Bytes,
    /// How long it is; never zero.
    pub length: Bytes,
    /// Whether it holds data; else it reads as zeroes.
    pub data: bool,
}

/// How a volume is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeState {
    /// Its device is there, and it grows as it is written.
    Growing,
    /// It asked for space that its pool does not have: its writes to holes fail with "no space"
    /// until there is some.
    OutOfSpace,
    /// Its device is not there (the pool's metadata is, so nothing is lost).
    Inactive,
}

/// A volume of a started pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// The pool it is in.
    pub pool: PoolName,
    /// Its name.
    pub name: VolumeName,
    /// Its own unchanging id; libvirt's volume key.
    pub uuid: Uuid,
    /// What it is.
    pub kind: VolumeKind,
    /// When it was made, to the second.
    pub created: SystemTime,
    /// The volume that it is a snapshot of, or what it was made from; `None` when that is gone.
    pub backing: Option<VolumeName>,
    /// Its size.
    pub capacity: Bytes,
    /// The space of the pool that it holds: its mapped chunks, shared ones included.
    pub allocation: Bytes,
    /// The part of `allocation` that no other volume or snapshot has.
    pub exclusive: Bytes,
    /// Its device: `/dev/notify/POOL/VOLUME`.
    pub path: PathBuf,
    /// How it is doing.
    pub state: VolumeState,
    /// How many openers its device has (`open_count` of the device mapper).
    pub openers: u32,
}

/// The snapshots among these volumes, or those of one of them; the oldest first.
#[must_use]
pub fn snapshots_among(mut all: Vec<VolumeInfo>, of: Option<&VolumeName>) -> Vec<VolumeInfo> {
    all.retain(|info| match (info.kind, info.name.snapshot()) {
        (VolumeKind::Snapshot, Some((volume, _))) => of.is_none_or(|of| *of == volume),
        _ => false,
    });
    all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    all
}

/// What a volume's target has counted since its device was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStats {
    /// Space that the volume was given ahead, and that is not known to be written.
    pub ahead: Bytes,
    /// Bytes written to the volume, rewrites included, if the kernel counts them.
    pub written: Option<Bytes>,
    /// Writes that waited for space and went on.
    pub waits: u64,
    /// The sum of these waits, in nanoseconds.
    pub wait_total_ns: u64,
    /// The longest wait, in nanoseconds.
    pub wait_max_ns: u64,
    /// A histogram of the waits: the lower bound of each class in nanoseconds, ascending, and the
    /// number of waits in it. Four classes make a factor of two.
    pub wait_classes: Vec<(u64, u64)>,
    /// Writes that waited too long and failed.
    pub timed_out: u64,
    /// Writes that failed because there was no space.
    pub refused: u64,
}

/// How [`Backend::wipe_volume`] overwrites (libvirt's `virStorageVolWipeAlgorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WipeMode {
    /// With zeroes: for a thin volume, its chunks are zeroed and given back.
    Zero,
    /// Give the chunks back (`trim`).
    Trim,
    /// Overwrite what the volume holds, once for each pass, then give the chunks back.
    Overwrite(&'static [WipePass]),
}

/// One pass over all that is to be wiped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WipePass {
    /// With random bytes.
    Random,
    /// With these three bytes, repeated.
    Pattern([u8; 3]),
    /// Reads what the pass before wrote, a pattern, and fails if it is not there.
    Verify,
}

/// A storage backend. The product has one, over LVM and the device mapper; tests have a fake.
pub trait Backend: Send + Sync + 'static {
    /// Makes the volume group of a pool from the devices it names.
    ///
    /// # Errors
    /// When a device is in use, or carries a signature and `mode` says to leave it.
    fn build_pool(&self, spec: &PoolSpec, mode: BuildMode) -> Result<(), BackendError>;

    /// Removes a pool that has no volumes from its volume group, and the volume group itself
    /// when nothing else is in it.
    ///
    /// # Errors
    /// When the pool is started, has volumes, or its group holds logical volumes of others.
    fn delete_pool(&self, spec: &PoolSpec) -> Result<(), BackendError>;

    /// Starts a pool: its volumes are there when this returns. A volume group without a pool
    /// gets one.
    ///
    /// # Errors
    /// [`BackendError::Source`] when the volume group cannot be used, or holds another started pool.
    fn start_pool(&self, spec: &PoolSpec) -> Result<Change, BackendError>;

    /// Stops a pool: its devices go, its data stays.
    ///
    /// # Errors
    /// [`BackendError::VolumeInUse`] when a volume is open; then nothing has changed.
    fn stop_pool(&self, pool: &PoolName) -> Result<Change, BackendError>;

    /// Looks again at the volume group of a started pool, and lets volumes that wait for space
    /// go on when there is some.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`]; [`BackendError::Source`] when the group is gone.
    fn refresh_pool(&self, pool: &PoolName) -> Result<(), BackendError>;

    /// Begins a job, which works while the volumes are in use; returns its number. A pool has one
    /// at a time.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`], [`BackendError::NoVolume`]; [`BackendError::Refused`] while
    /// another job of the pool runs.
    fn start_job(&self, pool: &PoolName, task: &Task) -> Result<u64, BackendError> {
        let what = format!("the pool '{pool}' knows no job '{}'", task.name());
        Err(BackendError::Unsupported(what))
    }

    /// The jobs that run, and the last one of each started pool. Answers at once.
    fn jobs(&self) -> Vec<JobInfo> {
        Vec::new()
    }

    /// Cancels a job; what it did stays.
    ///
    /// # Errors
    /// [`BackendError::Refused`] when it has ended, or there is no such job.
    fn cancel_job(&self, id: u64) -> Result<(), BackendError> {
        Err(BackendError::Refused(format!("no job {id} runs")))
    }

    /// What the target of a volume has counted. Never runs a command.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`], [`BackendError::NoVolume`]; when it has no device.
    fn volume_stats(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<VolumeStats, BackendError> {
        self.volume(pool, volume).map(|_| VolumeStats::default())
    }

    /// Gives a started pool another policy, at once. A backend that acts on none ignores it.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`].
    fn set_policy(&self, pool: &PoolName, policy: &Policy) -> Result<Change, BackendError> {
        let _ = (pool, policy);
        Ok(Change::Identity)
    }

    /// The policy of a started pool. Never runs a command: answers at once.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`].
    fn policy(&self, pool: &PoolName) -> Result<Policy, BackendError> {
        let _ = pool;
        Ok(Policy::default())
    }

    /// The volume groups of this host in which a pool could lie, or lies.
    ///
    /// # Errors
    /// When LVM cannot be asked.
    fn find_sources(&self) -> Result<Vec<PoolSource>, BackendError> {
        Err(BackendError::Unsupported("this backend cannot look for volume groups".to_owned()))
    }

    /// Whether the pool is started.
    fn is_started(&self, pool: &PoolName) -> bool;

    /// Whether a started pool has damaged or unwritable metadata: its volumes work on as far as
    /// they have space, and nothing is changed. Answers at once.
    fn is_damaged(&self, pool: &PoolName) -> bool {
        let _ = pool;
        false
    }

    /// A started pool in numbers. Never runs a command: answers at once.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`].
    fn pool_info(&self, pool: &PoolName) -> Result<PoolInfo, BackendError>;

    /// All volumes of a started pool, by name.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`].
    fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, BackendError>;

    /// One volume.
    ///
    /// # Errors
    /// [`BackendError::PoolNotActive`], [`BackendError::NoVolume`].
    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, BackendError>;

    /// Makes a volume and its device.
    ///
    /// # Errors
    /// [`BackendError::VolumeExists`], [`BackendError::Capacity`], [`BackendError::NoSpace`];
    /// nothing has changed then.
    fn create_volume(&self, pool: &PoolName, spec: &VolumeSpec)
    -> Result<VolumeInfo, BackendError>;

    /// Deletes a volume or a snapshot. Its name is free when this returns; the chunks that
    /// nothing else has come free soon. Snapshots of a volume, and what was made from it, stay.
    ///
    /// # Errors
    /// [`BackendError::NoVolume`], [`BackendError::VolumeInUse`].
    fn delete_volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<(), BackendError>;

    /// Deletes a volume of that name if it is the one with that UUID, which is compared while no other call can
    /// change the volume.
    ///
    /// # Errors
    /// As for [`Backend::delete_volume`]; [`BackendError::NoVolume`] where it is another one.
    fn delete_this_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), BackendError>;

    /// Takes a snapshot of each of these volumes, named `VOLUME@NAME`, all at one moment: what one
    /// of them shows was written before anything that was sent after another one's was.
    ///
    /// # Errors
    /// [`BackendError::NoVolume`], [`BackendError::VolumeExists`]; no snapshot is made then.
    fn snapshot(
        &self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, BackendError> {
        let _ = (volumes, name);
        Err(BackendError::Unsupported(format!("there are no snapshots in the pool '{pool}'")))
    }

    /// Sets a volume back to its snapshot; what was written since is lost.
    ///
    /// # Errors
    /// [`BackendError::VolumeInUse`] when the volume is open; [`BackendError::NoVolume`].
    fn roll_back(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), BackendError> {
        Err(BackendError::Unsupported(format!("'{snapshot}' is no snapshot in '{pool}'")))
    }

    /// Which parts of a volume or snapshot may differ from `base`, a snapshot that it goes back
    /// to; without one, all that it holds. Ascending, and none continues the one before.
    ///
    /// # Errors
    /// [`BackendError::NoVolume`]; [`BackendError::Refused`] when it does not go back to `base`.
    fn difference(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<Vec<VolumeExtent>, BackendError> {
        let _ = (pool, base);
        Err(BackendError::Unsupported(format!("the parts of '{volume}' cannot be listed")))
    }

    /// Gives a volume another capacity; what it holds stays.
    ///
    /// # Errors
    /// [`BackendError::Capacity`]; [`BackendError::Refused`] to shrink below what is written.
    fn resize_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<Change, BackendError>;

    /// Gives a volume all chunks that it does not have yet, up to its capacity.
    ///
    /// # Errors [`BackendError::NoSpace`]; the volume keeps what it got.
    fn allocate_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<Change, BackendError> {
        let _ = pool;
        Err(BackendError::Unsupported(format!("the volume '{volume}' cannot be allocated at once")))
    }

    /// Prepares a part of a volume for writes by this very process: when this returns, a write
    /// there is never held for the daemon, which could not end while one of its own threads waits
    /// for it. Chunks that are there already stay as they are. A part beyond the end of the volume
    /// is ignored. A backend that holds no writes does nothing.
    ///
    /// # Errors
    /// [`BackendError::NoSpace`].
    fn prepare_write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), BackendError> {
        let _ = (pool, volume, offset, length);
        Ok(())
    }

    /// Makes a volume read as zeroes.
    ///
    /// # Errors
    /// [`BackendError::VolumeInUse`].
    fn wipe_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        mode: WipeMode,
    ) -> Result<(), BackendError>;
}
