// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is a volume's or a snapshot's alone: counted along, counted one by one, and given back by its deletion.

use virtnotify_model::Event;

use super::*;

/// How many chunks the volumes have of which guests write.
const CHUNKS: u64 = 12;
const DISKS: [&str; 4] = ["a", "b", "c", "d"];
const SNAPSHOTS: [&str; 3] = ["x", "y", "z"];

impl House {
    fn on_disk() -> Self {
        let house = Self::started(256);
        house.write_to_disk();
        house
    }

    fn all_names(&self) -> Vec<String> {
        let all = self.engine.volumes(&pool()).unwrap();
        all.into_iter().map(|volume| volume.name.to_string()).collect()
    }

    /// Everything that is counted is what it is when each chunk is looked at.
    fn accounts_are_right(&self) {
        let shared = self.engine.started(&pool()).unwrap();
        // The headroom thread counts what is counted in parts, and shows that.
        eventually("the accounts are right", || {
            let core = shared.core();
            let alone = core.count_alone();
            let view = shared.view();
            let shown = |name: &_| view.volume(name).map(|shown| shown.exclusive);
            core.is_collected()
                && core.volumes().all(|(id, volume)| {
                    let counted = Some(Bytes(alone[&id] * CHUNK));
                    shown(&volume.row().name) == counted
                })
        });
        let (owned, used) = (self.shown_chunks(), shared.core().free.used());
        assert_eq!(used, owned, "a chunk that is used is one that a volume or a snapshot shows");
        self.check();
    }

    /// How many chunks any volume or snapshot shows.
    fn shown_chunks(&self) -> u64 {
        let shared = self.engine.started(&pool()).unwrap();
        let core = shared.core();
        let runs = core.volumes().flat_map(|(id, _)| core.runs(id, 0..u64::MAX));
        let places = runs.flat_map(|run| (0..run.to.length).map(move |n| run.to.start.after(n)));
        places.collect::<std::collections::BTreeSet<_>>().len() as u64
    }

    /// Deletes it: exactly what was its alone comes free.
    fn delete_counted(&self, name: &str) {
        self.accounts_are_right();
        let shared = self.engine.started(&pool()).unwrap();
        let alone = self.volume(name).exclusive.0 / CHUNK;
        let before = shared.core().free.used();
        self.delete(name).unwrap();
        eventually("collected", || shared.core().is_collected());
        let after = shared.core().free.used();
        assert_eq!(before - after, alone, "the deletion of '{name}'");
    }

    /// Something that an operator or a guest does, as this number says.
    fn step(&self, random: &mut fastrand::Rng) {
        let names = self.all_names();
        let there = |name: &str| names.iter().any(|other| other == name);
        let disk = DISKS[random.usize(..DISKS.len())];
        let snapshot = SNAPSHOTS[random.usize(..SNAPSHOTS.len())];
        let full = format!("{disk}@{snapshot}");
        let device = || device_of(self.volume(disk).uuid);
        match random.u8(..16) {
            0..=5 if there(disk) => {
                let chunk = random.u64(..CHUNKS);
                assert!(self.put(disk, chunk, "text"));
            }
            6 | 7 if there(disk) => {
                let from = random.u64(..CHUNKS);
                self.target.discard(&device(), from..from + 1 + random.u64(..3));
                eventually("a hole", || self.target.state(&device()).leaving.is_empty());
            }
            8 | 9 if there(disk) && !there(&full) => {
                drop(self.snapshot(&[disk], snapshot).unwrap())
            }
            10 if there(&full) && there(disk) => {
                // It may be another volume's of that name.
                drop(self.roll_back(&full));
            }
            11 | 12 => {
                let to = DISKS[random.usize(..DISKS.len())];
                let from = if random.bool() { disk } else { full.as_str() };
                match there(from) && !there(to) {
                    true => drop(self.clone_of(from, to, 16).unwrap()),
                    false if !there(to) && random.bool() => drop(self.create(to, 16)),
                    false => {}
                }
            }
            13 if there(&full) => self.delete_counted(&full),
            14 if there(disk) && names.len() > 3 => self.delete_counted(disk),
            _ => {}
        }
    }
}

/// Chains and trees at random: snapshots, clones, rollbacks, discards, deletions in the middle.
#[test]
fn what_is_counted_along_is_what_a_deletion_gives_back() {
    let seeds = super::simulation::number("VIRTNOTIFY_ACCOUNTS").unwrap_or(12);
    for seed in 0..seeds {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut house = House::on_disk();
        house.create("a", 16);
        for step in 0..60 {
            house.step(&mut random);
            if step % 20 == 19 {
                house.accounts_are_right();
            }
        }
        // What was counted along is counted anew by the next daemon.
        house.restart();
        house.engine.start_pool(&spec()).unwrap();
        house.accounts_are_right();
        house.all_names().iter().for_each(|name| house.delete_counted(name));
        assert_eq!(house.engine.started(&pool()).unwrap().core().free.used(), 0, "seed {seed}");
    }
}

/// What stands on a layer without a name hides a chunk of it, each for itself: then nothing shows it any more.
#[test]
fn what_all_clones_have_written_comes_free() {
    let house = House::on_disk();
    house.create("a", 16);
    assert!((0..4).rev().all(|chunk| house.put("a", chunk, "golden")));
    house.clone_of("a", "b", 16).unwrap();
    house.clone_of("a", "c", 16).unwrap();
    let used = || house.engine.started(&pool()).unwrap().core().free.used();
    let alone = |name: &str| house.volume(name).exclusive.0 / CHUNK;
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        assert!(house.put(name, 1, name));
        house.accounts_are_right();
        assert_eq!(used(), 5 + at as u64);
    }
    assert_eq!((alone("a"), alone("b"), alone("c")), (1, 1, 1), "chunk 1 is the third one's alone");
    assert!(house.put("c", 1, "c"));
    house.accounts_are_right();
    assert_eq!(used(), 6, "nothing shows the golden chunk 1");
    assert_eq!(["a", "b", "c"].map(|name| house.text(name, 1)), ["a", "b", "c"]);
    assert_eq!(["a", "b", "c"].map(|name| house.text(name, 2)), ["golden"; 3]);
}

/// A write to what a snapshot shows makes no volume larger, and changes what is the snapshot's alone.
#[test]
fn a_copy_is_told() {
    let house = House::on_disk();
    house.create("a", 16);
    let mut heard = house.listen();
    assert!(house.put("a", 0, "old"));
    heard.until("the growth is told", |event| matches!(event, Event::VolumeGrown { .. }));
    house.snapshot(&["a"], "x").unwrap();
    let mut heard = house.listen();
    assert!(house.put("a", 0, "new"));
    let grown = |event: &Event| {
        matches!(event, Event::VolumeGrown { volume, by, .. }
            if volume.as_str() == "a" && *by == Bytes(CHUNK))
    };
    heard.until("the copy is told", grown);
    assert_eq!(house.volume("a@x").exclusive, Bytes(CHUNK));
}
