// SPDX-License-Identifier: LGPL-2.1-or-later
//! Moves VMs that ran out of space to a host that has some.
//!
//! libvirt moves the VM; this crate chooses what goes where, and takes care of what surrounds
//! the move. [`Mover`] is one owner task. Events, libvirt's and ours, only tell it to look:
//! it acts on what libvirt, the volumes and a small journal say when it looks, so that a lost,
//! doubled or late event is harmless, and a restart is just one more look.
//!
//! ```text
//!      a VM paused by "no space" on one of our volumes       (looked for: [`survey`])
//!         │                         a pool at its low mark, or soon full, whose policy is to
//!         │                         move a VM while it runs, goes on at "planned" ([`pressure`])
//!         ├── its volumes have space now ──▶ resumed here
//!         ▼
//!      queued, in the order seen                             (at most `concurrent` leave at once)
//!         ▼
//!      planned ─── a disk cannot go ─────▶ stays, paused; one event; looked at again later
//!         ▼
//!      peer chosen ─── none has room ────▶ the same           (pure: [`policy`])
//!         ▼
//!      journal written: from here on a restart finds the move ([`journal`])
//!         ▼
//!      room kept at the peer, then looked at again             ([`reserve`])
//!         ▼
//!      volumes made at the peer
//!         ▼
//!      migrated by libvirt, watched each second
//!         ▼
//!      settled, whatever libvirt said: look at both sides ([`look`]), decide ([`step`], pure), act ([`act`]),
//!         │                          and look again, until nothing is left to do
//!         ├── paused there, gone here ─▶ resumed there ─▶ the volumes here are deleted ─▶ journal removed
//!         ├── still here, at most paused there ─▶ what was made there is deleted ─▶ journal removed
//!         ├── running on both ─▶ the newer one is stopped; a person has to look
//!         └── anything else ─────────▶ nothing is touched; looked at again
//! ```
//!
//! How far a move is, why, and since when is its `phase`, the one thing that is written down as it goes on. One that
//! cannot end, because the peer is gone for good, ends as a person says (`verdict`).
//!
//! It never deletes a volume of which no other copy is known to be in use, and never resumes a
//! VM that may run elsewhere: it arrives paused, and is resumed there once it was seen to be gone here. It never
//! runs on the grow path: all of libvirt's calls block, and are made from threads of their own; libvirt's answers
//! may need our own storage sockets.

mod act;
mod asked;
mod begin;
mod domain;
mod domain_xml;
mod drain;
mod error;
mod forecast;
mod foresight;
mod hypervisor;
mod journal;
mod libvirt;
mod limits;
mod look;
mod mover;
mod moves;
mod observed;
mod owner;
mod peers;
mod phase;
mod picture;
mod plan;
mod policy;
mod prepare;
mod pressure;
mod preview;
mod promises;
mod relief;
mod reserve;
mod settle;
mod shared_storage;
mod step;
mod surroundings;
mod survey;
mod timing;
mod twice;
mod verdict;
mod vms;
mod waiting;
mod wishes;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use domain::{Disk, DiskSource, Domain, Image, RunState};
pub use error::{MigrateError, NoPeer, Stays, Unfit};
pub use forecast::{Rates, time_to_full};
pub use foresight::Homeless;
pub use hypervisor::{
    HvError, Hypervisor, Job, Order, Peer, Place, PoolRoom, Progress, RemoteVolume, Wire,
};
pub use journal::JournalError;
pub use libvirt::Libvirt;
pub use limits::HeldBack;
pub use moves::{Moves, NoMove, NotMoved, UnderWay};
pub use owner::{Mover, MoverConfig};
pub use peers::{PeerPool, PeerState};
pub use phase::Side;
pub use picture::{OpenMove, Picture, WaitingVm};
pub use preview::{PeerAnswer, Preview};
pub use timing::Timing;
pub use verdict::Word;
pub use vms::{Vm, vms};
pub use wishes::{Kept, Origin, Wishes};
