// SPDX-License-Identifier: LGPL-2.1-or-later
//! A volume: its device, and the messages that change its map.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use fastrand::Rng;
use nix::errno::Errno;

use crate::disk::Disk;
use crate::dm::{Answer, Mapper};
use crate::map::{Dump, Map, Mapped, list, place_run};
use crate::model::{Model, Op};
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

/// A volume under stress.
pub struct Volume<'a> {
    /// How it is made.
    pub shape: Shape,
    /// What its blocks may hold; none where a file system knows that.
    pub model: Option<Model>,
    /// Its first device.
    pub node: PathBuf,
    /// Odd while writes that need a chunk are to fail.
    pub no_space: AtomicU64,
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
        let map = Map::new(shape.chunks, rng);
        let disk = RwLock::new(None);
        let (node, no_space) = (PathBuf::new(), AtomicU64::new(0));
        let mut volume = Self {
            shape,
            model,
            node,
            no_space,
            disk,
            map: Mutex::new(map),
            mapper,
            store,
            notifier,
        };
        let node = volume.create(&mut volume.map())?;
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

    /// The data devices.
    pub fn store(&self) -> &Store {
        self.store
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
    pub fn create(&self, map: &mut Map) -> Result<PathBuf> {
        let path = self.patiently("create", || self.mapper.create(&self.shape.name))?;
        self.load(map, map.chunks)?;
        self.patiently("resume", || self.mapper.resume(&self.shape.name))?;
        if map.generation > 0 {
            self.tell(&format!("snapshot {}", map.generation))?;
            self.tell(&format!("mark {}", map.mark))?;
        }
        let all = 0..map.chunks;
        let runs = map.runs(std::slice::from_ref(&all));
        for runs in runs.chunks(64) {
            self.tell(&format!("map {}", runs.join(" ")))?;
        }
        self.register()?;
        Ok(path)
    }

    /// Loads a table of so many chunks.
    pub fn load(&self, map: &Map, chunks: u64) -> Result<()> {
        let (sectors, line) = self.line(map, chunks);
        self.patiently("load", || self.mapper.load(&self.shape.name, sectors, "notify", &line))
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

    /// Sends a message that may be refused for one of these reasons; whether it was taken.
    pub fn ask(&self, message: &str, refusals: &[Errno]) -> Result<bool> {
        self.patiently(message, || match self.mapper.message(&self.shape.name, message) {
            Err(errno) if refusals.contains(&errno) => Ok(false),
            answer => answer.map(|_| true),
        })
    }

    /// Sends a message that may have been done although it is refused; then the other one.
    pub fn repeatable(&self, message: &str, again: &str) -> Result<()> {
        let mut first = true;
        self.patiently(message, || {
            let message = if std::mem::take(&mut first) { message } else { again };
            self.mapper.message(&self.shape.name, message).map(drop)
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

    /// Notes what is done to chunks.
    pub fn note(&self, chunks: Range<u64>, text: &str) {
        if let Some(model) = &self.model {
            model.note(chunks, text);
        }
    }

    // -- what changes the map; the caller holds it --

    /// Maps holes of a range, which are watched from the second on, or all of them.
    pub fn grow(&self, map: &mut Map, chunks: Range<u64>, watch_first: bool) -> Result<()> {
        let end = chunks.end.min(map.chunks);
        let (mut runs, mut new) = (Vec::new(), Vec::new());
        for chunk in chunks.start..end {
            if map.mapped.contains_key(&chunk) {
                continue;
            }
            let place = self.store.take(&mut map.rng)?;
            let mapped = map.own(place);
            runs.push(map.run(chunk, &mapped, watch_first || chunk != chunks.start));
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

    /// Sends again what was mapped: nothing changes. Not of shared chunks, which may have gone.
    pub fn map_again(&self, map: &mut Map, ranges: &[Range<u64>]) -> Result<()> {
        let runs = if map.any_shared(ranges) { Vec::new() } else { map.runs(ranges) };
        if !runs.is_empty() {
            self.note_all(ranges, "map again");
            self.tell(&format!("map {}", runs.join(" ")))?;
        }
        Ok(())
    }

    /// A chunk that has a place gets no other one.
    pub fn map_elsewhere(&self, map: &mut Map, chunk: u64) -> Result<()> {
        if map.mapped.get(&chunk).is_none_or(|mapped| map.is_shared(mapped)) {
            return Ok(());
        }
        let place = self.store.take(&mut map.rng)?;
        let message = format!("map {}", place_run(chunk, place, ""));
        ensure!(
            !self.ask(&message, &[Errno::EEXIST])?,
            "{}: \"{message}\" was taken",
            self.shape.name
        );
        self.store.give(place)
    }

    /// Takes chunks back, those that nobody wrote to or, by force, all; whether that was done.
    pub fn take_back(
        &self,
        map: &mut Map,
        ranges: &[Range<u64>],
        force: bool,
        how: Leave,
    ) -> Result<bool> {
        let ranges = &map.clip(ranges)[..];
        if ranges.is_empty() {
            return Ok(false);
        }
        // What is shared may be gone already, and would come back by itself.
        let back = how == Leave::AndComeBack && !map.any_shared(ranges);
        let verb = if how == Leave::AtOnce { "unmap" } else { "leave" };
        let word = if force { " force" } else { "" };
        let message = format!("{verb} {}{word}", list(ranges));
        let holes = |range: &Range<u64>| Some(self.model.as_ref()?.begin_holes(range.clone()));
        let ops: Vec<Op> = ranges.iter().filter_map(holes).collect();
        self.note_all(ranges, &message);
        let taken = self.ask(&message, &[Errno::EBUSY])?;
        ensure!(taken || !force, "{}: \"{message}\" was refused", self.shape.name);
        let back = taken && back;
        if back {
            self.come_back(map, ranges)?;
        }
        self.end_holes(&ops, taken && !back, force)?;
        if !taken || back {
            return Ok(taken);
        }
        for range in ranges {
            let gone: Vec<u64> = map.mapped.range(range.clone()).map(|(&chunk, _)| chunk).collect();
            for mapped in
                gone.iter().filter_map(|chunk| map.mapped.remove(chunk)).collect::<Vec<_>>()
            {
                self.release(map, mapped.place)?;
            }
        }
        if verb == "leave" {
            self.note_all(ranges, "forget");
            self.tell(&format!("forget {}", list(ranges)))?;
        }
        Ok(true)
    }

    fn end_holes(&self, ops: &[Op], done: bool, force: bool) -> Result<()> {
        let Some(model) = &self.model else { return Ok(()) };
        for op in ops {
            match (done, force) {
                (false, _) => model.refused(op),
                (true, true) => model.done_by_force(op),
                (true, false) => model.done(op).map_err(|text| anyhow!(text))?,
            }
        }
        Ok(())
    }

    /// The volume has a chunk no more: it is free, unless a snapshot has it.
    pub fn release(&self, map: &Map, place: Place) -> Result<()> {
        if map.has_snapshot_of(place) { Ok(()) } else { self.store.give(place) }
    }

    fn note_all(&self, ranges: &[Range<u64>], text: &str) {
        ranges.iter().for_each(|range| self.note(range.clone(), text));
    }

    /// What should say that chunks have left could not be written: they come back.
    fn come_back(&self, map: &mut Map, ranges: &[Range<u64>]) -> Result<()> {
        for range in ranges {
            for (_, mapped) in map.mapped.range_mut(range.clone()) {
                mapped.protected = false;
            }
        }
        self.map_again(map, ranges)
    }

    /// Protects the mapped chunks of ranges.
    pub fn protect(&self, map: &mut Map, ranges: &[Range<u64>], on: bool) -> Result<()> {
        let ranges = &map.clip(ranges)[..];
        if ranges.is_empty() {
            return Ok(());
        }
        let verb = if on { "protect" } else { "unprotect" };
        self.note_all(ranges, verb);
        self.tell(&format!("{verb} {}", list(ranges)))?;
        for range in ranges {
            for (_, mapped) in map.mapped.range_mut(range.clone()) {
                mapped.protected = on;
            }
        }
        Ok(())
    }

    /// Copies a protected or shared chunk and has it live there.
    pub fn move_chunk(&self, map: &mut Map, chunk: u64) -> Result<()> {
        let Some(old) = map.mapped.get(&chunk).copied() else { return Ok(()) };
        if !old.protected && !map.is_shared(&old) {
            return Ok(());
        }
        let place = self.store.copy(old.place, &mut map.rng)?;
        self.move_to(map, chunk, &old, place, "")
    }

    /// Has a chunk move without a copy, if a write of all of it waits.
    pub fn overwrite_chunk(&self, map: &mut Map, chunk: u64) -> Result<()> {
        let Some(old) = map.mapped.get(&chunk).copied() else { return Ok(()) };
        let place = self.store.take(&mut map.rng)?;
        let op = self.model.as_ref().map(|model| model.begin_overwrite(chunk));
        self.move_to(map, chunk, &old, place, "o")?;
        if let (Some(model), Some(op)) = (&self.model, &op) {
            if map.mapped.get(&chunk) == Some(&old) {
                model.refused(op);
            } else {
                model.overwritten(op).map_err(|text| anyhow!(text))?;
            }
        }
        Ok(())
    }

    fn move_to(
        &self,
        map: &mut Map,
        chunk: u64,
        old: &Mapped,
        place: Place,
        flags: &str,
    ) -> Result<()> {
        let flags = if map.rng.bool() { &format!("{flags}{}", map.generation) } else { flags };
        if !self.try_move(chunk, place, flags)? {
            return self.store.give(place);
        }
        map.mapped.insert(chunk, map.own(place));
        self.tell("drain")?;
        self.release(map, old.place)
    }

    /// A chunk moves, unless it was discarded or written meanwhile, or no write of all of it waits.
    pub fn try_move(&self, chunk: u64, place: Place, flags: &str) -> Result<bool> {
        let message = format!("remap {}", place_run(chunk, place, flags));
        let taken = self.ask(&message, &[Errno::EBUSY, Errno::ENXIO, Errno::ENODATA])?;
        self.note(chunk..chunk + 1, &format!("{message}: {taken}"));
        Ok(taken)
    }

    /// Copies chunks while writes go on, and has those live there to which none came.
    pub fn move_if_unchanged(&self, map: &mut Map, ranges: &[Range<u64>]) -> Result<()> {
        let ranges = &map.clip(ranges)[..];
        if ranges.is_empty() {
            return Ok(());
        }
        self.note_all(ranges, "watch");
        self.tell(&format!("watch {}", list(ranges)))?;
        for chunk in ranges.iter().cloned().flatten() {
            let Some(old) = map.mapped.get(&chunk).copied().filter(|mapped| !mapped.protected)
            else {
                continue;
            };
            let place = self.store.copy(old.place, &mut map.rng)?;
            self.move_to(map, chunk, &old, place, "")?;
        }
        Ok(())
    }

    /// The kernel's map is what user space knows, but for shared chunks that were discarded.
    pub fn check_map(&self, map: &Map) -> Result<()> {
        let found = self.dump(map)?;
        let mut known = map.mapped.clone();
        known.retain(|chunk, _| !found.leaving.contains(chunk));
        if found.mapped != known {
            let odd = |a: &BTreeMap<u64, Mapped>, b: &BTreeMap<u64, Mapped>| -> Vec<String> {
                let odd = a.iter().filter(|(chunk, mapped)| b.get(chunk) != Some(mapped));
                odd.map(|(chunk, mapped)| format!("{chunk}: {mapped:?}")).collect()
            };
            bail!(
                "{}: the kernel's map has {:?}, and was told {:?}",
                self.shape.name,
                odd(&found.mapped, &known),
                odd(&known, &found.mapped)
            );
        }
        let status = self.patiently("status", || self.mapper.status(&self.shape.name))?;
        let said = |at: usize| status.get(at).map(String::as_str).unwrap_or_default();
        let generations = (map.generation.to_string(), map.mark.to_string());
        ensure!(
            (said(7), said(8)) == (&generations.0, &generations.1),
            "{}: status {status:?}, not {generations:?}",
            self.shape.name
        );
        ensure!(
            said(0).ends_with(&format!("/{}", map.chunks)),
            "{}: status {status:?}, not of {} chunks",
            self.shape.name,
            map.chunks
        );
        Ok(())
    }

    /// What the kernel says of its map; what is leaving was shared.
    pub fn dump(&self, map: &Map) -> Result<Dump> {
        let (mut dump, mut from) = (Dump::default(), Some(0));
        while let Some(start) = from.take() {
            for line in self.tell(&format!("dump {start}"))?.lines() {
                match line.strip_prefix("more ") {
                    Some(next) => from = Some(next.parse()?),
                    None => dump.read(line, map.generation)?,
                }
            }
        }
        let shared = |chunk: &u64| {
            map.mapped.get(chunk).is_some_and(|mapped| mapped.generation < map.generation)
        };
        if let Some(odd) = dump.leaving.iter().find(|chunk| !shared(chunk)) {
            bail!("{}: chunk {odd} is leaving, and should not be", self.shape.name);
        }
        Ok(dump)
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
