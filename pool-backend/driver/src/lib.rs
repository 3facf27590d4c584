// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt's storage driver promises, for pools of type `notify`.
//!
//! [`Driver`] knows the pools: their definitions, which of them are active, their volumes.
//! The work on an active pool is a [`virtnotify_model::Backend`]'s. Clients come through
//! [`virtnotify_wire::StorageService`], which it implements: encoded arguments go in, encoded
//! results or libvirt's errors come out.
//!
//! - `xml`: pools and volumes as text;
//! - `store`: definitions and run state on disk;
//! - `registry`: which pools there are, without I/O;
//! - `driver`, `questions`, `volumes`, `clones`: what the calls do;
//! - `resume`: pools that are started again when the daemon starts;
//! - `wipe`: libvirt's algorithms for wiping, pass by pass;
//! - `receiving`: which volumes are half received;
//! - `streams`, `ground`: a volume's data, read and written for clients;
//! - `dispatch`: which call is which;
//! - `error`, `flags`: libvirt's numbers for what can go wrong and what can be asked.
//!
//! This crate opens no socket and runs no command.

mod clones;
mod dispatch;
mod driver;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod flags;
mod ground;
mod questions;
mod receiving;
mod registry;
mod resume;
mod snapshots;
mod store;
mod streams;
mod volumes;
mod wipe;
pub mod xml;

pub use driver::Driver;
pub use error::DriverError;
pub use questions::PoolState;
pub use receiving::{RECEIVED, begin_receiving, end_receiving, is_receiving};
pub use store::{Paths, group_of, pools_on_disk};
