// SPDX-License-Identifier: LGPL-2.1-or-later
//! The rules of `docs/developer/on-disk.md`, checked one by one: everything that breaks one is named,
//! while the engine stops at the first. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use virtnotify_model::VolumeKind;

use crate::alloc::{Extent, LayerId};
use crate::meta::Contents;

/// The most sentences about one rule; the rest is counted.
const MOST: usize = 20;

/// Who has chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner<'a> {
    Volume(&'a str),
    Layer(LayerId),
    Clean,
    Vacated,
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(name) => write!(f, "the volume '{name}'"),
            Self::Layer(id) => write!(f, "the layer {id}"),
            Self::Clean => f.write_str("the list of zeroed chunks"),
            Self::Vacated => f.write_str("the list of vacated chunks"),
        }
    }
}

/// A data LV as LVM reports it: its id, and how many chunks it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataLv {
    pub(crate) uuid: String,
    pub(crate) chunks: u64,
}

/// Sentences, of which the first are kept and the rest counted.
#[derive(Debug, Default)]
struct Broken {
    said: Vec<String>,
    more: u64,
}

impl Broken {
    fn say(&mut self, what: String) {
        if self.said.len() < MOST {
            self.said.push(what);
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self, all: &mut Vec<String>) {
        if self.more > 0 {
            self.said.push(format!("and {} more of that kind", self.more));
        }
        all.append(&mut self.said);
    }
}

/// Every rule that a pool's metadata breaks, as sentences.
pub(crate) fn broken(contents: &Contents, lvs: &BTreeMap<u16, DataLv>) -> Vec<String> {
    let mut all = Vec::new();
    maps(contents, &mut all);
    shared(contents, &mut all);
    places(contents, lvs, &mut all);
    names(contents, &mut all);
    ids(contents, lvs, &mut all);
    layers(contents, &mut all);
    all
}

/// Rule 1: the runs of a layer; and none is beyond the end of a volume that shows it.
fn maps(contents: &Contents, all: &mut Vec<String>) {
    let mut broken = Broken::default();
    let chunk = contents.settings.chunk;
    for (&id, (_, runs)) in &contents.layers {
        let owner = owner(contents, id);
        for pair in runs.windows(2) {
            let [a, b] = pair else { continue };
            if a.end() > b.at {
                broken.say(format!("{owner} has chunk {} in two places", b.at));
            } else if a.end() == b.at && a.to.end() == b.to.start {
                broken.say(format!("{owner} has two runs at {} and {} that are one", a.at, b.at));
            }
        }
    }
    for (row, map) in contents.maps().unwrap_or_default() {
        let (end, has) = (chunk.chunks_for(row.capacity).0, map.end());
        if has > end {
            let (name, last) = (&row.name, has - 1);
            broken.say(format!("'{name}' has {end} chunks, and its map names chunk {last}"));
        }
    }
    broken.finish(all);
}

/// The owner of a layer: the volume on it, or the layer itself.
fn owner(contents: &Contents, id: LayerId) -> Owner<'_> {
    let volume = contents.volumes.values().find(|row| row.layer == id);
    volume.map_or(Owner::Layer(id), |row| Owner::Volume(row.name.as_str()))
}

fn owned(contents: &Contents) -> Vec<(Extent, Owner<'_>)> {
    let owners: BTreeMap<_, _> =
        contents.layers.keys().map(|&id| (id, owner(contents, id))).collect();
    let owner = |id: LayerId| owners.get(&id).copied().unwrap_or(Owner::Layer(id));
    let maps = contents.owned().map(|(id, run)| (run.to, owner(id)));
    let clean = contents.clean.iter().map(|extent| (*extent, Owner::Clean));
    let vacated = contents.vacated.iter().map(|vacated| (vacated.from, Owner::Vacated));
    maps.chain(clean).chain(vacated).collect()
}

/// Rule 6: the parents of layers, and the volumes on top of them.
fn layers(contents: &Contents, all: &mut Vec<String>) {
    let mut broken = Broken::default();
    let mut parents = BTreeSet::new();
    for (&id, (row, _)) in &contents.layers {
        let Some(parent) = row.parent else { continue };
        parents.insert(parent);
        if !contents.layers.get(&parent).is_some_and(|(below, _)| row.fits(id, *below)) {
            broken.say(format!("the layer {id} cannot stand on the layer {parent}"));
        }
    }
    let mut shown = BTreeSet::new();
    for row in contents.volumes.values() {
        let (name, layer) = (&row.name, row.layer);
        if !contents.layers.contains_key(&layer) {
            broken.say(format!("'{name}' shows the layer {layer}, which is not there"));
        } else if !shown.insert(layer) {
            broken.say(format!("'{name}' shows the layer {layer}, and so does another volume"));
        } else if row.kind == VolumeKind::Volume && parents.contains(&layer) {
            broken.say(format!("'{name}' writes to the layer {layer}, on which others stand"));
        }
    }
    broken.finish(all);
}

/// Rule 2: no chunk belongs to two.
fn shared(contents: &Contents, all: &mut Vec<String>) {
    let mut owned = owned(contents);
    owned.sort_by_key(|(extent, _)| *extent);
    let mut broken = Broken::default();
    let mut reach: Option<(Extent, Owner<'_>)> = None;
    for (extent, owner) in owned {
        let Some((before, first)) = reach else {
            reach = Some((extent, owner));
            continue;
        };
        let here = extent.start;
        if before.start.lv == here.lv && before.end().chunk > here.chunk {
            let lv = here.lv;
            broken.say(format!(
                "chunk {} of data LV {lv} belongs to {first} and to {owner}",
                here.chunk
            ));
        }
        if (extent.start.lv, extent.end().chunk) > (before.start.lv, before.end().chunk) {
            reach = Some((extent, owner));
        }
    }
    broken.finish(all);
}

/// Rule 3: every chunk is on its data LV.
fn places(contents: &Contents, lvs: &BTreeMap<u16, DataLv>, all: &mut Vec<String>) {
    let mut broken = Broken::default();
    for (extent, owner) in owned(contents) {
        let lv = extent.start.lv;
        match lvs.get(&lv) {
            // An LV that is missing is said once, by the last rule.
            None if contents.data_lvs.contains_key(&lv) => {}
            None => broken.say(format!("{owner} has chunks of data LV {lv}, which is not listed")),
            Some(found) if extent.end().chunk > found.chunks => broken.say(format!(
                "{owner} has chunk {} of data LV {lv}, which has {} chunks",
                extent.end().chunk - 1,
                found.chunks
            )),
            Some(_) => {}
        }
    }
    broken.finish(all);
}

/// Rule 4: no name and no uuid is there twice. (A run without a volume cannot be read at all.)
fn names(contents: &Contents, all: &mut Vec<String>) {
    let (mut names, mut uuids) = (BTreeSet::new(), BTreeSet::new());
    let mut broken = Broken::default();
    for row in contents.volumes.values() {
        if !names.insert(row.name.as_str()) {
            broken.say(format!("two volumes are named '{}'", row.name));
        }
        if !uuids.insert(row.uuid) {
            broken.say(format!("two volumes have the UUID {}", row.uuid));
        }
    }
    broken.finish(all);
}

/// Rule 5: the data LVs are the ones that the metadata was written for.
fn ids(contents: &Contents, lvs: &BTreeMap<u16, DataLv>, all: &mut Vec<String>) {
    for (index, expected) in &contents.data_lvs {
        match lvs.get(index) {
            None => all.push(format!("the data LV {index} ({expected}) is missing")),
            Some(found) if found.uuid != *expected => all.push(format!(
                "the data LV {index} is another logical volume ({}) than the map was written for \
                 ({expected})",
                found.uuid
            )),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alloc::{LayerRow, Place};
    use crate::repair::text::tests::{DATA, description};
    use virtnotify_model::Bytes;

    fn lvs() -> BTreeMap<u16, DataLv> {
        BTreeMap::from([(0, DataLv { uuid: DATA.into(), chunks: 100 })])
    }

    fn said(change: impl FnOnce(&mut Contents)) -> Vec<String> {
        let mut contents = description(2, 4).contents;
        change(&mut contents);
        broken(&contents, &lvs())
    }

    fn extent(chunk: u64, length: u64) -> Extent {
        Extent { start: Place { lv: 0, chunk }, length }
    }

    #[test]
    fn each_rule_is_looked_at() {
        assert_eq!(said(|_| {}), Vec::<String>::new());
        let one = |change: fn(&mut Contents), says: &str| {
            let said = said(change);
            assert!(said.len() == 1 && said[0].contains(says), "{says}: {said:?}");
        };
        fn map(contents: &mut Contents) -> &mut Vec<crate::alloc::Run> {
            &mut contents.layers.get_mut(&1).unwrap().1
        }
        one(|c| map(c)[0].at = 4, "the volume 'disk1' has chunk 4 in two places");
        one(
            |c| map(c)[1].to = Extent { length: 4, ..map(c)[1].to },
            "belongs to the volume 'disk1'",
        );
        one(
            |c| map(c)[0].to = extent(15, 1),
            "chunk 15 of data LV 0 belongs to the volume 'disk1'",
        );
        one(|c| c.clean.push(extent(24, 2)), "'disk2' and to the list of zeroed");
        let vacated = |c: &mut Contents| {
            c.vacated.push(crate::alloc::Vacated { from: extent(24, 2), layer: 1, at: 0 });
        };
        one(vacated, "'disk2' and to the list of vacated chunks");
        one(|c| c.clean.push(extent(99, 2)), "zeroed chunks has chunk 100 of data LV 0, which has");
        one(|c| c.volumes.get_mut(&1).unwrap().capacity = Bytes::mib(8), "has 2 chunks");
        one(|c| c.volumes.get_mut(&2).unwrap().name = "disk1".parse().unwrap(), "are named");
        one(|c| c.volumes.get_mut(&2).unwrap().uuid = uuid::Uuid::from_u128(1), "have the UUID");
        one(|c| drop(c.data_lvs.insert(0, "other".into())), "another logical volume");
        one(|c| drop(c.data_lvs.insert(1, "other".into())), "data LV 1 (other) is missing");
        one(|c| c.layers.get_mut(&2).unwrap().0.parent = Some(9), "cannot stand on the layer 9");
        let late = said(|c| c.layers.get_mut(&2).unwrap().0.parent = Some(1));
        assert!(late[0].contains("the layer 2 cannot stand on the layer 1"), "{late:?}");
        one(|c| c.volumes.get_mut(&2).unwrap().layer = 9, "layer 9, which is not there");
        one(|c| c.volumes.get_mut(&2).unwrap().layer = 1, "and so does another volume");
        one(
            |c| {
                let row = LayerRow { parent: Some(1), generation: 1, since: 1 };
                c.layers.get_mut(&2).unwrap().0 = row;
            },
            "'disk1' writes to the layer 1, on which others stand",
        );
        let said = said(|c| map(c)[0].to.start.lv = 9);
        assert!(said[0].contains("data LV 9, which is not listed"), "{said:?}");
    }

    #[test]
    fn an_endless_list_is_cut() {
        let said = said(|c| c.clean = (0..100).map(|_| extent(90, 1)).collect());
        assert_eq!(said.len(), MOST + 1);
        assert!(said[MOST].contains("79 more"), "{said:?}");
    }
}
