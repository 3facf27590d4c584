// SPDX-License-Identifier: LGPL-2.1-or-later
//! What shellcheck and pyflakes say of the scripts. What is not asked of them is in `.shellcheckrc`, in
//! the folder of the scripts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::tally::Tally;
use super::{Wanted, fresh_log};
use crate::cache::Cache;
use crate::{proc, ui};

/// Folders with scripts.
const FOLDERS: &[&str] =
    &[".ci", "cockpit/test", "debian", "docs", "fuzz", "hooks", "kmod", "packaging", "tests"];

/// A language of scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Shell,
    Python,
}

/// Runs both.
pub fn check(cache: &Cache, tally: &mut Tally, wanted: Wanted) {
    for (name, program, language) in
        [("shellcheck", "shellcheck", Language::Shell), ("pyflakes", "pyflakes3", Language::Python)]
    {
        if !wanted(name) {
            continue;
        }
        let log = fresh_log(cache, name);
        let result = ui::step(name, &log, || {
            let mut command = proc::command(program);
            command.args(scripts(&crate::top()?, language)?);
            proc::run_logged(command, &log)
        });
        match result {
            Ok(()) => tally.pass(1),
            Err(error) => tally.fail(name, &error),
        }
    }
}

/// All scripts of the checkout in that language.
fn scripts(top: &Path, language: Language) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        collect(&top.join(folder), language, &mut found)?;
    }
    ensure!(!found.is_empty(), "there are no scripts");
    Ok(found)
}

fn collect(folder: &Path, language: Language, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            collect(&path, language, into)?;
        } else if kind.is_file() && language_of(&path)? == Some(language) {
            into.push(path);
        }
    }
    Ok(())
}

fn language_of(path: &Path) -> Result<Option<Language>> {
    let content = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    let first = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let module = path.extension().is_some_and(|ext| ext == "py");
    Ok(if module { Some(Language::Python) } else { spoken(&String::from_utf8_lossy(first)) })
}

/// The language that a file's first line names.
fn spoken(line: &str) -> Option<Language> {
    let program = line.strip_prefix("#!")?.split_whitespace().last()?;
    match program.rsplit('/').next()? {
        "sh" | "bash" => Some(Language::Shell),
        "python3" => Some(Language::Python),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_tells_the_language() {
        for line in ["#!/bin/sh", "#!/usr/bin/env bash", "#!/bin/busybox sh"] {
            assert_eq!(spoken(line), Some(Language::Shell), "{line}");
        }
        assert_eq!(spoken("#!/usr/bin/env python3"), Some(Language::Python));
        for line in ["", "#!", "# sh", "#!/usr/bin/perl"] {
            assert_eq!(spoken(line), None, "{line}");
        }
    }

    #[test]
    fn scripts_of_both_languages_are_found() {
        let top = crate::top().unwrap();
        let found = |language| scripts(&top, language).unwrap();
        assert!(found(Language::Shell).contains(&top.join("debian/virtnotify.postinst")));
        assert!(found(Language::Shell).contains(&top.join("tests/lab/guest/init")));
        assert!(found(Language::Python).contains(&top.join("tests/lab/lab.py")));
    }
}
