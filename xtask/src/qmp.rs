// SPDX-License-Identifier: LGPL-2.1-or-later
//! QEMU's own monitor, for what nothing inside the host can do any more.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a monitor.
pub struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the monitor at this socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("QEMU's monitor is not there")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self { lines: BufReader::new(stream) };
        monitor.answer()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Gives a command of the monitor for people, and returns what it says.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let said = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.lines.get_mut().write_all(text.as_bytes())?;
        loop {
            let mut answer = self.answer()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("QEMU's monitor has gone");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
