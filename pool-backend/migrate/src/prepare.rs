// SPDX-License-Identifier: LGPL-2.1-or-later
//! Before a move: which peer, and that it keeps the room. Nothing is changed until
//! [`Tools::reserve`].

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use virtnotify_model::{Bytes, PoolName};

use crate::domain::{Domain, RunState};
use crate::error::{MigrateError, Stays, Unfit};
use crate::hypervisor::{Copying, HvError, Job, Peer, Place, PoolRoom};
use crate::journal::{self, DiskRecord, Record};
use crate::mover::Tools;
use crate::plan::{Plan, plan};
use crate::policy::{Candidate, Margin, Needs, choose, room_after};
use crate::reserve::{self, Reserved};
use crate::wishes::Origin;

/// What a choice is made from, besides the VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Question {
    pub peers: Vec<Peer>,
    /// Peers to leave out.
    pub avoid: BTreeSet<String>,
    /// What moves of this host that are under way take, by peer.
    pub promised: BTreeMap<String, Needs>,
    /// The VMs of those moves: what is kept for them at a peer is in `promised`.
    pub moving: BTreeSet<Uuid>,
    pub margin: Margin,
    /// A VM does not go back within this time.
    pub no_return: Duration,
    /// The groups, each with the name of one of its VMs, that are on their way to a peer.
    pub coming: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether a peer is refused for a VM from which this one keeps apart, and not only less wanted.
    pub keeps_apart: bool,
}

type Rooms = BTreeMap<PoolName, Option<PoolRoom>>;

/// What a peer says.
struct Answer {
    rooms: Rooms,
    /// What is kept there for VMs of other hosts.
    others: Needs,
    copying: Copying,
    /// Whether a VM is there from which this one would rather keep apart.
    together: bool,
}

impl Tools {
    /// Plans the VM's move and chooses its peer.
    pub(crate) fn prepare(
        &self,
        domain: &Domain,
        question: &Question,
    ) -> Result<Record, MigrateError> {
        let plan = self.plan(domain)?;
        let from = self.hv.host(Place::Here)?;
        let candidates = self.candidates(domain, &plan, question);
        let chosen = choose(&question.margin, &candidates)?;
        let (peer, candidate) = (&question.peers[chosen], &candidates[chosen]);
        let disks = plan.copied(candidate.copying.whole, &candidate.chunks());
        let mut record =
            Record::new(domain.uuid, &domain.name, domain.persistent, &from, peer, disks);
        record.autostart = domain.autostart;
        record.boot.clone_from(&self.boot);
        record.bandwidth = plan.bandwidth.map(|bandwidth| bandwidth.0);
        record.copying = candidate.copying;
        record.apart.clone_from(&domain.wishes.apart);
        // Where it was before that as well, or it could come back by way of a third host.
        let lately = |of: &&Origin| of.is_within(self.timing.no_return) && of.host != record.from;
        record.origins = domain.wishes.origins.iter().filter(lately).cloned().collect();
        record.origins.push(Origin::now(&record.from));
        Ok(record)
    }

    /// What goes with the VM, or why it stays.
    pub(crate) fn plan(&self, domain: &Domain) -> Result<Plan, MigrateError> {
        let plan = plan(domain, self.storage.as_ref())?;
        if self.hv.job(domain.uuid)? != Job::None {
            return Err(Stays::Busy.into());
        }
        self.hv.holds(domain)?.let_go()?;
        match self.hv.lacks_certificate().filter(|_| self.wire.tls) {
            None => Ok(plan),
            Some(file) => Err(Stays::NoCertificate(file).into()),
        }
    }

    /// Asks all peers at once: one that does not answer holds up the others no longer than
    /// its own limit.
    pub(crate) fn candidates(
        &self,
        domain: &Domain,
        plan: &Plan,
        question: &Question,
    ) -> Vec<Candidate> {
        thread::scope(|scope| {
            let peers = question.peers.iter();
            let asked: Vec<_> = peers
                .map(|peer| scope.spawn(move || self.candidate(domain, plan, peer, question)))
                .collect();
            let lost = |peer: &Peer| Candidate {
                name: peer.name.clone(),
                copying: Copying::default(),
                needs: Needs::new(),
                rooms: Err(Unfit::Fault),
                promised: Needs::new(),
                together: false,
            };
            let answers = asked.into_iter().zip(&question.peers);
            answers.map(|(answer, peer)| answer.join().unwrap_or_else(|_| lost(peer))).collect()
        })
    }

    fn candidate(
        &self,
        domain: &Domain,
        plan: &Plan,
        peer: &Peer,
        question: &Question,
    ) -> Candidate {
        let mut promised = question.promised.get(&peer.name).cloned().unwrap_or_default();
        let asked = match unfit(domain, peer, question) {
            Some(reason) => Err(reason),
            None => self.rooms(domain, plan, peer, question),
        };
        let copying = asked.as_ref().map_or_else(|_| Copying::default(), |answer| answer.copying);
        let together = asked.as_ref().is_ok_and(|answer| answer.together);
        let rooms = asked.map(|answer| {
            for (pool, bytes) in answer.others {
                let sum = promised.entry(pool).or_default();
                *sum = sum.saturating_add(bytes);
            }
            answer.rooms
        });
        let name = peer.name.clone();
        let mut candidate =
            Candidate { name, copying, needs: Needs::new(), rooms, promised, together };
        let disks = plan.copied(copying.whole, &candidate.chunks());
        candidate.needs = journal::by_pool(&disks, DiskRecord::takes);
        candidate
    }

    /// Whether a peer is this host itself: one configuration for all hosts names each of them.
    fn is_this_host(&self, peer: &Peer) -> Result<bool, HvError> {
        Ok(self.hv.host(Place::At(peer))? == self.hv.host(Place::Here)?)
    }

    /// Asks the peer for its pools, and what is kept in them. A peer that knows the
    /// VM, or has a volume of the same name, is not eligible: libvirt would copy over it.
    fn rooms(
        &self,
        domain: &Domain,
        plan: &Plan,
        peer: &Peer,
        question: &Question,
    ) -> Result<Answer, Unfit> {
        if self.is_this_host(peer)? {
            return Err(Unfit::ThisHost);
        }
        if let Some(there) = self.hv.domain(Place::At(peer), domain.uuid)? {
            self.look_for_two(plan, peer, &there)?;
            return Err(Unfit::SameVm);
        }
        let name = self.hv.host(Place::At(peer))?;
        let mut origins = domain.wishes.origins.iter();
        if origins.any(|of| of.host == name && of.is_within(question.no_return)) {
            return Err(Unfit::CameFromThere(question.no_return));
        }
        self.hv.host_room(peer, domain)?.fit(domain)?;
        let (mut rooms, mut others) = (Rooms::new(), Needs::new());
        let mut arriving = BTreeSet::new();
        for pool in plan.holds().keys() {
            let room = self.hv.pool_room(peer, pool)?;
            if room.is_some_and(|room| room.active) {
                let names = self.hv.volume_names(peer, pool)?;
                refuse_taken(plan, pool, &names)?;
                let reserved = Reserved::read(names.iter().map(String::as_str));
                others.insert(pool.clone(), reserved.for_others(|vm| question.moving.contains(vm)));
                arriving.extend(reserved.vms());
            }
            rooms.insert(pool.clone(), room);
        }
        arriving.remove(&domain.uuid);
        refuse_crowd(peer, arriving.len())?;
        let together = match self.together(domain, peer, question) {
            Ok(Some(unfit)) if question.keeps_apart => return Err(unfit),
            Err(error) if question.keeps_apart => return Err(error.into()),
            // It is only less wanted then: what cannot be seen there is no reason against it.
            seen => seen.is_ok_and(|together| together.is_some()),
        };
        let copying = self.hv.copying(peer)?;
        Ok(Answer { rooms, others, copying, together })
    }

    /// A VM that is active there, or on its way there, from which this one keeps apart.
    fn together(
        &self,
        domain: &Domain,
        peer: &Peer,
        question: &Question,
    ) -> Result<Option<Unfit>, HvError> {
        let groups = &domain.wishes.apart;
        if groups.is_empty() {
            return Ok(None);
        }
        let mut there = question.coming.get(&peer.name).cloned().unwrap_or_default();
        // A VM that is off shares the host with no other; the person who starts it decides where.
        let others = self.hv.domains(Place::At(peer))?.into_iter();
        for other in others.filter(|vm| vm.uuid != domain.uuid && vm.state != RunState::Off) {
            there.extend(other.wishes.apart.into_iter().map(|group| (group, other.name.clone())));
        }
        let found = groups.iter().find_map(|group| there.get_key_value(group));
        Ok(found.map(|(group, vm)| Unfit::Together { vm: vm.clone(), group: group.clone() }))
    }

    /// Has the peer keep the room, and looks whether there still is as much: another host may
    /// have chosen the same peer at the same time.
    pub(crate) fn reserve(&self, record: &mut Record) -> Result<(), MigrateError> {
        let (peer, needs) = (record.peer(), record.needs());
        for (pool, bytes) in &needs {
            let name = reserve::name(record.uuid, *bytes)?;
            record.reserved.insert(pool.to_string(), name.to_string());
        }
        // Written before it is done: what was made is then always known.
        self.journal.write(record)?;
        for (pool, bytes) in &needs {
            let name = reserve::name(record.uuid, *bytes)?;
            let made = self.hv.create_volume(&peer, pool, &name, reserve::CAPACITY);
            made.map_err(|source| MigrateError::RoomNotKept { peer: peer.name.clone(), source })?;
        }
        self.check_reserved(record.uuid, &peer, needs)
    }

    fn check_reserved(&self, uuid: Uuid, peer: &Peer, needs: Needs) -> Result<(), MigrateError> {
        let (mut rooms, mut promised) = (Rooms::new(), Needs::new());
        let mut arriving = BTreeSet::new();
        for pool in needs.keys() {
            let names = self.hv.volume_names(peer, pool)?;
            let reserved = Reserved::read(names.iter().map(String::as_str));
            promised.insert(pool.clone(), reserved.for_others(|vm| *vm == uuid));
            arriving.extend(reserved.vms());
            let room = self.hv.pool_room(peer, pool)?;
            rooms.insert(pool.clone(), room);
        }
        arriving.remove(&uuid);
        let named = |why| MigrateError::Unfit { peer: peer.name.clone(), why };
        refuse_crowd(peer, arriving.len()).map_err(named)?;
        let name = peer.name.clone();
        let copying = Copying::default();
        let candidate =
            Candidate { name, copying, needs, rooms: Ok(rooms), promised, together: false };
        room_after(&Margin::default(), &candidate).map(drop).map_err(named)
    }

    /// Takes back what the peer keeps for this move.
    pub(crate) fn unreserve(&self, record: &Record) -> Result<(), HvError> {
        let peer = record.peer();
        for (pool, volume) in &record.reserved {
            let (Ok(pool), Ok(volume)) = (pool.parse(), volume.parse()) else { continue };
            self.hv.delete_volume(&peer, &pool, &volume)?;
        }
        Ok(())
    }
}

/// Why the peer is not even asked.
fn unfit(domain: &Domain, peer: &Peer, question: &Question) -> Option<Unfit> {
    if question.avoid.contains(&peer.name) {
        return Some(Unfit::LeftOut);
    }
    let only = &domain.wishes.only;
    let elsewhere = !only.is_empty() && !only.contains(&peer.name);
    elsewhere.then_some(Unfit::NotNamed)
}

fn refuse_taken(plan: &Plan, pool: &PoolName, names: &[String]) -> Result<(), Unfit> {
    for disk in &plan.disks {
        let (Ok(of), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
        if of == *pool && names.iter().any(|name| name == volume.as_str()) {
            return Err(Unfit::VolumeThere { volume, pool: of });
        }
    }
    Ok(())
}

fn refuse_crowd(peer: &Peer, arriving: usize) -> Result<(), Unfit> {
    if arriving < peer.arrivals {
        return Ok(());
    }
    Err(Unfit::Crowded { most: peer.arrivals, arriving })
}

/// What a move is expected to copy for this VM: what its disks hold, and its memory.
pub(crate) fn copies(domain: &Domain, plan: &Plan) -> Bytes {
    plan.holds().into_values().sum::<Bytes>().saturating_add(domain.memory)
}
