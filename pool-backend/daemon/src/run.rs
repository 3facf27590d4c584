// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which parts the daemon has, in which order they come up, and how they end.
//!
//! ```text
//! engine ── driver ──── storage socket  (virtnotify-proxy, which has libvirt's clients)
//!    │         │
//!    └─────────┴─ publisher ─ the same  (virtnotify-control: D-Bus, moves, metrics, usage)
//! ```
//!
//! The storage socket is served before the pools are started, since a client that waits for a pool
//! does better to wait for an answer than for a connection. systemd is told "ready" when the pools
//! that were active are active again. No part should end by itself: one that does names itself in
//! the log and brings the daemon down, and systemd starts it anew.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, spawn_blocking};
use tracing::{info, warn};
use virtnotify_driver::Driver;
use virtnotify_engine::{Engine, EngineConfig, EngineError};
use virtnotify_model::{Backend, Bytes, EventBus};
use virtnotify_program::config::{Config, Paths};
use virtnotify_program::tell;
use virtnotify_remote::{Publisher, server};
use virtnotifyd::Local;

use crate::watchdog;

/// The time until a pool that could not be started is tried again, at first and at last.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// Why the daemon cannot start, or ends.
#[derive(Debug, Error)]
pub enum RunError {
    /// The socket for the neighbours cannot be served.
    #[error("cannot listen on '{}': {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The storage engine cannot start.
    #[error("the storage engine cannot start: {0}")]
    Engine(#[from] EngineError),
    /// The host in memory cannot be made.
    #[error("the simulated host cannot begin: {0}")]
    Begin(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signal(#[source] io::Error),
    /// A part ended that never should.
    #[error("the {0} ended by itself")]
    Ended(&'static str),
    /// A thread that starts a part was lost.
    #[error("a thread was lost: {0}")]
    Thread(#[from] JoinError),
}

/// What the daemon stands on: this host, or one in memory.
pub struct Ground {
    /// Makes the engine.
    pub engine: Box<dyn FnOnce(EngineConfig, EventBus) -> Result<Arc<Engine>, EngineError> + Send>,
    /// The notes about volumes that are being received.
    pub received: PathBuf,
    /// What is done with the driver before pools are started.
    pub begin: Box<dyn FnOnce(Arc<Driver>) -> io::Result<()> + Send>,
}

impl Ground {
    /// This host.
    pub fn host() -> Self {
        Self {
            engine: Box::new(Engine::new),
            received: virtnotify_driver::RECEIVED.into(),
            begin: Box::new(|_| Ok(())),
        }
    }
}

/// Runs until told to end, or until a part does.
pub async fn run(config: Config, ground: Ground) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let events = EventBus::new();
    let engine = start_engine(&config, ground.engine, events.clone()).await?;
    let backend: Arc<dyn Backend> = engine.clone();
    let (driver, problems) = Driver::open(driver_paths(&config.paths), backend.clone());
    report(problems);
    let driver = Arc::new(driver);
    driver.tell_also(events.clone());
    // virtnotify-control tells it when that changes.
    driver.set_drained(config.paths.drained().exists());
    let storage = Local {
        driver: driver.clone(),
        backend,
        repair: engine.clone(),
        definitions: config.paths.definitions.clone(),
        received: ground.received,
        events: events.clone(),
    };
    let publisher = Publisher::new(Arc::new(storage), &events);
    let begins = driver.clone();
    spawn_blocking(move || (ground.begin)(begins)).await?.map_err(RunError::Begin)?;
    serve(config.paths.storage, driver.clone(), publisher.clone())?;
    let mut watchdog = tokio::spawn(watchdog::run(engine.clone()));
    let mut starter = tokio::spawn(start_pools(driver, publisher.clone()));
    let mut retrier = None;

    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = &mut watchdog => break Err(RunError::Ended("watchdog")),
            started = &mut starter, if !starter.is_finished() => {
                retrier = started??.map(tokio::spawn);
            }
        }
    };
    tell(NotifyState::Stopping);
    info!("ending; volumes in use stay as they are, and are taken up by the next start");
    if let Some(retrier) = retrier {
        retrier.abort();
    }
    let halted = spawn_blocking(move || {
        publisher.end();
        engine.halt();
    });
    halted.await?;
    ended
}

/// Serves the neighbours, in threads of its own.
fn serve(path: PathBuf, driver: Arc<Driver>, publisher: Arc<Publisher>) -> Result<(), RunError> {
    let listener = server::bind(&path).map_err(|source| RunError::Listen { path, source })?;
    std::thread::spawn(move || server::serve(&listener, driver, publisher));
    Ok(())
}

async fn start_engine(
    config: &Config,
    make: impl FnOnce(EngineConfig, EventBus) -> Result<Arc<Engine>, EngineError> + Send + 'static,
    events: EventBus,
) -> Result<Arc<Engine>, RunError> {
    let storage = &config.storage;
    let mut engine = EngineConfig::default();
    engine.lvm.clone_from(&config.paths.lvm);
    engine.lvm_timeout = Duration::from_secs(storage.lvm_timeout.into());
    engine.headroom = storage.headroom_mib.map(|mib| Bytes::mib(mib.into()));
    engine.headroom_limit = Bytes::mib(storage.headroom_limit_mib.into());
    engine.step = Bytes::mib(storage.step_mib.into());
    engine.hold_timeout = storage.hold_timeout;
    engine.collector_budget = Bytes::mib(config.collector.budget_mib.into());
    Ok(spawn_blocking(move || make(engine, events)).await??)
}

fn driver_paths(paths: &Paths) -> virtnotify_driver::Paths {
    virtnotify_driver::Paths { definitions: paths.definitions.clone(), state: paths.state.clone() }
}

/// Starts the pools that were active, then says "ready"; the task that this returns tries those
/// again that could not be started.
async fn start_pools(
    driver: Arc<Driver>,
    publisher: Arc<Publisher>,
) -> Result<Option<impl Future<Output = ()>>, RunError> {
    let starts = driver.clone();
    let problems = spawn_blocking(move || starts.start_pools()).await?;
    let retried = (!problems.is_empty()).then(|| retry_pools(driver, problems.clone()));
    report(problems);
    spawn_blocking(move || publisher.ready()).await?;
    tell(NotifyState::Ready);
    info!("ready");
    Ok(retried)
}

/// Tries again to start pools, at growing intervals, until none is left that should be active. Logs
/// which cannot be started when that changes.
async fn retry_pools(driver: Arc<Driver>, mut told: Vec<String>) {
    let mut wait = RETRY_FIRST;
    while !told.is_empty() {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_LAST);
        let retries = driver.clone();
        let Ok(problems) = spawn_blocking(move || retries.retry_pools()).await else { return };
        if problems != told {
            report(problems.clone());
        }
        told = problems;
    }
}

fn report(problems: Vec<String>) {
    for problem in problems {
        warn!("{problem}");
    }
}
