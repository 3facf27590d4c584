// SPDX-License-Identifier: LGPL-2.1-or-later
//! The allocator against models that are too simple to be wrong.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const CHUNKS: u64 = 48;

fn extent(chunk: u64, length: u64) -> Extent {
    Extent { start: Place { lv: 0, chunk }, length }
}

/// Says of an extent set's entries that they are as few as possible.
fn minimal(set: &ExtentSet) -> bool {
    let all: Vec<_> = set.iter().collect();
    all.iter().all(|e| e.length > 0) && all.windows(2).all(|w| w[0].end() < w[1].start)
}

proptest! {
    #[test]
    fn an_extent_set_is_a_set(
        steps in prop::collection::vec((any::<bool>(), 0..CHUNKS, 1u64..9), 1..80)
    ) {
        let (mut set, mut model, mut told) =
            (ExtentSet::default(), BTreeSet::new(), BTreeMap::new());
        for (add, chunk, length) in steps {
            let range = chunk..chunk + length;
            if add {
                let fits = range.clone().all(|c| !model.contains(&c));
                prop_assert_eq!(set.insert(extent(chunk, length)).is_ok(), fits);
                if fits { model.extend(range); }
            } else {
                let there = range.clone().all(|c| model.contains(&c));
                prop_assert_eq!(set.remove(extent(chunk, length)).is_ok(), there);
                if there { model.retain(|c| !range.contains(c)); }
            }
            prop_assert!(minimal(&set));
            prop_assert_eq!(set.chunks(), model.len() as u64);
            for c in 0..CHUNKS + 9 {
                let place = Place { lv: 0, chunk: c };
                prop_assert_eq!(set.containing(place).is_some(), model.contains(&c));
            }
            // What was told of the changes adds up to the set.
            for (start, length) in set.changes() {
                match length {
                    Some(length) => told.insert(start, length),
                    None => told.remove(&start),
                };
            }
            let now: BTreeMap<_, _> = set.iter().map(|e| (e.start, e.length)).collect();
            prop_assert_eq!(&told, &now);
        }
    }

    #[test]
    fn a_volume_map_is_a_map(
        steps in prop::collection::vec((any::<bool>(), 0..CHUNKS, 0..CHUNKS, 1u64..9), 1..80)
    ) {
        let (mut map, mut told) = (VolumeMap::default(), BTreeMap::new());
        let mut model: BTreeMap<u64, Place> = BTreeMap::new();
        for (add, at, chunk, length) in steps {
            let range = at..at + length;
            if add {
                let fits = range.clone().all(|v| !model.contains_key(&v));
                let run = Run { at, to: extent(chunk, length) };
                prop_assert_eq!(map.insert(run).is_ok(), fits);
                if fits { model.extend(range.map(|v| (v, run.to.start.after(v - at)))); }
            } else {
                for run in map.remove(at, length) {
                    for n in 0..run.to.length {
                        let gone = model.remove(&(run.at + n));
                        prop_assert_eq!(gone, Some(run.to.start.after(n)));
                    }
                }
                prop_assert!(range.clone().all(|v| !model.contains_key(&v)));
            }
            prop_assert_eq!(map.chunks(), model.len() as u64);
            prop_assert_eq!(map.end(), model.keys().next_back().map_or(0, |v| v + 1));
            for v in 0..CHUNKS + 9 {
                prop_assert_eq!(map.place(v), model.get(&v).copied());
                let hole = (v..v + 20).take_while(|v| !model.contains_key(v)).count();
                prop_assert_eq!(map.hole(v, 20), hole as u64);
            }
            let runs: Vec<_> = map.iter().collect();
            let joined = |w: &[Run]| w[0].end() == w[1].at && w[0].to.end() == w[1].to.start;
            prop_assert!(!runs.windows(2).any(joined), "runs that continue each other are one");
            for (at, to) in map.changes() {
                match to {
                    Some(to) => told.insert(at, to),
                    None => told.remove(&at),
                };
            }
            let now: BTreeMap<_, _> = runs.iter().map(|r| (r.at, r.to)).collect();
            prop_assert_eq!(&told, &now);
        }
    }

    /// Whatever is done: every chunk is free, used or busy, and only clean ones are given out.
    #[test]
    fn free_space_loses_and_doubles_nothing(
        steps in prop::collection::vec((0u8..6, 0..CHUNKS, 1u64..9), 1..120)
    ) {
        let sizes = BTreeMap::from([(0, CHUNKS / 2)]);
        let mut free = FreeSpace::new(sizes, std::iter::empty(), std::iter::empty()).unwrap();
        let mut used: Vec<Extent> = Vec::new();
        let mut cleaning: Vec<Extent> = Vec::new();
        let mut zeroed: BTreeSet<Place> = BTreeSet::new();
        for (step, chunk, n) in steps {
            match step {
                0 => {
                    let before = free.clean();
                    let got = free.allocate(Some(Place { lv: 0, chunk }), n);
                    let sum: u64 = got.iter().map(|e| e.length).sum();
                    prop_assert_eq!(sum, before.min(n), "all that was asked for and there");
                    for e in &got {
                        for i in 0..e.length {
                            prop_assert!(zeroed.remove(&e.start.after(i)), "given out dirty");
                        }
                    }
                    used.extend(got);
                }
                1 => if let Some(e) = used.pop() { free.release(e).unwrap(); },
                2 => cleaning.extend(free.begin_cleaning(n)),
                3 => if let Some(e) = cleaning.pop() {
                    zeroed.extend((0..e.length).map(|i| e.start.after(i)));
                    free.cleaned(e).unwrap();
                },
                4 => if let Some(e) = cleaning.pop() { free.not_cleaned(e).unwrap(); },
                _ => {
                    let size = free.size(0);
                    let tail = free.tail(0);
                    if n > 4 {
                        free.extended(0, size + n).unwrap();
                    } else if tail >= n {
                        free.begin_cut(0, n).unwrap();
                        free.tail_cut(0, n, size - n).unwrap();
                        zeroed.retain(|p| p.chunk < size - n);
                    } else {
                        prop_assert!(free.begin_cut(0, n).is_err());
                    }
                }
            }
            let (clean, dirty) = free.extents();
            let mut all: Vec<Place> = Vec::new();
            for e in clean.iter().chain(&dirty).chain(&used).chain(&cleaning) {
                all.extend((0..e.length).map(|i| e.start.after(i)));
            }
            all.sort_unstable();
            let expected: Vec<_> =
                (0..free.size(0)).map(|chunk| Place { lv: 0, chunk }).collect();
            prop_assert_eq!(all, expected);
            prop_assert_eq!(free.clean(), zeroed.len() as u64);
        }
    }
}

#[test]
fn two_maps_never_name_one_chunk() {
    let sizes = BTreeMap::from([(0, 8)]);
    let twice = [extent(0, 4), extent(3, 2)];
    assert!(FreeSpace::new(sizes.clone(), twice.into_iter(), std::iter::empty()).is_err());
    let beyond = [extent(6, 4)];
    assert!(FreeSpace::new(sizes.clone(), beyond.into_iter(), std::iter::empty()).is_err());
    let (used, clean) = ([extent(0, 4)], [extent(2, 3)]);
    assert!(FreeSpace::new(sizes, used.into_iter(), clean.into_iter()).is_err());
}

/// A chunk of a layer, and who shows it.
type Seen = BTreeMap<(LayerId, u64), Vec<LayerId>>;

/// What each layer with a name shows, looked up chunk by chunk.
fn seen(layers: &Layers) -> Seen {
    let mut seen = Seen::new();
    for (id, layer) in layers.iter() {
        for (chunk, own) in (0..CHUNKS + 9).filter_map(|c| Some((c, layer.map.place(c)?))) {
            if own.lv != Place::NOWHERE {
                seen.insert((id, chunk), Vec::new());
            }
        }
    }
    for (id, _) in layers.iter().filter(|(_, layer)| layer.named) {
        for chunk in 0..CHUNKS + 9 {
            if let Some((owner, _)) = layers.place(id, chunk) {
                seen.get_mut(&(owner, chunk)).unwrap().push(id);
            }
        }
    }
    seen
}

fn add_layer(layers: &mut Layers, parent: Option<LayerId>) -> LayerId {
    let below = parent.map(|parent| layers.get(parent).unwrap().row.generation);
    let generation = below.map_or(0, |below| below + 1);
    let id = layers.next_id();
    layers.add(id, LayerRow { parent, generation, since: generation }).unwrap();
    id
}

/// Puts a chunk of its own, or a hole over what is below, into a layer.
fn put(layers: &mut Layers, id: LayerId, (at, length): (u64, u64), place: Option<u64>) {
    layers.take(id, at, length);
    if let Some(place) = place {
        return layers.insert(id, Run { at, to: extent(place, length) }).unwrap();
    }
    let below: Vec<Run> = layers.flat(id, at..at + length).map(|(_, run)| run).collect();
    for run in below {
        layers.insert(id, Run::hole(run.at, run.to.length)).unwrap();
    }
}

proptest! {
    /// Whatever tree of layers there is: what is counted along is what a look at each chunk finds.
    #[test]
    fn what_one_name_alone_shows_is_counted_along(
        steps in prop::collection::vec((0u8..12, 0usize..64, 0..CHUNKS, 1u64..6), 1..60),
        part in 1usize..4,
    ) {
        let (mut layers, mut next) = (Layers::default(), 0);
        for (step, which, at, length) in steps {
            let ids = |wanted: &dyn Fn(&Layer) -> bool| -> Option<LayerId> {
                let all: Vec<_> = layers.iter().filter(|(_, l)| wanted(l)).map(|(id, _)| id).collect();
                (!all.is_empty()).then(|| all[which % all.len()])
            };
            let top = ids(&|layer| layer.named && layer.children.is_empty());
            let (named, any) = (ids(&|layer| layer.named), ids(&|_| true));
            let waste = ids(&|layer| layer.is_waste());
            let unseen = ids(&Layer::has_unseen);
            match step {
                0 => {
                    let id = add_layer(&mut layers, None);
                    layers.set_named(id, true);
                }
                // A snapshot, or a clone of a volume.
                1 | 2 => if let Some(top) = top {
                    let new = add_layer(&mut layers, Some(top));
                    layers.set_named(top, false);
                    layers.set_named(new, true);
                    if step == 1 {
                        layers.set_named(top, true);
                    } else {
                        let clone = add_layer(&mut layers, Some(top));
                        layers.set_named(clone, true);
                    }
                },
                3 => if let Some(named) = named {
                    let clone = add_layer(&mut layers, Some(named));
                    layers.set_named(clone, true);
                },
                4..=7 => if let Some(top) = top {
                    next += 100;
                    put(&mut layers, top, (at, length), (step < 7).then_some(next));
                },
                8 => if let Some(named) = named {
                    layers.set_named(named, false);
                },
                9 => if let Some(waste) = waste {
                    layers.take(waste, 0, u64::MAX);
                    layers.remove(waste);
                },
                10 => if let Some(id) = unseen {
                    for (at, length) in layers.unseen(id, 2) {
                        put(&mut layers, id, (at, length), None);
                    }
                },
                // What is counted in parts may be changed meanwhile.
                _ => if let Some(id) = any {
                    layers.count_anew(id);
                    layers.count_part(part);
                },
            }
            let mut counted = layers.clone();
            while counted.count_part(part) {}
            let seen = seen(&layers);
            for (id, layer) in counted.iter() {
                let alone = seen.values().filter(|viewers| **viewers == [id]).count() as u64;
                prop_assert_eq!(counted.alone(id), alone, "layer {}", id);
                if layer.has_unseen() {
                    let is_unseen = |c: &u64| seen.get(&(id, *c)).is_some_and(Vec::is_empty);
                    let expected: Vec<u64> = (0..CHUNKS + 9).filter(is_unseen).collect();
                    let found = counted.unseen(id, usize::MAX).into_iter();
                    let found: Vec<u64> = found.flat_map(|(at, n)| at..at + n).collect();
                    prop_assert_eq!(found, expected, "layer {}", id);
                }
            }
        }
    }
}
