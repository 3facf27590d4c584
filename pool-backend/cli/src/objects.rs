// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon's objects as it shows them on D-Bus, all in one look.

use std::collections::{BTreeMap, HashMap};

use zbus::fdo::Error::UnknownMethod;
use zbus::fdo::{ObjectManagerProxy, PropertiesProxy};
use zbus::names::InterfaceName;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant, proxy};

use crate::client::{ManagerProxy, NAME, Problem, ROOT};

/// Properties of one object.
pub type Properties = HashMap<String, OwnedVariant>;

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub uuid: String,
    pub active: bool,
    pub damaged: bool,
    /// `well`, `inactive`, `low`, `full` or `damaged`; empty where the daemon is older.
    pub health: String,
    /// The reason why it is not well.
    pub reason: String,
    pub capacity: u64,
    pub allocation: u64,
    pub available: u64,
    pub headroom: u64,
    pub low_mark: u64,
    /// The sum of the capacities of its volumes.
    pub promised: u64,
    /// The most that this sum may be; 0 is no limit.
    pub promised_limit: u64,
    /// Bytes a second.
    pub rate: u64,
    /// Seconds; none when it does not grow.
    pub time_to_full: Option<u64>,
    /// Why no VM leaves it at its low mark for now; empty where one may.
    pub held_back: String,
    /// In seconds since 1970; 0 where that is not known.
    pub held_back_until: u64,
    pub volumes: Vec<Volume>,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    pub path: String,
    pub name: String,
    pub uuid: String,
    pub device: String,
    pub state: String,
    pub capacity: u64,
    /// The space of its pool that it holds.
    pub mapped: u64,
    /// The part of that which is known to be written, where it was asked for.
    pub written: Option<u64>,
    /// Bytes a second.
    pub rate: u64,
    /// The VMs that have it, by name.
    pub vms: Vec<String>,
}

/// A VM with volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vm {
    pub name: String,
    pub uuid: String,
    pub state: String,
    pub pinned: bool,
    /// The reason why its metadata keep it on this host.
    pub kept: String,
}

/// How a job or a move ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When it began and ended, in seconds since 1970; 0 where that is not known.
    pub began: u64,
    pub ended: u64,
    pub task: String,
    pub of: String,
    pub to: String,
    pub state: String,
    pub reason: String,
}

/// A move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Move {
    pub domain: String,
    pub uuid: String,
    pub from: String,
    pub to: String,
    pub done: u64,
    pub total: u64,
    /// How far it is, in a word.
    pub phase: String,
    /// The reason why it does not end.
    pub reason: String,
}

/// A VM that is paused for want of space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    pub domain: String,
    /// POOL/VOLUME.
    pub volume: String,
    /// In seconds since 1970.
    pub since: u64,
    /// Why it was not moved.
    pub reason: String,
}

/// A host that VMs may move to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    pub uri: String,
    /// When it was asked last, in seconds since 1970; 0 before the first time.
    pub checked: u64,
    /// Why no VM could go there.
    pub problem: String,
    pub arriving: u64,
    pub arrivals: u64,
    pub pools: Vec<PeerPool>,
}

/// A peer's pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerPool {
    pub name: String,
    pub capacity: u64,
    pub available: u64,
    pub reserved: u64,
}

/// A job of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Job {
    /// POOL, or POOL/VOLUME.
    pub of: String,
    pub task: String,
    /// `running`, `done`, `cancelled` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: String,
    pub looked: u64,
    pub to_look: u64,
    pub moved: u64,
    pub total: u64,
    pub runs_before: u64,
    pub runs: u64,
    pub freed: u64,
    pub to_group: u64,
}

impl Job {
    /// Bytes looked at and moved.
    pub fn done(&self) -> u64 {
        self.looked.saturating_add(self.moved)
    }

    /// Bytes to look at and to move, as far as known.
    pub fn all(&self) -> u64 {
        self.to_look.saturating_add(self.total)
    }
}

/// Everything on the host.
#[derive(Debug, Default)]
pub struct Objects {
    pub pools: Vec<Pool>,
    pub moves: Vec<Move>,
    pub waiting: Vec<Waiting>,
    pub peers: Vec<Peer>,
    /// The jobs that run.
    pub jobs: Vec<Job>,
    pub vms: Vec<Vm>,
    /// How the last jobs and moves ended, the oldest first.
    pub results: Vec<Outcome>,
    /// Whether the host is being emptied.
    pub drained: bool,
    /// Whether virtnotifyd does not run: then all is as it told last.
    pub stands_still: bool,
}

/// A volume's object.
#[proxy(interface = "org.virtnotify1.Volume", default_service = "org.virtnotify1")]
trait VolumeObject {
    /// Counters, and waits by class.
    fn statistics(&self) -> zbus::Result<(Vec<(String, u64)>, Vec<(u64, u64)>)>;
}

/// Takes a look.
pub async fn look(connection: &Connection) -> Result<Objects, Problem> {
    let manager = ObjectManagerProxy::new(connection, NAME, ROOT).await?;
    let all = manager.get_managed_objects().await.map_err(zbus::Error::from)?;
    let mut pools: BTreeMap<String, Pool> = BTreeMap::new();
    let (mut volumes, mut jobs) = (Vec::new(), Vec::new());
    let (mut moves, mut waiting, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    let mut vms: BTreeMap<String, Vm> = BTreeMap::new();
    for (path, interfaces) in all {
        for (interface, of) in interfaces {
            match interface.as_str() {
                "org.virtnotify1.Pool" => drop(pools.insert(path.to_string(), pool(&of))),
                "org.virtnotify1.Volume" => {
                    let vms = paths(&of, "Vms");
                    volumes.push((text(&of, "Pool"), volume(path.to_string(), &of), vms));
                }
                "org.virtnotify1.Vm" => drop(vms.insert(path.to_string(), vm(&of))),
                "org.virtnotify1.Move" => moves.push(a_move(&of)),
                "org.virtnotify1.Waiting" => waiting.push((text(&of, "Volume"), a_waiting(&of))),
                "org.virtnotify1.Peer" => peers.push(peer(&of)),
                "org.virtnotify1.Job" => {
                    jobs.push((text(&of, "Pool"), text(&of, "Volume"), job(&of)))
                }
                _ => {}
            }
        }
    }
    jobs.retain(|(.., job)| job.state == "running");
    for (pool, volume, job) in &mut jobs {
        let pool = pools.get(pool).map(|pool| pool.name.as_str()).unwrap_or_default();
        let volume = volumes.iter().find(|(_, known, _)| known.path == *volume);
        job.of =
            volume.map_or_else(|| pool.into(), |(_, known, _)| format!("{pool}/{}", known.name));
    }
    for (path, vm) in &mut waiting {
        let volume = volumes.iter().find(|(_, known, _)| known.path == *path);
        let pool = volume.and_then(|(pool, ..)| pools.get(pool));
        if let (Some((_, volume, _)), Some(pool)) = (volume, pool) {
            vm.volume = format!("{}/{}", pool.name, volume.name);
        }
    }
    let mut waiting: Vec<Waiting> = waiting.into_iter().map(|(_, vm)| vm).collect();
    waiting.sort_by(|a, b| (a.since, &a.domain).cmp(&(b.since, &b.domain)));
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    let mut jobs: Vec<Job> = jobs.into_iter().map(|(.., job)| job).collect();
    jobs.sort_by(|a, b| a.of.cmp(&b.of));
    volumes.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    for (pool, mut volume, users) in volumes {
        let users = users.iter().filter_map(|path| vms.get(path));
        volume.vms = users.map(|vm| vm.name.clone()).collect();
        let pool = pools.iter_mut().find(|(path, _)| **path == pool);
        if let Some((_, pool)) = pool {
            pool.volumes.push(volume);
        }
    }
    moves.sort_by(|a, b| a.domain.cmp(&b.domain));
    let mut pools: Vec<Pool> = pools.into_values().collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    let manager = of_manager(connection).await?;
    // A daemon of an earlier version serves the pools itself, and does not have the property.
    let stands_still = manager.contains_key("StorageRuns") && !flag(&manager, "StorageRuns");
    let drained = flag(&manager, "Drained");
    let mut vms: Vec<Vm> = vms.into_values().collect();
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    let results = results(connection).await?;
    Ok(Objects { pools, moves, waiting, peers, jobs, vms, results, drained, stands_still })
}

/// How the last jobs and moves ended. A daemon of an earlier version does not know.
async fn results(connection: &Connection) -> Result<Vec<Outcome>, Problem> {
    let manager = ManagerProxy::new(connection).await?;
    let rows = match manager.results().await {
        Err(zbus::Error::FDO(fault)) if matches!(*fault, UnknownMethod(_)) => Vec::new(),
        rows => rows?,
    };
    let outcome = |(began, ended, task, of, to, state, reason)| Outcome {
        began,
        ended,
        task,
        of,
        to,
        state,
        reason,
    };
    Ok(rows.into_iter().map(outcome).collect())
}

/// The state of virtnotify-control and of virtnotifyd.
pub async fn of_manager(connection: &Connection) -> Result<Properties, Problem> {
    let root = PropertiesProxy::new(connection, NAME, ROOT).await?;
    let manager = InterfaceName::from_static_str("org.virtnotify1.Manager")?;
    Ok(root.get_all(manager).await.map_err(zbus::Error::from)?)
}

/// Asks how much of the volumes is written, too. A volume that goes away meanwhile has no figure.
pub async fn ask_written(connection: &Connection, pool: &mut Pool) -> Result<(), Problem> {
    for volume in pool.volumes.iter_mut().filter(|volume| volume.state != "inactive") {
        let object = VolumeObjectProxy::new(connection, volume.path.clone()).await?;
        if let Ok((figures, _)) = object.statistics().await {
            let written = figures.iter().find(|(name, _)| name == "written");
            volume.written = written.map(|(_, bytes)| *bytes);
        }
    }
    Ok(())
}

fn pool(of: &Properties) -> Pool {
    Pool {
        name: text(of, "Name"),
        uuid: text(of, "Uuid"),
        active: flag(of, "Active"),
        damaged: flag(of, "Damaged"),
        health: text(of, "Health"),
        reason: text(of, "Reason"),
        capacity: number(of, "Capacity"),
        allocation: number(of, "Allocation"),
        available: number(of, "Available"),
        headroom: number(of, "Headroom"),
        low_mark: number(of, "LowMark"),
        promised: number(of, "Promised"),
        promised_limit: number(of, "PromisedLimit"),
        rate: number(of, "GrowthRate"),
        time_to_full: Some(number(of, "TimeToFull")).filter(|time| *time > 0),
        held_back: text(of, "HeldBack"),
        held_back_until: number(of, "HeldBackUntil"),
        volumes: Vec::new(),
    }
}

fn volume(path: String, of: &Properties) -> Volume {
    Volume {
        path,
        name: text(of, "Name"),
        uuid: text(of, "Uuid"),
        device: text(of, "Path"),
        state: text(of, "State"),
        capacity: number(of, "Capacity"),
        mapped: number(of, "Allocation"),
        written: None,
        rate: number(of, "GrowthRate"),
        vms: Vec::new(),
    }
}

fn vm(of: &Properties) -> Vm {
    Vm {
        name: text(of, "Name"),
        uuid: text(of, "Uuid"),
        state: text(of, "State"),
        pinned: flag(of, "Pinned"),
        kept: text(of, "Kept"),
    }
}

fn a_move(of: &Properties) -> Move {
    Move {
        domain: text(of, "Domain"),
        uuid: text(of, "Uuid"),
        from: text(of, "From"),
        to: text(of, "To"),
        done: number(of, "Done"),
        total: number(of, "Total"),
        phase: text(of, "Phase"),
        reason: text(of, "Reason"),
    }
}

/// A VM that waits, but for the name of its volume.
fn a_waiting(of: &Properties) -> Waiting {
    Waiting {
        domain: text(of, "Domain"),
        volume: String::new(),
        since: number(of, "Since"),
        reason: text(of, "Reason"),
    }
}

fn peer(of: &Properties) -> Peer {
    let pools = of.get("Pools").and_then(|value| value.try_clone().ok());
    let pools: Vec<(String, u64, u64, u64)> =
        pools.and_then(|pools| pools.try_into().ok()).unwrap_or_default();
    let pool =
        |(name, capacity, available, reserved)| PeerPool { name, capacity, available, reserved };
    Peer {
        name: text(of, "Name"),
        uri: text(of, "Uri"),
        checked: number(of, "Checked"),
        problem: text(of, "Problem"),
        arriving: number(of, "Arriving"),
        arrivals: number(of, "Arrivals"),
        pools: pools.into_iter().map(pool).collect(),
    }
}

/// A job, but for what it is about.
pub fn job(of: &Properties) -> Job {
    Job {
        of: String::new(),
        task: text(of, "Task"),
        state: text(of, "State"),
        error: text(of, "Error"),
        looked: number(of, "Looked"),
        to_look: number(of, "ToLook"),
        moved: number(of, "Moved"),
        total: number(of, "Total"),
        runs_before: number(of, "RunsBefore"),
        runs: number(of, "Runs"),
        freed: number(of, "Freed"),
        to_group: number(of, "ToGroup"),
    }
}

fn text(of: &Properties, name: &str) -> String {
    match of.get(name).map(|value| &**value) {
        Some(Variant::Str(text)) => text.to_string(),
        Some(Variant::ObjectPath(path)) => path.to_string(),
        _ => String::new(),
    }
}

/// The paths of objects.
fn paths(of: &Properties, name: &str) -> Vec<String> {
    let value = of.get(name).and_then(|value| value.try_clone().ok());
    let paths: Vec<OwnedObjectPath> =
        value.and_then(|paths| paths.try_into().ok()).unwrap_or_default();
    paths.iter().map(|path| path.as_str().to_owned()).collect()
}

pub fn flag(of: &Properties, name: &str) -> bool {
    of.get(name).is_some_and(|value| **value == Variant::Bool(true))
}

fn number(of: &Properties, name: &str) -> u64 {
    match of.get(name).map(|value| &**value) {
        Some(Variant::U64(number)) => *number,
        _ => 0,
    }
}
