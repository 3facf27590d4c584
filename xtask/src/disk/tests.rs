// SPDX-License-Identifier: LGPL-2.1-or-later

use super::*;

const SIZE: usize = 1 << 20;

fn disk() -> (tempfile::NamedTempFile, Disk) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE as u64).unwrap();
    let disk = Disk::open(file.path()).unwrap();
    (file, disk)
}

fn stored(file: &tempfile::NamedTempFile, offset: usize, length: usize) -> Vec<u8> {
    std::fs::read(file.path()).unwrap()[offset..offset + length].to_vec()
}

fn seen(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; length];
    disk.read(offset, &mut buffer).unwrap();
    buffer
}

#[test]
fn the_host_reads_what_it_wrote_last_flushed_or_not() {
    let (_file, mut disk) = disk();
    disk.write(0, vec![1; 8192]).unwrap();
    disk.flush().unwrap();
    disk.write(4096, vec![2; 4096]).unwrap();
    disk.write(5120, vec![3; 512]).unwrap();
    disk.zero(6144, 512).unwrap();
    let mut expected = vec![1; 4096];
    expected.extend([[2; 512], [2; 512], [3; 512], [2; 512], [0; 512]].concat());
    expected.extend([2; 1536]);
    assert_eq!(seen(&disk, 0, 8192), expected);
    assert_eq!(seen(&disk, 5632, 1024), [[2; 512], [0; 512]].concat());
    disk.flush().unwrap();
    assert_eq!(seen(&disk, 0, 8192), expected);
}

#[test]
fn what_was_not_flushed_is_not_on_the_disk() {
    let (file, mut disk) = disk();
    disk.write(0, vec![1; 4096]).unwrap();
    assert_eq!(stored(&file, 0, 4096), [0; 4096]);
    disk.flush().unwrap();
    assert_eq!(stored(&file, 0, 4096), [1; 4096]);
}

#[test]
fn a_cut_loses_writes_and_never_what_was_flushed() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (file, mut disk) = disk();
        disk.write(0, vec![1; 4096]).unwrap();
        disk.write(8192, vec![1; 4096]).unwrap();
        disk.flush().unwrap();
        disk.write(0, vec![2; 4096]).unwrap();
        let cut = disk.cut(&mut fastrand::Rng::with_seed(seed)).unwrap();
        assert_eq!((cut.writes, cut.bytes), (1, 4096));
        assert_eq!(stored(&file, 8192, 4096), [1; 4096], "seed {seed}");
        let sectors = stored(&file, 0, 4096);
        let new = sectors.chunks(SECTOR).filter(|sector| **sector == [2; SECTOR]).count();
        let old = sectors.chunks(SECTOR).filter(|sector| **sector == [1; SECTOR]).count();
        assert_eq!(old + new, 8, "seed {seed}: no sector is of both");
        assert_eq!(cut.dropped == 1, new == 0 && cut.torn == 0, "seed {seed}");
        match new {
            0 => lost += 1,
            8 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 20 && kept > 20 && torn > 20, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn a_seed_repeats_its_cut() {
    let contents = || {
        let (file, mut disk) = disk();
        for at in 0..64_u8 {
            disk.write(u64::from(at) * 4096, vec![at + 1; 4096]).unwrap();
        }
        let cut = disk.cut(&mut fastrand::Rng::with_seed(7)).unwrap();
        (cut, std::fs::read(file.path()).unwrap())
    };
    assert_eq!(contents(), contents());
}

#[test]
fn more_than_the_cache_holds_goes_to_the_disk_oldest_first() {
    let (file, mut disk) = disk();
    for at in 0..=WRITES {
        disk.write(at as u64 % 16 * 4096, vec![u8::try_from(at % 251).unwrap() + 1; 4096]).unwrap();
    }
    assert!(disk.unflushed.len() <= WRITES);
    assert!(stored(&file, 0, 4096) != [0; 4096], "the oldest went to the disk");
    let before = seen(&disk, 0, 16 * 4096);
    disk.flush().unwrap();
    assert!(stored(&file, 0, 16 * 4096) == before);
    assert_eq!(disk.bytes, 0);
}

mod by_nbd {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// As QEMU asks: structured replies first, which are refused, then `GO`.
    fn connect(path: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(path).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        for (option, data, replies) in [(8_u32, &b""[..], 20), (7, &[0; 6], 20 + 12 + 20)] {
            stream.write_all(b"IHAVEOPT").unwrap();
            stream.write_all(&option.to_be_bytes()).unwrap();
            stream.write_all(&u32::try_from(data.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(data).unwrap();
            let mut reply = vec![0; replies];
            stream.read_exact(&mut reply).unwrap();
            if option == 7 {
                let size = u64::from_be_bytes(reply[22..30].try_into().unwrap());
                assert_eq!(size, SIZE as u64);
            }
        }
        stream
    }

    fn ask(stream: &mut UnixStream, kind: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
        stream.write_all(&[0x25, 0x60, 0x95, 0x13, 0, 0]).unwrap();
        stream.write_all(&kind.to_be_bytes()).unwrap();
        stream.write_all(b"a handle").unwrap();
        stream.write_all(&offset.to_be_bytes()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(data).unwrap();
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!((&reply[..4], &reply[8..]), (&[0x67, 0x44, 0x66, 0x98][..], &b"a handle"[..]));
        u32::from_be_bytes(reply[4..8].try_into().unwrap())
    }

    fn attached() -> (tempfile::TempDir, PathBuf, Attached, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(SIZE as u64).unwrap();
        let socket = dir.path().join("socket");
        let attached = Attached::new(&file, socket.clone()).unwrap();
        let stream = connect(&socket);
        (dir, file, attached, stream)
    }

    #[test]
    fn requests_reach_the_disk_and_its_end() {
        let (_dir, file, attached, mut stream) = attached();
        assert_eq!(ask(&mut stream, 1, 4096, 512, &[7; 512]), 0);
        assert_eq!(ask(&mut stream, 0, 4096, 512, &[]), 0);
        let mut data = [0; 512];
        stream.read_exact(&mut data).unwrap();
        assert_eq!(data, [7; 512]);
        assert_eq!(ask(&mut stream, 0, SIZE as u64, 512, &[]), 22, "past the end");
        assert_eq!(ask(&mut stream, 9, 0, 0, &[]), 22, "an unknown request");
        assert_eq!(std::fs::read(&file).unwrap()[4096], 0);
        assert_eq!(ask(&mut stream, 3, 0, 0, &[]), 0);
        assert_eq!(std::fs::read(&file).unwrap()[4096], 7);
        assert_eq!(ask(&mut stream, 4, 4096, 512, &[]), 0);
        drop(stream);
        attached.power_off().unwrap();
        assert_eq!(std::fs::read(&file).unwrap()[4096], 0);
    }

    #[test]
    fn a_cut_comes_after_all_that_was_sent() {
        let (_dir, _file, attached, mut stream) = attached();
        assert_eq!(ask(&mut stream, 1, 0, 512, &[7; 512]), 0);
        // Half of a request is none.
        stream.write_all(&[0x25, 0x60, 0x95, 0x13, 0]).unwrap();
        drop(stream);
        let cut = attached.cut_power(&mut fastrand::Rng::with_seed(1)).unwrap();
        assert_eq!((cut.writes, cut.bytes), (1, 512));
    }

    #[test]
    fn a_disk_whose_qemu_never_came_up_ends_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(SIZE as u64).unwrap();
        Attached::new(&file, dir.path().join("socket")).unwrap().power_off().unwrap();
    }
}

/// A file system of ours, in a mount namespace of this test's thread.
#[test]
#[ignore = "needs root and FUSE"]
fn a_shelf_keeps_what_was_flushed_and_refuses_all_after_a_cut() {
    crate::uml_host::own_mounts().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (image, place) = (dir.path().join("image"), dir.path().join("disks"));
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    std::fs::create_dir(&place).unwrap();
    let shelf = Shelf::mount(&place, &[("pv".to_owned(), image.clone())]).unwrap();
    let disk = File::options().read(true).write(true).open(place.join("pv")).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 1 << 20);
    disk.write_all_at(&[1; 4096], 0).unwrap();
    disk.write_all_at(&[1; 4096], 8192).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&disk, flags, 8192, 4096).unwrap();
    disk.sync_all().unwrap();
    disk.write_all_at(&[2; 4096], 4096).unwrap();
    let mut read = [0; 12288];
    disk.read_exact_at(&mut read, 0).unwrap();
    assert_eq!((read[0], read[4096], read[8192]), (1, 2, 0));
    assert!(disk.write_all_at(&[3], 1 << 20).is_err(), "behind its end");

    let cut = shelf.cut_power(&mut fastrand::Rng::with_seed(3)).unwrap();
    assert_eq!((cut.writes, cut.bytes), (1, 4096));
    assert!(disk.write_all_at(&[4; 512], 0).is_err() && disk.sync_all().is_err());
    drop(disk);
    shelf.power_off().unwrap();
    let kept = std::fs::read(&image).unwrap();
    assert!(kept[..4096].iter().all(|byte| *byte == 1), "what was flushed is there");
    assert!(kept[8192..].iter().all(|byte| *byte == 0));
    assert_eq!(cut.dropped == 1, kept[4096..8192].iter().all(|byte| *byte == 0));
}
