// SPDX-License-Identifier: LGPL-2.1-or-later
//! Reads a pool's map from the metadata, the kernel or a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;
use virtnotify_model::{Bytes, PoolName, VgName, VolumeKind};

use super::files::Files;
use super::rules::DataLv;
use super::text::{Description, Head, Source};
use super::{Bench, DumpFrom, RepairError, cannot, image};
use crate::alloc::{Extent, LayerRow, Place, Run, VolumeMap};
use crate::device::BlockDevice;
use crate::lvm::VgReport;
use crate::meta::{Contents, Settings, VolumeRow};
use crate::names::{self, META_LV};
use crate::pool::start::{self, GroupState, Parts};
use crate::target::{Device, LiveTable, TargetError};

/// This host's name, as one word.
pub(super) fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.filter(|name| !name.is_empty() && name.chars().all(plain)).unwrap_or_else(|| "-".into())
}

/// The data LVs of a group: their ids, and how many chunks they have.
pub(super) fn data_lvs(report: &VgReport, settings: Settings) -> BTreeMap<u16, DataLv> {
    let ours = report.lvs.iter().filter_map(|lv| Some((names::data_lv_index(&lv.name)?, lv)));
    let data = ours.map(|(index, lv)| {
        let chunks = settings.chunk.whole_chunks(lv.size).0;
        (index, DataLv { uuid: lv.uuid.clone(), chunks })
    });
    data.collect()
}

/// The last data LVs of a map that a group lacks, and on which nothing is. One before others is never left out: the
/// kernel knows data LVs by their place among them.
pub(super) fn lost_unused(contents: &Contents, report: &VgReport) -> Vec<u16> {
    let mut used: BTreeSet<u16> = contents.owned().map(|(_, run)| run.to.start.lv).collect();
    used.extend(contents.clean.iter().map(|extent| extent.start.lv));
    used.extend(contents.vacated.iter().map(|vacated| vacated.from.start.lv));
    let is_lost =
        |index: &u16| report.lv(&names::data_lv(*index)).is_none() && !used.contains(index);
    contents.data_lvs.keys().rev().copied().take_while(is_lost).collect()
}

/// Runs `work` with the metadata LV open; an LV that was not active is not active afterwards.
pub(super) fn with_metadata<T>(
    parts: &Parts,
    vg: &VgName,
    report: &VgReport,
    work: impl FnOnce(&Arc<dyn BlockDevice>, &str) -> Result<T, RepairError>,
) -> Result<T, RepairError> {
    let lv = report.lv(META_LV).ok_or_else(|| {
        RepairError::Damaged(format!("the volume group '{vg}' has no '{META_LV}'"))
    })?;
    if !lv.active {
        let activated = parts.lvm.activate_lv(vg, META_LV, true);
        activated.map_err(|e| cannot(format!("cannot activate '{vg}/{META_LV}'"), e))?;
    }
    let path = parts.config.device_path(vg, META_LV);
    let opened = parts.disks.open(&path, true);
    let opened = opened.map_err(|e| cannot(format!("cannot open '{}'", path.display()), e));
    let done = opened.and_then(|device| work(&device, &lv.uuid));
    if !lv.active
        && let Err(error) = parts.lvm.activate_lv(vg, META_LV, false)
    {
        tracing::warn!(%vg, %error, "the metadata LV stays active");
    }
    done
}

/// The content of the metadata at one moment, with every checksum checked.
pub(super) fn metadata(bench: &Bench<'_>, report: &VgReport) -> Result<Contents, RepairError> {
    metadata_at(bench, report).map(|(contents, _)| contents)
}

/// The same, and after how many commits of a started pool that was.
pub(super) fn metadata_at(
    bench: &Bench<'_>,
    report: &VgReport,
) -> Result<(Contents, u64), RepairError> {
    match &bench.started {
        Some(shared) => {
            let quiet = |work: &mut dyn FnMut()| {
                let _core = shared.core();
                work();
            };
            let (device, reader) = (shared.meta.as_ref(), &shared.reader);
            Ok(image::read_live(device, reader.lv_uuid(), reader, quiet)?)
        }
        None => with_metadata(bench.parts, bench.vg, report, |device, uuid| {
            Ok((image::read(device.as_ref(), uuid)?, 0))
        }),
    }
}

/// A device of a volume in this group, as the kernel has it.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) device: Device,
    pub(super) pool: PoolName,
    pub(super) row: VolumeRow,
    pub(super) table: LiveTable,
    pub(super) map: VolumeMap,
    /// Its map is complete. A daemon was killed while it made one that is not.
    pub(super) whole: bool,
}

fn unreadable(error: TargetError) -> RepairError {
    cannot("cannot ask the kernel for the volumes' devices", error)
}

/// The devices that lie on a group's data LVs, whatever they are called.
pub(super) fn live(bench: &Bench<'_>, report: &VgReport) -> Result<Vec<Live>, RepairError> {
    let Bench { parts, vg, .. } = bench;
    let mut numbers = BTreeMap::new();
    for lv in report.lvs.iter().filter(|lv| lv.active) {
        if let Some(index) = names::data_lv_index(&lv.name) {
            let path = parts.config.lv_path(vg, index);
            let number = parts.disks.number(&path);
            let number = number.map_err(|e| cannot(format!("cannot see '{}'", path.display()), e));
            numbers.insert(number?, index);
        }
    }
    let mut all = Vec::new();
    for device in parts.target.devices().map_err(unreadable)?.into_iter().filter(|d| d.live) {
        let table = parts.target.live_table(&device.id).map_err(unreadable)?;
        if table.devices.iter().any(|number| numbers.contains_key(number)) {
            all.push(one(bench, device, table, &numbers)?);
        }
    }
    Ok(all)
}

fn one(
    bench: &Bench<'_>,
    device: Device,
    table: LiveTable,
    numbers: &BTreeMap<(u32, u32), u16>,
) -> Result<Live, RepairError> {
    let odd = |what: &str| {
        RepairError::Damaged(format!("the device '{}' {what}", device.name.escape_debug()))
    };
    let (pool, name) =
        names::parts_of_dm_name(&device.name).ok_or_else(|| odd("has not the name of a volume"))?;
    let uuid = names::volume_of_dm_uuid(&device.id.0)
        .ok_or_else(|| odd("has not the UUID of a volume"))?;
    let mut map = VolumeMap::default();
    for run in bench.parts.target.dump(&device.id).map_err(unreadable)?.runs {
        let Run { at, to: Extent { start, length } } = run.run;
        let number = table.devices.get(usize::from(start.lv));
        let lv = number.and_then(|number| numbers.get(number));
        let lv = *lv.ok_or_else(|| odd("has chunks on something that is no data LV here"))?;
        let to = Extent { start: Place { lv, ..start }, length };
        map.insert(Run { at, to }).map_err(|e| odd(&e.to_string()))?;
    }
    let capacity = table.length.bytes();
    // Properties that the kernel does not know.
    let (created, layer, origin) = (0, 0, None);
    let kind = match name.snapshot() {
        Some(_) => VolumeKind::Snapshot,
        None => VolumeKind::Volume,
    };
    // A device gets its link when its map is complete, and a link goes before a device is made.
    let link = names::link(&bench.parts.config.dev_dir, &pool, &name);
    let whole = std::fs::read_link(link).is_ok_and(|to| to == names::link_target(device.minor));
    let row = VolumeRow { uuid, name, kind, capacity, created, layer, origin };
    Ok(Live { device, pool, row, table, map, whole })
}

/// The map that the kernel's devices have. Ids that it does not know are the caller's: the pool's.
pub(super) fn kernel(
    bench: &Bench<'_>,
    report: &VgReport,
    mut live: Vec<Live>,
    pool: Uuid,
) -> Result<Description, RepairError> {
    let Some(first) = live.first() else {
        let vg = bench.vg;
        let what = format!("the kernel has no device of a volume in '{vg}'");
        return Err(RepairError::Refused(what));
    };
    let (chunk, name) = (first.table.chunk, first.pool.clone());
    if let Some(other) = live.iter().find(|live| live.table.chunk != chunk || live.pool != name) {
        return Err(RepairError::Damaged(format!(
            "the devices '{}' and '{}' are not of one pool",
            first.device.name, other.device.name
        )));
    }
    live.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    let settings = Settings { chunk };
    let lvs = data_lvs(report, settings);
    let (mut layers, mut volumes) = (BTreeMap::new(), BTreeMap::new());
    // The kernel's maps are flat: each volume is a layer of its own.
    for (id, live) in (1..).zip(live) {
        layers.insert(id, (LayerRow::FIRST, live.map.iter().collect()));
        volumes.insert(id, VolumeRow { layer: id, ..live.row });
    }
    let contents = Contents {
        pool,
        settings,
        data_lvs: lvs.into_iter().map(|(index, lv)| (index, lv.uuid)).collect(),
        layers,
        volumes,
        clean: Vec::new(),
        vacated: Vec::new(),
    };
    Ok(Description { head: head(bench, report, Source::Kernel, Some(name)), contents })
}

/// The header of a map that is read now.
pub(super) fn head(
    bench: &Bench<'_>,
    report: &VgReport,
    source: Source,
    name: Option<PoolName>,
) -> Head {
    Head {
        written: OffsetDateTime::now_utc(),
        host: host(),
        source,
        sequence: 0,
        vg: bench.vg.clone(),
        name,
        meta_lv: report.lv(META_LV).map(|lv| lv.uuid.clone()).unwrap_or_else(no_lv),
    }
}

/// The placeholder for LVM's id of a logical volume that is gone.
fn no_lv() -> String {
    "000000-0000-0000-0000-0000-0000-000000".into()
}

/// The name of the pool in a group, as far as it is known: it is the host's.
pub(super) fn pool_name(bench: &Bench<'_>, report: &VgReport) -> Option<PoolName> {
    let started = bench.started.as_ref().map(|shared| shared.name.clone());
    started.or_else(|| report.tags.iter().find_map(|tag| names::pool_of_tag(tag)))
}

/// A pool's map as text.
pub(super) fn dump(bench: &Bench<'_>, from: DumpFrom) -> Result<String, RepairError> {
    let report = start::usable_group(bench.parts, bench.vg)?;
    let files = Files::new(bench.parts.config.backup_dir.clone());
    let described = match from {
        DumpFrom::Metadata => {
            if start::state_of(&report)? != GroupState::Ours {
                let what = format!("the volume group '{}' holds no pool", bench.vg);
                return Err(RepairError::Refused(what));
            }
            let mut contents = metadata(bench, &report)?;
            contents.clean.clear();
            contents.vacated.clear();
            let name = pool_name(bench, &report);
            Description { head: head(bench, &report, Source::Metadata, name), contents }
        }
        DumpFrom::Kernel => {
            let known = metadata(bench, &report).ok().map(|contents| contents.pool);
            kernel(bench, &report, live(bench, &report)?, known.unwrap_or_default())?
        }
        DumpFrom::Backup => {
            let (found, mut unusable) = files.find(&report);
            match (found, unusable.pop()) {
                (Some(found), _) => found,
                (None, Some(error)) => return Err(error.into()),
                (None, None) => return Err(no_backup(bench)),
            }
        }
    };
    Ok(described.to_string())
}

pub(super) fn no_backup(bench: &Bench<'_>) -> RepairError {
    RepairError::Refused(format!(
        "there is no backup of the logical volumes that '{}' has, in '{}'",
        bench.vg,
        bench.parts.config.backup_dir.display()
    ))
}

/// The size of a data LV's device, where it is active.
pub(super) fn device_size(bench: &Bench<'_>, index: u16) -> Option<Bytes> {
    let size = match &bench.started {
        Some(shared) => shared.data.get(index)?.size(),
        None => {
            let path = bench.parts.config.lv_path(bench.vg, index);
            bench.parts.disks.open(&path, false).and_then(|device| device.size())
        }
    };
    size.ok().map(Bytes)
}
