// SPDX-License-Identifier: LGPL-2.1-or-later
//! How fast volumes grow, and when a pool will be full. Pure: time is the caller's.
//!
//! A volume's rate is a decaying average of its growths: what it grew by a minute ago counts
//! for a third of what it grows by now. It is taken from what the volume holds, not from the
//! sum of what events said, so that lost events lose nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use virtnotify_model::{Bytes, PoolName, VolumeName};

/// After this time a growth counts for 1/e of what it did.
const MEMORY: f64 = 60.0;
/// A burst is no rate before it has been seen for this long.
const YOUNGEST: f64 = 10.0;
/// What a move takes besides copying, in seconds: to be prepared, to switch over, to tidy up.
const AROUND_A_MOVE: f64 = 15.0;
/// How much sooner than needed a move starts: predictions are only that.
const SAFETY: f64 = 1.5;
/// A VM that writes about as fast as can be copied still comes to an end, at this part of the
/// bandwidth: its writes wait until both hosts have them.
const LEAST_PART: f64 = 0.25;

/// How fast volumes grow, or are written: whatever only becomes more.
#[derive(Debug, Default)]
pub struct Rates(BTreeMap<(PoolName, VolumeName), Rate>);

#[derive(Debug, Clone, Copy)]
struct Rate {
    allocation: Bytes,
    /// Decayed sum of growths, as of `last`.
    level: f64,
    first: Instant,
    last: Instant,
}

impl Rates {
    /// A volume grew by so much, to so much.
    pub fn grown(
        &mut self,
        pool: &PoolName,
        volume: &VolumeName,
        by: Bytes,
        allocation: Bytes,
        now: Instant,
    ) {
        let key = (pool.clone(), volume.clone());
        let before = allocation.saturating_sub(by);
        let new = Rate { allocation: before, level: 0.0, first: now, last: now };
        let rate = self.0.entry(key).or_insert(new);
        rate.add(as_f64(allocation.saturating_sub(rate.allocation)), now);
        rate.allocation = allocation;
    }

    /// So much was counted of a volume since its device was made; less than before, and it was made anew. What was
    /// added since the last time was so over all of that time.
    pub(crate) fn counted(
        &mut self,
        pool: &PoolName,
        volume: &VolumeName,
        sum: Bytes,
        now: Instant,
    ) {
        let new = Rate { allocation: sum, level: 0.0, first: now, last: now };
        let rate = self.0.entry((pool.clone(), volume.clone())).or_insert(new);
        if sum < rate.allocation {
            *rate = new;
        }
        let passed = seconds(rate.last, now) / MEMORY;
        let faded = if passed > 0.0 { (1.0 - (-passed).exp()) / passed } else { 1.0 };
        rate.add(as_f64(sum.saturating_sub(rate.allocation)) * faded, now);
        rate.allocation = sum;
    }

    /// A volume is gone.
    pub fn forget(&mut self, pool: &PoolName, volume: &VolumeName) {
        self.0.remove(&(pool.clone(), volume.clone()));
    }

    /// A pool was stopped.
    pub fn forget_pool(&mut self, pool: &PoolName) {
        self.0.retain(|(of, _), _| of != pool);
    }

    /// Bytes in a second, for one volume.
    #[must_use]
    pub fn of(&self, pool: &PoolName, volume: &VolumeName, now: Instant) -> f64 {
        self.0.get(&(pool.clone(), volume.clone())).map_or(0.0, |rate| rate.at(now))
    }

    /// Bytes in a second, for all volumes of a pool.
    #[must_use]
    pub fn of_pool(&self, pool: &PoolName, now: Instant) -> f64 {
        self.0.iter().filter(|((of, _), _)| of == pool).map(|(_, rate)| rate.at(now)).sum()
    }
}

impl Rate {
    fn add(&mut self, more: f64, now: Instant) {
        (self.level, self.last) = (self.level_at(now) + more, now);
    }

    fn level_at(&self, now: Instant) -> f64 {
        self.level * (-seconds(self.last, now) / MEMORY).exp()
    }

    /// The average over what was seen: a volume that has grown for ten seconds only has not
    /// filled the memory yet.
    fn at(&self, now: Instant) -> f64 {
        let seen = seconds(self.first, now).max(YOUNGEST);
        self.level_at(now) / (MEMORY * (1.0 - (-seen / MEMORY).exp()))
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "a prediction needs no exact bytes")]
pub(crate) fn as_f64(bytes: Bytes) -> f64 {
    bytes.0 as f64
}

/// How long a move of so many bytes will take, for a VM that writes at `rate` meanwhile.
pub(crate) fn time_to_move(bytes: Bytes, bandwidth: Bytes, rate: f64) -> Duration {
    let bandwidth = as_f64(bandwidth).max(1.0);
    let net = (bandwidth - rate).max(bandwidth * LEAST_PART);
    bounded(AROUND_A_MOVE + as_f64(bytes) / net)
}

/// How long a pool has until it is full, growing at `rate`.
#[must_use]
pub fn time_to_full(available: Bytes, rate: f64) -> Duration {
    if rate < 1.0 { Duration::MAX } else { bounded(as_f64(available) / rate) }
}

/// A volume that grows, and can do so for a while only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Growth {
    /// Bytes in a second.
    pub rate: f64,
    /// What it can still grow by.
    pub left: Bytes,
}

/// How long a pool has until it is full, when each of these volumes grows until it is.
pub(crate) fn time_until_full(available: Bytes, growths: &[Growth]) -> Duration {
    let mut growths: Vec<(f64, f64)> = growths
        .iter()
        .filter(|growth| growth.rate >= 1.0)
        .map(|growth| (as_f64(growth.left) / growth.rate, growth.rate))
        .collect();
    growths.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut now, mut left) = (0.0, as_f64(available));
    let mut rate: f64 = growths.iter().map(|(_, rate)| rate).sum();
    for (ends, of) in growths {
        let used = rate * (ends - now);
        if used >= left {
            return bounded(now + left / rate);
        }
        (now, left, rate) = (ends, left - used, rate - of);
    }
    Duration::MAX
}

/// Whether a move that takes `to_move` has to start now, in a pool that will be full in
/// `to_full`.
pub(crate) fn is_near(to_full: Duration, to_move: Duration) -> bool {
    to_full.as_secs_f64() <= to_move.as_secs_f64() * SAFETY
}

fn bounded(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> (PoolName, VolumeName) {
        ("vms".parse().unwrap(), "disk0".parse().unwrap())
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// Grows by `step` MiB each second for so long.
    fn steady(step: u64, seconds: u64) -> (Rates, Instant) {
        let ((pool, volume), start) = (names(), Instant::now());
        let mut rates = Rates::default();
        for second in 1..=seconds {
            let now = after(start, second);
            rates.grown(&pool, &volume, Bytes::mib(step), Bytes::mib(step * second), now);
        }
        (rates, after(start, seconds))
    }

    #[test]
    fn a_steady_writer_s_rate_is_found_and_fades() {
        let (pool, volume) = names();
        let (rates, now) = steady(8, 60);
        let rate = rates.of(&pool, &volume, now) / as_f64(Bytes::mib(8));
        assert!((0.95..1.1).contains(&rate), "{rate}");
        let later = rates.of_pool(&pool, after(now, 300));
        assert!(later < as_f64(Bytes::mib(1)), "{later}");
    }

    #[test]
    fn what_was_written_before_anybody_looked_is_no_rate() {
        let ((pool, volume), start) = (names(), Instant::now());
        let mut rates = Rates::default();
        let mut count = |mib, seconds| {
            rates.counted(&pool, &volume, Bytes::mib(mib), after(start, seconds));
            rates.of(&pool, &volume, after(start, seconds)) / as_f64(Bytes::mib(1))
        };
        assert!(count(100_000, 0) < 0.001);
        assert!((5.0..20.0).contains(&count(100_100, 10)));
        // An hour in which nobody looked is an hour, and no burst of now.
        assert!((8.0..12.0).contains(&count(100_100 + 36_000, 3610)));
        // The volume has another device.
        assert!(count(50, 3620) < 0.001);
    }

    #[test]
    fn one_burst_is_not_taken_for_a_rate() {
        let ((pool, volume), now) = (names(), Instant::now());
        let mut rates = Rates::default();
        rates.grown(&pool, &volume, Bytes::mib(100), Bytes::mib(100), now);
        assert!(rates.of(&pool, &volume, now) < as_f64(Bytes::mib(12)));
    }

    #[test]
    fn lost_events_lose_nothing() {
        let ((pool, volume), start) = (names(), Instant::now());
        let mut rates = Rates::default();
        rates.grown(&pool, &volume, Bytes::mib(1), Bytes::mib(1), start);
        rates.grown(&pool, &volume, Bytes::mib(1), Bytes::mib(601), after(start, 60));
        let rate = rates.of(&pool, &volume, after(start, 60));
        assert!(rate > as_f64(Bytes::mib(10)), "{rate}");
        rates.forget(&pool, &volume);
        assert!(rates.of_pool(&pool, start).abs() < 1.0);
    }

    #[test]
    fn a_move_starts_when_it_would_just_be_done() {
        let hundred = Bytes::mib(100);
        let to_move = time_to_move(Bytes::mib(8500), hundred, 0.0);
        assert_eq!(to_move, Duration::from_secs(100));
        let full = |seconds: u64| time_to_full(Bytes::mib(10 * seconds), as_f64(Bytes::mib(10)));
        assert!(is_near(full(150), to_move) && !is_near(full(151), to_move));
        assert!(!is_near(time_to_full(Bytes::ZERO, 0.0), to_move), "nothing grows");
    }

    #[test]
    fn a_volume_that_will_be_full_itself_fills_no_pool() {
        let growth = |rate, left| Growth { rate: as_f64(Bytes::mib(rate)), left: Bytes::mib(left) };
        let until = |available, growths: &[Growth]| time_until_full(Bytes::mib(available), growths);
        let seconds = Duration::from_secs;
        assert_eq!(until(100, &[]), Duration::MAX);
        assert_eq!(until(100, &[growth(10, 1000)]), seconds(10));
        assert_eq!(until(100, &[growth(10, 99)]), Duration::MAX);
        // Both for five seconds, then the second one alone.
        assert_eq!(until(100, &[growth(5, 1000), growth(10, 50)]), seconds(5 + 5));
        assert_eq!(until(0, &[growth(10, 50)]), Duration::ZERO);
    }

    proptest! {
        /// Volumes without an end fill a pool as their rates say.
        #[test]
        fn endless_volumes_add_up(
            available in 0u64..1 << 50, rates in proptest::collection::vec(1f64..1e12, 1..6),
        ) {
            let endless = rates.iter().map(|rate| Growth { rate: *rate, left: Bytes(1 << 60) });
            let found = time_until_full(Bytes(available), &endless.collect::<Vec<_>>());
            let simple = time_to_full(Bytes(available), rates.iter().sum());
            let differs = found.as_secs_f64() - simple.as_secs_f64();
            prop_assert!(differs.abs() <= 1e-6 * simple.as_secs_f64().max(1.0));
        }

        #[test]
        fn predictions_are_finite_and_ordered(
            bytes in any::<u64>(), bandwidth in any::<u64>(), rate in 0f64..1e18,
        ) {
            let slow = time_to_move(Bytes(bytes), Bytes(bandwidth), rate);
            prop_assert!(slow >= time_to_move(Bytes(bytes / 2), Bytes(bandwidth), rate / 2.0));
            prop_assert!(time_to_full(Bytes(bytes), rate) >= time_to_full(Bytes(bytes / 2), rate));
        }
    }
}
