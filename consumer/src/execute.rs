//! One run of one job: from its start to its written outcome.
//!
//! Owns the run's span, its handler's task and the line that says how it ended. Started by `delivery.rs`; the outcome
//! is written by `finish.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use observability::propagation::TraceContext;
use prometheus_client::metrics::histogram::Histogram;
use sql::jobs::StartedJob;
use sql::traffic::{Traffic, What};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

use crate::finish::{Ended, Finisher};
use crate::leases::{Lease, Leases};
use crate::metrics::metrics;
use crate::outcome::Outcome;
use crate::registry::{JobContext, Registry};

/// Upper bounds of the histogram, in seconds: from a handler that does next to nothing to one that calls slow others.
const DURATIONS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0,
];

metrics! {
    /// How long handlers take.
    pub(crate) struct RunMetrics {
        /// Time from a run's start to its handler's verdict, whatever that is
        duration("job_processing_duration_seconds"): Histogram = Histogram::new(DURATIONS),
    }
}

/// Runs started jobs. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    pub(crate) registry: Registry,
    pub(crate) leases: Leases,
    pub(crate) finisher: Finisher,
    pub(crate) metrics: RunMetrics,
    /// How long a handler may take.
    pub(crate) timeout: Duration,
    /// Ended runs per minute, written by `service.rs`.
    pub(crate) traffic: Arc<Traffic>,
}

/// How a handler ended.
enum Verdict {
    Outcome(Outcome),
    /// The job is somebody else's now; the handler was stopped.
    Lost,
}

impl Executor {
    /// Runs one started job on `runs`. `slot` is given back once its outcome is written, so that outcomes which can't
    /// be written hold up new starts; and not before its handler has ended, so that handlers which can't be stopped,
    /// because they block their thread, are no more than there are slots.
    pub(crate) fn launch<S: Send + 'static>(&self, job: StartedJob, slot: S, runs: &mut JoinSet<()>) {
        let lease = self.leases.hold(job.run);
        let span = span_of(&job);
        let executor = self.clone();
        let run = async move {
            // The handler's task; of its own, because a panic ends no more than that. Dropping the set stops it.
            let mut handler = JoinSet::new();
            executor.run(job, lease, &mut handler).await;
            handler.shutdown().await;
            drop(slot);
        };
        runs.spawn(run.instrument(span));
    }

    /// To the written outcome. A handler that was told to stop may still be running then.
    async fn run(&self, job: StartedJob, lease: Lease, task: &mut JoinSet<Outcome>) {
        let (run, tenant_id, source) = (job.run, job.tenant_id, job.source.clone());
        let begun = Instant::now();
        let verdict = self.verdict(job, &lease, task).await;
        let duration = begun.elapsed();
        self.metrics.duration.observe(duration.as_secs_f64());
        let error = match &verdict {
            Verdict::Outcome(Outcome::Retry { error, .. } | Outcome::Failed { error }) => error.clone(),
            _ => String::new(),
        };
        let ended = match verdict {
            Verdict::Outcome(outcome) => self.finisher.finish(run, outcome).await,
            Verdict::Lost => Ended::NotOurs,
        };
        drop(lease);
        match ended {
            Ended::Succeeded => self.traffic.count(tenant_id, &source, What::Succeeded),
            Ended::Retrying => self.traffic.count(tenant_id, &source, What::Retried),
            Ended::DeadLettered => self.traffic.count(tenant_id, &source, What::DeadLettered),
            Ended::NotOurs => {
                self.leases.metrics.lost.inc();
            }
            Ended::Busy | Ended::Unwritten(_) => {}
        }
        log_end(
            &ended,
            &error,
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        );
    }

    async fn verdict(&self, job: StartedJob, lease: &Lease, task: &mut JoinSet<Outcome>) -> Verdict {
        let prepared = self
            .registry
            .handler(&job.job_kind)
            .and_then(|handler| Ok((handler, JobContext::of(job)?)));
        let (handler, context) = match prepared {
            Ok(prepared) => prepared,
            Err(outcome) => return Verdict::Outcome(outcome),
        };
        task.spawn(async move { handler.run(context).await }.instrument(Span::current()));
        let verdict = tokio::select! {
            biased;
            Some(joined) = task.join_next() => {
                Verdict::Outcome(joined.unwrap_or_else(Outcome::of_broken_handler))
            }
            () = lease.lost() => Verdict::Lost,
            () = tokio::time::sleep(self.timeout) => Verdict::Outcome(Outcome::timed_out(self.timeout)),
        };
        task.abort_all();
        verdict
    }
}

/// Every line of the run carries these. Its parent is the request that brought the event, on every attempt.
fn span_of(job: &StartedJob) -> Span {
    let span = tracing::info_span!(
        "job",
        otel.kind = "consumer",
        correlation_id = job.correlation_id,
        job.id = %job.run.job_id,
        job.kind = job.job_kind,
        tenant.id = %job.tenant_id,
        attempt = job.attempt,
    );
    let stored = job.event.as_ref().and_then(|event| event.trace_context.clone());
    // What does not read as a trace context is no reason not to run.
    let context: TraceContext = stored
        .and_then(|context| serde_json::from_value(context).ok())
        .unwrap_or_default();
    context.sanitised().set_parent_of(&span);
    span
}

fn log_end(ended: &Ended, error: &str, duration_ms: u64) {
    match ended {
        Ended::Succeeded => tracing::info!(duration_ms, "job succeeded"),
        Ended::Retrying => tracing::warn!(duration_ms, error, "job failed and will be tried again"),
        Ended::DeadLettered => tracing::error!(duration_ms, error, "job failed and was given up"),
        Ended::NotOurs => {
            tracing::warn!(
                duration_ms,
                error,
                "job has ended elsewhere or was taken over; this run counts for nothing"
            );
        }
        // The finisher has waited for it.
        Ended::Busy => {}
        Ended::Unwritten(refusal) => {
            tracing::error!(
                duration_ms,
                error,
                refusal,
                "the outcome can't be written; the job's lease will run out"
            );
        }
    }
}
