// SPDX-License-Identifier: LGPL-2.1-or-later
//! What virtnotifyd answers to its neighbours, over a private socket.
//!
//! virtnotifyd serves growth: it has its memory locked, is never sacrificed for memory, and talks to
//! root alone. Its neighbours talk to others: virtnotify-proxy to libvirt's clients, virtnotify-control to those on
//! D-Bus, to libvirt and to other hosts. Between them stands one Unix socket:
//!
//! ```text
//! virtnotify-proxy:   Remote ───────── one connection for each call, one to watch ───┐
//!                                                                                    ├─ serve: virtnotifyd
//! virtnotify-control: RemoteStorage ── one for each question, one to follow ─────────┘
//! ```
//!
//! - [`server`]: virtnotifyd's side; [`publisher`]: the part of it for virtnotify-control;
//! - [`client`]: [`Remote`], which answers libvirt's calls as the driver does;
//! - `mirror`: the pools, as the proxy knows them without asking;
//! - `offline`: what it answers while virtnotifyd does not run;
//! - [`storage`]: [`RemoteStorage`], which knows pools and volumes without asking;
//! - `message`: the messages on the socket.
//!
//! A connection is one call, from its question to its answer. One that reads or writes a volume goes
//! on: the client asks for each piece, or sends it and is told that it was taken. What is lost
//! with a connection is that call; neither side waits for the other otherwise.

pub mod client;
mod message;
mod mirror;
mod offline;
pub mod publisher;
pub mod server;
pub mod storage;

pub use client::Remote;
pub use publisher::Publisher;
pub use storage::RemoteStorage;
pub use virtnotify_model::STORAGE_SOCKET as SOCKET;

#[cfg(test)]
mod tests;
