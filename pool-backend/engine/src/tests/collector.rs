// SPDX-License-Identifier: LGPL-2.1-or-later
//! Chunks move while guests use them: everybody reads what was there, and nobody loses a write.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use virtnotify_model::{JobInfo, JobState, Task};

use super::*;
use crate::testing::Failing;

impl House {
    /// Does a job to its end.
    pub(super) fn job(&self, task: &Task) -> JobInfo {
        let id = self.engine.start_job(&pool(), task).unwrap();
        self.ended(id)
    }

    pub(super) fn ended(&self, id: u64) -> JobInfo {
        let mut ended = None;
        eventually("a job to end", || {
            ended = self.engine.jobs().into_iter().find(|job| job.id == id);
            ended.as_ref().is_some_and(|job| job.state != JobState::Running)
        });
        ended.unwrap()
    }

    /// Two volumes of 16 chunks each, of which no two lie together.
    fn scattered() -> Self {
        let house = Self::started(64);
        house.write_to_disk();
        house.create("a", 16);
        house.create("b", 16);
        for chunk in (0..16).rev() {
            assert!(["a", "b"].iter().all(|name| house.put(name, chunk, &text(name, chunk))));
        }
        house
    }

    fn shows(&self, name: &str, like: &str) {
        let shown: Vec<String> = (0..16).map(|chunk| self.text(name, chunk)).collect();
        let expected: Vec<String> = (0..16).map(|chunk| text(like, chunk)).collect();
        assert_eq!(shown, expected, "'{name}'");
    }

    fn runs(&self, name: &str) -> usize {
        self.target.state(&self.device(name)).map.iter().count()
    }

    fn device(&self, name: &str) -> DeviceId {
        device_of(self.volume(name).uuid)
    }

    /// All that was taken for the job is free again, and no device reads there.
    pub(super) fn settled(&self, used: u64) {
        self.calm(used);
        for device in self.target.all().values() {
            assert!(device.undrained.is_empty(), "reads may be on their way");
        }
    }

    /// All that was taken for the job is free again.
    pub(super) fn calm(&self, used: u64) {
        let shared = self.engine.started(&pool()).unwrap();
        eventually("all that was vacated to be free", || !shared.core().has_vacated());
        eventually("nothing to be in hand", || {
            let core = shared.core();
            core.free.busy() == 0 && core.volumes().all(|(_, volume)| volume.settled())
        });
        assert_eq!(shared.core().free.used(), used);
        for device in self.target.all().values() {
            assert!(device.protected.is_empty(), "{:?}", device.protected);
        }
        self.check();
    }
}

fn text(name: &str, chunk: u64) -> String {
    format!("{name} {chunk}")
}

fn volume(name: &str) -> Task {
    Task::Defragment(Some(name.parse().unwrap()))
}

#[test]
fn runs_are_joined() {
    let house = House::scattered();
    let mut told = house.listen();
    assert_eq!((house.runs("a"), house.runs("b")), (16, 16));
    let done = house.job(&volume("a"));
    assert_eq!((&done.state, done.moved), (&JobState::Done, Bytes(16 * CHUNK)));
    assert_eq!((done.total, done.runs_before, done.runs), (Bytes(16 * CHUNK), 16, 1));
    assert_eq!((house.runs("a"), house.runs("b")), (1, 16));
    told.until("how far it is", |e| matches!(e, Event::JobChanged { id, .. } if *id == done.id));
    let done = house.job(&Task::Defragment(None));
    assert_eq!((done.state, done.runs), (JobState::Done, 2));
    assert_eq!(house.job(&Task::Defragment(None)).moved, Bytes::ZERO, "there is nothing to do");
    house.shows("a", "a");
    house.shows("b", "b");
    house.settled(32);
}

#[test]
fn a_volume_grows_on_where_it_is_joined() {
    let house = House::scattered();
    house.job(&volume("a"));
    assert!(house.put("a", 20, "new") && house.put("a", 3, &text("a", 3)));
    house.shows("a", "a");
    assert_eq!(house.text("a", 20), "new");
    house.check();
}

/// The kernel's flag of a discard that came to nothing, since a snapshot was taken, stays.
#[test]
fn what_was_discarded_before_its_snapshot_moves_for_all() {
    let house = House::scattered();
    house.snapshot(&["a"], "s").unwrap();
    house.target.change(&house.device("a"), |device| device.discarded.extend([3, 4]));
    house.job(&Task::Defragment(None));
    assert!((0..16).all(|chunk| house.put("b", chunk + 16, "new")), "their old places are free");
    house.shows("a@s", "a");
    house.shows("a", "a");
    house.check();
}

#[test]
fn what_several_show_moves_once_for_all() {
    let house = House::scattered();
    house.snapshot(&["a"], "mon").unwrap();
    house.clone_of("a@mon", "clone", 16).unwrap();
    assert!(house.put("a", 5, "mine") && house.put("clone", 6, "clone's"));
    let shared = house.engine.started(&pool()).unwrap();
    let used = shared.core().free.used();
    let done = house.job(&volume("clone"));
    assert_eq!((done.state, done.moved), (JobState::Done, Bytes(16 * CHUNK)));
    house.shows("a@mon", "a");
    assert_eq!((house.text("a", 5), house.text("a", 6)), ("mine".into(), text("a", 6)));
    assert_eq!((house.text("clone", 5), house.text("clone", 6)), (text("a", 5), "clone's".into()));
    assert_eq!((house.runs("a@mon"), house.runs("a"), house.runs("clone")), (1, 3, 3));
    house.settled(used);
    // The snapshot is still one: each of them copies what it writes.
    let copied = house.engine.growth_figures(&pool()).unwrap().copied;
    assert!(house.put("a", 1, "a's") && house.put("clone", 1, "clone's"));
    assert_eq!(house.engine.growth_figures(&pool()).unwrap().copied, copied + 2);
    house.shows("a@mon", "a");
}

#[test]
fn a_chunk_that_is_written_meanwhile_is_copied_again() {
    let house = House::scattered();
    let device = house.device("a");
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    // The first two times: after it was copied, and before its writes wait.
    house.target.before("protect", move |target, id, _| {
        let n = counted.load(Ordering::SeqCst);
        if *id == device && n < 2 && !target.state(id).protected.contains(&7) {
            let sector = super::house::sector(&format!("new {n}"));
            assert_eq!(target.try_put(id, 7, &sector, Duration::from_secs(9)), Some(true));
            counted.store(n + 1, Ordering::SeqCst);
        }
    });
    let done = house.job(&volume("a"));
    assert_eq!((done.state, done.runs), (JobState::Done, 1));
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert_eq!(house.text("a", 7), "new 1");
    house.settled(32);
}

#[test]
fn a_chunk_that_is_written_all_the_time_moves_at_last() {
    let house = House::scattered();
    let (stop, written) = (AtomicBool::new(false), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                let text = format!("new {n}");
                assert!(house.put("a", 7, &text));
                *written.lock().unwrap() = text;
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        let done = house.job(&volume("a"));
        stop.store(true, Ordering::SeqCst);
        assert_eq!((done.state, done.runs), (JobState::Done, 1));
    });
    assert_eq!(house.text("a", 7), *written.lock().unwrap());
    house.settled(32);
}

#[test]
fn a_clone_that_is_made_meanwhile_has_what_the_snapshot_had() {
    let house = Arc::new(House::scattered());
    house.snapshot(&["a"], "mon").unwrap();
    let (made, maker) = (Arc::new(AtomicBool::new(false)), house.engine.clone());
    let once = made.clone();
    house.target.before("protect", move |_, _, _| {
        if !once.swap(true, Ordering::SeqCst) {
            let backing = Some("a@mon".parse().unwrap());
            let spec = VolumeSpec {
                backing,
                name: "clone".parse().unwrap(),
                uuid: Uuid::from_u128(77),
                capacity: Bytes::mib(16),
                allocation: Bytes::ZERO,
            };
            maker.create_volume(&pool(), &spec).unwrap();
        }
    });
    let first = house.job(&volume("a@mon"));
    assert!(made.load(Ordering::SeqCst));
    // It is left for the next time, which moves it for the clone as well.
    assert!(matches!(first.state, JobState::Failed(_)), "{first:?}");
    house.shows("clone", "a");
    let done = house.job(&volume("clone"));
    assert_eq!((done.state, done.runs), (JobState::Done, 1));
    ["a", "a@mon", "clone"].iter().for_each(|name| house.shows(name, "a"));
    house.settled(32);
}

#[test]
fn what_a_guest_discards_meanwhile_does_not_come_back() {
    for shared in [false, true] {
        let house = House::scattered();
        if shared {
            house.snapshot(&["a"], "mon").unwrap();
        }
        let device = house.device("a");
        let once = AtomicBool::new(false);
        house.target.before("protect", move |target, id, _| {
            if *id == device && !once.swap(true, Ordering::SeqCst) {
                target.discard(id, 3..5);
            }
        });
        assert_eq!(house.job(&volume("a")).state, JobState::Done);
        let gone = || (3..5).all(|chunk| house.text("a", chunk).is_empty());
        eventually("a hole", gone);
        if shared {
            house.shows("a@mon", "a");
        }
        assert!(house.put("a", 3, "new"));
        assert_eq!(house.text("a", 3), "new");
        let used = house.engine.started(&pool()).unwrap().core().free.used();
        house.settled(used);
    }
}

#[test]
fn space_at_the_end_goes_back_to_the_group() {
    let house = House::started(64);
    house.write_to_disk();
    house.create("a", 32);
    house.create("b", 16);
    assert!((0..128).all(|chunk| house.put("a", chunk, &text("a", chunk))));
    for chunk in (0..16).rev() {
        assert!(house.put("b", chunk, &text("b", chunk)));
    }
    house.delete("a").unwrap();
    let shared = house.engine.started(&pool()).unwrap();
    eventually("collected", || shared.core().is_collected());
    let kept = shared.core().free.size(0);
    assert!(kept > 128, "its chunks lie at the end: {kept}");
    let done = house.job(&Task::Reclaim(None));
    assert_eq!(done.state, JobState::Done);
    assert!(done.moved > Bytes::ZERO && done.to_group > Bytes::mib(8), "{done:?}");
    let now = shared.core().free.size(0);
    assert!(now < kept / 2, "{now} of {kept}");
    house.shows("b", "b");
    house.settled(16);
    assert_eq!(house.job(&Task::Reclaim(None)).moved, Bytes::ZERO, "there is nothing to do");
}

#[test]
fn one_job_at_a_time_and_it_can_be_cancelled() {
    let house = House::scattered();
    let refused = |task: &Task| house.engine.start_job(&pool(), task).unwrap_err().to_string();
    assert!(refused(&volume("other")).contains("other"));
    let disk = house.lvm.disk(&data_lv(0));
    let held = disk.hold();
    let id = house.engine.start_job(&pool(), &volume("a")).unwrap();
    assert!(refused(&volume("b")).contains(&format!("the job {id} of the pool 'vms' runs")));
    house.engine.cancel_job(id).unwrap();
    drop(held);
    assert_eq!(house.ended(id).state, JobState::Cancelled);
    assert_eq!(house.engine.cancel_job(id).unwrap_err().to_string(), format!("no job {id} runs"));
    house.shows("a", "a");
    house.settled(32);
    assert_eq!(house.job(&volume("a")).runs, 1);
}

#[test]
fn each_message_may_fail_before_or_after_its_effect() {
    for step in ["watch", "protect", "remap", "drain"] {
        for done in [false, true] {
            println!("{step}, done: {done}");
            let house = House::scattered();
            house.snapshot(&["b"], "mon").unwrap();
            house.target.fail(step, Failing { errno: Errno::EIO, times: 1, done });
            // The second time what the first one left.
            for name in ["a", "b@mon", "a", "b@mon"] {
                house.job(&volume(name));
            }
            house.shows("a", "a");
            ["b", "b@mon"].iter().for_each(|name| house.shows(name, "b"));
            assert!((0..16).all(|chunk| house.put("a", chunk, &text("a", chunk))));
            eventually("joined", || house.runs("a") == 1 && house.runs("b@mon") == 1);
            house.settled(32);
        }
    }
}

#[test]
fn a_disk_may_fail_at_any_operation() {
    for lv in [META_LV.to_owned(), data_lv(0)] {
        let last = super::house::each_until_the_last(|after| {
            let mut house = House::scattered();
            let disk = house.lvm.disk(&lv);
            disk.fail_after(after);
            let failed = house.job(&volume("a"));
            let reached = disk.has_failed();
            disk.heal();
            assert!(reached || failed.state == JobState::Done, "{failed:?}");
            // Writes to what was about to move go on when the metadata has been read again.
            assert!((0..16).all(|chunk| house.put("a", chunk, &text("a", chunk))));
            house.shows("a", "a");
            eventually("usable again", || !house.engine.is_damaged(&pool()));
            assert_eq!(house.job(&volume("a")).state, JobState::Done);
            house.restart();
            house.engine.start_pool(&spec()).unwrap();
            house.write_to_disk();
            house.shows("a", "a");
            house.settled(32);
            reached
        });
        assert!(last > 3, "only {last} operations of {lv} failed");
    }
}
