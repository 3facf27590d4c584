// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a file or a block device of this host is on storage that other hosts have, too.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Whether other hosts have it, too: it is on a network file system, or is a device that is reached over a
/// network. libvirt, too, takes such a file for the same one on both hosts.
pub(crate) fn has(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    if metadata.file_type().is_block_device() {
        let device = numbers(metadata.rdev());
        return over_network(&Path::new("/sys/dev/block").join(device));
    }
    let device = numbers(metadata.dev());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| is_shared_mount(line, &device))
}

/// `MOUNT PARENT MAJOR:MINOR ... - TYPE SOURCE OPTIONS` (`man 5 proc_pid_mountinfo`).
fn is_shared_mount(line: &str, device: &str) -> bool {
    const SHARED: [&str; 8] =
        ["nfs", "nfs4", "cifs", "smb3", "gfs2", "ocfs2", "ceph", "fuse.glusterfs"];
    let Some((head, tail)) = line.split_once(" - ") else { return false };
    let kind = tail.split(' ').next().unwrap_or_default();
    head.split(' ').nth(2) == Some(device) && SHARED.contains(&kind)
}

/// `MAJOR:MINOR`. How Linux puts both into one number: `gnu_dev_major`, `gnu_dev_minor` in glibc.
fn numbers(device: u64) -> String {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    format!("{major}:{minor}")
}

/// Whether a block device, by its directory in `/sys`, is reached over a network: by iSCSI, Fibre Channel,
/// NVMe over fabrics or RBD. One that lies on others (multipath, LVM) is where all of them are.
fn over_network(device: &Path) -> bool {
    let Ok(device) = device.canonicalize() else { return false };
    let below: Vec<_> = entries(&device.join("slaves"));
    if !below.is_empty() {
        return below.iter().all(|below| over_network(below));
    }
    let names = || device.iter().filter_map(|name| name.to_str());
    names().any(is_network_bus)
        || names().any(|name| name.starts_with("nvme-subsys")) && nvme(&device)
}

/// Directories in `/sys/devices` below which there are only devices that are reached over a network:
/// `scsi_transport_iscsi.c`, `scsi_transport_fc.c`, `nvme/host/fabrics.c` and `rbd.c` in Linux make them.
fn is_network_bus(name: &str) -> bool {
    let numbered = |prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    numbered("session") || numbered("rport-") || ["nvme-fabrics", "rbd"].contains(&name)
}

/// Whether all controllers of the NVMe subsystem that a namespace is in are reached over a network.
fn nvme(namespace: &Path) -> bool {
    let subsystem = namespace.ancestors().find(|dir| {
        dir.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("nvme-subsys"))
    });
    let links = subsystem.map(entries).unwrap_or_default();
    let transports: Vec<_> = links
        .iter()
        .filter_map(|controller| fs::read_to_string(controller.join("transport")).ok())
        .collect();
    !transports.is_empty()
        && transports.iter().all(|kind| ["tcp", "rdma", "fc"].contains(&kind.trim()))
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn shared_mounts_are_known_by_type() {
        let line = "36 35 0:52 / /mnt rw shared:1 - nfs4 host:/export rw";
        assert!(is_shared_mount(line, "0:52"));
        assert!(!is_shared_mount(line, "0:5"));
        assert!(!is_shared_mount("36 35 8:1 / /mnt rw - ext4 /dev/sda1 rw", "8:1"));
    }

    #[test]
    fn numbers_are_those_of_sys() {
        assert_eq!(numbers(0x0801), "8:1");
        assert_eq!(numbers(0x0010_fd02), "253:258");
    }

    #[test]
    fn devices_are_known_by_how_they_are_reached() {
        for (device, shared) in [
            ("devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda", true),
            ("devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda/sda1", true),
            ("devices/pci0/host5/rport-5:0-2/target5:0:0/5:0:0:1/block/sdb", true),
            ("devices/virtual/nvme-fabrics/ctl/nvme0/nvme0n1", true),
            ("devices/rbd/0/block/rbd0", true),
            ("devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sdc", false),
            ("devices/pci0/nvme/nvme0/nvme0n1", false),
            ("devices/virtual/block/loop0", false),
        ] {
            let sys = tempfile::tempdir().unwrap();
            let device = sys.path().join(device);
            fs::create_dir_all(&device).unwrap();
            assert_eq!(over_network(&device), shared, "{}", device.display());
        }
        assert!(!over_network(Path::new("/sys/dev/block/no-such-device")));
    }

    #[test]
    fn what_lies_on_others_is_where_all_of_them_are() {
        let sys = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let san = make("devices/platform/host3/session1/block/sda");
        let local = make("devices/pci0/block/sdb");
        let multipath = make("devices/virtual/block/dm-0/slaves");
        symlink(san, multipath.join("sda")).unwrap();
        let lv = make("devices/virtual/block/dm-1/slaves");
        let (multipath, on) = (multipath.parent().unwrap(), lv.parent().unwrap());
        symlink(multipath, lv.join("dm-0")).unwrap();
        assert!(over_network(multipath) && over_network(on));
        symlink(local, lv.join("sdb")).unwrap();
        assert!(!over_network(on));
    }

    #[test]
    fn an_nvme_subsystem_is_where_its_controllers_are() {
        for (transports, shared) in
            [(&["tcp", "tcp"][..], true), (&["tcp", "pcie"], false), (&[], false)]
        {
            let sys = tempfile::tempdir().unwrap();
            let subsystem = sys.path().join("devices/virtual/nvme-subsystem/nvme-subsys0");
            let namespace = subsystem.join("nvme0n1");
            fs::create_dir_all(&namespace).unwrap();
            for (number, transport) in transports.iter().enumerate() {
                let controller = subsystem.join(format!("nvme{number}"));
                fs::create_dir(&controller).unwrap();
                fs::write(controller.join("transport"), format!("{transport}\n")).unwrap();
            }
            assert_eq!(over_network(&namespace), shared, "{transports:?}");
        }
    }
}
