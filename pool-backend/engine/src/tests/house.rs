// SPDX-License-Identifier: LGPL-2.1-or-later
//! One host in memory: what the tests of the whole engine share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;
use virtnotify_model::{
    Backend, BackendError, Bytes, Change, ChunkSize, Event, EventBus, Policy, PoolName, PoolSpec,
    VolumeInfo, VolumeSpec,
};

use crate::device::BlockDevice;
use crate::engine::{Engine, EngineConfig};
use crate::names::{META_LV, data_lv};
use crate::runtime::{Instant, simulated};
use crate::target::{DeviceId, Target};
use crate::testing::{FakeLvm, FakeTarget, device_of, parts};

pub(super) const CHUNK: u64 = 256 << 10;

pub(super) struct House {
    pub(super) dir: tempfile::TempDir,
    pub(super) lvm: Arc<FakeLvm>,
    pub(super) target: Arc<FakeTarget>,
    pub(super) bus: EventBus,
    pub(super) engine: Arc<Engine>,
    sizes: Sizes,
}

/// How large things are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) metadata: Bytes,
    /// The data LV grows by as much as the headroom is.
    pub(super) headroom: Bytes,
    /// The highest generation that the kernel counts to.
    pub(super) last_generation: u16,
}

/// What a test takes that needs no other.
pub(super) const SIZES: Sizes =
    Sizes { metadata: Bytes::mib(16), headroom: Bytes::mib(4), last_generation: u16::MAX };

impl Sizes {
    fn set(self, config: &mut EngineConfig) {
        config.metadata = self.metadata;
        (config.headroom, config.step) = (Some(self.headroom), self.headroom);
        config.last_generation = self.last_generation;
    }
}

pub(super) fn spec() -> PoolSpec {
    PoolSpec {
        name: "vms".parse().unwrap(),
        uuid: Uuid::nil(),
        vg: "vg0".parse().unwrap(),
        devices: Vec::new(),
        chunk: ChunkSize::new(Bytes(CHUNK)).unwrap(),
        policy: Policy::default(),
    }
}

pub(super) fn pool() -> PoolName {
    spec().name
}

impl House {
    pub(super) fn with_group(mib: u64) -> Self {
        Self::with_extents(mib, Bytes::mib(1))
    }

    pub(super) fn with_extents(mib: u64, extent: Bytes) -> Self {
        Self::with_metadata(mib, extent, EngineConfig::default().metadata)
    }

    pub(super) fn with_metadata(mib: u64, extent: Bytes, metadata: Bytes) -> Self {
        Self::with_sizes(mib, extent, Sizes { metadata, ..SIZES })
    }

    pub(super) fn with_sizes(mib: u64, extent: Bytes, sizes: Sizes) -> Self {
        Self::on(&[Bytes::mib(mib)], extent, sizes)
    }

    /// A group on several devices.
    pub(super) fn on(devices: &[Bytes], extent: Bytes, sizes: Sizes) -> Self {
        let lvm = FakeLvm::on(devices, extent);
        let (dir, target) = (tempfile::tempdir().unwrap(), Arc::new(FakeTarget::default()));
        target.set_power(lvm.power());
        let bus = EventBus::new();
        let mut parts = parts(dir.path(), &lvm, &target, &bus);
        sizes.set(&mut parts.config);
        let engine = Engine::with_parts(parts).unwrap();
        Self { dir, lvm, target, bus, engine, sizes }
    }

    pub(super) fn started(mib: u64) -> Self {
        let house = Self::with_group(mib);
        assert_eq!(house.engine.start_pool(&spec()).unwrap(), Change::Changed);
        house
    }

    /// The process ends: it is killed, or the power goes. Of what was not synced then, a part
    /// stays, by chance: `keep` quarters of it.
    pub(super) fn end(&mut self, killed: bool, seed: u64, keep: u64) {
        self.engine.halt();
        let mut random = seed | 1;
        let choose = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            killed || (random >> 20) % 4 < keep
        };
        let written = self.target.ground();
        self.lvm = self.lvm.after_power_cut(choose);
        if !killed {
            self.target = Arc::new(FakeTarget::default());
        }
        self.target.set_power(self.lvm.power());
        if written {
            self.write_to_disk();
        }
    }

    /// What guests write is on the pool's disk from now on.
    pub(super) fn write_to_disk(&self) {
        self.target.write_to(self.lvm.clone());
    }

    /// Whether nothing of a pool is left in the group.
    pub(super) fn is_bare(&self) -> bool {
        self.lvm.change(|report| report.lvs.is_empty() && report.tags.is_empty())
    }

    /// Listens to what is told from now on.
    pub(super) fn listen(&self) -> Listener {
        let mut events = self.bus.subscribe();
        Listener { next: Box::new(move || events.try_recv().ok()), heard: Vec::new() }
    }

    /// The daemon dies and comes back; the kernel's devices live on.
    pub(super) fn restart(&mut self) {
        self.engine.halt();
        let dead = self.dir.path().join("dead");
        // The old engine keeps its lock until it is dropped: give it away first.
        let other = Engine::with_parts({
            let mut parts = parts(self.dir.path(), &self.lvm, &self.target, &self.bus);
            parts.config.run_dir = dead;
            parts
        });
        self.engine = other.unwrap();
        let mut parts = parts(self.dir.path(), &self.lvm, &self.target, &self.bus);
        self.sizes.set(&mut parts.config);
        self.engine = Engine::with_parts(parts).unwrap();
    }

    pub(super) fn create(&self, name: &str, mib: u64) -> VolumeInfo {
        self.create_with(name, mib, 0).unwrap()
    }

    pub(super) fn create_with(
        &self,
        name: &str,
        mib: u64,
        now: u64,
    ) -> Result<VolumeInfo, BackendError> {
        let (name, capacity) = (name.parse().unwrap(), Bytes::mib(mib));
        let allocation = Bytes::mib(now);
        self.engine.create_volume(
            &pool(),
            &VolumeSpec { name, capacity, allocation, uuid: Uuid::new_v4(), backing: None },
        )
    }

    pub(super) fn clone_of(
        &self,
        backing: &str,
        name: &str,
        mib: u64,
    ) -> Result<VolumeInfo, BackendError> {
        let spec = VolumeSpec {
            name: name.parse().unwrap(),
            capacity: Bytes::mib(mib),
            allocation: Bytes::ZERO,
            uuid: Uuid::new_v4(),
            backing: Some(backing.parse().unwrap()),
        };
        self.engine.create_volume(&pool(), &spec)
    }

    pub(super) fn snapshot(
        &self,
        volumes: &[&str],
        name: &str,
    ) -> Result<Vec<VolumeInfo>, BackendError> {
        let volumes: Vec<_> = volumes.iter().map(|volume| volume.parse().unwrap()).collect();
        self.engine.snapshot(&pool(), &volumes, &name.parse().unwrap())
    }

    pub(super) fn roll_back(&self, snapshot: &str) -> Result<(), BackendError> {
        self.engine.roll_back(&pool(), &snapshot.parse().unwrap())
    }

    /// A guest writes a text to the beginning of a chunk.
    pub(super) fn put(&self, name: &str, chunk: u64, text: &str) -> bool {
        let device = device_of(self.volume(name).uuid);
        let done = self.target.try_put(&device, chunk, &sector(text), Duration::from_secs(20));
        done.unwrap_or_else(|| panic!("a write to chunk {chunk} of '{name}' waits for ever"))
    }

    /// The text that a guest reads at the beginning of a chunk.
    pub(super) fn text(&self, name: &str, chunk: u64) -> String {
        let sector = self.target.read(&device_of(self.volume(name).uuid), chunk);
        let end = sector.iter().position(|byte| *byte == 0).unwrap_or(sector.len());
        String::from_utf8_lossy(&sector[..end]).into_owned()
    }

    pub(super) fn volume(&self, name: &str) -> VolumeInfo {
        self.engine.volume(&pool(), &name.parse().unwrap()).unwrap()
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), BackendError> {
        self.engine.delete_volume(&pool(), &name.parse().unwrap())
    }

    pub(super) fn write(&self, device: &DeviceId, chunk: u64) -> bool {
        self.target.write(device, chunk)
    }

    /// Writes to this chunk of each volume, all of them before a first commit can end.
    pub(super) fn write_together(&self, devices: &[DeviceId], chunk: u64) {
        let meta = self.lvm.disk(META_LV);
        std::thread::scope(|scope| {
            let held = meta.hold();
            for device in devices {
                scope.spawn(move || assert!(self.write(device, chunk)));
            }
            let waits = |device: &DeviceId| self.target.status(device).unwrap().wanted > 0;
            eventually("all of them wait", || devices.iter().all(waits));
            drop(held);
        });
    }

    pub(super) fn adds_up(&self) -> bool {
        let info = self.engine.pool_info(&pool()).unwrap();
        let report = self.lvm.change(|report| report.clone());
        // One that was just made, when the daemon was killed, is not the pool's yet.
        let known = self.engine.contents(&pool()).unwrap().data_lvs;
        let is_known = |lv: &str| lv == META_LV || known.keys().any(|&known| data_lv(known) == lv);
        let ours = report.lvs.iter().filter(|lv| is_known(&lv.name));
        let ours: Bytes = ours.map(|lv| lv.size).sum();
        info.allocation.saturating_add(info.headroom) == ours
    }

    /// What is shown is what is, and every chunk of the group is in exactly one place.
    pub(super) fn check(&self) {
        // The headroom thread may be between LVM and its own numbers.
        eventually("the group's extents add up", || self.adds_up());
        self.check_shown();
        self.engine.started(&pool()).unwrap().core().check_counts();
        self.check_places();
    }

    /// Each change of the pool's state is shown before another can look: this holds at every
    /// moment, whatever the pool's threads do.
    pub(super) fn check_shown(&self) {
        let shared = self.engine.started(&pool()).unwrap();
        let core = shared.core();
        let view = shared.view();
        assert_eq!(*view, view.anew(&core));
    }

    /// No two layers have the same chunk, no volume writes to what others show, and the kernel has
    /// what the metadata has.
    fn check_places(&self) {
        let contents = self.engine.contents(&pool()).unwrap();
        let mut places = BTreeSet::new();
        for (layer, run) in contents.owned() {
            for n in 0..run.to.length {
                assert!(places.insert(run.to.start.after(n)), "twice: {run:?} of {layer}");
            }
        }
        // A write that its guest gave up may still be served.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(odd) = self.odd_chunk() {
            assert!(Instant::now() < deadline, "the kernel and the metadata differ: {odd}");
            look_again();
        }
    }

    /// A chunk that the kernel has elsewhere than the metadata, or that would be written although
    /// others show it.
    fn odd_chunk(&self) -> Option<String> {
        let shared = self.engine.started(&pool()).unwrap();
        let core = shared.core();
        let devices = self.target.all();
        for (id, volume) in core.volumes() {
            let Some(device) = devices.get(&volume.device) else { continue };
            let shows = core.map(id).unwrap();
            let written = volume.row().kind == virtnotify_model::VolumeKind::Volume;
            for chunk in device.map.iter().flat_map(|run| run.at..run.end()) {
                let there = shows.place(chunk) == device.map.place(chunk);
                let others = core.shared_runs(id, chunk..chunk + 1).next().is_some();
                if !there || (others && written && !device.is_shared(chunk)) {
                    return Some(format!("chunk {chunk} of '{}'", volume.row().name));
                }
            }
        }
        None
    }
}

impl House {
    /// Nothing that any volume has holds an earlier tenant's data. (The guests write nothing.)
    pub(super) fn check_zeroes(&self) {
        let data = self.lvm.disk(&data_lv(0));
        for volume in self.engine.volumes(&pool()).unwrap() {
            for live in self.target.dump(&device_of(volume.uuid)).unwrap().runs {
                let mut bytes = vec![1; usize::try_from(live.run.to.length * CHUNK).unwrap()];
                data.read_at(live.run.to.start.chunk * CHUNK, &mut bytes).unwrap();
                assert!(bytes == vec![0; bytes.len()], "{live} holds old data");
            }
        }
    }
}

/// A sector that begins with a text.
pub(super) fn sector(text: &str) -> [u8; crate::testing::SECTOR] {
    let mut sector = [0; crate::testing::SECTOR];
    sector[..text.len()].copy_from_slice(text.as_bytes());
    sector
}

/// Waits a moment.
fn look_again() {
    let moment = Duration::from_millis(1);
    if simulated::is_running() { simulated::sleep(moment) } else { std::thread::sleep(moment) }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        look_again();
    }
}

/// Does this for 0, 1, 2 and so on until it says that there is no such number; says how many there
/// were. Pools wait for time and for their threads, so several are tried at once.
pub(super) fn each_until_the_last(work: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= end.load(Ordering::SeqCst) {
                        break;
                    }
                    if !work(n) {
                        end.fetch_min(n, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    end.into_inner()
}

/// Hears what is told.
pub(super) struct Listener {
    next: Box<dyn FnMut() -> Option<Event>>,
    heard: Vec<Event>,
}

impl Listener {
    /// All that was told so far.
    pub(super) fn heard(&mut self) -> &[Event] {
        self.heard.extend(std::iter::from_fn(&mut self.next));
        &self.heard
    }

    /// Waits until such a thing was told; says how often it was.
    pub(super) fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> usize {
        let mut count = 0;
        eventually(what, || {
            count = self.heard().iter().filter(|event| wanted(event)).count();
            count > 0
        });
        count
    }
}

impl Drop for House {
    /// A thread of the pool that lives on would make the directory again.
    fn drop(&mut self) {
        self.engine.halt();
    }
}
