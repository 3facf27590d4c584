// SPDX-License-Identifier: LGPL-2.1-or-later
//! The interface as a client sees it, over a connection without a bus.

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use std::os::unix::net::UnixStream;
use uuid::Uuid;
use virtnotify_driver::fake::FakeBackend;
use virtnotify_driver::{Driver, Paths};
use virtnotify_engine::repair::{
    CheckReport, DumpFrom, Repair, RepairError, RestoreRequest, Restored,
};
use virtnotify_migrate::Moves;
use virtnotify_model::{Backend, Bytes, Event, EventBus, MoveInfo, PoolName, VgName};
use zbus::connection::Builder;
use zbus::{Connection, Guid, MessageStream, Proxy};

use super::error::Error;
use super::manager::Manager;
use super::{PATH, Sources, repair, tell};

const INTERFACE: &str = "org.virtnotify1.Manager";

/// The changes are refused before it would be asked; what it answers is tested with the engine.
struct NoRepair;

impl Repair for NoRepair {
    fn check(&self, vg: &VgName) -> Result<CheckReport, RepairError> {
        Ok(CheckReport { vg: vg.to_string(), ..CheckReport::default() })
    }

    fn dump(&self, _: &VgName, _: DumpFrom) -> Result<String, RepairError> {
        Err(RepairError::Damaged("neither copy".into()))
    }

    fn restore(&self, _: &RestoreRequest) -> Result<Restored, RepairError> {
        Err(RepairError::Refused("the pool is started".into()))
    }

    fn group_of(&self, _: &PoolName) -> Option<VgName> {
        None
    }
}

/// A pool with a volume.
fn sources(directory: &Path) -> Sources {
    let backend = FakeBackend::new().with_group(&"vg0".parse().unwrap(), Bytes::mib(1024));
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let paths = Paths { definitions: directory.join("d"), state: directory.join("s") };
    let (driver, problems) = Driver::open(paths, backend.clone());
    assert_eq!(problems, Vec::<String>::new());
    let xml = "<pool type='notify'><name>vms</name><source><name>vg0</name></source>\
               <target><path>/dev/notify/vms</path></target></pool>";
    let pool = driver.define(xml, false).unwrap();
    driver.start(&pool, None).unwrap();
    let volume = "<volume><name>disk0</name><capacity unit='MiB'>64</capacity></volume>";
    driver.create_volume(&pool, volume, false).unwrap();
    let (driver, repair, definitions) = (Arc::new(driver), Arc::new(NoRepair), directory.join("d"));
    let (moves, events) = (Moves::default(), EventBus::new());
    Sources { driver, backend, moves, events, repair, definitions }
}

/// A daemon's end and a client's.
async fn pair(directory: &Path) -> (Connection, Connection) {
    let manager = Manager::new(sources(directory));
    let (here, there) = UnixStream::pair().unwrap();
    let server =
        Builder::unix_stream(here).server(Guid::generate()).p2p().serve_at(PATH, manager).build();
    let client = Builder::unix_stream(there).p2p().build();
    tokio::try_join!(server, client).unwrap()
}

async fn proxy(client: &Connection) -> Proxy<'_> {
    Proxy::new(client, "org.virtnotify1", PATH, INTERFACE).await.unwrap()
}

#[tokio::test]
async fn the_interface_is_the_documented_one() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, client) = pair(directory.path()).await;
    let xml = proxy(&client).await.introspect().await.unwrap();
    let start = xml.find(&format!("<interface name=\"{INTERFACE}\">")).unwrap();
    let end = start + xml[start..].find("</interface>").unwrap();
    assert_eq!(bare(&xml[start..end]), bare(include_str!("interface.xml")));
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
    let (_server, client) = pair(directory.path()).await;
    let proxy = proxy(&client).await;
    type Pool = (String, String, bool, u64, u64, u64, u64);
    let pools: Vec<Pool> = proxy.call("ListPools", &()).await.unwrap();
    assert_eq!((pools[0].0.as_str(), pools[0].2), ("vms", true));
    assert_eq!(pools[0].3, 1024 << 20);
    type Volume = (String, String, String, String, u64, u64);
    let volumes: Vec<Volume> = proxy.call("ListVolumes", &("vms",)).await.unwrap();
    assert_eq!(volumes[0].2, "/dev/notify/vms/disk0");
    assert_eq!((volumes[0].3.as_str(), volumes[0].4), ("growing", 64 << 20));
}

#[tokio::test]
async fn refusals_have_names_and_sentences() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, client) = pair(directory.path()).await;
    let proxy = proxy(&client).await;
    for pool in ["none", "../vms", ""] {
        let refused = proxy.call::<_, _, ()>("ListVolumes", &(pool,)).await.unwrap_err();
        assert!(refused.to_string().contains("org.virtnotify1.Error.NotFound"), "{refused}");
    }
    // Without a bus nobody says who the caller is: it may not change anything.
    let none = Vec::<String>::new();
    let restore = ("vg0", "backup", "", none.clone(), none);
    for refused in [
        proxy.call::<_, _, ()>("EnsureActive", &(vec!["vms/disk0"],)).await,
        proxy.call::<_, _, ()>("GuestStarts", &("guest", vec!["vms/disk0"], vec!["vda"])).await,
        proxy.call::<_, _, ()>("CancelMove", &("guest",)).await,
        proxy.call::<_, _, ()>("Check", &("vms",)).await,
        proxy.call::<_, _, ()>("Dump", &("vms", "metadata")).await,
        proxy.call::<_, _, ()>("Restore", &restore).await,
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("org.virtnotify1.Error.NotAuthorized"), "{refused}");
    }
}

#[tokio::test]
async fn a_warning_names_its_guest() {
    let directory = tempfile::tempdir().unwrap();
    let (server, client) = pair(directory.path()).await;
    let mut messages = MessageStream::from(&client);
    let (domain, what) = ("guest".to_owned(), "a sentence".to_owned());
    tell(&server, vec![Event::Warning { domain, what }]).await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(message.header().member().unwrap().as_str(), "Warning");
    let body: (String, String) = message.body().deserialize().unwrap();
    assert_eq!(body, ("guest".into(), "a sentence".into()));
}
#[tokio::test]
async fn a_move_is_told_with_its_hosts_and_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let (server, client) = pair(directory.path()).await;
    let mut messages = MessageStream::from(&client);
    let info = MoveInfo {
        domain: "guest".into(),
        uuid: Uuid::from_u128(1),
        pool: "vms".parse().unwrap(),
        volumes: vec!["disk0".parse().unwrap(), "disk1".parse().unwrap()],
        from: "host1".into(),
        to: "host2".into(),
        allocation: Bytes(40),
    };
    let reason = "no route".to_owned();
    tell(&server, vec![Event::MoveFailed { info, reason }]).await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(message.header().member().unwrap().as_str(), "MoveFailed");
    type Body = (String, String, String, Vec<String>, String, String, u64, String);
    let body: Body = message.body().deserialize().unwrap();
    assert_eq!((body.0.as_str(), body.4.as_str(), body.5.as_str()), ("guest", "host1", "host2"));
    assert_eq!((body.3.len(), body.6, body.7.as_str()), (2, 40, "no route"));
}

#[test]
fn pools_are_found_by_their_names_and_by_their_groups() {
    let directory = tempfile::tempdir().unwrap();
    let sources = sources(directory.path());
    let vg = |what: &str| repair::check(&sources, what).map(|checked| checked.1);
    assert_eq!(vg("vms").unwrap(), "vg0");
    assert_eq!(vg("vg7").unwrap(), "vg7");
    assert!(matches!(vg("a/b"), Err(Error::NotFound(_))));
    let dump = |from: &str| repair::dump(&sources, "vms", from);
    assert!(matches!(dump("metadata"), Err(Error::Damaged(_))));
    assert!(matches!(dump("tape"), Err(Error::InvalidArgument(_))));
    let restore = |from: &str, without: &str, option: &str| {
        let (without, options) = ([without.to_owned()], [option.to_owned()]);
        repair::restore(&sources, "vg0", from, String::new(), &without, &options)
    };
    assert!(matches!(restore("backup", "disk0", "force"), Err(Error::Failed(_))));
    for (from, without, option) in
        [("tape", "a", "force"), ("map", "a/b", "force"), ("map", "a", "--yes")]
    {
        assert!(matches!(restore(from, without, option), Err(Error::InvalidArgument(_))));
    }
}
