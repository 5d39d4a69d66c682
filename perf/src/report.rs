//! Tables as text: columns as wide as their widest cell, two spaces between them, numbers to the right.

use std::fmt;

use serde::{Deserialize, Serialize};
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

    /// The same as Markdown.
    pub fn markdown(&self) -> Markdown<'_> {
        Markdown(self)
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

/// A table as Markdown, its columns lined up for those who read the source.
#[derive(Debug)]
pub struct Markdown<'a>(&'a Table);

impl fmt::Display for Markdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(table) = self;
        let widths: Vec<usize> = (0..table.columns.len())
            .map(|column| table.width(column).max(4))
            .collect();
        let mut line = |cells: Vec<&str>| {
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&table.columns) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                match align {
                    Align::Left => write!(f, "| {cell}{padding} ")?,
                    Align::Right => write!(f, "| {padding}{cell} ")?,
                }
            }
            writeln!(f, "|")
        };
        line(table.columns.iter().map(|(title, _)| *title).collect())?;
        let rules: Vec<String> = widths
            .iter()
            .zip(&table.columns)
            .map(|(width, (_, align))| match align {
                Align::Left => "-".repeat(*width),
                Align::Right => format!("{}:", "-".repeat(width - 1)),
            })
            .collect();
        line(rules.iter().map(String::as_str).collect())?;
        for row in &table.rows {
            line(row.iter().map(String::as_str).collect())?;
        }
        Ok(())
    }
}

/// How long things took: percentiles of all of them, in milliseconds. None where there were none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latencies {
    /// How many there were.
    pub count: usize,
    /// The median.
    pub p50: Option<f64>,
    /// 90 of 100 stayed within it.
    pub p90: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// 999 of 1,000.
    pub p999: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
    /// All of them in microseconds, shortest first.
    #[serde(skip)]
    pub sorted: Vec<u32>,
}

impl Latencies {
    /// Of latencies in microseconds, in any order.
    pub fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let at = |per_mille: usize| {
            let rank = (micros.len() * per_mille).div_ceil(1_000).saturating_sub(1);
            micros.get(rank).map(|micros| f64::from(*micros) / 1e3)
        };
        Self {
            count: micros.len(),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: at(1_000),
            sorted: micros,
        }
    }

    /// p50, p90, p99, p99.9 and the longest, for a table; empty where there are none.
    pub fn shown(&self) -> [String; 5] {
        [self.p50, self.p90, self.p99, self.p999, self.max]
            .map(|value| value.map_or_else(String::new, |value| format!("{value:.1}")))
    }
}

/// Bytes in MiB.
#[expect(
    clippy::cast_precision_loss,
    reason = "no process has so much memory that it matters"
)]
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
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
    fn a_percentile_is_the_smallest_that_so_many_stay_within() {
        let latencies = Latencies::of((1..=1_000).rev().map(|ms| ms * 1_000).collect());
        assert_eq!(
            (latencies.p50, latencies.p99, latencies.p999, latencies.max),
            (Some(500.0), Some(990.0), Some(999.0), Some(1_000.0))
        );
        assert_eq!(Latencies::of(Vec::new()).shown(), ["", "", "", "", ""]);
        assert_eq!(
            Latencies::of(vec![1_500]).shown(),
            ["1.5", "1.5", "1.5", "1.5", "1.5"]
        );
    }

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let mut table = Table::new(&[("sent", Align::Left), ("ms", Align::Right)]);
        table.row(["größer".to_owned(), "1".to_owned()]);
        table.row([String::new(), "1000".to_owned()]);
        assert_eq!(table.to_string(), "sent      ms\ngrößer     1\n-       1000\n");
        assert_eq!(
            table.markdown().to_string(),
            "| sent   |   ms |\n| ------ | ---: |\n| größer |    1 |\n| -      | 1000 |\n"
        );
        assert_eq!(short(Uuid::from_u128(0xabc)), "000000000abc");
    }
}
