// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is to be done about a move, from what is written down of it and one look at both sides. Pure.
//!
//! Each decision is at most one action, and after each action both sides are looked at anew: so an action that
//! is made twice, or whose answer is lost, is decided on again, and what has changed meanwhile is seen before the
//! next. The same code decides when libvirt said "done", when it said "failed", and after a restart.
//!
//! | phase | here | there | |
//! |---|---|---|---|
//! | until `staying` | active | gone, off, paused; or it does not answer | `stayed` |
//! | until `staying` | active | an error, or arriving | `staying` |
//! | until `unknown` | not active | paused | `resuming`: it is resumed there |
//! | until `staying` | ended, or off since its host was started anew | gone or paused | `stayed` |
//! | until `unknown` | not active | active otherwise | `arrived` |
//! | until `unknown` | off, and libvirt forgot why | paused | wait: a person decides |
//! | until `staying` | off | off, so that it may have run | wait: a person decides |
//! | until `unknown` | gone, was never defined, and libvirt did not say that it went | paused | wait: a person decides |
//! | `preparing` | not active | known | `abandoned`: nobody of ours moved it |
//! | until `staying` | gone | gone | `abandoned` |
//! | until `staying` | not active, and may have run on before | runs | `twice` |
//! | `resuming` | not active | runs | `arrived` |
//! | any | active | active, and ran there | `twice`: where both run the newer one is stopped |
//! | `stayed` | | gone or paused | it runs on; the paused copy, the volumes and the room there go; over |
//! | `stayed` | | off, and was ended there | `abandoned` |
//! | `stayed` | | off, and libvirt forgot why | wait: a person undefines it there |
//! | `arrived` | not active | active | the definition, the volumes here and the room there go; over |
//! | `twice` | not both run | | the room there goes |
//! | `twice` | one of both is off | | wait: if it runs again it is the newer one |
//! | `twice` | one of both is gone | | `abandoned` |
//! | `abandoned` | known, and a person said that it is the one that counts | | it starts with this host again |
//! | any | anything else | | wait: looked at again |

use crate::journal::Record;
use crate::observed::{Observed, Vm, Work};
use crate::phase::{At, Side};

/// Something to do. Each may be done again, whether or not it was done before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Lets the VM run on here.
    ResumeHere,
    /// Starts it here: its host was started anew, and did not start it because it was on its way.
    StartHere,
    /// Has it start with this host again.
    AutostartHere,
    /// Has it start with the other host.
    AutostartThere,
    /// Lets it run there.
    ResumeThere,
    /// Stops the CPUs of the newer one of two, and tells that there are two.
    Stop(Side),
    /// Removes the definition of the copy there.
    UndefineThere,
    /// Ends the copy there.
    DestroyThere,
    /// Removes the definition here.
    UndefineHere,
    /// Deletes that disk's volume there.
    DeleteThere(usize),
    /// Deletes that disk's volume here.
    DeleteHere(usize),
    /// Gives the room there back.
    Unreserve,
    /// Tells the end, unless it was told, and removes the record.
    Forget,
}

/// What comes after the phase was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    /// This.
    Do(Action),
    /// Another look.
    Look,
    /// Another look later. The sentence says what is in the way.
    Wait(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The phase from now on.
    pub at: At,
    /// Why, where that is another reason than before.
    pub reason: Option<String>,
    /// What comes then.
    pub then: Then,
}

/// Decides.
pub(crate) fn step(record: &Record, seen: &Observed) -> Decision {
    let step = Step { record, seen, at: record.phase.at, to: record.to() };
    match step.at {
        At::Abandoned => step.abandoned(),
        _ if !seen.here.is_known() => step.wait(seen.problem.clone()),
        At::Preparing | At::Copying | At::Unknown | At::Staying if seen.here.is_active() => {
            step.find_active()
        }
        At::Preparing | At::Copying | At::Unknown | At::Staying => step.find_gone(),
        At::Stayed => step.stayed(),
        At::Resuming => step.resuming(),
        At::Arrived => step.arrived(),
        At::Twice(newer) => step.two(newer),
    }
}

struct Step<'a> {
    record: &'a Record,
    seen: &'a Observed,
    at: At,
    /// The peer's name.
    to: &'a str,
}

impl Step<'_> {
    fn then(&self, then: Then) -> Decision {
        Decision { at: self.at, reason: None, then }
    }

    fn act(&self, action: Action) -> Decision {
        self.then(Then::Do(action))
    }

    fn wait(&self, why: impl Into<String>) -> Decision {
        self.then(Then::Wait(why.into()))
    }

    fn enter(&self, at: At, then: Then) -> Decision {
        Decision { at, reason: None, then }
    }

    fn abandon(&self, mut reason: String) -> Decision {
        if self.record.autostart {
            reason.push_str("; it starts with neither host any more (virsh autostart)");
        }
        Decision { at: At::Abandoned, reason: Some(reason), then: Then::Look }
    }

    fn unknown(&self) -> Decision {
        self.wait(self.seen.problem.clone())
    }

    fn arriving(&self) -> Decision {
        self.wait(format!("it is still arriving on {}", self.to))
    }

    /// It is there, and not here, and off.
    fn off(&self) -> Decision {
        self.wait(format!(
            "it is on {} and is shut down; its volumes here go when it runs there",
            self.to
        ))
    }

    /// A person let it run on both, one after the other or at once, and each may have data that the other has not.
    fn both(&self, newer: Side) -> Decision {
        let then = match self.seen.here == Vm::Running && self.seen.there.runs() {
            true => Then::Do(Action::Stop(newer)),
            false => Then::Look,
        };
        let reason = match self.seen.here.is_active() {
            true => self.ran_on_both(),
            false => self.was_resumed(),
        };
        Decision { at: At::Twice(newer), reason: Some(reason), then }
    }

    fn ran_on_both(&self) -> String {
        format!("it ran here and on {}", self.to)
    }

    /// It is not known that what is there is the newer one.
    fn was_resumed(&self) -> String {
        format!(
            "a person let it run on {}, though it may have run on here after it was copied: the volumes here may be newer",
            self.to
        )
    }

    /// A person has to end one. Meanwhile nothing arrives there for which room would be kept.
    fn wait_for_one(&self, newer: Side, why: String) -> Decision {
        let then = match self.record.reserved.is_empty() {
            true => Then::Wait(why),
            false => Then::Do(Action::Unreserve),
        };
        self.enter(At::Twice(newer), then)
    }

    /// How there came to be two.
    fn were_two(&self) -> String {
        let said = &self.record.phase.reason;
        if said.is_empty() { self.ran_on_both() } else { said.clone() }
    }

    /// It is active here, and was not resumed there by us.
    fn find_active(&self) -> Decision {
        match (self.seen.work, self.seen.there) {
            (Work::Move, _) => self.wait("libvirt is still at it"),
            (Work::Unknown, _) => self.unknown(),
            (_, Vm::Running | Vm::Halted) => self.both(Side::There),
            (_, Vm::Arriving) => Decision { at: At::Staying, ..self.arriving() },
            (_, Vm::Unknown) => Decision { at: At::Staying, ..self.unknown() },
            (_, Vm::Unreachable | Vm::Gone | Vm::Off | Vm::Paused) => self.stay(None),
        }
    }

    /// It is not active here, and was not resumed there by us.
    fn find_gone(&self) -> Decision {
        let Observed { here, there, booted, ended, .. } = *self.seen;
        // What is here may be newer than what came there.
        let ran_on = (here == Vm::Off && ended) || self.at == At::Staying;
        let cut = here == Vm::Off && booted;
        // It went, or ran on and ended.
        let forgotten = here == Vm::Off && self.seen.forgotten;
        // The same, of one that was never defined here: nothing is left here to tell, and libvirt did not say that it went.
        let vanished = !self.record.persistent && (booted || !self.record.went);
        match there {
            Vm::Unknown | Vm::Unreachable => self.unknown(),
            Vm::Gone if here == Vm::Gone => self.nowhere(),
            Vm::Gone => self.stay_off(),
            Vm::Arriving => self.arriving(),
            _ if self.at == At::Preparing => self.abandon(format!(
                "it is on {} by now, and not by this move; its volumes on both are left as they are",
                self.to
            )),
            Vm::Paused | Vm::Off if ran_on && here == Vm::Gone => self.only_copy(),
            Vm::Paused if ran_on || cut => self.stay_off(),
            Vm::Paused if vanished => {
                self.wait(format!(
                    "it is not here any more, and on {0}, paused: resume it there (virsh resume), or destroy it \
                     where its volumes here are newer",
                    self.to
                ))
            }
            // A person resumed it there, though what is here may be newer.
            Vm::Running | Vm::Halted if ran_on || cut || forgotten || vanished => {
                self.both(Side::Here)
            }
            Vm::Paused if forgotten => self.forgotten(),
            Vm::Off if ran_on || cut || forgotten => self.both_off(),
            Vm::Off if vanished => self.wait(format!(
                "it is not here any more, and is off on {}: start it there (virsh start), unless its volumes here are \
                 newer; they are left",
                self.to
            )),
            Vm::Off => self.off(),
            Vm::Running | Vm::Halted => self.enter(At::Arrived, Then::Look),
            Vm::Paused => match self.strange() {
                Some(reason) => self.wait(reason),
                None => self.enter(At::Resuming, Then::Do(Action::ResumeThere)),
            },
        }
    }

    /// It is off here, and not known whether what is here or what is there is the newer one.
    fn forgotten(&self) -> Decision {
        self.wait(format!(
            "it is off here, libvirt does not know why, and it is on {0}, paused: resume it on {0} \
             (virsh resume), or start it here (virsh start) if it ran here and was shut down meanwhile",
            self.to
        ))
    }

    /// It arrives paused: where it is off there it may have run, whatever libvirt there still knows of that.
    fn both_off(&self) -> Decision {
        self.wait(format!(
            "it is off here and on {}, and it may have run on both: start the one that ran last (virsh start)",
            self.to
        ))
    }

    /// The VM is here, and its copy is off. It may have run there.
    fn copy_is_off(&self) -> Decision {
        let to = self.to;
        if self.seen.ended_there {
            return self.abandon(format!(
                "its copy on {to} was ended there, and may have run: it is left, with its volumes"
            ));
        }
        // libvirt ends when nothing asks it for a while, and forgets.
        self.wait(format!(
            "its copy on {to} is off, libvirt there does not know why, and it may have run there: where it is not wanted, \
             undefine it on {to} (virsh undefine), and its volumes there go"
        ))
    }

    fn nowhere(&self) -> Decision {
        self.abandon(format!(
            "neither host knows it any more; its volumes on both are left as they are. \
             Those on {} may hold the newest data",
            self.to
        ))
    }

    /// It was here when libvirt was done, is not here any more, and what is there may be older than what it
    /// became since.
    fn only_copy(&self) -> Decision {
        let copy = match self.seen.there {
            Vm::Paused => "a paused copy of it",
            Vm::Off => "a copy of it, which is off,",
            _ => "a copy of it, which is active,",
        };
        self.abandon(format!(
            "{0} keeps {copy} from a move that did not end, and it is not here any more: where it runs elsewhere, \
             destroy the copy on {0}",
            self.to
        ))
    }

    /// libvirt says of a VM that ended whatever broke first: the monitor, the stream, the peer's end.
    fn stay_off(&self) -> Decision {
        let said = &self.record.phase.reason;
        let why = if said.is_empty() { String::new() } else { format!(": {said}") };
        self.stay(Some(format!("it was shut down here meanwhile{why}")))
    }

    /// It is here. What does not need the peer is done without another look at it, which may take long.
    fn stay(&self, reason: Option<String>) -> Decision {
        let interrupted = || "it was interrupted".to_owned();
        let said = !self.record.phase.reason.is_empty();
        let reason = reason.or_else(|| (!said).then(interrupted));
        let then = match self.at_home() {
            Some(action) => Then::Do(action),
            None if self.seen.there == Vm::Unreachable => Then::Wait(self.seen.problem.clone()),
            None => Then::Look,
        };
        Decision { at: At::Stayed, reason, then }
    }

    /// What is to be done here for a VM that stays.
    fn at_home(&self) -> Option<Action> {
        let Observed { here, there, work, booted, ended, .. } = *self.seen;
        let record = self.record;
        // libvirt left it so, as it does when it is started anew at that moment.
        if here == Vm::Arriving && record.ran && work == Work::None {
            return Some(Action::ResumeHere);
        }
        if here == Vm::Off && !ended && booted && record.autostart {
            match there {
                Vm::Gone | Vm::Paused => return Some(Action::StartHere),
                // It is owed until it is known whether a person let it run there.
                Vm::Unknown | Vm::Unreachable | Vm::Arriving => return None,
                _ => {}
            }
        }
        (record.autostart && here != Vm::Gone).then_some(Action::AutostartHere)
    }

    fn stayed(&self) -> Decision {
        let Observed { here, there, .. } = *self.seen;
        if there.runs() && here != Vm::Gone {
            return self.both(Side::There);
        }
        if let Some(action) = self.at_home() {
            return self.act(action);
        }
        match there {
            Vm::Unknown | Vm::Unreachable => self.unknown(),
            Vm::Arriving => self.arriving(),
            Vm::Paused | Vm::Off | Vm::Halted | Vm::Running if here == Vm::Gone => self.only_copy(),
            Vm::Off if self.seen.own => self.copy_is_off(),
            Vm::Paused if self.seen.own => self.end_copy(),
            _ => self.clear(Action::DeleteThere),
        }
    }

    /// A copy that came there although the VM stayed: libvirt lost the reply that said so. It never ran. Without its
    /// definition first, so that what a kill leaves is never one that a person could have shut down.
    fn end_copy(&self) -> Decision {
        match self.seen.persistent_there {
            true => self.act(Action::UndefineThere),
            false => self.act(Action::DestroyThere),
        }
    }

    /// Volumes go, then the room, then the record.
    fn clear(&self, delete: fn(usize) -> Action) -> Decision {
        self.act(match self.seen.left {
            Some(disk) => delete(disk),
            None if !self.record.reserved.is_empty() => Action::Unreserve,
            None => Action::Forget,
        })
    }

    fn resuming(&self) -> Decision {
        match self.seen.there {
            Vm::Running | Vm::Halted if !self.seen.here.is_active() => {
                self.enter(At::Arrived, Then::Look)
            }
            Vm::Paused if !self.seen.here.is_active() => match self.strange() {
                Some(reason) => self.wait(reason),
                None => self.act(Action::ResumeThere),
            },
            _ => self.not_there(),
        }
    }

    /// It was resumed there, and is not found as it should be.
    fn not_there(&self) -> Decision {
        match self.seen.there {
            Vm::Unknown | Vm::Unreachable => self.unknown(),
            Vm::Gone => self.wait(format!(
                "{0} does not know it any more, where it ran; nothing is deleted on either host, and \
                 the volumes on {0} hold the newest data",
                self.to
            )),
            Vm::Off if self.seen.here.is_active() => self.wait(format!(
                "it ran on {} and is shut down there, and is active here: nothing is deleted",
                self.to
            )),
            // Where it arrived, the one here was started from what the move had left.
            _ if self.seen.here.is_active() => self.both(Side::Here),
            Vm::Arriving => self.arriving(),
            _ if self.seen.here == Vm::Off && self.seen.ended => self.both_off(),
            _ => self.off(),
        }
    }

    /// A disk of the VM there that is a volume here and was not copied: the volume of that name there is
    /// another's.
    fn strange(&self) -> Option<String> {
        let target = self.seen.strange.as_ref()?;
        Some(format!(
            "it is on {}, paused, and its disk {target} was not copied there: it is not resumed",
            self.to
        ))
    }

    /// It runs there, or was paused there since: what is there is the newest all the same.
    fn arrived(&self) -> Decision {
        let Observed { here, there, .. } = *self.seen;
        if here.is_active() || !(there.runs() || there == Vm::Paused) {
            return self.not_there();
        }
        if !self.seen.fits {
            return self.wait(format!("its disks on {} are not those that were copied", self.to));
        }
        if self.record.autostart && self.seen.persistent_there {
            return self.act(Action::AutostartThere);
        }
        // A person started it here from what the move had left, and it ended before it was seen to run.
        if here == Vm::Off && self.seen.ended {
            let reason = format!("it ran on {}, and was started here afterwards", self.to);
            return Decision { at: At::Twice(Side::Here), reason: Some(reason), then: Then::Look };
        }
        // libvirt was stopped between the end of the move and its last step. Only a VM that is defined there
        // loses its definition here.
        match (here, self.seen.persistent_there, &self.seen.kept) {
            (Vm::Off, true, _) => self.act(Action::UndefineHere),
            (Vm::Off, false, _) => self.wait("it is still defined here, and only here"),
            (_, _, Some(reason)) => self.wait(reason.clone()),
            _ => self.clear(Action::DeleteHere),
        }
    }

    fn two(&self, newer: Side) -> Decision {
        let Observed { here, there, .. } = *self.seen;
        if !there.is_known() {
            return self.unknown();
        }
        if here == Vm::Running && there == Vm::Running {
            return self.act(Action::Stop(newer));
        }
        let (were_two, to) = (self.were_two(), self.to);
        let one_goes =
            "undefine the one that is not wanted (virsh undefine), or both may run again";
        let (newer, why) = match (here, there) {
            (Vm::Gone, _) | (_, Vm::Gone) => {
                return self.abandon(format!(
                    "{were_two}; one of both hosts does not know it any more, and its volumes on both are left as they are"
                ));
            }
            // A person, or its host as it starts, may start it again from its definition: then that is the newer one.
            (Vm::Off, Vm::Off) => (
                newer,
                format!(
                    "{were_two}; it is off on both: start the one that is wanted, and undefine the other (virsh undefine)"
                ),
            ),
            (_, Vm::Off) => (Side::There, format!("{were_two}; it is off on {to}: {one_goes}")),
            (Vm::Off, _) => (Side::Here, format!("{were_two}; it is off here: {one_goes}")),
            _ => (
                newer,
                format!(
                    "{were_two}; it is active on both: end the one that is not wanted (virsh destroy)"
                ),
            ),
        };
        self.wait_for_one(newer, why)
    }

    fn abandoned(&self) -> Decision {
        if self.record.is_kept_here() && self.record.autostart {
            match self.seen.here {
                Vm::Unknown | Vm::Unreachable => return self.unknown(),
                Vm::Gone => {}
                _ => return self.act(Action::AutostartHere),
            }
        }
        match self.record.reserved.is_empty() {
            true => self.act(Action::Forget),
            false => self.act(Action::Unreserve),
        }
    }
}

#[cfg(test)]
mod tests;
