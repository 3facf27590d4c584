// SPDX-License-Identifier: LGPL-2.1-or-later
//! The power goes, or the daemon is killed, at each operation of a life with snapshots, clones,
//! rollbacks and deletes: every volume and every snapshot shows what it showed before or after the
//! step that was cut off, and in the end all space is free.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use virtnotify_model::{JobState, Task};

use super::cuts::{End, any_end, cut_at_each_operation};
use super::house::sector;
use super::*;

/// What a volume or a snapshot shows, as far as a guest was told: chunk and text.
type Shown = BTreeMap<u64, String>;
type World = BTreeMap<String, Shown>;

#[derive(Debug, Clone)]
enum Step {
    Create(&'static str),
    Put(&'static str, u64, String),
    /// The guest does not wait for that.
    Discard(&'static str, Range<u64>),
    Snapshot(Vec<&'static str>, &'static str),
    Clone(&'static str, &'static str),
    RollBack(&'static str),
    Delete(&'static str),
    /// Chunks are moved; nobody has to notice.
    Job(Task),
}

impl Step {
    /// Does it; says whether the one who asked was told that it is done.
    fn run(&self, house: &House) -> bool {
        let device = |name: &str| device_of(house.volume(name).uuid);
        match self {
            Self::Create(name) => house.create_with(name, 4, 0).is_ok(),
            Self::Put(name, chunk, text) => {
                house.put_until_cut(&device(name), *chunk, &sector(text))
            }
            Self::Discard(name, chunks) => {
                house.target.discard(&device(name), chunks.clone());
                !house.lvm.power().is_gone()
            }
            Self::Snapshot(names, name) => house.snapshot(names, name).is_ok(),
            Self::Clone(backing, name) => house.clone_of(backing, name, 4).is_ok(),
            Self::RollBack(snapshot) => house.roll_back(snapshot).is_ok(),
            Self::Delete(name) => house.delete(name).is_ok(),
            Self::Job(task) => {
                let begun = house.engine.start_job(&pool(), task);
                let power = house.lvm.power();
                let ended = || house.engine.jobs().iter().all(|j| j.state != JobState::Running);
                eventually("a job to end, or the power is gone", || ended() || power.is_gone());
                begun.is_ok() && !power.is_gone()
            }
        }
    }

    /// What is not promised any more as soon as it is begun.
    fn begin(&self, world: &mut World) {
        if let Self::Discard(name, chunks) = self
            && let Some(shown) = world.get_mut(*name)
        {
            shown.retain(|chunk, _| !chunks.contains(chunk));
        }
    }

    /// What it makes of the world.
    fn apply(&self, world: &mut World) {
        let shown = |world: &World, name: &str| world.get(name).cloned().unwrap_or_default();
        match self {
            Self::Create(name) => drop(world.insert((*name).into(), Shown::new())),
            Self::Put(name, chunk, text) => {
                if let Some(shown) = world.get_mut(*name) {
                    shown.insert(*chunk, text.clone());
                }
            }
            Self::Discard(..) => self.begin(world),
            Self::Snapshot(names, name) => {
                for volume in names {
                    let shown = shown(world, volume);
                    world.insert(format!("{volume}@{name}"), shown);
                }
            }
            Self::Clone(backing, name) => {
                let shown = shown(world, backing);
                world.insert((*name).into(), shown);
            }
            Self::RollBack(snapshot) => {
                let shown = shown(world, snapshot);
                let volume = snapshot.split('@').next().unwrap_or_default();
                world.insert(volume.into(), shown);
            }
            Self::Delete(name) => drop(world.remove(*name)),
            Self::Job(_) => {}
        }
    }
}

fn put(name: &'static str, chunk: u64, text: &str) -> Step {
    Step::Put(name, chunk, text.into())
}

/// A life in which each kind of change meets each kind of state.
fn life() -> Vec<Step> {
    let mut life = vec![Step::Create("a"), Step::Create("b")];
    life.extend([3, 2, 1, 0].map(|chunk| put("a", chunk, "1")));
    life.extend([
        put("b", 5, "1"),
        Step::Snapshot(vec!["a", "b"], "one"),
        put("a", 1, "2"),
        put("b", 5, "2"),
        Step::Discard("a", 2..4),
        put("a", 3, "2"),
        Step::Snapshot(vec!["a"], "two"),
        put("a", 1, "3"),
        put("a", 2, ""),
        Step::Clone("a", "c"),
        put("c", 0, "c"),
        put("a", 0, "3"),
        Step::Clone("a@one", "d"),
        put("d", 2, "d"),
        Step::Job(Task::Defragment(None)),
        // Of the snapshot that the clone stands on, and of the clone's own.
        put("c", 3, ""),
        Step::Job(Task::ReclaimZeroes(None)),
        Step::Delete("a@two"),
        put("a", 3, "4"),
        Step::RollBack("a@one"),
        put("a", 1, "5"),
        Step::Delete("b"),
        Step::Delete("a@one"),
        put("c", 1, "6"),
        Step::Job(Task::Reclaim(None)),
        Step::Job(Task::Defragment(Some("c".parse().unwrap()))),
        Step::Delete("d"),
        put("a", 0, "7"),
    ]);
    life
}

/// Whether a volume shows all of this.
fn shows(house: &House, name: &str, shown: &Shown) -> bool {
    shown.iter().all(|(&chunk, text)| house.text(name, chunk) == *text)
}

fn check_world(house: &House, before: &World, after: &World) -> Result<(), String> {
    let volumes = house.engine.volumes(&pool()).unwrap();
    let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    let are = |world: &World| world.keys().map(String::as_str).eq(names.iter().copied());
    if !are(before) && !are(after) {
        return Err(format!("there are {names:?}"));
    }
    for name in names {
        let fits = |world: &World| world.get(name).is_some_and(|shown| shows(house, name, shown));
        if !fits(before) && !fits(after) {
            let texts: Vec<_> = (0..8).map(|chunk| house.text(name, chunk)).collect();
            return Err(format!("'{name}' shows {texts:?}"));
        }
    }
    Ok(())
}

/// Deletes everything: nothing is left.
fn end(house: &House) {
    for volume in house.engine.volumes(&pool()).unwrap() {
        house.delete(volume.name.as_str()).unwrap();
    }
    let shared = house.engine.started(&pool()).unwrap();
    eventually("collected", || shared.core().is_collected());
    assert_eq!(shared.core().free.used(), 0);
    house.check();
}

/// Says at which operation a life was cut off that fails.
struct Told(u64, End);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} at operation {}", self.1, self.0);
        }
    }
}

/// Lives until the power goes after so many operations; says whether it did.
fn live(cut: u64, how: End, life: &[Step]) -> bool {
    let _told = Told(cut, how);
    let mut house = House::with_metadata(64, Bytes::mib(1), Bytes::mib(2));
    house.engine.start_pool(&spec()).unwrap();
    house.write_to_disk();
    house.lvm.power().cut_after(cut);
    let (mut before, mut after) = (World::new(), World::new());
    for step in life {
        step.begin(&mut before);
        step.apply(&mut after);
        if !step.run(&house) {
            break;
        }
        before.clone_from(&after);
    }
    let cut_off = house.lvm.power().is_gone();
    house.begin_again(how, cut);
    house.write_to_disk();
    let whole = check_world(&house, &before, &after);
    assert_eq!(whole, Ok(()), "{how:?} at operation {cut}: {before:?} or {after:?}");
    house.check();
    // It goes on as if nothing had been.
    let volumes = house.engine.volumes(&pool()).unwrap();
    let written = |name: &str| !name.contains('@');
    let left: World =
        [&before, &after].into_iter().flatten().map(|(n, s)| (n.clone(), s.clone())).collect();
    for volume in volumes.iter().filter(|volume| written(volume.name.as_str())) {
        assert!((0..8).all(|chunk| house.put(volume.name.as_str(), chunk, "end")));
    }
    for (name, shown) in left.iter().filter(|(name, _)| !written(name)) {
        let there = volumes.iter().any(|volume| volume.name.as_str() == name);
        assert!(!there || shows(&house, name, shown), "'{name}' at operation {cut}");
    }
    house.check();
    end(&house);
    cut_off
}

#[test]
fn killed_at_each_operation_of_a_life_with_snapshots() {
    let life = life();
    cut_at_each_operation(|cut| live(cut, End::Killed, &life));
}

#[test]
fn a_power_cut_at_each_operation_of_a_life_with_snapshots() {
    let life = life();
    cut_at_each_operation(|cut| live(cut, End::PowerCut { keep: cut % 3 }, &life));
}

const VOLUMES: [&str; 3] = ["a", "b", "c"];
const SNAPSHOTS: [[&str; 2]; 3] = [["a@s", "a@t"], ["b@s", "b@t"], ["c@s", "c@t"]];

/// A step of this kind that can be done in this world.
fn possible(kind: u8, n: usize, m: usize, chunk: u64, count: usize, world: &World) -> Option<Step> {
    let (name, snapshot) = (VOLUMES[n], SNAPSHOTS[n][m % 2]);
    let (there, taken) = (world.contains_key(name), world.contains_key(snapshot));
    match kind {
        0 if !there => Some(Step::Create(name)),
        1 if there => Some(put(name, chunk, &format!("{name}{count}"))),
        3 if there => Some(Step::Discard(name, chunk..(chunk + 3).min(16))),
        4 if there && !taken => Some(Step::Snapshot(vec![name], ["s", "t"][m % 2])),
        5 if taken && there => Some(Step::RollBack(snapshot)),
        6 if taken && m < 2 => Some(Step::Delete(snapshot)),
        6 if there && m >= 2 => Some(Step::Delete(name)),
        7 => {
            let backing = if m < 2 { snapshot } else { name };
            let to = VOLUMES[(n + 1) % 3];
            let possible = world.contains_key(backing) && !world.contains_key(to);
            possible.then_some(Step::Clone(backing, to))
        }
        8 => Some(Step::Job(match m {
            0 => Task::Defragment(None),
            1 => Task::ReclaimZeroes(None),
            _ => Task::Reclaim(None),
        })),
        // Nothing but zeroes.
        2 if there => Some(put(name, chunk, "")),
        _ if there => Some(put(name, chunk, &format!("{name}{count}"))),
        _ => Some(Step::Create(name)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_snapshotted_all_show_what_they_showed(
        cut in 0u64..900,
        how in any_end(),
        choices in prop::collection::vec((0u8..9, 0usize..3, 0usize..4, 0u64..16), 5..50),
    ) {
        let (mut life, mut world) = (Vec::new(), World::new());
        // A rollback needs a snapshot of the same volume, not of an earlier one of that name.
        let mut fresh = BTreeMap::new();
        for (count, (kind, n, m, chunk)) in choices.into_iter().enumerate() {
            let Some(step) = possible(kind, n, m, chunk, count, &world) else { continue };
            match &step {
                Step::Create(name) | Step::Clone(_, name) => drop(fresh.insert(*name, count)),
                Step::RollBack(_) if fresh.get(SNAPSHOTS[n][m % 2]) != fresh.get(VOLUMES[n]) => {
                    continue;
                }
                Step::Snapshot(names, name) => {
                    let made = fresh[names[0]];
                    let at = usize::from(*name == "t");
                    fresh.insert(SNAPSHOTS[n][at], made);
                }
                _ => {}
            }
            step.apply(&mut world);
            life.push(step);
        }
        live(cut, how, &life);
    }
}
