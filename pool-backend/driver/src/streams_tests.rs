// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tests of the streams, over files in the place of devices.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;

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
    Box::new(Writer::open(device, offset, length, Box::new(|| ())).unwrap())
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
    let mut writer = Box::new(Writer::open(device.path(), 100, 0, done).unwrap());
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
