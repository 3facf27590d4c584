// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where objects are: the only place that makes their paths.
//!
//! A name becomes a part of a path as systemd does it: letters and digits stay, every other byte
//! is `_` and two hexadecimal digits, so that no two names make the same path.

use uuid::Uuid;
use virtnotify_model::{PoolName, VolumeName};
use zbus::ObjectPath;

/// The object that has everything.
pub const ROOT: &str = "/org/virtnotify1";

/// The object of a pool.
pub fn pool(pool: &PoolName) -> ObjectPath<'static> {
    path(&["pool", pool.as_str()])
}

/// The object of a volume.
pub fn volume(pool: &PoolName, volume: &VolumeName) -> ObjectPath<'static> {
    path(&["volume", pool.as_str(), volume.as_str()])
}

/// The object of a VM.
pub fn vm(vm: Uuid) -> ObjectPath<'static> {
    path(&["vm", &vm.simple().to_string()])
}

/// The object of a VM's move.
pub fn moving(vm: Uuid) -> ObjectPath<'static> {
    path(&["move", &vm.simple().to_string()])
}

/// The object of a VM that waits for space.
pub fn waiting(vm: Uuid) -> ObjectPath<'static> {
    path(&["waiting", &vm.simple().to_string()])
}

/// The object of a peer.
pub fn peer(name: &str) -> ObjectPath<'static> {
    path(&["peer", name])
}

/// The object of a job.
pub fn job(id: u64) -> ObjectPath<'static> {
    path(&["job", &id.to_string()])
}

fn path(parts: &[&str]) -> ObjectPath<'static> {
    let parts = parts.iter().map(|part| escaped(part));
    let path = parts.fold(ROOT.to_owned(), |path, part| path + "/" + &part);
    ObjectPath::from_string_unchecked(path)
}

fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        match byte.is_ascii_alphanumeric() {
            true => path.push(char::from(byte)),
            false => path.push_str(&format!("_{byte:02x}")),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_valid_and_differ() {
        let names = ["a", "a-b", "a_b", "a.b", "a_2db", "+", "vm.raw"];
        let volumes = names.map(|name| volume(&"p".parse().unwrap(), &name.parse().unwrap()));
        for path in &volumes {
            assert!(ObjectPath::try_from(path.as_str()).is_ok(), "{path}");
        }
        let different: std::collections::BTreeSet<_> = volumes.iter().collect();
        assert_eq!(different.len(), names.len());
        assert_eq!(volumes[1].as_str(), "/org/virtnotify1/volume/p/a_2db");
        assert_eq!(pool(&"p".parse().unwrap()).as_str(), "/org/virtnotify1/pool/p");
        assert!(moving(Uuid::nil()).as_str().ends_with("/move/00000000000000000000000000000000"));
    }
}
