//! Sleeping for all lanes, without missing a message.
//!
//! The protocol: commit that we sleep (`relay_sleep`), look once more in a new transaction, and only then wait. Whoever
//! commits a message after that look finds the sleeper's row and notifies.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sql::outbox::{LowWater, OUTBOX_CHANNEL, Target, outbox_next_due, relay_sleep, relay_wake};
use sql::pool::{CALL_TIMEOUT, Listener};
use sql::{DbError, pool};
use tokio::time::Instant;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::lanes::{LAST_PAUSE, Shared, backoff, pause};

/// Pause after something was due that may be another relay's, still our own lanes', or the broker's not to take; longer each
/// time in a row, up to the poll.
const PAUSE_WHEN_DUE: Duration = Duration::from_millis(100);

/// Bound of the last call, at the end.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long the sleeper waits for all first lanes; one that hangs on its broker must not hold up the others' wake-up, and a
/// message of a target that had none lately waits no longer than this for the look that finds it.
const PATIENCE: Duration = Duration::from_millis(50);

/// Sleeps for all lanes until the relay stops.
pub(crate) async fn sleep_for_all(shared: Shared, config: Config) {
    let relay_id = Uuid::new_v4();
    let mut backoff = backoff();
    while !shared.stop.is_cancelled() {
        let began = Instant::now();
        let failed = tokio::select! {
            () = shared.stop.cancelled() => break,
            failed = sleep_and_wake(&shared, &config, relay_id) => failed,
        };
        tracing::warn!(error = %failed, "the outbox can't be watched; trying again");
        if began.elapsed() > LAST_PAUSE {
            backoff.reset();
        }
        pause(backoff.after_failure(), &shared.stop).await;
        // For whatever was missed meanwhile.
        shared.next_round();
    }
    let goodbye = async |client: &sql::Object| relay_wake(client, relay_id).await;
    let _ = pool::call(&shared.pool, LAST_CALL, goodbye).await;
}

/// Says that the relay sleeps, looks once more, waits until something is due or a writer notifies; again and again.
/// Returns when the database fails.
async fn sleep_and_wake(shared: &Shared, config: &Config, relay_id: Uuid) -> DbError {
    let lanes = Target::ALL.len();
    let mut listener = match Listener::connect(&config.database, OUTBOX_CHANNEL).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let mut rounds = shared.rounds.subscribe();
    let mut looks = Looks::default();
    let mut due = Backoff::new(PAUSE_WHEN_DUE, config.relay.poll());
    loop {
        // While all lanes work there is nothing to sleep for. The sender is in `shared`: waiting can't fail.
        let _ = rounds.wait_for(|rounds| rounds.idle() > 0).await.map(drop);
        let _ = tokio::time::timeout(PATIENCE, rounds.wait_for(|rounds| rounds.idle() == lanes))
            .await
            .map(drop);
        let wait = match looks.say_and_look(shared, relay_id, config.relay.poll()).await {
            Ok(Some(wait)) => {
                due.reset();
                wait
            }
            Ok(None) => {
                shared.next_round();
                due.after_failure()
            }
            Err(error) => return error,
        };
        tokio::select! {
            notified = listener.next() => match notified {
                // The look that follows finds what else is due.
                Some(_) => shared.next_likely_round(),
                None => return DbError::Unavailable("the listening connection was lost".to_owned()),
            },
            // What falls due now is found by the next look.
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Looks at the outbox, and what the database's clock said then.
#[derive(Default)]
struct Looks {
    clock: Option<(DateTime<Utc>, Instant)>,
}

impl Looks {
    /// Commits that we sleep for `poll`, then looks. Returns how long there is nothing to do, or none if something is
    /// due. Two round trips.
    async fn say_and_look(
        &mut self,
        shared: &Shared,
        relay_id: Uuid,
        poll: Duration,
    ) -> Result<Option<Duration>, DbError> {
        let clock = self.clock;
        let (wakes_at, found) = pool::call(&shared.pool, CALL_TIMEOUT, async |client| {
            let now = match clock {
                // The database's clock, as of its last word: ours may be hours off.
                Some((then, at)) => then + at.elapsed(),
                None => outbox_next_due(client, LowWater::START.at).await?.now,
            };
            let wakes_at = now + poll;
            relay_sleep(client, relay_id, wakes_at).await?;
            Ok((wakes_at, outbox_next_due(client, LowWater::START.at).await?))
        })
        .await?;
        self.clock = Some((found.now, Instant::now()));
        let until = found.due.map_or(wakes_at, |due| due.min(wakes_at));
        Ok((until - found.now).to_std().ok().filter(|wait| !wait.is_zero()))
    }
}
