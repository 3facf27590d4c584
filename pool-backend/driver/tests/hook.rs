// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's hook, `hooks/qemu`: which guests it asks the daemon about, what it asks, and
//! what it says when the answer is no. A program in the place of `busctl` stands for the bus.

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What the hook did.
struct Outcome {
    succeeded: bool,
    /// What it asked the bus, word by word.
    asked: Option<Vec<String>>,
    stdout: String,
    stderr: String,
}

/// Runs the hook with a `busctl` that notes its words and then runs `answer`.
fn run(operation: [&str; 2], xml: &str, answer: &str) -> Outcome {
    let directory = TempDir::new().unwrap();
    let words = directory.path().join("words");
    let busctl = directory.path().join("busctl");
    let stub = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >'{}'\n{answer}\n", words.display());
    fs::write(&busctl, stub).unwrap();
    fs::set_permissions(&busctl, fs::Permissions::from_mode(0o755)).unwrap();
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hooks/qemu");
    let text = fs::read_to_string(hook).unwrap();
    let path = format!("export PATH={}:", directory.path().display());
    assert!(text.contains("export PATH="));
    let copy = directory.path().join("qemu");
    fs::write(&copy, text.replace("export PATH=", &path)).unwrap();
    let mut child = Command::new("sh")
        .arg(&copy)
        .arg("guest")
        .args(operation)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A hook that does not need the XML does not read it.
    let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        succeeded: output.status.success(),
        asked: fs::read_to_string(&words)
            .ok()
            .map(|words| words.lines().map(str::to_owned).collect()),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A guest as libvirt prints it.
fn guest(disks: &str) -> String {
    format!(
        "<domain type='kvm' id='1'>
  <name>guest</name>
  <description>text &lt;disk>&lt;source dev='/dev/notify/x/y'/></description>
  <metadata>
    <app:x xmlns:app=\"http://example.org\"><disk><source dev='/dev/notify/meta/data'/></disk>
    <metadata/><source pool='meta' volume='data'/></app:x>
  </metadata>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{disks}
    <interface type='direct'>
      <source dev='/dev/notify/not/adisk' mode='bridge'/>
    </interface>
  </devices>
</domain>
"
    )
}

const OURS: &str = "    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source pool='vms' volume='disk0'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev='/dev/notify/vms/a.b-c+d_e' index='2'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <target dev='vdb' bus='virtio'/>
    </disk>";

const OTHERS: &str = "    <disk type='file' device='cdrom'>
      <source file='/dev/notify/vms/file'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev='/dev/vg0/lv'/>
    </disk>
    <disk type='block' device='disk'>
      <source dev='/dev/notify/vms/$(touch x)'/>
    </disk>
    <disk type='volume' device='disk'>
      <source pool='-x' volume='a b'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
    </disk>";

/// The guest, its disks of ours, and those of them that go through the host's page cache.
fn asked(disks: &[&str], cached: &[&str]) -> Vec<String> {
    let call = ["--system", "--timeout=20", "call", "org.virtnotify1", "/org/virtnotify1"];
    let method = ["org.virtnotify1.Manager", "GuestStarts", "sasas", "guest"];
    let mut words: Vec<String> = call.iter().chain(&method).map(|&word| word.to_owned()).collect();
    for list in [disks, cached] {
        words.push(list.len().to_string());
        words.extend(list.iter().map(|&disk| disk.to_owned()));
    }
    words
}

#[test]
fn volumes_are_made_active_before_a_guest_starts_or_comes() {
    for operation in [["prepare", "begin"], ["migrate", "begin"]] {
        let outcome = run(operation, &guest(&format!("{OTHERS}\n{OURS}")), "echo b true");
        assert!(outcome.succeeded, "{}", outcome.stderr);
        let disks = ["vms/disk0", "/dev/notify/vms/a.b-c+d_e"];
        assert_eq!(outcome.asked, Some(asked(&disks, &disks[1..])));
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    }
}

#[test]
fn other_guests_and_operations_are_not_asked_about() {
    let outcome = run(["prepare", "begin"], &guest(OTHERS), "exit 1");
    assert!(outcome.succeeded && outcome.asked.is_none(), "{:?}", outcome.asked);
    let outcome = run(["prepare", "begin"], "", "exit 1");
    assert!(outcome.succeeded && outcome.asked.is_none());
    for operation in
        [["start", "begin"], ["started", "begin"], ["stopped", "end"], ["release", "end"]]
    {
        let outcome = run(operation, &guest(OURS), "exit 1");
        assert!(outcome.succeeded && outcome.asked.is_none(), "{operation:?}");
    }
}

#[test]
fn a_refusal_is_said_and_stops_the_start() {
    let answer = "echo \"Call failed: no storage vol with matching name 'disk0'\" >&2; exit 1";
    let outcome = run(["prepare", "begin"], &guest(OURS), answer);
    assert!(!outcome.succeeded);
    assert_eq!(
        outcome.stderr,
        "virtnotify: the volumes of the guest 'guest' cannot be made active: Call failed: no \
         storage vol with matching name 'disk0'\n"
    );
    assert_eq!(outcome.stdout, "");
    for (why, said) in [
        ("The name x was not provided by any .service files", "virtnotifyd is not running"),
        (
            "Message recipient disconnected from message bus without replying",
            "virtnotifyd ended before it answered; try it again",
        ),
    ] {
        let answer = format!("echo 'Call failed: {why}'; exit 1");
        let outcome = run(["prepare", "begin"], &guest(OURS), &answer);
        assert!(!outcome.succeeded);
        assert!(outcome.stderr.ends_with(&format!("made active: {said}\n")), "{}", outcome.stderr);
    }
    let outcome = run(["prepare", "begin"], &guest(OURS), "exit 124");
    assert!(outcome.stderr.ends_with("virtnotifyd did not answer within 20 seconds\n"));
}

#[test]
fn hundreds_of_disks_are_one_question() {
    let disks: String = (0..300)
        .map(|n| format!("<disk type='block'><source dev='/dev/notify/vms/d{n}'/></disk>\n"))
        .collect();
    let outcome = run(["prepare", "begin"], &guest(&disks), "");
    assert!(outcome.succeeded);
    assert_eq!(outcome.asked.unwrap().len(), 11 + 2 * 300);
}
