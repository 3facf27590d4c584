// SPDX-License-Identifier: LGPL-2.1-or-later
//! D-Bus: what the world is told, and what it may ask. Documented in `docs/dbus.md`.
//!
//! A neighbour of everything else: no part waits for it. It listens to the event bus; when
//! D-Bus is slow it loses the oldest events, when D-Bus is gone it connects again.
//!
//! - `manager`: the object, its methods and signals;
//! - `gather`: many growths of a volume become one signal, nothing lost in the sums;
//! - `repair`: check, dump and restore;
//! - `access`: who may change things;
//! - `error`: errors by name.

mod access;
mod error;
mod gather;
mod manager;
mod repair;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};
use virtnotify_driver::Driver;
use virtnotify_engine::repair::Repair;
use virtnotify_migrate::Moves;
use virtnotify_model::{Backend, Event, EventBus};
use zbus::Connection;
use zbus::fdo::ObjectManager;
use zbus::object_server::SignalEmitter;

use gather::Gather;
use manager::{Manager, emit};

/// The name on the system bus.
const NAME: &str = "org.virtnotify1";
/// The object that has everything.
const PATH: &str = "/org/virtnotify1";
/// Growths of a volume within this time become one signal.
const GATHER: Duration = Duration::from_millis(250);
/// After a failure, D-Bus is tried again after the first, then twice as long, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A signal that D-Bus does not take within this time ends the connection.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// What the methods answer from.
#[derive(Clone)]
pub struct Sources {
    /// The pools by definition.
    pub driver: Arc<Driver>,
    /// The pools that are started.
    pub backend: Arc<dyn Backend>,
    /// The moves under way.
    pub moves: Moves,
    /// What is told.
    pub events: EventBus,
    /// Check, dump and restore.
    pub repair: Arc<dyn Repair>,
    /// Where the pools' definitions are.
    pub definitions: PathBuf,
}

/// Serves D-Bus for ever.
pub async fn run(sources: Sources) {
    let mut events = sources.events.subscribe();
    let mut pause = RETRY.0;
    loop {
        let reason = match connect(&sources).await {
            Ok(connection) => {
                info!("on D-Bus as {NAME}");
                pause = RETRY.0;
                serve(&connection, &mut events).await
            }
            Err(error) => error.to_string(),
        };
        warn!("D-Bus is not served, and is tried again: {reason}");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn connect(sources: &Sources) -> zbus::Result<Connection> {
    zbus::connection::Builder::system()
        .serve_at(PATH, ObjectManager)
        .serve_at(PATH, Manager::new(sources.clone()))
        .name(NAME)
        .build()
        .await
}

/// Tells events until the connection ends; why it did is returned.
async fn serve(connection: &Connection, events: &mut Receiver<Event>) -> String {
    let mut gather = Gather::default();
    let mut beat = interval(GATHER);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            event = events.recv() => match event {
                Ok(Event::VolumeGrown { pool, volume, by, allocation, capacity }) => {
                    gather.add(pool, volume, by, allocation, capacity);
                    Ok(())
                }
                Ok(event) => tell(connection, gather.before(event)).await,
                Err(RecvError::Lagged(lost)) => {
                    warn!("D-Bus is slow: {lost} events were not told");
                    Ok(())
                }
                Err(RecvError::Closed) => std::future::pending().await,
            },
            _ = beat.tick(), if !gather.is_empty() => tell(connection, gather.take()).await,
            () = closed(connection) => return "the connection was closed".into(),
        };
        if let Err(reason) = told {
            return reason;
        }
    }
}

/// Ready when the connection is gone.
async fn closed(connection: &Connection) {
    use futures_util::StreamExt as _;
    let mut messages = zbus::MessageStream::from(connection);
    while let Some(Ok(_)) = messages.next().await {}
}

async fn tell(connection: &Connection, events: Vec<Event>) -> Result<(), String> {
    let emitter = SignalEmitter::new(connection, PATH).map_err(|e| e.to_string())?;
    for event in events {
        match tokio::time::timeout(SEND_LIMIT, emit(&emitter, event)).await {
            Ok(sent) => sent.map_err(|e| e.to_string())?,
            Err(_) => return Err("it does not take a signal".into()),
        }
    }
    Ok(())
}
