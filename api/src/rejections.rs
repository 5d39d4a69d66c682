//! Counts what was refused, by cause: for the metric, and for `webhook_rejections`. Only tenants and sources that exist,
//! so that a hostile sender can't make rows; of its body a sample only if it was signed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sql::ingest::{RejectedSample, RejectionCount, record_rejections};
use sql::unwritten::Unwritten;
use sql::{DbError, Pool};
use uuid::Uuid;

/// Samples that wait to be written; the first of each kind is enough.
const MAX_SAMPLES: usize = 256;

/// Bytes of a body that a sample keeps.
const SAMPLE_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// What a rejection is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    cause: &'static str,
    source: String,
    tenant_id: Option<Uuid>,
}

/// Counters of rejections.
#[derive(Debug, Default)]
pub struct Rejections {
    unwritten: Unwritten<Key>,
    samples: Mutex<HashMap<Key, RejectedSample>>,
    total: Family<CauseLabel, Counter>,
}

impl Rejections {
    /// Rejected webhooks by cause.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "webhook_rejections",
            "Webhooks that were refused, by cause",
            self.total.clone(),
        );
    }

    /// Counts one rejection. `source` and `tenant_id` must exist in the registry.
    pub fn count(&self, cause: &'static str, source: Option<&str>, tenant_id: Option<Uuid>) {
        self.total.get_or_create(&CauseLabel { cause }).inc();
        let key = Key {
            cause,
            source: source.unwrap_or_default().to_owned(),
            tenant_id,
        };
        self.unwritten.add(key, 1);
    }

    /// Keeps the start of a body whose signature was right, as the sample of what is counted next to it.
    pub fn sample(&self, cause: &'static str, source: &str, tenant_id: Uuid, body: &[u8], detail: &str) {
        let key = Key {
            cause,
            source: source.to_owned(),
            tenant_id: Some(tenant_id),
        };
        let mut samples = self.samples();
        if samples.len() < MAX_SAMPLES && !samples.contains_key(&key) {
            let sample = RejectedSample {
                body: body[..body.len().min(SAMPLE_BYTES)].to_vec(),
                detail: detail.to_owned(),
            };
            samples.insert(key, sample);
        }
    }

    /// Writes what was counted since the last call. What can't be written is counted on.
    ///
    /// # Errors
    /// [`DbError`] if it could not be written.
    pub(crate) async fn write(&self, pool: &Pool) -> Result<(), DbError> {
        let taken = self.unwritten.take();
        if taken.is_empty() {
            return Ok(());
        }
        let mut samples = std::mem::take(&mut *self.samples());
        let counts: Vec<RejectionCount> = taken
            .iter()
            .map(|(key, count)| RejectionCount {
                cause: key.cause,
                source: key.source.clone(),
                tenant_id: key.tenant_id,
                count: *count,
                sample: samples.remove(key),
            })
            .collect();
        // A sample that came before its count waits for it.
        self.samples().extend(samples);
        let written = async { record_rejections(&pool.get().await?, &counts).await };
        written.await.inspect_err(|_| self.unwritten.give_back(taken))
    }

    fn samples(&self) -> MutexGuard<'_, HashMap<Key, RejectedSample>> {
        // No code panics while holding it.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
