//! Pauses that grow while something keeps failing, and differ from process to process.

use std::time::Duration;

/// Doubles from the first pause to the last; each is then drawn from its upper half, so that processes which lost the same
/// server don't come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            failures: 0,
        }
    }

    /// Something has failed: how long to wait before it is tried again.
    pub fn after_failure(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.delay()
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It has passed: the next failure pauses shortly again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait now: nothing if nothing has failed.
    pub fn delay(&self) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        // More doublings than this pass any last pause.
        let full = self.first.saturating_mul(1 << doublings.min(20)).min(self.last);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_their_cap_and_start_over() {
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(10));
        for (failures, full_ms) in [(1, 100), (2, 200), (5, 1600), (8, 10_000), (u32::MAX, 10_000)] {
            for _ in 0..100 {
                let mut backoff = Backoff {
                    first,
                    last,
                    failures: failures - 1,
                };
                let (delay, full) = (backoff.after_failure(), Duration::from_millis(full_ms));
                assert!(delay >= full / 2 && delay <= full, "{failures}: {delay:?}");
                assert_eq!(backoff.failures(), failures);
            }
        }
        let mut backoff = Backoff::new(first, last);
        assert_eq!(backoff.delay(), Duration::ZERO);
        backoff.after_failure();
        backoff.reset();
        assert_eq!(backoff.delay(), Duration::ZERO);
    }
}
