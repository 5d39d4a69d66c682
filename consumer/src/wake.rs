//! Wakes sleeping relays for messages that this process has written, after their commit and off everybody's path.
//!
//! Owns one task's worth of calls: however many ask, one call at a time is made, for the earliest due time.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sql::outbox::wake_relays;
use tokio::sync::Notify;

use crate::database::{CALL_TIMEOUT, Database};

/// For when the relays are wanted. Earlier sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    /// A message is due.
    Now,
    /// A message falls due then, by the database's clock.
    At(DateTime<Utc>),
}

/// Collects wishes; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waker(Arc<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    earliest: Mutex<Option<Wake>>,
    some: Notify,
}

impl Waker {
    /// Has the relays woken soon. Call it after the commit that wrote the message.
    pub(crate) fn wish(&self, wake: Wake) {
        let mut earliest = self.0.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        *earliest = Some(earliest.map_or(wake, |other| other.min(wake)));
        self.0.some.notify_one();
    }

    /// Fulfils wishes for good.
    pub(crate) async fn work(self, database: Database) {
        loop {
            self.0.some.notified().await;
            self.fulfil(&database).await;
        }
    }

    /// Fulfils what was wished so far. A failure is not repeated: a relay polls by itself within a second or so.
    pub(crate) async fn fulfil(&self, database: &Database) {
        let wish = self
            .0
            .earliest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let due = match wish {
            None => return,
            Some(Wake::Now) => None,
            Some(Wake::At(due)) => Some(due),
        };
        let woken = database
            .call(CALL_TIMEOUT, async |client| wake_relays(client, due).await)
            .await;
        if let Err(error) = woken {
            tracing::debug!(%error, "the relays were not woken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_wish_wins() {
        let waker = Waker::default();
        let earliest = || *waker.0.earliest.lock().unwrap();
        let (soon, later) = (Wake::At(DateTime::UNIX_EPOCH), Wake::At(DateTime::<Utc>::MAX_UTC));
        for (wish, holds) in [
            (later, later),
            (soon, soon),
            (later, soon),
            (Wake::Now, Wake::Now),
            (soon, Wake::Now),
        ] {
            waker.wish(wish);
            assert_eq!(earliest(), Some(holds));
        }
    }
}
