// SPDX-License-Identifier: LGPL-2.1-or-later
//! Arguments and results of every storage procedure.
//!
//! A procedure `STORAGE_POOL_LOOKUP_BY_NAME` has `StoragePoolLookupByNameArgs` and
//! `StoragePoolLookupByNameRet`; where the protocol has none of one, it is `()`.

use std::fmt;
use std::str::FromStr;

use crate::xdr::{List, Reader, Xdr, XdrError, xdr_structs};

/// The most pools or volumes that one reply may list.
pub const LIST_MAX: usize = 16384;

/// The UUID of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a UUID is 32 hexadecimal digits, with or without dashes")]
pub struct NotAUuid;

/// Reads what libvirt reads: 32 hexadecimal digits, dashes and spaces between bytes.
impl FromStr for Uuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        let mut digits = text.trim().chars().filter(|letter| !matches!(letter, '-' | ' '));
        let mut digit = || digits.next().and_then(|letter| letter.to_digit(16)).ok_or(NotAUuid);
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            *byte = u8::try_from(digit()? * 16 + digit()?).map_err(|_| NotAUuid)?;
        }
        if digits.next().is_some() { Err(NotAUuid) } else { Ok(Uuid(bytes)) }
    }
}

/// Fixed opaque data: no length, and sixteen needs no padding.
impl Xdr for Uuid {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(input.take(16)?);
        Ok(Uuid(bytes))
    }
}

/// Names of pools or of volumes.
pub type Names = List<String, LIST_MAX>;

xdr_structs! {
    /// `remote_nonnull_storage_pool`: how a client names a pool.
    StoragePool { name: String, uuid: Uuid }
    /// `remote_nonnull_storage_vol`: how a client names a volume.
    StorageVol { pool: String, name: String, key: String }

    // The connection's lists of pools.

    /// Result of `CONNECT_NUM_OF_STORAGE_POOLS`.
    ConnectNumOfStoragePoolsRet { num: i32 }
    /// Arguments of `CONNECT_LIST_STORAGE_POOLS`.
    ConnectListStoragePoolsArgs { maxnames: i32 }
    /// Result of `CONNECT_LIST_STORAGE_POOLS`.
    ConnectListStoragePoolsRet { names: Names }
    /// Result of `CONNECT_NUM_OF_DEFINED_STORAGE_POOLS`.
    ConnectNumOfDefinedStoragePoolsRet { num: i32 }
    /// Arguments of `CONNECT_LIST_DEFINED_STORAGE_POOLS`.
    ConnectListDefinedStoragePoolsArgs { maxnames: i32 }
    /// Result of `CONNECT_LIST_DEFINED_STORAGE_POOLS`.
    ConnectListDefinedStoragePoolsRet { names: Names }
    /// Arguments of `CONNECT_LIST_ALL_STORAGE_POOLS`.
    ConnectListAllStoragePoolsArgs { need_results: i32, flags: u32 }
    /// Result of `CONNECT_LIST_ALL_STORAGE_POOLS`; `ret` is the count.
    ConnectListAllStoragePoolsRet { pools: List<StoragePool, LIST_MAX>, ret: u32 }
    /// Arguments of `CONNECT_FIND_STORAGE_POOL_SOURCES`.
    ConnectFindStoragePoolSourcesArgs { r#type: String, src_spec: Option<String>, flags: u32 }
    /// Result of `CONNECT_FIND_STORAGE_POOL_SOURCES`.
    ConnectFindStoragePoolSourcesRet { xml: String }
    /// Arguments of `CONNECT_GET_STORAGE_POOL_CAPABILITIES`.
    ConnectGetStoragePoolCapabilitiesArgs { flags: u32 }
    /// Result of `CONNECT_GET_STORAGE_POOL_CAPABILITIES`.
    ConnectGetStoragePoolCapabilitiesRet { capabilities: String }

    // Pools.

    /// Arguments of `STORAGE_POOL_LOOKUP_BY_UUID`.
    StoragePoolLookupByUuidArgs { uuid: Uuid }
    /// Result of `STORAGE_POOL_LOOKUP_BY_UUID`.
    StoragePoolLookupByUuidRet { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_LOOKUP_BY_NAME`.
    StoragePoolLookupByNameArgs { name: String }
    /// Result of `STORAGE_POOL_LOOKUP_BY_NAME`.
    StoragePoolLookupByNameRet { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_LOOKUP_BY_VOLUME`.
    StoragePoolLookupByVolumeArgs { vol: StorageVol }
    /// Result of `STORAGE_POOL_LOOKUP_BY_VOLUME`.
    StoragePoolLookupByVolumeRet { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_LOOKUP_BY_TARGET_PATH`.
    StoragePoolLookupByTargetPathArgs { path: String }
    /// Result of `STORAGE_POOL_LOOKUP_BY_TARGET_PATH`.
    StoragePoolLookupByTargetPathRet { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_CREATE_XML`.
    StoragePoolCreateXmlArgs { xml: String, flags: u32 }
    /// Result of `STORAGE_POOL_CREATE_XML`.
    StoragePoolCreateXmlRet { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_DEFINE_XML`.
    StoragePoolDefineXmlArgs { xml: String, flags: u32 }
    /// Result of `STORAGE_POOL_DEFINE_XML`.
    StoragePoolDefineXmlRet { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_BUILD`.
    StoragePoolBuildArgs { pool: StoragePool, flags: u32 }
    /// Arguments of `STORAGE_POOL_UNDEFINE`.
    StoragePoolUndefineArgs { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_CREATE`.
    StoragePoolCreateArgs { pool: StoragePool, flags: u32 }
    /// Arguments of `STORAGE_POOL_DESTROY`.
    StoragePoolDestroyArgs { pool: StoragePool }
    /// Arguments of `STORAGE_POOL_DELETE`.
    StoragePoolDeleteArgs { pool: StoragePool, flags: u32 }
    /// Arguments of `STORAGE_POOL_REFRESH`.
    StoragePoolRefreshArgs { pool: StoragePool, flags: u32 }
    /// Arguments of `STORAGE_POOL_GET_XML_DESC`.
    StoragePoolGetXmlDescArgs { pool: StoragePool, flags: u32 }
    /// Result of `STORAGE_POOL_GET_XML_DESC`.
    StoragePoolGetXmlDescRet { xml: String }
    /// Arguments of `STORAGE_POOL_GET_INFO`.
    StoragePoolGetInfoArgs { pool: StoragePool }
    /// Result of `STORAGE_POOL_GET_INFO`; sizes in bytes.
    StoragePoolGetInfoRet { state: u8, capacity: u64, allocation: u64, available: u64 }
    /// Arguments of `STORAGE_POOL_GET_AUTOSTART`.
    StoragePoolGetAutostartArgs { pool: StoragePool }
    /// Result of `STORAGE_POOL_GET_AUTOSTART`.
    StoragePoolGetAutostartRet { autostart: i32 }
    /// Arguments of `STORAGE_POOL_SET_AUTOSTART`.
    StoragePoolSetAutostartArgs { pool: StoragePool, autostart: i32 }
    /// Arguments of `STORAGE_POOL_NUM_OF_VOLUMES`.
    StoragePoolNumOfVolumesArgs { pool: StoragePool }
    /// Result of `STORAGE_POOL_NUM_OF_VOLUMES`.
    StoragePoolNumOfVolumesRet { num: i32 }
    /// Arguments of `STORAGE_POOL_LIST_VOLUMES`.
    StoragePoolListVolumesArgs { pool: StoragePool, maxnames: i32 }
    /// Result of `STORAGE_POOL_LIST_VOLUMES`.
    StoragePoolListVolumesRet { names: Names }
    /// Arguments of `STORAGE_POOL_LIST_ALL_VOLUMES`.
    StoragePoolListAllVolumesArgs { pool: StoragePool, need_results: i32, flags: u32 }
    /// Result of `STORAGE_POOL_LIST_ALL_VOLUMES`; `ret` is the count.
    StoragePoolListAllVolumesRet { vols: List<StorageVol, LIST_MAX>, ret: u32 }
    /// Arguments of `STORAGE_POOL_IS_ACTIVE`.
    StoragePoolIsActiveArgs { pool: StoragePool }
    /// Result of `STORAGE_POOL_IS_ACTIVE`.
    StoragePoolIsActiveRet { active: i32 }
    /// Arguments of `STORAGE_POOL_IS_PERSISTENT`.
    StoragePoolIsPersistentArgs { pool: StoragePool }
    /// Result of `STORAGE_POOL_IS_PERSISTENT`.
    StoragePoolIsPersistentRet { persistent: i32 }

    // Volumes.

    /// Arguments of `STORAGE_VOL_LOOKUP_BY_NAME`.
    StorageVolLookupByNameArgs { pool: StoragePool, name: String }
    /// Result of `STORAGE_VOL_LOOKUP_BY_NAME`.
    StorageVolLookupByNameRet { vol: StorageVol }
    /// Arguments of `STORAGE_VOL_LOOKUP_BY_KEY`.
    StorageVolLookupByKeyArgs { key: String }
    /// Result of `STORAGE_VOL_LOOKUP_BY_KEY`.
    StorageVolLookupByKeyRet { vol: StorageVol }
    /// Arguments of `STORAGE_VOL_LOOKUP_BY_PATH`.
    StorageVolLookupByPathArgs { path: String }
    /// Result of `STORAGE_VOL_LOOKUP_BY_PATH`.
    StorageVolLookupByPathRet { vol: StorageVol }
    /// Arguments of `STORAGE_VOL_CREATE_XML`.
    StorageVolCreateXmlArgs { pool: StoragePool, xml: String, flags: u32 }
    /// Result of `STORAGE_VOL_CREATE_XML`.
    StorageVolCreateXmlRet { vol: StorageVol }
    /// Arguments of `STORAGE_VOL_CREATE_XML_FROM`.
    StorageVolCreateXmlFromArgs { pool: StoragePool, xml: String, clonevol: StorageVol, flags: u32 }
    /// Result of `STORAGE_VOL_CREATE_XML_FROM`.
    StorageVolCreateXmlFromRet { vol: StorageVol }
    /// Arguments of `STORAGE_VOL_DELETE`.
    StorageVolDeleteArgs { vol: StorageVol, flags: u32 }
    /// Arguments of `STORAGE_VOL_WIPE`.
    StorageVolWipeArgs { vol: StorageVol, flags: u32 }
    /// Arguments of `STORAGE_VOL_WIPE_PATTERN`.
    StorageVolWipePatternArgs { vol: StorageVol, algorithm: u32, flags: u32 }
    /// Arguments of `STORAGE_VOL_GET_XML_DESC`.
    StorageVolGetXmlDescArgs { vol: StorageVol, flags: u32 }
    /// Result of `STORAGE_VOL_GET_XML_DESC`.
    StorageVolGetXmlDescRet { xml: String }
    /// Arguments of `STORAGE_VOL_GET_INFO`.
    StorageVolGetInfoArgs { vol: StorageVol }
    /// Result of `STORAGE_VOL_GET_INFO`; sizes in bytes.
    StorageVolGetInfoRet { r#type: i8, capacity: u64, allocation: u64 }
    /// Arguments of `STORAGE_VOL_GET_INFO_FLAGS`.
    StorageVolGetInfoFlagsArgs { vol: StorageVol, flags: u32 }
    /// Result of `STORAGE_VOL_GET_INFO_FLAGS`; sizes in bytes.
    StorageVolGetInfoFlagsRet { r#type: i8, capacity: u64, allocation: u64 }
    /// Arguments of `STORAGE_VOL_GET_PATH`.
    StorageVolGetPathArgs { vol: StorageVol }
    /// Result of `STORAGE_VOL_GET_PATH`; `name` is the path.
    StorageVolGetPathRet { name: String }
    /// Arguments of `STORAGE_VOL_RESIZE`; capacity in bytes.
    StorageVolResizeArgs { vol: StorageVol, capacity: u64, flags: u32 }
    /// Arguments of `STORAGE_VOL_UPLOAD`; offset and length in bytes, length 0 for all.
    StorageVolUploadArgs { vol: StorageVol, offset: u64, length: u64, flags: u32 }
    /// Arguments of `STORAGE_VOL_DOWNLOAD`; offset and length in bytes, length 0 for all.
    StorageVolDownloadArgs { vol: StorageVol, offset: u64, length: u64, flags: u32 }

    // Events.

    /// Arguments of `CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY`.
    ConnectStoragePoolEventRegisterAnyArgs { event_id: i32, pool: Option<StoragePool> }
    /// Result of `CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY`.
    ConnectStoragePoolEventRegisterAnyRet { callback_id: i32 }
    /// Arguments of `CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY`.
    ConnectStoragePoolEventDeregisterAnyArgs { callback_id: i32 }
    /// Payload of a `STORAGE_POOL_EVENT_LIFECYCLE` message.
    StoragePoolEventLifecycleMsg { callback_id: i32, pool: StoragePool, event: i32, detail: i32 }
    /// Payload of a `STORAGE_POOL_EVENT_REFRESH` message.
    StoragePoolEventRefreshMsg { callback_id: i32, pool: StoragePool }
}
