// SPDX-License-Identifier: LGPL-2.1-or-later
//! Our pools beside those of the daemon behind.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::fake::{Client, dir_pool, setup};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{PoolEvent, PoolEventKind};
use virtnotify_wire::storage::*;
use virtnotify_wire::{
    ErrorCode, Frame, Header, MessageType, PoolView, Procedure, StoragePool, StorageVol, decode,
    encode,
};
use virtnotify_wire::{RemoteError, Status};

fn our_pool() -> StoragePool {
    StoragePool { name: "vms".to_owned(), uuid: support::UUID }
}

fn our_vol() -> StorageVol {
    let key = "/dev/notify/vms/disk0".to_owned();
    StorageVol { pool: "vms".to_owned(), name: "disk0".to_owned(), key }
}

#[tokio::test]
async fn lists_show_both_sides() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags: 0 };
    let all: ConnectListAllStoragePoolsRet =
        client.call(Procedure::ConnectListAllStoragePools, &args).await.unwrap();
    assert_eq!((all.pools.0, all.ret), (vec![dir_pool(), our_pool()], 2));
    let count: ConnectNumOfStoragePoolsRet =
        client.call(Procedure::ConnectNumOfStoragePools, &()).await.unwrap();
    assert_eq!(count.num, 2);
    let args = ConnectListStoragePoolsArgs { maxnames: 16 };
    let names: ConnectListStoragePoolsRet =
        client.call(Procedure::ConnectListStoragePools, &args).await.unwrap();
    assert_eq!(names.names.0, ["dir", "vms"]);
    let args = ConnectGetStoragePoolCapabilitiesArgs { flags: 0 };
    let both: ConnectGetStoragePoolCapabilitiesRet =
        client.call(Procedure::ConnectGetStoragePoolCapabilities, &args).await.unwrap();
    assert!(both.capabilities.contains("<pool type='notify'"));
}

#[tokio::test]
async fn lookups_find_either_side() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    for (name, expected) in [("vms", Ok(our_pool())), ("dir", Ok(dir_pool())), ("no", Err(()))] {
        let args = StoragePoolLookupByNameArgs { name: name.to_owned() };
        let found = client.call(Procedure::StoragePoolLookupByName, &args).await;
        let found = found.map(|StoragePoolLookupByNameRet { pool }| pool);
        assert_eq!(found.map_err(|error| assert!(error.is(ErrorCode::NO_STORAGE_POOL))), expected);
    }
    let lookup = |path: &str| StorageVolLookupByPathArgs { path: path.to_owned() };
    let found: StorageVolLookupByPathRet = client
        .call(Procedure::StorageVolLookupByPath, &lookup("/dev/notify/vms/disk0"))
        .await
        .unwrap();
    assert_eq!(found.vol, our_vol());
    let elsewhere = client.frame(Procedure::StorageVolLookupByPath, &lookup("/elsewhere"));
    client.exchange(elsewhere.clone()).await;
    let asked = setup.log_rw.lock().unwrap().last().cloned().unwrap();
    assert_eq!(asked.payload(), elsewhere.payload());
}

#[tokio::test]
async fn our_pools_do_not_show_where_the_host_does_not() {
    let setup = setup(|_| ()).await;
    let mut client = setup.client("sock").await;
    client.open("test:///default", 0).await.unwrap();
    let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags: 0 };
    let all: ConnectListAllStoragePoolsRet =
        client.call(Procedure::ConnectListAllStoragePools, &args).await.unwrap();
    assert_eq!(all.pools.0, [dir_pool()]);
}

async fn define(client: &mut Client, xml: &str) -> Result<StoragePool, RemoteError> {
    let args = StoragePoolDefineXmlArgs { xml: xml.to_owned(), flags: 0 };
    let defined = client.call(Procedure::StoragePoolDefineXml, &args).await;
    defined.map(|StoragePoolDefineXmlRet { pool }| pool)
}

#[tokio::test]
async fn a_name_or_uuid_belongs_to_one_side() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let theirs = dir_pool().uuid;
    let ours = our_pool().uuid;
    for xml in [
        "<pool type='notify'><name>dir</name></pool>".to_owned(),
        format!("<pool type='notify'><name>new</name><uuid>{theirs}</uuid></pool>"),
        "<pool type='dir'><name>vms</name></pool>".to_owned(),
        format!("<pool type='dir'><name>new</name><uuid>{ours}</uuid></pool>"),
    ] {
        let error = define(&mut client, &xml).await.unwrap_err();
        assert!(error.is(ErrorCode::OPERATION_FAILED), "{xml}: {error}");
    }
    assert!(!setup.received().contains(&Procedure::StoragePoolDefineXml));
    let new = define(&mut client, "<pool type='notify'><name>new</name></pool>").await.unwrap();
    assert_eq!(new.name, "new");
    define(&mut client, "<pool type='dir'><name>other</name></pool>").await.unwrap();
    assert_eq!(setup.received().last(), Some(&Procedure::StoragePoolDefineXml));
}

#[tokio::test]
async fn of_two_definitions_of_one_name_at_once_one_wins() {
    let setup = setup(|_| ()).await;
    for round in 0..20 {
        let (mut first, mut second) = (setup.opened().await, setup.opened().await);
        let ours = format!("<pool type='notify'><name>race{round}</name></pool>");
        let theirs = format!("<pool type='dir'><name>race{round}</name></pool>");
        let (ours, theirs) = tokio::join!(define(&mut first, &ours), define(&mut second, &theirs));
        // The scripted daemon forgets what it defines, so ours may follow theirs; theirs
        // must not follow ours.
        ours.unwrap();
        let defined =
            setup.received().iter().filter(|p| **p == Procedure::StoragePoolDefineXml).count();
        assert_eq!(theirs.is_ok(), defined > 0, "round {round}");
        setup.log_rw.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn events_of_ours_carry_the_number_that_upstream_gave() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let args = ConnectStoragePoolEventRegisterAnyArgs { event_id: 0, pool: None };
    let registered: ConnectStoragePoolEventRegisterAnyRet =
        client.call(Procedure::ConnectStoragePoolEventRegisterAny, &args).await.unwrap();
    assert_eq!(registered.callback_id, 42);
    // A later call of the same client has its answer after the registration is known.
    client
        .call::<_, ConnectNumOfStoragePoolsRet>(Procedure::ConnectNumOfStoragePools, &())
        .await
        .unwrap();
    let kind = PoolEventKind::Lifecycle { event: 2, detail: 0 };
    setup.service.emit(PoolEvent { pool: our_pool(), kind });
    setup.service.emit(PoolEvent { pool: our_pool(), kind: PoolEventKind::Refresh });
    let message = client.next().await.unwrap().frame;
    assert_eq!(message.header.kind, MessageType::Message);
    let event: StoragePoolEventLifecycleMsg = decode(&message.payload()).unwrap();
    assert_eq!((event.callback_id, event.pool, event.event), (42, our_pool(), 2));
    let args = ConnectStoragePoolEventDeregisterAnyArgs { callback_id: 42 };
    client
        .call::<_, ConnectStoragePoolEventDeregisterAnyArgs>(
            Procedure::ConnectStoragePoolEventDeregisterAny,
            &args,
        )
        .await
        .unwrap();
    setup.service.emit(PoolEvent { pool: our_pool(), kind });
    let call = client.future(7777, b"");
    client.exchange(call).await;
}

#[tokio::test]
async fn only_the_sequence_of_virtqemud_sees_another_pool_type() {
    let setup = setup(|_| ()).await;
    // The test's own program is not virtqemud, so even its exact calls show the truth.
    let mut client = setup.opened().await;
    let (pool, vol) = (our_pool(), our_vol());
    let name = StoragePoolLookupByNameArgs { name: "vms".to_owned() };
    let call = Procedure::StoragePoolLookupByName;
    client.call::<_, StoragePoolLookupByNameRet>(call, &name).await.unwrap();
    let args = StoragePoolIsActiveArgs { pool: pool.clone() };
    client.call::<_, StoragePoolIsActiveRet>(Procedure::StoragePoolIsActive, &args).await.unwrap();
    let args = StorageVolLookupByNameArgs { pool: pool.clone(), name: "disk0".to_owned() };
    let call = Procedure::StorageVolLookupByName;
    client.call::<_, StorageVolLookupByNameRet>(call, &args).await.unwrap();
    let args = StorageVolGetInfoArgs { vol };
    client.call::<_, StorageVolGetInfoRet>(Procedure::StorageVolGetInfo, &args).await.unwrap();
    let args = StoragePoolGetXmlDescArgs { pool, flags: 0 };
    let xml: StoragePoolGetXmlDescRet =
        client.call(Procedure::StoragePoolGetXmlDesc, &args).await.unwrap();
    assert!(xml.xml.contains("type='notify'"));
    let last = setup.service.calls.lock().unwrap().last().copied();
    assert_eq!(last, Some((Procedure::StoragePoolGetXmlDesc, PoolView::Own)));
}

fn stream(call: &Header, kind: MessageType, status: Status, data: &[u8]) -> Frame {
    Frame::new(Header { kind, status, ..*call }, data).unwrap()
}

async fn begin_upload(client: &mut Client, flags: u32) -> Header {
    let args = StorageVolUploadArgs { vol: our_vol(), offset: 0, length: 0, flags };
    let call = client.frame(Procedure::StorageVolUpload, &args);
    let reply = client.exchange(call.clone()).await;
    assert_eq!(reply.header.status, Status::Ok);
    call.header
}

async fn download(client: &mut Client, flags: u32) -> Vec<Frame> {
    let args = StorageVolDownloadArgs { vol: our_vol(), offset: 0, length: 0, flags };
    let call = client.frame(Procedure::StorageVolDownload, &args);
    let reply = client.exchange(call.clone()).await;
    assert_eq!(reply.header.status, Status::Ok);
    let mut frames = Vec::new();
    loop {
        let frame = client.next().await.unwrap().frame;
        if frame.header.kind == MessageType::Stream && frame.payload().is_empty() {
            break;
        }
        frames.push(frame);
    }
    let finish = stream(&call.header, MessageType::Stream, Status::Ok, b"");
    let confirmed = client.exchange(finish).await;
    assert_eq!((confirmed.header.status, confirmed.payload().len()), (Status::Ok, 0));
    frames
}

#[tokio::test]
async fn a_volume_goes_up_and_comes_down() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let header = begin_upload(&mut client, 0).await;
    let content: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    for chunk in content.chunks(262_120) {
        client.send(stream(&header, MessageType::Stream, Status::Continue, chunk)).await;
    }
    let finish = stream(&header, MessageType::Stream, Status::Ok, b"");
    assert_eq!(client.exchange(finish).await.header.status, Status::Ok);
    assert_eq!(setup.service.content("disk0"), content);
    let frames = download(&mut client, 0).await;
    assert!(frames.iter().all(|frame| frame.payload().len() <= 262_120));
    let came: Vec<u8> = frames.iter().flat_map(|frame| frame.payload().to_vec()).collect();
    assert_eq!(came, content);
}

#[tokio::test]
async fn holes_cross_as_holes() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let header = begin_upload(&mut client, 1).await;
    let hole = encode(&StreamHole { length: 5000, flags: 0 }).unwrap();
    client.send(stream(&header, MessageType::StreamHole, Status::Continue, &hole)).await;
    client.send(stream(&header, MessageType::Stream, Status::Continue, b"end")).await;
    client.exchange(stream(&header, MessageType::Stream, Status::Ok, b"")).await;
    let frames = download(&mut client, 1).await;
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].header.kind, MessageType::StreamHole);
    assert_eq!(decode::<StreamHole>(&frames[0].payload()).unwrap().length, 5000);
    assert_eq!(&frames[1].payload()[..], b"end");
}

#[tokio::test]
async fn an_upload_given_up_changes_nothing() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let header = begin_upload(&mut client, 0).await;
    client.send(stream(&header, MessageType::Stream, Status::Continue, b"half")).await;
    let abort = stream(&header, MessageType::Stream, Status::Error, b"");
    assert_eq!(client.exchange(abort).await.header.status, Status::Ok);
    assert!(setup.service.content("disk0").is_empty());
    let header = begin_upload(&mut client, 0).await;
    client.send(stream(&header, MessageType::Stream, Status::Continue, b"half")).await;
    drop(client);
    let mut next = setup.opened().await;
    let call = next.future(7777, b"");
    next.exchange(call).await;
    assert!(setup.service.content("disk0").is_empty());
}

#[tokio::test]
async fn a_volume_disk_that_libvirtd_cannot_look_up_is_explained() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let call = client.future(9003, b"vms");
    let error = client.exchange(call).await.decode_error().unwrap();
    assert!(error.is(ErrorCode::CONFIG_UNSUPPORTED), "{error}");
    let message = error.message.as_deref().unwrap();
    assert!(message.contains("<source dev='/dev/notify/vms/VOLUME'/>"), "{message}");
    let call = client.future(9003, b"nosuch");
    let error = client.exchange(call).await.decode_error().unwrap();
    assert!(error.is(ErrorCode::NO_STORAGE_POOL), "{error}");
    let expected = "Storage pool not found: no storage pool with matching name 'nosuch'";
    assert_eq!(error.message.as_deref(), Some(expected));
}

/// What libvirt reads and our parser does not: it defines a pool that is called as ours is.
#[tokio::test]
async fn a_pool_of_libvirts_never_has_the_name_of_one_of_ours() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let args = |name: &str| StoragePoolDefineXmlArgs {
        xml: format!("<!DOCTYPE pool>\n<pool type='dir'><name>{name}</name></pool>"),
        flags: 0,
    };
    let latin1 = b"\0\0\0\x14\xe4<name>vms</name>...\0\0\0\0";
    for (define, undo) in [
        (Procedure::StoragePoolDefineXml, Procedure::StoragePoolUndefine),
        (Procedure::StoragePoolCreateXml, Procedure::StoragePoolDestroy),
    ] {
        for payload in [&encode(&args("vms")).unwrap(), &latin1[..]] {
            setup.log_rw.lock().unwrap().clear();
            let call = client.frame(define, &());
            let call = Frame::new(call.header, payload).unwrap();
            let refused = client.exchange(call).await.decode_error().unwrap();
            assert!(refused.is(ErrorCode::OPERATION_FAILED), "{refused}");
            assert!(refused.to_string().contains("pool 'vms' already exists"), "{refused}");
            assert_eq!(setup.received(), [define, undo]);
        }
        // Another name is none of our business.
        setup.log_rw.lock().unwrap().clear();
        let made: StoragePoolDefineXmlRet = client.call(define, &args("dir")).await.unwrap();
        assert_eq!((made.pool, setup.received()), (dir_pool(), vec![define]));
    }
}

/// digitalocean/go-libvirt stops reading at the empty frame, and says nothing more of the stream.
#[tokio::test]
async fn a_download_has_ended_with_its_empty_frame() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let args = StorageVolDownloadArgs { vol: our_vol(), offset: 0, length: 0, flags: 0 };
    let mut serials = Vec::new();
    for _ in 0..100 {
        let call = client.frame(Procedure::StorageVolDownload, &args);
        serials.push(call.header.serial);
        let opened = client.exchange(call).await;
        assert_eq!(opened.header.status, Status::Ok, "{:?}", opened.decode_error());
        let end = client.next().await.unwrap().frame;
        assert_eq!((end.header.status, end.payload().len()), (Status::Continue, 0));
        assert_eq!(setup.service.open_downloads(), 0, "the volume is still in use");
    }
    // Who does say so is answered, once.
    let base = client.frame(Procedure::StorageVolDownload, &()).header;
    for (serial, status) in [(serials[0], Status::Ok), (serials[99], Status::Error)] {
        let header = Header { serial, ..base };
        let finish = stream(&header, MessageType::Stream, status, b"");
        let confirmed = client.exchange(finish).await;
        assert_eq!((confirmed.header.status, confirmed.payload().len()), (Status::Ok, 0));
    }
    let received = setup.log_rw.lock().unwrap().clone();
    assert!(received.iter().all(|frame| frame.header.kind == MessageType::Call));
}

#[tokio::test]
async fn a_client_has_so_many_streams_and_no_more() {
    let setup = setup(|_| ()).await;
    let mut client = setup.opened().await;
    let args = StorageVolUploadArgs { vol: our_vol(), offset: 0, length: 0, flags: 0 };
    for _ in 0..64 {
        client.call::<_, ()>(Procedure::StorageVolUpload, &args).await.unwrap();
    }
    let refused = client.call::<_, ()>(Procedure::StorageVolUpload, &args).await.unwrap_err();
    assert!(refused.is(ErrorCode::OPERATION_FAILED), "{refused}");
    // One that ends makes room for another.
    let first = client.frame(Procedure::StorageVolUpload, &());
    let serial = first.header.serial - 65;
    let end = Header { kind: MessageType::Stream, serial, ..first.header };
    let ended = client.exchange(Frame::new(end, b"").unwrap()).await;
    assert_eq!(ended.header.status, Status::Ok);
    // Its task may be gone a moment later than its last word.
    while let Err(error) = client.call::<_, ()>(Procedure::StorageVolUpload, &args).await {
        assert!(error.is(ErrorCode::OPERATION_FAILED), "{error}");
    }
}
