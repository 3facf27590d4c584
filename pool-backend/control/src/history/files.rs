// SPDX-License-Identifier: LGPL-2.1-or-later
//! The curves on disk: a file for each pool, by its UUID, replaced as a whole.
//!
//! Killed at any line: the file is the old one or the new one. A file that cannot be read is set aside under another
//! name, and said.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::curve::{Curve, Point};

/// More than a full curve takes.
const LONGEST: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    pool: String,
    minutes: Vec<Row>,
    quarters: Vec<Row>,
}

/// Time, capacity, available.
type Row = (u64, u64, u64);

/// The directory of the curves.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    fn path(&self, pool: Uuid) -> PathBuf {
        self.0.join(format!("{pool}.toml"))
    }

    /// All curves that there are.
    pub fn load(&self) -> BTreeMap<Uuid, Curve> {
        let all = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let pool = |name: String| Uuid::try_parse(name.strip_suffix(".toml")?).ok();
        let pools = all.filter_map(|entry| entry.file_name().into_string().ok().and_then(pool));
        let load = |pool| match read(&self.path(pool)) {
            Ok(curve) => Some((pool, curve)),
            Err(error) => {
                self.set_aside(pool, &error);
                None
            }
        };
        pools.filter_map(load).collect()
    }

    fn set_aside(&self, pool: Uuid, error: &io::Error) {
        let path = self.path(pool);
        warn!("the history '{}' cannot be read and is set aside: {error}", path.display());
        if let Err(error) = fs::rename(&path, path.with_extension("broken")) {
            warn!("it stays where it is, and is replaced: {error}");
        }
    }

    /// Replaces the curve of a pool.
    pub fn save(&self, pool: Uuid, name: &str, curve: &Curve) -> io::Result<()> {
        let row = |point: &Point| (point.time, point.capacity, point.available);
        let content = Content {
            pool: name.to_owned(),
            minutes: curve.minutes.iter().map(row).collect(),
            quarters: curve.quarters.iter().map(row).collect(),
        };
        let text = toml::to_string(&content).map_err(io::Error::other)?;
        fs::create_dir_all(&self.0)?;
        let title = "# How full a pool was: seconds since 1970, then bytes: capacity, available.\n";
        let text = [title, &text].concat();
        virtnotify_files::replace_durably(&self.path(pool), text.as_bytes(), 0o644)
    }

    /// Removes the curve of a pool.
    pub fn remove(&self, pool: Uuid) -> io::Result<()> {
        match fs::remove_file(self.path(pool)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> io::Result<Curve> {
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() > LONGEST {
        return Err(io::Error::other(format!("{} bytes are no history", found.len())));
    }
    let content: Content = toml::from_str(&fs::read_to_string(path)?).map_err(io::Error::other)?;
    let point = |(time, capacity, available): Row| Point { time, capacity, available };
    let points = |rows: Vec<Row>| rows.into_iter().map(point).collect();
    Curve::of(points(content.minutes), points(content.quarters))
        .ok_or_else(|| io::Error::other("its points are too many or not in order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: u64) -> Curve {
        let mut curve = Curve::default();
        for n in 0..points {
            let capacity = u64::MAX >> 1;
            curve.add(Point { time: 1_796_040_000 + 60 * n, capacity, available: capacity - n });
        }
        curve
    }

    #[test]
    fn what_is_saved_is_read_again_also_a_full_one() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(&directory.path().join("history"));
        assert_eq!(files.load(), BTreeMap::new());
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        files.save(a, "vms", &curve(3)).unwrap();
        files.save(b, "big", &curve(8 * 24 * 60)).unwrap();
        assert_eq!(files.load(), BTreeMap::from([(a, curve(3)), (b, curve(8 * 24 * 60))]));
        assert!(fs::metadata(files.path(b)).unwrap().len() < LONGEST / 4);
        files.remove(a).unwrap();
        files.remove(a).unwrap();
        assert_eq!(files.load().len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        let pool = Uuid::from_u128;
        let row = "[1, 1, 1]";
        let of = |minutes: &str| format!("pool = \"x\"\nminutes = [{minutes}]\nquarters = []\n");
        let good = of(row);
        for (n, text) in [
            (1, "cut o".to_owned()),
            (2, of(&format!("{row}, {row}"))),
            (3, of("[1, -1, 1]")),
            (4, good.clone() + "more = 1\n"),
            (5, "#".repeat(2 << 20)),
            (6, good),
        ] {
            fs::write(files.path(pool(n)), text).unwrap();
        }
        fs::write(directory.path().join("notes.toml"), "not ours").unwrap();
        assert_eq!(files.load().into_keys().collect::<Vec<_>>(), [pool(6)]);
        for n in 1..6 {
            assert!(files.path(pool(n)).with_extension("broken").exists(), "{n}");
        }
        files.save(pool(1), "x", &curve(1)).unwrap();
        assert_eq!(files.load().len(), 2);
    }
}
