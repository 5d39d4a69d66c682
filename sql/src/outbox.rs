//! The outbox, seen from the relay: claim, settle, sleep; and from the writers: wake. Wraps `functions/outbox/`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use serde_json::Value;
use uuid::Uuid;

use crate::DbError;
use crate::event::{SourceKind, UnknownSourceKind};

pub(crate) const CLAIM_OUTBOX: &str =
    "select id, job_id, event_id, attempt, next_attempt_at, attempts, tenant_id,
            tenant_slug, source, source_kind, event_type, provider_event_id, correlation_id, headers, body,
            trace_context, cause, error, refused_since
       from relayforge.claim_outbox($1, $2, $3, $4)";
pub(crate) const SETTLE_OUTBOX: &str =
    "select relayforge.settle_outbox($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5),
                                     p_blameless => $6)";
pub(crate) const ABANDON_OUTBOX: &str = "select relayforge.abandon_outbox($1, $2)";
pub(crate) const OUTBOX_NEXT_DUE: &str =
    "select relayforge.outbox_next_due($1) as due, clock_timestamp() as now";
pub(crate) const COUNT_OUTBOX: &str = "select relayforge.count_outbox() as waiting";
pub(crate) const REBUILD_BROKER_STEP: &str =
    "select last_job_id, written from relayforge.rebuild_broker_step($1)";
pub(crate) const RELAY_SLEEP: &str = "select relayforge.relay_sleep($1, $2)";
pub(crate) const RELAY_WAKE: &str = "select relayforge.relay_wake($1)";
pub(crate) const WAKE_RELAYS: &str =
    "select relayforge.wake_relays(coalesce($1, clock_timestamp())) as woken";

/// The channel that wakes sleeping relays.
pub const OUTBOX_CHANNEL: &str = "relayforge_outbox";

/// Where a message is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The queue of fresh work.
    Jobs,
    /// The queue of work that comes back: retried, reprocessed, or held before.
    Retries,
    /// The topic exchange, for whoever binds to it.
    Events,
    /// The copy of a job that was given up.
    Dlq,
}

impl Target {
    /// All targets. None waits for another's messages.
    pub const ALL: [Self; 4] = [Self::Jobs, Self::Retries, Self::Events, Self::Dlq];

    /// As in the column `target`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Retries => "retries",
            Self::Events => "events",
            Self::Dlq => "dlq",
        }
    }
}

/// Where a claim starts to look: everything that sorts before it has left the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowWater {
    /// `next_attempt_at` of the first message to look at.
    pub at: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

impl LowWater {
    /// The start of the queue.
    pub const START: Self = Self {
        at: DateTime::UNIX_EPOCH,
        id: Uuid::nil(),
    };
}

/// A claimed message and what is needed to make it. Its row is locked until the claiming transaction ends.
#[derive(Debug, Clone)]
pub struct ClaimedMessage {
    /// The outbox row.
    pub id: Uuid,
    /// The job.
    pub job_id: Uuid,
    /// The attempt that the message asks for.
    pub attempt: i16,
    /// When it was due.
    pub next_attempt_at: DateTime<Utc>,
    /// Times that publishing it has failed.
    pub attempts: i32,
    /// Since when the broker has refused it, if it has.
    pub refused_since: Option<DateTime<Utc>>,
    /// The job's event.
    pub event_id: Uuid,
    /// The event itself; none if its inbox partition is gone.
    pub event: Option<StoredEvent>,
    /// Target `dlq`: why the job was given up.
    pub cause: Option<String>,
    /// Target `dlq`: what its last failed run said.
    pub error: Option<String>,
}

/// An event as the inbox has it.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The tenant's name in URLs and routing keys.
    pub tenant_slug: String,
    /// The source.
    pub source: String,
    /// How the source's payloads are read; an error where a newer release has made a kind that this one does not know.
    pub source_kind: Result<SourceKind, UnknownSourceKind>,
    /// What happened.
    pub event_type: String,
    /// The provider's id of it.
    pub provider_event_id: Option<String>,
    /// Correlation id of the first delivery.
    pub correlation_id: String,
    /// Allow-listed request headers.
    pub headers: Value,
    /// The bytes that were signed.
    pub body: Vec<u8>,
    /// W3C trace context, if the request was traced.
    pub trace_context: Option<Value>,
}

impl StoredEvent {
    /// Reads the columns that `claim_outbox` and `start_jobs` share.
    pub(crate) fn from_row(row: &tokio_postgres::Row) -> Result<Option<Self>, DbError> {
        let (Some(body), Some(tenant_slug), Some(kind)) = (
            row.try_get::<_, Option<Vec<u8>>>("body")?,
            row.try_get::<_, Option<String>>("tenant_slug")?,
            row.try_get::<_, Option<&str>>("source_kind")?,
        ) else {
            return Ok(None);
        };
        Ok(Some(Self {
            tenant_id: row.try_get("tenant_id")?,
            tenant_slug,
            source: row.try_get("source")?,
            source_kind: kind.parse(),
            event_type: row.try_get("event_type")?,
            provider_event_id: row.try_get("provider_event_id")?,
            correlation_id: row.try_get("correlation_id")?,
            headers: row.try_get("headers")?,
            body,
            trace_context: row.try_get("trace_context")?,
        }))
    }
}

/// Claims up to `limit` due messages of a target, oldest first, until the caller's transaction ends.
///
/// # Errors
/// [`DbError`]: nothing is claimed then.
pub async fn claim_outbox(
    transaction: &impl GenericClient,
    target: Target,
    limit: u16,
    from: LowWater,
) -> Result<Vec<ClaimedMessage>, DbError> {
    let statement = transaction.prepare_cached(CLAIM_OUTBOX).await?;
    transaction
        .query(
            &statement,
            &[&target.as_str(), &i32::from(limit), &from.at, &from.id],
        )
        .await?
        .iter()
        .map(|row| {
            Ok(ClaimedMessage {
                id: row.try_get("id")?,
                job_id: row.try_get("job_id")?,
                attempt: row.try_get("attempt")?,
                next_attempt_at: row.try_get("next_attempt_at")?,
                attempts: row.try_get("attempts")?,
                refused_since: row.try_get("refused_since")?,
                event_id: row.try_get("event_id")?,
                event: StoredEvent::from_row(row)?,
                cause: row.try_get("cause")?,
                error: row.try_get("error")?,
            })
        })
        .collect()
}

/// What became of a claimed batch.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Messages that the broker has confirmed.
    pub confirmed: Vec<Uuid>,
    /// Messages that it has not.
    pub deferred: Vec<Deferred>,
}

/// A claimed message that the broker has not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferred {
    /// The outbox row.
    pub id: Uuid,
    /// Why.
    pub error: String,
    /// Whether nothing was said against the message: the connection was lost, or stalled. It waits for the first back-off
    /// only, however often that happens.
    pub blameless: bool,
}

/// Ends a claim, in the claiming transaction: confirmed messages leave the queue, deferred ones come back after a
/// back-off that doubles from `base` to `cap`, or after `base` where they are blameless.
///
/// # Errors
/// [`DbError`]: the caller rolls back, and the messages are published again.
pub async fn settle_outbox(
    transaction: &impl GenericClient,
    settlement: &Settlement,
    base: Duration,
    cap: Duration,
) -> Result<(), DbError> {
    let statement = transaction.prepare_cached(SETTLE_OUTBOX).await?;
    let (deferred, errors): (Vec<Uuid>, Vec<&str>) = settlement
        .deferred
        .iter()
        .map(|message| (message.id, message.error.as_str()))
        .unzip();
    let blameless: Vec<bool> = settlement
        .deferred
        .iter()
        .map(|message| message.blameless)
        .collect();
    transaction
        .execute(
            &statement,
            &[
                &settlement.confirmed,
                &deferred,
                &errors,
                &base.as_secs_f64(),
                &cap.as_secs_f64(),
                &blameless,
            ],
        )
        .await?;
    Ok(())
}

/// Writes the messages of all open jobs anew, after the broker has lost them; returns how many. Two who do it at once write
/// each once. In steps, each a statement and a transaction of its own: millions of jobs take longer than a role's
/// `statement_timeout`.
///
/// # Errors
/// [`DbError`]: some may be written; call it again.
pub async fn rebuild_broker(client: &impl GenericClient) -> Result<u64, DbError> {
    let statement = client.prepare_cached(REBUILD_BROKER_STEP).await?;
    let mut written = 0;
    let mut after = Some(Uuid::nil());
    while let Some(last) = after {
        let row = client.query_one(&statement, &[&last]).await?;
        written += u64::from(row.try_get::<_, i32>("written")?.unsigned_abs());
        after = row.try_get("last_job_id")?;
    }
    // What falls due now is nobody's news otherwise.
    wake_relays(client, None).await?;
    Ok(written)
}

/// Gives up messages that can never be published, each with the reason; the job of a work message is dead-lettered.
/// Not in the claiming transaction.
///
/// # Errors
/// [`DbError`]: nothing is given up then.
pub async fn abandon_outbox(client: &impl GenericClient, messages: &[(Uuid, String)]) -> Result<(), DbError> {
    let statement = client.prepare_cached(ABANDON_OUTBOX).await?;
    let (ids, reasons): (Vec<Uuid>, Vec<&str>) =
        messages.iter().map(|(id, reason)| (*id, reason.as_str())).unzip();
    client.execute(&statement, &[&ids, &reasons]).await?;
    Ok(())
}

/// When the next message falls due, and what time the database has.
#[derive(Debug, Clone, Copy)]
pub struct NextDue {
    /// When the next message of any target falls due; none if none waits.
    pub due: Option<DateTime<Utc>>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// When the next message that sorts at or after `from` falls due.
///
/// # Errors
/// [`DbError`] if it cannot be read.
pub async fn outbox_next_due(client: &impl GenericClient, from: DateTime<Utc>) -> Result<NextDue, DbError> {
    let statement = client.prepare_cached(OUTBOX_NEXT_DUE).await?;
    let row = client.query_one(&statement, &[&from]).await?;
    Ok(NextDue {
        due: row.try_get("due")?,
        now: row.try_get("now")?,
    })
}

/// Messages that wait for the broker: exact to 100,000, then estimated.
///
/// # Errors
/// [`DbError`] if they cannot be counted.
pub async fn count_outbox(client: &impl GenericClient) -> Result<i64, DbError> {
    let statement = client.prepare_cached(COUNT_OUTBOX).await?;
    Ok(client.query_one(&statement, &[]).await?.try_get("waiting")?)
}

/// Says that this relay will sleep until `wakes_at` (database clock) unless it is woken. Claim once more after it is
/// committed, before you wait.
///
/// # Errors
/// [`DbError`]: do not sleep then.
pub async fn relay_sleep(
    client: &impl GenericClient,
    relay_id: Uuid,
    wakes_at: DateTime<Utc>,
) -> Result<(), DbError> {
    let statement = client.prepare_cached(RELAY_SLEEP).await?;
    client.execute(&statement, &[&relay_id, &wakes_at]).await?;
    Ok(())
}

/// Takes back [`relay_sleep`].
///
/// # Errors
/// [`DbError`]: somebody may notify in vain, nothing worse.
pub async fn relay_wake(client: &impl GenericClient, relay_id: Uuid) -> Result<(), DbError> {
    let statement = client.prepare_cached(RELAY_WAKE).await?;
    client.execute(&statement, &[&relay_id]).await?;
    Ok(())
}

/// Wakes the relays that would sleep past `earliest_due` (none: now), and returns how many. Call it after the commit
/// that wrote the messages, off the answer's path.
///
/// # Errors
/// [`DbError`]: the relays find the messages by themselves when they next poll.
pub async fn wake_relays(
    client: &impl GenericClient,
    earliest_due: Option<DateTime<Utc>>,
) -> Result<i32, DbError> {
    let statement = client.prepare_cached(WAKE_RELAYS).await?;
    Ok(client
        .query_one(&statement, &[&earliest_due])
        .await?
        .try_get("woken")?)
}
