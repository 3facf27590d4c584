// SPDX-License-Identifier: LGPL-2.1-or-later
//! The VMs of this host, for those who show them and charge for them.

use std::collections::BTreeSet;

use uuid::Uuid;
use virtnotify_model::{PoolName, VolumeName};

use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Hypervisor, Place};
use crate::plan::names_of;
use crate::wishes::Kept;

/// A VM that is defined or active on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// How it is doing.
    pub state: RunState,
    /// The reason why its metadata keep it on this host.
    pub kept: Option<Kept>,
    /// The pools and volumes that its disks name. Only the storage knows which of them are there.
    pub volumes: BTreeSet<(PoolName, VolumeName)>,
}

impl Vm {
    fn of(domain: Domain) -> Self {
        let volumes = domain.disks.iter().filter_map(|disk| names_of(&disk.source)).collect();
        let Domain { uuid, name, state, wishes, .. } = domain;
        Self { uuid, name, state, kept: wishes.stays, volumes }
    }
}

impl RunState {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::IoError => "io-error",
            Self::Arriving => "arriving",
            Self::Halted => "halted",
            Self::Paused => "paused",
            Self::Off => "off",
        }
    }
}

/// All VMs of this host, as libvirt lists them.
///
/// # Errors
/// When libvirt does not answer.
pub fn vms(hv: &dyn Hypervisor) -> Result<Vec<Vm>, HvError> {
    Ok(hv.domains(Place::Here)?.into_iter().map(Vm::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Disk, DiskSource};

    #[test]
    fn a_vm_has_the_volumes_that_its_disks_name() {
        let mut domain = crate::fake::domain("web", 1);
        let path = DiskSource::Path("/dev/notify/fast/log".into());
        let other = DiskSource::Path("/var/lib/libvirt/images/iso".into());
        domain.disks.extend([Disk::new("vdb", path), Disk::new("sda", other)]);
        domain.wishes.stays = Some(Kept::Pinned);
        let vm = Vm::of(domain);
        let names: Vec<_> =
            vm.volumes.iter().map(|(pool, name)| format!("{pool}/{name}")).collect();
        assert_eq!(names, ["fast/log", "vms/disk0"]);
        assert_eq!((vm.state.word(), vm.kept), ("io-error", Some(Kept::Pinned)));
    }
}
