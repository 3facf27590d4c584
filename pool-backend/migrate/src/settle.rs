// SPDX-License-Identifier: LGPL-2.1-or-later
//! After a move: finds out where the VM is, lets it run there, and tidies up on the other side.
//!
//! The same code runs when libvirt said "done", when it said "failed", and after a restart.
//! It is safe to run at any time and any number of times.
//!
//! | stage | here | there | |
//! |---|---|---|---|
//! | begun | active | unknown, off or paused | stayed: what the move made there goes, a paused VM with it |
//! | begun | not active | paused | resuming: it is resumed there |
//! | begun | ended here, by its guest or a person | paused | stayed |
//! | resuming | not active | running | arrived: the definition and the volumes here go |
//! | any | running | running | twice: the newer one is stopped ([`crate::twice`]) |
//! | any | anything else | | nothing is touched; looked at again |
//!
//! A VM arrives paused. Until the stage `resuming` is written down it never ran there, so that what is
//! here is never the older copy, and there may be any number of those: a reply of libvirt's that was lost costs
//! a copy, and no data. What the peer keeps of a move that stayed goes in [`crate::leftovers`].

use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;
use virtnotify_model::{BackendError, PoolName, VolumeName};

use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Job, Peer, Place};
use crate::journal::{DiskRecord, Record, Stage};
use crate::mover::{Outcome, Tools};
use crate::plan::{names_of, volume_of};

/// How long a volume may stay open after its VM has gone: QEMU closes it as it ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);
/// How long a VM that was told to run may take until it does.
const RESUME_LIMIT: Duration = Duration::from_secs(10);
/// libvirt tells neither of both, so it is asked this often.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Tools {
    /// Looks at both sides and does what is safe.
    pub(crate) fn settle(&self, record: &mut Record) -> Outcome {
        let settled = match record.stage {
            Stage::Begun => self.find(record),
            Stage::Stayed => Ok(self.clear_there(record).unwrap_or_else(Outcome::Open)),
            Stage::Resuming | Stage::Arrived => self.look_there(record),
            Stage::Twice => self.after_two(record),
        };
        settled.unwrap_or_else(|e| Outcome::Open(e.to_string()))
    }

    fn find(&self, record: &mut Record) -> Result<Outcome, HvError> {
        let peer = record.peer();
        let here = self.hv.domain(Place::Here, record.uuid)?;
        let active = here.as_ref().filter(|d| d.state != RunState::Off);
        if active.is_some() && self.hv.job(record.uuid)?.is_move() {
            return Ok(Outcome::Open("libvirt is still at it".into()));
        }
        let there = match self.hv.domain(Place::At(&peer), record.uuid) {
            // libvirt ends a migration whose other side is gone, so the VM may go elsewhere meanwhile. What
            // arrived there all the same is paused.
            Err(error) if error.is_out_of_reach() && active.is_some() => {
                return self.stayed(record, active, false);
            }
            other => other?,
        };
        match active {
            Some(here) => self.find_active(record, here, there.as_ref()),
            None => self.find_gone(record, here, there),
        }
    }

    /// The VM is active here, and libvirt is not at work on it.
    fn find_active(
        &self,
        record: &mut Record,
        here: &Domain,
        there: Option<&Domain>,
    ) -> Result<Outcome, HvError> {
        match there.map(|d| d.state) {
            Some(RunState::Running | RunState::IoError) => self.on_both(record, here.state),
            Some(RunState::Arriving) => Ok(arriving(record)),
            None | Some(RunState::Off | RunState::Paused) => self.stayed(record, Some(here), true),
        }
    }

    /// The VM is not active here.
    fn find_gone(
        &self,
        record: &mut Record,
        here: Option<Domain>,
        there: Option<Domain>,
    ) -> Result<Outcome, HvError> {
        let ended = here.as_ref().is_some_and(|d| d.ended);
        let to = record.peer().name;
        match there.as_ref().map(|d| d.state) {
            None => self.nowhere(record, here.as_ref()),
            Some(RunState::Arriving) => Ok(arriving(record)),
            Some(RunState::Off) => Ok(off(record)),
            Some(RunState::Paused) if ended => self.ended_here(record, here.as_ref()),
            Some(_) if ended => Ok(Outcome::Open(format!(
                "it was shut down here, and is active on {to}: nothing is deleted on either"
            ))),
            Some(RunState::Paused) => {
                self.enter(record, Stage::Resuming);
                self.arrive(record, here.as_ref(), there.as_ref())
            }
            Some(_) => {
                self.enter(record, Stage::Arrived);
                self.arrive(record, here.as_ref(), there.as_ref())
            }
        }
    }

    /// Writes down how far it is. Where that fails the move goes on: no VM waits, paused, for room in our own
    /// directory, and this process knows the stage.
    fn enter(&self, record: &mut Record, stage: Stage) {
        if record.stage == stage {
            return;
        }
        record.stage = stage;
        if let Err(error) = self.journal.write(record) {
            warn!("'{}': {error}", record.domain);
        }
    }

    /// The VM is neither active here nor known there, and was never resumed there.
    fn nowhere(&self, record: &mut Record, here: Option<&Domain>) -> Result<Outcome, HvError> {
        if here.is_some() {
            self.start_after_boot(record)?;
            return self.ended_here(record, here);
        }
        let _ = self.unreserve(record);
        let _ = self.journal.remove(record);
        Ok(Outcome::Abandoned(format!(
            "neither host knows it any more; its volumes on both are left as they are. \
             Those on {} may hold the newest data",
            record.peer().name
        )))
    }

    /// libvirt says of it whatever broke first: the monitor, the stream, the peer's end.
    fn ended_here(&self, record: &mut Record, here: Option<&Domain>) -> Result<Outcome, HvError> {
        let why = record.failure.take().map(|said| format!(": {said}")).unwrap_or_default();
        record.failure = Some(format!("it was shut down here meanwhile{why}"));
        self.stayed(record, here, true)
    }

    /// The host was started anew while the VM was on its way, and did not start it for that reason.
    fn start_after_boot(&self, record: &Record) -> Result<(), HvError> {
        if record.autostart && record.boot != self.boot {
            self.hv.start(record.uuid)?;
        }
        Ok(())
    }

    /// A VM that is here starts with this host again, if it did.
    pub(crate) fn restore_autostart(&self, record: &mut Record) -> Result<(), HvError> {
        if record.autostart {
            self.hv.set_autostart(Place::Here, record.uuid, true)?;
            record.autostart = false;
        }
        Ok(())
    }

    /// libvirt left it paused for the migration, as it does when it is started anew at that moment.
    pub(crate) fn run_on(&self, record: &Record, here: Option<&Domain>) -> Result<(), HvError> {
        let left = here.is_some_and(|d| d.state == RunState::Arriving);
        if left && record.ran && self.hv.job(record.uuid)? == Job::None {
            self.hv.resume(Place::Here, record.uuid)?;
        }
        Ok(())
    }

    /// The VM is here. First that is written down, then it runs on, then the peer's side is cleared.
    fn stayed(
        &self,
        record: &mut Record,
        here: Option<&Domain>,
        reachable: bool,
    ) -> Result<Outcome, HvError> {
        if let Err(error) = self.restore_autostart(record) {
            warn!("'{}' does not start with this host for now: {error}", record.domain);
        }
        record.stage = Stage::Stayed;
        let failure = record.failure.clone().unwrap_or_else(|| "it was interrupted".to_owned());
        if let Err(error) = self.journal.write(record) {
            return Ok(Outcome::Open(error.to_string()));
        }
        if let Err(error) = self.run_on(record, here) {
            warn!("'{}' does not run on for now: {error}", record.domain);
        }
        let cleared = match reachable {
            true => self.clear_there(record),
            false => Err(format!("{} does not answer", record.peer().name)),
        };
        let tidy = match cleared {
            Ok(Outcome::Stayed { .. }) => true,
            Ok(other) => return Ok(other),
            Err(reason) => {
                warn!("what the move of '{}' left there stays for now: {reason}", record.domain);
                false
            }
        };
        Ok(Outcome::Stayed { reason: failure, tidy })
    }

    /// It is resumed there, or was.
    fn look_there(&self, record: &mut Record) -> Result<Outcome, HvError> {
        let here = self.hv.domain(Place::Here, record.uuid)?;
        let there = self.hv.domain(Place::At(&record.peer()), record.uuid)?;
        self.arrive(record, here.as_ref(), there.as_ref())
    }

    fn arrive(
        &self,
        record: &mut Record,
        here: Option<&Domain>,
        there: Option<&Domain>,
    ) -> Result<Outcome, HvError> {
        let peer = record.peer();
        let Some(there) = there else {
            return Ok(Outcome::Open(format!(
                "{0} does not know it any more, where it ran; nothing is deleted on either host, and \
                 the volumes on {0} hold the newest data",
                peer.name
            )));
        };
        if let Some(here) = here.filter(|d| d.state != RunState::Off) {
            return self.on_both(record, here.state);
        }
        match there.state {
            RunState::Off => return Ok(off(record)),
            RunState::Arriving => return Ok(arriving(record)),
            RunState::Paused if record.stage == Stage::Resuming => {
                if let Some(reason) = self.strange_disk(record, there) {
                    return Ok(Outcome::Open(reason));
                }
                if let Some(reason) = self.resume_there(record, &peer)? {
                    return Ok(Outcome::Open(reason));
                }
            }
            // It runs, or ran there and was paused since: what is there is the newest all the same.
            RunState::Running | RunState::IoError | RunState::Paused => {}
        }
        self.enter(record, Stage::Arrived);
        self.arrived(record, there)
    }

    /// A disk of the VM there that is a volume here and was not copied: the volume of that name there is
    /// another's.
    fn strange_disk(&self, record: &Record, there: &Domain) -> Option<String> {
        let copied = |target: &str| record.disks.iter().any(|disk| disk.target == target);
        let ours = |disk: &&crate::domain::Disk| volume_of(disk, self.backend.as_ref()).is_some();
        let strange = there.disks.iter().filter(|disk| !copied(&disk.target)).find(ours)?;
        Some(format!(
            "it is on {}, paused, and its disk {} was not copied there: it is not resumed",
            record.peer().name,
            strange.target
        ))
    }

    /// Lets the VM run where it arrived. `Some` says why it does not run yet.
    fn resume_there(&self, record: &Record, peer: &Peer) -> Result<Option<String>, HvError> {
        let place = Place::At(peer);
        if let Err(error) = self.hv.resume(place, record.uuid) {
            return Ok(Some(format!("it is on {} and does not resume: {error}", peer.name)));
        }
        let end = Instant::now() + RESUME_LIMIT;
        loop {
            let state = self.hv.domain(place, record.uuid)?.map(|d| d.state);
            if state == Some(RunState::Running) {
                return Ok(None);
            }
            if Instant::now() >= end {
                return Ok(Some(format!(
                    "it is on {}, was resumed there and does not run",
                    peer.name
                )));
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    /// The VM runs there, or did, and is not active here: what is left of it here goes.
    fn arrived(&self, record: &mut Record, there: &Domain) -> Result<Outcome, HvError> {
        let peer = record.peer();
        if !record.disks.iter().all(|disk| has(there, disk)) {
            let reason = format!("its disks on {} are not those that were copied", peer.name);
            return Ok(Outcome::Open(reason));
        }
        if record.autostart && there.persistent {
            self.hv.set_autostart(Place::At(&peer), record.uuid, true)?;
        }
        if let Some(here) = self.hv.domain(Place::Here, record.uuid)? {
            if here.state != RunState::Off {
                return self.on_both(record, here.state);
            }
            // libvirt was stopped between the end of the move and its last step. Only a VM
            // that is defined there loses its definition here.
            if !there.persistent {
                return Ok(Outcome::Open("it is still defined here, and only here".into()));
            }
            self.hv.undefine(Place::Here, record.uuid)?;
        }
        let others = self.hv.domains(Place::Here)?;
        for disk in &record.disks {
            if let Some(reason) = self.delete_here(disk, &others) {
                return Ok(Outcome::Open(reason));
            }
        }
        self.unreserve(record)?;
        match self.journal.remove(record) {
            Ok(()) => Ok(Outcome::Moved),
            Err(error) => Ok(Outcome::Open(error.to_string())),
        }
    }

    /// Deletes one volume here. `Some` says why it is still there.
    fn delete_here(&self, disk: &DiskRecord, others: &[Domain]) -> Option<String> {
        let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return None };
        if let Some(user) = others.iter().find(|user| uses(user, &pool, &volume)) {
            return Some(format!("the VM '{}' here has the volume '{volume}' too", user.name));
        }
        let end = Instant::now() + CLOSE_LIMIT;
        loop {
            match self.backend.volume(&pool, &volume) {
                Err(BackendError::NoVolume { .. }) => return None,
                Ok(found) if found.uuid != disk.id => {
                    warn!("the volume '{volume}' is another one by now; it stays");
                    return None;
                }
                Ok(_) => {}
                Err(error) => return Some(error.to_string()),
            }
            match self.backend.delete_volume(&pool, &volume) {
                Ok(()) | Err(BackendError::NoVolume { .. }) => return None,
                Err(BackendError::VolumeInUse(_)) if Instant::now() < end => {
                    thread::sleep(ASK_AGAIN);
                }
                Err(error) => return Some(error.to_string()),
            }
        }
    }
}

fn arriving(record: &Record) -> Outcome {
    Outcome::Open(format!("it is still arriving on {}", record.peer().name))
}

fn off(record: &Record) -> Outcome {
    Outcome::Open(format!(
        "it is on {} and is shut down; its volumes here go when it runs there",
        record.peer().name
    ))
}

pub(crate) fn has(domain: &Domain, disk: &DiskRecord) -> bool {
    let names = disk.pool().and_then(|pool| Ok((pool, disk.volume()?)));
    names.is_ok_and(|(pool, volume)| uses(domain, &pool, &volume))
}

pub(crate) fn uses(domain: &Domain, pool: &PoolName, volume: &VolumeName) -> bool {
    let names = domain.disks.iter().filter_map(|disk| names_of(&disk.source));
    names.into_iter().any(|(p, v)| p == *pool && v == *volume)
}
