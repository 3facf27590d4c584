// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes into which `virt-notify receive` is writing, or was when it was killed: their content is neither the old
//! one nor the one that was sent. A file marks each of them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Where the notes about what is received are kept.
pub const RECEIVED: &str = "/var/lib/virtnotify/received";

fn note(directory: &Path, volume: Uuid) -> PathBuf {
    directory.join(format!("{volume}.receiving"))
}

/// Whether that volume is being received, as the notes in this directory say.
///
/// # Errors
/// When they cannot be read.
pub fn is_receiving(directory: &Path, volume: Uuid) -> io::Result<bool> {
    note(directory, volume).try_exists()
}

/// Notes that a volume begins to be received.
///
/// # Errors
/// When that cannot be made durable.
pub fn begin_receiving(directory: &Path, volume: Uuid) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    virtnotify_files::replace_durably(&note(directory, volume), b"", 0o644)
}

/// Removes the note: the volume is complete, or as it was before.
///
/// # Errors
/// When that cannot be made durable.
pub fn end_receiving(directory: &Path, volume: Uuid) -> io::Result<()> {
    match virtnotify_files::remove_durably(&note(directory, volume)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        ended => ended,
    }
}
