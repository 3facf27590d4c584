// SPDX-License-Identifier: LGPL-2.1-or-later
//! The data LVs of a started pool, whose chunks volumes get.
//!
//! Usually there is one. LVM resizes none while `pvmove` moves a part of it, which can take hours:
//! then the pool gets another one, if a write waits ([`super::room`]). Numbers are positions in the
//! volumes' tables, so they have no gaps, and none goes before the pool does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lock;
use crate::device::BlockDevice;
use crate::runtime::{Instant, Mutex};

/// The data LVs, by number.
#[derive(Default)]
pub(crate) struct DataLvs {
    devices: Mutex<BTreeMap<u16, Arc<dyn BlockDevice>>>,
    moves: Mutex<Moves>,
    /// How many tables are being written, which may lack the last of them.
    tables: AtomicUsize,
}

/// What is known of LVM's moves and of the devices' tables.
#[derive(Debug, Default)]
struct Moves {
    /// Those that LVM moves.
    moving: BTreeSet<u16>,
    /// Since when it moves all of them.
    stuck: Option<Instant>,
    /// Those that some device's table may lack: nothing is on them.
    unknown: BTreeSet<u16>,
    /// Whether LVM has made one that the metadata does not have.
    left_over: bool,
}

/// A table is being written.
pub(super) struct Writing<'a>(&'a DataLvs);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.tables.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DataLvs {
    pub(super) fn new(devices: BTreeMap<u16, Arc<dyn BlockDevice>>) -> Self {
        Self { devices: Mutex::new(devices), ..Self::default() }
    }

    pub(crate) fn get(&self, lv: u16) -> Option<Arc<dyn BlockDevice>> {
        lock(&self.devices).get(&lv).cloned()
    }

    /// All of them in order.
    pub(crate) fn all(&self) -> Vec<(u16, Arc<dyn BlockDevice>)> {
        lock(&self.devices).iter().map(|(&lv, device)| (lv, device.clone())).collect()
    }

    pub(crate) fn numbers(&self) -> Vec<u16> {
        lock(&self.devices).keys().copied().collect()
    }

    /// The number that another one would get.
    pub(super) fn next(&self) -> u16 {
        lock(&self.devices).keys().next_back().map_or(0, |last| last + 1)
    }

    /// Adds one, which no device's table has yet.
    pub(super) fn add(&self, lv: u16, device: Arc<dyn BlockDevice>) {
        lock(&self.moves).unknown.insert(lv);
        lock(&self.devices).insert(lv, device);
    }

    /// A table is about to be written, until its device has it.
    pub(super) fn write_table(&self) -> Writing<'_> {
        self.tables.fetch_add(1, Ordering::SeqCst);
        Writing(self)
    }

    /// Whether a table that is being written may lack the last of them.
    pub(super) fn is_written(&self) -> bool {
        self.tables.load(Ordering::SeqCst) > 0
    }

    /// The ones that some device's table may lack.
    pub(super) fn unknown(&self) -> Vec<u16> {
        lock(&self.moves).unknown.iter().copied().collect()
    }

    /// Whether all devices' tables have it.
    pub(super) fn is_known(&self, lv: u16) -> bool {
        !lock(&self.moves).unknown.contains(&lv)
    }

    /// The tables of all devices have all of them.
    pub(super) fn all_known(&self) {
        lock(&self.moves).unknown.clear();
    }

    /// What was written to any of them is durable afterwards.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.all().iter().try_for_each(|(_, device)| device.sync())
    }

    /// The one that is extended: the first that LVM does not move, as far as is known.
    pub(super) fn growing(&self) -> u16 {
        let moves = lock(&self.moves);
        self.numbers().into_iter().find(|lv| !moves.moving.contains(lv)).unwrap_or_default()
    }

    /// Whether LVM moves it, and so does not resize it.
    pub(super) fn is_moving(&self, lv: u16) -> bool {
        lock(&self.moves).moving.contains(&lv)
    }

    /// Notes whether LVM has made one that the metadata does not have.
    pub(super) fn note_left_over(&self, left_over: bool) {
        lock(&self.moves).left_over = left_over;
    }

    pub(super) fn has_left_over(&self) -> bool {
        lock(&self.moves).left_over
    }

    /// Notes which of them LVM moves.
    pub(super) fn note_moving(&self, is_moving: impl Fn(u16) -> bool) {
        let all = self.numbers();
        let moving: BTreeSet<u16> = all.iter().copied().filter(|&lv| is_moving(lv)).collect();
        let mut moves = lock(&self.moves);
        let stuck = moving.len() == all.len();
        moves.stuck = stuck.then(|| moves.stuck.unwrap_or_else(Instant::now));
        moves.moving = moving;
    }

    /// Since when LVM moves all of them.
    pub(super) fn stuck(&self) -> Option<Instant> {
        lock(&self.moves).stuck
    }
}
