// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume: its device, what user space knows of its map, and the messages that change it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use fastrand::Rng;
use nix::errno::Errno;

use crate::disk::Disk;
use crate::dm::{Answer, Mapper};
use crate::model::Model;
use crate::store::{Place, Store};

/// A message must be taken in the end.
const PATIENCE: Duration = Duration::from_secs(120);
/// So long a refusal that will pass is waited for.
const PAUSE: Duration = Duration::from_millis(2);

/// How a volume is made.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The device's name.
    pub name: String,
    /// Sectors of a chunk.
    pub chunk_sectors: u64,
    /// Chunks that it may have at most.
    pub chunks: u64,
    /// Seconds that a write waits.
    pub hold_timeout: u64,
}

/// A chunk that has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where it is.
    pub place: Place,
    /// Whether writes to it wait.
    pub protected: bool,
}

/// What user space knows of the map. Who holds it sends the messages.
pub struct Map {
    /// Chunks that the live table has.
    pub chunks: u64,
    /// Whether its table says so.
    pub skip_zero_writes: bool,
    /// Chunks and their places.
    pub mapped: BTreeMap<u64, Mapped>,
    /// Counters of devices that were removed.
    pub counters: BTreeMap<String, u64>,
    rng: Rng,
}

impl Map {
    /// The end of the last chunk that has a place.
    pub fn end(&self) -> u64 {
        self.mapped.keys().next_back().map_or(0, |last| last + 1)
    }
}

/// A volume under stress.
pub struct Volume<'a> {
    /// How it is made.
    pub shape: Shape,
    /// What its blocks may hold; none where a file system knows that.
    pub model: Option<Model>,
    /// Its first device.
    pub node: PathBuf,
    /// Its open device, while there is one, for those who need it. Who writes it holds all I/O.
    pub disk: RwLock<Option<Disk>>,
    map: Mutex<Map>,
    mapper: &'a Mapper,
    store: &'a Store,
    /// The notifier's process.
    notifier: &'a Mutex<u32>,
}

impl<'a> Volume<'a> {
    /// Makes the volume, all holes.
    pub fn make(
        shape: Shape,
        model: Option<Model>,
        mapper: &'a Mapper,
        store: &'a Store,
        notifier: &'a Mutex<u32>,
        rng: Rng,
    ) -> Result<Self> {
        let map = Map {
            chunks: shape.chunks,
            skip_zero_writes: true,
            mapped: BTreeMap::new(),
            counters: BTreeMap::new(),
            rng,
        };
        let disk = RwLock::new(None);
        let node = PathBuf::new();
        let mut volume =
            Self { shape, model, node, disk, map: Mutex::new(map), mapper, store, notifier };
        let node = volume.create(&volume.map())?;
        if volume.model.is_some() {
            volume.disk = RwLock::new(Some(Disk::open(&node)?));
        }
        volume.node = node;
        Ok(volume)
    }

    /// The device mapper.
    pub fn mapper(&self) -> &Mapper {
        self.mapper
    }

    /// The map, for as long as it is held.
    pub fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.shape.chunk_sectors * 512
    }

    /// Creates the device, and maps what the map has.
    pub fn create(&self, map: &Map) -> Result<PathBuf> {
        let path = self.patiently("create", || self.mapper.create(&self.shape.name))?;
        self.load(map, map.chunks)?;
        self.patiently("resume", || self.mapper.resume(&self.shape.name))?;
        let runs: Vec<String> =
            map.mapped.iter().map(|(&chunk, mapped)| run(chunk, mapped)).collect();
        for runs in runs.chunks(64) {
            self.tell(&format!("map {}", runs.join(" ")))?;
        }
        self.register()?;
        Ok(path)
    }

    /// Loads a table of so many chunks.
    pub fn load(&self, map: &Map, chunks: u64) -> Result<()> {
        let (sectors, line) = self.line(map, chunks);
        self.patiently("load", || self.mapper.load(&self.shape.name, sectors, &line))
    }

    /// The length and the parameters of a table of so many chunks.
    pub fn line(&self, map: &Map, chunks: u64) -> (u64, String) {
        let Shape { chunk_sectors, hold_timeout, .. } = self.shape;
        let skip = if map.skip_zero_writes { "3 skip_zero_writes" } else { "2" };
        let devices = self.store.devices();
        let line = format!("{chunk_sectors} 0 0 {devices} {skip} hold_timeout {hold_timeout}");
        (chunks * chunk_sectors, line)
    }

    /// Has the notifier that is there be told.
    pub fn register(&self) -> Result<()> {
        let notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&format!("notifier {} {}", *notifier, crate::bell::SIGNAL)).map(drop)
    }

    /// Sends a message that must be taken.
    pub fn tell(&self, message: &str) -> Result<String> {
        self.patiently(message, || self.mapper.message(&self.shape.name, message))
    }

    /// Sends a message that may be refused for that reason; whether it was taken.
    pub fn ask(&self, message: &str, refusal: Errno) -> Result<bool> {
        self.patiently(message, || match self.mapper.message(&self.shape.name, message) {
            Err(errno) if errno == refusal => Ok(false),
            answer => answer.map(|_| true),
        })
    }

    /// Does it until the kernel has memory and a live table for it.
    pub fn patiently<T>(&self, what: &str, mut deed: impl FnMut() -> Answer<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            match deed() {
                Ok(answer) => return Ok(answer),
                Err(Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(PAUSE);
                }
                Err(errno) => bail!("{}: \"{what}\": {errno}", self.shape.name),
            }
        }
    }

    fn note(&self, chunks: Range<u64>, text: &str) {
        if let Some(model) = &self.model {
            model.note(chunks, text);
        }
    }

    // -- what changes the map; the caller holds it --

    /// Maps holes of a range, which are watched from the second on, or all of them.
    pub fn grow(&self, map: &mut Map, chunks: Range<u64>, watch_first: bool) -> Result<()> {
        let end = chunks.end.min(map.chunks);
        let mut runs = Vec::new();
        let mut new = Vec::new();
        for chunk in chunks.start..end {
            if map.mapped.contains_key(&chunk) {
                continue;
            }
            let mapped = Mapped { place: self.store.take(&mut map.rng)?, protected: false };
            let watched = watch_first || chunk != chunks.start;
            runs.push(run(chunk, &mapped) + if watched { ":w" } else { "" });
            new.push((chunk, mapped));
        }
        if runs.is_empty() {
            return Ok(());
        }
        self.note(chunks, &format!("map {}", runs.join(" ")));
        self.tell(&format!("map {}", runs.join(" ")))?;
        map.mapped.extend(new);
        Ok(())
    }

    /// Sends again what was mapped: nothing changes.
    pub fn map_again(&self, map: &Map, chunks: Range<u64>) -> Result<()> {
        let runs: Vec<String> =
            map.mapped.range(chunks.clone()).map(|(&chunk, mapped)| run(chunk, mapped)).collect();
        if !runs.is_empty() {
            self.note(chunks, "map again");
            self.tell(&format!("map {}", runs.join(" ")))?;
        }
        Ok(())
    }

    /// A chunk that has a place gets no other one.
    pub fn map_elsewhere(&self, map: &mut Map, chunk: u64) -> Result<()> {
        if !map.mapped.contains_key(&chunk) {
            return Ok(());
        }
        let place = self.store.take(&mut map.rng)?;
        let message = format!("map {}", run(chunk, &Mapped { place, protected: false }));
        ensure!(
            !self.ask(&message, Errno::EEXIST)?,
            "{}: \"{message}\" was taken",
            self.shape.name
        );
        self.store.give(place)
    }

    /// Takes chunks back, those that nobody wrote to or, by force, all; whether that was done.
    pub fn take_back(
        &self,
        map: &mut Map,
        chunks: Range<u64>,
        force: bool,
        how: Leave,
    ) -> Result<bool> {
        let chunks = chunks.start..chunks.end.min(map.chunks);
        if chunks.is_empty() {
            return Ok(false);
        }
        let (start, count) = (chunks.start, chunks.end - chunks.start);
        let verb = if how == Leave::AtOnce { "unmap" } else { "leave" };
        let word = if force { " force" } else { "" };
        let message = format!("{verb} {start}:{count}{word}");
        let op = self.model.as_ref().map(|model| model.begin_holes(chunks.clone()));
        self.note(chunks.clone(), &message);
        let taken = self.ask(&message, Errno::EBUSY)?;
        ensure!(taken || !force, "{}: \"{message}\" was refused", self.shape.name);
        let back = taken && how == Leave::AndComeBack;
        if back {
            self.come_back(map, chunks.clone())?;
        }
        if let (Some(model), Some(op)) = (&self.model, &op) {
            match (taken && !back, force) {
                (false, _) => model.refused(op),
                (true, true) => model.done_by_force(op),
                (true, false) => model.done(op).map_err(|text| anyhow!(text))?,
            }
        }
        if !taken || back {
            return Ok(taken);
        }
        let gone: Vec<u64> = map.mapped.range(chunks.clone()).map(|(&chunk, _)| chunk).collect();
        for chunk in gone {
            if let Some(mapped) = map.mapped.remove(&chunk) {
                self.store.give(mapped.place)?;
            }
        }
        if verb == "leave" {
            self.note(chunks, "forget");
            self.tell(&format!("forget {start}:{count}"))?;
        }
        Ok(true)
    }

    /// What should say that chunks have left could not be written: they come back.
    fn come_back(&self, map: &mut Map, chunks: Range<u64>) -> Result<()> {
        for (_, mapped) in map.mapped.range_mut(chunks.clone()) {
            mapped.protected = false;
        }
        self.map_again(map, chunks)
    }

    /// Protects the mapped chunks of a range.
    pub fn protect(&self, map: &mut Map, chunks: Range<u64>, on: bool) -> Result<()> {
        let end = chunks.end.min(map.chunks);
        if chunks.start >= end {
            return Ok(());
        }
        let verb = if on { "protect" } else { "unprotect" };
        self.note(chunks.clone(), verb);
        self.tell(&format!("{verb} {}:{}", chunks.start, end - chunks.start))?;
        for (_, mapped) in map.mapped.range_mut(chunks.start..end) {
            mapped.protected = on;
        }
        Ok(())
    }

    /// Copies a protected chunk and has it live there.
    pub fn move_chunk(&self, map: &mut Map, chunk: u64) -> Result<()> {
        let Some(old) = map.mapped.get(&chunk).copied().filter(|mapped| mapped.protected) else {
            return Ok(());
        };
        let place = self.store.copy(old.place, &mut map.rng)?;
        let message = format!("remap {chunk}:{}:{}:1", place.device, place.chunk);
        self.note(chunk..chunk + 1, &message);
        self.tell(&message)?;
        map.mapped.insert(chunk, Mapped { place, protected: false });
        self.tell("drain")?;
        self.store.give(old.place)
    }

    /// Copies a chunk while writes go on, and has it live there unless one came.
    pub fn move_if_unchanged(&self, map: &mut Map, chunk: u64) -> Result<()> {
        let Some(old) = map.mapped.get(&chunk).copied().filter(|mapped| !mapped.protected) else {
            return Ok(());
        };
        self.note(chunk..chunk + 1, "watch");
        self.tell(&format!("watch {chunk}:1"))?;
        let place = self.store.copy(old.place, &mut map.rng)?;
        let message = format!("remap {chunk}:{}:{}:1", place.device, place.chunk);
        let taken = self.ask(&message, Errno::EBUSY)?;
        self.note(chunk..chunk + 1, &format!("{message}: {taken}"));
        if !taken {
            return self.store.give(place);
        }
        map.mapped.insert(chunk, Mapped { place, protected: false });
        self.tell("drain")?;
        self.store.give(old.place)
    }

    /// The kernel's map is what user space knows.
    pub fn check_map(&self, map: &Map) -> Result<()> {
        let found = self.dump()?;
        if found != map.mapped {
            let odd = |a: &BTreeMap<u64, Mapped>, b: &BTreeMap<u64, Mapped>| -> Vec<String> {
                let odd = a.iter().filter(|(chunk, mapped)| b.get(chunk) != Some(mapped));
                odd.map(|(chunk, mapped)| format!("{chunk}: {mapped:?}")).collect()
            };
            bail!(
                "{}: the kernel's map has {:?}, and was told {:?}",
                self.shape.name,
                odd(&found, &map.mapped),
                odd(&map.mapped, &found)
            );
        }
        let status = self.patiently("status", || self.mapper.status(&self.shape.name))?;
        let expected = format!("{}/{}", map.mapped.len(), map.chunks);
        ensure!(
            status.first() == Some(&expected),
            "{}: status {status:?}, not {expected}",
            self.shape.name
        );
        Ok(())
    }

    fn dump(&self) -> Result<BTreeMap<u64, Mapped>> {
        let (mut found, mut from) = (BTreeMap::new(), Some(0));
        while let Some(start) = from.take() {
            for line in self.tell(&format!("dump {start}"))?.lines() {
                if let Some(next) = line.strip_prefix("more ") {
                    from = Some(next.parse()?);
                } else if !line.starts_with("leaving") {
                    read_run(line, &mut found)?;
                } else {
                    bail!("{}: {line}, and nothing should be", self.shape.name);
                }
            }
        }
        Ok(found)
    }

    /// The target's counters, with those of the devices before this one.
    pub fn counters(&self, map: &Map) -> Result<BTreeMap<String, u64>> {
        let mut counters = map.counters.clone();
        for line in self.tell("stats")?.lines() {
            if let Some((name, value)) = line.split_once(' ')
                && let Ok(value) = value.parse::<u64>()
            {
                *counters.entry(name.to_owned()).or_default() += value;
            }
        }
        Ok(counters)
    }
}

/// How chunks become holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// By `unmap`.
    AtOnce,
    /// By `leave` and `forget`.
    InTwoSteps,
    /// By `leave`, and `map` with the old place after it.
    AndComeBack,
}

/// A run of one chunk, as `map` takes it.
fn run(chunk: u64, mapped: &Mapped) -> String {
    let flags = if mapped.protected { ":p" } else { "" };
    format!("{chunk}:{}:{}:1{flags}", mapped.place.device, mapped.place.chunk)
}

fn read_run(line: &str, found: &mut BTreeMap<u64, Mapped>) -> Result<()> {
    let words: Vec<&str> = line.split(':').collect();
    let [chunk, device, place, count, flags @ ..] = words.as_slice() else {
        bail!("no run: {line}");
    };
    let (chunk, place, count): (u64, u64, u64) = (chunk.parse()?, place.parse()?, count.parse()?);
    let protected = flags.first().is_some_and(|flags| flags.contains('p'));
    for i in 0..count {
        let place = Place { device: device.parse()?, chunk: place + i };
        found.insert(chunk + i, Mapped { place, protected });
    }
    Ok(())
}
