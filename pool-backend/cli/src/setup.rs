// SPDX-License-Identifier: LGPL-2.1-or-later
//! `setup`: virtnotify-proxy in front of libvirt, or away again.

use std::process::{Command, Stdio};

use serde_json::json;
use virtnotify_setup::{Host, Report, SetupError, setup, undo};

use crate::args::code;
use crate::client::Problem;
use crate::show::{self, out};

/// `setup`.
pub fn run(undoing: bool, as_json: bool) -> Result<u8, Problem> {
    let host = Host::default();
    let report = if undoing { undo(&host) } else { setup(&host) };
    let report = report.map_err(|error: SetupError| Problem::Cannot(error.to_string()))?;
    match as_json {
        true => show::json(&json!({ "done": report.done, "notes": report.notes }))?,
        false => out(&to_text(&report))?,
    }
    Ok(code::FINE)
}

/// The programs that have a configuration.
const PROGRAMS: [&str; 3] =
    ["/usr/sbin/virtnotifyd", "/usr/sbin/virtnotify-control", "/usr/sbin/virtnotify-proxy"];

/// `setup --check`.
pub fn check(as_json: bool) -> Result<u8, Problem> {
    let wrong = wrong(&PROGRAMS)?;
    match as_json {
        true => show::json(&json!({ "wrong": wrong }))?,
        false if wrong.is_empty() => out("the configuration is right\n")?,
        false => out(&(wrong.join("\n") + "\n"))?,
    }
    Ok(if wrong.is_empty() { code::FINE } else { code::FINDINGS })
}

/// What programs find wrong with their configuration.
fn wrong(programs: &[&str]) -> Result<Vec<String>, Problem> {
    let mut wrong = Vec::new();
    for program in programs {
        let checked = Command::new(program).arg("--check").stdin(Stdio::null()).output();
        let checked =
            checked.map_err(|error| Problem::Cannot(format!("cannot run {program}: {error}")))?;
        if !checked.status.success() {
            let said = String::from_utf8_lossy(&checked.stderr);
            wrong.push(match said.trim() {
                "" => format!("{program} --check ended with {}", checked.status),
                said => said.to_owned(),
            });
        }
    }
    // Two of them read the same file.
    wrong.dedup();
    Ok(wrong)
}

fn to_text(report: &Report) -> String {
    let mut lines: Vec<&str> = report.done.iter().map(String::as_str).collect();
    if lines.is_empty() {
        lines.push("all is as asked already");
    }
    lines.extend(report.notes.iter().map(String::as_str));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_find_wrong_is_told() {
        assert_eq!(wrong(&["true", "true"]).unwrap(), [""; 0]);
        assert_eq!(wrong(&["true", "false"]).unwrap(), ["false --check ended with exit status: 1"]);
        let cat = "cat: unrecognized option '--check'";
        assert!(wrong(&["cat"]).unwrap()[0].starts_with(cat));
        assert!(wrong(&["/nowhere/x"]).is_err());
    }

    #[test]
    fn what_was_done_is_told_line_by_line() {
        assert_eq!(to_text(&Report::default()), "all is as asked already\n");
        let report = Report { done: vec!["a".to_owned()], notes: vec!["b".to_owned()] };
        assert_eq!(to_text(&report), "a\nb\n");
    }
}
