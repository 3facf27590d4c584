// SPDX-License-Identifier: LGPL-2.1-or-later
//! Moves that cannot end by themselves, since their peer is gone for good, end as a person says.

use virtnotify_model::MoveFailure;

use super::settled::{Look, new};
use super::*;
use crate::phase::{At, Side as Of};
use crate::verdict::{Verdict, Word};

/// A move at that point, which the daemon has on record. Its peer, which keeps room for it, does not answer.
fn burnt(at: At) -> Look {
    let mut look = new(at);
    look.record.reserved.insert("vms".into(), "move-1".into());
    look.lab.world(|w| {
        let host2 = w.peers.get_mut("host2").unwrap();
        host2.unreachable = true;
        let room = RemoteVolume { key: "k".into(), capacity: Bytes(1), allocation: Bytes(0) };
        host2.volumes.insert("move-1".into(), room);
    });
    look.tools.journal.write(&look.record).unwrap();
    look
}

fn word(keep: Of) -> Word {
    Word { keep, peer: None, by: "user 0".into(), dry_run: false }
}

impl Process {
    fn settle(&self, word: Word) -> Result<String, String> {
        self.now(self.moves.settle("guest1", word)).map_err(|e| e.to_string())
    }

    fn settled(&mut self) -> String {
        self.told(|event| match event {
            Event::MoveFailed { kind: MoveFailure::Settled, reason, .. } => Some(reason),
            _ => None,
        })
    }
}

fn is_off_here(look: &Look) {
    look.lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Off);
}

/// Nothing was deleted, whatever was said.
fn nothing_is_deleted(look: &Look) {
    look.lab.world(|w| {
        assert!(w.volumes.contains_key("disk0"));
        let there: Vec<_> = w.peers["host2"].volumes.keys().map(String::as_str).collect();
        assert_eq!(there, ["disk0", "move-1"]);
        assert_eq!(w.wrongs, Vec::<String>::new());
    });
}

#[test]
fn a_move_whose_peer_is_gone_for_good_ends_with_the_vm_that_is_said() {
    let twice = At::Twice(Of::There);
    let phases =
        [At::Unknown, At::Staying, At::Stayed, At::Resuming, At::Arrived, twice, At::Abandoned];
    for (at, keep) in phases.into_iter().flat_map(|at| [(at, Of::Here), (at, Of::There)]) {
        let look = burnt(at);
        is_off_here(&look);
        let mut process = look.lab.start(1);
        let said = process.settle(word(keep)).unwrap();
        assert!(said.contains("nothing is deleted on either host"), "{said}");
        assert!(said.contains("host2 cannot be asked"), "{said}");
        assert!(process.until(|| look.lab.journal_is_empty()), "{at:?}");
        assert!(process.until(|| process.moves.list().is_empty()));
        let told = process.settled();
        assert_eq!(told, format!("user 0 has settled its move: {said}"));
        nothing_is_deleted(&look);
    }
}

#[test]
fn what_would_follow_is_said_and_nothing_done() {
    let look = burnt(At::Twice(Of::There));
    let process = look.lab.start(1);
    let dry = Word { dry_run: true, ..word(Of::Here) };
    let said = process.settle(dry).unwrap();
    assert!(said.contains("what it wrote on host2 is not here"), "{said}");
    assert!(said.contains("vms/disk0") && said.contains("move-1"), "{said}");
    assert!(look.lab.journal_says("twice"));
    assert_eq!(process.settle(word(Of::Here)).unwrap(), said, "what was told is what is done");
}

/// It does not start with this host while its move is on record.
#[test]
fn one_that_is_kept_here_starts_with_its_host_again_and_one_that_is_not_does_not() {
    for keep in [Of::Here, Of::There] {
        let mut look = burnt(At::Resuming);
        is_off_here(&look);
        look.record.autostart = true;
        look.tools.journal.write(&look.record).unwrap();
        let process = look.lab.start(1);
        process.settle(word(keep)).unwrap();
        assert!(process.until(|| look.lab.journal_is_empty()));
        assert_eq!(look.lab.world(|w| w.domains[&VM].autostart), keep == Of::Here);
        nothing_is_deleted(&look);
    }
}

/// Whatever a person says.
#[test]
fn a_vm_that_is_seen_to_be_active_is_not_given_up() {
    let look = burnt(At::Twice(Of::There));
    let process = look.lab.start(1);
    let said = process.settle(word(Of::There)).unwrap_err();
    assert_eq!(
        said,
        "'guest1' is not settled: it is active on this host: end it here first (virsh destroy)"
    );
    look.lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = false);
    look.is_there(RunState::Paused);
    let said = process.settle(word(Of::Here)).unwrap_err();
    assert!(said.contains("it is active on host2: end it there first"), "{said}");
    assert!(look.lab.journal_says("twice"));
    look.lab.no_wrongs();
}

#[test]
fn what_is_gone_on_one_host_is_not_kept_there() {
    let look = burnt(At::Resuming);
    look.lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = false);
    is_off_here(&look);
    let process = look.lab.start(1);
    let said = process.settle(word(Of::There)).unwrap_err();
    assert!(said.contains("host2 does not know the VM"), "{said}");
    look.is_there(RunState::Off);
    look.lab.world(|w| w.domains.clear());
    let said = process.settle(word(Of::Here)).unwrap_err();
    assert!(said.contains("this host does not know the VM, and host2 does"), "{said}");
    look.lab.no_wrongs();
}

/// The peer that answers gives back the room.
#[test]
fn room_goes_where_it_can() {
    let look = burnt(At::Resuming);
    look.lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = false);
    look.is_there(RunState::Off);
    is_off_here(&look);
    let process = look.lab.start(1);
    process.settle(word(Of::There)).unwrap();
    look.lab.world(|w| {
        let there: Vec<_> = w.peers["host2"].volumes.keys().map(String::as_str).collect();
        assert_eq!(there, ["disk0"]);
        assert!(w.volumes.contains_key("disk0") && w.domains.contains_key(&VM));
    });
}

#[test]
fn there_has_to_be_one_move_that_is_meant() {
    let lab = super::sentences::quiet();
    let process = lab.start(1);
    let said = process.settle(word(Of::Here)).unwrap_err();
    assert!(said.contains("no move of it that is not over"), "{said}");

    let look = burnt(At::Stayed);
    let mut other = look.record.clone();
    other.reserved.clear();
    let host3 = peer("host3");
    other = crate::journal::Record::new(VM, "guest1", true, "host1", &host3, other.disks);
    other.phase.at = At::Stayed;
    let side = Side { unreachable: true, ..Side::default() };
    look.lab.world(|w| w.peers.insert("host3".into(), side));
    look.tools.journal.write(&other).unwrap();
    let process = look.lab.start(1);
    let said = process.settle(word(Of::Here)).unwrap_err();
    assert!(said.contains("moves of it to host2 and host3 are not over"), "{said}");
    let host3 = Word { peer: Some("host3".into()), ..word(Of::Here) };
    process.settle(host3).unwrap();
    let to = || process.moves.list().iter().map(|open| open.info.to.clone()).collect::<Vec<_>>();
    assert!(process.until(|| to() == ["host2"]), "{:?}", to());
}

/// We are killed right after it was written down.
#[test]
fn a_word_that_was_written_down_holds_over_a_restart() {
    let mut look = burnt(At::Resuming);
    is_off_here(&look);
    look.record.autostart = true;
    look.record.phase.enter(At::Abandoned, Some("user 0 has settled its move".into()));
    look.record.verdict = Some(Verdict { keep: Of::Here, by: "user 0".into() });
    look.tools.journal.write(&look.record).unwrap();
    let mut process = look.lab.start(1);
    assert!(process.until(|| look.lab.journal_is_empty()));
    assert_eq!(process.settled(), "user 0 has settled its move");
    assert!(look.lab.world(|w| w.domains[&VM].autostart));
    nothing_is_deleted(&look);
}
