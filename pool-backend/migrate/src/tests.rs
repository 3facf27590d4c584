// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whole moves between two hosts in memory, with everything that can go wrong on the way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use uuid::Uuid;
use virtnotify_model::{AtLowMark, Bytes, Event, EventBus, LowMark, VolumeState, WhenFull, Window};

use crate::domain::RunState;
use crate::fake::{FakeHypervisor, FakePools, Fate, Side, World, domain};
use crate::hypervisor::{Peer, RemoteVolume, Wire};
use crate::moves::Moves;
use crate::owner::{Mover, MoverConfig};
use crate::timing::Timing;
use crate::wishes::{Kept, Origin};

mod disks;
mod lost;
mod operator;
mod sentences;
mod settled;
mod simulation;
mod two;
mod verdict;

const VM: Uuid = Uuid::from_u128(1);

/// So fast that a whole move takes milliseconds.
fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        sweep: ms(50),
        gather: ms(2),
        retry: ms(5),
        retry_limit: ms(20),
        settle: ms(5),
        settle_limit: ms(20),
        tell: ms(20),
        pause: ms(50),
        serve: ms(30),
        resume: ms(10),
        pressure: ms(5),
        no_return: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        nearer: Duration::from_secs(60),
        // Not within a test, but for those of the peers.
        peers: Duration::from_secs(3600),
        cancelled: Duration::from_secs(60),
    }
}

struct Lab {
    storage: FakePools,
    directory: tempfile::TempDir,
    peers: Vec<Peer>,
    timing: Timing,
    /// How often this host was started.
    boot: u32,
}

/// A host in memory.
fn peer(name: &str) -> Peer {
    let uri = format!("test+{name}:///");
    Peer { name: name.into(), uri, arrivals: 2, address: None }
}

impl Lab {
    /// Each VM has a disk of its own that is full, and this host has no room.
    fn new(vms: u128, peers: &[&str]) -> Self {
        let storage = FakePools::new("vms", 0);
        for n in 1..=vms {
            let name = format!("disk{}", n - 1);
            storage.add(&name, 512, 40);
            let mut world = storage.world.lock().unwrap();
            world.domains.insert(Uuid::from_u128(n), domain(&format!("guest{n}"), n));
            let volume = world.volumes.get_mut(&name).unwrap();
            volume.state = VolumeState::OutOfSpace;
            volume.openers = 1;
        }
        for peer in peers {
            let side = Side { available: 2048 << 20, ..Side::default() };
            storage.world.lock().unwrap().peers.insert((*peer).into(), side);
        }
        let peers = peers.iter().copied().map(peer).collect();
        Self { storage, directory: tempfile::tempdir().unwrap(), peers, timing: timing(), boot: 1 }
    }

    fn world<T>(&self, see: impl FnOnce(&mut World) -> T) -> T {
        see(&mut self.storage.world.lock().unwrap())
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("moves")
    }

    fn tally(&self) -> PathBuf {
        self.directory.path().join("tally.json")
    }

    fn config(&self, concurrent: usize) -> MoverConfig {
        MoverConfig {
            peers: self.peers.clone(),
            concurrent,
            bandwidth: Bytes::mib(100),
            journal: self.journal(),
            tally: self.tally(),
            wire: Wire { tls: true, ..Wire::default() },
            timing: self.timing,
            boot: format!("boot {}", self.boot),
        }
    }

    fn start(&self, concurrent: usize) -> Process {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let (world, process) = (self.storage.world.clone(), self.world(|w| w.process));
        let hv = FakeHypervisor { world, process, changes: watch::channel(0).0 };
        let bus = EventBus::new();
        let events = bus.subscribe();
        let config = self.config(concurrent);
        let storage = Arc::new(FakePools { process, ..self.storage.clone() });
        let hv = Arc::new(hv);
        let threads = Arc::downgrade(&hv);
        let mover = Mover::new(config, hv, storage, bus.clone()).unwrap();
        let (stop, stopped) = watch::channel(false);
        let moves = mover.moves();
        let life = Life { world: self.storage.world.clone(), process };
        runtime.spawn(async move {
            let _life = life;
            mover.run(stopped).await
        });
        let world = self.storage.world.clone();
        Process { runtime, bus, events, moves, _stop: stop, world, threads }
    }

    /// Whether a record has that word.
    fn journal_says(&self, word: &str) -> bool {
        let records = std::fs::read_dir(self.journal()).unwrap();
        let mut texts =
            records.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        texts.any(|text| text.contains(&format!("\"{word}\"")))
    }

    fn journal_is_empty(&self) -> bool {
        is_empty(&self.journal())
    }

    /// The VM runs at the peer, and nothing of it is left here.
    fn is_moved(&self, peer: &str) -> bool {
        self.journal_is_empty()
            && self.world(|w| {
                let there = w.peers[peer].domains.get(&VM);
                there.is_some_and(|d| d.state == RunState::Running)
                    && w.domains.is_empty()
                    && w.volumes.is_empty()
            })
    }

    fn no_wrongs(&self) {
        assert_eq!(self.world(|w| w.wrongs.clone()), Vec::<String>::new());
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().all(|e| e.unwrap().path().extension().is_none())
}

/// Ends with the mover's task.
struct Life {
    world: Arc<Mutex<World>>,
    process: u64,
}

impl Drop for Life {
    fn drop(&mut self) {
        let world = self.world.lock();
        world.unwrap_or_else(PoisonError::into_inner).end(self.process);
    }
}

/// A daemon's life.
struct Process {
    runtime: Runtime,
    bus: EventBus,
    events: broadcast::Receiver<Event>,
    moves: Moves,
    _stop: watch::Sender<bool>,
    world: Arc<Mutex<World>>,
    /// What each of its threads has.
    threads: Weak<FakeHypervisor>,
}

impl Process {
    /// Waits until it is so; false after some seconds.
    fn until(&self, so: impl Fn() -> bool) -> bool {
        let waiting = async {
            while !so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        self.runtime.block_on(async { timeout(Duration::from_secs(20), waiting).await.is_ok() })
    }

    /// Asks for a move, as `virt-notify migrate` does.
    fn ask(&self, vm: &str, to: Option<&str>) -> Result<Uuid, String> {
        self.now(self.moves.ask(vm, to)).map_err(|e| e.to_string())
    }

    /// The answer to what is asked.
    fn now<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(Duration::from_secs(20), asked).await.unwrap() })
    }

    fn is_dead(&self) -> bool {
        let world = self.world.lock().unwrap();
        world.die_at.is_some_and(|(at, _)| world.calls >= at)
    }

    /// When this returns, none of its threads is left that could write to the journal.
    fn kill(self) {
        self.world.lock().unwrap().process += 1;
        drop(self.runtime);
        assert_eq!(self.threads.strong_count(), 0, "a thread outlives its process");
    }

    /// What the next event that is wanted says.
    fn told(&mut self, wanted: impl Fn(Event) -> Option<String>) -> String {
        let Self { runtime, events, .. } = self;
        let waiting = async {
            loop {
                if let Some(reason) = wanted(events.recv().await.unwrap()) {
                    return reason;
                }
            }
        };
        runtime.block_on(async { timeout(Duration::from_secs(20), waiting).await.unwrap() })
    }

    /// The next failure that is told.
    fn failure(&mut self) -> String {
        self.failure_with("")
    }

    /// The next that says so.
    fn failure_with(&mut self, says: &str) -> String {
        self.told(|event| match event {
            Event::MoveFailed { reason, .. } => Some(reason).filter(|reason| reason.contains(says)),
            _ => None,
        })
    }

    /// The next sight of a VM on two hosts.
    fn twice(&mut self) -> String {
        self.told(|event| match event {
            Event::RunsTwice { reason, .. } => Some(reason),
            _ => None,
        })
    }

    fn failures(&mut self) -> Vec<String> {
        failures(&mut self.events)
    }
}

/// The failures that were told since the last look.
fn failures(events: &mut broadcast::Receiver<Event>) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::MoveFailed { reason, .. } = event {
            all.push(reason);
        }
    }
    all
}

#[test]
fn a_vm_without_space_moves_and_its_volume_here_goes() {
    let lab = Lab::new(1, &["host2"]);
    let mut process = lab.start(1);
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
    assert_eq!(lab.world(|w| w.available), 40 << 20);
    assert!(process.until(|| process.events.len() >= 2));
    let Event::MoveStarted(started) = process.events.try_recv().unwrap() else { panic!() };
    assert_eq!((started.from.as_str(), started.to.as_str()), ("host1", "host2"));
    assert_eq!(started.allocation, Bytes::mib(40));
    assert_eq!(process.events.try_recv().unwrap(), Event::MoveFinished(started));
}

#[test]
fn space_that_appears_resumes_in_place() {
    let lab = Lab::new(1, &[]);
    let mut process = lab.start(1);
    assert!(process.until(|| process.events.len() == 1));
    let failures = process.failures();
    assert!(failures[0].starts_with("no peer is configured. The VM stays here"), "{failures:?}");
    lab.world(|w| w.volumes.get_mut("disk0").unwrap().state = VolumeState::Growing);
    process
        .bus
        .emit(Event::SpaceAvailable { pool: "vms".parse().unwrap(), available: Bytes::mib(100) });
    assert!(process.until(|| lab.world(|w| w.domains[&VM].state == RunState::Running)));
    lab.no_wrongs();
}

/// What is known of its volume is from before it asked for space.
#[test]
fn a_vm_whose_volume_is_not_served_waits_and_neither_runs_on_nor_moves() {
    let lab = Lab::new(1, &["host2"]);
    let served = |w: &mut World, serves: bool| {
        w.stands_still = !serves;
        w.volumes.get_mut("disk0").unwrap().state = VolumeState::Growing;
    };
    lab.world(|w| served(w, false));
    let process = lab.start(1);
    let reason = || process.moves.picture().waiting.first().map(|vm| vm.reason.clone());
    assert!(process.until(|| reason().is_some_and(|why| why.contains("virtnotifyd does not run"))));
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 5));
    assert_eq!(lab.world(|w| w.domains[&VM].state), RunState::IoError);
    assert!(lab.journal_is_empty());
    lab.world(|w| served(w, true));
    process.bus.emit(Event::Lost);
    assert!(process.until(|| lab.world(|w| w.domains[&VM].state == RunState::Running)));
    lab.no_wrongs();
}

#[test]
fn an_error_that_is_not_ours_is_left_alone() {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.domains.get_mut(&VM).unwrap().no_space.clear());
    let process = lab.start(1);
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 5));
    assert_eq!(lab.world(|w| w.domains[&VM].state), RunState::IoError);
    assert!(lab.journal_is_empty());
}

#[test]
fn room_that_the_engine_is_about_to_hand_out_is_waited_for() {
    let mut lab = Lab::new(1, &["host2"]);
    lab.timing.serve = Duration::from_secs(60);
    lab.world(|w| w.available = 64 << 20);
    let process = lab.start(1);
    assert!(process.until(|| lab.world(|w| w.calls) > 5));
    lab.world(|w| w.volumes.get_mut("disk0").unwrap().state = VolumeState::Growing);
    assert!(
        process.until(
            || lab.world(|w| w.domains.get(&VM).is_some_and(|d| d.state == RunState::Running))
        )
    );
}

#[test]
fn the_second_peer_is_taken_when_the_first_fails() {
    let lab = Lab::new(1, &["host2", "host3"]);
    lab.world(|w| w.fate = Fate::Fails);
    let mut process = lab.start(1);
    assert!(process.until(|| !process.events.is_empty()));
    assert!(process.until(|| process.events.len() >= 2));
    lab.world(|w| w.fate = Fate::Works);
    assert!(process.until(|| lab.journal_is_empty() && lab.world(|w| w.volumes.is_empty())));
    lab.no_wrongs();
    assert!(process.failures()[0].contains("the copy failed"));
    let left: usize = lab.world(|w| w.peers.values().map(|s| s.volumes.len()).sum());
    assert_eq!(left, 1, "what the failed moves made is gone");
}

/// Nobody knows then whether the VM is there as well.
#[test]
fn a_peer_that_answers_with_an_error_is_asked_again_before_the_vm_goes_elsewhere() {
    let lab = Lab::new(1, &["host2", "host3"]);
    lab.world(|w| {
        w.fate = Fate::FailsThenRefuses;
        // The first choice.
        w.peers.get_mut("host2").unwrap().available *= 2;
    });
    let mut process = lab.start(1);
    let told = process.failure();
    assert!(told.starts_with("it does not end: cannot look for the VM: internal error"), "{told}");
    lab.world(|w| w.fate = Fate::Works);
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls > calls + 20)));
    assert!(lab.world(|w| w.peers["host3"].domains.is_empty() && !w.volumes.is_empty()));
    lab.world(|w| w.peers.get_mut("host2").unwrap().refuses = false);
    assert!(process.until(|| lab.journal_is_empty() && lab.world(|w| w.volumes.is_empty())));
    lab.no_wrongs();
}

#[test]
fn a_vm_that_is_shut_down_in_mid_copy_stays_and_that_is_the_reason() {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.endless = true);
    let mut process = lab.start(1);
    assert!(process.until(|| lab.world(|w| w.is_migrating())));
    lab.world(|w| {
        w.domains.get_mut(&VM).unwrap().state = RunState::Off;
        (w.fate, w.endless) = (Fate::Fails, false);
    });
    let told = process.failure();
    let reason = "it was shut down here meanwhile: cannot migrate: the copy failed";
    assert!(told.starts_with(reason), "{told}");
    assert!(process.until(|| lab.journal_is_empty()));
    assert!(lab.world(|w| w.volumes.contains_key("disk0") && w.peers["host2"].volumes.is_empty()));
    lab.no_wrongs();
}

#[test]
fn a_volume_of_that_name_at_the_peer_is_nobody_s_to_overwrite() {
    let lab = Lab::new(1, &["host2"]);
    let other = RemoteVolume { key: "x".into(), capacity: Bytes::mib(512), allocation: Bytes(0) };
    lab.world(|w| w.peers.get_mut("host2").unwrap().volumes.insert("disk0".into(), other.clone()));
    let mut process = lab.start(1);
    assert!(process.until(|| !process.events.is_empty()));
    let reason = process.failures().remove(0);
    assert!(reason.contains("host2 has a volume 'disk0' in its pool 'vms' already"), "{reason}");
    assert_eq!(lab.world(|w| w.peers["host2"].volumes["disk0"].clone()), other);
}

#[test]
fn a_peer_that_dies_keeps_neither_the_vm_nor_the_next_move() {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = true);
    let mut process = lab.start(1);
    assert!(process.until(|| !process.events.is_empty()));
    assert!(process.failures()[0].contains("host2 cannot be asked"));
    lab.world(|w| w.peers.get_mut("host2").unwrap().unreachable = false);
    assert!(process.until(|| lab.is_moved("host2")));
}

#[test]
fn twenty_vms_queue_and_those_that_get_space_stay() {
    let lab = Lab::new(20, &["host2"]);
    let process = lab.start(1);
    let moved = || lab.world(|w| w.peers["host2"].domains.len());
    assert!(process.until(|| moved() >= 10));
    lab.world(|w| w.volumes.values_mut().for_each(|v| v.state = VolumeState::Growing));
    let waits = |w: &mut World| w.domains.values().any(|d| d.state != RunState::Running);
    assert!(process.until(|| lab.journal_is_empty() && !lab.world(waits)));
    assert!(moved() < 20, "the rest stayed");
    lab.no_wrongs();
}

#[test]
fn a_vm_that_does_not_resume_keeps_both_copies_until_it_does() {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.resume_fails = 7);
    let mut process = lab.start(1);
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
    let failures = process.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].contains("does not resume"), "{failures:?}");
}

#[test]
fn a_definition_that_libvirt_left_here_goes() {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.fate = Fate::KeepsDefinition);
    let process = lab.start(1);
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

/// Where zeroes are not found, a copy takes all of the disk's size: 512 MiB of which 40 are written.
#[test]
fn a_copy_that_keeps_no_holes_needs_room_for_the_whole_disk() {
    let lab = Lab::new(1, &["host2", "host3"]);
    lab.world(|w| {
        let side = w.peers.get_mut("host2").unwrap();
        (side.old, side.available) = (true, 700 << 20);
        w.peers.get_mut("host3").unwrap().available = 400 << 20;
    });
    let process = lab.start(1);
    assert!(process.until(|| lab.is_moved("host3")));
    lab.no_wrongs();

    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.peers.get_mut("host2").unwrap().old = true);
    let process = lab.start(1);
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

/// VMs that run, on a host below its low mark.
fn low(vms: u128) -> Lab {
    let lab = Lab::new(vms, &["host2"]);
    lab.world(|w| {
        w.available = 100 << 20;
        w.policy.at_low_mark = AtLowMark::Migrate;
        w.policy.low_mark = LowMark::Percent(10);
        for domain in w.domains.values_mut() {
            domain.state = RunState::Running;
            domain.no_space.clear();
        }
        w.volumes.values_mut().for_each(|v| v.state = VolumeState::Growing);
    });
    lab
}

fn is_low(process: &Process) {
    let pool = "vms".parse().unwrap();
    process.bus.emit(Event::SpaceLow { pool, available: Bytes::mib(100) });
}

/// Eight are tried at a time, and the largest first.
#[test]
fn vms_that_fit_nowhere_do_not_keep_the_others_here() {
    let lab = low(10);
    lab.world(|w| {
        for disk in 0..9 {
            let volume = w.volumes.get_mut(&format!("disk{disk}")).unwrap();
            volume.allocation = Bytes::mib(400);
        }
        w.peers.get_mut("host2").unwrap().available = 480 << 20;
    });
    let process = lab.start(1);
    is_low(&process);
    let last = Uuid::from_u128(10);
    assert!(process.until(|| lab.world(|w| w.peers["host2"].domains.contains_key(&last))));
    lab.no_wrongs();
}

/// One configuration for all hosts names this one as well.
#[test]
fn this_host_is_no_peer_of_its_own() {
    let lab = Lab::new(1, &["host1", "host2"]);
    lab.world(|w| {
        let here = w.domains[&VM].clone();
        w.peers.get_mut("host1").unwrap().domains.insert(VM, here);
    });
    let mut process = lab.start(1);
    assert!(process.until(|| lab.is_moved("host2")));
    assert_eq!(process.failures(), Vec::<String>::new());
    lab.no_wrongs();
}

/// libvirt copies the disks of a VM that runs for as long as it likes.
#[test]
fn a_vm_that_waits_does_not_wait_for_one_that_runs() {
    let lab = low(2);
    let other = Uuid::from_u128(2);
    lab.world(|w| w.slow = Some(VM));
    let process = lab.start(1);
    is_low(&process);
    assert!(process.until(|| lab.world(|w| w.is_migrating())));
    lab.world(|w| {
        let domain = w.domains.get_mut(&other).unwrap();
        (domain.state, domain.no_space) = (RunState::IoError, ["vda".to_owned()].into());
        w.volumes.get_mut("disk1").unwrap().state = VolumeState::OutOfSpace;
    });
    let (pool, volume) = ("vms".parse().unwrap(), "disk1".parse().unwrap());
    let (wanted, available) = (Bytes::mib(4), Bytes::ZERO);
    process.bus.emit(Event::SpaceExhausted { pool, volume, wanted, available });
    let there = |w: &mut World, vm| w.peers["host2"].domains.get(&vm).map(|d| d.state);
    assert!(process.until(|| lab.world(|w| there(w, other) == Some(RunState::Running))));
    assert!(lab.world(|w| w.domains.contains_key(&VM)), "it is still being copied");
    lab.world(|w| w.slow = None);
    assert!(process.until(|| lab.world(|w| there(w, VM) == Some(RunState::Running))));
    lab.no_wrongs();
}

#[test]
fn at_the_low_mark_one_vm_leaves_and_is_not_paused() {
    let lab = low(3);
    lab.world(|w| w.volumes.get_mut("disk1").unwrap().allocation = Bytes::mib(60));
    let process = lab.start(1);
    is_low(&process);
    assert!(process.until(|| lab.journal_is_empty() && lab.world(|w| w.available > 100 << 20)));
    let there = |w: &mut World| w.peers["host2"].domains.values().map(|d| d.state).collect();
    let states: Vec<RunState> = lab.world(there);
    assert_eq!(states, [RunState::Running], "the largest was enough");
    assert!(lab.world(|w| w.peers["host2"].domains.contains_key(&Uuid::from_u128(2))));
    lab.no_wrongs();
}

#[test]
fn a_vm_that_libvirt_refuses_does_not_keep_the_others_here() {
    let mut lab = low(2);
    // So long a failure is remembered.
    lab.timing.retry_limit = Duration::from_secs(60);
    lab.world(|w| {
        w.volumes.get_mut("disk1").unwrap().allocation = Bytes::mib(60);
        w.fails = Some(|vm, _| vm == Uuid::from_u128(2));
    });
    let mut process = lab.start(1);
    is_low(&process);
    assert!(process.failure().contains("the copy failed"), "the largest is tried first");
    assert!(process.until(|| lab.world(|w| w.peers["host2"].domains.contains_key(&VM))));
    lab.no_wrongs();
}

#[test]
fn a_running_vm_leaves_out_the_peer_that_failed_it() {
    let mut lab = low(1);
    // So long a failure is remembered.
    lab.timing.retry_limit = Duration::from_secs(60);
    lab.peers.push(peer("host3"));
    lab.world(|w| {
        let side = Side { available: 1024 << 20, ..Side::default() };
        w.peers.insert("host3".into(), side);
        w.fails = Some(|_, peer| peer == "host2");
    });
    let mut process = lab.start(1);
    is_low(&process);
    assert!(process.failure().contains("the copy failed"), "host2 has more room");
    assert!(process.until(|| lab.world(|w| w.peers["host3"].domains.contains_key(&VM))));
    assert_eq!(process.failures(), Vec::<String>::new());
    lab.no_wrongs();
}

#[test]
fn a_vm_moves_when_a_person_asks_and_never_to_a_stranger() {
    let lab = low(2);
    lab.world(|w| w.policy.at_low_mark = AtLowMark::Warn);
    lab.world(|w| w.available = 1000 << 20);
    let process = lab.start(1);
    for (vm, to, says) in [
        ("nobody", None, "this host has no such VM"),
        ("guest1", Some("qemu+ssh://stranger/system"), "is no configured peer: there are host2"),
    ] {
        let refused = process.ask(vm, to).unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
    lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Paused);
    let paused = process.ask(&VM.to_string(), None).unwrap_err();
    assert!(paused.contains("a person paused it"), "{paused}");
    lab.world(|w| w.domains.get_mut(&VM).unwrap().state = RunState::Running);
    assert_eq!(process.ask(&VM.to_string(), Some("host2")).unwrap(), VM);
    assert!(process.until(|| lab.journal_is_empty() && process.moves.list().is_empty()));
    assert!(lab.world(|w| w.peers["host2"].domains.contains_key(&VM)));
    lab.no_wrongs();
}

#[test]
fn a_pool_that_fills_fast_is_relieved_before_its_low_mark() {
    let lab = low(1);
    let capacity = Bytes::mib(1024);
    lab.world(|w| {
        w.available = 500 << 20;
        w.volumes.get_mut("disk0").unwrap().capacity = capacity;
    });
    let process = lab.start(1);
    let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let (by, allocation) = (Bytes::mib(1), Bytes::mib(40));
    process.bus.emit(Event::VolumeGrown { pool, volume, by, allocation, capacity });
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 5));
    assert!(lab.world(|w| w.domains.contains_key(&VM)), "there is time");
    let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let (by, allocation) = (Bytes::mib(460), Bytes::mib(500));
    process.bus.emit(Event::VolumeGrown { pool, volume, by, allocation, capacity });
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

/// It grows as fast; but it cannot fill the pool, or it is no VM's of this host: an arrival, an upload.
#[test]
fn a_volume_that_cannot_fill_the_pool_and_one_that_arrives_send_no_vm_away() {
    for arrives in [false, true] {
        let lab = low(1);
        lab.world(|w| w.available = 500 << 20);
        let process = lab.start(1);
        let volume = if arrives { "arriving" } else { "disk0" }.parse().unwrap();
        let (pool, capacity) = ("vms".parse().unwrap(), Bytes::mib(512));
        let (by, allocation) = (Bytes::mib(460), Bytes::mib(500));
        let calls = lab.world(|w| w.calls);
        process.bus.emit(Event::VolumeGrown { pool, volume, by, allocation, capacity });
        assert!(process.until(|| lab.world(|w| w.calls) > calls + 20));
        assert!(lab.world(|w| w.domains.contains_key(&VM)), "{arrives}");
        assert!(lab.journal_is_empty());
    }
}

/// What was said before the rest may hold no more.
#[test]
fn that_a_pool_is_held_back_is_known_also_while_it_rests() {
    let now = crate::limits::local_time().unwrap();
    let mut lab = low(1);
    (lab.timing.retry, lab.timing.retry_limit) =
        (Duration::from_secs(3600), Duration::from_secs(3600));
    lab.world(|w| w.fate = Fate::Fails);
    let mut process = lab.start(1);
    is_low(&process);
    process.failure();
    assert!(process.until(|| lab.journal_is_empty()));
    let later = Window { from: now.later(120), to: now.later(180) };
    for window in [Some(later), None] {
        lab.world(|w| w.policy.window = window);
        is_low(&process);
        let held = || !process.moves.picture().held_back.is_empty();
        assert!(process.until(|| held() == window.is_some()), "{window:?}");
    }
}

#[test]
fn at_the_low_mark_vms_leave_at_their_hours_and_so_many_a_day() {
    let now = crate::limits::local_time().unwrap();
    let later = Window { from: now.later(120), to: now.later(180) };
    for (window, daily) in [(Some(later), None), (None, Some(1))] {
        let lab = low(3);
        lab.world(|w| {
            (w.policy.window, w.policy.daily) = (window, daily);
            w.volumes.values_mut().for_each(|volume| volume.allocation = Bytes::mib(30));
            // Low also when one has left.
            w.available = 10 << 20;
        });
        let process = lab.start(1);
        is_low(&process);
        let left = if daily.is_some() { 1 } else { 0 };
        let gone = || lab.world(|w| w.peers["host2"].domains.len()) == left;
        let settled = || lab.journal_is_empty() && lab.tally().exists() == daily.is_some();
        assert!(process.until(|| gone() && settled()));
        // It is shown, with the time, and so it is in the plan of a VM that is still here.
        let held = || process.moves.picture().held_back.pop();
        assert!(process.until(|| held().is_some_and(|held| held.until.is_some())));
        let held = held().unwrap();
        let says = if window.is_some() { "only" } else { "within a day: 1 gone, 0 on the way" };
        assert!(held.reason.ends_with(says), "{}", held.reason);
        let plan = process.now(process.moves.preview("guest3", None)).unwrap();
        assert_eq!((plan.held_back, plan.ours), (vec![held], true));
        process.kill();
        // It is remembered.
        let process = lab.start(1);
        is_low(&process);
        let calls = lab.world(|w| w.calls);
        assert!(process.until(|| lab.world(|w| w.calls) > calls + 20));
        assert!(gone());
        // One that waits for space leaves all the same.
        lab.world(|w| {
            let (uuid, vm) = w.domains.iter_mut().next_back().unwrap();
            vm.state = RunState::IoError;
            vm.no_space.insert("vda".into());
            let disk = format!("disk{}", uuid.as_u128() - 1);
            w.volumes.get_mut(&disk).unwrap().state = VolumeState::OutOfSpace;
            w.available = 0;
        });
        let all = || lab.world(|w| w.peers["host2"].domains.len()) > left;
        assert!(process.until(|| all() && lab.journal_is_empty()));
        // A pool that has room again holds nobody back.
        lab.world(|w| w.available = 2000 << 20);
        assert!(process.until(|| process.moves.picture().held_back.is_empty()));
        lab.no_wrongs();
    }
}

#[test]
fn a_move_that_failed_is_not_one_of_those_of_a_day() {
    let mut lab = low(2);
    // Nothing but the end of its rest has the pool looked at again.
    (lab.timing.sweep, lab.timing.retry_limit) = (Duration::from_secs(3600), lab.timing.no_return);
    lab.world(|w| {
        w.policy.daily = Some(1);
        w.volumes.values_mut().for_each(|volume| volume.allocation = Bytes::mib(30));
        w.fails = Some(|uuid, _| uuid == VM);
    });
    let process = lab.start(2);
    is_low(&process);
    let gone = || lab.world(|w| w.peers["host2"].domains.len()) == 1;
    assert!(process.until(|| gone() && lab.journal_is_empty()));
    assert!(lab.world(|w| w.domains.contains_key(&VM)), "it could not go");
    lab.no_wrongs();
}

#[test]
fn who_is_pinned_stays_and_the_next_goes() {
    let lab = low(2);
    lab.world(|w| {
        w.volumes.get_mut("disk0").unwrap().allocation = Bytes::mib(400);
        w.domains.get_mut(&VM).unwrap().wishes.stays = Some(Kept::Pinned);
    });
    let process = lab.start(1);
    is_low(&process);
    assert!(process.until(|| lab.journal_is_empty() && lab.world(|w| w.available > 100 << 20)));
    assert!(lab.world(|w| w.domains.contains_key(&VM) && w.domains.len() == 1));
}

#[test]
fn nobody_goes_where_the_next_host_would_be_low() {
    let lab = low(1);
    // A tenth of 4096 MiB has to stay free there.
    lab.world(|w| w.peers.get_mut("host2").unwrap().available = 440 << 20);
    let mut process = lab.start(1);
    is_low(&process);
    assert!(process.until(|| process.events.len() >= 2));
    let failures = process.failures();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].contains("no VM can be moved out of it: 'guest1': no peer"),
        "{failures:?}"
    );
    lab.world(|w| w.peers.get_mut("host2").unwrap().available = 460 << 20);
    assert!(process.until(|| lab.is_moved("host2")));
}

#[test]
fn the_policy_says_what_happens_at_the_end() {
    for (when_full, movable) in [(WhenFull::Pause, true), (WhenFull::Migrate, false)] {
        let lab = Lab::new(1, &["host2"]);
        lab.world(|w| {
            w.policy.when_full = when_full;
            w.policy.movable = movable;
        });
        let mut process = lab.start(1);
        let calls = lab.world(|w| w.calls);
        assert!(process.until(|| lab.world(|w| w.calls) > calls + 5));
        assert!(lab.world(|w| w.domains.contains_key(&VM)) && lab.journal_is_empty());
        if !movable {
            assert!(process.failure().contains("says that VMs are not to be moved"));
        }
        lab.world(|w| w.volumes.get_mut("disk0").unwrap().state = VolumeState::Growing);
        let runs = || lab.world(|w| w.domains[&VM].state == RunState::Running);
        assert!(process.until(runs), "it is resumed here all the same");
    }
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| w.policy.when_full = WhenFull::Error);
    let process = lab.start(1);
    lab.world(|w| w.volumes.get_mut("disk0").unwrap().state = VolumeState::Growing);
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 5));
    assert_eq!(lab.world(|w| w.domains[&VM].state), RunState::IoError, "it is the operator's");
}

#[test]
fn a_move_is_cancelled_and_not_begun_again() {
    cancelled_and_not_begun_again(false);
}

#[test]
fn a_move_is_cancelled_whatever_libvirt_says_of_it() {
    cancelled_and_not_begun_again(true);
}

fn cancelled_and_not_begun_again(closes_first: bool) {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| (w.endless, w.closes_first) = (true, closes_first));
    let mut process = lab.start(1);
    assert!(process.until(|| lab.world(|w| w.peers["host2"].domains.contains_key(&VM))));
    process.moves.cancel("guest1").unwrap();
    assert!(process.until(|| lab.journal_is_empty()));
    let told = process.failure();
    assert_eq!(told, "it was cancelled: it is left alone for 60 s, or until its move is asked for");
    is_left_alone(&lab, &process);
}

fn is_left_alone(lab: &Lab, process: &Process) {
    assert!(lab.world(|w| w.peers["host2"].volumes.is_empty()));
    // Its end is told before its thread has ended.
    assert!(process.until(|| process.moves.cancel("guest1").is_err()));
    let calls = lab.world(|w| w.calls);
    assert!(process.until(|| lab.world(|w| w.calls) > calls + 3));
    assert!(lab.journal_is_empty() && process.moves.cancel("guest1").is_err());
}

/// In mid copy, in a daemon's own migration or in one that it found under way.
fn cancelled_with_libvirts_means(killed: bool) {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| (w.endless, w.closes_first) = (true, true));
    let mut process = lab.start(1);
    assert!(process.until(|| lab.world(|w| w.peers["host2"].domains.contains_key(&VM))));
    if killed {
        process.kill();
        process = lab.start(1);
    }
    lab.world(|w| (w.aborted, w.undoing) = (true, 1));
    let told = process.failure();
    assert!(
        told.starts_with("it was cancelled with libvirt's own means (virsh domjobabort): "),
        "{told}"
    );
    assert!(process.until(|| lab.journal_is_empty()));
    is_left_alone(&lab, &process);
    lab.world(|w| w.endless = false);
    assert_eq!(process.ask("guest1", None), Ok(VM), "who asks for it knows");
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

#[test]
fn a_move_that_an_operator_cancels_is_not_begun_again_until_asked_for() {
    cancelled_with_libvirts_means(false);
}

#[test]
fn a_move_that_an_operator_cancels_after_a_restart_is_not_begun_again_either() {
    cancelled_with_libvirts_means(true);
}

#[test]
fn a_backup_of_a_vm_is_no_move_of_it() {
    let mut lab = Lab::new(1, &["host2"]);
    lab.timing.stall = Duration::from_millis(20);
    lab.world(|w| w.endless = true);
    let process = lab.start(1);
    assert!(process.until(|| lab.world(|w| w.is_migrating())));
    process.kill();
    lab.world(|w| {
        w.break_off();
        w.backed_up = true;
    });
    assert!(!lab.journal_is_empty(), "a move was begun before");
    let mut process = lab.start(1);
    assert_eq!(process.failure(), "it was interrupted");
    assert!(process.until(|| lab.journal_is_empty()));
    let refused = loop {
        let refused = process.ask("guest1", None).unwrap_err();
        // Its end is told before the owner has taken note of it.
        if !refused.contains("being moved already") {
            break refused;
        }
    };
    assert!(refused.contains("libvirt is at work on it already"), "{refused}");
    assert!(lab.world(|w| !w.aborted && w.domains.contains_key(&VM)));
    lab.no_wrongs();
}

#[test]
fn a_migration_that_stands_still_is_cancelled() {
    let mut lab = Lab::new(1, &["host2"]);
    lab.timing.stall = Duration::from_millis(100);
    lab.world(|w| w.endless = true);
    let mut process = lab.start(1);
    assert!(process.until(|| process.events.len() >= 3));
    lab.world(|w| w.endless = false);
    assert!(process.until(|| lab.is_moved("host2")));
    assert!(process.failures()[0].contains("nothing was copied for"));
}

#[test]
fn a_migration_that_comes_no_nearer_to_its_end_is_cancelled() {
    let mut lab = Lab::new(1, &["host2"]);
    lab.timing.nearer = Duration::from_millis(500);
    lab.world(|w| {
        (w.endless, w.rewrites) = (true, true);
        w.peers.get_mut("host2").unwrap().old = true;
    });
    let mut process = lab.start(1);
    process.failure_with("its guest writes as fast as is copied");
    lab.world(|w| w.endless = false);
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

/// Where its writes go to both hosts, the disks of any guest are copied in the end.
#[test]
fn a_migration_that_takes_long_is_left_alone() {
    let mut lab = Lab::new(1, &["host2"]);
    lab.timing.nearer = Duration::from_millis(50);
    lab.world(|w| (w.endless, w.rewrites) = (true, true));
    let mut process = lab.start(1);
    assert!(process.until(|| process.events.len() >= 2), "it goes on");
    std::thread::sleep(Duration::from_secs(1));
    lab.world(|w| w.endless = false);
    assert!(process.until(|| lab.is_moved("host2")));
    assert_eq!(process.failures(), Vec::<String>::new());
    lab.no_wrongs();
}

#[test]
fn of_two_hosts_that_choose_one_peer_one_yields() {
    let lab = Lab::new(1, &["host2"]);
    let rival = crate::reserve::name(Uuid::from_u128(9), Bytes::mib(1900)).unwrap();
    lab.world(|w| w.peers.get_mut("host2").unwrap().rival = Some(rival.to_string()));
    let mut process = lab.start(1);
    assert!(process.until(|| lab.journal_is_empty() && process.events.len() >= 2));
    let failures = process.failures();
    assert!(failures[0].contains("host2 has 2.00 GiB left in its pool 'vms'"), "{failures:?}");
    assert!(lab.world(|w| w.domains.contains_key(&VM)));
    lab.world(|w| w.peers.get_mut("host2").unwrap().volumes.remove(rival.as_str()));
    assert!(process.until(|| lab.is_moved("host2")));
    lab.no_wrongs();
}

#[test]
fn a_peer_takes_no_more_vms_at_once_than_it_is_to() {
    let lab = Lab::new(1, &["host2"]);
    let other = RemoteVolume { key: "x".into(), capacity: Bytes::mib(1), allocation: Bytes(0) };
    lab.world(|w| {
        let volumes = &mut w.peers.get_mut("host2").unwrap().volumes;
        for vm in [8, 9] {
            let name = crate::reserve::name(Uuid::from_u128(vm), Bytes(1)).unwrap();
            volumes.insert(name.to_string(), other.clone());
        }
    });
    let mut process = lab.start(1);
    assert!(process.until(|| !process.events.is_empty()));
    let reason = process.failures().remove(0);
    assert!(reason.contains("host2 takes 2 VMs at once, and 2 are on their way"), "{reason}");
}

#[test]
fn it_goes_neither_back_nor_where_it_may_not() {
    let lab = Lab::new(1, &["host2", "host3", "host4"]);
    lab.world(|w| {
        let wishes = &mut w.domains.get_mut(&VM).unwrap().wishes;
        wishes.origins = vec![Origin::now("host2"), Origin { host: "host4".into(), at: 7 }];
        wishes.only.extend(["host2".into(), "host3".into()]);
        w.peers.get_mut("host3").unwrap().available = 0;
    });
    let mut process = lab.start(1);
    assert!(process.until(|| !process.events.is_empty()));
    let reason = process.failures().remove(0);
    assert!(reason.contains("host2 is where it came from less than 60 s ago"), "{reason}");
    assert!(reason.contains("host4 is not among the peers that its <metadata> names"), "{reason}");
    lab.world(|w| w.peers.get_mut("host3").unwrap().available = 2048 << 20);
    assert!(process.until(|| lab.is_moved("host3")));
    let origins = lab.world(|w| w.peers["host3"].domains[&VM].wishes.origins.clone());
    let hosts: Vec<_> = origins.iter().map(|origin| origin.host.as_str()).collect();
    assert_eq!(hosts, ["host2", "host1"], "nor to the one before by way of a third");
}

/// Kills the daemon at its n-th call, for every n until the move is over before that call, before
/// the call's effect and after it; then starts it again.
fn killed_at_every_call(fate: Fate) {
    for after in [false, true] {
        let over = (1..).find(|&n| killed_at_call(n, after, fate)).unwrap();
        assert!(over > 20, "a move was over before its call {over}");
    }
}

/// Does that for one n; says whether the move was over before.
fn killed_at_call(n: usize, after: bool, fate: Fate) -> bool {
    let lab = Lab::new(1, &["host2"]);
    lab.world(|w| {
        w.domains.get_mut(&VM).unwrap().autostart = true;
        w.fate = fate;
        w.die_at = Some((n, after));
    });
    let first = lab.start(1);
    let over = || match fate {
        // It started, and it failed.
        Fate::Fails | Fate::LosesReply => first.events.len() >= 2 && lab.journal_is_empty(),
        _ => lab.is_moved("host2"),
    };
    assert!(first.until(|| first.is_dead() || over()), "call {n}");
    let whole = over();
    first.kill();
    let there = lab.world(|w| w.peers["host2"].domains.get(&VM).map(|d| d.state));
    if there == Some(RunState::Running) && !lab.journal_is_empty() {
        let known = lab.journal_says("resuming") || lab.journal_says("arrived");
        assert!(known, "call {n}, after: {after}: it runs there, and the journal does not know");
    }
    lab.world(|w| {
        w.die_at = None;
        w.fate = if fate == Fate::KeepsDefinition { fate } else { Fate::Works };
    });
    let second = lab.start(1);
    assert!(second.until(|| lab.is_moved("host2")), "call {n}, after: {after}");
    lab.no_wrongs();
    let left = lab.world(|w| w.peers["host2"].volumes.len());
    assert_eq!(left, 1, "call {n}, after: {after}");
    assert!(lab.world(|w| w.peers["host2"].domains[&VM].autostart), "call {n}, after: {after}");
    // More than a move has; it would look for its end for ever.
    assert!(n < 400, "the move is not over after {n} calls");
    whole
}

/// The power of this host goes at that call, before its effect or after it.
fn cut_at_call(n: usize, after: bool, fate: Fate) -> bool {
    let mut lab = Lab::new(1, &["host2"]);
    lab.world(|w| {
        w.domains.get_mut(&VM).unwrap().autostart = true;
        (w.fate, w.die_at) = (fate, Some((n, after)));
    });
    let first = lab.start(1);
    assert!(first.until(|| first.is_dead() || lab.is_moved("host2")), "call {n}");
    let whole = lab.is_moved("host2");
    lab.world(World::reboot);
    lab.boot += 1;
    first.kill();
    lab.world(|w| w.die_at = None);
    let second = lab.start(1);
    let starts =
        |domain: &crate::domain::Domain| domain.state == RunState::Running && domain.autostart;
    // It runs in one place, and starts with that host.
    let settled = || {
        lab.journal_is_empty()
            && lab.world(|w| {
                let all = w.domains.values().chain(w.peers["host2"].domains.values());
                let all: Vec<_> = all.collect();
                all.len() == 1 && starts(all[0])
            })
    };
    assert!(
        second.until(settled),
        "call {n}, after: {after}: {:?}",
        lab.world(|w| format!("{w:?}"))
    );
    lab.no_wrongs();
    assert!(n < 400, "the move is not over after {n} calls");
    whole
}

#[test]
fn a_vm_that_starts_with_its_host_runs_once_after_a_power_cut_at_every_call() {
    for fate in [Fate::Works, Fate::KeepsDefinition] {
        for n in 1.. {
            let early = cut_at_call(n, false, fate);
            if early && cut_at_call(n, true, fate) {
                break;
            }
        }
    }
}

/// The VM that it is about may wait, paused, on the other host.
#[test]
fn a_record_that_cannot_be_read_is_told() {
    let lab = Lab::new(0, &["host2"]);
    std::fs::create_dir(lab.journal()).unwrap();
    std::fs::write(lab.journal().join("guest.host2.json"), "{").unwrap();
    let mut process = lab.start(1);
    let told = process.told(|event| match event {
        Event::Warning { what, .. } => Some(what),
        _ => None,
    });
    assert!(told.contains("guest.host2.json' cannot be read, and is left alone"), "{told}");
}

#[test]
fn killed_at_every_call_of_a_move() {
    killed_at_every_call(Fate::Works);
}

#[test]
fn killed_at_every_call_of_a_move_that_fails() {
    killed_at_every_call(Fate::Fails);
}

#[test]
fn killed_at_every_call_of_a_move_whose_definition_stays() {
    killed_at_every_call(Fate::KeepsDefinition);
}
