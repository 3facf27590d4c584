// SPDX-License-Identifier: LGPL-2.1-or-later
//! One look at both sides of a move: questions only, and no more than its phase needs.

use tracing::warn;
use virtnotify_model::{BackendError, PoolName, VolumeName};

use crate::domain::{Disk, Domain, RunState};
use crate::hypervisor::{HvError, Job, Peer, Place};
use crate::journal::{DiskRecord, Record};
use crate::mover::Tools;
use crate::phase::At;
use crate::plan::{names_of, volume_of};
use crate::step::{Observed, Vm, Work};

impl Tools {
    /// Looks at both sides. What cannot be known is said to be unknown, and why.
    pub(crate) fn observe(&self, record: &Record) -> Observed {
        let mut seen = Observed { booted: record.boot != self.boot, ..Observed::nothing() };
        if let Err(problem) = self.look(record, &mut seen) {
            seen.problem = problem;
        }
        seen
    }

    fn look(&self, record: &Record, seen: &mut Observed) -> Result<(), String> {
        if record.phase.at == At::Abandoned {
            return Ok(());
        }
        let sentence = |error: HvError| error.to_string();
        let here = self.hv.domain(Place::Here, record.uuid).map_err(sentence)?;
        seen.here = vm(here.as_ref());
        seen.ended = here.as_ref().is_some_and(|here| here.ended);
        let settled = matches!(record.phase.at, At::Resuming | At::Arrived | At::Twice(_));
        if seen.here.is_active() && !settled {
            seen.work = work(self.hv.job(record.uuid).map_err(sentence)?);
            if seen.work == Work::Move && record.phase.at != At::Stayed {
                return Ok(());
            }
        }
        let there = match self.hv.domain(Place::At(&record.peer()), record.uuid) {
            Ok(there) => there,
            Err(error) => {
                let silent = error.is_out_of_reach();
                seen.there = if silent { Vm::Unreachable } else { Vm::Unknown };
                return Err(error.to_string());
            }
        };
        if let Some(there) = &there {
            (seen.ended_there, seen.persistent_there) = (there.ended, there.persistent);
        }
        self.look_closer(record, seen, there.as_ref())?;
        seen.there = vm(there.as_ref());
        Ok(())
    }

    /// What the phase has to know besides where the VM is. With an error the VM there is not known either.
    fn look_closer(
        &self,
        record: &Record,
        seen: &mut Observed,
        there: Option<&Domain>,
    ) -> Result<(), String> {
        match (record.phase.at, there) {
            (At::Stayed, Some(copy)) => {
                let own = self.is_own(record, copy).map_err(|e| e.to_string())?;
                seen.own = own;
                seen.left = if own { None } else { self.left_there(record)? };
            }
            (At::Stayed, None) => seen.left = self.left_there(record)?,
            (At::Arrived, Some(there)) => {
                seen.fits = record.disks.iter().all(|disk| has(there, disk));
                if seen.here == Vm::Gone {
                    self.left_here(record, seen)?;
                }
            }
            (_, Some(there)) => seen.strange = self.strange(record, there),
            (_, None) => {}
        }
        Ok(())
    }

    fn strange(&self, record: &Record, there: &Domain) -> Option<String> {
        let copied = |target: &str| record.disks.iter().any(|disk| disk.target == target);
        let ours = |disk: &&Disk| volume_of(disk, self.backend.as_ref()).is_some();
        let strange = there.disks.iter().filter(|disk| !copied(&disk.target)).find(ours)?;
        Some(strange.target.clone())
    }

    /// Whether that VM has the very volumes that the move made.
    fn is_own(&self, record: &Record, copy: &Domain) -> Result<bool, HvError> {
        let peer = record.peer();
        for disk in &record.disks {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return Ok(false) };
            let found = self.hv.volume(&peer, &pool, &volume)?.map(|volume| volume.key);
            if !has(copy, disk) || found.is_none() || found != disk.made_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first disk whose volume there is the move's, and no VM's there.
    fn left_there(&self, record: &Record) -> Result<Option<usize>, String> {
        let peer = record.peer();
        let users = self.hv.domains(Place::At(&peer)).map_err(|e| e.to_string())?;
        for (index, disk) in record.disks.iter().enumerate() {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            if users.iter().any(|user| uses(user, &pool, &volume)) {
                warn!("the volume '{volume}' stays on {}: a VM there has it", peer.name);
            } else if self.is_left(&peer, disk, &pool, &volume).map_err(|e| e.to_string())? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// A volume of a name that the move was to use is the move's own when its key is the one
    /// written down; or, when we were killed between making it and writing that down, when
    /// nothing was ever written to it.
    fn is_left(
        &self,
        peer: &Peer,
        disk: &DiskRecord,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<bool, HvError> {
        let Some(found) = self.hv.volume(peer, pool, volume)? else { return Ok(false) };
        let own = match &disk.made_there {
            Some(key) => *key == found.key,
            None => found.allocation.0 == 0 && found.capacity == disk.capacity(),
        };
        if !own {
            warn!("the volume '{volume}' on {} is not this move's; it stays", peer.name);
        }
        Ok(own)
    }

    /// The first disk whose volume here is still there, and why it cannot go.
    fn left_here(&self, record: &Record, seen: &mut Observed) -> Result<(), String> {
        let others = self.hv.domains(Place::Here).map_err(|e| e.to_string())?;
        for (index, disk) in record.disks.iter().enumerate() {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            if let Some(user) = others.iter().find(|user| uses(user, &pool, &volume)) {
                seen.kept =
                    Some(format!("the VM '{}' here has the volume '{volume}' too", user.name));
                return Ok(());
            }
            match self.backend.volume(&pool, &volume) {
                Err(BackendError::NoVolume { .. }) => {}
                Ok(found) if found.uuid != disk.id => {
                    warn!("the volume '{volume}' is another one by now; it stays");
                }
                Ok(_) => {
                    seen.left = Some(index);
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

fn vm(domain: Option<&Domain>) -> Vm {
    match domain.map(|domain| domain.state) {
        None => Vm::Gone,
        Some(RunState::Off) => Vm::Off,
        Some(RunState::Arriving) => Vm::Arriving,
        Some(RunState::Paused) => Vm::Paused,
        Some(RunState::IoError) => Vm::IoError,
        Some(RunState::Running) => Vm::Running,
    }
}

fn work(job: Job) -> Work {
    match job {
        Job::None => Work::None,
        job if job.is_move() => Work::Move,
        _ => Work::Other,
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
