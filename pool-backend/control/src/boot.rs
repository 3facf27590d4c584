// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which boot of this host this is: by that a move that was begun before a power cut is known.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Where the kernel names this boot.
pub const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Why this boot is not known. A mover that took one boot for another would start VMs that run elsewhere.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file cannot be read.
    #[error("cannot read from '{}' which boot of this host this is: {source}; mount /proc there", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is empty.
    #[error("'{}' does not say which boot of this host this is; mount /proc there", _0.display())]
    Empty(PathBuf),
}

/// The name of this boot, as that file has it.
pub fn read(file: &Path) -> Result<String, BootError> {
    let text = fs::read_to_string(file)
        .map_err(|source| BootError::Io { path: file.to_owned(), source })?;
    match text.trim() {
        "" => Err(BootError::Empty(file.to_owned())),
        boot => Ok(boot.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_is_not_known_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("boot_id");
        assert!(matches!(read(&file), Err(BootError::Io { .. })));
        fs::write(&file, "\n").unwrap();
        assert!(matches!(read(&file), Err(BootError::Empty(_))));
        fs::write(&file, "d9a1\n").unwrap();
        assert_eq!(read(&file).unwrap(), "d9a1");
    }

    #[test]
    fn the_kernel_names_this_boot() {
        assert_eq!(read(Path::new(FILE)).unwrap().len(), 36);
    }
}
