// SPDX-License-Identifier: LGPL-2.1-or-later
//! One VM and three hosts: this one, and two peers that it may go to. Everything that happens is drawn from
//! a seed; the world itself writes down what may never happen.

mod migration;
mod trouble;

use std::collections::BTreeMap;
use std::panic;

use uuid::Uuid;
use virtnotify_model::Bytes;

use self::migration::Migration;
use crate::domain::{Disk, DiskSource, Domain, RunState};
use crate::hypervisor::HvError;
use crate::surroundings::Surroundings;
use crate::wishes::Wishes;

pub(super) const VM: Uuid = Uuid::from_u128(1);
pub(super) const DISK: &str = "disk0";
pub(super) const SIZE: Bytes = Bytes::mib(64);
/// This host, in the list of all.
pub(super) const HERE: usize = 0;
pub(super) const NAMES: [&str; 3] = ["host1", "host2", "host3"];
/// As many writes are told apart.
const WRITES: u32 = 120;

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
    pub vm: Option<Domain>,
    pub volumes: BTreeMap<String, Volume>,
    /// No connection can be made.
    pub silent: bool,
    /// It answers each question with an error.
    pub refuses: bool,
    /// What it does when it wakes up; nothing of that was answered.
    pub asleep: Option<Vec<Effect>>,
    /// A person let the VM run there, or ended it.
    touched: bool,
}

impl Host {
    pub(super) fn state(&self) -> Option<RunState> {
        self.vm.as_ref().map(|vm| vm.state)
    }

    fn is_active(&self) -> bool {
        self.state().is_some_and(|state| state != RunState::Off)
    }

    pub(super) fn runs(&self) -> bool {
        self.state() == Some(RunState::Running)
    }

    fn data(&self) -> Data {
        self.volumes.get(DISK).map_or(0, |volume| volume.data)
    }
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
    pub boot: u32,
    migration: Option<Migration>,
    keys: u64,
    writes: u32,
    /// How many more things go wrong.
    pub trouble: u32,
    /// What a person gave up.
    given_up: Data,
    /// Whether a person let it run although another host knows it as well.
    pub two_by_person: bool,
    /// Whether two ran at once.
    pub two_ran: bool,
    touched: [u64; 3],
    /// When the daemon looked at it last.
    looked: [u64; 3],
    pub calls: u64,
    /// How many things have gone wrong.
    pub troubles: u64,
    /// Whether a person, the guest or a power cut ended or stopped it.
    pub stopped: bool,
    /// Whether a person did anything to it.
    pub acted: bool,
    /// Whether a person removed its definition.
    pub undefined: bool,
    pub wrong: Option<String>,
    pub log: Option<Vec<String>>,
    /// Differs with everything that happens.
    pub trace: u64,
}

fn domain(random: &mut fastrand::Rng) -> Domain {
    let source = DiskSource::Volume { pool: "vms".into(), volume: DISK.into() };
    let disk = Disk::new("vda", source);
    let persistent = random.u8(..8) != 0;
    Domain {
        name: "guest".into(),
        uuid: VM,
        state: if random.bool() { RunState::Running } else { RunState::IoError },
        ended: false,
        persistent,
        autostart: persistent && random.bool(),
        disks: vec![disk],
        no_space: Default::default(),
        memory: Bytes::mib(128),
        surroundings: Surroundings::default(),
        wishes: Wishes::default(),
    }
}

impl World {
    pub(super) fn new(seed: u64, log: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hosts: [Host; 3] = Default::default();
        hosts[HERE].vm = Some(domain(&mut random));
        hosts[HERE].volumes.insert(DISK.into(), Volume { key: 100, data: 1 });
        let trouble = random.u32(..8);
        Self {
            random,
            hosts,
            boot: 1,
            migration: None,
            keys: 1000,
            writes: 1,
            trouble,
            given_up: 0,
            two_by_person: false,
            two_ran: false,
            touched: [0; 3],
            looked: [1; 3],
            calls: 0,
            troubles: 0,
            stopped: false,
            acted: false,
            undefined: false,
            wrong: None,
            log: log.then(Vec::new),
            trace: seed,
        }
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

    pub(super) fn is_active(&self, host: usize) -> bool {
        self.hosts[host].is_active()
    }

    // What is written down as wrong.

    /// What no other host has.
    fn only_at(&self, host: usize) -> Data {
        let others = (0..3).filter(|other| *other != host);
        let others = others.fold(0, |all, other| all | self.hosts[other].data());
        self.hosts[host].data() & !others & !self.given_up
    }

    /// A person did something since the daemon has looked: it could not know.
    fn is_excused(&self, who: Who) -> bool {
        who == Who::Person || (0..3).any(|host| self.touched[host] >= self.looked[host])
    }

    /// The VM begins to run there.
    pub(super) fn runs(&mut self, host: usize, who: Who) {
        let others: Vec<usize> = (0..3).filter(|other| *other != host).collect();
        let data = self.hosts[host].data();
        // One that ran on where another ran as well is not older.
        let older = others.iter().any(|other| {
            let other = self.hosts[*other].data();
            other & !data & !self.given_up != 0 && data & !other == 0
        });
        let known = others.iter().any(|other| self.hosts[*other].vm.is_some());
        self.two_by_person |= who == Who::Person && known;
        if older && !self.is_excused(who) && !self.two_by_person {
            self.is_wrong(format!("an old copy runs on {}", NAMES[host]));
        }
        if others.iter().any(|other| self.hosts[*other].runs()) {
            if !self.is_excused(who) && !self.two_by_person {
                self.is_wrong(format!("it runs twice, on {} as well", NAMES[host]));
            }
            self.two_ran = true;
        }
        if let Some(vm) = &mut self.hosts[host].vm {
            (vm.state, vm.ended) = (RunState::Running, false);
            vm.no_space.clear();
        }
        self.writes(host);
    }

    fn writes(&mut self, host: usize) {
        if self.writes >= WRITES {
            return;
        }
        let bit = 1 << self.writes;
        self.writes += 1;
        match self.hosts[host].volumes.get_mut(DISK) {
            Some(volume) => volume.data |= bit,
            None => self.is_wrong(format!("it runs on {} without its disk", NAMES[host])),
        }
    }

    /// The daemon deletes a volume.
    pub(super) fn delete(&mut self, host: usize, volume: &str) {
        if volume == DISK {
            let used = self.hosts[host].is_active();
            let only = self.only_at(host) != 0;
            if (used || only) && !self.is_excused(Who::Daemon) {
                self.is_wrong(format!("the volume on {} was needed", NAMES[host]));
            }
        }
        self.hosts[host].volumes.remove(volume);
    }

    /// The daemon ends the VM there.
    pub(super) fn destroy(&mut self, host: usize) {
        let ran = self.hosts[host].runs() || self.only_at(host) != 0;
        if ran && !self.is_excused(Who::Daemon) {
            self.is_wrong(format!("the VM on {} was needed", NAMES[host]));
        }
        self.end(host);
    }

    fn end(&mut self, host: usize) {
        let vm = &mut self.hosts[host].vm;
        if let Some(vm) = vm {
            (vm.state, vm.ended) = (RunState::Off, true);
        }
        vm.take_if(|vm| !vm.persistent);
    }

    pub(super) fn undefine(&mut self, host: usize) {
        let vm = &mut self.hosts[host].vm;
        if let Some(vm) = vm {
            vm.persistent = false;
            vm.autostart = false;
        }
        vm.take_if(|vm| vm.state == RunState::Off);
    }

    /// The daemon was told how the VM is there.
    pub(super) fn look(&mut self, host: usize) {
        self.looked[host] = self.calls + 1;
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
        let host = |host: &Host| {
            let vm = host.vm.as_ref().map_or("-".into(), |vm| {
                let marks = [(vm.ended, "e"), (vm.persistent, "p"), (vm.autostart, "a")];
                let marks: String = marks.iter().filter(|mark| mark.0).map(|mark| mark.1).collect();
                format!("{:?}/{marks}", vm.state)
            });
            let how = [(host.silent, "!"), (host.refuses, "?"), (host.asleep.is_some(), "~")];
            let how: String = how.iter().filter(|mark| mark.0).map(|mark| mark.1).collect();
            let volumes: Vec<_> =
                host.volumes.iter().map(|(n, v)| format!("{}={:x}", &n[..4], v.data)).collect();
            format!("{vm}{how}{volumes:?}")
        };
        self.hosts.iter().map(host).collect::<Vec<_>>().join(" | ")
    }
}

fn die(world: &mut World, what: &str) -> ! {
    world.note(|_| format!("killed at {what}"));
    if world.random.u8(..3) == 0 {
        world.reboot();
    }
    panic::resume_unwind(Box::new(Killed))
}
