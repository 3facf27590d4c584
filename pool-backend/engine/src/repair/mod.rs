// SPDX-License-Identifier: LGPL-2.1-or-later
//! Backups of pools' metadata, and what a person does with them: check, dump, restore.
//!
//! | module | job | never |
//! |---|---|---|
//! | `keeper` | keeps the backup of a started pool | holds up a growth |
//! | `text` | a map as text, both ways | does I/O |
//! | `files` | the backups on disk, the archive | |
//! | `image` | the metadata device in memory | writes to the device |
//! | `describe` | a pool's map from the metadata, the kernel or a backup | changes anything |
//! | `rules` | which rule of `docs/developer/on-disk.md` a map breaks | does I/O |
//! | `shared` | the kernel's flat maps, in the layers of the backup | does I/O |
//! | `check` | all that can be wrong, compared | changes anything |
//! | `restore` | writes metadata | writes before everything was looked at |
//!
//! The work is the same whether the daemon does it ([`Engine`](crate::Engine)) or, when no daemon
//! runs, a program of the administrator's ([`Offline`]), which then holds the daemon's lock.

mod check;
mod describe;
mod files;
mod image;
pub(crate) mod keeper;
mod offline;
mod restore;
mod rules;
mod shared;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
pub use virtnotify_model::Checked;
use virtnotify_model::{BackendError, PoolName, VgName, VolumeName};

pub use files::FileError;
pub use offline::Offline;
pub use text::{Source, TextError};

use crate::meta::MetaError;
use crate::pool::Shared;
use crate::pool::start::Parts;

/// Why a pool was not checked, dumped or restored.
#[derive(Debug, Error)]
pub enum RepairError {
    /// The metadata or the map is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The metadata was made by another version of the program.
    #[error("{0}: the version that made it can use it")]
    Newer(String),
    /// It is possible, but must not be done.
    #[error("{0}")]
    Refused(String),
    /// A backup cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// LVM, the kernel or a device failed, or the pool cannot be found.
    #[error(transparent)]
    Cannot(#[from] BackendError),
}

impl From<MetaError> for RepairError {
    fn from(error: MetaError) -> Self {
        match error.is_newer() {
            true => Self::Newer(error.to_string()),
            false => Self::Damaged(error.to_string()),
        }
    }
}

pub(crate) fn cannot(
    what: impl Into<String>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RepairError {
    RepairError::Cannot(BackendError::failed(what, error))
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing: nothing is lost by it.
    Warning,
    /// Data is lost, or would be if the pool went on like this.
    Damage,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Damage => "damage",
        })
    }
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Its kind: a word for programs.
    pub code: &'static str,
    /// A sentence.
    pub text: String,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The volume group.
    pub vg: String,
    /// The pool's name, empty when it is not known.
    pub name: String,
    /// The pool's id, empty when it is not known.
    pub pool: String,
    /// Whether the pool is started.
    pub started: bool,
    /// What is wrong; the worst first.
    pub findings: Vec<Finding>,
    /// The account of the volume group and other figures, in bytes unless the name says otherwise.
    pub figures: Vec<(&'static str, u64)>,
}

impl CheckReport {
    /// The worst of what was found.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// The same in plain types, as it goes over D-Bus.
    #[must_use]
    pub fn into_plain(self) -> Checked {
        let verdict = match self.worst() {
            None => 0,
            Some(Severity::Warning) => 1,
            Some(Severity::Damage) => 2,
        };
        let findings = self.findings.into_iter();
        let findings = findings.map(|f| (f.severity.to_string(), f.code.to_owned(), f.text));
        let figures = self.figures.iter().map(|(name, value)| ((*name).to_owned(), *value));
        let (findings, figures) = (findings.collect(), figures.collect());
        (verdict, self.vg, self.name, self.pool, self.started, findings, figures)
    }
}

/// The source of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpFrom {
    /// The metadata LV.
    Metadata,
    /// The devices that the kernel has.
    Kernel,
    /// The newest backup.
    Backup,
}

/// The source of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreFrom {
    /// A backup's or a dump's text.
    Text(String),
    /// The newest backup that was made of these logical volumes.
    Backup,
    /// The devices that the kernel has; volumes without a device come from the backup.
    Kernel,
}

/// A restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The volume group.
    pub vg: VgName,
    /// Where the map comes from.
    pub from: RestoreFrom,
    /// Volumes that are left out: their data is given up.
    pub without: Vec<VolumeName>,
    /// Takes a map that was made for other logical volumes or another pool.
    pub force: bool,
    /// Keeps no copy of what is overwritten.
    pub no_archive: bool,
    /// Looks at everything and changes nothing.
    pub dry_run: bool,
}

/// What a restore did, or would do: sentences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored(pub Vec<String>);

/// Check, dump and restore. Calls may take as long as LVM commands and reading all metadata do.
pub trait Repair: Send + Sync {
    /// Compares everything that is known of a pool. Nothing is changed.
    ///
    /// # Errors When the pool cannot be read; damage is not an error but a finding.
    fn check(&self, vg: &VgName) -> Result<CheckReport, RepairError>;

    /// A pool's map as text.
    ///
    /// # Errors
    /// When it cannot be read.
    fn dump(&self, vg: &VgName, from: DumpFrom) -> Result<String, RepairError>;

    /// Writes the metadata of a pool that is not started.
    ///
    /// # Errors When the map cannot be read or must not be used. Nothing was written then, unless a
    /// device failed: the restore can be run again.
    fn restore(&self, request: &RestoreRequest) -> Result<Restored, RepairError>;

    /// The volume group of a started pool.
    fn group_of(&self, pool: &PoolName) -> Option<VgName>;
}

/// Where chunks of a volume lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The first of them on the volume.
    pub chunk: u64,
    /// The data LV.
    pub lv: u16,
    /// The first of them on the data LV.
    pub place: u64,
    /// How many.
    pub count: u64,
}

/// A volume's map, to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMap {
    /// The volume.
    pub name: String,
    /// Its size in bytes.
    pub capacity: u64,
    /// The size of a chunk in bytes.
    pub chunk_bytes: u64,
    /// Its runs, by their place on the volume.
    pub runs: Vec<Placed>,
}

/// A volume's map out of the text of its pool; `None` when that has no such volume.
///
/// # Errors
/// When the text cannot be read.
pub fn volume_map(text: &str, volume: &str) -> Result<Option<VolumeMap>, TextError> {
    let text::Description { contents, .. } = text.parse()?;
    let chunk_bytes = contents.settings.chunk.bytes().0;
    let placed = |run: crate::alloc::Run| {
        let crate::alloc::Extent { start, length: count } = run.to;
        Placed { chunk: run.at, lv: start.lv, place: start.chunk, count }
    };
    // A map that breaks a rule is not drawn: the line is not known any more.
    let broken = |e: crate::alloc::Broken| TextError { line: 1, what: e.to_string() };
    let maps = contents.maps().map_err(broken)?;
    let found = maps.into_iter().find(|(row, _)| row.name.as_str() == volume);
    Ok(found.map(|(row, map)| VolumeMap {
        name: row.name.to_string(),
        capacity: row.capacity.0,
        chunk_bytes,
        runs: map.iter().map(placed).collect(),
    }))
}

/// What the work is done on.
pub(crate) struct Bench<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) vg: &'a VgName,
    /// The pool in that group, when it is started.
    pub(crate) started: Option<Arc<Shared>>,
}

impl crate::Engine {
    fn started_in(&self, vg: &VgName) -> Option<Arc<Shared>> {
        let pools = crate::pool::lock(&self.pools);
        pools.values().find(|pool| pool.shared.vg == *vg).map(|pool| pool.shared.clone())
    }
}

impl Repair for crate::Engine {
    fn check(&self, vg: &VgName) -> Result<CheckReport, RepairError> {
        // No pool is started or stopped meanwhile.
        let _changing = crate::pool::lock(&self.changing);
        check::check(&Bench { parts: &self.parts, vg, started: self.started_in(vg) })
    }

    fn dump(&self, vg: &VgName, from: DumpFrom) -> Result<String, RepairError> {
        let _changing = crate::pool::lock(&self.changing);
        describe::dump(&Bench { parts: &self.parts, vg, started: self.started_in(vg) }, from)
    }

    fn restore(&self, request: &RestoreRequest) -> Result<Restored, RepairError> {
        let _changing = crate::pool::lock(&self.changing);
        let vg = &request.vg;
        restore::restore(&Bench { parts: &self.parts, vg, started: self.started_in(vg) }, request)
    }

    fn group_of(&self, pool: &PoolName) -> Option<VgName> {
        let pools = crate::pool::lock(&self.pools);
        pools.get(pool).map(|pool| pool.shared.vg.clone())
    }
}
