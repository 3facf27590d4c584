// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a VM's move would be if it began now: asked, and never done.

use std::time::Duration;

use uuid::Uuid;
use virtnotify_model::{Bytes, StorageError, snapshots_among};

use crate::domain::Domain;
use crate::error::Unfit;
use crate::forecast::time_to_move;
use crate::journal::DiskRecord;
use crate::limits::HeldBack;
use crate::mover::Tools;
use crate::plan::volume_of;
use crate::policy::{choose, room_after};
use crate::prepare::{Question, copies};

/// A move that has not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The VM's name.
    pub domain: String,
    /// The VM's UUID.
    pub uuid: Uuid,
    /// Why it stays, as the end of a sentence that names it; `None` when it can go.
    pub stays: Option<String>,
    /// The peer that it would go to.
    pub to: Option<String>,
    /// Snapshots of its volumes that stay here, as volumes of their own: `POOL/VOLUME@SNAPSHOT`.
    pub leaves: Vec<String>,
    /// What would be copied: what its disks hold, and its memory.
    pub copies: Bytes,
    /// How long that would take, from the rate of the last moves, or from the configured one.
    pub takes: Duration,
    /// All peers that were asked.
    pub peers: Vec<PeerAnswer>,
    /// Whether it has a disk on a volume of ours, as far as that is known.
    pub ours: bool,
    /// Pools of its disks that it does not leave by itself now, while it has space.
    pub held_back: Vec<HeldBack>,
}

/// What a peer means for a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAnswer {
    /// Its name.
    pub name: String,
    /// What stays free there afterwards, in the pool where that is least; or why the VM cannot go there.
    pub fits: Result<Bytes, Unfit>,
}

/// What the time of a copy is reckoned from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed {
    /// Bytes copied in a second.
    pub bandwidth: Bytes,
    /// Bytes that the VM's guest writes in a second.
    pub writes: f64,
}

impl Preview {
    /// A VM that stays.
    pub(crate) fn stays(domain: &Domain, reason: impl ToString) -> Self {
        Self {
            domain: domain.name.clone(),
            uuid: domain.uuid,
            stays: Some(reason.to_string()),
            to: None,
            leaves: Vec::new(),
            copies: Bytes::ZERO,
            takes: Duration::ZERO,
            peers: Vec::new(),
            ours: true,
            held_back: Vec::new(),
        }
    }
}

impl Tools {
    /// Plans the VM's move, and asks all peers.
    pub(crate) fn preview(&self, domain: &Domain, question: &Question, speed: Speed) -> Preview {
        let planned = self.plan(domain).and_then(|plan| Ok((self.leaves(&plan.disks)?, plan)));
        let (leaves, plan) = match planned {
            Ok(planned) => planned,
            Err(reason) => return Preview::stays(domain, reason),
        };
        let candidates = self.candidates(domain, &plan, question);
        let chosen = choose(&question.margin, &candidates);
        let copies = copies(domain, &plan);
        Preview {
            to: chosen.as_ref().ok().map(|index| candidates[*index].name.clone()),
            stays: chosen.err().map(|none| none.to_string()),
            leaves,
            copies,
            takes: time_to_move(copies, plan.limit(speed.bandwidth), speed.writes),
            peers: candidates
                .iter()
                .map(|candidate| PeerAnswer {
                    name: candidate.name.clone(),
                    fits: room_after(&question.margin, candidate),
                })
                .collect(),
            ..Preview::stays(domain, "")
        }
    }

    /// Whether a disk of the VM is on a volume of ours; where that cannot be known it may be.
    pub(crate) fn is_ours(&self, domain: &Domain) -> bool {
        let mut disks = domain.disks.iter().map(|disk| volume_of(disk, self.storage.as_ref()));
        disks.any(|volume| volume.map_or(true, |volume| volume.is_some()))
    }

    /// The snapshots of these disks' volumes: a move carries what a volume shows, and no more.
    pub(crate) fn leaves(&self, disks: &[DiskRecord]) -> Result<Vec<String>, StorageError> {
        let mut leaves = Vec::new();
        for disk in disks {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            let snapshots = snapshots_among(self.storage.volumes(&pool)?, Some(&volume));
            leaves.extend(snapshots.iter().map(|info| format!("{pool}/{}", info.name)));
        }
        Ok(leaves)
    }
}
