// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a move that stayed has left at the peer: volumes, and a VM that came there all the same.

use tracing::{info, warn};
use virtnotify_model::{PoolName, VolumeName};

use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Peer, Place};
use crate::journal::{DiskRecord, Record};
use crate::mover::{Outcome, Tools};
use crate::settle::{has, uses};

impl Tools {
    /// Takes away what the move made at the peer, where no other VM there has it. An error is a
    /// sentence: it is tried again.
    pub(crate) fn clear_there(&self, record: &mut Record) -> Result<Outcome, String> {
        let sentence = |e: HvError| e.to_string();
        let here = self.hv.domain(Place::Here, record.uuid).map_err(sentence)?;
        if here.is_some() {
            self.restore_autostart(record).map_err(sentence)?;
        }
        self.run_on(record, here.as_ref()).map_err(sentence)?;
        let peer = record.peer();
        let mut users = self.hv.domains(Place::At(&peer)).map_err(sentence)?;
        if let Some(index) = users.iter().position(|user| user.uuid == record.uuid) {
            match self.clear_copy(record, here.as_ref(), &users[index])? {
                Copy::Gone => drop(users.remove(index)),
                Copy::Stays => {}
                Copy::Ends(outcome) => return Ok(outcome),
            }
        }
        for disk in &record.disks {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { continue };
            if users.iter().any(|user| uses(user, &pool, &volume)) {
                warn!("the volume '{volume}' stays on {}: a VM there has it", peer.name);
                continue;
            }
            self.delete_there(&peer, disk, &pool, &volume).map_err(sentence)?;
        }
        self.forget(record)?;
        Ok(Outcome::Stayed { reason: String::new(), tidy: true })
    }

    fn forget(&self, record: &Record) -> Result<(), String> {
        self.unreserve(record).map_err(|e| e.to_string())?;
        self.journal.remove(record).map_err(|e| e.to_string())
    }

    /// A copy of the VM that came there although it stayed: libvirt lost the reply that said so. Nobody
    /// resumed it, so it goes.
    fn clear_copy(
        &self,
        record: &mut Record,
        here: Option<&Domain>,
        copy: &Domain,
    ) -> Result<Copy, String> {
        let peer = record.peer();
        let runs_here = here.is_some_and(|here| here.state == RunState::Running);
        match copy.state {
            RunState::Running | RunState::IoError if runs_here => {
                return Ok(Copy::Ends(self.two(record, false)));
            }
            RunState::Running | RunState::IoError => {
                return Err(format!("{} still has a copy of the VM that is active", peer.name));
            }
            RunState::Arriving => return Err(format!("it is still arriving on {}", peer.name)),
            RunState::Off if here.is_none() => return Ok(Copy::Stays),
            RunState::Paused if here.is_none() => {
                self.forget(record)?;
                return Ok(Copy::Ends(Outcome::Abandoned(format!(
                    "{0} keeps a paused copy of it from a move that did not end, and it is not here any \
                     more: where it runs elsewhere, destroy the copy on {0}",
                    peer.name
                ))));
            }
            RunState::Paused | RunState::Off => {}
        }
        if !self.is_own(record, &peer, copy).map_err(|e| e.to_string())? {
            return Ok(Copy::Stays);
        }
        info!("the copy of '{}' that came to {} goes: it never ran there", copy.name, peer.name);
        self.end_copy(copy, &peer).map_err(|e| e.to_string())?;
        Ok(Copy::Gone)
    }

    fn end_copy(&self, copy: &Domain, peer: &Peer) -> Result<(), HvError> {
        let place = Place::At(peer);
        if copy.state == RunState::Paused {
            self.hv.destroy(place, copy.uuid)?;
        }
        if copy.persistent {
            self.hv.undefine(place, copy.uuid)?;
        }
        Ok(())
    }

    /// Whether that VM has the very volumes that the move made.
    fn is_own(&self, record: &Record, peer: &Peer, copy: &Domain) -> Result<bool, HvError> {
        for disk in &record.disks {
            let (Ok(pool), Ok(volume)) = (disk.pool(), disk.volume()) else { return Ok(false) };
            let found = self.hv.volume(peer, &pool, &volume)?.map(|volume| volume.key);
            if !has(copy, disk) || found.is_none() || found != disk.made_there {
                return Ok(false);
            }
        }
        Ok(true)
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
}

/// What becomes of a copy of the VM at the peer.
enum Copy {
    /// It is gone.
    Gone,
    /// It is not the move's, or only a definition: it stays, with its volumes.
    Stays,
    /// The move ends, or is open, with that.
    Ends(Outcome),
}
