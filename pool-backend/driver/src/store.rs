// SPDX-License-Identifier: LGPL-2.1-or-later
//! Definitions and run state on disk.
//!
//! `DEFINITIONS/NAME.xml` is a persistent pool, `DEFINITIONS/autostart/NAME.xml` a symbolic
//! link to it if it starts with the host, `DEFINITIONS/UUID.unfinished` a volume that is being
//! filled with what another one holds, and `STATE/NAME.xml` a pool that is active: the
//! daemon may be killed at any time, and the next one takes up what the last one had started.
//! The state directory is on a file system that a reboot empties.
//!
//! A file is written beside its place, synced and renamed into it, so each one is the old or
//! the new one and never a part. What is left of a killed write starts with a dot and is
//! ignored. A file that cannot be read is named, and the others count.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::{PoolName, VgName};
use virtnotify_wire::StoragePool;

use crate::driver::handle;
use crate::xml::{PoolDefinition, PoolType, Standing, XmlError};

/// The largest definition that is read.
const FILE_MAX: u64 = 1 << 20;
/// The mark that pools with autostart were started since the host booted.
const AUTOSTARTED: &str = "autostarted";
/// What the name of a note about a clone that is under way ends with.
const UNFINISHED: &str = ".unfinished";

/// Where things are kept.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The definitions.
    pub definitions: PathBuf,
    /// What is active; emptied by a reboot.
    pub state: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Paths { definitions: "/etc/virtnotify/pools".into(), state: "/run/virtnotify/pools".into() }
    }
}

/// A file or directory that could not be read or changed.
#[derive(Debug, Error)]
#[error("cannot {what} '{}': {source}", path.display())]
pub struct StoreError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A file that is there and is ignored.
#[derive(Debug, Error)]
#[error("'{}' is ignored: {reason}", path.display())]
pub struct Ignored {
    /// The file.
    pub path: PathBuf,
    /// Why it is ignored.
    pub reason: String,
}

/// A definition that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The pool.
    pub definition: PoolDefinition,
    /// Whether it starts with the host; never for a run state.
    pub autostart: bool,
}

/// The files.
#[derive(Debug, Clone)]
pub struct Store {
    paths: Paths,
}

/// The volume group of a pool, as its definition in this directory says.
#[must_use]
pub fn group_of(definitions: &Path, pool: &PoolName) -> Option<VgName> {
    let text = fs::read_to_string(definitions.join(format!("{pool}.xml"))).ok()?;
    PoolDefinition::parse(&text, false).ok().map(|definition| definition.vg)
}

/// The pools that a daemon would find at these places, by name: what is known of them while none runs.
#[must_use]
pub fn pools_on_disk(paths: Paths) -> Vec<StoragePool> {
    let store = Store::new(paths);
    let stored = store.definitions().0.into_iter().chain(store.active().0);
    let mut pools: Vec<_> = stored.map(|pool| handle(&pool.definition)).collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    pools.dedup();
    pools
}

impl Store {
    /// A store at these places; they need not exist yet.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Store { paths }
    }

    /// All definitions that can be read, by name, and what is wrong with the others.
    #[must_use]
    pub fn definitions(&self) -> (Vec<Stored>, Vec<Ignored>) {
        let (mut pools, ignored) = read_all(&self.paths.definitions);
        for pool in &mut pools {
            let link = self.link(&pool.definition.name);
            pool.autostart = link.symlink_metadata().is_ok();
        }
        (pools, ignored)
    }

    /// All pools that were active when the last daemon ended.
    #[must_use]
    pub fn active(&self) -> (Vec<Stored>, Vec<Ignored>) {
        read_all(&self.paths.state)
    }

    /// Writes a definition; whatever was there is replaced.
    ///
    /// # Errors
    /// When it cannot be written; then the former one is still there.
    pub fn save_definition(&self, pool: &PoolDefinition) -> Result<(), StoreError> {
        write(&self.paths.definitions, pool)
    }

    /// Removes a definition and its autostart link; neither need be there.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove_definition(&self, name: &PoolName) -> Result<(), StoreError> {
        // The link first: one that leads nowhere would start a later pool of that name.
        self.set_autostart(name, false)?;
        remove(&file(&self.paths.definitions, name))
    }

    /// Makes or removes an autostart link.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn set_autostart(&self, name: &PoolName, on: bool) -> Result<(), StoreError> {
        let link = self.link(name);
        if !on {
            return remove(&link);
        }
        make_directory(&self.paths.definitions.join("autostart"))?;
        let target = file(&self.paths.definitions, name);
        match symlink(&target, &link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(StoreError { what: "make the link", path: link, source: error })
            }
            _ => sync_parent(&link),
        }
    }

    /// Remembers that a pool is active, or about to be.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn save_active(&self, pool: &PoolDefinition) -> Result<(), StoreError> {
        write(&self.paths.state, pool)
    }

    /// Forgets that a pool was active; it need not have been.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn remove_active(&self, name: &PoolName) -> Result<(), StoreError> {
        remove(&file(&self.paths.state, name))
    }

    /// Whether pools with autostart were started since the host booted: a pool that a person has
    /// stopped since then stays stopped.
    #[must_use]
    pub fn autostarted(&self) -> bool {
        self.paths.state.join(AUTOSTARTED).exists()
    }

    /// Remembers that they were.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn set_autostarted(&self) -> Result<(), StoreError> {
        make_directory(&self.paths.state)?;
        let path = self.paths.state.join(AUTOSTARTED);
        match File::create(&path) {
            Ok(_) => Ok(()),
            Err(source) => Err(StoreError { what: "write", path, source }),
        }
    }

    /// Notes that a volume of that UUID is going to be filled, in that pool.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn note_unfinished(&self, volume: Uuid, pool: &PoolName) -> Result<(), StoreError> {
        let path = self.unfinished_file(volume);
        make_directory(&self.paths.definitions)?;
        write_synced(&path, &format!("{pool}\n")).map_err(|source| {
            let path = path.clone();
            StoreError { what: "write", path, source }
        })?;
        sync_parent(&path)
    }

    /// Takes such a note away; it need not be there.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn forget_unfinished(&self, volume: Uuid) -> Result<(), StoreError> {
        remove(&self.unfinished_file(volume))
    }

    /// The volumes with such a note, and for each the pool's name at that time.
    ///
    /// # Errors
    /// When the notes cannot be listed.
    pub fn unfinished(&self) -> Result<Vec<(Uuid, String)>, StoreError> {
        let path = self.paths.definitions.clone();
        let note = |name: String| {
            let uuid = Uuid::try_parse(name.strip_suffix(UNFINISHED)?).ok()?;
            let text = read_text(&self.unfinished_file(uuid)).unwrap_or_default();
            Some((uuid, text.trim().to_owned()))
        };
        match fs::read_dir(&path) {
            Ok(entries) => {
                let names =
                    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                Ok(names.filter_map(note).collect())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(StoreError { what: "list", path, source }),
        }
    }

    fn unfinished_file(&self, volume: Uuid) -> PathBuf {
        self.paths.definitions.join(format!("{}{UNFINISHED}", volume.hyphenated()))
    }

    fn link(&self, name: &PoolName) -> PathBuf {
        file(&self.paths.definitions.join("autostart"), name)
    }
}

fn file(directory: &Path, name: &PoolName) -> PathBuf {
    directory.join(format!("{name}.xml"))
}

fn read_all(directory: &Path) -> (Vec<Stored>, Vec<Ignored>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return (Vec::new(), Vec::new()),
        Err(error) => {
            let reason = format!("it cannot be listed: {error}");
            return (Vec::new(), vec![Ignored { path: directory.to_owned(), reason }]);
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| is_definition(path));
    paths.sort();
    let (mut pools, mut ignored) = (Vec::new(), Vec::new());
    for path in paths {
        match read(&path) {
            Ok(definition) => pools.push(Stored { definition, autostart: false }),
            Err(reason) => ignored.push(Ignored { path, reason }),
        }
    }
    (pools, ignored)
}

fn is_definition(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".xml") && !name.starts_with('.')
}

fn read(path: &Path) -> Result<PoolDefinition, String> {
    let text = read_text(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let pool = PoolDefinition::parse(&text, false).map_err(|error: XmlError| error.to_string())?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem == pool.name.as_str() {
        Ok(pool)
    } else {
        Err(format!("it describes a pool of another name, '{}'", pool.name))
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    // No device or pipe: opening one could hang.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > FILE_MAX) {
        return Err(io::Error::other(format!("it has more than {FILE_MAX} bytes")));
    }
    Ok(text)
}

fn write(directory: &Path, pool: &PoolDefinition) -> Result<(), StoreError> {
    make_directory(directory)?;
    let path = file(directory, &pool.name);
    let fresh = directory.join(format!(".{}.xml.new", pool.name));
    let text = format!(
        "<!-- Written by virtnotifyd, which reads it when it starts. To change it, use: \
         virsh pool-edit NAME -->\n{}",
        pool.print(PoolType::Notify, &Standing::default())
    );
    let written = write_synced(&fresh, &text).and_then(|()| fs::rename(&fresh, &path));
    if let Err(source) = written {
        // The error is told; a remainder would be ignored and overwritten anyway.
        let _ = fs::remove_file(&fresh);
        return Err(StoreError { what: "write", path, source });
    }
    sync_parent(&path)
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError { what: "remove", path: path.to_owned(), source }),
    }
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StoreError { what: "make the directory", path: path.to_owned(), source })
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|source| StoreError { what: "sync", path: parent.to_owned(), source })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
