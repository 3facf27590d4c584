// SPDX-License-Identifier: LGPL-2.1-or-later
//! Questions about pools. They are no jobs: they are answered whatever else is under way.

use uuid::Uuid;
use virtnotify_model::{PoolName, VgName};
use virtnotify_wire::{StoragePool, StorageVol};

use crate::driver::{Driver, handle};
use crate::error::DriverError;
use crate::registry::Entry;
use crate::xml::{PoolDefinition, PoolType, Standing, clean_path};

/// `virStoragePoolState`, as far as it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// Not started.
    Inactive = 0,
    /// Being taken up again after the daemon was restarted.
    Building = 1,
    /// Started.
    Running = 2,
    /// Started, with metadata that is damaged or cannot be written.
    Degraded = 3,
}

impl Driver {
    /// A pool's state and its sizes, which are all zero unless it is running.
    ///
    /// # Errors
    /// When there is no such pool, or the backend has lost it.
    pub fn info(&self, pool: &StoragePool) -> Result<(PoolState, Standing), DriverError> {
        let (state, name) = self.look(pool, |entry| {
            let state = match (entry.active, entry.resuming) {
                (true, _) => PoolState::Running,
                (false, true) => PoolState::Building,
                (false, false) => PoolState::Inactive,
            };
            Ok((state, entry.definition.name.clone()))
        })?;
        match state {
            PoolState::Running | PoolState::Degraded => {
                let damaged = self.backend.is_damaged(&name);
                let state = if damaged { PoolState::Degraded } else { state };
                Ok((state, self.backend.pool_info(&name)?.into()))
            }
            PoolState::Inactive | PoolState::Building => Ok((state, Standing::default())),
        }
    }

    /// A pool's XML.
    ///
    /// # Errors
    /// When there is no such pool.
    pub fn xml(
        &self,
        pool: &StoragePool,
        inactive: bool,
        kind: PoolType,
    ) -> Result<String, DriverError> {
        let definition = self.look(pool, |entry| {
            let next = entry.next.as_ref().filter(|_| inactive);
            Ok(next.unwrap_or(&entry.definition).clone())
        })?;
        let (_, mut standing) = self.info(pool)?;
        standing.drained = self.is_drained();
        standing.chunk.take_if(|_| inactive);
        Ok(definition.print(kind, &standing))
    }

    /// Finds a pool by its name.
    ///
    /// # Errors
    /// [`DriverError::NoPoolName`].
    pub fn by_name(&self, name: &str) -> Result<StoragePool, DriverError> {
        match self.registry().by_name(name) {
            Some(entry) => Ok(handle(&entry.definition)),
            None => Err(DriverError::NoPoolName(name.to_owned())),
        }
    }

    /// Finds a pool by its UUID.
    ///
    /// # Errors
    /// [`DriverError::NoPoolUuid`].
    pub fn by_uuid(&self, uuid: virtnotify_wire::Uuid) -> Result<StoragePool, DriverError> {
        let uuid = Uuid::from_bytes(uuid.0);
        match self.registry().get(uuid) {
            Some(entry) => Ok(handle(&entry.definition)),
            None => Err(DriverError::NoPoolUuid(uuid)),
        }
    }

    /// Finds the pool of a volume that a client knows.
    ///
    /// # Errors
    /// [`DriverError::NoPoolName`].
    pub fn by_volume(&self, volume: &StorageVol) -> Result<StoragePool, DriverError> {
        self.by_name(&volume.pool)
    }

    /// Finds an active pool by its directory.
    ///
    /// # Errors
    /// [`DriverError::NoPoolTarget`].
    pub fn by_target(&self, path: &str) -> Result<StoragePool, DriverError> {
        let clean = clean_path(path);
        let registry = self.registry();
        let found = registry.iter().find(|e| e.shown_active() && e.definition.target() == clean);
        match found {
            Some(entry) => Ok(handle(&entry.definition)),
            None => Err(DriverError::NoPoolTarget(path.to_owned())),
        }
    }

    /// The name, the UUID and the volume group of all pools, by name.
    #[must_use]
    pub fn definitions(&self) -> Vec<(PoolName, Uuid, VgName)> {
        let registry = self.registry();
        let of = |entry: &Entry| {
            let PoolDefinition { name, uuid, vg, .. } = &entry.definition;
            (name.clone(), *uuid, vg.clone())
        };
        let mut all: Vec<_> = registry.iter().map(of).collect();
        all.sort();
        all
    }

    /// All pools, by UUID.
    #[must_use]
    pub fn pools(&self) -> Vec<StoragePool> {
        self.list(|_| true)
    }

    /// The pools that `wanted` lets through, by UUID.
    pub fn list(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<StoragePool> {
        let registry = self.registry();
        registry.iter().filter(|entry| wanted(entry)).map(|e| handle(&e.definition)).collect()
    }
}
