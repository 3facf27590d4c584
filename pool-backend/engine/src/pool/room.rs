// SPDX-License-Identifier: LGPL-2.1-or-later
//! Space from the volume group, and back to it: the headroom thread's LVM commands.
//!
//! An extension is one command as long as the group still has what LVM said last. Only when LVM
//! refuses, or had nothing left, it is asked again what there is.

use virtnotify_model::{BackendError, Bytes, Chunks};

use super::plan::Plan;
use super::{Shared, evacuate, lock, passdown};
use crate::lvm::{LvmError, VgReport};
use crate::meta::DATA_START;
use crate::names::{self, META_LV};

/// The data LV that grows. (Further ones belong to other hosts.)
const LV: u16 = 0;

/// The outcome of an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extended {
    /// One command did it.
    Directly,
    /// LVM had to be asked what there is.
    AfterLook,
    /// The group has nothing more.
    NoRoom,
}

/// Keeps room for the metadata ahead of the data: a full database doubles, and that must never
/// be what fails. It may double twice before this is asked again.
pub(super) fn extend_metadata(shared: &Shared) -> Result<(), BackendError> {
    let failed = |e: std::io::Error| BackendError::failed("cannot size the metadata LV", e);
    let length = shared.core().metadata_length();
    let room = |times: u64| Bytes(DATA_START.saturating_add(length.saturating_mul(times)));
    if shared.meta.size().map_err(failed)? >= room(4).0 {
        return Ok(());
    }
    let _alone = lock(&shared.resizing);
    let report = look(shared)?;
    let to = room(8).round_up(report.extent).unwrap_or(room(8));
    shared
        .lvm
        .extend_lv(&shared.vg, META_LV, to)
        .map_err(|e| BackendError::failed(format!("cannot extend '{}/{META_LV}'", shared.vg), e))?;
    let size = shared.meta.size().map_err(failed)?;
    shared.view().set_meta(Bytes(size));
    look(shared).map(drop)
}

/// Asks LVM about the group, and shows the answer.
pub(super) fn look(shared: &Shared) -> Result<VgReport, BackendError> {
    let report = shared.lvm.report(&shared.vg).map_err(|error| {
        BackendError::failed(format!("cannot look at the volume group '{}'", shared.vg), error)
    })?;
    shared.view().set_vg(report.size, report.free);
    Ok(report)
}

/// Whether the group had room for a chunk when LVM was last asked.
pub(super) fn known_room(shared: &Shared) -> bool {
    let view = shared.view();
    shared.chunk.whole_chunks(view.group_free()).0 > 0
}

/// Extends the data LV by what is wanted or a step, whichever is more, or by all that there is.
pub(super) fn extend(shared: &Shared, wanted: u64, step: u64) -> Result<Extended, BackendError> {
    let _alone = lock(&shared.resizing);
    let name = names::data_lv(LV);
    let now = size(shared)?;
    let chunks = shared.chunk.whole_chunks(now);
    let more = shared.chunk.bytes_of(chunks.saturating_add(Chunks(step.max(wanted))));
    let to = more.round_up(shared.extent).unwrap_or(more);
    let free = shared.view().group_free();
    if to.saturating_sub(now) <= free && known_room(shared) {
        match shared.lvm.extend_lv(&shared.vg, &name, to) {
            Ok(()) => {
                take_over(shared, now)?;
                return Ok(Extended::Directly);
            }
            Err(error @ (LvmError::Timeout { .. } | LvmError::Start { .. })) => {
                return Err(failed(shared, &name, error));
            }
            Err(error) => {
                tracing::debug!(pool = %shared.name, %error, "LVM is asked what there is");
            }
        }
    }
    extend_by_report(shared, &name, to)
}

/// Extends the data LV to this size, or as far as LVM says that it can.
fn extend_by_report(shared: &Shared, name: &str, to: Bytes) -> Result<Extended, BackendError> {
    let report = look(shared)?;
    let Some(lv) = report.lv(name) else {
        let what = format!("the volume group '{}' has no '{name}' any more", shared.vg);
        return Err(BackendError::Source(what));
    };
    if lv.moving {
        evacuate::resume(shared);
        let what = format!("'pvmove' moves '{}/{name}', which grows when that is done", shared.vg);
        return Err(BackendError::Refused(what));
    }
    let now = size(shared)?;
    if now < lv.size {
        // A command that was killed had extended it, and not told the kernel.
        unblock(shared, name);
        return take_over(shared, now).map(|()| Extended::AfterLook);
    }
    let most = lv.size.saturating_add(report.free);
    let chunks = shared.chunk.whole_chunks(now);
    if shared.chunk.whole_chunks(most) <= chunks {
        return Ok(Extended::NoRoom);
    }
    let mut extended = shared.lvm.extend_lv(&shared.vg, name, to.min(most));
    if extended.as_ref().is_err_and(LvmError::is_full) {
        // Free extents may be on devices that may not be used: a little may still be had.
        let one = shared.chunk.bytes_of(chunks.saturating_add(Chunks(1)));
        let one = one.round_up(report.extent).unwrap_or(one).min(most);
        extended = shared.lvm.extend_lv(&shared.vg, name, one);
    }
    match extended {
        Ok(()) => take_over(shared, now).map(|()| Extended::AfterLook),
        Err(error) if error.is_full() => {
            tracing::warn!(pool = %shared.name, %error, "LVM has free extents and gives none");
            Ok(Extended::NoRoom)
        }
        Err(error) => Err(failed(shared, name, error)),
    }
}

fn failed(shared: &Shared, name: &str, error: LvmError) -> BackendError {
    if matches!(error, LvmError::Timeout { .. }) {
        unblock(shared, name);
    }
    BackendError::failed(format!("cannot extend '{}/{name}'", shared.vg), error)
}

/// LVM suspends a logical volume for a moment while it changes it. A command that was killed just
/// then leaves it suspended, and every guest of the pool waits.
fn unblock(shared: &Shared, lv: &str) {
    if let Err(error) = shared.lvm.refresh_lv(&shared.vg, lv) {
        tracing::warn!(pool = %shared.name, %error, "a logical volume may be suspended");
    }
}

/// The size of the data LV, as the kernel has it.
fn size(shared: &Shared) -> Result<Bytes, BackendError> {
    let size = shared.data.get(&LV).map_or(Ok(0), |device| device.size());
    size.map(Bytes).map_err(|e| BackendError::failed("cannot size the data LV", e))
}

/// Takes over the size that the data LV has now, which had `before`.
fn take_over(shared: &Shared, before: Bytes) -> Result<(), BackendError> {
    let now = size(shared)?;
    let chunks = shared.chunk.whole_chunks(now).0;
    let mut core = shared.core();
    core.free.extended(LV, chunks).map_err(|e| core.damage(e))?;
    // Reckons what LVM would answer: to ask it takes as long as the extension did.
    let mut view = shared.view();
    view.take_from_group(now.saturating_sub(before));
    view.refresh(&core, &[]);
    Ok(())
}

/// A free tail of the data LV that is out of use, because it is being given back: so many chunks.
#[derive(Debug, Default)]
pub(super) struct Cut(Option<u64>);

impl Cut {
    /// Takes over what the data LV is after a reduction, whatever became of that. LVM knows: a
    /// command that was killed may have done it and not told the kernel, or left the LV suspended.
    pub(super) fn end(&mut self, shared: &Shared) -> Result<(), BackendError> {
        let Some(chunks) = self.0 else { return Ok(()) };
        let name = names::data_lv(LV);
        let report = look(shared)?;
        let Some(lv) = report.lv(&name) else {
            let what = format!("the volume group '{}' has no '{name}' any more", shared.vg);
            return Err(BackendError::Source(what));
        };
        if size(shared)? != lv.size {
            unblock(shared, &name);
        }
        let now = size(shared)?;
        if now != lv.size {
            let what =
                format!("'{}/{name}' has {now} in the kernel and {} in LVM", shared.vg, lv.size);
            return Err(BackendError::Refused(what));
        }
        let mut core = shared.core();
        core.free
            .tail_cut(LV, chunks, shared.chunk.whole_chunks(now).0)
            .map_err(|e| core.damage(e))?;
        shared.view().refresh(&core, &[]);
        self.0 = None;
        Ok(())
    }
}

/// Gives the free tail of the data LV back when there is much more than the headroom: half a step
/// stays beyond it, and less than a step is not worth a command. Says whether there is more to give.
pub(super) fn trim(shared: &Shared, plan: Plan, open: &mut Cut) -> Result<bool, BackendError> {
    let passdown = shared.policy().passdown;
    open.end(shared)?;
    let mut core = shared.core();
    let spare = plan.goal.saturating_add(plan.step / 2);
    let all = core.free.total().saturating_sub(spare).min(core.free.tail(LV));
    if all < plan.step {
        return Ok(false);
    }
    let most = shared.chunk.whole_chunks(passdown::MOST).0.max(1);
    let cut = if passdown { all.min(most) } else { all };
    let before = core.free.size(LV);
    core.free.begin_cut(LV, cut).map_err(|e| core.damage(e))?;
    if let Err(error) = core.commit_free() {
        // Nothing is in hand, so the metadata can be opened again.
        core.free.tail_cut(LV, cut, before).map_err(|e| core.damage(e))?;
        return Err(error);
    }
    drop(core);
    open.0 = Some(cut);
    if passdown && !pass_down(shared, before - cut..before) {
        // What waits for room may get this.
        return open.end(shared).map(|()| false);
    }
    let alone = lock(&shared.resizing);
    let reduced = reduce(shared, shared.chunk.bytes_of(Chunks(before - cut)));
    if matches!(reduced, Err(LvmError::Timeout { .. })) {
        unblock(shared, &names::data_lv(LV));
    }
    drop(alone);
    open.end(shared)?;
    reduced.map_err(|e| BackendError::failed("cannot reduce the data LV", e))?;
    Ok(cut < all)
}

/// Discards chunks of the data LV that are out of use; `false` if a write waits for room, or others do.
fn pass_down(shared: &Shared, chunks: std::ops::Range<u64>) -> bool {
    let Some(data) = shared.data.get(&LV) else { return true };
    let bytes = |chunk| shared.chunk.bytes_of(Chunks(chunk)).0;
    let part = bytes(chunks.start)..bytes(chunks.end);
    passdown::discard(&**data, part, |limit| shared.gate.pause(limit))
}

fn reduce(shared: &Shared, size: Bytes) -> Result<(), LvmError> {
    let report = shared.lvm.report(&shared.vg)?;
    let to = size.round_up(report.extent).unwrap_or(size);
    shared.lvm.reduce_lv(&shared.vg, &names::data_lv(LV), to)
}
