// SPDX-License-Identifier: LGPL-2.1-or-later
//! LVM's reports (`--reportformat json --units b --nosuffix`), read.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use virtnotify_model::{Bytes, PoolSource, VgName};

use super::{LvReport, PvReport, PvSegment, VgReport};

/// The errors that a failed command tells in its report: LVM 2.03.31 puts them there, and not on
/// standard error.
pub(super) fn errors(text: &str) -> Vec<String> {
    let rows = serde_json::from_str::<Log>(text).map(|document| document.log).unwrap_or_default();
    rows.into_iter().filter(|row| row.log_type == "error").map(|row| row.log_message).collect()
}

/// The fields of a group and its physical volumes: a row for each of these.
pub(super) const GROUP: &str = "vg_name,vg_uuid,vg_size,vg_extent_size,vg_tags,vg_exported,\
                                vg_partial,vg_shared,pv_name,pv_free,pv_allocatable,pv_missing";
/// The fields of its logical volumes, which cannot be asked for together with those: a row for each.
pub(super) const VOLUMES: &str = "vg_uuid,lv_name,lv_uuid,lv_size,lv_tags,lv_active,\
                                  lv_allocation_locked";
/// The fields of the segments.
pub(super) const SEGMENTS: &str = "pv_name,pvseg_start,pvseg_size,lv_name";

/// The fields that tell which groups there are and whether they can be used; a row for each device.
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
    #[serde(alias = "pvseg")]
    vg: Vec<T>,
}

#[derive(Deserialize)]
struct GroupRow {
    vg_uuid: String,
    vg_size: String,
    vg_extent_size: String,
    vg_tags: String,
    vg_exported: String,
    vg_partial: String,
    vg_shared: String,
    pv_name: String,
    pv_free: String,
    pv_allocatable: String,
    pv_missing: String,
}

#[derive(Deserialize)]
struct VolumeRow {
    vg_uuid: String,
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    lv_tags: String,
    lv_active: String,
    lv_allocation_locked: String,
}

#[derive(Deserialize)]
struct SegmentRow {
    pv_name: String,
    pvseg_start: String,
    pvseg_size: String,
    lv_name: String,
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

/// A group with its physical volumes, and without its logical volumes.
pub(super) fn group(json: &str) -> Result<VgReport, String> {
    let rows: Vec<GroupRow> = rows(json)?;
    let first = rows.first().ok_or("no volume group is listed")?;
    if rows.iter().any(|row| row.vg_uuid != first.vg_uuid) {
        return Err("there are several volume groups of this name".into());
    }
    let extent = size(&first.vg_extent_size)?;
    if extent == Bytes::ZERO {
        return Err("an extent size of zero".into());
    }
    let pvs = rows.iter().map(device).collect::<Result<Vec<_>, _>>()?;
    Ok(VgReport {
        uuid: first.vg_uuid.clone(),
        size: size(&first.vg_size)?,
        free: pvs.iter().filter(|pv| pv.allocatable).map(|pv| pv.free).sum(),
        extent,
        tags: tags(&first.vg_tags),
        exported: !first.vg_exported.is_empty(),
        partial: !first.vg_partial.is_empty(),
        shared: !first.vg_shared.is_empty(),
        pvs,
        lvs: Vec::new(),
    })
}

fn device(row: &GroupRow) -> Result<PvReport, String> {
    Ok(PvReport {
        name: row.pv_name.clone(),
        free: size(&row.pv_free)?,
        allocatable: !row.pv_allocatable.is_empty() && row.pv_missing.is_empty(),
    })
}

/// The logical volumes of the group with this id; none when there is no row.
pub(super) fn volumes(json: &str, group: &str) -> Result<Vec<LvReport>, String> {
    let rows: Vec<VolumeRow> = rows(json)?;
    if rows.iter().any(|row| row.vg_uuid != group) {
        return Err("there are several volume groups of this name".into());
    }
    rows.iter().map(volume).collect()
}

/// The places of the extents of logical volumes.
pub(super) fn segments(json: &str) -> Result<Vec<PvSegment>, String> {
    let rows: Vec<SegmentRow> = rows(json)?;
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| format!("'{text}' is no number of extents"))
    };
    let segment = |row: &SegmentRow| {
        let (start, extents) = (number(&row.pvseg_start)?, number(&row.pvseg_size)?);
        // The name of a hidden logical volume is in brackets.
        let lv = row.lv_name.trim_matches(['[', ']']).to_owned();
        Ok(PvSegment { pv: row.pv_name.clone(), start, extents, lv })
    };
    rows.iter().filter(|row| !row.lv_name.is_empty()).map(segment).collect()
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
        moving: !row.lv_allocation_locked.is_empty(),
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
        "vg_extent_size":"4194304","vg_tags":"virtnotify,x",
        "vg_exported":"","vg_partial":"","vg_shared":"","pv_name":"/dev/vdb",
        "pv_free":"1069547520","pv_allocatable":"allocatable","pv_missing":""}"#;
    const VOLUME_ROW: &str = r#"{"vg_uuid":"abc","lv_name":"root","lv_uuid":"u",
        "lv_size":"8388608","lv_tags":"","lv_active":"active","lv_allocation_locked":""}"#;

    fn document(rows: &str) -> String {
        format!(r#"{{ "report": [ {{ "vg": [ {rows} ] }} ], "log": [ ] }}"#)
    }

    #[test]
    fn reports_are_read() {
        let read = group(&document(GROUP_ROW)).unwrap();
        assert_eq!((read.extent, read.free), (Bytes::mib(4), Bytes(1_069_547_520)));
        assert_eq!(read.tags, ["virtnotify", "x"]);
        assert!(!read.partial && !read.exported && read.lvs.is_empty());
        let lvs = volumes(&document(VOLUME_ROW), "abc").unwrap();
        assert!(lvs[0].active && lvs[0].tags.is_empty() && lvs[0].size == Bytes::mib(8));
        assert!(!lvs[0].moving);
        let moving = VOLUME_ROW.replace("locked\":\"\"", "locked\":\"allocation locked\"");
        assert!(volumes(&document(&moving), "abc").unwrap()[0].moving);
        assert_eq!(volumes(&document(""), "abc"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_closed_is_not_free() {
        let second =
            GROUP_ROW.replace("/dev/vdb", "/dev/vdc").replace("free\":\"10695", "free\":\"695");
        for (closed, from, to) in [
            (false, "", ""),
            (true, "\"allocatable\"", "\"\""),
            (true, "missing\":\"\"", "missing\":\"missing\""),
        ] {
            let text = document(&format!("{GROUP_ROW},{}", second.replace(from, to)));
            let read = group(&text).unwrap();
            let names: Vec<_> = read.pvs.iter().map(|pv| pv.name.as_str()).collect();
            assert_eq!(names, ["/dev/vdb", "/dev/vdc"]);
            assert_eq!(
                read.pvs.iter().filter(|pv| pv.allocatable).count(),
                if closed { 1 } else { 2 }
            );
            let second = if closed { 0 } else { 69_547_520 };
            assert_eq!(read.free.0, 1_069_547_520 + second);
        }
    }

    #[test]
    fn places_are_read() {
        let row = |start: u64, lv: &str| {
            format!(
                r#"{{"pv_name":"/dev/vdb","pvseg_start":"{start}","pvseg_size":"7","lv_name":"{lv}"}}"#
            )
        };
        let rows = [row(0, "notify-data0"), row(7, ""), row(14, "[pvmove0]")].join(",");
        let text = document(&rows).replace("\"vg\"", "\"pvseg\"");
        let read = segments(&text).unwrap();
        let place =
            |start, lv: &str| PvSegment { pv: "/dev/vdb".into(), start, extents: 7, lv: lv.into() };
        assert_eq!(read, [place(0, "notify-data0"), place(14, "pvmove0")]);
        assert!(segments(&text.replace("\"7\"", "\"x\"")).is_err());
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
        let (one, volume) = (document(GROUP_ROW), document(VOLUME_ROW));
        for bad in ["", "{", "[]", "{}"] {
            let read = (group(bad), volumes(bad, "abc"), segments(bad));
            assert!(read.0.is_err() && read.1.is_err() && read.2.is_err(), "{bad}");
        }
        assert!(group(&document("")).is_err() && volumes(&one, "abc").is_err());
        for (from, to) in [
            ("pv_free", "pv_freed"),
            ("pv_allocatable", "pv_a"),
            ("\"4194304", "\"4m"),
            ("\"4194304", "\"0"),
        ] {
            assert!(group(&one.replace(from, to)).is_err(), "{to}");
        }
        for (from, to) in [("lv_uuid", "uuid"), ("\"8388608", "\""), ("locked", "l")] {
            assert!(volumes(&volume.replace(from, to), "abc").is_err(), "{to}");
        }
        let two = format!("{GROUP_ROW},{}", GROUP_ROW.replace("abc", "def"));
        let error = group(&document(&two)).unwrap_err();
        assert!(error.contains("several"), "{error}");
        let error = volumes(&volume, "def").unwrap_err();
        assert!(error.contains("several"), "{error}");
    }
}
