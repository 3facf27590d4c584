// SPDX-License-Identifier: LGPL-2.1-or-later
//! A started pool: what its threads share.
//!
//! | who | does | holds |
//! |---|---|---|
//! | grow thread | answers held writes | `core` for memory work and one commit |
//! | headroom thread | extends, zeroes, gives back | `core` for memory work and one commit; never across LVM or zeroing |
//! | copy thread | copies chunks of snapshots that are to be written | `core` for memory work and one commit; never while it copies |
//! | collector thread | moves chunks, and takes back zeroes, while they are used | `core` for memory work and one commit; never while it copies |
//! | journal thread | writes what the metadata's journal has into its tables | nothing: commits go on meanwhile |
//! | backup thread | keeps the text in `/etc` (`repair::keeper`) | nothing: it reads the metadata beside its writer |
//! | callers of the backend | make, delete, resize | `admin` but while a volume is wiped or filled, `core` as the others |
//! | callers that only ask | `pool_info`, `volumes` | `view`, never across any I/O |
//!
//! Order of locks: `admin`, `resizing`, `core`, `view`.

mod another;
mod asked;
pub(crate) mod collector;
mod copies;
pub(crate) mod core;
mod data;
mod evacuate;
pub(crate) mod gate;
mod giveback;
pub(crate) mod headroom;
mod held;
mod join;
mod journal;
mod occupied;
mod passdown;
mod plan;
mod promise;
mod recover;
mod relocate;
mod room;
pub(crate) mod settle;
mod snapshots;
pub(crate) mod start;
mod threads;
pub(crate) mod view;
pub(crate) mod volumes;
mod wipe;
mod zeroes;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

use virtnotify_model::{
    BackendError, Bytes, ChunkSize, Chunks, Event, EventBus, Policy, PoolName, VgName, VolumeKind,
};

use self::collector::Collector;
use self::copies::Copies;
use self::core::{Core, VolumeId};
use self::data::DataLvs;
use self::gate::Gate;
use self::view::View;
use crate::device::{BlockDevice, Disks};
use crate::engine::EngineConfig;
use crate::grow::Notes;
use crate::grow::bell::{Doorbell, signal_number};
use crate::lvm::Lvm;
use crate::meta::{Reader, VolumeRow};
use crate::runtime::{self, Condvar, Instant, JoinHandle, Mutex, MutexGuard};
use crate::target::{DeviceId, Table, Target, TargetError};

/// Locks a mutex; what a thread that panicked with it held may have broken is seen by the
/// invariants of the data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The data of the lock that is held while volumes come, go or change.
#[derive(Debug, Default)]
pub(crate) struct Admin {
    /// Whether the pool is stopped, or about to be: no volume comes or changes any more.
    closed: bool,
}

/// What the threads of a pool share.
pub(crate) struct Shared {
    pub(crate) name: PoolName,
    pub(crate) vg: VgName,
    pub(crate) config: EngineConfig,
    /// The size of a chunk, which never changes.
    pub(crate) chunk: ChunkSize,
    pub(crate) lvm: Arc<dyn Lvm>,
    pub(crate) disks: Arc<dyn Disks>,
    pub(crate) target: Arc<dyn Target>,
    /// The metadata LV, to see its size.
    pub(crate) meta: Arc<dyn BlockDevice>,
    /// LVM's id of it.
    pub(crate) meta_uuid: String,
    /// The size of the group's extents.
    pub(crate) extent: Bytes,
    /// The data LVs.
    pub(crate) data: DataLvs,
    admin: Mutex<Admin>,
    /// The policy; locked only to copy it.
    pub(crate) policy: Mutex<Policy>,
    /// Reads the metadata without waiting for its writer.
    pub(crate) reader: Reader,
    core: Mutex<Core>,
    /// The latest copy of what `core` shows, for callers that must not wait for it.
    pub(crate) damaged: AtomicBool,
    /// How many threads wait for `core` that must not wait long.
    urgent: AtomicU32,
    /// With `core`: signalled when chunks have left, or were sent.
    pub(crate) settled: Condvar,
    view: Mutex<View>,
    pub(crate) doorbell: Doorbell,
    notes: Mutex<Notes>,
    pub(crate) gate: Gate,
    pub(crate) copies: Copies,
    pub(crate) collector: Collector,
    /// Held while LVM resizes a logical volume, and while it is told to begin with a move.
    resizing: Mutex<()>,
    /// Chunks that calls are still to give to volumes.
    claimed: AtomicU64,
    /// When LVM was last told to go on with moves.
    resumed: Mutex<Option<Instant>>,
    /// Held while the places that chunks have left are freed.
    vacating: Mutex<()>,
    /// The grow thread's id, 0 before it runs.
    pub(crate) thread: AtomicI32,
    /// When the grow thread last had nothing more to do.
    beat: Mutex<Instant>,
    bus: EventBus,
}

/// A started pool with its threads.
pub(crate) struct Pool {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Stops the threads; devices and data stay as they are.
    pub(crate) fn halt(self) {
        self.shared.gate.stop();
        self.shared.copies.stop();
        self.shared.collector.stop();
        lock(&self.shared.notes).stop = true;
        self.shared.doorbell.ring();
        self.shared.reader.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!(pool = %self.shared.name, "a thread of the pool panicked");
            }
        }
        // At rest the tables say everything, and they tell of damage where a journal cannot.
        if let Err(error) = self.shared.reader.checkpoint() {
            tracing::warn!(pool = %self.shared.name, %error, "the journal stays for the next start");
        }
    }
}

impl Shared {
    pub(crate) fn policy(&self) -> Policy {
        *lock(&self.policy)
    }

    /// For a change of volumes; refused when the pool is stopped.
    pub(super) fn admin(&self) -> Result<MutexGuard<'_, Admin>, BackendError> {
        let admin = lock(&self.admin);
        if admin.closed {
            Err(BackendError::PoolNotActive(self.name.to_string()))
        } else {
            Ok(admin)
        }
    }

    /// For a change of volumes without a caller: not while others change them, nor when the pool is
    /// stopped, whose devices are gone and stay gone.
    pub(super) fn try_admin(&self) -> Option<MutexGuard<'_, Admin>> {
        let admin = match self.admin.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        (!admin.closed).then_some(admin)
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    /// The same for the grow thread: a thread that does something long in parts lets it go first.
    pub(crate) fn core_first(&self) -> MutexGuard<'_, Core> {
        self.urgent.fetch_add(1, Ordering::SeqCst);
        let core = self.core();
        self.urgent.fetch_sub(1, Ordering::SeqCst);
        core
    }

    /// Whether nothing can be changed; what was last known while the core is at work.
    pub(crate) fn is_damaged(&self) -> bool {
        let core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.damaged.load(Ordering::Relaxed),
        };
        self.damaged.store(core.is_broken(), Ordering::Relaxed);
        core.is_broken()
    }

    /// Lets others go first, between two parts of something long: a mutex alone goes to the thread
    /// that asks first, which is the one that has just let go of it.
    pub(crate) fn give_way(&self) {
        while self.urgent.load(Ordering::SeqCst) > 0 {
            runtime::yield_now();
        }
    }

    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        lock(&self.view)
    }

    pub(crate) fn emit(&self, event: Event) {
        self.bus.emit(event);
    }

    /// Tells all listeners that something is wrong.
    pub(crate) fn damage(&self, what: String) {
        tracing::error!(pool = %self.name, "{what}");
        self.emit(Event::Damage { pool: self.name.clone(), what });
    }

    /// The grow thread has done what there was to do.
    pub(crate) fn beat(&self) {
        *lock(&self.beat) = Instant::now();
    }

    /// For how long it has not.
    pub(crate) fn silence(&self) -> Duration {
        lock(&self.beat).elapsed()
    }

    /// Leaves the grow thread a note and wakes it.
    pub(crate) fn note(&self, write: impl FnOnce(&mut Notes)) {
        write(&mut lock(&self.notes));
        self.doorbell.ring();
    }

    pub(crate) fn take_notes(&self) -> Notes {
        std::mem::take(&mut *lock(&self.notes))
    }

    pub(crate) fn id_of_minor(&self, minor: u32) -> Option<VolumeId> {
        self.core_first().id_of_minor(minor)
    }

    /// The device of a volume, when it has one and is not being deleted.
    pub(crate) fn device(&self, id: VolumeId) -> Option<DeviceId> {
        let core = self.core_first();
        let volume = core.volume(id).filter(|v| v.minor.is_some() && !v.closing)?;
        Some(volume.device.clone())
    }

    /// All volumes with a device.
    pub(crate) fn devices(&self) -> Vec<(VolumeId, DeviceId)> {
        let core = self.core_first();
        let there = core.volumes().filter(|(_, v)| v.minor.is_some() && !v.closing);
        there.map(|(id, v)| (id, v.device.clone())).collect()
    }

    /// Tells the target which thread to ring.
    pub(crate) fn register(&self, device: &DeviceId) -> Result<(), TargetError> {
        self.target.notifier(device, self.thread.load(Ordering::SeqCst), signal_number())
    }

    /// The table of a volume or a snapshot.
    pub(crate) fn table(&self, row: &VolumeRow, chunk: ChunkSize) -> Table {
        Table {
            length: row.capacity.whole_sectors(),
            chunk,
            thread: self.thread.load(Ordering::SeqCst),
            signal: signal_number(),
            devices: self.table_devices(),
            hold_timeout: self.config.hold_timeout,
            read_only: row.kind == VolumeKind::Snapshot,
        }
    }

    /// The data LVs in the order of a table.
    fn table_devices(&self) -> Vec<PathBuf> {
        let numbers = self.data.numbers().into_iter();
        numbers.map(|lv| self.config.lv_path(&self.vg, lv)).collect()
    }

    /// The target has heard of what was decided for these volumes.
    pub(crate) fn sent(&self, volumes: &[VolumeId]) {
        let mut core = self.core();
        core.sent(volumes.iter().copied());
        drop(core);
        self.settled.notify_all();
    }

    /// Says that a volume grew, after it did.
    pub(crate) fn tell_grown(&self, id: VolumeId, by: Chunks) {
        let core = self.core();
        let Some(volume) = core.volume(id) else { return };
        let grown = Event::VolumeGrown {
            pool: self.name.clone(),
            volume: volume.row().name.clone(),
            by: self.chunk.bytes_of(by),
            allocation: self.chunk.bytes_of(Chunks(core.shown(id))),
            capacity: volume.row().capacity,
        };
        drop(core);
        self.emit(grown);
    }

    /// Says of which volumes more or fewer chunks are their alone, because these grew.
    pub(crate) fn tell_recounted(&self, grown: &[VolumeId]) {
        let others = self.view().take_recounted(grown);
        for volume in others {
            self.emit(Event::VolumeChanged { pool: self.name.clone(), volume });
        }
    }

    /// Says that a volume was told that there is no space.
    pub(crate) fn tell_exhausted(&self, id: VolumeId, wanted: Chunks) {
        self.set_out_of_space(id, true);
        let available = self.available();
        let core = self.core();
        let Some(volume) = core.volume(id) else { return };
        let (volume, wanted) = (volume.row().name.clone(), core.chunk().bytes_of(wanted));
        drop(core);
        tracing::warn!(pool = %self.name, %volume, "out of space");
        self.emit(Event::SpaceExhausted { pool: self.name.clone(), volume, wanted, available });
    }

    pub(crate) fn set_out_of_space(&self, id: VolumeId, value: bool) {
        let mut core = self.core();
        if let Some(volume) = core.volume_mut(id) {
            volume.out_of_space = value;
        }
        self.view().refresh(&mut core, &[id]);
    }

    /// Volumes that were told that there is no space, and how many clean chunks there are.
    pub(crate) fn out_of_space(&self) -> (Vec<(VolumeId, DeviceId)>, u64) {
        let core = self.core();
        let waiting = core.volumes().filter(|(_, v)| v.out_of_space && v.minor.is_some());
        (waiting.map(|(id, v)| (id, v.device.clone())).collect(), core.free.clean())
    }

    /// What volumes can still get.
    pub(crate) fn available(&self) -> Bytes {
        self.view().info().available
    }
}
