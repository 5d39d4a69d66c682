//! The loop that has jobs taken over whose consumer died, froze or lost its database. Relays and consumers run it.
//!
//! Owns how often it looks. What is taken over, and what becomes of it, is decided by `sweep_leases`, which lets one
//! process of all work at a time and none more often than one would alone.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::DbError;
use crate::jobs::Swept;

/// Jobs taken over in one call: bounds the time that it holds their rows.
pub const BATCH: u16 = 500;

/// The longest time between two looks. A job is back within its lease and this, and the time its message takes.
pub const LONGEST_PERIOD: Duration = Duration::from_secs(3);

/// The shortest, and looks within the time of one lease, where that is known.
const SHORTEST_PERIOD: Duration = Duration::from_millis(200);
const SWEEPS_PER_LEASE: u32 = 6;

/// How often to look where leases are that long.
pub fn period_of(lease: Duration) -> Duration {
    (lease / SWEEPS_PER_LEASE).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
}

/// Sweeps every `period`, for good. `sweep` makes the call: at most so many jobs, nothing if somebody has swept that
/// recently. `report` hears of what was done.
pub async fn keep<F>(period: Duration, mut sweep: impl FnMut(u16, Duration) -> F, report: impl Fn(Swept))
where
    F: Future<Output = Result<Swept, DbError>>,
{
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A little less than a period, or two processes in step would leave every other look out.
        let mut not_within = period.mul_f64(0.8);
        loop {
            match sweep(BATCH, not_within).await {
                Ok(swept) => {
                    if swept != Swept::default() {
                        tracing::warn!(
                            rescued = swept.rescued,
                            poisoned = swept.poisoned,
                            "took over jobs whose lease had run out"
                        );
                        report(swept);
                    }
                    if swept.rescued + swept.poisoned < u32::from(BATCH) {
                        break;
                    }
                    not_within = Duration::ZERO;
                }
                Err(error) => {
                    if !error.is_retryable() {
                        tracing::error!(%error, "leases can't be swept");
                    }
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn it_looks_more_often_for_shorter_leases_within_bounds() {
        for (lease_ms, period_ms) in [(1_000, 200), (3_000, 500), (30_000, 3_000), (60_000, 3_000)] {
            assert_eq!(
                period_of(Duration::from_millis(lease_ms)),
                Duration::from_millis(period_ms)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_is_followed_by_another_at_once() {
        let (calls, answers) = (Mutex::new(Vec::new()), [500, 500, 7, 0]);
        let sweep = |_, not_within: Duration| {
            let mut calls = calls.lock().unwrap();
            let rescued = answers[calls.len()];
            calls.push(not_within);
            std::future::ready(Ok(Swept { rescued, poisoned: 0 }))
        };
        let looks = keep(Duration::from_secs(1), sweep, |_| {});
        assert!(
            tokio::time::timeout(Duration::from_millis(1_500), looks)
                .await
                .is_err()
        );
        let (full, gated) = (Duration::ZERO, Duration::from_millis(800));
        assert_eq!(*calls.lock().unwrap(), [gated, full, full, gated]);
    }
}
