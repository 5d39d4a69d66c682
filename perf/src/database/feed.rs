//! Webhooks that no run has sent before: generic, with the provider's id, of a size that is chosen, for all tenants.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sql::config::load_tenants;
use sql::event::SourceKind;
use sql::ingest::{Expect, Fingerprint, IngestRules, Ingested, NewWebhook, ingest_webhooks};
use sql::{DbError, Object};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Bytes of a body.
const BODY_BYTES: usize = 600;

/// What the API is configured with by default; the tenants have quotas of their own.
const RULES: IngestRules = IngestRules {
    default_daily_quota: 100_000,
    dedup_window: Duration::from_secs(7 * 86_400),
    hash_window: Duration::from_secs(86_400),
};

/// Makes webhooks, each of them once.
pub(super) struct Feed {
    large: Vec<Uuid>,
    small: Vec<Uuid>,
    run: i64,
    next: u64,
    headers: Value,
}

/// A webhook with what it borrows.
struct Made {
    tenant_id: Uuid,
    event_id: String,
    body: Vec<u8>,
    correlation_id: String,
}

impl Feed {
    /// For the tenants of that database.
    pub(super) async fn new(session: &Object) -> Result<Self, DbError> {
        let tenants = load_tenants(session).await?;
        let of = |prefix: &str| {
            let those = tenants.iter().filter(|tenant| tenant.slug.starts_with(prefix));
            those.map(|tenant| tenant.id).collect()
        };
        let now: DateTime<Utc> = Utc::now();
        Ok(Self {
            large: of("large-"),
            small: of("small-"),
            run: now.timestamp_micros(),
            next: 0,
            headers: json!({
                "content-type": "application/json",
                "user-agent": "harbourline-shop/3.2",
                "x-event-id": "shop-evt-01JVRX0M6Q7T6N2E9K3B8A5C4D",
            }),
        })
    }

    fn make(&mut self) -> Made {
        self.next += 1;
        let number = self.next;
        // Splitmix64: evenly spread, and the same in each run.
        let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let pick = |from: &[Uuid]| {
            let index = usize::try_from(mixed >> 8).unwrap_or_default() % from.len().max(1);
            from.get(index).copied().unwrap_or_default()
        };
        // As in the filled database: nine in ten are of the large tenants.
        let tenant_id = pick(if mixed % 10 < 9 { &self.large } else { &self.small });
        let mut body =
            format!(r#"{{"event":"order.created","data":{{"number":{number},"pad":""#).into_bytes();
        while body.len() < BODY_BYTES - 3 {
            body.extend_from_slice(
                format!(
                    "{:016x}",
                    mixed.rotate_left(u32::try_from(body.len() % 64).unwrap_or(0))
                )
                .as_bytes(),
            );
        }
        body.truncate(BODY_BYTES - 3);
        body.extend_from_slice(b"\"}}");
        Made {
            tenant_id,
            event_id: format!("shop-evt-{}-{number:010}", self.run),
            body,
            correlation_id: format!("perf-{number:032}"),
        }
    }

    /// Sends a batch; returns how long the call took. All of it has to be accepted.
    pub(super) async fn ingest(&mut self, api: &Object, webhooks: usize) -> anyhow::Result<Duration> {
        let made: Vec<Made> = (0..webhooks).map(|_| self.make()).collect();
        let batch: Vec<NewWebhook<'_>> = made
            .iter()
            .map(|one| NewWebhook {
                tenant_id: one.tenant_id,
                source: SourceKind::Generic.as_str(),
                provider_event_id: Some(&one.event_id),
                event_type: "order.created",
                body: &one.body,
                fingerprint: Fingerprint::of(
                    one.tenant_id,
                    SourceKind::Generic.as_str(),
                    Some(&one.event_id),
                    &one.body,
                ),
                headers: &self.headers,
                signature_timestamp: None,
                secret_id: None,
                correlation_id: &one.correlation_id,
                trace_context: None,
            })
            .collect();
        let began = Instant::now();
        let outcomes = ingest_webhooks(api, &batch, &RULES, &mut Expect::New).await?;
        let took = began.elapsed();
        let other = outcomes
            .iter()
            .find(|outcome| !matches!(outcome, Ingested::Accepted { .. }));
        match other {
            None => Ok(took),
            Some(other) => anyhow::bail!("a webhook was not accepted: {other:?}"),
        }
    }
}
