// SPDX-License-Identifier: LGPL-2.1-or-later
//! The backup thread of a pool: keeps the text in `/etc/virtnotify/backup` close to the metadata.
//!
//! It writes when the volumes change, when the pool ends, and otherwise once a minute when
//! something has changed. It reads beside the metadata's writer and holds nothing that another
//! thread wants. A directory that is full or read-only costs a warning, once.

use std::time::Duration;

use time::OffsetDateTime;

use super::describe;
use super::files::Files;
use super::text::{Description, Head, Source};
use crate::meta::Reader;
use crate::pool::Shared;
use crate::runtime::Instant;

/// The shortest time between two backups of a pool whose volumes only grew.
const PERIOD: Duration = Duration::from_secs(60);

struct Keeper<'a> {
    shared: &'a Shared,
    files: Files,
    /// The number of commits that the backup has.
    have: Option<u64>,
    /// The last failure, so that it is told once.
    failure: Option<String>,
}

/// Runs until the pool stops.
pub(crate) fn run(shared: &Shared) {
    let files = Files::new(shared.config.backup_dir.clone());
    let mut keeper = Keeper { shared, files, have: None, failure: None };
    keeper.save();
    let mut next = Instant::now() + PERIOD;
    loop {
        let news = shared.reader.wait(next.saturating_duration_since(Instant::now()));
        if news.stop || news.volumes || Instant::now() >= next {
            keeper.save();
            next = Instant::now() + PERIOD;
        }
        if news.stop {
            return;
        }
    }
}

impl Keeper<'_> {
    /// Writes a backup when something has changed since the last one.
    fn save(&mut self) {
        let reader = &self.shared.reader;
        let commits = reader.commits();
        if self.have == Some(commits) {
            return;
        }
        match self.write(reader) {
            Ok(()) => {
                self.have = Some(commits);
                self.failure = None;
            }
            Err(why) => {
                if self.failure.as_ref() != Some(&why) {
                    tracing::warn!(pool = %self.shared.name, "the metadata has no new backup: {why}");
                    self.failure = Some(why);
                }
            }
        }
    }

    fn write(&self, reader: &Reader) -> Result<(), String> {
        let mut contents = reader.contents().map_err(|e| e.to_string())?;
        contents.clean.clear();
        contents.vacated.clear();
        let head = Head {
            written: OffsetDateTime::now_utc(),
            host: describe::host(),
            source: Source::Metadata,
            sequence: 0,
            vg: self.shared.vg.clone(),
            name: Some(self.shared.name.clone()),
            meta_lv: reader.lv_uuid().to_owned(),
        };
        self.files.store(Description { head, contents }).map_err(|e| e.to_string())
    }
}
