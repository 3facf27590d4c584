// SPDX-License-Identifier: LGPL-2.1-or-later
//! The virtnotify daemon.
//!
//! - `main`: arguments, log, runtime;
//! - `run`: which parts there are, and how they end;
//! - `config`: what an operator decides;
//! - `bus`: D-Bus;
//! - `usage`: who used how much space for how long;
//! - `metrics`: figures for Prometheus;
//! - `notify`: what systemd is told;
//! - `watchdog`: which pools are served, for systemd's watchdog.

mod bus;
mod config;
mod metrics;
mod notify;
mod run;
mod usage;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError};

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

/// `EX_CONFIG` of <sysexits.h>: starting again does not help.
const WRONG_CONFIGURATION: u8 = 78;

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

fn check(path: &std::path::Path) -> ExitCode {
    let wrong = match Config::load(path) {
        Ok(config) => config.peers().1,
        Err(wrong) => vec![wrong.to_string()],
    };
    for reason in &wrong {
        eprintln!("{reason}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WRONG_CONFIGURATION) }
}

/// Lines go to stderr, for the journal to take, through a thread of their own: a journal that
/// does not take them costs lines, never a guest's time.
fn start_log(filter: &str) -> tracing_appender::non_blocking::WorkerGuard {
    let (writer, flusher) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // journald stamps lines by itself.
    let plain = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    plain.with_env_filter(filter).with_writer(writer).init();
    flusher
}

fn start(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run::run(config));
    // Threads that wait for libvirt or LVM must not hold up the end: whatever they were at is
    // taken up by the next start, as after a kill.
    runtime.shutdown_background();
    Ok(ended?)
}
