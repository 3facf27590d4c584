// SPDX-License-Identifier: LGPL-2.1-or-later
//! The same work without a daemon, under the daemon's lock: none can start meanwhile.

use std::fs::File;
use std::sync::Arc;

use nix::fcntl::Flock;
use virtnotify_model::{EventBus, PoolName, VgName};

use super::{
    Bench, CheckReport, DumpFrom, Repair, RepairError, RestoreRequest, Restored, check, describe,
    restore,
};
use crate::device::HostDisks;
use crate::engine::{EngineConfig, EngineError, lock_file};
use crate::lvm::command::LvmProgram;
use crate::pool::start::Parts;
use crate::target::dm::DeviceMapper;

/// Check, dump and restore while no daemon runs.
pub struct Offline {
    parts: Parts,
    _lock: Flock<File>,
}

impl Offline {
    /// Takes the daemon's place.
    ///
    /// # Errors
    /// When a daemon runs, or the device mapper cannot be reached. The kernel need not have the
    /// target: without it there are no devices.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let lock = lock_file(&config.run_dir)?;
        let target = DeviceMapper::open().map_err(|e| EngineError::Kernel(e.to_string()))?;
        let lvm = LvmProgram::new(config.lvm.clone(), config.lvm_timeout);
        let (lvm, target, disks) = (Arc::new(lvm), Arc::new(target), Arc::new(HostDisks));
        let parts = Parts { config, lvm, target, disks, bus: EventBus::new() };
        Ok(Self { parts, _lock: lock })
    }

    fn bench<'a>(&'a self, vg: &'a VgName) -> Bench<'a> {
        Bench { parts: &self.parts, vg, started: None }
    }
}

impl Repair for Offline {
    fn check(&self, vg: &VgName) -> Result<CheckReport, RepairError> {
        check::check(&self.bench(vg))
    }

    fn dump(&self, vg: &VgName, from: DumpFrom) -> Result<String, RepairError> {
        describe::dump(&self.bench(vg), from)
    }

    fn restore(&self, request: &RestoreRequest) -> Result<Restored, RepairError> {
        restore::restore(&self.bench(&request.vg), request)
    }

    fn group_of(&self, _: &PoolName) -> Option<VgName> {
        None
    }
}
