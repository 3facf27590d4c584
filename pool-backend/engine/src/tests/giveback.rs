// SPDX-License-Identifier: LGPL-2.1-or-later
//! Chunks that return to the pool while their volume is in use.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use virtnotify_model::{JobState, Task};

use super::*;
use crate::alloc::Place;
use crate::testing::{Failing, mark};

/// Nothing else writes such bytes.
const NINES: WipeMode = WipeMode::Overwrite(&[WipePass::Pattern([9; 3])]);

impl House {
    /// A started pool whose guests' writes are on its disk.
    pub(super) fn with_data(mib: u64) -> Self {
        let house = Self::started(mib);
        house.write_to_disk();
        house
    }

    pub(super) fn place(&self, device: &DeviceId, chunk: u64) -> Option<Place> {
        self.target.state(device).map.place(chunk)
    }

    /// Writes a volume from its start until the next chunk is there already, and watched; says how many
    /// chunks it wrote. Where clean chunks are short none is given ahead.
    fn write_until_ahead(&self, device: &DeviceId) -> u64 {
        let (shared, mut written) = (self.engine.started(&pool()).unwrap(), 0);
        while written < 12 || !self.target.state(device).watched.contains(&written) {
            eventually("clean chunks", || shared.core().free.clean() >= 8);
            assert!(self.write(device, written));
            written += 1;
        }
        written
    }

    fn allocation(&self, name: &str) -> u64 {
        self.volume(name).allocation.0 / CHUNK
    }

    /// What a volume reads is its own guest's writing, or zeroes.
    pub(super) fn check_contents(&self) {
        let data = self.lvm.disk(&data_lv(0));
        let mut bytes = vec![0; usize::try_from(CHUNK).unwrap()];
        let zeroes = bytes.clone();
        for volume in self.engine.volumes(&pool()).unwrap() {
            let device = device_of(volume.uuid);
            for run in self.target.state(&device).map.iter() {
                for n in 0..run.to.length {
                    data.read_at((run.to.start.chunk + n) * CHUNK, &mut bytes).unwrap();
                    let own = mark(&device, run.at + n);
                    let (first, rest) = bytes.split_at(own.len());
                    assert!(zeroes.starts_with(rest), "{} holds old data", run.at + n);
                    let zero = first.iter().all(|b| *b == 0);
                    let (name, chunk, found) =
                        (&volume.name, run.at + n, String::from_utf8_lossy(first));
                    assert!(zero || first == own, "'{name}', chunk {chunk}: {found}");
                }
            }
        }
    }

    /// What was written is there.
    pub(super) fn check_written(&self, device: &DeviceId, chunks: impl IntoIterator<Item = u64>) {
        let data = self.lvm.disk(&data_lv(0));
        for chunk in chunks {
            let own = mark(device, chunk);
            let mut first = vec![0; own.len()];
            let place = self.place(device, chunk).unwrap_or_else(|| panic!("{chunk} is lost"));
            data.read_at(place.chunk * CHUNK, &mut first).unwrap();
            assert!(first == own, "what was written to {chunk} is lost");
        }
    }
}

#[test]
fn discarded_chunks_return_and_the_tail_goes_back_to_the_group() {
    let house = House::with_data(64);
    let free = house.lvm.change(|report| report.free);
    let (disk, other) = (house.create("disk0", 32), house.create("other", 8));
    let (disk, other) = (device_of(disk.uuid), device_of(other.uuid));
    assert!(house.write(&other, 3));
    assert!((0..100).all(|chunk| house.write(&disk, chunk)));
    house.target.discard(&disk, 0..90);
    eventually("given back", || house.allocation("disk0") <= 38);
    house.check_written(&disk, 90..100);
    house.check_written(&other, [3]);
    eventually("in the group", || {
        // The last chunks may have been given ahead just now.
        house.target.discard(&disk, 90..128);
        house.lvm.change(|report| report.free).0 + Bytes::mib(8).0 >= free.0
    });
    let figures = house.engine.growth_figures(&pool()).unwrap();
    assert!(figures.give_back_commits <= 10, "{figures:?}");
    assert!((0..100).all(|chunk| house.write(&disk, chunk)));
    house.check_written(&disk, 0..100);
    house.check_contents();
    house.check();
}

#[test]
fn a_chunk_that_is_written_again_stays() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..20).all(|chunk| house.write(&disk, chunk)));
    let places: Vec<_> = (0..20).map(|chunk| house.place(&disk, chunk)).collect();
    // A guest writes two of them between the discard and the moment the kernel is asked.
    house.target.before("leave", |target, device, from| {
        if from < 20 {
            for chunk in [5, 11] {
                target.try_write(device, chunk, Duration::ZERO);
            }
        }
    });
    house.target.discard(&disk, 0..20);
    eventually("given back", || {
        house.place(&disk, 0).is_none() && house.place(&disk, 19).is_none()
    });
    for chunk in [5, 11] {
        assert_eq!(house.place(&disk, chunk), places[usize::try_from(chunk).unwrap()]);
    }
    house.check_written(&disk, [5, 11]);
    house.check();
}

#[test]
fn a_write_to_a_chunk_that_is_leaving_gets_another_chunk() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    std::thread::scope(|scope| {
        let (target, device) = (house.target.clone(), disk.clone());
        let writer = scope.spawn(move || {
            for _ in 0..50 {
                assert!((0..8).all(|chunk| target.write(&device, chunk)));
            }
        });
        while !writer.is_finished() {
            house.target.discard(&disk, 0..8);
            std::thread::yield_now();
        }
        writer.join().unwrap();
    });
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    house.check_written(&disk, 0..8);
    house.check_contents();
    house.check();
}

#[test]
fn zeroes_that_are_acknowledged_while_a_chunk_leaves_stay() {
    let mut house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    // The commit that forgets the chunk fails, and then the host dies.
    let meta = house.lvm.disk(META_LV);
    house.target.before("leave", move |_, _, _| meta.fail_after(0));
    house.target.discard(&disk, 0..1);
    eventually("left", || house.target.state(&disk).leaving.contains(&0));
    let acknowledged = house.target.try_zeroes(&disk, 0, Duration::from_millis(300));
    house.engine.halt();
    house.lvm.disk(&data_lv(0)).sync().unwrap();
    house.end(false, 7, 4);
    house.target.write_to(house.lvm.clone());
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    let data = house.lvm.disk(&data_lv(0));
    let mut first = vec![0; mark(&disk, 0).len()];
    if let Some(place) = house.place(&disk, 0) {
        data.read_at(place.chunk * CHUNK, &mut first).unwrap();
    }
    let zero = first.iter().all(|byte| *byte == 0);
    assert!(zero || !acknowledged, "old data came back over zeroes that were acknowledged");
    house.check();
}

#[test]
fn what_left_and_was_not_forgotten_comes_back_when_the_metadata_can_be_written_again() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    let meta = house.lvm.disk(META_LV);
    let once = std::sync::atomic::AtomicBool::new(false);
    house.target.before("leave", move |_, _, _| {
        if !once.swap(true, std::sync::atomic::Ordering::SeqCst) {
            meta.fail_after(0);
        }
    });
    house.target.discard(&disk, 0..1);
    eventually("left", || house.target.state(&disk).leaving.contains(&0));
    house.lvm.disk(META_LV).heal();
    assert!(house.target.try_zeroes(&disk, 0, Duration::from_secs(20)), "zeroes wait for ever");
    assert!(house.write(&disk, 0));
    assert!(house.target.state(&disk).leaving.is_empty());
    house.check_written(&disk, 0..8);
    house.check();
}

/// The message fails a few times, before or after it has done its work: all that waits goes on, and
/// no zeroes are lost.
fn a_message_fails_while_chunks_leave(step: &'static str, done: bool) {
    let mut house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    house.target.fail(step, Failing { errno: Errno::EINTR, times: 3, done });
    house.target.discard(&disk, 0..2);
    let (shared, name) = (house.engine.started(&pool()).unwrap(), "disk0".parse().unwrap());
    eventually("given back", || {
        let core = shared.core();
        core.find(&name).is_ok_and(|id| core.runs(id, 0..2).next().is_none())
    });
    drop(shared);
    for chunk in 0..2 {
        let long = Duration::from_secs(20);
        assert!(house.target.try_zeroes(&disk, chunk, long), "{step} {done}: {chunk} waits");
        assert!(house.write(&disk, chunk), "{step} {done}");
    }
    house.check_written(&disk, 0..8);
    eventually("nothing is leaving", || house.target.state(&disk).leaving.is_empty());
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    house.check_written(&disk, 0..8);
    house.check_contents();
    house.check();
}

#[test]
fn messages_that_fail_while_chunks_leave_are_sent_again() {
    for step in ["leave", "forget"] {
        for done in [false, true] {
            a_message_fails_while_chunks_leave(step, done);
        }
    }
}

#[test]
fn a_chunk_that_cannot_be_brought_back_at_once_is_brought_back_later() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    let meta = house.lvm.disk(META_LV);
    let once = std::sync::atomic::AtomicBool::new(false);
    house.target.before("leave", move |target, _, _| {
        if !once.swap(true, std::sync::atomic::Ordering::SeqCst) {
            meta.fail_after(0);
            // What is leaving is mapped again, or forgotten, after the metadata was read again.
            for step in ["map", "forget"] {
                target.fail(step, Failing { errno: Errno::ENOMEM, times: 2, done: false });
            }
        }
    });
    house.target.discard(&disk, 0..1);
    eventually("left", || house.target.state(&disk).leaving.contains(&0));
    house.lvm.disk(META_LV).heal();
    assert!(house.target.try_zeroes(&disk, 0, Duration::from_secs(20)), "zeroes wait for ever");
    assert!(house.write(&disk, 0));
    house.check_written(&disk, 0..8);
    house.check();
}

#[test]
fn discards_that_were_written_again_hold_up_nobody() {
    let house = House::with_data(160);
    let (first, other) = (house.create("first", 128), house.create("other", 128));
    let (first, other) = (device_of(first.uuid), device_of(other.uuid));
    assert!((0..400).all(|chunk| house.write(&first, chunk)));
    // A guest writes each second chunk again; each message waits for I/O.
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    house.target.before("leave", move |target, device, from| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            for chunk in (from..400).step_by(2) {
                target.try_write(device, chunk, Duration::ZERO);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    });
    house.target.discard(&first, 0..400);
    eventually("it began", || asked.load(Ordering::SeqCst) > 0);
    // All that is clean, and more.
    assert!((0..40).all(|chunk| house.write(&other, chunk * 3)));
    let before = asked.load(Ordering::SeqCst);
    assert!(before < 300, "{before} messages came before a write that waited");
    house.check_written(&first, (0..400).step_by(2));
    let given_back = || (1..400).step_by(2).all(|n| house.place(&first, n).is_none());
    // It takes as long as it takes; it never stands still.
    while !given_back() {
        let before = asked.load(Ordering::SeqCst);
        eventually("it goes on", || given_back() || asked.load(Ordering::SeqCst) > before);
    }
    house.check_contents();
    house.check();
}

#[test]
fn each_volume_has_its_turn_with_discards() {
    let house = House::with_data(128);
    let (first, second) = (house.create("first", 64), house.create("second", 64));
    let (first, second) = (device_of(first.uuid), device_of(second.uuid));
    assert!((0..4).all(|chunk| house.write(&first, chunk) && house.write(&second, chunk)));
    assert!((0..60).all(|chunk| house.write(&first, chunk)));
    let shared = house.engine.started(&pool()).unwrap();
    let volume = |name: &str| shared.core().find(&name.parse().unwrap()).unwrap();
    let (busy, other) = (volume("first"), volume("second"));
    let turns = Arc::new(AtomicU64::new(0));
    // How many turns the first one had when the second had its own.
    let (seen, see) = std::sync::mpsc::channel();
    let (next, last, count, core) = (first.clone(), second.clone(), turns.clone(), shared.clone());
    house.target.before("leave", move |target, device, _| {
        let turn = count.load(Ordering::SeqCst);
        if *device == last {
            let _ = seen.send(turn);
        } else if *device == next && turn < 50 {
            if turn == 0 {
                target.discard(&last, 0..4);
            }
            // The first volume always has more to give back before the next turn.
            target.discard(device, turn + 1..turn + 2);
            let known = || {
                let core = core.core();
                let waits = |volume, chunk| core.volume(volume).unwrap().discarded.contains(chunk);
                waits(busy, turn + 1) && (turn > 0 || waits(other, 3))
            };
            // This is a thread of the pool's: it must not end here, and goes on where another
            // turn was quicker.
            let end = Instant::now() + Duration::from_millis(if turn == 0 { 5000 } else { 200 });
            while !known() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            count.store(turn + 1, Ordering::SeqCst);
        }
    });
    house.target.discard(&first, 0..1);
    let turns = see.recv_timeout(Duration::from_secs(20)).expect("the second has its turn");
    assert!((1..10).contains(&turns), "the first one had {turns} turns before");
    eventually("the second gives back", || house.place(&second, 3).is_none());
    house.check();
}

#[test]
fn a_new_daemon_ends_what_was_leaving() {
    let mut house = House::with_data(64);
    let disk = device_of(house.create("disk0", 32).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    house.engine.halt();
    // One daemon was killed before its commit, another one after it.
    house.target.leave(&disk, 3, 1, true).unwrap();
    house.target.change(&disk, |device| device.leaving.extend([100]));
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    assert!(house.target.state(&disk).leaving.is_empty());
    house.check_written(&disk, 0..8);
    assert!(house.write(&disk, 100));
    house.check();
}

#[test]
fn space_that_is_discarded_or_deleted_lets_others_go_on() {
    let house = House::with_data(24);
    let (big, small) = (house.create("big", 64), house.create("small", 4));
    let (big, small) = (device_of(big.uuid), device_of(small.uuid));
    assert!((0..4).all(|chunk| house.write(&small, chunk)));
    let full = (0..256).find(|&chunk| !house.write(&big, chunk)).unwrap();
    eventually("told", || house.volume("big").state == VolumeState::OutOfSpace);
    house.target.discard(&small, 0..2);
    eventually("room", || house.volume("big").state == VolumeState::Growing);
    assert!(house.write(&big, full));
    assert!(house.write(&big, full + 1));
    assert!(!house.write(&big, full + 2), "those two were all");
    house.check_written(&big, 0..full + 2);
    house.check_written(&small, 2..4);
    house.check_contents();
}

#[test]
fn what_was_given_ahead_and_not_written_goes_back_when_space_is_short() {
    let house = House::with_data(24);
    let (idle, busy) = (house.create("idle", 64), house.create("busy", 64));
    let (idle, busy) = (device_of(idle.uuid), device_of(busy.uuid));
    // A sequential writer that stops: it has more than it wrote.
    let written = house.write_until_ahead(&idle);
    let had = house.target.state(&idle).map.chunks();
    let fit = (0..256).take_while(|&chunk| house.write(&busy, chunk * 2)).count() as u64;
    assert_eq!(fit, 8 * 4 - written, "all that was not written, and {had} were given");
    house.check_written(&idle, 0..written);
    house.check_contents();
    house.check();
}

#[test]
fn a_new_daemon_knows_what_was_discarded_and_what_was_given_ahead() {
    let mut house = House::with_data(24);
    let (idle, busy) = (house.create("idle", 64), house.create("busy", 64));
    let (idle, busy) = (device_of(idle.uuid), device_of(busy.uuid));
    let written = house.write_until_ahead(&idle);
    house.engine.halt();
    house.target.discard(&idle, 0..3);
    // A daemon was killed while it looked at these.
    house.target.protect(&idle, &[(5, 2)], true).unwrap();
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    eventually("given back", || house.place(&idle, 0).is_none());
    assert!(house.target.state(&idle).protected.is_empty());
    assert!(house.write(&idle, 5));
    let fit = (0..256).take_while(|&chunk| house.write(&busy, chunk * 2)).count() as u64;
    assert_eq!(fit, 8 * 4 - (written - 3));
    house.check_written(&idle, 3..written);
    house.check_contents();
    house.check();
}

#[test]
fn a_large_volume_is_deleted_and_wiped_in_parts() {
    let house = House::with_group(160);
    let chunk = ChunkSize::new(Bytes(64 << 10)).unwrap();
    house.engine.start_pool(&PoolSpec { chunk, ..spec() }).unwrap();
    let disk = house.create("disk0", 256);
    let device = device_of(disk.uuid);
    // As many runs as possible.
    let scattered = |house: &House| (0..1200).all(|n| house.write(&device, n * 3));
    assert!(scattered(&house));
    house.engine.wipe_volume(&pool(), &disk.name, WipeMode::Trim).unwrap();
    assert_eq!(house.volume("disk0").allocation, Bytes::ZERO);
    assert!(scattered(&house));
    let before = house.engine.pool_info(&pool()).unwrap();
    house.delete("disk0").unwrap();
    let after = house.engine.pool_info(&pool()).unwrap();
    assert_eq!(before.allocation.0 - after.allocation.0, 1200 * chunk.bytes().0);
    eventually("the group's extents add up", || house.adds_up());
}

#[test]
fn a_delete_of_a_large_volume_that_is_cut_off_is_finished() {
    for cut in [4, 12, 20] {
        let mut house = House::with_group(160);
        let chunk = ChunkSize::new(Bytes(64 << 10)).unwrap();
        let small = PoolSpec { chunk, ..spec() };
        house.engine.start_pool(&small).unwrap();
        let other = house.create("other", 16);
        assert!(house.write(&device_of(other.uuid), 1));
        let device = device_of(house.create("disk0", 256).uuid);
        assert!((0..600).all(|n| house.write(&device, n * 3)));
        house.lvm.disk(META_LV).fail_after(cut);
        let deleted = house.delete("disk0").is_ok();
        house.engine.halt();
        house.lvm = house.lvm.after_power_cut(|| true);
        house.target = Arc::new(FakeTarget::default());
        house.restart();
        house.engine.start_pool(&small).unwrap();
        let there = house.engine.volume(&pool(), &"disk0".parse().unwrap()).ok();
        assert!(!deleted || there.is_none());
        let chunks = there.map_or(0, |volume| volume.allocation.0 / chunk.bytes().0);
        assert!(chunks == 0 || chunks == 600, "it is half there: {chunks}");
        if chunks == 0 {
            let left = || house.engine.contents(&pool()).unwrap().volumes.len();
            eventually("gone for good", || left() == 1);
            house.create("disk0", 16);
        }
        eventually("the group's extents add up", || house.adds_up());
    }
}

#[test]
fn of_one_volume_goes_back_what_nobody_wrote() {
    let house = House::with_data(128);
    let devices = ["a", "b"].map(|name| device_of(house.create(name, 64).uuid));
    let written = devices.each_ref().map(|device| house.write_until_ahead(device));
    eventually("more than was written", || house.allocation("b") > written[1]);
    let other = house.allocation("b");
    let reclaimed = house.job(&Task::Reclaim(Some("a".parse().unwrap())));
    assert_eq!(reclaimed.state, JobState::Done);
    assert!(reclaimed.freed.0 > 0 && reclaimed.to_group == Bytes::ZERO, "{reclaimed:?}");
    assert_eq!(house.allocation("a"), written[0]);
    assert!(house.allocation("b") >= other, "it was not asked for");
    house.check_written(&devices[0], 0..written[0]);
    house.check_contents();
    house.check();
}

#[test]
fn what_was_never_written_goes_back_when_asked_for() {
    let house = House::with_data(128);
    let idle = house.create("idle", 64);
    let device = device_of(idle.uuid);
    let written = house.write_until_ahead(&device);
    // Of the chunks given ahead the pool knows only later which are written: the figure is the
    // most that can come back, and never less than what does.
    let allocation = house.volume("idle").allocation.0;
    let stats = house.engine.volume_stats(&pool(), &idle.name).unwrap();
    assert!(allocation - stats.ahead.0 <= written * CHUNK, "{stats:?}");
    let reclaimed = house.job(&Task::Reclaim(None));
    assert!(reclaimed.freed.0 > 0, "{reclaimed:?}");
    assert_eq!(house.allocation("idle"), written);
    house.check_written(&device, 0..written);
    let again = house.job(&Task::Reclaim(None));
    assert_eq!(again.freed, Bytes::ZERO);
    assert!(house.write(&device, written));
    house.check_contents();
    house.check();
}

#[test]
fn a_wipe_writes_into_no_chunk_of_another_volume() {
    let house = House::with_data(64);
    let (wiped, other) = (house.create("wiped", 32), house.create("other", 32));
    let (device, others) = (device_of(wiped.uuid), device_of(other.uuid));
    assert!((0..20).all(|chunk| house.write(&device, chunk)));
    // While the first chunk is overwritten, the others are discarded, and another volume grows.
    let (target, seen) = (house.target.clone(), others.clone());
    house.lvm.disk(&data_lv(0)).before_write_of(9, move || {
        if target.has(&device) {
            target.discard(&device, 1..20);
            eventually("given back", || target.state(&device).map.place(19).is_none());
        }
        assert!((0..120).all(|chunk| target.write(&seen, chunk)));
    });
    house.engine.wipe_volume(&pool(), &wiped.name, NINES).unwrap();
    house.check_written(&others, 0..120);
    house.check_contents();
    house.check();
}

/// What only a snapshot showed comes free once that is gone: while the volume is wiped, and before.
#[test]
fn a_wipe_writes_into_nothing_that_a_snapshot_leaves_behind() {
    let house = House::with_data(64);
    let (wiped, other) = (house.create("wiped", 32), house.create("other", 64));
    let (device, others) = (device_of(wiped.uuid), device_of(other.uuid));
    assert!((0..20).all(|chunk| house.write(&device, chunk)));
    house.snapshot(&["wiped"], "mon").unwrap();
    assert!((0..20).all(|chunk| house.write(&device, chunk)), "each has a copy");
    // The layers stay apart until the volume is overwritten.
    let (begun, waits) = std::sync::mpsc::channel::<()>();
    house.target.before("drain", move |_, _, _| {
        let _ = waits.recv_timeout(Duration::from_secs(10));
    });
    house.delete("wiped@mon").unwrap();
    let (target, seen, engine) = (house.target.clone(), others.clone(), house.engine.clone());
    house.lvm.disk(&data_lv(0)).before_write_of(9, move || {
        let shared = engine.started(&pool()).unwrap();
        assert!(!shared.core().is_collected(), "the layers are one already");
        drop(begun);
        let began = std::time::Instant::now();
        while !shared.core().is_collected() && began.elapsed() < Duration::from_secs(2) {
            shared.gate.ask(1);
        }
        (0..256).take_while(|&chunk| target.write(&seen, chunk)).count();
    });
    house.engine.wipe_volume(&pool(), &wiped.name, NINES).unwrap();
    let grown = house.volume("other").allocation.0 / CHUNK;
    assert!(grown > 10, "{grown}");
    house.check_written(&others, 0..grown);
    house.check_contents();
    eventually("all is collected", || house.engine.started(&pool()).unwrap().core().is_collected());
    house.check();
}

/// A wipe may take hours.
#[test]
fn other_volumes_are_changed_while_one_is_wiped() {
    let house = House::with_data(64);
    let (wiped, other) = (house.create("wiped", 32), house.create("other", 32));
    let device = device_of(wiped.uuid);
    assert!((0..8).all(|chunk| house.write(&device, chunk)));
    house.snapshot(&["wiped"], "mon").unwrap();
    assert!((0..4).all(|chunk| house.write(&device, chunk)));
    let (begun, begins) = std::sync::mpsc::channel();
    let (end, ends) = std::sync::mpsc::channel::<()>();
    house.lvm.disk(&data_lv(0)).before_write_of(9, move || {
        begun.send(()).unwrap();
        assert!(ends.recv_timeout(Duration::from_secs(20)).is_ok(), "others waited for the wipe");
    });
    std::thread::scope(|scope| {
        let (engine, name) = (house.engine.clone(), wiped.name.clone());
        let wipe = scope.spawn(move || engine.wipe_volume(&pool(), &name, NINES));
        begins.recv_timeout(Duration::from_secs(20)).unwrap();
        house.create("new", 8);
        house.engine.resize_volume(&pool(), &other.name, Bytes(CHUNK * 40)).unwrap();
        house.snapshot(&["other"], "tue").unwrap();
        house.delete("new").unwrap();
        house.delete("wiped@mon").unwrap();
        for refused in [
            house.delete("wiped"),
            house.snapshot(&["wiped"], "tue").map(drop),
            house.engine.resize_volume(&pool(), &wiped.name, Bytes(CHUNK * 40)).map(drop),
            house.engine.wipe_volume(&pool(), &wiped.name, WipeMode::Trim),
            house.engine.stop_pool(&pool()).map(drop),
        ] {
            let error = refused.unwrap_err().to_string();
            assert_eq!(error, "the volume 'wiped' is being wiped: wait until that is done");
        }
        end.send(()).unwrap();
        wipe.join().unwrap().unwrap();
    });
    assert_eq!(house.volume("wiped").allocation, Bytes::ZERO);
    house.snapshot(&["wiped"], "tue").unwrap();
    house.check_contents();
    house.check();
}

/// The metadata cannot be written meanwhile, and is opened again before the wipe ends.
#[test]
fn a_pool_is_mended_while_a_volume_is_wiped() {
    let house = House::with_data(64);
    let (wiped, other) = (house.create("wiped", 32), house.create("other", 32));
    let (device, others) = (device_of(wiped.uuid), device_of(other.uuid));
    assert!((0..8).all(|chunk| house.write(&device, chunk)));
    let (target, engine, meta) =
        (house.target.clone(), house.engine.clone(), house.lvm.disk(META_LV));
    let seen = others.clone();
    house.lvm.disk(&data_lv(0)).before_write_of(9, move || {
        let shared = engine.started(&pool()).unwrap();
        meta.fail_after(0);
        let (guest, its) = (target.clone(), seen.clone());
        let first = std::thread::spawn(move || guest.write(&its, 0));
        eventually("it is known", || shared.is_damaged());
        meta.heal();
        eventually("it is mended", || {
            shared.gate.ask(1);
            !shared.is_damaged()
        });
        assert!(!target.has(&device), "its device comes after the wipe");
        assert!(first.join().unwrap());
        assert!((0..40).all(|chunk| target.write(&seen, chunk)));
    });
    house.engine.wipe_volume(&pool(), &wiped.name, NINES).unwrap();
    assert_eq!(house.volume("wiped").allocation, Bytes::ZERO);
    house.check_written(&others, 0..40);
    house.check_contents();
    house.check();
}

/// What the metadata say is not known then: a chunk may be another volume's on the disk already.
#[test]
fn nothing_is_wiped_while_the_metadata_cannot_be_written() {
    let house = House::with_data(64);
    let (wiped, other) = (house.create("wiped", 32), house.create("other", 32));
    let (device, others) = (device_of(wiped.uuid), device_of(other.uuid));
    assert!((0..8).all(|chunk| house.write(&device, chunk)));
    let (engine, meta) = (house.engine.clone(), house.lvm.disk(META_LV));
    let target = house.target.clone();
    // When the wipe has begun, and before it looks what to overwrite.
    house.target.before("remove", move |_, _, _| {
        meta.fail_after(0);
        let (guest, its) = (target.clone(), others.clone());
        std::thread::spawn(move || guest.write(&its, 0));
        eventually("it is known", || engine.started(&pool()).unwrap().is_damaged());
    });
    let overwritten = Arc::new(AtomicU64::new(0));
    let count = overwritten.clone();
    house.lvm.disk(&data_lv(0)).before_write_of(9, move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    house.engine.wipe_volume(&pool(), &wiped.name, NINES).unwrap_err();
    assert_eq!(overwritten.load(Ordering::SeqCst), 0);
    house.target.before("remove", |_, _, _| {});
    house.lvm.disk(META_LV).heal();
    eventually("it has its device", || house.target.has(&device));
    house.check_written(&device, 0..8);
    house.check();
}

#[test]
fn a_volume_whose_wipe_failed_has_its_device() {
    let house = House::with_data(64);
    let disk = house.create("disk0", 32);
    let device = device_of(disk.uuid);
    assert!((0..4).all(|chunk| house.write(&device, chunk)));
    let data = house.lvm.disk(&data_lv(0));
    data.fail_after(0);
    let refused = house.engine.wipe_volume(&pool(), &disk.name, WipeMode::Zero).unwrap_err();
    assert!(refused.to_string().contains("cannot wipe"), "{refused}");
    data.heal();
    assert_eq!(house.volume("disk0").state, VolumeState::Growing);
    assert!(house.write(&device, 100));
    house.check_written(&device, 0..4);
    house.check();
}

/// One of two discards has left the kernel and the other one has not when the metadata cannot be written. What
/// failed may be on the disk all the same.
#[test]
fn discards_are_not_forgotten_when_the_metadata_cannot_be_written() {
    for operations in 0..4 {
        discards_while_the_metadata_fails(operations);
    }
}

fn discards_while_the_metadata_fails(operations: u64) {
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    // In no order that asks for chunks ahead.
    assert!([7, 6, 4, 0].into_iter().all(|chunk| house.write(&disk, chunk)));
    let shared = house.engine.started(&pool()).unwrap();
    let meta = house.lvm.disk(META_LV);
    let (failing, mut armed) = (meta.clone(), true);
    house.target.before("leave", move |target, _, from| {
        if from == 4 && std::mem::take(&mut armed) {
            failing.fail_after(operations);
            target.fail("leave", Failing { errno: Errno::EINTR, times: 1, done: false });
        }
    });
    house.target.discard(&disk, 0..5);
    eventually("it cannot be written, or is", || {
        meta.has_failed() || shared.core().free.used() == 2
    });
    meta.heal();
    // The other one is mapped again where the metadata has it: its guest may discard it once more.
    eventually("one is free", || shared.core().free.used() <= 3);
    assert!(house.write(&disk, 0) && house.write(&disk, 4));
    house.check();
}
