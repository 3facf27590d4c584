// SPDX-License-Identifier: LGPL-2.1-or-later
//! The error that a reply carries, with libvirt's codes and domains.

use crate::connect::{RemoteDomain, RemoteNetwork};
use crate::xdr::{Reader, Xdr, XdrError, xdr_structs};

macro_rules! codes {
    ($(#[$meta:meta])* $type:ident { $($(#[$doc:meta])* $name:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub i32);
        #[allow(missing_docs, reason = "the names are libvirt's own")]
        impl $type {
            $($(#[$doc])* pub const $name: $type = $type($number);)*
        }
    };
}

codes! {
    /// `virErrorNumber`: what went wrong.
    ErrorCode {
        INTERNAL_ERROR = 1,
        NO_MEMORY = 2,
        NO_SUPPORT = 3,
        NO_CONNECT = 5,
        INVALID_CONN = 6,
        INVALID_ARG = 8,
        OPERATION_FAILED = 9,
        XML_ERROR = 27,
        OPERATION_DENIED = 29,
        XML_DETAIL = 35,
        SYSTEM_ERROR = 38,
        RPC = 39,
        AUTH_FAILED = 45,
        INVALID_STORAGE_POOL = 46,
        INVALID_STORAGE_VOL = 47,
        NO_STORAGE_POOL = 49,
        NO_STORAGE_VOL = 50,
        OPERATION_INVALID = 55,
        CONFIG_UNSUPPORTED = 67,
        OPERATION_TIMEOUT = 68,
        STORAGE_PROBE_FAILED = 75,
        STORAGE_POOL_BUILT = 76,
        OPERATION_ABORTED = 78,
        AUTH_CANCELLED = 79,
        OPERATION_UNSUPPORTED = 84,
        ACCESS_DENIED = 88,
        STORAGE_VOL_EXIST = 90,
        XML_INVALID_SCHEMA = 92,
        AUTH_UNAVAILABLE = 94,
    }
}

codes! {
    /// `virErrorDomain`: the part of libvirt that speaks.
    ErrorDomain {
        NONE = 0,
        XML = 5,
        RPC = 7,
        REMOTE = 13,
        STORAGE = 18,
        STREAMS = 38,
        AUTH = 46,
        ACCESS = 55,
        POLKIT = 60,
    }
}

impl ErrorCode {
    /// What libvirt puts before the detail of such an error.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::INTERNAL_ERROR => "internal error",
            Self::NO_MEMORY => "out of memory",
            Self::NO_SUPPORT => "this function is not supported by the connection driver",
            Self::NO_CONNECT => "no connection driver available for",
            Self::INVALID_CONN => "invalid connection pointer in",
            Self::INVALID_ARG => "invalid argument",
            Self::OPERATION_FAILED => "operation failed",
            Self::XML_ERROR | Self::XML_DETAIL => "XML error",
            Self::OPERATION_DENIED => "operation forbidden",
            Self::RPC => "RPC error",
            Self::AUTH_FAILED => "authentication failed",
            Self::INVALID_STORAGE_POOL => "invalid storage pool pointer in",
            Self::INVALID_STORAGE_VOL => "invalid storage volume pointer in",
            Self::NO_STORAGE_POOL => "Storage pool not found",
            Self::NO_STORAGE_VOL => "Storage volume not found",
            Self::OPERATION_INVALID => "Requested operation is not valid",
            Self::CONFIG_UNSUPPORTED => "unsupported configuration",
            Self::OPERATION_TIMEOUT => "Timed out during operation",
            Self::STORAGE_PROBE_FAILED => "Storage pool probe failed",
            Self::STORAGE_POOL_BUILT => "Storage pool already built",
            Self::OPERATION_ABORTED => "operation aborted",
            Self::AUTH_CANCELLED => "authentication cancelled",
            Self::OPERATION_UNSUPPORTED => "Operation not supported",
            Self::ACCESS_DENIED => "access denied",
            Self::STORAGE_VOL_EXIST => "storage volume exists already",
            Self::XML_INVALID_SCHEMA => "XML document failed to validate against schema",
            Self::AUTH_UNAVAILABLE => "authentication unavailable",
            _ => "",
        }
    }
}

/// `virErrorLevel`: an error, not a warning.
const LEVEL_ERROR: i32 = 2;

xdr_structs! {
    /// `virNetMessageError`, field by field.
    ErrorFields {
        code: i32,
        domain: i32,
        message: Option<String>,
        level: i32,
        dom: Option<RemoteDomain>,
        str1: Option<String>,
        str2: Option<String>,
        str3: Option<String>,
        int1: i32,
        int2: i32,
        net: Option<RemoteNetwork>,
    }
}

/// An error as it travels in a reply; its fields are those of [`ErrorFields`].
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteError(Box<ErrorFields>);

impl std::ops::Deref for RemoteError {
    type Target = ErrorFields;
    fn deref(&self) -> &ErrorFields {
        &self.0
    }
}

impl From<ErrorFields> for RemoteError {
    fn from(fields: ErrorFields) -> Self {
        RemoteError(Box::new(fields))
    }
}

impl Xdr for RemoteError {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        self.0.put(out)
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        ErrorFields::get(input).map(Self::from)
    }
}

impl RemoteError {
    /// An error of the storage driver. The client shows `<title of code>: <detail>`,
    /// as libvirt's own drivers do.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::of(ErrorDomain::STORAGE, code, detail)
    }

    /// An error of another part.
    #[must_use]
    pub fn of(domain: ErrorDomain, code: ErrorCode, detail: impl Into<String>) -> Self {
        let detail = sendable(detail.into());
        let message = match (code.title(), detail.as_str()) {
            ("", _) => detail.clone(),
            (title, "") => title.to_owned(),
            (title, _) => format!("{title}: {detail}"),
        };
        Self::from(ErrorFields {
            code: code.0,
            domain: domain.0,
            message: Some(message),
            level: LEVEL_ERROR,
            dom: None,
            str1: Some("%s".to_owned()),
            str2: Some(detail),
            str3: None,
            int1: -1,
            int2: -1,
            net: None,
        })
    }

    /// The same without its texts: an error that is too long to send cannot be answered
    /// by another error.
    pub(crate) fn without_text(&self) -> Self {
        let fields = (*self.0).clone();
        Self::from(ErrorFields { message: None, str1: None, str2: None, str3: None, ..fields })
    }

    /// Whether the error is of that kind.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.code == code.0
    }
}

/// A detail may quote what a client sent; it must fit into a reply itself.
fn sendable(mut detail: String) -> String {
    const LONGEST: usize = 8192;
    detail.retain(|letter| letter != '\0');
    if detail.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|at| detail.is_char_boundary(*at));
        detail.truncate(cut.unwrap_or(0));
    }
    detail
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.message.as_deref().unwrap_or("an error without a message");
        write!(out, "{message} (code {}, domain {})", self.code, self.domain)
    }
}

impl std::error::Error for RemoteError {}

/// Arguments that cannot be read are answered, as libvirt does, by an RPC error.
impl From<XdrError> for RemoteError {
    fn from(error: XdrError) -> Self {
        let detail = format!("Unable to decode message payload: {error}");
        Self::of(ErrorDomain::RPC, ErrorCode::RPC, detail)
    }
}
