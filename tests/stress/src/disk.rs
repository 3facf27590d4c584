// SPDX-License-Identifier: LGPL-2.1-or-later
//! Block devices, past the page cache.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What direct I/O is aligned to here, in memory and on the device.
pub const ALIGN: usize = 4096;

mod ioctl {
    nix::ioctl_write_ptr_bad!(discard, 0x1277, [u64; 2]);
    nix::ioctl_write_ptr_bad!(zero_out, 0x127f, [u64; 2]);
}

/// A block device.
pub struct Disk(File);

impl Disk {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self> {
        let direct = nix::libc::O_DIRECT;
        OpenOptions::new().read(true).write(true).custom_flags(direct).open(path).map(Self)
    }

    /// Reads all of a buffer.
    pub fn read(&self, at: u64, buffer: &mut Buffer) -> Result<()> {
        let length = buffer.length;
        whole(self.0.read_at(buffer.bytes_mut(), at)?, length)
    }

    /// Writes all of a buffer.
    pub fn write(&self, at: u64, buffer: &Buffer) -> Result<()> {
        whole(self.0.write_at(buffer.bytes(), at)?, buffer.length)
    }

    /// Discards a range.
    pub fn discard(&self, at: u64, length: u64) -> Result<()> {
        let range = [at, length];
        // SAFETY: BLKDISCARD reads two words of 64 bits, which live until it returns.
        unsafe { ioctl::discard(self.0.as_raw_fd(), &raw const range) }?;
        Ok(())
    }

    /// Has a range be zeroes.
    pub fn zero(&self, at: u64, length: u64) -> Result<()> {
        let range = [at, length];
        // SAFETY: BLKZEROOUT reads two words of 64 bits, which live until it returns.
        unsafe { ioctl::zero_out(self.0.as_raw_fd(), &raw const range) }?;
        Ok(())
    }
}

fn whole(done: usize, wanted: usize) -> Result<()> {
    if done == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::UnexpectedEof, format!("{done} of {wanted} bytes")))
}

/// Memory that is aligned for direct I/O.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// So many bytes, all zero.
    pub fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start, length }
    }

    /// Uses the first bytes alone; there must be so many.
    pub fn shorten(&mut self, length: usize) {
        assert!(self.start + length <= self.memory.len());
        self.length = length;
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }

    /// What is in it, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.length]
    }
}
