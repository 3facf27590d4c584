// SPDX-License-Identifier: LGPL-2.1-or-later
//! A disk refuses writes and flushes for a while, from any operation on: nothing that was
//! acknowledged is lost, nobody gets old data, and all goes on.

use super::house::each_until_the_last;
use super::*;

/// Writes to three volumes while a disk fails after so many operations, and heals it when a write
/// is stuck; says whether the disk failed. A chunk may be bad for good.
fn write_while_it_fails(lv: &str, after: u64, bad: Option<u64>) -> bool {
    let mut house = House::with_data(64);
    if let Some(chunk) = bad {
        house.lvm.disk(&data_lv(0)).go_bad_at(chunk * CHUNK + 4096);
    }
    let disks = ["a", "b", "c"].map(|name| device_of(house.create(name, 16).uuid));
    let failing = house.lvm.disk(lv);
    failing.fail_after(after);
    let writes = (0..60).map(|n| (n % 3, (n * 7) % 60));
    let mut acknowledged = Vec::new();
    for (disk, chunk) in writes {
        let device = &disks[usize::try_from(disk).unwrap()];
        let mut done = None;
        eventually("written, or the disk has failed", || {
            done = house.target.try_write(device, chunk, Duration::from_millis(5));
            done.is_some() || failing.has_failed()
        });
        if done.is_none() {
            failing.heal();
            done = Some(house.write(device, chunk));
        }
        assert_eq!(done, Some(true));
        acknowledged.push((device, chunk, house.place(device, chunk)));
    }
    let failed = failing.has_failed();
    failing.heal();
    assert!(house.write(&disks[0], 61));
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    for (device, chunk, place) in acknowledged {
        assert_eq!(house.place(device, chunk), place, "{lv} failed after {after}: {chunk}");
        house.check_written(device, [chunk]);
    }
    house.check();
    house.check_contents();
    failed
}

/// Does that for every operation that there is.
fn each_operation(lv: &str, least: u64) {
    let last = each_until_the_last(|after| write_while_it_fails(lv, after, None));
    assert!(last >= least, "only {last} operations failed");
}

#[test]
fn the_metadata_cannot_be_written_for_a_while() {
    each_operation(META_LV, 100);
}

/// The chunks beside a bad one are zeroed one by one, with a commit for each. Each seventh operation is enough.
#[test]
fn the_metadata_cannot_be_written_for_a_while_and_a_chunk_is_bad() {
    let last = each_until_the_last(|n| write_while_it_fails(META_LV, 7 * n, Some(30)));
    assert!(last >= 14, "only {last} operations failed");
}

#[test]
fn free_chunks_cannot_be_zeroed_for_a_while() {
    each_operation(&data_lv(0), 4);
}

/// Chunks are discarded and overwritten with zeroes while the metadata cannot be written after so many
/// operations; it can again when a guest is stuck. Then the host dies.
fn zero_while_it_fails(after: u64) -> bool {
    let mut house = House::with_data(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    assert!((0..8).all(|chunk| house.write(&disk, chunk)));
    let meta = house.lvm.disk(META_LV);
    meta.fail_after(after);
    house.target.discard(&disk, 0..4);
    for chunk in 0..4 {
        let mut left = false;
        eventually("zeroed", || {
            left |= house.place(&disk, chunk).is_none() || meta.has_failed();
            let done = left && house.target.try_zeroes(&disk, chunk, Duration::from_millis(20));
            if left && !done && meta.has_failed() {
                meta.heal();
            }
            done
        });
    }
    let failed = meta.has_failed();
    house.end(false, after, after % 3);
    house.restart();
    house.engine.start_pool(&spec()).unwrap();
    let data = house.lvm.disk(&data_lv(0));
    for chunk in 0..4 {
        let mut first = vec![0; 16];
        if let Some(place) = house.place(&disk, chunk) {
            data.read_at(place.chunk * CHUNK, &mut first).unwrap();
        }
        assert!(first.iter().all(|b| *b == 0), "old data is back in {chunk}, failed after {after}");
    }
    house.check_written(&disk, 4..8);
    house.check_contents();
    house.check();
    failed
}

#[test]
fn acknowledged_zeroes_stay_while_the_metadata_cannot_be_written() {
    let last = each_until_the_last(zero_while_it_fails);
    assert!(last >= 3, "only {last} operations failed");
}

/// Whether the kernel's map of each volume is in the metadata that is on the disk.
fn kernel_has_no_more_than_the_disk(house: &House) -> bool {
    let contents = house.engine.contents(&pool()).unwrap();
    contents.maps().unwrap().into_iter().all(|(row, durable)| {
        let devices = house.target.all();
        let chunks = |run: &crate::alloc::Run| run.at..run.end();
        devices.get(&device_of(row.uuid)).is_none_or(|device| {
            let sent: Vec<_> = device.map.iter().flat_map(|run| chunks(&run)).collect();
            sent.into_iter().all(|chunk| device.map.place(chunk) == durable.place(chunk))
        })
    })
}

#[test]
fn a_mapping_that_could_not_be_made_durable_is_not_sent() {
    let refused = each_until_the_last(|after| {
        let house = House::with_data(64);
        let disk = house.create("disk0", 8);
        let meta = house.lvm.disk(META_LV);
        meta.fail_after(after);
        let allocated = house.engine.allocate_volume(&pool(), &disk.name);
        assert!(kernel_has_no_more_than_the_disk(&house), "the metadata failed after {after}");
        if let Err(error) = allocated {
            let sentence = error.to_string();
            assert!(sentence.contains("the disk fails"), "{sentence}");
        }
        let failed = meta.has_failed();
        meta.heal();
        assert!(house.write(&device_of(disk.uuid), 31));
        assert!(kernel_has_no_more_than_the_disk(&house), "the metadata failed after {after}");
        failed
    });
    assert!(refused > 4, "only {refused} operations failed");
}

#[test]
fn a_pool_that_cannot_stop_sends_only_what_is_durable() {
    let house = House::with_data(64);
    let (first, second) = (house.create("first", 8), house.create("second", 8));
    let device = device_of(first.uuid);
    house.target.change(&device_of(second.uuid), |device| device.contended = true);
    let shared = house.engine.started(&pool()).unwrap();
    eventually("the headroom is there", || shared.core().free.clean() >= 16);
    let meta = house.lvm.disk(META_LV);
    {
        // Nobody else's commit is the one that fails.
        let mut core = shared.core();
        meta.fail_after(0);
        let id = core.find(&first.name).unwrap();
        core.preallocate(id, &(0..16), 16).unwrap_err();
        assert_eq!(core.shown(id), 0, "what was staged is dropped");
        assert!(core.free.clean() >= 16, "and free as before");
    }
    let refused = house.engine.stop_pool(&pool()).unwrap_err();
    assert!(matches!(refused, BackendError::VolumeInUse(_)), "{refused}");
    assert!(kernel_has_no_more_than_the_disk(&house));
    meta.heal();
    eventually("it has its device again", || house.target.has(&device));
    assert!(house.write(&device, 3));
    assert!(kernel_has_no_more_than_the_disk(&house));
    house.check();
}
