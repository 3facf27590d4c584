// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume that a call is at work with for hours, as it may be: meanwhile it is left alone, and others are made,
//! deleted and resized.

use std::sync::atomic::{AtomicU64, Ordering};

use virtnotify_model::{BackendError, Chunks, VolumeName};

use super::core::{Core, Volume, VolumeId};
use super::{Admin, Shared};
use crate::runtime::MutexGuard;

/// What is done with such a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupied {
    /// It is overwritten, without a device, and nothing of it comes free.
    Wiped,
    /// It gets its space before it gets its device, and is not shown yet.
    Made,
    /// It gets chunks that it lacks, by so many calls.
    Filled(u32),
}

/// While there is one, the volume is occupied, and the pool is not stopped. It ends also where a panic ended the work.
pub(super) struct Occupation<'a>(&'a Shared, VolumeId);

impl Drop for Occupation<'_> {
    fn drop(&mut self) {
        let Self(shared, id) = *self;
        let mut core = shared.core();
        let was = core.volume_mut(id).and_then(|volume| volume.occupied.take());
        match (was, core.volume_mut(id)) {
            (Some(Occupied::Filled(calls @ 2..)), Some(volume)) => {
                volume.occupied = Some(Occupied::Filled(calls - 1));
            }
            (Some(Occupied::Made), _) if std::thread::panicking() => core.disown(id),
            (Some(Occupied::Wiped), Some(volume)) if std::thread::panicking() => {
                (volume.closing, volume.unsettled) = (false, true);
            }
            _ => {}
        }
        drop(core);
        // Layers below it may be merged again.
        shared.gate.kick();
    }
}

/// Chunks that a call is still to give to a volume: no other call is promised them.
#[derive(Debug)]
pub(super) struct Claim<'a>(&'a AtomicU64, u64);

impl Claim<'_> {
    /// So many are left.
    pub(super) fn becomes(&mut self, chunks: u64) {
        self.0.fetch_add(chunks.wrapping_sub(self.1), Ordering::SeqCst);
        self.1 = chunks;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.becomes(0);
    }
}

impl Shared {
    /// Begins something long with a volume, which the caller may change: the lock is held no longer than that.
    pub(super) fn occupy(
        &self,
        admin: MutexGuard<'_, Admin>,
        id: VolumeId,
        by: Occupied,
    ) -> Occupation<'_> {
        let occupation = Occupation(self, id);
        if let Some(volume) = self.core().volume_mut(id) {
            volume.occupied = Some(match volume.occupied {
                Some(Occupied::Filled(calls)) if by == Occupied::Filled(1) => {
                    Occupied::Filled(calls + 1)
                }
                _ => by,
            });
        }
        drop(admin);
        occupation
    }

    /// Refuses what the pool does not have beside what calls are still to give to volumes. The caller holds `admin`.
    pub(super) fn check_unclaimed(&self, chunks: Chunks) -> Result<(), BackendError> {
        let bytes = |chunks| self.chunk.bytes_of(chunks);
        // Read first: what is given in between is in neither then.
        let claimed = bytes(Chunks(self.claimed.load(Ordering::SeqCst)));
        if bytes(chunks) > self.available().saturating_sub(claimed) {
            let (pool, wanted) = (self.name.to_string(), bytes(chunks));
            return Err(BackendError::NoSpace { pool, wanted });
        }
        Ok(())
    }

    /// Claims so many chunks.
    pub(super) fn claim(&self, chunks: u64) -> Claim<'_> {
        let mut claim = Claim(&self.claimed, 0);
        claim.becomes(chunks);
        claim
    }

    /// The volume of this name, which may get chunks: others may be giving it some already. The caller holds `admin`.
    pub(super) fn filled(&self, name: &VolumeName) -> Result<VolumeId, BackendError> {
        let core = self.core();
        let id = core.find(name)?;
        match core.volume(id).and_then(|volume| volume.occupied) {
            Some(Occupied::Filled(_)) => Ok(id),
            _ => {
                drop(core);
                self.written(name)
            }
        }
    }
}

impl Volume {
    /// Whether it gets its device only when what is done with it has ended.
    pub(super) fn waits_for_device(&self) -> bool {
        let waits = matches!(self.occupied, Some(Occupied::Wiped | Occupied::Made));
        waits && self.minor.is_none()
    }

    /// Whether it gets its space before it is shown.
    pub(super) fn is_being_made(&self) -> bool {
        self.occupied == Some(Occupied::Made)
    }
}

impl Core {
    /// Refuses to change a volume that is occupied. The caller holds `admin`.
    pub(crate) fn check_idle(&self, id: VolumeId) -> Result<(), BackendError> {
        let Some(volume) = self.volume(id) else { return Ok(()) };
        let doing = match volume.occupied {
            None => return Ok(()),
            Some(Occupied::Wiped) => "is being wiped",
            Some(Occupied::Made | Occupied::Filled(_)) => "is being given its space",
        };
        let name = &volume.row().name;
        Err(BackendError::Refused(format!("the volume '{name}' {doing}: wait until that is done")))
    }
}
