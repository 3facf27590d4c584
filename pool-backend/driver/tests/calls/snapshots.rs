// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots and clones as libvirt's clients see them, over files in the place of devices.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tempfile::TempDir;
use virtnotify_driver::DriverError;
use virtnotify_driver::fake::FakeBackend;
use virtnotify_model::{Backend, Bytes, PoolName, SnapshotName, VolumeName};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::procedure::Procedure as P;
use virtnotify_wire::service::{DownloadChunk, Session, StorageService};
use virtnotify_wire::storage::*;
use virtnotify_wire::{ErrorCode, StoragePool, StorageVol, encode};

use crate::bench::{Answer, Bench, VMS, error, pool_xml, volume_xml};

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 4 << 20;
const WITH_SNAPSHOTS: u32 = 2;
const SESSION: Session = Session { id: 1, uid: 0, gid: 0, pid: 1, read_only: false };

/// A pool `vms` whose volumes have files, and its volume `a` of 16 MiB.
fn bench() -> (Bench, StoragePool, StorageVol) {
    let directory = TempDir::new().unwrap();
    let backend = FakeBackend::new()
        .with_group(&"vg0".parse().unwrap(), Bytes::mib(128))
        .with_group(&"vg1".parse().unwrap(), Bytes::mib(128))
        .with_devices(directory.path().join("dev"));
    let bench = Bench::over(directory, Arc::new(backend));
    let pool = bench.define(VMS).unwrap();
    bench.start(&pool).unwrap();
    let vol = bench.create_volume(&pool, &volume_xml("a", 16 * MIB)).unwrap();
    bench.events();
    (bench, pool, vol)
}

fn vms() -> PoolName {
    "vms".parse().unwrap()
}

fn volume(name: &str) -> VolumeName {
    name.parse().unwrap()
}

fn take(bench: &Bench, pool: &StoragePool, of: &[&str], name: &str) -> Result<(), DriverError> {
    let of: Vec<VolumeName> = of.iter().map(|name| volume(name)).collect();
    let name: SnapshotName = name.parse().unwrap();
    bench.driver.take_snapshot(pool, &of, &name).map(drop)
}

fn upload(bench: &Bench, name: &str, offset: u64, data: &[u8]) -> Answer<()> {
    let args = StorageVolUploadArgs { vol: known(bench, name), offset, length: 0, flags: 0 };
    let mut stream = bench.driver.upload(&SESSION, &encode(&args).unwrap())?;
    stream.write(data)?;
    stream.finish()
}

fn download(bench: &Bench, name: &str, offset: u64, length: u64) -> Vec<u8> {
    let args = StorageVolDownloadArgs { vol: known(bench, name), offset, length, flags: 0 };
    let mut stream = bench.driver.download(&SESSION, &encode(&args).unwrap()).unwrap();
    let DownloadChunk::Data(data) = stream.next(65536).unwrap() else { panic!("no data") };
    data
}

fn known(bench: &Bench, name: &str) -> StorageVol {
    let pool = bench.driver.by_name("vms").unwrap();
    let args = StorageVolLookupByNameArgs { pool, name: name.to_owned() };
    let found: StorageVolLookupByNameRet = bench.call(P::StorageVolLookupByName, &args).unwrap();
    found.vol
}

fn xml(bench: &Bench, name: &str) -> String {
    let args = StorageVolGetXmlDescArgs { vol: known(bench, name), flags: 0 };
    let ret: StorageVolGetXmlDescRet = bench.call(P::StorageVolGetXmlDesc, &args).unwrap();
    ret.xml
}

fn path(bench: &Bench, pool: &str, name: &str) -> String {
    bench.directory.path().join("dev").join(pool).join(name).display().to_string()
}

/// What `virsh vol-create-as --backing-vol` sends.
fn backed(bench: &Bench, name: &str, capacity: &str, backing: &str) -> String {
    let path = path(bench, "vms", backing);
    format!(
        "<volume><name>{name}</name>{capacity}<backingStore><path>{path}</path>\
         <format type='raw'/></backingStore></volume>"
    )
}

fn clone(bench: &Bench, pool: &StoragePool, xml: &str, of: &StorageVol) -> Answer<StorageVol> {
    let (pool, xml, clonevol) = (pool.clone(), xml.to_owned(), of.clone());
    let args = StorageVolCreateXmlFromArgs { pool, xml, clonevol, flags: 0 };
    bench.call(P::StorageVolCreateXmlFrom, &args).map(|ret: StorageVolCreateXmlFromRet| ret.vol)
}

/// What a volume has, and what of that it has alone, in chunks.
fn chunks(bench: &Bench, name: &str) -> (u64, u64) {
    let info = bench.backend.volume(&vms(), &volume(name)).unwrap();
    (info.allocation.0 / CHUNK, info.exclusive.0 / CHUNK)
}

#[test]
fn a_snapshot_keeps_what_its_volume_held() {
    let (bench, pool, a) = bench();
    upload(&bench, "a", 0, b"before").unwrap();
    take(&bench, &pool, &["a"], "mon").unwrap();
    assert_eq!(bench.events(), [("vms".to_owned(), -1), ("vms".to_owned(), -1)]);
    assert_eq!(bench.volumes(&pool).unwrap(), ["a", "a@mon"]);
    assert_eq!((chunks(&bench, "a"), chunks(&bench, "a@mon")), ((1, 0), (1, 0)));
    assert_eq!(bench.info(&pool).unwrap().allocation, CHUNK);
    upload(&bench, "a", 0, b"after!").unwrap();
    assert_eq!((chunks(&bench, "a"), chunks(&bench, "a@mon")), ((1, 1), (1, 1)));
    assert_eq!(download(&bench, "a", 0, 6), b"after!");
    assert_eq!(download(&bench, "a@mon", 0, 6), b"before");
    let printed = xml(&bench, "a@mon");
    assert!(printed.contains("<name>a@mon</name>"), "{printed}");
    let of = path(&bench, "vms", "a");
    assert!(printed.contains(&format!("<backingStore>\n    <path>{of}</path>")), "{printed}");
    assert_ne!(known(&bench, "a@mon").key, a.key);
    assert_eq!(bench.sizes(&known(&bench, "a@mon")).unwrap(), (16 * MIB, CHUNK));
}

#[test]
fn snapshots_of_several_volumes_are_all_made_or_none() {
    let (bench, pool, _) = bench();
    bench.create_volume(&pool, &volume_xml("b", MIB)).unwrap();
    take(&bench, &pool, &["b"], "mon").unwrap();
    for (of, name) in [
        (&["a", "b"][..], "mon"),
        (&["a", "c"], "tue"),
        (&["a", "a"], "tue"),
        (&["a", "b@mon"], "tue"),
        (&[], "tue"),
    ] {
        assert!(take(&bench, &pool, of, name).is_err(), "{of:?}");
        assert_eq!(bench.volumes(&pool).unwrap(), ["a", "b", "b@mon"]);
    }
    take(&bench, &pool, &["a", "b"], "tue").unwrap();
    let names = |of: Option<&str>| -> Vec<String> {
        let of = of.map(volume);
        let all = bench.driver.snapshots(&vms(), of.as_ref()).unwrap();
        all.into_iter().map(|info| info.name.to_string()).collect()
    };
    assert_eq!(names(None), ["b@mon", "a@tue", "b@tue"]);
    assert_eq!(names(Some("b")), ["b@mon", "b@tue"]);
}

#[test]
fn a_snapshot_is_not_changed() {
    let (bench, pool, _) = bench();
    upload(&bench, "a", 0, b"before").unwrap();
    take(&bench, &pool, &["a"], "mon").unwrap();
    let snapshot = known(&bench, "a@mon");
    for (answer, what) in [
        (upload(&bench, "a@mon", 0, b"x"), "be written"),
        (bench.resize(&snapshot, 32 * MIB, 0), "be resized"),
        (bench.wipe(&snapshot, 0), "be wiped"),
    ] {
        let (code, message) = error(answer);
        assert_eq!(code, ErrorCode::OPERATION_INVALID, "{message}");
        assert!(message.contains(&format!("'a@mon' is a snapshot and cannot {what}")), "{message}");
        assert!(message.contains("virsh vol-clone"), "{message}");
    }
    // The backend refuses by itself as well.
    assert!(bench.backend.write(&vms(), &volume("a@mon"), Bytes::ZERO, Bytes(1)).is_err());
    assert_eq!(download(&bench, "a@mon", 0, 6), b"before");
    let (code, message) = error(bench.create_volume(&pool, &volume_xml("a@tue", MIB)));
    assert_eq!(code, ErrorCode::INVALID_ARG);
    assert!(message.contains("'virt-notify snapshot create tue vms/a'"), "{message}");
    let (code, _) = error(clone(&bench, &pool, &volume_xml("a@tue", MIB), &snapshot));
    assert_eq!(code, ErrorCode::INVALID_ARG);
}

#[test]
fn a_volume_with_snapshots_is_deleted_with_them_or_not_at_all() {
    let (bench, pool, a) = bench();
    take(&bench, &pool, &["a"], "mon").unwrap();
    take(&bench, &pool, &["a"], "tue").unwrap();
    bench.create_volume(&pool, &volume_xml("ab", MIB)).unwrap();
    take(&bench, &pool, &["ab"], "mon").unwrap();
    let (code, message) = error(bench.delete_volume(&a));
    assert_eq!(code, ErrorCode::OPERATION_INVALID);
    assert!(message.contains("'a' has snapshots (a@mon, a@tue)"), "{message}");
    assert!(message.contains("--delete-snapshots"), "{message}");
    // One that is read keeps all.
    bench.backend.open(&vms(), &volume("a@tue"), 1).unwrap();
    let (_, message) = error(bench.delete_volume_with(&a, WITH_SNAPSHOTS));
    assert!(message.contains("volume 'a@tue' is still in use"), "{message}");
    assert_eq!(bench.volumes(&pool).unwrap(), ["a", "a@mon", "a@tue", "ab", "ab@mon"]);
    bench.backend.open(&vms(), &volume("a@tue"), -1).unwrap();
    bench.delete_volume(&known(&bench, "a@mon")).unwrap();
    assert_eq!(error(bench.delete_volume_with(&a, 4)).0, ErrorCode::INVALID_ARG);
    bench.delete_volume_with(&a, WITH_SNAPSHOTS).unwrap();
    assert_eq!(bench.volumes(&pool).unwrap(), ["ab", "ab@mon"]);
}

#[test]
fn a_volume_is_rolled_back_when_nobody_uses_it() {
    let (bench, pool, _) = bench();
    upload(&bench, "a", 0, b"before").unwrap();
    take(&bench, &pool, &["a"], "mon").unwrap();
    upload(&bench, "a", 0, b"after!").unwrap();
    upload(&bench, "a", CHUNK, b"more").unwrap();
    let back = |name| bench.driver.roll_back(&pool, &volume(name)).map_err(|e| e.to_string());
    bench.backend.open(&vms(), &volume("a"), 1).unwrap();
    assert!(back("a@mon").unwrap_err().contains("shut its VM off"));
    bench.backend.open(&vms(), &volume("a"), -1).unwrap();
    assert!(back("a").unwrap_err().contains("VOLUME@SNAPSHOT"));
    assert!(back("a@tue").unwrap_err().contains("no storage vol with matching name 'a@tue'"));
    assert_eq!(download(&bench, "a", 0, 6), b"after!");
    back("a@mon").unwrap();
    assert_eq!(download(&bench, "a", 0, 6), b"before");
    assert_eq!(chunks(&bench, "a"), (1, 0));
    bench.backend.delete_volume(&vms(), &volume("a")).unwrap();
    assert!(back("a@mon").unwrap_err().contains("'virsh vol-clone a@mon a'"));
}

#[test]
fn a_difference_is_what_was_written_since() {
    let (bench, pool, _) = bench();
    let parts = |name: &str, base: Option<&str>| {
        let base = base.map(volume);
        let found = bench.driver.difference(&pool, &volume(name), base.as_ref());
        found.map(|(capacity, parts)| {
            assert_eq!(capacity.0, 16 * MIB);
            let chunk = |bytes: Bytes| bytes.0 / CHUNK;
            parts.iter().map(|p| (chunk(p.offset), chunk(p.length), p.data)).collect::<Vec<_>>()
        })
    };
    upload(&bench, "a", 0, b"0").unwrap();
    upload(&bench, "a", CHUNK, b"1").unwrap();
    take(&bench, &pool, &["a"], "mon").unwrap();
    assert_eq!(parts("a", Some("a@mon")).unwrap(), []);
    upload(&bench, "a", CHUNK, b"x").unwrap();
    upload(&bench, "a", 3 * CHUNK, b"3").unwrap();
    take(&bench, &pool, &["a"], "tue").unwrap();
    assert_eq!(parts("a@tue", Some("a@mon")).unwrap(), [(1, 1, true), (3, 1, true)]);
    assert_eq!(parts("a", None).unwrap(), [(0, 2, true), (3, 1, true)]);
    bench.driver.roll_back(&pool, &volume("a@mon")).unwrap();
    assert!(parts("a", Some("a@tue")).is_err(), "it does not go back to that any more");
    assert_eq!(parts("a", Some("a@mon")).unwrap(), []);
    assert!(parts("a@tue", Some("a")).unwrap_err().to_string().contains("'a' is no snapshot"));
}

#[test]
fn a_clone_is_made_of_a_backing_store_without_copying() {
    let (bench, pool, _) = bench();
    upload(&bench, "a", 0, b"before").unwrap();
    take(&bench, &pool, &["a"], "mon").unwrap();
    // Without a capacity it is the backing store's, as in libvirt.
    let clone = bench.create_volume(&pool, &backed(&bench, "c", "", "a@mon")).unwrap();
    assert_eq!(bench.sizes(&clone).unwrap(), (16 * MIB, CHUNK));
    assert_eq!(bench.info(&pool).unwrap().allocation, CHUNK);
    let larger = backed(&bench, "d", "<capacity unit='M'>20</capacity>", "a");
    let larger = bench.create_volume(&pool, &larger).unwrap();
    assert_eq!(bench.sizes(&larger).unwrap().0, 20 * MIB);
    let base = path(&bench, "vms", "a@mon");
    assert!(xml(&bench, "c").contains(&format!("<path>{base}</path>\n  </backingStore>")));
    upload(&bench, "c", 0, b"cloned").unwrap();
    assert_eq!(download(&bench, "a", 0, 6), b"before");
    assert_eq!(download(&bench, "a@mon", 0, 6), b"before");
    assert_eq!(download(&bench, "c", 0, 6), b"cloned");
    // What it was made of may go.
    bench.delete_volume(&known(&bench, "a@mon")).unwrap();
    assert_eq!(download(&bench, "c", 0, 6), b"cloned");
    assert!(!xml(&bench, "c").contains("backingStore"));
}

#[test]
fn a_backing_store_that_cannot_be_is_refused() {
    let (bench, pool, _) = bench();
    let other = bench.define(&pool_xml("other", "vg1", "")).unwrap();
    bench.start(&other).unwrap();
    bench.create_volume(&other, &volume_xml("x", MIB)).unwrap();
    let before = bench.everything();
    let elsewhere = |path: &str| {
        format!(
            "<volume><name>c</name><capacity>16777216</capacity><backingStore><path>{path}</path>\
             </backingStore></volume>"
        )
    };
    for (xml, code, text) in [
        (
            backed(&bench, "c", "<capacity>4096</capacity>", "a"),
            ErrorCode::INVALID_ARG,
            "'a', of which it is made, has 16777216 bytes",
        ),
        (
            backed(&bench, "c", "<capacity>0</capacity>", "a"),
            ErrorCode::INVALID_ARG,
            "has 16777216 bytes",
        ),
        (
            elsewhere(&path(&bench, "other", "x")),
            ErrorCode::NO_SUPPORT,
            "is not in the pool 'vms': 'virsh vol-create-from' copies between pools",
        ),
        (elsewhere("/dev/notify/vms/none"), ErrorCode::NO_STORAGE_VOL, "/dev/notify/vms/none"),
        (elsewhere("/etc/passwd"), ErrorCode::NO_STORAGE_VOL, "/etc/passwd"),
    ] {
        let (found, message) = error(bench.create_volume(&pool, &xml));
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(bench.everything(), before);
}

/// Polkit was asked about the backing store that the XML names, so no other one may be taken.
#[test]
fn a_backing_store_is_looked_for_in_the_pool_of_the_uuid_whatever_name_came_with_it() {
    let (bench, pool, _) = bench();
    let other = bench.define(&pool_xml("other", "vg1", "")).unwrap();
    bench.start(&other).unwrap();
    bench.create_volume(&other, &volume_xml("a", 16 * MIB)).unwrap();
    let before = bench.everything();
    let mixed = StoragePool { name: other.name, ..pool };
    let wanted = |of: String| {
        format!("<volume><name>c</name><backingStore><path>{of}</path></backingStore></volume>")
    };
    let made = bench.create_volume(&mixed, &wanted(path(&bench, "other", "a")));
    let (code, message) = error(made);
    assert_eq!(code, ErrorCode::NO_SUPPORT, "{message}");
    assert!(message.contains("is not in the pool 'vms'"), "{message}");
    assert_eq!(bench.everything(), before);
    let made = bench.create_volume(&mixed, &wanted(path(&bench, "vms", "a"))).unwrap();
    assert_eq!(made.pool, "vms");
}

#[test]
fn a_clone_within_a_pool_copies_nothing_and_one_across_copies_all() {
    let (bench, pool, a) = bench();
    upload(&bench, "a", 0, b"before").unwrap();
    // As `virsh vol-clone` does it: the XML of the source, which is a clone itself, renamed.
    let b = bench.create_volume(&pool, &backed(&bench, "b", "", "a")).unwrap();
    bench.backend.open(&vms(), &volume("b"), 1).unwrap();
    let renamed = xml(&bench, "b").replace("<name>b</name>", "<name>c</name>");
    let c = clone(&bench, &pool, &renamed, &b).unwrap();
    assert_eq!(bench.sizes(&c).unwrap(), (16 * MIB, CHUNK));
    assert_eq!(bench.info(&pool).unwrap().allocation, CHUNK);
    let of = path(&bench, "vms", "b");
    assert!(xml(&bench, "c").contains(&format!("<path>{of}</path>\n  </backingStore>")));
    assert_eq!(download(&bench, "c", 0, 6), b"before");
    let other = bench.define(&pool_xml("other", "vg1", "")).unwrap();
    bench.start(&other).unwrap();
    let copy = clone(&bench, &other, &renamed, &a).unwrap();
    assert_eq!(bench.sizes(&copy).unwrap(), (16 * MIB, CHUNK));
    assert_eq!(bench.info(&other).unwrap().allocation, CHUNK);
    let info = bench.backend.volume(&"other".parse().unwrap(), &volume("c")).unwrap();
    assert_eq!(info.backing, None);
}

#[test]
fn zeroes_into_what_a_snapshot_has_wait_for_nobody() {
    let (bench, pool, _) = bench();
    for chunk in 0..2 {
        upload(&bench, "a", chunk * CHUNK, b"x").unwrap();
    }
    take(&bench, &pool, &["a"], "mon").unwrap();
    upload(&bench, "a", 0, &[0; 512]).unwrap();
    assert_eq!(chunks(&bench, "a"), (2, 1), "zeroes that are data");
    let args = StorageVolUploadArgs { vol: known(&bench, "a"), offset: CHUNK, length: 0, flags: 1 };
    let mut stream = bench.driver.upload(&SESSION, &encode(&args).unwrap()).unwrap();
    stream.hole(&StreamHole { length: 2 * CHUNK as i64, flags: 0 }).unwrap();
    stream.finish().unwrap();
    assert_eq!(chunks(&bench, "a"), (2, 2), "zeroes that are a hole");
    let mut byte = [1];
    let file = std::fs::File::open(path(&bench, "vms", "a@mon")).unwrap();
    file.read_exact_at(&mut byte, CHUNK).unwrap();
    assert_eq!(byte, *b"x");
}
