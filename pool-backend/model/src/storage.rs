// SPDX-License-Identifier: LGPL-2.1-or-later
//! What can be asked of the pools of this host, from the process that serves them or from another one.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    Bytes, JobInfo, Policy, PoolInfo, PoolName, PoolState, SnapshotName, Task, VolumeExtent,
    VolumeInfo, VolumeName, VolumeStats,
};

/// Where virtnotifyd listens for its neighbours: root alone gets in.
pub const STORAGE_SOCKET: &str = "/run/virtnotify/storage.sock";

/// A refusal or a failure. The texts are sentences for an operator; each kind has one D-Bus error name.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum StorageError {
    /// The pool is active, and has no such volume.
    #[error("{0}")]
    NoVolume(String),
    /// There is no such pool, it is not active, or something else of that name is not there.
    #[error("{0}")]
    NotFound(String),
    /// The volume is open: a VM or another program uses it.
    #[error("{0}")]
    InUse(String),
    /// There is one of that name already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The pool has no room for it, or its policy allows no more.
    #[error("{0}")]
    NoSpace(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// Metadata, or the map to restore, is damaged.
    #[error("{0}")]
    Damaged(String),
    /// It was refused, or tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// The process that serves the pools does not answer: nothing was done, or it is not known
    /// whether it was.
    #[error("{0}")]
    Unreachable(String),
}

/// Questions about pools, and the deletion of a volume whose VM has left.
///
/// Questions are answered at once, and never by running a command; only the counters of a target need the
/// kernel. While the process that serves the pools is being restarted, answers are what it told last.
pub trait Pools: Send + Sync + 'static {
    /// Whether the process that serves the pools runs. Without it nothing grows, and answers are what it told last.
    fn runs(&self) -> bool;

    /// All pools that are defined or active, by name.
    fn pools(&self) -> Vec<PoolState>;

    /// A pool.
    fn pool(&self, name: &PoolName) -> Option<PoolState> {
        self.pools().into_iter().find(|pool| pool.name == *name)
    }

    /// An active pool in numbers.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    fn pool_info(&self, pool: &PoolName) -> Result<PoolInfo, StorageError> {
        self.pool(pool).and_then(|pool| pool.info).ok_or_else(|| not_active(pool))
    }

    /// The policy of an active pool.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    fn policy(&self, pool: &PoolName) -> Result<Policy, StorageError> {
        self.pool(pool).and_then(|pool| pool.policy).ok_or_else(|| not_active(pool))
    }

    /// All volumes of an active pool, by name.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, StorageError>;

    /// A volume.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::NoVolume`].
    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, StorageError>;

    /// The counters of a volume's target.
    ///
    /// # Errors
    /// As for [`Pools::volume`]; when it has no device, or its process does not answer.
    fn volume_stats(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<VolumeStats, StorageError>;

    /// Deletes a volume, if it is the one with that UUID. It may take as long as an LVM command does.
    ///
    /// # Errors
    /// As for [`Pools::volume`], also where another volume has that name by now; [`StorageError::InUse`].
    fn delete_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), StorageError>;
}

/// The error for a question about a pool that is not active.
#[must_use]
pub fn not_active(pool: &PoolName) -> StorageError {
    StorageError::NotFound(format!("the pool '{pool}' is not active"))
}

/// A check's report for programs: verdict (0: well, 1: findings that lose nothing, 2: damage), volume
/// group, pool, the pool's id, whether it is started, findings (severity, kind, sentence), figures.
pub type Checked =
    (u32, String, String, String, bool, Vec<(String, String, String)>, Vec<(String, u64)>);

/// A guest that is about to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name, which its owner chooses.
    pub name: String,
    /// Its volumes: `/dev/notify/POOL/VOLUME` or `POOL/VOLUME`.
    pub volumes: Vec<String>,
    /// Those of them whose cache mode is neither `none` nor `directsync`.
    pub cached: Vec<String>,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVolume {
    /// Its name.
    pub name: VolumeName,
    /// Its size; without one, that of what it is made of.
    pub capacity: Option<Bytes>,
    /// What it is given at once; the rest comes as it is written.
    pub allocation: Bytes,
    /// The volume or snapshot of the same pool of which it is made, and its UUID: another one of that name is not meant.
    pub backing: Option<(VolumeName, Uuid)>,
}

/// A restore as it is asked for, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreWords {
    /// The volume group.
    pub vg: String,
    /// `map`, `backup` or `kernel`.
    pub from: String,
    /// The map, for `map`.
    pub map: String,
    /// Volumes that are left out.
    pub without: Vec<String>,
    /// `force`, `no-archive`, `dry-run`.
    pub options: Vec<String>,
}

/// All calls about pools. Those that change something block, and may take as long as an LVM command does.
pub trait Storage: Pools {
    /// Waits until questions see all that was done before this call.
    fn catch_up(&self);

    /// The jobs that run, and the last one of each active pool.
    fn jobs(&self) -> Vec<JobInfo>;

    /// Begins a job; returns its number.
    ///
    /// # Errors
    /// As [`Backend::start_job`](crate::Backend::start_job).
    fn start_job(&self, pool: &PoolName, task: &Task) -> Result<u64, StorageError>;

    /// Cancels a job.
    ///
    /// # Errors
    /// When it has ended, or there is no such job.
    fn cancel_job(&self, id: u64) -> Result<(), StorageError>;

    /// Gives a volume now the chunks that it lacks in a part of it.
    ///
    /// # Errors
    /// As [`Backend::prepare_write`](crate::Backend::prepare_write).
    fn prepare_write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), StorageError>;

    /// Changes a pool's policy, at once and for good: settings by their names, each as text. One that is `none` is a limit
    /// that there is no longer.
    ///
    /// # Errors
    /// When there is no such pool, or one of the settings cannot be; nothing has changed then.
    fn set_policy(
        &self,
        pool: &PoolName,
        settings: &[(String, String)],
    ) -> Result<(), StorageError>;

    /// Makes a volume in an active pool.
    ///
    /// # Errors
    /// [`StorageError::AlreadyExists`], [`StorageError::NoSpace`]; [`StorageError::NoVolume`], where what it is to be
    /// made of is not there, or another volume has that name by now; and when it cannot be so. No volume is made then.
    fn create_volume(&self, pool: &PoolName, new: &NewVolume) -> Result<VolumeInfo, StorageError>;

    /// Gives a volume another capacity, if it is the one with that UUID. Only with `shrink` is that a smaller one.
    ///
    /// # Errors
    /// [`StorageError::InUse`], [`StorageError::NoSpace`], and when it holds more than that; [`StorageError::NoVolume`],
    /// also where another volume has that name by now. Nothing has changed then.
    fn resize_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
        capacity: Bytes,
        shrink: bool,
    ) -> Result<(), StorageError>;

    /// Deletes a volume or a snapshot, if it is the one with that UUID; with `snapshots`, those of a volume, too.
    ///
    /// # Errors
    /// [`StorageError::InUse`], also where it has snapshots that are to stay; [`StorageError::NoVolume`], also where
    /// another volume has that name by now. Nothing is deleted then.
    fn remove_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
        snapshots: bool,
    ) -> Result<(), StorageError>;

    /// Looks at a pool's volume group again.
    ///
    /// # Errors
    /// When the pool is not active, or its volume group cannot be read.
    fn refresh_pool(&self, pool: &PoolName) -> Result<(), StorageError>;

    /// Starts the pools of these volumes, `/dev/notify/POOL/VOLUME` or `POOL/VOLUME`, when they are not active.
    /// A volume that does not exist, and a `POOL/VOLUME` of a pool that is not ours, are passed over.
    ///
    /// # Errors
    /// When one of them cannot be started.
    fn ensure_active(&self, paths: &[String]) -> Result<(), StorageError>;

    /// A guest is about to start here, or to come here: its volumes are made active as by
    /// [`Storage::ensure_active`]. Of those that are `cached`, which turns the end of space into I/O errors, an event
    /// warns.
    ///
    /// # Errors
    /// When one of them cannot be made active, or is half received.
    fn guest_starts(&self, guest: &Guest) -> Result<(), StorageError>;

    /// Takes a snapshot of each of these volumes, all at one moment.
    ///
    /// # Errors
    /// When one of them cannot have it; no snapshot is made then.
    fn take_snapshot(
        &self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, StorageError>;

    /// Sets a volume back to its snapshot.
    ///
    /// # Errors
    /// When it is no snapshot, or its volume is gone or in use.
    fn roll_back(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), StorageError>;

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// When it is no snapshot, or in use.
    fn delete_snapshot(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), StorageError>;

    /// A volume's size, and which parts of it may differ from `base`; without one, all that it holds.
    ///
    /// # Errors
    /// When one of them is not there, or the volume does not go back to `base`.
    fn difference(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<(Bytes, Vec<VolumeExtent>), StorageError>;

    /// Checks a pool, named by its name or its volume group: metadata, LVM, the kernel's maps and
    /// the backup.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn check(&self, what: &str) -> Result<Checked, StorageError>;

    /// A pool's map as text, from `metadata`, `kernel` or `backup`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn dump(&self, what: &str, from: &str) -> Result<String, StorageError>;

    /// Writes the metadata of a pool that is not active; returns what was done.
    ///
    /// # Errors When the map cannot be read or must not be used.
    fn restore(&self, words: &RestoreWords) -> Result<Vec<String>, StorageError>;

    /// Sets whether this host is drained, which the XML of all pools then says.
    ///
    /// # Errors
    /// When the process that prints it does not answer.
    fn set_drained(&self, drained: bool) -> Result<(), StorageError>;
}
