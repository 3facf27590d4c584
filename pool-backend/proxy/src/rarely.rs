// SPDX-License-Identifier: LGPL-2.1-or-later
//! Limits lines of the log that any client can cause: one a minute, with the number of lines that were left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(60);

/// When one line was last written, and how many were not since.
#[derive(Debug, Default)]
pub(crate) struct Rarely(Mutex<Option<(Instant, u64)>>);

impl Rarely {
    /// Whether it is time for a line; if so, how many were left out before it.
    pub(crate) fn now(&self) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((at, left_out)) if at.elapsed() < PAUSE => {
                *left_out += 1;
                None
            }
            other => {
                let left_out = other.map_or(0, |(_, left_out)| left_out);
                *other = Some((Instant::now(), 0));
                Some(left_out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_a_second_are_one_line_a_minute() {
        let (rarely, mut lines) = (Rarely::default(), Vec::new());
        for _ in 0..1201 {
            lines.extend(rarely.now());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(lines, [0, 599, 599]);
    }
}
