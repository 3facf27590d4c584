// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the engine wants from LVM. [`command`] is the only place that runs it.

pub(crate) mod command;
mod report;

use std::path::{Path, PathBuf};

use thiserror::Error;
use virtnotify_model::{Bytes, PoolSource, VgName};

/// Why an LVM command did not do its work.
#[derive(Debug, Error)]
pub(crate) enum LvmError {
    #[error("'{command}' cannot be started: {source}")]
    Start { command: String, source: std::io::Error },
    #[error("'{command}' did not end within {seconds} seconds and was killed")]
    Timeout { command: String, seconds: u64 },
    #[error("'{command}' failed ({status}): {stderr}")]
    Failed { command: String, status: String, stderr: String },
    #[error("'{command}' printed what cannot be understood: {why}")]
    Output { command: String, why: String },
}

impl LvmError {
    /// Whether LVM said that there is no room.
    pub(crate) fn is_full(&self) -> bool {
        // "insufficient free space", "Insufficient suitable allocatable extents"
        matches!(self, Self::Failed { stderr, .. } if stderr.contains("nsufficient "))
    }
}

/// A volume group as LVM reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VgReport {
    pub(crate) uuid: String,
    pub(crate) size: Bytes,
    pub(crate) free: Bytes,
    pub(crate) extent: Bytes,
    pub(crate) tags: Vec<String>,
    pub(crate) exported: bool,
    pub(crate) partial: bool,
    /// Shared through lvmlockd.
    pub(crate) shared: bool,
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
}

impl VgReport {
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
    /// Has the device mapper do what LVM's metadata says, after a command that was killed.
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
    /// Makes a physical volume that is in no group an ordinary device again.
    fn remove_pv(&self, device: &Path) -> Result<(), LvmError>;
}
