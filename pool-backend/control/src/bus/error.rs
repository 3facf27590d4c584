// SPDX-License-Identifier: LGPL-2.1-or-later
//! Errors by their D-Bus names; the texts are sentences for an operator.

use virtnotify_model::StorageError;
use zbus::DBusError;

/// What a method answers instead of its result.
#[derive(Debug, DBusError)]
#[zbus(prefix = "org.virtnotify1.Error")]
pub enum Error {
    /// D-Bus itself failed.
    #[zbus(error)]
    ZBus(zbus::Error),
    /// There is no such pool or volume, or the pool is not active.
    NotFound(String),
    /// The caller may not do this.
    NotAuthorized(String),
    /// Too many questions of that user, or of all, are not answered yet; or one is too long.
    LimitsExceeded(String),
    /// The arguments make no sense.
    InvalidArgument(String),
    /// There is one of that name already.
    AlreadyExists(String),
    /// The volume is open, or something that takes long is under way with it.
    InUse(String),
    /// The pool has no room for it.
    NoSpace(String),
    /// The metadata, or the map to restore, is damaged.
    Damaged(String),
    /// virtnotifyd does not run, or ended before it answered.
    NotRunning(String),
    /// It was tried and did not work.
    Failed(String),
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        use StorageError as E;
        match error {
            E::NoVolume(text) | E::NotFound(text) => Self::NotFound(text),
            E::InvalidArgument(text) => Self::InvalidArgument(text),
            E::AlreadyExists(text) => Self::AlreadyExists(text),
            E::InUse(text) => Self::InUse(text),
            E::NoSpace(text) => Self::NoSpace(text),
            E::Damaged(text) => Self::Damaged(text),
            E::Unreachable(text) => Self::NotRunning(text),
            E::Failed(text) => Self::Failed(text),
        }
    }
}
