// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operator asks and decides: a plan, a pin, a host that is drained, and how the peers are doing.

use virtnotify_model::VolumeKind;

use super::sentences::quiet;
use super::*;
use crate::error::Unfit;
use crate::peers::PeerState;
use crate::preview::Preview;

impl Process {
    fn preview(&self, vm: &str, to: Option<&str>) -> Preview {
        self.now(self.moves.preview(vm, to)).unwrap()
    }

    fn pin(&self, vm: &str, pinned: bool) {
        self.now(self.moves.pin(vm, pinned)).unwrap();
    }
}

fn side(lab: &Lab, peer: &str, change: impl FnOnce(&mut Side)) {
    lab.world(|w| change(w.peers.get_mut(peer).unwrap()));
}

/// A host with another peer.
fn with_second_peer(mut lab: Lab) -> Lab {
    let other = Side { available: 2048 << 20, ..Side::default() };
    lab.world(|w| w.peers.insert("host3".into(), other));
    lab.peers.push(peer("host3"));
    lab
}

#[test]
fn a_plan_names_the_peer_the_time_and_why_not_the_others() {
    let lab = with_second_peer(quiet());
    side(&lab, "host3", |host3| host3.drained = true);
    let process = lab.start(1);
    let plan = process.preview("guest1", None);
    assert_eq!((plan.to.as_deref(), plan.stays.as_deref()), (Some("host2"), None));
    // The disk's 40 MiB and 128 MiB of memory, at 100 MiB/s, and what is around them.
    assert_eq!(plan.copies, Bytes::mib(168));
    assert_eq!(plan.takes.as_secs(), 16);
    let fits: Vec<_> = plan.peers.iter().map(|peer| (peer.name.as_str(), &peer.fits)).collect();
    assert_eq!(fits[0], ("host2", &Ok(Bytes::mib(2048 - 40))));
    assert_eq!(fits[1], ("host3", &Err(Unfit::Drained)));

    let plan = process.preview("guest1", Some("host3"));
    assert_eq!(plan.to, None);
    let none = "no peer can take it: host3 is drained: it takes no VMs";
    assert_eq!(plan.stays.as_deref(), Some(none));
    // Nothing came of the questions.
    assert!(lab.journal_is_empty() && process.moves.list().is_empty());
    assert!(lab.world(|w| w.peers.values().all(|side| side.volumes.is_empty())));
    assert_eq!(lab.world(|w| w.domains[&VM].state), RunState::Running);
    lab.no_wrongs();
}

/// Of the others nothing is listed, whatever keeps them here.
#[test]
fn a_plan_says_whether_the_vm_has_a_disk_of_ours() {
    let lab = quiet();
    let plan = |disk: Option<&str>| {
        let source = disk.map(|path| crate::domain::DiskSource::Path(path.into()));
        let disks = source.map(|source| crate::domain::Disk::new("vda", source));
        lab.world(|w| w.domains.get_mut(&VM).unwrap().disks = disks.into_iter().collect());
        let process = lab.start(1);
        let plan = process.preview("guest1", None);
        process.kill();
        (plan.ours, plan.stays.is_some())
    };
    assert_eq!(plan(Some("/dev/notify/vms/disk0")), (true, false));
    assert_eq!(plan(Some("/proc/version")), (false, true));
    assert_eq!(plan(None), (false, true));
}

#[test]
fn a_plan_names_the_snapshots_that_stay_here() {
    let lab = quiet();
    for name in ["disk0@monday", "disk1", "disk1@monday"] {
        lab.storage.add(name, 512, 40);
    }
    lab.world(|w| {
        let snapshots = w.volumes.values_mut().filter(|volume| volume.name.snapshot().is_some());
        snapshots.for_each(|volume| volume.kind = VolumeKind::Snapshot);
    });
    let process = lab.start(1);
    assert_eq!(process.preview("guest1", None).leaves, ["vms/disk0@monday"]);
}

#[test]
fn a_plan_of_a_vm_that_stays_says_why_and_asks_no_peer() {
    let lab = quiet();
    side(&lab, "host2", |host2| host2.silent = true);
    lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Off);
    let process = lab.start(1);
    let plan = process.preview("guest1", None);
    assert_eq!(plan.stays.as_deref(), Some("it does not run"));
    assert!(plan.peers.is_empty() && plan.to.is_none());
    let unknown = process.now(process.moves.preview("nobody", None)).unwrap_err();
    assert_eq!(unknown.to_string(), "'nobody' has no plan: this host has no such VM");
    side(&lab, "host2", |host2| host2.silent = false);
}

#[test]
fn a_pinned_vm_stays_until_it_is_unpinned() {
    let lab = quiet();
    lab.world(|w| w.domains.get_mut(&VM).unwrap().wishes.only = ["host2".into()].into());
    let process = lab.start(1);
    process.pin("guest1", true);
    let refused = process.ask("guest1", None).unwrap_err();
    assert!(refused.ends_with("its <metadata> says that it is not to be moved"), "{refused}");
    process.pin("guest1", false);
    assert_eq!(lab.world(|w| w.domains[&VM].wishes.only.len()), 1, "its peers stay named");
    process.ask("guest1", None).unwrap();
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

#[test]
fn metadata_that_is_not_understood_is_not_written_over() {
    let lab = quiet();
    let odd = Kept::NotUnderstood("<x>".into());
    lab.world(|w| w.domains.get_mut(&VM).unwrap().wishes.stays = Some(odd.clone()));
    let process = lab.start(1);
    let refused = process.now(process.moves.pin("guest1", false)).unwrap_err();
    assert_eq!(refused.to_string(), format!("'guest1' stays pinned: {odd}"));
    assert_eq!(lab.world(|w| w.domains[&VM].wishes.stays.clone()), Some(odd));
}

/// The peer does not answer what it is asked for one VM, and the disk of that VM, or of another, gets space meanwhile.
#[test]
fn a_silent_peer_holds_up_no_vm_that_has_space_again() {
    for which in [1, 2] {
        let lab = Lab::new(2, &["host2"]);
        side(&lab, "host2", |host2| host2.silent = true);
        let process = lab.start(1);
        assert!(process.until(|| lab.world(|w| w.calls) > 8));
        let (vm, other) = (Uuid::from_u128(which), Uuid::from_u128(3 - which));
        let disk = format!("disk{}", which - 1);
        lab.world(|w| w.volumes.get_mut(&disk).unwrap().state = VolumeState::Growing);
        let resumed = process.until(|| lab.world(|w| w.domains[&vm].state == RunState::Running));
        side(&lab, "host2", |host2| host2.silent = false);
        assert!(resumed, "{which} waited for the peer");
        let left = || lab.world(|w| !w.domains.contains_key(&other));
        assert!(process.until(|| lab.journal_is_empty() && left()));
        assert!(lab.world(|w| w.domains.contains_key(&vm)), "{which} has its space, and stays");
        lab.no_wrongs();
    }
}

#[test]
fn a_drained_host_empties_over_restarts_and_keeps_what_is_pinned() {
    let lab = low(3);
    lab.world(|w| {
        w.policy.at_low_mark = AtLowMark::Warn;
        w.available = 1000 << 20;
    });
    let process = lab.start(1);
    process.pin("guest3", true);
    process.moves.drain(true).unwrap();
    let left = |n: usize| lab.world(|w| w.domains.len() <= n);
    assert!(process.until(|| left(2)));
    process.kill();
    let process = lab.start(1);
    assert!(process.moves.is_drained());
    assert!(process.until(|| left(1) && lab.journal_is_empty()));
    assert_eq!(lab.world(|w| w.peers["host2"].domains.len()), 2);
    assert!(lab.world(|w| w.domains.contains_key(&Uuid::from_u128(3))));
    process.moves.drain(false).unwrap();
    process.pin("guest3", false);
    process.kill();
    let process = lab.start(1);
    assert!(!process.moves.is_drained());
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 5));
    assert!(lab.world(|w| w.domains.contains_key(&Uuid::from_u128(3))), "it was not asked to go");
    lab.no_wrongs();
}

#[test]
fn a_host_that_cannot_be_drained_says_so_once_and_goes_on_trying() {
    let lab = quiet();
    side(&lab, "host2", |host2| host2.drained = true);
    let mut process = lab.start(1);
    process.moves.drain(true).unwrap();
    let reason = process.failure();
    let why =
        "this host is drained, and 'guest1' cannot leave it: no peer can take it: host2 is drained";
    assert!(reason.starts_with(why), "{reason}");
    side(&lab, "host2", |host2| host2.drained = false);
    assert!(process.until(|| lab.is_moved("host2")));
    assert_eq!(process.failures(), Vec::<String>::new());
    lab.no_wrongs();
}

#[test]
fn a_vm_that_waits_is_shown_with_its_reason_until_it_goes() {
    let lab = Lab::new(1, &["host2"]);
    side(&lab, "host2", |host2| host2.drained = true);
    let process = lab.start(1);
    let reason = || process.moves.picture().waiting.first().map(|vm| vm.reason.clone());
    let says = "no peer can take it: host2 is drained: it takes no VMs";
    assert!(process.until(|| reason().as_deref() == Some(says)));
    let waiting = process.moves.picture().waiting.remove(0);
    assert_eq!((waiting.domain.as_str(), waiting.volume.as_str()), ("guest1", "disk0"));
    assert!(waiting.since > 0);
    side(&lab, "host2", |host2| host2.drained = false);
    assert!(process.until(|| lab.is_moved("host2")));
    assert!(process.until(|| process.moves.picture().waiting.is_empty()));
}

#[test]
fn a_peer_that_can_take_no_vm_is_told_before_one_has_to_go() {
    let mut lab = quiet();
    lab.timing.peers = Duration::from_millis(24);
    let mut process = lab.start(1);
    process.bus.emit(Event::PoolStarted("vms".parse().unwrap()));
    let state = |process: &Process| process.moves.picture().peers.remove(0);
    let asked = |state: &PeerState| state.checked.is_some() && !state.pools.is_empty();
    assert!(process.until(|| asked(&state(&process))));
    let fine = state(&process);
    assert_eq!((fine.problem, fine.arriving, fine.arrivals), (None, 0, 2));
    assert_eq!(fine.pools[0].available, Bytes::mib(2048));
    side(&lab, "host2", |host2| host2.unreachable = true);
    let peers = |event| match event {
        Event::PeerFailed { peer, reason } => Some(format!("{peer} {reason}")),
        Event::PeerReady { peer } => Some(format!("{peer} is ready")),
        _ => None,
    };
    let no_route = "host2 cannot be asked: libvirt on host2 cannot be reached: no route to host";
    assert_eq!(process.told(peers), no_route);
    side(&lab, "host2", |host2| host2.unreachable = false);
    assert_eq!(process.told(peers), "host2 is ready");
    side(&lab, "host2", |host2| host2.drained = true);
    assert_eq!(process.told(peers), "host2 is drained: it takes no VMs");
}

/// Its disk's 40 MiB would leave less than a sixteenth of 4096 MiB free there.
#[test]
fn a_vm_that_no_peer_could_take_is_known_before_it_has_to_go() {
    let mut lab = with_second_peer(quiet());
    lab.timing.peers = Duration::from_millis(24);
    side(&lab, "host2", |host2| host2.available = 295 << 20);
    side(&lab, "host3", |host3| host3.drained = true);
    let process = lab.start(1);
    let homeless = || process.moves.picture().homeless;
    assert!(process.until(|| !homeless().is_empty()));
    let told = homeless().remove(0);
    let room = "has 295.00 MiB left in its pool 'vms', and 40.00 MiB are to come and 256.00 MiB to stay free";
    let why = format!("no peer can take it: host2 {room}; host3 is drained: it takes no VMs");
    assert_eq!((told.domain.as_str(), told.why.to_string()), ("guest1", why));
    side(&lab, "host2", |host2| host2.available = 296 << 20);
    assert!(process.until(|| homeless().is_empty()));
    // One that stays in any case needs no peer.
    side(&lab, "host2", |host2| host2.available = 0);
    lab.world(|w| w.policy.when_full = WhenFull::Pause);
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 20));
    assert!(homeless().is_empty());
}

#[test]
fn peers_are_asked_at_once_when_a_pool_starts() {
    let lab = quiet();
    let process = lab.start(1);
    let checked = || process.moves.picture().peers[0].checked;
    assert_eq!(checked(), None, "the next time is in an hour");
    process.bus.emit(Event::PoolStarted("vms".parse().unwrap()));
    assert!(process.until(|| checked().is_some()));
}

/// The one that waits has 2 TiB to copy; a small one that runs frees enough for it to go on.
#[test]
fn a_small_vm_leaves_for_a_large_one_that_waits() {
    let mut lab = Lab::new(2, &["host2"]);
    // Once there is room, the engine is waited for.
    lab.timing.serve = Duration::from_secs(60);
    side(&lab, "host2", |host2| host2.available = 4 << 40);
    let second = Uuid::from_u128(2);
    lab.world(|w| {
        let large = w.volumes.get_mut("disk0").unwrap();
        (large.capacity, large.allocation) = (Bytes(4 << 40), Bytes(2 << 40));
        let small = w.volumes.get_mut("disk1").unwrap();
        (small.allocation, small.state) = (Bytes::mib(100), VolumeState::Growing);
        let vm = w.domains.get_mut(&second).unwrap();
        vm.state = RunState::Running;
        vm.no_space.clear();
    });
    let process = lab.start(2);
    let left = || lab.world(|w| !w.domains.contains_key(&second) && w.available >= 100 << 20);
    assert!(process.until(|| left() && lab.journal_is_empty()));
    assert_eq!(lab.world(|w| w.domains[&VM].state), RunState::IoError, "it did not move itself");
    lab.world(|w| w.volumes.get_mut("disk0").unwrap().state = VolumeState::Growing);
    assert!(process.until(|| lab.world(|w| w.domains[&VM].state == RunState::Running)));
    assert!(lab.world(|w| !w.peers["host2"].domains.contains_key(&VM)));
    lab.no_wrongs();
}
