// SPDX-License-Identifier: LGPL-2.1-or-later
//! A VM that was seen to run on two hosts at once. libvirt cannot do that to a VM that arrives paused, but a
//! person can, who resumes it there or starts it here. Each has data by then that the other has not: the
//! newer one is stopped, all is told, and nothing is deleted.

use tracing::error;
use virtnotify_model::{Event, MoveInfo};

use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Peer, Place};
use crate::journal::{Record, Stage};
use crate::mover::{Outcome, Tools};
use crate::plan::Plan;

impl Tools {
    /// The VM is active here and there, and ran there.
    pub(crate) fn on_both(&self, record: &mut Record, here: RunState) -> Result<Outcome, HvError> {
        // Where it arrived, the one here was started from what the move had left.
        let newer_here = matches!(record.stage, Stage::Resuming | Stage::Arrived);
        let there = self.hv.domain(Place::At(&record.peer()), record.uuid)?;
        if here == RunState::Running && there.is_some_and(|there| runs(&there)) {
            return Ok(self.two(record, newer_here));
        }
        let to = record.peer().name;
        Ok(Outcome::Open(format!("it is active here, and on {to} as well: nothing is deleted")))
    }

    /// Stops the newer one, and tells it as loudly as can be.
    pub(crate) fn two(&self, record: &mut Record, newer_here: bool) -> Outcome {
        let peer = record.peer();
        let (place, host) = match newer_here {
            true => (Place::Here, &record.from),
            false => (Place::At(&peer), &peer.name),
        };
        let stopped = match self.hv.suspend(place, record.uuid) {
            Ok(()) => format!("the CPUs of the newer one, on {host}, were stopped"),
            Err(error) => format!("the newer one, on {host}, cannot be stopped: {error}"),
        };
        let reason = format!(
            "it ran on {} and on {} at once; {stopped}. Each may have data that the other has not: nothing is \
             deleted. End the one that is not wanted (virsh destroy), and let the other run (virsh resume)",
            record.from, peer.name
        );
        (record.stage, record.newer_here) = (Stage::Twice, newer_here);
        if let Err(error) = self.journal.write(record) {
            error!("'{}': {error}", record.domain);
        }
        error!("'{}': {reason}", record.domain);
        if let Ok(info) = record.info() {
            self.bus.emit(Event::RunsTwice { info, reason: reason.clone() });
        }
        Outcome::Open(reason)
    }

    /// Tells of a VM that runs here and, as `there` shows, at a peer, though no move of ours is under way: which is
    /// the newer one is not known, so neither is stopped.
    pub(crate) fn look_for_two(
        &self,
        plan: &Plan,
        peer: &Peer,
        there: &Domain,
    ) -> Result<(), HvError> {
        let here = self.hv.domain(Place::Here, there.uuid)?;
        let both = there.state == RunState::Running
            && here.is_some_and(|here| here.state == RunState::Running);
        let first = plan.disks.first().and_then(|disk| disk.pool().ok());
        let (true, Some(pool)) = (both, first) else { return Ok(()) };
        let from = self.hv.host(Place::Here)?;
        let reason = format!(
            "it runs on {from} and on {} at once, and no move from here did that: end the one that is \
             not wanted (virsh destroy)",
            peer.name
        );
        error!("'{}': {reason}", there.name);
        let info = MoveInfo {
            domain: there.name.clone(),
            uuid: there.uuid,
            pool,
            volumes: plan.disks.iter().filter_map(|disk| disk.volume().ok()).collect(),
            from,
            to: peer.name.clone(),
            allocation: plan.disks.iter().map(|disk| disk.allocation()).sum(),
        };
        self.bus.emit(Event::RunsTwice { info, reason });
        Ok(())
    }

    /// Looks again at a VM that was on both, until a person has ended one of them.
    pub(crate) fn after_two(&self, record: &mut Record) -> Result<Outcome, HvError> {
        let peer = record.peer();
        let here = self.hv.domain(Place::Here, record.uuid)?;
        let there = self.hv.domain(Place::At(&peer), record.uuid)?;
        let active =
            |side: &Option<Domain>| side.as_ref().is_some_and(|d| d.state != RunState::Off);
        match (here, there) {
            (Some(here), Some(there))
                if here.state == RunState::Running && there.state == RunState::Running =>
            {
                Ok(self.two(record, record.newer_here))
            }
            (here, there) if active(&here) && active(&there) => Ok(Outcome::Open(format!(
                "it ran here and on {} at once, and is active on both: end the one that is not wanted",
                peer.name
            ))),
            _ => {
                self.unreserve(record)?;
                let _ = self.journal.remove(record);
                Ok(Outcome::Abandoned(format!(
                    "it ran here and on {} at once, and one of them has ended; its volumes on both are left \
                     as they are",
                    peer.name
                )))
            }
        }
    }
}

/// Whether it runs, or did until it wanted space.
fn runs(domain: &Domain) -> bool {
    matches!(domain.state, RunState::Running | RunState::IoError)
}
