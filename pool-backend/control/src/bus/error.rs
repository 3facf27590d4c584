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
    /// The metadata, or the map to restore, is damaged.
    Damaged(String),
    /// It was tried and did not work.
    Failed(String),
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        use StorageError as E;
        match error {
            E::NoVolume(text) | E::NotFound(text) => Self::NotFound(text),
            E::InvalidArgument(text) => Self::InvalidArgument(text),
            E::Damaged(text) => Self::Damaged(text),
            E::InUse(text) | E::Failed(text) | E::Unreachable(text) => Self::Failed(text),
        }
    }
}
