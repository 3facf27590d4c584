// SPDX-License-Identifier: LGPL-2.1-or-later
//! ext4 and XFS on volumes, mounted and written to: files come and go, and are read, also after
//! another mount.

use std::collections::VecDeque;
use std::fs::{File, create_dir};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use fastrand::Rng;

use crate::run::{self, Ground, MEMORY, all_at_once, check_still, or_give_up};
use crate::store::output;
use crate::volume::{Shape, Volume};
use crate::{Plan, chance};

const CHUNK_SECTORS: u64 = 128;
/// Chunks of a volume: XFS asks for 300 MiB.
const CHUNKS: u64 = 5120;
/// Chunks of each of the two data devices: what is written, twice more in snapshots.
const PLACES: u64 = 6144;
/// No write of a file system may fail.
const HOLD: u64 = 600;
/// Files that are kept at a time, and the bytes of the longest.
const FILES: usize = 16;
const LONGEST: usize = 3 << 20;

/// A kind of file system: how it is made, and how it is checked.
struct Kind {
    name: &'static str,
    make: &'static [&'static str],
    check: &'static [&'static str],
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "ext4",
        make: &["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1"],
        check: &["e2fsck", "-fn"],
    },
    Kind { name: "xfs", make: &["mkfs.xfs", "-q", "-f", "-K"], check: &["xfs_repair", "-n"] },
];

/// The part.
pub fn run(plan: Plan) -> Result<()> {
    let ground = Ground::make(usize::try_from(CHUNK_SECTORS * 512)?, PLACES, None)?;
    let mut volumes = Vec::new();
    for kind in &KINDS {
        let name = format!("stress-{}", kind.name);
        let shape =
            Shape { name, chunk_sectors: CHUNK_SECTORS, chunks: CHUNKS, hold_timeout: HOLD };
        let rng = chance(plan.seed, &format!("places {}", kind.name));
        volumes.push(Volume::make(
            shape,
            None,
            &ground.mapper,
            &ground.store,
            &ground.notifier,
            rng,
        )?);
    }
    let bell = all_at_once(plan, &ground, &volumes, |end| {
        std::thread::scope(|scope| {
            for (kind, volume) in KINDS.iter().zip(&volumes) {
                scope.spawn(move || or_give_up(plan.seed, || load(plan.seed, kind, volume, end)));
            }
        });
        Ok(())
    })?;
    let mut left = Vec::new();
    for volume in &volumes {
        volume.drop_snapshots(&mut volume.map())?;
        println!("{}: {:?}", volume.shape.name, check_still(volume)?);
        left.push((volume.shape.name.clone(), volume.map().mapped.len()));
    }
    check_log(&output("dmesg", &[])?)?;
    drop(volumes);
    run::clear(ground, bell, &left, usize::try_from(2 * PLACES)?)
}

/// A file system's life.
fn load(seed: u64, kind: &Kind, volume: &Volume<'_>, end: Instant) -> Result<()> {
    let node = volume.node.display().to_string();
    let place = Path::new(MEMORY).join(kind.name);
    create_dir(&place)?;
    output(kind.make[0], &[&kind.make[1..], &[&node]].concat())?;
    let mounted = place.display().to_string();
    let mount = || output("mount", &["-t", kind.name, "-o", "discard", &node, &mounted]);
    mount()?;
    let mut files = Files { place: place.clone(), kept: VecDeque::new(), count: 0 };
    let mut rng = chance(seed, &format!("files {}", kind.name));
    while Instant::now() < end {
        files.turn(&mut rng)?;
    }
    output("umount", &[&mounted])?;
    mount()?;
    files.check_all()?;
    println!("{}: {} files came, {} are there", kind.name, files.count, files.kept.len());
    output("umount", &[&mounted])?;
    output(kind.check[0], &[&kind.check[1..], &[&node]].concat())?;
    Ok(())
}

/// Files that come and go, and what each of them holds: a seed and a length.
struct Files {
    place: PathBuf,
    kept: VecDeque<(u64, usize)>,
    count: u64,
}

impl Files {
    /// A file comes, the oldest goes, and one of the others is read.
    fn turn(&mut self, rng: &mut Rng) -> Result<()> {
        self.count += 1;
        let file = (self.count, rng.usize(1..LONGEST));
        let (synced, other) = (rng.bool(), rng.usize(0..FILES));
        let mut open = File::create(self.path(file.0))?;
        open.write_all(&content(file))?;
        if synced {
            open.sync_all()?;
        }
        self.kept.push_back(file);
        if self.kept.len() > FILES
            && let Some((oldest, _)) = self.kept.pop_front()
        {
            std::fs::remove_file(self.path(oldest))?;
        }
        self.kept.get(other).map_or(Ok(()), |&file| self.check(file))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.place.join(format!("file{number}"))
    }

    fn check(&self, file: (u64, usize)) -> Result<()> {
        let mut found = Vec::new();
        File::open(self.path(file.0))?.read_to_end(&mut found)?;
        let wanted = content(file);
        if found != wanted {
            let at = found.iter().zip(&wanted).position(|(a, b)| a != b);
            bail!("{}: {} bytes, differs at {at:?}", self.path(file.0).display(), found.len());
        }
        Ok(())
    }

    fn check_all(&self) -> Result<()> {
        self.kept.iter().try_for_each(|&file| self.check(file))
    }
}

fn content((number, length): (u64, usize)) -> Vec<u8> {
    let mut content = vec![0; length];
    Rng::with_seed(number).fill(&mut content);
    content
}

/// No file system met an error.
fn check_log(log: &str) -> Result<()> {
    const WORDS: [&str; 6] = [
        "I/O error",
        "EXT4-fs error",
        "EXT4-fs warning",
        "Aborting journal",
        "Corruption",
        "Shutting down",
    ];
    let bad: Vec<&str> =
        log.lines().filter(|line| WORDS.iter().any(|word| line.contains(word))).collect();
    ensure!(bad.is_empty(), "a file system met an error:\n{}", bad.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_file_system_is_seen() {
        for line in [
            "[   12.5] Buffer I/O error on dev dm-1, logical block 3, lost async page write",
            "[   12.5] EXT4-fs error (device dm-1): ext4_journal_check_start:83: comm fio",
            "[   12.5] XFS (dm-1): Metadata I/O error in \"xfs_buf_ioend\" at daddr 0x1",
            "[   12.5] XFS (dm-1): Corruption of in-memory data detected.  Shutting down filesystem",
        ] {
            assert!(check_log(&format!("fine\n{line}\n")).is_err(), "{line}");
        }
        check_log(
            "[ 1.0] EXT4-fs (dm-1): mounted filesystem\n[ 1.0] XFS (dm-2): Ending clean mount\n",
        )
        .unwrap();
    }
}
