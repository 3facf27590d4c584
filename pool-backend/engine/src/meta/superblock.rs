// SPDX-License-Identifier: LGPL-2.1-or-later
//! The two superblocks at the beginning of a metadata LV. Layout: `docs/on-disk.md`.
//!
//! redb wants a file, and a file has a length; a logical volume only has a size. The superblock
//! holds that length, and which logical volume it was written for, so that what an earlier LV
//! left on the same extents is never taken for ours.

use std::io;

use thiserror::Error;
use uuid::Uuid;

use crate::device::BlockDevice;

/// Size of one copy, and the distance between the two.
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
/// Where the database begins.
pub(crate) const DATA_START: u64 = 64 << 10;
const MAGIC: &[u8; 16] = b"virtnotify-meta\n";
const VERSION: u32 = 1;
/// Bytes that the checksum covers; it follows them.
const COVERED: usize = BLOCK_BYTES - 4;
/// LVM's ids are 32 characters and six hyphens.
const LV_UUID: usize = 38;

/// Why a metadata LV cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SuperblockError {
    #[error("neither copy of the superblock is intact")]
    Damaged,
    #[error("it was made for another logical volume ({found}, this one is {expected})")]
    OtherVolume { found: String, expected: String },
    #[error("it has version {0} of the format, and this program knows version {VERSION}")]
    Version(u32),
    #[error("it says that the database has {length} bytes, and the device has room for {room}")]
    Length { length: u64, room: u64 },
    #[error("it cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Counts the writes; the copy with the higher number counts.
    pub(crate) sequence: u64,
    /// The pool's own id, made with the pool.
    pub(crate) pool: Uuid,
    /// LVM's id of the metadata LV.
    pub(crate) lv_uuid: String,
    /// The length of the database.
    pub(crate) length: u64,
}

impl Superblock {
    fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(COVERED + 4);
        block.extend_from_slice(MAGIC);
        block.extend_from_slice(&VERSION.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.sequence.to_le_bytes());
        block.extend_from_slice(&self.length.to_le_bytes());
        block.extend_from_slice(self.pool.as_bytes());
        block.extend_from_slice(self.lv_uuid.as_bytes());
        block.resize(COVERED, 0);
        let checksum = crc32fast::hash(&block);
        block.extend_from_slice(&checksum.to_le_bytes());
        block
    }

    /// The superblock in a block, `None` when it is not intact.
    fn decode(block: &[u8]) -> Option<Result<Self, SuperblockError>> {
        let (covered, checksum) = block.split_at_checked(COVERED)?;
        if covered[..16] != MAGIC[..] || crc32fast::hash(covered).to_le_bytes() != checksum {
            return None;
        }
        let word = |at: usize| covered[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let version = u32::from_le_bytes(covered[16..20].try_into().ok()?);
        if version != VERSION {
            return Some(Err(SuperblockError::Version(version)));
        }
        Some(Ok(Self {
            sequence: word(24)?,
            length: word(32)?,
            pool: Uuid::from_slice(&covered[40..56]).ok()?,
            lv_uuid: std::str::from_utf8(&covered[56..56 + LV_UUID]).ok()?.to_owned(),
        }))
    }

    /// The newest intact superblock of a device, which must have been written for `lv_uuid`.
    pub(crate) fn load(device: &dyn BlockDevice, lv_uuid: &str) -> Result<Self, SuperblockError> {
        let mut copies = Vec::new();
        for copy in 0..2 {
            let mut block = vec![0; BLOCK_BYTES];
            device.read_at(copy * BLOCK, &mut block)?;
            copies.extend(Self::decode(&block));
        }
        let mut newest: Option<Self> = None;
        for copy in copies {
            let copy = copy?;
            if newest.as_ref().is_none_or(|n| n.sequence < copy.sequence) {
                newest = Some(copy);
            }
        }
        let found = newest.ok_or(SuperblockError::Damaged)?;
        found.check(device, lv_uuid)?;
        Ok(found)
    }

    fn check(&self, device: &dyn BlockDevice, lv_uuid: &str) -> Result<(), SuperblockError> {
        if self.lv_uuid != lv_uuid {
            let (found, expected) = (self.lv_uuid.clone(), lv_uuid.to_owned());
            return Err(SuperblockError::OtherVolume { found, expected });
        }
        let room = device.size()?.saturating_sub(DATA_START);
        if self.length > room {
            return Err(SuperblockError::Length { length: self.length, room });
        }
        Ok(())
    }

    /// Makes this the superblock, durably. The copy that counted before stays as it was.
    pub(crate) fn store(&self, device: &dyn BlockDevice) -> io::Result<()> {
        device.write_at((self.sequence % 2) * BLOCK, &self.encode())?;
        device.sync()
    }

    /// Makes a device into the metadata of a new pool with an empty database.
    pub(crate) fn format(device: &dyn BlockDevice, pool: Uuid, lv_uuid: &str) -> io::Result<Self> {
        if lv_uuid.len() != LV_UUID {
            return Err(io::Error::other(format!("'{lv_uuid}' is no id of a logical volume")));
        }
        device.zero(0, DATA_START)?;
        device.sync()?;
        let new = Self { sequence: 1, pool, lv_uuid: lv_uuid.to_owned(), length: 0 };
        new.store(device)?;
        Ok(new)
    }
}
