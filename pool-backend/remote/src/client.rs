// SPDX-License-Identifier: LGPL-2.1-or-later
//! The proxy's side of the private socket: answers as the driver does.
//!
//! A daemon that ends is back within moments, for systemd starts it again: calls wait for it that long,
//! and questions that it was asked when it ended are asked again. A call that changes something may
//! have been done or not, and its client is told so.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use virtnotify_driver::xml;
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{
    Call, CloneIn, CloneOut, Download, DownloadChunk, EventSink, PoolEvent, PoolXmlPeek, Session,
    StorageService, Upload, VolumeXmlPeek,
};
use virtnotify_wire::{ErrorCode, RemoteError, StoragePool, Uuid};

use crate::message::{Answer, Ask, Stream, VERSION, error, invalid, receive, send, send_first};
use crate::mirror::Mirror;
use crate::offline;

/// How long a daemon that has just ended, or has not been heard yet, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a question is waited for: a daemon that runs and does not answer waits for a disk, or is ended by
/// its watchdog. What changes something is waited for as long as it takes.
const ANSWERS: Duration = Duration::from_secs(90);
/// The time between two tries to reach it while it does not run, at first and at last.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_millis(250);

/// The driver of virtnotifyd.
pub struct Remote {
    path: PathBuf,
    limits: Limits,
    mirror: Mirror,
    sink: OnceLock<EventSink>,
}

/// How long things are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A daemon that has just ended, or has not been heard yet.
    pub(crate) patience: Duration,
    /// The answer to a question.
    pub(crate) answers: Duration,
}

/// Why there is no answer.
enum NoAnswer {
    /// It does not run, so nothing was done.
    Absent,
    /// It ended before it answered.
    Lost(io::Error),
    /// It runs, and does not answer a question.
    Late,
}

impl Remote {
    /// Looks for virtnotifyd at that socket from now on. Until it was heard, `pools` are those that are
    /// known.
    #[must_use]
    pub fn start(path: &Path, pools: Vec<StoragePool>) -> Arc<Self> {
        Self::with_limits(path, pools, Limits { patience: PATIENCE, answers: ANSWERS })
    }

    pub(crate) fn with_limits(path: &Path, pools: Vec<StoragePool>, limits: Limits) -> Arc<Self> {
        let mirror = Mirror::new(pools);
        let sink = OnceLock::new();
        let remote = Arc::new(Self { path: path.to_owned(), limits, mirror, sink });
        let watched = Arc::downgrade(&remote);
        std::thread::spawn(move || {
            let mut pause = LOOK_FIRST;
            while let Some(remote) = watched.upgrade() {
                let Err(error) = remote.watch(&mut pause);
                let why = match error.kind() {
                    ErrorKind::UnexpectedEof => "it ended".to_owned(),
                    _ => error.to_string(),
                };
                if remote.mirror.lost(why.clone()) {
                    tracing::warn!("virtnotifyd cannot be reached: {why}");
                }
                drop(remote);
                std::thread::sleep(pause);
                pause = (pause * 2).min(LOOK_LAST);
            }
        });
        remote
    }

    /// Takes what virtnotifyd tells, until it ends.
    fn watch(&self, pause: &mut Duration) -> Result<std::convert::Infallible, io::Error> {
        let mut stream = UnixStream::connect(&self.path)?;
        send_first(&mut stream, &Ask::Watch)?;
        loop {
            match receive(&mut stream)? {
                Answer::Pools { generation, pools } => {
                    let pools = pools.into_iter().map(StoragePool::from).collect();
                    if self.mirror.told(generation, pools) {
                        tracing::info!("virtnotifyd answers");
                    }
                    *pause = LOOK_FIRST;
                }
                Answer::Event { pool, kind } => {
                    if let Some(sink) = self.sink.get() {
                        sink(PoolEvent { pool: pool.into(), kind: kind.into() });
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Asks once, when it runs, and waits up to the limit for an answer; for ever without a limit.
    fn ask(&self, ask: &Ask, limit: Option<Duration>) -> Result<(UnixStream, Answer), NoAnswer> {
        let heard = self.mirror.wait_until_up(self.limits.patience);
        let mut stream = match UnixStream::connect(&self.path) {
            Ok(stream) => stream,
            Err(error) if heard => return Err(NoAnswer::Lost(error)),
            Err(_) => return Err(NoAnswer::Absent),
        };
        if !heard {
            // It has come up this moment.
            self.mirror.wait_until_heard();
        }
        let mut ask = || {
            stream.set_read_timeout(limit)?;
            send_first(&mut stream, ask)?;
            receive(&mut stream)
        };
        match ask() {
            Ok(answer) => Ok((stream, answer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(NoAnswer::Late),
            Err(error) => Err(NoAnswer::Lost(error)),
        }
    }

    /// What a call or the begin of a stream gives.
    fn done(&self, answer: Answer) -> Result<Vec<u8>, RemoteError> {
        match answer {
            Answer::Done { generation, result } => {
                self.mirror.wait_for(generation);
                Ok(result)
            }
            Answer::Refused { generation, error: encoded } => {
                self.mirror.wait_for(generation);
                Err(error(&encoded))
            }
            other => Err(failed(&unexpected(&other))),
        }
    }

    fn late(&self) -> RemoteError {
        let seconds = self.limits.answers.as_secs();
        let text =
            format!("virtnotifyd has not answered for {seconds} s: a disk may not answer it");
        RemoteError::new(ErrorCode::OPERATION_FAILED, text)
    }

    fn stream(
        &self,
        session: &Session,
        what: Stream,
        args: &[u8],
    ) -> Result<(Vec<u8>, Content), RemoteError> {
        let ask = Ask::Stream { client: session.into(), what, args: args.to_vec() };
        match self.ask(&ask, None) {
            Ok((socket, answer)) => Ok((self.done(answer)?, Content { socket })),
            Err(NoAnswer::Absent) => Err(offline::absent(&self.mirror.why())),
            Err(NoAnswer::Late) => Err(self.late()),
            Err(NoAnswer::Lost(error)) => Err(failed(&error)),
        }
    }
}

impl StorageService for Remote {
    fn call(&self, session: &Session, call: Call<'_>) -> Result<Vec<u8>, RemoteError> {
        let ask = Ask::Call {
            client: session.into(),
            procedure: call.procedure.number(),
            args: call.args.to_vec(),
            view: call.view.into(),
        };
        let question = call.procedure.allowed_read_only();
        let limit = question.then_some(self.limits.answers);
        let mut asked_again = false;
        loop {
            match self.ask(&ask, limit) {
                Ok((_, answer)) => return self.done(answer),
                Err(NoAnswer::Absent) => {
                    return offline::answer(&self.mirror.pools(), &call, &self.mirror.why());
                }
                // Once: the same question may be what ends it.
                Err(NoAnswer::Lost(_)) if question && !asked_again => {
                    asked_again = true;
                    self.mirror.wait_for_its_end();
                }
                Err(NoAnswer::Lost(error)) => return Err(failed(&error)),
                Err(NoAnswer::Late) => return Err(self.late()),
            }
        }
    }

    fn pool_by_name(&self, name: &str) -> Option<StoragePool> {
        self.mirror.find(|pool| pool.name == name)
    }

    fn pool_by_uuid(&self, uuid: &Uuid) -> Option<StoragePool> {
        self.mirror.find(|pool| pool.uuid == *uuid)
    }

    fn peek_pool_xml(&self, xml: &str) -> PoolXmlPeek {
        xml::peek(xml)
    }

    fn peek_volume_xml(&self, xml: &str) -> VolumeXmlPeek {
        xml::peek_volume(xml)
    }

    fn set_event_sink(&self, sink: EventSink) {
        // Called once, as the contract says.
        let _ = self.sink.set(sink);
    }

    fn download(&self, session: &Session, args: &[u8]) -> Result<Box<dyn Download>, RemoteError> {
        Ok(Box::new(self.stream(session, Stream::Download, args)?.1))
    }

    fn upload(&self, session: &Session, args: &[u8]) -> Result<Box<dyn Upload>, RemoteError> {
        Ok(Box::new(self.stream(session, Stream::Upload, args)?.1))
    }

    fn clone_in(
        &self,
        session: &Session,
        args: &[u8],
        source: &str,
    ) -> Result<CloneIn, RemoteError> {
        let (answer, content) = self.stream(session, Stream::CloneIn(source.to_owned()), args)?;
        Ok(CloneIn { answer, content: Box::new(content) })
    }

    fn clone_out(&self, session: &Session, args: &[u8]) -> Result<CloneOut, RemoteError> {
        let (xml, content) = self.stream(session, Stream::CloneOut, args)?;
        let xml = String::from_utf8(xml).map_err(|error| failed(&invalid(error)))?;
        Ok(CloneOut { xml, content: Box::new(content) })
    }
}

/// A volume's content on its way. Dropped, the connection ends, which is how the other side hears of it.
struct Content {
    socket: UnixStream,
}

impl Content {
    fn ask(&mut self, ask: &Ask) -> Result<Answer, RemoteError> {
        let asked = send(&mut self.socket, ask).and_then(|()| receive(&mut self.socket));
        asked.map_err(|error| failed(&error))
    }

    fn put(&mut self, ask: &Ask) -> Result<(), RemoteError> {
        match self.ask(ask)? {
            Answer::Done { .. } => Ok(()),
            Answer::Refused { error: encoded, .. } => Err(error(&encoded)),
            other => Err(failed(&unexpected(&other))),
        }
    }
}

impl Download for Content {
    fn next(&mut self, max: usize) -> Result<DownloadChunk, RemoteError> {
        match self.ask(&Ask::Next(max as u64))? {
            Answer::Data(data) => Ok(DownloadChunk::Data(data)),
            Answer::Hole(length) => Ok(DownloadChunk::Hole(length)),
            Answer::End => Ok(DownloadChunk::End),
            Answer::Refused { error: encoded, .. } => Err(error(&encoded)),
            other => Err(failed(&unexpected(&other))),
        }
    }
}

impl Upload for Content {
    fn write(&mut self, data: &[u8]) -> Result<(), RemoteError> {
        self.put(&Ask::Write(data.to_vec()))
    }

    fn hole(&mut self, hole: &StreamHole) -> Result<(), RemoteError> {
        self.put(&Ask::Hole { length: hole.length, flags: hole.flags })
    }

    fn finish(mut self: Box<Self>) -> Result<(), RemoteError> {
        self.put(&Ask::Finish)
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    match answer {
        Answer::OtherVersion(version) => invalid(format!(
            "virtnotifyd speaks version {version} of their protocol and virtnotify-proxy {VERSION}: \
             systemctl restart virtnotifyd virtnotify-control virtnotify-proxy"
        )),
        _ => invalid("virtnotifyd answers what was not asked"),
    }
}

/// Virtnotifyd ended, or said what cannot be understood.
fn failed(error: &io::Error) -> RemoteError {
    let ended = matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionRefused
            | ErrorKind::NotFound
    );
    let text = match ended {
        true => "virtnotifyd ended before it answered: look whether this was done".to_owned(),
        false => error.to_string(),
    };
    RemoteError::new(ErrorCode::OPERATION_FAILED, text)
}
