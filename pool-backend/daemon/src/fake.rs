// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon's storage over a backend in memory, for tests.
#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

use std::path::Path;
use std::sync::Arc;

use virtnotify_driver::fake::FakeBackend;
use virtnotify_driver::{Driver, Paths};
use virtnotify_engine::repair::{
    CheckReport, DumpFrom, Repair, RepairError, RestoreRequest, Restored,
};
use virtnotify_model::{Bytes, EventBus, PoolName, VgName};
use virtnotify_remote::{Publisher, server};
use virtnotify_wire::StoragePool;

use crate::Local;

/// What it answers for real is tested with the engine.
struct FakeRepair;

impl Repair for FakeRepair {
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

/// What is asked of this driver.
#[must_use]
pub fn local(
    driver: Arc<Driver>,
    backend: Arc<FakeBackend>,
    directory: &Path,
    events: &EventBus,
) -> Local {
    Local {
        driver,
        backend,
        repair: Arc::new(FakeRepair),
        definitions: directory.join("d"),
        received: directory.join("r"),
        events: events.clone(),
    }
}

/// A storage with one pool, `vms` on `vg0`, which is active.
pub struct FakeStorage {
    /// What is asked.
    pub local: Arc<Local>,
    /// What it works on.
    pub backend: Arc<FakeBackend>,
    /// What it tells.
    pub events: EventBus,
    /// The pool.
    pub pool: StoragePool,
}

impl FakeStorage {
    /// A pool with the elements of `policy`, and a volume `disk0` of 64 MiB. Its files are in this directory.
    ///
    /// # Panics
    /// When that is not possible.
    #[must_use]
    pub fn new(directory: &Path, policy: &str) -> Self {
        let backend = FakeBackend::new().with_group(&"vg0".parse().unwrap(), Bytes::mib(1024));
        let (backend, events) = (Arc::new(backend), EventBus::new());
        let paths = Paths { definitions: directory.join("d"), state: directory.join("s") };
        let (driver, problems) = Driver::open(paths, backend.clone());
        assert_eq!(problems, Vec::<String>::new());
        let namespace = virtnotify_driver::xml::NOTIFY_NAMESPACE;
        let xml = format!(
            "<pool type='notify' xmlns:notify='{namespace}'><name>vms</name>\
             <source><name>vg0</name></source><target><path>/dev/notify/vms</path></target>\
             <notify:policy>{policy}</notify:policy></pool>"
        );
        let pool = driver.define(&xml, false).unwrap();
        driver.start(&pool, None).unwrap();
        driver.tell_also(events.clone());
        let local = local(Arc::new(driver), backend.clone(), directory, &events);
        let fake = Self { local: Arc::new(local), backend, events, pool };
        fake.create("disk0");
        fake
    }

    /// Makes a volume of 64 MiB.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn create(&self, name: &str) {
        let xml = format!("<volume><name>{name}</name><capacity unit='MiB'>64</capacity></volume>");
        self.local.driver.create_volume(&self.pool, &xml, false).unwrap();
    }

    /// Serves it at a socket, as the daemon does, in a thread.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn serve(&self, socket: &Path) -> Arc<Publisher> {
        let publisher = Publisher::new(self.local.clone(), &self.events);
        let listener = server::bind(socket).unwrap();
        let (driver, served) = (self.local.driver.clone(), publisher.clone());
        std::thread::spawn(move || server::serve(&listener, driver, served));
        publisher
    }
}
