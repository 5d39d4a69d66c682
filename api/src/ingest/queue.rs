//! What waits for the database: bounded in items and bytes, taken in batches, in order of arrival but for tenants that
//! another lane has in flight.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sql::ingest::Ingested;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ENDING, Webhook};
use crate::config::IngestConfig;
use crate::error::ApiError;

/// A webhook that waits, and who waits for its answer.
pub(super) struct Pending {
    pub(super) webhook: Webhook,
    pub(super) answer: oneshot::Sender<Result<Ingested, ApiError>>,
    pub(super) queued: Instant,
}

/// How much may wait, and how much of it is one batch.
struct Bounds {
    queue_items: usize,
    queue_bytes: usize,
    batch_items: usize,
    batch_bytes: usize,
}

#[derive(Default)]
struct State {
    items: VecDeque<Pending>,
    bytes: usize,
    closed: bool,
    /// Tenants of the batches that are being committed. The quota row would have another lane wait for them anyway, and
    /// time out behind our own transaction.
    in_flight: HashSet<Uuid>,
    /// Batches that are being committed.
    busy: usize,
}

/// The queue that all lanes take from.
pub(super) struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    arrived: Notify,
    /// Something waits while a batch is being committed: another lane may be needed.
    stalled: Notify,
}

impl Queue {
    pub(super) fn new(config: &IngestConfig) -> Self {
        Self {
            bounds: Bounds {
                queue_items: config.queue_items as usize,
                queue_bytes: config.queue_bytes as usize,
                batch_items: config.batch_items as usize,
                batch_bytes: config.batch_bytes as usize,
            },
            state: Mutex::default(),
            arrived: Notify::new(),
            stalled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one, and tells who waits for an [`arrival`](Self::arrival).
    pub(super) fn push(&self, pending: Pending) -> Result<(), ApiError> {
        let mut state = self.lock();
        if state.closed {
            return Err(ApiError::Unavailable(ENDING));
        }
        let bytes = state.bytes + pending.webhook.body.len();
        if state.items.len() >= self.bounds.queue_items || bytes > self.bounds.queue_bytes {
            return Err(ApiError::Unavailable("too many webhooks wait for the database"));
        }
        state.bytes = bytes;
        state.items.push_back(pending);
        let may_stall = state.busy > 0 && state.items.len() == 1;
        drop(state);
        self.arrived.notify_one();
        if may_stall {
            self.stalled.notify_one();
        }
        Ok(())
    }

    /// Ends when something has come since the last time.
    pub(super) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Ends when something waits while a batch is being committed, and nobody has been told so yet.
    pub(super) async fn stall(&self) {
        self.stalled.notified().await;
    }

    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Since when the first one waits.
    pub(super) fn first_queued(&self) -> Option<Instant> {
        self.lock().items.front().map(|pending| pending.queued)
    }

    /// The first webhooks of the queue, as many as fit one batch, but for those of tenants that another lane has in
    /// flight: they stay, in order. Those whose sender has gone are dropped. The tenants of the batch are in flight
    /// until [`InFlight`] says otherwise.
    pub(super) fn take_batch(&self) -> Vec<Pending> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (mut batch, mut left, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        while let Some(pending) = state.items.pop_front() {
            let size = pending.webhook.body.len();
            if pending.answer.is_closed() {
                state.bytes = state.bytes.saturating_sub(size);
                continue;
            }
            if state.in_flight.contains(&pending.webhook.tenant_id) {
                left.push_back(pending);
                continue;
            }
            let full = batch.len() >= self.bounds.batch_items
                || (!batch.is_empty() && bytes + size > self.bounds.batch_bytes);
            if full {
                state.items.push_front(pending);
                break;
            }
            state.bytes = state.bytes.saturating_sub(size);
            bytes += size;
            batch.push(pending);
        }
        while let Some(pending) = left.pop_back() {
            state.items.push_front(pending);
        }
        state
            .in_flight
            .extend(batch.iter().map(|pending| pending.webhook.tenant_id));
        if !batch.is_empty() {
            state.busy += 1;
            if !state.items.is_empty() {
                self.stalled.notify_one();
            }
        }
        batch
    }

    /// All that waits.
    pub(super) fn take_all(&self) -> Vec<Pending> {
        let mut state = self.lock();
        state.bytes = 0;
        std::mem::take(&mut state.items).into()
    }

    /// Takes nothing more, and gives up all that waits.
    pub(super) fn close(&self) -> Vec<Pending> {
        self.lock().closed = true;
        self.take_all()
    }
}

/// The tenants of one batch that are still in flight; on drop none is.
pub(super) struct InFlight<'a> {
    queue: &'a Queue,
    tenants: HashSet<Uuid>,
}

impl<'a> InFlight<'a> {
    /// Those of a batch that was [taken](Queue::take_batch).
    pub(super) fn of(queue: &'a Queue, batch: &[Pending]) -> Self {
        Self {
            queue,
            tenants: batch.iter().map(|pending| pending.webhook.tenant_id).collect(),
        }
    }

    /// These are answered: other lanes may take what has come for them meanwhile.
    pub(super) fn landed(&mut self, items: &[Pending]) {
        let mut state = self.queue.lock();
        for pending in items {
            if self.tenants.remove(&pending.webhook.tenant_id) {
                state.in_flight.remove(&pending.webhook.tenant_id);
            }
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.busy = state.busy.saturating_sub(1);
        for tenant in &self.tenants {
            state.in_flight.remove(tenant);
        }
    }
}

/// Answers 503 to each.
pub(super) fn refuse_all(items: Vec<Pending>, why: &'static str) {
    for pending in items {
        let _ = pending.answer.send(Err(ApiError::Unavailable(why)));
    }
}
