// SPDX-License-Identifier: LGPL-2.1-or-later
//! What was measured, and the ratios that follow from it.
//!
//! The figures stay as the scripts gave them; a part that was not measured is absent, and so are
//! the ratios that need it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::numbers::rounded;
use super::plan::{CHUNK, Plan, Row, WAYS, find};

/// The part of a ratio's name that says what is done, and the job that does it.
const WORK: [(&str, &str); 12] = [
    ("seqfirst", "seqfirst"),
    ("seqwrite", "seqagain"),
    ("seqread", "seqread"),
    ("randfirst", "randfirst"),
    ("randwrite", "randwrite"),
    ("randread", "randread"),
    ("randwrite32", "randwrite32"),
    ("randread32", "randread32"),
    ("touch", "touch"),
    ("touch_again", "touch_again"),
    ("touch32", "touch32"),
    ("touch_flush", "touch_flush"),
];
/// The ways that are notify, and the name of their ratios in the file.
pub const OURS: [(&str, &str); 3] = [
    ("notify", "ratios"),
    ("notify_installed", "ratios_installed"),
    ("notify_dirty", "ratios_dirty"),
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
        for (way, name) in OURS {
            all.insert(name.into(), json!(self.ratios(way)));
        }
        all.insert("targets".into(), super::targets::as_json());
        all.insert("growths".into(), super::moments::as_json(self));
        all.insert("collected".into(), super::collector::as_json(self));
        let rest: Vec<_> = self.0.iter().filter(|(key, _)| !all.contains_key(*key)).collect();
        let rest: Vec<_> = rest.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect();
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

    /// Whether a part was measured.
    pub fn has(&self, part: &str) -> bool {
        self.0.contains_key(part)
    }

    /// A number, by its path (`virtual/figures/...`).
    pub fn number(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    /// A text, by its path.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.value(path)?.as_str()
    }

    /// Anything, by its path.
    pub fn value(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let value = self.0.get(first)?;
        if rest.is_empty() { Some(value) } else { value.pointer(&format!("/{rest}")) }
    }

    /// How fast a way does a job in virtual time. Single writes are told by the time of one, which
    /// is exact where their sum is too short for a rate.
    pub fn speed(&self, way: &str, job: &str) -> Option<f64> {
        self.speed_at("virtual/figures", way, job)
    }

    /// The same of a figure anywhere.
    pub fn speed_at(&self, at: &str, way: &str, job: &str) -> Option<f64> {
        let figure = format!("{at}/{way}/{job}");
        if job.starts_with("touch") {
            return self.one_write(&figure).map(|microseconds| 1e6 / microseconds);
        }
        self.number(&format!("{figure}/bytes_per_second")).filter(|speed| *speed > 0.0)
    }

    /// The mean time of one write in microseconds, with the flush after it where there is one.
    pub fn one_write(&self, figure: &str) -> Option<f64> {
        let write = self.number(&format!("{figure}/mean_us")).filter(|time| *time > 0.0)?;
        Some(write + self.number(&format!("{figure}/flush_mean_us")).unwrap_or(0.0))
    }

    /// MiB/s over time of a fill in real time: seconds and rate.
    pub fn slices(&self, way: &str) -> Vec<(f64, f64)> {
        let slices = self.value(&format!("real/fill/{way}/slices")).and_then(Value::as_array);
        let pair = |value: &Value| Some((value.get(0)?.as_f64()?, value.get(1)?.as_f64()?));
        slices.map(|all| all.iter().filter_map(pair).collect()).unwrap_or_default()
    }

    /// What one of [`OURS`] reaches against the others.
    pub fn ratios(&self, ours: &str) -> BTreeMap<String, f64> {
        let mut ratios = BTreeMap::new();
        let peers = WAYS.iter().filter(|way| OURS.iter().all(|(name, _)| *name != way.name));
        for peer in peers {
            for (work, job) in WORK {
                if let (Some(our), Some(their)) =
                    (self.speed(ours, job), self.speed(peer.name, job))
                {
                    ratios.insert(format!("{work}_{}", peer.name), rounded(our / their));
                }
            }
        }
        let counter = |name: &str| self.number(&format!("virtual/figures/{ours}/seqfirst/{name}"));
        if let (Some(waited), Some(chunks)) =
            (counter("waited"), counter("chunks").filter(|n| *n > 0.0))
        {
            ratios.insert("ahead_share".into(), rounded(1.0 - waited / chunks));
        }
        match ours {
            "notify" => ratios.extend(super::layers::ratios(self, false)),
            "notify_installed" => ratios.extend(super::layers::ratios(self, true)),
            _ => {}
        }
        ratios
    }

    /// Refuses a result in virtual time that lacks something of the plan, or in which ways that
    /// are compared had different numbers of chunks to allocate.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        self.check_rows("virtual/figures", &plan.rows)?;
        self.check_rows("virtual/turned", &plan.turned_rows)?;
        for device in &plan.slow_devices {
            self.check_rows(&format!("virtual/slow/{device}"), &plan.slow_rows)?;
        }
        Ok(())
    }

    fn check_rows(&self, at: &str, rows: &[Row]) -> Result<()> {
        for row in rows {
            let chunk = find(row.way).map_or(CHUNK, |way| way.chunk);
            for job in row.volumes.iter().flat_map(|volume| &volume.jobs) {
                let figure = format!("{at}/{}/{}", row.way, job.name);
                if self.speed_at(at, row.way, job.name).is_none() {
                    bail!("the result has no figure {figure}");
                }
                let Some(found) = self.number(&format!("{figure}/chunks")) else { continue };
                let asked = job.chunks(chunk) as f64;
                if found != asked {
                    bail!("{figure} allocated {found} chunks, where {asked} were to be written");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A small result in which notify has known ratios.
    pub fn sample() -> Results {
        let speed = |value: f64| json!({ "bytes_per_second": value });
        let wait = json!({ "count": 2, "p50_us": 100.0, "p99_us": 250.0, "max_us": 2500.0 });
        let touch = |mean: f64| json!({ "mean_us": mean, "p50_us": mean, "p99_us": 2.0 * mean, "max_us": 3.0 * mean, "chunks": 32 });
        let ours = json!({ "bytes_per_second": 980.0, "chunks": 128, "waited": 2, "wait": wait });
        let figures = json!({
            "linear": { "seqfirst": speed(1000.0), "seqagain": speed(1000.0), "randread": speed(400.0), "touch": touch(10.0), "touch_again": touch(9.0) },
            "thin4m": { "seqfirst": speed(400.0), "touch": touch(500.0) },
            "notify": { "seqfirst": ours, "seqagain": speed(1000.0), "randread": speed(396.0), "touch": touch(400.0), "touch_again": touch(10.0) },
            "notify_installed": { "seqfirst": speed(500.0) },
        });
        let turned = json!({ "linear": { "seqfirst": speed(990.0), "seqagain": speed(1000.0) } });
        let mut results = Results::default();
        results.set("virtual", json!({ "figures": figures, "turned": turned }));
        results.set("real", json!({ "fill": { "linear": { "slices": [[0.25, 100.0], [0.5, 110.0]] }, "notify": { "slices": [[0.25, 90.0], [0.5, 10.0]], "wait": wait } } }));
        results.set("scale", json!({ "chunks": [{ "chunks": 1000, "activation_us": 2000.0, "kernel_bytes": 8192 }] }));
        results
    }

    #[test]
    fn ratios_are_ours_by_theirs_and_only_of_what_was_measured() {
        let ratios = sample().ratios("notify");
        assert_eq!(ratios["seqfirst_linear"], 0.98);
        assert_eq!(ratios["seqfirst_thin4m"], 2.45);
        assert_eq!(ratios["seqwrite_linear"], 1.0);
        assert_eq!(ratios["randread_linear"], 0.99);
        assert_eq!(ratios["ahead_share"], 0.9844);
        assert_eq!((ratios["touch_linear"], ratios["touch_thin4m"]), (0.025, 1.25));
        assert!(!ratios.contains_key("seqread_linear"));
        let installed = sample().ratios("notify_installed");
        assert_eq!(installed.keys().collect::<Vec<_>>(), ["seqfirst_linear", "seqfirst_thin4m"]);
        assert_eq!(installed["seqfirst_linear"], 0.5);
    }

    /// A result that has all of a plan, and the chunks that it asks for.
    fn complete(plan: &Plan) -> Results {
        let figures = |rows: &[Row]| {
            let mut ways = Map::new();
            for row in rows {
                let jobs = row.volumes.iter().flat_map(|volume| &volume.jobs);
                let chunk = find(row.way).unwrap().chunk;
                let figures = jobs.map(|job| {
                    let figure = json!({ "bytes_per_second": 1.0, "mean_us": 1.0, "chunks": job.chunks(chunk) });
                    (job.name.to_owned(), figure)
                });
                ways.insert(row.way.into(), figures.collect());
            }
            Value::Object(ways)
        };
        let slow = plan.slow_devices.iter();
        let slow = slow.map(|device| ((*device).to_owned(), figures(&plan.slow_rows))).collect();
        let (first, turned) = (figures(&plan.rows), figures(&plan.turned_rows));
        let slow = Value::Object(slow);
        let mut results = Results::default();
        results.set("virtual", json!({ "figures": first, "turned": turned, "slow": slow }));
        results
    }

    #[test]
    fn a_result_has_all_that_was_planned_or_is_refused() {
        let plan = Plan::new(true, &["thin4m".into()]);
        assert!(complete(&plan).check(&plan).is_ok());
        let wider = Plan::new(true, &["thin4m".into(), "thin64k".into()]);
        let missing = complete(&plan).check(&wider).unwrap_err().to_string();
        assert_eq!(missing, "the result has no figure virtual/figures/thin64k/seqfirst");
    }

    #[test]
    fn ways_with_different_numbers_of_first_writes_are_not_compared() {
        let plan = Plan::new(true, &["thin64k".into()]);
        let mut results = complete(&plan);
        let figure = results.0["virtual"].pointer_mut("/figures/thin64k/randfirst/chunks").unwrap();
        *figure = json!(1024);
        let unequal = results.check(&plan).unwrap_err().to_string();
        assert!(
            unequal.contains("allocated 1024 chunks, where 16 were to be written"),
            "{unequal}"
        );
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let dir = crate::proc::ScratchDir::new(&std::env::temp_dir(), "xtask-bench-").unwrap();
        let file = dir.path().join("result.json");
        sample().write(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let again = Results::read(&file).unwrap();
        assert_eq!(again.ratios("notify"), sample().ratios("notify"));
        again.write(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}
