// SPDX-License-Identifier: LGPL-2.1-or-later
//! The answer to the message `stats`: a counter a line; and what the kernel itself counts. Pure.

use virtnotify_model::{Sectors, VolumeStats};

/// Reads it. Counters that are not known are passed over; a missing one is zero.
pub(crate) fn parse(text: &str) -> Option<VolumeStats> {
    let mut stats = VolumeStats::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        if name == "wait_hist" {
            stats.wait_classes = value.split_whitespace().map(class).collect::<Option<_>>()?;
            continue;
        }
        let value = value.parse().ok()?;
        match name {
            "wait_count" => stats.waits = value,
            "wait_total_ns" => stats.wait_total_ns = value,
            "wait_max_ns" => stats.wait_max_ns = value,
            "timedout" => stats.timed_out = value,
            "nospace_failed" => stats.refused = value,
            _ => {}
        }
    }
    Some(stats)
}

/// What was written to a block device, of its file `stat` in sysfs (`Documentation/block/stat.rst` in
/// Linux: sectors of 512 bytes, whatever the device's own are).
pub(crate) fn written(stat: &str) -> Option<Sectors> {
    stat.split_whitespace().nth(6)?.parse().ok().map(Sectors)
}

fn class(word: &str) -> Option<(u64, u64)> {
    let (from, count) = word.split_once(':')?;
    Some((from.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let stat = "     311        0    12345        9      170       8     4096      7  0 0 0\n";
        assert_eq!(written(stat), Some(Sectors(4096)));
        for bad in ["", "1 2 3 4 5 6", "1 2 3 4 5 6 x"] {
            assert_eq!(written(bad), None, "{bad}");
        }
    }

    #[test]
    fn counters_are_read() {
        let text = "held_total 3\ntimedout 1\nnospace_failed 2\nnewer 9\nwait_count 3\n\
                    wait_total_ns 30\nwait_max_ns 20\nwait_hist 0:1 1048576:2\n";
        let stats = parse(text).unwrap();
        assert_eq!((stats.waits, stats.wait_total_ns, stats.wait_max_ns), (3, 30, 20));
        assert_eq!((stats.timed_out, stats.refused), (1, 2));
        assert_eq!(stats.wait_classes, [(0, 1), (1 << 20, 2)]);
        assert_eq!(parse("wait_hist\n").unwrap().wait_classes, []);
        for bad in ["wait_count x", "wait_hist 5", "timedout", "wait_hist a:1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
