//! The goals, and where the figure of each stands.

use super::results::{Absent, Results};
use crate::load::{self, Usage};
use crate::{end_to_end, growth, hot_path};

/// Webhooks that are due in a second of `both`.
const BOTH_RATE: f64 = 5_000.0;

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    Under(f64),
}

/// A goal of a row; a row may have several.
pub(super) struct Goal {
    row: &'static str,
    what: &'static str,
    bound: Bound,
    unit: &'static str,
    /// Figures behind the point.
    digits: usize,
    figure: fn(&Results) -> Result<Option<f64>, Absent>,
}

/// A figure that a report does not have, since nothing was accepted or the process was not measured, meets no goal.
pub(super) const GOALS: [Goal; 12] = [
    Goal {
        row: "ingest-64",
        what: "accepted and committed, 64 connections",
        bound: Bound::AtLeast(20_000.0),
        unit: "/s",
        digits: 0,
        figure: |results| Ok(Some(found(&results.ingest_64)?.accepted_a_second)),
    },
    Goal {
        row: "ingest-64",
        what: "99 of 100 answered",
        bound: Bound::Under(10.0),
        unit: " ms",
        digits: 1,
        figure: |results| Ok(found(&results.ingest_64)?.latencies.p99),
    },
    Goal {
        row: "ingest-8",
        what: "accepted and committed, 8 connections",
        bound: Bound::AtLeast(8_000.0),
        unit: "/s",
        digits: 0,
        figure: |results| Ok(Some(found(&results.ingest_8)?.accepted_a_second)),
    },
    Goal {
        row: "open-300",
        what: "99 of 100 answered, at 300/s",
        bound: Bound::Under(5.0),
        unit: " ms",
        digits: 1,
        figure: |results| Ok(found(&results.open_300)?.latencies.p99),
    },
    Goal {
        row: "tenants",
        what: "one tenant's rate over that of 16",
        bound: Bound::AtLeast(0.9),
        unit: "",
        digits: 2,
        figure: |results| Ok(one_over_sixteen(found(&results.tenants)?)),
    },
    Goal {
        row: "drain",
        what: "jobs that relay and consumer finish",
        bound: Bound::AtLeast(8_000.0),
        unit: "/s",
        digits: 0,
        figure: |results| Ok(Some(found(&results.drain)?.jobs_a_second)),
    },
    Goal {
        row: "both",
        what: "accepted, due at 5000/s, with relay and consumer at work",
        bound: Bound::AtLeast(BOTH_RATE * (1.0 - end_to_end::GROWTH_BOUND)),
        unit: "/s",
        digits: 0,
        figure: |results| Ok(Some(found(&results.both)?.accepted_a_second)),
    },
    Goal {
        row: "both",
        what: "jobs that the backlog takes on meanwhile",
        bound: Bound::Under(BOTH_RATE * end_to_end::GROWTH_BOUND),
        unit: "/s",
        digits: 1,
        figure: |results| Ok(found(&results.both)?.growth_a_second),
    },
    Goal {
        row: "latency",
        what: "99 of 100 from due to succeeded, at 300/s",
        bound: Bound::Under(50.0),
        unit: " ms",
        digits: 1,
        figure: |results| Ok(found(&results.latency)?.latencies.p99),
    },
    Goal {
        row: "growth",
        what: "rate with the most jobs over that with none",
        bound: Bound::AtLeast(growth::GOAL),
        unit: "",
        digits: 2,
        figure: |results| Ok(found(&results.growth)?.sizes.last().map(|size| size.ratio)),
    },
    Goal {
        row: "memory",
        what: "most that was resident of the api in ingest-64",
        bound: Bound::Under(48.0),
        unit: " MiB",
        digits: 1,
        figure: |results| Ok(api_mebibytes(&found(&results.ingest_64)?.usage)),
    },
    Goal {
        row: "hot-path",
        what: "verifying 256 bytes over the bare HMAC of them",
        bound: Bound::AtLeast(hot_path::GOAL),
        unit: "",
        digits: 2,
        figure: |results| {
            Ok(found(&results.hot_path)?
                .bodies
                .first()
                .map(|speeds| speeds.ratio))
        },
    },
];

fn found<T>(found: &Result<T, Absent>) -> Result<&T, Absent> {
    found.as_ref().map_err(Clone::clone)
}

fn one_over_sixteen(reports: &[load::Report]) -> Option<f64> {
    let sum = |tenants| {
        let of = reports.iter().filter(|report| report.tenants == tenants);
        of.map(|report| report.accepted_a_second).sum::<f64>()
    };
    Some(sum(1) / sum(16)).filter(|ratio| ratio.is_finite())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no process has so much memory that it matters"
)]
fn api_mebibytes(usage: &[Usage]) -> Option<f64> {
    let api = usage.iter().find(|usage| usage.process == "api")?;
    Some(api.most_memory as f64 / f64::from(1 << 20))
}

impl Bound {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::Under(bound) => figure < bound,
        }
    }
}

impl Goal {
    /// Whether it was met; [`Absent`] where that can't be said.
    pub(super) fn is_met(&self, results: &Results) -> Result<bool, Absent> {
        let figure = (self.figure)(results)?;
        Ok(figure.is_some_and(|figure| self.bound.is_met(figure)))
    }

    /// Row, what, goal, reached, verdict.
    pub(super) fn shown(&self, results: &Results) -> [String; 5] {
        let number = |value: f64| format!("{value:.*}{}", self.digits, self.unit);
        let goal = match self.bound {
            Bound::AtLeast(least) => format!("at least {}", number(least)),
            Bound::Under(bound) => format!("under {}", number(bound)),
        };
        let reached = (self.figure)(results).ok().flatten();
        let verdict = match self.is_met(results) {
            Ok(true) => "met".to_owned(),
            Ok(false) => "MISSED".to_owned(),
            Err(absent) => absent.name().to_owned(),
        };
        [
            self.row.to_owned(),
            self.what.to_owned(),
            goal,
            reached.map_or_else(String::new, number),
            verdict,
        ]
    }
}
