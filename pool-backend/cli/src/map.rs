// SPDX-License-Identifier: LGPL-2.1-or-later
//! `map`: where a volume's chunks lie.
//!
//! Two bars: the volume from its beginning to its end, and the data LV. A run has one letter (or
//! colour) in both, so that a volume in many pieces is seen to be one.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use virtnotify_engine::repair::{Placed, VolumeMap, volume_map};

use crate::args::code;
use crate::client::{self, Host, Problem};
use crate::names;
use crate::show::{self, out, size};

/// Columns of a bar, and how many bars the volume gets at most.
const COLUMNS: u64 = 64;
const ROWS: u64 = 16;
/// A hole, and chunks that are free or belong to others.
const HOLE: char = '.';
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `map`.
pub async fn run(
    host: Host<'_>,
    volume: &str,
    svg: Option<&Path>,
    as_json: bool,
) -> Result<u8, Problem> {
    let named = names::any(volume)?;
    let (pool, name) = (named.pool.as_str(), named.volume.as_str());
    let text = client::daemon(host).await?.dump(pool, "metadata").await?;
    let map = volume_map(&text, name).map_err(|e| Problem::Cannot(e.to_string()))?;
    let map =
        map.ok_or_else(|| Problem::Cannot(format!("the pool '{pool}' has no volume '{name}'")))?;
    if let Some(path) = svg {
        let drawn = std::fs::write(path, draw_svg(&map));
        let failed = |e| Problem::Cannot(format!("cannot write '{}': {e}", path.display()));
        drawn.map_err(failed)?;
        return Ok(code::FINE);
    }
    match as_json {
        true => show::json(&to_json(&map))?,
        false => out(&draw(&map))?,
    }
    Ok(code::FINE)
}

fn to_json(map: &VolumeMap) -> serde_json::Value {
    let run = |run: &Placed| json!({ "chunk": run.chunk, "lv": run.lv, "place": run.place, "count": run.count });
    json!({ "volume": map.name, "capacity": map.capacity, "chunk_bytes": map.chunk_bytes,
            "runs": map.runs.iter().map(run).collect::<Vec<_>>() })
}

fn chunks(map: &VolumeMap) -> u64 {
    map.capacity.div_ceil(map.chunk_bytes).max(1)
}

/// The last chunk of a data LV that the volume has.
fn reach(map: &VolumeMap, lv: u16) -> u64 {
    let ends = map.runs.iter().filter(|run| run.lv == lv).map(|run| run.place + run.count);
    ends.max().unwrap_or(0).max(1)
}

fn lvs(map: &VolumeMap) -> Vec<u16> {
    let mut lvs: Vec<u16> = map.runs.iter().map(|run| run.lv).collect();
    lvs.sort_unstable();
    lvs.dedup();
    lvs
}

fn letter(n: usize) -> char {
    char::from(LETTERS[n % LETTERS.len()])
}

/// A bar of `cells` cells for `total` chunks; `parts` are (first, count, letter). A cell that holds
/// several has the letter of the first.
fn bar(total: u64, cells: u64, parts: impl Iterator<Item = (u64, u64, char)>) -> Vec<char> {
    let cell = |chunk: u64| {
        let at = u128::from(chunk) * u128::from(cells) / u128::from(total);
        usize::try_from(at).unwrap_or(usize::MAX)
    };
    let mut bar = vec![HOLE; usize::try_from(cells).unwrap_or(0)];
    for (first, count, letter) in parts {
        let end = cell(first + count - 1).min(bar.len().saturating_sub(1));
        for place in &mut bar[cell(first).min(end)..=end] {
            if *place == HOLE {
                *place = letter;
            }
        }
    }
    bar
}

fn lines(text: &mut String, bar: &[char]) {
    for row in bar.chunks(usize::try_from(COLUMNS).unwrap_or(1)) {
        let row: String = row.iter().collect();
        let _ = writeln!(text, "  {row}");
    }
}

/// The map as text.
fn draw(map: &VolumeMap) -> String {
    let total = chunks(map);
    let held: u64 = map.runs.iter().map(|run| run.count).sum();
    let mut text = format!(
        "{}: {} of {}, in {}; {} a chunk\n",
        map.name,
        size(held * map.chunk_bytes),
        size(map.capacity),
        runs(map),
        size(map.chunk_bytes)
    );
    let cells = total.min(COLUMNS * ROWS);
    let _ =
        writeln!(text, "the volume ({} a letter, {HOLE} is a hole)", per_cell(map, total, cells));
    let parts = map.runs.iter().enumerate();
    lines(&mut text, &bar(total, cells, parts.map(|(n, run)| (run.chunk, run.count, letter(n)))));
    for lv in lvs(map) {
        let total = reach(map, lv);
        let cells = total.min(COLUMNS * ROWS);
        let each = per_cell(map, total, cells);
        let _ = writeln!(text, "the data LV {lv} as far as it reaches ({each} a letter)");
        let parts = map.runs.iter().enumerate().filter(|(_, run)| run.lv == lv);
        let parts = parts.map(|(n, run)| (run.place, run.count, letter(n)));
        lines(&mut text, &bar(total, cells, parts));
    }
    text + &lengths(map)
}

/// How long the runs are, and how often a sequential reader goes on in one; nothing for fewer than
/// two.
fn lengths(map: &VolumeMap) -> String {
    let held: u64 = map.runs.iter().map(|run| run.count).sum();
    let runs = map.runs.len() as u64;
    if runs < 2 {
        return String::new();
    }
    let mean = u128::from(held) * u128::from(map.chunk_bytes) / u128::from(runs);
    let follows = |pair: &&[Placed]| pair[0].chunk + pair[0].count == pair[1].chunk;
    let inside = held - runs;
    let steps = inside + map.runs.windows(2).filter(follows).count() as u64;
    let stays = (inside * 100).checked_div(steps).unwrap_or(100);
    let mean = size(u64::try_from(mean).unwrap_or(u64::MAX));
    format!("a run has {mean} on average; {stays}% of sequential reads go on in one\n")
}

fn runs(map: &VolumeMap) -> String {
    show::count(map.runs.len() as u64, "run")
}

fn per_cell(map: &VolumeMap, total: u64, cells: u64) -> String {
    size(total.div_ceil(cells.max(1)).saturating_mul(map.chunk_bytes))
}

/// The map as a drawing: the volume above, the data LVs below, each run in a colour of its own.
fn draw_svg(map: &VolumeMap) -> String {
    const WIDTH: u64 = 1000;
    let lvs = lvs(map);
    let height = 60 + 70 * (lvs.len() + 1);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1040\" height=\"{height}\" \
         viewBox=\"0 0 1040 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let held: u64 = map.runs.iter().map(|run| run.count).sum();
    let _ = writeln!(
        text,
        "<text x=\"20\" y=\"24\">{}: {} of {} in {}</text>",
        map.name,
        size(held * map.chunk_bytes),
        size(map.capacity),
        runs(map)
    );
    let mut row = |y: usize, label: &str, total: u64, parts: &[(u64, u64, usize)]| {
        let _ = writeln!(text, "<text x=\"20\" y=\"{}\">{label}</text>", y - 6);
        let _ = writeln!(
            text,
            "<rect x=\"20\" y=\"{y}\" width=\"{WIDTH}\" height=\"36\" fill=\"#eee\"/>"
        );
        for (first, count, n) in parts {
            // Thousandths of the width, in whole numbers.
            let at = |chunk: u64| u128::from(chunk) * u128::from(WIDTH) * 1000 / u128::from(total);
            let (x, end) = (at(*first), at(first + count));
            let _ = writeln!(
                text,
                "<rect x=\"{}.{:03}\" y=\"{y}\" width=\"{}.{:03}\" height=\"36\" \
                 fill=\"hsl({},70%,45%)\"/>",
                20 + x / 1000,
                x % 1000,
                (end - x) / 1000,
                (end - x) % 1000,
                n * 137 % 360
            );
        }
    };
    let all = || map.runs.iter().enumerate();
    let parts: Vec<_> = all().map(|(n, run)| (run.chunk, run.count, n)).collect();
    row(60, "the volume", chunks(map), &parts);
    for (n, lv) in lvs.iter().enumerate() {
        let parts = all().filter(|(_, run)| run.lv == *lv);
        let parts: Vec<_> = parts.map(|(n, run)| (run.place, run.count, n)).collect();
        row(130 + 70 * n, &format!("data LV {lv}"), reach(map, *lv), &parts);
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> VolumeMap {
        let run = |chunk, place, count| Placed { chunk, lv: 0, place, count };
        let runs = vec![run(0, 4, 2), run(5, 0, 1), run(7, 8, 1)];
        VolumeMap { name: "d".into(), capacity: 8 << 20, chunk_bytes: 1 << 20, runs }
    }

    #[test]
    fn a_map_is_drawn() {
        let text = draw(&map());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "d: 4.00 MiB of 8.00 MiB, in 3 runs; 1.00 MiB a chunk");
        assert_eq!((lines[2], lines[4]), ("  AA...B.C", "  B...AA..C"), "{text}");
        let last = "a run has 1.33 MiB on average; 100% of sequential reads go on in one";
        assert_eq!(lines[5], last);
        let mut torn = map();
        torn.runs.push(Placed { chunk: 8, lv: 0, place: 20, count: 2 });
        assert!(
            draw(&torn).ends_with("1.50 MiB on average; 66% of sequential reads go on in one\n")
        );
        let svg = draw_svg(&map());
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 6, "{svg}");
    }

    #[test]
    fn a_large_volume_fits_and_a_single_chunk_is_seen() {
        let mut large = map();
        large.capacity = 16 << 40;
        large.runs = vec![Placed { chunk: (16 << 20) - 1, lv: 0, place: 1 << 24, count: 1 }];
        let text = draw(&large);
        assert!(text.contains("in 1 run;"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert_eq!(text.matches('A').count(), 2);
    }
}
