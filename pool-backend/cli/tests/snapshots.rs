// SPDX-License-Identifier: LGPL-2.1-or-later
//! `virt-notify snapshot create` of a VM's disks: what is asked of libvirt and of the daemon, and in
//! which order. A bus of the test's own has a daemon that notes, and a script stands for virsh.

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use tempfile::TempDir;
use zbus::connection::Builder;
use zbus::{Guid, OwnedObjectPath, OwnedVariant, Variant};

const XML: &str = "<domain type='kvm'><name>web1</name><devices>\
    <disk type='volume' device='disk'><source pool='vms' volume='a'/><target dev='vda'/></disk>\
    <disk type='block' device='disk'><source dev='/dev/notify/vms/b'/><target dev='vdb'/></disk>\
    <disk type='file' device='disk'><source file='/x'/><target dev='vdc'/></disk>\
    </devices></domain>";

/// What of it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Freeze,
    Thaw,
    Snapshot,
    /// The program is told to end while the guest is frozen.
    Ended,
}

struct Bus;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> &'static str {
        ":1.1"
    }

    fn name_has_owner(&self, name: &str) -> bool {
        name == "org.virtnotify1"
    }
}

/// Properties by interface and name.
type Interfaces = HashMap<String, HashMap<String, OwnedVariant>>;

/// One pool.
struct Objects;

#[zbus::interface(name = "org.freedesktop.DBus.ObjectManager")]
impl Objects {
    fn get_managed_objects(&self) -> HashMap<OwnedObjectPath, Interfaces> {
        let name = Variant::from("vms").try_into().unwrap();
        let pool = HashMap::from([("Name".to_owned(), name)]);
        let interfaces = HashMap::from([("org.virtnotify1.Pool".to_owned(), pool)]);
        HashMap::from([("/org/virtnotify1/pool/vms".try_into().unwrap(), interfaces)])
    }
}

/// Notes what it is asked.
struct Daemon {
    log: PathBuf,
    fault: Fault,
    /// The process of the client, when it runs.
    client: Arc<(Mutex<Option<u32>>, Condvar)>,
}

type Row = (String, String, String, u64, u64, u64, u64);

#[zbus::interface(name = "org.virtnotify1.Manager")]
impl Daemon {
    #[zbus(property)]
    fn drained(&self) -> bool {
        false
    }

    fn take_snapshot(
        &self,
        volumes: Vec<String>,
        name: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<Vec<OwnedObjectPath>, Refusal> {
        assert!(options.is_empty());
        note(&self.log, &format!("take {name} of {}", volumes.join(" ")));
        match self.fault {
            Fault::Snapshot => return Err(Refusal::Failed("no room".to_owned())),
            Fault::Ended => {
                let (client, started) = &*self.client;
                let client = client.lock().unwrap();
                let pid = started.wait_while(client, |pid| pid.is_none()).unwrap().unwrap();
                let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
                assert!(sent.unwrap().success());
            }
            _ => {}
        }
        Ok(Vec::new())
    }

    fn list_snapshots(&self, of: String) -> Vec<Row> {
        let (pool, volume) = of.split_once('/').unwrap();
        let row = |(at, name): (u64, &str)| {
            let uuid = format!("00000000-0000-0000-0000-00000000000{at}");
            (pool.to_owned(), format!("{volume}@{name}"), uuid, at, 1, 1, 1)
        };
        let names = ["d-20260101T000000Z", "other", "d-20260102T000000Z", "d-20260103T000000Z"];
        (1..).zip(names).map(row).collect()
    }

    fn delete_snapshot(&self, snapshot: String, options: HashMap<String, OwnedVariant>) {
        assert!(options.is_empty());
        note(&self.log, &format!("delete {snapshot}"));
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.virtnotify1.Error")]
enum Refusal {
    Failed(String),
}

fn note(log: &Path, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// What stands for virsh: notes what it is asked.
fn virsh(directory: &Path, fault: Fault) {
    let fail = |of: Fault| if of == fault { "echo 'error: no agent' >&2; exit 1" } else { ":" };
    let text = format!(
        "#!/bin/sh\necho \"virsh $*\" >>'{0}/log'\ncase $4 in\n\
         dumpxml) cat '{0}/xml' ;;\ndomfsfreeze) {1} ;;\ndomfsthaw) {2} ;;\nesac\n",
        directory.display(),
        fail(Fault::Freeze),
        fail(Fault::Thaw)
    );
    let path = directory.join("virsh");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("xml"), XML).unwrap();
}

/// What was done, line by line, and how it ended.
async fn run(words: &[&str], fault: Fault) -> (Vec<String>, Output) {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    virsh(directory.path(), fault);
    let listener = UnixListener::bind(at("bus")).unwrap();
    let client = Arc::new((Mutex::new(None), Condvar::new()));
    let daemon = Daemon { log: at("log"), fault, client: client.clone() };
    let bus = tokio::spawn(serve(listener, daemon));
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-notify"));
    command
        .args(["snapshot", "create"])
        .args(words)
        .env("PATH", path)
        .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", at("bus").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let child = command.spawn().unwrap();
        *client.0.lock().unwrap() = Some(child.id());
        client.1.notify_all();
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    // One that asked nothing has not connected: let the listener go.
    let _ = UnixStream::connect(at("bus"));
    bus.abort();
    let log = fs::read_to_string(at("log")).unwrap_or_default();
    (log.lines().map(str::to_owned).collect(), output)
}

async fn serve(listener: UnixListener, daemon: Daemon) {
    let accepted = tokio::task::spawn_blocking(move || listener.accept());
    let Ok(Ok((stream, _))) = accepted.await else { return };
    let client = Builder::unix_stream(stream)
        .server(Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/DBus", Bus)
        .serve_at("/org/virtnotify1", Objects)
        .serve_at("/org/virtnotify1", daemon);
    let _client = client.build().await.unwrap();
    std::future::pending::<()>().await;
}

const DUMP: &str = "virsh --quiet --connect qemu:///system dumpxml --domain web1";
const FREEZE: &str = "virsh --quiet --connect qemu:///system domfsfreeze --domain web1";
const TAKE: &str = "take mon of vms/a vms/b";
const THAW: &str = "virsh --quiet --connect qemu:///system domfsthaw --domain web1";

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_a_vm_are_taken_together() {
    let (log, output) = run(&["mon", "--vm", "web1"], Fault::None).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(log, [DUMP, TAKE]);
    assert_eq!(output.stdout, b"vms/a@mon\nvms/b@mon\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the disk 'vdc' of 'web1' is in no such pool"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_frozen_is_thawed_whatever_happens() {
    let words = ["mon", "--vm", "web1", "--quiesce"];
    for (fault, log, text) in [
        (Fault::None, &[DUMP, FREEZE, TAKE, THAW][..], ""),
        (Fault::Snapshot, &[DUMP, FREEZE, TAKE, THAW], "no room"),
        (Fault::Freeze, &[DUMP, FREEZE, THAW], "'web1' cannot be frozen: no agent"),
        (Fault::Thaw, &[DUMP, FREEZE, TAKE, THAW], "frozen still, 'virsh domfsthaw'"),
        (Fault::Ended, &[DUMP, FREEZE, TAKE, THAW], ""),
    ] {
        let (done, output) = run(&words, fault).await;
        assert_eq!(done, log, "{fault:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(text), "{fault:?}: {said}");
        assert_eq!(output.status.success(), text.is_empty(), "{fault:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_keeps_its_newest() {
    let (log, output) = run(&["d", "vms/a", "--keep", "2", "--json"], Fault::None).await;
    assert!(output.status.success(), "{output:?}");
    let taken = log[0].strip_prefix("take d-").unwrap().strip_suffix("Z of vms/a").unwrap();
    assert_eq!(taken.len(), "20260101T000000".len(), "{taken}");
    assert_eq!(log[1..], ["delete vms/a@d-20260101T000000Z"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("\"deleted\": [\n    \"vms/a@d-20260101T000000Z\""), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_vm_is_no_option() {
    let (log, _) = run(&["mon", "--vm=--help"], Fault::None).await;
    assert_eq!(log[0], "virsh --quiet --connect qemu:///system dumpxml --domain --help");
}
