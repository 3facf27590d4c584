// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots and clones: what each of them shows, who writes where, and what comes free.

use std::collections::BTreeSet;

use virtnotify_model::{VolumeExtent, VolumeKind};

use super::*;
use crate::testing::Failing;
use nix::errno::Errno;

impl House {
    fn with_disk() -> Self {
        let house = Self::started(64);
        house.write_to_disk();
        house.create("disk0", 16);
        // In no order that asks for chunks ahead.
        assert!([3, 2, 1, 0].into_iter().all(|chunk| house.put("disk0", chunk, "old")));
        house
    }

    fn texts(&self, name: &str) -> Vec<String> {
        (0..5).map(|chunk| self.text(name, chunk)).collect()
    }

    /// Nothing has to be collected any more.
    fn collected(&self) {
        let shared = self.engine.started(&pool()).unwrap();
        eventually("collected", || shared.core().is_collected());
    }

    fn used(&self) -> u64 {
        self.engine.started(&pool()).unwrap().core().free.used()
    }

    fn copied(&self) -> u64 {
        self.engine.growth_figures(&pool()).unwrap().copied
    }
}

const OLD: [&str; 5] = ["old", "old", "old", "old", ""];

#[test]
fn a_snapshot_shows_what_the_volume_held() {
    let house = House::with_disk();
    let before = house.used();
    let made = house.snapshot(&["disk0"], "mon").unwrap();
    assert_eq!((made.len(), made[0].name.as_str()), (1, "disk0@mon"));
    assert_eq!((made[0].kind, made[0].state), (VolumeKind::Snapshot, VolumeState::Growing));
    assert_eq!(made[0].backing, Some("disk0".parse().unwrap()));
    assert_eq!(made[0].allocation, house.volume("disk0").allocation);
    assert_eq!(house.used(), before, "nothing was copied");

    assert!(house.put("disk0", 1, "new"));
    assert!(house.put("disk0", 4, "new"));
    let device = device_of(house.volume("disk0").uuid);
    house.target.discard(&device, 2..3);
    eventually("a hole", || house.text("disk0", 2).is_empty());
    assert_eq!(house.texts("disk0@mon"), OLD);
    assert_eq!(house.texts("disk0"), ["old", "new", "", "old", "new"]);
    assert_eq!(house.copied(), 1);
    assert!(!house.put("disk0@mon", 0, "bad"), "it is read-only");
    assert_eq!(house.volume("disk0").exclusive, Bytes((house.used() - 4) * CHUNK));
    house.check();

    // Written anew, and once more.
    assert!(house.put("disk0", 2, "new") && house.put("disk0", 1, "newer"));
    assert_eq!(house.texts("disk0"), ["old", "newer", "new", "old", "new"]);
    assert_eq!(house.texts("disk0@mon"), OLD);
    assert_eq!(house.copied(), 1, "a chunk is copied once");
    house.check();
    // Chunks 1 and 2 of the volume are its own now, so nothing else shows the snapshot's.
    assert_eq!(house.volume("disk0@mon").exclusive, Bytes(2 * CHUNK));
}

#[test]
fn it_is_all_there_after_a_restart() {
    for killed in [true, false] {
        let mut house = House::with_disk();
        house.snapshot(&["disk0"], "mon").unwrap();
        assert!(house.put("disk0", 1, "new"));
        let device = device_of(house.volume("disk0").uuid);
        house.target.discard(&device, 2..3);
        eventually("a hole", || house.target.state(&device).leaving.is_empty());
        house.clone_of("disk0@mon", "clone", 16).unwrap();
        assert!(house.put("clone", 3, "clone"));
        house.lvm.disk(&data_lv(0)).sync().unwrap();
        house.end(killed, 1, 4);
        house.restart();
        house.engine.start_pool(&spec()).unwrap();
        house.write_to_disk();
        assert_eq!(house.texts("disk0"), ["old", "new", "", "old", ""]);
        assert_eq!(house.texts("disk0@mon"), OLD);
        assert_eq!(house.texts("clone"), ["old", "old", "old", "clone", ""]);
        assert!(house.put("disk0", 3, "new") && house.put("clone", 0, "clone"));
        assert_eq!(house.texts("disk0@mon"), OLD);
        house.check();
    }
}

#[test]
fn a_copy_whose_message_fails_is_taken_and_nothing_stays_in_use() {
    for done in [false, true] {
        let house = House::with_disk();
        house.snapshot(&["disk0"], "mon").unwrap();
        house.target.fail("remap", Failing { errno: Errno::EIO, times: 1, done });
        assert!(house.put("disk0", 1, "new"));
        assert_eq!(house.texts("disk0"), ["old", "new", "old", "old", ""]);
        assert_eq!(house.texts("disk0@mon"), OLD);
        house.delete("disk0@mon").unwrap();
        house.collected();
        house.delete("disk0").unwrap();
    }
}

#[test]
fn clones_go_their_own_ways() {
    let house = House::with_disk();
    let clone = house.clone_of("disk0", "clone", 32).unwrap();
    assert_eq!(clone.backing, Some("disk0".parse().unwrap()));
    assert_eq!((clone.kind, clone.capacity), (VolumeKind::Volume, Bytes::mib(32)));
    assert!(house.put("disk0", 0, "disk0") && house.put("clone", 1, "clone"));
    assert!(house.put("clone", 100, "far"));
    assert_eq!(house.texts("disk0"), ["disk0", "old", "old", "old", ""]);
    assert_eq!(house.texts("clone"), ["old", "clone", "old", "old", ""]);
    house.check();
    house.delete("disk0").unwrap();
    house.collected();
    assert_eq!(house.texts("clone"), ["old", "clone", "old", "old", ""]);
    assert_eq!(house.volume("clone").backing, None);
    // What only the other one had is free, and all that is left is the clone's alone.
    assert_eq!(house.volume("clone").exclusive, house.volume("clone").allocation);
    let before = house.copied();
    assert!(house.put("clone", 2, "clone"));
    assert_eq!(house.copied(), before, "nothing shares it any more");
    house.check();
    house.delete("clone").unwrap();
    house.collected();
    assert_eq!(house.used(), 0);
    house.check();
}

#[test]
fn a_clone_is_as_large_as_its_source_at_least() {
    let house = House::with_disk();
    let refused = house.clone_of("disk0", "clone", 8).unwrap_err().to_string();
    assert!(refused.contains("'disk0' has 16.00 MiB"), "{refused}");
    assert!(matches!(house.clone_of("none", "clone", 8), Err(BackendError::NoVolume { .. })));
    assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 1);
}

#[test]
fn a_volume_goes_back_to_its_snapshot() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    house.engine.resize_volume(&pool(), &"disk0".parse().unwrap(), Bytes::mib(32)).unwrap();
    assert!(house.put("disk0", 0, "new") && house.put("disk0", 4, "new"));
    let device = device_of(house.volume("disk0").uuid);
    house.target.change(&device, |device| device.openers = 1);
    assert!(matches!(house.roll_back("disk0@mon"), Err(BackendError::VolumeInUse(_))));
    house.target.change(&device, |device| device.openers = 0);
    house.roll_back("disk0@mon").unwrap();
    assert_eq!(house.texts("disk0"), OLD);
    assert_eq!(house.volume("disk0").capacity, Bytes::mib(16));
    house.collected();
    assert_eq!(house.used(), 4);
    assert!(house.put("disk0", 1, "newer"));
    assert_eq!(house.texts("disk0@mon"), OLD);
    house.check();
    let refused = house.roll_back("disk0").unwrap_err().to_string();
    assert!(refused.contains("'disk0' is no snapshot"), "{refused}");
}

#[test]
fn what_a_deleted_snapshot_alone_had_comes_free() {
    let house = House::with_disk();
    let device = device_of(house.volume("disk0").uuid);
    for name in ["one", "two", "three"] {
        house.snapshot(&["disk0"], name).unwrap();
        assert!(house.put("disk0", 0, name));
    }
    assert_eq!(house.used(), 4 + 3);
    // In the middle: its chunk 0 goes, all others still show what is below.
    house.delete("disk0@two").unwrap();
    house.collected();
    assert_eq!(house.used(), 4 + 2);
    assert_eq!(house.texts("disk0@one"), OLD);
    assert_eq!(house.texts("disk0@three")[..2], ["two", "old"]);
    house.check();
    let alone = |name: &str| house.volume(name).exclusive.0 / CHUNK;
    assert_eq!((alone("disk0@one"), alone("disk0@three")), (1, 1), "chunk 0 of each");
    house.delete("disk0@three").unwrap();
    house.delete("disk0@one").unwrap();
    house.collected();
    assert_eq!(house.used(), 4);
    eventually("nothing is shared", || house.target.state(&device).mark == 0);
    let copied = house.copied();
    assert!((0..4).all(|chunk| house.put("disk0", chunk, "alone")));
    assert_eq!(house.copied(), copied);
    house.check();
}

#[test]
fn snapshots_outlive_their_volume() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    house.delete("disk0").unwrap();
    assert_eq!(house.texts("disk0@mon"), OLD);
    let refused = house.roll_back("disk0@mon").unwrap_err().to_string();
    assert!(refused.contains("the volume of 'disk0@mon' is gone"), "{refused}");
    house.clone_of("disk0@mon", "disk0", 16).unwrap();
    assert_eq!(house.texts("disk0"), OLD);
    house.delete("disk0@mon").unwrap();
    house.delete("disk0").unwrap();
    house.collected();
    assert_eq!(house.used(), 0);
    house.check();
}

#[test]
fn bad_requests_leave_no_snapshot() {
    let house = House::with_disk();
    house.create("disk1", 16);
    house.snapshot(&["disk0"], "mon").unwrap();
    let said =
        |volumes: &[&str], name: &str| house.snapshot(volumes, name).unwrap_err().to_string();
    assert!(said(&["disk0@mon"], "tue").contains("'disk0@mon' is a snapshot"));
    assert!(said(&["disk1", "disk1"], "tue").contains("'disk1' is named twice"));
    assert!(said(&["disk1", "none"], "tue").contains("none"));
    assert!(matches!(
        house.snapshot(&["disk1", "disk0"], "mon"),
        Err(BackendError::VolumeExists { .. })
    ));
    assert!(said(&["disk1"], &"x".repeat(67)).contains("too long"));
    let mon = "disk0@mon".parse().unwrap();
    let resized = house.engine.resize_volume(&pool(), &mon, Bytes::mib(32)).unwrap_err();
    assert!(resized.to_string().contains("'disk0@mon' is a snapshot: it does not change"));
    house.engine.wipe_volume(&pool(), &mon, WipeMode::Zero).unwrap_err();
    house.engine.allocate_volume(&pool(), &mon).unwrap_err();
    assert!(house.create_with("disk2@mon", 16, 0).unwrap_err().to_string().contains("a snapshot"));
    let names: Vec<_> = house.engine.volumes(&pool()).unwrap();
    let names: Vec<_> = names.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["disk0", "disk0@mon", "disk1"]);
    house.check();
}

/// What is wiped is the volume's; what a snapshot shows is the snapshot's.
#[test]
fn a_wipe_leaves_the_snapshot_alone() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    assert!(house.put("disk0", 1, "new"));
    let passes = WipeMode::Overwrite(&[WipePass::Pattern([7; 3])]);
    house.engine.wipe_volume(&pool(), &"disk0".parse().unwrap(), passes).unwrap();
    assert_eq!(house.texts("disk0"), [""; 5]);
    assert_eq!(house.texts("disk0@mon"), OLD);
    assert!(house.put("disk0", 1, "newer"));
    house.check();
}

#[test]
fn several_volumes_are_cut_at_one_moment() {
    let house = House::with_disk();
    house.create("disk1", 16);
    assert!(house.put("disk1", 0, "old"));
    let both = [device_of(house.volume("disk0").uuid), device_of(house.volume("disk1").uuid)];
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (told, devices) = (seen.clone(), both.clone());
    house.target.before("snapshot", move |target, _, _| {
        let frozen = |device: &DeviceId| target.state(device).is_frozen();
        told.lock().unwrap().push(devices.iter().all(frozen));
    });
    assert_eq!(house.snapshot(&["disk0", "disk1"], "mon").unwrap().len(), 2);
    assert_eq!(*seen.lock().unwrap(), [true, true], "both are held while either is cut");
    house.target.before("snapshot", |_, _, _| {});
    assert!(both.iter().all(|device| !house.target.state(device).is_frozen()));

    // One of them went on before the other was cut.
    house.target.before("thaw", |target, device, _| {
        target.change(device, |device| device.frozen = None);
    });
    let refused = house.snapshot(&["disk0", "disk1"], "tue").unwrap_err().to_string();
    assert!(refused.contains("could not be held long enough"), "{refused}");
    house.target.before("thaw", |_, _, _| {});
    assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 4);
    let copied = house.copied();
    // Shared with the first snapshot, and with that one alone.
    assert!(house.put("disk0", 0, "new") && house.put("disk0", 0, "newer"));
    assert_eq!(house.copied(), copied + 1);
    assert_eq!(house.snapshot(&["disk0"], "wed").unwrap().len(), 1);
    assert!(house.put("disk0", 0, "newest"));
    assert_eq!(house.text("disk0@wed", 0), "newer");
    assert_eq!(house.text("disk0@mon", 0), "old");
    house.check();
}

/// Each call of the target fails once, before and after its effect: a snapshot is there or not, and
/// what the volume holds is right.
#[test]
fn a_snapshot_that_fails_leaves_all_as_it_was() {
    for step in ["freeze", "snapshot", "thaw"] {
        for done in [false, true] {
            let house = House::with_disk();
            house.create("disk1", 16);
            house.target.fail(step, Failing { errno: Errno::ENOMEM, times: 1, done });
            house.snapshot(&["disk0", "disk1"], "mon").unwrap_err();
            let device = device_of(house.volume("disk0").uuid);
            assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 2, "{step} {done}");
            eventually("settled", || house.target.state(&device).mark == 0);
            assert!(house.put("disk0", 1, "new"));
            assert_eq!(house.copied(), 0, "{step} {done}");
            house.snapshot(&["disk0", "disk1"], "mon").unwrap();
            assert!(house.put("disk0", 1, "newer"));
            assert_eq!(house.text("disk0@mon", 1), "new");
            house.check();
        }
    }
}

/// Copies cannot be made for a while: the write waits, and goes on.
#[test]
fn a_copy_that_fails_is_made_again() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    let disk = house.lvm.disk(&data_lv(0));
    disk.fail_after(0);
    let device = device_of(house.volume("disk0").uuid);
    let text = super::house::sector("new");
    assert_eq!(house.target.try_put(&device, 1, &text, Duration::from_millis(300)), None);
    assert_eq!(house.text("disk0", 1), "old");
    disk.heal();
    assert!(house.put("disk0", 1, "new"));
    assert_eq!(house.texts("disk0@mon"), OLD);
    house.check();
}

#[test]
fn without_room_a_write_to_a_snapshots_chunk_fails_until_there_is_some() {
    let house = House::with_data(24);
    house.write_to_disk();
    house.create("disk0", 64);
    let full = (0..256).find(|&chunk| !house.put("disk0", chunk, "old")).unwrap();
    house.snapshot(&["disk0"], "mon").unwrap();
    assert!(!house.put("disk0", 0, "new"), "no space");
    eventually("told", || house.volume("disk0").state == VolumeState::OutOfSpace);
    assert_eq!(house.text("disk0", full - 1), "old");
    house.delete("disk0@mon").unwrap();
    eventually("room", || house.put("disk0", 0, "new"));
    house.check();
}

#[test]
fn a_difference_is_what_changed() {
    let house = House::with_disk();
    let name = |name: &str| name.parse().unwrap();
    let all = house.engine.difference(&pool(), &name("disk0"), None).unwrap();
    let extent = |from: u64, length: u64, data| VolumeExtent {
        offset: Bytes(from * CHUNK),
        length: Bytes(length * CHUNK),
        data,
    };
    assert_eq!(all, [extent(0, 4, true)]);
    house.snapshot(&["disk0"], "mon").unwrap();
    let none = house.engine.difference(&pool(), &name("disk0"), Some(&name("disk0@mon"))).unwrap();
    assert_eq!(none, []);
    assert!(house.put("disk0", 1, "new") && house.put("disk0", 9, "new"));
    let device = device_of(house.volume("disk0").uuid);
    house.target.discard(&device, 2..3);
    eventually("a hole", || house.target.state(&device).leaving.is_empty());
    house.snapshot(&["disk0"], "tue").unwrap();
    assert!(house.put("disk0", 3, "newer"));
    let between = |a: &str, b: &str| house.engine.difference(&pool(), &name(b), Some(&name(a)));
    let tue = [extent(1, 1, true), extent(2, 1, false), extent(9, 1, true)];
    assert_eq!(between("disk0@mon", "disk0@tue").unwrap(), tue);
    assert_eq!(between("disk0@tue", "disk0").unwrap(), [extent(3, 1, true)]);
    // What was deleted in between changes nothing.
    house.delete("disk0@tue").unwrap();
    house.collected();
    let now = [extent(1, 1, true), extent(2, 1, false), extent(3, 1, true), extent(9, 1, true)];
    assert_eq!(between("disk0@mon", "disk0").unwrap(), now);
    let refused = between("disk0", "disk0@mon").unwrap_err().to_string();
    assert!(refused.contains("'disk0@mon' does not go back to 'disk0'"), "{refused}");
}

/// What the daemon writes itself waits for nobody.
#[test]
fn what_is_prepared_is_the_volumes_own() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    let disk = "disk0".parse().unwrap();
    house.engine.prepare_write(&pool(), &disk, Bytes(CHUNK), Bytes(2 * CHUNK)).unwrap();
    let state = house.target.state(&device_of(house.volume("disk0").uuid));
    let shared: BTreeSet<u64> = (0..5).filter(|&chunk| state.is_shared(chunk)).collect();
    assert_eq!(shared, BTreeSet::from([0, 3]));
    assert_eq!(house.texts("disk0"), OLD);
    house.check();
}

/// Between the commit of a copy and the message the kernel still shows the snapshot's chunk: it is
/// not free, whatever becomes of the snapshot.
#[test]
fn a_chunk_that_the_kernel_still_shows_is_not_freed() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    let (engine, looked) = (house.engine.clone(), Arc::new(std::sync::Mutex::new(None)));
    let told = looked.clone();
    house.target.before("remap", move |target, device, chunk| {
        let shared = engine.started(&pool()).unwrap();
        // A delete waits for nobody who copies.
        engine.delete_volume(&pool(), &"disk0@mon".parse().unwrap()).unwrap();
        while shared.core().collect().unwrap().some {}
        let shown = target.state(device).map.place(chunk).unwrap();
        let contents = engine.contents(&pool()).unwrap();
        let owned = contents.owned().any(|(_, run)| run.to.contains(shown));
        told.lock().unwrap().get_or_insert(owned);
    });
    assert!(house.put("disk0", 1, "new"));
    assert_eq!(*looked.lock().unwrap(), Some(true), "what the kernel shows is owned");
    house.target.before("remap", |_, _, _| {});
    house.collected();
    assert_eq!(house.texts("disk0"), ["old", "new", "old", "old", ""]);
    assert_eq!(house.used(), 4);
    house.check();
}

/// The snapshot goes while its chunk is copied, before the commit: then the old chunk is the volume's alone, and
/// free after the commit, but the kernel shows it until it is told.
#[test]
fn a_chunk_whose_snapshot_went_while_it_was_copied_is_not_freed_at_once() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    let engine = house.engine.clone();
    house.lvm.disk(&data_lv(0)).before_write_of(b'o', move || {
        engine.delete_volume(&pool(), &"disk0@mon".parse().unwrap()).unwrap();
    });
    let (engine, looked) = (house.engine.clone(), Arc::new(std::sync::Mutex::new(None)));
    let told = looked.clone();
    house.target.before("remap", move |target, device, chunk| {
        let shown = target.state(device).map.place(chunk).unwrap();
        let contents = engine.contents(&pool()).unwrap();
        let kept = contents.vacated.iter().any(|vacated| vacated.from.contains(shown));
        told.lock().unwrap().get_or_insert(kept);
    });
    assert!(house.put("disk0", 1, "new"));
    assert_eq!(*looked.lock().unwrap(), Some(true), "what the kernel shows is not free");
    house.target.before("remap", |_, _, _| {});
    house.collected();
    assert_eq!(house.texts("disk0"), ["old", "new", "old", "old", ""]);
    eventually("it is free", || house.used() == 4);
    house.check();
}

/// While a chunk is being copied the kernel goes on holding its writes, also when the snapshot is
/// deleted: a write to the old place would be lost.
#[test]
fn writes_wait_for_a_copy_although_its_snapshot_is_gone() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    let engine = house.engine.clone();
    let device = device_of(house.volume("disk0").uuid);
    let looks = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = looks.clone();
    house.target.before("remap", move |target, device, _| {
        let shared = engine.started(&pool()).unwrap();
        engine.delete_volume(&pool(), &"disk0@mon".parse().unwrap()).unwrap();
        // As the headroom thread would.
        let id = shared.id_of_minor(target.state(device).minor).unwrap();
        let unshared = crate::pool::settle::unshare(&shared, id, device).unwrap();
        told.lock().unwrap().push((unshared, target.state(device).mark));
    });
    assert!(house.put("disk0", 1, "new"));
    assert_eq!(*looks.lock().unwrap(), [(false, 1)]);
    house.target.before("remap", |_, _, _| {});
    eventually("nothing is shared", || house.target.state(&device).mark == 0);
    assert_eq!(house.texts("disk0"), ["old", "new", "old", "old", ""]);
    house.check();
}

#[test]
fn a_device_that_could_not_be_made_again_is_made_soon() {
    for done in [false, true] {
        let house = House::with_disk();
        let device = device_of(house.volume("disk0").uuid);
        house.snapshot(&["disk0"], "mon").unwrap();
        assert!(house.put("disk0", 1, "new"));
        let failing = Failing { errno: Errno::ENOMEM, times: 1, done };
        house.target.fail("create", failing);
        house.roll_back("disk0@mon").unwrap_err();
        eventually("it has a device", || house.target.has(&device));
        assert!(house.put("disk0", 2, "newer"));
        assert_eq!(house.texts("disk0"), ["old", "old", "newer", "old", ""]);
        house.check();
    }
}

#[test]
fn a_device_that_is_gone_although_removing_it_failed_is_gone() {
    let house = House::with_disk();
    house.snapshot(&["disk0"], "mon").unwrap();
    assert!(house.put("disk0", 1, "new"));
    let failing = Failing { errno: Errno::ENOMEM, times: 1, done: true };
    house.target.fail("remove", failing);
    house.roll_back("disk0@mon").unwrap();
    assert_eq!(house.texts("disk0"), ["old", "old", "old", "old", ""]);
    house.target.fail("remove", failing);
    house.delete("disk0@mon").unwrap();
    house.check();
}

/// What was copied is given to others when its snapshot goes: a read that went there before the copy took
/// its place would show them. A new daemon does not know whether there was a copy.
#[test]
fn nothing_reads_what_a_deleted_snapshot_had() {
    for (restarts, fails) in
        [(false, None), (true, None), (false, Some(false)), (false, Some(true))]
    {
        let mut house = House::with_disk();
        let device = device_of(house.volume("disk0").uuid);
        house.snapshot(&["disk0"], "mon").unwrap();
        assert!(house.put("disk0", 1, "new"));
        assert!(!house.target.state(&device).undrained.is_empty());
        if restarts {
            house.restart();
            house.engine.start_pool(&spec()).unwrap();
        }
        if let Some(done) = fails {
            house.target.fail("drain", Failing { errno: Errno::EINTR, times: 2, done });
        }
        house.delete("disk0@mon").unwrap();
        house.collected();
        assert_eq!(house.used(), 4);
        assert!(house.target.state(&device).undrained.is_empty(), "reads may be on their way");
        house.check();
    }
}

/// The same for a chunk that the guest discarded: its device reads there until it is drained.
#[test]
fn nothing_reads_what_was_discarded_before_its_snapshot_went() {
    let house = House::with_disk();
    let device = device_of(house.volume("disk0").uuid);
    // What it copied before this daemon came is no reason to drain it any more.
    house.snapshot(&["disk0"], "mon").unwrap();
    house.delete("disk0@mon").unwrap();
    house.collected();
    house.snapshot(&["disk0"], "tue").unwrap();
    house.target.discard(&device, 1..2);
    eventually("a hole", || house.target.state(&device).leaving.is_empty());
    assert!(!house.target.state(&device).undrained.is_empty());
    house.delete("disk0@tue").unwrap();
    house.collected();
    assert_eq!(house.used(), 3);
    assert!(house.target.state(&device).undrained.is_empty(), "reads may be on their way");
    house.check();
}

/// The kernel takes a chunk for a snapshot's although that is gone, and lets it go at once.
#[test]
fn nothing_reads_what_was_discarded_after_its_snapshot_went() {
    let house = House::with_disk();
    let device = device_of(house.volume("disk0").uuid);
    house.snapshot(&["disk0"], "mon").unwrap();
    house.target.fail("mark", Failing { errno: Errno::ENOMEM, times: u32::MAX, done: false });
    house.delete("disk0@mon").unwrap();
    house.collected();
    eventually("a hole", || {
        // It is brought back when the device is looked at before it is told.
        if house.place(&device, 1).is_some() {
            house.target.discard(&device, 1..2);
        }
        house.target.state(&device).leaving.is_empty()
    });
    house.target.heal();
    eventually("free", || house.used() == 3);
    assert!(house.target.state(&device).undrained.is_empty(), "reads may be on their way");
    assert!(house.put("disk0", 1, "new"));
    assert_eq!(house.texts("disk0"), ["old", "new", "old", "old", ""]);
    house.check();
}

/// Its guest writes to it all the same, where it wrote before, and reads what was copied where that was.
#[test]
fn a_device_that_was_not_taken_over_keeps_what_it_shows() {
    let mut house = House::with_disk();
    let device = device_of(house.volume("disk0").uuid);
    house.snapshot(&["disk0"], "mon").unwrap();
    assert!(house.put("disk0", 1, "new"));
    house.restart();
    let failing = Failing { errno: Errno::ENOMEM, times: u32::MAX, done: false };
    house.target.fail("notifier", failing);
    house.engine.start_pool(&spec()).unwrap();
    let refused = house.snapshot(&["disk0"], "tue").unwrap_err().to_string();
    assert!(refused.contains("could not be taken over"), "{refused}");
    house.clone_of("disk0", "clone", 16).unwrap_err();
    house.delete("disk0@mon").unwrap();
    let used = house.used();
    assert_eq!(used, 5, "the snapshot's chunk is not free");
    house.target.heal();
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    house.collected();
    assert!(house.target.state(&device).undrained.is_empty());
    assert_eq!(house.used(), 4);
    house.snapshot(&["disk0"], "tue").unwrap();
    house.check();
}

/// A volume that is cut until its generations end.
fn used_up(last_generation: u16) -> House {
    let sizes = super::house::Sizes { last_generation, ..super::house::SIZES };
    let house = House::on(&[Bytes::mib(64)], Bytes::mib(1), sizes);
    house.engine.start_pool(&spec()).unwrap();
    house.write_to_disk();
    house.create("disk0", 16);
    for number in 1..=last_generation {
        assert!(house.put("disk0", u64::from(number % 8), &format!("write {number}")));
        let name = format!("s{number}");
        house.snapshot(&["disk0"], &name).unwrap();
        // As retention does it: two stay, one of them from the middle.
        if number > 6 && number < last_generation {
            house.delete(&format!("disk0@{name}")).unwrap();
        }
    }
    house.clone_of("disk0@s4", "copy", 16).unwrap();
    assert!(house.put("copy", 1, "copy"));
    house
}

#[test]
fn generations_that_end_are_counted_anew_at_a_start_without_devices() {
    let mut house = used_up(20);
    let refused = house.snapshot(&["disk0"], "more").unwrap_err().to_string();
    assert!(refused.contains("stop the pool and start it again"), "{refused}");
    let refused = house.clone_of("disk0", "other", 16).unwrap_err().to_string();
    assert!(refused.contains("20 snapshots"), "{refused}");
    let names = ["disk0", "disk0@s2", "disk0@s4", "disk0@s20", "copy"];
    let all = |house: &House| names.map(|name| (0..9).map(|at| house.text(name, at)).collect());
    let before: [Vec<String>; 5] = all(&house);

    // Devices that live on keep the old ones.
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    house.collected();
    assert_eq!(all(&house), before);
    house.snapshot(&["disk0"], "more").unwrap_err();

    house.engine.stop_pool(&pool()).unwrap();
    house.engine.start_pool(&spec()).unwrap();
    assert_eq!(all(&house), before);
    house.snapshot(&["disk0"], "more").unwrap();
    for chunk in 0..9 {
        assert!(house.put("disk0", chunk, "new"));
        assert!(house.put("copy", chunk, "new copy"));
    }
    let after = all(&house);
    assert_eq!(after[1..4], before[1..4], "a snapshot was written");
    assert_eq!(after[0], ["new"; 9]);
    assert_eq!(after[4], ["new copy"; 9]);
    let checked = crate::repair::Repair::check(&*house.engine, &spec().vg).unwrap();
    assert!(checked.findings.is_empty(), "{checked:?}");
}

#[test]
fn a_start_that_is_cut_while_it_counts_anew_loses_nothing() {
    let names = ["disk0", "disk0@s2", "disk0@s4", "disk0@s20", "copy"];
    let all = |house: &House| names.map(|name| (0..9).map(|at| house.text(name, at)).collect());
    let mut counted = 0;
    for operation in 0.. {
        let mut house = used_up(20);
        let before: [Vec<String>; 5] = all(&house);
        house.collected();
        house.end(false, 1, 2);
        house.lvm.power().cut_after(operation);
        house.restart();
        let started = house.engine.start_pool(&spec()).is_ok();
        let through = started && !house.lvm.power().is_gone();
        house.end(false, operation + 2, operation % 5);
        house.restart();
        house.engine.start_pool(&spec()).unwrap();
        assert_eq!(all(&house), before, "cut after {operation}");
        house.snapshot(&["disk0"], "more").unwrap();
        counted += 1;
        if through {
            break;
        }
    }
    assert!(counted > 3, "no start was cut");
}

#[test]
fn an_operator_is_told_before_generations_end() {
    let sizes = super::house::Sizes { last_generation: 6, ..super::house::SIZES };
    let house = House::on(&[Bytes::mib(64)], Bytes::mib(1), sizes);
    house.engine.start_pool(&spec()).unwrap();
    house.create("disk0", 16);
    let mut listener = house.listen();
    for name in ["a", "b", "c", "d", "e", "f"] {
        house.snapshot(&["disk0"], name).unwrap();
    }
    let said = listener.heard().iter().filter_map(|event| match event {
        Event::Damage { what, .. } => Some(what.split(" before").next().unwrap().to_owned()),
        _ => None,
    });
    let left = |left| format!("'disk0' can have {left} more snapshots");
    assert_eq!(said.collect::<Vec<_>>(), [4, 2, 1, 0].map(left));
}
