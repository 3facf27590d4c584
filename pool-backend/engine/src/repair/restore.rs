// SPDX-License-Identifier: LGPL-2.1-or-later
//! Writes a pool's metadata again.
//!
//! ```text
//!   look at everything: the map, its rules, LVM, the kernel's devices    nothing is changed
//!   build the metadata in memory, read it back, compare                  nothing is changed
//!   keep a copy of the device in the archive                             nothing is changed
//!   mark both superblocks "half restored", flush                         until the next flush:
//!   write the database, flush                                              before, or half
//!   write the superblock, flush                                          after
//! ```
//!
//! Killed anywhere, the device holds what it held, or the mark, with which no pool is started and
//! a restore is simply run again.
//!
//! A pool may have devices that are in use: that is what restoring from the kernel is for. A map
//! from a text must then have all that the kernel has, where the kernel has it: a chunk that it
//! took for free would be given to another volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, VolumeName};

use super::check::contradiction;
use super::describe::{self, Live};
use super::files::Files;
use super::image::{self, Image};
use super::shared::{Completed, Kernel};
use super::text::Description;
use super::{Bench, RepairError, RestoreFrom, RestoreRequest, Restored, cannot};
use super::{rules, shared};
use crate::alloc::VolumeMap;
use crate::device::BlockDevice;
use crate::lvm::VgReport;
use crate::meta::{Contents, DATA_START, JOURNAL_START, Store, Superblock, VolumeRow};
use crate::names::{self, META_LV, TAG, TAG_NEW};
use crate::pool::start;

fn refused(what: impl Into<String>) -> RepairError {
    RepairError::Refused(what.into())
}

/// The metadata to be written, and the sentences about it.
struct Plan {
    description: Description,
    notes: Vec<String>,
}

/// Restores the metadata of the pool in a volume group.
pub(super) fn restore(
    bench: &Bench<'_>,
    request: &RestoreRequest,
) -> Result<Restored, RepairError> {
    if let Some(shared) = &bench.started {
        return Err(refused(format!(
            "the pool '{}' is started: its metadata is in use and not damaged for it; \
             'virsh pool-destroy {}' stops it",
            shared.name, shared.name
        )));
    }
    let report = start::usable_group(bench.parts, bench.vg)?;
    check_group(bench, &report)?;
    let files = Files::new(bench.parts.config.backup_dir.clone());
    let known = known_pool(bench, request, &report)?;
    let mut plan = source(bench, request, &report, &files, known)?;
    leave_out(&mut plan, &request.without)?;
    leave_out_lost(bench, &report, &mut plan);
    check_ids(bench, request, &report, known, &mut plan)?;
    check_rules(&plan, &report)?;
    check_devices(bench, &report, &plan)?;
    let (runs, chunks) = plan.description.size();
    let contents = &plan.description.contents;
    let size = contents.settings.chunk.bytes_of(virtnotify_model::Chunks(chunks));
    let (count, written) = (contents.volumes.len(), plan.description.head.written);
    let (date, hour, minute) = (written.date(), written.hour(), written.minute());
    plan.notes.push(format!(
        "volumes: {count}, with {size} in {runs} runs, as of {date} {hour:02}:{minute:02} UTC"
    ));
    for (row, map) in maps_of(contents)? {
        let chunks = map.chunks();
        let held = contents.settings.chunk.bytes_of(virtnotify_model::Chunks(chunks));
        plan.notes.push(format!("volume {}: {held} of {}", row.name, row.capacity));
    }
    if !request.dry_run {
        write(bench, request, &report, &files, &mut plan)?;
    }
    Ok(Restored(plan.notes))
}

/// Refuses groups in which there is nothing to restore.
fn check_group(bench: &Bench<'_>, report: &VgReport) -> Result<(), RepairError> {
    let vg = bench.vg;
    let ours =
        |lv: &&crate::lvm::LvReport| lv.name == META_LV || names::data_lv_index(&lv.name).is_some();
    if let Some(foreign) = report.lvs.iter().filter(ours).find(|lv| !lv.has_tag(TAG)) {
        return Err(refused(format!(
            "'{vg}/{}' lacks the tag '{TAG}': it is not a pool's",
            foreign.name
        )));
    }
    if report.lv(META_LV).is_some_and(|lv| lv.has_tag(TAG_NEW)) {
        return Err(refused(format!(
            "the pool in '{vg}' was being made or deleted: there is nothing to restore"
        )));
    }
    if !report.lvs.iter().any(|lv| names::data_lv_index(&lv.name).is_some()) {
        return Err(refused(format!("the volume group '{vg}' has no data of a pool")));
    }
    Ok(())
}

/// The id that the present metadata has, if that much can be read. What another version of the program made
/// is not damaged.
fn known_pool(
    bench: &Bench<'_>,
    request: &RestoreRequest,
    report: &VgReport,
) -> Result<Option<Uuid>, RepairError> {
    if report.lv(META_LV).is_none() {
        return Ok(None);
    }
    let read = |device: &Arc<dyn BlockDevice>, _: &str| {
        let copies = Superblock::copies(device.as_ref()).ok();
        Ok(copies.map(|copies| match Superblock::newest(copies) {
            Ok(found) => {
                let known = found.check_features().and_then(|()| found.check_writable());
                (Some(found.pool), known.err())
            }
            Err(error) => (None, Some(error)),
        }))
    };
    let found = describe::with_metadata(bench.parts, bench.vg, report, read).ok().flatten();
    let Some((pool, error)) = found else { return Ok(None) };
    match error.filter(|error| error.is_newer() && !request.force) {
        Some(error) => Err(refused(format!(
            "the metadata of '{}' is not damaged: {error}. The version that made it can use it; --force \
             overwrites it",
            bench.vg
        ))),
        None => Ok(pool),
    }
}

/// Reads the map from the source that was asked for.
fn source(
    bench: &Bench<'_>,
    request: &RestoreRequest,
    report: &VgReport,
    files: &Files,
    known: Option<Uuid>,
) -> Result<Plan, RepairError> {
    match &request.from {
        RestoreFrom::Text(text) => {
            let description: Description =
                text.parse().map_err(|e| RepairError::Damaged(format!("the map: {e}")))?;
            Ok(Plan { description, notes: Vec::new() })
        }
        RestoreFrom::Backup => {
            let (found, unusable) = files.find(report);
            let notes = unusable.iter().map(ToString::to_string).collect();
            match found {
                Some(description) => Ok(Plan { description, notes }),
                None => Err(unusable
                    .into_iter()
                    .next()
                    .map_or_else(|| describe::no_backup(bench), RepairError::from)),
            }
        }
        RestoreFrom::Kernel => from_kernel(bench, request, report, files, known),
    }
}

/// The kernel knows the volumes that have a device. Those that have none are in the backup only,
/// and without them their chunks would be taken for free.
fn from_kernel(
    bench: &Bench<'_>,
    request: &RestoreRequest,
    report: &VgReport,
    files: &Files,
    known: Option<Uuid>,
) -> Result<Plan, RepairError> {
    let (backup, unusable) = files.find(report);
    let mut notes: Vec<String> = unusable.iter().map(ToString::to_string).collect();
    let pool = known.or(backup.as_ref().map(|backup| backup.contents.pool));
    let live = describe::live(bench, report)?;
    let half_made = live.iter().filter(|live| !live.whole);
    let half_made: BTreeMap<_, _> =
        half_made.map(|live| (live.row.uuid, live.row.name.clone())).collect();
    let mut description = describe::kernel(bench, report, live, pool.unwrap_or_else(Uuid::new_v4))?;
    let chunk = description.contents.settings.chunk;
    let Some(backup) = backup else {
        notes.push("there is no backup: a volume that has no device now is lost".to_owned());
        notes.extend(half_made.values().map(half_made_alone));
        return Ok(Plan { description, notes });
    };
    let kernel = Kernel { contents: &description.contents, half_made: &half_made };
    let found = shared::in_layers(kernel, &backup.contents, &request.without)
        .map_err(|e| RepairError::Damaged(e.to_string()))?;
    if shared::has_layers(&backup.contents) {
        notes.push("which chunks snapshots and clones share is taken from the backup".into());
    }
    let missing = |name| format!("volume {name} has no device: it is taken from the backup");
    notes.extend(found.only_known.iter().map(missing));
    let unknown = half_made.iter().filter(|(uuid, _)| !found.completed.contains_key(uuid));
    notes.extend(unknown.map(|(_, name)| half_made_alone(name)));
    notes.extend(found.completed.values().map(|completed| completed_note(completed, chunk)));
    description.contents = found.contents;
    Ok(Plan { description, notes })
}

/// What is said of a device that was being made, and of which no backup knows.
fn half_made_alone(name: &VolumeName) -> String {
    format!(
        "volume {name}: its device was being made when the daemon ended, and no backup knows the volume: what the \
         device lacks is lost"
    )
}

/// What is said of a device that was being made, and that the backup completes.
fn completed_note(Completed { name, kept, taken }: &Completed, chunk: ChunkSize) -> String {
    let size = |chunks: u64| chunk.bytes_of(virtnotify_model::Chunks(chunks));
    let lost = match taken {
        0 => String::new(),
        _ => format!(", but for {} that other volumes have now: holes", size(*taken)),
    };
    format!(
        "volume {name}: its device was being made when the daemon ended, and lacks {}: that is taken from the \
         backup{lost}",
        size(kept + taken)
    )
}

fn maps_of(contents: &Contents) -> Result<Vec<(&VolumeRow, VolumeMap)>, RepairError> {
    contents.maps().map_err(|e| RepairError::Damaged(e.to_string()))
}

fn leave_out(plan: &mut Plan, without: &[VolumeName]) -> Result<(), RepairError> {
    for name in without {
        let volumes = &mut plan.description.contents.volumes;
        let before = volumes.len();
        volumes.retain(|_, row| row.name != *name);
        if volumes.len() == before && !matches!(plan.description.head.source, super::Source::Kernel)
        {
            return Err(refused(format!("the map has no volume '{name}' to be left out")));
        }
        plan.notes.push(format!("volume {name} is left out: its data is given up"));
    }
    if !without.is_empty() {
        shared::leave_out_waste(&mut plan.description.contents);
    }
    Ok(())
}

/// Leaves out data LVs that are gone, and on which nothing is.
fn leave_out_lost(bench: &Bench<'_>, report: &VgReport, plan: &mut Plan) {
    for index in describe::lost_unused(&plan.description.contents, report) {
        plan.description.contents.data_lvs.remove(&index);
        let (vg, name) = (bench.vg, names::data_lv(index));
        plan.notes
            .push(format!("'{vg}/{name}' is gone, and no volume has data on it: it is left out"));
    }
}

/// Refuses a map that is not of this pool, on these logical volumes.
fn check_ids(
    bench: &Bench<'_>,
    request: &RestoreRequest,
    report: &VgReport,
    known: Option<Uuid>,
    plan: &mut Plan,
) -> Result<(), RepairError> {
    let contents = &mut plan.description.contents;
    let (vg, pool) = (bench.vg, contents.pool);
    if let Some(known) = known.filter(|known| *known != pool) {
        let what = format!("the map is of the pool {pool}, and '{vg}' holds the pool {known}");
        if !request.force {
            return Err(refused(format!("{what}; --force takes it all the same")));
        }
        plan.notes.push(what);
    }
    for (index, lv) in describe::data_lvs(report, contents.settings) {
        let expected = contents.data_lvs.entry(index).or_default();
        if *expected == lv.uuid {
            continue;
        }
        let name = names::data_lv(index);
        let what = match expected.as_str() {
            "" => format!("the map does not know '{vg}/{name}'"),
            other => format!("'{vg}/{name}' is not the logical volume {other} of the map"),
        };
        if !request.force {
            return Err(refused(format!("{what}; --force takes it all the same")));
        }
        plan.notes.push(what);
        *expected = lv.uuid;
    }
    Ok(())
}

fn check_rules(plan: &Plan, report: &VgReport) -> Result<(), RepairError> {
    let contents = &plan.description.contents;
    let lvs = describe::data_lvs(report, contents.settings);
    let broken = rules::broken(contents, &lvs);
    let is_kernel = plan.description.head.source == super::Source::Kernel;
    match broken.is_empty() {
        true => Ok(()),
        false if is_kernel && shared::shows_one_chunk_twice(contents) => Err(refused(format!(
            "volumes show the same chunks: {}. How snapshots and clones share them the kernel does not know: that \
             is in a backup that has all of them, and there is none. Restore from an older backup (--from FILE), or \
             leave volumes out (--without VOLUME)",
            broken.join("; ")
        ))),
        false => Err(RepairError::Damaged(format!(
            "the map cannot be right, and is not used: {}",
            broken.join("; ")
        ))),
    }
}

/// Refuses a map that lacks what the kernel has.
fn check_devices(bench: &Bench<'_>, report: &VgReport, plan: &Plan) -> Result<(), RepairError> {
    let contents = &plan.description.contents;
    let maps = maps_of(contents)?;
    let known: BTreeMap<_, _> = maps.iter().map(|(row, map)| (row.uuid, (*row, map))).collect();
    for live in describe::live(bench, report)? {
        let name = &live.device.name;
        let advice = "restore from the kernel, or stop what uses it and remove it with 'dmsetup \
                      remove'";
        let Some((row, map)) = known.get(&live.row.uuid) else {
            if live.device.openers == 0 && live.map.chunks() == 0 {
                continue;
            }
            return Err(refused(format!("the map does not know the device '{name}': {advice}")));
        };
        let other = live.table.chunk != contents.settings.chunk || row.name != live.row.name;
        if other || contradiction(map, &live.map).is_some() {
            return Err(refused(format!(
                "the device '{name}' has data where the map has none, or other data: {advice}"
            )));
        }
        check_length(&live, row.capacity)?;
    }
    Ok(())
}

/// A device that is longer than its volume could get chunks that the map refuses.
fn check_length(live: &Live, capacity: Bytes) -> Result<(), RepairError> {
    if live.table.length > capacity.whole_sectors() {
        let (name, has) = (&live.device.name, live.table.length.bytes());
        return Err(refused(format!(
            "the device '{name}' has {has}, and the map's volume {capacity}: restore from the \
             kernel"
        )));
    }
    Ok(())
}

fn write(
    bench: &Bench<'_>,
    request: &RestoreRequest,
    report: &VgReport,
    files: &Files,
    plan: &mut Plan,
) -> Result<(), RepairError> {
    let contents = plan.description.contents.clone();
    let there = report.lv(META_LV).is_some();
    let (image, length) = build(&contents, &meta_uuid(report))?;
    let report = prepare(bench, report, length)?;
    // A metadata LV that was made just now has another id than the image was built for.
    let image = match there {
        true => image,
        false => build(&contents, &meta_uuid(&report))?.0,
    };
    describe::with_metadata(bench.parts, bench.vg, &report, |device, lv_uuid| {
        if there && !request.no_archive {
            let (kept, unread) = files.keep_image(bench.vg, device.as_ref())?;
            plan.notes.push(format!("what was there is kept in {}", kept.display()));
            if unread > 0 {
                let what = format!("{unread} bytes of it could not be read, and are zeroes there");
                plan.notes.push(what);
            }
        }
        put(&image, device.as_ref(), length)
            .map_err(|e| cannot("cannot write the metadata; run the restore again", e))?;
        let found = image::read(device.as_ref(), lv_uuid)?;
        if found != contents {
            let what = "what was written does not read back: the device is not to be trusted";
            return Err(RepairError::Damaged(what.into()));
        }
        Ok(())
    })?;
    plan.notes.push("the metadata is written, and read back".into());
    Ok(())
}

fn meta_uuid(report: &VgReport) -> String {
    let none = || "000000-0000-0000-0000-0000-0000-000000".to_owned();
    report.lv(META_LV).map_or_else(none, |lv| lv.uuid.clone())
}

/// The metadata device in memory, and the length of what is in it.
fn build(contents: &Contents, lv_uuid: &str) -> Result<(Arc<Image>, u64), RepairError> {
    let mut size = 4 << 20;
    loop {
        let image = Image::zeroed(DATA_START + size).map_err(|e| cannot("not enough memory", e))?;
        let image = Arc::new(image);
        let built = Store::build(image.clone(), lv_uuid, contents);
        if let Ok(store) = built {
            drop(store);
            let superblock = Superblock::load(image.as_ref(), lv_uuid);
            let superblock = superblock.map_err(|e| RepairError::Damaged(e.to_string()))?;
            return Ok((image, superblock.length));
        }
        if size > 16 << 30 {
            return Err(built.err().map_or_else(|| refused("too much"), RepairError::from));
        }
        size *= 2;
    }
}

/// Makes sure that there is a metadata LV with room for a database of this length.
fn prepare(bench: &Bench<'_>, report: &VgReport, length: u64) -> Result<VgReport, RepairError> {
    let vg = bench.vg;
    let wanted = Bytes(DATA_START.saturating_add(length.saturating_mul(2)));
    let round = |size: Bytes| size.round_up(report.extent).unwrap_or(size);
    match report.lv(META_LV) {
        Some(lv) if lv.size.0 >= DATA_START + length => return Ok(report.clone()),
        Some(_) => bench
            .parts
            .lvm
            .extend_lv(vg, META_LV, round(wanted))
            .map_err(|e| cannot(format!("cannot extend '{vg}/{META_LV}'"), e))?,
        None => {
            let size = round(wanted.max(bench.parts.config.metadata));
            let pool = report.tags.iter().find(|tag| names::is_pool_tag(tag));
            let tags: Vec<&str> = [TAG].into_iter().chain(pool.map(String::as_str)).collect();
            // Not tagged as new: cut off here, the pool must not be taken for one to be made.
            bench
                .parts
                .lvm
                .create_lv(vg, META_LV, size, &tags)
                .map_err(|e| cannot(format!("cannot make '{vg}/{META_LV}'"), e))?;
        }
    }
    Ok(start::usable_group(bench.parts, vg)?)
}

/// Copies the image onto the device, the superblock last.
fn put(image: &Image, device: &dyn BlockDevice, length: u64) -> std::io::Result<()> {
    const STEP: u64 = 1 << 20;
    let copies = Superblock::copies(image)?;
    let superblock = Superblock::newest(copies).map_err(std::io::Error::other)?;
    Superblock::mark_restoring(device)?;
    let end = DATA_START + length;
    let mut at = JOURNAL_START;
    while at < end {
        let part = usize::try_from(STEP.min(end - at)).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; part];
        image.read_at(at, &mut bytes)?;
        device.write_at(at, &bytes)?;
        at += part as u64;
    }
    device.sync()?;
    Superblock { sequence: 1, ..superblock }.store(device)
}
