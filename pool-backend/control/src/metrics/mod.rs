// SPDX-License-Identifier: LGPL-2.1-or-later
//! Metrics for Prometheus: a file for node_exporter's textfile collector, replaced as a whole.
//!
//! Nothing is asked or written unless an operator names a file. Counters since the start come from
//! events, everything else is asked when the file is written. A daemon that is killed leaves the last
//! file, with `virtnotify_up` in it: whether it is alive is seen by the file's age
//! (`node_textfile_mtime_seconds`).

mod text;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;
use virtnotify_migrate::Moves;
use virtnotify_model::{
    Event, EventBus, MoveFailure, Policy, PoolInfo, PoolName, Storage, VolumeInfo, VolumeName,
    VolumeState,
};

use text::{Families, float};

/// What was counted since this was started.
#[derive(Debug, Clone, Default)]
struct Counted {
    pools: BTreeMap<PoolName, PoolCounts>,
    volumes: BTreeMap<(PoolName, VolumeName), VolumeCounts>,
    moved: u64,
    refused: u64,
    failed: u64,
    twice: u64,
}

#[derive(Debug, Clone, Default)]
struct PoolCounts {
    low: u64,
    exhausted: u64,
    damage: u64,
}

#[derive(Debug, Clone, Default)]
struct VolumeCounts {
    growths: u64,
    grown: u64,
}

/// Writes the metrics.
pub struct Metrics {
    storage: Arc<dyn Storage>,
    moves: Moves,
    events: Receiver<Event>,
    counted: Counted,
}

impl Metrics {
    /// Counts from now on.
    pub fn new(storage: Arc<dyn Storage>, moves: Moves, events: &EventBus) -> Self {
        Self { storage, moves, events: events.subscribe(), counted: Counted::default() }
    }

    /// Writes them to this file, at this interval.
    pub async fn run(mut self, file: PathBuf, pause: Duration) {
        let mut beat = interval(pause);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Ok(event) => self.counted.take(&event),
                    Err(RecvError::Lagged(lost)) => warn!("{lost} events are not in the metrics"),
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                _ = beat.tick() => {
                    let written = self.write(file.clone()).await;
                    if let Err(error) = &written && !failed {
                        warn!("the metrics cannot be written to '{}': {error}", file.display());
                    }
                    failed = written.is_err();
                }
            }
        }
    }

    async fn write(&self, file: PathBuf) -> io::Result<()> {
        let (storage, moves) = (self.storage.clone(), self.moves.clone());
        let counted = self.counted.clone();
        let write = move || {
            let text = render(storage.as_ref(), &moves, &counted).text();
            // node_exporter reads `*.prom` alone, and its directory may be another user's.
            virtnotify_files::replace(&file, &text.map_err(io::Error::other)?, 0o644)
        };
        spawn_blocking(write).await.map_err(io::Error::other)?
    }
}

impl Counted {
    fn take(&mut self, event: &Event) {
        match event {
            Event::PoolStopped(pool) => {
                self.pools.remove(pool);
                self.volumes.retain(|(of, _), _| of != pool);
            }
            Event::VolumeDeleted { pool, volume } => {
                self.volumes.remove(&(pool.clone(), volume.clone()));
            }
            Event::VolumeGrown { pool, volume, by, .. } => {
                let counts = self.volumes.entry((pool.clone(), volume.clone())).or_default();
                counts.growths += 1;
                counts.grown = counts.grown.saturating_add(by.0);
            }
            Event::SpaceLow { pool, .. } => self.pool(pool).low += 1,
            Event::SpaceExhausted { pool, .. } => self.pool(pool).exhausted += 1,
            Event::Damage { pool, .. } => self.pool(pool).damage += 1,
            Event::MoveFinished(_) => self.moved += 1,
            Event::MoveFailed { kind: MoveFailure::Refused, .. } => self.refused += 1,
            // It may still come to a good end. The other one is a person's own doing.
            Event::MoveFailed { kind: MoveFailure::Open | MoveFailure::Settled, .. } => {}
            Event::MoveFailed { .. } => self.failed += 1,
            Event::RunsTwice { .. } => self.twice += 1,
            _ => {}
        }
    }

    fn pool(&mut self, pool: &PoolName) -> &mut PoolCounts {
        self.pools.entry(pool.clone()).or_default()
    }
}

/// All metrics.
fn render(storage: &dyn Storage, moves: &Moves, counted: &Counted) -> Families {
    let mut all = Families::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    all.gauge("virtnotify_up", "virtnotify-control wrote this.", &version, 1.0);
    let runs = f64::from(u8::from(storage.runs()));
    all.gauge(
        "virtnotify_storage_up",
        "1 while virtnotifyd, which serves volumes, runs.",
        &[],
        runs,
    );
    let running = float(moves.list().len() as u64);
    all.gauge("virtnotify_moves_running", "VMs that are leaving this host.", &[], running);
    let results =
        [("moved", counted.moved), ("failed", counted.failed), ("refused", counted.refused)];
    for (result, count) in results {
        let help = "Moves of VMs away from this host that ended, or that no peer could take.";
        all.counter("virtnotify_moves_total", help, &[("result", result)], count);
    }
    moves_now(&mut all, moves);
    let help = "Sights of a VM that ran on two hosts at once.";
    all.counter("virtnotify_vm_ran_twice_total", help, &[], counted.twice);
    for state in storage.pools() {
        let (name, Some(info)) = (&state.name, &state.info) else { continue };
        let (damaged, labels) = (f64::from(u8::from(state.damaged)), [("pool", name.as_str())]);
        let help = "1 while the pool's metadata is damaged or cannot be written.";
        all.gauge("virtnotify_pool_damaged", help, &labels, damaged);
        let counts = counted.pools.get(name).cloned().unwrap_or_default();
        pool(&mut all, name, info, state.policy.as_ref(), &counts);
        for volume in storage.volumes(name).unwrap_or_default() {
            let key = (name.clone(), volume.name.clone());
            let counts = counted.volumes.get(&key).cloned().unwrap_or_default();
            self::volume(&mut all, storage, &volume, &counts);
        }
    }
    all
}

/// Open moves, waiting VMs and peers.
fn moves_now(all: &mut Families, moves: &Moves) {
    let drained = u64::from(moves.is_drained());
    all.gauge(
        "virtnotify_host_drained",
        "1 while this host is being emptied.",
        &[],
        float(drained),
    );
    for of in moves.list() {
        let labels = [("vm", of.info.domain.as_str()), ("to", &of.info.to), ("phase", of.phase)];
        let help = "1 for each move that is not over, with its phase.";
        all.gauge("virtnotify_move_open", help, &labels, 1.0);
        let done = of.progress.map_or(0, |progress| progress.done.0);
        let help = "What of it is copied.";
        all.gauge("virtnotify_move_copied_bytes", help, &labels[..2], float(done));
    }
    let picture = moves.picture();
    for vm in &picture.waiting {
        let labels = [("vm", vm.domain.as_str()), ("pool", vm.pool.as_str())];
        let help = "Since when a VM waits for space, in seconds since 1970.";
        all.gauge("virtnotify_vm_waiting_since_seconds", help, &labels, float(vm.since));
    }
    for vm in &picture.homeless {
        let help = "1 for each VM that no peer could take, if it had to leave.";
        all.gauge("virtnotify_vm_without_peer", help, &[("vm", vm.domain.as_str())], 1.0);
    }
    for peer in &picture.peers {
        let Some(checked) = peer.checked else { continue };
        let labels = [("peer", peer.name.as_str())];
        let ready = f64::from(u8::from(peer.problem.is_none()));
        all.gauge("virtnotify_peer_ready", "1 while VMs can move there.", &labels, ready);
        let help = "When the peer was asked last, in seconds since 1970.";
        all.gauge("virtnotify_peer_checked_seconds", help, &labels, float(checked));
        let help = "VMs on their way there, from all hosts.";
        all.gauge("virtnotify_peer_arriving", help, &labels, float(peer.arriving as u64));
        for pool in &peer.pools {
            let labels = [("peer", peer.name.as_str()), ("pool", pool.name.as_str())];
            let help = "What a pool there can still give.";
            let available = float(pool.available.0);
            all.gauge("virtnotify_peer_pool_available_bytes", help, &labels, available);
            let help = "What of that is kept for VMs on their way.";
            let reserved = float(pool.reserved.0);
            all.gauge("virtnotify_peer_pool_reserved_bytes", help, &labels, reserved);
        }
    }
}

fn pool(
    all: &mut Families,
    name: &PoolName,
    info: &PoolInfo,
    policy: Option<&Policy>,
    counts: &PoolCounts,
) {
    let labels = [("pool", name.as_str())];
    let mark = policy.map_or(0, |policy| policy.low_mark.of(info.capacity).0);
    let limit = policy.and_then(|policy| policy.overcommit);
    let limit = limit.map_or(0, |limit| limit.of(info.obtainable).0);
    for (metric, help, value) in [
        ("virtnotify_pool_size_bytes", "The pool's volume group.", info.capacity.0),
        ("virtnotify_pool_allocated_bytes", "What volumes hold, and metadata.", info.allocation.0),
        ("virtnotify_pool_available_bytes", "What volumes can still get.", info.available.0),
        (
            "virtnotify_pool_headroom_bytes",
            "The part of that which is taken from the group already.",
            info.headroom.0,
        ),
        (
            "virtnotify_pool_low_mark_bytes",
            "With less available the space is low; 0 is never.",
            mark,
        ),
        (
            "virtnotify_pool_promised_bytes",
            "The capacities of its volumes, all together.",
            info.promised.0,
        ),
        (
            "virtnotify_pool_promised_limit_bytes",
            "The most that the policy allows that to be; 0 is no limit.",
            limit,
        ),
    ] {
        all.gauge(metric, help, &labels, float(value));
    }
    for (metric, help, value) in [
        ("virtnotify_pool_space_low_total", "How often the space became low.", counts.low),
        (
            "virtnotify_pool_space_exhausted_total",
            "How often a volume was refused space.",
            counts.exhausted,
        ),
        ("virtnotify_pool_damage_total", "How often a human had to look.", counts.damage),
    ] {
        all.counter(metric, help, &labels, value);
    }
}

fn volume(all: &mut Families, storage: &dyn Storage, info: &VolumeInfo, counts: &VolumeCounts) {
    let labels = [("pool", info.pool.as_str()), ("volume", info.name.as_str())];
    let waits_for_space = u64::from(info.state == VolumeState::OutOfSpace);
    for (metric, help, value) in [
        ("virtnotify_volume_size_bytes", "The volume's size.", info.capacity.0),
        (
            "virtnotify_volume_allocated_bytes",
            "What the volume holds of its pool.",
            info.allocation.0,
        ),
        (
            "virtnotify_volume_exclusive_bytes",
            "The part of that which no other volume or snapshot has.",
            info.exclusive.0,
        ),
        ("virtnotify_volume_out_of_space", "1 while the volume is refused space.", waits_for_space),
    ] {
        all.gauge(metric, help, &labels, float(value));
    }
    let growths = "Growths that were told, several in a moment as one.";
    all.counter("virtnotify_volume_growths_total", growths, &labels, counts.growths);
    let grown = "Bytes that the volume grew by.";
    all.counter("virtnotify_volume_grown_bytes_total", grown, &labels, counts.grown);
    let Ok(stats) = storage.volume_stats(&info.pool, &info.name) else { return };
    let waits = "How long writes waited for space, of those that went on.";
    all.waits("virtnotify_volume_write_wait_seconds", waits, &labels, &stats);
    let refused = "Writes that got no space.";
    for (reason, count) in [("timeout", stats.timed_out), ("no-space", stats.refused)] {
        let labels = [labels[0], labels[1], ("reason", reason)];
        all.counter("virtnotify_volume_writes_refused_total", refused, &labels, count);
    }
}

#[cfg(test)]
mod tests;
