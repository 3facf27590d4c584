// SPDX-License-Identifier: LGPL-2.1-or-later
#![no_main]
#![allow(dead_code, reason = "the bodies of several targets are in one file")]

#[path = "../bodies/wire.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::frames(data));
