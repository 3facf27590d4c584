// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's hook, `hooks/qemu`, as libvirt runs it: for which guests it asks virtnotifyd, and what it says when the
//! answer is no. The storage is the daemon's own, over a backend in memory.

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;
use virtnotify_model::Event;
use virtnotifyd::fake::FakeStorage;

/// virtnotifyd with a pool `vms` that is not started, which has the volumes `disk0` and `a.b`.
struct Daemon {
    directory: TempDir,
    storage: FakeStorage,
    events: Receiver<Event>,
}

impl Daemon {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let storage = FakeStorage::new(directory.path(), "");
        storage.create("a.b");
        storage.local.driver.destroy(&storage.pool).unwrap();
        let events = storage.events.subscribe();
        let daemon = Self { directory, storage, events };
        let _ = daemon.storage.serve(&daemon.socket());
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("storage.sock")
    }

    fn has_started(&self) -> bool {
        !self.storage.local.driver.list(|pool| pool.active).is_empty()
    }

    /// The guests of which a warning was told, and what it says.
    fn warnings(&mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .filter_map(|event| match event {
                Event::Warning { domain, what } => Some((domain, what)),
                _ => None,
            })
            .collect()
    }
}

/// What the hook did.
struct Outcome {
    succeeded: bool,
    stdout: String,
    stderr: String,
}

/// Runs the hook with these words of libvirt's and a guest's XML.
fn run(words: [&str; 3], xml: &str, socket: &Path) -> Outcome {
    let directory = TempDir::new().unwrap();
    let mut child = Command::new("sh")
        .arg(installed(directory.path(), socket))
        .args(words)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A hook that does not need the XML ends before it has read it.
    let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        succeeded: output.status.success(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The hook, with the program that was built in the place of the installed one.
fn installed(directory: &Path, socket: &Path) -> PathBuf {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hooks/qemu"));
    let text = text.unwrap();
    let (place, asks) = ("program=/usr/bin/virt-notify\n", "\"$program\" hook --");
    assert!(text.contains(place) && text.contains(asks));
    let built = format!("program={}\n", env!("CARGO_BIN_EXE_virt-notify"));
    let there = format!("\"$program\" hook --storage '{}' --", socket.display());
    let hook = directory.join("qemu");
    fs::write(&hook, text.replace(place, &built).replace(asks, &there)).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    hook
}

fn guest(disks: &str) -> String {
    format!("<domain type='kvm'><name>guest</name><devices>{disks}</devices></domain>")
}

const OURS: &str = "<disk type='volume'><driver cache='none'/><source pool='vms' volume='disk0'/></disk>\
                    <disk type='block'><source dev='/dev/notify/vms/a.b'/></disk>";
const OTHERS: &str = "<disk type='block'><source dev='/dev/vg0/lv'/></disk>";

#[test]
fn volumes_are_made_active_before_a_guest_starts_or_comes() {
    for operation in ["prepare", "migrate"] {
        let mut daemon = Daemon::start();
        let xml = guest(&format!("{OTHERS}{OURS}"));
        let outcome = run(["guest", operation, "begin"], &xml, &daemon.socket());
        assert!(outcome.succeeded, "{}", outcome.stderr);
        assert!(daemon.has_started());
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
        let warnings = daemon.warnings();
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].0, "guest");
        assert!(warnings[0].1.starts_with("its disk on /dev/notify/vms/a.b has neither"));
    }
}

#[test]
fn a_name_never_becomes_an_option_or_a_command() {
    let directory = TempDir::new().unwrap();
    let mark = directory.path().join("mark");
    let touch = format!("--address=unixexec:path=/usr/bin/touch,argv1={}", mark.display());
    let shell = format!("$(touch {0}); touch {0}", mark.display());
    let mut daemon = Daemon::start();
    for name in [
        touch.as_str(),
        &shell,
        "--help",
        "-h",
        "--",
        "-",
        "a b",
        "a\nb",
        "--json",
        "-H",
        "%s",
        "--storage",
        "--storage=/nowhere",
    ] {
        let outcome = run([name, "prepare", "begin"], &guest(OURS), &daemon.socket());
        assert!(outcome.succeeded, "{name:?}: {}", outcome.stderr);
        assert_eq!(daemon.warnings()[0].0, name);
        assert_eq!(outcome.stdout, "", "{name:?}");
    }
    assert!(!mark.exists());
}

#[test]
fn other_guests_and_operations_are_not_asked_about() {
    let daemon = Daemon::start();
    let named = "<disk type='volume'><source pool='default' volume='x.qcow2'/></disk>";
    for socket in [daemon.socket(), "/nowhere/storage.sock".into()] {
        for xml in [guest(OTHERS), guest(named), String::new()] {
            let outcome = run(["guest", "prepare", "begin"], &xml, &socket);
            assert!(outcome.succeeded, "{}", outcome.stderr);
        }
        for [operation, part] in
            [["start", "begin"], ["started", "begin"], ["stopped", "end"], ["release", "end"]]
        {
            let outcome = run(["guest", operation, part], &guest(OURS), &socket);
            assert!(outcome.succeeded, "{operation}: {}", outcome.stderr);
        }
    }
    assert!(!daemon.has_started());
}

#[test]
fn a_refusal_is_said_and_stops_the_start() {
    let daemon = Daemon::start();
    let gone = guest("<disk><source dev='/dev/notify/gone/disk0'/></disk>");
    let outcome = run(["gu\nest", "prepare", "begin"], &gone, &daemon.socket());
    assert!(!outcome.succeeded);
    assert_eq!(
        outcome.stderr,
        "virt-notify: the volumes of the guest 'gu\\nest' cannot be made active: \
         no storage pool with matching name 'gone'\n"
    );
    assert_eq!(outcome.stdout, "");
    let broken = run(["guest", "prepare", "begin"], "<domain>", &daemon.socket());
    assert!(!broken.succeeded);
    assert!(broken.stderr.contains("cannot be read from its XML"), "{}", broken.stderr);
}

#[test]
fn a_daemon_that_does_not_run_stops_the_start_after_a_while() {
    let outcome = run(["guest", "prepare", "begin"], &guest(OURS), Path::new("/nowhere/x"));
    assert!(!outcome.succeeded);
    assert!(outcome.stderr.contains("does not run"), "{}", outcome.stderr);
}

#[test]
fn hundreds_of_disks_are_one_question() {
    let mut daemon = Daemon::start();
    let disks: String = (0..300)
        .map(|n| format!("<disk type='block'><source dev='/dev/notify/vms/d{n}'/></disk>"))
        .collect();
    let xml = guest(&(disks + OURS));
    let outcome = run(["guest", "prepare", "begin"], &xml, &daemon.socket());
    assert!(outcome.succeeded, "{}", outcome.stderr);
    assert_eq!(daemon.warnings().len(), 1);
}
