// SPDX-License-Identifier: LGPL-2.1-or-later
//! The tables of a result, part by part. A part that was not measured has none; a row of a part
//! that was says of each figure that it lacks that it was not run.

use serde_json::{Map, Value};

use super::numbers::{NOT_RUN, short, size, time};
use super::plan::{Plan, Row, SLOW_DEVICES, SLOW_WAYS, WAYS, find};
use super::results::{OURS, Results};
use super::table::{Table, Tables};
use super::targets;
use super::{chunks, collector, layers, moments};

const MIB: f64 = 1048576.0;

/// The jobs whose rate is told: as tables and plots name them, and the bytes of one unit.
pub const JOBS: [(&str, &str, f64); 8] = [
    ("seqfirst", "sequential, first write", MIB),
    ("seqagain", "sequential, second write", MIB),
    ("seqread", "sequential, read", MIB),
    ("randfirst", "random, 64 writes a chunk", 4096e3),
    ("randwrite", "random, write", 4096e3),
    ("randread", "random, read", 4096e3),
    ("randwrite32", "random, write, 32 at once", 4096e3),
    ("randread32", "random, read, 32 at once", 4096e3),
];

/// The tables of a part of the benchmark.
pub fn of_part(results: &Results, part: &str) -> Tables {
    if !results.has(part) {
        return Tables::default();
    }
    Tables(match part {
        "virtual" => {
            let full = Plan::new(false, &[]);
            vec![
                targets::table(results, "notify", "What is to be reached with clean headroom"),
                targets::table(results, "notify_installed", "What is to be reached as installed"),
                touches(results, &full),
                speeds(results, &full),
                slow(results, &full),
                headroom(results),
                counters(results),
                turned(results, &full),
            ]
        }
        "layers" => {
            let goals = "What is to be reached after a snapshot, with clean headroom";
            let mut all = vec![targets::layers_table(results, goals)];
            all.extend(layers::tables(results));
            all
        }
        "moments" => moments::tables(results),
        "collector" => collector::tables(results),
        "chunks" => chunks::tables(results),
        "real" => vec![
            first_writes(
                results,
                "real/first",
                "One first write in real time, with clean headroom, of all in turns (two processors)",
            ),
            first_writes(results, "real/first_installed", "The same as installed"),
            waits(results),
            fills(results),
        ],
        _ => vec![
            sizes(
                results,
                "scale/chunks",
                "One volume of 16 TiB, by its scattered chunks",
                "chunks",
            ),
            sizes(results, "scale/volumes", "One pool, by its volumes", "volumes"),
        ],
    })
}

/// A figure; a dash where the plan does not ask for it.
fn figure(asked: bool, value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    match value {
        Some(value) => show(value),
        None if asked => NOT_RUN.into(),
        None => "-".into(),
    }
}

/// Whether the plan has a way do a job.
fn asks(rows: &[Row], way: &str, job: &str) -> bool {
    let row = rows.iter().find(|row| row.way == way);
    row.is_some_and(|row| row.volumes.iter().flat_map(|v| &v.jobs).any(|asked| asked.name == job))
}

/// What a first write to a chunk costs beside a second one.
fn touches(results: &Results, full: &Plan) -> Table {
    let mut table = Table::new(
        "One first write: 4 KiB to a chunk that is not allocated, the same number of chunks for all (virtual time)",
        &[
            "",
            "chunks",
            "mean",
            "p50",
            "p99",
            "max",
            "second write",
            "the allocation alone",
            "32 at once, mean",
            "with a flush after each",
        ],
    );
    for way in &WAYS {
        let at = |job: &str| format!("virtual/figures/{}/{job}", way.name);
        let show = |job: &str, value| figure(asks(&full.rows, way.name, job), value, time);
        let first = |name: &str| show("touch", results.number(&format!("{}/{name}", at("touch"))));
        let mean = results.one_write(&at("touch"));
        let again = results.one_write(&at("touch_again"));
        let chunks = results.number(&format!("{}/chunks", at("touch")));
        table.row([
            way.label.into(),
            chunks.map_or_else(|| "-".into(), |chunks| format!("{chunks}")),
            first("mean_us"),
            first("p50_us"),
            first("p99_us"),
            first("max_us"),
            show("touch_again", again),
            show("touch", mean.zip(again).map(|(mean, again)| (mean - again).max(0.0))),
            show("touch32", results.one_write(&at("touch32"))),
            show("touch_flush", results.one_write(&at("touch_flush"))),
        ]);
    }
    table
}

fn speeds(results: &Results, full: &Plan) -> Table {
    let mut head = vec![""];
    head.extend(JOBS.iter().map(|(_, name, _)| *name));
    let mut table = Table::new(
        "Throughput: MiB/s sequential, thousand requests/s random (virtual time)",
        &head,
    );
    for way in &WAYS {
        let cells = JOBS.iter().map(|(job, _, unit)| {
            let asked = asks(&full.rows, way.name, job);
            figure(asked, results.speed(way.name, job), |speed| short(speed / unit))
        });
        table.row([way.label.to_owned()].into_iter().chain(cells));
    }
    table
}

/// First writes on devices that take their time.
fn slow(results: &Results, full: &Plan) -> Table {
    let head: Vec<String> = SLOW_DEVICES
        .iter()
        .flat_map(|(_, label)| [format!("{label}: first write"), format!("{label}: with a flush")])
        .collect();
    let mut columns = vec![""];
    columns.extend(head.iter().map(String::as_str));
    let mut table = Table::new(
        "One first write where the device takes its time (virtual time, mean)",
        &columns,
    );
    for way in SLOW_WAYS.iter().filter_map(|name| find(name)) {
        let cells = SLOW_DEVICES.iter().flat_map(|(device, _)| {
            ["touch", "touch_flush"].map(|job| {
                let mean = results.one_write(&format!("virtual/slow/{device}/{}/{job}", way.name));
                figure(asks(&full.slow_rows, way.name, job), mean, time)
            })
        });
        table.row([way.label.to_owned()].into_iter().chain(cells));
    }
    table
}

/// All ratios of first writes, by what there was of headroom.
fn headroom(results: &Results) -> Table {
    let mut table = Table::new(
        "First writes against the others, by the headroom (virtual time)",
        &["ratio", "clean", "as installed", "none left"],
    );
    let ratios = OURS.map(|(way, _)| results.ratios(way));
    let firsts = ["seqfirst", "randfirst", "touch_", "touch32", "ahead_share"];
    let wanted = |name: &str| firsts.iter().any(|first| name.starts_with(first));
    let names = ratios[0].keys().filter(|name| wanted(name) && !name.starts_with("touch_again"));
    for name in names {
        let cells = ratios
            .iter()
            .map(|ratios| figure(true, ratios.get(name).copied(), |r| format!("{r:.4}")));
        table.row([name.clone()].into_iter().chain(cells));
    }
    table
}

/// What notify's first writes waited for, by the target's own counters.
fn counters(results: &Results) -> Table {
    let mut table = Table::new(
        "What notify's first writes waited for (virtual time)",
        &["job", "headroom", "free before", "chunks", "waited for", "p50", "p99", "max"],
    );
    for job in ["seqfirst", "touch", "randfirst"] {
        for (way, headroom) in
            [("notify", "clean"), ("notify_installed", "as installed"), ("notify_dirty", "none")]
        {
            let at = format!("virtual/figures/{way}/{job}");
            let Some(chunks) = results.number(&format!("{at}/chunks")) else { continue };
            let count =
                |name| figure(true, results.number(&format!("{at}/{name}")), |n| format!("{n}"));
            let before = figure(
                way != "notify_dirty",
                results.number(&format!("{at}/free_before_bytes")),
                size,
            );
            let cells =
                [job.to_owned(), headroom.to_owned(), before, format!("{chunks}"), count("waited")];
            table.row(cells.into_iter().chain(wait_cells(results, &format!("{at}/wait"))));
        }
    }
    table
}

/// How much the place in the order of ways decides.
fn turned(results: &Results, full: &Plan) -> Table {
    let mut table = Table::new(
        "The same in the reverse order of ways (virtual time)",
        &["", "largest difference", "in"],
    );
    for way in &WAYS {
        let jobs = full.turned_rows.iter().filter(|row| row.way == way.name);
        let jobs = jobs.flat_map(|row| &row.volumes).flat_map(|volume| &volume.jobs);
        let difference = |job: &str| {
            let first = results.speed(way.name, job)?;
            Some(results.speed_at("virtual/turned", way.name, job)? / first - 1.0)
        };
        let all = jobs.filter_map(|job| Some((job.name, difference(job.name)?)));
        let most = all.max_by(|one, other| one.1.abs().total_cmp(&other.1.abs()));
        table.row(match most {
            Some((job, part)) => [way.label.into(), format!("{:.1} %", 100.0 * part), job.into()],
            None => [way.label.into(), NOT_RUN.into(), String::new()],
        });
    }
    table
}

fn wait_cells(results: &Results, at: &str) -> Vec<String> {
    ["p50_us", "p99_us", "max_us"]
        .map(|name| figure(true, results.number(&format!("{at}/{name}")), time))
        .into()
}

/// First writes in real time, of all ways in turns.
fn first_writes(results: &Results, at: &str, title: &str) -> Table {
    let mut table = Table::new(
        title,
        &["", "rounds", "writes", "median", "fastest round", "slowest round", "max"],
    );
    let rows = results.value(at).and_then(Value::as_object);
    for (name, row) in rows.into_iter().flatten() {
        let label = find(name).map_or(name.as_str(), |way| way.label);
        let cell = |key: &str, show: &dyn Fn(f64) -> String| {
            figure(true, row.get(key).and_then(Value::as_f64), show)
        };
        let count = |n: f64| format!("{n}");
        table.row([
            label.to_owned(),
            cell("rounds", &count),
            cell("writes", &count),
            cell("median_us", &time),
            cell("least_us", &time),
            cell("most_us", &time),
            cell("max_us", &time),
        ]);
    }
    table
}

fn waits(results: &Results) -> Table {
    let mut table = Table::new(
        "Waiting for growth in real time, by the target's own counters (two processors)",
        &["what", "writes that waited", "p50", "p99", "max"],
    );
    let rows = [
        ("real/wait_clean", "one writer, clean headroom"),
        ("real/wait_installed", "one writer, as installed"),
        ("real/group/wait", "100 volumes at once, clean headroom"),
        ("real/fill/notify/wait", "sequential fill, as installed"),
    ];
    for (at, what) in rows {
        let count = figure(true, results.number(&format!("{at}/count")), |n| format!("{n}"));
        table.row([what.to_owned(), count].into_iter().chain(wait_cells(results, at)));
    }
    let commits = results.number("real/group/commits_per_growth");
    let commits = figure(true, commits, |commits| format!("{commits:.3}"));
    let what = "commits per growth, 100 volumes at once".to_owned();
    table.row([what, commits, String::new(), String::new(), String::new()]);
    table
}

/// Sequential fills in real time, of all ways in turns.
fn fills(results: &Results) -> Table {
    let mut table = Table::new(
        "A sequential fill in real time (two processors)",
        &["", "MiB/s", "slowest slice of 0.25 s", "longest write"],
    );
    let rows = results.value("real/fill").and_then(Value::as_object);
    for (name, row) in rows.into_iter().flatten() {
        let label = if name == "notify" {
            "notify, as installed"
        } else {
            find(name).map_or(name.as_str(), |way| way.label)
        };
        let slices = results.slices(name).into_iter().map(|(_, rate)| rate);
        let rate = row.get("bytes_per_second").and_then(Value::as_f64);
        table.row([
            label.to_owned(),
            figure(true, rate, |rate| short(rate / MIB)),
            figure(true, slices.reduce(f64::min), short),
            figure(true, row.get("max_us").and_then(Value::as_f64), time),
        ]);
    }
    table
}

/// A scale table: the columns are what its rows have.
fn sizes(results: &Results, at: &str, title: &str, first: &str) -> Table {
    let rows = results.value(at).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut columns: Vec<&String> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if key != first && !columns.contains(&key) {
            columns.push(key);
        }
    }
    let names: Vec<String> = columns.iter().map(|key| spoken(key)).collect();
    let head: Vec<&str> = [first].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut table = Table::new(title, &head);
    for row in &rows {
        let count = row.get(first).and_then(Value::as_f64).unwrap_or(0.0);
        let cells = columns.iter().map(|key| cell(key, row.get(key.as_str())));
        table.row([format!("{count}")].into_iter().chain(cells));
    }
    table
}

/// A field's name without its unit, in words.
fn spoken(key: &str) -> String {
    let bare = key.strip_suffix("_us").or_else(|| key.strip_suffix("_bytes")).unwrap_or(key);
    bare.replace('_', " ")
}

/// A field's value; its name ends with its unit.
fn cell(key: &str, value: Option<&Value>) -> String {
    match (value.and_then(Value::as_f64), value.and_then(Value::as_str)) {
        (Some(number), _) if key.ends_with("_us") => time(number),
        (Some(number), _) if key.ends_with("_bytes") => size(number),
        (Some(number), _) => short(number),
        (None, Some(text)) => text.to_owned(),
        (None, None) => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    fn words(part: &str) -> String {
        let text = of_part(&sample(), part).text();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_measured_is_shown() {
        let text = words("virtual");
        assert!(text.contains("dm-linear 0.9800 0.97 goal reached"), "{text}");
        let row = "notify, clean headroom 32 400 us 400 us 800 us 1.20 ms 10.0 us 390 us";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("dm-linear -1.0 % seqfirst"), "{text}");
        assert!(words("scale").contains("1000 2.00 ms 8 KiB"));
        assert!(!words("scale").contains("One pool"));
    }

    #[test]
    fn a_row_that_did_not_run_says_so_and_has_no_figure() {
        let tables = of_part(&sample(), "virtual").0;
        let row = |table: usize, label: &str| -> Vec<String> {
            let rows = &tables[table].rows;
            rows.iter().find(|row| row[0] == label).unwrap()[1..].to_vec()
        };
        let mut nothing = vec!["-".to_owned()];
        nothing.extend(vec![NOT_RUN.to_owned(); 8]);
        assert_eq!(row(2, "dm-thin 64 KiB"), nothing);
        assert_eq!(row(3, "qcow2, nbd"), vec![NOT_RUN; JOBS.len()]);
        // A dash is for what no plan asks for.
        assert_eq!(row(3, "notify, no headroom")[..2], [NOT_RUN, "-"]);
        assert_eq!(row(4, "notify, clean headroom"), vec![NOT_RUN; 6]);
        assert_eq!(row(7, "plain LV"), [NOT_RUN, ""]);
    }

    #[test]
    fn a_part_that_was_not_measured_has_no_tables() {
        assert!(of_part(&Results::default(), "virtual").0.is_empty());
        assert_eq!(of_part(&Results::default(), "real").text(), "");
    }
}
