// SPDX-License-Identifier: LGPL-2.1-or-later
//! One move, from the choice of a peer to the journal's last word. Plain blocking code: the
//! owner runs it on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing::{debug, error, info, warn};
use uuid::Uuid;
use virtnotify_model::{Bytes, Event, EventBus, MoveInfo, Pools, VolumeInfo};

use crate::asked::runs;
use crate::domain::Domain;
use crate::error::MigrateError;
use crate::hypervisor::{Copying, HvError, Hypervisor, Job, Order, Place, Progress, Wire};
use crate::journal::{Directory, DiskRecord, Journal, JournalError, Record};
use crate::moves::Moves;
use crate::owner::MoverConfig;
use crate::phase::At;
use crate::plan::plan;
use crate::timing::{Clock, RealClock, Timing};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often libvirt is asked what it is at: so often that a migration that a person cancels is seen to be undone.
const LOOK: Duration = Duration::from_millis(250);

/// What a move works with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub hv: Arc<dyn Hypervisor>,
    pub storage: Arc<dyn Pools>,
    pub bus: EventBus,
    pub journal: Arc<dyn Journal>,
    pub moves: Moves,
    pub timing: Timing,
    pub clock: Arc<dyn Clock>,
    /// How memory and disks travel.
    pub wire: Wire,
    /// This boot of the host.
    pub boot: String,
}

/// Why a migration is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    /// Nothing was copied for [`Timing::stall`].
    Stalled,
    /// What is left of its disks did not become less for [`Timing::nearer`].
    NoNearer,
}

/// What is remembered of a migration from one second to the next.
struct Watch {
    /// When it began, by the move's clock.
    began: Duration,
    /// What was told last, and when it changed.
    last: Option<Progress>,
    changed: Duration,
    /// When progress was told last.
    told: Option<Duration>,
    /// The last tenth that the log has.
    tenth: u64,
    /// Whether what the guest overwrites is copied once more, so that it may never end.
    may_stray: bool,
    /// The least that was left of the disks, and since when it is that.
    least: Bytes,
    nearer: Duration,
    given_up: Option<GivenUp>,
    /// Whether it was cancelled, with our means or with libvirt's.
    cancelled: bool,
}

/// How a move, or another look at one, ended. The record's phase says the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is left to do, and the record is gone.
    Over,
    /// It is to be looked at again. The sentence says what is in the way.
    Open(String),
}

impl Tools {
    pub(crate) fn new(
        hv: Arc<dyn Hypervisor>,
        storage: Arc<dyn Pools>,
        bus: EventBus,
        config: &MoverConfig,
    ) -> Result<Self, JournalError> {
        let MoverConfig { journal, wire, timing, boot, .. } = config;
        let (directory, moves) = (Directory::open(journal)?, Moves::kept_in(journal));
        let (journal, clock) = (Arc::new(directory), Arc::new(RealClock::new()));
        let (wire, timing, boot) = (*wire, *timing, boot.clone());
        Ok(Self { hv, storage, bus, journal, moves, wire, timing, clock, boot })
    }

    /// Makes the move and settles it.
    pub(crate) fn run(&self, record: &mut Record) -> Outcome {
        let Some(info) = info_of(record) else { return Outcome::Over };
        info!("moving '{}' from {} to {}", info.domain, info.from, info.to);
        match self.leaves(&record.disks) {
            Ok(left) if left.is_empty() => {}
            Ok(left) => info!("'{}' leaves its snapshots here: {}", info.domain, left.join(", ")),
            Err(error) => debug!("'{}': its snapshots are not known: {error}", info.domain),
        }
        self.moves.begins(record.uuid, &info);
        // It is found again before it is told: where we are killed then, its end is told all the same.
        let begun = self.journal.write(record).map_err(MigrateError::from);
        if begun.is_ok() {
            self.bus.emit(Event::MoveStarted(info.clone()));
        }
        let went = begun.and_then(|()| self.attempt(record, &info));
        record.went = went.is_ok();
        if let Err(error) = went {
            warn!("the move of '{}' to {} ended: {error}", info.domain, info.to);
            record.phase.cancelled |= matches!(error, MigrateError::Cancelled { .. });
            record.phase.reason = error.to_string();
        }
        self.libvirt_is_done(record);
        let outcome = self.settle(record);
        self.moves.ended(record.uuid);
        outcome
    }

    /// Settles a move that was begun before a restart, or is still open.
    pub(crate) fn look_again(&self, record: &mut Record) -> Outcome {
        if record.phase.is_over() {
            return self.settle(record);
        }
        let Some(info) = info_of(record) else { return Outcome::Over };
        self.moves.goes_on_with(&info, &record.phase);
        let outcome = match self.watch_to_its_end(record, &info) {
            Ok(()) => self.settle(record),
            // What libvirt is at is not known: the migration may go on.
            Err(error) => Outcome::Open(error.to_string()),
        };
        self.moves.ended(record.uuid);
        outcome
    }

    /// A migration that an earlier process of ours may have begun. In a later phase it is another's, which is left alone.
    fn watch_to_its_end(&self, record: &mut Record, info: &MoveInfo) -> Result<(), HvError> {
        if !record.phase.at.may_be_migrating() {
            return Ok(());
        }
        let watch = self.watch(record, info)?;
        let ours = self.moves.is_cancelled(record.uuid);
        if ours || watch.cancelled {
            record.phase.cancelled = true;
            if record.phase.reason.is_empty() {
                record.phase.reason = self.cancelled(ours).to_string();
            }
        }
        self.libvirt_is_done(record);
        Ok(())
    }

    /// The call is over, or the process that made it.
    fn libvirt_is_done(&self, record: &mut Record) {
        if record.phase.at == At::Copying {
            // Not known to the journal it is copying still, which is decided on alike.
            let _ = self.enter(record, At::Unknown, None);
        }
    }

    /// What an event says of a VM that finds no place to go.
    pub(crate) fn no_move(&self, domain: &Domain, volume: &VolumeInfo) -> MoveInfo {
        MoveInfo {
            domain: domain.name.clone(),
            uuid: domain.uuid,
            pool: volume.pool.clone(),
            volumes: vec![(volume.pool.clone(), volume.name.clone())],
            from: self.hv.host(Place::Here).unwrap_or_default(),
            to: String::new(),
            allocation: volume.allocation,
        }
    }

    fn attempt(&self, record: &mut Record, info: &MoveInfo) -> Result<(), MigrateError> {
        self.reserve(record)?;
        self.make_volumes(record)?;
        if let Err(error) = self.hv.set_origins(record.uuid, &record.origins) {
            warn!("{error}: nothing will keep '{}' from coming back", record.domain);
        }
        if self.moves.is_cancelled(record.uuid) {
            return Err(self.cancelled(true));
        }
        if record.autostart {
            self.hv.set_autostart(Place::Here, record.uuid, false)?;
        }
        self.check_disks(record)?;
        self.enter(record, At::Copying, None)?;
        self.migrate(record, info)
    }

    /// libvirt takes a disk that it is not told to copy for one that both hosts share, and lets none be plugged in
    /// once a migration has begun: so they are read again just before.
    fn check_disks(&self, record: &mut Record) -> Result<(), MigrateError> {
        let now = self.hv.domain(Place::Here, record.uuid)?;
        let now = now.ok_or_else(|| HvError::gone("cannot find the VM"))?;
        // One that a person has paused meanwhile would be resumed there.
        record.ran = runs(&now)?;
        // One that a person has defined or undefined meanwhile would lose its definition, or keep one that it has not.
        record.persistent = now.persistent;
        let now = plan(&now, self.storage.as_ref())?.disks;
        let known = |disk: &DiskRecord| {
            record.disks.iter().any(|known| (&known.target, known.id) == (&disk.target, disk.id))
        };
        if now.len() == record.disks.len() && now.iter().all(known) {
            return Ok(());
        }
        Err(MigrateError::DisksChanged)
    }

    fn migrate(&self, record: &Record, info: &MoveInfo) -> Result<(), MigrateError> {
        let disks: Vec<String> = record.disks.iter().map(|d| d.target.clone()).collect();
        let (uuid, peer) = (record.uuid, record.peer());
        let bandwidth = record.bandwidth.map(Bytes);
        let persistent = record.persistent;
        let (copying, wire) = (record.copying, self.wire);
        let order =
            Order { uuid, peer: &peer, disks: &disks, persistent, bandwidth, copying, wire };
        let (result, watch) = thread::scope(|scope| {
            let (over, watched) = mpsc::channel::<()>();
            let watch = Watch::new(self.clock.now(), copying);
            let watch = scope.spawn(move || self.report_until(&watched, uuid, info, watch));
            let result = self.hv.migrate(order);
            drop(over);
            (result, watch.join())
        });
        let given_up = watch.as_ref().ok().and_then(|watch| watch.given_up);
        let ours = self.moves.is_cancelled(uuid);
        // A migration that is cancelled may fail with any error: the peer's end closes at the same time.
        let cancelled = watch.as_ref().is_ok_and(|watch| watch.cancelled);
        let ended = ours || cancelled || given_up.is_some();
        match result.map_err(|error| if ended { HvError::Cancelled } else { error }) {
            Ok(()) => {
                let now = self.clock.now();
                if let Some(bandwidth) = watch.ok().and_then(|watch| watch.bandwidth(now)) {
                    self.moves.measured(bandwidth);
                }
                Ok(())
            }
            Err(HvError::Cancelled) => Err(match given_up {
                Some(GivenUp::Stalled) => MigrateError::Stalled(self.timing.stall),
                Some(GivenUp::NoNearer) => MigrateError::NoNearer(self.timing.nearer),
                None => self.cancelled(ours),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn cancelled(&self, ours: bool) -> MigrateError {
        MigrateError::Cancelled { ours, rest: self.timing.cancelled }
    }

    /// Makes the volumes at the peer and writes down their keys: so what a failed move leaves
    /// there is known to be its own. libvirt uses volumes that it finds.
    fn make_volumes(&self, record: &mut Record) -> Result<(), MigrateError> {
        let peer = record.peer();
        for index in 0..record.disks.len() {
            let disk = &record.disks[index];
            let (pool, volume) = (disk.pool()?, disk.volume()?);
            let made = self.hv.create_volume(&peer, &pool, &volume, disk.capacity())?;
            record.disks[index].made_there = Some(made.key);
            self.journal.write(record)?;
            if made.capacity != record.disks[index].capacity() {
                let (peer, size) = (peer.name, made.capacity);
                return Err(MigrateError::OtherSize { peer, volume, size });
            }
        }
        Ok(())
    }

    fn report_until(
        &self,
        over: &mpsc::Receiver<()>,
        uuid: Uuid,
        info: &MoveInfo,
        mut watch: Watch,
    ) -> Watch {
        while self.clock.goes_on(over, LOOK) {
            if let Err(error) = self.report(uuid, info, &mut watch) {
                debug!("'{}': {error}", info.domain);
            }
        }
        watch
    }

    /// Tells how far it is, when that changed, and cancels it when it is to end. Says whether a
    /// migration is under way.
    fn report(&self, uuid: Uuid, info: &MoveInfo, watch: &mut Watch) -> Result<bool, HvError> {
        let progress = match self.hv.job(uuid)? {
            Job::Moving(progress) => progress,
            Job::Ending { cancelled } => {
                watch.cancelled |= cancelled;
                return Ok(true);
            }
            Job::None | Job::Other => return Ok(false),
        };
        let now = self.clock.now();
        if watch.takes(progress, now) {
            self.moves.goes_on(uuid, progress);
            let Progress { done, total, .. } = progress;
            self.bus.emit(Event::MoveProgress { info: info.clone(), done, total });
        }
        if let Some(tenth) = watch.next_tenth() {
            info!("'{}' is copied to {} by {tenth}0 %", info.domain, info.to);
        }
        watch.given_up = watch.given_up.or_else(|| watch.gives_up(self.timing, now));
        if (watch.given_up.is_some() || self.moves.is_cancelled(uuid))
            && let Err(error) = self.hv.abort(uuid)
        {
            warn!("'{}': {error}", info.domain);
        }
        Ok(true)
    }

    /// Waits while libvirt goes on with a migration that an earlier process of ours started.
    fn watch(&self, record: &Record, info: &MoveInfo) -> Result<Watch, HvError> {
        let mut watch = Watch::new(self.clock.now(), record.copying);
        while self.report(record.uuid, info, &mut watch)? {
            self.clock.sleep(LOOK);
        }
        Ok(watch)
    }
}

/// What events say of it. Records without that are not read, and none is made.
fn info_of(record: &Record) -> Option<MoveInfo> {
    record.info().inspect_err(|error| error!("a move of '{}': {error}", record.domain)).ok()
}

impl Watch {
    fn new(now: Duration, copying: Copying) -> Self {
        Self {
            began: now,
            last: None,
            changed: now,
            told: None,
            tenth: 0,
            may_stray: !copying.synchronous,
            least: Bytes(u64::MAX),
            nearer: now,
            given_up: None,
            cancelled: false,
        }
    }

    /// Whether this differs from what was there before, and it is time to tell.
    fn takes(&mut self, progress: Progress, now: Duration) -> bool {
        if self.last.replace(progress) == Some(progress) {
            return false;
        }
        self.changed = now;
        match progress.disks_left {
            Some(left) if left >= self.least => {}
            Some(left) => (self.least, self.nearer) = (left, now),
            None => (self.least, self.nearer) = (Bytes(u64::MAX), now),
        }
        let due = self.told.is_none_or(|told| now >= told + PROGRESS);
        if due {
            self.told = Some(now);
        }
        due
    }

    fn gives_up(&self, timing: Timing, now: Duration) -> Option<GivenUp> {
        let since = |then: Duration| now.saturating_sub(then);
        if since(self.changed) >= timing.stall {
            return Some(GivenUp::Stalled);
        }
        (self.may_stray && since(self.nearer) >= timing.nearer).then_some(GivenUp::NoNearer)
    }

    fn next_tenth(&mut self) -> Option<u64> {
        let Progress { done, total, .. } = self.last?;
        let tenth = (u128::from(done.0) * 10).checked_div(u128::from(total.0))?;
        let tenth = u64::try_from(tenth).ok().filter(|tenth| *tenth > self.tenth)?;
        self.tenth = tenth;
        Some(tenth)
    }

    /// What was copied in a second, if it was long enough to tell.
    fn bandwidth(&self, now: Duration) -> Option<Bytes> {
        let seconds = now.saturating_sub(self.began).as_secs();
        let done = self.last?.done;
        (seconds >= 2 && done > Bytes::ZERO).then(|| Bytes(done.0 / seconds))
    }
}
