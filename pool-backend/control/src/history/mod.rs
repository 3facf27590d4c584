// SPDX-License-Identifier: LGPL-2.1-or-later
//! How full pools were: a week by the quarter of an hour, of which the last day by the minute.
//!
//! - `curve`: the points of one pool, pure;
//! - `files`: the curves on disk;
//! - here: the task that notes them.
//!
//! Each minute the pools that are active are looked at, and each quarter of an hour what was noted is written. A
//! daemon that is killed loses what it had not written. While virtnotifyd does not run nothing is noted, and neither is
//! it of a pool that is stopped: a curve has gaps. A pool is known by its UUID, so its curve stays with it under another
//! name, and one that is made anew begins another; that of a pool that is gone is kept for a week.

mod curve;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;
use virtnotify_model::{PoolState, Pools};

pub use curve::Point;
use curve::{Curve, MINUTE};
use files::Files;

/// What was noted is written at the latest after so many minutes.
const SAVE: u64 = 15;
/// For so long the curve of a pool that is gone is kept.
const GONE: u64 = 7 * 24 * 60 * MINUTE;
/// Of so many pools that are gone, at most: some make one anew for each test.
const MOST_GONE: usize = 64;

/// What time it is, in seconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The curves. All copies are the same.
#[derive(Clone)]
pub struct History {
    curves: Arc<Mutex<BTreeMap<Uuid, Curve>>>,
    files: Files,
}

impl History {
    /// Goes on with the curves in this directory.
    pub fn open(directory: &Path) -> Self {
        let files = Files::new(directory);
        Self { curves: Arc::new(Mutex::new(files.load())), files }
    }

    /// How full a pool was since then, the oldest first.
    pub fn since(&self, pool: Uuid, since: u64) -> Vec<Point> {
        self.curves().get(&pool).map_or_else(Vec::new, |curve| curve.since(since))
    }

    fn curves(&self) -> MutexGuard<'_, BTreeMap<Uuid, Curve>> {
        self.curves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how full the pools are that are active.
    fn note(&self, pools: &[PoolState], now: u64) {
        let mut curves = self.curves();
        for pool in pools {
            let Some(info) = pool.info else { continue };
            let (capacity, available) = (info.capacity.0, info.available.0);
            curves.entry(pool.uuid).or_default().add(Point { time: now, capacity, available });
        }
    }

    /// Writes the curves that have changed since they were `saved`.
    fn save(&self, pools: &[PoolState], saved: &mut BTreeMap<Uuid, u64>) {
        for pool in pools {
            let Some(curve) = self.curves().get(&pool.uuid).cloned() else { continue };
            if saved.get(&pool.uuid) == Some(&curve.last()) {
                continue;
            }
            match self.files.save(pool.uuid, pool.name.as_str(), &curve) {
                Ok(()) => drop(saved.insert(pool.uuid, curve.last())),
                Err(error) => warn!("the history of '{}' cannot be written: {error}", pool.name),
            }
        }
    }

    /// Removes what is kept no longer of pools that are gone.
    fn clean(&self, pools: &[PoolState], now: u64) {
        for pool in self.forget(pools, now) {
            if let Err(error) = self.files.remove(pool) {
                warn!("the history of a pool that is gone cannot be removed: {error}");
            }
        }
    }

    /// Forgets those of pools that are gone for long, or of too many; says which.
    fn forget(&self, pools: &[PoolState], now: u64) -> Vec<Uuid> {
        let there: BTreeSet<Uuid> = pools.iter().map(|pool| pool.uuid).collect();
        let mut curves = self.curves();
        let gone = curves.iter().filter(|(pool, _)| !there.contains(pool));
        let mut gone: Vec<(u64, Uuid)> = gone.map(|(pool, curve)| (curve.last(), *pool)).collect();
        // The newest first; one of a day to come was noted while the clock was wrong.
        gone.sort_unstable_by(|a, b| b.cmp(a));
        let is_old = |(n, (last, _)): &(usize, (u64, Uuid))| *n >= MOST_GONE || last + GONE < now;
        let old = gone.into_iter().enumerate().filter(is_old);
        let old: Vec<Uuid> = old.map(|(_, (_, pool))| pool).collect();
        curves.retain(|pool, _| !old.contains(pool));
        old
    }
}

/// Notes how full the pools are.
pub struct Recorder {
    history: History,
    storage: Arc<dyn Pools>,
    clock: Clock,
    /// The last point of each curve that is on disk.
    saved: BTreeMap<Uuid, u64>,
}

impl Recorder {
    /// Notes the pools of that storage, by that clock.
    pub fn new(history: History, storage: Arc<dyn Pools>, clock: Clock) -> Self {
        let saved = history.curves().iter().map(|(pool, curve)| (*pool, curve.last())).collect();
        Self { history, storage, clock, saved }
    }

    /// Works until `stop` says true, then writes what was noted.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        for minute in 1u64.. {
            self.note();
            if minute % SAVE == 0 {
                self.save().await;
            }
            let rest = MINUTE - (self.clock)() % MINUTE;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = sleep(Duration::from_secs(rest)) => {}
            }
        }
        self.save().await;
    }

    fn note(&self) {
        if self.storage.runs() {
            self.history.note(&self.storage.pools(), (self.clock)());
        }
    }

    async fn save(&mut self) {
        let (history, storage) = (self.history.clone(), self.storage.clone());
        let (mut saved, now) = (std::mem::take(&mut self.saved), (self.clock)());
        let written = spawn_blocking(move || {
            let pools = storage.pools();
            history.save(&pools, &mut saved);
            // While it does not run, pools that it has not told of yet would look as if they were gone.
            if storage.runs() {
                history.clean(&pools, now);
            }
            saved
        });
        match written.await {
            Ok(saved) => self.saved = saved,
            Err(error) => warn!("a thread was lost: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
