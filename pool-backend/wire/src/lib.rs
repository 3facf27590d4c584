// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's RPC as far as a storage driver needs it.
//!
//! This crate turns bytes into typed messages and back. It does no I/O, starts no task and keeps no
//! state: [`frame`] cuts a byte stream into frames, [`xdr`] is the encoding of what is inside them,
//! [`connect`] and [`storage`] hold the arguments and results of each procedure, [`procedure`] is
//! the table of procedures with all that is known of each, and [`error`] is the error that a reply
//! may carry. [`service`] is the interface between the code that talks to clients and the code that
//! knows the pools.
//!
//! The wire is libvirt's own, and append-only: what is here was checked against
//! libvirt 9.0 and 11.3. A frame whose program or procedure is unknown is still a
//! frame; it can be passed on unread.
//!
//! Every length that comes over the wire is compared with its limit, and with the
//! bytes that are really there, before anything is allocated for it.

pub mod codec;
pub mod connect;
pub mod error;
pub mod frame;
pub mod permission;
pub mod procedure;
mod readonly;
pub mod service;
pub mod storage;
pub mod xdr;

pub use error::{ErrorCode, ErrorDomain, RemoteError};
pub use frame::{Frame, FrameError, Header, MessageType, Status};
pub use permission::Permission;
pub use procedure::{About, Procedure};
pub use service::{Call, PoolEvent, PoolView, Session, StorageService};
pub use storage::{StoragePool, StorageVol, Uuid};
pub use xdr::{List, Xdr, XdrError, decode, encode};
