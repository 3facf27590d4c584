// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots on their way between hosts (`docs/developer/stream.md`).
//!
//! - `format`: the form of the stream;
//! - `send`, `receive`: both ends; `place`: what both ask of the daemon and of libvirt;
//! - `notes`: which of the sender's snapshots a received one is.

pub mod format;
pub mod notes;
pub mod place;
pub mod receive;
#[cfg(test)]
mod receive_tests;
pub mod send;
