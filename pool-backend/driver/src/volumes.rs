// SPDX-License-Identifier: LGPL-2.1-or-later
//! The volumes of active pools.
//!
//! Short calls (create, delete, resize) are shared jobs of the pool, so the pool stays meanwhile. Long
//! ones (wipe, clone, and what gives a volume its space) only begin as a job and mark their volume as
//! busy: then the pool is not stopped and the volume is not touched, but no other call waits for them.

use std::fs::{self, Permissions as Mode};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use uuid::Uuid;
use virtnotify_model::{
    BackendError, Bytes, PoolName, VolumeInfo, VolumeName, VolumeSpec, VolumeState,
};
use virtnotify_wire::{StoragePool, StorageVol};

use crate::driver::{Driver, handle};
use crate::error::DriverError;
use crate::flags::{RESIZE_ALLOCATE, RESIZE_DELTA, RESIZE_SHRINK};
use crate::snapshots::need_volume;
use crate::streams::Done;
use crate::wipe;
use crate::xml::{Permissions, VolumeDefinition, XmlError, clean_path, print_volume};

/// A volume that a call that takes long is at work with.
pub(crate) struct Busy<'a> {
    driver: &'a Driver,
    pool: Uuid,
    volume: VolumeName,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.driver.registry().get_mut(self.pool) {
            entry.busy.remove(&self.volume);
        }
    }
}

impl Driver {
    /// The volumes of an active pool, by name.
    ///
    /// # Errors
    /// When the pool is not active.
    pub fn volumes(&self, pool: &StoragePool) -> Result<Vec<VolumeInfo>, DriverError> {
        let name = self.active_name(pool)?;
        Ok(self.backend.volumes(&name)?)
    }

    /// A volume of an active pool.
    ///
    /// # Errors
    /// When the pool is not active, or has no such volume.
    pub fn volume(&self, pool: &StoragePool, name: &str) -> Result<VolumeInfo, DriverError> {
        let pool = self.active_name(pool)?;
        self.find(&pool, name)
    }

    /// The volume that a client knows, and its pool.
    ///
    /// # Errors
    /// When the pool is not there or not active, or has no such volume.
    pub fn known(&self, volume: &StorageVol) -> Result<(StoragePool, VolumeInfo), DriverError> {
        let pool = self.by_volume(volume)?;
        let info = self.volume(&pool, &volume.name)?;
        Ok((pool, info))
    }

    /// Finds a volume by its key, which is its UUID.
    ///
    /// # Errors
    /// [`DriverError::NoVolumeKey`].
    pub fn volume_by_key(&self, key: &str) -> Result<VolumeInfo, DriverError> {
        let found = Uuid::try_parse(key).ok().and_then(|uuid| self.search(|v| v.uuid == uuid));
        found.ok_or_else(|| DriverError::NoVolumeKey(key.to_owned()))
    }

    /// Finds a volume by its path, or by any other path of its device.
    ///
    /// # Errors
    /// [`DriverError::NoVolumePath`].
    pub fn volume_by_path(&self, path: &str) -> Result<VolumeInfo, DriverError> {
        let clean = PathBuf::from(clean_path(path));
        // Only a path of its own waits for a pool that is being taken up again.
        let below = clean.strip_prefix("/dev/notify").ok().and_then(|rest| rest.iter().next());
        if let Some(Ok(pool)) = below.map(|pool| self.by_name(&pool.to_string_lossy())) {
            self.settle(Uuid::from_bytes(pool.uuid.0));
        }
        let found = self.search(|volume| volume.path == clean);
        let found = found.or_else(|| self.search_device(&clean));
        found.ok_or_else(|| DriverError::NoVolumePath(path.to_owned()))
    }

    fn search_device(&self, path: &Path) -> Option<VolumeInfo> {
        let device = device_of(path)?;
        self.search(|volume| fs::canonicalize(&volume.path).is_ok_and(|found| found == device))
    }

    fn search(&self, wanted: impl Fn(&VolumeInfo) -> bool) -> Option<VolumeInfo> {
        let pools: Vec<PoolName> = {
            let registry = self.registry();
            let active = registry.iter().filter(|entry| entry.active);
            active.map(|entry| entry.definition.name.clone()).collect()
        };
        // A pool that stops meanwhile has no volumes any more.
        let volumes = pools.iter().filter_map(|pool| self.backend.volumes(pool).ok()).flatten();
        volumes.into_iter().find(wanted)
    }

    /// Makes a volume.
    ///
    /// # Errors When the XML asks for something impossible, or there is a volume of that name.
    pub fn create_volume(
        &self,
        pool: &StoragePool,
        xml: &str,
        validate: bool,
    ) -> Result<VolumeInfo, DriverError> {
        // What is asked of a pool that is not there is answered with that.
        self.active_name(pool)?;
        self.make_in(pool, &VolumeDefinition::parse(xml, validate)?)
    }

    /// Makes a volume as it is described, for others than libvirt's clients, which hear that the pool changed; with
    /// `backing`, of the volume or snapshot of that name and UUID.
    ///
    /// # Errors
    /// When it cannot be so, there is a volume of that name, or another one has that of `backing`.
    pub fn create_described(
        &self,
        pool: &StoragePool,
        wanted: &VolumeDefinition,
        backing: Option<(&VolumeName, &Uuid)>,
    ) -> Result<VolumeInfo, DriverError> {
        let made = match backing {
            None => self.make_in(pool, wanted)?,
            Some((of, uuid)) => self.shared_job(pool, || {
                let (_, info, _busy) = self.begin_that(pool, of.as_str(), uuid)?;
                self.make_of(&info, wanted, wanted.capacity.unwrap_or(info.capacity))
            })?,
        };
        self.when_written(pool.clone())();
        Ok(made)
    }

    /// Makes a volume; one that gets space at once may take hours.
    fn make_in(
        &self,
        pool: &StoragePool,
        wanted: &VolumeDefinition,
    ) -> Result<VolumeInfo, DriverError> {
        if wanted.allocation.is_none_or(|allocation| allocation == Bytes::ZERO) {
            return self.shared_job(pool, || self.made(pool, &self.active_name(pool)?, wanted));
        }
        let (name, _busy) = self.shared_job(pool, || self.begin_new(pool, &wanted.name))?;
        self.made(pool, &name, wanted)
    }

    fn made(
        &self,
        pool: &StoragePool,
        name: &PoolName,
        wanted: &VolumeDefinition,
    ) -> Result<VolumeInfo, DriverError> {
        let backing = self.backing_of(pool, name, wanted)?;
        let capacity = wanted.capacity.or(backing.as_ref().map(|backing| backing.capacity));
        let capacity =
            capacity.ok_or_else(|| XmlError::Malformed("missing capacity element".to_owned()))?;
        match backing {
            Some(backing) => self.make_of(&backing, wanted, capacity),
            None => self.make(name, wanted, wanted.spec(capacity, Uuid::new_v4())),
        }
    }

    /// The volume or snapshot of the same pool of which a volume is to be made, where its XML
    /// names one. The pool's name is its own: a client may have sent another's with its UUID.
    fn backing_of(
        &self,
        pool: &StoragePool,
        name: &PoolName,
        wanted: &VolumeDefinition,
    ) -> Result<Option<VolumeInfo>, DriverError> {
        let Some(path) = &wanted.backing else { return Ok(None) };
        let found = self.volume_by_path(path)?;
        if found.pool != *name {
            let (path, pool) = (path.clone(), name.to_string());
            return Err(DriverError::OtherPool { path, pool });
        }
        self.free_volume(pool, found.name.as_str()).map(|(_, info)| Some(info))
    }

    /// Makes a volume that holds what another volume or snapshot of its pool holds; nothing is
    /// copied.
    pub(crate) fn make_of(
        &self,
        backing: &VolumeInfo,
        wanted: &VolumeDefinition,
        capacity: Bytes,
    ) -> Result<VolumeInfo, DriverError> {
        if capacity < backing.capacity {
            let (name, least) = (&backing.name, backing.capacity.0);
            let reason = format!("'{name}', of which it is made, has {least} bytes");
            return Err(BackendError::Capacity { capacity, reason }.into());
        }
        // Where an allocation is that of the backing volume, it was read from its XML.
        let thin = VolumeSpec {
            allocation: Bytes::ZERO,
            backing: Some(backing.name.clone()),
            ..wanted.spec(capacity, Uuid::new_v4())
        };
        self.make(&backing.pool, wanted, thin)
    }

    /// Makes a volume as it was asked for, or none.
    pub(crate) fn make(
        &self,
        pool: &PoolName,
        wanted: &VolumeDefinition,
        spec: VolumeSpec,
    ) -> Result<VolumeInfo, DriverError> {
        if let Some((volume, snapshot)) = wanted.name.snapshot() {
            let (pool, volume) = (pool.to_string(), volume.to_string());
            return Err(DriverError::SnapshotName { pool, volume, snapshot: snapshot.to_string() });
        }
        check_sizes(spec.capacity, Some(spec.allocation))?;
        self.check_largest(pool, spec.capacity)?;
        if self.backend.volume(pool, &wanted.name).is_ok() {
            return Err(DriverError::VolumeExists(wanted.name.to_string()));
        }
        let made = self.backend.create_volume(pool, &spec);
        let made = made.map_err(|error| named(error, &wanted.name))?;
        if let Err(error) = apply(&wanted.permissions, &made.path) {
            self.backend.delete_volume(pool, &wanted.name)?;
            return Err(error);
        }
        Ok(made)
    }

    /// Deletes a volume, or a snapshot. `with_snapshots` says that those of a volume go too.
    ///
    /// # Errors
    /// When there is no such volume, it or a snapshot that is to go is in use, or it has snapshots
    /// that are not to go.
    pub fn delete_volume(
        &self,
        volume: &StorageVol,
        with_snapshots: bool,
    ) -> Result<(), DriverError> {
        self.take_away(volume, None, with_snapshots)
    }

    /// The same for others than libvirt's clients, which hear that the pool changed; and only if it is the volume with
    /// that UUID.
    ///
    /// # Errors
    /// As for [`Driver::delete_volume`], and when another volume has that name.
    pub fn delete_that_volume(
        &self,
        volume: &StorageVol,
        uuid: &Uuid,
        with_snapshots: bool,
    ) -> Result<(), DriverError> {
        self.take_away(volume, Some(uuid), with_snapshots)?;
        self.when_written(self.by_volume(volume)?)();
        Ok(())
    }

    fn take_away(
        &self,
        volume: &StorageVol,
        uuid: Option<&Uuid>,
        with_snapshots: bool,
    ) -> Result<(), DriverError> {
        let pool = self.by_volume(volume)?;
        self.shared_job(&pool, || {
            let (name, info) = self.free_volume(&pool, &volume.name)?;
            if uuid.is_some_and(|uuid| *uuid != info.uuid) {
                return Err(DriverError::NoVolumeKey(volume.key.clone()));
            }
            let snapshots = self.snapshots(&name, Some(&info.name))?;
            if !with_snapshots && !snapshots.is_empty() {
                return Err(has_snapshots(&info.name, &snapshots));
            }
            // Looked at before anything goes; and the volume goes first, so that one that is opened
            // meanwhile keeps its snapshots.
            for snapshot in &snapshots {
                self.free_volume(&pool, snapshot.name.as_str())?;
                if snapshot.openers > 0 {
                    return Err(DriverError::VolumeInUse(snapshot.name.to_string()));
                }
            }
            for of in [&info].into_iter().chain(&snapshots) {
                // The one that was looked at: another may have its name by now.
                let deleted = self.backend.delete_this_volume(&name, &of.name, &of.uuid);
                deleted.map_err(|error| named(error, &of.name))?;
            }
            Ok(())
        })
    }

    /// Gives a volume another capacity; `flags` are libvirt's, checked for unknown ones.
    ///
    /// # Errors
    /// When the volume is in use, or cannot have that capacity.
    pub fn resize_volume(
        &self,
        volume: &StorageVol,
        capacity: Bytes,
        flags: u32,
    ) -> Result<(), DriverError> {
        let pool = self.by_volume(volume)?;
        if flags & RESIZE_ALLOCATE == 0 {
            return self.shared_job(&pool, || {
                let (name, info) = self.free_volume(&pool, &volume.name)?;
                self.resize(&name, &info, capacity, flags)
            });
        }
        // It may take hours.
        let (name, _busy) = self.shared_job(&pool, || self.begin(&pool, &volume.name))?;
        self.resize(&name, &self.find(&name, &volume.name)?, capacity, flags)
    }

    /// The same for others than libvirt's clients, which hear that the pool changed; and only if it is the volume with
    /// that UUID.
    ///
    /// # Errors
    /// As for [`Driver::resize_volume`], and when another volume has that name.
    pub fn set_capacity(
        &self,
        volume: &StorageVol,
        uuid: &Uuid,
        capacity: Bytes,
        shrink: bool,
    ) -> Result<(), DriverError> {
        let pool = self.by_volume(volume)?;
        self.shared_job(&pool, || {
            let (name, info, _busy) = self.begin_that(&pool, &volume.name, uuid)?;
            self.resize(&name, &info, capacity, if shrink { RESIZE_SHRINK } else { 0 })
        })?;
        self.when_written(pool)();
        Ok(())
    }

    fn resize(
        &self,
        pool: &PoolName,
        info: &VolumeInfo,
        capacity: Bytes,
        flags: u32,
    ) -> Result<(), DriverError> {
        need_volume(info, "be resized")?;
        let capacity = new_capacity(info, capacity, flags)?;
        if capacity > info.capacity {
            self.check_largest(pool, capacity)?;
        }
        let allocate = flags & RESIZE_ALLOCATE != 0;
        if allocate {
            self.check_room(pool, capacity, info.allocation)?;
        }
        let resized = self.backend.resize_volume(pool, &info.name, capacity);
        resized.map_err(|error| named(error, &info.name))?;
        if allocate {
            let allocated = self.backend.allocate_volume(pool, &info.name);
            allocated.map_err(|error| named(error, &info.name))?;
        }
        Ok(())
    }

    /// Refuses a capacity that the pool's policy does not allow.
    fn check_largest(&self, pool: &PoolName, capacity: Bytes) -> Result<(), DriverError> {
        match self.backend.policy(pool)?.largest_volume {
            Some(largest) if capacity > largest => {
                let reason = format!("the pool's policy allows {largest} for a volume");
                Err(BackendError::Capacity { capacity, reason }.into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses an allocation beyond the available space, before anything is changed.
    fn check_room(&self, pool: &PoolName, capacity: Bytes, has: Bytes) -> Result<(), DriverError> {
        let info = self.backend.pool_info(pool)?;
        let wanted = info.chunk.bytes_of(info.chunk.chunks_for(capacity)).saturating_sub(has);
        if wanted > info.available { Err(DriverError::NoRoom) } else { Ok(()) }
    }

    /// Makes a volume read as zeroes.
    ///
    /// # Errors
    /// When the volume is in use, or that way of wiping is not for it.
    pub fn wipe_volume(&self, volume: &StorageVol, algorithm: u32) -> Result<(), DriverError> {
        let mode = wipe::mode(algorithm)?;
        let pool = self.by_volume(volume)?;
        let (name, busy) = self.shared_job(&pool, || {
            need_volume(&self.volume(&pool, &volume.name)?, "be wiped")?;
            self.begin(&pool, &volume.name)
        })?;
        let wiped = self.backend.wipe_volume(&name, &busy.volume, mode);
        wiped.map_err(|error| named(error, &busy.volume))
    }

    /// A volume that a client may write now, and what to do when it has. While the device is
    /// open the backend keeps the volume and its pool, so it is not marked as busy.
    pub(crate) fn writable(&self, volume: &StorageVol) -> Result<(VolumeInfo, Done), DriverError> {
        let pool = self.by_volume(volume)?;
        let (_, info) = self.free_volume(&pool, &volume.name)?;
        need_volume(&info, "be written")?;
        Ok((info, Box::new(self.when_written(pool))))
    }

    /// A volume's XML.
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn volume_xml(&self, volume: &StorageVol) -> Result<String, DriverError> {
        let (_, info) = self.known(volume)?;
        Ok(print_volume(&info, fs::metadata(&info.path).ok().as_ref()))
    }

    /// Makes sure that a disk can be opened, as a VM needs before it starts, and starts its pool if
    /// necessary. A disk is named by its path, `/dev/notify/POOL/VOLUME`, or as `POOL/VOLUME`; the
    /// latter may be in a pool of another type, which is answered by `None`.
    ///
    /// # Errors
    /// When there is no such pool or volume, or it cannot be made active.
    pub fn ensure_active(&self, disk: &str) -> Result<Option<VolumeInfo>, DriverError> {
        let unknown = || DriverError::NoVolumePath(disk.to_owned());
        let clean = clean_path(disk);
        let below = clean.strip_prefix("/dev/notify/");
        let (pool, volume) = below.unwrap_or(&clean).split_once('/').ok_or_else(unknown)?;
        let pool = match self.by_name(pool) {
            Ok(pool) => pool,
            Err(_) if below.is_none() && !pool.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        };
        self.activate(&pool, volume).map(Some)
    }

    fn activate(&self, pool: &StoragePool, volume: &str) -> Result<VolumeInfo, DriverError> {
        match self.start(pool, None) {
            Ok(()) | Err(DriverError::AlreadyActive(_)) => {}
            Err(error) => return Err(error),
        }
        let info = self.volume(pool, volume)?;
        if info.state != VolumeState::Inactive {
            return Ok(info);
        }
        self.refresh(pool)?;
        match self.volume(pool, volume)? {
            info if info.state == VolumeState::Inactive => Err(BackendError::Refused(format!(
                "the volume '{volume}' of the pool '{}' has no device",
                pool.name
            ))
            .into()),
            info => Ok(info),
        }
    }

    pub(crate) fn active_name(&self, pool: &StoragePool) -> Result<PoolName, DriverError> {
        self.settle(Uuid::from_bytes(pool.uuid.0));
        self.look(pool, |entry| {
            entry.need_active()?;
            Ok(entry.definition.name.clone())
        })
    }

    pub(crate) fn find(&self, pool: &PoolName, name: &str) -> Result<VolumeInfo, DriverError> {
        let missing = || DriverError::NoVolume(name.to_owned());
        // A name that no volume can have is one that no volume has.
        let volume: VolumeName = name.parse().map_err(|_| missing())?;
        self.backend.volume(pool, &volume).map_err(|error| match error {
            BackendError::NoVolume { .. } => missing(),
            other => other.into(),
        })
    }

    /// A volume that no call that takes long is at work with.
    pub(crate) fn free_volume(
        &self,
        pool: &StoragePool,
        name: &str,
    ) -> Result<(PoolName, VolumeInfo), DriverError> {
        let pool_name = self.active_name(pool)?;
        let info = self.find(&pool_name, name)?;
        self.look(pool, |entry| entry.need_free(&info.name))?;
        Ok((pool_name, info))
    }

    /// Marks a volume as busy.
    pub(crate) fn begin(
        &self,
        pool: &StoragePool,
        name: &str,
    ) -> Result<(PoolName, Busy<'_>), DriverError> {
        let (pool_name, info) = self.free_volume(pool, name)?;
        let uuid = Uuid::from_bytes(pool.uuid.0);
        let mut registry = self.registry();
        if let Some(entry) = registry.get_mut(uuid) {
            // Checked again: another call may have begun since.
            entry.need_free(&info.name)?;
            entry.busy.insert(info.name.clone());
        }
        drop(registry);
        Ok((pool_name, Busy { driver: self, pool: uuid, volume: info.name }))
    }

    /// Marks the name of a volume that is to be made as busy.
    fn begin_new(
        &self,
        pool: &StoragePool,
        name: &VolumeName,
    ) -> Result<(PoolName, Busy<'_>), DriverError> {
        let pool_name = self.active_name(pool)?;
        let uuid = Uuid::from_bytes(pool.uuid.0);
        if let Some(entry) = self.registry().get_mut(uuid) {
            // A volume of this name is being made.
            if !entry.busy.insert(name.clone()) {
                return Err(DriverError::VolumeExists(name.to_string()));
            }
        }
        Ok((pool_name, Busy { driver: self, pool: uuid, volume: name.clone() }))
    }

    /// Marks a volume as busy, if it is the one with that UUID: while it is marked, no client can delete it and make
    /// another of its name.
    fn begin_that(
        &self,
        pool: &StoragePool,
        name: &str,
        uuid: &Uuid,
    ) -> Result<(PoolName, VolumeInfo, Busy<'_>), DriverError> {
        let (pool_name, busy) = self.begin(pool, name)?;
        let info = self.find(&pool_name, name)?;
        match info.uuid == *uuid {
            true => Ok((pool_name, info, busy)),
            false => Err(DriverError::NoVolumeKey(uuid.to_string())),
        }
    }

    /// How clients name a volume.
    #[must_use]
    pub fn volume_handle(volume: &VolumeInfo) -> StorageVol {
        StorageVol {
            pool: volume.pool.to_string(),
            name: volume.name.to_string(),
            key: volume.uuid.hyphenated().to_string(),
        }
    }

    /// The pool of that name, for the hook and for D-Bus.
    #[must_use]
    pub fn pool_named(&self, name: &PoolName) -> Option<StoragePool> {
        self.registry().by_name(name.as_str()).map(|entry| handle(&entry.definition))
    }
}

/// The refusal to delete a volume alone.
fn has_snapshots(volume: &VolumeName, snapshots: &[VolumeInfo]) -> DriverError {
    let mut names: Vec<&str> = snapshots.iter().take(3).map(|s| s.name.as_str()).collect();
    if snapshots.len() > names.len() {
        names.push("…");
    }
    DriverError::HasSnapshots { volume: volume.to_string(), snapshots: names.join(", ") }
}

/// libvirt's own words for errors about volumes.
pub(crate) fn named(error: BackendError, volume: &VolumeName) -> DriverError {
    match error {
        BackendError::VolumeExists { .. } => DriverError::VolumeExists(volume.to_string()),
        BackendError::VolumeInUse(_) => DriverError::VolumeInUse(volume.to_string()),
        BackendError::NoVolume { .. } => DriverError::NoVolume(volume.to_string()),
        other => other.into(),
    }
}

fn check_sizes(capacity: Bytes, allocation: Option<Bytes>) -> Result<(), DriverError> {
    if capacity == Bytes::ZERO {
        let reason = "a volume needs a size".to_owned();
        return Err(BackendError::Capacity { capacity, reason }.into());
    }
    match allocation {
        Some(allocation) if allocation > capacity => Err(DriverError::Argument(format!(
            "an allocation of {} bytes is more than the capacity of {} bytes",
            allocation.0, capacity.0
        ))),
        _ => Ok(()),
    }
}

fn new_capacity(info: &VolumeInfo, asked: Bytes, flags: u32) -> Result<Bytes, DriverError> {
    let shrink = flags & RESIZE_SHRINK != 0;
    let capacity = match (flags & RESIZE_DELTA != 0, shrink) {
        (false, _) => asked,
        (true, true) => info.capacity.saturating_sub(asked),
        (true, false) => {
            let sum = info.capacity.checked_add(asked);
            sum.ok_or_else(|| DriverError::Overflow("the new capacity is too large".to_owned()))?
        }
    };
    if capacity < info.capacity && capacity < info.allocation {
        let text = "can't shrink capacity below existing allocation";
        return Err(DriverError::Argument(text.to_owned()));
    }
    if capacity < info.capacity && !shrink {
        let text = "Can't shrink capacity below current capacity unless shrink flag explicitly \
                    specified";
        return Err(DriverError::Argument(text.to_owned()));
    }
    check_sizes(capacity, None)?;
    Ok(capacity)
}

fn apply(permissions: &Permissions, path: &Path) -> Result<(), DriverError> {
    let failed = |what: &'static str| {
        let path = path.to_owned();
        move |source| DriverError::Permissions { what, path, source }
    };
    if permissions.owner.is_some() || permissions.group.is_some() {
        chown(path, permissions.owner, permissions.group).map_err(failed("the owner"))?;
    }
    if let Some(mode) = permissions.mode {
        fs::set_permissions(path, Mode::from_mode(mode)).map_err(failed("the mode"))?;
    }
    Ok(())
}

/// Resolves the path of a device, and only where root alone makes names: a way out of `/dev`, or a link that a user
/// made in a file system mounted there, may end at a dead network mount, and the call would hang.
fn device_of(path: &Path) -> Option<PathBuf> {
    let root = Path::new("/dev");
    let parts = path.strip_prefix(root).ok()?.components();
    if parts.clone().any(|part| part == Component::ParentDir) {
        return None;
    }
    let file_system = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    if file_system(&root.join(parts.clone().next()?))? != file_system(root)? {
        return None;
    }
    fs::canonicalize(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_devices_are_resolved() {
        let null = Some(PathBuf::from("/dev/null"));
        assert_eq!(device_of(Path::new("/dev/null")), null);
        assert_eq!(device_of(Path::new("/dev/./null")), null);
        let made = tempfile::tempdir_in("/dev/shm").unwrap();
        let link = made.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for elsewhere in [Path::new("/dev/../dev/null"), Path::new("/dev/pts/../null"), &link] {
            assert_eq!(device_of(elsewhere), None, "{}", elsewhere.display());
        }
        for no_device in ["/dev", "/etc/passwd", "/dev/nothing-there", "dev/null"] {
            assert_eq!(device_of(Path::new(no_device)), None, "{no_device}");
        }
    }
}
