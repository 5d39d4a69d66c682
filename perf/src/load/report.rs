//! What a run of load has shown, for people (Markdown) and for programs (JSON).

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::usage::Usage;
use super::{Sent, Tally};
use crate::config::IngestArgs;
use crate::ledger::Comparison;
use crate::plots::{Line, by_second, draw_latencies, draw_seconds};
use crate::report::{Align, Latencies, Table, mebibytes};

/// What a run has shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Connections.
    pub connections: u32,
    /// Webhooks a second that were due; none in a closed loop.
    pub rate: Option<u32>,
    /// Whose payload.
    pub source: String,
    /// Bytes of each body.
    pub body_bytes: usize,
    /// Tenants.
    pub tenants: u32,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Acceptances a second, duplicates included.
    pub accepted_a_second: f64,
    /// From when a request was due to its whole answer.
    pub latencies: Latencies,
    /// The share of answers that were no acceptance.
    pub error_rate: f64,
    /// Times that each answer came, warm-up included.
    pub answers: BTreeMap<String, u32>,
    /// What processes have used.
    pub usage: Vec<Usage>,
    /// Acceptances in each second since the first request, warm-up included.
    pub by_second: Vec<u32>,
    /// Answers against rows.
    pub rows: Comparison,
    wrong: u32,
}

impl Report {
    pub(super) fn new(arguments: &IngestArgs, sent: Sent, rows: Comparison) -> Self {
        let seconds = sent.window.as_secs_f64();
        let Tally {
            window,
            by_second,
            answers,
            wrong,
            ..
        } = sent.tally;
        let all = window.accepted + window.refused;
        Self {
            connections: arguments.load.sender.connections,
            rate: arguments.rate,
            source: arguments.load.source.as_str().to_owned(),
            body_bytes: sent.events.body_bytes(),
            tenants: arguments.load.tenants,
            seconds,
            accepted_a_second: f64::from(window.accepted) / seconds,
            latencies: Latencies::of(window.latencies),
            error_rate: f64::from(window.refused) / f64::from(all.max(1)),
            answers,
            usage: sent.usage,
            by_second,
            rows,
            wrong,
        }
    }

    /// Draws `ingest-throughput.svg` and `ingest-latency.svg`.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        let how = self.how();
        let line = Line {
            name: how.clone(),
            points: by_second(self.by_second.iter().copied().map(f64::from)),
        };
        draw_seconds(
            &folder.join("ingest-throughput.svg"),
            "Webhooks accepted",
            "a second",
            &[line],
        )?;
        let latencies = [(how, self.latencies.sorted.as_slice())];
        draw_latencies(
            &folder.join("ingest-latency.svg"),
            "From due to answered",
            &latencies,
        )
    }

    /// What the load was.
    fn how(&self) -> String {
        let rate = self.rate.map_or_else(
            || "closed loop".to_owned(),
            |rate| format!("open loop at {rate}/s"),
        );
        format!("{rate}, {} connections", self.connections)
    }

    /// Whether each answer was an acceptance or a limit of ours, and each acceptance is stored once.
    pub fn is_right(&self) -> bool {
        self.wrong == 0 && self.rows.is_right()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} bodies of {} bytes, {} tenants, {:.1} s\n",
            self.how(),
            self.source,
            self.body_bytes,
            self.tenants,
            self.seconds
        )?;
        let mut figures = Table::new(
            &[
                "accepted/s",
                "p50 ms",
                "p90 ms",
                "p99 ms",
                "p99.9 ms",
                "max ms",
                "errors %",
            ]
            .map(|name| (name, Align::Right)),
        );
        let [p50, p90, p99, p999, max] = self.latencies.shown();
        let errors = format!("{:.3}", self.error_rate * 100.0);
        figures.row([
            format!("{:.0}", self.accepted_a_second),
            p50,
            p90,
            p99,
            p999,
            max,
            errors,
        ]);
        writeln!(f, "{}", figures.markdown())?;

        let mut answers = Table::new(&[("answer", Align::Left), ("times", Align::Right)]);
        for (seen, times) in &self.answers {
            answers.row([seen.clone(), times.to_string()]);
        }
        writeln!(f, "{}", answers.markdown())?;

        let mut rows = Table::new(
            &["accepted new", "stored", "jobs", "missing", "doubled"].map(|name| (name, Align::Right)),
        );
        let Comparison {
            accepted,
            stored,
            jobs,
            missing,
            doubled,
        } = &self.rows;
        rows.row([accepted, stored, jobs, missing, doubled].map(ToString::to_string));
        writeln!(f, "{}", rows.markdown())?;
        writeln!(
            f,
            "{}",
            usage_table(&self.usage, self.accepted_a_second).markdown()
        )?;
        let verdict = if self.is_right() {
            "right: each acceptance is stored once"
        } else {
            "WRONG: see above"
        };
        writeln!(f, "{verdict}")
    }
}

/// What processes have used, and what of it falls to each of so many a second.
pub(crate) fn usage_table(usage: &[Usage], a_second: f64) -> Table {
    let mut table = Table::new(&[
        ("process", Align::Left),
        ("cores", Align::Right),
        ("us of CPU each", Align::Right),
        ("most memory MiB", Align::Right),
    ]);
    for Usage {
        process,
        cores,
        most_memory,
    } in usage
    {
        table.row([
            process.clone(),
            format!("{cores:.2}"),
            format!("{:.1}", cores / a_second * 1e6),
            mebibytes(*most_memory),
        ]);
    }
    table
}
