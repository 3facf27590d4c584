// SPDX-License-Identifier: LGPL-2.1-or-later
//! libvirt's algorithms for wiping a volume, as the passes that `scrub`, which libvirt runs for
//! its own pools, makes of them (scrub(1), "PATTERNS").

use virtnotify_model::{WipeMode, WipePass};

use crate::error::DriverError;

/// The pass of one byte.
const fn byte(value: u8) -> WipePass {
    WipePass::Pattern([value; 3])
}

const fn three(first: u8, second: u8, third: u8) -> WipePass {
    WipePass::Pattern([first, second, third])
}

const R: WipePass = WipePass::Random;

/// NAP-14.1-C: random, random, zeroes, verified.
const NNSA: &[WipePass] = &[R, R, byte(0), WipePass::Verify];
/// DoD 5220.22-M: random, zeroes, ones, verified.
const DOD: &[WipePass] = &[R, byte(0), byte(0xff), WipePass::Verify];
/// The German BSI's: ones, then each bit in turn left out.
const BSI: &[WipePass] = &[
    byte(0xff),
    byte(0xfe),
    byte(0xfd),
    byte(0xfb),
    byte(0xf7),
    byte(0xef),
    byte(0xdf),
    byte(0xbf),
    byte(0x7f),
];
/// Gutmann's 35 passes, in his order ("Secure Deletion of Data from Magnetic and Solid-State
/// Memory", table 1).
const GUTMANN: &[WipePass] = &[
    R,
    R,
    R,
    R,
    byte(0x55),
    byte(0xaa),
    three(0x92, 0x49, 0x24),
    three(0x49, 0x24, 0x92),
    three(0x24, 0x92, 0x49),
    byte(0x00),
    byte(0x11),
    byte(0x22),
    byte(0x33),
    byte(0x44),
    byte(0x55),
    byte(0x66),
    byte(0x77),
    byte(0x88),
    byte(0x99),
    byte(0xaa),
    byte(0xbb),
    byte(0xcc),
    byte(0xdd),
    byte(0xee),
    byte(0xff),
    three(0x92, 0x49, 0x24),
    three(0x49, 0x24, 0x92),
    three(0x24, 0x92, 0x49),
    three(0x6d, 0xb6, 0xdb),
    three(0xb6, 0xdb, 0x6d),
    three(0xdb, 0x6d, 0xb6),
    R,
    R,
    R,
    R,
];
/// Schneier's: ones, zeroes, five times random ("Applied Cryptography", 1996).
const SCHNEIER: &[WipePass] = &[byte(0xff), byte(0), R, R, R, R, R];
/// Pfitzner's: random, 33 times, or 7 times.
const PFITZNER33: &[WipePass] = &[R; 33];
const PFITZNER7: &[WipePass] = &[R; 7];

/// What an algorithm (`virStorageVolWipeAlgorithm`) asks of the backend.
///
/// # Errors
/// When libvirt has no such algorithm.
pub fn mode(algorithm: u32) -> Result<WipeMode, DriverError> {
    Ok(match algorithm {
        0 => WipeMode::Zero,
        1 => WipeMode::Overwrite(NNSA),
        2 => WipeMode::Overwrite(DOD),
        3 => WipeMode::Overwrite(BSI),
        4 => WipeMode::Overwrite(GUTMANN),
        5 => WipeMode::Overwrite(SCHNEIER),
        6 => WipeMode::Overwrite(PFITZNER7),
        7 => WipeMode::Overwrite(PFITZNER33),
        8 => WipeMode::Overwrite(&[R]),
        9 => WipeMode::Trim,
        _ => {
            let text = format!("wiping algorithm {algorithm} not supported");
            return Err(DriverError::Argument(text));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_has_its_passes() {
        let passes = |algorithm| match mode(algorithm).unwrap() {
            WipeMode::Overwrite(passes) => passes.len(),
            _ => 0,
        };
        assert_eq!((0..10).map(passes).collect::<Vec<_>>(), [0, 4, 4, 9, 35, 7, 7, 33, 1, 0]);
        assert!(mode(10).is_err() && mode(u32::MAX).is_err());
    }
}
