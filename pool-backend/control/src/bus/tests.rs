// SPDX-License-Identifier: LGPL-2.1-or-later
//! The interface as a client sees it, over a connection without a bus.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use std::os::unix::net::UnixStream;
use uuid::Uuid;
use virtnotify_migrate::{
    HeldBack, Kept, Moves, PeerPool, PeerState, Picture, RunState, Vm, WaitingVm,
};
use virtnotify_model::{
    Backend as _, Bytes, Event, MoveFailure, MoveInfo, PoolName, Pools as _, Task, VolumeName,
};
use virtnotifyd::fake::FakeStorage;
use zbus::connection::Builder;
use zbus::fdo::ObjectManagerProxy;
use zbus::names::OwnedInterfaceName;
use zbus::{Connection, Guid, MessageStream, OwnedObjectPath, OwnedVariant, Proxy, Variant};

use super::error::Error;
use super::facts::PoolFacts;
use super::options::Options;
use super::{NAME, Places, Sources, Teller, paths, snapshots};

const INTERFACE: &str = "org.virtnotify1.Manager";

/// A pool with a volume.
pub fn sources(directory: &Path) -> Sources {
    over(&FakeStorage::new(directory, ""), directory)
}

pub fn over(fake: &FakeStorage, directory: &Path) -> Sources {
    Sources {
        storage: fake.local.clone(),
        found: tokio::sync::watch::channel(1).1,
        moves: Moves::default(),
        vms: tokio::sync::watch::channel(None).1,
        rates: Arc::default(),
        usage: crate::usage::Usage::open(&directory.join("u")),
        history: crate::history::History::open(&directory.join("h")),
        recent: crate::recent::Recent::new(Arc::new(|| 1_796_040_000)),
        looks: Places::new(),
        decisions: Places::new(),
    }
}

/// A daemon's end and a client's.
async fn pair(directory: &Path) -> (Teller, Connection) {
    paired(&sources(directory)).await
}

async fn paired(sources: &Sources) -> (Teller, Connection) {
    let (here, there) = UnixStream::pair().unwrap();
    let server = Builder::unix_stream(here).server(Guid::generate()).p2p();
    let client = Builder::unix_stream(there).p2p().build();
    tokio::try_join!(Teller::new(server, sources), client).unwrap()
}

async fn proxy(client: &Connection) -> Proxy<'_> {
    Proxy::new(client, "org.virtnotify1", paths::ROOT, INTERFACE).await.unwrap()
}

/// Without that the bus itself refuses a call, also root's.
#[test]
fn the_bus_lets_calls_of_each_interface_through() {
    let policy = include_str!("../../../../packaging/dbus/org.virtnotify1.conf");
    let named = include_str!("interface.xml").split("<interface name=\"").skip(1);
    let names: Vec<&str> = named.filter_map(|part| part.split('"').next()).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        assert!(policy.contains(&format!("send_interface=\"{name}\"")), "{name}");
    }
}

#[tokio::test]
async fn the_interfaces_are_the_documented_ones() {
    let directory = tempfile::tempdir().unwrap();
    let (vms, known) = tokio::sync::watch::channel(None);
    let (teller, client) = paired(&Sources { vms: known, ..sources(directory.path()) }).await;
    vms.send(Some(Arc::new(vec![a_vm("web", 5, &["disk0"])]))).unwrap();
    let info = a_move();
    teller.sources.moves.pretend(&info);
    teller.sources.moves.publish(a_picture());
    let mut teller = teller;
    teller.tell(Some(Event::MoveStarted(info.clone()))).await.unwrap();
    teller.due.moves();
    teller.due.vms();
    let job = teller.sources.storage.start_job(&info.pool, &Task::Reclaim(None)).unwrap();
    teller.due.take(&Event::JobChanged { pool: info.pool.clone(), id: job });
    teller.tell(None).await.unwrap();
    let (pool, volume) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let documented: Vec<&str> = include_str!("interface.xml").split("</interface>").collect();
    for (path, name) in [
        (paths::ROOT.to_owned(), INTERFACE),
        (paths::pool(&pool).to_string(), "org.virtnotify1.Pool"),
        (paths::volume(&pool, &volume).to_string(), "org.virtnotify1.Volume"),
        (paths::vm(Uuid::from_u128(5)).to_string(), "org.virtnotify1.Vm"),
        (paths::moving(info.uuid).to_string(), "org.virtnotify1.Move"),
        (paths::waiting(Uuid::from_u128(2)).to_string(), "org.virtnotify1.Waiting"),
        (paths::peer("host2").to_string(), "org.virtnotify1.Peer"),
        (paths::job(job).to_string(), "org.virtnotify1.Job"),
    ] {
        let object = Proxy::new(&client, "org.virtnotify1", path, name).await.unwrap();
        let xml = object.introspect().await.unwrap();
        let head = format!("<interface name=\"{name}\">");
        let start = xml.find(&head).unwrap();
        let end = start + xml[start..].find("</interface>").unwrap();
        let there = documented.iter().find(|part| part.contains(&head)).copied();
        let there = bare(there.unwrap_or_default());
        assert_eq!(bare(&xml[start..end]), there, "{}", bare(&xml[start..end]).join("\n"));
    }
}

#[tokio::test]
async fn a_look_at_an_object_finds_what_was_shown() {
    let directory = tempfile::tempdir().unwrap();
    let (teller, client) = pair(directory.path()).await;
    let objects = ObjectManagerProxy::new(&client, "org.virtnotify1", paths::ROOT).await.unwrap();
    let all = objects.get_managed_objects().await.unwrap();
    let facts = PoolFacts::of(&teller.sources.storage.pools()[0]);
    let pool = &all[&paths::pool(&facts.name)]["org.virtnotify1.Pool"];
    assert_eq!(*pool["Name"], Variant::from("vms"));
    assert_eq!(*pool["Active"], Variant::Bool(true));
    assert_eq!(*pool["VolumeGroup"], Variant::from("vg0"));
    for (name, value) in [
        ("Capacity", facts.capacity),
        ("Available", facts.available),
        ("LowMark", facts.low_mark),
        ("GrowthRate", 0),
        ("TimeToFull", 0),
    ] {
        assert_eq!(*pool[name], Variant::U64(value), "{name}");
    }
    // Nodes in between have the standard interfaces alone.
    let ours = |of: &&HashMap<OwnedInterfaceName, _>| of.keys().any(|name| name.starts_with(NAME));
    assert_eq!(all.values().filter(ours).count(), 2, "{:?}", all.keys());
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let fake = FakeStorage::new(directory.path(), "");
    let (mut teller, client) = paired(&over(&fake, directory.path())).await;
    let mut messages = MessageStream::from(&client);
    teller.take(Event::Resumed { domain: "x".into() }).await.unwrap();
    awaited(&mut messages, "Resumed").await;
    let (pool, volume) = ("vms".parse::<PoolName>().unwrap(), "new".parse().unwrap());
    fake.create("new");
    let capacity = Bytes::mib(64);
    let created = Event::VolumeCreated { pool: pool.clone(), volume, capacity };
    teller.take(created).await.unwrap();
    let (interface, changed) = next_change(&mut messages).await;
    assert_eq!((interface.as_str(), changed.len()), ("org.virtnotify1.Pool", 1));
    assert_eq!(*changed["Promised"], Variant::U64(128 << 20));
    assert_eq!(member(&mut messages).await, "InterfacesAdded");
    awaited(&mut messages, "VolumeCreated").await;

    // A hundred growths are one change.
    let volume: VolumeName = "new".parse().unwrap();
    fake.backend.allocate_volume(&pool, &volume).unwrap();
    for n in 1..=100 {
        let (pool, volume) = (pool.clone(), volume.clone());
        let (by, allocation) = (Bytes(1), Bytes(n));
        teller.take(Event::VolumeGrown { pool, volume, by, allocation, capacity }).await.unwrap();
    }
    teller.tell(None).await.unwrap();
    let (interface, changed) = loop {
        let (interface, changed) = next_change(&mut messages).await;
        if interface != "org.virtnotify1.Pool" {
            break (interface, changed);
        }
    };
    assert_eq!((interface.as_str(), changed.len()), ("org.virtnotify1.Volume", 2));
    assert_eq!(*changed["Exclusive"], Variant::U64(64 << 20));
    assert_eq!(*changed["Allocation"], Variant::U64(64 << 20));
    let message = messages.next().await.unwrap().unwrap();
    let grown: (String, String, u64, u64, u64) = message.body().deserialize().unwrap();
    assert_eq!((grown.2, grown.3), (100, 100));

    let uuid = fake.local.volume(&pool, &volume).unwrap().uuid;
    fake.local.delete_volume(&pool, &volume, &uuid).unwrap();
    teller.take(Event::VolumeDeleted { pool, volume }).await.unwrap();
    awaited(&mut messages, "InterfacesRemoved").await;
    awaited(&mut messages, "VolumeDeleted").await;
}

#[tokio::test]
async fn a_policy_that_is_changed_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let fake = FakeStorage::new(directory.path(), "");
    let (mut teller, client) = paired(&over(&fake, directory.path())).await;
    let path = paths::pool(&"vms".parse().unwrap());
    let pool = Proxy::new(&client, NAME, path, "org.virtnotify1.Pool").await.unwrap();
    let policy: HashMap<String, OwnedVariant> = pool.get_property("Policy").await.unwrap();
    assert_eq!(*policy["low-mark"], Variant::from("10%"));
    assert_eq!(*policy["movable"], Variant::Bool(true));
    assert!(!policy.contains_key("overcommit"), "there is no such limit");
    let mut messages = MessageStream::from(&client);
    let words = [("low-mark", "100MiB"), ("overcommit", "1.5")];
    let words = words.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let vms: PoolName = "vms".parse().unwrap();
    teller.sources.storage.set_policy(&vms, &words).unwrap();
    teller.take(Event::PoolChanged(vms)).await.unwrap();
    teller.tell(None).await.unwrap();
    let (interface, changed) = next_change(&mut messages).await;
    assert_eq!(interface, "org.virtnotify1.Pool");
    let mut names: Vec<&str> = changed.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["LowMark", "Policy", "PromisedLimit"]);
    let policy: HashMap<String, OwnedVariant> =
        changed["Policy"].try_clone().unwrap().try_into().unwrap();
    assert_eq!(*policy["low-mark"], Variant::U64(100 << 20));
    assert_eq!(*policy["overcommit"], Variant::F64(1.5));
}

#[tokio::test]
async fn how_full_a_pool_was_is_told_to_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let (teller, client) = pair(directory.path()).await;
    let clock = || 1_796_040_000;
    let (history, storage) = (teller.sources.history.clone(), teller.sources.storage.clone());
    let recorder = crate::history::Recorder::new(history, storage, Arc::new(clock));
    let (stop, stopped) = tokio::sync::watch::channel(true);
    recorder.run(stopped).await;
    drop(stop);
    let path = paths::pool(&"vms".parse().unwrap());
    let pool = Proxy::new(&client, NAME, path, "org.virtnotify1.Pool").await.unwrap();
    let points = async |since: u64| -> Vec<(u64, u64, u64)> {
        pool.call("History", &(since,)).await.unwrap()
    };
    let all = points(0).await;
    assert_eq!((all.len(), all[0].0, all[0].1), (1, 1_796_040_000, 1024 << 20));
    assert_eq!(points(1_796_040_001).await, []);
}

#[tokio::test]
async fn nothing_is_asked_or_told_while_nothing_happens() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, _client) = pair(directory.path()).await;
    assert!(teller.due.is_nothing() && teller.gather.is_empty());
    teller.take(Event::Resumed { domain: "x".into() }).await.unwrap();
    assert!(teller.due.is_nothing());
}

/// The next change of an object: its interface, and the properties that changed.
async fn next_change(messages: &mut MessageStream) -> (String, HashMap<String, OwnedVariant>) {
    let message = awaited(messages, "PropertiesChanged").await;
    let (interface, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
        message.body().deserialize().unwrap();
    (interface, changed)
}

async fn member(messages: &mut MessageStream) -> String {
    let message = messages.next().await.unwrap().unwrap();
    message.header().member().unwrap().to_string()
}

/// The next message of that name; what comes before is passed over.
async fn awaited(messages: &mut MessageStream, name: &str) -> zbus::Message {
    loop {
        let message = messages.next().await.unwrap().unwrap();
        if message.header().member().is_some_and(|member| member.as_str() == name) {
            return message;
        }
    }
}

fn a_move() -> MoveInfo {
    MoveInfo {
        domain: "guest".into(),
        uuid: Uuid::from_u128(1),
        pool: "vms".parse().unwrap(),
        volumes: ["disk0", "disk1"]
            .map(|name| ("vms".parse().unwrap(), name.parse().unwrap()))
            .to_vec(),
        from: "host1".into(),
        to: "host2".into(),
        allocation: Bytes(40),
    }
}

/// A VM that waits, and a peer.
fn a_picture() -> Picture {
    let waiting = WaitingVm {
        domain: "guest2".into(),
        uuid: Uuid::from_u128(2),
        pool: "vms".parse().unwrap(),
        volume: "disk0".parse().unwrap(),
        since: 7,
        reason: "no peer is configured".into(),
    };
    let peer = PeerState {
        name: "host2".into(),
        uri: "qemu+ssh://host2/system".into(),
        checked: Some(9),
        problem: None,
        arriving: 1,
        arrivals: 2,
        pools: vec![PeerPool {
            name: "vms".parse().unwrap(),
            capacity: Bytes(100),
            available: Bytes(50),
            reserved: Bytes(10),
        }],
    };
    Picture { waiting: vec![waiting], peers: vec![peer], ..Picture::default() }
}

#[tokio::test]
async fn a_pool_that_no_vm_leaves_for_now_says_why_and_until_when() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, client) = pair(directory.path()).await;
    let pool: PoolName = "vms".parse().unwrap();
    let reason = "VMs leave it from 22:00 to 06:00 only".to_owned();
    let held = HeldBack { pool: pool.clone(), reason: reason.clone(), until: Some(7) };
    let mut messages = MessageStream::from(&client);
    teller.sources.moves.publish(Picture { held_back: vec![held], ..Picture::default() });
    teller.due.moves();
    teller.tell(None).await.unwrap();
    let (interface, changed) = next_change(&mut messages).await;
    assert_eq!((interface.as_str(), changed.len()), ("org.virtnotify1.Pool", 2));
    assert_eq!(*changed["HeldBack"], Variant::from(reason));
    assert_eq!(*changed["HeldBackUntil"], Variant::U64(7));
    // Another change of the pool takes nothing of that away.
    teller.take(Event::PoolChanged(pool.clone())).await.unwrap();
    teller.tell(None).await.unwrap();
    let path = paths::pool(&pool);
    let object =
        Proxy::new(&client, "org.virtnotify1", path, "org.virtnotify1.Pool").await.unwrap();
    assert_eq!(object.get_property::<u64>("HeldBackUntil").await.unwrap(), 7);
    teller.sources.moves.publish(Picture::default());
    teller.due.moves();
    teller.tell(None).await.unwrap();
    let (_, changed) = next_change(&mut messages).await;
    assert_eq!(*changed["HeldBack"], Variant::from(""));
}

#[tokio::test]
async fn what_waits_and_the_peers_are_objects_that_change() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, client) = pair(directory.path()).await;
    let picture = a_picture();
    teller.sources.moves.publish(picture.clone());
    teller.due.moves();
    teller.tell(None).await.unwrap();
    let objects = ObjectManagerProxy::new(&client, "org.virtnotify1", paths::ROOT).await.unwrap();
    let all = objects.get_managed_objects().await.unwrap();
    let waiting = &all[&paths::waiting(Uuid::from_u128(2))]["org.virtnotify1.Waiting"];
    assert_eq!(*waiting["Reason"], Variant::from("no peer is configured"));
    let peer = &all[&paths::peer("host2")]["org.virtnotify1.Peer"];
    assert_eq!(*peer["Name"], Variant::from("host2"));
    assert_eq!((&*peer["Checked"], &*peer["Arrivals"]), (&Variant::U64(9), &Variant::U64(2)));

    let mut messages = MessageStream::from(&client);
    let mut later = Picture { waiting: Vec::new(), ..picture };
    later.peers[0].problem = Some("is drained: it takes no VMs".into());
    teller.sources.moves.publish(later);
    teller.due.moves();
    teller.tell(None).await.unwrap();
    awaited(&mut messages, "InterfacesRemoved").await;
    let (interface, changed) = next_change(&mut messages).await;
    assert_eq!((interface.as_str(), changed.len()), ("org.virtnotify1.Peer", 1));
    assert_eq!(*changed["Problem"], Variant::from("is drained: it takes no VMs"));
}

fn a_vm(name: &str, uuid: u128, volumes: &[&str]) -> Vm {
    let volume = |name: &&str| ("vms".parse().unwrap(), name.parse().unwrap());
    let (name, uuid, state) = (name.to_owned(), Uuid::from_u128(uuid), RunState::Running);
    Vm { name, uuid, state, kept: None, volumes: volumes.iter().map(volume).collect() }
}

#[tokio::test]
async fn vms_are_objects_and_volumes_say_who_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let fake = FakeStorage::new(directory.path(), "");
    let (vms, known) = tokio::sync::watch::channel(None);
    let sources = Sources { vms: known, ..over(&fake, directory.path()) };
    let (mut teller, client) = paired(&sources).await;
    let objects = ObjectManagerProxy::new(&client, NAME, paths::ROOT).await.unwrap();
    let mut messages = MessageStream::from(&client);
    let (pool, disk0) = ("vms".parse::<PoolName>().unwrap(), "disk0".parse().unwrap());
    let (volume, web, db) = (
        paths::volume(&pool, &disk0),
        paths::vm(Uuid::from_u128(5)),
        paths::vm(Uuid::from_u128(6)),
    );
    // One whose volume is not there is no object, and neither is one without volumes of ours.
    let all = vec![a_vm("web", 5, &["disk0"]), a_vm("db", 6, &["new"]), a_vm("other", 7, &[])];
    vms.send(Some(Arc::new(all))).unwrap();
    teller.due.vms();
    teller.tell(None).await.unwrap();
    let (interface, changed) = next_change(&mut messages).await;
    assert_eq!((interface.as_str(), changed.len()), ("org.virtnotify1.Volume", 1));
    assert_eq!(*changed["Vms"], Variant::from(vec![web.clone()]));
    let all = objects.get_managed_objects().await.unwrap();
    let shown = |path| all.get(path).and_then(|all| all.get("org.virtnotify1.Vm"));
    assert_eq!(*shown(&web).unwrap()["Name"], Variant::from("web"));
    assert_eq!(*shown(&web).unwrap()["Volumes"], Variant::from(vec![volume.clone()]));
    assert_eq!(*shown(&web).unwrap()["Pinned"], Variant::Bool(false));
    assert!(shown(&db).is_none());
    assert_eq!(all.values().filter(|of| of.contains_key("org.virtnotify1.Vm")).count(), 1);

    // It comes with its volume, which shows it at once.
    fake.create("new");
    let (volume, capacity) = ("new".parse().unwrap(), Bytes::mib(64));
    teller.take(Event::VolumeCreated { pool: pool.clone(), volume, capacity }).await.unwrap();
    let all = objects.get_managed_objects().await.unwrap();
    let new = &all[&paths::volume(&pool, &"new".parse().unwrap())]["org.virtnotify1.Volume"];
    assert_eq!(*new["Vms"], Variant::from(vec![db.clone()]));
    assert!(all[&db].contains_key("org.virtnotify1.Vm"));

    // It is pinned, and the other one is undefined.
    let mut web_now = a_vm("web", 5, &["disk0"]);
    web_now.kept = Some(Kept::Pinned);
    vms.send(Some(Arc::new(vec![web_now]))).unwrap();
    teller.due.vms();
    teller.tell(None).await.unwrap();
    let object = Proxy::new(&client, NAME, web, "org.virtnotify1.Vm").await.unwrap();
    assert!(object.get_property::<bool>("Pinned").await.unwrap());
    let kept: String = object.get_property("Kept").await.unwrap();
    assert_eq!(kept, "its <metadata> says that it is not to be moved");
    let all = objects.get_managed_objects().await.unwrap();
    assert!(!all.contains_key(&db) || !all[&db].contains_key("org.virtnotify1.Vm"));
    let new = &all[&paths::volume(&pool, &"new".parse().unwrap())]["org.virtnotify1.Volume"];
    assert_eq!(*new["Vms"], Variant::from(Vec::<zbus::ObjectPath<'_>>::new()));
}

#[tokio::test]
async fn a_pool_says_how_it_is_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let fake = FakeStorage::new(directory.path(), "");
    let (mut teller, client) = paired(&over(&fake, directory.path())).await;
    let vms: PoolName = "vms".parse().unwrap();
    let how = async || {
        // A proxy of its own for each look: one keeps what it has read until it hears of a change.
        let path = paths::pool(&vms);
        let pool = Proxy::new(&client, NAME, path, "org.virtnotify1.Pool").await.unwrap();
        let health: String = pool.get_property("Health").await.unwrap();
        (health, pool.get_property::<String>("Reason").await.unwrap())
    };
    assert_eq!(how().await, ("well".to_owned(), String::new()));
    fake.backend.set_damaged(true);
    let what = "a volume has lost its device".to_owned();
    teller.take(Event::Damage { pool: vms.clone(), what }).await.unwrap();
    let why = "a volume has lost its device: 'virt-notify check vms' says how".to_owned();
    assert_eq!(how().await, ("damaged".to_owned(), why));
    // What was told earlier is no reason any more.
    fake.backend.set_damaged(false);
    teller.take(Event::PoolChanged(vms.clone())).await.unwrap();
    teller.tell(None).await.unwrap();
    assert_eq!(how().await, ("well".to_owned(), String::new()));
}

#[test]
fn a_pool_is_low_full_or_inactive() {
    let directory = tempfile::tempdir().unwrap();
    let facts = PoolFacts::of(&sources(directory.path()).storage.pools()[0]);
    let low = PoolFacts { available: facts.low_mark - 1, ..facts.clone() };
    assert_eq!(low.health().word(), "low");
    let says = " are left, and its low mark is ";
    assert!(low.reason().contains(says), "{}", low.reason());
    let full = PoolFacts { available: facts.chunk - 1, ..facts.clone() };
    assert_eq!(full.health().word(), "full");
    assert!(full.reason().starts_with("it has no space left"), "{}", full.reason());
    let stopped = PoolFacts { active: false, damaged: true, ..facts };
    assert_eq!(stopped.reason(), "it is not started: 'virsh pool-start vms'");
}

#[tokio::test]
async fn what_happened_and_how_it_ended_is_told_to_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let (teller, client) = pair(directory.path()).await;
    let recent = &teller.sources.recent;
    recent.note(&Event::MoveStarted(a_move()));
    let (info, reason) = (a_move(), "host2 is full".to_owned());
    recent.note(&Event::MoveFailed { info, kind: MoveFailure::Abandoned, reason });
    let proxy = proxy(&client).await;
    type Row = (u64, String, String, HashMap<String, OwnedVariant>);
    let (since, events): (u64, Vec<Row>) = proxy.call("Events", &(0u64,)).await.unwrap();
    let words = |row: &Row| (row.0, row.1.clone(), row.2.clone());
    let now = 1_796_040_000;
    let named = |severity: &str, signal: &str| (now, severity.to_owned(), signal.to_owned());
    assert_eq!((since, events.len()), (now, 2));
    assert_eq!(words(&events[0]), named("notice", "MoveStarted"));
    assert_eq!(words(&events[1]), named("critical", "MoveFailed"));
    assert_eq!(*events[1].3["domain"], Variant::from("guest"));
    assert_eq!(*events[1].3["volumes"], Variant::from(vec!["disk0", "disk1"]));
    assert_eq!(*events[1].3["reason"], Variant::from("host2 is full"));
    let (_, later): (u64, Vec<Row>) = proxy.call("Events", &(now + 1,)).await.unwrap();
    assert!(later.is_empty());
    type Ended = (u64, u64, String, String, String, String, String);
    let results: Vec<Ended> = proxy.call("Results", &()).await.unwrap();
    let texts = ["move", "guest", "host2", "abandoned", "host2 is full"].map(str::to_owned);
    let [task, of, to, state, reason] = texts;
    assert_eq!(results, [(now, now, task, of, to, state, reason)]);
}

/// Without comments, indentation and the interface's end.
fn bare(xml: &str) -> Vec<String> {
    let parts = xml.split("<!--");
    let code = parts.map(|part| part.split_once("-->").map_or(part, |(_, code)| code));
    let lines: Vec<String> = code.flat_map(str::lines).map(|line| line.trim().to_owned()).collect();
    lines.into_iter().filter(|line| !line.is_empty() && line != "</interface>").collect()
}

#[tokio::test]
async fn pools_and_volumes_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let (_teller, client) = pair(directory.path()).await;
    let proxy = proxy(&client).await;
    type Pool = (String, String, bool, u64, u64, u64, u64);
    let pools: Vec<Pool> = proxy.call("ListPools", &()).await.unwrap();
    assert_eq!((pools[0].0.as_str(), pools[0].2), ("vms", true));
    assert_eq!(pools[0].3, 1024 << 20);
    type Volume = (String, String, String, String, u64, u64);
    let volumes: Vec<Volume> = proxy.call("ListVolumes", &("vms",)).await.unwrap();
    assert_eq!(volumes[0].2, "/dev/notify/vms/disk0");
    assert_eq!((volumes[0].3.as_str(), volumes[0].4), ("active", 64 << 20));
}

#[tokio::test]
async fn refusals_have_names_and_sentences() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, client) = pair(directory.path()).await;
    let proxy = proxy(&client).await;
    for pool in ["none", "../vms", ""] {
        let refused = proxy.call::<_, _, ()>("ListVolumes", &(pool,)).await.unwrap_err();
        assert!(refused.to_string().contains("org.virtnotify1.Error.NotFound"), "{refused}");
    }
    for (pool, volume) in [("vms", "none"), ("none", "disk0")] {
        let refused = proxy.call::<_, _, ()>("GetVolume", &(pool, volume)).await.unwrap_err();
        assert!(refused.to_string().contains("org.virtnotify1.Error.NotFound"), "{refused}");
    }
    for group in ["vg9", "", "-x"] {
        let refused = proxy.call::<_, _, ()>("Evacuate", &(group, "/dev/vdb")).await.unwrap_err();
        let expected = format!("no pool lies in the volume group '{group}'");
        assert!(refused.to_string().contains(&expected), "{refused}");
    }
    let pool: OwnedObjectPath = proxy.call("GetPool", &("vms",)).await.unwrap();
    let volume: OwnedObjectPath = proxy.call("GetVolume", &("vms", "disk0")).await.unwrap();
    let pool = Proxy::new(&client, "org.virtnotify1", pool, "org.virtnotify1.Pool").await.unwrap();
    let volume =
        Proxy::new(&client, "org.virtnotify1", volume, "org.virtnotify1.Volume").await.unwrap();
    let vms: PoolName = "vms".parse().unwrap();
    let id = teller.sources.storage.start_job(&vms, &Task::Defragment(None)).unwrap();
    teller.take(Event::JobChanged { pool: vms, id }).await.unwrap();
    let path = paths::job(id);
    let job = Proxy::new(&client, "org.virtnotify1", path, "org.virtnotify1.Job").await.unwrap();
    type Figures = (Vec<(String, u64)>, Vec<(u64, u64)>);
    let (figures, _): Figures = volume.call("Statistics", &()).await.unwrap();
    assert_eq!(figures[0], ("written".to_owned(), 0));
    // Without a bus nobody says who the caller is: it may not change anything.
    let none = Vec::<String>::new();
    let options = HashMap::<&str, Variant<'_>>::new();
    let restore = ("vg0", "backup", "", none, &options);
    for refused in [
        proxy.call::<_, _, ()>("EnsureActive", &(vec!["vms/disk0"],)).await,
        proxy.call::<_, _, ()>("CancelMove", &("guest",)).await,
        proxy.call::<_, _, ()>("SettleMove", &("guest", "here", "", &options)).await,
        proxy.call::<_, _, ()>("Migrate", &("guest", "host2")).await,
        proxy.call::<_, _, ()>("Plan", &("guest", "")).await,
        proxy.call::<_, _, ()>("Pin", &("guest", true)).await,
        proxy.call::<_, _, ()>("Drain", &(true,)).await,
        proxy.call::<_, _, ()>("Evacuate", &("vg0", "/dev/vdb")).await,
        proxy.call::<_, _, ()>("RetryNow", &(&options,)).await,
        pool.call::<_, _, ()>("SetPolicy", &(&options, &options)).await,
        pool.call::<_, _, ()>("CreateVolume", &("new", 1u64, &options)).await,
        volume.call::<_, _, ()>("Clone", &("new", &options)).await,
        volume.call::<_, _, ()>("Delete", &(&options,)).await,
        volume.call::<_, _, ()>("Resize", &(1u64, &options)).await,
        pool.call::<_, _, ()>("Refresh", &()).await,
        pool.call::<_, _, ()>("Reclaim", &()).await,
        pool.call::<_, _, ()>("Defragment", &()).await,
        volume.call::<_, _, ()>("Defragment", &()).await,
        volume.call::<_, _, ()>("Reclaim", &()).await,
        job.call::<_, _, ()>("Cancel", &()).await,
        volume.call::<_, _, ()>("Reserve", &(0u64, 1u64)).await,
        proxy.call::<_, _, ()>("Check", &("vms",)).await,
        proxy.call::<_, _, ()>("Dump", &("vms", "metadata")).await,
        proxy.call::<_, _, ()>("Restore", &restore).await,
        proxy.call::<_, _, ()>("TakeSnapshot", &(vec!["vms/disk0"], "mon", &options)).await,
        proxy.call::<_, _, ()>("RollBack", &("vms/disk0@mon", &options)).await,
        proxy.call::<_, _, ()>("DeleteSnapshot", &("vms/disk0@mon", &options)).await,
        proxy.call::<_, _, ()>("Difference", &("vms/disk0", "", 0u64)).await,
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("org.virtnotify1.Error.NotAuthorized"), "{refused}");
    }
}

#[tokio::test]
async fn a_warning_names_its_guest() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, client) = pair(directory.path()).await;
    let mut messages = MessageStream::from(&client);
    let (domain, what) = ("guest".to_owned(), "a sentence".to_owned());
    teller.tell(Some(Event::Warning { domain, what })).await.unwrap();
    let message = awaited(&mut messages, "Warning").await;
    let body: (String, String) = message.body().deserialize().unwrap();
    assert_eq!(body, ("guest".into(), "a sentence".into()));
}
#[tokio::test]
async fn a_move_is_told_with_its_hosts_and_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, client) = pair(directory.path()).await;
    let mut messages = MessageStream::from(&client);
    let info = a_move();
    let reason = "no route".to_owned();
    let kind = MoveFailure::Open;
    teller.tell(Some(Event::MoveFailed { info, kind, reason })).await.unwrap();
    let message = awaited(&mut messages, "MoveFailed").await;
    type Move = (String, String, String, Vec<String>, String, String, u64);
    let (what, kind, reason): (Move, String, String) = message.body().deserialize().unwrap();
    assert_eq!(kind, "open");
    assert_eq!((what.0.as_str(), what.4.as_str(), what.5.as_str()), ("guest", "host1", "host2"));
    assert_eq!((what.3.len(), what.6, reason.as_str()), (2, 40, "no route"));
    let (info, reason) = (a_move(), "look".to_owned());
    teller.tell(Some(Event::RunsTwice { info, reason })).await.unwrap();
    let message = awaited(&mut messages, "RunsTwice").await;
    let (what, reason): (Move, String) = message.body().deserialize().unwrap();
    assert_eq!((what.5.as_str(), reason.as_str()), ("host2", "look"));
    // Also where it is the only argument.
    teller.tell(Some(Event::MoveStarted(a_move()))).await.unwrap();
    let message = awaited(&mut messages, "MoveStarted").await;
    // As it is on the wire: zbus itself does not tell one structure from its parts.
    let signature = b"(sssassst)\0";
    assert!(message.data().windows(signature.len()).any(|bytes| bytes == signature));
    let (what,): (Move,) = message.body().deserialize().unwrap();
    assert_eq!(what.5, "host2");
}

#[test]
fn snapshots_are_asked_for_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let sources = sources(directory.path());
    let take = |of: &[&str], name: &str| {
        let of: Vec<String> = of.iter().map(|name| (*name).to_owned()).collect();
        snapshots::take(&sources, &of, name)
    };
    let made = take(&["vms/disk0"], "mon-1").unwrap();
    assert_eq!(made[0].as_str(), "/org/virtnotify1/volume/vms/disk0_40mon_2d1");
    let vms = "vms".parse().unwrap();
    let write = |name: &str| {
        let name = name.parse().unwrap();
        sources.storage.prepare_write(&vms, &name, Bytes::mib(4), Bytes(1)).unwrap();
    };
    write("disk0");
    take(&["/dev/notify/vms/disk0"], "tue").unwrap();
    let difference = |volume, base| snapshots::difference(&sources, volume, base, 0);
    let written = (64 << 20, vec![(4 << 20, 4 << 20, true)], 0);
    assert_eq!(difference("vms/disk0@tue", "vms/disk0@mon-1").unwrap(), written);
    assert_eq!(difference("vms/disk0", "").unwrap(), written);
    let names = |of: &str| {
        let rows = serde_json::to_value(snapshots::list(&sources, of).unwrap()).unwrap();
        let rows = rows.as_array().unwrap().clone();
        rows.into_iter().map(|row| row[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for of in ["", "vms", "vms/disk0"] {
        assert_eq!(names(of), ["disk0@mon-1", "disk0@tue"]);
    }
    assert!(matches!(take(&["vms/disk0"], "tue"), Err(Error::AlreadyExists(_))));
    for (of, name) in [
        (&["vms/disk0", "other/x"][..], "wed"),
        (&["disk0"], "wed"),
        (&["vms/disk0"], "a@b"),
        (&[], "wed"),
    ] {
        assert!(matches!(take(of, name), Err(Error::InvalidArgument(_))), "{of:?} {name}");
    }
    assert!(matches!(take(&["vms/none"], "wed"), Err(Error::NotFound(_))));
    assert!(matches!(take(&["none/disk0"], "wed"), Err(Error::NotFound(_))));
    assert!(matches!(difference("vms/disk0", "vms/disk0"), Err(Error::InvalidArgument(_))));
    assert!(matches!(difference("vms/disk0", "x/disk0@mon"), Err(Error::InvalidArgument(_))));
    assert!(matches!(snapshots::list(&sources, "vms/none"), Err(Error::NotFound(_))));
    assert!(matches!(snapshots::roll_back(&sources, "vms/disk0"), Err(Error::InvalidArgument(_))));
    assert!(matches!(snapshots::delete(&sources, "vms/disk0"), Err(Error::InvalidArgument(_))));
    snapshots::roll_back(&sources, "vms/disk0@mon-1").unwrap();
    assert_eq!(difference("vms/disk0", "").unwrap().1, []);
    snapshots::delete(&sources, "vms/disk0@mon-1").unwrap();
    assert_eq!(names(""), ["disk0@tue"]);
    let options = HashMap::from([("force".to_owned(), true.into())]);
    assert!(matches!(Options::none(options), Err(Error::InvalidArgument(_))));
}

/// What a snapshot or a volume shows changes with the others that share something with it.
#[tokio::test]
async fn a_snapshot_is_an_object_that_says_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (mut teller, client) = pair(directory.path()).await;
    let (vms, disk0): (PoolName, VolumeName) = ("vms".parse().unwrap(), "disk0".parse().unwrap());
    let storage = teller.sources.storage.clone();
    storage.prepare_write(&vms, &disk0, Bytes::ZERO, Bytes(1)).unwrap();
    let changed = Event::VolumeChanged { pool: vms.clone(), volume: disk0.clone() };
    teller.take(changed).await.unwrap();
    snapshots::take(&teller.sources, &["vms/disk0".to_owned()], "mon").unwrap();
    let (volume, capacity): (VolumeName, _) = ("disk0@mon".parse().unwrap(), Bytes::mib(64));
    let created = Event::VolumeCreated { pool: vms.clone(), volume: volume.clone(), capacity };
    teller.take(created).await.unwrap();
    let object = async |name: &VolumeName| {
        let (path, volume) = (paths::volume(&vms, name), "org.virtnotify1.Volume");
        Proxy::new(&client, "org.virtnotify1", path, volume).await.unwrap()
    };
    let (snapshot, of) = (object(&volume).await, object(&disk0).await);
    assert_eq!(snapshot.get_property::<String>("Kind").await.unwrap(), "snapshot");
    assert_eq!(of.get_property::<String>("Kind").await.unwrap(), "volume");
    let backing: OwnedObjectPath = snapshot.get_property("Backing").await.unwrap();
    assert_eq!(backing.as_str(), paths::volume(&vms, &disk0).as_str());
    let backing: OwnedObjectPath = of.get_property("Backing").await.unwrap();
    assert_eq!(backing.as_str(), "/");
    assert_eq!(snapshot.get_property::<u64>("Created").await.unwrap(), 2);
    assert_eq!(snapshot.get_property::<u64>("Exclusive").await.unwrap(), 0);
    assert_eq!(of.get_property::<u64>("Exclusive").await.unwrap(), 0, "shared with the snapshot");
    let uuid = storage.volume(&vms, &volume).unwrap().uuid;
    storage.delete_volume(&vms, &volume, &uuid).unwrap();
    let mut messages = MessageStream::from(&client);
    teller.take(Event::VolumeDeleted { pool: vms.clone(), volume }).await.unwrap();
    let message = awaited(&mut messages, "PropertiesChanged").await;
    type Body = (String, HashMap<String, OwnedVariant>, Vec<String>);
    let (_, changed, _): Body = message.body().deserialize().unwrap();
    assert_eq!(*changed["Exclusive"], Variant::U64(4 << 20), "alone again");
}
