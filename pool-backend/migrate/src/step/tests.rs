// SPDX-License-Identifier: LGPL-2.1-or-later
//! Every phase with everything that can be seen in it, and what may never come of that.

use uuid::Uuid;
use virtnotify_model::Bytes;

use super::*;
use crate::hypervisor::Peer;
use crate::journal::DiskRecord;

const PHASES: [At; 10] = [
    At::Preparing,
    At::Copying,
    At::Unknown,
    At::Staying,
    At::Stayed,
    At::Resuming,
    At::Arrived,
    At::Twice(Side::Here),
    At::Twice(Side::There),
    At::Abandoned,
];
const VMS: [Vm; 8] = [
    Vm::Unknown,
    Vm::Unreachable,
    Vm::Gone,
    Vm::Off,
    Vm::Arriving,
    Vm::Paused,
    Vm::Halted,
    Vm::Running,
];
const WORKS: [Work; 4] = [Work::Unknown, Work::None, Work::Move, Work::Other];
/// How many facts are true or not, and those that are looked at in every phase.
const FLAGS: u32 = 15;
const COMMON: u32 = 0b111111;

/// The facts that are looked for in that phase.
fn looked_for(at: At) -> u32 {
    let [persistent_there, own, fits, strange, left, kept, transient, failed, forgotten] =
        [6, 7, 8, 9, 10, 11, 12, 13, 14].map(|bit| 1 << bit);
    COMMON
        | match at {
            At::Stayed => persistent_there | own | left,
            At::Arrived => persistent_there | fits | left | kept,
            At::Abandoned | At::Twice(_) => 0,
            At::Resuming => strange,
            _ => strange | transient | failed | forgotten,
        }
}

/// Each fact is tried with each other that is looked for in that phase, and with all or none of the rest.
fn is_tried(at: At, flags: u32) -> bool {
    let rest = ((1 << FLAGS) - 1) & !looked_for(at);
    [0, rest].contains(&(flags & rest))
}

fn record() -> Record {
    let peer = Peer { name: "host2".into(), uri: "test:///".into(), arrivals: 1, address: None };
    let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let size = Bytes::mib(1);
    let disk = DiskRecord::new("vda", &pool, &volume, Uuid::nil(), size, size);
    Record::new(Uuid::nil(), "guest", true, "host1", &peer, vec![disk])
}

/// Shows each combination.
fn each(mut see: impl FnMut(&Record, &Observed, Decision)) -> u64 {
    let mut record = record();
    let mut count = 0;
    for flags in 0..1u32 << FLAGS {
        let is = |bit: u32| flags & (1 << bit) != 0;
        record.autostart = is(0);
        record.ran = is(1);
        record.persistent = !is(12);
        record.went = !is(13);
        record.phase.reason = if is(13) { "it failed".into() } else { String::new() };
        record.reserved.clear();
        if is(2) {
            record.reserved.insert("vms".into(), "move-1".into());
        }
        let mut seen = Observed {
            ended: is(3),
            booted: is(4),
            ended_there: is(5),
            persistent_there: is(6),
            own: is(7),
            fits: is(8),
            strange: is(9).then(|| "vdb".into()),
            left: is(10).then_some(0),
            kept: is(11).then(|| "it is kept".into()),
            forgotten: is(14) && !is(3),
            problem: "it is not known".into(),
            ..Observed::nothing()
        };
        for at in PHASES.into_iter().filter(|at| is_tried(*at, flags)) {
            record.phase.at = at;
            for (here, there) in VMS.iter().flat_map(|here| VMS.iter().map(move |to| (*here, *to)))
            {
                (seen.here, seen.there) = (here, there);
                for work in WORKS {
                    seen.work = work;
                    count += 1;
                    see(&record, &seen, step(&record, &seen));
                }
            }
        }
    }
    count
}

/// Whether the VM was not resumed there, as far as is written down.
fn before_it_ran_there(at: At) -> bool {
    matches!(at, At::Preparing | At::Copying | At::Unknown | At::Staying | At::Stayed)
}

/// Why the decision is one that may never be made.
fn wrong(record: &Record, seen: &Observed, made: &Decision) -> Option<&'static str> {
    let from = record.phase.at;
    let Observed { here, there, .. } = *seen;
    let said_nothing = matches!(there, Vm::Unknown | Vm::Unreachable);
    let runs = |vm| matches!(vm, Vm::Running | Vm::Halted);
    let may_have_run_on = seen.ended || seen.booted || seen.forgotten;
    let vanished = !record.persistent && (seen.booted || !record.went);
    let wrong = |is: bool, what| is.then_some(what);
    let entered = match made.at {
        _ if made.at == from => None,
        At::Preparing | At::Copying | At::Unknown => Some("it goes back"),
        At::Staying => wrong(
            !here.is_active() || matches!(seen.work, Work::Move | Work::Unknown) || runs(there),
            "it stays, and was not seen here when libvirt was done",
        ),
        At::Stayed => wrong(
            !before_it_ran_there(from)
                || runs(there)
                || there == Vm::Arriving
                || !matches!(here, Vm::Off | Vm::Paused | Vm::Halted | Vm::Running | Vm::Arriving)
                || (here == Vm::Off && said_nothing)
                || (here.is_active() && matches!(seen.work, Work::Move | Work::Unknown)),
            "it stayed, and may have gone",
        ),
        At::Resuming => wrong(
            !matches!(from, At::Copying | At::Unknown)
                || there != Vm::Paused
                || !matches!(here, Vm::Gone | Vm::Off)
                || (here == Vm::Off && may_have_run_on)
                || vanished,
            "it is resumed there, and what is here may be newer",
        ),
        At::Arrived => wrong(
            !runs(there)
                || here.is_active()
                || (from != At::Resuming && (vanished || (here == Vm::Off && may_have_run_on)))
                || !matches!(from, At::Copying | At::Unknown | At::Resuming),
            "it arrived, and does not run there alone",
        ),
        At::Twice(newer) if matches!(from, At::Twice(_)) => wrong(
            match newer {
                Side::Here => here != Vm::Off || !there.is_active(),
                Side::There => there != Vm::Off || !here.is_active(),
            },
            "the one that is not off is the newer one",
        ),
        // A person resumed it there, and what is here may be newer.
        At::Twice(Side::Here) if before_it_ran_there(from) && !here.is_active() => wrong(
            !runs(there)
                || !(from == At::Staying || vanished || (here == Vm::Off && may_have_run_on)),
            "it went, and runs there alone",
        ),
        // It was started here after the move, and ended before it was seen to run.
        At::Twice(Side::Here) if from == At::Arrived && here == Vm::Off => {
            wrong(!seen.ended || !there.is_active(), "it never ran here")
        }
        At::Twice(newer) => wrong(
            matches!(here, Vm::Unknown | Vm::Gone)
                || !there.is_active()
                || (from != At::Stayed && !here.is_active())
                || (before_it_ran_there(from) && !runs(there))
                || (newer == Side::Here) == before_it_ran_there(from),
            "it ran on one alone, or the newer one is another",
        ),
        At::Abandoned => wrong(
            said_nothing
                || (here.is_active() && there.is_active())
                || (matches!(from, At::Twice(_)) && here != Vm::Gone && there != Vm::Gone),
            "a person is told too early",
        ),
    };
    let Then::Do(action) = made.then else { return entered };
    let known = here != Vm::Unknown;
    let ours = before_it_ran_there(made.at);
    entered.or(match action {
        Action::ResumeHere => wrong(
            !ours || here != Vm::Arriving || seen.work != Work::None || runs(there) || !record.ran,
            "it is resumed here",
        ),
        Action::StartHere => wrong(
            !ours
                || here != Vm::Off
                || seen.ended
                || !seen.booted
                || said_nothing
                || runs(there)
                || matches!(there, Vm::Arriving | Vm::Off),
            "it is started here",
        ),
        Action::AutostartHere => wrong(
            made.at != At::Stayed
                || !known
                || here == Vm::Gone
                || runs(there)
                || !record.autostart
                // Nothing would be owed any more.
                || (here == Vm::Off && seen.booted && !seen.ended && there != Vm::Off),
            "it starts with this host",
        ),
        Action::AutostartThere => wrong(
            made.at != At::Arrived || here.is_active() || !known || !record.autostart,
            "it starts with the other host",
        ),
        Action::ResumeThere => wrong(
            made.at != At::Resuming
                || there != Vm::Paused
                || !matches!(here, Vm::Gone | Vm::Off)
                || seen.strange.is_some(),
            "it is resumed there",
        ),
        Action::Stop(newer) => wrong(
            made.at != At::Twice(newer) || here != Vm::Running || !runs(there),
            "one of two is stopped",
        ),
        Action::UndefineThere | Action::DestroyThere => wrong(
            made.at != At::Stayed
                || !seen.own
                || there != Vm::Paused
                || matches!(here, Vm::Unknown | Vm::Gone),
            "a copy goes that may have run",
        ),
        Action::UndefineHere => wrong(
            made.at != At::Arrived
                || here != Vm::Off
                || seen.ended
                || !seen.persistent_there
                || !seen.fits
                || !(runs(there) || there == Vm::Paused),
            "the last definition goes",
        ),
        Action::DeleteHere(_) => wrong(
            made.at != At::Arrived
                || here != Vm::Gone
                || !seen.fits
                || seen.kept.is_some()
                || !(runs(there) || there == Vm::Paused)
                || seen.left.is_none(),
            "what is here goes, and is not known to be on the other host",
        ),
        Action::DeleteThere(_) => wrong(
            made.at != At::Stayed
                || !known
                || said_nothing
                || runs(there)
                || there == Vm::Arriving
                || seen.left.is_none(),
            "what is there goes, and may be needed",
        ),
        Action::Unreserve => wrong(
            !matches!(made.at, At::Stayed | At::Arrived | At::Twice(_) | At::Abandoned)
                || (made.at != At::Abandoned && said_nothing),
            "room is given back",
        ),
        Action::Forget => wrong(
            !matches!(made.at, At::Stayed | At::Arrived | At::Abandoned)
                || !record.reserved.is_empty()
                || (made.at != At::Abandoned && (said_nothing || !known || seen.left.is_some())),
            "it is forgotten too early",
        ),
    })
}

#[test]
fn nothing_that_can_be_seen_leads_to_what_may_never_be() {
    let count = each(|record, seen, made| {
        if let Some(wrong) = wrong(record, seen, &made) {
            panic!("{wrong}: in {:?} with {seen:?}: {made:?}", record.phase.at);
        }
    });
    assert!(count > 1_000_000, "{count}");
}

#[test]
fn two_that_run_are_stopped_whatever_else_is_seen() {
    each(|record, seen, made| {
        let at = record.phase.at;
        let two = seen.here == Vm::Running && seen.there == Vm::Running && at != At::Abandoned;
        let asked = !matches!(seen.work, Work::Move | Work::Unknown)
            || !matches!(at, At::Preparing | At::Copying | At::Unknown | At::Staying);
        if two && asked {
            let newer = match at {
                At::Twice(newer) => newer,
                at if before_it_ran_there(at) => Side::There,
                _ => Side::Here,
            };
            assert_eq!((made.at, made.then), (At::Twice(newer), Then::Do(Action::Stop(newer))));
        }
    });
}

#[test]
fn an_unreachable_host_loses_nothing() {
    each(|record, seen, made| {
        if !matches!(seen.there, Vm::Unknown | Vm::Unreachable) {
            return;
        }
        let harmless = match &made.then {
            Then::Do(action) => match action {
                Action::ResumeHere | Action::AutostartHere => true,
                Action::Unreserve | Action::Forget => record.phase.at == At::Abandoned,
                _ => false,
            },
            Then::Look => false,
            Then::Wait(why) => !why.is_empty(),
        };
        assert!(harmless, "{:?} with {seen:?}: {made:?}", record.phase.at);
    });
}

/// An action that is decided on again and again would never end: what it changes is seen.
#[test]
fn each_way_that_goes_well_ends() {
    // What an action does to what is seen next.
    let effect = |record: &mut Record, seen: &mut Observed, action| match action {
        Action::ResumeHere | Action::StartHere => seen.here = Vm::Running,
        Action::AutostartHere | Action::AutostartThere => record.autostart = false,
        Action::ResumeThere => seen.there = Vm::Running,
        Action::Stop(Side::Here) => seen.here = Vm::Paused,
        Action::Stop(Side::There) => seen.there = Vm::Paused,
        Action::UndefineThere => seen.persistent_there = false,
        Action::DestroyThere => seen.there = Vm::Gone,
        Action::UndefineHere => seen.here = Vm::Gone,
        Action::DeleteThere(_) | Action::DeleteHere(_) => seen.left = None,
        Action::Unreserve => record.reserved.clear(),
        Action::Forget => {}
    };
    each(|record, seen, mut made| {
        // It is what most of the others lead to, and copying it is what takes time.
        let few = seen.work == Work::None && !matches!(seen.here, Vm::Unknown);
        if !few {
            return;
        }
        let (mut record, mut seen) = (record.clone(), seen.clone());
        for _ in 0..12 {
            record.phase.at = made.at;
            match made.then {
                Then::Wait(_) | Then::Do(Action::Forget) => return,
                Then::Do(action) => effect(&mut record, &mut seen, action),
                Then::Look => {}
            }
            made = step(&record, &seen);
        }
        panic!("{record:?} does not end with {seen:?}: {made:?}");
    });
}

#[test]
fn a_vm_that_went_is_resumed_and_then_nothing_is_left() {
    let mut record = record();
    record.reserved.insert("vms".into(), "move-1".into());
    record.phase.at = At::Unknown;
    let gone = Observed { here: Vm::Gone, there: Vm::Paused, fits: true, ..Observed::nothing() };
    let next = |record: &mut Record, seen: &Observed| {
        let made = step(record, seen);
        record.phase.at = made.at;
        made.then
    };
    assert_eq!(next(&mut record, &gone), Then::Do(Action::ResumeThere));
    let runs = Observed { there: Vm::Running, left: Some(0), ..gone };
    assert_eq!(next(&mut record, &runs), Then::Look);
    assert_eq!(next(&mut record, &runs), Then::Do(Action::DeleteHere(0)));
    let clean = Observed { left: None, ..runs };
    assert_eq!(next(&mut record, &clean), Then::Do(Action::Unreserve));
    record.reserved.clear();
    assert_eq!(next(&mut record, &clean), Then::Do(Action::Forget));
}
