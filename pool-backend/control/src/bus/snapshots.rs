// SPDX-License-Identifier: LGPL-2.1-or-later
//! Snapshots for clients: words in, words out.

use virtnotify_model::{
    Bytes, NameError, PoolName, Storage, VolumeExtent, VolumeName, snapshots_among,
};
use zbus::ObjectPath;

use super::error::Error;
use super::rows::SnapshotRow;
use super::{Sources, paths};

/// More volumes than a VM has disks.
const MOST_VOLUMES: usize = 1024;
/// So many extents are told at once: 6 MiB of a message that may have 32.
const MOST_EXTENTS: usize = 1 << 18;

fn wrong(error: NameError) -> Error {
    Error::InvalidArgument(error.to_string())
}

/// The names in `POOL/VOLUME`, with or without `/dev/notify/` in front.
pub fn names(text: &str) -> Result<(PoolName, VolumeName), Error> {
    let both = VolumeName::in_path(text).ok_or_else(|| {
        Error::InvalidArgument(format!("'{}' is not POOL/VOLUME", text.escape_debug()))
    })?;
    both.map_err(wrong)
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
    let made = sources.storage.take_snapshot(&of, &volumes, &name)?;
    Ok(made.iter().map(|info| paths::volume(&info.pool, &info.name)).collect())
}

/// Rolls a volume back.
pub fn roll_back(sources: &Sources, snapshot: &str) -> Result<(), Error> {
    let (pool, snapshot) = names(snapshot)?;
    Ok(sources.storage.roll_back(&pool, &snapshot)?)
}

/// Deletes a snapshot.
pub fn delete(sources: &Sources, snapshot: &str) -> Result<(), Error> {
    let (pool, snapshot) = names(snapshot)?;
    Ok(sources.storage.delete_snapshot(&pool, &snapshot)?)
}

/// The snapshots of a volume, of a pool, or all; those of each pool by age.
pub fn list(sources: &Sources, of: &str) -> Result<Vec<SnapshotRow>, Error> {
    let storage = sources.storage.as_ref();
    let found = match of {
        "" => {
            let active = storage.pools().into_iter().filter(|pool| pool.info.is_some());
            // One that stops meanwhile has none.
            let all = active.map(|pool| storage.volumes(&pool.name).unwrap_or_default());
            all.flat_map(|volumes| snapshots_among(volumes, None)).collect()
        }
        _ if of.contains('/') => {
            let (pool, volume) = names(of)?;
            known(storage, &pool)?;
            storage.volume(&pool, &volume)?;
            snapshots_among(storage.volumes(&pool)?, Some(&volume))
        }
        _ => {
            let pool = of.parse().map_err(wrong)?;
            known(storage, &pool)?;
            snapshots_among(storage.volumes(&pool)?, None)
        }
    };
    Ok(found.into_iter().map(SnapshotRow::of).collect())
}

fn known(storage: &dyn Storage, pool: &PoolName) -> Result<(), Error> {
    storage.pool(pool).map(drop).ok_or_else(|| super::manager::no_pool(pool.as_str()))
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
    let (pool, volume) = names(volume)?;
    let base = match base {
        "" => None,
        base => {
            let (of, base) = names(base)?;
            if of != pool {
                let text = format!("'{base}' is in another pool: '{of}'");
                return Err(Error::InvalidArgument(text));
            }
            Some(base)
        }
    };
    let (capacity, extents) = sources.storage.difference(&pool, &volume, base.as_ref())?;
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
