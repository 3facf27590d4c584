// SPDX-License-Identifier: LGPL-2.1-or-later
//! The VMs of this host, asked of libvirt once for all who want to know them.
//!
//! libvirt is asked when a VM has changed, and when pools or volumes have come: a disk that is added to a VM that is
//! off is told by no event, and a volume is made for it most of the time. What it said last holds while it does not
//! answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::debug;
use virtnotify_migrate::{Hypervisor, Vm, vms};
use virtnotify_model::{Event, EventBus};

/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_secs(1);
/// The time until libvirt is asked again when it did not answer.
const AGAIN: Duration = Duration::from_secs(10);

/// The VMs as libvirt listed them last; none before it answered for the first time.
pub type Vms = watch::Receiver<Option<Arc<Vec<Vm>>>>;

/// Asks for them.
pub struct Watcher {
    hv: Arc<dyn Hypervisor>,
    events: Receiver<Event>,
    found: watch::Sender<Option<Arc<Vec<Vm>>>>,
}

impl Watcher {
    /// Listens from now on.
    pub fn new(hv: Arc<dyn Hypervisor>, events: &EventBus) -> (Self, Vms) {
        let (found, vms) = watch::channel(None);
        (Self { hv, events: events.subscribe(), found }, vms)
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut changes = self.hv.changes();
        let mut due = Some(Instant::now());
        loop {
            let look = async {
                match due {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = look => due = self.look().await,
                Ok(()) = changes.changed() => soon(&mut due),
                event = self.events.recv() => match event {
                    Ok(Event::PoolStarted(_) | Event::VolumeCreated { .. } | Event::Lost)
                    | Err(RecvError::Lagged(_)) => soon(&mut due),
                    Ok(_) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                },
            }
        }
    }

    /// Asks; says when to ask again by itself.
    async fn look(&self) -> Option<Instant> {
        let hv = Arc::clone(&self.hv);
        let asked = spawn_blocking(move || vms(hv.as_ref()).map_err(|error| error.to_string()));
        match asked.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(now) => {
                self.found.send_if_modified(|found| {
                    let other = found.as_deref() != Some(&now);
                    if other {
                        *found = Some(Arc::new(now));
                    }
                    other
                });
                None
            }
            Err(error) => {
                debug!("VMs are not known: {error}");
                Some(Instant::now() + AGAIN)
            }
        }
    }
}

/// Looks within a moment, or sooner where that was due.
fn soon(due: &mut Option<Instant>) {
    let soon = Instant::now() + GATHER;
    *due = Some(due.map_or(soon, |time| time.min(soon)));
}
