// SPDX-License-Identifier: LGPL-2.1-or-later
//! Output: sizes, tables, JSON. A reader that goes away ends the program quietly.

use std::io::{self, IsTerminal as _, Write as _};

use virtnotify_model::Bytes;

use crate::client::Problem;

/// Prints text, or ends the program when the reader is gone.
pub fn out(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Problem::Cannot(format!("cannot print: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints a value as JSON, on lines of its own.
pub fn json(value: &serde_json::Value) -> Result<(), Problem> {
    out(&format!("{value:#}\n"))
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    Bytes(bytes).to_string()
}

/// A time for people; the largest number is never.
pub fn seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        86400..8_640_000 => format!("{days}d {}h", hours % 24),
        _ => "-".to_owned(),
    }
}

/// A number of things, with the right form of their name.
pub fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Columns of equal width, numbers to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let cell = match right.contains(&column) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Whether a person is asked before it is done; refused where no question can be asked.
pub fn asks(yes: bool, dry_run: bool, as_json: bool) -> Result<bool, Problem> {
    let asks = !yes && !dry_run;
    if asks && (as_json || !io::stdin().is_terminal()) {
        let what = "no question can be asked here: give --yes, or --dry-run";
        return Err(Problem::Usage(what.into()));
    }
    Ok(asks)
}

/// Asks a person; all but a yes is a no, and is told.
pub fn agreed(question: &str) -> Result<bool, Problem> {
    out(&format!("{question} [y/N] "))?;
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|e| Problem::Cannot(format!("no answer: {e}")))?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        out("nothing is changed\n")?;
    }
    Ok(agreed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_read_well() {
        let times = [5, 256, 7261, 200_000, u64::MAX].map(seconds);
        assert_eq!(times, ["5s", "4m 16s", "2h 1m", "2d 7h", "-"]);
        assert_eq!([1, 2, 0].map(|n| count(n, "run")), ["1 run", "2 runs", "0 runs"]);
    }

    #[test]
    fn tables_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = [row(&["POOL", "SIZE"]), row(&["a", "1"]), row(&["long", "100"])];
        let text = table(&rows, &[1]);
        assert_eq!(text, "POOL  SIZE\na        1\nlong   100\n");
    }
}
