// SPDX-License-Identifier: LGPL-2.1-or-later
//! Prevents a thread of the daemon from waiting for the daemon.
//!
//! A write to a hole is held by the kernel until the daemon maps something there. If a thread of
//! the daemon itself made that write, a daemon that is killed meanwhile could not end: the thread
//! sleeps in the kernel until the write is answered, by the next daemon, which systemd starts when
//! this one has ended. So code that writes a volume here asks the backend for its chunks first.
//! When there are none, that is an error at once and not a write that waits.
//!
//! Zeroes need no chunk: the kernel completes them in a hole. But where a volume has a chunk that a
//! snapshot has too, they wait for one of its own as any write does.

use std::sync::Arc;

use virtnotify_model::{Backend, Bytes, PoolName, VolumeExtent, VolumeInfo, VolumeName};

use crate::error::DriverError;
use crate::streams::is_zero;

/// The chunks of a volume that is being written.
pub struct Ground {
    backend: Arc<dyn Backend>,
    pool: PoolName,
    volume: VolumeName,
    chunk: u64,
    /// The chunk that was asked for last.
    ready: Option<u64>,
    /// The parts of it that hold data, if a part is shared.
    shared: Vec<VolumeExtent>,
}

impl Ground {
    /// The ground of a volume.
    ///
    /// # Errors
    /// When its pool is not active.
    pub fn of(backend: Arc<dyn Backend>, volume: &VolumeInfo) -> Result<Self, DriverError> {
        let chunk = backend.pool_info(&volume.pool)?.chunk.bytes().0;
        let shared = match volume.exclusive < volume.allocation {
            true => backend.difference(&volume.pool, &volume.name, None)?,
            false => Vec::new(),
        };
        let (pool, volume) = (volume.pool.clone(), volume.name.clone());
        Ok(Ground { backend, pool, volume, chunk, ready: None, shared })
    }

    /// Makes sure that there are chunks for `data`, which is about to be written.
    ///
    /// # Errors
    /// When the pool has no room.
    pub fn prepare(&mut self, mut at: u64, mut data: &[u8]) -> Result<(), DriverError> {
        while !data.is_empty() {
            let chunk = at / self.chunk;
            let left = self.chunk - at % self.chunk;
            let part = usize::try_from(left).unwrap_or(data.len()).min(data.len());
            let (now, rest) = data.split_at(part);
            if !is_zero(now) || self.may_be_shared(chunk) {
                self.own(chunk)?;
            }
            at += part as u64;
            data = rest;
        }
        Ok(())
    }

    /// Makes sure that there are chunks for zeroes that are about to be written.
    ///
    /// # Errors
    /// When the pool has no room.
    pub fn prepare_zeroes(&mut self, at: u64, length: u64) -> Result<(), DriverError> {
        let chunks = at / self.chunk..at.saturating_add(length).div_ceil(self.chunk);
        for n in 0..self.shared.len() {
            let VolumeExtent { offset, length, .. } = self.shared[n];
            let end = offset.0.saturating_add(length.0).div_ceil(self.chunk).min(chunks.end);
            for chunk in chunks.start.max(offset.0 / self.chunk)..end {
                self.own(chunk)?;
            }
        }
        Ok(())
    }

    fn may_be_shared(&self, chunk: u64) -> bool {
        let (start, end) = (chunk * self.chunk, (chunk + 1) * self.chunk);
        // They go upwards.
        let next = self.shared.partition_point(|part| part.offset.0 + part.length.0 <= start);
        self.shared.get(next).is_some_and(|part| part.offset.0 < end)
    }

    /// Makes sure that a chunk is there and not shared.
    fn own(&mut self, chunk: u64) -> Result<(), DriverError> {
        if self.ready != Some(chunk) {
            let (offset, length) = (Bytes(chunk * self.chunk), Bytes(self.chunk));
            self.backend.prepare_write(&self.pool, &self.volume, offset, length)?;
            self.ready = Some(chunk);
        }
        Ok(())
    }
}
