// SPDX-License-Identifier: LGPL-2.1-or-later
//! A VM that runs on two hosts at once although no move of ours is under way.

use tracing::error;
use virtnotify_model::{Event, MoveInfo};

use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Peer, Place};
use crate::mover::Tools;
use crate::plan::Plan;

impl Tools {
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
            volumes: plan.disks.iter().filter_map(|disk| disk.names().ok()).collect(),
            from,
            to: peer.name.clone(),
            allocation: plan.disks.iter().map(|disk| disk.allocation()).sum(),
        };
        self.bus.emit(Event::RunsTwice { info, reason });
        Ok(())
    }
}
