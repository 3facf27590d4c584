// SPDX-License-Identifier: LGPL-2.1-or-later
//! Pools and volumes for real: the [`Backend`](virtnotify_model::Backend) over LVM and the
//! device mapper.
//!
//! | module | job | never |
//! |---|---|---|
//! | `engine` | which pools are started; the backend's calls | does the work itself |
//! | `pool` | a started pool: its state, its threads' shared parts, start, volumes, headroom | |
//! | `grow` | from a held write to its chunk | runs LVM, or waits for a thread that does |
//! | `alloc` | which chunk is where | does I/O |
//! | `meta` | the metadata, durable | decides anything |
//! | `lvm` | the only place that runs LVM | |
//! | `repair` | backups of the metadata; check, dump, restore | changes anything, except by a restore |
//! | `target` | the only place that opens the device mapper's control node | |
//! | `sim` | an LVM, a device mapper and guests in memory, in builds with the feature `sim` | is in a package |
//! | `names` | every name that we give to something outside | |
//!
//! The program's main function calls [`block_signals`] and [`lock_memory`] before it starts a
//! thread, then [`Engine::new`].

mod alloc;
mod device;
mod engine;
mod grow;
mod lvm;
mod memory;
mod meta;
mod names;
mod pool;
pub mod repair;
mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
mod target;
#[cfg(any(test, feature = "sim"))]
mod testing;
#[cfg(test)]
mod tests;

pub use engine::{Engine, EngineConfig, EngineError};
pub use grow::bell::block_signals;
pub use memory::lock_memory;
pub use pool::core::GrowthFigures;
