// SPDX-License-Identifier: LGPL-2.1-or-later
//! Guests that use the volumes of a device mapper in memory.

use std::time::Duration;

use super::FakeTarget;
use super::target::Ground;
use crate::device::BlockDevice;
use crate::pool::lock;
use crate::runtime::Instant;
use crate::target::DeviceId;

/// What a guest writes into the first sector of a chunk.
pub(crate) fn mark(id: &DeviceId, chunk: u64) -> [u8; super::SECTOR] {
    let mut sector = [0; super::SECTOR];
    let text = format!("{} wrote {chunk}", id.0);
    sector[..text.len()].copy_from_slice(text.as_bytes());
    sector
}

impl FakeTarget {
    /// A guest writes to a chunk: true when it went through, false when it got "no space", or an
    /// error because the volume ends before it, or is gone.
    pub(crate) fn write(&self, id: &DeviceId, chunk: u64) -> bool {
        let done = self.try_write(id, chunk, Duration::from_secs(20));
        done.unwrap_or_else(|| panic!("a write to chunk {chunk} waits for ever"))
    }

    /// The same, `None` when it still waits after that long.
    pub(crate) fn try_write(&self, id: &DeviceId, chunk: u64, limit: Duration) -> Option<bool> {
        self.try_put(id, chunk, &mark(id, chunk), limit)
    }

    /// The same with this in the first sector.
    pub(crate) fn try_put(
        &self,
        id: &DeviceId,
        chunk: u64,
        sector: &[u8; super::SECTOR],
        limit: Duration,
    ) -> Option<bool> {
        self.try_put_at(id, chunk, 0, sector, limit)
    }

    /// The same with this so many bytes into the chunk.
    pub(crate) fn try_put_at(
        &self,
        id: &DeviceId,
        chunk: u64,
        offset: u64,
        sector: &[u8; super::SECTOR],
        limit: Duration,
    ) -> Option<bool> {
        let mut devices = lock(&self.devices);
        let deadline = Instant::now() + limit;
        loop {
            let Some(device) = devices.get_mut(id) else { return Some(false) };
            if !device.suspended && chunk >= device.chunks() {
                device.wanted.remove(&chunk);
                return Some(false);
            }
            if device.read_only {
                return Some(false);
            }
            let waits = device.suspended || device.is_frozen();
            let held = device.protected.contains(&chunk) || device.is_shared(chunk);
            let place = device.map.place(chunk).filter(|_| !waits);
            if let Some(place) = place.filter(|_| !held) {
                device.discarded.remove(&chunk);
                device.unchanged.remove(&chunk);
                device.told_discarded.remove(&chunk);
                if device.watched.remove(&chunk) {
                    device.told.insert(chunk);
                    self.ring(device);
                }
                device.wanted.remove(&chunk);
                let value = u64::from_le_bytes(sector[..8].try_into().unwrap());
                tracing::trace!(device = id.0, chunk, offset, ?place, value, "a guest writes");
                let ground = lock(&self.ground).clone();
                let put = |ground: Ground| {
                    let (disk, at) = ground.find(place, device.chunk);
                    disk.put(at + offset, sector)
                };
                // Without power the guest does not hear that it is done.
                return ground.is_none_or(put).then_some(true);
            }
            if device.nospace && !waits {
                device.wanted.remove(&chunk);
                return Some(false);
            }
            if !waits && !device.leaving.contains(&chunk) && device.wanted.insert(chunk) {
                self.ring(device);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return None;
            }
            // A freeze ends by itself.
            let until = device.frozen.map(|until| until.saturating_duration_since(Instant::now()));
            let left = until.filter(|_| device.is_frozen()).unwrap_or(left).min(left);
            devices = self.changed.wait_timeout(devices, left).unwrap().0;
        }
    }

    /// What a guest reads in the first sector of a chunk.
    pub(crate) fn read(&self, id: &DeviceId, chunk: u64) -> [u8; super::SECTOR] {
        self.read_at(id, chunk, 0)
    }

    /// The same so many bytes into the chunk.
    pub(crate) fn read_at(&self, id: &DeviceId, chunk: u64, offset: u64) -> [u8; super::SECTOR] {
        let devices = lock(&self.devices);
        let mut sector = [0; super::SECTOR];
        let device = &devices[id];
        if let Some(place) = device.map.place(chunk) {
            let ground = lock(&self.ground).clone().expect("a disk");
            let (disk, at) = ground.find(place, device.chunk);
            disk.read_at(at + offset, &mut sector).expect("a disk that can be read");
        }
        sector
    }

    /// A guest writes zeroes to the beginning of a chunk, which needs none where there is a hole:
    /// true when they are acknowledged, false when they still wait after that long.
    pub(crate) fn try_zeroes(&self, id: &DeviceId, chunk: u64, limit: Duration) -> bool {
        let mut devices = lock(&self.devices);
        let deadline = Instant::now() + limit;
        loop {
            let device = devices.get_mut(id).expect("a device");
            // Without power the guest does not hear that it is done.
            if lock(&self.power).is_gone() {
                return false;
            }
            let place = device.map.place(chunk);
            if let Some(place) = place.filter(|_| !device.suspended && !device.is_frozen()) {
                if device.is_shared(chunk) {
                    if device.wanted.insert(chunk) {
                        self.ring(device);
                    }
                } else if !device.protected.contains(&chunk) {
                    device.discarded.remove(&chunk);
                    device.unchanged.remove(&chunk);
                    device.told_discarded.remove(&chunk);
                    let ground = lock(&self.ground).clone();
                    let put = |ground: Ground| {
                        let (disk, at) = ground.find(place, device.chunk);
                        disk.put(at, &[0; super::SECTOR])
                    };
                    return ground.is_none_or(put);
                }
            } else if place.is_none() && !device.suspended && !device.leaving.contains(&chunk) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            devices = self.changed.wait_timeout(devices, left).unwrap().0;
        }
    }

    /// A guest's zeroes reach a chunk after it has left: true when they are acknowledged, false when
    /// they still wait after that long. They are acknowledged by the very message that lets them go
    /// on, as the kernel's are.
    pub(crate) fn try_zeroes_behind(&self, id: &DeviceId, chunk: u64, limit: Duration) -> bool {
        let mut devices = lock(&self.devices);
        devices.get_mut(id).expect("a device").zeroing.insert(chunk);
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let device = devices.get_mut(id).expect("a device");
            if device.zeroed.remove(&chunk) {
                return true;
            }
            if left == Duration::ZERO {
                device.zeroing.remove(&chunk);
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
            if device.map.place(chunk).is_some() && device.is_shared(chunk) {
                // The snapshot keeps it.
                device.map.remove(chunk, 1);
                device.undrained.insert(chunk);
                device.generations.remove(&chunk);
                device.leaving.insert(chunk);
                device.told_holes.insert(chunk);
                continue;
            }
            let special = device.watched.contains(&chunk) || device.protected.contains(&chunk);
            if device.map.place(chunk).is_some() && !special && device.discarded.insert(chunk) {
                device.told_discarded.insert(chunk);
                device.unchanged.remove(&chunk);
            }
        }
        self.ring(device);
    }
}
