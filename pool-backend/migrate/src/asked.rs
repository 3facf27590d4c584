// SPDX-License-Identifier: LGPL-2.1-or-later
//! What persons ask of VMs. A move that a person asked for heeds all that the others heed: a VM that may
//! not be moved stays, a peer that is not configured gets nothing, and no more leave at once than may.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::begin::{Attempt, Done, Why};
use crate::domain::{Domain, RunState};
use crate::error::{MigrateError, Stays};
use crate::hypervisor::{Hypervisor, Peer, Place};
use crate::moves::{Answer, Asked, What, shown};
use crate::owner::Mover;
use crate::prepare::Question;
use crate::preview::{Preview, Speed};

impl Mover {
    /// Looks for the VMs that persons asked about meanwhile.
    pub(super) fn serve_asked(&mut self) {
        for asked in self.tools.moves.take_asked() {
            // Neither host may know that VM any more.
            if let What::Settle(word) = asked.what.clone() {
                self.take_verdict(asked, word);
                continue;
            }
            let hv = self.tools.hv.clone();
            self.questions.spawn_blocking(move || {
                let found = find(hv.as_ref(), &asked);
                Done::Found(asked, Box::new(found))
            });
        }
    }

    /// Goes on with the VM that was found.
    pub(super) fn found(&mut self, asked: Asked, found: Result<Domain, MigrateError>) {
        let domain = match found {
            Ok(domain) => domain,
            Err(reason) => return asked.answer(Err(reason)),
        };
        let begun = match asked.what.clone() {
            What::Move(to) => self.begin(&domain, to.as_deref()),
            What::Preview(to) => return self.preview(asked, domain, to.as_deref()),
            What::Pin(pinned) => return self.pin(asked, domain, pinned),
            What::Settle(word) => return self.take_verdict(asked, word),
        };
        match begun {
            Ok(attempt) => self.prepare(Why::Asked(asked, domain.uuid), move |_| vec![attempt]),
            Err(reason) => asked.answer(Err(reason)),
        }
    }

    fn begin(&self, domain: &Domain, to: Option<&str>) -> Result<Attempt, MigrateError> {
        let runs = runs(domain)?;
        if self.is_moving(domain.uuid) {
            return Err(Stays::Moves.into());
        }
        let (full, which) = match runs {
            true => (self.is_full(), ""),
            false => (self.is_full_of_waiting(), " of those that wait for space"),
        };
        if full {
            return Err(MigrateError::Full { most: self.config.concurrent, which });
        }
        let question = self.question_to(domain, to)?;
        Ok(Attempt { domain: domain.clone(), question, runs })
    }

    /// What a peer is chosen from, for a move that a person asks for.
    fn question_to(&self, domain: &Domain, to: Option<&str>) -> Result<Question, MigrateError> {
        let mut question = self.question(domain.uuid);
        question.keeps_apart = domain.state == RunState::Running;
        if let Some(to) = to {
            question.peers = vec![peer(&self.config.peers, to)?];
            // Who names a peer has looked at why it failed, or knows that the VM came from there.
            // Where an earlier move is still being tidied up, no other begins.
            question.avoid.retain(|peer| self.open.contains_key(&(domain.uuid, peer.clone())));
            question.no_return = Duration::ZERO;
            question.keeps_apart = false;
        }
        Ok(question)
    }

    fn preview(&mut self, asked: Asked, domain: Domain, to: Option<&str>) {
        let question = match self.question_to(&domain, to) {
            Ok(question) => question,
            Err(reason) => return asked.answer(Err(reason)),
        };
        let stays = match runs(&domain) {
            Err(stays) => Some(stays),
            Ok(_) => self.is_moving(domain.uuid).then_some(Stays::Moves),
        };
        let speed =
            Speed { bandwidth: self.bandwidth(None), writes: self.writes(&domain, Instant::now()) };
        let held_back = self.held_back_for(&domain);
        let tools = Arc::clone(&self.tools);
        self.questions.spawn_blocking(move || {
            let preview = match stays {
                Some(reason) => Preview::stays(&domain, reason),
                None => tools.preview(&domain, &question, speed),
            };
            let ours = tools.is_ours(&domain);
            asked.answer(Ok(Answer::Preview(Preview { ours, held_back, ..preview })));
            Done::Nothing
        });
    }

    fn pin(&mut self, asked: Asked, domain: Domain, pinned: bool) {
        let element = match domain.wishes.pinned(pinned) {
            Ok(element) => element,
            Err(kept) => return asked.answer(Err(Stays::from(kept).into())),
        };
        let hv = self.tools.hv.clone();
        self.questions.spawn_blocking(move || {
            let set = hv.set_wishes(domain.uuid, &element);
            asked.answer(set.map(|()| Answer::Done(domain.uuid)).map_err(MigrateError::from));
            Done::Nothing
        });
    }
}

fn find(hv: &dyn Hypervisor, asked: &Asked) -> Result<Domain, MigrateError> {
    let domains = hv.domains(Place::Here)?;
    let found = domains.into_iter().find(|domain| asked.means(domain.uuid, &domain.name));
    found.ok_or(MigrateError::NoVm)
}

/// Whether the VM runs; one that waits for space can move as well.
pub(crate) fn runs(domain: &Domain) -> Result<bool, Stays> {
    match domain.state {
        RunState::Running => Ok(true),
        RunState::IoError if !domain.no_space.is_empty() => Ok(false),
        RunState::IoError => Err(Stays::IoError),
        RunState::Off => Err(Stays::Off),
        RunState::Arriving => Err(Stays::Arrives),
        RunState::Paused | RunState::Halted => Err(Stays::Paused),
    }
}

fn peer(peers: &[Peer], to: &str) -> Result<Peer, MigrateError> {
    let found = peers.iter().find(|peer| peer.name == to || peer.uri == to);
    found.cloned().ok_or_else(|| {
        let peers = peers.iter().map(|peer| peer.name.clone()).collect();
        MigrateError::NoSuchPeer { named: shown(to), peers }
    })
}
