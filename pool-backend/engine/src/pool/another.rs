// SPDX-License-Identifier: LGPL-2.1-or-later
//! Another data LV for a pool whose data LVs LVM does not resize.
//!
//! ```text
//!   made by LVM ──▶ in the metadata ──▶ in each device's table ──▶ its chunks are free
//! ```
//!
//! Killed anywhere, the pool has one more or not: the one that LVM made is taken soon, and one that the
//! metadata has is in the table of each device that is made or taken over.
//!
//! Who makes, deletes or wipes volumes may take hours, and is not waited for: only for the moment in which a
//! device is given a table.

use virtnotify_model::{BackendError, Bytes};

use super::core::{Core, VolumeId};
use super::{Shared, room, settle};
use crate::lvm::VgReport;
use crate::names::{self, TAG};
use crate::target::{DeviceId, TargetError};

/// The target's tables have no more devices.
const MOST: u16 = 64;

/// Makes another data LV of about this size; `false` if there is no room for a chunk.
pub(super) fn add(
    shared: &Shared,
    lv: u16,
    size: Bytes,
    report: &VgReport,
) -> Result<bool, BackendError> {
    let (name, vg) = (names::data_lv(lv), &shared.vg);
    if lv >= MOST {
        let what = format!("'{vg}' has {lv} data LVs, and LVM moves all of them");
        return Err(BackendError::Refused(what));
    }
    let failed = |e| BackendError::failed(format!("cannot make '{vg}/{name}'"), e);
    match report.lv(&name) {
        Some(there) if !there.has_tag(TAG) => {
            let what = format!("'{vg}/{name}' is a logical volume of others");
            return Err(BackendError::Refused(what));
        }
        // Made by a daemon that was killed then.
        Some(there) if there.active => {}
        Some(_) => shared.lvm.activate_lv(vg, &name, true).map_err(failed)?,
        None if shared.chunk.whole_chunks(size).0 == 0 => return Ok(false),
        None => {
            let tags = [TAG, &names::pool_tag(&shared.name)];
            match shared.lvm.create_lv(vg, &name, size, &tags) {
                Err(error) if error.is_full() => return Ok(false),
                made => made.map_err(failed)?,
            }
        }
    }
    let report = room::look(shared)?;
    let made = report.lv(&name).ok_or_else(|| room::missing(shared, &name))?;
    let path = shared.config.lv_path(vg, lv);
    let device = shared
        .disks
        .open(&path, false)
        .map_err(|e| BackendError::failed(format!("cannot open '{}'", path.display()), e))?;
    shared.core().add_data_lv(lv, &made.uuid)?;
    shared.data.add(lv, device);
    tracing::info!(pool = %shared.name, %vg, lv = name, "the pool has another data LV");
    Ok(true)
}

/// Whether LVM has made one that the metadata does not have.
pub(super) fn is_left_over(shared: &Shared, report: &VgReport) -> bool {
    let next = shared.data.next();
    next < MOST && report.lv(&names::data_lv(next)).is_some_and(|there| there.has_tag(TAG))
}

/// Has the tables of all devices have all data LVs.
pub(super) fn tell_devices(shared: &Shared) -> Result<(), BackendError> {
    if shared.data.is_written() {
        return Err(changing());
    }
    // From here on each table that is written has all of them.
    let volumes: Vec<_> = shared.core().volumes().map(|(id, _)| id).collect();
    let mut told = Ok(());
    for id in volumes {
        let Some(device) = shared.core().begin_telling(id)? else { continue };
        let fits = shared.target.device(&device).and_then(|there| settle::fit(shared, id, &there));
        shared.sent(&[id]);
        let Err(error) = fits else { continue };
        if error.is_gone() {
            continue;
        }
        // It may be suspended: that ends, whether or not the LV is wanted again. The headroom thread asked, and
        // looks again: were it woken for this, it would not rest.
        shared.core().unsettle(id);
        if matches!(error, TargetError::Suspended { .. }) {
            shared.damage(error.to_string());
        }
        told = Err(BackendError::failed("cannot have a device know another data LV", error));
    }
    if told.is_ok() {
        shared.data.all_known();
    }
    told
}

fn changing() -> BackendError {
    let what = "a volume is being changed, and a data LV is used after that".to_owned();
    BackendError::Refused(what)
}

impl Core {
    /// The device of a volume that is about to get another table; nobody resizes it, or takes it away, until
    /// [`Core::sent`]. None if the volume has none.
    fn begin_telling(&mut self, id: VolumeId) -> Result<Option<DeviceId>, BackendError> {
        let there = self.volume_mut(id).filter(|volume| volume.minor.is_some());
        let Some(volume) = there else { return Ok(None) };
        if volume.closing || volume.cutting || volume.end.is_some() {
            return Err(changing());
        }
        Ok(Some(volume.begin_sending()))
    }
}
