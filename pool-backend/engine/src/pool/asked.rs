// SPDX-License-Identifier: LGPL-2.1-or-later
//! Calls of operators on a started pool, and the counters of its volumes' targets.

use virtnotify_model::{BackendError, Bytes, Chunks, Event, VolumeName, VolumeStats};

use super::Shared;
use super::core::VolumeId;
use super::gate::{Outcome, Reclaim};

impl Shared {
    /// Takes back chunks that were given and never written, and, for all volumes, gives the group the free end
    /// of the data LV then; the headroom thread does it. Returns what came back from volumes.
    pub(super) fn reclaim(&self, of: Reclaim) -> Result<Bytes, BackendError> {
        let given_back = || self.core().figures().given_back;
        let before = given_back();
        let outcome = self.gate.reclaim(of);
        if matches!(outcome, Outcome::Failed | Outcome::Stopped) {
            let what = format!("the pool '{}' cannot take anything back now", self.name);
            return Err(BackendError::Refused(what));
        }
        Ok(self.chunk.bytes_of(Chunks(given_back() - before)))
    }

    /// The counters of a volume's target.
    pub(crate) fn volume_stats(&self, name: &VolumeName) -> Result<VolumeStats, BackendError> {
        let (device, ahead) = {
            let core = self.core();
            let id = core.find(name)?;
            let volume = core.volume(id).filter(|volume| volume.minor.is_some());
            let inactive = || BackendError::Refused(format!("the volume '{name}' has no device"));
            let volume = volume.ok_or_else(inactive)?;
            let ahead = volume.ahead.iter().map(|(_, length)| length).sum();
            (volume.device.clone(), Chunks(ahead))
        };
        let stats = self.target.stats(&device);
        let stats = stats.map_err(|e| BackendError::failed(format!("cannot ask '{name}'"), e))?;
        Ok(VolumeStats { ahead: self.chunk.bytes_of(ahead), ..stats })
    }

    /// Tells that a volume changed other than by a write.
    pub(crate) fn tell_changed(&self, id: VolumeId) {
        let core = self.core();
        let Some(volume) = core.volume(id) else { return };
        let (pool, volume) = (self.name.clone(), volume.row().name.clone());
        drop(core);
        self.emit(Event::VolumeChanged { pool, volume });
    }
}
