//! The batcher between requests and `ingest_webhooks`: whatever waits when a connection falls free is one transaction.
//! No timer, and no delay when idle. One lane takes all that waits; the others help only when the first webhook has
//! waited too long. Bounded in items, bytes and time. Owns the breaker that answers fast while the database is away.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use serde_json::value::RawValue;
use sql::ingest::{IngestRules, Ingested, NewWebhook, ingest_webhooks};
use sql::outbox::wake_relays;
use sql::{DbError, Object, Pool};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::IngestConfig;
use crate::error::ApiError;

/// When the first of the queue has waited this long, another lane opens beside the first.
const HELP_AFTER: Duration = Duration::from_millis(50);

/// Pause of a lane that finds only what other lanes have in flight.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(2);

/// How long a tenant whose rows somebody holds is refused before it is tried again.
const LOCKED_OUT_FOR: Duration = Duration::from_secs(1);

const AWAY: &str = "the database is away";
const LOCKED: &str = "the tenant's rows are locked by somebody else";

/// How often the database is tried while the breaker is open.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// Longest that a probe waits for its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

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
            headers: &self.headers,
            signature_timestamp: self.signature_timestamp,
            secret_id: self.secret_id,
            correlation_id: &self.correlation_id,
            trace_context: self.trace_context.as_deref(),
        }
    }
}

struct Pending {
    webhook: Webhook,
    answer: oneshot::Sender<Result<Ingested, ApiError>>,
    queued: Instant,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Pending>,
    bytes: usize,
    closed: bool,
    /// Tenants of the batches that are being committed. The quota row would have another lane wait for them anyway, and
    /// time out behind our own transaction.
    in_flight: HashSet<Uuid>,
}

struct Shared {
    pool: Pool,
    config: IngestConfig,
    rules: IngestRules,
    queue: Mutex<Queue>,
    arrived: Notify,
    /// Wakes the relays after a commit, off the answers' path.
    committed: Notify,
    breaker_open: AtomicBool,
    tripped: Notify,
    /// Tenants that are refused until then; at most as many as there are.
    locked_tenants: Mutex<HashMap<Uuid, Instant>>,
}

/// Where handlers hand in what they have verified. Clones share one queue.
#[derive(Clone)]
pub struct Ingest(Arc<Shared>);

impl Ingest {
    /// A batcher with `lanes` connections at the most; its tasks run on `tasks` until `stop`.
    pub fn start(
        pool: Pool,
        config: IngestConfig,
        rules: IngestRules,
        lanes: u16,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            pool,
            config,
            rules,
            queue: Mutex::default(),
            arrived: Notify::new(),
            committed: Notify::new(),
            breaker_open: AtomicBool::new(false),
            tripped: Notify::new(),
            locked_tenants: Mutex::default(),
        });
        for lane in 0..lanes.max(1) {
            tasks.spawn(run_lane(Arc::clone(&shared), lane, stop.clone()));
        }
        tasks.spawn(run_waker(Arc::clone(&shared), stop.clone()));
        tasks.spawn(run_probe(Arc::clone(&shared), stop.clone()));
        Self(shared)
    }

    /// Commits a webhook and returns what became of it.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the database is away, the queue is full or the deadline has passed: nothing is
    /// stored then, or it is and a retry is answered as a duplicate. [`ApiError::Internal`] if it can't be stored.
    pub async fn submit(&self, webhook: Webhook) -> Result<Ingested, ApiError> {
        let deadline = Instant::now() + self.0.config.deadline();
        if self.0.breaker_open.load(Ordering::Acquire) {
            return Err(ApiError::Unavailable(AWAY));
        }
        let (answer, receiver) = oneshot::channel();
        self.0.push(Pending {
            webhook,
            answer,
            queued: Instant::now(),
        })?;
        self.0.arrived.notify_one();
        match timeout_at(deadline, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ApiError::Unavailable("the service is ending")),
            Err(_) => Err(ApiError::Unavailable("the database did not answer in time")),
        }
    }

    /// Whether the breaker is open: the database was found away.
    pub fn breaker_open(&self) -> bool {
        self.0.breaker_open.load(Ordering::Acquire)
    }

    /// Webhooks that wait for a connection.
    pub fn waiting(&self) -> usize {
        self.0.lock().items.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, pending: Pending) -> Result<(), ApiError> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(ApiError::Unavailable("the service is ending"));
        }
        let bytes = queue.bytes + pending.webhook.body.len();
        if queue.items.len() >= self.config.queue_items as usize || bytes > self.config.queue_bytes as usize {
            return Err(ApiError::Unavailable("too many webhooks wait for the database"));
        }
        queue.bytes = bytes;
        queue.items.push_back(pending);
        Ok(())
    }

    /// The first webhooks of the queue, as many as fit one batch, but for those of tenants that another lane has in
    /// flight: they stay, in order. Those whose sender has gone are dropped.
    fn take_batch(&self) -> Vec<Pending> {
        let mut guard = self.lock();
        let queue = &mut *guard;
        let (mut batch, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        while let Some(pending) = queue.items.pop_front() {
            let size = pending.webhook.body.len();
            if pending.answer.is_closed() {
                queue.bytes = queue.bytes.saturating_sub(size);
                continue;
            }
            if queue.in_flight.contains(&pending.webhook.tenant_id) {
                left.push_back(pending);
                continue;
            }
            let full = batch.len() >= self.config.batch_items as usize
                || (!batch.is_empty() && bytes + size > self.config.batch_bytes as usize);
            if full {
                queue.items.push_front(pending);
                break;
            }
            queue.bytes = queue.bytes.saturating_sub(size);
            bytes += size;
            batch.push(pending);
        }
        while let Some(pending) = left.pop_back() {
            queue.items.push_front(pending);
        }
        queue
            .in_flight
            .extend(batch.iter().map(|pending| pending.webhook.tenant_id));
        batch
    }

    fn first_queued(&self) -> Option<Instant> {
        self.lock().items.front().map(|pending| pending.queued)
    }

    /// The database is away: everybody who waits is told so now, and those who come are told at once.
    fn trip(&self) {
        if !self.breaker_open.swap(true, Ordering::AcqRel) {
            tracing::error!("the database is away: webhooks are answered 503 until it is back");
        }
        self.refuse_waiting(AWAY);
        self.tripped.notify_one();
    }

    fn refuse_waiting(&self, why: &'static str) {
        let items = {
            let mut queue = self.lock();
            queue.bytes = 0;
            std::mem::take(&mut queue.items)
        };
        refuse_all(items.into(), why);
    }

    fn lock_out(&self, tenant: Uuid) {
        let mut locked = self.locked_tenants();
        locked.insert(tenant, Instant::now() + LOCKED_OUT_FOR);
    }

    /// Answers the webhooks of tenants whose rows were found locked just now, and returns the others.
    fn refuse_locked_tenants(&self, batch: Vec<Pending>) -> Vec<Pending> {
        let mut locked = self.locked_tenants();
        if locked.is_empty() {
            return batch;
        }
        let now = Instant::now();
        locked.retain(|_, until| *until > now);
        let (refused, others) = batch
            .into_iter()
            .partition(|pending| locked.contains_key(&pending.webhook.tenant_id));
        drop(locked);
        refuse_all(refused, LOCKED);
        others
    }

    fn locked_tenants(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.locked_tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes batches until `stop`. Lane 0 takes at once; a further one only what has waited [`HELP_AFTER`].
async fn run_lane(shared: Arc<Shared>, lane: u16, stop: CancellationToken) {
    loop {
        let ready = async {
            loop {
                match shared.first_queued() {
                    Some(queued) if lane > 0 => {
                        let help_at = queued + HELP_AFTER;
                        if Instant::now() >= help_at {
                            return;
                        }
                        tokio::time::sleep_until(help_at).await;
                    }
                    Some(_) => return,
                    // Lane 0 is the one that arrivals wake; the others look when they may be needed.
                    None if lane == 0 => shared.arrived.notified().await,
                    None => tokio::time::sleep(HELP_AFTER).await,
                }
            }
        };
        tokio::select! {
            () = ready => {}
            () = stop.cancelled() => {
                shared.lock().closed = true;
                return shared.refuse_waiting("the service is ending");
            }
        }
        let batch = shared.take_batch();
        if batch.is_empty() {
            // All that waits is of tenants in flight.
            tokio::time::sleep(IN_FLIGHT_PAUSE).await;
            continue;
        }
        commit_batch(&shared, batch).await;
    }
}

/// The tenants of one batch that are still in flight; on drop none is.
struct InFlight<'a> {
    shared: &'a Shared,
    tenants: HashSet<Uuid>,
}

impl InFlight<'_> {
    /// These are answered: other lanes may take what has come for them meanwhile.
    fn landed(&mut self, items: &[Pending]) {
        let mut queue = self.shared.lock();
        for pending in items {
            if self.tenants.remove(&pending.webhook.tenant_id) {
                queue.in_flight.remove(&pending.webhook.tenant_id);
            }
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        self.tenants.iter().for_each(|tenant| {
            queue.in_flight.remove(tenant);
        });
    }
}

/// Part of a batch, and whether it has been tried alone before.
struct Part {
    items: Vec<Pending>,
    retried: bool,
}

/// Commits a batch. What can't be passed whole is tried again in parts: by tenant, so that one tenant's held quota row
/// stops nobody else; then, unless it is a lock that stands in the way, by halves, so that one bad webhook fails alone.
async fn commit_batch(shared: &Shared, batch: Vec<Pending>) {
    let deadline = Instant::now() + shared.config.deadline();
    let tenants = batch.iter().map(|pending| pending.webhook.tenant_id).collect();
    let mut in_flight = InFlight { shared, tenants };
    let batch = shared.refuse_locked_tenants(batch);
    if batch.is_empty() {
        return;
    }
    let client = match timeout_at(deadline, shared.pool.get()).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return give_up(shared, batch, &error.to_string()),
        Err(_) => return give_up(shared, batch, "no connection in time"),
    };
    // Once it has answered anything, a database that is late is busy, not away.
    let mut answered = false;
    let mut parts = VecDeque::from([Part {
        items: batch,
        retried: false,
    }]);
    while let Some(part) = parts.pop_front() {
        match timeout_at(deadline, try_batch(&client, shared, &part.items)).await {
            Ok(Ok(outcomes)) => {
                answered = true;
                if outcomes
                    .iter()
                    .any(|outcome| matches!(outcome, Ingested::Accepted { .. }))
                {
                    shared.committed.notify_one();
                }
                in_flight.landed(&part.items);
                for (pending, outcome) in part.items.into_iter().zip(outcomes) {
                    let _ = pending.answer.send(Ok(outcome));
                }
            }
            Ok(Err(error)) if !error.is_unavailable() => {
                answered = true;
                split(shared, part, &error, &mut parts);
            }
            failed => {
                // The statement may still run, and its answer would be the next one's: the connection is dropped.
                drop(Object::take(client));
                let rest = parts.into_iter().flat_map(|part| part.items);
                let rest = part.items.into_iter().chain(rest).collect();
                return match failed {
                    Ok(Err(error)) => give_up(shared, rest, &error.to_string()),
                    _ if answered => refuse_all(rest, "the database did not answer in time"),
                    _ => give_up(shared, rest, "no answer in time"),
                };
            }
        }
    }
}

async fn try_batch(client: &Object, shared: &Shared, part: &[Pending]) -> Result<Vec<Ingested>, DbError> {
    let rows: Vec<NewWebhook<'_>> = part.iter().map(|pending| pending.webhook.as_row()).collect();
    ingest_webhooks(client, &rows, &shared.rules).await
}

/// Puts the parts of a failed batch back, or answers those that can't be parted any further. A tenant whose rows are
/// locked is refused for a while without asking: the others would wait for it each time.
fn split(shared: &Shared, part: Part, error: &DbError, parts: &mut VecDeque<Part>) {
    let Part { mut items, retried } = part;
    tracing::warn!(%error, batch.items = items.len(), "a batch failed");
    items.sort_by_key(|pending| pending.webhook.tenant_id);
    let mut tenants = into_tenants(items);
    if tenants.len() > 1 {
        parts.extend(tenants.into_iter().map(|items| Part {
            items,
            retried: false,
        }));
        return;
    }
    let mut items = tenants.pop().unwrap_or_default();
    match error {
        // Another batch of ours may have held the row while it waited for somebody else.
        DbError::Busy(_) | DbError::Locked(_) if !retried => parts.push_back(Part { items, retried: true }),
        DbError::Invalid(_) | DbError::Bug(_) if items.len() > 1 => {
            let second_half = items.split_off(items.len() / 2);
            parts.extend([items, second_half].map(|items| Part {
                items,
                retried: false,
            }));
        }
        DbError::Locked(_) => {
            if let Some(pending) = items.first() {
                shared.lock_out(pending.webhook.tenant_id);
            }
            refuse_all(items, LOCKED);
        }
        error if error.is_retryable() => refuse_all(items, "the database is busy"),
        error => {
            for pending in items {
                tracing::error!(%error, correlation_id = pending.webhook.correlation_id,
                    tenant.id = %pending.webhook.tenant_id, "a webhook can't be stored");
                let _ = pending.answer.send(Err(ApiError::Internal));
            }
        }
    }
}

/// Runs of one tenant each, of items that are sorted by tenant.
fn into_tenants(sorted: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut tenants: Vec<Vec<Pending>> = Vec::new();
    for pending in sorted {
        match tenants.last_mut() {
            Some(run)
                if run
                    .first()
                    .is_some_and(|p| p.webhook.tenant_id == pending.webhook.tenant_id) =>
            {
                run.push(pending);
            }
            _ => tenants.push(vec![pending]),
        }
    }
    tenants
}

fn refuse_all(items: Vec<Pending>, why: &'static str) {
    for pending in items {
        let _ = pending.answer.send(Err(ApiError::Unavailable(why)));
    }
}

fn give_up(shared: &Shared, items: Vec<Pending>, why: &str) {
    tracing::error!(
        error = why,
        batch.items = items.len(),
        "a batch was not committed"
    );
    for pending in items {
        let _ = pending
            .answer
            .send(Err(ApiError::Unavailable("the database is away")));
    }
    shared.trip();
}

/// After each commit, in a transaction of its own: wakes the relays, if one sleeps. Commits meanwhile share a call.
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
    }
}

/// While the breaker is open, tries the database until it answers.
async fn run_probe(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.tripped.notified() => {}
        }
        while shared.breaker_open.load(Ordering::Acquire) {
            match timeout(PROBE_TIMEOUT, sql::operators::ping(&shared.pool)).await {
                Ok(Ok(())) => {
                    shared.breaker_open.store(false, Ordering::Release);
                    tracing::info!("the database is back");
                }
                Ok(Err(_)) | Err(_) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PROBE_EVERY) => {}
                },
            }
        }
    }
}
