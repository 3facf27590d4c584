// SPDX-License-Identifier: LGPL-2.1-or-later
//! The project's one door for people and CI: the lab, the tests, the demonstration.

mod bench;
mod cache;
mod cockpit;
mod disk;
#[cfg(test)]
mod documents;
mod fast;
mod host;
mod image;
mod lab;
mod libvirt;
mod machine;
mod packages;
mod proc;
mod product;
mod qemu;
mod qmp;
mod roots;
mod sim;
mod stress;
mod target;
mod testing;
mod ui;
mod uml;
mod uml_host;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::cache::Cache;
use crate::lab::{Lab, MEMORY_MIB, Plan, Reset};
use crate::qemu::Clock;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs and tests this project")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Watch a VM outgrow its host and move: the whole system in one run
    Demo,
    /// Run all tests, or those with one of the words in their names
    Test {
        /// Run only the tests that depend on the hosts' kernel, with the kernel of this Debian
        /// release
        #[arg(long, value_name = "SUITE", value_parser = [roots::OLDEST, roots::SUITE, roots::NEWEST])]
        kernel: Option<String>,
        /// Run the long tests too
        #[arg(long)]
        long: bool,
        /// Parts of names
        words: Vec<String>,
    },
    /// Measure how fast it is beside dm-linear, dm-thin and qcow2
    Bench(bench::BenchArgs),
    /// Do everything at once in the fast lab, at random, and check the result by a model
    Stress(stress::StressArgs),
    /// Run the product on a host in memory, to look at it: without root, LVM or a kernel module
    Sim(sim::SimArgs),
    /// Build the page in Cockpit and run its tests; needs node and npm
    Cockpit(cockpit::CockpitArgs),
    /// Virtual hosts with the product installed
    #[command(subcommand)]
    Lab(LabTask),
}

#[derive(Subcommand)]
enum LabTask {
    /// Run a script as root on host1 and exit with its status
    Run(RunArgs),
    /// Log in on host1; host2 is one ssh away
    Shell(HostArgs),
    /// A kernel alone, as a process, with KASAN and lockdep: the target, LVM and the daemons
    #[command(subcommand)]
    Fast(fast::FastTask),
}

/// What a lab's hosts are made of.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HostArgs {
    /// How many hosts to boot
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    hosts: u8,
    /// The size of volume group vg0 on host1 and host2
    #[arg(long, value_name = "SIZE[,SIZE]", default_value = "1G,4G", value_delimiter = ',',
          value_parser = qemu::parse_size)]
    pv: Vec<u64>,
    /// A further empty disk on each host (may be repeated)
    #[arg(long, value_name = "SIZE", value_parser = qemu::parse_size)]
    disk: Vec<u64>,
    /// A further Debian package on the hosts (may be repeated)
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
    /// A further word of the hosts' kernel command line, such as apparmor=1 (may be repeated)
    #[arg(long, value_name = "WORD")]
    append: Vec<String>,
    /// How many processors a host has (2 under KVM, otherwise 1)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    cpus: Option<u8>,
    /// The hosts' kernel: a Debian release's, in QEMU, or `fast`, a process of this machine
    #[arg(long, default_value = roots::SUITE, value_parser = roots::KERNELS)]
    kernel: String,
    /// Leave virtnotify out: hosts as they are before it is installed
    #[arg(long)]
    without_product: bool,
    /// Which libvirt the hosts run
    #[arg(long, value_enum, default_value = "modular")]
    libvirt: Libvirt,
}

/// How libvirt comes to a lab's hosts.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libvirt {
    /// Modular daemons, with virtnotify set up in front of virtstoraged
    Modular,
    /// Debian's own packages; virtnotify is installed and not set up
    Debian,
}

impl HostArgs {
    /// The lab as it is when nothing else is asked for.
    pub fn default_lab() -> Self {
        Self::parse_words("").unwrap_or_else(|error| error.exit())
    }

    /// Whether a script that asks for `other` finds all of it on these hosts.
    pub fn covers(&self, other: &Self) -> bool {
        let alike = Self { hosts: other.hosts, disk: other.disk.clone(), ..self.clone() };
        alike == *other && self.hosts >= other.hosts && self.disk.starts_with(&other.disk)
    }

    /// Reads options as they would stand on the command line.
    pub fn parse_words(words: &str) -> std::result::Result<Self, clap::Error> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            hosts: HostArgs,
        }
        Only::try_parse_from(["lab"].into_iter().chain(words.split_whitespace())).map(|o| o.hosts)
    }
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    hosts: HostArgs,
    /// A file or directory to copy into host1's /root (may be repeated)
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Cut a host's power this long after the script's start and boot it again
    #[arg(long, value_name = "SECONDS")]
    reset_after: Option<u64>,
    /// The host whose power is cut; the script runs again if it is host1
    #[arg(long, value_name = "HOST", default_value = "host1", value_parser = ["host1", "host2"])]
    reset_host: String,
    /// The seed of a power cut, as an earlier run printed it: it decides which unflushed writes are
    /// lost
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// The script
    script: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() {
    let result = proc::watch_signals().and_then(|()| run(Cli::parse()));
    proc::give_way_to_signal();
    match result {
        Ok(status) => std::process::exit(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            std::process::exit(1);
        }
    }
}

fn run(cli: Cli) -> Result<i32> {
    match cli.command {
        Task::Demo => demo(),
        Task::Test { kernel, long, words } => testing::run(&words, kernel.as_deref(), long),
        Task::Bench(args) => bench::run(&args),
        Task::Stress(args) => stress::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::Cockpit(args) => cockpit::run(&args),
        Task::Lab(LabTask::Run(args)) => lab_run(&args),
        Task::Lab(LabTask::Fast(task)) => fast::run(&task),
        Task::Lab(LabTask::Shell(args)) => start_lab(&args, None)?.shell(),
    }
}

fn lab_run(args: &RunArgs) -> Result<i32> {
    for path in args.file.iter().chain([&args.script]) {
        if !path.exists() {
            bail!("there is no {}", path.display());
        }
    }
    let reset = reset(args)?;
    let name = file_name(&args.script)?;
    let mut lab = start_lab(&args.hosts, args.seed)?;
    let files: Vec<PathBuf> = [&args.script].into_iter().chain(&args.file).cloned().collect();
    lab.copy_in(&files)?;
    lab.run_script(&name, &args.args, reset)
}

fn demo() -> Result<i32> {
    let mut lab = start_lab(&HostArgs::default_lab(), None)?;
    lab.copy_in(&[top()?.join("tests/lab")])?;
    lab.run_script("lab/test_main_job.py", &[], None)
}

fn reset(args: &RunArgs) -> Result<Option<Reset>> {
    let Some(seconds) = args.reset_after else { return Ok(None) };
    let host = usize::from(args.reset_host == "host2");
    if host >= usize::from(args.hosts.hosts) {
        bail!("there is no {} in a lab of one host", args.reset_host);
    }
    Ok(Some(Reset { after: Duration::from_secs(seconds), host }))
}

/// Builds what is missing and boots the hosts.
pub fn start_lab(args: &HostArgs, seed: Option<u64>) -> Result<Lab> {
    machine::check()?;
    let cache = Cache::open()?;
    let (image, runner) = product::host_image(&cache, args)?;
    let plan = Plan {
        hosts: args.hosts,
        pv: args.pv.clone(),
        disks: args.disk.clone(),
        cpus: args.cpus,
        memory: MEMORY_MIB,
        clock: Clock::Real,
        append: args.append.clone(),
        seed,
    };
    Lab::start(cache, image, runner, &plan)
}

/// The last part of a path.
pub fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// The top of the checkout.
pub fn top() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("the checkout has no top")?.to_owned())
}
