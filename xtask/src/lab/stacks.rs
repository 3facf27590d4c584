// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes on in hosts where a script hangs, written behind the script's own log.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Lab;
use crate::proc::{self, Proc};
use crate::ui;

/// How long a host has to tell its stacks.
const TELLING: Duration = Duration::from_secs(60);
/// How long the kernel of a host takes to print what the keyboard asks for.
const PRINTING: Duration = Duration::from_secs(5);
/// How many lines of a console are of use then.
const CONSOLE_LINES: usize = 200;

impl Lab {
    /// Has each host write the stacks of its processes into the log. One that does not answer is
    /// asked by its keyboard, and its console goes there.
    pub(super) fn write_stacks(&self, log: &Path) -> Result<()> {
        for host in 0..self.hosts.len() {
            ui::say(&format!("the stacks of host{} go into the log", host + 1));
            writeln!(proc::open_log(log)?, "=== host{}: what hangs there", host + 1)?;
            if !self.tells_stacks(host, log)? {
                self.type_for_stacks(host, log)?;
            }
        }
        Ok(())
    }

    fn tells_stacks(&self, host: usize, log: &Path) -> Result<bool> {
        let mut command = self.ssh(host);
        command.arg("lab-stacks");
        let file = proc::open_log(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let mut ssh = Proc::spawn(command)?;
        let deadline = Instant::now() + TELLING;
        while proc::is_running(ssh.pid()) {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(ssh.wait()?.success())
    }

    pub(super) fn type_for_stacks(&self, host: usize, log: &Path) -> Result<()> {
        let machine = &self.hosts[host].machine;
        let registers = machine.ask_kernel_for_stacks();
        std::thread::sleep(PRINTING);
        let mut file = proc::open_log(log)?;
        writeln!(file, "it does not answer; its processors: {registers:?}")?;
        writeln!(file, "its console:\n{}", ui::tail(machine.console(), CONSOLE_LINES))?;
        Ok(())
    }
}
