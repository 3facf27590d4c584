// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whole moves between two hosts in memory, with everything that can go wrong on the way.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use uuid::Uuid;
use virtnotify_model::{Bytes, Event, EventBus, VolumeState};

use crate::domain::RunState;
use crate::fake::{FakeBackend, FakeHypervisor, Fate, Side, World, domain};
use crate::hypervisor::{Peer, RemoteVolume};
use crate::owner::{Mover, MoverConfig, Timing};

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
        pause: ms(50),
        serve: ms(30),
        resume: ms(10),
    }
}

struct Lab {
    backend: FakeBackend,
    directory: tempfile::TempDir,
    peers: Vec<Peer>,
    timing: Timing,
}

impl Lab {
    /// Each VM has a disk of its own that is full, and this host has no room.
    fn new(vms: u128, peers: &[&str]) -> Self {
        let backend = FakeBackend::new("vms", 0);
        for n in 1..=vms {
            let name = format!("disk{}", n - 1);
            backend.add(&name, 512, 40);
            let mut world = backend.world.lock().unwrap();
            world.domains.insert(Uuid::from_u128(n), domain(&format!("guest{n}"), n));
            let volume = world.volumes.get_mut(&name).unwrap();
            volume.state = VolumeState::OutOfSpace;
            volume.openers = 1;
        }
        for peer in peers {
            let side = Side { available: 2048 << 20, ..Side::default() };
            backend.world.lock().unwrap().peers.insert((*peer).into(), side);
        }
        let peer = |name: &&str| Peer { name: (*name).into(), uri: format!("test+{name}:///") };
        let peers = peers.iter().map(peer).collect();
        Self { backend, directory: tempfile::tempdir().unwrap(), peers, timing: timing() }
    }

    fn world<T>(&self, see: impl FnOnce(&mut World) -> T) -> T {
        see(&mut self.backend.world.lock().unwrap())
    }

    fn start(&self, concurrent: usize) -> Process {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let hv = FakeHypervisor { world: self.backend.world.clone(), changes: watch::channel(0).0 };
        let bus = EventBus::new();
        let events = bus.subscribe();
        let config = MoverConfig {
            peers: self.peers.clone(),
            concurrent,
            journal: self.directory.path().to_owned(),
            timing: self.timing,
        };
        let backend = Arc::new(self.backend.clone());
        let mover = Mover::new(config, Arc::new(hv), backend, bus.clone()).unwrap();
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(mover.run(stopped));
        Process { runtime, bus, events, _stop: stop, world: self.backend.world.clone() }
    }

    fn journal_is_empty(&self) -> bool {
        is_empty(self.directory.path())
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

/// A daemon's life.
struct Process {
    runtime: Runtime,
    bus: EventBus,
    events: broadcast::Receiver<Event>,
    _stop: watch::Sender<bool>,
    world: Arc<Mutex<World>>,
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

    fn is_dead(&self) -> bool {
        let world = self.world.lock().unwrap();
        world.die_at.is_some_and(|(at, _)| world.calls >= at)
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }

    fn failures(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::MoveFailed { reason, .. } = event {
                all.push(reason);
            }
        }
        all
    }
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

/// Kills the daemon at its n-th call, for every n until a whole move needs fewer calls, before
/// the call's effect and after it; then starts it again.
fn killed_at_every_call(fate: Fate) {
    for after in [false, true] {
        for n in 1.. {
            let lab = Lab::new(1, &["host2"]);
            lab.world(|w| {
                w.fate = fate;
                w.die_at = Some((n, after));
            });
            let first = lab.start(1);
            let done = || lab.is_moved("host2");
            assert!(first.until(|| first.is_dead() || done()), "call {n}");
            let whole = done();
            first.kill();
            lab.world(|w| {
                w.die_at = None;
                w.fate = if fate == Fate::Fails { Fate::Works } else { fate };
            });
            let second = lab.start(1);
            assert!(second.until(|| lab.is_moved("host2")), "call {n}, after: {after}");
            lab.no_wrongs();
            let left = lab.world(|w| w.peers["host2"].volumes.len());
            assert_eq!(left, 1, "call {n}, after: {after}");
            if whole || n > 60 {
                assert!(n > 10, "only {n} calls were tried");
                break;
            }
        }
    }
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
