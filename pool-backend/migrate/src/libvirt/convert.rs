// SPDX-License-Identifier: LGPL-2.1-or-later
//! From libvirt's objects to ours.

use std::collections::BTreeSet;
use std::ffi::CStr;

use virt::domain::Domain as VirtDomain;
use virt::error::{Error, ErrorNumber};
use virt::sys;
use virtnotify_model::Bytes;

use super::failure::Failure;
use super::{number, params};
use crate::domain::{Domain, RunState};
use crate::domain_xml::{self, DomainXml};
use crate::hypervisor::{Job, Progress};

/// The VM, or `None` when it went away meanwhile.
pub(super) fn domain(from: &VirtDomain) -> Result<Option<Domain>, Failure> {
    unless_gone(from, read(from).map(Some))
}

/// The VM, if an I/O error paused it.
pub(super) fn stalled(from: &VirtDomain) -> Result<Option<Domain>, Failure> {
    match state(from) {
        Ok((RunState::IoError, _)) => domain(from),
        Ok(_) => Ok(None),
        Err(error) => unless_gone(from, Err(error)),
    }
}

/// What was found out about a VM, or nothing where it went away meanwhile.
fn unless_gone<T>(
    from: &VirtDomain,
    found: Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    found.or_else(|error| confirmed(error, is_there(from)))
}

fn is_there(from: &VirtDomain) -> Result<bool, Failure> {
    let what = "cannot look for the VM";
    let uuid = from.uuid().map_err(|e| Failure::of(what, &e))?;
    let connection = from.connect().map_err(|e| Failure::of(what, &e))?;
    Ok(super::find_domain(&connection, uuid)?.is_some())
}

/// An error about a VM becomes nothing only where libvirt says that there is no such VM: one of which
/// nothing can be known is not one that is gone.
fn confirmed<T>(error: Failure, there: Result<bool, Failure>) -> Result<Option<T>, Failure> {
    if there? { Err(error) } else { Ok(None) }
}

fn read(from: &VirtDomain) -> Result<Domain, Failure> {
    let what = "cannot read the VM";
    let failed = |e: Error| Failure::of(what, &e);
    let xml = from.xml_desc(0).map_err(failed)?;
    let DomainXml { disks, surroundings, wishes } =
        domain_xml::read(&xml).map_err(|e| Failure::refused(what, e))?;
    let (state, Off { ended, forgotten }) = state(from)?;
    let persistent = from.is_persistent().map_err(failed)?;
    let no_space = if state == RunState::IoError { no_space(from)? } else { BTreeSet::new() };
    Ok(Domain {
        name: from.name().map_err(failed)?,
        uuid: from.uuid().map_err(failed)?,
        state,
        ended,
        forgotten,
        persistent,
        autostart: persistent && from.autostart().map_err(failed)?,
        disks,
        no_space,
        surroundings,
        // Not the most that it may have: what its balloon holds is neither copied nor needed.
        memory: Bytes(from.info().map_err(failed)?.memory.saturating_mul(1024)),
        wishes,
    })
}

/// Why a VM is off; nothing of that holds for one that is active.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Off {
    pub ended: bool,
    pub forgotten: bool,
}

/// How it is doing, and why it is off.
fn state(domain: &VirtDomain) -> Result<(RunState, Off), Failure> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain is alive as long as its wrapper, and both numbers are ours.
    let result = unsafe { sys::virDomainGetState(domain.as_ptr(), &mut state, &mut reason, 0) };
    if result < 0 {
        return Err(Failure::of("cannot read the VM's state", &Error::last_error()));
    }
    let (state, reason) = (number(state), number(reason));
    Ok((run_state(state, reason), why_off(state, reason)))
}

pub(crate) fn run_state(state: u32, reason: u32) -> RunState {
    match (state, reason) {
        (sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_NOSTATE, _) => RunState::Off,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_IOERROR) => RunState::IoError,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION) => RunState::Arriving,
        // So is what arrived paused (`qemuMigrationDstComplete`), and what a person paused: it need not have run.
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_USER)
        | (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_UNKNOWN)
        | (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_STARTING_UP) => RunState::Paused,
        (sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED, _) => RunState::Halted,
        // Running, blocked, shutting down, crashed and kept: its QEMU is there and has the disks.
        _ => RunState::Running,
    }
}

/// Whether a VM that is off ended on this host. One that went to another host did not. Of one that ended before this
/// libvirt was started the reason is not known; nor of one whose start failed (`qemuProcessStart`), since that is the reason
/// then, whatever was there before.
pub(crate) fn why_off(state: u32, reason: u32) -> Off {
    let off = state == sys::VIR_DOMAIN_SHUTOFF;
    let forgotten = [sys::VIR_DOMAIN_SHUTOFF_UNKNOWN, sys::VIR_DOMAIN_SHUTOFF_FAILED];
    let forgotten = off && forgotten.contains(&reason);
    Off { ended: off && !forgotten && reason != sys::VIR_DOMAIN_SHUTOFF_MIGRATED, forgotten }
}

/// Targets of the disks that reported "no space".
fn no_space(domain: &VirtDomain) -> Result<BTreeSet<String>, Failure> {
    /// The most that the protocol lets a client ask for
    /// (`REMOTE_DOMAIN_DISK_ERRORS_MAX` in libvirt's `remote_protocol.x`).
    const MOST: u32 = 256;
    let empty = sys::virDomainDiskError { disk: std::ptr::null_mut(), error: 0 };
    let mut errors = [empty; MOST as usize];
    // SAFETY: the domain is alive, and the array has the length that is said.
    let found =
        unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), MOST, 0) };
    let Ok(found) = usize::try_from(found) else {
        let error = Error::last_error();
        return Err(Failure::of("cannot read the errors of the VM's disks", &error));
    };
    let mut targets = BTreeSet::new();
    for error in errors.iter().take(found) {
        // SAFETY: libvirt filled this entry with a string that is ours to free.
        let name = unsafe { CStr::from_ptr(error.disk) }.to_string_lossy().into_owned();
        // SAFETY: as libvirt says: the caller frees it, once, with free().
        unsafe { libc::free(error.disk.cast()) };
        if number(error.error) == sys::VIR_DOMAIN_DISK_ERROR_NO_SPACE {
            targets.insert(name);
        }
    }
    Ok(targets)
}

/// What libvirt is at for the VM.
pub(super) fn job(domain: &VirtDomain) -> Result<Job, Failure> {
    match params::job(domain) {
        Ok((kind, about)) => {
            let bytes = |name| Bytes(about.number(name).unwrap_or(0));
            // Memory is copied when the disks are, and then they stay as they are.
            let disks = bytes(sys::VIR_DOMAIN_JOB_DISK_TOTAL) > Bytes::ZERO
                && bytes(sys::VIR_DOMAIN_JOB_MEMORY_TOTAL) == Bytes::ZERO;
            let progress = Progress {
                done: bytes(sys::VIR_DOMAIN_JOB_DATA_PROCESSED),
                total: bytes(sys::VIR_DOMAIN_JOB_DATA_TOTAL),
                disks_left: disks.then(|| bytes(sys::VIR_DOMAIN_JOB_DISK_REMAINING)),
            };
            Ok(job_of(kind, about.int(sys::VIR_DOMAIN_JOB_OPERATION).map(number), progress))
        }
        // So libvirt refuses the question about a VM that is not active.
        Err(error) if error.code() == ErrorNumber::OperationInvalid.into() => Ok(Job::None),
        Err(error) => {
            let failed = Failure::of("cannot ask what libvirt is at for the VM", &error);
            Ok(unless_gone(domain, Err(failed))?.unwrap_or(Job::None))
        }
    }
}

/// A job of which libvirt does not say what it is may be a migration.
fn job_of(kind: u32, operation: Option<u32>, progress: Progress) -> Job {
    let moves = operation.is_none_or(|of| of == sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT);
    match kind {
        sys::VIR_DOMAIN_JOB_NONE => Job::None,
        _ if !moves => Job::Other,
        sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED => Job::Moving(progress),
        kind => Job::Ending { cancelled: kind == sys::VIR_DOMAIN_JOB_CANCELLED },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virt::connect::Connect;

    #[test]
    fn states_are_told_apart() {
        let paused = |reason| run_state(sys::VIR_DOMAIN_PAUSED, reason);
        assert_eq!(paused(sys::VIR_DOMAIN_PAUSED_IOERROR), RunState::IoError);
        assert_eq!(paused(sys::VIR_DOMAIN_PAUSED_MIGRATION), RunState::Arriving);
        for reason in [
            sys::VIR_DOMAIN_PAUSED_USER,
            sys::VIR_DOMAIN_PAUSED_UNKNOWN,
            sys::VIR_DOMAIN_PAUSED_STARTING_UP,
        ] {
            assert_eq!(paused(reason), RunState::Paused);
        }
        for reason in [
            sys::VIR_DOMAIN_PAUSED_WATCHDOG,
            sys::VIR_DOMAIN_PAUSED_CRASHED,
            sys::VIR_DOMAIN_PAUSED_SNAPSHOT,
            sys::VIR_DOMAIN_PAUSED_SAVE,
            // One that a later libvirt has.
            99,
        ] {
            assert_eq!(paused(reason), RunState::Halted);
        }
        let asleep = run_state(sys::VIR_DOMAIN_PMSUSPENDED, sys::VIR_DOMAIN_PMSUSPENDED_UNKNOWN);
        assert_eq!(asleep, RunState::Halted, "its guest sleeps: it ran");
        assert_eq!(run_state(sys::VIR_DOMAIN_CRASHED, 0), RunState::Running);
        assert_eq!(run_state(sys::VIR_DOMAIN_SHUTOFF, 2), RunState::Off);
        let off = |reason| {
            let Off { ended, forgotten } = why_off(sys::VIR_DOMAIN_SHUTOFF, reason);
            (ended, forgotten)
        };
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN), (true, false));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_DESTROYED), (true, false));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_MIGRATED), (false, false));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_UNKNOWN), (false, true));
        assert_eq!(off(sys::VIR_DOMAIN_SHUTOFF_FAILED), (false, true), "a start that failed");
        let active = why_off(sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_SHUTOFF_DESTROYED);
        assert_eq!(active, Off { ended: false, forgotten: false });
    }

    #[test]
    fn jobs_are_told_apart() {
        let progress = Progress { done: Bytes(1), total: Bytes(2), disks_left: None };
        let out = sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT;
        let of = |kind| job_of(kind, Some(out), progress);
        assert_eq!(of(sys::VIR_DOMAIN_JOB_NONE), Job::None);
        assert_eq!(of(sys::VIR_DOMAIN_JOB_UNBOUNDED), Job::Moving(progress));
        assert_eq!(of(sys::VIR_DOMAIN_JOB_CANCELLED), Job::Ending { cancelled: true });
        assert_eq!(of(sys::VIR_DOMAIN_JOB_FAILED), Job::Ending { cancelled: false });
        let unbounded = |operation| job_of(sys::VIR_DOMAIN_JOB_UNBOUNDED, operation, progress);
        assert_eq!(unbounded(None), Job::Moving(progress));
        for other in [
            sys::VIR_DOMAIN_JOB_OPERATION_BACKUP,
            sys::VIR_DOMAIN_JOB_OPERATION_SAVE,
            sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN,
        ] {
            assert_eq!(unbounded(Some(other)), Job::Other);
        }
    }

    #[test]
    fn a_vm_of_which_nothing_is_known_is_not_one_that_is_gone() {
        let error = Failure::refused("a", "b");
        let broken = Failure::Broken("c".into());
        assert_eq!(confirmed::<()>(error.clone(), Ok(false)), Ok(None));
        assert_eq!(confirmed::<()>(error.clone(), Ok(true)), Err(error.clone()));
        assert_eq!(confirmed::<()>(error, Err(broken.clone())), Err(broken));
    }

    #[test]
    fn a_domain_of_libvirt_s_test_driver_is_read() {
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let test = connection.lookup_domain_by_name("test").unwrap();
        let read = domain(&test).unwrap().unwrap();
        assert_eq!((read.name.as_str(), read.state), ("test", RunState::Running));
        assert!(read.persistent && read.no_space.is_empty());
        // It may have 8 GiB.
        assert_eq!(read.memory, Bytes::mib(2048));
        assert_eq!(stalled(&test), Ok(None));
        test.destroy().unwrap();
        assert_eq!(domain(&test).unwrap().unwrap().state, RunState::Off);
        // This driver knows no jobs; that it cannot say is not that there is none.
        assert!(job(&test).is_err());
        test.create().unwrap();
    }
}
