// SPDX-License-Identifier: LGPL-2.1-or-later
//! Sees to it that no thread of the daemon waits for the daemon.
//!
//! A write to a hole is held by the kernel until the daemon maps something there. If a thread
//! of the daemon itself made that write, a daemon that is killed meanwhile could not end: the
//! thread sleeps in the kernel until the write is answered, by the next daemon, which systemd
//! starts when this one has ended. So whoever writes a volume here asks the backend for its
//! chunks first. When there are none, that is an error at once and not a write that waits.
//!
//! Zeroes need no chunk: the kernel completes them in a hole.

use std::sync::Arc;

use virtnotify_model::{Backend, Bytes, PoolName, VolumeInfo, VolumeName};

use crate::error::DriverError;
use crate::streams::is_zero;

/// What lies under a volume that is being written.
pub struct Ground {
    backend: Arc<dyn Backend>,
    pool: PoolName,
    volume: VolumeName,
    chunk: u64,
    /// The chunk that was asked for last.
    ready: Option<u64>,
}

impl Ground {
    /// That of a volume.
    ///
    /// # Errors
    /// When its pool is not active.
    pub fn of(backend: Arc<dyn Backend>, volume: &VolumeInfo) -> Result<Self, DriverError> {
        let chunk = backend.pool_info(&volume.pool)?.chunk.bytes().0;
        let (pool, volume) = (volume.pool.clone(), volume.name.clone());
        Ok(Ground { backend, pool, volume, chunk, ready: None })
    }

    /// Has chunks for `data`, which is about to be written.
    ///
    /// # Errors
    /// When the pool has no room.
    pub fn prepare(&mut self, mut at: u64, mut data: &[u8]) -> Result<(), DriverError> {
        while !data.is_empty() {
            let chunk = at / self.chunk;
            let left = self.chunk - at % self.chunk;
            let part = usize::try_from(left).unwrap_or(data.len()).min(data.len());
            let (now, rest) = data.split_at(part);
            if self.ready != Some(chunk) && !is_zero(now) {
                let (offset, length) = (Bytes(chunk * self.chunk), Bytes(self.chunk));
                self.backend.prepare_write(&self.pool, &self.volume, offset, length)?;
                self.ready = Some(chunk);
            }
            at += part as u64;
            data = rest;
        }
        Ok(())
    }
}
