// SPDX-License-Identifier: LGPL-2.1-or-later
//! The driver as clients see it: every procedure with encoded arguments, over the backend in
//! memory.

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

mod bad_input;
mod bench;
mod pools;
mod restart;
mod snapshots;
mod streams;
mod turns;
mod volumes;
