// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's real daemon and real virsh, with the interposer between them. The daemon
//! runs in a mount namespace where its directories are empty and the host's are safe.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtnotify_driver::fake::FakeBackend;
use virtnotify_driver::{Driver, Paths};
use virtnotify_model::{Bytes, EventBus};
use virtnotify_proxy::{Access, Auth, Config, bind, run};
use virtnotify_remote::server::{bind as bind_storage, serve};
use virtnotify_remote::{Publisher, Remote};

/// The storage daemon alone, and the daemon that has everything in one process.
const DAEMONS: [(&str, &str); 2] =
    [("virtstoraged", "storage:///system"), ("libvirtd", "qemu:///system")];

/// Empty directories over those that a daemon writes to.
const NAMESPACE: &str = "for dir in \"$ETC\" /run /var/lib/libvirt; do \
     mkdir -p \"$dir\"; mount -t tmpfs tmpfs \"$dir\"; done; exec \"$0\" --config \"$1\"";

pub struct Libvirt {
    pub name: &'static str,
    pub backend: Arc<FakeBackend>,
    scheme: &'static str,
    daemon: Child,
    // Ends before the directory goes: calls that it still works on write there.
    _runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    path.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

/// Runs a test with each daemon; all of them must be here.
pub fn each(test: impl Fn(&Libvirt)) {
    assert!(rustix::process::geteuid().is_root(), "libvirt's system daemons need root");
    assert!(program("virsh").is_some(), "there is no virsh here");
    for (name, scheme) in DAEMONS {
        let path = program(name).unwrap_or_else(|| panic!("there is no {name} here"));
        test(&Libvirt::start(name, scheme, &path));
    }
}

/// Where a build of libvirt keeps its configuration: beside its programs, or in `/etc`.
fn configuration(daemon: &Path) -> PathBuf {
    let prefix = daemon.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    if prefix == Path::new("/usr") { "/etc/libvirt".into() } else { prefix.join("etc/libvirt") }
}

impl Libvirt {
    fn start(name: &'static str, scheme: &'static str, path: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("conf");
        let quoted = dir.path().display();
        std::fs::write(&config, format!("unix_sock_dir = \"{quoted}\"\n")).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        // It ends with the test, however that ends.
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-ec", NAMESPACE])
            .args([path, &config])
            .env("ETC", configuration(path))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let backend = FakeBackend::new()
            .with_group(&"vg0".parse().unwrap(), Bytes::mib(4096))
            .with_devices(dir.path().join("dev"));
        let backend = Arc::new(backend);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut libvirt = Libvirt { name, dir, backend, scheme, daemon, _runtime: runtime };
        libvirt.wait_for_daemon();
        libvirt.interpose();
        libvirt
    }

    fn upstream(&self, suffix: &str) -> PathBuf {
        let stem = if self.name == "libvirtd" { "libvirt" } else { self.name };
        self.dir.path().join(format!("{stem}-sock{suffix}"))
    }

    fn wait_for_daemon(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while std::os::unix::net::UnixStream::connect(self.upstream("-ro")).is_err() {
            let ended = self.daemon.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(ended.is_none(), "{} does not start: {ended:?}: {}", self.name, log());
            assert!(Instant::now() < deadline, "{} does not listen: {}", self.name, log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn interpose(&self) {
        let at = |name: &str| self.dir.path().join(name);
        let paths = Paths { definitions: at("pools"), state: at("state") };
        let (driver, problems) = Driver::open(paths, Arc::clone(&self.backend) as Arc<_>);
        assert_eq!(problems, [""; 0]);
        let driver = Arc::new(driver);
        let mut config = Config::new(self.upstream(""), self.upstream("-ro"));
        config.rw.auth = Auth::None;
        config.ro.auth = Auth::None;
        let _inside = self._runtime.enter();
        let listeners = vec![
            bind(&at("ours"), Access::ReadWrite, 0o600).unwrap(),
            bind(&at("ours-ro"), Access::ReadOnly, 0o600).unwrap(),
        ];
        // As in the programs: the driver answers from behind a socket of its own.
        let storage = bind_storage(&at("storage")).unwrap();
        let (served, events) = (Arc::clone(&driver), EventBus::new());
        let backend = Arc::clone(&self.backend);
        let local = virtnotifyd::fake::local(served.clone(), backend, self.dir.path(), &events);
        let publisher = Publisher::new(Arc::new(local), &events);
        std::thread::spawn(move || serve(&storage, served, publisher));
        let service = Remote::start(&at("storage"), Vec::new());
        self._runtime.spawn(run(config, listeners, service, std::future::pending()));
        assert_eq!(driver.start_pools(), [""; 0]);
    }

    /// How a client of libvirt names that socket.
    pub fn uri(&self, socket: &str) -> String {
        format!("{}?socket={}", self.scheme, self.dir.path().join(socket).display())
    }

    fn run(&self, flags: &[&str], socket: &str, command: &str) -> Said {
        let output = Command::new("virsh")
            .args(flags)
            .args(["-c", &self.uri(socket), command])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        Said { ok: output.status.success(), out, err }
    }

    /// A command, or several with semicolons, that must work.
    pub fn virsh(&self, command: &str) -> String {
        let said = self.run(&[], "ours", command);
        assert!(said.ok, "{}: {command}: {said:?}", self.name);
        said.out
    }

    /// A command that must not work; what it said.
    pub fn fails(&self, command: &str) -> String {
        let said = self.run(&[], "ours", command);
        assert!(!said.ok, "{}: {command}: {said:?}", self.name);
        said.err
    }

    /// The same past the interposer.
    pub fn directly(&self, command: &str) -> Said {
        let socket = self.upstream("");
        self.run(&[], &socket.file_name().unwrap().to_string_lossy(), command)
    }

    /// The same on the read-only socket.
    pub fn read_only(&self, command: &str) -> Said {
        self.run(&["-r"], "ours-ro", command)
    }

    /// A command that goes on; its output comes when it is waited for.
    pub fn spawn(&self, command: &str) -> Child {
        // virsh keeps its lines back when nobody reads them on a terminal.
        Command::new("stdbuf")
            .args(["-oL", "virsh", "-c", &self.uri("ours"), command])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
