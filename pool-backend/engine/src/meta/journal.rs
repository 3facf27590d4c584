// SPDX-License-Identifier: LGPL-2.1-or-later
//! The journal: changes that are durable before the tables have them.
//!
//! A transaction of redb copies the pages on the way to each row that it changes, in three trees of
//! its own besides: some 370,000 instructions and eight writes for one growth. A record is one
//! block, and one write. It says what the rows are, not how they differ, so that it does no harm to
//! a table that has it already. Layout: `docs/developer/on-disk.md`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::error::{MetaError, damaged};
use super::fence::Fence;
use super::superblock::{BLOCK, BLOCK_BYTES, COVERED, DATA_START, JOURNAL_START, seal, sealed};
use super::tables::{Change, Row};
use crate::device::BlockDevice;

/// How many records there can be that the tables do not have. Few in tests, which so meet a full
/// journal as well.
pub(super) const SLOTS: u64 = if cfg!(test) { 8 } else { 240 };
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
        let mut records = records(device.as_ref()).map_err(MetaError::Journal)?;
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
        Ok(Self { device, applied, pending })
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

/// The records that are on a device, in no order.
fn records(device: &dyn BlockDevice) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut blocks = vec![0; usize::try_from(SLOTS * BLOCK).map_err(io::Error::other)?];
    device.read_at(JOURNAL_START, &mut blocks)?;
    let slots = (0..).zip(blocks.chunks_exact(BLOCK_BYTES));
    let record = |(slot, block): (u64, &[u8])| decode(block).filter(|(n, _)| n % SLOTS == slot);
    Ok(slots.filter_map(record).collect())
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
