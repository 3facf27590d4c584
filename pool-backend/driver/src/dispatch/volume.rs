// SPDX-License-Identifier: LGPL-2.1-or-later
//! Procedures of a volume.

use virtnotify_model::Bytes;
use virtnotify_wire::Procedure as P;
use virtnotify_wire::service::Call;
use virtnotify_wire::storage::{
    StorageVolCreateXmlArgs, StorageVolCreateXmlFromArgs, StorageVolCreateXmlFromRet,
    StorageVolCreateXmlRet, StorageVolDeleteArgs, StorageVolDownloadArgs, StorageVolGetInfoArgs,
    StorageVolGetInfoFlagsArgs, StorageVolGetInfoFlagsRet, StorageVolGetInfoRet,
    StorageVolGetPathArgs, StorageVolGetPathRet, StorageVolGetXmlDescArgs, StorageVolGetXmlDescRet,
    StorageVolLookupByKeyArgs, StorageVolLookupByKeyRet, StorageVolLookupByNameArgs,
    StorageVolLookupByNameRet, StorageVolLookupByPathArgs, StorageVolLookupByPathRet,
    StorageVolResizeArgs, StorageVolUploadArgs, StorageVolWipeArgs, StorageVolWipePatternArgs,
};
use virtnotify_wire::{StorageVol, decode};

use super::{Answer, answer};
use crate::clones::check_flags;
use crate::driver::Driver;
use crate::error::DriverError;
use crate::flags;
use crate::ground::Ground;
use crate::streams::{Reader, Writer};

/// `VIR_STORAGE_VOL_BLOCK`.
const BLOCK: i8 = 1;

/// Answers, if it is such a procedure.
pub(super) fn call(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    lookup(driver, call).or_else(|| question(driver, call)).or_else(|| change(driver, call))
}

fn lookup(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StorageVolLookupByName => answer(call, |args: StorageVolLookupByNameArgs| {
            let volume = driver.volume(&args.pool, &args.name)?;
            Ok(StorageVolLookupByNameRet { vol: Driver::volume_handle(&volume) })
        }),
        P::StorageVolLookupByKey => answer(call, |args: StorageVolLookupByKeyArgs| {
            let volume = driver.volume_by_key(&args.key)?;
            Ok(StorageVolLookupByKeyRet { vol: Driver::volume_handle(&volume) })
        }),
        P::StorageVolLookupByPath => answer(call, |args: StorageVolLookupByPathArgs| {
            let volume = driver.volume_by_path(&args.path)?;
            Ok(StorageVolLookupByPathRet { vol: Driver::volume_handle(&volume) })
        }),
        _ => return None,
    })
}

fn question(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StorageVolGetInfo => answer(call, |args: StorageVolGetInfoArgs| {
            let (capacity, allocation) = sizes(driver, &args.vol)?;
            Ok(StorageVolGetInfoRet { r#type: BLOCK, capacity, allocation })
        }),
        P::StorageVolGetInfoFlags => answer(call, |args: StorageVolGetInfoFlagsArgs| {
            // With the flag it is the physical size, which is what the volume holds as well.
            flags::check(args.flags, flags::VOL_PHYSICAL, "storageVolGetInfoFlags")?;
            let (capacity, allocation) = sizes(driver, &args.vol)?;
            Ok(StorageVolGetInfoFlagsRet { r#type: BLOCK, capacity, allocation })
        }),
        P::StorageVolGetXmlDesc => answer(call, |args: StorageVolGetXmlDescArgs| {
            flags::check(args.flags, 0, "storageVolGetXMLDesc")?;
            Ok(StorageVolGetXmlDescRet { xml: driver.volume_xml(&args.vol)? })
        }),
        P::StorageVolGetPath => answer(call, |args: StorageVolGetPathArgs| {
            let (_, volume) = driver.known(&args.vol)?;
            Ok(StorageVolGetPathRet { name: volume.path.display().to_string() })
        }),
        _ => return None,
    })
}

fn change(driver: &Driver, call: &Call<'_>) -> Option<Answer> {
    Some(match call.procedure {
        P::StorageVolCreateXml => answer(call, |args: StorageVolCreateXmlArgs| {
            let known = flags::VOL_PREALLOC_METADATA | flags::VOL_VALIDATE;
            flags::check(args.flags, known, "storageVolCreateXML")?;
            let validate = args.flags & flags::VOL_VALIDATE != 0;
            let volume = driver.create_volume(&args.pool, &args.xml, validate)?;
            Ok(StorageVolCreateXmlRet { vol: Driver::volume_handle(&volume) })
        }),
        P::StorageVolDelete => answer(call, |args: StorageVolDeleteArgs| {
            flags::check(args.flags, flags::DELETE_WITH_SNAPSHOTS, "virStorageVolDelete")?;
            driver.delete_volume(&args.vol, args.flags & flags::DELETE_WITH_SNAPSHOTS != 0)
        }),
        P::StorageVolResize => answer(call, |args| resize(driver, &args)),
        P::StorageVolWipe => answer(call, |args: StorageVolWipeArgs| {
            flags::check(args.flags, 0, "storageVolWipePattern")?;
            driver.wipe_volume(&args.vol, 0)
        }),
        P::StorageVolWipePattern => answer(call, |args: StorageVolWipePatternArgs| {
            flags::check(args.flags, 0, "storageVolWipePattern")?;
            driver.wipe_volume(&args.vol, args.algorithm)
        }),
        P::StorageVolCreateXmlFrom => answer(call, |args| clone(driver, &args)),
        _ => return None,
    })
}

fn clone(
    driver: &Driver,
    args: &StorageVolCreateXmlFromArgs,
) -> Result<StorageVolCreateXmlFromRet, DriverError> {
    let validate = check_flags(args)?;
    let volume = driver.clone_volume(&args.pool, &args.xml, &args.clonevol, validate)?;
    Ok(StorageVolCreateXmlFromRet { vol: Driver::volume_handle(&volume) })
}

fn sizes(driver: &Driver, volume: &StorageVol) -> Result<(u64, u64), DriverError> {
    let (_, volume) = driver.known(volume)?;
    Ok((volume.capacity.0, volume.allocation.0))
}

fn resize(driver: &Driver, args: &StorageVolResizeArgs) -> Result<(), DriverError> {
    let known = flags::RESIZE_ALLOCATE | flags::RESIZE_DELTA | flags::RESIZE_SHRINK;
    flags::check(args.flags, known, "storageVolResize")?;
    if args.capacity == 0 && args.flags & (flags::RESIZE_DELTA | flags::RESIZE_SHRINK) == 0 {
        let text = "capacity in virStorageVolResize cannot be zero without 'delta' or 'shrink' \
                    flags set";
        return Err(DriverError::Argument(text.to_owned()));
    }
    driver.resize_volume(&args.vol, Bytes(args.capacity), args.flags)
}

/// Starts reading a volume.
pub(super) fn download(driver: &Driver, args: &[u8]) -> Result<Reader, DriverError> {
    let args: StorageVolDownloadArgs = decode(args)?;
    flags::check(args.flags, flags::SPARSE_STREAM, "storageVolDownload")?;
    let (_, volume) = driver.known(&args.vol)?;
    let sparse = args.flags & flags::SPARSE_STREAM != 0;
    Reader::open(&volume.path, args.offset, args.length, sparse)
}

/// Starts writing a volume.
pub(super) fn upload(driver: &Driver, args: &[u8]) -> Result<Writer, DriverError> {
    let args: StorageVolUploadArgs = decode(args)?;
    flags::check(args.flags, flags::SPARSE_STREAM, "storageVolUpload")?;
    let (volume, done) = driver.writable(&args.vol)?;
    let ground = Ground::of(driver.backend.clone(), &volume)?;
    Writer::open(&volume.path, args.offset, args.length, ground, done)
}
