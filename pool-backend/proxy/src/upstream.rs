// SPDX-License-Identifier: LGPL-2.1-or-later
//! The connection to libvirt's own daemon that each client of ours gets.
//!
//! Frames of the client go through with their own serials. Calls that are ours (to
//! merge lists, to check names) use serials of a range that no client reaches, so that
//! their replies are told apart and never shown. What was passed on and not answered is
//! remembered: when the daemon goes away, each such call is answered by an error.
//!
//! A daemon that hangs keeps a client's calls waiting, as it would without us. Calls of our own
//! are given up after a while, so that what is ours goes on.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot};
use tokio::time::timeout;
use virtnotify_wire::connect::{AuthListRet, AuthType};
use virtnotify_wire::frame::EncodeError;
use virtnotify_wire::{
    ErrorCode, ErrorDomain, Frame, Header, MessageType, Procedure, RemoteError, Status,
    StorageService, Xdr, XdrError, decode,
};

use crate::client::ClientWriter;
use crate::explain::explained;
use crate::socket::{FrameReader, FrameWriter, Message, ReadError, split};

/// The first serial of our own calls. A client that numbers from 0 gets here after
/// four thousand million calls on one connection.
pub const PRIVATE_SERIALS: u32 = 0xF000_0000;

/// Why upstream did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No daemon listens there.
    #[error("Failed to connect socket to '{path}': {source}")]
    Connect {
        /// Where it should be.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It wants something that root should not need.
    #[error("the storage daemon at '{0}' asks its own root for authentication")]
    Auth(String),
    /// It is there and says nothing.
    #[error("the storage daemon did not answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It went away.
    #[error("the storage daemon closed the connection")]
    Lost,
    /// It could not be written to.
    #[error("the connection to the storage daemon broke: {0}")]
    Io(#[from] io::Error),
    /// It sent something that is no frame.
    #[error("the storage daemon's answer cannot be read: {0}")]
    Read(#[from] ReadError),
    /// It sent an answer that is not one.
    #[error("the storage daemon's answer cannot be decoded: {0}")]
    Decode(#[from] XdrError),
    /// A question could not be put.
    #[error("a call cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
    /// It answered with an error.
    #[error("{0}")]
    Refused(RemoteError),
}

/// What the client is to see of it.
impl From<UpstreamError> for RemoteError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Refused(error) => error,
            UpstreamError::Connect { .. } => {
                Self::of(ErrorDomain::RPC, ErrorCode::SYSTEM_ERROR, error.to_string())
            }
            _ => Self::of(ErrorDomain::RPC, ErrorCode::INTERNAL_ERROR, error.to_string()),
        }
    }
}

/// Where goes what upstream sends and what answers no call of ours.
pub enum Destination {
    /// To the client, in words that suit whose pools there are.
    Client(Arc<ClientWriter>, Arc<dyn StorageService>),
    /// To the task that has a stream open on this connection.
    Stream(mpsc::Sender<Frame>),
}

impl Destination {
    /// Hands it over; false if its receiver is gone.
    async fn take(&self, message: Message) -> bool {
        match self {
            Destination::Client(client, service) => {
                let Message { frame, fds } = message;
                let frame = explained(frame, &**service);
                client.send(&Message { frame, fds }).await.is_ok()
            }
            Destination::Stream(stream) => stream.send(message.frame).await.is_ok(),
        }
    }
}

/// One connection, shared by the tasks of one client.
#[derive(Debug)]
pub struct Upstream {
    writer: AsyncMutex<FrameWriter>,
    calls: Mutex<Calls>,
    /// How long a call of our own may take.
    answer: Duration,
    /// Told when a frame was given up halfway: nothing can be sent any more.
    broken: Notify,
}

#[derive(Debug)]
struct Calls {
    next_serial: u32,
    /// Our own calls.
    private: HashMap<u32, oneshot::Sender<Frame>>,
    /// The client's calls, by serial.
    passed: HashMap<u32, Header>,
    lost: bool,
}

impl Upstream {
    /// Connects and authenticates as root. Calls of our own are given up after `answer`.
    ///
    /// # Errors
    /// When the daemon is not there or does not let us in.
    pub async fn connect(
        path: &Path,
        answer: Duration,
    ) -> Result<(Arc<Self>, FrameReader), UpstreamError> {
        let shown = path.display().to_string();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| UpstreamError::Connect { path: shown.clone(), source })?;
        let (mut reader, mut writer) = split(stream);
        let question = Frame::call(Procedure::AuthList, PRIVATE_SERIALS, &())?;
        writer.write(&question.into()).await?;
        let offered = reader.read().await?.ok_or(UpstreamError::Lost)?;
        let offered: AuthListRet = result(&offered.frame)?;
        if !offered.types.is_empty() && !offered.types.contains(&AuthType::None) {
            return Err(UpstreamError::Auth(shown));
        }
        let calls = Calls {
            next_serial: PRIVATE_SERIALS + 1,
            private: HashMap::new(),
            passed: HashMap::new(),
            lost: false,
        };
        let (writer, calls) = (AsyncMutex::new(writer), Mutex::new(calls));
        let upstream = Upstream { writer, calls, answer, broken: Notify::new() };
        Ok((Arc::new(upstream), reader))
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a client's frame on as it is.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn pass(&self, message: &Message) -> Result<(), UpstreamError> {
        let header = message.frame.header;
        let is_call = matches!(header.kind, MessageType::Call | MessageType::CallWithFds);
        if is_call {
            let mut calls = self.calls();
            if calls.lost {
                return Err(UpstreamError::Lost);
            }
            calls.passed.insert(header.serial, header);
        }
        let Err(error) = self.writer.lock().await.write(message).await else {
            return Ok(());
        };
        // Gone from the list, it was answered when the other direction ended.
        let answered = is_call && self.calls().passed.remove(&header.serial).is_none();
        if answered { Ok(()) } else { Err(error.into()) }
    }

    /// Makes a call of our own and decodes its result.
    ///
    /// # Errors
    /// When there is none, or it is an error.
    pub async fn call<A: Xdr, R: Xdr>(
        &self,
        procedure: Procedure,
        args: &A,
    ) -> Result<R, UpstreamError> {
        result(&self.ask_within(Frame::call(procedure, 0, args)?).await?)
    }

    /// The same of a call that takes as long as it takes: it makes or copies a volume.
    ///
    /// # Errors
    /// When there is no result, or it is an error.
    pub async fn call_at_length<A: Xdr, R: Xdr>(
        &self,
        procedure: Procedure,
        args: &A,
    ) -> Result<R, UpstreamError> {
        result(&self.ask(Frame::call(procedure, 0, args)?).await?)
    }

    /// Makes a call of our own that opens a stream; says what the stream's frames begin with.
    ///
    /// # Errors
    /// When there is no reply, or it is an error.
    pub async fn open_stream<A: Xdr>(
        &self,
        procedure: Procedure,
        args: &A,
    ) -> Result<Header, UpstreamError> {
        let reply = self.ask_within(Frame::call(procedure, 0, args)?).await?;
        result::<()>(&reply)?;
        Ok(Header { kind: MessageType::Stream, status: Status::Continue, ..reply.header })
    }

    /// Sends a frame of a stream of ours.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn stream(&self, frame: Frame) -> Result<(), UpstreamError> {
        Ok(self.writer.lock().await.write(&frame.into()).await?)
    }

    /// Makes a call with these arguments under a serial of our own; the reply comes
    /// back under the serial of `call`, an error in it or not.
    ///
    /// # Errors
    /// When there is no reply.
    pub async fn relay(&self, call: Frame) -> Result<Frame, UpstreamError> {
        let serial = call.header.serial;
        Ok(self.ask(call).await?.with_serial(serial))
    }

    /// The same of a call that a client would wait for, but that we can do without: it is given
    /// up after a while.
    ///
    /// # Errors
    /// When there is no reply.
    pub async fn relay_within(&self, call: Frame) -> Result<Frame, UpstreamError> {
        let serial = call.header.serial;
        Ok(self.ask_within(call).await?.with_serial(serial))
    }

    async fn ask_within(&self, call: Frame) -> Result<Frame, UpstreamError> {
        let asked = timeout(self.answer, self.ask(call)).await;
        asked.unwrap_or(Err(UpstreamError::Silent(self.answer)))
    }

    /// Makes a call; the reply has the serial that the call had on the wire.
    async fn ask(&self, call: Frame) -> Result<Frame, UpstreamError> {
        let (private, reply) = self.expect_reply()?;
        let _expected = Expected { upstream: self, serial: private };
        let message = Message::from(call.with_serial(private));
        let mut writer = self.writer.lock().await;
        let whole = Whole { upstream: self, done: false };
        let written = writer.write(&message).await;
        whole.done();
        drop(writer);
        written?;
        reply.await.map_err(|_| UpstreamError::Lost)
    }

    fn expect_reply(&self) -> Result<(u32, oneshot::Receiver<Frame>), UpstreamError> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = self.calls();
        if calls.lost {
            return Err(UpstreamError::Lost);
        }
        let serial = calls.next_serial;
        calls.next_serial = serial.checked_add(1).unwrap_or(PRIVATE_SERIALS);
        calls.private.insert(serial, sender);
        Ok((serial, receiver))
    }

    /// Takes the replies to our own calls out of what upstream sends, and hands on all
    /// else, until one of the two is gone. While one frame is handed on, the next is read.
    pub async fn pump(self: Arc<Self>, reader: FrameReader, destination: Destination) {
        let (sender, mut read) = mpsc::channel(1);
        let reading = self.read(reader, sender);
        let handing_on = async {
            while let Some(message) = read.recv().await {
                if !destination.take(message).await {
                    break;
                }
            }
        };
        tokio::pin!(handing_on);
        tokio::select! {
            () = reading => handing_on.await,
            () = &mut handing_on => {}
            () = self.broken.notified() => {}
        }
        self.give_up(&destination).await;
    }

    async fn read(&self, mut reader: FrameReader, sender: mpsc::Sender<Message>) {
        loop {
            match reader.read().await {
                Ok(Some(message)) => {
                    if let Some(message) = self.sort(message)
                        && sender.send(message).await.is_err()
                    {
                        return;
                    }
                }
                Ok(None) => {
                    let unanswered = self.calls().passed.len();
                    tracing::debug!(unanswered, "the storage daemon closed the connection");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the storage daemon's connection is given up");
                    return;
                }
            }
        }
    }

    fn sort(&self, message: Message) -> Option<Message> {
        let header = message.frame.header;
        if !matches!(header.kind, MessageType::Reply | MessageType::ReplyWithFds) {
            return Some(message);
        }
        let mut calls = self.calls();
        if let Some(waiting) = calls.private.remove(&header.serial) {
            // The caller may have gone away meanwhile.
            let _ = waiting.send(message.frame);
            return None;
        }
        calls.passed.remove(&header.serial);
        Some(message)
    }

    async fn give_up(&self, destination: &Destination) {
        let passed = {
            let mut calls = self.calls();
            calls.lost = true;
            calls.private.clear();
            std::mem::take(&mut calls.passed)
        };
        let error = RemoteError::from(UpstreamError::Lost);
        for header in passed.into_values() {
            if !destination.take(Frame::error_reply(&header, &error).into()).await {
                return;
            }
        }
    }
}

/// A reply of a call of ours that is waited for until this is dropped.
struct Expected<'a> {
    upstream: &'a Upstream,
    serial: u32,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.upstream.calls().private.remove(&self.serial);
    }
}

/// A frame that is being written. Given up in the middle, it ends the connection.
struct Whole<'a> {
    upstream: &'a Upstream,
    done: bool,
}

impl Whole<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.upstream.broken.notify_one();
        }
    }
}

/// The result in a reply, or the error.
fn result<T: Xdr>(reply: &Frame) -> Result<T, UpstreamError> {
    match reply.header.status {
        Status::Ok => Ok(decode(&reply.payload())?),
        _ => Err(UpstreamError::Refused(reply.decode_error()?)),
    }
}
