// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool's metadata on its metadata LV. The format is specified in `docs/developer/on-disk.md`.

mod error;
mod fence;
mod journal;
mod storage;
mod store;
mod superblock;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use error::MetaError;
#[cfg(test)]
pub(crate) use journal::SLOTS;
pub(crate) use store::{Reader, Store};
pub(crate) use superblock::{Copy, DATA_START, JOURNAL_START, Superblock, SuperblockError};
pub(crate) use tables::{Change, Contents, Settings, VolumeRow};
