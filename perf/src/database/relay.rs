//! The outbox as a relay drains it, without a broker: each claim is confirmed whole.
//!
//! The low-water mark moves as in `relay/src/cycle.rs`, which this has to follow: it is what is measured.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sql::outbox::{ClaimedMessage, LowWater, Settlement, Target, claim_outbox, settle_outbox};
use sql::volume::{Role, Scratch, flush_statistics};
use sql::{DbError, Object};

/// The relay's default, `RELAY__BATCH_ITEMS`.
const BATCH_ITEMS: u16 = 500;

/// As in the relay: how far behind the last claimed message a claim starts.
const LOW_WATER_MARGIN: TimeDelta = TimeDelta::seconds(2);

/// As in the relay: how often a claim starts at the beginning.
const FULL_SCAN_EVERY: Duration = Duration::from_secs(5);

/// One lane of one target.
pub(super) struct Drain {
    session: Object,
    target: Target,
    mark: DateTime<Utc>,
    full_scan_due: Instant,
}

impl Drain {
    pub(super) async fn new(scratch: &Scratch, target: Target) -> Result<Self, DbError> {
        Ok(Self {
            session: scratch.session(Role::Relay).await?,
            target,
            mark: LowWater::START.at,
            full_scan_due: Instant::now(),
        })
    }

    /// Claims a batch and settles it as confirmed.
    pub(super) async fn cycle(&mut self) -> Result<Vec<ClaimedMessage>, DbError> {
        let from = self.claim_from();
        let transaction = self.session.transaction().await?;
        let claimed = claim_outbox(&transaction, self.target, BATCH_ITEMS, from).await?;
        if let Some(last) = claimed.last() {
            self.mark = self.mark.max(last.next_attempt_at);
            let settlement = Settlement {
                confirmed: claimed.iter().map(|message| message.id).collect(),
                deferred: Vec::new(),
            };
            let (base, cap) = (Duration::from_millis(250), Duration::from_secs(60));
            settle_outbox(&transaction, &settlement, base, cap).await?;
        }
        transaction.commit().await?;
        Ok(claimed)
    }

    /// Settles all that is due now.
    pub(super) async fn empty(&mut self) -> Result<(), DbError> {
        while !self.cycle().await?.is_empty() {}
        Ok(())
    }

    pub(super) async fn flush(&self) -> Result<(), DbError> {
        flush_statistics(&self.session).await
    }

    fn claim_from(&mut self) -> LowWater {
        let now = Instant::now();
        if now >= self.full_scan_due {
            self.full_scan_due = now + FULL_SCAN_EVERY;
            return LowWater::START;
        }
        LowWater {
            at: self.mark - LOW_WATER_MARGIN,
            id: LowWater::START.id,
        }
    }
}
