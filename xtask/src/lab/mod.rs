// SPDX-License-Identifier: LGPL-2.1-or-later
//! The lab: one or two hosts with the product installed, and scripts run there.
//!
//! A run owns a scratch directory with the hosts' disks, consoles and sockets;
//! it and all processes are gone when the run ends, however it ends. Hosts are
//! watched while a script runs: one that dies or falls silent ends the run.

mod script;
mod stacks;

#[cfg(test)]
pub use script::Hung;
pub use script::quoted;

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::cache::Cache;
use crate::disk::Cut;
use crate::host::{Event, Ground, HostSpec, Machine, Runner};
use crate::image::{self, HostImage};
use crate::proc::{self, ScratchDir};
use crate::qemu::Clock;
use crate::ui;

/// A host that is not up after this time will not come up.
const BOOT: Duration = Duration::from_secs(600);
/// The memory of a host that needs no more than usual, in MiB.
pub const MEMORY_MIB: u32 = 3584;

/// What a lab is to be made of.
pub struct Plan {
    /// 1 or 2.
    pub hosts: u8,
    /// The size of vg0's physical volume on each host, in bytes.
    pub pv: Vec<u64>,
    /// The sizes of the further empty disks, on each host, in bytes.
    pub disks: Vec<u64>,
    /// Processors of each host; none: as many as the accelerator runs well.
    pub cpus: Option<u8>,
    /// The memory of each host, in MiB.
    pub memory: u32,
    /// What the hosts' time is.
    pub clock: Clock,
    /// Further words of the hosts' kernel command line.
    pub append: Vec<String>,
    /// Decides what of the unflushed writes a power cut loses; none: another one each time.
    pub seed: Option<u64>,
}

/// Cut the power of a host this long after the script's start.
#[derive(Clone, Copy)]
pub struct Reset {
    /// The time from the script's start.
    pub after: Duration,
    /// Which host, counted from 0.
    pub host: usize,
}

/// A lab whose hosts are up.
pub struct Lab {
    hosts: Vec<Host>,
    image: HostImage,
    ground: Ground,
    /// The seed of the next power cut.
    seed: u64,
    sender: Sender<News>,
    events: Receiver<News>,
    /// How many scripts were started.
    scripts: u32,
    /// The newest whose connection has ended.
    ended: u32,
    /// The host that a script restarts: its end is no crash.
    leaving: Option<usize>,
    // Dropped after the hosts, in this order.
    run: ScratchDir,
    _lock: File,
    /// Keeps the image's parts from being pruned.
    _cache: Cache,
}

/// Which boot of which host an event belongs to: those of a host whose power
/// was cut must not be taken for its successor's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag {
    host: usize,
    boot: u32,
}

/// What the lab waits for.
enum News {
    /// A host reports.
    Host(Tag, Event),
    /// The connection of the script of this number has ended.
    ScriptEnded(u32),
}

struct Host {
    spec: HostSpec,
    machine: Machine,
    tag: Tag,
    ready: bool,
}

impl Lab {
    /// Boots the hosts and waits until their services are up.
    pub fn start(cache: Cache, image: HostImage, runner: Runner, plan: &Plan) -> Result<Self> {
        let lock =
            cache.lock("lab.lock", "another lab is running on this machine; waiting for it")?;
        let runs = cache.path("run");
        // The lock says that no lab runs: what is here was left by a killed one.
        let _ = std::fs::remove_dir_all(&runs);
        let run = ScratchDir::new(&runs, "lab-")?;
        let (sender, events) = channel();
        let mut lab = Self {
            hosts: Vec::new(),
            image,
            ground: Ground::make(runner)?,
            seed: plan.seed.unwrap_or_else(|| fastrand::u64(..1 << 32)),
            sender,
            events,
            scripts: 0,
            ended: 0,
            leaving: None,
            run,
            _lock: lock,
            _cache: cache,
        };
        let start = Instant::now();
        ui::say(&format!("booting {} host(s)", plan.hosts));
        for number in 1..=plan.hosts {
            let spec = lab.make_disks(number, plan)?;
            lab.boot(spec, 1)?;
        }
        lab.wait_ready()?;
        ui::say(&format!("hosts up after {}", ui::clock(start)));
        Ok(lab)
    }

    fn make_disks(&self, number: u8, plan: &Plan) -> Result<HostSpec> {
        let dir = self.run.path();
        let root = dir.join(format!("root{number}.img"));
        image::copy_sparse(&self.image.disk, &root)?;
        let mut disks = vec![("root".to_owned(), root)];
        let pv = plan.pv.get(usize::from(number) - 1).or(plan.pv.last());
        let pv = *pv.context("no size for the volume group")?;
        let extra = plan.disks.iter().enumerate();
        let extra = extra.map(|(i, &size)| (format!("disk{}", i + 1), size));
        for (serial, size) in std::iter::once(("pv".to_owned(), pv)).chain(extra) {
            let file = dir.join(format!("{serial}-{number}.img"));
            File::create(&file)?.set_len(size)?;
            disks.push((serial, file));
        }
        let cpus = plan.cpus.unwrap_or(self.ground.cpus());
        let append = plan.append.clone();
        Ok(HostSpec { number, disks, memory: plan.memory, clock: plan.clock, cpus, append })
    }

    fn boot(&mut self, spec: HostSpec, boot: u32) -> Result<()> {
        let host = usize::from(spec.number) - 1;
        let tag = Tag { host, boot };
        let sender = self.sender.clone();
        let report = move |event| sender.send(News::Host(tag, event)).is_ok();
        let machine = Machine::start(&spec, &self.image, &self.ground, self.run.path(), report)?;
        let new = Host { spec, machine, tag, ready: false };
        if host < self.hosts.len() {
            self.hosts[host] = new;
        } else {
            self.hosts.push(new);
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Some(Instant::now() + BOOT);
        while self.hosts.iter().any(|h| !h.ready) {
            match self.next_news(deadline)? {
                Some(News::Host(tag, Event::Beacon(line))) => self.boot_news(tag, &line),
                Some(_) => {}
                None => {
                    bail!("a host did not come up in {} s\n{}", BOOT.as_secs(), self.consoles())
                }
            }
        }
        Ok(())
    }

    fn boot_news(&mut self, tag: Tag, line: &str) {
        let name = tag.host + 1;
        if let Some(units) = line.strip_prefix("failed ") {
            ui::say(&format!("host{name}: these units failed to start: {units}"));
        } else if line.starts_with("ready") {
            self.hosts[tag.host].ready = true;
        }
    }

    /// What happens next; none when the deadline passes. A host that has died
    /// or stalled is an error.
    fn next_news(&mut self, deadline: Option<Instant>) -> Result<Option<News>> {
        loop {
            let news = match deadline {
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(time) => {
                    self.events.recv_timeout(time.saturating_duration_since(Instant::now()))
                }
            };
            match news {
                Ok(News::Host(tag, _)) if self.hosts[tag.host].tag != tag => {}
                Ok(News::Host(tag, Event::Silent)) => return Err(self.lost(tag.host, "stalled")),
                Ok(News::Host(tag, Event::Ended)) => {
                    if self.leaving == Some(tag.host) {
                        return Ok(Some(News::Host(tag, Event::Ended)));
                    }
                    return Err(self.lost(tag.host, "crashed (its process ended)"));
                }
                Ok(news) => {
                    if let News::ScriptEnded(number) = news {
                        self.ended = number;
                    }
                    return Ok(Some(news));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    fn lost(&self, host: usize, what: &str) -> anyhow::Error {
        let number = host + 1;
        let console = ui::tail(self.hosts[host].machine.console(), 40);
        let said = ui::tail(&self.run.path().join(format!("qemu{number}.log")), 5);
        anyhow!("host{number} {what}; its console ended with:\n{console}\n{said}")
    }

    fn consoles(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let end = ui::tail(host.machine.console(), 20);
            text.push_str(&format!("--- console of host{}:\n{end}\n", host.spec.number));
        }
        text
    }

    fn ssh_options(&self, host: usize) -> Vec<String> {
        let image = &self.image;
        vec![
            "-F".to_owned(),
            "none".to_owned(),
            "-i".to_owned(),
            image.ssh_key.display().to_string(),
            format!("-oUserKnownHostsFile={}", image.known_hosts.display()),
            "-oHostKeyAlias=lab".to_owned(),
            "-oBatchMode=yes".to_owned(),
            "-oIdentitiesOnly=yes".to_owned(),
            "-oLogLevel=ERROR".to_owned(),
            "-oConnectTimeout=60".to_owned(),
            "-oServerAliveInterval=30".to_owned(),
            "-oServerAliveCountMax=8".to_owned(),
            format!("-oPort={}", self.hosts[host].machine.ssh().1),
        ]
    }

    fn account(&self, host: usize) -> String {
        format!("root@{}", self.hosts[host].machine.ssh().0)
    }

    fn ssh(&self, host: usize) -> Command {
        let mut command = self.hosts[host].machine.reaching("ssh");
        command.args(self.ssh_options(host)).arg(self.account(host));
        command
    }

    /// Whether the emulation may lose a guest in its first instructions.
    pub fn loses_guests(&self) -> bool {
        self.ground.loses_guests()
    }

    /// Copies files into host1's /root, executable as they are here; a power cut does not lose them.
    pub fn copy_in(&self, files: &[PathBuf]) -> Result<()> {
        let mut command = self.hosts[0].machine.reaching("scp");
        command.args(self.ssh_options(0)).args(["-q", "-p", "-r"]).args(files);
        command.arg(format!("{}:/root/", self.account(0)));
        proc::run(command).context("cannot copy files to host1")?;
        let mut command = self.ssh(0);
        command.arg("sync");
        proc::run(command).context("host1 cannot flush its disk")
    }

    /// Cuts the power of hosts at one moment and boots them again from their disks, without what
    /// these lost.
    fn cut_power(&mut self, hosts: &[usize]) -> Result<()> {
        let seed = self.seed;
        self.seed += 1;
        let mut random = fastrand::Rng::with_seed(seed);
        for &host in hosts {
            let Cut { writes, bytes, dropped, torn } =
                self.hosts[host].machine.cut_power(&mut random)?;
            ui::say(&format!(
                "the power of host{} is cut: of {} KiB in {writes} writes that were not flushed, \
                 {dropped} writes are lost and {torn} are torn (--seed {seed})",
                host + 1,
                bytes >> 10
            ));
        }
        self.boot_again(hosts)
    }

    /// Boots hosts whose machines have ended from their disks.
    fn boot_again(&mut self, hosts: &[usize]) -> Result<()> {
        let start = Instant::now();
        for &host in hosts {
            let spec = self.hosts[host].spec.clone();
            let boot = self.hosts[host].tag.boot + 1;
            self.boot(spec, boot)?;
        }
        self.wait_ready()?;
        let names: Vec<String> = hosts.iter().map(|host| format!("host{}", host + 1)).collect();
        ui::say(&format!("up again after {}: {}", ui::clock(start), names.join(", ")));
        Ok(())
    }
}
