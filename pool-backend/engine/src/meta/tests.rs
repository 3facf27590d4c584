// SPDX-License-Identifier: LGPL-2.1-or-later
//! The metadata on a disk that loses power, and on one that lies.

use std::sync::Arc;

use proptest::prelude::*;
use virtnotify_model::{Bytes, ChunkSize, VolumeKind};

use super::*;
use crate::alloc::{Extent, LayerRow, Place};
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
    let pool = empty.pool;
    let mut states = vec![empty];
    let mut commit = |store: &Store, changes: &[Change]| {
        store.commit(changes).unwrap();
        states.push(store.read(pool).unwrap());
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

/// Runs growths until the power goes after so many disk operations; says how many were done.
fn run_until_power_cut(disk: &Arc<FakeDisk>, count: u64) -> usize {
    let Ok((store, _)) = create(disk) else { return 0 };
    let first = store.commit(&volumes());
    if first.is_err() {
        return 1;
    }
    let done = (0..count).take_while(|&n| store.commit(&growth(n)).is_ok()).count();
    // A process that is cut off does not tidy up.
    std::mem::forget(store);
    done + 2
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Damage is the former state or a named error, never another map.
    #[test]
    fn damage_is_named(block in 0usize..64, kind in 0u8..4, other in 0usize..64) {
        let disk = Arc::new(FakeDisk::used(SIZE));
        let (store, _) = create(&disk).unwrap();
        store.commit(&volumes()).unwrap();
        for n in 0..12 {
            store.commit(&growth(n)).unwrap();
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
    let count = 12;
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
    disk.resize(100 << 10);
    let sentence = Store::open(disk, LV).unwrap_err().to_string();
    assert!(sentence.contains("has room for"), "{sentence}");
    let sentence = Store::open(Arc::new(FakeDisk::used(SIZE)), LV).unwrap_err().to_string();
    assert!(sentence.contains("neither copy"), "{sentence}");
}

#[test]
fn a_full_metadata_volume_refuses_the_growth_and_keeps_the_rest() {
    let disk = Arc::new(FakeDisk::used(300 << 10));
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
