//! Takes over jobs whose consumer died, froze or lost its database: this process's share of it. The loop is
//! `sql::sweeper`'s.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use sql::jobs::{Swept, sweep_leases};
use sql::sweeper;

use crate::database::{CALL_TIMEOUT, Database};
use crate::metrics::metrics;
use crate::outcome::Tally;
use crate::wake::{Wake, Waker};

metrics! {
    /// What the sweeper of this process has taken over.
    pub(crate) struct SweepMetrics {
        /// Jobs whose lease had run out and that were put in the outbox again
        rescued("jobs_rescued"): Counter = Counter::default(),
    }
}

/// Sweeps at a steady pace; also keeps the readiness check `database` up to date while nothing else happens.
#[derive(Debug)]
pub(crate) struct Sweeper {
    pub(crate) database: Database,
    pub(crate) waker: Waker,
    pub(crate) tally: Tally,
    pub(crate) metrics: SweepMetrics,
}

impl Sweeper {
    /// Sweeps for good.
    pub(crate) async fn work(self, lease: Duration) {
        let sweep = |limit, not_within| {
            let database = self.database.clone();
            async move {
                let call = async |client: &sql::Object| sweep_leases(client, limit, not_within).await;
                database.call(CALL_TIMEOUT, call).await
            }
        };
        let report = |Swept { rescued, poisoned }| {
            self.metrics.rescued.inc_by(rescued.into());
            self.tally.dead_lettered(poisoned.into());
            self.waker.wish(Wake::Now);
        };
        sweeper::keep(sweeper::period_of(lease), sweep, report).await;
    }
}
