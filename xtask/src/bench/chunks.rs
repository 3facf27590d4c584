// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the size of a pool's chunks decides: the tables.

use serde_json::Value;

use super::numbers::{short, shown, size, time};
use super::results::Results;
use super::seeking;
use super::table::Table;

const MIB: f64 = 1048576.0;
const TIB: f64 = 1099511627776.0;
/// The chunk of a pool where nothing else was chosen, in a row.
const DEFAULT: f64 = 4.0 * MIB;

fn rows(results: &Results) -> &[Value] {
    results.value("chunks/rows").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A number of a row, by its path.
fn of(row: &Value, path: &str) -> Option<f64> {
    row.pointer(&format!("/{path}"))?.as_f64()
}

fn times<const N: usize>(row: &Value, paths: [&str; N]) -> [String; N] {
    paths.map(|path| shown(of(row, path), time))
}

fn label(row: &Value) -> String {
    let chunk = of(row, "chunk_bytes");
    let default = if chunk == Some(DEFAULT) { " (the default)" } else { "" };
    shown(chunk, size) + default
}

/// All tables.
pub fn tables(results: &Results) -> Vec<Table> {
    vec![writes(results), files(results), whole(results)]
}

fn writes(results: &Results) -> Table {
    let area = shown(results.number("chunks/area_bytes"), size);
    let title = format!(
        "4 KiB at random in a fresh volume of {area}, and once to a chunk after a snapshot (virtual time)"
    );
    let mut table = Table::new(
        &title,
        &[
            "chunks of",
            "writes",
            "chunks taken",
            "space taken",
            "mean",
            "p99",
            "max",
            "as installed, mean",
            "as installed, p99",
            "after a snapshot, mean",
            "after a snapshot, max",
        ],
    );
    for row in rows(results) {
        let count = |path: &str| shown(of(row, path), |n| format!("{n}"));
        let head = [label(row), count("first/requests"), count("first/chunks")];
        let taken = [shown(of(row, "first/taken_bytes"), size)];
        let cells = times(
            row,
            [
                "first/mean_us",
                "first/p99_us",
                "first/max_us",
                "installed/mean_us",
                "installed/p99_us",
                "snap/mean_us",
                "snap/max_us",
            ],
        );
        table.row(head.into_iter().chain(taken).chain(cells));
    }
    table
}

fn files(results: &Results) -> Table {
    let mut table = Table::new(
        "A file system: files are unpacked, a snapshot is taken, and little is changed at random",
        &["chunks of", "file system", "unpacked", "space taken", "changed", "space taken besides"],
    );
    for row in rows(results) {
        for found in row["files"].as_array().into_iter().flatten() {
            let cells = ["written_bytes", "taken_bytes", "changed_bytes", "more_bytes"];
            let cells = cells.map(|field| shown(of(found, field), size));
            let kind = found["kind"].as_str().unwrap_or_default().to_owned();
            table.row([label(row), kind].into_iter().chain(cells));
        }
    }
    table
}

/// What the daemon has for a run, measured where there were most.
fn run_bytes(results: &Results) -> Option<f64> {
    let most = |row: &&Value| of(row, "read/all_runs").unwrap_or(0.0);
    let row = rows(results).iter().max_by(|one, other| most(one).total_cmp(&most(other)))?;
    Some(of(row, "read/daemon_bytes")? / of(row, "read/all_runs").filter(|runs| *runs > 0.0)?)
}

fn whole(results: &Results) -> Table {
    let title = format!(
        "A volume of which each chunk lies by itself: memory for a TiB that is written all over, and reading it in its order; \
         the rate on a slow disk is computed: {}",
        seeking::MODEL
    );
    let mut table = Table::new(
        &title,
        &[
            "chunks of",
            "chunks",
            "the kernel has",
            "the daemon has",
            "read from RAM, MiB/s",
            "from a slow disk, MiB/s",
        ],
    );
    let leaf = results.number("chunks/leaf_bytes").zip(results.number("chunks/leaf_chunks"));
    for row in rows(results) {
        let chunks = of(row, "chunk_bytes").map(|chunk| TIB / chunk);
        let kernel = chunks.zip(leaf).map(|(chunks, (bytes, each))| bytes * chunks / each);
        let daemon = chunks.zip(run_bytes(results)).map(|(chunks, bytes)| bytes * chunks);
        let read = of(row, "read/bytes").zip(of(row, "read/runs"));
        let slow = read.map(|(bytes, runs)| seeking::rate(bytes, runs) / MIB);
        table.row([
            label(row),
            shown(chunks, |n| format!("{n}")),
            shown(kernel, size),
            shown(daemon.map(f64::round), size),
            shown(of(row, "read/bytes_per_second").map(|rate| rate / MIB), short),
            shown(slow, short),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::numbers::NOT_RUN;
    use super::*;

    fn sample() -> Results {
        let times = json!({ "requests": 512, "chunks": 100, "taken_bytes": 6553600, "mean_us": 50.0, "p99_us": 300.0, "max_us": 1000.0 });
        let row = |chunk: u64, runs: u64, daemon: u64| {
            json!({
                "chunk_bytes": chunk, "first": times, "snap": times,
                "files": [{ "kind": "ext4", "written_bytes": 1048576, "taken_bytes": 4194304, "changed_bytes": 4096, "more_bytes": chunk }],
                "read": { "bytes": 1 << 20, "runs": (1 << 20) / chunk.min(1 << 20), "bytes_per_second": 1 << 30, "all_runs": runs, "daemon_bytes": daemon },
            })
        };
        let mut results = Results::default();
        results.set("chunks", json!({ "area_bytes": 1 << 27, "leaf_bytes": 4352, "leaf_chunks": 512, "rows": [row(65536, 1000, 100_000), row(4 << 20, 10, 9000)] }));
        results
    }

    #[test]
    fn tables_show_what_was_measured() {
        let all = tables(&sample());
        assert_eq!(
            all[0].rows[0][..8],
            ["64 KiB", "512", "100", "6.25 MiB", "50.0 us", "300 us", "1.00 ms", NOT_RUN]
        );
        assert_eq!(
            all[1].rows[1],
            ["4 MiB (the default)", "ext4", "1 MiB", "4 MiB", "4 KiB", "4 MiB"]
        );
    }

    #[test]
    fn memory_is_told_by_the_run_and_by_the_page() {
        let all = tables(&sample());
        // 100 bytes a run, where there were most of them.
        assert_eq!(all[2].rows[0], ["64 KiB", "16777216", "136 MiB", "1.56 GiB", "1024", "7.52"]);
        assert_eq!(all[2].rows[1][1..4], ["262144", "2.12 MiB", "25 MiB"]);
        assert!(tables(&Results::default()).iter().all(|table| table.rows.is_empty()));
    }
}
