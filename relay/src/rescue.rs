//! What a relay does about others' ends: it takes over the jobs of consumers that died, and writes anew what a broker has
//! lost.

use std::time::Duration;

use sql::jobs::{Swept, sweep_leases};
use sql::outbox::{rebuild_broker, wake_relays};
use sql::pool::CALL_TIMEOUT;
use sql::{Pool, pool, sweeper};

use crate::lanes::Shared;
use crate::metrics::RelayMetrics;
use crate::supervisor::Repair;

/// Bound of writing the messages of all open jobs anew: there may be millions. What was written stays when it is passed, and
/// the next try goes on.
const REBUILD_TIMEOUT: Duration = Duration::from_secs(600);

/// What a broker that has lost a work queue is mended with.
pub fn repair(pool: Pool) -> Repair {
    Repair::new(move || {
        let pool = pool.clone();
        async move {
            let rebuild = async |client: &sql::Object| rebuild_broker(client).await;
            let rebuilt = pool::call(&pool, REBUILD_TIMEOUT, rebuild).await;
            let messages = rebuilt.map_err(|error| error.to_string())?;
            tracing::warn!(messages, "the messages of all open jobs are in the outbox");
            Ok(())
        }
    })
}

/// Takes jobs over whose lease has run out, and has their messages published.
pub(crate) async fn sweep(shared: Shared, metrics: RelayMetrics) {
    let call = |limit, not_within| {
        let pool = shared.pool.clone();
        async move {
            let sweep = async |client: &sql::Object| {
                let swept = sweep_leases(client, limit, not_within).await?;
                if swept != Swept::default() {
                    // Other relays are told too, and may be quicker. One that is not polls.
                    let _ = wake_relays(client, None).await;
                }
                Ok(swept)
            };
            pool::call(&pool, CALL_TIMEOUT, sweep).await
        }
    };
    let report = |swept: Swept| {
        metrics.jobs_swept(swept);
        shared.next_round();
    };
    shared
        .stop
        .run_until_cancelled(sweeper::keep(sweeper::LONGEST_PERIOD, call, report))
        .await;
}
