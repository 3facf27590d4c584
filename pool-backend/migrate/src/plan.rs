// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a VM can go, and what goes with it.

use std::path::Path;

use virtnotify_model::{Bytes, Policy, PoolName, Pools, VolumeInfo, VolumeName};

use crate::domain::{Disk, DiskSource, Domain};
use crate::journal::{self, DiskRecord};
use crate::policy::Needs;
use crate::shared_storage;

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
pub(crate) fn volume_of(disk: &Disk, storage: &dyn Pools) -> Option<VolumeInfo> {
    let (pool, volume) = names_of(&disk.source)?;
    storage.volume(&pool, &volume).ok()
}

/// The pool and volume that a disk names: by name, or by our path. Whether they are ours and
/// there, only the storage knows.
pub(crate) fn names_of(source: &DiskSource) -> Option<(PoolName, VolumeName)> {
    let (pool, volume) = match source {
        DiskSource::Volume { pool, volume } => (pool.as_str(), volume.as_str()),
        DiskSource::Path(path) => path.strip_prefix("/dev/notify/")?.split_once('/')?,
        _ => return None,
    };
    Some((pool.parse().ok()?, volume.parse().ok()?))
}

/// What moves with the VM, or why it cannot move: the end of a sentence that names it.
pub(crate) fn plan(domain: &Domain, storage: &dyn Pools) -> Result<Plan, String> {
    if let Some(reason) = &domain.wishes.stays {
        return Err(reason.clone());
    }
    if let Some(tie) = &domain.surroundings.tie {
        return Err(tie.to_string());
    }
    let mut plan = Plan { disks: Vec::new(), bandwidth: None };
    for disk in &domain.disks {
        match volume_of(disk, storage) {
            Some(info) => add(&mut plan, disk, &info)?,
            None => check_other(disk)?,
        }
    }
    for pool in plan.needs(false).keys() {
        heed(&storage.policy(pool).map_err(|e| e.to_string())?, pool, &mut plan.bandwidth)?;
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
    // libvirt copies what the guest reads, into a disk that QEMU there must have opened with the same key, and a
    // volume that was just made has no LUKS header.
    if disk.luks {
        return Err(format!(
            "its disk {target} is encrypted by QEMU (<encryption>), and libvirt copies no such disk"
        ));
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
        DiskSource::Path(path) if shared_storage::has(Path::new(path)) => return Ok(()),
        DiskSource::Path(path) => format!("'{path}'"),
        DiskSource::Volume { pool, volume } => {
            format!("the volume '{volume}' of the pool '{pool}', which is not of type notify")
        }
        DiskSource::Other(kind) => format!("of type '{kind}'"),
    };
    Err(format!("its disk {} is {what}: on this host only, and not copied by a move", disk.target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakePools, domain};
    use crate::surroundings::Tie;

    fn storage() -> FakePools {
        let storage = FakePools::new("vms", 1000);
        storage.add("disk0", 512, 100);
        storage.add("disk1", 512, 50);
        storage
    }

    fn ours(target: &str, volume: &str) -> Disk {
        Disk::new(target, DiskSource::Volume { pool: "vms".into(), volume: volume.into() })
    }

    #[test]
    fn all_notify_disks_go_and_their_needs_add_up() {
        let mut vm = domain("guest", 1);
        let path = DiskSource::Path("/dev/notify/vms/disk1".into());
        let iso = Disk { read_only: true, ..Disk::new("sda", DiskSource::Path("/x.iso".into())) };
        vm.disks = vec![ours("vda", "disk0"), Disk::new("vdb", path), iso];
        let plan = plan(&vm, &storage()).unwrap();
        let targets: Vec<_> = plan.disks.iter().map(|d| d.target.as_str()).collect();
        assert_eq!(targets, ["vda", "vdb"]);
        let needs = |whole| plan.needs(whole).into_values().collect::<Vec<_>>();
        assert_eq!(needs(false), [Bytes::mib(150)]);
        assert_eq!(needs(true), [Bytes::mib(1024)]);
    }

    #[test]
    fn what_cannot_go_is_refused_by_name() {
        let local = Disk::new("vdb", DiskSource::Path("/proc/version".into()));
        let other = Disk::new("vdb", DiskSource::Volume { pool: "dir".into(), volume: "a".into() });
        let shared = Disk { shared: true, ..ours("vdb", "disk1") };
        let nvme = Disk::new("vdb", DiskSource::Other("nvme".into()));
        for (bad, says) in [
            (local, "its disk vdb is '/proc/version': on this host only"),
            (other, "the volume 'a' of the pool 'dir', which is not of type notify"),
            (shared, "its disk vdb is shared with other VMs"),
            (nvme, "of type 'nvme'"),
        ] {
            let mut vm = domain("guest", 1);
            vm.disks = vec![ours("vda", "disk0"), bad];
            let reason = plan(&vm, &storage()).unwrap_err();
            assert!(reason.contains(says), "{reason}");
        }
        let mut vm = domain("guest", 1);
        vm.disks = Vec::new();
        assert_eq!(plan(&vm, &storage()).unwrap_err(), "it has no disk on a notify volume");
    }

    #[test]
    fn who_is_not_to_be_moved_stays() {
        let mut vm = domain("guest", 1);
        let storage = storage();
        storage.world.lock().unwrap().policy.bandwidth = Some(Bytes::mib(50));
        assert_eq!(plan(&vm, &storage).unwrap().bandwidth, Some(Bytes::mib(50)));
        storage.world.lock().unwrap().policy.movable = false;
        let reason = plan(&vm, &storage).unwrap_err();
        assert_eq!(reason, "the policy of its pool 'vms' says that VMs are not to be moved");
        vm.surroundings.tie = Some(Tie::TransientDisk);
        assert_eq!(
            plan(&vm, &storage).unwrap_err(),
            "it has a disk that is transient, and libvirt moves no such VM"
        );
        vm.wishes.stays = Some("it is pinned".into());
        assert_eq!(plan(&vm, &storage).unwrap_err(), "it is pinned");
    }
}
