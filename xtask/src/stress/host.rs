// SPDX-License-Identifier: LGPL-2.1-or-later
//! The program of the stress on a host of the lab, whose kernel is Debian's and has several processors.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::{HostArgs, fast, ui};

const SCRIPT: &str = "tests/stress/on_host.sh";
/// Looks for what is left behind, and at the kernel's log.
const LEFTOVERS: &str = "tests/lab/leftovers";
const LEFTOVERS_LIMIT: Duration = Duration::from_secs(120);

/// Runs the program with its words within a limit of seconds; returns its status.
pub fn run(cache: &Cache, words: &[String], limit: u64, cpus: u8) -> Result<i32> {
    let program = fast::build_stress(cache)?;
    let mut lab =
        crate::start_lab(&HostArgs::parse_words(&format!("--hosts 1 --cpus {cpus}"))?, None)?;
    lab.copy_in(&[program, crate::top()?.join("tests")])?;
    let log = cache.log("stress");
    let _ = std::fs::remove_file(&log);
    let status = ui::step("Stress on a host", &log, || {
        let status = lab.run_quietly(SCRIPT, words, &log, Duration::from_secs(limit))?;
        if status == 0 && lab.run_quietly(LEFTOVERS, &[], &log, LEFTOVERS_LIMIT)? != 0 {
            bail!("it left something behind, or its host's kernel has complained");
        }
        Ok(status)
    })?;
    print!("{}", std::fs::read_to_string(&log)?);
    Ok(status)
}
