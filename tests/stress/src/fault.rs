// SPDX-License-Identifier: LGPL-2.1-or-later
//! Has allocations of the target fail: those that are asked for below its code.

use anyhow::{Context, Result};

const KNOBS: [&str; 2] = ["/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc"];
/// More than are ever made to fail.
const TIMES: u64 = 1 << 30;

fn put(fault: &str, knob: &str, value: &str) -> Result<()> {
    let path = format!("{fault}/{knob}");
    std::fs::write(&path, value).with_context(|| path)
}

/// What makes allocations fail: the kernel's knobs, none where it is built without them.
pub struct Faults(&'static [&'static str]);

impl Faults {
    /// No allocation ever fails.
    pub fn none() -> Self {
        Self(&[])
    }

    /// Says whose allocations may fail; none does yet.
    pub fn prepare() -> Result<Self> {
        let modules = std::fs::read_to_string("/proc/modules")?;
        let line = modules.lines().find(|line| line.starts_with("dm_notify "));
        let words: Vec<&str> =
            line.context("the module is not loaded")?.split_whitespace().collect();
        let start = u64::from_str_radix(words[5].trim_start_matches("0x"), 16)?;
        let end = start + words[1].parse::<u64>()?;
        for fault in KNOBS {
            for (knob, value) in [
                ("probability", "0"),
                ("require-start", &format!("{start:#x}")),
                ("require-end", &format!("{end:#x}")),
                ("stacktrace-depth", "32"),
                ("ignore-gfp-wait", "N"),
                ("verbose", "0"),
                ("interval", "1"),
                ("times", &TIMES.to_string()),
            ] {
                put(fault, knob, value)?;
            }
        }
        put(KNOBS[1], "min-order", "0")?;
        Ok(Self(&KNOBS))
    }

    /// Whether any can fail.
    pub fn can_be(&self) -> bool {
        !self.0.is_empty()
    }

    /// Of a hundred allocations, so many fail from now on.
    pub fn set(&self, percent: u32) -> Result<()> {
        self.0.iter().try_for_each(|fault| put(fault, "probability", &percent.to_string()))
    }

    /// How many have failed.
    pub fn count(&self) -> Result<u64> {
        let mut count = 0;
        for fault in self.0 {
            let left = std::fs::read_to_string(format!("{fault}/times"))?;
            count += TIMES - left.trim().parse::<u64>()?;
        }
        Ok(count)
    }
}
