//! Takes over jobs whose consumer died, froze or lost its database.
//!
//! Owns how often it looks. What is taken over, and what becomes of it, is decided in SQL; an advisory lock there lets
//! one sweeper of all processes work at a time.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use sql::jobs::{Swept, sweep_leases};
use tokio::time::{MissedTickBehavior, interval};

use crate::database::{CALL_TIMEOUT, Database};
use crate::metrics::metrics;
use crate::outcome::Tally;
use crate::wake::{Wake, Waker};

/// Jobs taken over in one call: bounds the time that it holds their rows.
const BATCH: u16 = 500;

/// Sweeps within the time of one lease, and the bounds of what comes of it: a job is back within a lease and a second.
const SWEEPS_PER_LEASE: u32 = 6;
const SHORTEST_PERIOD: Duration = Duration::from_millis(200);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);

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
    pub(crate) poison_starts: u16,
}

impl Sweeper {
    /// Sweeps for good.
    pub(crate) async fn work(self, lease: Duration) {
        let mut ticks = interval(period(lease));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sweep = async |client: &sql::Object| sweep_leases(client, BATCH, self.poison_starts).await;
            match self.database.call(CALL_TIMEOUT, sweep).await {
                Ok(swept) => self.note(swept),
                Err(error) if error.is_retryable() => {}
                Err(error) => tracing::error!(%error, "leases can't be swept"),
            }
        }
    }

    fn note(&self, swept: Swept) {
        if swept == Swept::default() {
            return;
        }
        let Swept { rescued, poisoned } = swept;
        self.metrics.rescued.inc_by(rescued.into());
        self.tally.dead_lettered(poisoned.into());
        tracing::warn!(rescued, poisoned, "took over jobs whose lease had run out");
        self.waker.wish(Wake::Now);
    }
}

fn period(lease: Duration) -> Duration {
    (lease / SWEEPS_PER_LEASE).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_more_often_for_shorter_leases_within_bounds() {
        for (lease_ms, period_ms) in [(1_000, 200), (3_000, 500), (30_000, 1_000)] {
            assert_eq!(
                period(Duration::from_millis(lease_ms)),
                Duration::from_millis(period_ms)
            );
        }
    }
}
