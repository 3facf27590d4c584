// SPDX-License-Identifier: LGPL-2.1-or-later
//! Strangers and read-only clients: what they can take from the host is bounded.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::cell::Cell;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use support::fake::{Client, LONG, Setup, connect_as, reread, setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use virtnotify_proxy::socket::Message;
use virtnotify_proxy::{Auth, Config};
use virtnotify_wire::connect::{AuthListRet, AuthPolkitRet};
use virtnotify_wire::storage::{StoragePoolGetInfoArgs, StorageVolLookupByPathArgs};
use virtnotify_wire::{Frame, Header, MessageType, Procedure, StoragePool};

const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// Waits until the interposer has closed a connection, without a word.
async fn closed(mut stream: UnixStream) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
    // A connection that is closed with bytes of ours unread is reset.
    read.expect("still open").ok();
    assert!(rest.is_empty(), "{rest:?}");
}

/// Waits until a user who may look gets in.
async fn gets_in(setup: &Setup) {
    loop {
        let mut next = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
        let frame = next.frame(Procedure::AuthList, &());
        if next.writer.write(&frame.into()).await.is_ok() && next.next().await.is_some() {
            break;
        }
    }
}

/// A user who may look, and what he holds while half a frame of his is there.
fn begun(length: u32, sent: usize) -> Vec<u8> {
    let mut bytes = vec![0; sent];
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[tokio::test]
#[ignore = "needs root"]
async fn frames_of_a_read_only_client_are_small() {
    let setup = setup(|_| ()).await;
    let mut large = connect_as(NOBODY, &setup.path("sock-ro"));
    large.write_all(&begun(256 * 1024 + 1, 4)).await.unwrap();
    closed(large).await;
    // What fits goes through, and root may say what it likes.
    let mut client = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
    client.open("storage:///system", 0).await.unwrap();
    let call = client.future(Procedure::ConnectGetType.number(), &[7; 200 * 1024]);
    client.exchange(call).await;
    let mut root = setup.client("sock-ro").await;
    root.open("storage:///system", 0).await.unwrap();
    let call = root.future(Procedure::ConnectGetType.number(), &vec![7; 1 << 20]);
    root.exchange(call).await;
}

/// A user's frames take so much memory and no more, whatever was announced; short ones and those of others do not wait.
#[tokio::test]
#[ignore = "needs root"]
async fn who_announces_much_and_sends_little_holds_up_only_clients_of_its_own() {
    let setup = setup(|_| ()).await;
    let open = async |user| {
        let mut client = Client::new(connect_as(user, &setup.path("sock")));
        client.open("storage:///system", 0).await.unwrap();
        client
    };
    let mut begun_only = connect_as(NOBODY, &setup.path("sock"));
    let hello = Frame::call(Procedure::AuthList, 1, &()).unwrap();
    begun_only.write_all(&[&hello.bytes()[..], &begun(32 << 20, 28)].concat()).await.unwrap();
    // What came first is answered, so what came with it is seen.
    begun_only.read_u32().await.unwrap();
    let (long, answered) = (vec![7; 2 << 20], Cell::new(false));
    let mut waiting = open(NOBODY).await;
    let call = waiting.future(9000, &long);
    let waits = async {
        let answer = waiting.exchange(call).await;
        answered.set(true);
        answer
    };
    let goes_on = async {
        let (mut short, mut other) = (open(NOBODY).await, open(DAEMON).await);
        let call = short.future(9000, b"short");
        short.exchange(call).await;
        let call = other.future(9000, &long);
        other.exchange(call).await;
        assert!(!answered.get(), "it did not wait");
        drop(begun_only);
    };
    let (answer, ()) = tokio::join!(waits, goes_on);
    assert_eq!(answer.payload().len(), long.len());
}

fn impatient(config: &mut Config) {
    config.frame_timeout = Duration::from_millis(200);
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_frame_that_a_read_only_client_has_begun_ends_in_time_or_with_its_connection() {
    let setup = setup(impatient).await;
    let mut half = connect_as(NOBODY, &setup.path("sock-ro"));
    half.write_all(&begun(250_000, 100_000)).await.unwrap();
    closed(half).await;
    // A client that says nothing has begun nothing.
    let mut silent = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
    silent.open("storage:///system", 0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let call = silent.future(Procedure::ConnectGetType.number(), b"");
    silent.exchange(call).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_frame_that_a_stranger_has_begun_ends_in_time_or_with_its_connection() {
    let setup = setup(|config| {
        config.rw.auth = Auth::Polkit;
        impatient(config);
    })
    .await;
    let mut half = connect_as(NOBODY, &setup.path("sock"));
    half.write_all(&begun(4000, 2000)).await.unwrap();
    closed(half).await;
}

/// A frame that announces a descriptor, with that descriptor.
async fn send_with_fd(client: &mut Client, header: Header, fd: OwnedFd) {
    let header = Header { kind: MessageType::CallWithFds, ..header };
    let frame = reread(&Frame::new(header, &[0, 0, 0, 1]).unwrap());
    client.send(Message { frame, fds: vec![fd] }).await;
}

/// Whether all copies of a pipe's end are closed.
async fn gone(mut reader: impl Read + Send + 'static) {
    let read = tokio::task::spawn_blocking(move || reader.read(&mut [0]).unwrap());
    assert_eq!(tokio::time::timeout(LONG, read).await.expect("still held").unwrap(), 0);
}

#[tokio::test]
async fn descriptors_that_no_call_of_its_sort_needs_end_the_connection() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let (there, back) = std::io::pipe().unwrap();
    let pool = StoragePool { name: "dir".to_owned(), uuid: support::UUID };
    let known = client.frame(Procedure::StoragePoolGetInfo, &StoragePoolGetInfoArgs { pool });
    send_with_fd(&mut client, known.header, back.into()).await;
    assert!(client.next().await.is_none());
    gone(there).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn descriptors_of_a_read_only_client_are_not_collected() {
    let setup = setup(|_| ()).await;
    let mut client = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
    client.open("storage:///system", 0).await.unwrap();
    // The first of 32 that are announced: the end comes without the others.
    let header = Header { kind: MessageType::CallWithFds, ..client.future(8000, b"").header };
    let frame = Frame::new(header, &[0, 0, 0, 32]).unwrap();
    client.send(frame).await;
    assert!(client.next().await.is_none());
}

/// Descriptors that hang on the bytes of a frame which announces none never become ours.
#[tokio::test]
async fn descriptors_that_nobody_announced_are_dropped_by_the_kernel() {
    let setup = setup(|_| ()).await;
    let stream = UnixStream::connect(setup.path("sock")).await.unwrap();
    let (there, back) = std::io::pipe().unwrap();
    let fds = [back.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&stream, &[IoSlice::new(&[0, 0])], &mut control, SendFlags::empty()).unwrap();
    drop(back);
    gone(there).await;
    drop(stream);
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_user_has_so_many_clients_and_others_get_in() {
    let setup = setup(|config| config.max_user_clients = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
        client.open("storage:///system", 0).await.unwrap();
        held.push(client);
    }
    closed(connect_as(NOBODY, &setup.path("sock-ro"))).await;
    closed(connect_as(NOBODY, &setup.path("sock"))).await;
    let mut other = Client::new(connect_as(DAEMON, &setup.path("sock-ro")));
    other.open("storage:///system", 0).await.unwrap();
    setup.opened().await;
    // One that leaves makes room for another.
    drop(held.pop());
    gets_in(&setup).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn one_who_hangs_up_has_his_place_until_his_call_is_over() {
    let setup = setup(|config| config.max_user_clients = 1).await;
    let mut client = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
    client.open("storage:///system", 0).await.unwrap();
    let (held, gate) = std::sync::mpsc::channel::<()>();
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let service = setup.service.clone();
    let holder = std::thread::spawn(move || {
        let _gate = service.gate.lock().unwrap();
        locked.send(()).unwrap();
        gate.recv().unwrap_err();
    });
    is_locked.await.unwrap();
    setup.service.calls.lock().unwrap().clear();
    let path = StorageVolLookupByPathArgs { path: "/dev/notify/vms/disk0".to_owned() };
    let call = client.frame(Procedure::StorageVolLookupByPath, &path);
    client.send(call).await;
    while setup.service.calls.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client);
    closed(connect_as(NOBODY, &setup.path("sock-ro"))).await;
    drop(held);
    holder.join().unwrap();
    gets_in(&setup).await;
}

#[tokio::test]
#[ignore = "needs root"]
async fn root_gets_in_when_others_have_taken_all_places() {
    let setup = setup(|config| config.max_clients = 10).await;
    let mut held = Vec::new();
    for _ in 0..9 {
        let mut client = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
        client.open("storage:///system", 0).await.unwrap();
        held.push(client);
    }
    let waiting = connect_as(NOBODY, &setup.path("sock-ro"));
    let opened = tokio::time::timeout(LONG, setup.opened()).await;
    opened.expect("root waits behind others");
    drop(waiting);
}

#[tokio::test]
#[ignore = "needs root"]
async fn one_users_strangers_keep_no_other_user_from_authenticating() {
    let setup = setup(|config| {
        config.rw.auth = Auth::Polkit;
        config.max_anonymous_clients = 4;
    })
    .await;
    let silent: Vec<_> = (0..20).map(|_| connect_as(NOBODY, &setup.path("sock"))).collect();
    let mut other = Client::new(connect_as(DAEMON, &setup.path("sock")));
    let asked = other.call::<_, AuthListRet>(Procedure::AuthList, &());
    tokio::time::timeout(Duration::from_secs(5), asked).await.expect("no place").unwrap();
    drop(silent);
}

/// Counts the lines of a log.
struct Lines(Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl Lines {
    /// Those of this thread, until the guard is dropped.
    fn counted() -> (Arc<AtomicUsize>, tracing::subscriber::DefaultGuard) {
        let lines = Arc::new(AtomicUsize::new(0));
        let guard = tracing::subscriber::set_default(Lines(Arc::clone(&lines)));
        (lines, guard)
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_user_does_not_fill_the_log_while_libvirt_is_stopped() {
    let (lines, _logged) = Lines::counted();
    let setup = setup(|_| ()).await;
    setup.stop_upstream().await;
    let mut client = Client::new(connect_as(NOBODY, &setup.path("sock-ro")));
    for _ in 0..20 {
        client.open("storage:///system", 0).await.unwrap();
        let call = client.future(460, b"of the future");
        client.exchange(call).await.decode_error().unwrap();
    }
    let lines = lines.load(Ordering::Relaxed);
    assert!((1..=2).contains(&lines), "{lines} lines");
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_user_does_not_fill_the_log_by_asking_polkit() {
    let (lines, _logged) = Lines::counted();
    let setup = setup(|config| config.rw.auth = Auth::Polkit).await;
    let mut client = Client::new(connect_as(NOBODY, &setup.path("sock")));
    for _ in 0..20 {
        client.call::<_, AuthPolkitRet>(Procedure::AuthPolkit, &()).await.unwrap_err();
    }
    assert_eq!(lines.load(Ordering::Relaxed), 1);
}
