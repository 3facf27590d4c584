// SPDX-License-Identifier: LGPL-2.1-or-later
//! The open metadata of a pool, and the only code that changes it.
//!
//! All changes go through [`Store::commit`], which takes a list: it is durable as a whole when
//! the call returns, or, after an error, not at all, and then the store refuses every later
//! commit, because memory and disk no longer agree. A list that fits goes into the journal, and
//! from there into the tables ([`Reader::checkpoint`]); a longer one into the tables at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, WriteTransaction};
use uuid::Uuid;

use super::error::{MetaError, caught};
use super::fence::Fence;
use super::journal::{Journal, Rows, SLOTS};
use super::storage::MetaStorage;
use super::superblock::{Superblock, SuperblockError};
use super::tables::{self, Change, Contents, Settings};
use crate::device::BlockDevice;
use crate::runtime::{self, Condvar, Mutex, lock_plain};

/// Pages of the database that are kept in memory: a growth touches a handful.
const CACHE: usize = 16 << 20;

/// The open metadata of a pool.
#[derive(Debug)]
pub(crate) struct Store {
    opened: Arc<Opened>,
    reader: Reader,
}

/// What is open of a metadata device. Order of locks: `checkpoint`, `journal`.
#[derive(Debug)]
struct Opened {
    database: Database,
    length: Arc<AtomicU64>,
    fence: Arc<Fence>,
    journal: std::sync::Mutex<Journal>,
    /// Held by the one who writes into the tables.
    checkpoint: std::sync::Mutex<()>,
}

/// Counts writes, so that others can tell whether one came between two looks at the device.
#[derive(Debug, Default)]
struct Writes {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Those that changed what the metadata says.
    commits: AtomicU64,
    news: Mutex<News>,
    changed: Condvar,
}

/// What a reader may wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The volumes, or what is said of one, have changed.
    pub(crate) volumes: bool,
    /// Half of the journal is full.
    pub(crate) journal: bool,
    /// Nothing will change any more.
    pub(crate) stop: bool,
}

/// Reads the metadata beside the one that changes it: neither waits for the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    /// Another one after the metadata had to be opened again.
    opened: Arc<Mutex<Arc<Opened>>>,
    writes: Arc<Writes>,
    pool: Uuid,
    lv_uuid: String,
}

impl Writes {
    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn count<T>(&self, write: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let done = write();
        self.ended.fetch_add(1, Ordering::SeqCst);
        done
    }
}

impl Reader {
    /// All that the metadata says, as of one moment.
    pub(crate) fn contents(&self) -> Result<Contents, MetaError> {
        self.opened().read(self.pool)
    }

    fn opened(&self) -> Arc<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many writes there were, when none is under way: as long as this number stays, so
    /// does what is on the device.
    pub(crate) fn still(&self) -> Option<u64> {
        let ended = self.writes.ended.load(Ordering::SeqCst);
        (self.writes.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }

    /// Does this while nothing is written into the tables.
    pub(crate) fn without_checkpoint<T>(&self, work: impl FnOnce() -> T) -> T {
        let opened = self.opened();
        let _checkpoint = lock_plain(&opened.checkpoint);
        work()
    }

    /// Waits for news of the volumes or of the end, but no longer than that; they are told once.
    pub(crate) fn wait(&self, limit: Duration) -> News {
        let writes = &self.writes;
        let news = writes.news.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |news: &mut News| !news.volumes && !news.stop;
        let waited = writes.changed.wait_timeout_while(news, limit, none);
        let (mut news, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let told = *news;
        news.volumes = false;
        told
    }

    /// Waits until half of the journal is full; says whether it is, or this is the end.
    pub(crate) fn wait_for_journal(&self) -> bool {
        let writes = &self.writes;
        let news = writes.news.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = writes.changed.wait_while(news, |news| !news.journal && !news.stop);
        let mut news = waited.unwrap_or_else(PoisonError::into_inner);
        news.journal = false;
        !news.stop
    }

    /// Writes what the journal has into the tables.
    pub(crate) fn checkpoint(&self) -> Result<(), MetaError> {
        let opened = self.opened();
        let _checkpoint = lock_plain(&opened.checkpoint);
        self.writes.count(|| opened.write_journal())
    }

    /// Ends all writing to what is open, before the device is opened again.
    pub(crate) fn close(&self) {
        let opened = self.opened();
        let _checkpoint = lock_plain(&opened.checkpoint);
        opened.fence.close(&"the metadata is opened again");
    }

    /// Tells the threads that wait that it is over.
    pub(crate) fn stop(&self) {
        self.writes.tell(|news| news.stop = true);
    }

    /// How many commits have ended.
    pub(crate) fn commits(&self) -> u64 {
        self.writes.commits.load(Ordering::SeqCst)
    }

    /// How many bytes the database has.
    pub(crate) fn length(&self) -> u64 {
        self.opened().length.load(Ordering::SeqCst)
    }

    /// LVM's id of the metadata LV.
    pub(crate) fn lv_uuid(&self) -> &str {
        &self.lv_uuid
    }
}

impl Store {
    /// Makes the metadata of a new pool, durably. What was on the device is lost.
    pub(crate) fn create(
        device: Arc<dyn BlockDevice>,
        lv_uuid: &str,
        settings: Settings,
        data_lv: &str,
    ) -> Result<(Self, Contents), MetaError> {
        let contents = Contents {
            pool: runtime::random_id(),
            settings,
            data_lvs: BTreeMap::from([(0, data_lv.to_owned())]),
            layers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            clean: Vec::new(),
            vacated: Vec::new(),
        };
        let store = Self::build(device, lv_uuid, &contents)?;
        let contents = store.reader.contents()?;
        Ok((store, contents))
    }

    /// Makes metadata that says this, durably. What was on the device is lost.
    pub(crate) fn build(
        device: Arc<dyn BlockDevice>,
        lv_uuid: &str,
        contents: &Contents,
    ) -> Result<Self, MetaError> {
        let superblock = Superblock::format(device.as_ref(), contents.pool, lv_uuid)
            .map_err(SuperblockError::Io)?;
        let opened = Opened::new(device, superblock.clone(), |database| {
            write(database, |txn| tables::write_all(txn, contents))?;
            Ok(0)
        })?;
        Ok(Self::of(opened, superblock))
    }

    /// Opens the metadata of a pool and reads all of it. Every page's checksum is looked at: a
    /// wrong map would be worse than none.
    pub(crate) fn open(
        device: Arc<dyn BlockDevice>,
        lv_uuid: &str,
    ) -> Result<(Self, Contents), MetaError> {
        Superblock::load(device.as_ref(), lv_uuid)?.check_writable()?;
        Self::open_copy(device, lv_uuid)
    }

    /// The same for a copy of it, which is not used afterwards.
    pub(crate) fn open_copy(
        device: Arc<dyn BlockDevice>,
        lv_uuid: &str,
    ) -> Result<(Self, Contents), MetaError> {
        let superblock = Superblock::load(device.as_ref(), lv_uuid)?;
        let opened = Opened::new(device, superblock.clone(), |database| {
            tables::applied(&database.begin_read()?)
        })?;
        let store = Self::of(opened, superblock);
        let contents = store.reader.contents()?;
        Ok((store, contents))
    }

    fn of(opened: Opened, superblock: Superblock) -> Self {
        let opened = Arc::new(opened);
        let reader = Reader {
            opened: Arc::new(Mutex::new(opened.clone())),
            writes: Arc::default(),
            pool: superblock.pool,
            lv_uuid: superblock.lv_uuid,
        };
        Self { opened, reader }
    }

    /// Has `reader`, which was made by a store of the same metadata before this one, read this.
    pub(crate) fn take_over(&mut self, reader: &Reader) {
        *reader.opened.lock().unwrap_or_else(PoisonError::into_inner) = self.opened.clone();
        self.reader = reader.clone();
    }

    /// Something that reads this metadata while it is in use.
    pub(crate) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// How many bytes the database has. When it is full, it doubles.
    pub(crate) fn length(&self) -> u64 {
        self.opened.length.load(Ordering::Relaxed)
    }

    /// Makes all changes durable, together.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), MetaError> {
        if changes.is_empty() {
            return Ok(());
        }
        let writes = &self.reader.writes;
        let waiting = writes.count(|| self.opened.commit(changes))?;
        writes.commits.fetch_add(1, Ordering::SeqCst);
        // Layers come and go with volumes; alone they change where their generations are counted anew.
        let volumes = |c: &Change| {
            matches!(c, Change::Volume { .. } | Change::DropVolume { .. } | Change::Layer { .. })
        };
        let (volumes, journal) = (changes.iter().any(volumes), waiting >= SLOTS / 2);
        if volumes || journal {
            writes.tell(|news| {
                news.volumes |= volumes;
                news.journal |= journal;
            });
        }
        Ok(())
    }
}

impl Opened {
    /// Opens the database, or makes it; `applied` says the last record of the journal that it has.
    fn new(
        device: Arc<dyn BlockDevice>,
        superblock: Superblock,
        applied: impl FnOnce(&Database) -> Result<u64, MetaError>,
    ) -> Result<Self, MetaError> {
        let fence = Arc::new(Fence::new(device));
        let check = superblock.length > 0;
        let storage = MetaStorage::new(fence.clone(), superblock);
        let length = storage.shared_length();
        let (database, applied) = caught(|| {
            let database = Database::builder()
                .set_cache_size(CACHE)
                .set_check_integrity_on_open(check)
                .create_with_backend(storage)?;
            let applied = applied(&database)?;
            Ok((database, applied))
        })?;
        let journal = std::sync::Mutex::new(Journal::open(fence.clone(), applied)?);
        Ok(Self { database, length, fence, journal, checkpoint: std::sync::Mutex::default() })
    }

    fn read(&self, pool: Uuid) -> Result<Contents, MetaError> {
        let journal = lock_plain(&self.journal);
        // A change that the tables have already does them no harm.
        let pending: Vec<Change> = journal.pending().cloned().collect();
        let mut contents = caught(|| {
            let txn = self.database.begin_read()?;
            drop(journal);
            tables::read(&txn, pool)
        })?;
        pending.iter().for_each(|change| contents.change(change));
        Ok(contents)
    }

    /// Says how many records the tables do not have then.
    fn commit(&self, changes: &[Change]) -> Result<u64, MetaError> {
        let Some(rows) = Rows::of(changes)? else {
            self.write_through(changes)?;
            return Ok(0);
        };
        let mut journal = lock_plain(&self.journal);
        while journal.waiting() == SLOTS {
            drop(journal);
            let checkpoint = lock_plain(&self.checkpoint);
            self.write_journal()?;
            drop(checkpoint);
            journal = lock_plain(&self.journal);
        }
        journal.append(&rows, changes)?;
        Ok(journal.waiting())
    }

    /// Writes what the journal has into the tables, and changes of which it has no record.
    fn write_through(&self, changes: &[Change]) -> Result<(), MetaError> {
        let _checkpoint = lock_plain(&self.checkpoint);
        // No record may come in between.
        let mut journal = lock_plain(&self.journal);
        let last = journal.last();
        self.write_tables(journal.pending().chain(changes), last)?;
        journal.forget(last);
        Ok(())
    }

    /// Writes what the journal has into the tables. The caller holds `checkpoint`.
    fn write_journal(&self) -> Result<(), MetaError> {
        let (last, pending): (_, Vec<Change>) = {
            let journal = lock_plain(&self.journal);
            (journal.last(), journal.pending().cloned().collect())
        };
        if pending.is_empty() {
            return Ok(());
        }
        self.write_tables(pending.iter(), last)?;
        lock_plain(&self.journal).forget(last);
        Ok(())
    }

    fn write_tables<'a>(
        &self,
        changes: impl Iterator<Item = &'a Change>,
        applied: u64,
    ) -> Result<(), MetaError> {
        let done = write(&self.database, |txn| tables::apply(txn, changes, applied));
        done.inspect_err(|error| self.fence.close(error))
    }
}

/// One transaction.
fn write(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<(), MetaError>,
) -> Result<(), MetaError> {
    caught(|| {
        let mut txn = database.begin_write()?;
        // Else a newest commit that cannot be read is passed over at the next start without a word.
        txn.set_two_phase_commit(true);
        change(&txn)?;
        txn.commit()?;
        Ok(())
    })
}
