// SPDX-License-Identifier: LGPL-2.1-or-later
//! A person's word about a move that does not end by itself: which host has the VM that counts. It ends moves whose
//! peer is gone for good.
//!
//! What can be seen goes before what is said: a VM that is active on one host is never given up for the other. The move
//! is forgotten, and nothing is deleted on either host but the room that the peer kept, if it answers.

use serde::{Deserialize, Serialize};

use crate::error::MigrateError;
use crate::journal::{DiskRecord, Record};
use crate::mover::{Outcome, Tools};
use crate::moves::{Answer, Asked};
use crate::observed::{Observed, Vm, Work};
use crate::phase::{At, Side};

/// What a person says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Which host has the VM that counts.
    pub keep: Side,
    /// The peer, by name, where moves to several are not over.
    pub peer: Option<String>,
    /// Who says it.
    pub by: String,
    /// Whether only what would follow is asked.
    pub dry_run: bool,
}

/// The same, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Which host has the VM that counts.
    pub keep: Side,
    /// Who said it.
    pub by: String,
}

impl Tools {
    /// Looks whether it can be so, and ends the move. Else it is looked at as ever.
    pub(crate) fn hear(&self, record: &mut Record, asked: Asked, word: &Word) -> Outcome {
        let what = match judge(record, &self.observe_both(record), word.keep) {
            Ok(what) => what,
            Err(reason) => {
                asked.answer(Err(MigrateError::NotSo(reason)));
                return self.look_again(record);
            }
        };
        if word.dry_run {
            asked.answer(Ok(Answer::Settled(what)));
            return self.look_again(record);
        }
        let before = record.clone();
        let Word { keep, by, .. } = word.clone();
        record.phase.enter(At::Abandoned, Some(format!("{by} has settled its move: {what}")));
        record.verdict = Some(Verdict { keep, by });
        // What a person was told holds over a restart.
        if let Err(error) = self.journal.write(record) {
            *record = before;
            asked.answer(Err(error.into()));
            return self.look_again(record);
        }
        let outcome = self.settle(record);
        asked.answer(Ok(Answer::Settled(what)));
        outcome
    }
}

/// What follows, in sentences; or why it cannot be so. Pure.
fn judge(record: &Record, seen: &Observed, keep: Side) -> Result<String, String> {
    let Observed { here, there, work, .. } = *seen;
    let to = record.to();
    if !here.is_known() {
        return Err(format!("the VM on this host cannot be looked at: {}", seen.problem));
    }
    match work {
        Work::Unknown if here.is_active() => {
            return Err(format!("libvirt here may still be moving it: {}", seen.problem));
        }
        Work::Move => {
            return Err("libvirt here is moving it: cancel that (virt-notify cancel)".into());
        }
        _ => {}
    }
    match keep {
        Side::Here if there.is_active() => {
            Err(format!("it is active on {to}: end it there first (virsh destroy)"))
        }
        Side::Here if here == Vm::Gone && there.is_known() && there != Vm::Gone => {
            Err(format!("this host does not know the VM, and {to} does"))
        }
        Side::There if here.is_active() => {
            Err("it is active on this host: end it here first (virsh destroy)".into())
        }
        Side::There if there == Vm::Gone => Err(format!("{to} does not know the VM")),
        Side::Here => Ok(kept_here(record, seen)),
        Side::There => Ok(kept_there(record, seen)),
    }
}

fn kept_here(record: &Record, seen: &Observed) -> String {
    let to = record.to();
    let mut all = vec![format!(
        "the VM on this host is kept, and its move to {to} is forgotten; nothing is deleted on either host"
    )];
    match record.phase.at {
        At::Resuming | At::Arrived => all.push(format!(
            "it was resumed on {to}: what is here is older, and volumes here may be gone already"
        )),
        At::Twice(_) => all.push(format!("what it wrote on {to} is not here")),
        _ => {}
    }
    if seen.here == Vm::Gone {
        all.push(
            "this host does not know it: define it anew (virsh define) with its volumes here"
                .into(),
        );
    } else if record.autostart {
        all.push("it starts with this host again".into());
    }
    all.push(match seen.there {
        Vm::Gone => format!("left on {to}, and yours to delete there: {}", volumes(record)),
        there if there.is_known() => format!(
            "left on {to}, and yours to remove there: its definition (virsh undefine), and {}",
            volumes(record)
        ),
        _ => format!(
            "{to} cannot be asked: where it comes back the VM may run there as well, and this host does not look any \
             more. Destroy and undefine it there before that host is connected again; its volumes there are {}",
            volumes(record)
        ),
    });
    let room: Vec<_> = record.reserved.values().map(String::as_str).collect();
    if !room.is_empty() && !seen.there.is_known() {
        all.push(format!("{to} may also have {} (virsh vol-delete)", room.join(" and ")));
    }
    all.join(". ")
}

fn kept_there(record: &Record, seen: &Observed) -> String {
    let to = record.to();
    let mut all = vec![format!(
        "the VM on {to} is kept, and its move there is forgotten; nothing is deleted on either host"
    )];
    if !seen.there.is_known() {
        all.push(format!("{to} cannot be asked: whether the VM is there was not seen"));
    }
    if !matches!(record.phase.at, At::Resuming | At::Arrived) && !seen.there.runs() {
        all.push(format!("it is paused or off there until a person resumes or starts it on {to}"));
    }
    let definition = match seen.here {
        Vm::Gone => "",
        _ => {
            "its definition (virsh undefine), with which it does not start with this host any more, and "
        }
    };
    all.push(format!(
        "left here, and yours to delete once it runs there: {definition}{}",
        volumes(record)
    ));
    all.join(". ")
}

/// The volumes that it moves, which have the same names on both hosts.
fn volumes(record: &Record) -> String {
    let names = record.disks.iter().filter_map(|disk: &DiskRecord| disk.names().ok());
    let names: Vec<_> = names.map(|(pool, volume)| format!("{pool}/{volume}")).collect();
    format!("{} (virsh vol-delete)", names.join(", "))
}
