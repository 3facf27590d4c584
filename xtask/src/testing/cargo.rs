// SPDX-License-Identifier: LGPL-2.1-or-later
//! What needs no lab: format, lints, the crates' documentation, and `cargo test`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::cache::Cache;
use crate::testing::tally::Tally;
use crate::testing::{Wanted, fresh_log};
use crate::{libvirt, proc, roots, target, ui};

/// What all tests' files together must find room for, in bytes.
const ROOM: u64 = 4 << 30;

/// Format and lints, and whether the documentation's links lead somewhere.
pub fn lints(cache: &Cache, wanted: Wanted) -> Tally {
    let mut tally = Tally::default();
    if wanted("format") {
        run(cache, &mut tally, "format", &["fmt", "--all", "--check"], &[]);
    }
    if wanted("clippy") {
        let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        run(cache, &mut tally, "clippy", &args, &[]);
    }
    if wanted("rustdoc") {
        let args = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
        run(cache, &mut tally, "rustdoc", &args, &[("RUSTDOCFLAGS", "-D warnings")]);
    }
    tally
}

/// The tests of all crates.
pub fn tests(cache: &Cache, wanted: Wanted) -> Tally {
    let mut tally = Tally::default();
    if wanted("cargo-test") {
        in_their_own_directory(cache, &mut tally);
        with_a_hosts_programs(cache, &mut tally);
    }
    tally
}

/// All but the ignored ones. A test takes away what it makes in the directory for temporary files:
/// one that does not has failed.
fn in_their_own_directory(cache: &Cache, tally: &mut Tally) {
    let name = "cargo-test";
    let log = fresh_log(cache, name);
    let result = ui::step(name, &log, || {
        let scratch = scratch()?;
        let mut command = target::cargo(cache)?;
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command.env("TMPDIR", scratch.path());
        proc::run_logged(command, &log)?;
        nothing_in(scratch.path())
    });
    count(tally, name, &log, result);
}

/// A directory for the tests' files: in memory, where there is room. The engine's flush theirs so often
/// that a disk is most of what they wait for (52 s against 14 for 200,000 steps of the simulation).
fn scratch() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= ROOM);
    Ok(if room { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?)
}

/// Directories for temporary files have names that say nothing; the names in them tell which test
/// it was.
fn nothing_in(scratch: &Path) -> Result<()> {
    let scratch = scratch.display().to_string();
    let left = proc::capture("find", &[&scratch, "-mindepth", "1", "-printf", "%P\\n"])?;
    ensure!(left.is_empty(), "tests left files behind:\n{}", left.trim_end());
    Ok(())
}

/// Tests that are ignored need root, or programs that not every machine has: the hosts' root has
/// all of it, and libvirt's daemons lie over it.
fn with_a_hosts_programs(cache: &Cache, tally: &mut Tally) {
    let name = "cargo-test-ignored";
    let log = fresh_log(cache, name);
    let result = ui::step(name, &log, || {
        let programs = ignoring_programs(cache, &log)?;
        let (root, libvirt) = {
            let _lock = cache.lock_builds()?;
            let (root, build_root) = roots::both(cache)?;
            (root, libvirt::overlay(cache, &build_root)?)
        };
        let (top, target) = (crate::top()?, target::directory(cache)?);
        let script: String =
            programs.iter().map(|p| format!("{} --ignored || failed=1\n", p.display())).collect();
        // Where they are outside, since they look for what is beside them and in the checkout.
        let binds = [&top, &target].map(|dir| (dir.as_path(), dir.to_str().unwrap_or_default()));
        let script = format!("ldconfig\n{script}[ -z \"$failed\" ]");
        let command = roots::in_layers(&[&libvirt, &root.tree], &binds, &script);
        proc::run_logged(command, &log)
    });
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let names = results(&text).into_iter().map(|(name, _)| name).collect();
    let mut ran = Tally::default();
    count(&mut ran, name, &log, result);
    tally.add_run_of_skipped(&names, ran);
}

/// The test programs of the workspace that have ignored tests.
fn ignoring_programs(cache: &Cache, log: &Path) -> Result<Vec<PathBuf>> {
    let mut command = target::cargo(cache)?;
    command.args(["test", "--workspace", "--locked", "--no-run", "--message-format=json"]);
    command.stderr(proc::open_log(log)?);
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let mut found = Vec::new();
    for program in executables(&String::from_utf8_lossy(&output.stdout)) {
        let path = program.display().to_string();
        if proc::capture(&path, &["--list", "--ignored"])?.contains(": test") {
            found.push(program);
        }
    }
    Ok(found)
}

/// The test programs in cargo's messages, one of JSON a line.
fn executables(messages: &str) -> Vec<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = parsed.filter(|message| message["profile"]["test"] == true);
    tests.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect()
}

/// One cargo command.
fn run(cache: &Cache, tally: &mut Tally, name: &str, args: &[&str], variables: &[(&str, &str)]) {
    let log = fresh_log(cache, name);
    let result = ui::step(name, &log, || {
        let mut command = target::cargo(cache)?;
        command.args(args).envs(variables.iter().copied());
        proc::run_logged(command, &log)
    });
    count(tally, name, &log, result);
}

/// Takes up what a command's log tells of tests, and the command's own end.
fn count(tally: &mut Tally, name: &str, log: &Path, result: Result<()>) {
    let results = results(&std::fs::read_to_string(log).unwrap_or_default());
    let ran = results.iter().any(|(_, outcome)| *outcome == Outcome::Passed);
    for (test, outcome) in results {
        match outcome {
            Outcome::Passed => tally.pass(1),
            Outcome::Failed => tally.failed(&test),
            Outcome::Ignored(reason) => tally.skip(&test, &reason),
        }
    }
    match result {
        Ok(()) if !ran => tally.pass(1),
        Ok(()) => {}
        Err(error) => tally.fail(name, &error),
    }
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Ignored(String),
}

/// What cargo's test programs tell of each test.
fn results(log: &str) -> Vec<(String, Outcome)> {
    log.lines().filter_map(result).collect()
}

/// A line `test NAME ... ok`, `... FAILED`, `... ignored` or `... ignored, REASON`.
fn result(line: &str) -> Option<(String, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // A test that prints past the harness puts its words between the two.
    let outcome = match outcome {
        _ if outcome.ends_with("ok") => Outcome::Passed,
        _ if outcome.ends_with("FAILED") => Outcome::Failed,
        "ignored" => Outcome::Ignored("it says no reason".to_owned()),
        _ => Outcome::Ignored(outcome.strip_prefix("ignored, ")?.to_owned()),
    };
    Some((name.to_owned(), outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "running 4 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored\n\
                       test e ... ignored, needs virsh\ntest result: FAILED. 1 passed; 1 failed\n";

    #[test]
    fn results_are_read_by_name() {
        let ignored = |reason: &str| Outcome::Ignored(reason.to_owned());
        let expected = [
            ("a::b", Outcome::Passed),
            ("c", Outcome::Failed),
            ("d", ignored("it says no reason")),
            ("e", ignored("needs virsh")),
        ];
        assert_eq!(results(LOG), expected.map(|(name, outcome)| (name.to_owned(), outcome)));
    }

    #[test]
    fn an_ignored_test_is_a_skipped_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "test a ... ok\ntest e ... ignored, needs virsh\n").unwrap();
        let mut tally = Tally::default();
        count(&mut tally, "cargo-test", &log, Ok(()));
        assert!(!tally.is_success());
        assert!(tally.closing().ends_with("1 passed, 0 failed, 1 skipped\n"));
    }

    #[test]
    fn what_tests_leave_behind_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        nothing_in(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join(".tmp1")).unwrap();
        std::fs::write(dir.path().join(".tmp1/moves.json"), "").unwrap();
        let error = nothing_in(dir.path()).unwrap_err().to_string();
        assert_eq!(error, "tests left files behind:\n.tmp1\n.tmp1/moves.json");
    }

    #[test]
    fn programs_of_tests_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/a"}
            {"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/b"}
            {"reason":"compiler-artifact","profile":{"test":true},"executable":null}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/t/a")]);
    }

    #[test]
    fn a_command_without_tests_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut tally = Tally::default();
        count(&mut tally, "format", &log, Ok(()));
        count(&mut tally, "clippy", &log, Err(anyhow::anyhow!("warnings")));
        assert!(
            tally.closing().ends_with(
                "failed: clippy\n0 retried, 0 left out\n1 passed, 1 failed, 0 skipped\n"
            )
        );
    }
}
