// SPDX-License-Identifier: LGPL-2.1-or-later
//! After a move: finds out where the VM is, and tidies up on the other side.
//!
//! The same code runs when libvirt said "done", when it said "failed", and after a restart.
//! It is safe to run at any time and any number of times.
//!
//! | here | there | |
//! |---|---|---|
//! | not active | running | moved: the definition and the volumes here go |
//! | not active | paused | moved: resumed there first, if the end of space had paused it |
//! | active | unknown, or off | stayed: volumes that the move made there go |
//! | anything else | | nothing is touched; looked at again |

use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;
use virtnotify_model::{BackendError, PoolName, VolumeName, VolumeState};

use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Peer, Place};
use crate::journal::{DiskRecord, Record, Stage};
use crate::mover::{Outcome, Tools};
use crate::plan::names_of;

/// How long a volume may stay open after its VM has gone: QEMU closes it as it ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(20);
/// How long a VM that was told to run may take until it does.
const RESUME_LIMIT: Duration = Duration::from_secs(10);
/// libvirt tells neither of both, so it is asked this often.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Tools {
    /// Looks at both sides and does what is safe. `failure` is what libvirt said, if it said so.
    pub(crate) fn settle(&self, record: &mut Record, failure: Option<&str>) -> Outcome {
        let settled = match record.stage {
            Stage::Begun => self.find(record, failure),
            Stage::Stayed => Ok(match self.clear_there(record) {
                Ok(()) => Outcome::Stayed { reason: String::new(), tidy: true },
                Err(reason) => Outcome::Open(reason),
            }),
        };
        settled.unwrap_or_else(|e| Outcome::Open(e.to_string()))
    }

    fn find(&self, record: &mut Record, failure: Option<&str>) -> Result<Outcome, HvError> {
        let peer = record.peer();
        let here = self.hv.domain(Place::Here, record.uuid)?;
        let active_here = here.as_ref().is_some_and(|d| d.state != RunState::Off);
        let there = match self.hv.domain(Place::At(&peer), record.uuid) {
            // The VM is here and the peer's part of it is out of reach: libvirt ends a
            // migration whose other side is gone, so the VM may go elsewhere meanwhile.
            Err(error)
                if error.is_out_of_reach()
                    && active_here
                    && self.hv.progress(record.uuid)?.is_none() =>
            {
                return self.stayed(record, failure, false);
            }
            other => other?,
        };
        match there.as_ref().map(|d| d.state) {
            None | Some(RunState::Off) if active_here => {
                if self.hv.progress(record.uuid)?.is_some() {
                    return Ok(Outcome::Open("libvirt is still at it".into()));
                }
                self.stayed(record, failure, true)
            }
            Some(RunState::Running) if !active_here => self.arrived(record, here.as_ref()),
            Some(RunState::Paused) if !active_here && !self.may_resume(record) => {
                Ok(Outcome::Open(format!(
                    "it is on {}, paused by somebody; its volumes here go when it runs there",
                    peer.name
                )))
            }
            Some(RunState::Paused | RunState::IoError) if !active_here => {
                match self.resume_there(record, &peer)? {
                    None => self.arrived(record, here.as_ref()),
                    Some(reason) => Ok(Outcome::Open(reason)),
                }
            }
            Some(RunState::Off) => Ok(Outcome::Open(format!(
                "it is on {} and is shut down; its volumes here go when it runs there",
                peer.name
            ))),
            Some(_) if active_here => {
                Ok(Outcome::Open(format!("it is active here, and on {} as well", peer.name)))
            }
            Some(_) => Ok(Outcome::Open(format!("it is still arriving on {}", peer.name))),
            None => self.nowhere(record, here.is_some(), failure),
        }
    }

    /// The VM is neither active here nor known there.
    fn nowhere(
        &self,
        record: &mut Record,
        defined_here: bool,
        failure: Option<&str>,
    ) -> Result<Outcome, HvError> {
        if defined_here {
            self.start_after_boot(record)?;
            // libvirt says of it whatever broke first: the monitor, the stream, the peer's end.
            let why = failure.map(|said| format!(": {said}")).unwrap_or_default();
            let reason = format!("it was shut down here meanwhile{why}");
            return self.stayed(record, Some(&reason), true);
        }
        let _ = self.unreserve(record);
        let _ = self.journal.remove(record);
        Ok(Outcome::Abandoned(format!(
            "neither host knows it any more; its volumes on both are left as they are. \
             Those on {} may hold the newest data",
            record.peer().name
        )))
    }

    /// The host was started anew while the VM was on its way, and did not start it for that reason.
    fn start_after_boot(&self, record: &Record) -> Result<(), HvError> {
        if record.autostart && record.boot != self.boot {
            self.hv.start(record.uuid)?;
        }
        Ok(())
    }

    /// A VM that is here starts with this host again, if it did.
    fn restore_autostart(&self, record: &mut Record) -> Result<(), HvError> {
        if record.autostart {
            self.hv.set_autostart(Place::Here, record.uuid, true)?;
            record.autostart = false;
        }
        Ok(())
    }

    /// The VM is here. First that is written down, then the peer's side is cleared.
    fn stayed(
        &self,
        record: &mut Record,
        failure: Option<&str>,
        reachable: bool,
    ) -> Result<Outcome, HvError> {
        if let Err(error) = self.restore_autostart(record) {
            warn!("'{}' does not start with this host for now: {error}", record.domain);
        }
        record.stage = Stage::Stayed;
        let failure = failure.unwrap_or("it was interrupted");
        if let Err(error) = self.journal.write(record) {
            return Ok(Outcome::Open(error.to_string()));
        }
        let tidied = match reachable {
            true => self.clear_there(record),
            false => Err(format!("{} does not answer", record.peer().name)),
        };
        if let Err(reason) = &tidied {
            warn!("what the move of '{}' left there stays for now: {reason}", record.domain);
        }
        Ok(Outcome::Stayed { reason: failure.to_owned(), tidy: tidied.is_ok() })
    }

    /// Deletes the volumes that the move made at the peer, where no VM there has them.
    fn clear_there(&self, record: &mut Record) -> Result<(), String> {
        self.restore_autostart(record).map_err(|e| e.to_string())?;
        let peer = record.peer();
        let users = self.hv.domains(Place::At(&peer)).map_err(|e| e.to_string())?;
        if users.iter().any(|user| user.uuid == record.uuid && user.state != RunState::Off) {
            return Err(format!("{} still has a copy of the VM that is active", peer.name));
        }
        for disk in &record.disks {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            if users.iter().any(|user| uses(user, &pool, &volume)) {
                warn!("the volume '{volume}' stays on {}: a VM there has it", peer.name);
                continue;
            }
            self.delete_there(&peer, disk, &pool, &volume).map_err(|e| e.to_string())?;
        }
        self.unreserve(record).map_err(|e| e.to_string())?;
        self.journal.remove(record).map_err(|e| e.to_string())
    }

    /// A volume of a name that the move was to use is the move's own when its key is the one
    /// written down; or, when we were killed between making it and writing that down, when
    /// nothing was ever written to it.
    fn delete_there(
        &self,
        peer: &Peer,
        disk: &DiskRecord,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<(), HvError> {
        let Some(found) = self.hv.volume(peer, pool, volume)? else { return Ok(()) };
        let own = match &disk.made_there {
            Some(key) => *key == found.key,
            None => found.allocation.0 == 0 && found.capacity == disk.capacity(),
        };
        if !own {
            warn!("the volume '{volume}' on {} is not this move's; it stays", peer.name);
            return Ok(());
        }
        self.hv.delete_volume(peer, pool, volume)
    }

    /// Whether it is the end of space, and not a person, that keeps the VM from running: it had
    /// been paused for that before the move, or was during it.
    fn may_resume(&self, record: &Record) -> bool {
        let out_of_space = |disk: &DiskRecord| {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return false };
            let here = self.backend.volume(&pool, &volume);
            here.is_ok_and(|here| here.state == VolumeState::OutOfSpace)
        };
        !record.ran || record.disks.iter().any(out_of_space)
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

    /// The VM runs there and is not active here: what is left of it here goes.
    fn arrived(&self, record: &Record, here: Option<&Domain>) -> Result<Outcome, HvError> {
        let peer = record.peer();
        let there = self.hv.domain(Place::At(&peer), record.uuid)?;
        let Some(there) = there.filter(|d| d.state == RunState::Running) else {
            return Ok(Outcome::Open(format!("it does not run on {}", peer.name)));
        };
        if !record.disks.iter().all(|disk| has(&there, disk)) {
            let reason = format!("its disks on {} are not those that were copied", peer.name);
            return Ok(Outcome::Open(reason));
        }
        if record.autostart && there.persistent {
            self.hv.set_autostart(Place::At(&peer), record.uuid, true)?;
        }
        if here.is_some() {
            // libvirt was stopped between the end of the move and its last step. Only a VM
            // that is defined there loses its definition here.
            if !there.persistent {
                return Ok(Outcome::Open("it is still defined here, and only here".into()));
            }
            self.hv.undefine(record.uuid)?;
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

fn has(domain: &Domain, disk: &DiskRecord) -> bool {
    let names = disk.pool().and_then(|pool| Ok((pool, disk.volume()?)));
    names.is_ok_and(|(pool, volume)| uses(domain, &pool, &volume))
}

fn uses(domain: &Domain, pool: &PoolName, volume: &VolumeName) -> bool {
    let names = domain.disks.iter().filter_map(|disk| names_of(&disk.source));
    names.into_iter().any(|(p, v)| p == *pool && v == *volume)
}
