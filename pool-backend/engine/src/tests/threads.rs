// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool's thread that dies takes the process with it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use super::*;

/// Says to a test that it runs in a process of its own, which is to die.
const DIES: &str = "VIRTNOTIFY_TEST_DIES";

/// Runs this test again in a process of its own; says by which signal that ended.
fn signal_of(test: &str) -> Option<i32> {
    // One that dies takes away nothing: what it leaves goes with this directory.
    let dir = tempfile::tempdir().unwrap();
    // This very program, also when another one was built in its place meanwhile.
    let mut child = Command::new("/proc/self/exe");
    child.args(["--exact", test, "--nocapture"]).env(DIES, "1").env("TMPDIR", dir.path());
    let ended = child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    ended.signal()
}

fn is_to_die() -> bool {
    std::env::var_os(DIES).is_some()
}

#[test]
fn a_grow_thread_that_panics_ends_the_process() {
    if !is_to_die() {
        let signal = signal_of("tests::threads::a_grow_thread_that_panics_ends_the_process");
        return assert_eq!(signal, Some(nix::libc::SIGABRT));
    }
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    house.target.before("map", |_, _, _| panic!("a fault in the grow thread"));
    house.target.try_write(&disk, 1, Duration::from_secs(20));
}

#[test]
fn a_headroom_thread_that_panics_ends_the_process() {
    if !is_to_die() {
        let signal = signal_of("tests::threads::a_headroom_thread_that_panics_ends_the_process");
        return assert_eq!(signal, Some(nix::libc::SIGABRT));
    }
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    assert!(house.write(&disk, 1));
    house.target.before("leave", |_, _, _| panic!("a fault in the headroom thread"));
    house.target.discard(&disk, 1..2);
    std::thread::sleep(Duration::from_secs(20));
}

#[test]
fn a_grow_thread_that_is_stuck_is_silent() {
    let house = House::started(64);
    let disk = device_of(house.create("disk0", 16).uuid);
    assert!(house.write(&disk, 1));
    let (go, held) = std::sync::mpsc::channel::<()>();
    house.target.before("map", move |_, _, _| held.recv().unwrap_or_default());
    assert_eq!(house.target.try_write(&disk, 9, Duration::from_millis(300)), None);
    let silent = || house.engine.silent(Duration::from_millis(200));
    assert_eq!(silent().into_keys().collect::<Vec<_>>(), [pool()]);
    drop(go);
    assert!(house.write(&disk, 9));
    eventually("it has nothing to do", || silent().is_empty());
}
