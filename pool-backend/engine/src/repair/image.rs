// SPDX-License-Identifier: LGPL-2.1-or-later
//! A metadata device in memory: a copy in which the database can be opened, with the repairs that
//! it does then, while nothing is written to the device itself. A restore is built in one before
//! the device is touched.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use crate::device::{ALIGN, BlockDevice, read_around};
use crate::meta::{Contents, DATA_START, MetaError, Reader, Store, Superblock, SuperblockError};
use crate::runtime::lock_plain as lock;

/// How often a device that changes is read without holding up the changes.
const TRIES: u32 = 5;
/// No metadata is this large: such a length is damage.
const LIMIT: u64 = 64 << 30;

/// A device in memory.
pub(crate) struct Image(Mutex<Content>);

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// Blocks that could not be read, and which cannot be read here either until they are written.
    unread: BTreeSet<u64>,
}

impl Content {
    /// The blocks that a range touches.
    fn blocks(range: &Range<usize>) -> Range<u64> {
        let block = |byte: usize| (byte / ALIGN) as u64;
        block(range.start)..block(range.end.next_multiple_of(ALIGN))
    }

    fn write(&mut self, offset: u64, length: usize) -> io::Result<&mut [u8]> {
        let range = Image::range(self.bytes.len(), offset, length)?;
        let blocks = Self::blocks(&range);
        self.unread.retain(|block| !blocks.contains(block));
        Ok(&mut self.bytes[range])
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} bytes)", lock(&self.0).bytes.len())
    }
}

fn index(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(io::Error::other)
}

impl Image {
    /// A device of zeroes.
    pub(crate) fn zeroed(size: u64) -> io::Result<Self> {
        Ok(Self(Mutex::new(Content { bytes: vec![0; index(size)?], ..Content::default() })))
    }

    /// A copy of what a device has before `used`, and zeroes as far as `size`: what a database gets when it grows. What
    /// cannot be read may not be needed.
    fn copy(device: &dyn BlockDevice, used: u64, size: u64) -> io::Result<Self> {
        let image = Self::zeroed(size)?;
        let mut content = lock(&image.0);
        let unread = read_around(device, 0, &mut content.bytes[..index(used.min(size))?]);
        content.unread = unread.into_keys().map(|at| at / ALIGN as u64).collect();
        drop(content);
        Ok(image)
    }

    fn range(have: usize, offset: u64, length: usize) -> io::Result<Range<usize>> {
        let from = index(offset)?;
        let to = from.checked_add(length).filter(|to| *to <= have);
        let beyond = || io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the image");
        to.map(|to| from..to).ok_or_else(beyond)
    }
}

impl BlockDevice for Image {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.0).bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = lock(&self.0);
        let range = Self::range(content.bytes.len(), offset, out.len())?;
        if content.unread.range(Content::blocks(&range)).next().is_some() {
            return Err(io::Error::from_raw_os_error(Errno::EIO as i32));
        }
        out.copy_from_slice(&content.bytes[range]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.0).write(offset, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        lock(&self.0).write(offset, index(length)?)?.fill(0);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The content of the metadata on a device, with every checksum checked. The device is only read.
pub(crate) fn read(device: &dyn BlockDevice, lv_uuid: &str) -> Result<Contents, MetaError> {
    let superblock = Superblock::load(device, lv_uuid)?;
    let image = copy(device, superblock.length)?;
    open(image, lv_uuid)
}

/// The same for a device that another thread of this program writes: as of one moment, namely after
/// so many writes. `quiet` keeps the writer away while it runs; it is used only when the writer
/// leaves no gap.
pub(crate) fn read_live(
    device: &dyn BlockDevice,
    lv_uuid: &str,
    reader: &Reader,
    quiet: impl FnOnce(&mut dyn FnMut()),
) -> Result<(Contents, u64), MetaError> {
    let take = || copy(device, reader.length());
    for _ in 0..TRIES {
        let Some(writes) = reader.still() else { continue };
        let image = take()?;
        if reader.still() == Some(writes) {
            return Ok((open(image, lv_uuid)?, writes));
        }
    }
    let mut taken = None;
    quiet(&mut || taken = reader.without_checkpoint(|| reader.still().map(|n| (take(), n))));
    let unread = || MetaError::Damaged("the metadata could not be read at rest".into());
    let (image, writes) = taken.ok_or_else(unread)?;
    Ok((open(image?, lv_uuid)?, writes))
}

fn open(image: Image, lv_uuid: &str) -> Result<Contents, MetaError> {
    let (_store, contents) = Store::open_copy(Arc::new(image), lv_uuid)?;
    Ok(contents)
}

/// A copy of a device whose database has this length.
fn copy(device: &dyn BlockDevice, length: u64) -> Result<Image, MetaError> {
    let size = needed(length, device)?;
    let copied = Image::copy(device, DATA_START.saturating_add(length), size);
    Ok(copied.map_err(SuperblockError::Io)?)
}

/// How much of a device the metadata takes; room to repair itself included.
fn needed(length: u64, device: &dyn BlockDevice) -> Result<u64, MetaError> {
    let size = device.size().map_err(SuperblockError::Io)?;
    // Opening a database may make it longer.
    let want = DATA_START.saturating_add(length.saturating_mul(2)).max(DATA_START + (2 << 20));
    let size = size.min(want);
    if size > LIMIT {
        return Err(MetaError::Damaged(format!("the database is said to have {length} bytes")));
    }
    Ok(size)
}
