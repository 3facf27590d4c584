// SPDX-License-Identifier: LGPL-2.1-or-later
//! The test of the fast lab itself: what must fail fails, and a status comes out as it is.

use anyhow::{Result, bail};

use super::boot::{self, Plan};
use super::{FastArgs, Parts, verdict};
use crate::cache::Cache;

/// The test's name.
pub const NAME: &str = "fast/judge";

/// A script, its options, and how its run must end: a status, or words of the error.
const CASES: &[(&str, &str, Result<i32, &str>)] = &[
    ("exit 7", "", Ok(7)),
    ("echo WARNING: none of the kernel >/dev/kmsg", "", Err("the kernel complains")),
    ("echo c >/proc/sysrq-trigger", "", Err("sysrq triggered crash")),
    ("echo o >/proc/sysrq-trigger; sleep 1000", "", Err("without a status")),
    (HANG, "--limit 30", Err("submit_bio_wait")),
];
/// A write that waits while no notifier serves it.
const HANG: &str = "dmsetup create x --table '0 8192 notify 128 0 0 0 2 hold_timeout 600' && \
    dd if=/dev/zero of=/dev/mapper/x bs=4k count=1 oflag=direct";

/// Runs all cases, on that processor of this machine.
pub fn run(cache: &Cache, parts: &Parts, turn: usize) -> Result<()> {
    for (script, options, expected) in CASES {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let plan = Plan { lab: FastArgs::parse_words(options)?, files: Vec::new(), words, turn };
        let found = verdict::status(&boot::run(cache, parts, &plan, std::io::sink())?);
        match (&found, expected) {
            (Ok(found), Ok(expected)) if found == expected => {}
            (Err(error), Err(words)) if error.to_string().contains(words) => {}
            _ => bail!("'{script}' was to end with {expected:?}, and ended with {found:?}"),
        }
    }
    Ok(())
}
