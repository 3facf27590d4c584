// SPDX-License-Identifier: LGPL-2.1-or-later
//! Figures in Prometheus' text form. Pure.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder as _, TextEncoder};
use virtnotify_model::VolumeStats;

/// Upper bounds of the histogram of waits, as powers of two of nanoseconds: the bounds of the
/// target's own classes, so that the numbers are exact. From 16 µs to 69 s.
const BOUNDS: [u32; 12] = [14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36];

/// Metrics by name.
#[derive(Default)]
pub struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    /// A value that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, labels, metric);
    }

    /// A value that only goes up.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(float(value));
        let mut metric = Metric::default();
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, labels, metric);
    }

    /// How long writes waited.
    pub fn waits(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &[(&str, &str)],
        stats: &VolumeStats,
    ) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(stats.waits);
        histogram.set_sample_sum(seconds(stats.wait_total_ns));
        histogram.set_bucket(BOUNDS.map(|bits| bucket(stats, 1 << bits)).to_vec());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, labels, metric);
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
        labels: &[(&str, &str)],
        mut metric: Metric,
    ) {
        metric.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
        let family = self.0.entry(name).or_default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.mut_metric().push(metric);
    }

    /// The text.
    pub fn text(self) -> Result<Vec<u8>, prometheus::Error> {
        let (all, mut text): (Vec<_>, _) = (self.0.into_values().collect(), Vec::new());
        TextEncoder::new().encode(&all, &mut text)?;
        Ok(text)
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

/// The waits shorter than `bound`: all classes that begin below it, since none goes across.
fn bucket(stats: &VolumeStats, bound: u64) -> Bucket {
    let below = stats.wait_classes.iter().filter(|(from, _)| *from < bound);
    let mut bucket = Bucket::default();
    bucket.set_upper_bound(seconds(bound));
    bucket.set_cumulative_count(below.map(|(_, count)| count).sum());
    bucket
}

fn seconds(ns: u64) -> f64 {
    float(ns) / 1e9
}

/// Prometheus knows floating point alone.
#[allow(clippy::cast_precision_loss, reason = "it is exact up to 8 PiB")]
pub fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_become_a_histogram() {
        let wait_classes = vec![(0, 1), (20_480, 2), (1 << 20, 3), (1 << 40, 4)];
        let stats = VolumeStats {
            waits: 10,
            wait_total_ns: 1_500_000_000,
            wait_classes,
            ..VolumeStats::default()
        };
        let mut families = Families::default();
        families.waits("w", "Waits.", &[("volume", "a\"b")], &stats);
        families.counter("c", "Count.", &[], 7);
        let text = String::from_utf8(families.text().unwrap()).unwrap();
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        has("w_bucket{volume=\"a\\\"b\",le=\"0.000016384\"} 1");
        has("w_bucket{volume=\"a\\\"b\",le=\"0.001048576\"} 3");
        has("w_bucket{volume=\"a\\\"b\",le=\"0.004194304\"} 6");
        has("w_bucket{volume=\"a\\\"b\",le=\"+Inf\"} 10");
        has("w_sum{volume=\"a\\\"b\"} 1.5");
        has("# TYPE w histogram");
        has("c 7");
    }
}
