// SPDX-License-Identifier: LGPL-2.1-or-later
//! What virtnotifyd answers its neighbours from.

#[cfg(feature = "fake")]
pub mod fake;
mod storage;

pub use storage::Local;
