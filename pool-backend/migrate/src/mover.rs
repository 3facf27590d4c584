// SPDX-License-Identifier: LGPL-2.1-or-later
//! One move, from the choice of a peer to the journal's last word. Plain blocking code: the
//! owner runs it on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};
use uuid::Uuid;
use virtnotify_model::{Backend, Bytes, Event, EventBus, MoveInfo, PoolName, VolumeInfo};

use crate::domain::Domain;
use crate::hypervisor::{HvError, Hypervisor, Peer, Place, PoolRoom};
use crate::journal::{Journal, JournalError, Record, Stage};
use crate::plan::{Plan, plan};
use crate::policy::{Candidate, Needs, choose};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// What a move works with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub hv: Arc<dyn Hypervisor>,
    pub backend: Arc<dyn Backend>,
    pub bus: EventBus,
    pub journal: Journal,
}

/// How a move, or another look at one, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The VM runs there, and nothing of it is left here.
    Moved,
    /// The VM is still here.
    Stayed {
        /// Why it was not moved.
        reason: String,
        /// Whether nothing of the move is left there.
        tidy: bool,
    },
    /// It is not known yet, or not all is tidied up: to be looked at again. The sentence says
    /// what is in the way.
    Open(String),
    /// A human has to look: nothing more is done.
    Abandoned(String),
}

/// A move that is ready to start.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub record: Record,
    pub needs: Needs,
}

impl Tools {
    pub(crate) fn new(
        hv: Arc<dyn Hypervisor>,
        backend: Arc<dyn Backend>,
        bus: EventBus,
        journal: &Path,
    ) -> Result<Self, JournalError> {
        Ok(Self { hv, backend, bus, journal: Journal::open(journal)? })
    }

    /// Plans the VM's move and chooses its peer. Nothing is changed by it.
    pub(crate) fn prepare(
        &self,
        domain: &Domain,
        peers: &[Peer],
        avoid: &BTreeSet<String>,
        promised: &BTreeMap<String, Needs>,
    ) -> Result<Ready, String> {
        let plan = plan(domain, self.backend.as_ref())?;
        let from = self.hv.host().map_err(|e| e.to_string())?;
        let candidates = self.candidates(domain.uuid, &plan, peers, avoid, promised);
        let chosen = choose(&plan.needs, &candidates).map_err(|e| e.to_string())?;
        let peer = &peers[chosen];
        let record =
            Record::new(domain.uuid, &domain.name, domain.persistent, &from, peer, plan.disks);
        Ok(Ready { record, needs: plan.needs })
    }

    /// Asks all peers at once: one that does not answer holds up the others no longer than
    /// its own limit.
    fn candidates(
        &self,
        uuid: Uuid,
        plan: &Plan,
        peers: &[Peer],
        avoid: &BTreeSet<String>,
        promised: &BTreeMap<String, Needs>,
    ) -> Vec<Candidate> {
        thread::scope(|scope| {
            let asked: Vec<_> = peers
                .iter()
                .map(|peer| {
                    let skip = avoid.contains(&peer.name);
                    scope.spawn(move || match skip {
                        true => Err("is left out after a failed move to it".to_owned()),
                        false => self.rooms(uuid, plan, peer),
                    })
                })
                .collect();
            let rooms = asked.into_iter().map(|answer| answer.join());
            let named = peers.iter().zip(rooms);
            named
                .map(|(peer, rooms)| Candidate {
                    name: peer.name.clone(),
                    rooms: rooms.unwrap_or_else(|_| Err("could not be asked".into())),
                    promised: promised.get(&peer.name).cloned().unwrap_or_default(),
                })
                .collect()
        })
    }

    /// The peer's pools. A peer that knows the VM, or has a volume of the same name, is not
    /// eligible: libvirt would copy over it.
    fn rooms(
        &self,
        uuid: Uuid,
        plan: &Plan,
        peer: &Peer,
    ) -> Result<BTreeMap<PoolName, Option<PoolRoom>>, String> {
        let sentence = |e: HvError| format!("cannot be asked: {e}");
        if self.hv.domain(Place::At(peer), uuid).map_err(sentence)?.is_some() {
            return Err("has a VM of the same UUID already".into());
        }
        let mut rooms = BTreeMap::new();
        for pool in plan.needs.keys() {
            rooms.insert(pool.clone(), self.hv.pool_room(peer, pool).map_err(sentence)?);
        }
        for disk in &plan.disks {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            let active = rooms.get(&pool).copied().flatten().is_some_and(|room| room.active);
            if active && self.hv.volume(peer, &pool, &volume).map_err(sentence)?.is_some() {
                return Err(format!("has a volume '{volume}' in its pool '{pool}' already"));
            }
        }
        Ok(rooms)
    }

    /// Makes the move and settles it.
    pub(crate) fn run(&self, record: &mut Record) -> Outcome {
        let Ok(info) = record.info() else {
            return Outcome::Abandoned("the move has no volumes".into());
        };
        info!("moving '{}' from {} to {}", info.domain, info.from, info.to);
        self.bus.emit(Event::MoveStarted(info.clone()));
        let failure = self.attempt(record, &info).err();
        if let Some(reason) = &failure {
            warn!("the move of '{}' to {} ended: {reason}", info.domain, info.to);
        }
        let outcome = self.settle(record, failure.as_deref());
        self.tell(info, &outcome);
        outcome
    }

    /// Settles a move that was begun before a restart, or is still open.
    pub(crate) fn look_again(&self, record: &mut Record) -> Outcome {
        let Ok(info) = record.info() else {
            return Outcome::Abandoned("the record names no volumes".into());
        };
        let told = record.stage == Stage::Stayed;
        self.watch(record.uuid, &info);
        let outcome = self.settle(record, None);
        if !told {
            self.tell(info, &outcome);
        }
        outcome
    }

    /// What an event says of a VM that finds no place to go.
    pub(crate) fn no_move(&self, domain: &Domain, volume: &VolumeInfo) -> MoveInfo {
        MoveInfo {
            domain: domain.name.clone(),
            uuid: domain.uuid,
            pool: volume.pool.clone(),
            volumes: vec![volume.name.clone()],
            from: self.hv.host().unwrap_or_default(),
            to: String::new(),
            allocation: volume.allocation,
        }
    }

    fn tell(&self, info: MoveInfo, outcome: &Outcome) {
        match outcome {
            Outcome::Moved => {
                info!("'{}' runs on {}, and its volumes here are gone", info.domain, info.to);
                self.bus.emit(Event::MoveFinished(info));
            }
            Outcome::Stayed { reason, .. } | Outcome::Abandoned(reason) => {
                warn!("'{}' was not moved to {}: {reason}", info.domain, info.to);
                self.bus.emit(Event::MoveFailed { info, reason: reason.clone() });
            }
            // Its end is told when it is known.
            Outcome::Open(reason) => info!("the move of '{}' is open: {reason}", info.domain),
        }
    }

    fn attempt(&self, record: &mut Record, info: &MoveInfo) -> Result<(), String> {
        self.journal.write(record).map_err(|e| e.to_string())?;
        self.make_volumes(record)?;
        let targets: Vec<String> = record.disks.iter().map(|d| d.target.clone()).collect();
        let (uuid, peer) = (record.uuid, record.peer());
        thread::scope(|scope| {
            let (over, watched) = mpsc::channel::<()>();
            scope.spawn(move || self.report_until(&watched, uuid, info));
            let result = self.hv.migrate(uuid, &peer, &targets, record.persistent);
            drop(over);
            result
        })
        .map_err(|e| e.to_string())
    }

    /// Makes the volumes at the peer and writes down their keys: so what a failed move leaves
    /// there is known to be its own. libvirt uses volumes that it finds.
    fn make_volumes(&self, record: &mut Record) -> Result<(), String> {
        let peer = record.peer();
        for index in 0..record.disks.len() {
            let disk = &record.disks[index];
            let pool = disk.pool().map_err(|e| e.to_string())?;
            let volume = disk.volume().map_err(|e| e.to_string())?;
            let made = self
                .hv
                .create_volume(&peer, &pool, &volume, disk.capacity())
                .map_err(|e| e.to_string())?;
            record.disks[index].made_there = Some(made.key);
            self.journal.write(record).map_err(|e| e.to_string())?;
            if made.capacity != record.disks[index].capacity() {
                return Err(format!(
                    "{} made the volume '{volume}' with another size, {}",
                    peer.name, made.capacity
                ));
            }
        }
        Ok(())
    }

    fn report_until(&self, over: &mpsc::Receiver<()>, uuid: Uuid, info: &MoveInfo) {
        let mut last = None;
        while over.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
            self.report(uuid, info, &mut last);
        }
    }

    /// Tells how far it is, when that changed. Says whether a migration is under way.
    fn report(&self, uuid: Uuid, info: &MoveInfo, last: &mut Option<(Bytes, Bytes)>) -> bool {
        let Ok(Some(progress)) = self.hv.progress(uuid) else { return false };
        let now = (progress.done, progress.total);
        if last.replace(now) != Some(now) {
            let (done, total) = now;
            self.bus.emit(Event::MoveProgress { info: info.clone(), done, total });
        }
        true
    }

    /// Waits while libvirt goes on with a migration that an earlier process of ours started.
    fn watch(&self, uuid: Uuid, info: &MoveInfo) {
        let mut last = None;
        while self.report(uuid, info, &mut last) {
            thread::sleep(PROGRESS);
        }
    }
}
