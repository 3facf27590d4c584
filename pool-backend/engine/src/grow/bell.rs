// SPDX-License-Identifier: LGPL-2.1-or-later
//! The file descriptors that the grow thread sleeps on: the target's signal, and an eventfd for the
//! rest of the daemon.
//!
//! The signal goes to one thread, by its id, and is read from a signalfd there. So every thread
//! of the process has it blocked: [`block_signals`] is called before the first one starts.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};

use crate::runtime;

/// The real-time signal, counted from `SIGRTMIN`.
const OFFSET: i32 = 5;

/// The number of the signal that the target sends.
pub(crate) fn signal_number() -> i32 {
    nix::libc::SIGRTMIN() + OFFSET
}

fn signal_set() -> io::Result<SigSet> {
    let mut raw = std::mem::MaybeUninit::<nix::libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, and sigaddset changes that set;
    // both get a valid pointer, and the number is one of libc's own real-time signals. nix has no
    // real-time signals in its `Signal`.
    unsafe {
        if nix::libc::sigemptyset(raw.as_mut_ptr()) != 0
            || nix::libc::sigaddset(raw.as_mut_ptr(), signal_number()) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(SigSet::from_sigset_t_unchecked(raw.assume_init()))
    }
}

/// Blocks the target's signal in this thread and in all that it starts. The program's main
/// function calls this before it starts any thread.
///
/// # Errors
/// When the kernel refuses, which it does not.
pub fn block_signals() -> io::Result<()> {
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signal_set()?), None)?;
    Ok(())
}

/// Rings the grow thread from elsewhere in the daemon.
#[derive(Debug)]
pub(crate) struct Doorbell(EventFd);

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Wakes the thread that sleeps on it, or keeps it from sleeping.
    pub(crate) fn ring(&self) {
        // Fails only when the counter is full; then the thread is awake anyway.
        let _ = self.0.write(1);
        runtime::made_readable();
    }
}

/// What woke the grow thread.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken {
    /// Minors of devices that rang. A hint: a bell may be lost, doubled or late.
    pub(crate) minors: Vec<u32>,
}

/// The grow thread's ear. It belongs to the thread that made it.
pub(crate) struct Ear {
    signals: SignalFd,
}

impl Ear {
    /// Made in the thread that gets the signals.
    pub(crate) fn new() -> io::Result<Self> {
        let set = signal_set()?;
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { signals: SignalFd::with_flags(&set, flags)? })
    }

    /// Sleeps until something rings or the time is over.
    pub(crate) fn listen(&mut self, doorbell: &Doorbell, limit: Duration) -> io::Result<Woken> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(doorbell.0.as_fd(), PollFlags::IN),
        ];
        runtime::wait_readable(&mut fds, limit)?;
        let _ = doorbell.0.read();
        let mut woken = Woken::default();
        while let Some(info) = self.signals.read_signal()? {
            // A process that may signal this one can send any number: it is only a hint.
            woken.minors.extend(u32::try_from(info.ssi_int));
        }
        woken.minors.sort_unstable();
        woken.minors.dedup();
        Ok(woken)
    }
}

/// The id of this thread, for the target.
pub(crate) fn thread_id() -> i32 {
    nix::unistd::gettid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doorbell_wakes_and_is_quiet_again() {
        let (doorbell, mut ear) = (Doorbell::new().unwrap(), Ear::new().unwrap());
        doorbell.ring();
        doorbell.ring();
        let long = Duration::from_secs(60);
        assert_eq!(ear.listen(&doorbell, long).unwrap(), Woken::default());
        assert_eq!(ear.listen(&doorbell, Duration::ZERO).unwrap(), Woken::default());
    }

    #[test]
    fn a_signal_to_the_thread_wakes_it() {
        let (doorbell, mut ear) = (Doorbell::new().unwrap(), Ear::new().unwrap());
        // SAFETY: a signal to this very thread, which has it blocked.
        let sent = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_tgkill,
                nix::libc::getpid(),
                thread_id(),
                signal_number(),
            )
        };
        assert_eq!(sent, 0);
        let woken = ear.listen(&doorbell, Duration::from_secs(60)).unwrap();
        assert_eq!(woken.minors, [0]);
    }
}
