// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots, clones and rollbacks.
//!
//! ```text
//!   settled ──▶ frozen ──▶ the kernel's generation ──▶ thawed ──commit──▶ devices of the snapshots
//!      │                            │                     │
//!      └────────────────────────────┴─── refused ─────────┴──▶ thawed, the kernel's mark put back
//! ```
//!
//! The kernel shares first and the metadata follows, so a volume never writes to what a snapshot
//! has. Killed in between, the kernel shares chunks that are the volume's alone: the next daemon
//! ends that. One volume need not be frozen: the kernel's cut is one moment.

use std::time::Duration;

use nix::errno::Errno;
use virtnotify_model::{
    BackendError, Bytes, Event, SnapshotName, VolumeExtent, VolumeInfo, VolumeKind, VolumeName,
    VolumeSpec,
};

use super::Shared;
use super::core::{Core, NewVolume, VolumeId};
use super::volumes::new_volume;
use crate::alloc::LayerId;
use crate::meta::VolumeRow;
use crate::runtime;
use crate::target::{DeviceId, TargetError};

/// For how long several volumes are frozen at most.
const FREEZE: Duration = Duration::from_secs(5);

/// With so many generations left an operator is told.
const FEW_GENERATIONS: u16 = 4096;

/// A volume that is being cut.
#[derive(Debug, Clone)]
struct Cut {
    id: VolumeId,
    name: VolumeName,
    /// Its device, when it has one.
    device: Option<DeviceId>,
    /// The generation that begins.
    generation: u16,
}

impl Shared {
    /// Takes snapshots of volumes, all at one moment.
    pub(crate) fn snapshot(
        &self,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, BackendError> {
        let _admin = self.admin()?;
        let new = |volume| self.new_snapshot(volume, name);
        let wanted: Vec<_> = volumes.iter().map(new).collect::<Result<_, _>>()?;
        if let Some(twice) = volumes.iter().enumerate().find(|(n, v)| volumes[..*n].contains(v)) {
            return Err(BackendError::Refused(format!("the volume '{}' is named twice", twice.1)));
        }
        let made = self.cut(volumes, |cuts, core| {
            core.change(|txn| {
                let mut made = Vec::new();
                for (cut, new) in cuts.iter().zip(&wanted) {
                    let frozen = txn.freeze(cut.id, cut.generation)?;
                    made.push(txn.create(new.clone(), frozen));
                }
                Ok(made)
            })
        })?;
        for (&id, new) in made.iter().zip(&wanted) {
            self.show(id, new);
        }
        volumes.iter().for_each(|volume| self.say_if_few_are_left(volume));
        wanted.iter().map(|new| self.volume_info(&new.name)).collect()
    }

    /// Says that the generations of a volume come to their end: at last, and more and more often before.
    fn say_if_few_are_left(&self, volume: &VolumeName) {
        let left = {
            let core = self.core();
            let Ok(id) = core.find(volume) else { return };
            core.generations_left(id)
        };
        if left <= FEW_GENERATIONS && (left == 0 || left.is_power_of_two()) {
            self.damage(format!(
                "'{volume}' can have {left} more snapshots before they have to be counted anew: stop the pool \
                 and start it again before that, while no VM uses it"
            ));
        }
    }

    /// Makes the device of a snapshot. It is there without one, too.
    fn show(&self, id: VolumeId, new: &NewVolume) {
        if let Err(error) = self.attach(id) {
            self.damage(format!("the snapshot '{}' has no device yet: {error}", new.name));
            self.gate.kick();
        }
        let (pool, volume) = (self.name.clone(), new.name.clone());
        let core = self.core();
        self.view().show(&core, id);
        drop(core);
        self.emit(Event::VolumeCreated { pool, volume, capacity: new.capacity });
    }

    fn new_snapshot(
        &self,
        volume: &VolumeName,
        name: &SnapshotName,
    ) -> Result<NewVolume, BackendError> {
        let row = self.row_named(volume)?;
        if row.kind == VolumeKind::Snapshot {
            let what = format!("'{volume}' is a snapshot: it has none of its own");
            return Err(BackendError::Refused(what));
        }
        let name = volume.at(name).map_err(|e| BackendError::Refused(e.to_string()))?;
        let new = NewVolume {
            uuid: runtime::random_id(),
            name,
            kind: VolumeKind::Snapshot,
            capacity: row.capacity,
            origin: Some(row.uuid),
            parent: None,
        };
        self.core().check_new(&new)?;
        Ok(new)
    }

    /// Cuts volumes at one moment, and makes durable what `commit` makes of it.
    fn cut<T>(
        &self,
        volumes: &[VolumeName],
        commit: impl FnOnce(&[Cut], &mut Core) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let find = |volume| self.core().find(volume);
        let ids: Vec<_> = volumes.iter().map(find).collect::<Result<_, _>>()?;
        let mut cuts = Vec::new();
        for (volume, id) in volumes.iter().zip(&ids) {
            self.core().check_idle(*id)?;
            if self.core().volume(*id).is_some_and(|found| found.not_taken_over) {
                return Err(BackendError::Refused(format!(
                    "the device of '{volume}' could not be taken over: its guest would go on writing to what \
                     the snapshot shows"
                )));
            }
        }
        for (volume, id) in volumes.iter().zip(ids) {
            let mut core = self.core();
            let generation = core.generation(id);
            let Some(found) = core.volume_mut(id) else { continue };
            found.cutting = true;
            let device = found.minor.is_some().then(|| found.device.clone());
            cuts.push(Cut { id, name: volume.clone(), device, generation });
        }
        let done = self.cut_all(&mut cuts).and_then(|()| {
            let mut core = self.core();
            let done = commit(&cuts, &mut core);
            self.view().refresh_all(&mut core);
            done
        });
        self.end_cuts(&cuts, done.is_ok());
        done
    }

    /// Writes that waited go on; after a failure the kernel shares what it shared before.
    fn end_cuts(&self, cuts: &[Cut], done: bool) {
        let mut core = self.core();
        for cut in cuts {
            let Some(volume) = core.volume_mut(cut.id) else { continue };
            volume.cutting = false;
            volume.unsettled |= !done;
            if done {
                // They are the snapshot's now.
                volume.forget_guest();
            }
        }
        drop(core);
        self.gate.kick();
        self.note(|notes| notes.look_at.extend(cuts.iter().map(|cut| cut.id)));
    }

    /// Has the kernel begin a generation in each volume, all at one moment.
    fn cut_all(&self, cuts: &mut [Cut]) -> Result<(), BackendError> {
        for cut in &*cuts {
            drop(self.wait_settled(cut.id, &cut.name)?);
        }
        let several = cuts.len() > 1;
        let mut frozen = Vec::new();
        let mut done = Ok(());
        for cut in cuts.iter().filter(|_| several) {
            let Some(device) = &cut.device else { continue };
            frozen.push((device.clone(), cut.name.clone()));
            done = self.target.freeze(device, FREEZE).map_err(|e| failed(&cut.name, e));
            if done.is_err() {
                break;
            }
        }
        if done.is_ok() {
            done = cuts.iter_mut().try_for_each(|cut| self.begin_next_generation(cut));
        }
        for (device, name) in frozen {
            let thawed = self.target.thaw(&device).map_err(|error| match error.errno() {
                Some(Errno::ETIMEDOUT) => BackendError::Refused(format!(
                    "the volumes could not be held long enough for one moment of all: '{name}' \
                     went on before"
                )),
                _ => failed(&name, error),
            });
            done = done.and(thawed);
        }
        done
    }

    fn begin_next_generation(&self, cut: &mut Cut) -> Result<(), BackendError> {
        let before = match &cut.device {
            // It may be further than the metadata, after a snapshot that failed.
            Some(device) => {
                let status = self.target.status(device).map_err(|e| failed(&cut.name, e))?;
                status.generation.max(cut.generation)
            }
            None => cut.generation,
        };
        cut.generation = self.core().generation_after(before)?;
        match &cut.device {
            Some(device) => {
                let begun = self.target.snapshot(device, cut.generation);
                begun.map_err(|e| failed(&cut.name, e))
            }
            None => Ok(()),
        }
    }

    /// Adds a volume that shows what another one or a snapshot shows at this moment.
    pub(super) fn clone_volume(
        &self,
        spec: &VolumeSpec,
        capacity: Bytes,
        backing: &VolumeName,
    ) -> Result<VolumeId, BackendError> {
        let from = self.row_named(backing)?;
        if capacity < from.capacity {
            return Err(BackendError::Capacity {
                capacity,
                reason: format!("'{backing}' has {}", from.capacity),
            });
        }
        let new = NewVolume { origin: Some(from.uuid), ..new_volume(spec, capacity) };
        self.core().check_new(&new)?;
        let on = |parent: LayerId| NewVolume { parent: Some(parent), ..new.clone() };
        if from.kind == VolumeKind::Snapshot {
            let mut core = self.core();
            let made = core.create(on(from.layer));
            self.view().refresh_all(&mut core);
            drop(core);
            // What is whose alone may have to be counted anew.
            self.gate.kick();
            return made;
        }
        let mut made = self.cut(std::slice::from_ref(backing), |cuts, core| {
            core.change(|txn| {
                let mut made = Vec::new();
                for cut in cuts {
                    let frozen = txn.freeze(cut.id, cut.generation)?;
                    let layer = txn.add_layer(Some(frozen))?;
                    made.push(txn.create(on(frozen), layer));
                }
                Ok(made)
            })
            .map(|made| made.to_vec())
        })?;
        made.pop().ok_or_else(gone)
    }

    /// Has a volume show again what its snapshot shows.
    pub(crate) fn roll_back(&self, snapshot: &VolumeName) -> Result<(), BackendError> {
        let admin = self.admin()?;
        let from = self.row_named(snapshot)?;
        let refused = |what: String| Err(BackendError::Refused(what));
        let Some(origin) = from.origin.filter(|_| from.kind == VolumeKind::Snapshot) else {
            return refused(format!("'{snapshot}' is no snapshot"));
        };
        let id = self.core().volumes().find(|(_, v)| v.row().uuid == origin).map(|(id, _)| id);
        let Some(id) = id else {
            return refused(format!("the volume of '{snapshot}' is gone: make a new one from it"));
        };
        self.core().check_idle(id)?;
        self.check_promise(&admin, from.capacity, self.row_of(id)?.capacity)?;
        self.core().usable()?;
        let volume = self.row_of(id)?.name;
        self.check_taken_over(id, &volume)?;
        self.detach(id)?;
        let rolled = {
            let mut core = self.core();
            let rolled = core.roll_back(id, &from);
            self.view().refresh_all(&mut core);
            rolled
        };
        self.attach_again(id, rolled)?;
        self.tell_changed(id);
        self.gate.kick();
        Ok(())
    }

    /// Which parts of a volume may differ from a snapshot that it goes back to, or all it holds.
    pub(crate) fn difference(
        &self,
        name: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<Vec<VolumeExtent>, BackendError> {
        let row = self.row_named(name)?;
        let from = base.map(|base| self.row_named(base)).transpose()?;
        let extents = self.core().difference(&row, from.as_ref());
        extents.ok_or_else(|| {
            let base = base.map(ToString::to_string).unwrap_or_default();
            BackendError::Refused(format!("'{name}' does not go back to '{base}'"))
        })
    }

    fn row_named(&self, name: &VolumeName) -> Result<VolumeRow, BackendError> {
        let core = self.core();
        let id = core.find(name)?;
        core.volume(id).map(|volume| volume.row().clone()).ok_or_else(gone)
    }

    /// What the metadata says of a volume.
    pub(super) fn row_of(&self, id: VolumeId) -> Result<VolumeRow, BackendError> {
        let core = self.core();
        core.volume(id).map(|volume| volume.row().clone()).ok_or_else(gone)
    }

    /// Refuses to change a snapshot, or a volume that is occupied. The caller holds `admin`.
    pub(super) fn written(&self, name: &VolumeName) -> Result<VolumeId, BackendError> {
        let core = self.core();
        let id = core.find(name)?;
        if core.is_written(id) {
            return core.check_idle(id).map(|()| id);
        }
        Err(BackendError::Refused(format!("'{name}' is a snapshot: it does not change")))
    }

    /// Waits for room for so many chunks.
    pub(super) fn make_room(&self, chunks: u64) -> Result<(), BackendError> {
        let room = self.ask_for_room(chunks);
        if self.core().free.clean() > 0 || room? {
            return Ok(());
        }
        let (pool, wanted) = (self.name.to_string(), self.chunk.bytes());
        Err(BackendError::NoSpace { pool, wanted })
    }
}

fn gone() -> BackendError {
    BackendError::Refused("the volume is gone".into())
}

fn failed(name: &VolumeName, error: TargetError) -> BackendError {
    BackendError::failed(format!("cannot take a snapshot of '{name}'"), error)
}

impl Core {
    /// Gives a volume without a device a new layer on a snapshot's. What it had since is freed by
    /// [`Core::collect`].
    fn roll_back(&mut self, id: VolumeId, snapshot: &VolumeRow) -> Result<(), BackendError> {
        if let Some(volume) = self.volume_mut(id) {
            volume.forget_guest();
            volume.holed.clear();
        }
        self.change(|txn| {
            let layer = txn.add_layer(Some(snapshot.layer))?;
            txn.set_row(id, |row| (row.layer, row.capacity) = (layer, snapshot.capacity));
            Ok(())
        })
        .map(drop)
    }
}
