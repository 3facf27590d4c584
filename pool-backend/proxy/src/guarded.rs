// SPDX-License-Identifier: LGPL-2.1-or-later
//! Calls of ours as libvirt's access control has them: what a call is about is found and asked for
//! before it is executed, and what the client may not see is left out of lists.
//!
//! The order is libvirt's: what does not exist is an error before polkit is asked. For lists that hold
//! libvirt's pools as well, libvirt's own daemon asks about the connection.
//!
//! In one thing this asks for more than libvirt: a volume of ours that another one is to be made of
//! is read, so that `storage_vol:data_read` is asked for. libvirt asks about the new volume alone, so
//! that a user who may make a volume in one pool can read the volumes of all others.

use virtnotify_wire::procedure::{Form, Which};
use virtnotify_wire::service::VolumeXmlPeek;
use virtnotify_wire::storage::{
    ConnectListAllStoragePoolsArgs, ConnectListAllStoragePoolsRet, ConnectListStoragePoolsArgs,
    ConnectListStoragePoolsRet, ConnectNumOfStoragePoolsRet, StoragePoolCreateXmlArgs,
    StoragePoolListAllVolumesArgs, StoragePoolListAllVolumesRet, StoragePoolListVolumesArgs,
    StoragePoolListVolumesRet, StoragePoolLookupByNameArgs, StoragePoolLookupByUuidArgs,
    StoragePoolNumOfVolumesRet, StorageVolCreateXmlArgs, StorageVolCreateXmlFromArgs,
    StorageVolLookupByNameArgs, StorageVolLookupByNameRet, StorageVolLookupByPathArgs,
    StorageVolLookupByPathRet,
};
use virtnotify_wire::{
    About, Call, ErrorCode, List, Permission, PoolView, Procedure, RemoteError, StoragePool,
    StorageVol, Uuid, Xdr, decode, encode,
};

use crate::access::{Guard, Object, Verdict};
use crate::job::Job;

/// `VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE` and `_ACTIVE`.
const INACTIVE: u32 = 1;
const ACTIVE: u32 = 2;

/// What reading a volume needs, by whatever call.
const READS: &[Permission] = &[Permission::Volume("data_read")];

impl Job {
    /// Answers a call of ours, if the client may make it, with what the client may see.
    pub(crate) async fn ours(&self) -> Result<Vec<u8>, RemoteError> {
        self.permitted().await?;
        let Some(guard) = &self.guard else { return self.executed().await };
        match self.procedure.about() {
            About::Pools(which, form) => self.pools_shown(guard, which, form).await,
            About::Volumes(form) => self.volumes_shown(guard, form).await,
            About::PoolPath | About::VolumeKey | About::VolumePath => self.found(guard).await,
            _ => self.executed().await,
        }
    }

    /// Whether the client may make the call.
    ///
    /// # Errors
    /// When not; when what it is about is not there.
    pub(crate) async fn permitted(&self) -> Result<(), RemoteError> {
        use About as A;
        let Some(guard) = &self.guard else { return Ok(()) };
        let args = self.call.payload();
        let object = match self.procedure.about() {
            // Asked of libvirt's daemon by the same call, or about what is found.
            A::Pools(..) | A::Capabilities | A::Register | A::Deregister => return Ok(()),
            A::PoolPath | A::VolumeKey | A::VolumePath => return Ok(()),
            A::Authentication | A::Connection(_) | A::Event => return Err(guard.denied()),
            A::Sources => Object::Connection,
            A::Definition => self.pool_to_be(&decode(&args)?),
            A::PoolName => {
                let StoragePoolLookupByNameArgs { name } = decode(&args)?;
                Object::Pool(self.pool_named(&name)?)
            }
            A::PoolUuid => {
                let StoragePoolLookupByUuidArgs { uuid } = decode(&args)?;
                Object::Pool(self.pool(&StoragePool { name: String::new(), uuid })?)
            }
            A::Pool | A::Volumes(_) => Object::Pool(self.pool(&decode(&args)?)?),
            A::PoolOfVolume => {
                let StorageVol { pool, .. } = decode(&args)?;
                Object::Pool(self.pool_named(&pool)?)
            }
            A::VolumeName => {
                let StorageVolLookupByNameArgs { pool, name } = decode(&args)?;
                self.volume(self.pool(&pool)?, name).await?
            }
            A::Volume | A::Download | A::Upload => {
                let StorageVol { pool, name, .. } = decode(&args)?;
                self.volume(self.pool_named(&pool)?, name).await?
            }
            A::NewVolume => return self.may_make(guard, decode(&args)?).await,
            A::Clone => return self.may_clone(guard, decode(&args)?).await,
        };
        guard.needs(self.procedure.permissions(), &object).await
    }

    async fn may_make(
        &self,
        guard: &Guard,
        args: StorageVolCreateXmlArgs,
    ) -> Result<(), RemoteError> {
        let VolumeXmlPeek { name, backing } = self.shared.service.peek_volume_xml(&args.xml);
        let made = volume_to_be(self.pool(&args.pool)?, name);
        guard.needs(self.procedure.permissions(), &made).await?;
        let Some(path) = backing else { return Ok(()) };
        let asked = encode(&StorageVolLookupByPathArgs { path })?;
        let found = self.asked(Procedure::StorageVolLookupByPath, asked).await?;
        let StorageVolLookupByPathRet { vol } = decode(&found)?;
        guard.needs(READS, &self.known(vol)?).await
    }

    /// What belongs to libvirt is asked about by libvirt, in the calls by which it is read or made.
    async fn may_clone(
        &self,
        guard: &Guard,
        args: StorageVolCreateXmlFromArgs,
    ) -> Result<(), RemoteError> {
        let StorageVolCreateXmlFromArgs { pool, xml, clonevol, .. } = args;
        if let Ok(pool) = self.pool(&pool) {
            let made = volume_to_be(pool, self.shared.service.peek_volume_xml(&xml).name);
            guard.needs(self.procedure.permissions(), &made).await?;
        }
        match self.pool_named(&clonevol.pool) {
            Ok(pool) => guard.needs(READS, &self.volume(pool, clonevol.name).await?).await,
            Err(_) => Ok(()),
        }
    }

    /// As what a pool to be is asked about. One without a UUID gets any, here as in libvirt.
    fn pool_to_be(&self, args: &StoragePoolCreateXmlArgs) -> Object {
        let peek = self.shared.service.peek_pool_xml(&args.xml);
        let uuid = peek.uuid.unwrap_or_else(|| Uuid(uuid::Uuid::new_v4().into_bytes()));
        Object::Pool(StoragePool { name: peek.name.unwrap_or_default(), uuid })
    }

    /// The pool of ours that a client means.
    fn pool(&self, pool: &StoragePool) -> Result<StoragePool, RemoteError> {
        let service = &self.shared.service;
        let found = service.pool_by_uuid(&pool.uuid).or_else(|| service.pool_by_name(&pool.name));
        found.ok_or_else(|| {
            let StoragePool { name, uuid } = pool;
            let detail = format!("no storage pool with matching uuid '{uuid}' ({name})");
            RemoteError::new(ErrorCode::NO_STORAGE_POOL, detail)
        })
    }

    fn pool_named(&self, name: &str) -> Result<StoragePool, RemoteError> {
        self.shared.service.pool_by_name(name).ok_or_else(|| {
            let detail = format!("no storage pool with matching name '{name}'");
            RemoteError::new(ErrorCode::NO_STORAGE_POOL, detail)
        })
    }

    /// A volume with its own key: the one that a client has sent with its name may be another's.
    async fn volume(&self, pool: StoragePool, name: String) -> Result<Object, RemoteError> {
        let asked = encode(&StorageVolLookupByNameArgs { pool: pool.clone(), name })?;
        let found = self.asked(Procedure::StorageVolLookupByName, asked).await?;
        let StorageVolLookupByNameRet { vol: StorageVol { name, key, .. } } = decode(&found)?;
        Ok(Object::Volume { pool, name, key: Some(key) })
    }

    /// A volume that was found.
    fn known(&self, vol: StorageVol) -> Result<Object, RemoteError> {
        let pool = self.pool_named(&vol.pool)?;
        Ok(Object::Volume { pool, name: vol.name, key: Some(vol.key) })
    }

    /// Asks the driver something else than the client did.
    async fn asked(&self, procedure: Procedure, args: Vec<u8>) -> Result<Vec<u8>, RemoteError> {
        self.blocking(move |service, session, _| {
            service.call(session, Call { procedure, args: &args, view: PoolView::Own })
        })
        .await
    }

    /// Answers a look-up by what only the owner knows. A volume that the client may not see is not
    /// there; of a pool it is said that it is denied.
    async fn found(&self, guard: &Guard) -> Result<Vec<u8>, RemoteError> {
        let answer = self.executed().await?;
        let pool = self.procedure.about() == About::PoolPath;
        let object = match pool {
            true => Object::Pool(decode(&answer)?),
            false => self.known(decode(&answer)?)?,
        };
        match guard.needs(self.procedure.permissions(), &object).await {
            Err(_) if !pool => Err(RemoteError::new(ErrorCode::NO_STORAGE_VOL, "")),
            asked => asked.map(|()| answer),
        }
    }

    async fn pools_shown(
        &self,
        guard: &Guard,
        which: Which,
        form: Form,
    ) -> Result<Vec<u8>, RemoteError> {
        let args = self.call.payload();
        let flags = match which {
            Which::Active => ACTIVE,
            Which::Inactive => INACTIVE,
            Which::Flagged => decode::<ConnectListAllStoragePoolsArgs>(&args)?.flags,
        };
        let asked = encode(&ConnectListAllStoragePoolsArgs { need_results: 1, flags })?;
        let list = self.asked(Procedure::ConnectListAllStoragePools, asked).await?;
        let ConnectListAllStoragePoolsRet { pools, .. } = decode(&list)?;
        let pools = self.shown(guard, pools.0, |pool| Object::Pool(pool.clone())).await;
        match form {
            Form::Count => done(&ConnectNumOfStoragePoolsRet { num: count(&pools) }),
            Form::Names => {
                let ConnectListStoragePoolsArgs { maxnames } = decode(&args)?;
                let names = pools.into_iter().map(|pool| pool.name).take(room(maxnames));
                done(&ConnectListStoragePoolsRet { names: List(names.collect()) })
            }
            Form::Handles => {
                let ConnectListAllStoragePoolsArgs { need_results, .. } = decode(&args)?;
                let ret = total(&pools);
                let pools = if need_results == 0 { Vec::new() } else { pools };
                done(&ConnectListAllStoragePoolsRet { pools: List(pools), ret })
            }
        }
    }

    async fn volumes_shown(&self, guard: &Guard, form: Form) -> Result<Vec<u8>, RemoteError> {
        let args = self.call.payload();
        let flags = match form {
            Form::Handles => decode::<StoragePoolListAllVolumesArgs>(&args)?.flags,
            Form::Count | Form::Names => 0,
        };
        let pool = self.pool(&decode(&args)?)?;
        let wanted = StoragePoolListAllVolumesArgs { pool: pool.clone(), need_results: 1, flags };
        let list = self.asked(Procedure::StoragePoolListAllVolumes, encode(&wanted)?).await?;
        let StoragePoolListAllVolumesRet { vols, .. } = decode(&list)?;
        let object = |vol: &StorageVol| Object::Volume {
            pool: pool.clone(),
            name: vol.name.clone(),
            key: Some(vol.key.clone()),
        };
        let vols = self.shown(guard, vols.0, object).await;
        match form {
            Form::Count => done(&StoragePoolNumOfVolumesRet { num: count(&vols) }),
            Form::Names => {
                let StoragePoolListVolumesArgs { maxnames, .. } = decode(&args)?;
                let names = vols.into_iter().map(|vol| vol.name).take(room(maxnames));
                done(&StoragePoolListVolumesRet { names: List(names.collect()) })
            }
            Form::Handles => {
                let StoragePoolListAllVolumesArgs { need_results, .. } = decode(&args)?;
                let ret = total(&vols);
                let vols = if need_results == 0 { Vec::new() } else { vols };
                done(&StoragePoolListAllVolumesRet { vols: List(vols), ret })
            }
        }
    }

    /// What of a list the client may see. Once polkit has not answered, nothing more of it.
    async fn shown<T>(
        &self,
        guard: &Guard,
        entries: Vec<T>,
        object: impl Fn(&T) -> Object,
    ) -> Vec<T> {
        let Some(permission) = self.procedure.filter() else { return entries };
        let mut shown = Vec::new();
        for entry in entries {
            match guard.verdict(permission, &object(&entry)).await {
                Verdict::Yes => shown.push(entry),
                Verdict::No => {}
                Verdict::NoAnswer => break,
            }
        }
        shown
    }
}

/// A volume that is to be made: whatever key its XML has, it will get another one.
fn volume_to_be(pool: StoragePool, name: Option<String>) -> Object {
    Object::Volume { pool, name: name.unwrap_or_default(), key: None }
}

fn done<T: Xdr>(result: &T) -> Result<Vec<u8>, RemoteError> {
    Ok(encode(result)?)
}

fn count(list: &[impl Sized]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

fn total(list: &[impl Sized]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// How many names a client has room for.
fn room(maxnames: i32) -> usize {
    usize::try_from(maxnames).unwrap_or(0)
}
