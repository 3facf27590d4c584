// SPDX-License-Identifier: LGPL-2.1-or-later
//! What each block of a volume may hold, at every moment.
//!
//! A block has a set of values. An operation that begins adds its value; one that ends well takes
//! away all values of operations that had ended before it began. So a write that is acknowledged
//! leaves exactly its own value, and operations that meet leave several, as one that fails does. A
//! discard leaves zeroes beside what was there. A read that met nothing else settles which it is.
//!
//! Where a write met a discard of the whole chunk, zeroes may come later still, when the chunk is
//! unmapped: they are latent until the chunk is written again (`kmod/dm-notify.rst`, "Chunks").

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::content::{BLOCK_BYTES, Found, Stamp, ZERO, look};

/// So many of the latest events are told of a block that is wrong.
const TOLD: usize = 60;
/// So many events are kept.
const KEPT: usize = 50_000;
/// Of so many writes it is known that they began.
const WRITES: usize = 1000;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads blocks.
    Read,
    /// Writes or zeroes blocks.
    Write,
    /// Discards blocks.
    Discard,
    /// Makes chunks holes, by a message.
    Holes,
    /// Takes a snapshot of all blocks.
    Cut,
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Op {
    begin: u64,
    kind: Kind,
    blocks: Range<u64>,
    stamp: Stamp,
}

/// Whether zeroes may still come by an unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latent {
    No,
    /// They may be there already, and may come.
    Also,
    /// They are not there, and may come.
    Only,
}

#[derive(Clone, Debug)]
struct Value {
    stamp: Stamp,
    /// The beginning of the operation that it is of.
    op: u64,
    ended: Option<u64>,
    gone: Option<u64>,
    latent: Latent,
}

impl Value {
    /// Whether a read that began then may find it.
    fn may_be_read(&self, since: u64) -> bool {
        self.gone.is_none_or(|gone| gone > since) && self.latent != Latent::Only
    }

    fn had_ended(&self, time: u64) -> bool {
        self.ended.is_some_and(|ended| ended < time)
    }
}

struct State {
    clock: u64,
    /// Where the volume ends: what goes beyond does not begin.
    limit: u64,
    blocks: Vec<Vec<Value>>,
    under_way: BTreeMap<u64, Range<u64>>,
    /// The writes that began last: when, of what, and when they ended.
    writes: VecDeque<(u64, Range<u64>, Option<u64>)>,
    events: VecDeque<(u64, Range<u64>, String)>,
}

/// The model of one volume.
pub struct Model {
    volume: u64,
    chunk_blocks: u64,
    state: Mutex<State>,
    ended: Condvar,
}

impl Model {
    /// A volume that is all holes.
    pub fn new(volume: u64, chunk_blocks: u64, chunks: u64) -> Self {
        let zeroes = Value { stamp: ZERO, op: 0, ended: Some(0), gone: None, latent: Latent::No };
        let limit = chunks * chunk_blocks;
        let blocks = (0..limit).map(|_| vec![zeroes.clone()]).collect();
        let state = State {
            clock: 0,
            limit,
            blocks,
            under_way: BTreeMap::new(),
            writes: VecDeque::new(),
            events: VecDeque::new(),
        };
        Self { volume, chunk_blocks, state: Mutex::new(state), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation of a writer begins, unless the volume ends before it.
    pub fn begin(&self, kind: Kind, blocks: Range<u64>, stamp: Stamp) -> Option<Op> {
        let mut state = self.lock();
        (blocks.end <= state.limit).then(|| state.begin(kind, blocks, stamp))
    }

    /// A message is sent that makes chunks holes.
    pub fn begin_holes(&self, chunks: Range<u64>) -> Op {
        let blocks = self.blocks_of(chunks);
        self.lock().begin(Kind::Holes, blocks, ZERO)
    }

    /// A snapshot is about to be taken.
    pub fn begin_cut(&self) -> Op {
        let mut state = self.lock();
        let all = 0..state.limit;
        state.begin(Kind::Cut, all, ZERO)
    }

    /// It has been taken: what each block may hold there, at all times from now on.
    pub fn cut(&self, op: &Op) -> Vec<Vec<Stamp>> {
        let mut state = self.lock();
        let readable = |values: &Vec<Value>| -> Vec<Stamp> {
            values.iter().filter(|v| v.may_be_read(op.begin)).map(|v| v.stamp).collect()
        };
        let limit = usize::try_from(op.blocks.end).unwrap_or(usize::MAX);
        let cut = state.blocks.iter().take(limit).map(readable).collect();
        state.event(op.blocks.clone(), format!("snapshot of {}", op.begin));
        state.finish(op);
        drop(state);
        self.ended.notify_all();
        cut
    }

    /// A chunk of zeroes is about to replace one for which a write of the whole chunk waits.
    pub fn begin_overwrite(&self, chunk: u64) -> Op {
        let blocks = self.blocks_of(chunk..chunk + 1);
        self.lock().begin_overwrite(blocks)
    }

    /// It has been replaced: a sentence if there was no such write.
    pub fn overwritten(&self, op: &Op) -> Result<(), String> {
        if self.lock().may_be_overwritten(op) {
            return Ok(());
        }
        Err(self.explain(op.blocks.start, "it moved without a copy, and no write of it waited"))
    }

    fn blocks_of(&self, chunks: Range<u64>) -> Range<u64> {
        chunks.start * self.chunk_blocks..chunks.end * self.chunk_blocks
    }

    /// An operation was acknowledged. For holes: a sentence if they took what no writer gave up.
    pub fn done(&self, op: &Op) -> Result<(), String> {
        let mut state = self.lock();
        let lost = if op.kind == Kind::Holes { state.lost(op) } else { None };
        state.end(op, self.chunk_blocks);
        drop(state);
        self.ended.notify_all();
        lost.map_or(Ok(()), |block| Err(self.explain(block, "it was unmapped without force")))
    }

    /// Holes that force made: what was there is lost.
    pub fn done_by_force(&self, op: &Op) {
        self.lock().end(op, self.chunk_blocks);
        self.ended.notify_all();
    }

    /// An operation failed: it may have happened, in part.
    pub fn failed(&self, op: &Op) {
        self.lock().fail(op);
        self.ended.notify_all();
    }

    /// An operation was refused or taken back: it has not happened.
    pub fn refused(&self, op: &Op) {
        self.lock().refuse(op);
        self.ended.notify_all();
    }

    /// What a read found: a sentence if that may not be.
    pub fn found(&self, op: &Op, bytes: &[u8]) -> Result<(), String> {
        let mut state = self.lock();
        let blocks = op.blocks.clone().zip(bytes.chunks_exact(BLOCK_BYTES));
        let mut wrong = None;
        for (block, bytes) in blocks {
            let found: Vec<Found> = look(bytes, self.volume, block).collect();
            if !state.judge(op, block, &found) && wrong.is_none() {
                wrong = Some((block, found));
            }
        }
        state.finish(op);
        drop(state);
        self.ended.notify_all();
        match wrong {
            None => Ok(()),
            Some((block, found)) => {
                Err(self
                    .explain(block, &format!("a read that began at {} found {found:?}", op.begin)))
            }
        }
    }

    /// Moves the volume's end, and waits for what is under way beyond it.
    pub fn set_limit(&self, chunks: u64) {
        let limit = chunks * self.chunk_blocks;
        let mut state = self.lock();
        state.limit = limit;
        while state.under_way.values().any(|blocks| blocks.end > limit) {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The number of the volume.
    pub fn volume(&self) -> u64 {
        self.volume
    }

    /// Blocks of a chunk.
    pub fn chunk_blocks(&self) -> u64 {
        self.chunk_blocks
    }

    /// Where the volume ends, in blocks.
    pub fn limit(&self) -> u64 {
        self.lock().limit
    }

    /// Notes what was done to chunks.
    pub fn note(&self, chunks: Range<u64>, text: &str) {
        let blocks = self.blocks_of(chunks);
        let mut state = self.lock();
        state.clock += 1;
        state.event(blocks, text.to_owned());
    }

    /// What is known of a block, and what has happened to it.
    pub fn explain(&self, block: u64, what: &str) -> String {
        let state = self.lock();
        let chunk = block / self.chunk_blocks;
        let mut text =
            format!("volume {} block {block} (chunk {chunk}): {what}; it may hold:\n", self.volume);
        for value in
            state.blocks.get(usize::try_from(block).unwrap_or(usize::MAX)).into_iter().flatten()
        {
            text += &format!("  {value:?}\n");
        }
        text += "what happened to its chunk (time, blocks, what):\n";
        let chunk = self.blocks_of(chunk..chunk + 1);
        let touches = |blocks: &Range<u64>| blocks.start < chunk.end && chunk.start < blocks.end;
        let events: Vec<_> = state.events.iter().filter(|(_, blocks, _)| touches(blocks)).collect();
        for (time, blocks, event) in &events[events.len().saturating_sub(TOLD)..] {
            text += &format!("  {time} {blocks:?} {event}\n");
        }
        text
    }
}

impl State {
    fn event(&mut self, blocks: Range<u64>, text: String) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back((self.clock, blocks, text));
    }

    fn begin(&mut self, kind: Kind, blocks: Range<u64>, stamp: Stamp) -> Op {
        self.clock += 1;
        let op = Op { begin: self.clock, kind, blocks: blocks.clone(), stamp };
        if !matches!(kind, Kind::Read | Kind::Cut) {
            self.event(blocks.clone(), format!("{kind:?} {stamp:#x} begins"));
            let value = Value { stamp, op: op.begin, ended: None, gone: None, latent: Latent::No };
            self.each(blocks.clone(), |values| values.push(value.clone()));
        }
        if kind == Kind::Write {
            if self.writes.len() == WRITES {
                self.writes.pop_front();
            }
            self.writes.push_back((op.begin, blocks.clone(), None));
        }
        self.under_way.insert(op.begin, blocks);
        op
    }

    /// Whether a write of all blocks had not ended when the operation began.
    fn may_be_overwritten(&self, op: &Op) -> bool {
        self.writes.iter().any(|(_, blocks, ended)| {
            blocks.start <= op.blocks.start
                && op.blocks.end <= blocks.end
                && ended.is_none_or(|ended| ended > op.begin)
        })
    }

    /// Until the write that waits has completed, its blocks may be zeroes: that one ends it, or another
    /// write that comes after the chunk has changed.
    fn begin_overwrite(&mut self, blocks: Range<u64>) -> Op {
        self.clock += 1;
        let op = Op { begin: self.clock, kind: Kind::Holes, blocks, stamp: ZERO };
        let zeroes =
            Value { stamp: ZERO, op: op.begin, ended: Some(0), gone: None, latent: Latent::No };
        self.event(op.blocks.clone(), "is overwritten".to_owned());
        self.each(op.blocks.clone(), |values| values.push(zeroes.clone()));
        op
    }

    fn each(&mut self, blocks: Range<u64>, mut change: impl FnMut(&mut Vec<Value>)) {
        for block in blocks {
            if let Some(values) = usize::try_from(block).ok().and_then(|b| self.blocks.get_mut(b)) {
                change(values);
            }
        }
    }

    /// The first block of holes that were made although none of its values is zeroes.
    fn lost(&self, op: &Op) -> Option<u64> {
        op.blocks.clone().find(|&block| {
            let values = usize::try_from(block).ok().and_then(|block| self.blocks.get(block));
            let zeroes =
                |value: &Value| value.stamp == ZERO && value.gone.is_none() && value.op != op.begin;
            !values.is_some_and(|values| values.iter().any(zeroes))
        })
    }

    /// Ends an operation well.
    fn end(&mut self, op: &Op, chunk_blocks: u64) {
        self.clock += 1;
        let now = self.clock;
        self.event(
            op.blocks.clone(),
            format!("{:?} {:#x} of {} is done", op.kind, op.stamp, op.begin),
        );
        if op.kind == Kind::Discard {
            self.end_discard(op, chunk_blocks);
        } else {
            self.each(op.blocks.clone(), |values| {
                for value in values.iter_mut().filter(|value| value.had_ended(op.begin)) {
                    value.gone.get_or_insert(now);
                }
            });
            self.settle_latent(op, chunk_blocks);
        }
        self.finish(op);
    }

    /// Zeroes of a discard of the whole chunk are latent where it met a write.
    fn end_discard(&mut self, op: &Op, chunk_blocks: u64) {
        let whole = op.blocks.start.next_multiple_of(chunk_blocks)
            ..op.blocks.end / chunk_blocks * chunk_blocks;
        self.each(whole, |values| {
            let met = values
                .iter()
                .any(|v| v.stamp != ZERO && v.gone.is_none() && !v.had_ended(op.begin));
            let own = values.iter_mut().find(|value| value.op == op.begin);
            if let Some(own) = own.filter(|_| met) {
                own.latent = Latent::Also;
            }
        });
    }

    /// A write to a chunk ends that an earlier discard may still bring zeroes there.
    fn settle_latent(&mut self, op: &Op, chunk_blocks: u64) {
        let now = self.clock;
        let chunks = op.blocks.start / chunk_blocks * chunk_blocks
            ..op.blocks.end.next_multiple_of(chunk_blocks);
        self.each(chunks, |values| {
            for value in values.iter_mut().filter(|value| value.had_ended(op.begin)) {
                match value.latent {
                    Latent::No => {}
                    Latent::Also => value.latent = Latent::No,
                    Latent::Only => {
                        value.gone.get_or_insert(now);
                    }
                }
            }
        });
    }

    fn fail(&mut self, op: &Op) {
        self.clock += 1;
        self.event(
            op.blocks.clone(),
            format!("{:?} {:#x} of {} failed", op.kind, op.stamp, op.begin),
        );
        self.finish(op);
    }

    fn refuse(&mut self, op: &Op) {
        self.clock += 1;
        let now = self.clock;
        self.event(op.blocks.clone(), format!("{:?} of {} was refused", op.kind, op.begin));
        self.each(op.blocks.clone(), |values| {
            for value in values.iter_mut().filter(|value| value.op == op.begin) {
                value.gone = Some(now);
            }
        });
        self.finish(op);
    }

    /// It is under way no more; what no read can find any more is forgotten.
    fn finish(&mut self, op: &Op) {
        let now = self.clock;
        self.under_way.remove(&op.begin);
        if let Some(write) = self.writes.iter_mut().rfind(|(begin, ..)| *begin == op.begin) {
            write.2 = Some(now);
        }
        let oldest = self.under_way.keys().next().copied().unwrap_or(u64::MAX);
        self.each(op.blocks.clone(), |values| {
            for value in values.iter_mut().filter(|value| value.op == op.begin) {
                value.ended = Some(now);
            }
            values.retain(|value| value.gone.is_none_or(|gone| gone > oldest));
            merge(values);
        });
    }

    /// Whether a read may find that in a block. It settles what the block holds if nothing met it.
    fn judge(&mut self, op: &Op, block: u64, found: &[Found]) -> bool {
        self.clock += 1;
        let now = self.clock;
        let Some(values) = usize::try_from(block).ok().and_then(|b| self.blocks.get_mut(b)) else {
            return false;
        };
        let may = |found: &Found| match found {
            Found::Stamp(stamp) => {
                values.iter().any(|value| value.stamp == *stamp && value.may_be_read(op.begin))
            }
            Found::Foreign(..) => false,
        };
        if !found.iter().all(may) {
            return false;
        }
        let quiet = values.iter().all(|value| match value.gone {
            Some(gone) => gone <= op.begin,
            None => value.had_ended(op.begin),
        });
        if let (true, Some(Found::Stamp(first))) = (quiet, found.first())
            && found.iter().all(|other| other == &found[0])
        {
            let others = |value: &&mut Value| value.stamp != *first && value.gone.is_none();
            for value in values.iter_mut().filter(others) {
                match value.latent {
                    Latent::No => value.gone = Some(now),
                    Latent::Also | Latent::Only => value.latent = Latent::Only,
                }
            }
        }
        true
    }
}

/// Of two values that are alike, the one that ended later stands for both.
fn merge(values: &mut Vec<Value>) {
    values.sort_by_key(|value| {
        (value.stamp, value.gone, value.latent as u8, value.ended.is_none(), value.ended)
    });
    let alike = |a: &Value, b: &Value| {
        a.stamp == b.stamp
            && a.gone == b.gone
            && a.latent == b.latent
            && a.ended.is_some()
            && b.ended.is_some()
    };
    // Of neighbours the second goes: it takes over the later end first.
    values.dedup_by(|later, earlier| {
        let alike = alike(later, earlier);
        if alike {
            (earlier.ended, earlier.op) = (later.ended, later.op);
        }
        alike
    });
}

#[cfg(test)]
mod tests;
