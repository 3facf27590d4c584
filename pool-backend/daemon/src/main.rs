// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon that serves volumes.
//!
//! - `main`: arguments, log, runtime;
//! - `run`: which parts there are, and how they end;
//! - `sim`: the same on a host in memory, in builds with the feature `sim`;
//! - `watchdog`: which pools are served, for systemd's watchdog.

mod run;
#[cfg(feature = "sim")]
mod sim;
mod watchdog;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tracing::error;
use virtnotify_program::{check, start_log};

/// Thin volumes for libvirt that grow when a guest writes to them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration; defaults hold when there is none.
    #[arg(long, default_value = "/etc/virtnotify/virtnotify.toml")]
    config: PathBuf,
    /// What is logged: a level, or a filter such as `virtnotify_engine=debug`.
    #[arg(long, default_value = "info")]
    log: String,
    /// Say whether the configuration is right, and do nothing else.
    #[arg(long)]
    check: bool,
    /// Serve a host in memory, whose files are in this new directory: no root, LVM or kernel module is needed
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "check"], hide = !SIMULATES)]
    sim: Option<PathBuf>,
}

/// Whether this was built with the simulator.
const SIMULATES: bool = cfg!(feature = "sim");

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.check {
        return check(&arguments.config);
    }
    // Threads inherit what is blocked: so this comes before any other thread.
    if let Err(failure) = virtnotify_engine::block_signals() {
        eprintln!("the signals of the kernel target cannot be blocked: {failure}");
        return ExitCode::FAILURE;
    }
    let _flusher = start_log(&arguments.log);
    if let Some(directory) = &arguments.sim {
        return simulate(directory);
    }
    if let Err(failure) = virtnotify_engine::lock_memory() {
        error!("the memory cannot be locked, as a server of storage must: {failure}");
        return ExitCode::FAILURE;
    }
    virtnotify_program::run(&arguments.config, |config| run::run(config, run::Ground::host()))
}

#[cfg(feature = "sim")]
fn simulate(directory: &Path) -> ExitCode {
    match sim::Sim::prepare(directory) {
        Ok(sim) => virtnotify_program::run(&sim.config(), |config| run::run(config, sim.ground())),
        Err(failure) => {
            error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "sim"))]
fn simulate(_: &Path) -> ExitCode {
    error!(
        "this virtnotifyd was built without the simulator: 'cargo xtask sim' builds one with it"
    );
    ExitCode::FAILURE
}
