// SPDX-License-Identifier: LGPL-2.1-or-later
//! For tests and fuzzing: which payload has which type, and that what decodes encodes to the
//! same bytes. This file is a module of several crates, so it names its own by its full name.

use virtnotify_wire::connect::*;
use virtnotify_wire::storage::*;
use virtnotify_wire::{
    Frame, MessageType, Procedure, RemoteError, Status, Xdr, XdrError, decode, encode,
};

fn same<T: Xdr>(payload: &[u8]) -> Result<(), XdrError> {
    let value: T = decode(payload)?;
    assert_eq!(encode(&value)?, payload);
    Ok(())
}

/// A check of a payload.
pub type Check = fn(&[u8]) -> Result<(), XdrError>;

macro_rules! payloads {
    ($($variant:ident($args:ty, $ret:ty),)*) => {
        /// How a call's arguments and its result are checked.
        pub fn checks(procedure: Procedure) -> Option<(Check, Check)> {
            match procedure {
                $(Procedure::$variant => Some((same::<$args>, same::<$ret>)),)*
                _ => None,
            }
        }
    };
}

payloads! {
    AuthList((), AuthListRet),
    ConnectOpen(ConnectOpenArgs, ()),
    ConnectClose((), ()),
    ConnectSupportsFeature(
        ConnectSupportsFeatureArgs,
        ConnectSupportsFeatureRet
    ),
    ConnectNumOfStoragePools((), ConnectNumOfStoragePoolsRet),
    ConnectListStoragePools(ConnectListStoragePoolsArgs, ConnectListStoragePoolsRet),
    ConnectNumOfDefinedStoragePools((), ConnectNumOfDefinedStoragePoolsRet),
    ConnectListDefinedStoragePools(
        ConnectListDefinedStoragePoolsArgs,
        ConnectListDefinedStoragePoolsRet
    ),
    ConnectListAllStoragePools(ConnectListAllStoragePoolsArgs, ConnectListAllStoragePoolsRet),
    ConnectFindStoragePoolSources(
        ConnectFindStoragePoolSourcesArgs,
        ConnectFindStoragePoolSourcesRet
    ),
    ConnectGetStoragePoolCapabilities(
        ConnectGetStoragePoolCapabilitiesArgs,
        ConnectGetStoragePoolCapabilitiesRet
    ),
    StoragePoolLookupByUuid(StoragePoolLookupByUuidArgs, StoragePoolLookupByUuidRet),
    StoragePoolLookupByName(StoragePoolLookupByNameArgs, StoragePoolLookupByNameRet),
    StoragePoolLookupByVolume(StoragePoolLookupByVolumeArgs, StoragePoolLookupByVolumeRet),
    StoragePoolLookupByTargetPath(
        StoragePoolLookupByTargetPathArgs,
        StoragePoolLookupByTargetPathRet
    ),
    StoragePoolCreateXml(StoragePoolCreateXmlArgs, StoragePoolCreateXmlRet),
    StoragePoolDefineXml(StoragePoolDefineXmlArgs, StoragePoolDefineXmlRet),
    StoragePoolBuild(StoragePoolBuildArgs, ()),
    StoragePoolUndefine(StoragePoolUndefineArgs, ()),
    StoragePoolCreate(StoragePoolCreateArgs, ()),
    StoragePoolDestroy(StoragePoolDestroyArgs, ()),
    StoragePoolDelete(StoragePoolDeleteArgs, ()),
    StoragePoolRefresh(StoragePoolRefreshArgs, ()),
    StoragePoolGetXmlDesc(StoragePoolGetXmlDescArgs, StoragePoolGetXmlDescRet),
    StoragePoolGetInfo(StoragePoolGetInfoArgs, StoragePoolGetInfoRet),
    StoragePoolGetAutostart(StoragePoolGetAutostartArgs, StoragePoolGetAutostartRet),
    StoragePoolSetAutostart(StoragePoolSetAutostartArgs, ()),
    StoragePoolNumOfVolumes(StoragePoolNumOfVolumesArgs, StoragePoolNumOfVolumesRet),
    StoragePoolListVolumes(StoragePoolListVolumesArgs, StoragePoolListVolumesRet),
    StoragePoolListAllVolumes(StoragePoolListAllVolumesArgs, StoragePoolListAllVolumesRet),
    StoragePoolIsActive(StoragePoolIsActiveArgs, StoragePoolIsActiveRet),
    StoragePoolIsPersistent(StoragePoolIsPersistentArgs, StoragePoolIsPersistentRet),
    StorageVolLookupByName(StorageVolLookupByNameArgs, StorageVolLookupByNameRet),
    StorageVolLookupByKey(StorageVolLookupByKeyArgs, StorageVolLookupByKeyRet),
    StorageVolLookupByPath(StorageVolLookupByPathArgs, StorageVolLookupByPathRet),
    StorageVolCreateXml(StorageVolCreateXmlArgs, StorageVolCreateXmlRet),
    StorageVolCreateXmlFrom(StorageVolCreateXmlFromArgs, StorageVolCreateXmlFromRet),
    StorageVolDelete(StorageVolDeleteArgs, ()),
    StorageVolWipe(StorageVolWipeArgs, ()),
    StorageVolWipePattern(StorageVolWipePatternArgs, ()),
    StorageVolGetXmlDesc(StorageVolGetXmlDescArgs, StorageVolGetXmlDescRet),
    StorageVolGetInfo(StorageVolGetInfoArgs, StorageVolGetInfoRet),
    StorageVolGetInfoFlags(StorageVolGetInfoFlagsArgs, StorageVolGetInfoFlagsRet),
    StorageVolGetPath(StorageVolGetPathArgs, StorageVolGetPathRet),
    StorageVolResize(StorageVolResizeArgs, ()),
    StorageVolUpload(StorageVolUploadArgs, ()),
    StorageVolDownload(StorageVolDownloadArgs, ()),
    ConnectStoragePoolEventRegisterAny(
        ConnectStoragePoolEventRegisterAnyArgs,
        ConnectStoragePoolEventRegisterAnyRet
    ),
    ConnectStoragePoolEventDeregisterAny(ConnectStoragePoolEventDeregisterAnyArgs, ()),
}

/// How the payload of a frame is checked, if it has a form.
pub fn check_of(frame: &Frame) -> Option<Check> {
    let procedure = frame.known_procedure()?;
    match (frame.header.kind, frame.header.status) {
        (_, Status::Error) => Some(same::<RemoteError>),
        (MessageType::StreamHole, _) => Some(same::<StreamHole>),
        (MessageType::Message, _) => Some(match procedure {
            Procedure::StoragePoolEventLifecycle => same::<StoragePoolEventLifecycleMsg>,
            _ => same::<StoragePoolEventRefreshMsg>,
        }),
        (MessageType::Call, _) => Some(checks(procedure)?.0),
        (MessageType::Reply, _) => Some(checks(procedure)?.1),
        _ => None,
    }
}
