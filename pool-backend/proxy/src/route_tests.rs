// SPDX-License-Identifier: LGPL-2.1-or-later
use virtnotify_wire::service::{EventSink, PoolXmlPeek, VolumeXmlPeek};
use virtnotify_wire::storage::*;
use virtnotify_wire::{Call, Session, Xdr, encode};

use super::*;

/// Has a pool `vms` and refuses to be asked anything that is not in memory.
struct OnePool;

fn ours() -> StoragePool {
    StoragePool { name: "vms".to_owned(), uuid: Uuid([1; 16]) }
}

fn theirs() -> StoragePool {
    StoragePool { name: "dir".to_owned(), uuid: Uuid([2; 16]) }
}

fn vol(pool: &StoragePool) -> StorageVol {
    StorageVol { pool: pool.name.clone(), name: "v".to_owned(), key: "k".to_owned() }
}

impl StorageService for OnePool {
    fn call(&self, _: &Session, call: Call<'_>) -> Result<Vec<u8>, RemoteError> {
        panic!("routing made the call {}", call.procedure)
    }
    fn pool_by_name(&self, name: &str) -> Option<StoragePool> {
        (name == "vms").then(ours)
    }
    fn pool_by_uuid(&self, uuid: &Uuid) -> Option<StoragePool> {
        (*uuid == ours().uuid).then(ours)
    }
    fn peek_pool_xml(&self, xml: &str) -> PoolXmlPeek {
        let name = Some("x".to_owned());
        PoolXmlPeek { ours: xml.contains("notify"), name, uuid: None }
    }
    fn peek_volume_xml(&self, _: &str) -> VolumeXmlPeek {
        panic!("routing looked at a volume")
    }
    fn set_event_sink(&self, _: EventSink) {}
}

fn of<T: Xdr>(procedure: Procedure, args: &T) -> Route {
    route(procedure, &encode(args).unwrap(), &OnePool)
}

#[test]
fn calls_about_a_pool_go_to_whose_it_is() {
    let info = |pool| of(Procedure::StoragePoolGetInfo, &StoragePoolGetInfoArgs { pool });
    assert_eq!(info(ours()), Route::Ours);
    assert_eq!(info(theirs()), Route::Upstream);
    // By its UUID if the client remembers an older name, by its name likewise.
    assert_eq!(info(StoragePool { name: "old".to_owned(), ..ours() }), Route::Ours);
    assert_eq!(info(StoragePool { uuid: Uuid([9; 16]), ..ours() }), Route::Ours);
}

#[test]
fn calls_about_a_volume_go_to_whose_pool_it_is_in() {
    let path = |pool: &StoragePool| {
        of(Procedure::StorageVolGetPath, &StorageVolGetPathArgs { vol: vol(pool) })
    };
    assert_eq!(path(&ours()), Route::Ours);
    assert_eq!(path(&theirs()), Route::Upstream);
    let download = |pool: &StoragePool| {
        let args = StorageVolDownloadArgs { vol: vol(pool), offset: 0, length: 0, flags: 0 };
        of(Procedure::StorageVolDownload, &args)
    };
    assert_eq!(download(&ours()), Route::Download);
    assert_eq!(download(&theirs()), Route::Upstream);
}

/// Each storage procedure that names a pool or volume, with one of ours and one of theirs.
#[test]
fn no_call_about_our_pool_goes_upstream_and_none_about_theirs_comes_to_us() {
    use About as A;
    // A pool or volume, then enough of anything for the rest of the arguments.
    let pool_first =
        |pool: &StoragePool| [encode(pool).unwrap(), encode(&vol(pool)).unwrap()].concat();
    let volume_first = |pool: &StoragePool| encode(&vol(pool)).unwrap();
    for procedure in Procedure::ALL.iter().copied().filter(|one| one.is_storage()) {
        let args: &dyn Fn(&StoragePool) -> Vec<u8> = match procedure.about() {
            A::Pool | A::Volumes(_) | A::VolumeName | A::NewVolume => &pool_first,
            A::Volume | A::PoolOfVolume | A::Download | A::Upload => &volume_first,
            // The other tests have those that name none, or more than one.
            _ => continue,
        };
        let here = route(procedure, &args(&ours()), &OnePool);
        assert!(matches!(here, Route::Ours | Route::Download | Route::Upload), "{procedure}");
        let there = route(procedure, &args(&theirs()), &OnePool);
        assert_eq!(there, Route::Upstream, "{procedure}");
    }
}

#[test]
fn lookups_ask_ours_first() {
    let by_name = |name: &str| {
        let args = StoragePoolLookupByNameArgs { name: name.to_owned() };
        of(Procedure::StoragePoolLookupByName, &args)
    };
    assert_eq!((by_name("vms"), by_name("dir")), (Route::Ours, Route::Upstream));
    let by_path = StorageVolLookupByPathArgs { path: "/x".to_owned() };
    let absent = Route::OursFirst(ErrorCode::NO_STORAGE_VOL);
    assert_eq!(of(Procedure::StorageVolLookupByPath, &by_path), absent);
}

#[test]
fn definitions_go_by_their_type() {
    let define = |xml: &str| {
        let args = StoragePoolDefineXmlArgs { xml: xml.to_owned(), flags: 0 };
        of(Procedure::StoragePoolDefineXml, &args)
    };
    let names = PoolNames { name: Some("x".to_owned()), uuid: None };
    assert_eq!(define("<pool type='notify'/>"), Route::DefineOurs(names.clone()));
    assert_eq!(define("<pool type='dir'/>"), Route::DefineUpstream(names));
}

#[test]
fn the_pool_in_the_way_is_named_as_libvirt_names_it() {
    let same_name = PoolNames { name: Some("vms".to_owned()), uuid: None };
    let existing = conflict(&same_name, &OnePool).unwrap();
    let message = already_exists(&same_name, &existing).message.clone().unwrap();
    let uuid = ours().uuid;
    assert_eq!(message, format!("operation failed: pool 'vms' already exists with uuid {uuid}"));
    let same_uuid = PoolNames { name: Some("other".to_owned()), uuid: Some(uuid) };
    let existing = conflict(&same_uuid, &OnePool).unwrap();
    let message = already_exists(&same_uuid, &existing).message.clone().unwrap();
    let expected = format!("operation failed: pool 'vms' is already defined with uuid {uuid}");
    assert_eq!(message, expected);
    assert_eq!(conflict(&PoolNames::default(), &OnePool), None);
}

#[test]
fn clones_go_to_whom_they_belong() {
    let clone = |pool: StoragePool, from: &StoragePool| {
        let args =
            StorageVolCreateXmlFromArgs { pool, xml: String::new(), clonevol: vol(from), flags: 0 };
        of(Procedure::StorageVolCreateXmlFrom, &args)
    };
    assert_eq!(clone(ours(), &ours()), Route::Ours);
    assert_eq!(clone(theirs(), &theirs()), Route::Upstream);
    assert_eq!(clone(ours(), &theirs()), Route::CloneIn);
    assert_eq!(clone(theirs(), &ours()), Route::CloneOut);
}

#[test]
fn arguments_that_cannot_be_read_are_answered_by_an_rpc_error() {
    let Route::Refuse(error) = route(Procedure::StoragePoolGetInfo, &[0, 0, 0, 9], &OnePool) else {
        panic!("routed");
    };
    assert!(error.is(ErrorCode::RPC));
}

#[test]
fn names_that_are_not_utf8_are_not_ours() {
    let latin1 = [0, 0, 0, 1, 0xe4, 0, 0, 0];
    assert_eq!(route(Procedure::StoragePoolLookupByName, &latin1, &OnePool), Route::Upstream);
    let unknown = Route::DefineUpstream(PoolNames::default());
    for define in [Procedure::StoragePoolDefineXml, Procedure::StoragePoolCreateXml] {
        assert_eq!(route(define, &latin1, &OnePool), unknown);
    }
}
