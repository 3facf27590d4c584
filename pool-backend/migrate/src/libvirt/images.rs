// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a host has what the disks of a VM are read from. libvirt has no question for a file of a host: it knows the
//! volumes of its pools. So of a file that lies in the directory of a pool it is known whether it is there.

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::sys;

use super::pool_xml;
use crate::domain::Image;

/// Whether it is there, or may be. An error with the number of a volume that is not there says that it is not.
pub(super) fn is_there(connection: &Connect, image: &Image) -> Result<bool, Error> {
    match image {
        Image::Volume { pool, volume } => match connection.lookup_storage_pool_by_name(pool) {
            Err(error) if error.code() == ErrorNumber::NoStoragePool.into() => Ok(false),
            pool => {
                let pool = pool?;
                Ok(pool.is_active()? && pool.lookup_storage_vol_by_name(volume).map(|_| true)?)
            }
        },
        Image::File(path) => {
            let (Some(file), Some(directory)) = (path.to_str(), path.parent()) else {
                return Ok(true);
            };
            let known = || connection.lookup_storage_vol_by_path(file).map(|_| true);
            known().or_else(|error| {
                let none = error.code() == ErrorNumber::NoStorageVolume.into();
                let of = directory.to_str().filter(|_| none);
                let Some(pool) = of.and_then(|of| files_in(connection, of)) else {
                    return Ok(true);
                };
                // It may have come there since libvirt looked at the directory last.
                pool.refresh(0)?;
                known()
            })
        }
    }
}

/// The pool that is started and has the files of that directory.
fn files_in(connection: &Connect, directory: &str) -> Option<StoragePool> {
    let pools =
        connection.list_all_storage_pools(sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE).ok()?;
    pools.into_iter().find(|pool| {
        let xml = pool.xml_desc(0).ok().and_then(|xml| pool_xml::read(&xml).ok());
        xml.and_then(|xml| xml.directory).is_some_and(|of| of == directory)
    })
}

#[cfg(test)]
mod tests {
    use virt::storage_vol::StorageVol;

    use super::super::first_missing;
    use super::*;

    #[test]
    fn a_file_is_missing_only_where_its_directory_is_a_pool() {
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let pool = connection.lookup_storage_pool_by_name("default-pool").unwrap();
        let xml = "<volume><name>a.iso</name><capacity>1048576</capacity></volume>";
        let made = StorageVol::create_xml(&pool, xml, 0).unwrap();
        let path = made.path().unwrap();
        let file = |path: &str| Image::File(path.into());
        let volume = |pool: &str, volume: &str| {
            let (pool, volume) = (pool.to_owned(), volume.to_owned());
            Image::Volume { pool, volume }
        };
        let missing = |image: Image| {
            let none = ErrorNumber::NoStorageVolume;
            first_missing(&[image].into(), none, |image| is_there(&connection, image)).unwrap()
        };
        let beside = path.replace("a.iso", "b.iso");
        assert_eq!(missing(file(&path)), None);
        assert_eq!(missing(file(&beside)), Some(file(&beside)));
        assert_eq!(missing(file("/in/no/pool.iso")), None, "nothing is known of it");
        assert_eq!(missing(volume("default-pool", "a.iso")), None);
        for (pool, name) in [("default-pool", "b.iso"), ("no-pool", "a.iso")] {
            assert_eq!(missing(volume(pool, name)), Some(volume(pool, name)));
        }
        made.delete(0).unwrap();
    }
}
