//! Connections that are opened, and have made their plans, before anybody waits for them. A new session takes some ten
//! milliseconds to come, and again as many for each function that it calls first: the first webhooks after a start would pay
//! for all of it.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::{join_all, try_join_all};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::DbError;
use crate::ingest::{Expect, IngestRules, ingest_webhooks};
use crate::jobs::{RetryPolicy, complete_jobs, fail_jobs, renew_leases, start_jobs};
use crate::operators::check_in;
use crate::outbox::{
    LowWater, Settlement, Target, claim_outbox, outbox_next_due, settle_outbox, wake_relays,
};
use crate::pool::CALL_TIMEOUT;

/// Pause before the next try while the database is away or not migrated.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Whose calls a session gets ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// The API's.
    Ingest,
    /// The relay's.
    Relay,
    /// The consumer's.
    Consumer,
}

/// Opens so many connections of the pool, or all that it may have but one, and has each make the calls with nothing to do, once
/// the database is there; ends then, or at `stop`. Whoever needs a connection earlier opens it as ever.
pub async fn warm_up(pool: Pool, connections: usize, calls: Calls, stop: CancellationToken) {
    loop {
        let tried = tokio::select! {
            () = stop.cancelled() => return,
            tried = try_warm_up(&pool, connections, calls) => tried,
        };
        match tried {
            Ok(()) => return,
            // Away, or not migrated yet.
            Err(error) if error.is_retryable() || matches!(error, DbError::Conflict(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "connections can't be warmed up: first calls take longer");
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
    }
}

async fn try_warm_up(pool: &Pool, connections: usize, calls: Calls) -> Result<(), DbError> {
    let one = async |client: Object| {
        match timeout(CALL_TIMEOUT, make(&client, calls)).await {
            Ok(made) => made,
            Err(_) => {
                // Its next user would wait for the answer that we have given up.
                drop(Object::take(client));
                Err(DbError::Unavailable("no answer in time".to_owned()))
            }
        }
    };
    check_in(pool).await?;
    let connections = connections.min(pool.status().max_size.saturating_sub(1)).max(1);
    // All are there before the first call: else one would be used again in place of opening another. If one is not to be had,
    // none is held, as others wait for them.
    let opened = try_join_all((0..connections).map(|_| pool.get())).await?;
    // Each to its end: what is dropped in the middle of a call would go back with the call still running.
    join_all(opened.into_iter().map(one)).await.into_iter().collect()
}

async fn make(client: &Object, calls: Calls) -> Result<(), DbError> {
    const SECOND: Duration = Duration::from_secs(1);
    match calls {
        Calls::Ingest => {
            let rules = IngestRules {
                default_daily_quota: 0,
                dedup_window: SECOND,
                hash_window: SECOND,
            };
            // Each takes another way.
            ingest_webhooks(client, &[], &rules, &mut Expect::New).await?;
            ingest_webhooks(client, &[], &rules, &mut Expect::Any).await?;
            wake_relays(client, None).await?;
        }
        Calls::Relay => {
            outbox_next_due(client, LowWater::START.at).await?;
            claim_outbox(client, Target::Jobs, 0, LowWater::START).await?;
            settle_outbox(client, &Settlement::default(), SECOND, SECOND).await?;
        }
        Calls::Consumer => {
            let policy = RetryPolicy {
                max_attempts: 1,
                backoff_base: SECOND,
                backoff_cap: SECOND,
            };
            start_jobs(client, &[], SECOND, 1).await?;
            complete_jobs(client, &[]).await?;
            fail_jobs(client, &[], &policy).await?;
            renew_leases(client, &[], SECOND).await?;
        }
    }
    Ok(())
}
