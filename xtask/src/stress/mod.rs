// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask stress`: everything at once, at random, for a stated time.
//!
//! A run has parts, one after the other, which share its time and have its seed. Each part is a
//! program that runs in the fast lab (`tests/stress`), which prints the seed that it was given.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cache::Cache;
use crate::{fast, machine, ui};

/// What a run is made of.
#[derive(Args)]
pub struct StressArgs {
    /// Run the writers of blocks on the kernel target; without a choice all parts run
    #[arg(long)]
    target: bool,
    /// Run the file systems on the kernel target
    #[arg(long)]
    filesystem: bool,
    /// How long all parts take together
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// What everything random is drawn from, as an earlier run printed it
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

/// A part of a run.
#[derive(Clone, Copy)]
struct Part {
    /// Its name, here and for the program.
    name: &'static str,
    /// Whether it was chosen.
    chosen: fn(&StressArgs) -> bool,
    /// What the program takes beyond its time, to start and to look at everything at the end.
    spare: u64,
}

/// All parts, in the order in which they run.
const PARTS: &[Part] = &[
    Part { name: "target", chosen: |args| args.target, spare: 300 },
    Part { name: "filesystem", chosen: |args| args.filesystem, spare: 600 },
];

/// Runs the parts that were chosen; all, if none was.
pub fn run(args: &StressArgs) -> Result<i32> {
    machine::check()?;
    let cache = Cache::open()?;
    machine::ensure_packages(&cache)?;
    let parts = chosen(args);
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let seconds = args.minutes * 60 / parts.len() as u64;
    for part in parts {
        let (name, start) = (part.name, Instant::now());
        let again =
            format!("cargo xtask stress --{name} --minutes {} --seed {seed}", seconds.div_ceil(60));
        ui::say(&format!("stress of the {name} for {seconds} s; to repeat it: {again}"));
        let words = ["virtnotify-stress", name, &seed.to_string(), &seconds.to_string()];
        let limit = seconds + part.spare;
        let status = fast::run_program(&cache, &words.map(str::to_owned), limit)
            .with_context(|| format!("stress of the {name} failed: {again}"))?;
        if status != 0 {
            bail!(
                "stress of the {name} ended with status {status} after {}: {again}",
                ui::clock(start)
            );
        }
        ui::say(&format!("stress of the {name}: done in {}", ui::clock(start)));
    }
    Ok(0)
}

fn chosen(args: &StressArgs) -> Vec<Part> {
    let chosen: Vec<Part> = PARTS.iter().filter(|part| (part.chosen)(args)).copied().collect();
    if chosen.is_empty() { PARTS.to_vec() } else { chosen }
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

    fn names(words: &[&str]) -> Vec<&'static str> {
        let only = Only::try_parse_from([&["stress"], words].concat()).unwrap();
        chosen(&only.args).iter().map(|part| part.name).collect()
    }

    #[test]
    fn without_a_choice_all_parts_run() {
        assert_eq!(names(&[]), ["target", "filesystem"]);
        assert_eq!(names(&["--target", "--seed", "7"]), ["target"]);
        assert_eq!(names(&["--filesystem", "--minutes", "3"]), ["filesystem"]);
    }

    #[test]
    fn a_run_takes_at_least_a_minute() {
        assert!(Only::try_parse_from(["stress", "--minutes", "0"]).is_err());
    }
}
