// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tests of the streams, over files in the place of devices.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tempfile::NamedTempFile;
use uuid::Uuid;
use virtnotify_model::{Backend, Bytes, VolumeSpec};

use super::*;
use crate::fake::FakeBackend;

const MIB: usize = 1 << 20;

fn device(content: &[u8]) -> NamedTempFile {
    let device = NamedTempFile::new().unwrap();
    std::fs::write(device.path(), content).unwrap();
    device
}

fn hole(length: i64) -> StreamHole {
    StreamHole { length, flags: 0 }
}

fn read(device: &Path, offset: u64, length: u64, sparse: bool, max: usize) -> (Vec<u8>, u64) {
    let mut reader = Reader::open(device, offset, length, sparse).unwrap();
    let (mut data, mut holes) = (Vec::new(), 0);
    loop {
        match reader.next(max).unwrap() {
            DownloadChunk::Data(part) => {
                assert!((1..=max).contains(&part.len()));
                data.extend(part);
            }
            DownloadChunk::Hole(length) => {
                data.resize(data.len() + usize::try_from(length).unwrap(), 0);
                holes += length;
            }
            DownloadChunk::End => return (data, holes),
        }
    }
}

fn writer(device: &Path, offset: u64, length: u64) -> Box<Writer> {
    Box::new(Writer::open(device, offset, length, ground(), Box::new(|| ())).unwrap())
}

/// That of a volume of 64 MiB in a pool with room for 8 of it.
fn ground() -> Ground {
    let backend = FakeBackend::new().with_group(&"vg0".parse().unwrap(), Bytes::mib(8));
    let definition = "<pool type='notify'><name>vms</name><source><name>vg0</name></source></pool>";
    let definition = crate::xml::PoolDefinition::parse(definition, false).unwrap();
    backend.start_pool(&definition.spec()).unwrap();
    let (name, capacity) = ("disk".parse().unwrap(), Bytes::mib(64));
    let spec =
        VolumeSpec { name, capacity, allocation: Bytes::ZERO, uuid: Uuid::new_v4(), backing: None };
    let volume = backend.create_volume(&definition.name, &spec).unwrap();
    Ground::of(Arc::new(backend), &volume).unwrap()
}

#[test]
fn what_finds_no_room_is_refused_before_it_is_written() {
    let device = device(&vec![0; 64 * MIB]);
    let mut writer = writer(device.path(), 0, 0);
    writer.write(&vec![0; 20 * MIB]).unwrap();
    writer.write(&vec![1; 4 * MIB]).unwrap();
    writer.write(&vec![0; 8 * MIB]).unwrap();
    // Half in a chunk that is there, half in the last one that can be had.
    writer.write(&vec![1; 2 * MIB]).unwrap();
    let refused = writer.write(&vec![1; 6 * MIB]).unwrap_err();
    assert!(refused.is(ErrorCode::OPERATION_FAILED), "{refused}");
    writer.finish().unwrap();
    let content = std::fs::read(device.path()).unwrap();
    let data = |from: usize, to: usize| content[from * MIB..to * MIB].iter().all(|b| *b == 1);
    assert!(data(20, 24) && data(32, 34) && is_zero(&content[34 * MIB..]));
}

#[test]
fn a_part_is_read_as_asked() {
    let device = device(b"0123456789");
    let part = |offset, length| read(device.path(), offset, length, false, 3).0;
    assert_eq!(part(0, 0), b"0123456789");
    assert_eq!(part(4, 3), b"456");
    assert_eq!(part(8, 100), b"89");
    assert_eq!(part(10, 0), b"");
    assert_eq!(part(99, 1), b"");
    assert_eq!(part(u64::MAX, u64::MAX), b"");
}

#[test]
fn zeroes_cross_as_holes_only_if_asked() {
    let mut content = vec![0; 4 * MIB];
    content[2 * MIB] = 1;
    let device = device(&content);
    let (data, holes) = read(device.path(), 0, 0, true, 65536);
    assert!(data == content);
    assert_eq!(holes, 4 * (MIB as u64) - 65536);
    assert_eq!(read(device.path(), 0, 0, false, 65536), (content, 0));
}

#[test]
fn holes_land_as_holes() {
    let device = device(&vec![7; 4 * MIB]);
    let told = Arc::new(AtomicBool::new(false));
    let done = told.clone();
    let done = Box::new(move || done.store(true, Ordering::Relaxed));
    let mut writer = Box::new(Writer::open(device.path(), 100, 0, ground(), done).unwrap());
    writer.write(b"abc").unwrap();
    writer.hole(&hole(3 * 1024 * 1024)).unwrap();
    writer.write(b"def").unwrap();
    assert!(!told.load(Ordering::Relaxed));
    writer.finish().unwrap();
    assert!(told.load(Ordering::Relaxed));
    let mut expected = vec![7; 4 * MIB];
    expected[100..103].copy_from_slice(b"abc");
    expected[103..103 + 3 * MIB].fill(0);
    expected[103 + 3 * MIB..106 + 3 * MIB].copy_from_slice(b"def");
    assert!(std::fs::read(device.path()).unwrap() == expected);
    let stored = std::fs::metadata(device.path()).unwrap().blocks() * 512;
    assert!(stored < 2 * MIB as u64, "{stored} bytes are stored");
}

#[test]
fn nothing_is_written_beyond_the_end() {
    let device = device(&[1; 8192]);
    assert!(writer(device.path(), 8190, 0).write(b"abc").is_err());
    assert!(writer(device.path(), 0, 2).write(b"abc").is_err());
    assert!(writer(device.path(), u64::MAX, 0).write(b"a").is_err());
    assert!(writer(device.path(), 1, 0).hole(&hole(8192)).is_err());
    assert!(writer(device.path(), 0, 0).hole(&hole(i64::MAX)).is_err());
    assert!(writer(device.path(), 0, 0).hole(&hole(-1)).is_err());
    assert!(writer(device.path(), 0, 0).hole(&StreamHole { length: 1, flags: 1 }).is_err());
    assert_eq!(std::fs::read(device.path()).unwrap(), [1; 8192]);
    let mut exact = writer(device.path(), 8190, 2);
    exact.write(b"ab").unwrap();
    exact.write(b"").unwrap();
    exact.hole(&hole(0)).unwrap();
    exact.finish().unwrap();
}

#[test]
fn a_missing_device_is_said() {
    let error = Reader::open(Path::new("/nowhere/x"), 0, 0, false).unwrap_err();
    assert!(error.to_string().starts_with("cannot open '/nowhere/x': "), "{error}");
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(
        offset in 0u64..9000,
        parts in prop::collection::vec((any::<bool>(), 0usize..9000), 0..6),
        max in 1usize..9000,
    ) {
        let device = device(&vec![9; 80_000]);
        let mut writer = writer(device.path(), offset, 0);
        let mut expected = Vec::new();
        for (is_hole, length) in &parts {
            if *is_hole {
                writer.hole(&hole(i64::try_from(*length).unwrap())).unwrap();
            } else {
                writer.write(&vec![3; *length]).unwrap();
            }
            expected.resize(expected.len() + length, if *is_hole { 0 } else { 3 });
        }
        writer.finish().unwrap();
        let whole = std::fs::read(device.path()).unwrap();
        prop_assert_eq!(whole.len(), 80_000);
        let length = expected.len() as u64;
        if length > 0 {
            prop_assert_eq!(&read(device.path(), offset, length, true, max).0, &expected);
            prop_assert_eq!(&read(device.path(), offset, length, false, max).0, &expected);
        }
        let rest = whole.len() - usize::try_from(offset).unwrap() - expected.len();
        prop_assert!(whole[whole.len() - rest..].iter().all(|byte| *byte == 9));
        prop_assert!(whole[..usize::try_from(offset).unwrap()].iter().all(|byte| *byte == 9));
    }
}
