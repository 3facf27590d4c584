// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is done to a volume while it is written to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use nix::errno::Errno;

use crate::disk::Disk;
use crate::dm::Suspend;
use crate::volume::{Leave, Volume};

/// A deed.
type Deed = fn(&Upheaval<'_>, &Draw) -> Result<()>;
/// A deed's name, its share of the turns, and whether a file system lives through it.
type Choice = (&'static str, u32, bool, Deed);

/// All deeds.
const DEEDS: &[Choice] = &[
    ("watch", 6, true, |u, d| u.watch(d)),
    ("take back", 10, true, |u, d| u.take_back(d)),
    ("unmap by force", 3, false, |u, d| u.unmap_by_force(d)),
    ("protect", 8, true, |u, d| u.protect(d)),
    ("unprotect", 5, true, |u, d| u.unprotect(d)),
    ("remap", 8, true, |u, d| u.remap(d)),
    ("watch and remap", 8, true, |u, d| u.watch_and_remap(d)),
    ("move and keep", 5, true, |u, d| u.move_and_keep(d)),
    ("snapshot", 8, true, |u, d| u.snapshot(d)),
    ("drop a snapshot", 4, true, |u, d| u.drop_snapshot(d)),
    ("check the snapshots", 3, true, |u, _| u.check_snapshots()),
    ("freeze", 4, true, |u, d| u.freeze(d)),
    ("map again", 6, true, |u, d| u.map_again(d)),
    ("map elsewhere", 2, true, |u, d| u.map_elsewhere(d)),
    ("suspend", 5, true, |u, d| u.suspend(d)),
    ("suspend without flush", 6, true, |u, d| u.suspend_without_flush(d)),
    ("reload", 5, true, |u, d| u.reload(d)),
    ("resize", 5, false, |u, d| u.resize(d)),
    ("refused load", 3, true, |u, d| u.refused_load(d)),
    ("refused resume", 3, false, |u, d| u.refused_resume(d)),
    ("remove", 2, false, |u, d| u.remove(d)),
    ("nospace", 2, false, |u, d| u.no_space(d)),
    ("check", 4, true, |u, d| u.check(d)),
];

/// All that chance decides of a turn, drawn whatever becomes of it.
struct Draw {
    chunk: u64,
    count: u64,
    /// How far behind them there are more chunks; 0 if there are none.
    gap: u64,
    pause: Duration,
    kind: u32,
    size: u64,
}

/// One thread's deeds on a volume.
pub struct Upheaval<'a> {
    volume: &'a Volume<'a>,
    turns: u64,
    /// What has its first turn yet to come.
    first: Vec<&'static Choice>,
    /// How often each was done.
    pub done: BTreeMap<&'static str, u64>,
}

impl<'a> Upheaval<'a> {
    /// Nothing done yet.
    pub fn new(volume: &'a Volume<'a>) -> Self {
        let mut new = Self { volume, turns: 0, first: Vec::new(), done: BTreeMap::new() };
        new.first = new.deeds().collect();
        new
    }

    /// The names of all deeds that may be done to such a volume.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.deeds().map(|(name, ..)| *name)
    }

    fn deeds(&self) -> impl Iterator<Item = &'static Choice> + use<> {
        let any = self.volume.model.is_some();
        DEEDS.iter().filter(move |(_, _, gentle, _)| any || *gentle)
    }

    /// One turn: a deed, and a pause. At first each deed has a turn, then chance alone chooses.
    pub fn turn(&mut self, rng: &mut Rng) -> Result<()> {
        let chosen = rng.u32(0..self.deeds().map(|(_, share, ..)| share).sum());
        let chunks = self.volume.shape.chunks;
        let near = if rng.bool() { chunks.min(16) } else { chunks };
        let draw = Draw {
            chunk: rng.u64(0..near),
            count: rng.u64(1..=8),
            gap: rng.u64(0..4),
            pause: Duration::from_millis(rng.u64(0..60)),
            kind: rng.u32(0..100),
            size: rng.u64(chunks / 2..=chunks),
        };
        if self.turns == 0 {
            rng.shuffle(&mut self.first);
        }
        self.turns += 1;
        let (name, _, _, deed) = match self.first.pop() {
            Some(first) => first,
            None => self.by_share(chosen).context("no deed")?,
        };
        deed(self, &draw).with_context(|| format!("{}: {name}", self.volume.shape.name))?;
        *self.done.entry(name).or_default() += 1;
        std::thread::sleep(draw.pause);
        Ok(())
    }

    fn by_share(&self, mut left: u32) -> Option<&'static Choice> {
        self.deeds().find(|(_, share, ..)| {
            let found = left < *share;
            left = left.saturating_sub(*share);
            found
        })
    }

    fn watch(&self, draw: &Draw) -> Result<()> {
        self.volume.grow(&mut self.volume.map(), draw.chunks(), true)
    }

    fn take_back(&self, draw: &Draw) -> Result<()> {
        let few = Draw { count: 1 + draw.count / 4, ..*draw };
        let how = draw.leave();
        self.volume.take_back(&mut self.volume.map(), &few.ranges(), false, how).map(drop)
    }

    fn unmap_by_force(&self, draw: &Draw) -> Result<()> {
        let how = draw.leave();
        self.volume.take_back(&mut self.volume.map(), &draw.ranges(), true, how).map(drop)
    }

    fn protect(&self, draw: &Draw) -> Result<()> {
        self.volume.protect(&mut self.volume.map(), &draw.ranges(), true)
    }

    fn unprotect(&self, draw: &Draw) -> Result<()> {
        self.volume.protect(&mut self.volume.map(), &draw.ranges(), false)
    }

    fn remap(&self, draw: &Draw) -> Result<()> {
        let mut map = self.volume.map();
        self.volume.protect(&mut map, &draw.ranges(), true)?;
        draw.chunks().try_for_each(|chunk| self.volume.move_chunk(&mut map, chunk))
    }

    /// Chunks are copied while writes go on, and move unless one was written.
    fn watch_and_remap(&self, draw: &Draw) -> Result<()> {
        self.volume.move_if_unchanged(&mut self.volume.map(), &draw.ranges())
    }

    fn move_and_keep(&self, draw: &Draw) -> Result<()> {
        self.volume.move_and_keep(&mut self.volume.map(), draw.chunks())
    }

    /// Now and then the generations are used up.
    fn snapshot(&self, draw: &Draw) -> Result<()> {
        let step = if draw.kind < 50 { 1 } else { 200 * (80 + draw.size % 80) };
        self.volume.snapshot(&mut self.volume.map(), draw.kind.is_multiple_of(2), step)
    }

    fn drop_snapshot(&self, draw: &Draw) -> Result<()> {
        let mut map = self.volume.map();
        let number = usize::from(draw.kind.is_multiple_of(2));
        if number < map.snapshots.len() {
            self.volume.drop_snapshot(&mut map, number)?;
        }
        Ok(())
    }

    fn check_snapshots(&self) -> Result<()> {
        self.volume.check_snapshots(&mut self.volume.map())
    }

    /// All writes wait for a moment.
    fn freeze(&self, draw: &Draw) -> Result<()> {
        self.volume.tell(if draw.kind < 20 { "freeze 20" } else { "freeze 30000" })?;
        std::thread::sleep(draw.pause);
        self.volume.ask("thaw", &[Errno::ETIMEDOUT]).map(drop)
    }

    fn map_again(&self, draw: &Draw) -> Result<()> {
        self.volume.map_again(&mut self.volume.map(), &draw.ranges())
    }

    fn map_elsewhere(&self, draw: &Draw) -> Result<()> {
        self.volume.map_elsewhere(&mut self.volume.map(), draw.chunk)
    }

    fn suspend(&self, draw: &Draw) -> Result<()> {
        self.suspend_for(Suspend::Flush, draw.pause)?;
        self.resume()
    }

    fn suspend_without_flush(&self, draw: &Draw) -> Result<()> {
        self.suspend_for(Suspend::NoFlush, draw.pause)?;
        self.resume()
    }

    fn suspend_for(&self, how: Suspend, pause: Duration) -> Result<()> {
        let Volume { shape, .. } = self.volume;
        self.volume.patiently("suspend", || self.volume.mapper().suspend(&shape.name, how))?;
        std::thread::sleep(pause);
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        let name = &self.volume.shape.name;
        self.volume.patiently("resume", || self.volume.mapper().resume(name))
    }

    /// Another table of the same size, swapped in by one of three ways.
    fn reload(&self, draw: &Draw) -> Result<()> {
        let (sectors, line) = {
            let mut map = self.volume.map();
            map.skip_zero_writes = draw.kind.is_multiple_of(2);
            self.volume.line(&map, map.chunks)
        };
        let (mapper, name) = (self.volume.mapper(), &self.volume.shape.name);
        self.volume.patiently("load", || mapper.load(name, sectors, "notify", &line))?;
        match draw.kind % 3 {
            0 => self.suspend_for(Suspend::NoFlush, draw.pause)?,
            1 => self.volume.patiently("swap", || mapper.swap(name))?,
            _ => {}
        }
        self.resume()?;
        let _map = self.volume.map();
        self.volume.register()
    }

    /// A table that is smaller or larger. What lies beyond a new end is given up first.
    fn resize(&self, draw: &Draw) -> Result<()> {
        let model = self.volume.model.as_ref().context("it has no model")?;
        let old = self.volume.map().chunks;
        if draw.size < old {
            model.set_limit(draw.size);
        }
        {
            let mut map = self.volume.map();
            if draw.size < old {
                let beyond = draw.size..old;
                let beyond = std::slice::from_ref(&beyond);
                self.volume.take_back(&mut map, beyond, true, Leave::InTwoSteps)?;
            }
            map.chunks = draw.size;
            self.volume.load(&map, draw.size)?;
            // Nothing is served meanwhile: no flush may wait for it.
            self.suspend_for(Suspend::NoFlush, Duration::ZERO)?;
            self.resume()?;
            self.volume.register()?;
        }
        model.set_limit(draw.size);
        Ok(())
    }

    /// A table that does not fit the map is refused when it is loaded.
    fn refused_load(&self, draw: &Draw) -> Result<()> {
        let map = self.volume.map();
        let Some(last) = map.mapped.keys().next_back().copied().filter(|last| *last > 0) else {
            return Ok(());
        };
        let (sectors, line) = self.volume.line(&map, (draw.chunk % last).max(1));
        let name = &self.volume.shape.name;
        let answer = self.volume.patiently("load", || {
            match self.volume.mapper().load(name, sectors, "notify", &line) {
                Err(Errno::EINVAL) => Ok(false),
                answer => answer.map(|()| true),
            }
        })?;
        ensure!(!answer, "a table was taken that ends before chunk {last}");
        Ok(())
    }

    /// A table that fits no more when it is resumed is refused, each time, and the map is kept.
    fn refused_resume(&self, draw: &Draw) -> Result<()> {
        let model = self.volume.model.as_ref().context("it has no model")?;
        let (end, old) = {
            let map = self.volume.map();
            (map.end() + draw.count, map.chunks)
        };
        if end < old {
            // The device has the size of a table that is refused, until the next one.
            model.set_limit(end);
            let refused = self.refuse_to_resume(end, draw);
            model.set_limit(old);
            refused?;
        }
        Ok(())
    }

    fn refuse_to_resume(&self, end: u64, draw: &Draw) -> Result<()> {
        let mut map = self.volume.map();
        if map.end() > end {
            return Ok(());
        }
        let (mapper, name) = (self.volume.mapper(), &self.volume.shape.name);
        self.volume.load(&map, end)?;
        self.volume.grow(&mut map, end..end + 1, true)?;
        self.suspend_for(Suspend::NoFlush, draw.pause)?;
        for _ in 0..1 + draw.kind % 2 {
            let refused = self.volume.patiently("resume", || match mapper.resume(name) {
                Err(Errno::EINVAL) => Ok(true),
                answer => answer.map(|()| false),
            })?;
            ensure!(refused, "a table went live that ends before chunk {end}");
        }
        let answer = mapper.message(name, "pending");
        ensure!(answer == Err(Errno::EAGAIN), "a table that was refused answers {answer:?}");
        self.volume.load(&map, map.chunks)?;
        self.resume()?;
        self.volume.register()
    }

    /// The device is removed and made again, and its map is told anew.
    fn remove(&self, draw: &Draw) -> Result<()> {
        let (mapper, name) = (self.volume.mapper(), &self.volume.shape.name);
        let mut disk = self.volume.disk.write().unwrap_or_else(PoisonError::into_inner);
        *disk = None;
        let mut map = self.volume.map();
        map.counters = self.volume.counters(&map)?;
        // What the kernel gave up, and has not told yet, would be mapped again.
        self.volume.settle_leaving(&mut map)?;
        self.volume.patiently("remove", || mapper.remove(name))?;
        std::thread::sleep(draw.pause);
        let path = self.volume.create(&mut map)?;
        *disk = Some(Disk::open(&path)?);
        Ok(())
    }

    /// Writes that need a chunk fail for a while.
    fn no_space(&self, draw: &Draw) -> Result<()> {
        {
            let _map = self.volume.map();
            self.volume.no_space.fetch_add(1, Ordering::SeqCst);
            self.volume.tell("nospace")?;
        }
        std::thread::sleep(draw.pause);
        let _map = self.volume.map();
        self.volume.tell("space")?;
        self.volume.no_space.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn check(&self, _: &Draw) -> Result<()> {
        self.volume.check_map(&self.volume.map())
    }
}

impl Draw {
    fn chunks(&self) -> Range<u64> {
        self.chunk..self.chunk + self.count
    }

    /// The same, and often a second range.
    fn ranges(&self) -> Vec<Range<u64>> {
        let (first, start) = (self.chunks(), self.chunk + self.count + self.gap);
        if self.gap == 0 { vec![first] } else { vec![start..start + self.count, first] }
    }

    fn leave(&self) -> Leave {
        match self.kind {
            0..40 => Leave::AtOnce,
            40..80 => Leave::InTwoSteps,
            _ => Leave::AndComeBack,
        }
    }
}
