// SPDX-License-Identifier: LGPL-2.1-or-later
//! How libvirt is asked to migrate: flags and parameters of `virDomainMigrateToURI3`.

use std::ffi::CStr;
use std::net::IpAddr;

use virt::sys;
use virtnotify_model::Bytes;

use super::failure::Failure;
use super::params::Params;
use crate::hypervisor::Order;

/// The flags. The VM arrives paused: where the reply that says so is lost, libvirt lets it run on here
/// (`qemuMigrationSrcPerformPeer2Peer3`), and then it must not run there. One that changes its memory faster
/// than it is copied is slowed down, or the move would not end. Not `ABORT_ON_ERROR`: the VM is paused by an
/// I/O error.
pub(super) fn flags(order: &Order<'_>) -> u32 {
    let mut flags = sys::VIR_MIGRATE_LIVE
        | sys::VIR_MIGRATE_PAUSED
        | sys::VIR_MIGRATE_PEER2PEER
        | sys::VIR_MIGRATE_NON_SHARED_DISK
        | sys::VIR_MIGRATE_AUTO_CONVERGE;
    if order.persistent {
        flags |= sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
    }
    // A guest that writes all the time is slowed down to what is copied, or the move would not end.
    if order.copying.synchronous {
        flags |= sys::VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES;
    }
    if order.wire.tls {
        flags |= sys::VIR_MIGRATE_TLS;
    }
    if order.wire.connections.get() > 1 {
        flags |= sys::VIR_MIGRATE_PARALLEL;
    }
    flags
}

/// The parameters. The peer's certificate must be for the name `certified`, whatever address is used.
pub(super) fn params(order: &Order<'_>, certified: Option<&str>) -> Result<Params, Failure> {
    let mut params = Params::default();
    let mut lists: Vec<&CStr> = vec![sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS];
    if !order.copying.whole {
        lists.push(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS_DETECT_ZEROES);
    }
    for list in lists {
        for disk in order.disks {
            params.add(list, disk)?;
        }
    }
    if let Some(bandwidth) = order.bandwidth {
        params.add_number(sys::VIR_MIGRATE_PARAM_BANDWIDTH, mib_per_second(bandwidth))?;
    }
    if let Some(address) = order.peer.address {
        params.add(sys::VIR_MIGRATE_PARAM_URI, &destination(address))?;
        params.add(sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS, &address.to_string())?;
    }
    if let Some(name) = certified {
        params.add(sys::VIR_MIGRATE_PARAM_TLS_DESTINATION, name)?;
    }
    let connections = order.wire.connections.get();
    if connections > 1 {
        params.add_int(sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, connections.into())?;
    }
    Ok(params)
}

fn destination(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("tcp://{address}"),
        IpAddr::V6(address) => format!("tcp://[{address}]"),
    }
}

/// What libvirt counts bandwidths in; a limit is never none.
fn mib_per_second(bandwidth: Bytes) -> u64 {
    (bandwidth.0 >> 20).max(1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::hypervisor::{Copying, Peer, Wire};

    fn order<'a>(peer: &'a Peer, disks: &'a [String], wire: Wire) -> Order<'a> {
        let uuid = Uuid::from_u128(1);
        let (persistent, bandwidth, copying) = (true, None, Copying::default());
        Order { uuid, peer, disks, persistent, bandwidth, copying, wire }
    }

    fn peer(address: Option<IpAddr>) -> Peer {
        Peer { name: "host2".into(), uri: "qemu+ssh://host2/system".into(), arrivals: 1, address }
    }

    #[test]
    fn a_vm_arrives_paused_whatever_becomes_of_its_definition() {
        let (peer, disks) = (peer(None), ["vda".to_owned()]);
        for persistent in [false, true] {
            let order = Order { persistent, ..order(&peer, &disks, Wire::default()) };
            assert_ne!(flags(&order) & sys::VIR_MIGRATE_PAUSED, 0);
            assert_eq!(flags(&order) & sys::VIR_MIGRATE_UNDEFINE_SOURCE != 0, persistent);
        }
    }

    #[test]
    fn what_the_guest_writes_meanwhile_goes_to_both_where_libvirt_knows_how() {
        let (peer, disks) = (peer(None), ["vda".to_owned()]);
        for synchronous in [false, true] {
            let copying = Copying { synchronous, ..Copying::default() };
            let order = Order { copying, ..order(&peer, &disks, Wire::default()) };
            let both = flags(&order) & sys::VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES;
            assert_eq!(both != 0, synchronous);
        }
    }

    #[test]
    fn by_default_libvirt_chooses_address_and_port_and_sends_in_clear() {
        let (peer, disks) = (peer(None), ["vda".to_owned()]);
        let order = order(&peer, &disks, Wire::default());
        assert_eq!(flags(&order) & (sys::VIR_MIGRATE_TLS | sys::VIR_MIGRATE_PARALLEL), 0);
        let params = params(&order, None).unwrap();
        for name in [
            sys::VIR_MIGRATE_PARAM_URI,
            sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS,
            sys::VIR_MIGRATE_PARAM_TLS_DESTINATION,
        ] {
            assert_eq!(params.text(name), None, "{name:?}");
        }
        assert_eq!(params.int(sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS), None);
    }

    #[test]
    fn an_address_is_the_only_one_and_a_certificate_is_checked_for_the_host_s_name() {
        let disks = ["vda".to_owned()];
        let wire = Wire { tls: true, connections: 4.try_into().unwrap() };
        for (address, uri) in [("10.0.0.2", "tcp://10.0.0.2"), ("fd00::2", "tcp://[fd00::2]")] {
            let peer = peer(Some(address.parse().unwrap()));
            let order = order(&peer, &disks, wire);
            let wanted = sys::VIR_MIGRATE_TLS | sys::VIR_MIGRATE_PARALLEL;
            assert_eq!(flags(&order) & wanted, wanted);
            let params = params(&order, Some("host2.lan")).unwrap();
            let text = |name| params.text(name);
            assert_eq!(text(sys::VIR_MIGRATE_PARAM_URI).as_deref(), Some(uri));
            assert_eq!(text(sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS).as_deref(), Some(address));
            let name = text(sys::VIR_MIGRATE_PARAM_TLS_DESTINATION);
            assert_eq!(name.as_deref(), Some("host2.lan"));
            assert_eq!(params.int(sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS), Some(4));
        }
    }

    #[test]
    fn a_limit_is_never_none() {
        assert_eq!([0, 1, 5 << 20].map(|bytes| mib_per_second(Bytes(bytes))), [1, 1, 5]);
    }
}
