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
    let libvirt = Libvirt::new("test:///default").unwrap();
    let uri = "test:///default?peer".to_owned();
    let peer = Peer { name: "host2".into(), uri, arrivals: 1, address: None };
    let open = |place| libvirt.cache().contains_key(libvirt.uri(place));
    for (place, stays) in [(Place::Here, true), (Place::At(&peer), false)] {
        libvirt.host(place).unwrap();
        assert!(open(place));
        let error = HvError::failed("cannot look for the pool", "no such pool");
        let told = error.clone();
        assert_eq!(libvirt.ask::<()>(place, move |_| Err(told.clone())), Err(error));
        assert_eq!(open(place), stays);
    }
}

#[test]
fn a_peer_whose_daemon_for_pools_was_restarted_is_asked_again_once() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default").unwrap();
    let uri = "test:///default?peer".to_owned();
    let peer = Peer { name: "host2".into(), uri, arrivals: 1, address: None };
    let asked = |place, failures: usize, reason: &'static str| {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let answer = libvirt.ask(place, move |connection| {
            match counted.fetch_add(1, Ordering::Relaxed) < failures {
                true => Err(HvError::failed("cannot look for the pool", reason)),
                false => connection.hostname().map_err(|e| failed("cannot find the name", &e)),
            }
        });
        (answer.is_ok(), count.load(Ordering::Relaxed))
    };
    let closed = "internal error: client socket is closed";
    assert_eq!(asked(Place::At(&peer), 1, closed), (true, 2));
    assert_eq!(asked(Place::At(&peer), 2, closed), (false, 2));
    assert_eq!(asked(Place::At(&peer), 1, "no such pool"), (false, 1));
    assert_eq!(asked(Place::Here, 1, closed), (false, 1), "here we are the daemon for pools");
}

#[test]
fn a_peer_says_which_networks_it_lacks() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default").unwrap();
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
fn an_error_of_a_connection_that_broke_is_no_answer() {
    let _alone = the_test_driver();
    let connection = Connect::open(Some("test:///default")).unwrap();
    let error = HvError::failed("cannot look for the VM", "End of file");
    let of = |alive| out_of_reach(Place::Here, alive, error.clone());
    assert_eq!(of(connection.is_alive()), error);
    let reason = "End of file".into();
    let broken = HvError::Unreachable { place: "this host".into(), reason };
    assert_eq!(of(Ok(false)), broken);
    assert!(broken.is_out_of_reach() && !error.is_out_of_reach());
    assert_eq!(out_of_reach(Place::Here, Ok(false), HvError::Cancelled), HvError::Cancelled);
}

#[test]
fn a_vm_is_stopped_ended_and_undefined() {
    let _alone = the_test_driver();
    let libvirt = Libvirt::new("test:///default").unwrap();
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
