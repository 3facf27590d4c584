// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backup files: `VG_POOLID.backup` for each pool, and older ones in `archive`.
//!
//! A file is written beside its place, flushed and renamed into it, so there is always the old or
//! the new one. A remainder of a write that was cut off starts with a dot and is ignored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;
use virtnotify_model::VgName;

use super::describe::lost_unused;
use super::text::{Description, TextError};
use crate::device::{ALIGN, BlockDevice, read_around};
use crate::lvm::VgReport;
use crate::names::data_lv;

/// How older files are kept for each pool...
const GENERATIONS: usize = 32;
/// ... of which two with the same volumes are at least so far apart.
const APART: Duration = Duration::from_secs(3600);
/// Copies of damaged metadata that are kept for each volume group.
const IMAGES: usize = 8;
/// The largest text that is read.
const TEXT_LIMIT: u64 = 1 << 30;
const EXTENSION: &str = "backup";
const ARCHIVE: &str = "archive";

/// A file that cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("cannot {step} '{}': {source}", path.display())]
    Io {
        /// The step that failed.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its content is wrong.
    #[error("'{}' cannot be used: {source}", path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// Where it is wrong.
        source: TextError,
    },
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { step, path, source }
}

/// Where backups are kept.
#[derive(Debug, Clone)]
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    fn stem(vg: &VgName, pool: Uuid) -> String {
        format!("{vg}_{pool}")
    }

    /// A pool's file.
    pub(crate) fn path(&self, vg: &VgName, pool: Uuid) -> PathBuf {
        self.0.join(format!("{}.{EXTENSION}", Self::stem(vg, pool)))
    }

    /// Writes the newest backup of a pool, whose number is one more than the last one's; nothing
    /// when the last one has the same content. The one before goes to the archive when it is worth
    /// keeping.
    pub(crate) fn store(&self, mut new: Description) -> Result<(), FileError> {
        let archive = self.0.join(ARCHIVE);
        fs::create_dir_all(&archive).map_err(failed("make the directory", &archive))?;
        let path = self.path(&new.head.vg, new.contents.pool);
        let stem = Self::stem(&new.head.vg, new.contents.pool);
        let older = numbered(&archive, &stem);
        let last = older.last().map_or(0, |(number, _)| *number);
        let old = load(&path).ok().flatten();
        if old.as_ref().is_some_and(|old| says_the_same(old, &new)) {
            return Ok(());
        }
        new.head.sequence = old.as_ref().map_or(last, |old| old.head.sequence.max(last)) + 1;
        if let Some(old) = old.filter(|old| worth_keeping(old, &new, older.last())) {
            let to = archive.join(format!("{stem}_{:06}.{EXTENSION}", old.head.sequence));
            match fs::hard_link(&path, &to) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make the link", &to)(error));
                }
                _ => {}
            }
            let surplus = (older.len() + 1).saturating_sub(GENERATIONS);
            for (_, old) in older.iter().take(surplus) {
                let _ = fs::remove_file(old);
            }
            sync_directory(&archive)?;
        }
        write(&path, new.to_string().as_bytes())
    }

    /// The newest backup of a pool; `None` when there is none.
    pub(crate) fn load(&self, vg: &VgName, pool: Uuid) -> Result<Option<Description>, FileError> {
        load(&self.path(vg, pool))
    }

    /// The newest backup that was made of what a volume group has now, going by the ids of the
    /// data LVs, which are never used again: neither another pool's that was there before, nor
    /// that of a group of the same name. Beside it, files that cannot be used.
    pub(crate) fn find(&self, report: &VgReport) -> (Option<Description>, Vec<FileError>) {
        let mut unusable = Vec::new();
        let mut best: Option<Description> = None;
        for path in listed(&self.0) {
            match load(&path) {
                Ok(Some(found)) if fits(&found, report) => {
                    let newer = |b: &Description| {
                        (b.head.written, b.head.sequence)
                            < (found.head.written, found.head.sequence)
                    };
                    if best.as_ref().is_none_or(newer) {
                        best = Some(found);
                    }
                }
                Ok(_) => {}
                Err(error) => unusable.push(error),
            }
        }
        (best, unusable)
    }

    /// Keeps a copy of a metadata device before it is overwritten; zeroes take no space. Says where it is, and how much
    /// could not be read.
    pub(crate) fn keep_image(
        &self,
        vg: &VgName,
        device: &dyn BlockDevice,
    ) -> Result<(PathBuf, u64), FileError> {
        let archive = self.0.join(ARCHIVE);
        fs::create_dir_all(&archive).map_err(failed("make the directory", &archive))?;
        let stem = format!("{vg}_metadata");
        let older = numbered(&archive, &stem);
        let number = older.last().map_or(0, |(number, _)| *number) + 1;
        let path = archive.join(format!("{stem}_{number:06}.image"));
        let unread = copy_image(device, &path).map_err(|error| {
            let _ = fs::remove_file(&path);
            failed("keep a copy of the metadata in", &path)(error)
        })?;
        let surplus = (older.len() + 1).saturating_sub(IMAGES);
        for (_, old) in older.iter().take(surplus) {
            let _ = fs::remove_file(old);
        }
        sync_directory(&archive)?;
        Ok((path, unread))
    }
}

/// Whether a backup's data LVs are those of a group, but for some that are gone and held nothing.
fn fits(found: &Description, report: &VgReport) -> bool {
    let lost = lost_unused(&found.contents, report);
    let mut lvs = found.contents.data_lvs.iter().filter(|(index, _)| !lost.contains(index));
    let same = |(index, uuid): (&u16, &String)| {
        report.lv(&data_lv(*index)).is_some_and(|lv| lv.uuid == *uuid)
    };
    lvs.clone().next().is_some() && lvs.all(same)
}

fn says_the_same(old: &Description, new: &Description) -> bool {
    let about = |d: &Description| (d.head.name.clone(), d.head.meta_lv.clone(), d.head.source);
    old.contents == new.contents && about(old) == about(new)
}

fn worth_keeping(old: &Description, new: &Description, last: Option<&(u64, PathBuf)>) -> bool {
    if !old.same_volumes(new) {
        return true;
    }
    let kept = last.and_then(|(_, path)| fs::metadata(path).ok()?.modified().ok());
    kept.is_none_or(|kept| old.head.written > OffsetDateTime::from(kept) + APART)
}

fn load(path: &Path) -> Result<Option<Description>, FileError> {
    match read_text(path) {
        Ok(text) => {
            let wrong = |source| FileError::Text { path: path.to_owned(), source };
            text.parse().map(Some).map_err(wrong)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TEXT_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// All backups in a directory.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    let ours = |path: &PathBuf| path.extension().is_some_and(|e| e == EXTENSION) && !hidden(path);
    let mut all: Vec<PathBuf> = paths.filter(ours).collect();
    all.sort();
    all
}

/// The files `STEM_NUMBER.*` of a directory, by number.
fn numbered(directory: &Path, stem: &str) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let number = |path: &Path| {
        let name = path.file_stem()?.to_str()?;
        name.strip_prefix(stem)?.strip_prefix('_')?.parse().ok()
    };
    let paths = entries.map(|entry| entry.path());
    let mut all: Vec<_> = paths.filter_map(|path| Some((number(&path)?, path))).collect();
    all.sort();
    all
}

fn create(path: &Path) -> io::Result<File> {
    // Names of volumes are no secret, but where each disk lies is for root alone.
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    let written = create(&fresh).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&fresh, path));
    placed.map_err(|error| {
        let _ = fs::remove_file(&fresh);
        failed("write", path)(error)
    })?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

fn sync_directory(path: &Path) -> Result<(), FileError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(failed("flush the directory", path))
}

/// Copies a device to a file; says how many bytes could not be read, which are holes.
fn copy_image(device: &dyn BlockDevice, path: &Path) -> io::Result<u64> {
    const STEP: u64 = 1 << 20;
    let file = create(path)?;
    let size = device.size()?;
    file.set_len(size)?;
    let (mut at, mut unread) = (0, 0);
    let mut part = vec![0; 1 << 20];
    while at < size {
        let length = usize::try_from(STEP.min(size - at)).map_err(io::Error::other)?;
        let part = &mut part[..length];
        let bad = read_around(device, at, part).len() as u64;
        unread += (bad * ALIGN as u64).min(length as u64);
        if part.iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(&file, part, at)?;
        }
        at += length as u64;
    }
    file.sync_all()?;
    Ok(unread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::text::tests::description;

    #[test]
    fn each_generation_has_its_number_and_the_worthy_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("backup"));
        let kept = || fs::read_dir(dir.path().join("backup/archive")).unwrap().count();
        let first = description(2, 2);
        let (vg, pool) = (first.head.vg.clone(), first.contents.pool);
        assert_eq!(files.load(&vg, pool).unwrap(), None);
        let path = files.path(&vg, pool);
        assert!(path.ends_with("vg0_00000000-0000-0000-0000-000000000005.backup"));
        files.store(first.clone()).unwrap();
        files.store(first).unwrap();
        assert_eq!((files.load(&vg, pool).unwrap().unwrap().head.sequence, kept()), (1, 0));
        // The first one is kept, those that only grew since are not.
        for runs in 3..6 {
            files.store(description(2, runs)).unwrap();
        }
        assert_eq!((files.load(&vg, pool).unwrap().unwrap().head.sequence, kept()), (4, 1));
        for volumes in 3..50 {
            files.store(description(volumes, 1)).unwrap();
        }
        assert_eq!(kept(), GENERATIONS);
        // A file that was cut off does not stop the next one, nor make it number one.
        fs::write(&path, "virtnotify-pool 2\n").unwrap();
        assert!(matches!(files.load(&vg, pool), Err(FileError::Text { .. })));
        files.store(description(3, 1)).unwrap();
        assert!(files.load(&vg, pool).unwrap().unwrap().head.sequence >= 50);
        assert!(listed(&dir.path().join("backup")).len() == 1, "no temporary file is left");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let files = Files::new(dir.path().join("file"));
        let error = files.store(description(1, 1)).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the directory '"), "{error}");
    }
}
