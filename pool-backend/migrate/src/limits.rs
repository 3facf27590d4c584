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
use crate::owner::{Mover, Open};
use crate::timing::seconds_since_1970;

/// What is meant by a day.
const DAY: u64 = 24 * 3600;

/// When VMs left pools at their low marks, in seconds since 1970, for pools whose policy has a daily number. It is
/// kept over restarts, in a file that is there only while it says something.
#[derive(Debug)]
pub(super) struct Tally {
    path: PathBuf,
    left: BTreeMap<PoolName, Vec<u64>>,
    /// Pools of which it was said that no VM may leave now.
    told: BTreeSet<PoolName>,
}

impl Tally {
    /// What the file has of it; what cannot be read is forgotten.
    pub(super) fn read(path: &Path) -> Self {
        let read = || serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        let left: BTreeMap<PoolName, Vec<u64>> = read().unwrap_or_default();
        Self { path: path.to_owned(), left, told: BTreeSet::new() }
    }

    /// How many left that pool within a day.
    fn lately(&self, pool: &PoolName, now: u64) -> usize {
        let times = self.left.get(pool).into_iter().flatten();
        times.filter(|time| is_lately(**time, now)).count()
    }

    /// One has left now.
    fn has_left(&mut self, pool: PoolName, now: u64) {
        self.left.entry(pool).or_default().push(now);
    }

    /// Forgets what is over, and pools that are not `counted`. Says whether there was any.
    fn forget(&mut self, now: u64, counted: impl Fn(&PoolName) -> bool) -> bool {
        let before = self.left.values().map(Vec::len).sum::<usize>();
        self.left.retain(|pool, times| {
            times.retain(|time| is_lately(*time, now));
            !times.is_empty() && counted(pool)
        });
        before != self.left.values().map(Vec::len).sum::<usize>()
    }

    /// What is to be written down; nothing where the file is to go.
    fn text(&self) -> Option<Vec<u8>> {
        let left = Some(&self.left).filter(|left| !left.is_empty())?;
        serde_json::to_vec(left).ok()
    }
}

/// Whether that was within the last day; what the future holds was noted while the clock was wrong.
fn is_lately(time: u64, now: u64) -> bool {
    time <= now && now - time < DAY
}

/// Writes the file, or removes it.
fn keep(path: &Path, text: Option<&[u8]>) -> io::Result<()> {
    match text {
        Some(text) => virtnotify_files::replace_durably(path, text, 0o644),
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

impl Mover {
    /// Whether a VM may leave the pool at its low mark now. That it may not is logged once, until it may again.
    pub(super) fn may_leave_now(&mut self, pool: &PoolName) -> bool {
        let Ok(policy) = self.tools.storage.policy(pool) else { return false };
        let now = seconds_since_1970();
        let closed =
            policy.window.filter(|window| !local_time().is_none_or(|now| window.holds(now)));
        let left = self.tally.lately(pool, now);
        let leave = self.leaving_low(pool);
        let full = policy.daily.filter(|most| left + leave >= *most as usize);
        let why = match (closed, full) {
            (Some(window), _) => format!("VMs leave it from {window} only"),
            (None, Some(most)) => {
                format!("of {most} VMs a day {left} have left it, and {leave} are on their way")
            }
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

    /// How many VMs are about to leave it at its low mark.
    fn leaving_low(&self, pool: &PoolName) -> usize {
        let leaves = |open: &&Open| open.record.relieves.as_ref() == Some(pool);
        self.open.values().filter(|open| !open.is_over()).filter(leaves).count()
    }

    /// Forgets what is over; where a VM has just left a pool at its low mark, that is `relieved`.
    pub(super) fn tally(&mut self, relieved: Option<PoolName>) {
        let storage = &self.tools.storage;
        // One that cannot be asked now is counted on.
        let counted = |pool: &PoolName| !storage.policy(pool).is_ok_and(|of| of.daily.is_none());
        let now = seconds_since_1970();
        let news = relieved.filter(&counted);
        let counts = news.is_some();
        if let Some(pool) = news {
            self.tally.has_left(pool, now);
        }
        if !self.tally.forget(now, counted) && !counts {
            return;
        }
        let (path, text) = (self.tally.path.clone(), self.tally.text());
        self.questions.spawn_blocking(move || {
            if let Err(error) = keep(&path, text.as_deref()) {
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
        let path = directory.path().join("tally.json");
        let pool: PoolName = "vms".parse().unwrap();
        let mut tally = Tally::read(&path);
        for now in [1000, 2000] {
            tally.has_left(pool.clone(), now);
            keep(&path, tally.text().as_deref()).unwrap();
        }
        let mut tally = Tally::read(&path);
        assert_eq!(tally.lately(&pool, 2000), 2);
        assert_eq!(tally.lately(&pool, 1000 + DAY), 1);
        assert_eq!(tally.lately(&pool, 2000 + DAY), 0);
        assert_eq!(tally.lately(&pool, 10), 0, "the clock was set back");
        assert_eq!(tally.lately(&"other".parse().unwrap(), 2000), 0);
        assert!(!tally.forget(2000, |_| true));
        assert!(tally.forget(2000 + DAY, |_| true));
        keep(&path, tally.text().as_deref()).unwrap();
        assert!(!path.exists(), "it says nothing");
        keep(&path, tally.text().as_deref()).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Tally::read(&path).lately(&pool, 2000), 0);
    }

    #[test]
    fn a_pool_that_has_no_daily_number_is_not_in_it() {
        let mut tally = Tally::read(Path::new("/no/such/tally.json"));
        tally.has_left("vms".parse().unwrap(), 1000);
        assert!(tally.forget(1000, |_| false));
        assert_eq!(tally.text(), None);
    }

    #[test]
    fn it_is_some_time_of_day() {
        assert!(local_time().is_some());
    }
}
