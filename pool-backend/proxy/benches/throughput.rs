// SPDX-License-Identifier: LGPL-2.1-or-later
//! How fast what is not ours goes through us: a volume of 1 GiB in a pool of files, downloaded
//! through the interposer and past it, in turns; the best of each counts, because whatever else
//! the machine does only makes a run slower.
//!
//! It needs libvirt's daemons and a machine at rest: `cargo bench -p virtnotify-proxy`
#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

#[path = "../tests/support/real.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod real;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use real::{Libvirt, each};

const SIZE: u64 = 1 << 30;
const ROUNDS: usize = 5;
/// What is expected of it.
const LEAST: f64 = 0.8;

fn took(download: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    download();
    begin.elapsed()
}

fn measure(libvirt: &Libvirt) -> f64 {
    let files = libvirt.path("files");
    fs::create_dir(&files).unwrap();
    let volume = fs::File::create(files.join("disk")).unwrap();
    let part: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    for at in (0..SIZE).step_by(part.len()) {
        volume.write_all_at(&part, at).unwrap();
    }
    libvirt.virsh(&format!("pool-define-as files dir --target {}", files.display()));
    libvirt.virsh("pool-start files");
    let command = "vol-download --pool files disk /dev/null";
    let (mut through, mut past) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        past = past.min(took(|| assert!(libvirt.directly(command).ok)));
        through = through.min(took(|| drop(libvirt.virsh(command))));
    }
    let ratio = past.as_secs_f64() / through.as_secs_f64();
    println!(
        "{}: 1 GiB directly in {past:.2?}, through us in {through:.2?}: {ratio:.2} of the speed",
        libvirt.name
    );
    ratio
}

fn main() {
    each(|libvirt| {
        let ratio = measure(libvirt);
        assert!(ratio >= LEAST, "{}: {ratio:.2}", libvirt.name);
    });
}
