// SPDX-License-Identifier: LGPL-2.1-or-later
//! How a move begins: libvirt and the peers are asked on a thread, and the owner goes on meanwhile. A
//! peer that is silent for as long as a call may take holds up no other VM.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{error, info};
use uuid::Uuid;
use virtnotify_model::PoolName;

use crate::domain::Domain;
use crate::error::MigrateError;
use crate::foresight::Homeless;
use crate::journal::Record;
use crate::mover::Tools;
use crate::moves::{Answer, Asked};
use crate::owner::Mover;
use crate::peers::PeerState;
use crate::prepare::Question;
use crate::pressure::Relief;
use crate::survey::Stuck;

/// What a thread has found out.
pub(super) enum Done {
    /// The VM that a person asked about.
    Found(Asked, Box<Result<Domain, MigrateError>>),
    /// A VM and its peer, or why none of the VMs can go.
    Prepared(Why, Box<Result<Record, Refusals>>),
    /// How the peers are doing, and which VMs none of them could take.
    Peers(Vec<PeerState>, Vec<Homeless>),
    /// An answer that the owner need not act on.
    Nothing,
}

/// Why a move is prepared.
pub(super) enum Why {
    /// A VM waits for space.
    Stuck(Box<Stuck>),
    /// A person asked for the move of that VM.
    Asked(Asked, Uuid),
    /// A pool is low, or will be full soon.
    Relief(Relief),
    /// This host is drained.
    Drain,
}

/// A VM that could go.
pub(super) struct Attempt {
    pub domain: Domain,
    pub question: Question,
    /// Whether it runs; if not, it waits for space.
    pub runs: bool,
}

/// Why a VM cannot go.
pub(super) struct Refused {
    /// The VM.
    pub vm: Domain,
    /// Why.
    pub reason: MigrateError,
}

/// Why none of the VMs can go, in their order; none where that could not be found out.
pub(super) struct Refusals(Vec<Refused>);

/// What is being prepared.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    /// VMs that are to move.
    vms: BTreeSet<Uuid>,
    /// Pools out of which one of several VMs is to move.
    pools: BTreeSet<PoolName>,
    /// Whether one of all VMs is to leave a host that is drained.
    drains: bool,
}

impl Preparing {
    /// Whether the move of that VM is prepared.
    pub(super) fn has(&self, uuid: Uuid) -> bool {
        self.vms.contains(&uuid)
    }

    /// Whether a VM is being chosen that leaves that pool.
    pub(super) fn relieves(&self, pool: &PoolName) -> bool {
        self.pools.contains(pool)
    }

    /// Whether a VM is being chosen that leaves a host that is drained.
    pub(super) fn drains(&self) -> bool {
        self.drains
    }

    /// How many moves are prepared for VMs that wait, or that a person asked for.
    pub(super) fn urgent(&self) -> usize {
        self.vms.len()
    }

    fn begins(&mut self, why: &Why) {
        match why {
            Why::Stuck(stuck) => drop(self.vms.insert(stuck.domain.uuid)),
            Why::Asked(_, uuid) => drop(self.vms.insert(*uuid)),
            Why::Relief(relief) => drop(self.pools.insert(relief.pool.clone())),
            Why::Drain => self.drains = true,
        }
    }

    fn ends(&mut self, why: &Why) {
        match why {
            Why::Stuck(stuck) => drop(self.vms.remove(&stuck.domain.uuid)),
            Why::Asked(_, uuid) => drop(self.vms.remove(uuid)),
            Why::Relief(relief) => drop(self.pools.remove(&relief.pool)),
            Why::Drain => self.drains = false,
        }
    }
}

impl Mover {
    /// Looks for a peer for the first of these VMs that can go; [`Mover::answered`] takes the answer. The VMs are
    /// chosen on the thread as well, since storage is asked about them.
    pub(super) fn prepare(
        &mut self,
        why: Why,
        attempts: impl FnOnce(&Tools) -> Vec<Attempt> + Send + 'static,
    ) {
        self.preparing.begins(&why);
        let tools = Arc::clone(&self.tools);
        self.questions.spawn_blocking(move || {
            let work = AssertUnwindSafe(|| first(&tools, attempts(&tools)));
            let chosen = catch_unwind(work).unwrap_or(Err(Refusals(Vec::new())));
            Done::Prepared(why, Box::new(chosen))
        });
    }

    /// Acts on what was found out.
    pub(super) fn answered(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Found(asked, found)) => self.found(asked, *found),
            Ok(Done::Prepared(why, chosen)) => {
                self.preparing.ends(&why);
                self.prepared(why, *chosen);
            }
            Ok(Done::Peers(states, homeless)) => {
                self.peers_answered(states);
                self.foreseen(homeless);
            }
            Ok(Done::Nothing) => {}
            // Their panics are caught, and nobody cancels them.
            Err(error) => error!("a thread that prepares moves was lost: {error}"),
        }
    }

    /// Another VM leaves the pool for one that waits for its space.
    fn relieve_stuck(&mut self, stuck: &Stuck, record: Record) {
        if self.is_moving(record.uuid) {
            return;
        }
        let (pool, waits) = (&stuck.volume.pool, &stuck.domain.name);
        info!("'{}' leaves '{pool}', which brings '{waits}' its space soonest", record.domain);
        self.relieved.insert(pool.clone(), record.uuid);
        self.spawn(record);
    }

    /// Puts these VMs behind the others for the next time, since not all are tried at once.
    fn turn_down(&mut self, none: &Refusals) {
        let now = Instant::now();
        self.turned_down.extend(none.0.iter().map(|refused| (refused.vm.uuid, now)));
    }

    fn prepared(&mut self, why: Why, chosen: Result<Record, Refusals>) {
        if chosen.is_ok() && !self.tools.storage.runs() {
            // What was chosen by is old.
            if let Why::Asked(asked, _) = why {
                asked.answer(Err(MigrateError::NotServed));
            }
            return;
        }
        match (why, chosen) {
            // It got its space meanwhile.
            (Why::Stuck(stuck), Ok(_)) if !self.waiting.contains_key(&stuck.domain.uuid) => {}
            (Why::Stuck(stuck), Ok(record)) if record.uuid != stuck.domain.uuid => {
                self.relieve_stuck(&stuck, record);
            }
            (Why::Stuck(_), Ok(record)) => self.spawn(record),
            (Why::Stuck(stuck), Err(none)) => self.refused(&stuck, &none.last().to_string()),
            (Why::Asked(asked, uuid), Ok(record)) => {
                self.spawn(record);
                asked.answer(Ok(Answer::Done(uuid)));
            }
            (Why::Asked(asked, _), Err(none)) => asked.answer(Err(none.last())),
            // A VM that waits for space, or that a person wants moved, went before.
            (Why::Relief(_) | Why::Drain, Ok(record))
                if self.is_full() || self.is_moving(record.uuid) => {}
            (Why::Relief(relief), Ok(mut record)) => {
                relief.log(&record);
                self.relieves(&relief.pool);
                record.relieves = Some(relief.pool);
                self.spawn(record);
            }
            (Why::Drain, Ok(_)) if !self.tools.moves.is_drained() => {}
            (Why::Drain, Ok(record)) => {
                info!("this host is drained: '{}' leaves", record.domain);
                self.drain_held.begin_again();
                self.spawn(record);
            }
            (Why::Drain, Err(none)) => {
                self.turn_down(&none);
                self.not_drained(none.0.first());
            }
            (Why::Relief(relief), Err(none)) => {
                self.turn_down(&none);
                self.not_relieved(&relief.pool, &relief.pressure, &none.first());
            }
        }
    }
}

impl Refusals {
    /// The first VM, and its reason.
    fn first(&self) -> String {
        let named = |first: &Refused| format!("'{}': {}", first.vm.name, first.reason);
        self.0.first().map_or_else(|| MigrateError::Fault.to_string(), named)
    }

    /// The reason of the last VM.
    fn last(mut self) -> MigrateError {
        self.0.pop().map_or(MigrateError::Fault, |last| last.reason)
    }
}

/// The first VM that has a peer, or why none has one.
fn first(tools: &Tools, attempts: Vec<Attempt>) -> Result<Record, Refusals> {
    let mut refusals = Vec::new();
    for Attempt { domain, question, runs } in attempts {
        match tools.prepare(&domain, &question) {
            Ok(mut record) => {
                record.ran = runs;
                return Ok(record);
            }
            Err(reason) => refusals.push(Refused { vm: domain, reason }),
        }
    }
    Err(Refusals(refusals))
}
