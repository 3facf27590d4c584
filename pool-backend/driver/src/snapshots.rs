// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots of volumes, and what was written since.
//!
//! libvirt's storage API has no calls for them: they are asked for on D-Bus. Its clients see a
//! snapshot as a volume `VOLUME@NAME`, and hear that the pool changed when one comes or goes.

use virtnotify_model::{
    BackendError, Bytes, PoolName, SnapshotName, VolumeExtent, VolumeInfo, VolumeKind, VolumeName,
    snapshots_among,
};
use virtnotify_wire::StoragePool;

use crate::driver::Driver;
use crate::error::DriverError;
use crate::volumes::named;

impl Driver {
    /// Takes a snapshot of each of these volumes of a pool, all at one moment.
    ///
    /// # Errors When one of them is not there or is a snapshot, another call is at work with it, or
    /// it has a snapshot of that name; no snapshot is made then.
    pub fn take_snapshot(
        &self,
        pool: &StoragePool,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, DriverError> {
        if volumes.is_empty() {
            return Err(DriverError::Argument("a snapshot needs a volume".to_owned()));
        }
        for (at, volume) in volumes.iter().enumerate() {
            if volumes[..at].contains(volume) {
                return Err(DriverError::Argument(format!("'{volume}' is named twice")));
            }
        }
        let made = self.shared_job(pool, || {
            let pool_name = self.active_name(pool)?;
            for volume in volumes {
                let (_, info) = self.free_volume(pool, volume.as_str())?;
                need_volume(&info, "have snapshots")?;
            }
            Ok(self.backend.snapshot(&pool_name, volumes, name)?)
        })?;
        self.when_written(pool.clone())();
        Ok(made)
    }

    /// Sets a volume back to its snapshot.
    ///
    /// # Errors
    /// When it is no snapshot, or its volume is gone or in use.
    pub fn roll_back(&self, pool: &StoragePool, snapshot: &VolumeName) -> Result<(), DriverError> {
        let (volume, _) = parts(snapshot)?;
        self.shared_job(pool, || {
            let (pool_name, _) = self.free_volume(pool, snapshot.as_str())?;
            match self.free_volume(pool, volume.as_str()) {
                Err(DriverError::NoVolume(_)) => {
                    let (volume, snapshot) = (volume.to_string(), snapshot.to_string());
                    return Err(DriverError::VolumeGone { volume, snapshot });
                }
                found => found?,
            };
            self.backend.roll_back(&pool_name, snapshot).map_err(|error| match error {
                BackendError::VolumeInUse(name) if name == volume.as_str() => {
                    DriverError::RollBackInUse(name)
                }
                other => named(other, snapshot),
            })
        })?;
        self.when_written(pool.clone())();
        Ok(())
    }

    /// Deletes a snapshot; its volume stays.
    ///
    /// # Errors
    /// When it is no snapshot, or in use.
    pub fn delete_snapshot(
        &self,
        pool: &StoragePool,
        snapshot: &VolumeName,
    ) -> Result<(), DriverError> {
        parts(snapshot)?;
        self.shared_job(pool, || {
            let (pool, info) = self.free_volume(pool, snapshot.as_str())?;
            self.backend.delete_volume(&pool, &info.name).map_err(|error| named(error, &info.name))
        })?;
        self.when_written(pool.clone())();
        Ok(())
    }

    /// Which parts of a volume or a snapshot may differ from `base`, a snapshot; without one, all
    /// that it holds. And its size.
    ///
    /// # Errors
    /// When one of them is not there, or the volume does not go back to the snapshot.
    pub fn difference(
        &self,
        pool: &StoragePool,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<(Bytes, Vec<VolumeExtent>), DriverError> {
        let pool = self.active_name(pool)?;
        let info = self.find(&pool, volume.as_str())?;
        if let Some(base) = base {
            parts(base)?;
            self.find(&pool, base.as_str())?;
        }
        Ok((info.capacity, self.backend.difference(&pool, volume, base)?))
    }

    /// The snapshots in a pool, or those of one of its volumes; the oldest first.
    ///
    /// # Errors
    /// When the pool is not active.
    pub fn snapshots(
        &self,
        pool: &PoolName,
        of: Option<&VolumeName>,
    ) -> Result<Vec<VolumeInfo>, DriverError> {
        Ok(snapshots_among(self.backend.volumes(pool)?, of))
    }
}

/// The names of a snapshot's volume and of the snapshot alone.
fn parts(snapshot: &VolumeName) -> Result<(VolumeName, SnapshotName), DriverError> {
    snapshot.snapshot().ok_or_else(|| DriverError::NoSnapshot(snapshot.to_string()))
}

/// Refuses a snapshot where only a volume is possible. `what` says what snapshots cannot do.
pub(crate) fn need_volume(info: &VolumeInfo, what: &'static str) -> Result<(), DriverError> {
    match info.kind {
        VolumeKind::Volume => Ok(()),
        VolumeKind::Snapshot => Err(DriverError::Snapshot { name: info.name.to_string(), what }),
    }
}
