// SPDX-License-Identifier: LGPL-2.1-or-later
//! Accepts clients, within libvirt's limits.
//!
//! When there are `max_clients` on the two sockets together, the next one waits until
//! one leaves; a tenth of the places is kept for root, as whom libvirt's own daemons come. A user
//! has at most `max_user_clients`, further ones are turned away. A client that has to
//! authenticate first takes one of `max_anonymous_clients` places of its socket until it has, of
//! which a user has a quarter at most; others of its sort wait their turn, root does not.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use virtnotify_wire::connect::AuthType;
use virtnotify_wire::{PoolEvent, StorageService};

use crate::access::AccessControl;
use crate::auth;
use crate::client::ClientWriter;
use crate::config::{Access, Config};
use crate::connection::Connection;
use crate::events;
use crate::listen::Listener;
use crate::peer::Peer;
use crate::places::{Counted, Places, Seat};
use crate::rarely::Rarely;
use crate::reserve::Reservations;
use crate::socket::split;
use crate::turns::Turns;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) service: Arc<dyn StorageService>,
    pub(crate) events: broadcast::Sender<PoolEvent>,
    pub(crate) defining: Arc<Reservations>,
    pub(crate) access: Arc<AccessControl>,
    /// Turns at threads that wait for the driver.
    pub(crate) driver: Arc<Turns>,
    places: Arc<Places>,
    pub(crate) rarely: Refusals,
    next_id: AtomicU64,
}

/// Refusals that any client can cause, as often as it likes.
#[derive(Default)]
pub(crate) struct Refusals {
    not_accepted: Rarely,
    turned_away: Rarely,
    /// Connections of users that were ended for what came from them.
    pub(crate) closed: Rarely,
    /// polkit said no.
    pub(crate) refused: Rarely,
    /// Upstream could not be asked.
    pub(crate) unasked: Rarely,
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
    let places = Places::new(&config);
    let sockets: Vec<_> = listeners.iter().filter_map(Listener::path).collect();
    let driver = Arc::new(Turns::new(config.driver_threads.max(1)));
    let access = AccessControl::new(&config.libvirt, &sockets, Arc::clone(&config.authority));
    let shared = Arc::new(Shared {
        config,
        service,
        events,
        defining: Arc::default(),
        access,
        driver,
        places,
        rarely: Refusals::default(),
        next_id: AtomicU64::new(1),
    });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&shared)));
    }
    shutdown.await;
}

/// Accepts the clients of one socket; they end with it.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let anonymous = Arc::new(Semaphore::new(shared.config.max_anonymous_clients.max(1)));
    let mut connections = JoinSet::new();
    loop {
        match listener.socket.accept().await {
            Ok((stream, _)) => {
                if let Some((peer, counted)) = shared.admit(&stream) {
                    let (shared, anonymous) = (Arc::clone(&shared), Arc::clone(&anonymous));
                    let access = listener.access;
                    connections.spawn(serve(stream, access, shared, anonymous, peer, counted));
                }
            }
            Err(error) => accept_failed(&error, &shared.rarely.not_accepted).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Out of descriptors, most likely: only a connection that ends helps, and there is no
/// event to wait for.
async fn accept_failed(error: &io::Error, rarely: &Rarely) {
    if let Some(left_out) = rarely.now() {
        tracing::error!(%error, left_out, "a client could not be accepted");
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

impl Shared {
    /// Who a client is, if it may take a place.
    fn admit(&self, stream: &UnixStream) -> Option<(Peer, Counted)> {
        let turned_away = |why: &str| {
            if let Some(left_out) = self.rarely.turned_away.now() {
                tracing::warn!(left_out, "a client is turned away: {why}");
            }
        };
        let peer = Peer::of(stream);
        let peer = peer.inspect_err(|error| turned_away(&error.to_string())).ok()?;
        let counted = self.places.count(peer.uid);
        if counted.is_none() {
            let (uid, most) = (peer.uid, self.config.max_user_clients);
            turned_away(&format!("the user {uid} has {most} clients, and may have no more"));
        }
        Some((peer, counted?))
    }
}

async fn serve(
    stream: UnixStream,
    access: Access,
    shared: Arc<Shared>,
    anonymous: Arc<Semaphore>,
    peer: Peer,
    counted: Counted,
) {
    let Some(place) = counted.place().await else { return };
    let must_prove = auth::required(shared.config.side(access).auth, &peer) != AuthType::None;
    let permit = match must_prove {
        true => (counted.turn().await, anonymous.acquire_owned().await.ok()),
        false => (None, None),
    };
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let (mut reader, writer) = split(stream);
    reader.charge(counted.memory());
    let client = Arc::new(ClientWriter::new(writer));
    let seat = Seat::new(place, counted);
    Connection::new(shared, access, peer, id, client, permit, seat).run(reader).await;
}
