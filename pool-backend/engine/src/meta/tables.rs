// SPDX-License-Identifier: LGPL-2.1-or-later
//! The tables of a pool: what is in them, how it is read, and what changes a row.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, UnitError, VolumeKind, VolumeName};

use super::error::{MetaError, damaged};
use crate::alloc::{Broken, Extent, LayerId, LayerRow, Layers, Place, Run, Vacated, VolumeMap};

/// Pool settings by name.
const SETTINGS: TableDefinition<&str, u64> = TableDefinition::new("settings");
const CHUNK_BYTES: &str = "chunk_bytes";
/// The number of the last record of the journal that the tables have.
const APPLIED: &str = "applied";
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

    /// Changes this as the tables would be changed.
    pub(super) fn change(&mut self, change: &Change) {
        match *change {
            Change::DataLv { lv, ref uuid } => drop(self.data_lvs.insert(lv, uuid.clone())),
            Change::Run { layer, at, to } => {
                let Some((_, runs)) = self.layers.get_mut(&layer) else { return };
                let found = runs.binary_search_by_key(&at, |run| run.at);
                put(runs, found, to.map(|to| Run { at, to }));
            }
            Change::Clean { start, length } => {
                let found = self.clean.binary_search_by_key(&start, |extent| extent.start);
                put(&mut self.clean, found, length.map(|length| Extent { start, length }));
            }
            Change::Vacated(vacated) => {
                let start = vacated.from.start;
                let found = self.vacated.binary_search_by_key(&start, |entry| entry.from.start);
                put(&mut self.vacated, found, Some(vacated));
            }
            Change::DropVacated { from } => {
                let found = self.vacated.binary_search_by_key(&from, |entry| entry.from.start);
                put(&mut self.vacated, found, None);
            }
            Change::Volume { id, ref row } => drop(self.volumes.insert(id, row.clone())),
            Change::DropVolume { id } => drop(self.volumes.remove(&id)),
            Change::Layer { id, row } => self.layers.entry(id).or_insert((row, Vec::new())).0 = row,
            Change::DropLayer { id } => drop(self.layers.remove(&id)),
        }
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
    /// A data LV more, by LVM's id.
    DataLv { lv: u16, uuid: String },
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

/// All that the tables say.
pub(super) fn read(txn: &ReadTransaction, pool: Uuid) -> Result<Contents, MetaError> {
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
        contents.layers.insert(id.value(), (layer_row(row.value()), Vec::new()));
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
        let vacated = vacated(key.value(), value.value())?;
        if !contents.layers.contains_key(&vacated.layer) {
            let layer = vacated.layer;
            let what = format!("chunks of the layer {layer} have moved, which there is not");
            return Err(MetaError::Damaged(what));
        }
        contents.vacated.push(vacated);
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

fn layer_row((parent, generation, since): (u64, u16, u16)) -> LayerRow {
    LayerRow { parent: Some(parent).filter(|parent| *parent > 0), generation, since }
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

fn vacated(
    (lv, chunk): (u16, u64),
    (length, layer, at): (u64, u64, u64),
) -> Result<Vacated, MetaError> {
    if at.checked_add(length).is_none() {
        let what = format!("chunks of the layer {layer} moved from {at}, which there are not");
        return Err(MetaError::Damaged(what));
    }
    Ok(Vacated { from: extent(lv, chunk, length)?, layer, at })
}

fn vacated_value(Vacated { from, layer, at }: Vacated) -> (u64, u64, u64) {
    (from.length, layer, at)
}

/// Writes all of it into tables that have nothing yet.
pub(super) fn write_all(txn: &WriteTransaction, contents: &Contents) -> Result<(), MetaError> {
    let mut settings = txn.open_table(SETTINGS)?;
    settings.insert(CHUNK_BYTES, contents.settings.chunk.bytes().0)?;
    settings.insert(APPLIED, 0)?;
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

/// Sets or takes away the entry of a sorted list that a search has found, or the place of it.
fn put<T>(list: &mut Vec<T>, found: Result<usize, usize>, entry: Option<T>) {
    match (found, entry) {
        (Ok(at), Some(entry)) => list[at] = entry,
        (Ok(at), None) => drop(list.remove(at)),
        (Err(at), Some(entry)) => list.insert(at, entry),
        (Err(_), None) => {}
    }
}

/// A row as the tables and the journal have it: its key, and its value, or none when the row goes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Row<'a> {
    Run((u64, u64), Option<(u64, u16, u64, u8)>),
    Clean((u16, u64), Option<u64>),
    Vacated((u16, u64), Option<(u64, u64, u64)>),
    Volume(u64, #[serde(borrow)] Option<VolumeValue<'a>>),
    /// When it goes, its runs go along.
    Layer(u64, Option<(u64, u16, u16)>),
    /// None of them goes before the pool does.
    DataLv(u16, Option<&'a str>),
}

impl<'a> From<&'a Change> for Row<'a> {
    fn from(change: &'a Change) -> Self {
        let place = |at: Place| (at.lv, at.chunk);
        match *change {
            Change::DataLv { lv, ref uuid } => Self::DataLv(lv, Some(uuid)),
            Change::Run { layer, at, to } => Self::Run((layer, at), to.map(run_value)),
            Change::Clean { start, length } => Self::Clean(place(start), length),
            Change::Vacated(vacated) => {
                Self::Vacated(place(vacated.from.start), Some(vacated_value(vacated)))
            }
            Change::DropVacated { from } => Self::Vacated(place(from), None),
            Change::Volume { id, ref row } => Self::Volume(id, Some(volume_value(row))),
            Change::DropVolume { id } => Self::Volume(id, None),
            Change::Layer { id, row } => Self::Layer(id, Some(layer_value(row))),
            Change::DropLayer { id } => Self::Layer(id, None),
        }
    }
}

impl TryFrom<Row<'_>> for Change {
    type Error = MetaError;

    fn try_from(row: Row<'_>) -> Result<Self, MetaError> {
        Ok(match row {
            Row::DataLv(lv, Some(uuid)) => Self::DataLv { lv, uuid: uuid.to_owned() },
            Row::DataLv(lv, None) => {
                return Err(MetaError::Damaged(format!("the data LV {lv} goes")));
            }
            Row::Run((layer, at), value) => {
                let run = value.map(|value| layer_run(at, value)).transpose()?;
                Self::Run { layer, at, to: run.map(|run| run.to) }
            }
            Row::Clean((lv, chunk), length) => {
                let extent = length.map(|length| extent(lv, chunk, length)).transpose()?;
                Self::Clean { start: Place { lv, chunk }, length: extent.map(|e| e.length) }
            }
            Row::Vacated((lv, chunk), Some(value)) => Self::Vacated(vacated((lv, chunk), value)?),
            Row::Vacated((lv, chunk), None) => Self::DropVacated { from: Place { lv, chunk } },
            Row::Volume(id, Some(value)) => Self::Volume { id, row: volume_row(value)? },
            Row::Volume(id, None) => Self::DropVolume { id },
            Row::Layer(id, Some(value)) => Self::Layer { id, row: layer_row(value) },
            Row::Layer(id, None) => Self::DropLayer { id },
        })
    }
}

/// Changes the tables, which have the journal's records up to `applied` then.
pub(super) fn apply<'a>(
    txn: &WriteTransaction,
    changes: impl Iterator<Item = &'a Change>,
    applied: u64,
) -> Result<(), MetaError> {
    txn.open_table(SETTINGS)?.insert(APPLIED, applied)?;
    let mut runs = txn.open_table(RUNS)?;
    let mut clean = txn.open_table(CLEAN)?;
    // In this order: a layer that goes takes the runs along that it had before.
    for change in changes {
        match Row::from(change) {
            Row::DataLv(key, Some(uuid)) => drop(txn.open_table(DATA_LVS)?.insert(key, uuid)?),
            Row::DataLv(key, None) => drop(txn.open_table(DATA_LVS)?.remove(key)?),
            Row::Run(key, Some(value)) => drop(runs.insert(key, value)?),
            Row::Run(key, None) => drop(runs.remove(key)?),
            Row::Clean(key, Some(value)) => drop(clean.insert(key, value)?),
            Row::Clean(key, None) => drop(clean.remove(key)?),
            Row::Vacated(key, Some(value)) => drop(txn.open_table(VACATED)?.insert(key, value)?),
            Row::Vacated(key, None) => drop(txn.open_table(VACATED)?.remove(key)?),
            Row::Volume(key, Some(value)) => drop(txn.open_table(VOLUMES)?.insert(key, value)?),
            Row::Volume(key, None) => drop(txn.open_table(VOLUMES)?.remove(key)?),
            Row::Layer(key, Some(value)) => drop(txn.open_table(LAYERS)?.insert(key, value)?),
            Row::Layer(key, None) => {
                txn.open_table(LAYERS)?.remove(key)?;
                runs.retain_in((key, 0)..=(key, u64::MAX), |_, _| false)?;
            }
        }
    }
    Ok(())
}

/// The number of the last record of the journal that the tables have.
pub(super) fn applied(txn: &ReadTransaction) -> Result<u64, MetaError> {
    let applied = txn.open_table(SETTINGS)?.get(APPLIED)?.map(|value| value.value());
    applied.ok_or_else(|| MetaError::Damaged("no number of the journal".into()))
}
