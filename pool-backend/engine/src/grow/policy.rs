// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much a volume gets when it asks for one chunk. Pure.
//!
//! A writer that goes on where its last run ended is sequential: its runs double up to a limit. Any
//! other writer gets what it asked for, one chunk. When the clean headroom shrinks, so do the runs,
//! so that no volume takes what another will need in a moment.

use virtnotify_model::{Bytes, ChunkSize};

/// The longest run that one request is answered with.
const LONGEST: Bytes = Bytes::mib(256);

/// That, in chunks.
pub(crate) fn longest(size: ChunkSize) -> u64 {
    size.whole_chunks(LONGEST).0.max(1)
}

/// A request gets at most this part of the clean headroom.
const SHARE: u64 = 4;

/// How many sequential writers of a volume are told apart: a guest copies more than one file.
const STREAMS: usize = 4;

/// A run that a writer may go on after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stream {
    /// The chunk after it.
    next: u64,
    /// How long it was; 0 for none.
    run: u64,
}

/// The latest runs of a volume, the latest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Writer([Stream; STREAMS]);

impl Writer {
    /// How many chunks the request for the one at `chunk` is answered with, when `clean` chunks are
    /// there; at least one.
    pub(crate) fn wants(&self, chunk: u64, clean: u64, size: ChunkSize) -> u64 {
        let run = self.stream(chunk).map_or(1, |at| self.0[at].run.saturating_mul(2));
        run.min(longest(size)).min((clean / SHARE).max(1))
    }

    /// Whether the volume is expected to write at `chunk` next.
    pub(crate) fn expects(&self, chunk: u64) -> bool {
        self.stream(chunk).is_some()
    }

    fn stream(&self, chunk: u64) -> Option<usize> {
        self.0.iter().position(|stream| stream.run > 0 && stream.next == chunk)
    }

    /// Notes that the volume got `length` chunks from `chunk` on.
    pub(crate) fn got(&mut self, chunk: u64, length: u64) {
        let place = self.stream(chunk).unwrap_or(STREAMS - 1);
        self.0[..=place].rotate_right(1);
        self.0[0] = Stream { next: chunk + length, run: length };
    }
}

/// Which chunk of a run of `length` rings when it is first written, so that the next run is there
/// before this one ends. `held`: a write waits for the first one.
pub(crate) fn bell(length: u64, held: bool) -> Option<u64> {
    (length > 1 || !held).then_some(length / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(asks: &[u64], clean: u64) -> Vec<u64> {
        let mut writer = Writer::default();
        let mut answer = |chunk| {
            let length = writer.wants(chunk, clean, ChunkSize::default());
            writer.got(chunk, length);
            length
        };
        asks.iter().map(|&chunk| answer(chunk)).collect()
    }

    #[test]
    fn sequential_runs_double_to_the_limit() {
        let asks = [0, 1, 3, 7, 15, 31, 63, 127, 191];
        assert_eq!(lengths(&asks, 10_000), [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn random_writes_get_one_chunk() {
        assert_eq!(lengths(&[100, 5, 70, 0, 2], 10_000), [1; 5]);
    }

    #[test]
    fn writers_side_by_side_are_each_sequential() {
        let asks = [0, 1000, 1, 1001, 3, 1003, 7, 1007];
        assert_eq!(lengths(&asks, 10_000), [1, 1, 2, 2, 4, 4, 8, 8]);
        let fifth = [0, 10, 20, 30, 40, 1, 41];
        assert_eq!(lengths(&fifth, 10_000), [1, 1, 1, 1, 1, 1, 2], "the oldest is forgotten");
    }

    /// A sequential writer that is just slower than we are: how many of its chunks were there.
    #[test]
    fn a_sequential_writer_finds_its_chunks_there() {
        for (chunks, clean, held_at_most) in [(128, 512, 2), (128, 16, 2), (4096, 512, 2)] {
            let (mut writer, mut end, mut bells, mut held_total) =
                (Writer::default(), 0, Vec::new(), 0);
            for chunk in 0..chunks {
                let held = chunk >= end;
                held_total += u64::from(held);
                if held || bells.contains(&chunk) {
                    let length = writer.wants(end, clean, ChunkSize::default());
                    bells.extend(bell(length, held).map(|offset| end + offset));
                    writer.got(end, length);
                    end += length;
                }
            }
            assert!(held_total <= held_at_most, "{held_total} of {chunks} with {clean} clean");
        }
    }

    #[test]
    fn a_short_headroom_makes_short_runs() {
        assert_eq!(lengths(&[0, 1, 3, 5, 7], 8), [1, 2, 2, 2, 2]);
        assert_eq!(lengths(&[0, 1, 2], 1), [1, 1, 1]);
    }
}
