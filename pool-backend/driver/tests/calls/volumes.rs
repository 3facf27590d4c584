// SPDX-License-Identifier: LGPL-2.1-or-later
//! The life of a volume, and the questions about it.

use virtnotify_driver::xml::NOTIFY_NAMESPACE;
use virtnotify_model::{Backend, BackendError, Bytes, WipeMode};
use virtnotify_wire::ErrorCode;
use virtnotify_wire::procedure::Procedure as P;
use virtnotify_wire::service::PoolView;
use virtnotify_wire::storage::*;

use crate::bench::{Bench, error, pool_xml, volume_xml};

const MIB: u64 = 1 << 20;
const ALLOCATE: u32 = 1;
const DELTA: u32 = 2;
const SHRINK: u32 = 4;
/// `VIR_STORAGE_XML_INACTIVE`.
const INACTIVE: u32 = 1;

fn write(bench: &Bench, volume: &str, mib: u64) {
    let (pool, volume) = ("vms".parse().unwrap(), volume.parse().unwrap());
    bench.backend.write(&pool, &volume, Bytes::ZERO, Bytes::mib(mib)).unwrap();
}

#[test]
fn a_volume_lives_as_libvirt_says() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("disk0", 1024 * MIB)).unwrap();
    assert_eq!((vol.pool.as_str(), vol.name.as_str()), ("vms", "disk0"));
    assert_eq!(bench.sizes(&vol).unwrap(), (1024 * MIB, 0));
    write(&bench, "disk0", 9);
    assert_eq!(bench.sizes(&vol).unwrap(), (1024 * MIB, 12 * MIB));
    assert_eq!(bench.info(&pool).unwrap().allocation, 12 * MIB);
    let ret: StorageVolGetPathRet =
        bench.call(P::StorageVolGetPath, &StorageVolGetPathArgs { vol: vol.clone() }).unwrap();
    assert_eq!(ret.name, "/dev/notify/vms/disk0");
    let args = StorageVolGetInfoFlagsArgs { vol: vol.clone(), flags: 1 };
    let ret: StorageVolGetInfoFlagsRet = bench.call(P::StorageVolGetInfoFlags, &args).unwrap();
    assert_eq!((ret.capacity, ret.allocation), (1024 * MIB, 12 * MIB));
    let args = StorageVolGetXmlDescArgs { vol: vol.clone(), flags: 0 };
    let ret: StorageVolGetXmlDescRet = bench.call(P::StorageVolGetXmlDesc, &args).unwrap();
    assert!(ret.xml.starts_with("<volume type='block'>\n  <name>disk0</name>\n"), "{}", ret.xml);
    assert!(ret.xml.contains("<allocation unit='bytes'>12582912</allocation>"), "{}", ret.xml);
    bench.delete_volume(&vol).unwrap();
    assert!(bench.volumes(&pool).unwrap().is_empty());
    let (code, message) = error(bench.sizes(&vol));
    assert_eq!(code, ErrorCode::NO_STORAGE_VOL);
    let text = "Storage volume not found: no storage vol with matching name 'disk0'";
    assert_eq!(message, text);
}

#[test]
fn volumes_are_found_by_all_that_names_them() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", MIB)).unwrap();
    let args = StorageVolLookupByNameArgs { pool, name: "a".to_owned() };
    let ret: StorageVolLookupByNameRet = bench.call(P::StorageVolLookupByName, &args).unwrap();
    assert_eq!(ret.vol, vol);
    let by_key = |key: &str| {
        let args = StorageVolLookupByKeyArgs { key: key.to_owned() };
        bench.call(P::StorageVolLookupByKey, &args).map(|ret: StorageVolLookupByKeyRet| ret.vol)
    };
    assert_eq!(by_key(&vol.key).unwrap(), vol);
    for key in ["", "x", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(error(by_key(key)).0, ErrorCode::NO_STORAGE_VOL, "{key}");
    }
    let by_path = |path: &str| {
        let args = StorageVolLookupByPathArgs { path: path.to_owned() };
        bench.call(P::StorageVolLookupByPath, &args).map(|ret: StorageVolLookupByPathRet| ret.vol)
    };
    assert_eq!(by_path("/dev//notify/vms/a").unwrap(), vol);
    for path in ["", "a", "/dev/notify/vms/b", "/dev/null", "/nowhere"] {
        assert_eq!(error(by_path(path)).0, ErrorCode::NO_STORAGE_VOL, "{path}");
    }
}

#[test]
fn volumes_are_listed_old_and_new() {
    let (bench, pool) = Bench::with_pool();
    for name in ["b", "a", "c"] {
        bench.create_volume(&pool, &volume_xml(name, MIB)).unwrap();
    }
    assert_eq!(bench.volumes(&pool).unwrap(), ["a", "b", "c"]);
    let args = StoragePoolNumOfVolumesArgs { pool: pool.clone() };
    let ret: StoragePoolNumOfVolumesRet = bench.call(P::StoragePoolNumOfVolumes, &args).unwrap();
    assert_eq!(ret.num, 3);
    let args = StoragePoolListVolumesArgs { pool: pool.clone(), maxnames: 2 };
    let ret: StoragePoolListVolumesRet = bench.call(P::StoragePoolListVolumes, &args).unwrap();
    assert_eq!(ret.names.0, ["a", "b"]);
    let args = StoragePoolListAllVolumesArgs { pool, need_results: 0, flags: 0 };
    let ret: StoragePoolListAllVolumesRet =
        bench.call(P::StoragePoolListAllVolumes, &args).unwrap();
    assert_eq!((ret.ret, ret.vols.len()), (3, 0));
}

#[test]
fn an_allocation_is_made_when_it_is_asked_for() {
    let (bench, pool) = Bench::with_pool();
    let xml = "<volume><name>a</name><capacity unit='M'>64</capacity>\
               <allocation unit='M'>8</allocation></volume>";
    let vol = bench.create_volume(&pool, xml).unwrap();
    assert_eq!(bench.sizes(&vol).unwrap(), (64 * MIB, 8 * MIB));
    let xml = "<volume><name>b</name><capacity unit='G'>2</capacity>\
               <allocation unit='G'>2</allocation></volume>";
    let before = bench.everything();
    assert_eq!(error(bench.create_volume(&pool, xml)).0, ErrorCode::OPERATION_FAILED);
    assert_eq!(bench.everything(), before);
}

#[test]
fn resizing_heeds_its_flags() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", 64 * MIB)).unwrap();
    write(&bench, "a", 8);
    let capacity = || bench.sizes(&vol).unwrap().0 / MIB;
    bench.resize(&vol, 128 * MIB, 0).unwrap();
    assert_eq!(capacity(), 128);
    bench.resize(&vol, 16 * MIB, DELTA).unwrap();
    assert_eq!(capacity(), 144);
    bench.resize(&vol, 44 * MIB, DELTA | SHRINK).unwrap();
    assert_eq!(capacity(), 100);
    bench.resize(&vol, 0, DELTA).unwrap();
    let before = bench.everything();
    for (size, flags, text) in [
        (0, 0, "capacity in virStorageVolResize cannot be zero"),
        (64 * MIB, 0, "Can't shrink capacity below current capacity unless shrink flag"),
        (4 * MIB, SHRINK, "can't shrink capacity below existing allocation"),
        (200 * MIB, DELTA | SHRINK, "can't shrink capacity below existing allocation"),
        ((16 << 40) + 1, 0, "is not possible"),
        (1, 8, "unsupported flags (0x8) in function storageVolResize"),
    ] {
        let (code, message) = error(bench.resize(&vol, size, flags));
        assert_eq!(code, ErrorCode::INVALID_ARG, "{message}");
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(error(bench.resize(&vol, u64::MAX, DELTA)).0, ErrorCode(82));
    let (code, message) = error(bench.resize(&vol, 2048 * MIB, ALLOCATE));
    assert_eq!(code, ErrorCode::OPERATION_FAILED);
    assert!(message.contains("Not enough space left in storage pool"), "{message}");
    assert_eq!(bench.everything(), before);
    bench.resize(&vol, 200 * MIB, ALLOCATE).unwrap();
    assert_eq!(bench.sizes(&vol).unwrap(), (200 * MIB, 200 * MIB));
    bench.resize(&vol, 8 * MIB, ALLOCATE | DELTA).unwrap();
    assert_eq!(bench.sizes(&vol).unwrap(), (208 * MIB, 208 * MIB));
}

#[test]
fn the_policy_bounds_what_a_volume_may_be() {
    let bench = Bench::new();
    let limit = format!(
        "<n:policy xmlns:n='{NOTIFY_NAMESPACE}'><n:largestVolume unit='MiB'>64\
         </n:largestVolume></n:policy>"
    );
    let pool = bench.define(&pool_xml("vms", "vg0", &limit)).unwrap();
    bench.start(&pool).unwrap();
    let (code, message) = error(bench.create_volume(&pool, &volume_xml("a", 65 * MIB)));
    assert_eq!(code, ErrorCode::INVALID_ARG);
    assert!(message.contains("the pool's policy allows 64.00 MiB for a volume"), "{message}");
    let vol = bench.create_volume(&pool, &volume_xml("a", 64 * MIB)).unwrap();
    assert_eq!(error(bench.resize(&vol, 65 * MIB, 0)).0, ErrorCode::INVALID_ARG);
    // A policy that is defined anew holds at once; a volume that is larger may stay, or shrink.
    let uuid = format!("<uuid>{}</uuid>", pool.uuid);
    let tighter = limit.replace("64", "16");
    bench.define(&pool_xml("vms", "vg0", &format!("{uuid}{tighter}"))).unwrap();
    assert_eq!(
        error(bench.create_volume(&pool, &volume_xml("b", 17 * MIB))).0,
        ErrorCode::INVALID_ARG
    );
    bench.resize(&vol, 32 * MIB, SHRINK).unwrap();
    bench.define(&pool_xml("vms", "vg0", &uuid)).unwrap();
    bench.create_volume(&pool, &volume_xml("b", 17 * MIB)).unwrap();
}

#[test]
fn a_new_policy_of_an_active_pool_outlives_the_daemon() {
    let (bench, pool) = Bench::with_pool();
    let name = "vms".parse().unwrap();
    let more = format!(
        "<uuid>{}</uuid><n:policy xmlns:n='{NOTIFY_NAMESPACE}'>\
         <n:migration allowed='no'/></n:policy>",
        pool.uuid
    );
    bench.define(&pool_xml("vms", "vg0", &more)).unwrap();
    assert!(!bench.backend.policy(&name).unwrap().movable);
    bench.backend.stop();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(!bench.backend.policy(&name).unwrap().movable);
}

#[test]
fn a_policy_that_cannot_be_set_changes_nothing() {
    let (bench, pool) = Bench::with_pool();
    let name = "vms".parse().unwrap();
    let set = || bench.driver.set_policy(&pool, &[("movable".to_owned(), "no".to_owned())]);
    let defined = || bench.xml(&pool, INACTIVE, PoolView::Own).unwrap();
    let stays = || {
        assert!(bench.backend.policy(&name).unwrap().movable);
        assert!(!defined().contains("allowed='no'"));
    };
    bench.backend.fail_next(BackendError::Unsupported("not now".to_owned()));
    assert!(set().is_err());
    stays();
    for directory in ["run", "etc"] {
        let (path, kept) =
            (bench.directory.path().join(directory), bench.directory.path().join("kept"));
        std::fs::rename(&path, &kept).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(set().is_err(), "{directory}");
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&kept, &path).unwrap();
        stays();
    }
    set().unwrap();
    assert!(!bench.backend.policy(&name).unwrap().movable);
    set().unwrap();
    assert!(defined().contains("allowed='no'"));
}

#[test]
fn wiping_gives_back_what_was_written() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", 64 * MIB)).unwrap();
    for algorithm in [0, 9] {
        write(&bench, "a", 8);
        bench.wipe(&vol, algorithm).unwrap();
        assert_eq!(bench.sizes(&vol).unwrap(), (64 * MIB, 0));
    }
    write(&bench, "a", 8);
    let args = StorageVolWipeArgs { vol: vol.clone(), flags: 0 };
    bench.call::<_, ()>(P::StorageVolWipe, &args).unwrap();
    assert_eq!(bench.sizes(&vol).unwrap().1, 0);
    for algorithm in 1..9 {
        write(&bench, "a", 8);
        bench.wipe(&vol, algorithm).unwrap();
        assert!(matches!(bench.backend.wiped(), Some(WipeMode::Overwrite(_))));
        assert_eq!(bench.sizes(&vol).unwrap().1, 0);
    }
    assert_eq!(error(bench.wipe(&vol, 10)).0, ErrorCode::INVALID_ARG);
}

#[test]
fn a_volume_that_is_open_is_neither_deleted_nor_wiped() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", MIB)).unwrap();
    bench.backend.open(&"vms".parse().unwrap(), &"a".parse().unwrap(), 1).unwrap();
    let (code, message) = error(bench.delete_volume(&vol));
    assert_eq!(code, ErrorCode::OPERATION_INVALID);
    assert_eq!(message, "Requested operation is not valid: volume 'a' is still in use.");
    assert_eq!(error(bench.wipe(&vol, 0)).0, ErrorCode::OPERATION_INVALID);
    bench.backend.open(&"vms".parse().unwrap(), &"a".parse().unwrap(), -1).unwrap();
    bench.wipe(&vol, 0).unwrap();
    bench.delete_volume(&vol).unwrap();
}

#[test]
fn permissions_that_cannot_be_given_unmake_the_volume() {
    let (bench, pool) = Bench::with_pool();
    // The backend in memory makes no device whose owner could be changed.
    let xml = "<volume><name>a</name><capacity>1</capacity><target><permissions>\
               <owner>107</owner></permissions></target></volume>";
    let (code, message) = error(bench.create_volume(&pool, xml));
    assert_eq!(code, ErrorCode::SYSTEM_ERROR);
    assert!(message.contains("/dev/notify/vms/a"), "{message}");
    assert!(bench.volumes(&pool).unwrap().is_empty());
}

#[test]
fn a_volume_is_made_active_with_its_pool() {
    let (bench, pool) = Bench::with_pool();
    bench.create_volume(&pool, &volume_xml("a", MIB)).unwrap();
    bench.destroy(&pool).unwrap();
    let info = bench.driver.ensure_active("/dev/notify/vms/a").unwrap().unwrap();
    assert_eq!(info.name.as_str(), "a");
    assert!(bench.is_active(&pool).unwrap());
    bench.driver.ensure_active("/dev/notify/vms/a").unwrap();
    assert!(bench.driver.ensure_active("vms/a").unwrap().is_some());
    assert!(bench.driver.ensure_active("other/a").unwrap().is_none());
    assert!(bench.driver.ensure_active("vms/b").is_err());
    for path in ["/dev/notify/vms/b", "/dev/notify/x/a", "/dev/notify/vms", "/etc/passwd", ""] {
        assert!(bench.driver.ensure_active(path).is_err(), "{path}");
    }
}
