// SPDX-License-Identifier: LGPL-2.1-or-later
//! Moves that a person asked for. They heed all that the others heed: a VM that may not be moved
//! stays, a peer that is not configured gets nothing, and no more leave at once than may.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::domain::{Domain, RunState};
use crate::hypervisor::{Peer, Place};
use crate::moves::Asked;
use crate::owner::Mover;

impl Mover {
    /// Answers all who asked for a move meanwhile.
    pub(super) async fn serve_asked(&mut self) {
        for asked in self.tools.moves.take_asked() {
            let begun = self.begin(&asked).await;
            asked.answer(begun);
        }
    }

    async fn begin(&mut self, asked: &Asked) -> Result<Uuid, String> {
        let hv = self.tools.hv.clone();
        let domains = spawn_blocking(move || hv.domains(Place::Here)).await;
        let domains = domains.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let found = domains.into_iter().find(|domain| asked.means(domain.uuid, &domain.name));
        let domain = found.ok_or("this host has no such VM")?;
        let ran = runs(&domain)?;
        if self.is_moving(domain.uuid) {
            return Err("it is being moved already".into());
        }
        if self.is_full() {
            let most = self.config.concurrent;
            return Err(format!("no more than {most} may leave this host at once"));
        }
        let mut question = self.question(domain.uuid);
        if let Some(to) = &asked.to {
            question.peers = vec![peer(&self.config.peers, to)?];
            // Who names a peer has looked at why it failed, or knows that the VM came from there.
            // Where an earlier move is still being tidied up, no other begins.
            question.avoid.retain(|peer| self.open.contains_key(&(domain.uuid, peer.clone())));
            question.no_return = Duration::ZERO;
        }
        let (tools, uuid) = (Arc::clone(&self.tools), domain.uuid);
        let record = spawn_blocking(move || tools.prepare(&domain, &question)).await;
        let mut record = record.map_err(|e| e.to_string())??;
        record.ran = ran;
        self.spawn(record);
        Ok(uuid)
    }
}

/// Whether the VM runs; one that waits for space can move as well.
fn runs(domain: &Domain) -> Result<bool, String> {
    match domain.state {
        RunState::Running => Ok(true),
        RunState::IoError if !domain.no_space.is_empty() => Ok(false),
        RunState::IoError => Err("an I/O error paused it, and not the end of space".into()),
        RunState::Off => Err("it does not run".into()),
        RunState::Arriving => Err("it is arriving from another host".into()),
        RunState::Paused => Err("somebody paused it, and it would be resumed there".into()),
    }
}

fn peer(peers: &[Peer], to: &str) -> Result<Peer, String> {
    let found = peers.iter().find(|peer| peer.name == to || peer.uri == to);
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        let to: String = to.chars().take(64).flat_map(char::escape_debug).collect();
        match names.is_empty() {
            true => format!("'{to}' is no configured peer, and there are none"),
            false => format!("'{to}' is no configured peer: there are {}", names.join(", ")),
        }
    })
}
