// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask test`: everything that is tested, and one closing line.
//!
//! What needs no lab is format, lints, the module's style, its build with warnings and sparse, and
//! beside everything else `cargo test`. Then the scripts of `tests/fast` in the fast lab, and at last
//! those of `tests/lab` on host1 of the other, whose guests and libvirt have limits of time. Two hosts
//! leave half of two processors idle (measured): the scripts of `tests/dm` have it, one after the other
//! and with a lower priority.

mod cargo;
mod hosts;
mod module;
mod scripts;
mod tally;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::cache::Cache;
use crate::{fast, machine, roots, ui};
use tally::Tally;

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
            let scripts = host_scripts(&mut tally, &wanted, kernel, long)?;
            hosts::run_all(&cache, &mut tally, scripts);
            tally
        }
        None => everything(&cache, &wanted, long)?,
    };
    ui::say(&format!("tests took {}", ui::clock(start)));
    print!("{}", tally.closing());
    Ok(i32::from(!tally.is_success()))
}

/// All that there is; `cargo test` beside the rest of it.
fn everything(cache: &Cache, wanted: Wanted, long: bool) -> Result<Tally> {
    std::thread::scope(|scope| {
        let cargo = scope.spawn(|| cargo::tests(cache, wanted));
        let mut tally = cargo::lints(cache, wanted);
        module::build(cache, &mut tally, wanted, None)?;
        module::build(cache, &mut tally, wanted, Some(roots::OLDEST))?;
        module::style(cache, &mut tally, wanted)?;
        let scripts = host_scripts(&mut tally, wanted, None, long)?;
        let (now, behind) = fast_tests(&mut tally, wanted, long, !scripts.is_empty())?;
        in_fast_lab(cache, &mut tally, now, fast::AT_ONCE)?;
        let behind = scope.spawn(|| behind_the_hosts(cache, behind));
        hosts::run_all(cache, &mut tally, scripts);
        tally.add(behind.join().map_err(|_| anyhow!("the thread of tests/dm panicked"))??);
        tally.add(cargo.join().map_err(|_| anyhow!("the thread of cargo test panicked"))?);
        anyhow::Ok(tally)
    })
}

/// The scripts that run on hosts.
fn host_scripts(
    tally: &mut Tally,
    wanted: Wanted,
    kernel: Option<&str>,
    long: bool,
) -> Result<Vec<scripts::Script>> {
    let all = scripts::all(kernel)?.into_iter().filter(|script| wanted(&script.name));
    let (mut now, left_out): (Vec<_>, Vec<_>) = all.partition(|script| long || !script.long);
    left_out.iter().for_each(|script| tally.leave_out(&script.name));
    if let Some(suite) = kernel {
        now.iter_mut().for_each(|script| script.hosts.kernel = Some(suite.to_owned()));
    }
    Ok(now)
}

/// The tests of the fast lab: those that come first, and those that run beside the hosts' scripts,
/// if there are any.
fn fast_tests(
    tally: &mut Tally,
    wanted: Wanted,
    long: bool,
    hosts: bool,
) -> Result<(Vec<fast::Test>, Vec<fast::Test>)> {
    let tests = fast::all_tests()?.into_iter().filter(|test| wanted(&test.name));
    let (now, left_out): (Vec<_>, Vec<_>) = tests.partition(|test| long || !test.long);
    left_out.iter().for_each(|test| tally.leave_out(&test.name));
    Ok(now.into_iter().partition(|test| !hosts || !test.name.starts_with("dm/")))
}

/// Runs tests of the fast lab, so many at once.
fn in_fast_lab(
    cache: &Cache,
    tally: &mut Tally,
    tests: Vec<fast::Test>,
    at_once: usize,
) -> Result<()> {
    fast::run_tests(cache, tests, at_once, &mut |name, result| match result {
        Ok(()) => tally.pass(1),
        Err(error) => tally.fail(name, &error),
    })
}

/// Runs tests of the fast lab one after the other, with the processor time that the hosts leave.
fn behind_the_hosts(cache: &Cache, tests: Vec<fast::Test>) -> Result<Tally> {
    let mut tally = Tally::default();
    // Of this thread and of what it starts alone.
    rustix::process::nice(10)?;
    in_fast_lab(cache, &mut tally, tests, 1)?;
    Ok(tally)
}

fn fresh_log(cache: &Cache, name: &str) -> PathBuf {
    let log = cache.log(&format!("test-{}", name.replace('/', "-")));
    let _ = std::fs::remove_file(&log);
    log
}
