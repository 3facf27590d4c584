// SPDX-License-Identifier: LGPL-2.1-or-later
//! What happens by itself: hosts, persons and the guest.

use super::{DISK, HERE, NAMES, Who, World};
use crate::domain::RunState;

impl World {
    /// Something happens, perhaps, in the world outside.
    pub(in super::super) fn happen(&mut self) {
        self.progress();
        for host in 0..3 {
            let arriving = self.hosts[host].state() == Some(RunState::Arriving);
            if host != HERE && arriving && self.migration.is_none() && self.random.bool() {
                self.hosts[host].vm.iter_mut().for_each(|vm| vm.state = RunState::Paused);
            }
            if self.hosts[host].runs() && self.random.u8(..4) == 0 {
                self.writes(host);
            }
            if self.random.u8(..6) == 0 {
                (self.hosts[host].silent, self.hosts[host].refuses) = (false, false);
                self.wake(host);
            }
        }
        if self.chance(60) {
            self.something();
        }
    }

    fn something(&mut self) {
        let peer = self.random.usize(1..3);
        match self.random.u8(..12) {
            0 => self.hosts[peer].silent = true,
            1 => self.hosts[peer].refuses = true,
            2 => self.hosts[peer].asleep = Some(self.hosts[peer].asleep.take().unwrap_or_default()),
            3 => self.peer_reboots(peer),
            4 | 5 => self.guest_ends(),
            6 => self.abort(),
            7..=9 => self.person(HERE),
            _ => self.person(peer),
        }
        self.note(|w| format!("happens: {}", w.sight()));
    }

    fn guest_ends(&mut self) {
        let running: Vec<usize> = (0..3).filter(|host| self.hosts[*host].runs()).collect();
        if let Some(host) = self.random.choice(running) {
            self.end(host);
            self.stopped = true;
        }
    }

    /// What a person can do to a VM.
    fn person(&mut self, host: usize) {
        let Some(state) = self.hosts[host].state() else { return };
        self.acted = true;
        self.touched[host] = self.calls;
        self.hosts[host].touched = true;
        match state {
            RunState::Off if self.random.bool() && self.hosts[host].volumes.contains_key(DISK) => {
                self.note(|_| format!("a person starts it on {}", NAMES[host]));
                self.runs(host, Who::Person);
            }
            RunState::Off => {
                self.note(|_| format!("a person undefines it on {}", NAMES[host]));
                self.given_up |= self.only_at(host);
                (self.undefined, self.stopped) = (true, true);
                self.undefine(host);
            }
            RunState::Arriving => {}
            RunState::Paused | RunState::IoError if self.random.bool() => {
                self.note(|_| format!("a person resumes it on {}", NAMES[host]));
                self.runs(host, Who::Person);
            }
            RunState::Running if self.random.bool() => {
                self.note(|_| format!("a person suspends it on {}", NAMES[host]));
                self.stopped = true;
                self.hosts[host].vm.iter_mut().for_each(|vm| vm.state = RunState::Paused);
            }
            _ => {
                self.note(|_| format!("a person destroys it on {}", NAMES[host]));
                self.stopped = true;
                self.given_up |= self.only_at(host) * u128::from(!self.is_persistent(host));
                self.end(host);
            }
        }
    }

    fn is_persistent(&self, host: usize) -> bool {
        self.hosts[host].vm.as_ref().is_some_and(|vm| vm.persistent)
    }

    /// The power of a host goes, and comes back.
    fn loses_power(&mut self, host: usize) {
        self.stopped = true;
        // So soon after a person let it run there that no daemon could write it down: nothing tells of it.
        if self.hosts[host].touched && self.calls < self.touched[host] + 4 {
            self.given_up |= self.only_at(host);
        }
        let vm = &mut self.hosts[host].vm;
        vm.take_if(|vm| !vm.persistent);
        let Some(vm) = vm else { return };
        (vm.state, vm.ended) = (RunState::Off, false);
        if vm.autostart {
            self.runs(host, Who::Host);
        }
    }

    fn peer_reboots(&mut self, peer: usize) {
        // Nothing tells afterwards that a copy ran there, which a person had resumed.
        if self.hosts[peer].touched {
            return;
        }
        self.hosts[peer].asleep.take();
        self.loses_power(peer);
        self.migration.iter_mut().filter(|of| of.to == peer).for_each(|of| of.left = 0);
    }

    /// The daemon's host loses its power: libvirt gives up what it was at.
    pub(super) fn reboot(&mut self) {
        self.boot += 1;
        self.note(|_| "this host loses its power".into());
        if let Some(of) = self.migration.take() {
            self.hosts[of.to].vm.take_if(|vm| vm.state == RunState::Arriving);
        }
        // What it had asked of others and was not done never is.
        self.loses_power(HERE);
    }
}
