// SPDX-License-Identifier: LGPL-2.1-or-later
//! `status`: pools and volumes as a table.

use serde_json::json;

use crate::args::code;
use crate::show::{self, out, size, table};
use crate::way::{self, PoolRow, Problem, VolumeRow};

/// `status`.
pub async fn run(only: Option<&str>, as_json: bool) -> Result<u8, Problem> {
    let daemon = way::daemon().await?;
    let mut pools = Vec::new();
    for pool in daemon.list_pools().await? {
        if only.is_some_and(|only| only != pool.0) {
            continue;
        }
        // One that stops meanwhile has no volumes.
        let volumes = match pool.2 {
            true => daemon.list_volumes(&pool.0).await.unwrap_or_default(),
            false => Vec::new(),
        };
        pools.push((pool, volumes));
    }
    if let (Some(name), true) = (only, pools.is_empty()) {
        return Err(Problem::Cannot(format!("there is no pool '{}'", name.escape_debug())));
    }
    match as_json {
        true => show::json(&to_json(&pools))?,
        false => out(&to_text(&pools))?,
    }
    Ok(code::FINE)
}

type Pools = [(PoolRow, Vec<VolumeRow>)];

fn to_json(pools: &Pools) -> serde_json::Value {
    let volume = |(name, uuid, path, state, capacity, allocation): &VolumeRow| {
        json!({ "name": name, "uuid": uuid, "path": path, "state": state,
                "capacity": capacity, "allocation": allocation })
    };
    let pool = |(row, volumes): &(PoolRow, Vec<VolumeRow>)| {
        let (name, uuid, active, capacity, allocation, available, headroom) = row;
        let volumes: Vec<_> = volumes.iter().map(volume).collect();
        json!({ "name": name, "uuid": uuid, "active": active, "capacity": capacity,
                "allocation": allocation, "available": available, "headroom": headroom,
                "volumes": volumes })
    };
    json!({ "pools": pools.iter().map(pool).collect::<Vec<_>>() })
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        whole => format!("{}%", u128::from(part) * 100 / u128::from(whole)),
    }
}

fn to_text(pools: &Pools) -> String {
    let words = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    if pools.is_empty() {
        return "no pool is defined\n".into();
    }
    let mut rows =
        vec![words(&["POOL", "STATE", "CAPACITY", "ALLOCATED", "USED", "AVAILABLE", "HEADROOM"])];
    for ((name, _, active, capacity, allocation, available, headroom), _) in pools {
        let state = if *active { "active" } else { "inactive" };
        let mut row = words(&[name, state]);
        if *active {
            row.extend([size(*capacity), size(*allocation), percent(*allocation, *capacity)]);
            row.extend([size(*available), size(*headroom)]);
        }
        rows.push(row);
    }
    let mut text = table(&rows, &[2, 3, 4, 5, 6]);
    let mut rows = vec![words(&["VOLUME", "STATE", "CAPACITY", "ALLOCATED", "USED"])];
    for (pool, volumes) in pools {
        for (name, _, _, state, capacity, allocation) in volumes {
            let mut row = vec![format!("{}/{name}", pool.0), state.clone()];
            row.extend([size(*capacity), size(*allocation), percent(*allocation, *capacity)]);
            rows.push(row);
        }
    }
    if rows.len() > 1 {
        text.push('\n');
        text.push_str(&table(&rows, &[2, 3, 4]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_and_volumes_are_shown() {
        let pool = ("vms".into(), "id".into(), true, 1 << 30, 1 << 29, 1 << 28, 1 << 26);
        let volume = ("d".into(), "id".into(), "/dev/x".into(), "growing".into(), 8 << 20, 4 << 20);
        let idle = ("old".into(), "id".into(), false, 0, 0, 0, 0);
        let pools = [(pool, vec![volume]), (idle, Vec::new())];
        let text = to_text(&pools);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("vms   active    1.00 GiB  512.00 MiB   50%"), "{text}");
        assert_eq!(lines[2], "old   inactive");
        assert!(lines[5].starts_with("vms/d   growing  8.00 MiB   4.00 MiB   50%"), "{text}");
        assert_eq!(to_json(&pools)["pools"][0]["volumes"][0]["allocation"], json!(4 << 20));
        assert_eq!(to_text(&[]), "no pool is defined\n");
    }
}
