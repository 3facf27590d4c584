// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who may do what: the confused deputy stays out.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::time::Duration;

use support::fake::{Client, LONG, connect_as, identity_uid, procedures, setup};
use virtnotify_proxy::Auth;
use virtnotify_wire::connect::{
    AuthListRet, AuthType, CONNECT_RO, ConnectOpenArgs, ConnectSetIdentityArgs, TypedParam,
    TypedValue,
};
use virtnotify_wire::frame::KEEPALIVE_PROGRAM;
use virtnotify_wire::storage::{StoragePoolDefineXmlArgs, StoragePoolUndefineArgs};
use virtnotify_wire::{
    ErrorCode, Frame, Header, List, MessageType, Procedure, RemoteError, StoragePool, decode,
};

const NOBODY: u32 = 65534;

fn forged() -> ConnectSetIdentityArgs {
    let value = TypedValue::ULLong(0);
    let params = List(vec![TypedParam { field: "unix-user-id".to_owned(), value }]);
    ConnectSetIdentityArgs { params, flags: 0 }
}

fn our_pool() -> StoragePool {
    StoragePool { name: "vms".to_owned(), uuid: support::UUID }
}

#[tokio::test]
async fn the_identity_goes_upstream_right_after_the_open() {
    let setup = setup(|_| ()).await;
    let _client = setup.opened().await;
    let expected = [Procedure::AuthList, Procedure::ConnectOpen, Procedure::ConnectSetIdentity];
    assert_eq!(setup.received(), expected);
    let uid = identity_uid(&setup.log_rw.lock().unwrap()[2]);
    assert_eq!(uid, u64::from(rustix::process::geteuid().as_raw()));
}

#[tokio::test]
#[ignore = "needs root"]
async fn the_identity_is_that_of_the_client_not_ours() {
    let setup = setup(|_| ()).await;
    let stream = connect_as(NOBODY, &setup.path("sock"));
    let mut client = Client::new(stream);
    client.open("storage:///system", 0).await.unwrap();
    let uid = identity_uid(&setup.log_rw.lock().unwrap()[2]);
    assert_eq!(uid, u64::from(NOBODY));
}

#[tokio::test]
#[ignore = "needs root"]
async fn only_root_may_set_an_identity() {
    let setup = setup(|_| ()).await;
    let stream = connect_as(NOBODY, &setup.path("sock"));
    let mut client = Client::new(stream);
    client.open("storage:///system", 0).await.unwrap();
    let error = client.call::<_, ()>(Procedure::ConnectSetIdentity, &forged()).await.unwrap_err();
    assert!(error.is(ErrorCode::ACCESS_DENIED), "{error}");
    let log = setup.log_rw.lock().unwrap().clone();
    let identities: Vec<&Frame> = log
        .iter()
        .filter(|frame| frame.known_procedure() == Some(Procedure::ConnectSetIdentity))
        .collect();
    assert_eq!(identities.len(), 1);
    assert_eq!(identity_uid(identities[0]), u64::from(NOBODY));
}

#[tokio::test]
#[ignore = "needs root"]
async fn root_may_set_an_identity() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    client.call::<_, ()>(Procedure::ConnectSetIdentity, &forged()).await.unwrap();
    assert_eq!(setup.received().last(), Some(&Procedure::ConnectSetIdentity));
}

#[tokio::test]
#[ignore = "needs root"]
async fn nothing_of_a_stranger_goes_upstream() {
    let setup = setup(|config| config.rw.auth = Auth::Polkit).await;
    let stream = connect_as(NOBODY, &setup.path("sock"));
    let mut client = Client::new(stream);
    let offered: AuthListRet = client.call(Procedure::AuthList, &()).await.unwrap();
    assert_eq!(offered.types.0, [AuthType::Polkit]);
    let stranger = |error: RemoteError| {
        assert!(error.is(ErrorCode::RPC) && error.to_string().contains("authentication required"));
    };
    stranger(client.open("storage:///system", 0).await.unwrap_err());
    let args = StoragePoolUndefineArgs { pool: our_pool() };
    stranger(client.call::<_, ()>(Procedure::StoragePoolUndefine, &args).await.unwrap_err());
    stranger(client.call::<_, ()>(Procedure::ConnectSetIdentity, &forged()).await.unwrap_err());
    let unknown = client.future(7777, b"");
    stranger(client.exchange(unknown).await.decode_error().unwrap());
    let base = client.future(3, b"").header;
    let other_program = Frame::new(Header { program: 0x2000_8087, ..base }, b"").unwrap();
    stranger(client.exchange(other_program).await.decode_error().unwrap());
    for kind in [MessageType::Stream, MessageType::Message, MessageType::Reply] {
        client.send(Frame::new(Header { kind, ..base }, b"x").unwrap()).await;
    }
    let kind = MessageType::Message;
    let ping = Header { program: KEEPALIVE_PROGRAM, procedure: 1, kind, ..base };
    client.send(Frame::new(ping, b"").unwrap()).await;
    assert_eq!(client.next().await.unwrap().frame.header.procedure, 2, "a pong of ours");
    assert_eq!(setup.received(), []);
    assert!(setup.service.calls.lock().unwrap().is_empty());
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_stranger_costs_no_memory() {
    let setup = setup(|config| config.rw.auth = Auth::Polkit).await;
    let stream = connect_as(NOBODY, &setup.path("sock"));
    let mut client = Client::new(stream);
    let long = client.future(Procedure::AuthPolkit.number(), &[0; 8192]);
    client.send(long).await;
    assert!(client.next().await.is_none());
}

#[tokio::test]
#[ignore = "needs root"]
async fn root_needs_no_polkit() {
    let setup = setup(|config| config.rw.auth = Auth::Polkit).await;
    let mut client = setup.client("sock").await;
    let offered: AuthListRet = client.call(Procedure::AuthList, &()).await.unwrap();
    assert_eq!(offered.types.0, [AuthType::None]);
    client.open("storage:///system", 0).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_stranger_who_stays_silent_is_closed_and_the_next_one_gets_the_place() {
    let setup = setup(|config| {
        config.rw.auth = Auth::Polkit;
        config.max_anonymous_clients = 1;
        config.auth_timeout = Duration::from_millis(200);
    })
    .await;
    let silent = connect_as(NOBODY, &setup.path("sock"));
    let next = connect_as(NOBODY, &setup.path("sock"));
    let mut silent = Client::new(silent);
    let mut next = Client::new(next);
    let mut root = setup.client("sock").await;
    root.open("storage:///system", 0).await.unwrap();
    let asked = tokio::time::timeout(LONG, next.call::<_, AuthListRet>(Procedure::AuthList, &()));
    asked.await.unwrap().unwrap();
    assert!(silent.next().await.is_none());
}

/// Every call that changes something, with arguments that nobody should look at.
#[tokio::test]
async fn a_read_only_client_changes_nothing_by_any_call() {
    let setup = setup(|_| ()).await;
    let mut client = setup.client("sock-ro").await;
    client.open("storage:///system", 0).await.unwrap();
    refused(&mut client).await;
    assert!(setup.service.calls.lock().unwrap().is_empty());
    let expected = [Procedure::AuthList, Procedure::ConnectOpen, Procedure::ConnectSetIdentity];
    assert_eq!(procedures(&setup.log_ro), expected);
    assert_eq!(setup.received(), [], "the read-write daemon was asked for a read-only client");
}

/// Calls for which libvirt's own access rules ask for more than to look: a permission other than
/// `getattr`, `read` or `search`. Not what our own list of allowed calls leaves.
#[rustfmt::skip]
const CHANGES: &[i32] = &[
    // Storage pools and volumes: from creating a pool to reading a volume's data.
    76, 77, 78, 79, 80, 81, 82, 83, 90, 93, 94, 125, 165, 208, 209, 259, 260,
    // Node devices, interfaces, secrets, network filters.
    118, 119, 120, 123, 124, 131, 132, 133, 134, 142, 144, 145, 146, 180, 181, 220, 221, 222, 301,
    // Domains and their snapshots.
    135, 136, 160, 161, 164, 174, 182, 184, 185, 192, 193, 196, 197, 199, 201, 204, 205, 210, 211,
    219, 225, 226, 231, 232, 233, 234, 236, 237, 239, 240, 245, 249, 251, 252, 254, 256, 258, 261,
    264, 266, 267, 279, 290, 294, 295, 296, 308, 309, 310, 334, 335, 336, 338, 343, 345,
    // Moves.
    148, 166, 207, 213, 214, 215, 216, 217, 218, 300, 302, 303, 304, 305, 306, 307,
    // Networks and the host.
    250, 288, 291, 347,
];

async fn refused(client: &mut Client) {
    // The last ones are none that libvirt has, or events.
    for number in CHANGES.iter().copied().chain([0, -1, i32::MIN, 450, 453]) {
        let call = client.future(number, b"not XDR");
        let error = client.exchange(call).await.decode_error();
        let error = error.unwrap_or_else(|_| panic!("{number} was allowed"));
        assert!(error.is(ErrorCode::OPERATION_DENIED), "{number}: {error}");
    }
    let base = client.future(3, b"").header;
    for header in [Header { program: 0x2000_8087, ..base }, Header { version: 2, ..base }] {
        let call = Frame::new(header, b"").unwrap();
        let error = client.exchange(call).await.decode_error().unwrap();
        assert!(error.is(ErrorCode::OPERATION_DENIED), "{error}");
    }
}

#[tokio::test]
async fn what_a_newer_libvirt_added_goes_to_its_read_only_socket() {
    let setup = setup(|_| ()).await;
    let mut client = setup.client("sock-ro").await;
    client.open("storage:///system", 0).await.unwrap();
    // 454 to 456 are what libvirt 12.8 has beyond 11.3; what comes after them is unknown to all.
    for procedure in [454, 455, 456, 457, 100_000, i32::MAX] {
        let call = client.future(procedure, b"of the future");
        let reply = client.exchange(call.clone()).await;
        assert_eq!(reply.payload(), call.payload());
        assert_eq!(setup.log_ro.lock().unwrap().last(), Some(&call));
    }
    assert_eq!(setup.log_rw.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn the_read_only_socket_opens_read_only_whatever_the_client_asks() {
    let setup = setup(|_| ()).await;
    let mut client = setup.client("sock-ro").await;
    client.open("storage:///system", 0).await.unwrap();
    let open = setup.log_ro.lock().unwrap()[1].clone();
    let args: ConnectOpenArgs = decode(&open.payload()).unwrap();
    assert_eq!(args.flags & CONNECT_RO, CONNECT_RO);
}

#[tokio::test]
async fn a_connection_opened_read_only_is_read_only_on_any_socket() {
    let setup = setup(|_| ()).await;
    let mut client = setup.client("sock").await;
    client.open("storage:///system", CONNECT_RO).await.unwrap();
    let args = StoragePoolDefineXmlArgs { xml: "<pool type='notify'/>".to_owned(), flags: 0 };
    let error = client.call::<_, ()>(Procedure::StoragePoolDefineXml, &args).await.unwrap_err();
    let expected = "operation forbidden: read only access prevents virStoragePoolDefineXML";
    assert_eq!(error.message.as_deref(), Some(expected));
    refused(&mut client).await;
}

#[tokio::test]
async fn after_a_denied_call_the_next_allowed_one_works() {
    let setup = setup(|_| ()).await;
    let mut client = setup.client("sock-ro").await;
    client.open("storage:///system", 0).await.unwrap();
    let args = StoragePoolUndefineArgs { pool: our_pool() };
    client.call::<_, ()>(Procedure::StoragePoolUndefine, &args).await.unwrap_err();
    let args = virtnotify_wire::storage::StoragePoolGetInfoArgs { pool: our_pool() };
    let info: virtnotify_wire::storage::StoragePoolGetInfoRet =
        client.call(Procedure::StoragePoolGetInfo, &args).await.unwrap();
    assert_eq!(info.state, 2);
}
