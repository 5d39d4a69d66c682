//! Tables as text: columns as wide as their widest cell, two spaces between them, numbers to the right.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table that is printed whole. Plain ASCII and no colours, so that it reads the same on a terminal and in a log.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a cell for each column. An empty cell is shown as a dash.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let filled = cells
            .into_iter()
            .map(|cell| if cell.is_empty() { "-".to_owned() } else { cell });
        self.rows.push(filled.collect());
    }

    fn width(&self, column: usize) -> usize {
        let title = self.columns.get(column).map_or(0, |(title, _)| title.len());
        let cells = self
            .rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.fold(title, usize::max)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let line = |cells: Vec<&str>| {
            let mut text = String::new();
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                match align {
                    Align::Left => text.extend([*cell, &padding, "  "]),
                    Align::Right => text.extend([&padding, *cell, "  "]),
                }
            }
            text.trim_end().to_owned()
        };
        writeln!(
            f,
            "{}",
            line(self.columns.iter().map(|(title, _)| *title).collect())
        )?;
        for row in &self.rows {
            writeln!(f, "{}", line(row.iter().map(String::as_str).collect()))?;
        }
        Ok(())
    }
}

/// The latency that `percent` of them stay within, of latencies that are sorted; none where there are none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied()
}

/// A duration in milliseconds with one decimal; empty where there is none.
pub fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(String::new, |duration| {
        format!("{:.1}", duration.as_secs_f64() * 1e3)
    })
}

/// The last group of an id, 12 digits: enough to tell ids of one table apart by eye. (The first groups are its time.)
pub fn short(id: Uuid) -> String {
    id.to_string()
        .split('-')
        .next_back()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let mut table = Table::new(&[("sent", Align::Left), ("ms", Align::Right)]);
        table.row(["größer".to_owned(), "1".to_owned()]);
        table.row([String::new(), "1000".to_owned()]);
        assert_eq!(table.to_string(), "sent      ms\ngrößer     1\n-       1000\n");
        assert_eq!(short(Uuid::from_u128(0xabc)), "000000000abc");
    }
}
