// SPDX-License-Identifier: LGPL-2.1-or-later
//! Pools whose policy is to move a VM, while it runs, before they are full.
//!
//! A look at them costs a question to libvirt, so it is taken when a pool says that it is low,
//! while one of them grows, and with each sweep; never more often than `Timing::pressure`.
//! VMs that are paused for want of space go before.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info, warn};
use uuid::Uuid;
use virtnotify_model::{
    AtLowMark, Bytes, Event, LowMark, MoveFailure, MoveInfo, Policy, PoolName, VolumeName,
};

use crate::begin::{Attempt, Why};
use crate::domain::{Domain, RunState};
use crate::error::MigrateError;
use crate::forecast::{Growth, Rates, time_to_move, time_until_full};
use crate::hypervisor::Place;
use crate::journal::Record;
use crate::mover::Tools;
use crate::owner::Mover;
use crate::plan::{names_of, plan};
use crate::policy::Margin;
use crate::prepare::copies;
use crate::relief::{Due, Load, Own, Pressure, due, growth_ahead, order, sooner};
use crate::survey::Stuck;
use crate::timing::Held;

/// With this many VMs the search for one that a peer takes ends, for now.
const TRIES: usize = 8;
/// What another VM must free for one that waits, in chunks: less is used up at once.
const ENOUGH: u64 = 16;

/// What is remembered of pools.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    rates: Rates,
    /// How fast they are written, as seen by the looks at all VMs.
    writes: Rates,
    /// When they were last looked at.
    last: Option<Instant>,
    /// Pools out of which no VM could be moved lately.
    held: BTreeMap<PoolName, Held>,
}

impl Watched {
    /// Takes in what happened to pools and volumes; whether it is about one of our pools that
    /// grew.
    pub(crate) fn take(&mut self, event: &Event, now: Instant) -> Option<PoolName> {
        match event {
            Event::PoolStopped(pool) => {
                self.held.remove(pool);
                self.rates.forget_pool(pool);
                self.writes.forget_pool(pool);
            }
            Event::VolumeDeleted { pool, volume } => {
                self.rates.forget(pool, volume);
                self.writes.forget(pool, volume);
            }
            Event::VolumeGrown { pool, volume, by, allocation, .. } => {
                self.rates.grown(pool, volume, *by, *allocation, now);
                return Some(pool.clone());
            }
            _ => {}
        }
        None
    }

    /// Pools out of which no VM could be moved lately.
    pub(super) fn resting(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }
}

impl Mover {
    /// Whether the pool's growth is a reason to look at it now.
    pub(super) fn is_watched(&self, pool: &PoolName, now: Instant) -> bool {
        let pause = self.config.timing.pressure;
        let rested = self.watched.last.is_none_or(|last| now >= last + pause);
        rested && self.wants_relief(pool).is_some()
    }

    pub(super) fn wants_relief(&self, pool: &PoolName) -> Option<Policy> {
        let policy = self.tools.storage.policy(pool).ok()?;
        (policy.at_low_mark == AtLowMark::Migrate && policy.movable).then_some(policy)
    }

    /// Starts the moves that pools with little room need.
    pub(super) async fn relieve(&mut self) {
        let now = Instant::now();
        self.watched.last = Some(now);
        let pools = self.tools.storage.pools().into_iter().map(|pool| pool.name);
        let pools = pools.filter_map(|pool| Some((self.wants_relief(&pool)?, pool)));
        let mut pressed: Vec<_> =
            pools.filter(|(policy, pool)| self.may_be_pressed(pool, policy)).collect();
        self.held_back.retain(|pool, _| pressed.iter().any(|(_, pressed)| pressed == pool));
        // Also of those that are not looked at now.
        for (policy, pool) in &pressed {
            if self.held_back.contains_key(pool) || self.is_low(pool, policy) {
                self.may_leave_now(pool);
            }
        }
        pressed.retain(|(_, pool)| {
            let rests = self.watched.held.get(pool).is_some_and(|held| now < held.next);
            !rests && !self.preparing.relieves(pool)
        });
        if pressed.is_empty() || self.is_full() {
            return;
        }
        let Some(domains) = self.all_here().await else { return };
        for (policy, pool) in pressed {
            if self.is_full() {
                return;
            }
            if let Some(pressure) = self.pressure(&pool, &policy, &domains) {
                self.relieve_pool(&pool, &pressure, &domains);
            }
        }
    }

    /// All VMs of this host; nothing where libvirt does not say. What their guests write is taken note of.
    pub(super) async fn all_here(&mut self) -> Option<Vec<Domain>> {
        let tools = Arc::clone(&self.tools);
        let look = move || {
            let domains = tools.hv.domains(Place::Here)?;
            let written = tools.written(&domains);
            Ok::<_, MigrateError>((domains, written))
        };
        match spawn_blocking(look).await {
            Ok(Ok((domains, written))) => {
                let now = Instant::now();
                for ((pool, volume), written) in written {
                    self.watched.writes.counted(&pool, &volume, written, now);
                }
                return Some(domains);
            }
            Ok(Err(error)) => self.no_libvirt(&error),
            Err(panic) => error!("the look for VMs that could move failed: {panic}"),
        }
        None
    }

    /// Whether a VM runs, and does not move already.
    pub(super) fn could_leave(&self, domain: &Domain) -> bool {
        domain.state == RunState::Running && !self.is_moving(domain.uuid)
    }

    /// Whether a VM is left alone for now, after a move that failed or was cancelled.
    pub(super) fn rests(&self, uuid: Uuid, now: Instant) -> bool {
        self.held.get(&uuid).is_some_and(|held| now < held.next)
    }

    /// How often a VM that runs could not be moved lately.
    pub(super) fn failures(&self, uuid: Uuid) -> u32 {
        self.held.get(&uuid).map_or(0, |held| held.tries)
    }

    /// Whether the pool is low, or grows at all: libvirt need not be asked about others.
    fn may_be_pressed(&self, pool: &PoolName, policy: &Policy) -> bool {
        self.is_low(pool, policy) || self.watched.rates.of_pool(pool, Instant::now()) >= 1.0
    }

    fn is_low(&self, pool: &PoolName, policy: &Policy) -> bool {
        let Ok(info) = self.tools.storage.pool_info(pool) else { return false };
        info.available.saturating_add(self.leaving(pool)) < policy.low_mark.of(info.capacity)
    }

    /// How the pool is doing. What comes from elsewhere, by a move, an upload or a clone, ends by itself: it says
    /// nothing of when the VMs that run here will have filled the pool.
    fn pressure(&self, pool: &PoolName, policy: &Policy, domains: &[Domain]) -> Option<Pressure> {
        let info = self.tools.storage.pool_info(pool).ok()?;
        let available = info.available.saturating_add(self.leaving(pool));
        let now = Instant::now();
        let run = domains.iter().filter(|domain| domain.state == RunState::Running);
        let disks = run.flat_map(|domain| &domain.disks).filter_map(|disk| names_of(&disk.source));
        let growths = disks.filter(|(of, _)| of == pool).filter_map(|(pool, volume)| {
            let rate = self.watched.rates.of(&pool, &volume, now);
            let info = (rate >= 1.0).then(|| self.tools.storage.volume(&pool, &volume).ok())??;
            Some(Growth { rate, left: info.capacity.saturating_sub(info.allocation) })
        });
        let to_full = time_until_full(available, &growths.collect::<Vec<_>>());
        let mark = policy.low_mark.of(info.capacity);
        Some(Pressure { available, mark, to_full, bandwidth: self.bandwidth(policy.bandwidth) })
    }

    /// The VMs that run and could leave now instead of one that waits, with how fast each grows and how often it failed.
    pub(super) fn could_go(&self, domains: &[Domain]) -> Vec<(Attempt, Pace, u32)> {
        let now = Instant::now();
        let could = domains.iter().filter(|vm| self.could_leave(vm) && !self.rests(vm.uuid, now));
        let attempt = |domain: &Domain| {
            let question = self.question(domain.uuid);
            let attempt = Attempt { domain: domain.clone(), question, runs: true };
            let pace = self.pace(domain, now);
            (attempt, pace, self.failures(domain.uuid))
        };
        could.map(attempt).collect()
    }

    /// What moves copied lately, or what is assumed, and no more than a policy allows.
    pub(super) fn bandwidth(&self, limit: Option<Bytes>) -> Bytes {
        let expected = self.tools.moves.bandwidth().unwrap_or(self.config.bandwidth);
        limit.map_or(expected, |limit| limit.min(expected))
    }

    fn relieve_pool(&mut self, pool: &PoolName, pressure: &Pressure, domains: &[Domain]) {
        let (resting, loads) = self.loads(pool, domains);
        let loads = order(loads);
        let first = loads.first().cloned();
        let reason = match first.as_ref().map(|first| due(pressure, first)) {
            None if pressure.available >= pressure.mark => {
                self.held_back.remove(pool);
                return;
            }
            // Why those could not be moved was told.
            None if resting => return,
            None => "no VM that has a disk in it runs and may be moved",
            Some(None) => {
                self.watched.held.remove(pool);
                self.held_back.remove(pool);
                return;
            }
            Some(Some(_)) if !self.may_leave_now(pool) => return,
            Some(Some(due)) => {
                let relief = Relief { pool: pool.clone(), pressure: *pressure, due };
                let attempts = self.attempts(&relief, domains, &loads);
                return self.prepare(Why::Relief(relief), move |_| attempts);
            }
        };
        self.not_relieved(pool, pressure, reason);
    }

    /// The VMs that could leave the pool now, and whether there are others that could later.
    fn loads(&self, pool: &PoolName, domains: &[Domain]) -> (bool, Vec<Load>) {
        let now = Instant::now();
        let mut resting = false;
        let mut loads = Vec::new();
        for domain in domains.iter().filter(|domain| self.could_leave(domain)) {
            let (pace, failures) = (self.pace(domain, now), self.failures(domain.uuid));
            let Some(load) = self.tools.load(pool, domain, pace, failures) else { continue };
            if self.rests(domain.uuid, now) {
                resting = true;
            } else {
                loads.push(load);
            }
        }
        (resting, loads)
    }

    /// How fast the volumes of a VM grow and are written.
    fn pace(&self, domain: &Domain, now: Instant) -> Pace {
        let of = |rates: &Rates| {
            let disks = domain.disks.iter().filter_map(|disk| names_of(&disk.source));
            disks.map(|(pool, volume)| rates.of(&pool, &volume, now)).sum()
        };
        Pace { grows: of(&self.watched.rates), writes: of(&self.watched.writes) }
    }

    /// How fast the guest of a VM writes, in bytes a second, as far as that is known.
    pub(super) fn writes(&self, domain: &Domain, now: Instant) -> f64 {
        let Pace { grows, writes } = self.pace(domain, now);
        writes.max(grows)
    }

    /// The VMs that could go, each with what a peer is chosen from.
    fn attempts(&self, relief: &Relief, domains: &[Domain], loads: &[Load]) -> Vec<Attempt> {
        let attempt = |load: &Load| {
            let domain = domains.iter().find(|domain| domain.uuid == load.uuid)?.clone();
            let mut question = self.question(load.uuid);
            question.margin = self.margin(&relief.pool, load, relief.pressure.bandwidth);
            Some(Attempt { domain, question, runs: true })
        };
        let mut loads: Vec<_> = loads.iter().collect();
        loads.sort_by_key(|load| self.turned_down.get(&load.uuid));
        loads.into_iter().take(TRIES).filter_map(attempt).collect()
    }

    fn margin(&self, pool: &PoolName, load: &Load, bandwidth: Bytes) -> Margin {
        let mark = self.tools.storage.policy(pool).map_or(LowMark::default(), |p| p.low_mark);
        let marks = BTreeMap::from([(pool.clone(), mark)]);
        Margin { marks, growth: growth_ahead(load, bandwidth) }
    }

    /// Told the first time; then tried again, less and less often.
    pub(super) fn not_relieved(&mut self, pool: &PoolName, pressure: &Pressure, reason: &str) {
        let held = self.watched.held.entry(pool.clone()).or_default();
        if held.tries == 0 {
            let left = pressure.available;
            warn!("'{pool}' has {left} left, and no VM can be moved out of it: {reason}");
            self.tools.bus.emit(Event::MoveFailed {
                info: self.no_vm(pool),
                kind: MoveFailure::Refused,
                reason: format!(
                    "the pool has {left} left, and no VM can be moved out of it: {reason}. \
                     It is tried again; more space, or another peer, is needed"
                ),
            });
        }
        let timing = self.config.timing;
        self.watched.held.entry(pool.clone()).or_default().failed(timing);
    }

    /// A VM leaves the pool: one that fits nowhere is tried again as soon as the first.
    pub(super) fn relieves(&mut self, pool: &PoolName) {
        if let Some(held) = self.watched.held.get_mut(pool) {
            held.begin_again();
        }
    }

    /// A move out of these pools failed: the next VM waits a little. That one waits longer each time,
    /// and they do not wait for it.
    pub(super) fn rest_pools(&mut self, pools: impl Iterator<Item = PoolName>) {
        let next = Instant::now() + self.config.timing.retry;
        for pool in pools {
            let held = self.watched.held.entry(pool).or_default();
            held.next = held.next.max(next);
        }
    }

    fn no_vm(&self, pool: &PoolName) -> MoveInfo {
        MoveInfo {
            domain: String::new(),
            uuid: Uuid::nil(),
            pool: pool.clone(),
            volumes: Vec::new(),
            from: String::new(),
            to: String::new(),
            allocation: Bytes::ZERO,
        }
    }
}

/// How fast the volumes of a VM change, in bytes a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    grows: f64,
    writes: f64,
}

/// A pool out of which a VM has to go.
pub(super) struct Relief {
    pub pool: PoolName,
    pub pressure: Pressure,
    due: Due,
}

impl Relief {
    /// Tells the log which VM goes, and why.
    pub(super) fn log(&self, record: &Record) {
        let (pool, name) = (&self.pool, &record.domain);
        match self.due {
            Due::Low => info!("'{pool}' is below its low mark: '{name}' leaves"),
            Due::Soon(time) => {
                info!("'{pool}' will be full in about {} s: '{name}' leaves", time.as_secs());
            }
        }
    }
}

impl Tools {
    /// What it means to move a VM out of the pool; `None` for one that has to stay.
    fn load(&self, pool: &PoolName, domain: &Domain, pace: Pace, failures: u32) -> Option<Load> {
        let plan = plan(domain, self.storage.as_ref()).ok()?;
        Some(Load {
            uuid: domain.uuid,
            name: domain.name.clone(),
            frees: plan.holds().get(pool).copied()?,
            copies: copies(domain, &plan),
            rate: pace.grows,
            writes: pace.writes,
            failures,
            priority: domain.wishes.priority,
        })
    }

    /// What was written to the volumes of VMs that run, as far as that can be found out.
    fn written(&self, domains: &[Domain]) -> Vec<((PoolName, VolumeName), Bytes)> {
        let run = domains.iter().filter(|domain| domain.state == RunState::Running);
        let disks = run.flat_map(|domain| &domain.disks).filter_map(|disk| names_of(&disk.source));
        let written = |(pool, volume): (PoolName, VolumeName)| {
            let written = self.storage.volume_stats(&pool, &volume).ok()?.written?;
            Some(((pool, volume), written))
        };
        disks.filter_map(written).collect()
    }

    /// Of VMs that run, those whose move would bring one that waits its space sooner than its own move; soonest
    /// first.
    pub(super) fn sooner(
        &self,
        stuck: &Stuck,
        could_go: Vec<(Attempt, Pace, u32)>,
        bandwidth: Bytes,
    ) -> Vec<Attempt> {
        let pool = &stuck.volume.pool;
        let own = plan(&stuck.domain, self.storage.as_ref());
        let (Ok(own), Ok(info)) = (own, self.storage.pool_info(pool)) else { return Vec::new() };
        let bandwidth = own.limit(bandwidth);
        let takes = time_to_move(copies(&stuck.domain, &own), bandwidth, 0.0);
        let own = Own { takes, priority: stuck.domain.wishes.priority };
        let load = |(attempt, pace, failures): &(Attempt, Pace, u32)| {
            self.load(pool, &attempt.domain, *pace, *failures)
        };
        let wanted = Bytes(info.chunk.bytes().0.saturating_mul(ENOUGH));
        let loads = could_go.iter().filter_map(load).collect();
        let order = sooner(loads, own, wanted, bandwidth).into_iter().take(TRIES);
        let mut could_go: BTreeMap<Uuid, Attempt> =
            could_go.into_iter().map(|(attempt, ..)| (attempt.domain.uuid, attempt)).collect();
        order.filter_map(|load| could_go.remove(&load.uuid)).collect()
    }
}
