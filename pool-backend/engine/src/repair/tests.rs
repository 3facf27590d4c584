// SPDX-License-Identifier: LGPL-2.1-or-later
//! Check, dump and restore over an LVM and a device mapper in memory.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use uuid::Uuid;
use virtnotify_model::{Backend, Bytes, ChunkSize, EventBus, PoolSpec, VolumeInfo, VolumeSpec};

use super::text::Description;
use super::*;
use crate::Engine;
use crate::alloc::Place;
use crate::device::BlockDevice;
use crate::meta::{DATA_START, JOURNAL_START, Superblock};
use crate::names::{META_LV, TAG_NEW, data_lv};
use crate::target::Target;
use crate::testing::{FakeLvm, FakeTarget, device_of, parts};

const CHUNK: u64 = 256 << 10;

struct House {
    dir: tempfile::TempDir,
    lvm: Arc<FakeLvm>,
    target: Arc<FakeTarget>,
    engine: Arc<Engine>,
}

fn spec() -> PoolSpec {
    PoolSpec {
        name: "vms".parse().unwrap(),
        uuid: Uuid::nil(),
        vg: vg(),
        devices: Vec::new(),
        chunk: ChunkSize::new(Bytes(CHUNK)).unwrap(),
        policy: virtnotify_model::Policy::default(),
    }
}

fn vg() -> VgName {
    "vg0".parse().unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn request(from: RestoreFrom) -> RestoreRequest {
    let (without, vg) = (Vec::new(), vg());
    RestoreRequest { vg, from, without, force: false, no_archive: false, dry_run: false }
}

impl House {
    /// A started pool with two volumes that have data.
    fn new() -> Self {
        let house = Self::empty();
        for (name, chunks) in [("a", [0, 1, 9, 5]), ("b", [3, 4, 40, 2])] {
            let disk = house.create(name);
            for chunk in chunks {
                assert!(house.target.write(&device_of(disk.uuid), chunk));
            }
        }
        house
    }

    fn empty() -> Self {
        let lvm = FakeLvm::new(Bytes::mib(64), Bytes::mib(1));
        let (dir, target) = (tempfile::tempdir().unwrap(), Arc::new(FakeTarget::default()));
        let engine = Engine::with_parts(parts(dir.path(), &lvm, &target, &EventBus::new()));
        let house = Self { dir, lvm, target, engine: engine.unwrap() };
        house.start();
        house
    }

    fn start(&self) {
        self.engine.start_pool(&spec()).unwrap();
    }

    fn stop(&self) {
        self.engine.stop_pool(&spec().name).unwrap();
    }

    fn create(&self, name: &str) -> VolumeInfo {
        let (name, capacity) = (name.parse().unwrap(), Bytes::mib(16));
        let spec = VolumeSpec {
            name,
            capacity,
            allocation: Bytes::ZERO,
            uuid: Uuid::new_v4(),
            backing: None,
        };
        self.engine.create_volume(&super::tests::spec().name, &spec).unwrap()
    }

    fn backup(&self) -> Option<Description> {
        let entries = fs::read_dir(self.dir.path().join("maps")).ok()?.flatten();
        let path = entries.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "backup"));
        fs::read_to_string(path?).ok()?.parse().ok()
    }

    fn check(&self) -> CheckReport {
        self.engine.check(&vg()).unwrap()
    }

    fn map(&self, from: DumpFrom) -> Description {
        self.engine.dump(&vg(), from).unwrap().parse().unwrap()
    }

    fn restore(&self, from: RestoreFrom) -> Result<Restored, RepairError> {
        self.engine.restore(&request(from))
    }

    /// The metadata is gone.
    fn wipe(&self) {
        self.lvm.disk(META_LV).damage(0, |bytes| bytes.fill(0));
    }
}

impl Drop for House {
    /// A thread of the pool that lives on would make the directory again.
    fn drop(&mut self) {
        self.engine.halt();
    }
}

/// The volumes of a map by name, whatever their numbers are.
fn by_name(map: &Description) -> Vec<(String, Uuid, Bytes, Vec<crate::alloc::Run>)> {
    let shown = |(row, map): (&crate::meta::VolumeRow, crate::alloc::VolumeMap)| {
        (row.name.to_string(), row.uuid, row.capacity, map.iter().collect())
    };
    let mut rows: Vec<_> = map.contents.maps().unwrap().into_iter().map(shown).collect();
    rows.sort();
    rows
}

fn figure(report: &CheckReport, name: &str) -> u64 {
    let found = report.figures.iter().find(|(figure, _)| *figure == name);
    found.unwrap_or_else(|| panic!("no figure '{name}'")).1
}

#[test]
fn a_backup_follows_the_volumes_and_is_complete_when_the_pool_stops() {
    let house = House::empty();
    eventually("a first backup", || house.backup().is_some_and(|b| b.contents.volumes.is_empty()));
    let disk = house.create("a");
    eventually("the volume", || house.backup().is_some_and(|b| b.contents.volumes.len() == 1));
    for chunk in [7, 3] {
        assert!(house.target.write(&device_of(disk.uuid), chunk));
    }
    house.stop();
    let backup = house.backup().unwrap();
    let row = &backup.contents.volumes[&1];
    let (_, runs) = &backup.contents.layers[&row.layer];
    assert_eq!((row.name.as_str(), row.uuid, row.capacity), ("a", disk.uuid, Bytes::mib(16)));
    let chunks: u64 = runs.iter().map(|run| run.to.length).sum();
    assert!(chunks >= 2, "{backup}");
    assert_eq!(by_name(&house.map(DumpFrom::Metadata)), by_name(&backup));
    assert_eq!(house.check().findings, []);
}

#[test]
fn a_backup_that_cannot_be_written_holds_nothing_up() {
    let house = House::empty();
    house.stop();
    fs::remove_dir_all(house.dir.path().join("maps")).unwrap();
    fs::write(house.dir.path().join("maps"), "").unwrap();
    house.start();
    let disk = house.create("a");
    assert!(house.target.write(&device_of(disk.uuid), 3));
    house.stop();
    let report = house.check();
    assert_eq!(report.worst(), Some(Severity::Warning), "{report:?}");
}

#[test]
fn metadata_of_a_newer_program_is_not_damaged() {
    let house = House::new();
    house.stop();
    let disk = house.lvm.disk(META_LV);
    let mut superblock = Superblock::newest(Superblock::copies(disk.as_ref()).unwrap()).unwrap();
    superblock.features.incompatible = 1 << 40;
    for _ in 0..2 {
        superblock.sequence += 1;
        superblock.store(disk.as_ref()).unwrap();
    }
    let report = house.check();
    assert_eq!(report.worst(), Some(Severity::Warning), "{report:?}");
    let error = house.engine.start_pool(&spec()).unwrap_err().to_string();
    assert!(
        error.contains("which this program does not know") && !error.contains("restore"),
        "{error}"
    );
    let refused = house.restore(RestoreFrom::Backup).unwrap_err().to_string();
    assert!(refused.contains("is not damaged") && refused.contains("--force"), "{refused}");
    let forced = RestoreRequest { force: true, ..request(RestoreFrom::Backup) };
    house.engine.restore(&forced).unwrap();
    house.start();
    assert_eq!(house.check().findings, []);
}

#[test]
fn a_pool_that_is_well_has_an_account_that_adds_up() {
    let house = House::new();
    eventually("a backup", || house.backup().is_some());
    let report = house.check();
    assert_eq!(report.findings, []);
    assert!(report.started && report.name == "vms");
    let parts = ["mapped", "clean", "dirty", "cut-off", "metadata", "others", "free"];
    let sum: u64 = parts.iter().map(|name| figure(&report, name)).sum();
    assert_eq!(sum, figure(&report, "size"));
    assert_eq!((figure(&report, "volumes-count"), figure(&report, "devices-count")), (2, 2));
    assert_eq!(by_name(&house.map(DumpFrom::Metadata)), by_name(&house.map(DumpFrom::Kernel)));
    house.stop();
    let report = house.check();
    assert_eq!((report.findings.len(), report.started), (0, false), "{report:?}");
}

#[test]
fn a_check_beside_writers_finds_nothing() {
    let house = House::empty();
    let disk = device_of(house.create("a").uuid);
    std::thread::scope(|scope| {
        let target = &house.target;
        let writer = scope.spawn(move || (0..60).all(|chunk| target.write(&disk, chunk)));
        while !writer.is_finished() {
            let report = house.check();
            assert_ne!(report.worst(), Some(Severity::Damage), "{report:?}");
        }
        assert!(writer.join().unwrap());
    });
}

#[test]
fn what_the_kernel_has_too_much_is_damage() {
    let house = House::new();
    let a = house.engine.volume(&spec().name, &"a".parse().unwrap()).unwrap();
    house.target.change(&device_of(a.uuid), |device| {
        let mut run = device.map.remove(9, 1)[0];
        run.at = 30;
        device.map.insert(run).unwrap();
    });
    let report = house.check();
    assert_eq!(report.worst(), Some(Severity::Damage));
    assert!(report.findings[0].text.contains("the kernel has chunk 30 of 'a'"), "{report:?}");
}

#[test]
fn groups_without_a_pool_and_pools_half_made_are_told_apart() {
    let house = House::empty();
    house.stop();
    let codes = |house: &House| -> Vec<&str> {
        house.check().findings.iter().map(|finding| finding.code).collect()
    };
    house.lvm.change(|report| report.lvs[0].tags.push(TAG_NEW.into()));
    assert_eq!(codes(&house), ["half-made"]);
    house.lvm.change(|report| report.lvs[0].tags.clear());
    assert_eq!(codes(&house), ["tag"]);
    house.lvm.change(|report| report.lvs.retain(|lv| lv.name != META_LV));
    assert_eq!(codes(&house), ["metadata-gone"]);
    house.lvm.change(|report| {
        report.lvs.clear();
        report.tags.clear();
    });
    assert_eq!(codes(&house), ["no-pool"]);
}

#[test]
fn metadata_comes_back_from_the_backup() {
    let house = House::new();
    house.stop();
    let before = house.map(DumpFrom::Metadata);
    house.wipe();
    let report = house.check();
    assert_eq!(report.worst(), Some(Severity::Damage));
    assert!(report.findings.iter().any(|f| f.text.contains("virt-notify restore vg0")));
    assert!(house.engine.start_pool(&spec()).is_err());

    let dry = RestoreRequest { dry_run: true, ..request(RestoreFrom::Backup) };
    house.engine.restore(&dry).unwrap();
    assert_eq!(house.check().worst(), Some(Severity::Damage), "a dry run changes nothing");
    let done = house.restore(RestoreFrom::Backup).unwrap();
    assert!(done.0.iter().any(|note| note.contains("archive")), "{done:?}");
    assert_eq!(house.check().findings, []);
    assert_eq!(house.map(DumpFrom::Metadata).contents, before.contents);
    house.start();
    assert_eq!(house.engine.volumes(&spec().name).unwrap().len(), 2);
    assert_eq!(house.check().findings, []);
    // Nothing that is free counts as zeroed before it was zeroed again.
    let image = house.dir.path().join("maps/archive/vg0_metadata_000001.image");
    assert_eq!(fs::metadata(image).unwrap().len(), 16 << 20);
}

#[test]
fn metadata_comes_back_from_the_kernel_while_volumes_are_in_use() {
    let house = House::new();
    let disks = ["a", "b"].map(|name| {
        let volume = house.engine.volume(&spec().name, &name.parse().unwrap()).unwrap();
        house.target.change(&device_of(volume.uuid), |device| device.openers = 1);
        device_of(volume.uuid)
    });
    house.engine.halt();
    let before = house.map(DumpFrom::Metadata);
    house.wipe();
    fs::remove_dir_all(house.dir.path().join("maps")).unwrap();
    assert!(matches!(house.restore(RestoreFrom::Backup), Err(RepairError::Refused(_))));
    house.restore(RestoreFrom::Kernel).unwrap();
    let after = house.map(DumpFrom::Metadata);
    assert_eq!(by_name(&after), by_name(&before));
    house.start();
    assert!(disks.iter().all(|disk| house.target.write(disk, 50)));
    let quiet = || house.check().findings.is_empty();
    eventually("a check that finds nothing", quiet);
}

#[test]
fn a_volume_without_a_device_is_taken_from_the_backup() {
    let house = House::new();
    let b = house.engine.volume(&spec().name, &"b".parse().unwrap()).unwrap();
    house.engine.halt();
    let before = house.map(DumpFrom::Metadata);
    house.target.remove(&device_of(b.uuid)).unwrap();
    house.wipe();
    let without = vec!["b".parse().unwrap()];
    let alone = RestoreRequest { without, dry_run: true, ..request(RestoreFrom::Kernel) };
    let notes = house.engine.restore(&alone).unwrap().0;
    assert!(notes.iter().any(|note| note == "volume b is left out: its data is given up"));
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    assert!(notes.iter().any(|note| note.starts_with("volume b has no device")), "{notes:?}");
    let after = house.map(DumpFrom::Metadata);
    assert_eq!(by_name(&after), by_name(&before));
    assert_eq!(after.contents.pool, before.contents.pool);
}

impl House {
    /// Volumes that share chunks: snapshots in a row, clones of a volume and of a snapshot.
    fn sharing() -> Self {
        let house = Self::new();
        house.snapshot("one");
        house.write("a", 1);
        house.snapshot("two");
        house.clone_of("a", "c");
        house.clone_of("a@one", "d");
        for (name, chunk) in [("a", 9), ("c", 9), ("c", 20), ("d", 0)] {
            house.write(name, chunk);
        }
        house
    }

    fn device(&self, name: &str) -> crate::target::DeviceId {
        let volume = self.engine.volume(&spec().name, &name.parse().unwrap()).unwrap();
        device_of(volume.uuid)
    }

    fn write(&self, name: &str, chunk: u64) {
        assert!(self.target.write(&self.device(name), chunk), "{chunk} of {name}");
    }

    fn snapshot(&self, name: &str) {
        let a = ["a".parse().unwrap()];
        self.engine.snapshot(&spec().name, &a, &name.parse().unwrap()).unwrap();
    }

    fn clone_of(&self, backing: &str, name: &str) {
        let spec = VolumeSpec {
            name: name.parse().unwrap(),
            capacity: Bytes::mib(16),
            allocation: Bytes::ZERO,
            uuid: Uuid::new_v4(),
            backing: Some(backing.parse().unwrap()),
        };
        self.engine.create_volume(&super::tests::spec().name, &spec).unwrap();
    }

    /// A guest gives a chunk up.
    fn discard(&self, name: &str, chunk: u64) {
        let device = self.device(name);
        self.target.discard(&device, chunk..chunk + 1);
        eventually("a hole", || {
            let state = self.target.state(&device);
            state.leaving.is_empty() && state.map.place(chunk).is_none()
        });
    }
}

/// The backup knows the layers, and the kernel where the chunks are now.
#[test]
fn what_snapshots_and_clones_share_comes_back_with_the_kernels_chunks() {
    let house = House::sharing();
    let volumes = || house.engine.volumes(&spec().name).unwrap().len();
    let all = volumes();
    eventually("a backup of all", || {
        house.backup().is_some_and(|backup| backup.contents.volumes.len() == all)
    });
    // What the backup does not have: new chunks, copies, and what was given up.
    for (name, chunk) in [("a", 30), ("a", 0), ("c", 31), ("c", 1), ("d", 5)] {
        house.write(name, chunk);
    }
    house.discard("a", 5);
    house.discard("c", 20);
    house.engine.halt();
    let before = house.map(DumpFrom::Metadata);
    house.wipe();
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    assert!(notes.iter().any(|note| note.contains("is taken from the backup")), "{notes:?}");
    let after = house.map(DumpFrom::Metadata);
    assert_eq!(by_name(&after), by_name(&before));
    house.start();
    for name in ["a", "c", "d"] {
        house.write(name, 1);
        house.write(name, 40);
    }
    eventually("a check that finds nothing", || house.check().findings.is_empty());
    for name in ["a@one", "a", "c", "d", "a@two", "b"] {
        house.engine.delete_volume(&spec().name, &name.parse().unwrap()).unwrap();
    }
    eventually("all is free", || {
        house.engine.started(&spec().name).unwrap().core().free.used() == 0
    });
}

/// A snapshot's device is gone; a chunk that all show has moved; a volume is left out.
#[test]
fn what_has_moved_since_the_backup_has_moved_in_its_layer() {
    let house = House::sharing();
    let all = house.engine.volumes(&spec().name).unwrap().len();
    eventually("a backup of all", || {
        house.backup().is_some_and(|backup| backup.contents.volumes.len() == all)
    });
    let devices = ["a", "c"].map(|name| house.device(name));
    let gone = house.device("a@two");
    house.engine.halt();
    let before = house.map(DumpFrom::Metadata);
    let size = house.lvm.change(|report| report.lv(&data_lv(0)).unwrap().size);
    let held = |place: Place| {
        let mut owned = before.contents.owned();
        owned.any(|(_, run)| run.to.contains(place))
    };
    let mut places = (0..size.0 / CHUNK).rev().map(|chunk| Place { lv: 0, chunk });
    let moved = places.find(|place| !held(*place)).unwrap();
    house.target.remove(&gone).unwrap();
    // Chunk 1 of 'a' and 'c' is what 'a@two' shows as well.
    for device in &devices {
        house.target.change(device, |device| {
            let mut run = device.map.remove(1, 1)[0];
            run.to.start = moved;
            device.map.insert(run).unwrap();
        });
    }
    house.wipe();
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    assert!(notes.iter().any(|note| note.starts_with("volume a@two has no device")), "{notes:?}");
    let after = house.map(DumpFrom::Metadata);
    let place = |map: &Description, name: &str| {
        let maps = map.contents.maps().unwrap();
        let found = maps.iter().find(|(row, _)| row.name.as_str() == name).unwrap();
        found.1.place(1)
    };
    assert!(["a", "c", "a@two"].iter().all(|name| place(&after, name) == Some(moved)));
    assert_eq!(place(&after, "a@one"), place(&before, "a@one"));
}

impl House {
    /// A daemon was killed while it made this volume's device: its map lacks chunks, and the link is not there.
    fn half_make(&self, name: &str, lacks: &[u64]) {
        self.target.change(&self.device(name), |device| {
            lacks.iter().for_each(|&chunk| drop(device.map.remove(chunk, 1)));
        });
        fs::remove_file(self.dir.path().join("notify/vms").join(name)).unwrap();
    }

    /// The daemon ends, once there is a backup of all.
    fn end_with_backup(&self) -> Description {
        self.engine.halt();
        let before = self.map(DumpFrom::Metadata);
        let path = format!("maps/vg0_{}.backup", before.contents.pool);
        fs::write(self.dir.path().join(path), before.to_string()).unwrap();
        before
    }
}

#[test]
fn a_device_that_was_being_made_keeps_the_chunks_of_the_backup() {
    let house = House::new();
    house.half_make("a", &[1, 9]);
    let before = house.end_with_backup();
    house.wipe();
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    let says = "volume a: its device was being made when the daemon ended, and lacks 512.00 KiB: that is taken";
    assert!(notes.iter().any(|note| note.starts_with(says)), "{notes:?}");
    assert_eq!(by_name(&house.map(DumpFrom::Metadata)), by_name(&before));
    house.start();
    eventually("a check that finds nothing", || house.check().findings.is_empty());
}

/// What a whole device lacks was given up since.
#[test]
fn a_device_that_is_whole_counts_as_it_is() {
    let house = House::new();
    let device = house.device("a");
    let before = house.end_with_backup();
    house.target.change(&device, |device| drop(device.map.remove(9, 1)));
    house.wipe();
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    assert!(!notes.iter().any(|note| note.contains("was being made")), "{notes:?}");
    let has = |map: &Description| by_name(map)[0].3.iter().any(|run| run.at <= 9 && 9 < run.end());
    assert!(has(&before) && !has(&house.map(DumpFrom::Metadata)));
}

#[test]
fn a_snapshots_device_that_was_being_made_keeps_the_chunks_of_the_backup() {
    let house = House::sharing();
    house.half_make("a@one", &[0, 1, 5]);
    house.half_make("c", &[5, 20]);
    let before = house.end_with_backup();
    house.wipe();
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    for name in ["a@one", "c"] {
        let says = format!("volume {name}: its device was being made when the daemon ended");
        assert!(notes.iter().any(|note| note.starts_with(&says)), "{notes:?}");
    }
    assert_eq!(by_name(&house.map(DumpFrom::Metadata)), by_name(&before));
    house.start();
    eventually("a check that finds nothing", || house.check().findings.is_empty());
}

/// A chunk has moved, and another volume got its place, since the backup was written.
#[test]
fn what_others_have_is_not_given_to_a_device_that_was_being_made() {
    let house = House::new();
    let b = house.device("b");
    let place = house.target.state(&house.device("a")).map.place(9).unwrap();
    house.half_make("a", &[1, 9]);
    house.end_with_backup();
    house.target.change(&b, |device| {
        let to = crate::alloc::Extent { start: place, length: 1 };
        device.map.insert(crate::alloc::Run { at: 50, to }).unwrap();
    });
    house.wipe();
    let notes = house.restore(RestoreFrom::Kernel).unwrap().0;
    let says = "but for 256.00 KiB that other volumes have now: holes";
    assert!(notes.iter().any(|note| note.ends_with(says)), "{notes:?}");
    let after = house.map(DumpFrom::Metadata);
    let maps = after.contents.maps().unwrap();
    let at = |n: usize, chunk| maps[n].1.place(chunk);
    assert_eq!((at(0, 9), at(1, 50), at(0, 1).is_some()), (None, Some(place), true));
}

/// The link says that a map is complete; a killed daemon may have left one to the same number.
#[test]
fn a_link_is_not_there_before_the_map_is_complete() {
    let house = House::new();
    let device = house.device("a");
    let link = house.dir.path().join("notify/vms/a");
    house.engine.halt();
    house.target.remove(&device).unwrap();
    assert!(fs::symlink_metadata(&link).is_ok());
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (told, of, at) = (seen.clone(), device, link.clone());
    house.target.before("map", move |_, id, _| {
        if *id == of {
            told.lock().unwrap().push(fs::symlink_metadata(&at).is_ok());
        }
    });
    house.start();
    assert!(fs::symlink_metadata(&link).is_ok());
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty() && !seen.contains(&true), "{seen:?}");
}

/// Nobody knows then which layer has a chunk that several volumes show.
#[test]
fn what_is_shared_is_not_restored_without_a_backup_of_it() {
    let house = House::sharing();
    house.engine.halt();
    house.wipe();
    fs::remove_dir_all(house.dir.path().join("maps")).unwrap();
    let refused = house.restore(RestoreFrom::Kernel).unwrap_err();
    assert!(matches!(refused, RepairError::Refused(_)));
    let refused = refused.to_string();
    assert!(
        refused.contains("How snapshots and clones share them the kernel does not know"),
        "{refused}"
    );
    let without = ["a", "a@two", "c", "d"].map(|name| name.parse().unwrap()).to_vec();
    let request = RestoreRequest { without, ..request(RestoreFrom::Kernel) };
    let refused = house.engine.restore(&request).unwrap_err().to_string();
    assert!(refused.contains("does not know the device"), "{refused}");
}

/// The backup has a volume that was deleted meanwhile, and whose chunks another one got.
#[test]
fn volumes_that_claim_the_same_chunk_are_refused_until_one_is_left_out() {
    let house = House::new();
    house.engine.halt();
    let before = house.map(DumpFrom::Metadata);
    let mut backup = house.backup().unwrap();
    let mut ghost = backup.contents.volumes[&1].clone();
    let layer = backup.contents.layers[&ghost.layer].clone();
    backup.contents.layers.insert(9, layer);
    ghost.layer = 9;
    (ghost.name, ghost.uuid) = ("ghost".parse().unwrap(), Uuid::from_u128(77));
    backup.contents.volumes.insert(9, ghost);
    let path = house.dir.path().join("maps").join(format!("vg0_{}.backup", before.contents.pool));
    fs::write(path, backup.to_string()).unwrap();
    house.wipe();
    let refused = house.restore(RestoreFrom::Kernel).unwrap_err().to_string();
    assert!(refused.contains("belongs to the volume 'a' and to the volume 'ghost'"), "{refused}");
    let without = vec!["ghost".parse().unwrap()];
    let request = RestoreRequest { without, ..request(RestoreFrom::Kernel) };
    house.engine.restore(&request).unwrap();
    assert_eq!(by_name(&house.map(DumpFrom::Metadata)), by_name(&before));
}

#[test]
fn a_map_that_must_not_be_used_is_refused_and_nothing_changes() {
    let house = House::new();
    let says = |house: &House, from: RestoreFrom, says: &str| {
        let error = house.restore(from).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    says(&house, RestoreFrom::Backup, "is started");
    house.engine.halt();
    let good = house.map(DumpFrom::Metadata);
    let text = |change: &dyn Fn(&mut Description)| {
        let mut map = good.clone();
        change(&mut map);
        RestoreFrom::Text(map.to_string())
    };
    says(&house, RestoreFrom::Text("nonsense".into()), "line 1");
    says(&house, text(&|m| m.contents.pool = Uuid::from_u128(9)), "holds the pool");
    let other = "AbCdEf-0000-1111-2222-3333-4444-666666";
    says(
        &house,
        text(&|m| drop(m.contents.data_lvs.insert(0, other.into()))),
        "is not the logical",
    );
    let far = |m: &mut Description| {
        let runs = &mut m.contents.layers.get_mut(&1).unwrap().1;
        runs.last_mut().unwrap().to.start.chunk = 1 << 20;
    };
    says(&house, text(&far), "the map cannot be right");
    // The kernel has a volume, or a chunk, that the map does not know.
    says(&house, text(&|m| drop(m.contents.volumes.remove(&1))), "does not know the device");
    let less = |m: &mut Description| {
        m.contents.layers.get_mut(&1).unwrap().1.pop();
    };
    says(&house, text(&less), "has data where the map has none");
    assert_eq!(house.map(DumpFrom::Metadata).contents, good.contents);
    assert!(house.restore(text(&|_| {})).is_ok());
}

#[test]
fn a_metadata_volume_that_was_removed_is_made_again() {
    let house = House::new();
    house.stop();
    let before = house.backup().unwrap();
    house.lvm.change(|report| report.lvs.retain(|lv| lv.name != META_LV));
    house.restore(RestoreFrom::Backup).unwrap();
    let after = house.map(DumpFrom::Metadata);
    assert_eq!(by_name(&after), by_name(&before));
    assert_ne!(after.head.meta_lv, before.head.meta_lv);
    house.start();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The power goes at any operation of a restore: afterwards there is what was there, or what
    /// was restored, or a pool that is not started and can be restored again.
    #[test]
    fn a_restore_that_is_cut_off_can_be_run_again(cut in 0u64..16, seed in any::<u64>()) {
        let mut house = House::new();
        house.stop();
        let before = house.map(DumpFrom::Metadata);
        let mut wanted = before.clone();
        wanted.contents.volumes.remove(&2);
        let from = || RestoreFrom::Text(wanted.to_string());
        house.lvm.disk(META_LV).fail_after(cut);
        let done = house.restore(from()).is_ok();
        let mut random = seed | 1;
        house.lvm = house.lvm.after_power_cut(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random >> 63 == 0
        });
        let parts = parts(&house.dir.path().join("again"), &house.lvm, &house.target, &EventBus::new());
        house.engine = Engine::with_parts(parts).unwrap();
        match house.engine.dump(&vg(), DumpFrom::Metadata) {
            Ok(text) => {
                let found: Description = text.parse().unwrap();
                prop_assert!(found.contents == wanted.contents || !done);
                prop_assert!(found.contents == wanted.contents || found.contents == before.contents);
            }
            Err(error) => {
                prop_assert!(!done && matches!(error, RepairError::Damaged(_)), "{}", error);
                prop_assert!(house.engine.start_pool(&spec()).is_err());
            }
        }
        house.restore(from()).unwrap();
        prop_assert_eq!(house.map(DumpFrom::Metadata).contents, wanted.contents);
    }
}

/// Each block of the metadata, flipped, zeroed, swapped with another or cut off: the check says
/// that all is well, and then it is, or it names the damage; and a restore mends it.
#[test]
fn damage_anywhere_is_named_and_mended() {
    let house = House::new();
    house.stop();
    let good = house.map(DumpFrom::Metadata);
    let disk = house.lvm.disk(META_LV);
    let superblock = Superblock::newest(Superblock::copies(disk.as_ref()).unwrap()).unwrap();
    let end = DATA_START + superblock.length;
    let mut whole = vec![0; usize::try_from(end).unwrap()];
    disk.read_at(0, &mut whole).unwrap();
    let used = |block: &usize| whole[block * 4096..][..4096].iter().any(|byte| *byte != 0);
    let blocks: Vec<usize> = (0..whole.len() / 4096).filter(used).collect();
    assert!(blocks.len() >= 5, "{blocks:?}");
    let (mut fine, mut named) = (0, 0);
    for (n, &block) in blocks.iter().enumerate() {
        for kind in 0..4 {
            let other = blocks[(n * 7 + 3) % blocks.len()];
            disk.damage(0, |bytes| {
                bytes[..whole.len()].copy_from_slice(&whole);
                let at = block * 4096;
                match kind {
                    0 => bytes[at..at + 4096].iter_mut().for_each(|byte| *byte = !*byte),
                    1 => bytes[at..at + 4096].fill(0),
                    2 => bytes[at..at + 4096].copy_from_slice(&whole[other * 4096..][..4096]),
                    _ => bytes[at..].fill(0xa5),
                }
            });
            let report = house.check();
            match report.worst() {
                Some(Severity::Damage) => named += 1,
                _ => {
                    assert_eq!(house.map(DumpFrom::Metadata).contents, good.contents);
                    fine += 1;
                }
            }
        }
    }
    assert!(named > fine / 2 && fine > 0, "{named} named, {fine} fine");
    // The last one may have hit what is not in use.
    disk.damage(0, |bytes| bytes[..2 * 4096].fill(0xa5));
    assert_eq!(house.check().worst(), Some(Severity::Damage));
    house.restore(RestoreFrom::Backup).unwrap();
    assert_eq!(house.map(DumpFrom::Metadata).contents, good.contents);
}

/// A slot of the journal whose record the tables have, if it had one, and that is not written soon.
fn stale_slot(disk: &crate::testing::FakeDisk) -> u64 {
    let slots = crate::meta::SLOTS;
    let mut journal = vec![0; usize::try_from(slots * 4096).unwrap()];
    disk.read_at(JOURNAL_START, &mut journal).unwrap();
    let number = |slot: &[u8]| u64::from_le_bytes(slot[16..24].try_into().unwrap());
    let last = journal.chunks(4096).map(number).max().unwrap();
    JOURNAL_START + (last + slots / 2) % slots * 4096
}

/// Places of the metadata that cannot be read, and are not needed.
#[test]
fn one_unreadable_sector_does_no_harm_where_nothing_is_lost_by_it() {
    let behind = |disk: &crate::testing::FakeDisk| disk.size().unwrap() - 4096;
    let places: [fn(&crate::testing::FakeDisk) -> u64; 4] = [|_| 0, |_| 4096, stale_slot, behind];
    for (n, place) in places.into_iter().enumerate() {
        let house = House::new();
        house.engine.started(&spec().name).unwrap().reader.checkpoint().unwrap();
        house.stop();
        let before = house.map(DumpFrom::Metadata);
        let disk = house.lvm.disk(META_LV);
        disk.become_unreadable_at(place(&disk) + 1024);
        let report = house.check();
        assert_ne!(report.worst(), Some(Severity::Damage), "place {n}: {report:?}");
        assert_eq!(house.map(DumpFrom::Metadata).contents, before.contents, "place {n}");
        house.start();
        assert_ne!(house.check().worst(), Some(Severity::Damage), "place {n}");
        house.write("a", 12);
    }
}

/// Behind the database, where a longer one would be, and within what is read of that.
#[test]
fn room_that_cannot_be_read_is_not_needed() {
    let house = House::new();
    house.stop();
    let before = house.map(DumpFrom::Metadata);
    let disk = house.lvm.disk(META_LV);
    let superblock = Superblock::newest(Superblock::copies(disk.as_ref()).unwrap()).unwrap();
    disk.become_unreadable_at((DATA_START + superblock.length).next_multiple_of(4096));
    assert_eq!(house.check().findings, []);
    assert_eq!(house.map(DumpFrom::Metadata).contents, before.contents);
    house.start();
}

#[test]
fn metadata_that_cannot_be_read_comes_back_and_the_archive_says_what_it_lacks() {
    let house = House::new();
    house.stop();
    let before = house.map(DumpFrom::Metadata);
    let disk = house.lvm.disk(META_LV);
    for at in [0, 4096 + 512, DATA_START, DATA_START + 8192] {
        disk.become_unreadable_at(at);
    }
    assert_eq!(house.check().worst(), Some(Severity::Damage));
    assert!(house.engine.start_pool(&spec()).is_err());
    let notes = house.restore(RestoreFrom::Backup).unwrap().0;
    let says = "16384 bytes of it could not be read, and are zeroes there";
    assert!(notes.iter().any(|note| note == says), "{notes:?}");
    assert_eq!((house.map(DumpFrom::Metadata).contents, disk.unreadable()), (before.contents, 0));
    house.start();
}

/// A data LV that the backup knows is gone from the group. A map of which a part is on it is not used.
#[test]
fn a_data_lv_that_is_gone_matters_only_if_something_was_on_it() {
    let house = House::new();
    let mut before = house.end_with_backup();
    let good = before.clone();
    before.contents.data_lvs.insert(1, "AbCdEf-0000-1111-2222-3333-4444-666666".into());
    let path = house.dir.path().join(format!("maps/vg0_{}.backup", before.contents.pool));
    let mut on_it = before.clone();
    let run = on_it.contents.layers.values_mut().next().unwrap().1.last_mut().unwrap();
    run.to.start = Place { lv: 1, chunk: 0 };
    house.wipe();
    fs::write(&path, on_it.to_string()).unwrap();
    let refused = house.restore(RestoreFrom::Backup).unwrap_err().to_string();
    assert!(refused.contains("there is no backup of the logical volumes"), "{refused}");
    let refused = house.restore(RestoreFrom::Text(on_it.to_string())).unwrap_err().to_string();
    assert!(refused.contains("the data LV 1 (AbCdEf"), "{refused}");
    fs::write(&path, before.to_string()).unwrap();
    let notes = house.restore(RestoreFrom::Backup).unwrap().0;
    let says = "'vg0/notify-data1' is gone, and no volume has data on it: it is left out";
    assert!(notes.iter().any(|note| note == says), "{notes:?}");
    assert_eq!(house.map(DumpFrom::Metadata).contents.data_lvs, good.contents.data_lvs);
    house.start();
}
