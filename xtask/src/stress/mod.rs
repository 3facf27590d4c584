// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask stress`: everything at once, at random, for a stated time or a stated number of
//! times.
//!
//! A run has parts, one after the other, which have its seed. Some last: they share the run's time, and
//! each is a program (`tests/stress`). Others do something a stated number of times, and are scripts of
//! the fast lab's tests. These run in the fast lab. The simulation of the engine, which needs no kernel,
//! runs on this machine. All print the seed that they were given. With several processors the target's
//! runs on a host of the lab.

mod host;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::{fast, machine, target, ui};

/// What a run is made of.
#[derive(Args)]
pub struct StressArgs {
    /// Run the writers of blocks on the kernel target; without a choice all parts run
    #[arg(long)]
    target: bool,
    /// Run the file systems on the kernel target
    #[arg(long)]
    filesystem: bool,
    /// Kill the daemons this many times, under writers, snapshots, clones and resizes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    kills: Option<u64>,
    /// Cut the power this many times, by what dm-log-writes has seen
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    cuts: Option<u64>,
    /// Simulate the engine for this many steps of guests and operators, with failures, kills and power
    /// cuts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    simulate: Option<u64>,
    /// How many minutes the parts that last take together
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// The seed of everything random, as an earlier run printed it
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Run on a host of the lab with this many processors, where no allocation fails
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8), requires = "target",
          conflicts_with_all = ["filesystem", "kills", "cuts", "simulate"])]
    cpus: Option<u8>,
}

/// A part that lasts.
struct Lasting {
    /// Its name, here and for the program.
    name: &'static str,
    /// What the program takes beyond its time, to start and to look at everything at the end.
    spare: u64,
}

const TARGET: Lasting = Lasting { name: "target", spare: 300 };
const FILESYSTEM: Lasting = Lasting { name: "filesystem", spare: 600 };

/// A part that does something a stated number of times.
struct Counted {
    /// Its name.
    name: &'static str,
    /// Its script, which takes a seed and a number.
    script: &'static str,
    /// How many of them one boot has: the next has the next seed.
    at_once: u64,
}

const KILLS: Counted = Counted { name: "kills", script: "tests/fast/test_kills.py", at_once: 50 };
const CUTS: Counted = Counted { name: "cuts", script: "tests/fast/test_power_cut.py", at_once: 50 };
/// How many there are where all parts run.
const COUNT: u64 = 50;
const STEPS: u64 = 4_000_000;
/// The seconds that a boot of a script may take, and those for each repetition.
const BOOT_LIMIT: u64 = 300;
const EACH_LIMIT: u64 = 60;

/// One program or script in one boot.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Program { name: &'static str, seconds: u64, limit: u64, seed: u64, cpus: Option<u8> },
    Script { name: &'static str, place: &'static str, number: u64, seed: u64 },
    Simulation { steps: u64, seed: u64 },
}

/// Runs the parts that were chosen; all, if none was.
pub fn run(args: &StressArgs) -> Result<i32> {
    machine::check()?;
    let cache = Cache::open()?;
    machine::ensure_packages(&cache)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    for work in plan(args, seed) {
        let (start, again) = (Instant::now(), work.again());
        ui::say(&format!("stress: {work}; to repeat it: {again}"));
        let status = work.run(&cache).with_context(|| format!("stress: {work} failed: {again}"))?;
        if status != 0 {
            let after = ui::clock(start);
            bail!("stress: {work} ended with status {status} after {after}: {again}");
        }
        ui::say(&format!("stress: {work}: done in {}", ui::clock(start)));
    }
    Ok(0)
}

/// What is run, in this order.
fn plan(args: &StressArgs, seed: u64) -> Vec<Work> {
    let numbers = [args.kills, args.cuts, args.simulate];
    let all = !args.target && !args.filesystem && numbers.iter().all(Option::is_none);
    let lasting = [(args.target, TARGET), (args.filesystem, FILESYSTEM)];
    let lasting: Vec<Lasting> =
        lasting.into_iter().filter(|(chosen, _)| *chosen || all).map(|(_, part)| part).collect();
    let seconds = args.minutes * 60 / lasting.len().max(1) as u64;
    let lasting = lasting.into_iter().map(|Lasting { name, spare }| Work::Program {
        name,
        seconds,
        limit: seconds + spare,
        seed,
        cpus: args.cpus,
    });
    let counted = [(args.kills, KILLS), (args.cuts, CUTS)];
    let counted = counted.into_iter().flat_map(|(number, part)| {
        boots(number.or(all.then_some(COUNT)).unwrap_or_default(), part, seed)
    });
    let steps = args.simulate.or(all.then_some(STEPS));
    let simulation = steps.map(|steps| Work::Simulation { steps, seed });
    lasting.chain(counted).chain(simulation).collect()
}

/// The boots of a part, with a seed each.
fn boots(number: u64, part: Counted, seed: u64) -> impl Iterator<Item = Work> {
    let Counted { name, script, at_once } = part;
    (0..number.div_ceil(at_once)).map(move |boot| Work::Script {
        name,
        place: script,
        number: at_once.min(number - boot * at_once),
        seed: seed.wrapping_add(boot),
    })
}

impl Work {
    fn run(&self, cache: &Cache) -> Result<i32> {
        match self {
            Self::Program { name, seconds, limit, seed, cpus } => {
                let words = [name, &*seed.to_string(), &*seconds.to_string()].map(str::to_owned);
                match cpus {
                    None => {
                        let program = ["virtnotify-stress".to_owned()];
                        fast::run_program(cache, &[&program[..], &words].concat(), *limit)
                    }
                    Some(cpus) => host::run(cache, &words, *limit, *cpus),
                }
            }
            Self::Script { place, number, seed, .. } => {
                let words = [seed, number].map(u64::to_string);
                fast::run_script(cache, place, &words, BOOT_LIMIT + EACH_LIMIT * number)
            }
            Self::Simulation { steps, seed } => simulate(cache, *steps, *seed),
        }
    }

    /// The command that runs it alone.
    fn again(&self) -> String {
        match self {
            Self::Program { name, seconds, seed, cpus, .. } => {
                let minutes = seconds.div_ceil(60);
                let cpus = cpus.map(|cpus| format!(" --cpus {cpus}")).unwrap_or_default();
                format!("cargo xtask stress --{name} --minutes {minutes} --seed {seed}{cpus}")
            }
            Self::Script { name, number, seed, .. } => {
                format!("cargo xtask stress --{name} {number} --seed {seed}")
            }
            Self::Simulation { steps, seed } => {
                format!("cargo xtask stress --simulate {steps} --seed {seed}")
            }
        }
    }
}

/// Runs the engine's simulation, which is one of its tests.
fn simulate(cache: &Cache, steps: u64, seed: u64) -> Result<i32> {
    let mut cargo = target::cargo(cache)?;
    cargo.args(["test", "--locked", "--package", "virtnotify-engine", "--lib", "--"]);
    cargo.args(["whatever_happens_each_block_reads_what_it_may", "--nocapture"]);
    cargo.env("VIRTNOTIFY_SIMULATE_STEPS", steps.to_string());
    cargo.env("VIRTNOTIFY_SIMULATE_SEED", seed.to_string());
    let status = cargo.status().context("cannot start cargo")?;
    Ok(status.code().unwrap_or(1))
}

impl std::fmt::Display for Work {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program { name, seconds, .. } => write!(out, "the {name} for {seconds} s"),
            Self::Script { name, number, .. } => write!(out, "{number} {name}"),
            Self::Simulation { steps, .. } => write!(out, "{steps} simulated steps"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: StressArgs,
    }

    fn planned(words: &[&str]) -> Vec<String> {
        let only = Only::try_parse_from([&["stress"], words].concat()).unwrap();
        plan(&only.args, only.args.seed.unwrap_or(7)).iter().map(Work::to_string).collect()
    }

    #[test]
    fn without_a_choice_all_parts_run() {
        let all = [
            "the target for 300 s",
            "the filesystem for 300 s",
            "50 kills",
            "50 cuts",
            "4000000 simulated steps",
        ];
        assert_eq!(planned(&[]), all);
        assert_eq!(planned(&["--simulate", "5"]), ["5 simulated steps"]);
        assert_eq!(planned(&["--target", "--seed", "7"]), ["the target for 600 s"]);
        assert_eq!(planned(&["--filesystem", "--minutes", "3"]), ["the filesystem for 180 s"]);
        assert_eq!(planned(&["--kills", "3"]), ["3 kills"]);
    }

    #[test]
    fn several_processors_are_for_the_target_alone() {
        let only =
            |words: &[&str]| Only::try_parse_from([&["stress", "--cpus", "2"], words].concat());
        let again = plan(&only(&["--target"]).unwrap().args, 7)[0].again();
        assert_eq!(again, "cargo xtask stress --target --minutes 10 --seed 7 --cpus 2");
        for other in [&[][..], &["--filesystem"], &["--target", "--kills", "1"]] {
            assert!(only(other).is_err());
        }
    }

    #[test]
    fn many_have_several_boots_each_of_which_is_repeated_alone() {
        let only = Only::try_parse_from(["stress", "--kills", "120"]).unwrap();
        let again: Vec<String> = plan(&only.args, u64::MAX).iter().map(Work::again).collect();
        let seeds = [(50, u64::MAX), (50, 0), (20, 1)];
        let expected =
            seeds.map(|(kills, seed)| format!("cargo xtask stress --kills {kills} --seed {seed}"));
        assert_eq!(again, expected);
    }

    #[test]
    fn a_run_takes_at_least_a_minute_or_does_something_once() {
        for words in [["--minutes", "0"], ["--kills", "0"], ["--cuts", "0"], ["--simulate", "0"]] {
            assert!(Only::try_parse_from([&["stress"], &words[..]].concat()).is_err());
        }
    }
}
