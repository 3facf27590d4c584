// SPDX-License-Identifier: LGPL-2.1-or-later
//! Numbers as people read them.

/// What stands where nothing was measured.
pub const NOT_RUN: &str = "not run";

/// A number as `show` makes it, or that there is none.
pub fn shown(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| NOT_RUN.to_owned(), show)
}

/// A ratio as results have it.
pub fn rounded(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 1e4
}

/// Three significant digits.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v == 0.0 || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A time given in microseconds.
pub fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{} us", short(us)),
        us if us < 1e6 => format!("{} ms", short(us / 1e3)),
        us => format!("{} s", short(us / 1e6)),
    }
}

/// A size given in bytes.
pub fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{} {}", short(value), UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!(
            [short(0.0), short(0.993), short(12.34), short(99.97), short(1234.5)],
            ["0", "0.99", "12.3", "100", "1234"]
        );
        assert_eq!([time(12.0), time(1500.0), time(2.5e6)], ["12.0 us", "1.50 ms", "2.50 s"]);
        assert_eq!(
            [size(512.0), size(4194304.0), size(1.5 * 1073741824.0)],
            ["512 B", "4 MiB", "1.50 GiB"]
        );
    }
}
