//! The batcher between requests and `ingest_webhooks`: whatever waits when a connection falls free is one transaction.
//! No timer, and no delay when idle. One lane takes all that waits; the others help only when the first webhook has
//! waited too long.
//!
//! Owns the way of a webhook and its lanes. What waits is in `queue.rs`, a batch's transaction in `commit.rs`, how fast it
//! is refused while the database is away in `breaker.rs`, and what is expected of a batch in `guess.rs`.

mod breaker;
mod commit;
mod guess;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use serde_json::value::RawValue;
use sql::Pool;
use sql::ingest::{Fingerprint, IngestRules, Ingested, NewWebhook};
use sql::outbox::wake_relays;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use self::breaker::Breaker;
use self::commit::{Committed, LockedTenants};
use self::guess::Guess;
use self::queue::{Pending, Queue};
use crate::config::IngestConfig;
use crate::error::ApiError;

/// When the first of the queue has waited this long, another lane opens beside the first.
const HELP_AFTER: Duration = Duration::from_millis(50);

/// Pause of a lane that finds only what other lanes have in flight.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(2);

/// Least time between two calls that wake relays: under load they are awake, and each call costs what a webhook does.
const WAKE_PAUSE: Duration = Duration::from_millis(5);

/// How long a lane that has nothing to do keeps its connection: at any rate that matters the next batch goes to the server
/// process that has all at hand. Where there are too few connections for lanes beside all others, none is kept.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Why a webhook is refused: shown to its sender.
const AWAY: &str = "the database is away";
const LATE: &str = "the database did not answer in time";
const ENDING: &str = "the service is ending";

/// A verified webhook on its way to the database.
#[derive(Debug)]
pub struct Webhook {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The source.
    pub source: String,
    /// The provider's id of the event.
    pub provider_event_id: Option<String>,
    /// What happened.
    pub event_type: String,
    /// The bytes that were signed.
    pub body: Bytes,
    /// Of the above.
    pub fingerprint: Fingerprint,
    /// Allow-listed headers.
    pub headers: Value,
    /// When it was signed, where the scheme says so.
    pub signature_timestamp: Option<DateTime<Utc>>,
    /// The secret version that verified it.
    pub secret_id: Option<Uuid>,
    /// Correlation id.
    pub correlation_id: String,
    /// W3C trace context, if there is one.
    pub trace_context: Option<Box<RawValue>>,
}

impl Webhook {
    fn as_row(&self) -> NewWebhook<'_> {
        NewWebhook {
            tenant_id: self.tenant_id,
            source: &self.source,
            provider_event_id: self.provider_event_id.as_deref(),
            event_type: &self.event_type,
            body: &self.body,
            fingerprint: self.fingerprint,
            headers: &self.headers,
            signature_timestamp: self.signature_timestamp,
            secret_id: self.secret_id,
            correlation_id: &self.correlation_id,
            trace_context: self.trace_context.as_deref(),
        }
    }
}

/// What the lanes share.
struct Shared {
    pool: Pool,
    config: IngestConfig,
    rules: IngestRules,
    queue: Queue,
    breaker: Breaker,
    locked: LockedTenants,
    guess: Guess,
    /// Wakes the relays after a commit, off the answers' path.
    committed: Notify,
    /// How long a lane without work keeps its connection.
    kept_for: Duration,
}

/// Where handlers hand in what they have verified. Clones share one queue.
#[derive(Clone)]
pub struct Ingest(Arc<Shared>);

impl Ingest {
    /// A batcher with `lanes` connections at the most, and one at the least; its tasks run on `tasks` until `stop`.
    pub fn start(
        pool: Pool,
        config: IngestConfig,
        rules: IngestRules,
        lanes: u16,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            queue: Queue::new(&config),
            pool,
            config,
            rules,
            breaker: Breaker::default(),
            locked: LockedTenants::default(),
            guess: Guess::default(),
            committed: Notify::new(),
            kept_for: if lanes > 0 { KEPT_FOR } else { Duration::ZERO },
        });
        for lane in 0..lanes.max(1) {
            tasks.spawn(run_lane(Arc::clone(&shared), lane, stop.clone()));
        }
        tasks.spawn(run_waker(Arc::clone(&shared), stop.clone()));
        let (probed, probe_stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move { probed.breaker.probe(&probed.pool, &probe_stop).await });
        Self(shared)
    }

    /// Commits a webhook and returns what became of it.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the database is away, the queue is full or the deadline has passed: nothing is
    /// stored then, or it is and a retry is answered as a duplicate. [`ApiError::Internal`] if it can't be stored.
    pub async fn submit(&self, webhook: Webhook) -> Result<Ingested, ApiError> {
        let deadline = Instant::now() + self.0.config.deadline();
        if self.0.breaker.is_open() {
            return Err(ApiError::Unavailable(AWAY));
        }
        let (answer, receiver) = oneshot::channel();
        self.0.queue.push(Pending {
            webhook,
            answer,
            queued: Instant::now(),
        })?;
        match timeout_at(deadline, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ApiError::Unavailable(ENDING)),
            Err(_) => Err(ApiError::Unavailable(LATE)),
        }
    }

    /// Whether the breaker is open: the database was found away.
    pub fn breaker_open(&self) -> bool {
        self.0.breaker.is_open()
    }

    /// Webhooks that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.0.queue.len()
    }
}

/// Takes batches until `stop`. Lane 0 takes at once; a further one only what has waited [`HELP_AFTER`].
///
/// A batch is answered once the next one is on its way, or there is none: the database works meanwhile.
async fn run_lane(shared: Arc<Shared>, lane: u16, stop: CancellationToken) {
    let mut committed = Committed::default();
    let mut kept = None;
    loop {
        if !is_ready(&shared, lane) {
            committed.answer();
            committed = Committed::default();
            let ready = async {
                if timeout(shared.kept_for, until_ready(&shared, lane))
                    .await
                    .is_err()
                {
                    kept = None;
                    until_ready(&shared, lane).await;
                }
            };
            tokio::select! {
                () = ready => {}
                () = stop.cancelled() => return queue::refuse_all(shared.queue.close(), ENDING),
            }
        }
        let batch = shared.queue.take_batch();
        let answering = async {
            // The connection's task sends the batch first.
            tokio::task::yield_now().await;
            committed.answer();
        };
        if batch.is_empty() {
            answering.await;
            committed = Committed::default();
            // All that waits is of tenants in flight.
            tokio::time::sleep(IN_FLIGHT_PAUSE).await;
            continue;
        }
        (committed, ()) = tokio::join!(biased; commit::commit_batch(&shared, batch, &mut kept), answering);
    }
}

/// Whether there is something for a lane to take.
fn is_ready(shared: &Shared, lane: u16) -> bool {
    let waits = |queued: Instant| lane == 0 || queued.elapsed() >= HELP_AFTER;
    shared.queue.first_queued().is_some_and(waits)
}

/// Ends when there may be.
async fn until_ready(shared: &Shared, lane: u16) {
    while !is_ready(shared, lane) {
        match shared.queue.first_queued() {
            Some(queued) => tokio::time::sleep_until(queued + HELP_AFTER).await,
            None if lane == 0 => shared.queue.arrival().await,
            None => shared.queue.stall().await,
        }
    }
}

/// After commits, in a transaction of its own: wakes the relays, if one sleeps. The first commit's call is made at once, and
/// those of the next moment share one.
async fn run_waker(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.committed.notified() => {}
        }
        let woken = async { wake_relays(&shared.pool.get().await?, None).await };
        if let Err(error) = woken.await {
            // The relays find the rows themselves when they next poll.
            tracing::warn!(%error, "the relays can't be woken");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(WAKE_PAUSE) => {}
        }
    }
}
