// SPDX-License-Identifier: LGPL-2.1-or-later
//! A storage service in memory: one kind of pool, volumes that are byte vectors. It
//! keeps what the interposer relies on and nothing more.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "test code")]

pub mod fake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{
    Download, DownloadChunk, EventSink, PoolEvent, PoolEventKind, PoolXmlPeek, Upload,
    VolumeXmlPeek,
};
use virtnotify_wire::storage::*;
use virtnotify_wire::{
    Call, ErrorCode, List, PoolView, Procedure, RemoteError, Session, StorageService, Xdr, decode,
    encode,
};

pub const UUID: Uuid = Uuid([0x11; 16]);

#[derive(Default)]
pub struct Memory {
    pools: Mutex<BTreeMap<String, Pool>>,
    sink: Mutex<Option<EventSink>>,
    /// Every call, for tests to look at.
    pub calls: Mutex<Vec<(Procedure, PoolView)>>,
    /// One more for each volume that is being downloaded.
    downloads: Arc<()>,
    /// Held by a test that wants calls to block.
    pub gate: Mutex<()>,
}

struct Pool {
    id: StoragePool,
    active: bool,
    volumes: BTreeMap<String, Arc<Mutex<Vec<u8>>>>,
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

fn no_pool() -> RemoteError {
    RemoteError::new(ErrorCode::NO_STORAGE_POOL, "no such pool of ours")
}

fn no_volume() -> RemoteError {
    RemoteError::new(ErrorCode::NO_STORAGE_VOL, "no such volume of ours")
}

fn ok<T: Xdr>(value: &T) -> Result<Vec<u8>, RemoteError> {
    Ok(encode(value)?)
}

impl Memory {
    /// With an active pool `vms` that has a volume `disk0`.
    pub fn with_pool() -> Arc<Self> {
        let memory = Memory::default();
        let volumes = BTreeMap::from([("disk0".to_owned(), Arc::default())]);
        let id = StoragePool { name: "vms".to_owned(), uuid: UUID };
        memory.pools().insert("vms".to_owned(), Pool { id, active: true, volumes });
        Arc::new(memory)
    }

    /// One more active pool, with volumes of these names.
    pub fn add(&self, id: StoragePool, volumes: &[&str]) {
        let volumes = volumes.iter().map(|name| ((*name).to_owned(), Arc::default())).collect();
        self.pools().insert(id.name.clone(), Pool { id, active: true, volumes });
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<String, Pool>> {
        self.pools.lock().unwrap()
    }

    /// How many volumes are open for a download.
    pub fn open_downloads(&self) -> usize {
        Arc::strong_count(&self.downloads) - 1
    }

    pub fn emit(&self, event: PoolEvent) {
        if let Some(sink) = &*self.sink.lock().unwrap() {
            sink(event);
        }
    }

    fn lifecycle(&self, pool: &StoragePool, event: i32) {
        let kind = PoolEventKind::Lifecycle { event, detail: 0 };
        self.emit(PoolEvent { pool: pool.clone(), kind });
    }

    fn volume(&self, vol: &StorageVol) -> Result<Arc<Mutex<Vec<u8>>>, RemoteError> {
        let pools = self.pools();
        let pool = pools.get(&vol.pool).ok_or_else(no_pool)?;
        pool.volumes.get(&vol.name).cloned().ok_or_else(no_volume)
    }

    /// What that volume of a pool holds from now on.
    pub fn fill(&self, vol: &StorageVol, content: Vec<u8>) {
        *self.volume(vol).unwrap().lock().unwrap() = content;
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        let key = path(name);
        let vol = StorageVol { pool: "vms".to_owned(), name: name.to_owned(), key };
        self.volume(&vol).unwrap().lock().unwrap().clone()
    }

    fn define(&self, xml: &str, active: bool) -> Result<Vec<u8>, RemoteError> {
        let peek = self.peek_pool_xml(xml);
        let uuid = peek.uuid.unwrap_or(Uuid([0x22; 16]));
        let id = StoragePool { name: peek.name.unwrap_or_default(), uuid };
        let pool = Pool { id: id.clone(), active, volumes: BTreeMap::new() };
        self.pools().insert(id.name.clone(), pool);
        self.lifecycle(&id, 0);
        ok(&StoragePoolDefineXmlRet { pool: id })
    }
}

fn path(name: &str) -> String {
    format!("/dev/notify/vms/{name}")
}

fn vol(pool: &str, name: &str) -> StorageVol {
    StorageVol { pool: pool.to_owned(), name: name.to_owned(), key: path(name) }
}

impl StorageService for Memory {
    fn call(&self, _: &Session, call: Call<'_>) -> Result<Vec<u8>, RemoteError> {
        use Procedure as P;
        self.calls.lock().unwrap().push((call.procedure, call.view));
        drop(self.gate.lock().unwrap());
        let args = call.args;
        match call.procedure {
            P::ConnectNumOfStoragePools => {
                let num = self.pools().values().filter(|pool| pool.active).count();
                ok(&ConnectNumOfStoragePoolsRet { num: i32::try_from(num).unwrap() })
            }
            P::ConnectNumOfDefinedStoragePools => {
                let num = self.pools().values().filter(|pool| !pool.active).count();
                ok(&ConnectNumOfDefinedStoragePoolsRet { num: i32::try_from(num).unwrap() })
            }
            P::ConnectListStoragePools => {
                let pools = self.pools();
                let active = pools.values().filter(|pool| pool.active);
                ok(&ConnectListStoragePoolsRet {
                    names: List(active.map(|pool| pool.id.name.clone()).collect()),
                })
            }
            P::ConnectListDefinedStoragePools => {
                ok(&ConnectListDefinedStoragePoolsRet { names: List::default() })
            }
            P::ConnectListAllStoragePools => {
                let args: ConnectListAllStoragePoolsArgs = decode(args)?;
                let listed = |pool: &&Pool| match args.flags & 3 {
                    1 => !pool.active,
                    2 => pool.active,
                    _ => true,
                };
                let pools = self.pools();
                let pools: Vec<_> = pools.values().filter(listed).collect();
                let pools: Vec<_> = pools.into_iter().map(|pool| pool.id.clone()).collect();
                let ret = u32::try_from(pools.len()).unwrap();
                let pools = if args.need_results == 0 { Vec::new() } else { pools };
                ok(&ConnectListAllStoragePoolsRet { pools: List(pools), ret })
            }
            P::ConnectGetStoragePoolCapabilities => ok(&ConnectGetStoragePoolCapabilitiesRet {
                capabilities: "<pool type='notify' supported='yes'>\n</pool>\n".to_owned(),
            }),
            P::StoragePoolLookupByName => {
                let StoragePoolLookupByNameArgs { name } = decode(args)?;
                let pool = self.pool_by_name(&name).ok_or_else(no_pool)?;
                ok(&StoragePoolLookupByNameRet { pool })
            }
            P::StoragePoolLookupByUuid => {
                let StoragePoolLookupByUuidArgs { uuid } = decode(args)?;
                let pool = self.pool_by_uuid(&uuid).ok_or_else(no_pool)?;
                ok(&StoragePoolLookupByUuidRet { pool })
            }
            P::StoragePoolLookupByVolume => {
                let StoragePoolLookupByVolumeArgs { vol } = decode(args)?;
                let pool = self.pool_by_name(&vol.pool).ok_or_else(no_pool)?;
                ok(&StoragePoolLookupByVolumeRet { pool })
            }
            P::StoragePoolLookupByTargetPath => {
                let StoragePoolLookupByTargetPathArgs { path } = decode(args)?;
                let found = self
                    .pools()
                    .values()
                    .find(|pool| format!("/dev/notify/{}", pool.id.name) == path)
                    .map(|pool| pool.id.clone());
                ok(&StoragePoolLookupByTargetPathRet { pool: found.ok_or_else(no_pool)? })
            }
            P::StoragePoolDefineXml => {
                let StoragePoolDefineXmlArgs { xml, .. } = decode(args)?;
                self.define(&xml, false)
            }
            P::StoragePoolCreateXml => {
                let StoragePoolCreateXmlArgs { xml, .. } = decode(args)?;
                self.define(&xml, true)
            }
            P::StoragePoolUndefine => {
                let StoragePoolUndefineArgs { pool } = decode(args)?;
                self.pools().remove(&pool.name);
                self.lifecycle(&pool, 1);
                ok(&())
            }
            P::StoragePoolIsActive => {
                let StoragePoolIsActiveArgs { pool } = decode(args)?;
                let active = self.pools().get(&pool.name).is_some_and(|pool| pool.active);
                ok(&StoragePoolIsActiveRet { active: active.into() })
            }
            P::StoragePoolIsPersistent => ok(&StoragePoolIsPersistentRet { persistent: 1 }),
            P::StoragePoolGetAutostart => ok(&StoragePoolGetAutostartRet { autostart: 0 }),
            P::StoragePoolGetInfo => ok(&StoragePoolGetInfoRet {
                state: 2,
                capacity: 4 << 30,
                allocation: 1 << 30,
                available: 3 << 30,
            }),
            P::StoragePoolGetXmlDesc => {
                let StoragePoolGetXmlDescArgs { pool, .. } = decode(args)?;
                let (name, uuid) = (&pool.name, pool.uuid);
                let kind = match call.view {
                    PoolView::Own => "notify",
                    PoolView::Logical => "logical",
                    PoolView::Zfs => "zfs",
                };
                ok(&StoragePoolGetXmlDescRet {
                    xml: format!(
                        "<pool type='{kind}'>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n  \
                         <source>\n    <name>vg0</name>\n  </source>\n  <target>\n    \
                         <path>/dev/notify/{name}</path>\n  </target>\n</pool>\n"
                    ),
                })
            }
            P::StoragePoolNumOfVolumes => ok(&StoragePoolNumOfVolumesRet { num: 1 }),
            P::StoragePoolListAllVolumes => {
                let StoragePoolListAllVolumesArgs { pool, .. } = decode(args)?;
                let pools = self.pools();
                let names = pools.get(&pool.name).ok_or_else(no_pool)?.volumes.keys();
                let vols: Vec<_> = names.map(|name| vol(&pool.name, name)).collect();
                let ret = u32::try_from(vols.len()).unwrap();
                ok(&StoragePoolListAllVolumesRet { vols: List(vols), ret })
            }
            P::StorageVolLookupByName => {
                let StorageVolLookupByNameArgs { pool, name } = decode(args)?;
                let vol = vol(&pool.name, &name);
                self.volume(&vol)?;
                ok(&StorageVolLookupByNameRet { vol })
            }
            P::StorageVolLookupByPath | P::StorageVolLookupByKey => {
                let StorageVolLookupByPathArgs { path } = decode(args)?;
                let name = path.strip_prefix("/dev/notify/vms/").ok_or_else(no_volume)?;
                let vol = vol("vms", name);
                self.volume(&vol)?;
                ok(&StorageVolLookupByPathRet { vol })
            }
            P::StorageVolGetInfo => {
                ok(&StorageVolGetInfoRet { r#type: 1, capacity: 1 << 30, allocation: 0 })
            }
            P::StorageVolGetPath => {
                let StorageVolGetPathArgs { vol } = decode(args)?;
                ok(&StorageVolGetPathRet { name: path(&vol.name) })
            }
            other => {
                let detail = format!("{other} is not in the test's service");
                Err(RemoteError::new(ErrorCode::NO_SUPPORT, detail))
            }
        }
    }

    fn pool_by_name(&self, name: &str) -> Option<StoragePool> {
        self.pools().get(name).map(|pool| pool.id.clone())
    }

    fn pool_by_uuid(&self, uuid: &Uuid) -> Option<StoragePool> {
        self.pools().values().find(|pool| pool.id.uuid == *uuid).map(|pool| pool.id.clone())
    }

    fn peek_pool_xml(&self, xml: &str) -> PoolXmlPeek {
        // As the driver's parser: a document with a type is not read.
        if xml.contains("<!DOCTYPE") {
            return PoolXmlPeek::default();
        }
        PoolXmlPeek {
            ours: xml.contains("type='notify'"),
            name: between(xml, "<name>", "</name>").map(str::to_owned),
            uuid: between(xml, "<uuid>", "</uuid>").and_then(|uuid| uuid.parse().ok()),
        }
    }

    fn peek_volume_xml(&self, xml: &str) -> VolumeXmlPeek {
        let text = |start, end| between(xml, start, end).map(str::to_owned);
        VolumeXmlPeek { name: text("<name>", "</name>"), backing: text("<path>", "</path>") }
    }

    fn set_event_sink(&self, sink: EventSink) {
        *self.sink.lock().unwrap() = Some(sink);
    }

    fn download(&self, _: &Session, args: &[u8]) -> Result<Box<dyn Download>, RemoteError> {
        let args: StorageVolDownloadArgs = decode(args)?;
        let content = self.volume(&args.vol)?.lock().unwrap().clone();
        let _open = Arc::clone(&self.downloads);
        Ok(Box::new(Reading { content, sparse: args.flags & 1 != 0, _open }))
    }

    fn upload(&self, _: &Session, args: &[u8]) -> Result<Box<dyn Upload>, RemoteError> {
        let args: StorageVolUploadArgs = decode(args)?;
        Ok(Box::new(Writing { volume: self.volume(&args.vol)?, content: Vec::new() }))
    }
}

struct Reading {
    content: Vec<u8>,
    sparse: bool,
    _open: Arc<()>,
}

impl Download for Reading {
    fn next(&mut self, max: usize) -> Result<DownloadChunk, RemoteError> {
        let zeroes = self.content.iter().take_while(|byte| **byte == 0).count();
        if self.sparse && zeroes > 0 {
            self.content.drain(..zeroes);
            return Ok(DownloadChunk::Hole(u64::try_from(zeroes).unwrap()));
        }
        let data = match self.content.iter().position(|byte| *byte == 0) {
            Some(zero) if self.sparse => zero,
            _ => self.content.len(),
        };
        match data.min(max) {
            0 => Ok(DownloadChunk::End),
            len => Ok(DownloadChunk::Data(self.content.drain(..len).collect())),
        }
    }
}

struct Writing {
    volume: Arc<Mutex<Vec<u8>>>,
    content: Vec<u8>,
}

impl Upload for Writing {
    fn write(&mut self, data: &[u8]) -> Result<(), RemoteError> {
        self.content.extend_from_slice(data);
        Ok(())
    }
    fn hole(&mut self, hole: &StreamHole) -> Result<(), RemoteError> {
        let len = self.content.len() + usize::try_from(hole.length).unwrap();
        self.content.resize(len, 0);
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<(), RemoteError> {
        *self.volume.lock().unwrap() = self.content;
        Ok(())
    }
}
