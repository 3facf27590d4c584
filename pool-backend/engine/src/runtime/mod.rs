// SPDX-License-Identifier: LGPL-2.1-or-later
//! Threads, locks, time and random ids: those of the machine, or of a simulation.
//!
//! The engine takes them from here alone. In a build for tests they ask whether the caller belongs to a
//! simulated host (`simulated`), where one thread runs at a time, a seed says which, and the clock
//! stands still while any of them can run. What lies below the database (disks and their images) uses
//! std's locks: a database that is left in the middle of a call must not meet another one.

mod machine;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod switched;

#[cfg(not(test))]
pub(crate) use self::machine::*;
#[cfg(test)]
pub(crate) use self::simulated::may_switch;
#[cfg(test)]
pub(crate) use self::switched::*;

use std::any::Any;
use std::sync::PoisonError;

/// Locks one of std's mutexes: see [`crate::pool::lock`].
pub(crate) fn lock_plain<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was said when something panicked.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}
