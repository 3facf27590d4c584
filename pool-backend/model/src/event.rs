// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the parts tell each other, and what D-Bus tells the world.
//!
//! An event is a hint and never the truth: a receiver that misses one finds the same by asking the
//! [`Backend`](crate::Backend). So a slow receiver may lose the oldest events, and is told that it
//! did.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::{Bytes, PoolName, VolumeName};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Event {
    /// Pools were defined, started, stopped or undefined.
    PoolsChanged,
    /// A pool was started.
    PoolStarted(PoolName),
    /// A pool was stopped.
    PoolStopped(PoolName),
    /// The available space of a pool changed, or how much of it is ready.
    PoolChanged(PoolName),
    /// Events were lost: anything may have changed.
    Lost,
    /// The figures of a pool's volumes changed, because what they share with others did.
    VolumesChanged(PoolName),
    /// A job of a pool began, has come further, or ended.
    JobChanged {
        /// Its pool.
        pool: PoolName,
        /// Its number.
        id: u64,
    },
    /// A volume was made.
    VolumeCreated {
        /// Its pool.
        pool: PoolName,
        /// Its name.
        volume: VolumeName,
        /// Its size.
        capacity: Bytes,
    },
    /// A volume is gone, and its chunks are free.
    VolumeDeleted {
        /// Its pool.
        pool: PoolName,
        /// Its name.
        volume: VolumeName,
    },
    /// A volume changed other than by a write: it was resized, or gave space back.
    VolumeChanged {
        /// Its pool.
        pool: PoolName,
        /// Its name.
        volume: VolumeName,
    },
    /// A volume got chunks because it was written: it holds more, or has copies of what others show as well.
    VolumeGrown {
        /// Its pool.
        pool: PoolName,
        /// Its name.
        volume: VolumeName,
        /// By how much.
        by: Bytes,
        /// What it holds now.
        allocation: Bytes,
        /// Its size.
        capacity: Bytes,
    },
    /// The available space of a pool fell below its low mark.
    SpaceLow {
        /// The pool.
        pool: PoolName,
        /// What is left.
        available: Bytes,
    },
    /// A volume asked for space and there is none: its VM pauses now.
    SpaceExhausted {
        /// The pool that is full.
        pool: PoolName,
        /// The volume that asked.
        volume: VolumeName,
        /// What it asked for.
        wanted: Bytes,
        /// What the pool still had.
        available: Bytes,
    },
    /// A pool that was full has space again: its volumes go on.
    SpaceAvailable {
        /// The pool.
        pool: PoolName,
        /// What there is now.
        available: Bytes,
    },
    /// Something is wrong with a pool; a human has to look.
    Damage {
        /// The pool.
        pool: PoolName,
        /// A sentence.
        what: String,
    },
    /// A VM is configured in a way that will go wrong.
    Warning {
        /// The VM.
        domain: String,
        /// A sentence.
        what: String,
    },
    /// A VM starts to move to another host.
    MoveStarted(MoveInfo),
    /// A VM's move goes on.
    MoveProgress {
        /// Which move.
        info: MoveInfo,
        /// Bytes copied.
        done: Bytes,
        /// Bytes to copy in all, as far as known now.
        total: Bytes,
    },
    /// A VM runs on the other host, and its volumes here are gone.
    MoveFinished(MoveInfo),
    /// A VM could not be moved.
    MoveFailed {
        /// Which move.
        info: MoveInfo,
        /// What it means.
        kind: MoveFailure,
        /// Why, and what happens next: a sentence.
        reason: String,
    },
    /// A VM was seen to run on two hosts at once; a human has to look.
    RunsTwice {
        /// Which move: `from` and `to` are the two hosts.
        info: MoveInfo,
        /// What was done, and what is to be done: a sentence.
        reason: String,
    },
    /// A peer can take no VM any more.
    PeerFailed {
        /// Its name.
        peer: String,
        /// Why, as the end of a sentence that names it.
        reason: String,
    },
    /// A peer can take VMs again.
    PeerReady {
        /// Its name.
        peer: String,
    },
    /// A VM that was paused for want of space runs again on this host.
    Resumed {
        /// The VM.
        domain: String,
    },
}

/// What has become of a VM whose move failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveFailure {
    /// It did not begin: the VM cannot go, or no peer can take it.
    Refused,
    /// It ended, and the VM is still here.
    Stayed,
    /// It is not over, and nothing goes on: where the VM is going to run is not known yet.
    Open,
    /// It ended, and left something that a person has to look at.
    Abandoned,
    /// It did not end, and a person said on which host the VM is.
    Settled,
}

impl MoveFailure {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Stayed => "stayed",
            Self::Open => "open",
            Self::Abandoned => "abandoned",
            Self::Settled => "settled",
        }
    }
}

/// Which VM moves from where to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveInfo {
    /// The VM's name.
    pub domain: String,
    /// The VM's UUID.
    pub uuid: Uuid,
    /// The pool of the first of its volumes.
    pub pool: PoolName,
    /// Those of its volumes that are copied, each with its pool.
    pub volumes: Vec<(PoolName, VolumeName)>,
    /// The host it leaves.
    pub from: String,
    /// The host it goes to.
    pub to: String,
    /// What its volumes hold.
    pub allocation: Bytes,
}

/// Hands events to all listeners.
#[derive(Debug, Clone)]
pub struct EventBus(broadcast::Sender<Event>);

impl EventBus {
    /// How many events a slow receiver may lag behind before it loses the oldest.
    const BACKLOG: usize = 4096;

    /// A bus without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::channel(Self::BACKLOG).0)
    }

    /// Tells all listeners; never blocks.
    pub fn emit(&self, event: Event) {
        // The only error is that there are no listeners, which is fine.
        let _ = self.0.send(event);
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}
