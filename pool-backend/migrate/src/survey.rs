// SPDX-License-Identifier: LGPL-2.1-or-later
//! One look at this host: which VMs want space.

use virtnotify_model::{Pools, StorageError, VolumeInfo, VolumeState, WhenFull};

use crate::domain::Domain;
use crate::error::MigrateError;
use crate::hypervisor::{Hypervisor, Place};
use crate::plan::volume_of;

/// What a look finds.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// VMs that were paused by "no space" and whose volumes have space now.
    pub served: Vec<Domain>,
    /// VMs that wait for space that is not there.
    pub stuck: Vec<Stuck>,
    /// Whether volumes are served at all. If not, they are as they were when they were served last.
    pub serves: bool,
    /// All VMs, where one waits: another one's move may bring it space sooner than its own.
    pub all: Vec<Domain>,
}

/// A VM that waits for space.
#[derive(Debug, Clone)]
pub(crate) struct Stuck {
    /// The VM.
    pub domain: Domain,
    /// Its volume that asked.
    pub volume: VolumeInfo,
    /// Whether its pool has room for a chunk all the same: then the engine is about to serve
    /// it, and a move would be too early.
    pub room: bool,
}

/// Looks at all VMs that are paused by an I/O error.
pub(crate) fn survey(hv: &dyn Hypervisor, storage: &dyn Pools) -> Result<Survey, MigrateError> {
    let mut found = Survey { serves: storage.runs(), ..Survey::default() };
    for domain in hv.stalled()? {
        let volumes = waiting_volumes(&domain, storage)?;
        let out_of_space = volumes.iter().find(|v| v.state == VolumeState::OutOfSpace);
        match out_of_space.cloned() {
            Some(volume) => {
                let room = has_room(&volume, storage);
                found.stuck.push(Stuck { domain, volume, room });
            }
            None => match volumes.into_iter().find(|v| v.state == VolumeState::Growing) {
                Some(_) if found.serves => found.served.push(domain),
                // What it asked for was never heard.
                Some(volume) => found.stuck.push(Stuck { domain, volume, room: true }),
                // Another disk's error, or one that only its operator can mend.
                None => {}
            },
        }
    }
    if !found.stuck.is_empty() {
        found.all = hv.domains(Place::Here)?;
    }
    Ok(found)
}

/// The volumes of ours among the VM's disks that reported "no space".
fn waiting_volumes(domain: &Domain, storage: &dyn Pools) -> Result<Vec<VolumeInfo>, StorageError> {
    let waiting = domain.disks.iter().filter(|d| domain.no_space.contains(&d.target));
    let ours = waiting.filter_map(|disk| volume_of(disk, storage).transpose());
    ours.filter(|volume| !volume.as_ref().is_ok_and(|v| is_left_alone(v, storage))).collect()
}

/// Whether the pool's policy leaves VMs without space to their operator.
fn is_left_alone(volume: &VolumeInfo, storage: &dyn Pools) -> bool {
    storage.policy(&volume.pool).is_ok_and(|policy| policy.when_full == WhenFull::Error)
}

fn has_room(volume: &VolumeInfo, storage: &dyn Pools) -> bool {
    storage.pool_info(&volume.pool).is_ok_and(|pool| pool.available >= pool.chunk.bytes())
}
