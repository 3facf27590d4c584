// SPDX-License-Identifier: LGPL-2.1-or-later
//! The capacities of a pool's volumes have a limit.

use std::cell::Cell;
use std::rc::Rc;

use virtnotify_model::{Overcommit, PoolInfo};

use super::*;
use crate::runtime::simulated::{self, Host};

impl House {
    fn with_limit(mib: u64, limit: Overcommit) -> Self {
        let house = Self::started(mib);
        house.limit(limit);
        house
    }

    fn limit(&self, limit: Overcommit) {
        let policy = Policy { overcommit: Some(limit), ..Policy::default() };
        assert_eq!(self.engine.set_policy(&pool(), &policy).unwrap(), Change::Changed);
    }

    fn info(&self) -> PoolInfo {
        self.engine.pool_info(&pool()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let volumes = self.engine.volumes(&pool()).unwrap();
        volumes.iter().map(|volume| volume.name.to_string()).collect()
    }

    fn enlarge(&self, name: &str, mib: u64) -> Result<Change, BackendError> {
        self.engine.resize_volume(&pool(), &name.parse().unwrap(), Bytes::mib(mib))
    }
}

fn size(mib: u64) -> Overcommit {
    Overcommit::Size(Bytes::mib(mib))
}

fn refused<T: std::fmt::Debug>(
    asked: u64,
    limit: u64,
    has: u64,
    more: u64,
    result: Result<T, BackendError>,
) {
    let (limit, has, more) = (Bytes::mib(limit), Bytes::mib(has), Bytes::mib(more));
    let sentence = format!(
        "a capacity of {} bytes is not possible: the policy of the pool 'vms' allows its volumes \
         {limit} together, they have {has}, and this is {more} more",
        asked << 20
    );
    assert_eq!(result.unwrap_err().to_string(), sentence);
}

#[test]
fn a_volume_beyond_the_limit_is_not_made() {
    let house = House::with_limit(64, size(96));
    house.create("a", 64);
    refused(33, 96, 64, 33, house.create_with("b", 33, 0));
    assert_eq!((house.names(), house.info().promised), (vec!["a".to_owned()], Bytes::mib(64)));
    house.create("b", 32);
    refused(1, 96, 96, 1, house.create_with("c", 1, 0));
    house.delete("b").unwrap();
    house.create("c", 1);
    assert_eq!(house.info().promised, Bytes::mib(65));
    house.check();
}

#[test]
fn a_volume_does_not_become_larger_than_the_limit_allows() {
    let house = House::with_limit(64, size(96));
    house.create("a", 32);
    house.create("b", 32);
    refused(65, 96, 64, 33, house.enlarge("b", 65));
    assert_eq!(house.volume("b").capacity, Bytes::mib(32));
    assert_eq!(house.enlarge("b", 64).unwrap(), Change::Changed);
    // What was promised before the limit came stays; it may become less, or be resized again.
    house.limit(size(48));
    assert_eq!(house.enlarge("b", 64).unwrap(), Change::Identity);
    assert_eq!(house.enlarge("b", 60).unwrap(), Change::Changed);
    refused(61, 48, 92, 1, house.enlarge("b", 61));
    house.check();
}

#[test]
fn a_clone_promises_its_capacity_and_a_snapshot_nothing() {
    let house = House::with_limit(64, size(96));
    house.create("a", 32);
    house.snapshot(&["a"], "mon").unwrap();
    assert_eq!(house.info().promised, Bytes::mib(32));
    house.clone_of("a@mon", "b", 32).unwrap();
    refused(40, 96, 64, 40, house.clone_of("a", "c", 40));
    assert_eq!(house.names(), ["a", "a@mon", "b"]);
    house.clone_of("a", "c", 32).unwrap();
    assert_eq!(house.info().promised, Bytes::mib(96));
    house.check();
}

#[test]
fn a_rollback_to_a_larger_capacity_is_within_the_limit() {
    let house = House::with_limit(64, size(96));
    house.write_to_disk();
    house.create("a", 64);
    house.snapshot(&["a"], "mon").unwrap();
    house.enlarge("a", 32).unwrap();
    house.create("b", 64);
    assert!(house.put("a", 0, "kept"));
    refused(64, 96, 96, 32, house.roll_back("a@mon"));
    assert_eq!((house.text("a", 0), house.volume("a").capacity), ("kept".into(), Bytes::mib(32)));
    house.delete("b").unwrap();
    house.roll_back("a@mon").unwrap();
    assert_eq!((house.text("a", 0), house.info().promised), (String::new(), Bytes::mib(64)));
    house.check();
}

/// Six of eight volumes that are asked for at once, whichever goes on first wherever one may be interrupted.
#[test]
fn what_is_asked_at_the_same_time_is_within_the_limit_together() {
    for seed in 0..20 {
        let (house, ended) = (Rc::new(House::with_group(64)), Rc::new(Cell::new(None)));
        let host = Host::new(seed, 2, Duration::ZERO);
        let (asked, tell) = (house.clone(), ended.clone());
        host.spawn("operator", move || {
            asked.engine.start_pool(&spec()).unwrap();
            asked.limit(size(96));
            let create = |n: u64| {
                let house = asked.clone();
                let work = move || drop(house.create_with(&format!("disk{n}"), 16, 0));
                simulated::spawn("asks", work)
            };
            (0..8).map(create).collect::<Vec<_>>().into_iter().for_each(simulated::join);
            tell.set(Some((asked.names().len(), asked.info().promised)));
            asked.engine.halt();
        });
        assert_eq!(host.run(|| false), Ok(()));
        assert_eq!(ended.get(), Some((6, Bytes::mib(96))), "seed {seed}");
    }
}

#[test]
fn a_ratio_is_one_of_what_the_volumes_can_have() {
    let house = House::with_limit(64, Overcommit::Ratio("1.5".parse().unwrap()));
    let obtainable = house.info().obtainable;
    let data = house.info().available;
    assert_eq!(obtainable, data, "nothing is held yet");
    let disk = device_of(house.create("a", 32).uuid);
    for chunk in 0..32 {
        assert!(house.write(&disk, chunk));
    }
    eventually("what is held counts as before", || house.info().obtainable == obtainable);
    let most = (obtainable.0 * 3 / 2 / (1 << 20)) - 32;
    assert!(house.create_with("b", most + 1, 0).is_err());
    house.create("b", most);
    house.delete("b").unwrap();
    // What others take from the group the volumes cannot have.
    house.lvm.change(|report| report.free = report.free.saturating_sub(Bytes::mib(8)));
    let less = obtainable.saturating_sub(Bytes::mib(8));
    eventually("what others have is not theirs", || {
        house.engine.refresh_pool(&pool()).unwrap();
        house.info().obtainable == less
    });
    assert!(house.create_with("b", most, 0).is_err());
    house.create("b", most - 12);
}

/// To give a volume all its space may take hours; what is promised to it counts meanwhile.
#[test]
fn other_volumes_are_changed_while_one_is_given_its_space() {
    let house = House::with_limit(64, size(40));
    let other = house.create("other", 2);
    let shared = house.engine.started(&pool()).unwrap();
    let disk = house.lvm.disk(&data_lv(0));
    std::thread::scope(|scope| {
        // Nothing is zeroed.
        let held = disk.hold();
        let full = scope.spawn(|| house.create_with("full", 24, 24));
        eventually("it is made", || {
            let core = shared.core();
            core.find(&"full".parse().unwrap()).is_ok_and(|id| core.check_idle(id).is_err())
        });
        assert_eq!(house.names(), ["other"]);
        house.create("new", 4);
        house.enlarge("other", 8).unwrap();
        let error = house.create_with("more", 8, 0).unwrap_err().to_string();
        assert!(error.contains("they have 36.00 MiB"), "{error}");
        house.delete("new").unwrap();
        for refused in [
            house.delete("full"),
            house.snapshot(&["full"], "mon").map(drop),
            house.enlarge("full", 25).map(drop),
            house.engine.stop_pool(&pool()).map(drop),
        ] {
            let error = refused.unwrap_err().to_string();
            assert_eq!(
                error,
                "the volume 'full' is being given its space: wait until that is done"
            );
        }
        drop(held);
        assert_eq!(full.join().unwrap().unwrap().allocation, Bytes::mib(24));
        // One that is there already.
        let held = disk.hold();
        let filled = scope.spawn(|| house.engine.allocate_volume(&pool(), &other.name));
        eventually("it is filled", || {
            let core = shared.core();
            core.find(&other.name).is_ok_and(|id| core.check_idle(id).is_err())
        });
        house.create("new", 4);
        house.delete("other").unwrap_err();
        // What an upload needs is got beside it.
        let part = scope
            .spawn(|| house.engine.prepare_write(&pool(), &other.name, Bytes::ZERO, Bytes(CHUNK)));
        eventually("the upload waits", || shared.gate.demand() > 0);
        drop(held);
        assert_eq!(filled.join().unwrap().unwrap(), Change::Changed);
        part.join().unwrap().unwrap();
    });
    house.delete("other").unwrap();
    house.check();
}

/// What is free is not promised twice, and nothing waits long for the headroom thread.
#[test]
fn of_two_volumes_that_want_all_their_space_one_is_refused_at_once() {
    let house = House::started(640);
    let shared = house.engine.started(&pool()).unwrap();
    let disk = house.lvm.disk(&data_lv(0));
    let writes_find = || {
        let (clean, mark) = (shared.core().free.clean(), shared.gate.mark());
        mark > 0 && clean >= mark
    };
    eventually("the headroom is there", writes_find);
    std::thread::scope(|scope| {
        let held = disk.hold();
        let first = scope.spawn(|| house.create_with("first", 400, 400));
        eventually("it waits for space", || shared.gate.demand() > 0);
        assert_eq!(shared.gate.demand(), (256 << 20) / CHUNK, "no more at once");
        assert!(writes_find(), "the headroom is left to writes");
        let second = house.create_with("second", 400, 400).unwrap_err();
        assert!(matches!(second, BackendError::NoSpace { .. }), "{second}");
        drop(held);
        assert_eq!(first.join().unwrap().unwrap().allocation, Bytes::mib(400));
    });
    house.create_with("third", 100, 100).unwrap();
    // The same for volumes that are there.
    let thin = house.create("thin", 300);
    let refused = house.engine.allocate_volume(&pool(), &thin.name).unwrap_err();
    assert!(matches!(refused, BackendError::NoSpace { .. }), "{refused}");
    assert_eq!(house.volume("thin").allocation, Bytes::ZERO);
    house.check();
}
