// SPDX-License-Identifier: LGPL-2.1-or-later
//! A metadata device in memory: a copy in which the database can be opened, with the repairs that
//! it does then, while nothing is written to the device itself. A restore is built in one before
//! the device is touched.

use std::io;
use std::sync::{Arc, Mutex};

use crate::device::BlockDevice;
use crate::meta::{Contents, DATA_START, MetaError, Reader, Store, Superblock, SuperblockError};
use crate::runtime::lock_plain as lock;

/// How often a device that changes is read without holding up the changes.
const TRIES: u32 = 5;
/// No metadata is this large: such a length is damage.
const LIMIT: u64 = 64 << 30;

/// A device in memory.
pub(crate) struct Image(Mutex<Vec<u8>>);

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} bytes)", lock(&self.0).len())
    }
}

fn index(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(io::Error::other)
}

impl Image {
    /// A device of zeroes.
    pub(crate) fn zeroed(size: u64) -> io::Result<Self> {
        Ok(Self(Mutex::new(vec![0; index(size)?])))
    }

    /// A copy of what a device has before `size`.
    fn copy(device: &dyn BlockDevice, size: u64) -> io::Result<Self> {
        let image = Self::zeroed(size)?;
        device.read_at(0, &mut lock(&image.0))?;
        Ok(image)
    }

    fn range(have: usize, offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
        let from = index(offset)?;
        let to = from.checked_add(length).filter(|to| *to <= have);
        let beyond = || io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the image");
        to.map(|to| from..to).ok_or_else(beyond)
    }
}

impl BlockDevice for Image {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = lock(&self.0);
        out.copy_from_slice(&bytes[Self::range(bytes.len(), offset, out.len())?]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = lock(&self.0);
        let range = Self::range(bytes.len(), offset, data.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut bytes = lock(&self.0);
        let range = Self::range(bytes.len(), offset, index(length)?)?;
        bytes[range].fill(0);
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
    let size = used(superblock.length, device)?;
    open(Image::copy(device, size).map_err(SuperblockError::Io)?, lv_uuid)
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
    let take = || {
        let size = used(reader.length(), device)?;
        Image::copy(device, size).map_err(|e| MetaError::from(SuperblockError::Io(e)))
    };
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

/// How much of a device the metadata takes; room to repair itself included.
fn used(length: u64, device: &dyn BlockDevice) -> Result<u64, MetaError> {
    let size = device.size().map_err(SuperblockError::Io)?;
    // Opening a database may make it longer.
    let want = DATA_START.saturating_add(length.saturating_mul(2)).max(DATA_START + (2 << 20));
    let size = size.min(want);
    if size > LIMIT {
        return Err(MetaError::Damaged(format!("the database is said to have {length} bytes")));
    }
    Ok(size)
}
