// SPDX-License-Identifier: LGPL-2.1-or-later
//! Events of our pools, for the clients that asked for pool events.
//!
//! A client registers upstream; the number that upstream gives its callback is the one
//! our events carry. A registration is for one kind of event, and for one pool or all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::{self, error::RecvError};
use virtnotify_wire::frame::EncodeError;
use virtnotify_wire::service::PoolEventKind;
use virtnotify_wire::storage::{
    ConnectStoragePoolEventRegisterAnyArgs, StoragePoolEventLifecycleMsg,
    StoragePoolEventRefreshMsg,
};
use virtnotify_wire::{Frame, PoolEvent, Procedure, StoragePool, Uuid};

use crate::access::{Guard, Object, Verdict};
use crate::client::ClientWriter;

/// How many events a client may be behind before it loses some.
pub const BACKLOG: usize = 1024;

/// `VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE`
const LIFECYCLE: i32 = 0;
/// `VIR_STORAGE_POOL_EVENT_ID_REFRESH`
const REFRESH: i32 = 1;

/// What one client wants to hear.
#[derive(Debug, Default)]
pub struct Registrations(Mutex<HashMap<i32, Registration>>);

#[derive(Debug, Clone, Copy)]
struct Registration {
    event_id: i32,
    pool: Option<Uuid>,
}

impl Registrations {
    fn all(&self) -> MutexGuard<'_, HashMap<i32, Registration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a callback that upstream has accepted.
    pub fn add(&self, callback_id: i32, args: &ConnectStoragePoolEventRegisterAnyArgs) {
        let pool = args.pool.as_ref().map(|pool| pool.uuid);
        self.all().insert(callback_id, Registration { event_id: args.event_id, pool });
    }

    /// Forgets a callback.
    pub fn remove(&self, callback_id: i32) {
        self.all().remove(&callback_id);
    }

    /// The frames that tell this client of an event.
    ///
    /// # Errors
    /// When the pool's name is longer than the protocol allows.
    pub fn frames(&self, event: &PoolEvent) -> Result<Vec<Frame>, EncodeError> {
        let wanted = match event.kind {
            PoolEventKind::Lifecycle { .. } => LIFECYCLE,
            PoolEventKind::Refresh => REFRESH,
        };
        let concerns = |registration: &Registration| {
            registration.event_id == wanted
                && registration.pool.is_none_or(|uuid| uuid == event.pool.uuid)
        };
        let mut callbacks: Vec<i32> = {
            let all = self.all();
            all.iter().filter(|(_, one)| concerns(one)).map(|(id, _)| *id).collect()
        };
        callbacks.sort_unstable();
        callbacks.into_iter().map(|callback_id| frame(callback_id, event)).collect()
    }
}

fn frame(callback_id: i32, event: &PoolEvent) -> Result<Frame, EncodeError> {
    let pool = event.pool.clone();
    match event.kind {
        PoolEventKind::Lifecycle { event, detail } => Frame::message(
            Procedure::StoragePoolEventLifecycle,
            &StoragePoolEventLifecycleMsg { callback_id, pool, event, detail },
        ),
        PoolEventKind::Refresh => Frame::message(
            Procedure::StoragePoolEventRefresh,
            &StoragePoolEventRefreshMsg { callback_id, pool },
        ),
    }
}

/// Brings events to one client until it is gone; where libvirt asks about each object, those of pools
/// that the client may see.
pub(crate) async fn deliver(
    mut events: broadcast::Receiver<PoolEvent>,
    registrations: Arc<Registrations>,
    client: Arc<ClientWriter>,
    guard: Option<Arc<Guard>>,
) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(lost)) => {
                tracing::warn!(lost, "a client is too slow for its events");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let frames = match registrations.frames(&event) {
            Ok(frames) => frames,
            Err(error) => {
                tracing::error!(%error, "an event cannot be sent");
                continue;
            }
        };
        if !frames.is_empty() && !shown(guard.as_deref(), &event.pool).await {
            continue;
        }
        for frame in frames {
            if client.send(&frame.into()).await.is_err() {
                return;
            }
        }
    }
}

async fn shown(guard: Option<&Guard>, pool: &StoragePool) -> bool {
    let filter = Procedure::ConnectStoragePoolEventRegisterAny.filter();
    let (Some(guard), Some(permission)) = (guard, filter) else { return true };
    guard.verdict(permission, &Object::Pool(pool.clone())).await == Verdict::Yes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(number: u8) -> StoragePool {
        StoragePool { name: format!("pool{number}"), uuid: Uuid([number; 16]) }
    }

    fn register(
        event_id: i32,
        pool: Option<StoragePool>,
    ) -> ConnectStoragePoolEventRegisterAnyArgs {
        ConnectStoragePoolEventRegisterAnyArgs { event_id, pool }
    }

    #[test]
    fn events_reach_the_callbacks_that_want_them() {
        let registrations = Registrations::default();
        registrations.add(5, &register(LIFECYCLE, None));
        registrations.add(6, &register(LIFECYCLE, Some(pool(1))));
        registrations.add(7, &register(LIFECYCLE, Some(pool(2))));
        registrations.add(8, &register(REFRESH, None));
        let kind = PoolEventKind::Lifecycle { event: 2, detail: 0 };
        let event = PoolEvent { pool: pool(1), kind };
        let ids = |frames: Vec<Frame>| -> Vec<u8> {
            frames.iter().map(|frame| frame.payload()[3]).collect()
        };
        assert_eq!(ids(registrations.frames(&event).unwrap()), [5, 6]);
        registrations.remove(5);
        assert_eq!(ids(registrations.frames(&event).unwrap()), [6]);
        let refresh = PoolEvent { pool: pool(1), kind: PoolEventKind::Refresh };
        assert_eq!(ids(registrations.frames(&refresh).unwrap()), [8]);
    }
}
