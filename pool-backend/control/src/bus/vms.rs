// SPDX-License-Identifier: LGPL-2.1-or-later
//! The objects of VMs that have volumes here.

use virtnotify_migrate::{Kept, Vm as VmState};
use virtnotify_model::{PoolName, VolumeName};
use zbus::{ObjectPath, interface};

use super::objects::Shown;
use super::paths;

/// A VM with volumes of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    pub vm: VmState,
    /// Those of its volumes that are there.
    pub volumes: Vec<(PoolName, VolumeName)>,
}

/// Its object.
pub struct Vm(pub Shown<VmFacts>);

#[interface(name = "org.virtnotify1.Vm")]
impl Vm {
    /// Its name.
    #[zbus(property)]
    fn name(&self) -> String {
        self.0.get().vm.name
    }

    /// libvirt's UUID of it, the same on each host that it comes to.
    #[zbus(property(emits_changed_signal = "const"))]
    fn uuid(&self) -> String {
        self.0.get().vm.uuid.to_string()
    }

    /// `running`, `io-error` (paused by an error of a disk, such as no space), `arriving`, `paused` or `off`.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.0.get().vm.state.word()
    }

    /// Its volumes.
    #[zbus(property)]
    fn volumes(&self) -> Vec<ObjectPath<'static>> {
        let volumes = self.0.get().volumes;
        volumes.iter().map(|(pool, volume)| paths::volume(pool, volume)).collect()
    }

    /// Whether its metadata say that it is not to be moved.
    #[zbus(property)]
    fn pinned(&self) -> bool {
        self.0.get().vm.kept == Some(Kept::Pinned)
    }

    /// Why its metadata keep it on this host, as the end of a sentence that names it; empty where they do not.
    #[zbus(property)]
    fn kept(&self) -> String {
        self.0.get().vm.kept.map(|kept| kept.to_string()).unwrap_or_default()
    }
}
