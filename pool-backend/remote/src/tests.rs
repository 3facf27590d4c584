// SPDX-License-Identifier: LGPL-2.1-or-later
//! A driver over a backend in memory, asked through the socket, whose daemon can end at any moment.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use virtnotify_driver::fake::FakeBackend;
use virtnotify_driver::{Driver, Paths, pools_on_disk};
use virtnotify_model::{Bytes, EventBus};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::procedure::Procedure as P;
use virtnotify_wire::service::{Call, DownloadChunk, PoolView, Session, StorageService};
use virtnotify_wire::storage::*;
use virtnotify_wire::{ErrorCode, RemoteError, StoragePool, StorageVol, Xdr, decode, encode};
use virtnotifyd::fake;

#[path = "../tests/support/mod.rs"]
mod support;

use support::Daemon;

use crate::Publisher;
use crate::client::{Limits, Remote};
use crate::message::{Answer, Ask, VERSION, receive, receive_first, send, send_first};
use crate::server::{Server, bind, serve};

const SESSION: Session = Session { id: 7, uid: 1000, gid: 100, pid: 4711, read_only: false };
const VMS: &str = "<pool type='notify'><name>vms</name><source><name>vg0</name></source></pool>";
/// Longer than a test takes that does not fail.
const LONG: Duration = Duration::from_secs(30);

fn limits(patience: Duration) -> Limits {
    Limits { patience, answers: LONG }
}

struct Bench {
    directory: TempDir,
    backend: Arc<FakeBackend>,
    daemon: Daemon,
    remote: Arc<Remote>,
}

fn paths(directory: &Path) -> Paths {
    Paths { definitions: directory.join("etc"), state: directory.join("run") }
}

/// What the daemon serves.
fn served(
    driver: Driver,
    backend: Arc<FakeBackend>,
    directory: &Path,
) -> (Arc<Driver>, Arc<Publisher>) {
    let (driver, events) = (Arc::new(driver), EventBus::new());
    let storage = fake::local(driver.clone(), backend, directory, &events);
    (driver, Publisher::new(Arc::new(storage), &events))
}

impl Bench {
    fn new(patience: Duration) -> Self {
        let directory = TempDir::new().unwrap();
        let backend = FakeBackend::new()
            .with_group(&"vg0".parse().unwrap(), Bytes::mib(64))
            .with_devices(directory.path().join("dev"));
        let backend = Arc::new(backend);
        let (driver, problems) = Driver::open(paths(directory.path()), backend.clone());
        assert_eq!(problems, [""; 0]);
        assert_eq!(driver.start_pools(), [""; 0]);
        let listener = bind(&directory.path().join("behind")).unwrap();
        let (driver, publisher) = served(driver, backend.clone(), directory.path());
        std::thread::spawn(move || serve(&listener, driver, publisher));
        let at = |name| directory.path().join(name);
        let daemon = Daemon::start(at("socket"), at("behind"));
        let remote = Remote::with_limits(&at("socket"), Vec::new(), limits(patience));
        Self { directory, backend, daemon, remote }
    }

    fn with_pool() -> (Self, StoragePool) {
        let bench = Self::new(LONG);
        let pool = bench.define().unwrap();
        let args = StoragePoolCreateArgs { pool: pool.clone(), flags: 0 };
        bench.call::<_, ()>(P::StoragePoolCreate, &args).unwrap();
        (bench, pool)
    }

    fn define(&self) -> Result<StoragePool, RemoteError> {
        let args = StoragePoolDefineXmlArgs { xml: VMS.to_owned(), flags: 0 };
        self.call(P::StoragePoolDefineXml, &args).map(|ret: StoragePoolDefineXmlRet| ret.pool)
    }

    fn call<A: Xdr, R: Xdr>(&self, procedure: P, args: &A) -> Result<R, RemoteError> {
        call(&self.remote, procedure, args)
    }

    /// Returns when the pool has so many volumes.
    fn until_volumes(&self, pool: &StoragePool, count: i32) {
        let args = StoragePoolNumOfVolumesArgs { pool: pool.clone() };
        let end = Instant::now() + LONG;
        let volumes = || {
            let ret: StoragePoolNumOfVolumesRet =
                self.call(P::StoragePoolNumOfVolumes, &args).unwrap();
            ret.num
        };
        while volumes() != count {
            assert!(Instant::now() < end, "the pool has {} volumes", volumes());
            std::thread::yield_now();
        }
    }

    fn volume(&self, pool: &StoragePool) -> StorageVol {
        let xml = "<volume><name>a</name><capacity>1048576</capacity></volume>".to_owned();
        let args = StorageVolCreateXmlArgs { pool: pool.clone(), xml, flags: 0 };
        let made: StorageVolCreateXmlRet = self.call(P::StorageVolCreateXml, &args).unwrap();
        made.vol
    }
}

fn call<A: Xdr, R: Xdr>(remote: &Remote, procedure: P, args: &A) -> Result<R, RemoteError> {
    let args = encode(args).unwrap();
    let result = remote.call(&SESSION, Call { procedure, args: &args, view: PoolView::Own })?;
    Ok(decode(&result).unwrap())
}

fn refused<T>(answer: Result<T, RemoteError>) -> (i32, String) {
    let error = answer.err().expect("it should have been refused");
    (error.code, error.message.clone().unwrap())
}

#[test]
fn a_pool_that_was_defined_is_known_at_once() {
    let bench = Bench::new(LONG);
    assert!(bench.remote.pool_by_name("vms").is_none());
    let pool = bench.define().unwrap();
    assert_eq!(bench.remote.pool_by_name("vms"), Some(pool.clone()));
    assert_eq!(bench.remote.pool_by_uuid(&pool.uuid), Some(pool.clone()));
    let args = StoragePoolUndefineArgs { pool: pool.clone() };
    bench.call::<_, ()>(P::StoragePoolUndefine, &args).unwrap();
    assert_eq!(bench.remote.pool_by_name("vms"), None);
    // An error is the driver's own, with all of its fields.
    let (code, text) = refused(bench.call::<_, ()>(P::StoragePoolUndefine, &args));
    assert_eq!(code, ErrorCode::NO_STORAGE_POOL.0);
    assert!(
        text.starts_with("Storage pool not found: no storage pool with matching uuid"),
        "{text}"
    );
}

#[test]
fn events_arrive_with_the_pools_that_they_are_of() {
    let bench = Bench::new(LONG);
    let (sender, events) = channel();
    let sender = Mutex::new(sender);
    bench.remote.set_event_sink(Box::new(move |event| {
        let _ = sender.lock().unwrap().send(event);
    }));
    let pool = bench.define().unwrap();
    let event = events.recv_timeout(LONG).unwrap();
    assert_eq!(event.pool, pool);
    assert_eq!(bench.remote.pool_by_name("vms"), Some(event.pool));
}

#[test]
fn what_was_uploaded_is_downloaded() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.volume(&pool);
    let args = StorageVolUploadArgs { vol: vol.clone(), offset: 65536, length: 0, flags: 1 };
    let mut stream = bench.remote.upload(&SESSION, &encode(&args).unwrap()).unwrap();
    stream.write(b"hello").unwrap();
    stream.hole(&StreamHole { length: 65531, flags: 0 }).unwrap();
    stream.write(b"world").unwrap();
    stream.finish().unwrap();
    let args = StorageVolDownloadArgs { vol, offset: 0, length: 0, flags: 1 };
    let mut stream = bench.remote.download(&SESSION, &encode(&args).unwrap()).unwrap();
    assert_eq!(stream.next(65536).unwrap(), DownloadChunk::Hole(65536));
    let DownloadChunk::Data(data) = stream.next(65536).unwrap() else { panic!("no data") };
    assert!(data.starts_with(b"hello\0") && data.len() == 65536);
    let DownloadChunk::Data(data) = stream.next(65536).unwrap() else { panic!("no data") };
    assert!(data.starts_with(b"world\0"));
    assert_eq!(stream.next(65536).unwrap(), DownloadChunk::Hole((1 << 20) - 3 * 65536));
    assert_eq!(stream.next(65536).unwrap(), DownloadChunk::End);
}

#[test]
fn a_clone_that_is_given_up_is_gone_again() {
    let (bench, pool) = Bench::with_pool();
    let xml = "<volume><name>c</name><capacity>1048576</capacity></volume>".to_owned();
    let clonevol = StorageVol { pool: "other".into(), name: "o".into(), key: "/other/o".into() };
    let args =
        StorageVolCreateXmlFromArgs { pool: pool.clone(), xml: xml.clone(), clonevol, flags: 0 };
    let source = xml.replace(">c<", ">o<");
    let mut clone = bench.remote.clone_in(&SESSION, &encode(&args).unwrap(), &source).unwrap();
    clone.content.write(b"half").unwrap();
    bench.until_volumes(&pool, 1);
    drop(clone);
    bench.until_volumes(&pool, 0);
}

#[test]
fn a_question_survives_a_daemon_that_starts_again() {
    let (bench, pool) = Bench::with_pool();
    bench.daemon.down();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            bench.call::<_, StoragePoolGetInfoRet>(
                P::StoragePoolGetInfo,
                &StoragePoolGetInfoArgs { pool: pool.clone() },
            )
        });
        bench.daemon.up();
        assert_eq!(asked.join().unwrap().unwrap().capacity, 64 << 20);
    });
}

#[test]
fn a_change_whose_daemon_ends_is_told_to_be_unknown() {
    let (bench, pool) = Bench::with_pool();
    bench.backend.hold();
    std::thread::scope(|scope| {
        let xml = "<volume><name>b</name><capacity>1048576</capacity></volume>".to_owned();
        let args = StorageVolCreateXmlArgs { pool: pool.clone(), xml, flags: 0 };
        let asked = scope.spawn({
            let bench = &bench;
            move || bench.call::<_, StorageVolCreateXmlRet>(P::StorageVolCreateXml, &args)
        });
        bench.backend.wait_for_held(1);
        bench.daemon.down();
        let (code, text) = refused(asked.join().unwrap());
        assert_eq!(code, ErrorCode::OPERATION_FAILED.0);
        assert!(text.contains("virtnotifyd ended before it answered"), "{text}");
    });
    bench.backend.release();
    // It was done after all.
    bench.daemon.up();
    bench.until_volumes(&pool, 1);
}

#[test]
fn without_a_daemon_pools_are_inactive_and_say_why() {
    let bench = Bench::new(LONG);
    let pool = bench.define().unwrap();
    bench.daemon.down();
    let known = pools_on_disk(paths(bench.directory.path()));
    assert_eq!(known, std::slice::from_ref(&pool));
    let remote = Remote::with_limits(&bench.daemon.socket, known, limits(Duration::ZERO));
    assert_eq!(remote.pool_by_name("vms"), Some(pool.clone()));
    let list = |flags| {
        let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags };
        call::<_, ConnectListAllStoragePoolsRet>(&remote, P::ConnectListAllStoragePools, &args)
            .unwrap()
            .pools
            .len()
    };
    // None, inactive, active, both, persistent, transient, of type dir.
    assert_eq!([0, 1, 2, 3, 4, 8, 1 << 6].map(list), [1, 1, 0, 1, 1, 0, 0]);
    let args = StoragePoolIsActiveArgs { pool: pool.clone() };
    let is: StoragePoolIsActiveRet = call(&remote, P::StoragePoolIsActive, &args).unwrap();
    assert_eq!(is.active, 0);
    let args = StoragePoolGetInfoArgs { pool: pool.clone() };
    let info: StoragePoolGetInfoRet = call(&remote, P::StoragePoolGetInfo, &args).unwrap();
    assert_eq!((info.state, info.capacity), (0, 0));
    let names: ConnectListDefinedStoragePoolsRet = call(
        &remote,
        P::ConnectListDefinedStoragePools,
        &ConnectListDefinedStoragePoolsArgs { maxnames: 5 },
    )
    .unwrap();
    assert_eq!(*names.names, ["vms"]);
    let none: ConnectNumOfStoragePoolsRet =
        call(&remote, P::ConnectNumOfStoragePools, &()).unwrap();
    assert_eq!(none.num, 0);
    let by_path = StorageVolLookupByPathArgs { path: "/var/lib/libvirt/images/a".into() };
    let (code, _) =
        refused(call::<_, StorageVolLookupByPathRet>(&remote, P::StorageVolLookupByPath, &by_path));
    assert_eq!(code, ErrorCode::NO_STORAGE_VOL.0, "libvirt's own pools are asked");
    let args = StoragePoolCreateArgs { pool, flags: 0 };
    let (code, text) = refused(call::<_, ()>(&remote, P::StoragePoolCreate, &args));
    assert_eq!(code, ErrorCode::OPERATION_INVALID.0);
    assert!(
        text.contains("does not run") && text.contains("systemctl status virtnotifyd"),
        "{text}"
    );
}

#[test]
fn another_version_is_told_what_to_do() {
    let bench = Bench::new(LONG);
    let mut stream = UnixStream::connect(&bench.daemon.socket).unwrap();
    send(&mut stream, &(VERSION + 1, Ask::Watch)).unwrap();
    let answer: Answer = receive(&mut stream).unwrap();
    assert_eq!(answer, Answer::OtherVersion(VERSION));

    let socket = bench.directory.path().join("other");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            receive_first(&mut stream).unwrap().unwrap();
            send(&mut stream, &Answer::OtherVersion(VERSION + 1)).unwrap();
        }
    });
    let remote = Remote::with_limits(&socket, Vec::new(), limits(Duration::from_secs(2)));
    let args = StoragePoolCreateArgs {
        pool: StoragePool { name: "x".into(), uuid: Uuid([0; 16]) },
        flags: 0,
    };
    let (_, text) = refused(call::<_, ()>(&remote, P::StoragePoolCreate, &args));
    assert!(
        text.contains("systemctl restart virtnotifyd virtnotify-control virtnotify-proxy"),
        "{text}"
    );
}

#[test]
fn a_daemon_that_does_not_answer_a_question_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listener = bind(&socket).unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if matches!(receive_first(&mut stream), Ok(Ok(Ask::Watch))) {
                send(&mut stream, &Answer::Pools { generation: 1, pools: Vec::new() }).unwrap();
            }
            silent.push(stream);
        }
    });
    let limits = Limits { answers: Duration::from_millis(50), ..limits(LONG) };
    let remote = Remote::with_limits(&socket, Vec::new(), limits);
    let pool = StoragePool { name: "x".into(), uuid: Uuid([0; 16]) };
    let args = StoragePoolGetInfoArgs { pool };
    let (_, text) =
        refused(call::<_, StoragePoolGetInfoRet>(&remote, P::StoragePoolGetInfo, &args));
    assert!(text.contains("has not answered for 0 s"), "{text}");
}

#[test]
fn what_is_no_message_ends_its_connection_alone() {
    let (bench, pool) = Bench::with_pool();
    for noise in [&[0xff; 4][..], &[0, 0, 0, 2, 1, 0xee], &[0, 0, 0, 0], b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stream = UnixStream::connect(&bench.daemon.socket).unwrap();
        stream.write_all(noise).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut left = Vec::new();
        // A connection that is reset was ended as well.
        let _ = stream.read_to_end(&mut left);
    }
    let args = StoragePoolGetInfoArgs { pool };
    bench.call::<_, StoragePoolGetInfoRet>(P::StoragePoolGetInfo, &args).unwrap();
}

#[test]
fn one_who_watches_and_hangs_up_leaves_no_thread_behind() {
    let directory = TempDir::new().unwrap();
    let backend = Arc::new(FakeBackend::new());
    let (driver, _) = Driver::open(paths(directory.path()), backend.clone());
    let (driver, publisher) = served(driver, backend, directory.path());
    let server = Server::new(driver, publisher);
    let (mut here, there) = UnixStream::pair().unwrap();
    let (over, is_over) = channel();
    std::thread::spawn(move || {
        server.run(there);
        over.send(()).unwrap();
    });
    send_first(&mut here, &Ask::Watch).unwrap();
    let first: Answer = receive(&mut here).unwrap();
    assert!(matches!(first, Answer::Pools { .. }), "{first:?}");
    // There is nothing to tell, now or later.
    drop(here);
    is_over.recv_timeout(LONG).unwrap();
}

#[test]
fn the_socket_lets_root_alone_in() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let _first = bind(&path).unwrap();
    let _second = bind(&path).expect("in the place of what was left there");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
