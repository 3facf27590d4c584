// SPDX-License-Identifier: LGPL-2.1-or-later
//! The permissions by which libvirt's access drivers decide about each object.

use std::fmt;

/// What a client may be allowed to do, under libvirt's own name, with one sort of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// With the connection.
    Connect(&'static str),
    /// With a pool.
    Pool(&'static str),
    /// With a volume.
    Volume(&'static str),
}

impl Permission {
    /// The sort of object and the permission, as libvirt's `remote_protocol.x` names them.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Permission::Connect(name) => ("connect", name),
            Permission::Pool(name) => ("storage_pool", name),
            Permission::Volume(name) => ("storage_vol", name),
        }
    }

    /// What polkit knows it as: `org.libvirt.api.storage-pool.getattr`.
    #[must_use]
    pub fn action(self) -> String {
        let (object, name) = self.names();
        format!("org.libvirt.api.{object}.{name}").replace('_', "-")
    }
}

/// As in libvirt's annotations: `storage_pool:getattr`.
impl fmt::Display for Permission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, name) = self.names();
        write!(out, "{object}:{name}")
    }
}
