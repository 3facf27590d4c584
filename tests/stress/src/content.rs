// SPDX-License-Identifier: LGPL-2.1-or-later
//! What blocks hold: each sector says who wrote it and where it belongs.

/// A block: what the model knows of.
pub const BLOCK: u64 = 4096;
/// The same as a length in memory.
pub const BLOCK_BYTES: usize = 4096;
const SECTOR: usize = 512;

/// Names the write that a block was written by.
pub type Stamp = u64;
/// The stamp of zeroes.
pub const ZERO: Stamp = 0;

/// What a sector was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What a write left that belongs here.
    Stamp(Stamp),
    /// Something else: its first two words.
    Foreign(u64, u64),
}

/// Fills a block of a volume as the write with that stamp would.
pub fn fill(bytes: &mut [u8], volume: u64, block: u64, stamp: Stamp) {
    for (number, sector) in (0_u64..).zip(bytes.chunks_exact_mut(SECTOR)) {
        let place = if stamp == ZERO { 0 } else { place(volume, block, number) };
        for unit in sector.chunks_exact_mut(16) {
            unit[..8].copy_from_slice(&stamp.to_le_bytes());
            unit[8..].copy_from_slice(&place.to_le_bytes());
        }
    }
}

/// What the sectors of a block hold.
pub fn look(bytes: &[u8], volume: u64, block: u64) -> impl Iterator<Item = Found> {
    let sectors = (0_u64..).zip(bytes.chunks_exact(SECTOR));
    sectors.map(move |(number, sector)| look_at(sector, place(volume, block, number)))
}

fn look_at(sector: &[u8], place: u64) -> Found {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&sector[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (stamp, there) = (word(0), word(8));
    let alike = sector.chunks_exact(16).all(|unit| unit == &sector[..16]);
    match (stamp, there) {
        (ZERO, 0) if alike => Found::Stamp(ZERO),
        (stamp, there) if alike && there == place && stamp != ZERO => Found::Stamp(stamp),
        _ => Found::Foreign(stamp, there),
    }
}

/// A sector's place: no two of them are alike.
fn place(volume: u64, block: u64, sector: u64) -> u64 {
    (volume + 1) << 48 | block << 8 | sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_found() {
        let mut block = [1; 4096];
        for stamp in [ZERO, 7, u64::MAX] {
            fill(&mut block, 1, 9, stamp);
            assert!(look(&block, 1, 9).all(|found| found == Found::Stamp(stamp)));
            assert_eq!(look(&block, 1, 9).count(), 8);
        }
        assert!(look(&block, 1, 10).all(|found| matches!(found, Found::Foreign(..))));
        assert!(look(&block, 0, 9).all(|found| matches!(found, Found::Foreign(..))));
        block[600] = 0xAA;
        assert_eq!(look(&block, 1, 9).filter(|f| *f == Found::Stamp(u64::MAX)).count(), 7);
    }
}
