// SPDX-License-Identifier: LGPL-2.1-or-later
//! The daemon must never wait for storage that it serves: not for a page of its own that was
//! swapped out or dropped, and not for memory that the kernel wants to gain by writing to a
//! volume that waits for the daemon.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};

/// Locks all memory that the process has and will get. The program's main function calls this
/// before it starts the engine.
///
/// # Errors
/// When the limit on locked memory (`LimitMEMLOCK` of the unit) is too low.
pub fn lock_memory() -> io::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)?;
    Ok(())
}

/// `PR_SET_IO_FLUSHER` of `<linux/prctl.h>`.
const PR_SET_IO_FLUSHER: nix::libc::c_int = 57;

/// Tells the kernel that this thread serves I/O: when it allocates memory, the kernel must not
/// start I/O to get some.
pub(crate) fn exempt_thread() {
    // SAFETY: prctl with integer arguments; it changes a flag of this thread only.
    let result = unsafe { nix::libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "the kernel does not spare this thread");
    }
}
