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
use std::ops::{Deref, Range};

use virtnotify_model::{BackendError, Bytes};

use super::{Core, Volume, VolumeId, recover};
use crate::alloc::{Broken, Extent, Place, Run, VolumeMap};
use crate::meta::{Change, VolumeRow};
use crate::target::MappedRun;

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
    Unmap(VolumeId, Run),
    Map(VolumeId, Run),
    GiveBack(Extent),
    TakeDirty(Extent),
    TakeClean(Extent),
    Row(VolumeId, VolumeRow),
    Uncreate(VolumeId),
    Undoom(VolumeId, Box<Volume>),
}

/// A change that is not durable yet.
#[derive(Debug)]
pub(in crate::pool) struct Txn<'a> {
    core: &'a mut Core,
    undo: Vec<Undo>,
    /// Volumes whose maps have changed.
    touched: BTreeSet<VolumeId>,
    rows: Vec<Change>,
}

impl Deref for Txn<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core
    }
}

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

    /// Maps chunks that were taken into a hole.
    pub(super) fn map(&mut self, id: VolumeId, run: Run) -> Result<(), BackendError> {
        let Some(map) = self.core.map_of(id) else { return Ok(()) };
        let mapped = map.insert(run);
        self.touched.insert(id);
        self.kept(mapped, Undo::Unmap(id, run))
    }

    /// Makes a part of a volume a hole; says what was there. It is to be released.
    pub(in crate::pool) fn unmap(&mut self, id: VolumeId, from: u64, length: u64) -> Vec<Run> {
        let Some(map) = self.core.map_of(id) else { return Vec::new() };
        let removed = map.remove(from, length);
        self.touched.insert(id);
        self.undo.extend(removed.iter().map(|&run| Undo::Map(id, run)));
        removed
    }

    /// What a volume had is free. `clean`: it is zeroes, durably; else it holds the volume's data.
    pub(in crate::pool) fn release(
        &mut self,
        runs: &[Run],
        clean: bool,
    ) -> Result<(), BackendError> {
        for &Run { to, .. } in runs {
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

    /// Adds a volume; says its number.
    pub(super) fn create(&mut self, row: VolumeRow) -> VolumeId {
        // What an earlier volume of a number left on the disk may still be there.
        let id = self.core.last_id + 1;
        self.core.last_id = id;
        self.rows.push(Change::Volume { id, row: row.clone() });
        self.core.by_name.insert(row.name.clone(), id);
        self.core.volumes.insert(id, Volume::new(row, VolumeMap::default()));
        self.undo.push(Undo::Uncreate(id));
        id
    }

    /// Gives a volume another capacity.
    pub(super) fn set_capacity(&mut self, id: VolumeId, capacity: Bytes) {
        let Some(volume) = self.core.volumes.get_mut(&id) else { return };
        self.undo.push(Undo::Row(id, volume.row.clone()));
        volume.row.capacity = capacity;
        self.rows.push(Change::Volume { id, row: volume.row.clone() });
    }

    /// Takes a volume away, and frees its name; what it holds goes in parts. If that takes
    /// `several` commits, a capacity of zero says so to the next daemon.
    pub(in crate::pool) fn doom(&mut self, id: VolumeId, several: bool) {
        let Some(volume) = self.core.volumes.remove(&id) else { return };
        if several {
            let row = VolumeRow { capacity: Bytes::ZERO, ..volume.row.clone() };
            self.rows.push(Change::Volume { id, row });
        }
        self.core.by_name.remove(&volume.row.name);
        self.core.doomed.insert(id, volume.map.clone());
        self.undo.push(Undo::Undoom(id, Box::new(volume)));
    }

    /// The row of a volume that holds nothing any more goes.
    pub(in crate::pool) fn drop_row(&mut self, id: VolumeId) {
        self.rows.push(Change::DropVolume { id });
    }
}

impl Undo {
    fn run(self, core: &mut Core) -> Result<(), Broken> {
        match self {
            Self::Unmap(id, run) => {
                if let Some(map) = core.map_of(id) {
                    map.remove(run.at, run.to.length);
                }
            }
            Self::Map(id, run) => {
                if let Some(map) = core.map_of(id) {
                    map.insert(run)?;
                }
            }
            Self::GiveBack(extent) => core.free.release_clean(extent)?,
            Self::TakeDirty(extent) => core.free.take_back(extent, false)?,
            Self::TakeClean(extent) => core.free.take_back(extent, true)?,
            Self::Row(id, row) => {
                if let Some(volume) = core.volumes.get_mut(&id) {
                    volume.row = row;
                }
            }
            Self::Uncreate(id) => {
                if let Some(volume) = core.volumes.remove(&id) {
                    core.by_name.remove(&volume.row.name);
                }
            }
            Self::Undoom(id, volume) => {
                core.doomed.remove(&id);
                core.by_name.insert(volume.row.name.clone(), id);
                core.volumes.insert(id, *volume);
            }
        }
        Ok(())
    }
}

impl Core {
    /// The map of a volume, also of one that is being deleted.
    fn map_of(&mut self, id: VolumeId) -> Option<&mut VolumeMap> {
        let living = self.volumes.get_mut(&id).map(|volume| &mut volume.map);
        living.or_else(|| self.doomed.get_mut(&id))
    }

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

    /// What a part of a volume has, but for what is leaving it.
    pub(in crate::pool) fn durable_runs(
        &self,
        id: VolumeId,
        part: Range<u64>,
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        self.usable()?;
        let Some(volume) = self.volumes.get(&id) else { return Ok(Durable(Vec::new())) };
        let mut map = VolumeMap::default();
        for run in volume.map.within(part.start, part.end.saturating_sub(part.start)) {
            // Runs of one map never overlap.
            let _ = map.insert(run);
        }
        for (from, length) in volume.leaving.iter() {
            map.remove(from, length);
        }
        Ok(Durable(map.iter().map(MappedRun::plain).collect()))
    }

    /// What a part of a volume lacks.
    pub(in crate::pool) fn durable_gaps(
        &self,
        id: VolumeId,
        part: Range<u64>,
    ) -> Result<Durable<Vec<Gap>>, BackendError> {
        self.usable()?;
        let mut gaps = Vec::new();
        let Some(volume) = self.volumes.get(&id) else { return Ok(Durable(gaps)) };
        let mut at = part.start;
        while let Some((from, length)) = volume.map.first_hole(at, part.end) {
            gaps.push((from, length));
            at = from + length;
        }
        Ok(Durable(gaps))
    }

    /// What a volume has and this map of its device lacks.
    pub(in crate::pool) fn durable_rest(
        &self,
        id: VolumeId,
        live: &[MappedRun],
    ) -> Result<Durable<Vec<MappedRun>>, BackendError> {
        self.usable()?;
        let Some(volume) = self.volumes.get(&id) else { return Ok(Durable(Vec::new())) };
        let mut rest = volume.map.clone();
        for live in live {
            rest.remove(live.run.at, live.run.to.length);
        }
        Ok(Durable(rest.iter().map(MappedRun::plain).collect()))
    }

    fn commit(
        &mut self,
        touched: &BTreeSet<VolumeId>,
        mut changes: Vec<Change>,
    ) -> Result<(), BackendError> {
        for &volume in touched {
            if let Some(map) = self.map_of(volume) {
                let runs = map.changes().into_iter();
                changes.extend(runs.map(|(at, to)| Change::Run { volume, at, to }));
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
