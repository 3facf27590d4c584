// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots for clients: words in, words out.

use std::collections::HashMap;

use virtnotify_driver::{DriverError, end_receiving};
use virtnotify_model::{Bytes, NameError, PoolName, VolumeExtent, VolumeName};
use virtnotify_wire::StoragePool;
use zbus::{ObjectPath, OwnedVariant};

use super::error::Error;
use super::rows::SnapshotRow;
use super::{Sources, paths};

/// More volumes than a VM has disks.
const MOST_VOLUMES: usize = 1024;
/// So many extents are told at once: 6 MiB of a message that may have 32.
const MOST_EXTENTS: usize = 1 << 18;

/// Refuses what a newer daemon may know.
pub fn no_options(options: &HashMap<String, OwnedVariant>) -> Result<(), Error> {
    match options.keys().next() {
        None => Ok(()),
        Some(option) => {
            let option = option.escape_debug();
            Err(Error::InvalidArgument(format!("there is no option '{option}'")))
        }
    }
}

fn wrong(error: NameError) -> Error {
    Error::InvalidArgument(error.to_string())
}

/// The names in `POOL/VOLUME`, with or without `/dev/notify/` in front.
pub fn names(text: &str) -> Result<(PoolName, VolumeName), Error> {
    let both = text.strip_prefix("/dev/notify/").unwrap_or(text).split_once('/');
    let (pool, volume) = both.ok_or_else(|| {
        Error::InvalidArgument(format!("'{}' is not POOL/VOLUME", text.escape_debug()))
    })?;
    Ok((pool.parse().map_err(wrong)?, volume.parse().map_err(wrong)?))
}

/// A pool of that name.
fn pool(sources: &Sources, name: &PoolName) -> Result<StoragePool, Error> {
    sources.driver.pool_named(name).ok_or_else(|| super::manager::no_pool(name.as_str()))
}

/// A volume or a snapshot, and its pool.
fn named(sources: &Sources, text: &str) -> Result<(StoragePool, VolumeName), Error> {
    let (pool_name, volume) = names(text)?;
    Ok((pool(sources, &pool_name)?, volume))
}

/// Takes snapshots.
pub fn take(
    sources: &Sources,
    volumes: &[String],
    name: &str,
) -> Result<Vec<ObjectPath<'static>>, Error> {
    if volumes.len() > MOST_VOLUMES {
        return Err(Error::InvalidArgument(format!("more than {MOST_VOLUMES} volumes at once")));
    }
    let name = name.parse().map_err(wrong)?;
    let all = volumes.iter().map(|text| names(text)).collect::<Result<Vec<_>, _>>()?;
    let Some((of, _)) = all.first().cloned() else {
        return Err(Error::InvalidArgument("a snapshot needs a volume".to_owned()));
    };
    if let Some((other, _)) = all.iter().find(|(pool, _)| *pool != of) {
        return Err(Error::InvalidArgument(format!(
            "the pools '{of}' and '{other}' have no moment in common: name volumes of one pool"
        )));
    }
    let volumes: Vec<VolumeName> = all.into_iter().map(|(_, volume)| volume).collect();
    let made = sources.driver.take_snapshot(&pool(sources, &of)?, &volumes, &name)?;
    Ok(made.iter().map(|info| paths::volume(&info.pool, &info.name)).collect())
}

/// Rolls a volume back. What was half received is gone then.
pub fn roll_back(sources: &Sources, snapshot: &str) -> Result<(), Error> {
    let (pool_name, name) = names(snapshot)?;
    let pool = pool(sources, &pool_name)?;
    sources.driver.roll_back(&pool, &name)?;
    let Some((volume, _)) = name.snapshot() else { return Ok(()) };
    let rolled_back = sources.backend.volume(&pool_name, &volume)?;
    let kept = |e| Error::Failed(format!("'{volume}' is rolled back, and its note stays: {e}"));
    end_receiving(&sources.received, rolled_back.uuid).map_err(kept)
}

/// Deletes a snapshot.
pub fn delete(sources: &Sources, snapshot: &str) -> Result<(), Error> {
    let (pool, snapshot) = named(sources, snapshot)?;
    Ok(sources.driver.delete_snapshot(&pool, &snapshot)?)
}

/// The snapshots of a volume, of a pool, or all.
pub fn list(sources: &Sources, of: &str) -> Result<Vec<SnapshotRow>, Error> {
    let found = match of {
        "" => {
            let active = sources.driver.list(|entry| entry.active);
            let names = active.iter().filter_map(|pool| pool.name.parse().ok());
            // One that stops meanwhile has none.
            let all = names.filter_map(|pool: PoolName| sources.driver.snapshots(&pool, None).ok());
            all.flatten().collect()
        }
        _ if of.contains('/') => {
            let (pool_name, volume) = names(of)?;
            pool(sources, &pool_name)?;
            sources.backend.volume(&pool_name, &volume)?;
            sources.driver.snapshots(&pool_name, Some(&volume))?
        }
        _ => {
            let name = of.parse().map_err(wrong)?;
            pool(sources, &name)?;
            sources.driver.snapshots(&name, None)?
        }
    };
    Ok(found.into_iter().map(SnapshotRow::of).collect())
}

/// A part of a volume: offset, length, whether there is data.
pub type ExtentRow = (u64, u64, bool);

/// A volume's size, a page of the difference, and where the next one begins.
pub fn difference(
    sources: &Sources,
    volume: &str,
    base: &str,
    offset: u64,
) -> Result<(u64, Vec<ExtentRow>, u64), Error> {
    let (pool, volume) = named(sources, volume)?;
    let base = match base {
        "" => None,
        base => {
            let (of, base) = names(base)?;
            if of.as_str() != pool.name {
                let text = format!("'{base}' is in another pool: '{of}'");
                return Err(DriverError::Argument(text).into());
            }
            Some(base)
        }
    };
    let (capacity, extents) = sources.driver.difference(&pool, &volume, base.as_ref())?;
    let (page, next) = page(&extents, Bytes(offset), MOST_EXTENTS);
    Ok((capacity.0, page, next))
}

/// The extents from an offset on, `most` at most, and where the next begins, or 0.
fn page(extents: &[VolumeExtent], offset: Bytes, most: usize) -> (Vec<ExtentRow>, u64) {
    let mut rest = extents.iter().skip_while(|extent| extent.offset < offset);
    let row = |extent: &VolumeExtent| (extent.offset.0, extent.length.0, extent.data);
    let page = rest.by_ref().take(most).map(row).collect();
    (page, rest.next().map_or(0, |extent| extent.offset.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_difference_comes_in_pages() {
        let extent = |at| VolumeExtent { offset: Bytes(at), length: Bytes(4), data: at != 8 };
        let all: Vec<VolumeExtent> = [0, 8, 16, 32, 64].map(extent).to_vec();
        assert_eq!(page(&all, Bytes(0), 2), (vec![(0, 4, true), (8, 4, false)], 16));
        assert_eq!(page(&all, Bytes(16), 2), (vec![(16, 4, true), (32, 4, true)], 64));
        assert_eq!(page(&all, Bytes(64), 2), (vec![(64, 4, true)], 0));
        assert_eq!(page(&all, Bytes(65), 2), (vec![], 0));
        assert_eq!(page(&all, Bytes(0), 5).1, 0);
    }

    #[test]
    fn names_are_those_of_volumes() {
        let both = |text| names(text).map(|(p, v)| (p.to_string(), v.to_string())).ok();
        let named = Some(("vms".to_owned(), "a@mon".to_owned()));
        assert_eq!(both("vms/a@mon"), named);
        assert_eq!(both("/dev/notify/vms/a@mon"), named);
        for bad in ["", "vms", "vms/", "/a", "vms/a/b", "vms/a@b@c", "/dev/sda", "vms/../a"] {
            assert_eq!(both(bad), None, "{bad}");
        }
    }
}
