// SPDX-License-Identifier: LGPL-2.1-or-later
//! For tests and fuzzing: which payload has which type, and how it is read and written again. This
//! file is a module of several crates, so it names its own by its full name.

use virtnotify_wire::connect::*;
use virtnotify_wire::storage::*;
use virtnotify_wire::{
    Frame, MessageType, Procedure, RemoteError, Status, Xdr, XdrError, decode, encode,
};

fn again<T: Xdr>(payload: &[u8]) -> Result<Vec<u8>, XdrError> {
    let value: T = decode(payload)?;
    Ok(encode(&value).expect("what was read cannot be written"))
}

/// Reads a payload and writes what it means: what libvirt itself sends comes out as it was.
pub type Again = fn(&[u8]) -> Result<Vec<u8>, XdrError>;

macro_rules! payloads {
    ($($variant:ident($args:ty, $ret:ty),)*) => {
        /// How a call's arguments and its result are read.
        pub fn types(procedure: Procedure) -> Option<(Again, Again)> {
            match procedure {
                $(Procedure::$variant => Some((again::<$args>, again::<$ret>)),)*
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

/// How the payload of a frame is read, if it has a form.
pub fn type_of(frame: &Frame) -> Option<Again> {
    let procedure = frame.known_procedure()?;
    match (frame.header.kind, frame.header.status) {
        (_, Status::Error) => Some(again::<RemoteError>),
        (MessageType::StreamHole, _) => Some(again::<StreamHole>),
        (MessageType::Message, _) => Some(match procedure {
            Procedure::StoragePoolEventLifecycle => again::<StoragePoolEventLifecycleMsg>,
            _ => again::<StoragePoolEventRefreshMsg>,
        }),
        (MessageType::Call, _) => Some(types(procedure)?.0),
        (MessageType::Reply, _) => Some(types(procedure)?.1),
        _ => None,
    }
}
