// SPDX-License-Identifier: LGPL-2.1-or-later
//! LVM, as the engine uses it. [`command`] is the only place that runs it.

pub(crate) mod command;
mod report;

use std::path::{Path, PathBuf};

use thiserror::Error;
use virtnotify_model::{Bytes, PoolSource, VgName};

/// Why an LVM command failed.
#[derive(Debug, Error)]
pub(crate) enum LvmError {
    #[error("'{command}' cannot be started: {source}")]
    Start { command: String, source: std::io::Error },
    #[error("'{command}' did not end within {seconds} seconds and was killed")]
    Timeout { command: String, seconds: u64 },
    #[error("'{command}' is not run: {stuck} others wait for a disk that does not answer")]
    Stuck { command: String, stuck: usize },
    #[error("'{command}' failed ({status}): {stderr}")]
    Failed { command: String, status: String, stderr: String },
    #[error("'{command}' printed what cannot be understood: {why}")]
    Output { command: String, why: String },
}

impl LvmError {
    /// Whether LVM said that there is no space.
    pub(crate) fn is_full(&self) -> bool {
        // "insufficient free space", "Insufficient suitable allocatable extents"
        matches!(self, Self::Failed { stderr, .. } if stderr.contains("nsufficient "))
    }
}

/// A physical volume as LVM reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PvReport {
    /// Its device, as LVM names it.
    pub(crate) name: String,
    pub(crate) free: Bytes,
    /// Whether logical volumes may be extended onto it.
    pub(crate) allocatable: bool,
}

/// Extents of a logical volume that follow each other on a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PvSegment {
    pub(crate) pv: String,
    pub(crate) start: u64,
    pub(crate) extents: u64,
    pub(crate) lv: String,
}

/// A volume group as LVM reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VgReport {
    pub(crate) uuid: String,
    pub(crate) size: Bytes,
    /// The space that logical volumes can get: without that on devices that are closed to them.
    pub(crate) free: Bytes,
    pub(crate) extent: Bytes,
    pub(crate) tags: Vec<String>,
    pub(crate) exported: bool,
    pub(crate) partial: bool,
    /// Whether it is shared through lvmlockd.
    pub(crate) shared: bool,
    pub(crate) pvs: Vec<PvReport>,
    pub(crate) lvs: Vec<LvReport>,
}

/// A logical volume as LVM reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LvReport {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) size: Bytes,
    pub(crate) tags: Vec<String>,
    pub(crate) active: bool,
    /// `pvmove` moves it: it can be neither resized nor removed.
    pub(crate) moving: bool,
}

impl VgReport {
    /// All free space, including that on devices that are closed to logical volumes.
    pub(crate) fn unused(&self) -> Bytes {
        self.pvs.iter().map(|pv| pv.free).sum()
    }

    /// The logical volume of that name.
    pub(crate) fn lv(&self, name: &str) -> Option<&LvReport> {
        self.lvs.iter().find(|lv| lv.name == name)
    }
}

impl LvReport {
    /// Whether it has a tag.
    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t == tag)
    }
}

/// What the engine does with LVM. Every call may take as long as LVM does, up to a limit after
/// which the command is killed.
pub(crate) trait Lvm: Send + Sync + 'static {
    /// The volume group and what is in it.
    fn report(&self, vg: &VgName) -> Result<VgReport, LvmError>;
    /// The volume groups that can be used here, by name, with their devices.
    fn groups(&self) -> Result<Vec<PoolSource>, LvmError>;
    /// Makes an active logical volume with these tags; nothing is written to it.
    fn create_lv(&self, vg: &VgName, lv: &str, size: Bytes, tags: &[&str]) -> Result<(), LvmError>;
    /// Makes a logical volume larger by whole extents.
    fn extend_lv(&self, vg: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError>;
    /// Makes a logical volume smaller; what is cut off is lost.
    fn reduce_lv(&self, vg: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError>;
    /// Brings the device mapper to what LVM's metadata says, after a command that was killed.
    fn refresh_lv(&self, vg: &VgName, lv: &str) -> Result<(), LvmError>;
    /// Removes a logical volume.
    fn remove_lv(&self, vg: &VgName, lv: &str) -> Result<(), LvmError>;
    /// Activates or deactivates a logical volume.
    fn activate_lv(&self, vg: &VgName, lv: &str, active: bool) -> Result<(), LvmError>;
    /// Adds and removes tags of a logical volume.
    fn tag_lv(&self, vg: &VgName, lv: &str, add: &[&str], del: &[&str]) -> Result<(), LvmError>;
    /// Adds and removes tags of a volume group.
    fn tag_vg(&self, vg: &VgName, add: &[&str], del: &[&str]) -> Result<(), LvmError>;
    /// Makes a volume group; `force` overwrites signatures.
    fn create_vg(&self, vg: &VgName, devices: &[PathBuf], force: bool) -> Result<(), LvmError>;
    /// Removes an empty volume group.
    fn remove_vg(&self, vg: &VgName) -> Result<(), LvmError>;
    /// Where the extents of the group's logical volumes lie.
    fn segments(&self, vg: &VgName) -> Result<Vec<PvSegment>, LvmError>;
    /// Sets whether logical volumes may be extended onto a physical volume from now on.
    fn open_pv(&self, pv: &str, open: bool) -> Result<(), LvmError>;
    /// Begins to move extents of one logical volume to other physical volumes, in use or not. LVM goes on by
    /// itself when this process ends.
    fn begin_move(&self, part: &PvSegment) -> Result<(), LvmError>;
    /// Lets LVM resume the moves of a group whose watcher is gone.
    fn resume_moves(&self, vg: &VgName) -> Result<(), LvmError>;
    /// Makes a physical volume that is in no group an ordinary device again.
    fn remove_pv(&self, device: &Path) -> Result<(), LvmError>;
}
