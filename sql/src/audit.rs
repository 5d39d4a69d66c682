//! The hash chain over the audit log: what was committed is sealed every few seconds. Wraps `functions/audit/`.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio_util::sync::CancellationToken;

use crate::{DbError, Pool};

pub(crate) const SEAL_AUDIT: &str = "select sealed, seq, digest from relayforge.seal_audit()";

/// How often, which is also for how long a row can be changed without a trace.
const SEAL_EVERY: Duration = Duration::from_secs(5);

/// Rows that were sealed, and the end of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Rows that were sealed by this call.
    pub rows: i32,
    /// The last seal's place.
    pub seq: i64,
    /// The last seal: hexadecimal.
    pub digest: String,
}

/// Seals what is committed and not sealed yet, at most 1,000 rows; nothing if another process is at it.
///
/// # Errors
/// [`DbError`] if it can't be done now.
pub async fn seal_audit(client: &impl GenericClient) -> Result<Option<Sealed>, DbError> {
    let statement = client.prepare_cached(SEAL_AUDIT).await?;
    let row = client.query_one(&statement, &[]).await?;
    let (Some(seq), Some(digest)) = (row.try_get("seq")?, row.try_get("digest")?) else {
        return Ok(None);
    };
    Ok(Some(Sealed {
        rows: row.try_get("sealed")?,
        seq,
        digest,
    }))
}

/// Seals every five seconds until `stop`. The end of the chain goes to the log each time it moves: kept elsewhere, it
/// shows whether the chain was made anew (`relayforge.audit_verify`).
pub async fn keep_sealed(pool: Pool, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SEAL_EVERY) => {}
        }
        let sealed = async { seal_audit(&pool.get().await?).await };
        match sealed.await {
            Ok(Some(Sealed { rows, seq, digest })) if rows > 0 => {
                tracing::info!(rows, seq, digest, "the audit log is sealed");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the audit log can't be sealed yet"),
        }
    }
}
