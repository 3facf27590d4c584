// SPDX-License-Identifier: LGPL-2.1-or-later
//! `status`: pools, volumes, moves, VMs that wait, and jobs as tables.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, Problem};
use crate::health::Health;
use crate::moves;
use crate::objects::{self, Job, Objects, Outcome, Pool, Vm, Volume};
use crate::show::{self, out, seconds, size, table};

/// Results are shown for so many seconds,
const LATELY: u64 = 24 * 3600;
/// and at most so many.
const RESULTS: usize = 5;

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
                "growth_rate": volume.rate, "vms": volume.vms })
    };
    let vm = |vm: &Vm| {
        json!({ "name": vm.name, "uuid": vm.uuid, "state": vm.state, "pinned": vm.pinned,
                "kept": vm.kept })
    };
    let result = |of: &Outcome| {
        json!({ "began": of.began, "ended": of.ended, "task": of.task, "of": of.of, "to": of.to,
                "state": of.state, "reason": of.reason })
    };
    let pool = |pool: &Pool| {
        let limit = (pool.promised_limit != 0).then_some(pool.promised_limit);
        json!({ "name": pool.name, "uuid": pool.uuid, "active": pool.active, "damaged": pool.damaged,
                "health": pool.health, "reason": pool.reason,
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
            "vms": all.vms.iter().map(vm).collect::<Vec<_>>(),
            "results": all.results.iter().map(result).collect::<Vec<_>>(),
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
    for pool in all.pools.iter().filter(|pool| pool.active && !pool.reason.is_empty()) {
        text.push_str(&format!("{}: {}\n", pool.name, pool.reason));
    }
    let head = ["VOLUME", "STATE", "CAPACITY", "WRITTEN", "MAPPED", "USED", "GROWTH", "VM"];
    let mut rows = vec![words(&head)];
    for pool in &all.pools {
        rows.extend(pool.volumes.iter().map(|volume| volume_row(&pool.name, volume, &all.vms)));
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
    let ended = results(&all.results, moves::now());
    if !ended.is_empty() {
        text.push('\n');
        text.push_str(&ended);
    }
    text
}

/// How the last jobs and moves ended, the newest first; nothing when there are none.
fn results(all: &[Outcome], now: u64) -> String {
    let lately = all.iter().rev().filter(|of| now.saturating_sub(of.ended.max(of.began)) < LATELY);
    let row = |of: &Outcome| {
        let ago = match of.ended {
            0 => "-".to_owned(),
            ended => format!("{} ago", seconds(now.saturating_sub(ended))),
        };
        let to =
            [&of.of, &of.to].map(String::as_str).join(if of.to.is_empty() { "" } else { " → " });
        vec![to, of.task.clone(), of.state.clone(), ago, of.reason.clone()]
    };
    let head = words(&["LAST RESULTS", "TASK", "STATE", "ENDED", ""]);
    let rows: Vec<_> = std::iter::once(head).chain(lately.take(RESULTS).map(row)).collect();
    if rows.len() > 1 { table(&rows, &[]) } else { String::new() }
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
            _ if pool.health == "full" => "full",
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

fn volume_row(pool: &str, volume: &Volume, vms: &[Vm]) -> Vec<String> {
    let pinned = |name: &String| vms.iter().any(|vm| vm.name == *name && vm.pinned);
    let vm = |name: &String| match pinned(name) {
        true => format!("{name} (pinned)"),
        false => name.clone(),
    };
    let written = volume.written.map_or_else(|| "-".into(), size);
    vec![
        format!("{pool}/{}", volume.name),
        volume.state.clone(),
        size(volume.capacity),
        written,
        size(volume.mapped),
        percent(volume.mapped, volume.capacity),
        rate(volume.rate),
        volume.vms.iter().map(vm).collect::<Vec<_>>().join(", "),
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
    fn the_last_results_are_shown_for_a_day() {
        let of = |of: &str, to: &str, ended, state: &str, reason: &str| Outcome {
            began: 1,
            ended,
            task: if to.is_empty() { "reclaim".into() } else { "move".into() },
            of: of.into(),
            to: to.into(),
            state: state.into(),
            reason: reason.into(),
        };
        let all = [
            of("old", "", 100, "done", ""),
            of("vms", "", 200_000, "done", ""),
            of("web", "host2", 200_050, "stayed", "host2 is full"),
        ];
        let text = "LAST RESULTS  TASK     STATE   ENDED\n\
                    web → host2   move     stayed  10s ago    host2 is full\n\
                    vms           reclaim  done    1m 0s ago\n";
        assert_eq!(results(&all, 200_060), text);
        assert_eq!(results(&all, 400_000), "");
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
            vms: vec!["db".into(), "web".into()],
            ..Volume::default()
        };
        let vm = |name: &str, pinned| Vm { name: name.into(), pinned, ..Vm::default() };
        let pool = Pool {
            name: "vms".into(),
            active: true,
            health: "low".into(),
            reason: "256 MiB are left".into(),
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
        let vms = vec![vm("db", false), vm("web", true)];
        let all = Objects { pools, moves, jobs, vms, ..Objects::default() };
        let text = to_text(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("vms   active    1.00 GiB  512.00 MiB   50%"), "{text}");
        assert!(lines[1].ends_with("2.00 GiB  3.00 GiB  1.00 MiB/s   4m 16s"), "{text}");
        assert_eq!(lines[2], "old   inactive");
        assert_eq!(lines[3], "vms: 256 MiB are left", "{text}");
        let row =
            "vms/d   active  8.00 MiB  2.00 MiB  4.00 MiB   50%  1.00 MiB/s  db, web (pinned)";
        assert_eq!(lines[6], row, "{text}");
        assert!(lines[9].starts_with("guest"), "{text}");
        assert_eq!(lines[12], "vms/d  defragment  1.00 MiB  4.00 MiB", "{text}");
        let json = to_json(&all);
        assert_eq!(json["vms"][1]["pinned"], json!(true));
        assert_eq!(json["pools"][0]["volumes"][0]["vms"], json!(["db", "web"]));
        assert_eq!(json["pools"][0]["health"], json!("low"));
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
