// SPDX-License-Identifier: LGPL-2.1-or-later
//! The life of a pool, and the questions about it.

use virtnotify_model::Bytes;
use virtnotify_wire::procedure::Procedure as P;
use virtnotify_wire::service::{Call, PoolView, StorageService};
use virtnotify_wire::storage::*;
use virtnotify_wire::{ErrorCode, ErrorDomain};

use crate::bench::{Bench, VMS, error, pool_xml, volume_xml};

#[test]
fn a_pool_lives_as_libvirt_says() {
    let bench = Bench::new();
    let pool = bench.define(VMS).unwrap();
    assert!(!bench.is_active(&pool).unwrap());
    assert!(bench.is_persistent(&pool).unwrap());
    assert_eq!(bench.info(&pool).unwrap().state, 0);
    bench.start(&pool).unwrap();
    assert!(bench.is_active(&pool).unwrap());
    let info = bench.info(&pool).unwrap();
    assert_eq!((info.state, info.capacity, info.available), (2, 1 << 30, 1 << 30));
    bench.backend.set_damaged(true);
    let info = bench.info(&pool).unwrap();
    assert_eq!((info.state, info.capacity), (3, 1 << 30), "degraded, and answered all the same");
    bench.backend.set_damaged(false);
    bench.refresh(&pool).unwrap();
    bench.destroy(&pool).unwrap();
    bench.delete(&pool).unwrap();
    bench.undefine(&pool).unwrap();
    assert!(bench.list(0).unwrap().is_empty());
    let lives = [0, 2, -1, 3, 5, 1].map(|event| ("vms".to_owned(), event));
    assert_eq!(bench.events(), lives);
}

#[test]
fn what_is_not_possible_now_is_said_in_libvirts_words() {
    let bench = Bench::new();
    let pool = bench.define(VMS).unwrap();
    let invalid = |text: &str| {
        let message = format!("Requested operation is not valid: {text}");
        (ErrorCode::OPERATION_INVALID, message)
    };
    let inactive = invalid("storage pool 'vms' is not active");
    assert_eq!(error(bench.destroy(&pool)), inactive);
    assert_eq!(error(bench.refresh(&pool)), inactive);
    assert_eq!(error(bench.volumes(&pool)), inactive);
    assert_eq!(error(bench.create_volume(&pool, &volume_xml("a", 1))), inactive);
    bench.start(&pool).unwrap();
    assert_eq!(error(bench.start(&pool)), invalid("storage pool 'vms' is already active"));
    assert_eq!(error(bench.undefine(&pool)), invalid("storage pool 'vms' is still active"));
    assert_eq!(error(bench.delete(&pool)), invalid("storage pool 'vms' is still active"));
    let xml = bench.xml(&pool, 0, PoolView::Own).unwrap();
    assert_eq!(error(bench.create(&xml)), invalid("pool is already active as 'vms'"));
    let build = StoragePoolBuildArgs { pool, flags: 0 };
    let answer = bench.call::<_, ()>(P::StoragePoolBuild, &build);
    assert_eq!(error(answer), invalid("storage pool 'vms' is already active"));
}

#[test]
fn a_pool_that_is_gone_is_not_found() {
    let bench = Bench::new();
    let pool = bench.define(VMS).unwrap();
    bench.undefine(&pool).unwrap();
    let (code, message) = error(bench.start(&pool));
    assert_eq!(code, ErrorCode::NO_STORAGE_POOL);
    let uuid = pool.uuid;
    assert_eq!(
        message,
        format!("Storage pool not found: no storage pool with matching uuid '{uuid}' (vms)")
    );
    let args = StoragePoolLookupByNameArgs { name: "vms".to_owned() };
    let answer = bench.call::<_, StoragePoolLookupByNameRet>(P::StoragePoolLookupByName, &args);
    let (code, message) = error(answer);
    assert_eq!(code, ErrorCode::NO_STORAGE_POOL);
    assert!(message.ends_with("no storage pool with matching name 'vms'"));
}

#[test]
fn pools_are_found_by_all_that_names_them() {
    let (bench, pool) = Bench::with_pool();
    let args = StoragePoolLookupByNameArgs { name: "vms".to_owned() };
    let ret: StoragePoolLookupByNameRet = bench.call(P::StoragePoolLookupByName, &args).unwrap();
    assert_eq!(ret.pool, pool);
    let args = StoragePoolLookupByUuidArgs { uuid: pool.uuid };
    let ret: StoragePoolLookupByUuidRet = bench.call(P::StoragePoolLookupByUuid, &args).unwrap();
    assert_eq!(ret.pool, pool);
    let vol = bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    let args = StoragePoolLookupByVolumeArgs { vol };
    let ret: StoragePoolLookupByVolumeRet =
        bench.call(P::StoragePoolLookupByVolume, &args).unwrap();
    assert_eq!(ret.pool, pool);
    let by_target = |path: &str| {
        let args = StoragePoolLookupByTargetPathArgs { path: path.to_owned() };
        bench.call(P::StoragePoolLookupByTargetPath, &args)
    };
    let ret: StoragePoolLookupByTargetPathRet = by_target("/dev//notify/vms/").unwrap();
    assert_eq!(ret.pool, pool);
    assert_eq!(error(by_target("/dev/notify/x")).0, ErrorCode::NO_STORAGE_POOL);
    assert_eq!(bench.driver.pool_by_name("vms"), Some(pool.clone()));
    assert_eq!(bench.driver.pool_by_uuid(&pool.uuid), Some(pool.clone()));
    assert_eq!(bench.driver.pool_by_name("x"), None);
    bench.destroy(&pool).unwrap();
    assert_eq!(error(by_target("/dev/notify/vms")).0, ErrorCode::NO_STORAGE_POOL);
}

#[test]
fn lists_old_and_new_are_filtered() {
    let (bench, _) = Bench::with_pool();
    let other = bench.define(&pool_xml("other", "vg1", "")).unwrap();
    bench.set_autostart(&other, true).unwrap();
    assert_eq!(bench.list(0).unwrap(), ["other", "vms"]);
    assert_eq!(bench.list(1).unwrap(), ["other"]);
    assert_eq!(bench.list(2).unwrap(), ["vms"]);
    assert_eq!(bench.list(16).unwrap(), ["other"]);
    assert_eq!(bench.list(32).unwrap(), ["vms"]);
    assert!(bench.list(8).unwrap().is_empty());
    assert!(bench.list(1 << 9).unwrap().is_empty());
    // A flag of a newer libvirt: whatever it asks for, it is none of ours.
    assert!(bench.list(1 << 20).unwrap().is_empty());
    let num: ConnectNumOfStoragePoolsRet = bench.call(P::ConnectNumOfStoragePools, &()).unwrap();
    assert_eq!(num.num, 1);
    let num: ConnectNumOfDefinedStoragePoolsRet =
        bench.call(P::ConnectNumOfDefinedStoragePools, &()).unwrap();
    assert_eq!(num.num, 1);
    let list = |maxnames| {
        let args = ConnectListStoragePoolsArgs { maxnames };
        let ret: ConnectListStoragePoolsRet =
            bench.call(P::ConnectListStoragePools, &args).unwrap();
        ret.names.0
    };
    assert_eq!(list(5), ["vms"]);
    assert!(list(0).is_empty());
    let args = ConnectListDefinedStoragePoolsArgs { maxnames: -1 };
    let answer = bench
        .call::<_, ConnectListDefinedStoragePoolsRet>(P::ConnectListDefinedStoragePools, &args);
    assert_eq!(error(answer).0, ErrorCode::INVALID_ARG);
    let args = ConnectListDefinedStoragePoolsArgs { maxnames: 1 };
    let ret: ConnectListDefinedStoragePoolsRet =
        bench.call(P::ConnectListDefinedStoragePools, &args).unwrap();
    assert_eq!(ret.names.0, ["other"]);
}

#[test]
fn an_active_pool_that_is_defined_anew_changes_when_it_stops() {
    let (bench, pool) = Bench::with_pool();
    let uuid = format!("<uuid>{}</uuid>", pool.uuid);
    bench.define(&pool_xml("vms", "vg1", &uuid)).unwrap();
    let vg = |flags| {
        let xml = bench.xml(&pool, flags, PoolView::Own).unwrap();
        xml.split("<name>").nth(2).unwrap()[..3].to_owned()
    };
    assert_eq!((vg(0), vg(1)), ("vg0".to_owned(), "vg1".to_owned()));
    bench.destroy(&pool).unwrap();
    assert_eq!(vg(0), "vg1");
}

#[test]
fn the_views_for_others_parsers_are_pools_of_other_types() {
    let (bench, pool) = Bench::with_pool();
    let xml = bench.xml(&pool, 0, PoolView::Logical).unwrap();
    assert!(xml.starts_with("<pool type='logical'>\n  <name>vms</name>\n"), "{xml}");
    assert!(xml.contains("<path>/dev/notify/vms</path>"), "{xml}");
    let zfs = bench.xml(&pool, 0, PoolView::Zfs).unwrap();
    assert_eq!(zfs, xml.replace("'logical'", "'zfs'"));
    assert!(bench.xml(&pool, 0, PoolView::Own).unwrap().starts_with("<pool type='notify'>"));
    assert_eq!(error(bench.xml(&pool, 2, PoolView::Own)).0, ErrorCode::INVALID_ARG);
}

#[test]
fn a_transient_pool_leaves_nothing() {
    let bench = Bench::new();
    let pool = bench.create(VMS).unwrap();
    assert!(bench.is_active(&pool).unwrap());
    assert!(!bench.is_persistent(&pool).unwrap());
    assert_eq!(bench.list(8).unwrap(), ["vms"]);
    let (code, message) = error(bench.set_autostart(&pool, true));
    assert_eq!(
        (code, &*message),
        (ErrorCode::INTERNAL_ERROR, "internal error: pool has no config file")
    );
    bench.destroy(&pool).unwrap();
    assert!(bench.list(0).unwrap().is_empty());
    assert_eq!(bench.events(), [("vms".to_owned(), 2), ("vms".to_owned(), 3)]);
}

#[test]
fn a_transient_pool_can_be_made_persistent_while_it_runs() {
    let bench = Bench::new();
    let pool = bench.create(VMS).unwrap();
    bench.define(&bench.xml(&pool, 0, PoolView::Own).unwrap()).unwrap();
    assert!(bench.is_persistent(&pool).unwrap());
    bench.destroy(&pool).unwrap();
    assert_eq!(bench.list(1).unwrap(), ["vms"]);
}

#[test]
fn a_create_that_fails_leaves_what_was_there() {
    let bench = Bench::new();
    let (code, _) = error(bench.create(&pool_xml("a", "nowhere", "")));
    assert_eq!(code, ErrorCode::CONFIG_UNSUPPORTED);
    assert!(bench.list(0).unwrap().is_empty());
    let pool = bench.define(&pool_xml("b", "vg0", "")).unwrap();
    let uuid = format!("<uuid>{}</uuid>", pool.uuid);
    let before = bench.everything();
    assert!(bench.create(&pool_xml("b", "nowhere", &uuid)).is_err());
    assert_eq!(bench.everything(), before);
    assert!(bench.is_persistent(&pool).unwrap());
}

#[test]
fn building_makes_the_volume_group_as_the_flags_say() {
    let bench = Bench::new();
    let xml = "<pool type='notify'><name>n</name><source><device path='/dev/vdb'/>\
               <name>vg9</name></source></pool>";
    let pool = bench.define(xml).unwrap();
    let build = |flags| {
        let args = StoragePoolBuildArgs { pool: pool.clone(), flags };
        bench.call::<_, ()>(P::StoragePoolBuild, &args)
    };
    assert_eq!(error(bench.start(&pool)).0, ErrorCode::CONFIG_UNSUPPORTED);
    build(0).unwrap();
    bench.start(&pool).unwrap();
    bench.destroy(&pool).unwrap();
    assert_eq!(error(build(4)).0, ErrorCode::OPERATION_INVALID);
    build(8).unwrap();
    let (code, message) = error(build(12));
    assert_eq!(code, ErrorCode::INVALID_ARG);
    assert!(message.contains("mutually exclusive"), "{message}");
    bench.delete(&pool).unwrap();
    let args = StoragePoolCreateArgs { pool: pool.clone(), flags: 1 };
    bench.call::<_, ()>(P::StoragePoolCreate, &args).unwrap();
    assert!(bench.is_active(&pool).unwrap());
    let built = bench.events().iter().filter(|(_, event)| *event == 4).count();
    assert_eq!(built, 2);
}

#[test]
fn a_pool_with_volumes_is_not_deleted() {
    let (bench, pool) = Bench::with_pool();
    bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    bench.destroy(&pool).unwrap();
    assert_eq!(error(bench.delete(&pool)).0, ErrorCode::OPERATION_INVALID);
}

#[test]
fn a_pool_whose_volume_is_open_is_not_stopped() {
    let (bench, pool) = Bench::with_pool();
    bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    let (name, volume) = ("vms".parse().unwrap(), "a".parse().unwrap());
    bench.backend.open(&name, &volume, 1).unwrap();
    let before = bench.everything();
    assert_eq!(error(bench.destroy(&pool)).0, ErrorCode::OPERATION_INVALID);
    assert_eq!(bench.everything(), before);
    bench.backend.open(&name, &volume, -1).unwrap();
    bench.destroy(&pool).unwrap();
}

#[test]
fn a_pool_stays_active_when_its_group_cannot_be_read() {
    let (bench, pool) = Bench::with_pool();
    bench.backend.remove_group(&"vg0".parse().unwrap());
    assert_eq!(error(bench.refresh(&pool)).0, ErrorCode::CONFIG_UNSUPPORTED);
    bench.backend.add_group(&"vg0".parse().unwrap(), Bytes::mib(64));
    assert!(bench.is_active(&pool).unwrap());
    bench.refresh(&pool).unwrap();
}

#[test]
fn capabilities_and_sources_are_answered() {
    let bench = Bench::new();
    let args = ConnectGetStoragePoolCapabilitiesArgs { flags: 0 };
    let ret: ConnectGetStoragePoolCapabilitiesRet =
        bench.call(P::ConnectGetStoragePoolCapabilities, &args).unwrap();
    assert!(ret.capabilities.starts_with("<pool type='notify' supported='yes'>\n"));
    assert!(ret.capabilities.ends_with("\n</pool>\n"));
    let args =
        ConnectFindStoragePoolSourcesArgs { r#type: "notify".to_owned(), src_spec: None, flags: 0 };
    let ret: ConnectFindStoragePoolSourcesRet =
        bench.call(P::ConnectFindStoragePoolSources, &args).unwrap();
    let first = "<sources>\n  <source>\n    <device path='/dev/disk/by-id/vg0'/>\n    \
                 <name>vg0</name>\n    <format type='lvm2'/>\n  </source>\n";
    assert!(ret.xml.starts_with(first), "{}", ret.xml);
}

#[test]
fn every_storage_procedure_has_its_place() {
    let bench = Bench::new();
    for procedure in P::ALL.iter().copied().filter(|procedure| procedure.is_storage()) {
        // Too few bytes for any arguments: the answer comes from decoding them.
        let call = Call { procedure, args: &[0xff; 3], view: PoolView::Own };
        let answer = bench.raw(call);
        // What stands behind the arguments is not looked at; these have none.
        if matches!(procedure, P::ConnectNumOfStoragePools | P::ConnectNumOfDefinedStoragePools) {
            assert_eq!(answer, Ok(vec![0; 4]), "{procedure:?}");
            continue;
        }
        let error = answer.unwrap_err();
        let elsewhere = matches!(
            procedure,
            P::StorageVolUpload
                | P::StorageVolDownload
                | P::ConnectStoragePoolEventRegisterAny
                | P::ConnectStoragePoolEventDeregisterAny
        );
        if elsewhere {
            assert!(error.is(ErrorCode::NO_SUPPORT), "{procedure:?}: {error}");
        } else {
            assert_eq!(error.domain, ErrorDomain::RPC.0, "{procedure:?}: {error}");
        }
    }
}
