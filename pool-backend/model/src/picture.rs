// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pools of a host as they were at one moment, and what has changed since.
//!
//! The process that serves the pools sends it to others: first all of it, then what changes, and with each
//! change the events that caused it. So a process that hears of an event already has what the event tells of,
//! and a question costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::storage::not_active;
use crate::{
    Event, JobInfo, Policy, PoolInfo, PoolName, Storage, StorageError, VgName, VolumeInfo,
    VolumeName,
};

/// A pool that is defined or active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// Its name.
    pub name: PoolName,
    /// libvirt's UUID of it.
    pub uuid: Uuid,
    /// Its volume group.
    pub vg: VgName,
    /// Its numbers, while it is active.
    pub info: Option<PoolInfo>,
    /// Its policy, while it is active.
    pub policy: Option<Policy>,
    /// Whether it is active and its metadata is damaged or cannot be written: its volumes work on as far as they have
    /// space.
    pub damaged: bool,
}

/// All pools, their volumes and their jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    pools: Vec<PoolState>,
    volumes: BTreeMap<PoolName, BTreeMap<VolumeName, VolumeInfo>>,
    jobs: Vec<JobInfo>,
}

/// What has changed from one picture to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// All pools, where one of them is another, new or gone.
    pub pools: Option<Vec<PoolState>>,
    /// `None` for one that is gone.
    pub volumes: BTreeMap<(PoolName, VolumeName), Option<VolumeInfo>>,
    /// All jobs, where one of them is another, new or gone.
    pub jobs: Option<Vec<JobInfo>>,
}

/// The parts of a picture that may be old.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    everything: bool,
    pools: bool,
    jobs: bool,
    /// Pools whose volumes may all have changed.
    whole: BTreeSet<PoolName>,
    volumes: BTreeSet<(PoolName, VolumeName)>,
}

impl Stale {
    /// All of it.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether it is nowhere old.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The parts that an event makes stale.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::PoolsChanged
            | Event::PoolChanged(_)
            | Event::SpaceLow { .. }
            | Event::Damage { .. } => self.pools = true,
            Event::Lost => self.everything = true,
            Event::PoolStarted(pool)
            | Event::PoolStopped(pool)
            | Event::SpaceAvailable { pool, .. }
            | Event::SpaceExhausted { pool, .. } => {
                (self.pools, self.jobs) = (true, true);
                self.whole.insert(pool.clone());
            }
            // What shares something with it shows something else, too.
            Event::VolumeCreated { pool, .. }
            | Event::VolumeDeleted { pool, .. }
            | Event::VolumeChanged { pool, .. }
            | Event::VolumesChanged(pool) => {
                self.pools = true;
                self.whole.insert(pool.clone());
            }
            Event::VolumeGrown { pool, volume, .. } => {
                self.pools = true;
                self.volumes.insert((pool.clone(), volume.clone()));
            }
            Event::JobChanged { .. } => self.jobs = true,
            _ => {}
        }
    }
}

impl Changes {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in what changed after that.
    pub fn merge(&mut self, later: Self) {
        let Self { pools, volumes, jobs } = later;
        if pools.is_some() {
            self.pools = pools;
        }
        if jobs.is_some() {
            self.jobs = jobs;
        }
        self.volumes.extend(volumes);
    }
}

impl Picture {
    /// Reads the stale parts again, and returns what changed.
    pub fn look(&mut self, storage: &dyn Storage, stale: Stale) -> Changes {
        let mut changes = Changes::default();
        let Stale { everything, pools, jobs, mut whole, mut volumes } = stale;
        let mut now = if everything || pools { storage.pools() } else { self.pools.clone() };
        // One that became active since the last look shows all of its volumes at once.
        let new = now.iter().filter(|pool| pool.info.is_some() && self.active(&pool.name).is_err());
        whole.extend(new.map(|pool| pool.name.clone()));
        if everything {
            whole.extend(now.iter().map(|pool| pool.name.clone()));
            whole.extend(self.volumes.keys().cloned());
        }
        for pool in &whole {
            self.look_at_all(storage, &mut now, pool, &mut changes);
        }
        volumes.retain(|(pool, _)| !whole.contains(pool));
        let relatives = volumes.iter().flat_map(|(pool, volume)| self.relatives(pool, volume));
        for (pool, volume) in relatives.collect::<BTreeSet<_>>().into_iter().chain(volumes) {
            match storage.volume(&pool, &volume) {
                Ok(info) if self.shown(&pool, &volume) != Some(&info) => {
                    changes.volumes.insert((pool, volume), Some(info));
                }
                Err(StorageError::NoVolume(_)) if self.shown(&pool, &volume).is_some() => {
                    changes.volumes.insert((pool, volume), None);
                }
                // As it was, or its pool is gone, of which an event tells.
                _ => {}
            }
        }
        if everything || jobs {
            let now = storage.jobs();
            changes.jobs = (now != self.jobs).then_some(now);
        }
        changes.pools = (now != self.pools).then_some(now);
        self.apply(changes.clone());
        changes
    }

    /// A pool whose volumes cannot be listed is not active, whatever it said a moment ago: one that is active and has
    /// no volumes is another thing.
    fn look_at_all(
        &self,
        storage: &dyn Storage,
        pools: &mut [PoolState],
        pool: &PoolName,
        changes: &mut Changes,
    ) {
        let now = storage.volumes(pool);
        if now.is_err()
            && let Some(state) = pools.iter_mut().find(|state| state.name == *pool)
        {
            (state.info, state.policy, state.damaged) = (None, None, false);
        }
        let now = now.unwrap_or_default();
        let there: BTreeSet<&VolumeName> = now.iter().map(|info| &info.name).collect();
        let before = self.volumes.get(pool).into_iter().flat_map(BTreeMap::keys);
        for gone in before.filter(|name| !there.contains(name)) {
            changes.volumes.insert((pool.clone(), gone.clone()), None);
        }
        for info in now {
            if self.shown(pool, &info.name) != Some(&info) {
                changes.volumes.insert((pool.clone(), info.name.clone()), Some(info));
            }
        }
    }

    /// What a volume was made from, and what was made from it: what is the one's alone, and what is shared, changes
    /// when it grows.
    fn relatives(&self, pool: &PoolName, volume: &VolumeName) -> Vec<(PoolName, VolumeName)> {
        let up = self.shown(pool, volume).and_then(|info| info.backing.clone());
        let all = self.volumes.get(pool).into_iter().flat_map(BTreeMap::values);
        let below = all.filter(|info| info.backing.as_ref() == Some(volume));
        let names = up.into_iter().chain(below.map(|info| info.name.clone()));
        names.map(|name| (pool.clone(), name)).collect()
    }

    fn shown(&self, pool: &PoolName, volume: &VolumeName) -> Option<&VolumeInfo> {
        self.volumes.get(pool)?.get(volume)
    }

    /// A volume with that UUID is gone.
    pub fn forget(&mut self, pool: &PoolName, volume: &VolumeName, uuid: &Uuid) {
        if let Some(of_pool) = self.volumes.get_mut(pool)
            && of_pool.get(volume).is_some_and(|info| info.uuid == *uuid)
        {
            of_pool.remove(volume);
        }
    }

    /// Takes in what changed.
    pub fn apply(&mut self, changes: Changes) {
        let Changes { pools, volumes, jobs } = changes;
        if let Some(pools) = pools {
            self.pools = pools;
        }
        if let Some(jobs) = jobs {
            self.jobs = jobs;
        }
        for ((pool, volume), info) in volumes {
            let of_pool = self.volumes.entry(pool.clone()).or_default();
            match info {
                Some(info) => drop(of_pool.insert(volume, info)),
                None => drop(of_pool.remove(&volume)),
            }
            if of_pool.is_empty() {
                self.volumes.remove(&pool);
            }
        }
    }

    /// All pools, by name.
    #[must_use]
    pub fn pools(&self) -> &[PoolState] {
        &self.pools
    }

    /// The jobs.
    #[must_use]
    pub fn jobs(&self) -> &[JobInfo] {
        &self.jobs
    }

    /// Leaves out all jobs: they end with the process that does them.
    pub fn end_jobs(&mut self) -> Vec<JobInfo> {
        std::mem::take(&mut self.jobs)
    }

    fn active(&self, name: &PoolName) -> Result<(), StorageError> {
        let active = self.pools.iter().any(|pool| pool.name == *name && pool.info.is_some());
        if active { Ok(()) } else { Err(not_active(name)) }
    }

    /// The volumes of an active pool, by name.
    ///
    /// # Errors
    /// [`StorageError::NotFound`].
    pub fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, StorageError> {
        self.active(pool)?;
        Ok(self.volumes.get(pool).into_iter().flat_map(BTreeMap::values).cloned().collect())
    }

    /// A volume of an active pool.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::NoVolume`].
    pub fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, StorageError> {
        self.active(pool)?;
        let none = || StorageError::NoVolume(format!("the pool '{pool}' has no volume '{volume}'"));
        self.shown(pool, volume).cloned().ok_or_else(none)
    }
}
