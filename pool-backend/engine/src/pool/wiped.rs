// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume that is wiped, which may take hours: meanwhile it is left alone, and others are made, deleted and
//! resized.

use virtnotify_model::BackendError;

use super::core::{Core, VolumeId};
use super::{Admin, Shared, lock};
use crate::runtime::MutexGuard;

/// Ends that a volume is wiped, also where a panic ended the wipe.
struct Wiped<'a>(&'a Shared, VolumeId);

impl Drop for Wiped<'_> {
    fn drop(&mut self) {
        let mut core = self.0.core();
        if let Some(volume) = core.volume_mut(self.1) {
            volume.wiped = false;
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
    /// Does something long with a volume without a device, of which nothing comes free and that nobody else
    /// changes meanwhile; nor is the pool stopped. The lock is held before and afterwards.
    pub(super) fn while_wiped<'a, T>(
        &'a self,
        admin: MutexGuard<'a, Admin>,
        id: VolumeId,
        work: impl FnOnce() -> T,
    ) -> (MutexGuard<'a, Admin>, T) {
        let wiped = Wiped(self, id);
        if let Some(volume) = self.core().volume_mut(id) {
            volume.wiped = true;
        }
        drop(admin);
        let done = work();
        let admin = lock(&self.admin);
        drop(wiped);
        (admin, done)
    }
}

impl Core {
    /// Refuses to change a volume that is being wiped. The caller holds `admin`.
    pub(super) fn check_idle(&self, id: VolumeId) -> Result<(), BackendError> {
        let Some(volume) = self.volume(id).filter(|volume| volume.wiped) else { return Ok(()) };
        let name = &volume.row().name;
        Err(BackendError::Refused(format!(
            "the volume '{name}' is being wiped: wait until that is done"
        )))
    }
}
