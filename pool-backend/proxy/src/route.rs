// SPDX-License-Identifier: LGPL-2.1-or-later
//! Decides who answers a storage call. Pure: it asks only what is in memory.
//!
//! A call about a pool or a volume goes to the daemon that has the pool. Look-ups ask virtnotifyd first.
//! Lists need both daemons. A definition goes to the daemon of its type, if the other one has neither
//! its name nor its UUID. A call that cannot concern pools of type `notify` goes upstream unread.

use virtnotify_wire::storage::{
    ConnectFindStoragePoolSourcesArgs, StoragePoolCreateXmlArgs, StoragePoolLookupByNameArgs,
    StoragePoolLookupByUuidArgs, StorageVolCreateXmlFromArgs,
};
use virtnotify_wire::{
    About, ErrorCode, Procedure, RemoteError, StoragePool, StorageService, StorageVol, Uuid,
    XdrError, decode,
};

/// Who answers a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// Upstream, with the frame as it is.
    Upstream,
    /// The driver.
    Ours,
    /// The driver, and upstream if the driver's error is this one.
    OursFirst(ErrorCode),
    /// Both, put together.
    Both,
    /// A definition for the driver; upstream must have neither.
    DefineOurs(PoolNames),
    /// A definition for upstream; it must not become one of ours meanwhile. Of one that our parser
    /// does not read no name is known.
    DefineUpstream(PoolNames),
    /// The driver, by a stream to the client.
    Download,
    /// The driver, by a stream from the client.
    Upload,
    /// A volume for the driver, of what one of upstream's holds.
    CloneIn,
    /// A volume for upstream, of what one of the driver's holds.
    CloneOut,
    /// Upstream registers a callback; its number is then ours as well.
    Register,
    /// Upstream forgets a callback; so do we.
    Deregister,
    /// No daemon: the proxy itself refuses it.
    Refuse(RemoteError),
}

/// What a definition wants to be called.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolNames {
    /// The pool's name.
    pub name: Option<String>,
    /// The pool's UUID.
    pub uuid: Option<Uuid>,
}

/// The route of a call of the storage family.
#[must_use]
pub fn route(procedure: Procedure, args: &[u8], service: &dyn StorageService) -> Route {
    match try_route(procedure, args, service) {
        Ok(route) => route,
        // libvirt takes any bytes for a string, and nothing of ours is called so; of a definition
        // only a part may be in other letters.
        Err(XdrError::NotUtf8) => match procedure.about() {
            About::Definition => Route::DefineUpstream(PoolNames::default()),
            _ => Route::Upstream,
        },
        Err(error) => Route::Refuse(error.into()),
    }
}

fn try_route(
    procedure: Procedure,
    args: &[u8],
    service: &dyn StorageService,
) -> Result<Route, XdrError> {
    use About as A;
    Ok(match procedure.about() {
        A::Pools(..) | A::Capabilities => Route::Both,
        A::Sources => {
            let args: ConnectFindStoragePoolSourcesArgs = decode(args)?;
            ours_if(args.r#type == "notify")
        }
        A::PoolName => {
            let args: StoragePoolLookupByNameArgs = decode(args)?;
            ours_if(service.pool_by_name(&args.name).is_some())
        }
        A::PoolUuid => {
            let args: StoragePoolLookupByUuidArgs = decode(args)?;
            ours_if(service.pool_by_uuid(&args.uuid).is_some())
        }
        A::PoolPath => Route::OursFirst(ErrorCode::NO_STORAGE_POOL),
        A::VolumeKey | A::VolumePath => Route::OursFirst(ErrorCode::NO_STORAGE_VOL),
        A::Definition => define(&decode(args)?, service),
        // Who executes the call reads the rest.
        A::Pool | A::Volumes(_) | A::VolumeName | A::NewVolume => {
            ours_if(is_our_pool(&decode(args)?, service))
        }
        A::Volume | A::PoolOfVolume => ours_if(is_our_volume(&decode(args)?, service)),
        A::Clone => clone(&decode(args)?, service),
        A::Download if is_our_volume(&decode(args)?, service) => Route::Download,
        A::Upload if is_our_volume(&decode(args)?, service) => Route::Upload,
        A::Download | A::Upload => Route::Upstream,
        A::Register => Route::Register,
        A::Deregister => Route::Deregister,
        A::Authentication | A::Connection(_) | A::Event => Route::Upstream,
    })
}

fn ours_if(ours: bool) -> Route {
    if ours { Route::Ours } else { Route::Upstream }
}

fn is_our_pool(pool: &StoragePool, service: &dyn StorageService) -> bool {
    service.pool_by_uuid(&pool.uuid).is_some() || service.pool_by_name(&pool.name).is_some()
}

fn is_our_volume(vol: &StorageVol, service: &dyn StorageService) -> bool {
    service.pool_by_name(&vol.pool).is_some()
}

/// Defining and creating have the same arguments.
fn define(args: &StoragePoolCreateXmlArgs, service: &dyn StorageService) -> Route {
    let peek = service.peek_pool_xml(&args.xml);
    let names = PoolNames { name: peek.name, uuid: peek.uuid };
    if peek.ours { Route::DefineOurs(names) } else { Route::DefineUpstream(names) }
}

fn clone(args: &StorageVolCreateXmlFromArgs, service: &dyn StorageService) -> Route {
    match (is_our_pool(&args.pool, service), is_our_volume(&args.clonevol, service)) {
        (true, true) => Route::Ours,
        (false, false) => Route::Upstream,
        (true, false) => Route::CloneIn,
        (false, true) => Route::CloneOut,
    }
}

/// The pool of ours that stands in the way of a definition for upstream.
#[must_use]
pub fn conflict(names: &PoolNames, service: &dyn StorageService) -> Option<StoragePool> {
    let by_name = names.name.as_ref().and_then(|name| service.pool_by_name(name));
    by_name.or_else(|| names.uuid.as_ref().and_then(|uuid| service.pool_by_uuid(uuid)))
}

/// What libvirt says when a definition meets a pool that is there.
#[must_use]
pub fn already_exists(names: &PoolNames, existing: &StoragePool) -> RemoteError {
    let StoragePool { name, uuid } = existing;
    let detail = if names.name.as_ref() == Some(name) {
        format!("pool '{name}' already exists with uuid {uuid}")
    } else {
        format!("pool '{name}' is already defined with uuid {uuid}")
    };
    RemoteError::new(ErrorCode::OPERATION_FAILED, detail)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
