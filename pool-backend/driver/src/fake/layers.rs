// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots, clones, and what they share.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use uuid::Uuid;
use virtnotify_model::{
    BackendError, Bytes, Change, ChunkSize, Chunks, PoolName, SnapshotName, VolumeExtent,
    VolumeInfo, VolumeKind, VolumeName, VolumeSpec, VolumeState,
};

use super::{Group, State, Volume, bytes_of, no_volume};

/// How much of a file is written at once, or left out where it is zeroes.
const PART: usize = 1 << 16;

impl Group {
    /// The places of the volumes with such names.
    pub(super) fn places(&self, of: impl Fn(&VolumeName) -> bool) -> BTreeSet<u64> {
        let volumes = self.volumes.iter().filter(|(name, _)| of(name));
        volumes.flat_map(|(_, volume)| volume.mapped.values().copied()).collect()
    }

    pub(super) fn volume_info(
        &self,
        pool: &PoolName,
        name: &VolumeName,
    ) -> Result<VolumeInfo, BackendError> {
        let volume = self.volumes.get(name).ok_or_else(|| no_volume(pool, name))?;
        let others = self.places(|other| other != name);
        let alone = volume.mapped.values().filter(|place| !others.contains(place)).count();
        let backing = volume.backing.and_then(|backing| {
            self.volumes.iter().find(|(_, volume)| volume.uuid == backing).map(|(name, _)| name)
        });
        Ok(VolumeInfo {
            pool: pool.clone(),
            name: name.clone(),
            uuid: volume.uuid,
            kind: volume.kind,
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(volume.made),
            backing: backing.cloned(),
            capacity: volume.capacity,
            allocation: bytes_of(volume.mapped.len()),
            exclusive: bytes_of(alone),
            path: volume.path.clone(),
            state: VolumeState::Growing,
            openers: volume.openers,
        })
    }
}

impl State {
    /// The number of what is made now.
    pub(super) fn count_made(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Gives a volume places of its own for all of these chunks.
    pub(super) fn own(
        &mut self,
        pool: &PoolName,
        name: &VolumeName,
        chunks: Range<u64>,
    ) -> Result<Change, BackendError> {
        let available = self.info(pool)?.available;
        let others = self.group(pool)?.places(|other| other != name);
        let mut next = self.places;
        let volume = self.writable(pool, name)?;
        let own = |at: &u64| volume.mapped.get(at).is_some_and(|place| !others.contains(place));
        let lacks: Vec<u64> = chunks.filter(|at| !own(at)).collect();
        let wanted = bytes_of(lacks.len());
        if wanted > available {
            return Err(BackendError::NoSpace { pool: pool.to_string(), wanted });
        }
        for at in &lacks {
            next += 1;
            volume.mapped.insert(*at, next);
        }
        self.places = next;
        Ok(if lacks.is_empty() { Change::Identity } else { Change::Changed })
    }

    /// What a new volume has at first, without its own name, size and device.
    pub(super) fn under(&self, pool: &PoolName, spec: &VolumeSpec) -> Result<Volume, BackendError> {
        let Some(name) = &spec.backing else { return Ok(Volume::empty()) };
        let group = self.group(pool)?;
        let backing = group.volumes.get(name).ok_or_else(|| no_volume(pool, name))?;
        if spec.capacity < backing.capacity {
            let reason = format!("'{name}', from which it is to be made, has more");
            return Err(BackendError::Capacity { capacity: spec.capacity, reason });
        }
        Ok(Volume { kind: VolumeKind::Volume, backing: Some(backing.uuid), ..backing.below() })
    }

    /// Has the file of a volume hold what another one's holds.
    pub(super) fn copy_device(
        &self,
        pool: &PoolName,
        from: &VolumeName,
        to: &VolumeName,
    ) -> Result<(), BackendError> {
        if self.devices.is_none() {
            return Ok(());
        }
        let volumes = &self.group(pool)?.volumes;
        let (Some(from), Some(to)) = (volumes.get(from), volumes.get(to)) else {
            return Err(no_volume(pool, from));
        };
        let copied = fs::read(&from.path).and_then(|data| {
            let file = fs::File::create(&to.path)?;
            file.set_len(to.capacity.0)?;
            // Zeroes take nothing.
            let parts = (0..).step_by(PART).zip(data.chunks(PART));
            let mut written = parts.filter(|(_, part)| part.iter().any(|byte| *byte != 0));
            written.try_for_each(|(at, part)| file.write_all_at(part, at))
        });
        copied.map_err(|error| BackendError::failed("cannot copy a file", error))
    }

    pub(super) fn snapshot(
        &mut self,
        pool: &PoolName,
        volumes: &[VolumeName],
        name: &SnapshotName,
    ) -> Result<Vec<VolumeInfo>, BackendError> {
        let mut names = Vec::new();
        for volume in volumes {
            self.writable(pool, volume)?;
            let snapshot = volume.at(name)?;
            if self.group(pool)?.volumes.contains_key(&snapshot) {
                let (pool, volume) = (pool.to_string(), snapshot.to_string());
                return Err(BackendError::VolumeExists { pool, volume });
            }
            names.push((volume, snapshot));
        }
        let mut made = Vec::new();
        for (volume, snapshot) in names {
            self.snapshot_one(pool, volume, &snapshot)?;
            made.push(self.group(pool)?.volume_info(pool, &snapshot)?);
        }
        Ok(made)
    }

    fn snapshot_one(
        &mut self,
        pool: &PoolName,
        volume: &VolumeName,
        snapshot: &VolumeName,
    ) -> Result<(), BackendError> {
        let (uuid, made) = (Uuid::new_v4(), self.count_made());
        let of = self.volume_mut(pool, volume)?;
        let capacity = of.capacity;
        let (kind, backing) = (VolumeKind::Snapshot, Some(of.uuid));
        let frozen = Volume { uuid, kind, backing, made, openers: 0, ..of.clone() };
        of.before.insert(uuid);
        let path = self.make_device(pool, snapshot, capacity)?;
        self.group_mut(pool)?.volumes.insert(snapshot.clone(), Volume { path, ..frozen });
        self.copy_device(pool, volume, snapshot)
    }

    pub(super) fn roll_back(
        &mut self,
        pool: &PoolName,
        snapshot: &VolumeName,
    ) -> Result<(), BackendError> {
        let frozen = self.volume_mut(pool, snapshot)?.clone();
        let Some((name, _)) = snapshot.snapshot() else {
            return Err(BackendError::Refused(format!("'{snapshot}' is no snapshot")));
        };
        let volume = self.unused(pool, &name)?;
        let capacity = frozen.capacity;
        let Volume { mapped, before, .. } = frozen.below();
        *volume = Volume { mapped, before, capacity, ..volume.clone() };
        self.copy_device(pool, snapshot, &name)
    }

    pub(super) fn difference(
        &self,
        pool: &PoolName,
        name: &VolumeName,
        base: Option<&VolumeName>,
    ) -> Result<Vec<VolumeExtent>, BackendError> {
        let volumes = &self.group(pool)?.volumes;
        let find = |name| volumes.get(name).ok_or_else(|| no_volume(pool, name));
        let volume = find(name)?;
        let nothing = BTreeMap::new();
        let under = match base.map(|base| find(base).map(|found| (base, found))).transpose()? {
            None => &nothing,
            Some((_, found))
                if found.uuid == volume.uuid || volume.before.contains(&found.uuid) =>
            {
                &found.mapped
            }
            Some((base, _)) => {
                let text = format!("'{name}' does not go back to '{base}'");
                return Err(BackendError::Refused(text));
            }
        };
        let all: BTreeSet<u64> = volume.mapped.keys().chain(under.keys()).copied().collect();
        let differs = all.into_iter().filter(|at| volume.mapped.get(at) != under.get(at));
        Ok(extents(differs.map(|at| (at, volume.mapped.contains_key(&at))), volume.capacity))
    }
}

impl Volume {
    fn empty() -> Self {
        Volume {
            uuid: Uuid::nil(),
            kind: VolumeKind::Volume,
            made: 0,
            path: PathBuf::new(),
            capacity: Bytes::ZERO,
            mapped: BTreeMap::new(),
            backing: None,
            before: BTreeSet::new(),
            openers: 0,
        }
    }

    /// The same, with this as a part of its past.
    fn below(&self) -> Self {
        let mut before = self.before.clone();
        before.extend((self.kind == VolumeKind::Snapshot).then_some(self.uuid));
        Volume { before, ..self.clone() }
    }
}

/// Chunks, in order, as few extents as possible.
fn extents(chunks: impl Iterator<Item = (u64, bool)>, capacity: Bytes) -> Vec<VolumeExtent> {
    let size = ChunkSize::default();
    let mut all: Vec<VolumeExtent> = Vec::new();
    for (at, data) in chunks {
        let offset = size.bytes_of(Chunks(at));
        let end = size.bytes_of(Chunks(at + 1)).min(capacity);
        match all.last_mut() {
            Some(last) if last.data == data && last.offset.0 + last.length.0 == offset.0 => {
                last.length = Bytes(end.0 - last.offset.0);
            }
            _ => all.push(VolumeExtent { offset, length: Bytes(end.0 - offset.0), data }),
        }
    }
    all
}
