// SPDX-License-Identifier: LGPL-2.1-or-later
//! Opens one connection to a place at a time, however many wait for it.
//!
//! A host that hangs lets nobody end the thread that connects to it, nor the `ssh` that this has started.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// After so many limits a host that hangs is tried again, and after twice as many each further time.
const TRIED_AGAIN: u32 = 10;
/// How often that time is doubled at most.
const MOST_DOUBLED: u32 = 8;

/// What is being opened, by its URI.
pub(super) struct Openings<T>(Arc<Mutex<BTreeMap<String, Arc<Opening<T>>>>>);

struct Opening<T> {
    began: Instant,
    /// How many before it hang still.
    before: u32,
    /// How it ended; without a result when its thread was lost.
    ended: Mutex<Option<Option<T>>>,
    told: Condvar,
}

impl<T> Default for Openings<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + 'static> Openings<T> {
    /// Returns what `open` does, or what that of an earlier caller does that has not ended yet. `None` once it
    /// has taken longer than the limit: at once for those who ask from then on. A host that is up again does not
    /// answer who has asked it before, so after [`TRIED_AGAIN`] times the limit there is another try, and so on, less and
    /// less often: each keeps its thread.
    pub(super) fn open(
        &self,
        uri: &str,
        limit: Duration,
        open: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let opening = self.begun(uri, limit * TRIED_AGAIN, open)?;
        let left = limit.saturating_sub(opening.began.elapsed());
        let waited =
            opening.told.wait_timeout_while(lock(&opening.ended), left, |ended| ended.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone().flatten()
    }

    fn begun(
        &self,
        uri: &str,
        limit: Duration,
        open: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Arc<Opening<T>>> {
        let mut all = lock(&self.0);
        let last = all.get(uri).cloned();
        if let Some(last) =
            last.as_ref().filter(|last| last.began.elapsed() < last.tried_after(limit))
        {
            return Some(last.clone());
        }
        let before = last.map_or(0, |last| last.before + 1);
        let (began, ended, told) = (Instant::now(), Mutex::new(None), Condvar::new());
        let opening = Arc::new(Opening { began, before, ended, told });
        let (of, uri) = (self.0.clone(), uri.to_owned());
        let end = End { all: of, uri: uri.clone(), opening: opening.clone(), result: None };
        let run = move || {
            let mut end = end;
            end.result = Some(open());
        };
        all.insert(uri, opening.clone());
        // `End` may be dropped here and now, and takes the lock.
        drop(all);
        thread::Builder::new().name("open".into()).spawn(run).ok().map(|_| opening)
    }
}

impl<T> Opening<T> {
    /// When another one begins that does not wait for it.
    fn tried_after(&self, first: Duration) -> Duration {
        first * (1 << self.before.min(MOST_DOUBLED))
    }
}

/// Tells how an opening ended, also where its thread panics or does not begin.
struct End<T> {
    all: Arc<Mutex<BTreeMap<String, Arc<Opening<T>>>>>,
    uri: String,
    opening: Arc<Opening<T>>,
    result: Option<T>,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        // Not a later one.
        if all.get(&self.uri).is_some_and(|opening| Arc::ptr_eq(opening, &self.opening)) {
            all.remove(&self.uri);
        }
        drop(all);
        *lock(&self.opening.ended) = Some(self.result.take());
        self.opening.told.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_host_that_hangs_costs_one_thread_and_its_limit_once() {
        let openings = Openings::default();
        let (answer, answered) = mpsc::channel();
        assert_eq!(
            openings.open("a", Duration::from_millis(20), move || answered.recv().unwrap()),
            None
        );
        let again = || panic!("a second one");
        for _ in 0..3 {
            assert_eq!(openings.open("a", Duration::from_millis(20), again), None);
        }
        assert_eq!(openings.open("b", LONG, || 7), Some(7), "the others are not held up");
        answer.send(8).unwrap();
        let mut late = std::iter::from_fn(|| Some(openings.open("a", LONG, || 9)));
        // The late answer, if it was not taken back yet, and then a new one.
        assert_eq!(late.find(|opened| *opened != Some(8)), Some(Some(9)));
    }

    #[test]
    fn a_host_that_is_up_again_is_found() {
        let openings = Openings::default();
        let limit = Duration::from_millis(20);
        let (never, held) = mpsc::channel::<u32>();
        assert_eq!(openings.open("a", limit, move || held.recv().unwrap_or(1)), None);
        while openings.open("a", limit, || 2) != Some(2) {
            thread::sleep(limit);
        }
        drop(never);
        assert_eq!(openings.open("a", LONG, || 3), Some(3));
    }

    #[test]
    fn a_thread_that_panics_is_no_host_that_hangs() {
        let openings = Openings::default();
        assert_eq!(openings.open("a", LONG, || -> u32 { panic!("as it should") }), None);
        assert_eq!(openings.open("a", LONG, || 2), Some(2));
    }

    #[test]
    fn those_who_ask_meanwhile_get_the_same() {
        let (openings, opened) = (Openings::default(), Arc::new(AtomicU32::new(0)));
        let (go, gone) = mpsc::channel::<()>();
        let first = opened.clone();
        thread::scope(|scope| {
            let one = scope.spawn(|| {
                openings.open("a", LONG, move || {
                    gone.recv().unwrap();
                    first.fetch_add(1, Ordering::Relaxed)
                })
            });
            while lock(&openings.0).is_empty() {
                thread::yield_now();
            }
            let count = opened.clone();
            let other = scope
                .spawn(|| openings.open("a", LONG, move || count.fetch_add(1, Ordering::Relaxed)));
            go.send(()).unwrap();
            assert_eq!(one.join().unwrap(), Some(0));
            assert!(other.join().unwrap().is_some());
        });
    }
}
