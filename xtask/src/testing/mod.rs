// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask test`: everything that is tested, and one closing line.
//!
//! Three things go on at once: format, lints and `cargo test`; the module's build with warnings and
//! sparse, its style, and the scripts of `tests/dm` and `tests/fast` in the fast lab; and the scripts
//! of `tests/lab` on host1 of the other.

mod cargo;
mod hosts;
mod module;
mod scripts;
mod tally;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};
use rustix::process::setpriority_process;

use crate::cache::Cache;
use crate::{fast, machine, roots, ui};
use tally::Tally;

/// How far what is no test on hosts gives way to those.
const NICE: i32 = 10;

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
    let wanted = |name: &str| words.is_empty() || words.iter().any(|w| name.contains(w));
    let long = long || !words.is_empty();
    let tally = match kernel {
        Some(suite) => {
            let mut tally = Tally::default();
            module::build(&cache, &mut tally, &wanted, Some(suite))?;
            on_hosts(&cache, &mut tally, &wanted, Some(suite), long)?;
            tally
        }
        None => everything(&cache, &wanted, long)?,
    };
    ui::say(&format!("tests took {}", ui::clock(start)));
    print!("{}", tally.closing());
    Ok(i32::from(!tally.is_success()))
}

/// All at once: the hosts leave much of two processors idle. The others give way to them, since a
/// guest's write that waits for too long fails.
fn everything(cache: &Cache, wanted: Wanted, long: bool) -> Result<Tally> {
    std::thread::scope(|scope| {
        let cargo = scope.spawn(|| {
            give_way()?;
            let mut tally = cargo::lints(cache, wanted);
            tally.add(cargo::tests(cache, wanted));
            anyhow::Ok(tally)
        });
        let module = scope.spawn(|| {
            give_way()?;
            let mut tally = Tally::default();
            module::build(cache, &mut tally, wanted, None)?;
            module::build(cache, &mut tally, wanted, Some(roots::OLDEST))?;
            module::style(cache, &mut tally, wanted)?;
            in_fast_lab(cache, &mut tally, wanted, long)?;
            anyhow::Ok(tally)
        });
        let mut tally = Tally::default();
        on_hosts(cache, &mut tally, wanted, None, long)?;
        for others in [cargo, module] {
            tally.add(others.join().map_err(|_| anyhow!("a thread of the tests panicked"))??);
        }
        anyhow::Ok(tally)
    })
}

/// Has what this thread starts run behind what others start.
fn give_way() -> Result<()> {
    // Of this thread alone, on Linux; threads and processes that it starts have it from it.
    Ok(setpriority_process(None, NICE)?)
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
            script.hosts.kernel = Some(suite.to_owned());
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
