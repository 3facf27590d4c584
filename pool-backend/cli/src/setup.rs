// SPDX-License-Identifier: LGPL-2.1-or-later
//! `setup`: virtnotifyd in front of libvirt, or away again.

use serde_json::json;
use virtnotify_setup::{Host, Report, SetupError, setup, undo};

use crate::args::code;
use crate::show::{self, out};
use crate::way::Problem;

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
    fn what_was_done_is_told_line_by_line() {
        assert_eq!(to_text(&Report::default()), "all is as asked already\n");
        let report = Report { done: vec!["a".to_owned()], notes: vec!["b".to_owned()] };
        assert_eq!(to_text(&report), "a\nb\n");
    }
}
