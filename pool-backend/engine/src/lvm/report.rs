// SPDX-License-Identifier: LGPL-2.1-or-later
//! LVM's reports (`--reportformat json --units b --nosuffix`), read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use virtnotify_model::{Bytes, PoolSource, VgName};

use super::{LvReport, VgReport};

/// The errors that a failed command tells in its report: LVM 2.03.31 puts them there, and not on
/// standard error.
pub(super) fn errors(text: &str) -> Vec<String> {
    let rows = serde_json::from_str::<Log>(text).map(|document| document.log).unwrap_or_default();
    rows.into_iter().filter(|row| row.log_type == "error").map(|row| row.log_message).collect()
}

/// The fields of a group.
pub(super) const GROUP: &str = "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,vg_tags,\
                                vg_exported,vg_partial,vg_shared";
/// The fields of its logical volumes. `vgs` prints a row for each of them when it is asked for
/// both, and no row for a group that has none.
pub(super) const VOLUMES: &str = "lv_name,lv_uuid,lv_size,lv_tags,lv_active";

/// What tells which groups there are and whether they can be used; a row for each device.
pub(super) const SOURCES: &str = "vg_name,vg_uuid,vg_exported,vg_partial,pv_name";

#[derive(Deserialize)]
struct Document<T> {
    report: Vec<Rows<T>>,
}

/// The part of a report that tells how the command went.
#[derive(Deserialize)]
struct Log {
    log: Vec<LogRow>,
}

#[derive(Deserialize)]
struct LogRow {
    log_type: String,
    log_message: String,
}

#[derive(Deserialize)]
struct Rows<T> {
    vg: Vec<T>,
}

#[derive(Deserialize)]
struct Both {
    #[serde(flatten)]
    group: GroupRow,
    #[serde(flatten)]
    volume: VolumeRow,
}

#[derive(Deserialize)]
struct GroupRow {
    vg_uuid: String,
    vg_size: String,
    vg_free: String,
    vg_extent_size: String,
    vg_tags: String,
    vg_exported: String,
    vg_partial: String,
    vg_shared: String,
}

#[derive(Deserialize)]
struct VolumeRow {
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    lv_tags: String,
    lv_active: String,
}

#[derive(Deserialize)]
struct SourceRow {
    vg_name: String,
    vg_uuid: String,
    vg_exported: String,
    vg_partial: String,
    pv_name: String,
}

fn rows<T: serde::de::DeserializeOwned>(json: &str) -> Result<Vec<T>, String> {
    let document: Document<T> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    Ok(document.report.into_iter().flat_map(|rows| rows.vg).collect())
}

/// A group with its logical volumes; `None` when there is no row, so that it has none.
pub(super) fn both(json: &str) -> Result<Option<VgReport>, String> {
    let rows: Vec<Both> = rows(json)?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut report = group(rows.iter().map(|row| &row.group), &first.group)?;
    report.lvs = rows.iter().map(|row| volume(&row.volume)).collect::<Result<_, _>>()?;
    Ok(Some(report))
}

/// A group that has no logical volumes.
pub(super) fn empty(json: &str) -> Result<VgReport, String> {
    let rows: Vec<GroupRow> = rows(json)?;
    let first = rows.first().ok_or("no volume group is listed")?;
    group(rows.iter(), first)
}

fn group<'a>(
    mut rows: impl Iterator<Item = &'a GroupRow>,
    first: &GroupRow,
) -> Result<VgReport, String> {
    if rows.any(|row| row.vg_uuid != first.vg_uuid) {
        return Err("there are several volume groups of this name".into());
    }
    let extent = size(&first.vg_extent_size)?;
    if extent == Bytes::ZERO {
        return Err("an extent size of zero".into());
    }
    Ok(VgReport {
        uuid: first.vg_uuid.clone(),
        size: size(&first.vg_size)?,
        free: size(&first.vg_free)?,
        extent,
        tags: tags(&first.vg_tags),
        exported: !first.vg_exported.is_empty(),
        partial: !first.vg_partial.is_empty(),
        shared: !first.vg_shared.is_empty(),
        lvs: Vec::new(),
    })
}

/// The groups that a pool could lie in: whole, not exported, the only one of their name, and
/// with a name that is one of ours.
pub(super) fn sources(json: &str) -> Result<Vec<PoolSource>, String> {
    let rows: Vec<SourceRow> = rows(json)?;
    let mut uuids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &rows {
        uuids.entry(&row.vg_name).or_default().insert(&row.vg_uuid);
    }
    let mut found: BTreeMap<VgName, PoolSource> = BTreeMap::new();
    for row in &rows {
        let usable = row.vg_exported.is_empty() && row.vg_partial.is_empty();
        let Ok(vg) = row.vg_name.parse::<VgName>() else { continue };
        if usable && uuids.get(row.vg_name.as_str()).is_some_and(|uuids| uuids.len() == 1) {
            let source = found.entry(vg.clone());
            let source = source.or_insert_with(|| PoolSource { vg, devices: Vec::new() });
            source.devices.push((&row.pv_name).into());
        }
    }
    Ok(found.into_values().collect())
}

fn volume(row: &VolumeRow) -> Result<LvReport, String> {
    Ok(LvReport {
        name: row.lv_name.clone(),
        uuid: row.lv_uuid.clone(),
        size: size(&row.lv_size)?,
        tags: tags(&row.lv_tags),
        active: row.lv_active == "active",
    })
}

fn size(text: &str) -> Result<Bytes, String> {
    text.trim().parse().map(Bytes).map_err(|_| format!("'{text}' is no size in bytes"))
}

fn tags(text: &str) -> Vec<String> {
    text.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP_ROW: &str = r#"{"vg_name":"vg0","vg_uuid":"abc","vg_size":"1069547520",
        "vg_free":"1069547520","vg_extent_size":"4194304","vg_tags":"virtnotify,x",
        "vg_exported":"","vg_partial":"","vg_shared":"""#;
    const VOLUME_ROW: &str = r#","lv_name":"root","lv_uuid":"u","lv_size":"8388608",
        "lv_tags":"","lv_active":"active""#;

    fn document(rows: &str) -> String {
        format!(r#"{{ "report": [ {{ "vg": [ {rows} ] }} ], "log": [ ] }}"#)
    }

    fn one() -> String {
        document(&format!("{GROUP_ROW}}}"))
    }

    fn with_volume() -> String {
        document(&format!("{GROUP_ROW}{VOLUME_ROW}}}"))
    }

    #[test]
    fn reports_are_read() {
        let group = empty(&one()).unwrap();
        assert_eq!(group.extent, Bytes::mib(4));
        assert_eq!(group.tags, ["virtnotify", "x"]);
        assert!(!group.partial && !group.exported && group.lvs.is_empty());
        let lvs = both(&with_volume()).unwrap().unwrap().lvs;
        assert!(lvs[0].active && lvs[0].tags.is_empty() && lvs[0].size == Bytes::mib(8));
        assert_eq!(both(&document("")), Ok(None));
    }

    #[test]
    fn usable_groups_are_listed_with_their_devices() {
        let row = |vg: &str, uuid: &str, exported: &str, partial: &str, pv: &str| {
            format!(
                r#"{{"vg_name":"{vg}","vg_uuid":"{uuid}","vg_exported":"{exported}",
                    "vg_partial":"{partial}","pv_name":"{pv}"}}"#
            )
        };
        let rows = [
            row("vg1", "a", "", "", "/dev/vdb"),
            row("vg0", "b", "", "", "/dev/vdc"),
            row("vg1", "a", "", "", "/dev/vdd"),
            row("gone", "c", "", "partial", "/dev/vde"),
            row("away", "d", "exported", "", "/dev/vdf"),
            row("twice", "e", "", "", "/dev/vdg"),
            row("twice", "f", "", "", "/dev/vdh"),
        ];
        let found = sources(&document(&rows.join(","))).unwrap();
        let names: Vec<_> = found.iter().map(|source| source.vg.as_str()).collect();
        assert_eq!(names, ["vg0", "vg1"]);
        let devices = [std::path::PathBuf::from("/dev/vdb"), "/dev/vdd".into()];
        assert_eq!(found[1].devices, devices);
        assert!(sources(&document("")).unwrap().is_empty());
        assert!(sources("{").is_err());
    }

    #[test]
    fn broken_reports_are_refused() {
        for bad in ["", "{", "[]", "{}"] {
            assert!(empty(bad).is_err() && both(bad).is_err(), "{bad}");
        }
        assert!(empty(&document("")).is_err() && both(&one()).is_err());
        for (from, to) in [("vg_free", "vg_freed"), ("\"4194304", "\"4m"), ("\"4194304", "\"0")] {
            assert!(empty(&one().replace(from, to)).is_err(), "{to}");
        }
        for (from, to) in [("lv_uuid", "uuid"), ("\"8388608", "\"")] {
            assert!(both(&with_volume().replace(from, to)).is_err(), "{to}");
        }
        let two = format!("{GROUP_ROW}}},{}}}", GROUP_ROW.replace("abc", "def"));
        let error = empty(&document(&two)).unwrap_err();
        assert!(error.contains("several"), "{error}");
    }
}
