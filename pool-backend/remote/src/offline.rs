// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is answered while virtnotifyd does not run: which pools there are, none of which is active; and
//! of everything else why it cannot be. What asks for any pool's volume finds none of ours, so that
//! libvirt's own pools are asked.

use virtnotify_driver::xml;
use virtnotify_wire::Procedure as P;
use virtnotify_wire::service::Call;
use virtnotify_wire::storage::{
    ConnectGetStoragePoolCapabilitiesRet, ConnectListAllStoragePoolsArgs,
    ConnectListAllStoragePoolsRet, ConnectListDefinedStoragePoolsArgs,
    ConnectListDefinedStoragePoolsRet, ConnectListStoragePoolsRet,
    ConnectNumOfDefinedStoragePoolsRet, ConnectNumOfStoragePoolsRet, StoragePoolGetInfoRet,
    StoragePoolIsActiveRet, StoragePoolIsPersistentRet, StoragePoolLookupByNameArgs,
    StoragePoolLookupByNameRet, StoragePoolLookupByUuidArgs, StoragePoolLookupByUuidRet,
};
use virtnotify_wire::{ErrorCode, RemoteError, StoragePool, Xdr, decode, encode};

/// `VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE`, `_ACTIVE`, `_PERSISTENT` and `_TRANSIENT` of libvirt-storage.h.
const INACTIVE: u32 = 1 << 0;
const ACTIVE: u32 = 1 << 1;
const PERSISTENT: u32 = 1 << 2;
const TRANSIENT: u32 = 1 << 3;
/// Where filters by type begin; none of them is ours.
const TYPES: u32 = !0 << 6;

/// Answers a call about these pools.
pub(crate) fn answer(
    pools: &[StoragePool],
    call: &Call<'_>,
    why: &str,
) -> Result<Vec<u8>, RemoteError> {
    match call.procedure {
        P::ConnectNumOfStoragePools => done(&ConnectNumOfStoragePoolsRet { num: 0 }),
        P::ConnectListStoragePools => {
            done(&ConnectListStoragePoolsRet { names: Vec::new().into() })
        }
        P::ConnectNumOfDefinedStoragePools => {
            let num = i32::try_from(pools.len()).unwrap_or(i32::MAX);
            done(&ConnectNumOfDefinedStoragePoolsRet { num })
        }
        P::ConnectListDefinedStoragePools => {
            let args: ConnectListDefinedStoragePoolsArgs = decode(call.args)?;
            let room = usize::try_from(args.maxnames).unwrap_or(0);
            let names: Vec<_> = pools.iter().take(room).map(|pool| pool.name.clone()).collect();
            done(&ConnectListDefinedStoragePoolsRet { names: names.into() })
        }
        P::ConnectListAllStoragePools => list_all(pools, &decode(call.args)?),
        P::ConnectGetStoragePoolCapabilities => {
            done(&ConnectGetStoragePoolCapabilitiesRet { capabilities: xml::capabilities() })
        }
        P::StoragePoolIsActive => done(&StoragePoolIsActiveRet { active: 0 }),
        // What libvirt says of a pool that is not active; virsh takes the state for its list from here.
        P::StoragePoolGetInfo => {
            let (state, capacity, allocation, available) = (0, 0, 0, 0);
            done(&StoragePoolGetInfoRet { state, capacity, allocation, available })
        }
        P::StoragePoolIsPersistent => done(&StoragePoolIsPersistentRet { persistent: 1 }),
        P::StoragePoolLookupByName => {
            let args: StoragePoolLookupByNameArgs = decode(call.args)?;
            let pool = found(pools, |pool| pool.name == args.name)?;
            done(&StoragePoolLookupByNameRet { pool })
        }
        P::StoragePoolLookupByUuid => {
            let args: StoragePoolLookupByUuidArgs = decode(call.args)?;
            let pool = found(pools, |pool| pool.uuid == args.uuid)?;
            done(&StoragePoolLookupByUuidRet { pool })
        }
        P::StoragePoolLookupByTargetPath => Err(no_pool()),
        P::StorageVolLookupByKey | P::StorageVolLookupByPath => {
            Err(RemoteError::new(ErrorCode::NO_STORAGE_VOL, "virtnotifyd does not run"))
        }
        _ => Err(absent(why)),
    }
}

/// Why a call cannot be answered.
pub(crate) fn absent(why: &str) -> RemoteError {
    RemoteError::new(ErrorCode::OPERATION_INVALID, does_not_run(why))
}

/// What is said of a daemon that does not run, wherever it is asked.
pub(crate) fn does_not_run(why: &str) -> String {
    format!(
        "virtnotifyd, which serves the pools of type 'notify', does not run ({why}): \
         systemctl status virtnotifyd tells why"
    )
}

fn list_all(
    pools: &[StoragePool],
    args: &ConnectListAllStoragePoolsArgs,
) -> Result<Vec<u8>, RemoteError> {
    let flags = args.flags;
    let without = |wanted: u32, other: u32| flags & (wanted | other) == other;
    let none = without(INACTIVE, ACTIVE) || without(PERSISTENT, TRANSIENT) || flags & TYPES != 0;
    let pools = if none { &[][..] } else { pools };
    let ret = u32::try_from(pools.len()).unwrap_or(u32::MAX);
    let pools = if args.need_results != 0 { pools.to_vec() } else { Vec::new() };
    done(&ConnectListAllStoragePoolsRet { pools: pools.into(), ret })
}

fn found(
    pools: &[StoragePool],
    is: impl Fn(&StoragePool) -> bool,
) -> Result<StoragePool, RemoteError> {
    pools.iter().find(|pool| is(pool)).cloned().ok_or_else(no_pool)
}

fn no_pool() -> RemoteError {
    RemoteError::new(ErrorCode::NO_STORAGE_POOL, "virtnotifyd does not run")
}

fn done(result: &impl Xdr) -> Result<Vec<u8>, RemoteError> {
    Ok(encode(result)?)
}
