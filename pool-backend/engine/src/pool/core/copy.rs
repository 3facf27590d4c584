// SPDX-License-Identifier: LGPL-2.1-or-later
//! Chunks of a snapshot that are to be written: the volume gets a copy of its own.
//!
//! ```text
//!   a write waits ──▶ room taken ──▶ copied, flushed ──commit──▶ the volume's ──remap──▶ written
//!                         ▲ put back: the copy failed, or the chunk is another one meanwhile
//! ```
//!
//! Until the commit nobody knows of the copy, and until `remap` the kernel holds all writes to the
//! chunk: so it may end anywhere.

use virtnotify_model::BackendError;

use super::{Core, Durable, Growth, Txn, VolumeId};
use crate::alloc::{Broken, Extent, Run, Vacated};
use crate::target::MappedRun;

/// A copy that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) id: VolumeId,
    /// The chunk of the volume.
    pub(crate) at: u64,
    pub(crate) from: Extent,
    pub(crate) to: Extent,
}

/// Copies that are durable: what to send to the devices of these volumes. Until that is done, they are
/// among what is being copied.
pub(crate) type Copied = Vec<(VolumeId, MappedRun)>;

impl Core {
    /// These copies are on the disk: the chunks are their volumes' own. What is another chunk
    /// meanwhile is dropped.
    pub(crate) fn copied(&mut self, copies: &[Copy]) -> Result<Durable<Copied>, BackendError> {
        let done = self.change(|txn| {
            let mut copied = Copied::new();
            for copy in copies {
                if txn.place(copy.id, copy.at) == Some(copy.from.start) {
                    let run = Run { at: copy.at, to: copy.to };
                    let (layer, had) = (txn.layer_of(copy.id), txn.replace(copy.id, run)?);
                    txn.filled(copy.to);
                    // The snapshot was deleted meanwhile: the device shows what is the volume's alone by now,
                    // until it is told.
                    for Run { at, to: from } in had {
                        txn.vacate(Vacated { from, layer, at });
                    }
                    let generation = Some(txn.generation(copy.id));
                    copied.push((copy.id, MappedRun { generation, ..MappedRun::plain(run) }));
                }
            }
            Ok(copied)
        });
        let there = done.as_ref().map(|done| done.to_vec()).unwrap_or_default();
        let used = |copy: &&Copy| {
            there.iter().any(|(id, mapped)| (*id, mapped.run.at) == (copy.id, copy.at))
        };
        let unused: Vec<Copy> = copies.iter().filter(|copy| !used(copy)).copied().collect();
        self.not_copied(&unused).map_err(|e| self.damage(e))?;
        // Until the target has heard of it, none of this may be taken away again.
        for id in told(&there) {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.begin_sending();
            }
        }
        self.figures.copied += there.len() as u64;
        self.figures.copy_commits += u64::from(!there.is_empty());
        done
    }

    /// These copies could not be made.
    pub(crate) fn not_copied(&mut self, copies: &[Copy]) -> Result<(), Broken> {
        for copy in copies {
            self.free.not_cleaned(copy.to)?;
            if let Some(volume) = self.volumes.get_mut(&copy.id) {
                volume.copying.remove(copy.at, copy.to.length);
            }
        }
        Ok(())
    }

    /// Takes room for copies of what a part of a volume shares with others, `most` at most; says
    /// whether there was room for all of it.
    pub(crate) fn begin_copies(
        &mut self,
        id: VolumeId,
        part: std::ops::Range<u64>,
        most: usize,
    ) -> Result<(Vec<Copy>, bool), BackendError> {
        let begun = self.change(|txn| {
            let (mut copies, mut room) = (Vec::new(), true);
            for chunk in txn.shared_chunks(id, part, most) {
                match txn.take_copy(id, chunk) {
                    Some(copy) => copies.push(copy),
                    None => room = false,
                }
            }
            Ok((copies, room))
        })?;
        let (copies, room) = (begun.0.clone(), begun.1);
        self.begin_copying(&copies);
        Ok((copies, room))
    }

    /// The first chunks of a part of a volume that others show as well and nobody copies.
    fn shared_chunks(&self, id: VolumeId, part: std::ops::Range<u64>, most: usize) -> Vec<u64> {
        let Some(volume) = self.volumes.get(&id) else { return Vec::new() };
        let chunks = self.shared_runs(id, part).flat_map(|run| run.at..run.end());
        let copied =
            |chunk: &u64| volume.copying.contains(*chunk) || volume.untold.contains(*chunk);
        chunks.filter(|chunk| !copied(chunk)).take(most).collect()
    }

    pub(super) fn begin_copying(&mut self, copies: &[Copy]) {
        for copy in copies {
            if let Some(volume) = self.volumes.get_mut(&copy.id) {
                volume.copying.insert(copy.at, copy.to.length);
            }
        }
    }
}

/// The volumes whose devices have to be told of copies, each once.
pub(crate) fn told(copied: &[(VolumeId, MappedRun)]) -> Vec<VolumeId> {
    let mut told: Vec<VolumeId> = copied.iter().map(|&(id, _)| id).collect();
    told.sort_unstable();
    told.dedup();
    told
}

impl Txn<'_> {
    /// Room for a copy of a chunk that others show as well.
    fn take_copy(&mut self, id: VolumeId, chunk: u64) -> Option<Copy> {
        let start = self.shared_place(id, chunk)?;
        let to = self.take_to_fill(1).pop()?;
        Some(Copy { id, at: chunk, from: Extent { start, length: 1 }, to })
    }

    /// A write waits on a chunk that is protected or shared.
    pub(super) fn answer_copy(&mut self, id: VolumeId, chunk: u64, growth: &mut Growth) {
        let Some(volume) = self.volume(id) else { return };
        // Who copies it, or tells the device of its copy, lets the write go on.
        let copied = volume.copying.contains(chunk) || volume.untold.contains(chunk);
        if copied || growth.copies(id, chunk) {
            return;
        }
        if self.shared_place(id, chunk).is_some() {
            // While what is shared changes, it waits; it is looked at again then.
            if volume.unsharing {
                return;
            }
            match self.take_copy(id, chunk) {
                Some(copy) => growth.copy(copy),
                None => growth.miss(id),
            }
        } else if let Some((owner, _)) = self.layers.place(self.layer_of(id), chunk) {
            if self.has_moved(owner, chunk) {
                // Its device has yet to be told where it is now.
                if let Some(volume) = self.volume_mut(id) {
                    volume.unsettled = true;
                }
                return;
            }
            // Its own: a daemon was killed while it looked at this one, or before it said that
            // it is not shared any more.
            growth.unprotect.push((id, chunk));
            if let Some(volume) = self.volume_mut(id) {
                volume.unsettled = true;
            }
        }
    }
}
