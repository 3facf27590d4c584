// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the kernel's devices show, in layers. Pure.
//!
//! The kernel's maps are flat: which chunks several volumes show is seen in them, and in which layer each of
//! these is, is not. The backup knows the layers: it is written whenever volumes come or go. So the layers are the
//! backup's, and where each chunk is, is the kernel's: what a volume has got or given up since is in its own layer, and
//! what has moved since has moved for all that show it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use virtnotify_model::{VolumeKind, VolumeName};

use crate::alloc::{Broken, Extent, LayerId, Layers, Place, Ranges, Run, VolumeMap};
use crate::meta::{Contents, VolumeRow};

/// What the kernel's devices show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel<'a> {
    /// Each volume is a layer of its own.
    pub(super) contents: &'a Contents,
    /// Volumes whose devices were being made: what these lack says nothing.
    pub(super) half_made: &'a BTreeMap<Uuid, VolumeName>,
}

/// What the kernel's devices show, in layers.
#[derive(Debug)]
pub(super) struct Layered {
    pub(super) contents: Contents,
    /// The volumes that only the backup has.
    pub(super) only_known: Vec<VolumeName>,
    /// The volumes whose devices were being made, and which the backup has.
    pub(super) completed: BTreeMap<Uuid, Completed>,
}

/// A volume whose device lacks what the backup has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Completed {
    pub(super) name: VolumeName,
    /// How many chunks are where the backup has them.
    pub(super) kept: u64,
    /// How many others have now.
    pub(super) taken: u64,
}

/// Chunks of a volume that the kernel has elsewhere than the backup, or not at all.
type Differing = Vec<(u64, Option<Place>)>;

/// Whether volumes show chunks of each other.
pub(super) fn has_layers(contents: &Contents) -> bool {
    contents.layers.values().any(|(row, _)| row.parent.is_some())
}

/// Whether two layers have the same chunk at the same place of a volume, as flat maps of what shares it do.
pub(super) fn shows_one_chunk_twice(contents: &Contents) -> bool {
    let mut all: Vec<Run> = contents.owned().map(|(_, run)| run).collect();
    all.sort_by_key(|run| run.to);
    let shifted = |run: &Run| run.at.abs_diff(run.to.start.chunk);
    all.windows(2).any(|pair| {
        let [one, other] = pair else { return false };
        let meet = one.to.start.lv == other.to.start.lv && other.to.start < one.to.end();
        meet && shifted(one) == shifted(other)
    })
}

/// Leaves out the layers that no volume shows: others may have their chunks.
pub(super) fn leave_out_waste(contents: &mut Contents) {
    loop {
        let volumes = contents.volumes.values().map(|row| row.layer);
        let parents = contents.layers.values().filter_map(|(row, _)| row.parent);
        let used: BTreeSet<LayerId> = volumes.chain(parents).collect();
        let before = contents.layers.len();
        contents.layers.retain(|id, _| used.contains(id));
        if contents.layers.len() == before {
            return;
        }
    }
}

/// What the kernel shows, in the layers of the backup.
pub(super) fn in_layers(
    kernel: Kernel<'_>,
    backup: &Contents,
    without: &[VolumeName],
) -> Result<Layered, Broken> {
    let Kernel { contents: live, half_made } = kernel;
    let mut layers = Layers::load(backup.layers.clone())?;
    let mut volumes = backup.volumes.clone();
    volumes.retain(|_, row| !without.contains(&row.name));
    let (mut shown, mut new) = (Vec::new(), Vec::new());
    for row in live.volumes.values() {
        let map = flat(live, row)?;
        match volumes.values_mut().find(|known| known.uuid == row.uuid) {
            Some(known) => {
                (known.name, known.capacity) = (row.name.clone(), row.capacity);
                shown.push((known.clone(), map));
            }
            None => new.push((row.clone(), map)),
        }
    }
    let (snapshots, written): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|(row, _)| row.kind == VolumeKind::Snapshot);
    for (row, map) in &snapshots {
        let differing = known_differing(&layers, row, map, half_made);
        move_all(&mut layers, differing, row.layer)?;
    }
    move_common(&mut layers, &written)?;
    for (row, map) in &written {
        let differing = known_differing(&layers, row, map, half_made);
        differing.into_iter().try_for_each(|(at, to)| put(&mut layers, row.layer, at, to))?;
    }
    let taken = Taken::by(live);
    let mut completed = BTreeMap::new();
    for (row, map) in snapshots.iter().chain(&written) {
        if half_made.contains_key(&row.uuid) {
            completed.insert(row.uuid, complete(&mut layers, row, map, &taken)?);
        }
    }
    leave_out_unseen(&mut layers, volumes.values().map(|row| row.layer))?;
    // A volume that the backup does not know shares nothing, or is refused by the rules.
    for (row, map) in new {
        let layer = layers.next_id();
        layers.add(layer, crate::alloc::LayerRow::FIRST)?;
        map.iter().try_for_each(|run| layers.insert(layer, run))?;
        let id = volumes.keys().next_back().map_or(1, |last| last + 1);
        volumes.insert(id, VolumeRow { layer, ..row });
    }
    let is_live = |row: &&VolumeRow| live.volumes.values().any(|live| live.uuid == row.uuid);
    let only_known = volumes.values().filter(|row| !is_live(row)).map(|row| row.name.clone());
    let only_known = only_known.collect();
    let rows = layers.iter().map(|(id, layer)| (id, (layer.row, layer.map.iter().collect())));
    let contents = Contents { layers: rows.collect(), volumes, ..live.clone() };
    Ok(Layered { contents, only_known, completed })
}

fn flat(live: &Contents, row: &VolumeRow) -> Result<VolumeMap, Broken> {
    let mut map = VolumeMap::default();
    let runs = live.layers.get(&row.layer).into_iter().flat_map(|(_, runs)| runs);
    runs.copied().try_for_each(|run| map.insert(run))?;
    Ok(map)
}

/// The places that the kernel's devices show.
#[derive(Debug, Default)]
struct Taken {
    /// On each data LV.
    all: BTreeMap<u16, Ranges>,
    /// Those at the same distance from their chunk on the volume: what shares a chunk has it so.
    alike: BTreeMap<(u16, i128), Ranges>,
}

impl Taken {
    fn by(live: &Contents) -> Self {
        let mut taken = Self::default();
        for (_, run) in live.owned() {
            let Extent { start, length } = run.to;
            taken.all.entry(start.lv).or_default().insert(start.chunk, length);
            taken.alike.entry(Self::distance(run)).or_default().insert(start.chunk, length);
        }
        taken
    }

    fn distance(run: Run) -> (u16, i128) {
        (run.to.start.lv, i128::from(run.to.start.chunk) - i128::from(run.at))
    }

    /// Which chunks of a volume, that are in this run by the backup, are others' now.
    fn of(&self, run: Run) -> Ranges {
        let Extent { start, length } = run.to;
        let mut places = Ranges::default();
        if let Some(all) = self.all.get(&start.lv) {
            all.within(start.chunk, length).into_iter().for_each(|(at, n)| places.insert(at, n));
        }
        if let Some(alike) = self.alike.get(&Self::distance(run)) {
            places.remove_all(alike);
        }
        let mut chunks = Ranges::default();
        places.iter().for_each(|(at, n)| chunks.insert(run.at + (at - start.chunk), n));
        chunks
    }
}

/// Leaves a volume whose device was being made what the backup has of it, and no other volume has now.
fn complete(
    layers: &mut Layers,
    row: &VolumeRow,
    live: &VolumeMap,
    taken: &Taken,
) -> Result<Completed, Broken> {
    let shown: Vec<_> = layers.flat(row.layer, 0..u64::MAX).collect();
    let mut completed = Completed { name: row.name.clone(), kept: 0, taken: 0 };
    for (owner, run) in shown {
        let mut at = run.at;
        while at < run.end() {
            let lacks = live.hole(at, run.end() - at);
            if lacks > 0 {
                let gone = taken.of(run.part(at, at + lacks));
                let chunks: u64 = gone.iter().map(|(_, length)| length).sum();
                (completed.kept, completed.taken) =
                    (completed.kept + lacks - chunks, completed.taken + chunks);
                let mut each = gone.iter().flat_map(|(from, length)| from..from + length);
                each.try_for_each(|chunk| put(layers, owner, chunk, None))?;
            }
            at += lacks.max(1);
        }
    }
    Ok(completed)
}

/// Where a device has other chunks than the layers, or none where that says something.
fn known_differing(
    layers: &Layers,
    row: &VolumeRow,
    live: &VolumeMap,
    half_made: &BTreeMap<Uuid, VolumeName>,
) -> Differing {
    let mut differing = differing(layers, row.layer, live);
    if half_made.contains_key(&row.uuid) {
        differing.retain(|(_, to)| to.is_some());
    }
    differing
}

/// Where a device has other chunks than the layers, or none.
fn differing(layers: &Layers, top: LayerId, live: &VolumeMap) -> Differing {
    let mut differing = Differing::new();
    let known = layers.flattened(top).unwrap_or_default();
    for run in live.iter() {
        let places = (run.at..run.end()).map(|at| (at, live.place(at)));
        match known.containing(run.at) {
            Some(there)
                if there.end() >= run.end() && known.place(run.at) == live.place(run.at) => {}
            _ => differing.extend(places.filter(|(at, place)| known.place(*at) != *place)),
        }
    }
    for run in known.iter() {
        let mut at = run.at;
        while at < run.end() {
            let gone = live.hole(at, run.end() - at);
            differing.extend((at..at + gone).map(|at| (at, None)));
            at += gone.max(1);
        }
    }
    differing
}

/// What a snapshot shows elsewhere now has moved in the layer that has it; what it does not show any more was all zeroes.
fn move_all(layers: &mut Layers, differing: Differing, top: LayerId) -> Result<(), Broken> {
    for (at, to) in differing {
        if let Some((owner, _)) = layers.place(top, at) {
            put(layers, owner, at, to)?;
        }
    }
    Ok(())
}

/// What several volumes show elsewhere now, all at the same place, has moved in the layer that has it.
fn move_common(layers: &mut Layers, written: &[(VolumeRow, VolumeMap)]) -> Result<(), Broken> {
    let mut moved: BTreeMap<(LayerId, u64, Place), u64> = BTreeMap::new();
    for (row, map) in written {
        for (at, to) in differing(layers, row.layer, map) {
            if let Some(((owner, _), to)) = layers.place(row.layer, at).zip(to) {
                *moved.entry((owner, at, to)).or_default() += 1;
            }
        }
    }
    for ((owner, at, to), _) in moved.into_iter().filter(|(_, volumes)| *volumes > 1) {
        put(layers, owner, at, Some(to))?;
    }
    Ok(())
}

/// A layer has this chunk there, or a hole.
fn put(layers: &mut Layers, layer: LayerId, at: u64, to: Option<Place>) -> Result<(), Broken> {
    layers.take(layer, at, 1);
    match to {
        Some(start) => layers.insert(layer, Run { at, to: Extent { start, length: 1 } }),
        None if layers.place(layer, at).is_some() => layers.insert(layer, Run::hole(at, 1)),
        None => Ok(()),
    }
}

/// What nothing shows may be another volume's since: a merge goes on after the backup.
fn leave_out_unseen(
    layers: &mut Layers,
    tops: impl Iterator<Item = LayerId>,
) -> Result<(), Broken> {
    let mut seen: BTreeMap<LayerId, Ranges> = BTreeMap::new();
    for top in tops {
        for (owner, run) in layers.flat(top, 0..u64::MAX) {
            seen.entry(owner).or_default().insert(run.at, run.to.length);
        }
    }
    let mut unseen = Vec::new();
    for (id, layer) in layers.iter() {
        let mut own: Ranges = layer.map.iter().filter(|run| !run.to.is_hole()).collect();
        seen.get(&id).into_iter().for_each(|seen| own.remove_all(seen));
        unseen.extend(own.iter().map(|(at, length)| (id, at, length)));
    }
    for (id, at, length) in unseen {
        layers.take(id, at, length);
        let below: Vec<Run> = layers.flat(id, at..at + length).map(|(_, run)| run).collect();
        below.iter().try_for_each(|run| layers.insert(id, Run::hole(run.at, run.to.length)))?;
    }
    Ok(())
}
