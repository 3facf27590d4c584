// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is noted of pools that come, go and change, by a clock that is ours.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;
use virtnotify_model::{
    Bytes, ChunkSize, PoolInfo, PoolName, StorageError, VolumeInfo, VolumeName, VolumeStats,
};

use super::*;

/// 2026-11-30, the beginning of an hour.
const NOON: u64 = 1_796_040_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn pool(name: &str, uuid: u128, available: Option<u64>) -> PoolState {
    let info = available.map(|available| PoolInfo {
        capacity: Bytes(100),
        allocation: Bytes(100 - available),
        available: Bytes(available),
        headroom: Bytes::ZERO,
        obtainable: Bytes(100),
        promised: Bytes::ZERO,
        chunk: ChunkSize::default(),
    });
    let (name, uuid, vg) = (name.parse().unwrap(), Uuid::from_u128(uuid), "vg0".parse().unwrap());
    PoolState { name, uuid, vg, info, policy: None, damaged: false }
}

/// Pools that a test changes.
struct Fake {
    pools: Mutex<Vec<PoolState>>,
    runs: AtomicBool,
}

impl Fake {
    fn new(pools: Vec<PoolState>) -> Arc<Self> {
        Arc::new(Self { pools: Mutex::new(pools), runs: AtomicBool::new(true) })
    }

    fn show(&self, pools: Vec<PoolState>) {
        *self.pools.lock().unwrap() = pools;
    }
}

fn none<T>() -> Result<T, StorageError> {
    Err(StorageError::NotFound(String::new()))
}

impl Pools for Fake {
    fn runs(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }

    fn pools(&self) -> Vec<PoolState> {
        self.pools.lock().unwrap().clone()
    }

    fn volumes(&self, _: &PoolName) -> Result<Vec<VolumeInfo>, StorageError> {
        none()
    }

    fn volume(&self, _: &PoolName, _: &VolumeName) -> Result<VolumeInfo, StorageError> {
        none()
    }

    fn volume_stats(&self, _: &PoolName, _: &VolumeName) -> Result<VolumeStats, StorageError> {
        none()
    }

    fn delete_volume(&self, _: &PoolName, _: &VolumeName, _: &Uuid) -> Result<(), StorageError> {
        none()
    }
}

/// A recorder at work, by tokio's clock, which tests advance.
struct Lab {
    fake: Arc<Fake>,
    history: History,
    began: Instant,
    /// What the clock is wrong by.
    wrong: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    work: tokio::task::JoinHandle<()>,
}

impl Lab {
    fn new(directory: &Path, pools: Vec<PoolState>, at: u64) -> Self {
        let (fake, history) = (Fake::new(pools), History::open(directory));
        let (began, wrong) = (Instant::now(), Arc::<AtomicU64>::default());
        let error = wrong.clone();
        let clock = move || at + began.elapsed().as_secs() + error.load(Ordering::Relaxed);
        let recorder = Recorder::new(history.clone(), fake.clone(), Arc::new(clock));
        let (stop, stopped) = watch::channel(false);
        let work = tokio::spawn(recorder.run(stopped));
        Self { fake, history, began, wrong, stop, work }
    }

    /// Lets so many minutes pass since it began.
    async fn until(&self, minute: u64) {
        tokio::time::sleep_until(self.began + Duration::from_secs(minute * MINUTE + 1)).await;
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.work.await.unwrap();
    }

    /// The minutes since the test's noon, and what was left.
    fn of(&self, uuid: u128) -> Vec<(u64, u64)> {
        seen(&self.history, uuid)
    }
}

fn seen(history: &History, uuid: u128) -> Vec<(u64, u64)> {
    let points = history.since(Uuid::from_u128(uuid), 0).into_iter();
    points.map(|point| ((point.time - NOON) / MINUTE, point.available)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_the_curve() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(90))], NOON);
    lab.until(1).await;
    lab.fake.show(vec![pool("vms", 1, Some(80))]);
    lab.until(2).await;
    lab.end().await;
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(70))], NOON + 5 * MINUTE);
    lab.until(0).await;
    assert_eq!(lab.of(1), [(0, 90), (1, 90), (2, 80), (5, 70)]);
    assert_eq!(lab.history.since(Uuid::from_u128(1), NOON + 3 * MINUTE).len(), 1);
    assert_eq!(lab.history.since(Uuid::from_u128(9), 0), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_noted_is_written_each_quarter_of_an_hour() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(90))], NOON);
    lab.until(13).await;
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    lab.until(16).await;
    // As one finds it that is killed now.
    assert_eq!(seen(&History::open(directory.path()), 1).len(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_stops_leaves_a_gap_and_so_does_virtnotifyd() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(90))], NOON);
    lab.until(0).await;
    lab.fake.show(vec![pool("vms", 1, None)]);
    lab.until(2).await;
    lab.fake.show(vec![pool("vms", 1, Some(60))]);
    lab.until(3).await;
    lab.fake.runs.store(false, Ordering::Relaxed);
    lab.until(5).await;
    lab.fake.runs.store(true, Ordering::Relaxed);
    lab.until(6).await;
    assert_eq!(lab.of(1), [(0, 90), (3, 60), (6, 60)]);
}

#[tokio::test(start_paused = true)]
async fn a_pool_keeps_its_curve_under_another_name_and_one_made_anew_begins_another() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(90))], NOON);
    lab.until(0).await;
    lab.fake.show(vec![pool("other", 1, Some(80)), pool("vms", 2, Some(100))]);
    lab.until(1).await;
    assert_eq!((lab.of(1), lab.of(2)), (vec![(0, 90), (1, 80)], vec![(1, 100)]));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_gone_is_forgotten_after_a_week_and_not_while_nothing_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(90))], NOON);
    lab.until(0).await;
    lab.end().await;
    let later = NOON + 8 * DAY;
    let lab = Lab::new(directory.path(), Vec::new(), later);
    lab.fake.runs.store(false, Ordering::Relaxed);
    lab.until(16).await;
    assert_eq!(lab.of(1).len(), 1);
    lab.fake.runs.store(true, Ordering::Relaxed);
    lab.fake.show(vec![pool("vms", 1, None)]);
    lab.until(32).await;
    assert_eq!(lab.of(1).len(), 1, "it is only stopped");
    lab.fake.show(Vec::new());
    lab.until(48).await;
    assert_eq!(lab.of(1), []);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn of_pools_that_are_gone_only_some_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path());
    let most = MOST_GONE as u64;
    for n in 0..most + 9 {
        let pools = [pool("vms", n.into(), Some(1))];
        history.note(&pools, NOON + n);
        history.save(&pools, &mut BTreeMap::new());
    }
    history.clean(&[pool("vms", 0, None)], NOON + most + 9);
    assert_eq!(History::open(directory.path()).curves().len(), MOST_GONE + 1);
    assert_eq!(history.since(Uuid::from_u128(0), 0).len(), 1, "it is not gone");
    assert_eq!(history.since(Uuid::from_u128(8), 0), []);
    assert_eq!(history.since(Uuid::from_u128(9), 0).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_for_a_minute_costs_no_more_than_that() {
    let directory = tempfile::tempdir().unwrap();
    let lab = Lab::new(directory.path(), vec![pool("vms", 1, Some(90))], NOON);
    lab.until(2).await;
    lab.wrong.store(365 * DAY, Ordering::Relaxed);
    lab.until(3).await;
    lab.wrong.store(0, Ordering::Relaxed);
    // It takes some minutes to be believed.
    lab.until(13).await;
    let times: Vec<u64> = lab.of(1).into_iter().map(|(minute, _)| minute).collect();
    let expected: Vec<u64> = (0..=13).filter(|minute| *minute != 3).collect();
    assert_eq!(times, expected);
}
