// SPDX-License-Identifier: LGPL-2.1-or-later
//! A block device as the engine uses one: aligned, unbuffered, durable when told.
//!
//! `O_DIRECT`, because the page cache would put the grow path behind the writeback of the very
//! guests that wait for it: the kernel throttles a process that dirties pages while too many are
//! dirty (`balance_dirty_pages`), and pages of a volume that waits for growth cannot become clean.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Every transfer is a multiple of this and aligned to it: the largest logical block of disks.
pub(crate) const ALIGN: usize = 4096;

/// A block device, as far as the engine needs one. Tests have one that loses power.
pub(crate) trait BlockDevice: std::fmt::Debug + Send + Sync + 'static {
    /// Its size in bytes, now.
    fn size(&self) -> io::Result<u64>;
    /// Reads; any offset and length within the device.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes; any offset and length within the device. Durable after [`BlockDevice::sync`].
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Writes zeroes, offloaded where the device can. Both are multiples of [`ALIGN`].
    fn zero(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Tells the device that its content there is not needed: afterwards it holds anything. Both are
    /// multiples of [`ALIGN`].
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Returns when everything written is durable.
    fn sync(&self) -> io::Result<()>;
}

/// Reads, whatever of it cannot be read; says where that is, in blocks of [`ALIGN`], and has zeroes there. One sector
/// that has gone bad has all of a long read fail.
pub(crate) fn read_around(
    device: &dyn BlockDevice,
    offset: u64,
    out: &mut [u8],
) -> BTreeMap<u64, io::Error> {
    const STEP: usize = 1 << 20;
    let mut unread = BTreeMap::new();
    for (at, part) in (offset..).step_by(STEP).zip(out.chunks_mut(STEP)) {
        if device.read_at(at, part).is_ok() {
            continue;
        }
        for (at, block) in (at..).step_by(ALIGN).zip(part.chunks_mut(ALIGN)) {
            if let Err(error) = device.read_at(at, block) {
                block.fill(0);
                unread.insert(at, error);
            }
        }
    }
    unread
}

/// Opens devices.
pub(crate) trait Disks: Send + Sync + 'static {
    /// Opens a device; `alone` refuses one that is mounted or claimed by something else.
    fn open(&self, path: &Path, alone: bool) -> io::Result<Arc<dyn BlockDevice>>;
    /// The major and minor number of a device.
    fn number(&self, path: &Path) -> io::Result<(u32, u32)>;
}

/// The host's devices.
pub(crate) struct HostDisks;

impl Disks for HostDisks {
    fn open(&self, path: &Path, alone: bool) -> io::Result<Arc<dyn BlockDevice>> {
        Ok(Arc::new(Disk::open(path, alone)?))
    }

    fn number(&self, path: &Path) -> io::Result<(u32, u32)> {
        let node = std::fs::metadata(path)?;
        if !node.file_type().is_block_device() {
            return Err(io::Error::other("it is no block device"));
        }
        let (major, minor) = (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
        Ok((major, minor))
    }
}

/// A real block device.
#[derive(Debug)]
struct Disk(File);

impl Disk {
    fn open(path: &Path, alone: bool) -> io::Result<Self> {
        let exclusive = if alone { nix::libc::O_EXCL } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_DIRECT | nix::libc::O_CLOEXEC | exclusive)
            .open(path)?;
        Ok(Self(file))
    }

    fn blocks(offset: u64, length: usize) -> io::Result<(u64, usize)> {
        let align = ALIGN as u64;
        let end = offset.checked_add(length as u64).and_then(|e| e.checked_next_multiple_of(align));
        let start = offset / align * align;
        let span = end.and_then(|end| usize::try_from(end - start).ok());
        span.map(|span| (start, span))
            .ok_or_else(|| io::Error::other("an offset beyond any device"))
    }
}

/// Memory whose address is a multiple of [`ALIGN`].
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

nix::ioctl_write_ptr_bad!(
    /// `BLKZEROOUT` of `<linux/fs.h>`: start and length in bytes.
    blkzeroout,
    nix::request_code_none!(0x12, 127),
    [u64; 2]
);

nix::ioctl_write_ptr_bad!(
    /// `BLKDISCARD` of `<linux/fs.h>`: start and length in bytes.
    blkdiscard,
    nix::request_code_none!(0x12, 119),
    [u64; 2]
);

impl BlockDevice for Disk {
    fn size(&self) -> io::Result<u64> {
        (&self.0).seek(SeekFrom::End(0))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (start, span) = Self::blocks(offset, out.len())?;
        let mut buffer = Aligned::zeroed(span);
        self.0.read_exact_at(buffer.bytes(), start)?;
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        out.copy_from_slice(&buffer.bytes()[skip..skip + out.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (start, span) = Self::blocks(offset, data.len())?;
        let mut buffer = Aligned::zeroed(span);
        if span != data.len() {
            // Part of a block: the rest of it is written as it was.
            self.0.read_exact_at(buffer.bytes(), start)?;
        }
        let skip = usize::try_from(offset - start).map_err(io::Error::other)?;
        buffer.bytes()[skip..skip + data.len()].copy_from_slice(data);
        self.0.write_all_at(buffer.bytes(), start)
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = [offset, length];
        // SAFETY: the descriptor is open, and the ioctl reads two u64 from a valid pointer.
        unsafe { blkzeroout(self.0.as_raw_fd(), &raw const range) }?;
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = [offset, length];
        // SAFETY: the descriptor is open, and the ioctl reads two u64 from a valid pointer.
        unsafe { blkdiscard(self.0.as_raw_fd(), &raw const range) }?;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
