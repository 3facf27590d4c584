// SPDX-License-Identifier: LGPL-2.1-or-later
//! Some VMs with some disks each, and three hosts: this one, and two peers that they may go to. Everything that happens is
//! drawn from a seed; the world itself writes down what may never happen.

mod guest;
mod migration;
mod trouble;

use std::collections::BTreeMap;
use std::panic;

use uuid::Uuid;
use virtnotify_model::Bytes;

pub(super) use self::guest::Guest;
use crate::domain::{Domain, RunState};
use crate::hypervisor::HvError;

pub(super) const SIZE: Bytes = Bytes::mib(64);
/// This host, in the list of all.
pub(super) const HERE: usize = 0;
pub(super) const NAMES: [&str; 3] = ["host1", "host2", "host3"];

/// The daemon is killed: what it was at never returns.
pub(super) struct Killed;

/// What a volume holds: a bit for each time that the VM wrote.
pub(super) type Data = u128;

pub(super) struct Volume {
    pub key: u64,
    pub data: Data,
}

type Effect = Box<dyn FnOnce(&mut World) + Send>;

#[derive(Default)]
pub(super) struct Host {
    pub volumes: BTreeMap<String, Volume>,
    /// No connection can be made.
    pub silent: bool,
    /// It answers each question with an error.
    pub refuses: bool,
    /// What it does when it wakes up; nothing of that was answered.
    pub asleep: Option<Vec<Effect>>,
}

/// Who lets a VM run, or ends it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Daemon,
    /// The host, as it starts.
    Host,
    Person,
}

/// How a call goes.
enum Fate {
    Works,
    Dies,
    Fails(HvError),
    Late(HvError),
    WorksAndDies,
    WorksAndFails(HvError),
}

pub(super) struct World {
    pub random: fastrand::Rng,
    pub hosts: [Host; 3],
    pub guests: Vec<Guest>,
    pub boot: u32,
    keys: u64,
    /// How many more things go wrong.
    pub trouble: u32,
    pub calls: u64,
    /// How many things have gone wrong.
    pub troubles: u64,
    pub wrong: Option<String>,
    pub log: Option<Vec<String>>,
    /// Differs with everything that happens.
    pub trace: u64,
}

impl World {
    pub(super) fn new(seed: u64, log: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hosts: [Host; 3] = Default::default();
        let mut keys = 100;
        let guests: Vec<_> = (0..random.usize(1..4)).map(|n| Guest::new(n, &mut random)).collect();
        for name in guests.iter().flat_map(|guest| &guest.disks) {
            hosts[HERE].volumes.insert(name.clone(), Volume { key: keys, data: 1 });
            keys += 1;
        }
        let trouble = random.u32(..10);
        let (log, trace) = (log.then(Vec::new), seed);
        let (calls, troubles, boot, wrong) = (0, 0, 1, None);
        Self { random, hosts, guests, boot, keys, trouble, calls, troubles, wrong, log, trace }
    }

    /// A VM that may move now, and where to.
    pub(super) fn mover(&mut self) -> Option<(Domain, usize)> {
        let guest = self.random.usize(..self.guests.len());
        let to = self.random.usize(1..3);
        let (guest, there) = (&self.guests[guest], &self.hosts[to]);
        let domain = guest.at[HERE].vm.clone()?;
        let runs = matches!(domain.state, RunState::Running | RunState::IoError);
        let taken = guest.disks.iter().any(|disk| there.volumes.contains_key(disk));
        let free = guest.migration.is_none() && guest.at[to].vm.is_none() && !taken;
        (runs && free && !there.silent).then_some((domain, to))
    }

    /// The VM of that UUID.
    pub(super) fn guest(&self, uuid: Uuid) -> usize {
        self.guests.iter().position(|guest| guest.uuid == uuid).unwrap()
    }

    pub(super) fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.log.is_some() {
            let what = format!("{:4} {}", self.calls, what(self));
            self.log.iter_mut().for_each(|log| log.push(what.clone()));
        }
    }

    fn is_wrong(&mut self, what: String) {
        self.note(|_| format!("WRONG: {what}"));
        self.wrong.get_or_insert(what);
    }

    fn trace(&mut self, what: u64) {
        self.trace = (self.trace.rotate_left(5) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Whether something goes wrong now.
    fn chance(&mut self, one_of: u32) -> bool {
        let so = self.trouble > 0 && self.random.u32(..one_of) == 0;
        if so {
            self.trouble -= 1;
            self.troubles += 1;
        }
        so
    }

    /// Whether nothing can be written to the daemon's journal now.
    pub(super) fn has_no_room(&mut self) -> bool {
        let so = self.chance(40);
        if so {
            self.note(|_| "the journal has no room".into());
        }
        so
    }

    /// Nothing goes wrong any more, and all that did is over.
    pub(super) fn heal(&mut self) {
        self.trouble = 0;
        for host in 0..3 {
            (self.hosts[host].silent, self.hosts[host].refuses) = (false, false);
            self.wake(host);
        }
    }

    fn wake(&mut self, host: usize) {
        let Some(late) = self.hosts[host].asleep.take() else { return };
        self.note(|_| format!("{} wakes up and does {} things", NAMES[host], late.len()));
        late.into_iter().for_each(|effect| effect(self));
    }

    /// Whether every question is answered.
    pub(super) fn is_calm(&self) -> bool {
        self.hosts.iter().all(|host| !host.silent && !host.refuses && host.asleep.is_none())
    }

    // What is written down as wrong.

    /// What a host has of the VM's data.
    pub(super) fn data(&self, guest: usize, host: usize) -> Data {
        let volumes =
            self.guests[guest].disks.iter().filter_map(|of| self.hosts[host].volumes.get(of));
        volumes.fold(0, |all, volume| all | volume.data)
    }

    fn others(host: usize) -> impl Iterator<Item = usize> {
        (0..3).filter(move |other| *other != host)
    }

    /// What no other host has.
    fn only_at(&self, guest: usize, host: usize) -> Data {
        let others = Self::others(host).fold(0, |all, other| all | self.data(guest, other));
        self.data(guest, host) & !others & !self.guests[guest].given_up
    }

    /// A person did something to the VM since the daemon has looked: it could not know.
    fn is_excused(&self, guest: usize, who: Who) -> bool {
        who == Who::Person || self.guests[guest].is_touched_unseen()
    }

    /// The VM begins to run there.
    pub(super) fn runs(&mut self, guest: usize, host: usize, who: Who) {
        let data = self.data(guest, host);
        // One that ran on where another ran as well is not older.
        let older = Self::others(host).any(|other| {
            let other = self.data(guest, other);
            other & !data & !self.guests[guest].given_up != 0 && data & !other == 0
        });
        let of = &self.guests[guest];
        let known = Self::others(host).any(|other| of.at[other].vm.is_some());
        let twice = Self::others(host).any(|other| of.runs(other));
        self.guests[guest].two_by_person |= who == Who::Person && known;
        let excused = self.is_excused(guest, who) || self.guests[guest].two_by_person;
        let name = self.guests[guest].name.clone();
        if older && !excused {
            self.is_wrong(format!("an old copy of {name} runs on {}", NAMES[host]));
        }
        if twice && !excused {
            self.is_wrong(format!("{name} runs twice, on {} as well", NAMES[host]));
        }
        self.guests[guest].two_ran |= twice;
        if let Some(vm) = &mut self.guests[guest].at[host].vm {
            (vm.state, vm.ended, vm.forgotten) = (RunState::Running, false, false);
            vm.no_space.clear();
        }
        self.writes(guest, host);
    }

    /// It writes to one of its disks.
    fn writes(&mut self, guest: usize, host: usize) {
        let Some(bit) = self.guests[guest].next_write() else { return };
        let disk = self.random.choice(self.guests[guest].disks.iter()).unwrap().clone();
        let gone =
            self.guests[guest].disks.iter().any(|of| !self.hosts[host].volumes.contains_key(of));
        if let Some(volume) = self.hosts[host].volumes.get_mut(&disk) {
            volume.data |= bit;
        }
        if gone {
            let name = self.guests[guest].name.clone();
            self.is_wrong(format!("{name} runs on {} without a disk", NAMES[host]));
        }
    }

    /// The daemon deletes a volume.
    pub(super) fn delete(&mut self, host: usize, volume: &str) {
        let owner = self.guests.iter().position(|guest| guest.disks.iter().any(|of| of == volume));
        if let Some(guest) = owner {
            let elsewhere =
                Self::others(host).filter_map(|other| self.hosts[other].volumes.get(volume));
            let elsewhere = elsewhere.fold(0, |all, volume| all | volume.data);
            let here = self.hosts[host].volumes.get(volume).map_or(0, |volume| volume.data);
            let only = here & !elsewhere & !self.guests[guest].given_up != 0;
            let used = self.guests[guest].is_active(host);
            if (used || only) && !self.is_excused(guest, Who::Daemon) {
                self.is_wrong(format!("the volume '{volume}' on {} was needed", NAMES[host]));
            }
        }
        self.hosts[host].volumes.remove(volume);
    }

    /// The daemon ends the VM there.
    pub(super) fn destroy(&mut self, guest: usize, host: usize) {
        let ran = self.guests[guest].runs(host) || self.only_at(guest, host) != 0;
        if ran && !self.is_excused(guest, Who::Daemon) {
            let name = self.guests[guest].name.clone();
            self.is_wrong(format!("{name} on {} was needed", NAMES[host]));
        }
        self.guests[guest].end(host);
    }

    /// The daemon was told how the VM is there.
    pub(super) fn look(&mut self, guest: usize, host: usize) {
        self.guests[guest].looked[host] = self.calls + 1;
    }

    // Calls.

    fn fate(&mut self, host: usize) -> Fate {
        let place = NAMES[host].to_owned();
        let lost = HvError::Unreachable { place: place.clone(), reason: "it is lost".into() };
        let late = HvError::Late { place, limit: std::time::Duration::from_secs(30) };
        if self.hosts[host].asleep.is_some() {
            return Fate::Late(late);
        }
        if self.hosts[host].silent {
            return Fate::Fails(lost);
        }
        let refused = HvError::refused("cannot do it", "internal error");
        if self.hosts[host].refuses {
            return Fate::Fails(refused);
        }
        if !self.chance(25) {
            return Fate::Works;
        }
        match self.random.u8(..8) {
            0 | 1 => Fate::Dies,
            2 | 3 => Fate::WorksAndDies,
            4 => Fate::WorksAndFails(late),
            5 => Fate::WorksAndFails(lost),
            6 => Fate::Fails(lost),
            _ => Fate::Fails(refused),
        }
    }

    /// One call of the daemon's to a host.
    pub(super) fn call<T>(
        &mut self,
        host: usize,
        what: &str,
        asks: bool,
        effect: impl FnOnce(&mut Self) -> Result<T, HvError> + Send + 'static,
    ) -> Result<T, HvError> {
        self.calls += 1;
        // Between a look and what comes of it, nothing can be excluded that nobody can exclude.
        if asks {
            self.happen();
        }
        self.trace(what.len() as u64 * 3 + host as u64);
        let fate = self.fate(host);
        let (done, dies) = match fate {
            Fate::Dies => die(self, what),
            Fate::Fails(error) => (Err(error), false),
            Fate::Late(error) => {
                let late: Effect = Box::new(move |world| drop(effect(world)));
                if let Some(queue) = self.hosts[host].asleep.as_mut().filter(|_| !asks) {
                    queue.push(late);
                }
                (Err(error), false)
            }
            Fate::Works => (effect(self), false),
            Fate::WorksAndDies => (effect(self), true),
            Fate::WorksAndFails(error) => (effect(self).and(Err(error)), false),
        };
        let how = done.as_ref().map(drop).map_err(ToString::to_string);
        self.note(|w| format!("{what} on {}: {how:?}; {}", NAMES[host], w.sight()));
        if dies { die(self, what) } else { done }
    }

    pub(super) fn key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    /// All hosts, in a few words.
    pub(super) fn sight(&self) -> String {
        let host = |(number, host): (usize, &Host)| {
            let vms: Vec<_> = self.guests.iter().map(|guest| guest.sight(number)).collect();
            let vm = vms.join(" ");
            let how = [(host.silent, "!"), (host.refuses, "?"), (host.asleep.is_some(), "~")];
            let how: String = how.iter().filter(|mark| mark.0).map(|mark| mark.1).collect();
            let volumes: Vec<_> =
                host.volumes.iter().map(|(n, v)| format!("{n:.6}={:x}", v.data)).collect();
            format!("{vm}{how}{volumes:?}")
        };
        self.hosts.iter().enumerate().map(host).collect::<Vec<_>>().join(" | ")
    }
}

fn die(world: &mut World, what: &str) -> ! {
    world.note(|_| format!("killed at {what}"));
    if world.random.u8(..3) == 0 {
        world.reboot();
    }
    panic::resume_unwind(Box::new(Killed))
}
