// SPDX-License-Identifier: LGPL-2.1-or-later
//! One day's account: what each volume held, for how long, and for which VM. Pure: time is the
//! caller's, in seconds since 1970, and a day is one of UTC.
//!
//! What a volume holds is counted from one observation to the next, also across a restart of the
//! daemon or the host: what is on the disk is held whether a daemon runs or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use virtnotify_model::Bytes;

/// Seconds in a day.
pub const DAY: u64 = 86400;
/// A gap of more days means that the clock was wrong.
const LONGEST_GAP: u64 = 366;

/// The key of a row: a volume while it belongs to one VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The volume, by its own unchanging id.
    pub volume: Uuid,
    /// The VM; none when no VM has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Uuid>,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub owner: Owner,
    pub pool: String,
    pub name: String,
    /// The VM's name; empty when no VM has it.
    pub domain_name: String,
    /// What it holds, in KiB: all sizes are multiples of that, and a day's sum fits.
    kib: u64,
    /// Until when it is counted.
    until: u64,
    kib_seconds: u64,
}

/// A volume as it is seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub owner: Owner,
    pub pool: String,
    pub name: String,
    pub domain_name: String,
    pub allocation: Bytes,
}

/// A day's account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Days since 1970.
    pub day: u64,
    rows: BTreeMap<Owner, Row>,
}

impl Row {
    /// Counts what it held until now. A clock that was set back counts nothing until it is where
    /// it was.
    fn count(&mut self, now: u64) {
        let seconds = now.saturating_sub(self.until);
        self.kib_seconds = self.kib_seconds.saturating_add(self.kib.saturating_mul(seconds));
        self.until = self.until.max(now);
    }

    /// Bytes times seconds.
    pub fn byte_seconds(&self) -> u128 {
        u128::from(self.kib_seconds) * 1024
    }
}

impl Ledger {
    /// An account of this day with these rows.
    pub fn new(day: u64, rows: Vec<Row>) -> Self {
        Self { day, rows: rows.into_iter().map(|row| (row.owner.clone(), row)).collect() }
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The rows as of now.
    pub fn as_of(&self, now: u64) -> Self {
        let mut copy = self.clone();
        let now = now.min((self.day + 1) * DAY);
        copy.rows.values_mut().for_each(|row| row.count(now));
        copy
    }

    /// Which volumes of which pools hold something, by the last observation.
    pub fn held(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().filter(|row| row.kib > 0)
    }

    /// Notes a volume and its VM. A VM that had it before has it no more.
    pub fn see(&mut self, seen: Seen, now: u64) {
        let others = self.rows.values_mut();
        let others = others.filter(|row| row.owner.volume == seen.owner.volume);
        for row in others.filter(|row| row.owner != seen.owner) {
            row.count(now);
            row.kib = 0;
        }
        let Seen { owner, pool, name, domain_name, allocation } = seen;
        let new = || Row {
            owner: owner.clone(),
            pool: String::new(),
            name: String::new(),
            domain_name: String::new(),
            kib: 0,
            until: now,
            kib_seconds: 0,
        };
        let row = self.rows.entry(owner.clone()).or_insert_with(new);
        row.count(now);
        (row.pool, row.name, row.domain_name) = (pool, name, domain_name);
        row.kib = allocation.0 / 1024;
    }

    /// Notes what a volume holds; `false` when the volume is not known.
    pub fn grows(&mut self, pool: &str, name: &str, allocation: Bytes, now: u64) -> bool {
        let mut all = self.rows.values_mut();
        let found = all.find(|row| row.kib > 0 && row.pool == pool && row.name == name);
        let Some(row) = found else { return false };
        row.count(now);
        row.kib = allocation.0 / 1024;
        true
    }

    /// A volume of this name is gone.
    pub fn gone(&mut self, pool: &str, name: &str, now: u64) {
        for row in self.rows.values_mut().filter(|row| row.pool == pool && row.name == name) {
            row.count(now);
            row.kib = 0;
        }
    }

    /// Turns to the day of now; returns the days that are over, with this one as the first.
    pub fn turn(&mut self, now: u64) -> Vec<Self> {
        let mut over = Vec::new();
        let today = now / DAY;
        if today > self.day.saturating_add(LONGEST_GAP) {
            over.push(self.clone());
            self.rows.retain(|_, row| row.kib > 0);
            for row in self.rows.values_mut() {
                (row.kib_seconds, row.until) = (0, now);
            }
            self.day = today;
        }
        while self.day < today {
            let end = (self.day + 1) * DAY;
            self.rows.values_mut().for_each(|row| row.count(end));
            over.push(self.clone());
            self.day += 1;
            self.rows.retain(|_, row| row.kib > 0);
            self.rows.values_mut().for_each(|row| row.kib_seconds = 0);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1024;

    fn seen(domain: Option<u128>, kib: u64) -> Seen {
        Seen {
            owner: Owner { volume: Uuid::from_u128(7), domain: domain.map(Uuid::from_u128) },
            pool: "vms".into(),
            name: "disk0".into(),
            domain_name: domain.map(|id| format!("vm{id}")).unwrap_or_default(),
            allocation: Bytes(kib * KIB),
        }
    }

    fn sums(ledger: &Ledger) -> Vec<u128> {
        ledger.rows().map(|row| row.byte_seconds() / u128::from(KIB)).collect()
    }

    #[test]
    fn what_is_held_is_counted_for_its_vm() {
        let mut ledger = Ledger::default();
        ledger.see(seen(None, 10), 100);
        ledger.see(seen(Some(1), 10), 110);
        assert!(ledger.grows("vms", "disk0", Bytes(20 * KIB), 120));
        assert!(!ledger.grows("vms", "disk1", Bytes(20 * KIB), 120));
        ledger.see(seen(Some(2), 20), 130);
        ledger.gone("vms", "disk0", 140);
        // 10 s of 10; 10 s of 10 and 10 s of 20; 10 s of 20.
        assert_eq!(sums(&ledger.as_of(1000)), [100, 300, 200]);
        assert_eq!(ledger.held().count(), 0);
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let mut ledger = Ledger::default();
        ledger.see(seen(Some(1), 10), DAY - 5);
        let over = ledger.turn(3 * DAY + 7);
        assert_eq!(
            over.iter().map(|day| (day.day, sums(day))).collect::<Vec<_>>(),
            [(0, vec![50]), (1, vec![864_000]), (2, vec![864_000])]
        );
        assert_eq!((ledger.day, sums(&ledger.as_of(3 * DAY + 7))), (3, vec![70]));
        ledger.gone("vms", "disk0", 3 * DAY + 7);
        assert_eq!(ledger.turn(4 * DAY).len(), 1);
        assert_eq!(ledger.rows().count(), 0, "what is gone is not in the next day");
    }

    #[test]
    fn a_wrong_clock_costs_nobody_anything() {
        let mut ledger = Ledger::default();
        ledger.see(seen(Some(1), 10), 1000);
        ledger.see(seen(Some(1), 10), 500);
        assert_eq!(sums(&ledger.as_of(1000)), [0]);
        assert_eq!(ledger.turn(5000 * DAY).len(), 1);
        assert_eq!((ledger.day, sums(&ledger)), (5000, vec![0]));
    }

    proptest! {
        /// However the time is cut into days and observations, the sum is the same.
        #[test]
        fn nothing_is_lost_between_days(steps in proptest::collection::vec(1u64..DAY, 1..20)) {
            let (mut ledger, mut now, mut total) = (Ledger::default(), 0, 0);
            ledger.see(seen(Some(1), 3), now);
            for step in &steps {
                now += step;
                total += ledger.turn(now).iter().flat_map(sums).sum::<u128>();
                ledger.see(seen(Some(1), 3), now);
            }
            total += sums(&ledger).iter().sum::<u128>();
            prop_assert_eq!(total, u128::from(3 * steps.iter().sum::<u64>()));
        }
    }
}
