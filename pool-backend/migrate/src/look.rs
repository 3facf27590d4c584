// SPDX-License-Identifier: LGPL-2.1-or-later
//! One look at both sides of a move: questions only, and no more than its phase needs.

use tracing::warn;
use virtnotify_model::StorageError;

use crate::domain::{Domain, RunState};
use crate::error::MigrateError;
use crate::hypervisor::{HvError, Job, Peer, Place, RemoteVolume};
use crate::journal::{DiskRecord, Record};
use crate::mover::Tools;
use crate::observed::{Observed, Vm, Work};
use crate::phase::At;
use crate::plan::{names_of, volume_of};

impl Tools {
    /// Looks at both sides. What cannot be known is said to be unknown, and why.
    pub(crate) fn observe(&self, record: &Record) -> Observed {
        let booted = !is_same(&record.boot, &self.boot);
        let mut seen = Observed { booted, ..Observed::nothing() };
        if let Err(problem) = self.look(record, &mut seen) {
            seen.problem = problem.to_string();
        }
        seen
    }

    /// Looks at both sides whatever the phase, for a person who says which one counts.
    pub(crate) fn observe_both(&self, record: &Record) -> Observed {
        let mut seen = Observed::nothing();
        let mut look = || {
            self.find_here(record, &mut seen)?;
            if seen.here.is_active() {
                seen.work = work(self.hv.job(record.uuid)?);
            }
            self.find_there(record, &mut seen).map(drop)
        };
        if let Err(problem) = look() {
            seen.problem = problem.to_string();
        }
        seen
    }

    fn look(&self, record: &Record, seen: &mut Observed) -> Result<(), MigrateError> {
        if record.phase.at == At::Abandoned {
            // Whether it can be had start with this host.
            let starts = record.is_kept_here() && record.autostart;
            if starts {
                self.find_here(record, seen)?;
            }
            return Ok(());
        }
        if record.phase.at == At::Arrived {
            return self.look_for_rest(record, seen);
        }
        self.look_here(record, seen)?;
        match (record.phase.at, seen.work) {
            (At::Stayed, _) => self.look_for_copy(record, seen),
            (_, Work::Move) => Ok(()),
            _ => {
                let there = self.find_there(record, seen)?;
                let Some(there) = there else { return Ok(()) };
                // As long as it cannot be known it may be strange.
                let strange = self.strange(record, &there);
                seen.strange = strange.inspect_err(|_| seen.there = Vm::Unknown)?;
                Ok(())
            }
        }
    }

    fn look_here(&self, record: &Record, seen: &mut Observed) -> Result<(), HvError> {
        self.find_here(record, seen)?;
        let settled = matches!(record.phase.at, At::Resuming | At::Twice(_));
        if !seen.here.is_active() || settled {
            return Ok(());
        }
        seen.work = work(self.hv.job(record.uuid)?);
        // It may have ended between both questions, and the VM with it.
        if seen.work != Work::Move { self.find_here(record, seen) } else { Ok(()) }
    }

    fn find_here(&self, record: &Record, seen: &mut Observed) -> Result<(), HvError> {
        seen.here = Vm::Unknown;
        seen_here(seen, self.hv.domain(Place::Here, record.uuid)?.as_ref());
        Ok(())
    }

    fn find_there(
        &self,
        record: &Record,
        seen: &mut Observed,
    ) -> Result<Option<Domain>, MigrateError> {
        let there = self.there(seen, self.hv.domain(Place::At(&record.peer()), record.uuid))?;
        seen_there(seen, there.as_ref());
        Ok(there)
    }

    /// The peer's answer; where there is none, that.
    fn there<T>(&self, seen: &mut Observed, answer: Result<T, HvError>) -> Result<T, HvError> {
        answer.inspect_err(|error| {
            let silent = error.is_out_of_reach();
            seen.there = if silent { Vm::Unreachable } else { Vm::Unknown };
        })
    }

    /// What a move that stayed has left there. How the VM there is comes last: what goes, goes right after that.
    fn look_for_copy(&self, record: &Record, seen: &mut Observed) -> Result<(), MigrateError> {
        let peer = record.peer();
        let volumes = self.there(seen, self.volumes_there(record, &peer))?;
        let users = self.there(seen, self.hv.domains(Place::At(&peer)))?;
        let copy = users.iter().find(|user| user.uuid == record.uuid);
        seen_there(seen, copy);
        let made = |(disk, found): (&DiskRecord, &Option<RemoteVolume>)| {
            found.is_some() && found.as_ref().map(|volume| &volume.key) == disk.made_there.as_ref()
        };
        let all_made = record.disks.iter().zip(&volumes).all(made);
        seen.own =
            all_made && copy.is_some_and(|copy| record.disks.iter().all(|disk| has(copy, disk)));
        let disks = record.disks.iter().zip(&volumes);
        seen.left = disks.clone().position(|(disk, found)| {
            let used = users.iter().any(|user| has(user, disk));
            found.as_ref().is_some_and(|found| !used && is_left(disk, found, &peer))
        });
        Ok(())
    }

    /// The volumes there with the names of the disks'.
    fn volumes_there(
        &self,
        record: &Record,
        peer: &Peer,
    ) -> Result<Vec<Option<RemoteVolume>>, HvError> {
        let find = |disk: &DiskRecord| match (disk.pool(), disk.volume()) {
            (Ok(pool), Ok(volume)) => self.hv.volume(peer, &pool, &volume),
            _ => Ok(None),
        };
        record.disks.iter().map(find).collect()
    }

    /// What is left here of a VM that arrived. How this side is comes last: what goes, goes right after that.
    fn look_for_rest(&self, record: &Record, seen: &mut Observed) -> Result<(), MigrateError> {
        let there = self.find_there(record, seen)?;
        seen.fits = there.is_some_and(|there| record.disks.iter().all(|disk| has(&there, disk)));
        let left = self.left_here(record)?;
        let all = self.hv.domains(Place::Here)?;
        let (ours, others): (Vec<_>, Vec<_>) =
            all.iter().partition(|domain| domain.uuid == record.uuid);
        seen_here(seen, ours.first().copied());
        seen.kept = left.and_then(|index| {
            let disk = &record.disks[index];
            let user = others.iter().find(|user| has(user, disk))?;
            let volume = disk.volume().ok()?;
            Some(format!("the VM '{}' here has the volume '{volume}' too", user.name))
        });
        seen.left = left;
        Ok(())
    }

    fn strange(&self, record: &Record, there: &Domain) -> Result<Option<String>, StorageError> {
        let copied = |target: &str| record.disks.iter().any(|disk| disk.target == target);
        for disk in there.disks.iter().filter(|disk| !copied(&disk.target)) {
            if volume_of(disk, self.storage.as_ref())?.is_some() {
                return Ok(Some(disk.target.clone()));
            }
        }
        Ok(None)
    }

    /// The first disk whose volume here is still there.
    fn left_here(&self, record: &Record) -> Result<Option<usize>, StorageError> {
        for (index, disk) in record.disks.iter().enumerate() {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            match self.storage.volume(&pool, &volume) {
                Err(StorageError::NoVolume(_)) => {}
                Ok(found) if found.uuid != disk.id => {
                    warn!("the volume '{volume}' is another one by now; it stays");
                }
                Ok(_) => return Ok(Some(index)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// A volume of a name that the move was to use is the move's own when its key is the one
/// written down; or, when we were killed between making it and writing that down, when
/// nothing was ever written to it.
fn is_left(disk: &DiskRecord, found: &RemoteVolume, peer: &Peer) -> bool {
    let own = match &disk.made_there {
        Some(key) => *key == found.key,
        None => found.allocation.0 == 0 && found.capacity == disk.capacity(),
    };
    if !own {
        warn!("the volume of {} on {} is not this move's; it stays", disk.target, peer.name);
    }
    own
}

fn seen_here(seen: &mut Observed, here: Option<&Domain>) {
    seen.here = vm(here);
    seen.ended = here.is_some_and(|here| here.ended);
    seen.forgotten = here.is_some_and(|here| here.forgotten);
}

fn seen_there(seen: &mut Observed, there: Option<&Domain>) {
    seen.there = vm(there);
    seen.ended_there = there.is_some_and(|there| there.ended);
    seen.persistent_there = there.is_some_and(|there| there.persistent);
}

fn vm(domain: Option<&Domain>) -> Vm {
    match domain.map(|domain| domain.state) {
        None => Vm::Gone,
        Some(RunState::Off) => Vm::Off,
        Some(RunState::Arriving) => Vm::Arriving,
        Some(RunState::Paused) => Vm::Paused,
        Some(RunState::IoError | RunState::Halted) => Vm::Halted,
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
    let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return false };
    let names = domain.disks.iter().filter_map(|disk| names_of(&disk.source));
    names.into_iter().any(|(p, v)| p == pool && v == volume)
}

/// Whether both name one boot: two that are not known need not be the same.
fn is_same(boot: &str, other: &str) -> bool {
    !boot.is_empty() && boot == other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_that_are_not_known_are_not_the_same() {
        assert!(is_same("a", "a"));
        assert!(!is_same("a", "b") && !is_same("", "a") && !is_same("", ""));
    }
}
