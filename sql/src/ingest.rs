//! Ingest, seen from the API: a batch of verified webhooks in, an outcome for each. Wraps `functions/ingest/`.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use ring::digest::{Context, Digest, SHA256, digest};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_postgres::types::Json;
use uuid::Uuid;

use crate::{DbError, row_enum};
use chrono::{DateTime, Utc};

pub(crate) const INGEST_WEBHOOKS: &str =
    "select outcome, inbox_id, event_id, job_id, retry_after_seconds, guessed_wrong
     from relayforge.ingest_webhooks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                                     make_interval(secs => $12), make_interval(secs => $13),
                                     p_body_sha256s => $14, p_digests => $15, p_expect_new => $16)";

pub(crate) const RECORD_REJECTIONS: &str = "select relayforge.record_rejections($1, $2, $3, $4, $5, $6)";

/// A webhook whose signature has been verified and whose payload is well formed.
#[derive(Debug, Clone, Copy)]
pub struct NewWebhook<'a> {
    /// The tenant it was sent to.
    pub tenant_id: Uuid,
    /// The source it was sent to.
    pub source: &'a str,
    /// The provider's own id of the event, 1-255 bytes.
    pub provider_event_id: Option<&'a str>,
    /// What happened, 1-120 bytes.
    pub event_type: &'a str,
    /// The bytes that were signed.
    pub body: &'a [u8],
    /// Of this tenant, source, provider event id and body.
    pub fingerprint: Fingerprint,
    /// Allow-listed headers, a JSON object.
    pub headers: &'a Value,
    /// When the provider signed it, where its scheme says so.
    pub signature_timestamp: Option<DateTime<Utc>>,
    /// The secret version that verified it; none for one from the environment.
    pub secret_id: Option<Uuid>,
    /// Correlation id, 1-128 visible ASCII characters.
    pub correlation_id: &'a str,
    /// W3C trace context, a JSON object, if the request was traced.
    pub trace_context: Option<&'a RawValue>,
}

/// What two deliveries of one event have in common. Made before a webhook waits for the database, which makes the same where
/// it is not handed in, at several times the cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    body_sha256: [u8; 32],
    digest: [u8; 16],
}

impl Fingerprint {
    /// SHA-256 of the body, and the key of the dedup ledger: what `relayforge.dedup_key` and `relayforge.dedup_digest` make
    /// of the same.
    pub fn of(tenant_id: Uuid, source: &str, provider_event_id: Option<&str>, body: &[u8]) -> Self {
        let body_sha256 = bytes_of(&digest(&SHA256, body));
        let mut context = Context::new(&SHA256);
        context.update(tenant_id.as_bytes());
        context.update(source.as_bytes());
        match provider_event_id {
            Some(id) => {
                context.update(b":provider:");
                context.update(id.as_bytes());
            }
            None => {
                context.update(b":hash:");
                context.update(hex::encode(body_sha256).as_bytes());
            }
        }
        Self {
            body_sha256,
            digest: bytes_of(&context.finish()),
        }
    }

    /// SHA-256 of the body.
    pub fn body_sha256(&self) -> &[u8] {
        &self.body_sha256
    }

    /// The key of the dedup ledger.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }
}

/// The first bytes of a digest that has as many.
fn bytes_of<const N: usize>(digest: &Digest) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, of) in bytes.iter_mut().zip(digest.as_ref()) {
        *byte = *of;
    }
    bytes
}

/// A guess about a batch. A wrong one costs time, and a few dead rows, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Each webhook is of an event that is not known yet.
    New,
    /// Some may be of known events.
    Any,
}

/// Limits that come from the configuration, not from the tenant.
#[derive(Debug, Clone, Copy)]
pub struct IngestRules {
    /// New events a UTC day, for tenants that have no quota of their own.
    pub default_daily_quota: i64,
    /// How long an event is known by its provider's id.
    pub dedup_window: Duration,
    /// How long an event is known by the hash of its body.
    pub hash_window: Duration,
}

/// What became of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingested {
    /// A new event: inbox row, job and outbox row are committed once the transaction is.
    Accepted {
        /// This delivery.
        ids: Ids,
    },
    /// A known event: the ids of its first delivery's event and job, and of this delivery's inbox row.
    Duplicate {
        /// The first event and job, and this delivery.
        ids: Ids,
    },
    /// A known event whose source rejects replays. Nothing is stored.
    Replay {
        /// The first event.
        event_id: Uuid,
        /// Its job, unless its partition is gone.
        job_id: Option<Uuid>,
    },
    /// The tenant's quota is used up. Nothing is stored, the dedup key is free.
    OverQuota {
        /// Seconds until UTC midnight.
        retry_after_seconds: u32,
    },
    /// The tenant does not exist (any more).
    UnknownTenant,
    /// The tenant is suspended.
    Suspended,
    /// The source does not exist (any more).
    UnknownSource,
    /// The source wants a provider event id and the webhook has none.
    EventIdRequired,
}

/// The ids that an accepted webhook or a duplicate is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// This delivery.
    pub inbox_id: Uuid,
    /// The event: the id of its first delivery.
    pub event_id: Uuid,
    /// The event's first job; none if its partition is gone.
    pub job_id: Option<Uuid>,
}

/// Takes in a batch in one transaction and answers each webhook, in order. Two calls at once with the same event make
/// one job. `expect` comes back as [`Expect::Any`] where [`Expect::New`] was wrong.
///
/// # Errors
/// [`DbError::Locked`] if a tenant's quota row is held by somebody else: another batch, or one without that tenant, may
/// pass. [`DbError::Invalid`] if one element cannot be stored: the whole batch is refused.
pub async fn ingest_webhooks(
    client: &impl GenericClient,
    webhooks: &[NewWebhook<'_>],
    rules: &IngestRules,
    expect: &mut Expect,
) -> Result<Vec<Ingested>, DbError> {
    fn column<'a, T>(webhooks: &[NewWebhook<'a>], field: impl Fn(&NewWebhook<'a>) -> T) -> Vec<T> {
        webhooks.iter().map(field).collect()
    }
    let statement = client.prepare_cached(INGEST_WEBHOOKS).await?;
    let sha256s: Vec<&[u8]> = webhooks.iter().map(|w| w.fingerprint.body_sha256()).collect();
    let digests: Vec<&[u8]> = webhooks.iter().map(|w| w.fingerprint.digest()).collect();
    let rows = client
        .query(
            &statement,
            &[
                &column(webhooks, |w| w.tenant_id),
                &column(webhooks, |w| w.source),
                &column(webhooks, |w| w.provider_event_id),
                &column(webhooks, |w| w.event_type),
                &column(webhooks, |w| w.body),
                &column(webhooks, |w| Json(w.headers)),
                &column(webhooks, |w| w.signature_timestamp),
                &column(webhooks, |w| w.secret_id),
                &column(webhooks, |w| w.correlation_id),
                &column(webhooks, |w| w.trace_context.map(Json)),
                &rules.default_daily_quota,
                &rules.dedup_window.as_secs_f64(),
                &rules.hash_window.as_secs_f64(),
                &sha256s,
                &digests,
                &(*expect == Expect::New),
            ],
        )
        .await?;
    if let Some(row) = rows.first()
        && row.try_get("guessed_wrong")?
    {
        *expect = Expect::Any;
    }
    let outcomes: Vec<Ingested> = rows.iter().map(read_outcome).collect::<Result<_, _>>()?;
    if outcomes.len() == webhooks.len() {
        Ok(outcomes)
    } else {
        Err(DbError::Bug(format!(
            "{} webhooks in, {} outcomes out",
            webhooks.len(),
            outcomes.len()
        )))
    }
}

fn read_outcome(row: &tokio_postgres::Row) -> Result<Ingested, DbError> {
    let ids = || -> Result<Ids, DbError> {
        Ok(Ids {
            inbox_id: row.try_get("inbox_id")?,
            event_id: row.try_get("event_id")?,
            job_id: row.try_get("job_id")?,
        })
    };
    Ok(match row.try_get("outcome")? {
        "accepted" => Ingested::Accepted { ids: ids()? },
        "duplicate" => Ingested::Duplicate { ids: ids()? },
        "replay" => Ingested::Replay {
            event_id: row.try_get("event_id")?,
            job_id: row.try_get("job_id")?,
        },
        "over_quota" => {
            let seconds: i32 = row.try_get("retry_after_seconds")?;
            Ingested::OverQuota {
                retry_after_seconds: seconds.max(1).unsigned_abs(),
            }
        }
        "unknown_tenant" => Ingested::UnknownTenant,
        "suspended" => Ingested::Suspended,
        "unknown_source" => Ingested::UnknownSource,
        "event_id_required" => Ingested::EventIdRequired,
        other => return Err(row_enum("outcome", other)),
    })
}

/// Rejections of one kind since they were last recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectionCount {
    /// The code of the problem that was answered.
    pub cause: &'static str,
    /// The source, or an empty text where the request named none that exists.
    pub source: String,
    /// The tenant, where the request named one that exists.
    pub tenant_id: Option<Uuid>,
    /// How many.
    pub count: i64,
    /// One of those bodies, if it was signed.
    pub sample: Option<RejectedSample>,
}

/// A signed body that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedSample {
    /// How it begins; kept to 4,096 bytes.
    pub body: Vec<u8>,
    /// What was wrong with it; kept to 300 characters.
    pub detail: String,
}

/// Adds rejections to the counts of the present hour.
///
/// # Errors
/// [`DbError`]: nothing was added then.
pub async fn record_rejections(
    client: &impl GenericClient,
    counts: &[RejectionCount],
) -> Result<(), DbError> {
    let statement = client.prepare_cached(RECORD_REJECTIONS).await?;
    let causes: Vec<&str> = counts.iter().map(|c| c.cause).collect();
    let sources: Vec<&str> = counts.iter().map(|c| c.source.as_str()).collect();
    let tenants: Vec<Option<Uuid>> = counts.iter().map(|c| c.tenant_id).collect();
    let numbers: Vec<i64> = counts.iter().map(|c| c.count).collect();
    let samples: Vec<Option<&[u8]>> = counts
        .iter()
        .map(|c| c.sample.as_ref().map(|sample| sample.body.as_slice()))
        .collect();
    let details: Vec<Option<&str>> = counts
        .iter()
        .map(|c| c.sample.as_ref().map(|sample| sample.detail.as_str()))
        .collect();
    client
        .execute(
            &statement,
            &[&causes, &sources, &tenants, &numbers, &samples, &details],
        )
        .await?;
    Ok(())
}
