// SPDX-License-Identifier: LGPL-2.1-or-later
//! What can go wrong, and which libvirt error a client sees of it.
//!
//! The texts of [`DriverError`] are the details that libvirt's own driver gives, in its words where
//! it has any, so that tools and people recognise them. Each error has its code in one of the
//! matches below; a new one does not compile before it has a code there.

use std::path::PathBuf;

use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::{BackendError, VgName};
use virtnotify_wire::error::ErrorFields;
use virtnotify_wire::{ErrorCode, ErrorDomain, RemoteError, XdrError};

use crate::store::StoreError;
use crate::xml::XmlError;

/// `VIR_ERR_OVERFLOW`.
const OVERFLOW: ErrorCode = ErrorCode(82);

/// Why a call failed.
#[derive(Debug, Error)]
pub enum DriverError {
    /// XML that does not describe a pool or a volume of ours.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// A definition could not be written or removed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backend refused or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The arguments of the call cannot be decoded, or its result is beyond what the protocol can
    /// carry.
    #[error(transparent)]
    Wire(#[from] XdrError),
    /// No pool has that UUID.
    #[error("no storage pool with matching uuid '{0}'")]
    NoPoolUuid(Uuid),
    /// No pool has the UUID that a client gave.
    #[error("no storage pool with matching uuid '{uuid}' ({name})")]
    NoPool {
        /// The UUID the client gave.
        uuid: Uuid,
        /// The name the client gave.
        name: String,
    },
    /// No pool has that name.
    #[error("no storage pool with matching name '{0}'")]
    NoPoolName(String),
    /// No active pool has that directory.
    #[error("no storage pool with matching target path '{0}'")]
    NoPoolTarget(String),
    /// The pool has no such volume.
    #[error("no storage vol with matching name '{0}'")]
    NoVolume(String),
    /// No active pool has a volume with that key.
    #[error("no storage vol with matching key {0}")]
    NoVolumeKey(String),
    /// No active pool has a volume with that path.
    #[error("no storage vol with matching path '{0}'")]
    NoVolumePath(String),
    /// The call needs the pool to be active.
    #[error("storage pool '{0}' is not active")]
    NotActive(String),
    /// The pool is started, and was to be started or built.
    #[error("storage pool '{0}' is already active")]
    AlreadyActive(String),
    /// The pool is started, and was to be undefined or deleted.
    #[error("storage pool '{0}' is still active")]
    StillActive(String),
    /// The pool is started, and was to be created.
    #[error("pool is already active as '{0}'")]
    ActiveAs(String),
    /// The pool is being started.
    #[error("pool '{0}' is starting up")]
    Starting(String),
    /// A call that takes long is at work in the pool.
    #[error("pool '{0}' has asynchronous jobs running.")]
    JobsRunning(String),
    /// A call that takes long is at work with the volume, or a program has it open.
    #[error("volume '{0}' is still in use.")]
    VolumeInUse(String),
    /// The pool has a volume of that name.
    #[error("'{0}'")]
    VolumeExists(String),
    /// The call is not for snapshots.
    #[error("'{name}' is a snapshot and cannot {what}: make a volume of it with 'virsh vol-clone'")]
    Snapshot {
        /// The snapshot.
        name: String,
        /// What is not possible with it.
        what: &'static str,
    },
    /// The call is for snapshots, and this is none.
    #[error("'{0}' is no snapshot: the name of one is VOLUME@SNAPSHOT")]
    NoSnapshot(String),
    /// A volume was to be made under a snapshot's name.
    #[error(
        "'{volume}@{snapshot}' is the name of a snapshot: 'virt-notify snapshot create {snapshot} \
         {pool}/{volume}' takes one"
    )]
    SnapshotName {
        /// The pool.
        pool: String,
        /// The volume's part of the name.
        volume: String,
        /// The snapshot's part.
        snapshot: String,
    },
    /// The volume has snapshots, and was to be deleted without them.
    #[error(
        "volume '{volume}' has snapshots ({snapshots}): delete them too, with 'virsh vol-delete \
         --delete-snapshots', or before"
    )]
    HasSnapshots {
        /// The volume.
        volume: String,
        /// Their names, or some of them.
        snapshots: String,
    },
    /// A volume that is in use was to be rolled back.
    #[error(
        "volume '{0}' is in use: shut its VM off ('virsh shutdown'), roll it back, and start the \
         VM again"
    )]
    RollBackInUse(String),
    /// The snapshot's volume is gone, so that nothing can be rolled back.
    #[error(
        "volume '{volume}' is gone: 'virsh vol-clone {snapshot} {volume}' makes it of its snapshot"
    )]
    VolumeGone {
        /// The volume.
        volume: String,
        /// The snapshot.
        snapshot: String,
    },
    /// A backing store in another pool.
    #[error(
        "the backing store '{path}' is not in the pool '{pool}': 'virsh vol-create-from' copies \
         between pools"
    )]
    OtherPool {
        /// The backing store.
        path: String,
        /// The pool of the volume that was to be made.
        pool: String,
    },
    /// Another pool has that UUID.
    #[error("pool '{name}' is already defined with uuid {uuid}")]
    UuidTaken {
        /// The pool that has it.
        name: String,
        /// The UUID.
        uuid: Uuid,
    },
    /// Another pool has that name.
    #[error("pool '{name}' already exists with uuid {uuid}")]
    NameTaken {
        /// The name.
        name: String,
        /// The UUID of the pool that has it.
        uuid: Uuid,
    },
    /// Another pool lies in that volume group.
    #[error("Storage source conflict with pool: '{name}' has the volume group '{vg}'")]
    SourceTaken {
        /// The pool that has it.
        name: String,
        /// The volume group.
        vg: VgName,
    },
    /// Flags that the call does not have.
    #[error("unsupported flags (0x{flags:x}) in function {function}")]
    Flags {
        /// Those that are unknown.
        flags: u32,
        /// The call, by its function in libvirt.
        function: &'static str,
    },
    /// Two flags that contradict each other.
    #[error("Flags '{0}' and '{1}' are mutually exclusive")]
    Exclusive(&'static str, &'static str),
    /// An argument that is not possible.
    #[error("{0}")]
    Argument(String),
    /// A size that does not fit in 64 bits.
    #[error("numerical overflow: {0}")]
    Overflow(String),
    /// The pool has less space than is to be allocated at once.
    #[error("Not enough space left in storage pool")]
    NoRoom,
    /// The pool is transient.
    #[error("pool has no config file")]
    NoConfigFile,
    /// The pool is transient, and was to be undefined.
    #[error("no config file for {0}")]
    Transient(String),
    /// A call that pools of this type do not have.
    #[error("{0}")]
    Unsupported(String),
    /// A volume's device could not be read or written.
    #[error("cannot {what} '{}': {source}", path.display())]
    Device {
        /// What was to be done.
        what: &'static str,
        /// The device.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The device of a new volume could not be given its owner or its mode.
    #[error("cannot set {what} of '{}': {source}", path.display())]
    Permissions {
        /// Owner or mode.
        what: &'static str,
        /// The device.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl From<DriverError> for RemoteError {
    fn from(error: DriverError) -> Self {
        use DriverError as E;
        let detail = error.to_string();
        let code = match error {
            E::Xml(error) => return xml(&error),
            E::Wire(error) => return error.into(),
            E::Backend(error) => return backend(&error),
            E::Store(_) | E::Device { .. } | E::Permissions { .. } => ErrorCode::SYSTEM_ERROR,
            E::NoPoolUuid(_) | E::NoPool { .. } | E::NoPoolName(_) | E::NoPoolTarget(_) => {
                ErrorCode::NO_STORAGE_POOL
            }
            E::NoVolume(_) | E::NoVolumeKey(_) | E::NoVolumePath(_) | E::VolumeGone { .. } => {
                ErrorCode::NO_STORAGE_VOL
            }
            E::NotActive(_)
            | E::AlreadyActive(_)
            | E::StillActive(_)
            | E::ActiveAs(_)
            | E::Starting(_)
            | E::VolumeInUse(_)
            | E::Snapshot { .. }
            | E::HasSnapshots { .. }
            | E::RollBackInUse(_) => ErrorCode::OPERATION_INVALID,
            E::JobsRunning(_) | E::NoConfigFile | E::Transient(_) => ErrorCode::INTERNAL_ERROR,
            E::VolumeExists(_) => return exists(&detail),
            E::UuidTaken { .. } | E::NameTaken { .. } | E::SourceTaken { .. } | E::NoRoom => {
                ErrorCode::OPERATION_FAILED
            }
            E::Flags { .. } | E::Exclusive(..) => return untitled(ErrorCode::INVALID_ARG, detail),
            E::Argument(_) | E::NoSnapshot(_) | E::SnapshotName { .. } => ErrorCode::INVALID_ARG,
            E::Overflow(_) => OVERFLOW,
            E::Unsupported(_) | E::OtherPool { .. } => ErrorCode::NO_SUPPORT,
        };
        RemoteError::new(code, detail)
    }
}

/// For wrong flags libvirt's text says what is wrong with them, without the kind of error in front.
fn untitled(code: ErrorCode, message: String) -> RemoteError {
    let plain = RemoteError::new(code, message.clone());
    RemoteError::from(ErrorFields { message: Some(message), ..(*plain).clone() })
}

/// The one code of ours whose text libvirt builds around the detail.
fn exists(volume: &str) -> RemoteError {
    let plain = RemoteError::new(ErrorCode::STORAGE_VOL_EXIST, volume);
    let message = Some(format!("storage volume {volume} exists already"));
    RemoteError::from(ErrorFields { message, ..(*plain).clone() })
}

fn xml(error: &XmlError) -> RemoteError {
    let (domain, code) = match error {
        XmlError::Tree { .. } => (ErrorDomain::XML, ErrorCode::XML_DETAIL),
        XmlError::Root { .. } => (ErrorDomain::XML, ErrorCode::XML_ERROR),
        XmlError::Schema(_) => (ErrorDomain::XML, ErrorCode::XML_INVALID_SCHEMA),
        XmlError::Malformed(_) | XmlError::Name(_) => (ErrorDomain::STORAGE, ErrorCode::XML_ERROR),
        XmlError::Unsupported(_) => (ErrorDomain::STORAGE, ErrorCode::CONFIG_UNSUPPORTED),
        XmlError::OtherPools(_) => (ErrorDomain::STORAGE, ErrorCode::NO_SUPPORT),
        XmlError::UnknownUnit(_) => (ErrorDomain::STORAGE, ErrorCode::INVALID_ARG),
        XmlError::Overflow(_) => (ErrorDomain::STORAGE, OVERFLOW),
    };
    RemoteError::of(domain, code, error.to_string())
}

fn backend(error: &BackendError) -> RemoteError {
    use BackendError as E;
    let code = match error {
        E::PoolNotActive(_) | E::PoolActive(_) | E::VolumeInUse(_) | E::Refused(_) => {
            ErrorCode::OPERATION_INVALID
        }
        // What libvirt's logical pool says when its volume group is not there.
        E::Source(_) => ErrorCode::CONFIG_UNSUPPORTED,
        E::NoVolume { .. } => ErrorCode::NO_STORAGE_VOL,
        E::VolumeExists { volume, .. } => return exists(&format!("'{volume}'")),
        E::Capacity { .. } | E::Name(_) | E::Unit(_) => ErrorCode::INVALID_ARG,
        E::NoSpace { .. } | E::Damaged { .. } | E::Failed { .. } => ErrorCode::OPERATION_FAILED,
        E::Unsupported(_) => ErrorCode::OPERATION_UNSUPPORTED,
    };
    RemoteError::new(code, error.to_string())
}
