// SPDX-License-Identifier: LGPL-2.1-or-later
//! Sizes in XML: a number and a unit, as libvirt reads them (`virScaleInteger`).

use virtnotify_model::Bytes;

use super::XmlError;

/// No size is above the largest offset of a file.
const LIMIT: u64 = i64::MAX.unsigned_abs();

/// A number with the unit that stands beside it; without one, it is bytes.
///
/// # Errors
/// When it is no number, the unit is not known, or the size is above 2^63-1.
pub fn size(number: &str, unit: Option<&str>) -> Result<Bytes, XmlError> {
    // As strtoull: blanks before the number, a plus sign, nothing after it.
    let digits = number.trim_start();
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(XmlError::Malformed("malformed capacity element".to_owned()));
    }
    let scale = unit.map_or(Ok(1), scale)?;
    let too_large = || XmlError::Overflow(format!("{digits}{}", unit.unwrap_or_default()));
    let value: u64 = digits.parse().map_err(|_| too_large())?;
    let bytes = value.checked_mul(scale).filter(|bytes| *bytes <= LIMIT);
    bytes.map(Bytes).ok_or_else(too_large)
}

/// What one of a unit is in bytes: `K`, `KiB` and so on are powers of 1024, `KB` of 1000.
fn scale(unit: &str) -> Result<u64, XmlError> {
    let unknown = || XmlError::UnknownUnit(unit.to_owned());
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "" | "b" | "byte" | "bytes") {
        return Ok(1);
    }
    let mut letters = lower.chars();
    let power = match letters.next() {
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some('e') => 6,
        _ => return Err(unknown()),
    };
    match letters.as_str() {
        "" | "ib" => Ok(1024_u64.pow(power)),
        "b" => Ok(1000_u64.pow(power)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_libvirt_reads_them() {
        for (number, unit, bytes) in [
            ("1", None, 1),
            ("1", Some(""), 1),
            (" 7", Some("bytes"), 7),
            ("7", Some("B"), 7),
            ("2", Some("K"), 2048),
            ("2", Some("KiB"), 2048),
            ("2", Some("kb"), 2000),
            ("3", Some("MB"), 3_000_000),
            ("1", Some("G"), 1 << 30),
            ("1", Some("TiB"), 1 << 40),
            ("7", Some("E"), 7 << 60),
            ("9223372036854775807", None, i64::MAX.unsigned_abs()),
        ] {
            assert_eq!(size(number, unit).unwrap(), Bytes(bytes), "{number} {unit:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for number in ["", "x", "1x", "-1", "1 ", "0x10", "1.5"] {
            assert!(matches!(size(number, None), Err(XmlError::Malformed(_))), "{number}");
        }
        for unit in ["x", "KBB", "KiBs", "Z"] {
            assert!(matches!(size("1", Some(unit)), Err(XmlError::UnknownUnit(_))), "{unit}");
        }
        for (number, unit) in
            [("9223372036854775808", None), ("8", Some("E")), ("99999999999999999999", None)]
        {
            assert!(matches!(size(number, unit), Err(XmlError::Overflow(_))), "{number}");
        }
    }
}
