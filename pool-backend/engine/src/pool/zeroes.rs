// SPDX-License-Identifier: LGPL-2.1-or-later
//! Written chunks that are all zeroes come back: see [`super::core::zeroes`].
//!
//! They are found by reading, of which no event tells: most chunks hold data at their beginning, and cost
//! a short read. What was read as zeroes is watched and read once more, from the disk, so that a write
//! that comes meanwhile is seen, and has its chunk left alone. Only what has been found twice has writes
//! wait, for one commit.

use std::io;

use virtnotify_model::{BackendError, Bytes, Chunks};

use super::Shared;
use super::core::VolumeId;
use super::core::zeroes::Empty;
use super::held;
use crate::alloc::{Ranges, Run};
use crate::target::TargetError;

/// How much is read at once of a chunk, and of its beginning, where nearly all data shows.
const PIECE: Bytes = Bytes::mib(1);
const BEGINNING: Bytes = Bytes(64 << 10);

/// What reading chunks has shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Those that are all zeroes.
    pub(super) empty: Vec<Run>,
    /// How many were looked at.
    pub(super) chunks: u64,
    /// How much was read for that.
    pub(super) read: Bytes,
    /// Where it was stopped, if it was.
    pub(super) stopped_at: Option<u64>,
}

/// What came of taking chunks back.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) chunks: u64,
    pub(super) read: Bytes,
    /// It was stopped before it was known of all of them what they hold.
    pub(super) stopped: bool,
}

/// Reads chunks, until `stop` says so.
pub(super) fn read(shared: &Shared, runs: &[Run], stop: &dyn Fn() -> bool) -> io::Result<Seen> {
    let mut seen = Seen::default();
    for run in runs {
        for n in 0..run.to.length {
            let chunk = run.part(run.at + n, run.at + n + 1);
            let Some(is_empty) = is_empty(shared, chunk, &mut seen.read, stop)? else {
                seen.stopped_at = Some(chunk.at);
                return Ok(seen);
            };
            seen.chunks += 1;
            if is_empty {
                seen.empty.push(chunk);
            }
        }
    }
    Ok(seen)
}

/// Whether a chunk is all zeroes; `None` if `stop` ended that before it was known.
pub(super) fn is_empty(
    shared: &Shared,
    chunk: Run,
    read: &mut Bytes,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<bool>> {
    let place = chunk.to.start;
    let Some(data) = shared.data.get(place.lv) else { return Ok(Some(false)) };
    let (start, length) = (shared.chunk.bytes_of(Chunks(place.chunk)).0, shared.chunk.bytes().0);
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < length {
        if stop() {
            return Ok(None);
        }
        let piece = if at == 0 { BEGINNING } else { PIECE }.0.min(length - at);
        bytes.resize(usize::try_from(piece).map_err(io::Error::other)?, 0);
        data.read_at(start + at, &mut bytes)?;
        *read = read.saturating_add(Bytes(piece));
        if !are_zeroes(&bytes) {
            return Ok(Some(false));
        }
        at += piece;
    }
    Ok(Some(true))
}

fn are_zeroes(bytes: &[u8]) -> bool {
    // Without an end in the middle of a block it is done many bytes at once.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

fn failed(error: TargetError) -> BackendError {
    BackendError::failed("chunks of zeroes cannot be taken back", error)
}

/// Takes chunks back. Others stay: those that are written meanwhile, and all of them if `stop` says so
/// before it is known what they hold.
pub(super) fn take_back(
    shared: &Shared,
    empty: &Empty,
    stop: &dyn Fn() -> bool,
) -> Result<Taken, BackendError> {
    let (mut gone, mut stay) = (Ranges::default(), empty.ranges());
    let taken = take_quiet(shared, empty, &mut gone, stop);
    stay.remove_all(&gone);
    held::unprotect(shared, &empty.holders, &stay);
    let ids: Vec<VolumeId> = empty.holders.iter().map(|holder| holder.id).collect();
    let mut core = shared.core();
    core.end_emptying(empty);
    shared.view().refresh_all(&mut core);
    drop(core);
    shared.sent(&ids);
    if !gone.is_empty() {
        ids.iter().for_each(|&id| shared.tell_changed(id));
    }
    // Writes that came to these chunks meanwhile were not answered.
    shared.note(|notes| {
        notes.look_at.extend(ids);
        notes.replenished |= !gone.is_empty();
    });
    taken
}

/// Takes back what is zeroes still and is not written, and says in `gone` what that was.
fn take_quiet(
    shared: &Shared,
    empty: &Empty,
    gone: &mut Ranges,
    stop: &dyn Fn() -> bool,
) -> Result<Taken, BackendError> {
    let holders = &empty.holders;
    held::watch(shared, holders, &empty.ranges()).map_err(failed)?;
    let unread = |error| BackendError::failed("chunks cannot be read", error);
    shared.data.sync().map_err(unread)?;
    let seen = self::read(shared, &empty.runs, stop).map_err(unread)?;
    let stopped = seen.stopped_at.is_some() || stop();
    let taken = |chunks| Taken { chunks, read: seen.read, stopped };
    let mut zeroes: Ranges = seen.empty.iter().copied().collect();
    if zeroes.is_empty() || stopped {
        return Ok(taken(0));
    }
    held::protect_written(shared, holders, &zeroes).map_err(failed)?;
    let looked = held::look(shared, holders, &empty.runs, &zeroes, false);
    let (changed, shown) = looked.map_err(failed)?;
    zeroes.remove_all(&changed);
    let left: Vec<_> = shown.iter().map(|(id, there)| (*id, there.common(&zeroes))).collect();
    let done = leave(shared, empty, &left).and_then(|()| {
        let mut core = shared.core_first();
        core.emptied(empty, &zeroes, &left)
    });
    // What has left a device and not the layer is mapped again.
    let gaps = done.inspect_err(|_| left.iter().for_each(|(id, _)| shared.unsettle(*id)))?;
    for holder in holders {
        let gaps = gaps.chosen(|&(id, gap)| (id == holder.id).then_some(gap));
        for gap in gaps.part(Vec::as_slice).each() {
            held::forget(shared, holder.id, &holder.device, gap);
        }
    }
    *gone = zeroes;
    Ok(taken(gone.iter().map(|(_, length)| length).sum()))
}

/// Has the chunks leave the devices that have them; no device reads there afterwards.
fn leave(shared: &Shared, empty: &Empty, left: &[(VolumeId, Ranges)]) -> Result<(), BackendError> {
    for (holder, (_, ranges)) in empty.holders.iter().zip(left) {
        // One with copies of its own may have read there before; to leave is to wait for that.
        if ranges.is_empty() {
            shared.target.drain(&holder.device).map_err(failed)?;
        }
        for (from, length) in ranges.iter() {
            shared.target.leave(&holder.device, from, length, true).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_is_enough() {
        let mut bytes = vec![0; 10_000];
        assert!(are_zeroes(&bytes) && are_zeroes(&[]));
        for at in [0, 4095, 4096, 9_999] {
            bytes[at] = 1;
            assert!(!are_zeroes(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
