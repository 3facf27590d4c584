// SPDX-License-Identifier: LGPL-2.1-or-later
//! When polkit is asked, and with which words; `tests/access.rs` has the calls.

use std::fs;

use virtnotify_wire::{Procedure, Uuid};

use super::*;

#[derive(Debug)]
struct Nobody;

impl Authority for Nobody {
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a> {
        panic!("asked {question:?}")
    }
}

fn control(directory: &Path, sockets: &[&str]) -> Arc<AccessControl> {
    let sockets: Vec<PathBuf> = sockets.iter().map(PathBuf::from).collect();
    AccessControl::new(directory, &sockets, Arc::new(Nobody))
}

#[test]
fn the_daemon_in_whose_place_we_are_says_whether_to_ask() {
    let modular = ["/run/libvirt/virtstoraged-sock", "/run/libvirt/virtstoraged-sock-ro"];
    let monolithic = ["/run/libvirt/libvirt-sock", "/run/libvirt/libvirt-sock-ro"];
    let dir = tempfile::tempdir().unwrap();
    for sockets in [&modular, &monolithic] {
        assert!(!control(dir.path(), sockets).asks(), "without a file");
    }
    fs::write(dir.path().join("libvirtd.conf"), "access_drivers = [ \"polkit\" ]").unwrap();
    assert!(control(dir.path(), &monolithic).asks());
    assert!(!control(dir.path(), &modular).asks(), "libvirtd does not run there");
    // Where it cannot be seen, one that asks is enough.
    for sockets in [&[][..], &["/tmp/sock"], &[modular[0], monolithic[1]]] {
        assert!(control(dir.path(), sockets).asks(), "{sockets:?}");
    }
    // It is read anew each time.
    let asks = control(dir.path(), &modular);
    fs::write(dir.path().join("virtstoraged.conf"), "access_drivers = [ 'none', 'x' ]").unwrap();
    assert!(asks.asks(), "a driver that we do not know");
    fs::remove_file(dir.path().join("virtstoraged.conf")).unwrap();
    fs::create_dir(dir.path().join("virtstoraged.conf")).unwrap();
    assert!(asks.asks(), "a file that cannot be read");
}

#[tokio::test]
async fn root_and_nobody_are_not_polkits_to_judge() {
    let dir = tempfile::tempdir().unwrap();
    let root = Caller { uid: 0, pid: 1, start_time: 1 };
    let guard = Guard::new(control(dir.path(), &[]), "storage", Some(root));
    let read = Permission::Pool("read");
    assert_eq!(guard.verdict(read, &Object::Connection).await, Verdict::Yes);
    guard.set_caller(None);
    assert_eq!(guard.verdict(read, &Object::Connection).await, Verdict::No);
}

#[tokio::test]
async fn drivers_have_the_names_that_rules_know_and_others_are_not_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let guard = |kind| Guard::new(control(dir.path(), &[]), kind, None);
    for (kind, name) in [("QEMU", "QEMU"), ("BHYVE", "bhyve"), ("storage", "storage")] {
        let denied = guard(kind).opens(Procedure::ConnectOpen.permissions()).await.unwrap_err();
        let said = format!("access denied: '{name}' denied access");
        assert_eq!(denied.message.as_deref(), Some(&*said));
    }
    guard("Test").opens(Procedure::ConnectOpen.permissions()).await.unwrap();
}

#[test]
fn details_are_libvirts() {
    let pool = StoragePool { name: "vms".to_owned(), uuid: Uuid([1; 16]) };
    let uuid = "01010101-0101-0101-0101-010101010101";
    let shown = |object: &Object| {
        let details = object.details("QEMU").into_iter();
        details.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(&Object::Connection), "connect_driver=QEMU");
    let of_pool = format!("connect_driver=QEMU pool_name=vms pool_uuid={uuid}");
    assert_eq!(shown(&Object::Pool(pool.clone())), of_pool);
    let volume = |key| Object::Volume { pool: pool.clone(), name: "v".to_owned(), key };
    assert_eq!(shown(&volume(Some("k".to_owned()))), format!("{of_pool} vol_name=v vol_key=k"));
    assert_eq!(shown(&volume(None)), format!("{of_pool} vol_name=v"));
}
