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
//! | until `staying` | ended, or off since its host was started anew | gone, off or paused | `stayed` |
//! | until `unknown` | not active | active otherwise | `arrived` |
//! | `preparing` | not active | known | `abandoned`: nobody of ours moved it |
//! | until `staying` | gone | gone | `abandoned` |
//! | `resuming` | not active | runs | `arrived` |
//! | any | runs | runs | `twice`: the newer one is stopped |
//! | `stayed` | | | it runs on; the paused copy, the volumes and the room there go; over |
//! | `arrived` | not active | active | the definition, the volumes here and the room there go; over |
//! | `twice` | one of both is not active | | `abandoned` |
//! | any | anything else | | wait: looked at again |

use crate::journal::Record;
use crate::phase::{At, Side};

/// How a VM is on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vm {
    /// Not asked, or the answer was an error.
    Unknown,
    /// That host does not answer at all.
    Unreachable,
    /// It is not known there.
    Gone,
    /// It is defined there and not active.
    Off,
    /// It arrives there; or, here, libvirt left it paused for the migration.
    Arriving,
    /// It is paused.
    Paused,
    /// An I/O error paused it while it ran.
    IoError,
    /// It runs.
    Running,
}

impl Vm {
    /// Whether its disks are in use there.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Arriving | Self::Paused | Self::IoError | Self::Running)
    }

    fn is_known(self) -> bool {
        !matches!(self, Self::Unknown | Self::Unreachable)
    }

    /// Whether it runs, or did until it wanted space.
    fn runs(self) -> bool {
        matches!(self, Self::IoError | Self::Running)
    }
}

/// What libvirt here is at for the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Not asked, or the answer was an error.
    Unknown,
    /// Nothing.
    None,
    /// A migration away from here.
    Move,
    /// Something else.
    Other,
}

/// What one look at both sides gives. What no decision depends on in a phase is not looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The VM here.
    pub here: Vm,
    /// Whether it is off here because its guest, a person or a crash ended it.
    pub ended: bool,
    /// Whether this host was started anew since the move began.
    pub booted: bool,
    /// What libvirt here is at for it.
    pub work: Work,
    /// The VM there.
    pub there: Vm,
    /// The same as `ended`, for the VM there.
    pub ended_there: bool,
    /// Whether it is defined there.
    pub persistent_there: bool,
    /// Whether the VM there has the very volumes that the move made.
    pub own: bool,
    /// Whether the VM there has all disks that were copied.
    pub fits: bool,
    /// A disk of the VM there that was not copied, though it is a volume here.
    pub strange: Option<String>,
    /// The next disk whose volume is to go: there when it stayed, here when it arrived.
    pub left: Option<usize>,
    /// Why a volume here cannot go.
    pub kept: Option<String>,
    /// Why something is not known.
    pub problem: String,
}

impl Observed {
    /// Before anything was asked.
    pub(crate) fn nothing() -> Self {
        Self {
            here: Vm::Unknown,
            ended: false,
            booted: false,
            work: Work::Unknown,
            there: Vm::Unknown,
            ended_there: false,
            persistent_there: false,
            own: false,
            fits: false,
            strange: None,
            left: None,
            kept: None,
            problem: String::new(),
        }
    }
}

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

    fn abandon(&self, reason: String) -> Decision {
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

    /// It is active here, and ran there.
    fn both(&self, newer: Side) -> Decision {
        if self.seen.here == Vm::Running && self.seen.there.runs() {
            return self.enter(At::Twice(newer), Then::Do(Action::Stop(newer)));
        }
        self.wait(format!("it is active here, and on {} as well: nothing is deleted", self.to))
    }

    /// It is active here, and was not resumed there by us.
    fn find_active(&self) -> Decision {
        match (self.seen.work, self.seen.there) {
            (Work::Move, _) => self.wait("libvirt is still at it"),
            (Work::Unknown, _) => self.unknown(),
            (_, Vm::Running | Vm::IoError) => self.both(Side::There),
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
        match there {
            Vm::Unknown | Vm::Unreachable => self.unknown(),
            Vm::Gone if here == Vm::Gone => self.nowhere(),
            Vm::Gone => self.stay_off(),
            Vm::Arriving => self.arriving(),
            _ if self.at == At::Preparing => self.abandon(format!(
                "it is on {} by now, and not by this move; its volumes on both are left as they are",
                self.to
            )),
            Vm::Paused if ran_on && here == Vm::Gone => self.only_copy(),
            Vm::Paused if ran_on || cut => self.stay_off(),
            Vm::Off if here == Vm::Off && (ran_on || cut) && !self.seen.ended_there => {
                self.stay_off()
            }
            Vm::Off => self.off(),
            Vm::Running | Vm::IoError if ran_on => self.wait(format!(
                "it was shut down here, and is active on {}: nothing is deleted on either",
                self.to
            )),
            Vm::Running | Vm::IoError => self.enter(At::Arrived, Then::Look),
            Vm::Paused => match self.strange() {
                Some(reason) => self.wait(reason),
                None => self.enter(At::Resuming, Then::Do(Action::ResumeThere)),
            },
        }
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
        self.abandon(format!(
            "{0} keeps a paused copy of it from a move that did not end, and it is not here any \
             more: where it runs elsewhere, destroy the copy on {0}",
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
        let Observed { here, there, work, booted, ended, ended_there, .. } = *self.seen;
        let record = self.record;
        // libvirt left it so, as it does when it is started anew at that moment.
        if here == Vm::Arriving && record.ran && work == Work::None {
            return Some(Action::ResumeHere);
        }
        let asleep = matches!(there, Vm::Gone | Vm::Paused) || (there == Vm::Off && !ended_there);
        if here == Vm::Off && !ended && booted && record.autostart && asleep {
            return Some(Action::StartHere);
        }
        (record.autostart && here != Vm::Gone).then_some(Action::AutostartHere)
    }

    fn stayed(&self) -> Decision {
        let Observed { here, there, .. } = *self.seen;
        if there.runs() {
            if here == Vm::Running {
                return self.both(Side::There);
            }
            return self.wait(format!("{} still has a copy of the VM that is active", self.to));
        }
        if let Some(action) = self.at_home() {
            return self.act(action);
        }
        match there {
            Vm::Unknown | Vm::Unreachable => self.unknown(),
            Vm::Arriving => self.arriving(),
            Vm::Paused if here == Vm::Gone => self.only_copy(),
            Vm::Off if here != Vm::Gone && self.seen.own && self.seen.ended_there => {
                self.abandon(format!(
                    "its copy on {} was ended there, and may have run: it is left, with its volumes",
                    self.to
                ))
            }
            Vm::Paused | Vm::Off if here != Vm::Gone && self.seen.own => self.end_copy(),
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
            Vm::Running | Vm::IoError if !self.seen.here.is_active() => {
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
        if here.is_active() && there.is_active() {
            return self.wait(format!(
                "it ran here and on {} at once, and is active on both: end the one that is not wanted",
                self.to
            ));
        }
        self.abandon(format!(
            "it ran here and on {} at once, and one of them has ended; its volumes on both are left as they are",
            self.to
        ))
    }

    fn abandoned(&self) -> Decision {
        match self.record.reserved.is_empty() {
            true => self.act(Action::Forget),
            false => self.act(Action::Unreserve),
        }
    }
}

#[cfg(test)]
mod tests;
