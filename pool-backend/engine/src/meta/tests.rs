// SPDX-License-Identifier: LGPL-2.1-or-later
//! The metadata on a disk that loses power, and on one that lies.

use std::sync::Arc;

use proptest::prelude::*;
use virtnotify_model::{Bytes, ChunkSize, VolumeKind};

use super::journal::SLOTS;
use super::*;
use crate::alloc::{Extent, LayerRow, Place, Run, Vacated};
use crate::device::BlockDevice;
use crate::testing::FakeDisk;

const SIZE: usize = 4 << 20;
const LV: &str = "AbCdEf-0000-1111-2222-3333-4444-555555";

fn settings() -> Settings {
    Settings { chunk: ChunkSize::default() }
}

fn create(disk: &Arc<FakeDisk>) -> Result<(Store, Contents), MetaError> {
    Store::create(disk.clone(), LV, settings(), "data")
}

fn volume(id: u64) -> Change {
    let row = VolumeRow {
        uuid: uuid::Uuid::from_u128(id.into()),
        name: format!("disk{id}").parse().unwrap(),
        kind: VolumeKind::Volume,
        capacity: Bytes::mib(id),
        created: 1_763_830_000,
        layer: id,
        origin: None,
    };
    Change::Volume { id, row }
}

/// Three volumes, each with its layer.
fn volumes() -> Vec<Change> {
    let layer = |id| Change::Layer { id, row: LayerRow::FIRST };
    (1..=3).flat_map(|id| [layer(id), volume(id)]).collect()
}

/// Growth number `n`: several entries that belong together.
fn growth(n: u64) -> Vec<Change> {
    let start = Place { lv: 0, chunk: n * 2 };
    let to = Some(Extent { start, length: 2 });
    let clean = Place { lv: 0, chunk: n * 2 + 2 };
    vec![
        Change::Run { layer: n % 3 + 1, at: n * 5, to },
        Change::Clean { start, length: None },
        Change::Clean { start: clean, length: Some(1_000_000 - n * 2) },
    ]
}

/// The contents after each of `count` growths.
fn history(count: u64) -> Vec<Contents> {
    let disk = Arc::new(FakeDisk::used(SIZE));
    let (store, empty) = create(&disk).unwrap();
    let mut states = vec![empty];
    let mut commit = |store: &Store, changes: &[Change]| {
        store.commit(changes).unwrap();
        states.push(store.reader().contents().unwrap());
    };
    commit(&store, &volumes());
    for n in 0..count {
        commit(&store, &growth(n));
    }
    states
}

fn same(a: &Contents, b: &Contents) -> bool {
    // The pool's id is random.
    Contents { pool: b.pool, ..a.clone() } == *b
}

/// Runs growths, and writes the tables after each third of them, until the power goes after so many
/// disk operations; says how many commits were done.
fn run_until_power_cut(disk: &Arc<FakeDisk>, count: u64) -> usize {
    let Ok((store, _)) = create(disk) else { return 0 };
    let first = store.commit(&volumes());
    if first.is_err() {
        return 1;
    }
    let mut done = 0;
    for n in 0..count {
        done += usize::from(store.commit(&growth(n)).is_ok());
        if n % 3 == 0 && store.reader().checkpoint().is_err() {
            break;
        }
    }
    // A process that is cut off does not tidy up.
    std::mem::forget(store);
    done + 2
}

/// Blocks that hold something: superblocks, the journal's first records, the database.
fn written() -> impl Strategy<Value = usize> {
    let journal = usize::try_from(JOURNAL_START / 4096).unwrap();
    let database = usize::try_from(DATA_START / 4096).unwrap();
    prop_oneof![0usize..2, journal..journal + 16, database..database + 64]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Damage is the former state or a named error, never another map.
    #[test]
    fn damage_is_named(block in written(), kind in 0u8..4, other in written()) {
        let disk = Arc::new(FakeDisk::used(SIZE));
        let (store, _) = create(&disk).unwrap();
        store.commit(&volumes()).unwrap();
        for n in 0..12 {
            store.commit(&growth(n)).unwrap();
            if n == 6 {
                store.reader().checkpoint().unwrap();
            }
        }
        drop(store);
        let mut swapped = vec![0; 4096];
        disk.read_at(other as u64 * 4096, &mut swapped).unwrap();
        disk.damage(block * 4096, |bytes| match kind {
            0 => bytes[..4096].iter_mut().for_each(|byte| *byte = !*byte),
            1 => bytes[..4096].fill(0),
            2 => bytes[..4096].copy_from_slice(&swapped),
            _ => bytes[17] ^= 4,
        });
        if let Ok((_, found)) = Store::open(disk, LV) {
            let states = history(12);
            let at = states.iter().position(|state| same(state, &found));
            prop_assert!(at.is_some(), "another state: {:?}", found);
        }
    }
}

/// A power cut at each operation, with any part of what was not flushed on the disk: what is found
/// is the state before or after the growth that was under way, or it is refused while the pool was
/// not yet made.
#[test]
fn a_power_cut_leaves_before_or_after() {
    let count = 24;
    let states = history(count);
    let mut cut = 0;
    loop {
        let disk = Arc::new(FakeDisk::used(SIZE));
        disk.fail_after(cut);
        let done = run_until_power_cut(&disk, count);
        for keep in 0..=4 {
            let mut random = (cut << 3 | keep).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let survived = disk.after_power_cut(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 20) % 4 < keep
            });
            match Store::open(Arc::new(survived), LV) {
                Ok((_, found)) => {
                    let at = states.iter().position(|state| same(state, &found));
                    let at = at.expect("a state that never was");
                    assert!(at + 1 >= done, "cut {cut}: growth {done} was lost: {at} survived");
                }
                Err(error) => assert!(done == 0, "cut {cut}, after {done} commits: {error}"),
            }
        }
        if !disk.has_failed() {
            break;
        }
        cut += 1;
    }
    assert!(cut > 120, "only {cut} operations were cut off");
}

#[test]
fn metadata_of_another_volume_or_device_is_refused() {
    let disk = Arc::new(FakeDisk::used(SIZE));
    drop(create(&disk).unwrap());
    let other = LV.replace('A', "B");
    let sentence = Store::open(disk.clone(), &other).unwrap_err().to_string();
    assert!(sentence.contains("another logical volume"), "{sentence}");
    disk.resize((1 << 20) + (36 << 10));
    let sentence = Store::open(disk, LV).unwrap_err().to_string();
    assert!(sentence.contains("has room for"), "{sentence}");
    let sentence = Store::open(Arc::new(FakeDisk::used(SIZE)), LV).unwrap_err().to_string();
    assert!(sentence.contains("neither copy"), "{sentence}");
}

#[test]
fn a_full_metadata_volume_refuses_the_growth_and_keeps_the_rest() {
    let disk = Arc::new(FakeDisk::used((1 << 20) + (300 << 10)));
    let (store, _) = create(&disk).unwrap();
    store.commit(&volumes()).unwrap();
    let done = (0..100_000).take_while(|&n| store.commit(&growth(n)).is_ok()).count() as u64;
    assert!(store.commit(&growth(done + 1)).is_err(), "it stays refused");
    drop(store);
    let (_, found) = Store::open(disk, LV).unwrap();
    let runs: usize = found.layers.values().map(|(_, runs)| runs.len()).sum();
    assert_eq!(runs as u64, done);
}

/// Features that a later version of the program gave a pool, each kind in its place.
#[test]
fn unknown_features_are_refused_as_they_ask_for() {
    let with = |at: usize| {
        let disk = Arc::new(FakeDisk::used(SIZE));
        drop(create(&disk).unwrap());
        for copy in 0..2 {
            disk.damage(copy * 4096, |bytes| {
                if bytes[..16] != *b"virtnotify-meta\n" {
                    return;
                }
                let (covered, checksum) = bytes[..4096].split_at_mut(4092);
                covered[at] = 4;
                checksum.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
            });
        }
        disk
    };
    let said = |done: Result<_, MetaError>| done.err().map(|error| error.to_string());
    let open = |at| said(Store::open(with(at), LV).map(drop));
    let read = |at| said(Store::open_copy(with(at), LV).map(drop));
    assert_eq!((open(96), read(96)), (None, None));
    assert_eq!(read(104), None);
    assert!(open(104).unwrap().contains("the features 0x4, with which this program may only read"));
    assert!(open(112).unwrap().contains("the features 0x4, which this program does not know"));
    assert!(read(112).unwrap().contains("the features 0x4, which this program does not know"));
}

/// The tables may be a whole journal behind, or in the middle of it; nothing that was durable is lost.
#[test]
fn more_growths_than_the_journal_has_room_for_are_all_there() {
    let disk = Arc::new(FakeDisk::used(SIZE));
    let (store, _) = create(&disk).unwrap();
    store.commit(&volumes()).unwrap();
    let count = 3 * SLOTS + 17;
    let mut store = Some(store);
    for n in 0..count {
        let open = store.get_or_insert_with(|| Store::open(disk.clone(), LV).unwrap().0);
        open.commit(&growth(n)).unwrap();
        // A process that is cut off does not tidy up.
        if n % 101 == 100 {
            std::mem::forget(store.take());
        }
    }
    let memory = store.unwrap().reader().contents().unwrap();
    let (_, found) = Store::open(disk, LV).unwrap();
    assert_eq!(memory, found);
    let runs: usize = found.layers.values().map(|(_, runs)| runs.len()).sum();
    assert_eq!(runs as u64, count);
}

/// A change that is longer than a record comes after what the journal has, and before what follows.
#[test]
fn a_long_change_takes_its_turn() {
    let disk = Arc::new(FakeDisk::used(SIZE));
    let (store, _) = create(&disk).unwrap();
    store.commit(&volumes()).unwrap();
    let run = |at, chunk| {
        let start = Place { lv: 0, chunk };
        Change::Run { layer: 1, at, to: Some(Extent { start, length: 1 }) }
    };
    let many = |from: u64| (0..2_000).map(move |n| run(n * 2, from + n * 2)).collect::<Vec<_>>();
    store.commit(&[run(2, 50_000), run(9_000, 50_002)]).unwrap();
    store.commit(&many(0)).unwrap();
    store.commit(&[run(4, 60_000), Change::Run { layer: 1, at: 6, to: None }]).unwrap();
    let memory = store.reader().contents().unwrap();
    std::mem::forget(store);
    let (_, found) = Store::open(disk, LV).unwrap();
    assert_eq!(memory, found);
    let runs = &found.layers[&1].1;
    assert_eq!(runs.len(), 2_000);
    let chunk = |at| runs.iter().find(|run| run.at == at).map(|run| run.to.start.chunk);
    assert_eq!(
        [chunk(2), chunk(4), chunk(6), chunk(9_000)],
        [Some(2), Some(60_000), None, Some(50_002)]
    );
}

/// Every kind of change, from the journal and from the tables: both say the same.
#[test]
fn the_journal_and_the_tables_change_alike() {
    let disk = Arc::new(FakeDisk::used(SIZE));
    let (store, _) = create(&disk).unwrap();
    let from = Extent { start: Place { lv: 0, chunk: 77 }, length: 3 };
    let other = Extent { start: Place { lv: 0, chunk: 99 }, length: 1 };
    let run = |layer, at, to| Change::Run { layer, at, to };
    store.commit(&volumes()).unwrap();
    let steps = [
        vec![run(1, 5, Some(from)), run(2, 9, Some(Run::hole(9, 4).to)), run(2, 20, Some(other))],
        vec![Change::Vacated(Vacated { from, layer: 1, at: 5 }), run(1, 5, Some(other))],
        vec![Change::DropVolume { id: 2 }, Change::DropLayer { id: 2 }],
        vec![Change::Layer { id: 3, row: LayerRow { parent: Some(1), generation: 7, since: 4 } }],
        vec![Change::Clean { start: from.start, length: Some(2) }, run(1, 5, None)],
        vec![Change::DropVacated { from: from.start }, volume(4)],
        vec![Change::Clean { start: from.start, length: None }],
    ];
    for step in steps {
        store.commit(&step).unwrap();
        let journal = store.reader().contents().unwrap();
        store.reader().checkpoint().unwrap();
        assert_eq!(store.reader().contents().unwrap(), journal, "after {step:?}");
    }
}

/// A record that is gone, while later ones are there, is damage: a growth is never just forgotten.
#[test]
fn a_record_that_is_missing_is_told() {
    let disk = Arc::new(FakeDisk::used(SIZE));
    let (store, _) = create(&disk).unwrap();
    store.commit(&volumes()).unwrap();
    (0..5).for_each(|n| store.commit(&growth(n)).unwrap());
    std::mem::forget(store);
    let third = usize::try_from(JOURNAL_START).unwrap() + 3 * 4096;
    disk.damage(third, |bytes| bytes[100] ^= 1);
    let sentence = Store::open(disk, LV).unwrap_err().to_string();
    assert!(sentence.contains("the journal has the record 4 and not 3"), "{sentence}");
}

/// What failed once is refused from then on, by the journal and by the tables.
#[test]
fn a_store_that_failed_writes_nothing_more() {
    for fails_in_the_tables in [false, true] {
        let disk = Arc::new(FakeDisk::used(SIZE));
        let (store, _) = create(&disk).unwrap();
        store.commit(&volumes()).unwrap();
        store.commit(&growth(0)).unwrap();
        disk.fail_after(0);
        let failed = match fails_in_the_tables {
            true => store.reader().checkpoint(),
            false => store.commit(&growth(1)),
        };
        assert!(failed.is_err());
        disk.heal();
        let writes = disk.operations();
        assert!(store.commit(&growth(2)).is_err() && store.reader().checkpoint().is_err());
        drop(store);
        assert_eq!(disk.operations(), writes);
        let (_, found) = Store::open(disk, LV).unwrap();
        assert!(same(&found, &history(1)[2]), "{found:?}");
    }
}

/// A restore or a new pool on extents that had a journal: its records are no changes of this one.
#[test]
fn a_new_pool_has_no_records_of_an_old_one() {
    let disk = Arc::new(FakeDisk::used(SIZE));
    let (store, _) = create(&disk).unwrap();
    store.commit(&volumes()).unwrap();
    (0..5).for_each(|n| store.commit(&growth(n)).unwrap());
    drop(store);
    let (store, empty) = create(&disk).unwrap();
    assert!(empty.volumes.is_empty());
    drop(store);
    assert_eq!(Store::open(disk, LV).unwrap().1, empty);
}

/// A record that cannot be read where the last one may be is told of; elsewhere it is one that the tables have.
#[test]
fn a_journal_whose_last_record_cannot_be_read_is_refused() {
    for (records, slot, fine) in [(3, 4, false), (3, 3, false), (3, 2, false), (3, 6, true)] {
        let disk = Arc::new(FakeDisk::used(SIZE));
        let (store, _) = create(&disk).unwrap();
        store.commit(&volumes()).unwrap();
        for n in 1..records {
            store.commit(&growth(n)).unwrap();
        }
        let before = store.reader().contents().unwrap();
        std::mem::forget(store);
        disk.become_unreadable_at(JOURNAL_START + slot * 4096);
        match Store::open(disk.clone(), LV) {
            Ok((store, found)) => {
                assert!(fine && found == before, "slot {slot}");
                // The slot is used again, and can be read then.
                (records..records + SLOTS).for_each(|n| store.commit(&growth(n)).unwrap());
                let before = store.reader().contents().unwrap();
                drop(store);
                assert_eq!(disk.unreadable(), 0);
                assert_eq!(Store::open(disk, LV).unwrap().1, before);
            }
            Err(error) => assert!(!fine, "slot {slot}: {error}"),
        }
    }
}
