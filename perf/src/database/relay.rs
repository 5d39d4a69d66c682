//! The outbox as a relay drains it, without a broker: each claim is confirmed whole.

use std::time::Duration;

use sql::low_water::LowWaterMark;
use sql::outbox::{ClaimedMessage, Settlement, Target, claim_outbox, settle_outbox};
use sql::volume::{Role, Scratch, flush_statistics};
use sql::{DbError, Object};
use tokio::time::Instant;

/// The relay's default, `RELAY__BATCH_ITEMS`.
const BATCH_ITEMS: u16 = 500;

/// One lane of one target.
pub(super) struct Drain {
    session: Object,
    target: Target,
    mark: LowWaterMark,
}

impl Drain {
    pub(super) async fn new(scratch: &Scratch, target: Target) -> Result<Self, DbError> {
        Ok(Self {
            session: scratch.session(Role::Relay).await?,
            target,
            mark: LowWaterMark::new(Instant::now()),
        })
    }

    /// Claims a batch and settles it as confirmed.
    pub(super) async fn cycle(&mut self) -> Result<Vec<ClaimedMessage>, DbError> {
        let from = self.mark.claim_from(Instant::now());
        let transaction = self.session.transaction().await?;
        let claimed = claim_outbox(&transaction, self.target, BATCH_ITEMS, from).await?;
        if let Some(last) = claimed.last() {
            self.mark.claimed_to(last.next_attempt_at);
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
}
