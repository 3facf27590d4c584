// SPDX-License-Identifier: LGPL-2.1-or-later
//! The journal thread of a pool: a growth need not wait for the tables of the metadata.

use super::Shared;

/// Works until the pool stops.
pub(super) fn run(shared: &Shared) {
    while shared.reader.wait_for_journal() {
        if let Err(error) = shared.reader.checkpoint() {
            // Commits are refused from here on, and the next one ends in `recover`.
            tracing::error!(pool = %shared.name, %error, "the journal cannot be written into the tables");
        }
    }
}
