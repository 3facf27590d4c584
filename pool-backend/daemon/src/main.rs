// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon: filled by its first slice.

fn main() {}
