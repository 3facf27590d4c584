// SPDX-License-Identifier: LGPL-2.1-or-later
//! When a pool's policy lets VMs leave at its low mark: at some hours only, and no more than so many within a day. A
//! VM that waits for space, one that a person moves, and those of a host that is drained leave in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::{io, ptr};

use tracing::{info, warn};
use virtnotify_model::{PoolName, TimeOfDay};

use crate::begin::Done;
use crate::owner::Mover;
use crate::timing::seconds_since_1970;

/// What is meant by a day.
const DAY: u64 = 24 * 3600;

/// When VMs left pools at their low marks, in seconds since 1970. It is kept over restarts, beside the journal.
#[derive(Debug)]
pub(super) struct Tally {
    path: PathBuf,
    left: BTreeMap<PoolName, Vec<u64>>,
    /// Pools of which it was said that no VM may leave now.
    told: BTreeSet<PoolName>,
}

impl Tally {
    /// What the journal's directory has of it; what cannot be read is forgotten.
    pub(super) fn within(journal: &Path) -> Self {
        let path = journal.join("tally");
        let read = || serde_json::from_slice(&std::fs::read(&path).ok()?).ok();
        let left: BTreeMap<PoolName, Vec<u64>> = read().unwrap_or_default();
        Self { path, left, told: BTreeSet::new() }
    }

    /// How many left that pool within a day.
    fn lately(&self, pool: &PoolName, now: u64) -> usize {
        let times = self.left.get(pool).into_iter().flatten();
        times.filter(|time| **time <= now && now - **time < DAY).count()
    }

    /// One leaves now. Says what is to be written down.
    fn leaves(&mut self, pool: &PoolName, now: u64) -> (PathBuf, Vec<u8>) {
        self.left.entry(pool.clone()).or_default().push(now);
        for times in self.left.values_mut() {
            times.retain(|time| *time <= now && now - *time < DAY);
        }
        (self.path.clone(), serde_json::to_vec(&self.left).unwrap_or_default())
    }
}

impl Mover {
    /// Whether a VM may leave the pool at its low mark now. That it may not is logged once, until it may again.
    pub(super) fn may_leave_now(&mut self, pool: &PoolName) -> bool {
        let Ok(policy) = self.tools.storage.policy(pool) else { return false };
        let now = seconds_since_1970();
        let closed =
            policy.window.filter(|window| !local_time().is_none_or(|now| window.holds(now)));
        let full = policy.daily.filter(|most| self.tally.lately(pool, now) >= *most as usize);
        let why = match (closed, full) {
            (Some(window), _) => format!("VMs leave it from {window} only"),
            (None, Some(most)) => format!("{most} VMs have left it within a day, and no more may"),
            (None, None) => {
                self.tally.told.remove(pool);
                return true;
            }
        };
        if self.tally.told.insert(pool.clone()) {
            info!(
                "no VM leaves '{pool}', which is low or soon full, before it waits for space: {why}"
            );
        }
        false
    }

    /// A VM leaves the pool at its low mark.
    pub(super) fn tally(&mut self, pool: &PoolName) {
        let (path, text) = self.tally.leaves(pool, seconds_since_1970());
        self.questions.spawn_blocking(move || {
            let kept: io::Result<()> = virtnotify_files::replace_durably(&path, &text, 0o644);
            if let Err(error) = kept {
                warn!(
                    "how many VMs left within a day cannot be kept in '{}': {error}",
                    path.display()
                );
            }
            Done::Nothing
        });
    }
}

/// The host's own time; nothing where it has none.
pub(super) fn local_time() -> Option<TimeOfDay> {
    let now = libc::time_t::try_from(seconds_since_1970()).ok()?;
    let mut fields = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both are ours; what it points to is filled in where a pointer comes back.
    let filled = unsafe { libc::localtime_r(ptr::from_ref(&now), fields.as_mut_ptr()) };
    if filled.is_null() {
        return None;
    }
    // SAFETY: as it has just said.
    let fields = unsafe { fields.assume_init() };
    TimeOfDay::new(u16::try_from(fields.tm_hour).ok()?, u16::try_from(fields.tm_min).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_counted_over_restarts_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let pool: PoolName = "vms".parse().unwrap();
        let mut tally = Tally::within(directory.path());
        for now in [1000, 2000] {
            let (path, text) = tally.leaves(&pool, now);
            std::fs::write(path, text).unwrap();
        }
        let tally = Tally::within(directory.path());
        assert_eq!(tally.lately(&pool, 2000), 2);
        assert_eq!(tally.lately(&pool, 1000 + DAY), 1);
        assert_eq!(tally.lately(&pool, 2000 + DAY), 0);
        assert_eq!(tally.lately(&pool, 10), 0, "the clock was set back");
        assert_eq!(tally.lately(&"other".parse().unwrap(), 2000), 0);
        std::fs::write(directory.path().join("tally"), "{").unwrap();
        assert_eq!(Tally::within(directory.path()).lately(&pool, 2000), 0);
    }

    #[test]
    fn it_is_some_time_of_day() {
        assert!(local_time().is_some());
    }
}
