// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which parts there are, in which order they come up, and how they end.
//!
//! ```text
//! virtnotifyd ─── storage ──┬── bus      (D-Bus)
//!                  events   ├── mover    (moves VMs; asks libvirt)
//!                           ├── listener (the last events and results)
//!                           ├── watcher  (the VMs; asks libvirt)
//!                           ├── keeper   (the account of usage)
//!                           ├── recorder (how full pools were)
//!                           └── metrics
//! ```
//!
//! D-Bus is served once virtnotifyd was heard, so that no client sees a host without pools while it starts; after a
//! while also without it, so that clients learn what is wrong. The mover and the account begin once it was heard:
//! volumes that they have not been told of must not look as if they were gone. No part should end by itself: one that
//! does names itself in the log and brings all down, and systemd starts it anew.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};
use virtnotify_migrate::{Hypervisor, Libvirt, Mover, MoverConfig, Moves, Peer, Timing, Wire};
use virtnotify_model::{Bytes, EventBus, Storage};
use virtnotify_program::config::{Config, Metrics as MetricsConfig, Moves as MovesConfig, Tls};
use virtnotify_program::tell;
use virtnotify_remote::RemoteStorage;

use crate::boot;
use crate::bus;
use crate::certificates;
use crate::history::{Clock, History, Recorder};
use crate::metrics::Metrics;
use crate::recent::{Listener, Recent};
use crate::usage::{Keeper, Usage};
use crate::vms::Watcher;

/// How long virtnotifyd is waited for before D-Bus is served without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a bus is waited for before systemd is told that this is ready.
const READY: Duration = Duration::from_secs(12);
/// The time until virtnotifyd is told again that the host is drained, when it could not be told.
const AGAIN: Duration = Duration::from_secs(5);

/// Why this cannot start, or ends.
#[derive(Debug, Error)]
pub enum RunError {
    /// Moves cannot be kept track of.
    #[error(transparent)]
    Journal(#[from] virtnotify_migrate::JournalError),
    /// It is not known which boot of this host this is.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// libvirt's library cannot be used.
    #[error(transparent)]
    Libvirt(#[from] virtnotify_migrate::HvError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signal(#[source] io::Error),
    /// Another process holds the lock.
    #[error("another virtnotify-control runs on this host: it holds '{}'", _0.display())]
    Second(PathBuf),
    /// The lock cannot be had.
    #[error("cannot lock '{}': {source}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part ended that never should.
    #[error("the {0} ended by itself")]
    Ended(&'static str),
}

/// Runs until told to end, or until a part does.
pub async fn run(config: Config) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let _lock = lock(&config)?;
    let events = EventBus::new();
    let libvirt: Arc<dyn Hypervisor> =
        Arc::new(Libvirt::new(&config.moves.uri, certificates::missing)?);
    let remote = Arc::new(RemoteStorage::new(&config.paths.storage));
    let storage: Arc<dyn Storage> = remote.clone();
    let mover = mover(&config, libvirt.clone(), storage.clone(), events.clone())?;
    let usage = Usage::open(&config.paths.usage);
    let (watcher, vms) = Watcher::new(libvirt, &events);
    let keeper = Keeper::new(usage.clone(), storage.clone(), vms.clone(), &events);
    let history = History::open(&config.paths.history);
    let recorder = Recorder::new(history.clone(), storage.clone(), wall_clock());
    let metrics = metrics(&config.metrics, storage.clone(), mover.moves(), &events);

    let (stop, stopped) = watch::channel(false);
    let found = remote.found();
    let (looks, decisions) = (bus::Places::new(), bus::Places::new());
    let (moves, rates) = (mover.moves(), Arc::default());
    let drained = tell_drained(storage.clone(), mover.moves(), found.clone());
    let found_now = found.clone();
    let recent = Recent::new(wall_clock());
    let listener = Listener::new(recent.clone(), storage.clone(), &events);
    let sources = bus::Sources {
        storage,
        found: found_now,
        moves,
        vms,
        rates,
        usage,
        history,
        recent,
        looks,
        decisions,
    };
    let (heard, ready) = (found.clone(), ready_soon());
    let told = events.subscribe();
    // All listeners for events are there by now.
    remote.follow(events.clone());
    let mut bus = tokio::spawn(async move {
        let _ = tokio::time::timeout(PATIENCE, is_found(heard)).await;
        bus::run(sources, told, ready).await;
    });
    let heard = found.clone();
    let mut listener = tokio::spawn(async move {
        is_found(heard).await;
        listener.run().await;
    });
    let heard = found.clone();
    let mut watcher = tokio::spawn(async move {
        is_found(heard).await;
        watcher.run().await;
    });
    let (heard, ends) = (found.clone(), stopped.clone());
    let mut keeper = tokio::spawn(async move {
        tokio::select! {
            () = is_found(heard) => keeper.run(ends).await,
            // There is nothing to write down.
            () = ended(ends.clone()) => {}
        }
    });
    let (heard, ends) = (found.clone(), stopped.clone());
    let mut recorder = tokio::spawn(async move {
        tokio::select! {
            () = is_found(heard) => recorder.run(ends).await,
            () = ended(ends.clone()) => {}
        }
    });
    let mut metrics = tokio::spawn(metrics);
    let mut watchdog = tokio::spawn(watchdog());
    let mut drained = tokio::spawn(drained);
    let mut mover = tokio::spawn(async move {
        is_found(found).await;
        mover.run(stopped).await;
    });
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = &mut bus => Err(RunError::Ended("D-Bus part")),
        _ = &mut mover => Err(RunError::Ended("mover of VMs")),
        _ = &mut listener => Err(RunError::Ended("recorder of events")),
        _ = &mut watcher => Err(RunError::Ended("watcher of VMs")),
        _ = &mut keeper => Err(RunError::Ended("account of what volumes hold")),
        _ = &mut recorder => Err(RunError::Ended("recorder of how full pools are")),
        _ = &mut metrics => Err(RunError::Ended("writer of metrics")),
        _ = &mut drained => Err(RunError::Ended("teller of what is drained")),
        _ = &mut watchdog => Err(RunError::Ended("watchdog")),
    };
    tell(NotifyState::Stopping);
    info!("ending; what is under way is taken up by the next start");
    let _ = stop.send(true);
    for writer in [keeper, recorder] {
        if !writer.is_finished() {
            let _ = writer.await;
        }
    }
    result
}

/// The seconds since 1970.
fn wall_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// Tells systemd that this is ready: called once it is on D-Bus, and by itself after a while without a bus.
fn ready_soon() -> impl FnOnce() {
    let (served, mut waits) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = tokio::time::timeout(READY, &mut waits).await;
        tell(NotifyState::Ready);
        info!("ready");
    });
    move || drop(served)
}

/// Says "alive" to systemd at a quarter of the interval that it expects.
async fn watchdog() {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        std::future::pending::<()>().await;
    }
    let mut beat = tokio::time::interval(Duration::from_micros(micros) / 4);
    loop {
        beat.tick().await;
        tell(NotifyState::Watchdog);
    }
}

/// One for each journal, beside it.
fn lock(config: &Config) -> Result<Flock<File>, RunError> {
    let path = config.paths.moves.with_extension("lock");
    let failed = |source| RunError::Lock { path: path.clone(), source };
    std::fs::create_dir_all(&config.paths.moves).map_err(failed)?;
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    match Flock::lock(open.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => Err(RunError::Second(path)),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Ready when virtnotifyd was heard.
async fn is_found(mut found: watch::Receiver<u64>) {
    if found.wait_for(|found| *found > 0).await.is_err() {
        std::future::pending().await
    }
}

/// Ready when this ends.
async fn ended(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Tells virtnotifyd whether the host is drained: it prints that in the XML of its pools, where peers read it. One that
/// was started anew has forgotten it.
async fn tell_drained(storage: Arc<dyn Storage>, moves: Moves, mut found: watch::Receiver<u64>) {
    let mut changes = moves.changes();
    let mut told = None;
    loop {
        let now = (*found.borrow_and_update(), moves.is_drained());
        if now.0 > 0 && told != Some(now) {
            let storage = storage.clone();
            let answer = spawn_blocking(move || storage.set_drained(now.1)).await;
            match answer {
                Ok(Ok(())) => told = Some(now),
                Ok(Err(error)) => {
                    warn!("peers cannot be told whether this host is drained: {error}")
                }
                Err(error) => warn!("a thread was lost: {error}"),
            }
        }
        let again = told != Some(now) && now.0 > 0;
        tokio::select! {
            Ok(()) = found.changed() => {}
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
}

/// Writes metrics where an operator has named a file.
fn metrics(
    config: &MetricsConfig,
    storage: Arc<dyn Storage>,
    moves: Moves,
    events: &EventBus,
) -> impl Future<Output = ()> + use<> {
    let metrics = Metrics::new(storage, moves, events);
    let (file, pause) = (config.textfile.clone(), Duration::from_secs(config.interval.into()));
    async move {
        match file {
            Some(file) => metrics.run(file, pause).await,
            None => {
                drop(metrics);
                std::future::pending().await
            }
        }
    }
}

fn mover(
    config: &Config,
    libvirt: Arc<dyn Hypervisor>,
    storage: Arc<dyn Storage>,
    events: EventBus,
) -> Result<Mover, RunError> {
    let boot = boot::read(Path::new(boot::FILE))?;
    let (peers, wrong) = config.peers();
    for reason in wrong {
        warn!("{reason}");
    }
    let peers = peers.into_iter().map(|peer| Peer {
        name: peer.name,
        uri: peer.uri,
        arrivals: peer.arrivals,
        address: peer.address,
    });
    let moves = MoverConfig {
        boot,
        peers: peers.collect(),
        concurrent: config.moves.concurrent,
        bandwidth: Bytes::mib(config.moves.bandwidth_mib.into()),
        journal: config.paths.moves.clone(),
        tally: config.paths.moves.with_file_name("tally.json"),
        wire: Wire { tls: config.moves.tls == Tls::Require, connections: config.moves.connections },
        timing: timing(&config.moves),
    };
    Ok(Mover::new(moves, libvirt, storage, events)?)
}

fn timing(config: &MovesConfig) -> Timing {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Timing {
        retry: seconds(config.retry),
        retry_limit: seconds(config.retry_limit),
        stall: seconds(config.stall_timeout),
        nearer: seconds(config.nearer_timeout),
        no_return: seconds(config.no_return),
        ..Timing::default()
    }
}
