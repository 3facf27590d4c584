// SPDX-License-Identifier: LGPL-2.1-or-later
//! A disk in memory that loses power.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::BlockDevice;
use crate::runtime::lock_plain as lock;

/// The unit that a disk writes wholly or not at all.
pub(crate) const SECTOR: usize = 512;

/// The power of a host: how many operations still succeed, when limited. An operation is a write or
/// flush of a disk, or the beginning or the end of a call that changes something in LVM or the
/// device mapper.
#[derive(Debug, Default)]
pub(crate) struct Power(Mutex<Option<u64>>);

impl Power {
    /// Every operation after so many fails.
    pub(crate) fn cut_after(&self, operations: u64) {
        *lock(&self.0) = Some(operations);
    }

    /// Whether it has gone: the next operation fails.
    pub(crate) fn is_gone(&self) -> bool {
        *lock(&self.0) == Some(0)
    }

    pub(super) fn use_once(&self) -> io::Result<()> {
        match &mut *lock(&self.0) {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

#[derive(Debug, Default, Clone)]
struct Surface {
    power: Arc<Power>,
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Writes and flushes that still succeed, when limited.
    left: Option<u64>,
    /// Writes that touch this place fail.
    bad: Option<usize>,
    /// Reads that touch one of these sectors fail, until it is written.
    unreadable: BTreeSet<usize>,
    writes: u64,
    flushes: u64,
    /// Whether one was refused, and not for want of power.
    failed: bool,
    /// How much was zeroed, call by call.
    zeroed: Vec<u64>,
    /// What was discarded, call by call, and whether and how it is refused.
    discarded: Vec<(u64, u64)>,
    no_discards: Option<i32>,
}

/// A disk in memory. What was written and not flushed may or may not survive a power cut.
#[derive(Debug, Default)]
pub(crate) struct FakeDisk {
    surface: Mutex<Surface>,
    interrupt: Interrupt,
}

/// What happens at an inconvenient moment: before a write that begins with this byte, once.
#[derive(Default)]
struct Interrupt(Mutex<Option<(u8, Act)>>);

type Act = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

impl FakeDisk {
    /// A disk full of an earlier tenant's data.
    pub(crate) fn used(size: usize) -> Self {
        Self::used_with(size, Arc::default())
    }

    /// The same, of a host with this power.
    pub(super) fn used_with(size: usize, power: Arc<Power>) -> Self {
        let live = vec![0xa5; size];
        Self::of(Surface { power, durable: live.clone(), live, ..Surface::default() })
    }

    fn of(surface: Surface) -> Self {
        Self { surface: Mutex::new(surface), interrupt: Interrupt::default() }
    }

    /// Has this done once, before a write whose first byte is `byte`.
    pub(crate) fn before_write_of(&self, byte: u8, act: impl FnOnce() + Send + 'static) {
        *lock(&self.interrupt.0) = Some((byte, Box::new(act)));
    }

    /// Holds the disk: all its users wait until the guard is gone.
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        lock(&self.surface)
    }

    /// Every write and flush after so many fails, until the disk is healed.
    pub(crate) fn fail_after(&self, operations: u64) {
        lock(&self.surface).left = Some(operations);
    }

    /// Every write that touches this place fails, until the disk is healed.
    pub(crate) fn go_bad_at(&self, offset: u64) {
        lock(&self.surface).bad = Some(usize::try_from(offset).unwrap());
    }

    /// Reads that touch this place fail, until it is written: the disk puts the sector elsewhere then.
    pub(crate) fn become_unreadable_at(&self, offset: u64) {
        let sector = usize::try_from(offset).unwrap() / SECTOR;
        lock(&self.surface).unreadable.insert(sector);
    }

    /// How many sectors cannot be read.
    pub(crate) fn unreadable(&self) -> usize {
        lock(&self.surface).unreadable.len()
    }

    /// Writes and flushes succeed again.
    pub(crate) fn heal(&self) {
        let mut surface = lock(&self.surface);
        (surface.left, surface.bad) = (None, None);
    }

    /// Whether a write or flush was refused.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.surface).failed
    }

    /// What was discarded since the last call, call by call: where, and how much.
    pub(crate) fn discarded(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut lock(&self.surface).discarded)
    }

    /// Discards fail with this error from now on.
    pub(crate) fn refuse_discards(&self, errno: nix::errno::Errno) {
        lock(&self.surface).no_discards = Some(errno as i32);
    }

    /// How much was zeroed since the last call, call by call.
    pub(crate) fn zeroed(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.surface).zeroed)
    }

    /// How many writes there were, and how many flushes.
    pub(crate) fn operations(&self) -> (u64, u64) {
        let surface = lock(&self.surface);
        (surface.writes, surface.flushes)
    }

    /// What a disk has after a power cut now: of the writes that were not flushed, `choose` says
    /// for each sector whether it made it. A later write may survive an earlier one.
    pub(crate) fn after_power_cut(&self, choose: impl FnMut() -> bool) -> Self {
        self.survivor(Arc::default(), choose)
    }

    /// The same, as the disk of a host with this power.
    pub(super) fn survivor(&self, power: Arc<Power>, mut choose: impl FnMut() -> bool) -> Self {
        let surface = lock(&self.surface);
        let mut durable = surface.durable.clone();
        for (offset, data) in &surface.unsynced {
            for (n, sector) in data.chunks(SECTOR).enumerate() {
                if choose() {
                    let at = offset + n * SECTOR;
                    durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        let (live, unreadable) = (durable.clone(), surface.unreadable.clone());
        Self::of(Surface { power, live, durable, unreadable, ..Surface::default() })
    }

    /// Changes what is on the disk without the engine's knowledge.
    pub(crate) fn damage(&self, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut surface = lock(&self.surface);
        change(&mut surface.live[offset..]);
        surface.durable = surface.live.clone();
    }

    pub(crate) fn resize(&self, size: usize) {
        let mut guard = lock(&self.surface);
        let surface = &mut *guard;
        for bytes in [&mut surface.live, &mut surface.durable] {
            // `Vec::resize` takes each byte by itself where nothing is optimised.
            let more = vec![0xa5; size.saturating_sub(bytes.len())];
            bytes.truncate(size);
            bytes.extend_from_slice(&more);
        }
        surface.unsynced.retain(|(offset, data)| offset + data.len() <= size);
    }

    /// A guest writes past every cache, which is not counted; says whether it could.
    pub(crate) fn put(&self, offset: u64, data: &[u8]) -> bool {
        let mut surface = lock(&self.surface);
        if surface.power.is_gone() {
            return false;
        }
        let range = Self::range(&surface, offset, data.len()).unwrap();
        surface.live[range.clone()].copy_from_slice(data);
        surface.durable[range.clone()].copy_from_slice(data);
        // What was written there before cannot come back.
        for (start, older) in &mut surface.unsynced {
            let from = range.start.max(*start);
            let to = range.end.min(*start + older.len());
            if from < to {
                older[from - *start..to - *start]
                    .copy_from_slice(&data[from - range.start..to - range.start]);
            }
        }
        true
    }

    fn operation(&self) -> io::Result<MutexGuard<'_, Surface>> {
        let mut surface = lock(&self.surface);
        match &mut surface.left {
            Some(0) => {
                surface.failed = true;
                return Err(io::Error::other("the disk fails"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        surface.power.use_once()?;
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
        Ok(lock(&self.surface).live.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let surface = lock(&self.surface);
        let range = Self::range(&surface, offset, out.len())?;
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        if surface.unreadable.range(sectors).next().is_some() {
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32));
        }
        out.copy_from_slice(&surface.live[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let act = lock(&self.interrupt.0).take_if(|(byte, _)| data.first() == Some(byte));
        if let Some((_, act)) = act {
            act();
        }
        let mut surface = self.operation()?;
        surface.writes += 1;
        let range = Self::range(&surface, offset, data.len())?;
        if surface.bad.is_some_and(|bad| range.contains(&bad)) {
            surface.failed = true;
            return Err(io::Error::other("the disk is bad there"));
        }
        surface.live[range.clone()].copy_from_slice(data);
        let whole = range.start.div_ceil(SECTOR)..range.end / SECTOR;
        surface.unreadable.retain(|sector| !whole.contains(sector));
        surface.unsynced.push((range.start, data.to_vec()));
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        lock(&self.surface).zeroed.push(length);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.write_at(offset, &vec![0; length])
    }

    /// What it holds afterwards is an earlier tenant's data, at once and durably.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut surface = self.operation()?;
        let range =
            Self::range(&surface, offset, usize::try_from(length).map_err(io::Error::other)?)?;
        surface.discarded.push((offset, length));
        if let Some(errno) = surface.no_discards {
            return Err(io::Error::from_raw_os_error(errno));
        }
        surface.unsynced.retain(|(at, _)| !range.contains(at));
        surface.live[range.clone()].fill(0xa5);
        surface.durable[range].fill(0xa5);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut surface = self.operation()?;
        surface.flushes += 1;
        for (offset, data) in std::mem::take(&mut surface.unsynced) {
            surface.durable[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }
}
