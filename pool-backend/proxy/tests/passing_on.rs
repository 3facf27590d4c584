// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is not ours goes through untouched, and nobody waits for anybody else.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::os::fd::OwnedFd;
use std::time::Duration;

use support::fake::{Client, LONG, dir_pool, reread, setup};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use virtnotify_proxy::socket::Message;
use virtnotify_wire::connect::ConnectSetIdentityArgs;
use virtnotify_wire::frame::KEEPALIVE_PROGRAM;
use virtnotify_wire::storage::{
    StoragePoolGetInfoArgs, StoragePoolLookupByNameArgs, StoragePoolLookupByNameRet,
    StoragePoolRefreshArgs,
};
use virtnotify_wire::{
    ErrorCode, Frame, Header, List, MessageType, Procedure, RemoteError, Status, encode,
};

#[tokio::test]
async fn an_unknown_procedure_goes_through_byte_for_byte() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let call = client.future(7777, b"whatever it is");
    let reply = client.exchange(call.clone()).await;
    assert_eq!(setup.log_rw.lock().unwrap().last(), Some(&call));
    assert_eq!(reply.payload(), call.payload());
}

#[tokio::test]
async fn a_call_about_another_pool_goes_through_byte_for_byte() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let args = StoragePoolRefreshArgs { pool: dir_pool(), flags: 0 };
    let call = client.frame(Procedure::StoragePoolRefresh, &args);
    client.exchange(call.clone()).await;
    assert_eq!(setup.log_rw.lock().unwrap().last(), Some(&call));
}

#[tokio::test]
async fn other_programs_streams_and_answers_to_keepalives_go_through() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let base = client.future(3, b"").header;
    for header in [
        Header { program: 0x2000_8087, ..base },
        Header { version: 2, ..base },
        Header { kind: MessageType::Stream, status: Status::Continue, ..base },
        Header { kind: MessageType::StreamHole, status: Status::Continue, ..base },
        Header { kind: MessageType::Other(77), ..base },
        Header { program: KEEPALIVE_PROGRAM, kind: MessageType::Message, procedure: 2, ..base },
    ] {
        let sent = Frame::new(header, b"as it is").unwrap();
        client.send(sent.clone()).await;
        client.next().await.unwrap();
        assert_eq!(setup.log_rw.lock().unwrap().last(), Some(&sent));
    }
}

#[tokio::test]
async fn descriptors_go_through_both_ways() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let (there, back) = std::io::pipe().unwrap();
    let base = client.future(8000, b"").header;
    let header = Header { kind: MessageType::CallWithFds, ..base };
    let frame = reread(&Frame::new(header, &[0, 0, 0, 2, 1, 2, 3, 4]).unwrap());
    client.send(Message { frame, fds: vec![there.into(), back.into()] }).await;
    let reply = client.next().await.unwrap();
    assert_eq!(reply.frame.header.kind, MessageType::ReplyWithFds);
    assert_eq!(&reply.frame.payload()[..], [1, 2, 3, 4]);
    let [there, back]: [OwnedFd; 2] = reply.fds.try_into().unwrap();
    rustix::io::write(back, b"x").unwrap();
    assert_eq!(rustix::io::read(there, &mut [0; 8]).unwrap(), 1);
}

#[tokio::test]
async fn a_malformed_frame_closes_its_connection_and_no_other() {
    let setup = setup(|_| ()).await;
    let mut good = setup.opened().await;
    for hostile in [&[0, 0, 0, 5][..], &[0xff; 64], &[0x02, 0, 0, 5, 0, 0, 0, 0]] {
        let mut bad = UnixStream::connect(setup.path("sock")).await.unwrap();
        bad.write_all(hostile).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut bad, &mut rest);
        tokio::time::timeout(LONG, read).await.expect("still open").ok();
        assert!(rest.is_empty());
    }
    let call = good.future(7777, b"");
    good.exchange(call).await;
}

#[tokio::test]
async fn a_client_that_takes_the_serials_of_our_own_calls_is_closed() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let call = client.future(7777, b"").with_serial(0xF000_0003);
    client.send(call).await;
    assert!(client.next().await.is_none());
    assert!(!setup.log_rw.lock().unwrap().iter().any(|frame| frame.header.procedure == 7777));
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_only_itself() {
    let setup = setup(|_| ()).await;
    let mut slow = setup.opened().await;
    let call = slow.future(7777, &vec![1; 1 << 20]);
    let flood = tokio::spawn(async move {
        loop {
            slow.send(call.clone()).await;
        }
    });
    let mut other = setup.opened().await;
    for _ in 0..50 {
        let call = other.future(7777, b"");
        other.exchange(call).await;
    }
    let before = setup.log_rw.lock().unwrap().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = setup.log_rw.lock().unwrap().len();
    assert!(!flood.is_finished());
    assert_eq!(before, after, "what nobody reads piles up somewhere");
    flood.abort();
}

/// The service while it answers nobody.
struct Held {
    release: std::sync::mpsc::Sender<()>,
    holder: std::thread::JoinHandle<()>,
}

impl Held {
    async fn new(service: &std::sync::Arc<support::Memory>) -> Self {
        let service = std::sync::Arc::clone(service);
        let (locked, is_locked) = tokio::sync::oneshot::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let _gate = service.gate.lock().unwrap();
            locked.send(()).unwrap();
            let _ = released.recv();
        });
        is_locked.await.unwrap();
        Held { release, holder }
    }

    fn release(self) {
        drop(self.release);
        self.holder.join().unwrap();
    }
}

fn our_info() -> StoragePoolGetInfoArgs {
    let pool = virtnotify_wire::StoragePool { name: "vms".to_owned(), uuid: support::UUID };
    StoragePoolGetInfoArgs { pool }
}

#[tokio::test]
async fn a_call_of_ours_that_takes_long_stalls_no_other_call() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let held = Held::new(&setup.service).await;
    let slow = client.frame(Procedure::StoragePoolGetInfo, &our_info());
    client.send(slow.clone()).await;
    let quick = client.future(7777, b"");
    client.exchange(quick).await;
    let mut other = setup.opened().await;
    let quick = other.future(7777, b"");
    other.exchange(quick).await;
    held.release();
    let reply = client.next().await.unwrap().frame;
    assert_eq!((reply.header.serial, reply.header.status), (slow.header.serial, Status::Ok));
}

#[tokio::test]
async fn of_one_client_so_many_calls_are_worked_on_and_the_next_wait() {
    let setup = setup(|config| config.max_client_requests = 2).await;
    let mut client = setup.opened().await;
    let held = Held::new(&setup.service).await;
    for _ in 0..3 {
        let slow = client.frame(Procedure::StoragePoolGetInfo, &our_info());
        client.send(slow).await;
    }
    let quick = client.future(7777, b"");
    client.send(quick.clone()).await;
    // It is behind the third, which waits for a place; another client's is not.
    let mut other = setup.opened().await;
    let call = other.future(7778, b"");
    other.exchange(call).await;
    tokio::select! {
        _ = client.next() => panic!("a call was answered past those that wait"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    held.release();
    let mut serials = Vec::new();
    for _ in 0..4 {
        serials.push(client.next().await.unwrap().frame.header.serial);
    }
    assert!(serials.contains(&quick.header.serial), "{serials:?}");
}

/// Leaves calls without an answer and makes the daemon close the connection.
async fn lose_the_daemon(client: &mut Client) {
    let waiting = client.future(9001, b"");
    client.send(waiting.clone()).await;
    let killer = client.future(9002, b"");
    client.send(killer.clone()).await;
    let mut failed = Vec::new();
    for _ in 0..2 {
        let frame = client.next().await.unwrap().frame;
        let error = frame.decode_error().unwrap();
        assert!(error.is(ErrorCode::INTERNAL_ERROR), "{error}");
        failed.push(frame.header.serial);
    }
    failed.sort_unstable();
    assert_eq!(failed, [waiting.header.serial, killer.header.serial]);
}

#[tokio::test]
async fn a_client_tied_to_a_daemon_that_goes_away_ends_with_it_and_the_next_works() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    // Nobody knows what a call of the future leaves behind in the daemon.
    lose_the_daemon(&mut client).await;
    assert!(client.next().await.is_none());
    let mut next = setup.opened().await;
    let call = next.future(7777, b"");
    next.exchange(call).await;
}

#[tokio::test]
async fn other_clients_survive_a_restart_of_the_daemon_and_stay_who_they_are() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let identity = ConnectSetIdentityArgs { params: List::default(), flags: 0 };
    let root = rustix::process::geteuid().is_root();
    if root {
        client.call::<_, ()>(Procedure::ConnectSetIdentity, &identity).await.unwrap();
    }
    let name = || StoragePoolLookupByNameArgs { name: "dir".to_owned() };
    let call = Procedure::StoragePoolLookupByName;
    client.call::<_, StoragePoolLookupByNameRet>(call, &name()).await.unwrap();
    setup.log_rw.lock().unwrap().clear();
    setup.restart.notify_waiters();
    // A call that meets the daemon in its last moment fails; a later one finds it back.
    let back = async {
        while !setup.received().contains(&Procedure::ConnectOpen) {
            let _ = client.call::<_, StoragePoolLookupByNameRet>(call, &name()).await;
        }
        client.call::<_, StoragePoolLookupByNameRet>(call, &name()).await.unwrap();
    };
    tokio::time::timeout(LONG, back).await.unwrap();
    let received = setup.received();
    let again = received.iter().position(|one| *one == Procedure::AuthList).unwrap();
    let mut expected =
        vec![Procedure::AuthList, Procedure::ConnectOpen, Procedure::ConnectSetIdentity];
    if root {
        expected.push(Procedure::ConnectSetIdentity);
    }
    assert_eq!(&received[again..][..expected.len()], expected);
}

#[tokio::test]
async fn our_pools_answer_while_the_daemon_is_away() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    std::fs::remove_file(setup.path("up")).unwrap();
    setup.restart.notify_waiters();
    let name = |name: &str| StoragePoolLookupByNameArgs { name: name.to_owned() };
    let call = Procedure::StoragePoolLookupByName;
    let theirs = async {
        while client.call::<_, StoragePoolLookupByNameRet>(call, &name("dir")).await.is_ok() {}
    };
    tokio::time::timeout(LONG, theirs).await.unwrap();
    client.call::<_, StoragePoolLookupByNameRet>(call, &name("vms")).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_an_error_for_what_needs_it() {
    let setup = setup(|config| config.rw.upstream = "/nonexistent/sock".into()).await;
    let absent = |error: RemoteError| {
        assert!(error.is(ErrorCode::SYSTEM_ERROR), "{error}");
        assert!(error.to_string().contains("Failed to connect socket to '/nonexistent/sock'"));
    };
    let mut client = setup.client("sock").await;
    absent(client.open("qemu:///system", 0).await.unwrap_err());
    let mut client = setup.client("sock").await;
    client.open("storage:///system", 0).await.unwrap();
    let args = StoragePoolLookupByNameArgs { name: "dir".to_owned() };
    let found =
        client.call::<_, StoragePoolLookupByNameRet>(Procedure::StoragePoolLookupByName, &args);
    absent(found.await.unwrap_err());
}

#[tokio::test]
async fn more_clients_than_allowed_wait_until_one_leaves() {
    let setup = setup(|config| config.max_clients = 2).await;
    let first = setup.opened().await;
    let _second = setup.opened().await;
    let third = setup.opened();
    tokio::pin!(third);
    tokio::select! {
        _ = &mut third => panic!("three clients at once"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    drop(first);
    tokio::time::timeout(LONG, third).await.unwrap();
}

#[tokio::test]
async fn a_thousand_silent_and_slow_clients_keep_nobody_from_working() {
    let setup = setup(|_| ()).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        let mut one = UnixStream::connect(setup.path("sock")).await.unwrap();
        one.write_all(&[0, 0]).await.unwrap();
        silent.push(one);
    }
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut one = setup.opened().await;
        for _ in 0..4 {
            let call = one.future(7777, &vec![1; 1 << 16]);
            one.send(call).await;
        }
        slow.push(one);
    }
    let mut client = setup.opened().await;
    let call = client.future(7777, &encode(&1u32).unwrap());
    client.exchange(call).await;
}
