// SPDX-License-Identifier: LGPL-2.1-or-later
//! VMs that are paused for want of space: each goes on where it is when there is some, or moves, or waits.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info, warn};
use uuid::Uuid;
use virtnotify_model::{Event, MoveFailure, PoolName, VolumeName, VolumeState, WhenFull};

use crate::begin::{Attempt, Why};
use crate::domain::Domain;
use crate::hypervisor::Place;
use crate::journal::Record;
use crate::owner::{Mover, Open};
use crate::phase::At;
use crate::prepare::Question;
use crate::survey::{Stuck, Survey};
use crate::timing::{Held, seconds_since_1970};

/// What is remembered of a VM that waits.
pub(super) struct Waiting {
    pub(super) domain: String,
    pub(super) volume: (PoolName, VolumeName),
    since: Instant,
    /// Since when its pool has room: the engine is about to serve it.
    room: Option<Instant>,
    /// Since when it waits, in seconds since 1970.
    pub(super) seen: u64,
    pub(super) held: Held,
    /// Why it was not moved.
    pub(super) reason: String,
    /// Its volume is not served at all.
    unserved: bool,
    /// Whether it was said that the policy keeps it here.
    told: bool,
}

impl Waiting {
    /// Why it still waits.
    pub(super) fn why(&self) -> String {
        match self.unserved {
            true => "virtnotifyd does not run: no volume grows".to_owned(),
            false => self.reason.clone(),
        }
    }
}

impl Mover {
    /// Acts on what a look has found.
    pub(super) async fn act(&mut self, found: Survey) {
        let stuck: BTreeSet<Uuid> = found.stuck.iter().map(|stuck| stuck.domain.uuid).collect();
        self.waiting.retain(|uuid, _| stuck.contains(uuid));
        let now = Instant::now();
        self.held.retain(|_, held| now < held.next + self.config.timing.retry_limit);
        for domain in found.served {
            self.resume_here(domain.uuid, domain.name).await;
        }
        for stuck in &found.stuck {
            self.waiting.entry(stuck.domain.uuid).or_insert_with(|| {
                info!("'{}' waits for space in '{}'", stuck.domain.name, stuck.volume.pool);
                Waiting::new(stuck, now)
            });
        }
        for waiting in self.waiting.values_mut() {
            // Without virtnotifyd there is nothing to be done; when it is back an event says so.
            if std::mem::replace(&mut waiting.unserved, !found.serves) != waiting.unserved {
                waiting.held.next = now;
            }
            if waiting.unserved {
                waiting.held.next = waiting.held.next.max(now + self.config.timing.sweep);
            }
        }
        if !found.serves {
            return;
        }
        let mut queue = found.stuck;
        queue.sort_by_key(|stuck| {
            let since = self.waiting.get(&stuck.domain.uuid).map(|waiting| waiting.since);
            (Reverse(stuck.domain.wishes.priority), since)
        });
        for stuck in queue {
            if self.is_full_of_waiting() {
                break;
            }
            if self.may_move(&stuck) {
                self.start(stuck, &found.all);
            }
        }
    }

    async fn resume_here(&mut self, uuid: Uuid, name: String) {
        let now = Instant::now();
        let pause = self.config.timing.resume;
        let recently = self.resumed.get(&uuid).is_some_and(|at| now < *at + pause);
        // One whose move is only being prepared does not wait for the peers' answers.
        let moves = |open: &Open| open.record.uuid == uuid && !open.is_over();
        if recently || self.open.values().any(|open| moves(open) && !may_run_on(&open.record)) {
            return;
        }
        self.resumed.retain(|_, at| now < *at + pause);
        self.resumed.insert(uuid, now);
        let hv = self.tools.hv.clone();
        match spawn_blocking(move || hv.resume(Place::Here, uuid)).await {
            Ok(Ok(())) => {
                info!("'{name}' has space again and runs on");
                self.tools.bus.emit(Event::Resumed { domain: name });
            }
            Ok(Err(error)) => warn!("'{name}' has space again and cannot be resumed: {error}"),
            Err(panic) => error!("resuming '{name}' failed: {panic}"),
        }
    }

    /// Whether another VM leaves the pool for those that wait for its space.
    pub(super) fn is_relieved(&self, pool: &PoolName) -> bool {
        let Some(uuid) = self.relieved.get(pool) else { return false };
        let leaves = |open: &Open| open.record.uuid == *uuid && !open.is_over() && !open.is_stuck();
        self.preparing.has(*uuid) || self.open.values().any(leaves)
    }

    fn may_move(&mut self, stuck: &Stuck) -> bool {
        let now = Instant::now();
        if self.is_moving(stuck.domain.uuid) {
            return false;
        }
        if self.is_relieved(&stuck.volume.pool) {
            let reason = "another VM leaves its pool for it";
            self.waiting.entry(stuck.domain.uuid).and_modify(|w| reason.clone_into(&mut w.reason));
            return false;
        }
        // What failed while it ran is no reason to let it wait: it is paused now.
        let cancelled = self.held.get(&stuck.domain.uuid).filter(|held| held.cancelled);
        let rests = cancelled.map(|held| held.next);
        let rests = rests.filter(|next| now < *next);
        let waits = self.is_to_wait(stuck).then(|| now + self.config.timing.sweep);
        if let Some(next) = rests.or(waits) {
            if let Some(waiting) = self.waiting.get_mut(&stuck.domain.uuid) {
                waiting.held.next = next;
            }
            return false;
        }
        let serve = self.config.timing.serve;
        let Some(waiting) = self.waiting.get_mut(&stuck.domain.uuid) else { return false };
        waiting.room = stuck.room.then(|| waiting.room.unwrap_or(now));
        let next = &mut waiting.held.next;
        if let Some(room) = waiting.room.filter(|room| now < *room + serve) {
            *next = (*next).max(room + serve);
        }
        *next <= now
    }

    /// Whether the pool's policy is that a VM without space waits here.
    fn is_to_wait(&mut self, stuck: &Stuck) -> bool {
        let pool = &stuck.volume.pool;
        let policy = self.tools.storage.policy(pool);
        if policy.is_ok_and(|policy| policy.when_full == WhenFull::Migrate) {
            return false;
        }
        let (name, waiting) = (&stuck.domain.name, self.waiting.get_mut(&stuck.domain.uuid));
        let Some(waiting) = waiting else { return true };
        "the policy of its pool keeps it here".clone_into(&mut waiting.reason);
        if !std::mem::replace(&mut waiting.told, true) {
            warn!("'{name}' stays paused until '{pool}' has space, as the pool's policy says");
        }
        true
    }

    /// Chooses a peer; the move starts when one is found.
    fn start(&mut self, stuck: Stuck, all: &[Domain]) {
        // A VM that waits rather shares a host than waits on.
        let question = Question { keeps_apart: false, ..self.question(stuck.domain.uuid) };
        let own = Attempt { domain: stuck.domain.clone(), question, runs: false };
        let (could_go, bandwidth) = (self.could_go(all), self.bandwidth(None));
        let waits = stuck.clone();
        self.prepare(Why::Stuck(Box::new(stuck)), move |tools| {
            let mut attempts = tools.sooner(&waits, could_go, bandwidth);
            attempts.push(own);
            attempts
        });
    }

    /// Notes why the VM cannot go now, and tells it the first time. The VM is tried again, less and less often.
    pub(super) fn refused(&mut self, stuck: &Stuck, reason: &str) {
        let name = &stuck.domain.name;
        let timing = self.config.timing;
        let Some(waiting) = self.waiting.get_mut(&stuck.domain.uuid) else { return };
        if waiting.held.tries == 0 {
            warn!("'{name}' is paused for want of space and cannot be moved: {reason}");
            self.tools.bus.emit(Event::MoveFailed {
                info: self.tools.no_move(&stuck.domain, &stuck.volume),
                kind: MoveFailure::Refused,
                reason: format!(
                    "{reason}. The VM stays here, paused, and loses nothing; it goes on when \
                     its pool has space, and is tried again"
                ),
            });
        }
        reason.clone_into(&mut waiting.reason);
        waiting.held.failed(timing);
    }

    /// A VM whose volume was refused space pauses at once. Where none did, something else
    /// writes to the volume, or the VM reports the error to its guest: a human should know.
    pub(super) fn check_expected(&mut self, found: &Survey) {
        let now = Instant::now();
        for stuck in &found.stuck {
            self.expected.remove(&(stuck.volume.pool.clone(), stuck.volume.name.clone()));
        }
        let storage = &self.tools.storage;
        self.expected.retain(|(pool, volume), until| {
            let waits =
                storage.volume(pool, volume).is_ok_and(|v| v.state == VolumeState::OutOfSpace);
            if waits && now >= *until {
                warn!(
                    "'{volume}' in '{pool}' wants space, and no VM that has it is paused: a disk \
                     without cache='none' reports an error to its guest instead"
                );
            }
            waits && now < *until
        });
    }
}

/// Whether a VM whose move is open may run here: one that stays, whose copy there never ran, and one that ran on both, while
/// it is active here alone.
fn may_run_on(record: &Record) -> bool {
    match record.phase.at {
        At::Staying => true,
        At::Twice(_) => record.alone,
        _ => false,
    }
}

impl Waiting {
    fn new(stuck: &Stuck, now: Instant) -> Self {
        Self {
            domain: stuck.domain.name.clone(),
            volume: (stuck.volume.pool.clone(), stuck.volume.name.clone()),
            since: now,
            room: None,
            seen: seconds_since_1970(),
            held: Held::until(now),
            reason: String::new(),
            unserved: false,
            told: false,
        }
    }
}
