// SPDX-License-Identifier: LGPL-2.1-or-later
//! A host that an operator empties: its VMs leave one after the other, and no peer sends any. It stays so over
//! restarts, until the operator ends it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use virtnotify_model::{Event, MoveFailure};

use crate::begin::{Attempt, Refused, Why};
use crate::domain::Domain;
use crate::owner::Mover;
use crate::plan::{plan, volume_of};
use crate::timing::Held;

/// As many VMs are tried in one go.
const TRIES: usize = 8;

/// The file whose presence says that this host is drained.
#[derive(Debug, Clone)]
pub(crate) struct Marker(PathBuf);

impl Marker {
    /// In the directory of the journal.
    pub(crate) fn within(journal: &Path) -> Self {
        Self(journal.join("drained"))
    }

    /// Whether it is there.
    pub(crate) fn is_set(&self) -> bool {
        self.0.exists()
    }

    /// Makes or removes it, durably.
    pub(crate) fn set(&self, drained: bool) -> io::Result<()> {
        if drained {
            return virtnotify_files::replace_durably(&self.0, b"", 0o644);
        }
        virtnotify_files::remove_durably(&self.0)
    }
}

impl Mover {
    /// Has the next VM leave a host that is drained.
    pub(super) async fn empty_host(&mut self) {
        if !self.tools.moves.is_drained() {
            self.drain_held = Held::default();
            return;
        }
        let rests = Instant::now() < self.drain_held.next;
        if rests || self.is_full() || self.preparing.drains() {
            return;
        }
        let Some(domains) = self.all_here().await else { return };
        let attempts = self.leavers(domains);
        if !attempts.is_empty() {
            self.prepare(Why::Drain, move |_| attempts);
        }
    }

    /// The VMs that can leave now, those first that failed least often, are least important and have least memory.
    fn leavers(&self, mut domains: Vec<Domain>) -> Vec<Attempt> {
        let now = Instant::now();
        domains.retain(|domain| {
            self.could_leave(domain)
                && !self.rests(domain.uuid, now)
                && plan(domain, self.tools.storage.as_ref()).is_ok()
        });
        domains.sort_by_key(|vm| {
            let turned_down = self.turned_down.get(&vm.uuid).copied();
            let (priority, name) = (vm.wishes.priority, vm.name.clone());
            (self.failures(vm.uuid), turned_down, priority, vm.memory, name)
        });
        let attempt = |domain: Domain| {
            let mut question = self.question(domain.uuid);
            // It goes for good, so it may well go to where it came from.
            question.no_return = Duration::ZERO;
            Attempt { domain, question, runs: true }
        };
        domains.into_iter().take(TRIES).map(attempt).collect()
    }

    /// None of those that were tried has a peer. Told the first time; then tried again, less and less often.
    pub(super) fn not_drained(&mut self, refused: Option<&Refused>) {
        let ours = |vm: &Domain| {
            let of = |disk| volume_of(disk, self.tools.storage.as_ref()).ok().flatten();
            vm.disks.iter().find_map(of)
        };
        if self.drain_held.tries == 0
            && let Some(Refused { vm, reason }) = refused
            && let Some(volume) = ours(vm)
        {
            let why = format!("this host is drained, and '{}' cannot leave it: {reason}", vm.name);
            warn!("{why}");
            self.tools.bus.emit(Event::MoveFailed {
                info: self.tools.no_move(vm, &volume),
                kind: MoveFailure::Refused,
                reason: format!("{why}. It is tried again"),
            });
        }
        self.drain_held.failed(self.config.timing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_until_it_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let marker = Marker::within(directory.path());
        assert!(!marker.is_set());
        marker.set(true).unwrap();
        marker.set(true).unwrap();
        assert!(Marker::within(directory.path()).is_set());
        marker.set(false).unwrap();
        marker.set(false).unwrap();
        assert!(!marker.is_set());
        assert!(Marker::within(&directory.path().join("gone")).set(true).is_err());
    }
}
