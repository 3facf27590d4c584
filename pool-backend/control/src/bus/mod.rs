// SPDX-License-Identifier: LGPL-2.1-or-later
//! The D-Bus interface, as `docs/developer/dbus.md` documents it.
//!
//! No other part waits for it. It listens to the event bus: when D-Bus is slow it loses the oldest events, and when D-Bus
//! is gone it connects again.
//!
//! - `manager`: the root object, its methods, and all signals but the standard ones;
//! - `objects`: pools and volumes; `facts`: what they show;
//! - `moves`: moves, VMs that wait, and peers; `jobs`: what the collector does;
//! - `vms`: VMs that have volumes;
//! - `tree`: which objects there are, kept up to date;
//! - `paths`: where they are;
//! - `gather`: many growths of a volume become one signal, nothing lost in the sums;
//! - `snapshots`: snapshots and differences;
//! - `rows`: lists, row by row; `options`: arguments that may be left out; `policy`: policies of pools;
//! - `volumes`: volumes are made and resized; `retry`: what waits is tried again;
//! - `access`: which callers may change things; `places`: limits for the questions of all others;
//! - `error`: errors by name.

mod access;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod documented;
mod error;
mod facts;
mod gather;
mod jobs;
#[cfg(test)]
mod listeners;
mod manager;
mod moves;
mod objects;
mod options;
mod paths;
mod places;
mod policy;
mod retry;
mod rows;
mod snapshots;
#[cfg(test)]
mod tests;
mod tree;
mod vms;
mod volumes;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};
use virtnotify_migrate::{Moves, Rates};
use virtnotify_model::{Event, Storage};
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::ObjectManager;
use zbus::object_server::SignalEmitter;

use crate::history::History;
use crate::recent::Recent;
use crate::usage::Usage;
use crate::vms::Vms;
use gather::Gather;
use manager::{Manager, emit};
pub use places::Places;
use tree::{Due, Tree};

/// The name on the system bus.
const NAME: &str = "org.virtnotify1";
/// Growths of a volume within this time become one signal.
const GATHER: Duration = Duration::from_millis(250);
/// After a failure, D-Bus is tried again after the first, then twice as long, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A signal that D-Bus does not take within this time ends the connection.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// What the methods answer from.
#[derive(Clone)]
pub struct Sources {
    /// The pools.
    pub storage: Arc<dyn Storage>,
    /// Changes when the process that serves them is found or lost.
    pub found: watch::Receiver<u64>,
    /// The moves under way.
    pub moves: Moves,
    /// The VMs of this host.
    pub vms: Vms,
    /// How fast volumes grow; kept by what is served here.
    pub rates: Arc<Mutex<Rates>>,
    /// Who used how much.
    pub usage: Usage,
    /// How full pools were.
    pub history: History,
    /// What happened lately.
    pub recent: Recent,
    /// The limits for questions, which every user may ask.
    pub looks: Arc<Places>,
    /// The limits for questions to polkit.
    pub decisions: Arc<Places>,
}

/// Serves D-Bus for ever. `served` is called when the name is there for the first time.
pub async fn run(sources: Sources, mut events: Receiver<Event>, served: impl FnOnce()) {
    let (mut pause, mut served) = (RETRY.0, Some(served));
    loop {
        let reason = match connect(&sources).await {
            Ok(mut teller) => {
                info!("on D-Bus as {NAME}");
                if let Some(served) = served.take() {
                    served();
                }
                pause = RETRY.0;
                teller.serve(&mut events).await
            }
            Err(error) => error.to_string(),
        };
        warn!("D-Bus is not served, and is tried again: {reason}");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// All objects are there before the name is.
async fn connect(sources: &Sources) -> zbus::Result<Teller> {
    let teller = Teller::new(zbus::connection::Builder::system(), sources).await?;
    teller.connection.request_name(NAME).await?;
    Ok(teller)
}

/// Tells one connection what happens.
struct Teller {
    sources: Sources,
    connection: Connection,
    tree: Tree,
    gather: Gather,
    due: Due,
}

impl Teller {
    async fn new(builder: Builder<'_>, sources: &Sources) -> zbus::Result<Self> {
        let builder = builder.serve_at(paths::ROOT, ObjectManager);
        let connection =
            builder.serve_at(paths::ROOT, Manager::new(sources.clone())).build().await?;
        let mut tree = Tree::new(sources.clone(), connection.clone());
        tree.look(Due::everything()).await?;
        let (gather, due) = (Gather::default(), Due::default());
        Ok(Self { sources: sources.clone(), connection, tree, gather, due })
    }

    /// Tells events until the connection ends; why it did is returned.
    async fn serve(&mut self, events: &mut Receiver<Event>) -> String {
        let mut moves = self.sources.moves.changes();
        let mut found = self.sources.found.clone();
        let mut vms = self.sources.vms.clone();
        let mut beat = interval(GATHER);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closed = closed(self.connection.clone());
        tokio::pin!(closed);
        loop {
            let idle = self.gather.is_empty() && self.due.is_nothing();
            let told = tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.take(event).await,
                    Err(RecvError::Lagged(lost)) => {
                        warn!("D-Bus is slow: {lost} events were not told");
                        self.due = Due::everything();
                        Ok(())
                    }
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                Ok(()) = moves.changed() => {
                    self.due.moves();
                    Ok(())
                }
                Ok(()) = vms.changed() => {
                    self.due.vms();
                    Ok(())
                }
                Ok(()) = found.changed() => self.tell_runs().await,
                _ = beat.tick(), if !idle => self.tell(None).await,
                () = &mut closed => return "the connection was closed".into(),
            };
            if let Err(reason) = told {
                return reason;
            }
        }
    }

    /// Takes in what happened, and tells it unless that can wait for more of the kind.
    async fn take(&mut self, event: Event) -> Result<(), String> {
        if self.note(&event) { self.tell(Some(event)).await } else { Ok(()) }
    }

    /// Notes what happened; says whether it is to be told at once.
    fn note(&mut self, event: &Event) -> bool {
        self.due.take(event);
        let mut rates = self.sources.rates();
        match event {
            Event::VolumeGrown { pool, volume, by, allocation, capacity } => {
                rates.grown(pool, volume, *by, *allocation, Instant::now());
                let (pool, volume) = (pool.clone(), volume.clone());
                self.gather.add(pool, volume, *by, *allocation, *capacity);
                return false;
            }
            Event::VolumeChanged { .. }
            | Event::VolumesChanged(_)
            | Event::PoolChanged(_)
            | Event::Lost => return false,
            Event::VolumeDeleted { pool, volume } => rates.forget(pool, volume),
            Event::Damage { pool, what } => self.tree.damage(pool, what),
            Event::PoolStopped(pool) => rates.forget_pool(pool),
            Event::MoveStarted(_) | Event::MoveFinished(_) | Event::MoveFailed { .. } => {
                self.due.moves();
            }
            _ => {}
        }
        true
    }

    /// Tells whether the process that serves the pools runs.
    async fn tell_runs(&self) -> Result<(), String> {
        let told = async {
            let manager = self.connection.object_server().interface::<_, Manager>(paths::ROOT);
            let manager = manager.await?;
            manager.get().await.storage_runs_changed(manager.signal_emitter()).await
        };
        in_time(told).await
    }

    /// Tells all that was gathered, and then the event: objects first, so that they are there,
    /// or gone, when a signal tells of it.
    async fn tell(&mut self, event: Option<Event>) -> Result<(), String> {
        let emitter = SignalEmitter::new(&self.connection, paths::ROOT);
        let emitter = emitter.map_err(|e| e.to_string())?;
        let look = self.tree.look(std::mem::take(&mut self.due));
        in_time(look).await?;
        for event in self.gather.take().into_iter().chain(event) {
            in_time(emit(&emitter, event)).await?;
        }
        Ok(())
    }
}

/// Ready when the connection is gone.
async fn closed(connection: Connection) {
    connection.closed().await;
}

async fn in_time(sent: impl Future<Output = zbus::Result<()>>) -> Result<(), String> {
    match tokio::time::timeout(SEND_LIMIT, sent).await {
        Ok(sent) => sent.map_err(|e| e.to_string()),
        Err(_) => Err("it does not take a signal".into()),
    }
}
