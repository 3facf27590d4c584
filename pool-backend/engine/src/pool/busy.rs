// SPDX-License-Identifier: LGPL-2.1-or-later
//! Changes of a volume that may take hours: meanwhile others are made, deleted and resized, and this one is
//! left alone.

use std::fmt;

use virtnotify_model::BackendError;

use super::core::{Core, VolumeId};
use super::{Admin, Shared, lock};
use crate::runtime::MutexGuard;

/// Why a volume is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// It gets its space, and has no device yet.
    Made,
    /// It has a device, and gets space.
    Allocated,
    /// It has no device; all chunks that are its alone are overwritten, and none of them comes free.
    Wiped,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Made => "being made",
            Self::Allocated => "getting its space",
            Self::Wiped => "being wiped",
        })
    }
}

impl Shared {
    /// Does something long with a volume that nobody else changes meanwhile, nor is the pool stopped. The lock is
    /// held before and afterwards.
    pub(super) fn busy_with<'a, T>(
        &'a self,
        admin: MutexGuard<'a, Admin>,
        id: VolumeId,
        busy: Busy,
        work: impl FnOnce() -> T,
    ) -> (MutexGuard<'a, Admin>, T) {
        self.core().set_busy(id, Some(busy));
        drop(admin);
        let done = work();
        let admin = lock(&self.admin);
        self.core().set_busy(id, None);
        // Layers below it may be merged again.
        self.gate.kick();
        (admin, done)
    }
}

impl Core {
    fn set_busy(&mut self, id: VolumeId, busy: Option<Busy>) {
        if let Some(volume) = self.volume_mut(id) {
            volume.busy = busy;
        }
    }

    /// Refuses to change a volume that is being changed already. The caller holds `admin`.
    pub(super) fn check_idle(&self, id: VolumeId) -> Result<(), BackendError> {
        let Some(volume) = self.volume(id) else { return Ok(()) };
        let Some(busy) = volume.busy else { return Ok(()) };
        let name = &volume.row().name;
        Err(BackendError::Refused(format!(
            "the volume '{name}' is {busy}: wait until that is done"
        )))
    }
}
