// SPDX-License-Identifier: LGPL-2.1-or-later
//! The driver as clients see it: every procedure with encoded arguments, over the backend in
//! memory.

mod bad_input;
mod bench;
mod pools;
mod restart;
mod turns;
mod volumes;
