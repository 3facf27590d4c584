// SPDX-License-Identifier: LGPL-2.1-or-later
//! What writes cost after a snapshot: the rows that are measured in virtual time, what must come of
//! them, and the ratios.
//!
//! A snapshot's chunk is copied when it is written for the first time, so ways are compared that copy
//! chunks of the same size, and as many of them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;

use super::numbers::{rounded, short, shown, time};
use super::plan::CHUNK;
use super::results::Results;
use super::table::Table;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4 * KIB;

/// A way to have snapshots.
struct Way {
    name: &'static str,
    label: &'static str,
    kind: &'static str,
    chunk: u64,
    /// Single writes: one to each of this many chunks.
    count: u64,
    snapshots: bool,
    clean: bool,
    /// Whether it is measured with many snapshots below as well.
    deep: bool,
}

const fn way(name: &'static str, label: &'static str, kind: &'static str, chunk: u64) -> Way {
    let count = if chunk == CHUNK { 128 } else { 2048 };
    Way { name, label, kind, chunk, count, snapshots: true, clean: true, deep: true }
}

/// All of them, in the order of tables. notify's rows are those with a pool.
const WAYS: [Way; 8] = [
    Way { snapshots: false, deep: false, ..way("lv", "plain LV, no snapshot", "linear", 64 * KIB) },
    Way {
        deep: false,
        ..way("classic64k", "classic LVM snapshot, 64 KiB chunks", "classic", 64 * KIB)
    },
    way("thin64k", "dm-thin, 64 KiB chunks", "thin", 64 * KIB),
    way("notify64k", "notify, 64 KiB chunks", "notify", 64 * KIB),
    Way {
        clean: false,
        deep: false,
        ..way("notify64k_installed", "the same, as installed", "notify", 64 * KIB)
    },
    way("thin4m", "dm-thin, 4 MiB chunks", "thin", CHUNK),
    way("notify4m", "notify, 4 MiB chunks (the default)", "notify", CHUNK),
    Way {
        clean: false,
        deep: false,
        ..way("notify4m_installed", "the same, as installed", "notify", CHUNK)
    },
];
/// The jobs after a snapshot whose first writes copy chunks; what they are called in ratios.
const COPYING: [&str; 2] = ["snapfirst", "snapseq"];
/// Who is compared with whom: ways of notify, and those with chunks of the same size.
const PAIRS: [(&str, &[&str]); 4] = [
    ("notify64k", &["thin64k", "classic64k"]),
    ("notify64k_installed", &["thin64k", "classic64k"]),
    ("notify4m", &["thin4m"]),
    ("notify4m_installed", &["thin4m"]),
];

/// What is done on a volume that has its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Job {
    name: &'static str,
    /// fio's word for it.
    rw: &'static str,
    block: u64,
    amount: u64,
    /// The size of the parts of which each gets one write, in a random order.
    each: Option<u64>,
    /// Whether it is the first to write what a snapshot holds, and nothing else does.
    copies: bool,
}

/// A volume that is filled, and gets this many snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Volume {
    size: u64,
    snapshots: u64,
    jobs: Vec<Job>,
}

/// A way with its volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    way: &'static str,
    kind: &'static str,
    chunk: u64,
    /// What is made clean beforehand; nothing where the pool is as it is installed.
    headroom: u64,
    volumes: Vec<Volume>,
}

/// Everything that the script does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The size of the disk on which the others are.
    disk: u64,
    rows: Vec<Row>,
}

impl Plan {
    /// All of it, or an eighth.
    pub fn new(quick: bool) -> Self {
        let part = if quick { 8 } else { 1 };
        let rows: Vec<Row> = WAYS.iter().map(|way| row(way, part)).collect();
        let sizes = rows.iter().flat_map(|row| &row.volumes).map(|volume| volume.size);
        // Four times the largest: itself, what is copied of it, and what of that is kept apart.
        Self { disk: 4 * sizes.max().unwrap_or(0) + 512 * MIB, rows }
    }
}

fn row(way: &Way, part: u64) -> Row {
    let volumes = volumes(way, part);
    let largest = volumes.iter().map(|volume| volume.size).max().unwrap_or(0);
    let headroom = if way.kind == "notify" && way.clean { 3 * largest } else { 0 };
    Row { way: way.name, kind: way.kind, chunk: way.chunk, headroom, volumes }
}

fn volumes(way: &Way, part: u64) -> Vec<Volume> {
    let (sequential, steady) = (256 * MIB / part, 128 * MIB / part);
    let snapshots = u64::from(way.snapshots);
    let single = |name, copies| Job {
        name,
        rw: "randwrite",
        block: BLOCK,
        amount: way.count / part * BLOCK,
        each: Some(way.chunk),
        copies,
    };
    let plain =
        |name, rw, block, amount, copies| Job { name, rw, block, amount, each: None, copies };
    let mut volumes = vec![
        Volume {
            size: way.count / part * way.chunk,
            snapshots,
            jobs: vec![single("snapfirst", way.snapshots), single("snapsecond", false)],
        },
        Volume {
            size: sequential,
            snapshots,
            jobs: vec![plain("snapseq", "write", MIB, sequential, way.snapshots)],
        },
        Volume {
            size: steady,
            snapshots: 0,
            jobs: vec![
                plain("read0", "randread", BLOCK, steady, false),
                plain("write0", "randwrite", BLOCK, steady, false),
            ],
        },
    ];
    if way.deep {
        // What is read lies in all of the layers; what is written was written since the last one.
        let jobs = vec![
            plain("read10", "randread", BLOCK, steady, false),
            plain("cover", "write", MIB, steady, false),
            plain("write10", "randwrite", BLOCK, steady, false),
        ];
        volumes.push(Volume { size: steady, snapshots: 10, jobs });
    }
    volumes
}

/// A job's rate, with all that was done between its writes.
fn speed(results: &Results, way: &str, job: &str) -> Option<f64> {
    let at = format!("layers/figures/{way}/{job}");
    let requests = results.number(&format!("{at}/requests"))?;
    let milliseconds = results.number(&format!("{at}/milliseconds")).filter(|ms| *ms > 0.0)?;
    Some(1000.0 * requests / milliseconds)
}

/// Refuses a result that lacks something of the plan, or in which not each chunk was copied once.
pub fn check(results: &Results, plan: &Plan) -> Result<()> {
    for row in &plan.rows {
        for volume in &row.volumes {
            for job in &volume.jobs {
                let figure = format!("layers/figures/{}/{}", row.way, job.name);
                if speed(results, row.way, job.name).is_none() {
                    bail!("the result has no figure {figure}");
                }
                let (asked, found) =
                    (volume.size / row.chunk, results.number(&format!("{figure}/chunks")));
                if job.copies && found != Some(asked as f64) {
                    bail!("{figure} copied {found:?} chunks, where {asked} were to be written");
                }
            }
        }
    }
    Ok(())
}

/// What is reached with clean headroom, or as installed.
pub fn ratios(results: &Results, installed: bool) -> BTreeMap<String, f64> {
    let mut ratios = BTreeMap::new();
    let mut add = |name: String, ours: Option<f64>, theirs: Option<f64>| {
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            ratios.insert(name, rounded(ours / theirs));
        }
    };
    for (ours, peers) in PAIRS.iter().filter(|(way, _)| way.ends_with("_installed") == installed) {
        for (peer, job) in peers.iter().flat_map(|peer| COPYING.map(|job| (peer, job))) {
            add(format!("{job}_{peer}"), speed(results, ours, job), speed(results, peer, job));
        }
        let suffix = if ours.starts_with("notify64k") { "_64k" } else { "" };
        for (name, deep, none) in
            [("snapsteady", "write10", "write0"), ("snapread", "read10", "read0")]
        {
            let of = |job| speed(results, ours, job);
            add(format!("{name}{suffix}"), of(deep), of(none));
        }
    }
    ratios
}

/// What one write, or a whole job, takes after a snapshot.
pub fn tables(results: &Results) -> [Table; 2] {
    let mut first = Table::new(
        "The first write to a chunk after a snapshot (virtual time)",
        &[
            "",
            "chunks copied",
            "4 KiB, random: mean",
            "p50",
            "p99",
            "max",
            "writes/s",
            "the second write",
            "1 MiB, sequential: MiB/s",
        ],
    );
    let mut deep = Table::new(
        "Ten snapshots below, thousand requests/s of 4 KiB (virtual time)",
        &["", "write, none", "write, ten", "read, none", "read, ten"],
    );
    for way in &WAYS {
        let number = |path: &str| results.number(&format!("layers/figures/{}/{path}", way.name));
        let chunks = if way.snapshots {
            shown(number("snapfirst/chunks"), |n| format!("{n}"))
        } else {
            "-".to_owned()
        };
        let times = ["mean_us", "p50_us", "p99_us", "max_us"];
        let times = times.map(|name| shown(number(&format!("snapfirst/{name}")), time));
        let rate =
            |job: &str, unit: f64| shown(speed(results, way.name, job), |rate| short(rate / unit));
        let rest = [
            rate("snapfirst", 1.0),
            shown(number("snapsecond/mean_us"), time),
            rate("snapseq", 1.0),
        ];
        first.row([way.label.to_owned(), chunks].into_iter().chain(times).chain(rest));
        if way.deep {
            let cells = ["write0", "write10", "read0", "read10"].map(|job| rate(job, 1e3));
            deep.row([way.label.to_owned()].into_iter().chain(cells));
        }
    }
    [first, deep]
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Map, Value, json};

    use super::super::numbers::NOT_RUN;
    use super::*;

    /// A result that has all of a plan; a way of notify takes half as long as the others.
    pub fn complete(plan: &Plan) -> Results {
        let mut ways = Map::new();
        for row in &plan.rows {
            let milliseconds = if row.kind == "notify" { 500.0 } else { 1000.0 };
            let jobs = row.volumes.iter().flat_map(|v| v.jobs.iter().map(move |job| (v, job)));
            let figures = jobs.map(|(volume, job)| {
                let mut figure =
                    json!({ "requests": 100, "milliseconds": milliseconds, "mean_us": 10.0 });
                if job.copies {
                    figure["chunks"] = json!(volume.size / row.chunk);
                }
                (job.name.to_owned(), figure)
            });
            ways.insert(row.way.into(), figures.collect());
        }
        let mut results = Results::default();
        results.set("layers", json!({ "figures": Value::Object(ways) }));
        results
    }

    #[test]
    fn who_is_compared_copies_as_many_chunks_of_the_same_size() {
        for quick in [false, true] {
            let plan = Plan::new(quick);
            let row = |name: &str| plan.rows.iter().find(|row| row.way == name).unwrap();
            for (ours, peers) in PAIRS {
                for peer in peers {
                    let (ours, peer) = (row(ours), row(peer));
                    assert_eq!(ours.chunk, peer.chunk);
                    assert_eq!(ours.volumes[..2], peer.volumes[..2]);
                    assert!(ours.volumes[0].size / ours.chunk >= 8);
                }
            }
        }
    }

    #[test]
    fn clean_headroom_is_more_than_all_that_is_written() {
        let plan = Plan::new(false);
        for row in &plan.rows {
            let largest = row.volumes.iter().map(|volume| volume.size).max().unwrap();
            let clean = row.kind == "notify" && !row.way.ends_with("_installed");
            assert_eq!(row.headroom >= 2 * largest, clean, "{}", row.way);
            assert!(plan.disk >= 4 * largest);
        }
    }

    #[test]
    fn ratios_are_rates_by_rates_of_the_same_chunks() {
        let results = complete(&Plan::new(true));
        let clean = ratios(&results, false);
        let names: Vec<&str> = clean.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "snapfirst_classic64k",
                "snapfirst_thin4m",
                "snapfirst_thin64k",
                "snapread",
                "snapread_64k",
                "snapseq_classic64k",
                "snapseq_thin4m",
                "snapseq_thin64k",
                "snapsteady",
                "snapsteady_64k"
            ]
        );
        assert_eq!((clean["snapfirst_thin64k"], clean["snapsteady"]), (2.0, 1.0));
        // Nothing is measured there with ten snapshots.
        assert!(!ratios(&results, true).contains_key("snapsteady"));
        assert!(ratios(&Results::default(), false).is_empty());
    }

    #[test]
    fn a_result_with_chunks_that_were_not_copied_is_refused() {
        let plan = Plan::new(true);
        let mut results = complete(&plan);
        assert!(check(&results, &plan).is_ok());
        assert!(check(&results, &Plan::new(false)).is_err());
        let mut figures = results.value("layers").unwrap().clone();
        figures["figures"]["thin64k"]["snapfirst"]["chunks"] = json!(17);
        results.set("layers", figures);
        let refused = check(&results, &plan).unwrap_err().to_string();
        assert!(refused.contains("thin64k/snapfirst copied Some(17.0) chunks"), "{refused}");
        let missing = check(&Results::default(), &plan).unwrap_err().to_string();
        assert_eq!(missing, "the result has no figure layers/figures/lv/snapfirst");
    }

    #[test]
    fn a_row_that_was_not_run_says_so() {
        let [first, deep] = tables(&complete(&Plan::new(true)));
        assert_eq!(first.rows[0][1], "-");
        assert_eq!(first.rows[2][1..3], ["256", "10.0 us"]);
        assert_eq!(first.rows[2][6..], ["100", "10.0 us", "100"]);
        assert_eq!(deep.rows.len(), 4);
        let [first, _] = tables(&Results::default());
        assert_eq!(first.rows[2][1..], [NOT_RUN; 8]);
    }
}
