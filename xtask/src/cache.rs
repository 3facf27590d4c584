// SPDX-License-Identifier: LGPL-2.1-or-later
//! The cache under the user's cache directory, keyed by content.
//!
//! An entry is a directory `<kind>/<key>`, where the key is the hash of
//! everything that went into it. It is built beside its place and renamed into
//! it, so an entry is whole or absent. One build at a time holds `build.lock`;
//! its holder may therefore clear away what an interrupted build left in `tmp`.
//!
//! Beside each entry lies `<key>.used`: its time says when the entry was last
//! wanted, and who uses the entry holds a shared lock on it, so that a
//! neighbour that prunes the cache leaves the entry alone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::proc::ScratchDir;
use crate::ui;

/// How many entries of one kind are kept: the newest used.
const KEPT: usize = 4;

/// The hash of an entry's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Collects inputs into a [`Key`].
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// Starts with a recipe's name or text.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).text(recipe)
    }

    /// Adds text; the length goes in too, so that neighbours cannot run together.
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a file's name and content.
    pub fn file(mut self, name: &str, path: &Path) -> Result<Self> {
        let mut content = File::open(path).with_context(|| format!("{}", path.display()))?;
        self = self.text(name);
        self.0.update(content.metadata()?.len().to_le_bytes());
        std::io::copy(&mut content, &mut self.0)?;
        Ok(self)
    }

    /// The key.
    pub fn finish(self) -> Key {
        let digest = self.0.finalize();
        Key(digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// By what a checkout's own places in the cache are called.
pub fn of_checkout(top: &Path) -> Key {
    KeyBuilder::new("target").text(&top.display().to_string()).finish()
}

/// An entry that would have to be built is not there.
#[derive(Debug, Error)]
#[error("'{0}' is not built yet")]
pub struct NotBuilt(String);

/// The cache directory.
pub struct Cache {
    root: PathBuf,
    /// Where this checkout's logs are: several may be at work at once.
    logs: PathBuf,
    /// Whether what is missing is built.
    builds: bool,
    /// The locks on the entries that this process uses.
    pins: Arc<Mutex<Vec<File>>>,
}

impl Cache {
    /// Opens (and makes) the user's cache.
    pub fn open() -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => {
                PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache")
            }
        };
        let root = base.join("virtnotify");
        std::fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the cache directory {}", root.display()))?;
        let logs = root.join("logs").join(of_checkout(&crate::top()?).as_str());
        Ok(Self { root, logs, builds: true, pins: Arc::default() })
    }

    /// The same cache, as one that builds nothing and fails with [`NotBuilt`] instead. It needs no
    /// lock on builds.
    pub fn found_only(&self) -> Self {
        let (root, logs) = (self.root.clone(), self.logs.clone());
        Self { root, logs, builds: false, pins: self.pins.clone() }
    }

    /// A path inside the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the log of a step goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The entry `kind/key`, built by `build` into an empty directory if it is not there.
    pub fn entry(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let place = self.root.join(kind).join(key.as_str());
        if place.is_dir() {
            self.pin(&place)?;
            return Ok(place);
        }
        if !self.builds {
            return Err(NotBuilt(format!("{kind}/{}", key.as_str())).into());
        }
        let scratch = ScratchDir::new(&self.root.join("tmp"), &format!("{kind}-"))?;
        build(scratch.path())?;
        std::fs::create_dir_all(self.root.join(kind))?;
        std::fs::rename(scratch.path(), &place)
            .with_context(|| format!("cannot publish {}", place.display()))?;
        scratch.release();
        self.pin(&place)?;
        self.prune(kind);
        Ok(place)
    }

    /// Takes the lock under which entries are built, and clears what an
    /// interrupted build left.
    pub fn lock_builds(&self) -> Result<File> {
        let lock = self.lock("build.lock", "another xtask is building; waiting for it")?;
        if let Ok(left) = std::fs::read_dir(self.root.join("tmp")) {
            for entry in left.flatten() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(lock)
    }

    /// Takes a lock file, saying so if it must wait. Released when dropped.
    pub fn lock(&self, name: &str, waiting: &str) -> Result<File> {
        let file =
            File::options().create(true).truncate(false).write(true).open(self.root.join(name))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            ui::say(waiting);
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error).context("cannot take the lock"),
                }
            }
        }
        Ok(file)
    }

    /// Keeps an entry from being pruned while this process lives.
    fn pin(&self, place: &Path) -> Result<()> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(place.with_extension("used"))?;
        file.set_modified(SystemTime::now())?;
        flock(&file, FlockOperation::LockShared)?;
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        Ok(())
    }

    /// Removes all but the newest used entries of a kind. Failures do no harm.
    fn prune(&self, kind: &str) {
        let Ok(entries) = std::fs::read_dir(self.root.join(kind)) else { return };
        let mut entries: Vec<_> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .map(|p| (last_use(&p), p))
            .collect();
        entries.sort();
        let surplus = entries.len().saturating_sub(KEPT);
        for (_, path) in entries.into_iter().take(surplus) {
            let _ = self.remove_unused(&path);
        }
    }

    fn remove_unused(&self, place: &Path) -> Result<()> {
        let used = place.with_extension("used");
        let lock = File::options().create(true).truncate(false).write(true).open(&used)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        // Out of its place in one step, so that a half removed one is never found.
        let doomed = ScratchDir::new(&self.root.join("tmp"), "pruned-")?;
        std::fs::rename(place, doomed.path().join("entry"))?;
        std::fs::remove_file(used)?;
        Ok(())
    }
}

fn last_use(place: &Path) -> SystemTime {
    std::fs::metadata(place.with_extension("used"))
        .or_else(|_| std::fs::metadata(place))
        .and_then(|m| m.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn cache(dir: &ScratchDir) -> Cache {
        let root = dir.path().to_owned();
        Cache { logs: root.join("logs"), root, builds: true, pins: Arc::default() }
    }

    fn key(text: &str) -> Key {
        KeyBuilder::new(text).finish()
    }

    #[test]
    fn an_entry_is_built_once_and_a_failed_one_not_at_all() {
        let dir = ScratchDir::new(&std::env::temp_dir(), "xtask-cache-").unwrap();
        let cache = cache(&dir);
        assert!(cache.entry("kind", &key("a"), |_| bail!("no")).is_err());
        let place = cache.entry("kind", &key("a"), |d| Ok(std::fs::write(d.join("x"), "1")?));
        assert_eq!(std::fs::read(place.unwrap().join("x")).unwrap(), b"1");
        assert!(cache.entry("kind", &key("a"), |_| bail!("built again")).is_ok());
    }

    #[test]
    fn what_is_not_built_yet_can_be_told_from_what_cannot_be() {
        let dir = ScratchDir::new(&std::env::temp_dir(), "xtask-cache-").unwrap();
        let (cache, found) = (cache(&dir), cache(&dir).found_only());
        let error = found.entry("kind", &key("a"), |_| Ok(())).unwrap_err();
        assert!(error.is::<NotBuilt>());
        let place = cache.entry("kind", &key("a"), |_| Ok(())).unwrap();
        assert_eq!(found.entry("kind", &key("a"), |_| bail!("built")).unwrap(), place);
    }

    #[test]
    fn only_what_nobody_uses_is_pruned() {
        let dir = ScratchDir::new(&std::env::temp_dir(), "xtask-cache-").unwrap();
        let user = cache(&dir);
        let used = user.entry("kind", &key("used"), |_| Ok(())).unwrap();
        let unused = cache(&dir).entry("kind", &key("unused"), |_| Ok(())).unwrap();
        for number in 0..KEPT {
            cache(&dir).entry("kind", &key(&number.to_string()), |_| Ok(())).unwrap();
        }
        assert!(used.is_dir() && !unused.exists());
    }

    #[test]
    fn a_key_tells_neighbouring_texts_apart() {
        let key = |a: &str, b: &str| KeyBuilder::new(a).text(b).finish();
        assert_ne!(key("ab", "c"), key("a", "bc"));
    }
}
