// SPDX-License-Identifier: LGPL-2.1-or-later
//! One host of the lab as a kernel that is a process (User Mode Linux): at this machine's own speed,
//! for tests that need Debian with systemd, and no guest. It has one processor.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::disk::{Cut, Shelf};
use crate::host::{Event, HostSpec, watch_beacon, watch_end};
use crate::image::HostImage;
use crate::proc::{self, Proc};
use crate::uml;

/// Makes a network of the hosts' own, tells that it is there, and keeps it: all of it goes with the
/// namespace.
const NETWORK: &str = r#"
    set -e
    ip link set lo up
    ip link add lab type bridge
    ip addr add 192.168.77.254/24 dev lab
    ip link set lab up
    for host in host1 host2; do
        ip link add "$host" type veth peer name "at-$host"
        ip link set "at-$host" master lab up
        ip link set "$host" up
    done
    echo ready
    exec sleep infinity
"#;

/// The hosts' network, in a namespace of its own.
pub struct Network(Proc);

impl Network {
    /// Makes it.
    pub fn make() -> Result<Self> {
        let mut command = proc::command("unshare");
        let (ours, theirs) = UnixStream::pair()?;
        command.args(["--net", "sh", "-c", NETWORK]).stdout(OwnedFd::from(theirs));
        let keeper = Proc::spawn(command)?;
        let mut line = String::new();
        BufReader::new(ours).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the hosts' network cannot be made: this needs bridges and veth");
        }
        Ok(Self(keeper))
    }

    fn place(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.pid().as_raw_nonzero()))
    }
}

/// A running host.
pub struct Machine {
    process: Proc,
    shelf: Option<Shelf>,
    run: PathBuf,
    network: PathBuf,
    /// The file with its console.
    pub console: PathBuf,
    /// Its address in the hosts' network.
    pub address: String,
}

impl Machine {
    /// Starts a host on the kernel of a directory; `report` gets what it tells. Its disks are mounted in
    /// this thread's mount namespace, which is its own ([`own_mounts`]).
    pub fn start(
        spec: &HostSpec,
        image: &HostImage,
        kernel: &Path,
        network: &Network,
        dir: &Path,
        report: impl Fn(Event) -> bool + Clone + Send + 'static,
    ) -> Result<Self> {
        let number = spec.number;
        if spec.cpus != 1 {
            bail!("a host on this kernel has one processor; those of Debian have several");
        }
        let run = dir.join(format!("host{number}"));
        uml::lay_out(&run)?;
        let disks = run.join("disks");
        std::fs::create_dir_all(&disks)?;
        let shelf = Shelf::mount(&disks, &spec.disks)?;
        let console = dir.join(format!("console{number}.log"));
        let (beacon, theirs) = UnixStream::pair()?;
        let mut command = uml::command(
            &image.tree,
            &run,
            kernel,
            None,
            u64::from(spec.memory) << 20,
            usize::from(number),
        );
        let names = spec.disks.iter().enumerate();
        command
            .args(names.map(|(disk, (name, _))| format!("ubd{disk}=/mnt/disks/{name}")))
            .arg("root=/dev/ubda")
            .arg(format!("vec0:transport=raw,ifname=host{number},depth=128,gro=1,mac=52:54:00:77:00:0{number}"))
            .args(["con=null", "con0=null", "con1=null,fd:2", "console=tty1"])
            .args(["ssl=null", "ssl1=null,fd:1"])
            .args(spec.kernel_words().split_whitespace());
        let network = network.place();
        let mut command = inside(&network, &command);
        command.stdout(OwnedFd::from(theirs)).stderr(proc::open_log(&console)?);
        let process = Proc::spawn(command)?;
        watch_end(&process, report.clone());
        watch_beacon(beacon, report)?;
        let address = format!("192.168.77.{number}");
        Ok(Self { process, shelf: Some(shelf), run, network, console, address })
    }

    /// Cuts its power: a part of what it has not flushed is lost.
    pub fn cut_power(&mut self, random: &mut fastrand::Rng) -> Result<Cut> {
        self.process.kill();
        let Some(shelf) = self.shelf.take() else { return Ok(Cut::default()) };
        let cut = shelf.cut_power(random)?;
        shelf.power_off()?;
        Ok(cut)
    }

    /// Ends it if it has not ended by itself; its disks lose nothing.
    pub fn power_off(&mut self) -> Result<()> {
        self.process.kill();
        self.shelf.take().map_or(Ok(()), Shelf::power_off)
    }

    /// Has its kernel print the stacks of blocked tasks and of its processor on its console.
    pub fn ask_kernel_for_stacks(&self) -> Result<String> {
        for key in ["9", "w", "l"] {
            uml::tell(&self.run, &format!("sysrq {key}"))?;
        }
        Ok("(on its console)".to_owned())
    }

    /// A program of this machine, in the hosts' network.
    pub fn reaching(&self, program: &str) -> Command {
        inside(&self.network, &proc::command(program))
    }
}

/// A command in a network namespace, with its environment.
fn inside(network: &Path, command: &Command) -> Command {
    let mut outer = proc::command("nsenter");
    outer.arg(format!("--net={}", network.display()));
    outer.arg(command.get_program()).args(command.get_args());
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer
}

/// Gives this thread, and what it starts, a mount namespace of its own: what is mounted there goes with
/// them, however they end.
pub fn own_mounts() -> Result<()> {
    // SAFETY: no memory, descriptor or signal handler is unshared; the working directory, which is, is
    // not changed afterwards.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("no mount namespace can be made")?;
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}
