//! What is expected of the next batch: that each event in it is new, unless one of the last was not. Ingest is a third cheaper
//! at the ledger where that holds; where it does not, the attempt is paid for, and leaves dead rows.

use std::sync::atomic::{AtomicU32, Ordering};

use sql::ingest::{Expect, Ingested};

/// Batches after one with a known event until new ones are expected again: dead rows are then those of one batch in so many.
const CAUTIOUS_BATCHES: u32 = 64;

/// The guess; lanes share it.
#[derive(Debug, Default)]
pub(super) struct Guess {
    cautious_for: AtomicU32,
}

impl Guess {
    /// What to expect of the batch that is about to be committed.
    pub(super) fn next(&self) -> Expect {
        let cautious = self
            .cautious_for
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match cautious {
            Ok(_) => Expect::Any,
            Err(_) => Expect::New,
        }
    }

    /// Takes note of what became of it, and whether the guess was wrong: a key may be known though no answer says so.
    pub(super) fn learn(&self, was_wrong: bool, outcomes: &[Ingested]) {
        let known =
            |outcome: &Ingested| matches!(outcome, Ingested::Duplicate { .. } | Ingested::Replay { .. });
        if was_wrong || outcomes.iter().any(known) {
            self.cautious_for.store(CAUTIOUS_BATCHES, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn after_a_known_event_or_a_wrong_guess_new_ones_are_not_expected_for_a_while() {
        let guess = Guess::default();
        let known = Ingested::Replay {
            event_id: Uuid::nil(),
            job_id: None,
        };
        assert_eq!(guess.next(), Expect::New);
        guess.learn(false, &[Ingested::Suspended]);
        assert_eq!(guess.next(), Expect::New);
        for learnt in [
            (false, [Ingested::Suspended, known]),
            (true, [Ingested::Suspended; 2]),
        ] {
            guess.learn(learnt.0, &learnt.1);
            for _ in 0..CAUTIOUS_BATCHES {
                assert_eq!(guess.next(), Expect::Any);
            }
            assert_eq!(guess.next(), Expect::New);
        }
    }
}
