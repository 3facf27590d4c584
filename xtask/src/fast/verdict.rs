// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a run of the fast lab went well: the command's status, and what the kernel said.

use anyhow::{Result, bail};

use super::boot::Ended;

/// What a sound kernel never says, and what of that is harmless after all: words, one entry a line.
const COMPLAINTS: &str = include_str!("../../../tests/kernel-log/complaints");
const HARMLESS: &str = include_str!("../../../tests/kernel-log/harmless");
/// How many lines of the kernel's log are shown around a complaint, or at the end.
const SHOWN: usize = 40;

/// The command's status; an error if there is none, or if the kernel complains.
pub fn status(ended: &Ended) -> Result<i32> {
    let log = &ended.kernel_log;
    if let Some(limit) = ended.limit {
        bail!("it did not end in {} s; what hung then:\n{}", limit.as_secs(), what_hung(log));
    }
    if let Some(text) = complaint(log) {
        bail!("the kernel complains:\n{text}");
    }
    match ended.status {
        Some(status) => Ok(status),
        None => bail!("the kernel ended without a status; it said last:\n{}", last(log)),
    }
}

/// The first complaint, with a few lines before it and many after it.
fn complaint(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().collect();
    let at = lines.iter().position(|line| complains(line))?;
    Some(lines[at.saturating_sub(5)..lines.len().min(at + SHOWN)].join("\n"))
}

fn complains(line: &str) -> bool {
    has_one(line, COMPLAINTS) && !has_one(line, HARMLESS)
}

/// Whether a line has an entry of a list.
fn has_one(line: &str, list: &str) -> bool {
    list.lines().filter(|entry| !entry.starts_with('#')).any(|entry| line.contains(entry))
}

/// From where the kernel was asked on; the end of the log where it was not.
fn what_hung(log: &str) -> String {
    log.find("Show Locks Held").map_or_else(|| last(log), |at| log[at..].to_owned())
}

fn last(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Option<i32>, log: &str) -> Ended {
        Ended { status, kernel_log: log.to_owned(), limit: None }
    }

    #[test]
    fn a_status_is_what_the_command_ended_with() {
        assert_eq!(status(&ended(Some(0), "[ 0.1] all is well")).unwrap(), 0);
        assert_eq!(status(&ended(Some(7), "")).unwrap(), 7);
    }

    #[test]
    fn a_kernel_that_complains_or_dies_is_a_failure_whatever_the_status() {
        for line in [
            "[    2.000000] WARNING: possible circular locking dependency detected",
            "[    2.000000] WARNING: CPU: 0 PID: 1 at kmod/dm-notify-io.c:1 x+0x1/0x2",
            "[    2.000000] BUG: KASAN: slab-use-after-free in x+0x1/0x2",
            "[    2.000000] BUG: sleeping function called from invalid context at mm/slab.h:1",
            "[  122.000000] INFO: task dd:20 blocked for more than 120 seconds.",
            "[    2.000000] UBSAN: shift-out-of-bounds in x.c:1",
            "[    2.000000] ODEBUG: free active (active state 0) object: 0 object type: work_struct",
        ] {
            assert!(status(&ended(Some(0), &format!("fine\n{line}\nfine"))).is_err(), "{line}");
        }
        let harmless = "[    2.000000] UBSAN: misaligned-access in kernel/x.c:1:2";
        assert_eq!(status(&ended(Some(0), harmless)).unwrap(), 0);
        assert!(status(&ended(None, "fine")).is_err());
    }

    #[test]
    fn of_one_that_hung_it_is_said_where() {
        let limit = Some(std::time::Duration::from_secs(3));
        let log =
            "[ 0.1] boot\n[ 3.0] sysrq: Show Locks Held\n[ 3.1] 1 lock held by dd/70\n70 (dd) D\n";
        let ended = Ended { status: None, kernel_log: log.to_owned(), limit };
        let error = status(&ended).unwrap_err().to_string();
        for word in ["3 s", "70 (dd) D", "held by dd/70"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(!error.contains("boot"));
    }
}
