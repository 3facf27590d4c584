// SPDX-License-Identifier: LGPL-2.1-or-later
//! Answers what other processes ask about the pools that this one serves: words become types, and errors
//! their kinds.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;
use uuid::Uuid;
use virtnotify_driver::xml::{Permissions, VolumeDefinition};
use virtnotify_driver::{Driver, DriverError, end_receiving, group_of, is_receiving};
use virtnotify_engine::repair::{DumpFrom, Repair, RepairError, RestoreFrom, RestoreRequest};
use virtnotify_model::{
    Backend, BackendError, Bytes, Checked, Event, EventBus, Guest, JobInfo, NameError, NewVolume,
    PoolName, PoolState, Pools, RestoreWords, SnapshotName, Storage, StorageError, Task, VgName,
    VolumeExtent, VolumeInfo, VolumeName, VolumeStats,
};
use virtnotify_wire::{StoragePool, StorageVol};

/// The most volumes that can be left out by name.
const MOST_WITHOUT: usize = 1024;

/// The pools of this process.
pub struct Local {
    /// The pools by definition.
    pub driver: Arc<Driver>,
    /// The pools that are active.
    pub backend: Arc<dyn Backend>,
    /// Check, dump and restore.
    pub repair: Arc<dyn Repair>,
    /// Where the pools' definitions are.
    pub definitions: PathBuf,
    /// Where the notes about volumes that are received are.
    pub received: PathBuf,
    /// Where events are published.
    pub events: EventBus,
}

impl Local {
    fn named(&self, pool: &PoolName) -> Result<StoragePool, StorageError> {
        self.driver.pool_named(pool).ok_or_else(|| no_pool(pool.as_str()))
    }

    /// The volume group of a pool, or the one of that name.
    fn group(&self, what: &str) -> Result<VgName, StorageError> {
        let pool: Option<PoolName> = what.parse().ok();
        let active = pool.as_ref().and_then(|pool| self.repair.group_of(pool));
        let defined = || group_of(&self.definitions, pool.as_ref()?);
        match active.or_else(defined) {
            Some(group) => Ok(group),
            None => what.parse().map_err(|_| no_pool(what)),
        }
    }

    /// A volume that is half received has neither its old content nor the one that was sent.
    fn ensure_received(&self, paths: &[String]) -> Result<(), StorageError> {
        for (pool, volume) in paths.iter().filter_map(|path| VolumeName::in_path(path)?.ok()) {
            let Ok(info) = self.backend.volume(&pool, &volume) else { continue };
            let unread = |e| {
                let text = format!("it is not known whether '{volume}' is received: {e}");
                StorageError::Failed(text)
            };
            if is_receiving(&self.received, info.uuid).map_err(unread)? {
                return Err(StorageError::Failed(format!(
                    "'{pool}/{volume}' is being received, or was when that was broken off: 'virt-notify \
                     snapshot rollback' to the snapshot that it stood on makes it whole"
                )));
            }
        }
        Ok(())
    }

    fn warn_of_cache(&self, guest: &Guest) {
        let is_ours = |path: &&String| {
            let named = VolumeName::in_path(path).and_then(Result::ok);
            named.is_some_and(|(pool, volume)| self.backend.volume(&pool, &volume).is_ok())
        };
        let ours: Vec<&str> = guest.cached.iter().filter(is_ours).map(String::as_str).collect();
        if ours.is_empty() {
            return;
        }
        let what = format!(
            "its disk on {} has neither cache='none' nor cache='directsync': when the pool is full, \
             the guest gets I/O errors instead of being paused",
            ours.join(", ")
        );
        warn!("'{}': {what}", guest.name.escape_debug());
        self.events.emit(Event::Warning { domain: guest.name.clone(), what });
    }
}

fn no_pool(name: &str) -> StorageError {
    StorageError::NotFound(format!("there is no pool '{}'", name.escape_debug()))
}

fn of_backend(error: BackendError) -> StorageError {
    use StorageError as To;
    let text = error.to_string();
    match error {
        BackendError::PoolNotActive(_) => To::NotFound(text),
        BackendError::NoVolume { .. } => To::NoVolume(text),
        BackendError::VolumeInUse(_) => To::InUse(text),
        BackendError::VolumeExists { .. } => To::AlreadyExists(text),
        BackendError::NoSpace { .. } => To::NoSpace(text),
        BackendError::Name(_) | BackendError::Unit(_) | BackendError::Capacity { .. } => {
            To::InvalidArgument(text)
        }
        BackendError::PoolActive(_)
        | BackendError::Source(_)
        | BackendError::Refused(_)
        | BackendError::Unsupported(_)
        | BackendError::Damaged { .. }
        | BackendError::Failed { .. } => To::Failed(text),
    }
}

fn of_driver(error: DriverError) -> StorageError {
    use DriverError as E;
    use StorageError as To;
    let text = error.to_string();
    match error {
        E::Backend(error) => of_backend(error),
        E::NoVolume(_) | E::NoVolumeKey(_) => To::NoVolume(text),
        E::NoPoolUuid(_)
        | E::NoPool { .. }
        | E::NoPoolName(_)
        | E::NoPoolTarget(_)
        | E::NotActive(_)
        | E::NoVolumePath(_)
        | E::VolumeGone { .. } => To::NotFound(text),
        E::Argument(_) | E::NoSnapshot(_) | E::SnapshotName { .. } | E::Xml(_) => {
            To::InvalidArgument(text)
        }
        // libvirt's own words are the name alone.
        E::VolumeExists(name) => To::AlreadyExists(format!("there is a volume '{name}' already")),
        E::NoRoom => To::NoSpace(text),
        E::VolumeInUse(_) | E::RollBackInUse(_) | E::HasSnapshots { .. } => To::InUse(text),
        _ => To::Failed(text),
    }
}

fn of_repair(error: RepairError) -> StorageError {
    match error {
        RepairError::Damaged(text) => StorageError::Damaged(text),
        RepairError::Refused(text) => StorageError::Failed(text),
        RepairError::Newer(_) | RepairError::File(_) => StorageError::Failed(error.to_string()),
        RepairError::Cannot(error) => of_backend(error),
    }
}

fn wrong(what: impl std::fmt::Display) -> StorageError {
    StorageError::InvalidArgument(what.to_string())
}

impl Pools for Local {
    fn runs(&self) -> bool {
        true
    }

    fn pools(&self) -> Vec<PoolState> {
        let state = |(name, uuid, vg): (PoolName, _, _)| PoolState {
            // One that ends meanwhile is simply not active.
            info: self.backend.pool_info(&name).ok(),
            policy: self.backend.policy(&name).ok(),
            damaged: self.backend.is_damaged(&name),
            name,
            uuid,
            vg,
        };
        self.driver.definitions().into_iter().map(state).collect()
    }

    fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, StorageError> {
        self.backend.volumes(pool).map_err(of_backend)
    }

    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, StorageError> {
        self.backend.volume(pool, volume).map_err(of_backend)
    }

    fn volume_stats(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<VolumeStats, StorageError> {
        self.backend.volume_stats(pool, volume).map_err(of_backend)
    }

    fn delete_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), StorageError> {
        self.backend.delete_this_volume(pool, volume, uuid).map_err(of_backend)
    }
}

impl Storage for Local {
    /// Here nothing is ever old.
    fn catch_up(&self) {}

    fn jobs(&self) -> Vec<JobInfo> {
        self.backend.jobs()
    }

    fn start_job(&self, pool: &PoolName, task: &Task) -> Result<u64, StorageError> {
        self.backend.start_job(pool, task).map_err(of_backend)
    }

    fn cancel_job(&self, id: u64) -> Result<(), StorageError> {
        self.backend.cancel_job(id).map_err(of_backend)
    }

    fn prepare_write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), StorageError> {
        self.backend.prepare_write(pool, volume, offset, length).map_err(of_backend)
    }

    fn set_policy(
        &self,
        pool: &PoolName,
        settings: &[(String, String)],
    ) -> Result<(), StorageError> {
        self.driver.set_policy(&self.named(pool)?, settings).map_err(of_driver)
    }

    fn create_volume(&self, pool: &PoolName, new: &NewVolume) -> Result<VolumeInfo, StorageError> {
        let of = self.named(pool)?;
        let allocation = Some(new.allocation).filter(|size| *size != Bytes::ZERO);
        let wanted = VolumeDefinition {
            name: new.name.clone(),
            capacity: new.capacity,
            allocation,
            backing: None,
            permissions: Permissions::default(),
        };
        let backing = new.backing.as_ref().map(|(name, uuid)| (name, uuid));
        self.driver.create_described(&of, &wanted, backing).map_err(of_driver)
    }

    fn resize_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
        capacity: Bytes,
        shrink: bool,
    ) -> Result<(), StorageError> {
        let (pool, name, key) = (pool.to_string(), volume.to_string(), uuid.to_string());
        let handle = StorageVol { pool, name, key };
        self.driver.set_capacity(&handle, uuid, capacity, shrink).map_err(of_driver)
    }

    fn remove_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
        snapshots: bool,
    ) -> Result<(), StorageError> {
        let (pool, name, key) = (pool.to_string(), volume.to_string(), uuid.to_string());
        let deleted =
            self.driver.delete_that_volume(&StorageVol { pool, name, key }, uuid, snapshots);
        deleted.map_err(of_driver)
    }

    fn refresh_pool(&self, pool: &PoolName) -> Result<(), StorageError> {
        self.driver.refresh(&self.named(pool)?).map_err(of_driver)
    }

    fn ensure_active(&self, paths: &[String]) -> Result<(), StorageError> {
        for path in paths {
            match self.driver.ensure_active(path) {
                // At the destination of a migration, libvirt makes the volume only after this; and
                // when a VM starts without one, libvirt says so itself.
                Err(
                    DriverError::NoVolume(_) | DriverError::Backend(BackendError::NoVolume { .. }),
                ) => {}
                other => drop(other.map_err(of_driver)?),
            }
        }
        Ok(())
    }

    fn guest_starts(&self, guest: &Guest) -> Result<(), StorageError> {
        self.ensure_active(&guest.volumes)?;
        self.ensure_received(&guest.volumes)?;
        self.warn_of_cache(guest);
        Ok(())
    }

    fn take_snapshot(
        &self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, StorageError> {
        self.driver.take_snapshot(&self.named(pool)?, volumes, name).map_err(of_driver)
    }

    /// What was half received is gone then.
    fn roll_back(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), StorageError> {
        self.driver.roll_back(&self.named(pool)?, snapshot).map_err(of_driver)?;
        let Some((volume, _)) = snapshot.snapshot() else { return Ok(()) };
        let rolled_back = self.volume(pool, &volume)?;
        let kept = |e| format!("'{volume}' is rolled back, and its note stays: {e}");
        let ended = end_receiving(&self.received, rolled_back.uuid);
        ended.map_err(|e| StorageError::Failed(kept(e)))
    }

    fn delete_snapshot(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), StorageError> {
        self.driver.delete_snapshot(&self.named(pool)?, snapshot).map_err(of_driver)
    }

    fn difference(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<(Bytes, Vec<VolumeExtent>), StorageError> {
        self.driver.difference(&self.named(pool)?, volume, base).map_err(of_driver)
    }

    fn check(&self, what: &str) -> Result<Checked, StorageError> {
        let checked = self.repair.check(&self.group(what)?).map_err(of_repair)?;
        Ok(checked.into_plain())
    }

    fn dump(&self, what: &str, from: &str) -> Result<String, StorageError> {
        let from = match from {
            "metadata" => DumpFrom::Metadata,
            "kernel" => DumpFrom::Kernel,
            "backup" => DumpFrom::Backup,
            other => {
                let other = other.escape_debug();
                return Err(wrong(format!(
                    "a map is in 'metadata', 'kernel' or 'backup', not in '{other}'"
                )));
            }
        };
        self.repair.dump(&self.group(what)?, from).map_err(of_repair)
    }

    fn restore(&self, words: &RestoreWords) -> Result<Vec<String>, StorageError> {
        let request = restore_request(words)?;
        Ok(self.repair.restore(&request).map_err(of_repair)?.0)
    }

    fn set_drained(&self, drained: bool) -> Result<(), StorageError> {
        self.driver.set_drained(drained);
        Ok(())
    }
}

fn restore_request(words: &RestoreWords) -> Result<RestoreRequest, StorageError> {
    let vg = words.vg.parse().map_err(|e: NameError| wrong(e))?;
    let from = match words.from.as_str() {
        "map" => RestoreFrom::Text(words.map.clone()),
        "backup" => RestoreFrom::Backup,
        "kernel" => RestoreFrom::Kernel,
        other => {
            let other = other.escape_debug();
            return Err(wrong(format!("restore from 'map', 'backup' or 'kernel', not '{other}'")));
        }
    };
    if words.without.len() > MOST_WITHOUT {
        return Err(wrong(format!("more than {MOST_WITHOUT} volumes to leave out")));
    }
    let without = words.without.iter().map(|name| name.parse()).collect::<Result<_, _>>();
    let without = without.map_err(|e: NameError| wrong(e))?;
    let mut request =
        RestoreRequest { vg, from, without, force: false, no_archive: false, dry_run: false };
    for option in &words.options {
        match option.as_str() {
            "force" => request.force = true,
            "no-archive" => request.no_archive = true,
            "dry-run" => request.dry_run = true,
            other => return Err(wrong(format!("there is no option '{}'", other.escape_debug()))),
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]

    // Not ours: the one that was built for tests of others, of which this is the source.
    use virtnotifyd::fake::FakeStorage;

    use super::*;

    #[test]
    fn pools_are_found_by_their_names_and_by_their_groups() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FakeStorage::new(directory.path(), "").local;
        let vg = |what: &str| storage.check(what).map(|checked| checked.1);
        assert_eq!(vg("vms").unwrap(), "vg0");
        assert_eq!(vg("vg7").unwrap(), "vg7");
        assert!(matches!(vg("a/b"), Err(StorageError::NotFound(_))));
        let dump = |from: &str| storage.dump("vms", from);
        assert!(matches!(dump("metadata"), Err(StorageError::Damaged(_))));
        assert!(matches!(dump("tape"), Err(StorageError::InvalidArgument(_))));
        let restore = |from: &str, without: &str, option: &str| {
            let (vg, from, map) = ("vg0".into(), from.into(), String::new());
            let (without, options) = (vec![without.into()], vec![option.into()]);
            storage.restore(&RestoreWords { vg, from, map, without, options })
        };
        assert!(matches!(restore("backup", "disk0", "force"), Err(StorageError::Failed(_))));
        for (from, without, option) in
            [("tape", "a", "force"), ("map", "a/b", "force"), ("map", "a", "--yes")]
        {
            let refused = restore(from, without, option);
            assert!(matches!(refused, Err(StorageError::InvalidArgument(_))));
        }
    }

    fn storage(directory: &std::path::Path) -> (FakeStorage, PoolName) {
        (FakeStorage::new(directory, "<notify:full action='pause'/>"), "vms".parse().unwrap())
    }

    #[test]
    fn a_policy_is_changed_at_once_and_for_good_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let (fake, pool) = storage(directory.path());
        let set = |all: &[(&str, &str)]| {
            let all = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            fake.local.set_policy(&pool, &all.collect::<Vec<_>>())
        };
        let now = || {
            let definition = directory.path().join("d/vms.xml");
            let policy = fake.local.policy(&pool).unwrap();
            (policy, std::fs::read_to_string(definition).unwrap())
        };
        let before = now();
        assert_eq!(before.0.when_full, virtnotify_model::WhenFull::Pause);
        for wrong in [("lowmark", "1"), ("low-mark", "101%"), ("growth-most", "1x")] {
            let refused = set(&[("when-full", "error"), wrong]);
            assert!(matches!(refused, Err(StorageError::InvalidArgument(_))), "{refused:?}");
            assert_eq!(now(), before);
        }
        set(&[("low-mark", "20%"), ("movable", "no")]).unwrap();
        let after = now();
        assert_eq!(after.0.when_full, virtnotify_model::WhenFull::Pause, "it stays");
        assert!(!after.0.movable);
        assert!(after.1.contains("unit='%' action='warn'>20<"), "{}", after.1);
        let none: PoolName = "none".parse().unwrap();
        let refused = fake.local.set_policy(&none, &[]);
        assert!(matches!(refused, Err(StorageError::NotFound(_))));
    }

    #[test]
    fn volumes_are_made_cloned_and_resized() {
        let directory = tempfile::tempdir().unwrap();
        let (fake, pool) = storage(directory.path());
        let uuid = |name: &str| {
            let volume = fake.local.volume(&pool, &name.parse().unwrap());
            volume.map_or(Uuid::nil(), |volume| volume.uuid)
        };
        let new = |name: &str, mib: Option<u64>, backing: Option<&str>| NewVolume {
            name: name.parse().unwrap(),
            capacity: mib.map(Bytes::mib),
            allocation: Bytes::ZERO,
            backing: backing.map(|name| (name.parse().unwrap(), uuid(name))),
        };
        let make = |new| fake.local.create_volume(&pool, &new);
        assert_eq!(make(new("a", Some(8), None)).unwrap().capacity, Bytes::mib(8));
        let clone = make(new("b", None, Some("disk0"))).unwrap();
        assert_eq!((clone.capacity, clone.allocation), (Bytes::mib(64), Bytes::ZERO));
        assert_eq!(clone.backing, Some("disk0".parse().unwrap()));
        assert_eq!(make(new("c", Some(80), Some("disk0"))).unwrap().capacity, Bytes::mib(80));
        let refused = make(new("a", Some(8), None)).unwrap_err();
        assert_eq!(refused, StorageError::AlreadyExists("there is a volume 'a' already".into()));
        let full = NewVolume { allocation: Bytes::mib(4096), ..new("d", Some(4096), None) };
        assert!(matches!(make(full), Err(StorageError::NoSpace(_))));
        for wrong in
            [new("d", None, None), new("d", Some(0), None), new("d", Some(8), Some("disk0"))]
        {
            assert!(matches!(make(wrong), Err(StorageError::InvalidArgument(_))));
        }
        let other = Some(("disk0".parse().unwrap(), Uuid::nil()));
        for wrong in
            [new("d", None, Some("none")), NewVolume { backing: other, ..new("d", None, None) }]
        {
            assert!(matches!(make(wrong), Err(StorageError::NoVolume(_))));
        }
        let a = "a".parse().unwrap();
        let resize_that = |uuid: Uuid, mib, shrink| {
            fake.local.resize_volume(&pool, &a, &uuid, Bytes::mib(mib), shrink)
        };
        let resize = |mib, shrink| resize_that(uuid("a"), mib, shrink);
        assert!(matches!(resize_that(Uuid::nil(), 4, true), Err(StorageError::NoVolume(_))));
        assert_eq!(fake.local.volume(&pool, &a).unwrap().capacity, Bytes::mib(8));
        resize(16, false).unwrap();
        assert!(matches!(resize(4, false), Err(StorageError::InvalidArgument(_))));
        assert_eq!(fake.local.volume(&pool, &a).unwrap().capacity, Bytes::mib(16));
        resize(4, true).unwrap();
        assert_eq!(fake.local.volume(&pool, &a).unwrap().capacity, Bytes::mib(4));
        let none = "none".parse().unwrap();
        let refused = fake.local.resize_volume(&pool, &none, &Uuid::nil(), Bytes::mib(4), false);
        assert!(matches!(refused, Err(StorageError::NoVolume(_))));
    }

    #[test]
    fn only_the_volume_that_is_meant_is_removed_and_its_snapshots_when_that_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let (fake, pool) = storage(directory.path());
        let disk0: VolumeName = "disk0".parse().unwrap();
        let taken = std::slice::from_ref(&disk0);
        fake.local.take_snapshot(&pool, taken, &"mon".parse().unwrap()).unwrap();
        let uuid = fake.local.volume(&pool, &disk0).unwrap().uuid;
        let remove = |uuid: Uuid, with| fake.local.remove_volume(&pool, &disk0, &uuid, with);
        let left = || fake.local.volumes(&pool).unwrap().len();
        assert!(matches!(remove(Uuid::nil(), true), Err(StorageError::NoVolume(_))));
        assert!(matches!(remove(uuid, false), Err(StorageError::InUse(_))));
        assert_eq!(left(), 2);
        remove(uuid, true).unwrap();
        assert_eq!(left(), 0);
        assert!(matches!(remove(uuid, true), Err(StorageError::NoVolume(_))));
    }

    #[test]
    fn no_guest_starts_with_what_is_half_received_until_it_is_rolled_back() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FakeStorage::new(directory.path(), "").local;
        let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
        let mon = "mon".parse().unwrap();
        storage.take_snapshot(&pool, std::slice::from_ref(&volume), &mon).unwrap();
        let uuid = storage.volume(&pool, &volume).unwrap().uuid;
        let start = |paths: &[&str]| {
            let volumes = paths.iter().map(|path| (*path).to_owned()).collect();
            storage.guest_starts(&Guest { name: "guest".into(), volumes, cached: Vec::new() })
        };
        start(&["vms/disk0", "/dev/notify/vms/disk0"]).unwrap();
        virtnotify_driver::begin_receiving(&storage.received, uuid).unwrap();
        for path in ["vms/disk0", "/dev/notify/vms/disk0"] {
            let refused = start(&["default/x", path]).unwrap_err().to_string();
            assert!(refused.contains("'vms/disk0' is being received"), "{refused}");
        }
        let snapshot = "disk0@mon".parse().unwrap();
        storage.roll_back(&pool, &snapshot).unwrap();
        start(&["vms/disk0"]).unwrap();
        // There is nothing to be ended.
        storage.roll_back(&pool, &snapshot).unwrap();
    }

    #[test]
    fn a_cache_mode_that_loses_the_pause_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let fake = FakeStorage::new(directory.path(), "");
        let mut events = fake.events.subscribe();
        let of = |cached: &str| {
            let (volumes, cached) = (vec!["vms/disk0".into()], vec![cached.into()]);
            fake.local.guest_starts(&Guest { name: "guest".into(), volumes, cached }).unwrap();
        };
        of("default/x");
        assert!(events.try_recv().is_err());
        of("vms/disk0");
        let Event::Warning { domain, what } = events.try_recv().unwrap() else { panic!() };
        assert_eq!(domain, "guest");
        assert!(what.starts_with("its disk on vms/disk0 has neither"), "{what}");
    }
}
