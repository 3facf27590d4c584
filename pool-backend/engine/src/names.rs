// SPDX-License-Identifier: LGPL-2.1-or-later
//! Every name the engine gives to something outside of it is built here.
//!
//! | what | name |
//! |---|---|
//! | device-mapper device | `notify:POOL:VOLUME` (127 characters at most, see the model's names) |
//! | device-mapper uuid | `NOTIFY-` and the volume's uuid without hyphens: 39 of 128 characters |
//! | link of a volume | `/dev/notify/POOL/VOLUME` |
//! | logical volumes | `notify-meta`, `notify-data0`, `notify-data1`, ... |
//! | LVM tags | `virtnotify`, `virtnotify.pool=POOL`, and `virtnotify.new` while half made |

use std::path::{Path, PathBuf};

use uuid::Uuid;
use virtnotify_model::{PoolName, VgName, VolumeName};

/// The directory of all volumes' links, in `/dev`.
const DEVICE_DIR: &str = "notify";
/// The prefix of the device-mapper uuids of our devices.
pub(crate) const DM_UUID_PREFIX: &str = "NOTIFY-";
/// The prefix of the device-mapper names of our devices.
pub(crate) const DM_NAME_PREFIX: &str = "notify:";

/// The logical volume that holds a pool's metadata.
pub(crate) const META_LV: &str = "notify-meta";
/// The prefix of the names of data LVs; a number follows.
const DATA_LV: &str = "notify-data";

/// The tag of everything in LVM that is ours.
pub(crate) const TAG: &str = "virtnotify";
/// The tag of a logical volume that is being made: its content is worth nothing.
pub(crate) const TAG_NEW: &str = "virtnotify.new";
/// The tag that tells people which pool something belongs to.
const TAG_POOL: &str = "virtnotify.pool=";

/// The tag that names a pool.
pub(crate) fn pool_tag(pool: &PoolName) -> String {
    format!("{TAG_POOL}{pool}")
}

/// Whether a tag is one that names a pool.
pub(crate) fn is_pool_tag(tag: &str) -> bool {
    tag.starts_with(TAG_POOL)
}

/// The pool that a tag names.
pub(crate) fn pool_of_tag(tag: &str) -> Option<PoolName> {
    tag.strip_prefix(TAG_POOL)?.parse().ok()
}

/// The name of data LV number `index`.
pub(crate) fn data_lv(index: u16) -> String {
    format!("{DATA_LV}{index}")
}

/// Which data LV a name means.
pub(crate) fn data_lv_index(name: &str) -> Option<u16> {
    let digits = name.strip_prefix(DATA_LV)?;
    let index = digits.parse().ok()?;
    (data_lv(index) == name).then_some(index)
}

/// The node of a logical volume.
pub(crate) fn lv_path(dev: &Path, vg: &VgName, lv: &str) -> PathBuf {
    dev.join(vg.as_str()).join(lv)
}

/// The device-mapper name of a volume's device.
pub(crate) fn dm_name(pool: &PoolName, volume: &VolumeName) -> String {
    format!("{DM_NAME_PREFIX}{pool}:{volume}")
}

/// The prefix of the device-mapper names of a pool's devices.
pub(crate) fn dm_name_prefix(pool: &PoolName) -> String {
    format!("{DM_NAME_PREFIX}{pool}:")
}

/// The pool in the device-mapper name of a volume's device.
pub(crate) fn pool_of_dm_name(name: &str) -> Option<PoolName> {
    name.strip_prefix(DM_NAME_PREFIX)?.split_once(':')?.0.parse().ok()
}

/// The pool and the volume in the device-mapper name of a volume's device.
pub(crate) fn parts_of_dm_name(name: &str) -> Option<(PoolName, VolumeName)> {
    let (pool, volume) = name.strip_prefix(DM_NAME_PREFIX)?.split_once(':')?;
    Some((pool.parse().ok()?, volume.parse().ok()?))
}

/// The volume in the device-mapper uuid of its device.
pub(crate) fn volume_of_dm_uuid(uuid: &str) -> Option<Uuid> {
    uuid.strip_prefix(DM_UUID_PREFIX)?.parse().ok()
}

/// The device-mapper uuid of a volume's device.
pub(crate) fn dm_uuid(volume: Uuid) -> String {
    format!("{DM_UUID_PREFIX}{}", volume.simple())
}

/// The directory of a pool's links.
pub(crate) fn pool_dir(dev: &Path, pool: &PoolName) -> PathBuf {
    dev.join(DEVICE_DIR).join(pool.as_str())
}

/// A volume's public path: a link to its device.
pub(crate) fn link(dev: &Path, pool: &PoolName, volume: &VolumeName) -> PathBuf {
    pool_dir(dev, pool).join(volume.as_str())
}

/// What the link of the device with this minor points to.
pub(crate) fn link_target(minor: u32) -> PathBuf {
    PathBuf::from(format!("../../dm-{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lv_names_are_read_back_exactly() {
        assert_eq!(data_lv_index(&data_lv(7)), Some(7));
        for other in ["notify-data", "notify-data01", "notify-data+1", "notify-meta", "data0"] {
            assert_eq!(data_lv_index(other), None, "{other}");
        }
    }

    #[test]
    fn no_two_volumes_share_a_device_name() {
        let name = |p: &str, v: &str| dm_name(&p.parse().unwrap(), &v.parse().unwrap());
        assert_ne!(name("a-b", "c"), name("a", "b-c"));
        assert_eq!(name("vms", "disk0"), "notify:vms:disk0");
        assert_eq!(dm_uuid(Uuid::nil()).len(), 39);
        assert_eq!(volume_of_dm_uuid(&dm_uuid(Uuid::nil())), Some(Uuid::nil()));
        let parts = parts_of_dm_name("notify:vms:disk0").unwrap();
        assert_eq!((parts.0.as_str(), parts.1.as_str()), ("vms", "disk0"));
    }
}
