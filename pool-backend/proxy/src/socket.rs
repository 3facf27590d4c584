// SPDX-License-Identifier: LGPL-2.1-or-later
//! Frames and file descriptors over a Unix socket.
//!
//! A frame that announces descriptors is followed by that many messages of one byte,
//! each with one descriptor as ancillary data. The reader takes exactly the bytes of
//! one frame at a time and never reads ahead, so that it meets those messages where
//! they are. A descriptor that was not announced comes with a byte of a frame, and the
//! kernel drops it there, as it does for libvirt's own daemons.
//!
//! Memory follows the bytes that have arrived, never the length that was announced; how many may
//! arrive, with which descriptors and how slowly is up to the peer's [`Limits`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::memory::{Allowance, Taken};
use bytes::{BufMut, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout_at};
use virtnotify_wire::frame::{self, FRAME_MAX, FRAME_MIN, Frame, FrameError};

/// How much is made room for at a time while a frame arrives.
const STEP: usize = 256 * 1024;

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The socket failed.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer sent something that is no frame.
    #[error("a malformed frame: {0}")]
    Frame(#[from] FrameError),
    /// The peer closed in the middle of a frame.
    #[error("the connection ended within a frame")]
    Cut,
    /// A byte that stands for a descriptor came without exactly one.
    #[error("a frame announced a file descriptor and brought {0}")]
    Descriptor(usize),
    /// The peer may not send descriptors with such a frame.
    #[error("a frame announced {0} file descriptors that it has no need of")]
    Needless(u32),
    /// The rest of a frame did not come in time.
    #[error("a frame that had begun did not end in time")]
    Slow,
}

/// With which frames descriptors are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    /// With any that announces them.
    All,
    /// With calls that this crate does not know: of those that it knows, none has any.
    Unknown,
    /// With none.
    None,
}

/// What a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// No frame is longer.
    pub longest: usize,
    /// Which frames may have descriptors.
    pub descriptors: Descriptors,
    /// How long after its first byte a frame has to be there; without it, it may take for ever.
    pub within: Option<Duration>,
}

/// Those of the protocol.
impl Default for Limits {
    fn default() -> Self {
        Limits { longest: FRAME_MAX, descriptors: Descriptors::All, within: None }
    }
}

/// A frame and the descriptors that came with it.
#[derive(Debug)]
pub struct Message {
    /// The frame.
    pub frame: Frame,
    /// As many descriptors as the frame announces.
    pub fds: Vec<OwnedFd>,
}

impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        Message { frame, fds: Vec::new() }
    }
}

/// Splits a connection into its two directions.
#[must_use]
pub fn split(stream: UnixStream) -> (FrameReader, FrameWriter) {
    let (read, write) = stream.into_split();
    let (buffer, limits) = (BytesMut::new(), Limits::default());
    let (allowance, taken) = (None, None);
    let reader =
        FrameReader { socket: read, buffer, partial: None, begun: None, limits, allowance, taken };
    (reader, FrameWriter { socket: write })
}

/// The direction that frames come from.
#[derive(Debug)]
pub struct FrameReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    /// A frame whose descriptors have not all arrived.
    partial: Option<Message>,
    /// When the first byte of the frame under way was there.
    begun: Option<Instant>,
    limits: Limits,
    /// The memory that frames are counted against.
    allowance: Option<Allowance>,
    /// What the frame under way has of it, or the last one.
    taken: Option<Taken>,
}

impl FrameReader {
    /// Holds the peer to these limits from now on; without this the protocol's hold.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Counts frames against that memory from now on.
    pub(crate) fn charge(&mut self, allowance: Option<Allowance>) {
        self.allowance = allowance;
    }

    /// The room that the frame has which was read last.
    pub(crate) fn taken(&mut self) -> Option<Taken> {
        self.taken.take()
    }

    /// Waits until the peer has hung up, whatever it sent before.
    pub async fn hung_up(&self) {
        // On a Unix socket nothing is urgent, so this is ready when the peer is gone, or broken.
        let _ = self.socket.ready(Interest::PRIORITY).await;
    }

    /// The next frame; `None` when the peer closed between two. Giving up waiting
    /// (dropping the future) loses nothing.
    ///
    /// # Errors
    /// When nothing can be read any more.
    pub async fn read(&mut self) -> Result<Option<Message>, ReadError> {
        if self.partial.is_none() {
            let Some(frame) = self.read_frame().await? else { return Ok(None) };
            self.check_descriptors(&frame)?;
            self.partial = Some(frame.into());
        }
        while self.lacks_fds() {
            let fd = self.read_fd().await?;
            if let Some(message) = &mut self.partial {
                message.fds.push(fd);
            }
        }
        self.begun = None;
        Ok(self.partial.take())
    }

    fn check_descriptors(&self, frame: &Frame) -> Result<(), ReadError> {
        let allowed = match self.limits.descriptors {
            Descriptors::All => true,
            Descriptors::Unknown => frame.known_procedure().is_none(),
            Descriptors::None => false,
        };
        match frame.n_fds {
            needless if needless > 0 && !allowed => Err(ReadError::Needless(needless)),
            _ => Ok(()),
        }
    }

    /// Waits for something as long as the frame under way may take.
    async fn in_time<T>(&self, awaited: impl Future<Output = T>) -> Result<T, ReadError> {
        match self.begun.zip(self.limits.within) {
            Some((begun, within)) => {
                timeout_at(begun + within, awaited).await.map_err(|_| ReadError::Slow)
            }
            None => Ok(awaited.await),
        }
    }

    /// Waits for the peer. What is there already is read, however late it is.
    async fn readable(&self) -> Result<(), ReadError> {
        Ok(self.in_time(self.socket.readable()).await??)
    }

    /// Waits for the memory that a frame of that length takes.
    async fn make_room(&mut self, length: usize) -> Result<(), ReadError> {
        if let (Some(allowance), None) = (&self.allowance, &self.taken) {
            let taken = async {
                tokio::select! {
                    biased;
                    taken = allowance.take(length) => Ok(taken),
                    () = self.hung_up() => Err(ReadError::Cut),
                }
            };
            self.taken = self.in_time(taken).await??;
        }
        Ok(())
    }

    fn lacks_fds(&self) -> bool {
        let lacks = |message: &Message| {
            message.fds.len() < usize::try_from(message.frame.n_fds).unwrap_or(usize::MAX)
        };
        self.partial.as_ref().is_some_and(lacks)
    }

    async fn read_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let whole = frame::announced_len(&self.buffer)?.unwrap_or(FRAME_MIN);
            if whole > self.limits.longest {
                return Err(FrameError::TooLong(whole).into());
            }
            self.make_room(whole).await?;
            let missing = whole - self.buffer.len();
            match self.read_some(missing.min(STEP)).await? {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(ReadError::Cut),
                _ => {}
            }
        }
    }

    async fn read_some(&mut self, most: usize) -> Result<usize, ReadError> {
        loop {
            self.readable().await?;
            self.buffer.reserve(most);
            match self.socket.try_read_buf(&mut (&mut self.buffer).limit(most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => {
                    self.begun.get_or_insert_with(Instant::now);
                    return Ok(other?);
                }
            }
        }
    }

    async fn read_fd(&mut self) -> Result<OwnedFd, ReadError> {
        let mut fds = loop {
            self.readable().await?;
            let socket = self.socket.as_ref();
            match socket.try_io(Interest::READABLE, || receive_fds(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        match (fds.pop(), fds.len()) {
            (Some(fd), 0) => Ok(fd),
            (None, _) => Err(ReadError::Descriptor(0)),
            (Some(_), others) => Err(ReadError::Descriptor(others + 1)),
        }
    }
}

/// Reads one byte and the descriptors that hang on it.
fn receive_fds(socket: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    if got.bytes == 0 || got.flags.contains(ReturnFlags::CTRUNC) {
        return Ok(Vec::new());
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

/// The direction that frames go to.
#[derive(Debug)]
pub struct FrameWriter {
    socket: OwnedWriteHalf,
}

impl FrameWriter {
    /// Writes a frame and its descriptors; returns when the kernel has taken them.
    /// Giving up in the middle leaves the connection unusable.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn write(&mut self, message: &Message) -> io::Result<()> {
        let mut rest = &message.frame.bytes()[..];
        while !rest.is_empty() {
            self.socket.writable().await?;
            match self.socket.try_write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        for fd in &message.fds {
            let socket = self.socket.as_ref();
            socket.async_io(Interest::WRITABLE, || send_fd(socket, fd)).await?;
        }
        Ok(())
    }
}

fn send_fd(socket: &UnixStream, fd: &OwnedFd) -> io::Result<()> {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, flags)?;
    Ok(())
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
