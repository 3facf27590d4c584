// SPDX-License-Identifier: LGPL-2.1-or-later
//! Brings a move as far as it goes now: looks at both sides, has [`crate::step`] decide, acts, and looks again.
//!
//! It is safe to run at any time and any number of times, and to be killed anywhere.

use std::time::Duration;

use tracing::info;

use crate::act::Done;
use crate::error::MigrateError;
use crate::journal::Record;
use crate::mover::{Outcome, Tools};
use crate::step::{Action, Decision, Then, step};

/// How long something is waited for that comes by itself: a VM that was resumed runs, one that ended closes its
/// volumes.
const PATIENCE: Duration = Duration::from_secs(20);
/// libvirt tells neither of both, so it is asked this often.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Tools {
    /// Looks and acts until the move is over, or waits for something that takes longer.
    pub(crate) fn settle(&self, record: &mut Record) -> Outcome {
        match self.rounds(record) {
            Ok(()) => Outcome::Over,
            Err(error) => {
                let reason = error.to_string();
                info!("the move of '{}' is open: {reason}", record.domain);
                if record.phase.is_over() && !record.phase.told {
                    self.tell_end(record);
                    self.note(record);
                }
                Outcome::Open(reason)
            }
        }
    }

    /// An error says why it is not over.
    fn rounds(&self, record: &mut Record) -> Result<(), MigrateError> {
        let end = self.clock.now() + PATIENCE;
        let mut before: Option<Action> = None;
        loop {
            let seen = self.observe(record);
            record.alone = seen.there.is_known() && !seen.there.is_active();
            let Decision { at, reason, then } = step(record, &seen);
            if at != record.phase.at {
                self.enter(record, at, reason)?;
            }
            let action = match then {
                Then::Do(action) => action,
                Then::Look => continue,
                Then::Wait(reason) => return Err(MigrateError::Open(reason)),
            };
            let again = before.replace(action) == Some(action);
            match self.act(record, action)? {
                Done::Over => return Ok(()),
                Done::NotYet(reason) if self.clock.now() >= end => {
                    return Err(MigrateError::Open(reason));
                }
                // What was done is not seen yet.
                Done::Look if again && self.clock.now() >= end => {
                    return Err(MigrateError::Open("what was done for it is not seen".into()));
                }
                Done::NotYet(_) | Done::Look if again => self.clock.sleep(ASK_AGAIN),
                Done::NotYet(_) | Done::Look => {}
            }
        }
    }
}
