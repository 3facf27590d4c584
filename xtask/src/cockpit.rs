// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask cockpit`: the page in Cockpit, built and tested.
//!
//! It needs node and npm, which nothing else here does. npm's packages and what is built are in the
//! cache, not in the checkout.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::cache::{Cache, KeyBuilder};
use crate::{proc, ui};

/// Its sources, in the checkout.
const SOURCES: &str = "cockpit";
/// What npm and the build make there, when a developer runs them by hand.
const MADE: &[&str] = &["node_modules", "dist"];

#[derive(Args)]
pub struct CockpitArgs {
    /// Run it in a browser as well, in this machine's Cockpit, with a daemon that is a mock
    #[arg(long)]
    browser: bool,
    /// Copy what was built there
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

/// Builds the page, runs the tests that need no browser, and then those in a browser if they were asked for.
pub fn run(args: &CockpitArgs) -> Result<i32> {
    for program in ["node", "npm"] {
        if proc::capture(program, &["--version"]).is_err() {
            bail!("there is no {program}: install Node.js 20 or newer, and npm");
        }
    }
    let cache = Cache::open()?;
    let page = build(&cache)?;
    if let Some(output) = &args.output {
        let mut copy = proc::command("cp");
        copy.arg("-r").arg("-T").arg(page.join("dist")).arg(output);
        proc::run(copy)?;
    }
    if args.browser {
        step(&cache, "cockpit-browser", npm(&page, &["run", "browser"]))?;
    }
    ui::say(&format!("the page is in {}", page.join("dist").display()));
    Ok(0)
}

fn npm(directory: &Path, args: &[&str]) -> Command {
    let mut command = proc::command("npm");
    command.current_dir(directory).args(args);
    command
}

fn step(cache: &Cache, name: &str, command: Command) -> Result<()> {
    let log = cache.log(name);
    let _ = std::fs::remove_file(&log);
    ui::step(name, &log, || proc::run_logged(command, &log))
}

/// npm's packages, as the lock file has them.
fn modules(cache: &Cache) -> Result<PathBuf> {
    let sources = crate::top()?.join(SOURCES);
    let files = ["package.json", "package-lock.json", ".npmrc"];
    let mut key = KeyBuilder::new("cockpit-modules");
    for name in files {
        key = key.file(name, &sources.join(name))?;
    }
    cache.entry("cockpit-modules", &key.finish(), |dir| {
        for name in files {
            std::fs::copy(sources.join(name), dir.join(name))?;
        }
        step(cache, "cockpit-npm", npm(dir, &["ci", "--ignore-scripts"]))
    })
}

/// The sources with what is built from them, tested.
fn build(cache: &Cache) -> Result<PathBuf> {
    let _lock = cache.lock_builds()?;
    let modules = modules(cache)?;
    let sources = crate::top()?.join(SOURCES);
    let mut files = Vec::new();
    collect(&sources, &mut files)?;
    files.sort();
    let mut key = KeyBuilder::new("cockpit").text(&modules.display().to_string());
    for file in &files {
        key = key.file(&file.display().to_string(), &sources.join(file))?;
    }
    cache.entry("cockpit", &key.finish(), |dir| {
        for file in &files {
            let to = dir.join(file);
            std::fs::create_dir_all(to.parent().unwrap_or(dir))?;
            std::fs::copy(sources.join(file), to)?;
        }
        symlink(modules.join("node_modules"), dir.join("node_modules"))?;
        step(cache, "cockpit-build", npm(dir, &["run", "build"]))?;
        step(cache, "cockpit-test", npm(dir, &["test"]))
    })
}

/// The files below a directory, by their paths in it.
fn collect(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let mut open = vec![PathBuf::new()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(directory.join(&at))? {
            let entry = entry?;
            let path = at.join(entry.file_name());
            if MADE.iter().any(|made| Path::new(made) == path) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => open.push(path),
                false => into.push(path),
            }
        }
    }
    Ok(())
}
