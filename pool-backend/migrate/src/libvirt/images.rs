// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a host has what the disks of a VM are read from. libvirt has no question for a file of a host. It knows the volumes
//! of its pools as they were when it looked at them last; it is not told to look again, since it stops a pool of which that fails.

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};

use crate::domain::Image;

/// Whether it is there. An error with the number of a volume that is not there says that it is not: libvirt there, as it
/// takes the VM, would find none either.
pub(super) fn is_there(connection: &Connect, image: &Image) -> Result<bool, Error> {
    match connection.lookup_storage_pool_by_name(&image.pool) {
        Err(error) if error.code() == ErrorNumber::NoStoragePool.into() => Ok(false),
        pool => {
            let pool = pool?;
            Ok(pool.is_active()? && pool.lookup_storage_vol_by_name(&image.volume).map(|_| true)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use virt::storage_vol::StorageVol;

    use super::super::first_missing;
    use super::*;

    #[test]
    fn a_volume_is_missing_only_where_libvirt_says_so() {
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let pool = connection.lookup_storage_pool_by_name("default-pool").unwrap();
        let xml = "<volume><name>a.iso</name><capacity>1048576</capacity></volume>";
        let made = StorageVol::create_xml(&pool, xml, 0).unwrap();
        let volume = |pool: &str, volume: &str| {
            let (pool, volume) = (pool.to_owned(), volume.to_owned());
            Image { pool, volume }
        };
        let missing = |image: Image| {
            let none = ErrorNumber::NoStorageVolume;
            first_missing(&[image].into(), none, |image| is_there(&connection, image)).unwrap()
        };
        assert_eq!(missing(volume("default-pool", "a.iso")), None);
        for (pool, name) in [("default-pool", "b.iso"), ("no-pool", "a.iso")] {
            assert_eq!(missing(volume(pool, name)), Some(volume(pool, name)));
        }
        made.delete(0).unwrap();
    }
}
