// SPDX-License-Identifier: LGPL-2.1-or-later
//! What an operator reads when something is refused, word for word.

use virtnotify_model::BuildMode;

use super::*;

fn said<T: std::fmt::Debug>(result: Result<T, BackendError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn of_a_pool_that_is_not_there_or_taken() {
    let house = House::with_group(64);
    assert_eq!(said(house.engine.pool_info(&pool())), "the pool 'vms' is not active");
    house.engine.start_pool(&spec()).unwrap();
    let other = PoolSpec { name: "other".parse().unwrap(), ..spec() };
    let taken = "the volume group 'vg0' holds the pool 'vms'";
    assert_eq!(said(house.engine.start_pool(&other)), taken);
    assert_eq!(said(house.engine.delete_pool(&spec())), "the pool 'vms' is active");
    house.create("disk0", 16);
    house.engine.stop_pool(&pool()).unwrap();
    let volumes = "the pool 'vms' still has volumes (1): delete them first";
    assert_eq!(said(house.engine.delete_pool(&spec())), volumes);
}

#[test]
fn of_a_volume_group_that_cannot_be_used() {
    let house = House::with_group(64);
    let refused = |change: fn(&mut crate::lvm::VgReport)| {
        let whole = house.lvm.change(|report| report.clone());
        house.lvm.change(change);
        let sentence = said(house.engine.start_pool(&spec()));
        house.lvm.change(|report| *report = whole);
        sentence
    };
    assert_eq!(refused(|vg| vg.exported = true), "the volume group 'vg0' is exported");
    assert_eq!(refused(|vg| vg.partial = true), "the volume group 'vg0' lacks a device");
    let shared = "the volume group 'vg0' is shared between hosts, which is not supported yet";
    assert_eq!(refused(|vg| vg.shared = true), shared);
    assert_eq!(
        refused(|vg| vg.tags.push(TAG.to_owned())),
        format!(
            "the volume group held a pool, and its '{META_LV}' is gone; to give the pool up, \
             remove the tag with 'vgchange --deltag {TAG}'"
        )
    );
    let (free, least) = (Bytes::mib(10), Bytes::mib(17));
    assert_eq!(
        refused(|vg| vg.free = Bytes::mib(10)),
        format!(
            "the volume group has {free} free, and a pool with chunks of {} needs {least} at least",
            Bytes(CHUNK)
        )
    );
    let build = |devices| {
        let spec = PoolSpec { devices, ..spec() };
        said(house.engine.build_pool(&spec, BuildMode::New))
    };
    let none = "no devices are named to make the volume group 'vg0' of";
    assert_eq!(build(Vec::new()), none);
    assert_eq!(build(vec!["vdb".into()]), "'vdb' is no absolute path of a device");
}

#[test]
fn of_a_volume_that_cannot_be_made_changed_or_deleted() {
    let house = House::started(64);
    let disk = house.create("disk0", 16);
    let again = house.create_with("disk0", 16, 0);
    assert_eq!(said(again), "the pool 'vms' has a volume 'disk0' already");
    assert_eq!(said(house.delete("gone")), "the pool 'vms' has no volume 'gone'");
    let most = Bytes(CHUNK << 22);
    assert_eq!(
        said(house.create_with("none", 0, 0)),
        format!(
            "a capacity of 0 bytes is not possible: this pool has volumes from 4 KiB to {most}"
        )
    );
    let full = format!("the pool 'vms' has no room for {} more", Bytes::mib(100));
    assert_eq!(said(house.create_with("fat", 128, 100)), full);
    assert!(house.write(&device_of(disk.uuid), 31));
    let small = house.engine.resize_volume(&pool(), &disk.name, Bytes::mib(4));
    let (data, to) = (Bytes::mib(8), Bytes::mib(4));
    let shrink = format!("the volume 'disk0' has data up to {data}: it cannot shrink to {to}");
    assert_eq!(said(small), shrink);
    house.target.change(&device_of(disk.uuid), |device| device.openers = 1);
    assert_eq!(said(house.delete("disk0")), "the volume 'disk0' is in use");
    assert_eq!(said(house.engine.stop_pool(&pool())), "the volume 'disk0' is in use");
}

#[test]
fn of_metadata_that_cannot_be_read() {
    let house = House::started(64);
    house.engine.stop_pool(&pool()).unwrap();
    house.lvm.disk(META_LV).damage(0, |bytes| bytes.fill(0));
    assert_eq!(
        said(house.engine.start_pool(&spec())),
        "the metadata of the pool 'vms' is damaged: the superblock of the metadata cannot be \
         used: neither copy of the superblock is intact. 'virt-notify check vg0' says more, \
         'virt-notify restore vg0' writes it again"
    );
}

#[test]
fn of_metadata_of_a_later_version() {
    let house = House::started(64);
    house.engine.stop_pool(&pool()).unwrap();
    house.lvm.disk(META_LV).damage(0, |bytes| {
        let (covered, checksum) = bytes[..4096].split_at_mut(4092);
        covered[16..20].copy_from_slice(&99u32.to_le_bytes());
        checksum.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
    });
    let sentence = said(house.engine.start_pool(&spec()));
    assert_eq!(
        sentence,
        "the superblock of the metadata cannot be used: it has version 99 of the format, and this \
         program knows version 3: the version that made it can use it"
    );
}

#[test]
fn of_a_second_daemon() {
    let house = House::with_group(64);
    let second = Engine::with_parts(parts(house.dir.path(), &house.lvm, &house.target, &house.bus));
    let lock = house.dir.path().join("run/engine.lock");
    let sentence = format!("another virtnotifyd runs on this host: it holds '{}'", lock.display());
    assert_eq!(second.err().unwrap().to_string(), sentence);
}
