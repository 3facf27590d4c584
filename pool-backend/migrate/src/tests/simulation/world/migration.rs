// SPDX-License-Identifier: LGPL-2.1-or-later
//! How libvirt moves the VM, or fails to.

use virtnotify_model::Bytes;

use super::{DISK, HERE, World};
use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Job, Progress};

/// A migration that libvirt works on.
pub(super) struct Migration {
    pub(super) to: usize,
    /// Whether it ran then.
    ran: bool,
    pub(super) left: u32,
    cancelled: bool,
}

impl World {
    pub(in super::super) fn migrate(&mut self, to: usize) -> Result<(), HvError> {
        let failed = |why: &str| Err(HvError::refused("cannot migrate", why));
        if !self.hosts[HERE].is_active() || self.migration.is_some() {
            return failed("the VM is not active, or busy");
        }
        if self.hosts[to].silent || self.hosts[to].asleep.is_some() {
            return failed("cannot reach the peer");
        }
        if self.hosts[to].vm.is_some() || !self.hosts[to].volumes.contains_key(DISK) {
            return failed("it is there, or its disk is not");
        }
        let vm = self.hosts[HERE].vm.clone();
        let arriving = |vm| Domain { state: RunState::Arriving, persistent: false, ..vm };
        self.hosts[to].vm = vm.map(arriving);
        let left = self.random.u32(1..4);
        let ran = self.hosts[HERE].runs();
        self.migration = Some(Migration { to, ran, left, cancelled: false });
        Ok(())
    }

    pub(in super::super) fn is_migrating(&self) -> bool {
        self.migration.is_some()
    }

    pub(in super::super) fn abort(&mut self) {
        self.migration.iter_mut().for_each(|of| of.cancelled = true);
    }

    pub(in super::super) fn job(&mut self) -> Job {
        match &self.migration {
            None => Job::None,
            Some(of) if of.cancelled => Job::Ending { cancelled: true },
            Some(_) => Job::Moving(Progress {
                done: Bytes::mib(1),
                total: Bytes::mib(2),
                disks_left: None,
            }),
        }
    }

    /// libvirt goes on. `Some` is the end of the migration.
    pub(in super::super) fn progress(&mut self) -> Option<Result<(), HvError>> {
        let of = self.migration.as_mut()?;
        if of.left > 0 {
            of.left -= 1;
            return None;
        }
        let of = self.migration.take()?;
        let ends = self.finish(&of);
        self.note(|_| format!("libvirt's migration ends: {ends:?}"));
        Some(ends)
    }

    fn finish(&mut self, of: &Migration) -> Result<(), HvError> {
        let Migration { to, cancelled, .. } = *of;
        let failed = || Err(HvError::refused("libvirt could not migrate it", "End of file"));
        let silent = self.hosts[to].silent || self.hosts[to].asleep.is_some();
        let arrives = !cancelled
            && self.hosts[HERE].is_active()
            && self.hosts[to].state() == Some(RunState::Arriving)
            && !self.chance(12);
        // Where the peer fell silent, it may be just before its end or just after it.
        if !arrives || (silent && self.random.bool()) {
            self.hosts[to].vm.take_if(|vm| vm.state == RunState::Arriving);
            return if cancelled && self.random.bool() {
                Err(HvError::Cancelled)
            } else {
                failed()
            };
        }
        let lost = silent || self.chance(8);
        let Some(mut vm) = self.hosts[HERE].vm.take() else { return failed() };
        let data = self.hosts[HERE].data();
        if let Some(copy) = self.hosts[to].volumes.get_mut(DISK) {
            copy.data = data;
        }
        let mut arrived = vm.clone();
        (arrived.state, arrived.autostart, arrived.ended) = (RunState::Paused, false, false);
        self.hosts[to].touched = false;
        self.hosts[to].vm = Some(arrived);
        if !lost {
            if vm.persistent && self.chance(8) {
                vm.state = RunState::Off;
                self.hosts[HERE].vm = Some(vm);
            }
            return Ok(());
        }
        let ran = vm.state == RunState::Running;
        let left = ran && of.ran && self.random.u8(..4) == 0;
        if left {
            vm.state = RunState::Arriving;
        }
        self.hosts[HERE].vm = Some(vm);
        if ran && !left {
            self.writes(HERE);
        }
        if self.random.u8(..4) == 0 {
            self.hosts[to].vm.iter_mut().for_each(|vm| vm.state = RunState::Arriving);
        }
        failed()
    }
}
