//! Load on ingest: a bounded number of new events over a fixed number of connections, each answer checked, and the
//! answers compared with the rows afterwards.
//!
//! A closed loop: a connection sends when its answer is in. With a rate, events fall due at fixed times and latency is
//! counted from there, so that a stalled server is not measured less often.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use sql::DbError;
use sql::event::SourceKind;
use tokio::task::JoinSet;

use crate::client::{Addressing, Client};
use crate::config::IngestArgs;
use crate::demo::{State, TENANT, find_tenant};
use crate::ledger::{Accepted, Comparison, compare};
use crate::report::{Align, Table, milliseconds, percentile};
use crate::scenario::{Delivery, Numbered};

/// How far the database's clock may be behind ours.
const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

/// What a run found.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    took: Duration,
    rows: Comparison,
}

/// What one connection saw, or all of them.
#[derive(Debug, Default)]
struct Tally {
    sent: Vec<String>,
    accepted: Vec<Accepted>,
    latencies: Vec<Duration>,
    /// By status, or by what went wrong.
    answers: BTreeMap<String, usize>,
    /// Answers that are neither an acceptance nor one of our own limits.
    wrong: usize,
}

/// The order of events: how many are left, and when each falls due.
pub(crate) struct Plan {
    events: Numbered,
    taken: AtomicU32,
    requests: u32,
    began: Instant,
    rate: Option<u32>,
}

impl Plan {
    /// A plan whose first event is due now.
    pub(crate) fn new(requests: u32, rate: Option<u32>) -> Self {
        Self {
            events: Numbered::default(),
            taken: AtomicU32::new(0),
            requests,
            began: Instant::now(),
            rate,
        }
    }

    /// An event like no other.
    pub(crate) fn event(&self) -> Delivery {
        self.events.event()
    }

    /// When the next event falls due; none when all have been taken.
    pub(crate) fn take(&self) -> Option<Instant> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = |rate| self.began + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
        (number < self.requests).then(|| self.rate.map_or_else(Instant::now, due))
    }
}

/// Sends generic events of the demo tenant.
///
/// # Errors
/// If the demo was never set up, or the database does not answer.
pub async fn ingest(arguments: &IngestArgs) -> anyhow::Result<Report> {
    let state = State::load(&arguments.target.state)?;
    let pool = sql::pool::connect(&arguments.target.database, "relayforge-perf")?;
    let client = pool.get().await.map_err(DbError::from)?;
    let tenant_id = find_tenant(&client).await?;
    let since = Utc::now() - CLOCK_SKEW;
    let plan = Arc::new(Plan::new(arguments.requests, arguments.rate));
    let mut connections = JoinSet::new();
    for _ in 0..arguments.connections.min(arguments.requests) {
        let sender = Client::new(&arguments.target.url)?;
        connections.spawn(run_connection(
            sender,
            Arc::clone(&plan),
            state.generic_secret.clone(),
        ));
    }
    let mut tally = Tally::default();
    while let Some(one) = connections.join_next().await {
        tally.add(one?);
    }
    let took = plan.began.elapsed();
    tally.latencies.sort_unstable();
    let source = SourceKind::Generic.as_str();
    let rows = compare(&client, tenant_id, source, since, &tally.sent, &tally.accepted).await?;
    Ok(Report { tally, took, rows })
}

async fn run_connection(sender: Client, plan: Arc<Plan>, secret: String) -> Tally {
    let mut tally = Tally::default();
    while let Some(due) = plan.take() {
        tokio::time::sleep_until(due.into()).await;
        let delivery = plan.event().signed(SourceKind::Generic, &secret);
        let answer = sender
            .deliver(SourceKind::Generic.as_str(), Addressing::Path(TENANT), &delivery)
            .await;
        tally.sent.push(delivery.event_id.clone());
        let (seen, right) = match answer {
            Ok(answer) if answer.status == 202 && answer.deduped() == Some(false) => {
                tally.latencies.push(due.elapsed());
                tally.accepted.push(Accepted {
                    provider_event_id: delivery.event_id,
                    event_id: answer.id("event_id"),
                    job_id: answer.id("job_id"),
                });
                ("202".to_owned(), true)
            }
            Ok(answer) => {
                let status = answer.status.as_u16();
                (
                    format!("{status} {}", answer.code().unwrap_or("unexpected body")),
                    status == 429,
                )
            }
            Err(error) => (format!("no answer: {}", error.root_cause()), false),
        };
        *tally.answers.entry(seen).or_default() += 1;
        tally.wrong += usize::from(!right);
    }
    tally
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.sent.extend(other.sent);
        self.accepted.extend(other.accepted);
        self.latencies.extend(other.latencies);
        self.wrong += other.wrong;
        for (seen, times) in other.answers {
            *self.answers.entry(seen).or_default() += times;
        }
    }

    /// The latency that `percent` of the accepted webhooks stayed within, in milliseconds.
    fn percentile(&self, percent: usize) -> String {
        milliseconds(percentile(&self.latencies, percent))
    }
}

impl Report {
    /// Whether each answer was an acceptance or a limit of ours, and each acceptance is stored once.
    pub fn is_right(&self) -> bool {
        self.tally.wrong == 0 && self.rows.is_right()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut answers = Table::new(&[("answer", Align::Left), ("times", Align::Right)]);
        for (seen, times) in &self.tally.answers {
            answers.row([seen.clone(), times.to_string()]);
        }
        let seconds = self.took.as_secs_f64();
        let accepted = u32::try_from(self.rows.accepted).map_or(f64::MAX, f64::from);
        let numbers = [
            "accepted a second",
            "p50 ms",
            "p99 ms",
            "max ms",
            "seconds",
            "stored",
            "jobs",
            "missing",
            "doubled",
        ];
        let mut figures = Table::new(&numbers.map(|name| (name, Align::Right)));
        figures.row([
            format!("{:.0}", accepted / seconds),
            self.tally.percentile(50),
            self.tally.percentile(99),
            self.tally.percentile(100),
            format!("{seconds:.2}"),
            self.rows.stored.to_string(),
            self.rows.jobs.to_string(),
            self.rows.missing.to_string(),
            self.rows.doubled.to_string(),
        ]);
        write!(f, "{answers}\n{figures}\n")?;
        writeln!(
            f,
            "{}",
            if self.is_right() {
                "right: each acceptance is stored once"
            } else {
                "WRONG: see above"
            }
        )
    }
}
