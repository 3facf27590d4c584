// SPDX-License-Identifier: LGPL-2.1-or-later
//! `peers`: the hosts that VMs may move to.

use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, Problem};
use crate::moves::now;
use crate::objects::{self, Peer, PeerPool};
use crate::show::{self, out, seconds, size, table};

/// `peers`.
pub async fn run(host: Host<'_>, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let peers = objects::look(daemon.inner().connection()).await?.peers;
    match as_json {
        true => show::json(&to_json(&peers))?,
        false => out(&to_text(&peers, now()))?,
    }
    let fine = peers.iter().all(|peer| peer.problem.is_empty());
    Ok(if fine { code::FINE } else { code::FINDINGS })
}

fn to_json(peers: &[Peer]) -> Value {
    let pool = |of: &PeerPool| {
        json!({ "name": of.name, "capacity": of.capacity, "available": of.available,
                "reserved": of.reserved })
    };
    let peer = |of: &Peer| {
        json!({ "name": of.name, "uri": of.uri,
                "checked": (of.checked != 0).then_some(of.checked),
                "problem": (!of.problem.is_empty()).then_some(&of.problem),
                "arriving": of.arriving, "arrivals": of.arrivals,
                "pools": of.pools.iter().map(pool).collect::<Vec<_>>() })
    };
    peers.iter().map(peer).collect()
}

fn to_text(peers: &[Peer], now: u64) -> String {
    if peers.is_empty() {
        return "no peer is configured: see [[peer]] in virtnotify.toml\n".to_owned();
    }
    let head = ["PEER", "ASKED", "ARRIVING", "POOL", "AVAILABLE", "RESERVED", "PROBLEM"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for peer in peers {
        let asked = match peer.checked {
            0 => "not yet".to_owned(),
            at => format!("{} ago", seconds(now.saturating_sub(at))),
        };
        let arriving = format!("{} of {}", peer.arriving, peer.arrivals);
        let mut first = vec![peer.name.clone(), asked, arriving];
        let mut problem = peer.problem.clone();
        if peer.pools.is_empty() {
            let none = || "-".to_owned();
            rows.push([first, vec![none(), none(), none(), problem]].concat());
            continue;
        }
        for pool in &peer.pools {
            let room = vec![pool.name.clone(), size(pool.available), size(pool.reserved)];
            rows.push([std::mem::replace(&mut first, vec![String::new(); 3]), room].concat());
            if let Some(row) = rows.last_mut() {
                row.push(std::mem::take(&mut problem));
            }
        }
    }
    table(&rows, &[4, 5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_has_a_line_and_a_problem_its_words() {
        let pool = |name: &str| PeerPool {
            name: name.into(),
            capacity: 4 << 30,
            available: 2 << 30,
            reserved: 1 << 30,
        };
        let peer = Peer {
            name: "host2".into(),
            checked: 100,
            arriving: 1,
            arrivals: 2,
            pools: vec![pool("vms"), pool("db")],
            ..Peer::default()
        };
        let dead = Peer {
            name: "host3".into(),
            arrivals: 2,
            problem: "cannot be asked".into(),
            ..Peer::default()
        };
        let text = "PEER   ASKED    ARRIVING  POOL  AVAILABLE  RESERVED  PROBLEM\n\
                    host2  30s ago  1 of 2    vms    2.00 GiB  1.00 GiB\n\
                    \x20                         db     2.00 GiB  1.00 GiB\n\
                    host3  not yet  0 of 2    -             -         -  cannot be asked\n";
        assert_eq!(to_text(&[peer.clone(), dead.clone()], 130), text);
        assert!(to_text(&[], 0).starts_with("no peer is configured"));
        let json = to_json(&[peer, dead]);
        assert_eq!((&json[0]["checked"], &json[1]["checked"]), (&json!(100), &Value::Null));
        assert_eq!(json[1]["problem"], json!("cannot be asked"));
        assert_eq!(json[0]["pools"][1]["reserved"], json!(1u64 << 30));
    }
}
