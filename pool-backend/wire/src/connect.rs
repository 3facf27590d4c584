// SPDX-License-Identifier: LGPL-2.1-or-later
//! What belongs to a connection as a whole: authentication, opening, identity,
//! typed parameters.

use crate::storage::Uuid;
use crate::xdr::{List, Reader, Xdr, XdrError, xdr_structs};

/// `VIR_CONNECT_RO`: the connection is opened for reading only.
pub const CONNECT_RO: u32 = 1;

/// `remote_auth_type`: how a client has to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// Nothing to prove, or proven by the socket.
    None,
    /// SASL, used over TCP.
    Sasl,
    /// The daemon asks polkit about the client's process.
    Polkit,
}

impl Xdr for AuthType {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        let number: i32 = match self {
            AuthType::None => 0,
            AuthType::Sasl => 1,
            AuthType::Polkit => 2,
        };
        number.put(out)
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        match i32::get(input)? {
            0 => Ok(AuthType::None),
            1 => Ok(AuthType::Sasl),
            2 => Ok(AuthType::Polkit),
            value => Err(XdrError::OutOfRange { what: "auth type", value: value.into() }),
        }
    }
}

/// `remote_typed_param_value`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are the protocol's own, under its names")]
pub enum TypedValue {
    Int(i32),
    UInt(u32),
    LLong(i64),
    ULLong(u64),
    Double(f64),
    Boolean(bool),
    String(String),
}

impl Xdr for TypedValue {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        match self {
            TypedValue::Int(value) => 1i32.put(out).and_then(|()| value.put(out)),
            TypedValue::UInt(value) => 2i32.put(out).and_then(|()| value.put(out)),
            TypedValue::LLong(value) => 3i32.put(out).and_then(|()| value.put(out)),
            TypedValue::ULLong(value) => 4i32.put(out).and_then(|()| value.put(out)),
            TypedValue::Double(value) => 5i32.put(out).and_then(|()| value.put(out)),
            TypedValue::Boolean(value) => 6i32.put(out).and_then(|()| value.put(out)),
            TypedValue::String(value) => 7i32.put(out).and_then(|()| value.put(out)),
        }
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(match i32::get(input)? {
            1 => TypedValue::Int(Xdr::get(input)?),
            2 => TypedValue::UInt(Xdr::get(input)?),
            3 => TypedValue::LLong(Xdr::get(input)?),
            4 => TypedValue::ULLong(Xdr::get(input)?),
            5 => TypedValue::Double(Xdr::get(input)?),
            6 => TypedValue::Boolean(Xdr::get(input)?),
            7 => TypedValue::String(Xdr::get(input)?),
            value => {
                return Err(XdrError::OutOfRange { what: "parameter type", value: value.into() });
            }
        })
    }
}

xdr_structs! {
    /// A domain as errors mention it; never used since.
    RemoteDomain { name: String, uuid: Uuid, id: i32 }
    /// A network as errors mention it; never used since.
    RemoteNetwork { name: String, uuid: Uuid }

    /// One typed parameter.
    TypedParam { field: String, value: TypedValue }

    /// Result of `AUTH_LIST`.
    AuthListRet { types: List<AuthType, 20> }
    /// Result of `AUTH_POLKIT`.
    AuthPolkitRet { complete: i32 }

    /// Arguments of `CONNECT_OPEN`.
    ConnectOpenArgs { name: Option<String>, flags: u32 }
    /// Result of `CONNECT_GET_TYPE`: the driver's name.
    ConnectGetTypeRet { r#type: String }
    /// Arguments of `CONNECT_SUPPORTS_FEATURE`.
    ConnectSupportsFeatureArgs { feature: i32 }
    /// Result of `CONNECT_SUPPORTS_FEATURE`.
    ConnectSupportsFeatureRet { supported: i32 }
    /// Arguments of `CONNECT_SET_IDENTITY`.
    ConnectSetIdentityArgs { params: List<TypedParam, 20>, flags: u32 }

    /// A hole in a stream: the payload of a `StreamHole` frame.
    StreamHole { length: i64, flags: u32 }
}
