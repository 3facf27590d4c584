// SPDX-License-Identifier: LGPL-2.1-or-later
//! redb's storage on a metadata LV: the database begins behind the superblocks, and its length
//! is in them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::fence::Fence;
use super::superblock::{DATA_START, Superblock};
use crate::device::{ALIGN, BlockDevice};
use crate::runtime::lock_plain;

/// A database's storage. A change of length is durable when the call returns: redb relies on it.
#[derive(Debug)]
pub(crate) struct MetaStorage {
    device: Arc<Fence>,
    superblock: Mutex<Superblock>,
    /// The database's length, for the thread that makes room for it.
    length: Arc<AtomicU64>,
    /// The first block, once a part of it was written. redb writes its header with each commit,
    /// and the device writes whole blocks: the rest need not be read again each time.
    first: Mutex<Option<Vec<u8>>>,
}

impl MetaStorage {
    /// The storage of the database that `superblock` describes.
    pub(crate) fn new(device: Arc<Fence>, superblock: Superblock) -> Self {
        let length = Arc::new(AtomicU64::new(superblock.length));
        Self { device, superblock: Mutex::new(superblock), length, first: Mutex::new(None) }
    }

    /// Writes a part of the first block.
    fn write_first(&self, at: usize, data: &[u8]) -> io::Result<()> {
        let mut first = lock_plain(&self.first);
        let mut block = match first.take() {
            Some(block) => block,
            None => {
                let mut block = vec![0; ALIGN];
                self.device.read_at(DATA_START, &mut block)?;
                block
            }
        };
        block[at..at + data.len()].copy_from_slice(data);
        self.device.write_at(DATA_START, &block)?;
        // After an error it is not known what is there.
        *first = Some(block);
        Ok(())
    }

    /// Where the database's length can be read at any time.
    pub(crate) fn shared_length(&self) -> Arc<AtomicU64> {
        self.length.clone()
    }

    fn length(&self) -> u64 {
        lock_plain(&self.superblock).length
    }

    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length as u64);
        if end.is_some_and(|end| end <= self.length()) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the database"))
    }

    /// Zeroes what a longer database gets: the LV's extents hold whatever was there before.
    fn clear(&self, from: u64, to: u64) -> io::Result<()> {
        let room = self.device.size()?.saturating_sub(DATA_START);
        if to > room {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the metadata needs {to} bytes, and its logical volume has {room}"),
            ));
        }
        let align = ALIGN as u64;
        let whole = from.next_multiple_of(align).min(to);
        self.device.write_at(DATA_START + from, &vec![0; usize_of(whole - from)?])?;
        let end = to.next_multiple_of(align).min(room);
        if end > whole {
            self.device.zero(DATA_START + whole, end - whole)?;
        }
        self.device.sync()
    }
}

fn usize_of(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(io::Error::other)
}

impl StorageBackend for MetaStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        self.device.read_at(DATA_START + offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut superblock = lock_plain(&self.superblock);
        if length > superblock.length {
            self.clear(superblock.length, length)?;
        }
        let next = Superblock { sequence: superblock.sequence + 1, length, ..superblock.clone() };
        next.store(self.device.as_ref())?;
        self.length.store(length, Ordering::Relaxed);
        *superblock = next;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.device.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        match usize::try_from(offset) {
            Ok(at) if at.saturating_add(data.len()) <= ALIGN => self.write_first(at, data),
            _ if offset < ALIGN as u64 => {
                *lock_plain(&self.first) = None;
                self.device.write_at(DATA_START + offset, data)
            }
            _ => self.device.write_at(DATA_START + offset, data),
        }
    }
}
