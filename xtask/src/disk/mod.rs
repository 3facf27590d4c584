// SPDX-License-Identifier: LGPL-2.1-or-later
//! A host's disk: a file behind a write cache that a power cut empties.
//!
//! What a host writes stays in this process until the host flushes, or until there is too much of
//! it, as in a real disk. A cut keeps some of the writes that were not flushed, whole or in part,
//! and drops the others; which ones, a seed decides. QEMU reaches the disk by [`nbd`], a kernel that
//! is a process by [`shelf`].

mod nbd;
mod shelf;

pub use shelf::Shelf;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FallocateFlags, fallocate};

/// The smallest part of a write that is kept or dropped by itself.
const SECTOR: usize = 512;
/// So much is kept back: more than any test leaves unflushed on purpose, and a disk's usual size.
const CACHE: u64 = 64 << 20;
/// Reads look through all writes that are kept back, so there are not too many.
const WRITES: usize = 4096;

/// A write that has not been flushed.
struct Write {
    offset: u64,
    content: Content,
}

enum Content {
    Data(Vec<u8>),
    Zeroes(u64),
}

impl Write {
    fn len(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64,
            Content::Zeroes(length) => *length,
        }
    }

    /// Puts the part that lies in `buffer`, which is the disk's content from `offset` on, there.
    #[allow(clippy::cast_possible_truncation, reason = "a part of a buffer fits in memory")]
    fn lay_over(&self, offset: u64, buffer: &mut [u8]) {
        let start = self.offset.max(offset);
        let end = (self.offset + self.len()).min(offset + buffer.len() as u64);
        if start >= end {
            return;
        }
        let target = &mut buffer[(start - offset) as usize..(end - offset) as usize];
        match &self.content {
            Content::Data(data) => {
                let from = (start - self.offset) as usize;
                target.copy_from_slice(&data[from..from + target.len()]);
            }
            Content::Zeroes(_) => target.fill(0),
        }
    }

    fn apply(&self, file: &File) -> std::io::Result<()> {
        match &self.content {
            Content::Data(data) => file.write_all_at(data, self.offset),
            Content::Zeroes(length) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(fallocate(file, flags, self.offset, *length)?)
            }
        }
    }

    /// Each sector reaches the disk or not.
    fn apply_torn(&self, file: &File, random: &mut fastrand::Rng) -> std::io::Result<()> {
        let Content::Data(data) = &self.content else { return self.apply(file) };
        for (sector, offset) in data.chunks(SECTOR).zip((self.offset..).step_by(SECTOR)) {
            if random.bool() {
                file.write_all_at(sector, offset)?;
            }
        }
        Ok(())
    }
}

/// What a power cut did to a disk, or to several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Writes that were not flushed.
    pub writes: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them were dropped wholly.
    pub dropped: usize,
    /// How many of them were kept in part.
    pub torn: usize,
}

impl std::ops::AddAssign for Cut {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.bytes += other.bytes;
        self.dropped += other.dropped;
        self.torn += other.torn;
    }
}

/// A file and what was written to it since the last flush.
struct Disk {
    file: File,
    size: u64,
    unflushed: Vec<Write>,
    bytes: u64,
}

impl Disk {
    fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| format!("{}", path.display()))?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, unflushed: Vec::new(), bytes: 0 })
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, offset)?;
        for write in &self.unflushed {
            write.lay_over(offset, buffer);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: Vec<u8>) -> std::io::Result<()> {
        self.push(Write { offset, content: Content::Data(data) })
    }

    /// A discard as well: what was discarded reads as zeroes here.
    fn zero(&mut self, offset: u64, length: u64) -> std::io::Result<()> {
        self.push(Write { offset, content: Content::Zeroes(length) })
    }

    fn push(&mut self, write: Write) -> std::io::Result<()> {
        if let Content::Data(data) = &write.content {
            self.bytes += data.len() as u64;
        }
        self.unflushed.push(write);
        if self.bytes > CACHE || self.unflushed.len() > WRITES {
            self.put_down(self.unflushed.len() / 2 + 1)?;
        }
        Ok(())
    }

    /// Writes the oldest `count` writes to the file.
    fn put_down(&mut self, count: usize) -> std::io::Result<()> {
        for write in self.unflushed.drain(..count) {
            if let Content::Data(data) = &write.content {
                self.bytes -= data.len() as u64;
            }
            write.apply(&self.file)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.put_down(self.unflushed.len())
    }

    /// The power goes: of what was not flushed, some is on the disk.
    fn cut(mut self, random: &mut fastrand::Rng) -> std::io::Result<Cut> {
        let mut cut = Cut { writes: self.unflushed.len(), bytes: self.bytes, ..Cut::default() };
        // Now and then nothing, now and then nearly all.
        let kept = random.f64();
        for write in std::mem::take(&mut self.unflushed) {
            if random.f64() < kept {
                write.apply(&self.file)?;
            } else if random.bool() {
                write.apply_torn(&self.file, random)?;
                cut.torn += 1;
            } else {
                cut.dropped += 1;
            }
        }
        Ok(cut)
    }
}

/// A disk that a QEMU is connected to.
pub struct Attached {
    socket: PathBuf,
    thread: JoinHandle<Result<Disk>>,
}

impl Attached {
    /// Offers the file as a disk at a socket that is to be made, for one connection.
    pub fn new(file: &Path, socket: PathBuf) -> Result<Self> {
        let disk = Disk::open(file)?;
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let thread = std::thread::spawn(move || nbd::serve(&listener, disk));
        Ok(Self { socket, thread })
    }

    /// What comes behind `-blockdev`.
    pub fn blockdev(&self, name: &str) -> String {
        let socket = self.socket.display();
        format!("driver=nbd,node-name={name},discard=unmap,server.type=unix,server.path={socket}")
    }

    /// The QEMU has ended, and the disk had time to write all that it had.
    pub fn power_off(self) -> Result<()> {
        Ok(self.disk()?.flush()?)
    }

    /// The QEMU was killed, and the disk lost its power at the same moment.
    pub fn cut_power(self, random: &mut fastrand::Rng) -> Result<Cut> {
        Ok(self.disk()?.cut(random)?)
    }

    /// The disk after everything that its QEMU sent.
    fn disk(self) -> Result<Disk> {
        // A QEMU that never came up has not connected, and this stands in for it.
        drop(std::os::unix::net::UnixStream::connect(&self.socket));
        let ended = self.thread.join().map_err(|_| anyhow!("the thread of a disk panicked"))?;
        let _ = std::fs::remove_file(&self.socket);
        ended.context("a host's disk failed")
    }
}

#[cfg(test)]
mod tests;
