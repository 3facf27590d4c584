// SPDX-License-Identifier: LGPL-2.1-or-later
//! The grow thread: from a held write to its chunk. One per pool.
//!
//! ```text
//!            bell, doorbell or time
//!   asleep ─────────────────────────▶ ask `pending` of who rang
//!     ▲                                  │ wishes
//!     │                                  ▼
//!     │        nobody waits         allocate, ONE commit for all, send `map`
//!     ├──────────────────────────────────┤
//!     │                                  │ a write waits still: starving
//!     │   `nospace`, SpaceExhausted      ▼
//!     └────────────────────────────── wake the headroom thread ── "replenished" / "exhausted"
//! ```
//!
//! A bell is a hint: it may be lost, doubled or late. The target's status is the truth, and a
//! sweep looks at it. What is sent is durable, so a thread that dies anywhere here leaves a held
//! write, which the next one finds, or a mapping, which the next one sends again.
//!
//! It never runs LVM, and takes no lock that is held across LVM, libvirt or D-Bus.

pub(crate) mod bell;
pub(crate) mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use virtnotify_model::{BackendError, Chunks, Event};

use self::bell::Ear;
use crate::pool::Shared;
use crate::pool::core::{Durable, Growth, VolumeId};
use crate::runtime::Instant;
use crate::target::{DeviceId, TargetError, Wish};

/// How often the status of every device is looked at, while something waits and otherwise.
const SWEEP_BUSY: Duration = Duration::from_secs(1);
const SWEEP_IDLE: Duration = Duration::from_secs(10);
/// The time until others are told that something grew, together with all that grew meanwhile.
const TELL: Duration = Duration::from_millis(100);
/// When nothing has grown for this long, all is quiet: work that could wait is done then. The
/// longest run that is given ahead lasts a fast writer for a part of this.
const QUIET: Duration = Duration::from_millis(500);
/// How often `pending` is asked again in one round while its answers are cut.
const ROUNDS: usize = 64;
/// How many discarded chunks of snapshots become holes in one commit.
const HOLES: usize = 256;

/// Notes that others leave for the grow thread before they ring.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// There are clean chunks again.
    pub(crate) replenished: bool,
    /// The headroom thread's attempt of this number found nothing left to clean, and nothing more
    /// in the volume group.
    pub(crate) exhausted: Option<u64>,
    /// The metadata can be written again.
    pub(crate) recovered: bool,
    /// Look at these volumes.
    pub(crate) look_at: BTreeSet<VolumeId>,
    /// So many chunks were copied for these volumes, since others show them as well.
    pub(crate) copied: BTreeMap<VolumeId, u64>,
    /// End.
    pub(crate) stop: bool,
}

/// What a volume waits for, and since when.
#[derive(Debug, Clone, Copy)]
struct Hunger {
    chunks: u64,
    /// How many attempts to fill the headroom had begun when the wait began. Only a later one
    /// can say that there is nothing for it: an earlier one looked before space may have come.
    since: u64,
}

/// The grow thread's own state.
pub(crate) struct Grower {
    shared: Arc<Shared>,
    ear: Ear,
    /// Volumes with writes that wait for chunks that are not there.
    starving: BTreeMap<VolumeId, Hunger>,
    /// How many writes of each volume had waited too long when it was last looked at.
    timed_out: BTreeMap<VolumeId, u64>,
    swept: Instant,
    told_broken: bool,
    /// Growths that are not told yet. D-Bus has listeners that cost more than a growth.
    news: BTreeMap<VolumeId, u64>,
    told: Instant,
    /// When something last grew, until all is quiet.
    grown: Option<Instant>,
    /// How large the metadata was when the headroom thread was last told to look at it.
    metadata: u64,
}

impl Grower {
    /// Made in the thread that it belongs to.
    pub(crate) fn new(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (ear, now) = (Ear::new()?, Instant::now());
        Ok(Self {
            shared,
            ear,
            starving: BTreeMap::new(),
            timed_out: BTreeMap::new(),
            swept: now,
            told_broken: false,
            news: BTreeMap::new(),
            told: now,
            grown: None,
            metadata: 0,
        })
    }

    /// Runs until the thread is told to stop.
    pub(crate) fn run(mut self) {
        loop {
            let interval = if self.starving.is_empty() { SWEEP_IDLE } else { SWEEP_BUSY };
            let mut left = interval.saturating_sub(self.swept.elapsed());
            if let Some(grown) = self.grown {
                let quiet = QUIET.saturating_sub(grown.elapsed());
                left = left.min(if self.news.is_empty() { quiet } else { TELL });
            }
            let woken = match self.ear.listen(&self.shared.doorbell, left) {
                Ok(woken) => woken,
                // It ends, and the process with it.
                Err(error) => {
                    return self.shared.damage(format!("the grow thread is deaf: {error}"));
                }
            };
            let notes = self.shared.take_notes();
            self.add_news(&notes.copied);
            if notes.stop {
                return self.tell_news();
            }
            if notes.recovered {
                self.told_broken = false;
            }
            let mut ask = notes.look_at;
            ask.extend(woken.minors.iter().filter_map(|&minor| self.shared.id_of_minor(minor)));
            if notes.replenished || notes.exhausted.is_some() {
                ask.extend(self.starving.keys());
            }
            let sweeps = self.swept.elapsed() >= interval || notes.recovered;
            if sweeps {
                ask.extend(self.sweep());
            }
            self.serve(&ask);
            if let Some(attempt) = notes.exhausted {
                self.exhaust(attempt);
            }
            // What could not be told at once is told by a sweep.
            if notes.replenished || sweeps {
                self.relieve();
            }
            self.shared.beat();
            self.settle();
        }
    }

    /// Does what could wait until nothing grew for a moment; tells the news in any case.
    fn settle(&mut self) {
        let Some(grown) = self.grown else { return };
        if self.told.elapsed() >= TELL {
            self.tell_news();
        }
        if grown.elapsed() >= QUIET {
            self.grown = None;
            self.shared.gate.set_busy(false);
            self.shared.gate.kick();
        }
    }

    fn tell_news(&mut self) {
        self.told = Instant::now();
        let news = std::mem::take(&mut self.news);
        for (&id, &chunks) in &news {
            self.shared.tell_grown(id, Chunks(chunks));
        }
        let grown: Vec<VolumeId> = news.into_keys().collect();
        self.shared.tell_recounted(&grown);
    }

    /// What volumes got is told soon.
    fn add_news(&mut self, grown: &BTreeMap<VolumeId, u64>) {
        for (&id, &chunks) in grown {
            *self.news.entry(id).or_default() += chunks;
        }
        if !grown.is_empty() {
            self.grown = Some(Instant::now());
        }
    }

    /// Answers what these volumes wait for.
    fn serve(&mut self, volumes: &BTreeSet<VolumeId>) {
        let (mut asks, mut devices, mut looked) = (Vec::new(), BTreeMap::new(), Vec::new());
        for &id in volumes {
            // No write waits in a volume without a device.
            let wishes = self.shared.device(id).map(|device| {
                let mut wishes = self.wishes(&device);
                if self.look_for_holes(id, &device, &mut wishes) {
                    looked.push(id);
                }
                devices.insert(id, device);
                wishes
            });
            match wishes {
                Some(wishes) if !wishes.is_empty() => asks.push((id, wishes)),
                _ => {
                    self.starving.remove(&id);
                }
            }
        }
        if asks.is_empty() {
            self.shared.sent(&looked);
            return self.shared.gate.set_hungry(self.hunger());
        }
        let (growth, clean, metadata) = {
            let mut core = self.shared.core_first();
            let growth = core.grow(&asks, self.shared.policy().growth);
            if let Ok(growth) = &growth {
                let holed = growth.holes.iter().map(|(id, _)| *id);
                let changed: Vec<_> = growth.grown.keys().copied().chain(holed).collect();
                self.shared.view().refresh(&mut core, &changed);
            }
            (growth, core.free.clean(), core.metadata_length())
        };
        // What it decided about has a number of its own to be sent.
        self.shared.sent(&looked);
        let growth = match growth {
            Ok(growth) => growth,
            Err(error) => return self.tell_broken(&error),
        };
        self.send(&growth, &devices);
        self.add_news(&growth.grown);
        if !growth.grown.is_empty() {
            self.shared.gate.set_busy(true);
        }
        for (id, _) in asks.iter().filter(|(id, _)| !growth.unmet.contains_key(id)) {
            self.starving.remove(id);
        }
        // Before it is noted which attempts have begun: a later one has to know of them.
        let others = self.starving.iter().filter(|(id, _)| !growth.unmet.contains_key(id));
        let others: u64 = others.map(|(_, hunger)| hunger.chunks).sum();
        self.shared.gate.set_hungry(others + growth.unmet.values().sum::<u64>());
        for (&id, &chunks) in &growth.unmet {
            self.starve(id, chunks);
        }
        // Else it has nothing to do before all is quiet.
        let larger = std::mem::replace(&mut self.metadata, metadata) != metadata;
        let short = clean < self.shared.gate.mark() || !self.starving.is_empty();
        if short || larger || growth.discards || !growth.holes.is_empty() {
            self.shared.gate.kick();
        }
    }

    /// Tells the target what was decided and is durable.
    fn send(&self, growth: &Durable<Growth>, devices: &BTreeMap<VolumeId, DeviceId>) {
        for id in growth.maps.keys() {
            let Some(device) = devices.get(id) else { continue };
            let runs = growth.part(|growth| growth.runs(*id));
            if let Err(error) = self.shared.target.map(device, runs) {
                self.complain("map", &error);
            }
        }
        for (id, chunk) in &growth.unprotect {
            let Some(device) = devices.get(id) else { continue };
            if let Err(error) = self.shared.target.protect(device, &[(*chunk, 1)], false) {
                self.complain("unprotect", &error);
            }
        }
        for (id, gap) in growth.part(|growth| growth.holes()).each().map(|hole| hole.split()) {
            let Some(device) = devices.get(&id) else { continue };
            if let Err(error) = self.shared.target.forget(device, gap) {
                self.complain("forget", &error);
                self.shared.unsettle(id);
            }
        }
        self.shared.copies.ask(&growth.copies);
        let told = growth.told();
        if !told.is_empty() {
            self.shared.sent(&told);
        }
    }

    /// For how many chunks writes wait.
    fn hunger(&self) -> u64 {
        self.starving.values().map(|hunger| hunger.chunks).sum()
    }

    /// What a volume waits for.
    fn wishes(&self, device: &DeviceId) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for _ in 0..ROUNDS {
            match self.shared.target.pending(device) {
                Ok(pending) => {
                    wishes.extend(pending.wishes);
                    if !pending.more {
                        break;
                    }
                }
                Err(error) => {
                    self.complain("pending", &error);
                    break;
                }
            }
        }
        wishes
    }

    /// What is told as a hole may be one no more: the kernel tells each once, and others may have
    /// looked meanwhile. Holds no more of them than one commit should have; the rest is next. Says whether
    /// it has looked: then nobody brings back what has left until [`Shared::sent`].
    fn look_for_holes(&self, id: VolumeId, device: &DeviceId, wishes: &mut Vec<Wish>) -> bool {
        {
            let mut core = self.shared.core_first();
            let known = core.take_holed(id, HOLES);
            wishes.extend(known.into_iter().map(Wish::Holed));
            let holes = wishes.iter().any(|wish| matches!(wish, Wish::Holed(_)));
            match core.volume_mut(id).filter(|_| holes) {
                Some(volume) => drop(volume.begin_sending()),
                None => return false,
            }
        }
        let mut left = HOLES;
        let mut later = Vec::new();
        wishes.retain(|wish| {
            let Wish::Holed(chunk) = *wish else { return true };
            if left == 0 {
                later.push(chunk);
                return false;
            }
            match self.shared.target.is_leaving(device, chunk) {
                Ok(leaving) => {
                    left -= usize::from(leaving);
                    leaving
                }
                Err(error) => {
                    self.complain("dump", &error);
                    later.push(chunk);
                    false
                }
            }
        });
        if later.is_empty() {
            return true;
        }
        if let Some(volume) = self.shared.core_first().volume_mut(id) {
            volume.hole_later(&later);
        }
        if left == 0 {
            self.shared.note(|notes| notes.look_at.extend([id]));
        }
        true
    }

    /// Looks at every device; says which volumes wait.
    fn sweep(&mut self) -> Vec<VolumeId> {
        self.swept = Instant::now();
        let mut waiting = Vec::new();
        let mut late = false;
        for (id, device) in self.shared.devices() {
            match self.shared.target.status(&device) {
                Ok(status) => {
                    if status.wanted > 0 {
                        waiting.push(id);
                    }
                    if !status.notifier {
                        self.register(&device);
                    }
                    let before = self.timed_out.insert(id, status.timed_out);
                    late |= before.unwrap_or(0) < status.timed_out && !status.nospace;
                }
                Err(error) => self.complain("status", &error),
            }
        }
        if late {
            // Their VMs were paused for want of space, and it was only us who were late.
            tracing::warn!(pool = %self.shared.name, "writes waited too long and failed");
            self.tell_available();
        }
        waiting
    }

    fn tell_available(&self) {
        let available = self.shared.available();
        tracing::info!(pool = %self.shared.name, "there is space again: {available}");
        self.shared.emit(Event::SpaceAvailable { pool: self.shared.name.clone(), available });
    }

    fn register(&self, device: &DeviceId) {
        if let Err(error) = self.shared.register(device) {
            self.complain("notifier", &error);
        }
    }

    fn starve(&mut self, id: VolumeId, chunks: u64) {
        let since = self.starving.get(&id).map_or_else(|| self.shared.gate.begun(), |h| h.since);
        self.starving.insert(id, Hunger { chunks, since });
    }

    /// Tells volumes that have waited since before `attempt` that there is nothing.
    fn exhaust(&mut self, attempt: u64) {
        self.tell_news();
        for (id, hunger) in std::mem::take(&mut self.starving) {
            if hunger.since >= attempt {
                self.starving.insert(id, hunger);
                continue;
            }
            let Some(device) = self.shared.device(id) else { continue };
            if let Err(error) = self.shared.target.space(&device, false) {
                self.complain("nospace", &error);
                self.starving.insert(id, hunger);
                continue;
            }
            self.shared.tell_exhausted(id, Chunks(hunger.chunks));
        }
        self.shared.gate.set_hungry(self.hunger());
    }

    /// Lets volumes that were told so go on, as many of them as there are chunks.
    fn relieve(&mut self) {
        let (waiting, clean) = self.shared.out_of_space();
        let mut relieved = false;
        for (id, device) in waiting.into_iter().take(usize::try_from(clean).unwrap_or(usize::MAX)) {
            match self.shared.target.space(&device, true) {
                Ok(()) => {
                    self.shared.set_out_of_space(id, false);
                    relieved = true;
                }
                Err(error) => self.complain("space", &error),
            }
        }
        if relieved {
            self.tell_available();
        }
    }

    fn tell_broken(&mut self, error: &BackendError) {
        if !std::mem::replace(&mut self.told_broken, true) {
            self.shared.damaged.store(true, Ordering::Relaxed);
            self.shared.damage(format!("volumes cannot grow: {error}"));
        }
        // It is tried to open the metadata again.
        self.shared.gate.kick();
    }

    /// A device that is just being removed does not answer, which is fine.
    fn complain(&self, step: &str, error: &TargetError) {
        if error.is_gone() {
            tracing::debug!(pool = %self.shared.name, step, %error, "a device is gone");
        } else {
            tracing::error!(pool = %self.shared.name, step, %error, "the target refused");
        }
    }
}
