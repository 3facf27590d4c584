// SPDX-License-Identifier: LGPL-2.1-or-later
//! The power goes, or the daemon is killed, at any write or flush of any disk, and at the beginning
//! and the end of any call that changes something in LVM or the device mapper.
//!
//! A fixed life of three volumes is cut off at each operation in turn; random ones at a random
//! operation. A writer stops waiting when the power has gone.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::house::each_until_the_last;
use super::*;
use crate::testing::{SECTOR, mark};

/// What becomes of the host.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// The daemon is killed; the disks and the kernel's devices live on.
    Killed,
    /// The power goes. Of what was not flushed so many quarters survive, by chance.
    PowerCut { keep: u64 },
}

impl House {
    /// A guest writes; `false` when the power went before it heard that this is done.
    fn write_until_cut(&self, device: &DeviceId, chunk: u64) -> bool {
        self.put_until_cut(device, chunk, &mark(device, chunk))
    }

    /// The same with this in the first sector.
    pub(super) fn put_until_cut(
        &self,
        device: &DeviceId,
        chunk: u64,
        sector: &[u8; SECTOR],
    ) -> bool {
        let power = self.lvm.power();
        let mut done = None;
        eventually("written, or the power is gone", || {
            done = self.target.try_put(device, chunk, sector, Duration::from_millis(2));
            done.is_some() || power.is_gone()
        });
        done == Some(true)
    }

    pub(super) fn begin_again(&mut self, end: End, seed: u64) {
        match end {
            End::Killed => self.end(true, seed, 4),
            End::PowerCut { keep } => self.end(false, seed, keep),
        }
        self.restart();
        self.engine.start_pool(&spec()).unwrap();
    }
}

/// What a volume is to those who use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    mib: u64,
    /// What was written to it and neither discarded nor wiped since.
    written: BTreeSet<u64>,
    /// What was wiped away or overwritten with zeroes, and not written since.
    wiped: BTreeSet<u64>,
}

type World = BTreeMap<&'static str, Known>;

/// One thing that is done to a volume.
#[derive(Debug, Clone)]
enum Step {
    Create {
        mib: u64,
        now: u64,
    },
    Write(u64),
    /// Until the chunks are given back.
    Discard(std::ops::Range<u64>),
    /// The guest does not wait for that.
    Trim(std::ops::Range<u64>),
    /// Zeroes, while the chunk leaves or has left.
    Zero(u64),
    Allocate,
    Resize {
        mib: u64,
    },
    Wipe(WipeMode),
    Delete,
}

impl Step {
    /// Does it; says whether the one who asked was told that it is done.
    fn run(&self, house: &House, name: &'static str) -> bool {
        let parsed = name.parse().unwrap();
        let device = || device_of(house.volume(name).uuid);
        match self {
            Self::Create { mib, now } => house.create_with(name, *mib, *now).is_ok(),
            Self::Write(chunk) => house.write_until_cut(&device(), *chunk),
            Self::Discard(chunks) => {
                let (device, power) = (device(), house.lvm.power());
                house.target.discard(&device, chunks.clone());
                eventually("given back, or the power is gone", || {
                    let map = house.target.state(&device).map;
                    power.is_gone() || chunks.clone().all(|chunk| map.place(chunk).is_none())
                });
                !power.is_gone()
            }
            Self::Trim(chunks) => {
                house.target.discard(&device(), chunks.clone());
                !house.lvm.power().is_gone()
            }
            Self::Zero(chunk) => {
                let (device, power) = (device(), house.lvm.power());
                let mut done = false;
                eventually("acknowledged, or the power is gone", || {
                    let short = Duration::from_millis(20);
                    done = house.target.try_zeroes_behind(&device, *chunk, short);
                    // It was left alone: the guest had written it again.
                    done = done || house.target.try_zeroes(&device, *chunk, Duration::ZERO);
                    done || power.is_gone()
                });
                done
            }
            Self::Allocate => house.engine.allocate_volume(&pool(), &parsed).is_ok(),
            Self::Resize { mib } => {
                house.engine.resize_volume(&pool(), &parsed, Bytes::mib(*mib)).is_ok()
            }
            Self::Wipe(mode) => house.engine.wipe_volume(&pool(), &parsed, *mode).is_ok(),
            Self::Delete => house.delete(name).is_ok(),
        }
    }

    /// What remains promised while it is under way: a wipe or a discard goes on in parts.
    fn begin(&self, world: &mut World, name: &'static str) {
        let Some(known) = world.get_mut(name) else { return };
        match self {
            Self::Wipe(_) => known.written.clear(),
            Self::Discard(chunks) | Self::Trim(chunks) => {
                known.written.retain(|chunk| !chunks.contains(chunk));
            }
            Self::Zero(chunk) => drop(known.written.remove(chunk)),
            _ => {}
        }
    }

    /// What it makes of the world.
    fn apply(&self, world: &mut World, name: &'static str) {
        if let Self::Create { mib, .. } = self {
            world.insert(name, Known { mib: *mib, ..Known::default() });
            return;
        }
        let Some(known) = world.get_mut(name) else { return };
        match self {
            Self::Create { .. } | Self::Allocate => {}
            Self::Write(chunk) => {
                known.written.insert(*chunk);
                known.wiped.remove(chunk);
            }
            Self::Discard(chunks) | Self::Trim(chunks) => {
                known.written.retain(|chunk| !chunks.contains(chunk));
            }
            Self::Zero(chunk) => {
                known.written.remove(chunk);
                known.wiped.insert(*chunk);
            }
            Self::Resize { mib } => known.mib = *mib,
            Self::Wipe(_) => known.wiped.append(&mut known.written),
            Self::Delete => drop(world.remove(name)),
        }
    }
}

/// A life in which each kind of change meets each kind of state.
fn life() -> Vec<(&'static str, Step)> {
    let trim = Step::Wipe(WipeMode::Trim);
    let mut life = vec![("a", Step::Create { mib: 16, now: 0 })];
    life.extend((0..6).map(|chunk| ("a", Step::Write(chunk))));
    life.extend([
        ("b", Step::Create { mib: 4, now: 1 }),
        ("b", Step::Write(9)),
        ("a", Step::Discard(1..4)),
        ("a", Step::Write(2)),
        ("a", Step::Trim(4..6)),
        ("a", Step::Zero(4)),
        ("a", Step::Zero(5)),
        ("a", Step::Write(5)),
        ("b", Step::Resize { mib: 8 }),
        ("b", Step::Write(30)),
        ("c", Step::Create { mib: 8, now: 0 }),
        ("c", Step::Write(31)),
        ("a", Step::Wipe(WipeMode::Zero)),
        ("a", Step::Write(5)),
        ("b", Step::Allocate),
        ("c", trim),
        ("c", Step::Write(1)),
        ("b", Step::Delete),
        ("a", Step::Resize { mib: 4 }),
        ("a", Step::Write(15)),
    ]);
    life
}

/// What is on the disk of each volume, as far as a caller was told: as before or as after the step
/// that was cut off.
fn check_world(house: &House, before: &World, after: &World) -> Result<(), String> {
    let found = house.engine.volumes(&pool()).unwrap();
    let mut names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    names.extend(found.iter().map(|volume| volume.name.as_str()));
    for name in names {
        let volume = found.iter().find(|volume| volume.name.as_str() == name);
        let fits = |known: Option<&Known>| match (known, volume) {
            (None, None) => true,
            (Some(known), Some(volume)) => {
                volume.capacity == Bytes::mib(known.mib) && holds(house, volume, known)
            }
            _ => false,
        };
        if !fits(before.get(name)) && !fits(after.get(name)) {
            let chunks = volume.map(|volume| volume.allocation.0 / CHUNK);
            return Err(format!("'{name}' has {chunks:?} chunks of {volume:?}"));
        }
    }
    Ok(())
}

/// Whether a volume has what was written to it, and nothing of what was wiped.
fn holds(house: &House, volume: &virtnotify_model::VolumeInfo, known: &Known) -> bool {
    let device = device_of(volume.uuid);
    let map = house.target.state(&device).map;
    let data = house.lvm.disk(&data_lv(0));
    let marked = |chunk: u64| {
        let own = mark(&device, chunk);
        let mut first = vec![0; own.len()];
        map.place(chunk).is_some_and(|place| {
            data.read_at(place.chunk * CHUNK, &mut first).unwrap();
            first == own
        })
    };
    known.written.iter().all(|&chunk| marked(chunk))
        && !known.wiped.iter().any(|&chunk| marked(chunk))
}

/// Lives until the power goes after so many operations; says whether it did.
fn live(cut: u64, end: End) -> bool {
    let mut house = House::with_metadata(64, Bytes::mib(1), Bytes::mib(2));
    house.lvm.power().cut_after(cut);
    let (mut before, mut after) = (World::new(), World::new());
    if house.engine.start_pool(&spec()).is_ok() {
        house.write_to_disk();
        for (name, step) in life() {
            step.begin(&mut before, name);
            step.apply(&mut after, name);
            if !step.run(&house, name) {
                break;
            }
            before.clone_from(&after);
        }
    }
    let cut_off = house.lvm.power().is_gone();
    house.begin_again(end, cut);
    house.write_to_disk();
    let whole = check_world(&house, &before, &after);
    assert_eq!(whole, Ok(()), "{end:?} at operation {cut}: {before:?} or {after:?}");
    house.check_contents();
    house.check();
    // It goes on as if nothing had been.
    for name in ["a", "b", "c"] {
        if house.engine.volume(&pool(), &name.parse().unwrap()).is_err() {
            house.create(name, 8);
        }
        assert!(house.write(&device_of(house.volume(name).uuid), 7));
        house.check_contents();
        house.delete(name).unwrap();
    }
    house.check();
    cut_off
}

/// Cuts a life off at each of its operations.
pub(super) fn cut_at_each_operation(live: impl Fn(u64) -> bool + Sync) {
    let last = each_until_the_last(live);
    assert!(last > 200, "only {last} operations were cut off");
}

#[test]
fn killed_at_each_operation() {
    cut_at_each_operation(|cut| live(cut, End::Killed));
}

/// Of what was not flushed nothing, a quarter or half is on the disk.
#[test]
fn a_power_cut_at_each_operation() {
    cut_at_each_operation(|cut| live(cut, End::PowerCut { keep: cut % 3 }));
}

pub(super) fn any_end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Killed), (0u64..=4).prop_map(|keep| End::PowerCut { keep })]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// While volumes grow, discard and are deleted: each is as it was before or after what was
    /// under way, nothing that was acknowledged is lost, and nobody gets old data.
    #[test]
    fn whatever_is_given_back_nothing_is_lost(
        cut in 0u64..400,
        seed in any::<u64>(),
        end in any_end(),
        steps in prop::collection::vec((0usize..3, 0u64..60, 0u64..30, 0u8..4), 1..40),
    ) {
        let mut house = House::with_data(64);
        let disks = ["a", "b", "c"].map(|name| device_of(house.create(name, 16).uuid));
        house.lvm.power().cut_after(cut);
        let mut written: [BTreeMap<u64, Option<crate::alloc::Place>>; 3] = Default::default();
        for (disk, chunk, length, kind) in steps {
            if kind == 0 {
                let gone = chunk..(chunk + length).min(64);
                house.target.discard(&disks[disk], gone.clone());
                written[disk].retain(|chunk, _| !gone.contains(chunk));
            } else if house.write_until_cut(&disks[disk], chunk) {
                let place = house.target.state(&disks[disk]).map.place(chunk);
                written[disk].insert(chunk, place);
            } else {
                break;
            }
        }
        house.begin_again(end, seed);
        for (device, chunks) in disks.iter().zip(&written) {
            house.check_written(device, chunks.keys().copied());
            for (&chunk, &place) in chunks {
                prop_assert_eq!(house.target.state(device).map.place(chunk), place);
            }
        }
        house.check_contents();
        prop_assert!((60..64).all(|chunk| house.write(&disks[0], chunk)));
        house.check();
        house.check_contents();
    }

    /// While volumes are made, resized and deleted: each is there as it was before or after, or
    /// not, and doing it again works.
    #[test]
    fn whatever_change_is_cut_off_each_volume_is_whole(
        cut in 0u64..150,
        seed in any::<u64>(),
        end in any_end(),
        steps in prop::collection::vec((0usize..3, 0u8..4, 1u64..40), 1..14),
    ) {
        let mut house = House::with_data(64);
        house.lvm.power().cut_after(cut);
        let (mut before, mut after) = (World::new(), World::new());
        for (n, kind, mib) in steps {
            let name = ["a", "b", "c"][n];
            let step = match (kind, before.get(name)) {
                (_, None) => Step::Create { mib, now: mib / 20 },
                (0, _) => Step::Delete,
                (_, Some(known)) => Step::Resize { mib: mib.max(known.mib) },
            };
            step.apply(&mut after, name);
            if !step.run(&house, name) {
                break;
            }
            before.clone_from(&after);
        }
        house.begin_again(end, seed);
        prop_assert_eq!(check_world(&house, &before, &after), Ok(()));
        for name in ["a", "b", "c"] {
            if house.engine.volume(&pool(), &name.parse().unwrap()).is_err() {
                house.create(name, 16);
            }
            prop_assert!(house.write(&device_of(house.volume(name).uuid), 0));
            house.delete(name).unwrap();
        }
        house.check();
    }
}
