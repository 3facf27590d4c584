// SPDX-License-Identifier: LGPL-2.1-or-later
//! Errors of a storage backend.

use thiserror::Error;

use crate::{Bytes, NameError, UnitError};

/// A refusal or a failure. Each kind has one libvirt error code and one D-Bus error name;
/// the texts are sentences for an operator.
#[derive(Debug, Error)]
pub enum BackendError {
    /// No pool of that name or UUID is active here.
    #[error("the pool '{0}' is not active")]
    PoolNotActive(String),
    /// The pool is active, and the call needs it to be inactive.
    #[error("the pool '{0}' is active")]
    PoolActive(String),
    /// The source of the pool is not there, or not usable: a volume group that does not exist,
    /// is partial, exported, or there twice.
    #[error("{0}")]
    Source(String),
    /// The pool has no such volume.
    #[error("the pool '{pool}' has no volume '{volume}'")]
    NoVolume {
        /// The pool asked.
        pool: String,
        /// The volume it does not have.
        volume: String,
    },
    /// The pool has a volume of that name already.
    #[error("the pool '{pool}' has a volume '{volume}' already")]
    VolumeExists {
        /// The pool asked.
        pool: String,
        /// The name in use.
        volume: String,
    },
    /// The volume is open: a VM or another program uses it.
    #[error("the volume '{0}' is in use")]
    VolumeInUse(String),
    /// A capacity that is not possible.
    #[error("a capacity of {} bytes is not possible: {reason}", capacity.0)]
    Capacity {
        /// What was asked for.
        capacity: Bytes,
        /// What would be possible.
        reason: String,
    },
    /// The volume group has no room left.
    #[error("the pool '{pool}' has no room for {wanted} more")]
    NoSpace {
        /// The pool that is full.
        pool: String,
        /// What was wanted.
        wanted: Bytes,
    },
    /// A name that cannot be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A size that cannot be used.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The call asks for something that is not possible in the present state, or never.
    #[error("{0}")]
    Refused(String),
    /// Something that this version does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The pool's metadata is damaged; nothing is changed until it is repaired.
    #[error("the metadata of the pool '{pool}' is damaged: {what}")]
    Damaged {
        /// The pool.
        pool: String,
        /// What is wrong with it.
        what: String,
    },
    /// The host, the kernel or a program that is needed failed. `what` says which step.
    #[error("{what}: {source}")]
    Failed {
        /// The step that failed, as a clause: `cannot extend 'vg0/notify-data0'`.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BackendError {
    /// A failed step and its cause.
    pub fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }
}
