// SPDX-License-Identifier: LGPL-2.1-or-later
//! A physical volume becomes empty while guests write, and those that cannot stay as they are.

use virtnotify_model::{JobState, Task};

use super::*;
use crate::lvm::{Lvm, PvSegment};
use crate::pool::gate::Outcome;
use crate::repair::Repair;
use crate::tests::house::{Sizes, each_until_the_last};

const SIZES: Sizes = Sizes { metadata: Bytes::mib(2), ..super::house::SIZES };

fn task(device: &str) -> Task {
    Task::Evacuate(device.into())
}

impl House {
    /// A pool on devices of so many MiB each.
    fn on_devices(mib: &[u64]) -> Self {
        let sizes: Vec<_> = mib.iter().map(|mib| Bytes::mib(*mib)).collect();
        let house = Self::on(&sizes, Bytes::mib(1), SIZES);
        house.engine.start_pool(&spec()).unwrap();
        house.write_to_disk();
        house
    }

    /// The same with a volume of so many chunks that hold something.
    fn with_numbers(mib: &[u64], chunks: u64) -> Self {
        let house = Self::on_devices(mib);
        house.create("disk", chunks);
        assert!((0..chunks).all(|chunk| house.put("disk", chunk, &chunk.to_string())));
        house
    }

    fn shows_numbers(&self, chunks: u64) {
        for chunk in 0..chunks {
            assert_eq!(self.text("disk", chunk), chunk.to_string());
        }
    }

    /// How many extents of the data LV lie on each device.
    fn places(&self) -> Vec<usize> {
        self.lvm.devices(|devices| devices.of(&data_lv(0)))
    }

    fn on_device(&self, device: usize) -> usize {
        self.lvm.devices(|devices| devices.on_device(device))
    }

    fn is_open(&self, device: usize) -> bool {
        self.lvm.devices(|devices| devices.is_open(device))
    }

    fn refused(&self, device: &str) -> String {
        self.engine.start_job(&pool(), &task(device)).unwrap_err().to_string()
    }

    /// Ends the daemon, and starts the next one.
    fn killed(&mut self) {
        self.end(true, 1, 0);
        self.restart();
        self.engine.start_pool(&spec()).unwrap();
        self.write_to_disk();
    }
}

#[test]
fn a_device_becomes_empty_and_stays_so() {
    let house = House::with_numbers(&[20, 40], 48);
    let before = house.places();
    assert!(before[0] > 8 && house.is_open(0), "{before:?}");
    let done = house.job(&task("/dev/pv0"));
    assert_eq!((done.state, done.total), (JobState::Done, done.moved));
    // With the metadata.
    assert!(done.moved > Bytes::mib(10), "{}", done.moved);
    assert_eq!((house.on_device(0), house.is_open(0)), (0, false));
    house.create("more", 40);
    assert!((0..40).all(|chunk| house.put("more", chunk, "new")));
    assert_eq!(house.on_device(0), 0, "growth goes elsewhere");
    house.shows_numbers(48);
    house.check();
    assert_eq!(house.job(&task("/dev/pv0")).moved, Bytes::ZERO, "there is nothing to do");
    assert!(!house.is_open(0));
}

#[test]
fn what_is_free_on_a_closed_device_is_not_available() {
    let house = House::with_numbers(&[20, 40], 4);
    let available = || house.engine.pool_info(&pool()).unwrap().available;
    let before = available();
    assert_eq!(house.job(&task("/dev/pv1")).state, JobState::Done);
    assert_eq!(available(), before.saturating_sub(Bytes::mib(40)));
    house.engine.refresh_pool(&pool()).unwrap();
    assert_eq!(available(), before.saturating_sub(Bytes::mib(40)));
    let checked = Repair::check(&*house.engine, &spec().vg).unwrap();
    let figure = |name| checked.figures.iter().find(|(known, _)| *known == name).unwrap().1;
    assert_eq!(figure("others"), 0, "and is nobody's");
    assert!(figure("free") >= Bytes::mib(40).0);
}

#[test]
fn another_path_to_a_device_will_do() {
    let house = House::with_numbers(&[20, 40], 8);
    assert_eq!(house.job(&task("/dev/disk/by-id/pv0")).state, JobState::Done);
    assert_eq!((house.on_device(0), house.is_open(0)), (0, false));
}

#[test]
fn what_cannot_be_evacuated_stays_as_it_is() {
    // Nothing is written: the pool does not grow meanwhile.
    let house = House::on_devices(&[20, 40]);
    let headroom = usize::try_from(SIZES.headroom.0 >> 20).unwrap();
    eventually("the pool to have its headroom", || {
        house.places().iter().sum::<usize>() >= headroom
    });
    house.lvm.log();
    let before = house.lvm.devices(|devices| format!("{devices:?}"));
    let refused = house.refused("/dev/pv9");
    let known = "which has /dev/pv0, /dev/pv1";
    assert!(refused.contains("no physical volume of the volume group 'vg0'"), "{refused}");
    assert!(refused.contains(known), "{refused}");
    let refused = house.refused("/dev/nothing");
    assert!(refused.contains("'/dev/nothing' cannot be looked at"), "{refused}");
    assert_eq!(house.lvm.devices(|devices| format!("{devices:?}")), before);
    house.lvm.devices(|devices| devices.add_other("root", 0));
    let refused = house.refused("/dev/pv0");
    let expected =
        "'vg0/root' lies on '/dev/pv0' too, and is not the pool's: 'pvmove -n root /dev/pv0'";
    assert!(refused.contains(expected), "{refused}");
    assert!(house.engine.start_job(&"other".parse().unwrap(), &task("/dev/pv0")).is_err());
    assert!(house.lvm.log().iter().all(|command| ["vgs", "pvs"].contains(command)));
    assert!(house.is_open(0) && house.engine.jobs().is_empty());
}

#[test]
fn the_only_device_is_refused() {
    let house = House::with_numbers(&[40], 4);
    let refused = house.refused("/dev/pv0");
    assert!(refused.contains("'/dev/pv0' is the only physical volume of 'vg0'"), "{refused}");
    assert!(house.is_open(0));
}

#[test]
fn it_is_told_with_numbers_that_there_is_no_room() {
    let house = House::with_numbers(&[40, 6], 120);
    let shared = house.engine.started(&pool()).unwrap();
    eventually("the headroom", || shared.core().free.clean() >= shared.gate.mark());
    let before = house.places();
    let held = house.on_device(0);
    let refused = house.refused("/dev/pv0");
    assert!(refused.contains(&format!("the pool has {held}.00 MiB on '/dev/pv0'")), "{refused}");
    assert!(refused.contains("of 'vg0' have room for "), "{refused}");
    assert_eq!((house.places(), house.is_open(0)), (before, true));
}

/// What volumes do not need any more makes the room.
#[test]
fn free_chunks_go_back_to_the_group_when_there_is_no_room_otherwise() {
    let house = House::with_numbers(&[20, 20], 30);
    house.create("large", 60);
    house.create("last", 4);
    assert!((0..60).all(|chunk| house.put("large", chunk, "x")));
    assert!((0..4).all(|chunk| house.put("last", chunk, "y")));
    house.engine.delete_volume(&pool(), &"large".parse().unwrap()).unwrap();
    let shared = house.engine.started(&pool()).unwrap();
    eventually("collected", || shared.core().is_collected());
    let places = house.places();
    assert!(places.iter().sum::<usize>() > 20, "it all fits on one of them: {places:?}");
    let done = house.job(&task("/dev/pv0"));
    assert_eq!(done.state, JobState::Done);
    assert!((0..4).all(|chunk| house.text("last", chunk) == "y"));
    assert_eq!((house.on_device(0), house.is_open(0)), (0, false));
    house.shows_numbers(30);
    house.check();
}

#[test]
fn what_is_given_up_is_open_again() {
    let house = House::with_numbers(&[20, 40], 48);
    house.lvm.devices(|devices| devices.stall(true));
    let id = house.engine.start_job(&pool(), &task("/dev/pv0")).unwrap();
    eventually("a move", || house.lvm.devices(|devices| devices.is_moving()));
    assert!(!house.is_open(0), "nothing new goes there from the beginning on");
    house.engine.cancel_job(id).unwrap();
    house.lvm.devices(|devices| devices.stall(false));
    assert_eq!(house.ended(id).state, JobState::Cancelled);
    assert!(house.is_open(0) && !house.lvm.devices(|devices| devices.is_moving()));
    house.shows_numbers(48);
    assert_eq!(house.job(&task("/dev/pv0")).state, JobState::Done);
    assert!(!house.is_open(0));
}

#[test]
fn a_device_that_was_closed_before_stays_closed() {
    let house = House::with_numbers(&[20, 40], 48);
    house.lvm.open_pv("/dev/pv0", false).unwrap();
    house.lvm.devices(|devices| devices.stall(true));
    let id = house.engine.start_job(&pool(), &task("/dev/pv0")).unwrap();
    eventually("a move", || house.lvm.devices(|devices| devices.is_moving()));
    house.engine.cancel_job(id).unwrap();
    house.lvm.devices(|devices| devices.stall(false));
    assert_eq!(house.ended(id).state, JobState::Cancelled);
    assert!(!house.is_open(0));
}

/// LVM's own watcher is killed with the daemon.
#[test]
fn a_move_that_nobody_watches_goes_on_with_the_next_daemon() {
    let mut house = House::with_numbers(&[20, 40], 48);
    house.lvm.devices(|devices| devices.stall(true));
    house.engine.start_job(&pool(), &task("/dev/pv0")).unwrap();
    eventually("a move", || house.lvm.devices(|devices| devices.is_moving()));
    house.killed();
    house.create("more", 60);
    assert!((0..60).all(|chunk| house.put("more", chunk, "new")), "the data LV grows");
    assert!(!house.lvm.devices(|devices| devices.is_moving()));
    assert!(house.on_device(0) > 0 && !house.is_open(0));
    house.shows_numbers(48);
    assert_eq!(house.job(&task("/dev/pv0")).state, JobState::Done);
    assert_eq!(house.on_device(0), 0);
}

/// Guests wait for the end of a part, and are not told that there is no space.
#[test]
fn volumes_grow_while_a_device_becomes_empty() {
    let house = House::with_numbers(&[40, 80], 48);
    house.create("more", 100);
    let id = house.engine.start_job(&pool(), &task("/dev/pv0")).unwrap();
    assert!((0..100).all(|chunk| house.put("more", chunk, "new")));
    assert_eq!(house.ended(id).state, JobState::Done);
    assert_eq!(house.on_device(0), 0);
    house.shows_numbers(48);
    assert!((0..100).all(|chunk| house.text("more", chunk) == "new"));
    house.check();
}

/// A part that does not get on is as a move of others: volumes grow elsewhere.
#[test]
fn volumes_grow_while_a_part_does_not_get_on() {
    let house = House::with_numbers(&[40, 80], 48);
    house.create("more", 60);
    house.lvm.devices(|devices| devices.stall(true));
    let id = house.engine.start_job(&pool(), &task("/dev/pv0")).unwrap();
    eventually("a move", || house.lvm.devices(|devices| devices.is_moving()));
    assert!((0..60).all(|chunk| house.put("more", chunk, "new")));
    house.lvm.devices(|devices| devices.stall(false));
    assert_eq!(house.ended(id).state, JobState::Done);
    assert_eq!(house.on_device(0), 0);
    house.shows_numbers(48);
    assert!((0..60).all(|chunk| house.text("more", chunk) == "new"));
    house.check();
}

/// As one that another program began.
#[test]
fn what_others_move_is_waited_for() {
    let house = House::with_numbers(&[20, 40], 48);
    let (pv, lv) = ("/dev/pv0".to_owned(), data_lv(0));
    house.lvm.begin_move(&PvSegment { pv, start: 0, extents: 2, lv }).unwrap();
    house.lvm.devices(|devices| devices.stall(true));
    let shared = house.engine.started(&pool()).unwrap();
    assert_eq!(shared.gate.ask(60), Outcome::Failed, "there is room, and LVM does not give it now");
    let id = house.engine.start_job(&pool(), &task("/dev/pv0")).unwrap();
    house.lvm.devices(|devices| devices.stall(false));
    assert_eq!(house.ended(id).state, JobState::Done);
    assert_eq!(house.on_device(0), 0);
}

#[test]
fn a_pool_is_not_deleted_while_lvm_moves_it() {
    let house = House::on_devices(&[20, 40]);
    house.engine.stop_pool(&pool()).unwrap();
    let (pv, lv) = ("/dev/pv0".to_owned(), data_lv(0));
    house.lvm.begin_move(&PvSegment { pv, start: 0, extents: 2, lv }).unwrap();
    house.lvm.devices(|devices| devices.unwatch());
    let refused = house.engine.delete_pool(&spec()).unwrap_err().to_string();
    assert!(refused.contains("'pvmove' moves logical volumes of 'vg0'"), "{refused}");
    eventually("LVM to go on", || house.engine.delete_pool(&spec()).is_ok());
    assert!(house.is_bare());
}

/// A command is killed, before or after it has done its work.
#[test]
fn each_command_may_be_killed() {
    for (command, done) in
        ["pvchange", "pvmove", "pvs", "vgs"].into_iter().flat_map(|c| [(c, false), (c, true)])
    {
        if done && ["vgs", "pvs"].contains(&command) {
            continue;
        }
        let house = House::with_numbers(&[20, 40], 24);
        house.lvm.hang(command, 1, done);
        let ended = house.engine.start_job(&pool(), &task("/dev/pv0")).map(|id| house.ended(id));
        let whole = matches!(&ended, Ok(job) if job.state == JobState::Done);
        assert!(whole || house.is_open(0), "{command} {done}: {ended:?}");
        assert!(whole == (command == "pvmove"), "{command} {done}: {ended:?}");
        assert_eq!(house.job(&task("/dev/pv0")).state, JobState::Done, "{command} {done}");
        assert_eq!((house.on_device(0), house.is_open(0)), (0, false));
        house.shows_numbers(24);
        house.check();
    }
}

/// The daemon is killed before each command of LVM: the next one finds all, and finishes it.
#[test]
fn it_goes_on_after_a_kill_at_any_command() {
    let kills = each_until_the_last(|commands| {
        let mut house = House::with_numbers(&[20, 40], 24);
        house.lvm.fail_after(Some(commands));
        let begun = house.engine.start_job(&pool(), &task("/dev/pv0"));
        let ended = begun.map(|id| house.ended(id));
        if matches!(&ended, Ok(job) if job.state == JobState::Done) {
            return false;
        }
        house.killed();
        assert_eq!(house.job(&task("/dev/pv0")).state, JobState::Done, "{commands}");
        assert_eq!((house.on_device(0), house.is_open(0)), (0, false), "{commands}");
        house.shows_numbers(24);
        house.check();
        true
    });
    assert!(kills > 8, "{kills}");
}
