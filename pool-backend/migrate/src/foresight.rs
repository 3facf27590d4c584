// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which VMs would find no peer with room, while none has to go: looked for each time that the peers were asked, from
//! what they said then. What else a VM needs there is asked when it goes, or for a plan.

use std::collections::BTreeMap;

use tracing::{debug, warn};
use virtnotify_model::{AtLowMark, PoolName, WhenFull};

use crate::domain::{Domain, RunState};
use crate::error::{NoPeer, Unfit};
use crate::hypervisor::{Copying, Place, PoolRoom};
use crate::journal::{self, DiskRecord};
use crate::mover::Tools;
use crate::owner::Mover;
use crate::peers::PeerState;
use crate::plan::{Plan, plan};
use crate::policy::{Candidate, Margin, choose};

/// A VM that no peer could take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Homeless {
    /// Its name.
    pub domain: String,
    /// Why not.
    pub why: NoPeer,
}

impl Mover {
    /// Takes in which VMs would find no peer, and logs those that are new.
    pub(super) fn foreseen(&mut self, homeless: Vec<Homeless>) {
        for vm in &homeless {
            if !self.homeless.iter().any(|before| before.domain == vm.domain) {
                warn!("'{}' could not leave this host if it had to: {}", vm.domain, vm.why);
            }
        }
        self.homeless = homeless;
    }
}

impl Tools {
    /// The VMs for which none of these peers has room, or is ready, though their pools' policies would have them moved.
    pub(crate) fn homeless(&self, peers: &[PeerState]) -> Vec<Homeless> {
        let domains = match self.hv.domains(Place::Here) {
            Ok(domains) => domains,
            Err(error) => {
                debug!("which VMs would find no peer is not known: {error}");
                return Vec::new();
            }
        };
        let active = domains.iter().filter(|domain| domain.state != RunState::Off);
        active.filter_map(|domain| self.without_peer(domain, peers)).collect()
    }

    fn without_peer(&self, domain: &Domain, peers: &[PeerState]) -> Option<Homeless> {
        // One that stays in any case needs none.
        let plan = plan(domain, self.storage.as_ref()).ok()?;
        if !plan.chunks.keys().any(|pool| self.moves_by_itself(pool)) {
            return None;
        }
        let only = &domain.wishes.only;
        let named = peers.iter().filter(|peer| only.is_empty() || only.contains(&peer.name));
        let candidates: Vec<_> = named.map(|peer| candidate(&plan, peer)).collect();
        let why = choose(&Margin::default(), &candidates).err()?;
        Some(Homeless { domain: domain.name.clone(), why })
    }

    fn moves_by_itself(&self, pool: &PoolName) -> bool {
        self.storage.policy(pool).is_ok_and(|policy| {
            policy.when_full == WhenFull::Migrate || policy.at_low_mark == AtLowMark::Migrate
        })
    }
}

/// What a peer's last answer means for the VM.
fn candidate(plan: &Plan, peer: &PeerState) -> Candidate {
    let rooms = peer.pools.iter().map(|pool| {
        let (capacity, available) = (pool.capacity, pool.available);
        let room = PoolRoom {
            notify: true,
            active: true,
            capacity,
            available,
            drained: false,
            chunk: None,
        };
        (pool.name.clone(), Some(room))
    });
    let promised = peer.pools.iter().map(|pool| (pool.name.clone(), pool.reserved)).collect();
    let rooms = match &peer.problem {
        Some(problem) => Err(Unfit::NotReady(problem.clone())),
        None => Ok(rooms.collect()),
    };
    let needs = journal::by_pool(&plan.copied(false, &BTreeMap::new()), DiskRecord::takes);
    let (name, copying) = (peer.name.clone(), Copying::default());
    Candidate { name, copying, needs, rooms, promised, together: false }
}
