// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is to be reached in virtual time.
//!
//! A goal is what is wanted, whether it is reached or not. A floor is what was reached when it was
//! written here, rounded down: where notify is slower than others, it may not become slower still.

use serde_json::{Value, json};

use super::results::{OURS, Results};
use super::table::Table;

/// Goals or floors: the ratio, its least value, what it compares.
type Targets = [(&'static str, f64, &'static str)];

const GOALS: &Targets = &[
    ("randread_linear", 0.99, "random 4 KiB read, against dm-linear"),
    ("randwrite_linear", 0.98, "random 4 KiB write, against dm-linear"),
    ("seqfirst_linear", 0.97, "sequential first write, against dm-linear"),
    ("seqfirst_thin4m", 2.0, "sequential first write, against dm-thin 4 MiB"),
    ("seqread_linear", 0.99, "sequential read, against dm-linear"),
    ("seqwrite_linear", 0.99, "sequential second write, against dm-linear"),
    ("randfirst_linear", 0.70, "64 random writes a chunk, one of them first, against dm-linear"),
    ("randfirst_thin4m", 1.4, "the same, against dm-thin 4 MiB"),
    ("ahead_share", 0.95, "chunks that were there before a sequential writer came"),
];

/// The same of snapshots.
const LAYER_GOALS: &Targets = &[
    (
        "snapfirst_thin64k",
        1.3,
        "random 4 KiB first write after a snapshot, both with 64 KiB chunks",
    ),
    ("snapseq_thin64k", 1.5, "sequential overwrite after a snapshot, both with 64 KiB chunks"),
    ("snapsteady", 0.98, "random write with ten snapshots below, against none"),
];

/// The table of one of [`OURS`]'s targets.
fn targets_of(way: &str) -> [(&'static str, &'static Targets); 2] {
    match way {
        "notify" => [("goal", GOALS), ("floor", FLOORS)],
        "notify_installed" => [("goal", &[]), ("floor", FLOORS_INSTALLED)],
        _ => [("goal", &[]), ("floor", &[])],
    }
}

const FLOORS: &Targets = &[
    ("touch_linear", 0.045, "one first write, against dm-linear"),
    ("touch_thin4m", 7.0, "the same, against dm-thin 4 MiB"),
    ("touch_thin64k", 0.39, "the same, against dm-thin 64 KiB"),
    ("touch_thin64k_skip", 0.18, "the same, against dm-thin 64 KiB that does not zero"),
    ("randfirst_thin64k", 1.8, "64 random writes a chunk, against dm-thin 64 KiB"),
];
const FLOORS_INSTALLED: &Targets = &[
    ("seqfirst_linear", 0.25, "sequential first write, against dm-linear"),
    ("seqfirst_thin4m", 0.50, "the same, against dm-thin 4 MiB"),
    ("randfirst_linear", 0.10, "64 random writes a chunk, one of them first, against dm-linear"),
    ("randfirst_thin4m", 0.36, "the same, against dm-thin 4 MiB"),
    ("touch_thin64k", 0.015, "one first write, against dm-thin 64 KiB"),
];

/// All targets, as the result's file has them.
pub fn as_json() -> Value {
    OURS.iter()
        .map(|(way, ratios)| {
            let least = targets_of(way).into_iter().flat_map(|(_, targets)| targets);
            let layers = if *way == "notify" { LAYER_GOALS } else { &[] };
            let least = least.chain(layers);
            let least = least.map(|(name, least, _)| ((*name).to_owned(), json!(least)));
            ((*ratios).to_owned(), Value::Object(least.collect()))
        })
        .collect()
}

/// What is reached of what is to be reached. A ratio that was not measured says so.
pub fn table(results: &Results, way: &str, title: &str) -> Table {
    of(results, way, &targets_of(way), title)
}

/// The same of snapshots.
pub fn layers_table(results: &Results, title: &str) -> Table {
    of(results, "notify", &[("goal", LAYER_GOALS)], title)
}

/// A ratio, and whether that is what is wanted.
pub fn verdict(ratio: Option<f64>, wanted: impl Fn(f64) -> bool) -> [String; 2] {
    let Some(ratio) = ratio else { return ["not measured".into(), String::new()] };
    let verdict = if wanted(ratio) { "reached" } else { "not reached" };
    [format!("{ratio:.4}"), verdict.into()]
}

fn of(results: &Results, way: &str, all: &[(&str, &Targets)], title: &str) -> Table {
    let mut table = Table::new(title, &["ratio", "what", "reached", "at least", "", ""]);
    let ratios = results.ratios(way);
    for (kind, targets) in all {
        for (name, least, what) in *targets {
            let ratio = ratios.get(*name).copied();
            let [reached, verdict] = verdict(ratio, |ratio| ratio >= *least);
            table.row([
                (*name).into(),
                (*what).into(),
                reached,
                format!("{least}"),
                (*kind).into(),
                verdict,
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn a_ratio_is_reached_or_not_or_not_measured() {
        let table = table(&sample(), "notify", "");
        let row = |name: &str| table.rows.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(row("seqfirst_linear")[2..], ["0.9800", "0.97", "goal", "reached"]);
        assert_eq!(row("randread_linear")[5], "reached");
        assert_eq!(row("randfirst_linear")[2..], ["not measured", "0.7", "goal", ""]);
        let mut slower = sample();
        slower.set(
            "virtual",
            json!({ "figures": {
            "linear": { "seqread": { "bytes_per_second": 100.0 } },
            "notify": { "seqread": { "bytes_per_second": 98.0 } } } }),
        );
        let table = super::table(&slower, "notify", "");
        let row = table.rows.iter().find(|row| row[0] == "seqread_linear").unwrap();
        assert_eq!(row[2..], ["0.9800", "0.99", "goal", "not reached"]);
    }
}
