// SPDX-License-Identifier: LGPL-2.1-or-later
//! The engine as a whole, over an LVM and a device mapper in memory.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use virtnotify_model::{
    Backend, BackendError, Bytes, Change, ChunkSize, Event, GrowthLimits, Policy, PoolSpec,
    VolumeSpec, VolumeState, WipeMode, WipePass,
};

use self::house::{CHUNK, House, eventually, pool, spec};
use crate::device::BlockDevice;
use crate::engine::Engine;
use crate::names::{META_LV, TAG, TAG_NEW, data_lv};
use crate::runtime::Instant;
use crate::target::{DeviceId, Target, Wish};
use crate::testing::{FakeTarget, device_of, parts};

mod accounts;
mod collector;
mod cuts;
mod data_lvs;
mod evacuate;
mod failing_disks;
mod giveback;
mod heritage;
mod house;
mod names;
mod overcommit;
mod passdown;
mod resize;
mod sentences;
mod simulation;
mod snapshot_cuts;
mod snapshots;
mod space;
mod threads;
mod zeroes;

#[test]
fn a_volume_grows_chunk_by_chunk() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    assert_eq!(disk.allocation, Bytes::ZERO);
    let device = device_of(disk.uuid);
    assert!(house.write(&device, 63));
    eventually("shown", || house.volume("disk0").allocation == Bytes(CHUNK));
    assert!(house.write(&device, 0));
    eventually("shown", || house.volume("disk0").allocation == Bytes(2 * CHUNK));
    for chunk in 1..20 {
        assert!(house.write(&device, chunk));
    }
    house.check();
    let state = house.target.state(&device);
    let runs = state.map.iter().count();
    assert!(runs <= 3, "a sequential writer's chunks lie together: {runs} runs");
}

#[test]
fn a_chunk_is_zeroed_before_anybody_gets_it() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    for chunk in 0..20 {
        assert!(house.write(&device_of(disk.uuid), chunk * 3));
    }
    house.check_zeroes();
}

#[test]
fn writes_fail_when_the_group_is_full_and_go_on_when_it_is_not() {
    let house = House::with_data(24);
    let mut told = house.listen();
    let (big, small) = (house.create("big", 64), house.create("small", 1));
    assert!(house.write(&device_of(small.uuid), 0));
    let full = (0..256).find(|&chunk| !house.write(&device_of(big.uuid), chunk)).unwrap();
    // 24 MiB, less 16 of metadata, less the small volume's chunk.
    assert_eq!(full, 8 * 4 - 1);
    eventually("told", || house.volume("big").state == VolumeState::OutOfSpace);
    assert_eq!(house.volume("small").state, VolumeState::Growing);
    assert_eq!(house.engine.pool_info(&pool()).unwrap().available, Bytes::ZERO);
    house.check();
    told.until("that it is low", |e| matches!(e, Event::SpaceLow { .. }));
    let exhausted = |e: &Event| matches!(e, Event::SpaceExhausted { .. });
    assert_eq!(told.until("that there is none", exhausted), 1);

    house.delete("small").unwrap();
    eventually("room", || house.volume("big").state == VolumeState::Growing);
    assert!(house.write(&device_of(big.uuid), full));
    house.lvm.change(|report| {
        report.size = Bytes::mib(32);
        report.free = Bytes::mib(8);
    });
    house.engine.refresh_pool(&pool()).unwrap();
    assert!((full..full + 8).all(|chunk| house.write(&device_of(big.uuid), chunk)));
}

#[test]
fn the_metadata_volume_grows_before_it_is_full() {
    let small = Bytes((1 << 20) + (256 << 10));
    let house = House::with_metadata(64, Bytes(128 << 10), small);
    house.engine.start_pool(&spec()).unwrap();
    let disk = house.create("disk0", 32);
    let size = || house.lvm.change(|report| report.lv(META_LV).unwrap().size);
    eventually("extended", || size() > small);
    assert!(house.write(&device_of(disk.uuid), 1));
    house.check();
}

#[test]
fn deleted_space_returns_to_the_group() {
    let house = House::started(64);
    let free = house.lvm.change(|report| report.free);
    let disk = house.create("disk0", 32);
    for chunk in 0..100 {
        assert!(house.write(&device_of(disk.uuid), chunk));
    }
    assert!(house.lvm.change(|report| report.free) < Bytes(free.0 - Bytes::mib(16).0));
    house.delete("disk0").unwrap();
    eventually("given back", || house.lvm.change(|r| r.free).0 + Bytes::mib(8).0 >= free.0);
    house.check();
}

#[test]
fn lost_signals_are_found_by_the_sweep() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    house.target.lose_signals(true);
    assert!(house.write(&device_of(disk.uuid), 5));
}

#[test]
fn bells_that_are_doubled_late_or_wrong_do_no_harm() {
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    for chunk in 0..20 {
        assert!(house.write(&disk, chunk * 3));
        for minor in [None, Some(0), Some(u32::MAX >> 1), Some(4711)] {
            house.target.ring_falsely(&disk, minor);
        }
    }
    assert_eq!(house.target.state(&disk).map.chunks(), 20);
    house.check();
}

#[test]
fn a_new_daemon_serves_what_waited_for_the_old_one() {
    let mut house = House::started(64);
    let disk = house.create("disk0", 16);
    let device = device_of(disk.uuid);
    assert!((0..10).all(|chunk| house.write(&device, chunk)));
    house.engine.halt();
    let (target, held) = (house.target.clone(), device.clone());
    let writer = std::thread::spawn(move || target.write(&held, 40));
    eventually("held", || house.target.status(&device).unwrap().wanted == 1);
    house.restart();
    assert_eq!(house.engine.live_pools(), [pool()]);
    house.engine.start_pool(&spec()).unwrap();
    assert!(writer.join().unwrap());
    let mapped = || house.target.status(&device).unwrap().mapped;
    eventually("shown", || house.volume("disk0").allocation == Bytes(mapped() * CHUNK));
    house.check();
}

#[test]
fn what_the_kernel_lacks_is_sent_again_and_what_it_has_too_much_is_damage() {
    let mut house = House::started(64);
    let (lacks, odd) = (house.create("lacks", 16), house.create("odd", 16));
    for chunk in [3, 9] {
        assert!(house.write(&device_of(lacks.uuid), chunk));
        assert!(house.write(&device_of(odd.uuid), chunk));
    }
    house.engine.halt();
    house.target.change(&device_of(lacks.uuid), |device| drop(device.map.remove(9, 1)));
    house.target.change(&device_of(odd.uuid), |device| {
        let mut run = device.map.remove(9, 1)[0];
        run.at = 11;
        device.map.insert(run).unwrap();
    });
    let mut told = house.listen();
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    assert_eq!(house.target.state(&device_of(lacks.uuid)).map.chunks(), 2);
    assert_eq!(house.volume("odd").state, VolumeState::Inactive);
    let odd = |e: &Event| matches!(e, Event::Damage { what, .. } if what.contains("'odd'"));
    assert_eq!(told.until("that one is damaged", odd), 1);
    // What is freed has no device any more.
    let odd = device_of(house.volume("odd").uuid);
    house.delete("odd").unwrap();
    assert!(!house.target.has(&odd));
}

#[test]
fn a_resize_that_was_cut_off_is_finished() {
    let mut house = House::started(64);
    let disk = house.create("disk0", 16);
    house.engine.resize_volume(&pool(), &disk.name, Bytes::mib(32)).unwrap();
    assert_eq!(house.volume("disk0").capacity, Bytes::mib(32));
    let device = device_of(disk.uuid);
    assert!(house.write(&device, 127));
    let shrunk = house.engine.resize_volume(&pool(), &disk.name, Bytes::mib(16));
    assert!(matches!(shrunk, Err(BackendError::Refused(_))));
    house.engine.halt();
    house.target.change(&device, |device| device.length = Bytes::mib(16).whole_sectors());
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    assert_eq!(house.target.state(&device).length, Bytes::mib(32).whole_sectors());
}

#[test]
fn only_one_engine_runs() {
    let house = House::with_group(64);
    let second = Engine::with_parts(parts(house.dir.path(), &house.lvm, &house.target, &house.bus));
    let sentence = second.err().unwrap().to_string();
    assert!(sentence.contains("another virtnotifyd runs"), "{sentence}");
}

#[test]
fn bad_requests_change_nothing() {
    let house = House::started(64);
    house.create("disk0", 16);
    assert!(matches!(house.create_with("disk0", 16, 0), Err(BackendError::VolumeExists { .. })));
    for capacity in [0, 1 << 63, u64::MAX] {
        let name = "bad".parse().unwrap();
        let spec = VolumeSpec {
            name,
            capacity: Bytes(capacity),
            allocation: Bytes::ZERO,
            uuid: Uuid::new_v4(),
            backing: None,
        };
        let refused = house.engine.create_volume(&pool(), &spec);
        assert!(matches!(refused, Err(BackendError::Capacity { .. })), "{capacity}");
    }
    assert!(matches!(house.create_with("fat", 128, 100), Err(BackendError::NoSpace { .. })));
    assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 1);
    let disk = house.volume("disk0");
    house.target.change(&device_of(disk.uuid), |device| device.openers = 1);
    assert!(matches!(house.delete("disk0"), Err(BackendError::VolumeInUse(_))));
    assert!(matches!(house.engine.stop_pool(&pool()), Err(BackendError::VolumeInUse(_))));
    assert!(house.write(&device_of(disk.uuid), 1), "it grows as before");
    let other = PoolSpec { name: "other".parse().unwrap(), ..spec() };
    assert!(matches!(house.engine.start_pool(&other), Err(BackendError::Source(_))));
    house.check();
}

#[test]
fn growths_that_wait_together_are_committed_together() {
    let house = House::with_group(128);
    let chunk = ChunkSize::new(Bytes(64 << 10)).unwrap();
    house.engine.start_pool(&PoolSpec { chunk, ..spec() }).unwrap();
    let volumes = 50;
    let devices: Vec<_> =
        (0..volumes).map(|n| device_of(house.create(&format!("disk{n}"), 16).uuid)).collect();
    for round in 0..10 {
        house.write_together(&devices, round * 7);
    }
    let figures = house.engine.growth_figures(&pool()).unwrap();
    assert_eq!((figures.growths, figures.chunks), (500, 500));
    // Ten volumes at a time would be 50. It is more than two a round when clean chunks run out.
    assert!(figures.commits < 50, "{figures:?}");
}

#[test]
fn a_preallocated_volume_has_its_chunks_at_once() {
    let house = House::started(64);
    let disk = house.create_with("disk0", 20, 20).unwrap();
    assert_eq!(disk.allocation, Bytes::mib(20));
    assert_eq!(house.target.state(&device_of(disk.uuid)).map.chunks(), 80);
    house.check();
}

#[test]
fn a_pool_stops_starts_and_goes() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    assert!(house.write(&device_of(disk.uuid), 7));
    house.engine.stop_pool(&pool()).unwrap();
    assert!(house.target.devices().unwrap().is_empty());
    assert!(matches!(house.engine.delete_pool(&spec()), Err(BackendError::Refused(_))));
    house.engine.start_pool(&spec()).unwrap();
    assert_eq!(house.volume("disk0").uuid, disk.uuid);
    assert_eq!(house.volume("disk0").allocation, Bytes(CHUNK));
    house.delete("disk0").unwrap();
    house.engine.stop_pool(&pool()).unwrap();
    house.engine.delete_pool(&spec()).unwrap();
    assert!(house.is_bare());
}

#[test]
fn nothing_is_silently_made_anew() {
    let house = House::started(64);
    house.engine.stop_pool(&pool()).unwrap();
    let whole = house.lvm.change(|report| report.clone());
    let refused = |change: &dyn Fn(&mut crate::lvm::VgReport)| {
        house.lvm.change(|report| {
            report.clone_from(&whole);
            change(report);
        });
        house.engine.start_pool(&spec()).unwrap_err().to_string()
    };
    assert!(refused(&|vg| vg.lvs.clear()).contains("is gone"));
    assert!(refused(&|vg| vg.lvs.retain(|lv| lv.name == META_LV)).contains("lacks"));
    assert!(refused(&|vg| vg.lvs[0].tags.clear()).contains("not virtnotify's"));
    assert!(refused(&|vg| vg.exported = true).contains("exported"));
    assert!(refused(&|vg| vg.partial = true).contains("lacks a device"));
    let other = "9".repeat(38);
    assert!(
        refused(&|vg| vg.lvs[0].uuid.clone_from(&other)).contains("another logical volume"),
        "a metadata LV of another pool"
    );
    assert!(refused(&|vg| vg.lvs[1].uuid.clone_from(&other)).contains("another logical volume"));
}

#[test]
fn a_half_made_pool_is_made_again() {
    let house = House::started(64);
    house.engine.stop_pool(&pool()).unwrap();
    house.lvm.change(|report| {
        report.tags.clear();
        let meta = report.lvs.iter_mut().find(|lv| lv.name == META_LV);
        meta.unwrap().tags.push(TAG_NEW.to_owned());
    });
    house.engine.start_pool(&spec()).unwrap();
    assert!(house.lvm.change(|report| report.tags.iter().any(|tag| tag == TAG)));
    let disk = house.create("disk0", 16);
    assert!(house.write(&device_of(disk.uuid), 7));
    house.check();
}

#[test]
fn lvm_that_fails_costs_nothing_but_time() {
    let house = House::started(64);
    let disk = house.create("disk0", 64);
    house.lvm.refuse(true);
    let (target, device) = (house.target.clone(), device_of(disk.uuid));
    let writer = std::thread::spawn(move || (0..40).all(|chunk| target.write(&device, chunk)));
    eventually("it waits", || {
        house.target.status(&device_of(disk.uuid)).unwrap().wanted == 1
            && house.engine.pool_info(&pool()).unwrap().headroom == Bytes::ZERO
    });
    house.lvm.refuse(false);
    assert!(writer.join().unwrap());
    house.check();
}

#[test]
fn a_wiped_volume_is_empty_and_keeps_its_name() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    assert!(house.write(&device_of(disk.uuid), 7));
    const PASSES: &[WipePass] = &[WipePass::Random, WipePass::Pattern([9; 3]), WipePass::Verify];
    for mode in [WipeMode::Zero, WipeMode::Trim, WipeMode::Overwrite(PASSES)] {
        house.engine.wipe_volume(&pool(), &disk.name, mode).unwrap();
        assert_eq!(house.volume("disk0").allocation, Bytes::ZERO);
        assert!(house.write(&device_of(disk.uuid), 7));
    }
    house.check();
}

#[test]
fn a_volume_is_allocated_at_once_when_asked() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    assert!(house.write(&device_of(disk.uuid), 7));
    let allocate = |name| house.engine.allocate_volume(&pool(), name);
    assert_eq!(allocate(&disk.name).unwrap(), Change::Changed);
    assert_eq!(house.volume("disk0").allocation, Bytes::mib(16));
    assert_eq!(house.target.state(&device_of(disk.uuid)).map.chunks(), 64);
    assert_eq!(allocate(&disk.name).unwrap(), Change::Identity);
    let large = house.create("large", 128);
    assert!(matches!(allocate(&large.name), Err(BackendError::NoSpace { .. })));
    house.check();
}

#[test]
fn a_part_is_made_ready_to_be_written() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    let prepare = |offset, length| {
        house.engine.prepare_write(&pool(), &disk.name, Bytes(offset), Bytes(length)).unwrap();
        house.volume("disk0").allocation.0 / CHUNK
    };
    assert_eq!(prepare(5 * CHUNK + 1, 1), 1);
    assert_eq!(prepare(5 * CHUNK, CHUNK), 1);
    assert_eq!(prepare(4 * CHUNK, 3 * CHUNK), 3);
    assert_eq!(prepare(63 * CHUNK, u64::MAX), 4);
    assert_eq!(prepare(64 * CHUNK, CHUNK), 4);
    assert_eq!(house.target.state(&device_of(disk.uuid)).map.chunks(), 4);
    house.check();
}

#[test]
fn a_started_pool_has_its_policy() {
    let house = House::started(64);
    assert_eq!(house.engine.policy(&pool()).unwrap(), Policy::default());
    let other = Policy { movable: false, ..Policy::default() };
    assert_eq!(house.engine.set_policy(&pool(), &other).unwrap(), Change::Changed);
    assert_eq!(house.engine.policy(&pool()).unwrap(), other);
    house.engine.stop_pool(&pool()).unwrap();
    assert!(house.engine.policy(&pool()).is_err());
}

#[test]
fn growth_stays_within_its_limits_and_nothing_is_sent_twice() {
    let house = House::started(64);
    house.create("disk0", 16);
    let shared = house.engine.started(&pool()).unwrap();
    eventually("headroom", || shared.core().free.clean() >= 8);
    let mut core = shared.core();
    let id = core.find(&"disk0".parse().unwrap()).unwrap();
    let least = Some(Bytes(4 * CHUNK));
    let limits = GrowthLimits { least, most: least };
    let wishes = [0, 1, 3, 9].map(Wish::Write).to_vec();
    let growth = core.grow(&[(id, wishes)], limits).unwrap();
    let sent = growth.maps[&id].iter().flat_map(|sent| sent.run.at..sent.run.end());
    let mut sent: Vec<u64> = sent.collect();
    sent.sort_unstable();
    assert_eq!(sent, [0, 1, 2, 3, 9, 10, 11, 12]);
}

#[test]
fn what_is_shown_is_true_at_every_moment() {
    let house = House::with_group(160);
    let chunk = ChunkSize::new(Bytes(64 << 10)).unwrap();
    house.engine.start_pool(&PoolSpec { chunk, ..spec() }).unwrap();
    let disk = house.create("disk0", 64);
    let device = device_of(disk.uuid);
    let mut looks = 0;
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            assert!((0..500).all(|n| house.write(&device, n * 2)));
            house.engine.allocate_volume(&pool(), &disk.name).unwrap();
            house.create_with("made", 64, 32).unwrap();
            house.target.discard(&device, 0..500);
            house.engine.wipe_volume(&pool(), &disk.name, WipeMode::Trim).unwrap();
            house.delete("made").unwrap();
        });
        while !work.is_finished() {
            house.check_shown();
            looks += 1;
        }
        work.join().unwrap();
    });
    assert!(looks > 100, "{looks}");
    house.check();
}
