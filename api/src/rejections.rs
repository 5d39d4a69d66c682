//! Counts what was refused: in memory, and once a second in `webhook_rejections`. Only causes, and tenants and sources
//! that exist, so that a hostile sender can't make rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sql::Pool;
use sql::ingest::{RejectionCount, record_rejections};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often counts are written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// What a rejection is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Key {
    cause: &'static str,
    source: String,
    tenant_id: Option<Uuid>,
}

/// Counters of rejections. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Rejections {
    unwritten: Arc<Mutex<HashMap<Key, i64>>>,
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
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        *unwritten.entry(key).or_default() += 1;
    }

    /// Writes the counts once a second until `stop`, and once more then.
    pub async fn keep_written(self, pool: Pool, stop: CancellationToken) {
        loop {
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(FLUSH_EVERY) => false,
            };
            self.flush(&pool).await;
            if stopped {
                return;
            }
        }
    }

    async fn flush(&self, pool: &Pool) {
        let taken = std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner));
        if taken.is_empty() {
            return;
        }
        let counts: Vec<RejectionCount> = taken
            .iter()
            .map(|(key, count)| RejectionCount {
                cause: key.cause,
                source: key.source.clone(),
                tenant_id: key.tenant_id,
                count: *count,
            })
            .collect();
        let written = async { record_rejections(&pool.get().await?, &counts).await };
        if let Err(error) = written.await {
            tracing::warn!(%error, "rejections can't be written; they are counted on");
            let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, count) in taken {
                *unwritten.entry(key).or_default() += count;
            }
        }
    }
}
