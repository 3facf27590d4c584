// SPDX-License-Identifier: LGPL-2.1-or-later
//! What others may know and ask of the moves that are under way: D-Bus cancels them here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::Bytes;

/// There is nothing to cancel.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no VM '{0}' is being moved by this host's daemon")]
pub struct NoMove(String);

/// The moves under way. All copies are the same.
#[derive(Debug, Clone, Default)]
pub struct Moves(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    under_way: BTreeMap<Uuid, Move>,
    measured: Option<Bytes>,
}

#[derive(Debug)]
struct Move {
    domain: String,
    cancelled: bool,
}

impl Moves {
    /// Ends the move of a VM, given by name or UUID: within about a second, unless it has
    /// switched over by then. It stays on this host as it is.
    ///
    /// # Errors
    /// When it is not being moved.
    pub fn cancel(&self, vm: &str) -> Result<(), NoMove> {
        let wanted = Uuid::parse_str(vm).ok();
        let mut inner = self.inner();
        let mut all = inner.under_way.iter_mut();
        let found = all.find(|(uuid, of)| Some(**uuid) == wanted || of.domain == vm);
        let missing = || NoMove(vm.chars().take(64).flat_map(char::escape_debug).collect());
        found.ok_or_else(missing)?.1.cancelled = true;
        Ok(())
    }

    pub(crate) fn begins(&self, uuid: Uuid, domain: &str) {
        let new = Move { domain: domain.to_owned(), cancelled: false };
        self.inner().under_way.entry(uuid).or_insert(new);
    }

    pub(crate) fn ended(&self, uuid: Uuid) {
        self.inner().under_way.remove(&uuid);
    }

    pub(crate) fn is_cancelled(&self, uuid: Uuid) -> bool {
        self.inner().under_way.get(&uuid).is_some_and(|of| of.cancelled)
    }

    /// A move copied so much in a second. Newer ones count for more.
    pub(crate) fn measured(&self, bandwidth: Bytes) {
        let mut inner = self.inner();
        let before = inner.measured.unwrap_or(bandwidth);
        inner.measured = Some(Bytes(before.0 / 2 + bandwidth.0 / 2));
    }

    /// What moves copied in a second lately, if there were any.
    pub(crate) fn bandwidth(&self) -> Option<Bytes> {
        self.inner().measured
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moves_can_be_cancelled() {
        let (moves, vm) = (Moves::default(), Uuid::from_u128(1));
        moves.begins(vm, "guest");
        assert!(!moves.is_cancelled(vm));
        assert_eq!(moves.cancel("a\n").unwrap_err(), NoMove("a\\n".into()));
        moves.cancel("guest").unwrap();
        assert!(moves.is_cancelled(vm));
        moves.ended(vm);
        moves.begins(vm, "guest");
        assert!(!moves.is_cancelled(vm), "the next move is another one");
        moves.cancel(&vm.to_string()).unwrap();
        assert!(moves.is_cancelled(vm));
        moves.ended(vm);
        assert!(moves.cancel("guest").is_err());
    }

    #[test]
    fn bandwidths_are_averaged() {
        let moves = Moves::default();
        assert_eq!(moves.bandwidth(), None);
        moves.measured(Bytes(100));
        moves.measured(Bytes(200));
        assert_eq!(moves.bandwidth(), Some(Bytes(150)));
    }
}
