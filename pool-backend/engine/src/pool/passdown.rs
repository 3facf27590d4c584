// SPDX-License-Identifier: LGPL-2.1-or-later
//! What goes back to the volume group is discarded on its disks first, if the policy says so: a disk or an
//! array then knows that it is not needed.
//!
//! It is done in slices, and between two of them others have the disk for as long as the last one took.
//! A disk that cannot discard loses nothing by that, and neither does one that fails to.

use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use virtnotify_model::Bytes;

use crate::device::BlockDevice;
use crate::runtime::Instant;

/// How much is discarded at once, and before one reduction of a data LV.
const SLICE: Bytes = Bytes::mib(64);
pub(super) const MOST: Bytes = Bytes::mib(4096);

/// Discards a part of a device. `pause` waits for that long, and says whether to go on; `false` if it
/// said that it does not.
pub(super) fn discard(
    device: &dyn BlockDevice,
    part: Range<u64>,
    mut pause: impl FnMut(Duration) -> bool,
) -> bool {
    let (mut at, mut took) = (part.start, Duration::ZERO);
    while at < part.end {
        if !pause(took) {
            return false;
        }
        let (began, length) = (Instant::now(), SLICE.0.min(part.end - at));
        if let Err(error) = device.discard(at, length) {
            let cannot = error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32);
            if !cannot {
                tracing::warn!(%error, "free space goes back without being discarded");
            }
            return true;
        }
        (at, took) = (at + length, began.elapsed());
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    /// Notes what is discarded, and fails after so many calls.
    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<(u64, u64)>>, Option<(usize, Errno)>);

    impl BlockDevice for Noted {
        fn size(&self) -> io::Result<u64> {
            unimplemented!("nobody asks")
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            unimplemented!("nobody reads")
        }
        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            unimplemented!("nobody writes")
        }
        fn zero(&self, _: u64, _: u64) -> io::Result<()> {
            unimplemented!("nobody writes")
        }
        fn sync(&self) -> io::Result<()> {
            unimplemented!("nobody writes")
        }
        fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
            let mut noted = self.0.lock().unwrap();
            noted.push((offset >> 20, length >> 20));
            match self.1 {
                Some((calls, errno)) if noted.len() > calls => Err(errno.into()),
                _ => Ok(()),
            }
        }
    }

    const PART: Range<u64> = 100 << 20..250 << 20;
    const SLICES: [(u64, u64); 3] = [(100, 64), (164, 64), (228, 22)];

    #[test]
    fn it_is_done_in_slices_with_a_pause_before_each() {
        let (disk, mut pauses) = (Noted::default(), 0);
        let pause = |_| {
            assert_eq!(disk.0.lock().unwrap().len(), pauses);
            pauses += 1;
            true
        };
        assert!(discard(&disk, PART, pause));
        assert_eq!((disk.0.into_inner().unwrap(), pauses), (SLICES.to_vec(), 3));
    }

    #[test]
    fn it_ends_before_a_slice_when_others_need_the_disk() {
        for slices in 0..3 {
            let disk = Noted::default();
            assert!(!discard(&disk, PART, |_| disk.0.lock().unwrap().len() < slices));
            assert_eq!(disk.0.into_inner().unwrap(), SLICES[..slices]);
        }
    }

    #[test]
    fn a_disk_that_does_not_discard_is_asked_no_more() {
        for errno in [Errno::EOPNOTSUPP, Errno::EIO] {
            let disk = Noted(Mutex::default(), Some((1, errno)));
            assert!(discard(&disk, PART, |_| true));
            assert_eq!(disk.0.into_inner().unwrap(), SLICES[..2]);
        }
    }
}
