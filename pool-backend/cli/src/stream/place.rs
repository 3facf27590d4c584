// SPDX-License-Identifier: LGPL-2.1-or-later
//! What both ends of a stream ask of the daemon and of libvirt.

use std::collections::HashMap;
use std::path::PathBuf;

use uuid::Uuid;
use virtnotify_model::{PoolName, SnapshotName, VolumeName};

use crate::client::{ManagerProxy, Problem};
use crate::names::Named;
use crate::snapshots::{self, Extent, Snapshot, find};
use crate::virsh;

/// A volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    pub uuid: Uuid,
    pub capacity: u64,
}

/// Where a sender or a receiver works.
pub trait Place {
    /// The snapshots of a pool.
    async fn snapshots(&self, pool: &PoolName) -> Result<Vec<Snapshot>, Problem>;
    /// A volume, if it is there.
    async fn volume(&self, volume: &Named) -> Result<Option<Volume>, Problem>;
    /// Makes a volume, of another one where one is named.
    async fn create(
        &self,
        volume: &Named,
        capacity: u64,
        backing: Option<&VolumeName>,
    ) -> Result<(), Problem>;
    /// Whether a volume was made of that other one.
    async fn is_made_of(&self, volume: &Named, backing: &Named) -> Result<bool, Problem>;
    /// Makes a volume larger.
    async fn grow(&self, volume: &Named, capacity: u64) -> Result<(), Problem>;
    /// Deletes a volume or a snapshot.
    async fn delete(&self, volume: &Named) -> Result<(), Problem>;
    /// Takes a snapshot.
    async fn snapshot(&self, volume: &Named, name: &SnapshotName) -> Result<Uuid, Problem>;
    /// Rolls a volume back.
    async fn roll_back(&self, snapshot: &Named) -> Result<(), Problem>;
    /// Whether a volume may differ from a snapshot.
    async fn is_changed(&self, volume: &Named, since: &Named) -> Result<bool, Problem> {
        let (_, extents) = self.difference(volume, Some(since)).await?;
        Ok(!extents.is_empty())
    }
    /// A volume's size, and the parts in which it may differ from a snapshot; or all that it holds.
    async fn difference(
        &self,
        volume: &Named,
        base: Option<&Named>,
    ) -> Result<(u64, Vec<Extent>), Problem>;
    /// The device of a volume.
    fn device(&self, volume: &Named) -> PathBuf;
}

/// This host: libvirt for volumes, the daemon for snapshots.
pub struct Live {
    daemon: ManagerProxy<'static>,
}

impl Live {
    /// With that daemon.
    pub fn new(daemon: ManagerProxy<'static>) -> Self {
        Self { daemon }
    }
}

impl Place for Live {
    async fn snapshots(&self, pool: &PoolName) -> Result<Vec<Snapshot>, Problem> {
        snapshots::of(&self.daemon, pool.as_str()).await
    }

    async fn volume(&self, volume: &Named) -> Result<Option<Volume>, Problem> {
        // Not its object on D-Bus, which appears a moment after libvirt has made the volume.
        let all = self.daemon.list_volumes(volume.pool.as_str()).await?;
        let found = all.into_iter().find(|(name, ..)| name == volume.volume.as_str());
        let read = |(_, uuid, _, _, capacity, _): (_, String, _, _, _, _)| {
            let uuid = uuid.parse();
            let uuid = uuid.map_err(|_| Problem::Cannot("a volume without a UUID".into()))?;
            Ok(Volume { uuid, capacity })
        };
        found.map(read).transpose()
    }

    async fn create(
        &self,
        volume: &Named,
        capacity: u64,
        backing: Option<&VolumeName>,
    ) -> Result<(), Problem> {
        let (pool, name) = (volume.pool.as_str(), volume.volume.as_str());
        let capacity = capacity.to_string();
        let mut words = vec!["vol-create-as", "--pool", pool, "--name", name];
        words.extend(["--capacity", &capacity]);
        if let Some(backing) = backing {
            words.extend(["--backing-vol", backing.as_str()]);
        }
        virsh::run(virsh::STORAGE, &words).map(drop)
    }

    async fn is_made_of(&self, volume: &Named, backing: &Named) -> Result<bool, Problem> {
        let (pool, name) = (volume.pool.as_str(), volume.volume.as_str());
        let xml = virsh::run(virsh::STORAGE, &["vol-dumpxml", "--pool", pool, "--vol", name])?;
        // Its own path is another one.
        Ok(xml.contains(&format!("<path>{}</path>", backing.device().display())))
    }

    async fn grow(&self, volume: &Named, capacity: u64) -> Result<(), Problem> {
        let (pool, name) = (volume.pool.as_str(), volume.volume.as_str());
        let capacity = capacity.to_string();
        let words = ["vol-resize", "--pool", pool, "--vol", name, "--capacity", &capacity];
        virsh::run(virsh::STORAGE, &words).map(drop)
    }

    async fn delete(&self, volume: &Named) -> Result<(), Problem> {
        let (pool, name) = (volume.pool.as_str(), volume.volume.as_str());
        virsh::run(virsh::STORAGE, &["vol-delete", "--pool", pool, "--vol", name]).map(drop)
    }

    async fn snapshot(&self, volume: &Named, name: &SnapshotName) -> Result<Uuid, Problem> {
        let volumes = [volume.to_string()];
        self.daemon.take_snapshot(&volumes, name.as_str(), HashMap::new()).await?;
        let snapshot = volume.volume.at(name).map_err(|e| Problem::Cannot(e.to_string()))?;
        Ok(find(&self.daemon, &volume.beside(snapshot)).await?.uuid)
    }

    async fn roll_back(&self, snapshot: &Named) -> Result<(), Problem> {
        Ok(self.daemon.roll_back(&snapshot.to_string(), HashMap::new()).await?)
    }

    async fn difference(
        &self,
        volume: &Named,
        base: Option<&Named>,
    ) -> Result<(u64, Vec<Extent>), Problem> {
        snapshots::all_extents(&self.daemon, volume, base).await
    }

    fn device(&self, volume: &Named) -> PathBuf {
        volume.device()
    }
}
