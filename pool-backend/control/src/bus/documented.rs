// SPDX-License-Identifier: LGPL-2.1-or-later
//! `docs/developer/dbus.md` has each property, method and signal with its types, and none that there is not.
//!
//! What is compared is `interface.xml`, which another test compares with what the objects say of themselves.

use std::collections::BTreeMap;

use uuid::Uuid;
use virtnotify_model::{Bytes, Event, MoveFailure, MoveInfo};

use super::rows::details;

const DOCUMENT: &str = include_str!("../../../../docs/developer/dbus.md");
const INTERFACES: &str = include_str!("interface.xml");

/// The sections of the document, by the interfaces that they describe.
const SECTIONS: [(&str, &str); 8] = [
    ("Pools", "Pool"),
    ("Volumes", "Volume"),
    ("VMs", "Vm"),
    ("Jobs", "Job"),
    ("Moves", "Move"),
    ("VMs that wait", "Waiting"),
    ("Peers", "Peer"),
    ("The manager", "Manager"),
];

/// An interface: types by names.
#[derive(Debug, Default, PartialEq)]
struct Described {
    properties: BTreeMap<String, String>,
    /// Arguments, and what is answered.
    methods: BTreeMap<String, (Vec<String>, Vec<String>)>,
    signals: BTreeMap<String, Vec<String>>,
}

/// The value of an attribute in a line of XML.
fn attribute(line: &str, name: &str) -> Option<String> {
    let start = line.find(&format!("{name}=\""))? + name.len() + 2;
    line[start..].split('"').next().map(str::to_owned)
}

fn declared(interface: &str) -> Described {
    let head = format!("<interface name=\"org.virtnotify1.{interface}\">");
    let start = INTERFACES.find(&head).unwrap();
    let body = INTERFACES[start..].split("</interface>").next().unwrap();
    let (mut all, mut member) = (Described::default(), String::new());
    for line in body.lines().map(str::trim) {
        let (name, kind) = (attribute(line, "name"), attribute(line, "type"));
        let name = name.unwrap_or_default();
        match line.split([' ', '>']).next().unwrap() {
            "<property" => drop(all.properties.insert(name, kind.unwrap())),
            "<method" => {
                member.clone_from(&name);
                all.methods.insert(name, Default::default());
            }
            "<signal" => {
                member.clone_from(&name);
                all.signals.insert(name, Vec::new());
            }
            "<arg" => match (attribute(line, "direction").as_deref(), kind.unwrap()) {
                (Some("in"), kind) => all.methods.get_mut(&member).unwrap().0.push(kind),
                (Some(_), kind) => all.methods.get_mut(&member).unwrap().1.push(kind),
                (None, kind) => all.signals.get_mut(&member).unwrap().push(kind),
            },
            _ => {}
        }
    }
    all
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The types among that.
fn types(text: &str) -> Vec<String> {
    let is_type = |word: &&str| word.chars().all(|letter| "ybnqiuxtdsogvah(){}".contains(letter));
    let text = text.replace("*move*", "`(sssassst)`");
    quoted(&text).into_iter().filter(is_type).map(str::to_owned).collect()
}

/// The rows of the tables in a section.
fn rows(section: &str) -> impl Iterator<Item = Vec<&str>> {
    let start = DOCUMENT.find(&format!("\n## {section}\n")).unwrap() + 4;
    let body = DOCUMENT[start..].split("\n## ").next().unwrap();
    let lines = body.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn of_document(section: &str) -> Described {
    let mut all = Described::default();
    for row in rows(section) {
        let words = quoted(row[0]);
        match row[..] {
            // Of the manager they stand among the methods.
            [_, kind, _] if kind.starts_with("property") => {
                all.properties.insert(words[0].to_owned(), types(kind)[0].clone());
            }
            [_, arguments, answer] => {
                for name in words {
                    all.methods.insert(name.to_owned(), (types(arguments), types(answer)));
                }
            }
            _ => {
                for pair in words.chunks(2) {
                    all.properties.insert(pair[0].to_owned(), pair[1].to_owned());
                }
            }
        }
    }
    all
}

/// `Cancel` stands in a sentence.
fn mentioned(section: &str, name: &str) -> bool {
    let start = DOCUMENT.find(&format!("\n## {section}\n")).unwrap() + 4;
    DOCUMENT[start..].split("\n## ").next().unwrap().contains(&format!("\n`{name}`* "))
}

#[test]
fn the_document_has_all_properties_and_methods_with_their_types() {
    for (section, interface) in SECTIONS {
        let (there, mut told) = (declared(interface), of_document(section));
        assert_eq!(there.properties, told.properties, "{interface}");
        if mentioned(section, "Cancel") {
            told.methods.insert("Cancel".into(), Default::default());
        }
        let names = |of: &Described| of.methods.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&there), names(&told), "{interface}");
        for (name, (arguments, answer)) in &there.methods {
            let (told_arguments, told_answer) = &told.methods[name];
            assert_eq!(arguments, told_arguments, "what {interface}.{name} takes");
            let told_answer: Vec<_> = told_answer.iter().take(answer.len()).collect();
            assert_eq!(
                answer.iter().collect::<Vec<_>>(),
                told_answer,
                "what {interface}.{name} answers"
            );
        }
    }
}

#[test]
fn the_document_has_all_signals_with_their_types() {
    let mut told = BTreeMap::new();
    for row in rows("Signals") {
        for name in quoted(row[0]) {
            told.insert(name.to_owned(), types(row[1]));
        }
    }
    assert_eq!(declared("Manager").signals, told);
}

/// The names of a signal's arguments.
fn arguments(signal: &str) -> Vec<String> {
    let head = format!("<signal name=\"{signal}\">");
    let body = &INTERFACES[INTERFACES.find(&head).unwrap() + head.len()..];
    let lines = body.split("</signal>").next().unwrap().lines();
    lines.filter_map(|line| attribute(line, "name")).collect()
}

/// `Events` tells the arguments of signals by the names that the signals' introspection has.
#[test]
fn an_event_has_the_arguments_of_its_signal() {
    let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let (some, text, domain, peer) = (Bytes(1), String::new(), String::new(), String::new());
    let info = MoveInfo {
        domain: "guest".into(),
        uuid: Uuid::from_u128(1),
        pool: "vms".parse().unwrap(),
        volumes: Vec::new(),
        from: "host1".into(),
        to: "host2".into(),
        allocation: some,
    };
    let (kind, reason, what) = (MoveFailure::Stayed, text.clone(), text);
    let all = [
        Event::PoolStarted(pool),
        Event::PoolStopped("vms".parse().unwrap()),
        Event::VolumeCreated { pool: "vms".parse().unwrap(), volume, capacity: some },
        Event::VolumeDeleted { pool: "vms".parse().unwrap(), volume: "x".parse().unwrap() },
        Event::SpaceLow { pool: "vms".parse().unwrap(), available: some },
        Event::SpaceExhausted {
            pool: "vms".parse().unwrap(),
            volume: "x".parse().unwrap(),
            wanted: some,
            available: some,
        },
        Event::SpaceAvailable { pool: "vms".parse().unwrap(), available: some },
        Event::Damage { pool: "vms".parse().unwrap(), what: what.clone() },
        Event::Warning { domain: domain.clone(), what },
        Event::MoveStarted(info.clone()),
        Event::MoveFinished(info.clone()),
        Event::MoveFailed { info: info.clone(), kind, reason: reason.clone() },
        Event::RunsTwice { info, reason: reason.clone() },
        Event::PeerFailed { peer: peer.clone(), reason },
        Event::PeerReady { peer },
        Event::Resumed { domain },
    ];
    let mut seen = Vec::new();
    for event in all {
        let (signal, details) = details(event).unwrap();
        let mut names: Vec<&str> = details.iter().map(|(name, _)| *name).collect();
        if signal.starts_with("Move") || signal == "RunsTwice" {
            names.splice(..7, ["what"]);
        }
        assert_eq!(names, arguments(signal), "{signal}");
        seen.push(signal.to_owned());
    }
    // These two are not kept.
    seen.extend(["VolumeGrown", "MoveProgress"].map(str::to_owned));
    seen.sort();
    assert_eq!(seen, declared("Manager").signals.into_keys().collect::<Vec<_>>());
}

#[test]
fn the_document_has_all_errors() {
    let source = include_str!("error.rs");
    let body = source.split("ZBus(zbus::Error),").nth(1).unwrap().split("\n}").next().unwrap();
    for line in body.lines().filter(|line| line.ends_with("(String),")) {
        let name = line.trim().split('(').next().unwrap();
        assert!(DOCUMENT.contains(&format!("`.{name}`")), "{name}");
    }
}
