// SPDX-License-Identifier: LGPL-2.1-or-later
//! A batch of chunks moves: see [`super::core::relocate`].
//!
//! They are copied while guests write; what was written meanwhile is copied again. Only for the commit
//! do writes wait. What is written all the time is copied at last while its writes wait, a little at
//! once.

use std::sync::PoisonError;
use std::time::Duration;

use virtnotify_model::{BackendError, Bytes};

use super::core::relocate::{Batch, Holder, Relocation};
use super::core::{Core, VolumeId};
use super::{Shared, copies, held, lock};
use crate::alloc::Ranges;
use crate::target::TargetError;

/// How often chunks are copied that were written meanwhile, before their writes wait.
const PATIENCE: u32 = 3;
/// How much is copied while writes to it wait.
const HELD: Bytes = Bytes::mib(1);
/// How long it is waited for devices that are being changed.
const FINISH: Duration = Duration::from_secs(1);

/// Why copying ended early.
enum Stop {
    /// Others need the disk, or the job is not wanted any more.
    Asked,
    Failed(BackendError),
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Self::Failed(error)
    }
}

fn failed(error: TargetError) -> BackendError {
    BackendError::failed("chunks cannot be moved", error)
}

/// Moves a batch; says how many chunks moved. Ends early when `stop` says so.
pub(super) fn relocate(
    shared: &Shared,
    batch: &Batch,
    stop: &dyn Fn() -> bool,
) -> Result<u64, BackendError> {
    let mut left: Ranges = batch.runs().into_iter().collect();
    let moved = move_all(shared, batch, &mut left, stop);
    let ids: Vec<VolumeId> = batch.holders.iter().map(|holder| holder.id).collect();
    let mut core = shared.core();
    let put_back = core.not_relocated(batch, &batch.part(&left));
    shared.view().refresh(&mut core, &[]);
    drop(core);
    shared.sent(&ids);
    // Writes that came to these chunks meanwhile were not answered.
    shared.note(|notes| notes.look_at.extend(ids));
    put_back?;
    let moved = moved?;
    free_vacated(shared, FINISH)?;
    Ok(moved)
}

/// Moves what is left, as far as it can be moved; says how many chunks that was.
fn move_all(
    shared: &Shared,
    batch: &Batch,
    left: &mut Ranges,
    stop: &dyn Fn() -> bool,
) -> Result<u64, BackendError> {
    let (mut moved, mut wanted) = (0, left.clone());
    for round in 0.. {
        let held = round >= PATIENCE;
        let mut now = wanted.clone();
        if held {
            now = Ranges::default();
            let little = shared.chunk.whole_chunks(HELD).0.max(1);
            wanted.iter().take(1).for_each(|(at, length)| now.insert(at, length.min(little)));
        }
        if now.is_empty() || stop() {
            break;
        }
        let changed = match step(shared, batch, &now, held, stop) {
            Ok(changed) => changed,
            Err(Stop::Asked) => break,
            Err(Stop::Failed(error)) => return Err(error),
        };
        if held {
            // What does not move now is a hole, or discarded: that does not have to.
            wanted.remove_all(&changed);
        }
        now.remove_all(&changed);
        left.remove_all(&now);
        wanted.remove_all(&now);
        moved += now.iter().map(|(_, length)| length).sum::<u64>();
    }
    Ok(moved)
}

/// Moves these chunks of a batch; says which of them do not, since they are written, or no more there.
fn step(
    shared: &Shared,
    batch: &Batch,
    now: &Ranges,
    held: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Ranges, Stop> {
    let copied = prepare(shared, batch, now, held, stop);
    let looked = copied.and_then(|()| {
        let looked = held::look(shared, &batch.holders, &batch.runs(), now, held);
        looked.map_err(|error| Stop::Failed(failed(error)))
    });
    let (changed, shown) = match looked {
        Ok(looked) => looked,
        Err(why) => {
            held::unprotect(shared, &batch.holders, now);
            return Err(why);
        }
    };
    let mut unchanged = now.clone();
    unchanged.remove_all(&changed);
    let relocations = batch.part(&unchanged);
    let shown: Vec<_> =
        shown.into_iter().map(|(id, ranges)| (id, ranges.common(&unchanged))).collect();
    let relocated = shared.core_first().relocated(batch, &relocations, &shown);
    let relocated = match relocated {
        Ok(relocated) => relocated,
        Err(error) => {
            // After a commit that failed it is not known where they are: writes wait until it has
            // been read again.
            if !shared.core().is_broken() {
                held::unprotect(shared, &batch.holders, now);
            }
            return Err(Stop::Failed(error));
        }
    };
    for Holder { id, device, .. } in &batch.holders {
        let runs = relocated.chosen(|&(whose, mapped)| (whose == *id).then_some(mapped));
        match shared.target.remap(device, runs.part(Vec::as_slice)) {
            Ok(()) => shared.core().taken(*id, &runs),
            // It is looked up what the device has, and told again.
            Err(error) => {
                tracing::debug!(pool = %shared.name, %error, "moved chunks are taken later");
                shared.not_taken(*id, &runs);
            }
        }
    }
    held::unprotect(shared, &batch.holders, &changed);
    Ok(changed)
}

/// Copies the chunks. Then no device writes to them, and it can be seen whether one has.
fn prepare(
    shared: &Shared,
    batch: &Batch,
    now: &Ranges,
    held: bool,
    stop: &dyn Fn() -> bool,
) -> Result<(), Stop> {
    let protect = || held::protect(shared, &batch.holders, now).map_err(failed);
    if held {
        protect()?;
        copy_all(shared, &batch.part(now), &|| false)?;
    } else {
        held::watch(shared, &batch.holders, now).map_err(failed)?;
        copy_all(shared, &batch.part(now), stop)?;
        protect()?;
    }
    Ok(())
}

fn copy_all(
    shared: &Shared,
    relocations: &[Relocation],
    stop: &dyn Fn() -> bool,
) -> Result<(), Stop> {
    let extents = relocations.iter().map(|relocation| (relocation.run.to, relocation.to));
    match copies::copy_all(shared, extents, stop) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Stop::Asked),
        Err(error) => Err(Stop::Failed(BackendError::failed("chunks cannot be copied", error))),
    }
}

/// Frees what chunks have left, once every device has been told where they are and reads nothing there
/// any more; waits for devices that are being changed, but no longer than that. Says whether all is
/// free.
pub(super) fn free_vacated(shared: &Shared, limit: Duration) -> Result<bool, BackendError> {
    let _alone = lock(&shared.vacating);
    let busy = |core: &mut Core| core.has_vacated() && core.vacating().is_none();
    let waited = shared.settled.wait_timeout_while(shared.core(), limit, busy);
    let (core, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if !core.has_vacated() {
        return Ok(true);
    }
    let Some(vacating) = core.vacating() else { return Ok(false) };
    drop(core);
    for (device, known) in vacating.devices {
        let drained = match known {
            true => shared.target.drain(&device),
            // One that could not be taken over may have them where they were.
            false => match shared.target.device(&device) {
                Ok(_) => return Ok(false),
                Err(error) => Err(error),
            },
        };
        match drained {
            Err(error) if !error.is_gone() => return Err(failed(error)),
            _ => {}
        }
    }
    let mut core = shared.core();
    core.free_vacated(&vacating.places)?;
    shared.view().refresh(&mut core, &[]);
    Ok(!core.has_vacated())
}
