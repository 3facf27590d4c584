// SPDX-License-Identifier: LGPL-2.1-or-later
//! The interposer: sits on virtstoraged's socket, answers for pools of type `notify`,
//! and passes everything else on, byte for byte, to the real virtstoraged behind it.
//!
//! ```text
//! client --> socket --> auth --> connection --+--> upstream --> virtstoraged
//!                                   |         |
//!                                 route       +--> job --> StorageService (virtnotifyd's driver)
//! ```
//!
//! - [`listen`], [`server`], `places`: sockets, limits, one task per client.
//! - [`socket`]: frames and descriptors on a Unix socket.
//! - [`peer`], [`auth`]: who a client is, and whether it may connect.
//! - `connection`: what becomes of each frame of a client.
//! - [`route`], [`merge`], [`volume_lookup`]: the decisions, without any I/O.
//! - `handles`: the pool that a call names, by its own name.
//! - `job`, `streams`, [`events`]: calls of ours that take time; volumes' content; news.
//! - `threads`, `turns`: no user's calls take all threads, or all of polkit's time.
//! - [`access`], `guarded`: questions to polkit about each pool and volume, where libvirt is set up to ask them.
//! - `changes`: the log of changes, each with its user.
//! - `clone`: volumes that are made from a volume of the other daemon.
//! - [`upstream`], `link`: the connection behind each client's.
//! - [`settings`]: the configuration.
//! - `explain`: one error of upstream's that gets a clearer text.
//!
//! It never reads XML from a client that may not define anything, passes no byte on
//! before the client is authenticated, never lets a client's call act as root, and never has one
//! client wait for another.

pub mod access;
pub mod auth;
mod changes;
pub mod client;
mod clone;
pub mod config;
mod connection;
pub mod events;
mod explain;
mod guarded;
mod handles;
mod installer;
mod job;
mod link;
pub mod listen;
mod memory;
pub mod merge;
pub mod peer;
mod places;
mod rarely;
mod readonly;
pub mod reserve;
pub mod route;
pub mod server;
pub mod settings;
pub mod socket;
mod streams;
mod threads;
mod turns;
pub mod upstream;
pub mod volume_lookup;

pub use config::{Access, Auth, Config, Patience, Side};
pub use listen::{Listener, bind, from_systemd};
pub use server::run;
