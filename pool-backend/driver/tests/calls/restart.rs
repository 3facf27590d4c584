// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon is killed, and another one takes over.

use virtnotify_model::BackendError;
use virtnotify_wire::ErrorCode;

use crate::bench::{Bench, VMS, error, pool_xml, volume_xml};

#[test]
fn what_was_active_is_active_again() {
    let (bench, pool) = Bench::with_pool();
    bench.define(&pool_xml("other", "vg1", "")).unwrap();
    bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    let before = bench.everything();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert_eq!(bench.everything(), before);
    assert_eq!(bench.list(2).unwrap(), ["vms"]);
    assert_eq!(error(bench.start(&pool)).0, ErrorCode::OPERATION_INVALID);
}

#[test]
fn who_asks_while_a_pool_is_taken_up_waits_for_it() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    let bench = bench.killed();
    bench.backend.hold();
    // These do not wait.
    assert!(bench.is_active(&pool).unwrap());
    assert_eq!(bench.list(2).unwrap(), ["vms"]);
    assert_eq!(bench.info(&pool).unwrap().state, 1);
    std::thread::scope(|scope| {
        let start = scope.spawn(|| bench.driver.start_pools());
        let sizes = scope.spawn(|| bench.sizes(&vol));
        let create = scope.spawn(|| bench.create_volume(&pool, &volume_xml("b", 1)));
        let path = scope.spawn(|| bench.driver.volume_by_path("/dev/notify/vms/a"));
        let active = scope.spawn(|| bench.driver.ensure_active("/dev/notify/vms/a"));
        bench.backend.wait_for_held(1);
        bench.backend.release();
        assert!(start.join().unwrap().is_empty());
        sizes.join().unwrap().unwrap();
        create.join().unwrap().unwrap();
        path.join().unwrap().unwrap();
        assert!(active.join().unwrap().unwrap().is_some());
    });
    assert_eq!(bench.info(&pool).unwrap().state, 2);
}

#[test]
fn a_transient_pool_survives_the_daemon_and_not_a_reboot() {
    let bench = Bench::new();
    let pool = bench.create(VMS).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(bench.is_active(&pool).unwrap());
    assert!(!bench.is_persistent(&pool).unwrap());
    std::fs::remove_dir_all(bench.directory.path().join("run")).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(bench.list(0).unwrap().is_empty());
}

#[test]
fn what_was_stopped_stays_stopped() {
    let (bench, pool) = Bench::with_pool();
    bench.set_autostart(&pool, true).unwrap();
    bench.destroy(&pool).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(!bench.is_active(&pool).unwrap());
    // After a reboot it starts by itself.
    std::fs::remove_dir_all(bench.directory.path().join("run")).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(bench.is_active(&pool).unwrap());
}

#[test]
fn a_start_that_was_killed_is_completed() {
    let bench = Bench::new();
    let pool = bench.define(VMS).unwrap();
    // Killed between the run state and the backend: the state of the other tests' pool.
    let text = std::fs::read_to_string(bench.directory.path().join("etc/vms.xml")).unwrap();
    std::fs::write(bench.directory.path().join("run/vms.xml"), text).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(bench.is_active(&pool).unwrap());
}

#[test]
fn what_was_defined_anew_while_active_waits_for_the_stop() {
    let (bench, pool) = Bench::with_pool();
    let uuid = format!("<uuid>{}</uuid>", pool.uuid);
    bench.define(&pool_xml("vms", "vg1", &uuid)).unwrap();
    let before = bench.everything();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert_eq!(bench.everything(), before);
    bench.destroy(&pool).unwrap();
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    bench.define(&pool_xml("free", "vg0", "")).unwrap();
}

#[test]
fn a_missing_volume_group_is_said_and_tried_again() {
    let (bench, pool) = Bench::with_pool();
    let vg = "vg0".parse().unwrap();
    bench.backend.stop();
    bench.backend.remove_group(&vg);
    let bench = bench.killed();
    let problems = bench.driver.start_pools();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("'vms'") && problems[0].contains("'vg0'"), "{problems:?}");
    assert!(!bench.is_active(&pool).unwrap());
    assert_eq!(bench.driver.retry_pools(), problems);
    bench.backend.add_group(&vg, virtnotify_model::Bytes::mib(64));
    assert!(bench.driver.retry_pools().is_empty());
    assert!(bench.is_active(&pool).unwrap());
    // Once it is active it is what it was: stopped for good when it is stopped.
    bench.destroy(&pool).unwrap();
    assert!(bench.driver.retry_pools().is_empty());
    assert!(!bench.is_active(&pool).unwrap());
}

#[test]
fn a_damaged_pool_is_left_to_a_person() {
    let (bench, pool) = Bench::with_pool();
    bench.backend.stop();
    let bench = bench.killed();
    let (pool_name, what) = ("vms".to_owned(), "a page is wrong".to_owned());
    bench.backend.fail_next(BackendError::Damaged { pool: pool_name, what });
    assert_eq!(bench.driver.start_pools().len(), 1);
    assert!(bench.driver.retry_pools().is_empty());
    assert!(!bench.is_active(&pool).unwrap());
    bench.start(&pool).unwrap();
}

#[test]
fn a_pool_that_is_tried_again_can_be_given_up() {
    let (bench, pool) = Bench::with_pool();
    let vg = "vg0".parse().unwrap();
    bench.backend.stop();
    bench.backend.remove_group(&vg);
    let bench = bench.killed();
    assert_eq!(bench.driver.start_pools().len(), 1);
    bench.destroy(&pool).unwrap();
    assert!(bench.destroy(&pool).is_err(), "it is not active");
    bench.backend.add_group(&vg, virtnotify_model::Bytes::mib(64));
    assert!(bench.driver.retry_pools().is_empty());
    assert!(!bench.is_active(&pool).unwrap());
    let bench = bench.killed();
    assert!(bench.driver.start_pools().is_empty());
    assert!(!bench.is_active(&pool).unwrap());
}

#[test]
fn a_damaged_definition_is_named_and_the_others_start() {
    let (bench, pool) = Bench::with_pool();
    let etc = bench.directory.path().join("etc");
    std::fs::write(etc.join("broken.xml"), "<pool type='notify'><name>bro").unwrap();
    std::fs::write(etc.join("twin.xml"), pool_xml("twin", "vg0", "")).unwrap();
    let (bench, problems) = Bench::with_problems(bench.directory, bench.backend);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("broken.xml"), "{problems:?}");
    assert!(problems[1].contains("'twin'") && problems[1].contains("'vms'"), "{problems:?}");
    assert!(bench.driver.start_pools().is_empty());
    assert!(bench.is_active(&pool).unwrap());
}

#[test]
fn a_definition_that_cannot_be_stored_is_no_definition() {
    let bench = Bench::new();
    std::fs::write(bench.directory.path().join("etc"), "in the way").unwrap();
    let (code, message) = error(bench.define(VMS));
    assert_eq!(code, ErrorCode::SYSTEM_ERROR);
    assert!(message.contains("/etc"), "{message}");
    assert!(bench.list(0).unwrap().is_empty());
    assert!(bench.events().is_empty());
}
