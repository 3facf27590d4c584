// SPDX-License-Identifier: LGPL-2.1-or-later
//! A change of a pool's metadata: all of it is durable, or none of it was.
//!
//! ```text
//!   change(|txn| ...) ──▶ staged in memory ──commit──▶ Durable<T> ──▶ the target
//!                              │ refused, or the commit failed
//!                              └──▶ dropped: memory is what it was
//! ```
//!
//! It is the only way to change maps, rows and who has a chunk. What the target is told to map or to
//! forget is a [`Durable`], which nothing else makes: so the kernel's map cannot have what the
//! metadata lacks. After a commit that failed the disk may have either state; the core is broken,
//! makes no [`Durable`] any more, and is read again from the disk ([`super::super::recover`]).

use std::collections::BTreeSet;
use std::ops::Deref;
use std::time::SystemTime;

use virtnotify_model::BackendError;

use super::relocate::Relocation;
use super::{Core, NewVolume, Unwanted, Volume, VolumeId, recover};
use crate::alloc::{Broken, Extent, Layer, LayerId, LayerRow, Layers, Place, Run, Vacated};
use crate::meta::{Change, VolumeRow};

/// What the metadata on the disk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Durable<T>(T);

impl<T> Durable<T> {
    /// A part of it.
    pub(crate) fn part<'a, U: ?Sized>(
        &'a self,
        part: impl for<'b> FnOnce(&'b T) -> &'b U,
    ) -> Durable<&'a U> {
        Durable(part(&self.0))
    }
}

impl<T: Copy> Durable<&T> {
    /// The same by itself.
    pub(crate) fn copied(self) -> Durable<T> {
        Durable(*self.0)
    }
}

impl<A: Copy, B: Copy> Durable<(A, B)> {
    /// Of which of two, and what.
    pub(crate) fn split(self) -> (A, Durable<B>) {
        (self.0.0, Durable(self.0.1))
    }
}

impl<T> Durable<Vec<T>> {
    /// What this makes of its elements.
    pub(crate) fn chosen<U>(&self, choose: impl FnMut(&T) -> Option<U>) -> Durable<Vec<U>> {
        Durable(self.0.iter().filter_map(choose).collect())
    }
}

impl<T: Copy> Durable<&[T]> {
    /// Each of its elements.
    pub(crate) fn each(self) -> impl Iterator<Item = Durable<T>> {
        self.0.iter().map(|&element| Durable(element))
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Chunks of a volume's device that its map does not have: the first one, and how many.
pub(crate) type Gap = (u64, u64);

/// How to drop what is staged.
#[derive(Debug)]
enum Undo {
    Unmap(LayerId, Run),
    Map(LayerId, Run),
    Shown(LayerId, u64),
    RemoveLayer(LayerId),
    PutLayerBack(LayerId, Box<Layer>),
    LayerRow(LayerId, LayerRow),
    Named(LayerId, bool),
    GiveBack(Extent),
    TakeDirty(Extent),
    TakeClean(Extent),
    NotBusy(Extent),
    BusyAgain(Extent),
    Row(VolumeId, VolumeRow),
    Uncreate(VolumeId),
    Undrop(VolumeId, Box<Volume>),
    Unwanted(VolumeId, Unwanted),
    NotVacated(Place),
    Vacated(Vacated),
}

/// A change that is not durable yet.
#[derive(Debug)]
pub(in crate::pool) struct Txn<'a> {
    core: &'a mut Core,
    undo: Vec<Undo>,
    /// Layers whose maps have changed.
    touched: BTreeSet<LayerId>,
    rows: Vec<Change>,
}

impl Deref for Txn<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core
    }
}

/// What the changes of [`Core`]'s other files are made of.
impl Txn<'_> {
    fn kept<T>(&mut self, done: Result<T, Broken>, undo: Undo) -> Result<T, BackendError> {
        match done {
            Ok(value) => {
                self.undo.push(undo);
                Ok(value)
            }
            Err(error) => Err(self.core.damage(error)),
        }
    }

    /// A volume, for what only memory knows of it: that is not dropped with the change.
    pub(super) fn volume_mut(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.core.volumes.get_mut(&id)
    }

    /// Takes clean chunks: see [`crate::alloc::FreeSpace::allocate`].
    pub(super) fn take(&mut self, hint: Option<Place>, want: u64) -> Vec<Extent> {
        let pieces = self.core.free.allocate(hint, want);
        self.undo.extend(pieces.iter().copied().map(Undo::GiveBack));
        pieces
    }

    /// Takes chunks that are to be overwritten as a whole, whatever is in them; what was zeroed
    /// is not known to be so any more. [`crate::alloc::FreeSpace::not_cleaned`] or
    /// [`Txn::filled`] has to follow.
    pub(super) fn take_to_fill(&mut self, want: u64) -> Vec<Extent> {
        let pieces = self.core.free.begin_filling(want);
        self.undo.extend(pieces.iter().copied().map(Undo::NotBusy));
        pieces
    }

    /// What was taken to be filled is a layer's now.
    pub(super) fn filled(&mut self, extent: Extent) {
        self.core.free.filled(extent);
        self.undo.push(Undo::BusyAgain(extent));
    }

    /// Takes chunks that lie together, to be overwritten as a whole: see
    /// [`crate::alloc::FreeSpace::begin_filling_piece`].
    pub(in crate::pool) fn take_piece_to_fill(
        &mut self,
        hint: Option<Place>,
        want: u64,
        spare: u64,
    ) -> Option<Extent> {
        let piece = self.core.free.begin_filling_piece(hint, want, spare)?;
        self.undo.push(Undo::NotBusy(piece));
        Some(piece)
    }

    /// Takes the first free chunks of a data LV, to be overwritten as a whole: see
    /// [`crate::alloc::FreeSpace::begin_filling_before`].
    pub(in crate::pool) fn take_first_to_fill(&mut self, end: Place, want: u64) -> Option<Extent> {
        let piece = self.core.free.begin_filling_before(end, want)?;
        self.undo.push(Undo::NotBusy(piece));
        Some(piece)
    }

    /// A layer has chunks elsewhere, which were taken to be filled; where they were is vacated.
    pub(super) fn relocate(
        &mut self,
        layer: LayerId,
        relocation: Relocation,
    ) -> Result<(), BackendError> {
        let Run { at, to: from } = relocation.run;
        let had = self.remove(layer, at, from.length);
        if had != [relocation.run] {
            let what =
                format!("chunks at {at} of the layer {layer} were to move, and are not there");
            return Err(BackendError::Refused(what));
        }
        self.insert(layer, Run { at, to: relocation.target() })?;
        self.filled(relocation.target());
        self.vacate(Vacated { from, layer, at });
        Ok(())
    }

    /// A layer has nothing at a place any more where devices may still read: see
    /// [`super::relocate`].
    pub(super) fn vacate(&mut self, vacated: Vacated) {
        let place = vacated.from.start;
        self.core.vacated.insert(place, vacated);
        self.undo.push(Undo::NotVacated(place));
        self.rows.push(Change::Vacated(vacated));
    }

    /// What was vacated is free.
    pub(super) fn free_vacated(&mut self, vacated: Vacated) -> Result<(), BackendError> {
        let place = vacated.from.start;
        if self.core.vacated.remove(&place).is_none() {
            return Ok(());
        }
        self.undo.push(Undo::Vacated(vacated));
        self.rows.push(Change::DropVacated { from: place });
        let released = self.core.free.release(vacated.from);
        self.kept(released, Undo::TakeDirty(vacated.from))
    }

    /// Puts an entry into a layer's map, which has none there.
    pub(super) fn insert(&mut self, layer: LayerId, run: Run) -> Result<(), BackendError> {
        let mapped = self.core.layers.insert(layer, run);
        self.touched.insert(layer);
        self.kept(mapped, Undo::Unmap(layer, run))
    }

    /// Takes all entries of a part of a layer's map away; says which there were.
    pub(super) fn remove(&mut self, layer: LayerId, from: u64, length: u64) -> Vec<Run> {
        let removed = self.core.layers.take(layer, from, length);
        self.touched.insert(layer);
        self.undo.extend(removed.iter().map(|&run| Undo::Map(layer, run)));
        removed
    }

    /// A layer shows so many chunks now.
    pub(super) fn set_shown(&mut self, layer: LayerId, shown: u64) {
        let Some(found) = self.core.layers.get_mut(layer) else { return };
        self.undo.push(Undo::Shown(layer, std::mem::replace(&mut found.shown, shown)));
    }

    /// Adds a layer.
    pub(super) fn insert_layer(&mut self, row: LayerRow) -> Result<LayerId, BackendError> {
        let id = self.core.layers.next_id();
        let added = self.core.layers.add(id, row);
        self.rows.push(Change::Layer { id, row });
        self.kept(added, Undo::RemoveLayer(id))?;
        Ok(id)
    }

    /// Takes a layer away that has no children.
    pub(super) fn remove_layer(&mut self, id: LayerId) {
        let Some(layer) = self.core.layers.remove(id) else { return };
        self.rows.push(Change::DropLayer { id });
        self.undo.push(Undo::PutLayerBack(id, Box::new(layer)));
    }

    /// Changes what a layer stands on.
    pub(super) fn set_layer_row(&mut self, id: LayerId, row: LayerRow) {
        let Some(layer) = self.core.layers.get(id) else { return };
        self.undo.push(Undo::LayerRow(id, layer.row));
        self.core.layers.set_row(id, row);
        self.rows.push(Change::Layer { id, row });
    }

    fn set_named(&mut self, id: LayerId, named: bool) {
        if let Some(before) = self.core.layers.set_named(id, named) {
            self.undo.push(Undo::Named(id, before));
        }
    }

    /// What a volume had is free. `clean`: it is zeroes, durably; else it holds the volume's data.
    /// Holes are nothing.
    pub(in crate::pool) fn release(
        &mut self,
        runs: &[Run],
        clean: bool,
    ) -> Result<(), BackendError> {
        for &Run { to, .. } in runs.iter().filter(|run| !run.to.is_hole()) {
            if clean {
                let released = self.core.free.release_clean(to);
                self.kept(released, Undo::TakeClean(to))?;
            } else {
                let released = self.core.free.release(to);
                self.kept(released, Undo::TakeDirty(to))?;
            }
        }
        Ok(())
    }

    /// Adds a volume that has this layer; says its number.
    pub(in crate::pool) fn create(&mut self, new: NewVolume, layer: LayerId) -> VolumeId {
        // What an earlier volume of a number left on the disk may still be there.
        let id = self.core.last_id + 1;
        self.core.last_id = id;
        let row = VolumeRow {
            uuid: new.uuid,
            name: new.name,
            kind: new.kind,
            capacity: new.capacity,
            created: now(),
            layer,
            origin: new.origin,
        };
        self.set_named(layer, true);
        self.rows.push(Change::Volume { id, row: row.clone() });
        self.core.by_name.insert(row.name.clone(), id);
        self.core.volumes.insert(id, Volume::new(row));
        self.undo.push(Undo::Uncreate(id));
        id
    }

    /// Adds a data LV.
    pub(super) fn add_data_lv(&mut self, lv: u16, uuid: &str) {
        self.rows.push(Change::DataLv { lv, uuid: uuid.to_owned() });
    }

    /// Changes a volume's row.
    pub(in crate::pool) fn set_row(&mut self, id: VolumeId, change: impl FnOnce(&mut VolumeRow)) {
        let Some(volume) = self.core.volumes.get_mut(&id) else { return };
        let before = volume.row.clone();
        change(&mut volume.row);
        let row = volume.row.clone();
        self.undo.push(Undo::Row(id, before.clone()));
        if before.layer != row.layer {
            self.set_named(before.layer, false);
            self.set_named(row.layer, true);
        }
        self.rows.push(Change::Volume { id, row });
    }

    /// Takes a volume away, and frees its name. What only its layer has goes in parts: see
    /// [`Core::collect`].
    pub(in crate::pool) fn drop_volume(&mut self, id: VolumeId) {
        if let Some(volume) = self.core.volumes.remove(&id) {
            self.core.by_name.remove(&volume.row.name);
            self.set_named(volume.row.layer, false);
            self.undo.push(Undo::Undrop(id, Box::new(volume)));
            self.rows.push(Change::DropVolume { id });
        }
    }

    /// Takes a volume away that nobody was told of.
    pub(super) fn drop_unwanted(&mut self, id: VolumeId) {
        if let Some(unwanted) = self.core.unwanted.remove(&id) {
            self.set_named(unwanted.layer, false);
            self.undo.push(Undo::Unwanted(id, unwanted));
            self.rows.push(Change::DropVolume { id });
        }
    }
}

/// The time, in seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

impl Undo {
    fn run(self, core: &mut Core) -> Result<(), Broken> {
        match self {
            Self::GiveBack(extent) => core.free.release_clean(extent),
            Self::TakeDirty(extent) => core.free.take_back(extent, false),
            Self::TakeClean(extent) => core.free.take_back(extent, true),
            Self::NotBusy(extent) => core.free.not_cleaned(extent),
            Self::BusyAgain(extent) => {
                core.free.unfilled(extent);
                Ok(())
            }
            Self::Uncreate(id) => {
                if let Some(volume) = core.volumes.remove(&id) {
                    core.by_name.remove(&volume.row.name);
                }
                Ok(())
            }
            Self::Undrop(id, volume) => {
                core.by_name.insert(volume.row.name.clone(), id);
                core.volumes.insert(id, *volume);
                Ok(())
            }
            Self::Row(id, row) => {
                if let Some(volume) = core.volumes.get_mut(&id) {
                    volume.row = row;
                }
                Ok(())
            }
            Self::Unwanted(id, unwanted) => {
                core.unwanted.insert(id, unwanted);
                Ok(())
            }
            Self::NotVacated(place) => {
                core.vacated.remove(&place);
                Ok(())
            }
            Self::Vacated(vacated) => {
                core.vacated.insert(vacated.from.start, vacated);
                Ok(())
            }
            other => other.run_on(&mut core.layers),
        }
    }

    fn run_on(self, layers: &mut Layers) -> Result<(), Broken> {
        match self {
            Self::RemoveLayer(id) => drop(layers.remove(id)),
            Self::PutLayerBack(id, layer) => layers.put_back(id, *layer),
            Self::LayerRow(id, row) => layers.set_row(id, row),
            Self::Unmap(id, run) => drop(layers.take(id, run.at, run.to.length)),
            Self::Map(id, run) => layers.insert(id, run)?,
            Self::Shown(id, shown) => {
                if let Some(layer) = layers.get_mut(id) {
                    layer.shown = shown;
                }
            }
            Self::Named(id, named) => drop(layers.set_named(id, named)),
            _ => {}
        }
        Ok(())
    }
}

impl Core {
    /// Makes a change, all of it in one commit.
    pub(in crate::pool) fn change<T>(
        &mut self,
        work: impl FnOnce(&mut Txn<'_>) -> Result<T, BackendError>,
    ) -> Result<Durable<T>, BackendError> {
        self.usable()?;
        let (touched, rows, undo) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut txn = Txn { core: self, undo, touched, rows };
        let staged = work(&mut txn);
        let Txn { core, undo, touched, rows } = txn;
        let done = staged.and_then(|value| core.commit(&touched, rows).map(|()| Durable(value)));
        if done.is_err() {
            for step in undo.into_iter().rev() {
                if let Err(error) = step.run(core) {
                    core.damage(error);
                }
            }
        }
        done
    }

    /// What the metadata says, when nobody knows of a change that may be half there.
    pub(super) fn durable<T>(&self, value: T) -> Result<Durable<T>, BackendError> {
        self.usable().map(|()| Durable(value))
    }

    fn commit(
        &mut self,
        touched: &BTreeSet<LayerId>,
        mut changes: Vec<Change>,
    ) -> Result<(), BackendError> {
        for &id in touched {
            if let Some(layer) = self.layers.get_mut(id) {
                let runs = layer.map.changes().into_iter();
                changes.extend(runs.map(|(at, to)| Change::Run { layer: id, at, to }));
            }
        }
        let clean = self.free.clean_changes().into_iter();
        changes.extend(clean.map(|(start, length)| Change::Clean { start, length }));
        let committed = self.store.as_ref().map_or(Ok(()), |store| store.commit(&changes));
        committed.map_err(|error| {
            let what = format!("a change could not be made durable: {error}");
            self.broken = Some(recover::Broken { what, on_commit: true });
            BackendError::failed(format!("cannot write the metadata of '{}'", self.pool), error)
        })
    }
}
