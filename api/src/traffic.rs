//! Counts what was taken in, for the rollup per minute, and which secret versions verified it.

use sql::config::record_secret_usage;
use sql::traffic::{Traffic as Rollup, What};
use sql::unwritten::Unwritten;
use sql::{DbError, Pool};
use uuid::Uuid;

/// Counters of deliveries.
#[derive(Debug, Default)]
pub struct Traffic {
    deliveries: Rollup,
    secrets: Unwritten<Uuid>,
}

impl Traffic {
    /// Counts one delivery, of a new event or of a known one; `secret_id` is the version that verified it, if it is
    /// stored.
    pub fn count(&self, tenant_id: Uuid, source: &str, what: What, secret_id: Option<Uuid>) {
        self.deliveries.count(tenant_id, source, what);
        if let Some(secret_id) = secret_id {
            self.secrets.add(secret_id, 1);
        }
    }

    /// Writes what was counted since the last call. What can't be written is counted on.
    ///
    /// # Errors
    /// [`DbError`] if it could not be written.
    pub(crate) async fn write(&self, pool: &Pool) -> Result<(), DbError> {
        if !self.deliveries.is_empty() {
            self.deliveries.write(&pool.get().await?).await?;
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
