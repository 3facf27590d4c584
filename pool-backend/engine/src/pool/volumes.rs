// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes of a started pool: made, deleted, resized, wiped.
//!
//! The metadata says first that a volume is there and last that it is gone, so one that has no
//! device is finished, and a device without a volume is removed, when the pool is started again.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use uuid::Uuid;
use virtnotify_model::{
    BackendError, Bytes, Change, Chunks, Event, VolumeInfo, VolumeKind, VolumeName, VolumeSpec,
    WipeMode, WipePass,
};

use super::core::{Core, MOST_RUNS, NewVolume, Volume, VolumeId};
use super::occupied::{Claim, Occupied};
use super::view::VolumeView;
use super::{Admin, Shared, giveback, lock, settle, wipe};
use crate::alloc::Ranges;
use crate::meta::VolumeRow;
use crate::names;
use crate::runtime::MutexGuard;
use crate::target::{self, DeviceId, TargetError};

/// The most chunks of a volume: 16 TiB of 4 MiB. The target takes more; the limit keeps a map that
/// is all single chunks within what the host's memory should be asked for.
const MOST_CHUNKS: Chunks = Chunks(1 << 22);
/// How long a volume's I/O may take to end when chunks of it are being taken back.
const SETTLE: Duration = Duration::from_secs(60);
/// A volume is given this much at once: what others need in between is not far away, and a write that
/// waits for the headroom thread does not wait longer than its `hold_timeout`.
const AT_ONCE: Bytes = Bytes::mib(256);
/// Capacities are multiples of this.
const CAPACITY_UNIT: Bytes = Bytes(4096);

impl Shared {
    /// A volume as the backend shows it.
    pub(crate) fn info_of(&self, view: &VolumeView) -> VolumeInfo {
        let backing = view.origin.and_then(|origin| self.view().name_of(origin));
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(view.created);
        let openers = self.target.device(&view.device).map_or(0, |device| device.openers);
        VolumeInfo {
            pool: self.name.clone(),
            name: view.name.clone(),
            uuid: view.uuid,
            kind: view.kind,
            created,
            backing,
            capacity: view.capacity,
            allocation: view.allocation,
            exclusive: view.exclusive,
            path: names::link(&self.config.dev_dir, &self.name, &view.name),
            state: view.state,
            openers,
        }
    }

    /// One volume.
    pub(crate) fn volume_info(&self, name: &VolumeName) -> Result<VolumeInfo, BackendError> {
        let view = self.view().volume(name);
        let view = view.ok_or_else(|| BackendError::NoVolume {
            pool: self.name.to_string(),
            volume: name.to_string(),
        })?;
        Ok(self.info_of(&view))
    }

    /// Makes a volume.
    pub(crate) fn create_volume(&self, spec: &VolumeSpec) -> Result<VolumeInfo, BackendError> {
        if spec.name.snapshot().is_some() {
            let what = format!("'{}' is a name for a snapshot", spec.name);
            return Err(BackendError::Refused(what));
        }
        let admin = self.admin()?;
        let capacity = self.capacity(spec.capacity)?;
        self.check_promise(&admin, capacity, Bytes::ZERO)?;
        let chunk = self.core().chunk();
        let now = chunk.chunks_for(Bytes(spec.allocation.0.min(capacity.0)));
        if now.0 > 0 {
            self.check_unclaimed(now)?;
        }
        self.refuse_taken(&DeviceId(names::dm_uuid(spec.uuid)))?;
        let id = match &spec.backing {
            Some(backing) => self.clone_volume(spec, capacity, backing)?,
            None => self.core().create(new_volume(spec, capacity))?,
        };
        let (_admin, filled) = match now.0 {
            0 => (admin, Ok(())),
            _ => self.fill_new(admin, id, now),
        };
        let made = filled.and_then(|()| self.attach(id));
        if let Err(error) = made {
            if let Err(undo) = self.discard(id) {
                // It goes when its device can be removed and the metadata be written again. A daemon that is
                // started before finds a volume, which can be deleted.
                let mut core = self.core();
                core.disown(id);
                self.view().refresh(&mut core, &[id]);
                drop(core);
                self.damage(format!("a volume that could not be made is left over: {undo}"));
            }
            return Err(error);
        }
        let volume = spec.name.clone();
        self.emit(Event::VolumeCreated { pool: self.name.clone(), volume, capacity });
        self.volume_info(&spec.name)
    }

    /// Gives a volume its space before it gets its device. The lock is held before and afterwards.
    fn fill_new<'a>(
        &'a self,
        admin: MutexGuard<'a, Admin>,
        id: VolumeId,
        chunks: Chunks,
    ) -> (MutexGuard<'a, Admin>, Result<(), BackendError>) {
        let mut claim = self.claim(chunks.0);
        let occupied = self.occupy(admin, id, Occupied::Made);
        let filled = self.preallocate(id, &(0..chunks.0), &mut claim);
        let admin = lock(&self.admin);
        drop((occupied, claim));
        (admin, filled)
    }

    /// A capacity as asked, rounded up; refused when no volume can have it.
    fn capacity(&self, asked: Bytes) -> Result<Bytes, BackendError> {
        let most = self.core().chunk().bytes_of(MOST_CHUNKS);
        let rounded = asked.round_up(CAPACITY_UNIT).filter(|c| *c > Bytes::ZERO && *c <= most);
        rounded.ok_or_else(|| BackendError::Capacity {
            capacity: asked,
            reason: format!("this pool has volumes from 4 KiB to {most}"),
        })
    }

    /// Gives a part of a volume the chunks that it lacks. Its device, if it has one, is told of these and
    /// no others: what it has may be leaving or moving at this moment.
    fn preallocate(
        &self,
        id: VolumeId,
        part: &std::ops::Range<u64>,
        claim: &mut Claim<'_>,
    ) -> Result<(), BackendError> {
        let mut room = Ok(true);
        loop {
            let mut core = self.core();
            // Leaves the headroom to writes, unless the pool gets no more anyway.
            let left = if matches!(room, Ok(false)) { 0 } else { self.gate.mark() };
            let most = core.free.clean().saturating_sub(left);
            let got = core.preallocate(id, part, most);
            // A volume that is being made is not shown; what it takes is.
            self.view().refresh(&mut core, &[id]);
            let got = got?;
            let told = core.volume_mut(id).filter(|v| v.minor.is_some() && !got.runs.is_empty());
            let device = told.map(Volume::begin_sending);
            drop(core);
            if let Some(device) = device {
                let sent = self.target.map(&device, got.part(|got| got.runs.as_slice()));
                self.sent(&[id]);
                sent.map_err(|e| BackendError::failed("cannot map the chunks of a volume", e))?;
            }
            let (missing, partly) = (got.missing, got.partly);
            claim.becomes(missing);
            if missing == 0 {
                return Ok(());
            }
            if partly {
                self.give_way();
                continue;
            }
            if !room? {
                let (pool, chunk) = (self.name.to_string(), self.core().chunk());
                return Err(BackendError::NoSpace {
                    pool,
                    wanted: chunk.bytes_of(Chunks(missing)),
                });
            }
            // What is there now is taken above, even when it was not all that was asked for.
            room = self.ask_for_room(missing.min(self.chunk.whole_chunks(AT_ONCE).0.max(1)));
        }
    }

    /// Makes the device of a volume, with its map, and then its link.
    pub(crate) fn attach(&self, id: VolumeId) -> Result<(), BackendError> {
        let mut inherited = true;
        let made = self.make_device(id, &mut inherited);
        if made.is_err() && inherited {
            // Layers may have been merged meanwhile: the whole map is told.
            inherited = false;
            return self.make_device(id, &mut inherited);
        }
        made
    }

    /// Does it. `inherits` says whether another device's map may be copied, and then whether it was.
    fn make_device(&self, id: VolumeId, inherits: &mut bool) -> Result<(), BackendError> {
        let may_inherit = std::mem::take(inherits);
        let _written = self.data.write_table();
        let (name, device, table) = {
            let core = self.core();
            core.usable()?;
            let Some(volume) = core.volume(id) else { return Ok(()) };
            let table = self.table(volume.row(), core.chunk());
            (volume.row().name.clone(), volume.device.clone(), table)
        };
        let failed =
            |e: TargetError| BackendError::failed(format!("cannot make the device of '{name}'"), e);
        let dm_name = names::dm_name(&self.name, &name);
        self.remove_half_made(&dm_name, &device)?;
        // One that a killed daemon left may have the new device's number: a link says that a map is complete.
        let link = names::link(&self.config.dev_dir, &self.name, &name);
        remove_link(&link).map_err(|e| {
            BackendError::failed(format!("cannot remove the link '{}'", link.display()), e)
        })?;
        let made = self.target.create(&dm_name, &device, &table).and_then(|made| {
            self.begin_generation(id, &device, 0)?;
            Ok(made.minor)
        });
        let mapped = made.map_err(failed).and_then(|minor| {
            *inherits = may_inherit;
            *inherits = may_inherit && self.inherit(id, &device, &failed)?;
            if !*inherits {
                self.map_all(id, &device, Ranges::all(), &failed)?;
            }
            Ok(minor)
        });
        let shown = mapped.and_then(|minor| self.publish_device(id, &name, minor));
        if shown.is_err() {
            // Nobody is told of a device that is not whole. It may be there although making it failed.
            if let Err(undo) = self.target.remove(&device)
                && !undo.is_gone()
            {
                tracing::warn!(pool = %self.name, error = %undo, "a half-made device stays");
            }
            let mut core = self.core();
            core.set_minor(id, None);
            // It is made when that can be done.
            core.unsettle(id);
        }
        shown
    }

    /// Has a new device get what another one shows, and the rest from the metadata; `false` if there is none
    /// to inherit from. Nobody changes what a volume without a device shows.
    fn inherit(
        &self,
        id: VolumeId,
        device: &DeviceId,
        failed: &dyn Fn(TargetError) -> BackendError,
    ) -> Result<bool, BackendError> {
        let Some(from) = self.core().relative(id) else { return Ok(false) };
        let inherited = self.target.inherit(device, from.part(|from| &from.heritage).copied());
        let rest = match inherited {
            Ok(()) => self.core().not_inherited(&from),
            Err(error) => {
                tracing::debug!(pool = %self.name, %error, "a device inherits nothing");
                Ranges::all()
            }
        };
        // It has been there all the time: no other device can have had its minor.
        let source = self.target.device(&from.device).map_err(failed)?;
        let is_same = source.minor == from.heritage.minor;
        // A guest's discard leaves its device before the metadata says so: then that much is missing at first.
        for ranges in [rest, Ranges::all()] {
            self.map_all(id, device, ranges, failed)?;
            if is_same && self.has_all(id, device, failed)? {
                return Ok(true);
            }
        }
        let what = format!("'{}' gave another device more than both show", source.name);
        Err(BackendError::Damaged { pool: self.name.to_string(), what })
    }

    /// Whether a device has as many chunks as its volume shows.
    fn has_all(
        &self,
        id: VolumeId,
        device: &DeviceId,
        failed: &dyn Fn(TargetError) -> BackendError,
    ) -> Result<bool, BackendError> {
        let mapped = self.target.status(device).map_err(failed)?.mapped;
        Ok(mapped == self.core().shown(id))
    }

    /// Gives a device its volume's runs in these ranges, in parts: others grow meanwhile.
    fn map_all(
        &self,
        id: VolumeId,
        device: &DeviceId,
        mut ranges: Ranges,
        failed: &dyn Fn(TargetError) -> BackendError,
    ) -> Result<(), BackendError> {
        loop {
            let part = self.core().durable_runs(id, &ranges, MOST_RUNS)?;
            let Some(last) = part.last() else { return Ok(()) };
            ranges.remove(0, last.run.end());
            self.target.map(device, part.part(Vec::as_slice)).map_err(failed)?;
            self.give_way();
        }
    }

    /// Removes a device of this volume that could not be made as a whole, and refuses one of others.
    fn remove_half_made(&self, dm_name: &str, device: &DeviceId) -> Result<(), BackendError> {
        match self.target.device(device) {
            Ok(there) if there.name == dm_name => self.target.remove(device).map_err(|e| {
                BackendError::failed(format!("cannot remove the half-made device '{dm_name}'"), e)
            }),
            Ok(there) => Err(settle::taken(&there)),
            Err(_) => Ok(()),
        }
    }

    /// Makes the device of a volume again that was taken away for a change, which ended like this. What
    /// could not be made durable is brought in order when the metadata is opened again.
    pub(super) fn attach_again(
        &self,
        id: VolumeId,
        changed: Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let usable = self.core().usable();
        if usable.is_ok() {
            if let Some(volume) = self.core().volume_mut(id) {
                volume.closing = false;
            }
            self.attach(id).inspect_err(|_| self.gate.kick())?;
        }
        changed.and(usable)
    }

    /// Has a device whose generation is `before` begin the one that its volume is in; says whether
    /// that is another one.
    pub(crate) fn begin_generation(
        &self,
        id: VolumeId,
        device: &DeviceId,
        before: u16,
    ) -> Result<bool, TargetError> {
        let (generation, mark) = {
            let core = self.core();
            (core.generation(id), core.mark(id))
        };
        if before >= generation {
            return Ok(false);
        }
        self.target.snapshot(device, generation)?;
        if mark < generation {
            self.target.mark(device, mark)?;
        }
        Ok(true)
    }

    /// Shows a device whose map is complete.
    pub(crate) fn publish_device(
        &self,
        id: VolumeId,
        name: &VolumeName,
        minor: u32,
    ) -> Result<(), BackendError> {
        {
            let mut core = self.core();
            core.set_minor(id, Some(minor));
            self.view().refresh(&mut core, &[id]);
        }
        let link = names::link(&self.config.dev_dir, &self.name, name);
        make_link(&link, &names::link_target(minor)).map_err(|e| {
            BackendError::failed(format!("cannot make the link '{}'", link.display()), e)
        })?;
        // A program may have opened and written it the moment it was there.
        self.note(|notes| notes.look_at.extend([id]));
        Ok(())
    }

    /// Deletes a volume, if it is the one with that UUID where one is given.
    pub(crate) fn delete_volume(
        &self,
        name: &VolumeName,
        uuid: Option<&Uuid>,
    ) -> Result<(), BackendError> {
        let _admin = self.admin()?;
        let id = self.core().find_this(name, uuid)?;
        self.core().check_idle(id)?;
        self.remove(id)?;
        // Its name is free, whatever becomes of its chunks now.
        let (pool, volume) = (self.name.clone(), name.clone());
        self.emit(Event::VolumeDeleted { pool, volume });
        let freed = self.free_waste();
        self.gate.kick();
        freed
    }

    /// Removes the device of a volume, then the volume, and frees what it held.
    fn discard(&self, id: VolumeId) -> Result<(), BackendError> {
        self.remove(id)?;
        self.free_waste()
    }

    /// Removes the device of a volume, then the volume.
    fn remove(&self, id: VolumeId) -> Result<(), BackendError> {
        self.core().usable()?;
        self.detach(id)?;
        let mut core = self.core();
        core.drop_volume(id)?;
        self.view().refresh_all(&mut core);
        Ok(())
    }

    /// Frees chunks that nothing shows any more, in parts, so that others grow meanwhile. Work that has
    /// to wait until moved chunks are free is left to the headroom thread.
    fn free_waste(&self) -> Result<(), BackendError> {
        while self.core().has_waste() && giveback::deletes(self)? {
            self.give_way();
        }
        Ok(())
    }

    /// Removes the link and the device of a volume that no program has open.
    pub(crate) fn detach(&self, id: VolumeId) -> Result<(), BackendError> {
        let (name, device) = {
            let mut core = self.core();
            let Some(volume) = core.volume_mut(id) else { return Ok(()) };
            volume.closing = true;
            (volume.row().name.clone(), volume.device.clone())
        };
        // A thread that is about to change its map in the kernel must not meet another device.
        let settled = self.wait_settled(id, &name).map(drop);
        let removed = settled.and_then(|()| self.remove_device(&name, &device));
        let mut core = self.core();
        match &removed {
            Ok(()) => core.set_minor(id, None),
            Err(_) => {
                if let Some(volume) = core.volume_mut(id) {
                    volume.closing = false;
                }
                // Bells that rang meanwhile were not answered.
                self.note(|notes| notes.look_at.extend([id]));
            }
        }
        self.view().refresh(&mut core, &[id]);
        removed
    }

    /// Refuses to change or take away a device that was not taken over: it may hold what the metadata does not
    /// have. Deleting its volume is not refused.
    pub(super) fn check_taken_over(
        &self,
        id: VolumeId,
        name: &VolumeName,
    ) -> Result<(), BackendError> {
        if self.core().volume(id).is_some_and(|volume| volume.not_taken_over) {
            return Err(BackendError::Refused(format!(
                "the device of '{name}' could not be taken over, and may hold what the metadata does not have: \
                 copy what is needed from it, and delete the volume"
            )));
        }
        Ok(())
    }

    /// Waits until no thread is about to change a volume's map in the kernel.
    pub(super) fn wait_settled(
        &self,
        id: VolumeId,
        name: &VolumeName,
    ) -> Result<MutexGuard<'_, Core>, BackendError> {
        let busy = |core: &mut Core| core.volume(id).is_some_and(|volume| !volume.settled());
        let waited = self.settled.wait_timeout_while(self.core(), SETTLE, busy);
        let (core, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() { Err(BackendError::VolumeInUse(name.to_string())) } else { Ok(core) }
    }

    fn remove_device(&self, name: &VolumeName, device: &DeviceId) -> Result<(), BackendError> {
        let failed = |e: TargetError| {
            BackendError::failed(format!("cannot remove the device of '{name}'"), e)
        };
        match self.target.device(device) {
            // Where a group was copied, another pool has a device of this id.
            Ok(there) if there.name != names::dm_name(&self.name, name) => return Ok(()),
            Ok(there) if there.openers > 0 => {
                return Err(BackendError::VolumeInUse(name.to_string()));
            }
            Ok(_) => {}
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(failed(e)),
        }
        match self.target.remove(device) {
            Ok(()) => {}
            Err(e) if e.errno() == Some(Errno::EBUSY) => {
                return Err(BackendError::VolumeInUse(name.to_string()));
            }
            // It may have been done all the same.
            Err(_) if self.target.device(device).is_err_and(|e| e.is_gone()) => {}
            Err(e) => return Err(failed(e)),
        }
        let link = names::link(&self.config.dev_dir, &self.name, name);
        remove_link(&link).map_err(|e| {
            BackendError::failed(format!("cannot remove the link '{}'", link.display()), e)
        })
    }

    /// Gives a volume another capacity.
    pub(crate) fn resize_volume(
        &self,
        name: &VolumeName,
        capacity: Bytes,
    ) -> Result<Change, BackendError> {
        let admin = self.admin()?;
        let id = self.written(name)?;
        self.check_taken_over(id, name)?;
        let capacity = self.capacity(capacity)?;
        self.check_promise(&admin, capacity, self.row_of(id)?.capacity)?;
        // Nothing beyond both ends from now on, so what the kernel has fits either table.
        let old = {
            let mut core = self.core();
            let Some(volume) = core.volume(id) else { return Ok(Change::Identity) };
            let old = volume.row().capacity;
            core.set_end(id, Some(self.chunk.chunks_for(capacity.min(old)).0));
            old
        };
        let resized = self.resize_to(id, name, old, capacity);
        self.core().set_end(id, None);
        // Writes beyond were not answered.
        self.note(|notes| notes.look_at.extend([id]));
        if resized? {
            self.tell_changed(id);
            return Ok(Change::Changed);
        }
        Ok(Change::Identity)
    }

    /// Resizes the volume; returns whether there was anything to do. An earlier attempt may have
    /// ended at any point of this.
    fn resize_to(
        &self,
        id: VolumeId,
        name: &VolumeName,
        old: Bytes,
        capacity: Bytes,
    ) -> Result<bool, BackendError> {
        let core = self.wait_settled(id, name)?;
        let Some(volume) = core.volume(id) else { return Ok(false) };
        let (device, end) = (volume.device.clone(), core.last_end(id));
        drop(core);
        let written = self.chunk.bytes_of(Chunks(end));
        if capacity < old && capacity < written {
            return Err(BackendError::Refused(format!(
                "the volume '{name}' has data up to {written}: it cannot shrink to {capacity}"
            )));
        }
        // Larger: first the metadata, then the device. Smaller: the other way round. The
        // metadata never knows less than the device can hold.
        if capacity < old {
            self.reload(id, name, &device, capacity)?;
        }
        if capacity != old {
            let mut core = self.core();
            core.set_capacity(id, capacity)?;
            self.view().refresh(&mut core, &[id]);
        }
        let reloaded = capacity >= old && self.reload(id, name, &device, capacity)?;
        Ok(reloaded || capacity != old)
    }

    /// Gives a device the length of this capacity; returns whether it had another one.
    fn reload(
        &self,
        id: VolumeId,
        name: &VolumeName,
        device: &DeviceId,
        capacity: Bytes,
    ) -> Result<bool, BackendError> {
        let failed = |e| BackendError::failed(format!("cannot resize the device of '{name}'"), e);
        let _written = self.data.write_table();
        let table = self.table(&VolumeRow { capacity, ..self.row_of(id)? }, self.chunk);
        let there = self.target.device(device).map_err(failed)?;
        if there.length == table.length && !there.suspended {
            return Ok(false);
        }
        let reloaded = target::reload(&*self.target, &there, &table);
        if let Err(error @ TargetError::Suspended { .. }) = &reloaded {
            self.damage(format!("the volume '{name}' waits: {error}"));
        }
        reloaded.map_err(|error| {
            self.unsettle(id);
            failed(error)
        })?;
        Ok(true)
    }

    /// Gives a volume all the chunks that it lacks.
    pub(crate) fn allocate(&self, name: &VolumeName) -> Result<Change, BackendError> {
        self.prepare(name, Bytes::ZERO, Bytes(u64::MAX))
    }

    /// Gives a volume the chunks that it lacks between two places, as far as it goes. For a part that is small
    /// others wait; while it gets a larger one, it is left alone.
    pub(crate) fn prepare(
        &self,
        name: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<Change, BackendError> {
        let admin = self.admin()?;
        let id = self.filled(name)?;
        let Some((part, missing)) = self.core().lacking(id, offset, length) else {
            return Ok(Change::Identity);
        };
        let (_admin, _occupied, mut claim) = match length > AT_ONCE {
            true => {
                self.check_unclaimed(Chunks(missing))?;
                let claim = self.claim(missing);
                (None, Some(self.occupy(admin, id, Occupied::Filled(1))), claim)
            }
            false => (Some(admin), None, self.claim(0)),
        };
        let filled = self.preallocate(id, &part, &mut claim);
        let filled = filled.and_then(|()| self.copy_shared(id, &part));
        self.tell_changed(id);
        filled.map(|()| Change::Changed)
    }

    /// Makes a volume that no program has open read as zeroes: its chunks go, and are zeroed before
    /// any volume gets them.
    pub(crate) fn wipe_volume(
        &self,
        name: &VolumeName,
        mode: WipeMode,
    ) -> Result<(), BackendError> {
        let admin = self.admin()?;
        self.core().usable()?;
        let id = self.written(name)?;
        let passes = match mode {
            WipeMode::Trim => &[][..],
            WipeMode::Zero => &[WipePass::Pattern([0; 3])],
            WipeMode::Overwrite(passes) => passes,
        };
        self.check_taken_over(id, name)?;
        // Without a device nothing leaves the volume: what is overwritten is its own.
        self.detach(id)?;
        let occupied = self.occupy(admin, id, Occupied::Wiped);
        let overwritten = self.overwrite(id, passes);
        let _admin = lock(&self.admin);
        drop(occupied);
        self.attach_again(id, overwritten.and_then(|()| self.empty(id)))?;
        self.tell_changed(id);
        self.gate.kick();
        Ok(())
    }

    /// Empties a volume without a device, and frees what it alone held.
    fn empty(&self, id: VolumeId) -> Result<(), BackendError> {
        let mut core = self.core();
        core.empty(id)?;
        self.view().refresh_all(&mut core);
        drop(core);
        self.free_waste()
    }

    /// Overwrites what a volume without a device alone holds, and keeps while it is
    /// [`Occupied::Wiped`]; each pass is durable before the next one begins. What snapshots and clones show as well stays theirs.
    fn overwrite(&self, id: VolumeId, passes: &[WipePass]) -> Result<(), BackendError> {
        let (runs, name) = {
            let core = self.core();
            // Else a chunk may be another volume's on the disk already.
            core.usable()?;
            let Some(volume) = core.volume(id) else { return Ok(()) };
            (core.exclusive_runs(id), volume.row().name.clone())
        };
        let failed = |e: io::Error| BackendError::failed(format!("cannot wipe '{name}'"), e);
        let bytes = |chunks| self.chunk.bytes_of(Chunks(chunks)).0;
        for (at, pass) in passes.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| passes.get(at));
            for run in &runs {
                let Some(data) = self.data.get(run.to.start.lv) else { continue };
                let (start, length) = (bytes(run.to.start.chunk), bytes(run.to.length));
                wipe::pass(&*data, start, length, *pass, before).map_err(failed)?;
            }
            self.data.sync().map_err(failed)?;
        }
        Ok(())
    }
}

/// A volume as it was asked for, on nothing.
pub(super) fn new_volume(spec: &VolumeSpec, capacity: Bytes) -> NewVolume {
    let (uuid, name) = (spec.uuid, spec.name.clone());
    NewVolume { uuid, name, kind: VolumeKind::Volume, capacity, origin: None, parent: None }
}

/// Makes or corrects a link; there is never a moment without it.
pub(crate) fn make_link(link: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|there| there == target) {
        return Ok(());
    }
    if let Some(directory) = link.parent() {
        fs::create_dir_all(directory)?;
    }
    // A volume's name never begins with a hyphen, so no volume has this one.
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let fresh = link.with_file_name(format!("-{name}"));
    remove_link(&fresh)?;
    symlink(target, &fresh)?;
    fs::rename(&fresh, link)
}

/// Removes a link, if it is there.
pub(crate) fn remove_link(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Core {
    /// The chunks of a part of a volume, if it lacks some of its own there; and how many are a hole.
    fn lacking(
        &self,
        id: VolumeId,
        offset: Bytes,
        length: Bytes,
    ) -> Option<(std::ops::Range<u64>, u64)> {
        let end = self.chunk().chunks_for(Bytes(offset.0.saturating_add(length.0)));
        let end = end.min(self.chunk().chunks_for(self.volume(id)?.row().capacity)).0;
        let part = self.chunk().whole_chunks(offset).0..end;
        if part.is_empty() || !(self.shares(id) || self.first_hole(id, part.clone()).is_some()) {
            return None;
        }
        let mapped: u64 = self.runs(id, part.clone()).map(|run| run.to.length).sum();
        let missing = (part.end - part.start).saturating_sub(mapped);
        Some((part, missing))
    }
}
