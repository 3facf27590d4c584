// SPDX-License-Identifier: LGPL-2.1-or-later
//! The words and contracts that all parts of virtnotify share.
//!
//! This crate does nothing: no I/O, no threads. It names things ([`PoolName`], [`Bytes`]), says what a storage backend
//! promises ([`Backend`]) and what can go wrong ([`BackendError`]), what other programs can ask of pools
//! ([`Storage`]), and what the parts tell each other ([`Event`]). It depends on no other crate of ours.

mod backend;
mod error;
mod event;
mod job;
mod names;
mod picture;
mod policy;
mod severity;
mod storage;
mod units;

pub use backend::{
    Backend, BuildMode, Change, PoolInfo, PoolSource, PoolSpec, VolumeExtent, VolumeInfo,
    VolumeKind, VolumeSpec, VolumeState, VolumeStats, WipeMode, WipePass, snapshots_among,
};
pub use error::BackendError;
pub use event::{Event, EventBus, MoveFailure, MoveInfo};
pub use job::{JobInfo, JobState, Task};
pub use names::{NameError, PoolName, SnapshotName, VgName, VolumeName};
pub use picture::{Changes, Picture, PoolState, Stale};
pub use policy::{
    AtLowMark, GrowthLimits, LowMark, Overcommit, Policy, Ratio, Setting, TimeOfDay, WhenFull,
    Window, word_of,
};
pub use severity::Severity;
pub use storage::{
    Checked, Guest, NewVolume, Pools, RestoreWords, STORAGE_SOCKET, Storage, StorageError,
    not_active,
};
pub use units::{Bytes, ChunkSize, Chunks, Sectors, UnitError};
