// SPDX-License-Identifier: LGPL-2.1-or-later
//! `status`: pools, volumes, moves, VMs that wait, and jobs as tables.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, Problem};
use crate::health::Health;
use crate::moves;
use crate::objects::{self, Job, Objects, Pool, Volume};
use crate::show::{self, out, seconds, size, table};

/// `status`.
pub async fn run(
    hosts: &[String],
    only: Option<&str>,
    check: bool,
    as_json: bool,
) -> Result<u8, Problem> {
    if check {
        return run_check(hosts, only, as_json).await;
    }
    if hosts.is_empty() {
        let all = look(None, only).await?;
        match as_json {
            true => show::json(&to_json(&all))?,
            false => out(&to_text(&all))?,
        }
        return Ok(code::FINE);
    }
    let found = look_at_all(hosts, only).await;
    match as_json {
        true => {
            let each = found.iter().map(|(host, found)| ((*host).clone(), found_json(found)));
            show::json(&Value::Object(each.collect()))?;
        }
        false => {
            let each = found.iter().map(|(host, found)| format!("{host}:\n{}", found_text(found)));
            out(&each.collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(found.iter().find_map(|(_, found)| found.as_ref().err()).map_or(code::FINE, Problem::code))
}

async fn run_check(hosts: &[String], only: Option<&str>, as_json: bool) -> Result<u8, Problem> {
    let health_of = |found: &Result<Objects, Problem>| match found {
        Ok(all) => Health::of(all, moves::now()),
        Err(problem) => Health::unknown(problem),
    };
    let mut health = Health::default();
    match hosts {
        [] => health = health_of(&look(None, only).await),
        _ => {
            let found = look_at_all(hosts, only).await;
            found.iter().for_each(|(host, found)| health.add(host, health_of(found)));
        }
    }
    match as_json {
        true => show::json(&health.to_json())?,
        false => out(&health.to_text())?,
    }
    Ok(health.state().code())
}

/// What there is on these hosts, or why that is not known. A host that is down does not hold up the
/// others.
async fn look_at_all<'a>(
    hosts: &'a [String],
    only: Option<&str>,
) -> Vec<(&'a String, Result<Objects, Problem>)> {
    join_all(hosts.iter().map(async |host| (host, look(Some(host), only).await))).await
}

fn found_json(found: &Result<Objects, Problem>) -> Value {
    match found {
        Ok(all) => to_json(all),
        Err(problem) => json!({ "error": problem.to_string() }),
    }
}

fn found_text(found: &Result<Objects, Problem>) -> String {
    match found {
        Ok(all) => to_text(all),
        Err(problem) => format!("{problem}\n"),
    }
}

/// What there is on one host.
async fn look(host: Host<'_>, only: Option<&str>) -> Result<Objects, Problem> {
    let daemon = client::daemon(host).await?;
    let connection = daemon.inner().connection();
    let mut all = objects::look(connection).await?;
    if let Some(name) = only {
        all.pools.retain(|pool| pool.name == name);
        all.jobs.retain(|job| job.of.split('/').next() == Some(name));
        if all.pools.is_empty() {
            return Err(Problem::Cannot(format!("there is no pool '{}'", name.escape_debug())));
        }
    }
    for pool in &mut all.pools {
        objects::ask_written(connection, pool).await?;
    }
    Ok(all)
}

/// All of it, for programs.
pub fn to_json(all: &Objects) -> Value {
    let volume = |volume: &Volume| {
        json!({ "name": volume.name, "uuid": volume.uuid, "path": volume.device,
                "state": volume.state, "capacity": volume.capacity,
                "written": volume.written, "allocation": volume.mapped,
                "growth_rate": volume.rate })
    };
    let pool = |pool: &Pool| {
        let limit = (pool.promised_limit != 0).then_some(pool.promised_limit);
        json!({ "name": pool.name, "uuid": pool.uuid, "active": pool.active, "damaged": pool.damaged,
                "capacity": pool.capacity, "allocation": pool.allocation,
                "available": pool.available, "headroom": pool.headroom,
                "low_mark": pool.low_mark, "growth_rate": pool.rate,
                "time_to_full": pool.time_to_full,
                "held_back": held_back(pool),
                "promised": pool.promised, "promised_limit": limit,
                "volumes": pool.volumes.iter().map(volume).collect::<Vec<_>>() })
    };
    let job = |of: &Job| {
        json!({ "of": of.of, "task": of.task, "looked": of.looked, "to_look": of.to_look,
                    "moved": of.moved, "total": of.total })
    };
    json!({ "pools": all.pools.iter().map(pool).collect::<Vec<_>>(),
            "jobs": all.jobs.iter().map(job).collect::<Vec<_>>(),
            "drained": all.drained, "storage_runs": !all.stands_still,
            "waiting": moves::waiting_json(&all.waiting),
            "moves": moves::moves_json(&all.moves) })
}

/// Why no VM leaves a pool at its low mark for now, for programs.
fn held_back(pool: &Pool) -> Option<Value> {
    let until = (pool.held_back_until != 0).then_some(pool.held_back_until);
    let held = !pool.held_back.is_empty();
    held.then(|| json!({ "reason": pool.held_back, "until": until }))
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        whole => format!("{}%", u128::from(part) * 100 / u128::from(whole)),
    }
}

fn words(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn rate(bytes: u64) -> String {
    if bytes == 0 { "-".into() } else { format!("{}/s", size(bytes)) }
}

fn limit(bytes: u64) -> String {
    if bytes == 0 { "-".into() } else { size(bytes) }
}

/// What is wrong where volumes do not grow.
pub const STANDS_STILL: &str =
    "virtnotifyd does not run: a write to space that a volume did not have waits";

/// All of it, for people.
pub fn to_text(all: &Objects) -> String {
    let mut text = match all.stands_still {
        true => format!("{STANDS_STILL}; what it told last:\n\n"),
        false => String::new(),
    };
    if all.pools.is_empty() {
        return text + "no pool is defined\n";
    }
    text.push_str(&pools(&all.pools));
    let mut rows =
        vec![words(&["VOLUME", "STATE", "CAPACITY", "WRITTEN", "MAPPED", "USED", "GROWTH"])];
    for pool in &all.pools {
        rows.extend(pool.volumes.iter().map(|volume| volume_row(&pool.name, volume)));
    }
    if rows.len() > 1 {
        text.push('\n');
        text.push_str(&table(&rows, &[2, 3, 4, 5, 6]));
    }
    let moves = moves::to_text(all, moves::now());
    if !moves.is_empty() {
        text.push('\n');
        text.push_str(&moves);
    }
    let mut rows = vec![words(&["JOBS", "TASK", "DONE", "OF"])];
    rows.extend(
        all.jobs
            .iter()
            .map(|of| vec![of.of.clone(), of.task.clone(), size(of.done()), size(of.all())]),
    );
    if rows.len() > 1 {
        text.push('\n');
        text.push_str(&table(&rows, &[2, 3]));
    }
    text
}

fn pools(pools: &[Pool]) -> String {
    let mut rows = vec![words(&[
        "POOL",
        "STATE",
        "CAPACITY",
        "ALLOCATED",
        "USED",
        "AVAILABLE",
        "HEADROOM",
        "PROMISED",
        "LIMIT",
        "GROWTH",
        "FULL IN",
    ])];
    for pool in pools {
        let state = match pool {
            Pool { active: false, .. } => "inactive",
            Pool { damaged: true, .. } => "damaged",
            _ if pool.available < pool.low_mark => "low",
            _ => "active",
        };
        let mut row = words(&[&pool.name, state]);
        if pool.active {
            row.extend([size(pool.capacity), size(pool.allocation)]);
            row.push(percent(pool.allocation, pool.capacity));
            row.extend([size(pool.available), size(pool.headroom), size(pool.promised)]);
            row.push(limit(pool.promised_limit));
            row.push(rate(pool.rate));
            row.push(pool.time_to_full.map_or_else(|| "-".to_owned(), seconds));
        }
        rows.push(row);
    }
    table(&rows, &[2, 3, 4, 5, 6, 7, 8, 9, 10])
}

fn volume_row(pool: &str, volume: &Volume) -> Vec<String> {
    let written = volume.written.map_or_else(|| "-".into(), size);
    vec![
        format!("{pool}/{}", volume.name),
        volume.state.clone(),
        size(volume.capacity),
        written,
        size(volume.mapped),
        percent(volume.mapped, volume.capacity),
        rate(volume.rate),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Move;

    #[test]
    fn a_host_that_does_not_answer_hides_no_other() {
        let lost = Err(Problem::Cannot("it is not reached with ssh".into()));
        assert_eq!(found_text(&lost), "it is not reached with ssh\n");
        assert_eq!(found_json(&lost), json!({ "error": "it is not reached with ssh" }));
        assert_eq!(found_json(&Ok(Objects::default()))["pools"], json!([]));
    }

    #[test]
    fn pools_volumes_and_moves_are_shown() {
        let volume = Volume {
            name: "d".into(),
            state: "active".into(),
            capacity: 8 << 20,
            mapped: 4 << 20,
            written: Some(2 << 20),
            rate: 1 << 20,
            ..Volume::default()
        };
        let pool = Pool {
            name: "vms".into(),
            active: true,
            capacity: 1 << 30,
            allocation: 1 << 29,
            available: 1 << 28,
            headroom: 1 << 26,
            promised: 2 << 30,
            promised_limit: 3 << 30,
            rate: 1 << 20,
            time_to_full: Some(256),
            volumes: vec![volume],
            ..Pool::default()
        };
        let idle = Pool { name: "old".into(), ..Pool::default() };
        let of = Move { domain: "guest".into(), to: "host2".into(), ..Move::default() };
        let (of_job, task) = ("vms/d".into(), "defragment".into());
        let job = Job { of: of_job, task, moved: 1 << 20, total: 4 << 20, ..Job::default() };
        let (pools, moves, jobs) = (vec![pool, idle], vec![of], vec![job]);
        let all = Objects { pools, moves, jobs, ..Objects::default() };
        let text = to_text(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("vms   active    1.00 GiB  512.00 MiB   50%"), "{text}");
        assert!(lines[1].ends_with("2.00 GiB  3.00 GiB  1.00 MiB/s   4m 16s"), "{text}");
        assert_eq!(lines[2], "old   inactive");
        let row = "vms/d   active  8.00 MiB  2.00 MiB  4.00 MiB   50%  1.00 MiB/s";
        assert_eq!(lines[5], row, "{text}");
        assert!(lines[8].starts_with("guest"), "{text}");
        assert_eq!(lines[11], "vms/d  defragment  1.00 MiB  4.00 MiB", "{text}");
        let json = to_json(&all);
        assert_eq!(json["pools"][0]["volumes"][0]["allocation"], json!(4 << 20));
        assert_eq!(
            (&json["pools"][0]["time_to_full"], &json["pools"][1]["time_to_full"]),
            (&json!(256), &Value::Null)
        );
        assert_eq!(json["pools"][0]["promised"], json!(2u64 << 30));
        assert_eq!(
            (&json["pools"][0]["promised_limit"], &json["pools"][1]["promised_limit"]),
            (&json!(3u64 << 30), &Value::Null)
        );
        assert_eq!(to_text(&Objects::default()), "no pool is defined\n");
        let still = Objects { stands_still: true, ..Objects::default() };
        assert!(to_text(&still).starts_with("virtnotifyd does not run: "), "{}", to_text(&still));
        assert_eq!(to_json(&still)["storage_runs"], json!(false));
    }
}
