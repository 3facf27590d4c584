// SPDX-License-Identifier: LGPL-2.1-or-later
//! `usage`: what volumes held for how long.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::Timestamp;
use serde_json::json;

use crate::args::{Format, code};
use crate::client::{self, Problem, Row, Used};
use crate::show::{self, out, table};
use crate::since;

const COLUMNS: [&str; 6] = ["domain", "domain_uuid", "pool", "volume", "volume_uuid", "byte_hours"];

/// `usage`.
pub async fn run(hosts: &[String], since: &str, format: Option<Format>) -> Result<u8, Problem> {
    let since = since::parse(since, Timestamp::now())?;
    let mut each = Vec::new();
    for host in hosts {
        each.push(client::daemon(Some(host)).await?.usage(since).await?);
    }
    let used = match hosts {
        [] => client::daemon(None).await?.usage(since).await?,
        _ => add_up(each),
    };
    match format {
        Some(Format::Csv) => out(&csv(&used)?)?,
        Some(Format::Json) => show::json(&to_json(&used))?,
        None => out(&to_text(&used))?,
    }
    Ok(code::FINE)
}

/// The accounts of several hosts in one. A VM that moved has used its volume on each of them: the
/// copy is another volume of the same name, and its line has both.
fn add_up(hosts: Vec<Used>) -> Used {
    let since = hosts.iter().map(|(since, ..)| *since).min().unwrap_or(0);
    let until = hosts.iter().map(|(_, until, _)| *until).max().unwrap_or(0);
    let mut sums: BTreeMap<(String, String, String), Row> = BTreeMap::new();
    for row in hosts.into_iter().flat_map(|(_, _, rows)| rows) {
        let (_, domain, pool, volume, key, used) = &row;
        // A volume without a VM is on its own host alone.
        let of = if domain.is_empty() { key } else { domain };
        match sums.entry((of.clone(), pool.clone(), volume.clone())) {
            Entry::Vacant(place) => drop(place.insert(row)),
            Entry::Occupied(mut place) => place.get_mut().5 = place.get().5.saturating_add(*used),
        }
    }
    let mut rows: Vec<Row> = sums.into_values().collect();
    rows.sort();
    (since, until, rows)
}

fn day(seconds: u64) -> String {
    let time = since::timestamp(seconds);
    time.map_or_else(|| "?".to_owned(), |time| time.to_string())
}

fn csv((since, until, rows): &Used) -> Result<String, Problem> {
    let failed = |e: &dyn std::fmt::Display| Problem::Cannot(format!("cannot write CSV: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = COLUMNS.iter().copied().chain(["since", "until"]);
    writer.write_record(header).map_err(|e| failed(&e))?;
    for (domain, uuid, pool, volume, key, used) in rows {
        let (used, since, until) = (used.to_string(), day(*since), day(*until));
        let row = [domain, uuid, pool, volume, key, &used, &since, &until];
        writer.write_record(row).map_err(|e| failed(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

fn to_json((since, until, rows): &Used) -> serde_json::Value {
    let row = |(domain, uuid, pool, volume, key, used): &Row| {
        json!({ "domain": domain, "domain_uuid": uuid, "pool": pool, "volume": volume,
                "volume_uuid": key, "byte_hours": used })
    };
    json!({ "since": day(*since), "until": day(*until),
            "used": rows.iter().map(row).collect::<Vec<_>>() })
}

/// Of one unit, so that lines can be compared: `1.50 GiB·h`.
fn gib_hours(byte_hours: u64) -> String {
    let hundredths = u128::from(byte_hours) * 100 / (1 << 30);
    let more = if hundredths == 0 && byte_hours > 0 {
        "<0.01".to_owned()
    } else {
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    };
    format!("{more} GiB·h")
}

fn to_text((since, until, rows): &Used) -> String {
    let head = ["VM", "VOLUME", "USED"].map(str::to_owned).to_vec();
    let row = |(domain, _, pool, volume, _, used): &Row| {
        let vm = if domain.is_empty() { "-" } else { domain };
        vec![vm.to_owned(), format!("{pool}/{volume}"), gib_hours(*used)]
    };
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows.iter().map(row)).collect();
    format!("{} to {}\n{}", day(*since), day(*until), table(&rows, &[2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> Used {
        let row = |domain: &str, used| {
            let text = |text: &str| text.to_owned();
            (text(domain), text("id"), text("vms"), text("disk0"), text("key"), used)
        };
        (86400, 90000, vec![row("a,\"b\"", 5 << 30), row("", 1)])
    }

    #[test]
    fn a_vm_that_moved_has_one_line() {
        let row = |domain: &str, id: &str, key: &str, used| {
            let text = |text: &str| text.to_owned();
            (text(domain), text(id), text("vms"), text("disk0"), text(key), used)
        };
        let first = (86400, 90000, vec![row("guest", "id", "a", 5), row("", "", "x", 1)]);
        let second = (0, 80000, vec![row("guest", "id", "b", 7), row("", "", "y", 2)]);
        let sum = add_up(vec![first, second]);
        let lines = vec![row("", "", "x", 1), row("", "", "y", 2), row("guest", "id", "a", 12)];
        assert_eq!(sum, (0, 90000, lines));
    }

    #[test]
    fn it_is_a_table_csv_or_json() {
        let text = to_text(&used());
        assert!(text.starts_with("1970-01-02T00:00:00Z to 1970-01-02T01:00:00Z\n"), "{text}");
        assert!(text.contains("vms/disk0   5.00 GiB·h") && text.contains("<0.01 GiB·h"), "{text}");
        let csv = csv(&used()).unwrap();
        let line =
            "\"a,\"\"b\"\"\",id,vms,disk0,key,5368709120,1970-01-02T00:00:00Z,1970-01-02T01:00:00Z";
        assert_eq!(csv.lines().nth(1), Some(line), "{csv}");
        assert!(csv.starts_with("domain,domain_uuid,pool,volume,volume_uuid,byte_hours,since"));
        assert_eq!(to_json(&used())["used"][0]["byte_hours"], json!(5u64 << 30));
    }
}
