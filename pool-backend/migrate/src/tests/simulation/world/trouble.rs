// SPDX-License-Identifier: LGPL-2.1-or-later
//! What happens by itself: hosts, persons and the guests.

use virt::sys;

use super::{HERE, NAMES, Who, World};
use crate::domain::RunState;
use crate::libvirt::convert::{Off, run_state, why_off};

impl World {
    /// Something happens, perhaps, in the world outside.
    pub(in super::super) fn happen(&mut self) {
        for guest in 0..self.guests.len() {
            self.progress(guest);
            self.goes_on(guest);
        }
        for host in 0..3 {
            if self.random.u8(..6) == 0 {
                (self.hosts[host].silent, self.hosts[host].refuses) = (false, false);
                self.wake(host);
            }
        }
        if self.chance(60) {
            self.something();
        }
    }

    fn goes_on(&mut self, guest: usize) {
        for host in 0..3 {
            let of = &mut self.guests[guest];
            let arriving = of.state(host) == Some(RunState::Arriving);
            let breaks_off = arriving && of.at[host].breaks_off;
            if breaks_off && self.random.bool() {
                of.at[host].breaks_off = false;
                of.at[host].vm = None;
            } else if breaks_off {
                // Not yet.
            } else if host != HERE && arriving && of.migration.is_none() && self.random.bool() {
                of.at[host].vm.iter_mut().for_each(|vm| vm.state = RunState::Paused);
            }
            if of.runs(host) && self.random.u8(..4) == 0 {
                self.writes(guest, host);
            }
        }
    }

    fn something(&mut self) {
        let peer = self.random.usize(1..3);
        let guest = self.random.usize(..self.guests.len());
        match self.random.u8(..15) {
            0 => self.hosts[peer].silent = true,
            1 => self.hosts[peer].refuses = true,
            2 => self.hosts[peer].asleep = Some(self.hosts[peer].asleep.take().unwrap_or_default()),
            3 => self.peer_reboots(peer),
            4 | 5 => self.guest_ends(guest),
            6 => self.abort(guest),
            7..=9 => self.person(guest, HERE),
            10 => self.libvirt_restarts(),
            11 => self.peer_s_libvirt_restarts(peer),
            12 => self.person(guest, peer),
            _ => self.resumed_and_asleep(guest, peer),
        }
        self.note(|w| format!("happens: {}", w.sight()));
    }

    fn guest_ends(&mut self, guest: usize) {
        let running: Vec<usize> = (0..3).filter(|host| self.guests[guest].runs(*host)).collect();
        if let Some(host) = self.random.choice(running) {
            self.guests[guest].end(host);
            self.guests[guest].stops();
        }
    }

    /// On a peer that does not answer a person resumes what arrived there, and its guest goes to sleep.
    pub(super) fn resumed_and_asleep(&mut self, guest: usize, host: usize) {
        if self.guests[guest].state(host) != Some(RunState::Paused) {
            return;
        }
        let name = self.guests[guest].name.clone();
        self.note(|_| format!("a person resumes {name} on {}, and it sleeps", NAMES[host]));
        self.hosts[host].silent = true;
        self.guests[guest].acted = true;
        self.guests[guest].touched[host] = self.calls;
        self.guests[guest].at[host].touched = true;
        self.lets_run(guest, host);
        self.guests[guest].stops();
        let state = run_state(sys::VIR_DOMAIN_PMSUSPENDED, sys::VIR_DOMAIN_PMSUSPENDED_UNKNOWN);
        self.guests[guest].at[host].vm.iter_mut().for_each(|vm| vm.state = state);
    }

    /// What a person can do to a VM.
    fn person(&mut self, guest: usize, host: usize) {
        let Some(state) = self.guests[guest].state(host) else { return };
        self.guests[guest].acted = true;
        self.guests[guest].touched[host] = self.calls;
        self.guests[guest].at[host].touched = true;
        let name = self.guests[guest].name.clone();
        let does = |what: &str| format!("a person {what} {name} on {}", NAMES[host]);
        let there = |disk| self.hosts[host].volumes.contains_key(disk);
        let has_disks = self.guests[guest].disks.iter().all(there);
        match state {
            RunState::Off if self.random.bool() && has_disks => {
                self.note(|_| does("starts"));
                self.lets_run(guest, host);
            }
            RunState::Off => {
                self.note(|_| does("undefines"));
                self.guests[guest].given_up |= self.only_at(guest, host);
                self.guests[guest].undefined = true;
                self.guests[guest].stops();
                self.guests[guest].undefine(host);
            }
            RunState::Arriving => {}
            RunState::Paused | RunState::IoError | RunState::Halted if self.random.bool() => {
                self.note(|_| does("resumes"));
                self.lets_run(guest, host);
            }
            RunState::Running if self.random.bool() => {
                self.note(|_| does("suspends"));
                self.guests[guest].stops();
                let vm = &mut self.guests[guest].at[host].vm;
                vm.iter_mut().for_each(|vm| vm.state = RunState::Paused);
            }
            _ => {
                self.note(|_| does("destroys"));
                let persistent = self.guests[guest].is_persistent(host);
                let only = self.only_at(guest, host);
                let of = &mut self.guests[guest];
                of.stops();
                of.given_up |= only * u128::from(!persistent);
                of.end(host);
            }
        }
    }

    /// A person lets it run there. Where no other host knows it that is the one which counts from then on.
    fn lets_run(&mut self, guest: usize, host: usize) {
        let known = Self::others(host).any(|other| self.guests[guest].at[other].vm.is_some());
        if !known {
            let others = Self::others(host).fold(0, |all, other| all | self.data(guest, other));
            self.guests[guest].given_up |= others & !self.data(guest, host);
        }
        self.runs(guest, host, Who::Person);
    }

    /// Its start fails: by chance, and then libvirt says that of why it is off.
    pub(in super::super) fn fails_to_start(&mut self, guest: usize, host: usize) -> bool {
        if !self.chance(3) {
            return false;
        }
        let of = &mut self.guests[guest];
        let Off { ended, forgotten } =
            why_off(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_FAILED);
        of.forgotten = true;
        of.at[host].vm.iter_mut().for_each(|vm| (vm.ended, vm.forgotten) = (ended, forgotten));
        true
    }

    /// The power of a host goes, and comes back.
    fn loses_power(&mut self, guest: usize, host: usize) {
        match host {
            HERE => self.guests[guest].stopped = true,
            _ => self.guests[guest].stops(),
        }
        // So soon after a person let it run there that no daemon could write it down: nothing tells of it.
        let of = &self.guests[guest];
        if of.at[host].touched && self.calls < of.touched[host] + 4 {
            self.guests[guest].given_up |= self.only_at(guest, host);
        }
        let vm = &mut self.guests[guest].at[host].vm;
        vm.take_if(|vm| !vm.persistent);
        let Some(vm) = vm else { return };
        (vm.state, vm.ended, vm.forgotten) = (RunState::Off, false, true);
        if !vm.autostart {
            return;
        }
        if self.fails_to_start(guest, host) {
            // A host tries it once, and may do so for a VM of which no daemon knows.
            self.guests[guest].stops();
        } else {
            self.runs(guest, host, Who::Host);
        }
    }

    fn peer_reboots(&mut self, peer: usize) {
        self.hosts[peer].asleep.take();
        for guest in 0..self.guests.len() {
            self.loses_power(guest, peer);
            let migration = self.guests[guest].migration.iter_mut();
            migration.filter(|of| of.to == peer).for_each(|of| of.left = 0);
        }
    }

    /// The daemon's host loses its power: libvirt gives up what it was at.
    pub(super) fn reboot(&mut self) {
        self.boot += 1;
        self.note(|_| "this host loses its power".into());
        for guest in 0..self.guests.len() {
            if let Some(of) = self.guests[guest].migration.take() {
                self.guests[guest].at[of.to].vm.take_if(|vm| vm.state == RunState::Arriving);
            }
            // What it had asked of others and was not done never is.
            self.loses_power(guest, HERE);
        }
    }
}
