// SPDX-License-Identifier: LGPL-2.1-or-later
//! `history`: how full a pool was.

use std::io::{self, IsTerminal as _};

use jiff::Timestamp;
use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};
use zbus::proxy;

use crate::args::code;
use crate::client::{self, Host, Problem};
use crate::show::{self, out, size, table};
use crate::since;

/// Time in seconds since 1970, then bytes: capacity, available.
type Point = (u64, u64, u64);

/// Lines and columns of a curve.
const HEIGHT: u64 = 8;
const WIDTH: usize = 72;
/// A part of a character cell, from nothing to all of it.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A pool's object.
#[proxy(interface = "org.virtnotify1.Pool", default_service = "org.virtnotify1")]
trait PoolObject {
    /// How full it was.
    fn history(&self, since: u64) -> zbus::Result<Vec<Point>>;
}

/// `history`.
pub async fn run(host: Host<'_>, pool: &str, since: &str, as_json: bool) -> Result<u8, Problem> {
    let now = Timestamp::now();
    let since = since::parse(since, now)?;
    let daemon = client::daemon(host).await?;
    let path = daemon.get_pool(pool).await?;
    let object = PoolObjectProxy::new(daemon.inner().connection(), path).await?;
    let points = object.history(since).await?;
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    match (as_json, io::stdout().is_terminal()) {
        (true, _) => show::json(&to_json(pool, &points))?,
        (false, true) => out(&to_curve(&points, since, now, width()))?,
        (false, false) => out(&to_table(&points))?,
    }
    Ok(code::FINE)
}

/// The columns of a curve on this terminal: beside it stands a percentage.
fn width() -> usize {
    let known = tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let columns = known.filter(|columns| *columns > 0).unwrap_or(80);
    columns.saturating_sub(6).clamp(10, WIDTH)
}

fn to_json(pool: &str, points: &[Point]) -> Value {
    let point = |(time, capacity, available): &Point| json!({ "time": time, "capacity": capacity, "available": available });
    json!({ "pool": pool, "points": points.iter().map(point).collect::<Vec<_>>() })
}

fn to_table(points: &[Point]) -> String {
    let head = ["TIME", "USED", "AVAILABLE", "SIZE"].map(str::to_owned).to_vec();
    let row = |(time, capacity, available): &Point| {
        let used = capacity.saturating_sub(*available);
        vec![moment(*time), size(used), size(*available), size(*capacity)]
    };
    let rows: Vec<_> = std::iter::once(head).chain(points.iter().map(row)).collect();
    table(&rows, &[1, 2, 3])
}

fn moment(seconds: u64) -> String {
    let time = since::timestamp(seconds);
    time.map_or_else(|| "?".to_owned(), |time| time.strftime("%FT%TZ").to_string())
}

/// How full it was at most in each of `width` parts of that time, in parts of `steps`; none where it is not known.
fn columns(points: &[Point], since: u64, now: u64, width: usize, steps: u64) -> Vec<Option<u64>> {
    let mut columns = vec![None; width];
    let span = u128::from(now.saturating_sub(since).max(1));
    for (time, capacity, available) in points.iter().filter(|(time, ..)| *time >= since) {
        let at = u128::from(time - since) * width as u128 / span;
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(width - 1);
        let used = u128::from(capacity.saturating_sub(*available));
        let full = used * u128::from(steps) / u128::from((*capacity).max(1));
        let full = u64::try_from(full).unwrap_or(steps).min(steps);
        columns[at] = columns[at].max(Some(full));
    }
    columns
}

/// A curve of the whole pool's height. It begins where something is known.
fn to_curve(points: &[Point], since: u64, now: u64, width: usize) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return "nothing was noted in that time\n".to_owned();
    };
    let since = since.max(first.0);
    let now = now.max(last.0);
    let eighths = HEIGHT * 8;
    let columns = columns(points, since, now, width, eighths);
    let mut text = String::new();
    for line in (0..HEIGHT).rev() {
        let percent = match line {
            line if line == HEIGHT - 1 => "100%",
            0 => "  0%",
            _ => "    ",
        };
        let cell = |column: &Option<u64>| match column {
            // What is known to be empty is seen, unlike what is not known.
            Some(0) if line == 0 => EIGHTHS[1],
            Some(full) => {
                let part = full.saturating_sub(line * 8).min(8);
                EIGHTHS[usize::try_from(part).unwrap_or(8)]
            }
            None => ' ',
        };
        let cells: String = columns.iter().map(cell).collect();
        text.push_str(format!("{percent} {cells}").trim_end());
        text.push('\n');
    }
    let (begin, used) = (moment(since), last.1.saturating_sub(last.2));
    let rest = width.saturating_sub(begin.len());
    text.push_str(&format!("     {begin}{:>rest$}\n", "now"));
    text.push_str(&format!("{} of {} used, {} left\n", size(used), size(last.1), size(last.2)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn points() -> Vec<Point> {
        vec![(600, 8 * GIB, 8 * GIB), (1200, 8 * GIB, 4 * GIB), (2400, 8 * GIB, GIB / 2)]
    }

    #[test]
    fn a_curve_has_the_pools_height_and_a_gap_where_nothing_is_known() {
        let text = "100%          ▄\n\
                    \x20             █\n\
                    \x20             █\n\
                    \x20             █\n\
                    \x20       █     █\n\
                    \x20       █     █\n\
                    \x20       █     █\n\
                    \x20 0% ▁  █     █\n\
                    \x20    1970-01-01T00:10:00Znow\n\
                    7.50 GiB of 8.00 GiB used, 512.00 MiB left\n";
        assert_eq!(to_curve(&points(), 0, 2400, 10), text);
        assert_eq!(to_curve(&[], 0, 1, 10), "nothing was noted in that time\n");
        // A capacity of nothing, and a clock that was set back.
        assert!(to_curve(&[(9, 0, 0)], 0, 5, 10).starts_with("100%"));
    }

    #[test]
    fn lists_have_a_line_for_each_point() {
        let text = "TIME                      USED   AVAILABLE      SIZE\n\
                    1970-01-01T00:10:00Z   0 bytes    8.00 GiB  8.00 GiB\n\
                    1970-01-01T00:20:00Z  4.00 GiB    4.00 GiB  8.00 GiB\n\
                    1970-01-01T00:40:00Z  7.50 GiB  512.00 MiB  8.00 GiB\n";
        assert_eq!(to_table(&points()), text);
        let json = to_json("vms", &points());
        let point = json!({ "time": 1200, "capacity": 8 * GIB, "available": 4 * GIB });
        assert_eq!(json["points"][1], point);
    }
}
