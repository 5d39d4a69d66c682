//! One batch's transaction, and what becomes of a batch that can't be passed whole.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sql::ingest::{Ingested, NewWebhook, ingest_webhooks};
use sql::{DbError, Object};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::queue::{InFlight, Pending, refuse_all};
use super::{AWAY, LATE, Shared};
use crate::error::ApiError;

/// How long a tenant whose rows somebody holds is refused before it is tried again.
const LOCKED_OUT_FOR: Duration = Duration::from_secs(1);

const LOCKED: &str = "the tenant's rows are locked by somebody else";

/// Tenants that are refused for a while without asking; at most as many as there are.
#[derive(Default)]
pub(super) struct LockedTenants(Mutex<HashMap<Uuid, Instant>>);

impl LockedTenants {
    fn add(&self, tenant: Uuid) {
        self.lock().insert(tenant, Instant::now() + LOCKED_OUT_FOR);
    }

    /// Answers the webhooks of tenants whose rows were found locked just now, and returns the others.
    fn refuse(&self, batch: Vec<Pending>) -> Vec<Pending> {
        let mut locked = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Part of a batch, and whether it has been tried alone before.
struct Part {
    items: Vec<Pending>,
    retried: bool,
}

/// Webhooks that are committed, and what became of each: their senders wait for it.
#[must_use = "their senders wait"]
#[derive(Default)]
pub(super) struct Committed {
    items: Vec<Pending>,
    outcomes: Vec<Ingested>,
}

impl Committed {
    /// Answers all of them.
    pub(super) fn answer(self) {
        for (pending, outcome) in self.items.into_iter().zip(self.outcomes) {
            let _ = pending.answer.send(Ok(outcome));
        }
    }
}

/// Commits a batch, and leaves the answers to the last part of it to the caller; all others are given here. What can't be
/// passed whole is tried again in parts: by tenant, so that one tenant's held quota row stops nobody else; then, unless it is a
/// lock that stands in the way, by halves, so that one bad webhook fails alone.
///
/// `kept` is the connection of the batch before, if there was one just now: its server process has all at hand that a batch
/// needs, and another would have to fetch it. It is left there for the next one, unless it failed.
pub(super) async fn commit_batch(
    shared: &Shared,
    batch: Vec<Pending>,
    kept: &mut Option<Object>,
) -> Committed {
    let deadline = Instant::now() + shared.config.deadline();
    let mut in_flight = InFlight::of(&shared.queue, &batch);
    let batch = shared.locked.refuse(batch);
    let mut committed = Committed::default();
    if batch.is_empty() {
        return committed;
    }
    let client = match kept.take().filter(|client| !client.is_closed()) {
        Some(client) => client,
        None => match timeout_at(deadline, shared.pool.get()).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                give_up(shared, batch, &error.to_string());
                return committed;
            }
            Err(_) => {
                give_up(shared, batch, "no connection in time");
                return committed;
            }
        },
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
                let items = part.items;
                std::mem::replace(&mut committed, Committed { items, outcomes }).answer();
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
                match failed {
                    Ok(Err(error)) => give_up(shared, rest, &error.to_string()),
                    _ if answered => refuse_all(rest, LATE),
                    _ => give_up(shared, rest, "no answer in time"),
                }
                return committed;
            }
        }
    }
    *kept = Some(client);
    committed
}

async fn try_batch(client: &Object, shared: &Shared, part: &[Pending]) -> Result<Vec<Ingested>, DbError> {
    let rows: Vec<NewWebhook<'_>> = part.iter().map(|pending| pending.webhook.as_row()).collect();
    let guessed = shared.guess.next();
    let mut expect = guessed;
    let outcomes = ingest_webhooks(client, &rows, &shared.rules, &mut expect).await?;
    shared.guess.learn(expect != guessed, &outcomes);
    Ok(outcomes)
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
                shared.locked.add(pending.webhook.tenant_id);
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

/// The database is away: the batch and everybody who waits are told so now, and those who come are told at once.
fn give_up(shared: &Shared, items: Vec<Pending>, why: &str) {
    tracing::error!(
        error = why,
        batch.items = items.len(),
        "a batch was not committed"
    );
    shared.breaker.trip();
    refuse_all(items, AWAY);
    refuse_all(shared.queue.take_all(), AWAY);
}
