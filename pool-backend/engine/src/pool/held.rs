// SPDX-License-Identifier: LGPL-2.1-or-later
//! Devices that show chunks which are about to be elsewhere, or no more: their writes are seen, and
//! wait while that is decided.

use super::Shared;
use super::core::relocate::{Holder, still_there};
use super::core::{Durable, Gap, VolumeId};
use crate::alloc::{Ranges, Run};
use crate::target::{ChunkState, DeviceId, TargetError};

/// What is done to parts of a device.
type Act<'a> = &'a dyn Fn(&DeviceId, &[Gap]) -> Result<(), TargetError>;

/// Tells each device of all its parts at once: the kernel waits once for I/O that is on its way, however
/// many there are.
fn on_each<'a>(
    holders: impl Iterator<Item = &'a Holder>,
    ranges: &Ranges,
    act: Act<'_>,
) -> Result<(), TargetError> {
    for holder in holders {
        let parts: Vec<Gap> = holder.ranges.common(ranges).iter().collect();
        if !parts.is_empty() {
            act(&holder.device, &parts)?;
        }
    }
    Ok(())
}

fn written(holders: &[Holder]) -> impl Iterator<Item = &Holder> {
    holders.iter().filter(|holder| holder.written)
}

/// From now on it can be seen whether these chunks are written.
pub(super) fn watch(
    shared: &Shared,
    holders: &[Holder],
    ranges: &Ranges,
) -> Result<(), TargetError> {
    on_each(written(holders), ranges, &|device, parts| shared.target.watch(device, parts))
}

/// Has writes to these chunks wait.
pub(super) fn protect(
    shared: &Shared,
    holders: &[Holder],
    ranges: &Ranges,
) -> Result<(), TargetError> {
    on_each(holders.iter(), ranges, &|device, parts| shared.target.protect(device, parts, true))
}

/// The same where they are written in place: what is shared is not.
pub(super) fn protect_written(
    shared: &Shared,
    holders: &[Holder],
    ranges: &Ranges,
) -> Result<(), TargetError> {
    on_each(written(holders), ranges, &|device, parts| shared.target.protect(device, parts, true))
}

/// Writes to these chunks go on.
pub(super) fn unprotect(shared: &Shared, holders: &[Holder], ranges: &Ranges) {
    for Holder { device, ranges: shown, .. } in holders {
        let parts: Vec<Gap> = shown.common(ranges).iter().collect();
        if let Err(error) = shared.target.protect(device, &parts, false) {
            tracing::debug!(pool = %shared.name, %error, "chunks stay protected");
        }
    }
}

/// Which chunks were written since they were watched, or are no more where they were (`runs`), and which
/// of the chunks each device has. Writes to all of them wait. `held`: they have waited all the time.
pub(super) fn look(
    shared: &Shared,
    holders: &[Holder],
    runs: &[Run],
    now: &Ranges,
    held: bool,
) -> Result<(Ranges, Vec<(VolumeId, Ranges)>), TargetError> {
    let mut changed = Ranges::default();
    let mut shown = Vec::new();
    for holder in holders {
        let mut there = Ranges::default();
        for (at, length) in holder.ranges.common(now).iter() {
            let part = at..at + length;
            let dump = shared.target.dump_part(&holder.device, part.clone())?;
            for live in
                dump.runs.iter().filter(|live| live.run.at < part.end && at < live.run.end())
            {
                if holder.written && !may_go(live.state, held) {
                    continue;
                }
                let run = live.run.part(part.start, part.end);
                still_there(runs, run).iter().for_each(|&(at, length)| there.insert(at, length));
            }
        }
        if holder.written {
            let mut missing = holder.ranges.common(now);
            missing.remove_all(&there);
            changed.insert_all(&missing);
        }
        shown.push((holder.id, there));
    }
    Ok((changed, shown))
}

/// Whether a chunk that is written in place is what was copied. One that is mapped as it was decided before may come late,
/// after its hole was told to wait, and is written at once. What was discarded before a snapshot was taken is the
/// snapshot's, and is mapped.
fn may_go(chunk: ChunkState, held: bool) -> bool {
    let waited = if held { chunk.protected } else { chunk.unchanged };
    waited && !chunk.discarded
}

/// Writes to chunks that have left go on. Of what was mapped anew meanwhile the kernel forgets
/// nothing; a device that is gone has nobody who waits.
pub(super) fn forget(shared: &Shared, id: VolumeId, device: &DeviceId, gap: Durable<Gap>) {
    match shared.target.forget(device, gap) {
        Ok(()) => {}
        Err(error) if error.is_gone() => {}
        Err(error) => {
            shared.unsettle(id);
            tracing::warn!(pool = %shared.name, %error, "writes to chunks that have left wait");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_chunk_whose_writes_have_waited_is_what_was_copied() {
        let plain = ChunkState::default();
        let protected = ChunkState { protected: true, ..plain };
        let unchanged = ChunkState { unchanged: true, ..plain };
        assert!(may_go(protected, true) && may_go(unchanged, false));
        // A map that was sent late, and has been written meanwhile.
        assert!(!may_go(plain, true) && !may_go(plain, false));
        assert!(!may_go(unchanged, true), "it may be written while it is copied");
        assert!(!may_go(protected, false), "it may have been written before");
        for state in [protected, unchanged] {
            assert!(!may_go(ChunkState { discarded: true, ..state }, state.protected));
        }
    }
}
