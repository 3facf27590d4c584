// SPDX-License-Identifier: LGPL-2.1-or-later
//! Compares everything that is known of a pool: superblocks, database, the rules, LVM's sizes, the
//! kernel's maps, the backup. Nothing is changed, and no finding ends the check: it goes on with
//! what can still be read.
//!
//! A started pool goes on during a check. Data that is read at different moments may then differ
//! without being wrong, so a finding has to be found again before it counts.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use virtnotify_model::{Bytes, Chunks};

use super::describe::{self, Live};
use super::files::Files;
use super::rules;
use super::text::Description;
use super::{Bench, CheckReport, Finding, RepairError, Severity};
use crate::alloc::{Run, VolumeMap};
use crate::lvm::VgReport;
use crate::meta::{Contents, Copy, Superblock};
use crate::names::{self, META_LV, TAG, TAG_NEW};
use crate::pool::start;

/// How often a started pool is looked at before a finding is believed.
const LOOKS: u32 = 3;
/// A backup of a started pool may lack what is younger than this.
const BACKUP_LAG: i64 = 150;

/// Checks the pool of a volume group.
pub(super) fn check(bench: &Bench<'_>) -> Result<CheckReport, RepairError> {
    let mut report = look(bench)?;
    if bench.started.is_some() {
        for _ in 1..LOOKS {
            if report.findings.is_empty() {
                break;
            }
            let again = look(bench)?;
            let seen: BTreeSet<_> = report.findings.into_iter().collect();
            report = again;
            report.findings.retain(|finding| seen.contains(finding));
        }
    }
    report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(report)
}

struct Check<'a, 'b> {
    bench: &'a Bench<'b>,
    vg: &'a VgReport,
    report: CheckReport,
}

/// Checks once.
fn look(bench: &Bench<'_>) -> Result<CheckReport, RepairError> {
    // A growth is in LVM first, then in the metadata, then in the kernel. So these are asked in the
    // opposite order: what one has, the next has had for long.
    let first = start::usable_group(bench.parts, bench.vg)?;
    let mut check = Check { bench, vg: &first, report: CheckReport::default() };
    check.identity();
    if !check.present() {
        return Ok(check.report);
    }
    let live = check.live();
    let Some(contents) = check.metadata() else { return Ok(check.report) };
    let vg = start::usable_group(bench.parts, bench.vg)?;
    let mut check = Check { bench, vg: &vg, report: check.report };
    check.contents(&contents, live.as_deref());
    Ok(check.report)
}

impl Check<'_, '_> {
    fn say(&mut self, severity: Severity, code: &'static str, text: impl Into<String>) {
        self.report.findings.push(Finding { severity, code, text: text.into() });
    }

    fn figure(&mut self, name: &'static str, value: u64) {
        self.report.figures.push((name, value));
    }

    fn identity(&mut self) {
        self.report.vg = self.bench.vg.to_string();
        self.report.started = self.bench.started.is_some();
        let name = describe::pool_name(self.bench, self.vg);
        self.report.name = name.map(|name| name.to_string()).unwrap_or_default();
    }

    /// Whether there is a pool to be looked at.
    fn present(&mut self) -> bool {
        let vg = self.bench.vg;
        let data = self.vg.lvs.iter().any(|lv| names::data_lv_index(&lv.name).is_some());
        let tagged = self.vg.tags.iter().any(|tag| tag == TAG);
        match self.vg.lv(META_LV) {
            None if data || tagged => {
                let what = format!("'{vg}' held a pool, and its '{META_LV}' is gone");
                self.say(Severity::Damage, "metadata-gone", what);
                false
            }
            None => {
                let what = format!("the volume group '{vg}' holds no pool");
                self.say(Severity::Warning, "no-pool", what);
                false
            }
            Some(lv) if !lv.has_tag(TAG) => {
                let what = format!(
                    "'{vg}/{META_LV}' lacks the tag '{TAG}': it is not this pool's, or lost the tag"
                );
                self.say(Severity::Damage, "tag", what);
                false
            }
            Some(lv) if lv.has_tag(TAG_NEW) => {
                let what = format!(
                    "the pool in '{vg}' was being made or deleted: starting it makes it new, and \
                     deleting it goes on"
                );
                self.say(Severity::Warning, "half-made", what);
                false
            }
            Some(_) => true,
        }
    }

    /// The metadata, if it can be read.
    fn metadata(&mut self) -> Option<Contents> {
        self.superblocks();
        match describe::metadata_at(self.bench, self.vg) {
            Ok((contents, commits)) => {
                self.report.pool = contents.pool.to_string();
                self.compare_memory(&contents, commits);
                Some(contents)
            }
            Err(RepairError::Damaged(what)) => {
                self.say(Severity::Damage, "metadata", what);
                self.say(
                    Severity::Damage,
                    "restore",
                    format!(
                        "'virt-notify restore {}' writes it again, from the kernel's maps or \
                         from the backup",
                        self.bench.vg
                    ),
                );
                None
            }
            // Nothing is wrong with it.
            Err(error @ RepairError::Newer(_)) => {
                self.say(Severity::Warning, "version", error.to_string());
                None
            }
            Err(error) => {
                self.say(Severity::Damage, "metadata", error.to_string());
                None
            }
        }
    }

    /// Both copies of the superblock: one is enough, two are better.
    fn superblocks(&mut self) {
        let copies = match &self.bench.started {
            Some(shared) => Superblock::copies(shared.meta.as_ref()).ok(),
            None => {
                let read = |device: &std::sync::Arc<dyn crate::device::BlockDevice>, _: &str| {
                    Ok(Superblock::copies(device.as_ref()).ok())
                };
                describe::with_metadata(self.bench.parts, self.bench.vg, self.vg, read)
                    .ok()
                    .flatten()
            }
        };
        // A new superblock is the first one; the content of the other place is ignored.
        let other = match copies {
            Some([Copy::Intact(kept), other]) | Some([other, Copy::Intact(kept)])
                if kept.sequence > 1 =>
            {
                other
            }
            _ => return,
        };
        if !matches!(other, Copy::Intact(_)) {
            self.say(
                Severity::Warning,
                "superblock",
                "one of the two copies of the superblock is damaged; it is written again when \
                 the metadata grows",
            );
        }
    }

    /// Compares what the daemon works with and what is on the disk, as long as no commit comes in
    /// between.
    fn compare_memory(&mut self, contents: &Contents, commits: u64) {
        let Some(shared) = &self.bench.started else { return };
        let memory = shared.reader.contents();
        let same_time = shared.reader.still() == Some(commits);
        match memory {
            Ok(memory) if memory != *contents && same_time => self.say(
                Severity::Damage,
                "disk-differs",
                "the metadata on the disk is not what the daemon works with: dump it with \
                 --from kernel before the pool is stopped",
            ),
            Ok(_) => {}
            Err(error) => self.say(Severity::Damage, "metadata", error.to_string()),
        }
    }

    fn contents(&mut self, contents: &Contents, live: Option<&[Live]>) {
        let lvs = describe::data_lvs(self.vg, contents.settings);
        let broken = rules::broken(contents, &lvs);
        let whole = broken.is_empty();
        for what in broken {
            self.say(Severity::Damage, "rule", what);
        }
        self.device_sizes(contents);
        self.account(contents, whole);
        if let Some(live) = live {
            self.kernel(contents, live);
        }
        self.backup(contents);
    }

    /// Compares the data LVs in LVM and in the kernel.
    fn device_sizes(&mut self, contents: &Contents) {
        let vg = self.bench.vg;
        for &index in contents.data_lvs.keys() {
            let name = names::data_lv(index);
            let Some(lv) = self.vg.lv(&name).filter(|lv| lv.active) else { continue };
            let Some(size) = describe::device_size(self.bench, index).filter(|s| *s != lv.size)
            else {
                continue;
            };
            let listed = lv.size;
            self.say(
                Severity::Warning,
                "lv-size",
                format!(
                    "the kernel has {size} of '{vg}/{name}', and LVM says {listed}: 'lvchange \
                     --refresh {vg}/{name}' brings them together"
                ),
            );
        }
    }

    /// The account of every byte of the volume group.
    fn account(&mut self, contents: &Contents, whole: bool) {
        let chunk = contents.settings.chunk;
        let bytes = |chunks: u64| chunk.bytes_of(Chunks(chunks));
        let mapped: u64 = contents.owned().map(|(_, run)| run.to.length).sum();
        let clean: u64 = contents.clean.iter().map(|extent| extent.length).sum();
        let metadata = self.vg.lv(META_LV).map_or(Bytes::ZERO, |lv| lv.size);
        let data: Bytes = self.data_sizes().sum();
        let chunks: u64 = self.data_sizes().map(|size| chunk.whole_chunks(size).0).sum();
        let ours = data.saturating_add(metadata);
        let rest = data.saturating_sub(bytes(chunks));
        let dirty = chunks.saturating_sub(mapped).saturating_sub(clean);
        let free = self.vg.unused();
        let others = self.vg.size.saturating_sub(free).saturating_sub(ours);
        let figures = [
            ("size", self.vg.size),
            ("mapped", bytes(mapped)),
            ("clean", bytes(clean)),
            ("dirty", bytes(dirty)),
            ("cut-off", rest),
            ("metadata", metadata),
            ("others", others),
            ("free", free),
            ("chunk", chunk.bytes()),
        ];
        for (name, size) in figures {
            self.figure(name, size.0);
        }
        self.figure("volumes-count", contents.volumes.len() as u64);
        self.figure("layers-count", contents.layers.len() as u64);
        self.figure("runs-count", contents.owned().count() as u64);
        let sum: Bytes = figures[1..8].iter().map(|(_, size)| *size).sum();
        if whole && sum != self.vg.size {
            self.say(
                Severity::Damage,
                "account",
                format!(
                    "the parts of '{}' make {} bytes, and it has {}",
                    self.bench.vg, sum.0, self.vg.size.0
                ),
            );
        }
    }

    fn data_sizes(&self) -> impl Iterator<Item = Bytes> + '_ {
        let data = |lv: &&crate::lvm::LvReport| names::data_lv_index(&lv.name).is_some();
        self.vg.lvs.iter().filter(data).map(|lv| lv.size)
    }

    /// The devices that the kernel has, if it can be asked.
    fn live(&mut self) -> Option<Vec<Live>> {
        match describe::live(self.bench, self.vg) {
            Ok(live) => {
                self.figure("devices-count", live.len() as u64);
                return Some(live);
            }
            Err(error @ RepairError::Damaged(_)) => {
                self.say(Severity::Damage, "device", error.to_string());
            }
            Err(error) => self.say(Severity::Warning, "device", error.to_string()),
        }
        None
    }

    /// Finds what the kernel has and the metadata does not.
    fn kernel(&mut self, contents: &Contents, live: &[Live]) {
        // A map that breaks a rule was told already.
        let Ok(maps) = contents.maps() else { return };
        let known: BTreeMap<_, _> = maps.iter().map(|(row, map)| (row.uuid, (*row, map))).collect();
        let mut seen = BTreeSet::new();
        for live in live {
            seen.insert(live.row.uuid);
            match known.get(&live.row.uuid) {
                Some((row, map)) => {
                    self.device_table(live, contents, row.capacity);
                    self.device_map(live, map);
                }
                None => self.stray(live),
            }
        }
        if self.report.started {
            for (uuid, (row, _)) in known {
                if !seen.contains(&uuid) {
                    let what = format!("the volume '{}' has no device", row.name);
                    self.say(Severity::Warning, "no-device", what);
                }
            }
        }
    }

    fn stray(&mut self, live: &Live) {
        let name = &live.device.name;
        let used = live.device.openers > 0 || live.map.chunks() > 0;
        let what = format!("the metadata does not know the device '{name}'");
        match used {
            true => self.say(Severity::Damage, "unknown-device", format!("{what}, which has data")),
            false => self.say(Severity::Warning, "unknown-device", what),
        }
    }

    fn device_table(&mut self, live: &Live, contents: &Contents, capacity: Bytes) {
        let name = &live.row.name;
        if live.table.chunk != contents.settings.chunk {
            let (has, should) = (live.table.chunk.bytes(), contents.settings.chunk.bytes());
            let what = format!("the device of '{name}' has chunks of {has}, and the pool {should}");
            self.say(Severity::Damage, "device", what);
        }
        if live.table.length != capacity.whole_sectors() {
            let has = live.table.length.bytes();
            let what = format!("the device of '{name}' has {has}, and the volume {capacity}");
            self.say(Severity::Warning, "device-size", what);
        }
    }

    fn device_map(&mut self, live: &Live, map: &VolumeMap) {
        let name = &live.row.name;
        if let Some(odd) = contradiction(map, &live.map) {
            let place = odd.to.start;
            let what = format!(
                "the kernel has chunk {} of '{name}' at chunk {} of data LV {}, and the metadata \
                 has not",
                odd.at, place.chunk, place.lv
            );
            return self.say(Severity::Damage, "kernel-map", what);
        }
        let missing = map.chunks() - live.map.chunks();
        if missing > 0 && self.report.started {
            let what = format!("the kernel lacks {missing} chunks of '{name}'");
            self.say(Severity::Warning, "kernel-map", what);
        }
    }

    fn backup(&mut self, contents: &Contents) {
        let files = Files::new(self.bench.parts.config.backup_dir.clone());
        let path = files.path(self.bench.vg, contents.pool);
        match files.load(self.bench.vg, contents.pool) {
            Ok(Some(backup)) => self.backup_age(contents, &backup),
            Ok(None) => {
                let what = format!("there is no backup '{}'", path.display());
                self.say(Severity::Warning, "no-backup", what);
            }
            Err(error) => self.say(Severity::Warning, "backup", error.to_string()),
        }
    }

    fn backup_age(&mut self, contents: &Contents, backup: &Description) {
        let age = (OffsetDateTime::now_utc() - backup.head.written).whole_seconds();
        self.figure("backup-age-seconds", u64::try_from(age).unwrap_or(0));
        let current = backup.contents.volumes == contents.volumes
            && backup.contents.layers == contents.layers;
        let soon = self.report.started && (0..BACKUP_LAG).contains(&age);
        if !current && !soon {
            let minutes = age / 60;
            let what = format!("the backup is {minutes} minutes old, and lacks what changed since");
            self.say(Severity::Warning, "backup-old", what);
        }
    }
}

/// The first run of the kernel that the metadata does not have like that.
pub(super) fn contradiction(map: &VolumeMap, live: &VolumeMap) -> Option<Run> {
    live.iter().find(|run| {
        let there = map.place(run.at) == Some(run.to.start);
        let whole = map.containing(run.at).is_some_and(|known| known.end() >= run.end());
        !there || !whole
    })
}
