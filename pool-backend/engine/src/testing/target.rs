// SPDX-License-Identifier: LGPL-2.1-or-later
//! A device mapper in memory, with guests that write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use virtnotify_model::{ChunkSize, Sectors, VolumeStats};

use super::{FakeDisk, number_of};
use crate::alloc::VolumeMap;
use crate::pool::lock;
use crate::target::{
    ChunkState, Device, DeviceId, Dump, LiveTable, MappedRun, Pending, Status, Table, Target,
    TargetError, Wish,
};

#[derive(Debug, Default, Clone)]
pub(crate) struct FakeDevice {
    pub(crate) name: String,
    pub(crate) minor: u32,
    pub(crate) openers: u32,
    /// Somebody opens it whenever it is about to be removed.
    pub(crate) contended: bool,
    pub(crate) length: Sectors,
    pub(crate) chunk: ChunkSize,
    data: Vec<std::path::PathBuf>,
    pub(crate) map: VolumeMap,
    wanted: BTreeSet<u64>,
    pub(crate) watched: BTreeSet<u64>,
    pub(crate) protected: BTreeSet<u64>,
    pub(crate) discarded: BTreeSet<u64>,
    /// What has left and is not forgotten.
    pub(crate) leaving: BTreeSet<u64>,
    told: BTreeSet<u64>,
    told_discarded: BTreeSet<u64>,
    failed: u64,
    nospace: bool,
    thread: i32,
    signal: i32,
}

/// A device mapper in memory, with guests that write. It outlives the engines of a test.
#[derive(Debug, Default)]
pub(crate) struct FakeTarget {
    devices: Mutex<BTreeMap<DeviceId, FakeDevice>>,
    changed: Condvar,
    /// Whether signals get lost.
    deaf: Mutex<bool>,
    /// Where what guests write goes to, and the size of a chunk.
    ground: Mutex<Option<(Arc<FakeDisk>, u64)>>,
    /// Runs before chunks leave.
    interrupt: Interrupt,
}

type Interruption = dyn FnMut(&FakeTarget, &DeviceId, u64) + Send;

/// What somebody else does at an inconvenient moment.
#[derive(Default)]
struct Interrupt(Mutex<Option<Box<Interruption>>>);

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

/// What a guest writes into the first sector of a chunk.
pub(crate) fn mark(id: &DeviceId, chunk: u64) -> [u8; super::SECTOR] {
    let mut sector = [0; super::SECTOR];
    let text = format!("{} wrote {chunk}", id.0);
    sector[..text.len()].copy_from_slice(text.as_bytes());
    sector
}

impl FakeTarget {
    /// Rings as the kernel does, unless signals get lost.
    fn ring(&self, device: &FakeDevice) {
        if *lock(&self.deaf) || device.thread == 0 {
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
    }

    /// Rings without a reason, for another minor if one is given.
    pub(crate) fn ring_falsely(&self, id: &DeviceId, minor: Option<u32>) {
        let mut device = self.state(id);
        device.minor = minor.unwrap_or(device.minor);
        self.ring(&device);
    }

    pub(crate) fn lose_signals(&self, lose: bool) {
        *lock(&self.deaf) = lose;
    }

    /// A guest writes to a chunk: true when it went through, false when it got "no space".
    pub(crate) fn write(&self, id: &DeviceId, chunk: u64) -> bool {
        let done = self.try_write(id, chunk, Duration::from_secs(20));
        done.unwrap_or_else(|| panic!("a write to chunk {chunk} waits for ever"))
    }

    /// The same, `None` when it still waits after that long.
    pub(crate) fn try_write(&self, id: &DeviceId, chunk: u64, limit: Duration) -> Option<bool> {
        let mut devices = lock(&self.devices);
        let deadline = Instant::now() + limit;
        loop {
            let device = devices.get_mut(id).expect("a device");
            let place = device.map.place(chunk);
            if let Some(place) = place.filter(|_| !device.protected.contains(&chunk)) {
                device.discarded.remove(&chunk);
                device.told_discarded.remove(&chunk);
                if device.watched.remove(&chunk) {
                    device.told.insert(chunk);
                    let ringing = device.clone();
                    self.ring(&ringing);
                }
                device.wanted.remove(&chunk);
                let ground = lock(&self.ground).clone();
                let put = |(disk, size): (Arc<FakeDisk>, u64)| {
                    disk.put(place.chunk * size, &mark(id, chunk))
                };
                // Without power nobody hears that it is done.
                return ground.is_none_or(put).then_some(true);
            }
            if device.nospace {
                device.wanted.remove(&chunk);
                return Some(false);
            }
            device.wanted.insert(chunk);
            let ringing = device.clone();
            self.ring(&ringing);
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return None;
            }
            devices = self.changed.wait_timeout(devices, left).unwrap().0;
        }
    }

    /// A guest writes zeroes to the beginning of a chunk, which needs none where there is a hole:
    /// true when they are acknowledged, false when they still wait after that long.
    pub(crate) fn try_zeroes(&self, id: &DeviceId, chunk: u64, limit: Duration) -> bool {
        let mut devices = lock(&self.devices);
        let deadline = Instant::now() + limit;
        loop {
            let device = devices.get_mut(id).expect("a device");
            if let Some(place) = device.map.place(chunk) {
                if !device.protected.contains(&chunk) {
                    device.discarded.remove(&chunk);
                    device.told_discarded.remove(&chunk);
                    if let Some((disk, size)) = &*lock(&self.ground) {
                        disk.put(place.chunk * size, &[0; super::SECTOR]);
                    }
                    return true;
                }
            } else if !device.leaving.contains(&chunk) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            devices = self.changed.wait_timeout(devices, left).unwrap().0;
        }
    }

    /// A guest discards chunks.
    pub(crate) fn discard(&self, id: &DeviceId, chunks: std::ops::Range<u64>) {
        let mut devices = lock(&self.devices);
        let device = devices.get_mut(id).expect("a device");
        for chunk in chunks {
            let special = device.watched.contains(&chunk) || device.protected.contains(&chunk);
            if device.map.place(chunk).is_some() && !special && device.discarded.insert(chunk) {
                device.told_discarded.insert(chunk);
            }
        }
        let ringing = device.clone();
        drop(devices);
        self.ring(&ringing);
    }

    /// What guests write is on this disk from now on.
    pub(crate) fn write_to(&self, disk: Arc<FakeDisk>, chunk: u64) {
        *lock(&self.ground) = Some((disk, chunk));
    }

    /// Whether what guests write is on a disk.
    pub(crate) fn ground(&self) -> bool {
        lock(&self.ground).is_some()
    }

    /// Has this done before chunks leave, each time, with the device and the first chunk.
    pub(crate) fn before_leave(&self, act: impl FnMut(&Self, &DeviceId, u64) + Send + 'static) {
        *lock(&self.interrupt.0) = Some(Box::new(act));
    }

    pub(crate) fn state(&self, id: &DeviceId) -> FakeDevice {
        lock(&self.devices)[id].clone()
    }

    /// All devices, as they are at one moment.
    pub(crate) fn all(&self) -> BTreeMap<DeviceId, FakeDevice> {
        lock(&self.devices).clone()
    }

    /// Changes a device behind everybody's back.
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
        done.map_err(|errno| TargetError::Refused { step: "use", device: id.0.clone(), errno })
    }
}

fn shown(id: &DeviceId, device: &FakeDevice) -> Device {
    let (name, minor, openers) = (device.name.clone(), device.minor, device.openers);
    Device { id: id.clone(), name, minor, openers, length: device.length, live: true }
}

impl Target for FakeTarget {
    fn check(&self) -> Result<(), TargetError> {
        Ok(())
    }

    fn devices(&self) -> Result<Vec<Device>, TargetError> {
        Ok(lock(&self.devices).iter().map(|(id, device)| shown(id, device)).collect())
    }

    fn create(&self, name: &str, id: &DeviceId, table: &Table) -> Result<Device, TargetError> {
        let mut devices = lock(&self.devices);
        let minor = devices.values().map(|d| d.minor + 1).max().unwrap_or(7);
        let (thread, signal) = (table.thread, table.signal);
        let (name, length, chunk) = (name.to_owned(), table.length, table.chunk);
        let data = table.devices.clone();
        let device =
            FakeDevice { name, minor, length, chunk, data, thread, signal, ..Default::default() };
        assert!(devices.insert(id.clone(), device.clone()).is_none(), "it is there already");
        Ok(shown(id, &device))
    }

    fn reload(&self, id: &DeviceId, table: &Table) -> Result<(), TargetError> {
        self.on(id, |device| {
            device.length = table.length;
            Ok(())
        })
    }

    fn remove(&self, id: &DeviceId) -> Result<(), TargetError> {
        let mut devices = lock(&self.devices);
        if devices.get(id).is_some_and(|device| device.openers > 0 || device.contended) {
            let (device, errno) = (id.0.clone(), Errno::EBUSY);
            return Err(TargetError::Refused { step: "remove", device, errno });
        }
        devices.remove(id);
        Ok(())
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
            })
        })
    }

    fn live_table(&self, id: &DeviceId) -> Result<LiveTable, TargetError> {
        self.on(id, |device| {
            let devices = device.data.iter().map(|path| number_of(path)).collect();
            Ok(LiveTable { length: device.length, chunk: device.chunk, devices })
        })
    }

    fn map(&self, id: &DeviceId, runs: &[MappedRun]) -> Result<(), TargetError> {
        self.on(id, |device| {
            let chunks: u64 = runs.iter().map(|sent| sent.run.to.length).sum();
            let each = runs.iter().flat_map(|sent| sent.run.at..sent.run.end());
            if (each.collect::<BTreeSet<_>>().len() as u64) < chunks {
                return Err(Errno::EINVAL);
            }
            for MappedRun { run, state } in runs {
                for n in 0..run.to.length {
                    match device.map.place(run.at + n) {
                        Some(there) if there == run.to.start.after(n) => continue,
                        Some(_) => return Err(Errno::EEXIST),
                        None => {}
                    }
                    let to = crate::alloc::Extent { start: run.to.start.after(n), length: 1 };
                    device.map.insert(crate::alloc::Run { at: run.at + n, to }).unwrap();
                    device.leaving.remove(&(run.at + n));
                    if state.watched {
                        device.watched.insert(run.at + n);
                    }
                }
            }
            Ok(())
        })
    }

    fn pending(&self, id: &DeviceId) -> Result<Pending, TargetError> {
        self.on(id, |device| {
            let told = std::mem::take(&mut device.told).into_iter().map(Wish::Ahead);
            let discarded = std::mem::take(&mut device.told_discarded);
            let told = told.chain(discarded.into_iter().map(Wish::Discarded));
            let wish = |&chunk: &u64| match device.protected.contains(&chunk) {
                true => Wish::Copy(chunk),
                false => Wish::Write(chunk),
            };
            Ok(Pending {
                wishes: device.wanted.difference(&device.leaving).map(wish).chain(told).collect(),
                more: false,
            })
        })
    }

    fn dump(&self, id: &DeviceId) -> Result<Dump, TargetError> {
        let state = |device: &FakeDevice, chunk| ChunkState {
            watched: device.watched.contains(&chunk),
            protected: device.protected.contains(&chunk),
            discarded: device.discarded.contains(&chunk),
        };
        self.on(id, |device| {
            let mut runs: Vec<MappedRun> = Vec::new();
            for run in device.map.iter() {
                for chunk in run.at..run.end() {
                    let (run, state) = (run.part(chunk, chunk + 1), state(device, chunk));
                    match runs.last_mut() {
                        Some(last)
                            if last.state == state
                                && last.run.end() == run.at
                                && last.run.to.end() == run.to.start =>
                        {
                            last.run.to.length += 1;
                        }
                        _ => runs.push(MappedRun { run, state }),
                    }
                }
            }
            let leaving = device.leaving.iter().map(|&chunk| (chunk, 1)).collect();
            Ok(Dump { runs, leaving })
        })
    }

    fn leave(&self, id: &DeviceId, from: u64, chunks: u64, force: bool) -> Result<(), TargetError> {
        if let Some(act) = &mut *lock(&self.interrupt.0) {
            act(self, id, from);
        }
        self.on(id, |device| {
            let range = from..from + chunks;
            let spare =
                |chunk: &u64| device.watched.contains(chunk) || device.discarded.contains(chunk);
            let mut mapped = range.clone().filter(|&chunk| device.map.place(chunk).is_some());
            if !force && !mapped.all(|chunk| spare(&chunk)) {
                return Err(Errno::EBUSY);
            }
            let left = device.map.remove(from, chunks);
            device.leaving.extend(left.iter().flat_map(|run| run.at..run.end()));
            for flags in [&mut device.watched, &mut device.discarded, &mut device.protected] {
                flags.retain(|chunk| !range.contains(chunk));
            }
            device.told_discarded.retain(|chunk| !range.contains(chunk));
            Ok(())
        })
    }

    fn forget(&self, id: &DeviceId, from: u64, chunks: u64) -> Result<(), TargetError> {
        self.on(id, |device| {
            device.leaving.retain(|chunk| !(from..from + chunks).contains(chunk));
            let ringing = device.clone();
            self.ring(&ringing);
            Ok(())
        })
    }

    fn protect(&self, id: &DeviceId, from: u64, chunks: u64, on: bool) -> Result<(), TargetError> {
        self.on(id, |device| {
            for chunk in from..from + chunks {
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
        self.on(id, |device| {
            (device.thread, device.signal) = (thread, signal);
            let waits = !device.wanted.is_empty() || !device.told.is_empty();
            if waits {
                self.ring(device);
            }
            Ok(())
        })
    }

    fn space(&self, id: &DeviceId, there_is: bool) -> Result<(), TargetError> {
        self.on(id, |device| {
            device.nospace = !there_is;
            if !there_is {
                device.wanted.clear();
            }
            Ok(())
        })
    }
}
