// SPDX-License-Identifier: LGPL-2.1-or-later
//! One pass of a wipe over a part of a device.
//!
//! Written is what the pass says, all of it, past every cache of the host (the engine's devices
//! are unbuffered). What a disk itself keeps elsewhere, no program can reach.

use std::fs::File;
use std::io::{self, Read};

use virtnotify_model::WipePass;

use crate::device::BlockDevice;

/// How much is written or read at once.
const PART: usize = 1 << 20;

/// Does one pass over `length` bytes; `before` is the pass that a verification looks for.
pub(crate) fn pass(
    device: &dyn BlockDevice,
    start: u64,
    length: u64,
    pass: WipePass,
    before: Option<&WipePass>,
) -> io::Result<()> {
    match pass {
        WipePass::Pattern([0, 0, 0]) => device.zero(start, length),
        WipePass::Pattern(pattern) => {
            each(start, length, |at, part| device.write_at(at, repeated(pattern, at, part)))
        }
        WipePass::Random => {
            let mut random = File::open("/dev/urandom")?;
            each(start, length, |at, part| {
                random.read_exact(part)?;
                device.write_at(at, part)
            })
        }
        WipePass::Verify => match before {
            Some(WipePass::Pattern(pattern)) => verify(device, start, length, *pattern),
            _ => Ok(()),
        },
    }
}

fn verify(device: &dyn BlockDevice, start: u64, length: u64, pattern: [u8; 3]) -> io::Result<()> {
    let mut expected = vec![0; PART];
    each(start, length, |at, part| {
        device.read_at(at, part)?;
        let expected = &mut expected[..part.len()];
        if repeated(pattern, at, expected) == part {
            return Ok(());
        }
        Err(io::Error::other(format!("what was written at byte {at} is not what is there")))
    })
}

/// Goes over a range in parts, each with a buffer of its length.
fn each(
    start: u64,
    length: u64,
    mut act: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; PART];
    let end = start.saturating_add(length);
    let mut at = start;
    while at < end {
        let now = usize::try_from(end - at).unwrap_or(PART).min(PART);
        act(at, &mut buffer[..now])?;
        at += now as u64;
    }
    Ok(())
}

/// Fills a buffer with a pattern that goes through the whole device without a seam.
fn repeated(pattern: [u8; 3], at: u64, out: &mut [u8]) -> &[u8] {
    let shift = usize::try_from(at % 3).unwrap_or(0);
    for (byte, value) in out.iter_mut().zip(pattern.iter().cycle().skip(shift)) {
        *byte = *value;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeDisk;

    const LENGTH: u64 = 3 << 20;

    fn content(disk: &FakeDisk) -> Vec<u8> {
        let mut all = vec![0; 4 << 20];
        disk.read_at(0, &mut all).unwrap();
        all
    }

    #[test]
    fn a_pass_writes_its_part_and_nothing_else() {
        let disk = FakeDisk::used(4 << 20);
        let before = content(&disk);
        pass(&disk, 4096, LENGTH, WipePass::Pattern([1, 2, 3]), None).unwrap();
        let after = content(&disk);
        let end = 4096 + usize::try_from(LENGTH).unwrap();
        assert_eq!((&after[..4096], &after[end..]), (&before[..4096], &before[end..]));
        let wanted = |(at, byte): (usize, &u8)| *byte == [1, 2, 3][(at + 4096) % 3];
        assert!(after[4096..end].iter().enumerate().all(wanted));
        let written = WipePass::Pattern([1, 2, 3]);
        pass(&disk, 4096, LENGTH, WipePass::Verify, Some(&written)).unwrap();
        let other = WipePass::Pattern([1, 2, 4]);
        assert!(pass(&disk, 4096, LENGTH, WipePass::Verify, Some(&other)).is_err());
    }

    #[test]
    fn random_is_not_twice_the_same() {
        let disk = FakeDisk::used(4 << 20);
        pass(&disk, 0, LENGTH, WipePass::Random, None).unwrap();
        let first = content(&disk);
        pass(&disk, 0, LENGTH, WipePass::Random, None).unwrap();
        assert_ne!(first, content(&disk));
    }
}
