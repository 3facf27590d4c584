// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is written, and whether the examples ask for what is written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use promql_parser::parser::{self, Expr};
use virtnotify_migrate::{Homeless, NoPeer, PeerPool, PeerState, Picture, WaitingVm};
use virtnotify_model::{Bytes, MoveInfo};
use virtnotifyd::fake::FakeStorage;

use super::*;

/// The metrics of a pool with a volume.
fn text() -> String {
    let directory = tempfile::tempdir().unwrap();
    let policy = "<notify:overcommit unit='MiB'>96</notify:overcommit>";
    let fake = FakeStorage::new(directory.path(), policy);
    let (name, volume): (PoolName, VolumeName) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    fake.backend.write(&name, &volume, Bytes::ZERO, Bytes::mib(8)).unwrap();
    let mon = "mon".parse().unwrap();
    fake.local.take_snapshot(&name, std::slice::from_ref(&volume), &mon).unwrap();
    fake.backend.write(&name, &volume, Bytes::ZERO, Bytes(1)).unwrap();
    let mut counted = Counted::default();
    counted.take(&Event::PoolStarted(name.clone()));
    let (by, allocation, capacity) = (Bytes(5), Bytes(5), Bytes::mib(64));
    let grown = Event::VolumeGrown { pool: name, volume, by, allocation, capacity };
    counted.take(&grown);
    counted.take(&grown);
    let reason = String::new();
    counted.take(&Event::RunsTwice { info: a_move(), reason });
    let moves = Moves::default();
    moves.pretend(&a_move());
    moves.publish(a_picture());
    let text = render(fake.local.as_ref(), &moves, &counted).text().unwrap();
    String::from_utf8(text).unwrap()
}

/// A VM that waits, and a peer that takes none.
fn a_picture() -> Picture {
    let pool: PoolName = "vms".parse().unwrap();
    let (capacity, available, reserved) = (Bytes(100), Bytes(50), Bytes(10));
    Picture {
        waiting: vec![WaitingVm {
            domain: "guest2".into(),
            uuid: uuid::Uuid::from_u128(2),
            pool: pool.clone(),
            volume: "disk0".parse().unwrap(),
            since: 7,
            reason: String::new(),
        }],
        open: Vec::new(),
        peers: vec![PeerState {
            name: "host2".into(),
            uri: String::new(),
            checked: Some(9),
            problem: Some("is drained: it takes no VMs".into()),
            arriving: 1,
            arrivals: 2,
            pools: vec![PeerPool { name: pool, capacity, available, reserved }],
        }],
        homeless: vec![Homeless { domain: "guest3".into(), why: NoPeer::default() }],
        held_back: Vec::new(),
    }
}

fn a_move() -> MoveInfo {
    MoveInfo {
        domain: "guest".into(),
        uuid: uuid::Uuid::from_u128(1),
        pool: "vms".parse().unwrap(),
        volumes: Vec::new(),
        from: "host1".into(),
        to: "host2".into(),
        allocation: Bytes::ZERO,
    }
}

/// The names of all series in the text.
fn names() -> BTreeSet<String> {
    let text = text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

#[test]
fn pools_and_volumes_are_written() {
    let text = text();
    for line in [
        "virtnotify_pool_size_bytes{pool=\"vms\"} 1073741824",
        "virtnotify_pool_promised_bytes{pool=\"vms\"} 67108864",
        "virtnotify_pool_promised_limit_bytes{pool=\"vms\"} 100663296",
        "virtnotify_volume_size_bytes{pool=\"vms\",volume=\"disk0\"} 67108864",
        "virtnotify_volume_allocated_bytes{pool=\"vms\",volume=\"disk0@mon\"} 8388608",
        "virtnotify_volume_exclusive_bytes{pool=\"vms\",volume=\"disk0@mon\"} 4194304",
        "virtnotify_volume_exclusive_bytes{pool=\"vms\",volume=\"disk0\"} 4194304",
        "virtnotify_volume_growths_total{pool=\"vms\",volume=\"disk0\"} 2",
        "virtnotify_volume_grown_bytes_total{pool=\"vms\",volume=\"disk0\"} 10",
        "virtnotify_volume_write_wait_seconds_count{pool=\"vms\",volume=\"disk0\"} 0",
        "virtnotify_moves_total{result=\"moved\"} 0",
        "virtnotify_vm_ran_twice_total 1",
        "virtnotify_move_open{vm=\"guest\",to=\"host2\",phase=\"preparing\"} 1",
        "virtnotify_vm_waiting_since_seconds{vm=\"guest2\",pool=\"vms\"} 7",
        "virtnotify_peer_ready{peer=\"host2\"} 0",
        "virtnotify_vm_without_peer{vm=\"guest3\"} 1",
        "virtnotify_peer_arriving{peer=\"host2\"} 1",
        "virtnotify_peer_pool_reserved_bytes{peer=\"host2\",pool=\"vms\"} 10",
        "virtnotify_host_drained 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

/// The directory is another user's, who has put links under the names that we write to.
#[tokio::test]
async fn a_link_in_the_directory_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("precious"), "as it was").unwrap();
    let links = ["virtnotify.prom", "virtnotify.new", ".virtnotify.prom.new"];
    for link in links {
        std::os::unix::fs::symlink(at("precious"), at(link)).unwrap();
    }
    let fake = FakeStorage::new(directory.path(), "");
    let metrics = Metrics::new(fake.local, Moves::default(), &fake.events);
    metrics.write(at("virtnotify.prom")).await.unwrap();
    assert_eq!(fs::read_to_string(at("precious")).unwrap(), "as it was");
    assert!(fs::symlink_metadata(at("virtnotify.prom")).unwrap().is_file());
    assert!(fs::read_to_string(at("virtnotify.prom")).unwrap().contains("virtnotify_up{version="));
    assert!(metrics.write("/nowhere/x.prom".into()).await.is_err());
}

/// The metrics that a query names.
fn asked(expression: &Expr, into: &mut BTreeSet<String>) {
    match expression {
        Expr::VectorSelector(of) => into.extend(of.name.clone()),
        Expr::MatrixSelector(of) => into.extend(of.vs.name.clone()),
        Expr::Aggregate(of) => asked(&of.expr, into),
        Expr::Unary(of) => asked(&of.expr, into),
        Expr::Binary(of) => {
            asked(&of.lhs, into);
            asked(&of.rhs, into);
        }
        Expr::Paren(of) => asked(&of.expr, into),
        Expr::Subquery(of) => asked(&of.expr, into),
        Expr::Call(of) => of.args.args.iter().for_each(|argument| asked(argument, into)),
        _ => {}
    }
}

/// Each query is valid, and asks for nothing of ours that is not written. Says what all of them ask for.
fn check(queries: &[String], least: usize) -> BTreeSet<String> {
    assert!(queries.len() >= least, "{queries:?}");
    let (names, mut all) = (names(), BTreeSet::new());
    for query in queries {
        let query = query.replace("$__rate_interval", "5m");
        let parsed = parser::parse(&query).unwrap_or_else(|e| panic!("{query}: {e}"));
        let mut named = BTreeSet::new();
        asked(&parsed, &mut named);
        assert!(!named.is_empty(), "{query} asks for nothing");
        for name in named.iter().filter(|name| name.starts_with("virtnotify_")) {
            assert!(names.contains(name), "{query}: nobody writes {name}");
        }
        all.extend(named);
    }
    all
}

fn packaging(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(file);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_alerts_ask_for_what_is_written() {
    let rules: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&packaging("prometheus/virtnotify.rules.yml")).unwrap();
    let mut queries = Vec::new();
    for group in rules["groups"].as_sequence().unwrap() {
        for rule in group["rules"].as_sequence().unwrap() {
            assert!(rule["alert"].is_string() && rule["annotations"]["summary"].is_string());
            queries.push(rule["expr"].as_str().unwrap().to_owned());
        }
    }
    check(&queries, 5);
}

#[test]
fn the_dashboard_asks_for_what_is_written() {
    let board: serde_json::Value =
        serde_json::from_str(&packaging("grafana/virtnotify.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let shown = check(&queries, 8);
    // The parts of a histogram have its name and more.
    let is_shown = |name: &String| shown.iter().any(|shown| shown.starts_with(name.as_str()));
    let elsewhere = [
        // Whether it is alive is an alert's question, and so is damage.
        "virtnotify_up",
        "virtnotify_pool_damage_total",
        "virtnotify_peer_checked_seconds",
        // A volume's size says little beside what it holds.
        "virtnotify_volume_size_bytes",
    ];
    let family = |name: String| {
        let parts = ["_bucket", "_sum", "_count"].iter();
        parts.fold(name, |name, part| name.trim_end_matches(part).to_owned())
    };
    let wanted = names().into_iter().map(family);
    let wanted = wanted.filter(|name| !elsewhere.contains(&name.as_str()));
    let missing: BTreeSet<String> = wanted.filter(|name| !is_shown(name)).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    let variables = board["templating"]["list"].as_array().unwrap().iter();
    assert!(variables.clone().all(|v| v["query"].as_str().unwrap().contains("virtnotify_")));
}
