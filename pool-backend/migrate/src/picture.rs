// SPDX-License-Identifier: LGPL-2.1-or-later
//! What others see of the moves: VMs that wait, moves that are open, the peers, and pools that no VM leaves for now.

use uuid::Uuid;
use virtnotify_model::{MoveInfo, PoolName, VolumeName};

use crate::foresight::Homeless;
use crate::limits::HeldBack;
use crate::owner::Mover;
use crate::peers::PeerState;

/// All of it, as the owner of the moves saw it last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// VMs that are paused for want of space.
    pub waiting: Vec<WaitingVm>,
    /// Moves at which nothing works at the moment, and which are not over.
    pub open: Vec<OpenMove>,
    /// The peers, as they are configured.
    pub peers: Vec<PeerState>,
    /// VMs that run here and that no peer could take, if they had to go.
    pub homeless: Vec<Homeless>,
    /// Pools that are low, or soon full, and that no VM leaves for now, as their policies say.
    pub held_back: Vec<HeldBack>,
}

/// A VM that is paused for want of space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingVm {
    /// Its name.
    pub domain: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The pool that has no space.
    pub pool: PoolName,
    /// Its volume that asked.
    pub volume: VolumeName,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Why it was not moved, as the end of a sentence that names it; empty where that was not tried, or goes on.
    pub reason: String,
}

/// A move that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenMove {
    /// Which move.
    pub info: MoveInfo,
    /// How far it is, in a word: see [`crate::UnderWay::phase`].
    pub phase: &'static str,
    /// What is in the way, as a sentence without its end.
    pub reason: String,
}

impl Mover {
    /// Shows others how it is now.
    pub(super) fn publish(&self) {
        let waiting = self.waiting.iter().map(|(uuid, of)| WaitingVm {
            domain: of.domain.clone(),
            uuid: *uuid,
            pool: of.volume.0.clone(),
            volume: of.volume.1.clone(),
            since: of.seen,
            reason: of.why(),
        });
        let open = self.open.values().filter(|open| !open.busy || open.was_looked_at());
        let open = open.filter_map(|open| {
            Some(OpenMove {
                info: open.record.info().ok()?,
                phase: open.record.phase.at.word(),
                reason: open.reason.clone(),
            })
        });
        let (waiting, open) = (waiting.collect(), open.collect());
        let (peers, homeless) = (self.peers.clone(), self.homeless.clone());
        let held_back = self.held_back.values().cloned().collect();
        self.tools.moves.publish(Picture { waiting, open, peers, homeless, held_back });
    }
}
