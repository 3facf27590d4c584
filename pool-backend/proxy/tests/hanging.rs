// SPDX-License-Identifier: LGPL-2.1-or-later
//! A daemon behind us that accepts and never answers.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::fake::{Client, LONG, Setup, connect_as, setup};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use virtnotify_proxy::{Config, Patience};
use virtnotify_wire::connect::{
    ConnectSetIdentityArgs, ConnectSupportsFeatureArgs, ConnectSupportsFeatureRet,
};
use virtnotify_wire::frame::KEEPALIVE_PROGRAM;
use virtnotify_wire::storage::*;
use virtnotify_wire::{Frame, Header, List, MessageType, Procedure, RemoteError};

const SOON: Duration = Duration::from_millis(300);

fn impatient(config: &mut Config) {
    config.upstream = Patience { connect: SOON, start: SOON * 2, answer: SOON };
}

/// What accepts and never answers, until it is dropped; and the connections that it holds.
struct Silent {
    held: Arc<Mutex<Vec<UnixStream>>>,
    accepting: JoinHandle<()>,
}

impl Silent {
    /// In the place of the daemon.
    fn new(setup: &Setup) -> Self {
        let path = setup.path("up");
        std::fs::remove_file(&path).unwrap();
        let socket = UnixListener::bind(&path).unwrap();
        let held: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let to = Arc::clone(&held);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                to.lock().unwrap().push(stream);
            }
        });
        Silent { held, accepting }
    }

    /// Waits until every connection to it was closed by the other side.
    async fn alone(&self) {
        let all = std::mem::take(&mut *self.held.lock().unwrap());
        assert!(!all.is_empty(), "nobody came");
        for stream in all {
            let closed = async {
                let mut buffer = [0; 1024];
                loop {
                    stream.readable().await.unwrap();
                    match stream.try_read(&mut buffer) {
                        Ok(0) => return,
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                    }
                }
            };
            tokio::time::timeout(LONG, closed).await.expect("a connection is left over");
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn by_name(name: &str) -> StoragePoolLookupByNameArgs {
    StoragePoolLookupByNameArgs { name: name.to_owned() }
}

async fn info(client: &mut Client) -> StoragePoolGetInfoRet {
    let lookup = client.call(Procedure::StoragePoolLookupByName, &by_name("vms")).await;
    let StoragePoolLookupByNameRet { pool } = lookup.unwrap();
    client.call(Procedure::StoragePoolGetInfo, &StoragePoolGetInfoArgs { pool }).await.unwrap()
}

fn silent(error: &RemoteError) {
    assert!(error.to_string().contains("did not answer within"), "{error}");
}

/// What `virsh -c storage:///system pool-info vms` says, from the open to the close.
#[tokio::test]
async fn our_pools_answer_to_a_new_client() {
    let setup = setup(impatient).await;
    let _silent = Silent::new(&setup);
    let mut client = setup.client("sock").await;
    client.open("storage:///system", 0).await.unwrap();
    for (feature, expected) in [(10, 1), (14, 1), (15, 0), (8, 1), (9, 1)] {
        let args = ConnectSupportsFeatureArgs { feature };
        let ConnectSupportsFeatureRet { supported } =
            client.call(Procedure::ConnectSupportsFeature, &args).await.unwrap();
        assert_eq!(supported, expected, "{feature}");
    }
    assert_eq!(info(&mut client).await.state, 2);
    client.call::<_, ()>(Procedure::ConnectClose, &()).await.unwrap();
}

#[tokio::test]
async fn what_needs_the_daemon_is_an_error_in_time_and_works_when_it_is_back() {
    let setup = setup(impatient).await;
    let silenced = Silent::new(&setup);
    let mut client = setup.client("sock").await;
    client.open("storage:///system", 0).await.unwrap();
    if rustix::process::geteuid().is_root() {
        let identity = ConnectSetIdentityArgs { params: List::default(), flags: 0 };
        client.call::<_, ()>(Procedure::ConnectSetIdentity, &identity).await.unwrap();
    }
    let call = Procedure::StoragePoolLookupByName;
    let found = client.call::<_, StoragePoolLookupByNameRet>(call, &by_name("dir")).await;
    silent(&found.unwrap_err());
    let list = ConnectListAllStoragePoolsArgs { need_results: 1, flags: 0 };
    let listed = client.call(Procedure::ConnectListAllStoragePools, &list).await;
    silent(&listed.map(|_: ConnectListAllStoragePoolsRet| ()).unwrap_err());
    // A path of ours is found without it, and at once: that it hangs is known by now.
    let path = StorageVolLookupByPathArgs { path: "/dev/notify/vms/disk0".to_owned() };
    let before = Instant::now();
    let found: StorageVolLookupByPathRet =
        client.call(Procedure::StorageVolLookupByPath, &path).await.unwrap();
    assert_eq!(found.vol.name, "disk0");
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
    // Back: opened as the client opened, under its identities, and the call goes through.
    drop(silenced);
    std::fs::remove_file(setup.path("up")).unwrap();
    let again = setup.serve_upstream();
    let found: StoragePoolLookupByNameRet = client.call(call, &by_name("dir")).await.unwrap();
    assert_eq!(found.pool.name, "dir");
    let received = setup.received();
    let expected = [Procedure::AuthList, Procedure::ConnectOpen, Procedure::ConnectSetIdentity];
    assert_eq!(received[..3], expected);
    assert_eq!(received.last(), Some(&call));
    again.abort();
}

/// Whose connection stood when the daemon began to hang.
#[tokio::test]
async fn calls_of_our_own_are_given_up() {
    let setup = setup(impatient).await;
    let mut client = setup.opened().await;
    setup.mute();
    let args = ConnectListStoragePoolsArgs { maxnames: 16 };
    let listed = client.call(Procedure::ConnectListStoragePools, &args).await;
    silent(&listed.map(|_: ConnectListStoragePoolsRet| ()).unwrap_err());
    let xml = "<pool type='notify'><name>new</name></pool>".to_owned();
    let args = StoragePoolDefineXmlArgs { xml, flags: 0 };
    let defined = client.call(Procedure::StoragePoolDefineXml, &args).await;
    silent(&defined.map(|_: StoragePoolDefineXmlRet| ()).unwrap_err());
    assert_eq!(info(&mut client).await.state, 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_waits_leaves_nothing_behind() {
    let setup = setup(|_| ()).await;
    let silent = Silent::new(&setup);
    // One waits for its open, one with an open connection for its call.
    for uri in ["qemu:///system", "storage:///system"] {
        let mut client = setup.client("sock").await;
        let args =
            virtnotify_wire::connect::ConnectOpenArgs { name: Some(uri.to_owned()), flags: 0 };
        let open = client.frame(Procedure::ConnectOpen, &args);
        client.send(open).await;
        while silent.held.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        // What it has said since lies unread.
        let more = client.future(7777, &[0; 10_000]);
        client.send(more).await;
        drop(client);
        silent.alone().await;
    }
}

#[tokio::test]
async fn keepalives_are_answered() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    setup.mute();
    let waiting = client.future(7777, b"");
    client.send(waiting.clone()).await;
    let (program, kind) = (KEEPALIVE_PROGRAM, MessageType::Message);
    let ping = Header { program, kind, procedure: 1, serial: 0, ..waiting.header };
    client.send(Frame::new(ping, b"").unwrap()).await;
    let pong = client.next().await.unwrap().frame.header;
    assert_eq!((pong.program, pong.procedure, pong.kind), (program, 2, kind));
}

/// As virtnotifyd, when a disk does not answer it.
#[test]
#[ignore = "needs root"]
fn users_whose_calls_hang_leave_threads_to_all_others() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(8).enable_all().build().unwrap();
    runtime.block_on(async {
        let setup = setup(|config| config.driver_threads = 4).await;
        let (held, gate) = std::sync::mpsc::channel::<()>();
        let (service, (locked, is_locked)) =
            (Arc::clone(&setup.service), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            let _gate = service.gate.lock().unwrap();
            locked.send(()).unwrap();
            gate.recv().unwrap_err();
        });
        is_locked.recv().unwrap();
        let pool = StoragePool { name: "vms".to_owned(), uuid: support::UUID };
        let info = StoragePoolGetInfoArgs { pool };
        let mut waiting = Vec::new();
        for uid in [1001, 1001, 1001, 1002] {
            let mut client = Client::new(connect_as(uid, &setup.path("sock-ro")));
            let opened = tokio::time::timeout(LONG, client.open("storage:///system", 0)).await;
            opened.expect("a user is let in").unwrap();
            for _ in 0..5 {
                let call = client.frame(Procedure::StoragePoolGetInfo, &info);
                client.send(call).await;
            }
            waiting.push(client);
        }
        let calls = || setup.service.calls.lock().unwrap().len();
        while calls() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let opened = tokio::time::timeout(LONG, setup.opened()).await;
        let mut root = opened.expect("root is let in");
        let asked = calls();
        let call = root.frame(Procedure::StoragePoolGetInfo, &info);
        root.send(call).await;
        while calls() == asked {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(asked, 2, "one call of each user at a time");
        drop(held);
        for client in &mut waiting {
            for _ in 0..5 {
                client.next().await.unwrap();
            }
        }
    });
}
