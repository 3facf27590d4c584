// SPDX-License-Identifier: LGPL-2.1-or-later
//! Against libvirt's own test driver.

use super::*;
use crate::domain::RunState;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};

/// libvirt's test driver has one world for the whole process: one test at a time.
pub(super) fn the_test_driver() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_peers_connection_is_not_used_again_after_an_error() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default", || None).unwrap();
    let uri = "test:///default?peer".to_owned();
    let peer = Peer { name: "host2".into(), uri, arrivals: 1, address: None };
    let open = |place| libvirt.cache().contains_key(libvirt.uri(place));
    for (place, stays) in [(Place::Here, true), (Place::At(&peer), false)] {
        libvirt.host(place).unwrap();
        assert!(open(place));
        let error = Failure::refused("cannot look for the pool", "no such pool");
        let told = error.clone();
        let answer = libvirt.ask::<()>(place, move |_| Err(told.clone()));
        assert_eq!(answer, Err(error.at(place, true)));
        assert_eq!(open(place), stays);
    }
}

#[test]
fn a_peer_whose_daemon_for_pools_was_restarted_is_asked_again_once() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default", || None).unwrap();
    let uri = "test:///default?peer".to_owned();
    let peer = Peer { name: "host2".into(), uri, arrivals: 1, address: None };
    let asked = |place, failures: usize, failure: Failure| {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let answer = libvirt.ask(place, move |connection| {
            match counted.fetch_add(1, Ordering::Relaxed) < failures {
                true => Err(failure.clone()),
                false => connection.hostname().map_err(|e| Failure::of("cannot find the name", &e)),
            }
        });
        (answer.is_ok(), count.load(Ordering::Relaxed))
    };
    let closed = || Failure::NotSent("internal error: client socket is closed".into());
    assert_eq!(asked(Place::At(&peer), 1, closed()), (true, 2));
    assert_eq!(asked(Place::At(&peer), 2, closed()), (false, 2));
    // It may have been done.
    let broken = Failure::Broken("End of file".into());
    assert_eq!(asked(Place::At(&peer), 1, broken), (false, 1));
    let answer = Failure::refused("cannot look for the pool", "no such pool");
    assert_eq!(asked(Place::At(&peer), 1, answer), (false, 1));
    assert_eq!(asked(Place::Here, 1, closed()), (false, 1), "here we are the daemon for pools");
}

#[test]
fn a_peer_says_which_networks_it_lacks() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default", || None).unwrap();
    let peer = Peer {
        name: "host2".into(),
        uri: "test:///default?peer".into(),
        arrivals: 1,
        address: None,
    };
    let mut domain = crate::fake::domain("guest", 1);
    domain.surroundings.networks.insert("default".into());
    // This driver has no secrets, and does not say how much memory there is: neither is a reason to refuse.
    domain.surroundings.secrets.insert(Uuid::from_u128(5));
    assert_eq!(libvirt.host_room(&peer, &domain), Ok(HostRoom::default()));
    domain.surroundings.networks.insert("lan".into());
    let room = libvirt.host_room(&peer, &domain).unwrap();
    assert_eq!(room.without_network.as_deref(), Some("lan"));
}

#[test]
fn a_list_of_which_a_part_did_not_come_is_no_list() {
    let vm = |n: u128| Ok(Some(crate::fake::domain("guest", n)));
    let broken = || Err(Failure::Broken("End of file".into()));
    let odd = || Err(Failure::refused("cannot read the VM", "its XML is odd"));
    let count = |all: Vec<Result<Option<Domain>, Failure>>| {
        readable(all.into_iter()).map(|found| found.len())
    };
    assert_eq!(count(vec![vm(1), odd(), vm(2), Ok(None)]), Ok(2));
    assert_eq!(count(vec![vm(1), broken(), vm(2)]), Err(Failure::Broken("End of file".into())));
    assert!(count(vec![odd()]).is_err());
}

#[test]
fn a_vm_is_stopped_ended_and_undefined() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default", || None).unwrap();
    let place = Place::Here;
    let uuid = libvirt.domains(place).unwrap()[0].uuid;
    let state = || libvirt.domain(place, uuid).unwrap().map(|domain| domain.state);
    libvirt.destroy(place, uuid).unwrap();
    libvirt.start(uuid).unwrap();
    libvirt.suspend(place, uuid).unwrap();
    assert_eq!(state(), Some(RunState::Paused));
    libvirt.destroy(place, uuid).unwrap();
    assert_eq!(state(), Some(RunState::Off));
    assert!(libvirt.domain(place, uuid).unwrap().unwrap().ended);
    libvirt.start(uuid).unwrap();
}

#[test]
fn the_nvram_of_a_definition_that_goes_stays_unless_it_is_known_to_be_local() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = dir.path().join("vars.fd");
    std::fs::write(&file, "").unwrap();
    let (local, gone) = (Nvram::File(file), Nvram::File(dir.path().join("gone.fd")));
    // Not even of a type that is known: this kernel's `proc`.
    let other = Nvram::File("/proc/self/status".into());
    assert_eq!(nvram(true, Some(&local)), sys::VIR_DOMAIN_UNDEFINE_NVRAM);
    let keep = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
    assert_eq!(nvram(false, Some(&local)), keep, "the path of a peer's file");
    for unknown in [Some(&gone), Some(&other), Some(&Nvram::Elsewhere), None] {
        assert_eq!(nvram(true, unknown), keep, "{unknown:?}");
    }
}

#[test]
fn the_state_of_a_tpm_stays_unless_it_is_known_to_be_local() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (local, gone) = (dir.path(), dir.path().join("gone"));
    let keep = sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
    assert_eq!(tpm(true, KEEPS_TPM, local), 0);
    assert_eq!(tpm(false, KEEPS_TPM, local), keep, "the path of a peer's state");
    assert_eq!(tpm(true, KEEPS_TPM, &gone), keep);
    assert_eq!(tpm(true, KEEPS_TPM, Path::new("/proc/self")), keep);
    assert_eq!(tpm(false, KEEPS_TPM - 1, &gone), 0, "a flag that this libvirt refuses");
}
