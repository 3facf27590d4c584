// SPDX-License-Identifier: LGPL-2.1-or-later
//! How much of the daemon programs on the bus may take that nobody has let manage anything.
//!
//! Each question waits in memory that is locked, and is answered on a thread, whose stack is locked, too. The bus lets one
//! user ask tens of thousands at once. So each program, and all of them together, have a number of
//! places for questions that are not answered yet; what is beyond is refused at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use zbus::message::Header;

use super::error::Error;

/// For how many questions of one program there is a place.
const EACH: usize = 16;
/// For how many of all.
const ALL: usize = 256;
/// How many of them are answered at once.
const THREADS: usize = 4;
/// How long a question may be, in bytes: names, and paths of as many disks as a VM has.
const LONGEST: usize = 1 << 20;

/// The places.
#[derive(Debug)]
pub struct Places {
    /// How many of them each program has.
    taken: Mutex<BTreeMap<String, usize>>,
    threads: Semaphore,
}

/// One of them; it is free when this goes.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    sender: String,
}

impl Places {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), threads: Semaphore::new(THREADS) })
    }

    /// A place for this question.
    pub fn enter(self: &Arc<Self>, header: &Header<'_>) -> Result<Place, Error> {
        let sender = header.sender().map(|name| name.as_str().to_owned()).unwrap_or_default();
        self.enter_for(sender, header.primary().body_len() as usize)
    }

    fn enter_for(self: &Arc<Self>, sender: String, length: usize) -> Result<Place, Error> {
        if length > LONGEST {
            let text =
                format!("a question of {length} bytes: {LONGEST} are allowed, except for root");
            return Err(Error::LimitsExceeded(text));
        }
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let of_sender = taken.get(&sender).copied().unwrap_or(0);
        if of_sender >= EACH {
            let text = format!("{EACH} questions of yours are not answered yet");
            return Err(Error::LimitsExceeded(text));
        }
        if all >= ALL {
            let text = format!("{ALL} questions are not answered yet");
            return Err(Error::LimitsExceeded(text));
        }
        *taken.entry(sender.clone()).or_default() += 1;
        Ok(Place { places: Arc::clone(self), sender })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
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
        if let Some(count) = taken.get_mut(&self.sender) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.sender);
            }
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
    fn each_has_some_places_and_all_have_no_more_than_there_are() {
        let places = Places::new();
        let enter = |sender: usize| places.enter_for(format!(":1.{sender}"), 100);
        let mut held: Vec<Place> = (0..ALL).map(|n| enter(n / EACH).unwrap()).collect();
        assert_eq!(refused(enter(0)), "16 questions of yours are not answered yet");
        assert_eq!(refused(enter(ALL)), "256 questions are not answered yet");
        held.remove(0);
        held.push(enter(ALL).unwrap());
        assert!(refused(enter(0)).contains("256"));
        held.clear();
        assert!(places.taken().is_empty(), "nothing is kept of programs that are gone");
    }

    #[test]
    fn a_long_question_has_no_place() {
        let refused = refused(Places::new().enter_for(":1.1".into(), LONGEST + 1));
        assert!(refused.contains("except for root"), "{refused}");
    }

    #[tokio::test]
    async fn few_are_answered_at_once() {
        let places = Places::new();
        let all: Vec<Place> =
            (0..=THREADS).map(|n| places.enter_for(n.to_string(), 0).unwrap()).collect();
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
