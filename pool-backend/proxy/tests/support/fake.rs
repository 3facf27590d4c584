// SPDX-License-Identifier: LGPL-2.1-or-later
//! A scripted daemon behind the interposer, and a client in front of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use virtnotify_proxy::socket::{FrameReader, FrameWriter, Message, split};
use virtnotify_proxy::{Access, Auth, Config, bind, run};
use virtnotify_wire::connect::{
    AuthListRet, AuthType, ConnectGetTypeRet, ConnectOpenArgs, ConnectSetIdentityArgs, TypedValue,
};
use virtnotify_wire::storage::*;
use virtnotify_wire::{
    ErrorCode, Frame, Header, List, MessageType, Procedure, RemoteError, Status, Xdr, decode,
    encode,
};

use super::Memory;

/// Nothing in these tests takes this long unless it hangs.
pub const LONG: Duration = Duration::from_secs(20);

/// What the daemon received, in order, over all connections.
pub type Log = Arc<Mutex<Vec<Frame>>>;

/// An interposer between a scripted daemon and its clients.
pub struct Setup {
    pub dir: tempfile::TempDir,
    pub service: Arc<Memory>,
    pub log_rw: Log,
    pub log_ro: Log,
    pub upstream: JoinHandle<()>,
    /// Told, the daemon closes every connection it has.
    pub restart: Arc<Notify>,
    /// Whether the daemon reads and does not answer any more.
    muted: Arc<AtomicBool>,
    proxy: JoinHandle<()>,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.upstream.abort();
        self.proxy.abort();
    }
}

pub async fn setup(change: impl FnOnce(&mut Config)) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name);
    let (log_rw, log_ro) = (Log::default(), Log::default());
    let rw = UnixListener::bind(at("up")).unwrap();
    let ro = UnixListener::bind(at("up-ro")).unwrap();
    let (to_rw, to_ro) = (Arc::clone(&log_rw), Arc::clone(&log_ro));
    let restart = Arc::new(Notify::new());
    let (restart_rw, restart_ro) = (Arc::clone(&restart), Arc::clone(&restart));
    let muted = Arc::new(AtomicBool::new(false));
    let (muted_rw, muted_ro) = (Arc::clone(&muted), Arc::clone(&muted));
    let upstream = tokio::spawn(async move {
        tokio::join!(
            daemon(rw, to_rw, restart_rw, muted_rw),
            daemon(ro, to_ro, restart_ro, muted_ro)
        );
    });
    let mut config = Config::new(at("up"), at("up-ro"));
    config.rw.auth = Auth::None;
    config.ro.auth = Auth::None;
    change(&mut config);
    let listeners = vec![
        bind(&at("sock"), Access::ReadWrite, 0o666).unwrap(),
        bind(&at("sock-ro"), Access::ReadOnly, 0o666).unwrap(),
    ];
    let service = Memory::with_pool();
    let proxy = tokio::spawn(run(
        config,
        listeners,
        Arc::clone(&service) as Arc<_>,
        std::future::pending(),
    ));
    Setup { dir, service, log_rw, log_ro, upstream, restart, muted, proxy }
}

impl Setup {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon hangs from now on.
    pub fn mute(&self) {
        self.muted.store(true, Ordering::Release);
    }

    /// The daemon ends, and its sockets with it.
    pub async fn stop_upstream(&self) {
        self.upstream.abort();
        while !self.upstream.is_finished() {
            tokio::task::yield_now().await;
        }
        for socket in ["up", "up-ro"] {
            std::fs::remove_file(self.path(socket)).unwrap();
        }
    }

    /// A read-write daemon in the place of one that is gone.
    pub fn serve_upstream(&self) -> JoinHandle<()> {
        let listener = UnixListener::bind(self.path("up")).unwrap();
        let (log, restart) = (Arc::clone(&self.log_rw), Arc::clone(&self.restart));
        tokio::spawn(daemon(listener, log, restart, Arc::clone(&self.muted)))
    }

    pub async fn client(&self, socket: &str) -> Client {
        Client::new(UnixStream::connect(self.path(socket)).await.unwrap())
    }

    /// A client that has opened its connection.
    pub async fn opened(&self) -> Client {
        let mut client = self.client("sock").await;
        client.open("storage:///system", 0).await.unwrap();
        client
    }

    /// The procedures that reached the read-write daemon.
    pub fn received(&self) -> Vec<Procedure> {
        procedures(&self.log_rw)
    }
}

pub fn procedures(log: &Log) -> Vec<Procedure> {
    log.lock().unwrap().iter().filter_map(Frame::known_procedure).collect()
}

pub fn dir_pool() -> StoragePool {
    StoragePool { name: "dir".to_owned(), uuid: Uuid([0xdd; 16]) }
}

/// The daemon: has a pool `dir`, knows the calls that matter, and sends everything else
/// back as it came, descriptors included. Two procedures of the future are scripted:
/// 9001 never answers, 9002 closes the connection. 9003 does not find the pool that its
/// payload names, as a domain's call in libvirtd does.
async fn daemon(listener: UnixListener, log: Log, restart: Arc<Notify>, muted: Arc<AtomicBool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                connections.spawn(daemon_connection(stream, Arc::clone(&log), Arc::clone(&muted)));
            }
            () = restart.notified() => connections.shutdown().await,
        }
    }
}

async fn daemon_connection(stream: UnixStream, log: Log, muted: Arc<AtomicBool>) {
    let (mut reader, mut writer) = split(stream);
    while let Ok(Some(message)) = reader.read().await {
        let header = message.frame.header;
        log.lock().unwrap().push(message.frame.clone());
        if muted.load(Ordering::Acquire) {
            continue;
        }
        let reply = match (header.kind, header.procedure) {
            (MessageType::Call, 9001) => continue,
            (MessageType::Call, 9002) => return,
            (MessageType::Call, 9003) => {
                let name = String::from_utf8(message.frame.payload().to_vec()).unwrap();
                let detail = format!("no storage pool with matching name '{name}'");
                let error = RemoteError::new(ErrorCode::NO_STORAGE_POOL, detail);
                Frame::error_reply(&header, &error)
            }
            (MessageType::Call, _) => {
                known(&header, &message.frame.payload()).unwrap_or_else(|| echo(&message.frame))
            }
            _ => echo(&message.frame),
        };
        if writer.write(&Message { frame: reply, fds: message.fds }).await.is_err() {
            return;
        }
    }
}

/// The same bytes as a reply, so that a test sees what arrived.
fn echo(frame: &Frame) -> Frame {
    let kind = match frame.header.kind {
        MessageType::Call => MessageType::Reply,
        MessageType::CallWithFds => MessageType::ReplyWithFds,
        other => other,
    };
    let header = Header { kind, ..frame.header };
    let count = if kind.has_fds() { encode(&frame.n_fds).unwrap() } else { Vec::new() };
    let made = Frame::new(header, &[&count, &frame.payload()[..]].concat()).unwrap();
    reread(&made)
}

/// A frame as a reader would see it, count of descriptors included.
pub fn reread(frame: &Frame) -> Frame {
    let mut bytes = bytes::BytesMut::from(&frame.bytes()[..]);
    virtnotify_wire::frame::decode(&mut bytes).unwrap().unwrap()
}

fn ok<T: Xdr>(call: &Header, result: &T) -> Frame {
    Frame::reply(call, &encode(result).unwrap()).unwrap()
}

fn no_pool(call: &Header) -> Frame {
    let error = RemoteError::new(ErrorCode::NO_STORAGE_POOL, "upstream has no such pool");
    Frame::error_reply(call, &error)
}

fn known(call: &Header, args: &[u8]) -> Option<Frame> {
    use Procedure as P;
    Some(match call.known_procedure()? {
        P::AuthList => ok(call, &AuthListRet { types: List(vec![AuthType::None]) }),
        P::ConnectOpen | P::ConnectSetIdentity => ok(call, &()),
        P::ConnectGetType => ok(call, &ConnectGetTypeRet { r#type: "storage".to_owned() }),
        P::ConnectListAllStoragePools => {
            ok(call, &ConnectListAllStoragePoolsRet { pools: List(vec![dir_pool()]), ret: 1 })
        }
        P::ConnectNumOfStoragePools => ok(call, &ConnectNumOfStoragePoolsRet { num: 1 }),
        P::ConnectListStoragePools => {
            ok(call, &ConnectListStoragePoolsRet { names: List(vec!["dir".to_owned()]) })
        }
        P::ConnectGetStoragePoolCapabilities => {
            let capabilities = "<storagepoolCapabilities>\n</storagepoolCapabilities>\n";
            let capabilities = capabilities.to_owned();
            ok(call, &ConnectGetStoragePoolCapabilitiesRet { capabilities })
        }
        P::StoragePoolLookupByName => {
            match decode::<StoragePoolLookupByNameArgs>(args).unwrap().name.as_str() {
                "dir" => ok(call, &StoragePoolLookupByNameRet { pool: dir_pool() }),
                _ => no_pool(call),
            }
        }
        P::StoragePoolLookupByUuid => {
            match decode::<StoragePoolLookupByUuidArgs>(args).unwrap().uuid {
                uuid if uuid == dir_pool().uuid => {
                    ok(call, &StoragePoolLookupByUuidRet { pool: dir_pool() })
                }
                _ => no_pool(call),
            }
        }
        P::StoragePoolDefineXml | P::StoragePoolCreateXml => {
            let text = String::from_utf8_lossy(args);
            let shadow = StoragePool { name: "vms".to_owned(), ..dir_pool() };
            let pool = if text.contains("<name>vms</name>") { shadow } else { dir_pool() };
            ok(call, &StoragePoolDefineXmlRet { pool })
        }
        P::StoragePoolUndefine | P::StoragePoolDestroy => ok(call, &()),
        P::ConnectStoragePoolEventRegisterAny => {
            ok(call, &ConnectStoragePoolEventRegisterAnyRet { callback_id: 42 })
        }
        _ => return None,
    })
}

/// One client of the interposer.
pub struct Client {
    pub reader: FrameReader,
    pub writer: FrameWriter,
    serial: u32,
}

impl Client {
    pub fn new(stream: UnixStream) -> Self {
        let (reader, writer) = split(stream);
        Client { reader, writer, serial: 0 }
    }

    pub async fn send(&mut self, message: impl Into<Message>) {
        self.writer.write(&message.into()).await.unwrap();
    }

    /// The next frame; `None` if the connection is closed.
    pub async fn next(&mut self) -> Option<Message> {
        let read = tokio::time::timeout(LONG, self.reader.read()).await;
        read.expect("nothing came").unwrap_or(None)
    }

    pub fn frame<T: Xdr>(&mut self, procedure: Procedure, args: &T) -> Frame {
        self.serial += 1;
        Frame::call(procedure, self.serial, args).unwrap()
    }

    /// A call of a procedure that no libvirt has.
    pub fn future(&mut self, procedure: i32, payload: &[u8]) -> Frame {
        let known = self.frame(Procedure::ConnectClose, &());
        Frame::new(Header { procedure, ..known.header }, payload).unwrap()
    }

    pub async fn exchange(&mut self, frame: Frame) -> Frame {
        let serial = frame.header.serial;
        self.send(frame).await;
        let reply = self.next().await.expect("the connection was closed").frame;
        assert_eq!(reply.header.serial, serial);
        reply
    }

    pub async fn call<A: Xdr, R: Xdr>(
        &mut self,
        procedure: Procedure,
        args: &A,
    ) -> Result<R, RemoteError> {
        let frame = self.frame(procedure, args);
        let reply = self.exchange(frame).await;
        match reply.header.status {
            Status::Ok => Ok(decode(&reply.payload()).unwrap()),
            _ => Err(reply.decode_error().unwrap()),
        }
    }

    pub async fn open(&mut self, uri: &str, flags: u32) -> Result<(), RemoteError> {
        let args = ConnectOpenArgs { name: Some(uri.to_owned()), flags };
        self.call(Procedure::ConnectOpen, &args).await
    }
}

/// The user that an identity names.
pub fn identity_uid(frame: &Frame) -> u64 {
    let args: ConnectSetIdentityArgs = decode(&frame.payload()).unwrap();
    let uid = args.params.iter().find(|param| param.field == "unix-user-id").unwrap();
    match uid.value {
        TypedValue::ULLong(uid) => uid,
        ref other => panic!("{other:?}"),
    }
}

/// Connects as another user, which only root can.
pub fn connect_as(uid: u32, path: &Path) -> UnixStream {
    let path = path.to_owned();
    // Credentials belong to a thread; this one ends with them.
    let connecting = std::thread::spawn(move || {
        let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap()
    });
    let stream = connecting.join().unwrap();
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}
