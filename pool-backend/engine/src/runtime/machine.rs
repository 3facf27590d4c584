// SPDX-License-Identifier: LGPL-2.1-or-later
//! The machine's own threads, time and random ids.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread::{JoinHandle, yield_now};
pub(crate) use std::time::Instant;

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, Timespec, poll};
use uuid::Uuid;

/// Starts a thread of this name.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

/// Runs this in several threads at once, and waits for all of them.
pub(crate) fn in_parallel(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

/// Waits until one of these is readable, or the time is over; returns whether one is.
pub(crate) fn wait_readable(fds: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(fds, Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Something that [`wait_readable`] may wait for has become readable.
pub(crate) fn made_readable() {}

/// The caller may be interrupted here, in a simulation.
#[cfg(all(not(test), feature = "sim"))]
pub(crate) fn may_switch() {}

/// Ends the process at once.
pub(crate) fn abort() {
    std::process::abort();
}

/// A new random id.
pub(crate) fn random_id() -> Uuid {
    Uuid::new_v4()
}
