// SPDX-License-Identifier: LGPL-2.1-or-later
//! The copy thread: copies chunks of snapshots that are to be written, one per pool.
//!
//! What has come together while it copied is copied next, with one flush and one commit for all of
//! it: see [`super::core::Copy`].

use std::collections::BTreeMap;
use std::io;
use std::sync::PoisonError;

use virtnotify_model::{BackendError, Bytes, Chunks};

use super::core::{Copied, Copy, Durable, VolumeId, told};
use super::{Shared, lock};
use crate::alloc::{Extent, Place};
use crate::device::BlockDevice;
use crate::runtime::{Condvar, Mutex};
use crate::target::MappedRun;

/// How much is copied before the first of it is committed.
const BATCH: Bytes = Bytes::mib(16);
/// How much is read and written at once.
const PIECE: u64 = 1 << 20;
/// How many chunks a caller has copied at once.
const MOST: usize = 256;

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Copy>,
    stop: bool,
}

/// What is to be copied.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    state: Mutex<State>,
    changed: Condvar,
}

impl Copies {
    /// Has these copied soon.
    pub(crate) fn ask(&self, copies: &[Copy]) {
        if !copies.is_empty() {
            lock(&self.state).waiting.extend_from_slice(copies);
            self.changed.notify_all();
        }
    }

    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    /// The next ones, `most` of them; `None` when the pool stops.
    fn next(&self, most: usize) -> Option<Vec<Copy>> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.stop;
        let waited = self.changed.wait_while(lock(&self.state), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stop {
            return None;
        }
        let most = most.min(state.waiting.len());
        Some(state.waiting.drain(..most).collect())
    }
}

/// Works until the pool stops.
pub(super) fn run(shared: &Shared) {
    let most = usize::try_from(shared.chunk.whole_chunks(BATCH).0.max(1)).unwrap_or(1);
    let mut failing = false;
    while let Some(copies) = shared.copies.next(most) {
        match make(shared, &copies) {
            Ok(()) => failing = false,
            // The writes wait on, and are asked for again by the next look at their volumes.
            Err(error) if failing => tracing::debug!(pool = %shared.name, %error, "again"),
            Err(error) => {
                failing = true;
                let what = "writes to chunks of snapshots wait";
                tracing::warn!(pool = %shared.name, %error, "{what}");
            }
        }
    }
}

/// Makes copies: on the disk, in the metadata, in the kernel.
fn make(shared: &Shared, copies: &[Copy]) -> Result<(), BackendError> {
    let extents = copies.iter().map(|copy| (copy.from, copy.to.start));
    let copied = copy_all(shared, extents, &|| false);
    let mut core = shared.core_first();
    if let Err(error) = copied {
        core.not_copied(copies).map_err(|e| core.damage(e))?;
        drop(core);
        shared.settled.notify_all();
        return Err(BackendError::failed("cannot copy chunks of a snapshot", error));
    }
    let done = core.copied(copies);
    let ids: Vec<VolumeId> = copies.iter().map(|copy| copy.id).collect();
    shared.view().refresh(&mut core, &ids);
    drop(core);
    shared.settled.notify_all();
    let done = done?;
    tell(shared, &done);
    shared.note(|notes| {
        for (id, mapped) in done.iter() {
            *notes.copied.entry(*id).or_default() += mapped.run.to.length;
        }
        // More than these may be left to be answered: what a write waited for in vain.
        notes.look_at.extend(ids);
    });
    shared.gate.kick();
    Ok(())
}

/// Copies chunks to other places, and flushes them there; `false` if `stop` ended that before.
pub(super) fn copy_all(
    shared: &Shared,
    extents: impl Iterator<Item = (Extent, Place)>,
    stop: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let lv = |number: u16| {
        let none = || io::Error::other("there is no such data LV");
        shared.data.get(number).ok_or_else(none)
    };
    let bytes = |chunks| shared.chunk.bytes_of(Chunks(chunks)).0;
    let mut written = BTreeMap::new();
    for (from, to) in extents {
        let (source, target) = (lv(from.start.lv)?, lv(to.lv)?);
        let (at, place) = (bytes(from.start.chunk), bytes(to.chunk));
        if !copy(&*source, at, &*target, place, bytes(from.length), stop)? {
            return Ok(false);
        }
        written.insert(to.lv, target);
    }
    written.values().try_for_each(|device| device.sync())?;
    Ok(true)
}

/// Copies so many bytes; `false` if `stop` ended that before.
fn copy(
    source: &dyn BlockDevice,
    from: u64,
    target: &dyn BlockDevice,
    to: u64,
    length: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(length.min(PIECE)).map_err(io::Error::other)?];
    let mut done = 0;
    while done < length {
        if stop() {
            return Ok(false);
        }
        // The last piece may be a shorter one: what lies behind it is another's.
        bytes.truncate(usize::try_from(length - done).unwrap_or(usize::MAX));
        source.read_at(from + done, &mut bytes)?;
        target.write_at(to + done, &bytes)?;
        done += bytes.len() as u64;
    }
    Ok(true)
}

/// Has the kernel take the copies.
fn tell(shared: &Shared, copied: &Durable<Copied>) {
    for id in told(copied) {
        let runs = copied
            .chosen(|&(whose, mapped): &(VolumeId, MappedRun)| (whose == id).then_some(mapped));
        let device = shared.core().volume(id).map(|volume| volume.device.clone());
        let Some(device) = device else { continue };
        match shared.target.remap(&device, runs.part(Vec::as_slice)) {
            Ok(()) => shared.core().taken(id, &runs),
            Err(error) => {
                // A guest has discarded one of them meanwhile, or it is to be looked at.
                shared.not_taken(id, &runs);
                tracing::debug!(pool = %shared.name, %error, "copies are taken later");
            }
        }
    }
    shared.sent(&told(copied));
}

impl Shared {
    /// Copies what a part of a volume shares with others, so that nobody waits for that later.
    pub(super) fn copy_shared(
        &self,
        id: VolumeId,
        part: &std::ops::Range<u64>,
    ) -> Result<(), BackendError> {
        loop {
            let (copies, room) = self.core().begin_copies(id, part.clone(), MOST)?;
            if !copies.is_empty() {
                make(self, &copies)?;
            } else if !room {
                self.make_room(1)?;
            } else {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeDisk;

    #[test]
    fn a_copy_ends_where_it_should() {
        let (source, target) = (FakeDisk::used(8 << 20), FakeDisk::used(8 << 20));
        let length = PIECE + PIECE / 2;
        source.write_at(0, &vec![7; 8 << 20]).unwrap();
        assert!(copy(&source, 1 << 20, &target, 2 << 20, length, &|| false).unwrap());
        let mut all = vec![0; 8 << 20];
        target.read_at(0, &mut all).unwrap();
        let copied = 2 << 20..(2 << 20) + usize::try_from(length).unwrap();
        let other = all.iter().enumerate().find(|(at, byte)| (**byte == 7) != copied.contains(at));
        assert_eq!(other, None);
    }
}
