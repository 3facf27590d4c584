// SPDX-License-Identifier: LGPL-2.1-or-later
//! Starts a pool: finds or makes it in its volume group, compares it with what the kernel has, and
//! starts its threads.
//!
//! ```text
//!   the group has          and              then
//!   no LV of ours          no tag of ours   make the pool
//!   no LV of ours          our tag          refuse: something took it away
//!   its metadata LV "new"  -                a pool that was half made: make it again
//!   LVs of ours            -                open it
//!   an LV of our names     not our tag      refuse: it is not ours
//! ```
//!
//! The metadata is at least as new as the kernel's map, because a mapping is durable before the
//! kernel hears of it. So a device that lives on gets the mappings that it lacks; one that has
//! mappings which the metadata does not know is left alone with its chunks, and a person is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use virtnotify_model::{BackendError, Bytes, ChunkSize, EventBus, PoolSpec, VgName};

use super::collector::Collector;
use super::copies::Copies;
use super::core::{Core, VolumeId};
use super::data::DataLvs;
use super::gate::Gate;
use super::headroom;
use super::view::View;
use super::{
    Pool, Shared, collector, copies, evacuate, journal, lock, passdown, room, settle, threads,
};
use crate::device::{BlockDevice, Disks};
use crate::engine::EngineConfig;
use crate::grow::bell::{Doorbell, thread_id};
use crate::grow::{Grower, Notes, policy};
use crate::lvm::{Lvm, LvmError, VgReport};
use crate::meta::{Contents, MetaError, Settings, Store};
use crate::names::{self, META_LV, TAG, TAG_NEW};
use crate::runtime::{self, Condvar, Instant, Mutex};
use crate::target::{Device, MappedRun, Status, Target};

/// How many devices are made at once: most of the time of each goes to waiting for udev.
const AT_ONCE: usize = 4;

/// What a pool is made of.
pub(crate) struct Parts {
    pub(crate) config: EngineConfig,
    pub(crate) lvm: Arc<dyn Lvm>,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) disks: Arc<dyn Disks>,
    pub(crate) bus: EventBus,
}

/// Starts a pool.
pub(crate) fn start(parts: &Parts, spec: &PoolSpec) -> Result<Pool, BackendError> {
    let report = usable_group(parts, &spec.vg)?;
    let opened = match state_of(&report)? {
        GroupState::Empty | GroupState::HalfMade => make(parts, spec, &report)?,
        GroupState::Ours => open(parts, spec, &report)?,
    };
    let shared = Arc::new(opened);
    room::note(&shared, &report);
    if evacuate::is_moving(&report) {
        // LVM's own watcher may have been killed with the last daemon, or by a reboot.
        evacuate::resume(&shared);
    }
    leave_out_what_is_shown(&shared)?;
    let pool = begin(shared)?;
    match reconcile(&pool.shared) {
        Ok(()) => {
            pool.shared.gate.kick();
            Ok(pool)
        }
        Err(error) => {
            pool.halt();
            Err(error)
        }
    }
}

fn source(what: String) -> BackendError {
    BackendError::Source(what)
}

fn lvm_failed(vg: &VgName, step: &str, error: LvmError) -> BackendError {
    match error {
        LvmError::Failed { ref stderr, .. } if stderr.contains("not found") => {
            source(format!("the volume group '{vg}' does not exist: {stderr}"))
        }
        LvmError::Output { why, .. } => {
            source(format!("the volume group '{vg}' cannot be used: {why}"))
        }
        other => BackendError::failed(format!("cannot {step} the volume group '{vg}'"), other),
    }
}

/// The group, if it is one that a pool can be in.
pub(crate) fn usable_group(parts: &Parts, vg: &VgName) -> Result<VgReport, BackendError> {
    let report = parts.lvm.report(vg).map_err(|e| lvm_failed(vg, "look at", e))?;
    let why = match &report {
        r if r.exported => "is exported",
        r if r.partial => "lacks a device",
        r if r.shared => "is shared between hosts, which is not supported yet",
        _ => return Ok(report),
    };
    Err(source(format!("the volume group '{vg}' {why}")))
}

/// What a group holds of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupState {
    Empty,
    HalfMade,
    Ours,
}

pub(crate) fn state_of(report: &VgReport) -> Result<GroupState, BackendError> {
    let named =
        |lv: &&crate::lvm::LvReport| lv.name == META_LV || names::data_lv_index(&lv.name).is_some();
    let lvs: Vec<_> = report.lvs.iter().filter(named).collect();
    if let Some(foreign) = lvs.iter().find(|lv| !lv.has_tag(TAG)) {
        return Err(source(format!(
            "the volume group has a logical volume '{}' that is not virtnotify's (it lacks the \
             tag '{TAG}')",
            foreign.name
        )));
    }
    let tagged = report.tags.iter().any(|tag| tag == TAG);
    let meta = report.lv(META_LV);
    match meta {
        Some(meta) if meta.has_tag(TAG_NEW) => Ok(GroupState::HalfMade),
        Some(_) => Ok(GroupState::Ours),
        None if tagged => Err(source(format!(
            "the volume group held a pool, and its '{META_LV}' is gone; to give the pool up, \
             remove the tag with 'vgchange --deltag {TAG}'"
        ))),
        None if lvs.is_empty() => Ok(GroupState::Empty),
        None => Err(source(format!(
            "the volume group has '{}' of a pool, but not its '{META_LV}'",
            lvs[0].name
        ))),
    }
}

/// Makes a pool in a group. The metadata LV comes first and loses its tag "new" last: until then,
/// all of this can be repeated.
fn make(parts: &Parts, spec: &PoolSpec, report: &VgReport) -> Result<Shared, BackendError> {
    let vg = &spec.vg;
    let pool_tag = names::pool_tag(&spec.name);
    let failed = |e| lvm_failed(vg, "make a pool in", e);
    let first = first_size(parts, spec.chunk, report)?;
    let data = names::data_lv(0);
    for (lv, size) in [(META_LV, parts.config.metadata), (data.as_str(), first)] {
        match report.lv(lv) {
            None => {
                let tags = [TAG, &pool_tag, TAG_NEW];
                let tags = if lv == META_LV { &tags[..] } else { &tags[..2] };
                parts.lvm.create_lv(vg, lv, size, tags).map_err(failed)?;
            }
            Some(there) if !there.active => {
                parts.lvm.activate_lv(vg, lv, true).map_err(failed)?;
            }
            Some(_) => {}
        }
    }
    let report = usable_group(parts, vg)?;
    let id = |lv: &str| {
        let lv = report.lv(lv).map(|lv| lv.uuid.clone());
        lv.ok_or_else(|| source(format!("a logical volume of '{vg}' went away")))
    };
    let device = open_device(parts, vg, META_LV, true)?;
    let settings = Settings { chunk: spec.chunk };
    let made = Store::create(device.clone(), &id(META_LV)?, settings, &id(&data)?)
        .map_err(|e| BackendError::failed("cannot write the metadata of a new pool", e))?;
    parts.lvm.tag_vg(vg, &[TAG, &pool_tag], &[]).map_err(failed)?;
    parts.lvm.tag_lv(vg, META_LV, &[], &[TAG_NEW]).map_err(failed)?;
    tracing::info!(pool = %spec.name, %vg, chunk = %spec.chunk.bytes(), "made a pool");
    assemble(parts, spec, &report, device, made)
}

/// The size of a new data LV: a step, less in a small group.
fn first_size(parts: &Parts, chunk: ChunkSize, report: &VgReport) -> Result<Bytes, BackendError> {
    let has = |lv: &str| report.lv(lv).is_some();
    let meta = if has(META_LV) { Bytes::ZERO } else { parts.config.metadata };
    let meta = meta.round_up(report.extent).unwrap_or(meta);
    let room = report.free.saturating_sub(meta);
    let least = chunk.bytes().round_up(report.extent).unwrap_or(chunk.bytes());
    let short = report.free < meta || room < least;
    if short && !has(&names::data_lv(0)) {
        return Err(source(format!(
            "the volume group has {} free, and a pool with chunks of {} needs {} at least",
            report.free,
            chunk.bytes(),
            least.saturating_add(meta)
        )));
    }
    let size = Bytes((room.0 / 4).min(parts.config.step.0)).max(least);
    Ok(size.round_up(report.extent).unwrap_or(size))
}

/// Opens a pool that is there.
fn open(parts: &Parts, spec: &PoolSpec, report: &VgReport) -> Result<Shared, BackendError> {
    let vg = &spec.vg;
    let meta = activate(parts, vg, report, META_LV)?;
    let device = open_device(parts, vg, META_LV, true)?;
    let opened = Store::open(device.clone(), &meta).map_err(|e| damaged(spec, &e))?;
    for (&index, uuid) in &opened.1.data_lvs {
        let found = activate(parts, vg, report, &names::data_lv(index))?;
        if found != *uuid {
            return Err(BackendError::Damaged {
                pool: spec.name.to_string(),
                what: format!(
                    "'{vg}/{}' is another logical volume ({found}) than the one that the \
                     metadata names ({uuid})",
                    names::data_lv(index)
                ),
            });
        }
    }
    assemble(parts, spec, report, device, opened)
}

fn damaged(spec: &PoolSpec, error: &MetaError) -> BackendError {
    let (pool, vg) = (spec.name.to_string(), &spec.vg);
    if error.is_newer() {
        return source(format!("{error}: the version that made it can use it"));
    }
    let what = format!(
        "{error}. 'virt-notify check {vg}' says more, 'virt-notify restore {vg}' writes it again"
    );
    BackendError::Damaged { pool, what }
}

/// Activates a logical volume; returns its id.
fn activate(
    parts: &Parts,
    vg: &VgName,
    report: &VgReport,
    lv: &str,
) -> Result<String, BackendError> {
    let found = report.lv(lv).ok_or_else(|| {
        source(format!("the volume group '{vg}' lacks '{lv}', which its pool needs"))
    })?;
    if !found.active {
        parts
            .lvm
            .activate_lv(vg, lv, true)
            .map_err(|e| lvm_failed(vg, "activate a logical volume of", e))?;
    }
    Ok(found.uuid.clone())
}

fn open_device(
    parts: &Parts,
    vg: &VgName,
    lv: &str,
    alone: bool,
) -> Result<Arc<dyn BlockDevice>, BackendError> {
    let path = parts.config.device_path(vg, lv);
    parts
        .disks
        .open(&path, alone)
        .map_err(|e| BackendError::failed(format!("cannot open '{}'", path.display()), e))
}

fn assemble(
    parts: &Parts,
    spec: &PoolSpec,
    report: &VgReport,
    meta: Arc<dyn BlockDevice>,
    (store, contents): (Store, Contents),
) -> Result<Shared, BackendError> {
    let chunk = contents.settings.chunk;
    let mut data = BTreeMap::new();
    let mut sizes = BTreeMap::new();
    for &index in contents.data_lvs.keys() {
        let device = open_device(parts, &spec.vg, &names::data_lv(index), false)?;
        let size = device.size().map_err(|e| BackendError::failed("cannot size a data LV", e))?;
        sizes.insert(index, chunk.whole_chunks(Bytes(size)).0);
        data.insert(index, device);
    }
    let meta_uuid = report.lv(META_LV).map(|lv| lv.uuid.clone()).unwrap_or_default();
    let reader = store.reader();
    let mut core =
        Core::load(spec.name.clone(), store, contents, sizes).map_err(|e| damaged(spec, &e))?;
    core.last_generation = parts.config.last_generation;
    let size = meta.size().map_err(|e| BackendError::failed("cannot size the metadata LV", e))?;
    let view = View::new(&core, report.size, report.free, Bytes(size));
    let doorbell = Doorbell::new().map_err(|e| BackendError::failed("cannot make a bell", e))?;
    Ok(Shared {
        name: spec.name.clone(),
        vg: spec.vg.clone(),
        config: parts.config.clone(),
        chunk,
        lvm: parts.lvm.clone(),
        disks: parts.disks.clone(),
        target: parts.target.clone(),
        meta,
        meta_uuid,
        extent: report.extent,
        data: DataLvs::new(data),
        reader,
        admin: Mutex::default(),
        policy: Mutex::new(spec.policy),
        core: Mutex::new(core),
        damaged: AtomicBool::new(false),
        urgent: AtomicU32::new(0),
        settled: Condvar::new(),
        view: Mutex::new(view),
        doorbell,
        notes: Mutex::new(Notes::default()),
        gate: Gate::default(),
        copies: Copies::default(),
        collector: Collector::default(),
        resizing: Mutex::default(),
        claimed: AtomicU64::default(),
        resumed: Mutex::default(),
        vacating: Mutex::default(),
        thread: AtomicI32::new(0),
        beat: Mutex::new(Instant::now()),
        bus: parts.bus.clone(),
    })
}

/// Whether the grow thread listens, which others wait for.
#[derive(Default)]
struct Listens {
    told: Mutex<Option<std::io::Result<()>>>,
    changed: Condvar,
}

impl Listens {
    fn tell(&self, whether: std::io::Result<()>) {
        *lock(&self.told) = Some(whether);
        self.changed.notify_all();
    }

    fn wait(&self) -> std::io::Result<()> {
        let waited = self.changed.wait_while(lock(&self.told), |told| told.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Ok(()))
    }
}

/// Starts the threads.
fn begin(shared: Arc<Shared>) -> Result<Pool, BackendError> {
    let failed = |e: std::io::Error| BackendError::failed("cannot start a pool's threads", e);
    let mut pool = Pool { shared: shared.clone(), threads: Vec::new() };
    let listens = Arc::new(Listens::default());
    let tells = listens.clone();
    let grower = threads::spawn(&shared, "grow", move |shared| {
        shared.thread.store(thread_id(), Ordering::SeqCst);
        match Grower::new(shared.clone()) {
            Ok(grower) => {
                tells.tell(Ok(()));
                grower.run();
            }
            Err(error) => {
                shared.gate.stop();
                tells.tell(Err(error));
            }
        }
    });
    let mut begun = if grower.is_ok() { listens.wait() } else { Ok(()) };
    let work = [
        grower,
        threads::spawn(&shared, "headroom", |shared| headroom::run(&shared)),
        threads::spawn(&shared, "copy", |shared| copies::run(&shared)),
        threads::spawn(&shared, "collector", |shared| collector::run(&shared)),
        threads::spawn(&shared, "journal", |shared| journal::run(&shared)),
        threads::spawn(&shared, "backup", |shared| crate::repair::keeper::run(&shared)),
    ];
    for thread in work {
        match thread {
            Ok(thread) => pool.threads.push(thread),
            Err(error) => begun = Err(error),
        }
    }
    match begun {
        Ok(()) => Ok(pool),
        Err(error) => {
            pool.halt();
            Err(failed(error))
        }
    }
}

/// The devices of all pools' volumes.
fn all_devices(shared: &Shared) -> Result<Vec<Device>, BackendError> {
    let devices = shared.target.devices();
    devices.map_err(|e| BackendError::failed("cannot list the volumes' devices", e))
}

/// Those of the pool's volumes. One of another pool may have the same id: where a group was copied.
fn ours(shared: &Shared, mut devices: Vec<Device>) -> Vec<Device> {
    let prefix = names::dm_name_prefix(&shared.name);
    devices.retain(|device| device.name.starts_with(&prefix));
    devices
}

/// Before anything is zeroed or given away: what a device has that lives on is not free, whatever the
/// metadata says.
fn leave_out_what_is_shown(shared: &Shared) -> Result<(), BackendError> {
    for device in ours(shared, all_devices(shared)?).iter().filter(|device| device.live) {
        let dump = match shared.target.dump(&device.id) {
            Err(error) if error.is_gone() => continue,
            dump => dump.map_err(|e| {
                BackendError::failed(format!("cannot look at the device '{}'", device.name), e)
            })?,
        };
        let mut core = shared.core();
        let shown = dump.runs.iter().map(|live| core.free.leave_out(live.run.to)).sum::<u64>();
        drop(core);
        if shown > 0 {
            let name = &device.name;
            let what = format!(
                "the device '{name}' has chunks ({shown}) that the metadata takes for free"
            );
            shared.damage(what);
        }
    }
    Ok(())
}

/// Makes a device for every volume, each with at least the map that the metadata has.
fn reconcile(shared: &Shared) -> Result<(), BackendError> {
    // The headroom thread makes no device meanwhile that is being taken over.
    let _admin = lock(&shared.admin);
    let devices = all_devices(shared)?;
    let used: BTreeSet<_> = devices.iter().map(|device| device.id.clone()).collect();
    let ours = ours(shared, devices);
    let there: BTreeMap<_, _> = ours.iter().map(|d| (d.id.clone(), d.clone())).collect();
    let volumes: Vec<_> = {
        let core = shared.core();
        core.volumes().map(|(id, v)| (id, v.device.clone(), v.row().name.clone())).collect()
    };
    let known: BTreeSet<_> = volumes.iter().map(|(_, device, _)| device.clone()).collect();
    for stray in ours.iter().filter(|d| !known.contains(&d.id)) {
        remove_stray(shared, stray);
    }
    // First the volumes that a VM may wait for.
    let (living, others): (Vec<_>, Vec<_>) =
        volumes.into_iter().partition(|(_, device, _)| there.get(device).is_some_and(|d| d.live));
    // One of a pool that had another name has chunks of the old generations, and may come back.
    if known.is_disjoint(&used) {
        count_generations_anew(shared);
    }
    let told = |name, done: Result<(), BackendError>| {
        if let Err(error) = done {
            shared.damage(format!("the volume '{name}' has no device: {error}"));
        }
    };
    for (id, device, name) in living {
        let Some(found) = there.get(&device) else { continue };
        let adopted = adopt(shared, id, found);
        if adopted.is_err()
            && let Some(volume) = shared.core().volume_mut(id)
        {
            volume.not_taken_over = volume.minor.is_none();
        }
        told(name, adopted);
    }
    let others = Mutex::new(others.into_iter());
    runtime::in_parallel(AT_ONCE, || {
        loop {
            let Some((id, device, name)) = lock(&others).next() else { break };
            // Half made: no program can have used it.
            let removed = match there.get(&device) {
                Some(_) => shared.target.remove(&device),
                None => Ok(()),
            };
            let removed =
                removed.map_err(|e| BackendError::failed("cannot remove a half-made device", e));
            told(name, removed.and_then(|()| shared.attach(id)));
        }
    });
    remove_stale_links(shared);
    shared.core().begin_collecting();
    // The headroom thread goes on with it.
    shared.gate.kick();
    Ok(())
}

/// Gives all layers low generations if they have become high. No volume may have a device, whatever its name.
fn count_generations_anew(shared: &Shared) {
    match shared.core().count_generations_anew() {
        Ok(false) => {}
        Ok(true) => tracing::info!(pool = %shared.name, "counted the generations anew"),
        // There are as many as before; the next start tries again.
        Err(error) => shared.damage(format!("the generations cannot be counted anew: {error}")),
    }
}

/// A device whose volume the metadata does not have: left by a daemon that was killed while it
/// made or deleted it.
fn remove_stray(shared: &Shared, stray: &Device) {
    let empty = !stray.live || shared.target.dump(&stray.id).is_ok_and(|dump| dump.runs.is_empty());
    if stray.openers > 0 || !empty {
        let what =
            format!("the metadata does not know the device '{}', which is in use", stray.name);
        return shared.damage(what);
    }
    if let Err(error) = shared.target.remove(&stray.id) {
        tracing::warn!(pool = %shared.name, device = stray.name, %error, "a stray device stays");
    }
}

/// Takes over a device that lives on from an earlier daemon.
fn adopt(shared: &Shared, id: VolumeId, device: &Device) -> Result<(), BackendError> {
    let failed =
        |e| BackendError::failed(format!("cannot take over the device '{}'", device.name), e);
    let _written = shared.data.write_table();
    // A daemon was killed while it resized, or could not resume it.
    settle::fit(shared, id, device).map_err(failed)?;
    // Or while it made this device.
    let mut status = shared.target.status(&device.id).map_err(failed)?;
    if shared.begin_generation(id, &device.id, status.generation).map_err(failed)? {
        status = shared.target.status(&device.id).map_err(failed)?;
    }
    let dump = shared.target.dump(&device.id).map_err(failed)?;
    let live = dump.runs;
    let (untaken, missing, name) = {
        let core = shared.core();
        let Some(volume) = core.volume(id) else { return Ok(()) };
        let damaged = |what| BackendError::Damaged { pool: shared.name.to_string(), what };
        let untaken = core.untaken(id, &live, &status).map_err(damaged)?;
        if let Some(what) = exposed(&core, id, &live, &status) {
            return Err(damaged(what));
        }
        (untaken, core.durable_rest(id, &live)?, volume.row().name.clone())
    };
    // A daemon was killed before it said that a copy is there.
    if !untaken.is_empty() {
        shared.target.remap(&device.id, untaken.part(Vec::as_slice)).map_err(failed)?;
    }
    shared.target.map(&device.id, missing.part(Vec::as_slice)).map_err(failed)?;
    // What the metadata still has of what is leaving was mapped just now; the rest is forgotten.
    let left = shared.target.dump(&device.id).map_err(failed)?.leaving;
    settle::bring_back(shared, id, &device.id, &left).map_err(failed)?;
    // A daemon was killed while it looked whether these hold anything.
    let odd = live.iter().filter(|run| run.state.protected);
    let odd: Vec<_> = odd.map(|odd| (odd.run.at, odd.run.to.length)).collect();
    shared.target.protect(&device.id, &odd, false).map_err(failed)?;
    remember(shared, id, &live);
    {
        let mut core = shared.core();
        let shares_too_much = status.mark > core.mark(id);
        if let Some(volume) = core.volume_mut(id) {
            volume.out_of_space = status.nospace;
            volume.unsettled = shares_too_much;
        }
    }
    shared.register(&device.id).map_err(failed)?;
    shared.publish_device(id, &name, device.minor)
}

/// What the kernel knows of a volume and the metadata does not: what was discarded, and what was
/// given ahead and is not written.
fn remember(shared: &Shared, id: VolumeId, live: &[MappedRun]) {
    let mut core = shared.core();
    let most = policy::longest(core.chunk());
    for MappedRun { run, state, .. } in live {
        let known = core.own_run(id, run.at);
        let Some(volume) = core.volume_mut(id) else { return };
        if state.discarded {
            volume.discarded.insert(run.at, run.to.length);
        }
        if state.watched {
            let known = known.unwrap_or(*run);
            let end = known.end().min(run.at.saturating_add(most));
            // The bell is in the middle of what was given with it.
            let first = known.at;
            let from = first.max(run.at.saturating_sub(end - run.at));
            volume.ahead.insert(from, end - from);
            volume.bells.extend(run.at..run.end());
        }
    }
}

/// A run of the kernel that would be written although a snapshot has it as well.
fn exposed(core: &Core, id: VolumeId, live: &[MappedRun], status: &Status) -> Option<String> {
    if !core.shares(id) || !core.is_written(id) {
        return None;
    }
    let written = |live: &&MappedRun| live.generation.unwrap_or(status.generation) >= status.mark;
    let of_others = |live: &MappedRun| core.shared_runs(id, live.run.at..live.run.end()).next();
    let odd = live.iter().filter(written).find_map(of_others)?;
    Some(format!("the kernel would write to chunk {}, which a snapshot has as well", odd.at))
}

/// Removes links of volumes that there are not.
fn remove_stale_links(shared: &Shared) {
    let names: BTreeSet<String> =
        shared.view().volumes().iter().map(|v| v.name.to_string()).collect();
    let Ok(entries) = std::fs::read_dir(names::pool_dir(&shared.config.dev_dir, &shared.name))
    else {
        return;
    };
    for entry in entries.flatten() {
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if link && !names.contains(&*entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes the devices of a pool's volumes; none when one of them is in use.
pub(crate) fn detach_all(shared: &Shared) -> Result<(), BackendError> {
    let mut admin = lock(&shared.admin);
    let volumes: Vec<_> = {
        let core = shared.core();
        core.volumes().map(|(id, v)| (id, v.device.clone(), v.row().name.clone())).collect()
    };
    for (_, device, name) in &volumes {
        if shared.target.device(device).is_ok_and(|device| device.openers > 0) {
            return Err(BackendError::VolumeInUse(name.to_string()));
        }
    }
    for (id, _, name) in &volumes {
        shared.core().check_idle(*id)?;
        shared.check_taken_over(*id, name)?;
    }
    let mut gone = Vec::new();
    for (id, ..) in volumes {
        if let Err(error) = shared.detach(id) {
            for id in gone {
                // One that stays closed gets its device when the metadata is opened again.
                if let Err(undo) = shared.attach(id) {
                    shared.damage(format!("a volume has lost its device: {undo}"));
                } else if let Some(volume) = shared.core().volume_mut(id) {
                    volume.closing = false;
                }
            }
            return Err(error);
        }
        gone.push(id);
    }
    admin.closed = true;
    // Fails when something else is in it, which stays then.
    let _ = std::fs::remove_dir(names::pool_dir(&shared.config.dev_dir, &shared.name));
    Ok(())
}

/// Deactivates the logical volumes of a pool that was stopped.
pub(crate) fn deactivate(shared: Arc<Shared>) {
    let (lvm, vg, name) = (shared.lvm.clone(), shared.vg.clone(), shared.name.clone());
    let lvs: Vec<_> = shared.data.numbers().into_iter().map(names::data_lv).collect();
    // Closes the devices, unless a caller still asks something; then the LVs stay active.
    drop(shared);
    for lv in lvs.iter().map(String::as_str).chain([META_LV]) {
        if let Err(error) = lvm.activate_lv(&vg, lv, false) {
            tracing::warn!(pool = %name, %error, "a logical volume stays active");
        }
    }
}

/// Refuses a pool that has volumes.
pub(crate) fn check_empty(
    parts: &Parts,
    spec: &PoolSpec,
    report: &VgReport,
) -> Result<(), BackendError> {
    let meta = activate(parts, &spec.vg, report, META_LV)?;
    let device = open_device(parts, &spec.vg, META_LV, true)?;
    let (_store, contents) = Store::open(device, &meta).map_err(|e| damaged(spec, &e))?;
    match contents.volumes.len() {
        0 => Ok(()),
        n => Err(BackendError::Refused(format!(
            "the pool '{}' still has volumes ({n}): delete them first",
            spec.name
        ))),
    }
}

/// Removes what a pool has in its group, the metadata last, then the group, and the labels of the
/// physical volumes that the pool was built on.
pub(crate) fn remove(
    parts: &Parts,
    spec: &PoolSpec,
    report: &VgReport,
) -> Result<(), BackendError> {
    let vg = &spec.vg;
    let failed = |e| lvm_failed(vg, "remove a pool from", e);
    let ours = |name: &str| name == META_LV || names::data_lv_index(name).is_some();
    if report.lvs.iter().any(|lv| !ours(&lv.name)) {
        let what = format!("the volume group '{vg}' holds logical volumes of others");
        return Err(BackendError::Refused(what));
    }
    if evacuate::is_moving(report) {
        parts.lvm.resume_moves(vg).map_err(failed)?;
        let what = format!("'pvmove' moves logical volumes of '{vg}': try again when it is done");
        return Err(BackendError::Refused(what));
    }
    // From here on the pool counts as half made, so what is left of it can be removed again.
    if report.lv(META_LV).is_some() {
        parts.lvm.tag_lv(vg, META_LV, &[TAG_NEW], &[]).map_err(failed)?;
    }
    for lv in report.lvs.iter().filter(|lv| lv.name != META_LV) {
        if spec.policy.passdown {
            discard_all(parts, vg, &lv.name);
        }
        parts.lvm.remove_lv(vg, &lv.name).map_err(failed)?;
    }
    let tags: Vec<&str> = report.tags.iter().map(String::as_str).collect();
    let tags: Vec<&str> =
        tags.into_iter().filter(|tag| *tag == TAG || names::is_pool_tag(tag)).collect();
    if !tags.is_empty() {
        parts.lvm.tag_vg(vg, &[], &tags).map_err(failed)?;
    }
    if report.lv(META_LV).is_some() {
        parts.lvm.remove_lv(vg, META_LV).map_err(failed)?;
    }
    parts.lvm.remove_vg(vg).map_err(failed)?;
    for device in &spec.devices {
        // As libvirt does: the group is gone, whatever becomes of the labels.
        if let Err(error) = parts.lvm.remove_pv(device) {
            tracing::warn!(pool = %spec.name, %error, "a device keeps its physical volume's label");
        }
    }
    Ok(())
}

/// Discards all of a data LV that is about to be removed. A failure does not keep it from being removed.
fn discard_all(parts: &Parts, vg: &VgName, lv: &str) {
    let discarded =
        parts.lvm.activate_lv(vg, lv, true).map_err(std::io::Error::other).and_then(|()| {
            let device = parts.disks.open(&parts.config.device_path(vg, lv), true)?;
            passdown::discard(&*device, 0..device.size()?, |_| true);
            Ok(())
        });
    if let Err(error) = discarded {
        tracing::warn!(%vg, lv, %error, "a logical volume is removed without being discarded");
    }
}
