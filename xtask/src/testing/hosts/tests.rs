// SPDX-License-Identifier: LGPL-2.1-or-later

use std::cell::RefCell;

use anyhow::anyhow;

use super::*;

thread_local! {
    /// What the place that stands for the lab does, by script, each time once; and what it did.
    static ANSWERS: RefCell<Vec<(&'static str, Result<i32>)>> = const { RefCell::new(Vec::new()) };
    static DONE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static EMULATED: RefCell<bool> = const { RefCell::new(true) };
}

struct Scripted;

impl Place for Scripted {
    fn fresh(_: &HostArgs) -> Result<Self> {
        DONE.with_borrow_mut(|done| done.push("boot".to_owned()));
        Ok(Self)
    }

    fn run(&mut self, script: &str, _: &Path, limit: Duration) -> Result<i32> {
        DONE.with_borrow_mut(|done| done.push(format!("{script} {}", limit.as_secs())));
        ANSWERS.with_borrow_mut(|answers| {
            let at = answers.iter().position(|(name, _)| *name == script);
            at.map_or(Ok(0), |at| answers.remove(at).1)
        })
    }

    fn loses_guests(&self) -> bool {
        EMULATED.with_borrow(|emulated| *emulated)
    }
}

fn script(name: &str) -> Script {
    Script {
        name: name.to_owned(),
        place: name.to_owned(),
        hosts: HostArgs::default_lab(),
        long: false,
        limit: Duration::from_secs(7),
    }
}

/// The closing lines of a run of the scripts `a` and `b`, and what was done for them.
fn run(answers: Vec<(&'static str, Result<i32>)>) -> (String, Vec<String>) {
    ANSWERS.set(answers);
    DONE.take();
    let dir = tempfile::tempdir().unwrap();
    let (mut tally, mut spent) = (Tally::default(), Spent::default());
    let hosts = HostArgs::default_lab();
    let mut group = Group::<Scripted> { hosts: &hosts, place: None, spent: &mut spent };
    for name in ["a", "b"] {
        group.test(&mut tally, &script(name), &dir.path().join(name));
    }
    (tally.closing(), DONE.take())
}

const LEFT: &str = "tests/lab/leftovers 120";

#[test]
fn scripts_that_pass_share_a_boot() {
    let (closing, done) = run(vec![]);
    assert_eq!(closing, "0 retried, 0 left out\n2 passed, 0 failed, 0 skipped\n");
    assert_eq!(done, ["boot", "a 7", LEFT, "b 7", LEFT]);
}

#[test]
fn after_a_failure_the_next_gets_fresh_hosts() {
    for answer in [
        ("a", Ok(1)),
        ("a", Err(crate::lab::Hung(Duration::from_secs(7)).into())),
        ("a", Err(anyhow!("host1 crashed"))),
        (LEFTOVERS, Ok(1)),
    ] {
        let (closing, done) = run(vec![answer]);
        assert!(closing.starts_with("failed: a\n"), "{closing}");
        assert!(closing.ends_with("1 passed, 1 failed, 0 skipped\n"), "{closing}");
        assert_eq!(done.iter().filter(|what| *what == "boot").count(), 2, "{done:?}");
    }
}

#[test]
fn a_guest_that_the_emulation_lost_is_tried_once_more_and_told() {
    let (closing, done) = run(vec![("a", Ok(LOST))]);
    assert!(closing.starts_with("retried: a (its guest never came up"), "{closing}");
    assert!(
        closing.ends_with("1 retried, 0 left out\n2 passed, 0 failed, 0 skipped\n"),
        "{closing}"
    );
    assert_eq!(done, ["boot", "a 7", "boot", "a 7", LEFT, "b 7", LEFT]);
    let (closing, _) = run(vec![("a", Ok(LOST)), ("a", Ok(LOST))]);
    assert!(closing.contains("failed: a\n"), "{closing}");
    assert!(
        closing.ends_with("1 retried, 0 left out\n1 passed, 1 failed, 0 skipped\n"),
        "{closing}"
    );
    let (closing, _) = run(vec![("a", Ok(LOST)), ("a", Ok(1))]);
    assert!(closing.ends_with("1 passed, 1 failed, 0 skipped\n"), "{closing}");
}

#[test]
fn nothing_else_is_tried_again() {
    for answer in [Ok(1), Ok(255), Err(anyhow!("host1 crashed"))] {
        let (closing, _) = run(vec![("a", answer)]);
        assert!(
            closing.ends_with("0 retried, 0 left out\n1 passed, 1 failed, 0 skipped\n"),
            "{closing}"
        );
    }
    EMULATED.set(false);
    let (closing, _) = run(vec![("a", Ok(LOST))]);
    EMULATED.set(true);
    assert!(
        closing.ends_with("0 retried, 0 left out\n1 passed, 1 failed, 0 skipped\n"),
        "{closing}"
    );
}

#[test]
fn a_skip_is_counted() {
    let (closing, done) = run(vec![("a", Ok(SKIPPED))]);
    assert!(closing.starts_with("skipped: a (it was skipped"), "{closing}");
    assert!(closing.ends_with("1 passed, 0 failed, 1 skipped\n"), "{closing}");
    assert_eq!(done.iter().filter(|what| *what == "boot").count(), 2, "{done:?}");
}

#[test]
fn who_asks_for_less_shares_the_hosts_of_who_asks_for_more() {
    let asks = |name: &str, words: &str| {
        let hosts = HostArgs::parse_words(words).unwrap();
        Script { hosts, ..script(name) }
    };
    let scripts = vec![
        asks("one", "--hosts 1"),
        asks("two", ""),
        asks("disk", "--hosts 1 --disk 2G"),
        asks("smaller", "--hosts 1 --disk 64M"),
        asks("larger", "--pv 3G"),
        asks("debian", "--libvirt debian"),
        asks("cpus", "--hosts 1 --cpus 2"),
        asks("both", "--disk 2G"),
    ];
    let groups = shared(scripts);
    let names: Vec<Vec<&str>> =
        groups.iter().map(|(_, all)| all.iter().map(|s| s.name.as_str()).collect()).collect();
    let expected = [
        vec!["one", "two", "disk", "both"],
        vec!["smaller"],
        vec!["larger"],
        vec!["debian"],
        vec!["cpus"],
    ];
    assert_eq!(names, expected);
    assert_eq!(groups[0].0, HostArgs::parse_words("--disk 2G").unwrap());
}
