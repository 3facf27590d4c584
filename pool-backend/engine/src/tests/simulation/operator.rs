// SPDX-License-Identifier: LGPL-2.1-or-later
//! An operator: makes, deletes, resizes, wipes, snapshots, clones, rolls back, defragments and evacuates.

use std::time::Duration;

use virtnotify_model::{
    Backend, BackendError, Bytes, JobInfo, JobState, Task, VolumeSpec, WipeMode,
};

use super::guest;
use super::model::{Change, Known};
use super::world::{CHUNK, World};
use crate::runtime;
use crate::tests::house::pool;

/// The disks that guests may have, and the snapshots that each may have.
const DISKS: [&str; 6] = ["0a", "0b", "1a", "1b", "2a", "2b"];
const SNAPSHOTS: [&str; 3] = ["x", "y", "z"];
/// How large a disk may be, in chunks.
const LARGEST: u64 = 32;

/// Lives until the host ends.
pub(super) fn live(world: &World, number: usize) {
    loop {
        world.pause(Duration::from_millis(80));
        let Some((change, work)) = (0..20).find_map(|_| choose(world)) else { continue };
        world.did_a_step();
        tracing::info!(number, ?change, "begins");
        begin(world, number, change);
        let told = work(world);
        tracing::info!(number, ?told, "has ended");
        end(world, number, told);
    }
}

type Work = Box<dyn FnOnce(&World) -> Result<(), BackendError>>;

/// What is going to be changed is left alone by others.
fn begin(world: &World, number: usize, change: Change) {
    let closes = match &change {
        Change::Delete { name }
        | Change::RollBack { name, .. }
        | Change::Resize { name, .. }
        | Change::Wipe { name } => Some(name.clone()),
        _ => None,
    };
    world.model.borrow_mut().under_way.insert(number, change);
    let Some(name) = closes else { return };
    if let Some(known) = world.model.borrow_mut().known.get_mut(&name) {
        known.closed = true;
    }
    while world.model.borrow().is_used(&name) {
        world.pause(Duration::from_millis(10));
    }
}

/// Looks at what has become of it.
fn end(world: &World, number: usize, told: Result<(), BackendError>) {
    if world.is_over() {
        return;
    }
    if let Err(error) = &told {
        let usual = matches!(error, BackendError::NoSpace { .. } | BackendError::Refused(_));
        if !usual && !world.troubled.get() {
            let change = world.model.borrow().under_way.get(&number).cloned();
            return world.wrong(format!("{change:?} failed without a reason: {error}"));
        }
    }
    // A snapshot is there without its device, which is made as soon as it can be.
    if told.is_err() || world.troubled.get() {
        world.wait_usable();
    }
    let names = world.model.borrow().under_way.get(&number).map(Change::names);
    let names = names.unwrap_or_default();
    let seen: std::collections::BTreeMap<_, _> =
        names.iter().map(|name| (name.clone(), world.see(name))).collect();
    if world.is_over() {
        return;
    }
    let see = |name: &str| seen.get(name).cloned().flatten();
    let mut model = world.model.borrow_mut();
    let settled = model.settle(number, told.is_ok(), &see);
    for name in names {
        if let Some(known) = model.known.get_mut(&name) {
            known.closed = false;
        }
    }
    drop(model);
    if let Err(what) = settled {
        world.wrong(format!("{what} (it ended with {told:?})"));
    }
}

/// Something that can be done now.
fn choose(world: &World) -> Option<(Change, Work)> {
    let (disk, snapshot) = (pick(world, &DISKS), pick(world, &SNAPSHOTS));
    let full = format!("{disk}@{snapshot}");
    let model = world.model.borrow();
    let free = |name: &str| !model.is_changing(name);
    let there = |name: &str| model.known.contains_key(name) && free(name);
    let absent = |name: &str| !model.known.contains_key(name) && free(name);
    let kind = world.below(16);
    if world.plan.without & (1 << kind) != 0 {
        return None;
    }
    let known = |name: &str| model.known[name].clone();
    match kind {
        0..=2 if absent(disk) => {
            let chunks = 1 + world.below(LARGEST);
            let now = if world.chance(4) { world.below(chunks) } else { 0 };
            drop(model);
            Some(create(world, disk, chunks, now))
        }
        3..=5 if there(disk) && absent(&full) => {
            // All disks of a guest at one moment, or one.
            let guest = usize::from(disk.as_bytes()[0] - b'0');
            let all = world.chance(2);
            let wanted = |name: &&&str| if all { guest::owns(guest, name) } else { **name == disk };
            let volumes: Vec<_> = DISKS.iter().filter(wanted).copied().collect();
            let made = |name: &&str| (name.to_string(), format!("{name}@{snapshot}"));
            let possible = volumes.iter().all(|n| there(n) && absent(&format!("{n}@{snapshot}")));
            if !possible {
                return None;
            }
            let made = volumes.iter().map(made).map(|(of, to)| (of.clone(), to, known(&of)));
            let change = Change::Cut { made: made.collect(), done: Vec::new() };
            let work: Work = Box::new(move |world| {
                let names: Vec<_> = volumes.iter().map(|name| name.parse().unwrap()).collect();
                let taken = world.engine().snapshot(&pool(), &names, &snapshot.parse().unwrap());
                taken.map(drop)
            });
            Some((change, work))
        }
        6 | 7 => {
            let to = pick(world, &DISKS);
            let from = if world.chance(2) { disk.to_owned() } else { full };
            if to == disk || !there(&from) || !absent(to) {
                return None;
            }
            let origin = known(&from);
            drop(model);
            let birth = world.model.borrow_mut().fresh();
            Some(clone(&from, to, Known { birth, ..origin }))
        }
        8 if there(disk) && there(&full) && known(disk).birth == known(&full).birth => {
            let change = Change::RollBack { name: disk.into(), to: known(&full) };
            let work: Work =
                Box::new(move |world| world.engine().roll_back(&pool(), &full.parse().unwrap()));
            Some((change, work))
        }
        9 if there(disk) => Some(delete(disk)),
        10 | 11 if there(&full) => Some(delete(&full)),
        12 if there(disk) => {
            let chunks = 1 + world.below(LARGEST);
            let change = Change::Resize { name: disk.into(), chunks };
            let work: Work = Box::new(move |world| {
                let (name, capacity) = (disk.parse().unwrap(), Bytes(chunks * CHUNK));
                world.engine().resize_volume(&pool(), &name, capacity).map(drop)
            });
            Some((change, work))
        }
        13 if there(disk) => {
            let mode = if world.chance(2) { WipeMode::Zero } else { WipeMode::Trim };
            let work: Work = Box::new(move |world| {
                world.engine().wipe_volume(&pool(), &disk.parse().unwrap(), mode)
            });
            Some((Change::Wipe { name: disk.into() }, work))
        }
        14 if world.chance(3) => Some((Change::Job, Box::new(evacuate))),
        14 => {
            let task = match world.below(3) {
                0 => Task::Reclaim(None),
                1 => Task::Defragment(None),
                _ => Task::ReclaimZeroes(None),
            };
            Some((Change::Job, Box::new(move |world| job(world, &task))))
        }
        15 if there(disk) => Some((
            Change::Job,
            Box::new(move |world| {
                // It may be deleted meanwhile.
                let allocated = world.engine().allocate_volume(&pool(), &disk.parse().unwrap());
                allocated.map(drop).or_else(|error| match error {
                    BackendError::NoVolume { .. } => Ok(()),
                    other => Err(other),
                })
            }),
        )),
        _ => None,
    }
}

fn pick<'a>(world: &World, names: &[&'a str]) -> &'a str {
    names[usize::try_from(world.below(names.len() as u64)).unwrap()]
}

fn create(world: &World, name: &'static str, chunks: u64, now: u64) -> (Change, Work) {
    let birth = world.model.borrow_mut().fresh();
    let known = Known { chunks, birth, ..Known::default() };
    let work: Work = Box::new(move |world| make(world, name, chunks, now, None));
    (Change::Create { name: name.into(), known }, work)
}

fn clone(from: &str, to: &'static str, known: Known) -> (Change, Work) {
    let (backing, chunks) = (from.to_owned(), known.chunks);
    let change = Change::Cut { made: vec![(from.into(), to.into(), known)], done: Vec::new() };
    (change, Box::new(move |world| make(world, to, chunks, 0, Some(&backing))))
}

fn make(
    world: &World,
    name: &str,
    chunks: u64,
    now: u64,
    backing: Option<&str>,
) -> Result<(), BackendError> {
    let spec = VolumeSpec {
        name: name.parse().unwrap(),
        capacity: Bytes(chunks * CHUNK),
        allocation: Bytes(now * CHUNK),
        uuid: runtime::random_id(),
        backing: backing.map(|name| name.parse().unwrap()),
    };
    world.engine().create_volume(&pool(), &spec).map(drop)
}

fn delete(name: &str) -> (Change, Work) {
    let parsed = name.parse().unwrap();
    let work: Work = Box::new(move |world| world.engine().delete_volume(&pool(), &parsed));
    (Change::Delete { name: name.into() }, work)
}

/// Begins a job; sometimes waits a moment and cancels it.
fn job(world: &World, task: &Task) -> Result<(), BackendError> {
    let engine = world.engine();
    let id = match engine.start_job(&pool(), task) {
        Ok(id) => id,
        // One runs already.
        Err(BackendError::Refused(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    world.pause(Duration::from_secs(2));
    if world.chance(3) {
        // It may have ended.
        drop(engine.cancel_job(id));
    }
    Ok(())
}

/// Has one of the devices empty, in use again if it was evacuated before; sometimes gives up.
fn evacuate(world: &World) -> Result<(), BackendError> {
    let (engine, lvm) = (world.engine(), world.lvm());
    let works = |job: &JobInfo| job.state == JobState::Running;
    if !engine.jobs().iter().any(works) {
        (0..2)
            .for_each(|device| lvm.devices(|d| d.open(&format!("/dev/pv{device}"), true)).unwrap());
    }
    let device = usize::from(world.chance(2));
    let id = match engine.start_job(&pool(), &Task::Evacuate(format!("/dev/pv{device}").into())) {
        Ok(id) => id,
        // It has no room elsewhere, or another job runs.
        Err(BackendError::Refused(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let patience = if world.chance(4) { 1 } else { 200 };
    for _ in 0..patience {
        let job = engine.jobs().into_iter().find(|job| job.id == id);
        let Some(job) = job.filter(works) else { break };
        world.pause(Duration::from_secs(2));
        if world.is_over() {
            return Ok(());
        }
        tracing::debug!(moved = %job.moved, total = %job.total, "evacuates");
    }
    let ended = engine.jobs().into_iter().find(|job| job.id == id);
    let left = lvm.devices(|d| d.is_open(device) || d.on_device(device) == 0);
    match ended {
        Some(job) if job.state == JobState::Done && !left => {
            world.wrong(format!("'/dev/pv{device}' was evacuated and is not empty"));
        }
        Some(job) if works(&job) => drop(engine.cancel_job(id)),
        // Guests may have taken the room meanwhile.
        Some(JobInfo { state: JobState::Failed(why), .. })
            if !world.troubled.get() && !why.contains("have room for") =>
        {
            world.wrong(format!("'/dev/pv{device}' cannot be evacuated: {why}"));
        }
        _ => {}
    }
    Ok(())
}
