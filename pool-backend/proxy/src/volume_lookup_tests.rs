// SPDX-License-Identifier: LGPL-2.1-or-later
use virtnotify_wire::connect::{
    ConnectOpenArgs, ConnectSetIdentityArgs, ConnectSupportsFeatureArgs,
};
use virtnotify_wire::storage::{
    ConnectListAllStoragePoolsArgs, StoragePoolGetInfoArgs, StoragePoolLookupByVolumeArgs, Uuid,
};
use virtnotify_wire::{List, encode};

use super::*;

type Sequence = Vec<(Option<Procedure>, Vec<u8>)>;

fn say<T: Xdr>(procedure: Procedure, args: &T) -> (Option<Procedure>, Vec<u8>) {
    (Some(procedure), encode(args).unwrap())
}

fn pool() -> StoragePool {
    StoragePool { name: "vms".to_owned(), uuid: Uuid([1; 16]) }
}

fn vol() -> StorageVol {
    let key = "/dev/notify/vms/disk0".to_owned();
    StorageVol { pool: "vms".to_owned(), name: "disk0".to_owned(), key }
}

/// What every client of libvirt 11.3 starts with; daemons add the identity.
fn opening() -> Sequence {
    let feature =
        |feature| say(Procedure::ConnectSupportsFeature, &ConnectSupportsFeatureArgs { feature });
    let open = ConnectOpenArgs { name: Some("storage:///system".to_owned()), flags: 0 };
    let identity = ConnectSetIdentityArgs { params: List::default(), flags: 0 };
    vec![
        say(Procedure::AuthList, &()),
        feature(10),
        say(Procedure::ConnectOpen, &open),
        feature(14),
        feature(15),
        say(Procedure::ConnectSetIdentity, &identity),
    ]
}

fn lookup_pool() -> (Option<Procedure>, Vec<u8>) {
    let args = StoragePoolLookupByNameArgs { name: "vms".to_owned() };
    say(Procedure::StoragePoolLookupByName, &args)
}

fn is_active() -> (Option<Procedure>, Vec<u8>) {
    say(Procedure::StoragePoolIsActive, &StoragePoolIsActiveArgs { pool: pool() })
}

fn lookup_vol() -> (Option<Procedure>, Vec<u8>) {
    let args = StorageVolLookupByNameArgs { pool: pool(), name: "disk0".to_owned() };
    say(Procedure::StorageVolLookupByName, &args)
}

fn vol_info() -> (Option<Procedure>, Vec<u8>) {
    say(Procedure::StorageVolGetInfo, &StorageVolGetInfoArgs { vol: vol() })
}

fn pool_xml(flags: u32) -> (Option<Procedure>, Vec<u8>) {
    let args = StoragePoolGetXmlDescArgs { pool: pool(), flags };
    say(Procedure::StoragePoolGetXmlDesc, &args)
}

fn vol_path() -> (Option<Procedure>, Vec<u8>) {
    say(Procedure::StorageVolGetPath, &StorageVolGetPathArgs { vol: vol() })
}

fn translation() -> Sequence {
    vec![lookup_pool(), is_active(), lookup_vol(), vol_info(), pool_xml(0)]
}

/// Which calls of a sequence were recognised.
fn hits_of(program: Option<&str>, calls: Sequence) -> Vec<usize> {
    let mut lookup = VolumeLookup::new(program);
    let hit = |(at, (procedure, args)): (usize, (Option<Procedure>, Vec<u8>))| {
        lookup.observe(procedure, &args).then_some(at)
    };
    calls.into_iter().enumerate().filter_map(hit).collect()
}

fn hits(rest: Sequence) -> Vec<usize> {
    let opening = opening();
    let start = opening.len();
    let calls = opening.into_iter().chain(rest).collect();
    hits_of(Some("virtqemud"), calls).into_iter().map(|at| at - start).collect()
}

#[test]
fn virtqemud_starting_a_domain_is_recognised() {
    assert_eq!(hits(translation()), [4]);
}

#[test]
fn each_volume_of_a_backing_chain_is_recognised() {
    let chain = [translation(), vec![vol_path()], translation(), vec![vol_path()]].concat();
    assert_eq!(hits(chain), [4, 10]);
}

#[test]
fn an_older_libvirt_that_probes_no_feature_is_recognised() {
    let open = opening().remove(2);
    let calls = [vec![open], translation()].concat();
    assert_eq!(hits_of(Some("virtqemud"), calls), [5]);
}

#[test]
fn another_program_never_is() {
    let calls = || [opening(), translation()].concat();
    assert_eq!(hits_of(Some("virsh"), calls()), [0; 0]);
    assert_eq!(hits_of(Some("python3.13"), calls()), [0; 0]);
    assert_eq!(hits_of(None, calls()), [opening().len() + 4]);
}

/// `vol-info disk0; pool-dumpxml vms`, as recorded from virsh 11.3 through virtqemud.
#[test]
fn virsh_is_not_mistaken() {
    let args = StoragePoolLookupByVolumeArgs { vol: vol() };
    let by_volume = say(Procedure::StoragePoolLookupByVolume, &args);
    let (name, active, vol) = (lookup_pool(), is_active(), lookup_vol());
    let calls = vec![name, active, vol, by_volume, vol_info(), lookup_pool(), pool_xml(0)];
    assert_eq!(hits(calls), [0; 0]);
    assert_eq!(hits(vec![lookup_pool(), pool_xml(0)]), [0; 0]);
}

/// virt-manager lists what there is before it asks for anything by name.
#[test]
fn virt_manager_is_not_mistaken() {
    let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags: 0 };
    let list = say(Procedure::ConnectListAllStoragePools, &args);
    let info = say(Procedure::StoragePoolGetInfo, &StoragePoolGetInfoArgs { pool: pool() });
    assert_eq!(hits(vec![list.clone(), pool_xml(0), info, is_active(), pool_xml(0)]), [0; 0]);
    assert_eq!(hits([vec![list], translation()].concat()), [0; 0]);
}

#[test]
fn any_step_left_out_doubled_or_out_of_turn_is_not_it() {
    for at in 0..4 {
        let mut without = translation();
        without.remove(at);
        assert_eq!(hits(without), [0; 0], "without step {at}");
        let mut doubled = translation();
        doubled.insert(at, doubled[at].clone());
        assert_eq!(hits(doubled), [0; 0], "step {at} doubled");
        let mut unknown = translation();
        unknown.insert(at + 1, (None, Vec::new()));
        assert_eq!(hits(unknown), [0; 0], "an unknown call after step {at}");
    }
    assert_eq!(hits([translation(), vec![pool_xml(0)]].concat()), [4]);
}

#[test]
fn steps_about_different_things_are_not_it() {
    let other = StoragePool { name: "vms".to_owned(), uuid: Uuid([2; 16]) };
    let mut calls = translation();
    let args = StorageVolLookupByNameArgs { pool: other, name: "disk0".to_owned() };
    calls[2] = say(Procedure::StorageVolLookupByName, &args);
    assert_eq!(hits(calls), [0; 0]);
    let mut calls = translation();
    calls[4] = pool_xml(1);
    assert_eq!(hits(calls), [0; 0], "virtqemud asks without flags");
    let mut calls = translation();
    calls[1].1.truncate(3);
    assert_eq!(hits(calls), [0; 0], "arguments that cannot be read");
}
