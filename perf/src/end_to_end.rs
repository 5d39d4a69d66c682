//! From the webhook's request to its job's end: how long it takes at a rate, and that nothing is missing.
//!
//! Events fall due at fixed times, and latency is counted from there by the database's clock, so that neither a stalled
//! server nor a busy sender makes it look shorter. A job ends when its outcome is written (`finished_at`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use sql::activity::clock;
use sql::event::SourceKind;
use sql::operators::job_overview;
use sql::{DbError, GenericClient};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::{Addressing, Client};
use crate::config::EndToEndArgs;
use crate::demo::{State, TENANT};
use crate::load::Plan;
use crate::report::{Align, Table, milliseconds, percentile};

/// How long the last jobs may take to end, once all webhooks are answered. What takes longer is missing.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// How often the database is asked meanwhile.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Jobs looked up in one query.
const IDS_A_QUERY: usize = 1_000;

/// Readings of the database's clock; the one whose question took the shortest counts.
const CLOCK_READINGS: usize = 50;

/// Wait before each rate, so that it begins with everybody asleep.
const SETTLE: Duration = Duration::from_secs(2);

/// The share of jobs that the goal is for.
const GOAL_PERCENT: usize = 99;

/// A run for each rate.
#[derive(Debug)]
pub struct Report {
    goal: Duration,
    offset: ClockOffset,
    rates: Vec<Rate>,
}

/// How far the database's clock is ahead of ours, and what the question took: the error is at most half of that.
#[derive(Debug, Clone, Copy)]
struct ClockOffset {
    ahead: TimeDelta,
    asked_for: Duration,
}

/// What was seen at one rate.
#[derive(Debug)]
struct Rate {
    a_second: u32,
    accepted: usize,
    /// Answers other than the acceptance of a new event, or none, by what they were.
    refused: HashMap<String, usize>,
    /// Of jobs that succeeded, shortest first.
    latencies: Vec<Duration>,
    /// Accepted, and no job that succeeded in time.
    missing: usize,
}

/// A webhook that was accepted.
struct Accepted {
    job_id: Uuid,
    due: DateTime<Utc>,
}

/// Sends generic events of the demo tenant, one rate after the other.
///
/// # Errors
/// If the demo was never set up, or the database does not answer.
pub async fn run(arguments: &EndToEndArgs) -> anyhow::Result<Report> {
    let state = State::load(&arguments.target.state)?;
    let pool = sql::pool::connect(&arguments.target.database, "relayforge-perf")?;
    let database = pool.get().await.map_err(DbError::from)?;
    let offset = measure_offset(&database).await?;
    let mut rates = Vec::new();
    for &a_second in &arguments.rates {
        tokio::time::sleep(SETTLE).await;
        let (accepted, refused) = send(arguments, a_second, &state.generic_secret).await?;
        let ended = ends_of(&database, &accepted).await?;
        rates.push(Rate::of(a_second, &accepted, refused, &ended, offset.ahead));
    }
    Ok(Report {
        goal: Duration::from_millis(arguments.goal_ms.into()),
        offset,
        rates,
    })
}

async fn measure_offset(database: &impl GenericClient) -> anyhow::Result<ClockOffset> {
    let mut best: Option<ClockOffset> = None;
    for _ in 0..CLOCK_READINGS {
        let (began, asked_at) = (Instant::now(), Utc::now());
        let theirs = clock(database).await?;
        let asked_for = began.elapsed();
        let offset = ClockOffset {
            ahead: theirs - (asked_at + asked_for / 2),
            asked_for,
        };
        if best.is_none_or(|best| asked_for < best.asked_for) {
            best = Some(offset);
        }
    }
    best.context("no reading of the database's clock")
}

async fn send(
    arguments: &EndToEndArgs,
    a_second: u32,
    secret: &str,
) -> anyhow::Result<(Vec<Accepted>, HashMap<String, usize>)> {
    let plan = Arc::new(Plan::new(arguments.requests, Some(a_second)));
    // Read together, so that a due instant can be told by the wall clock.
    let (began, began_at) = (Instant::now(), Utc::now());
    let mut connections = JoinSet::new();
    for _ in 0..arguments.connections.min(arguments.requests) {
        let (client, plan, secret) = (
            Client::new(&arguments.target.url)?,
            Arc::clone(&plan),
            secret.to_owned(),
        );
        connections.spawn(async move {
            let (mut accepted, mut refused) = (Vec::new(), Vec::new());
            while let Some(due) = plan.take() {
                tokio::time::sleep_until(due.into()).await;
                match deliver(&client, &plan, &secret).await {
                    Ok(job_id) => accepted.push(Accepted {
                        job_id,
                        due: began_at + due.saturating_duration_since(began),
                    }),
                    Err(answer) => refused.push(answer),
                }
            }
            (accepted, refused)
        });
    }
    let (mut accepted, mut refused) = (Vec::new(), HashMap::new());
    while let Some(one) = connections.join_next().await {
        let (taken, others) = one?;
        accepted.extend(taken);
        for answer in others {
            *refused.entry(answer).or_default() += 1;
        }
    }
    Ok((accepted, refused))
}

/// The job of a new event; else what came instead.
async fn deliver(client: &Client, plan: &Plan, secret: &str) -> Result<Uuid, String> {
    let source = SourceKind::Generic;
    let delivery = plan.event().signed(source, secret);
    let answer = client
        .deliver(source.as_str(), Addressing::Path(TENANT), &delivery)
        .await;
    let answer = answer.map_err(|error| format!("no answer: {}", error.root_cause()))?;
    match answer.id("job_id") {
        Some(job_id) if answer.status == 202 && answer.deduped() == Some(false) => Ok(job_id),
        _ => Err(format!(
            "{} {}",
            answer.status.as_u16(),
            answer.code().unwrap_or("unexpected body")
        )),
    }
}

/// When each job succeeded, of those that did in time.
async fn ends_of(
    database: &impl GenericClient,
    accepted: &[Accepted],
) -> anyhow::Result<HashMap<Uuid, DateTime<Utc>>> {
    let deadline = Instant::now() + ENDED_WITHIN;
    let mut ended = HashMap::new();
    let mut open: Vec<Uuid> = accepted.iter().map(|accepted| accepted.job_id).collect();
    loop {
        for ids in open.chunks(IDS_A_QUERY) {
            let jobs = job_overview(database, ids).await?;
            let succeeded = jobs.into_iter().filter(|job| job.status == "succeeded");
            ended.extend(succeeded.filter_map(|job| Some((job.job_id, job.finished_at?))));
        }
        open.retain(|job_id| !ended.contains_key(job_id));
        if open.is_empty() || Instant::now() >= deadline {
            return Ok(ended);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

impl Rate {
    fn of(
        a_second: u32,
        accepted: &[Accepted],
        refused: HashMap<String, usize>,
        ended: &HashMap<Uuid, DateTime<Utc>>,
        database_ahead: TimeDelta,
    ) -> Self {
        let latency = |accepted: &Accepted| {
            let took = *ended.get(&accepted.job_id)? - (accepted.due + database_ahead);
            // Below zero only by the error of the clocks.
            Some(took.to_std().unwrap_or_default())
        };
        let mut latencies: Vec<Duration> = accepted.iter().filter_map(latency).collect();
        latencies.sort_unstable();
        Self {
            a_second,
            accepted: accepted.len(),
            refused,
            missing: accepted.len() - latencies.len(),
            latencies,
        }
    }

    fn is_right(&self, goal: Duration) -> bool {
        let measured = percentile(&self.latencies, GOAL_PERCENT);
        self.refused.is_empty() && self.missing == 0 && measured.is_some_and(|latency| latency < goal)
    }
}

impl Report {
    /// Whether every webhook was accepted and its job succeeded, and the goal was reached, at each rate.
    pub fn is_right(&self) -> bool {
        self.rates.iter().all(|rate| rate.is_right(self.goal))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            "rate/s",
            "accepted",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "p99 under",
            "missing",
            "refused",
        ];
        let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
        for rate in &self.rates {
            let [p50, p90, p99, max] =
                [50, 90, GOAL_PERCENT, 100].map(|percent| milliseconds(percentile(&rate.latencies, percent)));
            table.row([
                rate.a_second.to_string(),
                rate.accepted.to_string(),
                p50,
                p90,
                p99,
                max,
                self.goal.as_millis().to_string(),
                rate.missing.to_string(),
                rate.refused.values().sum::<usize>().to_string(),
            ]);
        }
        let ahead = self.offset.ahead.num_microseconds().unwrap_or(i64::MAX);
        writeln!(
            f,
            "the database's clock is {ahead} us ahead of ours, give or take {} us; corrected\n\n{table}",
            self.offset.asked_for.as_micros() / 2
        )?;
        for (answer, times) in self.rates.iter().flat_map(|rate| &rate.refused) {
            writeln!(f, "refused {times} times: {answer}")?;
        }
        let verdict = if self.is_right() {
            "met: each webhook's job succeeded in time"
        } else {
            "MISSED: see above"
        };
        writeln!(f, "{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(latencies_ms: &[i64], lost: usize) -> Rate {
        let due = Utc::now();
        let mut ended = HashMap::new();
        let mut accepted: Vec<Accepted> = Vec::new();
        for number in 0..latencies_ms.len() + lost {
            let job_id = Uuid::from_u128(number as u128);
            if let Some(latency) = latencies_ms.get(number) {
                // A database whose clock is a minute ahead.
                ended.insert(
                    job_id,
                    due + TimeDelta::minutes(1) + TimeDelta::milliseconds(*latency),
                );
            }
            accepted.push(Accepted { job_id, due });
        }
        Rate::of(20, &accepted, HashMap::new(), &ended, TimeDelta::minutes(1))
    }

    #[test]
    fn latency_is_told_by_the_databases_clock_and_the_last_hundredth_is_let_off() {
        let goal = Duration::from_millis(50);
        let mut latencies = vec![10; 99];
        latencies.push(900);
        let seen = rate(&latencies, 0);
        assert_eq!(percentile(&seen.latencies, 50), Some(Duration::from_millis(10)));
        assert_eq!(percentile(&seen.latencies, 100), Some(Duration::from_millis(900)));
        assert!(seen.is_right(goal));
        latencies.push(900);
        assert!(!rate(&latencies, 0).is_right(goal), "two of 101");
    }

    #[test]
    fn a_job_that_is_missing_a_refusal_and_no_job_at_all_are_wrong() {
        let goal = Duration::from_millis(50);
        assert!(rate(&[10; 10], 0).is_right(goal));
        assert!(!rate(&[10; 10], 1).is_right(goal));
        assert!(!rate(&[], 0).is_right(goal));
        let mut refused = rate(&[10; 10], 0);
        refused.refused.insert("429 rate_limited".to_owned(), 1);
        assert!(!refused.is_right(goal));
    }
}
