//! Counts what was taken in, for the rollup per minute, and which secret versions verified it.

use sql::config::record_secret_usage;
use sql::ingest::{Traffic as What, TrafficCount, record_traffic};
use sql::{DbError, Pool};
use uuid::Uuid;

use crate::unwritten::Unwritten;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant_id: Uuid,
    source: String,
    what: What,
}

/// Counters of deliveries.
#[derive(Debug, Default)]
pub struct Traffic {
    deliveries: Unwritten<Key>,
    secrets: Unwritten<Uuid>,
}

impl Traffic {
    /// Counts one delivery of a new event or of a known one; `secret_id` is the version that verified it, if it is
    /// stored.
    pub fn count(&self, tenant_id: Uuid, source: &str, new: bool, secret_id: Option<Uuid>) {
        let key = Key {
            tenant_id,
            source: source.to_owned(),
            what: if new { What::Accepted } else { What::Duplicate },
        };
        self.deliveries.add(key, 1);
        if let Some(secret_id) = secret_id {
            self.secrets.add(secret_id, 1);
        }
    }

    /// Writes what was counted since the last call. What can't be written is counted on.
    ///
    /// # Errors
    /// [`DbError`] if it could not be written.
    pub(crate) async fn write(&self, pool: &Pool) -> Result<(), DbError> {
        let deliveries = self.deliveries.take();
        if !deliveries.is_empty() {
            let counts: Vec<TrafficCount> = deliveries
                .iter()
                .map(|(key, count)| TrafficCount {
                    tenant_id: key.tenant_id,
                    source: key.source.clone(),
                    what: key.what,
                    count: *count,
                })
                .collect();
            let written = async { record_traffic(&pool.get().await?, &counts).await };
            written
                .await
                .inspect_err(|_| self.deliveries.give_back(deliveries))?;
        }
        let secrets = self.secrets.take();
        if secrets.is_empty() {
            return Ok(());
        }
        let uses: Vec<(Uuid, i64)> = secrets.iter().map(|(id, count)| (*id, *count)).collect();
        let written = async { record_secret_usage(&pool.get().await?, &uses).await };
        written.await.inspect_err(|_| self.secrets.give_back(secrets))
    }
}
