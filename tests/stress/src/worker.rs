// SPDX-License-Identifier: LGPL-2.1-or-later
//! Writers and readers of a volume, each with a request at a time.

use std::io::{Error, Result as IoResult};
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use fastrand::Rng;
use nix::errno::Errno;

use crate::content::{BLOCK, BLOCK_BYTES, Stamp, ZERO, fill};
use crate::disk::{Buffer, Disk};
use crate::model::{Kind, Model};
use crate::volume::Volume;

/// Blocks of one request, at most.
const MOST: u64 = 64;
/// The same, to step by.
const STEP: usize = 64;
/// Of a hundred requests, so many go where all writers meet.
const CROWDED: u32 = 40;
/// A write that may wait for so many seconds is always served before.
const LONG: u64 = 60;

/// How requests ended, over all writers of a volume.
#[derive(Default)]
pub struct Outcomes {
    /// Requests that were acknowledged.
    pub done: AtomicU64,
    /// Those that failed for want of space.
    pub no_space: AtomicU64,
    /// Those that failed for want of memory.
    pub no_memory: AtomicU64,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Read,
    Write(Stamp),
    Zero,
    Discard,
}

/// A writer.
pub struct Worker<'a> {
    volume: &'a Volume<'a>,
    number: u64,
    rng: Rng,
    count: u64,
    buffer: Buffer,
}

impl<'a> Worker<'a> {
    /// A writer of that number; its choices are the generator's alone.
    pub fn new(volume: &'a Volume<'a>, number: u64, rng: Rng) -> Self {
        let buffer = Buffer::new(usize::try_from(MOST * BLOCK).unwrap_or_default());
        Self { volume, number, rng, count: 0, buffer }
    }

    /// Chooses a request and makes it, unless the volume ends before it.
    pub fn step(&mut self, outcomes: &Outcomes) -> Result<()> {
        let (request, blocks) = self.choose();
        let model = model(self.volume)?;
        let disk = self.volume.disk.read().unwrap_or_else(PoisonError::into_inner);
        let Some(disk) = disk.as_ref() else { bail!("a volume has no device") };
        let (kind, stamp) = match request {
            Request::Read => (Kind::Read, ZERO),
            Request::Write(stamp) => (Kind::Write, stamp),
            Request::Zero => (Kind::Write, ZERO),
            Request::Discard => (Kind::Discard, ZERO),
        };
        let Some(op) = model.begin(kind, blocks.clone(), stamp) else { return Ok(()) };
        let (begun, rounds) = (Instant::now(), self.volume.no_space.load(Ordering::SeqCst));
        match self.make(disk, request, blocks) {
            Ok(()) if request == Request::Read => {
                model.found(&op, self.buffer.bytes()).map_err(|text| anyhow!(text))?;
            }
            Ok(()) => model.done(&op).map_err(|text| anyhow!(text))?,
            Err(error) => {
                model.failed(&op);
                count(&error, request, outcomes)?;
                self.check_in_time(&error, begun.elapsed(), rounds)?;
                return Ok(());
            }
        }
        outcomes.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// No write is refused for want of space before it has waited for as long as it may, unless there is to
    /// be none. A write gets the age of one that waited for its chunk before a suspend: so only what waits long is
    /// looked at, and half of it counts.
    fn check_in_time(&self, error: &Error, took: Duration, rounds: u64) -> Result<()> {
        let hold = self.volume.shape.hold_timeout;
        let wanted = rounds % 2 == 1 || self.volume.no_space.load(Ordering::SeqCst) != rounds;
        if hold < LONG || wanted || error.raw_os_error() != Some(Errno::ENOSPC as i32) {
            return Ok(());
        }
        ensure!(
            took.as_secs() >= hold / 2,
            "no space after {took:?}, and a write may wait for {hold} s"
        );
        Ok(())
    }

    fn choose(&mut self) -> (Request, Range<u64>) {
        self.count += 1;
        let chunk_blocks = self.volume.chunk_bytes() / BLOCK;
        let all = self.volume.shape.chunks * chunk_blocks;
        let crowded = self.rng.u32(0..100) < CROWDED;
        let start = self.rng.u64(0..if crowded { 8 * chunk_blocks } else { all });
        let length = if self.rng.bool() { self.rng.u64(1..=MOST) } else { self.rng.u64(1..=4) };
        let whole = self.rng.bool();
        let request = match self.rng.u32(0..100) {
            0..45 => Request::Write(self.number << 40 | self.count),
            45..50 => Request::Write(ZERO),
            50..75 => Request::Read,
            75..82 => Request::Zero,
            _ => Request::Discard,
        };
        let blocks = if whole && request == Request::Discard {
            let chunk = start / chunk_blocks * chunk_blocks;
            chunk..chunk + length.div_ceil(chunk_blocks) * chunk_blocks
        } else {
            start..start + length
        };
        (request, blocks.start..blocks.end.min(all))
    }

    fn make(&mut self, disk: &Disk, request: Request, blocks: Range<u64>) -> IoResult<()> {
        let (at, length) = (blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK);
        match request {
            Request::Discard => disk.discard(at, length),
            Request::Zero => disk.zero(at, length),
            Request::Read => {
                self.buffer.shorten(usize::try_from(length).unwrap_or_default());
                disk.read(at, &mut self.buffer)
            }
            Request::Write(stamp) => {
                self.buffer.shorten(usize::try_from(length).unwrap_or_default());
                let volume = model(self.volume).map_or(0, Model::volume);
                let parts = self.buffer.bytes_mut().chunks_exact_mut(BLOCK_BYTES);
                blocks.zip(parts).for_each(|(block, part)| fill(part, volume, block, stamp));
                disk.write(at, &self.buffer)
            }
        }
    }

    /// Reads the whole volume.
    pub fn read_all(&mut self) -> Result<()> {
        let model = model(self.volume)?;
        let disk = self.volume.disk.read().unwrap_or_else(PoisonError::into_inner);
        let Some(disk) = disk.as_ref() else { bail!("a volume has no device") };
        let limit = model.limit();
        for start in (0..limit).step_by(STEP) {
            let blocks = start..limit.min(start + MOST);
            let Some(op) = model.begin(Kind::Read, blocks.clone(), ZERO) else { continue };
            self.make(disk, Request::Read, blocks)?;
            model.found(&op, self.buffer.bytes()).map_err(|text| anyhow!(text))?;
        }
        Ok(())
    }
}

fn model<'a>(volume: &'a Volume<'_>) -> Result<&'a Model> {
    volume.model.as_ref().ok_or_else(|| anyhow!("a volume of a file system has no model"))
}

/// A request may fail for want of space or memory alone, and a read never.
fn count(error: &Error, request: Request, outcomes: &Outcomes) -> Result<()> {
    let counter = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) if request != Request::Read => &outcomes.no_space,
        Some(Errno::ENOMEM) => &outcomes.no_memory,
        _ => bail!("{request:?} failed: {error}"),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
