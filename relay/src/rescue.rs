//! What a relay does about others' ends: it takes over the jobs of consumers that died, and writes anew what a broker has
//! lost.

use sql::jobs::{Swept, sweep_leases};
use sql::outbox::{rebuild_broker, wake_relays};
use sql::{DbError, Pool, sweeper};

use crate::lanes::Shared;
use crate::metrics::RelayMetrics;
use crate::supervisor::Repair;

/// What a broker that has lost a work queue is mended with.
pub fn repair(pool: Pool) -> Repair {
    Repair::new(move || {
        let pool = pool.clone();
        async move {
            let rebuilt = async { rebuild_broker(&pool.get().await?).await };
            let messages = rebuilt.await.map_err(|error: DbError| error.to_string())?;
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
            let client = pool.get().await?;
            let swept = sweep_leases(&client, limit, not_within).await?;
            if swept != Swept::default() {
                // Other relays are told too, and may be quicker. One that is not polls.
                let _ = wake_relays(&client, None).await;
            }
            Ok(swept)
        }
    };
    let report = |swept: Swept| {
        metrics.jobs_rescued(swept.rescued);
        shared.next_round();
    };
    shared
        .stop
        .run_until_cancelled(sweeper::keep(sweeper::LONGEST_PERIOD, call, report))
        .await;
}
