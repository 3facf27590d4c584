// SPDX-License-Identifier: LGPL-2.1-or-later
//! What each block of each volume and snapshot may read, by what its users were told.

use std::collections::BTreeMap;

/// How many blocks of a chunk guests use: its first and its last sector.
pub(super) const BLOCKS: u64 = 2;

/// What was written to a block; 0 for zeroes.
pub(super) type Value = u64;

/// What the blocks of a volume may read: a block that is not here reads zeroes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content(BTreeMap<u64, Vec<Value>>);

impl Content {
    pub(super) fn allows(&self, block: u64, value: Value) -> bool {
        self.0.get(&block).map_or(value == 0, |values| values.contains(&value))
    }

    /// It reads this from now on.
    fn set(&mut self, block: u64, value: Value) {
        self.0.insert(block, vec![value]);
    }

    /// It may read this, too.
    fn add(&mut self, block: u64, value: Value) {
        let values = self.0.entry(block).or_insert_with(|| vec![0]);
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn remove(&mut self, block: u64, value: Value) {
        if let Some(values) = self.0.get_mut(&block) {
            values.retain(|other| *other != value);
        }
    }

    /// Everything may have become zeroes.
    fn add_zeroes(&mut self) {
        for values in self.0.values_mut().filter(|values| !values.contains(&0)) {
            values.push(0);
        }
    }

    /// Beyond this chunk there is nothing.
    fn end_at(&mut self, chunk: u64) {
        drop(self.0.split_off(&(chunk * BLOCKS)));
    }

    /// The first of these values that may not be there.
    fn wrong(&self, values: &[Value]) -> Option<(u64, Value)> {
        let blocks = (0..).zip(values.iter().copied());
        blocks.into_iter().find(|(block, value)| !self.allows(*block, *value))
    }
}

/// A volume or a snapshot.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) chunks: u64,
    pub(super) content: Content,
    /// Which volume it is, or is a snapshot of: a name may be used again.
    pub(super) birth: u64,
    /// An operator changes it in a way that its guest must not meet.
    pub(super) closed: bool,
}

/// What a guest does to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Put {
        block: u64,
        value: Value,
    },
    /// It promises nothing.
    Discard {
        chunk: u64,
        chunks: u64,
    },
}

impl Effect {
    /// What it makes of a volume, once it is done.
    fn apply(self, content: &mut Content) {
        match self {
            Self::Put { block, value } => content.set(block, value),
            Self::Discard { .. } => self.begin(content),
        }
    }

    /// The same while it is not done.
    fn begin(self, content: &mut Content) {
        match self {
            Self::Put { block, value } => content.add(block, value),
            Self::Discard { chunk, chunks } => {
                for block in chunk * BLOCKS..(chunk + chunks) * BLOCKS {
                    content.add(block, 0);
                }
            }
        }
    }
}

/// What an operator has begun and not been told the end of.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Create {
        name: String,
        known: Known,
    },
    Delete {
        name: String,
    },
    /// Volumes are cut at one moment; what is made of each.
    Cut {
        made: Vec<(String, String, Known)>,
        done: Vec<(String, Effect)>,
    },
    RollBack {
        name: String,
        to: Known,
    },
    Resize {
        name: String,
        chunks: u64,
    },
    Wipe {
        name: String,
    },
    /// Nobody has to notice.
    Job,
}

impl Change {
    /// What it makes, changes or deletes.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Create { name, .. }
            | Self::Delete { name }
            | Self::RollBack { name, .. }
            | Self::Resize { name, .. }
            | Self::Wipe { name } => vec![name.clone()],
            Self::Cut { made, .. } => made.iter().map(|(_, to, _)| to.clone()).collect(),
            Self::Job => Vec::new(),
        }
    }
}

/// What there is of a name: its length in chunks and its blocks.
pub(super) type Seen = Option<(u64, Vec<Value>)>;

/// All that guests and operators know.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) known: BTreeMap<String, Known>,
    /// What is under way, by who does it.
    pub(super) under_way: BTreeMap<usize, Change>,
    /// What each guest does, and to which volume.
    pub(super) guests: BTreeMap<usize, (String, Effect)>,
    last: Value,
}

impl Model {
    /// A value or a birth that was never used.
    pub(super) fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A guest begins this.
    pub(super) fn begin(&mut self, guest: usize, name: &str, effect: Effect) {
        self.guests.insert(guest, (name.into(), effect));
        if let Some(known) = self.known.get_mut(name) {
            effect.begin(&mut known.content);
        }
        for change in self.under_way.values_mut() {
            if let Change::Cut { made, done } = change
                && made.iter().any(|(from, ..)| from == name)
            {
                done.push((name.into(), effect));
            }
        }
    }

    /// A guest was told that it is done, or that there is no space for it.
    pub(super) fn end(&mut self, guest: usize, done: bool) {
        let Some((name, effect)) = self.guests.remove(&guest) else { return };
        if !done {
            self.void(&name, effect);
        } else if let Some(known) = self.known.get_mut(&name) {
            effect.apply(&mut known.content);
        }
    }

    /// It never happened.
    fn void(&mut self, name: &str, effect: Effect) {
        let Effect::Put { block, value } = effect else { return };
        if let Some(known) = self.known.get_mut(name) {
            known.content.remove(block, value);
        }
        for change in self.under_way.values_mut() {
            if let Change::Cut { done, .. } = change {
                done.retain(|(of, other)| of != name || *other != effect);
            }
        }
    }

    /// Whether a guest is at a volume.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.guests.values().any(|(used, _)| used == name)
    }

    /// Whether an operator is at it.
    pub(super) fn is_changing(&self, name: &str) -> bool {
        self.under_way.values().any(|change| {
            let cut = match change {
                Change::Cut { made, .. } => made.iter().any(|(from, ..)| from == name),
                _ => false,
            };
            cut || change.names().iter().any(|of| of == name)
        })
    }

    /// A change has ended: its operator was `told` that it is done, or nobody knows.
    pub(super) fn settle(
        &mut self,
        who: usize,
        told: bool,
        see: &dyn Fn(&str) -> Seen,
    ) -> Result<(), String> {
        let Some(change) = self.under_way.remove(&who) else { return Ok(()) };
        self.conclude(change, told, see)
    }

    fn conclude(
        &mut self,
        change: Change,
        told: bool,
        see: &dyn Fn(&str) -> Seen,
    ) -> Result<(), String> {
        match change {
            Change::Create { name, known } => {
                let there = see(&name).is_some();
                if told && !there {
                    return Err(format!("'{name}' was made and is not there"));
                }
                if there {
                    self.known.insert(name.clone(), known);
                }
                self.check(&name, see)
            }
            Change::Delete { name } => {
                let there = see(&name).is_some();
                if told && there {
                    return Err(format!("'{name}' was deleted and is there"));
                }
                if !there {
                    self.known.remove(&name);
                }
                self.check(&name, see)
            }
            Change::Cut { made, done } => self.conclude_cut(made, &done, told, see),
            Change::RollBack { name, to } => {
                let rolled = see(&name).is_some_and(|(chunks, values)| {
                    chunks == to.chunks && to.content.wrong(&values).is_none()
                });
                if told && !rolled {
                    return Err(format!("'{name}' does not show what its snapshot shows"));
                }
                if rolled && let Some(known) = self.known.get_mut(&name) {
                    (known.content, known.chunks) = (to.content, to.chunks);
                }
                self.check(&name, see)
            }
            Change::Resize { name, chunks } => {
                let now = see(&name).map_or(0, |(now, _)| now);
                if told && now != chunks {
                    return Err(format!("'{name}' has {now} chunks, and was to have {chunks}"));
                }
                if let Some(known) = self.known.get_mut(&name).filter(|_| now == chunks) {
                    known.chunks = chunks;
                    known.content.end_at(chunks);
                }
                self.check(&name, see)
            }
            Change::Wipe { name } => {
                if let Some(known) = self.known.get_mut(&name) {
                    known.content.add_zeroes();
                    if told {
                        known.content = Content::default();
                    }
                }
                self.check(&name, see)
            }
            Change::Job => Ok(()),
        }
    }

    /// All of what was made shows one moment: the beginning, or after one of the writes since.
    fn conclude_cut(
        &mut self,
        made: Vec<(String, String, Known)>,
        done: &[(String, Effect)],
        told: bool,
        see: &dyn Fn(&str) -> Seen,
    ) -> Result<(), String> {
        let seen: Vec<_> = made.iter().filter_map(|(_, name, _)| see(name)).collect();
        if seen.len() != made.len() {
            let some = told || !seen.is_empty();
            let what = || format!("{} of {} were made: {made:?}", seen.len(), made.len());
            return if some { Err(what()) } else { Ok(()) };
        }
        for moment in 0..=done.len() {
            let mut made = made.clone();
            for (name, effect) in &done[..moment] {
                for (_, _, known) in made.iter_mut().filter(|(from, ..)| from == name) {
                    effect.apply(&mut known.content);
                }
            }
            let fits = |((_, _, known), (_, values)): (&(_, _, Known), &(u64, Vec<Value>))| {
                known.content.wrong(values).is_none()
            };
            if made.iter().zip(&seen).all(fits) {
                self.known.extend(made.into_iter().map(|(_, name, known)| (name, known)));
                return Ok(());
            }
        }
        let names: Vec<_> = made.iter().map(|(_, name, _)| name).collect();
        Err(format!("{names:?} show no one moment: {seen:?}, begun as {made:?}, then {done:?}"))
    }

    /// Whether a volume is what it should be.
    pub(super) fn check(&self, name: &str, see: &dyn Fn(&str) -> Seen) -> Result<(), String> {
        match (self.known.get(name), see(name)) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(format!("'{name}' is there and was never made")),
            (Some(_), None) => Err(format!("'{name}' is gone")),
            (Some(known), Some((chunks, _))) if known.chunks != chunks => {
                Err(format!("'{name}' has {chunks} chunks, and should have {}", known.chunks))
            }
            (Some(known), Some((_, values))) => match known.content.wrong(&values) {
                None => Ok(()),
                Some((block, value)) => Err(format!(
                    "block {block} of '{name}' reads {value}, and may be {:?}",
                    known.content.0.get(&block)
                )),
            },
        }
    }

    /// The host has ended: what was under way has happened or not.
    pub(super) fn restart(
        &mut self,
        names: &[String],
        see: &dyn Fn(&str) -> Seen,
    ) -> Result<(), String> {
        while let Some((_, change)) = self.under_way.pop_first() {
            self.conclude(change, false, see)?;
        }
        for known in self.known.values_mut() {
            known.closed = false;
        }
        self.known.keys().try_for_each(|name| self.check(name, see))?;
        names.iter().try_for_each(|name| self.check(name, see))
    }
}
