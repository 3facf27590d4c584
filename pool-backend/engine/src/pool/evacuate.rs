// SPDX-License-Identifier: LGPL-2.1-or-later
//! A physical volume becomes empty: LVM moves the extents of the pool's logical volumes (`pvmove`), a part at
//! once, while guests use them.
//!
//! ```text
//!   closed to growth ──▶ a part moves ──▶ nothing of the pool is left there
//!                            ▲    │ the data LV is extended, guests go first
//!                            └────┘
//! ```
//!
//! Neither chunks nor metadata change: LVM's own record says where extents are, at each moment, and
//! it is what survives a kill and a power cut. Logical volumes cannot be resized while a part of them
//! moves, so parts are small, and between them the headroom thread has its turn. Where a part does not get on it
//! does as with moves of others: see [`super::another`].

use std::path::Path;
use std::time::Duration;

use virtnotify_model::{BackendError, Bytes, Chunks};

use super::collector::{MOST_TRIES, Work, YIELD};
use super::{Shared, lock, room};
use crate::lvm::{LvmError, PvSegment, VgReport};
use crate::names::{self, META_LV};
use crate::runtime::Instant;

/// How much moves at once.
const PART: Bytes = Bytes::mib(128);
/// How often it is looked whether a part has moved.
const LOOK: Duration = Duration::from_millis(300);
/// How often LVM is told again to go on with moves.
const RESUME: Duration = Duration::from_secs(60);
/// How often a part that stays where it is has LVM move it.
const MOST_MOVES: u32 = 3;

fn is_ours(lv: &str) -> bool {
    lv == META_LV || names::data_lv_index(lv).is_some()
}

/// Whether LVM moves logical volumes of the pool.
pub(super) fn is_moving(report: &VgReport) -> bool {
    report.lvs.iter().any(|lv| lv.moving && is_ours(&lv.name))
}

/// What is on a physical volume.
#[derive(Debug)]
struct Survey {
    /// LVM's name of it.
    pv: String,
    /// Whether logical volumes may get more of it.
    open: bool,
    /// Whether the group has no other.
    alone: bool,
    /// What the others have free.
    room: Bytes,
    extent: Bytes,
    /// What the pool has there.
    parts: Vec<PvSegment>,
}

impl Survey {
    fn bytes(&self, part: &PvSegment) -> Bytes {
        Bytes(part.extents.saturating_mul(self.extent.0))
    }

    /// How much the pool has there.
    fn held(&self) -> Bytes {
        self.parts.iter().map(|part| self.bytes(part)).sum()
    }

    /// What moves next.
    fn next(&self) -> Option<PvSegment> {
        let most = (PART.0 / self.extent.0).max(1);
        let part = self.parts.first()?.clone();
        Some(PvSegment { extents: part.extents.min(most), ..part })
    }
}

fn failed(step: &str, error: LvmError) -> BackendError {
    BackendError::failed(format!("cannot {step}"), error)
}

/// Looks at a physical volume; refuses a device that is not in the group, and one that holds what
/// is not the pool's.
fn survey(shared: &Shared, device: &Path) -> Result<Survey, BackendError> {
    let (vg, shown) = (&shared.vg, device.display());
    let report = room::look(shared)?;
    let wanted = shared.disks.number(device).map_err(|error| {
        BackendError::Refused(format!("'{shown}' cannot be looked at: {error}"))
    })?;
    let same = |name: &str| shared.disks.number(Path::new(name)).is_ok_and(|n| n == wanted);
    let Some(pv) = report.pvs.iter().find(|pv| same(&pv.name)) else {
        let names: Vec<_> = report.pvs.iter().map(|pv| pv.name.as_str()).collect();
        let what = format!(
            "'{shown}' is no physical volume of the volume group '{vg}', which has {}",
            names.join(", ")
        );
        return Err(BackendError::Refused(what));
    };
    let segments = shared.lvm.segments(vg).map_err(|e| failed("look at physical volumes", e))?;
    let (parts, others): (Vec<_>, Vec<_>) =
        segments.into_iter().filter(|part| part.pv == pv.name).partition(|part| is_ours(&part.lv));
    // What LVM moves just now is in a volume of its own.
    if let Some(other) = others.first().filter(|_| !is_moving(&report)) {
        let what = format!(
            "'{vg}/{0}' lies on '{shown}' too, and is not the pool's: 'pvmove -n {0} {1}' moves it",
            other.lv, pv.name
        );
        return Err(BackendError::Refused(what));
    }
    let open = report.pvs.iter().filter(|other| other.allocatable && other.name != pv.name);
    Ok(Survey {
        pv: pv.name.clone(),
        open: pv.allocatable,
        alone: report.pvs.len() == 1,
        room: open.map(|other| other.free).sum(),
        extent: report.extent,
        parts,
    })
}

/// Refuses a physical volume whose content has no room elsewhere.
pub(super) fn check(shared: &Shared, device: &Path) -> Result<(), BackendError> {
    let found = survey(shared, device)?;
    if found.alone {
        let what = format!(
            "'{}' is the only physical volume of '{}': 'vgextend' adds another one",
            device.display(),
            shared.vg
        );
        return Err(BackendError::Refused(what));
    }
    // What the pool does not need goes back to the group, if it has to.
    let spare = {
        let core = shared.core();
        Chunks(core.free.total().saturating_sub(shared.gate.mark()))
    };
    let spare = shared.chunk.bytes_of(spare);
    if found.held() > found.room.saturating_add(spare) {
        return Err(no_room(shared, &found, spare));
    }
    Ok(())
}

/// The others have no room for what is there, with what the pool could give back.
fn no_room(shared: &Shared, found: &Survey, spare: Bytes) -> BackendError {
    BackendError::Refused(format!(
        "the pool has {} on '{}', and the other physical volumes of '{}' have room for {}; {} can come \
         from what the pool keeps free",
        found.held(),
        found.pv,
        shared.vg,
        found.room,
        spare
    ))
}

/// LVM has ended a move, and what was to move is where it was.
fn not_moved(part: &PvSegment) -> BackendError {
    let end = part.start + part.extents;
    BackendError::Refused(format!(
        "LVM does not move '{}' off '{}' (extents {} to {end}): its log may say why",
        part.lv, part.pv, part.start
    ))
}

/// Has logical volumes get nothing of a physical volume any more, or again.
fn open(shared: &Shared, found: &Survey, open: bool) -> Result<(), BackendError> {
    if open || found.open {
        let _alone = lock(&shared.resizing);
        let changed = shared.lvm.open_pv(&found.pv, open);
        changed.map_err(|e| failed(&format!("change whether '{}' is used", found.pv), e))?;
    }
    room::look(shared).map(drop)
}

/// Moves a part; returns when LVM has done it, or the pool stops. `false`: others took the room.
fn move_part(shared: &Shared, part: &PvSegment) -> Result<bool, BackendError> {
    let begun = {
        let _alone = lock(&shared.resizing);
        shared.lvm.begin_move(part)
    };
    match begun {
        Ok(()) => {}
        // It may have begun.
        Err(LvmError::Timeout { .. }) => resume(shared),
        Err(error) if error.is_full() => return Ok(false),
        Err(error) => return Err(failed(&format!("move '{}'", part.lv), error)),
    }
    wait(shared, || shared.collector.stops()).map(|()| true)
}

/// Waits until LVM moves nothing of the pool: a part of ours that a kill has left, or what others move.
fn let_moves_end(shared: &Shared) -> Result<(), BackendError> {
    if !is_moving(&room::look(shared)?) {
        return Ok(());
    }
    resume(shared);
    wait(shared, || shared.collector.ends())
}

fn wait(shared: &Shared, ends: impl Fn() -> bool) -> Result<(), BackendError> {
    let began = Instant::now();
    while is_moving(&room::look(shared)?) && !ends() {
        if began.elapsed() >= RESUME {
            resume(shared);
        }
        shared.collector.rest(LOOK);
    }
    Ok(())
}

/// Lets LVM resume, now and then, moves whose watcher may be gone.
pub(super) fn resume(shared: &Shared) {
    let mut resumed = lock(&shared.resumed);
    if resumed.is_some_and(|at| at.elapsed() < RESUME) {
        return;
    }
    match shared.lvm.resume_moves(&shared.vg) {
        Ok(()) => *resumed = Some(Instant::now()),
        Err(error) => {
            tracing::warn!(pool = %shared.name, %error, "LVM may not go on with a move");
        }
    }
}

impl Work<'_> {
    /// Has a physical volume empty. Others get nothing of it from now on; if it does not become empty, they
    /// do again, unless the daemon ends: then it is asked for once more.
    pub(super) fn evacuate(&mut self, device: &Path) -> Result<(), BackendError> {
        let shared = self.shared;
        let found = survey(shared, device)?;
        let closed = open(shared, &found, false);
        let emptied = closed.and_then(|()| self.empty(device));
        if found.open && !shared.collector.stops() && !matches!(emptied, Ok(true)) {
            open(shared, &found, true)?;
        }
        emptied.map(drop)
    }

    /// Moves what is on a physical volume, part by part; says whether nothing is left.
    fn empty(&mut self, device: &Path) -> Result<bool, BackendError> {
        let (shared, mut reclaimed) = (self.shared, false);
        let (mut last, mut tries) = (None, 0);
        loop {
            let_moves_end(shared)?;
            let found = survey(shared, device)?;
            let held = found.held();
            shared.collector.change(|job| job.total = job.moved.saturating_add(held));
            self.tell();
            let Some(part) = found.next() else { return Ok(true) };
            if !self.goes_on() {
                return Ok(false);
            }
            if held > found.room {
                if std::mem::replace(&mut reclaimed, true) {
                    return Err(no_room(shared, &found, Bytes::ZERO));
                }
                self.reclaim()?;
                continue;
            }
            tries = if last.as_ref() == Some(&part) { tries + 1 } else { 0 };
            if tries >= MOST_MOVES {
                return Err(not_moved(&part));
            }
            self.let_headroom_fill();
            let began = Instant::now();
            let done = move_part(shared, &part)?;
            let moved = if done { found.bytes(&part) } else { Bytes::ZERO };
            shared.collector.change(|job| job.moved = job.moved.saturating_add(moved));
            self.pace(moved, began);
            last = Some(part);
        }
    }

    /// While a part moves, the data LV cannot be extended: there is headroom before it does.
    fn let_headroom_fill(&self) {
        let shared = self.shared;
        let fills = || {
            let core = shared.core();
            let more = core.free.dirty() > 0 || room::known_room(shared);
            core.free.clean() < shared.gate.mark() && more
        };
        for _ in 0..MOST_TRIES {
            if !fills() || shared.collector.ends() {
                break;
            }
            shared.gate.kick();
            shared.collector.pause(YIELD);
        }
    }
}
