// SPDX-License-Identifier: LGPL-2.1-or-later
//! Moves of one VM in a world in which everything goes wrong: any call fails before its effect or after it, is
//! done late, or is the last one of its daemon; hosts are silent, refuse, sleep and lose their power; persons and
//! the guest do what they like. One thread, and everything drawn from a seed.
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
use virtnotify_model::{Event, EventBus};

use self::hosts::Hosts;
use self::world::{DISK, HERE, Killed, NAMES, VM, World};
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

/// A journal that outlives its daemon.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Journal for Paper {
    fn write(&self, record: &Record) -> Result<(), JournalError> {
        let text = journal::to_json(record).unwrap();
        self.0.lock().unwrap().insert(record.to().to_owned(), text);
        Ok(())
    }

    fn remove(&self, record: &Record) -> Result<(), JournalError> {
        self.0.lock().unwrap().remove(record.to());
        Ok(())
    }

    fn load(&self) -> Result<Loaded, JournalError> {
        let texts = self.0.lock().unwrap();
        let records = texts.values().map(|text| journal::from_json(text).unwrap()).collect();
        Ok(Loaded { records, broken: Vec::new() })
    }
}

/// What others heard of the moves, over all lives of the daemon.
#[derive(Default)]
struct Told {
    begun: u32,
    ended: u32,
    moved: bool,
    /// The last reason why one stayed.
    reason: String,
    twice: u32,
    abandoned: bool,
}

/// A world and its daemon.
struct Life {
    hosts: Hosts,
    paper: Paper,
    told: Told,
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
        let moves = world.random.u32(1..4);
        let hosts = Hosts(Arc::new(Mutex::new(world)));
        Self { hosts, paper: Paper::default(), told: Told::default(), moves }
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
                let (to, troubles) = (record.to().to_owned(), self.troubles());
                let outcome = daemon.tools.look_again(&mut record);
                let open = matches!(outcome, Outcome::Open(_));
                self.after(daemon, record, outcome)?;
                if open && troubles.is_some() && troubles == self.troubles() {
                    self.is_one(&to)?;
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
    fn is_one(&self, to: &str) -> Result<(), String> {
        let world = self.hosts.world();
        let runs = |name: &str| {
            let named = NAMES.iter().zip(&world.hosts).find(|(of, _)| **of == name);
            named.is_some_and(|(_, host)| host.runs())
        };
        let two = runs(NAMES[HERE]) && runs(to);
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
        self.hosts.world().note(|_| format!("{:?}: {outcome:?}", record.phase));
        if matches!(outcome, Outcome::Open(_)) {
            daemon.open.push(record);
        }
        self.is_right()
    }

    /// What the daemon tells.
    fn hear(&mut self, daemon: &mut Daemon) {
        while let Ok(event) = daemon.events.try_recv() {
            match event {
                Event::MoveStarted(_) => self.told.begun += 1,
                Event::MoveFinished(_) => {
                    self.told.ended += 1;
                    self.told.moved = true;
                }
                Event::MoveFailed { reason, .. } => {
                    self.told.ended += 1;
                    let left = ["left", "more: where it runs elsewhere", "left as they are"];
                    self.told.abandoned |= left.iter().any(|words| reason.contains(words));
                    self.told.reason = reason;
                }
                Event::RunsTwice { .. } => self.told.twice += 1,
                _ => {}
            }
        }
    }

    /// Moves the VM, if it may move now.
    fn begin(&mut self, daemon: &mut Daemon) -> Result<(), String> {
        let Some(mut record) = self.choose(daemon) else { return Ok(()) };
        self.moves -= 1;
        let outcome = daemon.tools.run(&mut record);
        self.after(daemon, record, outcome)
    }

    /// What `Tools::prepare` makes, without asking all peers at once.
    fn choose(&mut self, daemon: &Daemon) -> Option<Record> {
        let under_way = |record: &Record| !record.phase.is_over() || record.autostart;
        if self.moves == 0 || daemon.open.iter().any(under_way) {
            return None;
        }
        let domain = self.hosts.world().hosts[HERE].vm.clone()?;
        if !matches!(domain.state, RunState::Running | RunState::IoError) {
            return None;
        }
        let to = self.hosts.world().random.usize(1..3);
        let untidy = daemon.open.iter().any(|record| record.to() == NAMES[to]);
        let taken = {
            let world = self.hosts.world();
            world.is_migrating()
                || world.hosts[to].vm.is_some()
                || world.hosts[to].silent
                || world.hosts[to].volumes.contains_key(DISK)
        };
        if untidy || taken {
            return None;
        }
        let name = NAMES[to].to_owned();
        let peer = super::peer(&name);
        let disks = plan(&domain, daemon.tools.storage.as_ref()).ok()?.disks;
        let (name, persistent) = (&domain.name, domain.persistent);
        let mut record = Record::new(VM, name, persistent, NAMES[HERE], &peer, disks);
        record.autostart = domain.autostart;
        record.boot.clone_from(&daemon.tools.boot);
        record.ran = domain.state == RunState::Running;
        Some(record)
    }

    /// What must hold in the end.
    fn is_quiet(&self, daemon: &Daemon) -> Result<(), String> {
        let world = self.hosts.world();
        let told = &self.told;
        let check = |is: bool, what: &str| if is { Ok(()) } else { Err(what.to_owned()) };
        // A person may let one run there that was left after the VM went elsewhere: that is told.
        let two = world.hosts.iter().filter(|host| host.runs()).count() > 1;
        let others = world.two_by_person && told.abandoned && !world.hosts[HERE].runs();
        check(!two || others, "two run in the end")?;
        let heard = told.twice > 0 || told.ended > 0 || !daemon.open.is_empty();
        check(heard || !world.two_ran, "two ran, and nobody knows")?;
        let known = world.hosts.iter().any(|host| {
            host.vm.is_some() && host.volumes.get(DISK).is_some_and(|volume| volume.data != 0)
        });
        check(known || world.undefined || world.stopped, "none is left that could run")?;
        if !daemon.open.is_empty() {
            // It waits for a person.
            let transient = daemon.open.iter().any(|record| !record.persistent);
            let for_a_person = world.stopped || world.acted || transient;
            return check(for_a_person, "a move does not end");
        }
        check(told.ended >= told.begun.min(1), "an end was not told")?;
        let room = |host: &world::Host| host.volumes.keys().any(|name| name.starts_with("move-"));
        check(!world.hosts.iter().any(room), "room is kept for nothing")?;
        if told.abandoned || world.undefined {
            return Ok(());
        }
        let places = world.hosts.iter().filter(|host| host.volumes.contains_key(DISK)).count();
        check(places == 1, "its disk is left on another host")?;
        let vms: Vec<&Domain> = world.hosts.iter().filter_map(|host| host.vm.as_ref()).collect();
        check(vms.len() == 1 || (vms.is_empty() && world.stopped), "it is known to two hosts")?;
        if let (Some(vm), false) = (vms.first(), world.stopped) {
            let runs = matches!(vm.state, RunState::Running | RunState::IoError);
            let left = world.acted && vm.state == RunState::Arriving;
            check(runs || left, "it does not run any more")?;
        }
        Ok(())
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
fn whatever_happens_one_vm_runs_and_nothing_is_lost() {
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
