// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why metadata cannot be used.

use std::panic::{AssertUnwindSafe, catch_unwind};

use thiserror::Error;

use super::superblock::SuperblockError;
use crate::runtime;

/// Why metadata cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum MetaError {
    #[error("the superblock of the metadata cannot be used: {0}")]
    Superblock(#[from] SuperblockError),
    #[error("the metadata is damaged: {0}")]
    Damaged(String),
    #[error("the metadata cannot be read or written: {0}")]
    Database(#[source] Box<redb::Error>),
    #[error("the journal of the metadata cannot be read or written: {0}")]
    Journal(#[source] std::io::Error),
}

impl MetaError {
    /// Whether nothing is wrong with it: another version of the program made it.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(self, Self::Superblock(error) if error.is_newer())
    }
}

impl<E: Into<redb::Error>> From<E> for MetaError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(what) => Self::Damaged(what),
            other => Self::Database(Box::new(other)),
        }
    }
}

/// redb panics on some damage that it does not expect; to us that is damage like any other.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, MetaError>) -> Result<T, MetaError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|panic| {
        let text = runtime::panic_text(panic.as_ref()).unwrap_or("unreadable");
        Err(MetaError::Damaged(text.to_owned()))
    })
}

pub(super) fn damaged(error: &dyn std::error::Error) -> MetaError {
    MetaError::Damaged(error.to_string())
}
