//! Lanes: each runs cycles as long as they find something. The first of a target then waits for its next round; further ones
//! wait until a claim was full, each of which calls one more: a single message costs one claim, and a mass of them all lanes.
//!
//! Owns the rounds, by which first lanes and the sleeper (`sleeper.rs`) know of each other. What a cycle is, is in `cycle.rs`.

use std::sync::Arc;
use std::time::Duration;

use sql::Pool;
use sql::outbox::Target;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::cycle::{Cycle, Drain};
use crate::kept::KeptPublisher;

/// Pauses after the database or the broker has failed a lane or the sleeper.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How long a target is looked at whenever somebody notifies, after it had a message.
const LIKELY_FOR: Duration = Duration::from_secs(10);

/// Who has looked, and who should again: of the first lane of each target, in the order of [`Target::ALL`].
#[derive(Debug, Default)]
pub(crate) struct Rounds([Round; Target::ALL.len()]);

#[derive(Debug, Default)]
struct Round {
    /// Rises when the lane should look.
    number: u64,
    /// It has found nothing since.
    idle: bool,
    /// When it last found something.
    found: Option<Instant>,
}

impl Rounds {
    fn of(&self, target: Target) -> u64 {
        self.each()
            .find_map(|(of, round)| (of == target).then_some(round.number))
            .unwrap_or_default()
    }

    fn each(&self) -> impl Iterator<Item = (Target, &Round)> {
        Target::ALL.into_iter().zip(&self.0)
    }

    fn each_mut(&mut self) -> impl Iterator<Item = (Target, &mut Round)> {
        Target::ALL.into_iter().zip(&mut self.0)
    }

    /// First lanes that have found nothing in their round.
    pub(crate) fn idle(&self) -> usize {
        self.0.iter().filter(|round| round.idle).count()
    }

    /// The lane of `target` has run cycles until one found nothing; the first was in round `number`. If others found something,
    /// it is taken to have been at `found`.
    fn ended(&mut self, target: Target, number: u64, found: Option<Instant>) {
        for (_, round) in self.each_mut().filter(|(of, _)| *of == target) {
            round.found = found.or(round.found);
            round.idle |= round.number == number;
        }
    }

    fn begin(&mut self, looks: impl Fn(Target, &Round) -> bool) {
        for (target, round) in self.each_mut() {
            if looks(target, round) {
                round.number += 1;
                round.idle = false;
            }
        }
    }

    fn begin_likely(&mut self, now: Instant) {
        self.begin(|target, round| {
            let lately = round.found.is_some_and(|found| now - found < LIKELY_FOR);
            target == Target::Jobs || lately
        });
    }
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
        self.rounds.send_modify(|rounds| rounds.begin(|_, _| true));
    }

    /// Has those lanes look that a new message is likely to be for: jobs, and what had one lately. For each further look is a
    /// transaction, at a moderate rate one for each job. The caller finds out by itself what is due for the others.
    pub(crate) fn next_likely_round(&self) {
        self.rounds
            .send_modify(|rounds| rounds.begin_likely(Instant::now()));
    }
}

/// The pauses of who tries again.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LAST_PAUSE)
}

/// Runs the first lane of a target.
pub(crate) async fn run_first_lane(drain: Arc<Drain>, shared: Shared, mut publisher: KeptPublisher) {
    let mut rounds = shared.rounds.subscribe();
    let target = drain.target();
    loop {
        let seen = rounds.borrow_and_update().of(target);
        let Some(found) = run_cycles(&drain, &shared, &mut publisher).await else {
            return;
        };
        shared
            .rounds
            .send_modify(|rounds| rounds.ended(target, seen, found.then(Instant::now)));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            // Its sender is in `shared`: it can't fail.
            _ = rounds.wait_for(|rounds| rounds.of(target) != seen) => {}
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

/// Runs cycles until one finds nothing; returns whether any found something. None if the relay stops.
async fn run_cycles(drain: &Drain, shared: &Shared, publisher: &mut KeptPublisher) -> Option<bool> {
    let mut backoff = backoff();
    let mut found = false;
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
            Ok(Cycle::Settled(_)) => {
                backoff.reset();
                found = true;
            }
            Ok(Cycle::Idle) => return Some(found),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(rounds: &Rounds) -> Vec<Target> {
        let busy = rounds.each().filter(|(_, round)| !round.idle);
        busy.map(|(target, _)| target).collect()
    }

    fn all_end(rounds: &mut Rounds, found: impl Fn(Target) -> Option<Instant>) {
        for target in Target::ALL {
            rounds.ended(target, rounds.of(target), found(target));
        }
        assert_eq!(rounds.idle(), Target::ALL.len());
    }

    #[test]
    fn a_notification_is_for_jobs_and_for_what_had_something_lately() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        assert_eq!(busy(&rounds), Target::ALL);
        all_end(&mut rounds, |target| (target == Target::Events).then_some(now));
        rounds.begin_likely(now);
        assert_eq!(busy(&rounds), [Target::Jobs, Target::Events]);
        all_end(&mut rounds, |_| None);
        rounds.begin_likely(now + LIKELY_FOR);
        assert_eq!(busy(&rounds), [Target::Jobs]);
        rounds.begin(|_, _| true);
        assert_eq!(busy(&rounds), Target::ALL);
    }

    #[test]
    fn a_lane_that_ends_an_earlier_round_is_not_idle() {
        let mut rounds = Rounds::default();
        let seen = rounds.of(Target::Jobs);
        rounds.begin_likely(Instant::now());
        rounds.ended(Target::Jobs, seen, Some(Instant::now()));
        assert_eq!(rounds.idle(), 0);
        rounds.ended(Target::Jobs, rounds.of(Target::Jobs), None);
        assert_eq!(rounds.idle(), 1);
    }
}
