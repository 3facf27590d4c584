// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the collector brings and what it costs: what must come of that, and its tables.

use serde_json::{Map, Value, json};

use super::numbers::{rounded, short, shown, size, time};
use super::results::Results;
use super::seeking;
use super::table::Table;
use super::targets::verdict;

const MIB: f64 = 1048576.0;
/// The pools, as results name them: those with small chunks, and with the default.
const SMALL: &str = "64k";
const USUAL: &str = "4m";

/// What a goal is about.
enum Goal {
    /// A figure of the writes beside this, by the same when nothing is done: the pool, what is done, the figure.
    Against(&'static str, &'static str, &'static str),
    /// The longest write beside this, in milliseconds.
    Longest(&'static str, &'static str),
    /// How often the daemon's threads, or those of this name, wake in an idle minute, with the most volumes.
    Wakes(Option<&'static str>),
}

use Goal::{Against, Longest, Wakes};

/// What is to be reached: the name, what it is about, the most it may be, what it compares.
const GOALS: [(&str, Goal, f64, &str); 10] = [
    (
        "defrag_longest",
        Against(SMALL, "defrag", "max_us"),
        3.0,
        "longest write during `defrag`, against idle",
    ),
    ("defrag_longest_ms", Longest(SMALL, "defrag"), 50.0, "the same in milliseconds"),
    (
        "evacuate_longest",
        Against(SMALL, "evacuate", "max_us"),
        3.0,
        "longest write during `evacuate`, against idle",
    ),
    ("evacuate_longest_ms", Longest(SMALL, "evacuate"), 50.0, "the same in milliseconds"),
    (
        "reclaim_longest",
        Against(USUAL, "reclaim", "max_us"),
        3.0,
        "longest write during `reclaim`, against idle",
    ),
    ("reclaim_longest_ms", Longest(USUAL, "reclaim"), 50.0, "the same in milliseconds"),
    (
        "delete_p99_64k",
        Against(SMALL, "delete", "p99_us"),
        2.0,
        "p99 of writes while a neighbour is deleted, against idle, 64 KiB chunks",
    ),
    ("delete_p99_4m", Against(USUAL, "delete", "p99_us"), 2.0, "the same with 4 MiB chunks"),
    (
        "collector_wakes",
        Wakes(Some("collector")),
        0.0,
        "times that the collector's thread wakes in an idle minute",
    ),
    ("idle_wakes", Wakes(None), 0.0, "the same of all threads of virtnotifyd"),
];

fn rows<'a>(results: &'a Results, table: &str) -> &'a [Value] {
    let at = format!("collector/{table}");
    results.value(&at).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A figure of a guest's writes beside something.
fn writes(results: &Results, pool: &str, what: &str, figure: &str) -> Option<f64> {
    let mut all = rows(results, "writes").iter();
    all.find(|row| row["pool"] == pool && row["what"] == what)?[figure].as_f64()
}

fn reached(results: &Results, goal: &Goal) -> Option<f64> {
    match *goal {
        Against(pool, what, figure) => {
            let idle = writes(results, pool, "idle", figure).filter(|value| *value > 0.0)?;
            Some(writes(results, pool, what, figure)? / idle)
        }
        Longest(pool, what) => Some(writes(results, pool, what, "max_us")? / 1000.0),
        Wakes(thread) => {
            let row = rows(results, "idle").last()?;
            // Threads that do not wake are left out.
            let one = |name| row["threads"].as_object().map(|all| all.get(name));
            match thread {
                Some(name) => one(name).map(|wakes| wakes.and_then(Value::as_f64).unwrap_or(0.0)),
                None => row["wakes"].as_f64(),
            }
        }
    }
}

/// What is reached, and what is to be, for the result's file.
pub fn as_json(results: &Results) -> Value {
    let mut all = Map::new();
    for (name, goal, most, _) in &GOALS {
        if let Some(reached) = reached(results, goal) {
            let reached = rounded(reached);
            all.insert((*name).to_owned(), json!({ "reached": reached, "at_most": most }));
        }
    }
    Value::Object(all)
}

/// All tables.
pub fn tables(results: &Results) -> Vec<Table> {
    vec![goals(results), beside(results), runs(results), moves(results), idle(results)]
}

fn goals(results: &Results) -> Table {
    let mut table = Table::new(
        "What is to be reached beside the collector, with the default budget",
        &["name", "what", "reached", "at most", ""],
    );
    for (name, goal, most, what) in &GOALS {
        let [value, verdict] = verdict(reached(results, goal), |value| value <= *most);
        table.row([(*name).into(), (*what).into(), value, format!("{most}"), verdict]);
    }
    table
}

fn number(row: &Value, field: &str, show: impl Fn(f64) -> String) -> String {
    shown(row[field].as_f64(), show)
}

fn count(value: f64) -> String {
    format!("{value}")
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

/// The chunks of a row's pool.
fn chunks(row: &Value) -> String {
    match row["pool"].as_str() {
        Some(USUAL) => "4 MiB (the default)".into(),
        _ => "64 KiB".into(),
    }
}

fn beside(results: &Results) -> Table {
    let mut table = Table::new(
        "A guest that writes 4 KiB at random, a millisecond after the last write (virtual time, flushes cost nothing)",
        &["beside", "chunks", "writes", "over", "p50", "p99", "longest"],
    );
    for row in rows(results, "writes") {
        let what = match row["what"].as_str() {
            Some("idle") => "nothing".to_owned(),
            Some("delete") => "delete of a neighbour".to_owned(),
            _ => text(row, "what"),
        };
        let seconds = number(row, "seconds", |s| time(s * 1e6));
        let times = ["p50_us", "p99_us", "max_us"].map(|field| number(row, field, time));
        let head = [what, chunks(row), number(row, "writes", count), seconds];
        table.row(head.into_iter().chain(times));
    }
    table
}

fn runs(results: &Results) -> Table {
    let title = format!(
        "A volume in pieces of 64 KiB, 1 MiB and 4 MiB at random places, read in its order; the rate is computed: {}",
        seeking::MODEL
    );
    let mut table = Table::new(
        &title,
        &["", "size", "runs", "mean length", "longest", "reads that stay in a run", "MiB/s"],
    );
    for row in rows(results, "runs") {
        let when = match row["when"].as_str() {
            Some("before") => "before `defrag`".to_owned(),
            _ => "after it".to_owned(),
        };
        let rate = row["bytes"].as_f64().zip(row["runs"].as_f64());
        let rate = rate.map(|(bytes, runs)| seeking::rate(bytes, runs) / MIB);
        table.row([
            when,
            number(row, "bytes", size),
            number(row, "runs", count),
            number(row, "mean_bytes", size),
            number(row, "longest_bytes", size),
            number(row, "stay", |share| format!("{:.2} %", 100.0 * share)),
            shown(rate, short),
        ]);
    }
    table
}

fn moves(results: &Results) -> Table {
    let mut table = Table::new("Emptying a disk (virtual time)", &["", "moved", "time", "MiB/s"]);
    for row in rows(results, "moves") {
        let way = match row["way"].as_str() {
            Some("budget") => "`evacuate`, with the default budget, beside a guest",
            Some("no_limit") => "`evacuate`, without a limit",
            _ => "LVM's `pvmove`",
        };
        let rate = row["bytes"].as_f64().zip(row["seconds"].as_f64());
        table.row([
            way.into(),
            number(row, "bytes", size),
            number(row, "seconds", |s| time(s * 1e6)),
            shown(rate.map(|(bytes, seconds)| bytes / MIB / seconds), short),
        ]);
    }
    table
}

fn idle(results: &Results) -> Table {
    let mut table = Table::new(
        "A minute in which there is nothing to do (virtual time)",
        &["idle volumes", "times that threads wake", "processor time", "threads that wake"],
    );
    for row in rows(results, "idle") {
        let threads = row["threads"].as_object().into_iter().flatten();
        let threads: Vec<_> = threads.map(|(name, wakes)| format!("{name} {wakes}")).collect();
        table.row([
            number(row, "volumes", count),
            number(row, "wakes", count),
            number(row, "cpu_us", time),
            threads.join(", "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(longest: f64, wakes: u64) -> Results {
        let writes = |pool: &str, what: &str, p99: f64, max: f64| json!({ "pool": pool, "what": what, "seconds": 2.5, "writes": 2000, "p50_us": 10.0, "p99_us": p99, "max_us": max });
        let runs = |when: &str, runs: u64| json!({ "when": when, "bytes": 64 << 20, "runs": runs, "mean_bytes": (64 << 20) / runs, "longest_bytes": 4 << 20, "stay": 0.9654 });
        let idle = |volumes: u64, wakes: u64| json!({ "volumes": volumes, "wakes": wakes, "cpu_us": 12.0, "threads": { "grow": wakes } });
        let mut results = Results::default();
        results.set(
            "collector",
            json!({
                "runs": [runs("before", 64), runs("after", 4)],
                "writes": [
                    writes(SMALL, "idle", 40.0, 2000.0),
                    writes(SMALL, "defrag", 80.0, longest),
                    writes(USUAL, "idle", 100.0, 50.0),
                    writes(USUAL, "delete", 250.0, 900.0),
                ],
                "moves": [{ "way": "pvmove", "bytes": 64 << 20, "seconds": 0.5 }],
                "idle": [idle(1, 0), idle(50, wakes)],
            }),
        );
        results
    }

    #[test]
    fn a_goal_is_of_its_own_pool_and_of_what_is_done() {
        let results = sample(6000.0, 3);
        let table = goals(&results);
        let row = |name: &str| table.rows.iter().find(|row| row[0] == name).unwrap()[2..].join(" ");
        assert_eq!(row("defrag_longest"), "3.0000 3 reached");
        assert_eq!(row("defrag_longest_ms"), "6.0000 50 reached");
        assert_eq!(row("delete_p99_4m"), "2.5000 2 not reached");
        assert_eq!(row("delete_p99_64k"), "not measured 2 ");
        assert_eq!(row("idle_wakes"), "3.0000 0 not reached");
        assert_eq!(row("collector_wakes"), "0.0000 0 reached");
        assert_eq!(as_json(&results)["defrag_longest"]["reached"], 3.0);
        assert_eq!(as_json(&Results::default()), json!({}));
    }

    #[test]
    fn tables_show_what_was_measured() {
        let all = tables(&sample(6000.0, 3));
        assert_eq!(
            all[1].rows[3],
            [
                "delete of a neighbour",
                "4 MiB (the default)",
                "2000",
                "2.50 s",
                "10.0 us",
                "250 us",
                "900 us"
            ]
        );
        assert_eq!(
            all[2].rows[0],
            ["before `defrag`", "64 MiB", "64", "1 MiB", "4 MiB", "96.54 %", "76.9"]
        );
        assert_eq!(all[3].rows[0], ["LVM's `pvmove`", "64 MiB", "500 ms", "128"]);
        assert_eq!(all[4].rows[1], ["50", "3", "12.0 us", "grow 3"]);
        assert!(tables(&Results::default()).iter().skip(1).all(|table| table.rows.is_empty()));
    }
}
