// SPDX-License-Identifier: LGPL-2.1-or-later
//! Procedures of a pool.

use virtnotify_wire::Procedure as P;
use virtnotify_wire::service::{Call, PoolView};
use virtnotify_wire::storage::{
    StoragePoolBuildArgs, StoragePoolCreateArgs, StoragePoolCreateXmlArgs, StoragePoolCreateXmlRet,
    StoragePoolDefineXmlArgs, StoragePoolDefineXmlRet, StoragePoolDeleteArgs,
    StoragePoolDestroyArgs, StoragePoolGetAutostartArgs, StoragePoolGetAutostartRet,
    StoragePoolGetInfoArgs, StoragePoolGetInfoRet, StoragePoolGetXmlDescArgs,
    StoragePoolGetXmlDescRet, StoragePoolIsActiveArgs, StoragePoolIsActiveRet,
    StoragePoolIsPersistentArgs, StoragePoolIsPersistentRet, StoragePoolListAllVolumesArgs,
    StoragePoolListAllVolumesRet, StoragePoolListVolumesArgs, StoragePoolListVolumesRet,
    StoragePoolLookupByNameArgs, StoragePoolLookupByNameRet, StoragePoolLookupByTargetPathArgs,
    StoragePoolLookupByTargetPathRet, StoragePoolLookupByUuidArgs, StoragePoolLookupByUuidRet,
    StoragePoolLookupByVolumeArgs, StoragePoolLookupByVolumeRet, StoragePoolNumOfVolumesArgs,
    StoragePoolNumOfVolumesRet, StoragePoolRefreshArgs, StoragePoolSetAutostartArgs,
    StoragePoolUndefineArgs,
};

use super::{Answer, answer, at_most, count, total};
use crate::driver::Driver;
use crate::error::DriverError;
use crate::flags;
use crate::xml::PoolType;

/// Answers, if it is such a procedure.
pub(super) fn call(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    lookup(driver, call)
        .or_else(|| change(driver, call))
        .or_else(|| question(driver, call))
        .or_else(|| list(driver, call))
}

fn lookup(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StoragePoolLookupByUuid => answer(call, |args: StoragePoolLookupByUuidArgs| {
            Ok(StoragePoolLookupByUuidRet { pool: driver.by_uuid(args.uuid)? })
        }),
        P::StoragePoolLookupByName => answer(call, |args: StoragePoolLookupByNameArgs| {
            Ok(StoragePoolLookupByNameRet { pool: driver.by_name(&args.name)? })
        }),
        P::StoragePoolLookupByVolume => answer(call, |args: StoragePoolLookupByVolumeArgs| {
            Ok(StoragePoolLookupByVolumeRet { pool: driver.by_volume(&args.vol)? })
        }),
        P::StoragePoolLookupByTargetPath => {
            answer(call, |args: StoragePoolLookupByTargetPathArgs| {
                Ok(StoragePoolLookupByTargetPathRet { pool: driver.by_target(&args.path)? })
            })
        }
        _ => return None,
    })
}

fn change(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StoragePoolDefineXml => answer(call, |args: StoragePoolDefineXmlArgs| {
            flags::check(args.flags, flags::DEFINE_VALIDATE, "storagePoolDefineXML")?;
            let validate = args.flags & flags::DEFINE_VALIDATE != 0;
            Ok(StoragePoolDefineXmlRet { pool: driver.define(&args.xml, validate)? })
        }),
        P::StoragePoolCreateXml => answer(call, |args: StoragePoolCreateXmlArgs| {
            let build = flags::create_mode(args.flags, "storagePoolCreateXML")?;
            Ok(StoragePoolCreateXmlRet { pool: driver.create(&args.xml, build)? })
        }),
        P::StoragePoolCreate => answer(call, |args: StoragePoolCreateArgs| {
            driver.start(&args.pool, flags::create_mode(args.flags, "storagePoolCreate")?)
        }),
        P::StoragePoolBuild => answer(call, |args: StoragePoolBuildArgs| {
            driver.build(&args.pool, flags::build_mode(args.flags)?)
        }),
        P::StoragePoolDestroy => {
            answer(call, |args: StoragePoolDestroyArgs| driver.destroy(&args.pool))
        }
        P::StoragePoolUndefine => {
            answer(call, |args: StoragePoolUndefineArgs| driver.undefine(&args.pool))
        }
        P::StoragePoolDelete => answer(call, |args: StoragePoolDeleteArgs| {
            flags::check(args.flags, 0, "virStoragePoolDelete")?;
            driver.delete(&args.pool)
        }),
        P::StoragePoolRefresh => answer(call, |args: StoragePoolRefreshArgs| {
            flags::check(args.flags, 0, "storagePoolRefresh")?;
            driver.refresh(&args.pool)
        }),
        P::StoragePoolSetAutostart => answer(call, |args: StoragePoolSetAutostartArgs| {
            driver.set_autostart(&args.pool, args.autostart != 0)
        }),
        _ => return None,
    })
}

fn question(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StoragePoolGetInfo => answer(call, |args| info(driver, &args)),
        P::StoragePoolGetXmlDesc => answer(call, |args| xml(driver, &args, call.view)),
        P::StoragePoolGetAutostart => answer(call, |args: StoragePoolGetAutostartArgs| {
            let autostart = driver.look(&args.pool, |entry| Ok(entry.autostart))?.into();
            Ok(StoragePoolGetAutostartRet { autostart })
        }),
        P::StoragePoolIsActive => answer(call, |args: StoragePoolIsActiveArgs| {
            let active = driver.look(&args.pool, |entry| Ok(entry.shown_active()))?.into();
            Ok(StoragePoolIsActiveRet { active })
        }),
        P::StoragePoolIsPersistent => answer(call, |args: StoragePoolIsPersistentArgs| {
            let persistent = driver.look(&args.pool, |entry| Ok(entry.persistent))?.into();
            Ok(StoragePoolIsPersistentRet { persistent })
        }),
        _ => return None,
    })
}

fn list(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StoragePoolNumOfVolumes => answer(call, |args: StoragePoolNumOfVolumesArgs| {
            Ok(StoragePoolNumOfVolumesRet { num: count(&driver.volumes(&args.pool)?) })
        }),
        P::StoragePoolListVolumes => answer(call, |args: StoragePoolListVolumesArgs| {
            let room = at_most(args.maxnames, "virStoragePoolListVolumes")?;
            let volumes = driver.volumes(&args.pool)?;
            let names = volumes.into_iter().take(room).map(|volume| volume.name.to_string());
            Ok(StoragePoolListVolumesRet { names: names.collect::<Vec<_>>().into() })
        }),
        P::StoragePoolListAllVolumes => answer(call, |args| list_all(driver, &args)),
        _ => return None,
    })
}

fn list_all(
    driver: &Driver,
    args: &StoragePoolListAllVolumesArgs,
) -> Result<StoragePoolListAllVolumesRet, DriverError> {
    flags::check(args.flags, 0, "storagePoolListAllVolumes")?;
    let vols: Vec<_> = driver.volumes(&args.pool)?.iter().map(Driver::volume_handle).collect();
    let ret = total(&vols);
    let vols = if args.need_results != 0 { vols } else { Vec::new() };
    Ok(StoragePoolListAllVolumesRet { vols: vols.into(), ret })
}

fn info(
    driver: &Driver,
    args: &StoragePoolGetInfoArgs,
) -> Result<StoragePoolGetInfoRet, DriverError> {
    let (state, sizes) = driver.info(&args.pool)?;
    Ok(StoragePoolGetInfoRet {
        state: state as u8,
        capacity: sizes.capacity.0,
        allocation: sizes.allocation.0,
        available: sizes.available.0,
    })
}

fn xml(
    driver: &Driver,
    args: &StoragePoolGetXmlDescArgs,
    view: PoolView,
) -> Result<StoragePoolGetXmlDescRet, DriverError> {
    flags::check(args.flags, flags::XML_INACTIVE, "storagePoolGetXMLDesc")?;
    let kind = match view {
        PoolView::Own => PoolType::Notify,
        PoolView::Logical => PoolType::Logical,
        PoolView::Zfs => PoolType::Zfs,
    };
    let inactive = args.flags & flags::XML_INACTIVE != 0;
    Ok(StoragePoolGetXmlDescRet { xml: driver.xml(&args.pool, inactive, kind)? })
}
