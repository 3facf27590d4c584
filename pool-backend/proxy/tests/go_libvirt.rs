// SPDX-License-Identifier: LGPL-2.1-or-later
//! A session of digitalocean/go-libvirt, byte for byte: Terraform's provider, exporters and packer
//! are built on it. Its encoder writes true as 0x01000000, and its older versions send the
//! arguments of the open with `AUTH_LIST`, which has none. Written by its sources; the client
//! itself does not run here.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::fake::{Client, Setup, dir_pool, setup};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use virtnotify_wire::storage::{
    ConnectListAllStoragePoolsRet, StoragePoolGetInfoRet, StoragePoolLookupByNameRet,
    StorageVolLookupByNameRet,
};
use virtnotify_wire::{Frame, Procedure, Status, StoragePool, decode};

/// The arguments of the open: three bytes of which the first is 1, padded to a word; the URI;
/// no flags.
const OPEN: &[u8] = b"\x01\0\0\0\0\0\0\x0eqemu:///system\0\0\0\0\0\0";
/// A pool's name and UUID.
const POOL: &[u8] = &[
    0, 0, 0, 3, b'v', b'm', b's', 0, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17, 17,
];

/// A call as that client writes it: the length, program, version, the procedure, type call, the
/// serial, status OK; and the payload in a write of its own.
fn packet(procedure: [u8; 2], serial: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + payload.len()).unwrap().to_be_bytes();
    let [high, low] = procedure;
    let header =
        [0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0, serial, 0, 0, 0, 0];
    [&length[..], &header, payload].concat()
}

struct Session {
    answers: Client,
    socket: OwnedWriteHalf,
    serial: u8,
}

impl Session {
    async fn new(setup: &Setup) -> Self {
        let stream = UnixStream::connect(setup.path("sock")).await.unwrap().into_std().unwrap();
        let copy = UnixStream::from_std(stream.try_clone().unwrap()).unwrap();
        let answers = Client::new(UnixStream::from_std(stream).unwrap());
        Session { answers, socket: copy.into_split().1, serial: 0 }
    }

    async fn call(&mut self, procedure: [u8; 2], payload: &[u8]) -> Frame {
        self.serial += 1;
        let packet = packet(procedure, self.serial, payload);
        self.socket.write_all(&packet).await.unwrap();
        let reply = self.answers.next().await.expect("the connection was closed").frame;
        assert_eq!(reply.header.serial, u32::from(self.serial));
        if reply.header.status != Status::Ok {
            panic!("{procedure:?}: {}", reply.decode_error().unwrap());
        }
        reply
    }
}

async fn understood(auth_list: &[u8]) {
    let setup = setup(|_| ()).await;
    let mut session = Session::new(&setup).await;
    // AUTH_LIST, CONNECT_OPEN, CONNECT_GET_LIB_VERSION.
    session.call([0, 66], auth_list).await;
    session.call([0, 1], OPEN).await;
    session.call([0, 157], b"").await;
    assert_eq!(setup.received().last(), Some(&Procedure::ConnectGetLibVersion));
    // CONNECT_LIST_ALL_STORAGE_POOLS: need_results and flags.
    let reply = session.call([1, 25], &[0, 0, 0, 1, 0, 0, 0, 3]).await;
    let all: ConnectListAllStoragePoolsRet = decode(&reply.payload()).unwrap();
    let ours = StoragePool { name: "vms".to_owned(), uuid: support::UUID };
    assert_eq!(all.pools.0, [dir_pool(), ours.clone()]);
    // STORAGE_POOL_LOOKUP_BY_NAME, STORAGE_POOL_GET_INFO, STORAGE_VOL_LOOKUP_BY_NAME.
    let reply = session.call([0, 84], &POOL[..8]).await;
    assert_eq!(decode(&reply.payload()), Ok(StoragePoolLookupByNameRet { pool: ours }));
    let reply = session.call([0, 87], POOL).await;
    assert_eq!(decode::<StoragePoolGetInfoRet>(&reply.payload()).unwrap().state, 2);
    let name = b"\0\0\0\x05disk0\0\0\0";
    let reply = session.call([0, 95], &[POOL, &name[..]].concat()).await;
    let found: StorageVolLookupByNameRet = decode(&reply.payload()).unwrap();
    assert_eq!(found.vol.key, "/dev/notify/vms/disk0");
    // CONNECT_CLOSE.
    session.call([0, 2], b"").await;
    assert_eq!(setup.received().last(), Some(&Procedure::ConnectClose));
}

#[tokio::test]
async fn a_session_is_understood() {
    understood(b"").await;
}

#[tokio::test]
async fn a_session_of_an_older_version_is_understood() {
    understood(OPEN).await;
}
