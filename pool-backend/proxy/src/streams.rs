// SPDX-License-Identifier: LGPL-2.1-or-later
//! Streams of our volumes: uploads and downloads.
//!
//! A stream has the procedure and serial of its call. Data frames have the status
//! `Continue`, an empty one is the end of a download. The client ends a stream with an
//! empty frame of status `Ok`, or gives it up with one of status `Error`; both are
//! confirmed by an empty `Ok`. An error of ours is a frame of status `Error`, after
//! which what the client still had under way is dropped.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::frame::EncodeError;
use virtnotify_wire::service::{Download, DownloadChunk, Upload};
use virtnotify_wire::{
    ErrorCode, ErrorDomain, Frame, Header, MessageType, RemoteError, Status, decode, encode,
};

use crate::client::ClientWriter;

/// The most data in one frame: what the oldest clients can take.
pub(crate) const DATA_MAX: usize = 262_120;
/// How many frames of a client wait for its volumes, over all its streams. Then nothing more is
/// read of it: that is what bounds the memory that a client's uploads cost.
const WAITING: usize = 4;
/// How many streams a client may have open. Each is a device that is open, and a task.
const STREAMS_MAX: usize = 64;

/// A frame on its way to a stream, and its place among those that wait.
pub(crate) struct Input {
    pub(crate) frame: Frame,
    _place: OwnedSemaphorePermit,
}

/// The open streams of one client.
#[derive(Debug)]
pub(crate) struct Streams {
    open: HashMap<u32, mpsc::UnboundedSender<Input>>,
    places: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { open: HashMap::new(), places: Arc::new(Semaphore::new(WAITING)) }
    }
}

impl Streams {
    /// Begins the stream of that call.
    ///
    /// # Errors
    /// When the client has too many open.
    pub(crate) fn open(
        &mut self,
        call: &Header,
    ) -> Result<mpsc::UnboundedReceiver<Input>, RemoteError> {
        self.open.retain(|_, stream| !stream.is_closed());
        if self.open.len() >= STREAMS_MAX {
            let detail = format!("a client may have {STREAMS_MAX} streams open, and has them");
            return Err(RemoteError::of(ErrorDomain::STREAMS, ErrorCode::OPERATION_FAILED, detail));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.open.insert(call.serial, sender);
        Ok(receiver)
    }

    /// Whether a frame belongs to one of these streams.
    pub(crate) fn takes(&self, header: &Header) -> bool {
        self.open.contains_key(&header.serial)
    }

    /// Hands a frame to its stream, when there is a place. One that has ended drops it.
    pub(crate) async fn feed(&mut self, frame: Frame) {
        let serial = frame.header.serial;
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        if let Some(stream) = self.open.get(&serial)
            && stream.send(Input { frame, _place: place }).is_err()
        {
            self.open.remove(&serial);
        }
    }

    /// Ends all of them.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}

fn header(call: &Header, kind: MessageType, status: Status) -> Header {
    Header { kind, status, ..*call }
}

async fn send(client: &ClientWriter, header: Header, payload: &[u8]) -> io::Result<()> {
    let frame = Frame::new(header, payload).map_err(io::Error::other)?;
    client.send(&frame.into()).await
}

async fn confirm(client: &ClientWriter, call: &Header) -> io::Result<()> {
    send(client, header(call, MessageType::Stream, Status::Ok), &[]).await
}

async fn fail(client: &ClientWriter, call: &Header, error: &RemoteError) -> io::Result<()> {
    let header = header(call, MessageType::Stream, Status::Error);
    client.send(&Frame::error(header, error).into()).await
}

pub(crate) fn broken(error: &tokio::task::JoinError) -> RemoteError {
    let detail = format!("the storage driver failed within a stream: {error}");
    RemoteError::of(ErrorDomain::STREAMS, ErrorCode::INTERNAL_ERROR, detail)
}

/// Sends a volume to the client, as fast as the client takes it.
pub(crate) async fn download(
    call: &Header,
    client: &Arc<ClientWriter>,
    mut source: Box<dyn Download>,
    mut input: mpsc::UnboundedReceiver<Input>,
) -> io::Result<()> {
    client.answer(call, Ok(Vec::new())).await?;
    loop {
        if let Ok(control) = input.try_recv() {
            return end_download(call, client, &control.frame).await;
        }
        let next = tokio::task::spawn_blocking(move || {
            let next = source.next(DATA_MAX);
            (source, next)
        });
        let (back, next) = match next.await {
            Ok(next) => next,
            Err(error) => return fail(client, call, &broken(&error)).await,
        };
        source = back;
        let data = header(call, MessageType::Stream, Status::Continue);
        match next {
            Ok(chunk) => {
                let frame = frame(data, &chunk).map_err(io::Error::other)?;
                client.send(&frame.into()).await?;
                if chunk == DownloadChunk::End {
                    break;
                }
            }
            Err(error) => return fail(client, call, &error).await,
        }
    }
    match input.recv().await {
        Some(control) => end_download(call, client, &control.frame).await,
        None => Ok(()),
    }
}

/// The frame that carries a piece of a volume; the one of its end is empty.
pub(crate) fn frame(data: Header, chunk: &DownloadChunk) -> Result<Frame, EncodeError> {
    Ok(match chunk {
        DownloadChunk::Data(bytes) => Frame::new(data, bytes)?,
        DownloadChunk::Hole(length) => {
            let length = i64::try_from(*length).unwrap_or(i64::MAX);
            let hole = encode(&StreamHole { length, flags: 0 })?;
            Frame::new(Header { kind: MessageType::StreamHole, ..data }, &hole)?
        }
        DownloadChunk::End => Frame::new(data, &[])?,
    })
}

async fn end_download(call: &Header, client: &ClientWriter, control: &Frame) -> io::Result<()> {
    match control.header.status {
        Status::Ok | Status::Error => confirm(client, call).await,
        _ => fail(client, call, &unexpected("data in a download")).await,
    }
}

pub(crate) fn unexpected(what: &str) -> RemoteError {
    RemoteError::of(ErrorDomain::RPC, ErrorCode::RPC, format!("Unexpected {what}"))
}

/// Takes a volume's content from the client, as fast as the volume takes it.
pub(crate) async fn upload(
    call: &Header,
    client: &Arc<ClientWriter>,
    mut target: Box<dyn Upload>,
    mut input: mpsc::UnboundedReceiver<Input>,
) -> io::Result<()> {
    client.answer(call, Ok(Vec::new())).await?;
    // The connection has ended when nothing comes any more.
    while let Some(input) = input.recv().await {
        match input.frame.header.status {
            Status::Continue => {
                let written = tokio::task::spawn_blocking(move || {
                    let written = take(&mut *target, &input.frame);
                    (target, written)
                });
                match written.await {
                    Ok((back, Ok(()))) => target = back,
                    Ok((_, Err(error))) => return fail(client, call, &error).await,
                    Err(error) => return fail(client, call, &broken(&error)).await,
                }
            }
            Status::Ok => {
                return match tokio::task::spawn_blocking(move || target.finish()).await {
                    Ok(Ok(())) => confirm(client, call).await,
                    Ok(Err(error)) => fail(client, call, &error).await,
                    Err(error) => fail(client, call, &broken(&error)).await,
                };
            }
            _ => return confirm(client, call).await,
        }
    }
    Ok(())
}

/// Gives a frame's data, or its hole, to a volume.
pub(crate) fn take(target: &mut dyn Upload, frame: &Frame) -> Result<(), RemoteError> {
    match frame.header.kind {
        MessageType::StreamHole => {
            let hole: StreamHole = decode(&frame.payload())?;
            if hole.length < 0 {
                return Err(unexpected("length of a hole"));
            }
            target.hole(&hole)
        }
        _ => target.write(&frame.payload()),
    }
}
