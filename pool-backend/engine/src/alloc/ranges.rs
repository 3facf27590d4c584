// SPDX-License-Identifier: LGPL-2.1-or-later
//! A set of a volume's chunks, kept as the fewest ranges.
//!
//! Invariants: no range is empty, no two overlap, no two touch (they would be one).

use std::collections::BTreeMap;

use super::Run;

/// A set of chunk numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl FromIterator<Run> for Ranges {
    /// The chunks of runs, wherever they are.
    fn from_iter<T: IntoIterator<Item = Run>>(runs: T) -> Self {
        let mut ranges = Self::default();
        runs.into_iter().for_each(|run| ranges.insert(run.at, run.to.length));
        ranges
    }
}

impl Ranges {
    /// All chunks that a volume may have.
    pub(crate) fn all() -> Self {
        Self([(0, u64::MAX)].into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The ranges in order: first chunk and length.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&from, &end)| (from, end - from))
    }

    pub(crate) fn contains(&self, chunk: u64) -> bool {
        self.covers(chunk, 1)
    }

    /// Whether all of a range is in the set.
    pub(crate) fn covers(&self, from: u64, length: u64) -> bool {
        let before = self.0.range(..=from).next_back();
        before.is_some_and(|(_, &end)| from.saturating_add(length) <= end)
    }

    /// The range that a chunk is in: first chunk and length.
    pub(crate) fn around(&self, chunk: u64) -> Option<(u64, u64)> {
        let (&from, &end) = self.0.range(..=chunk).next_back()?;
        (chunk < end).then_some((from, end - from))
    }

    /// What of a range is in the set: first chunk and length of each part.
    pub(crate) fn within(&self, from: u64, length: u64) -> Vec<(u64, u64)> {
        let end = from.saturating_add(length);
        let first = self.around(from).map_or(from, |(near, _)| near);
        let parts = self.0.range(first..end).map(|(&near, &far)| (near.max(from), far.min(end)));
        parts.map(|(near, far)| (near, far - near)).collect()
    }

    /// What is in both.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let mut common = Self::default();
        for (from, length) in other.iter() {
            self.within(from, length).into_iter().for_each(|(at, n)| common.insert(at, n));
        }
        common
    }

    /// Adds all of another set.
    pub(crate) fn insert_all(&mut self, other: &Self) {
        other.iter().for_each(|(from, length)| self.insert(from, length));
    }

    /// Takes all of another set out.
    pub(crate) fn remove_all(&mut self, other: &Self) {
        other.iter().for_each(|(from, length)| self.remove(from, length));
    }

    /// Adds a range, whatever of it is there already.
    pub(crate) fn insert(&mut self, from: u64, length: u64) {
        let (mut start, mut end) = (from, from.saturating_add(length));
        if start == end {
            return;
        }
        while let Some((&near, &far)) = self.0.range(..=end).next_back()
            && far >= start
        {
            self.0.remove(&near);
            (start, end) = (start.min(near), end.max(far));
        }
        self.0.insert(start, end);
    }

    /// Takes a range out, whatever of it is there.
    pub(crate) fn remove(&mut self, from: u64, length: u64) {
        let end = from.saturating_add(length);
        while let Some((&near, &far)) = self.0.range(..end).next_back()
            && far > from
            && from < end
        {
            self.0.remove(&near);
            if near < from {
                self.0.insert(near, from);
            }
            if end < far {
                self.0.insert(end, far);
            }
        }
    }

    /// Takes the first range out, `most` chunks of it.
    pub(crate) fn take_first(&mut self, most: u64) -> Option<(u64, u64)> {
        let (&from, &end) = self.0.iter().next()?;
        let length = (end - from).min(most);
        self.remove(from, length);
        Some((from, length))
    }

    /// Takes the end of the last range out, `most` chunks of it.
    pub(crate) fn take_last(&mut self, most: u64) -> Option<(u64, u64)> {
        let (&from, &end) = self.0.iter().next_back()?;
        let length = (end - from).min(most);
        self.remove(end - length, length);
        Some((end - length, length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(
            steps in prop::collection::vec((0u8..4, 0u64..40, 0u64..9), 1..80)
        ) {
            let (mut set, mut model) = (Ranges::default(), BTreeSet::new());
            for (step, from, length) in steps {
                match step {
                    0 => {
                        set.insert(from, length);
                        model.extend(from..from + length);
                    }
                    1 => {
                        set.remove(from, length);
                        model.retain(|c| !(from..from + length).contains(c));
                    }
                    take => if length > 0 && let Some((at, n)) = match take {
                        2 => set.take_first(length),
                        _ => set.take_last(length),
                    } {
                        prop_assert!(n > 0 && n <= length);
                        match take {
                            2 => prop_assert_eq!(model.first(), Some(&at)),
                            _ => prop_assert_eq!(model.last(), Some(&(at + n - 1))),
                        }
                        for chunk in at..at + n {
                            prop_assert!(model.remove(&chunk));
                        }
                    },
                }
                let all: Vec<u64> = set.iter().flat_map(|(at, n)| at..at + n).collect();
                prop_assert_eq!(&all, &model.iter().copied().collect::<Vec<_>>());
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0));
                for chunk in 0..50 {
                    prop_assert_eq!(set.contains(chunk), model.contains(&chunk));
                    let around = ranges.iter().find(|(at, n)| (*at..at + n).contains(&chunk));
                    prop_assert_eq!(set.around(chunk), around.copied());
                    let within = set.within(chunk, 7).into_iter().flat_map(|(at, n)| at..at + n);
                    let expected = model.range(chunk..chunk + 7).copied();
                    prop_assert_eq!(within.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                }
            }
        }
    }
}
