// SPDX-License-Identifier: LGPL-2.1-or-later
//! The account on disk: a file a day, `2026-11-22.toml`, replaced as a whole.
//!
//! Killed at any line: the file is the old one or the new one. A file that cannot be read is set
//! aside under another name, which is logged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::ledger::{Ledger, Row};

/// Days before 1970 have no number, and neither have those after 9999.
const EPOCH: Date = jiff::civil::date(1970, 1, 1);
/// The number of days that are kept.
const KEPT: usize = 400;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    row: Vec<Row>,
}

/// The directory of the account.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    fn path(&self, day: u64) -> io::Result<PathBuf> {
        let span = i64::try_from(day).map_err(io::Error::other)?;
        let span = jiff::Span::new().try_days(span).map_err(io::Error::other)?;
        let date = EPOCH.checked_add(span).map_err(io::Error::other)?;
        Ok(self.0.join(format!("{date}.toml")))
    }

    /// The days that there are, in order.
    pub fn days(&self) -> Vec<u64> {
        let all = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let day = |name: String| {
            let date: Date = name.strip_suffix(".toml")?.parse().ok()?;
            u64::try_from((date - EPOCH).get_days()).ok()
        };
        let names = all.filter_map(|entry| entry.file_name().into_string().ok());
        let mut days: Vec<u64> = names.filter_map(day).collect();
        days.sort_unstable();
        days
    }

    /// A day's account.
    pub fn load(&self, day: u64) -> io::Result<Ledger> {
        let text = fs::read_to_string(self.path(day)?)?;
        let content: Content = toml::from_str(&text).map_err(io::Error::other)?;
        Ok(Ledger::new(day, content.row))
    }

    /// The newest day's account; one that cannot be read is set aside. One of a day to come was written while
    /// the clock was wrong: going on with that would count nothing until then.
    pub fn newest(&self, today: u64) -> Option<Ledger> {
        for day in self.days().into_iter().rev().filter(|day| *day <= today) {
            match self.load(day) {
                Ok(ledger) => return Some(ledger),
                Err(error) => self.set_aside(day, &error),
            }
        }
        None
    }

    fn set_aside(&self, day: u64, error: &io::Error) {
        let Ok(path) = self.path(day) else { return };
        warn!("the account '{}' cannot be read and is set aside: {error}", path.display());
        let _ = fs::rename(&path, path.with_extension("broken"));
    }

    /// Replaces a day's account.
    pub fn save(&self, ledger: &Ledger) -> io::Result<()> {
        let content = Content { row: ledger.rows().cloned().collect() };
        let text = toml::to_string(&content).map_err(io::Error::other)?;
        fs::create_dir_all(&self.0)?;
        let title = "# What volumes held: KiB times seconds, until that second of UTC.\n";
        let text = [title, &text].concat();
        virtnotify_files::replace_durably(&self.path(ledger.day)?, text.as_bytes(), 0o644)
    }

    /// Removes the oldest days where there are too many. Not by their age: a clock that is wrong for a moment
    /// would take all of them.
    pub fn prune(&self) {
        let days = self.days();
        for &day in &days[..days.len().saturating_sub(KEPT)] {
            let removed = self.path(day).and_then(fs::remove_file);
            if let Err(error) = removed {
                warn!("an old account cannot be removed: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{DAY, Owner, Seen};
    use super::*;
    use uuid::Uuid;
    use virtnotify_model::Bytes;

    fn ledger(day: u64) -> Ledger {
        let mut ledger = Ledger::new(day, Vec::new());
        for domain in [None, Some(Uuid::from_u128(1))] {
            let seen = Seen {
                owner: Owner { volume: Uuid::from_u128(day.into()), domain },
                pool: "vms".into(),
                name: "disk0".into(),
                domain_name: "a \"vm\"\n".into(),
                allocation: Bytes::mib(4),
            };
            ledger.see(seen, day * DAY + 10);
        }
        ledger.as_of(day * DAY + 100)
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(&directory.path().join("usage"));
        assert_eq!((files.days(), files.newest(20_780)), (Vec::new(), None));
        for day in [20_779, 20_780] {
            files.save(&ledger(day)).unwrap();
        }
        assert_eq!(files.days(), [20_779, 20_780]);
        assert_eq!(files.newest(20_780).unwrap(), ledger(20_780));
        assert_eq!(files.newest(20_779).unwrap(), ledger(20_779));
        assert!(directory.path().join("usage/2026-11-22.toml").exists());
        let last = 20_779 + KEPT as u64;
        for day in 20_781..last {
            files.save(&ledger(day)).unwrap();
        }
        files.prune();
        assert_eq!(files.days()[0], 20_779, "as many as are kept");
        files.save(&ledger(30_000)).unwrap();
        files.prune();
        assert_eq!((files.days()[0], files.days().len()), (20_780, KEPT));
    }

    #[test]
    fn a_broken_day_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        files.save(&ledger(1)).unwrap();
        fs::write(directory.path().join("1970-01-03.toml"), "[[row]]\nkib = \"x\"").unwrap();
        fs::write(directory.path().join("1970-01-04.new"), "cut o").unwrap();
        assert_eq!(files.newest(5).unwrap().day, 1);
        assert!(directory.path().join("1970-01-03.broken").exists());
    }
}
