// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pools' lives: defined, created, built, started, stopped, deleted, undefined.
//!
//! ```text
//!            define                 start
//!   (none) ----------> inactive ------------> active --.
//!      ^                |  ^  ^                 |      | refresh
//!      |    undefine    |  |  '------ stop -----'  <---'
//!      '----------------'  '- build, delete
//!      create: from (none) or inactive straight to active; a transient pool has no inactive
//! ```
//!
//! Locks, in the order in which they are taken: a pool's *job* (held while the backend
//! works, so one start at a time; see [`JobLock`]), the lock on the *definitions* directory,
//! the lock on the *registry*. The last is never held while anything waits, so questions are
//! answered while a pool starts.
//!
//! Killed at any line: the run state is written before the backend starts a pool and removed after
//! it has stopped it. So what is active in the kernel is always known to the next daemon, which
//! starts it again (the backend finds it as it is); a start that was under way is completed. Until
//! then such a pool is shown as active, and calls about its volumes wait: no client is told
//! meanwhile that the pool is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use uuid::Uuid;
use virtnotify_model::{Backend, BuildMode, Event, EventBus, Policy};
use virtnotify_wire::StoragePool;
use virtnotify_wire::service::{EventSink, PoolEvent, PoolEventKind};

use crate::error::DriverError;
use crate::registry::{Entry, JobLock, Registry};
use crate::resume;
use crate::store::{Paths, Store};
use crate::xml::{self, PoolDefinition};

/// The detail of libvirt's lifecycle events; it knows no other.
const NO_DETAIL: i32 = 0;

/// `virStoragePoolEventLifecycleType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Defined = 0,
    Undefined = 1,
    Started = 2,
    Stopped = 3,
    Created = 4,
    Deleted = 5,
}

/// The storage driver for pools of type `notify`.
pub struct Driver {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) store: Store,
    registry: Mutex<Registry>,
    /// Signalled when a pool is no longer `resuming`.
    pub(crate) resumed: Condvar,
    /// Held while the definitions on disk and those in the registry are made equal.
    definitions: Mutex<()>,
    sink: Arc<RwLock<Option<EventSink>>>,
    /// Further listeners for pools that come and go.
    events: OnceLock<EventBus>,
    /// Whether this host is drained, as the driver was told last.
    drained: AtomicBool,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Driver").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Takes a lock; a thread that panicked while it held it has left nothing half done, since
/// changes under these locks are single assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Reads what is defined and what was active; starts nothing yet. What cannot be read
    /// is left out, and said in the second part of the answer.
    #[must_use]
    pub fn open(paths: Paths, backend: Arc<dyn Backend>) -> (Self, Vec<String>) {
        let store = Store::new(paths);
        let mut registry = Registry::default();
        let problems = resume::load(&store, &mut registry);
        let boot = !store.autostarted();
        registry.resume(|entry| entry.starting || (boot && entry.autostart));
        let driver = Driver {
            backend,
            store,
            registry: Mutex::new(registry),
            resumed: Condvar::new(),
            definitions: Mutex::new(()),
            sink: Arc::default(),
            events: OnceLock::new(),
            drained: AtomicBool::new(false),
        };
        (driver, problems)
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    fn job_lock(&self, uuid: Uuid) -> Option<JobLock> {
        self.settle(uuid);
        self.registry().get(uuid).map(|entry| entry.job.clone())
    }

    /// Looks at a pool.
    pub(crate) fn look<T>(
        &self,
        pool: &StoragePool,
        look: impl FnOnce(&Entry) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        look(self.registry().get(Uuid::from_bytes(pool.uuid.0)).ok_or_else(|| no_pool(pool))?)
    }

    /// Runs `job` when the pool has no other job.
    pub(crate) fn exclusive_job<T>(
        &self,
        pool: &StoragePool,
        job: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let lock = self.job_lock(Uuid::from_bytes(pool.uuid.0)).ok_or_else(|| no_pool(pool))?;
        let _held = lock.write().unwrap_or_else(PoisonError::into_inner);
        job()
    }

    /// Runs `job` while the pool is neither started nor stopped.
    pub(crate) fn shared_job<T>(
        &self,
        pool: &StoragePool,
        job: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let lock = self.job_lock(Uuid::from_bytes(pool.uuid.0)).ok_or_else(|| no_pool(pool))?;
        let _held = lock.read().unwrap_or_else(PoisonError::into_inner);
        job()
    }

    /// Sets where events go.
    pub(crate) fn set_sink(&self, sink: EventSink) {
        *self.sink.write().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    }

    fn tell(&self, pool: StoragePool, kind: PoolEventKind) {
        tell(&self.sink, pool, kind);
    }

    /// What to do when a client has written a volume of that pool, however long that took: clients
    /// hear that it changed.
    pub(crate) fn when_written(&self, pool: StoragePool) -> impl FnOnce() + Send + 'static {
        let sink = self.sink.clone();
        move || tell(&sink, pool, PoolEventKind::Refresh)
    }

    /// Tells these listeners of every pool that is defined, started, stopped or undefined from now
    /// on. Only the first call counts.
    pub fn tell_also(&self, events: EventBus) {
        let _ = self.events.set(events);
    }

    /// Sets whether the XML of all pools says that their host is drained.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    fn tell_life(&self, definition: &PoolDefinition, event: Life) {
        if let Some(events) = self.events.get() {
            events.emit(Event::PoolsChanged);
        }
        let kind = PoolEventKind::Lifecycle { event: event as i32, detail: NO_DETAIL };
        self.tell(handle(definition), kind);
    }

    /// Defines a pool, or defines it anew.
    ///
    /// # Errors
    /// When the XML is wrong, collides with another pool, or cannot be stored.
    pub fn define(&self, xml: &str, validate: bool) -> Result<StoragePool, DriverError> {
        let definition = PoolDefinition::parse(xml, validate)?;
        {
            let _definitions = lock(&self.definitions);
            self.registry().match_definition(&definition)?;
            self.store.save_definition(&definition)?;
            self.registry().define(definition.clone());
        }
        self.tell_life(&definition, Life::Defined);
        let pool = handle(&definition);
        self.apply_policy(&pool)?;
        Ok(pool)
    }

    /// Changes a pool's policy, now and in its definition: settings by their names, each as text.
    ///
    /// # Errors
    /// When there is no such pool, one of the settings cannot be, or it cannot be stored; nothing has changed then.
    pub fn set_policy(
        &self,
        pool: &StoragePool,
        settings: &[(String, String)],
    ) -> Result<(), DriverError> {
        // As a job: the active policy is nobody else's to change meanwhile.
        let defined = self.exclusive_job(pool, || {
            let (latest, active) = self.look(pool, |entry| {
                let latest = entry.next.as_ref().unwrap_or(&entry.definition).policy;
                Ok((latest, entry.definition.policy))
            })?;
            let policy = xml::changed_policy(latest, settings)?;
            self.give_policy(pool, Some(policy))?;
            let defined = match latest.unwrap_or_default() == policy {
                true => Ok(None),
                false => self.define_policy(pool, policy),
            };
            if defined.is_err()
                && let Err(error) = self.give_policy(pool, active)
            {
                tracing::warn!("the former policy of '{}' cannot be set again: {error}", pool.name);
            }
            defined
        })?;
        if let Some(definition) = defined {
            self.tell_life(&definition, Life::Defined);
        }
        Ok(())
    }

    /// Takes up a policy in a pool's definition; returns the definition where that is on disk.
    fn define_policy(
        &self,
        pool: &StoragePool,
        policy: Policy,
    ) -> Result<Option<PoolDefinition>, DriverError> {
        let _definitions = lock(&self.definitions);
        let (mut definition, persistent) = self.look(pool, |entry| {
            Ok((entry.next.as_ref().unwrap_or(&entry.definition).clone(), entry.persistent))
        })?;
        definition.policy = Some(policy);
        if persistent {
            self.store.save_definition(&definition)?;
        }
        self.registry().redefine(definition.clone());
        Ok(persistent.then_some(definition))
    }

    /// Gives an active pool the policy that was defined for it meanwhile: unlike everything else
    /// in its definition, that need not wait until it stops.
    fn apply_policy(&self, pool: &StoragePool) -> Result<(), DriverError> {
        if !self.look(pool, |entry| Ok(entry.has_other_policy()))? {
            return Ok(());
        }
        // As a job, after a start that is under way; of two definitions the later counts.
        self.exclusive_job(pool, || {
            let next = self.look(pool, |entry| Ok(entry.next.as_ref().map(|next| next.policy)))?;
            next.map_or(Ok(()), |policy| self.give_policy(pool, policy))
        })
    }

    /// Gives a pool another policy if it is active, as one of its jobs. When that fails it has the former one.
    fn give_policy(&self, pool: &StoragePool, policy: Option<Policy>) -> Result<(), DriverError> {
        let before = self.look(pool, |entry| Ok(entry.active.then(|| entry.definition.clone())))?;
        let Some(before) = before.filter(|before| before.policy != policy) else { return Ok(()) };
        let after = PoolDefinition { policy, ..before.clone() };
        let give = |definition: &PoolDefinition| {
            self.backend.set_policy(&definition.name, &definition.policy.unwrap_or_default())
        };
        give(&after)?;
        if let Err(error) = self.store.save_active(&after) {
            if let Err(error) = give(&before) {
                tracing::warn!("the former policy of '{}' cannot be set again: {error}", pool.name);
            }
            return Err(error.into());
        }
        if let Some(entry) = self.registry().get_mut(after.uuid) {
            entry.definition.policy = policy;
        }
        Ok(())
    }

    /// Makes a pool and starts it, without storing it.
    ///
    /// # Errors
    /// When the XML is wrong, collides with another pool, or the pool cannot be started.
    pub fn create(&self, xml: &str, build: Option<BuildMode>) -> Result<StoragePool, DriverError> {
        let definition = PoolDefinition::parse(xml, false)?;
        // A pool that is there already may have jobs. A new one cannot have any yet, and no other
        // call can start it: it is `starting` from its first moment.
        let job = self.job_lock(definition.uuid);
        let _held = job.as_ref().map(|job| job.write().unwrap_or_else(PoisonError::into_inner));
        {
            let _definitions = lock(&self.definitions);
            let mut registry = self.registry();
            if let Some(entry) = registry.match_definition(&definition)? {
                need_startable(entry)?;
            }
            registry.create(definition.clone()).starting = true;
        }
        self.start_taken(&definition, build, KeepState::No)?;
        Ok(handle(&definition))
    }

    /// Starts a pool, building it before if that is asked.
    ///
    /// # Errors
    /// When it is active, or cannot be started.
    pub fn start(&self, pool: &StoragePool, build: Option<BuildMode>) -> Result<(), DriverError> {
        self.exclusive_job(pool, || {
            let definition = {
                let mut registry = self.registry();
                let entry = registry.get_mut(Uuid::from_bytes(pool.uuid.0));
                let entry = entry.ok_or_else(|| no_pool(pool))?;
                need_inactive(entry)?;
                entry.starting = true;
                entry.definition.clone()
            };
            self.start_taken(&definition, build, KeepState::No)
        })
    }

    /// Starts a pool that is marked as starting, and unmarks it.
    pub(crate) fn start_taken(
        &self,
        definition: &PoolDefinition,
        build: Option<BuildMode>,
        keep: KeepState,
    ) -> Result<(), DriverError> {
        let started = self.start_backend(definition, build, keep);
        let mut registry = self.registry();
        if let Err(error) = started {
            registry.stopped(definition.uuid);
            drop(registry);
            // A volume group that is missing at this start of the daemon may be there at the next.
            if keep == KeepState::No {
                self.forget_active(definition);
            }
            return Err(error);
        }
        if let Some(entry) = registry.get_mut(definition.uuid) {
            entry.starting = false;
            entry.resuming = false;
            entry.retried = false;
            entry.active = true;
        }
        drop(registry);
        self.tell_life(definition, Life::Started);
        Ok(())
    }

    fn start_backend(
        &self,
        definition: &PoolDefinition,
        build: Option<BuildMode>,
        keep: KeepState,
    ) -> Result<(), DriverError> {
        let spec = definition.spec();
        if let Some(mode) = build {
            self.backend.build_pool(&spec, mode)?;
        }
        match self.store.save_active(definition) {
            // Guests may wait for a pool that was active already; its file is mostly there.
            Err(error) if keep == KeepState::Yes => tracing::warn!("{error}"),
            saved => saved?,
        }
        self.backend.start_pool(&spec)?;
        self.remove_unfinished(&spec.name);
        Ok(())
    }

    pub(crate) fn forget_active(&self, definition: &PoolDefinition) {
        if let Err(error) = self.store.remove_active(&definition.name) {
            tracing::warn!("{error}; the pool will be started when the daemon starts again");
        }
    }

    /// Makes the volume group of a pool.
    ///
    /// # Errors
    /// When the pool is active, or its devices cannot be used.
    pub fn build(&self, pool: &StoragePool, mode: BuildMode) -> Result<(), DriverError> {
        self.exclusive_job(pool, || {
            let definition = self.look(pool, |entry| {
                need_inactive(entry)?;
                Ok(entry.definition.clone())
            })?;
            self.backend.build_pool(&definition.spec(), mode)?;
            self.tell_life(&definition, Life::Created);
            Ok(())
        })
    }

    /// Stops a pool.
    ///
    /// # Errors
    /// When it is not active, or a volume of it is in use; it goes on as it was.
    pub fn destroy(&self, pool: &StoragePool) -> Result<(), DriverError> {
        self.exclusive_job(pool, || {
            if self.gives_up(pool) {
                return Ok(());
            }
            let definition = self.look(pool, |entry| {
                entry.need_active()?;
                entry.need_idle()?;
                Ok(entry.definition.clone())
            })?;
            self.backend.stop_pool(&definition.name)?;
            self.forget_active(&definition);
            self.registry().stopped(definition.uuid);
            self.tell_life(&definition, Life::Stopped);
            Ok(())
        })
    }

    /// Removes a pool's data; its definition stays.
    ///
    /// # Errors When the pool is active, has volumes, or its volume group holds logical volumes of
    /// others.
    pub fn delete(&self, pool: &StoragePool) -> Result<(), DriverError> {
        self.exclusive_job(pool, || {
            let definition = self.look(pool, |entry| {
                need_stopped(entry)?;
                Ok(entry.definition.clone())
            })?;
            self.backend.delete_pool(&definition.spec())?;
            self.forget_active(&definition);
            self.tell_life(&definition, Life::Deleted);
            Ok(())
        })
    }

    /// Removes a pool's definition; its data stays.
    ///
    /// # Errors
    /// When the pool is active, or its definition cannot be removed.
    pub fn undefine(&self, pool: &StoragePool) -> Result<(), DriverError> {
        self.exclusive_job(pool, || {
            let definition = {
                let _definitions = lock(&self.definitions);
                let definition = self.look(pool, |entry| {
                    need_stopped(entry)?;
                    Ok(entry.definition.clone())
                })?;
                self.store.remove_definition(&definition.name)?;
                self.registry().undefined(definition.uuid);
                definition
            };
            // It may be there from a start that failed.
            self.forget_active(&definition);
            self.tell_life(&definition, Life::Undefined);
            Ok(())
        })
    }

    /// Looks at a pool's volume group again.
    ///
    /// # Errors
    /// When the pool is not active, or its volume group cannot be read; it stays active, for
    /// its volumes may be in use.
    pub fn refresh(&self, pool: &StoragePool) -> Result<(), DriverError> {
        self.shared_job(pool, || {
            let definition = self.look(pool, |entry| {
                entry.need_active()?;
                Ok(entry.definition.clone())
            })?;
            self.backend.refresh_pool(&definition.name)?;
            self.tell(handle(&definition), PoolEventKind::Refresh);
            Ok(())
        })
    }

    /// Sets whether a pool starts with the host.
    ///
    /// # Errors
    /// When the pool is transient, or the link cannot be made or removed.
    pub fn set_autostart(&self, pool: &StoragePool, on: bool) -> Result<(), DriverError> {
        let _definitions = lock(&self.definitions);
        let definition = self.look(pool, |entry| {
            if entry.persistent {
                Ok(entry.definition.clone())
            } else {
                Err(DriverError::NoConfigFile)
            }
        })?;
        self.store.set_autostart(&definition.name, on)?;
        if let Some(entry) = self.registry().get_mut(definition.uuid) {
            entry.autostart = on;
        }
        Ok(())
    }
}

fn tell(sink: &RwLock<Option<EventSink>>, pool: StoragePool, kind: PoolEventKind) {
    if let Some(sink) = &*sink.read().unwrap_or_else(PoisonError::into_inner) {
        sink(PoolEvent { pool, kind });
    }
}

/// Whether a pool that cannot be started is tried again when the daemon starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepState {
    Yes,
    No,
}

/// How clients name a pool.
pub(crate) fn handle(definition: &PoolDefinition) -> StoragePool {
    StoragePool {
        name: definition.name.to_string(),
        uuid: virtnotify_wire::Uuid(definition.uuid.into_bytes()),
    }
}

pub(crate) fn no_pool(pool: &StoragePool) -> DriverError {
    DriverError::NoPool { uuid: Uuid::from_bytes(pool.uuid.0), name: pool.name.clone() }
}

/// For start and build.
fn need_inactive(entry: &Entry) -> Result<(), DriverError> {
    if entry.active {
        Err(DriverError::AlreadyActive(entry.name()))
    } else if entry.starting {
        Err(DriverError::Starting(entry.name()))
    } else {
        Ok(())
    }
}

/// For create.
fn need_startable(entry: &Entry) -> Result<(), DriverError> {
    if entry.active { Err(DriverError::ActiveAs(entry.name())) } else { need_inactive(entry) }
}

/// For delete and undefine.
fn need_stopped(entry: &Entry) -> Result<(), DriverError> {
    if entry.active {
        Err(DriverError::StillActive(entry.name()))
    } else if !entry.persistent {
        Err(DriverError::Transient(entry.name()))
    } else if entry.starting {
        Err(DriverError::Starting(entry.name()))
    } else {
        entry.need_idle()
    }
}
