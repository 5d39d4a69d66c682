//! The runs of this process, and the leases that keep them ours.
//!
//! Owns the list of what runs here, its renewal, and telling a run that it has lost its job. What a run does then is
//! in `execute.rs`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use relay::backoff::Backoff;
use sql::jobs::{Run, renew_leases};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::database::{CALL_TIMEOUT, Database, FIRST_PAUSE, LAST_PAUSE};
use crate::metrics::metrics;

/// Renewals within the time of one lease: two may fail before it ends.
const RENEWALS_PER_LEASE: u32 = 3;

/// Tries within the time of one lease, at least, while renewals fail.
const RENEWAL_TRIES: u32 = 12;

metrics! {
    /// How many runs there are, and how many were lost.
    pub(crate) struct LeaseMetrics {
        /// Runs that this process holds now, those included whose outcome is being written
        running("jobs_running"): Gauge = Gauge::default(),
        /// Runs that lost their job before their outcome was written: the lease ran out, or an operator took it
        lost("leases_lost"): Counter = Counter::default(),
    }
}

/// The runs that this process holds; clones share them.
///
/// At most one a job: a newer run of the same job here means that the older one has lost it, and the database's
/// answers name jobs, not runs.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    held: Arc<Mutex<HashMap<Uuid, Held>>>,
    pub(crate) metrics: LeaseMetrics,
}

#[derive(Debug)]
struct Held {
    run_id: Uuid,
    lost: CancellationToken,
}

/// A run on the list, from which it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    run: Run,
    lost: CancellationToken,
    leases: Leases,
}

impl Lease {
    /// Waits until the job is somebody else's.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Entry::Occupied(entry) = self.leases.lock().entry(self.run.job_id)
            && entry.get().run_id == self.run.run_id
        {
            entry.remove();
        }
        self.leases.metrics.running.dec();
    }
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self {
            held: Arc::default(),
            metrics: LeaseMetrics::new(),
        }
    }

    /// Puts a run on the list, to be renewed from now on.
    pub(crate) fn hold(&self, run: Run) -> Lease {
        let lost = CancellationToken::new();
        let held = Held {
            run_id: run.run_id,
            lost: lost.clone(),
        };
        if let Some(older) = self.lock().insert(run.job_id, held) {
            older.lost.cancel();
        }
        self.metrics.running.inc();
        Lease {
            run,
            lost,
            leases: self.clone(),
        }
    }

    /// Renews the leases of what is on the list, for good.
    pub(crate) async fn keep(self, database: Database, lease: Duration) {
        let period = lease / RENEWALS_PER_LEASE;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Before the sweeper takes anything over, when the database is back.
        let mut backoff = Backoff::new(FIRST_PAUSE, (lease / RENEWAL_TRIES).min(LAST_PAUSE));
        loop {
            ticks.tick().await;
            while let Err(error) = self.renew(&database, lease, period).await {
                if !error.is_retryable() {
                    tracing::error!(%error, "leases can't be renewed");
                }
                tokio::time::sleep(backoff.after_failure()).await;
            }
            backoff.reset();
        }
    }

    async fn renew(
        &self,
        database: &Database,
        lease: Duration,
        period: Duration,
    ) -> Result<(), sql::DbError> {
        let runs = self.runs();
        if runs.is_empty() {
            return Ok(());
        }
        let limit = period.min(CALL_TIMEOUT);
        let lost = database
            .call(limit, async |client| renew_leases(client, &runs, lease).await)
            .await?;
        self.lose(&runs, &lost);
        Ok(())
    }

    /// The runs that there are.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let held = self.lock();
        held.iter()
            .map(|(job_id, held)| Run {
                job_id: *job_id,
                run_id: held.run_id,
            })
            .collect()
    }

    /// Tells the runs whose job is in `lost` and that are still on the list. One that has just written its outcome
    /// may be among them, and does not listen any more.
    fn lose(&self, asked: &[Run], lost: &[Uuid]) {
        let held = self.lock();
        for run in asked.iter().filter(|run| lost.contains(&run.job_id)) {
            if let Some(entry) = held.get(&run.job_id).filter(|entry| entry.run_id == run.run_id) {
                entry.lost.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Held>> {
        // No code panics while holding it, and each of its changes is whole by itself.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(job: u128, run: u128) -> Run {
        Run {
            job_id: Uuid::from_u128(job),
            run_id: Uuid::from_u128(run),
        }
    }

    #[test]
    fn a_newer_run_of_a_job_takes_its_place_and_outlives_the_older() {
        let leases = Leases::new();
        let older = leases.hold(run(1, 1));
        let newer = leases.hold(run(1, 2));
        assert!(older.lost.is_cancelled() && !newer.lost.is_cancelled());
        assert_eq!(leases.metrics.running.get(), 2);
        drop(older);
        assert_eq!(
            (leases.runs(), leases.metrics.running.get()),
            (vec![run(1, 2)], 1)
        );
        drop(newer);
        assert_eq!((leases.runs(), leases.metrics.running.get()), (vec![], 0));
    }

    #[test]
    fn an_answer_about_an_older_run_does_not_stop_the_newer() {
        let leases = Leases::new();
        let (older, other) = (leases.hold(run(1, 1)), leases.hold(run(2, 1)));
        let asked = leases.runs();
        let newer = leases.hold(run(1, 2));
        leases.lose(&asked, &[Uuid::from_u128(1)]);
        assert!(older.lost.is_cancelled() && !newer.lost.is_cancelled() && !other.lost.is_cancelled());
        leases.lose(&leases.runs(), &[Uuid::from_u128(1)]);
        assert!(newer.lost.is_cancelled() && !other.lost.is_cancelled());
    }
}
