// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's flags, and refusing those that a call does not have.

use virtnotify_model::BuildMode;

use crate::error::DriverError;

/// `VIR_STORAGE_POOL_DEFINE_VALIDATE`.
pub const DEFINE_VALIDATE: u32 = 1;
/// `VIR_STORAGE_POOL_BUILD_NO_OVERWRITE`.
pub const BUILD_NO_OVERWRITE: u32 = 1 << 2;
/// `VIR_STORAGE_POOL_BUILD_OVERWRITE`.
pub const BUILD_OVERWRITE: u32 = 1 << 3;
/// `VIR_STORAGE_POOL_CREATE_WITH_BUILD`.
pub const CREATE_WITH_BUILD: u32 = 1;
/// `VIR_STORAGE_POOL_CREATE_WITH_BUILD_OVERWRITE`.
pub const CREATE_OVERWRITE: u32 = 1 << 1;
/// `VIR_STORAGE_POOL_CREATE_WITH_BUILD_NO_OVERWRITE`.
pub const CREATE_NO_OVERWRITE: u32 = 1 << 2;
/// `VIR_STORAGE_XML_INACTIVE`.
pub const XML_INACTIVE: u32 = 1;
/// `VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA`: has no effect, since a volume of ours has no
/// metadata of its own.
pub const VOL_PREALLOC_METADATA: u32 = 1;
/// `VIR_STORAGE_VOL_CREATE_REFLINK`.
pub const VOL_REFLINK: u32 = 1 << 1;
/// `VIR_STORAGE_VOL_CREATE_VALIDATE`.
pub const VOL_VALIDATE: u32 = 1 << 2;
/// `VIR_STORAGE_VOL_DELETE_WITH_SNAPSHOTS`.
pub const DELETE_WITH_SNAPSHOTS: u32 = 1 << 1;
/// `VIR_STORAGE_VOL_GET_PHYSICAL`.
pub const VOL_PHYSICAL: u32 = 1;
/// `VIR_STORAGE_VOL_RESIZE_ALLOCATE`.
pub const RESIZE_ALLOCATE: u32 = 1;
/// `VIR_STORAGE_VOL_RESIZE_DELTA`.
pub const RESIZE_DELTA: u32 = 1 << 1;
/// `VIR_STORAGE_VOL_RESIZE_SHRINK`.
pub const RESIZE_SHRINK: u32 = 1 << 2;
/// `VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM` and `VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM`.
pub const SPARSE_STREAM: u32 = 1;
/// The flags of `virConnectListAllStoragePoolsFlags` that apply to pools of any type.
const LIST_FILTERS: u32 = 0x3f;

/// Refuses flags that the call does not have, as `virCheckFlags` does.
///
/// # Errors
/// [`DriverError::Flags`].
pub fn check(flags: u32, known: u32, function: &'static str) -> Result<(), DriverError> {
    match flags & !known {
        0 => Ok(()),
        flags => Err(DriverError::Flags { flags, function }),
    }
}

/// Whether and how a pool is to be built before it is started.
///
/// # Errors
/// [`DriverError::Flags`], [`DriverError::Exclusive`].
pub fn create_mode(flags: u32, function: &'static str) -> Result<Option<BuildMode>, DriverError> {
    check(flags, CREATE_WITH_BUILD | CREATE_OVERWRITE | CREATE_NO_OVERWRITE, function)?;
    let overwrite = flags & CREATE_OVERWRITE != 0;
    let keep = flags & CREATE_NO_OVERWRITE != 0;
    match mode(overwrite, keep)? {
        BuildMode::New if flags & CREATE_WITH_BUILD == 0 => Ok(None),
        mode => Ok(Some(mode)),
    }
}

/// How a pool is to be built.
///
/// # Errors
/// [`DriverError::Flags`], [`DriverError::Exclusive`].
pub fn build_mode(flags: u32) -> Result<BuildMode, DriverError> {
    check(flags, BUILD_OVERWRITE | BUILD_NO_OVERWRITE, "virStoragePoolBuild")?;
    mode(flags & BUILD_OVERWRITE != 0, flags & BUILD_NO_OVERWRITE != 0)
}

fn mode(overwrite: bool, keep: bool) -> Result<BuildMode, DriverError> {
    match (overwrite, keep) {
        (true, true) => Err(DriverError::Exclusive(
            "VIR_STORAGE_POOL_BUILD_OVERWRITE",
            "VIR_STORAGE_POOL_BUILD_NO_OVERWRITE",
        )),
        (true, false) => Ok(BuildMode::Overwrite),
        (false, true) => Ok(BuildMode::NoOverwrite),
        (false, false) => Ok(BuildMode::New),
    }
}

/// The properties that `virConnectListAllStoragePools` filters by.
#[derive(Debug, Clone, Copy)]
pub struct ListedPool {
    /// It is started.
    pub active: bool,
    /// It has a definition on disk.
    pub persistent: bool,
    /// It starts with the daemon.
    pub autostart: bool,
}

impl ListedPool {
    /// Whether the flags let it through: a group of flags counts if one of it is set. No flag
    /// stands for the type `notify`, so a flag for another type leaves it out, and so does one that
    /// a newer libvirt has added.
    #[must_use]
    pub fn matches(self, flags: u32) -> bool {
        let group = |yes: u32, no: u32, is: bool| {
            flags & (yes | no) == 0 || flags & (if is { yes } else { no }) != 0
        };
        group(1 << 1, 1, self.active)
            && group(1 << 2, 1 << 3, self.persistent)
            && group(1 << 4, 1 << 5, self.autostart)
            && flags & !LIST_FILTERS == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_filtered_as_libvirt_does() {
        let pool = ListedPool { active: true, persistent: true, autostart: false };
        for (flags, shown) in [
            (0, true),
            (1, false),
            (2, true),
            (3, true),
            (2 | 4, true),
            (2 | 8, false),
            (16, false),
            (32, true),
            (1 << 9, false),
            (2 | (1 << 9), false),
            (1 << 25, false),
            (2 | (1 << 31), false),
        ] {
            assert_eq!(pool.matches(flags), shown, "{flags:#x}");
        }
    }

    #[test]
    fn build_flags_exclude_each_other() {
        assert_eq!(create_mode(0, "f").unwrap(), None);
        assert_eq!(create_mode(1, "f").unwrap(), Some(BuildMode::New));
        assert_eq!(create_mode(2, "f").unwrap(), Some(BuildMode::Overwrite));
        assert_eq!(create_mode(5, "f").unwrap(), Some(BuildMode::NoOverwrite));
        assert!(matches!(create_mode(6, "f"), Err(DriverError::Exclusive(..))));
        assert!(matches!(create_mode(8, "f"), Err(DriverError::Flags { flags: 8, .. })));
        assert_eq!(build_mode(8).unwrap(), BuildMode::Overwrite);
        assert!(build_mode(1).is_err());
    }
}
