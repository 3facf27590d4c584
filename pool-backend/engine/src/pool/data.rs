// SPDX-License-Identifier: LGPL-2.1-or-later
//! The data LVs of a started pool, whose chunks volumes get.
//!
//! Usually there is one. LVM resizes none while `pvmove` moves a part of it, which can take hours:
//! then the pool gets another one, if a write waits ([`super::room`]). Numbers are positions in the
//! volumes' tables, so they have no gaps, and none goes before the pool does.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::lock;
use crate::device::BlockDevice;
use crate::runtime::{Instant, Mutex};

/// The data LVs, by number.
#[derive(Default)]
pub(crate) struct DataLvs {
    devices: Mutex<BTreeMap<u16, Arc<dyn BlockDevice>>>,
    /// The one that grows.
    growing: Mutex<Growing>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Growing {
    lv: u16,
    /// Since when LVM moves all of them, as far as is known.
    stuck: Option<Instant>,
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

    pub(super) fn add(&self, lv: u16, device: Arc<dyn BlockDevice>) {
        lock(&self.devices).insert(lv, device);
    }

    /// What was written to any of them is durable afterwards.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.all().iter().try_for_each(|(_, device)| device.sync())
    }

    /// The one that is extended, as LVM said last.
    pub(super) fn growing(&self) -> u16 {
        lock(&self.growing).lv
    }

    /// Notes which of them LVM moves: the first other one grows from now on.
    pub(super) fn note_moving(&self, is_moving: impl Fn(u16) -> bool) {
        let free = self.numbers().into_iter().find(|&lv| !is_moving(lv));
        let mut growing = lock(&self.growing);
        match free {
            Some(lv) => *growing = Growing { lv, stuck: None },
            None => drop(growing.stuck.get_or_insert_with(Instant::now)),
        }
    }

    /// Since when LVM moves all of them.
    pub(super) fn stuck(&self) -> Option<Instant> {
        lock(&self.growing).stuck
    }
}
