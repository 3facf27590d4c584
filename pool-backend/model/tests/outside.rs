// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where a text from outside (a name, a path, an XML) could become an argument of a program.
//!
//! Every program that the product starts is listed here, with the arguments that come from outside
//! and what keeps them from being an option, a command or another file. A change that starts one
//! more program adds it, with its hostile names.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use virtnotify_model::{PoolName, VgName, VolumeName};

/// File and program, as its source names it. Beside each, what it gets from outside.
const STARTED: [(&str, &str); 7] = [
    // Nothing: a file of the operator's directory. Events are in its environment and on its standard input, see
    // `programs_get_the_event_and_no_arguments`.
    ("pool-backend/cli/src/notify.rs", "Command::new(program"),
    // Nothing: programs of our own, by their whole paths.
    ("pool-backend/cli/src/setup.rs", "Command::new(program"),
    // Each of its arguments is the value of an option, which virsh takes as it is: pools and volumes
    // (`PoolName`, `VolumeName`), numbers, and the VM and the host that its user named.
    ("pool-backend/cli/src/virsh.rs", "Command::new(\"virsh\""),
    // The host that its user named, behind `--`.
    ("pool-backend/cli/src/client.rs", "Unixexec::new(\"ssh\".into("),
    // Names of volume groups (`VgName`), names of our own for logical volumes, and the paths of
    // devices from a pool's XML: absolute, see `the_source_devices_are_paths` of the driver.
    ("pool-backend/engine/src/lvm/command.rs", "Command::new(&self.program"),
    // Nothing.
    ("pool-backend/engine/src/target/dm.rs", "Command::new(\"/sbin/modprobe\""),
    // Nothing: units that are written there.
    ("pool-backend/setup/src/lib.rs", "Command::new(&self.systemctl"),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn files(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, all),
            false => all.push(path),
        }
    }
}

/// The sources of what is installed, without tests.
fn sources() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for room in fs::read_dir(top().join("pool-backend")).unwrap() {
        let source = room.unwrap().path().join("src");
        if source.is_dir() {
            files(&source, &mut all);
        }
    }
    all.retain(|path| {
        let relative = path.strip_prefix(top()).unwrap().to_str().unwrap();
        relative.ends_with(".rs")
            && !relative.contains("test")
            && !relative.ends_with("listeners.rs")
    });
    all.sort();
    assert!(all.len() > 100, "{all:?}");
    all
}

/// The starts of programs in a file, up to its tests.
fn starts(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let words = ["Command::new(", "Unixexec::new(", "libc::system(", "libc::exec", "libc::popen("];
    let mut found = Vec::new();
    for word in words {
        for (at, _) in product.match_indices(word) {
            let rest = &product[at..];
            let end = rest[word.len()..].find(')').map_or(rest.len(), |end| word.len() + end);
            found.push(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn no_program_is_started_but_these() {
    let mut found = BTreeSet::new();
    for path in sources() {
        for start in starts(&fs::read_to_string(&path).unwrap()) {
            let file = path.strip_prefix(top()).unwrap().to_str().unwrap().to_owned();
            found.insert((file, start));
        }
    }
    let expected: BTreeSet<_> = STARTED.map(|(f, p)| (f.to_owned(), p.to_owned())).into();
    assert_eq!(found, expected);
}

#[test]
fn no_program_is_started_through_a_shell() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for shell in ["\"sh\"", "\"/bin/sh\"", "\"bash\"", "\"-c\""] {
            assert!(!product.contains(shell), "{}: {shell}", path.display());
        }
    }
}

/// What libvirt hands to the hook, and what is only named there.
#[test]
fn shell_scripts_that_are_installed_hand_their_arguments_on_behind_a_double_dash() {
    let list = fs::read_to_string(top().join("packaging/install.list")).unwrap();
    let mut scripts = Vec::new();
    for file in list.lines().filter_map(|line| line.strip_prefix("file")) {
        let source = file.split_whitespace().next().unwrap();
        let text = fs::read(top().join(source)).unwrap();
        if text.starts_with(b"#!") {
            let text = String::from_utf8(text).unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            let used: Vec<_> =
                lines.filter(|line| line.contains("$@") || line.contains("$1")).collect();
            // The examples get no arguments: `programs_get_the_event_and_no_arguments`.
            let expected: &[&str] = match source.starts_with("packaging/notify.d/") {
                true => &[],
                false => &["exec \"$program\" hook -- \"$@\""],
            };
            assert_eq!(used, expected, "{source}");
            scripts.push(source.to_owned());
        }
    }
    assert_eq!(scripts, ["hooks/qemu", "packaging/notify.d/mail", "packaging/notify.d/webhook"]);
}

/// Names with which other programs were made to do something else.
const HOSTILE: [&str; 24] = [
    "",
    "-",
    "--",
    "-f",
    "--config=devices{filter=[]}",
    "--help",
    "-oProxyCommand=touch x",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a b",
    "a\tb",
    "a\nb",
    "a\0b",
    "$(touch x)",
    "`touch x`",
    "a;touch x",
    "a|b",
    "%s%n",
    "*",
    "@tag",
    "unixexec:path=/bin/sh",
];

#[test]
fn hostile_names_are_no_names() {
    for name in HOSTILE {
        assert!(name.parse::<PoolName>().is_err(), "{name:?}");
        assert!(name.parse::<VolumeName>().is_err(), "{name:?}");
        assert!(name.parse::<VgName>().is_err(), "{name:?}");
    }
}

/// What every program, path and format takes for a plain word.
fn plain(name: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "+_.-".contains(letter);
    name.chars().all(letters) && !name.starts_with('-') && !["", ".", ".."].contains(&name)
}

proptest! {
    #[test]
    fn a_name_is_a_plain_word(name in "\\PC{0,12}|[-+_.a-z/@ ]{0,6}") {
        for taken in [name.parse::<PoolName>().is_ok(), name.parse::<VgName>().is_ok()] {
            prop_assert_eq!(taken, plain(&name));
        }
        // A snapshot's is two of them.
        let two = name.split_once('@').is_some_and(|(volume, at)| plain(volume) && plain(at));
        prop_assert_eq!(name.parse::<VolumeName>().is_ok(), plain(&name) || two);
    }
}
