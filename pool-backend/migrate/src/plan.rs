// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a VM can go, and what goes with it.

use std::collections::BTreeMap;
use std::path::Path;

use virtnotify_model::{
    Bytes, ChunkSize, Policy, PoolName, Pools, StorageError, VolumeInfo, VolumeName,
};

use crate::domain::{Disk, DiskSource, Domain};
use crate::error::{MigrateError, Stays};
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
    /// The chunk sizes of its pools here.
    pub chunks: BTreeMap<PoolName, ChunkSize>,
}

impl Plan {
    /// What the disks hold here, by pool.
    pub(crate) fn holds(&self) -> Needs {
        journal::by_pool(&self.disks, DiskRecord::allocation)
    }

    /// The disks as they are copied to pools with such chunks: with what each takes there.
    pub(crate) fn copied(
        &self,
        whole: bool,
        chunks: &BTreeMap<PoolName, ChunkSize>,
    ) -> Vec<DiskRecord> {
        let copied = |mut disk: DiskRecord| {
            let chunk = |of: &BTreeMap<PoolName, ChunkSize>| of.get(&disk.pool().ok()?).copied();
            let here = chunk(&self.chunks).unwrap_or_default();
            let there = chunk(chunks).unwrap_or(here);
            disk.set_takes(takes(&disk, whole, here, there));
            disk
        };
        self.disks.iter().cloned().map(copied).collect()
    }

    /// What is sent in a second where so much could be.
    pub(crate) fn limit(&self, bandwidth: Bytes) -> Bytes {
        self.bandwidth.map_or(bandwidth, |limit| limit.min(bandwidth))
    }
}

/// What the copy of a disk takes in chunks of that size: no more than all of them. Each smaller one of here may come to
/// lie in one of its own.
fn takes(disk: &DiskRecord, whole: bool, here: ChunkSize, there: ChunkSize) -> Bytes {
    let all = there.bytes_of(there.chunks_for(disk.capacity()));
    let held = disk.allocation();
    let larger = there.bytes() > here.bytes();
    let scattered = if larger { there.bytes_of(here.chunks_for(held)) } else { held };
    if whole { all } else { scattered.min(all) }
}

/// The volume of ours that a disk is on, if it is on one.
///
/// # Errors
/// When that cannot be known.
pub(crate) fn volume_of(
    disk: &Disk,
    storage: &dyn Pools,
) -> Result<Option<VolumeInfo>, StorageError> {
    let Some((pool, volume)) = names_of(&disk.source) else { return Ok(None) };
    match storage.volume(&pool, &volume) {
        Err(StorageError::NoVolume(_) | StorageError::NotFound(_)) => Ok(None),
        found => found.map(Some),
    }
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

/// What moves with the VM, or why it cannot move.
pub(crate) fn plan(domain: &Domain, storage: &dyn Pools) -> Result<Plan, MigrateError> {
    if let Some(kept) = &domain.wishes.stays {
        return Err(Stays::from(kept.clone()).into());
    }
    if let Some(tie) = &domain.surroundings.tie {
        return Err(Stays::from(tie.clone()).into());
    }
    let mut plan = Plan { disks: Vec::new(), bandwidth: None, chunks: BTreeMap::new() };
    for disk in &domain.disks {
        match volume_of(disk, storage)? {
            Some(info) => add(&mut plan, disk, &info)?,
            None => check_other(disk)?,
        }
    }
    for pool in plan.holds().into_keys() {
        heed(&storage.policy(&pool)?, &pool, &mut plan.bandwidth)?;
        plan.chunks.insert(pool.clone(), storage.pool_info(&pool)?.chunk);
    }
    if plan.disks.is_empty() { Err(Stays::NoDisk.into()) } else { Ok(plan) }
}

/// What the policy of a pool says about moving a VM with a disk in it.
fn heed(policy: &Policy, pool: &PoolName, bandwidth: &mut Option<Bytes>) -> Result<(), Stays> {
    if !policy.movable {
        return Err(Stays::Policy(pool.clone()));
    }
    *bandwidth = bandwidth.iter().chain(&policy.bandwidth).min().copied();
    Ok(())
}

fn add(plan: &mut Plan, disk: &Disk, info: &VolumeInfo) -> Result<(), Stays> {
    let target = &disk.target;
    if disk.shared {
        return Err(Stays::SharedDisk(target.clone()));
    }
    if disk.read_only {
        return Err(Stays::ReadOnlyDisk(target.clone()));
    }
    // A volume that was just made has no LUKS header.
    if disk.luks {
        return Err(Stays::EncryptedDisk(target.clone()));
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
fn check_other(disk: &Disk) -> Result<(), Stays> {
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
    Err(Stays::LocalDisk { target: disk.target.clone(), what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakePools, domain};
    use crate::surroundings::Tie;
    use crate::wishes::Kept;

    fn storage() -> FakePools {
        let storage = FakePools::new("vms", 1000);
        storage.add("disk0", 512, 100);
        storage.add("disk1", 512, 50);
        storage
    }

    fn refusal(vm: &Domain, storage: &FakePools) -> String {
        plan(vm, storage).unwrap_err().to_string()
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
        assert_eq!(plan.holds().into_values().collect::<Vec<_>>(), [Bytes::mib(150)]);
        let takes = |whole, there: Option<u64>| {
            let chunk = there.map(|mib| ChunkSize::new(Bytes::mib(mib)).unwrap());
            let chunks = chunk.into_iter().map(|chunk| ("vms".parse().unwrap(), chunk)).collect();
            let copied = plan.copied(whole, &chunks);
            copied.iter().map(|disk| disk.takes().0 >> 20).collect::<Vec<_>>()
        };
        // Chunks of 4 MiB here; there none that is known, smaller and larger ones.
        assert_eq!(takes(false, None), [100, 50]);
        assert_eq!(takes(false, Some(1)), [100, 50]);
        assert_eq!(takes(false, Some(8)), [200, 104]);
        assert_eq!(takes(false, Some(64)), [512, 512], "no more than there are");
        assert_eq!(takes(true, None), [512, 512]);
        assert_eq!(takes(true, Some(1024)), [1024, 1024]);
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
            let reason = plan(&vm, &storage()).unwrap_err().to_string();
            assert!(reason.contains(says), "{reason}");
        }
        let mut vm = domain("guest", 1);
        vm.disks = Vec::new();
        assert_eq!(refusal(&vm, &storage()), "it has no disk on a notify volume");
    }

    #[test]
    fn a_volume_of_which_nothing_is_known_is_not_one_of_others() {
        let storage = storage();
        storage.world.lock().unwrap().unanswered = true;
        let refused = plan(&domain("guest", 1), &storage).unwrap_err();
        assert!(matches!(refused, MigrateError::Storage(StorageError::Unreachable(_))));
    }

    #[test]
    fn who_is_not_to_be_moved_stays() {
        let mut vm = domain("guest", 1);
        let storage = storage();
        storage.world.lock().unwrap().policy.bandwidth = Some(Bytes::mib(50));
        assert_eq!(plan(&vm, &storage).unwrap().bandwidth, Some(Bytes::mib(50)));
        storage.world.lock().unwrap().policy.movable = false;
        let reason = refusal(&vm, &storage);
        assert_eq!(reason, "the policy of its pool 'vms' says that VMs are not to be moved");
        vm.surroundings.tie = Some(Tie::TransientDisk);
        assert_eq!(
            refusal(&vm, &storage),
            "it has a disk that is transient, and libvirt moves no such VM"
        );
        vm.wishes.stays = Some(Kept::Pinned);
        assert_eq!(refusal(&vm, &storage), Kept::Pinned.to_string());
    }
}
