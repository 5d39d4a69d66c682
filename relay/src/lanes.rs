//! Lanes: each runs cycles as long as they find something. The first of a target then waits for the next round; further ones
//! wait until a claim was full, each of which calls one more: a single message costs one claim, and a mass of them all lanes.
//!
//! Owns the rounds, by which first lanes and the sleeper (`sleeper.rs`) know of each other. What a cycle is, is in `cycle.rs`.

use std::sync::Arc;
use std::time::Duration;

use sql::Pool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::cycle::{Cycle, Drain};
use crate::kept::KeptPublisher;

/// Pauses after the database or the broker has failed a lane or the sleeper.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Who has looked, and when everybody should again.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Rises when lanes should look.
    pub(crate) round: u64,
    /// First lanes that have found nothing in this round.
    pub(crate) idle: usize,
}

/// What all lanes and the sleeper share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) rounds: watch::Sender<Rounds>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Has the first lane of every target look, idle or not.
    pub(crate) fn next_round(&self) {
        self.rounds.send_modify(|rounds| {
            rounds.round += 1;
            rounds.idle = 0;
        });
    }
}

/// The pauses of who tries again.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LAST_PAUSE)
}

/// Runs the first lane of a target.
pub(crate) async fn run_first_lane(drain: Arc<Drain>, shared: Shared, mut publisher: KeptPublisher) {
    let mut rounds = shared.rounds.subscribe();
    loop {
        let seen = rounds.borrow_and_update().round;
        if run_cycles(&drain, &shared, &mut publisher).await.is_none() {
            return;
        }
        shared.rounds.send_modify(|rounds| {
            if rounds.round == seen {
                rounds.idle += 1;
            }
        });
        tokio::select! {
            () = shared.stop.cancelled() => return,
            // Its sender is in `shared`: it can't fail.
            _ = rounds.wait_for(|rounds| rounds.round != seen) => {}
        }
    }
}

/// Runs a further lane of a target.
pub(crate) async fn run_further_lane(drain: Arc<Drain>, shared: Shared, mut publisher: KeptPublisher) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = drain.more() => {}
        }
        if run_cycles(&drain, &shared, &mut publisher).await.is_none() {
            return;
        }
    }
}

/// Runs cycles until one finds nothing. None if the relay stops.
async fn run_cycles(drain: &Drain, shared: &Shared, publisher: &mut KeptPublisher) -> Option<()> {
    let mut backoff = backoff();
    loop {
        let turn = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            // Before the claim: while the broker is away or confirms nothing, nothing is claimed.
            turn = publisher.turn() => turn?,
        };
        let ran = drain.run_cycle(&shared.pool, &turn).await;
        drop(turn);
        match ran {
            Ok(Cycle::Settled(_)) => backoff.reset(),
            Ok(Cycle::Idle) => return Some(()),
            Err(error) => {
                tracing::warn!(outbox.target = drain.target().as_str(), %error, "a cycle failed");
                pause(backoff.after_failure(), &shared.stop).await;
            }
        }
    }
}

pub(crate) async fn pause(length: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}
