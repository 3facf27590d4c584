// SPDX-License-Identifier: LGPL-2.1-or-later
//! The one task that owns all moves of this host.
//!
//! It sleeps until something happens: an event of ours, a change of a VM's state, the end of a
//! move, or a time that it set itself. Then it takes one [`survey`] and acts on that. Between
//! two looks it remembers only what cannot be seen: when a VM may be tried again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};
use uuid::Uuid;
use virtnotify_model::{Bytes, Event, EventBus, MoveFailure, PoolName, Pools, VolumeName};

use crate::begin::{Done, Preparing};
use crate::error::MigrateError;
use crate::foresight::Homeless;
use crate::hypervisor::{Hypervisor, Peer, Wire};
use crate::journal::{JournalError, Loaded, Record};
use crate::limits::{HeldBack, Tally};
use crate::mover::{Outcome, Tools};
use crate::moves::{Asked, Moves};
use crate::peers::PeerState;
use crate::phase::At;
use crate::pressure::Watched;
use crate::survey::survey;
use crate::timing::{Held, Timing, backoff};
use crate::verdict::Word;
use crate::waiting::Waiting;

/// What an operator decides.
#[derive(Debug, Clone)]
pub struct MoverConfig {
    /// Where VMs may go.
    pub peers: Vec<Peer>,
    /// How many may leave at once.
    pub concurrent: usize,
    /// What a move is expected to copy in a second until one was seen.
    pub bandwidth: Bytes,
    /// Where the journal of moves is kept.
    pub journal: PathBuf,
    /// The file that says when VMs left pools at their low marks.
    pub tally: PathBuf,
    /// How memory and disks travel.
    pub wire: Wire,
    /// How things are timed.
    pub timing: Timing,
    /// This boot of the host: the kernel's `boot_id`.
    pub boot: String,
}

/// Moves that are under way, or wait for another look.
pub(super) struct Open {
    pub(super) record: Record,
    /// Whether a thread is at it now.
    pub(super) busy: bool,
    tries: u32,
    next: Instant,
    /// What is in the way of its end.
    pub(super) reason: String,
    /// When it was first found not to be over.
    since: Option<Instant>,
    /// Whether it was said that it does not end.
    told: bool,
    /// Whether something happened since that look began: another one follows at once.
    stale: bool,
    /// What a person says of it, heard at the next look.
    verdict: Option<(Asked, Word)>,
}

/// Owns the moves of this host.
pub struct Mover {
    pub(super) config: MoverConfig,
    pub(super) tools: Arc<Tools>,
    events: broadcast::Receiver<Event>,
    changes: watch::Receiver<u64>,
    /// By VM and peer, as the journal is.
    pub(super) open: BTreeMap<(Uuid, String), Open>,
    pub(super) waiting: BTreeMap<Uuid, Waiting>,
    pub(super) resumed: BTreeMap<Uuid, Instant>,
    /// VMs that are left alone after a move that failed while they ran, or was cancelled.
    pub(super) held: BTreeMap<Uuid, Held>,
    /// When each VM was last tried and no peer took it: the others come before it, so that each has its turn.
    pub(super) turned_down: BTreeMap<Uuid, Instant>,
    pub(super) watched: Watched,
    /// Volumes whose VM is about to pause, and until when.
    pub(super) expected: BTreeMap<(PoolName, VolumeName), Instant>,
    /// What is to be told of records that cannot be read.
    broken: Vec<String>,
    tasks: JoinSet<(Record, Outcome)>,
    /// Questions to libvirt before a move, here and at the peers.
    pub(super) questions: JoinSet<Done>,
    /// For which VMs, and out of which pools, moves are being prepared.
    pub(super) preparing: Preparing,
    /// The VMs that leave pools for others that wait for their space.
    pub(super) relieved: BTreeMap<PoolName, Uuid>,
    /// The peers, as they were asked last.
    pub(super) peers: Vec<PeerState>,
    /// VMs that none of them could take.
    pub(super) homeless: Vec<Homeless>,
    /// When they are asked next.
    pub(super) next_check: Instant,
    /// Whether they are being asked.
    pub(super) asking: bool,
    /// When VMs left at low marks.
    pub(super) tally: Tally,
    /// Pools that are low, or soon full, and that no VM leaves for now.
    pub(super) held_back: BTreeMap<PoolName, HeldBack>,
    /// When a VM may leave a drained host again after none could.
    pub(super) drain_held: Held,
    /// When the last look began.
    looked: Instant,
    libvirt_failed: bool,
}

impl Mover {
    /// Opens the journal and listens to `bus` from now on.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn new(
        config: MoverConfig,
        hv: Arc<dyn Hypervisor>,
        storage: Arc<dyn Pools>,
        bus: EventBus,
    ) -> Result<Self, JournalError> {
        let events = bus.subscribe();
        let changes = hv.changes();
        let tools = Tools::new(hv, storage, bus, &config)?;
        let mut open = BTreeMap::new();
        let Loaded { records, broken } = tools.journal.load()?;
        for record in records {
            info!("an earlier move of '{}' is looked at again", record.domain);
            open.insert(key(&record), Open::new(record));
        }
        let peers = config.peers.iter().map(PeerState::unknown).collect();
        let mover = Self {
            tools: Arc::new(tools),
            events,
            changes,
            open,
            waiting: BTreeMap::new(),
            resumed: BTreeMap::new(),
            held: BTreeMap::new(),
            turned_down: BTreeMap::new(),
            watched: Watched::default(),
            expected: BTreeMap::new(),
            broken,
            tasks: JoinSet::new(),
            questions: JoinSet::new(),
            preparing: Preparing::default(),
            relieved: BTreeMap::new(),
            peers,
            next_check: Instant::now() + config.timing.peers / 12,
            asking: false,
            homeless: Vec::new(),
            tally: Tally::read(&config.tally),
            held_back: BTreeMap::new(),
            drain_held: Held::default(),
            looked: Instant::now(),
            libvirt_failed: false,
            config,
        };
        mover.publish();
        Ok(mover)
    }

    /// For those who cancel moves.
    #[must_use]
    pub fn moves(&self) -> Moves {
        self.tools.moves.clone()
    }

    /// Works until `stop` says true, or its sender is gone. A migration that is under way then
    /// goes on in libvirt, and is found again by the next start.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let work = async move {
            self.tell_broken();
            self.tally(None);
            loop {
                self.look().await;
                self.wait().await;
                // Events that come in the same burst are answered by the same look.
                sleep(self.config.timing.gather).await;
                self.drain();
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = work => {}
        }
    }

    /// A VM of which only such a record knows may wait, paused, on the other host.
    fn tell_broken(&mut self) {
        for what in std::mem::take(&mut self.broken) {
            error!("{what}");
            self.tools.bus.emit(Event::Warning { domain: String::new(), what });
        }
    }

    /// Waits for a reason to look.
    async fn wait(&mut self) {
        let next = self.next_look();
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    if self.take(event) {
                        return;
                    }
                }
                Ok(()) = self.changes.changed() => return self.look_at_two(),
                () = self.tools.moves.asked() => return self.serve_asked(),
                Some(ended) = self.tasks.join_next() => return self.ended(ended),
                Some(done) = self.questions.join_next() => return self.answered(done),
                () = sleep_until(next) => return,
            }
        }
    }

    fn drain(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(event) => drop(self.take(Ok(event))),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if self.changes.has_changed().unwrap_or(false) {
            self.changes.mark_unchanged();
            self.look_at_two();
        }
    }

    /// A VM has changed, perhaps one that ran on two hosts and runs again on both.
    fn look_at_two(&mut self) {
        let now = Instant::now();
        let two = |open: &&mut Open| matches!(open.record.phase.at, At::Twice(_));
        for open in self.open.values_mut().filter(two) {
            (open.next, open.stale) = (now, open.busy);
        }
    }

    /// Whether the event is a reason to look; a lost one is.
    fn take(&mut self, event: Result<Event, RecvError>) -> bool {
        let now = Instant::now();
        if let Ok(event) = &event
            && let Some(grown) = self.watched.take(event, now)
        {
            return self.is_watched(&grown, now);
        }
        match event {
            Ok(Event::SpaceExhausted { pool, volume, .. }) => {
                let until = now + self.config.timing.pause;
                self.expected.entry((pool, volume)).or_insert(until);
                true
            }
            Ok(Event::PoolStarted(_)) => {
                self.next_check = now;
                true
            }
            Ok(
                Event::Lost
                | Event::SpaceAvailable { .. }
                | Event::SpaceLow { .. }
                | Event::VolumeDeleted { .. }
                | Event::MoveFinished(_),
            )
            | Err(RecvError::Lagged(_)) => true,
            Ok(_) | Err(RecvError::Closed) => false,
        }
    }

    fn next_look(&self) -> Instant {
        let open = self.open.values().filter(|open| !open.busy).map(|open| open.next);
        // A VM that is due and cannot go waits for the end of a move, which wakes us by itself.
        let full = self.is_full_of_waiting();
        let may_go = self.waiting.iter().filter(|(uuid, waiting)| {
            !full && !self.is_moving(**uuid) && !self.is_relieved(&waiting.volume.0)
        });
        let waiting = may_go.map(|(_, waiting)| waiting.held.next);
        let expected = self.expected.values().copied();
        let check = self.asks_peers().then_some(self.next_check);
        let sweep = Instant::now() + self.config.timing.sweep;
        let all = open.chain(waiting).chain(expected).chain(check).chain(self.rests_end());
        let soonest = all.min().unwrap_or(sweep).min(sweep);
        let timing = self.config.timing;
        let at_least = if self.libvirt_failed { timing.settle } else { timing.gather };
        soonest.max(Instant::now() + at_least)
    }

    /// When pools, VMs that run, and a host that is drained have rested after a failure. Those that had before the last look
    /// were looked at then.
    fn rests_end(&self) -> impl Iterator<Item = Instant> {
        let drain = Some(&self.drain_held).filter(|held| held.tries > 0);
        let rest = self.watched.resting().chain(self.held.values()).chain(drain);
        rest.map(|held| held.next).filter(|next| *next > self.looked)
    }

    async fn look(&mut self) {
        self.looked = Instant::now();
        self.settle_open();
        self.check_peers();
        let tools = Arc::clone(&self.tools);
        let found = spawn_blocking(move || survey(tools.hv.as_ref(), tools.storage.as_ref())).await;
        match found {
            Ok(Ok(found)) => {
                self.libvirt_failed = false;
                let serves = found.serves;
                self.check_expected(&found);
                self.act(found).await;
                // What is known of space is old otherwise.
                if serves {
                    self.relieve().await;
                    self.empty_host().await;
                }
            }
            Ok(Err(error)) => self.no_libvirt(&error),
            Err(panic) => error!("the look for VMs that wait for space failed: {panic}"),
        }
        self.publish();
    }

    /// Said once, not each time.
    pub(super) fn no_libvirt(&mut self, error: &MigrateError) {
        if !std::mem::replace(&mut self.libvirt_failed, true) {
            warn!("VMs that wait for space cannot be looked for: {error}");
        }
    }

    pub(super) fn is_moving(&self, uuid: Uuid) -> bool {
        self.preparing.has(uuid) || self.has_open(uuid)
    }

    pub(super) fn has_open(&self, uuid: Uuid) -> bool {
        self.open.values().any(|open| open.record.uuid == uuid && !open.is_over())
    }

    /// How many VMs are on their way: all, or those alone that waited for space. Another look at one that is open is no move.
    fn under_way(&self, which: impl Fn(&Record) -> bool) -> usize {
        let moves = |record: &Record| record.phase.at.may_be_migrating() && which(record);
        let way = |open: &&Open| open.busy && moves(&open.record);
        self.open.values().filter(way).count()
    }

    /// Whether no further move may begin now.
    pub(super) fn is_full(&self) -> bool {
        self.under_way(|_| true) + self.preparing.urgent() >= self.config.concurrent
    }

    /// Whether a VM that waits for space has to wait for the moves of others, or of VMs that leave for them. For
    /// those of other VMs that run, which may take long, it does not.
    pub(super) fn is_full_of_waiting(&self) -> bool {
        let leaves = |uuid: &Uuid| self.relieved.values().any(|relieved| relieved == uuid);
        let urgent = self.under_way(|record| !record.ran || leaves(&record.uuid));
        urgent + self.preparing.urgent() >= self.config.concurrent
    }

    pub(super) fn spawn(&mut self, record: Record) {
        self.turned_down.remove(&record.uuid);
        // Before its thread runs: the client that asked for it finds it at once.
        if let Ok(info) = record.info() {
            self.tools.moves.begins(record.uuid, &info);
        }
        let mut open = Open::new(record.clone());
        open.busy = true;
        self.open.insert(key(&record), open);
        self.work(record, |tools, record| tools.run(record));
    }

    /// Runs a step of a move on a thread of its own; [`Mover::ended`] takes what comes of it.
    fn work(
        &mut self,
        mut record: Record,
        step: impl FnOnce(&Tools, &mut Record) -> Outcome + Send + 'static,
    ) {
        let tools = Arc::clone(&self.tools);
        self.tasks.spawn_blocking(move || {
            let work = AssertUnwindSafe(|| step(&tools, &mut record));
            let panicked = |_| Outcome::Open("the daemon has a fault there".into());
            let outcome = catch_unwind(work).unwrap_or_else(panicked);
            (record, outcome)
        });
    }

    /// Looks again at moves that are open, each on a thread of its own.
    fn settle_open(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for open in self.open.values_mut().filter(|open| !open.busy && open.next <= now) {
            open.busy = true;
            due.push((open.record.clone(), open.verdict.take()));
        }
        for (record, verdict) in due {
            match verdict {
                Some((asked, word)) => {
                    self.work(record, move |tools, record| tools.hear(record, asked, &word));
                }
                None => self.work(record, Tools::look_again),
            }
        }
    }

    /// Has what a person says of a move heard at its next look, which is due now.
    pub(super) fn take_verdict(&mut self, asked: Asked, word: Word) {
        let named = |open: &Open| word.peer.as_deref().is_none_or(|peer| open.record.to() == peer);
        let means = |open: &Open| asked.means(open.record.uuid, &open.record.domain);
        let mut found: Vec<_> =
            self.open.values_mut().filter(|open| means(open) && named(open)).collect();
        let refusal = match found.as_mut_slice() {
            [] => MigrateError::NoMove,
            // Its thread may be at it for hours, and can be told to end it.
            [open] if open.busy && matches!(open.record.phase.at, At::Preparing | At::Copying) => {
                MigrateError::UnderWay
            }
            [open] if open.verdict.is_some() => MigrateError::TooManyAsk,
            [open] => {
                (open.next, open.stale) = (Instant::now(), open.busy);
                open.verdict = Some((asked, word));
                return;
            }
            several => {
                let peers = several.iter().map(|open| open.record.to().to_owned()).collect();
                MigrateError::SeveralMoves { peers }
            }
        };
        asked.answer(Err(refusal));
    }

    fn ended(&mut self, ended: Result<(Record, Outcome), JoinError>) {
        let (record, outcome) = match ended {
            Ok(ended) => ended,
            // Their panics are caught, and nobody cancels them.
            Err(error) => return error!("a move's thread was lost: {error}"),
        };
        let open = self.open.get(&key(&record));
        if record.phase.at == At::Stayed && open.is_none_or(|before| !before.record.phase.is_over())
        {
            self.stayed(&record);
        }
        match outcome {
            Outcome::Open(reason) => self.keep_open(record, &reason),
            Outcome::Over => {
                let ended = self.open.remove(&key(&record));
                if let Some((asked, _)) = ended.and_then(|open| open.verdict) {
                    asked.answer(Err(MigrateError::NoMove));
                }
                if record.phase.at == At::Arrived {
                    self.tally(record.relieves);
                }
            }
        }
    }

    /// When it is tried again.
    fn stayed(&mut self, record: &Record) {
        let timing = self.config.timing;
        let now = Instant::now();
        if record.phase.cancelled {
            let next = now + timing.cancelled;
            info!("'{}' is left alone for {} s", record.domain, timing.cancelled.as_secs());
            self.held.insert(record.uuid, Held { tries: 1, cancelled: true, ..Held::until(next) });
        } else if let Some(waiting) = self.waiting.get_mut(&record.uuid) {
            waiting.held.failed_at(record.peer().name, timing);
        } else if record.ran {
            self.held.entry(record.uuid).or_default().failed_at(record.peer().name, timing);
            self.rest_pools(record.needs().into_keys());
        }
    }

    fn keep_open(&mut self, record: Record, reason: &str) {
        let timing = self.config.timing;
        let now = Instant::now();
        let id = key(&record);
        let open = self.open.entry(id).or_insert_with(|| Open::new(record.clone()));
        open.record = record;
        open.busy = false;
        reason.clone_into(&mut open.reason);
        open.tries += 1;
        let pause = backoff(open.tries, timing.settle, timing.settle_limit);
        open.next = if std::mem::take(&mut open.stale) { now } else { now + pause };
        let lasts = now >= *open.since.get_or_insert(now) + timing.tell;
        if !lasts || open.is_over() || std::mem::replace(&mut open.told, true) {
            return;
        }
        warn!("the move of '{}' does not end: {reason}", open.record.domain);
        if let Ok(info) = open.record.info() {
            let reason = format!("it does not end: {reason}. It is looked at again");
            let kind = MoveFailure::Open;
            self.tools.bus.emit(Event::MoveFailed { info, kind, reason });
        }
    }
}

impl Open {
    fn new(record: Record) -> Self {
        let (next, reason) = (Instant::now(), String::new());
        let (since, told, stale, verdict) = (None, false, false, None);
        Self { record, busy: false, tries: 0, next, reason, since, told, stale, verdict }
    }

    /// Whether a look found it open: it is shown also while another one goes on.
    pub(super) fn was_looked_at(&self) -> bool {
        self.tries > 0
    }

    /// Whether it does not end by itself, as far as can be seen.
    pub(super) fn is_stuck(&self) -> bool {
        self.told || matches!(self.record.phase.at, At::Twice(_))
    }

    /// Whether only the tidying up at the peer is left.
    pub(super) fn is_over(&self) -> bool {
        // A VM that is not set to start with its host again would not start with the next either.
        let here = self.record.phase.at == At::Stayed || self.record.is_kept_here();
        let owed = here && self.record.autostart;
        self.record.phase.is_over() && !owed
    }
}

fn key(record: &Record) -> (Uuid, String) {
    (record.uuid, record.peer().name)
}
