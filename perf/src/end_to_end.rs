//! From the webhook's request to its job's end: how long it takes at a rate, that the backlog does not grow meanwhile, and
//! that nothing is missing.
//!
//! Events fall due at fixed times, and latency is counted from there by the database's clock, so that neither a stalled
//! server nor a busy sender makes it look shorter. A job ends when its outcome is written (`finished_at`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sql::activity::clock;
use sql::volume::for_each_succeeded;
use sql::{DbError, GenericClient};
use uuid::Uuid;

use crate::backlog::{Count, growth, is_gone_by, keep_counting, points};
use crate::config::EndToEndArgs;
use crate::load::{self, Sent, Usage, usage_table};
use crate::plots::{Line, draw_latencies, draw_seconds};
use crate::report::{Align, Latencies, Table};

/// How long the last jobs may take to end, once all webhooks are answered. What takes longer is missing.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// Readings of the database's clock; the one whose question took the shortest counts.
const CLOCK_READINGS: usize = 50;

/// Wait before each rate, so that it begins with everybody asleep.
const SETTLE: Duration = Duration::from_secs(2);

/// A backlog grows if in a second it takes on more than this share of what arrives in one.
pub(crate) const GROWTH_BOUND: f64 = 0.01;

/// A run for each rate.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    goal_ms: u32,
    offset: ClockOffset,
    /// One for each rate.
    pub rates: Vec<Rate>,
}

/// How far the database's clock is ahead of ours, and what the question took: the error is at most half of that.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ClockOffset {
    ahead_us: i64,
    asked_for_us: u32,
}

/// What was seen at one rate.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rate {
    /// Webhooks that were due in a second.
    pub a_second: u32,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Acceptances in each of them.
    pub accepted_a_second: f64,
    /// New events that were accepted, warm-up included.
    pub accepted: usize,
    /// Answers other than the acceptance of a new event, or none, by what they were.
    pub refused: BTreeMap<String, u32>,
    /// Of jobs whose webhook was due in the window and that succeeded.
    pub latencies: Latencies,
    /// Accepted, and no job that succeeded in time.
    pub missing: usize,
    /// Open jobs, second by second, while webhooks were sent.
    pub backlog: Vec<Count>,
    /// Jobs that the backlog took on in each second of the window.
    pub growth_a_second: Option<f64>,
    /// What processes have used.
    pub usage: Vec<Usage>,
}

/// Sends events, one rate after the other.
///
/// # Errors
/// If the demo was never set up, or the database does not answer.
pub async fn run(arguments: &EndToEndArgs) -> anyhow::Result<Report> {
    let pool = sql::pool::connect(&arguments.target.database, "relayforge-perf")?;
    let database = pool.get().await.map_err(DbError::from)?;
    let offset = measure_offset(&database).await?;
    let mut rates = Vec::new();
    for &a_second in &arguments.rates {
        tokio::time::sleep(SETTLE).await;
        let since = clock(&database).await?;
        let mut backlog = Vec::new();
        let sent = tokio::select! {
            sent = load::send(&arguments.load, Some(a_second), &arguments.target, &arguments.pids) => sent?,
            never = keep_counting(&database, since, &mut backlog) => match never? {},
        };
        // What is open after that is missing.
        let _ = is_gone_by(&database, since, Instant::now() + ENDED_WITHIN).await?;
        let mut ended = HashMap::with_capacity(sent.tally.promises.len());
        for_each_succeeded(&database, since, |job_id, at| {
            ended.insert(job_id, at);
        })
        .await?;
        let warmup = Duration::from_secs(arguments.load.warmup.into());
        rates.push(Rate::of(a_second, sent, warmup, backlog, &ended, offset.ahead()));
    }
    Ok(Report {
        goal_ms: arguments.goal_ms,
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
        let ahead = theirs - (asked_at + asked_for / 2);
        let offset = ClockOffset {
            ahead_us: ahead.num_microseconds().unwrap_or(i64::MAX),
            asked_for_us: u32::try_from(asked_for.as_micros()).unwrap_or(u32::MAX),
        };
        if best.is_none_or(|best| offset.asked_for_us < best.asked_for_us) {
            best = Some(offset);
        }
    }
    best.context("no reading of the database's clock")
}

impl ClockOffset {
    fn ahead(self) -> TimeDelta {
        TimeDelta::microseconds(self.ahead_us)
    }
}

impl Rate {
    fn of(
        a_second: u32,
        sent: Sent,
        warmup: Duration,
        backlog: Vec<Count>,
        ended: &HashMap<Uuid, DateTime<Utc>>,
        database_ahead: TimeDelta,
    ) -> Self {
        let (mut micros, mut missing) = (Vec::new(), 0);
        for promise in &sent.tally.promises {
            let Some(ended_at) = promise.job_id.and_then(|job_id| ended.get(&job_id)) else {
                missing += 1;
                continue;
            };
            if promise.due >= warmup {
                let took = *ended_at - (sent.began_at + promise.due + database_ahead);
                // Below zero only by the error of the clocks.
                let took = took.num_microseconds().unwrap_or(i64::MAX).max(0);
                micros.push(u32::try_from(took).unwrap_or(u32::MAX));
            }
        }
        let in_window: Vec<Count> = backlog
            .iter()
            .filter(|count| count.at >= warmup.as_secs_f64())
            .copied()
            .collect();
        let seconds = sent.window.as_secs_f64();
        let mut refused = sent.tally.answers;
        refused
            .retain(|answer, _| !answer.starts_with("202 accepted") && !answer.starts_with("202 duplicate"));
        Self {
            a_second,
            seconds,
            accepted_a_second: f64::from(sent.tally.window.accepted) / seconds.max(f64::MIN_POSITIVE),
            accepted: sent.tally.promises.len(),
            refused,
            latencies: Latencies::of(micros),
            missing,
            growth_a_second: growth(&in_window),
            backlog,
            usage: sent.usage,
        }
    }

    fn grows(&self) -> bool {
        self.growth_a_second
            .is_some_and(|growth| growth > f64::from(self.a_second) * GROWTH_BOUND)
    }

    fn is_right(&self, goal_ms: u32) -> bool {
        let in_time = self.latencies.p99.is_some_and(|p99| p99 < f64::from(goal_ms));
        self.refused.is_empty() && self.missing == 0 && in_time && !self.grows()
    }
}

impl Report {
    /// Draws `end-to-end-latency.svg` and `end-to-end-backlog.svg`.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        let name = |rate: &Rate| format!("{}/s", rate.a_second);
        let latencies: Vec<(String, &[u32])> = self
            .rates
            .iter()
            .map(|rate| (name(rate), rate.latencies.sorted.as_slice()))
            .collect();
        draw_latencies(
            &folder.join("end-to-end-latency.svg"),
            "From due to succeeded",
            &latencies,
        )?;
        let backlog = |rate: &Rate| Line {
            name: name(rate),
            points: points(&rate.backlog),
        };
        let backlogs: Vec<Line> = self.rates.iter().map(backlog).collect();
        draw_seconds(
            &folder.join("end-to-end-backlog.svg"),
            "Open jobs",
            "jobs",
            &backlogs,
        )
    }

    /// Whether at each rate every webhook was accepted, its job succeeded, the goal was reached and the backlog did not grow.
    pub fn is_right(&self) -> bool {
        self.rates.iter().all(|rate| rate.is_right(self.goal_ms))
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
            "p99.9 ms",
            "max ms",
            "p99 under",
            "missing",
            "refused",
            "most open",
            "backlog +/s",
        ];
        let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
        for rate in &self.rates {
            let [p50, p90, p99, p999, max] = rate.latencies.shown();
            let most_open = rate.backlog.iter().map(|count| count.open).max();
            table.row([
                rate.a_second.to_string(),
                rate.accepted.to_string(),
                p50,
                p90,
                p99,
                p999,
                max,
                self.goal_ms.to_string(),
                rate.missing.to_string(),
                rate.refused.values().sum::<u32>().to_string(),
                most_open.map_or_else(String::new, |most| most.to_string()),
                rate.growth_a_second
                    .map_or_else(String::new, |growth| format!("{growth:.1}")),
            ]);
        }
        writeln!(
            f,
            "the database's clock is {} us ahead of ours, give or take {} us; corrected\n\n{}",
            self.offset.ahead_us,
            self.offset.asked_for_us / 2,
            table.markdown()
        )?;
        for rate in &self.rates {
            if !rate.usage.is_empty() {
                let usage = usage_table(&rate.usage, f64::from(rate.a_second));
                writeln!(f, "at {}/s:\n\n{}", rate.a_second, usage.markdown())?;
            }
        }
        for (answer, times) in self.rates.iter().flat_map(|rate| &rate.refused) {
            writeln!(f, "refused {times} times: {answer}")?;
        }
        let verdict = if self.is_right() {
            "met: each webhook's job succeeded in time, and the backlog did not grow"
        } else {
            "MISSED: see above"
        };
        writeln!(f, "{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Promise;

    fn rate(latencies_ms: &[i64], lost: usize) -> Rate {
        let began_at = Utc::now();
        let mut ended = HashMap::new();
        let mut sent = Sent::nothing(began_at);
        for number in 0..latencies_ms.len() + lost {
            let job_id = Uuid::from_u128(number as u128);
            let due = Duration::from_secs(number as u64);
            if let Some(latency) = latencies_ms.get(number) {
                // A database whose clock is a minute ahead.
                let ended_at = began_at + due + TimeDelta::minutes(1) + TimeDelta::milliseconds(*latency);
                ended.insert(job_id, ended_at);
            }
            sent.tally.promises.push(Promise {
                number: 0,
                event_id: job_id,
                job_id: Some(job_id),
                due,
            });
        }
        Rate::of(
            20,
            sent,
            Duration::ZERO,
            Vec::new(),
            &ended,
            TimeDelta::minutes(1),
        )
    }

    #[test]
    fn latency_is_told_by_the_databases_clock_and_the_last_hundredth_is_let_off() {
        let mut latencies = vec![10; 99];
        latencies.push(900);
        let seen = rate(&latencies, 0);
        assert_eq!(
            (seen.latencies.p50, seen.latencies.max),
            (Some(10.0), Some(900.0))
        );
        assert!(seen.is_right(50));
        latencies.push(900);
        assert!(!rate(&latencies, 0).is_right(50), "two of 101");
    }

    #[test]
    fn a_job_that_is_missing_a_refusal_no_job_at_all_and_a_backlog_that_grows_are_wrong() {
        assert!(rate(&[10; 10], 0).is_right(50));
        assert!(!rate(&[10; 10], 1).is_right(50));
        assert!(!rate(&[], 0).is_right(50));
        let mut refused = rate(&[10; 10], 0);
        refused.refused.insert("429 rate_limited".to_owned(), 1);
        assert!(!refused.is_right(50));
        let mut growing = rate(&[10; 10], 0);
        growing.growth_a_second = Some(0.19);
        assert!(growing.is_right(50));
        growing.growth_a_second = Some(0.21);
        assert!(!growing.is_right(50));
    }
}
