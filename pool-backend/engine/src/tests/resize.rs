// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume gets another size while guests write, the kernel refuses, or the daemon is killed.

use nix::errno::Errno;

use super::*;
use crate::testing::Failing;

impl House {
    fn resize(&self, name: &str, mib: u64) -> Result<Change, BackendError> {
        self.engine.resize_volume(&pool(), &name.parse().unwrap(), Bytes::mib(mib))
    }

    fn mib_of(&self, device: &DeviceId) -> u64 {
        self.target.state(device).length.bytes().0 >> 20
    }
}

#[test]
fn growth_beyond_the_new_end_is_stopped_before_a_volume_shrinks() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    assert!(house.write(&disk, 3));
    // Between the look at what is written and the resume, a guest writes beyond the new end.
    house.target.before("suspend", |target, device, _| {
        assert_eq!(target.try_write(device, 40, Duration::from_millis(300)), None);
    });
    assert_eq!(house.resize("disk0", 8).unwrap(), Change::Changed);
    house.target.before("suspend", |_, _, _| {});
    assert_eq!(house.mib_of(&disk), 8);
    assert!(house.write(&disk, 31), "it goes on");
    assert!(!house.write(&disk, 40), "there is nothing any more");
    assert_eq!(house.resize("disk0", 16).unwrap(), Change::Changed);
    assert!(house.write(&disk, 40));
    house.check_written(&disk, [3, 31, 40]);
    house.check();
}

#[test]
fn a_volume_that_cannot_shrink_goes_on_as_before() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    assert!(house.write(&disk, 3));
    for step in ["load", "suspend", "resume", "fit"] {
        house.target.fail(step, Failing { errno: Errno::EINVAL, times: 1, done: false });
        let refused = house.resize("disk0", 8).unwrap_err();
        assert!(refused.to_string().contains("cannot resize"), "{step}: {refused}");
        assert_eq!((house.mib_of(&disk), house.volume("disk0").capacity), (16, Bytes::mib(16)));
        assert!(house.write(&disk, 50), "after a failed {step}");
        house.target.discard(&disk, 50..51);
        eventually("given back", || house.place(&disk, 50).is_none());
    }
    assert_eq!(house.resize("disk0", 8).unwrap(), Change::Changed);
    assert_eq!(house.mib_of(&disk), 8);
    house.check_written(&disk, [3]);
    house.check();
}

#[test]
fn a_device_that_stays_suspended_is_resumed_later() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    assert!(house.write(&disk, 3));
    let mut told = house.listen();
    // Neither the new table nor the former one can be resumed, at first.
    house.target.fail("fit", Failing { errno: Errno::EINVAL, times: 3, done: false });
    house.resize("disk0", 8).unwrap_err();
    let damage =
        |event: &Event| matches!(event, Event::Damage { what, .. } if what.contains("suspended"));
    assert_eq!(told.until("that it is suspended", damage), 1);
    assert!(house.write(&disk, 50), "it is resumed");
    assert_eq!((house.mib_of(&disk), house.volume("disk0").capacity), (16, Bytes::mib(16)));
    house.check_written(&disk, [3, 50]);
    house.check();
}

#[test]
fn a_resize_that_failed_is_done_when_it_is_asked_again() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    house.target.fail("load", Failing { errno: Errno::ENOMEM, times: 1, done: false });
    house.resize("disk0", 32).unwrap_err();
    // Or it was done meanwhile, as the metadata has it already.
    house.resize("disk0", 32).unwrap();
    assert_eq!(house.mib_of(&disk), 32);
    assert_eq!(house.resize("disk0", 32).unwrap(), Change::Identity);
    assert!(house.write(&disk, 127));
    house.check();
}

#[test]
fn a_capacity_that_could_not_be_made_durable_is_the_devices_in_the_end() {
    let house = House::with_data(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    eventually("settled", || house.engine.pool_info(&pool()).unwrap().headroom >= Bytes::mib(4));
    let meta = house.lvm.disk(META_LV);
    house.target.before("suspend", move |_, _, _| meta.fail_after(0));
    house.resize("disk0", 8).unwrap_err();
    house.target.before("suspend", |_, _, _| {});
    house.lvm.disk(META_LV).heal();
    eventually("as the metadata says", || {
        house.mib_of(&disk) == house.volume("disk0").capacity.0 >> 20
            && !house.engine.is_damaged(&pool())
    });
    assert!(house.write(&disk, 31));
    house.check();
}

#[test]
fn a_start_resumes_what_it_finds_suspended() {
    for refused in [false, true] {
        let mut house = House::with_data(64);
        let disk = device_of(house.create("disk0", 16).uuid);
        assert!(house.write(&disk, 3));
        house.engine.halt();
        house.target.change(&disk, |device| (device.suspended, device.refused) = (true, refused));
        house.restart();
        house.engine.start_pool(&spec()).unwrap();
        assert!(house.write(&disk, 3));
        assert!(house.write(&disk, 50));
        assert_eq!(house.volume("disk0").state, VolumeState::Growing);
        house.check_written(&disk, [3, 50]);
        house.check();
    }
}
