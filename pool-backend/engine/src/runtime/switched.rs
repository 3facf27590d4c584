// SPDX-License-Identifier: LGPL-2.1-or-later
//! The machine's own for a thread of the machine, a simulation's for a simulated one.

use std::io;
use std::ops::{Add, Deref, DerefMut};
use std::sync::{LockResult, OnceLock, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

use rustix::event::PollFd;
use uuid::Uuid;

use super::{machine, simulated};

/// What a simulated thread waits for: the address of a lock, or of what tells it.
fn key<T: ?Sized>(of: &T) -> usize {
    std::ptr::from_ref(of).cast::<()>() as usize
}

/// As [`std::sync::Mutex`].
#[derive(Default)]
pub(crate) struct Mutex<T>(machine::Mutex<T>);

/// As [`std::sync::MutexGuard`].
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Always there, but when it is dropped.
    guard: Option<machine::MutexGuard<'a, T>>,
}

impl<T: std::fmt::Debug> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(machine::Mutex::new(value))
    }

    fn guard<'a>(&'a self, guard: machine::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard { mutex: self, guard: Some(guard) }
    }

    fn result<'a>(
        &'a self,
        locked: LockResult<machine::MutexGuard<'a, T>>,
    ) -> LockResult<MutexGuard<'a, T>> {
        let poisoned = |error: PoisonError<_>| PoisonError::new(self.guard(error.into_inner()));
        locked.map(|guard| self.guard(guard)).map_err(poisoned)
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if !simulated::is_running() {
            return self.result(self.0.lock());
        }
        simulated::may_switch();
        loop {
            match self.0.try_lock() {
                Ok(guard) => return Ok(self.guard(guard)),
                Err(TryLockError::Poisoned(poisoned)) => return self.result(Err(poisoned)),
                Err(TryLockError::WouldBlock) => drop(simulated::wait(key(self), None)),
            }
        }
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Ok(self.guard(guard)),
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
            Err(TryLockError::Poisoned(poisoned)) => {
                let guard = self.guard(poisoned.into_inner());
                Err(TryLockError::Poisoned(PoisonError::new(guard)))
            }
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("a lock that is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("a lock that is held")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.guard.take().is_some() && simulated::is_running() {
            simulated::wake(key(self.mutex));
        }
    }
}

/// As [`std::sync::Condvar`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(machine::Condvar);

/// As [`std::sync::WaitTimeoutResult`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

type Waited<'a, T> = LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>;

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
        if simulated::is_running() {
            simulated::wake(key(self));
        }
    }

    pub(crate) fn wait<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
    ) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.mutex;
        if simulated::is_running() {
            drop(guard);
            simulated::wait(key(self), None);
            return mutex.lock();
        }
        let held = guard.guard.take().expect("a lock that is held");
        mutex.result(self.0.wait(held))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> Waited<'a, T> {
        let mutex = guard.mutex;
        if simulated::is_running() {
            drop(guard);
            let over = simulated::wait(key(self), Some(limit));
            return Ok((
                mutex.lock().unwrap_or_else(PoisonError::into_inner),
                WaitTimeoutResult(over),
            ));
        }
        let held = guard.guard.take().expect("a lock that is held");
        let waited = self.0.wait_timeout(held, limit);
        let (held, over) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok((mutex.guard(held), WaitTimeoutResult(over.timed_out())))
    }

    pub(crate) fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut waits: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while waits(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        limit: Duration,
        mut waits: impl FnMut(&mut T) -> bool,
    ) -> Waited<'a, T> {
        let begun = Instant::now();
        loop {
            if !waits(&mut guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            guard = self.wait_timeout(guard, left)?.0;
        }
    }
}

/// As [`std::time::Instant`]: the time since something that stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        static BEGINNING: OnceLock<machine::Instant> = OnceLock::new();
        let since = || BEGINNING.get_or_init(machine::Instant::now).elapsed();
        Self(simulated::now().unwrap_or_else(since))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, more: Duration) -> Self {
        Self(self.0 + more)
    }
}

/// As [`std::thread::JoinHandle`].
#[derive(Debug)]
pub(crate) enum JoinHandle<T> {
    Machine(machine::JoinHandle<T>),
    Simulated(usize, std::marker::PhantomData<T>),
}

impl JoinHandle<()> {
    pub(crate) fn join(self) -> std::thread::Result<()> {
        match self {
            Self::Machine(thread) => thread.join(),
            Self::Simulated(thread, _) => {
                simulated::join(thread);
                Ok(())
            }
        }
    }
}

pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    if simulated::is_running() {
        return Ok(JoinHandle::Simulated(simulated::spawn(name, work), std::marker::PhantomData));
    }
    machine::spawn(name, work).map(JoinHandle::Machine)
}

pub(crate) fn yield_now() {
    if simulated::is_running() {
        simulated::switch();
    } else {
        machine::yield_now();
    }
}

pub(crate) fn in_parallel(threads: usize, work: impl Fn() + Sync) {
    if simulated::is_running() {
        return work();
    }
    machine::in_parallel(threads, work);
}

/// What is readable in a simulation.
static READABLE: u8 = 0;

pub(crate) fn wait_readable(fds: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    if !simulated::is_running() {
        return machine::wait_readable(fds, limit);
    }
    let begun = Instant::now();
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let ready = machine::wait_readable(fds, Duration::ZERO)?;
        if ready || left.is_zero() {
            return Ok(ready);
        }
        simulated::wait(key(&READABLE), Some(left));
    }
}

pub(crate) fn made_readable() {
    if simulated::is_running() {
        simulated::wake(key(&READABLE));
    } else {
        machine::made_readable();
    }
}

pub(crate) fn abort() {
    if !simulated::fail() {
        machine::abort();
    }
}

pub(crate) fn random_id() -> Uuid {
    simulated::random().map_or_else(machine::random_id, |random| {
        uuid::Builder::from_random_bytes(random.to_ne_bytes()).into_uuid()
    })
}
