//! Which request is next and when it is due: the same for all connections of a run.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The order of requests.
///
/// Without a rate each is due when a connection is free (a closed loop). With one, requests fall due at fixed times, and
/// a connection that is late takes them late (an open loop, as long as connections suffice): latency is counted from
/// there, so that a server that stalls is not measured less often.
#[derive(Debug)]
pub(crate) struct Plan {
    began: Instant,
    warm: Instant,
    ends: Instant,
    rate: Option<u32>,
    most: u32,
    next: AtomicU32,
}

/// One request of a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// From 0.
    pub(crate) number: u32,
    /// When it should be sent.
    pub(crate) due: Instant,
}

impl Plan {
    /// A plan that begins now. Nothing is due after `warmup` and `window` have passed, nor are more than `most` requests.
    pub(crate) fn new(rate: Option<u32>, warmup: Duration, window: Duration, most: u32) -> Self {
        let began = Instant::now();
        Self {
            began,
            warm: began + warmup,
            ends: began + warmup + window,
            rate,
            most,
            next: AtomicU32::new(0),
        }
    }

    /// The next request; none when all are taken. With a rate, it may be due later than now.
    pub(crate) fn take(&self) -> Option<Turn> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = match self.rate {
            Some(rate) => self.began + Duration::from_secs_f64(f64::from(number) / f64::from(rate)),
            None => Instant::now(),
        };
        (number < self.most && due < self.ends).then_some(Turn { number, due })
    }

    /// Whether requests fall due at fixed times.
    pub(crate) fn is_open(&self) -> bool {
        self.rate.is_some()
    }

    /// When the first request was due.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// When what is measured begins.
    pub(crate) fn warm(&self) -> Instant {
        self.warm
    }

    /// When it ends.
    pub(crate) fn ends(&self) -> Instant {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_is_due_at_fixed_times_whoever_is_late() {
        let plan = Plan::new(Some(100), Duration::ZERO, Duration::from_secs(1), 1_000);
        let dues: Vec<Duration> = std::iter::from_fn(|| plan.take())
            .map(|turn| turn.due - plan.began())
            .collect();
        assert_eq!(dues.len(), 100);
        assert_eq!(dues[50], Duration::from_millis(500));
    }

    #[test]
    fn a_plan_ends_with_its_requests() {
        let plan = Plan::new(None, Duration::ZERO, Duration::from_secs(60), 3);
        assert_eq!(
            std::iter::from_fn(|| plan.take())
                .map(|turn| turn.number)
                .collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert!(plan.take().is_none());
    }
}
