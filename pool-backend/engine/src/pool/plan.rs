// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much headroom a pool should have. Pure.
//!
//! A pool sustains a rate of growth of headroom divided by the time that it takes to get more. So
//! the headroom follows the rate that was seen lately: the clean chunks that are there when more
//! is ordered last until it has come, with as much again in reserve.
//!
//! An extension soon after the last one is twice as large: a command takes the same time for much
//! as for little, and the rate that is an average over seconds comes too late for a burst.

use std::time::Duration;

use virtnotify_model::{Bytes, ChunkSize};

use crate::runtime::Instant;

/// Over which time the rate is an average.
const SMOOTH: f64 = 2.0;
/// How long a high rate is remembered.
const MEMORY: f64 = 60.0;
/// How long it takes to get more, before it was ever measured.
const FIRST_LEAD: Duration = Duration::from_secs(1);
/// An extension so soon after the last one belongs to the same burst.
const BURST: Duration = Duration::from_secs(5);
/// Samples closer to each other than this are one.
const APART: Duration = Duration::from_millis(10);
/// The headroom that an operator has not chosen: this, or this part of the volume group where that is
/// more, so that a guest's burst finds room that is in proportion to the disk.
const USUAL: Bytes = Bytes::mib(64);
const PART_USUAL: u64 = 256;
/// It is at most this part of the volume group, and any is at most the other part.
const PART_BY_DEFAULT: u64 = 16;
const PART_AT_MOST: u64 = 2;
/// There should be this many chunks at least, however large they are.
const LEAST_CHUNKS: u64 = 2;

/// Measures how fast volumes grow, and how long it takes to get more headroom.
#[derive(Debug)]
pub(super) struct Meter {
    seen: u64,
    at: Instant,
    rate: f64,
    peak: f64,
    extending: Duration,
    zeroing: Duration,
    /// When the last extension ended, and of how many chunks it was.
    last: Option<(Instant, u64)>,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        let (extending, zeroing) = (FIRST_LEAD, Duration::ZERO);
        Self { seen: 0, at: now, rate: 0.0, peak: 0.0, extending, zeroing, last: None }
    }

    /// Notes how many chunks have been granted since the pool was started.
    pub(super) fn sample(&mut self, granted: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        if passed < APART {
            return;
        }
        let seconds = passed.as_secs_f64();
        // Chunk counts are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let current = granted.saturating_sub(self.seen) as f64 / seconds;
        let weight = 1.0 - (-seconds / SMOOTH).exp();
        self.rate += weight * (current - self.rate);
        self.peak = self.rate.max(self.peak * (-seconds / MEMORY).exp());
        (self.seen, self.at) = (granted, now);
    }

    /// Notes an extension of the data LV that ended now: by how many chunks, and how long it took.
    pub(super) fn extended(&mut self, chunks: u64, took: Duration, now: Instant) {
        self.extending = took;
        self.last = Some((now, chunks));
    }

    /// How many chunks an extension should bring: twice as many as the last one, if that was a
    /// moment ago.
    pub(super) fn burst(&self, now: Instant) -> u64 {
        let recent = |&(at, _): &(Instant, u64)| now.saturating_duration_since(at) < BURST;
        self.last.filter(recent).map_or(0, |(_, chunks)| chunks.saturating_mul(2))
    }

    /// Notes how long the last step of zeroing took.
    pub(super) fn zeroed(&mut self, took: Duration) {
        self.zeroing = took;
    }

    /// How many chunks will be granted while more is being got.
    pub(super) fn while_extending(&self) -> u64 {
        let chunks = self.peak * (self.extending + self.zeroing).as_secs_f64();
        // Saturates, and is never negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let chunks = chunks.ceil() as u64;
        chunks
    }
}

/// What an operator has decided, and what there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) chunk: ChunkSize,
    /// The size of the volume group.
    pub(super) group: Bytes,
    /// The headroom when nothing grows, where the operator chose one.
    pub(super) chosen: Option<Bytes>,
    /// What a high rate may make of it.
    pub(super) most: Bytes,
    /// By how much a data LV grows at a time, at least.
    pub(super) step: Bytes,
}

/// How much headroom there should be, in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// The number of clean chunks when all is quiet.
    pub(super) goal: u64,
    /// With fewer than this, more is got although volumes are growing.
    pub(super) mark: u64,
    /// By how much a data LV grows at a time.
    pub(super) step: u64,
}

/// The plan, when so many chunks will be granted while more is being got, and extensions follow
/// each other so closely that the next one should be of `burst` chunks.
pub(super) fn plan(terms: &Terms, while_extending: u64, burst: u64) -> Plan {
    let chunks = |bytes: Bytes| terms.chunk.whole_chunks(bytes).0;
    let part = |n: u64| chunks(Bytes(terms.group.0 / n)).max(1);
    let small = part(PART_BY_DEFAULT);
    let usual = match terms.chosen {
        Some(chosen) => chunks(chosen).max(LEAST_CHUNKS).min(part(PART_AT_MOST)),
        None => {
            let part = part(PART_USUAL).min(chunks(terms.most));
            chunks(USUAL).max(part).max(LEAST_CHUNKS).min(small)
        }
    };
    let most = chunks(terms.most).min(small.max(usual));
    let follow = while_extending.saturating_mul(2).min(most);
    let goal = usual.max(follow);
    let mark = goal.div_ceil(2);
    Plan { goal, mark, step: chunks(terms.step).max(1).max(follow).max(burst.min(most)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(group_mib: u64) -> Terms {
        Terms {
            chunk: ChunkSize::default(),
            group: Bytes::mib(group_mib),
            chosen: None,
            most: Bytes::mib(1024),
            step: Bytes::mib(64),
        }
    }

    #[test]
    fn the_headroom_follows_the_rate_within_its_limits() {
        let large = terms(16 << 10);
        assert_eq!(plan(&large, 0, 0), Plan { goal: 16, mark: 8, step: 16 });
        assert_eq!(plan(&large, 50, 0), Plan { goal: 100, mark: 50, step: 100 });
        assert_eq!(plan(&large, 5000, 0).goal, 256, "as much as is allowed");
        let small = terms(512);
        assert_eq!(plan(&small, 5000, 0).goal, 8, "a small group is not all headroom");
    }

    #[test]
    fn a_large_group_has_more_ready() {
        let goal = |gib: u64| plan(&terms(gib << 10), 0, 0).goal;
        // 64 MiB, 256 MiB, and the limit.
        assert_eq!([8, 16, 64, 256, 16 << 10].map(goal), [16, 16, 64, 256, 256]);
        let low = Terms { most: Bytes::mib(128), ..terms(256 << 10) };
        assert_eq!(plan(&low, 0, 0).goal, 32, "no more than is allowed");
    }

    #[test]
    fn extensions_in_a_burst_double_to_the_limit() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let mut steps = Vec::new();
        for n in 0..6 {
            let now = start + Duration::from_secs(n);
            let step = plan(&terms(64 << 10), 0, meter.burst(now)).step;
            meter.extended(step, Duration::from_millis(500), now);
            steps.push(step);
        }
        assert_eq!(steps, [16, 32, 64, 128, 256, 256]);
        assert_eq!(meter.burst(start + Duration::from_secs(60)), 0, "the burst is over");
    }

    #[test]
    fn a_chosen_headroom_is_what_was_chosen() {
        let chosen = Terms { chosen: Some(Bytes::mib(400)), ..terms(1024) };
        assert_eq!(plan(&chosen, 0, 0).goal, 100);
        let too_much = Terms { chosen: Some(Bytes::mib(4000)), ..terms(1024) };
        assert_eq!(plan(&too_much, 0, 0).goal, 128, "half of the group");
        let tiny = Terms { chosen: Some(Bytes(1)), ..terms(1024) };
        assert_eq!(plan(&tiny, 0, 0).goal, 2);
    }

    #[test]
    fn there_is_headroom_in_any_group_with_any_chunk() {
        for shift in 16..=30 {
            for group in [1, 100, 1 << 20, 1 << 30] {
                let chunk = ChunkSize::new(Bytes(1 << shift)).unwrap();
                let plan = plan(&Terms { chunk, ..terms(group) }, 0, 0);
                assert!(plan.goal > 0 && plan.mark > 0 && plan.mark <= plan.goal);
                assert!(plan.step > 0);
            }
        }
    }

    #[test]
    fn a_burst_is_seen_and_forgotten() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        meter.extended(16, Duration::from_millis(500), start);
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        for n in 1..=100 {
            meter.sample(n * 10, at(n));
        }
        // 100 chunks a second, and half a second until there are more.
        let busy = meter.while_extending();
        assert!((45..=51).contains(&busy), "{busy}");
        meter.sample(1000, at(100) + Duration::from_secs(600));
        assert_eq!(meter.while_extending(), 1);
    }
}
