// SPDX-License-Identifier: LGPL-2.1-or-later
//! A disk in memory that loses power.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::BlockDevice;
use crate::pool::lock;

/// The unit that a disk writes wholly or not at all.
pub(super) const SECTOR: usize = 512;

/// The power of a host: how many writes and flushes of all of its disks still succeed, when
/// limited.
#[derive(Debug, Default)]
pub(crate) struct Power(Mutex<Option<u64>>);

impl Power {
    /// Every write and flush of every disk after so many fails.
    pub(crate) fn cut_after(&self, operations: u64) {
        *lock(&self.0) = Some(operations);
    }

    /// Whether the next write or flush fails.
    pub(crate) fn is_gone(&self) -> bool {
        *lock(&self.0) == Some(0)
    }

    fn use_once(&self) -> io::Result<()> {
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
    writes: u64,
    flushes: u64,
    /// Whether one was refused, and not for want of power.
    failed: bool,
    /// How much was zeroed, call by call.
    zeroed: Vec<u64>,
}

/// A disk in memory. What was written and not flushed may or may not survive a power cut.
#[derive(Debug, Default)]
pub(crate) struct FakeDisk(Mutex<Surface>);

impl FakeDisk {
    /// A disk full of an earlier tenant's data.
    pub(crate) fn used(size: usize) -> Self {
        Self::used_with(size, Arc::default())
    }

    /// The same, of a host with this power.
    pub(super) fn used_with(size: usize, power: Arc<Power>) -> Self {
        let live = vec![0xa5; size];
        Self(Mutex::new(Surface { power, durable: live.clone(), live, ..Surface::default() }))
    }

    /// Holds the disk: whoever uses it waits until the guard is gone.
    pub(crate) fn hold(&self) -> impl Drop + '_ {
        lock(&self.0)
    }

    /// Every write and flush after so many fails, until the disk is healed.
    pub(crate) fn fail_after(&self, operations: u64) {
        lock(&self.0).left = Some(operations);
    }

    /// Writes and flushes succeed again.
    pub(crate) fn heal(&self) {
        lock(&self.0).left = None;
    }

    /// Whether a write or flush was refused.
    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.0).failed
    }

    /// How much was zeroed since the last call, call by call.
    pub(crate) fn zeroed(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.0).zeroed)
    }

    /// How many writes there were, and how many flushes.
    pub(crate) fn operations(&self) -> (u64, u64) {
        let surface = lock(&self.0);
        (surface.writes, surface.flushes)
    }

    /// What a disk has after a power cut now: of the writes that were not flushed, `choose` says
    /// for each sector whether it made it. A later write may survive an earlier one.
    pub(crate) fn after_power_cut(&self, choose: impl FnMut() -> bool) -> Self {
        self.survivor(Arc::default(), choose)
    }

    /// The same, as the disk of a host with this power.
    pub(super) fn survivor(&self, power: Arc<Power>, mut choose: impl FnMut() -> bool) -> Self {
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
        Self(Mutex::new(Surface { power, live: durable.clone(), durable, ..Surface::default() }))
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

    /// A guest writes past every cache, which is not counted; says whether it could.
    pub(crate) fn put(&self, offset: u64, data: &[u8]) -> bool {
        let mut surface = lock(&self.0);
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
        let mut surface = lock(&self.0);
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
        surface.writes += 1;
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
        let mut surface = self.operation()?;
        surface.flushes += 1;
        for (offset, data) in std::mem::take(&mut surface.unsynced) {
            surface.durable[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }
}
