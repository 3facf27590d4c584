// SPDX-License-Identifier: LGPL-2.1-or-later
//! Scripts on host1: how they are started, watched and ended.
//!
//! A script talks to the lab by lines on its host's beacon (`/dev/ttyS1`): `cut host2` has the power of
//! that host cut and the host booted again, `cut host1`, or `cut host1 host2`, that of the host on
//! which it runs. Before it has its own host restarted it says `restart host1`. When host1 is up
//! again the script is run again, with `LAB_BOOT` one higher.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use thiserror::Error;

use super::{Lab, News, Reset};
use crate::host::Event;
use crate::proc::{self, Proc};
use crate::ui;

/// A host that has not shut down after this time hangs: longer than any write is held.
const SHUTDOWN: Duration = Duration::from_secs(180);
/// How long a script's connection may stay open after the script has ended.
const DRAIN: Duration = Duration::from_secs(3);
/// What ssh ends with when the connection is lost.
const LOST: i32 = 255;

/// Why the lab stopped waiting for a script.
enum End {
    /// It ended with this status.
    Status(i32),
    /// Its host went down and is up again: it is to be run again.
    Again,
    /// The time was over, and it still runs.
    TimeIsUp,
}

/// A script that did not end in its time.
#[derive(Debug, Error)]
#[error("it hangs: it did not end in {} s; the stacks of what hung stand above", .0.as_secs())]
pub struct Hung(pub Duration);

impl Lab {
    /// Runs a script that is in host1's /root, its output into a log, and returns its status.
    /// After `limit` it hangs: the log gets the stacks of what hung, and the script is ended.
    pub fn run_quietly(
        &mut self,
        script: &str,
        args: &[String],
        log: &Path,
        limit: Duration,
    ) -> Result<i32> {
        let deadline = Instant::now() + limit;
        let mut boot = 1;
        loop {
            let mut ssh = self.spawn_script(script, args, boot, Some(log))?;
            match self.wait_script(&mut ssh, Some(deadline))? {
                End::Status(status) => return Ok(status),
                End::Again => boot += 1,
                End::TimeIsUp => {
                    self.write_stacks(log)?;
                    return Err(Hung(limit).into());
                }
            }
        }
    }

    /// Runs a script that is in host1's /root, streaming its output, and returns its status.
    /// With `reset`, the power of a host is cut meanwhile.
    pub fn run_script(
        &mut self,
        script: &str,
        args: &[String],
        mut reset: Option<Reset>,
    ) -> Result<i32> {
        let started = Instant::now();
        let mut boot = 1;
        loop {
            let mut ssh = self.spawn_script(script, args, boot, None)?;
            let mut end = self.wait_script(&mut ssh, reset.map(|reset| started + reset.after))?;
            // If the script was done before, the power is cut all the same: what it left behind
            // is what is found afterwards.
            if let Some(reset) = reset.take() {
                end = self.reset(reset, started, &mut ssh, end)?;
            }
            match end {
                End::Status(status) => return Ok(status),
                End::Again => boot += 1,
                End::TimeIsUp => bail!("the time was up for a script that has no limit"),
            }
        }
    }

    fn reset(&mut self, reset: Reset, started: Instant, ssh: &mut Proc, end: End) -> Result<End> {
        self.pause_until(started + reset.after)?;
        if reset.host == 0 {
            ssh.kill();
        }
        self.cut_power(&[reset.host])?;
        match end {
            _ if reset.host == 0 => Ok(End::Again),
            End::TimeIsUp => self.wait_script(ssh, None),
            end => Ok(end),
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
        let (hosts, args) = (self.hosts.len(), args.join(" "));
        let mut command = self.ssh(0);
        let knows = format!("LAB_HOSTS={hosts} LAB_BOOT={boot}");
        command.arg(format!("{knows} lab-script {number} {script} {args}"));
        if let Some(log) = log {
            let file = proc::open_log(log)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        self.watched(command)
    }

    /// Starts the newest script's connection; its end becomes news.
    fn watched(&self, command: std::process::Command) -> Result<Proc> {
        let ssh = Proc::spawn(command)?;
        let (pid, number, sender) = (ssh.pid(), self.scripts, self.sender.clone());
        std::thread::spawn(move || {
            proc::wait_unreaped(pid);
            let _ = sender.send(News::ScriptEnded(number));
        });
        Ok(ssh)
    }

    /// Waits for the end of the newest script, or until a moment, while the hosts are watched.
    fn wait_script(&mut self, ssh: &mut Proc, until: Option<Instant>) -> Result<End> {
        let mut reported = None;
        let mut deadline = until;
        // It may have ended while a host was booted again.
        while self.ended != self.scripts {
            match self.next_news(deadline)? {
                Some(News::Host(tag, Event::Beacon(line))) if tag.host == 0 => {
                    if let Some(status) = self.reported_status(&line) {
                        reported = Some(status);
                        deadline = Some(Instant::now() + DRAIN);
                    } else if self.obey(&line, ssh)? {
                        return Ok(End::Again);
                    }
                }
                Some(_) => {}
                None => {
                    let Some(status) = reported else { return Ok(End::TimeIsUp) };
                    ssh.kill();
                    return Ok(End::Status(status));
                }
            }
        }
        Ok(End::Status(match (reported, proc::shell_status(ssh.wait()?)) {
            (Some(status), _) => status,
            (None, LOST) => self.late_report()?,
            (None, status) => status,
        }))
    }

    /// Does what a script asks for by its beacon; tells whether host1 is another one now.
    fn obey(&mut self, line: &str, ssh: &mut Proc) -> Result<bool> {
        let Some(order) = Order::parse(line, self.hosts.len()) else { return Ok(false) };
        match order {
            Order::Cut(hosts) => {
                self.cut_power(&hosts)?;
                if !hosts.contains(&0) {
                    return Ok(false);
                }
            }
            Order::Restart => self.shut_down_and_boot(0)?,
        }
        ssh.kill();
        Ok(true)
    }

    /// Waits for the end of a host that a script restarts, and boots it.
    fn shut_down_and_boot(&mut self, host: usize) -> Result<()> {
        self.leaving = Some(host);
        let deadline = Some(Instant::now() + SHUTDOWN);
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
        self.hosts[host].machine.power_off()?;
        self.boot_again(&[host])
    }

    /// A lost connection may be a host that died just now: its watchers get a
    /// moment to say so, and the script's own report to come.
    fn late_report(&mut self) -> Result<i32> {
        let deadline = Some(Instant::now() + DRAIN);
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
        while self.next_news(Some(time))?.is_some() {}
        Ok(())
    }

    /// An interactive login on host1; ends with the shell's status.
    pub fn shell(&mut self) -> Result<i32> {
        let mut command = self.ssh(0);
        command.arg("-t").stdin(Stdio::inherit());
        self.scripts += 1;
        let mut ssh = self.watched(command)?;
        match self.wait_script(&mut ssh, None)? {
            End::Status(status) => Ok(status),
            End::Again | End::TimeIsUp => {
                ui::say("host1 is another one now; the shell was there before");
                Ok(1)
            }
        }
    }
}

/// What a script asks of the lab.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    /// Cut the power of these hosts, counted from 0, at one moment.
    Cut(Vec<usize>),
    /// The script has host1 restarted.
    Restart,
}

impl Order {
    fn parse(line: &str, hosts: usize) -> Option<Self> {
        if line == "restart host1" {
            return Some(Self::Restart);
        }
        let names = line.strip_prefix("cut ")?.split(' ');
        let host = |name: &str| (0..hosts).find(|host| name == format!("host{}", host + 1));
        names.map(host).collect::<Option<Vec<_>>>().map(Self::Cut)
    }
}

/// A word as a shell reads it back.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_quoted_words_back() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn orders_name_hosts_that_are_there() {
        assert_eq!(Order::parse("cut host2", 2), Some(Order::Cut(vec![1])));
        assert_eq!(Order::parse("cut host1 host2", 2), Some(Order::Cut(vec![0, 1])));
        assert_eq!(Order::parse("restart host1", 1), Some(Order::Restart));
        for other in ["cut host2", "cut", "cut ", "cut host1 host3", "alive 12.3", "restart host2"]
        {
            assert_eq!(Order::parse(other, 1), None, "{other}");
        }
    }
}
