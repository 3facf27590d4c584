// SPDX-License-Identifier: LGPL-2.1-or-later
//! The storage driver of virtnotifyd in another process, over a private socket.
//!
//! virtnotifyd serves growth: it has its memory locked, is never sacrificed for memory, and talks to
//! root alone. Its neighbour virtnotify-proxy talks to libvirt's clients, of which anybody may be
//! one. Between them stands one Unix socket:
//!
//! ```text
//! virtnotify-proxy: Remote ── one connection for each call, one to watch ── serve: virtnotifyd
//! ```
//!
//! - [`server`]: the driver's side;
//! - [`client`]: [`Remote`], which answers as the driver does;
//! - `mirror`: which pools there are, as the proxy knows without asking;
//! - `offline`: what it answers while virtnotifyd does not run;
//! - `message`: what is said on the socket.
//!
//! A connection is one call, from its question to its answer. One that reads or writes a volume goes
//! on: the client asks for each piece, or sends it and is told that it was taken. What is lost
//! with a connection is that call; neither side waits for the other otherwise.

pub mod client;
mod message;
mod mirror;
mod offline;
pub mod server;

pub use client::Remote;

/// Where virtnotifyd listens.
pub const SOCKET: &str = "/run/virtnotify/storage.sock";

#[cfg(test)]
mod tests;
