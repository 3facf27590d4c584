// SPDX-License-Identifier: LGPL-2.1-or-later
//! Stress of the kernel target, to be run in the fast lab, or on a host of the lab, by `cargo xtask stress`.
//!
//! Everything random is drawn from one seed, by a generator for each thread: the same seed gives the
//! same decisions. When each of them takes effect is the scheduler's to decide.
//!
//! - `model`, `content`: what each block may hold, and how that is told from what it holds;
//! - `worker`: those who write and read; `filesystem`: those who do so through a file system;
//! - `server`, `bell`: what a daemon does; `volume`, `map`, `snapshot`, `store`, `dm`, `disk`: with what;
//! - `upheaval`, `disturbance`, `fault`: what else is done meanwhile;
//! - `run`: who does it at the same time, and what must hold at the end.

mod bell;
mod content;
mod disk;
mod disturbance;
mod dm;
mod fault;
mod filesystem;
mod map;
mod model;
mod run;
mod server;
mod snapshot;
mod store;
mod target;
mod upheaval;
mod volume;
mod worker;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use fastrand::Rng;

#[derive(Parser)]
#[command(about = "Stress of the kernel target, inside a lab")]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Writers of blocks, and a model of what each may hold
    Target(Plan),
    /// Mounted file systems
    Filesystem(Plan),
    /// The notifier's process, which the others start
    Bell,
}

/// What a run is made of.
#[derive(Args, Clone, Copy)]
struct Plan {
    /// What everything random is drawn from
    seed: u64,
    /// How long it goes on
    seconds: u64,
    /// Have no allocation fail: the kernel is built without that
    #[arg(long)]
    memory_lasts: bool,
}

fn main() -> Result<()> {
    match Cli::parse().part {
        Part::Bell => bell::be_it(),
        Part::Target(plan) => told(plan, target::run),
        Part::Filesystem(plan) => told(plan, filesystem::run),
    }
}

/// A part, with its seed told at its beginning and at a failure.
fn told(plan: Plan, part: impl FnOnce(Plan) -> Result<()>) -> Result<()> {
    println!("seed {}, {} s", plan.seed, plan.seconds);
    run::or_give_up(plan.seed, || part(plan));
    Ok(())
}

/// A generator of its own for everybody who decides something.
fn chance(seed: u64, name: &str) -> Rng {
    // FNV-1a: the same on every machine.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    Rng::with_seed(name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
}
