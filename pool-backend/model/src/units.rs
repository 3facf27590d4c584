// SPDX-License-Identifier: LGPL-2.1-or-later
//! Units of size. Bytes, sectors and chunks never meet as bare integers.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes in one sector: the unit of every device-mapper table
/// (kernel `include/linux/blk_types.h`, `SECTOR_SIZE`).
const SECTOR: u64 = 512;

/// A size that cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum UnitError {
    /// Chunk sizes are powers of two between the two limits.
    #[error("a chunk of {0} bytes is not possible: choose a power of two from 64 KiB to 1 GiB")]
    ChunkSize(u64),
}

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug,
            Clone,
            Copy,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Serialize,
            Deserialize,
        )]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The sum, or `None` beyond 2^64-1.
            #[must_use]
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// The sum, or the largest value there is.
            #[must_use]
            pub fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, never below zero.
            #[must_use]
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, Self::saturating_add)
            }
        }
    };
}

unit! {
    /// A number of bytes.
    Bytes
}
unit! {
    /// A number of 512-byte sectors.
    Sectors
}
unit! {
    /// A number of chunks, or a chunk's place; a [`ChunkSize`] says how large one is.
    Chunks
}

impl Bytes {
    /// `n` mebibytes; `n` below 2^44.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// Whole sectors that fit in this many bytes.
    #[must_use]
    pub const fn whole_sectors(self) -> Sectors {
        Sectors(self.0 / SECTOR)
    }

    /// This size rounded up to a multiple of `unit` (not zero), or `None` beyond 2^64-1.
    #[must_use]
    pub fn round_up(self, unit: Bytes) -> Option<Self> {
        self.0.checked_next_multiple_of(unit.0).map(Self)
    }
}

impl Sectors {
    /// The same size in bytes; saturates beyond 2^64-1.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0.saturating_mul(SECTOR))
    }
}

impl fmt::Display for Bytes {
    /// For sentences: `1.50 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] =
            [("EiB", 60), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 >> shift > 0 {
                let whole = self.0 >> shift;
                let hundredths = ((u128::from(self.0) * 100) >> shift) % 100;
                return write!(f, "{whole}.{hundredths:02} {unit}");
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// The size of a chunk: a power of two from 64 KiB to 1 GiB, 4 MiB unless told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct ChunkSize(u64);

impl ChunkSize {
    /// The smallest chunk.
    pub const MIN: Bytes = Bytes(64 << 10);
    /// The largest chunk.
    pub const MAX: Bytes = Bytes(1 << 30);

    /// A chunk of `bytes`.
    ///
    /// # Errors
    /// When it is no power of two, or outside [`ChunkSize::MIN`]..=[`ChunkSize::MAX`].
    pub fn new(bytes: Bytes) -> Result<Self, UnitError> {
        let fits = (Self::MIN..=Self::MAX).contains(&bytes) && bytes.0.is_power_of_two();
        if fits { Ok(Self(bytes.0)) } else { Err(UnitError::ChunkSize(bytes.0)) }
    }

    /// One chunk in bytes.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0)
    }

    /// One chunk in sectors.
    #[must_use]
    pub const fn sectors(self) -> Sectors {
        Bytes(self.0).whole_sectors()
    }

    /// The number of chunks that hold `size`: the last may be partly used.
    #[must_use]
    pub const fn chunks_for(self, size: Bytes) -> Chunks {
        Chunks(size.0.div_ceil(self.0))
    }

    /// The number of whole chunks in `size`.
    #[must_use]
    pub const fn whole_chunks(self, size: Bytes) -> Chunks {
        Chunks(size.0 / self.0)
    }

    /// The size of these chunks; saturates beyond 2^64-1.
    #[must_use]
    pub const fn bytes_of(self, chunks: Chunks) -> Bytes {
        Bytes(chunks.0.saturating_mul(self.0))
    }
}

impl TryFrom<Bytes> for ChunkSize {
    type Error = UnitError;

    fn try_from(bytes: Bytes) -> Result<Self, UnitError> {
        Self::new(bytes)
    }
}

impl From<ChunkSize> for Bytes {
    fn from(chunk: ChunkSize) -> Self {
        chunk.bytes()
    }
}

impl Default for ChunkSize {
    fn default() -> Self {
        Self(4 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chunk_sizes_have_limits() {
        for bad in [0, 1, 65_535, 65_537, 3 << 20, 2 << 30, u64::MAX] {
            assert_eq!(ChunkSize::new(Bytes(bad)), Err(UnitError::ChunkSize(bad)));
        }
        assert_eq!(ChunkSize::new(Bytes::mib(4)), Ok(ChunkSize::default()));
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(Bytes(1 << 30).to_string(), "1.00 GiB");
        assert_eq!(Bytes((1 << 30) + (1 << 29)).to_string(), "1.50 GiB");
        assert_eq!(Bytes(17).to_string(), "17 bytes");
        assert_eq!(Bytes(u64::MAX).to_string(), "15.99 EiB");
    }

    proptest! {
        #[test]
        fn chunks_cover_every_byte(size in 0u64..1 << 50, shift in 16u32..=30) {
            let chunk = ChunkSize::new(Bytes(1 << shift)).unwrap();
            let chunks = chunk.chunks_for(Bytes(size));
            prop_assert!(chunk.bytes_of(chunks) >= Bytes(size));
            prop_assert!(chunks.0 == 0 || chunk.bytes_of(Chunks(chunks.0 - 1)) < Bytes(size));
        }
    }
}
