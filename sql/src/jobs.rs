//! Runs of jobs, seen from the consumer: start, renew, complete, fail; and the sweeper. Wraps `functions/jobs/`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use uuid::Uuid;

use crate::outbox::StoredEvent;
use crate::{DbError, row_enum};

pub(crate) const START_JOBS: &str =
    "select outcome, run_id, tenant_id, tenant_slug, source, source_kind, job_kind,
            event_id, event_type, provider_event_id, correlation_id, headers, body, trace_context
       from relayforge.start_jobs($1, $2, make_interval(secs => $3), $4)";
pub(crate) const COMPLETE_JOBS: &str = "call relayforge.complete_jobs($1, $2, null)";
pub(crate) const FAIL_JOBS: &str =
    "call relayforge.fail_jobs($1, $2, $3, $4, $5, $6, make_interval(secs => $7), make_interval(secs => $8),
                          null, null, null)";
pub(crate) const RENEW_LEASES: &str = "call relayforge.renew_leases($1, $2, make_interval(secs => $3), null)";
pub(crate) const HAND_BACK_RUNS: &str = "call relayforge.hand_back_runs($1, $2, null)";
pub(crate) const SWEEP_LEASES: &str = "select rescued, poisoned
       from relayforge.sweep_leases($1, p_not_within => make_interval(secs => $2))";

/// What a message asks for: one attempt of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobAttempt {
    /// The job.
    pub job_id: Uuid,
    /// The attempt, from 1.
    pub attempt: i32,
}

/// A job and the fencing token of one run of it. Only the current run can finish a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// The job.
    pub job_id: Uuid,
    /// The run.
    pub run_id: Uuid,
}

/// The answer to a message's wish to start. But for the last one, the message has done its duty and is acknowledged.
#[derive(Debug)]
pub enum Start {
    /// The caller holds the lease.
    Started(Box<StartedJob>),
    /// A run holds the lease.
    Busy,
    /// The message is of another attempt.
    Stale,
    /// An operator holds the job.
    Held,
    /// The job has its outcome.
    Final,
    /// Too many runs in a row ended without an outcome; the job has just been dead-lettered.
    Poisoned,
    /// There is no such job.
    Unknown,
    /// Somebody else holds the job just now. Unlike the others, this message has not done its duty: ask again.
    Locked,
}

/// A run that was started, and the event it is for.
#[derive(Debug)]
pub struct StartedJob {
    /// Job and fencing token.
    pub run: Run,
    /// The attempt, from 1.
    pub attempt: i32,
    /// The handler to run.
    pub job_kind: String,
    /// The event's id.
    pub event_id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The source.
    pub source: String,
    /// Correlation id of the delivery that made the job.
    pub correlation_id: String,
    /// The event; none if its inbox partition is gone.
    pub event: Option<StoredEvent>,
}

/// Starts the runs that messages ask for and answers each, in order. Committed when it returns.
///
/// # Errors
/// [`DbError`]: nothing is known to have started; ask again.
pub async fn start_jobs(
    client: &impl GenericClient,
    attempts: &[JobAttempt],
    lease: Duration,
    max_starts: u16,
) -> Result<Vec<Start>, DbError> {
    let statement = client.prepare_cached(START_JOBS).await?;
    let (job_ids, numbers): (Vec<Uuid>, Vec<i32>) = attempts.iter().map(|a| (a.job_id, a.attempt)).unzip();
    let rows = client
        .query(
            &statement,
            &[&job_ids, &numbers, &lease.as_secs_f64(), &i32::from(max_starts)],
        )
        .await?;
    if rows.len() != attempts.len() {
        return Err(DbError::Bug(format!(
            "{} attempts in, {} answers out",
            attempts.len(),
            rows.len()
        )));
    }
    rows.iter()
        .zip(attempts)
        .map(|(row, attempt)| read_start(row, *attempt))
        .collect()
}

fn read_start(row: &tokio_postgres::Row, asked: JobAttempt) -> Result<Start, DbError> {
    Ok(match row.try_get("outcome")? {
        "started" => Start::Started(Box::new(StartedJob {
            run: Run {
                job_id: asked.job_id,
                run_id: row.try_get("run_id")?,
            },
            attempt: asked.attempt,
            job_kind: row.try_get("job_kind")?,
            event_id: row.try_get("event_id")?,
            tenant_id: row.try_get("tenant_id")?,
            source: row.try_get("source")?,
            correlation_id: row.try_get("correlation_id")?,
            event: StoredEvent::from_row(row)?,
        })),
        "busy" => Start::Busy,
        "stale" => Start::Stale,
        "held" => Start::Held,
        "final" => Start::Final,
        "poisoned" => Start::Poisoned,
        "unknown" => Start::Unknown,
        "locked" => Start::Locked,
        other => return Err(row_enum("outcome", other)),
    })
}

fn columns(runs: &[Run]) -> (Vec<Uuid>, Vec<Uuid>) {
    runs.iter().map(|run| (run.job_id, run.run_id)).unzip()
}

/// What became of jobs whose runs succeeded. Those that are in neither have been taken over meanwhile.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Jobs whose current run it was.
    pub jobs: Vec<Uuid>,
    /// Jobs that somebody else holds just now: nothing was written for them, ask again.
    pub busy: Vec<Uuid>,
}

/// Ends runs that succeeded.
///
/// # Errors
/// [`DbError`]: it is not known whether they ended; complete them again (that is harmless).
pub async fn complete_jobs(client: &impl GenericClient, runs: &[Run]) -> Result<Completed, DbError> {
    let statement = client.prepare_cached(COMPLETE_JOBS).await?;
    let (job_ids, run_ids) = columns(runs);
    let row = client.query_one(&statement, &[&job_ids, &run_ids]).await?;
    Ok(Completed {
        jobs: row.try_get("p_completed")?,
        busy: row.try_get("p_busy")?,
    })
}

/// A run that failed, and how.
#[derive(Debug, Clone)]
pub struct FailedRun {
    /// The run.
    pub run: Run,
    /// What went wrong; kept to 2,000 characters.
    pub error: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// Wait at least this long before the next attempt.
    pub retry_after: Option<Duration>,
}

/// How often and how soon failed jobs are tried again, where no retry policy in the database says otherwise.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub max_attempts: u16,
    /// Back-off after the first failure; it doubles with each further one.
    pub backoff_base: Duration,
    /// The longest back-off.
    pub backoff_cap: Duration,
}

/// What became of failed jobs.
#[derive(Debug, Default)]
pub struct Failed {
    /// Jobs that will be tried again.
    pub retrying: Vec<Uuid>,
    /// Jobs that were given up.
    pub dead_lettered: Vec<Uuid>,
    /// Jobs that somebody else holds just now: nothing was written for them, ask again.
    pub busy: Vec<Uuid>,
    /// When the first retry is due: whom to wake the relays for.
    pub next_due: Option<DateTime<Utc>>,
}

/// Ends runs that failed. Jobs whose current run it was are retried or given up, as the database decides.
///
/// # Errors
/// [`DbError`]: it is not known whether they ended; fail them again (that is harmless).
pub async fn fail_jobs(
    client: &impl GenericClient,
    failures: &[FailedRun],
    policy: &RetryPolicy,
) -> Result<Failed, DbError> {
    let statement = client.prepare_cached(FAIL_JOBS).await?;
    let runs: Vec<Run> = failures.iter().map(|failure| failure.run).collect();
    let (job_ids, run_ids) = columns(&runs);
    // PostgreSQL's text holds no NUL.
    let errors: Vec<String> = failures
        .iter()
        .map(|failure| failure.error.replace('\0', "\u{fffd}"))
        .collect();
    let retryable: Vec<bool> = failures.iter().map(|failure| failure.retryable).collect();
    let retry_after: Vec<Option<f64>> = failures
        .iter()
        .map(|failure| failure.retry_after.map(|wait| wait.as_secs_f64()))
        .collect();
    let row = client
        .query_one(
            &statement,
            &[
                &job_ids,
                &run_ids,
                &errors,
                &retryable,
                &retry_after,
                &i32::from(policy.max_attempts),
                &policy.backoff_base.as_secs_f64(),
                &policy.backoff_cap.as_secs_f64(),
            ],
        )
        .await?;
    let mut failed = Failed {
        next_due: row.try_get("p_next_due")?,
        busy: row.try_get("p_busy")?,
        ..Failed::default()
    };
    let ids: Vec<Uuid> = row.try_get("p_failed")?;
    let outcomes: Vec<&str> = row.try_get("p_outcomes")?;
    for (id, outcome) in ids.into_iter().zip(outcomes) {
        match outcome {
            "retrying" => failed.retrying.push(id),
            "dead_lettered" => failed.dead_lettered.push(id),
            other => return Err(row_enum("p_outcomes", other)),
        }
    }
    Ok(failed)
}

/// Extends the leases of runs that go on; returns the jobs that were lost: stop their handlers.
///
/// # Errors
/// [`DbError`]: the leases run on; try again before they end.
pub async fn renew_leases(
    client: &impl GenericClient,
    runs: &[Run],
    lease: Duration,
) -> Result<Vec<Uuid>, DbError> {
    let statement = client.prepare_cached(RENEW_LEASES).await?;
    let (job_ids, run_ids) = columns(runs);
    Ok(client
        .query_one(&statement, &[&job_ids, &run_ids, &lease.as_secs_f64()])
        .await?
        .try_get("p_lost")?)
}

/// Hands back runs that will not be finished, because this process was told to end: their jobs are in the outbox again at
/// once. Returns the jobs whose current run it was.
///
/// # Errors
/// [`DbError`]: their leases will run out.
pub async fn hand_back_runs(client: &impl GenericClient, runs: &[Run]) -> Result<Vec<Uuid>, DbError> {
    let statement = client.prepare_cached(HAND_BACK_RUNS).await?;
    let (job_ids, run_ids) = columns(runs);
    Ok(client
        .query_one(&statement, &[&job_ids, &run_ids])
        .await?
        .try_get("p_handed_back")?)
}

/// What a sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Jobs that were put in the outbox again.
    pub rescued: u32,
    /// Jobs that were given up as poison.
    pub poisoned: u32,
}

/// Takes over at most `limit` jobs whose lease has run out. Zeros if another process sweeps just now, or has less than
/// `not_within` ago.
///
/// # Errors
/// [`DbError`]: nothing was taken over.
pub async fn sweep_leases(
    client: &impl GenericClient,
    limit: u16,
    not_within: Duration,
) -> Result<Swept, DbError> {
    let statement = client.prepare_cached(SWEEP_LEASES).await?;
    let row = client
        .query_one(&statement, &[&i32::from(limit), &not_within.as_secs_f64()])
        .await?;
    let count = |name| row.try_get::<_, i32>(name).map(i32::unsigned_abs);
    Ok(Swept {
        rescued: count("rescued")?,
        poisoned: count("poisoned")?,
    })
}
