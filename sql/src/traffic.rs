//! Traffic per minute, tenant and source: added up in memory by the services, written once a second. Wraps
//! `record_traffic`.

use deadpool_postgres::GenericClient;
use uuid::Uuid;

use crate::DbError;
use crate::unwritten::Unwritten;

pub(crate) const RECORD_TRAFFIC: &str = "select relayforge.record_traffic($1, $2, $3, $4)";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// A delivery of a new event.
    Accepted,
    /// A delivery of a known event.
    Duplicate,
    /// A run that ended well.
    Succeeded,
    /// A run that failed and is tried again.
    Retried,
    /// A run whose failure gave its job up.
    DeadLettered,
}

impl What {
    /// As in the column `what`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Succeeded => "succeeded",
            Self::Retried => "retried",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    tenant_id: Uuid,
    source: String,
    what: What,
}

/// Counts that wait to be written.
#[derive(Debug, Default)]
pub struct Traffic(Unwritten<Key>);

impl Traffic {
    /// Counts one of them.
    pub fn count(&self, tenant_id: Uuid, source: &str, what: What) {
        let source = source.to_owned();
        self.0.add(
            Key {
                tenant_id,
                source,
                what,
            },
            1,
        );
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what was counted since the last call to the present minute. What can't be written is counted on.
    ///
    /// # Errors
    /// [`DbError`] if it could not be written.
    pub async fn write(&self, client: &impl GenericClient) -> Result<(), DbError> {
        let taken = self.0.take();
        let tenants: Vec<Uuid> = taken.keys().map(|key| key.tenant_id).collect();
        let sources: Vec<&str> = taken.keys().map(|key| key.source.as_str()).collect();
        let whats: Vec<&str> = taken.keys().map(|key| key.what.as_str()).collect();
        let counts: Vec<i64> = taken.values().copied().collect();
        let write = async {
            let statement = client.prepare_cached(RECORD_TRAFFIC).await?;
            client
                .execute(&statement, &[&tenants, &sources, &whats, &counts])
                .await?;
            Ok(())
        };
        let written = write.await;
        written.inspect_err(|_| self.0.give_back(taken))
    }
}
