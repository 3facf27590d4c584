// SPDX-License-Identifier: LGPL-2.1-or-later
//! The procedures that this crate knows: name, number, what they belong to.
//!
//! Numbers are never reused or changed by libvirt; a procedure that is not here is
//! one to pass on.

use std::fmt;

use crate::readonly;

/// What a procedure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The connection itself.
    Connection,
    /// A call of the storage driver.
    Storage,
    /// An event of the storage driver; never called.
    Event,
}

macro_rules! procedures {
    ($($variant:ident = $number:literal, $name:literal, $family:ident;)*) => {
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

            /// Its number on the wire.
            #[must_use]
            pub fn number(self) -> i32 {
                match self { $(Procedure::$variant => $number),* }
            }

            /// Its name in the protocol, without the prefix `REMOTE_PROC_`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Procedure::$variant => $name),* }
            }

            /// What it is about.
            #[must_use]
            pub fn family(self) -> Family {
                match self { $(Procedure::$variant => Family::$family),* }
            }
        }
    };
}

procedures! {
    ConnectOpen = 1, "CONNECT_OPEN", Connection;
    ConnectClose = 2, "CONNECT_CLOSE", Connection;
    ConnectGetType = 3, "CONNECT_GET_TYPE", Connection;
    ConnectGetVersion = 4, "CONNECT_GET_VERSION", Connection;
    ConnectGetCapabilities = 7, "CONNECT_GET_CAPABILITIES", Connection;
    ConnectGetHostname = 59, "CONNECT_GET_HOSTNAME", Connection;
    ConnectSupportsFeature = 60, "CONNECT_SUPPORTS_FEATURE", Connection;
    AuthList = 66, "AUTH_LIST", Connection;
    AuthSaslInit = 67, "AUTH_SASL_INIT", Connection;
    AuthSaslStart = 68, "AUTH_SASL_START", Connection;
    AuthSaslStep = 69, "AUTH_SASL_STEP", Connection;
    AuthPolkit = 70, "AUTH_POLKIT", Connection;
    ConnectGetUri = 110, "CONNECT_GET_URI", Connection;
    ConnectIsSecure = 149, "CONNECT_IS_SECURE", Connection;
    ConnectGetLibVersion = 157, "CONNECT_GET_LIB_VERSION", Connection;
    ConnectRegisterCloseCallback = 360, "CONNECT_REGISTER_CLOSE_CALLBACK", Connection;
    ConnectUnregisterCloseCallback = 361, "CONNECT_UNREGISTER_CLOSE_CALLBACK", Connection;
    ConnectEventConnectionClosed = 362, "CONNECT_EVENT_CONNECTION_CLOSED", Connection;
    ConnectSetIdentity = 419, "CONNECT_SET_IDENTITY", Connection;
    ConnectNumOfStoragePools = 71, "CONNECT_NUM_OF_STORAGE_POOLS", Storage;
    ConnectListStoragePools = 72, "CONNECT_LIST_STORAGE_POOLS", Storage;
    ConnectNumOfDefinedStoragePools = 73, "CONNECT_NUM_OF_DEFINED_STORAGE_POOLS", Storage;
    ConnectListDefinedStoragePools = 74, "CONNECT_LIST_DEFINED_STORAGE_POOLS", Storage;
    ConnectFindStoragePoolSources = 75, "CONNECT_FIND_STORAGE_POOL_SOURCES", Storage;
    StoragePoolCreateXml = 76, "STORAGE_POOL_CREATE_XML", Storage;
    StoragePoolDefineXml = 77, "STORAGE_POOL_DEFINE_XML", Storage;
    StoragePoolCreate = 78, "STORAGE_POOL_CREATE", Storage;
    StoragePoolBuild = 79, "STORAGE_POOL_BUILD", Storage;
    StoragePoolDestroy = 80, "STORAGE_POOL_DESTROY", Storage;
    StoragePoolDelete = 81, "STORAGE_POOL_DELETE", Storage;
    StoragePoolUndefine = 82, "STORAGE_POOL_UNDEFINE", Storage;
    StoragePoolRefresh = 83, "STORAGE_POOL_REFRESH", Storage;
    StoragePoolLookupByName = 84, "STORAGE_POOL_LOOKUP_BY_NAME", Storage;
    StoragePoolLookupByUuid = 85, "STORAGE_POOL_LOOKUP_BY_UUID", Storage;
    StoragePoolLookupByVolume = 86, "STORAGE_POOL_LOOKUP_BY_VOLUME", Storage;
    StoragePoolGetInfo = 87, "STORAGE_POOL_GET_INFO", Storage;
    StoragePoolGetXmlDesc = 88, "STORAGE_POOL_GET_XML_DESC", Storage;
    StoragePoolGetAutostart = 89, "STORAGE_POOL_GET_AUTOSTART", Storage;
    StoragePoolSetAutostart = 90, "STORAGE_POOL_SET_AUTOSTART", Storage;
    StoragePoolNumOfVolumes = 91, "STORAGE_POOL_NUM_OF_VOLUMES", Storage;
    StoragePoolListVolumes = 92, "STORAGE_POOL_LIST_VOLUMES", Storage;
    StorageVolCreateXml = 93, "STORAGE_VOL_CREATE_XML", Storage;
    StorageVolDelete = 94, "STORAGE_VOL_DELETE", Storage;
    StorageVolLookupByName = 95, "STORAGE_VOL_LOOKUP_BY_NAME", Storage;
    StorageVolLookupByKey = 96, "STORAGE_VOL_LOOKUP_BY_KEY", Storage;
    StorageVolLookupByPath = 97, "STORAGE_VOL_LOOKUP_BY_PATH", Storage;
    StorageVolGetInfo = 98, "STORAGE_VOL_GET_INFO", Storage;
    StorageVolGetXmlDesc = 99, "STORAGE_VOL_GET_XML_DESC", Storage;
    StorageVolGetPath = 100, "STORAGE_VOL_GET_PATH", Storage;
    StorageVolCreateXmlFrom = 125, "STORAGE_VOL_CREATE_XML_FROM", Storage;
    StoragePoolIsActive = 154, "STORAGE_POOL_IS_ACTIVE", Storage;
    StoragePoolIsPersistent = 155, "STORAGE_POOL_IS_PERSISTENT", Storage;
    StorageVolWipe = 165, "STORAGE_VOL_WIPE", Storage;
    StorageVolUpload = 208, "STORAGE_VOL_UPLOAD", Storage;
    StorageVolDownload = 209, "STORAGE_VOL_DOWNLOAD", Storage;
    StorageVolWipePattern = 259, "STORAGE_VOL_WIPE_PATTERN", Storage;
    StorageVolResize = 260, "STORAGE_VOL_RESIZE", Storage;
    ConnectListAllStoragePools = 281, "CONNECT_LIST_ALL_STORAGE_POOLS", Storage;
    StoragePoolListAllVolumes = 282, "STORAGE_POOL_LIST_ALL_VOLUMES", Storage;
    StorageVolGetInfoFlags = 378, "STORAGE_VOL_GET_INFO_FLAGS", Storage;
    StoragePoolLookupByTargetPath = 391, "STORAGE_POOL_LOOKUP_BY_TARGET_PATH", Storage;
    ConnectGetStoragePoolCapabilities = 403, "CONNECT_GET_STORAGE_POOL_CAPABILITIES", Storage;
    ConnectStoragePoolEventRegisterAny = 368, "CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY", Storage;
    ConnectStoragePoolEventDeregisterAny = 369, "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY", Storage;
    StoragePoolEventLifecycle = 370, "STORAGE_POOL_EVENT_LIFECYCLE", Event;
    StoragePoolEventRefresh = 373, "STORAGE_POOL_EVENT_REFRESH", Event;
}

impl Procedure {
    /// Whether it is a call of the storage driver.
    #[must_use]
    pub fn is_storage(self) -> bool {
        self.family() == Family::Storage
    }

    /// Whether a client of the read-only socket may call it.
    #[must_use]
    pub fn allowed_read_only(self) -> bool {
        readonly::allowed(self.number())
    }
}

/// Whether a client of the read-only socket may call that number of the remote program,
/// known to [`Procedure`] or not. What a newer libvirt added is for libvirt to refuse.
#[must_use]
pub fn allowed_read_only(number: i32) -> bool {
    readonly::allowed(number)
}

impl fmt::Display for Procedure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
#[path = "procedure_tests.rs"]
mod tests;
