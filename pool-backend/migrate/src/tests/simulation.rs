// SPDX-License-Identifier: LGPL-2.1-or-later
//! Moves of some VMs in a world in which everything goes wrong: any call fails before its effect or after it, is
//! done late, or is the last one of its daemon; hosts are silent, refuse, sleep and lose their power; libvirt is started anew
//! on any of them; the journal has no room; persons and the guests do what they like. One thread, and everything drawn from a seed.
//!
//! The default run is the same each time. `VIRTNOTIFY_SIMULATE_MOVES=N` has as many worlds, from
//! `VIRTNOTIFY_SIMULATE_SEED` on; a world that fails says its seed, and `VIRTNOTIFY_SIMULATE_MOVE=SEED` is that world
//! alone, with all that happens in it.

mod hosts;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::broadcast;
use uuid::Uuid;
use virtnotify_model::{Event, EventBus};

use self::hosts::Hosts;
use self::world::{Guest, HERE, Killed, NAMES, World};
use crate::domain::{Domain, RunState};
use crate::hypervisor::Wire;
use crate::journal::{self, Journal, JournalError, Loaded, Record};
use crate::mover::{Outcome, Tools};
use crate::moves::Moves;
use crate::plan::plan;
use crate::timing::{Clock, Timing};

/// How many worlds the default run has.
const WORLDS: u64 = 2000;
/// So often the daemon is started at most, and looks at what is open at most.
const LIVES: usize = 40;
const LOOKS: usize = 80;
/// After so many looks in which nothing went wrong any more nothing changes by itself.
const QUIET: usize = 6;

/// Time that passes only where it is waited for.
struct Instantly(AtomicU64, Hosts);

impl Clock for Instantly {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(time, Ordering::SeqCst);
        self.1.world().happen();
    }

    /// What watches a migration would need a thread that takes its turn: it waits for the end.
    fn goes_on(&self, over: &Receiver<()>, _: Duration) -> bool {
        let _ = over.recv();
        false
    }
}

/// A journal that outlives its daemon, and on which there is no room at times.
#[derive(Clone)]
struct Paper {
    records: Arc<Mutex<Records>>,
    hosts: Hosts,
}

/// By VM and peer, as in the real one.
type Records = BTreeMap<(Uuid, String), Vec<u8>>;

impl Paper {
    fn has_room(&self) -> Result<(), JournalError> {
        let full = || JournalError::Io {
            path: "moves".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        };
        if self.hosts.world().has_no_room() { Err(full()) } else { Ok(()) }
    }
}

impl Journal for Paper {
    fn write(&self, record: &Record) -> Result<(), JournalError> {
        self.has_room()?;
        let text = journal::to_json(record).unwrap();
        self.records.lock().unwrap().insert((record.uuid, record.to().to_owned()), text);
        Ok(())
    }

    fn remove(&self, record: &Record) -> Result<(), JournalError> {
        self.has_room()?;
        self.records.lock().unwrap().remove(&(record.uuid, record.to().to_owned()));
        Ok(())
    }

    fn load(&self) -> Result<Loaded, JournalError> {
        let texts = self.records.lock().unwrap();
        let records = texts.values().map(|text| journal::from_json(text).unwrap()).collect();
        Ok(Loaded { records, broken: Vec::new() })
    }
}

/// What others heard of the moves of a VM, over all lives of the daemon.
#[derive(Debug, Default)]
struct Told {
    begun: u32,
    ended: u32,
    twice: u32,
    abandoned: bool,
}

/// A world and its daemon.
struct Life {
    hosts: Hosts,
    paper: Paper,
    told: BTreeMap<Uuid, Told>,
    /// How many more moves may begin.
    moves: u32,
}

/// A daemon that runs.
struct Daemon {
    tools: Tools,
    events: broadcast::Receiver<Event>,
    open: Vec<Record>,
}

impl Life {
    fn new(seed: u64, log: bool) -> Self {
        let mut world = World::new(seed, log);
        let most = 2 + 2 * u32::try_from(world.guests.len()).unwrap();
        let moves = world.random.u32(1..most);
        let hosts = Hosts(Arc::new(Mutex::new(world)));
        let paper = Paper { records: Arc::default(), hosts: hosts.clone() };
        Self { hosts, paper, told: BTreeMap::new(), moves }
    }

    fn daemon(&self) -> Daemon {
        let (bus, hv) = (EventBus::new(), Arc::new(self.hosts.clone()));
        let events = bus.subscribe();
        let tools = Tools {
            hv: hv.clone(),
            storage: hv,
            bus,
            journal: Arc::new(self.paper.clone()),
            moves: Moves::default(),
            wire: Wire::default(),
            timing: Timing::default(),
            clock: Arc::new(Instantly(AtomicU64::new(0), self.hosts.clone())),
            boot: format!("boot {}", self.hosts.world().boot),
        };
        Daemon { tools, events, open: self.paper.load().unwrap().records }
    }

    /// All that happens in that world, or what went wrong.
    fn live(&mut self) -> Result<(), String> {
        for _ in 0..LIVES {
            let mut daemon = self.daemon();
            let lived = catch_unwind(AssertUnwindSafe(|| self.work(&mut daemon)));
            self.hear(&mut daemon);
            match lived {
                Ok(ended) => return ended,
                Err(why) if why.is::<Killed>() => self.is_right()?,
                Err(_) => return Err("it panicked".into()),
            }
        }
        Err("it is killed again and again".into())
    }

    fn is_right(&self) -> Result<(), String> {
        self.hosts.world().wrong.clone().map_or(Ok(()), Err)
    }

    /// Works as the owner of the moves does, until nothing changes any more.
    fn work(&mut self, daemon: &mut Daemon) -> Result<(), String> {
        let mut quiet = 0;
        for look in 0..LOOKS {
            if look > LOOKS / 2 {
                self.hosts.world().heal();
            }
            let before = self.hosts.world().troubles;
            for mut record in std::mem::take(&mut daemon.open) {
                let (uuid, to) = (record.uuid, record.to().to_owned());
                let troubles = self.troubles();
                let outcome = daemon.tools.look_again(&mut record);
                let open = matches!(outcome, Outcome::Open(_));
                self.after(daemon, record, outcome)?;
                if open && troubles.is_some() && troubles == self.troubles() {
                    self.is_one(uuid, &to)?;
                }
            }
            self.begin(daemon)?;
            self.hosts.world().happen();
            let calm = {
                let world = self.hosts.world();
                world.trouble == 0 && world.troubles == before && !world.is_migrating()
            };
            quiet = if calm { quiet + 1 } else { 0 };
            if quiet == QUIET / 2 {
                self.hosts.world().heal();
            }
            if quiet > 2 * QUIET {
                return self.is_quiet(daemon);
            }
        }
        Err("it does not become quiet".into())
    }

    /// How much went wrong, if every question is answered now.
    fn troubles(&self) -> Option<u64> {
        let world = self.hosts.world();
        world.is_calm().then_some(world.troubles)
    }

    /// After a look in which nothing went wrong not both run.
    fn is_one(&self, uuid: Uuid, to: &str) -> Result<(), String> {
        let world = self.hosts.world();
        let guest = &world.guests[world.guest(uuid)];
        let there = NAMES.iter().position(|name| *name == to);
        let two = guest.runs(HERE) && there.is_some_and(|host| guest.runs(host));
        if two { Err("two run after a look".into()) } else { Ok(()) }
    }

    /// Takes note of a look's end.
    fn after(
        &mut self,
        daemon: &mut Daemon,
        record: Record,
        outcome: Outcome,
    ) -> Result<(), String> {
        self.hear(daemon);
        let (name, phase) = (&record.domain, &record.phase);
        self.hosts.world().note(|_| format!("{name}: {phase:?}: {outcome:?}"));
        if matches!(outcome, Outcome::Open(_)) {
            daemon.open.push(record);
        }
        self.is_right()
    }

    /// What the daemon tells.
    fn hear(&mut self, daemon: &mut Daemon) {
        while let Ok(event) = daemon.events.try_recv() {
            let (Event::MoveStarted(info)
            | Event::MoveFinished(info)
            | Event::MoveFailed { info, .. }
            | Event::RunsTwice { info, .. }) = &event
            else {
                continue;
            };
            self.told.entry(info.uuid).or_default().hear(&event);
        }
    }

    /// Moves a VM, if one may move now.
    fn begin(&mut self, daemon: &mut Daemon) -> Result<(), String> {
        let Some(mut record) = self.choose(daemon) else { return Ok(()) };
        self.moves -= 1;
        let outcome = daemon.tools.run(&mut record);
        self.after(daemon, record, outcome)
    }

    /// What `Tools::prepare` makes, without asking all peers at once.
    fn choose(&mut self, daemon: &Daemon) -> Option<Record> {
        if self.moves == 0 {
            return None;
        }
        let (domain, to) = self.hosts.world().mover()?;
        let moves = |record: &Record| !record.phase.is_over() || record.autostart;
        let mut ours = daemon.open.iter().filter(|record| record.uuid == domain.uuid);
        if ours.any(|record| moves(record) || record.to() == NAMES[to]) {
            return None;
        }
        let peer = super::peer(NAMES[to]);
        let disks = plan(&domain, daemon.tools.storage.as_ref()).ok()?.disks;
        let (uuid, name, persistent) = (domain.uuid, &domain.name, domain.persistent);
        let mut record = Record::new(uuid, name, persistent, NAMES[HERE], &peer, disks);
        record.autostart = domain.autostart;
        record.boot.clone_from(&daemon.tools.boot);
        record.ran = domain.state == RunState::Running;
        Some(record)
    }

    /// What must hold in the end.
    fn is_quiet(&self, daemon: &Daemon) -> Result<(), String> {
        let world = self.hosts.world();
        for guest in &world.guests {
            let open: Vec<_> =
                daemon.open.iter().filter(|record| record.uuid == guest.uuid).collect();
            let told = self.told.get(&guest.uuid);
            let none = Told::default();
            is_well(&world, guest, told.unwrap_or(&none), &open)
                .map_err(|what| format!("{}: {what}", guest.name))?;
        }
        Ok(())
    }
}

/// What must hold for a VM in the end.
fn is_well(world: &World, guest: &Guest, told: &Told, open: &[&Record]) -> Result<(), String> {
    let check = |is: bool, what: &str| if is { Ok(()) } else { Err(what.to_owned()) };
    // A person may let one run there that was left after the VM went elsewhere: that is told.
    let two = (0..3).filter(|host| guest.runs(*host)).count() > 1;
    let others = guest.two_by_person && told.abandoned && !guest.runs(HERE);
    check(!two || others, "two run in the end")?;
    let heard = told.twice > 0 || told.ended > 0 || !open.is_empty();
    check(heard || !guest.two_ran, "two ran, and nobody knows")?;
    let whole =
        |host: usize| guest.disks.iter().all(|disk| world.hosts[host].volumes.contains_key(disk));
    let written = |host: usize| world.data(world.guest(guest.uuid), host) != 0;
    let known = (0..3).any(|host| guest.at[host].vm.is_some() && whole(host) && written(host));
    check(known || guest.undefined || guest.stopped, "none is left that could run")?;
    if !open.is_empty() {
        // It waits for a person.
        let transient = open.iter().any(|record| !record.persistent);
        let known = guest.stopped || guest.acted || guest.forgotten;
        return check(known || transient, "a move does not end");
    }
    check(told.ended >= told.begun.min(1), "an end was not told")?;
    let room = format!("move-{}", guest.uuid.simple());
    let kept = |host: &world::Host| host.volumes.keys().any(|name| name.starts_with(&room));
    check(!world.hosts.iter().any(kept), "room is kept for nothing")?;
    if told.abandoned || guest.undefined {
        return Ok(());
    }
    for disk in &guest.disks {
        let places = world.hosts.iter().filter(|host| host.volumes.contains_key(disk)).count();
        check(places == 1, "a disk is left on another host")?;
    }
    let vms: Vec<&Domain> = guest.at.iter().filter_map(|place| place.vm.as_ref()).collect();
    check(vms.len() == 1 || (vms.is_empty() && guest.stopped), "it is known to two hosts")?;
    if let (Some(vm), true) = (vms.first(), guest.starts_again || !guest.stopped) {
        let runs = matches!(vm.state, RunState::Running | RunState::IoError);
        let left = guest.acted && vm.state == RunState::Arriving;
        check(runs || left, "it does not run any more")?;
    }
    Ok(())
}

impl Told {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::MoveStarted(_) => self.begun += 1,
            Event::MoveFinished(_) => self.ended += 1,
            Event::MoveFailed { reason, .. } => {
                self.ended += 1;
                let left = ["left", "more: where it runs elsewhere", "left as they are"];
                self.abandoned |= left.iter().any(|words| reason.contains(words));
            }
            Event::RunsTwice { .. } => self.twice += 1,
            _ => {}
        }
    }
}

/// Lives in that world; a number that differs with all that happened.
fn live(seed: u64, log: bool) -> Result<u64, String> {
    let mut life = Life::new(seed, log);
    let lived = life.live().and_then(|()| life.is_right());
    let world = life.hosts.world();
    world.log.iter().flatten().for_each(|line| eprintln!("{line}"));
    lived.map(|()| world.trace ^ world.calls)
}

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn whatever_happens_each_vm_runs_once_and_nothing_is_lost() {
    if let Some(seed) = number("VIRTNOTIFY_SIMULATE_MOVE") {
        assert_eq!(live(seed, true).err(), None);
        return;
    }
    let worlds = number("VIRTNOTIFY_SIMULATE_MOVES").unwrap_or(WORLDS);
    let first = number("VIRTNOTIFY_SIMULATE_SEED").unwrap_or(1);
    for seed in (0..worlds).map(|number| first.wrapping_add(number)) {
        if let Err(what) = live(seed, false) {
            panic!("{what}: again with VIRTNOTIFY_SIMULATE_MOVE={seed}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_moves_each_time() {
    for seed in 0..20 {
        assert_eq!(live(seed, false), live(seed, false));
    }
}
