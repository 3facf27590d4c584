// SPDX-License-Identifier: LGPL-2.1-or-later
//! The listeners that `docs/developer/dbus.md` shows, each on a bus of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use virtnotify_model::{Bytes, Event};
use zbus::connection::Builder;

use super::tests::sources;
use super::{NAME, Teller};

/// A process that ends with the test.
pub struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bus that lets everybody do everything, and its address.
pub fn bus(directory: &Path) -> (Ends, String) {
    let address = format!("unix:path={}", directory.join("bus").display());
    let config = directory.join("bus.conf");
    let text = format!(
        "<busconfig><type>session</type><listen>{address}</listen><policy context='default'>\
         <allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/>\
         </policy></busconfig>"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("dbus-daemon");
    command.arg("--config-file").arg(config).args(["--nofork", "--print-address"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Ends(child), address)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/developer/examples")
}

/// Runs a listener, and sees a growth in what it prints.
async fn hears(mut command: Command, address: &str) {
    let directory = tempfile::tempdir().unwrap();
    let sources = sources(directory.path());
    let mut teller = Teller::new(Builder::address(address), &sources).await.unwrap();
    teller.connection.request_name(NAME).await.unwrap();
    let mut listener = Ends(command.stdout(Stdio::piped()).spawn().unwrap());
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(listener.0.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut heard = Vec::new();
    // It says nothing when it has begun to listen, so the growth is told until it is heard.
    for n in 1..=300u64 {
        let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
        let (by, allocation, capacity) = (Bytes(1), Bytes(1_000_000 + n), Bytes(2_000_000));
        teller.take(Event::VolumeGrown { pool, volume, by, allocation, capacity }).await.unwrap();
        teller.tell(None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        heard.extend(lines.try_iter());
        if heard.iter().any(|line| line.contains("vms/disk0") && line.contains("1000")) {
            return;
        }
    }
    panic!("{command:?} heard {heard:?} only");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dbus-daemon and Python's D-Bus bindings"]
async fn the_listener_in_python_hears() {
    let directory = tempfile::tempdir().unwrap();
    let (_bus, address) = bus(directory.path());
    let mut command = Command::new("/usr/bin/python3");
    command.arg(docs().join("listen.py")).arg(&address);
    hears(command, &address).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dbus-daemon, busctl and jq"]
async fn the_listener_in_a_shell_hears() {
    let directory = tempfile::tempdir().unwrap();
    let (_bus, address) = bus(directory.path());
    let mut command = Command::new("sh");
    command.arg(docs().join("listen.sh")).arg(format!("--address={address}"));
    hears(command, &address).await;
}

/// `cargo test` builds the example, `cargo test --bin` does not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dbus-daemon"]
async fn the_listener_in_rust_hears() {
    let directory = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let program = program.parent().and_then(Path::parent).unwrap().join("examples/listen");
    let (_bus, address) = bus(directory.path());
    let mut command = Command::new(program);
    command.arg(&address);
    hears(command, &address).await;
}
