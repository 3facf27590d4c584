// SPDX-License-Identifier: LGPL-2.1-or-later
//! A simulated host: its threads are coroutines of one thread of the machine, so one runs at a time.
//!
//! The seed decides which one goes on, wherever one may be interrupted: where it takes a lock, waits or
//! calls the device mapper. The clock moves only when all of them wait, to the first moment that one waits
//! for. So a seed gives the same run each time, and an hour of waiting takes none.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::panic_text;

/// How large the stack of a simulated thread is.
const STACK: usize = 1 << 20;

type Thread = Coroutine<(), (), (), DefaultStack>;

/// Whether a thread can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// It waits for this, until that time.
    Waiting(usize, Option<Duration>),
    Ended,
}

struct Slot {
    name: String,
    state: State,
    /// The time it waited for came first.
    timed_out: bool,
    /// Not there while it runs, and when it has ended.
    thread: Option<Thread>,
    yielder: Cell<*const Yielder<(), ()>>,
}

/// Why a run ended that should have gone on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A thread has panicked, or would have taken the process with it.
    Dead(String),
    /// All threads wait, and none of them for a time.
    Stuck(String),
}

/// What the threads of a simulated host share.
struct Inner {
    now: Cell<Duration>,
    random: RefCell<fastrand::Rng>,
    /// How rarely a thread is interrupted where it may be: once in this many times.
    rarely: u32,
    slots: RefCell<Vec<Slot>>,
    current: Cell<usize>,
    /// All that is left is taken down: nothing waits any more.
    ending: Cell<bool>,
    failed: Cell<Option<&'static str>>,
    steps: Cell<u64>,
    /// Of all that was decided: two runs of a seed have the same.
    trace: Cell<u64>,
}

thread_local! {
    static HOST: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&Inner) -> T) -> Option<T> {
    let host = HOST.with(|host| host.borrow().clone())?;
    Some(work(&host))
}

/// Whether the caller is a thread of a simulated host.
pub(crate) fn is_running() -> bool {
    HOST.with(|host| host.borrow().is_some())
}

/// The time of the simulated host.
pub(crate) fn now() -> Option<Duration> {
    with(|host| host.now.get())
}

/// Random bits of the simulated host.
pub(crate) fn random() -> Option<u128> {
    with(|host| host.random.borrow_mut().u128(..))
}

/// The caller's thread should have taken the process with it; `false` on the machine.
pub(crate) fn fail() -> bool {
    with(|host| {
        if !host.ending.get() {
            host.failed.set(Some("it ended before it was told to"));
        }
    })
    .is_some()
}

/// The caller may be interrupted here.
pub(crate) fn may_switch() {
    let switches =
        with(|host| !host.ending.get() && host.random.borrow_mut().u32(..host.rarely) == 0);
    if switches == Some(true) {
        switch();
    }
}

/// The caller is interrupted here.
pub(crate) fn switch() {
    with(Inner::suspend);
}

/// Waits until this is told, or for this long; returns whether the time is over.
pub(crate) fn wait(key: usize, limit: Option<Duration>) -> bool {
    with(|host| {
        assert!(!host.ending.get(), "a thread that is taken down waits");
        let current = host.current.get();
        let until = limit.map(|limit| host.now.get().saturating_add(limit));
        host.slots.borrow_mut()[current].state = State::Waiting(key, until);
        host.suspend();
        std::mem::take(&mut host.slots.borrow_mut()[current].timed_out)
    })
    .expect("a simulated thread")
}

/// Lets the threads that wait for this go on.
pub(crate) fn wake(key: usize) {
    with(|host| {
        for slot in host.slots.borrow_mut().iter_mut() {
            if matches!(slot.state, State::Waiting(for_what, _) if for_what == key) {
                slot.state = State::Ready;
            }
        }
    });
}

/// Waits for this long.
pub(crate) fn sleep(limit: Duration) {
    static NOTHING: u8 = 0;
    wait(std::ptr::from_ref(&NOTHING) as usize, Some(limit));
}

/// What waits for the end of a thread waits for this.
fn end_of(thread: usize) -> usize {
    usize::MAX - thread
}

/// Waits until a thread has ended.
pub(crate) fn join(thread: usize) {
    let ended = || with(|host| host.slots.borrow()[thread].state == State::Ended);
    while ended() == Some(false) {
        wait(end_of(thread), None);
    }
}

/// Starts a thread of the caller's host; says its number.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + 'static) -> usize {
    with(|host| host.spawn(name, work)).expect("a simulated host")
}

impl Inner {
    fn spawn(&self, name: &str, work: impl FnOnce() + 'static) -> usize {
        let number = self.slots.borrow().len();
        let stack = DefaultStack::new(STACK).expect("memory for a stack");
        let thread = Thread::with_stack(stack, move |yielder, ()| {
            with(|host| host.slots.borrow()[number].yielder.set(yielder));
            work();
        });
        self.slots.borrow_mut().push(Slot {
            name: name.into(),
            state: State::Ready,
            timed_out: false,
            thread: Some(thread),
            yielder: Cell::new(std::ptr::null()),
        });
        number
    }

    /// Gives the machine back to [`Host::run`].
    fn suspend(&self) {
        let yielder = self.slots.borrow()[self.current.get()].yielder.get();
        // SAFETY: it was set when the thread began, which runs now, so it is there.
        unsafe { (*yielder).suspend(()) };
    }

    /// Returns the thread whose turn it is; moves the clock when none can run.
    fn next(&self) -> Result<Option<usize>, Failure> {
        let mut slots = self.slots.borrow_mut();
        let ready = slots.iter().filter(|slot| slot.state == State::Ready).count();
        if ready > 0 {
            let chosen = self.random.borrow_mut().usize(..ready);
            let mut ready = slots.iter().enumerate().filter(|(_, s)| s.state == State::Ready);
            return Ok(ready.nth(chosen).map(|(number, _)| number));
        }
        let waiting = slots.iter_mut().enumerate().filter_map(|(number, slot)| match slot.state {
            State::Waiting(_, Some(until)) => Some((until, number, slot)),
            _ => None,
        });
        if let Some((until, number, slot)) =
            waiting.min_by_key(|(until, number, _)| (*until, *number))
        {
            self.now.set(self.now.get().max(until));
            (slot.state, slot.timed_out) = (State::Ready, true);
            return Ok(Some(number));
        }
        let waits = |slot: &&Slot| slot.state != State::Ended;
        let names: Vec<_> = slots.iter().filter(waits).map(|slot| slot.name.as_str()).collect();
        if names.is_empty() { Ok(None) } else { Err(Failure::Stuck(names.join(", "))) }
    }

    /// Lets a thread run until it is interrupted, waits or ends.
    fn resume(&self, number: usize) -> Result<(), Failure> {
        let thread = self.slots.borrow_mut()[number].thread.take();
        let Some(mut thread) = thread else { return Ok(()) };
        self.current.set(number);
        self.steps.set(self.steps.get() + 1);
        let fingerprint = (number as u64) ^ self.now.get().as_secs_f64().to_bits().rotate_left(17);
        self.trace.set((self.trace.get() ^ fingerprint).wrapping_mul(0x0100_0000_01b3));
        let resumed = catch_unwind(AssertUnwindSafe(|| thread.resume(())));
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[number];
        let died = |why: &str| Err(Failure::Dead(format!("the thread '{}': {why}", slot.name)));
        if let Some(why) = self.failed.take() {
            return died(why);
        }
        match resumed {
            Ok(CoroutineResult::Yield(())) => {
                slot.thread = Some(thread);
                Ok(())
            }
            Ok(CoroutineResult::Return(())) => {
                slot.state = State::Ended;
                drop(slots);
                wake(end_of(number));
                Ok(())
            }
            Err(panic) => died(panic_text(&*panic).unwrap_or("it panicked")),
        }
    }
}

/// A simulated host. One at a time in a thread of the machine.
pub(crate) struct Host(Rc<Inner>);

impl Host {
    /// A host whose clock shows this, and whose threads are interrupted once in `rarely` times where
    /// they may be.
    pub(crate) fn new(seed: u64, rarely: u32, now: Duration) -> Self {
        let inner = Rc::new(Inner {
            now: Cell::new(now),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            rarely,
            slots: RefCell::default(),
            current: Cell::default(),
            ending: Cell::default(),
            failed: Cell::default(),
            steps: Cell::default(),
            trace: Cell::new(0xcbf2_9ce4_8422_2325),
        });
        HOST.with(|host| assert!(host.replace(Some(inner.clone())).is_none(), "a second host"));
        Self(inner)
    }

    /// Adds a thread.
    pub(crate) fn spawn(&self, name: &str, work: impl FnOnce() + 'static) {
        self.0.spawn(name, work);
    }

    /// Lets the threads run until this holds, which is asked whenever one of them was interrupted.
    pub(crate) fn run(&self, ends: impl Fn() -> bool) -> Result<(), Failure> {
        while !ends() {
            match self.0.next()? {
                Some(number) => self.0.resume(number)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// What each thread that has not ended waits for.
    pub(crate) fn waiting(&self) -> String {
        let slots = self.0.slots.borrow();
        let left = slots.iter().filter(|slot| slot.state != State::Ended);
        let each: Vec<_> = left.map(|slot| format!("{}: {:?}", slot.name, slot.state)).collect();
        format!("at {:?}: {}", self.0.now.get(), each.join(", "))
    }

    /// How often a thread was let run, and a number that is the same for the same run.
    pub(crate) fn trace(&self) -> (u64, u64) {
        (self.0.steps.get(), self.0.trace.get())
    }
}

impl Drop for Host {
    /// The process is gone: its threads end where they are.
    fn drop(&mut self) {
        self.0.ending.set(true);
        let count = self.0.slots.borrow().len();
        for number in 0..count {
            self.0.current.set(number);
            let thread = self.0.slots.borrow_mut()[number].thread.take();
            drop(thread);
        }
        HOST.with(|host| host.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Condvar, Instant, Mutex};
    use std::sync::Arc;

    /// Three threads that write down in which order they had a lock.
    fn order(seed: u64) -> (Vec<usize>, (u64, u64)) {
        let host = Host::new(seed, 2, Duration::ZERO);
        let had = Arc::new(Mutex::new(Vec::new()));
        for number in 0..3 {
            let had = had.clone();
            host.spawn("one of three", move || {
                for _ in 0..8 {
                    had.lock().unwrap().push(number);
                }
            });
        }
        host.run(|| false).unwrap();
        let trace = host.trace();
        drop(host);
        let had = had.lock().unwrap().clone();
        (had, trace)
    }

    #[test]
    fn a_seed_gives_the_same_run_and_another_one_another() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1).0, order(2).0);
        assert_eq!(order(1).0.len(), 24);
    }

    #[test]
    fn an_hour_of_waiting_takes_none() {
        let begun = std::time::Instant::now();
        let host = Host::new(1, 4, Duration::ZERO);
        host.spawn("a sleeper", || {
            let began = Instant::now();
            sleep(Duration::from_secs(3600));
            assert_eq!(began.elapsed(), Duration::from_secs(3600));
        });
        host.run(|| false).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn who_is_told_goes_on_and_who_is_not_is_found() {
        let host = Host::new(1, 4, Duration::ZERO);
        let told = Arc::new((Mutex::new(false), Condvar::new()));
        let waits = told.clone();
        host.spawn("waits", move || {
            let waited = waits.1.wait_while(waits.0.lock().unwrap(), |told| !*told).unwrap();
            assert!(*waited);
            drop(waited);
            drop(waits.1.wait(waits.0.lock().unwrap()));
        });
        host.spawn("tells", move || {
            *told.0.lock().unwrap() = true;
            told.1.notify_all();
        });
        assert_eq!(host.run(|| false), Err(Failure::Stuck("waits".into())));
    }

    #[test]
    fn a_thread_that_panics_is_a_failure() {
        let host = Host::new(1, 4, Duration::ZERO);
        host.spawn("bad", || panic!("no"));
        let failed = host.run(|| false).unwrap_err();
        assert_eq!(failed, Failure::Dead("the thread 'bad': no".into()));
    }
}
