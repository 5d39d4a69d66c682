//! Where a claim starts to look at the outbox.
//!
//! Messages are claimed in the order of their due times, so that what sorts before the last claimed one has left the queue,
//! but for what was committed late: its transaction had begun before. A claim that looked at all of it would pass over every
//! row that is dead and not vacuumed yet, and beside an old snapshot that is all that went through since. So most claims
//! start a little behind the last one; a few times a second one starts as far behind it as an ingest transaction can be late,
//! and every five seconds one starts at the beginning.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::outbox::LowWater;

/// How far behind the last claimed message most claims start: longer than a commit takes under load.
const NEAR: TimeDelta = TimeDelta::milliseconds(200);

/// How far behind it some do: longer than an ingest transaction can take (its role's statement_timeout is 1.5 s).
const FAR: TimeDelta = TimeDelta::seconds(2);
const FAR_EVERY: Duration = Duration::from_millis(200);

/// How often one starts at the beginning: for clocks that were set back, and whoever holds a transaction open.
const ALL_EVERY: Duration = Duration::from_secs(5);

/// The low-water mark of one target.
#[derive(Debug, Clone)]
pub struct LowWaterMark {
    at: DateTime<Utc>,
    /// The last claim started at the beginning: what it finds is where the queue begins, also if that is earlier.
    from_start: bool,
    far_due: Instant,
    all_due: Instant,
}

impl LowWaterMark {
    /// Nothing was claimed yet: the first claim starts at the beginning.
    pub fn new(now: Instant) -> Self {
        Self {
            at: LowWater::START.at,
            from_start: false,
            far_due: now,
            all_due: now,
        }
    }

    /// Where the next claim starts.
    pub fn claim_from(&mut self, now: Instant) -> LowWater {
        self.from_start = false;
        let behind = if now >= self.all_due {
            self.all_due = now + ALL_EVERY;
            self.from_start = true;
            return LowWater::START;
        } else if now >= self.far_due {
            self.far_due = now + FAR_EVERY;
            FAR
        } else {
            NEAR
        };
        LowWater {
            at: self.at - behind,
            ..LowWater::START
        }
    }

    /// The last message of a claim was due then.
    pub fn claimed_to(&mut self, at: DateTime<Utc>) {
        self.at = if self.from_start { at } else { self.at.max(at) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_from_the_beginning_takes_the_mark_back_after_the_clock_was() {
        let begun = Instant::now();
        let noon = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let mut mark = LowWaterMark::new(begun);
        mark.claim_from(begun);
        mark.claimed_to(noon);
        mark.claim_from(begun + Duration::from_millis(100));
        mark.claimed_to(noon - TimeDelta::hours(1));
        let near = mark.claim_from(begun + Duration::from_millis(200)).at;
        assert!(
            near > noon - TimeDelta::hours(1),
            "one that is late takes nothing back"
        );
        mark.claim_from(begun + ALL_EVERY);
        mark.claimed_to(noon - TimeDelta::hours(1));
        let near = mark.claim_from(begun + ALL_EVERY + Duration::from_millis(1)).at;
        assert!(near < noon - TimeDelta::hours(1));
    }

    #[test]
    fn most_claims_start_near_some_far_and_few_at_the_beginning() {
        let begun = Instant::now();
        let last = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let mut mark = LowWaterMark::new(begun);
        let mut starts = [0; 3];
        for tenths in 0..100_u32 {
            let from = mark.claim_from(begun + Duration::from_millis(100) * tenths).at;
            let start = [LowWater::START.at, last - FAR, last - NEAR]
                .iter()
                .position(|at| *at == from)
                .unwrap();
            starts[start] += 1;
            mark.claimed_to(last);
            // A retry of the past does not move it back, unless that is where the queue begins.
            if start > 0 {
                mark.claimed_to(last - TimeDelta::hours(1));
            }
        }
        assert_eq!(starts, [2, 50, 48]);
    }
}
