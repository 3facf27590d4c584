// SPDX-License-Identifier: LGPL-2.1-or-later
//! A device mapper in memory: it checks bounds and place, suspends, refuses, fails and is killed
//! as the kernel's is. What guests do with its devices stands in [`super::guest`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use virtnotify_model::{ChunkSize, Sectors, VolumeStats};

use super::{FakeDisk, FakeLvm, Power, number_of};
use crate::alloc::{Extent, Place, Run, VolumeMap};
use crate::names;
use crate::pool::core::{Durable, Gap, Heritage};
use crate::pool::lock;
use crate::runtime::{self, Condvar, Instant, Mutex};
use crate::target::{
    ChunkState, Device, DeviceId, Dump, LiveTable, MappedRun, Pending, Status, Table, Target,
    TargetError, Wish,
};

#[derive(Debug, Default, Clone)]
pub(crate) struct FakeDevice {
    pub(crate) name: String,
    pub(crate) minor: u32,
    pub(crate) openers: u32,
    /// A program opens it whenever it is about to be removed.
    pub(crate) contended: bool,
    pub(crate) length: Sectors,
    pub(crate) chunk: ChunkSize,
    data: Vec<std::path::PathBuf>,
    pub(crate) map: VolumeMap,
    pub(super) wanted: BTreeSet<u64>,
    pub(crate) watched: BTreeSet<u64>,
    pub(crate) protected: BTreeSet<u64>,
    pub(crate) discarded: BTreeSet<u64>,
    /// Not written since they were watched.
    pub(crate) unchanged: BTreeSet<u64>,
    /// Chunks that have moved since the last drain: reads may be on their way to the old places.
    pub(crate) undrained: BTreeSet<u64>,
    /// Of chunks that are mapped now, and of each that is.
    pub(crate) generation: u16,
    pub(crate) generations: BTreeMap<u64, u16>,
    /// Chunks of older generations are shared.
    pub(crate) mark: u16,
    /// Until when all that would change it waits.
    pub(crate) frozen: Option<Instant>,
    pub(crate) read_only: bool,
    /// What has left and is not forgotten.
    pub(crate) leaving: BTreeSet<u64>,
    /// Zeroes that reach these chunks once they have left, and that have done so.
    pub(super) zeroing: BTreeSet<u64>,
    pub(super) zeroed: BTreeSet<u64>,
    pub(super) told: BTreeSet<u64>,
    pub(super) told_discarded: BTreeSet<u64>,
    pub(super) told_holes: BTreeSet<u64>,
    failed: u64,
    pub(super) nospace: bool,
    /// A signal is outstanding.
    pub(crate) rung: bool,
    /// Its I/O waits.
    pub(crate) suspended: bool,
    /// It was resumed with a table that does not fit its map, and takes no messages.
    pub(crate) refused: bool,
    /// The length and the devices of a table that is loaded and not live.
    loaded: Option<(Sectors, Vec<std::path::PathBuf>)>,
    thread: i32,
    signal: i32,
}

/// A device mapper in memory, with guests that write. It outlives the engines of a test.
#[derive(Debug, Default)]
pub(crate) struct FakeTarget {
    pub(super) devices: Mutex<BTreeMap<DeviceId, FakeDevice>>,
    pub(super) changed: Condvar,
    /// Whether signals get lost.
    deaf: Mutex<bool>,
    /// Where what guests write goes to.
    pub(super) ground: Mutex<Option<Ground>>,
    /// What the host lives on: a daemon is killed before or after any call that changes something.
    pub(super) power: Mutex<Arc<Power>>,
    /// What runs before a call of this name.
    interrupts: Mutex<BTreeMap<&'static str, Interrupt>>,
    /// Calls of this name that fail.
    failing: Mutex<BTreeMap<&'static str, Failing>>,
}

/// Where chunks lie.
#[derive(Debug, Clone)]
pub(super) struct Ground(Arc<FakeLvm>);

impl Ground {
    /// The data LV that a place is on, and where its chunk begins there.
    pub(super) fn find(&self, place: Place, chunk: ChunkSize) -> (Arc<FakeDisk>, u64) {
        (self.0.disk(&names::data_lv(place.lv)), place.chunk * chunk.bytes().0)
    }
}

type Interruption = dyn FnMut(&FakeTarget, &DeviceId, u64) + Send;

/// An action of another program at an inconvenient moment.
struct Interrupt(Box<Interruption>);

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failing {
    pub(crate) errno: Errno,
    /// How often.
    pub(crate) times: u32,
    /// Whether it has done its work when it fails.
    pub(crate) done: bool,
}

fn refused(id: &DeviceId, errno: Errno) -> TargetError {
    TargetError::Refused { step: "use", device: id.0.clone(), errno }
}

impl FakeDevice {
    /// How many chunks it has, the last of which may be a partial one.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks_of(self.length)
    }

    fn chunks_of(&self, length: Sectors) -> u64 {
        self.chunk.chunks_for(length.bytes()).0
    }

    /// Whether all that would change it waits.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some_and(|until| Instant::now() < until)
    }

    /// Whether a chunk belongs to a snapshot.
    pub(crate) fn is_shared(&self, chunk: u64) -> bool {
        self.generations.get(&chunk).is_some_and(|generation| *generation < self.mark)
    }

    /// Zeroes in a plain hole are done.
    fn acknowledge_zeroes(&mut self) {
        let Self { map, leaving, zeroing, zeroed, .. } = self;
        zeroing.retain(|chunk| {
            let waits = map.place(*chunk).is_some() || leaving.contains(chunk);
            if !waits {
                zeroed.insert(*chunk);
            }
            waits
        });
    }

    /// Maps a chunk that is a hole.
    fn put(&mut self, chunk: u64, start: Place, generation: Option<u16>) {
        let to = Extent { start, length: 1 };
        self.map.insert(Run { at: chunk, to }).unwrap();
        self.generations.insert(chunk, generation.unwrap_or(self.generation));
    }

    /// Whether a run can be mapped: into holes, or where it is already.
    fn check_mapped(&self, mapped: &MappedRun) -> Result<(), Errno> {
        let MappedRun { run, generation, .. } = mapped;
        let generation = generation.unwrap_or(self.generation);
        if generation > self.generation || usize::from(run.to.start.lv) >= self.data.len() {
            return Err(Errno::EINVAL);
        }
        for n in 0..run.to.length {
            let chunk = run.at + n;
            let shared = generation < self.mark;
            match self.map.place(chunk) {
                None => {}
                Some(there) if there != run.to.start.after(n) => return Err(Errno::EEXIST),
                Some(_) if self.is_shared(chunk) != shared => return Err(Errno::EEXIST),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The chunks up to a generation, those with even or with odd numbers.
    fn inherited(&self, generation: u16, odd: u64) -> Vec<(u64, Place, u16)> {
        let chunks = self.generations.iter();
        let chunks = chunks.filter(|(chunk, of)| **chunk % 2 == odd && **of <= generation);
        chunks.filter_map(|(&chunk, &of)| Some((chunk, self.map.place(chunk)?, of))).collect()
    }

    /// Whether a table of this length fits the map.
    fn fits(&self, length: Sectors) -> bool {
        let end = self.leaving.last().map_or(0, |last| last + 1).max(self.map.end());
        end <= self.chunks_of(length)
    }
}

/// A device that inherits, and the one that it inherits from.
fn heir_of(
    devices: &BTreeMap<DeviceId, FakeDevice>,
    id: &DeviceId,
    from: &Heritage,
) -> Result<(FakeDevice, FakeDevice), Errno> {
    let source = devices.values().find(|device| device.minor == from.minor);
    let device = devices.get(id).ok_or(Errno::ENXIO)?;
    if device.refused {
        return Err(Errno::EAGAIN);
    }
    Ok((device.clone(), source.ok_or(Errno::ENODEV)?.clone()))
}

impl FakeTarget {
    /// Rings as the kernel does, once until `pending` is asked, unless signals get lost.
    pub(super) fn ring(&self, device: &mut FakeDevice) {
        if device.thread == 0 || std::mem::replace(&mut device.rung, true) || *lock(&self.deaf) {
            return;
        }
        // SAFETY: a siginfo of zeroes is valid; the kernel copies it, and the thread is one of
        // this process or gone.
        unsafe {
            let mut info: nix::libc::siginfo_t = std::mem::zeroed();
            info.si_signo = device.signal;
            info.si_code = nix::libc::SI_QUEUE;
            // `si_value` follows pid and uid, which follow three ints and padding.
            let value = (&raw mut info).cast::<i32>().add(6);
            value.write(i32::try_from(device.minor).unwrap());
            nix::libc::syscall(
                nix::libc::SYS_rt_tgsigqueueinfo,
                nix::libc::getpid(),
                device.thread,
                device.signal,
                &raw const info,
            );
        }
        runtime::made_readable();
    }

    /// Rings without a reason, for another minor if one is given.
    pub(crate) fn ring_falsely(&self, id: &DeviceId, minor: Option<u32>) {
        let mut device = self.state(id);
        device.minor = minor.unwrap_or(device.minor);
        device.rung = false;
        self.ring(&mut device);
    }

    pub(crate) fn lose_signals(&self, lose: bool) {
        *lock(&self.deaf) = lose;
    }

    /// What guests write is on the data LVs of this group from now on.
    pub(crate) fn write_to(&self, lvm: Arc<FakeLvm>) {
        *lock(&self.ground) = Some(Ground(lvm));
    }

    /// Whether what guests write is on a disk.
    pub(crate) fn ground(&self) -> bool {
        lock(&self.ground).is_some()
    }

    /// Has this done before each call of this name, with the device and the first chunk.
    pub(crate) fn before(
        &self,
        step: &'static str,
        act: impl FnMut(&Self, &DeviceId, u64) + Send + 'static,
    ) {
        lock(&self.interrupts).insert(step, Interrupt(Box::new(act)));
    }

    /// Has calls of this name fail.
    pub(crate) fn fail(&self, step: &'static str, failing: Failing) {
        lock(&self.failing).insert(step, failing);
    }

    /// No call fails any more, and no signal gets lost.
    pub(crate) fn heal(&self) {
        lock(&self.failing).clear();
        self.lose_signals(false);
    }

    /// It belongs to a host with this power.
    pub(crate) fn set_power(&self, power: Arc<Power>) {
        *lock(&self.power) = power;
    }

    fn interrupt(&self, step: &'static str, id: &DeviceId, chunk: u64) {
        let act = lock(&self.interrupts).remove(step);
        if let Some(mut act) = act {
            act.0(self, id, chunk);
            lock(&self.interrupts).entry(step).or_insert(act);
        }
    }

    /// How this call fails, if it does.
    fn failure(&self, step: &'static str) -> Option<Failing> {
        let mut failing = lock(&self.failing);
        let failure = failing.get_mut(step).filter(|failure| failure.times > 0)?;
        failure.times -= 1;
        Some(*failure)
    }

    /// A call that changes something.
    fn call<T>(
        &self,
        step: &'static str,
        id: &DeviceId,
        chunk: u64,
        work: impl FnOnce(&mut BTreeMap<DeviceId, FakeDevice>) -> Result<T, Errno>,
    ) -> Result<T, TargetError> {
        self.interrupt(step, id, chunk);
        let power = lock(&self.power).clone();
        let killed = |_| refused(id, Errno::EIO);
        power.use_once().map_err(killed)?;
        let failure = self.failure(step);
        tracing::trace!(step, device = id.0, chunk, ?failure, "device mapper");
        if let Some(failure) = failure.filter(|failure| !failure.done) {
            return Err(refused(id, failure.errno));
        }
        let done = work(&mut lock(&self.devices));
        self.changed.notify_all();
        power.use_once().map_err(killed)?;
        match failure {
            Some(failure) => Err(refused(id, failure.errno)),
            None => done.map_err(|errno| refused(id, errno)),
        }
    }

    /// A message that changes something.
    fn message<T>(
        &self,
        step: &'static str,
        id: &DeviceId,
        chunk: u64,
        work: impl FnOnce(&mut FakeDevice) -> Result<T, Errno>,
    ) -> Result<T, TargetError> {
        self.call(step, id, chunk, |devices| {
            let device = devices.get_mut(id).ok_or(Errno::ENXIO)?;
            let done = if device.refused { Err(Errno::EAGAIN) } else { work(device) };
            device.acknowledge_zeroes();
            done
        })
    }

    pub(crate) fn state(&self, id: &DeviceId) -> FakeDevice {
        lock(&self.devices)[id].clone()
    }

    /// Whether there is such a device.
    pub(crate) fn has(&self, id: &DeviceId) -> bool {
        lock(&self.devices).contains_key(id)
    }

    /// All devices, as they are at one moment.
    pub(crate) fn all(&self) -> BTreeMap<DeviceId, FakeDevice> {
        lock(&self.devices).clone()
    }

    /// Changes a device without the engine's knowledge.
    pub(crate) fn change(&self, id: &DeviceId, change: impl FnOnce(&mut FakeDevice)) {
        change(lock(&self.devices).get_mut(id).unwrap());
    }

    fn on<T>(
        &self,
        id: &DeviceId,
        work: impl FnOnce(&mut FakeDevice) -> Result<T, Errno>,
    ) -> Result<T, TargetError> {
        let mut devices = lock(&self.devices);
        let done = devices.get_mut(id).ok_or(Errno::ENXIO).and_then(work);
        self.changed.notify_all();
        done.map_err(|errno| refused(id, errno))
    }
}

fn shown(id: &DeviceId, device: &FakeDevice) -> Device {
    let (name, minor, openers) = (device.name.clone(), device.minor, device.openers);
    let (length, suspended) = (device.length, device.suspended);
    Device { id: id.clone(), name, minor, openers, length, live: true, suspended }
}

impl Target for FakeTarget {
    fn check(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn devices(&self) -> Result<Vec<Device>, TargetError> {
        Ok(lock(&self.devices).iter().map(|(id, device)| shown(id, device)).collect())
    }

    fn create(&self, name: &str, id: &DeviceId, table: &Table) -> Result<Device, TargetError> {
        self.call("create", id, 0, |devices| {
            if devices.contains_key(id) || devices.values().any(|device| device.name == name) {
                return Err(Errno::EBUSY);
            }
            let used: BTreeSet<u32> = devices.values().map(|device| device.minor).collect();
            let minor = (7..).find(|minor| !used.contains(minor)).unwrap();
            let (thread, signal) = (table.thread, table.signal);
            let (name, length, chunk) = (name.to_owned(), table.length, table.chunk);
            let data = table.devices.clone();
            let device = FakeDevice {
                read_only: table.read_only,
                name,
                minor,
                length,
                chunk,
                data,
                thread,
                signal,
                ..Default::default()
            };
            devices.insert(id.clone(), device.clone());
            Ok(shown(id, &device))
        })
    }

    fn load(&self, id: &DeviceId, table: &Table) -> Result<(), TargetError> {
        self.call("load", id, 0, |devices| {
            let device = devices.get_mut(id).ok_or(Errno::ENXIO)?;
            if !device.fits(table.length) {
                return Err(Errno::EINVAL);
            }
            device.loaded = Some((table.length, table.devices.clone()));
            Ok(())
        })
    }

    fn suspend(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.call("suspend", id, 0, |devices| {
            devices.get_mut(id).ok_or(Errno::ENXIO)?.suspended = true;
            Ok(())
        })
    }

    fn resume(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.call("resume", id, 0, |devices| {
            let refuse = self.failure("fit").is_some();
            let device = devices.get_mut(id).ok_or(Errno::ENXIO)?;
            if let Some((length, data)) = device.loaded.take() {
                device.suspended = true;
                device.refused = refuse || !device.fits(length) || !data.starts_with(&device.data);
                (device.length, device.data) = (length, data);
            }
            if device.refused {
                return Err(Errno::EINVAL);
            }
            device.suspended = false;
            Ok(())
        })
    }

    fn remove(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.call("remove", id, 0, |devices| {
            if devices.get(id).is_some_and(|device| device.openers > 0 || device.contended) {
                return Err(Errno::EBUSY);
            }
            devices.remove(id);
            Ok(())
        })
    }

    fn device(&self, id: &DeviceId) -> Result<Device, TargetError> {
        self.on(id, |device| Ok(shown(id, device)))
    }

    fn status(&self, id: &DeviceId) -> Result<Status, TargetError> {
        self.on(id, |device| {
            Ok(Status {
                mapped: device.map.chunks(),
                wanted: device.wanted.len() as u64,
                nospace: device.nospace,
                notifier: device.thread != 0,
                timed_out: device.failed,
                generation: device.generation,
                mark: device.mark,
            })
        })
    }

    fn live_table(&self, id: &DeviceId) -> Result<LiveTable, TargetError> {
        self.on(id, |device| {
            let devices = device.data.iter().map(|path| number_of(path)).collect();
            Ok(LiveTable { length: device.length, chunk: device.chunk, devices })
        })
    }

    fn map(&self, id: &DeviceId, runs: Durable<&[MappedRun]>) -> Result<(), TargetError> {
        let first = runs.first().map_or(0, |sent| sent.run.at);
        self.message("map", id, first, |device| {
            let chunks: u64 = runs.iter().map(|sent| sent.run.to.length).sum();
            let each = runs.iter().flat_map(|sent| sent.run.at..sent.run.end());
            if (each.collect::<BTreeSet<_>>().len() as u64) < chunks {
                return Err(Errno::EINVAL);
            }
            if runs.iter().any(|sent| sent.run.end() > device.chunks()) {
                return Err(Errno::EINVAL);
            }
            // All or nothing.
            for mapped in *runs {
                device.check_mapped(mapped)?;
            }
            for MappedRun { run, state, generation } in *runs {
                for n in 0..run.to.length {
                    let chunk = run.at + n;
                    if device.map.place(chunk).is_some() {
                        continue;
                    }
                    device.put(chunk, run.to.start.after(n), *generation);
                    device.leaving.remove(&chunk);
                    if state.watched {
                        device.watched.insert(chunk);
                    }
                }
            }
            Ok(())
        })
    }

    fn inherit(&self, id: &DeviceId, from: Durable<Heritage>) -> Result<(), TargetError> {
        // What comes between two leaves of the source is seen in one of them.
        let half = self.call("inherit", id, 0, |devices| {
            let (device, source) = heir_of(devices, id, &from)?;
            let empty = device.map.chunks() == 0 && device.leaving.is_empty();
            let same = device.minor != source.minor && device.chunk == source.chunk;
            match same && from.generation <= device.generation {
                true if !empty => Err(Errno::EEXIST),
                true => Ok(source.inherited(from.generation, 0)),
                false => Err(Errno::EINVAL),
            }
        })?;
        self.interrupt("half inherited", id, 0);
        let mut devices = lock(&self.devices);
        let refuse = |errno| refused(id, errno);
        let (device, source) = heir_of(&devices, id, &from).map_err(refuse)?;
        let all = [half, source.inherited(from.generation, 1)].concat();
        let fits = |(chunk, place, _): &(u64, Place, u16)| {
            *chunk < device.chunks() && usize::from(place.lv) < device.data.len()
        };
        if !all.iter().all(fits) {
            return Err(refuse(Errno::EINVAL));
        }
        let device = devices.get_mut(id).ok_or(refuse(Errno::ENXIO))?;
        all.into_iter().for_each(|(chunk, place, of)| device.put(chunk, place, Some(of)));
        device.acknowledge_zeroes();
        self.changed.notify_all();
        Ok(())
    }

    fn remap(&self, id: &DeviceId, runs: Durable<&[MappedRun]>) -> Result<(), TargetError> {
        let first = runs.first().map_or(0, |sent| sent.run.at);
        self.message("remap", id, first, |device| {
            for MappedRun { run, generation, .. } in *runs {
                let known = usize::from(run.to.start.lv) < device.data.len();
                if !known || generation.is_some_and(|generation| generation > device.generation) {
                    return Err(Errno::EINVAL);
                }
                for n in 0..run.to.length {
                    let (chunk, to) = (run.at + n, run.to.start.after(n));
                    match device.map.place(chunk) {
                        None => return Err(Errno::ENXIO),
                        Some(there) if there == to => {}
                        Some(_) if device.is_shared(chunk) => {}
                        Some(_) if device.protected.contains(&chunk) => {}
                        Some(_) if device.unchanged.contains(&chunk) => {}
                        Some(_) => return Err(Errno::EBUSY),
                    }
                }
            }
            for MappedRun { run, generation, .. } in *runs {
                for n in 0..run.to.length {
                    let chunk = run.at + n;
                    device.map.remove(chunk, 1);
                    device.undrained.insert(chunk);
                    device.unchanged.remove(&chunk);
                    device.put(chunk, run.to.start.after(n), *generation);
                    device.protected.remove(&chunk);
                    device.watched.remove(&chunk);
                    device.discarded.remove(&chunk);
                }
            }
            Ok(())
        })
    }

    fn watch(&self, id: &DeviceId, ranges: &[Gap]) -> Result<(), TargetError> {
        let Some((first, _)) = ranges.first() else { return Ok(()) };
        self.message("watch", id, *first, |device| {
            let chunks = ranges.iter().flat_map(|&(from, chunks)| from..from + chunks);
            let mapped = chunks.filter(|&chunk| device.map.place(chunk).is_some());
            device.unchanged.extend(mapped.collect::<Vec<_>>());
            Ok(())
        })
    }

    fn drain(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.message("drain", id, 0, |device| {
            device.undrained.clear();
            Ok(())
        })
    }

    fn snapshot(&self, id: &DeviceId, generation: u16) -> Result<(), TargetError> {
        self.message("snapshot", id, 0, |device| match generation.cmp(&device.generation) {
            std::cmp::Ordering::Less => Err(Errno::EINVAL),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                (device.generation, device.mark) = (generation, generation);
                Ok(())
            }
        })
    }

    fn mark(&self, id: &DeviceId, generation: u16) -> Result<(), TargetError> {
        self.message("mark", id, 0, |device| {
            device.mark = device.mark.min(generation);
            Ok(())
        })
    }

    fn freeze(&self, id: &DeviceId, limit: Duration) -> Result<(), TargetError> {
        self.message("freeze", id, 0, |device| {
            device.frozen = Some(Instant::now() + limit);
            Ok(())
        })
    }

    fn thaw(&self, id: &DeviceId) -> Result<(), TargetError> {
        self.message("thaw", id, 0, |device| {
            let in_time = device.is_frozen();
            device.frozen = None;
            in_time.then_some(()).ok_or(Errno::ETIMEDOUT)
        })
    }

    fn is_leaving(&self, id: &DeviceId, chunk: u64) -> Result<bool, TargetError> {
        self.on(id, |device| Ok(device.leaving.contains(&chunk)))
    }

    fn pending(&self, id: &DeviceId) -> Result<Pending, TargetError> {
        self.on(id, |device| {
            if device.refused {
                return Err(Errno::EAGAIN);
            }
            device.rung = false;
            let told = std::mem::take(&mut device.told).into_iter().map(Wish::Ahead);
            let discarded = std::mem::take(&mut device.told_discarded);
            let told = told.chain(discarded.into_iter().map(Wish::Discarded));
            let holes = std::mem::take(&mut device.told_holes);
            let told = told.chain(holes.into_iter().map(Wish::Holed));
            let held = |chunk| device.protected.contains(&chunk) || device.is_shared(chunk);
            let wish = |&chunk: &u64| match held(chunk) {
                true => Wish::Copy(chunk),
                false => Wish::Write(chunk),
            };
            let waits = device.wanted.difference(&device.leaving).filter(|_| !device.is_frozen());
            Ok(Pending { wishes: waits.map(wish).chain(told).collect(), more: false })
        })
    }

    fn dump_part(&self, id: &DeviceId, _part: Range<u64>) -> Result<Dump, TargetError> {
        let state = |device: &FakeDevice, chunk| ChunkState {
            watched: device.watched.contains(&chunk),
            protected: device.protected.contains(&chunk),
            discarded: device.discarded.contains(&chunk),
            unchanged: device.unchanged.contains(&chunk),
        };
        let generation = |device: &FakeDevice, chunk: u64| {
            let of = device.generations.get(&chunk).copied();
            of.filter(|generation| *generation != device.generation)
        };
        self.on(id, |device| {
            let mut runs: Vec<MappedRun> = Vec::new();
            for run in device.map.iter() {
                for chunk in run.at..run.end() {
                    let (run, state) = (run.part(chunk, chunk + 1), state(device, chunk));
                    let generation = generation(device, chunk);
                    match runs.last_mut() {
                        Some(last)
                            if last.state == state
                                && last.generation == generation
                                && last.run.end() == run.at
                                && last.run.to.end() == run.to.start =>
                        {
                            last.run.to.length += 1;
                        }
                        _ => runs.push(MappedRun { run, state, generation }),
                    }
                }
            }
            let leaving = device.leaving.iter().map(|&chunk| (chunk, 1)).collect();
            Ok(Dump { runs, leaving })
        })
    }

    fn leave(&self, id: &DeviceId, from: u64, chunks: u64, force: bool) -> Result<(), TargetError> {
        self.message("leave", id, from, |device| {
            let range = from..from + chunks;
            let spare =
                |chunk: &u64| device.watched.contains(chunk) || device.discarded.contains(chunk);
            let mut mapped = range.clone().filter(|&chunk| device.map.place(chunk).is_some());
            if !force && !mapped.all(|chunk| spare(&chunk)) {
                return Err(Errno::EBUSY);
            }
            let left = device.map.remove(from, chunks);
            device.leaving.extend(left.iter().flat_map(|run| run.at..run.end()));
            if !left.is_empty() {
                device.undrained.clear();
            }
            let (watched, unchanged) = (&mut device.watched, &mut device.unchanged);
            for flags in [watched, unchanged, &mut device.discarded, &mut device.protected] {
                flags.retain(|chunk| !range.contains(chunk));
            }
            device.told_discarded.retain(|chunk| !range.contains(chunk));
            device.generations.retain(|chunk, _| !range.contains(chunk));
            Ok(())
        })
    }

    fn forget(&self, id: &DeviceId, gap: Durable<Gap>) -> Result<(), TargetError> {
        let (from, chunks) = *gap;
        self.message("forget", id, from, |device| {
            device.leaving.retain(|chunk| !(from..from + chunks).contains(chunk));
            self.ring(device);
            Ok(())
        })
    }

    fn protect(&self, id: &DeviceId, ranges: &[Gap], on: bool) -> Result<(), TargetError> {
        let Some((first, _)) = ranges.first() else { return Ok(()) };
        self.message("protect", id, *first, |device| {
            for chunk in ranges.iter().flat_map(|&(from, chunks)| from..from + chunks) {
                if on && device.map.place(chunk).is_some() {
                    device.protected.insert(chunk);
                } else {
                    device.protected.remove(&chunk);
                }
            }
            Ok(())
        })
    }

    fn stats(&self, id: &DeviceId) -> Result<VolumeStats, TargetError> {
        self.on(id, |_| Ok(VolumeStats::default()))
    }

    fn notifier(&self, id: &DeviceId, thread: i32, signal: i32) -> Result<(), TargetError> {
        self.message("notifier", id, 0, |device| {
            (device.thread, device.signal) = (thread, signal);
            let waits = !device.wanted.is_empty() || !device.told.is_empty();
            if waits {
                device.rung = false;
                self.ring(device);
            }
            Ok(())
        })
    }

    fn space(&self, id: &DeviceId, there_is: bool) -> Result<(), TargetError> {
        self.message("space", id, 0, |device| {
            device.nospace = !there_is;
            if !there_is {
                device.wanted.clear();
            }
            Ok(())
        })
    }
}
