// SPDX-License-Identifier: LGPL-2.1-or-later
//! Jobs of the collector: work on a pool that takes long, while its volumes are in use.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Bytes, PoolName, VolumeName};

/// What a job is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Move the chunks of one volume, or of all volumes, together on the disk, in the order of the
    /// volume: fewer and longer runs.
    Defragment(Option<VolumeName>),
    /// Take back what one volume, or all volumes, were given and never wrote, and what was discarded. For all,
    /// then move chunks from the end of the pool's data to free space before it, and give the volume group what
    /// is free then, except the headroom.
    Reclaim(Option<VolumeName>),
    /// Take back chunks of one volume, or of all volumes, that hold zeroes only; then what
    /// [`Task::Reclaim`] does.
    ReclaimZeroes(Option<VolumeName>),
    /// Move all that the pool has on a physical volume to the others of its volume group. From the
    /// beginning on no volume grows there.
    Evacuate(PathBuf),
}

impl Task {
    /// Its name for people and programs: `defragment`, `reclaim`, `reclaim-zeroes` or `evacuate`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Defragment(_) => "defragment",
            Self::Reclaim(_) => "reclaim",
            Self::ReclaimZeroes(_) => "reclaim-zeroes",
            Self::Evacuate(_) => "evacuate",
        }
    }

    /// The volume that the task is about, if it is about one.
    #[must_use]
    pub fn volume(&self) -> Option<&VolumeName> {
        match self {
            Self::Defragment(volume) | Self::Reclaim(volume) | Self::ReclaimZeroes(volume) => {
                volume.as_ref()
            }
            Self::Evacuate(_) => None,
        }
    }

    /// The device that the task is about, if it is about one.
    #[must_use]
    pub fn device(&self) -> Option<&Path> {
        match self {
            Self::Evacuate(device) => Some(device),
            Self::Defragment(_) | Self::Reclaim(_) | Self::ReclaimZeroes(_) => None,
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// It works, or waits for guests, which go first.
    Running,
    /// It has done what could be done.
    Done,
    /// It was cancelled; what it did stays.
    Cancelled,
    /// A step failed, for this reason; what it did before stays.
    Failed(String),
}

impl JobState {
    /// Its name for people and programs: `running`, `done`, `cancelled` or `failed`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }
}

/// A job of a pool: the one that runs, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its number, which no other job of the host has until the daemon starts anew.
    pub id: u64,
    /// Its pool.
    pub pool: PoolName,
    /// What it is to do.
    pub task: Task,
    /// How far it is.
    pub state: JobState,
    /// When it began.
    pub began: SystemTime,
    /// Bytes that were searched for zeroes.
    pub looked: Bytes,
    /// Bytes to be searched in all, as far as known when it began.
    pub to_look: Bytes,
    /// Bytes that were moved.
    pub moved: Bytes,
    /// Bytes to be moved in all, as far as known when it began.
    pub total: Bytes,
    /// Runs of the volumes that it is about, when it began.
    pub runs_before: u64,
    /// Runs of these volumes now.
    pub runs: u64,
    /// Bytes that volumes gave back.
    pub freed: Bytes,
    /// Bytes that went back to the volume group.
    pub to_group: Bytes,
}
