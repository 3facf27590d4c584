// SPDX-License-Identifier: LGPL-2.1-or-later
//! One host of the lab: a QEMU, or a kernel that is a process.
//!
//! It talks to us over three channels: a console that goes into a file, a
//! beacon (its second serial port) whose lines become [`Event`]s, and ssh. A host
//! that ends, or whose beacon falls silent, is an event as well. Its disks are
//! ours ([`crate::disk`]): a power cut loses what it has not flushed.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::disk::Cut;
use crate::image::HostImage;
use crate::proc::{self, Proc};
use crate::qemu::{self, Accel, Clock};
use crate::uml_host::{self, Network};

/// A beacon beats every five seconds; a host that is silent for this long hangs.
const SILENCE: Duration = Duration::from_secs(240);

/// What runs the hosts.
#[derive(Clone)]
pub enum Runner {
    /// QEMU, on Debian's kernel.
    Qemu(Accel),
    /// A kernel that is a process (User Mode Linux); it lies in this directory.
    Uml(PathBuf),
}

/// The same, with all that the hosts of a lab share.
pub enum Ground {
    /// QEMU has nothing of that kind.
    Qemu(Accel),
    /// The directory of the kernel, and the hosts' network.
    Uml(PathBuf, Network),
}

impl Ground {
    /// Makes it; the hosts' disks are going to be mounted for this thread alone.
    pub fn make(runner: Runner) -> Result<Self> {
        Ok(match runner {
            Runner::Qemu(accel) => Self::Qemu(accel),
            Runner::Uml(kernel) => {
                uml_host::own_mounts()?;
                Self::Uml(kernel, Network::make()?)
            }
        })
    }

    /// How many processors a host gets by default.
    pub fn cpus(&self) -> u8 {
        match self {
            Self::Qemu(accel) => accel.cpus(),
            Self::Uml(..) => 1,
        }
    }

    /// Whether the emulation may lose a guest in its first instructions.
    pub fn loses_guests(&self) -> bool {
        matches!(self, Self::Qemu(Accel::Tcg))
    }
}

/// What a host reports.
#[derive(Debug)]
pub enum Event {
    /// A line from its beacon.
    Beacon(String),
    /// No beacon for too long.
    Silent,
    /// Its process ended.
    Ended,
}

/// What one host is made of.
#[derive(Clone)]
pub struct HostSpec {
    /// 1 or 2.
    pub number: u8,
    /// The root disk, then the physical volume, then the empty disks: the
    /// serial number under which the host finds each, and the file.
    pub disks: Vec<(String, PathBuf)>,
    /// Memory in MiB.
    pub memory: u32,
    /// What its time is.
    pub clock: Clock,
    /// How many processors.
    pub cpus: u8,
    /// Further words of its kernel's command line, which count more than those before.
    pub append: Vec<String>,
}

impl HostSpec {
    /// Words of its kernel's command line, whatever runs it.
    pub fn kernel_words(&self) -> String {
        format!(
            "rw panic=-1 oops=panic quiet net.ifnames=0 apparmor=0 audit=0 nowatchdog \
             systemd.show_status=0 systemd.log_target=journal systemd.ssh_auto=no lab.host={} {}",
            self.number,
            self.append.join(" ")
        )
    }
}

/// A running host.
pub enum Machine {
    /// A QEMU.
    Qemu(qemu::Machine),
    /// A kernel that is a process.
    Uml(uml_host::Machine),
}

impl Machine {
    /// Starts a host; `report` gets what it tells, and says whether a listener is left.
    pub fn start(
        spec: &HostSpec,
        image: &HostImage,
        ground: &Ground,
        run: &Path,
        report: impl Fn(Event) -> bool + Clone + Send + 'static,
    ) -> Result<Self> {
        Ok(match ground {
            Ground::Qemu(accel) => {
                Self::Qemu(qemu::Machine::start(spec, image, *accel, run, report)?)
            }
            Ground::Uml(kernel, network) => {
                Self::Uml(uml_host::Machine::start(spec, image, kernel, network, run, report)?)
            }
        })
    }

    /// Cuts its power: a part of what it has not flushed is lost.
    pub fn cut_power(&mut self, random: &mut fastrand::Rng) -> Result<Cut> {
        match self {
            Self::Qemu(machine) => machine.cut_power(random),
            Self::Uml(machine) => machine.cut_power(random),
        }
    }

    /// Ends it if it has not ended by itself; its disks lose nothing.
    pub fn power_off(&mut self) -> Result<()> {
        match self {
            Self::Qemu(machine) => machine.power_off(),
            Self::Uml(machine) => machine.power_off(),
        }
    }

    /// Has its kernel print the stacks of blocked tasks and of its processors on its console; returns
    /// where its processors are, if that can be known from outside.
    pub fn ask_kernel_for_stacks(&self) -> Result<String> {
        match self {
            Self::Qemu(machine) => machine.ask_kernel_for_stacks(),
            Self::Uml(machine) => machine.ask_kernel_for_stacks(),
        }
    }

    /// The file with its console.
    pub fn console(&self) -> &Path {
        match self {
            Self::Qemu(machine) => &machine.console,
            Self::Uml(machine) => &machine.console,
        }
    }

    /// A program of this machine that can reach it over the network.
    pub fn reaching(&self, program: &str) -> Command {
        match self {
            Self::Qemu(_) => proc::command(program),
            Self::Uml(machine) => machine.reaching(program),
        }
    }

    /// Where its sshd is: an address and a port.
    pub fn ssh(&self) -> (String, u16) {
        match self {
            Self::Qemu(machine) => ("127.0.0.1".to_owned(), machine.ssh_port),
            Self::Uml(machine) => (machine.address.clone(), 22),
        }
    }
}

/// Reports the end of a host's process.
pub fn watch_end(process: &Proc, report: impl Fn(Event) -> bool + Send + 'static) {
    let pid = process.pid();
    std::thread::spawn(move || {
        proc::wait_unreaped(pid);
        report(Event::Ended);
    });
}

/// Reports the lines of a beacon, and its silence.
pub fn watch_beacon(
    stream: UnixStream,
    report: impl Fn(Event) -> bool + Send + 'static,
) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let event = match line {
                Ok(line) => Event::Beacon(line.trim().to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Event::Silent,
                Err(_) => return,
            };
            if !report(event) {
                return;
            }
        }
    });
    Ok(())
}
