// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pools that the driver knows: no I/O, no waiting, behind one lock that is held for
//! moments only.
//!
//! A pool is *persistent* (it has a definition on disk), *active*, or both; one that is
//! neither is gone. An active pool that is defined anew keeps the definition it was started
//! with, and takes up the new one when it stops.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, RwLock};

use uuid::Uuid;
use virtnotify_model::VolumeName;

use crate::error::DriverError;
use crate::flags::ListedPool;
use crate::xml::PoolDefinition;

/// The lock of a pool's jobs: one that starts, stops or changes the pool is exclusive, those that
/// change volumes share it. Questions are no jobs.
pub type JobLock = Arc<RwLock<()>>;

/// A pool.
#[derive(Debug)]
pub struct Entry {
    /// Its definition, now or when it is started.
    pub definition: PoolDefinition,
    /// Its definition once it has stopped.
    pub next: Option<PoolDefinition>,
    /// It is started.
    pub active: bool,
    /// It is being started.
    pub starting: bool,
    /// It was active when the last daemon ended, or starts with the host, and is not active
    /// yet; it is `starting` as well.
    pub resuming: bool,
    /// It could not be started again: that is tried again.
    pub retried: bool,
    /// It has a definition on disk.
    pub persistent: bool,
    /// It starts with the host.
    pub autostart: bool,
    /// Volumes that a call that takes long is at work with.
    pub busy: HashSet<VolumeName>,
    /// The lock of its jobs.
    pub job: JobLock,
}

impl Entry {
    fn new(definition: PoolDefinition) -> Self {
        Entry {
            definition,
            next: None,
            active: false,
            starting: false,
            resuming: false,
            retried: false,
            persistent: false,
            autostart: false,
            busy: HashSet::new(),
            job: JobLock::default(),
        }
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.definition.name.to_string()
    }

    /// Whether clients see it as active.
    #[must_use]
    pub fn shown_active(&self) -> bool {
        self.active || self.resuming
    }

    /// What lists filter by.
    #[must_use]
    pub fn listed(&self) -> ListedPool {
        ListedPool {
            active: self.shown_active(),
            persistent: self.persistent,
            autostart: self.autostart,
        }
    }

    /// Whether it is started, or about to be, with a policy that was defined anew since.
    #[must_use]
    pub fn has_other_policy(&self) -> bool {
        self.next.as_ref().is_some_and(|next| next.policy != self.definition.policy)
    }

    /// # Errors
    /// [`DriverError::NotActive`].
    pub fn need_active(&self) -> Result<(), DriverError> {
        if self.active { Ok(()) } else { Err(DriverError::NotActive(self.name())) }
    }

    /// # Errors
    /// [`DriverError::JobsRunning`].
    pub fn need_idle(&self) -> Result<(), DriverError> {
        if self.busy.is_empty() { Ok(()) } else { Err(DriverError::JobsRunning(self.name())) }
    }

    /// # Errors
    /// [`DriverError::VolumeInUse`].
    pub fn need_free(&self, volume: &VolumeName) -> Result<(), DriverError> {
        if self.busy.contains(volume) {
            Err(DriverError::VolumeInUse(volume.to_string()))
        } else {
            Ok(())
        }
    }
}

/// All pools, by UUID.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<Uuid, Entry>,
}

impl Registry {
    /// The pool of that UUID.
    #[must_use]
    pub fn get(&self, uuid: Uuid) -> Option<&Entry> {
        self.entries.get(&uuid)
    }

    /// The pool of that UUID, to change it.
    pub fn get_mut(&mut self, uuid: Uuid) -> Option<&mut Entry> {
        self.entries.get_mut(&uuid)
    }

    /// The pool of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Entry> {
        self.iter().find(|entry| entry.definition.name.as_str() == name)
    }

    /// All pools.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Finds the pool that a definition is of: `None` if it would be a new one.
    ///
    /// # Errors
    /// When its name, its UUID or its volume group is another pool's.
    pub fn match_definition(&self, new: &PoolDefinition) -> Result<Option<&Entry>, DriverError> {
        if let Some(other) = self.iter().find(|entry| shares_source(entry, new)) {
            return Err(DriverError::SourceTaken { name: other.name(), vg: new.vg.clone() });
        }
        if let Some(entry) = self.get(new.uuid) {
            if entry.definition.name == new.name {
                return Ok(Some(entry));
            }
            return Err(DriverError::UuidTaken { name: entry.name(), uuid: new.uuid });
        }
        match self.by_name(new.name.as_str()) {
            None => Ok(None),
            Some(entry) => {
                let uuid = entry.definition.uuid;
                Err(DriverError::NameTaken { name: entry.name(), uuid })
            }
        }
    }

    /// Takes up a persistent definition that [`Registry::match_definition`] allowed.
    pub fn define(&mut self, new: PoolDefinition) {
        match self.entries.get_mut(&new.uuid) {
            Some(entry) => {
                entry.persistent = true;
                self.redefine(new);
            }
            None => {
                let entry = Entry { persistent: true, ..Entry::new(new) };
                self.entries.insert(entry.definition.uuid, entry);
            }
        }
    }

    /// Takes up another definition of a pool, which stays persistent or transient.
    pub fn redefine(&mut self, new: PoolDefinition) {
        let Some(entry) = self.entries.get_mut(&new.uuid) else { return };
        if entry.active || entry.starting {
            entry.next = Some(new);
        } else {
            entry.definition = new;
        }
    }

    /// Takes up the definition of a pool that is about to start, and which
    /// [`Registry::match_definition`] allowed. A persistent pool's own definition comes back when
    /// it stops.
    pub fn create(&mut self, new: PoolDefinition) -> &mut Entry {
        let entry = self.entries.entry(new.uuid).or_insert_with(|| Entry::new(new.clone()));
        if entry.persistent && entry.next.is_none() {
            entry.next = Some(std::mem::replace(&mut entry.definition, new));
        } else {
            entry.definition = new;
        }
        entry
    }

    /// Marks a pool as not active: a transient one goes, another takes up its latest definition.
    pub fn stopped(&mut self, uuid: Uuid) {
        let Some(entry) = self.entries.get_mut(&uuid) else { return };
        entry.active = false;
        entry.starting = false;
        entry.resuming = false;
        if let Some(next) = entry.next.take() {
            entry.definition = next;
        }
        if !entry.persistent {
            self.entries.remove(&uuid);
        }
    }

    /// Marks pools that are to be started again.
    pub fn resume(&mut self, wanted: impl Fn(&Entry) -> bool) {
        for entry in self.entries.values_mut() {
            entry.resuming = wanted(entry);
            entry.starting = entry.resuming;
        }
    }

    /// Removes a pool's definition, and with it a pool that is not active.
    pub fn undefined(&mut self, uuid: Uuid) {
        self.entries.remove(&uuid);
    }
}

/// Whether another pool than the one that `new` defines lies in the same volume group.
fn shares_source(entry: &Entry, new: &PoolDefinition) -> bool {
    let definitions = [Some(&entry.definition), entry.next.as_ref()];
    let mut definitions = definitions.into_iter().flatten();
    entry.definition.name != new.name && definitions.any(|definition| definition.vg == new.vg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, uuid: u128, vg: &str) -> PoolDefinition {
        PoolDefinition {
            name: name.parse().unwrap(),
            uuid: Uuid::from_u128(uuid),
            vg: vg.parse().unwrap(),
            devices: Vec::new(),
            permissions: crate::xml::Permissions::default(),
            chunk: None,
            policy: None,
        }
    }

    #[test]
    fn conflicts_are_found() {
        let mut registry = Registry::default();
        registry.define(pool("a", 1, "vg0"));
        let conflict = |new| registry.match_definition(&new).map(|found| found.is_some());
        assert!(conflict(pool("a", 1, "vg9")).unwrap());
        assert!(!conflict(pool("b", 2, "vg1")).unwrap());
        assert!(matches!(conflict(pool("a", 2, "vg1")), Err(DriverError::NameTaken { .. })));
        assert!(matches!(conflict(pool("b", 1, "vg1")), Err(DriverError::UuidTaken { .. })));
        assert!(matches!(conflict(pool("b", 2, "vg0")), Err(DriverError::SourceTaken { .. })));
    }

    #[test]
    fn an_active_pool_keeps_its_definition_until_it_stops() {
        let uuid = Uuid::from_u128(1);
        let mut registry = Registry::default();
        registry.define(pool("a", 1, "vg0"));
        registry.get_mut(uuid).unwrap().active = true;
        registry.define(pool("a", 1, "vg1"));
        assert_eq!(registry.get(uuid).unwrap().definition.vg.as_str(), "vg0");
        assert!(registry.match_definition(&pool("b", 2, "vg1")).is_err());
        registry.stopped(uuid);
        assert_eq!(registry.get(uuid).unwrap().definition.vg.as_str(), "vg1");
    }

    #[test]
    fn a_transient_pool_that_is_redefined_stays_transient() {
        let uuid = Uuid::from_u128(1);
        let mut registry = Registry::default();
        registry.create(pool("a", 1, "vg0")).active = true;
        let policy = Some(virtnotify_model::Policy::default());
        registry.redefine(PoolDefinition { policy, ..pool("a", 1, "vg0") });
        let entry = registry.get(uuid).unwrap();
        assert!(entry.has_other_policy() && !entry.persistent);
        registry.stopped(uuid);
        assert!(registry.get(uuid).is_none());
    }

    #[test]
    fn a_transient_pool_goes_when_it_stops_and_leaves_what_was_defined() {
        let uuid = Uuid::from_u128(1);
        let mut registry = Registry::default();
        registry.create(pool("a", 1, "vg0"));
        registry.stopped(uuid);
        assert!(registry.get(uuid).is_none());
        registry.define(pool("a", 1, "vg0"));
        registry.create(pool("a", 1, "vg1")).active = true;
        assert_eq!(registry.get(uuid).unwrap().definition.vg.as_str(), "vg1");
        registry.stopped(uuid);
        assert_eq!(registry.get(uuid).unwrap().definition.vg.as_str(), "vg0");
    }
}
