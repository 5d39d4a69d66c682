//! What `./dev measure` has found, as one page: the goals, whether each was met, and the figures behind them.
//!
//! `summary/results.rs` reads the folder, `summary/machine.rs` the machine, `summary/goals.rs` has the goals. A figure is
//! taken from a report as it stands there; only the two rows of `tenants` are divided by each other here.

mod goals;
mod machine;
mod results;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use self::goals::{GOALS, Goal};
use self::machine::Machine;
use self::results::{Absent, Results, TENANTS};
use crate::config::SummaryArgs;
use crate::load::{self, Usage};
use crate::report::{Align, Latencies, Table, mebibytes};
use crate::{drain, end_to_end};

/// What was measured, read and judged.
pub struct Summary<'a> {
    arguments: &'a SummaryArgs,
    machine: Machine,
    results: Results,
    /// Paths from the folder above the results'.
    plots: Vec<String>,
}

/// Reads a folder of results. A file that is missing or broken is told of in the row it belongs to.
///
/// # Errors
/// If there is no such folder.
pub fn read(arguments: &SummaryArgs) -> anyhow::Result<Summary<'_>> {
    let folder = &arguments.results;
    let plots = find_plots(folder).with_context(|| format!("{} can't be read", folder.display()))?;
    Ok(Summary {
        arguments,
        machine: Machine::this(),
        results: Results::read(folder),
        plots,
    })
}

fn find_plots(folder: &Path) -> anyhow::Result<Vec<String>> {
    let base = folder.file_name().unwrap_or_default();
    let mut plots = Vec::new();
    for row in fs::read_dir(folder)? {
        let row = row?;
        if !row.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(row.path())? {
            let path = Path::new(base).join(row.file_name()).join(file?.file_name());
            if path.extension().is_some_and(|extension| extension == "svg") {
                plots.push(path.display().to_string());
            }
        }
    }
    plots.sort_unstable();
    Ok(plots)
}

/// The figures of one run of load.
struct Run<'a> {
    name: &'a str,
    seconds: f64,
    a_second: f64,
    /// None where only the whole was timed.
    latencies: Option<&'a Latencies>,
    error_rate: f64,
    usage: &'a [Usage],
}

impl<'a> Run<'a> {
    fn ingest(name: &'a str, report: &'a load::Report) -> Self {
        Self {
            name,
            seconds: report.seconds,
            a_second: report.accepted_a_second,
            latencies: Some(&report.latencies),
            error_rate: report.error_rate,
            usage: &report.usage,
        }
    }

    fn drain(name: &'a str, report: &'a drain::Report) -> Self {
        Self {
            name,
            seconds: report.seconds,
            a_second: report.jobs_a_second,
            latencies: None,
            error_rate: 0.0,
            usage: &report.usage,
        }
    }

    fn rate(name: &'a str, rate: &'a end_to_end::Rate) -> Self {
        Self {
            name,
            seconds: rate.seconds,
            a_second: rate.accepted_a_second,
            latencies: Some(&rate.latencies),
            error_rate: 0.0,
            usage: &rate.usage,
        }
    }

    fn times(&self) -> impl IntoIterator<Item = String> {
        let latencies = self.latencies.map(Latencies::shown).unwrap_or_default();
        [
            self.name.to_owned(),
            format!("{:.1}", self.seconds),
            format!("{:.0}", self.a_second),
        ]
        .into_iter()
        .chain(latencies)
        .chain([format!("{:.3}", self.error_rate * 100.0)])
    }

    /// Processor time of each process for one webhook, what all of them had of the machine, and the API's memory.
    fn costs(&self, cores: usize) -> impl IntoIterator<Item = String> {
        let of = |process: &str| self.usage.iter().find(|usage| usage.process == process);
        let each = PROCESSES.map(|process| {
            of(process).map_or_else(String::new, |usage| {
                format!("{:.1}", usage.cores / self.a_second * 1e6)
            })
        });
        let used: f64 = self.usage.iter().map(|usage| usage.cores).sum();
        let memory = of("api").map_or_else(String::new, |usage| mebibytes(usage.most_memory));
        [self.name.to_owned()]
            .into_iter()
            .chain(each)
            .chain([format!("{used:.2} of {cores}"), memory])
    }
}

/// As [`Usage`] names them.
const PROCESSES: [&str; 6] = ["load", "api", "relay", "consumer", "PostgreSQL", "RabbitMQ"];

impl Summary<'_> {
    /// Whether each goal that was measured is met, and no row has failed.
    pub fn is_right(&self) -> bool {
        let is_met = |goal: &Goal| !matches!(goal.is_met(&self.results), Ok(false));
        let has_failed = |absent: &Absent| matches!(absent, Absent::Failed(_));
        GOALS.iter().all(is_met) && !self.results.absent().any(|(_, absent)| has_failed(absent))
    }

    fn runs(&self) -> Vec<Run<'_>> {
        let of = &self.results;
        let tenants = of.tenants.iter().flatten().zip(TENANTS);
        let mut runs: Vec<Run<'_>> = Vec::new();
        runs.extend(of.ingest_64.iter().map(|report| Run::ingest("ingest-64", report)));
        runs.extend(of.ingest_8.iter().map(|report| Run::ingest("ingest-8", report)));
        runs.extend(of.open_300.iter().map(|report| Run::ingest("open-300", report)));
        runs.extend(tenants.map(|(report, name)| Run::ingest(name, report)));
        runs.extend(
            of.duplicates
                .iter()
                .map(|report| Run::ingest("duplicates", report)),
        );
        runs.extend(of.drain.iter().map(|report| Run::drain("drain", report)));
        runs.extend(of.both.iter().map(|rate| Run::rate("both", rate)));
        runs.extend(of.latency.iter().map(|rate| Run::rate("latency", rate)));
        runs
    }

    fn circumstances(&self) -> Table {
        let (machine, arguments) = (&self.machine, self.arguments);
        let mut table = Table::new(&[("measured on", Align::Left), ("", Align::Left)]);
        let build = if cfg!(debug_assertions) {
            "debug: these figures say nothing about speed"
        } else {
            "release"
        };
        let rows = [
            ("processor", format!("{} cores, {}", machine.cores, machine.model)),
            ("memory", machine.memory.clone()),
            ("kernel", format!("Linux {}", machine.kernel)),
            ("TCP congestion control", machine.congestion.clone()),
            ("huge pages", machine.huge_pages.clone()),
            ("PostgreSQL", arguments.postgres.clone()),
            ("RabbitMQ", arguments.rabbitmq.clone()),
            ("commit", arguments.commit.clone()),
            ("build", build.to_owned()),
        ];
        for (name, value) in rows {
            table.row([name.to_owned(), value]);
        }
        table
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = |names: &[&'static str]| names.iter().map(|name| (*name, Align::Left)).collect::<Vec<_>>();
        writeln!(f, "# Measured on {}\n", self.arguments.date)?;
        writeln!(f, "{}", self.circumstances().markdown())?;

        writeln!(f, "## Goals\n")?;
        let mut goals = Table::new(&left(&["row", "what", "goal", "reached", "verdict"]));
        for goal in &GOALS {
            goals.row(goal.shown(&self.results));
        }
        writeln!(f, "{}", goals.markdown())?;
        let reasons = self.results.absent();
        let reasons: Vec<_> = reasons
            .filter_map(|(row, absent)| Some((row, absent.name(), absent.why()?)))
            .collect();
        for (row, verdict, why) in &reasons {
            writeln!(f, "- {row} {verdict}: {why}")?;
        }
        if !reasons.is_empty() {
            writeln!(f)?;
        }

        let runs = self.runs();
        if !runs.is_empty() {
            let columns = [
                "seconds", "a second", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors %",
            ];
            writeln!(f, "## Webhooks\n")?;
            let mut times = table_of("run", &columns);
            runs.iter().for_each(|run| times.row(run.times()));
            writeln!(f, "{}", times.markdown())?;

            writeln!(f, "## Microseconds of processor time for each\n")?;
            let columns = [&PROCESSES[..], &["cores used", "api MiB"]].concat();
            let mut costs = table_of("run", &columns);
            runs.iter()
                .for_each(|run| costs.row(run.costs(self.machine.cores)));
            writeln!(f, "{}", costs.markdown())?;
        }
        if let Ok(growth) = &self.results.growth {
            writeln!(f, "## Growth\n\n{growth}")?;
        }
        if let Ok(hot_path) = &self.results.hot_path {
            writeln!(f, "## Hot path\n\n{hot_path}")?;
        }
        if !self.plots.is_empty() {
            writeln!(f, "## Pictures\n")?;
            for plot in &self.plots {
                let name = plot.split_once('/').map_or(plot.as_str(), |(_, name)| name);
                writeln!(f, "- [{}]({plot})", name.trim_end_matches(".svg"))?;
            }
        }
        Ok(())
    }
}

/// A table with a name on the left and figures on the right.
fn table_of(first: &'static str, others: &[&'static str]) -> Table {
    let others = others.iter().map(|name| (*name, Align::Right));
    Table::new(
        &[(first, Align::Left)]
            .into_iter()
            .chain(others)
            .collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests;
