// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool's metadata on its metadata LV. The format is specified in `docs/on-disk.md`.

mod storage;
mod store;
mod superblock;
#[cfg(test)]
mod tests;

pub(crate) use store::{Change, Contents, MetaError, Reader, Settings, Store, VolumeRow};
pub(crate) use superblock::{Copy, DATA_START, Superblock, SuperblockError};
