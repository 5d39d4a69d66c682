//! What was measured, as Markdown for people and JSON for scripts.

use std::fmt;

use serde::{Serialize, Serializer};

/// Lines of a slow plan that the report shows.
const PLAN_LINES: usize = 40;

/// All that a run has found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// A table each.
    pub sections: Vec<Section>,
    /// What was promised, and whether it holds.
    pub goals: Vec<Goal>,
    /// Plans of the questions to views: all of them, by their name.
    #[serde(skip)]
    pub plans: Vec<Plan>,
}

/// A table.
#[derive(Debug, Serialize)]
pub struct Section {
    /// For scripts.
    pub name: &'static str,
    /// For people.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<&'static str>,
    /// A cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// What has to be known to read it.
    pub note: &'static str,
}

/// A text, or a figure with its number of decimals.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// Of a label.
    Text(String),
    /// Of a measurement.
    #[serde(serialize_with = "without_decimals")]
    Figure(f64, usize),
}

/// Scripts get the whole figure; how many decimals mean something is for people.
fn without_decimals<S: Serializer>(value: &f64, _decimals: &usize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*value)
}

/// A promise and what was measured.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// What is measured.
    pub what: String,
    /// What was found.
    pub found: f64,
    /// What was promised.
    pub promised: f64,
    /// Whether more is better, or less.
    pub at_least: bool,
}

/// How PostgreSQL answers a question.
#[derive(Debug)]
pub struct Plan {
    /// View and question.
    pub name: String,
    /// The question.
    pub statement: String,
    /// EXPLAIN's text.
    pub text: String,
    /// Whether it took longer than promised.
    pub slow: bool,
}

impl Cell {
    /// A label.
    pub fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    /// A figure of which that many decimals mean something.
    pub fn figure(value: f64, decimals: usize) -> Self {
        Self::Figure(value, decimals)
    }

    /// A count.
    pub fn count(value: i64) -> Self {
        Self::Figure(value as f64, 0)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&text.replace('|', "\\|")),
            Self::Figure(value, decimals) => write!(f, "{value:.decimals$}"),
        }
    }
}

impl Section {
    /// A table without rows.
    pub fn new(name: &'static str, title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            name,
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            note: "",
        }
    }

    /// The same with a note.
    #[must_use]
    pub fn noted(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl Goal {
    /// Whether it was reached.
    pub fn is_met(&self) -> bool {
        if self.at_least {
            self.found >= self.promised
        } else {
            self.found <= self.promised
        }
    }
}

impl Report {
    /// Adds a promise that holds from `promised` on.
    pub(crate) fn at_least(&mut self, what: impl Into<String>, found: f64, promised: f64) {
        self.goals.push(Goal {
            what: what.into(),
            found,
            promised,
            at_least: true,
        });
    }

    /// Adds a promise that holds up to `promised`.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, found: f64, promised: f64) {
        self.goals.push(Goal {
            what: what.into(),
            found,
            promised,
            at_least: false,
        });
    }

    /// Whether every goal was reached.
    pub fn is_right(&self) -> bool {
        self.goals.iter().all(Goal::is_met)
    }

    /// All plans, one after the other.
    pub fn all_plans(&self) -> String {
        self.plans.iter().map(ToString::to_string).collect()
    }
}

impl Plan {
    /// As much of it as a report bears: with a step for each partition, plans run to hundreds of lines.
    fn shortened(&self) -> Self {
        let lines: Vec<&str> = self.text.lines().collect();
        let text = match lines.get(..PLAN_LINES) {
            Some(first) => format!(
                "{}\n… {} more lines: --plans",
                first.join("\n"),
                lines.len() - PLAN_LINES
            ),
            None => self.text.clone(),
        };
        Self {
            name: self.name.clone(),
            statement: self.statement.clone(),
            text,
            slow: self.slow,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            statement,
            text,
            ..
        } = self;
        write!(f, "\n### {name}\n\n```\n{statement}\n\n{text}\n```\n")
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n## {}\n\n", self.title)?;
        if !self.note.is_empty() {
            write!(f, "{}\n\n", self.note)?;
        }
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        let first = self.rows.first();
        let is_figure = |column| matches!(first.and_then(|row| row.get(column)), Some(Cell::Figure(..)));
        let rules: Vec<&str> = (0..self.columns.len())
            .map(|column| if is_figure(column) { "---:" } else { "---" })
            .collect();
        writeln!(f, "| {} |", rules.join(" | "))?;
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(ToString::to_string).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sections
            .iter()
            .try_for_each(|section| write!(f, "{section}"))?;
        for plan in self.plans.iter().filter(|plan| plan.slow) {
            write!(f, "{}", plan.shortened())?;
        }
        write!(
            f,
            "\n## Goals\n\n| goal | found | promised | |\n| --- | ---: | ---: | --- |\n"
        )?;
        for goal in &self.goals {
            let (than, met) = (
                if goal.at_least { "at least" } else { "at most" },
                if goal.is_met() { "met" } else { "MISSED" },
            );
            writeln!(
                f,
                "| {} | {:.3} | {than} {} | {met} |",
                goal.what, goal.found, goal.promised
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_a_markdown_table_and_a_goal_says_whether_it_is_met() {
        let mut report = Report::default();
        let mut section = Section::new("one", "One", &["what", "us"]).noted("Less is better.");
        section.row([Cell::text("a|b"), Cell::figure(1.25, 1)]);
        report.sections.push(section);
        report.at_most("us", 1.25, 1.0);
        let text = report.to_string();
        assert!(
            text.contains("\n## One\n\nLess is better.\n\n| what | us |\n| --- | ---: |\n| a\\|b | 1.2 |\n"),
            "{text}"
        );
        assert!(text.contains("| us | 1.250 | at most 1 | MISSED |"), "{text}");
        assert!(!report.is_right());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["sections"][0]["rows"][0], serde_json::json!(["a|b", 1.25]));
    }
}
