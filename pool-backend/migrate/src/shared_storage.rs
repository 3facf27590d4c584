// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a path of this host is, on each other host on which it can be opened, the same file or disk, and whether it is
//! one of this host alone.
//!
//! A wrong "shared" gives a VM another disk of the same name, so only that is taken for shared of which no other
//! host can have another: files on a network file system, and disks of a storage network under a name that
//! says which disk it is. LVM over such a disk is not among them: what the peer's kernel knows of it may be old.
//!
//! A wrong "local" deletes a file that a VM elsewhere needs, so only that is taken for local which is there, and on a file
//! system that one host alone mounts. Of what is neither, nothing is known.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Whether the peer has the same under this name, or nothing.
pub(crate) fn has(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    if metadata.file_type().is_block_device() {
        let device = Path::new("/sys/dev/block").join(numbers(metadata.rdev()));
        return says_which(path) && device.canonicalize().is_ok_and(|device| on_network(&device));
    }
    let device = numbers(metadata.dev());
    mounts().lines().any(|line| is_mount(line, &device, &SHARED))
}

/// Whether the file or directory is there, and no other host has it.
pub(crate) fn is_local(path: &Path) -> bool {
    is_local_in(path, &mounts())
}

fn is_local_in(path: &Path, mounts: &str) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    let device = numbers(metadata.dev());
    let kept = metadata.is_file() || metadata.is_dir();
    kept && mounts.lines().any(|line| is_mount(line, &device, &LOCAL))
}

/// File systems that many hosts mount. libvirt, too, takes a file on one of these for the same one on both hosts.
const SHARED: [&str; 8] =
    ["nfs", "nfs4", "cifs", "smb3", "gfs2", "ocfs2", "ceph", "fuse.glusterfs"];
/// File systems that break where a second host mounts them.
const LOCAL: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs"];

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// `MOUNT PARENT MAJOR:MINOR ... - TYPE SOURCE OPTIONS` (`man 5 proc_pid_mountinfo`).
fn is_mount(line: &str, device: &str, kinds: &[&str]) -> bool {
    let Some((head, tail)) = line.split_once(" - ") else { return false };
    let kind = tail.split(' ').next().unwrap_or_default();
    head.split(' ').nth(2) == Some(device) && kinds.contains(&kind)
}

/// `MAJOR:MINOR`, as `/sys` and the list of mounts have it.
fn numbers(device: u64) -> String {
    format!("{}:{}", libc::major(device), libc::minor(device))
}

/// Whether a name says which disk it is, on any host: udev's links by what the disk says of itself
/// (`60-persistent-storage.rules`, multipath's `11-dm-mpath.rules`), and those of RBD by pool and image.
fn says_which(path: &Path) -> bool {
    const NAMES: [&str; 5] = ["wwn-", "scsi-3", "nvme-eui.", "nvme-uuid.", "dm-uuid-mpath-3"];
    let path = path.to_str().unwrap_or_default();
    match path.strip_prefix("/dev/disk/by-id/") {
        Some(name) => NAMES.iter().any(|start| name.starts_with(start)) && !name.contains('/'),
        None => path.starts_with("/dev/rbd/"),
    }
}

/// Whether a disk or its partition, by its directory in `/sys/devices`, is reached over a storage network: by
/// iSCSI, Fibre Channel, NVMe over fabrics or RBD, or by several such ways with multipath.
fn on_network(device: &Path) -> bool {
    let ways = entries(&device.join("slaves"));
    if !ways.is_empty() {
        let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
        let whole = |way: &PathBuf| way.canonicalize().is_ok_and(|way| on_network(&way));
        return uuid.starts_with("mpath-") && ways.iter().all(whole);
    }
    device.iter().filter_map(|name| name.to_str()).any(is_network_bus) || on_fabric(device)
}

/// Directories below which there are only disks that are reached over a network: `scsi_transport_iscsi.c`,
/// `scsi_transport_fc.c` and `rbd.c` in Linux make them.
fn is_network_bus(name: &str) -> bool {
    numbered(name, "session") || numbered(name, "rport-") || name == "rbd"
}

fn numbered(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether an NVMe namespace is reached over a network by each controller that it has: it lies below its only
/// one, or below the subsystem of all of them (`nvme/host/core.c`, `multipath.c`). A `loop` is none.
fn on_fabric(namespace: &Path) -> bool {
    let above = namespace.ancestors().skip(1).map(Path::to_owned);
    let beside = namespace.ancestors().skip(1).filter(|dir| is_subsystem(dir)).flat_map(entries);
    let transports: Vec<_> = above
        .chain(beside)
        .filter_map(|controller| fs::read_to_string(controller.join("transport")).ok())
        .collect();
    let network = |kind: &String| ["tcp", "rdma", "fc"].contains(&kind.trim());
    !transports.is_empty() && transports.iter().all(network)
}

fn is_subsystem(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| numbered(name, "nvme-subsys"))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory of `/sys` with these devices, and what some of their files say.
    fn sys(devices: &[&str], files: &[(&str, &str)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for device in devices {
            fs::create_dir_all(sys.path().join(device)).unwrap();
        }
        for (file, says) in files {
            let file = sys.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{says}\n")).unwrap();
        }
        sys
    }

    #[test]
    fn shared_mounts_are_known_by_type() {
        let line = "36 35 0:52 / /mnt rw shared:1 - nfs4 host:/export rw";
        assert!(is_mount(line, "0:52", &SHARED));
        assert!(!is_mount(line, "0:5", &SHARED));
        assert!(!is_mount("36 35 8:1 / /mnt rw - ext4 /dev/sda1 rw", "8:1", &SHARED));
    }

    #[test]
    fn only_what_is_there_and_on_a_known_file_system_is_local() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vars.fd");
        fs::write(&file, "").unwrap();
        let device = numbers(file.metadata().unwrap().dev());
        let on = |kind: &str| format!("36 35 {device} / /var rw shared:1 - {kind} source rw\n");
        for kind in LOCAL {
            assert!(is_local_in(&file, &on(kind)) && is_local_in(dir.path(), &on(kind)), "{kind}");
        }
        for kind in SHARED.into_iter().chain(["fuse", "lustre", "beegfs", "overlay", "9p"]) {
            assert!(!is_local_in(&file, &on(kind)), "{kind}");
        }
        assert!(!is_local_in(&dir.path().join("another.fd"), &on("ext4")), "it is not there");
        assert!(!is_local_in(&file, "36 35 0:0 / / rw - ext4 /dev/sda1 rw\n"), "not that one");
        assert!(!is_local_in(&file, ""), "nothing is known");
        assert!(!is_local(Path::new("/dev/null")), "no file");
    }

    #[test]
    fn numbers_are_those_of_sys() {
        assert_eq!(numbers(0x0801), "8:1");
        assert_eq!(numbers(0x0010_fd02), "253:258");
    }

    #[test]
    fn a_name_says_which_disk_it_is() {
        for (path, says) in [
            ("/dev/disk/by-id/wwn-0x600140500000001", true),
            ("/dev/disk/by-id/scsi-36001405a-part1", true),
            ("/dev/disk/by-id/dm-uuid-mpath-36001405a", true),
            ("/dev/disk/by-id/nvme-uuid.1b4e28ba", true),
            ("/dev/rbd/pool/image", true),
            // Any host may have another one of that name.
            ("/dev/sda", false),
            ("/dev/dm-3", false),
            ("/dev/rbd0", false),
            ("/dev/mapper/mpatha", false),
            ("/dev/vg/lv", false),
            ("/dev/notify/vms/disk0", false),
            ("/dev/disk/by-id/dm-name-mpatha", false),
            ("/dev/disk/by-id/ata-DISK", false),
            ("/dev/disk/by-label/data", false),
            ("/dev/disk/by-id/wwn-/../../sda", false),
        ] {
            assert_eq!(says_which(Path::new(path)), says, "{path}");
        }
    }

    #[test]
    fn disks_are_known_by_how_they_are_reached() {
        for (device, shared) in [
            ("devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda", true),
            ("devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda/sda1", true),
            ("devices/pci0/host5/rport-5:0-2/target5:0:0/5:0:0:1/block/sdb", true),
            ("devices/rbd/0/block/rbd0", true),
            ("devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sdc", false),
            ("devices/pci0/nvme/nvme0/nvme0n1", false),
            ("devices/virtual/block/loop0", false),
        ] {
            let sys = sys(&[device], &[]);
            assert_eq!(on_network(&sys.path().join(device)), shared, "{device}");
        }
        assert!(!on_network(Path::new("/sys/devices/no-such-device")));
    }

    #[test]
    fn only_multipath_lies_on_disks_of_a_network() {
        let (san, local) = ("devices/platform/host3/session1/block/sda", "devices/pci0/block/sdb");
        for (uuid, ways, shared) in [
            ("mpath-3600", &[san][..], true),
            ("mpath-3600", &[san, local], false),
            ("LVM-abc", &[san], false),
            ("", &[san], false),
        ] {
            let dm = "devices/virtual/block/dm-0";
            let sys =
                sys(&[san, local, &format!("{dm}/slaves")], &[(&format!("{dm}/dm/uuid"), uuid)]);
            let dm = sys.path().join(dm);
            for (number, way) in ways.iter().enumerate() {
                symlink(sys.path().join(way), dm.join(format!("slaves/{number}"))).unwrap();
            }
            assert_eq!(on_network(&dm), shared, "{uuid} over {ways:?}");
        }
    }

    #[test]
    fn an_nvme_namespace_is_where_its_controllers_are() {
        let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
        for (transports, shared) in [
            (&["tcp", "tcp"][..], true),
            (&["rdma"], true),
            (&["tcp", "pcie"], false),
            (&["loop"], false),
            (&[], false),
        ] {
            let files: Vec<_> = (0..)
                .zip(transports)
                .map(|(number, kind)| (format!("{subsystem}/nvme{number}/transport"), *kind))
                .collect();
            let files: Vec<_> = files.iter().map(|(file, kind)| (file.as_str(), *kind)).collect();
            let namespace = format!("{subsystem}/nvme0n1");
            let sys = sys(&[&namespace], &files);
            assert_eq!(on_network(&sys.path().join(namespace)), shared, "{transports:?}");
        }
        for (kind, shared) in [("tcp", true), ("loop", false), ("pcie", false)] {
            let controller = "devices/virtual/nvme-fabrics/ctl/nvme0";
            let namespace = format!("{controller}/nvme0n1");
            let sys = sys(&[&namespace], &[(&format!("{controller}/transport"), kind)]);
            assert_eq!(on_network(&sys.path().join(namespace)), shared, "{kind}");
        }
    }
}
