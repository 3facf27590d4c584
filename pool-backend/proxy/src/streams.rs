// SPDX-License-Identifier: LGPL-2.1-or-later
//! Streams of our volumes: uploads and downloads.
//!
//! A stream has the procedure and serial of its call. Data frames have the status
//! `Continue`, an empty one is the end of a download. The client ends a stream with an
//! empty frame of status `Ok`, or gives it up with one of status `Error`; both are
//! confirmed by an empty `Ok`. An error of ours is a frame of status `Error`, after
//! which what the client still had under way is dropped.
//!
//! A download has ended with its empty frame, and the volume is not in use any more: some clients
//! never say that they saw it. One that does is answered all the same.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::frame::EncodeError;
use virtnotify_wire::service::{Download, DownloadChunk, Upload};
use virtnotify_wire::{
    ErrorCode, ErrorDomain, Frame, Header, MessageType, RemoteError, Status, decode, encode,
};

use crate::client::ClientWriter;
use crate::memory::Taken;
use crate::threads::Threads;

/// The most data in one frame: what the oldest clients can take.
pub(crate) const DATA_MAX: usize = 262_120;
/// How many frames of a client wait for its volumes, over all its streams. Then nothing more is
/// read of it: that is what bounds the memory that a client's uploads cost.
const WAITING: usize = 4;
/// How many streams a client may have open. Each is a device that is open, and a task.
const STREAMS_MAX: usize = 64;
/// Of how many downloads that have ended it is known that the client may still say so.
const ENDED_MAX: usize = 1024;

/// A frame on its way to a stream, and its place among those that wait.
pub(crate) struct Input {
    pub(crate) frame: Frame,
    _place: OwnedSemaphorePermit,
    _taken: Option<Taken>,
}

/// The open streams of one client.
#[derive(Debug)]
pub(crate) struct Streams {
    open: HashMap<u32, Stream>,
    /// Downloads whose last frame was sent, the oldest first.
    ended: VecDeque<u32>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Stream {
    input: mpsc::UnboundedSender<Input>,
    ended: Arc<AtomicBool>,
}

/// A stream as its task sees it.
pub(crate) struct Incoming {
    input: mpsc::UnboundedReceiver<Input>,
    ended: Arc<AtomicBool>,
}

impl Default for Streams {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(WAITING));
        Streams { open: HashMap::new(), ended: VecDeque::new(), places }
    }
}

impl Streams {
    /// Begins the stream of that call.
    ///
    /// # Errors
    /// When the client has too many open.
    pub(crate) fn open(&mut self, call: &Header) -> Result<Incoming, RemoteError> {
        self.forget_closed();
        if self.open.len() >= STREAMS_MAX {
            let detail = format!("a client may have {STREAMS_MAX} streams open, and has them");
            return Err(RemoteError::of(ErrorDomain::STREAMS, ErrorCode::OPERATION_FAILED, detail));
        }
        let (sender, input) = mpsc::unbounded_channel();
        let ended = Arc::new(AtomicBool::new(false));
        self.ended.retain(|serial| *serial != call.serial);
        self.open.insert(call.serial, Stream { input: sender, ended: Arc::clone(&ended) });
        Ok(Incoming { input, ended })
    }

    fn forget_closed(&mut self) {
        let ended = &mut self.ended;
        self.open.retain(|serial, stream| {
            let closed = stream.input.is_closed();
            if closed && stream.ended.load(Ordering::Acquire) {
                ended.push_back(*serial);
            }
            !closed
        });
        let too_many = self.ended.len().saturating_sub(ENDED_MAX);
        self.ended.drain(..too_many);
    }

    /// Whether any goes on.
    pub(crate) fn any(&mut self) -> bool {
        self.forget_closed();
        !self.open.is_empty()
    }

    /// Whether a frame belongs to one of these streams.
    pub(crate) fn takes(&self, header: &Header) -> bool {
        self.open.contains_key(&header.serial) || self.ended.contains(&header.serial)
    }

    /// Hands a frame to its stream, when there is a place. Of one that has ended the client is
    /// told so again; one that has failed drops it.
    pub(crate) async fn feed(
        &mut self,
        frame: Frame,
        taken: Option<Taken>,
        client: &ClientWriter,
    ) -> io::Result<()> {
        let header = frame.header;
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return Ok(()) };
        if let Some(stream) = self.open.get(&header.serial)
            && stream.input.send(Input { frame, _place: place, _taken: taken }).is_ok()
        {
            return Ok(());
        }
        self.forget_closed();
        let ended = self.ended.contains(&header.serial);
        if ended && matches!(header.status, Status::Ok | Status::Error) {
            self.ended.retain(|serial| *serial != header.serial);
            confirm(client, &header).await?;
        }
        Ok(())
    }

    /// Ends all of them.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.ended.clear();
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
    threads: &Threads,
    source: Box<dyn Download>,
    mut incoming: Incoming,
) -> io::Result<()> {
    let mut source = Some(source);
    client.answer(call, Ok(Vec::new())).await?;
    loop {
        match incoming.input.try_recv() {
            Ok(control) => return end_download(call, client, &control.frame).await,
            // The connection has ended.
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {}
        }
        let Some(mut opened) = source.take() else { return Ok(()) };
        let next = threads.run(move || {
            let next = opened.next(DATA_MAX);
            // At its end the volume is closed before the client hears of it.
            let more = !matches!(next, Ok(DownloadChunk::End));
            (more.then_some(opened), next)
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
                if chunk == DownloadChunk::End {
                    // From here on the connection answers for the stream. What came until now is
                    // the client giving it up: it is confirmed here.
                    incoming.ended.store(true, Ordering::Release);
                    incoming.input.close();
                    if let Ok(control) = incoming.input.try_recv() {
                        return end_download(call, client, &control.frame).await;
                    }
                }
                client.send(&frame.into()).await?;
            }
            Err(error) => return fail(client, call, &error).await,
        }
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
    threads: &Threads,
    mut target: Box<dyn Upload>,
    mut incoming: Incoming,
) -> io::Result<()> {
    client.answer(call, Ok(Vec::new())).await?;
    // The connection has ended when nothing comes any more.
    while let Some(input) = incoming.input.recv().await {
        match input.frame.header.status {
            Status::Continue => {
                let written = threads.run(move || {
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
                return match threads.run(move || target.finish()).await {
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
