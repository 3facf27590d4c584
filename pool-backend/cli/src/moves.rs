// SPDX-License-Identifier: LGPL-2.1-or-later
//! `moves`: moves that are not over, and VMs that wait for space.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, Problem};
use crate::objects::{self, Move, Objects, Pool, Waiting};
use crate::show::{self, out, seconds, size, table};

/// `moves`.
pub async fn run(host: Host<'_>, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let all = objects::look(daemon.inner().connection()).await?;
    if as_json {
        let value = json!({ "drained": all.drained, "moves": moves_json(&all.moves),
                            "waiting": waiting_json(&all.waiting) });
        show::json(&value)?;
        return Ok(code::FINE);
    }
    let text = to_text(&all, now());
    out(if text.is_empty() { "no VM moves, and none waits for space\n" } else { &text })?;
    Ok(code::FINE)
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// For how long something stays as it is, as the end of a sentence; nothing where that is not known.
pub fn until(time: u64, now: u64) -> String {
    match time {
        0 => String::new(),
        time => format!(", for another {}", seconds(time.saturating_sub(now))),
    }
}

/// Moves, for programs.
pub fn moves_json(moves: &[Move]) -> Value {
    let one = |of: &Move| {
        json!({ "domain": of.domain, "uuid": of.uuid, "from": of.from, "to": of.to,
                "phase": of.phase, "reason": of.reason, "done": of.done, "total": of.total })
    };
    moves.iter().map(one).collect()
}

/// VMs that wait, for programs.
pub fn waiting_json(waiting: &[Waiting]) -> Value {
    let one = |of: &Waiting| json!({ "domain": of.domain, "volume": of.volume, "since": of.since, "reason": of.reason });
    waiting.iter().map(one).collect()
}

/// Both, for people; nothing when there are none.
pub fn to_text(all: &Objects, now: u64) -> String {
    let mut parts = Vec::new();
    if all.drained {
        parts.push("this host is being emptied ('virt-notify undrain' ends that)\n".to_owned());
    }
    let held = all.pools.iter().filter(|pool| !pool.held_back.is_empty());
    let held = held.map(|Pool { name, held_back, held_back_until, .. }| {
        let until = until(*held_back_until, now);
        format!("no VM leaves '{name}' before it waits for space{until}: {held_back}\n")
    });
    let held: String = held.collect();
    if !held.is_empty() {
        parts.push(held);
    }
    if !all.moves.is_empty() {
        let head = ["MOVES", "FROM", "TO", "PHASE", "COPIED", "OF", ""].map(str::to_owned).to_vec();
        let row = |of: &Move| {
            let cells = [&of.domain, &of.from, &of.to, &of.phase, &size(of.done), &size(of.total)];
            cells.into_iter().chain([&of.reason]).cloned().collect()
        };
        let rows: Vec<_> = std::iter::once(head).chain(all.moves.iter().map(row)).collect();
        parts.push(table(&rows, &[4, 5]));
    }
    if !all.waiting.is_empty() {
        let head = ["WAITS FOR SPACE", "VOLUME", "FOR", ""].map(str::to_owned).to_vec();
        let row = |of: &Waiting| {
            let time = seconds(now.saturating_sub(of.since));
            vec![of.domain.clone(), of.volume.clone(), time, of.reason.clone()]
        };
        let rows: Vec<_> = std::iter::once(head).chain(all.waiting.iter().map(row)).collect();
        parts.push(table(&rows, &[2]));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_and_what_waits_is_shown_with_its_reason() {
        let of = Move {
            domain: "a".into(),
            from: "host1".into(),
            to: "host2".into(),
            phase: "unknown".into(),
            reason: "host2 does not answer".into(),
            done: 1 << 20,
            total: 4 << 20,
            ..Move::default()
        };
        let waiting = Waiting {
            domain: "b".into(),
            volume: "vms/d".into(),
            since: 100,
            reason: "no peer is configured".into(),
        };
        let mut all = Objects { moves: vec![of], waiting: vec![waiting], ..Objects::default() };
        let text = "MOVES  FROM   TO     PHASE      COPIED        OF\n\
                    a      host1  host2  unknown  1.00 MiB  4.00 MiB  host2 does not answer\n\n\
                    WAITS FOR SPACE  VOLUME  FOR\n\
                    b                vms/d   30s  no peer is configured\n";
        assert_eq!(to_text(&all, 130), text);
        let held_back = "VMs leave it from 22:00 to 06:00 only".into();
        let pool = Pool { name: "vms".into(), held_back, held_back_until: 730, ..Pool::default() };
        let held = Objects { pools: vec![pool.clone()], ..Objects::default() };
        let text = "no VM leaves 'vms' before it waits for space, for another 10m 0s: \
                    VMs leave it from 22:00 to 06:00 only\n";
        assert_eq!(to_text(&held, 130), text);
        let pool = Pool { held_back_until: 0, ..pool };
        let held = Objects { pools: vec![pool], ..Objects::default() };
        assert_eq!(to_text(&held, 130), text.replace(", for another 10m 0s", ""));
        all.drained = true;
        assert!(to_text(&all, 130).starts_with("this host is being emptied"));
        assert_eq!(to_text(&Objects::default(), 130), "");
        assert_eq!(moves_json(&all.moves)[0]["phase"], json!("unknown"));
        assert_eq!(waiting_json(&all.waiting)[0]["since"], json!(100));
    }
}
