// SPDX-License-Identifier: LGPL-2.1-or-later
//! `hook`: libvirt's hook for QEMU guests.
//!
//! Before a guest starts here, or comes here by migration, its volumes in pools of type `notify` are
//! made active. There is nothing to do when it has ended: a volume's device is there as long as its
//! pool is active, and holds nothing that others need.
//!
//! libvirt gives the guest's XML on standard input and waits. A failure keeps the guest from starting,
//! and standard error becomes part of libvirt's error. Standard output stays empty: on a migration it
//! would replace the guest's XML. libvirt holds the guest meanwhile, so neither this program nor what
//! it asks of virtnotifyd may call libvirt. It asks over the private socket: a guest starts whether there is
//! a D-Bus or not.
//!
//! A guest without such a volume needs nothing of us, whether virtnotifyd runs or not.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use tokio::task::spawn_blocking;
use virtnotify_driver::xml::{Element, Limits};
use virtnotify_model::{Guest, PoolName, Storage as _, VolumeName};
use virtnotify_remote::RemoteStorage;

use crate::args::{HookArgs, code};
use crate::client::Problem;

/// How long virtnotifyd may take: the guest's start waits meanwhile.
const LIMIT: Duration = Duration::from_secs(20);
/// The directory of all pools' volumes.
const DEVICES: &str = "/dev/notify/";

/// `hook`.
pub async fn run(args: &HookArgs) -> Result<u8, Problem> {
    let (operation, part) = (args.operation.as_str(), args.sub_operation.as_str());
    if !matches!((operation, part), ("prepare" | "migrate", "begin")) {
        return Ok(code::FINE);
    }
    let guest = args.guest.escape_debug();
    let disks = read_guest().map_err(|why| {
        Problem::Cannot(format!(
            "the disks of the guest '{guest}' cannot be read from its XML: {why}"
        ))
    })?;
    if !any_is_ours(&disks, &pools()) {
        return Ok(code::FINE);
    }
    ask(args, &disks).await.map_err(|why| {
        Problem::Cannot(format!("the volumes of the guest '{guest}' cannot be made active: {why}"))
    })?;
    Ok(code::FINE)
}

async fn ask(args: &HookArgs, disks: &[Disk]) -> Result<(), Problem> {
    let names = |of: &dyn Fn(&Disk) -> bool| -> Vec<String> {
        disks.iter().filter(|disk| of(disk)).map(|disk| disk.volume.clone()).collect()
    };
    let (volumes, cached) = (names(&|_| true), names(&|disk| disk.cached));
    let guest = Guest { name: args.guest.clone(), volumes, cached };
    let storage = RemoteStorage::asking(&args.storage);
    let asked = spawn_blocking(move || storage.guest_starts(&guest));
    let late = |_| Problem::Cannot(format!("virtnotifyd did not answer in {} s", LIMIT.as_secs()));
    let lost = |error| Problem::Cannot(format!("a thread was lost: {error}"));
    let answer = tokio::time::timeout(LIMIT, asked).await.map_err(late)?.map_err(lost)?;
    answer.map_err(|why| Problem::Cannot(why.to_string()))
}

/// The names of the pools that are defined or active, as virtnotifyd has written them down.
fn pools() -> BTreeSet<String> {
    let all = virtnotify_driver::pools_on_disk(virtnotify_driver::Paths::default());
    all.into_iter().map(|pool| pool.name).collect()
}

/// Whether a disk has a path of ours, or lies in one of these pools.
fn any_is_ours(disks: &[Disk], pools: &BTreeSet<String>) -> bool {
    let ours = |volume: &str| match volume.split_once('/') {
        Some((pool, _)) if !volume.starts_with(DEVICES) => pools.contains(pool),
        _ => true,
    };
    disks.iter().any(|disk| ours(&disk.volume))
}

/// A disk that may be ours: virtnotifyd leaves out pools that it does not know.
#[derive(Debug, PartialEq, Eq)]
pub struct Disk {
    /// `/dev/notify/POOL/VOLUME`, or `POOL/VOLUME` where the XML names pool and volume.
    pub volume: String,
    /// It goes through the host's page cache. At the end of the space its guest would get I/O errors,
    /// of which virtnotifyd warns.
    cached: bool,
}

fn read_guest() -> Result<Vec<Disk>, String> {
    let most = u64::try_from(Limits::GUEST.size).unwrap_or(u64::MAX);
    let mut text = String::new();
    let read = std::io::stdin().lock().take(most.saturating_add(1)).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    disks(&text)
}

/// The disks of a guest that may be ours. Elements that users keep in `<metadata>` are no disks.
fn disks(xml: &str) -> Result<Vec<Disk>, String> {
    // A guest without an XML has no disk; libvirt's other callers of hooks send none.
    if xml.trim().is_empty() {
        return Ok(Vec::new());
    }
    let guest = Element::parse_within(xml, Limits::GUEST).map_err(|error| error.to_string())?;
    let devices = guest.children("devices").flat_map(|devices| devices.children("disk"));
    Ok(devices.filter_map(disk).collect())
}

/// A disk, if it may be ours.
pub fn disk(disk: &Element) -> Option<Disk> {
    let source = disk.child("source")?;
    let volume = match source.attribute("dev") {
        Some(path) => {
            ours(path.strip_prefix(DEVICES)?)?;
            path.to_owned()
        }
        None => {
            let named = format!("{}/{}", source.attribute("pool")?, source.attribute("volume")?);
            ours(&named)?;
            named
        }
    };
    let cache = disk.child("driver").and_then(|driver| driver.attribute("cache"));
    Some(Disk { volume, cached: !matches!(cache, Some("none" | "directsync")) })
}

/// Whether POOL/VOLUME can be names of ours.
fn ours(names: &str) -> Option<(PoolName, VolumeName)> {
    let (pool, volume) = names.split_once('/')?;
    Some((pool.parse().ok()?, volume.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(devices: &str) -> String {
        format!(
            "<domain type='kvm' id='1'><name>guest</name>\
             <description>text &lt;disk>&lt;source dev='/dev/notify/x/y'/></description>\
             <metadata><app:x xmlns:app=\"http://example.org\"><disk><source dev='/dev/notify/m/d'/></disk>\
             <metadata/><source pool='meta' volume='data'/></app:x></metadata>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}\
             <interface type='direct'><source dev='/dev/notify/not/adisk' mode='bridge'/></interface>\
             </devices></domain>"
        )
    }

    fn found(devices: &str) -> Vec<(String, bool)> {
        let disks = disks(&guest(devices)).unwrap();
        disks.into_iter().map(|disk| (disk.volume, disk.cached)).collect()
    }

    #[test]
    fn disks_of_ours_are_found_by_path_and_by_name() {
        let ours = "<disk type='volume'><driver name='qemu' type='raw' cache='none'/>\
                    <source pool='vms' volume='disk0'/></disk>\
                    <disk type='block'><source dev='/dev/notify/vms/a.b-c+d_e' index='2'>\
                    <seclabel model='dac' relabel='no'/></source></disk>\
                    <disk type='block'><driver cache='directsync'/>\
                    <source dev='/dev/notify/vms/d'/></disk>";
        let expected = [
            ("vms/disk0", false),
            ("/dev/notify/vms/a.b-c+d_e", true),
            ("/dev/notify/vms/d", false),
        ];
        assert_eq!(found(ours), expected.map(|(name, cached)| (name.to_owned(), cached)));
    }

    #[test]
    fn a_named_disk_is_ours_when_its_pool_is() {
        let pools = BTreeSet::from(["vms".to_owned()]);
        let ours = |volume: &str| {
            let xml = match volume.strip_prefix(DEVICES) {
                Some(_) => format!("<disk><source dev='{volume}'/></disk>"),
                None => {
                    let (pool, volume) = volume.split_once('/').unwrap();
                    format!("<disk><source pool='{pool}' volume='{volume}'/></disk>")
                }
            };
            any_is_ours(&disks(&guest(&xml)).unwrap(), &pools)
        };
        assert!(ours("vms/disk0") && ours("/dev/notify/gone/disk0"));
        assert!(!ours("default/disk0.qcow2") && !any_is_ours(&[], &pools));
    }

    #[test]
    fn other_disks_are_left_alone() {
        let others = "<disk type='file' device='cdrom'><source file='/dev/notify/vms/file'/></disk>\
                      <disk type='block'><source dev='/dev/vg0/lv'/></disk>\
                      <disk type='block'><source dev='/dev/notify/vms/$(touch x)'/></disk>\
                      <disk type='block'><source dev='/dev/notify/vms/../x'/></disk>\
                      <disk type='block'><source dev='/dev/notify/-vms/x'/></disk>\
                      <disk type='volume'><source pool='-x' volume='a b'/></disk>\
                      <disk type='volume'><source pool='x'/></disk>\
                      <disk type='file'><target dev='sda' bus='sata'/></disk>\
                      <disk><mirror><source dev='/dev/notify/vms/mirror'/></mirror></disk>";
        assert_eq!(found(others), []);
        assert_eq!(disks("").unwrap(), []);
    }

    #[test]
    fn the_longest_chain_of_images_is_read() {
        let (open, close) = ("<backingStore type='file'><source file='x'/>", "</backingStore>");
        let chain = format!(
            "<disk><source dev='/dev/notify/vms/d'/>{}{}</disk>",
            open.repeat(200),
            close.repeat(200)
        );
        assert_eq!(found(&chain).len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(disks("<domain><devices>").is_err());
        assert!(disks("<!DOCTYPE domain><domain/>").unwrap_err().contains("document type"));
    }
}
