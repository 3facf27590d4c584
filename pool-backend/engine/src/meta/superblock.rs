// SPDX-License-Identifier: LGPL-2.1-or-later
//! The two superblocks at the beginning of a metadata LV. Layout: `docs/developer/on-disk.md`.
//!
//! redb wants a file, and a file has a length; a logical volume only has a size. The superblock
//! holds that length, and which logical volume it was written for, so that what an earlier LV
//! left on the same extents is never taken for ours.

use std::io;

use thiserror::Error;
use uuid::Uuid;

use crate::device::BlockDevice;

/// Size of one copy, and the distance between the two; size of a record of the journal.
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCK_BYTES: usize = 4096;
/// Where the journal begins.
pub(crate) const JOURNAL_START: u64 = 64 << 10;
/// Where the database begins.
pub(crate) const DATA_START: u64 = 1 << 20;
const MAGIC: &[u8; 16] = b"virtnotify-meta\n";
/// What is in both places while a restore writes the database.
const RESTORING: &[u8; 16] = b"virtnotify-half\n";
const VERSION: u32 = 3;
/// Bytes that the checksum of a block covers; it follows them.
pub(super) const COVERED: usize = BLOCK_BYTES - 4;
/// LVM's ids are 32 characters and six hyphens.
const LV_UUID: usize = 38;
/// Where the features are: compatible, read-only compatible, incompatible.
const FEATURES: usize = 96;

/// Why a metadata LV cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SuperblockError {
    #[error("neither copy of the superblock is intact")]
    Damaged,
    #[error("a restore of it was cut off: run it again")]
    HalfRestored,
    #[error("it was made for another logical volume ({found}, this one is {expected})")]
    OtherVolume { found: String, expected: String },
    #[error("it has version {0} of the format, and this program knows version {VERSION}")]
    Version(u32),
    #[error("it has the features {0:#x}, which this program does not know")]
    Features(u64),
    #[error("it has the features {0:#x}, with which this program may only read it")]
    ReadOnly(u64),
    #[error("it says that the database has {length} bytes, and the device has room for {room}")]
    Length { length: u64, room: u64 },
    #[error("it cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

impl SuperblockError {
    /// Whether nothing is wrong with it: another version of the program made it.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(self, Self::Version(_) | Self::Features(_) | Self::ReadOnly(_))
    }
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
    /// What the metadata has beyond this version of the format.
    pub(crate) features: Features,
}

/// What the metadata has beyond a version of the format, a bit each. None is defined yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// A program that does not know them may use the pool.
    pub(crate) compatible: u64,
    /// One that does not know them may read it.
    pub(crate) read_only: u64,
    /// One that does not know them may not even read it.
    pub(crate) incompatible: u64,
}

/// What is found where a copy of the superblock belongs.
#[derive(Debug)]
pub(crate) enum Copy {
    /// A superblock.
    Intact(Superblock),
    /// An intact one of another version of the format.
    Version(u32),
    /// The mark of a restore that is under way, or was cut off.
    Restoring,
    /// Zeroes: never written, or wiped.
    Blank,
    /// Anything else, or nothing that can be read.
    Damaged,
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
        block.resize(FEATURES, 0);
        let Features { compatible, read_only, incompatible } = self.features;
        for bits in [compatible, read_only, incompatible] {
            block.extend_from_slice(&bits.to_le_bytes());
        }
        seal(block)
    }

    fn decode(block: &[u8]) -> Copy {
        if block.starts_with(RESTORING) {
            return Copy::Restoring;
        }
        if block.iter().all(|byte| *byte == 0) {
            return Copy::Blank;
        }
        Self::decode_intact(block).unwrap_or(Copy::Damaged)
    }

    fn decode_intact(block: &[u8]) -> Option<Copy> {
        let covered = sealed(block).filter(|covered| covered.starts_with(MAGIC))?;
        let word = |at: usize| covered[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let version = u32::from_le_bytes(covered[16..20].try_into().ok()?);
        if version != VERSION {
            return Some(Copy::Version(version));
        }
        Some(Copy::Intact(Self {
            sequence: word(24)?,
            length: word(32)?,
            pool: Uuid::from_slice(&covered[40..56]).ok()?,
            lv_uuid: std::str::from_utf8(&covered[56..56 + LV_UUID]).ok()?.to_owned(),
            features: Features {
                compatible: word(FEATURES)?,
                read_only: word(FEATURES + 8)?,
                incompatible: word(FEATURES + 16)?,
            },
        }))
    }

    /// Both copies, as they are found. One that cannot be read is damaged.
    pub(crate) fn copies(device: &dyn BlockDevice) -> io::Result<[Copy; 2]> {
        let copy = |at| {
            let mut block = vec![0; BLOCK_BYTES];
            device.read_at(at, &mut block).map(|()| Self::decode(&block))
        };
        match [copy(0), copy(BLOCK)] {
            [Err(error), Err(_)] => Err(error),
            copies => Ok(copies.map(|copy| copy.unwrap_or(Copy::Damaged))),
        }
    }

    /// The one of two copies that counts.
    pub(crate) fn newest(copies: [Copy; 2]) -> Result<Self, SuperblockError> {
        let mut newest: Option<Self> = None;
        let mut restoring = false;
        for copy in copies {
            match copy {
                Copy::Intact(copy) => {
                    if newest.as_ref().is_none_or(|n| n.sequence < copy.sequence) {
                        newest = Some(copy);
                    }
                }
                Copy::Version(version) => return Err(SuperblockError::Version(version)),
                Copy::Restoring => restoring = true,
                Copy::Blank | Copy::Damaged => {}
            }
        }
        let without =
            if restoring { SuperblockError::HalfRestored } else { SuperblockError::Damaged };
        newest.ok_or(without)
    }

    /// The newest intact superblock of a device, which must have been written for `lv_uuid`.
    pub(crate) fn load(device: &dyn BlockDevice, lv_uuid: &str) -> Result<Self, SuperblockError> {
        let found = Self::newest(Self::copies(device)?)?;
        found.check(device, lv_uuid)?;
        Ok(found)
    }

    /// Refuses metadata that has what this program does not know.
    pub(crate) fn check_features(&self) -> Result<(), SuperblockError> {
        match self.features.incompatible {
            0 => Ok(()),
            bits => Err(SuperblockError::Features(bits)),
        }
    }

    /// Refuses metadata that this program may only read.
    pub(crate) fn check_writable(&self) -> Result<(), SuperblockError> {
        match self.features.read_only {
            0 => Ok(()),
            bits => Err(SuperblockError::ReadOnly(bits)),
        }
    }

    fn check(&self, device: &dyn BlockDevice, lv_uuid: &str) -> Result<(), SuperblockError> {
        self.check_features()?;
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

    /// Makes this the superblock, durably. The copy that counted before stays as it was until then; afterwards both
    /// are the same, so that one is enough when the other cannot be read.
    pub(crate) fn store(&self, device: &dyn BlockDevice) -> io::Result<()> {
        let block = self.encode();
        for copy in [self.sequence % 2, 1 - self.sequence % 2] {
            device.write_at(copy * BLOCK, &block)?;
            device.sync()?;
        }
        Ok(())
    }

    /// Marks a device as one whose metadata is being written by a restore. From here on, until
    /// [`Superblock::store`], it holds no pool.
    pub(crate) fn mark_restoring(device: &dyn BlockDevice) -> io::Result<()> {
        let mut block = RESTORING.to_vec();
        block.resize(BLOCK_BYTES, 0);
        for copy in 0..2 {
            device.write_at(copy * BLOCK, &block)?;
        }
        device.sync()
    }

    /// Makes a device into the metadata of a new pool with an empty database.
    pub(crate) fn format(device: &dyn BlockDevice, pool: Uuid, lv_uuid: &str) -> io::Result<Self> {
        if lv_uuid.len() != LV_UUID {
            return Err(io::Error::other(format!("'{lv_uuid}' is no id of a logical volume")));
        }
        device.zero(0, DATA_START)?;
        device.sync()?;
        let (lv_uuid, features) = (lv_uuid.to_owned(), Features::default());
        let new = Self { sequence: 1, pool, lv_uuid, length: 0, features };
        new.store(device)?;
        Ok(new)
    }
}

/// A whole block with its checksum.
pub(super) fn seal(mut block: Vec<u8>) -> Vec<u8> {
    block.resize(COVERED, 0);
    let checksum = crc32fast::hash(&block);
    block.extend_from_slice(&checksum.to_le_bytes());
    block
}

/// What the checksum of a block covers, if the block is as it was sealed.
pub(super) fn sealed(block: &[u8]) -> Option<&[u8]> {
    let (covered, checksum) = block.split_at_checked(COVERED)?;
    (crc32fast::hash(covered).to_le_bytes() == checksum).then_some(covered)
}
