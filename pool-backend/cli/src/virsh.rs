// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt, through virsh.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::client::{Host, Problem};

/// libvirt's storage on this host.
pub const STORAGE: &str = "storage:///system";

/// libvirt's VMs.
pub fn guests(host: Host<'_>) -> String {
    match host {
        None => "qemu:///system".to_owned(),
        Some(host) => format!("qemu+ssh://{host}/system"),
    }
}

/// Runs virsh; returns its output, or its error.
pub fn run(uri: &str, words: &[&str]) -> Result<String, Problem> {
    let mut command = Command::new("virsh");
    command.args(["--quiet", "--connect", uri]).args(words).stdin(Stdio::null());
    // A signal from the terminal is for this program: a guest that is frozen has to be thawed.
    let output = command.process_group(0).output();
    let output = output.map_err(|e| Problem::Cannot(format!("cannot run virsh: {e}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines = said.lines().map(|line| line.trim_start_matches("error: ").trim());
            let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
            Err(Problem::Cannot(lines.join(": ")))
        }
    }
}
