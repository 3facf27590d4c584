// SPDX-License-Identifier: LGPL-2.1-or-later
//! virtnotifyd's side of the private socket.
//!
//! A thread for each connection: calls may block, and only root makes any. Clients that watch have a queue, and
//! those that follow one message into which all is merged; one that does not read is let go, and connects again
//! when it does.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
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

use crate::Publisher;
use crate::message::{Answer, Ask, Pool, Stream, VERSION, invalid, receive, receive_first, send};

/// How many messages a client that watches may be behind.
const BACKLOG: usize = 1024;
/// How long a client that is told something may leave it unread.
const UNREAD: Duration = Duration::from_secs(10);
/// How many connections there may be at once. Only root has any; this bounds what a fault of a neighbour may cost.
const MOST: usize = 512;
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

/// Serves the driver and the pools to those who connect, for good.
pub fn serve(listener: &UnixListener, driver: Arc<Driver>, publisher: Arc<Publisher>) {
    let server = Arc::new(Server::new(driver, publisher));
    let events = Arc::clone(&server);
    server.driver.set_event_sink(Box::new(move |event| events.tell(event)));
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept().and_then(|(stream, _)| {
            let (server, place) = (Arc::clone(&server), Place::take(&open)?);
            let thread = std::thread::Builder::new().name("client".into()).stack_size(STACK);
            thread.spawn(move || {
                server.run(stream);
                drop(place);
            })
        });
        if let Err(error) = accepted {
            tracing::error!("a connection to the storage socket could not be accepted: {error}");
            std::thread::sleep(AGAIN);
        }
    }
}

/// One of the connections that may be open at once.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> io::Result<Self> {
        let place = Self(Arc::clone(open));
        match open.fetch_add(1, Ordering::Relaxed) {
            taken if taken >= MOST => Err(io::Error::other(format!("{MOST} are open"))),
            _ => Ok(place),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct Server {
    driver: Arc<Driver>,
    publisher: Arc<Publisher>,
    told: Mutex<Told>,
}

/// What the clients that watch were told.
struct Told {
    /// Counts on from one daemon to the next: a client may have seen the last one's.
    generation: u64,
    pools: Vec<Pool>,
    watching: Vec<Watching>,
    /// How many clients have watched so far: the next one's number.
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
    pub(crate) fn new(driver: Arc<Driver>, publisher: Arc<Publisher>) -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let generation = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        let told = Told { generation, pools: pools(&driver), watching: Vec::new(), watched: 0 };
        Self { driver, publisher, told: Mutex::new(told) }
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
            Ok(Ask::Follow) => self.follow(stream),
            Ok(Ask::Storage(question)) => match self.publisher.answer(question)? {
                Some((sequence, result)) => {
                    send(&mut stream, &Answer::Storage { sequence, result })
                }
                None => send(&mut stream, &Answer::Busy),
            },
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

    fn watch(&self, stream: UnixStream) -> io::Result<()> {
        let (number, news) = self.watched();
        let leaves = || self.told().watching.retain(|client| client.number != number);
        tell(stream, news.into_iter(), leaves)
    }

    fn follow(&self, stream: UnixStream) -> io::Result<()> {
        let mailbox = self.publisher.subscribe();
        let news = std::iter::from_fn(|| Some(Answer::News(Box::new(mailbox.take()?))));
        tell(stream, news, || self.publisher.unsubscribe(&mailbox))
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

/// Tells a client all of that. Ends when it is let go, and when it hangs up, also while there is nothing to tell it:
/// `leaves` ends the news.
fn tell(
    mut stream: UnixStream,
    mut news: impl Iterator<Item = Answer>,
    leaves: impl Fn() + Sync,
) -> io::Result<()> {
    let told = stream.set_write_timeout(Some(UNREAD)).and_then(|()| {
        let mut ends = stream.try_clone()?;
        std::thread::scope(|scope| {
            let waits = std::thread::Builder::new().name("client".into()).stack_size(STACK);
            waits.spawn_scoped(scope, || {
                // It says nothing any more: whatever comes is the end.
                let _ = ends.read(&mut [0]);
                leaves();
            })?;
            let told = news.try_for_each(|answer| send(&mut stream, &answer));
            let _ = stream.shutdown(Shutdown::Both);
            told
        })
    });
    // Also where it could not even begin.
    leaves();
    told
}

fn pools(driver: &Driver) -> Vec<Pool> {
    driver.pools().into_iter().map(Pool::from).collect()
}
