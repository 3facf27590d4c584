// SPDX-License-Identifier: LGPL-2.1-or-later
//! How the peers are doing: each is asked now and then, so that one that could take no VM is known before a
//! VM has to go there.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use tokio::time::Instant;
use tracing::{info, warn};
use virtnotify_model::{Bytes, Event, PoolName};

use crate::begin::Done;
use crate::error::Unfit;
use crate::hypervisor::{HvError, Peer, Place};
use crate::mover::Tools;
use crate::owner::Mover;
use crate::reserve::Reserved;
use crate::timing::seconds_since_1970;

/// A peer, as it was when it was asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its name.
    pub name: String,
    /// libvirt's URI of it.
    pub uri: String,
    /// When it was asked, in seconds since 1970; `None` before the first time.
    pub checked: Option<u64>,
    /// Why no VM could go there, as the end of a sentence that names it; `None` when all is well.
    pub problem: Option<String>,
    /// How many VMs are on their way there, from all hosts.
    pub arriving: usize,
    /// How many may be at once.
    pub arrivals: usize,
    /// Its pools of the names that this host's have.
    pub pools: Vec<PeerPool>,
}

/// A peer's pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPool {
    /// Its name.
    pub name: PoolName,
    /// Its size.
    pub capacity: Bytes,
    /// What its volumes can still get.
    pub available: Bytes,
    /// What of that is kept for VMs on their way.
    pub reserved: Bytes,
}

impl PeerState {
    /// A peer that was not asked yet.
    pub(crate) fn unknown(peer: &Peer) -> Self {
        Self {
            name: peer.name.clone(),
            uri: peer.uri.clone(),
            checked: None,
            problem: None,
            arriving: 0,
            arrivals: peer.arrivals,
            pools: Vec::new(),
        }
    }
}

impl Mover {
    /// Whether peers are asked when it is time; the end of a question is an event of its own.
    pub(super) fn asks_peers(&self) -> bool {
        !self.asking && !self.config.peers.is_empty()
    }

    /// Asks all peers when it is time.
    pub(super) fn check_peers(&mut self) {
        let now = Instant::now();
        if now < self.next_check || !self.asks_peers() {
            return;
        }
        self.next_check = now + self.config.timing.peers;
        self.asking = true;
        let (tools, peers) = (Arc::clone(&self.tools), self.config.peers.clone());
        let active = self.tools.storage.pools().into_iter().filter(|pool| pool.info.is_some());
        let pools = active.map(|pool| pool.name).collect();
        self.questions.spawn_blocking(move || {
            let asked = AssertUnwindSafe(|| {
                let states = tools.ask_peers(&peers, &pools);
                let homeless = tools.homeless(&states);
                (states, homeless)
            });
            let unknown = |_| (peers.iter().map(PeerState::unknown).collect(), Vec::new());
            let (states, homeless) = catch_unwind(asked).unwrap_or_else(unknown);
            Done::Peers(states, homeless)
        });
    }

    /// Takes in what they said, and tells of each that can take no VM any more, or can again.
    pub(super) fn peers_answered(&mut self, states: Vec<PeerState>) {
        self.asking = false;
        for (before, now) in self.peers.iter().zip(&states) {
            match (&before.problem, &now.problem) {
                (None, Some(reason)) => {
                    warn!("no VM could move to {}: it {reason}", now.name);
                    let (peer, reason) = (now.name.clone(), reason.clone());
                    self.tools.bus.emit(Event::PeerFailed { peer, reason });
                }
                (Some(_), None) => {
                    info!("VMs can move to {} again", now.name);
                    self.tools.bus.emit(Event::PeerReady { peer: now.name.clone() });
                }
                _ => {}
            }
        }
        self.peers = states;
    }
}

impl Tools {
    fn ask_peers(&self, peers: &[Peer], pools: &BTreeSet<PoolName>) -> Vec<PeerState> {
        thread::scope(|scope| {
            let ask = |peer| scope.spawn(move || self.ask_peer(peer, pools));
            let asked: Vec<_> = peers.iter().map(ask).collect();
            let answers = asked.into_iter().zip(peers);
            answers
                .map(|(answer, peer)| answer.join().unwrap_or_else(|_| PeerState::unknown(peer)))
                .collect()
        })
    }

    fn ask_peer(&self, peer: &Peer, pools: &BTreeSet<PoolName>) -> PeerState {
        let mut state = PeerState::unknown(peer);
        let looked = self.look_at(peer, pools, &mut state);
        state.checked = Some(seconds_since_1970());
        let problem = looked.unwrap_or_else(|error| Some(error.into()));
        state.problem = problem.map(|unfit| unfit.to_string());
        state
    }

    /// Fills in what the peer says; answers with the first thing that is in the way of a VM.
    fn look_at(
        &self,
        peer: &Peer,
        pools: &BTreeSet<PoolName>,
        state: &mut PeerState,
    ) -> Result<Option<Unfit>, HvError> {
        self.hv.host(Place::At(peer))?;
        let (mut problem, mut arriving) = (None, BTreeSet::new());
        for name in pools {
            let room = match self.hv.pool_room(peer, name)?.map(|room| room.fit(name)) {
                Some(Ok(room)) => room,
                Some(Err(unfit)) => {
                    problem.get_or_insert(unfit);
                    continue;
                }
                None => {
                    problem.get_or_insert(Unfit::NoPool(name.clone()));
                    continue;
                }
            };
            let names = self.hv.volume_names(peer, name)?;
            let reserved = Reserved::read(names.iter().map(String::as_str));
            arriving.extend(reserved.vms());
            state.pools.push(PeerPool {
                name: name.clone(),
                capacity: room.capacity,
                available: room.available,
                reserved: reserved.for_others(|_| false),
            });
        }
        state.arriving = arriving.len();
        Ok(problem)
    }
}
