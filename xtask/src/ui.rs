// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a person sees while something long goes on.
//!
//! One line when a step starts, one every half minute with the newest line of
//! its log, one at its end with the time it took. When it fails, the log's last
//! lines and its name.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::proc;

const TICK: Duration = Duration::from_secs(30);
const TAIL_BYTES: u64 = 64 * 1024;

/// One line of news, apart from any script's own output.
pub fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// Runs one step, with progress and, on failure, the end of its log.
pub fn step<T>(name: &str, log: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(&format!("{name} ..."));
    let start = Instant::now();
    let (done, ended) = channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let last = tail(log, 1);
                say(&format!("{name}: {} so far; {}", clock(start), last.trim()));
            }
        });
        let result = work();
        drop(done);
        result
    });
    match result {
        Ok(value) => {
            say(&format!("{name}: done in {}", clock(start)));
            Ok(value)
        }
        Err(error) => {
            proc::give_way_to_signal();
            eprintln!("{}", tail(log, 25));
            Err(error.context(format!(
                "{name}: failed after {}; the full log is {}",
                clock(start),
                log.display()
            )))
        }
    }
}

/// Time since `start` as minutes and seconds.
pub fn clock(start: Instant) -> String {
    let seconds = start.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// The last `lines` lines of a file; empty where there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = read_end(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "\n");
    let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn read_end(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}
