// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool's threads. One that ends without having been told to, or panics, takes the process with
//! it: the next process finds everything as after a kill, which is tested at each point. A process
//! of which a part is dead is not.

use std::io;
use std::sync::Arc;
use std::thread;

use super::Shared;
use crate::runtime::{self, JoinHandle};

/// Ends the process when it goes out of scope while the pool is not being stopped.
struct Vital {
    shared: Arc<Shared>,
    name: &'static str,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if thread::panicking() || !self.shared.gate.stopping() {
            let (pool, thread) = (&self.shared.name, self.name);
            tracing::error!(%pool, thread, "a thread of a pool has ended: the process ends with it");
            runtime::abort();
        }
    }
}

/// Starts a thread that works until the pool stops.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    name: &'static str,
    work: impl FnOnce(Arc<Shared>) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    runtime::spawn(name, move || {
        crate::memory::exempt_thread();
        let vital = Vital { shared: shared.clone(), name };
        work(shared);
        drop(vital);
    })
}
