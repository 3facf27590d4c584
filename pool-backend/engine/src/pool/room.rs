// SPDX-License-Identifier: LGPL-2.1-or-later
//! Space from the volume group, and back to it: the headroom thread's LVM commands.
//!
//! An extension is one command as long as the group still has what LVM said last. Only when LVM
//! refuses, or had nothing left, it is asked again what there is.

use std::time::Duration;

use virtnotify_model::{BackendError, Bytes, Chunks};

use super::core::Core;
use super::plan::Plan;
use super::{Shared, another, evacuate, lock, passdown};
use crate::lvm::{LvmError, VgReport};
use crate::meta::DATA_START;
use crate::names::{self, META_LV};
use crate::runtime::Instant;

/// The data LV that every pool has.
const FIRST: u16 = 0;
/// For how long it is waited that LVM moves no data LV any more, before there is another one: with a move of others, and
/// with a part that we move, which is soon done on disks that work.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_WITH_OURS: Duration = Duration::from_secs(10);

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
    note(shared, &report);
    Ok(report)
}

/// Notes which data LVs LVM moves, and whether there is one that is not used.
pub(super) fn note(shared: &Shared, report: &VgReport) {
    let is_moving = |lv| report.lv(&names::data_lv(lv)).is_some_and(|found| found.moving);
    shared.data.note_moving(is_moving);
    shared.data.note_left_over(another::is_left_over(shared, report));
}

/// Takes what LVM has made for the pool and nobody uses: a daemon was killed then, or a device could not be
/// told of it.
pub(super) fn take_unused(shared: &Shared) -> Result<(), BackendError> {
    if !shared.data.has_left_over() && shared.data.unknown().is_empty() {
        return Ok(());
    }
    let _alone = lock(&shared.resizing);
    let report = look(shared)?;
    if shared.data.has_left_over() {
        another::add(shared, shared.data.next(), Bytes::ZERO, &report)?;
    }
    for lv in shared.data.unknown() {
        take_over(shared, lv, size(shared, lv)?)?;
    }
    Ok(())
}

/// Whether the group had room for a chunk when LVM was last asked.
pub(super) fn known_room(shared: &Shared) -> bool {
    let view = shared.view();
    shared.chunk.whole_chunks(view.group_free()).0 > 0
}

/// Extends the data LV that grows by what is wanted or a step, whichever is more, or by all that there is.
pub(super) fn extend(shared: &Shared, wanted: u64, step: u64) -> Result<Extended, BackendError> {
    let _alone = lock(&shared.resizing);
    let more = Chunks(step.max(wanted));
    let lv = shared.data.growing();
    let now = size(shared, lv)?;
    let to = enlarged(shared, now, more);
    let free = shared.view().group_free();
    // Another one grows only until LVM is done with the first.
    if lv == FIRST && to.saturating_sub(now) <= free && known_room(shared) {
        let name = names::data_lv(lv);
        match shared.lvm.extend_lv(&shared.vg, &name, to) {
            Ok(()) => {
                take_over(shared, lv, now)?;
                shared.data.note_moving(|_| false);
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
    let report = look(shared)?;
    match shared.data.stuck() {
        None => extend_by_report(shared, shared.data.growing(), more, &report),
        Some(since) => grow_elsewhere(shared, since, more, &report),
    }
}

/// The size that a data LV has with more chunks.
fn enlarged(shared: &Shared, now: Bytes, more: Chunks) -> Bytes {
    let chunks = shared.chunk.whole_chunks(now).saturating_add(more);
    let to = shared.chunk.bytes_of(chunks);
    to.round_up(shared.extent).unwrap_or(to)
}

/// LVM moves each data LV, and resizes none. Soon after a move of ours was cut short that ends by itself;
/// one that goes on may take hours: the pool gets another data LV.
fn grow_elsewhere(
    shared: &Shared,
    since: Instant,
    more: Chunks,
    report: &VgReport,
) -> Result<Extended, BackendError> {
    evacuate::resume(shared);
    let patience = if shared.collector.evacuates() { PATIENCE_WITH_OURS } else { PATIENCE };
    if since.elapsed() < patience {
        let what = format!("'pvmove' moves the data LVs of '{}': they are not resized", shared.vg);
        return Err(BackendError::Refused(what));
    }
    let (lv, wanted) = (shared.data.next(), enlarged(shared, Bytes::ZERO, more));
    if !another::add(shared, lv, wanted.min(report.free), report)? {
        return Ok(Extended::NoRoom);
    }
    // LVM was asked since: the group's numbers are right.
    take_over(shared, lv, size(shared, lv)?).map(|()| Extended::AfterLook)
}

/// Extends a data LV, or as far as LVM says that it can.
fn extend_by_report(
    shared: &Shared,
    lv: u16,
    more: Chunks,
    report: &VgReport,
) -> Result<Extended, BackendError> {
    let (name, now) = (names::data_lv(lv), size(shared, lv)?);
    let name = name.as_str();
    let Some(found) = report.lv(name) else { return Err(missing(shared, name)) };
    if now < found.size || shared.core().free.size(lv) < shared.chunk.whole_chunks(now).0 {
        // A command that was killed had extended it, and not told the kernel; or it is a new one.
        unblock(shared, name);
        return take_over(shared, lv, now).map(|()| Extended::AfterLook);
    }
    let most = found.size.saturating_add(report.free);
    let chunks = shared.chunk.whole_chunks(now);
    if shared.chunk.whole_chunks(most) <= chunks {
        return Ok(Extended::NoRoom);
    }
    let to = enlarged(shared, now, more).min(most);
    let mut extended = shared.lvm.extend_lv(&shared.vg, name, to);
    if extended.as_ref().is_err_and(LvmError::is_full) {
        // Free extents may be on devices that may not be used: a little may still be had.
        let one = enlarged(shared, now, Chunks(1)).min(most);
        extended = shared.lvm.extend_lv(&shared.vg, name, one);
    }
    match extended {
        Ok(()) => take_over(shared, lv, now).map(|()| Extended::AfterLook),
        Err(error) if error.is_full() => {
            tracing::warn!(pool = %shared.name, %error, "LVM has free extents and gives none");
            Ok(Extended::NoRoom)
        }
        Err(error) => Err(failed(shared, name, error)),
    }
}

/// A logical volume of the pool is gone from its group.
pub(super) fn missing(shared: &Shared, name: &str) -> BackendError {
    BackendError::Source(format!("the volume group '{}' has no '{name}' any more", shared.vg))
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

/// The size of a data LV, as the kernel has it.
fn size(shared: &Shared, lv: u16) -> Result<Bytes, BackendError> {
    let size = shared.data.get(lv).map_or(Ok(0), |device| device.size());
    size.map(Bytes).map_err(|e| BackendError::failed("cannot size a data LV", e))
}

/// Takes over the size that a data LV has now, which had `before`. The first chunks of one are nobody's
/// before all devices know it.
fn take_over(shared: &Shared, lv: u16, before: Bytes) -> Result<(), BackendError> {
    if !shared.data.is_known(lv) {
        another::tell_devices(shared)?;
    }
    let now = size(shared, lv)?;
    let chunks = shared.chunk.whole_chunks(now).0;
    let mut core = shared.core();
    core.free.extended(lv, chunks).map_err(|e| core.damage(e))?;
    // Reckons what LVM would answer: to ask it takes as long as the extension did.
    let mut view = shared.view();
    view.take_from_group(now.saturating_sub(before));
    view.refresh(&mut core, &[]);
    Ok(())
}

/// A free tail of a data LV that is out of use, because it is being given back: of which one, and how many
/// chunks.
#[derive(Debug, Default)]
pub(super) struct Cut(Option<(u16, u64)>);

impl Cut {
    /// Takes over what the data LV is after a reduction, whatever became of that. LVM knows: a
    /// command that was killed may have done it and not told the kernel, or left the LV suspended.
    pub(super) fn end(&mut self, shared: &Shared) -> Result<(), BackendError> {
        let Some((lv, chunks)) = self.0 else { return Ok(()) };
        let name = names::data_lv(lv);
        let report = look(shared)?;
        let Some(found) = report.lv(&name) else { return Err(missing(shared, &name)) };
        if size(shared, lv)? != found.size {
            unblock(shared, &name);
        }
        let now = size(shared, lv)?;
        if now != found.size {
            let what =
                format!("'{}/{name}' has {now} in the kernel and {} in LVM", shared.vg, found.size);
            return Err(BackendError::Refused(what));
        }
        let mut core = shared.core();
        core.free
            .tail_cut(lv, chunks, shared.chunk.whole_chunks(now).0)
            .map_err(|e| core.damage(e))?;
        shared.view().refresh(&mut core, &[]);
        self.0 = None;
        Ok(())
    }
}

/// Which data LV's free tail goes back, and how many chunks of it: the longest one. A chunk stays of each,
/// and on the first one room for what lies on the others, which a reclaim moves there.
fn next_cut(shared: &Shared, core: &Core, plan: Plan) -> Option<(u16, u64)> {
    let spare = plan.goal.saturating_add(plan.step / 2);
    let excess = core.free.total().saturating_sub(spare);
    let numbers = shared.data.numbers();
    let elsewhere: u64 =
        numbers.iter().filter(|lv| **lv != FIRST).map(|lv| core.free.used_on(*lv)).sum();
    let tail = |lv| {
        let stays = if lv == FIRST { elsewhere } else { 0 };
        let tail = core.free.tail(lv).saturating_sub(stays);
        tail.min(core.free.size(lv).saturating_sub(1)).min(excess)
    };
    let resized = numbers.iter().filter(|&&lv| !shared.data.is_moving(lv));
    let tails = resized.map(|&lv| (lv, tail(lv)));
    tails.max_by_key(|(_, chunks)| *chunks).filter(|(_, chunks)| *chunks >= plan.step.max(1))
}

/// Gives the free tail of a data LV back when there is much more than the headroom: half a step
/// stays beyond it, and less than a step is not worth a command. Says whether there is more to give.
pub(super) fn trim(shared: &Shared, plan: Plan, open: &mut Cut) -> Result<bool, BackendError> {
    let passdown = shared.policy().passdown;
    open.end(shared)?;
    let mut core = shared.core();
    let Some((lv, all)) = next_cut(shared, &core, plan) else { return Ok(false) };
    let most = shared.chunk.whole_chunks(passdown::MOST).0.max(1);
    let cut = if passdown { all.min(most) } else { all };
    let before = core.free.size(lv);
    core.free.begin_cut(lv, cut).map_err(|e| core.damage(e))?;
    if let Err(error) = core.commit_free() {
        // Nothing is in hand, so the metadata can be opened again.
        core.free.tail_cut(lv, cut, before).map_err(|e| core.damage(e))?;
        return Err(error);
    }
    drop(core);
    open.0 = Some((lv, cut));
    if passdown && !pass_down(shared, lv, before - cut..before) {
        // What waits for room may get this.
        return open.end(shared).map(|()| false);
    }
    let alone = lock(&shared.resizing);
    let reduced = reduce(shared, lv, shared.chunk.bytes_of(Chunks(before - cut)));
    if matches!(reduced, Err(LvmError::Timeout { .. })) {
        unblock(shared, &names::data_lv(lv));
    }
    drop(alone);
    open.end(shared)?;
    reduced.map_err(|e| BackendError::failed("cannot reduce a data LV", e))?;
    let core = shared.core();
    Ok(core.free.size(lv) < before && next_cut(shared, &core, plan).is_some())
}

/// Discards chunks of a data LV that are out of use; `false` if a write waits for room, or others do.
fn pass_down(shared: &Shared, lv: u16, chunks: std::ops::Range<u64>) -> bool {
    let Some(data) = shared.data.get(lv) else { return true };
    let bytes = |chunk| shared.chunk.bytes_of(Chunks(chunk)).0;
    let part = bytes(chunks.start)..bytes(chunks.end);
    passdown::discard(&*data, part, |limit| shared.gate.pause(limit))
}

fn reduce(shared: &Shared, lv: u16, size: Bytes) -> Result<(), LvmError> {
    let report = shared.lvm.report(&shared.vg)?;
    let to = size.round_up(report.extent).unwrap_or(size);
    shared.lvm.reduce_lv(&shared.vg, &names::data_lv(lv), to)
}
