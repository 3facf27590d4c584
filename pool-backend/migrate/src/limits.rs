// SPDX-License-Identifier: LGPL-2.1-or-later
//! When a pool's policy lets VMs leave at its low mark: at some hours only, and no more than so many within a day. A
//! VM that waits for space, one that a person moves, and those of a host that is drained leave in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::{io, ptr};

use tracing::{info, warn};
use virtnotify_model::{Policy, PoolName, TimeOfDay};

use crate::begin::Done;
use crate::domain::Domain;
use crate::owner::{Mover, Open};
use crate::plan::names_of;
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

    /// When VMs left that pool within a day.
    fn lately(&self, pool: &PoolName, now: u64) -> Vec<u64> {
        let times = self.left.get(pool).into_iter().flatten();
        times.filter(|time| is_lately(**time, now)).copied().collect()
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

/// Why no VM leaves a pool at its low mark now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// The pool.
    pub pool: PoolName,
    /// Why, as a sentence without its end.
    pub reason: String,
    /// When one may leave, in seconds since 1970; `None` where no time can be told: all that count are on their way still, or
    /// the policy lets none leave.
    pub until: Option<u64>,
}

/// What a policy's limits are held against.
struct Now<'a> {
    /// In seconds since 1970.
    time: u64,
    /// The same by the host's clock; `None` where it has none: then all hours are alike.
    clock: Option<TimeOfDay>,
    /// When VMs left the pool within a day.
    left: &'a [u64],
    /// How many are about to leave it.
    leave: usize,
}

impl Now<'_> {
    /// Why no VM may leave, and until when, if none may.
    fn holds_back(&self, policy: &Policy) -> Option<(String, Option<u64>)> {
        match (self.is_closed(policy), self.is_used_up(policy)) {
            (closed, None) => closed,
            (None, Some((number, over))) => Some((number, self.first_open(policy, over))),
            (Some((hours, _)), Some((number, over))) => {
                Some((format!("{hours}; {number}"), self.first_open(policy, over)))
            }
        }
    }

    /// The first moment from that one on at which the policy's hours let VMs leave.
    fn first_open(&self, policy: &Policy, from: Option<u64>) -> Option<u64> {
        let from = from?;
        let window = policy.window.filter(|_| self.clock.is_some());
        match window.zip(time_of_day(from)) {
            Some((window, clock)) if !window.holds(clock) => next_time(from, window.from),
            _ => Some(from),
        }
    }

    fn is_closed(&self, policy: &Policy) -> Option<(String, Option<u64>)> {
        let window = policy.window?;
        if window.holds(self.clock?) {
            return None;
        }
        Some((format!("VMs leave it from {window} only"), next_time(self.time, window.from)))
    }

    fn is_used_up(&self, policy: &Policy) -> Option<(String, Option<u64>)> {
        let (most, left) = (policy.daily?, self.left.len());
        // So many have to be longer ago than a day.
        let over = (left + self.leave + 1).checked_sub(most as usize).filter(|over| *over > 0)?;
        let mut times = self.left.to_vec();
        times.sort_unstable();
        let until = times.get(over - 1).map(|time| time + DAY);
        let leave = self.leave;
        Some((
            format!("no more than {most} leave it within a day: {left} gone, {leave} on the way"),
            until,
        ))
    }
}

impl Mover {
    /// Whether a VM may leave the pool at its low mark now. That it may not is shown, and logged once until it may again.
    pub(super) fn may_leave_now(&mut self, pool: &PoolName) -> bool {
        let Some(held) = self.held_back(pool) else {
            self.tally.told.remove(pool);
            self.held_back.remove(pool);
            return self.tools.storage.policy(pool).is_ok();
        };
        if self.tally.told.insert(pool.clone()) {
            info!(
                "no VM leaves '{pool}', which is low or soon full, before it waits for space: {}",
                held.reason
            );
        }
        self.held_back.insert(pool.clone(), held);
        false
    }

    /// What the pool's policy has against a VM leaving it at its low mark now.
    pub(super) fn held_back(&self, pool: &PoolName) -> Option<HeldBack> {
        let policy = self.tools.storage.policy(pool).ok()?;
        let (time, clock) = (seconds_since_1970(), local_time());
        let left = self.tally.lately(pool, time);
        let now = Now { time, clock, left: &left, leave: self.leaving_low(pool) };
        let (reason, until) = now.holds_back(&policy)?;
        Some(HeldBack { pool: pool.clone(), reason, until })
    }

    /// The same for the pools of a VM that would leave them at their low marks.
    pub(super) fn held_back_for(&self, domain: &Domain) -> Vec<HeldBack> {
        let names = domain.disks.iter().filter_map(|disk| names_of(&disk.source));
        let pools: BTreeSet<PoolName> = names.map(|(pool, _)| pool).collect();
        let relieved = pools.iter().filter(|pool| self.wants_relief(pool).is_some());
        relieved.filter_map(|pool| self.held_back(pool)).collect()
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
    time_of_day(seconds_since_1970())
}

/// What the host's clock shows then.
fn time_of_day(time: u64) -> Option<TimeOfDay> {
    let then = fields_of(time)?;
    TimeOfDay::new(u16::try_from(then.tm_hour).ok()?, u16::try_from(then.tm_min).ok()?)
}

/// The first moment after `now` at which the host's clock shows that time.
fn next_time(now: u64, at: TimeOfDay) -> Option<u64> {
    let today = fields_of(now)?;
    let on = |days| {
        // Whether summer time holds then is for the C library to find out.
        let (tm_hour, tm_min) = (at.hour().into(), at.minute().into());
        let tm_mday = today.tm_mday + days;
        let mut then = libc::tm { tm_hour, tm_min, tm_sec: 0, tm_mday, tm_isdst: -1, ..today };
        // SAFETY: it is ours, and all of it has a value.
        u64::try_from(unsafe { libc::mktime(&raw mut then) }).ok()
    };
    [0, 1].into_iter().filter_map(on).find(|time| *time > now)
}

/// A time by the host's own clock.
fn fields_of(time: u64) -> Option<libc::tm> {
    let time = libc::time_t::try_from(time).ok()?;
    let mut fields = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both are ours; what it points to is filled in where a pointer comes back.
    let filled = unsafe { libc::localtime_r(ptr::from_ref(&time), fields.as_mut_ptr()) };
    // SAFETY: as it has just said.
    (!filled.is_null()).then(|| unsafe { fields.assume_init() })
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
        assert_eq!(tally.lately(&pool, 2000), [1000, 2000]);
        assert_eq!(tally.lately(&pool, 1000 + DAY), [2000]);
        assert!(tally.lately(&pool, 2000 + DAY).is_empty());
        assert!(tally.lately(&pool, 10).is_empty(), "the clock was set back");
        assert!(tally.lately(&"other".parse().unwrap(), 2000).is_empty());
        assert!(!tally.forget(2000, |_| true));
        assert!(tally.forget(2000 + DAY, |_| true));
        keep(&path, tally.text().as_deref()).unwrap();
        assert!(!path.exists(), "it says nothing");
        keep(&path, tally.text().as_deref()).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert!(Tally::read(&path).lately(&pool, 2000).is_empty());
    }

    #[test]
    fn a_pool_that_has_no_daily_number_is_not_in_it() {
        let mut tally = Tally::read(Path::new("/no/such/tally.json"));
        tally.has_left("vms".parse().unwrap(), 1000);
        assert!(tally.forget(1000, |_| false));
        assert_eq!(tally.text(), None);
    }

    #[test]
    fn it_is_some_time_of_day_and_comes_again_within_a_day() {
        let (now, clock) = (seconds_since_1970(), local_time().unwrap());
        for minutes in [0, 1, 12 * 60, 24 * 60 - 1] {
            let at = clock.later(minutes);
            let next = next_time(now, at).unwrap();
            let fields = fields_of(next).unwrap();
            let shows = (fields.tm_hour, fields.tm_min, fields.tm_sec);
            assert_eq!(shows, (at.hour().into(), at.minute().into(), 0));
            // A day may have an hour more.
            assert!(now < next && next <= now + DAY + 3600, "{now} {next}");
        }
    }

    /// Whether or not the hours are those in which it is asked.
    #[test]
    fn where_a_place_is_free_outside_the_hours_it_lasts_until_they_begin_again() {
        let (time, left) = (5000, [100]);
        let over = 100 + DAY;
        let at = time_of_day(over).unwrap();
        let until = |from, to, now| {
            let window = Some(virtnotify_model::Window { from: at.later(from), to: at.later(to) });
            let policy = Policy { window, daily: Some(1), ..Policy::default() };
            let clock = Some(at.later(now));
            Now { time, clock, left: &left, leave: 0 }.holds_back(&policy).unwrap().1
        };
        let opens = next_time(over, at.later(60));
        assert!(opens.is_some_and(|opens| opens > over));
        for now in [30, 90, 180] {
            assert_eq!(until(60, 120, now), opens, "{now}");
        }
        // It is within them.
        for now in [10, 90] {
            assert_eq!(until(24 * 60 - 60, 60, now), Some(over), "{now}");
        }
    }

    #[test]
    fn a_policy_holds_vms_back_and_says_until_when() {
        let time = |text: &str| text.parse::<TimeOfDay>().ok();
        let window =
            virtnotify_model::Window { from: time("22:00").unwrap(), to: time("06:00").unwrap() };
        let nights = Policy { window: Some(window), ..Policy::default() };
        let two = Policy { daily: Some(2), ..Policy::default() };
        let both = Policy { daily: Some(2), ..nights };
        let holds = |policy: &Policy, clock: &str, left: &[u64], leave| {
            Now { time: 5000, clock: time(clock), left, leave }.holds_back(policy)
        };
        assert_eq!(holds(&Policy::default(), "12:00", &[1, 2, 3], 9), None);
        assert_eq!(holds(&nights, "23:00", &[1, 2, 3], 9), None);
        assert_eq!(holds(&nights, "no clock", &[], 0), None);
        let opens = next_time(5000, window.from);
        assert!(opens.is_some_and(|opens| opens > 5000));
        let hours = "VMs leave it from 22:00 to 06:00 only";
        assert_eq!(holds(&nights, "12:00", &[], 0), Some((hours.to_owned(), opens)));
        assert_eq!(holds(&two, "12:00", &[1], 0), None);
        let number = "no more than 2 leave it within a day: 1 gone, 1 on the way";
        assert_eq!(holds(&two, "12:00", &[100], 1), Some((number.to_owned(), Some(100 + DAY))));
        // Another place is free when the later one is over as well.
        let (_, until) = holds(&two, "12:00", &[300, 200], 1).unwrap();
        assert_eq!(until, Some(300 + DAY));
        let (_, until) = holds(&two, "12:00", &[], 2).unwrap();
        assert_eq!(until, None, "that depends on how those moves end");
        let (reason, until) = holds(&both, "12:00", &[100, 200], 0).unwrap();
        assert!(reason.starts_with("VMs leave it from 22:00 to 06:00 only; no more than 2"));
        assert!(until.is_some_and(|until| until >= 100 + DAY));
        assert_eq!(holds(&both, "12:00", &[], 2).unwrap().1, None);
        let none = Policy { daily: Some(0), ..Policy::default() };
        assert_eq!(holds(&none, "12:00", &[], 0).unwrap().1, None);
    }
}
