// SPDX-License-Identifier: LGPL-2.1-or-later
//! `plan`, `pin`, `unpin`, `drain` and `undrain`: which VMs would go where, and which stay.

use serde_json::{Value, json};

use crate::args::code;
use crate::client::{self, Host, ManagerProxy, Plan, Problem};
use crate::show::{self, out, seconds, size, table};
use crate::virsh;

/// The daemon's words for a VM without a volume of its pools.
const NOT_OURS: &str = "it has no disk on a notify volume";

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
            false => out(&overview(&plans))?,
        }
        return Ok(if stays { code::FINDINGS } else { code::FINE });
    };
    let plan = daemon.plan(domain, to).await?;
    match as_json {
        true => show::json(&to_json(&plan))?,
        false => out(&to_text(&plan))?,
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
        if plan.stays != NOT_OURS {
            plans.push(plan);
        }
    }
    Ok(plans)
}

fn to_json(plan: &Plan) -> Value {
    let word = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let peer = |(name, fits, free, reason): &client::PlanPeer| json!({ "name": name, "fits": fits, "free_then": fits.then_some(free), "reason": word(reason) });
    json!({ "domain": plan.domain, "uuid": plan.uuid, "stays": word(&plan.stays),
            "to": word(&plan.to), "copies": plan.copies, "seconds": plan.seconds,
            "peers": plan.peers.iter().map(peer).collect::<Vec<_>>(), "leaves": plan.leaves })
}

fn to_text(plan: &Plan) -> String {
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

fn overview(plans: &[Plan]) -> String {
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
    table(&rows, &[2, 3])
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
        assert_eq!(to_text(&plan()), text);
        let stays = Plan { stays: "it does not run".into(), peers: Vec::new(), ..plan() };
        assert_eq!(to_text(&stays), "guest stays: it does not run\n");
        let text = "VM     TO        TO COPY  TIME  STAYS BECAUSE\n\
                    guest  host2  168.00 MiB   16s\n\
                    guest  -               -     -  it does not run\n";
        assert_eq!(overview(&[plan(), stays]), text);
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
