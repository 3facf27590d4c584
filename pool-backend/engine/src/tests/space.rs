// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where space comes from, how soon, and what happens when that fails.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::house::each_until_the_last;
use virtnotify_model::Task;

use super::*;
use crate::alloc::{Extent, Run};
use crate::lvm::Lvm;
use crate::testing::Failing;
use nix::errno::Errno;

/// The sizes of an LV, as LVM and as the kernel has it.
fn sizes(house: &House, lv: &str) -> (u64, u64) {
    let told = house.lvm.change(|report| report.lv(lv).unwrap().size.0);
    (told, house.lvm.disk(lv).size().unwrap())
}

#[test]
fn an_extension_is_one_command() {
    let house = House::started(256);
    let disk = house.create("disk0", 128);
    eventually("settled", || house.engine.pool_info(&pool()).unwrap().headroom >= Bytes::mib(4));
    house.lvm.log();
    let before = sizes(&house, &data_lv(0)).0;
    assert!((0..400).all(|chunk| house.write(&device_of(disk.uuid), chunk)));
    let log = house.lvm.log();
    let extensions = log.iter().filter(|command| **command == "lvextend").count();
    assert_eq!(log.len(), extensions, "{log:?}");
    assert!(extensions > 2 && sizes(&house, &data_lv(0)).0 > before + (80 << 20));
    house.check();
}

#[test]
fn what_a_write_waits_for_is_zeroed_first() {
    let house = House::started(256);
    let disk = device_of(house.create("disk0", 128).uuid);
    eventually("settled", || house.engine.pool_info(&pool()).unwrap().headroom >= Bytes::mib(4));
    let data = house.lvm.disk(&data_lv(0));
    // Another program holds LVM's lock until the headroom is used up.
    let mut chunks = (0..).map(|n| n * 3);
    let held = house.lvm.hold();
    let waits = chunks
        .find(|&chunk| house.target.try_write(&disk, chunk, Duration::from_millis(300)).is_none());
    let waits = waits.unwrap();
    data.zeroed();
    drop(held);
    assert!(house.write(&disk, waits));
    let zeroed = data.zeroed();
    assert_eq!(zeroed[0], CHUNK, "{zeroed:?}");
    house.check_zeroes();
}

#[test]
fn nobody_but_who_needs_it_waits_for_lvm() {
    let house = House::started(256);
    let disk = device_of(house.create("disk0", 128).uuid);
    assert!(house.write(&disk, 0));
    let held = house.lvm.hold();
    let limit = Duration::from_millis(300);
    let waits = (1..).map(|n| n * 3).find(|&n| house.target.try_write(&disk, n, limit).is_none());
    let begin = Instant::now();
    let info = house.engine.pool_info(&pool()).unwrap();
    assert_eq!(info.headroom, Bytes::ZERO);
    assert_eq!(house.volume("disk0").state, VolumeState::Growing);
    assert!(house.write(&disk, 0));
    assert!(begin.elapsed() < Duration::from_secs(2));
    drop(held);
    assert!(house.write(&disk, waits.unwrap()));
    house.check();
}

#[test]
fn a_group_that_gets_a_device_lets_volumes_go_on() {
    let house = House::started(24);
    let big = house.create("big", 64);
    let device = device_of(big.uuid);
    let full = (0..256).find(|&chunk| !house.write(&device, chunk)).unwrap();
    eventually("told", || house.volume("big").state == VolumeState::OutOfSpace);
    house.lvm.change(|report| {
        report.size = Bytes::mib(32);
        report.free = Bytes::mib(8);
    });
    // LVM writes its backup, and nobody tells us.
    let backup = house.dir.path().join("backup");
    std::fs::create_dir_all(&backup).unwrap();
    std::fs::write(backup.join("vg0"), "changed").unwrap();
    eventually("room", || house.volume("big").state == VolumeState::Growing);
    assert!(house.write(&device, full));
    let shown = || house.engine.pool_info(&pool()).unwrap().capacity;
    eventually("shown", || shown() == Bytes::mib(32));
}

#[test]
fn a_group_that_changes_is_seen_without_being_asked() {
    let house = House::started(64);
    eventually("settled", || house.engine.pool_info(&pool()).unwrap().headroom >= Bytes::mib(4));
    house.lvm.change(|report| {
        report.size = Bytes::mib(128);
        report.free = report.free.saturating_add(Bytes::mib(64));
    });
    let backup = house.dir.path().join("backup");
    std::fs::create_dir_all(&backup).unwrap();
    std::fs::write(backup.join("vg0"), "changed").unwrap();
    let shown = || house.engine.pool_info(&pool()).unwrap().capacity;
    eventually("shown", || shown() == Bytes::mib(128));
}

#[test]
fn lvm_that_is_killed_half_way_leaves_no_half_state() {
    let house = House::started(256);
    let disk = device_of(house.create("disk0", 128).uuid);
    eventually("settled", || house.engine.pool_info(&pool()).unwrap().headroom >= Bytes::mib(4));
    house.lvm.lag(true);
    let limit = Duration::from_millis(500);
    let stuck = (0..200).find(|&n| house.target.try_write(&disk, n * 2, limit).is_none()).unwrap();
    let (told, there) = sizes(&house, &data_lv(0));
    assert!(told > there, "it was extended, and the kernel does not know");
    house.lvm.lag(false);
    assert!((stuck..stuck + 60).all(|n| house.write(&disk, n * 2)));
    house.check();
    house.check_zeroes();
}

#[test]
fn a_pool_goes_on_after_its_metadata_could_not_be_written() {
    let mut house = House::started(128);
    let mut told = house.listen();
    let disk = device_of(house.create("disk0", 64).uuid);
    assert!((0..10).all(|chunk| house.write(&disk, chunk)));
    let meta = house.lvm.disk(META_LV);
    meta.fail_after(5);
    let limit = Duration::from_millis(500);
    let stuck = (10..).find(|&n| house.target.try_write(&disk, n * 2, limit).is_none()).unwrap();
    assert!(house.create_with("other", 4, 0).is_err());
    assert!(house.delete("disk0").is_err());
    eventually("it shows", || house.engine.is_damaged(&pool()));
    told.until("that it is damaged", |event| matches!(event, Event::Damage { .. }));
    meta.heal();
    assert!((stuck..stuck + 10).all(|n| house.write(&disk, n * 2)));
    eventually("it is over", || !house.engine.is_damaged(&pool()));
    assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 1);
    house.create("other", 4);
    house.check();
    let read = house.engine.contents(&pool()).unwrap();
    assert_eq!(read.volumes.len(), 2, "who reads beside reads what is written now");
    let before = house.target.state(&disk).map;
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    let runs = |map: &crate::alloc::VolumeMap| map.iter().collect::<Vec<_>>();
    assert_eq!(runs(&house.target.state(&disk).map), runs(&before));
    house.check_zeroes();
}

#[test]
fn a_pool_is_made_and_removed_whatever_command_is_the_last() {
    for commands in 0..12 {
        let house = House::with_group(64);
        house.lvm.fail_after(Some(commands));
        let started = house.engine.start_pool(&spec()).is_ok();
        house.lvm.fail_after(None);
        if !started {
            house.engine.start_pool(&spec()).unwrap();
        }
        let disk = house.create("disk0", 16);
        assert!(house.write(&device_of(disk.uuid), 7));
        house.check();
        house.delete("disk0").unwrap();
        house.engine.stop_pool(&pool()).unwrap();
        house.lvm.fail_after(Some(commands));
        let removed = house.engine.delete_pool(&spec()).is_ok();
        house.lvm.fail_after(None);
        if !removed {
            house.engine.delete_pool(&spec()).unwrap();
        }
        assert!(house.is_bare());
    }
}

#[test]
fn a_pool_that_goes_takes_the_labels_of_its_devices_along() {
    let house = House::started(64);
    house.engine.stop_pool(&pool()).unwrap();
    house.lvm.log();
    let devices = vec!["/dev/vdb".into(), "/dev/vdc".into()];
    house.engine.delete_pool(&PoolSpec { devices, ..spec() }).unwrap();
    let log = house.lvm.log();
    assert!(log.ends_with(&["vgremove", "pvremove", "pvremove"]), "{log:?}");
}

#[test]
fn a_group_that_was_restored_to_an_older_state_is_refused() {
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..64).all(|chunk| house.write(&disk, chunk)));
    house.engine.stop_pool(&pool()).unwrap();
    let (vg, old) = ("vg0".parse().unwrap(), Bytes::mib(4));
    house.lvm.reduce_lv(&vg, &data_lv(0), old).unwrap();
    let refused = house.engine.start_pool(&spec()).unwrap_err().to_string();
    assert!(refused.contains("not on its data LV"), "{refused}");
    assert_eq!(sizes(&house, &data_lv(0)).0, old.0, "nothing was touched");
}

#[test]
fn an_extension_of_our_volume_by_others_does_no_harm() {
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    let (vg, lv) = ("vg0".parse().unwrap(), data_lv(0));
    let now = Bytes(sizes(&house, &lv).0);
    house.lvm.extend_lv(&vg, &lv, now.saturating_add(Bytes::mib(8))).unwrap();
    assert!((0..100).all(|chunk| house.write(&disk, chunk)));
    house.check();
    house.check_zeroes();
}

#[test]
fn eight_writers_on_one_hole_get_one_chunk() {
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    for chunk in [40, 80, 3] {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(house.write(&disk, chunk)));
            }
        });
    }
    assert_eq!(house.target.state(&disk).map.chunks(), 3);
    house.check();
}

#[test]
fn chunks_of_every_size_make_volumes_of_every_size() {
    for (shift, largest) in [(16u32, 256u64 << 30), (22, 16 << 40), (30, 4 << 50)] {
        let chunk = ChunkSize::new(Bytes(1 << shift)).unwrap();
        // A disk in memory is not large: a pool of large chunks is only made.
        let group = if shift == 30 { 40 } else { 64 };
        let house = House::with_group(group);
        let started = house.engine.start_pool(&PoolSpec { chunk, ..spec() });
        if shift == 30 {
            let refused = started.unwrap_err().to_string();
            assert!(refused.contains("needs"), "{refused}");
            continue;
        }
        started.unwrap();
        let disk = house.create("disk0", largest >> 20);
        assert_eq!(disk.capacity.0, largest);
        let last = largest / chunk.bytes().0 - 1;
        assert!(house.write(&device_of(disk.uuid), last));
        let name = "larger".parse().unwrap();
        let spec = VolumeSpec {
            name,
            capacity: Bytes(largest + 4096),
            allocation: Bytes::ZERO,
            uuid: Uuid::new_v4(),
            backing: None,
        };
        let refused = house.engine.create_volume(&pool(), &spec).unwrap_err();
        assert!(matches!(refused, BackendError::Capacity { .. }), "{refused}");
    }
}

#[test]
fn a_hundred_volumes_that_write_at_once_share_commits() {
    let house = House::with_group(128);
    let chunk = ChunkSize::new(Bytes(64 << 10)).unwrap();
    house.engine.start_pool(&PoolSpec { chunk, ..spec() }).unwrap();
    let devices: Vec<_> =
        (0..100).map(|n| device_of(house.create(&format!("disk{n}"), 16).uuid)).collect();
    for round in 0..5 {
        house.write_together(&devices, round * 7);
    }
    let figures = house.engine.growth_figures(&pool()).unwrap();
    assert_eq!((figures.growths, figures.chunks, figures.held), (500, 500, 500));
    // Ten volumes at a time would be 50. It is more than two a round when clean chunks run out.
    assert!(figures.commits < 50, "{figures:?}");
}

#[test]
fn a_growth_is_one_write_and_one_flush() {
    let house = House::started(256);
    let disk = device_of(house.create("disk0", 200).uuid);
    let shared = house.engine.started(&pool()).unwrap();
    let meta = house.lvm.disk(META_LV);
    // Commits are made with the core locked: while a test has it, none is under way.
    let so_far = || {
        let core = shared.core();
        (shared.reader.commits(), core.metadata_length(), meta.operations())
    };
    let mut alone = 0;
    for chunk in (0..200).map(|n| n * 3) {
        // The journal is empty, and stays out of the tables.
        shared.reader.checkpoint().unwrap();
        shared.reader.without_checkpoint(|| {
            let (commits, length, (writes, flushes)) = so_far();
            assert!(house.write(&disk, chunk));
            let after = so_far();
            // Only a growth that nothing else was committed beside shows what one costs.
            if (after.0, after.1) == (commits + 1, length) {
                assert_eq!((after.2.0 - writes, after.2.1 - flushes), (1, 1), "{after:?}");
                alone += 1;
            }
        });
    }
    assert!(alone >= 8, "{alone} of 200 growths had nothing beside them");
}

/// A pool of which much is free, and whose tail is about to go back to the group.
fn about_to_trim() -> (House, DeviceId) {
    let house = House::with_data(128);
    let big = device_of(house.create("big", 64).uuid);
    let disk = device_of(house.create("disk0", 64).uuid);
    assert!((0..200).all(|chunk| house.write(&big, chunk)));
    (house, disk)
}

#[test]
fn a_reduction_that_is_killed_half_way_ends_no_growth() {
    let (house, disk) = about_to_trim();
    house.lvm.lag(true);
    house.delete("big").unwrap();
    let reduced = || {
        let (told, there) = sizes(&house, &data_lv(0));
        told < there
    };
    eventually("it was reduced, and the kernel does not know", reduced);
    house.lvm.lag(false);
    assert!((0..200).all(|chunk| house.write(&disk, chunk)));
    house.check_written(&disk, 0..200);
    house.check();
}

#[test]
fn a_reduction_that_times_out_ends_no_growth() {
    for done in [false, true] {
        let (house, disk) = about_to_trim();
        house.lvm.hang("lvreduce", 1, done);
        house.lvm.log();
        house.delete("big").unwrap();
        eventually("it was tried", || house.lvm.log().contains(&"lvreduce"));
        assert!((0..200).all(|chunk| house.write(&disk, chunk)), "done: {done}");
        house.check_written(&disk, 0..200);
        house.check();
        // Nothing is kept out of use.
        house.delete("disk0").unwrap();
        eventually("all goes back to the group", || {
            house.job(&Task::Reclaim(None));
            sizes(&house, &data_lv(0)).0 <= Bytes::mib(10).0
        });
    }
}

#[test]
fn a_commit_that_fails_before_a_reduction_ends_no_growth() {
    let failures = AtomicU64::new(0);
    each_until_the_last(|after| {
        let (house, disk) = about_to_trim();
        let meta = house.lvm.disk(META_LV);
        // The reduction may come before the disk fails: then this one shows nothing.
        house.delete("big").unwrap();
        meta.fail_after(after);
        eventually("it fails, or nothing is left to do", || {
            meta.has_failed() || house.lvm.log().contains(&"lvreduce")
        });
        let failed = meta.has_failed();
        meta.heal();
        assert!((0..200).all(|chunk| house.write(&disk, chunk)), "failed after {after}");
        house.check_written(&disk, 0..200);
        house.check();
        failures.fetch_add(u64::from(failed), Ordering::SeqCst);
        after < 12
    });
    let failures = failures.into_inner();
    assert!(failures >= 3, "only {failures} operations failed");
}

#[test]
fn a_chunk_that_cannot_be_zeroed_costs_itself_alone() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 64).uuid);
    let mut told = house.listen();
    let data = house.lvm.disk(&data_lv(0));
    let bad = 30;
    data.go_bad_at(bad * CHUNK + 4096);
    let fit = (0..300).take_while(|&chunk| house.write(&disk, chunk)).count();
    // 64 MiB, less 16 of metadata, less that chunk.
    assert_eq!(fit, 48 * 4 - 1);
    let bad_place = crate::alloc::Place { lv: 0, chunk: bad };
    let state = house.target.state(&disk);
    assert!((0..fit as u64).all(|chunk| state.map.place(chunk) != Some(bad_place)));
    let damage =
        |event: &Event| matches!(event, Event::Damage { what, .. } if what.contains("chunk 30"));
    assert_eq!(told.until("which one it is", damage), 1);
    house.check_contents();
    house.check();
}

#[test]
fn volumes_that_wait_for_space_go_on_one_by_one() {
    let house = House::with_data(24);
    let names = ["a", "b", "c"];
    let disks = names.map(|name| device_of(house.create(name, 64).uuid));
    let full = (0..256).find(|&chunk| !house.write(&disks[0], chunk)).unwrap();
    assert!(!house.write(&disks[1], 0) && !house.write(&disks[2], 0));
    let out = |name: &&str| house.volume(name).state == VolumeState::OutOfSpace;
    eventually("all are out of space", || names.iter().all(out));
    house.target.discard(&disks[0], 0..1);
    eventually("one goes on", || names.iter().filter(|name| out(name)).count() < 3);
    house.target.discard(&disks[0], 1..4);
    eventually("all go on", || !names.iter().any(out));
    assert!(house.write(&disks[1], 0) && house.write(&disks[2], 0));
    house.check_written(&disks[0], 4..full);
    house.check();
}

/// Making a volume fails, and removing its device as well: a program has it open.
#[test]
fn nobody_gets_what_the_device_of_a_volume_that_was_not_made_shows() {
    let house = House::with_data(64);
    let other = device_of(house.create("other", 64).uuid);
    let failing = |times| Failing { errno: Errno::ENOMEM, times, done: false };
    let before: BTreeSet<DeviceId> = house.target.all().into_keys().collect();
    house.target.fail("map", failing(1));
    house.target.fail("remove", failing(u32::MAX));
    house.create_with("half", 16, 8).unwrap_err();
    let devices = house.target.all();
    let half = devices.keys().find(|id| !before.contains(id)).unwrap();
    // Before it was found that it cannot be removed it was given its chunks.
    let shared = house.engine.started(&pool()).unwrap();
    let used = shared.core().free.used();
    assert_eq!(used, (8 << 20) / CHUNK);
    let all = (0..).take_while(|&chunk| house.write(&other, chunk)).count() as u64;
    assert_eq!(shared.core().free.used(), used + all, "its chunks are given to nobody");
    house.target.heal();
    eventually("it is gone", || !house.target.has(half));
    eventually("its chunks are free", || shared.core().free.used() == all);
    house.create("half", 16);
    house.check();
}

/// Its guest reads them: nobody else gets them, nor are they zeroed.
#[test]
fn what_a_device_has_against_the_metadata_is_not_free() {
    let mut house = House::started(64);
    house.write_to_disk();
    house.create("odd", 16);
    house.create("disk0", 64);
    assert!(house.put("odd", 0, "known"));
    let shared = house.engine.started(&pool()).unwrap();
    eventually("headroom", || shared.core().free.clean() >= shared.gate.mark());
    let (clean, dirty) = shared.core().free.extents();
    let device = device_of(house.volume("odd").uuid);
    for (at, free) in (5..).zip([clean.last(), dirty.last()].into_iter().flatten()) {
        let to = Extent { start: free.start, length: 1 };
        house.target.change(&device, |device| device.map.insert(Run { at, to }).unwrap());
        assert!(house.put("odd", at, "odd"));
    }
    drop(shared);
    house.restart();
    let mut listener = house.listen();
    house.engine.start_pool(&spec()).unwrap();
    let told = |event: &Event| matches!(event, Event::Damage { what, .. } if what.contains("takes for free"));
    let odd = house.target.read(&device, 5);
    // What is read from the disk again says that they are free once more.
    let meta = house.lvm.disk(META_LV);
    std::thread::scope(|scope| {
        meta.fail_after(0);
        let write = scope.spawn(|| house.put("disk0", 0, "other"));
        eventually("a commit that fails", || meta.has_failed());
        meta.heal();
        assert!(write.join().unwrap());
    });
    let mut chunk = 1;
    while house.put("disk0", chunk, "other") {
        chunk += 1;
    }
    assert!(chunk > 100, "{chunk}");
    assert!(house.target.read(&device, 5) == odd);
    assert_eq!(house.text("odd", 0), "known");
    listener.until("what is wrong", told);
}
