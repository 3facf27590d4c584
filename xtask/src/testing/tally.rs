// SPDX-License-Identifier: LGPL-2.1-or-later
//! What came of the tests, and the lines that a run ends with.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A test's name and why something happened to it.
type Reasoned = (String, String);

/// Counts and names of what ran and of what did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<Reasoned>,
    retried: Vec<Reasoned>,
    left_out: Vec<String>,
}

impl Tally {
    /// So many tests passed.
    pub fn pass(&mut self, count: usize) {
        self.passed += count;
    }

    /// A test failed; why is told at once.
    pub fn fail(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("xtask: {error:#}");
        self.failed.push(name.to_owned());
    }

    /// A test failed; its own output has told why.
    pub fn failed(&mut self, name: &str) {
        self.failed.push(name.to_owned());
    }

    /// A test did not run because something is missing.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// A test ran once more because of something that is not the product's.
    pub fn retry(&mut self, name: &str, reason: &str) {
        self.retried.push((name.to_owned(), reason.to_owned()));
    }

    /// A test takes long, and long ones were not asked for.
    pub fn leave_out(&mut self, name: &str) {
        self.left_out.push(name.to_owned());
    }

    /// Takes up another count.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
        self.retried.extend(other.retried);
        self.left_out.extend(other.left_out);
    }

    /// Takes up a run of tests that others had to skip: those are skipped no more.
    pub fn add_run_of_skipped(&mut self, names: &BTreeSet<String>, other: Self) {
        self.skipped.retain(|(name, _)| !names.contains(name));
        self.add(other);
    }

    /// Something ran, all of it passed, and nothing that was to run was skipped.
    pub fn is_success(&self) -> bool {
        self.passed > 0 && self.failed.is_empty() && self.skipped.is_empty()
    }

    /// What a run ends with; its last line is what machines read.
    pub fn closing(&self) -> String {
        let mut text = String::new();
        for name in &self.failed {
            let _ = writeln!(text, "failed: {name}");
        }
        for (word, tests) in [("skipped", &self.skipped), ("retried", &self.retried)] {
            for (name, reason) in tests {
                let _ = writeln!(text, "{word}: {name} ({reason})");
            }
        }
        if !self.left_out.is_empty() {
            let names = self.left_out.join(" ");
            let _ = writeln!(text, "left out, to be run with --long: {names}");
        }
        let (retried, left_out) = (self.retried.len(), self.left_out.len());
        let _ = writeln!(text, "{retried} retried, {left_out} left out");
        let (failed, skipped) = (self.failed.len(), self.skipped.len());
        let _ = writeln!(text, "{} passed, {failed} failed, {skipped} skipped", self.passed);
        text
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_closing_lines_name_all_but_what_passed() {
        let mut tally = Tally::default();
        tally.pass(7);
        tally.fail("lab/a", &anyhow!("ended with status 1"));
        tally.skip("b", "no virsh");
        tally.retry("lab/c", "the guest never came up");
        tally.leave_out("lab/d");
        tally.leave_out("lab/e");
        let expected = "failed: lab/a\nskipped: b (no virsh)\n\
                        retried: lab/c (the guest never came up)\n\
                        left out, to be run with --long: lab/d lab/e\n\
                        1 retried, 2 left out\n7 passed, 1 failed, 1 skipped\n";
        assert_eq!(tally.closing(), expected);
    }

    #[test]
    fn only_a_run_in_which_something_passed_and_nothing_else_happened_succeeds() {
        let mut tally = Tally::default();
        assert!(!tally.is_success(), "nothing ran");
        tally.pass(1);
        tally.retry("a", "lost");
        tally.leave_out("b");
        assert!(tally.is_success());
        let mut skipped = tally.clone();
        skipped.skip("c", "no virsh");
        assert!(!skipped.is_success(), "a skip is a failure");
        tally.failed("d");
        assert!(!tally.is_success());
    }

    #[test]
    fn what_runs_elsewhere_is_not_skipped() {
        let mut tally = Tally::default();
        tally.skip("a", "needs libvirt");
        tally.skip("b", "needs a rack");
        let mut there = Tally::default();
        there.pass(1);
        tally.add_run_of_skipped(&BTreeSet::from(["a".to_owned()]), there);
        assert!(tally.closing().ends_with("1 passed, 0 failed, 1 skipped\n"));
        assert!(tally.closing().contains("skipped: b (needs a rack)"));
    }
}
