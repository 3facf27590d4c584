// SPDX-License-Identifier: LGPL-2.1-or-later
//! Calls of operators on a started pool, and the counters of its volumes' targets.

use std::time::Duration;

use virtnotify_model::{BackendError, Bytes, Chunks, Event, VolumeName, VolumeStats};

use super::Shared;
use super::core::VolumeId;
use super::gate::{Outcome, Reclaim};
use crate::runtime::Instant;

/// For how long a caller that needs chunks waits for LVM to work again: while `pvmove` moves all data LVs, another one
/// comes within that, also during an evacuation.
const PATIENCE: Duration = Duration::from_secs(15);
/// The time until it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

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

    /// Waits for room for so many chunks; `false` if the group has not all of it.
    pub(super) fn ask_for_room(&self, chunks: u64) -> Result<bool, BackendError> {
        let mut failing = None;
        loop {
            match self.gate.ask(chunks) {
                Outcome::Full => return Ok(true),
                Outcome::Later | Outcome::Exhausted => return Ok(false),
                Outcome::Stopped => return Err(BackendError::PoolNotActive(self.name.to_string())),
                Outcome::Failed => {}
            }
            let core = self.core();
            core.usable()?;
            if failing.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                let step = format!("the pool '{}' cannot get more space now", self.name);
                return Err(BackendError::failed(step, std::io::Error::other(self.gate.why())));
            }
            drop(self.settled.wait_timeout(core, ASK_AGAIN));
        }
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
