// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon beside virtnotifyd that talks to the world: D-Bus, libvirt and other hosts.
//!
//! virtnotifyd serves guests that write, and must wait for none of that. This one may be stopped at will: volumes
//! grow meanwhile, and a move that is under way is taken up again.
//!
//! - `main`: arguments, log, runtime;
//! - `run`: which parts there are, and how they end;
//! - `bus`: D-Bus;
//! - `usage`: who used how much space for how long;
//! - `history`: how full pools were;
//! - `recent`: what happened lately, and how jobs and moves ended;
//! - `vms`: the VMs of this host, as libvirt lists them;
//! - `metrics`: figures for Prometheus.

mod boot;
mod bus;
mod certificates;
mod history;
mod metrics;
mod recent;
mod run;
mod usage;
mod vms;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use virtnotify_program::{check, start_log};

/// D-Bus, moves of VMs, metrics and the account of usage, for the pools that virtnotifyd serves.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration; defaults hold when there is none.
    #[arg(long, default_value = "/etc/virtnotify/virtnotify.toml")]
    config: PathBuf,
    /// What is logged: a level, or a filter such as `virtnotify_migrate=debug`.
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
    let _flusher = start_log(&arguments.log);
    virtnotify_program::run(&arguments.config, run::run)
}
