// SPDX-License-Identifier: LGPL-2.1-or-later
//! Stand-ins for tests and for [`crate::sim`]: disks that lose power, an LVM and a device mapper in memory.
#![allow(clippy::unwrap_used, reason = "where a stand-in cannot go on, the test has failed")]
#![cfg_attr(not(test), allow(dead_code, unused_imports, reason = "faults are for tests alone"))]

mod devices;
mod disk;
mod guest;
mod lvm;
mod target;

use std::path::Path;
use std::sync::Arc;

use virtnotify_model::{Bytes, EventBus};

pub(crate) use self::devices::Devices;
pub(crate) use self::disk::SECTOR;
pub(crate) use self::disk::{FakeDisk, Power};
pub(crate) use self::guest::mark;
pub(crate) use self::lvm::FakeLvm;
#[cfg(feature = "sim")]
pub(crate) use self::lvm::GROUP;
pub(crate) use self::target::{Failing, FakeTarget};
use crate::engine::EngineConfig;
use crate::names;
use crate::pool::start::Parts;
use crate::target::DeviceId;

/// The device number that a logical volume has here, by its name.
fn number_of(path: &Path) -> (u32, u32) {
    let name = path.file_name().unwrap().to_string_lossy();
    (254, names::data_lv_index(&name).map_or(99, u32::from))
}

/// The parts of an engine that runs in a directory.
pub(crate) fn parts(
    dir: &Path,
    lvm: &Arc<FakeLvm>,
    target: &Arc<FakeTarget>,
    bus: &EventBus,
) -> Parts {
    let config = EngineConfig {
        run_dir: dir.join("run"),
        dev_dir: dir.to_owned(),
        headroom: Some(Bytes::mib(4)),
        lvm_backup: dir.join("backup"),
        backup_dir: dir.join("maps"),
        step: Bytes::mib(4),
        collector_budget: Bytes::mib(1 << 20),
        ..EngineConfig::default()
    };
    let (lvm, disks, target) = (lvm.clone(), lvm.clone(), target.clone());
    Parts { config, lvm, target, disks, bus: bus.clone() }
}

/// The id of a volume's device.
pub(crate) fn device_of(uuid: uuid::Uuid) -> DeviceId {
    DeviceId(names::dm_uuid(uuid))
}
