// SPDX-License-Identifier: LGPL-2.1-or-later
//! The object `/org/virtnotify1`: what can be asked of the whole host, and all signals.
#![allow(clippy::too_many_arguments, reason = "a signal has as many arguments as it has")]
#![allow(clippy::type_complexity, reason = "zbus takes the arguments' types from the signature")]

use std::collections::HashMap;

use tokio::sync::Mutex;
use virtnotify_migrate::{Side, Word};
use virtnotify_model::{Event, PoolName, PoolState, RestoreWords, StorageError, Task, VolumeName};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedVariant, interface};

use super::Sources;
use super::error::Error;
use super::facts::PoolFacts;
use super::options::Options;
use super::rows::{
    EventRow, MoveRow, PlanRow, PoolRow, ResultRow, RetriedRow, SnapshotRow, UsedRow, VolumeRow,
};
use super::{paths, retry, snapshots};

/// The interface of the object.
const INTERFACE: &str = "org.virtnotify1.Manager";
/// A bus passes messages of 32 MiB, and closes the connection of who sends a longer one.
const TEXT_LIMIT: usize = 30 << 20;
/// What a restore may be told.
const RESTORE_OPTIONS: [&str; 3] = ["force", "no-archive", "dry-run"];
/// More paths than a VM has disks.
const MOST_PATHS: usize = 1024;

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
}

fn pools(sources: &Sources) -> Vec<PoolRow> {
    let row = |pool: &PoolState| {
        let facts = PoolFacts::of(pool);
        PoolRow(
            facts.name.to_string(),
            facts.uuid.to_string(),
            facts.active,
            facts.capacity,
            facts.allocation,
            facts.available,
            facts.headroom,
        )
    };
    sources.storage.pools().iter().map(row).collect()
}

pub fn no_pool(name: &str) -> Error {
    Error::NotFound(format!("there is no pool '{}'", name.escape_debug()))
}

fn dump(sources: &Sources, what: &str, from: &str) -> Result<String, Error> {
    let text = sources.storage.dump(what, from)?;
    if text.len() > TEXT_LIMIT {
        let size = text.len();
        return Err(Error::Failed(format!(
            "the map has {size} bytes, more than D-Bus carries: stop virtnotifyd and dump it then"
        )));
    }
    Ok(text)
}

#[interface(name = "org.virtnotify1.Manager")]
impl Manager {
    /// The version of virtnotify-control.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// All pools that are defined.
    #[zbus(out_args("pools"))]
    async fn list_pools(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<PoolRow>, Error> {
        self.sources.look(connection, &header, |sources| Ok(pools(sources))).await
    }

    /// All volumes of a pool that is active.
    #[zbus(out_args("volumes"))]
    async fn list_volumes(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        pool: String,
    ) -> Result<Vec<VolumeRow>, Error> {
        let name: PoolName = pool.parse().map_err(|_| no_pool(&pool))?;
        self.sources
            .look(connection, &header, move |sources| {
                let volumes = sources.storage.volumes(&name)?;
                Ok(volumes.into_iter().map(VolumeRow::of).collect())
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
        self.sources.may_manage(connection, &header).await?;
        if paths.len() > MOST_PATHS {
            return Err(Error::InvalidArgument(format!("more than {MOST_PATHS} paths at once")));
        }
        self.sources.ask(move |sources| Ok(sources.storage.ensure_active(&paths)?)).await
    }

    /// Begins to have a physical volume of a volume group with a pool empty: what the pool has there moves
    /// to the others, and nothing new comes there. Any path of the device will do.
    #[zbus(out_args("job"))]
    async fn evacuate(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        group: String,
        device: String,
    ) -> Result<ObjectPath<'static>, Error> {
        let pool = self.sources.look(connection, &header, move |sources| {
            let found = sources.storage.pools().into_iter().find(|pool| pool.vg.as_str() == group);
            let none = || Error::NotFound(format!("no pool lies in the volume group '{group}'"));
            Ok(found.ok_or_else(none)?.name)
        });
        let task = Task::Evacuate(device.into());
        self.sources.begin_job(connection, &header, pool.await?, task).await
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
        self.sources.may_manage(connection, &header).await?;
        let _alone = self.repairing.lock().await;
        self.sources.ask(move |sources| Ok(sources.storage.check(&what)?)).await
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
        self.sources.may_manage(connection, &header).await?;
        let _alone = self.repairing.lock().await;
        self.sources.ask(move |sources| dump(sources, &what, &from)).await
    }

    /// Writes the metadata of a pool that is not started, from `kernel`, from `backup`, or from
    /// `map`, which is the third argument then. Answers with what was done. Options are `force`, `no-archive` and
    /// `dry-run`, each a `b`.
    #[zbus(out_args("notes"))]
    async fn restore(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        vg: String,
        from: String,
        map: String,
        without: Vec<String>,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<Vec<String>, Error> {
        self.sources.may_manage(connection, &header).await?;
        let given = Options::of(options, &RESTORE_OPTIONS)?;
        let mut options = Vec::new();
        for name in RESTORE_OPTIONS {
            if given.flag(name)? {
                options.push(name.to_owned());
            }
        }
        let _alone = self.repairing.lock().await;
        let words = RestoreWords { vg, from, map, without, options };
        self.sources.ask(move |sources| Ok(sources.storage.restore(&words)?)).await
    }

    /// What volumes held for how long, since a time in seconds since 1970, or rather the
    /// beginning of that day of UTC: since and until when, and for each volume and VM the VM's
    /// name and UUID (empty when no VM has it), pool, volume, the volume's UUID, and bytes times
    /// hours.
    #[zbus(out_args("since", "until", "used"))]
    async fn usage(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        since: u64,
    ) -> Result<(u64, u64, Vec<UsedRow>), Error> {
        self.sources
            .look(connection, &header, move |sources| {
                let (since, until, used) = sources.usage.since(since);
                Ok((since, until, used.into_iter().map(UsedRow::of).collect()))
            })
            .await
    }

    /// What happened since a time in seconds since 1970, the oldest first, without growths and the progress of moves:
    /// since when none is missing, and of each when it happened, how severe it is (`info`, `notice`, `warning` or
    /// `critical`), the name of its signal, and the signal's arguments by name.
    #[zbus(out_args("since", "events"))]
    async fn events(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        since: u64,
    ) -> Result<(u64, Vec<EventRow>), Error> {
        self.sources
            .look(connection, &header, move |sources| {
                let (since, events) = sources.recent.events(since);
                Ok((since, events.into_iter().filter_map(EventRow::of).collect()))
            })
            .await
    }

    /// How the last jobs and moves ended, the oldest first: of each when it began and ended, in seconds since 1970, its
    /// task (`move`, or that of a job), which VM, pool or volume it was about, to which host or of which device, its
    /// state, and why it did not do what it was to do.
    #[zbus(out_args("results"))]
    async fn results(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<Vec<ResultRow>, Error> {
        self.sources
            .look(connection, &header, |sources| {
                Ok(sources.recent.results().into_iter().map(ResultRow::of).collect())
            })
            .await
    }

    /// The object of a pool.
    #[zbus(out_args("pool"))]
    async fn get_pool(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        name: String,
    ) -> Result<ObjectPath<'static>, Error> {
        self.sources
            .look(connection, &header, move |sources| {
                let pool = name.parse().ok().and_then(|pool| sources.storage.pool(&pool));
                pool.map(|pool| paths::pool(&pool.name)).ok_or_else(|| no_pool(&name))
            })
            .await
    }

    /// The object of a volume of a pool that is active.
    #[zbus(out_args("volume"))]
    async fn get_volume(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        pool: String,
        volume: String,
    ) -> Result<ObjectPath<'static>, Error> {
        let wrong = |e: virtnotify_model::NameError| Error::InvalidArgument(e.to_string());
        let pool: PoolName = pool.parse().map_err(wrong)?;
        let volume: VolumeName = volume.parse().map_err(wrong)?;
        self.sources
            .look(connection, &header, move |sources| {
                let info = sources.storage.volume(&pool, &volume)?;
                Ok(paths::volume(&info.pool, &info.name))
            })
            .await
    }

    /// Moves a VM, given by name or UUID, with its volumes to a peer, given by name or URI as it
    /// is configured, or, when that is empty, to the one that fits best. Answers with the move's
    /// object when it has begun.
    #[zbus(out_args("move"))]
    async fn migrate(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        domain: String,
        to: String,
    ) -> Result<ObjectPath<'static>, Error> {
        self.sources.may_manage(connection, &header).await?;
        self.sources.need_storage().await?;
        let to = Some(to.as_str()).filter(|to| !to.is_empty());
        let asked = self.sources.moves.ask(&domain, to).await;
        asked.map(paths::moving).map_err(|e| Error::Failed(e.to_string()))
    }

    /// Cancels the move of a VM, given by name or UUID: it stays where it is. Moves that other
    /// programs began are libvirt's alone: `virsh domjobabort`.
    async fn cancel_move(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        domain: String,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        self.sources.moves.cancel(&domain).map_err(|e| Error::NotFound(e.to_string()))
    }

    /// Ends a move that does not end by itself, such as one whose peer is gone for good: the VM, given by name or UUID,
    /// is kept on this host (`here`) or on the peer (`there`), whose name may be empty where there is one such move.
    /// Nothing is deleted on either host. Answers with what follows; with the option `dry-run`, a `b`, that is all.
    #[zbus(out_args("what"))]
    async fn settle_move(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        domain: String,
        keep: String,
        peer: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<String, Error> {
        self.sources.may_manage(connection, &header).await?;
        let dry_run = Options::of(options, &["dry-run"])?.flag("dry-run")?;
        let keep = match keep.as_str() {
            "here" => Side::Here,
            "there" => Side::There,
            _ => {
                let wrong = "a VM is kept 'here' or 'there'";
                return Err(Error::InvalidArgument(wrong.into()));
            }
        };
        let by = self.sources.who(connection, &header).await;
        let word = Word { keep, peer: Some(peer).filter(|peer| !peer.is_empty()), by, dry_run };
        let settled = self.sources.moves.settle(&domain, word).await;
        settled.map_err(|e| Error::Failed(e.to_string()))
    }

    /// What the move of a VM would be if it began now, the VM and the peer given as for `Migrate`. All peers are
    /// asked, and nothing is changed.
    #[zbus(out_args("plan"))]
    async fn plan(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        domain: String,
        to: String,
    ) -> Result<(PlanRow,), Error> {
        self.sources.may_manage(connection, &header).await?;
        self.sources.need_storage().await?;
        let to = Some(to.as_str()).filter(|to| !to.is_empty());
        let plan = self.sources.moves.preview(&domain, to).await;
        plan.map(|plan| (PlanRow::of(plan),)).map_err(|e| Error::Failed(e.to_string()))
    }

    /// Tries at once again what waits for space: pools look at their volume groups, and VMs that have no space then
    /// move if they can. Says of each VM that waited its name, its UUID, what it does now (`resumes`, `moves` or
    /// `waits`), and why it still waits. There are no options yet.
    #[zbus(out_args("vms"))]
    async fn retry_now(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<Vec<RetriedRow>, Error> {
        self.sources.may_manage(connection, &header).await?;
        Options::none(options)?;
        retry::now(&self.sources).await
    }

    /// Writes into a VM's metadata that it is not to be moved (`true`), or that it may be (`false`); what is there
    /// about peers stays.
    async fn pin(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        domain: String,
        pinned: bool,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let pinned = self.sources.moves.pin(&domain, pinned).await;
        pinned.map_err(|e| Error::Failed(e.to_string()))
    }

    /// Has this host be emptied: its VMs with volumes of ours move away one after the other, and no peer sends it any,
    /// over restarts, until it is called with `false`.
    async fn drain(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        drained: bool,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let done = self.sources.ask(move |sources| {
            let kept = |e| Error::Failed(format!("it cannot be written down: {e}"));
            sources.moves.drain(drained).map_err(kept)?;
            match sources.storage.set_drained(drained) {
                // It reads that when it starts.
                Err(StorageError::Unreachable(_)) => Ok(()),
                told => Ok(told?),
            }
        });
        done.await?;
        Ok(self.drained_changed(&emitter).await?)
    }

    /// Whether virtnotifyd runs. While it does not, no volume grows, and what it is asked fails.
    #[zbus(property)]
    fn storage_runs(&self) -> bool {
        self.sources.storage.runs()
    }

    /// Whether this host is being emptied.
    #[zbus(property)]
    fn drained(&self) -> bool {
        self.sources.moves.is_drained()
    }

    /// Takes a snapshot of each of these volumes, `POOL/VOLUME`, all of one pool and all at one
    /// moment. Answers with the snapshots' objects. There are no options yet.
    #[zbus(out_args("snapshots"))]
    async fn take_snapshot(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        volumes: Vec<String>,
        name: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<Vec<ObjectPath<'static>>, Error> {
        self.sources.may_manage(connection, &header).await?;
        Options::none(options)?;
        self.sources.ask(move |sources| snapshots::take(sources, &volumes, &name)).await
    }

    /// Has a volume hold again what its snapshot, `POOL/VOLUME@NAME`, holds; the volume must not
    /// be in use. There are no options yet.
    async fn roll_back(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        snapshot: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        Options::none(options)?;
        self.sources.ask(move |sources| snapshots::roll_back(sources, &snapshot)).await
    }

    /// Deletes a snapshot, `POOL/VOLUME@NAME`. There are no options yet.
    async fn delete_snapshot(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        snapshot: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        Options::none(options)?;
        self.sources.ask(move |sources| snapshots::delete(sources, &snapshot)).await
    }

    /// The snapshots of a volume, `POOL/VOLUME`, of a pool, or, when that is empty, of all pools
    /// that are active; the oldest first.
    #[zbus(out_args("snapshots"))]
    async fn list_snapshots(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        of: String,
    ) -> Result<Vec<SnapshotRow>, Error> {
        self.sources.look(connection, &header, move |sources| snapshots::list(sources, &of)).await
    }

    /// Which parts of a volume or a snapshot may differ from `base`, a snapshot of the same pool
    /// that it goes back to, or all that it holds when that is empty: the size of the volume,
    /// offset, length and whether there is data, from an offset on. When `next` is not 0, there is
    /// more from there on.
    #[zbus(out_args("capacity", "extents", "next"))]
    async fn difference(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        volume: String,
        base: String,
        offset: u64,
    ) -> Result<(u64, Vec<(u64, u64, bool)>, u64), Error> {
        self.sources.may_manage(connection, &header).await?;
        self.sources
            .ask(move |sources| snapshots::difference(sources, &volume, &base, offset))
            .await
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
    #[allow(dead_code, reason = "declared here, and sent by `emit`")]
    async fn move_started(emitter: &SignalEmitter<'_>, what: &MoveRow) -> zbus::Result<()>;

    /// A VM's move goes on: so many bytes of memory and disks are copied.
    #[zbus(signal)]
    async fn move_progress(
        emitter: &SignalEmitter<'_>,
        what: &MoveRow,
        done: u64,
        total: u64,
    ) -> zbus::Result<()>;

    /// A VM runs on the other host, and its volumes here are gone.
    #[zbus(signal)]
    #[allow(dead_code, reason = "declared here, and sent by `emit`")]
    async fn move_finished(emitter: &SignalEmitter<'_>, what: &MoveRow) -> zbus::Result<()>;

    /// A VM could not be moved: why, and what happens next.
    #[zbus(signal)]
    async fn move_failed(
        emitter: &SignalEmitter<'_>,
        what: &MoveRow,
        kind: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    /// A VM was seen to run on two hosts at once: what was done, and what is to be done.
    #[zbus(signal)]
    async fn runs_twice(
        emitter: &SignalEmitter<'_>,
        what: &MoveRow,
        reason: &str,
    ) -> zbus::Result<()>;

    /// No VM could move to that peer: why.
    #[zbus(signal)]
    async fn peer_failed(emitter: &SignalEmitter<'_>, peer: &str, reason: &str)
    -> zbus::Result<()>;

    /// VMs can move to that peer again.
    #[zbus(signal)]
    async fn peer_ready(emitter: &SignalEmitter<'_>, peer: &str) -> zbus::Result<()>;

    /// A VM that was paused for want of space runs again on this host.
    #[zbus(signal)]
    async fn resumed(emitter: &SignalEmitter<'_>, domain: &str) -> zbus::Result<()>;
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
        Event::PeerFailed { peer, reason } => Manager::peer_failed(to, &peer, &reason).await,
        Event::PeerReady { peer } => Manager::peer_ready(to, &peer).await,
        Event::Resumed { domain } => Manager::resumed(to, &domain).await,
        // zbus takes a single structure for the list of all arguments.
        Event::MoveStarted(info) => to.emit(INTERFACE, "MoveStarted", &(MoveRow::of(&info),)).await,
        Event::MoveProgress { info, done, total } => {
            Manager::move_progress(to, &MoveRow::of(&info), done.0, total.0).await
        }
        Event::MoveFinished(info) => {
            to.emit(INTERFACE, "MoveFinished", &(MoveRow::of(&info),)).await
        }
        Event::MoveFailed { info, kind, reason } => {
            Manager::move_failed(to, &MoveRow::of(&info), kind.name(), &reason).await
        }
        Event::RunsTwice { info, reason } => {
            Manager::runs_twice(to, &MoveRow::of(&info), &reason).await
        }
        // Others are seen in the objects' properties alone.
        _ => Ok(()),
    }
}
