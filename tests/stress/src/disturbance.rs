// SPDX-License-Identifier: LGPL-2.1-or-later
//! What befalls all volumes at once: the notifier dies or is stopped, and memory fails.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;

use crate::bell::Bell;
use crate::fault::Faults;
use crate::server::Signs;
use crate::volume::Volume;

/// One thread's deeds.
pub struct Disturbance<'a> {
    volumes: &'a [Volume<'a>],
    notifier: &'a Mutex<u32>,
    bell: Bell,
    rung: Sender<()>,
    signs: &'a Signs,
    /// What makes allocations fail.
    pub faults: Faults,
    /// How often each was done.
    pub done: BTreeMap<&'static str, u64>,
}

impl<'a> Disturbance<'a> {
    /// The notifier is there, and each volume knows it.
    pub fn new(
        volumes: &'a [Volume<'a>],
        notifier: &'a Mutex<u32>,
        bell: Bell,
        rung: Sender<()>,
        signs: &'a Signs,
        faults: Faults,
    ) -> Self {
        Self { volumes, notifier, bell, rung, signs, faults, done: BTreeMap::new() }
    }

    /// One turn: something, and a pause.
    pub fn turn(&mut self, rng: &mut Rng) -> Result<()> {
        let (kind, long) = (rng.u32(0..100), rng.u64(0..100));
        let (pause, percent) = (Duration::from_millis(rng.u64(100..800)), rng.u32(1..=10));
        let name = match kind {
            0..30 => self.kill(Duration::from_millis(long))?,
            // Now and then for longer than the shortest time that a write waits.
            30..45 => self.stop(Duration::from_millis(if long < 10 { 2500 } else { 5 * long }))?,
            45..70 if self.faults.can_be() => {
                self.fail(percent, Duration::from_millis(20 * long))?
            }
            _ => "nothing",
        };
        *self.done.entry(name).or_default() += 1;
        std::thread::sleep(pause);
        Ok(())
    }

    /// Nothing happens any more; the notifier is there.
    pub fn end(self) -> Bell {
        self.bell
    }

    fn kill(&mut self, pause: Duration) -> Result<&'static str> {
        self.signs.disturbed.fetch_add(1, Ordering::AcqRel);
        {
            // Nobody registers one that is dead.
            let mut pid = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
            self.bell.kill()?;
            std::thread::sleep(pause);
            self.bell = Bell::start(self.rung.clone())?;
            *pid = self.bell.pid();
        }
        for volume in self.volumes {
            // Who holds the map may have the device removed.
            let _map = volume.map();
            volume.register()?;
        }
        self.signs.disturbed.fetch_add(1, Ordering::AcqRel);
        Ok("notifier killed")
    }

    fn stop(&self, pause: Duration) -> Result<&'static str> {
        self.signs.disturbed.fetch_add(1, Ordering::AcqRel);
        self.bell.stop()?;
        std::thread::sleep(pause);
        self.bell.go_on()?;
        self.signs.disturbed.fetch_add(1, Ordering::AcqRel);
        Ok("notifier stopped")
    }

    fn fail(&self, percent: u32, pause: Duration) -> Result<&'static str> {
        self.faults.set(percent)?;
        std::thread::sleep(pause);
        self.faults.set(0)?;
        Ok("memory failed")
    }
}
