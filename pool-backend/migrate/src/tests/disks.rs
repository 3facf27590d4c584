// SPDX-License-Identifier: LGPL-2.1-or-later
//! Disks that come while a move is prepared, and copies that are the newest.

use super::*;
use crate::domain::{Disk, DiskSource};

fn second_disk(lab: &Lab) -> Disk {
    lab.storage.add("disk1", 512, 40);
    let source = DiskSource::Volume { pool: "vms".into(), volume: "disk1".into() };
    Disk::new("vdb", source)
}

#[test]
fn a_disk_that_is_plugged_in_meanwhile_is_copied_by_the_next_try() {
    let lab = Lab::new(1, &["host2"]);
    let disk = second_disk(&lab);
    lab.world(|w| w.plugged_in = Some(disk));
    let mut process = lab.start(1);
    let told = process.failure();
    assert!(told.starts_with("its disks were changed while its move was prepared"), "{told}");
    assert!(process.until(|| lab.is_moved("host2")));
    assert_eq!(lab.world(|w| w.peers["host2"].volumes.len()), 2);
    lab.no_wrongs();
}

#[test]
fn a_vm_with_a_disk_that_was_not_copied_is_not_resumed_there() {
    let lab = Lab::new(1, &["host2"]);
    let disk = second_disk(&lab);
    lab.world(|w| w.plugged_in_late = Some(disk));
    let mut process = lab.start(1);
    let told = process.failure();
    assert!(told.contains("its disk vdb was not copied there: it is not resumed"), "{told}");
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls > calls + 10)));
    assert_eq!(lab.world(|w| w.peers["host2"].domains[&VM].state), RunState::Paused);
    assert_eq!(lab.world(|w| w.volumes.len()), 2, "nothing here is deleted");
    lab.no_wrongs();
}

#[test]
fn a_disk_of_which_it_is_not_known_whether_it_was_copied_keeps_the_vm_paused_there() {
    let lab = Lab::new(1, &["host2"]);
    let disk = second_disk(&lab);
    lab.world(|w| (w.plugged_in_late, w.unanswered_late) = (Some(disk), true));
    let mut process = lab.start(1);
    let told = process.failure();
    assert!(told.contains("virtnotifyd does not answer"), "{told}");
    let waits = || lab.world(|w| w.peers["host2"].domains[&VM].state == RunState::Paused);
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls > calls + 10)));
    assert!(waits());
    lab.world(|w| w.unanswered = false);
    let says = "its disk vdb was not copied there: it is not resumed";
    assert!(process.until(|| process.moves.list().iter().any(|of| of.reason.contains(says))));
    assert!(waits());
    lab.no_wrongs();
}

/// The daemon is killed once the VM runs there; then a person undefines it there, to define it anew.
#[test]
fn a_vm_that_is_defined_anew_where_it_ran_keeps_its_disks() {
    let mut seen = 0;
    for n in 20.. {
        let lab = Lab::new(1, &["host2"]);
        lab.world(|w| (w.fate, w.die_at) = (Fate::KeepsDefinition, Some((n, true))));
        let process = lab.start(1);
        assert!(process.until(|| process.is_dead() || lab.is_moved("host2")));
        let over = lab.is_moved("host2");
        process.kill();
        lab.world(|w| w.die_at = None);
        if over {
            break;
        }
        if !lab.journal_says("arrived") || lab.world(|w| w.domains.is_empty()) {
            continue;
        }
        seen += 1;
        let there = lab.world(|w| w.peers.get_mut("host2").unwrap().domains.remove(&VM).unwrap());
        let mut process = lab.start(1);
        let told = process.failure();
        assert!(told.contains("host2 does not know it any more, where it ran"), "{told}");
        assert!(lab.world(|w| w.peers["host2"].volumes.contains_key("disk0")));
        lab.world(|w| drop(w.peers.get_mut("host2").unwrap().domains.insert(VM, there)));
        assert!(process.until(|| lab.is_moved("host2")));
        lab.no_wrongs();
    }
    assert!(seen > 0, "it was killed once the VM ran there");
}
