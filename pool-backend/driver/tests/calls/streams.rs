// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes uploaded, downloaded and cloned, over files in the place of devices.

use std::sync::Arc;

use tempfile::TempDir;
use virtnotify_driver::fake::FakeBackend;
use virtnotify_model::Bytes;
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{Download, DownloadChunk, Session, StorageService, Upload};
use virtnotify_wire::storage::*;
use virtnotify_wire::{ErrorCode, StoragePool, StorageVol, Uuid, decode, encode};

use crate::bench::{Answer, Bench, VMS, error, pool_xml, volume_xml};

const SESSION: Session = Session { id: 1, uid: 0, gid: 0, pid: 1, read_only: false };

/// A pool `vms` whose volumes have files, and its volume `a` of 1 MiB.
fn bench() -> (Bench, StorageVol) {
    let directory = TempDir::new().unwrap();
    let backend = FakeBackend::new()
        .with_group(&"vg0".parse().unwrap(), Bytes::mib(64))
        .with_group(&"vg1".parse().unwrap(), Bytes::mib(64))
        .with_devices(directory.path().join("dev"));
    let bench = Bench::over(directory, Arc::new(backend));
    let pool = bench.define(VMS).unwrap();
    bench.start(&pool).unwrap();
    let vol = bench.create_volume(&pool, &volume_xml("a", 1 << 20)).unwrap();
    bench.events();
    (bench, vol)
}

fn upload(bench: &Bench, vol: &StorageVol, offset: u64, flags: u32) -> Answer<Box<dyn Upload>> {
    let args = StorageVolUploadArgs { vol: vol.clone(), offset, length: 0, flags };
    bench.driver.upload(&SESSION, &encode(&args).unwrap())
}

fn download(bench: &Bench, vol: &StorageVol, flags: u32) -> Answer<Box<dyn Download>> {
    let args = StorageVolDownloadArgs { vol: vol.clone(), offset: 0, length: 0, flags };
    bench.driver.download(&SESSION, &encode(&args).unwrap())
}

#[test]
fn what_was_uploaded_is_downloaded() {
    let (bench, vol) = bench();
    let mut stream = upload(&bench, &vol, 65536, 1).unwrap();
    stream.write(b"hello").unwrap();
    stream.hole(&StreamHole { length: 65531, flags: 0 }).unwrap();
    stream.write(b"world").unwrap();
    stream.finish().unwrap();
    assert_eq!(bench.events(), [("vms".to_owned(), -1)]);
    let mut stream = download(&bench, &vol, 1).unwrap();
    assert_eq!(stream.next(65536).unwrap(), DownloadChunk::Hole(65536));
    let DownloadChunk::Data(data) = stream.next(65536).unwrap() else { panic!("no data") };
    assert!(data.starts_with(b"hello\0") && data.len() == 65536);
    let DownloadChunk::Data(data) = stream.next(65536).unwrap() else { panic!("no data") };
    assert!(data.starts_with(b"world\0"));
    assert_eq!(stream.next(65536).unwrap(), DownloadChunk::Hole((1 << 20) - 3 * 65536));
    assert_eq!(stream.next(65536).unwrap(), DownloadChunk::End);
    let mut stream = download(&bench, &vol, 0).unwrap();
    assert_eq!(stream.next(9).unwrap(), DownloadChunk::Data(vec![0; 9]));
}

#[test]
fn streams_that_cannot_be_are_refused() {
    let (bench, vol) = bench();
    let missing = StorageVol { name: "b".to_owned(), ..vol.clone() };
    let code = |answer: Answer<Box<dyn Upload>>| error(answer.map(drop)).0;
    assert_eq!(code(upload(&bench, &missing, 0, 0)), ErrorCode::NO_STORAGE_VOL);
    assert_eq!(code(upload(&bench, &vol, 0, 2)), ErrorCode::INVALID_ARG);
    assert_eq!(error(download(&bench, &vol, 2).map(drop)).0, ErrorCode::INVALID_ARG);
    assert_eq!(code(bench.driver.upload(&SESSION, &[1])), ErrorCode::RPC);
    let mut stream = upload(&bench, &vol, (1 << 20) - 1, 0).unwrap();
    assert_eq!(error(stream.write(b"ab")).0, ErrorCode::SYSTEM_ERROR);
    drop(stream);
    assert!(bench.events().is_empty());
    bench.backend.hold();
    std::thread::scope(|scope| {
        let wipe = scope.spawn(|| bench.wipe(&vol, 0));
        bench.backend.wait_for_held(1);
        assert_eq!(code(upload(&bench, &vol, 0, 0)), ErrorCode::OPERATION_INVALID);
        bench.backend.release();
        wipe.join().unwrap().unwrap();
    });
}

#[test]
fn a_new_volume_gets_the_permissions_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let (bench, vol) = bench();
    let args = StoragePoolLookupByVolumeArgs { vol };
    let procedure = virtnotify_wire::Procedure::StoragePoolLookupByVolume;
    let ret: StoragePoolLookupByVolumeRet = bench.call(procedure, &args).unwrap();
    let user = std::fs::metadata(bench.directory.path()).unwrap().uid();
    let xml = format!(
        "<volume><name>b</name><capacity>4096</capacity><target><permissions><mode>0640</mode>\
         <owner>{user}</owner></permissions></target></volume>"
    );
    let vol = bench.create_volume(&ret.pool, &xml).unwrap();
    let args = StorageVolGetXmlDescArgs { vol, flags: 0 };
    let procedure = virtnotify_wire::Procedure::StorageVolGetXmlDesc;
    let ret: StorageVolGetXmlDescRet = bench.call(procedure, &args).unwrap();
    assert!(ret.xml.contains("<mode>0640</mode>"), "{}", ret.xml);
    assert!(ret.xml.contains(&format!("<owner>{user}</owner>")), "{}", ret.xml);
}

fn clone(bench: &Bench, xml: &str, clonevol: &StorageVol, flags: u32) -> Answer<StorageVol> {
    clone_to(bench, "vms", xml, clonevol, flags)
}

fn clone_to(
    bench: &Bench,
    pool: &str,
    xml: &str,
    clonevol: &StorageVol,
    flags: u32,
) -> Answer<StorageVol> {
    let pool = bench.driver.pool_by_name(pool).unwrap();
    let xml = xml.to_owned();
    let args = StorageVolCreateXmlFromArgs { pool, xml, clonevol: clonevol.clone(), flags };
    let procedure = virtnotify_wire::Procedure::StorageVolCreateXmlFrom;
    bench.call(procedure, &args).map(|ret: StorageVolCreateXmlFromRet| ret.vol)
}

fn content(bench: &Bench, name: &str) -> Vec<u8> {
    std::fs::read(bench.directory.path().join("dev/vms").join(name)).unwrap()
}

#[test]
fn a_clone_holds_what_its_source_holds() {
    let (bench, vol) = bench();
    let mut stream = upload(&bench, &vol, 777_777, 0).unwrap();
    stream.write(b"hello").unwrap();
    stream.finish().unwrap();
    // As virsh does it: the source's XML under another name.
    let xml = "<volume type='block'><name>b</name><key>x</key><capacity>1048576</capacity>\
               <allocation>1048576</allocation></volume>";
    let copy = clone(&bench, xml, &vol, 0).unwrap();
    assert_ne!(copy.key, vol.key);
    assert_eq!(bench.sizes(&copy).unwrap(), (1 << 20, 4 << 20));
    assert!(content(&bench, "b") == content(&bench, "a"));
    let larger = "<volume><name>c</name><capacity unit='M'>2</capacity></volume>";
    assert_eq!(bench.sizes(&clone(&bench, larger, &vol, 0).unwrap()).unwrap().0, 2 << 20);
    let smaller = "<volume><name>d</name><capacity>5</capacity></volume>";
    assert_eq!(bench.sizes(&clone(&bench, smaller, &vol, 0).unwrap()).unwrap().0, 1 << 20);
    clone(&bench, "<volume><name>e</name></volume>", &vol, 1).unwrap();
    assert_eq!(content(&bench, "e").len(), 1 << 20);
}

#[test]
fn a_clone_that_fails_leaves_nothing() {
    let (bench, vol) = bench();
    let missing = StorageVol { name: "x".to_owned(), ..vol.clone() };
    let b = "<volume><name>b</name></volume>";
    let before = bench.everything();
    let code = |answer| error::<StorageVol>(answer).0;
    assert_eq!(code(clone(&bench, b, &missing, 0)), ErrorCode::NO_STORAGE_VOL);
    let a = "<volume><name>a</name></volume>";
    assert_eq!(code(clone(&bench, a, &vol, 0)), ErrorCode::STORAGE_VOL_EXIST);
    assert_eq!(code(clone(&bench, b, &vol, 2)), ErrorCode::NO_SUPPORT);
    assert_eq!(code(clone(&bench, b, &vol, 8)), ErrorCode::INVALID_ARG);
    assert_eq!(bench.everything(), before);
    // The source cannot be read: the copy is unmade.
    let other = bench.define(&pool_xml("other", "vg1", "")).unwrap();
    bench.start(&other).unwrap();
    let before = bench.everything();
    std::fs::remove_file(bench.directory.path().join("dev/vms/a")).unwrap();
    assert_eq!(code(clone_to(&bench, "other", b, &vol, 0)), ErrorCode::SYSTEM_ERROR);
    assert_eq!(bench.everything(), before);
    // Nothing is busy any more.
    bench.delete_volume(&vol).unwrap();
}

/// The arguments of a clone between a pool of ours and one of libvirt's.
fn across(pool: StoragePool, xml: &str, clonevol: &StorageVol) -> Vec<u8> {
    let (xml, clonevol) = (xml.to_owned(), clonevol.clone());
    encode(&StorageVolCreateXmlFromArgs { pool, xml, clonevol, flags: 0 }).unwrap()
}

fn theirs() -> StorageVol {
    StorageVol { pool: "files".to_owned(), name: "disk".to_owned(), key: "/x".to_owned() }
}

#[test]
fn a_clone_of_a_foreign_volume_is_there_when_it_is_finished_or_never() {
    const SOURCE: &str = "<volume><name>disk</name><capacity>8192</capacity></volume>";
    let (bench, _) = bench();
    let pool = bench.driver.by_name("vms").unwrap();
    let args = across(pool.clone(), "<volume><name>b</name></volume>", &theirs());
    let clone = || bench.driver.clone_in(&SESSION, &args, SOURCE);
    let mut cut = clone().unwrap();
    cut.content.write(b"half").unwrap();
    assert_eq!(bench.volumes(&pool).unwrap(), ["a", "b"]);
    drop(cut);
    assert_eq!(bench.volumes(&pool).unwrap(), ["a"]);
    let mut whole = clone().unwrap();
    whole.content.write(b"hello").unwrap();
    whole.content.hole(&StreamHole { length: 8192 - 10, flags: 0 }).unwrap();
    whole.content.write(b"world").unwrap();
    assert!(whole.content.write(b"more").is_err());
    whole.content.finish().unwrap();
    let ret: StorageVolCreateXmlFromRet = decode(&whole.answer).unwrap();
    assert_eq!(bench.sizes(&ret.vol).unwrap(), (8192, 4 << 20));
    let content = content(&bench, "b");
    assert!(content.starts_with(b"hello\0") && content[8187..8192] == *b"world");
    let error = clone().err().unwrap();
    assert!(error.is(ErrorCode::STORAGE_VOL_EXIST), "{error}");
}

/// The volumes of the notes about clones that are under way.
fn notes(bench: &Bench) -> Vec<String> {
    let entries = std::fs::read_dir(bench.directory.path().join("etc")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".unfinished").map(str::to_owned)).collect()
}

#[test]
fn a_clone_whose_daemon_is_killed_is_gone_when_the_next_one_answers() {
    const SOURCE: &str = "<volume><name>disk</name><capacity>8192</capacity></volume>";
    let (bench, source) = bench();
    let pool = bench.driver.by_name("vms").unwrap();
    let xml = "<volume><name>whole</name></volume>";
    let whole = bench.driver.clone_volume(&pool, xml, &source, false).unwrap();
    assert!(notes(&bench).is_empty(), "a clone that has ended is noted");
    let args = across(pool.clone(), "<volume><name>b</name></volume>", &theirs());
    let mut cut = bench.driver.clone_in(&SESSION, &args, SOURCE).unwrap();
    cut.content.write(b"half").unwrap();
    let ret: StorageVolCreateXmlFromRet = decode(&cut.answer).unwrap();
    assert_eq!(notes(&bench), [ret.vol.key]);
    // Nothing of its end is done, as in a kill.
    std::mem::forget(cut);
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert_eq!(bench.volumes(&pool).unwrap(), ["a", "whole"]);
    assert!(notes(&bench).is_empty());
    // One that is open by now is kept, and not looked at again.
    let kept = format!("etc/{}.unfinished", whole.uuid.hyphenated());
    std::fs::write(bench.directory.path().join(kept), "vms").unwrap();
    // Of others there is no volume: one was not made, one is in a pool that is not active.
    for (uuid, of) in [(Uuid([7; 16]), "vms"), (Uuid([9; 16]), "other")] {
        let name = format!("etc/{uuid}.unfinished");
        std::fs::write(bench.directory.path().join(name), of).unwrap();
    }
    bench.backend.open(&"vms".parse().unwrap(), &"whole".parse().unwrap(), 1).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert_eq!(bench.volumes(&pool).unwrap(), ["a", "whole"]);
    assert_eq!(notes(&bench), [Uuid([9; 16]).to_string()]);
}

#[test]
fn a_volume_goes_to_a_foreign_pool_with_room_for_all_of_it() {
    let (bench, vol) = bench();
    let mut stream = upload(&bench, &vol, 4096, 0).unwrap();
    stream.write(b"hello").unwrap();
    stream.finish().unwrap();
    let pool = StoragePool { name: "files".to_owned(), uuid: Uuid([1; 16]) };
    let args = across(pool, "<volume><name>b</name><capacity>1</capacity></volume>", &vol);
    let mut clone = bench.driver.clone_out(&SESSION, &args).unwrap();
    let xml = "<volume><capacity unit='bytes'>1048576</capacity><name>b</name></volume>";
    assert_eq!(clone.xml, xml);
    assert_eq!(clone.content.next(4096).unwrap(), DownloadChunk::Hole(4096));
    let DownloadChunk::Data(data) = clone.content.next(4096).unwrap() else { panic!("no data") };
    assert!(data.starts_with(b"hello\0"));
}
