// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume that a call is at work with for hours, as it may be: meanwhile it is left alone, and others are made,
//! deleted and resized.

use virtnotify_model::BackendError;

use super::core::{Core, Volume, VolumeId};
use super::{Admin, Shared, lock};
use crate::runtime::MutexGuard;

/// What is done with such a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupied {
    /// It is overwritten, without a device, and nothing of it comes free.
    Wiped,
    /// It gets the chunks that it lacks; one that is being made has no device before it has them.
    Filled,
}

/// Ends that a volume is occupied, also where a panic ended the work.
struct Occupation<'a>(&'a Shared, VolumeId);

impl Drop for Occupation<'_> {
    fn drop(&mut self) {
        let mut core = self.0.core();
        if let Some(volume) = core.volume_mut(self.1) {
            volume.occupied = None;
            if std::thread::panicking() {
                (volume.closing, volume.unsettled) = (false, true);
            }
        }
        drop(core);
        // Layers below it may be merged again.
        self.0.gate.kick();
    }
}

impl Shared {
    /// Does something long with a volume that nobody else changes meanwhile; nor is the pool stopped. The lock is
    /// held before and afterwards.
    pub(super) fn while_occupied<'a, T>(
        &'a self,
        admin: MutexGuard<'a, Admin>,
        id: VolumeId,
        by: Occupied,
        work: impl FnOnce() -> T,
    ) -> (MutexGuard<'a, Admin>, T) {
        let occupation = Occupation(self, id);
        if let Some(volume) = self.core().volume_mut(id) {
            volume.occupied = Some(by);
        }
        drop(admin);
        let done = work();
        let admin = lock(&self.admin);
        drop(occupation);
        (admin, done)
    }
}

impl Shared {
    /// Gives a volume its space, one volume at a time.
    pub(super) fn while_filled<'a>(
        &'a self,
        admin: MutexGuard<'a, Admin>,
        id: VolumeId,
        fill: impl FnOnce() -> Result<(), BackendError>,
    ) -> (MutexGuard<'a, Admin>, Result<(), BackendError>) {
        self.while_occupied(admin, id, Occupied::Filled, || {
            let _alone = lock(&self.filling);
            fill()
        })
    }
}

impl Volume {
    /// Whether it gets its device only when what is done with it has ended.
    pub(super) fn waits_for_device(&self) -> bool {
        self.occupied.is_some() && self.minor.is_none()
    }

    /// Whether it gets its space before it is shown.
    pub(super) fn is_being_made(&self) -> bool {
        self.occupied == Some(Occupied::Filled) && self.minor.is_none()
    }
}

impl Core {
    /// Refuses to change a volume that is occupied. The caller holds `admin`.
    pub(crate) fn check_idle(&self, id: VolumeId) -> Result<(), BackendError> {
        let Some(volume) = self.volume(id) else { return Ok(()) };
        let doing = match volume.occupied {
            None => return Ok(()),
            Some(Occupied::Wiped) => "is being wiped",
            Some(Occupied::Filled) => "is being given its space",
        };
        let name = &volume.row().name;
        Err(BackendError::Refused(format!("the volume '{name}' {doing}: wait until that is done")))
    }
}
