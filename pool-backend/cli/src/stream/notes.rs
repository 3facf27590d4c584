// SPDX-License-Identifier: LGPL-2.1-or-later
//! Notes about received snapshots: which one of the sender's each is, and which volumes are being
//! received. A file each, so that a lost or an old one harms no other.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;
use virtnotify_driver::{RECEIVED, begin_receiving, end_receiving, is_receiving};

use crate::client::Problem;
use crate::names::Named;

/// The notes.
pub struct Notes(PathBuf);

/// Keeps other receivers out of a volume until it is dropped, or its process ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed before the lock is let go: a receiver that takes the next file's lock sees that
        // this one is gone.
        let _ = fs::remove_file(&self.path);
    }
}

impl Default for Notes {
    fn default() -> Self {
        Self(RECEIVED.into())
    }
}

impl Notes {
    /// Those in another directory.
    #[cfg(test)]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The UUID by which a snapshot is known on all hosts: its own, or the sender's.
    pub fn identity(&self, snapshot: Uuid) -> Result<Uuid, Problem> {
        let text = self.read(&format!("{snapshot}.snapshot"))?;
        let Some(text) = text else { return Ok(snapshot) };
        let failed =
            |_| Problem::Cannot(format!("the note about the snapshot {snapshot} is broken"));
        text.trim().parse().map_err(failed)
    }

    /// Whether a snapshot was received, and all of it.
    pub fn is_received(&self, snapshot: Uuid) -> Result<bool, Problem> {
        Ok(self.read(&format!("{snapshot}.snapshot"))?.is_some())
    }

    /// Notes which one of the sender's a snapshot is.
    pub fn set_identity(&self, snapshot: Uuid, is: Uuid) -> Result<(), Problem> {
        self.write(&format!("{snapshot}.snapshot"), &is.to_string())
    }

    /// Keeps other receivers out of a volume, which may not be there yet.
    pub fn lock(&self, volume: &Named) -> Result<Lock, Problem> {
        fs::create_dir_all(&self.0).map_err(|e| failed(&e))?;
        let path = self.0.join(format!("{} {}.lock", volume.pool, volume.volume));
        let file = File::create(&path).map_err(|e| failed(&e))?;
        let taken = flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from);
        // The receiver that had the lock may just have removed the file.
        let is_there = || Ok(fs::metadata(&path)?.ino() == file.metadata()?.ino());
        match taken.and_then(|()| is_there()) {
            Ok(true) => Ok(Lock { path, _file: file }),
            Err(error) if ![ErrorKind::WouldBlock, ErrorKind::NotFound].contains(&error.kind()) => {
                Err(failed(&error))
            }
            _ => Err(Problem::Cannot(format!("'{volume}' is being received already"))),
        }
    }

    /// Whether that volume is being received: what it holds is incomplete.
    pub fn is_receiving(&self, volume: Uuid) -> Result<bool, Problem> {
        is_receiving(&self.0, volume).map_err(|e| failed(&e))
    }

    /// Notes that a volume begins to be received.
    pub fn begin(&self, volume: Uuid) -> Result<(), Problem> {
        begin_receiving(&self.0, volume).map_err(|e| failed(&e))
    }

    /// Removes the note: the volume is complete, or as it was before.
    pub fn end(&self, volume: Uuid) -> Result<(), Problem> {
        end_receiving(&self.0, volume).map_err(|e| failed(&e))
    }

    fn read(&self, name: &str) -> Result<Option<String>, Problem> {
        match fs::read_to_string(self.0.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Problem> {
        let path = self.0.join(name);
        fs::create_dir_all(&self.0).map_err(|e| failed(&e))?;
        virtnotify_files::replace_durably(&path, text.as_bytes(), 0o644).map_err(|e| failed(&e))
    }
}

fn failed(error: &io::Error) -> Problem {
    Problem::Cannot(format!("notes about received snapshots, in '{RECEIVED}': {error}"))
}
