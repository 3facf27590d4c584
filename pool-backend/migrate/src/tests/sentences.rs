// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operator reads when a move that was asked for is refused, word for word.

use super::*;
use std::collections::BTreeSet;

use virtnotify_model::ChunkSize;

use crate::domain::{Disk, DiskSource, Domain};
use crate::hypervisor::Holds;

/// A VM that runs here, a peer that could take it, and nothing that moves by itself.
pub(super) fn quiet() -> Lab {
    let lab = low(1);
    lab.world(|w| {
        w.policy.at_low_mark = AtLowMark::Warn;
        w.available = 1000 << 20;
    });
    lab
}

/// Why a VM is not moved.
fn refused(process: &Process, vm: &str, to: Option<&str>) -> String {
    let sentence = process.ask(vm, to).unwrap_err();
    let reason = sentence.strip_prefix(&format!("'{vm}' is not moved: "));
    reason.unwrap_or_else(|| panic!("{sentence}")).to_owned()
}

/// The sentence after a change, and that nothing came of the question.
fn said_after(change: impl FnOnce(&mut World)) -> String {
    let lab = quiet();
    lab.world(change);
    let process = lab.start(1);
    let reason = refused(&process, "guest1", None);
    assert!(lab.journal_is_empty() && process.moves.list().is_empty());
    assert_eq!(lab.world(|w| w.peers["host2"].volumes.len()), 0, "{reason}");
    lab.no_wrongs();
    reason
}

fn with_vm(change: impl FnOnce(&mut Domain)) -> String {
    said_after(|world| change(world.domains.get_mut(&VM).unwrap()))
}

fn with_disk(change: impl FnOnce(&mut Disk)) -> String {
    with_vm(|vm| change(&mut vm.disks[0]))
}

fn with_second_disk(source: DiskSource) -> String {
    let disk = Disk::new("vdb", source);
    with_vm(|vm| vm.disks.push(disk))
}

fn with_peer(change: impl FnOnce(&mut Side)) -> String {
    said_after(|world| change(world.peers.get_mut("host2").unwrap()))
}

#[test]
fn of_a_vm_in_a_state_that_does_not_move() {
    let of = |state| {
        with_vm(|vm| {
            vm.state = state;
            vm.no_space.clear();
        })
    };
    assert_eq!(of(RunState::Off), "it does not run");
    assert_eq!(of(RunState::Arriving), "it is arriving from another host");
    assert_eq!(of(RunState::Paused), "a person paused it, and a move would resume it there");
    assert_eq!(of(RunState::IoError), "an I/O error paused it, and not the end of space");
}

#[test]
fn of_a_vm_with_a_disk_that_cannot_go() {
    assert_eq!(
        with_disk(|disk| disk.shared = true),
        "its disk vda is shared with other VMs, which stay here"
    );
    assert_eq!(
        with_disk(|disk| disk.luks = true),
        "its disk vda is encrypted by QEMU (<encryption>), and libvirt copies no such disk"
    );
    assert_eq!(
        with_disk(|disk| disk.read_only = true),
        "its disk vda is read-only, and libvirt copies no such disk"
    );
    assert_eq!(
        with_disk(|disk| disk.source = DiskSource::Network),
        "it has no disk on a notify volume"
    );
    let stays = "on this host only, and not copied by a move";
    assert_eq!(
        with_second_disk(DiskSource::Path("/no/such/image.qcow2".into())),
        format!("its disk vdb is '/no/such/image.qcow2': {stays}")
    );
    let plain = DiskSource::Volume { pool: "plain".into(), volume: "a".into() };
    assert_eq!(
        with_second_disk(plain),
        format!(
            "its disk vdb is the volume 'a' of the pool 'plain', which is not of type notify: {stays}"
        )
    );
    assert_eq!(
        with_second_disk(DiskSource::Other("vhostuser".into())),
        format!("its disk vdb is of type 'vhostuser': {stays}")
    );
}

#[test]
fn of_a_policy_or_a_wish_that_keeps_it_here() {
    assert_eq!(
        said_after(|world| world.policy.movable = false),
        "the policy of its pool 'vms' says that VMs are not to be moved"
    );
    assert_eq!(
        with_vm(|vm| vm.wishes.only = ["host9".into()].into()),
        "no peer can take it: host2 is not among the peers that its <metadata> names"
    );
}

#[test]
fn of_a_peer_that_cannot_take_it() {
    let none = |reason: &str| format!("no peer can take it: host2 {reason}");
    assert_eq!(
        with_peer(|side| side.unreachable = true),
        none("cannot be asked: libvirt on host2 cannot be reached: no route to host")
    );
    assert_eq!(
        with_peer(|side| drop(side.domains.insert(VM, domain("guest1", 1)))),
        none("has a VM of the same UUID already")
    );
    let room =
        "has 0 bytes left in its pool 'vms', and 40.00 MiB are to come and 256.00 MiB to stay free";
    assert_eq!(with_peer(|side| side.available = 0), none(room));
}

#[test]
fn of_a_peer_with_a_vm_from_which_it_keeps_apart() {
    let apart = || BTreeSet::from(["db".to_owned()]);
    let of = |lab: &Lab| {
        lab.world(|w| {
            let mut there = domain("guest9", 9);
            there.wishes.apart = apart();
            w.peers.get_mut("host2").unwrap().domains.insert(Uuid::from_u128(9), there);
            w.domains.get_mut(&VM).unwrap().wishes.apart = apart();
        });
        lab.start(1)
    };
    let lab = quiet();
    let process = of(&lab);
    let why = "no peer can take it: host2 has 'guest9', and the group 'db' is to keep apart";
    assert_eq!(refused(&process, "guest1", None), why);
    // One that is off is on no host.
    let is = |state| {
        lab.world(|w| {
            let there = &mut w.peers.get_mut("host2").unwrap().domains;
            there.get_mut(&Uuid::from_u128(9)).unwrap().state = state;
        });
        process.now(process.moves.preview("guest1", None)).unwrap().to
    };
    assert_eq!(is(RunState::Off).as_deref(), Some("host2"));
    assert_eq!(is(RunState::Paused), None);
    // A person may know better.
    process.ask("guest1", Some("host2")).unwrap();
    // One that waits for space would rather share a host, also with VMs that are not known.
    for hides in [false, true] {
        let lab = Lab::new(1, &["host2"]);
        lab.world(|w| w.peers.get_mut("host2").unwrap().hides = hides);
        let process = of(&lab);
        assert!(process.until(|| lab.is_moved("host2")), "{hides}");
    }
}

#[test]
fn of_a_peer_with_a_volume_of_its_name() {
    let lab = quiet();
    let other = RemoteVolume { key: "x".into(), capacity: Bytes::mib(512), allocation: Bytes(0) };
    lab.world(|w| w.peers.get_mut("host2").unwrap().volumes.insert("disk0".into(), other));
    let process = lab.start(1);
    let taken = "no peer can take it: host2 has a volume 'disk0' in its pool 'vms' already";
    assert_eq!(refused(&process, "guest1", None), taken);
    assert_eq!(lab.world(|w| w.peers["host2"].volumes["disk0"].key.clone()), "x");
}

#[test]
fn of_a_peer_that_is_not_configured() {
    let unknown = |peers: &[&str]| {
        let mut lab = quiet();
        lab.peers.retain(|peer| peers.contains(&peer.name.as_str()));
        refused(&lab.start(1), "guest1", Some("host3"))
    };
    assert_eq!(unknown(&["host2"]), "'host3' is no configured peer: there are host2");
    assert_eq!(unknown(&[]), "'host3' is no configured peer, and there are none");
}

#[test]
fn of_a_vm_that_is_on_its_way_and_of_a_host_that_sends_enough() {
    let lab = low(2);
    lab.world(|w| {
        w.policy.at_low_mark = AtLowMark::Warn;
        (w.available, w.endless) = (1000 << 20, true);
    });
    let process = lab.start(1);
    process.ask("guest1", None).unwrap();
    let again = refused(&process, "guest1", None);
    let second = refused(&process, "guest2", None);
    lab.world(|w| w.endless = false);
    assert_eq!(again, "it is being moved already");
    assert_eq!(second, "no more than 1 may leave this host at once");
    assert!(process.until(|| lab.journal_is_empty()));
    lab.no_wrongs();
}

#[test]
fn of_a_peer_that_lacks_what_the_vm_uses() {
    let said = said_after(|world| {
        world.domains.get_mut(&VM).unwrap().surroundings.networks.insert("lan".into());
    });
    let lacks = "no peer can take it: host2 has no network 'lan' that is started, and the VM is connected to it";
    assert_eq!(said, lacks);
    let said = said_after(|world| {
        world.domains.get_mut(&VM).unwrap().surroundings.secrets.insert(Uuid::from_u128(5));
    });
    assert_eq!(
        said,
        "no peer can take it: host2 has no secret 00000000-0000-0000-0000-000000000005 \
         (`virsh secret-list`), and the VM needs it"
    );
    assert_eq!(
        with_peer(|side| side.memory = Some(Bytes::mib(100))),
        "no peer can take it: host2 has 100.00 MiB of memory left, and the VM has 128.00 MiB"
    );
}

#[test]
fn of_a_vm_of_which_libvirt_has_what_its_xml_does_not_tell() {
    let of = |holds: Holds| said_after(|world| world.holds = holds);
    assert_eq!(
        of(Holds { snapshots: 1, ..Holds::default() }),
        "it has snapshots of libvirt's own (`virsh snapshot-list`), and libvirt moves no such VM"
    );
    assert_eq!(
        of(Holds { checkpoints: 1, ..Holds::default() }),
        "it has checkpoints of libvirt's own (`virsh checkpoint-list`), which do not go with it"
    );
    assert_eq!(
        of(Holds { job_of: Some("vda".into()), ..Holds::default() }),
        "libvirt is at work on its disk vda (`virsh blockjob` tells of it)"
    );
}

#[test]
fn of_a_host_that_cannot_encrypt_what_is_to_be_encrypted() {
    assert_eq!(
        said_after(|world| world.without_certificate = true),
        "moves are to be encrypted (`tls` in virtnotify.toml), and there is no \
         '/etc/pki/qemu/client-key.pem' on this host"
    );
}

#[test]
fn of_a_peer_that_cannot_make_the_vm_or_has_another_kind_of_pool() {
    let none = |reason: &str| format!("no peer can take it: host2 {reason}");
    let words = "the machine 'pc-q35-9.2' is not supported by emulator '/usr/bin/qemu'";
    assert_eq!(
        with_peer(|side| side.without_machine = Some(words.into())),
        none(&format!("has no machine like the VM's: {words}"))
    );
    assert_eq!(
        with_peer(|side| side.without_cpu = true),
        none("cannot make the VM's CPU (`virsh hypervisor-cpu-compare`)")
    );
    let image = crate::domain::Image { pool: "iso".into(), volume: "a.iso".into() };
    assert_eq!(
        with_peer(|side| side.without_image = Some(image)),
        none("lacks the volume 'a.iso' of the pool 'iso', which a disk of the VM is read from")
    );
    assert_eq!(
        with_peer(|side| side.other_pool = true),
        none("has a pool 'vms' that is not of type notify")
    );
}

/// The disk holds ten chunks of 4 MiB, each of which may come to lie in one of 64 MiB.
#[test]
fn of_a_peer_whose_chunks_are_larger() {
    let said = with_peer(|side| {
        side.chunk = ChunkSize::new(Bytes::mib(64)).ok();
        side.available = 700 << 20;
    });
    let room = "has 700.00 MiB left in its pool 'vms', and 512.00 MiB are to come and 256.00 MiB to stay free";
    assert_eq!(said, format!("no peer can take it: host2 {room}"));
}

#[test]
fn of_nothing_where_the_peer_has_what_the_vm_uses() {
    let lab = quiet();
    lab.world(|world| {
        let vm = world.domains.get_mut(&VM).unwrap();
        vm.surroundings.networks.insert("lan".into());
        vm.surroundings.huge_pages = true;
        vm.surroundings.secrets.insert(Uuid::from_u128(5));
        let side = world.peers.get_mut("host2").unwrap();
        side.networks.insert("lan".into());
        side.secrets.insert(Uuid::from_u128(5));
        // It sets huge pages aside, of which this says nothing.
        side.memory = Some(Bytes::ZERO);
    });
    let process = lab.start(1);
    process.ask("guest1", None).unwrap();
    lab.no_wrongs();
}
