// SPDX-License-Identifier: LGPL-2.1-or-later
//! A disk that is slow at seeking, as a model: what reading takes is computed, not measured.

/// What a disk does in the time of one seek is told by these two: the time itself, and how much it reads in a second when it
/// need not seek.
const SEEK_SECONDS: f64 = 0.008;
const BYTES_PER_SECOND: f64 = 200.0 * 1048576.0;
/// The model, for titles.
pub const MODEL: &str = "a seek takes 8 ms, and 200 MiB are read in a second";

/// How many bytes such a disk reads in a second of what lies in so many runs.
pub fn rate(bytes: f64, runs: f64) -> f64 {
    bytes / (runs * SEEK_SECONDS + bytes / BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seek_takes_as_long_as_reading_what_lies_together() {
        let together = SEEK_SECONDS * BYTES_PER_SECOND;
        assert!((rate(together, 1.0) / BYTES_PER_SECOND - 0.5).abs() < 1e-9);
        assert!(rate(100.0 * together, 1.0) > 0.99 * BYTES_PER_SECOND);
    }
}
