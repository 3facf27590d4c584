// SPDX-License-Identifier: LGPL-2.1-or-later
//! Errors by their D-Bus names; the texts are sentences for an operator.

use virtnotify_driver::DriverError;
use virtnotify_engine::repair::RepairError;
use virtnotify_model::BackendError;
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

impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        let text = error.to_string();
        match error {
            BackendError::PoolNotActive(_) | BackendError::NoVolume { .. } => Self::NotFound(text),
            BackendError::Name(_) | BackendError::Unit(_) => Self::InvalidArgument(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        use DriverError as E;
        match error {
            E::Backend(error) => error.into(),
            E::NoPoolUuid(_)
            | E::NoPool { .. }
            | E::NoPoolName(_)
            | E::NoPoolTarget(_)
            | E::NotActive(_)
            | E::NoVolume(_)
            | E::NoVolumeKey(_)
            | E::NoVolumePath(_)
            | E::VolumeGone { .. } => Self::NotFound(error.to_string()),
            E::Argument(_) | E::NoSnapshot(_) | E::SnapshotName { .. } => {
                Self::InvalidArgument(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<RepairError> for Error {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Damaged(text) => Self::Damaged(text),
            RepairError::Refused(text) => Self::Failed(text),
            RepairError::Newer(_) | RepairError::File(_) => Self::Failed(error.to_string()),
            RepairError::Cannot(error) => error.into(),
        }
    }
}
