//! What the relay counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use observability::metrics::{Encoder, PartitionHorizon};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sql::jobs::Swept;
use sql::outbox::{Target, count_outbox};
use sql::pool::CALL_TIMEOUT;
use sql::{Pool, pool};
use tokio_util::sync::CancellationToken;

use crate::outgoing::PublishOutcome;

/// How fresh the count of waiting messages is while somebody scrapes.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How many times of [`COUNT_EVERY`] pass between counts when nobody does.
const COUNT_UNASKED: u32 = 15;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabel {
    target: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    target: &'static str,
    outcome: &'static str,
}

/// Counters of the relay. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RelayMetrics {
    pending: Gauge<i64, AtomicI64>,
    published: Family<TargetLabel, Counter>,
    not_published: Family<OutcomeLabels, Counter>,
    batches: Family<TargetLabel, Counter>,
    rescued: Counter,
    poisoned: Counter,
    /// For how long there are partitions.
    pub(crate) horizon: PartitionHorizon,
    scraped: Arc<AtomicBool>,
}

impl RelayMetrics {
    /// Registers the families and returns the encoder of all.
    pub fn encoder(&self, mut registry: Registry) -> Encoder {
        registry.register(
            "outbox_pending_count",
            "Messages that wait for the broker, as of the last second",
            self.pending.clone(),
        );
        registry.register(
            "outbox_published",
            "Messages that the broker has confirmed, by target",
            self.published.clone(),
        );
        registry.register(
            "outbox_not_published",
            "Messages that were put off (nacked, returned, lost, timed_out, unknown_kind) or given up (unpublishable, dropped, unheard), by target",
            self.not_published.clone(),
        );
        registry.register(
            "outbox_batches",
            "Batches claimed and settled, by target",
            self.batches.clone(),
        );
        registry.register(
            "jobs_rescued",
            "Jobs whose lease had run out and that this process put in the outbox again",
            self.rescued.clone(),
        );
        registry.register(
            "dlq_messages",
            "Jobs that this process has given up as poison; each has its copy in the dead-letter queue",
            self.poisoned.clone(),
        );
        self.horizon.register(&mut registry);
        let (encode, scraped) = (
            observability::metrics::encoder(registry),
            Arc::clone(&self.scraped),
        );
        Arc::new(move || {
            scraped.store(true, Ordering::Relaxed);
            encode()
        })
    }

    pub(crate) fn batch_settled(&self, target: Target, confirmed: usize) {
        let label = TargetLabel {
            target: target.as_str(),
        };
        self.batches.get_or_create(&label).inc();
        self.published.get_or_create(&label).inc_by(confirmed as u64);
    }

    pub(crate) fn jobs_swept(&self, swept: Swept) {
        self.rescued.inc_by(swept.rescued.into());
        self.poisoned.inc_by(swept.poisoned.into());
    }

    pub(crate) fn not_published(&self, target: Target, outcome: &'static str) {
        self.not_published
            .get_or_create(&OutcomeLabels {
                target: target.as_str(),
                outcome,
            })
            .inc();
    }

    /// Counts the outbox: every second while somebody scrapes, rarely otherwise, so that an idle relay is idle.
    pub(crate) async fn keep_counting(self, pool: Pool, stop: CancellationToken) {
        let mut unasked = COUNT_UNASKED;
        loop {
            if self.scraped.swap(false, Ordering::Relaxed) || unasked >= COUNT_UNASKED {
                unasked = 0;
                let count = async |client: &sql::Object| count_outbox(client).await;
                let counted = stop
                    .run_until_cancelled(pool::call(&pool, CALL_TIMEOUT, count))
                    .await;
                // Without a database the last count stands; readiness says that it is away.
                if let Some(Ok(count)) = counted {
                    self.pending.set(count);
                }
            }
            unasked += 1;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(COUNT_EVERY) => {}
            }
        }
    }
}

/// The label value of an outcome that is no success.
pub(crate) fn outcome_label(outcome: &PublishOutcome) -> &'static str {
    match outcome {
        PublishOutcome::Confirmed => "confirmed",
        PublishOutcome::Nacked => "nacked",
        PublishOutcome::Returned { .. } => "returned",
        PublishOutcome::Lost(_) => "lost",
        PublishOutcome::TimedOut => "timed_out",
        PublishOutcome::Refused(_) => "unpublishable",
    }
}
