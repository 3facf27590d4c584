// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume's data on its way to a client, or from one.
//!
//! Both work on the volume's device: what is read of a hole are zeroes without I/O, and before
//! a hole is written, the backend is asked for a chunk (see [`Ground`]). Zeroes cross a sparse stream as holes and land as holes: a volume stays as thin
//! as it was. A stream that ends early leaves what was written until then, as with libvirt's
//! own pools.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{Download, DownloadChunk, Upload};
use virtnotify_wire::{ErrorCode, RemoteError};

use crate::error::DriverError;
use crate::ground::Ground;

/// The longest hole that is sent, or made, at once: so a client hears something now and then.
const HOLE_MAX: u64 = 1 << 30;
/// How much may be written before it is synced: what waits in memory stays bounded.
const UNSYNCED_MAX: u64 = 64 << 20;
/// Holes are made in whole blocks, as devices have them.
const BLOCK: u64 = 4096;
/// How much is copied at once: a piece of zeroes stays a hole.
const COPY_SIZE: usize = 256 << 10;
/// Parts of this size that are zeroes are not written to a device that reads as zeroes.
const FILL_SIZE: usize = 64 << 10;
/// Zeroes for the parts of blocks.
const ZEROES: [u8; 4096] = [0; 4096];

/// What to do when a volume was written.
pub type Done = Box<dyn FnOnce() + Send>;

/// A device that is open.
#[derive(Debug)]
struct Device {
    file: File,
    path: PathBuf,
    /// Where the next byte is.
    at: u64,
    /// The latest end of the stream: the device's end, or the length asked for.
    end: u64,
}

impl Device {
    fn open(
        options: &OpenOptions,
        path: &Path,
        offset: u64,
        length: u64,
    ) -> Result<Self, DriverError> {
        let opened = options.open(path).and_then(|mut file| {
            let size = file.seek(SeekFrom::End(0))?;
            Ok((file, size))
        });
        let (file, size) = opened.map_err(|source| DriverError::Device {
            what: "open",
            path: path.to_owned(),
            source,
        })?;
        // A length of zero means all.
        let end = if length == 0 { size } else { size.min(offset.saturating_add(length)) };
        Ok(Device { file, path: path.to_owned(), at: offset, end })
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> DriverError {
        let path = self.path.clone();
        move |source| DriverError::Device { what, path, source }
    }

    fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// Reads until the end, or until `buffer` is full.
    fn read(&mut self, buffer: &mut Vec<u8>, max: usize) -> Result<(), DriverError> {
        let length = usize::try_from(self.left()).unwrap_or(max).min(max);
        buffer.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut buffer[filled..], self.at) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.at += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read")(error)),
            }
        }
        buffer.truncate(filled);
        Ok(())
    }

    /// Refuses data that goes beyond the end.
    fn need_room(&self, length: u64) -> Result<(), DriverError> {
        if length <= self.left() {
            return Ok(());
        }
        Err(self.failed("write beyond the end of")(Errno::NOSPC.into()))
    }

    fn write(&mut self, data: &[u8]) -> Result<(), DriverError> {
        self.need_room(data.len() as u64)?;
        self.file.write_all_at(data, self.at).map_err(self.failed("write"))?;
        self.at += data.len() as u64;
        Ok(())
    }

    /// Makes the next bytes read as zeroes without storing them.
    fn clear(&mut self, length: u64) -> Result<(), DriverError> {
        self.need_room(length)?;
        let end = self.at + length;
        self.write_zeroes(self.at.next_multiple_of(BLOCK).min(end))?;
        while end - self.at >= BLOCK {
            let length = (end - self.at).min(HOLE_MAX) / BLOCK * BLOCK;
            self.punch(length).map_err(self.failed("clear a part of"))?;
            self.at += length;
        }
        self.write_zeroes(end)
    }

    fn write_zeroes(&mut self, until: u64) -> Result<(), DriverError> {
        while self.at < until {
            let length = usize::try_from(until - self.at).unwrap_or(ZEROES.len());
            self.write(&ZEROES[..length.min(ZEROES.len())])?;
        }
        Ok(())
    }

    fn punch(&self, length: u64) -> io::Result<()> {
        let keep = FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | keep, self.at, length) {
            // What the device cannot do itself, the kernel does by writing.
            Err(Errno::OPNOTSUPP) => {
                Ok(fallocate(&self.file, FallocateFlags::ZERO_RANGE | keep, self.at, length)?)
            }
            done => Ok(done?),
        }
    }
}

/// Whether there are zeroes only; without a branch for each byte, so that it is fast.
pub fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|part| part.iter().fold(0, |sum, byte| sum | byte) == 0)
}

/// A volume that a client reads.
#[derive(Debug)]
pub struct Reader {
    device: Device,
    sparse: bool,
    /// What was read behind a hole that was told first.
    pending: Option<Vec<u8>>,
}

impl Reader {
    /// Opens a volume's device; `length` 0 is all.
    ///
    /// # Errors
    /// [`DriverError::Device`].
    pub fn open(path: &Path, offset: u64, length: u64, sparse: bool) -> Result<Self, DriverError> {
        let device = Device::open(OpenOptions::new().read(true), path, offset, length)?;
        Ok(Reader { device, sparse, pending: None })
    }

    fn chunk(&mut self, max: usize) -> Result<DownloadChunk, DriverError> {
        if let Some(data) = self.pending.take() {
            return Ok(DownloadChunk::Data(data));
        }
        let mut hole = 0;
        let mut data = Vec::new();
        loop {
            self.device.read(&mut data, max)?;
            if !data.is_empty() && self.sparse && is_zero(&data) {
                hole += data.len() as u64;
                if hole < HOLE_MAX {
                    continue;
                }
                data.clear();
            }
            break;
        }
        Ok(match (hole, data.is_empty()) {
            (0, true) => DownloadChunk::End,
            (0, false) => DownloadChunk::Data(data),
            (hole, empty) => {
                self.pending = Some(data).filter(|_| !empty);
                DownloadChunk::Hole(hole)
            }
        })
    }
}

impl Download for Reader {
    fn next(&mut self, max: usize) -> Result<DownloadChunk, RemoteError> {
        Ok(self.chunk(max)?)
    }
}

/// Copies what one device holds to another, which is not smaller and reads as zeroes.
///
/// # Errors
/// [`DriverError::Device`]; when there is no room for it.
pub fn copy(from: &Path, to: &Path, ground: Ground) -> Result<(), DriverError> {
    let mut reader = Reader::open(from, 0, 0, true)?;
    let mut writer = Writer::open(to, 0, 0, ground, Box::new(|| ()))?;
    loop {
        match reader.chunk(COPY_SIZE)? {
            DownloadChunk::Data(data) => writer.put(&data)?,
            DownloadChunk::Hole(length) => writer.device.at += length,
            DownloadChunk::End => return writer.sync(),
        }
    }
}

/// A volume that a client writes.
pub struct Writer {
    device: Device,
    ground: Ground,
    unsynced: u64,
    done: Done,
}

impl Writer {
    /// Opens a volume's device; `length` 0 is all. `done` runs when all was written.
    ///
    /// # Errors
    /// [`DriverError::Device`].
    pub fn open(
        path: &Path,
        offset: u64,
        length: u64,
        ground: Ground,
        done: Done,
    ) -> Result<Self, DriverError> {
        let device = Device::open(OpenOptions::new().write(true), path, offset, length)?;
        Ok(Writer { device, ground, unsynced: 0, done })
    }

    fn put(&mut self, data: &[u8]) -> Result<(), DriverError> {
        self.device.need_room(data.len() as u64)?;
        self.ground.prepare(self.device.at, data)?;
        self.device.write(data)?;
        self.unsynced += data.len() as u64;
        if self.unsynced >= UNSYNCED_MAX { self.sync() } else { Ok(()) }
    }

    /// Puts data into a device that reads as zeroes: zeroes are not written.
    pub fn fill(&mut self, data: &[u8]) -> Result<(), DriverError> {
        for part in data.chunks(FILL_SIZE) {
            if is_zero(part) {
                self.device.need_room(part.len() as u64)?;
                self.device.at += part.len() as u64;
            } else {
                self.put(part)?;
            }
        }
        Ok(())
    }

    /// Leaves out a hole in a device that reads as zeroes.
    pub fn skip(&mut self, hole: &StreamHole) -> Result<(), RemoteError> {
        let length = hole_length(hole)?;
        self.device.need_room(length)?;
        self.device.at += length;
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`DriverError::Device`].
    pub fn sync(&mut self) -> Result<(), DriverError> {
        self.unsynced = 0;
        self.device.file.sync_data().map_err(self.device.failed("sync"))
    }
}

impl Upload for Writer {
    fn write(&mut self, data: &[u8]) -> Result<(), RemoteError> {
        Ok(self.put(data)?)
    }

    fn hole(&mut self, hole: &StreamHole) -> Result<(), RemoteError> {
        let length = hole_length(hole)?;
        self.device.need_room(length)?;
        self.ground.prepare_zeroes(self.device.at, length)?;
        Ok(self.device.clear(length)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), RemoteError> {
        self.sync()?;
        (self.done)();
        Ok(())
    }
}

fn hole_length(hole: &StreamHole) -> Result<u64, RemoteError> {
    let length = u64::try_from(hole.length).ok().filter(|_| hole.flags == 0);
    length.ok_or_else(|| {
        let detail = format!("a hole of {} bytes, flags {:#x}", hole.length, hole.flags);
        RemoteError::new(ErrorCode::INVALID_ARG, detail)
    })
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
