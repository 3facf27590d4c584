// SPDX-License-Identifier: LGPL-2.1-or-later
//! What happened lately on this host: the last events, and how the last jobs and moves ended.
//!
//! It is kept in memory, so it begins anew with the process, and says since when it knows. Growths and the progress of
//! moves are left out: they would drive out all else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;
use uuid::Uuid;
use virtnotify_model::{
    Event, EventBus, JobInfo, JobState, MoveFailure, MoveInfo, PoolName, Storage,
};

use crate::history::Clock;

/// So many events are kept.
const EVENTS: usize = 1000;
/// So many results are kept.
const RESULTS: usize = 100;

/// An event, and when it was heard, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    pub time: u64,
    pub event: Event,
}

/// How a job or a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it ended; 0 where it ended before this process began to listen.
    pub ended: u64,
    /// The job's task, or `move`.
    pub task: &'static str,
    /// `POOL` or `POOL/VOLUME`; of a move the VM.
    pub of: String,
    /// The host that a VM moved to, or the device that was to be emptied; else nothing.
    pub to: String,
    /// `done`, `failed` or `cancelled`; of a move `done`, `refused`, `stayed` or `abandoned`.
    pub state: &'static str,
    /// Why it did not do what it was to do.
    pub reason: String,
}

/// All that is kept. All copies are the same.
#[derive(Clone)]
pub struct Recent {
    inner: Arc<Mutex<Inner>>,
    clock: Clock,
}

struct Inner {
    /// Since when all events are known.
    since: u64,
    events: VecDeque<Noted>,
    results: VecDeque<Outcome>,
    /// When moves began that are not over.
    moves: BTreeMap<Uuid, u64>,
    /// The jobs that were noted last, one of each pool: number, and when it began.
    jobs: BTreeMap<PoolName, (u64, SystemTime)>,
}

impl Recent {
    /// Begins now.
    pub fn new(clock: Clock) -> Self {
        let inner = Inner {
            since: clock(),
            events: VecDeque::new(),
            results: VecDeque::new(),
            moves: BTreeMap::new(),
            jobs: BTreeMap::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), clock }
    }

    /// The events since a time, the oldest first, and since when none is missing.
    pub fn events(&self, since: u64) -> (u64, Vec<Noted>) {
        let inner = self.inner();
        let events = inner.events.iter().filter(|noted| noted.time >= since).cloned();
        (inner.since.max(since), events.collect())
    }

    /// The last results, the oldest first.
    pub fn results(&self) -> Vec<Outcome> {
        self.inner().results.iter().cloned().collect()
    }

    /// What was told last to be wrong with a pool.
    pub fn damage(&self, of: &PoolName) -> Option<String> {
        let inner = self.inner();
        inner.events.iter().rev().find_map(|noted| match &noted.event {
            Event::Damage { pool, what } if pool == of => Some(what.clone()),
            _ => None,
        })
    }

    /// Notes an event.
    pub fn note(&self, event: &Event) {
        let now = (self.clock)();
        let mut inner = self.inner();
        match event {
            Event::MoveStarted(info) => drop(inner.moves.insert(info.uuid, now)),
            Event::MoveFinished(info) => inner.moved(info, now, "done", ""),
            Event::MoveFailed { info, kind, reason } if *kind != MoveFailure::Open => {
                inner.moved(info, now, kind.name(), reason);
            }
            _ => {}
        }
        if is_kept(event) {
            push(&mut inner.events, Noted { time: now, event: event.clone() }, EVENTS);
            if inner.events.len() == EVENTS {
                inner.since = inner.events.front().map_or(now, |noted| noted.time);
            }
        }
    }

    /// Notes how jobs ended. `new` is false where that may be long ago.
    fn note_jobs(&self, jobs: Vec<JobInfo>, new: bool) {
        let ended = if new { (self.clock)() } else { 0 };
        let mut inner = self.inner();
        for job in jobs.into_iter().filter(|job| job.state != JobState::Running) {
            let key = (job.id, job.began);
            if inner.jobs.insert(job.pool.clone(), key) != Some(key) {
                push(&mut inner.results, outcome(job, ended), RESULTS);
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn moved(&mut self, info: &MoveInfo, ended: u64, state: &'static str, reason: &str) {
        let result = Outcome {
            // One that was refused did not begin.
            began: self.moves.remove(&info.uuid).unwrap_or(ended),
            ended,
            task: "move",
            of: info.domain.clone(),
            to: info.to.clone(),
            state,
            reason: reason.to_owned(),
        };
        // A VM that cannot go is tried again and again.
        let same = |last: &Outcome| {
            last.state == state && (&last.of, &last.reason) == (&result.of, &result.reason)
        };
        match self.results.back_mut() {
            Some(last) if last.task == "move" && same(last) => *last = result,
            _ => push(&mut self.results, result, RESULTS),
        }
    }
}

fn outcome(job: JobInfo, ended: u64) -> Outcome {
    let of = match job.task.volume() {
        Some(volume) => format!("{}/{volume}", job.pool),
        None => job.pool.to_string(),
    };
    let device = job.task.device().map(|device| device.display().to_string());
    let (state, task) = (job.state.name(), job.task.name());
    let reason = match job.state {
        JobState::Failed(reason) => reason,
        _ => String::new(),
    };
    let began = job.began.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Outcome { began, ended, task, of, to: device.unwrap_or_default(), state, reason }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    queue.push_back(item);
    if queue.len() > most {
        queue.pop_front();
    }
}

fn is_kept(event: &Event) -> bool {
    !matches!(
        event,
        Event::VolumeGrown { .. }
            | Event::MoveProgress { .. }
            | Event::PoolsChanged
            | Event::PoolChanged(_)
            | Event::VolumesChanged(_)
            | Event::VolumeChanged { .. }
            | Event::JobChanged { .. }
            | Event::Lost
    )
}

/// Notes what happens.
pub struct Listener {
    recent: Recent,
    storage: Arc<dyn Storage>,
    events: Receiver<Event>,
}

impl Listener {
    /// Listens from now on.
    pub fn new(recent: Recent, storage: Arc<dyn Storage>, events: &EventBus) -> Self {
        Self { recent, storage, events: events.subscribe() }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        self.look_at_jobs(false).await;
        loop {
            match self.events.recv().await {
                Ok(Event::JobChanged { .. }) => self.look_at_jobs(true).await,
                Ok(Event::Lost) | Err(RecvError::Lagged(_)) => {
                    let now = (self.recent.clock)();
                    self.recent.inner().since = now;
                    self.look_at_jobs(true).await;
                }
                Ok(event) => self.recent.note(&event),
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn look_at_jobs(&self, new: bool) {
        let storage = Arc::clone(&self.storage);
        if let Ok(jobs) = spawn_blocking(move || storage.jobs()).await {
            self.recent.note_jobs(jobs, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use virtnotify_model::{Bytes, Task};

    use super::*;

    fn recent() -> (Recent, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(100));
        let clock = Arc::clone(&time);
        (Recent::new(Arc::new(move || clock.load(Ordering::Relaxed))), time)
    }

    fn vms() -> PoolName {
        "vms".parse().unwrap()
    }

    fn a_move(uuid: u128) -> MoveInfo {
        MoveInfo {
            domain: format!("guest{uuid}"),
            uuid: Uuid::from_u128(uuid),
            pool: vms(),
            volumes: Vec::new(),
            from: "host1".into(),
            to: "host2".into(),
            allocation: Bytes(1),
        }
    }

    fn job(id: u64, state: JobState) -> JobInfo {
        JobInfo {
            id,
            pool: vms(),
            task: Task::Reclaim(Some("disk0".parse().unwrap())),
            state,
            began: UNIX_EPOCH + Duration::from_secs(90 + id),
            looked: Bytes::ZERO,
            to_look: Bytes::ZERO,
            moved: Bytes::ZERO,
            total: Bytes::ZERO,
            runs_before: 0,
            runs: 0,
            freed: Bytes::ZERO,
            to_group: Bytes::ZERO,
        }
    }

    #[test]
    fn events_are_kept_since_a_time_that_is_told() {
        let (recent, time) = recent();
        assert_eq!(recent.events(0), (100, Vec::new()));
        let low = Event::SpaceLow { pool: vms(), available: Bytes(1) };
        recent.note(&low);
        recent.note(&Event::VolumeGrown {
            pool: vms(),
            volume: "disk0".parse().unwrap(),
            by: Bytes(1),
            allocation: Bytes(1),
            capacity: Bytes(1),
        });
        time.store(200, Ordering::Relaxed);
        recent.note(&Event::PoolStopped(vms()));
        let (since, all) = recent.events(0);
        assert_eq!((since, all.len(), &all[0].event, all[0].time), (100, 2, &low, 100));
        assert_eq!(recent.events(150).1.len(), 1);
        assert_eq!(recent.events(150).0, 150);
        time.store(300, Ordering::Relaxed);
        for _ in 0..EVENTS {
            recent.note(&low);
        }
        let (since, all) = recent.events(0);
        assert_eq!((since, all.len(), all[0].time), (300, EVENTS, 300), "the oldest have gone");
    }

    #[test]
    fn the_last_damage_of_a_pool_is_known() {
        let (recent, _) = recent();
        assert_eq!(recent.damage(&vms()), None);
        for what in ["first", "second"] {
            recent.note(&Event::Damage { pool: vms(), what: what.into() });
        }
        recent.note(&Event::Damage { pool: "x".parse().unwrap(), what: "another's".into() });
        assert_eq!(recent.damage(&vms()).as_deref(), Some("second"));
    }

    #[test]
    fn a_move_has_one_result_and_one_that_is_open_none() {
        let (recent, time) = recent();
        recent.note(&Event::MoveStarted(a_move(1)));
        time.store(160, Ordering::Relaxed);
        let failed = |n, kind, reason: &str| {
            recent.note(&Event::MoveFailed { info: a_move(n), kind, reason: reason.into() });
        };
        failed(1, MoveFailure::Open, "host2 does not answer");
        assert_eq!(recent.results(), []);
        recent.note(&Event::MoveFinished(a_move(1)));
        for _ in 0..3 {
            failed(2, MoveFailure::Refused, "no peer has room");
        }
        let all = recent.results();
        let of = |n: usize| (all[n].of.as_str(), all[n].state, all[n].began, all[n].ended);
        assert_eq!((all.len(), of(0)), (2, ("guest1", "done", 100, 160)));
        assert_eq!(
            (of(1), all[1].reason.as_str()),
            (("guest2", "refused", 160, 160), "no peer has room")
        );
    }

    #[test]
    fn a_job_has_a_result_once_it_has_ended() {
        let (recent, _) = recent();
        recent.note_jobs(vec![job(1, JobState::Done)], false);
        recent.note_jobs(vec![job(2, JobState::Running)], true);
        for _ in 0..2 {
            recent.note_jobs(vec![job(2, JobState::Failed("it is full".into()))], true);
        }
        let all = recent.results();
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!((all[0].began, all[0].ended, all[0].state), (91, 0, "done"));
        assert_eq!((all[1].began, all[1].ended, all[1].state), (92, 100, "failed"));
        assert_eq!((all[1].of.as_str(), all[1].reason.as_str()), ("vms/disk0", "it is full"));
    }
}
