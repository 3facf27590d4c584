// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pools of virtnotifyd for a process that follows them: questions about how they are cost nothing, and
//! everything else is asked over the private socket.
//!
//! While virtnotifyd does not run, pools and volumes are as it told last: a daemon that is being restarted takes no
//! pool away, and its volumes must not look as if they were gone. What it is asked then is waited for a while, and
//! refused after that.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use uuid::Uuid;
use virtnotify_model::{
    Bytes, Checked, Event, EventBus, Guest, JobInfo, NewVolume, Picture, PoolName, PoolState,
    Pools, RestoreWords, SnapshotName, Storage, StorageError, Task, VolumeExtent, VolumeInfo,
    VolumeName, VolumeStats,
};

use crate::message::{Answer, Ask, News, Question, VERSION, receive, send_first, unpack};
use crate::offline::does_not_run;

/// How long a daemon that has just ended is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that asks once waits for one: an upgrade or a crash takes less, and libvirt's lock on a guest is
/// held meanwhile.
const PATIENCE_ONCE: Duration = Duration::from_secs(3);
/// How often it is looked for while it does not run.
const LOOK: Duration = Duration::from_millis(100);
/// How long a question is waited for that changes nothing. What changes something is waited for as long as it takes.
const ANSWERS: Duration = Duration::from_secs(30);
/// How long the news of a call's own change are waited for after its answer: both come within moments.
const LAG_MAX: Duration = Duration::from_secs(5);

/// The pools of virtnotifyd.
pub struct RemoteStorage {
    path: PathBuf,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// How often virtnotifyd was found: each one knows nothing of what the one before was told.
    found: watch::Sender<u64>,
}

struct State {
    picture: Picture,
    /// Which one was heard last.
    daemon: Option<u64>,
    sequence: u64,
    up: bool,
    /// When it was there last, or this began.
    since: Instant,
    /// Why it is not up.
    why: String,
}

impl RemoteStorage {
    /// The pools of virtnotifyd at that socket. It knows none before it [follows](Self::follow).
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self::with_patience(path, PATIENCE)
    }

    /// One that only asks.
    #[must_use]
    pub fn asking(path: &Path) -> Self {
        Self::with_patience(path, PATIENCE_ONCE)
    }

    fn with_patience(path: &Path, patience: Duration) -> Self {
        let (picture, why) = (Picture::default(), "it has not been heard yet".to_owned());
        let (daemon, sequence, up, since) = (None, 0, false, Instant::now());
        let state = State { picture, daemon, sequence, up, since, why };
        let (state, changed, found) = (Mutex::new(state), Condvar::new(), watch::channel(0).0);
        Self { path: path.to_owned(), patience, state, changed, found }
    }

    /// Follows virtnotifyd from now on, and passes its events on: listeners must be there already.
    pub fn follow(self: &Arc<Self>, events: EventBus) {
        let follower = Arc::downgrade(self);
        std::thread::spawn(move || {
            while let Some(storage) = follower.upgrade() {
                let Err(error) = storage.listen(&events);
                storage.lost(&error).into_iter().for_each(|event| events.emit(event));
                drop(storage);
                std::thread::sleep(LOOK);
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often virtnotifyd was found; 0 until it was heard for the first time. It changes as well when it is lost.
    #[must_use]
    pub fn found(&self) -> watch::Receiver<u64> {
        self.found.subscribe()
    }

    /// Takes what virtnotifyd tells, until it ends.
    fn listen(&self, events: &EventBus) -> Result<std::convert::Infallible, io::Error> {
        let mut stream = UnixStream::connect(&self.path)?;
        send_first(&mut stream, &Ask::Follow)?;
        loop {
            match receive(&mut stream)? {
                Answer::News(news) => self.told(*news).into_iter().for_each(|e| events.emit(e)),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Takes in what has changed; says what happened.
    fn told(&self, news: News) -> Vec<Event> {
        let mut state = self.state();
        let mut events = Vec::new();
        if let Some(picture) = news.picture {
            events = match state.daemon {
                Some(last) => differences(&state.picture, &picture, last != news.daemon),
                // It was here before us: it has started nothing now.
                None => vec![Event::Lost],
            };
            state.picture = picture;
            if !state.up {
                tracing::info!("virtnotifyd answers");
            }
            self.found.send_modify(|found| *found += 1);
        }
        if news.lost {
            tracing::warn!("virtnotifyd told too much at once: events were lost");
            events.push(Event::Lost);
        }
        events.extend(news.events);
        state.picture.apply(news.changes);
        state.daemon = Some(news.daemon);
        (state.sequence, state.up) = (news.sequence, true);
        self.changed.notify_all();
        events
    }

    /// It is not heard any more; says what ended with it.
    fn lost(&self, error: &io::Error) -> Vec<Event> {
        let why = match error.kind() {
            ErrorKind::UnexpectedEof => "it ended".to_owned(),
            _ => error.to_string(),
        };
        let mut state = self.state();
        let was_up = state.up;
        let news = std::mem::replace(&mut state.why, why.clone()) != why;
        if !was_up {
            if news {
                tracing::debug!("virtnotifyd cannot be reached: {why}");
            }
            return Vec::new();
        }
        tracing::warn!("virtnotifyd cannot be reached: {why}");
        (state.up, state.since) = (false, Instant::now());
        let jobs = state.picture.end_jobs();
        drop(state);
        self.changed.notify_all();
        self.found.send_modify(|_| {});
        jobs.into_iter().map(|job| Event::JobChanged { pool: job.pool, id: job.id }).collect()
    }

    fn ensure_up(&self) -> Result<(), StorageError> {
        let state = self.state();
        if state.up { Ok(()) } else { Err(absent(&state.why)) }
    }

    /// Waits, since `began`, for one that has ended for less than the patience.
    fn connect(&self, began: Instant) -> Result<UnixStream, StorageError> {
        loop {
            let error = match UnixStream::connect(&self.path) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let state = self.state();
            let over = !state.up && state.since.elapsed() >= self.patience;
            drop(state);
            if over || began.elapsed() >= self.patience {
                return Err(absent(&error.to_string()));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn wait_for(&self, sequence: u64) {
        let so = |state: &mut State| state.up && state.sequence < sequence;
        let waited = self.changed.wait_timeout_while(self.state(), LAG_MAX, so);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks on this connection; no answer from one that has done nothing.
    fn once<T: DeserializeOwned>(
        &self,
        mut stream: UnixStream,
        question: &Ask,
        limit: Option<Duration>,
    ) -> io::Result<Option<Result<T, StorageError>>> {
        stream.set_read_timeout(limit)?;
        send_first(&mut stream, question)?;
        match receive(&mut stream)? {
            Answer::Storage { sequence, result } => {
                let result = unpack(&result)?;
                self.wait_for(sequence);
                Ok(Some(result))
            }
            Answer::Busy => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks, and asks the next one where this one ends and has done nothing.
    fn until_answered<T: DeserializeOwned>(
        &self,
        question: &Ask,
        limit: Option<Duration>,
    ) -> Result<io::Result<Result<T, StorageError>>, StorageError> {
        let began = Instant::now();
        loop {
            match self.once(self.connect(began)?, question, limit) {
                Ok(Some(answer)) => return Ok(Ok(answer)),
                Ok(None) if began.elapsed() >= self.patience => return Err(absent("it ends")),
                Ok(None) => std::thread::sleep(LOOK),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Does something, which takes as long as it takes.
    fn act<T: DeserializeOwned>(&self, question: Question) -> Result<T, StorageError> {
        let done = self.until_answered(&Ask::Storage(question), None)?;
        done.unwrap_or_else(|error| Err(unknown(&error)))
    }

    /// Asks something that changes nothing; asked again, once, when virtnotifyd ends meanwhile.
    fn ask<T: DeserializeOwned>(&self, question: Question) -> Result<T, StorageError> {
        let question = Ask::Storage(question);
        match self.until_answered(&question, Some(ANSWERS))? {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(late()),
            Err(_) => {
                // Its end is seen on the other connection a moment later.
                std::thread::sleep(LOOK);
                let again = self.until_answered(&question, Some(ANSWERS))?;
                again.unwrap_or_else(|error| Err(absent(&error.to_string())))
            }
        }
    }
}

/// Events for what happened while no daemon was heard, as far as it is known: pools that became active or inactive.
/// Another daemon has started all that are active.
fn differences(before: &Picture, after: &Picture, other: bool) -> Vec<Event> {
    let is_active = |of: &Picture, name: &PoolName| {
        of.pools().iter().any(|pool| pool.name == *name && pool.info.is_some())
    };
    let names = |of: &Picture| -> Vec<PoolName> {
        of.pools().iter().map(|pool| pool.name.clone()).collect()
    };
    let stopped = names(before).into_iter();
    let stopped = stopped.filter(|name| is_active(before, name) && !is_active(after, name));
    let started = names(after).into_iter().filter(|name| is_active(after, name));
    let started = started.filter(|name| other || !is_active(before, name));
    let events = stopped.map(Event::PoolStopped).chain(started.map(Event::PoolStarted));
    std::iter::once(Event::Lost).chain(events).collect()
}

fn absent(why: &str) -> StorageError {
    StorageError::Unreachable(does_not_run(why))
}

fn late() -> StorageError {
    let seconds = ANSWERS.as_secs();
    StorageError::Unreachable(format!(
        "virtnotifyd has not answered for {seconds} s: a disk may not answer it"
    ))
}

fn unknown(error: &io::Error) -> StorageError {
    StorageError::Unreachable(format!(
        "virtnotifyd ended before it answered ({error}): whether it was done is not known"
    ))
}

fn unexpected(answer: &Answer) -> io::Error {
    match answer {
        Answer::OtherVersion(version) => crate::message::invalid(format!(
            "virtnotifyd speaks version {version} of their protocol and virtnotify-control {VERSION}: \
             systemctl restart virtnotifyd virtnotify-control virtnotify-proxy"
        )),
        _ => crate::message::invalid("it answers something else"),
    }
}

impl Pools for RemoteStorage {
    fn runs(&self) -> bool {
        self.state().up
    }

    fn pools(&self) -> Vec<PoolState> {
        self.state().picture.pools().to_vec()
    }

    fn pool(&self, name: &PoolName) -> Option<PoolState> {
        self.state().picture.pools().iter().find(|pool| pool.name == *name).cloned()
    }

    fn volumes(&self, pool: &PoolName) -> Result<Vec<VolumeInfo>, StorageError> {
        self.state().picture.volumes(pool)
    }

    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, StorageError> {
        self.state().picture.volume(pool, volume)
    }

    fn volume_stats(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<VolumeStats, StorageError> {
        // Figures are not worth waiting for.
        self.ensure_up()?;
        let (pool, volume) = (pool.clone(), volume.clone());
        self.ask(Question::VolumeStats { pool, volume })
    }

    fn delete_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), StorageError> {
        let (of, name, uuid) = (pool.clone(), volume.clone(), *uuid);
        let deleted = self.act(Question::DeleteVolume { pool: of, volume: name, uuid });
        if matches!(deleted, Ok(()) | Err(StorageError::NoVolume(_))) {
            // A daemon that has just started tells so later.
            self.state().picture.forget(pool, volume, &uuid);
        }
        deleted
    }
}

impl Storage for RemoteStorage {
    fn catch_up(&self) {
        // Where it does not answer, the picture is as it told last.
        if self.runs()
            && let Ok(stream) = UnixStream::connect(&self.path)
        {
            let question = Ask::Storage(Question::CatchUp);
            let _ = self.once::<()>(stream, &question, Some(LAG_MAX));
        }
    }

    fn jobs(&self) -> Vec<JobInfo> {
        self.state().picture.jobs().to_vec()
    }

    fn start_job(&self, pool: &PoolName, task: &Task) -> Result<u64, StorageError> {
        self.act(Question::StartJob { pool: pool.clone(), task: task.clone() })
    }

    fn cancel_job(&self, id: u64) -> Result<(), StorageError> {
        self.act(Question::CancelJob(id))
    }

    fn prepare_write(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        offset: Bytes,
        length: Bytes,
    ) -> Result<(), StorageError> {
        let (pool, volume) = (pool.clone(), volume.clone());
        self.act(Question::PrepareWrite { pool, volume, offset, length })
    }

    fn set_policy(
        &self,
        pool: &PoolName,
        settings: &[(String, String)],
    ) -> Result<(), StorageError> {
        self.act(Question::SetPolicy { pool: pool.clone(), settings: settings.to_vec() })
    }

    fn create_volume(&self, pool: &PoolName, new: &NewVolume) -> Result<VolumeInfo, StorageError> {
        self.act(Question::CreateVolume { pool: pool.clone(), new: new.clone() })
    }

    fn resize_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
        capacity: Bytes,
        shrink: bool,
    ) -> Result<(), StorageError> {
        let (pool, volume, uuid) = (pool.clone(), volume.clone(), *uuid);
        self.act(Question::ResizeVolume { pool, volume, uuid, capacity, shrink })
    }

    fn remove_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
        snapshots: bool,
    ) -> Result<(), StorageError> {
        let (pool, volume, uuid) = (pool.clone(), volume.clone(), *uuid);
        self.act(Question::RemoveVolume { pool, volume, uuid, snapshots })
    }

    fn refresh_pool(&self, pool: &PoolName) -> Result<(), StorageError> {
        self.act(Question::RefreshPool(pool.clone()))
    }

    fn ensure_active(&self, paths: &[String]) -> Result<(), StorageError> {
        self.act(Question::EnsureActive(paths.to_vec()))
    }

    fn guest_starts(&self, guest: &Guest) -> Result<(), StorageError> {
        self.act(Question::GuestStarts(guest.clone()))
    }

    fn take_snapshot(
        &self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, StorageError> {
        let (pool, volumes, name) = (pool.clone(), volumes.to_vec(), name.clone());
        self.act(Question::TakeSnapshot { pool, volumes, name })
    }

    fn roll_back(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), StorageError> {
        self.act(Question::RollBack { pool: pool.clone(), snapshot: snapshot.clone() })
    }

    fn delete_snapshot(&self, pool: &PoolName, snapshot: &VolumeName) -> Result<(), StorageError> {
        self.act(Question::DeleteSnapshot { pool: pool.clone(), snapshot: snapshot.clone() })
    }

    fn difference(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<(Bytes, Vec<VolumeExtent>), StorageError> {
        let (pool, volume, base) = (pool.clone(), volume.clone(), base.cloned());
        self.ask(Question::Difference { pool, volume, base })
    }

    fn check(&self, what: &str) -> Result<Checked, StorageError> {
        self.act(Question::Check(what.to_owned()))
    }

    fn dump(&self, what: &str, from: &str) -> Result<String, StorageError> {
        self.act(Question::Dump { what: what.to_owned(), from: from.to_owned() })
    }

    fn restore(&self, words: &RestoreWords) -> Result<Vec<String>, StorageError> {
        self.act(Question::Restore(words.clone()))
    }

    fn set_drained(&self, drained: bool) -> Result<(), StorageError> {
        // It reads that when it starts: it is not waited for as long as it takes.
        self.ask(Question::SetDrained(drained))
    }
}
