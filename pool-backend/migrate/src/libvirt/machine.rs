// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whether a host can make the machine of a VM. libvirt asks no more at the end of a migration's preparation, when
//! QEMU is started there: too late for those who have made its disks.

use std::ffi::{CString, c_char};
use std::ptr;

use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use crate::surroundings::Machine;

/// Why that host's QEMU has no such machine, in libvirt's words; nothing where it has, or where that is not known.
pub(super) fn missing(connection: &Connect, machine: &Machine) -> Option<String> {
    let Machine { kind, arch, model, .. } = machine;
    model.as_ref()?;
    let asked =
        connection.domain_capabilities(None, arch.as_deref(), model.as_deref(), kind.as_deref(), 0);
    let refused = asked.err().filter(|e| e.code() == ErrorNumber::InvalidArg.into());
    refused.map(|error| error.message().to_owned())
}

/// Whether QEMU on that host can make the VM's CPU; nothing where libvirt does not know, or before 4.4.
pub(super) fn makes_cpu(connection: &Connect, machine: &Machine) -> Option<bool> {
    let cpu = CString::new(machine.cpu.as_ref()?.as_str()).ok()?;
    let words = [&machine.arch, &machine.model, &machine.kind];
    let words = words.map(|word| word.as_ref().and_then(|word| CString::new(word.as_str()).ok()));
    let [arch, model, kind] = words
        .each_ref()
        .map(|word| word.as_ref().map_or(ptr::null::<c_char>(), |word| word.as_ptr()));
    // SAFETY: the connection is alive, and all texts end with a zero and live until it returns.
    let compared = unsafe {
        sys::virConnectCompareHypervisorCPU(
            connection.as_ptr(),
            ptr::null(),
            arch,
            model,
            kind,
            cpu.as_ptr(),
            0,
        )
    };
    match compared {
        sys::VIR_CPU_COMPARE_INCOMPATIBLE => Some(false),
        sys::VIR_CPU_COMPARE_IDENTICAL | sys::VIR_CPU_COMPARE_SUPERSET => Some(true),
        _ => {
            // It is of no interest, and must not be taken for a later call's.
            drop(Error::last_error());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_does_not_say_refuses_nothing() {
        let _alone = super::super::tests::the_test_driver();
        let connection = Connect::open(Some("test:///default")).unwrap();
        let machine = Machine {
            model: Some("pc-q35-7.2".into()),
            cpu: Some("<cpu><model>Westmere</model></cpu>".into()),
            ..Machine::default()
        };
        assert_eq!(missing(&connection, &machine), None);
        assert_eq!(makes_cpu(&connection, &machine), None);
        assert_eq!(missing(&connection, &Machine::default()), None);
    }
}
