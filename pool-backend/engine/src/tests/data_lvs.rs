// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool gets another data LV while LVM moves the one that it has.

use nix::errno::Errno;

use super::*;
use crate::lvm::Lvm;
use crate::testing::Failing;
use crate::tests::house::{Sizes, each_until_the_last};

const SIZES: Sizes = Sizes { metadata: Bytes::mib(2), ..super::house::SIZES };
const CHUNKS: u64 = 12;

impl House {
    /// A pool on two devices with a volume that is written, whose data LV another program moves for ever.
    fn while_moved() -> Self {
        let house = Self::on(&[Bytes::mib(40), Bytes::mib(60)], Bytes::mib(1), SIZES);
        house.engine.start_pool(&spec()).unwrap();
        house.write_to_disk();
        house.create("disk0", 48);
        house.create("disk1", 48);
        assert!((0..CHUNKS).all(|chunk| house.put("disk0", chunk, "old")));
        house.lvm.devices(|devices| devices.stall(true));
        assert!(house.lvm.begin_some_move());
        house
    }

    fn data_lvs(&self) -> Vec<String> {
        let named = |lv: &crate::lvm::LvReport| lv.name != META_LV;
        self.lvm.change(|report| {
            report.lvs.iter().filter(|lv| named(lv)).map(|lv| lv.name.clone()).collect()
        })
    }

    /// Writes to these chunks; says whether all were acknowledged.
    fn fill(&self, name: &str, chunks: std::ops::Range<u64>) -> bool {
        let mut chunks = chunks;
        chunks.all(|chunk| self.put(name, chunk, &format!("{name} {chunk}")))
    }

    fn is_filled(&self, name: &str, chunks: std::ops::Range<u64>) -> bool {
        let (mut chunks, volume) = (chunks, name.split('@').next().unwrap());
        chunks.all(|chunk| self.text(name, chunk) == format!("{volume} {chunk}"))
    }

    fn is_old(&self, name: &str) -> bool {
        (0..CHUNKS).all(|chunk| self.text(name, chunk) == "old")
    }

    fn begun_again(&mut self, killed: bool) {
        for lv in self.data_lvs() {
            self.lvm.disk(&lv).sync().unwrap();
        }
        self.end(killed, 7, 4);
        self.restart();
        self.engine.start_pool(&spec()).unwrap();
        self.write_to_disk();
    }
}

#[test]
fn volumes_grow_while_others_move_the_data_lv() {
    for killed in [true, false] {
        let mut house = House::while_moved();
        assert!(house.fill("disk1", 0..20) && house.fill("disk0", 20..30));
        assert_eq!(house.data_lvs(), [data_lv(0), data_lv(1)]);
        let lvs = house.engine.contents(&pool()).unwrap().data_lvs;
        assert_eq!(lvs.into_keys().collect::<Vec<_>>(), [0, 1]);
        house.snapshot(&["disk0", "disk1"], "mon").unwrap();
        assert!(house.put("disk1", 0, "new") && house.put("disk0", 0, "new"));
        assert_eq!(
            (house.text("disk1@mon", 0), house.text("disk0@mon", 0)),
            ("disk1 0".into(), "old".into())
        );
        house.check();
        house.begun_again(killed);
        assert!(house.is_filled("disk1", 1..20) && house.is_filled("disk0", 20..30));
        assert!(house.is_filled("disk1@mon", 0..20) && house.is_old("disk0@mon"));
        assert!(house.fill("disk1", 20..24));
        house.check();
    }
}

#[test]
fn the_first_data_lv_grows_again_afterwards_and_the_other_one_goes_back() {
    let house = House::while_moved();
    assert!(house.fill("disk1", 0..20));
    house.lvm.devices(|devices| devices.stall(false));
    let sizes = || {
        house.lvm.change(|report| {
            [0, 1].map(|lv| report.lv(&data_lv(lv)).map_or(Bytes::ZERO, |lv| lv.size))
        })
    };
    let before = sizes();
    assert!(house.fill("disk1", 20..48) && house.fill("disk0", CHUNKS..30));
    eventually("it grows again", || sizes()[0] > before[0]);
    house.check();
    // What lies elsewhere comes back with what is free; the other LV has headroom at most.
    house.delete("disk1").unwrap();
    house.job(&virtnotify_model::Task::Reclaim(None));
    let shared = house.engine.started(&pool()).unwrap();
    assert_eq!(shared.core().free.used_on(1), 0);
    assert!(house.is_old("disk0") && house.is_filled("disk0", CHUNKS..30));
    house.check();
}

/// A device that cannot get the new table: nothing is mapped where it knows no LV, and it is tried again.
#[test]
fn a_device_that_does_not_know_it_gets_nothing_of_it() {
    for step in ["load", "suspend", "resume"] {
        for done in [false, true] {
            let house = House::while_moved();
            house.target.fail(step, Failing { errno: Errno::ENOMEM, times: 1, done });
            assert!(house.fill("disk1", 0..20), "{step} {done}");
            assert!(house.fill("disk0", 20..30), "{step} {done}");
            assert!(house.is_old("disk0"));
            house.check();
        }
    }
}

#[test]
fn a_logical_volume_of_others_is_left_alone() {
    let house = House::while_moved();
    house.lvm.create_lv(&spec().vg, &data_lv(1), Bytes::mib(1), &["mine"]).unwrap();
    let shared = house.engine.started(&pool()).unwrap();
    shared.gate.ask(30);
    std::thread::sleep(Duration::from_millis(2500));
    shared.gate.ask(30);
    assert_eq!(house.engine.contents(&pool()).unwrap().data_lvs.len(), 1);
    assert_eq!(shared.data.numbers(), [0]);
}

/// To make, wipe or delete a volume may take hours: no guest waits for its end.
#[test]
fn nobody_waits_for_what_an_operator_does() {
    let house = House::while_moved();
    let shared = house.engine.started(&pool()).unwrap();
    let admin = shared.admin().unwrap();
    assert!(house.fill("disk1", 0..20) && house.fill("disk0", 20..30));
    drop(admin);
    house.check();
}

#[test]
fn a_volume_is_made_with_all_its_space() {
    let house = House::while_moved();
    let spec = virtnotify_model::VolumeSpec {
        name: "full".parse().unwrap(),
        uuid: Uuid::from_u128(7),
        capacity: Bytes::mib(24),
        allocation: Bytes::mib(24),
        backing: None,
    };
    let made = house.engine.create_volume(&pool(), &spec).unwrap();
    assert_eq!(made.allocation, Bytes::mib(24));
    house.check();
}

/// One that LVM made for a daemon that was killed, or that a device could not be told of, while nothing is wanted
/// any more.
#[test]
fn no_logical_volume_is_left_unused() {
    let chunks = |house: &House, lv| {
        let size = house.lvm.change(|report| report.lv(&data_lv(lv)).map(|found| found.size));
        size.map_or(0, |size| size.0 / CHUNK)
    };
    let is_used = |house: &House| {
        let shared = house.engine.started(&pool()).unwrap();
        let core = shared.core();
        shared.data.numbers() == [0, 1] && core.free.size(1) == chunks(house, 1)
    };
    for killed in [true, false] {
        let mut house = House::while_moved();
        house.lvm.create_lv(&spec().vg, &data_lv(1), Bytes::mib(8), &[TAG]).unwrap();
        house.lvm.devices(|devices| devices.stall(false));
        house.begun_again(killed);
        eventually("it is used", || is_used(&house));
        assert!(house.is_old("disk0"));
        house.check();
    }
    let house = House::while_moved();
    house.lvm.hang("lvcreate", 1, true);
    let shared = house.engine.started(&pool()).unwrap();
    eventually("one is made", || {
        shared.gate.ask(30);
        house.data_lvs().len() > 1
    });
    house.lvm.devices(|devices| devices.stall(false));
    eventually("it is used", || is_used(&house));
    house.check();
}

/// The daemon is killed, or the power goes, at each operation of the host on the way to another data LV.
#[test]
fn it_may_be_killed_at_any_operation() {
    for (killed, keep) in [(true, 4), (false, 4), (false, 0)] {
        let ends = each_until_the_last(|operations| {
            let mut house = House::while_moved();
            house.snapshot(&["disk0"], "mon").unwrap();
            house.lvm.disk(&data_lv(0)).sync().unwrap();
            let power = house.lvm.power();
            power.cut_after(operations);
            let device = device_of(house.volume("disk1").uuid);
            let text = super::house::sector("new");
            let written: Vec<u64> =
                (0..16).take_while(|&chunk| house.put_until_cut(&device, chunk, &text)).collect();
            if !power.is_gone() {
                return false;
            }
            house.end(killed, operations, keep);
            house.restart();
            house.engine.start_pool(&spec()).unwrap();
            house.write_to_disk();
            assert!(house.is_old("disk0") && house.is_old("disk0@mon"), "{operations}");
            // Of what was not flushed none may be left.
            let lost = written.iter().find(|&&chunk| house.text("disk1", chunk) != "new");
            assert!(keep == 0 || lost.is_none(), "{operations}: {lost:?}");
            assert!(house.fill("disk1", 0..20) && house.fill("disk0", 20..30), "{operations}");
            house.check();
            true
        });
        assert!(ends > 20, "{ends}");
    }
}
