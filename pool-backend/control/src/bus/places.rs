// SPDX-License-Identifier: LGPL-2.1-or-later
//! Limits for the questions of users who may only look.
//!
//! Each question takes memory while it waits, a thread while it is answered, and a thread with a locked stack in
//! virtnotifyd. The bus lets one user ask tens of thousands of questions at once. So each user, and all users together, have a
//! number of places for questions that are not answered yet; further ones are refused. Root has no such limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Error;

/// The places for questions of one user.
const EACH: usize = 64;
/// The places for questions of all users together.
const ALL: usize = 256;
/// The number of questions that are answered at once.
const THREADS: usize = 4;
/// The length of the longest question in bytes: names, and paths of as many disks as a VM has.
const LONGEST: usize = 1 << 20;

/// The places.
#[derive(Debug)]
pub struct Places {
    /// The number of places that each user has taken.
    taken: Mutex<BTreeMap<u32, usize>>,
    threads: Semaphore,
}

/// A place that is taken; dropping this frees it.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Places {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), threads: Semaphore::new(THREADS) })
    }

    /// A place for a user's question of so many bytes.
    pub fn enter(self: &Arc<Self>, uid: u32, length: usize) -> Result<Place, Error> {
        if length > LONGEST {
            let text =
                format!("a question of {length} bytes: {LONGEST} are allowed, except for root");
            return Err(Error::LimitsExceeded(text));
        }
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let count = taken.entry(uid).or_default();
        if *count >= EACH {
            let text = format!("{EACH} questions of your user are not answered yet");
            return Err(Error::LimitsExceeded(text));
        }
        if all >= ALL {
            let text = format!("{ALL} questions are not answered yet");
            return Err(Error::LimitsExceeded(text));
        }
        *count += 1;
        Ok(Place { places: Arc::clone(self), uid })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until a thread may work for it.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.places.threads.acquire().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(entered: Result<Place, Error>) -> String {
        match entered {
            Err(Error::LimitsExceeded(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_user_has_some_places_and_all_have_no_more_than_there_are() {
        let places = Places::new();
        let enter = |uid: usize| places.enter(u32::try_from(uid).unwrap(), 100);
        let mut held: Vec<Place> = (0..ALL).map(|n| enter(1000 + n / EACH).unwrap()).collect();
        assert_eq!(refused(enter(1000)), "64 questions of your user are not answered yet");
        assert_eq!(refused(enter(ALL)), "256 questions are not answered yet");
        held.remove(0);
        held.push(enter(ALL).unwrap());
        assert!(refused(enter(1000)).contains("256"));
        held.clear();
        assert!(places.taken().values().all(|count| *count == 0));
    }

    #[test]
    fn a_long_question_has_no_place() {
        let refused = refused(Places::new().enter(1000, LONGEST + 1));
        assert!(refused.contains("except for root"), "{refused}");
    }

    #[tokio::test]
    async fn few_are_answered_at_once() {
        let places = Places::new();
        let all: Vec<Place> = (0..=THREADS).map(|_| places.enter(1000, 0).unwrap()).collect();
        let mut turns = Vec::new();
        for place in &all[..THREADS] {
            turns.push(place.turn().await);
        }
        let last = all[THREADS].turn();
        tokio::pin!(last);
        tokio::select! {
            biased;
            _ = &mut last => panic!("it does not wait"),
            () = std::future::ready(()) => {}
        }
        turns.clear();
        assert!(last.await.is_some());
    }
}
