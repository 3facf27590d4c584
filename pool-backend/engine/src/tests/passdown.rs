// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes back to the group is discarded on the disk first, if the policy says so.

use std::ops::Range;

use nix::errno::Errno;
use virtnotify_model::Task;

use super::*;
use crate::testing::FakeDisk;

impl House {
    /// A pool whose policy says so, with a volume of 200 chunks.
    fn with_passdown(passdown: bool) -> Self {
        let house = Self::with_group(128);
        let policy = Policy { passdown, ..Policy::default() };
        house.engine.start_pool(&PoolSpec { policy, ..spec() }).unwrap();
        let disk = device_of(house.create("big", 64).uuid);
        assert!((0..200).all(|chunk| house.write(&disk, chunk)));
        house
    }

    /// Deletes it; says what the data LV had before and has when it is reduced.
    fn reduced(&self) -> Range<u64> {
        let size = || self.lvm.change(|report| report.lv(&data_lv(0)).unwrap().size.0);
        let before = size();
        self.delete("big").unwrap();
        eventually("the group gets it", || {
            self.job(&Task::Reclaim(None));
            size() < before / 4
        });
        size()..before
    }

    fn data(&self) -> Arc<FakeDisk> {
        self.lvm.disk(&data_lv(0))
    }
}

#[test]
fn the_tail_of_the_data_is_discarded_before_it_goes() {
    let house = House::with_passdown(true);
    let data = house.data();
    let gone = house.reduced();
    let discarded = data.discarded();
    let covered =
        |byte: u64| discarded.iter().any(|&(at, length)| (at..at + length).contains(&byte));
    assert!(gone.clone().step_by(4096).all(covered), "{gone:?}: {discarded:?}");
    house.create("next", 16);
    let disk = device_of(house.volume("next").uuid);
    assert!((0..64).all(|chunk| house.write(&disk, chunk)));
    house.check_zeroes();
    house.check();
}

#[test]
fn nothing_is_discarded_unless_the_policy_says_so() {
    let house = House::with_passdown(false);
    let data = house.data();
    house.reduced();
    assert_eq!(data.discarded(), []);
    house.check();
}

#[test]
fn a_disk_that_cannot_discard_gives_its_space_back_as_well() {
    for errno in [Errno::EOPNOTSUPP, Errno::EIO] {
        let house = House::with_passdown(true);
        let data = house.data();
        data.refuse_discards(errno);
        house.reduced();
        assert!(!data.discarded().is_empty(), "it was tried");
        house.check();
    }
}

#[test]
fn the_data_of_a_deleted_pool_is_discarded() {
    for passdown in [true, false] {
        let house = House::with_passdown(passdown);
        house.delete("big").unwrap();
        house.engine.stop_pool(&pool()).unwrap();
        let (data, meta) = (house.data(), house.lvm.disk(META_LV));
        let size = data.size().unwrap();
        data.discarded();
        let policy = Policy { passdown, ..Policy::default() };
        house.engine.delete_pool(&PoolSpec { policy, ..spec() }).unwrap();
        let expected = if passdown { vec![(0, size)] } else { Vec::new() };
        assert_eq!((data.discarded(), meta.discarded()), (expected, Vec::new()));
    }
}
