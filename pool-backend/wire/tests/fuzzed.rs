// SPDX-License-Identifier: LGPL-2.1-or-later
//! The fuzz targets' bodies on bytes and on recorded frames that were tampered with, for a
//! moment; `fuzz/run.sh` does it for long.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../../../fuzz/bodies/wire.rs"]
mod body;

const RECORDED: &str = include_str!("../testdata/libvirt-11.3.txt");

/// All recorded frames, one behind the other.
fn recorded() -> Vec<Vec<u8>> {
    let lines = RECORDED.lines().filter(|line| !line.starts_with('#'));
    let digits = lines.filter_map(|line| line.split(' ').nth(4));
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(|digits| digits.as_bytes().chunks(2).map(byte).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(data in vec(any::<u8>(), 0..300)) {
        body::frames(&data);
        body::values(&data);
    }

    #[test]
    fn recorded_frames_tampered_with(
        which: Index,
        changes in vec((any::<Index>(), any::<u8>()), 0..6),
        cut: Index,
        type_of: u8,
    ) {
        let frames = recorded();
        let at = which.index(frames.len());
        let mut data = [&frames[at][..], &frames[(at + 1) % frames.len()]].concat();
        for (place, value) in changes {
            let place = place.index(data.len());
            data[place] = value;
        }
        body::frames(&data);
        data.truncate(cut.index(data.len() + 1));
        body::frames(&data);
        data.drain(..data.len().min(27));
        if let Some(first) = data.first_mut() {
            *first = type_of;
        }
        body::values(&data);
    }
}
