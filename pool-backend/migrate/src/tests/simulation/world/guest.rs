// SPDX-License-Identifier: LGPL-2.1-or-later
//! A VM of the world: how it is on each host, and what is known of it.

use uuid::Uuid;
use virtnotify_model::Bytes;

use super::migration::Migration;
use super::{Data, HERE};
use crate::domain::{Disk, DiskSource, Domain, RunState};
use crate::surroundings::Surroundings;
use crate::wishes::Wishes;

/// As many writes are told apart.
const WRITES: u32 = 120;

/// A VM on one host.
#[derive(Default)]
pub(in super::super) struct Place {
    pub vm: Option<Domain>,
    /// A person let it run there, or ended it.
    pub touched: bool,
    /// Its arrival broke off, and libvirt there ends it as soon as it notices.
    pub breaks_off: bool,
}

pub(in super::super) struct Guest {
    pub uuid: Uuid,
    pub name: String,
    /// The names of its volumes.
    pub disks: Vec<String>,
    pub at: [Place; 3],
    pub migration: Option<Migration>,
    writes: u32,
    /// What a person gave up.
    pub given_up: Data,
    /// Whether a person let it run although another host knows it as well.
    pub two_by_person: bool,
    /// Whether two ran at once.
    pub two_ran: bool,
    /// When a person did something to it last, and when the daemon looked at it last.
    pub touched: [u64; 3],
    pub looked: [u64; 3],
    /// Whether a person, the guest or a power cut ended or stopped it.
    pub stopped: bool,
    /// Whether it is to start with this host, and only power cuts of this host ended or stopped it.
    pub starts_again: bool,
    /// Whether a person did anything to it.
    pub acted: bool,
    /// Whether a person removed its definition.
    pub undefined: bool,
    /// Whether libvirt forgot once, on any host, why it is off.
    pub forgotten: bool,
}

impl Guest {
    /// The n-th, on this host.
    pub(super) fn new(n: usize, random: &mut fastrand::Rng) -> Self {
        let disks: Vec<_> = (0..random.usize(1..4)).map(|disk| format!("disk{n}{disk}")).collect();
        let (uuid, name) = (Uuid::from_u128(n as u128 + 1), format!("guest{n}"));
        let mut at: [Place; 3] = Default::default();
        let vm = domain(uuid, &name, &disks, random);
        let starts_again = vm.autostart;
        at[HERE].vm = Some(vm);
        Self {
            uuid,
            name,
            disks,
            at,
            migration: None,
            writes: 1,
            given_up: 0,
            two_by_person: false,
            two_ran: false,
            touched: [0; 3],
            looked: [1; 3],
            stopped: false,
            starts_again,
            acted: false,
            undefined: false,
            forgotten: false,
        }
    }

    pub(in super::super) fn state(&self, host: usize) -> Option<RunState> {
        self.at[host].vm.as_ref().map(|vm| vm.state)
    }

    pub(in super::super) fn is_active(&self, host: usize) -> bool {
        self.state(host).is_some_and(|state| state != RunState::Off)
    }

    pub(in super::super) fn runs(&self, host: usize) -> bool {
        self.state(host) == Some(RunState::Running)
    }

    pub(super) fn is_persistent(&self, host: usize) -> bool {
        self.at[host].vm.as_ref().is_some_and(|vm| vm.persistent)
    }

    /// A person, the guest or a peer's power cut ended or stopped it.
    pub(super) fn stops(&mut self) {
        (self.stopped, self.starts_again) = (true, false);
    }

    /// Whether a person did something to it since the daemon has looked.
    pub(super) fn is_touched_unseen(&self) -> bool {
        (0..3).any(|host| self.touched[host] >= self.looked[host])
    }

    /// The bit of its next write; none where no more are told apart.
    pub(super) fn next_write(&mut self) -> Option<Data> {
        let bit = (self.writes < WRITES).then(|| 1 << self.writes)?;
        self.writes += 1;
        Some(bit)
    }

    pub(super) fn end(&mut self, host: usize) {
        let vm = &mut self.at[host].vm;
        if let Some(vm) = vm {
            (vm.state, vm.ended, vm.forgotten) = (RunState::Off, true, false);
        }
        vm.take_if(|vm| !vm.persistent);
    }

    pub(in super::super) fn undefine(&mut self, host: usize) {
        let vm = &mut self.at[host].vm;
        if let Some(vm) = vm {
            vm.persistent = false;
            vm.autostart = false;
        }
        vm.take_if(|vm| vm.state == RunState::Off);
    }

    /// How it is there, in a word.
    pub(super) fn sight(&self, host: usize) -> String {
        self.at[host].vm.as_ref().map_or("-".into(), |vm| {
            let marks = [(vm.ended, "e"), (vm.persistent, "p"), (vm.autostart, "a")];
            let marks: String = marks.iter().filter(|mark| mark.0).map(|mark| mark.1).collect();
            format!("{:?}/{marks}", vm.state)
        })
    }
}

fn domain(uuid: Uuid, name: &str, disks: &[String], random: &mut fastrand::Rng) -> Domain {
    let disk = |(n, volume): (usize, &String)| {
        let source = DiskSource::Volume { pool: "vms".into(), volume: volume.clone() };
        Disk::new(["vda", "vdb", "vdc"][n], source)
    };
    let persistent = random.u8(..3) != 0;
    Domain {
        name: name.to_owned(),
        uuid,
        state: if random.bool() { RunState::Running } else { RunState::IoError },
        ended: false,
        forgotten: false,
        persistent,
        autostart: persistent && random.bool(),
        disks: disks.iter().enumerate().map(disk).collect(),
        no_space: ["vda".to_owned()].into(),
        memory: Bytes::mib(128),
        surroundings: Surroundings::default(),
        wishes: Wishes::default(),
    }
}
