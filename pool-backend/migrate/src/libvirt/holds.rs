// SPDX-License-Identifier: LGPL-2.1-or-later
//! What libvirt has of a VM that its XML does not tell, and that does not go with it.

use std::ffi::CString;
use std::ptr;

use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::failure::Failure;
use super::number;
use crate::hypervisor::Holds;

/// Asks for it. Of the VM's disks, by target, only an active VM has jobs.
pub(super) fn of(domain: &Domain, targets: &[String]) -> Result<Holds, Failure> {
    let snapshots = domain.num_snapshots(0);
    let what = "cannot count libvirt's snapshots of the VM";
    Ok(Holds {
        snapshots: snapshots.or_else(none_known).map_err(|e| Failure::of(what, &e))?,
        checkpoints: checkpoints(domain)?,
        job_of: disk_with_a_job(domain, targets)?,
    })
}

/// A driver that knows nothing of the kind has none.
fn none_known(error: Error) -> Result<u32, Error> {
    if error.code() == ErrorNumber::NoSupport.into() { Ok(0) } else { Err(error) }
}

fn checkpoints(domain: &Domain) -> Result<u32, Failure> {
    // SAFETY: the domain is alive; without a list libvirt only counts them.
    let count = unsafe { sys::virDomainListAllCheckpoints(domain.as_ptr(), ptr::null_mut(), 0) };
    let counted = if count < 0 { none_known(Error::last_error()) } else { Ok(number(count)) };
    counted.map_err(|e| Failure::of("cannot count libvirt's checkpoints of the VM", &e))
}

fn disk_with_a_job(domain: &Domain, targets: &[String]) -> Result<Option<String>, Failure> {
    for target in targets {
        if has_job(domain, target)? {
            return Ok(Some(target.clone()));
        }
    }
    Ok(None)
}

fn has_job(domain: &Domain, target: &str) -> Result<bool, Failure> {
    let what = "cannot ask for jobs of the VM's disks";
    let disk = CString::new(target).map_err(|e| Failure::refused(what, e))?;
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: the domain is alive, the name ends with a zero, and what is filled in is ours.
    let found =
        unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) };
    if found >= 0 {
        return Ok(found > 0);
    }
    let error = Error::last_error();
    // So libvirt refuses the question about a VM that is not active.
    let none = [ErrorNumber::OperationInvalid, ErrorNumber::NoSupport];
    match none.iter().any(|code| error.code() == (*code).into()) {
        true => Ok(false),
        false => Err(Failure::of(what, &error)),
    }
}

#[cfg(test)]
mod tests {
    use virt::connect::Connect;

    use super::*;

    #[test]
    fn a_vm_of_libvirt_s_test_driver_holds_nothing_back() {
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let test = connection.lookup_domain_by_name("test").unwrap();
        assert_eq!(of(&test, &["vda".to_owned()]), Ok(Holds::default()));
    }
}
