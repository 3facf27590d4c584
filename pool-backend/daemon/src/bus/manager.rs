// SPDX-License-Identifier: LGPL-2.1-or-later
//! The object `/org/virtnotify1`: what can be asked of the whole host, and all signals.
#![allow(clippy::too_many_arguments, reason = "a signal has as many arguments as it has")]
#![allow(clippy::type_complexity, reason = "zbus takes the arguments' types from the signature")]

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tracing::warn;
use virtnotify_driver::{Driver, DriverError};
use virtnotify_model::{BackendError, Event, PoolName, VolumeInfo, VolumeState};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::wire::Type;
use zbus::{Connection, interface};

use super::Sources;
use super::access::may_manage;
use super::error::Error;
use super::repair;

/// More paths than a VM has disks.
const MOST_PATHS: usize = 1024;

/// A pool: name, UUID, active, then sizes in bytes: capacity, allocation, available, headroom.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct PoolRow(String, String, bool, u64, u64, u64, u64);

/// A volume: name, UUID, path, state, then sizes in bytes: capacity, allocation.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct VolumeRow(String, String, String, String, u64, u64);

/// The object.
pub struct Manager {
    sources: Sources,
    /// One check, dump or restore at a time: they read everything, and others wait without a
    /// thread.
    repairing: Mutex<()>,
}

impl Manager {
    /// Answers from these.
    pub fn new(sources: Sources) -> Self {
        Self { sources, repairing: Mutex::new(()) }
    }

    /// The storage side may wait for LVM: it is asked on a thread of its own.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Sources) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let sources = self.sources.clone();
        let asked = spawn_blocking(move || question(&sources)).await;
        asked.unwrap_or_else(|e| Err(Error::Failed(format!("the daemon has a fault there: {e}"))))
    }
}

fn pools(sources: &Sources) -> Result<Vec<PoolRow>, Error> {
    let Sources { driver, backend, .. } = sources;
    let all = driver.list(|_| true);
    let mut rows = Vec::with_capacity(all.len());
    for pool in all {
        let name: PoolName = pool.name.parse().map_err(|_| no_pool(&pool.name))?;
        // One that ends meanwhile is simply not active.
        let info = backend.pool_info(&name).ok();
        let size = |of: fn(&virtnotify_model::PoolInfo) -> u64| info.as_ref().map_or(0, of);
        rows.push(PoolRow(
            pool.name.clone(),
            pool.uuid.to_string(),
            info.is_some(),
            size(|i| i.capacity.0),
            size(|i| i.allocation.0),
            size(|i| i.available.0),
            size(|i| i.headroom.0),
        ));
    }
    Ok(rows)
}

fn no_pool(name: &str) -> Error {
    Error::NotFound(format!("there is no pool '{}'", name.escape_debug()))
}

fn volume_row(info: &VolumeInfo) -> VolumeRow {
    VolumeRow(
        info.name.to_string(),
        info.uuid.to_string(),
        info.path.display().to_string(),
        state(info.state).to_owned(),
        info.capacity.0,
        info.allocation.0,
    )
}

fn state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Growing => "growing",
        VolumeState::OutOfSpace => "out-of-space",
        VolumeState::Inactive => "inactive",
    }
}

fn ensure_active(driver: &Driver, paths: &[String]) -> Result<(), Error> {
    if paths.len() > MOST_PATHS {
        return Err(Error::InvalidArgument(format!("more than {MOST_PATHS} paths at once")));
    }
    for path in paths {
        match driver.ensure_active(path) {
            // At the destination of a migration, libvirt makes the volume only after this; and
            // when a VM starts without one, libvirt says so itself.
            Err(DriverError::NoVolume(_) | DriverError::Backend(BackendError::NoVolume { .. })) => {
            }
            other => drop(other?),
        }
    }
    Ok(())
}

fn warn_of_cache(sources: &Sources, guest: String, cached: &[String]) {
    let is_ours = |path: &&String| {
        let names = path.strip_prefix("/dev/notify/").unwrap_or(path).split_once('/');
        let names = names.and_then(|(p, v)| Some((p.parse().ok()?, v.parse().ok()?)));
        names.is_some_and(|(pool, volume)| sources.backend.volume(&pool, &volume).is_ok())
    };
    let ours: Vec<&str> = cached.iter().filter(is_ours).map(String::as_str).collect();
    if ours.is_empty() {
        return;
    }
    let what = format!(
        "its disk on {} has neither cache='none' nor cache='directsync': when the pool is full, \
         the guest gets I/O errors instead of being paused",
        ours.join(", ")
    );
    warn!("'{}': {what}", guest.escape_debug());
    sources.events.emit(Event::Warning { domain: guest, what });
}

#[interface(name = "org.virtnotify1.Manager")]
impl Manager {
    /// The version of the daemon.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// All pools that are defined.
    #[zbus(out_args("pools"))]
    async fn list_pools(&self) -> Result<Vec<PoolRow>, Error> {
        self.ask(pools).await
    }

    /// All volumes of a pool that is active.
    #[zbus(out_args("volumes"))]
    async fn list_volumes(&self, pool: String) -> Result<Vec<VolumeRow>, Error> {
        let name: PoolName = pool.parse().map_err(|_| no_pool(&pool))?;
        self.ask(move |sources| {
            let volumes = sources.backend.volumes(&name)?;
            Ok(volumes.iter().map(volume_row).collect())
        })
        .await
    }

    /// Makes sure that these volumes, `/dev/notify/POOL/VOLUME` or `POOL/VOLUME`, can be opened;
    /// their pools are started when they are not. The error says which cannot, and why. A
    /// `POOL/VOLUME` of a pool that is not ours is passed over.
    async fn ensure_active(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        paths: Vec<String>,
    ) -> Result<(), Error> {
        may_manage(connection, &header).await?;
        self.ask(move |sources| ensure_active(&sources.driver, &paths)).await
    }

    /// Compares all that there is of a pool, named by its name or its volume group. It runs LVM
    /// and reads all metadata, so it is for who may manage.
    #[zbus(out_args("verdict", "vg", "pool", "id", "started", "findings", "figures"))]
    async fn check(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        what: String,
    ) -> Result<
        (u32, String, String, String, bool, Vec<(String, String, String)>, Vec<(String, u64)>),
        Error,
    > {
        may_manage(connection, &header).await?;
        let _alone = self.repairing.lock().await;
        self.ask(move |sources| repair::check(sources, &what)).await
    }

    /// A pool's map as text, from `metadata`, `kernel` or `backup`.
    #[zbus(out_args("map"))]
    async fn dump(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        what: String,
        from: String,
    ) -> Result<String, Error> {
        may_manage(connection, &header).await?;
        let _alone = self.repairing.lock().await;
        self.ask(move |sources| repair::dump(sources, &what, &from)).await
    }

    /// Writes the metadata of a pool that is not started, from `kernel`, from `backup`, or from
    /// `map`, which is the third argument then. Answers with what was done.
    #[zbus(out_args("notes"))]
    async fn restore(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        vg: String,
        from: String,
        map: String,
        without: Vec<String>,
        options: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        may_manage(connection, &header).await?;
        let _alone = self.repairing.lock().await;
        self.ask(move |sources| repair::restore(sources, &vg, &from, map, &without, &options)).await
    }

    /// What libvirt's hook says of a guest that is about to start here, or to come here: its
    /// volumes as for `EnsureActive`, and those of them that its disks have with a cache mode that
    /// would turn the end of space into an I/O error. Of these it is warned, never refused.
    async fn guest_starts(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        guest: String,
        paths: Vec<String>,
        cached: Vec<String>,
    ) -> Result<(), Error> {
        may_manage(connection, &header).await?;
        if paths.len() > MOST_PATHS || cached.len() > MOST_PATHS {
            return Err(Error::InvalidArgument(format!("more than {MOST_PATHS} disks at once")));
        }
        self.ask(move |sources| {
            ensure_active(&sources.driver, &paths)?;
            warn_of_cache(sources, guest, &cached);
            Ok(())
        })
        .await
    }

    /// Cancels the move of a VM, given by name or UUID: it stays where it is. Moves that other
    /// programs began are libvirt's alone: `virsh domjobabort`.
    async fn cancel_move(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        domain: String,
    ) -> Result<(), Error> {
        may_manage(connection, &header).await?;
        self.sources.moves.cancel(&domain).map_err(|e| Error::NotFound(e.to_string()))
    }

    /// A pool was started.
    #[zbus(signal)]
    async fn pool_started(emitter: &SignalEmitter<'_>, pool: &str) -> zbus::Result<()>;

    /// A pool was stopped.
    #[zbus(signal)]
    async fn pool_stopped(emitter: &SignalEmitter<'_>, pool: &str) -> zbus::Result<()>;

    /// A volume was made.
    #[zbus(signal)]
    async fn volume_created(
        emitter: &SignalEmitter<'_>,
        pool: &str,
        volume: &str,
        capacity: u64,
    ) -> zbus::Result<()>;

    /// A volume was deleted, and its space is free.
    #[zbus(signal)]
    async fn volume_deleted(
        emitter: &SignalEmitter<'_>,
        pool: &str,
        volume: &str,
    ) -> zbus::Result<()>;

    /// A volume grew, perhaps several times since the last signal: by so many bytes in all.
    #[zbus(signal)]
    async fn volume_grown(
        emitter: &SignalEmitter<'_>,
        pool: &str,
        volume: &str,
        by: u64,
        allocation: u64,
        capacity: u64,
    ) -> zbus::Result<()>;

    /// The pool's room fell below its low mark.
    #[zbus(signal)]
    async fn space_low(emitter: &SignalEmitter<'_>, pool: &str, available: u64)
    -> zbus::Result<()>;

    /// A volume asked for space that there is not: its VM pauses.
    #[zbus(signal)]
    async fn space_exhausted(
        emitter: &SignalEmitter<'_>,
        pool: &str,
        volume: &str,
        wanted: u64,
        available: u64,
    ) -> zbus::Result<()>;

    /// A pool that was full has room again.
    #[zbus(signal)]
    async fn space_available(
        emitter: &SignalEmitter<'_>,
        pool: &str,
        available: u64,
    ) -> zbus::Result<()>;

    /// Something is wrong with a pool; a human has to look.
    #[zbus(signal)]
    async fn damage(emitter: &SignalEmitter<'_>, pool: &str, what: &str) -> zbus::Result<()>;

    /// A VM is set up so that something is going to go wrong.
    #[zbus(signal)]
    async fn warning(emitter: &SignalEmitter<'_>, domain: &str, what: &str) -> zbus::Result<()>;

    /// A VM starts to move to another host.
    #[zbus(signal)]
    async fn move_started(
        emitter: &SignalEmitter<'_>,
        domain: &str,
        uuid: &str,
        pool: &str,
        volumes: &[String],
        from: &str,
        to: &str,
        allocation: u64,
    ) -> zbus::Result<()>;

    /// A VM's move goes on: so many bytes of memory and disks are copied.
    #[zbus(signal)]
    async fn move_progress(
        emitter: &SignalEmitter<'_>,
        domain: &str,
        uuid: &str,
        pool: &str,
        volumes: &[String],
        from: &str,
        to: &str,
        allocation: u64,
        done: u64,
        total: u64,
    ) -> zbus::Result<()>;

    /// A VM runs on the other host, and its volumes here are gone.
    #[zbus(signal)]
    async fn move_finished(
        emitter: &SignalEmitter<'_>,
        domain: &str,
        uuid: &str,
        pool: &str,
        volumes: &[String],
        from: &str,
        to: &str,
        allocation: u64,
    ) -> zbus::Result<()>;

    /// A VM could not be moved: why, and what happens next.
    #[zbus(signal)]
    async fn move_failed(
        emitter: &SignalEmitter<'_>,
        domain: &str,
        uuid: &str,
        pool: &str,
        volumes: &[String],
        from: &str,
        to: &str,
        allocation: u64,
        reason: &str,
    ) -> zbus::Result<()>;

    /// A VM that was paused for want of space runs again on this host.
    #[zbus(signal)]
    async fn resumed(emitter: &SignalEmitter<'_>, domain: &str) -> zbus::Result<()>;
}

/// The signals of a move begin with the same arguments.
macro_rules! move_signal {
    ($signal:path, $to:expr, $info:expr $(, $more:expr)*) => {{
        let volumes: Vec<String> = $info.volumes.iter().map(ToString::to_string).collect();
        $signal(
            $to,
            &$info.domain,
            &$info.uuid.to_string(),
            $info.pool.as_str(),
            &volumes,
            &$info.from,
            &$info.to,
            $info.allocation.0
            $(, $more)*
        )
        .await
    }};
}

/// Sends the signal of an event.
pub async fn emit(to: &SignalEmitter<'_>, event: Event) -> zbus::Result<()> {
    match event {
        Event::PoolStarted(pool) => Manager::pool_started(to, pool.as_str()).await,
        Event::PoolStopped(pool) => Manager::pool_stopped(to, pool.as_str()).await,
        Event::VolumeCreated { pool, volume, capacity } => {
            Manager::volume_created(to, pool.as_str(), volume.as_str(), capacity.0).await
        }
        Event::VolumeDeleted { pool, volume } => {
            Manager::volume_deleted(to, pool.as_str(), volume.as_str()).await
        }
        Event::VolumeGrown { pool, volume, by, allocation, capacity } => {
            let (pool, volume) = (pool.as_str(), volume.as_str());
            Manager::volume_grown(to, pool, volume, by.0, allocation.0, capacity.0).await
        }
        Event::SpaceLow { pool, available } => {
            Manager::space_low(to, pool.as_str(), available.0).await
        }
        Event::SpaceExhausted { pool, volume, wanted, available } => {
            let (pool, volume) = (pool.as_str(), volume.as_str());
            Manager::space_exhausted(to, pool, volume, wanted.0, available.0).await
        }
        Event::SpaceAvailable { pool, available } => {
            Manager::space_available(to, pool.as_str(), available.0).await
        }
        Event::Damage { pool, what } => Manager::damage(to, pool.as_str(), &what).await,
        Event::Warning { domain, what } => Manager::warning(to, &domain, &what).await,
        Event::Resumed { domain } => Manager::resumed(to, &domain).await,
        Event::MoveStarted(info) => move_signal!(Manager::move_started, to, info),
        Event::MoveProgress { info, done, total } => {
            move_signal!(Manager::move_progress, to, info, done.0, total.0)
        }
        Event::MoveFinished(info) => move_signal!(Manager::move_finished, to, info),
        Event::MoveFailed { info, reason } => {
            move_signal!(Manager::move_failed, to, info, &reason)
        }
        // An event that is newer than this interface has no signal.
        _ => Ok(()),
    }
}
