// SPDX-License-Identifier: LGPL-2.1-or-later
//! Gathers growths: a thousand a second must not flood the bus, and no byte may be lost in
//! the sums. Pure: time is the caller's.

use std::collections::BTreeMap;

use virtnotify_model::{Bytes, Event, PoolName, VolumeName};

/// Growths that were not told yet, by volume.
#[derive(Debug, Default)]
pub struct Gather(BTreeMap<(PoolName, VolumeName), Growth>);

#[derive(Debug)]
struct Growth {
    by: Bytes,
    allocation: Bytes,
    capacity: Bytes,
}

impl Gather {
    /// Adds a growth.
    pub fn add(
        &mut self,
        pool: PoolName,
        volume: VolumeName,
        by: Bytes,
        allocation: Bytes,
        capacity: Bytes,
    ) {
        let none = Growth { by: Bytes::ZERO, allocation, capacity };
        let growth = self.0.entry((pool, volume)).or_insert(none);
        growth.by = growth.by.saturating_add(by);
        growth.allocation = allocation;
        growth.capacity = capacity;
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All growths so far, one for each volume.
    pub fn take(&mut self) -> Vec<Event> {
        let all = std::mem::take(&mut self.0).into_iter();
        all.map(|((pool, volume), Growth { by, allocation, capacity })| Event::VolumeGrown {
            pool,
            volume,
            by,
            allocation,
            capacity,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(volume: &str, by: u64, allocation: u64) -> Event {
        Event::VolumeGrown {
            pool: "p".parse().unwrap(),
            volume: volume.parse().unwrap(),
            by: Bytes(by),
            allocation: Bytes(allocation),
            capacity: Bytes(100),
        }
    }

    fn add(gather: &mut Gather, volume: &str, by: u64, allocation: u64) {
        let (pool, volume) = ("p".parse().unwrap(), volume.parse().unwrap());
        gather.add(pool, volume, Bytes(by), Bytes(allocation), Bytes(100));
    }

    #[test]
    fn sums_are_exact_and_the_last_size_counts() {
        let mut gather = Gather::default();
        for n in 1..=50 {
            add(&mut gather, "a", 1, n);
            add(&mut gather, "b", 2, 2 * n);
        }
        assert_eq!(gather.take(), [grown("a", 50, 50), grown("b", 100, 100)]);
        assert!(gather.is_empty());
    }
}
