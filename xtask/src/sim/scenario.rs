// SPDX-License-Identifier: LGPL-2.1-or-later
//! `cargo xtask test sim`: what a newcomer does with a host in memory, from the first look to a disk that is rolled
//! back and a pool that is full.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Guest, Sim};
use crate::proc;

const MIB: u64 = 1 << 20;
/// How long something may take that is told a moment later.
const SOON: Duration = Duration::from_secs(30);
/// The same of the fill curve, which has a point a minute.
const A_MINUTE: Duration = Duration::from_secs(150);
const PAUSE: Duration = Duration::from_millis(300);

/// Runs it.
pub fn run() -> Result<()> {
    let sim = Sim::start()?;
    let (dir, mut guest) = (sim.dir.path().to_owned(), Guest::connect(&sim.guests())?);
    let done = steps(&sim, &mut guest);
    let words = sim.last_words();
    drop(sim);
    done.with_context(|| format!("the daemons' logs end with:{words}"))?;
    ensure!(!dir.exists(), "'{}' is left behind", dir.display());
    Ok(())
}

fn steps(sim: &Sim, guest: &mut Guest) -> Result<()> {
    looks_around(sim)?;
    a_volume_is_made_and_written(sim, guest).context("a volume is made and written")?;
    a_snapshot_is_rolled_back(sim, guest).context("a snapshot is rolled back")?;
    a_policy_is_changed(sim).context("a policy is changed")?;
    chunks_are_put_together(sim).context("chunks are put together")?;
    a_pool_becomes_full(sim, guest).context("a pool becomes full")?;
    the_curve_rises(sim).context("the curve rises")
}

/// The pool, its volumes, and the VMs of libvirt's test driver.
fn looks_around(sim: &Sim) -> Result<()> {
    let seen = eventually("the VMs are there", SOON, || {
        let status = sim.status()?;
        let known = status["vms"].as_array().is_some_and(|vms| vms.len() == 3);
        Ok(known.then_some(status))
    })?;
    let names = |of: &Value| -> Vec<String> {
        let all = of.as_array().into_iter().flatten();
        all.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect()
    };
    ensure!(names(&seen["pools"]) == ["vms"], "{seen}");
    let disks = names(&seen["pools"][0]["volumes"]);
    ensure!(disks == ["disk0", "disk1", "disk2"], "{disks:?}");
    for question in [["moves"], ["peers"], ["usage"]] {
        sim.virt_notify(&question)?;
    }
    Ok(())
}

fn a_volume_is_made_and_written(sim: &Sim, guest: &mut Guest) -> Result<()> {
    let pool = "/org/virtnotify1/pool/vms";
    let busctl =
        ["call", "org.virtnotify1", pool, "org.virtnotify1.Pool", "CreateVolume", "sta{sv}"];
    sim.busctl(&[&busctl[..], &["new", "67108864", "0"]].concat())?;
    ensure!(guest.say("write vms/new 0 8 first")? == "done 8");
    ensure!(guest.say("read vms/new 4")? == "text first");
    ensure!(guest.say("write vms/new 64 65 beyond")? == "failed 0");
    ensure!(guest.say("write vms/none 0 1")?.starts_with("error"));
    eventually("it is seen to hold 8 MiB", SOON, || {
        Ok((sim.allocation("new")? >= 8 * MIB).then_some(()))
    })?;
    let map = sim.virt_notify(&["map", "vms/new"])?;
    ensure!(!map.trim().is_empty(), "the map is empty");
    Ok(())
}

fn a_snapshot_is_rolled_back(sim: &Sim, guest: &mut Guest) -> Result<()> {
    sim.virt_notify(&["snapshot", "create", "before", "vms/new"])?;
    let listed = sim.virt_notify(&["snapshot", "list"])?;
    ensure!(listed.contains("new@before"), "{listed}");
    ensure!(guest.say("write vms/new 0 8 second")? == "done 8");
    ensure!(guest.say("read vms/new 4")? == "text second");
    sim.virt_notify(&["snapshot", "rollback", "vms/new@before"])?;
    ensure!(guest.say("read vms/new 4")? == "text first", "it holds what was written since");
    ensure!(guest.say("write vms/new@before 0 1 no")? == "failed 0", "a snapshot was written");
    Ok(())
}

fn a_policy_is_changed(sim: &Sim) -> Result<()> {
    sim.virt_notify(&["policy", "set", "vms", "low-mark=30%"])?;
    let policy = sim.virt_notify(&["policy", "get", "vms"])?;
    ensure!(policy.contains("30"), "{policy}");
    Ok(())
}

fn chunks_are_put_together(sim: &Sim) -> Result<()> {
    sim.virt_notify(&["defrag", "vms/new"]).map(drop)
}

/// Guests write until one gets "no space", which the daemon remembers as an event.
fn a_pool_becomes_full(sim: &Sim, guest: &mut Guest) -> Result<()> {
    let first = guest.say("write vms/disk0 0 128 all")?;
    ensure!(first == "done 128", "the first disk: {first}");
    let second = guest.say("write vms/disk1 0 128 all")?;
    ensure!(second.starts_with("failed"), "the second disk: {second}");
    eventually("an event says that there is no space", SOON, || {
        let events = sim.virt_notify(&["--json", "events", "--since", "1h"])?;
        Ok(events.contains("SpaceExhausted").then_some(()))
    })
}

fn the_curve_rises(sim: &Sim) -> Result<()> {
    eventually("the curve ends higher than it began", A_MINUTE, || {
        let text = sim.virt_notify(&["--json", "history", "vms", "--since", "1h"])?;
        let curve: Value = serde_json::from_str(&text)?;
        let points = curve["points"].as_array().context("there are no points")?;
        let available = |point: Option<&Value>| point.and_then(|point| point["available"].as_u64());
        let (first, last) = (available(points.first()), available(points.last()));
        Ok((last < first && last < Some(64 * MIB)).then_some(()))
    })
}

impl Sim {
    /// What `virt-notify` prints.
    fn virt_notify(&self, args: &[&str]) -> Result<String> {
        let mut command = self.program("virt-notify");
        command.args(args);
        proc::output(command)
    }

    fn busctl(&self, args: &[&str]) -> Result<String> {
        let mut command = proc::command("busctl");
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus()).args(args);
        proc::output(command)
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.virt_notify(&["--json", "status"])?)?)
    }

    fn allocation(&self, volume: &str) -> Result<u64> {
        let status = self.status()?;
        let volumes = status["pools"][0]["volumes"].as_array();
        let found = volumes.and_then(|all| all.iter().find(|one| one["name"] == volume));
        found.and_then(|one| one["allocation"].as_u64()).context("it is not listed")
    }
}

/// Asks until there is an answer.
fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > limit {
            bail!("not in {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
}
