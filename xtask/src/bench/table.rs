// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tables for a terminal and for a document.

use std::fmt::Write as _;

/// A table with a title, a head and rows of as many cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub title: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Self { title: title.to_owned(), head, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        [&self.head].into_iter().chain(&self.rows)
    }

    fn text(&self) -> String {
        let mut text = format!("\n{}\n", self.title);
        for line in self.lines() {
            let mut row = String::from(" ");
            for (column, cell) in line.iter().enumerate() {
                let width = self.width(column);
                let _ = match self.has_numbers(column) {
                    true => write!(row, " {cell:>width$} "),
                    false => write!(row, " {cell:<width$} "),
                };
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        text.push_str(&line(&self.head));
        let rule = |column| if self.has_numbers(column) { "---:" } else { "---" }.to_owned();
        let rule: Vec<_> = (0..self.head.len()).map(rule).collect();
        text.push_str(&line(&rule));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text.push('\n');
        text
    }

    /// Numbers stand to the right, words to the left. A dash stands for either.
    fn has_numbers(&self, column: usize) -> bool {
        let number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit());
        column > 0 && self.rows.iter().filter_map(|row| row.get(column)).any(number)
    }

    fn width(&self, column: usize) -> usize {
        self.lines()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    }
}

/// Tables in order; those without rows are left out.
#[derive(Debug, Clone, Default)]
pub struct Tables(pub Vec<Table>);

impl Tables {
    fn all(&self) -> impl Iterator<Item = &Table> {
        self.0.iter().filter(|table| !table.rows.is_empty())
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        self.all().map(Table::text).collect()
    }

    /// For a document.
    pub fn markdown(&self) -> String {
        self.all().map(Table::markdown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("Title", &["what", "n"]);
        table.row(["reading".to_owned(), "12.5".to_owned()]);
        let empty = Table::new("Nothing", &["x"]);
        let tables = Tables(vec![empty, table]);
        assert_eq!(tables.text(), "\nTitle\n  what        n\n  reading  12.5\n");
        assert_eq!(
            tables.markdown(),
            "### Title\n\n| what | n |\n| --- | ---: |\n| reading | 12.5 |\n\n"
        );
    }
}
