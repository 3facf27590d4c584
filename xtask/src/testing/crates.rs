// SPDX-License-Identifier: LGPL-2.1-or-later
//! What crates are built into the product: cargo-deny judges their licences, sources and versions by
//! `deny.toml`.
//!
//! Advisories are no test: one that is published turns a commit red that was green before, and to
//! fetch them takes more of the network than the rest of the tests.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tally::Tally;
use super::{Wanted, fresh_log};
use crate::cache::{Cache, KeyBuilder};
use crate::proc::ScratchDir;
use crate::{proc, target, ui};

const NAME: &str = "deny";
/// The release that is built where the machine has none of its own.
const VERSION: &str = "0.20.2";

/// Runs cargo-deny; where it is not there and cannot be built the test is skipped, which is counted.
pub fn check(cache: &Cache, tally: &mut Tally, wanted: Wanted) {
    if !wanted(NAME) {
        return;
    }
    let log = fresh_log(cache, NAME);
    let program = match program(cache, &log) {
        Ok(program) => program,
        Err(error) => return tally.skip(NAME, &format!("there is no cargo-deny: {error:#}")),
    };
    let result = ui::step(NAME, &log, || {
        let mut command = proc::command(program);
        command.args(["--locked", "check", "bans", "licenses", "sources"]);
        command.current_dir(crate::top()?);
        proc::run_logged(command, &log)
    });
    match result {
        Ok(()) => tally.pass(1),
        Err(error) => tally.fail(NAME, &error),
    }
}

/// The machine's own cargo-deny, or one that is built once into the cache.
fn program(cache: &Cache, log: &Path) -> Result<PathBuf> {
    if proc::capture("cargo-deny", &["--version"]).is_ok() {
        return Ok("cargo-deny".into());
    }
    let key = KeyBuilder::new("cargo-deny").text(VERSION).finish();
    let _lock = cache.lock_builds()?;
    let place = cache.entry("cargo-deny", &key, |dir| {
        let scratch = ScratchDir::new(&cache.path("tmp"), "cargo-deny-")?;
        let mut command = target::cargo(cache)?;
        command.args(["install", "--locked", "--version", VERSION, "cargo-deny", "--root"]);
        command.arg(dir).env("CARGO_TARGET_DIR", scratch.path());
        // Its own profile takes many minutes for a program that runs for seconds.
        command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        ui::step("Building cargo-deny", log, || proc::run_logged(command, log))
    })?;
    Ok(place.join("bin/cargo-deny"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A version of Rust, as numbers that can be compared.
    fn numbers(version: &str) -> [u32; 3] {
        let mut parts = version.split('.').map(|part| part.parse().unwrap());
        std::array::from_fn(|_| parts.next().unwrap_or(0))
    }

    /// The workspace's own `rust-version`.
    fn ours() -> String {
        let manifest = std::fs::read_to_string(crate::top().unwrap().join("Cargo.toml")).unwrap();
        let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
        line.unwrap().trim_matches('"').to_owned()
    }

    #[test]
    fn no_crate_needs_a_newer_compiler_than_the_manifest_names() {
        let args = ["metadata", "--locked", "--format-version", "1"];
        let args = [&args[..], &["--filter-platform", "x86_64-unknown-linux-gnu"]].concat();
        let metadata: Value =
            serde_json::from_str(&proc::capture("cargo", &args).unwrap()).unwrap();
        let crates = metadata["packages"].as_array().unwrap();
        let newer = crates.iter().filter(|package| {
            let needed = package["rust_version"].as_str();
            needed.is_some_and(|needed| numbers(needed) > numbers(&ours()))
        });
        let newer: Vec<_> = newer.map(|package| package["name"].to_string()).collect();
        assert!(newer.is_empty(), "rust-version is {}, too old for {newer:?}", ours());
        assert!(crates.iter().any(|package| package["rust_version"].is_string()));
    }

    #[test]
    fn packages_are_built_by_the_compiler_that_the_manifest_names() {
        let spec = crate::top().unwrap().join("packaging/rpm/virtnotify.spec");
        let spec = std::fs::read_to_string(spec).unwrap();
        for program in ["cargo", "rust"] {
            let line = format!("BuildRequires:  {program} >= {}\n", ours());
            assert!(spec.contains(&line), "the spec lacks {line}");
        }
        let control = crate::top().unwrap().join("debian/control");
        let control = std::fs::read_to_string(control).unwrap();
        for program in ["cargo", "rustc"] {
            let package = format!(" {program} (>= {}) <", ours());
            assert!(control.contains(&package), "debian/control lacks{package}");
        }
    }
}
