// SPDX-License-Identifier: LGPL-2.1-or-later
//! Accepts clients, within libvirt's limits.
//!
//! When there are `max_clients` on the two sockets together, the next one waits until
//! one leaves, and no further one is accepted. A client
//! that has to authenticate first takes one of `max_anonymous_clients` places of its
//! socket until it has; others of its sort wait their turn, root does not.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::task::JoinSet;
use virtnotify_wire::connect::AuthType;
use virtnotify_wire::{PoolEvent, StorageService};

use crate::auth;
use crate::client::ClientWriter;
use crate::config::{Access, Config};
use crate::connection::Connection;
use crate::events;
use crate::listen::Listener;
use crate::peer::Peer;
use crate::reserve::Reservations;
use crate::socket::split;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) service: Arc<dyn StorageService>,
    pub(crate) events: broadcast::Sender<PoolEvent>,
    pub(crate) defining: Arc<Reservations>,
    next_id: AtomicU64,
}

/// Serves clients until `shutdown` is ready; connections are then closed.
pub async fn run(
    config: Config,
    listeners: Vec<Listener>,
    service: Arc<dyn StorageService>,
    shutdown: impl Future<Output = ()>,
) {
    let (events, _) = broadcast::channel(events::BACKLOG);
    let sink = events.clone();
    service.set_event_sink(Box::new(move |event| {
        // No client listens: nobody misses it.
        let _ = sink.send(event);
    }));
    let clients = Arc::new(Semaphore::new(config.max_clients.max(1)));
    let shared = Arc::new(Shared {
        config,
        service,
        events,
        defining: Arc::default(),
        next_id: AtomicU64::new(1),
    });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&shared), Arc::clone(&clients)));
    }
    shutdown.await;
}

/// Accepts the clients of one socket; they end with it.
async fn accept(listener: Listener, shared: Arc<Shared>, clients: Arc<Semaphore>) {
    let anonymous = Arc::new(Semaphore::new(shared.config.max_anonymous_clients.max(1)));
    let mut connections = JoinSet::new();
    loop {
        match listener.socket.accept().await {
            Ok((stream, _)) => {
                // Without a place it is not talked to, and no further one is accepted.
                let Ok(place) = Arc::clone(&clients).acquire_owned().await else {
                    return;
                };
                let shared = Arc::clone(&shared);
                let anonymous = Arc::clone(&anonymous);
                connections.spawn(serve(stream, listener.access, shared, anonymous, place));
            }
            Err(error) => accept_failed(&error).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Out of descriptors, most likely: only a connection that ends helps, and there is no
/// event to wait for.
async fn accept_failed(error: &io::Error) {
    tracing::error!(%error, "a client could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn serve(
    stream: UnixStream,
    access: Access,
    shared: Arc<Shared>,
    anonymous: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "a client without credentials is refused");
            return;
        }
    };
    let must_prove = auth::required(shared.config.side(access).auth, &peer) != AuthType::None;
    let permit = if must_prove { anonymous.acquire_owned().await.ok() } else { None };
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let (reader, writer) = split(stream);
    let client = Arc::new(ClientWriter::new(writer));
    Connection::new(shared, access, peer, id, client, permit).run(reader).await;
}
