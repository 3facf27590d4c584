// SPDX-License-Identifier: LGPL-2.1-or-later
//! virtnotifyd's side of the private socket.
//!
//! A thread for each connection: calls may block, and nobody but root makes any. Clients that watch
//! have a queue; one that does not read is let go, and connects again when it does.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use rustix::time::{ClockId, clock_gettime};
use virtnotify_driver::Driver;
use virtnotify_wire::service::{
    Call, CloneIn, CloneOut, Download, DownloadChunk, PoolEvent, StorageService, Upload,
};
use virtnotify_wire::{ErrorCode, Procedure, RemoteError, connect::StreamHole};

use crate::message::{Answer, Ask, Pool, Stream, VERSION, invalid, receive, receive_first, send};

/// How many messages a client that watches may be behind.
const BACKLOG: usize = 1024;
/// How long nothing is accepted after that failed: out of descriptors or threads, and there is no event to
/// wait for.
const AGAIN: Duration = Duration::from_millis(100);

/// What a connection's thread has: virtnotifyd's memory is locked, and what its threads may use counts as used.
const STACK: usize = 512 << 10;

/// Listens at a path, in place of a socket that was left there. Only root gets in: by its mode, and
/// because each client is asked for its user, also one that came before the mode was set.
///
/// # Errors
/// When that is not possible.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the driver to those who connect, for good.
pub fn serve(listener: &UnixListener, driver: Arc<Driver>) {
    let server = Arc::new(Server::new(driver));
    let events = Arc::clone(&server);
    server.driver.set_event_sink(Box::new(move |event| events.tell(event)));
    loop {
        let accepted = listener.accept().and_then(|(stream, _)| {
            let server = Arc::clone(&server);
            let thread = std::thread::Builder::new().name("client".into()).stack_size(STACK);
            thread.spawn(move || server.run(stream))
        });
        if let Err(error) = accepted {
            tracing::error!("a connection to the storage socket could not be accepted: {error}");
            std::thread::sleep(AGAIN);
        }
    }
}

pub(crate) struct Server {
    driver: Arc<Driver>,
    told: Mutex<Told>,
}

/// What those who watch were told.
struct Told {
    /// Counts on from one daemon to the next: a client may have seen the last one's.
    generation: u64,
    pools: Vec<Pool>,
    watching: Vec<Watching>,
    /// How many have watched so far: the next one's number.
    watched: u64,
}

/// A client that watches.
struct Watching {
    number: u64,
    news: SyncSender<Answer>,
}

impl Told {
    fn tell(&mut self, answer: &Answer) {
        self.watching.retain(|client| client.news.try_send(answer.clone()).is_ok());
    }

    fn all(&self) -> Answer {
        Answer::Pools { generation: self.generation, pools: self.pools.clone() }
    }
}

impl Server {
    pub(crate) fn new(driver: Arc<Driver>) -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let generation = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        let told = Told { generation, pools: pools(&driver), watching: Vec::new(), watched: 0 };
        Self { driver, told: Mutex::new(told) }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells which pools there are, if that changed; returns the generation that shows it.
    fn publish(&self) -> u64 {
        let mut told = self.told();
        let pools = pools(&self.driver);
        if told.pools != pools {
            told.pools = pools;
            told.generation += 1;
            let all = told.all();
            told.tell(&all);
        }
        told.generation
    }

    fn tell(&self, event: PoolEvent) {
        self.publish();
        self.told().tell(&Answer::event(event));
    }

    pub(crate) fn run(&self, stream: UnixStream) {
        match self.connection(stream) {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                tracing::debug!("a connection to the storage socket ended: {error}");
            }
            _ => {}
        }
    }

    fn connection(&self, mut stream: UnixStream) -> io::Result<()> {
        let uid = socket_peercred(&stream)?.uid;
        if !uid.is_root() && uid != geteuid() {
            return Err(ErrorKind::PermissionDenied.into());
        }
        match receive_first(&mut stream)? {
            Err(_) => send(&mut stream, &Answer::OtherVersion(VERSION)),
            Ok(Ask::Watch) => self.watch(stream),
            Ok(Ask::Call { client, procedure, args, view }) => {
                let procedure = Procedure::from_number(procedure);
                let procedure = procedure.ok_or_else(|| invalid("an unknown procedure"))?;
                let call = Call { procedure, args: &args, view: view.into() };
                let result = self.driver.call(&client.into(), call);
                self.answer(&mut stream, result)
            }
            Ok(Ask::Stream { client, what, args }) => {
                let client = client.into();
                match what {
                    Stream::Download => {
                        let source = self.driver.download(&client, &args);
                        self.give(stream, source.map(|source| (Vec::new(), source)))
                    }
                    Stream::CloneOut => {
                        let made = self.driver.clone_out(&client, &args);
                        let parts = |CloneOut { xml, content }| (xml.into_bytes(), content);
                        self.give(stream, made.map(parts))
                    }
                    Stream::Upload => {
                        let place = self.driver.upload(&client, &args);
                        self.take(stream, place.map(|place| (Vec::new(), place)))
                    }
                    Stream::CloneIn(xml) => {
                        let made = self.driver.clone_in(&client, &args, &xml);
                        let parts = |CloneIn { answer, content }| (answer, content);
                        self.take(stream, made.map(parts))
                    }
                }
            }
            Ok(_) => Err(invalid("a piece of a volume without a volume")),
        }
    }

    fn answer(
        &self,
        stream: &mut UnixStream,
        result: Result<Vec<u8>, RemoteError>,
    ) -> io::Result<()> {
        send(stream, &Answer::to_call(self.publish(), result))
    }

    /// Ends when the client is let go, and when it hangs up, also while there is nothing to tell it.
    fn watch(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut ends = stream.try_clone()?;
        let (number, news) = self.watched();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // It says nothing any more: whatever comes is the end.
                let _ = ends.read(&mut [0]);
                self.told().watching.retain(|client| client.number != number);
            });
            let told = news.into_iter().try_for_each(|answer| send(&mut stream, &answer));
            let _ = stream.shutdown(Shutdown::Both);
            told
        })
    }

    fn watched(&self) -> (u64, Receiver<Answer>) {
        let (news, receiver) = sync_channel(BACKLOG);
        let mut told = self.told();
        told.watched += 1;
        let number = told.watched;
        let first = told.all();
        // There is room: it is empty.
        if news.try_send(first).is_ok() {
            told.watching.push(Watching { number, news });
        }
        (number, receiver)
    }

    /// Gives a volume's content, piece by piece.
    fn give(
        &self,
        mut stream: UnixStream,
        source: Result<(Vec<u8>, Box<dyn Download>), RemoteError>,
    ) -> io::Result<()> {
        let Some(mut source) = self.begin(&mut stream, source)? else { return Ok(()) };
        loop {
            let Ask::Next(max) = receive(&mut stream)? else {
                return Err(invalid("a volume that is read is asked for pieces alone"));
            };
            let piece = source.next(usize::try_from(max).unwrap_or(usize::MAX));
            let answer = match piece {
                Ok(DownloadChunk::Data(data)) => Answer::Data(data),
                Ok(DownloadChunk::Hole(length)) => Answer::Hole(length),
                Ok(DownloadChunk::End) => Answer::End,
                Err(error) => Answer::to_call(self.publish(), Err(error)),
            };
            send(&mut stream, &answer)?;
        }
    }

    /// Takes a volume's content, piece by piece.
    fn take(
        &self,
        mut stream: UnixStream,
        place: Result<(Vec<u8>, Box<dyn Upload>), RemoteError>,
    ) -> io::Result<()> {
        let Some(mut place) = self.begin(&mut stream, place)? else { return Ok(()) };
        loop {
            let taken = match receive(&mut stream)? {
                Ask::Write(data) => place.write(&data),
                Ask::Hole { length, flags } => place.hole(&StreamHole { length, flags }),
                Ask::Finish => {
                    let finished = place.finish().map(|()| Vec::new());
                    return self.answer(&mut stream, finished);
                }
                _ => Err(RemoteError::new(ErrorCode::INTERNAL_ERROR, "no piece of a volume")),
            };
            self.answer(&mut stream, taken.map(|()| Vec::new()))?;
        }
    }

    /// Answers what a stream begins with.
    fn begin<T>(
        &self,
        stream: &mut UnixStream,
        begun: Result<(Vec<u8>, T), RemoteError>,
    ) -> io::Result<Option<T>> {
        let (result, content) = match begun {
            Ok((result, content)) => (Ok(result), Some(content)),
            Err(error) => (Err(error), None),
        };
        self.answer(stream, result)?;
        Ok(content)
    }
}

fn pools(driver: &Driver) -> Vec<Pool> {
    driver.pools().into_iter().map(Pool::from).collect()
}
