// SPDX-License-Identifier: LGPL-2.1-or-later
//! Stand-ins for tests: a disk that loses power, an LVM and a device mapper in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use virtnotify_model::{Bytes, ChunkSize, EventBus, Sectors, VgName, VolumeStats};

use crate::alloc::VolumeMap;
use crate::device::{BlockDevice, Disks};
use crate::engine::EngineConfig;
use crate::lvm::{LvReport, Lvm, LvmError, VgReport};
use crate::names;
use crate::pool::lock;
use crate::pool::start::Parts;
use crate::target::{
    ChunkState, Device, DeviceId, LiveTable, MappedRun, Pending, Status, Table, Target,
    TargetError, Wish,
};

/// The unit that a disk writes wholly or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Default, Clone)]
struct Surface {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Writes and flushes that still succeed, when limited.
    left: Option<u64>,
    /// How long a flush takes.
    slow: Duration,
    operations: u64,
    /// How much was zeroed, call by call.
    zeroed: Vec<u64>,
}

/// A disk in memory. What was written and not flushed may or may not survive a power cut.
#[derive(Debug, Default)]
pub(crate) struct FakeDisk(Mutex<Surface>);

impl FakeDisk {
    /// A disk full of somebody's old data.
    pub(crate) fn used(size: usize) -> Self {
        let live = vec![0xa5; size];
        Self(Mutex::new(Surface { durable: live.clone(), live, ..Surface::default() }))
    }

    /// Every write and flush after so many fails, as if the power were gone.
    pub(crate) fn fail_after(&self, operations: u64) {
        lock(&self.0).left = Some(operations);
    }

    /// The power is back.
    pub(crate) fn heal(&self) {
        lock(&self.0).left = None;
    }

    /// How much was zeroed since the last call, call by call.
    pub(crate) fn zeroed(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.0).zeroed)
    }

    /// A flush takes so long from now on, as on a real disk.
    pub(crate) fn slow_down(&self, flush: Duration) {
        lock(&self.0).slow = flush;
    }

    /// How many writes and flushes there were.
    pub(crate) fn operations(&self) -> u64 {
        lock(&self.0).operations
    }

    /// What a disk has after a power cut now: of the writes that were not flushed, `choose` says
    /// for each sector whether it made it. A later write may survive an earlier one.
    pub(crate) fn after_power_cut(&self, mut choose: impl FnMut() -> bool) -> Self {
        let surface = lock(&self.0);
        let mut durable = surface.durable.clone();
        for (offset, data) in &surface.unsynced {
            for (n, sector) in data.chunks(SECTOR).enumerate() {
                if choose() {
                    let at = offset + n * SECTOR;
                    durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        Self(Mutex::new(Surface { live: durable.clone(), durable, ..Surface::default() }))
    }

    /// Changes what is on the disk behind everybody's back.
    pub(crate) fn damage(&self, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut surface = lock(&self.0);
        change(&mut surface.live[offset..]);
        surface.durable = surface.live.clone();
    }

    pub(crate) fn resize(&self, size: usize) {
        let mut surface = lock(&self.0);
        surface.live.resize(size, 0xa5);
        surface.durable.resize(size, 0xa5);
        surface.unsynced.retain(|(offset, data)| offset + data.len() <= size);
    }

    /// A guest writes: nobody of ours, so it is not counted.
    pub(crate) fn put(&self, offset: u64, data: &[u8]) {
        let mut surface = lock(&self.0);
        let range = Self::range(&surface, offset, data.len()).unwrap();
        surface.live[range.clone()].copy_from_slice(data);
        surface.unsynced.push((range.start, data.to_vec()));
    }

    fn operation(&self) -> io::Result<MutexGuard<'_, Surface>> {
        let mut surface = lock(&self.0);
        surface.operations += 1;
        match &mut surface.left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(surface)
    }

    fn range(surface: &Surface, offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let to = from.checked_add(length).filter(|to| *to <= surface.live.len());
        to.map(|to| from..to).ok_or_else(|| io::Error::other("beyond the end of the disk"))
    }
}

impl BlockDevice for FakeDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.0).live.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let surface = lock(&self.0);
        let range = Self::range(&surface, offset, out.len())?;
        out.copy_from_slice(&surface.live[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut surface = self.operation()?;
        let range = Self::range(&surface, offset, data.len())?;
        surface.live[range.clone()].copy_from_slice(data);
        surface.unsynced.push((range.start, data.to_vec()));
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        lock(&self.0).zeroed.push(length);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.write_at(offset, &vec![0; length])
    }

    fn sync(&self) -> io::Result<()> {
        let slow = lock(&self.0).slow;
        std::thread::sleep(slow);
        let mut surface = self.operation()?;
        for (offset, data) in std::mem::take(&mut surface.unsynced) {
            surface.durable[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Group {
    report: Option<VgReport>,
    disks: BTreeMap<String, Arc<FakeDisk>>,
    made: u32,
    refuse: bool,
    /// Commands that still succeed, when limited.
    left: Option<u64>,
    /// A command that changes a size is killed before it tells the kernel.
    lag: bool,
    /// What was run.
    log: Vec<&'static str>,
}

/// One volume group in memory.
#[derive(Debug, Default)]
pub(crate) struct FakeLvm(Mutex<Group>);

impl FakeLvm {
    fn of(group: Group) -> Self {
        Self(Mutex::new(group))
    }

    /// Every command after so many fails, as if the daemon were killed there.
    pub(crate) fn fail_after(&self, commands: Option<u64>) {
        lock(&self.0).left = commands;
    }

    /// Whether commands that change a size are killed half done from now on.
    pub(crate) fn lag(&self, lag: bool) {
        lock(&self.0).lag = lag;
    }

    /// What was run since the last call.
    pub(crate) fn log(&self) -> Vec<&'static str> {
        std::mem::take(&mut lock(&self.0).log)
    }

    /// Holds LVM's lock: commands wait until the guard is gone.
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        lock(&self.0)
    }

    pub(crate) fn new(size: Bytes, extent: Bytes) -> Arc<Self> {
        let report = VgReport {
            uuid: "group".into(),
            size,
            free: size,
            extent,
            tags: Vec::new(),
            exported: false,
            partial: false,
            shared: false,
            lvs: Vec::new(),
        };
        Arc::new(Self::of(Group { report: Some(report), ..Group::default() }))
    }

    /// Changes the group behind everybody's back.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut VgReport) -> T) -> T {
        change(lock(&self.0).report.as_mut().unwrap())
    }

    /// Whether every command fails from now on.
    pub(crate) fn refuse(&self, refuse: bool) {
        lock(&self.0).refuse = refuse;
    }

    pub(crate) fn disk(&self, lv: &str) -> Arc<FakeDisk> {
        lock(&self.0).disks[lv].clone()
    }

    /// The group after a power cut, with what survived of its disks.
    pub(crate) fn after_power_cut(&self, mut choose: impl FnMut() -> bool) -> Arc<Self> {
        let group = lock(&self.0);
        let survived = |(name, disk): (&String, &Arc<FakeDisk>)| {
            (name.clone(), Arc::new(disk.after_power_cut(&mut choose)))
        };
        let disks = group.disks.iter().map(survived).collect();
        let (report, made) = (group.report.clone(), group.made);
        Arc::new(Self::of(Group { report, disks, made, ..Group::default() }))
    }

    fn failed(why: &str) -> LvmError {
        LvmError::Failed { command: "lvm".into(), status: "5".into(), stderr: why.into() }
    }

    fn run<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut Group) -> Result<T, LvmError>,
    ) -> Result<T, LvmError> {
        let mut group = lock(&self.0);
        group.log.push(name);
        let killed = match &mut group.left {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => group.refuse,
        };
        if killed {
            return Err(LvmError::Timeout { command: "lvm".into(), seconds: 0 });
        }
        work(&mut group)
    }

    fn resize(&self, lv: &str, to: Bytes, larger: bool) -> Result<(), LvmError> {
        self.run(if larger { "lvextend" } else { "lvreduce" }, |group| {
            let report = group.report.as_mut().unwrap();
            let to = to.round_up(report.extent).unwrap();
            let size = report.lv(lv).ok_or_else(|| Self::failed("not found"))?.size;
            if (to > size) != larger || to == size {
                return Err(Self::failed("nothing to change"));
            }
            let free = report.free.saturating_add(size);
            if to > free {
                return Err(Self::failed("insufficient free space"));
            }
            report.free = free.saturating_sub(to);
            report.lvs.iter_mut().find(|l| l.name == lv).unwrap().size = to;
            if group.lag {
                return Err(LvmError::Timeout { command: "lvm".into(), seconds: 0 });
            }
            group.disks[lv].resize(usize::try_from(to.0).unwrap());
            Ok(())
        })
    }
}

fn retag(tags: &mut Vec<String>, add: &[&str], del: &[&str]) {
    tags.retain(|tag| !del.contains(&tag.as_str()));
    tags.extend(add.iter().map(|&tag| tag.to_owned()));
}

impl Lvm for FakeLvm {
    fn report(&self, _: &VgName) -> Result<VgReport, LvmError> {
        self.run("vgs", |group| Ok(group.report.clone().unwrap()))
    }

    fn groups(&self) -> Result<Vec<virtnotify_model::PoolSource>, LvmError> {
        Ok(Vec::new())
    }

    fn create_lv(&self, _: &VgName, lv: &str, size: Bytes, tags: &[&str]) -> Result<(), LvmError> {
        self.run("lvcreate", |group| {
            group.made += 1;
            let uuid = format!("{:06}-0000-0000-0000-0000-0000-000000", group.made);
            let report = group.report.as_mut().unwrap();
            let size = size.round_up(report.extent).unwrap();
            if size > report.free || report.lv(lv).is_some() {
                return Err(Self::failed("no room, or there already"));
            }
            report.free = report.free.saturating_sub(size);
            let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
            report.lvs.push(LvReport { name: lv.into(), uuid, size, tags, active: true });
            let disk = FakeDisk::used(usize::try_from(size.0).unwrap());
            group.disks.insert(lv.into(), Arc::new(disk));
            Ok(())
        })
    }

    fn extend_lv(&self, _: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError> {
        self.resize(lv, to, true)
    }

    fn reduce_lv(&self, _: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError> {
        self.resize(lv, to, false)
    }

    fn refresh_lv(&self, _: &VgName, lv: &str) -> Result<(), LvmError> {
        self.run("lvchange --refresh", |group| {
            let size = group.report.as_ref().unwrap().lv(lv).unwrap().size;
            if !group.lag {
                group.disks[lv].resize(usize::try_from(size.0).unwrap());
            }
            Ok(())
        })
    }

    fn remove_lv(&self, _: &VgName, lv: &str) -> Result<(), LvmError> {
        self.run("lvremove", |group| {
            let report = group.report.as_mut().unwrap();
            let size = report.lv(lv).ok_or_else(|| Self::failed("not found"))?.size;
            report.free = report.free.saturating_add(size);
            report.lvs.retain(|l| l.name != lv);
            group.disks.remove(lv);
            Ok(())
        })
    }

    fn activate_lv(&self, _: &VgName, lv: &str, active: bool) -> Result<(), LvmError> {
        self.run("lvchange", |group| {
            let report = group.report.as_mut().unwrap();
            let found = report.lvs.iter_mut().find(|l| l.name == lv);
            found.ok_or_else(|| Self::failed("not found"))?.active = active;
            Ok(())
        })
    }

    fn tag_lv(&self, _: &VgName, lv: &str, add: &[&str], del: &[&str]) -> Result<(), LvmError> {
        self.run("lvchange --addtag", |group| {
            let report = group.report.as_mut().unwrap();
            let found = report.lvs.iter_mut().find(|l| l.name == lv);
            retag(&mut found.ok_or_else(|| Self::failed("not found"))?.tags, add, del);
            Ok(())
        })
    }

    fn tag_vg(&self, _: &VgName, add: &[&str], del: &[&str]) -> Result<(), LvmError> {
        self.run("vgchange", |group| {
            retag(&mut group.report.as_mut().unwrap().tags, add, del);
            Ok(())
        })
    }

    fn create_vg(&self, _: &VgName, _: &[std::path::PathBuf], _: bool) -> Result<(), LvmError> {
        Err(Self::failed("there is one already"))
    }

    fn remove_vg(&self, _: &VgName) -> Result<(), LvmError> {
        self.run("vgremove", |group| {
            let empty = group.report.as_ref().unwrap().lvs.is_empty();
            if empty { Ok(()) } else { Err(Self::failed("not empty")) }
        })
    }

    fn remove_pv(&self, _: &Path) -> Result<(), LvmError> {
        self.run("pvremove", |_| Ok(()))
    }
}

impl Disks for FakeLvm {
    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn BlockDevice>> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let group = lock(&self.0);
        let found = group
            .disks
            .get(&name)
            .filter(|_| group.report.as_ref().unwrap().lv(&name).is_some_and(|lv| lv.active));
        found.map(|disk| disk.clone() as _).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn number(&self, path: &Path) -> io::Result<(u32, u32)> {
        Ok(number_of(path))
    }
}

/// The device number that a logical volume has here, by its name.
fn number_of(path: &Path) -> (u32, u32) {
    let name = path.file_name().unwrap().to_string_lossy();
    (254, names::data_lv_index(&name).map_or(99, u32::from))
}

#[derive(Debug, Default, Clone)]
pub(crate) struct FakeDevice {
    pub(crate) name: String,
    pub(crate) minor: u32,
    pub(crate) openers: u32,
    pub(crate) length: Sectors,
    pub(crate) chunk: ChunkSize,
    data: Vec<std::path::PathBuf>,
    pub(crate) map: VolumeMap,
    wanted: BTreeSet<u64>,
    pub(crate) watched: BTreeSet<u64>,
    pub(crate) protected: BTreeSet<u64>,
    pub(crate) discarded: BTreeSet<u64>,
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
    /// Runs before a chunk is unmapped.
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
pub(crate) fn mark(id: &DeviceId, chunk: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
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
                if let Some((disk, size)) = &*lock(&self.ground) {
                    disk.put(place.chunk * size, &mark(id, chunk));
                }
                return Some(true);
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

    /// Has this done before each unmapping, with the device and its first chunk.
    pub(crate) fn before_unmap(&self, act: impl FnMut(&Self, &DeviceId, u64) + Send + 'static) {
        *lock(&self.interrupt.0) = Some(Box::new(act));
    }

    pub(crate) fn state(&self, id: &DeviceId) -> FakeDevice {
        lock(&self.devices)[id].clone()
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
        lock(&self.devices).remove(id);
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
                    if *state == ChunkState::Watched {
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
                wishes: device.wanted.iter().map(wish).chain(told).collect(),
                more: false,
            })
        })
    }

    fn dump(&self, id: &DeviceId) -> Result<Vec<MappedRun>, TargetError> {
        let state = |device: &FakeDevice, chunk| match chunk {
            _ if device.watched.contains(&chunk) => ChunkState::Watched,
            _ if device.protected.contains(&chunk) => ChunkState::Protected,
            _ if device.discarded.contains(&chunk) => ChunkState::Discarded,
            _ => ChunkState::Plain,
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
            Ok(runs)
        })
    }

    fn unmap(&self, id: &DeviceId, from: u64, chunks: u64, force: bool) -> Result<(), TargetError> {
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
            device.map.remove(from, chunks);
            for flags in [&mut device.watched, &mut device.discarded, &mut device.protected] {
                flags.retain(|chunk| !range.contains(chunk));
            }
            device.told_discarded.retain(|chunk| !range.contains(chunk));
            Ok(())
        })
    }

    fn protect(&self, id: &DeviceId, from: u64, chunks: u64, on: bool) -> Result<(), TargetError> {
        self.on(id, |device| {
            for chunk in from..from + chunks {
                if on && device.map.place(chunk).is_some() {
                    device.protected.insert(chunk);
                    device.watched.remove(&chunk);
                    device.discarded.remove(&chunk);
                    device.told.remove(&chunk);
                    device.told_discarded.remove(&chunk);
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

/// The parts of an engine that runs in a directory.
pub(crate) fn parts(
    dir: &Path,
    lvm: &Arc<FakeLvm>,
    target: &Arc<FakeTarget>,
    bus: &EventBus,
) -> Parts {
    let config = EngineConfig {
        run_dir: dir.join("run"),
        dev_dir: dir.to_owned(),
        headroom: Some(Bytes::mib(4)),
        lvm_backup: dir.join("backup"),
        backup_dir: dir.join("maps"),
        step: Bytes::mib(4),
        ..EngineConfig::default()
    };
    let (lvm, disks, target) = (lvm.clone(), lvm.clone(), target.clone());
    Parts { config, lvm, target, disks, bus: bus.clone() }
}

/// The id of a volume's device.
pub(crate) fn device_of(uuid: uuid::Uuid) -> DeviceId {
    DeviceId(names::dm_uuid(uuid))
}
