// SPDX-License-Identifier: LGPL-2.1-or-later
//! A receiver over the driver and its backend in memory, with files in the place of devices.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use uuid::Uuid;
use virtnotify_driver::fake::FakeBackend;
use virtnotify_driver::{Driver, Paths};
use virtnotify_model::{Bytes, PoolName, SnapshotName, VolumeName};
use virtnotify_wire::{StoragePool, StorageVol};

use super::format::Reader;
use super::notes::Notes;
use super::place::{Place, Volume};
use super::receive::receive;
use super::send;
use crate::args::code;
use crate::client::Problem;
use crate::names::{self, Named};
use crate::snapshots::{Extent, Snapshot};

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 4 << 20;
const CHUNK_LENGTH: usize = 4 << 20;

/// A host with a pool `vms`.
struct Host {
    directory: TempDir,
    backend: Arc<FakeBackend>,
    driver: Driver,
    pool: StoragePool,
    notes: Notes,
}

fn cannot(error: impl ToString) -> Problem {
    Problem::Cannot(error.to_string())
}

impl Host {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let group = "vg0".parse().unwrap();
        let backend = FakeBackend::new().with_group(&group, Bytes::mib(256));
        let backend = Arc::new(backend.with_devices(at("dev")));
        let paths = Paths { definitions: at("etc"), state: at("run") };
        let (driver, _) = Driver::open(paths, backend.clone());
        let xml = "<pool type='notify'><name>vms</name><source><name>vg0</name></source></pool>";
        let pool = driver.define(xml, false).unwrap();
        driver.start(&pool, None).unwrap();
        let notes = Notes::at(at("notes"));
        Self { directory, backend, driver, pool, notes }
    }

    fn handle(&self, volume: &Named) -> StorageVol {
        let info = self.driver.volume(&self.pool, volume.volume.as_str()).unwrap();
        Driver::volume_handle(&info)
    }

    /// A guest writes.
    fn write(&self, volume: &str, offset: u64, data: &[u8]) {
        let named = named(volume);
        let file = fs::OpenOptions::new().write(true).open(self.device(&named)).unwrap();
        file.write_all_at(data, offset).unwrap();
        let (offset, length) = (Bytes(offset), Bytes(data.len() as u64));
        self.backend.write(&pool(), &named.volume, offset, length).unwrap();
    }

    fn content(&self, volume: &str) -> Vec<u8> {
        fs::read(self.device(&named(volume))).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let all = self.driver.volumes(&self.pool).unwrap();
        all.into_iter().map(|info| info.name.to_string()).collect()
    }

    /// What `send` writes.
    async fn sent(&self, snapshot: &str, from: Option<&str>) -> Vec<u8> {
        let (snapshot, from) = (named(snapshot), from.map(named));
        let mut bytes = Vec::new();
        send::send(self, &self.notes, &snapshot, from.as_ref(), &mut bytes).await.unwrap();
        bytes
    }

    async fn receive(&self, volume: &str, stream: &[u8]) -> Result<(), Problem> {
        receive(self, &self.notes, &named(volume), stream).await.map(drop)
    }

    async fn take(&self, volume: &str, name: &str) {
        self.snapshot(&named(volume), &name.parse().unwrap()).await.unwrap();
    }
}

/// The backend in memory does not see what is written to the files: it is told what differs.
fn tell_written(host: &Host, volume: &Named) {
    let of = host.driver.volume(&host.pool, volume.volume.as_str()).unwrap();
    let content = fs::read(&of.path).unwrap();
    let all = host.driver.snapshots(&pool(), Some(&volume.volume)).unwrap();
    let before = all.last().map_or(Vec::new(), |last| fs::read(&last.path).unwrap());
    for (at, chunk) in content.chunks(CHUNK_LENGTH).enumerate() {
        let at = at as u64 * CHUNK;
        let start = usize::try_from(at).unwrap().min(before.len());
        let was = &before[start..before.len().min(start + chunk.len())];
        let same = if was.is_empty() { chunk.iter().all(|b| *b == 0) } else { was == chunk };
        if !same {
            host.backend.write(&pool(), &volume.volume, Bytes(at), Bytes(1)).unwrap();
        }
    }
}

impl Place for Host {
    async fn snapshots(&self, pool: &PoolName) -> Result<Vec<Snapshot>, Problem> {
        let all = self.driver.snapshots(pool, None).map_err(cannot)?;
        let snapshot = |info: virtnotify_model::VolumeInfo| Snapshot {
            pool: info.pool.to_string(),
            name: info.name,
            uuid: info.uuid,
            created: 0,
            capacity: info.capacity.0,
            allocation: info.allocation.0,
            exclusive: info.exclusive.0,
        };
        Ok(all.into_iter().map(snapshot).collect())
    }

    async fn volume(&self, volume: &Named) -> Result<Option<Volume>, Problem> {
        let found = self.driver.volume(&self.pool, volume.volume.as_str()).ok();
        Ok(found.map(|found| Volume { uuid: found.uuid, capacity: found.capacity.0 }))
    }

    async fn create(
        &self,
        volume: &Named,
        capacity: u64,
        backing: Option<&VolumeName>,
    ) -> Result<(), Problem> {
        if let Some(backing) = backing {
            tell_written(self, &volume.beside(backing.clone()));
        }
        let backing = backing.map_or_else(String::new, |backing| {
            let path = self.device(&volume.beside(backing.clone()));
            format!("<backingStore><path>{}</path></backingStore>", path.display())
        });
        let name = &volume.volume;
        let xml =
            format!("<volume><name>{name}</name><capacity>{capacity}</capacity>{backing}</volume>");
        self.driver.create_volume(&self.pool, &xml, true).map(drop).map_err(cannot)
    }

    async fn is_made_of(&self, volume: &Named, backing: &Named) -> Result<bool, Problem> {
        let info = self.driver.volume(&self.pool, volume.volume.as_str()).map_err(cannot)?;
        Ok(info.backing.as_ref() == Some(&backing.volume))
    }

    async fn grow(&self, volume: &Named, capacity: u64) -> Result<(), Problem> {
        let grown = self.driver.resize_volume(&self.handle(volume), Bytes(capacity), 0);
        grown.map_err(cannot)?;
        let file = fs::OpenOptions::new().write(true).open(self.device(volume)).unwrap();
        file.set_len(capacity).map_err(cannot)
    }

    async fn delete(&self, volume: &Named) -> Result<(), Problem> {
        self.driver.delete_volume(&self.handle(volume), false).map_err(cannot)
    }

    async fn snapshot(&self, volume: &Named, name: &SnapshotName) -> Result<Uuid, Problem> {
        tell_written(self, volume);
        let of = [volume.volume.clone()];
        let made = self.driver.take_snapshot(&self.pool, &of, name).map_err(cannot)?;
        Ok(made[0].uuid)
    }

    async fn roll_back(&self, snapshot: &Named) -> Result<(), Problem> {
        self.driver.roll_back(&self.pool, &snapshot.volume).map_err(cannot)
    }

    async fn difference(
        &self,
        volume: &Named,
        base: Option<&Named>,
    ) -> Result<(u64, Vec<Extent>), Problem> {
        let base = base.map(|base| &base.volume);
        let (capacity, extents) =
            self.driver.difference(&self.pool, &volume.volume, base).map_err(cannot)?;
        let extents = extents.iter();
        let extents =
            extents.map(|e| Extent { offset: e.offset.0, length: e.length.0, data: e.data });
        Ok((capacity.0, extents.collect()))
    }

    fn device(&self, volume: &Named) -> PathBuf {
        self.directory.path().join("dev/vms").join(volume.volume.as_str())
    }
}

fn pool() -> PoolName {
    "vms".parse().unwrap()
}

fn named(name: &str) -> Named {
    names::any(&format!("vms/{name}")).unwrap()
}

/// A host with a volume of 16 MiB, its snapshot `mon`, and what was written since in `tue`.
async fn sender() -> Host {
    let host = Host::new();
    host.create(&named("a"), 16 * MIB, None).await.unwrap();
    host.write("a", 0, b"first");
    host.write("a", CHUNK, b"stays");
    host.take("a", "mon").await;
    host.write("a", 0, &[0; 5]);
    host.write("a", 3 * CHUNK - 3, b"across");
    host.take("a", "tue").await;
    host
}

#[tokio::test]
async fn a_whole_and_then_a_difference_make_the_same_volume() {
    let (from, to) = (sender().await, Host::new());
    to.receive("b", &from.sent("a@mon", None).await).await.unwrap();
    assert_eq!(to.names(), ["b", "b@mon"]);
    assert!(to.content("b") == from.content("a@mon"));
    assert!(to.content("b@mon") == from.content("a@mon"));
    let difference = from.sent("a@tue", Some("a@mon")).await;
    assert!(difference.len() < 3 * CHUNK_LENGTH, "only what was written is sent");
    to.receive("b", &difference).await.unwrap();
    assert_eq!(to.names(), ["b", "b@mon", "b@tue"]);
    assert!(to.content("b") == from.content("a@tue"));
    assert!(to.content("b@mon") == from.content("a@mon"));
    // What was received is sent on as what it is.
    let third = Host::new();
    third.receive("a", &to.sent("b@mon", None).await).await.unwrap();
    third.receive("a", &difference).await.unwrap();
    assert!(third.content("a") == from.content("a@tue"));
}

#[tokio::test]
async fn a_volume_that_grew_is_followed() {
    let (from, to) = (sender().await, Host::new());
    to.receive("b", &from.sent("a@tue", None).await).await.unwrap();
    from.grow(&named("a"), 24 * MIB).await.unwrap();
    from.write("a", 23 * MIB, b"new");
    from.take("a", "wed").await;
    to.receive("b", &from.sent("a@wed", Some("a@tue")).await).await.unwrap();
    assert!(to.content("b@wed") == from.content("a@wed"));
}

#[tokio::test]
async fn what_is_cut_off_or_damaged_leaves_everything_as_it_was() {
    let (from, to) = (sender().await, Host::new());
    let whole = from.sent("a@mon", None).await;
    for bad in [&whole[..whole.len() - 1], &whole[..200]] {
        let error = to.receive("b", bad).await.unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (code::DAMAGE, "the stream was cut off")
        );
        assert_eq!(to.names(), Vec::<String>::new());
    }
    to.receive("b", &whole).await.unwrap();
    let mut difference = from.sent("a@tue", Some("a@mon")).await;
    let last = difference.len() - 100;
    difference[last] ^= 1;
    let error = to.receive("b", &difference).await.unwrap_err();
    assert_eq!(error.code(), code::DAMAGE, "{error}");
    assert_eq!(to.names(), ["b", "b@mon"]);
    assert!(to.content("b") == from.content("a@mon"), "rolled back");
    difference[last] ^= 1;
    to.receive("b", &difference).await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let (from, to) = (sender().await, Host::new());
    let (whole, difference) =
        (from.sent("a@mon", None).await, from.sent("a@tue", Some("a@mon")).await);
    let refused = async |volume: &str, stream: &[u8], text: &str| {
        let before = to.names();
        let error = to.receive(volume, stream).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert_eq!(to.names(), before);
    };
    refused("b", &difference, "is not there: a difference goes into").await;
    refused("b", b"hello", "no stream of 'virt-notify send'").await;
    to.create(&named("b"), 16 * MIB, None).await.unwrap();
    refused("b", &whole, "'vms/b' is there already").await;
    to.take("b", "mon").await;
    refused("b", &difference, "does not have the snapshot from which on this was sent").await;
    refused("b", &whole, "'vms/b@mon' is there already, and another one").await;
    to.receive("c", &whole).await.unwrap();
    refused("c", &whole, "this snapshot is there already: 'vms/c@mon'").await;
    to.write("c", 0, b"changed");
    refused("c", &difference, "'virt-notify snapshot rollback vms/c@mon' takes that back").await;
    assert!(to.content("c").starts_with(b"changed"));
    to.roll_back(&named("c@mon")).await.unwrap();
    to.backend.open(&pool(), &named("c").volume, 1).unwrap();
    refused("c", &difference, "shut its VM off").await;
    to.backend.open(&pool(), &named("c").volume, -1).unwrap();
    to.receive("c", &difference).await.unwrap();
    refused("c", &difference, "this snapshot is there already: 'vms/c@tue'").await;
}

#[tokio::test]
async fn what_a_killed_receiver_left_is_taken_away_by_the_next() {
    let (from, to) = (sender().await, Host::new());
    let whole = from.sent("a@mon", None).await;
    // Another's volume of that name is left alone.
    to.create(&named("b.receiving"), MIB, None).await.unwrap();
    let error = to.receive("b", &whole).await.unwrap_err().to_string();
    assert!(error.contains("'vms/b.receiving' is in the way"), "{error}");
    let uuid = to.volume(&named("b.receiving")).await.unwrap().unwrap().uuid;
    to.notes.begin(uuid).unwrap();
    to.receive("b", &whole).await.unwrap();
    assert_eq!(to.names(), ["b", "b@mon"]);
    assert!(!to.notes.is_receiving(uuid).unwrap());
    let uuid = to.volume(&named("b")).await.unwrap().unwrap().uuid;
    to.notes.begin(uuid).unwrap();
    to.write("b", 2 * CHUNK, b"half");
    to.receive("b", &from.sent("a@tue", Some("a@mon")).await).await.unwrap();
    assert!(to.content("b") == from.content("a@tue"));
    assert!(!to.notes.is_receiving(uuid).unwrap());
}

#[tokio::test]
async fn two_do_not_receive_into_one_volume() {
    let (from, to) = (sender().await, Host::new());
    let stream = from.sent("a@mon", None).await;
    let other = to.notes.lock(&named("a")).unwrap();
    let refused = to.receive("a", &stream).await.unwrap_err().to_string();
    assert!(refused.contains("'vms/a' is being received already"), "{refused}");
    to.receive("b", &stream).await.unwrap();
    drop(other);
    to.receive("a", &stream).await.unwrap();
    let left = fs::read_dir(to.directory.path().join("notes")).unwrap().flatten();
    assert!(left.into_iter().all(|file| file.path().extension().unwrap() == "snapshot"));
}

/// A host on which a receiver is killed at a call, before its effect or after it.
struct Killing<'a> {
    host: &'a Host,
    /// How many calls with an effect are left, and whether the last one has its effect.
    left: std::cell::Cell<u32>,
    done: bool,
}

impl Killing<'_> {
    async fn call<T>(
        &self,
        effect: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() > 0 {
            return effect.await;
        }
        if self.done {
            effect.await?;
        }
        // Nothing that the receiver would do now happens.
        std::future::pending().await
    }
}

impl Place for Killing<'_> {
    async fn snapshots(&self, pool: &PoolName) -> Result<Vec<Snapshot>, Problem> {
        self.host.snapshots(pool).await
    }

    async fn volume(&self, volume: &Named) -> Result<Option<Volume>, Problem> {
        self.call(self.host.volume(volume)).await
    }

    async fn create(
        &self,
        volume: &Named,
        capacity: u64,
        backing: Option<&VolumeName>,
    ) -> Result<(), Problem> {
        self.call(self.host.create(volume, capacity, backing)).await
    }

    async fn is_made_of(&self, volume: &Named, backing: &Named) -> Result<bool, Problem> {
        self.host.is_made_of(volume, backing).await
    }

    async fn grow(&self, volume: &Named, capacity: u64) -> Result<(), Problem> {
        self.call(self.host.grow(volume, capacity)).await
    }

    async fn delete(&self, volume: &Named) -> Result<(), Problem> {
        self.call(self.host.delete(volume)).await
    }

    async fn snapshot(&self, volume: &Named, name: &SnapshotName) -> Result<Uuid, Problem> {
        self.call(self.host.snapshot(volume, name)).await
    }

    async fn roll_back(&self, snapshot: &Named) -> Result<(), Problem> {
        self.call(self.host.roll_back(snapshot)).await
    }

    async fn difference(
        &self,
        volume: &Named,
        base: Option<&Named>,
    ) -> Result<(u64, Vec<Extent>), Problem> {
        self.host.difference(volume, base).await
    }

    fn device(&self, volume: &Named) -> PathBuf {
        self.host.device(volume)
    }
}

/// Receives, and is killed at a call; says whether it came to it.
async fn killed(host: &Host, volume: &str, stream: &[u8], at: u32, done: bool) -> bool {
    let killing = Killing { host, left: at.into(), done };
    let to = named(volume);
    tokio::select! {
        biased;
        // Nothing here waits, but for the call at which it is killed.
        received = receive(&killing, &host.notes, &to, stream) => received.map(|_| false).unwrap(),
        () = std::future::ready(()) => true,
    }
}

/// Wherever a receiver is killed: a volume that looks whole is whole, and the next one makes it so.
#[tokio::test]
async fn a_receiver_that_was_killed_is_started_again() {
    let from = sender().await;
    let whole = from.sent("a@mon", None).await;
    let difference = from.sent("a@tue", Some("a@mon")).await;
    for done in [false, true] {
        for at in 1.. {
            let to = Host::new();
            let was_killed = killed(&to, "b", &whole, at, done).await;
            if to.names().iter().any(|name| name == "b") {
                assert!(to.content("b") == from.content("a@mon"), "at {at}, {done}");
            }
            again(&to, &whole, "b@mon").await.unwrap_or_else(|e| panic!("{at}, {done}: {e}"));
            assert_eq!(to.names(), ["b", "b@mon"], "at {at}, {done}");
            assert!(to.content("b@mon") == from.content("a@mon"));
            // What comes next finds its base.
            to.receive("b", &difference).await.unwrap();
            if !was_killed {
                assert!(at > 6);
                break;
            }
        }
        for at in 1.. {
            let to = Host::new();
            to.receive("b", &whole).await.unwrap();
            let was_killed = killed(&to, "b", &difference, at, done).await;
            again(&to, &difference, "b@tue").await.unwrap_or_else(|e| panic!("{at}, {done}: {e}"));
            assert_eq!(to.names(), ["b", "b@mon", "b@tue"], "at {at}, {done}");
            assert!(to.content("b") == from.content("a@tue"));
            let uuid = to.volume(&named("b")).await.unwrap().unwrap().uuid;
            assert!(!to.notes.is_receiving(uuid).unwrap(), "at {at}, {done}");
            if !was_killed {
                assert!(at > 3);
                break;
            }
        }
    }
}

/// Receives once more: it is there, or is now.
async fn again(to: &Host, stream: &[u8], snapshot: &str) -> Result<(), String> {
    // The one moment in which nobody knows whose the volume is: it is empty.
    if to.names() == ["b.receiving"] {
        let uuid = to.volume(&named("b.receiving")).await.unwrap().unwrap().uuid;
        if !to.notes.is_receiving(uuid).unwrap() {
            let refused = to.receive("b", stream).await.unwrap_err().to_string();
            assert!(refused.contains("'vms/b.receiving' is in the way"), "{refused}");
            to.delete(&named("b.receiving")).await.unwrap();
        }
    }
    match to.receive("b", stream).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let there = format!("this snapshot is there already: 'vms/{snapshot}'");
            if error.to_string().contains(&there) { Ok(()) } else { Err(error.to_string()) }
        }
    }
}

/// A snapshot that has been there is not taken for one that a killed receiver has left.
#[tokio::test]
async fn a_snapshot_of_that_name_that_was_there_stays() {
    let (from, to) = (sender().await, Host::new());
    to.receive("b", &from.sent("a@mon", None).await).await.unwrap();
    to.write("b", 0, b"mine");
    to.take("b", "tue").await;
    to.roll_back(&named("b@mon")).await.unwrap();
    let uuid = to.volume(&named("b")).await.unwrap().unwrap().uuid;
    to.notes.begin(uuid).unwrap();
    let difference = from.sent("a@tue", Some("a@mon")).await;
    let refused = to.receive("b", &difference).await.unwrap_err().to_string();
    assert!(refused.contains("'vms/b@tue' is there already, and another one"), "{refused}");
    assert!(to.content("b@tue").starts_with(b"mine"));
    // Nor is a half received volume complete because it has an older snapshot that is sent once more.
    to.delete(&named("b@tue")).await.unwrap();
    to.write("b", 2 * CHUNK, b"half");
    to.receive("b", &from.sent("a@mon", None).await).await.unwrap_err();
    assert!(to.notes.is_receiving(uuid).unwrap());
    to.receive("b", &difference).await.unwrap();
    assert!(to.content("b") == from.content("a@tue"));
    // Killed when all but the note had been done.
    to.notes.begin(uuid).unwrap();
    let there = to.receive("b", &difference).await.unwrap_err().to_string();
    assert!(there.contains("this snapshot is there already: 'vms/b@tue'"), "{there}");
    assert!(!to.notes.is_receiving(uuid).unwrap());
}

/// Another program deletes a snapshot and takes one of the same name, once, at a call of the sender's.
struct Rotating<'a> {
    host: &'a Host,
    snapshot: &'static str,
    /// How many calls there are before.
    left: std::cell::Cell<u32>,
}

impl Rotating<'_> {
    async fn call(&self) {
        let left = self.left.get();
        self.left.set(left.wrapping_sub(1));
        if left == 0 {
            let snapshot = named(self.snapshot);
            self.host.delete(&snapshot).await.unwrap();
            self.host.write("a", 0, b"new");
            let (_, name) = snapshot.volume.snapshot().unwrap();
            self.host.take("a", name.as_str()).await;
        }
    }
}

impl Place for Rotating<'_> {
    async fn snapshots(&self, pool: &PoolName) -> Result<Vec<Snapshot>, Problem> {
        self.call().await;
        self.host.snapshots(pool).await
    }

    async fn difference(
        &self,
        volume: &Named,
        base: Option<&Named>,
    ) -> Result<(u64, Vec<Extent>), Problem> {
        self.call().await;
        self.host.difference(volume, base).await
    }

    fn device(&self, volume: &Named) -> PathBuf {
        self.host.device(volume)
    }

    async fn volume(&self, _: &Named) -> Result<Option<Volume>, Problem> {
        unreachable!("of receivers")
    }

    async fn create(&self, _: &Named, _: u64, _: Option<&VolumeName>) -> Result<(), Problem> {
        unreachable!("of receivers")
    }

    async fn is_made_of(&self, _: &Named, _: &Named) -> Result<bool, Problem> {
        unreachable!("of receivers")
    }

    async fn grow(&self, _: &Named, _: u64) -> Result<(), Problem> {
        unreachable!("of receivers")
    }

    async fn delete(&self, _: &Named) -> Result<(), Problem> {
        unreachable!("of receivers")
    }

    async fn snapshot(&self, _: &Named, _: &SnapshotName) -> Result<Uuid, Problem> {
        unreachable!("of receivers")
    }

    async fn roll_back(&self, _: &Named) -> Result<(), Problem> {
        unreachable!("of receivers")
    }
}

/// A snapshot, or the one that a difference starts from, becomes another one at any call of the sender's: the stream
/// is that of one snapshot, or it has no end.
#[tokio::test]
async fn a_snapshot_that_is_taken_anew_meanwhile_is_not_sent_as_the_old_one() {
    for (rotated, calls) in [("a@two", 1..5), ("a@one", 2..4)] {
        for at in calls {
            let host = Host::new();
            host.create(&named("a"), CHUNK, None).await.unwrap();
            host.take("a", "one").await;
            host.write("a", 0, b"old");
            host.take("a", "two").await;
            let left = std::cell::Cell::new(at);
            let place = Rotating { host: &host, snapshot: rotated, left };
            let (snapshot, from) = (named("a@two"), named("a@one"));
            let mut bytes = Vec::new();
            let sent = send::send(&place, &host.notes, &snapshot, Some(&from), &mut bytes).await;
            let error = format!("{:?}", sent.unwrap_err());
            // A new base may be refused by the daemon: it is no older one.
            let said = error.contains("taken anew while it was read") || rotated == "a@one";
            assert!(said, "{rotated} {at}: {error}");
            let Ok(mut reader) = Reader::new(&bytes[..]) else { continue };
            while let Ok(record) = reader.next() {
                assert!(record.is_some(), "{rotated} {at}: the stream has an end");
            }
        }
    }
}
