// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume's device is made what the metadata says: after a message or a table was refused, after
//! a commit failed, and when a daemon takes over what another one left.
//!
//! - It is not suspended, is as long as the volume, and knows all data LVs. A shrink that growth came before leaves a
//!   device suspended; one whose commit failed leaves it too short.
//! - Nothing is leaving but what is still to be given back: what the metadata has is mapped again, the rest is forgotten. A chunk of a
//!   snapshot that the guest discarded becomes a hole.
//! - Nothing is held that is the volume's alone: a snapshot that is gone shares nothing.
//! - It is there. One that could not be made is made.
//!
//! Each is looked up in the kernel, so doing it twice does no harm.

use virtnotify_model::BackendError;

use super::Shared;
use super::core::{Core, Volume, VolumeId};
use crate::alloc::Ranges;
use crate::target::{self, Device, DeviceId, Dump, MappedRun, TargetError};

/// Settles all that is not. While it is done, the volume is neither resized nor taken away.
pub(super) fn all(shared: &Shared) {
    make_missing(shared);
    let unsettled: Vec<_> = {
        let mut core = shared.core();
        let ready = |volume: &Volume| {
            let left_alone = !volume.closing && !volume.cutting && volume.end.is_none();
            volume.unsettled && volume.minor.is_some() && left_alone && volume.sending == 0
        };
        let waiting = core.volumes.iter_mut().filter(|(_, volume)| ready(volume));
        let begin = |(&id, volume): (&VolumeId, &mut Volume)| {
            // What comes to differ while it is looked up is looked up again.
            volume.unsettled = false;
            volume.settling = true;
            let untold = std::mem::take(&mut volume.untold);
            (id, volume.begin_sending(), untold)
        };
        waiting.map(begin).collect()
    };
    for (id, device, untold) in unsettled {
        let settled = one(shared, id, &device);
        if let Some(volume) = shared.core().volume_mut(id) {
            volume.settling = false;
            if !settled {
                volume.unsettled = true;
                volume.untold.insert_all(&untold);
            }
        }
        shared.sent(&[id]);
        // Writes to what was leaving were not answered, nor was what has become a hole.
        shared.note(|notes| notes.look_at.extend([id]));
    }
}

/// Makes devices that could not be made, unless volumes are being changed just now.
fn make_missing(shared: &Shared) {
    let missing = |volume: &Volume| volume.is_unsettled() && volume.minor.is_none();
    let Some(_admin) = shared.try_admin() else { return };
    let found: Vec<_> = {
        let mut core = shared.core();
        let found = core.volumes.iter_mut().filter(|(_, volume)| missing(volume));
        found
            .map(|(&id, volume)| {
                volume.unsettled = false;
                id
            })
            .collect()
    };
    for id in found {
        if let Err(error) = shared.attach(id) {
            tracing::warn!(pool = %shared.name, %error, "a volume has no device yet");
        }
    }
}

/// Whether a device may not be as the metadata says.
pub(crate) fn is_needed(shared: &Shared) -> bool {
    shared.core().volumes().any(|(_, volume)| volume.is_unsettled())
}

/// Does it for one; says whether it is done.
fn one(shared: &Shared, id: VolumeId, device: &DeviceId) -> bool {
    let settled = shared.target.device(device).and_then(|device| {
        fit(shared, id, &device)?;
        let Dump { runs, leaving } = shared.target.dump(&device.id)?;
        bring_back(shared, id, &device.id, &leaving)?;
        if let Some(what) = take_copies(shared, id, &device.id, &runs)? {
            shared.damage(what);
        }
        unshare(shared, id, &device.id)
    });
    match settled {
        // It is tried again.
        Ok(false) => return false,
        // One that is gone has nothing to be settled.
        Err(error) if !error.is_gone() => {
            tracing::warn!(pool = %shared.name, %error, "a device is not as the metadata says");
            return false;
        }
        _ => {}
    }
    true
}

/// Resumes a device, and gives it the length that its volume has, and the data LVs of the pool.
pub(super) fn fit(shared: &Shared, id: VolumeId, device: &Device) -> Result<(), TargetError> {
    let table = {
        let core = shared.core();
        let Some(volume) = core.volume(id) else { return Ok(()) };
        shared.table(volume.row(), core.chunk())
    };
    if !device.suspended && device.length == table.length {
        let live = shared.target.live_table(&device.id)?;
        // A daemon was killed when the pool had just got another data LV.
        if live.devices.len() == table.devices.len() {
            return Ok(());
        }
    }
    target::reload(&*shared.target, device, &table)
}

/// What is leaving comes back, or is forgotten: as the metadata has it. What the guest discarded, and
/// is still to be taken from the volume, goes on leaving: brought back, it would count as written.
pub(super) fn bring_back(
    shared: &Shared,
    id: VolumeId,
    device: &DeviceId,
    leaving: &[(u64, u64)],
) -> Result<(), TargetError> {
    let mut stays = Ranges::default();
    for &(from, length) in leaving {
        stays.insert(from, length);
        // Nobody knows what the disk has: this is done when it has been read again.
        let Ok(gaps) = shared.core().durable_gaps(id, from..from + length) else { return Ok(()) };
        for gap in gaps.part(Vec::as_slice).each() {
            shared.target.forget(device, gap)?;
        }
    }
    if let Some(volume) = shared.core().volume_mut(id) {
        stays.remove_all(&volume.discarded);
    }
    for (from, length) in stays.iter() {
        let part = from..from + length;
        let own = {
            let core = shared.core();
            // A guest's device lets chunks of a snapshot go when the guest has discarded them, or
            // they are zeroes.
            match core.is_written(id) {
                true => core.durable_own_runs(id, part),
                false => core.durable_all_runs(id, part),
            }
        };
        let Ok(runs) = own else { return Ok(()) };
        shared.target.map(device, runs.part(Vec::as_slice))?;
        let mut core = shared.core();
        if core.is_written(id) {
            core.hole_shared(id, from..from + length);
        }
    }
    Ok(())
}

/// Has a device take the copies that its volume has, where it still has the chunks of a snapshot; says
/// what else differs from the metadata.
pub(super) fn take_copies(
    shared: &Shared,
    id: VolumeId,
    device: &DeviceId,
    live: &[MappedRun],
) -> Result<Option<String>, TargetError> {
    let status = shared.target.status(device)?;
    let untaken = match shared.core().untaken(id, live, &status) {
        Ok(untaken) => untaken,
        Err(what) => return Ok(Some(what)),
    };
    if !untaken.is_empty() {
        shared.target.remap(device, untaken.part(Vec::as_slice))?;
    }
    shared.core().taken(id, &untaken);
    Ok(None)
}

/// Has the kernel share no more than the metadata says; `false` if that has to wait, because a
/// chunk is being copied: a write to it must not go on before the copy has taken its place.
pub(crate) fn unshare(
    shared: &Shared,
    id: VolumeId,
    device: &DeviceId,
) -> Result<bool, TargetError> {
    let Some(wanted) = shared.core().begin_unsharing(id) else { return Ok(false) };
    let marked = shared.target.status(device).and_then(|status| match status.mark > wanted {
        true => shared.target.mark(device, wanted),
        false => Ok(()),
    });
    if let Some(volume) = shared.core().volume_mut(id) {
        volume.unsharing = false;
    }
    marked.map(|()| true)
}

impl Volume {
    /// Whether its device is to be settled. One that was not taken over is there, with what its guest has
    /// written, and stays as it is.
    fn is_unsettled(&self) -> bool {
        self.unsettled && !self.closing && !self.not_taken_over && !self.waits_for_device()
    }
}

impl Core {
    /// The mark that the device of a volume should have, if nothing is being copied: nothing is, until
    /// `unsharing` ends.
    fn begin_unsharing(&mut self, id: VolumeId) -> Option<u16> {
        let mark = self.mark(id);
        let volume = self.volumes.get_mut(&id)?;
        // The one who sends is who asks.
        if !volume.has_its_copies() || volume.sending > 1 {
            return None;
        }
        volume.unsharing = true;
        Some(mark)
    }
}

/// Another one has the device of a volume.
pub(super) fn taken(there: &Device) -> BackendError {
    BackendError::Refused(format!(
        "the device '{}' has the uuid of the volume: another pool may have a copy of it",
        there.name
    ))
}

impl Shared {
    /// The device of a volume may not be as the metadata says: that is mended soon.
    pub(crate) fn unsettle(&self, id: VolumeId) {
        self.core().unsettle(id);
        self.gate.kick();
    }

    /// The device of a volume may not have taken these copies: it is told again soon.
    pub(super) fn not_taken(&self, id: VolumeId, copies: &[MappedRun]) {
        self.core().not_taken(id, copies);
        self.gate.kick();
    }

    /// Refuses a volume whose device another one has: it may be another pool's.
    pub(super) fn refuse_taken(&self, device: &DeviceId) -> Result<(), BackendError> {
        match self.target.device(device) {
            Ok(there) => Err(taken(&there)),
            Err(_) => Ok(()),
        }
    }
}
