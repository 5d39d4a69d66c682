//! The folder that `./dev measure` fills: `ROW.json` where a row was measured, `ROW.skipped` or `ROW.failed` with the reason
//! where it was not.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{drain, end_to_end, growth, hot_path, load};

/// Runs of the row `tenants`: those with one tenant and those with sixteen, in turns.
pub(super) const TENANTS: [&str; 4] = ["tenants-1-a", "tenants-16-a", "tenants-1-b", "tenants-16-b"];

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Absent {
    /// Nobody asked for it.
    NotMeasured,
    /// It could not be measured on this machine.
    Skipped(String),
    /// It went wrong, or broke a promise that no speed makes up for.
    Failed(String),
}

impl Absent {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::NotMeasured => "not measured",
            Self::Skipped(_) => "skipped",
            Self::Failed(_) => "FAILED",
        }
    }

    pub(super) fn why(&self) -> Option<&str> {
        match self {
            Self::NotMeasured => None,
            Self::Skipped(why) | Self::Failed(why) => Some(why),
        }
    }
}

pub(super) type Found<T> = Result<T, Absent>;

/// A field for each row.
pub(super) struct Results {
    pub(super) ingest_64: Found<load::Report>,
    pub(super) ingest_8: Found<load::Report>,
    pub(super) open_300: Found<load::Report>,
    pub(super) tenants: Found<Vec<load::Report>>,
    pub(super) duplicates: Found<load::Report>,
    pub(super) drain: Found<drain::Report>,
    pub(super) both: Found<end_to_end::Rate>,
    pub(super) latency: Found<end_to_end::Rate>,
    pub(super) growth: Found<growth::Report>,
    pub(super) hot_path: Found<hot_path::Report>,
}

impl Results {
    pub(super) fn read(folder: &Path) -> Self {
        let ingest = |row| ingest(folder, row, row);
        Self {
            ingest_64: ingest("ingest-64"),
            ingest_8: ingest("ingest-8"),
            open_300: ingest("open-300"),
            tenants: TENANTS
                .into_iter()
                .map(|file| self::ingest(folder, "tenants", file))
                .collect(),
            duplicates: ingest("duplicates"),
            drain: report(folder, "drain", "drain").and_then(|report| kept(report, drain::Report::is_right)),
            both: rate(folder, "both"),
            latency: rate(folder, "latency"),
            growth: report(folder, "growth", "growth").and_then(|report| {
                kept(report, |report: &growth::Report| {
                    report.sizes.iter().all(|size| size.broken == 0)
                })
            }),
            hot_path: report(folder, "hot-path", "hot-path"),
        }
    }

    /// Each row with why it has no figures, where it has none.
    pub(super) fn absent(&self) -> impl Iterator<Item = (&'static str, &Absent)> {
        let rows = [
            ("ingest-64", self.ingest_64.as_ref().err()),
            ("ingest-8", self.ingest_8.as_ref().err()),
            ("open-300", self.open_300.as_ref().err()),
            ("tenants", self.tenants.as_ref().err()),
            ("duplicates", self.duplicates.as_ref().err()),
            ("drain", self.drain.as_ref().err()),
            ("both", self.both.as_ref().err()),
            ("latency", self.latency.as_ref().err()),
            ("growth", self.growth.as_ref().err()),
            ("hot-path", self.hot_path.as_ref().err()),
        ];
        rows.into_iter().filter_map(|(row, absent)| Some((row, absent?)))
    }
}

fn ingest(folder: &Path, row: &str, file: &str) -> Found<load::Report> {
    // A refusal is no error of the service's, but a load that was refused says nothing about the goal.
    let is_right = |report: &load::Report| report.is_right() && report.error_rate == 0.0;
    report(folder, row, file).and_then(|report| kept(report, is_right))
}

fn rate(folder: &Path, row: &str) -> Found<end_to_end::Rate> {
    let report: end_to_end::Report = report(folder, row, row)?;
    let rate = report.rates.into_iter().next();
    let rate = rate.ok_or_else(|| Absent::Failed(format!("{row}.json has no rate")))?;
    kept(rate, |rate| rate.missing == 0 && rate.refused.is_empty())
}

fn kept<T>(report: T, is_right: impl FnOnce(&T) -> bool) -> Found<T> {
    if is_right(&report) {
        Ok(report)
    } else {
        let why = "a webhook was lost, doubled, refused or wrongly answered";
        Err(Absent::Failed(why.to_owned()))
    }
}

fn report<T: DeserializeOwned>(folder: &Path, row: &str, file: &str) -> Found<T> {
    let why = |name: &str| {
        let text = fs::read_to_string(folder.join(format!("{row}.{name}"))).ok()?;
        Some(text.trim().to_owned())
    };
    if let Some(why) = why("failed") {
        return Err(Absent::Failed(why));
    }
    if let Some(why) = why("skipped") {
        return Err(Absent::Skipped(why));
    }
    let name = format!("{file}.json");
    match fs::read_to_string(folder.join(&name)) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| Absent::Failed(format!("{name}: {error}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Absent::NotMeasured),
        Err(error) => Err(Absent::Failed(format!("{name}: {error}"))),
    }
}
