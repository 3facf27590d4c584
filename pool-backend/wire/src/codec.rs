// SPDX-License-Identifier: LGPL-2.1-or-later
//! How the arguments and the result of any procedure are read: for tests of recorded frames, and for
//! the fuzzer.

use crate::RemoteError;
use crate::connect::StreamHole;
use crate::frame::{Frame, MessageType, Status};
use crate::xdr::{Xdr, XdrError, decode, encode};

/// Reads a payload and writes what it means: what libvirt itself sends comes out as it was.
pub type Again = fn(&[u8]) -> Result<Vec<u8>, XdrError>;

/// The arguments and the result of a procedure. Of an event, what it tells stands for the arguments.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    /// Reads and writes the arguments.
    pub args: Again,
    /// Reads and writes the result.
    pub ret: Again,
}

impl Codec {
    /// The one of these types.
    pub(crate) const fn of<A: Xdr, R: Xdr>() -> Self {
        Codec { args: again::<A>, ret: again::<R> }
    }
}

/// Panics when what was read cannot be written, which is what the fuzzer looks for.
fn again<T: Xdr>(payload: &[u8]) -> Result<Vec<u8>, XdrError> {
    let value: T = decode(payload)?;
    Ok(encode(&value).expect("what was read cannot be written"))
}

impl Frame {
    /// How the payload is read, if it has a form that is known here.
    #[must_use]
    pub fn payload_codec(&self) -> Option<Again> {
        let procedure = self.known_procedure()?;
        match (self.header.kind, self.header.status) {
            (_, Status::Error) => Some(again::<RemoteError>),
            (MessageType::StreamHole, _) => Some(again::<StreamHole>),
            (MessageType::Call | MessageType::Message, _) => Some(procedure.codec()?.args),
            (MessageType::Reply, _) => Some(procedure.codec()?.ret),
            _ => None,
        }
    }
}
