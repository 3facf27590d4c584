// SPDX-License-Identifier: LGPL-2.1-or-later
//! LVM's reports (`--reportformat json --units b --nosuffix`), read.

use serde::Deserialize;
use virtnotify_model::Bytes;

use super::{LvReport, VgReport};

/// The fields asked of `vgs`.
pub(super) const VG_FIELDS: &str = "vg_name,vg_uuid,vg_size,vg_free,vg_extent_size,vg_tags,\
                                    vg_exported,vg_partial,vg_shared";
/// The fields asked of `lvs`.
pub(super) const LV_FIELDS: &str = "lv_name,lv_uuid,lv_size,lv_tags,lv_active";

#[derive(Deserialize)]
struct Document<T> {
    report: Vec<T>,
}

#[derive(Deserialize)]
struct VgRows {
    vg: Vec<VgRow>,
}

#[derive(Deserialize)]
struct LvRows {
    lv: Vec<LvRow>,
}

#[derive(Deserialize)]
struct VgRow {
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
struct LvRow {
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    lv_tags: String,
    lv_active: String,
}

/// A volume group without its logical volumes, from the output of `vgs` for one group.
pub(super) fn vg(json: &str) -> Result<VgReport, String> {
    let document: Document<VgRows> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let mut rows = document.report.into_iter().flat_map(|rows| rows.vg);
    let row = match (rows.next(), rows.next()) {
        (Some(row), None) => row,
        (None, _) => return Err("no volume group is listed".into()),
        (Some(_), Some(_)) => return Err("there are several volume groups of this name".into()),
    };
    let extent = size(&row.vg_extent_size)?;
    if extent == Bytes::ZERO {
        return Err("an extent size of zero".into());
    }
    Ok(VgReport {
        uuid: row.vg_uuid,
        size: size(&row.vg_size)?,
        free: size(&row.vg_free)?,
        extent,
        tags: tags(&row.vg_tags),
        exported: !row.vg_exported.is_empty(),
        partial: !row.vg_partial.is_empty(),
        shared: !row.vg_shared.is_empty(),
        lvs: Vec::new(),
    })
}

/// Logical volumes, from the output of `lvs`.
pub(super) fn lvs(json: &str) -> Result<Vec<LvReport>, String> {
    let document: Document<LvRows> = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let rows = document.report.into_iter().flat_map(|rows| rows.lv);
    rows.map(|row| {
        Ok(LvReport {
            name: row.lv_name,
            uuid: row.lv_uuid,
            size: size(&row.lv_size)?,
            tags: tags(&row.lv_tags),
            active: row.lv_active == "active",
        })
    })
    .collect()
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

    const VG: &str = r#"{ "report": [ { "vg": [ {"vg_name":"vg0","vg_uuid":"abc",
        "vg_size":"1069547520","vg_free":"1069547520","vg_extent_size":"4194304",
        "vg_tags":"virtnotify,x","vg_exported":"","vg_partial":"","vg_shared":""} ] } ] }"#;
    const LVS: &str = r#"{ "report": [ { "lv": [ {"lv_name":"root","lv_uuid":"u",
        "lv_size":"4194304","lv_tags":"","lv_active":"active"} ] } ], "log": [ ] }"#;

    #[test]
    fn reports_are_read() {
        let group = vg(VG).unwrap();
        assert_eq!(group.extent, Bytes::mib(4));
        assert_eq!(group.tags, ["virtnotify", "x"]);
        assert!(!group.partial && !group.exported);
        let volumes = lvs(LVS).unwrap();
        assert!(volumes[0].active && volumes[0].tags.is_empty());
    }

    #[test]
    fn broken_reports_are_refused() {
        for bad in ["", "{", "[]", "{}", r#"{"report":[]}"#, &VG.replace("vg_free", "vg_freed")] {
            assert!(vg(bad).is_err(), "{bad}");
        }
        assert!(vg(&VG.replace("\"4194304\"", "\"4m\"")).is_err());
        assert!(vg(&VG.replace("\"4194304\"", "\"0\"")).is_err());
        assert!(lvs(&LVS.replace("lv_uuid", "uuid")).is_err());
    }
}
