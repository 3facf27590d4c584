// SPDX-License-Identifier: LGPL-2.1-or-later
//! Does what [`crate::step`] decided, and nothing else. Each action may have been done before.

use tracing::{error, info, warn};
use virtnotify_model::{Event, MoveFailure, StorageError};

use crate::error::MigrateError;
use crate::hypervisor::Place;
use crate::journal::{DiskRecord, JournalError, Record};
use crate::mover::Tools;
use crate::phase::{At, Side};
use crate::step::Action;

/// How an action went.
pub(crate) enum Done {
    /// What comes next is seen by looking.
    Look,
    /// It is not possible yet, for that reason.
    NotYet(String),
    /// The record is gone.
    Over,
}

impl Tools {
    /// Does it. After an error the move is looked at again later.
    pub(crate) fn act(&self, record: &mut Record, action: Action) -> Result<Done, MigrateError> {
        let (uuid, peer) = (record.uuid, record.peer());
        let (here, there) = (Place::Here, Place::At(&peer));
        let (to, name) = (&peer.name, record.domain.clone());
        let done = match action {
            Action::ResumeHere => self.hv.resume(here, uuid),
            Action::StartHere => self.hv.start(uuid),
            Action::AutostartHere => return self.start_with(record, here),
            Action::AutostartThere => return self.start_with(record, there),
            Action::ResumeThere => {
                self.hv.resume(there, uuid).map_err(|source| {
                    let peer = to.clone();
                    MigrateError::NotResumed { peer, source }
                })?;
                let why = format!("it is on {to}, was resumed there and does not run");
                return Ok(Done::NotYet(why));
            }
            Action::Stop(newer) => return self.stop(record, newer),
            Action::UndefineThere => {
                info!("the copy of '{name}' that came to {to} goes: it never ran there");
                self.hv.undefine(there, uuid)
            }
            Action::DestroyThere => self.hv.destroy(there, uuid),
            Action::UndefineHere => self.hv.undefine(here, uuid),
            Action::DeleteThere(disk) => return self.delete_there(record, &record.disks[disk]),
            Action::DeleteHere(disk) => return self.delete_here(&record.disks[disk]),
            Action::Unreserve => {
                let gone = self.unreserve(record);
                // A person said that the move is over, also where that host is gone for good.
                let gone = gone.or_else(|error| match record.verdict {
                    Some(_) => {
                        let names: Vec<_> = record.reserved.values().cloned().collect();
                        warn!("'{name}': {error}: {} stays there", names.join(" and "));
                        Ok(())
                    }
                    None => Err(error),
                });
                gone.map(|()| record.reserved.clear())
            }
            Action::Forget => return self.forget(record),
        };
        Ok(done.map(|()| Done::Look)?)
    }

    /// Once it is done it is not owed any more: what a person chooses from then on holds.
    fn start_with(&self, record: &mut Record, place: Place<'_>) -> Result<Done, MigrateError> {
        self.hv.set_autostart(place, record.uuid, true)?;
        record.autostart = false;
        self.note(record);
        Ok(Done::Look)
    }

    /// Stops the newer one of two, and tells it as loudly as can be.
    fn stop(&self, record: &Record, newer: Side) -> Result<Done, MigrateError> {
        let peer = record.peer();
        let (place, host) = match newer {
            Side::Here => (Place::Here, &record.from),
            Side::There => (Place::At(&peer), &peer.name),
        };
        // One that was stopped looks like a copy that never ran, unless it is written down.
        let written = self.journal.write(record).map_err(MigrateError::from);
        let stopped = written.and_then(|()| Ok(self.hv.suspend(place, record.uuid)?));
        let how = match &stopped {
            Ok(()) => format!("the CPUs of the newer one, on {host}, were stopped"),
            Err(error) => format!("the newer one, on {host}, cannot be stopped: {error}"),
        };
        let reason = format!(
            "it ran on {} and on {} at once; {how}. Each may have data that the other has not: nothing is \
             deleted. End the one that is not wanted (virsh destroy), and let the other run (virsh resume)",
            record.from, peer.name
        );
        error!("'{}': {reason}", record.domain);
        if let Ok(info) = record.info() {
            self.bus.emit(Event::RunsTwice { info, reason: reason.clone() });
        }
        if stopped.is_ok() { Ok(Done::Look) } else { Err(MigrateError::Open(reason)) }
    }

    fn delete_there(&self, record: &Record, disk: &DiskRecord) -> Result<Done, MigrateError> {
        let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return Ok(Done::Look) };
        self.hv.delete_volume(&record.peer(), &pool, &volume)?;
        Ok(Done::Look)
    }

    /// QEMU closes a volume as it ends.
    fn delete_here(&self, disk: &DiskRecord) -> Result<Done, MigrateError> {
        let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return Ok(Done::Look) };
        match self.storage.delete_volume(&pool, &volume, &disk.id) {
            Ok(()) | Err(StorageError::NoVolume(_)) => Ok(Done::Look),
            Err(error @ StorageError::InUse(_)) => Ok(Done::NotYet(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// First told, then forgotten: of one that is killed in between the end is told twice, and never not at all.
    fn forget(&self, record: &mut Record) -> Result<Done, MigrateError> {
        self.tell_end(record);
        self.journal.remove(record)?;
        Ok(Done::Over)
    }

    /// Tells how the move ended, once.
    pub(crate) fn tell_end(&self, record: &mut Record) {
        let Ok(info) = record.info() else { return };
        let reason = record.phase.reason.clone();
        match record.phase.at {
            _ if record.phase.told => return,
            At::Arrived => {
                info!("'{}' runs on {}, and its volumes here are gone", info.domain, info.to);
                self.bus.emit(Event::MoveFinished(info));
            }
            At::Abandoned if record.verdict.is_some() => {
                warn!("'{}': {reason}", info.domain);
                let kind = MoveFailure::Settled;
                self.bus.emit(Event::MoveFailed { info, kind, reason });
            }
            At::Stayed | At::Abandoned => {
                warn!("'{}' was not moved to {}: {reason}", info.domain, info.to);
                let kind = match record.phase.at {
                    At::Stayed => MoveFailure::Stayed,
                    _ => MoveFailure::Abandoned,
                };
                self.bus.emit(Event::MoveFailed { info, kind, reason });
            }
            _ => return,
        }
        record.phase.told = true;
    }

    /// Goes on to that phase. Where it cannot be written down, a VM that arrived goes on all the same: none waits,
    /// paused, for room in our own directory, and this process knows the phase.
    pub(crate) fn enter(
        &self,
        record: &mut Record,
        at: At,
        reason: Option<String>,
    ) -> Result<(), JournalError> {
        record.phase.enter(at, reason);
        match self.journal.write(record) {
            Err(error) if matches!(at, At::Copying | At::Staying | At::Stayed) => Err(error),
            Err(error) => {
                warn!("'{}': {error}", record.domain);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes down what is known of it; without that it is found again by looking.
    pub(crate) fn note(&self, record: &Record) {
        if let Err(error) = self.journal.write(record) {
            warn!("'{}': {error}", record.domain);
        }
    }
}
