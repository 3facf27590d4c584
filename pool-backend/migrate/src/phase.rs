// SPDX-License-Identifier: LGPL-2.1-or-later
//! How far a move has come. It is written down before anything is done that depends on it.
//!
//! ```text
//! preparing ──▶ copying ──▶ unknown ──┬── gone here, paused there ──▶ resuming ──▶ arrived ──▶ over
//!                                     ├── active here, the peer says nothing of use ──▶ staying ─┐
//!                                     ├── here ─────────────────────────────────────▶ stayed ◀──┘──▶ over
//!                                     ├── runs on both ──▶ twice ──▶ abandoned ──▶ over
//!                                     └── on neither ──▶ abandoned ──▶ over
//! any that does not end ── a person says on which host the VM is ──▶ abandoned ──▶ over
//! ```
//!
//! Before `resuming` the VM never ran there, as far as this host's daemon is concerned: what is here is never the
//! older copy. From `resuming` on what is there is never the older one.

use serde::{Deserialize, Serialize};

use crate::timing::seconds_since_1970;

/// One of the two hosts of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// This host.
    Here,
    /// The peer.
    There,
}

/// Where a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum At {
    /// Room and volumes are made there. libvirt was not asked to move the VM.
    Preparing,
    /// libvirt was asked, or is about to be. The VM arrives paused, and is not resumed there.
    Copying,
    /// libvirt's call is over, and both sides are to be looked at.
    Unknown,
    /// It was active here when libvirt was done; what is there is not known.
    Staying,
    /// It is here for good; only what the move made there is to go.
    Stayed,
    /// It was seen to be gone here and paused there, and is resumed there.
    Resuming,
    /// It was seen to run there; only what is left here is to go.
    Arrived,
    /// It was seen to run on both; the newer one, whose CPUs are stopped, is on that side. Nothing is deleted.
    Twice(Side),
    /// A person has to look, or has said which host has it. Only the room that is kept for it there is to go.
    Abandoned,
}

impl At {
    /// Whether libvirt may be at the migration.
    pub(crate) fn may_be_migrating(self) -> bool {
        matches!(self, Self::Preparing | Self::Copying | Self::Unknown)
    }

    /// As others are told it, and as it is written down.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Unknown => "unknown",
            Self::Staying => "staying",
            Self::Stayed => "stayed",
            Self::Resuming => "resuming",
            Self::Arrived => "arrived",
            Self::Twice(_) => "twice",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Where a move is, why, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// The place in the course of the move.
    pub at: At,
    /// Why it is not where it was to come; empty while all goes well.
    pub reason: String,
    /// Since when, in seconds since 1970. For people: nothing is decided by it.
    pub since: u64,
    /// Whether a person cancelled it.
    pub cancelled: bool,
    /// Whether its end was told.
    pub told: bool,
}

impl Phase {
    /// The phase of a move that is about to begin.
    pub(crate) fn new() -> Self {
        let (at, since) = (At::Preparing, seconds_since_1970());
        Self { at, reason: String::new(), since, cancelled: false, told: false }
    }

    /// Goes on to `at`; without a reason of its own it keeps the former one.
    pub(crate) fn enter(&mut self, at: At, reason: Option<String>) {
        (self.at, self.since, self.told) = (at, seconds_since_1970(), false);
        self.reason = reason.unwrap_or_else(|| std::mem::take(&mut self.reason));
    }

    /// Whether the VM is not on its way any more, and only what the move made is to go.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.at, At::Stayed | At::Abandoned)
    }
}
