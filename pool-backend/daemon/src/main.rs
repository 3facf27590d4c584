// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon that serves volumes.
//!
//! - `main`: arguments, log, runtime;
//! - `run`: which parts there are, and how they end;
//! - `watchdog`: which pools are served, for systemd's watchdog.

mod run;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing::error;
use virtnotify_program::config::{Config, ConfigError};
use virtnotify_program::{WRONG_CONFIGURATION, check, start_log};

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
}

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
    if let Err(failure) = virtnotify_engine::lock_memory() {
        error!("the memory cannot be locked, as a server of storage must: {failure}");
        return ExitCode::FAILURE;
    }
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            match failure.downcast_ref::<ConfigError>() {
                Some(_) => ExitCode::from(WRONG_CONFIGURATION),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run::run(config));
    // Threads that wait for LVM must not hold up the end: whatever they were at is
    // taken up by the next start, as after a kill.
    runtime.shutdown_background();
    Ok(ended?)
}
