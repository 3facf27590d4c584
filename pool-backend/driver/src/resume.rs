// SPDX-License-Identifier: LGPL-2.1-or-later
//! Taking up, when the daemon starts, what the last one left: definitions, and pools that were active.
//! Guests may wait for those, so each starts in a thread of its own; calls about them wait in turn, for
//! a while. A pool that cannot be started now may start later, when its disks are there or LVM has time
//! to answer: it is tried again until it works or the pool is stopped or undefined.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use uuid::Uuid;
use virtnotify_model::BackendError;
use virtnotify_wire::StoragePool;

use crate::driver::{Driver, KeepState, handle};
use crate::error::DriverError;
use crate::registry::Registry;
use crate::store::Store;
use crate::xml::PoolDefinition;

/// How long a call waits for a pool that the daemon takes up again.
const RESUME_MAX: Duration = Duration::from_secs(30);

impl Driver {
    /// Starts what was active when the last daemon ended and, once after a boot, what starts
    /// with the host; each pool in a thread of its own, since guests may wait for it. Says
    /// what could not be started.
    #[must_use]
    pub fn start_pools(&self) -> Vec<String> {
        let definitions: Vec<PoolDefinition> = {
            let registry = self.registry();
            let wanted = registry.iter().filter(|entry| entry.resuming);
            wanted.map(|entry| entry.definition.clone()).collect()
        };
        let problems = std::thread::scope(|scope| {
            let start = |definition| scope.spawn(move || self.take_up(definition));
            let threads: Vec<_> = definitions.iter().map(start).collect();
            let results = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            results
                .zip(&definitions)
                .filter_map(|(result, pool)| not_started(result, pool))
                .collect()
        });
        // Last: killed before this, the next daemon starts all of them.
        if let Err(error) = self.store.set_autostarted() {
            tracing::warn!("{error}");
        }
        problems
    }

    /// Tries again to start what could not be taken up. Says what still cannot be.
    #[must_use]
    pub fn retry_pools(&self) -> Vec<String> {
        let wanted: Vec<StoragePool> = {
            let registry = self.registry();
            let retried = registry.iter().filter(|entry| entry.retried && !entry.active);
            retried.map(|entry| handle(&entry.definition)).collect()
        };
        let retry = |pool: &StoragePool| {
            self.exclusive_job(pool, || {
                let definition = {
                    let mut registry = self.registry();
                    let entry = registry.get_mut(Uuid::from_bytes(pool.uuid.0));
                    // Started, given up or undefined meanwhile.
                    let wanted = entry.filter(|entry| entry.retried && !entry.active);
                    let Some(entry) = wanted else { return Ok(()) };
                    entry.starting = true;
                    entry.definition.clone()
                };
                if let Err(error) = self.start_taken(&definition, None, KeepState::Yes) {
                    if let Some(entry) = self.registry().get_mut(definition.uuid) {
                        entry.retried = may_work_later(&error);
                    }
                    return Err(error);
                }
                tracing::info!("the pool '{}' is started after all", definition.name);
                Ok(())
            })
        };
        let failed = |pool| retry(pool).err().map(|error| told(&pool.name, &error.to_string()));
        wanted.iter().filter_map(failed).collect()
    }

    /// Ends the tries for a pool; returns whether there were any.
    pub(crate) fn gives_up(&self, pool: &StoragePool) -> bool {
        let definition = {
            let mut registry = self.registry();
            let entry = registry.get_mut(Uuid::from_bytes(pool.uuid.0));
            let retried = entry.filter(|entry| entry.retried && !entry.active);
            let Some(entry) = retried else { return false };
            entry.retried = false;
            entry.definition.clone()
        };
        self.forget_active(&definition);
        true
    }

    /// Starts one pool at the daemon's start. It has no job meanwhile: each waits until the
    /// pool is no longer `resuming`.
    fn take_up(&self, definition: &PoolDefinition) -> Result<(), DriverError> {
        let started = self.start_taken(definition, None, KeepState::Yes);
        if let Some(entry) = self.registry().get_mut(definition.uuid) {
            entry.resuming = false;
            entry.retried = started.as_ref().is_err_and(may_work_later);
        }
        self.resumed.notify_all();
        started
    }

    /// Waits while the pool is being taken up again.
    pub(crate) fn settle(&self, uuid: Uuid) {
        let deadline = Instant::now() + RESUME_MAX;
        let mut registry = self.registry();
        while registry.get(uuid).is_some_and(|entry| entry.resuming) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            let waited = self.resumed.wait_timeout(registry, left);
            registry = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Whether a pool that cannot be started now may start later by itself. Damage is mended by a person,
/// who starts the pool then.
fn may_work_later(error: &DriverError) -> bool {
    !matches!(error, DriverError::Backend(BackendError::Damaged { .. }))
}

/// The warning about a pool that could not be started at the daemon's start.
fn not_started(
    result: std::thread::Result<Result<(), DriverError>>,
    definition: &PoolDefinition,
) -> Option<String> {
    let error = match result {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a fault in the daemon; its log says more".to_owned(),
    };
    Some(told(definition.name.as_str(), &error))
}

fn told(pool: &str, error: &str) -> String {
    format!("the pool '{pool}' could not be started: {error}")
}

/// Fills the registry from the files.
pub(crate) fn load(store: &Store, registry: &mut Registry) -> Vec<String> {
    let mut problems = Vec::new();
    // What was active comes first: of two definitions of one pool it is the one in use.
    let (active, ignored) = store.active();
    problems.extend(ignored.iter().map(ToString::to_string));
    for stored in active {
        match registry.match_definition(&stored.definition) {
            Ok(_) => registry.create(stored.definition).starting = true,
            Err(error) => problems.push(clash(&stored.definition, &error)),
        }
    }
    let (definitions, ignored) = store.definitions();
    problems.extend(ignored.iter().map(ToString::to_string));
    for stored in definitions {
        match registry.match_definition(&stored.definition) {
            Ok(_) => {
                let uuid = stored.definition.uuid;
                registry.define(stored.definition);
                if let Some(entry) = registry.get_mut(uuid) {
                    entry.autostart = stored.autostart;
                    entry.next.take_if(|next| *next == entry.definition);
                }
            }
            Err(error) => problems.push(clash(&stored.definition, &error)),
        }
    }
    problems
}

fn clash(definition: &PoolDefinition, error: &DriverError) -> String {
    format!("the definition of the pool '{}' is ignored: {error}", definition.name)
}
