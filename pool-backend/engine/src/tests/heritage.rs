// SPDX-License-Identifier: LGPL-2.1-or-later
//! A new device gets at once what another one shows, whatever happens meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::*;
use crate::testing::Failing;

/// How often the target was told something.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl Count {
    fn of(house: &House, step: &'static str) -> Self {
        let count = Self::default();
        let counter = count.clone();
        house.target.before(step, move |_, _, _| {
            counter.0.fetch_add(1, Ordering::SeqCst);
        });
        count
    }

    fn taken(&self) -> u64 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl House {
    fn with_chunks() -> Self {
        let house = Self::started(64);
        house.write_to_disk();
        house.create("disk0", 16);
        assert!([7, 5, 3, 1, 0].into_iter().all(|chunk| house.put("disk0", chunk, "old")));
        house
    }

    fn shown(&self, name: &str) -> Vec<String> {
        (0..8).map(|chunk| self.text(name, chunk)).collect()
    }

    fn all_as_old(&self, names: &[&str]) {
        for name in names {
            assert_eq!(self.shown(name), OLD, "{name}");
        }
        self.check();
    }
}

const OLD: [&str; 8] = ["old", "old", "", "old", "", "old", "", "old"];

#[test]
fn snapshots_clones_and_rollbacks_are_not_told_run_by_run() {
    let house = House::with_chunks();
    let (maps, inherits) = (Count::of(&house, "map"), Count::of(&house, "inherit"));
    house.snapshot(&["disk0"], "mon").unwrap();
    house.clone_of("disk0@mon", "of-snapshot", 16).unwrap();
    house.clone_of("disk0", "of-volume", 16).unwrap();
    house.roll_back("disk0@mon").unwrap();
    assert_eq!((inherits.taken(), maps.taken()), (4, 0));
    house.all_as_old(&["disk0", "disk0@mon", "of-snapshot", "of-volume"]);
}

#[test]
fn what_the_other_one_has_of_its_own_is_told() {
    let mut house = House::with_chunks();
    house.snapshot(&["disk0"], "mon").unwrap();
    assert!(house.put("disk0", 1, "new") && house.put("disk0", 2, "new"));
    let device = device_of(house.volume("disk0").uuid);
    house.target.discard(&device, 3..4);
    eventually("a hole", || house.target.state(&device).leaving.is_empty());
    house.clone_of("disk0@mon", "clone", 16).unwrap();
    house.snapshot(&["disk0"], "tue").unwrap();
    let new = ["old", "new", "new", "", "", "old", "", "old"];
    house.all_as_old(&["clone", "disk0@mon"]);
    // After a boot one of them is first; the others get what it has of theirs.
    for seed in 1..6 {
        house.lvm.disk(&data_lv(0)).sync().unwrap();
        house.end(false, seed, 4);
        let inherits = Count::of(&house, "inherit");
        house.restart();
        house.engine.start_pool(&spec()).unwrap();
        house.write_to_disk();
        assert!(inherits.taken() > 0);
        house.all_as_old(&["clone", "disk0@mon"]);
        assert_eq!(house.shown("disk0"), new);
        assert_eq!(house.shown("disk0@tue"), new);
    }
}

#[test]
fn what_has_left_the_other_device_alone_is_told() {
    let house = House::with_chunks();
    house.snapshot(&["disk0"], "mon").unwrap();
    house.target.lose_signals(true);
    let device = device_of(house.volume("disk0").uuid);
    // The kernel has holes there, and the metadata does not know it yet.
    house.target.discard(&device, 3..6);
    let maps = Count::of(&house, "map");
    house.snapshot(&["disk0"], "tue").unwrap();
    assert!(maps.taken() > 0, "chunks were missing");
    let tue = house.volume("disk0@tue");
    let there = house.target.state(&device_of(tue.uuid)).map.chunks();
    assert_eq!(there * CHUNK, tue.allocation.0);
    assert_eq!(house.shown("disk0@tue"), OLD);
    house.target.lose_signals(false);
    house.check();
}

#[test]
fn what_cannot_be_inherited_is_told() {
    for errno in [Errno::ENOMEM, Errno::ENODEV] {
        for done in [false, true] {
            let house = House::with_chunks();
            house.target.fail("inherit", Failing { errno, times: 1, done });
            house.snapshot(&["disk0"], "mon").unwrap();
            house.all_as_old(&["disk0", "disk0@mon"]);
            assert!(house.put("disk0", 1, "new"));
            assert_eq!(house.text("disk0@mon", 1), "old");
        }
    }
}

/// A module that does not know the message.
#[test]
fn an_older_target_is_told_all() {
    let house = House::with_chunks();
    house.target.fail("inherit", Failing { errno: Errno::EINVAL, times: 1000, done: false });
    house.snapshot(&["disk0"], "mon").unwrap();
    house.clone_of("disk0@mon", "clone", 16).unwrap();
    house.all_as_old(&["disk0", "disk0@mon", "clone"]);
}

#[test]
fn the_other_one_is_written_meanwhile() {
    for step in ["inherit", "half inherited"] {
        let house = House::with_chunks();
        let disk0 = device_of(house.volume("disk0").uuid);
        house.target.before(step, move |target, _, _| {
            let text = super::house::sector("new");
            for chunk in [0, 1, 2] {
                let done = target.try_put(&disk0, chunk, &text, Duration::from_secs(20));
                assert_eq!(done, Some(true));
            }
        });
        house.snapshot(&["disk0"], "mon").unwrap();
        assert_eq!(house.shown("disk0"), ["new", "new", "new", "old", "", "old", "", "old"]);
        house.all_as_old(&["disk0@mon"]);
    }
}

#[test]
fn no_chunk_moves_while_a_device_is_half_made() {
    let house = House::with_chunks();
    house.snapshot(&["disk0"], "mon").unwrap();
    let can_move = |engine: &Engine| {
        let shared = engine.started(&pool()).unwrap();
        let core = shared.core();
        let layer = core.volumes().map(|(_, volume)| volume.row().layer).min().unwrap();
        core.can_relocate(layer)
    };
    eventually("it could move", || can_move(&house.engine));
    let (engine, looked) = (house.engine.clone(), Count::default());
    let ran = looked.clone();
    house.target.before("half inherited", move |_, _, _| {
        assert!(!can_move(&engine));
        ran.0.fetch_add(1, Ordering::SeqCst);
    });
    house.clone_of("disk0@mon", "clone", 16).unwrap();
    assert_eq!(looked.taken(), 1);
    house.all_as_old(&["disk0", "disk0@mon", "clone"]);
}

/// Devices may have chunks where they were before they moved: nothing is copied from these.
#[test]
fn nothing_is_inherited_before_all_devices_know_where_chunks_are() {
    let house = House::with_chunks();
    house.snapshot(&["disk0"], "mon").unwrap();
    let (engine, inherits) = (house.engine.clone(), Count::of(&house, "inherit"));
    let made = Arc::new(AtomicU64::new(0));
    let count = made.clone();
    // Durable, and no device was told.
    house.target.before("remap", move |_, _, _| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            let spec = virtnotify_model::VolumeSpec {
                name: "clone".parse().unwrap(),
                uuid: Uuid::from_u128(77),
                capacity: Bytes::mib(16),
                allocation: Bytes::ZERO,
                backing: Some("disk0@mon".parse().unwrap()),
            };
            engine.create_volume(&pool(), &spec).unwrap();
        }
    });
    house.job(&virtnotify_model::Task::Defragment(None));
    assert!(made.load(Ordering::SeqCst) > 0, "chunks have moved");
    assert_eq!(inherits.taken(), 0);
    house.all_as_old(&["disk0", "disk0@mon", "clone"]);
}
