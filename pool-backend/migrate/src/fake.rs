// SPDX-License-Identifier: LGPL-2.1-or-later
//! Two hosts in memory, for tests: libvirt on both sides, and this host's volumes.
//!
//! It watches the rule that matters itself: code that deletes the only copy, or lets a VM run
//! twice, is written down in [`World::wrongs`]. A test can stop the "process" at its n-th call:
//! that call never returns, as a killed process' call never does, while the world goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use std::{panic, thread};

use tokio::sync::watch;
use uuid::Uuid;
use virtnotify_model::{
    Bytes, ChunkSize, Policy, PoolInfo, PoolName, PoolState, Pools, StorageError, VolumeInfo,
    VolumeKind, VolumeName, VolumeState, VolumeStats, not_active,
};

use crate::domain::{Disk, DiskSource, Domain, Image, RunState};
use crate::hypervisor::{
    Copying, Holds, HostRoom, HvError, Hypervisor, Job, Order, Peer, Place, PoolRoom, Progress,
    RemoteVolume,
};
use crate::surroundings::Surroundings;
use crate::wishes::{Origin, Wishes};

/// A VM that was paused by "no space" on `disk<n - 1>` of the pool `vms`.
pub(crate) fn domain(name: &str, n: u128) -> Domain {
    let source = DiskSource::Volume { pool: "vms".into(), volume: format!("disk{}", n - 1) };
    let disk = Disk::new("vda", source);
    Domain {
        name: name.into(),
        uuid: Uuid::from_u128(n),
        state: RunState::IoError,
        ended: false,
        forgotten: false,
        persistent: true,
        autostart: false,
        disks: vec![disk],
        no_space: BTreeSet::from(["vda".into()]),
        memory: Bytes::mib(128),
        surroundings: Surroundings::default(),
        wishes: Wishes::default(),
    }
}

/// How libvirt's migration goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    #[default]
    Works,
    /// The copy fails half way.
    Fails,
    /// The copy fails half way, and the peer answers with errors from then on.
    FailsThenRefuses,
    /// The source's libvirt does not come to its last step: both sides know the VM.
    KeepsDefinition,
    /// The VM arrives, and the reply that says so is lost: libvirt lets it run on here.
    LosesReply,
    /// The same, and the peer is still at the arrival when libvirt lets it run on here.
    LosesReplyEarly,
    /// The same, and libvirt was started anew at that moment: it leaves it paused here.
    LosesReplyAndLeavesIt,
}

/// The other host.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub domains: BTreeMap<Uuid, Domain>,
    pub volumes: BTreeMap<String, RemoteVolume>,
    pub available: u64,
    pub unreachable: bool,
    /// It answers every question with an error of its own.
    pub refuses: bool,
    /// It does not say which VMs it has; of each alone it does.
    pub hides: bool,
    /// It answers nothing until this ends.
    pub silent: bool,
    /// It takes no VMs.
    pub drained: bool,
    /// Its pool is of another type.
    pub other_pool: bool,
    /// The chunk size of its pool.
    pub chunk: Option<ChunkSize>,
    /// Why it makes no machine like the VM's.
    pub without_machine: Option<String>,
    /// It cannot make the VM's CPU.
    pub without_cpu: bool,
    /// What it lacks of what a disk is read from.
    pub without_image: Option<Image>,
    /// Its libvirt knows neither of zeroes nor of writes to both hosts.
    pub old: bool,
    /// Its memory that is not used; none: it does not say.
    pub memory: Option<Bytes>,
    /// Networks that it has and that are started.
    pub networks: BTreeSet<String>,
    /// Secrets that it has.
    pub secrets: BTreeSet<Uuid>,
    /// Another host's reservation that appears when ours does.
    pub rival: Option<String>,
    /// A VM that is arriving, and after how many questions it has.
    pub late: Option<(Uuid, u32)>,
    /// VMs whose copy here is older than another: they ran elsewhere since.
    pub stale: BTreeSet<Uuid>,
    /// Volumes with which a VM ran here.
    pub written: BTreeSet<String>,
}

/// Everything there is.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// The process that serves the volumes does not run.
    pub stands_still: bool,
    /// No question about a volume is answered.
    pub unanswered: bool,
    /// The same once a VM has arrived there.
    pub unanswered_late: bool,
    pub domains: BTreeMap<Uuid, Domain>,
    pub volumes: BTreeMap<String, VolumeInfo>,
    pub available: u64,
    pub peers: BTreeMap<String, Side>,
    pub policy: Policy,
    pub fate: Fate,
    /// Which moves fail half way, by VM and peer, beside what `fate` says.
    pub fails: Option<fn(Uuid, &str) -> bool>,
    /// A migration goes on until this is false.
    pub endless: bool,
    /// The same for one VM alone.
    pub slow: Option<Uuid>,
    /// Whether its guest writes as fast as is copied, and how often it has.
    pub rewrites: bool,
    rewritten: u64,
    /// Whether the peer's end closes before libvirt says that a migration was cancelled.
    pub closes_first: bool,
    /// Whether the migration was cancelled, with our means or libvirt's own.
    pub aborted: bool,
    /// For how many questions after that it is seen to be undone.
    pub undoing: u32,
    /// A disk that is plugged in while the move is prepared.
    pub plugged_in: Option<Disk>,
    /// A person removes the VM's definition while the move is prepared.
    pub undefined: bool,
    /// One that is plugged in between our last look and libvirt's first.
    pub plugged_in_late: Option<Disk>,
    /// What libvirt has of each VM beside its XML.
    pub holds: Holds,
    /// This host has no certificate for moves.
    pub without_certificate: bool,
    /// Whether libvirt makes a backup of each VM.
    pub backed_up: bool,
    pub resume_fails: u32,
    /// A person starts the VM here once it runs there.
    pub starts_here: bool,
    /// Its guest shuts down as soon as libvirt lets it run on here.
    pub shuts_down: bool,
    /// A migration that libvirt works on: the VM, the peer, and looks until it ends.
    job: Option<(Uuid, String, u32)>,
    /// Calls made, and at which one the process dies: before its effect, or after.
    pub calls: usize,
    /// Which process is alive: threads of an earlier one do nothing any more.
    pub process: u64,
    pub die_at: Option<(usize, bool)>,
    /// Which call's answer does not come, before its effect or after.
    pub lose_at: Option<(usize, bool)>,
    /// How many processes have ended, and where their threads wait for that.
    ended: u64,
    ends: Arc<Condvar>,
    pub wrongs: Vec<String>,
    keys: u64,
}

impl World {
    /// This host loses its power, and its libvirt starts what is to start with it. The peer's ends
    /// what was arriving.
    pub(crate) fn reboot(&mut self) {
        self.process += 1;
        self.break_off();
        for domain in self.domains.values_mut() {
            domain.no_space.clear();
            domain.state = if domain.autostart { RunState::Running } else { RunState::Off };
        }
        self.check_running();
    }

    /// libvirt ends a migration that no process of ours waits for any more.
    pub(crate) fn ends_by_itself(&mut self, uuid: Uuid, peer: &str) {
        let _ = self.finish(uuid, peer);
    }

    /// Nothing is left of that process that would take note of it when its threads end.
    pub(crate) fn end(&mut self, process: u64) {
        self.ended = self.ended.max(process + 1);
        self.ends.notify_all();
    }

    /// libvirt gives up what it is at, and nobody is told.
    pub(crate) fn break_off(&mut self) {
        if let Some((uuid, peer, _)) = self.job.take() {
            self.peers.get_mut(&peer).map(|side| side.domains.remove(&uuid));
        }
    }

    /// libvirt has been asked to move that VM, and is over with it after so many looks.
    pub(crate) fn migrates(&mut self, uuid: Uuid, peer: &str, looks: u32) {
        self.job = Some((uuid, peer.to_owned(), looks));
    }

    pub(crate) fn is_migrating(&self) -> bool {
        self.job.is_some()
    }

    fn active(side: &BTreeMap<Uuid, Domain>, volume: &str) -> bool {
        side.values().any(|d| d.state != RunState::Off && has(d, volume))
    }

    /// A domain on this side that runs, or could go on running, with this volume.
    fn check_delete(&mut self, volume: &str, from: Option<&str>) {
        if volume.starts_with("move-") {
            return;
        }
        let here = Self::active(&self.domains, volume);
        let defined_here = self.domains.values().any(|domain| has(domain, volume));
        let peers = self.peers.iter();
        let there: Vec<&str> = peers
            .filter(|(_, s)| Self::active(&s.domains, volume))
            .map(|(n, _)| n.as_str())
            .collect();
        let wrong = match from {
            None => here || there.is_empty(),
            // One that was shut down here has its disk here.
            Some(peer) => {
                let newest = self.peers.get(peer).is_some_and(|side| side.written.contains(volume));
                newest || there.contains(&peer) || (!defined_here && there.is_empty())
            }
        };
        if wrong {
            self.wrongs.push(format!("the copy of {volume} at {from:?} was needed"));
        }
    }

    /// A VM begins to run: what it has on other hosts is old from then on.
    fn runs_at(&mut self, uuid: Uuid, peer: Option<&str>) {
        for (name, side) in &mut self.peers {
            if Some(name.as_str()) == peer {
                let disks = side.domains.get(&uuid).map(|d| d.disks.clone()).unwrap_or_default();
                side.written.extend(disks.iter().filter_map(name_of));
                if side.stale.contains(&uuid) {
                    self.wrongs.push(format!("{name} resumed an old copy"));
                }
            } else if side.domains.contains_key(&uuid) {
                side.stale.insert(uuid);
            }
        }
    }

    fn check_running(&mut self) {
        let mut running: Vec<Uuid> = Vec::new();
        let all = self.domains.values().chain(self.peers.values().flat_map(|s| s.domains.values()));
        for domain in all.filter(|d| d.state == RunState::Running) {
            if running.contains(&domain.uuid) {
                self.wrongs.push(format!("{} runs twice", domain.name));
            }
            running.push(domain.uuid);
        }
    }

    fn finish(&mut self, uuid: Uuid, peer: &str) -> Result<(), HvError> {
        self.job = None;
        let failed = || HvError::refused("cannot migrate", "the copy failed");
        let side = self.peers.get_mut(peer).ok_or_else(failed)?;
        let fails = self.fails.is_some_and(|fails| fails(uuid, peer));
        if fails || matches!(self.fate, Fate::Fails | Fate::FailsThenRefuses) {
            side.domains.remove(&uuid);
            side.refuses = self.fate == Fate::FailsThenRefuses;
            return Err(failed());
        }
        let Some(domain) = self.domains.remove(&uuid) else { return Err(failed()) };
        for name in domain.disks.iter().filter_map(name_of) {
            let Some(source) = self.volumes.get_mut(&name) else { continue };
            source.openers = 0;
            if let Some(copy) = side.volumes.get_mut(&name) {
                copy.allocation = source.allocation;
            }
        }
        let mut arrived = domain.clone();
        arrived.state = RunState::Paused;
        arrived.no_space.clear();
        // libvirt takes it along no more than that.
        arrived.autostart = false;
        arrived.disks.extend(self.plugged_in_late.take());
        self.unanswered |= std::mem::take(&mut self.unanswered_late);
        side.domains.insert(uuid, arrived);
        side.stale.remove(&uuid);
        if matches!(
            self.fate,
            Fate::LosesReply | Fate::LosesReplyEarly | Fate::LosesReplyAndLeavesIt
        ) {
            return Err(self.restart_here(domain, peer));
        }
        if self.fate == Fate::KeepsDefinition {
            self.domains.insert(uuid, Domain { state: RunState::Off, ..domain.clone() });
        }
        Ok(())
    }

    /// libvirt here does not know that the VM arrived.
    fn restart_here(&mut self, mut domain: Domain, peer: &str) -> HvError {
        let uuid = domain.uuid;
        for name in domain.disks.iter().filter_map(name_of) {
            self.volumes.entry(name).and_modify(|volume| volume.openers = 1);
        }
        let ran = domain.state == RunState::Running;
        if ran && self.fate == Fate::LosesReplyAndLeavesIt {
            domain.state = RunState::Arriving;
        }
        self.domains.insert(uuid, domain);
        if self.fate == Fate::LosesReplyEarly
            && let Some(side) = self.peers.get_mut(peer)
        {
            side.domains.entry(uuid).and_modify(|d| d.state = RunState::Arriving);
            side.late = Some((uuid, 3));
        }
        if ran && self.fate != Fate::LosesReplyAndLeavesIt {
            self.runs_at(uuid, None);
        }
        if self.shuts_down
            && let Some(domain) = self.domains.get_mut(&uuid)
        {
            (domain.state, domain.ended) = (RunState::Off, true);
        }
        HvError::refused("libvirt could not migrate it", "End of file while reading data")
    }
}

fn progress(done: u64, total: u64, disks_left: Option<u64>) -> Progress {
    Progress { done: Bytes(done), total: Bytes(total), disks_left: disks_left.map(Bytes) }
}

impl Side {
    fn copying(&self) -> Copying {
        Copying { whole: self.old, synchronous: !self.old }
    }

    /// What is late comes a little nearer.
    fn asked(&mut self) {
        let Some((uuid, left)) = self.late.take() else { return };
        if left > 0 {
            self.late = Some((uuid, left - 1));
        } else if let Some(domain) = self.domains.get_mut(&uuid) {
            domain.state = RunState::Paused;
        }
    }
}

fn name_of(disk: &Disk) -> Option<String> {
    match &disk.source {
        DiskSource::Volume { volume, .. } => Some(volume.clone()),
        _ => None,
    }
}

fn has(domain: &Domain, volume: &str) -> bool {
    domain.disks.iter().filter_map(name_of).any(|name| name == volume)
}

/// This host's volumes.
#[derive(Clone)]
pub(crate) struct FakePools {
    pub pool: PoolName,
    pub world: Arc<Mutex<World>>,
    pub process: u64,
}

impl FakePools {
    pub(crate) fn new(pool: &str, available_mib: u64) -> Self {
        let world = World { available: available_mib << 20, ..World::default() };
        Self { pool: pool.parse().unwrap(), world: Arc::new(Mutex::new(world)), process: 0 }
    }

    pub(crate) fn add(&self, name: &str, capacity: u64, allocation: u64) {
        let mut world = self.world.lock().unwrap();
        let info = VolumeInfo {
            pool: self.pool.clone(),
            name: name.parse().unwrap(),
            uuid: Uuid::from_u128(100 + world.volumes.len() as u128),
            kind: VolumeKind::Volume,
            created: SystemTime::UNIX_EPOCH,
            backing: None,
            capacity: Bytes::mib(capacity),
            allocation: Bytes::mib(allocation),
            exclusive: Bytes::mib(allocation),
            path: format!("/dev/notify/{}/{name}", self.pool).into(),
            state: VolumeState::Growing,
            openers: 0,
        };
        world.volumes.insert(name.into(), info);
    }

    fn call(&self) -> MutexGuard<'_, World> {
        enter(&self.world, self.process)
    }

    fn is_mine(&self, pool: &PoolName) -> Result<(), StorageError> {
        if *pool == self.pool { Ok(()) } else { Err(not_active(pool)) }
    }
}

fn numbers(world: &World) -> PoolInfo {
    let available = Bytes(world.available);
    PoolInfo {
        capacity: Bytes::mib(1024),
        allocation: Bytes::mib(1024).saturating_sub(available),
        available,
        headroom: Bytes::ZERO,
        obtainable: Bytes::mib(1024),
        promised: world.volumes.values().map(|volume| volume.capacity).sum(),
        chunk: ChunkSize::default(),
    }
}

/// Counts a call, and dies before its effect when its time has come.
fn enter(world: &Mutex<World>, process: u64) -> MutexGuard<'_, World> {
    let mut guard = world.lock().unwrap();
    if guard.process != process {
        die(guard, process);
    }
    guard.calls += 1;
    match guard.die_at {
        Some((at, false)) if guard.calls >= at => die(guard, process),
        Some((at, true)) if guard.calls > at => die(guard, process),
        _ => guard,
    }
}

/// The call of a process that is dead. Its thread ends when the process has, and then without a word.
fn die(guard: MutexGuard<'_, World>, process: u64) -> ! {
    let ends = guard.ends.clone();
    drop(ends.wait_while(guard, |world| world.ended <= process).unwrap());
    panic::resume_unwind(Box::new("the process is dead"))
}

impl Pools for FakePools {
    fn runs(&self) -> bool {
        !self.world.lock().unwrap().stands_still
    }

    fn pools(&self) -> Vec<PoolState> {
        let (name, uuid, vg) = (self.pool.clone(), Uuid::nil(), "vg0".parse().unwrap());
        let world = self.world.lock().unwrap();
        let (info, policy) = (Some(numbers(&world)), Some(world.policy));
        vec![PoolState { name, uuid, vg, info, policy, damaged: false }]
    }

    fn pool_info(&self, pool: &PoolName) -> Result<PoolInfo, StorageError> {
        self.is_mine(pool)?;
        Ok(numbers(&self.call()))
    }

    fn policy(&self, pool: &PoolName) -> Result<Policy, StorageError> {
        self.is_mine(pool)?;
        Ok(self.world.lock().unwrap().policy)
    }

    fn volumes(&self, _: &PoolName) -> Result<Vec<VolumeInfo>, StorageError> {
        Ok(self.call().volumes.values().cloned().collect())
    }

    fn volume(&self, pool: &PoolName, volume: &VolumeName) -> Result<VolumeInfo, StorageError> {
        self.is_mine(pool)?;
        let world = self.call();
        if world.unanswered {
            return Err(StorageError::Unreachable("virtnotifyd does not answer".into()));
        }
        let found = world.volumes.get(volume.as_str()).cloned();
        found.ok_or_else(|| StorageError::NoVolume(volume.to_string()))
    }

    fn volume_stats(&self, _: &PoolName, _: &VolumeName) -> Result<VolumeStats, StorageError> {
        Ok(VolumeStats::default())
    }

    fn delete_volume(
        &self,
        pool: &PoolName,
        volume: &VolumeName,
        uuid: &Uuid,
    ) -> Result<(), StorageError> {
        let found = self.volume(pool, volume)?;
        if found.uuid != *uuid {
            return Err(StorageError::NoVolume("it is another one".into()));
        }
        if found.openers > 0 {
            return Err(StorageError::InUse(volume.to_string()));
        }
        let mut world = self.call();
        world.check_delete(volume.as_str(), None);
        if let Some(gone) = world.volumes.remove(volume.as_str()) {
            world.available += gone.allocation.0;
        }
        Ok(())
    }
}

/// libvirt on both hosts.
pub(crate) struct FakeHypervisor {
    pub world: Arc<Mutex<World>>,
    pub process: u64,
    pub changes: watch::Sender<u64>,
}

impl FakeHypervisor {
    /// One call: fails to reach an unreachable peer, has its effect, may die after it.
    fn call<T>(
        &self,
        place: Place<'_>,
        effect: impl FnOnce(&mut World) -> Result<T, HvError>,
    ) -> Result<T, HvError> {
        let mut world = enter(&self.world, self.process);
        if let Place::At(peer) = place {
            while side(&mut world, peer).silent {
                drop(world);
                thread::sleep(Duration::from_millis(5));
                world = enter(&self.world, self.process);
            }
            let gone = world.peers.get(&peer.name).is_none_or(|side| side.unreachable);
            if gone {
                let reason = "no route to host".into();
                return Err(HvError::Unreachable { place: peer.name.clone(), reason });
            }
            if side(&mut world, peer).refuses {
                return Err(HvError::refused("cannot look for the VM", "internal error"));
            }
        }
        let lost = HvError::Unreachable { place: place.to_string(), reason: "it is lost".into() };
        let calls = world.calls;
        let now = |after| world.lose_at == Some((calls, after));
        let (before, after) = (now(false), now(true));
        if before {
            return Err(lost);
        }
        if let Place::At(peer) = place {
            side(&mut world, peer).asked();
        }
        let result = effect(&mut world);
        world.check_running();
        let result = if after { Err(lost) } else { result };
        let last = matches!(world.die_at, Some((at, true)) if world.calls >= at);
        if last { die(world, self.process) } else { result }
    }
}

fn side<'a>(world: &'a mut World, peer: &Peer) -> &'a mut Side {
    world.peers.get_mut(&peer.name).unwrap()
}

fn side_of<'a>(world: &'a mut World, peer: &str) -> &'a mut Side {
    world.peers.get_mut(peer).unwrap()
}

fn domains_at<'a>(world: &'a mut World, place: Place<'_>) -> &'a mut BTreeMap<Uuid, Domain> {
    match place {
        Place::Here => &mut world.domains,
        Place::At(peer) => &mut side(world, peer).domains,
    }
}

impl Hypervisor for FakeHypervisor {
    fn host(&self, place: Place<'_>) -> Result<String, HvError> {
        self.call(place, |_| match place {
            Place::Here => Ok("host1".into()),
            Place::At(peer) => Ok(peer.name.clone()),
        })
    }

    fn host_room(&self, peer: &Peer, domain: &Domain) -> Result<HostRoom, HvError> {
        let wanted = domain.surroundings.clone();
        self.call(Place::At(peer), move |world| {
            let side = side(world, peer);
            let network = wanted.networks.difference(&side.networks).next().cloned();
            let secret = wanted.secrets.difference(&side.secrets).next().copied();
            Ok(HostRoom {
                memory: side.memory,
                without_network: network,
                without_secret: secret,
                without_machine: side.without_machine.clone(),
                without_cpu: side.without_cpu,
                without_image: side.without_image.clone(),
            })
        })
    }

    fn holds(&self, _: &Domain) -> Result<Holds, HvError> {
        self.call(Place::Here, |world| Ok(world.holds.clone()))
    }

    fn lacks_certificate(&self) -> Option<PathBuf> {
        self.world
            .lock()
            .unwrap()
            .without_certificate
            .then(|| "/etc/pki/qemu/client-key.pem".into())
    }

    fn copying(&self, peer: &Peer) -> Result<Copying, HvError> {
        self.call(Place::At(peer), |world| Ok(side(world, peer).copying()))
    }

    fn volume_names(&self, peer: &Peer, _: &PoolName) -> Result<Vec<String>, HvError> {
        self.call(Place::At(peer), |world| Ok(side(world, peer).volumes.keys().cloned().collect()))
    }

    fn abort(&self, _: Uuid) -> Result<(), HvError> {
        self.call(Place::Here, |world| {
            world.aborted = true;
            Ok(())
        })
    }

    fn set_origins(&self, uuid: Uuid, origins: &[Origin]) -> Result<(), HvError> {
        self.call(Place::Here, |world| {
            if let Some(domain) = world.domains.get_mut(&uuid) {
                domain.wishes.origins = origins.to_vec();
            }
            Ok(())
        })
    }

    fn set_wishes(&self, uuid: Uuid, element: &str) -> Result<(), HvError> {
        self.call(Place::Here, |world| {
            let xml = format!("<domain><metadata>{element}</metadata></domain>");
            let xml = xml.replacen("<move", &format!("<move xmlns='{}'", crate::wishes::WISHES), 1);
            let domain = world.domains.get_mut(&uuid);
            let gone = || HvError::refused("cannot find the VM", "it is gone");
            let wishes = &mut domain.ok_or_else(gone)?.wishes;
            let read =
                crate::domain_xml::read(&xml).map_err(|e| HvError::refused("no XML", e))?.wishes;
            *wishes = Wishes { origins: std::mem::take(&mut wishes.origins), ..read };
            Ok(())
        })
    }

    fn stalled(&self) -> Result<Vec<Domain>, HvError> {
        self.call(Place::Here, |world| {
            let all = world.domains.values();
            Ok(all.filter(|d| d.state == RunState::IoError).cloned().collect())
        })
    }

    fn domains(&self, place: Place<'_>) -> Result<Vec<Domain>, HvError> {
        self.call(place, |world| match place {
            Place::At(peer) if side(world, peer).hides => {
                Err(HvError::refused("cannot list its VMs", "internal error"))
            }
            _ => Ok(domains_at(world, place).values().cloned().collect()),
        })
    }

    fn domain(&self, place: Place<'_>, uuid: Uuid) -> Result<Option<Domain>, HvError> {
        self.call(place, |world| Ok(domains_at(world, place).get(&uuid).cloned()))
    }

    fn pool_room(&self, peer: &Peer, pool: &PoolName) -> Result<Option<PoolRoom>, HvError> {
        self.call(Place::At(peer), |world| {
            let available = Bytes(side(world, peer).available);
            let Side { drained, chunk, other_pool, .. } = *side(world, peer);
            let (notify, capacity) = (!other_pool, Bytes::mib(4096));
            let room = PoolRoom { notify, active: true, capacity, available, drained, chunk };
            Ok((pool.as_str() == "vms").then_some(room))
        })
    }

    fn volume(
        &self,
        peer: &Peer,
        _: &PoolName,
        volume: &VolumeName,
    ) -> Result<Option<RemoteVolume>, HvError> {
        self.call(Place::At(peer), |w| Ok(side(w, peer).volumes.get(volume.as_str()).cloned()))
    }

    fn create_volume(
        &self,
        peer: &Peer,
        _: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<RemoteVolume, HvError> {
        self.call(Place::At(peer), |world| {
            world.keys += 1;
            let key = format!("key{}", world.keys);
            let made = RemoteVolume { key, capacity, allocation: Bytes::ZERO };
            let side = side(world, peer);
            if side.volumes.contains_key(volume.as_str()) {
                return Err(HvError::refused("cannot make the volume", "it exists"));
            }
            if let Some(rival) = side.rival.take() {
                side.volumes.insert(rival, made.clone());
            }
            side.volumes.insert(volume.to_string(), made.clone());
            let prepared = !volume.as_str().starts_with("move-");
            if let Some(disk) = world.plugged_in.take_if(|_| prepared) {
                world.domains.values_mut().for_each(|domain| domain.disks.push(disk.clone()));
            }
            if prepared && std::mem::take(&mut world.undefined) {
                world.domains.values_mut().for_each(|domain| domain.persistent = false);
            }
            Ok(made)
        })
    }

    fn delete_volume(&self, peer: &Peer, _: &PoolName, volume: &VolumeName) -> Result<(), HvError> {
        self.call(Place::At(peer), |world| {
            world.check_delete(volume.as_str(), Some(&peer.name));
            side(world, peer).volumes.remove(volume.as_str());
            side(world, peer).written.remove(volume.as_str());
            Ok(())
        })
    }

    fn migrate(&self, order: Order<'_>) -> Result<(), HvError> {
        let Order { uuid, peer, .. } = order;
        assert!(order.wire.tls, "as the lab's configuration says");
        // libvirt takes the order, then works by itself; we may die while it does.
        self.call(Place::At(peer), |world| {
            let Some(domain) = world.domains.get(&uuid).cloned() else {
                return Err(HvError::refused("cannot migrate", "no such VM"));
            };
            assert_eq!(order.copying, side(world, peer).copying());
            if order.persistent != domain.persistent {
                world.wrongs.push(format!("{} is moved as if its definition stayed", domain.name));
            }
            if side(world, peer).domains.contains_key(&uuid) {
                return Err(HvError::refused("cannot migrate", "it is active there already"));
            }
            let disks: Vec<String> = domain.disks.iter().map(|d| d.target.clone()).collect();
            if disks != order.disks {
                world.wrongs.push(format!("of {disks:?} only {:?} are copied", order.disks));
            }
            let arriving = Domain { state: RunState::Arriving, ..domain };
            side(world, peer).domains.insert(uuid, arriving);
            world.job = Some((uuid, peer.name.clone(), 2));
            world.aborted = false;
            Ok(())
        })?;
        thread::sleep(Duration::from_millis(5));
        loop {
            let mut world = self.world.lock().unwrap();
            if world.process != self.process {
                die(world, self.process);
            }
            if world.aborted && world.undoing == 0 {
                world.job = None;
                side(&mut world, peer).domains.remove(&uuid);
                return Err(match world.closes_first {
                    true => HvError::refused("libvirt could not migrate it", "End of file"),
                    false => HvError::Cancelled,
                });
            }
            let goes_on = world.endless || world.slow == Some(uuid);
            if !goes_on && !world.aborted {
                break;
            }
            drop(world);
            thread::sleep(Duration::from_millis(5));
        }
        let result = self.call(Place::Here, |world| world.finish(uuid, &peer.name));
        self.changes.send_modify(|n| *n += 1);
        result
    }

    fn job(&self, uuid: Uuid) -> Result<Job, HvError> {
        self.call(Place::Here, |world| {
            if world.backed_up {
                return Ok(Job::Other);
            }
            let Some((of, peer, left)) = world.job.clone().filter(|job| job.0 == uuid) else {
                return Ok(Job::None);
            };
            if world.aborted && world.undoing > 0 {
                world.undoing -= 1;
                return Ok(Job::Ending { cancelled: true });
            }
            if world.aborted {
                world.job = None;
                side_of(world, &peer).domains.remove(&of);
                return Ok(Job::None);
            }
            if left == 0 && !world.endless {
                let _ = world.finish(of, &peer);
                return Ok(Job::None);
            }
            world.job = Some((of, peer, left.saturating_sub(1)));
            let rewritten = world.rewritten;
            world.rewritten += u64::from(world.rewrites);
            Ok(Job::Moving(match (world.rewrites, rewritten) {
                (false, _) => progress(1 << 20, 2 << 20, None),
                // libvirt says nothing before the disks are connected.
                (true, 0) => progress(0, 0, None),
                (true, n) => progress(n << 20, (n + 1) << 20, Some(1 << 20)),
            }))
        })
    }

    fn resume(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.call(place, |world| {
            if world.resume_fails > 0 {
                world.resume_fails -= 1;
                return Err(HvError::refused("cannot resume", "not now"));
            }
            match domains_at(world, place).get_mut(&uuid) {
                Some(domain) => domain.state = RunState::Running,
                None => return Err(HvError::refused("cannot resume", "no such VM")),
            }
            let peer = match place {
                Place::Here => None,
                Place::At(peer) => Some(peer.name.as_str()),
            };
            world.runs_at(uuid, peer);
            if peer.is_some() && std::mem::take(&mut world.starts_here) {
                world.domains.entry(uuid).and_modify(|d| d.state = RunState::Running);
            }
            Ok(())
        })
    }

    fn suspend(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.call(place, |world| {
            let gone = || HvError::refused("cannot find the VM", "it is gone");
            let domain = domains_at(world, place).get_mut(&uuid).ok_or_else(gone)?;
            domain.state = RunState::Paused;
            Ok(())
        })
    }

    fn destroy(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.call(place, |world| {
            let gone = || HvError::refused("cannot find the VM", "it is gone");
            let domains = domains_at(world, place);
            let domain = domains.get_mut(&uuid).ok_or_else(gone)?;
            (domain.state, domain.ended) = (RunState::Off, true);
            if !domain.persistent {
                domains.remove(&uuid);
            }
            if let Place::At(peer) = place {
                let side = side(world, peer);
                side.stale.remove(&uuid);
            }
            Ok(())
        })
    }

    fn set_autostart(&self, place: Place<'_>, uuid: Uuid, on: bool) -> Result<(), HvError> {
        self.call(place, |world| {
            let gone = || HvError::refused("cannot find the VM", "it is gone");
            domains_at(world, place).get_mut(&uuid).ok_or_else(gone)?.autostart = on;
            Ok(())
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HvError> {
        self.call(Place::Here, |world| {
            let off = world.domains.get_mut(&uuid).filter(|domain| domain.state == RunState::Off);
            off.ok_or_else(|| HvError::refused("cannot start the VM", "it is active"))?.state =
                RunState::Running;
            Ok(())
        })
    }

    fn undefine(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.call(place, |world| {
            let all = domains_at(world, place);
            match all.get_mut(&uuid).filter(|domain| domain.state != RunState::Off) {
                Some(active) => active.persistent = false,
                None => drop(all.remove(&uuid)),
            }
            Ok(())
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
