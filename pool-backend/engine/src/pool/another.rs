// SPDX-License-Identifier: LGPL-2.1-or-later
//! Another data LV for a pool whose data LVs LVM does not resize.
//!
//! ```text
//!   made by LVM ──▶ in the metadata ──▶ in each device's table ──▶ its chunks are free
//! ```
//!
//! Killed anywhere, the pool has one more or not: the one that LVM made is taken when another is
//! wanted again, and one that the metadata has is in the table of each device that is made or taken over.

use virtnotify_model::{BackendError, Bytes};

use super::{Shared, room, settle};
use crate::lvm::VgReport;
use crate::names::{self, TAG};
use crate::target::TargetError;

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

/// Has the tables of all devices have all data LVs. No volume gets a device meanwhile that lacks one.
pub(super) fn tell_devices(shared: &Shared) -> Result<(), BackendError> {
    let Some(_admin) = shared.try_admin() else {
        let what = "volumes are being changed, and a data LV is used after that".to_owned();
        return Err(BackendError::Refused(what));
    };
    let mut told = Ok(());
    for (id, device) in shared.devices() {
        let fits = shared.target.device(&device).and_then(|there| settle::fit(shared, id, &there));
        let Err(error) = fits else { continue };
        if error.is_gone() {
            continue;
        }
        // It may be suspended: that ends, whether or not the LV is wanted again.
        shared.unsettle(id);
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
