// SPDX-License-Identifier: LGPL-2.1-or-later
//! The journal: changes that are durable before the tables have them.
//!
//! A transaction of redb copies the pages on the way to each row that it changes, in three trees of
//! its own besides: some 370,000 instructions and eight writes for one growth. A record is one
//! block, and one write. It says what the rows are, not how they differ, so that it does no harm to
//! a table that has it already. Layout: `docs/developer/on-disk.md`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::error::{MetaError, damaged};
use super::fence::Fence;
use super::superblock::{BLOCK, BLOCK_BYTES, COVERED, DATA_START, JOURNAL_START, seal, sealed};
use super::tables::{Change, Row};
use crate::device::{ALIGN, BlockDevice, read_around};

/// How many records there can be that the tables do not have. Few in tests, which so meet a full
/// journal as well.
pub(crate) const SLOTS: u64 = if cfg!(test) { 8 } else { 240 };
// What cannot be read is told by slot.
const _: () = assert!(BLOCK_BYTES == ALIGN);
const _: () = assert!(JOURNAL_START + SLOTS * BLOCK <= DATA_START);
const MAGIC: &[u8; 16] = b"virtnotify-jrnl\n";
/// Where the rows of a record begin.
const ROWS: usize = 32;

#[derive(Debug)]
pub(super) struct Journal {
    device: Arc<Fence>,
    /// The number of the last record that the tables have.
    applied: u64,
    /// What the records after that one say, the oldest first.
    pending: VecDeque<Vec<Change>>,
}

/// The rows of a record, as they are on the disk.
pub(super) struct Rows(Vec<u8>);

impl Rows {
    /// Nothing when they are too much for a record.
    pub(super) fn of(changes: &[Change]) -> Result<Option<Self>, MetaError> {
        let mut bytes = Vec::with_capacity(128);
        for change in changes {
            bytes = postcard::to_extend(&Row::from(change), bytes).map_err(|e| damaged(&e))?;
            if bytes.len() > COVERED - ROWS {
                return Ok(None);
            }
        }
        Ok(Some(Self(bytes)))
    }
}

impl Journal {
    /// The journal of a device whose tables have its records up to `applied`.
    pub(super) fn open(device: Arc<Fence>, applied: u64) -> Result<Self, MetaError> {
        let Slots { mut records, unread } = slots(device.as_ref()).map_err(MetaError::Journal)?;
        records.retain(|(number, _)| *number > applied);
        records.sort_unstable_by_key(|(number, _)| *number);
        let mut pending = VecDeque::new();
        for (want, (number, rows)) in (applied + 1..).zip(&records) {
            // Each record is durable before the next one is written.
            if *number != want {
                let what = format!("the journal has the record {number} and not {want}");
                return Err(MetaError::Damaged(what));
            }
            pending.push_back(changes(rows)?);
        }
        let journal = Self { device, applied, pending };
        journal.check_end(&unread)?;
        Ok(journal)
    }

    /// Refuses a journal that may have been longer. A record that is torn was promised to nobody; one that cannot be
    /// read may have been. A slot that cannot be read elsewhere holds one that the tables have, or nothing.
    fn check_end(&self, unread: &BTreeMap<u64, io::Error>) -> Result<(), MetaError> {
        let next = self.last() + 1;
        match unread.get(&offset(next)) {
            Some(error) if self.waiting() < SLOTS => Err(MetaError::Damaged(format!(
                "the journal cannot be read where its record {next} would be, without which nothing newer is known: \
                 {error}"
            ))),
            _ => Ok(()),
        }
    }

    /// The number of the last record.
    pub(super) fn last(&self) -> u64 {
        self.applied + self.pending.len() as u64
    }

    /// What the tables do not have yet.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Change> {
        self.pending.iter().flatten()
    }

    /// How many records are to be written into the tables.
    pub(super) fn waiting(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Writes a record, durably. There must be a slot for it.
    pub(super) fn append(&mut self, rows: &Rows, changes: &[Change]) -> Result<(), MetaError> {
        let number = self.last() + 1;
        let device = self.device.as_ref();
        let written = device.write_at(offset(number), &encode(number, rows));
        written.and_then(|()| device.sync()).map_err(MetaError::Journal)?;
        self.pending.push_back(changes.to_vec());
        Ok(())
    }

    /// The tables have the records up to this one.
    pub(super) fn forget(&mut self, applied: u64) {
        while self.applied < applied && self.pending.pop_front().is_some() {
            self.applied += 1;
        }
    }
}

fn offset(number: u64) -> u64 {
    JOURNAL_START + number % SLOTS * BLOCK
}

/// What is in the slots of a device.
struct Slots {
    /// The records, in no order.
    records: Vec<(u64, Vec<u8>)>,
    /// The places of slots that cannot be read.
    unread: BTreeMap<u64, io::Error>,
}

fn slots(device: &dyn BlockDevice) -> io::Result<Slots> {
    let mut blocks = vec![0; usize::try_from(SLOTS * BLOCK).map_err(io::Error::other)?];
    let unread = read_around(device, JOURNAL_START, &mut blocks);
    let slots = (0..).zip(blocks.chunks_exact(BLOCK_BYTES));
    let record = |(slot, block): (u64, &[u8])| decode(block).filter(|(n, _)| n % SLOTS == slot);
    Ok(Slots { records: slots.filter_map(record).collect(), unread })
}

fn encode(number: u64, Rows(rows): &Rows) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    block.extend_from_slice(MAGIC);
    block.extend_from_slice(&number.to_le_bytes());
    block.extend_from_slice(&(rows.len() as u64).to_le_bytes());
    block.extend_from_slice(rows);
    seal(block)
}

/// A record's number and rows; nothing when there is none in the block, or not the whole of one.
fn decode(block: &[u8]) -> Option<(u64, Vec<u8>)> {
    let covered = sealed(block).filter(|covered| covered.starts_with(MAGIC))?;
    let word = |at: usize| covered[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let length = usize::try_from(word(24)?).ok()?;
    let rows = covered[ROWS..].get(..length)?;
    Some((word(16)?, rows.to_vec()))
}

fn changes(mut rows: &[u8]) -> Result<Vec<Change>, MetaError> {
    let mut changes = Vec::new();
    while !rows.is_empty() {
        let (row, rest) = postcard::take_from_bytes::<Row<'_>>(rows).map_err(|e| damaged(&e))?;
        changes.push(row.try_into()?);
        rows = rest;
    }
    Ok(changes)
}
