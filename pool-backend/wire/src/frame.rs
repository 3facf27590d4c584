// SPDX-License-Identifier: LGPL-2.1-or-later
//! Frames: what lies between two length words of the stream.
//!
//! ```text
//! u32 length     of the whole frame, this word included
//! u32 program    REMOTE, KEEPALIVE, or one that we do not know
//! u32 version
//! i32 procedure
//! u32 type       MessageType
//! u32 serial     of a call, repeated by its reply and its stream
//! u32 status     Status
//! [u32 n_fds]    only in the two types "with descriptors"
//! payload        XDR, or a stream's bytes
//! ```
//!
//! The descriptors of a frame travel after it: one message of one byte each, with the descriptor as
//! ancillary data. The code that reads the socket collects them.
//!
//! A frame keeps the bytes it came from, so that passing it on changes nothing and
//! copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::RemoteError;
use crate::procedure::Procedure;
use crate::xdr::{self, Xdr, XdrError};

/// The program of libvirt's remote driver.
pub const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// The program of keep-alive pings.
pub const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// The version of both.
pub const PROTOCOL_VERSION: u32 = 1;
/// The longest frame, length word included: `VIR_NET_MESSAGE_MAX` counts without it.
pub const FRAME_MAX: usize = 33_554_432 + LENGTH_LEN;
/// The most descriptors that one frame may announce.
pub const FDS_MAX: u32 = 32;

const LENGTH_LEN: usize = 4;
const HEADER_LEN: usize = 24;
/// The shortest frame: no payload.
pub const FRAME_MIN: usize = LENGTH_LEN + HEADER_LEN;

/// Why a stream of bytes cannot be read on. The connection has to be closed: where the
/// next frame starts is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length word is shorter than a header.
    #[error("a frame of {0} bytes is too short to hold a header")]
    TooShort(usize),
    /// The length word is above the limit.
    #[error("a frame of {0} bytes is above the limit")]
    TooLong(usize),
    /// More descriptors announced than allowed.
    #[error("a frame with {0} file descriptors is above the limit of {FDS_MAX}")]
    TooManyFds(u32),
    /// The type says that there is a count of descriptors, the length that there is none.
    #[error("a frame with file descriptors does not say how many")]
    NoFdCount,
}

/// `virNetMessageType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Client to server: arguments.
    Call,
    /// Server to client: result or error.
    Reply,
    /// Either way: an event, a ping.
    Message,
    /// Either way: data of a stream.
    Stream,
    /// A call that is followed by descriptors.
    CallWithFds,
    /// A reply that is followed by descriptors.
    ReplyWithFds,
    /// Either way: a hole in a stream.
    StreamHole,
    /// One of a newer libvirt.
    Other(u32),
}

impl From<u32> for MessageType {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Call,
            1 => Self::Reply,
            2 => Self::Message,
            3 => Self::Stream,
            4 => Self::CallWithFds,
            5 => Self::ReplyWithFds,
            6 => Self::StreamHole,
            other => Self::Other(other),
        }
    }
}

impl From<MessageType> for u32 {
    fn from(kind: MessageType) -> u32 {
        match kind {
            MessageType::Call => 0,
            MessageType::Reply => 1,
            MessageType::Message => 2,
            MessageType::Stream => 3,
            MessageType::CallWithFds => 4,
            MessageType::ReplyWithFds => 5,
            MessageType::StreamHole => 6,
            MessageType::Other(number) => number,
        }
    }
}

impl MessageType {
    /// Whether a count of descriptors stands before the payload.
    #[must_use]
    pub fn has_fds(self) -> bool {
        matches!(self, Self::CallWithFds | Self::ReplyWithFds)
    }
}

/// `virNetMessageStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// A call; a reply without an error; the regular end of a stream.
    Ok,
    /// A reply or a stream that failed; a stream that the client gives up.
    Error,
    /// A stream goes on.
    Continue,
    /// One of a newer libvirt.
    Other(u32),
}

impl From<u32> for Status {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Error,
            2 => Self::Continue,
            other => Self::Other(other),
        }
    }
}

impl From<Status> for u32 {
    fn from(status: Status) -> u32 {
        match status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Continue => 2,
            Status::Other(number) => number,
        }
    }
}

/// `virNetMessageHeader`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which protocol the rest belongs to.
    pub program: u32,
    /// The version of that protocol.
    pub version: u32,
    /// The number of the procedure or event in that program.
    pub procedure: i32,
    /// What sort of frame this is.
    pub kind: MessageType,
    /// Ties replies and streams to their call; 0 in events.
    pub serial: u32,
    /// How a reply ended, or whether a stream goes on.
    pub status: Status,
}

impl Header {
    /// A header of the remote program.
    #[must_use]
    pub fn remote(procedure: Procedure, kind: MessageType, serial: u32, status: Status) -> Self {
        Header {
            program: REMOTE_PROGRAM,
            version: PROTOCOL_VERSION,
            procedure: procedure.number(),
            kind,
            serial,
            status,
        }
    }

    /// The procedure, if it is one that this crate knows.
    #[must_use]
    pub fn known_procedure(&self) -> Option<Procedure> {
        let known = self.program == REMOTE_PROGRAM && self.version == PROTOCOL_VERSION;
        if known { Procedure::from_number(self.procedure) } else { None }
    }

    /// The same, turned into the header of an answer.
    #[must_use]
    pub fn reply(self, status: Status) -> Self {
        Header { kind: MessageType::Reply, status, ..self }
    }

    fn read(mut bytes: &[u8]) -> Self {
        Header {
            program: bytes.get_u32(),
            version: bytes.get_u32(),
            procedure: bytes.get_i32(),
            kind: bytes.get_u32().into(),
            serial: bytes.get_u32(),
            status: bytes.get_u32().into(),
        }
    }

    fn write(&self, out: &mut impl BufMut) {
        out.put_u32(self.program);
        out.put_u32(self.version);
        out.put_i32(self.procedure);
        out.put_u32(self.kind.into());
        out.put_u32(self.serial);
        out.put_u32(self.status.into());
    }
}

/// One frame and the bytes that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The decoded header.
    pub header: Header,
    /// How many descriptors follow the frame.
    pub n_fds: u32,
    raw: Bytes,
}

impl Frame {
    /// Makes a frame without descriptors.
    ///
    /// # Errors
    /// When the payload is longer than a frame can be.
    pub fn new(header: Header, payload: &[u8]) -> Result<Self, FrameError> {
        match FRAME_MIN + payload.len() {
            len if len > FRAME_MAX => Err(FrameError::TooLong(len)),
            _ => Ok(Self::small(header, payload)),
        }
    }

    /// A call of a known procedure.
    ///
    /// # Errors
    /// When an argument is longer than the protocol allows.
    pub fn call<T: Xdr>(procedure: Procedure, serial: u32, args: &T) -> Result<Self, EncodeError> {
        let header = Header::remote(procedure, MessageType::Call, serial, Status::Ok);
        Ok(Self::new(header, &xdr::encode(args)?)?)
    }

    /// An event.
    ///
    /// # Errors
    /// When a field is longer than the protocol allows.
    pub fn message<T: Xdr>(procedure: Procedure, body: &T) -> Result<Self, EncodeError> {
        let header = Header::remote(procedure, MessageType::Message, 0, Status::Ok);
        Ok(Self::new(header, &xdr::encode(body)?)?)
    }

    /// The successful answer to `call`.
    ///
    /// # Errors
    /// When the result is longer than a frame can be.
    pub fn reply(call: &Header, payload: &[u8]) -> Result<Self, FrameError> {
        Self::new(call.reply(Status::Ok), payload)
    }

    /// The failing answer to `call`.
    #[must_use]
    pub fn error_reply(call: &Header, error: &RemoteError) -> Self {
        Self::error(call.reply(Status::Error), error)
    }

    /// A frame that carries an error under any header.
    #[must_use]
    pub fn error(header: Header, error: &RemoteError) -> Self {
        let payload = xdr::encode(error).or_else(|_| xdr::encode(&error.without_text()));
        Self::small(header, &payload.unwrap_or_default())
    }

    /// A frame whose payload is known to fit.
    fn small(header: Header, payload: &[u8]) -> Self {
        let payload = &payload[..payload.len().min(FRAME_MAX - FRAME_MIN)];
        let len = FRAME_MIN + payload.len();
        let mut raw = BytesMut::with_capacity(len);
        raw.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        header.write(&mut raw);
        raw.put_slice(payload);
        Frame { header, n_fds: 0, raw: raw.freeze() }
    }

    /// The procedure, if it is one that this crate knows.
    #[must_use]
    pub fn known_procedure(&self) -> Option<Procedure> {
        self.header.known_procedure()
    }

    /// The whole frame as it goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.raw
    }

    /// What follows the header, and the count of descriptors if there is one.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        let start = FRAME_MIN + if self.header.kind.has_fds() { 4 } else { 0 };
        self.raw.slice(start.min(self.raw.len())..)
    }

    /// The same frame under another serial.
    #[must_use]
    pub fn with_serial(self, serial: u32) -> Self {
        const SERIAL_AT: usize = LENGTH_LEN + 16;
        let mut raw = BytesMut::from(self.raw);
        raw[SERIAL_AT..SERIAL_AT + 4].copy_from_slice(&serial.to_be_bytes());
        let header = Header { serial, ..self.header };
        Frame { header, n_fds: self.n_fds, raw: raw.freeze() }
    }

    /// The error in a failed reply or stream frame.
    ///
    /// # Errors
    /// When the payload is no error after all.
    pub fn decode_error(&self) -> Result<RemoteError, XdrError> {
        xdr::decode(&self.payload())
    }
}

/// Why a message could not be turned into a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A value has no encoding.
    #[error(transparent)]
    Value(#[from] XdrError),
    /// The whole is too long.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// How long the frame at the start of `bytes` is, once its length word is there.
///
/// # Errors
/// When no frame has that length.
pub fn announced_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(word) = bytes.first_chunk::<LENGTH_LEN>() else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_be_bytes(*word)).unwrap_or(usize::MAX);
    match len {
        0..FRAME_MIN => Err(FrameError::TooShort(len)),
        FRAME_MIN..=FRAME_MAX => Ok(Some(len)),
        _ => Err(FrameError::TooLong(len)),
    }
}

/// Cuts one frame off the front of what was read so far; `None` asks for more.
///
/// # Errors
/// When what is there cannot become a frame.
pub fn decode(read: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(len) = announced_len(read)? else {
        return Ok(None);
    };
    if read.len() < len {
        return Ok(None);
    }
    let header = Header::read(&read[LENGTH_LEN..FRAME_MIN]);
    let n_fds = if header.kind.has_fds() { fd_count(&read[FRAME_MIN..len])? } else { 0 };
    let raw = read.split_to(len).freeze();
    Ok(Some(Frame { header, n_fds, raw }))
}

fn fd_count(body: &[u8]) -> Result<u32, FrameError> {
    let word = body.first_chunk::<4>().ok_or(FrameError::NoFdCount)?;
    match u32::from_be_bytes(*word) {
        count if count <= FDS_MAX => Ok(count),
        count => Err(FrameError::TooManyFds(count)),
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
