// SPDX-License-Identifier: LGPL-2.1-or-later
//! The tables of a pool, and the only code that reads or writes them.
//!
//! All changes go through [`Store::commit`], which takes a list: it is durable as a whole when
//! the call returns, or, after an error, not at all, and then the store refuses every later
//! commit (redb does), because memory and disk no longer agree.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, UnitError, VolumeKind, VolumeName};

use super::storage::MetaStorage;
use super::superblock::{Superblock, SuperblockError};
use crate::alloc::{Broken, Extent, LayerId, LayerRow, Layers, Place, Run, Vacated, VolumeMap};
use crate::device::BlockDevice;
use crate::runtime::{self, Condvar, Mutex};

/// Pages of the database that are kept in memory: a growth touches a handful.
const CACHE: usize = 16 << 20;

/// Pool settings by name.
const SETTINGS: TableDefinition<&str, u64> = TableDefinition::new("settings");
const CHUNK_BYTES: &str = "chunk_bytes";
/// Data LVs: number -> LVM's id.
const DATA_LVS: TableDefinition<u16, &str> = TableDefinition::new("data_lvs");
/// Layers: number -> (parent or 0, generation, lowest generation).
const LAYERS: TableDefinition<u64, (u64, u16, u16)> = TableDefinition::new("layers");
/// Volumes: number -> (uuid, name, kind, capacity in bytes, made at, layer, uuid of its origin or 0).
const VOLUMES: TableDefinition<u64, VolumeValue<'static>> = TableDefinition::new("volumes");
type VolumeValue<'a> = ([u8; 16], &'a str, u8, u64, u64, u64, [u8; 16]);
/// The kinds of volumes.
const VOLUME: u8 = 1;
const SNAPSHOT: u8 = 2;
/// Maps: (layer, virtual chunk) -> (chunks, data LV, its chunk, flags).
const RUNS: TableDefinition<(u64, u64), (u64, u16, u64, u8)> = TableDefinition::new("runs");
/// A run's flag: it is a hole over what lies below; data LV and chunk are 0.
const HOLE: u8 = 1;
/// Zeroed free chunks: (data LV, chunk) -> chunks.
const CLEAN: TableDefinition<(u16, u64), u64> = TableDefinition::new("clean");
/// Where chunks were that have moved: (data LV, chunk) -> (chunks, layer, virtual chunk).
const VACATED: TableDefinition<(u16, u64), (u64, u64, u64)> = TableDefinition::new("vacated");

/// Why metadata cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum MetaError {
    #[error("the superblock of the metadata cannot be used: {0}")]
    Superblock(#[from] SuperblockError),
    #[error("the metadata is damaged: {0}")]
    Damaged(String),
    #[error("the metadata cannot be read or written: {0}")]
    Database(#[source] Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for MetaError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(what) => Self::Damaged(what),
            other => Self::Database(Box::new(other)),
        }
    }
}

/// What is set once, when a pool is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The size of every chunk of the pool.
    pub(crate) chunk: ChunkSize,
}

/// A volume as the metadata has it, without its map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeRow {
    pub(crate) uuid: Uuid,
    pub(crate) name: VolumeName,
    pub(crate) kind: VolumeKind,
    pub(crate) capacity: Bytes,
    /// When it was made, in seconds since 1970.
    pub(crate) created: u64,
    /// What it shows.
    pub(crate) layer: LayerId,
    /// The volume that it is a snapshot of, or what it was made from.
    pub(crate) origin: Option<Uuid>,
}

/// All that a pool's metadata says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The pool's own id.
    pub(crate) pool: Uuid,
    pub(crate) settings: Settings,
    /// LVM's ids of the data LVs.
    pub(crate) data_lvs: BTreeMap<u16, String>,
    pub(crate) layers: BTreeMap<LayerId, (LayerRow, Vec<Run>)>,
    pub(crate) volumes: BTreeMap<u64, VolumeRow>,
    pub(crate) clean: Vec<Extent>,
    /// Where chunks were that have moved, and where devices may have them still.
    pub(crate) vacated: Vec<Vacated>,
}

impl Contents {
    /// The volumes, each with all that it shows.
    pub(crate) fn maps(&self) -> Result<Vec<(&VolumeRow, VolumeMap)>, Broken> {
        let layers = Layers::load(self.layers.clone())?;
        let map = |row: &VolumeRow| layers.flattened(row.layer);
        self.volumes.values().map(|row| Ok((row, map(row)?))).collect()
    }

    /// The chunks that layers have.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (LayerId, Run)> + '_ {
        let layers = self.layers.iter();
        let runs = layers.flat_map(|(&id, (_, runs))| runs.iter().map(move |&run| (id, run)));
        runs.filter(|(_, run)| !run.to.is_hole())
    }
}

/// One change of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The run of a layer that begins at a virtual chunk; `None` takes it away.
    Run { layer: LayerId, at: u64, to: Option<Extent> },
    /// The clean extent that begins at a place; `None` takes it away.
    Clean { start: Place, length: Option<u64> },
    /// Chunks have moved from here.
    Vacated(Vacated),
    /// No device has them any more where they were.
    DropVacated { from: Place },
    /// A volume, new or changed.
    Volume { id: u64, row: VolumeRow },
    /// A volume goes.
    DropVolume { id: u64 },
    /// A layer, new or changed.
    Layer { id: LayerId, row: LayerRow },
    /// A layer and its map go.
    DropLayer { id: LayerId },
}

/// The open metadata of a pool.
#[derive(Debug)]
pub(crate) struct Store {
    database: Arc<Database>,
    length: Arc<AtomicU64>,
    commits: Arc<Commits>,
    /// The pool's own id.
    pool: Uuid,
    /// LVM's id of the metadata LV.
    lv_uuid: String,
    opened: Arc<Opened>,
}

/// What readers read: another database after the metadata had to be opened again.
type Opened = Mutex<(Arc<Database>, Arc<AtomicU64>)>;

/// Counts commits, so that others can tell whether one came between two looks at the device.
#[derive(Debug, Default)]
struct Commits {
    begun: AtomicU64,
    ended: AtomicU64,
    news: Mutex<News>,
    changed: Condvar,
}

/// What a reader may wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The volumes, or what is said of one, have changed.
    pub(crate) volumes: bool,
    /// Nothing will change any more.
    pub(crate) stop: bool,
}

/// Reads the metadata beside the one that writes it: neither waits for the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    opened: Arc<Opened>,
    commits: Arc<Commits>,
    pool: Uuid,
    lv_uuid: String,
}

impl Commits {
    fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

impl Reader {
    /// All that the metadata says, as of one moment.
    pub(crate) fn contents(&self) -> Result<Contents, MetaError> {
        let (database, _) = self.opened();
        caught(|| read(&database, self.pool))
    }

    fn opened(&self) -> (Arc<Database>, Arc<AtomicU64>) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many commits there were, when none is under way: as long as this number stays, so
    /// does what is on the device.
    pub(crate) fn still(&self) -> Option<u64> {
        let ended = self.commits.ended.load(Ordering::SeqCst);
        (self.commits.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }

    /// Waits for news, but no longer than that; they are told once.
    pub(crate) fn wait(&self, limit: Duration) -> News {
        let commits = &self.commits;
        let news = commits.news.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |news: &mut News| *news == News::default();
        let waited = commits.changed.wait_timeout_while(news, limit, none);
        let (mut news, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let told = *news;
        news.volumes = false;
        told
    }

    /// Tells whoever waits that it is over.
    pub(crate) fn stop(&self) {
        self.commits.tell(|news| news.stop = true);
    }

    /// How many commits have ended.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.ended.load(Ordering::SeqCst)
    }

    /// How many bytes the database has.
    pub(crate) fn length(&self) -> u64 {
        self.opened().1.load(Ordering::SeqCst)
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
        let contents = store.read(contents.pool)?;
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
        let store = Self::database(device, superblock)?;
        store.write(|txn| write_all(txn, contents))?;
        Ok(store)
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

    /// The same for a copy of it, which nobody uses afterwards.
    pub(crate) fn open_copy(
        device: Arc<dyn BlockDevice>,
        lv_uuid: &str,
    ) -> Result<(Self, Contents), MetaError> {
        let superblock = Superblock::load(device.as_ref(), lv_uuid)?;
        caught(|| {
            let store = Self::database(device, superblock)?;
            let contents = store.read(store.pool)?;
            Ok((store, contents))
        })
    }

    fn database(device: Arc<dyn BlockDevice>, superblock: Superblock) -> Result<Self, MetaError> {
        let check = superblock.length > 0;
        let (pool, lv_uuid) = (superblock.pool, superblock.lv_uuid.clone());
        let storage = MetaStorage::new(device, superblock);
        let length = storage.shared_length();
        let database = Database::builder()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(check)
            .create_with_backend(storage)?;
        let (database, commits) = (Arc::new(database), Arc::default());
        let opened = Arc::new(Mutex::new((database.clone(), length.clone())));
        Ok(Self { database, length, commits, pool, lv_uuid, opened })
    }

    /// Has `reader`, which was made by a store of the same metadata before this one, read this.
    pub(crate) fn take_over(&mut self, reader: &Reader) {
        let mut opened = reader.opened.lock().unwrap_or_else(PoisonError::into_inner);
        *opened = (self.database.clone(), self.length.clone());
        self.opened = reader.opened.clone();
        self.commits = reader.commits.clone();
    }

    /// Something that reads this metadata while it is in use.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            opened: self.opened.clone(),
            commits: self.commits.clone(),
            pool: self.pool,
            lv_uuid: self.lv_uuid.clone(),
        }
    }

    /// How many bytes the database has. When it is full, it doubles.
    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Makes all changes durable, together.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), MetaError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|txn| apply(txn, changes))?;
        let volumes = |c: &Change| matches!(c, Change::Volume { .. } | Change::DropVolume { .. });
        if changes.iter().any(volumes) {
            self.commits.tell(|news| news.volumes = true);
        }
        Ok(())
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), MetaError>,
    ) -> Result<(), MetaError> {
        self.commits.begun.fetch_add(1, Ordering::SeqCst);
        let done = caught(|| {
            let txn = self.database.begin_write()?;
            change(&txn)?;
            txn.commit()?;
            Ok(())
        });
        self.commits.ended.fetch_add(1, Ordering::SeqCst);
        done
    }

    pub(super) fn read(&self, pool: Uuid) -> Result<Contents, MetaError> {
        read(&self.database, pool)
    }
}

/// redb panics on some damage that it does not expect; to us that is damage like any other.
fn caught<T>(work: impl FnOnce() -> Result<T, MetaError>) -> Result<T, MetaError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|panic| {
        let text = runtime::panic_text(panic.as_ref()).unwrap_or("unreadable");
        Err(MetaError::Damaged(text.to_owned()))
    })
}

fn read(database: &Database, pool: Uuid) -> Result<Contents, MetaError> {
    let txn = database.begin_read()?;
    let bytes = txn.open_table(SETTINGS)?.get(CHUNK_BYTES)?.map(|value| value.value());
    let bytes = bytes.ok_or_else(|| MetaError::Damaged("no chunk size".into()))?;
    let chunk = ChunkSize::new(Bytes(bytes)).map_err(|e: UnitError| damaged(&e))?;
    let mut contents = Contents {
        pool,
        settings: Settings { chunk },
        data_lvs: BTreeMap::new(),
        layers: BTreeMap::new(),
        volumes: BTreeMap::new(),
        clean: Vec::new(),
        vacated: Vec::new(),
    };
    for entry in txn.open_table(DATA_LVS)?.iter()? {
        let (index, lv_uuid) = entry?;
        contents.data_lvs.insert(index.value(), lv_uuid.value().to_owned());
    }
    for entry in txn.open_table(LAYERS)?.iter()? {
        let (id, row) = entry?;
        let (parent, generation, since) = row.value();
        let parent = Some(parent).filter(|parent| *parent > 0);
        contents.layers.insert(id.value(), (LayerRow { parent, generation, since }, Vec::new()));
    }
    for entry in txn.open_table(VOLUMES)?.iter()? {
        let (id, row) = entry?;
        contents.volumes.insert(id.value(), volume_row(row.value())?);
    }
    for entry in txn.open_table(RUNS)?.iter()? {
        let (key, value) = entry?;
        let ((layer, at), value) = (key.value(), value.value());
        let (_, runs) = contents.layers.get_mut(&layer).ok_or_else(|| {
            MetaError::Damaged(format!("a run of the layer {layer}, which there is not"))
        })?;
        let run = layer_run(at, value)?;
        if let Some(last) = runs.last().filter(|last: &&Run| last.end() >= at) {
            let one = last.end() == at && last.to.end() == run.to.start;
            let why = if one { "should be one" } else { "overlap" };
            if one || last.end() > at {
                let what =
                    format!("two runs of the layer {layer} at {} and {at}: they {why}", last.at);
                return Err(MetaError::Damaged(what));
            }
        }
        runs.push(run);
    }
    for entry in txn.open_table(CLEAN)?.iter()? {
        let (key, length) = entry?;
        let (lv, chunk) = key.value();
        contents.clean.push(extent(lv, chunk, length.value())?);
    }
    for entry in txn.open_table(VACATED)?.iter()? {
        let (key, value) = entry?;
        let ((lv, chunk), (length, layer, at)) = (key.value(), value.value());
        let from = extent(lv, chunk, length)?;
        if !contents.layers.contains_key(&layer) || at.checked_add(length).is_none() {
            let what = format!("chunks of the layer {layer} moved from {at}, which there are not");
            return Err(MetaError::Damaged(what));
        }
        contents.vacated.push(Vacated { from, layer, at });
    }
    Ok(contents)
}

fn volume_row(value: VolumeValue<'_>) -> Result<VolumeRow, MetaError> {
    let (uuid, name, kind, capacity, created, layer, origin) = value;
    let name = name.parse().map_err(|e: virtnotify_model::NameError| damaged(&e))?;
    let kind = match kind {
        VOLUME => VolumeKind::Volume,
        SNAPSHOT => VolumeKind::Snapshot,
        other => return Err(MetaError::Damaged(format!("a volume of the kind {other}"))),
    };
    let origin = Some(Uuid::from_bytes(origin)).filter(|origin| !origin.is_nil());
    let (uuid, capacity) = (Uuid::from_bytes(uuid), Bytes(capacity));
    Ok(VolumeRow { uuid, name, kind, capacity, created, layer, origin })
}

fn volume_value(row: &VolumeRow) -> VolumeValue<'_> {
    let kind = match row.kind {
        VolumeKind::Volume => VOLUME,
        VolumeKind::Snapshot => SNAPSHOT,
    };
    let origin = row.origin.unwrap_or_default().into_bytes();
    let uuid = row.uuid.into_bytes();
    (uuid, row.name.as_str(), kind, row.capacity.0, row.created, row.layer, origin)
}

fn layer_value(row: LayerRow) -> (u64, u16, u16) {
    (row.parent.unwrap_or(0), row.generation, row.since)
}

fn layer_run(at: u64, value: (u64, u16, u64, u8)) -> Result<Run, MetaError> {
    let (length, lv, chunk, flags) = value;
    if at.checked_add(length).is_none() {
        return Err(MetaError::Damaged(format!("a run at {at} that has no end")));
    }
    match (flags, lv, chunk) {
        (0, Place::NOWHERE, _) => Err(MetaError::Damaged(format!("a run at {at} on no data LV"))),
        (0, ..) => Ok(Run { at, to: extent(lv, chunk, length)? }),
        (HOLE, 0, 0) if length > 0 => Ok(Run::hole(at, length)),
        _ => Err(MetaError::Damaged(format!("a run at {at} with the flags {flags}"))),
    }
}

fn run_value(to: Extent) -> (u64, u16, u64, u8) {
    if to.is_hole() {
        return (to.length, 0, 0, HOLE);
    }
    (to.length, to.start.lv, to.start.chunk, 0)
}

fn vacated_value(Vacated { from, layer, at }: Vacated) -> (u64, u64, u64) {
    (from.length, layer, at)
}

fn write_all(txn: &WriteTransaction, contents: &Contents) -> Result<(), MetaError> {
    txn.open_table(SETTINGS)?.insert(CHUNK_BYTES, contents.settings.chunk.bytes().0)?;
    let mut data_lvs = txn.open_table(DATA_LVS)?;
    for (index, uuid) in &contents.data_lvs {
        data_lvs.insert(index, uuid.as_str())?;
    }
    let mut layers = txn.open_table(LAYERS)?;
    let mut runs = txn.open_table(RUNS)?;
    for (id, (row, map)) in &contents.layers {
        layers.insert(id, layer_value(*row))?;
        for Run { at, to } in map {
            runs.insert((*id, *at), run_value(*to))?;
        }
    }
    let mut volumes = txn.open_table(VOLUMES)?;
    for (id, row) in &contents.volumes {
        volumes.insert(id, volume_value(row))?;
    }
    let mut clean = txn.open_table(CLEAN)?;
    for extent in &contents.clean {
        clean.insert((extent.start.lv, extent.start.chunk), extent.length)?;
    }
    let mut table = txn.open_table(VACATED)?;
    for vacated in &contents.vacated {
        table.insert((vacated.from.start.lv, vacated.from.start.chunk), vacated_value(*vacated))?;
    }
    Ok(())
}

fn extent(lv: u16, chunk: u64, length: u64) -> Result<Extent, MetaError> {
    if length == 0 || chunk.checked_add(length).is_none() {
        return Err(MetaError::Damaged(format!("an extent of {length} chunks at {chunk}")));
    }
    Ok(Extent { start: Place { lv, chunk }, length })
}

fn apply(txn: &WriteTransaction, changes: &[Change]) -> Result<(), MetaError> {
    let mut runs = txn.open_table(RUNS)?;
    let mut clean = txn.open_table(CLEAN)?;
    // In this order: a layer that goes takes the entries along that it had before.
    for change in changes {
        match change {
            Change::Run { layer, at, to: Some(to) } => {
                runs.insert((*layer, *at), run_value(*to))?;
            }
            Change::Run { layer, at, to: None } => {
                runs.remove((*layer, *at))?;
            }
            Change::Clean { start, length: Some(length) } => {
                clean.insert((start.lv, start.chunk), length)?;
            }
            Change::Clean { start, length: None } => {
                clean.remove((start.lv, start.chunk))?;
            }
            Change::Vacated(vacated) => {
                let key = (vacated.from.start.lv, vacated.from.start.chunk);
                txn.open_table(VACATED)?.insert(key, vacated_value(*vacated))?;
            }
            Change::DropVacated { from } => {
                txn.open_table(VACATED)?.remove((from.lv, from.chunk))?;
            }
            Change::Volume { id, row } => {
                txn.open_table(VOLUMES)?.insert(id, volume_value(row))?;
            }
            Change::DropVolume { id } => {
                txn.open_table(VOLUMES)?.remove(id)?;
            }
            Change::Layer { id, row } => {
                txn.open_table(LAYERS)?.insert(id, layer_value(*row))?;
            }
            Change::DropLayer { id } => {
                txn.open_table(LAYERS)?.remove(id)?;
                runs.retain_in((*id, 0)..=(*id, u64::MAX), |_, _| false)?;
            }
        }
    }
    Ok(())
}

fn damaged(error: &dyn std::error::Error) -> MetaError {
    MetaError::Damaged(error.to_string())
}
