// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask bench`: how fast it is, beside what else there is.
//!
//! Up to seven parts, each a script of `tests/bench` on a lab host of its own that ends with one
//! line `RESULT {json}`. From these come ratios, a table for people, a JSON file, and a plot
//! beside it. Nothing is written into the checkout unless `--docs` asks for it.
//!
//! | part | host | what it answers |
//! |---|---|---|
//! | `virtual` | one processor whose clock counts instructions | what it costs, the same in each run |
//! | `layers` | the same | what writes cost after a snapshot, and with ten below |
//! | `moments` | the same | how long snapshots, clones and differences take, by what there is |
//! | `collector` | the same | what guests notice of the collector, and what it brings |
//! | `chunks` | the same | what the size of chunks decides |
//! | `real` | two processors | how long writes wait, how they are grouped, how steady a fill is |
//! | `scale` | two processors | whether size slows it down |

mod chunks;
mod collector;
mod docs;
mod layers;
mod moments;
mod numbers;
mod plan;
mod plot;
mod results;
mod seeking;
mod table;
mod tables;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use self::plan::Plan;
use self::results::Results;
use crate::cache::Cache;
use crate::lab::Lab;
use crate::proc::ScratchDir;
use crate::qemu::Clock;
use crate::{machine, proc, product, ui};

const GIB: u64 = 1 << 30;
/// The parts, by their names in results.
const PARTS: [&str; 7] = ["virtual", "layers", "moments", "collector", "chunks", "real", "scale"];

/// What is measured, and where the result goes.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Write everything to this file, and a plot beside it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure smaller areas and fewer chunks: to see that all of it works; these figures are not
    /// kept
    #[arg(long)]
    quick: bool,
    /// In virtual time, measure only this target (may be repeated): linear, notify, thin4m, ...
    #[arg(long, value_name = "WAY", value_parser = way_name)]
    only: Vec<String>,
    /// Measure only this part (may be repeated; without it all but scale)
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
    /// Measure the scale tables as well
    #[arg(long)]
    scale: bool,
    /// Show an earlier result; parts that are measured too replace its parts
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Write the parts that were measured into docs/developer/performance.md
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    docs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Virtual,
    Layers,
    Moments,
    Collector,
    Chunks,
    Real,
    Scale,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Layers => "layers",
            Self::Moments => "moments",
            Self::Collector => "collector",
            Self::Chunks => "chunks",
            Self::Real => "real",
            Self::Scale => "scale",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Virtual => "Measuring in virtual time",
            Self::Layers => "Measuring snapshots in virtual time",
            Self::Moments => "Measuring moments in virtual time",
            Self::Collector => "Measuring the collector in virtual time",
            Self::Chunks => "Measuring sizes of chunks in virtual time",
            Self::Real => "Measuring in real time",
            Self::Scale => "Measuring with scale",
        }
    }

    /// The host that it needs.
    fn host(self) -> crate::lab::Plan {
        let (pv, memory, clock, cpus) = match self {
            Self::Virtual | Self::Layers | Self::Moments | Self::Collector | Self::Chunks => {
                (GIB, 10 << 10, Clock::Instructions, 1)
            }
            Self::Real => (24 * GIB, 3 << 10, Clock::Real, 2),
            Self::Scale => (64 * GIB, 8 << 10, Clock::Real, 1),
        };
        crate::lab::Plan {
            hosts: 1,
            pv: vec![pv],
            disks: Vec::new(),
            cpus: Some(cpus),
            memory,
            clock,
            append: Vec::new(),
            seed: None,
        }
    }
}

impl BenchArgs {
    fn parts(&self) -> Vec<Part> {
        let mut parts = self.part.clone();
        if parts.is_empty() && self.from.is_none() {
            parts = Part::value_variants().to_vec();
            parts.retain(|part| *part != Part::Scale);
        }
        if self.scale && !parts.contains(&Part::Scale) {
            parts.push(Part::Scale);
        }
        parts
    }
}

/// Measures, shows, writes.
pub fn run(args: &BenchArgs) -> Result<i32> {
    let mut results = match &args.from {
        Some(file) => Results::read(file)?,
        None => Results::default(),
    };
    let json = match &args.json {
        Some(file) => file.clone(),
        None => Cache::open()?.path("bench/result.json"),
    };
    check_place(&json)?;
    let plan = Plan::new(args.quick, &args.only);
    let layers_plan = layers::Plan::new(args.quick);
    for part in args.parts() {
        let words = match part {
            Part::Virtual => Some(serde_json::to_string(&plan)?),
            Part::Layers => Some(serde_json::to_string(&layers_plan)?),
            _ => None,
        };
        results.set(part.name(), measure(part, words.as_deref(), args.quick)?);
        // Each part is kept as soon as it is there: the next one takes minutes.
        results.stamp("outside", outside()?);
        results.write(&json)?;
        match part {
            Part::Virtual => results.check(&plan)?,
            Part::Layers => layers::check(&results, &layers_plan)?,
            _ => {}
        }
    }
    results.write(&json)?;
    let drawing = json.with_extension("svg");
    std::fs::write(&drawing, plot::svg(&results))
        .with_context(|| format!("cannot write {}", drawing.display()))?;
    for part in PARTS {
        print!("{}", tables::of_part(&results, part).text());
    }
    ui::say(&format!("the figures are in {}, the plot in {}", json.display(), drawing.display()));
    if args.docs {
        if results.has(Part::Virtual.name()) {
            results.check(&plan)?;
        }
        if results.has(Part::Layers.name()) {
            layers::check(&results, &layers_plan)?;
        }
        docs::keep(&crate::top()?.join("docs/developer"), &results, &PARTS)?;
        ui::say("docs/developer/performance.md has the result");
    }
    Ok(0)
}

fn way_name(word: &str) -> Result<String, String> {
    let names = || plan::WAYS.iter().map(|way| way.name);
    match names().any(|name| name == word) {
        true => Ok(word.to_owned()),
        false => Err(format!("the ways are {}", names().collect::<Vec<_>>().join(", "))),
    }
}

/// Refuses what cannot be written before the quarter of an hour that measuring takes.
fn check_place(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if file.starts_with(Cache::open()?.path("")) {
        std::fs::create_dir_all(folder)?;
    }
    if !folder.is_dir() {
        bail!("{} is no directory to write {} into", folder.display(), file.display());
    }
    Ok(())
}

/// The longest that a part measures; one that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Boots the part's host and runs its script there.
fn measure(part: Part, plan: Option<&str>, quick: bool) -> Result<Value> {
    machine::check()?;
    let cache = Cache::open()?;
    let (image, runner) = product::host_image(&cache, &crate::HostArgs::default_lab())?;
    let log = cache.log(&format!("bench-{}", part.name()));
    let _ = std::fs::remove_file(&log);
    let boot = || Lab::start(Cache::open()?, image.clone(), runner.clone(), &part.host());
    // With two processors emulated code that changes itself is now and then run as it was.
    let mut lab = boot().or_else(|error| {
        ui::say(&format!("the host did not come up, it is booted again: {error}"));
        boot()
    })?;
    let scratch = ScratchDir::new(&std::env::temp_dir(), "xtask-bench-")?;
    let file = scratch.path().join("plan.json");
    std::fs::write(&file, plan.unwrap_or_default())?;
    lab.copy_in(&[crate::top()?.join("tests"), file])?;
    let script = format!("tests/bench/{}.py", part.name());
    let args: Vec<String> = match plan {
        Some(_) => vec!["plan.json".to_owned()],
        None => quick.then(|| "quick".to_owned()).into_iter().collect(),
    };
    ui::step(part.title(), &log, || {
        let status = lab.run_quietly(&script, &args, &log, LIMIT)?;
        let text = std::fs::read_to_string(&log)?;
        if status != 0 {
            bail!("{script} ended with status {status}");
        }
        result_of(&text)
    })
}

/// What a script measured: its line `RESULT {json}`.
fn result_of(log: &str) -> Result<Value> {
    let line = log.lines().rev().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.context("the script ended without a result")?;
    serde_json::from_str(line).context("the script's result cannot be read")
}

/// What the figures depend on that no host can tell.
fn outside() -> Result<Value> {
    let qemu = proc::capture("qemu-system-x86_64", &["--version"])?;
    let qemu = qemu.lines().next().unwrap_or_default().trim().to_owned();
    let commit = proc::capture(
        "git",
        &["-C", &crate::top()?.display().to_string(), "rev-parse", "--short", "HEAD"],
    );
    let commit = commit.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    Ok(serde_json::json!({ "qemu": qemu, "commit": commit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_in_a_log_counts() {
        let log = "1.0 linear\nRESULT {\"a\":1}\nnoise\nRESULT {\"a\":2}\n";
        assert_eq!(result_of(log).unwrap()["a"], 2);
        assert!(result_of("FAILED: no").is_err());
        assert!(result_of("RESULT {").is_err());
    }
}
