// SPDX-License-Identifier: LGPL-2.1-or-later
//! The data devices that all volumes share: which of their chunks are free.
//!
//! A chunk that is given up is filled with a pattern, and must still hold it when it is taken again:
//! a write that comes too late is found there, and so is a read by what it finds. A volume gets chunks of
//! zeroes. One of the devices may be slow for the volumes, and not for what is done here: then what was
//! passed down before a message is still on its way when the chunk is given up.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use crate::content::{BLOCK_BYTES, Found, look};
use crate::disk::{Buffer, Disk};
use crate::dm::Mapper;

/// The device mapper's name of the slow device.
const SLOW: &str = "stress-slow";
/// What fills a chunk that was given up.
const GIVEN_UP: u8 = 0xEE;

/// A chunk of a data device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The device's position in the volumes' tables.
    pub device: usize,
    /// The chunk's number there.
    pub chunk: u64,
}

/// The data devices.
pub struct Store {
    chunk_bytes: usize,
    disks: Vec<(PathBuf, Disk)>,
    /// What a table names instead of the second one.
    slow: Option<PathBuf>,
    /// What is free, and the byte that fills it.
    free: Mutex<BTreeMap<Place, u8>>,
}

impl Store {
    /// Makes two loop devices of so many chunks each. For the volumes the second one is slow by so many
    /// milliseconds, if that is asked for.
    pub fn make(
        mapper: &Mapper,
        directory: &Path,
        chunk_bytes: usize,
        chunks: u64,
        slow: Option<u64>,
    ) -> Result<Self> {
        let (mut disks, mut free) = (Vec::new(), BTreeMap::new());
        for device in 0..2 {
            let file = directory.join(format!("data{device}"));
            std::fs::File::create(&file)?.set_len(chunks * chunk_bytes as u64)?;
            let path =
                PathBuf::from(output("losetup", &["-f", "--show", &file.display().to_string()])?);
            let disk = Disk::open(&path).with_context(|| format!("{}", path.display()))?;
            disks.push((path, disk));
            free.extend((0..chunks).map(|chunk| (Place { device, chunk }, 0)));
        }
        let slow = slow.map(|ms| -> Result<PathBuf> {
            let sectors = chunks * chunk_bytes as u64 / 512;
            let node = mapper.create(SLOW)?;
            let line = format!("{} 0 {ms}", disks[1].0.display());
            mapper.load(SLOW, sectors, "delay", &line)?;
            mapper.resume(SLOW)?;
            Ok(node)
        });
        Ok(Self { chunk_bytes, disks, slow: slow.transpose()?, free: Mutex::new(free) })
    }

    /// The devices, as a table names them.
    pub fn devices(&self) -> String {
        let named = [Some(&self.disks[0].0), self.slow.as_ref().or(Some(&self.disks[1].0))];
        let paths: Vec<String> =
            named.iter().flatten().map(|path| path.display().to_string()).collect();
        format!("{} {}", paths.len(), paths.join(" "))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, u8>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free chunk, of zeroes now.
    pub fn take(&self, rng: &mut Rng) -> Result<Place> {
        let place = self.pick(rng)?;
        self.fill(place, 0)?;
        Ok(place)
    }

    /// A free chunk with what another one holds.
    pub fn copy(&self, source: Place, rng: &mut Rng) -> Result<Place> {
        let place = self.pick(rng)?;
        let mut buffer = Buffer::new(self.chunk_bytes);
        self.read(source, &mut buffer)?;
        self.disk(place)?.write(self.offset(place), &buffer)?;
        Ok(place)
    }

    fn pick(&self, rng: &mut Rng) -> Result<Place> {
        let (place, byte) = {
            let mut free = self.lock();
            let start = Place { device: rng.usize(0..2), chunk: rng.u64(0..1 << 20) };
            let next = free.range(start..).next().or_else(|| free.first_key_value());
            let (&place, &byte) = next.context("no chunk is free")?;
            free.remove(&place);
            (place, byte)
        };
        self.check(place, byte)?;
        Ok(place)
    }

    /// A chunk is free again, and nothing may be written to it any more.
    pub fn give(&self, place: Place) -> Result<()> {
        self.fill(place, GIVEN_UP)?;
        ensure!(self.lock().insert(place, GIVEN_UP).is_none(), "{place:?} was free already");
        Ok(())
    }

    /// All free chunks hold what they were filled with.
    pub fn check_free(&self) -> Result<()> {
        let free = self.lock().clone();
        free.into_iter().try_for_each(|(place, byte)| self.check(place, byte))
    }

    /// A sum of what a chunk holds.
    pub fn sum(&self, place: Place) -> Result<u64> {
        let mut buffer = Buffer::new(self.chunk_bytes);
        self.read(place, &mut buffer)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(buffer.bytes());
        Ok(hasher.finish())
    }

    /// How many are free.
    pub fn count_free(&self) -> usize {
        self.lock().len()
    }

    fn check(&self, place: Place, byte: u8) -> Result<()> {
        let mut buffer = Buffer::new(self.chunk_bytes);
        self.read(place, &mut buffer)?;
        if let Some(at) = buffer.bytes().iter().position(|&found| found != byte) {
            let found = &buffer.bytes()[at / 16 * 16..][..16];
            bail!("{place:?} was free, and was written to: {found:x?} at {at}, not {byte:#x}");
        }
        Ok(())
    }

    /// What the sectors of a chunk's blocks hold, which is that chunk of that volume.
    pub fn look(&self, place: Place, volume: u64, chunk: u64) -> Result<Vec<Vec<Found>>> {
        let mut buffer = Buffer::new(self.chunk_bytes);
        self.read(place, &mut buffer)?;
        let first = chunk * (self.chunk_bytes / BLOCK_BYTES) as u64;
        let blocks = (first..).zip(buffer.bytes().chunks_exact(BLOCK_BYTES));
        Ok(blocks.map(|(block, bytes)| look(bytes, volume, block).collect()).collect())
    }

    fn fill(&self, place: Place, byte: u8) -> Result<()> {
        let mut buffer = Buffer::new(self.chunk_bytes);
        buffer.bytes_mut().fill(byte);
        Ok(self.disk(place)?.write(self.offset(place), &buffer)?)
    }

    fn read(&self, place: Place, buffer: &mut Buffer) -> Result<()> {
        Ok(self.disk(place)?.read(self.offset(place), buffer)?)
    }

    fn disk(&self, place: Place) -> Result<&Disk> {
        Ok(&self.disks.get(place.device).context("there is no such device")?.1)
    }

    fn offset(&self, place: Place) -> u64 {
        place.chunk * self.chunk_bytes as u64
    }

    /// Gives the devices back.
    pub fn remove(self, mapper: &Mapper) -> Result<()> {
        if self.slow.is_some() {
            mapper.remove(SLOW)?;
        }
        for (path, disk) in self.disks {
            drop(disk);
            output("losetup", &["-d", &path.display().to_string()])?;
        }
        Ok(())
    }
}

/// What a program prints; it must end well.
pub fn output(program: &str, args: &[&str]) -> Result<String> {
    let done = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {args:?} ended with {}: {said} {error}", done.status);
    Ok(said)
}
