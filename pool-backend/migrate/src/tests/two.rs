// SPDX-License-Identifier: LGPL-2.1-or-later
//! VMs that ran on two hosts, as long as both know them.

use super::settled::{Look, new};
use super::*;
use crate::phase::{At, Side as Of};

/// A VM here, off at the peer, that ran on both; its record is written down.
fn two(here: RunState, there: RunState) -> Look {
    let look = new(At::Twice(Of::There));
    look.is_there(there);
    look.lab.world(|w| {
        let vm = w.domains.get_mut(&VM).unwrap();
        vm.state = here;
        if here == RunState::IoError {
            vm.no_space.insert("vda".into());
        }
    });
    look.tools.journal.write(&look.record).unwrap();
    look
}

#[test]
fn it_runs_on_here_with_space_where_the_other_one_is_off() {
    for (there, resumed) in [(RunState::Off, true), (RunState::Paused, false)] {
        let look = two(RunState::IoError, there);
        let process = look.lab.start(1);
        let calls = look.lab.world(|w| w.calls);
        let runs = || look.here() == Some(RunState::Running);
        assert!(process.until(|| runs() || look.lab.world(|w| w.calls) > calls + 60));
        assert_eq!(runs(), resumed, "{there:?}");
    }
}

/// It is no move of ours.
#[test]
fn a_migration_that_a_person_begins_is_left_alone() {
    let mut look = two(RunState::Running, RunState::Off);
    look.tools.timing.stall = Duration::ZERO;
    look.lab.world(|w| w.migrates(VM, "host3", 2));
    let mut record = look.record.clone();
    assert!(matches!(look.tools.look_again(&mut record), crate::mover::Outcome::Open(_)));
    assert!(look.lab.world(|w| !w.aborted && w.is_migrating()));
}

#[test]
fn it_is_looked_at_as_soon_as_something_happens_to_it() {
    let mut look = two(RunState::Running, RunState::Off);
    let long = Duration::from_secs(3600);
    (look.lab.timing.settle, look.lab.timing.settle_limit) = (long, long);
    let mut process = look.lab.start(1);
    let waits = || process.moves.list().first().map(|of| of.reason.clone()).unwrap_or_default();
    assert!(process.until(|| waits().contains("it is off on host2: undefine")));
    look.is_there(RunState::Running);
    process.threads.upgrade().unwrap().changes.send_modify(|n| *n += 1);
    assert!(process.twice().contains("on host2, were stopped"));
}

/// It would count as one that arrives there, for as long as both know the VM.
#[test]
fn the_room_that_was_kept_for_it_is_given_back() {
    for there in [RunState::Off, RunState::Paused] {
        let mut look = two(RunState::Running, there);
        look.record.reserved.insert("vms".into(), "move-1".into());
        let made = RemoteVolume { key: "k".into(), capacity: Bytes(1), allocation: Bytes(1) };
        look.lab.world(|w| {
            w.peers.get_mut("host2").unwrap().volumes.insert("move-1".into(), made);
        });
        assert!(matches!(look.settle(), crate::mover::Outcome::Open(_)));
        let kept = |w: &mut World| w.peers["host2"].volumes.contains_key("move-1");
        assert!(!look.lab.world(kept), "{there:?}");
        assert!(look.record.reserved.is_empty());
        assert!(look.lab.world(|w| w.peers["host2"].volumes.contains_key("disk0")));
    }
}
