// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask sim`: the product on a host in memory, on a D-Bus of its own.
//!
//! The daemons and the command are the real ones; LVM, the device mapper and the guests are those of the engine's
//! tests (`virtnotifyd --sim`), and the VMs those of libvirt's test driver. Nothing of it needs root or outlives this.

pub mod scenario;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::proc::{self, Proc, ScratchDir};
use crate::{target, ui};

/// How long a daemon may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How often it is looked whether one has ended that is not ready yet.
const LOOK: Duration = Duration::from_millis(200);
/// The time from one write of the load to the next.
const PACE: Duration = Duration::from_millis(500);
/// The disks that it fills, and how large they are.
const DISKS: [&str; 2] = ["vms/disk0", "vms/disk1"];
const DISK_MIB: u32 = 128;

#[derive(Args)]
pub struct SimArgs {
    /// Have guests write 2 MiB a second, until the pool is full
    #[arg(long)]
    load: bool,
}

/// Runs it until Ctrl-C, or until a part of it ends.
pub fn run(args: &SimArgs) -> Result<i32> {
    let sim = Sim::start()?;
    println!("{}", sim.words());
    let (tell, told) = channel();
    for (name, process) in &sim.processes {
        let (name, pid, tell) = (*name, process.pid(), tell.clone());
        std::thread::spawn(move || {
            proc::wait_unreaped(pid);
            let _ = tell.send(format!("{name} has ended"));
        });
    }
    if args.load {
        let (guests, tell) = (sim.guests(), tell.clone());
        std::thread::spawn(move || load(&guests, &tell));
    }
    let ended = told.recv()?;
    proc::give_way_to_signal();
    bail!("{ended}{}", sim.last_words());
}

/// A host in memory.
struct Sim {
    /// They end before their directory goes.
    processes: Vec<(&'static str, Proc)>,
    dir: ScratchDir,
    programs: PathBuf,
}

impl Sim {
    /// Builds and starts it.
    fn start() -> Result<Self> {
        let programs = build()?;
        let dir = ScratchDir::new(&std::env::temp_dir(), "virtnotify-sim.")?;
        let mut sim = Self { processes: Vec::new(), dir, programs };
        sim.start_bus()?;
        let host = sim.host();
        let mut daemon = sim.program("virtnotifyd");
        daemon.arg("--sim").arg(&host);
        sim.start_daemon("virtnotifyd", daemon)?;
        let mut control = sim.program("virtnotify-control");
        control.arg("--config").arg(host.join("virtnotify.toml"));
        sim.start_daemon("virtnotify-control", control)?;
        Ok(sim)
    }

    fn host(&self) -> PathBuf {
        self.dir.path().join("host")
    }

    fn guests(&self) -> PathBuf {
        self.host().join("guests")
    }

    fn bus(&self) -> String {
        format!("unix:path={}", self.dir.path().join("bus").display())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// A program of ours that has this host's bus for the system's.
    fn program(&self, name: &str) -> Command {
        let mut command = proc::command(self.programs.join(name));
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus());
        command
    }

    /// Starts the bus, and waits until it says its address.
    fn start_bus(&mut self) -> Result<()> {
        let config = self.dir.path().join("bus.conf");
        std::fs::write(&config, bus_config(&self.bus()))?;
        let mut command = proc::command("dbus-daemon");
        command.arg("--config-file").arg(&config);
        command.args(["--nofork", "--nopidfile", "--nosyslog", "--print-address"]);
        // What it says later goes to its log: a pipe that nobody reads would end it.
        let log = self.log("dbus-daemon");
        command.stdout(Stdio::piped()).stderr(proc::open_log(&log)?);
        let mut bus = Proc::spawn(command)?;
        let output = bus.take_stdout().context("the bus has no output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        self.processes.push(("dbus-daemon", bus));
        if address.is_empty() {
            bail!("no D-Bus: install the package dbus-daemon{}", self.last_words());
        }
        Ok(())
    }

    /// Starts a daemon, and waits until it says that it is ready, as to systemd.
    fn start_daemon(&mut self, name: &'static str, mut command: Command) -> Result<()> {
        let socket = self.dir.path().join(format!("{name}.ready"));
        let ready = UnixDatagram::bind(&socket)?;
        ready.set_read_timeout(Some(LOOK))?;
        let log = proc::open_log(&self.log(name))?;
        command.env("NOTIFY_SOCKET", &socket).stdout(log.try_clone()?).stderr(log);
        let process = Proc::spawn(command)?;
        let pid = process.pid();
        self.processes.push((name, process));
        let (begun, mut words) = (Instant::now(), [0; 256]);
        loop {
            let length = ready.recv(&mut words).unwrap_or(0);
            if String::from_utf8_lossy(&words[..length]).lines().any(|line| line == "READY=1") {
                return Ok(());
            }
            proc::give_way_to_signal();
            if !proc::is_running(pid) || begun.elapsed() > READY {
                bail!("{name} does not begin{}", self.last_words());
            }
        }
    }

    /// What a person sees first.
    fn words(&self) -> String {
        let (bus, programs) = (self.bus(), self.programs.display());
        let guests = self.guests();
        let guests = guests.display();
        format!(
            "\nA host in memory runs: the pool vms, with 256 MiB less what it needs itself, three disks and two VMs that\n\
             run. In another shell:\n\n    \
                 export DBUS_SYSTEM_BUS_ADDRESS={bus}\n    \
                 export PATH={programs}:$PATH\n\n    \
                 virt-notify status\n    \
                 virt-notify map vms/disk0\n    \
                 virt-notify snapshot create before vms/disk0\n    \
                 virt-notify events --follow\n\n\
             Guests write where a socket tells them to, from and to which MiB, and what (`--load` has them write by\n\
             themselves):\n\n    \
                 echo 'write vms/disk0 0 64 hello' | nc -NU {guests}\n    \
                 echo 'read vms/disk0 8' | nc -NU {guests}\n\n\
             The logs are in {}. Ctrl-C ends it all.\n",
            self.dir.path().display()
        )
    }

    /// The end of each daemon's log.
    fn last_words(&self) -> String {
        let logs = self.processes.iter().map(|(name, _)| (name, self.log(name)));
        let ends = logs.filter_map(|(name, log)| {
            let text = std::fs::read_to_string(log).ok()?;
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
            Some(format!("\n{name} said:\n  {last}"))
        });
        ends.collect()
    }
}

/// Builds the programs; says where they are.
fn build() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let log = cache.log("sim-build");
    let _ = std::fs::remove_file(&log);
    let mut cargo = target::cargo(&cache)?;
    // Of those that have it: `virtnotifyd/sim` would be the one on which virtnotifyd's tests depend.
    cargo.args(["build", "--locked", "--features", "sim"]);
    cargo.args(["-p", "virtnotifyd", "-p", "virtnotify-control", "-p", "virt-notify"]);
    ui::step("Building the simulator", &log, || proc::run_logged(cargo, &log))?;
    Ok(target::directory(&cache)?.join("debug"))
}

/// A bus on which each user may do everything; the socket's directory lets in one alone.
fn bus_config(address: &str) -> String {
    format!(
        "<busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth>\
         <policy context='default'><allow send_destination='*' eavesdrop='true'/>\
         <allow eavesdrop='true'/><allow own='*'/></policy></busconfig>\n"
    )
}

/// A guest's connection.
struct Guest(BufReader<UnixStream>);

impl Guest {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket);
        Ok(Self(BufReader::new(stream.context("the guests' socket does not answer")?)))
    }

    /// Says a line; returns the answer.
    fn say(&mut self, line: &str) -> Result<String> {
        writeln!(self.0.get_mut(), "{line}")?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        match answer.trim_end() {
            "" => bail!("no answer to '{line}'"),
            answer => Ok(answer.to_owned()),
        }
    }
}

/// Writes until the pool is full, in turns to the disks.
fn load(guests: &Path, tell: &Sender<String>) {
    let full = Guest::connect(guests).and_then(|mut guest| {
        for mib in 0..DISK_MIB {
            for disk in DISKS {
                let answer = guest.say(&format!("write {disk} {mib} {} load", mib + 1))?;
                if !answer.starts_with("done") {
                    return Ok(format!("{disk} at {mib} MiB: {answer}"));
                }
                std::thread::sleep(PACE);
            }
        }
        Ok("both disks are written".into())
    });
    match full {
        Ok(end) => ui::say(&format!("the load has ended: {end}")),
        Err(error) => drop(tell.send(format!("the load could not go on: {error}"))),
    }
}
