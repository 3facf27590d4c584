// SPDX-License-Identifier: LGPL-2.1-or-later
//! `plan`, `pin`, `unpin`, `drain` and `undrain`: which VMs would go where, and which stay.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, ManagerProxy, Plan, Problem};
use crate::moves;
use crate::show::{self, out, seconds, size, table};
use crate::virsh;

/// `plan`, and `migrate --dry-run`.
pub async fn run(
    host: Host<'_>,
    domain: Option<&str>,
    to: Option<&str>,
    as_json: bool,
) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let to = to.unwrap_or_default();
    let Some(domain) = domain else {
        let plans = all(&daemon, host, to).await?;
        let stays = plans.iter().any(|plan| !plan.stays.is_empty());
        match as_json {
            true => show::json(&plans.iter().map(to_json).collect())?,
            false => out(&overview(&plans, moves::now()))?,
        }
        return Ok(if stays { code::FINDINGS } else { code::FINE });
    };
    let plan = daemon.plan(domain, to).await?;
    match as_json {
        true => show::json(&to_json(&plan))?,
        false => out(&to_text(&plan, moves::now()))?,
    }
    Ok(if plan.stays.is_empty() { code::FINE } else { code::FINDINGS })
}

/// `pin` and `unpin`.
pub async fn pin(host: Host<'_>, domain: &str, pinned: bool) -> Result<u8, Problem> {
    client::daemon(host).await?.pin(domain, pinned).await?;
    Ok(code::FINE)
}

/// `drain`.
pub async fn drain(host: Host<'_>, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    // Read before the drain begins, so that a VM that moves already is not taken for one that
    // cannot move.
    let plans = all(&daemon, host, "").await?;
    daemon.drain(true).await?;
    if as_json {
        show::json(&plans.iter().map(to_json).collect())?;
        return Ok(code::FINE);
    }
    let stays = plans.iter().filter(|plan| !plan.stays.is_empty());
    let stays: String =
        stays.map(|plan| format!("{} stays for now: {}\n", plan.domain, plan.stays)).collect();
    let leave = plans.iter().filter(|plan| plan.stays.is_empty()).count() as u64;
    let text = format!(
        "this host is being emptied: {} leaving, and no peer sends it any; 'virt-notify moves' shows how it goes, \
         'virt-notify undrain' ends it\n{stays}",
        match leave {
            1 => "1 VM is".to_owned(),
            some => format!("{some} VMs are"),
        }
    );
    out(&text)?;
    Ok(code::FINE)
}

/// `undrain`.
pub async fn undrain(host: Host<'_>) -> Result<u8, Problem> {
    client::daemon(host).await?.drain(false).await?;
    Ok(code::FINE)
}

/// The plans for all VMs that are active and have a disk in a pool of type notify.
async fn all(daemon: &ManagerProxy<'_>, host: Host<'_>, to: &str) -> Result<Vec<Plan>, Problem> {
    let names = virsh::run(&virsh::guests(host), &["list", "--name"])?;
    let mut plans = Vec::new();
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let plan = daemon.plan(name, to).await?;
        if plan.ours {
            plans.push(plan);
        }
    }
    Ok(plans)
}

fn to_json(plan: &Plan) -> Value {
    let word = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let peer = |(name, fits, free, reason): &client::PlanPeer| json!({ "name": name, "fits": fits, "free_then": fits.then_some(free), "reason": word(reason) });
    let held = |(pool, reason, until): &client::PlanHeld| json!({ "pool": pool, "reason": reason, "until": (*until > 0).then_some(until) });
    json!({ "domain": plan.domain, "uuid": plan.uuid, "stays": word(&plan.stays),
            "to": word(&plan.to), "copies": plan.copies, "seconds": plan.seconds,
            "peers": plan.peers.iter().map(peer).collect::<Vec<_>>(), "leaves": plan.leaves,
            "held_back": plan.held.iter().map(held).collect::<Vec<_>>() })
}

fn to_text(plan: &Plan, now: u64) -> String {
    let Plan { domain, stays, to, copies, .. } = plan;
    let mut text = match stays.is_empty() {
        true => format!(
            "{domain} would move to {to}: {} to copy, about {}\n",
            size(*copies),
            seconds(plan.seconds)
        ),
        false => format!("{domain} stays: {stays}\n"),
    };
    if !plan.leaves.is_empty() {
        text.push_str(&format!("its snapshots stay here: {}\n", plan.leaves.join(", ")));
    }
    for (pool, reason, until) in &plan.held {
        text.push_str(&format!(
            "by itself it leaves '{pool}' only when it waits for space{}: {reason}\n",
            moves::until(*until, now)
        ));
    }
    if !plan.peers.is_empty() {
        let head = ["PEER", "FITS", "FREE THEN", "WHY NOT"].map(str::to_owned).to_vec();
        let row = |(name, fits, free, reason): &client::PlanPeer| {
            let free = if *fits { size(*free) } else { "-".to_owned() };
            let fits = if *fits { "yes" } else { "no" };
            vec![name.clone(), fits.to_owned(), free, reason.clone()]
        };
        let rows: Vec<_> = std::iter::once(head).chain(plan.peers.iter().map(row)).collect();
        text.push_str(&table(&rows, &[2]));
    }
    text
}

fn overview(plans: &[Plan], now: u64) -> String {
    if plans.is_empty() {
        return "no VM that is active has a disk in a pool of ours\n".to_owned();
    }
    let head = ["VM", "TO", "TO COPY", "TIME", "STAYS BECAUSE"].map(str::to_owned).to_vec();
    let row = |plan: &Plan| {
        let goes = plan.stays.is_empty();
        let or = |text: String| if goes { text } else { "-".to_owned() };
        vec![
            plan.domain.clone(),
            or(plan.to.clone()),
            or(size(plan.copies)),
            or(seconds(plan.seconds)),
            plan.stays.clone(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(plans.iter().map(row)).collect();
    let held: BTreeSet<_> = plans.iter().flat_map(|plan| &plan.held).collect();
    let held = held.into_iter().map(|(pool, reason, until)| {
        let until = moves::until(*until, now);
        format!("by themselves VMs leave '{pool}' only when they wait for space{until}: {reason}\n")
    });
    table(&rows, &[2, 3]) + &held.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let none = "is drained: it takes no VMs".to_owned();
        Plan {
            domain: "guest".into(),
            to: "host2".into(),
            copies: 168 << 20,
            seconds: 16,
            peers: vec![
                ("host2".into(), true, 2 << 30, String::new()),
                ("host3".into(), false, 0, none),
            ],
            ..Plan::default()
        }
    }

    #[test]
    fn a_plan_reads_as_a_sentence_and_a_line_for_each_peer() {
        let text = "guest would move to host2: 168.00 MiB to copy, about 16s\n\
                    PEER   FITS  FREE THEN  WHY NOT\n\
                    host2  yes    2.00 GiB\n\
                    host3  no            -  is drained: it takes no VMs\n";
        assert_eq!(to_text(&plan(), 0), text);
        let hours = ("vms".to_owned(), "VMs leave it from 22:00 to 06:00 only".to_owned(), 7300);
        let held = Plan { held: vec![hours.clone()], peers: Vec::new(), ..plan() };
        let text = "guest would move to host2: 168.00 MiB to copy, about 16s\n\
                    by itself it leaves 'vms' only when it waits for space, for another 2h 0m: \
                    VMs leave it from 22:00 to 06:00 only\n";
        assert_eq!(to_text(&held, 100), text);
        assert_eq!(to_json(&held)["held_back"][0]["until"], json!(7300));
        let stays = Plan { stays: "it does not run".into(), peers: Vec::new(), ..plan() };
        assert_eq!(to_text(&stays, 0), "guest stays: it does not run\n");
        let text = "VM     TO        TO COPY  TIME  STAYS BECAUSE\n\
                    guest  host2  168.00 MiB   16s\n\
                    guest  -               -     -  it does not run\n";
        assert_eq!(overview(&[plan(), stays], 0), text);
        let held =
            |domain: &str| Plan { domain: domain.into(), held: vec![hours.clone()], ..plan() };
        let both = overview(&[held("a"), held("b")], 100);
        let line = "by themselves VMs leave 'vms' only when they wait for space, for another 2h 0m: \
                    VMs leave it from 22:00 to 06:00 only";
        assert_eq!(both.lines().last(), Some(line));
        assert_eq!(both.lines().count(), 4, "{both}");
    }

    #[test]
    fn a_plan_for_programs_has_null_for_what_is_not() {
        let json = to_json(&plan());
        assert_eq!((&json["stays"], &json["to"]), (&Value::Null, &json!("host2")));
        assert_eq!(json["peers"][0]["free_then"], json!(2u64 << 30));
        assert_eq!(json["peers"][1]["free_then"], Value::Null);
        assert_eq!(json["peers"][1]["reason"], json!("is drained: it takes no VMs"));
    }
}
