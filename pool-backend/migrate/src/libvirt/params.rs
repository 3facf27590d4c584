// SPDX-License-Identifier: LGPL-2.1-or-later
//! The calls that `virt` does not wrap, or not fully: a migration with parameters that are newer
//! than it, and its end.

use std::ffi::{CStr, CString};
use std::ptr;

use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::failure::Failure;
use crate::hypervisor::HvError;

/// What is tried while they are added, as a clause.
const WHAT: &str = "cannot describe the migration";

/// Typed parameters, owned by libvirt's own functions.
pub(super) struct Params {
    list: sys::virTypedParameterPtr,
    used: i32,
    room: i32,
}

impl Default for Params {
    fn default() -> Self {
        Self { list: ptr::null_mut(), used: 0, room: 0 }
    }
}

impl Params {
    /// Adds one string; a list is a name that comes more than once.
    pub(super) fn add(&mut self, name: &CStr, value: &str) -> Result<(), Failure> {
        let value = CString::new(value).map_err(|e| Failure::refused(WHAT, e))?;
        // SAFETY: the three belong together; libvirt copies both strings.
        self.with(|list, used, room| unsafe {
            sys::virTypedParamsAddString(list, used, room, name.as_ptr(), value.as_ptr())
        })
    }

    /// Adds one small number.
    pub(super) fn add_int(&mut self, name: &CStr, value: i32) -> Result<(), Failure> {
        // SAFETY: the three belong together; libvirt copies the name.
        self.with(|list, used, room| unsafe {
            sys::virTypedParamsAddInt(list, used, room, name.as_ptr(), value)
        })
    }

    /// Adds one number.
    pub(super) fn add_number(&mut self, name: &CStr, value: u64) -> Result<(), Failure> {
        // SAFETY: as above.
        self.with(|list, used, room| unsafe {
            sys::virTypedParamsAddULLong(list, used, room, name.as_ptr(), value)
        })
    }

    /// Has libvirt add something; only it changes the three fields.
    fn with(
        &mut self,
        add: impl FnOnce(&mut sys::virTypedParameterPtr, &mut i32, &mut i32) -> i32,
    ) -> Result<(), Failure> {
        match add(&mut self.list, &mut self.used, &mut self.room) {
            result if result < 0 => Err(Failure::of(WHAT, &Error::last_error())),
            _ => Ok(()),
        }
    }

    /// One string; of a list the first.
    #[cfg(test)]
    pub(super) fn text(&self, name: &CStr) -> Option<String> {
        let mut value = ptr::null();
        // SAFETY: the list has as many entries as is said, and both others are ours.
        let found = unsafe {
            sys::virTypedParamsGetString(self.list, self.used, name.as_ptr(), &mut value)
        };
        // SAFETY: libvirt's string ends with a zero, and lives as long as the list.
        (found > 0).then(|| unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
    }

    /// One number of what libvirt filled in.
    pub(super) fn number(&self, name: &CStr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the list has as many entries as is said, and both others are ours.
        let found = unsafe {
            sys::virTypedParamsGetULLong(self.list, self.used, name.as_ptr(), &mut value)
        };
        (found > 0).then_some(value)
    }

    /// One signed number of what libvirt filled in.
    pub(super) fn int(&self, name: &CStr) -> Option<i32> {
        let mut value = 0;
        // SAFETY: as above.
        let found =
            unsafe { sys::virTypedParamsGetInt(self.list, self.used, name.as_ptr(), &mut value) };
        (found > 0).then_some(value)
    }

    /// Migrates the VM to the host of that URI; returns when it is over.
    pub(super) fn migrate(&self, domain: &Domain, uri: &str, flags: u32) -> Result<(), Failure> {
        let what = "libvirt could not migrate it";
        let uri = CString::new(uri).map_err(|e| Failure::refused(what, e))?;
        // SAFETY: the domain is alive, and the list has as many entries as is said.
        let result = unsafe {
            sys::virDomainMigrateToURI3(
                domain.as_ptr(),
                uri.as_ptr(),
                self.list,
                super::number(self.used),
                flags,
            )
        };
        if result >= 0 {
            return Ok(());
        }
        let error = Error::last_error();
        let aborted = error.code() == ErrorNumber::OperationAborted.into();
        // It is about both hosts: a connection that broke between them leaves this one within reach.
        let failed = || Failure::refused(what, error.message());
        Err(if aborted { Failure::Answer(HvError::Cancelled) } else { failed() })
    }
}

/// The kind of job that libvirt is at for the VM, and what it says of it.
pub(super) fn job(domain: &Domain) -> Result<(u32, Params), Error> {
    let (mut kind, mut about) = (0, Params::default());
    // SAFETY: the domain is alive; libvirt makes the list, which `Params` frees.
    let result = unsafe {
        sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut about.list, &mut about.used, 0)
    };
    if result < 0 { Err(Error::last_error()) } else { Ok((super::number(kind), about)) }
}

/// Ends the job that libvirt is at for the VM.
pub(super) fn abort(domain: &Domain) -> Result<(), Failure> {
    // SAFETY: the domain is alive.
    let result = unsafe { sys::virDomainAbortJob(domain.as_ptr()) };
    let failed = || Failure::of("cannot cancel the migration", &Error::last_error());
    if result < 0 { Err(failed()) } else { Ok(()) }
}

impl Drop for Params {
    fn drop(&mut self) {
        // SAFETY: both belong together, and are not used after this.
        unsafe { sys::virTypedParamsFree(self.list, self.used) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_accepted() {
        let mut params = Params::default();
        for disk in ["vda", "vdb"] {
            params.add(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, disk).unwrap();
        }
        params.add_number(sys::VIR_MIGRATE_PARAM_BANDWIDTH, 5).unwrap();
        assert_eq!(params.used, 3);
        assert_eq!(params.number(sys::VIR_MIGRATE_PARAM_BANDWIDTH), Some(5));
        assert_eq!(params.number(sys::VIR_DOMAIN_JOB_DATA_TOTAL), None);
        assert_eq!(params.int(sys::VIR_DOMAIN_JOB_OPERATION), None);
        assert!(params.add(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, "a\0b").is_err());
    }
}
