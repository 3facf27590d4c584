// SPDX-License-Identifier: LGPL-2.1-or-later
//! Sends pictures and events to the clients that follow, and answers their questions about pools
//! and volumes.
//!
//! One picture is kept for all of them, and only while there is one. An event says where it is stale; the look that
//! follows, and the events, travel together. So a client that hears of an event has what it tells of.
//!
//! Memory here is locked. What a client has not taken yet is one message, into which what comes later is merged: it
//! grows no larger than the picture and a fixed number of events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use virtnotify_model::{Event, EventBus, Picture, Stale, Storage, StorageError};

use crate::message::{News, Question, pack};

/// Growths within this time are told together: a volume that grows a thousand times a second is looked at some
/// twenty times.
const GATHER: Duration = Duration::from_millis(50);
/// How many events a client may be behind before it loses them all, and is told so.
const MOST_EVENTS: usize = 4096;
/// How many questions about what targets have counted are answered at once: where a disk does not answer, neither does its
/// pool, and each of them holds a thread.
const MOST_STATS: usize = 16;
/// How many events without a trace in the picture are kept until a client follows; the newest are kept.
const MOST_KEPT: usize = 256;

/// The pools, and the clients that follow them.
pub struct Publisher {
    storage: Arc<dyn Storage>,
    /// How many clients ask for counters of targets.
    asking: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    events: broadcast::Receiver<Event>,
    stage: Stage,
    /// The first number: no other daemon of this boot has it.
    daemon: u64,
    sequence: u64,
    picture: Picture,
    following: Vec<Arc<Mailbox>>,
    /// What is to be told to the first client.
    kept: Vec<Event>,
}

/// How far the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Pools that were active are not all active again: the picture would show them as gone.
    Starting,
    Ready,
    /// Pools leave the engine, and go on in the kernel: the picture stays as it was.
    Ending,
}

/// The message to one client that is still to be sent.
#[derive(Default)]
pub(crate) struct Mailbox {
    inside: Mutex<Inside>,
    filled: Condvar,
}

#[derive(Default)]
struct Inside {
    news: Option<News>,
    closed: bool,
}

impl Mailbox {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, news: News) {
        let mut inside = self.inside();
        match &mut inside.news {
            Some(waiting) => waiting.merge(news, MOST_EVENTS),
            none => *none = Some(news),
        }
        self.filled.notify_all();
    }

    /// What has come, when something has; `None` when nothing comes any more.
    pub(crate) fn take(&self) -> Option<News> {
        let nothing = |inside: &mut Inside| inside.news.is_none() && !inside.closed;
        let waited = self.filled.wait_while(self.inside(), nothing);
        let mut inside = waited.unwrap_or_else(PoisonError::into_inner);
        if inside.closed { None } else { inside.news.take() }
    }

    fn close(&self) {
        self.inside().closed = true;
        self.filled.notify_all();
    }
}

impl Publisher {
    /// Sends these events of that storage. No client is sent anything before [`Publisher::ready`].
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, events: &EventBus) -> Arc<Self> {
        let now = clock_gettime(ClockId::Boottime);
        let daemon = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        let state = State {
            events: events.subscribe(),
            stage: Stage::Starting,
            daemon,
            sequence: daemon,
            picture: Picture::default(),
            following: Vec::new(),
            kept: Vec::new(),
        };
        let publisher =
            Arc::new(Self { storage, asking: AtomicUsize::new(0), state: Mutex::new(state) });
        let rings = events.subscribe();
        let follower = publisher.clone();
        std::thread::spawn(move || follower.follow(rings));
        publisher
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes for good: what comes a thousand times a second some moments later, everything else at once.
    fn follow(&self, mut rings: broadcast::Receiver<Event>) {
        loop {
            match rings.blocking_recv() {
                Err(RecvError::Closed) => return,
                Ok(
                    Event::VolumeGrown { .. }
                    | Event::VolumeChanged { .. }
                    | Event::VolumesChanged(_)
                    | Event::PoolChanged(_),
                ) => std::thread::sleep(GATHER),
                _ => {}
            }
            while !matches!(rings.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
            self.publish();
        }
    }

    /// All pools that were active are active again, or cannot be now.
    pub fn ready(&self) {
        let mut state = self.state();
        if state.stage == Stage::Starting {
            state.stage = Stage::Ready;
            let following: Vec<_> = state.following.drain(..).collect();
            following.into_iter().for_each(|client| self.begin(&mut state, client));
        }
    }

    /// Tells nothing more, and answers nothing: the pools leave this process, and go on in the kernel.
    pub fn end(&self) {
        self.publish();
        let mut state = self.state();
        state.stage = Stage::Ending;
        // Clients see that this process ends, and ask the next one.
        state.following.drain(..).for_each(|client| client.close());
    }

    /// Adds a client.
    pub(crate) fn subscribe(&self) -> Arc<Mailbox> {
        let client = Arc::<Mailbox>::default();
        let mut state = self.state();
        match state.stage {
            Stage::Ready => self.begin(&mut state, client.clone()),
            Stage::Starting => state.following.push(client.clone()),
            Stage::Ending => client.close(),
        }
        client
    }

    /// Removes a client.
    pub(crate) fn unsubscribe(&self, client: &Arc<Mailbox>) {
        client.close();
        self.state().following.retain(|other| !Arc::ptr_eq(other, client));
    }

    /// Tells a client everything; from then on it is told what changes.
    fn begin(&self, state: &mut State, client: Arc<Mailbox>) {
        // What the others know is brought up to date first, so that all know the same.
        self.tell(state);
        if state.following.is_empty() {
            state.picture.look(self.storage.as_ref(), Stale::everything());
        }
        let mut news = state.news();
        news.picture = Some(state.picture.clone());
        news.events = std::mem::take(&mut state.kept);
        client.put(news);
        state.following.push(client);
    }

    /// Tells what has changed; returns up to where it is told.
    fn publish(&self) -> u64 {
        let mut state = self.state();
        match state.stage {
            Stage::Ready => self.tell(&mut state),
            Stage::Starting => {
                if let Some(drained) = state.drain() {
                    state.keep(drained.events);
                }
            }
            Stage::Ending => {}
        }
        state.sequence
    }

    fn tell(&self, state: &mut State) {
        let Some(Drained { events, stale, lost }) = state.drain() else { return };
        state.sequence += 1;
        if state.following.is_empty() {
            return state.keep(events);
        }
        let changes = state.picture.look(self.storage.as_ref(), stale);
        let news = News { changes, events, lost, ..state.news() };
        state.following.iter().for_each(|client| client.put(news.clone()));
    }

    /// Answers a question: up to where everything is told by now, and the answer. `None` while this ends.
    pub(crate) fn answer(&self, question: Question) -> std::io::Result<Option<(u64, Vec<u8>)>> {
        if self.state().stage == Stage::Ending {
            return Ok(None);
        }
        let changes = question.changes();
        let result = self.ask(question)?;
        let sequence = if changes { self.publish() } else { self.state().sequence };
        Ok(Some((sequence, result)))
    }

    fn ask(&self, question: Question) -> std::io::Result<Vec<u8>> {
        use Question as Q;
        let storage = self.storage.as_ref();
        match question {
            Q::CatchUp => pack(&Ok::<(), StorageError>(())),
            Q::VolumeStats { pool, volume } => {
                let asking = self.asking.fetch_add(1, Ordering::Relaxed);
                let stats = match asking < MOST_STATS {
                    true => storage.volume_stats(&pool, &volume),
                    false => Err(StorageError::Failed("too many such questions wait".into())),
                };
                self.asking.fetch_sub(1, Ordering::Relaxed);
                pack(&stats)
            }
            Q::DeleteVolume { pool, volume, uuid } => {
                pack(&storage.delete_volume(&pool, &volume, &uuid))
            }
            Q::StartJob { pool, task } => pack(&storage.start_job(&pool, &task)),
            Q::CancelJob(id) => pack(&storage.cancel_job(id)),
            Q::PrepareWrite { pool, volume, offset, length } => {
                pack(&storage.prepare_write(&pool, &volume, offset, length))
            }
            Q::SetPolicy { pool, settings } => pack(&storage.set_policy(&pool, &settings)),
            Q::CreateVolume { pool, new } => pack(&storage.create_volume(&pool, &new)),
            Q::ResizeVolume { pool, volume, uuid, capacity, shrink } => {
                pack(&storage.resize_volume(&pool, &volume, &uuid, capacity, shrink))
            }
            Q::RemoveVolume { pool, volume, uuid, snapshots } => {
                pack(&storage.remove_volume(&pool, &volume, &uuid, snapshots))
            }
            Q::RefreshPool(pool) => pack(&storage.refresh_pool(&pool)),
            Q::EnsureActive(paths) => pack(&storage.ensure_active(&paths)),
            Q::GuestStarts(guest) => pack(&storage.guest_starts(&guest)),
            Q::TakeSnapshot { pool, volumes, name } => {
                pack(&storage.take_snapshot(&pool, &volumes, &name))
            }
            Q::RollBack { pool, snapshot } => pack(&storage.roll_back(&pool, &snapshot)),
            Q::DeleteSnapshot { pool, snapshot } => {
                pack(&storage.delete_snapshot(&pool, &snapshot))
            }
            Q::Difference { pool, volume, base } => {
                pack(&storage.difference(&pool, &volume, base.as_ref()))
            }
            Q::Check(what) => pack(&storage.check(&what)),
            Q::Dump { what, from } => pack(&storage.dump(&what, &from)),
            Q::Restore(words) => pack(&storage.restore(&words)),
            Q::SetDrained(drained) => pack(&storage.set_drained(drained)),
        }
    }
}

/// What happened since the last time.
struct Drained {
    events: Vec<Event>,
    stale: Stale,
    /// Whether there were more.
    lost: bool,
}

impl State {
    fn news(&self) -> News {
        News { daemon: self.daemon, sequence: self.sequence, ..News::default() }
    }

    /// What happened since the last time, and what is stale by it.
    fn drain(&mut self) -> Option<Drained> {
        let (mut events, mut stale, mut lost) = (Vec::new(), Stale::default(), false);
        loop {
            match self.events.try_recv() {
                Ok(event) => {
                    stale.take(&event);
                    events.push(event);
                }
                Err(TryRecvError::Lagged(_)) => lost = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if lost {
            stale = Stale::everything();
        }
        (lost || !events.is_empty()).then_some(Drained { events, stale, lost })
    }

    /// Keeps what nothing in the picture stands for until there is a client.
    fn keep(&mut self, events: Vec<Event>) {
        let alone = |event: &Event| matches!(event, Event::Damage { .. } | Event::Warning { .. });
        self.kept.extend(events.into_iter().filter(alone));
        let beyond = self.kept.len().saturating_sub(MOST_KEPT);
        self.kept.drain(..beyond);
    }
}

#[cfg(test)]
mod tests {
    use virtnotify_model::{Bytes, PoolName};

    use super::*;

    fn grown(n: u64) -> Event {
        let (pool, volume): (PoolName, _) = ("vms".parse().unwrap(), "a".parse().unwrap());
        Event::VolumeGrown { pool, volume, by: Bytes(1), allocation: Bytes(n), capacity: Bytes(n) }
    }

    #[test]
    fn a_client_that_does_not_read_costs_one_message() {
        let mailbox = Mailbox::default();
        let most = u64::try_from(MOST_EVENTS).unwrap();
        for n in 1..=most {
            let events = vec![grown(n)];
            mailbox.put(News { sequence: n, events, ..News::default() });
        }
        let all = mailbox.take().unwrap();
        assert_eq!((all.sequence, all.events.len(), all.lost), (most, MOST_EVENTS, false));
        for n in 1..=2 * most {
            let events = vec![grown(n)];
            mailbox.put(News { sequence: n, events, ..News::default() });
        }
        let some = mailbox.take().unwrap();
        assert!(some.lost && some.events.len() <= MOST_EVENTS, "{}", some.events.len());
        assert_eq!(some.events.last(), Some(&grown(2 * most)), "the newest are told");
        assert_eq!(some.sequence, 2 * most);
        mailbox.close();
        assert!(mailbox.take().is_none());
    }
}
