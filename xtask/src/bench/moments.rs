// SPDX-License-Identifier: LGPL-2.1-or-later
//! How long a snapshot, a clone and a difference take, by what there is: what must come of that, and its tables.

use serde_json::{Map, Value, json};

use super::numbers::{rounded, short, shown, size, time};
use super::results::Results;
use super::table::Table;
use super::targets::verdict;

const THIN: &str = "thin64k";

/// What is to be reached: the name, the most it may be, what it compares.
const GOALS: [(&str, f64, &str); 3] = [
    ("snap_pause_growth", 2.0, "longest write during a snapshot, of most runs against fewest"),
    ("clone_thin64k", 0.1, "time of a clone, against lvcreate -s of dm-thin"),
    ("diff_growth", 2.0, "time of a difference of as many chunks, of most runs against fewest"),
];

fn rows<'a>(results: &'a Results, table: &str) -> &'a [Value] {
    results.value(&format!("moments/{table}")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn of_way<'a>(results: &'a Results, table: &str, way: &str) -> Vec<&'a Value> {
    rows(results, table).iter().filter(|row| row["way"] == way).collect()
}

/// A field of the row with most runs by that of the row with fewest.
fn growth(rows: &[&Value], field: &str) -> Option<f64> {
    let runs = |row: &&&Value| row["runs"].as_u64().unwrap_or_default();
    let (least, most) = (rows.iter().min_by_key(runs)?, rows.iter().max_by_key(runs)?);
    if least["runs"] == most["runs"] {
        return None;
    }
    Some(most[field].as_f64()? / least[field].as_f64().filter(|value| *value > 0.0)?)
}

fn reached(results: &Results, name: &str) -> Option<f64> {
    match name {
        "snap_pause_growth" => growth(&of_way(results, "pause", "notify"), "median_us"),
        "clone_thin64k" => {
            let command = |way| of_way(results, "clone", way).first()?["command_us"].as_f64();
            Some(command("notify")? / command(THIN)?)
        }
        _ => {
            let all: Vec<&Value> = rows(results, "diff").iter().collect();
            let most = all.iter().filter_map(|row| row["changed"].as_u64()).max()?;
            let same: Vec<&Value> = all.into_iter().filter(|row| row["changed"] == most).collect();
            growth(&same, "diff_us")
        }
    }
}

/// What is reached, and what is to be, for the result's file.
pub fn as_json(results: &Results) -> Value {
    let mut all = Map::new();
    for (name, most, _) in GOALS {
        if let Some(ratio) = reached(results, name) {
            let ratio = rounded(ratio);
            all.insert(name.to_owned(), json!({ "reached": ratio, "at_most": most }));
        }
    }
    Value::Object(all)
}

/// All tables.
pub fn tables(results: &Results) -> Vec<Table> {
    vec![goals(results), pauses(results), clones(results), differences(results)]
}

fn goals(results: &Results) -> Table {
    let mut table = Table::new(
        "What is to be reached, whatever there is",
        &["ratio", "what", "reached", "at most", ""],
    );
    for (name, most, what) in GOALS {
        let [value, verdict] = verdict(reached(results, name), |ratio| ratio <= most);
        table.row([name.into(), what.into(), value, format!("{most}"), verdict]);
    }
    table
}

fn label(row: &Value) -> String {
    match row["way"].as_str() {
        Some(THIN) => "dm-thin, 64 KiB chunks".into(),
        _ => "notify, 64 KiB chunks".into(),
    }
}

fn number(row: &Value, field: &str, show: impl Fn(f64) -> String) -> String {
    shown(row[field].as_f64(), show)
}

fn count(value: f64) -> String {
    format!("{value}")
}

fn pauses(results: &Results) -> Table {
    let mut table = Table::new(
        "The longest write during a snapshot (virtual time, flushes cost nothing)",
        &["", "runs", "median", "the first snapshot", "most", "without one", "the command"],
    );
    for row in rows(results, "pause") {
        let cells = ["median_us", "first_us", "most_us", "before_us", "call_us"];
        let cells = cells.map(|field| number(row, field, time));
        table.row([label(row), number(row, "runs", count)].into_iter().chain(cells));
    }
    table
}

fn clones(results: &Results) -> Table {
    let mut table = Table::new(
        "Clones of a golden image (virtual time)",
        &[
            "",
            "runs",
            "clones",
            "by a command",
            "by a call",
            "first",
            "last",
            "daemon memory a clone",
        ],
    );
    for row in rows(results, "clone") {
        let grown = (row["daemon_bytes"].as_f64())
            .zip(row["daemon_before_bytes"].as_f64())
            .zip(row["clones"].as_f64())
            .map(|((after, before), clones)| size(((after - before) / clones).max(0.0).round()));
        let times = ["command_us", "call_us", "first_us", "last_us"];
        let cells = times.map(|field| match (row["way"] == THIN, field) {
            // LVM has commands alone.
            (true, "call_us") => "-".into(),
            _ => number(row, field, time),
        });
        let counts = ["runs", "clones"].map(|field| number(row, field, count));
        let last = grown.unwrap_or_else(|| "-".into());
        table.row([label(row)].into_iter().chain(counts).chain(cells).chain([last]));
    }
    table
}

fn differences(results: &Results) -> Table {
    let mut table = Table::new(
        "The difference of two snapshots (virtual time)",
        &["runs", "chunks written between", "time", "a chunk"],
    );
    for row in rows(results, "diff") {
        let each = row["diff_us"].as_f64().zip(row["changed"].as_f64()).map(|(us, n)| us / n);
        table.row([
            number(row, "runs", count),
            number(row, "changed", count),
            number(row, "diff_us", time),
            shown(each, |us| format!("{} us", short(us))),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(longest: f64) -> Results {
        let pause = |way: &str, runs: u64, us: f64| json!({ "way": way, "runs": runs, "first_us": us, "median_us": us, "most_us": us, "before_us": 30.0, "call_us": 2e4 });
        let diff = |runs: u64, changed: u64, us: f64| json!({ "runs": runs, "changed": changed, "diff_us": us });
        let mut results = Results::default();
        results.set(
            "moments",
            json!({
                "pause": [pause("notify", 1_000_000, longest), pause("notify", 1000, 2000.0), pause(THIN, 1000, 9000.0)],
                "clone": [
                    { "way": "notify", "runs": 1000, "clones": 4, "command_us": 5e3, "call_us": 1e3, "first_us": 1e3, "last_us": 2e3, "daemon_before_bytes": 4096, "daemon_bytes": 12288 },
                    { "way": THIN, "runs": 1000, "clones": 2, "command_us": 1e5, "first_us": 9e4, "last_us": 1e5 },
                ],
                "diff": [diff(1000, 10, 100.0), diff(1000, 500, 400.0), diff(1_000_000, 10, 900.0), diff(1_000_000, 500, 600.0)],
            }),
        );
        results
    }

    #[test]
    fn what_grows_with_the_volume_is_not_reached() {
        let verdicts = |longest| -> Vec<String> {
            goals(&sample(longest)).rows.iter().map(|row| row[2..].join(" ")).collect()
        };
        let fine = ["2.0000 2 reached", "0.0500 0.1 reached", "1.5000 2 reached"];
        assert_eq!(verdicts(4000.0), fine);
        assert_eq!(verdicts(4001.0)[0], "2.0005 2 not reached");
        assert_eq!(as_json(&sample(4000.0))["diff_growth"]["reached"], 1.5);
    }

    #[test]
    fn one_size_tells_nothing_of_growth() {
        let mut results = Results::default();
        results.set(
            "moments",
            json!({ "pause": [{ "way": "notify", "runs": 10, "median_us": 1.0 }], "diff": [] }),
        );
        for (row, (name, ..)) in goals(&results).rows.iter().zip(GOALS) {
            assert_eq!(row[2], "not measured", "{name}");
        }
        assert_eq!(as_json(&results), json!({}));
    }

    #[test]
    fn tables_show_what_was_measured() {
        let all = tables(&sample(3000.0));
        assert_eq!(all[1].rows[1][1..4], ["1000", "2.00 ms", "2.00 ms"]);
        let row = ["1000", "4", "5.00 ms", "1.00 ms", "1.00 ms", "2.00 ms", "2 KiB"];
        assert_eq!(all[2].rows[0][1..], row);
        assert_eq!(all[2].rows[1][3..], ["100 ms", "-", "90.0 ms", "100 ms", "-"]);
        assert_eq!(all[3].rows[1], ["1000", "500", "400 us", "0.80 us"]);
    }
}
