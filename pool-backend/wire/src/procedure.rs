// SPDX-License-Identifier: LGPL-2.1-or-later
//! The procedures that this crate knows, in one table: name, number, arguments and result, what a
//! call is about, whether a read-only client may make it, and which permissions libvirt asks for.
//!
//! All else follows from it: who answers a call, what a read-only client may do, what polkit is
//! asked. Numbers are never reused or changed by libvirt; a procedure that is not here is one to
//! pass on.

use std::fmt;

use crate::codec::Codec;
use crate::connect::*;
use crate::permission::Permission;
use crate::readonly;
use crate::storage::*;

/// What a call is about, which says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Who the client is.
    Authentication,
    /// The connection itself.
    Connection(Effect),
    /// Nothing: it is an event, and never called.
    Event,
    /// All pools, of which there is a list.
    Pools(Which, Form),
    /// What the pool types can do.
    Capabilities,
    /// What pools could be made of. The arguments begin with their type.
    Sources,
    /// A pool that is to be. The arguments begin with its XML.
    Definition,
    /// A pool, by its name.
    PoolName,
    /// A pool, by its UUID.
    PoolUuid,
    /// A pool, by its directory.
    PoolPath,
    /// A pool. The arguments begin with it, as with each of the next four.
    Pool,
    /// The volumes of a pool, of which there is a list.
    Volumes(Form),
    /// A volume of a pool, by its name.
    VolumeName,
    /// A volume that is to be.
    NewVolume,
    /// A volume that is to hold what another one holds.
    Clone,
    /// A volume, by its key.
    VolumeKey,
    /// A volume, by its path.
    VolumePath,
    /// A volume. The arguments begin with it, as with each of the next three.
    Volume,
    /// The pool of a volume.
    PoolOfVolume,
    /// What a volume holds, to the client.
    Download,
    /// What a volume holds, from the client.
    Upload,
    /// Events that the client wants to hear of.
    Register,
    /// Events that it no longer wants to hear of.
    Deregister,
}

/// Whether a call leaves something behind in the connection that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It may be repeated on another connection.
    Passing,
    /// What it did ends with the connection.
    Lasting,
}

/// Which pools a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that are active.
    Active,
    /// Those that are not.
    Inactive,
    /// Those that the flags let through.
    Flagged,
}

/// What is told of the entries of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// How many there are.
    Count,
    /// Their names.
    Names,
    /// Everything by which a client knows them, and how many there are.
    Handles,
}

/// Which connections may carry a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A read-only one as well.
    ReadOnly,
    /// One that may change something.
    ReadWrite,
}

/// What the table says of a procedure.
struct Row {
    number: i32,
    name: &'static str,
    codec: Option<Codec>,
    about: About,
    access: Access,
    permissions: &'static [Permission],
    filter: Option<Permission>,
}

macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

macro_rules! procedures {
    ($(
        $variant:ident = $number:literal, $name:literal $(: $args:ty => $ret:ty)?,
            $about:expr, $access:ident, [$($object:ident($permission:literal)),*]
            $(filter $entry:ident($shown:literal))?;
    )*) => {
        /// A known procedure of the remote program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are the protocol's own")]
        pub enum Procedure { $($variant = $number),* }

        impl Procedure {
            /// All of them.
            pub const ALL: &'static [Procedure] = &[$(Procedure::$variant),*];

            /// The procedure of that number, if known.
            #[must_use]
            pub fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Procedure::$variant),)*
                    _ => None,
                }
            }

            fn row(self) -> &'static Row {
                use About::*;
                use Effect::*;
                use Form::*;
                use Which::*;
                match self {
                    $(Procedure::$variant => &const { Row {
                        number: $number,
                        name: $name,
                        codec: optional!($(Codec::of::<$args, $ret>())?),
                        about: $about,
                        access: Access::$access,
                        permissions: &[$(Permission::$object($permission)),*],
                        filter: optional!($(Permission::$entry($shown))?),
                    } },)*
                }
            }
        }
    };
}

// Each row: number, name, arguments and result where they are known here; what it is about, which
// connections may carry it, what libvirt asks its access drivers for (`@acl`), and what of each
// entry of a list (`@aclfilter`).
procedures! {
    ConnectOpen = 1, "CONNECT_OPEN": ConnectOpenArgs => (),
        Connection(Lasting), ReadOnly, [Connect("getattr")];
    ConnectClose = 2, "CONNECT_CLOSE": () => (),
        Connection(Lasting), ReadOnly, [];
    ConnectGetType = 3, "CONNECT_GET_TYPE": () => ConnectGetTypeRet,
        Connection(Passing), ReadOnly, [Connect("getattr")];
    ConnectGetVersion = 4, "CONNECT_GET_VERSION",
        Connection(Passing), ReadOnly, [Connect("getattr")];
    ConnectGetCapabilities = 7, "CONNECT_GET_CAPABILITIES",
        Connection(Passing), ReadOnly, [Connect("read")];
    ConnectGetHostname = 59, "CONNECT_GET_HOSTNAME",
        Connection(Passing), ReadOnly, [Connect("getattr")];
    ConnectSupportsFeature = 60, "CONNECT_SUPPORTS_FEATURE":
        ConnectSupportsFeatureArgs => ConnectSupportsFeatureRet,
        Connection(Passing), ReadOnly, [Connect("getattr")];
    AuthList = 66, "AUTH_LIST": () => AuthListRet,
        Authentication, ReadOnly, [];
    AuthSaslInit = 67, "AUTH_SASL_INIT",
        Authentication, ReadOnly, [];
    AuthSaslStart = 68, "AUTH_SASL_START",
        Authentication, ReadOnly, [];
    AuthSaslStep = 69, "AUTH_SASL_STEP",
        Authentication, ReadOnly, [];
    AuthPolkit = 70, "AUTH_POLKIT": () => AuthPolkitRet,
        Authentication, ReadOnly, [];
    ConnectGetUri = 110, "CONNECT_GET_URI",
        Connection(Passing), ReadOnly, [Connect("getattr")];
    ConnectIsSecure = 149, "CONNECT_IS_SECURE",
        Connection(Passing), ReadOnly, [];
    ConnectGetLibVersion = 157, "CONNECT_GET_LIB_VERSION",
        Connection(Passing), ReadOnly, [Connect("getattr")];
    ConnectRegisterCloseCallback = 360, "CONNECT_REGISTER_CLOSE_CALLBACK",
        Connection(Lasting), ReadOnly, [Connect("getattr")];
    ConnectUnregisterCloseCallback = 361, "CONNECT_UNREGISTER_CLOSE_CALLBACK",
        Connection(Lasting), ReadOnly, [Connect("getattr")];
    ConnectEventConnectionClosed = 362, "CONNECT_EVENT_CONNECTION_CLOSED",
        Event, ReadWrite, [];
    ConnectSetIdentity = 419, "CONNECT_SET_IDENTITY": ConnectSetIdentityArgs => (),
        Connection(Lasting), ReadOnly, [Connect("write")];
    ConnectNumOfStoragePools = 71, "CONNECT_NUM_OF_STORAGE_POOLS":
        () => ConnectNumOfStoragePoolsRet,
        Pools(Active, Count), ReadOnly, [Connect("search_storage_pools")] filter Pool("getattr");
    ConnectListStoragePools = 72, "CONNECT_LIST_STORAGE_POOLS":
        ConnectListStoragePoolsArgs => ConnectListStoragePoolsRet,
        Pools(Active, Names), ReadOnly, [Connect("search_storage_pools")] filter Pool("getattr");
    ConnectNumOfDefinedStoragePools = 73, "CONNECT_NUM_OF_DEFINED_STORAGE_POOLS":
        () => ConnectNumOfDefinedStoragePoolsRet,
        Pools(Inactive, Count), ReadOnly, [Connect("search_storage_pools")] filter Pool("getattr");
    ConnectListDefinedStoragePools = 74, "CONNECT_LIST_DEFINED_STORAGE_POOLS":
        ConnectListDefinedStoragePoolsArgs => ConnectListDefinedStoragePoolsRet,
        Pools(Inactive, Names), ReadOnly, [Connect("search_storage_pools")] filter Pool("getattr");
    ConnectFindStoragePoolSources = 75, "CONNECT_FIND_STORAGE_POOL_SOURCES":
        ConnectFindStoragePoolSourcesArgs => ConnectFindStoragePoolSourcesRet,
        Sources, ReadWrite, [Connect("detect_storage_pools")];
    StoragePoolCreateXml = 76, "STORAGE_POOL_CREATE_XML":
        StoragePoolCreateXmlArgs => StoragePoolCreateXmlRet,
        Definition, ReadWrite, [Pool("start"), Pool("write")];
    StoragePoolDefineXml = 77, "STORAGE_POOL_DEFINE_XML":
        StoragePoolDefineXmlArgs => StoragePoolDefineXmlRet,
        Definition, ReadWrite, [Pool("write"), Pool("save")];
    StoragePoolCreate = 78, "STORAGE_POOL_CREATE": StoragePoolCreateArgs => (),
        Pool, ReadWrite, [Pool("start")];
    StoragePoolBuild = 79, "STORAGE_POOL_BUILD": StoragePoolBuildArgs => (),
        Pool, ReadWrite, [Pool("format")];
    StoragePoolDestroy = 80, "STORAGE_POOL_DESTROY": StoragePoolDestroyArgs => (),
        Pool, ReadWrite, [Pool("stop")];
    StoragePoolDelete = 81, "STORAGE_POOL_DELETE": StoragePoolDeleteArgs => (),
        Pool, ReadWrite, [Pool("format")];
    StoragePoolUndefine = 82, "STORAGE_POOL_UNDEFINE": StoragePoolUndefineArgs => (),
        Pool, ReadWrite, [Pool("delete")];
    StoragePoolRefresh = 83, "STORAGE_POOL_REFRESH": StoragePoolRefreshArgs => (),
        Pool, ReadWrite, [Pool("refresh")];
    StoragePoolLookupByName = 84, "STORAGE_POOL_LOOKUP_BY_NAME":
        StoragePoolLookupByNameArgs => StoragePoolLookupByNameRet,
        PoolName, ReadOnly, [Pool("getattr")];
    StoragePoolLookupByUuid = 85, "STORAGE_POOL_LOOKUP_BY_UUID":
        StoragePoolLookupByUuidArgs => StoragePoolLookupByUuidRet,
        PoolUuid, ReadOnly, [Pool("getattr")];
    StoragePoolLookupByVolume = 86, "STORAGE_POOL_LOOKUP_BY_VOLUME":
        StoragePoolLookupByVolumeArgs => StoragePoolLookupByVolumeRet,
        PoolOfVolume, ReadOnly, [Pool("getattr")];
    StoragePoolGetInfo = 87, "STORAGE_POOL_GET_INFO":
        StoragePoolGetInfoArgs => StoragePoolGetInfoRet,
        Pool, ReadOnly, [Pool("read")];
    StoragePoolGetXmlDesc = 88, "STORAGE_POOL_GET_XML_DESC":
        StoragePoolGetXmlDescArgs => StoragePoolGetXmlDescRet,
        Pool, ReadOnly, [Pool("read")];
    StoragePoolGetAutostart = 89, "STORAGE_POOL_GET_AUTOSTART":
        StoragePoolGetAutostartArgs => StoragePoolGetAutostartRet,
        Pool, ReadOnly, [Pool("read")];
    StoragePoolSetAutostart = 90, "STORAGE_POOL_SET_AUTOSTART": StoragePoolSetAutostartArgs => (),
        Pool, ReadWrite, [Pool("write")];
    StoragePoolNumOfVolumes = 91, "STORAGE_POOL_NUM_OF_VOLUMES":
        StoragePoolNumOfVolumesArgs => StoragePoolNumOfVolumesRet,
        Volumes(Count), ReadOnly, [Pool("search_storage_vols")] filter Volume("getattr");
    StoragePoolListVolumes = 92, "STORAGE_POOL_LIST_VOLUMES":
        StoragePoolListVolumesArgs => StoragePoolListVolumesRet,
        Volumes(Names), ReadOnly, [Pool("search_storage_vols")] filter Volume("getattr");
    StorageVolCreateXml = 93, "STORAGE_VOL_CREATE_XML":
        StorageVolCreateXmlArgs => StorageVolCreateXmlRet,
        NewVolume, ReadWrite, [Volume("create")];
    StorageVolDelete = 94, "STORAGE_VOL_DELETE": StorageVolDeleteArgs => (),
        Volume, ReadWrite, [Volume("delete")];
    StorageVolLookupByName = 95, "STORAGE_VOL_LOOKUP_BY_NAME":
        StorageVolLookupByNameArgs => StorageVolLookupByNameRet,
        VolumeName, ReadOnly, [Volume("getattr")];
    StorageVolLookupByKey = 96, "STORAGE_VOL_LOOKUP_BY_KEY":
        StorageVolLookupByKeyArgs => StorageVolLookupByKeyRet,
        VolumeKey, ReadOnly, [Volume("getattr")];
    StorageVolLookupByPath = 97, "STORAGE_VOL_LOOKUP_BY_PATH":
        StorageVolLookupByPathArgs => StorageVolLookupByPathRet,
        VolumePath, ReadOnly, [Volume("getattr")];
    StorageVolGetInfo = 98, "STORAGE_VOL_GET_INFO": StorageVolGetInfoArgs => StorageVolGetInfoRet,
        Volume, ReadOnly, [Volume("read")];
    StorageVolGetXmlDesc = 99, "STORAGE_VOL_GET_XML_DESC":
        StorageVolGetXmlDescArgs => StorageVolGetXmlDescRet,
        Volume, ReadOnly, [Volume("read")];
    StorageVolGetPath = 100, "STORAGE_VOL_GET_PATH": StorageVolGetPathArgs => StorageVolGetPathRet,
        Volume, ReadOnly, [Volume("read")];
    StorageVolCreateXmlFrom = 125, "STORAGE_VOL_CREATE_XML_FROM":
        StorageVolCreateXmlFromArgs => StorageVolCreateXmlFromRet,
        Clone, ReadWrite, [Volume("create")];
    StoragePoolIsActive = 154, "STORAGE_POOL_IS_ACTIVE":
        StoragePoolIsActiveArgs => StoragePoolIsActiveRet,
        Pool, ReadOnly, [Pool("read")];
    StoragePoolIsPersistent = 155, "STORAGE_POOL_IS_PERSISTENT":
        StoragePoolIsPersistentArgs => StoragePoolIsPersistentRet,
        Pool, ReadOnly, [Pool("read")];
    StorageVolWipe = 165, "STORAGE_VOL_WIPE": StorageVolWipeArgs => (),
        Volume, ReadWrite, [Volume("format")];
    StorageVolUpload = 208, "STORAGE_VOL_UPLOAD": StorageVolUploadArgs => (),
        Upload, ReadWrite, [Volume("data_write")];
    StorageVolDownload = 209, "STORAGE_VOL_DOWNLOAD": StorageVolDownloadArgs => (),
        Download, ReadWrite, [Volume("data_read")];
    StorageVolWipePattern = 259, "STORAGE_VOL_WIPE_PATTERN": StorageVolWipePatternArgs => (),
        Volume, ReadWrite, [Volume("format")];
    StorageVolResize = 260, "STORAGE_VOL_RESIZE": StorageVolResizeArgs => (),
        Volume, ReadWrite, [Volume("resize")];
    ConnectListAllStoragePools = 281, "CONNECT_LIST_ALL_STORAGE_POOLS":
        ConnectListAllStoragePoolsArgs => ConnectListAllStoragePoolsRet,
        Pools(Flagged, Handles), ReadOnly, [Connect("search_storage_pools")] filter Pool("getattr");
    StoragePoolListAllVolumes = 282, "STORAGE_POOL_LIST_ALL_VOLUMES":
        StoragePoolListAllVolumesArgs => StoragePoolListAllVolumesRet,
        Volumes(Handles), ReadOnly, [Pool("search_storage_vols")] filter Volume("getattr");
    StorageVolGetInfoFlags = 378, "STORAGE_VOL_GET_INFO_FLAGS":
        StorageVolGetInfoFlagsArgs => StorageVolGetInfoFlagsRet,
        Volume, ReadOnly, [Volume("read")];
    StoragePoolLookupByTargetPath = 391, "STORAGE_POOL_LOOKUP_BY_TARGET_PATH":
        StoragePoolLookupByTargetPathArgs => StoragePoolLookupByTargetPathRet,
        PoolPath, ReadOnly, [Pool("getattr")];
    ConnectGetStoragePoolCapabilities = 403, "CONNECT_GET_STORAGE_POOL_CAPABILITIES":
        ConnectGetStoragePoolCapabilitiesArgs => ConnectGetStoragePoolCapabilitiesRet,
        Capabilities, ReadOnly, [Connect("read")];
    ConnectStoragePoolEventRegisterAny = 368, "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY":
        ConnectStoragePoolEventRegisterAnyArgs => ConnectStoragePoolEventRegisterAnyRet,
        Register, ReadOnly, [Connect("search_storage_pools")] filter Pool("getattr");
    ConnectStoragePoolEventDeregisterAny = 369, "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY":
        ConnectStoragePoolEventDeregisterAnyArgs => (),
        Deregister, ReadOnly, [Connect("read")];
    StoragePoolEventLifecycle = 370, "STORAGE_POOL_EVENT_LIFECYCLE":
        StoragePoolEventLifecycleMsg => (),
        Event, ReadWrite, [];
    StoragePoolEventRefresh = 373, "STORAGE_POOL_EVENT_REFRESH": StoragePoolEventRefreshMsg => (),
        Event, ReadWrite, [];
}

impl Procedure {
    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> i32 {
        self.row().number
    }

    /// Its name in the protocol, without the prefix `REMOTE_PROC_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// How its arguments and its result are read, where that is known here.
    #[must_use]
    pub fn codec(self) -> Option<Codec> {
        self.row().codec
    }

    /// What it is about.
    #[must_use]
    pub fn about(self) -> About {
        self.row().about
    }

    /// The permissions that libvirt asks for, all of them, before it answers.
    #[must_use]
    pub fn permissions(self) -> &'static [Permission] {
        self.row().permissions
    }

    /// The permission that libvirt asks for before it shows an entry of the answer.
    #[must_use]
    pub fn filter(self) -> Option<Permission> {
        self.row().filter
    }

    /// Whether it is a call of the storage driver.
    #[must_use]
    pub fn is_storage(self) -> bool {
        !matches!(self.about(), About::Authentication | About::Connection(_) | About::Event)
    }

    /// Whether a client of the read-only socket may call it.
    #[must_use]
    pub fn allowed_read_only(self) -> bool {
        self.row().access == Access::ReadOnly
    }
}

/// Whether a client of the read-only socket may call that number of the remote program,
/// known to [`Procedure`] or not. What a newer libvirt added is for libvirt to refuse.
#[must_use]
pub fn allowed_read_only(number: i32) -> bool {
    match Procedure::from_number(number) {
        Some(procedure) => procedure.allowed_read_only(),
        None => readonly::allowed(number),
    }
}

impl fmt::Display for Procedure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
#[path = "procedure_tests.rs"]
mod tests;
