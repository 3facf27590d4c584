// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's hook, `hooks/qemu`, as libvirt runs it: which guests it asks the daemon about, what it
//! asks, and what it says when the answer is no. A bus of the test's own has a daemon that notes.

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use zbus::Guid;
use zbus::connection::Builder;

/// What the daemon was asked: guest, volumes, those that are cached.
type Asked = (String, Vec<String>, Vec<String>);

/// The two methods of a bus that the hook needs.
struct Bus {
    has_daemon: bool,
}

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> &'static str {
        ":1.1"
    }

    fn name_has_owner(&self, name: &str) -> bool {
        self.has_daemon && name == "org.virtnotify1"
    }
}

/// Notes what it is asked, and refuses when it is told to.
#[derive(Clone, Default)]
struct Daemon {
    asked: Arc<Mutex<Vec<Asked>>>,
    refusal: Option<&'static str>,
}

#[zbus::interface(name = "org.virtnotify1.Manager")]
impl Daemon {
    fn guest_starts(
        &self,
        guest: String,
        paths: Vec<String>,
        cached: Vec<String>,
    ) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push((guest, paths, cached));
        self.refusal.map_or(Ok(()), |why| Err(Refusal::NotFound(why.to_owned())))
    }
}

/// An error as the daemon has it.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.virtnotify1.Error")]
enum Refusal {
    NotFound(String),
}

/// What the hook did.
struct Outcome {
    succeeded: bool,
    asked: Vec<Asked>,
    stdout: String,
    stderr: String,
}

/// Runs the hook with these words of libvirt's and a guest's XML.
async fn run(words: [&str; 3], xml: &str, daemon: Option<Daemon>) -> Outcome {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("bus");
    let listener = UnixListener::bind(&socket).unwrap();
    let noted = daemon.clone().unwrap_or_default();
    let bus = tokio::spawn(serve(listener, daemon));
    let hook = installed(directory.path());
    let (words, xml) = (words.map(str::to_owned), xml.to_owned());
    let place = socket.clone();
    let output = tokio::task::spawn_blocking(move || started(&hook, &words, &xml, &place));
    let output = output.await.unwrap();
    // A hook that asked nothing has not connected: let the listener go.
    let _ = UnixStream::connect(&socket);
    bus.abort();
    let asked = noted.asked.lock().unwrap().clone();
    Outcome {
        succeeded: output.status.success(),
        asked,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The bus, for the one client that the hook can be.
async fn serve(listener: UnixListener, daemon: Option<Daemon>) {
    let accepted = tokio::task::spawn_blocking(move || listener.accept());
    let Ok(Ok((stream, _))) = accepted.await else { return };
    let bus = Bus { has_daemon: daemon.is_some() };
    let client = Builder::unix_stream(stream)
        .server(Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/DBus", bus)
        .serve_at("/org/virtnotify1", daemon.unwrap_or_default());
    let _client = client.build().await.unwrap();
    std::future::pending::<()>().await;
}

/// The hook, with the program that was built in the place of the installed one.
fn installed(directory: &Path) -> std::path::PathBuf {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hooks/qemu"));
    let text = text.unwrap();
    let place = "program=/usr/bin/virt-notify\n";
    assert!(text.contains(place));
    let built = format!("program={}\n", env!("CARGO_BIN_EXE_virt-notify"));
    let hook = directory.join("qemu");
    fs::write(&hook, text.replace(place, &built)).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    hook
}

fn started(hook: &Path, words: &[String], xml: &str, bus: &Path) -> Output {
    let mut child = Command::new("sh")
        .arg(hook)
        .args(words)
        .arg("-")
        .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bus.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A hook that does not need the XML ends before it has read it.
    let _ = child.stdin.take().unwrap().write_all(xml.as_bytes());
    child.wait_with_output().unwrap()
}

fn guest(disks: &str) -> String {
    format!("<domain type='kvm'><name>guest</name><devices>{disks}</devices></domain>")
}

const OURS: &str = "<disk type='volume'><driver cache='none'/><source pool='vms' volume='disk0'/></disk>\
                    <disk type='block'><source dev='/dev/notify/vms/a.b'/></disk>";
const OTHERS: &str = "<disk type='block'><source dev='/dev/vg0/lv'/></disk>";

fn asked(guest: &str) -> Asked {
    let volumes = ["vms/disk0", "/dev/notify/vms/a.b"].map(str::to_owned);
    (guest.to_owned(), volumes.to_vec(), volumes[1..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_made_active_before_a_guest_starts_or_comes() {
    for operation in ["prepare", "migrate"] {
        let xml = guest(&format!("{OTHERS}{OURS}"));
        let outcome = run(["guest", operation, "begin"], &xml, Some(Daemon::default())).await;
        assert!(outcome.succeeded, "{}", outcome.stderr);
        assert_eq!(outcome.asked, [asked("guest")]);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_never_becomes_an_option_or_a_command() {
    let directory = TempDir::new().unwrap();
    let mark = directory.path().join("mark");
    let touch = format!("--address=unixexec:path=/usr/bin/touch,argv1={}", mark.display());
    let shell = format!("$(touch {0}); touch {0}", mark.display());
    let hostile =
        [touch.as_str(), &shell, "--help", "-h", "--", "-", "a b", "a\nb", "--json", "-H", "%s"];
    for name in hostile {
        let outcome = run([name, "prepare", "begin"], &guest(OURS), Some(Daemon::default())).await;
        assert!(outcome.succeeded, "{name:?}: {}", outcome.stderr);
        assert_eq!(outcome.asked, [asked(name)]);
        assert_eq!(outcome.stdout, "", "{name:?}");
    }
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_guests_and_operations_are_not_asked_about() {
    let nobody = || Some(Daemon { refusal: Some("not to be asked"), ..Daemon::default() });
    for xml in [guest(OTHERS), String::new()] {
        let outcome = run(["guest", "prepare", "begin"], &xml, nobody()).await;
        assert!(outcome.succeeded && outcome.asked.is_empty(), "{}", outcome.stderr);
    }
    for [operation, part] in
        [["start", "begin"], ["started", "begin"], ["stopped", "end"], ["release", "end"]]
    {
        let outcome = run(["guest", operation, part], &guest(OURS), nobody()).await;
        assert!(outcome.succeeded && outcome.asked.is_empty(), "{operation}: {}", outcome.stderr);
    }
    // Whether the daemon runs or not.
    let named = "<disk type='volume'><source pool='default' volume='x.qcow2'/></disk>";
    for others in [OTHERS, named] {
        let outcome = run(["guest", "prepare", "begin"], &guest(others), None).await;
        assert!(outcome.succeeded, "{}", outcome.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_said_and_stops_the_start() {
    let refusal = Some("no storage vol with matching name 'disk0'");
    let daemon = Daemon { refusal, ..Daemon::default() };
    let outcome = run(["gu\nest", "prepare", "begin"], &guest(OURS), Some(daemon)).await;
    assert!(!outcome.succeeded);
    assert_eq!(
        outcome.stderr,
        "virt-notify: the volumes of the guest 'gu\\nest' cannot be made active: \
         no storage vol with matching name 'disk0'\n"
    );
    assert_eq!(outcome.stdout, "");
    let outcome = run(["guest", "prepare", "begin"], &guest(OURS), None).await;
    assert!(!outcome.succeeded);
    assert!(outcome.stderr.contains("the daemon does not run"), "{}", outcome.stderr);
    let broken = run(["guest", "prepare", "begin"], "<domain>", None).await;
    assert!(!broken.succeeded);
    assert!(broken.stderr.contains("cannot be read from its XML"), "{}", broken.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_disks_are_one_question() {
    let disks: String = (0..300)
        .map(|n| format!("<disk type='block'><source dev='/dev/notify/vms/d{n}'/></disk>"))
        .collect();
    let outcome = run(["guest", "prepare", "begin"], &guest(&disks), Some(Daemon::default())).await;
    assert!(outcome.succeeded, "{}", outcome.stderr);
    assert_eq!(outcome.asked.len(), 1);
    assert_eq!(outcome.asked[0].1.len(), 300);
}
