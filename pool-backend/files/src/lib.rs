// SPDX-License-Identifier: LGPL-2.1-or-later
//! Replaces a file as a whole: a reader sees the old content or the new one, also after a crash.
//!
//! The new content is written beside the file, under a name with a leading dot, and renamed. The
//! directory may belong to another user, as that of node_exporter's text files does: what is found
//! under either name is replaced and never written to, so a link there leads nowhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces a file. `mode` is what others may do with it, within the process's umask.
///
/// # Errors
/// When the file cannot be written; the old one is there then.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, |_| Ok(()))
}

/// The same, and the new content survives a loss of power from now on.
///
/// # Errors
/// When the file cannot be written, or not made durable.
pub fn replace_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    put(path, content, mode, File::sync_all)?;
    File::open(directory(path))?.sync_all()
}

/// Removes a file, durably. One that is gone already is fine.
///
/// # Errors
/// When it cannot be removed, or that cannot be made durable.
pub fn remove_durably(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::open(directory(path))?.sync_all(),
    }
}

fn put(
    path: &Path,
    content: &[u8],
    mode: u32,
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let fresh = beside(path)?;
    let mut file = create(&fresh, mode)?;
    let placed = file
        .write_all(content)
        .and_then(|()| finish(&file))
        .and_then(|()| fs::rename(&fresh, path));
    placed.inspect_err(|_| {
        // The error is told; a remainder is overwritten by the next attempt.
        let _ = fs::remove_file(&fresh);
    })
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::IsADirectory))?;
    let mut fresh = std::ffi::OsString::from(".");
    fresh.push(name);
    fresh.push(".new");
    Ok(path.with_file_name(fresh))
}

/// A file of our own: one that is there already, whatever left it, is removed first.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    match open() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn each(check: impl Fn(&Path, &dyn Fn(&Path, &[u8]) -> io::Result<()>)) {
        for durably in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            check(directory.path(), &|path, content| match durably {
                true => replace_durably(path, content, 0o600),
                false => replace(path, content, 0o600),
            });
        }
    }

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        each(|directory, replace| {
            let file = directory.join("a.txt");
            replace(&file, b"old and long").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
            fs::write(directory.join(".a.txt.new"), "of an attempt that was cut off").unwrap();
            replace(&file, b"new").unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "new");
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(directory), ["a.txt"]);
        });
    }

    #[test]
    fn links_of_others_are_not_followed() {
        each(|directory, replace| {
            let (file, precious) = (directory.join("a.txt"), directory.join("precious"));
            fs::write(&precious, "as it was").unwrap();
            for link in [".a.txt.new", "a.txt", "a.new", "a.txt.new"] {
                let _ = fs::remove_file(directory.join(link));
                symlink(&precious, directory.join(link)).unwrap();
                replace(&file, b"ours").unwrap();
                assert_eq!(fs::read_to_string(&precious).unwrap(), "as it was", "{link}");
                assert!(fs::symlink_metadata(&file).unwrap().is_file(), "{link}");
            }
        });
    }

    #[test]
    fn what_cannot_be_placed_leaves_the_old_and_nothing_else() {
        each(|directory, replace| {
            let taken = directory.join("taken");
            fs::create_dir_all(taken.join("full")).unwrap();
            assert!(replace(&taken, b"x").is_err());
            assert_eq!(names(directory), ["taken"]);
            assert!(replace(&directory.join("nowhere/x"), b"x").is_err());
            assert!(replace(Path::new("/"), b"x").is_err());
        });
    }
}
