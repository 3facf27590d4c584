// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which device is whose: ids, minors and names that are used twice.

use nix::errno::Errno;

use super::*;
use crate::testing::Failing;

impl House {
    fn create_as(
        &self,
        name: &str,
        uuid: Uuid,
    ) -> Result<virtnotify_model::VolumeInfo, BackendError> {
        let (name, capacity) = (name.parse().unwrap(), Bytes::mib(8));
        let spec = VolumeSpec { name, capacity, allocation: Bytes::ZERO, uuid, backing: None };
        self.engine.create_volume(&pool(), &spec)
    }
}

#[test]
fn no_two_volumes_have_one_uuid() {
    let house = House::started(64);
    let disk = house.create("disk0", 8);
    let refused = house.create_as("other", disk.uuid).unwrap_err();
    assert!(refused.to_string().contains("uuid"), "{refused}");
    assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 1);
    assert!(house.write(&device_of(disk.uuid), 3));
    house.check();
}

#[test]
fn a_device_of_another_pool_is_neither_taken_over_nor_removed() {
    let mut house = House::started(64);
    house.create("any", 8);
    let uuid = Uuid::new_v4();
    let foreign = device_of(uuid);
    let table = {
        let shared = house.engine.started(&pool()).unwrap();
        let core = shared.core();
        let other = core.volume(core.find(&"any".parse().unwrap()).unwrap()).unwrap();
        shared.table(other.row(), spec().chunk)
    };
    house.target.create("notify:other:disk0", &foreign, &table).unwrap();
    let refused = house.create_as("disk0", uuid).unwrap_err();
    assert!(refused.to_string().contains("notify:other:disk0"), "{refused}");
    assert!(house.target.has(&foreign), "it is still there");
    assert_eq!(house.engine.volumes(&pool()).unwrap().len(), 1);
    // The group was restored from a copy: the metadata has a volume of that uuid.
    house.target.remove(&foreign).unwrap();
    house.create_as("disk0", uuid).unwrap();
    house.engine.halt();
    house.target.remove(&foreign).unwrap();
    house.target.create("notify:other:disk0", &foreign, &table).unwrap();
    let before = house.target.state(&foreign);
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    assert_eq!(house.volume("disk0").state, VolumeState::Inactive);
    assert_eq!(house.target.state(&foreign).name, before.name);
    let refused = house.delete("disk0");
    assert!(house.target.has(&foreign), "{refused:?}");
}

#[test]
fn a_volume_that_could_not_be_made_leaves_its_number_unused() {
    let mut house = House::with_data(64);
    let old = device_of(house.create("old", 8).uuid);
    // Its row and its chunks are on the disk, and its device can neither be finished nor removed.
    house.target.before("map", |target, device, _| {
        target.change(device, |device| device.contended = true);
        target.fail("map", Failing { errno: Errno::ENOMEM, times: 1, done: false });
    });
    house.create_with("new", 8, 4).unwrap_err();
    house.target.before("map", |_, _, _| {});
    let other = device_of(house.create("other", 8).uuid);
    // Within what the first one has on the disk.
    assert!([5, 9].iter().all(|&n| house.write(&other, n) && house.write(&old, n)));
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    house.check_written(&other, [5, 9]);
    house.check_written(&old, [5, 9]);
    house.check_contents();
    house.check();
}

#[test]
fn a_minor_that_is_used_again_is_the_new_volumes() {
    let house = House::started(64);
    let (first, second) = (house.create("first", 8), house.create("second", 8));
    let shared = house.engine.started(&pool()).unwrap();
    let mut core = shared.core();
    let (a, b) = (core.find(&first.name).unwrap(), core.find(&second.name).unwrap());
    let minor = core.volume(a).unwrap().minor;
    // The first one's device is gone, and the second one's has its minor, before anybody says so.
    core.set_minor(b, minor);
    core.set_minor(a, None);
    assert_eq!(core.id_of_minor(minor.unwrap()), Some(b));
}

#[test]
fn a_delete_that_is_refused_swallows_no_bell() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 8).uuid);
    house.target.change(&disk, |device| device.contended = true);
    // A guest writes while the volume is about to be deleted; its bell is rung once.
    let (go, gone) = std::sync::mpsc::channel();
    let (target, device) = (house.target.clone(), disk.clone());
    let guest = std::thread::spawn(move || {
        gone.recv().unwrap();
        let begin = Instant::now();
        assert!(target.write(&device, 3));
        begin.elapsed()
    });
    house.target.before("remove", move |target, device, _| {
        go.send(()).unwrap();
        eventually("it waits, and was heard", || target.state(device).rung);
        std::thread::sleep(Duration::from_millis(100));
    });
    assert!(matches!(house.delete("disk0"), Err(BackendError::VolumeInUse(_))));
    let waited = guest.join().unwrap();
    assert!(waited < Duration::from_secs(5), "{waited:?}: it was found by a sweep");
}

#[test]
fn a_pool_that_is_stopped_gets_no_new_volume() {
    let house = House::started(64);
    house.create("disk0", 8);
    let shared = house.engine.started(&pool()).unwrap();
    crate::pool::start::detach_all(&shared).unwrap();
    let late = house.create_with("late", 8, 0).unwrap_err();
    assert!(matches!(late, BackendError::PoolNotActive(_)), "{late}");
    assert!(house.target.all().is_empty());
}
