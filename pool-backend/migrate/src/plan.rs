// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a VM can go, and what goes with it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use virtnotify_model::{Backend, Bytes, Policy, PoolName, VolumeInfo, VolumeName};

use crate::domain::{Disk, DiskSource, Domain};
use crate::journal::{self, DiskRecord};
use crate::policy::Needs;

/// A VM's disks on notify volumes that are to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// One for each disk to copy.
    pub disks: Vec<DiskRecord>,
    /// The most that may be sent in a second: the least that a policy of its pools says.
    pub bandwidth: Option<Bytes>,
}

impl Plan {
    /// What the copies take at a peer, by pool: what the disks hold, or all of their size.
    pub(crate) fn needs(&self, whole: bool) -> Needs {
        journal::needs(&self.disks, whole)
    }

    /// What is sent in a second where so much could be.
    pub(crate) fn limit(&self, bandwidth: Bytes) -> Bytes {
        self.bandwidth.map_or(bandwidth, |limit| limit.min(bandwidth))
    }
}

/// The volume of ours that a disk is on, if it is on one.
pub(crate) fn volume_of(disk: &Disk, backend: &dyn Backend) -> Option<VolumeInfo> {
    let (pool, volume) = names_of(&disk.source)?;
    backend.volume(&pool, &volume).ok()
}

/// The pool and volume that a disk names: by name, or by our path. Whether they are ours and
/// there, only the backend knows.
pub(crate) fn names_of(source: &DiskSource) -> Option<(PoolName, VolumeName)> {
    let (pool, volume) = match source {
        DiskSource::Volume { pool, volume } => (pool.as_str(), volume.as_str()),
        DiskSource::Path(path) => path.strip_prefix("/dev/notify/")?.split_once('/')?,
        _ => return None,
    };
    Some((pool.parse().ok()?, volume.parse().ok()?))
}

/// What moves with the VM, or why it cannot move: the end of a sentence that names it.
pub(crate) fn plan(domain: &Domain, backend: &dyn Backend) -> Result<Plan, String> {
    if let Some(reason) = &domain.wishes.stays {
        return Err(reason.clone());
    }
    let mut plan = Plan { disks: Vec::new(), bandwidth: None };
    for disk in &domain.disks {
        match volume_of(disk, backend) {
            Some(info) => add(&mut plan, disk, &info)?,
            None => check_other(disk)?,
        }
    }
    for pool in plan.needs(false).keys() {
        heed(&backend.policy(pool).map_err(|e| e.to_string())?, pool, &mut plan.bandwidth)?;
    }
    if plan.disks.is_empty() { Err("it has no disk on a notify volume".into()) } else { Ok(plan) }
}

/// What the policy of a pool says about moving a VM with a disk in it.
fn heed(policy: &Policy, pool: &PoolName, bandwidth: &mut Option<Bytes>) -> Result<(), String> {
    if !policy.movable {
        return Err(format!("the policy of its pool '{pool}' says that VMs are not to be moved"));
    }
    *bandwidth = bandwidth.iter().chain(&policy.bandwidth).min().copied();
    Ok(())
}

fn add(plan: &mut Plan, disk: &Disk, info: &VolumeInfo) -> Result<(), String> {
    let target = &disk.target;
    if disk.shared {
        return Err(format!("its disk {target} is shared with other VMs, which stay here"));
    }
    if disk.read_only {
        return Err(format!("its disk {target} is read-only, and libvirt copies no such disk"));
    }
    plan.disks.push(DiskRecord::new(
        target,
        &info.pool,
        &info.name,
        info.uuid,
        info.capacity,
        info.allocation,
    ));
    Ok(())
}

/// A disk that is not ours must be there on the other host already: read-only ones and those
/// that are shared are the operator's word for it, and libvirt checks that they open.
fn check_other(disk: &Disk) -> Result<(), String> {
    if disk.read_only || disk.shared {
        return Ok(());
    }
    let what = match &disk.source {
        DiskSource::Network | DiskSource::Empty => return Ok(()),
        DiskSource::Path(path) if on_shared_storage(Path::new(path)) => return Ok(()),
        DiskSource::Path(path) => format!("'{path}'"),
        DiskSource::Volume { pool, volume } => {
            format!("the volume '{volume}' of the pool '{pool}', which is not of type notify")
        }
        DiskSource::Other(kind) => format!("of type '{kind}'"),
    };
    Err(format!("its disk {} is {what}: on this host only, and not copied by a move", disk.target))
}

/// Whether the file is on a network file system, by the kernel's list of mounts: libvirt, too,
/// takes such a file for the same one on both hosts.
fn on_shared_storage(path: &Path) -> bool {
    let Ok(device) = path.metadata().map(|m| m.dev()) else { return false };
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    let wanted = format!("{}:{}", major(device), minor(device));
    mounts.lines().any(|line| is_shared_mount(line, &wanted))
}

/// `MOUNT PARENT MAJOR:MINOR ... - TYPE SOURCE OPTIONS` (`man 5 proc_pid_mountinfo`).
fn is_shared_mount(line: &str, device: &str) -> bool {
    const SHARED: [&str; 8] =
        ["nfs", "nfs4", "cifs", "smb3", "gfs2", "ocfs2", "ceph", "fuse.glusterfs"];
    let Some((head, tail)) = line.split_once(" - ") else { return false };
    let kind = tail.split(' ').next().unwrap_or_default();
    head.split(' ').nth(2) == Some(device) && SHARED.contains(&kind)
}

// How Linux puts both numbers into one (`gnu_dev_major`, `gnu_dev_minor` in glibc).
fn major(device: u64) -> u64 {
    ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)
}

fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & !0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeBackend, domain};

    fn backend() -> FakeBackend {
        let backend = FakeBackend::new("vms", 1000);
        backend.add("disk0", 512, 100);
        backend.add("disk1", 512, 50);
        backend
    }

    fn disk(target: &str, source: DiskSource) -> Disk {
        Disk { target: target.into(), source, read_only: false, shared: false }
    }

    fn ours(target: &str, volume: &str) -> Disk {
        disk(target, DiskSource::Volume { pool: "vms".into(), volume: volume.into() })
    }

    #[test]
    fn all_notify_disks_go_and_their_needs_add_up() {
        let mut vm = domain("guest", 1);
        let path = DiskSource::Path("/dev/notify/vms/disk1".into());
        let iso = Disk { read_only: true, ..disk("sda", DiskSource::Path("/x.iso".into())) };
        vm.disks = vec![ours("vda", "disk0"), disk("vdb", path), iso];
        let plan = plan(&vm, &backend()).unwrap();
        let targets: Vec<_> = plan.disks.iter().map(|d| d.target.as_str()).collect();
        assert_eq!(targets, ["vda", "vdb"]);
        let needs = |whole| plan.needs(whole).into_values().collect::<Vec<_>>();
        assert_eq!(needs(false), [Bytes::mib(150)]);
        assert_eq!(needs(true), [Bytes::mib(1024)]);
    }

    #[test]
    fn what_cannot_go_is_refused_by_name() {
        let local = disk("vdb", DiskSource::Path("/proc/version".into()));
        let other = disk("vdb", DiskSource::Volume { pool: "dir".into(), volume: "a".into() });
        let shared = Disk { shared: true, ..ours("vdb", "disk1") };
        let nvme = disk("vdb", DiskSource::Other("nvme".into()));
        for (bad, says) in [
            (local, "its disk vdb is '/proc/version': on this host only"),
            (other, "the volume 'a' of the pool 'dir', which is not of type notify"),
            (shared, "its disk vdb is shared with other VMs"),
            (nvme, "of type 'nvme'"),
        ] {
            let mut vm = domain("guest", 1);
            vm.disks = vec![ours("vda", "disk0"), bad];
            let reason = plan(&vm, &backend()).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        let mut vm = domain("guest", 1);
        vm.disks = Vec::new();
        assert_eq!(plan(&vm, &backend()).unwrap_err(), "it has no disk on a notify volume");
    }

    #[test]
    fn who_is_not_to_be_moved_stays() {
        let mut vm = domain("guest", 1);
        let backend = backend();
        backend.world.lock().unwrap().policy.bandwidth = Some(Bytes::mib(50));
        assert_eq!(plan(&vm, &backend).unwrap().bandwidth, Some(Bytes::mib(50)));
        backend.world.lock().unwrap().policy.movable = false;
        let reason = plan(&vm, &backend).unwrap_err();
        assert_eq!(reason, "the policy of its pool 'vms' says that VMs are not to be moved");
        vm.wishes.stays = Some("it is pinned".into());
        assert_eq!(plan(&vm, &backend).unwrap_err(), "it is pinned");
    }

    #[test]
    fn shared_mounts_are_known_by_type() {
        let line = "36 35 0:52 / /mnt rw shared:1 - nfs4 host:/export rw";
        assert!(is_shared_mount(line, "0:52"));
        assert!(!is_shared_mount(line, "0:5"));
        assert!(!is_shared_mount("36 35 8:1 / /mnt rw - ext4 /dev/sda1 rw", "8:1"));
    }
}
