// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask test`: everything that is tested, and one closing line.
//!
//! What needs no lab is format, lints of crates, of their documentation and of scripts, the crates that are used, the
//! product on a host in memory, the module's style, its build with warnings and sparse, and beside everything else
//! `cargo test`. Then the scripts of `tests/dm` and `tests/fast` in the fast lab, and at last those of
//! `tests/lab` on host1 of the other: guests and libvirt there have limits of time, and a processor for
//! each host is what they need.

mod cargo;
mod crates;
mod hosts;
mod linters;
mod module;
mod scripts;
mod tally;
mod words;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::cache::Cache;
use crate::{fast, machine, roots, sim, ui};
use tally::Tally;
use words::Words;

/// Whether a test of that name is to run.
type Wanted<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// Runs the tests whose names hold one of `words` (all, if there are none).
///
/// With another `kernel`, only what depends on it: the module and the lab. Scripts with a line
/// `# long` run when a word names them, or when `long` ones are asked for.
pub fn run(words: &[String], kernel: Option<&str>, long: bool) -> Result<i32> {
    let start = Instant::now();
    machine::check()?;
    let cache = Cache::open()?;
    machine::ensure_packages(&cache)?;
    let chosen = Words::new(words);
    let wanted = |name: &str| chosen.choose(name);
    let long = long || !words.is_empty();
    let mut tally = match kernel {
        Some(suite) => {
            let mut tally = Tally::default();
            module::build(&cache, &mut tally, &wanted, Some(suite))?;
            on_hosts(&cache, &mut tally, &wanted, Some(suite), long)?;
            tally
        }
        None => everything(&cache, &wanted, long)?,
    };
    for word in chosen.unused() {
        tally.fail(word, &anyhow!("no test that can run has '{word}' in its name"));
    }
    ui::say(&format!("tests took {}", ui::clock(start)));
    print!("{}", tally.closing());
    Ok(i32::from(!tally.is_success()))
}

/// All that there is; `cargo test` beside the rest of it.
fn everything(cache: &Cache, wanted: Wanted, long: bool) -> Result<Tally> {
    std::thread::scope(|scope| {
        let cargo = scope.spawn(|| cargo::tests(cache, wanted));
        let mut tally = cargo::lints(cache, wanted);
        crates::check(cache, &mut tally, wanted);
        linters::check(cache, &mut tally, wanted);
        in_memory(&mut tally, wanted);
        module::build(cache, &mut tally, wanted, None)?;
        module::build(cache, &mut tally, wanted, Some(roots::OLDEST))?;
        module::style(cache, &mut tally, wanted)?;
        in_fast_lab(cache, &mut tally, wanted, long)?;
        on_hosts(cache, &mut tally, wanted, None, long)?;
        tally.add(cargo.join().map_err(|_| anyhow!("the thread of cargo test panicked"))?);
        anyhow::Ok(tally)
    })
}

/// The product on a host in memory.
fn in_memory(tally: &mut Tally, wanted: Wanted) {
    if wanted("sim") {
        match sim::scenario::run() {
            Ok(()) => tally.pass(1),
            Err(error) => tally.fail("sim", &error),
        }
    }
}

/// The scripts that run on hosts.
fn on_hosts(
    cache: &Cache,
    tally: &mut Tally,
    wanted: Wanted,
    kernel: Option<&str>,
    long: bool,
) -> Result<()> {
    let mut scripts = Vec::new();
    for mut script in scripts::all(kernel)?.into_iter().filter(|script| wanted(&script.name)) {
        if script.long && !long {
            tally.leave_out(&script.name);
            continue;
        }
        if let Some(suite) = kernel {
            script.hosts.kernel = suite.to_owned();
        }
        scripts.push(script);
    }
    hosts::run_all(cache, tally, scripts);
    Ok(())
}

fn in_fast_lab(cache: &Cache, tally: &mut Tally, wanted: Wanted, long: bool) -> Result<()> {
    let tests = fast::all_tests()?.into_iter().filter(|test| wanted(&test.name));
    let (now, left_out): (Vec<_>, Vec<_>) = tests.partition(|test| long || !test.long);
    left_out.iter().for_each(|test| tally.leave_out(&test.name));
    fast::run_tests(cache, now, &mut |name, result| match result {
        Ok(()) => tally.pass(1),
        Err(error) => tally.fail(name, &error),
    })
}

fn fresh_log(cache: &Cache, name: &str) -> PathBuf {
    let log = cache.log(&format!("test-{}", name.replace('/', "-")));
    let _ = std::fs::remove_file(&log);
    log
}
