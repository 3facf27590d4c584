// SPDX-License-Identifier: LGPL-2.1-or-later
//! A driver with a backend in memory, and short ways to call it.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use virtnotify_driver::fake::FakeBackend;
use virtnotify_driver::{Driver, Paths};
use virtnotify_model::Bytes;
use virtnotify_wire::procedure::Procedure as P;
use virtnotify_wire::service::{Call, PoolEvent, PoolEventKind, PoolView, Session, StorageService};
use virtnotify_wire::storage::*;
use virtnotify_wire::{ErrorCode, RemoteError, Xdr, decode, encode};

/// What `virsh pool-define-as vms notify --source-name vg0 --target /dev/notify/vms` sends.
pub const VMS: &str = "<pool type='notify'>\n  <name>vms</name>\n  <source>\n    \
                       <name>vg0</name>\n  </source>\n  <target>\n    \
                       <path>/dev/notify/vms</path>\n  </target>\n</pool>\n";

/// Answers decode, or are libvirt's errors.
pub type Answer<T> = Result<T, RemoteError>;

pub struct Bench {
    pub driver: Arc<Driver>,
    pub backend: Arc<FakeBackend>,
    pub directory: TempDir,
    events: Arc<Mutex<Vec<(String, PoolEventKind)>>>,
}

pub fn pool_xml(name: &str, vg: &str, more: &str) -> String {
    format!(
        "<pool type='notify'><name>{name}</name>{more}<source><name>{vg}</name></source></pool>"
    )
}

pub fn volume_xml(name: &str, capacity: u64) -> String {
    format!("<volume><name>{name}</name><capacity>{capacity}</capacity></volume>")
}

impl Bench {
    /// No pools; volume groups `vg0` and `vg1` of 1 GiB.
    pub fn new() -> Self {
        let backend = FakeBackend::new()
            .with_group(&"vg0".parse().unwrap(), Bytes::mib(1024))
            .with_group(&"vg1".parse().unwrap(), Bytes::mib(1024));
        let bench = Self::over(TempDir::new().unwrap(), Arc::new(backend));
        assert!(bench.driver.start_pools().is_empty());
        bench
    }

    /// A pool `vms` in `vg0`, started.
    pub fn with_pool() -> (Self, StoragePool) {
        let bench = Self::new();
        let pool = bench.define(VMS).unwrap();
        bench.start(&pool).unwrap();
        (bench, pool)
    }

    /// A driver over files and a backend that are there; its pools are not started yet.
    pub fn over(directory: TempDir, backend: Arc<FakeBackend>) -> Self {
        let (bench, problems) = Self::with_problems(directory, backend);
        assert!(problems.is_empty(), "{problems:?}");
        bench
    }

    pub fn with_problems(directory: TempDir, backend: Arc<FakeBackend>) -> (Self, Vec<String>) {
        let (driver, problems) = Driver::open(Self::paths(&directory), backend.clone());
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        driver.set_event_sink(Box::new(move |event: PoolEvent| {
            sink.lock().unwrap().push((event.pool.name, event.kind));
        }));
        (Bench { driver: Arc::new(driver), backend, directory, events }, problems)
    }

    pub fn paths(directory: &TempDir) -> Paths {
        Paths { definitions: directory.path().join("etc"), state: directory.path().join("run") }
    }

    /// The daemon is killed, and another one comes up to the point before it starts pools.
    pub fn killed(self) -> Self {
        Self::over(self.directory, self.backend)
    }

    pub fn call<A: Xdr, R: Xdr>(&self, procedure: P, args: &A) -> Answer<R> {
        self.call_as(procedure, args, PoolView::Own)
    }

    pub fn call_as<A: Xdr, R: Xdr>(&self, procedure: P, args: &A, view: PoolView) -> Answer<R> {
        let args = encode(args).unwrap();
        let result = self.raw(Call { procedure, args: &args, view })?;
        Ok(decode(&result).expect("a result that decodes"))
    }

    pub fn raw(&self, call: Call<'_>) -> Answer<Vec<u8>> {
        let session = Session { id: 1, uid: 0, gid: 0, pid: 1, read_only: false };
        self.driver.call(&session, call)
    }

    /// The lifecycle events since the last call, as libvirt numbers them; -1 is a refresh.
    pub fn events(&self) -> Vec<(String, i32)> {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        let number = |kind| match kind {
            PoolEventKind::Lifecycle { event, .. } => event,
            PoolEventKind::Refresh => -1,
        };
        events.into_iter().map(|(pool, kind)| (pool, number(kind))).collect()
    }

    pub fn define(&self, xml: &str) -> Answer<StoragePool> {
        let args = StoragePoolDefineXmlArgs { xml: xml.to_owned(), flags: 0 };
        self.call(P::StoragePoolDefineXml, &args).map(|ret: StoragePoolDefineXmlRet| ret.pool)
    }

    pub fn create(&self, xml: &str) -> Answer<StoragePool> {
        let args = StoragePoolCreateXmlArgs { xml: xml.to_owned(), flags: 0 };
        self.call(P::StoragePoolCreateXml, &args).map(|ret: StoragePoolCreateXmlRet| ret.pool)
    }

    pub fn start(&self, pool: &StoragePool) -> Answer<()> {
        self.call(P::StoragePoolCreate, &StoragePoolCreateArgs { pool: pool.clone(), flags: 0 })
    }

    pub fn destroy(&self, pool: &StoragePool) -> Answer<()> {
        self.call(P::StoragePoolDestroy, &StoragePoolDestroyArgs { pool: pool.clone() })
    }

    pub fn undefine(&self, pool: &StoragePool) -> Answer<()> {
        self.call(P::StoragePoolUndefine, &StoragePoolUndefineArgs { pool: pool.clone() })
    }

    pub fn delete(&self, pool: &StoragePool) -> Answer<()> {
        self.call(P::StoragePoolDelete, &StoragePoolDeleteArgs { pool: pool.clone(), flags: 0 })
    }

    pub fn refresh(&self, pool: &StoragePool) -> Answer<()> {
        self.call(P::StoragePoolRefresh, &StoragePoolRefreshArgs { pool: pool.clone(), flags: 0 })
    }

    pub fn set_autostart(&self, pool: &StoragePool, on: bool) -> Answer<()> {
        let args = StoragePoolSetAutostartArgs { pool: pool.clone(), autostart: on.into() };
        self.call(P::StoragePoolSetAutostart, &args)
    }

    pub fn is_active(&self, pool: &StoragePool) -> Answer<bool> {
        let args = StoragePoolIsActiveArgs { pool: pool.clone() };
        let ret: StoragePoolIsActiveRet = self.call(P::StoragePoolIsActive, &args)?;
        Ok(ret.active == 1)
    }

    pub fn is_persistent(&self, pool: &StoragePool) -> Answer<bool> {
        let args = StoragePoolIsPersistentArgs { pool: pool.clone() };
        let ret: StoragePoolIsPersistentRet = self.call(P::StoragePoolIsPersistent, &args)?;
        Ok(ret.persistent == 1)
    }

    pub fn info(&self, pool: &StoragePool) -> Answer<StoragePoolGetInfoRet> {
        self.call(P::StoragePoolGetInfo, &StoragePoolGetInfoArgs { pool: pool.clone() })
    }

    pub fn xml(&self, pool: &StoragePool, flags: u32, view: PoolView) -> Answer<String> {
        let args = StoragePoolGetXmlDescArgs { pool: pool.clone(), flags };
        let ret: StoragePoolGetXmlDescRet = self.call_as(P::StoragePoolGetXmlDesc, &args, view)?;
        Ok(ret.xml)
    }

    pub fn list(&self, flags: u32) -> Answer<Vec<String>> {
        let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags };
        let ret: ConnectListAllStoragePoolsRet = self.call(P::ConnectListAllStoragePools, &args)?;
        assert_eq!(usize::try_from(ret.ret).unwrap(), ret.pools.len());
        let mut names: Vec<String> = ret.pools.iter().map(|pool| pool.name.clone()).collect();
        names.sort();
        Ok(names)
    }

    pub fn create_volume(&self, pool: &StoragePool, xml: &str) -> Answer<StorageVol> {
        let args = StorageVolCreateXmlArgs { pool: pool.clone(), xml: xml.to_owned(), flags: 0 };
        self.call(P::StorageVolCreateXml, &args).map(|ret: StorageVolCreateXmlRet| ret.vol)
    }

    pub fn delete_volume(&self, vol: &StorageVol) -> Answer<()> {
        self.delete_volume_with(vol, 0)
    }

    pub fn delete_volume_with(&self, vol: &StorageVol, flags: u32) -> Answer<()> {
        self.call(P::StorageVolDelete, &StorageVolDeleteArgs { vol: vol.clone(), flags })
    }

    pub fn resize(&self, vol: &StorageVol, capacity: u64, flags: u32) -> Answer<()> {
        self.call(P::StorageVolResize, &StorageVolResizeArgs { vol: vol.clone(), capacity, flags })
    }

    pub fn wipe(&self, vol: &StorageVol, algorithm: u32) -> Answer<()> {
        let args = StorageVolWipePatternArgs { vol: vol.clone(), algorithm, flags: 0 };
        self.call(P::StorageVolWipePattern, &args)
    }

    /// A volume's capacity and allocation.
    pub fn sizes(&self, vol: &StorageVol) -> Answer<(u64, u64)> {
        let args = StorageVolGetInfoArgs { vol: vol.clone() };
        let ret: StorageVolGetInfoRet = self.call(P::StorageVolGetInfo, &args)?;
        assert_eq!(ret.r#type, 1);
        Ok((ret.capacity, ret.allocation))
    }

    pub fn volumes(&self, pool: &StoragePool) -> Answer<Vec<String>> {
        let args = StoragePoolListAllVolumesArgs { pool: pool.clone(), need_results: 1, flags: 0 };
        let ret: StoragePoolListAllVolumesRet = self.call(P::StoragePoolListAllVolumes, &args)?;
        assert_eq!(usize::try_from(ret.ret).unwrap(), ret.vols.len());
        Ok(ret.vols.iter().map(|vol| vol.name.clone()).collect())
    }

    /// All that a client could see and all that is on disk, to show that nothing changed.
    pub fn everything(&self) -> String {
        let mut all = String::new();
        let args = ConnectListAllStoragePoolsArgs { need_results: 1, flags: 0 };
        let ret: ConnectListAllStoragePoolsRet =
            self.call(P::ConnectListAllStoragePools, &args).unwrap();
        for pool in ret.pools.iter() {
            all += &format!("{pool:?} {:?}\n", self.info(pool));
            all += &self.xml(pool, 0, PoolView::Own).unwrap();
            all += &self.xml(pool, 1, PoolView::Own).unwrap();
            all += &format!("{:?}\n", self.volumes(pool));
        }
        for part in ["etc", "etc/autostart", "run"] {
            let Ok(entries) = std::fs::read_dir(self.directory.path().join(part)) else { continue };
            let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            files.sort();
            for file in files {
                all += &format!("{file:?}: {:?}\n", std::fs::read_to_string(&file).ok());
            }
        }
        all
    }
}

/// The code and the whole message of what must be an error.
#[track_caller]
pub fn error<T: std::fmt::Debug>(answer: Answer<T>) -> (ErrorCode, String) {
    let error = answer.unwrap_err();
    (ErrorCode(error.code), error.message.clone().unwrap())
}
