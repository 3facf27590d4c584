// SPDX-License-Identifier: LGPL-2.1-or-later
//! Written chunks that are all zeroes come back while guests use them, and go on reading as zeroes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use virtnotify_model::{JobInfo, JobState, Task};

use super::*;
use crate::testing::Failing;

const ALL: Task = Task::ReclaimZeroes(None);

impl House {
    /// A volume of so many chunks, which hold a text each.
    fn with_texts(chunks: u64) -> Self {
        let house = Self::started(64);
        house.write_to_disk();
        house.create("a", 16);
        // In no order that asks for chunks ahead.
        assert!((0..chunks).rev().all(|chunk| house.put("a", chunk, &text(chunk))));
        house
    }

    fn zero(&self, name: &str, chunks: impl IntoIterator<Item = u64>) {
        for chunk in chunks {
            assert!(self.put(name, chunk, ""));
        }
    }

    /// What each of the first chunks shows; nothing is zeroes.
    fn first_texts(&self, name: &str, chunks: u64) -> Vec<String> {
        (0..chunks).map(|chunk| self.text(name, chunk)).collect()
    }

    fn has(&self, name: &str, chunk: u64) -> bool {
        let device = device_of(self.volume(name).uuid);
        self.target.state(&device).map.place(chunk).is_some()
    }

    fn take_back_zeroes(&self) -> JobInfo {
        self.job(&ALL)
    }

    fn in_use(&self) -> u64 {
        self.engine.started(&pool()).unwrap().core().free.used()
    }

    /// The metadata is read again.
    fn start_anew(&mut self) {
        self.restart();
        self.engine.start_pool(&spec()).unwrap();
        self.write_to_disk();
    }
}

fn text(chunk: u64) -> String {
    format!("text {chunk}")
}

/// The texts of so many chunks, but for those that are zeroes.
fn but_for(chunks: u64, zeroes: &[u64]) -> Vec<String> {
    let text = |chunk| if zeroes.contains(&chunk) { String::new() } else { text(chunk) };
    (0..chunks).map(text).collect()
}

#[test]
fn chunks_of_zeroes_come_back_and_others_stay() {
    let mut house = House::with_texts(16);
    house.zero("a", [3, 4, 9]);
    let done = house.take_back_zeroes();
    assert_eq!(done.state, JobState::Done);
    assert_eq!((done.freed, done.looked), (Bytes(3 * CHUNK), Bytes(16 * CHUNK)));
    assert_eq!((done.to_look, house.in_use()), (Bytes(16 * CHUNK), 13));
    assert_eq!(house.volume("a").allocation, Bytes(13 * CHUNK));
    assert!([3, 4, 9].iter().all(|chunk| !house.has("a", *chunk)) && house.has("a", 5));
    assert_eq!(house.first_texts("a", 16), but_for(16, &[3, 4, 9]));
    house.settled(13);
    house.start_anew();
    assert_eq!(house.first_texts("a", 16), but_for(16, &[3, 4, 9]));
    assert!(house.put("a", 4, "new"));
    assert_eq!((house.text("a", 4), house.in_use()), ("new".into(), 14));
    assert_eq!(house.take_back_zeroes().freed, Bytes::ZERO, "there is nothing to do");
    house.check();
}

/// The last byte of a chunk counts as the first one does.
#[test]
fn a_chunk_with_one_byte_at_its_end_stays() {
    let house = House::with_texts(2);
    house.zero("a", [0, 1]);
    let device = device_of(house.volume("a").uuid);
    let end = CHUNK - crate::testing::SECTOR as u64;
    let mut sector = super::house::sector("");
    *sector.last_mut().unwrap() = 1;
    let done = house.target.try_put_at(&device, 1, end, &sector, Duration::from_secs(20));
    assert_eq!(done, Some(true));
    assert_eq!(house.take_back_zeroes().freed, Bytes(CHUNK));
    assert_eq!((house.has("a", 0), house.has("a", 1)), (false, true));
    assert_eq!(house.target.read_at(&device, 1, end), sector);
}

#[test]
fn of_one_volume_what_it_shows_is_looked_at() {
    let house = House::with_texts(8);
    house.create("b", 16);
    house.zero("a", [2]);
    house.zero("b", [1, 0]);
    let done = house.job(&Task::ReclaimZeroes(Some("a".parse().unwrap())));
    assert_eq!((done.freed, done.to_look), (Bytes(CHUNK), Bytes(8 * CHUNK)));
    assert!(!house.has("a", 2) && house.has("b", 0));
    let other = Task::ReclaimZeroes(Some("other".parse().unwrap()));
    assert!(house.engine.start_job(&pool(), &other).is_err());
    house.settled(9);
}

/// Whenever the write comes: before the chunk is watched, after it was read again, and when writes wait.
#[test]
fn a_chunk_that_is_written_meanwhile_keeps_what_was_written() {
    for step in ["watch", "protect", "leave"] {
        let house = House::with_texts(8);
        house.zero("a", [2, 3, 5]);
        let once = AtomicBool::new(false);
        let waits = step == "leave";
        house.target.before(step, move |target, id, _| {
            if !once.swap(true, Ordering::SeqCst) {
                let (sector, limit) = (super::house::sector("new"), Duration::from_millis(100));
                let written = target.try_put(id, 3, &sector, limit);
                assert_eq!(written.is_none(), waits, "{written:?}");
            }
        });
        let done = house.take_back_zeroes();
        let freed = if waits { 3 } else { 2 };
        assert_eq!((done.state, done.freed), (JobState::Done, Bytes(freed * CHUNK)), "{step}");
        if waits {
            // The guest has given it up: it is written again.
            assert!(house.put("a", 3, "new"));
        }
        let mut expected = but_for(8, &[2, 5]);
        expected[3] = "new".into();
        assert_eq!(house.first_texts("a", 8), expected, "{step}");
        house.settled(6);
    }
}

#[test]
fn a_write_that_waits_for_the_decision_goes_on() {
    let house = Arc::new(House::with_texts(8));
    house.zero("a", [2]);
    let writer = Arc::new(Mutex::new(None));
    let (spawned, guest) = (writer.clone(), Arc::downgrade(&house));
    house.target.before("leave", move |target, id, _| {
        let mut spawned = spawned.lock().unwrap();
        if spawned.is_none() {
            let guest = guest.upgrade().unwrap();
            *spawned = Some(std::thread::spawn(move || guest.put("a", 2, "new")));
            drop(spawned);
            let deadline = Instant::now() + Duration::from_secs(20);
            while target.status(id).unwrap().wanted == 0 && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    });
    assert_eq!(house.take_back_zeroes().freed, Bytes(CHUNK));
    let writer = writer.lock().unwrap().take().expect("a write that has waited");
    assert!(writer.join().unwrap());
    assert_eq!(house.text("a", 2), "new");
    house.settled(8);
}

#[test]
fn what_a_guest_discards_meanwhile_is_a_hole() {
    for (step, shared) in [("watch", false), ("protect", false), ("leave", false), ("leave", true)]
    {
        let house = House::with_texts(8);
        house.zero("a", [2, 3]);
        if shared {
            house.snapshot(&["a"], "mon").unwrap();
        }
        let device = device_of(house.volume("a").uuid);
        let once = AtomicBool::new(false);
        house.target.before(step, move |target, id, _| {
            if *id == device && !once.swap(true, Ordering::SeqCst) {
                target.discard(id, 3..4);
            }
        });
        assert_eq!(house.take_back_zeroes().state, JobState::Done, "{step}");
        eventually("both are holes", || !house.has("a", 2) && !house.has("a", 3));
        assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3]));
        assert!(house.put("a", 3, "new"));
        assert_eq!(house.text("a", 3), "new");
        house.settled(7);
    }
}

/// A snapshot of zeroes over a snapshot of a text: a hole that hides it.
#[test]
fn zeroes_over_what_lies_below_stay_zeroes() {
    let mut house = House::with_texts(8);
    house.snapshot(&["a"], "old").unwrap();
    house.zero("a", [2, 3]);
    house.snapshot(&["a"], "new").unwrap();
    house.clone_of("a@new", "clone", 16).unwrap();
    assert!(house.put("clone", 3, "clone's"));
    house.zero("a", [5]);
    assert_eq!(house.in_use(), 12);
    let done = house.take_back_zeroes();
    assert_eq!((done.state, done.freed), (JobState::Done, Bytes(3 * CHUNK)));
    let mut clones = but_for(8, &[2, 3]);
    clones[3] = "clone's".into();
    for _ in 0..2 {
        assert_eq!(house.first_texts("a@old", 8), but_for(8, &[]));
        assert_eq!(house.first_texts("a@new", 8), but_for(8, &[2, 3]));
        assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3, 5]));
        assert_eq!(house.first_texts("clone", 8), clones);
        assert_eq!(house.volume("a@new").allocation, Bytes(6 * CHUNK));
        assert_eq!(house.volume("clone").allocation, Bytes(7 * CHUNK));
        house.calm(9);
        house.start_anew();
    }
    // Each of them writes there, and goes back.
    assert!(house.put("a", 2, "a's") && house.put("clone", 2, "clone's"));
    assert_eq!(house.first_texts("a@new", 8), but_for(8, &[2, 3]));
    house.roll_back("a@new").unwrap();
    assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3]));
    house.delete("a@old").unwrap();
    let shared = house.engine.started(&pool()).unwrap();
    eventually("collected", || shared.core().is_collected());
    assert_eq!(house.first_texts("a@new", 8), but_for(8, &[2, 3]));
    house.roll_back("a@new").unwrap();
    assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3]));
    house.check();
}

/// A volume that has a copy of its own by now may have sent reads to the snapshot's chunk before.
#[test]
fn nobody_reads_any_more_what_comes_back() {
    let house = House::with_texts(8);
    house.zero("a", [2]);
    house.snapshot(&["a"], "mon").unwrap();
    assert!(house.put("a", 2, "a's"));
    assert_eq!(house.take_back_zeroes().freed, Bytes(CHUNK));
    assert_eq!((house.text("a", 2), house.text("a@mon", 2)), ("a's".into(), String::new()));
    house.settled(8);
}

#[test]
fn a_clone_that_is_made_meanwhile_reads_zeroes() {
    let house = House::with_texts(8);
    house.zero("a", [2]);
    house.snapshot(&["a"], "mon").unwrap();
    assert!(house.put("a", 5, &text(5)));
    house.snapshot(&["a"], "tue").unwrap();
    let (once, maker) = (AtomicBool::new(false), house.engine.clone());
    house.target.before("leave", move |_, _, _| {
        if !once.swap(true, Ordering::SeqCst) {
            let spec = VolumeSpec {
                backing: Some("a@mon".parse().unwrap()),
                name: "clone".parse().unwrap(),
                uuid: Uuid::from_u128(77),
                capacity: Bytes::mib(16),
                allocation: Bytes::ZERO,
            };
            maker.create_volume(&pool(), &spec).unwrap();
        }
    });
    let first = house.take_back_zeroes();
    assert!(matches!(first.state, JobState::Failed(_)), "{first:?}");
    let shared = house.engine.started(&pool()).unwrap();
    eventually("settled", || {
        let settled = shared.core().volumes().all(|(_, volume)| volume.settled());
        settled && !crate::pool::settle::is_needed(&shared)
    });
    let all = ["a", "a@mon", "a@tue", "clone"];
    for name in all {
        assert_eq!(house.first_texts(name, 8), but_for(8, &[2]), "{name}");
    }
    // The snapshots are as before, also where one shows what is another one's.
    for name in ["a@mon", "a@tue"] {
        assert!(house.has(name, 2), "{name}");
        assert_eq!(house.volume(name).allocation, Bytes(8 * CHUNK), "{name}");
    }
    house.calm(9);
    let done = house.take_back_zeroes();
    assert_eq!((done.state, done.freed), (JobState::Done, Bytes(CHUNK)));
    for name in all {
        assert_eq!(house.first_texts(name, 8), but_for(8, &[2]), "{name}");
    }
    house.calm(8);
}

#[test]
fn nothing_is_taken_while_a_write_waits_for_space() {
    let house = House::with_texts(8);
    house.zero("a", [2, 3]);
    let shared = house.engine.started(&pool()).unwrap();
    let (tried, held) = (Arc::new(AtomicU64::new(0)), shared.clone());
    let times = tried.clone();
    // A write begins to wait when the chunks have been watched, and waits until they are left alone.
    house.target.before("watch", move |_, _, _| {
        if times.fetch_add(1, Ordering::SeqCst) == 0 {
            held.gate.set_hungry(1);
        }
    });
    house.target.before("protect", move |_, _, _| shared.gate.set_hungry(0));
    assert_eq!(house.take_back_zeroes().freed, Bytes(2 * CHUNK));
    assert_eq!(tried.load(Ordering::SeqCst), 2, "it was given up, and begun again");
    house.settled(6);
}

#[test]
fn each_message_may_fail_before_or_after_its_effect() {
    for step in ["watch", "protect", "leave", "forget"] {
        for done in [false, true] {
            println!("{step}, done: {done}");
            let house = House::with_texts(8);
            house.zero("a", [2, 3]);
            house.snapshot(&["a"], "mon").unwrap();
            house.zero("a", [5]);
            house.target.fail(step, Failing { errno: Errno::EIO, times: 1, done });
            house.take_back_zeroes();
            let shared = house.engine.started(&pool()).unwrap();
            let settled = || !crate::pool::settle::is_needed(&shared);
            eventually("settled", settled);
            // The second time what the first one left.
            assert_eq!(house.take_back_zeroes().state, JobState::Done);
            eventually("settled", settled);
            assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3, 5]));
            assert_eq!(house.first_texts("a@mon", 8), but_for(8, &[2, 3]));
            assert!((0..8).all(|chunk| house.put("a", chunk, "new")), "writes go on");
            assert_eq!(house.first_texts("a@mon", 8), but_for(8, &[2, 3]));
            house.calm(14);
        }
    }
}

#[test]
fn a_disk_may_fail_at_any_operation() {
    for lv in [META_LV.to_owned(), data_lv(0)] {
        let last = super::house::each_until_the_last(|after| {
            let mut house = House::with_texts(8);
            house.zero("a", [2, 3]);
            house.snapshot(&["a"], "mon").unwrap();
            house.zero("a", [5]);
            let disk = house.lvm.disk(&lv);
            disk.fail_after(after);
            let failed = house.take_back_zeroes();
            let reached = disk.has_failed();
            disk.heal();
            assert!(reached || failed.state == JobState::Done, "{failed:?}");
            eventually("usable again", || !house.engine.is_damaged(&pool()));
            assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3, 5]));
            assert!(house.put("a", 5, "new"));
            house.zero("a", [5]);
            assert_eq!(house.take_back_zeroes().state, JobState::Done);
            house.start_anew();
            assert_eq!(house.first_texts("a", 8), but_for(8, &[2, 3, 5]));
            assert_eq!(house.first_texts("a@mon", 8), but_for(8, &[2, 3]));
            house.settled(6);
            reached
        });
        assert!(last > 1, "only {last} operations of {lv} failed");
    }
}

/// Its old place is about to be free: the grow thread, which has looked before, does not map it again.
#[test]
fn a_write_does_not_bring_back_what_is_leaving() {
    let house = House::with_texts(16);
    house.zero("a", [3]);
    let shared = house.engine.started(&pool()).unwrap();
    let sent = Arc::new(Mutex::new(None));
    let sends = sent.clone();
    house.target.before("leave", move |_, _, chunk| {
        let mut core = shared.core();
        let id = core.find(&"a".parse().unwrap()).unwrap();
        let growth = core.grow(&[(id, vec![Wish::Write(chunk)])], GrowthLimits::default()).unwrap();
        core.sent(growth.told().into_iter());
        *sends.lock().unwrap() = Some(growth.runs(id).to_vec());
    });
    assert_eq!(house.take_back_zeroes().freed, Bytes(CHUNK));
    assert_eq!(*sent.lock().unwrap(), Some(Vec::new()));
    house.settled(15);
}

/// What was decided about a volume, and its device has not heard, comes before.
#[test]
fn nothing_leaves_a_volume_while_its_map_is_being_sent() {
    let house = House::with_texts(8);
    house.zero("a", [3]);
    let sending = Arc::new(AtomicBool::new(false));
    let left = Arc::new(Mutex::new(Vec::new()));
    let (sends, leaves) = (sending.clone(), left.clone());
    house.target.before("map", move |_, _, _| {
        sends.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        sends.store(false, Ordering::SeqCst);
    });
    let sends = sending.clone();
    house.target.before("leave", move |_, _, _| {
        leaves.lock().unwrap().push(sends.load(Ordering::SeqCst));
    });
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(house.put("a", 12, "new")));
        eventually("a map on its way", || sending.load(Ordering::SeqCst));
        assert_eq!(house.take_back_zeroes().freed, Bytes(CHUNK));
    });
    assert_eq!(*left.lock().unwrap(), [false], "one, when the device had heard of its map");
    house.check();
}
