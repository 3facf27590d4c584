// SPDX-License-Identifier: LGPL-2.1-or-later
//! The fast lab: a kernel that is an ordinary process (User Mode Linux), with what finds faults in
//! kernels built in.
//!
//! - `parts`: its kernel, the module for it, and the Debian tree that is its root;
//! - `boot`: one run, from its first process to its end;
//! - `verdict`: whether a run went well;
//! - `scripts`: the tests that run there; `judge`: the test of the lab itself.
//!
//! Any number of them run at once, beside the lab with its hosts: each has a directory of its own,
//! and writes to no other place of the machine.

mod boot;
mod judge;
mod parts;
mod scripts;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::cache::Cache;
use crate::{machine, qemu};

pub use parts::{Parts, build_stress, host_kernel, kernel_entry};
pub use scripts::{all as all_tests, run as run_tests};

/// What is done in the fast lab.
#[derive(Subcommand)]
pub enum FastTask {
    /// Run a script as root there and exit with its status
    Run(RunArgs),
}

/// What a fast lab is made of.
#[derive(Args, Clone, Debug)]
pub struct FastArgs {
    /// How much memory it has
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = qemu::parse_size)]
    mem: u64,
    /// An empty disk, /dev/ubda, /dev/ubdb and so on (may be repeated)
    #[arg(long, value_name = "SIZE", value_parser = qemu::parse_size)]
    disk: Vec<u64>,
    /// Put virtnotify's daemons, their tools and libvirt's daemons there
    #[arg(long)]
    product: bool,
    /// Put the program of `cargo xtask stress` there
    #[arg(long)]
    stress: bool,
    /// End it after this many seconds, and show what hangs
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
}

impl FastArgs {
    /// Reads options as they would stand on the command line.
    fn parse_words(words: &str) -> std::result::Result<Self, clap::Error> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            args: FastArgs,
        }
        Only::try_parse_from(["fast"].into_iter().chain(words.split_whitespace())).map(|o| o.args)
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }
}

/// The arguments of `lab fast run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    lab: FastArgs,
    /// A file or directory to copy into /root there (may be repeated)
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// The script
    script: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs a program of the stress with its words, within a limit of seconds; returns its status.
pub fn run_program(cache: &Cache, words: &[String], limit: u64) -> Result<i32> {
    let lab = FastArgs { stress: true, limit, ..FastArgs::parse_words("")? };
    run_words(cache, lab, words)
}

/// Runs a script of `tests` with its words on what it asks for, within a limit of seconds; returns
/// its status.
pub fn run_script(cache: &Cache, place: &str, words: &[String], limit: u64) -> Result<i32> {
    let (_, lab) = scripts::asked_by(&crate::top()?.join(place))?;
    let words = [&[format!("./{place}")], words].concat();
    run_words(cache, FastArgs { limit, ..lab }, &words)
}

fn run_words(cache: &Cache, lab: FastArgs, words: &[String]) -> Result<i32> {
    let parts = Parts::make(cache, &lab)?;
    let plan =
        boot::Plan { lab, files: Vec::new(), words: words.to_vec(), turn: fastrand::usize(..) };
    verdict::status(&boot::run(cache, &parts, &plan, std::io::stdout())?)
}

/// `cargo xtask lab fast`.
pub fn run(task: &FastTask) -> Result<i32> {
    let FastTask::Run(args) = task;
    for path in args.file.iter().chain([&args.script]) {
        if !path.exists() {
            bail!("there is no {}", path.display());
        }
    }
    machine::check()?;
    let cache = Cache::open()?;
    machine::ensure_packages(&cache)?;
    let parts = Parts::make(&cache, &args.lab)?;
    let mut files = args.file.clone();
    let tests = std::fs::canonicalize(crate::top()?.join("tests"))?;
    // What a script of the checkout needs lies beside it, there as here.
    let script = match std::fs::canonicalize(&args.script)?.strip_prefix(tests) {
        Ok(place) => format!("./tests/{}", place.display()),
        Err(_) => {
            files.push(args.script.clone());
            format!("./{}", crate::file_name(&args.script)?)
        }
    };
    let words = [script].into_iter().chain(args.args.iter().cloned()).collect();
    let plan = boot::Plan { lab: args.lab.clone(), files, words, turn: fastrand::usize(..) };
    let ended = boot::run(&cache, &parts, &plan, std::io::stdout())?;
    verdict::status(&ended)
}
