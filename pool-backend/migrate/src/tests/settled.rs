// SPDX-License-Identifier: LGPL-2.1-or-later
//! Single looks at moves that are set up by hand: what the simulation found, each alone.

use super::*;
use crate::journal::Record;
use crate::mover::{Outcome, Tools};
use crate::phase::{At, Side as Of};
use crate::plan::plan;

/// A VM that ran, its move to host2, and what the daemon looks with.
pub(super) struct Look {
    pub(super) lab: Lab,
    pub(super) tools: Tools,
    pub(super) record: Record,
    events: broadcast::Receiver<Event>,
}

/// A move at which libvirt is not any more, in a daemon that knows no more than the record.
pub(super) fn new(at: At) -> Look {
    let lab = low(1);
    let (world, process) = (lab.storage.world.clone(), 0);
    let hv = Arc::new(FakeHypervisor { world, process, changes: watch::channel(0).0 });
    let (storage, bus) = (Arc::new(lab.storage.clone()), EventBus::new());
    let events = bus.subscribe();
    let tools = Tools::new(hv, storage, bus, &lab.config(1)).unwrap();
    let vm = lab.world(|w| w.domains[&VM].clone());
    let mut disks = plan(&vm, &lab.storage).unwrap().disks;
    disks[0].made_there = Some("key".into());
    let mut record = Record::new(VM, "guest1", true, "host1", &lab.peers[0], disks);
    (record.ran, record.boot, record.phase.at) = (true, tools.boot.clone(), at);
    let made =
        RemoteVolume { key: "key".into(), capacity: Bytes::mib(512), allocation: Bytes::mib(40) };
    lab.world(|w| w.peers.get_mut("host2").unwrap().volumes.insert("disk0".into(), made));
    Look { lab, tools, record, events }
}

impl Look {
    pub(super) fn settle(&mut self) -> Outcome {
        self.tools.settle(&mut self.record)
    }

    /// The VM came there, and is in that state.
    pub(super) fn is_there(&self, state: RunState) {
        self.lab.world(|w| {
            let vm = crate::domain::Domain { state, ..domain("guest1", 1) };
            w.peers.get_mut("host2").unwrap().domains.insert(VM, vm);
        });
    }

    pub(super) fn here(&self) -> Option<RunState> {
        self.lab.world(|w| w.domains.get(&VM).map(|d| d.state))
    }

    fn there(&self) -> Option<RunState> {
        self.lab.world(|w| w.peers["host2"].domains.get(&VM).map(|d| d.state))
    }

    fn told(&mut self) -> Vec<String> {
        failures(&mut self.events)
    }
}

/// The VM is asked for, libvirt ends, and says so.
#[test]
fn a_vm_that_goes_between_two_questions_has_gone() {
    let mut look = new(At::Unknown);
    look.lab.world(|w| w.migrates(VM, "host2", 0));
    assert_eq!(look.settle(), Outcome::Over);
    assert_eq!((look.here(), look.there()), (None, Some(RunState::Running)));
    look.lab.no_wrongs();
}

/// So that a power cut finds it written down.
#[test]
fn a_vm_is_known_to_be_here_before_its_peer_says_anything_of_use() {
    let mut look = new(At::Unknown);
    look.is_there(RunState::Paused);
    look.lab.world(|w| w.peers.get_mut("host2").unwrap().refuses = true);
    assert!(matches!(look.settle(), Outcome::Open(_)));
    assert_eq!(look.record.phase.at, At::Staying);
    look.lab.world(|w| {
        w.peers.get_mut("host2").unwrap().refuses = false;
        w.domains.get_mut(&VM).unwrap().state = RunState::Off;
    });
    assert_eq!(look.settle(), Outcome::Over);
    assert_eq!((look.here(), look.there()), (Some(RunState::Off), None));
    look.lab.no_wrongs();
}

/// Both copies may be the same then, or the one here newer.
#[test]
fn a_vm_that_is_off_since_its_host_lost_the_power_stays_and_is_started() {
    let mut look = new(At::Unknown);
    look.is_there(RunState::Paused);
    look.record.autostart = true;
    "boot 0".clone_into(&mut look.record.boot);
    look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Off);
    assert_eq!(look.settle(), Outcome::Over);
    assert_eq!((look.here(), look.there()), (Some(RunState::Running), None));
    assert!(look.lab.world(|w| w.domains[&VM].autostart));
    look.lab.no_wrongs();
}

/// Nothing is left here that tells whether it went, or ran on and ended.
#[test]
fn a_vm_without_a_definition_is_a_persons_unless_libvirt_says_that_it_went() {
    for (failed, boot) in [("", "boot 0"), ("End of file", "boot 1")] {
        let mut look = new(At::Unknown);
        look.is_there(RunState::Paused);
        (look.record.persistent, look.record.boot) = (false, boot.into());
        failed.clone_into(&mut look.record.phase.reason);
        look.lab.world(|w| {
            w.domains.clear();
            w.volumes.get_mut("disk0").unwrap().openers = 0;
        });
        let Outcome::Open(reason) = look.settle() else { panic!() };
        assert!(reason.starts_with("it is not here any more, and on host2, paused"), "{reason}");
        assert_eq!(look.there(), Some(RunState::Paused));
        look.is_there(RunState::Running);
        assert_eq!(look.settle(), Outcome::Over, "it was resumed there");
        assert!(look.lab.world(|w| w.volumes.contains_key("disk0")), "it may be newer");
    }
}

/// What is newer shows in which one was off: it is the one that a person, or its host, starts again.
#[test]
fn of_two_the_one_that_ended_is_the_newer_one_when_it_runs_again() {
    let mut look = new(At::Twice(Of::There));
    look.is_there(RunState::Running);
    look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Off);
    assert!(matches!(look.settle(), Outcome::Open(_)));
    assert_eq!(look.record.phase.at, At::Twice(Of::Here));
    look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Running);
    assert!(matches!(look.settle(), Outcome::Open(_)));
    assert_eq!((look.here(), look.there()), (Some(RunState::Paused), Some(RunState::Running)));
    look.lab.world(|w| drop(w.domains.remove(&VM)));
    assert_eq!(look.settle(), Outcome::Over);
    assert_eq!(look.there(), Some(RunState::Running));
    assert!(look.lab.world(|w| w.volumes.contains_key("disk0")), "nothing is deleted");
}

/// It is not moved on either, which would leave a copy that ran.
#[test]
fn a_copy_that_a_person_resumed_is_never_taken_for_one_that_did_not_run() {
    for here in [RunState::IoError, RunState::Paused] {
        let mut look = new(At::Stayed);
        look.is_there(RunState::Running);
        look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = here);
        assert!(matches!(look.settle(), Outcome::Open(_)));
        assert_eq!(look.record.phase.at, At::Twice(Of::There));
        look.is_there(RunState::Paused);
        assert!(matches!(look.settle(), Outcome::Open(_)));
        assert_eq!((look.here(), look.there()), (Some(here), Some(RunState::Paused)));
        look.lab.no_wrongs();
    }
}

#[test]
fn a_copy_that_was_ended_there_may_have_run_and_is_left() {
    let mut look = new(At::Stayed);
    look.is_there(RunState::Off);
    look.lab.world(|w| {
        w.peers.get_mut("host2").unwrap().domains.get_mut(&VM).unwrap().ended = true;
    });
    assert_eq!(look.settle(), Outcome::Over);
    assert_eq!(look.there(), Some(RunState::Off));
    assert!(look.told()[0].contains("was ended there, and may have run"));
}

/// A person resumed it there, it wrote and was shut down, and libvirt there was started anew since; or that host lost the
/// power while it was paused. A person knows which.
#[test]
fn a_copy_is_left_where_libvirt_there_forgot_why_it_is_off() {
    for here in [RunState::Running, RunState::Off] {
        for at in [At::Copying, At::Unknown, At::Staying, At::Stayed] {
            let mut look = new(at);
            (look.record.autostart, look.record.boot) = (true, "an earlier one".into());
            look.is_there(RunState::Off);
            look.lab.world(|w| {
                let copy = w.peers.get_mut("host2").unwrap().domains.get_mut(&VM).unwrap();
                (copy.forgotten, copy.persistent) = (true, true);
                w.domains.get_mut(&VM).unwrap().state = here;
            });
            let Outcome::Open(reason) = look.settle() else { panic!("{at:?} {here:?}") };
            assert!(reason.contains("it may have run"), "{reason}");
            assert_eq!((look.here(), look.there()), (Some(here), Some(RunState::Off)));
            assert!(look.lab.world(|w| w.peers["host2"].volumes.contains_key("disk0")));
            // What is here is wanted.
            look.lab.world(|w| {
                w.domains.get_mut(&VM).unwrap().state = RunState::Running;
                w.peers.get_mut("host2").unwrap().domains.clear();
            });
            assert_eq!(look.settle(), Outcome::Over);
            assert_eq!(look.here(), Some(RunState::Running));
            look.lab.no_wrongs();
        }
    }
}

#[test]
fn a_copy_of_a_vm_that_is_not_here_any_more_is_told_also_when_it_is_off() {
    let mut look = new(At::Stayed);
    look.is_there(RunState::Off);
    look.lab.world(|w| w.domains.clear());
    assert_eq!(look.settle(), Outcome::Over);
    let told = look.told();
    assert!(told[0].starts_with("host2 keeps a copy of it, which is off, from a move"), "{told:?}");
    assert!(look.lab.world(|w| w.peers["host2"].volumes.contains_key("disk0")));
}

/// libvirt here was started anew, which it also is when nothing has asked it for a while: it went, or libvirt missed that it
/// arrived, and it ran on, wrote and was shut down.
#[test]
fn a_copy_is_not_resumed_where_libvirt_forgot_why_the_vm_is_off() {
    for starts_here in [false, true] {
        let mut look = new(At::Copying);
        look.is_there(RunState::Paused);
        let here = |state| {
            look.lab.world(|w| {
                let vm = w.domains.get_mut(&VM).unwrap();
                (vm.state, vm.forgotten) = (state, state == RunState::Off);
                w.volumes.get_mut("disk0").unwrap().openers = 0;
            });
        };
        here(RunState::Off);
        let Outcome::Open(reason) = look.settle() else { panic!() };
        assert!(reason.contains("resume it on host2 (virsh resume)"), "{reason}");
        assert_eq!(look.there(), Some(RunState::Paused));
        // A person knows.
        match starts_here {
            true => {
                look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Running);
                assert_eq!(look.settle(), Outcome::Over);
                assert_eq!((look.here(), look.there()), (Some(RunState::Running), None));
            }
            false => {
                look.is_there(RunState::Running);
                assert!(matches!(look.settle(), Outcome::Open(_)));
                assert_eq!(look.record.phase.at, At::Twice(Of::Here));
                look.lab.world(|w| drop(w.domains.remove(&VM)));
                assert_eq!(look.settle(), Outcome::Over);
                assert_eq!((look.here(), look.there()), (None, Some(RunState::Running)));
                assert!(look.lab.world(|w| w.volumes.contains_key("disk0")), "a person deletes it");
            }
        }
        look.lab.no_wrongs();
    }
}

/// The power went after libvirt let it run on here.
#[test]
fn a_copy_that_a_person_resumed_takes_no_volume_that_may_be_newer() {
    let mut look = new(At::Copying);
    look.record.boot = "an earlier one".into();
    look.is_there(RunState::Running);
    look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Off);
    assert!(matches!(look.settle(), Outcome::Open(_)));
    assert_eq!(look.record.phase.at, At::Twice(Of::Here));
    assert_eq!((look.here(), look.there()), (Some(RunState::Off), Some(RunState::Running)));
    assert!(look.lab.world(|w| w.volumes.contains_key("disk0")));
}

/// Who reads it decides what to delete.
#[test]
fn where_a_person_resumed_it_what_is_here_is_said_to_be_newer_perhaps() {
    let newer = "the volumes here may be newer";
    let resumed = |here: Option<(bool, bool)>, booted: bool, at| {
        let mut look = new(at);
        look.is_there(RunState::Running);
        if booted {
            look.record.boot = "an earlier one".into();
        }
        look.record.persistent = here.is_some();
        look.lab.world(|w| match here {
            None => w.domains.clear(),
            Some((ended, forgotten)) => {
                let vm = w.domains.get_mut(&VM).unwrap();
                (vm.state, vm.ended, vm.forgotten) = (RunState::Off, ended, forgotten);
            }
        });
        (look.settle(), look.told())
    };
    for (here, booted, at) in [
        ((false, false), true, At::Unknown),
        ((false, true), false, At::Unknown),
        ((true, false), false, At::Unknown),
        ((true, false), false, At::Stayed),
    ] {
        let (Outcome::Open(reason), _) = resumed(Some(here), booted, at) else { panic!() };
        assert!(reason.contains(newer) && reason.contains("it is off here"), "{reason}");
    }
    let (over, told) = resumed(None, true, At::Unknown);
    assert_eq!(over, Outcome::Over);
    assert!(told[0].contains(newer), "{told:?}");
}

/// It wrote here meanwhile.
#[test]
fn a_vm_that_was_started_and_ended_here_once_it_ran_there_keeps_its_disks() {
    let mut look = new(At::Arrived);
    look.is_there(RunState::Running);
    look.lab.world(|w| {
        let vm = w.domains.get_mut(&VM).unwrap();
        (vm.state, vm.ended) = (RunState::Off, true);
    });
    let Outcome::Open(reason) = look.settle() else { panic!() };
    assert!(reason.contains("started here afterwards; it is off here: undefine"), "{reason}");
    assert!(look.lab.world(|w| w.volumes.contains_key("disk0")));
    assert_eq!(look.here(), Some(RunState::Off));
    look.lab.world(|w| drop(w.domains.remove(&VM)));
    assert_eq!(look.settle(), Outcome::Over);
    assert!(look.lab.world(|w| w.volumes.contains_key("disk0")));
    assert!(look.told()[0].contains("one of both hosts does not know it any more"));
}

/// Which end it is, is written down before; that it was told, after.
#[test]
fn an_end_is_told_once_however_often_it_is_looked_at() {
    let mut look = new(At::Unknown);
    look.lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = true);
    for _ in 0..3 {
        assert!(matches!(look.settle(), Outcome::Open(_)));
    }
    look.lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = false);
    assert_eq!(look.settle(), Outcome::Over);
    assert_eq!(look.told(), ["it was interrupted"]);
}
