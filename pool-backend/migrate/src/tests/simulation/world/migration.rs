// SPDX-License-Identifier: LGPL-2.1-or-later
//! How libvirt moves a VM, or fails to.

use virtnotify_model::Bytes;

use super::{HERE, NAMES, World};
use crate::domain::{Domain, RunState};
use crate::hypervisor::{HvError, Job, Progress};

/// A migration that libvirt works on.
pub(in super::super) struct Migration {
    pub(super) to: usize,
    /// Whether it ran then.
    ran: bool,
    pub(super) left: u32,
    cancelled: bool,
}

impl World {
    pub(in super::super) fn migrate(
        &mut self,
        guest: usize,
        to: usize,
        disks: Vec<String>,
    ) -> Result<(), HvError> {
        let failed = |why: &str| Err(HvError::refused("cannot migrate", why));
        let of = &self.guests[guest];
        if !of.is_active(HERE) || of.migration.is_some() {
            return failed("the VM is not active, or busy");
        }
        if self.hosts[to].silent || self.hosts[to].asleep.is_some() {
            return failed("cannot reach the peer");
        }
        let there = |name| self.hosts[to].volumes.contains_key(name);
        if of.at[to].vm.is_some() || !of.disks.iter().all(there) {
            return failed("it is there, or a disk is not");
        }
        if disks.len() != of.disks.len() {
            let name = of.name.clone();
            self.is_wrong(format!("of {name} only {disks:?} are copied"));
        }
        let of = &mut self.guests[guest];
        let vm = of.at[HERE].vm.clone();
        let arriving = |vm| Domain { state: RunState::Arriving, persistent: false, ..vm };
        (of.at[to].vm, of.at[to].breaks_off) = (vm.map(arriving), false);
        let left = self.random.u32(1..4);
        let ran = of.runs(HERE);
        of.migration = Some(Migration { to, ran, left, cancelled: false });
        Ok(())
    }

    pub(in super::super) fn is_migrating(&self) -> bool {
        self.guests.iter().any(|guest| guest.migration.is_some())
    }

    pub(in super::super) fn abort(&mut self, guest: usize) {
        self.guests[guest].migration.iter_mut().for_each(|of| of.cancelled = true);
    }

    pub(in super::super) fn job(&mut self, guest: usize) -> Job {
        match &self.guests[guest].migration {
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
    pub(in super::super) fn progress(&mut self, guest: usize) -> Option<Result<(), HvError>> {
        let of = self.guests[guest].migration.as_mut()?;
        if of.left > 0 {
            of.left -= 1;
            return None;
        }
        let of = self.guests[guest].migration.take()?;
        let ends = self.finish(guest, &of);
        let name = self.guests[guest].name.clone();
        self.note(|_| format!("libvirt's migration of {name} ends: {ends:?}"));
        Some(ends)
    }

    fn finish(&mut self, guest: usize, of: &Migration) -> Result<(), HvError> {
        let Migration { to, cancelled, .. } = *of;
        let failed = || Err(HvError::refused("libvirt could not migrate it", "End of file"));
        let silent = self.hosts[to].silent || self.hosts[to].asleep.is_some();
        let arrives = !cancelled
            && self.guests[guest].is_active(HERE)
            && self.guests[guest].state(to) == Some(RunState::Arriving)
            && !self.chance(12);
        // Where the peer fell silent, it may be just before its end or just after it.
        if !arrives || (silent && self.random.bool()) {
            self.guests[guest].at[to].vm.take_if(|vm| vm.state == RunState::Arriving);
            return if cancelled && self.random.bool() {
                Err(HvError::Cancelled)
            } else {
                failed()
            };
        }
        let lost = silent || self.chance(8);
        let Some(mut vm) = self.guests[guest].at[HERE].vm.take() else { return failed() };
        self.copy(guest, to);
        let mut arrived = vm.clone();
        (arrived.state, arrived.autostart, arrived.ended) = (RunState::Paused, false, false);
        self.guests[guest].at[to].touched = false;
        self.guests[guest].at[to].vm = Some(arrived);
        if !lost {
            if vm.persistent && self.chance(8) {
                vm.state = RunState::Off;
                self.guests[guest].at[HERE].vm = Some(vm);
            }
            return Ok(());
        }
        let ran = vm.state == RunState::Running;
        let left = ran && of.ran && self.random.u8(..4) == 0;
        if left {
            vm.state = RunState::Arriving;
        }
        self.guests[guest].at[HERE].vm = Some(vm);
        if ran && !left {
            self.writes(guest, HERE);
        }
        if self.random.u8(..4) == 0 {
            let vm = &mut self.guests[guest].at[to].vm;
            vm.iter_mut().for_each(|vm| vm.state = RunState::Arriving);
        }
        if self.chance(4) {
            self.resumed_and_asleep(guest, to);
        }
        failed()
    }

    /// libvirt here is started anew, and QEMU goes on. It cancels what was not copied by then; where all was, it does not know
    /// how the peer's last step ended, and leaves the VM paused (`qemuProcessRecoverMigrationOut`). The peer ends what was
    /// arriving as it sees the connection close, unless its last step is done.
    pub(super) fn libvirt_restarts(&mut self) {
        self.note(|_| "libvirt on host1 is started anew".into());
        for guest in 0..self.guests.len() {
            self.forgets(guest, HERE);
            let Some(of) = self.guests[guest].migration.take() else { continue };
            let arriving = self.guests[guest].state(of.to) == Some(RunState::Arriving);
            let copied = of.left == 0 && !of.cancelled && self.guests[guest].is_active(HERE);
            if copied && arriving && self.random.bool() {
                self.is_left(guest, &of);
            } else {
                self.guests[guest].at[of.to].breaks_off = arriving;
            }
        }
    }

    /// Why a VM is off is written down nowhere.
    fn forgets(&mut self, guest: usize, host: usize) {
        let of = &mut self.guests[guest];
        let off = of.at[host].vm.as_mut().filter(|vm| vm.state == RunState::Off);
        if let Some(vm) = off {
            (vm.ended, vm.forgotten) = (false, true);
            of.forgotten = true;
        }
    }

    /// All is copied. libvirt here leaves the VM paused if it ran, and the peer's last step is done, or will never be.
    fn is_left(&mut self, guest: usize, of: &Migration) {
        let done = self.random.bool();
        if done {
            self.copy(guest, of.to);
        }
        let left = self.guests[guest].runs(HERE) && of.ran;
        let here = self.guests[guest].at[HERE].vm.clone();
        let there = &mut self.guests[guest].at[of.to];
        there.breaks_off = !done;
        if done {
            there.touched = false;
            there.vm = here.map(|vm| Domain {
                state: RunState::Paused,
                autostart: false,
                ended: false,
                ..vm
            });
        }
        if left {
            let here = &mut self.guests[guest].at[HERE].vm;
            here.iter_mut().for_each(|vm| vm.state = RunState::Arriving);
        }
    }

    /// libvirt of a peer is started anew: it ends what was arriving (`qemuProcessRecoverMigrationIn`), and forgets too.
    pub(super) fn peer_s_libvirt_restarts(&mut self, peer: usize) {
        self.note(|_| format!("libvirt on {} is started anew", NAMES[peer]));
        for guest in 0..self.guests.len() {
            self.forgets(guest, peer);
            let guest = &mut self.guests[guest];
            guest.at[peer].vm.take_if(|vm| vm.state == RunState::Arriving);
            guest.at[peer].breaks_off = false;
            let migration = guest.migration.iter_mut();
            migration.filter(|of| of.to == peer).for_each(|of| of.left = 0);
        }
    }

    /// Its disks are there as they are here.
    fn copy(&mut self, guest: usize, to: usize) {
        for name in self.guests[guest].disks.clone() {
            let data = self.hosts[HERE].volumes.get(&name).map_or(0, |volume| volume.data);
            if let Some(copy) = self.hosts[to].volumes.get_mut(&name) {
                copy.data = data;
            }
        }
    }
}
