// SPDX-License-Identifier: LGPL-2.1-or-later
//! Procedures of the connection: lists of pools, sources, capabilities.

use virtnotify_wire::Procedure as P;
use virtnotify_wire::service::Call;
use virtnotify_wire::storage::{
    ConnectFindStoragePoolSourcesArgs, ConnectFindStoragePoolSourcesRet,
    ConnectGetStoragePoolCapabilitiesArgs, ConnectGetStoragePoolCapabilitiesRet,
    ConnectListAllStoragePoolsArgs, ConnectListAllStoragePoolsRet,
    ConnectListDefinedStoragePoolsArgs, ConnectListDefinedStoragePoolsRet,
    ConnectListStoragePoolsArgs, ConnectListStoragePoolsRet, ConnectNumOfDefinedStoragePoolsRet,
    ConnectNumOfStoragePoolsRet,
};

use super::{Answer, answer, at_most, count, total};
use crate::driver::Driver;
use crate::error::DriverError;
use crate::flags;
use crate::xml;

/// Answers, if it is such a procedure.
pub(super) fn call(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::ConnectNumOfStoragePools => answer(call, |()| {
            let num = count(&driver.list(|entry| entry.shown_active()));
            Ok(ConnectNumOfStoragePoolsRet { num })
        }),
        P::ConnectNumOfDefinedStoragePools => answer(call, |()| {
            let num = count(&driver.list(|entry| !entry.shown_active()));
            Ok(ConnectNumOfDefinedStoragePoolsRet { num })
        }),
        P::ConnectListStoragePools => answer(call, |args: ConnectListStoragePoolsArgs| {
            let names = names(driver, true, args.maxnames)?.into();
            Ok(ConnectListStoragePoolsRet { names })
        }),
        P::ConnectListDefinedStoragePools => {
            answer(call, |args: ConnectListDefinedStoragePoolsArgs| {
                let names = names(driver, false, args.maxnames)?.into();
                Ok(ConnectListDefinedStoragePoolsRet { names })
            })
        }
        P::ConnectListAllStoragePools => answer(call, |args| list_all(driver, &args)),
        P::ConnectFindStoragePoolSources => answer(call, |args| find_sources(driver, &args)),
        P::ConnectGetStoragePoolCapabilities => answer(call, capabilities),
        _ => return None,
    })
}

fn names(driver: &Driver, active: bool, maxnames: i32) -> Result<Vec<String>, DriverError> {
    let room = at_most(maxnames, "virConnectListStoragePools")?;
    let pools = driver.list(|entry| entry.shown_active() == active);
    Ok(pools.into_iter().take(room).map(|pool| pool.name).collect())
}

fn list_all(
    driver: &Driver,
    args: &ConnectListAllStoragePoolsArgs,
) -> Result<ConnectListAllStoragePoolsRet, DriverError> {
    let pools = driver.list(|entry| entry.listed().matches(args.flags));
    let ret = total(&pools);
    let pools = if args.need_results != 0 { pools } else { Vec::new() };
    Ok(ConnectListAllStoragePoolsRet { pools: pools.into(), ret })
}

fn find_sources(
    driver: &Driver,
    args: &ConnectFindStoragePoolSourcesArgs,
) -> Result<ConnectFindStoragePoolSourcesRet, DriverError> {
    flags::check(args.flags, 0, "storageConnectFindStoragePoolSources")?;
    // As with the logical pool, there is nothing that a source's description could narrow.
    let groups = driver.backend.find_sources()?;
    Ok(ConnectFindStoragePoolSourcesRet { xml: xml::sources(&groups) })
}

/// Our part of the answer; libvirt judges the flags of the whole.
fn capabilities(
    _: ConnectGetStoragePoolCapabilitiesArgs,
) -> Result<ConnectGetStoragePoolCapabilitiesRet, DriverError> {
    Ok(ConnectGetStoragePoolCapabilitiesRet { capabilities: xml::capabilities() })
}
