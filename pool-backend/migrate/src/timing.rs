// SPDX-License-Identifier: LGPL-2.1-or-later
//! How long what takes, and when something is tried again.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How long what takes. An operator chooses some of it; only tests need the rest.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Without any news, a look is taken this often: it finds what no event told.
    pub sweep: Duration,
    /// Events come in bursts: a look waits this long after the first.
    pub gather: Duration,
    /// A VM that could not be moved is tried again after this time, which doubles each time...
    pub retry: Duration,
    /// ... up to this.
    pub retry_limit: Duration,
    /// A move that is not over is looked at again after this time, which doubles each time...
    pub settle: Duration,
    /// ... up to this.
    pub settle_limit: Duration,
    /// A human is told of a move that is not over so long after it should have been.
    pub tell: Duration,
    /// How long a VM may take to pause after its volume was refused space.
    pub pause: Duration,
    /// How long the engine is given to serve a VM whose pool has room, before it is moved.
    pub serve: Duration,
    /// A VM is resumed again in place no sooner than after this time.
    pub resume: Duration,
    /// Pools that may need a VM moved are looked at no more often than this.
    pub pressure: Duration,
    /// A VM does not go back to where it came from within this time.
    pub no_return: Duration,
    /// A migration that copies nothing for so long is cancelled.
    pub stall: Duration,
    /// So is one of which what is left of its disks does not become less for so long, where what the guest
    /// overwrites is copied once more.
    pub nearer: Duration,
    /// Each peer is asked how it is doing so often, for the first time after a twelfth of this, and at once when a
    /// pool starts.
    pub peers: Duration,
    /// A VM whose move a person cancelled is left alone for so long.
    pub cancelled: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            sweep: Duration::from_secs(30),
            gather: Duration::from_millis(200),
            retry: Duration::from_secs(15),
            retry_limit: Duration::from_secs(600),
            settle: Duration::from_secs(2),
            settle_limit: Duration::from_secs(60),
            tell: Duration::from_secs(30),
            pause: Duration::from_secs(30),
            serve: Duration::from_secs(10),
            resume: Duration::from_secs(2),
            pressure: Duration::from_secs(5),
            no_return: Duration::from_secs(3600),
            stall: Duration::from_secs(300),
            nearer: Duration::from_secs(900),
            peers: Duration::from_secs(60),
            cancelled: Duration::from_secs(600),
        }
    }
}

/// The time that a move takes on its thread.
pub(crate) trait Clock: Send + Sync {
    /// How late it is, from some moment on.
    fn now(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);

    /// Waits for that time, or for the end; whether it is not the end.
    fn goes_on(&self, over: &Receiver<()>, time: Duration) -> bool;
}

/// The real one.
pub(crate) struct RealClock(std::time::Instant);

impl RealClock {
    /// It begins now.
    pub(crate) fn new() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }

    fn goes_on(&self, over: &Receiver<()>, time: Duration) -> bool {
        over.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }
}

/// What is tried again later, and later each time.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) tries: u32,
    pub(crate) next: Instant,
    /// Peers to which a move failed.
    pub(crate) avoid: BTreeSet<String>,
    /// Whether a person cancelled its move.
    pub(crate) cancelled: bool,
}

impl Held {
    pub(crate) fn until(next: Instant) -> Self {
        Self { tries: 0, next, avoid: BTreeSet::new(), cancelled: false }
    }

    pub(crate) fn failed(&mut self, timing: Timing) {
        self.tries += 1;
        self.cancelled = false;
        self.next = Instant::now() + backoff(self.tries, timing.retry, timing.retry_limit);
    }

    /// Something went well: the next failure, which was told already, is tried again as soon as the first.
    pub(crate) fn begin_again(&mut self) {
        self.tries = self.tries.min(1);
    }

    pub(crate) fn failed_at(&mut self, peer: String, timing: Timing) {
        self.avoid.insert(peer);
        self.failed(timing);
    }
}

impl Default for Held {
    fn default() -> Self {
        Self::until(Instant::now())
    }
}

/// The first time, and twice as long each further time, up to the limit.
pub(crate) fn backoff(tries: u32, first: Duration, limit: Duration) -> Duration {
    let factor = 1u32 << tries.saturating_sub(1).min(16);
    first.saturating_mul(factor).min(limit)
}

/// Now, as others are told it.
pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
