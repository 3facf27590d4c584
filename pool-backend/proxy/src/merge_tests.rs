// SPDX-License-Identifier: LGPL-2.1-or-later
use virtnotify_wire::{List, StoragePool, Uuid};

use super::*;

fn pool(name: &str) -> StoragePool {
    StoragePool { name: name.to_owned(), uuid: Uuid([0; 16]) }
}

fn all(names: &[&str]) -> ConnectListAllStoragePoolsRet {
    let pools = List(names.iter().map(|name| pool(name)).collect());
    ConnectListAllStoragePoolsRet { pools, ret: u32::try_from(names.len()).unwrap() }
}

#[test]
fn pools_of_both_sides_are_listed() {
    let (theirs, ours) = (encode(&all(&["dir"])).unwrap(), encode(&all(&["vms"])).unwrap());
    let both = merge(Procedure::ConnectListAllStoragePools, &[], &theirs, &ours).unwrap();
    assert_eq!(decode::<ConnectListAllStoragePoolsRet>(&both).unwrap(), all(&["dir", "vms"]));
}

#[test]
fn counts_are_added() {
    let count = |num| encode(&ConnectNumOfStoragePoolsRet { num }).unwrap();
    let sum = merge(Procedure::ConnectNumOfStoragePools, &[], &count(2), &count(1)).unwrap();
    assert_eq!(sum, count(3));
}

#[test]
fn no_more_names_are_given_than_the_client_has_room_for() {
    let names = |names: &[&str]| {
        let names = List(names.iter().map(|name| (*name).to_owned()).collect());
        encode(&ConnectListStoragePoolsRet { names }).unwrap()
    };
    let ask = |maxnames| {
        let args = encode(&ConnectListStoragePoolsArgs { maxnames }).unwrap();
        let (theirs, ours) = (names(&["a", "b"]), names(&["c", "d"]));
        merge(Procedure::ConnectListStoragePools, &args, &theirs, &ours).unwrap()
    };
    assert_eq!(ask(9), names(&["a", "b", "c", "d"]));
    assert_eq!(ask(3), names(&["a", "b", "c"]));
    assert_eq!(ask(-1), names(&[]));
}

#[test]
fn our_pool_type_stands_among_the_others() {
    let capabilities = |text: &str| {
        let capabilities = text.to_owned();
        encode(&ConnectGetStoragePoolCapabilitiesRet { capabilities }).unwrap()
    };
    let theirs = capabilities(
        "<storagepoolCapabilities>\n  <pool type='dir' supported='yes'/>\n\
         </storagepoolCapabilities>\n",
    );
    let ours = capabilities("<pool type='notify' supported='yes'>\n</pool>\n");
    let both = merge(Procedure::ConnectGetStoragePoolCapabilities, &[], &theirs, &ours).unwrap();
    let expected = capabilities(
        "<storagepoolCapabilities>\n  <pool type='dir' supported='yes'/>\n  \
         <pool type='notify' supported='yes'>\n  </pool>\n</storagepoolCapabilities>\n",
    );
    assert_eq!(both, expected);
}

#[test]
fn too_many_pools_together_are_an_error() {
    let many = |count| {
        let pools = List(vec![pool("p"); count]);
        encode(&ConnectListAllStoragePoolsRet { pools, ret: 0 }).unwrap()
    };
    let (theirs, ours) = (many(LIST_MAX), many(1));
    let error = merge(Procedure::ConnectListAllStoragePools, &[], &theirs, &ours).unwrap_err();
    assert!(error.is(ErrorCode::RPC));
}
