// SPDX-License-Identifier: LGPL-2.1-or-later
//! Several clients at once.

use std::thread;

use virtnotify_model::BackendError;
use virtnotify_wire::ErrorCode;

use crate::bench::{Bench, VMS, error, pool_xml, volume_xml};

#[test]
fn questions_are_answered_while_a_pool_starts() {
    let bench = Bench::new();
    let pool = bench.define(VMS).unwrap();
    bench.backend.hold();
    thread::scope(|scope| {
        let start = scope.spawn(|| bench.start(&pool));
        bench.backend.wait_for_held(1);
        assert!(!bench.is_active(&pool).unwrap());
        assert_eq!(bench.info(&pool).unwrap().state, 0);
        assert_eq!(bench.list(0).unwrap(), ["vms"]);
        bench.define(&pool_xml("other", "vg1", "")).unwrap();
        bench.backend.release();
        start.join().unwrap().unwrap();
    });
    assert!(bench.is_active(&pool).unwrap());
}

#[test]
fn questions_are_answered_while_a_volume_is_made() {
    let (bench, pool) = Bench::with_pool();
    bench.backend.hold();
    thread::scope(|scope| {
        let make = scope.spawn(|| bench.create_volume(&pool, &volume_xml("a", 1)));
        bench.backend.wait_for_held(1);
        assert_eq!(bench.info(&pool).unwrap().state, 2);
        assert!(bench.volumes(&pool).unwrap().is_empty());
        bench.backend.release();
        make.join().unwrap().unwrap();
    });
    assert_eq!(bench.volumes(&pool).unwrap(), ["a"]);
}

#[test]
fn a_pool_is_not_stopped_under_a_wipe_and_its_volume_is_left_alone() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    bench.backend.hold();
    thread::scope(|scope| {
        let wipe = scope.spawn(|| bench.wipe(&vol, 0));
        bench.backend.wait_for_held(1);
        let (code, message) = error(bench.destroy(&pool));
        assert_eq!(code, ErrorCode::INTERNAL_ERROR);
        assert_eq!(message, "internal error: pool 'vms' has asynchronous jobs running.");
        let busy = "Requested operation is not valid: volume 'a' is still in use.";
        assert_eq!(error(bench.delete_volume(&vol)).1, busy);
        assert_eq!(error(bench.wipe(&vol, 0)).1, busy);
        assert_eq!(error(bench.resize(&vol, 1 << 20, 0)).1, busy);
        bench.backend.release();
        wipe.join().unwrap().unwrap();
    });
    bench.destroy(&pool).unwrap();
}

/// To give a volume all its space may take hours.
#[test]
fn no_call_waits_for_a_volume_that_is_given_its_space() {
    let (bench, pool) = Bench::with_pool();
    let thin = bench.create_volume(&pool, &volume_xml("thin", 1 << 20)).unwrap();
    let full = "<volume><name>full</name><capacity>1048576</capacity><allocation>1048576</allocation></volume>";
    let make = || bench.create_volume(&pool, full).map(drop);
    let allocate = || bench.resize(&thin, 2 << 20, 1);
    for (volume, long) in [("full", &make as &(dyn Fn() -> _ + Sync)), ("thin", &allocate)] {
        bench.backend.hold();
        thread::scope(|scope| {
            let long = scope.spawn(long);
            bench.backend.wait_for_held(1);
            let (_, message) = error(bench.destroy(&pool));
            assert_eq!(message, "internal error: pool 'vms' has asynchronous jobs running.");
            let busy =
                format!("Requested operation is not valid: volume '{volume}' is still in use.");
            match volume {
                "full" => assert_eq!(error(make()).0, ErrorCode::STORAGE_VOL_EXIST),
                _ => assert_eq!(error(bench.delete_volume(&thin)).1, busy),
            }
            let other = scope
                .spawn(|| bench.create_volume(&pool, &volume_xml(&format!("other-{volume}"), 1)));
            bench.backend.wait_for_held(2);
            bench.backend.release();
            other.join().unwrap().unwrap();
            long.join().unwrap().unwrap();
        });
    }
    assert_eq!(bench.volumes(&pool).unwrap(), ["full", "other-full", "other-thin", "thin"]);
    bench.destroy(&pool).unwrap();
}

#[test]
fn a_stop_waits_for_a_volume_that_is_being_made() {
    let (bench, pool) = Bench::with_pool();
    bench.backend.hold();
    thread::scope(|scope| {
        let make = scope.spawn(|| bench.create_volume(&pool, &volume_xml("a", 1)));
        bench.backend.wait_for_held(1);
        let stop = scope.spawn(|| bench.destroy(&pool));
        bench.backend.release();
        make.join().unwrap().unwrap();
        stop.join().unwrap().unwrap();
    });
    assert!(!bench.is_active(&pool).unwrap());
}

#[test]
fn of_two_definitions_of_one_name_one_wins() {
    let bench = Bench::new();
    let answers: Vec<_> = thread::scope(|scope| {
        let xml = ["vg0", "vg1", "vg2", "vg3"].map(|vg| pool_xml("vms", vg, ""));
        let bench = &bench;
        let threads = xml.map(|xml| scope.spawn(move || bench.define(&xml)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let before = bench.everything();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert_eq!(bench.everything(), before);
}

#[test]
fn of_two_creations_of_one_pool_one_wins() {
    let bench = Bench::new();
    let xml = pool_xml("vms", "vg0", "<uuid>3e3fce454f534fa7b32e11f34168b82b</uuid>");
    bench.backend.hold();
    let pool = thread::scope(|scope| {
        let first = scope.spawn(|| bench.create(&xml));
        bench.backend.wait_for_held(1);
        let (code, message) = error(bench.create(&xml));
        assert_eq!(code, ErrorCode::OPERATION_INVALID);
        assert!(message.ends_with("pool 'vms' is starting up"), "{message}");
        bench.backend.release();
        first.join().unwrap().unwrap()
    });
    assert!(bench.is_active(&pool).unwrap());
}

#[test]
fn a_failing_backend_changes_nothing() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", 1 << 20)).unwrap();
    let before = bench.everything();
    let fail = || bench.backend.fail_next(BackendError::failed("cannot run 'lvs'", "it hangs"));
    let failed =
        (ErrorCode::OPERATION_FAILED, "operation failed: cannot run 'lvs': it hangs".to_owned());
    fail();
    assert_eq!(error(bench.create_volume(&pool, &volume_xml("b", 1))), failed);
    fail();
    assert_eq!(error(bench.delete_volume(&vol)), failed);
    fail();
    assert_eq!(error(bench.resize(&vol, 2 << 20, 0)), failed);
    fail();
    assert_eq!(error(bench.wipe(&vol, 0)), failed);
    fail();
    assert_eq!(error(bench.refresh(&pool)), failed);
    fail();
    assert_eq!(error(bench.destroy(&pool)), failed);
    assert_eq!(bench.everything(), before);
    bench.destroy(&pool).unwrap();
    let before = bench.everything();
    fail();
    assert_eq!(error(bench.start(&pool)), failed);
    fail();
    assert_eq!(error(bench.delete(&pool)), failed);
    assert_eq!(bench.everything(), before);
}
