// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool goes on after a change of its metadata could not be made durable.
//!
//! Then memory is ahead of the disk, or the disk has what was reported as failed: it is not known
//! which. So the metadata is opened again, and the state is what the disk has. That is safe because
//! the kernel never has more than the disk: a mapping is sent after its commit, and what is taken
//! away leaves the kernel before. What the kernel lacks then is sent again when it is asked for.
//!
//! The headroom thread does it, because it is the only one that has free chunks in hand while it
//! works; at this point it has none.

use std::collections::BTreeMap;
use std::time::Duration;

use std::sync::atomic::Ordering;

use virtnotify_model::{BackendError, Bytes, Event};

use super::Shared;
use super::core::{Core, VolumeId};
use crate::meta::{MetaError, Store};
use crate::runtime::Instant;

/// The time before another try, at first and at last.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// Tries to repair what can be repaired, at growing intervals.
#[derive(Debug, Default)]
pub(super) struct Mending {
    tried: Option<Instant>,
    wait: Duration,
}

impl Mending {
    /// Returns whether the pool can be used.
    pub(super) fn mend(&mut self, shared: &Shared) -> bool {
        if !shared.core().is_broken() {
            *self = Self::default();
            return true;
        }
        if !shared.core().can_be_reopened() || self.tried.is_some_and(|at| at.elapsed() < self.wait)
        {
            return false;
        }
        // A thread that makes or deletes a volume finds that it cannot, and leaves.
        let Some(admin) = shared.try_admin() else { return false };
        self.wait = (self.wait * 2).clamp(FIRST, LAST);
        self.tried = Some(Instant::now());
        let reopened = reopen(shared);
        drop(admin);
        match reopened {
            Ok(()) => {
                tracing::warn!(pool = %shared.name, "the metadata can be written again");
                *self = Self::default();
                true
            }
            Err(error) => {
                let again = self.wait.as_secs();
                tracing::error!(pool = %shared.name, %error, again, "the metadata stays unusable");
                false
            }
        }
    }
}

fn reopen(shared: &Shared) -> Result<(), BackendError> {
    let mut sizes = BTreeMap::new();
    // What a device's table may lack is added when all have it.
    for (index, device) in shared.data.all() {
        if !shared.data.is_known(index) {
            continue;
        }
        let size = device.size().map_err(|e| BackendError::failed("cannot size a data LV", e))?;
        sizes.insert(index, shared.chunk.whole_chunks(Bytes(size)).0);
    }
    let orphans = {
        let mut core = shared.core();
        let opened = core.reopen(sizes, || {
            shared.reader.close();
            let (mut store, contents) = Store::open(shared.meta.clone(), &shared.meta_uuid)?;
            store.take_over(&shared.reader);
            Ok((store, contents))
        });
        let orphans =
            opened.map_err(|e| BackendError::failed("cannot open the metadata again", e))?;
        let ids: Vec<VolumeId> = core.volumes().map(|(id, _)| id).collect();
        // What had left the kernel when the commit failed comes back, or is forgotten.
        ids.iter().for_each(|&id| core.unsettle(id));
        shared.view().refresh_all(&mut core);
        orphans
    };
    shared.damaged.store(false, Ordering::Relaxed);
    shared.emit(Event::VolumesChanged(shared.name.clone()));
    for id in orphans {
        // What needed it gone was cut off after that.
        if let Err(error) = shared.attach(id) {
            shared.damage(format!("a volume has lost its device: {error}"));
        }
    }
    shared.settled.notify_all();
    shared.note(|notes| {
        notes.recovered = true;
        notes.replenished = true;
    });
    Ok(())
}

impl Core {
    /// Reads everything from the disk again. Says which volumes lack a device that they should
    /// have. After an error nothing is usable, as before.
    fn reopen(
        &mut self,
        sizes: BTreeMap<u16, u64>,
        open: impl FnOnce() -> Result<(Store, crate::meta::Contents), MetaError>,
    ) -> Result<Vec<VolumeId>, MetaError> {
        self.close();
        let (store, contents) = open()?;
        let mut fresh = Self::load(self.pool_name(), store, contents, sizes)?;
        let ids: Vec<VolumeId> = fresh.volumes.keys().copied().collect();
        let mut orphans = Vec::new();
        for id in ids {
            if let Some(old) = self.volumes.remove(&id) {
                if old.closing && old.minor.is_none() && !old.waits_for_device() {
                    orphans.push(id);
                }
                fresh.inherit(id, old);
            } else {
                // It was told that it could not be made.
                fresh.disown(id);
            }
        }
        fresh.figures = self.figures;
        fresh.keep_numbers(self);
        *self = fresh;
        Ok(orphans)
    }
}

/// Why a pool does not change its metadata any more.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub(super) what: String,
    /// It was a commit that failed: what is on the disk is whole.
    pub(super) on_commit: bool,
}
