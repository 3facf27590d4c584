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
    virtnotify_program::run(&arguments.config, run::run)
}
