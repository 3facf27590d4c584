// SPDX-License-Identifier: LGPL-2.1-or-later
//! What was measured, the ratios that follow from it, and the tables that show both.
//!
//! The figures stay as the scripts gave them; a part that was not measured is absent, and so are
//! the ratios and tables that need it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::numbers::{short, size, time};
use super::table::{Table, Tables};

/// What is to be reached, in virtual time and with clean headroom.
const TARGETS: [(&str, f64, &str); 8] = [
    ("randread_linear", 0.99, "random 4 KiB read, against dm-linear"),
    ("randwrite_linear", 0.98, "random 4 KiB write, against dm-linear"),
    ("seqfirst_linear", 0.97, "sequential first write, against dm-linear"),
    ("seqfirst_thin4m", 2.0, "sequential first write, against dm-thin 4 MiB"),
    ("randfirst_thin4m", 1.4, "random first write, against dm-thin 4 MiB"),
    ("seqread_linear", 0.99, "sequential read, against dm-linear"),
    ("seqwrite_linear", 0.99, "sequential second write, against dm-linear"),
    ("ahead_share", 0.95, "chunks that were there before a sequential writer came"),
];
/// The part of a ratio's name that says what is done, and the job that does it.
const WORK: [(&str, &str); 6] = [
    ("seqfirst", "seqfirst"),
    ("seqwrite", "seqagain"),
    ("seqread", "seqread"),
    ("randfirst", "randfirst"),
    ("randwrite", "randwrite"),
    ("randread", "randread"),
];
/// Whom it is compared with.
pub const PEERS: [(&str, &str); 6] = [
    // In the target's place, on a logical volume; `lv` is such a volume alone.
    ("linear", "dm-linear"),
    ("notify", "notify"),
    ("lv", "plain LV"),
    ("thin4m", "dm-thin 4 MiB"),
    ("thin64k", "dm-thin 64 KiB"),
    ("qcow2", "qcow2"),
];
/// The jobs with clean headroom, as tables and plots name them.
pub const JOBS: [(&str, &str); 6] = [
    ("seqfirst", "sequential 1 MiB, first write"),
    ("seqagain", "sequential 1 MiB, second write"),
    ("seqread", "sequential 1 MiB, read"),
    ("randfirst", "random 4 KiB, first write"),
    ("randwrite", "random 4 KiB, write"),
    ("randread", "random 4 KiB, read"),
];

/// Everything that was measured.
#[derive(Debug, Clone, Default)]
pub struct Results(Map<String, Value>);

impl Results {
    /// An earlier result.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let map = serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of the benchmark", file.display()))?;
        Ok(Self(map))
    }

    /// Writes everything, ratios first.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut all = Map::new();
        all.insert("ratios".into(), json!(self.ratios("")));
        all.insert("ratios_dirty".into(), json!(self.ratios("_dirty")));
        all.insert(
            "targets".into(),
            TARGETS.iter().map(|(name, least, _)| ((*name).to_owned(), json!(least))).collect(),
        );
        let rest = self
            .0
            .iter()
            .filter(|(key, _)| !all.contains_key(*key))
            .map(|(k, v)| (k.clone(), v.clone()));
        let rest: Vec<_> = rest.collect();
        all.extend(rest);
        let text = serde_json::to_string_pretty(&all)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Takes over what a part measured.
    pub fn set(&mut self, part: &str, value: Value) {
        self.0.insert(part.to_owned(), value);
    }

    /// Says what the figures depend on.
    pub fn stamp(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// A number, by its path (`virtual/figures/...`).
    pub fn number(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    fn value(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let value = self.0.get(first)?;
        if rest.is_empty() { Some(value) } else { value.pointer(&format!("/{rest}")) }
    }

    /// Bytes per second of a peer's job in virtual time.
    pub fn speed(&self, peer: &str, job: &str) -> Option<f64> {
        self.number(&format!("virtual/figures/{peer}/{job}/bytes_per_second"))
            .filter(|speed| *speed > 0.0)
    }

    /// MiB/s over time of a fill in real time: seconds and rate.
    pub fn slices(&self, peer: &str) -> Vec<(f64, f64)> {
        let slices = self.value(&format!("real/fill/{peer}/slices")).and_then(Value::as_array);
        let pair = |value: &Value| Some((value.get(0)?.as_f64()?, value.get(1)?.as_f64()?));
        slices.map(|all| all.iter().filter_map(pair).collect()).unwrap_or_default()
    }

    /// What notify reaches against the others. With `suffix`, the first writes of that kind only.
    pub fn ratios(&self, suffix: &str) -> BTreeMap<String, f64> {
        let mut ratios = BTreeMap::new();
        for (work, job) in WORK {
            if !suffix.is_empty() && !work.ends_with("first") {
                continue;
            }
            let ours = self.speed("notify", &format!("{job}{suffix}"));
            for (peer, _) in PEERS.iter().filter(|(peer, _)| *peer != "notify") {
                if let (Some(ours), Some(theirs)) = (ours, self.speed(peer, job)) {
                    ratios.insert(format!("{work}_{peer}"), rounded(ours / theirs));
                }
            }
        }
        let counter =
            |name: &str| self.number(&format!("virtual/counters/seqfirst{suffix}/{name}"));
        if let (Some(waited), Some(chunks)) =
            (counter("waited"), counter("chunks").filter(|n| *n > 0.0))
        {
            ratios.insert("ahead_share".into(), rounded(1.0 - waited / chunks));
        }
        ratios
    }

    /// All tables.
    pub fn tables(&self) -> Tables {
        Tables(vec![
            self.targets(),
            self.dirty(),
            self.speeds(),
            self.growth(),
            self.waits(),
            self.sizes("scale/chunks", "One volume of 16 TiB, by its scattered chunks", "chunks"),
            self.sizes("scale/volumes", "One pool, by its volumes", "volumes"),
        ])
    }

    fn targets(&self) -> Table {
        let mut table = Table::new(
            "What is to be reached (virtual time, clean headroom)",
            &["ratio", "what", "reached", "at least", ""],
        );
        let ratios = self.ratios("");
        for (name, least, what) in TARGETS {
            let Some(&ratio) = ratios.get(name) else { continue };
            let verdict = if ratio >= least { "met" } else { "missed" };
            table.row([
                name.into(),
                what.into(),
                format!("{ratio:.4}"),
                least.to_string(),
                verdict.into(),
            ]);
        }
        table
    }

    fn dirty(&self) -> Table {
        let mut table = Table::new(
            "First writes with clean headroom and with none left (virtual time)",
            &["ratio", "clean", "none left"],
        );
        let (clean, dirty) = (self.ratios(""), self.ratios("_dirty"));
        for (name, ratio) in dirty {
            let with = clean.get(&name).map_or_else(|| "-".to_owned(), |r| format!("{r:.4}"));
            table.row([name, with, format!("{ratio:.4}")]);
        }
        table
    }

    fn speeds(&self) -> Table {
        let mut head = vec!["virtual time"];
        head.extend(PEERS.iter().map(|(_, name)| *name));
        let mut table =
            Table::new("Throughput: MiB/s sequential, thousand requests/s random", &head);
        let dirty = [
            ("seqfirst_dirty", "sequential first write, none left"),
            ("randfirst_dirty", "random first write, none left"),
        ];
        for (job, what) in JOBS.into_iter().chain(dirty) {
            let per = if job.starts_with("rand") { 4096.0 * 1000.0 } else { 1048576.0 };
            let speeds: Vec<_> = PEERS.iter().map(|(peer, _)| self.speed(peer, job)).collect();
            if speeds.iter().all(Option::is_none) {
                continue;
            }
            let cells = speeds
                .iter()
                .map(|speed| speed.map_or_else(|| "-".into(), |speed| short(speed / per)));
            table.row([what.to_owned()].into_iter().chain(cells));
        }
        table
    }

    fn growth(&self) -> Table {
        let mut table = Table::new(
            "What notify's first writes waited for (virtual time)",
            &["job", "chunks", "waited for", "p50", "p99", "max"],
        );
        for job in ["seqfirst", "seqfirst_dirty", "randfirst", "randfirst_dirty"] {
            let at = format!("virtual/counters/{job}");
            let Some(chunks) = self.number(&format!("{at}/chunks")) else { continue };
            let waited = self.number(&format!("{at}/waited")).unwrap_or(0.0);
            let cells = [job.to_owned(), format!("{chunks}"), format!("{waited}")];
            table.row(cells.into_iter().chain(self.wait_cells(&format!("{at}/wait"))));
        }
        table
    }

    fn wait_cells(&self, at: &str) -> Vec<String> {
        let cell = |name| self.number(&format!("{at}/{name}")).map_or_else(|| "-".into(), time);
        vec![cell("p50_us"), cell("p99_us"), cell("max_us")]
    }

    fn waits(&self) -> Table {
        let mut table = Table::new(
            "Waiting for growth (real time, two processors)",
            &["what", "writes that waited", "p50", "p99", "max"],
        );
        let rows = [
            ("real/wait_clean", "one writer, clean headroom"),
            ("real/wait_installed", "one writer, as installed"),
            ("real/group/wait", "100 volumes at once, clean headroom"),
            ("real/fill/notify/wait", "sequential fill, as installed"),
        ];
        for (at, what) in rows {
            let Some(count) = self.number(&format!("{at}/count")) else { continue };
            let cells = [what.to_owned(), format!("{count}")];
            table.row(cells.into_iter().chain(self.wait_cells(at)));
        }
        if let Some(commits) = self.number("real/group/commits_per_growth") {
            let what = "commits per growth, 100 volumes at once".to_owned();
            table.row([what, format!("{commits:.3}"), String::new(), String::new(), String::new()]);
        }
        table
    }

    /// A scale table: the columns are what its rows have.
    fn sizes(&self, at: &str, title: &str, first: &str) -> Table {
        let rows = self.value(at).and_then(Value::as_array).cloned().unwrap_or_default();
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
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 1e4
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
pub mod tests {
    use super::*;

    /// A small result in which notify has known ratios.
    pub fn sample() -> Results {
        let speed = |value: f64| json!({ "bytes_per_second": value });
        let figures = json!({
            "linear": { "seqfirst": speed(1000.0), "seqagain": speed(1000.0), "randread": speed(400.0) },
            "thin4m": { "seqfirst": speed(400.0) },
            "notify": { "seqfirst": speed(980.0), "seqagain": speed(1000.0), "randread": speed(396.0), "seqfirst_dirty": speed(500.0) },
        });
        let wait = json!({ "count": 2, "p50_us": 100.0, "p99_us": 250.0, "max_us": 2500.0 });
        let counters = json!({ "seqfirst": { "chunks": 128, "waited": 2, "wait": wait } });
        let mut results = Results::default();
        results.set("virtual", json!({ "figures": figures, "counters": counters }));
        results.set("real", json!({ "fill": { "linear": { "slices": [[0.25, 100.0], [0.5, 110.0]] }, "notify": { "slices": [[0.25, 90.0], [0.5, 10.0]], "wait": wait } } }));
        results.set("scale", json!({ "chunks": [{ "chunks": 1000, "activation_us": 2000.0, "kernel_bytes": 8192 }] }));
        results
    }

    #[test]
    fn ratios_are_ours_by_theirs_and_only_of_what_was_measured() {
        let ratios = sample().ratios("");
        assert_eq!(ratios["seqfirst_linear"], 0.98);
        assert_eq!(ratios["seqfirst_thin4m"], 2.45);
        assert_eq!(ratios["seqwrite_linear"], 1.0);
        assert_eq!(ratios["randread_linear"], 0.99);
        assert_eq!(ratios["ahead_share"], 0.9844);
        assert!(!ratios.contains_key("seqread_linear"));
        let dirty = sample().ratios("_dirty");
        assert_eq!(dirty.keys().collect::<Vec<_>>(), ["seqfirst_linear", "seqfirst_thin4m"]);
        assert_eq!(dirty["seqfirst_linear"], 0.5);
    }

    #[test]
    fn tables_say_what_is_met_and_leave_out_what_is_not_there() {
        let text = sample().tables().text();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("dm-linear 0.9800 0.97 met"), "{text}");
        assert!(words.contains("1000 2.00 ms 8 KiB"), "{text}");
        assert!(!text.contains("One pool"), "{text}");
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let dir = crate::proc::ScratchDir::new(&std::env::temp_dir(), "xtask-bench-").unwrap();
        let file = dir.path().join("result.json");
        sample().write(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let again = Results::read(&file).unwrap();
        assert_eq!(again.ratios(""), sample().ratios(""));
        again.write(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}
