// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask test`: everything that is tested, and one closing line.
//!
//! What needs no lab is format, lints, the module's build with warnings and
//! sparse, and beside everything else `cargo test`. Then the scripts of `tests/dm` and `tests/lab`,
//! each run on host1. Scripts that ask for the same hosts share one boot; one
//! that fails or leaves something behind costs the next ones a fresh boot. A
//! script asks by a line `# lab: OPTIONS`, with the options of `lab run`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use thiserror::Error;

use crate::cache::Cache;
use crate::lab::Lab;
use crate::proc::ScratchDir;
use crate::{HostArgs, fast, machine, proc, product, roots, ui};

/// A script that could not run its test says so with this status. In the lab
/// everything is there, so there it counts as a failure.
const SKIPPED: i32 = 200;
/// The emulation lost a script's guest: nothing is known, so it runs once more.
const LOST: i32 = 201;
const LEFTOVERS: &str = "tests/lab/leftovers";

/// How many passed, and the names of those that failed.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    /// How many take long and were not asked for.
    left_out: usize,
}

/// Whether a test of that name is to run.
type Wanted<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// A test that runs in the lab.
struct Script {
    name: String,
    /// Its path below /root on host1.
    place: String,
    hosts: HostArgs,
    long: bool,
}

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
        Some(suite) => on_kernel(&cache, &wanted, Some(suite), long)?,
        // The lab leaves half of two processors idle.
        None => std::thread::scope(|scope| {
            let cargo = scope.spawn(|| Tally::cargo_test(&cache, &wanted));
            let tally = lints(&cache, &wanted).and(on_kernel(&cache, &wanted, None, long)?);
            let cargo = cargo.join().map_err(|_| anyhow!("the thread of cargo test panicked"))?;
            anyhow::Ok(tally.and(cargo))
        })?,
    };
    report(&tally, start);
    Ok(i32::from(!tally.failed.is_empty() || tally.passed == 0))
}

fn lints(cache: &Cache, wanted: Wanted) -> Tally {
    let mut tally = Tally::default();
    if wanted("format") {
        tally.cargo(cache, "format", &["fmt", "--all", "--check"]);
    }
    if wanted("clippy") {
        let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        tally.cargo(cache, "clippy", &args);
    }
    tally
}

/// What depends on the kernel: the module for it, or for all, and the lab.
fn on_kernel(cache: &Cache, wanted: Wanted, kernel: Option<&str>, long: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    tally.module_for(cache, wanted, kernel)?;
    if kernel.is_none() {
        tally.module_for(cache, wanted, Some(roots::OLDEST))?;
    }
    if kernel.is_none() {
        tally.in_fast_lab(cache, wanted, long)?;
    }
    tally.in_lab(cache, wanted, kernel, long)?;
    Ok(tally)
}

fn report(tally: &Tally, start: Instant) {
    ui::say(&format!("tests took {}", ui::clock(start)));
    for name in &tally.failed {
        println!("failed: {name}");
    }
    if tally.left_out > 0 {
        println!("{} take long and were left out: cargo xtask test --long", tally.left_out);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
}

impl Tally {
    /// What needs no lab, at the same time as the rest.
    fn cargo_test(cache: &Cache, wanted: Wanted) -> Self {
        let mut tally = Self::default();
        if wanted("cargo-test") {
            let args = ["test", "--workspace", "--locked", "--no-fail-fast"];
            tally.cargo(cache, "cargo-test", &args);
        }
        tally
    }

    fn and(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.left_out += other.left_out;
        self.failed.extend(other.failed);
        self
    }

    /// One cargo command; `cargo test` counts as many as it ran.
    fn cargo(&mut self, cache: &Cache, name: &str, args: &[&str]) {
        let log = fresh_log(cache, name);
        let result = ui::step(name, &log, || {
            let mut command = product::cargo(cache);
            command.args(args);
            proc::run_logged(command, &log)
        });
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let (passed, failed) = cargo_results(&text);
        self.passed += passed;
        self.failed.extend(failed);
        match result {
            Ok(()) if passed == 0 => self.passed += 1,
            Ok(()) => {}
            Err(error) => self.fail(name, &error),
        }
    }

    /// The module must build without a word from the compiler or sparse, for the hosts' own
    /// kernel or that of another release.
    fn module_for(&mut self, cache: &Cache, wanted: Wanted, suite: Option<&str>) -> Result<()> {
        let name = format!("module-{}", suite.unwrap_or(roots::SUITE));
        if !wanted(&name) {
            return Ok(());
        }
        let log = fresh_log(cache, &name);
        let _lock = cache.lock_builds()?;
        let scratch = ScratchDir::new(&cache.path("tmp"), "check-")?;
        let kernel = match suite {
            Some(suite) => roots::kernel(cache, suite),
            None => roots::both(cache).map(|(host, build)| product::own_kernel(&host, &build)),
        };
        let result = kernel.and_then(|kernel| {
            ui::step(&name, &log, || {
                let sources = product::module_sources()?;
                let make = product::make_module(scratch.path(), &sources, &kernel, "check")?;
                proc::run_logged(make, &log)?;
                let text = std::fs::read_to_string(&log)?;
                match text.lines().find(|l| l.contains("warning:") || l.contains("error:")) {
                    Some(line) => bail!("the build is not silent: {line}"),
                    None => Ok(()),
                }
            })
        });
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(&name, &error),
        }
        Ok(())
    }

    fn in_fast_lab(&mut self, cache: &Cache, wanted: Wanted, long: bool) -> Result<()> {
        let tests = fast::all_tests()?.into_iter().filter(|test| wanted(&test.name));
        let (now, left_out): (Vec<_>, Vec<_>) = tests.partition(|test| long || !test.long);
        self.left_out += left_out.len();
        fast::run_tests(cache, now, &mut |name, result| match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(name, &error),
        })
    }

    fn in_lab(
        &mut self,
        cache: &Cache,
        wanted: Wanted,
        kernel: Option<&str>,
        long: bool,
    ) -> Result<()> {
        let (mut scripts, left_out): (Vec<Script>, Vec<Script>) =
            scripts(kernel)?.into_iter().filter(|s| wanted(&s.name)).partition(|s| long || !s.long);
        self.left_out += left_out.len();
        for script in scripts.iter_mut().filter(|_| kernel.is_some()) {
            script.hosts.kernel = kernel.map(str::to_owned);
        }
        while !scripts.is_empty() {
            let hosts = scripts[0].hosts.clone();
            let (now, later) = scripts.into_iter().partition(|s| s.hosts == hosts);
            scripts = later;
            self.on_hosts(cache, &hosts, now);
        }
        Ok(())
    }

    /// Runs scripts that share their hosts.
    fn on_hosts(&mut self, cache: &Cache, hosts: &HostArgs, scripts: Vec<Script>) {
        let mut lab = None;
        for script in scripts {
            let log = fresh_log(cache, &script.name.replace('/', "-"));
            let once = |lab| {
                let up = usable(lab, hosts)?;
                ui::step(&script.name, &log, || run_script(up, &script, &log))
            };
            let mut result = once(lab.take());
            if result.as_ref().is_err_and(|error| error.is::<LostGuest>()) {
                ui::say("the emulation lost a guest: once more, on fresh hosts");
                result = once(None);
            }
            match result {
                Ok(up) => {
                    self.passed += 1;
                    lab = Some(up);
                }
                Err(error) => self.fail(&script.name, &error),
            }
        }
    }

    fn fail(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("xtask: {error:#}");
        self.failed.push(name.to_owned());
    }
}

/// The lab as it is, or a fresh one where there is none.
fn usable(lab: Option<Lab>, hosts: &HostArgs) -> Result<Lab> {
    if let Some(lab) = lab {
        return Ok(lab);
    }
    let lab = crate::start_lab(hosts)?;
    let top = crate::top()?;
    // Beside each other as in the checkout: a test of the target runs its examples.
    lab.copy_in(&["tests", "kmod", "docs"].map(|dir| top.join(dir)))?;
    Ok(lab)
}

/// Gives the lab back only if it may be used again.
fn run_script(mut lab: Lab, script: &Script, log: &Path) -> Result<Lab> {
    match lab.run_quietly(&script.place, &[], log)? {
        0 => {}
        SKIPPED => bail!("it was skipped, and in the lab nothing may be"),
        LOST => return Err(LostGuest.into()),
        status => bail!("it ended with status {status}"),
    }
    if lab.run_quietly(LEFTOVERS, &[], log)? != 0 {
        bail!("it left something behind");
    }
    Ok(lab)
}

/// A script ended with [`LOST`].
#[derive(Debug, Error)]
#[error("the emulation lost or reset its guest")]
struct LostGuest;

/// All scripts, in the order of their names. On the hosts' own kernel those of the target are long
/// ones, with `lab/` before their names: by default the fast lab has them.
fn scripts(kernel: Option<&str>) -> Result<Vec<Script>> {
    let top = crate::top()?;
    let mut found = Vec::new();
    for (dir, start) in [("dm", "0123456789"), ("lab", "t")] {
        let folder = top.join("tests").join(dir);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let name = crate::file_name(&file)?;
            let script = name.ends_with(".sh") || name.ends_with(".py");
            let test = name.starts_with(|c| start.contains(c))
                && (dir == "dm" || name.starts_with("test_"));
            if script && test {
                let mut script = read_script(dir, &name, &file)?;
                if dir == "dm" && kernel.is_none() {
                    script.name = script.name.replace("dm/", "lab/");
                    script.long = true;
                }
                found.push(script);
            }
        }
    }
    Ok(found)
}

fn read_script(dir: &str, name: &str, file: &Path) -> Result<Script> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let options = text.lines().find_map(|line| line.strip_prefix("# lab: ")).unwrap_or_default();
    let hosts = HostArgs::parse_words(options)
        .with_context(|| format!("{}: its line '# lab:'", file.display()))?;
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let long = text.lines().any(|line| line == "# long");
    Ok(Script { name: format!("{dir}/{stem}"), place: format!("tests/{dir}/{name}"), hosts, long })
}

/// How many tests passed, and the names of those that failed, as cargo's test
/// programs tell it.
fn cargo_results(log: &str) -> (usize, Vec<String>) {
    let mut passed = 0;
    let mut failed = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("test ") {
            match rest.rsplit_once(" ... ") {
                Some((_, "ok")) => passed += 1,
                Some((name, "FAILED")) => failed.push(name.to_owned()),
                _ => {}
            }
        }
    }
    (passed, failed)
}

fn fresh_log(cache: &Cache, name: &str) -> PathBuf {
    let log = cache.log(&format!("test-{name}"));
    let _ = std::fs::remove_file(&log);
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_results_are_counted_by_name() {
        let log = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored\n";
        assert_eq!(cargo_results(log), (1, vec!["c".to_owned()]));
    }

    #[test]
    fn every_script_asks_for_hosts_that_can_be_had() {
        let found = scripts(None).unwrap();
        assert!(found.iter().any(|s| s.name == "lab/01-base" && s.long));
        assert!(scripts(Some("bookworm")).unwrap().iter().any(|s| s.name == "dm/01-base"));
        assert!(found.iter().any(|s| s.name == "lab/test_main_job"));
    }
}
