// SPDX-License-Identifier: LGPL-2.1-or-later
//! The lab: one or two hosts with the product installed, and scripts run there.
//!
//! A run owns a scratch directory with the hosts' disks, consoles and sockets;
//! it and all processes are gone when the run ends, however it ends. Hosts are
//! watched while a script runs: one that dies or falls silent ends the run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use thiserror::Error;

use crate::cache::Cache;
use crate::image::{self, HostImage};
use crate::proc::{self, Proc, ScratchDir};
use crate::qemu::{Accel, Clock, Event, HostSpec, Machine};
use crate::ui;

/// A host that is not up after so long will not come up.
const BOOT: Duration = Duration::from_secs(600);
/// A host that has not shut down after so long hangs: longer than any write is held.
const SHUTDOWN: Duration = Duration::from_secs(180);
/// As good as no deadline at all.
const FOREVER: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a script's connection may stay open after the script has ended.
const DRAIN: Duration = Duration::from_secs(3);
/// What ssh ends with when the connection is lost.
const LOST: i32 = 255;
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
}

/// Cut the power of a host so long after the script's start.
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
    accel: Accel,
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
    pub fn start(cache: Cache, image: HostImage, accel: Accel, plan: &Plan) -> Result<Self> {
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
            accel,
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
        let cpus = plan.cpus.unwrap_or(self.accel.cpus());
        let append = plan.append.clone();
        Ok(HostSpec { number, disks, memory: plan.memory, clock: plan.clock, cpus, append })
    }

    fn boot(&mut self, spec: HostSpec, boot: u32) -> Result<()> {
        let host = usize::from(spec.number) - 1;
        let tag = Tag { host, boot };
        let sender = self.sender.clone();
        let report = move |event| sender.send(News::Host(tag, event)).is_ok();
        let machine = Machine::start(&spec, &self.image, self.accel, &self.run, report)?;
        let new = Host { spec, machine, tag, ready: false };
        if host < self.hosts.len() {
            self.hosts[host] = new;
        } else {
            self.hosts.push(new);
        }
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
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
    fn next_news(&mut self, deadline: Instant) -> Result<Option<News>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(News::Host(tag, _)) if self.hosts[tag.host].tag != tag => {}
                Ok(News::Host(tag, Event::Silent)) => return Err(self.lost(tag.host, "stalled")),
                Ok(News::Host(tag, Event::Ended)) => {
                    if self.leaving == Some(tag.host) {
                        return Ok(Some(News::Host(tag, Event::Ended)));
                    }
                    return Err(self.lost(tag.host, "crashed (its QEMU ended)"));
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
        let console = ui::tail(&self.hosts[host].machine.console, 40);
        let said = ui::tail(&self.run.path().join(format!("qemu{number}.log")), 5);
        anyhow!("host{number} {what}; its console ended with:\n{console}\n{said}")
    }

    fn consoles(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let end = ui::tail(&host.machine.console, 20);
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
            format!("-oPort={}", self.hosts[host].machine.ssh_port),
        ]
    }

    fn ssh(&self, host: usize) -> Command {
        let mut command = proc::command("ssh");
        command.args(self.ssh_options(host)).arg("root@127.0.0.1");
        command
    }

    /// Copies files into host1's /root, executable as they are here.
    pub fn copy_in(&self, files: &[PathBuf]) -> Result<()> {
        let mut command = proc::command("scp");
        command.args(self.ssh_options(0)).args(["-q", "-p", "-r"]).args(files);
        command.arg("root@127.0.0.1:/root/");
        proc::run(command).context("cannot copy files to host1")
    }

    /// Runs a script that is in host1's /root, its output into a log, and
    /// returns its status.
    pub fn run_quietly(&mut self, script: &str, args: &[String], log: &Path) -> Result<i32> {
        let mut boot = 1;
        loop {
            let mut ssh = self.spawn_script(script, args, boot, Some(log))?;
            match self.wait_script(&mut ssh, None) {
                Err(error) if error.is::<Restarted>() => {
                    ssh.kill();
                    self.boot_again(0)?;
                    boot += 1;
                }
                result => return result,
            }
        }
    }

    /// Runs a script that is in host1's /root, streaming its output, and
    /// returns its status. With `reset`, the power of a host is cut meanwhile.
    pub fn run_script(
        &mut self,
        script: &str,
        args: &[String],
        reset: Option<Reset>,
    ) -> Result<i32> {
        let started = Instant::now();
        let mut ssh = self.spawn_script(script, args, 1, None)?;
        let Some(reset) = reset else { return self.wait_script(&mut ssh, None) };
        let first = match self.wait_script(&mut ssh, Some(started + reset.after)) {
            Ok(status) => Some(status),
            Err(error) if error.is::<TimeIsUp>() => None,
            Err(error) => return Err(error),
        };
        // If the script was done before, the power is cut all the same: what it
        // left behind is what is found afterwards.
        self.pause_until(started + reset.after)?;
        if reset.host == 0 {
            ssh.kill();
        }
        self.power_cycle(reset.host)?;
        match first {
            _ if reset.host == 0 => {
                let mut ssh = self.spawn_script(script, args, 2, None)?;
                self.wait_script(&mut ssh, None)
            }
            Some(status) => Ok(status),
            None => self.wait_script(&mut ssh, None),
        }
    }

    fn spawn_script(
        &mut self,
        script: &str,
        args: &[String],
        boot: u32,
        log: Option<&Path>,
    ) -> Result<Proc> {
        self.scripts += 1;
        let number = self.scripts;
        let script = quoted(&format!("./{script}"));
        let args: Vec<String> = args.iter().map(|a| quoted(a)).collect();
        let mut command = self.ssh(0);
        command.arg(format!("LAB_BOOT={boot} lab-script {number} {script} {}", args.join(" ")));
        if let Some(log) = log {
            let file = proc::open_log(log)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        self.watched(command)
    }

    /// Starts the newest script's connection; its end becomes news.
    fn watched(&self, command: Command) -> Result<Proc> {
        let ssh = Proc::spawn(command)?;
        let (pid, number, sender) = (ssh.pid(), self.scripts, self.sender.clone());
        std::thread::spawn(move || {
            proc::wait_unreaped(pid);
            let _ = sender.send(News::ScriptEnded(number));
        });
        Ok(ssh)
    }

    /// Waits for the end of the newest script while the hosts are watched. By its beacon's line
    /// `cut host2` a script has that host's power cut; with `restart host1` it says that it has
    /// this host restarted: it is run again then, with `LAB_BOOT` one higher.
    fn wait_script(&mut self, ssh: &mut Proc, until: Option<Instant>) -> Result<i32> {
        let mut reported = None;
        let mut deadline = until.unwrap_or_else(|| Instant::now() + FOREVER);
        // It may have ended while a host was booted again.
        while self.ended != self.scripts {
            match self.next_news(deadline)? {
                Some(News::Host(tag, Event::Beacon(line))) if tag.host == 0 => {
                    if let Some(status) = self.reported_status(&line) {
                        reported = Some(status);
                        deadline = Instant::now() + DRAIN;
                    } else if line == "cut host2" && self.hosts.len() > 1 {
                        self.power_cycle(1)?;
                    } else if line == "restart host1" {
                        self.shut_down(0)?;
                        return Err(Restarted.into());
                    }
                }
                Some(_) => {}
                None => {
                    let status = reported.ok_or(TimeIsUp)?;
                    ssh.kill();
                    return Ok(status);
                }
            }
        }
        match (reported, proc::shell_status(ssh.wait()?)) {
            (Some(status), _) => Ok(status),
            (None, LOST) => self.late_report(),
            (None, status) => Ok(status),
        }
    }

    /// Waits for the end of a host that a script restarts.
    fn shut_down(&mut self, host: usize) -> Result<()> {
        self.leaving = Some(host);
        let deadline = Instant::now() + SHUTDOWN;
        loop {
            match self.next_news(deadline)? {
                Some(News::Host(tag, Event::Ended)) if tag.host == host => break,
                Some(_) => {}
                None => bail!(
                    "host{} was to restart and hangs in its shutdown\n{}",
                    host + 1,
                    self.consoles()
                ),
            }
        }
        self.leaving = None;
        Ok(())
    }

    /// A lost connection may be a host that died just now: its watchers get a
    /// moment to say so, and the script's own report to come.
    fn late_report(&mut self) -> Result<i32> {
        let deadline = Instant::now() + DRAIN;
        while let Some(news) = self.next_news(deadline)? {
            if let News::Host(_, Event::Beacon(line)) = news
                && let Some(status) = self.reported_status(&line)
            {
                return Ok(status);
            }
        }
        Ok(LOST)
    }

    /// The status in a beacon's line `exit NUMBER STATUS`, if it is the newest
    /// script's: its predecessor's line may come late.
    fn reported_status(&self, line: &str) -> Option<i32> {
        let (number, status) = line.strip_prefix("exit ")?.split_once(' ')?;
        (number.parse() == Ok(self.scripts)).then(|| status.parse().unwrap_or(1))
    }

    fn pause_until(&mut self, time: Instant) -> Result<()> {
        while self.next_news(time)?.is_some() {}
        Ok(())
    }

    /// Cuts a host's power and boots it again from the same disks.
    fn power_cycle(&mut self, host: usize) -> Result<()> {
        ui::say(&format!("cutting the power of host{}", host + 1));
        self.boot_again(host)
    }

    /// Boots a host from its disks, whether it still runs or not.
    fn boot_again(&mut self, host: usize) -> Result<()> {
        self.hosts[host].machine.cut_power();
        let spec = self.hosts[host].spec.clone();
        let boot = self.hosts[host].tag.boot + 1;
        let start = Instant::now();
        self.boot(spec, boot)?;
        self.wait_ready()?;
        ui::say(&format!("host{} is up again after {}", host + 1, ui::clock(start)));
        Ok(())
    }

    /// An interactive login on host1; ends with the shell's status.
    pub fn shell(&mut self) -> Result<i32> {
        let mut command = self.ssh(0);
        command.arg("-t").stdin(Stdio::inherit());
        self.scripts += 1;
        let mut ssh = self.watched(command)?;
        self.wait_script(&mut ssh, None)
    }
}

/// The moment of a reset has come while the script runs.
#[derive(Debug, Error)]
#[error("the time is up")]
struct TimeIsUp;

/// A script's host has shut down as the script told it.
#[derive(Debug, Error)]
#[error("the host was restarted, which only tests may do")]
struct Restarted;

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_quoted_words_back() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
