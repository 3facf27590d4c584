// SPDX-License-Identifier: LGPL-2.1-or-later
//! The pools of virtnotifyd as a neighbour knows them: what it is told, what it asks, and what it knows while
//! virtnotifyd does not run.

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;
use virtnotify_model::{
    Bytes, Event, EventBus, Guest, PoolName, Pools, Storage, StorageError, Task, VolumeName,
};
use virtnotify_remote::{Publisher, RemoteStorage};
use virtnotifyd::fake::FakeStorage;

use support::Daemon;

const LONG: Duration = Duration::from_secs(30);

struct Bench {
    directory: TempDir,
    fake: FakeStorage,
    publisher: Arc<Publisher>,
    remote: Arc<RemoteStorage>,
    heard: Receiver<Event>,
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("storage.sock")
}

fn vms() -> PoolName {
    "vms".parse().unwrap()
}

fn volume(name: &str) -> VolumeName {
    name.parse().unwrap()
}

impl Bench {
    /// virtnotifyd with a pool, and a neighbour that follows it.
    fn start() -> Self {
        let bench = Self::starting();
        bench.publisher.ready();
        bench.until(|remote| remote.runs());
        bench
    }

    /// The same before the pools are there.
    fn starting() -> Self {
        let directory = TempDir::new().unwrap();
        let fake = FakeStorage::new(directory.path(), "");
        let publisher = fake.serve(&socket(&directory));
        let events = EventBus::new();
        let heard = events.subscribe();
        let remote = Arc::new(RemoteStorage::new(&socket(&directory)));
        remote.follow(events);
        Self { directory, fake, publisher, remote, heard }
    }

    /// Makes a volume, and tells of it as the engine does.
    fn create(&self, name: &str) {
        self.fake.create(name);
        let (pool, volume, capacity) = (vms(), volume(name), Bytes::mib(64));
        self.fake.events.emit(Event::VolumeCreated { pool, volume, capacity });
    }

    fn until(&self, so: impl Fn(&RemoteStorage) -> bool) {
        let end = Instant::now() + LONG;
        while !so(&self.remote) {
            assert!(Instant::now() < end, "it does not come to be so");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next event that is so.
    fn hear(&mut self, so: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + LONG;
        loop {
            match self.heard.try_recv() {
                Ok(event) if so(&event) => return event,
                _ => assert!(Instant::now() < end, "nothing is told"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn what_was_done_is_seen_by_who_catches_up() {
    let bench = Bench::start();
    for n in 0..50 {
        let name = format!("disk-{n}");
        bench.create(&name);
        bench.remote.catch_up();
        assert_eq!(bench.remote.volume(&vms(), &volume(&name)).unwrap().capacity, Bytes::mib(64));
    }
    assert_eq!(bench.remote.volumes(&vms()).unwrap(), bench.fake.local.volumes(&vms()).unwrap());
    assert_eq!(bench.remote.pools(), bench.fake.local.pools());
}

#[test]
fn an_event_comes_after_what_it_tells_of() {
    let mut bench = Bench::start();
    for n in 1..=20 {
        let chunk = Bytes::mib(4);
        let offset = Bytes(chunk.0 * (n - 1) % Bytes::mib(64).0);
        bench.fake.backend.write(&vms(), &volume("disk0"), offset, Bytes(1)).unwrap();
        let now = bench.fake.local.volume(&vms(), &volume("disk0")).unwrap();
        let (allocation, capacity) = (now.allocation, now.capacity);
        let (pool, volume) = (vms(), volume("disk0"));
        let grown = Event::VolumeGrown { pool, volume, by: chunk, allocation, capacity };
        bench.fake.events.emit(grown.clone());
        assert_eq!(bench.hear(|event| matches!(event, Event::VolumeGrown { .. })), grown);
        let known = bench.remote.volume(&vms(), &self::volume("disk0")).unwrap();
        assert_eq!(known.allocation, allocation);
    }
}

#[test]
fn what_is_asked_is_answered_as_it_is_there() {
    let bench = Bench::start();
    let (remote, mon) = (&bench.remote, "mon".parse().unwrap());
    let disk0 = volume("disk0");
    let made = remote.take_snapshot(&vms(), std::slice::from_ref(&disk0), &mon).unwrap();
    assert_eq!(made[0].name.as_str(), "disk0@mon");
    remote.prepare_write(&vms(), &disk0, Bytes::ZERO, Bytes(1)).unwrap();
    let (capacity, extents) = remote.difference(&vms(), &disk0, Some(&made[0].name)).unwrap();
    assert_eq!((capacity, extents.len()), (Bytes::mib(64), 1));
    remote.roll_back(&vms(), &made[0].name).unwrap();
    let refused = remote.roll_back(&vms(), &disk0).unwrap_err();
    assert!(matches!(refused, StorageError::InvalidArgument(_)), "{refused:?}");
    remote.delete_snapshot(&vms(), &made[0].name).unwrap();
    let uuid = remote.volume(&vms(), &disk0).unwrap().uuid;
    for (name, uuid) in [("none", uuid), ("disk0", uuid::Uuid::from_u128(7))] {
        let gone = remote.delete_volume(&vms(), &volume(name), &uuid).unwrap_err();
        assert!(matches!(gone, StorageError::NoVolume(_)), "{gone:?}");
    }
    assert_eq!(bench.fake.local.volumes(&vms()).unwrap().len(), 1);
    assert_eq!(remote.check("vms").unwrap().1, "vg0");
    assert!(matches!(remote.dump("vms", "metadata"), Err(StorageError::Damaged(_))));
    remote.volume_stats(&vms(), &disk0).unwrap();
    let guest = Guest {
        name: "--help".into(),
        volumes: vec!["vms/disk0".into()],
        cached: vec!["vms/disk0".into()],
    };
    remote.guest_starts(&guest).unwrap();
    remote.set_drained(true).unwrap();
    let xml = bench.fake.local.driver.xml(
        &bench.fake.pool,
        false,
        virtnotify_driver::xml::PoolType::Notify,
    );
    assert!(xml.unwrap().contains("notify:drained"));
}

#[test]
fn a_daemon_whose_pools_are_not_there_yet_tells_nothing() {
    let bench = Bench::starting();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!bench.remote.runs() && bench.remote.pools().is_empty());
    // It answers all the same: a guest that starts with the host waits for its pool.
    bench.remote.ensure_active(&["vms/disk0".to_owned()]).unwrap();
    bench.publisher.ready();
    bench.until(|remote| remote.runs() && remote.pools().len() == 1);
}

#[test]
fn pools_stay_as_they_were_while_the_daemon_is_away() {
    let Bench { directory, fake, publisher, .. } = Bench::start();
    let place = directory.path().join("relay.sock");
    let daemon = Daemon::start(place.clone(), socket(&directory));
    let events = EventBus::new();
    let heard = events.subscribe();
    let remote = Arc::new(RemoteStorage::new(&place));
    remote.follow(events);
    let mut bench = Bench { directory, fake, publisher, remote, heard };
    bench.until(|remote| remote.runs());
    let job = bench.remote.start_job(&vms(), &Task::Reclaim(None)).unwrap();
    bench.fake.events.emit(Event::JobChanged { pool: vms(), id: job });
    bench.until(|remote| !remote.jobs().is_empty());
    let found = *bench.remote.found().borrow();

    daemon.down();
    bench.until(|remote| !remote.runs());
    assert_eq!(bench.remote.pools(), bench.fake.local.pools());
    assert_eq!(bench.remote.volumes(&vms()).unwrap().len(), 1);
    // Its jobs ended with it, and its figures are not worth waiting for.
    bench.hear(|event| matches!(event, Event::JobChanged { id, .. } if *id == job));
    assert_eq!(bench.remote.jobs(), []);
    let stats = bench.remote.volume_stats(&vms(), &volume("disk0")).unwrap_err();
    assert!(matches!(stats, StorageError::Unreachable(_)), "{stats:?}");

    // Meanwhile something changes, of which nothing is told later.
    bench.create("new");
    while bench.heard.try_recv().is_ok() {}
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| bench.remote.refresh_pool(&vms()));
        std::thread::sleep(Duration::from_millis(300));
        daemon.up();
        asked.join().unwrap().unwrap();
    });
    bench.until(|remote| remote.volumes(&vms()).unwrap().len() == 2);
    assert_eq!(*bench.remote.found().borrow(), found + 1);
    // It is the same daemon: it has started no pool.
    bench.hear(|event| matches!(event, Event::Lost));
    assert!(!matches!(bench.heard.try_recv(), Ok(Event::PoolStarted(_))));
}

#[test]
fn a_daemon_that_ends_takes_no_pool_away() {
    let bench = Bench::start();
    let (pools, volumes) = (bench.remote.pools(), bench.remote.volumes(&vms()).unwrap());
    // As the engine does it: the pools leave it, and events that nobody has told yet say where to look.
    bench.publisher.end();
    bench.fake.local.driver.destroy(&bench.fake.pool).unwrap();
    for event in [Event::PoolStopped(vms()), Event::PoolChanged(vms())] {
        bench.fake.events.emit(event);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((bench.remote.pools(), bench.remote.volumes(&vms()).unwrap()), (pools, volumes));
    let refused = bench.remote.refresh_pool(&vms()).unwrap_err();
    assert!(matches!(refused, StorageError::Unreachable(_)), "{refused:?}");
}

#[test]
fn damage_that_was_told_before_anybody_listened_is_told_to_the_first_who_does() {
    let directory = TempDir::new().unwrap();
    let fake = FakeStorage::new(directory.path(), "");
    let publisher = fake.serve(&socket(&directory));
    let damage = Event::Damage { pool: vms(), what: "a chunk is lost".into() };
    fake.events.emit(damage.clone());
    publisher.ready();
    std::thread::sleep(Duration::from_millis(200));
    for told in [true, false] {
        let events = EventBus::new();
        let mut heard = events.subscribe();
        let remote = Arc::new(RemoteStorage::new(&socket(&directory)));
        remote.follow(events);
        while !remote.runs() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(100));
        let all: Vec<Event> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert_eq!(all.contains(&damage), told, "{all:?}");
    }
}

#[test]
fn who_only_asks_is_told_that_nobody_answers() {
    let directory = TempDir::new().unwrap();
    let began = Instant::now();
    let refused = RemoteStorage::asking(&socket(&directory)).ensure_active(&[]).unwrap_err();
    assert!(matches!(&refused, StorageError::Unreachable(why) if why.contains("does not run")));
    assert!(began.elapsed() >= Duration::from_secs(3), "it is waited for");
}
