// SPDX-License-Identifier: LGPL-2.1-or-later
//! Times as people name them, a day, or a number of days or hours until now; and as the daemon tells them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::client::Problem;

/// A day, or a number of days or hours until now, as seconds since 1970.
pub fn parse(since: &str, now: Timestamp) -> Result<u64, Problem> {
    let wrong = || {
        let what = since.escape_debug();
        Problem::Usage(format!(
            "'{what}' is neither a day like 2026-11-22 nor a time until now like 30d or 12h"
        ))
    };
    let spans = [('d', 24), ('h', 1)].map(|(unit, hours)| Some((since.strip_suffix(unit)?, hours)));
    let time = match spans.into_iter().flatten().next() {
        Some((number, hours)) => {
            let number: i64 = number.parse().map_err(|_| wrong())?;
            let hours = number.checked_mul(hours).filter(|hours| *hours >= 0).ok_or_else(wrong)?;
            let span = jiff::Span::new().try_hours(hours).map_err(|_| wrong())?;
            now.checked_sub(span).map_err(|_| wrong())?
        }
        None => {
            let day: Date = since.parse().map_err(|_| wrong())?;
            day.to_zoned(TimeZone::UTC).map_err(|_| wrong())?.timestamp()
        }
    };
    u64::try_from(time.as_second()).map_err(|_| wrong())
}

/// A time that the daemon tells in seconds since 1970; `None` where it is beyond all dates.
pub fn timestamp(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::code;

    #[test]
    fn times_are_days() {
        let now = Timestamp::from_second(86400 * 10 + 5).unwrap();
        assert_eq!(parse("1970-01-02", now).unwrap(), 86400);
        assert_eq!(parse("2d", now).unwrap(), 86400 * 8 + 5);
        assert_eq!(parse("48h", now).unwrap(), 86400 * 8 + 5);
        for bad in [
            "",
            "d",
            "h",
            "1m",
            "x",
            "-1d",
            "2026-13-01",
            "99999999999999999999d",
            "1900-01-01",
            "20d",
        ] {
            assert_eq!(parse(bad, now).unwrap_err().code(), code::USAGE, "{bad}");
        }
    }
}
