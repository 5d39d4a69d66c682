//! One batch: claim, publish, settle, in one transaction. Only the loops in `service.rs` sleep.
//!
//! If the process dies before the commit, the rows are still in the outbox and go out again: consumers are told apart
//! repeats by the job's state, not by the broker.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use sql::low_water::LowWaterMark;
use sql::outbox::{
    ClaimedMessage, Deferred, Settlement, Target, abandon_outbox, claim_outbox, settle_outbox,
};
use sql::pool::discard_idle;
use sql::{DbError, Object, Pool};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::envelope::{Unmade, envelope};
use crate::kept::Turn;
use crate::metrics::{RelayMetrics, outcome_label};
use crate::outgoing::PublishOutcome;
use crate::publisher::Publisher;
use crate::topology::Topology;

/// Longest that a cycle's transaction is open: the claim, the confirms (`claim_timeout` at most) and the settlement. A
/// database that is frozen ends it no earlier; one that lives ends an idle one after 15 s by itself.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(20);

/// Back-off of a message that the broker did not take: doubles from the first to the last. One that was lost with its
/// connection waits for the first only.
const BACKOFF_BASE: Duration = Duration::from_millis(250);
const BACKOFF_CAP: Duration = Duration::from_secs(60);

/// How long an event is offered to a topic exchange that refuses it. Our own jobs are offered for ever.
const EVENTS_GIVEN_UP_AFTER: TimeDelta = TimeDelta::hours(1);

/// What a cycle found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cycle {
    /// Nothing was due, or another relay has it.
    Idle,
    /// This many messages were claimed; they are confirmed or put off.
    Settled(usize),
}

/// Why a cycle could not be finished. Its rows are free again.
#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The database kept the batch too long.
    #[error("the database did not settle the batch in time")]
    Frozen,
}

/// Bodies of a claim, in bytes, at which `claim_outbox` cuts it off.
const CLAIM_BYTES: usize = 4 << 20;

/// What the cycles of one target share.
#[derive(Debug)]
pub struct Drain {
    target: Target,
    topology: Topology,
    batch_items: u16,
    claim_timeout: Duration,
    low_water: Mutex<LowWaterMark>,
    /// A claim was full: there may be work for one lane more.
    more: Notify,
    metrics: RelayMetrics,
}

impl Drain {
    /// Cycles of `target`. No claim is held longer than `claim_timeout`.
    pub fn new(
        target: Target,
        topology: Topology,
        batch_items: u16,
        claim_timeout: Duration,
        metrics: RelayMetrics,
    ) -> Self {
        Self {
            target,
            topology,
            batch_items,
            claim_timeout,
            low_water: Mutex::new(LowWaterMark::new(Instant::now())),
            more: Notify::new(),
            metrics,
        }
    }

    /// The target that is drained.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Ends when a claim was full, and no further lane has been told so yet.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    /// Claims what is due, publishes it and settles it; a probe takes one message.
    ///
    /// # Errors
    /// [`CycleError`]: nothing is settled; what was published is published again.
    pub async fn run_cycle(&self, pool: &Pool, turn: &Turn) -> Result<Cycle, CycleError> {
        let mut client = pool.get().await.map_err(DbError::from)?;
        let deadline = Instant::now() + TRANSACTION_LIMIT;
        match timeout_at(deadline, self.run_on(&mut client, turn)).await {
            Ok(ran) => ran,
            Err(_) => {
                // Its next user would wait for the answer that we have given up; and what it has claimed is free once it
                // is gone.
                drop(Object::take(client));
                discard_idle(pool);
                Err(CycleError::Frozen)
            }
        }
    }

    async fn run_on(&self, client: &mut Object, turn: &Turn) -> Result<Cycle, CycleError> {
        let until = Instant::now() + self.claim_timeout;
        let transaction = client.transaction().await.map_err(DbError::from)?;
        let from = self.mark().claim_from(Instant::now());
        let limit = if turn.is_probe() { 1 } else { self.batch_items };
        let claimed = claim_outbox(&transaction, self.target, limit, from).await?;
        let Some(last) = claimed.last() else {
            transaction.rollback().await.map_err(DbError::from)?;
            return Ok(Cycle::Idle);
        };
        self.mark().claimed_to(last.next_attempt_at);
        if !turn.is_probe() && is_full(&claimed, limit) {
            self.more.notify_one();
        }
        let (settlement, abandoned) = self.publish(&turn.publisher, &claimed, until).await;
        settle_outbox(&transaction, &settlement, BACKOFF_BASE, BACKOFF_CAP).await?;
        transaction.commit().await.map_err(DbError::from)?;
        self.metrics
            .batch_settled(self.target, settlement.confirmed.len());
        if !abandoned.is_empty() {
            abandon_outbox(client, &abandoned).await?;
        }
        Ok(Cycle::Settled(claimed.len()))
    }

    async fn publish(
        &self,
        publisher: &Publisher,
        claimed: &[ClaimedMessage],
        until: Instant,
    ) -> (Settlement, Vec<(Uuid, String)>) {
        let mut settlement = Settlement::default();
        let mut abandoned = Vec::new();
        let mut messages = Vec::with_capacity(claimed.len());
        let mut sent = Vec::with_capacity(claimed.len());
        for row in claimed {
            match envelope(row, self.target, &self.topology) {
                Ok(message) => {
                    messages.push(message);
                    sent.push(row);
                }
                Err(Unmade::Never(reason)) => self.abandon(row, reason, "unpublishable", &mut abandoned),
                Err(newer @ Unmade::Newer(_)) => {
                    self.metrics.not_published(self.target, "unknown_kind");
                    settlement.deferred.push(Deferred {
                        id: row.id,
                        error: newer.to_string(),
                        blameless: false,
                    });
                }
            }
        }
        let outcomes = publisher.publish_batch(messages, until).await;
        for (row, outcome) in sent.into_iter().zip(outcomes) {
            // Not sent in time: it is the next cycle's, first of all.
            let Some(outcome) = outcome else { continue };
            match outcome {
                // Nor is it this one's fault, perhaps: the next sessions find out whose, one by one, in this order.
                PublishOutcome::Lost(_) if publisher.is_refused() => {}
                PublishOutcome::Confirmed => settlement.confirmed.push(row.id),
                // Nobody has bound a queue: delivered to everybody who listens.
                PublishOutcome::Returned { .. } if self.target == Target::Events => {
                    self.metrics.not_published(self.target, "unheard");
                    settlement.confirmed.push(row.id);
                }
                PublishOutcome::Refused(reason) => {
                    self.abandon(row, reason, "unpublishable", &mut abandoned);
                }
                PublishOutcome::Nacked if self.is_given_up(row) => {
                    self.abandon(row, PublishOutcome::Nacked.to_string(), "dropped", &mut abandoned);
                }
                other => {
                    self.metrics.not_published(self.target, outcome_label(&other));
                    settlement.deferred.push(Deferred {
                        id: row.id,
                        error: other.to_string(),
                        blameless: matches!(other, PublishOutcome::Lost(_) | PublishOutcome::TimedOut),
                    });
                    if matches!(other, PublishOutcome::Returned { .. }) {
                        publisher.give_up("a queue of ours is gone");
                    }
                }
            }
        }
        if let Some(first) = settlement.deferred.first() {
            tracing::warn!(
                outbox.target = self.target.as_str(),
                messages = settlement.deferred.len(),
                reason = first.error,
                "messages were put off"
            );
        }
        (settlement, abandoned)
    }

    fn abandon(
        &self,
        row: &ClaimedMessage,
        reason: String,
        outcome: &'static str,
        abandoned: &mut Vec<(Uuid, String)>,
    ) {
        tracing::error!(outbox.target = self.target.as_str(), outbox.id = %row.id, job.id = %row.job_id,
            event.id = %row.event_id, outcome, reason, "a message is given up");
        self.metrics.not_published(self.target, outcome);
        abandoned.push((row.id, reason));
    }

    /// Whether a stranger's queue has refused this event for too long, by the database's clock: it was due a moment ago.
    fn is_given_up(&self, row: &ClaimedMessage) -> bool {
        let refused_for = row.refused_since.map(|since| row.next_attempt_at - since);
        self.target == Target::Events && refused_for.is_some_and(|time| time > EVENTS_GIVEN_UP_AFTER)
    }

    fn mark(&self) -> MutexGuard<'_, LowWaterMark> {
        self.low_water.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a claim may have left something behind.
fn is_full(claimed: &[ClaimedMessage], limit: u16) -> bool {
    let body = |message: &ClaimedMessage| message.event.as_ref().map_or(0, |event| event.body.len());
    claimed.len() >= usize::from(limit) || claimed.iter().map(body).sum::<usize>() >= CLAIM_BYTES
}
