// SPDX-License-Identifier: LGPL-2.1-or-later
//! Answers of libvirt's that do not come: of a call of ours, and of the peer's to libvirt here.

use super::*;

/// What becomes of a VM here when the peer's last answer is lost.
const LOST: [Fate; 3] = [Fate::LosesReply, Fate::LosesReplyEarly, Fate::LosesReplyAndLeavesIt];

/// A VM that is full, or one that runs on a host below its low mark.
fn host(runs: bool) -> Lab {
    if runs { low(1) } else { Lab::new(1, &["host2"]) }
}

fn started(lab: &Lab, runs: bool) -> Process {
    let process = lab.start(1);
    if runs {
        is_low(&process);
    }
    process
}

fn state_here(lab: &Lab) -> Option<RunState> {
    lab.world(|w| w.domains.get(&VM).map(|d| d.state))
}

fn state_there(lab: &Lab) -> Option<RunState> {
    lab.world(|w| w.peers["host2"].domains.get(&VM).map(|d| d.state))
}

/// The VM is here as it was, and the peer has nothing of it.
fn is_here(lab: &Lab, runs: bool) -> bool {
    let state = if runs { RunState::Running } else { RunState::IoError };
    state_here(lab) == Some(state)
        && state_there(lab).is_none()
        && lab.world(|w| w.volumes.contains_key("disk0") && w.peers["host2"].volumes.is_empty())
}

/// A VM that runs, whose arrival libvirt here missed; the peer has been silent since.
fn missed(lab: &Lab) -> Process {
    lab.world(|w| (w.fate, w.policy.at_low_mark) = (Fate::LosesReply, AtLowMark::Warn));
    let mut process = lab.start(1);
    lab.world(|w| w.endless = true);
    process.ask("guest1", None).unwrap();
    assert!(process.until(|| lab.world(|w| w.is_migrating())));
    lab.world(|w| {
        w.endless = false;
        w.peers.get_mut("host2").unwrap().unreachable = true;
    });
    assert!(process.failure().contains("End of file"));
    process
}

fn answers_again(lab: &Lab) {
    lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = false);
}

#[test]
fn a_vm_whose_arrival_libvirt_missed_runs_here_alone_and_moves_later() {
    for (fate, runs) in LOST.into_iter().flat_map(|fate| [(fate, false), (fate, true)]) {
        let mut lab = host(runs);
        // So long it is left alone afterwards.
        lab.timing.retry = Duration::from_secs(1);
        lab.timing.retry_limit = Duration::from_secs(1);
        lab.timing.tell = Duration::from_secs(60);
        lab.world(|w| w.fate = fate);
        let mut process = started(&lab, runs);
        let told = process.failure();
        assert!(told.contains("End of file"), "{fate:?}: {told}");
        let seen = || format!("{fate:?}, {runs}: {:?}", lab.world(|w| format!("{w:?}")));
        assert!(process.until(|| lab.journal_is_empty() && is_here(&lab, runs)), "{}", seen());
        lab.no_wrongs();
        lab.world(|w| w.fate = Fate::Works);
        assert!(process.until(|| lab.is_moved("host2")), "{}", seen());
        lab.no_wrongs();
    }
}

#[test]
fn what_a_silent_peer_keeps_of_a_vm_that_stayed_goes_when_it_answers() {
    let lab = low(1);
    let process = missed(&lab);
    assert_eq!(
        (state_here(&lab), state_there(&lab)),
        (Some(RunState::Running), Some(RunState::Paused))
    );
    answers_again(&lab);
    assert!(process.until(|| lab.journal_is_empty() && is_here(&lab, true)));
    lab.no_wrongs();
}

#[test]
fn a_paused_copy_of_a_vm_that_is_not_here_any_more_is_a_persons_to_end() {
    let lab = low(1);
    let mut process = missed(&lab);
    lab.world(|w| w.domains.clear());
    answers_again(&lab);
    let told = process.failure();
    assert!(told.starts_with("host2 keeps a paused copy of it"), "{told}");
    assert!(process.until(|| lab.journal_is_empty()));
    assert_eq!(state_there(&lab), Some(RunState::Paused));
    assert!(lab.world(|w| w.volumes.contains_key("disk0")));
    assert!(lab.world(|w| w.peers["host2"].volumes.contains_key("disk0")));
}

/// Any one answer, to us, is lost: before the call has its effect, or after it.
fn any_answer_is_lost(runs: bool, fate: Fate) {
    for after in [false, true] {
        let over = (1..).find(|&n| answer_is_lost(n, after, runs, fate)).unwrap();
        assert!(over > 20, "a move was over before its call {over}");
    }
}

/// Whether the move was over before that call.
fn answer_is_lost(n: usize, after: bool, runs: bool, fate: Fate) -> bool {
    let lab = host(runs);
    lab.world(|w| {
        w.domains.get_mut(&VM).unwrap().autostart = true;
        (w.lose_at, w.fate) = (Some((n, after)), fate);
    });
    let process = started(&lab, runs);
    let seen = || format!("call {n}, after: {after}: {}", lab.world(|w| format!("{w:?}")));
    if fate != Fate::Works && fate != Fate::KeepsDefinition {
        assert!(process.until(|| process.events.len() >= 2), "{}", seen());
        lab.world(|w| w.fate = Fate::Works);
    }
    assert!(process.until(|| lab.is_moved("host2")), "{}", seen());
    assert!(lab.world(|w| w.peers["host2"].domains[&VM].autostart), "{}", seen());
    assert_eq!(lab.world(|w| w.peers["host2"].volumes.len()), 1, "{}", seen());
    lab.no_wrongs();
    assert!(n < 400, "the move is not over after {n} calls");
    lab.world(|w| w.calls < n)
}

#[test]
fn any_answer_about_a_vm_without_space_is_lost() {
    any_answer_is_lost(false, Fate::Works);
}

#[test]
fn any_answer_about_a_vm_that_runs_is_lost() {
    any_answer_is_lost(true, Fate::Works);
}

#[test]
fn any_answer_about_a_vm_whose_definition_stays_is_lost() {
    any_answer_is_lost(true, Fate::KeepsDefinition);
}

#[test]
fn any_answer_about_a_vm_whose_arrival_libvirt_missed_is_lost() {
    any_answer_is_lost(true, Fate::LosesReply);
}

#[test]
fn killed_at_every_call_of_a_move_whose_end_libvirt_missed() {
    killed_at_every_call(Fate::LosesReply);
}

/// Answers to what a person did while the daemon was away: the VM runs on both.
#[test]
fn a_vm_that_runs_on_both_is_told_at_once_and_the_newer_one_is_stopped() {
    let lab = low(1);
    let mut process = missed(&lab);
    let there = |lab: &Lab, state| {
        lab.world(|w| {
            let side = w.peers.get_mut("host2").unwrap();
            side.domains.get_mut(&VM).unwrap().state = state;
            side.unreachable = false;
        });
    };
    there(&lab, RunState::Running);
    let told = process.twice();
    assert!(told.starts_with("it ran on host1 and on host2 at once; the CPUs of the newer one, on host2, were stopped"), "{told}");
    assert_eq!(
        (state_here(&lab), state_there(&lab)),
        (Some(RunState::Running), Some(RunState::Paused))
    );
    // A daemon that starts anew knows that it is no copy that never ran.
    process.kill();
    let mut process = lab.start(1);
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls > calls + 10)));
    assert_eq!(state_there(&lab), Some(RunState::Paused));
    there(&lab, RunState::Running);
    assert!(process.twice().contains("on host2, were stopped"), "each time that it is resumed");
    let refused = process.ask("guest1", None).unwrap_err();
    assert!(refused.contains("it is being moved already"), "{refused}");
    // It may be started again from its definition, also by its host.
    there(&lab, RunState::Off);
    let waits = || process.moves.list().first().map(|of| of.reason.clone()).unwrap_or_default();
    assert!(process.until(|| waits().contains("undefine the one that is not wanted")));
    there(&lab, RunState::Running);
    assert!(process.twice().contains("on host2, were stopped"), "and each time that it is started");
    lab.world(|w| drop(w.peers.get_mut("host2").unwrap().domains.remove(&VM)));
    let ended = process.failure_with("its volumes on both");
    assert!(ended.contains("its volumes on both are left"), "{ended}");
    assert!(lab.world(
        |w| w.volumes.contains_key("disk0") && w.peers["host2"].volumes.contains_key("disk0")
    ));
}

#[test]
fn a_vm_that_is_started_here_once_it_runs_there_is_stopped_here() {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| (w.fate, w.starts_here) = (Fate::KeepsDefinition, true));
    let mut process = lab.start(1);
    let told = process.twice();
    assert!(told.contains("the newer one, on host1, were stopped"), "{told}");
    assert_eq!(
        (state_here(&lab), state_there(&lab)),
        (Some(RunState::Paused), Some(RunState::Running))
    );
    assert!(lab.world(
        |w| w.volumes.contains_key("disk0") && w.peers["host2"].volumes.contains_key("disk0")
    ));
}

#[test]
fn a_vm_that_runs_on_a_peer_without_a_move_of_ours_is_told() {
    let lab = low(1);
    lab.world(|w| {
        w.policy.at_low_mark = AtLowMark::Warn;
        let vm = w.domains[&VM].clone();
        w.peers.get_mut("host2").unwrap().domains.insert(VM, vm);
    });
    let mut process = lab.start(1);
    let refused = process.ask("guest1", None).unwrap_err();
    assert!(refused.contains("has a VM of the same UUID already"), "{refused}");
    let told = process.twice();
    assert!(
        told.starts_with("it runs on host1 and on host2 at once, and no move from here"),
        "{told}"
    );
    assert_eq!(
        (state_here(&lab), state_there(&lab)),
        (Some(RunState::Running), Some(RunState::Running))
    );
}

/// It is off, and its guest had written here after libvirt let it run on.
#[test]
fn a_vm_that_was_shut_down_here_after_its_arrival_was_missed_is_not_resumed_there() {
    let lab = low(1);
    lab.world(|w| {
        (w.fate, w.policy.at_low_mark) = (Fate::LosesReply, AtLowMark::Warn);
        w.shuts_down = true;
    });
    let mut process = lab.start(1);
    process.ask("guest1", None).unwrap();
    let told = process.failure();
    assert!(told.starts_with("it was shut down here meanwhile"), "{told}");
    assert!(process.until(|| lab.journal_is_empty()));
    assert_eq!((state_here(&lab), state_there(&lab)), (Some(RunState::Off), None));
    assert!(lab.world(|w| w.volumes.contains_key("disk0") && w.peers["host2"].volumes.is_empty()));
    lab.no_wrongs();
}

#[test]
fn a_vm_that_a_person_pauses_there_once_it_ran_is_not_resumed() {
    let mut seen = 0;
    for n in 20.. {
        let lab = Lab::new(1, &["host2"]);
        lab.world(|w| w.die_at = Some((n, true)));
        let process = lab.start(1);
        assert!(process.until(|| process.is_dead() || lab.is_moved("host2")));
        let over = lab.is_moved("host2");
        process.kill();
        lab.world(|w| w.die_at = None);
        if over {
            break;
        }
        if !lab.journal_says("arrived") {
            continue;
        }
        seen += 1;
        let pause = |w: &mut World| {
            w.peers.get_mut("host2").unwrap().domains.get_mut(&VM).unwrap().state =
                RunState::Paused;
        };
        lab.world(pause);
        let process = lab.start(1);
        assert!(process.until(|| lab.journal_is_empty() && lab.world(|w| w.volumes.is_empty())));
        assert_eq!((state_here(&lab), state_there(&lab)), (None, Some(RunState::Paused)));
        lab.no_wrongs();
    }
    assert!(seen > 3, "it was killed {seen} times after the VM ran there");
}

/// Nothing here tells whether it went, or ran on, wrote and ended: libvirt's answer was for a process that is gone.
#[test]
fn a_transient_vm_of_which_no_success_was_written_down_is_not_resumed_there() {
    let lab = low(1);
    lab.world(|w| {
        w.policy.at_low_mark = AtLowMark::Warn;
        w.domains.get_mut(&VM).unwrap().persistent = false;
        w.endless = true;
    });
    let process = lab.start(1);
    process.ask("guest1", None).unwrap();
    assert!(process.until(|| lab.world(|w| w.is_migrating()) && lab.journal_says("copying")));
    process.kill();
    lab.world(|w| {
        (w.fate, w.endless, w.shuts_down) = (Fate::LosesReply, false, true);
        w.ends_by_itself(VM, "host2");
        w.domains.clear();
    });
    let process = lab.start(1);
    let waits = || process.moves.list().first().map(|of| of.reason.clone()).unwrap_or_default();
    assert!(process.until(|| waits().starts_with("it is not here any more")), "{}", waits());
    assert_eq!(state_there(&lab), Some(RunState::Paused));
    assert!(lab.world(
        |w| w.volumes.contains_key("disk0") && w.peers["host2"].volumes.contains_key("disk0")
    ));
    lab.no_wrongs();
}

#[test]
fn a_transient_vm_moves_and_one_that_is_undefined_meanwhile_moves_as_one() {
    for meanwhile in [false, true] {
        let lab = Lab::new(1, &["host2"]);
        lab.world(|w| {
            w.domains.get_mut(&VM).unwrap().persistent = meanwhile;
            w.undefined = meanwhile;
        });
        let process = lab.start(1);
        assert!(process.until(|| lab.is_moved("host2")), "{meanwhile}");
        lab.no_wrongs();
    }
}
