// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots of a volume: which chunks each of them has, and what these must hold for ever: what the model of
//! the volume says, or, where a file system is on it, what they held at first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Result, bail, ensure};
use nix::errno::Errno;

use crate::content::{Found, Stamp, ZERO};
use crate::map::{Map, Mapped};
use crate::model::Model;
use crate::store::{Place, Store};
use crate::volume::Volume;

/// Snapshots that a volume has at a time.
const MOST: usize = 2;
/// Beyond it there is no generation.
const LAST_GENERATION: u64 = 65535;

/// What is known of a block.
#[derive(Clone, Debug)]
enum Known {
    /// It holds one of these.
    May(Vec<Stamp>),
    /// Its sectors were found to hold that.
    Is(Vec<Found>),
}

/// What a snapshot must hold.
enum Held {
    /// What the volume's model says of each block.
    Blocks(Vec<Known>),
    /// What each chunk held when it was looked at first, as a sum.
    Sums(BTreeMap<u64, u64>),
}

/// A snapshot.
pub struct Snapshot {
    /// The generation that it began.
    begun: u64,
    chunks: BTreeMap<u64, Place>,
    /// Chunks that were discarded at the same moment.
    unsure: BTreeSet<u64>,
    held: Held,
}

impl Snapshot {
    /// Whether a chunk of it is there.
    pub fn has(&self, place: Place) -> bool {
        self.chunks.values().any(|&other| other == place)
    }

    /// A chunk of it was moved by the one who keeps it.
    pub fn moved(&mut self, chunk: u64, from: Place, to: Place) {
        if let Some(place) = self.chunks.get_mut(&chunk).filter(|place| **place == from) {
            *place = to;
        }
    }

    /// It holds what it must.
    fn check(&mut self, store: &Store, model: Option<&Model>) -> Result<()> {
        match (&self.held, model) {
            (Held::Blocks(blocks), Some(model)) => {
                self.check_blocks(store, model, blocks.len() as u64)
            }
            (Held::Sums(sums), _) => {
                let same = |(&chunk, &sum): (&u64, &u64)| {
                    let found = store.sum(self.chunks[&chunk])?;
                    ensure!(
                        found == sum,
                        "the snapshot that began {} has another chunk {chunk}",
                        self.begun
                    );
                    Ok(())
                };
                sums.iter().try_for_each(same)
            }
            (Held::Blocks(_), None) => bail!("a volume without a model has a snapshot of one"),
        }
    }

    /// Each block holds what it may; from now on, just that.
    fn check_blocks(&mut self, store: &Store, model: &Model, blocks: u64) -> Result<()> {
        let chunk_blocks = model.chunk_blocks();
        for chunk in 0..blocks / chunk_blocks {
            if self.unsure.contains(&chunk) {
                continue;
            }
            let found = match self.chunks.get(&chunk) {
                Some(&place) => store.look(place, model.volume(), chunk)?,
                None => vec![vec![Found::Stamp(ZERO)]; usize::try_from(chunk_blocks)?],
            };
            for (block, found) in (chunk * chunk_blocks..).zip(found) {
                self.settle(block, found).map_err(|known| {
                    let place = self.chunks.get(&chunk);
                    let what = format!(
                        "the snapshot that began {} has it at {place:?}, and {known}",
                        self.begun
                    );
                    anyhow::anyhow!(model.explain(block, &what))
                })?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, block: u64, found: Vec<Found>) -> Result<(), String> {
        let Held::Blocks(blocks) = &mut self.held else {
            return Err("it has no blocks".to_owned());
        };
        let Some(known) = usize::try_from(block).ok().and_then(|b| blocks.get_mut(b)) else {
            return Err("it has no such block".to_owned());
        };
        let holds = match known {
            Known::Is(sectors) => *sectors == found,
            Known::May(stamps) => found.iter().all(|sector| match sector {
                Found::Stamp(stamp) => stamps.contains(stamp),
                Found::Foreign(..) => false,
            }),
        };
        if holds {
            *known = Known::Is(found);
            return Ok(());
        }
        Err(format!("it holds {found:?}, not {known:?}"))
    }
}

impl Volume<'_> {
    /// Takes a snapshot, with all writes stopped before or not. The oldest one goes, if there are too many.
    pub fn snapshot(&self, map: &mut Map, frozen: bool, step: u64) -> Result<()> {
        if map.snapshots.len() == MOST {
            self.drop_snapshot(map, 0)?;
        }
        if map.generation + step > LAST_GENERATION {
            self.renumber(map)?;
        }
        if frozen {
            self.tell("freeze 30000")?;
        }
        let generation = map.generation + step;
        let before = self.dump(map)?.leaving;
        let op = self.model.as_ref().map(|model| (model, model.begin_cut()));
        let message = if step == 1 { "snapshot" } else { &format!("snapshot {generation}") };
        self.repeatable(message, &format!("snapshot {generation}"))?;
        let cut = op.map(|(model, op)| model.cut(&op).into_iter().map(Known::May).collect());
        (map.generation, map.mark) = (generation, generation);
        let unsure = &self.dump(map)?.leaving - &before;
        if frozen {
            self.ask("thaw", &[Errno::ETIMEDOUT])?;
        }
        let there = map.mapped.iter().filter(|(chunk, _)| !before.contains(chunk));
        let chunks: BTreeMap<_, _> = there.map(|(&chunk, mapped)| (chunk, mapped.place)).collect();
        let held = match cut {
            Some(blocks) => Held::Blocks(blocks),
            None => Held::Sums(self.sums(&chunks, &unsure)?),
        };
        map.snapshots.push(Snapshot { begun: generation, chunks, unsure, held });
        // A write that was not waited for comes after this look.
        self.check_snapshots(map)
    }

    /// Compares what the snapshots have with what they may have.
    pub fn check_snapshots(&self, map: &mut Map) -> Result<()> {
        let model = self.model.as_ref();
        map.snapshots.iter_mut().try_for_each(|snapshot| snapshot.check(self.store(), model))
    }

    /// What chunks hold that are not written any more.
    fn sums(
        &self,
        chunks: &BTreeMap<u64, Place>,
        unsure: &BTreeSet<u64>,
    ) -> Result<BTreeMap<u64, u64>> {
        let sure = chunks.iter().filter(|(chunk, _)| !unsure.contains(chunk));
        sure.map(|(&chunk, &place)| Ok((chunk, self.store().sum(place)?))).collect()
    }

    /// A snapshot goes. The chunks that were its alone are free; if it was the last one, those that it
    /// shared with the volume, and with no other, are the volume's own again.
    pub fn drop_snapshot(&self, map: &mut Map, number: usize) -> Result<()> {
        self.check_snapshots(map)?;
        let last = number + 1 == map.snapshots.len();
        let gone = map.snapshots.remove(number);
        let used: BTreeSet<Place> = map.mapped.values().map(|mapped| mapped.place).collect();
        if last {
            let mark = map.snapshots.last().map_or(0, |snapshot| snapshot.begun);
            self.tell(&format!("mark {mark}"))?;
            map.mark = mark;
            // What the kernel gave up while it was shared is told now, or would look like the volume's.
            self.settle_leaving(map)?;
        }
        for place in gone.chunks.into_values() {
            if !used.contains(&place) && !map.has_snapshot_of(place) {
                self.store().give(place)?;
            }
        }
        Ok(())
    }

    /// All snapshots go.
    pub fn drop_snapshots(&self, map: &mut Map) -> Result<()> {
        while !map.snapshots.is_empty() {
            let number = map.rng.usize(0..map.snapshots.len());
            self.drop_snapshot(map, number)?;
        }
        Ok(())
    }

    /// A shared chunk was discarded: it is the snapshots' alone.
    pub fn give_up(&self, map: &mut Map, chunk: u64) -> Result<()> {
        let Some(old) = map.mapped.remove(&chunk) else { return Ok(()) };
        self.note(chunk..chunk + 1, "given up");
        // Reads that were passed down before may be on their way.
        self.tell("drain")?;
        self.release(map, old.place)?;
        self.tell(&format!("forget {chunk}:1")).map(drop)
    }

    /// Does for all shared chunks that were discarded what the kernel will ask for.
    pub fn settle_leaving(&self, map: &mut Map) -> Result<()> {
        let leaving = self.dump(map)?.leaving;
        leaving.into_iter().try_for_each(|chunk| self.give_up(map, chunk))
    }

    /// Generations are used up: those in which a snapshot began get the lowest numbers.
    fn renumber(&self, map: &mut Map) -> Result<()> {
        let begun: Vec<u64> = map.snapshots.iter().map(|snapshot| snapshot.begun).collect();
        let words: Vec<String> = begun.iter().map(u64::to_string).collect();
        self.tell("freeze 30000")?;
        self.tell(format!("renumber {}", words.join(" ")).trim())?;
        self.ask("thaw", &[Errno::ETIMEDOUT])?;
        let new = |old: u64| begun.iter().filter(|&&begun| begun <= old).count() as u64;
        (map.generation, map.mark) = (new(map.generation), new(map.mark));
        for mapped in map.mapped.values_mut() {
            mapped.generation = new(mapped.generation);
        }
        for snapshot in &mut map.snapshots {
            snapshot.begun = new(snapshot.begun);
        }
        Ok(())
    }

    /// Moves a protected chunk, which stays what it is: its snapshots have it at the new place, too.
    pub fn move_and_keep(&self, map: &mut Map, range: Range<u64>) -> Result<()> {
        self.protect(map, std::slice::from_ref(&range), true)?;
        for chunk in range {
            let Some(old) = map.mapped.get(&chunk).copied() else { continue };
            let place = self.store().copy(old.place, &mut map.rng)?;
            if !self.try_move(chunk, place, "k")? {
                self.store().give(place)?;
                continue;
            }
            map.mapped.insert(chunk, Mapped { place, ..old });
            for snapshot in &mut map.snapshots {
                snapshot.moved(chunk, old.place, place);
            }
            self.tell("drain")?;
            self.store().give(old.place)?;
        }
        Ok(())
    }
}
