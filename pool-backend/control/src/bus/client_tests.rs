// SPDX-License-Identifier: LGPL-2.1-or-later
//! What others' clients make of the objects, on a bus of their own: systemd's `busctl`, and `gdbus` of GLib.

use std::path::Path;
use std::process::{Command, Output};

use virtnotify_model::{Event, PoolName, Pools as _};
use virtnotifyd::fake::FakeStorage;
use zbus::connection::Builder;

use super::listeners::{Ends, bus};
use super::tests::over;
use super::{NAME, Teller, paths};

/// A daemon on a bus, in which this user is root: it may change things without polkit.
struct Stage {
    address: String,
    fake: FakeStorage,
    _bus: Ends,
}

impl Stage {
    async fn new(directory: &Path) -> Self {
        let (bus, address) = bus(directory);
        let fake = FakeStorage::new(directory, "");
        let sources = over(&fake, directory);
        let mut events = fake.events.subscribe();
        let builder = Builder::address(address.as_str());
        let mut teller = Teller::new(builder, &sources).await.unwrap();
        teller.connection.request_name(NAME).await.unwrap();
        tokio::spawn(async move { teller.serve(&mut events).await });
        Self { address, fake, _bus: bus }
    }

    async fn run(&self, program: &'static str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        match program {
            "busctl" => command.arg(format!("--address={}", self.address)).args(words),
            _ => command.args([words[0], "--address", &self.address]).args(&words[1..]),
        };
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// What it prints; it must find nothing strange.
    async fn prints(&self, program: &'static str, words: &[&str]) -> String {
        let output = self.run(program, words).await;
        let strange = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && strange.is_empty(), "{program} {words:?}: {strange}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Calls a method by gdbus, which reads the arguments' types from the introspection.
    async fn call(&self, path: &str, method: &str, args: &[&str]) -> Result<String, String> {
        let method = format!("{NAME}.{method}");
        let words = ["call", "--dest", NAME, "--object-path", path, "--method", &method];
        let output = self.run("gdbus", &[&words[..], args].concat()).await;
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dbus-daemon, busctl and gdbus"]
async fn introspection_is_understood_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path()).await;
    let tree = stage.prints("busctl", &["tree", "--list", NAME]).await;
    let (vms, disk0) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let (pool, volume) = (paths::pool(&vms), paths::volume(&vms, &disk0));
    for path in [paths::ROOT, pool.as_str(), volume.as_str()] {
        assert!(tree.lines().any(|line| line == path), "{tree}");
        let seen = stage.prints("busctl", &["introspect", NAME, path]).await;
        assert!(seen.contains("org.virtnotify1."), "{seen}");
        let words = ["introspect", "--dest", NAME, "--object-path", path];
        let seen = stage.prints("gdbus", &words).await;
        assert!(seen.contains("interface org.virtnotify1."), "{seen}");
    }
    let words = ["introspect", "--dest", NAME, "--object-path", "/", "--recurse"];
    stage.prints("gdbus", &words).await;
    let shown = stage
        .prints("busctl", &["get-property", NAME, &pool, "org.virtnotify1.Pool", "Policy"])
        .await;
    assert!(shown.starts_with("a{sv} 5 ") && shown.contains("\"low-mark\" s \"10%\""), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dbus-daemon and gdbus, and root"]
async fn what_is_changed_is_changed_and_refusals_have_names() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::new(directory.path()).await;
    let (vms, disk0): (PoolName, _) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let (pool, volume) = (paths::pool(&vms), paths::volume(&vms, &disk0));
    let (pool, volume) = (pool.as_str(), volume.as_str());
    let refused = async |path: &str, method: &str, args: &[&str], name: &str| {
        let said = stage.call(path, method, args).await.unwrap_err();
        assert!(said.contains(&format!("org.virtnotify1.Error.{name}: ")), "{method}: {said}");
    };
    let none = "@a{sv} {}";

    let settings = "{'low-mark': <'20%'>, 'overcommit': <1.5>, 'movable': <false>}";
    stage.call(pool, "Pool.SetPolicy", &[settings, none]).await.unwrap();
    let policy = stage.fake.local.policy(&vms).unwrap();
    assert!(!policy.movable);
    for wrong in ["{'lowmark': <'1'>}", "{'movable': <true>, 'low-mark': <'101%'>}", none] {
        refused(pool, "Pool.SetPolicy", &[wrong, none], "InvalidArgument").await;
    }
    let options = "{'force': <true>}";
    refused(pool, "Pool.SetPolicy", &[settings, options], "InvalidArgument").await;
    assert_eq!(stage.fake.local.policy(&vms).unwrap(), policy);

    let made = stage.call(pool, "Pool.CreateVolume", &["new", "8388608", none]).await.unwrap();
    assert_eq!(made, "(objectpath '/org/virtnotify1/volume/vms/new',)");
    refused(pool, "Pool.CreateVolume", &["new", "8388608", none], "AlreadyExists").await;
    refused(pool, "Pool.CreateVolume", &["a/b", "8388608", none], "InvalidArgument").await;
    let all = "{'allocation': <uint64 4294967296>}";
    refused(pool, "Pool.CreateVolume", &["big", "4294967296", all], "NoSpace").await;
    stage.call(volume, "Volume.Clone", &["copy", "{'capacity': <uint64 83886080>}"]).await.unwrap();
    stage.call(volume, "Volume.Resize", &["134217728", none]).await.unwrap();
    refused(volume, "Volume.Resize", &["8388608", none], "InvalidArgument").await;
    stage.call(volume, "Volume.Resize", &["8388608", "{'shrink': <true>}"]).await.unwrap();
    let mib = |name: &str| {
        stage.fake.local.volume(&vms, &name.parse().unwrap()).unwrap().capacity.0 >> 20
    };
    assert_eq!(["new", "copy", "disk0"].map(mib), [8, 80, 8]);

    // They are objects as soon as that is told.
    stage.fake.events.emit(Event::VolumesChanged(vms));
    let copy = "/org/virtnotify1/volume/vms/copy";
    for _ in 0..100 {
        let tree = stage.prints("busctl", &["tree", "--list", NAME]).await;
        if tree.lines().any(|line| line == copy) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    stage.call(copy, "Volume.Resize", &["167772160", none]).await.unwrap();
    assert_eq!(
        stage.call(paths::ROOT, "Manager.RetryNow", &[none]).await.unwrap(),
        "(@a(ssss) [],)"
    );
    let took = ["['vms/disk0']", "mon", none];
    stage.call(paths::ROOT, "Manager.TakeSnapshot", &took).await.unwrap();
    refused(volume, "Volume.Delete", &[none], "InUse").await;
    stage.call(volume, "Volume.Delete", &["{'snapshots': <true>}"]).await.unwrap();
    refused(volume, "Volume.Delete", &[none], "NotFound").await;
    let restore = ["vg0", "backup", "", "@as []", "{'yes': <true>}"];
    refused(paths::ROOT, "Manager.Restore", &restore, "InvalidArgument").await;
}
