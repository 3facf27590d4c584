// SPDX-License-Identifier: LGPL-2.1-or-later
//! The tests that run in the fast lab: the target's own, `tests/dm`, and those of `tests/fast`.
//!
//! Each has a boot and a limit of its own, so that a hang or a complaint of the kernel has a name. A
//! script says what it needs in a line `# fast: OPTIONS`, with the options of `lab fast run`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::boot::{self, Plan};
use super::{FastArgs, Parts, judge, verdict};
use crate::cache::Cache;
use crate::{proc, ui};

/// A script that could not run its test says so with this status; here everything is there.
const SKIPPED: i32 = 200;
/// What runs after each script that went well.
const LEFTOVERS: &str = "tests/fast/leftovers";
/// How many run at once: they wait more than they work.
const AT_ONCE: usize = 3;
/// What `tests/dm` read: beside each other, on a kernel that checks itself, all takes longer. The
/// rounds of stress that this leaves out are for two processors.
const SETTINGS: &str = "DEADLINE=300 STRESS_LOOPS=1";

/// A test that runs in the fast lab.
pub struct Test {
    /// Its name, such as `dm/01-base`.
    pub name: String,
    /// Whether it takes long and runs only when it is asked for.
    pub long: bool,
    /// Its path below /root.
    place: String,
    lab: FastArgs,
}

/// All of them, the lab's own first, then by room: those of `fast` take the longest.
pub fn all() -> Result<Vec<Test>> {
    let top = crate::top()?;
    let lab = FastArgs::parse_words("")?;
    let mut tests = vec![Test { name: judge::NAME.into(), long: false, place: String::new(), lab }];
    for (room, prefix) in [("fast", "test_"), ("dm", "")] {
        let folder = top.join("tests").join(room);
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let name = crate::file_name(&file)?;
            let numbered = name.starts_with(|c: char| c.is_ascii_digit());
            let Some((stem, "sh" | "py")) = name.rsplit_once('.') else { continue };
            if name.starts_with(prefix) && (numbered || !prefix.is_empty()) {
                tests.push(read(&file, format!("{room}/{stem}"), format!("tests/{room}/{name}"))?);
            }
        }
    }
    Ok(tests)
}

/// A script's text, and the lab that its line `# fast:` asks for.
pub fn asked_by(file: &Path) -> Result<(String, FastArgs)> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let options = text.lines().find_map(|line| line.strip_prefix("# fast: ")).unwrap_or_default();
    let lab = FastArgs::parse_words(options)
        .with_context(|| format!("{}: its line '# fast:'", file.display()))?;
    Ok((text, lab))
}

fn read(file: &Path, name: String, place: String) -> Result<Test> {
    let (text, lab) = asked_by(file)?;
    Ok(Test { name, long: text.lines().any(|line| line == "# long"), place, lab })
}

/// Runs tests, some at once; `ended` is told how each of them ended.
pub fn run(
    cache: &Cache,
    tests: Vec<Test>,
    ended: &mut (dyn FnMut(&str, Result<()>) + Send),
) -> Result<()> {
    if tests.is_empty() {
        return Ok(());
    }
    let any = |asks: fn(&FastArgs) -> bool| tests.iter().any(|test| asks(&test.lab));
    let (product, stress) = (any(|lab| lab.product), any(|lab| lab.stress));
    let asked = FastArgs { product, stress, ..FastArgs::parse_words("")? };
    let parts = Parts::make(cache, &asked)?;
    let (left, ended) = (Mutex::new(tests.into_iter()), Mutex::new(ended));
    std::thread::scope(|scope| {
        for turn in 0..AT_ONCE {
            let (parts, left, ended) = (&parts, &left, &ended);
            scope.spawn(move || {
                loop {
                    // A statement of its own: in a loop's condition the lock would be held on.
                    let next = locked(left).next();
                    let Some(test) = next else { break };
                    let result = one(cache, parts, &test, turn);
                    locked(ended)(&test.name, result);
                }
            });
        }
    });
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one(cache: &Cache, parts: &Parts, test: &Test, turn: usize) -> Result<()> {
    let log = cache.log(&format!("test-fast-{}", test.name.replace('/', "-")));
    let _ = std::fs::remove_file(&log);
    ui::step(&test.name, &log, || {
        if test.name == judge::NAME {
            return judge::run(cache, parts, turn);
        }
        // No leftovers are looked for after a failure: its status is the test's.
        let script = format!("{SETTINGS} ./{} && ./{LEFTOVERS}", test.place);
        let words = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        let plan = Plan { lab: test.lab.clone(), files: Vec::new(), words, turn };
        let ended = boot::run(cache, parts, &plan, proc::open_log(&log)?)?;
        match verdict::status(&ended)? {
            0 => Ok(()),
            SKIPPED => bail!("it was skipped, and here nothing may be"),
            status => bail!("it ended with status {status}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_the_target_are_found_by_name() {
        let found = all().unwrap();
        let base = found.iter().find(|test| test.name == "dm/01-base").unwrap();
        assert_eq!(base.place, "tests/dm/01-base.sh");
        assert!(!base.long && base.lab.disk.is_empty());
        assert!(found.iter().all(|test| !test.name.contains("lib")));
    }

    #[test]
    fn what_a_script_asks_for_must_be_an_option() {
        assert!(FastArgs::parse_words("--disk 1G --disk 512M --limit 60").is_ok());
        assert!(FastArgs::parse_words("--hosts 2").is_err());
    }
}
