//! What the broker waits for on one channel: deliveries that are neither acknowledged nor given back. Says which of a batch one
//! acknowledgement can stand for.
//!
//! "All up to here" acknowledges everything lower, too, so it is only said where nothing lower is still undecided; and it names
//! nothing that was acknowledged before, which a broker answers by closing the channel.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tags of one channel's deliveries. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unsettled(Arc<Mutex<BTreeSet<u64>>>);

impl Unsettled {
    /// A delivery was taken.
    pub(crate) fn add(&self, tag: u64) {
        self.lock().insert(tag);
    }

    /// The broker has been told what becomes of these. Not before it has: another's "all up to here" would say so again.
    pub(crate) fn settle(&self, tags: &[u64]) {
        let mut unsettled = self.lock();
        for tag in tags {
            unsettled.remove(tag);
        }
    }

    /// How many of these, which ascend, can be settled by one word about the last of them: those below whose last nothing
    /// else is undecided.
    pub(crate) fn settled_at_once(&self, ascending: &[u64]) -> usize {
        let unsettled = self.lock();
        unsettled
            .iter()
            .zip(ascending)
            .take_while(|(undecided, tag)| undecided == tag)
            .count()
    }

    /// Whether both are of one channel.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_stands_for_no_delivery_that_is_undecided() {
        let unsettled = Unsettled::default();
        for tag in 1..=6 {
            unsettled.add(tag);
        }
        assert_eq!(unsettled.settled_at_once(&[1, 2, 3]), 3);
        // 2 is held.
        assert_eq!(unsettled.settled_at_once(&[1, 3, 4]), 1);
        assert_eq!(unsettled.settled_at_once(&[2, 3]), 0);
        unsettled.settle(&[1, 3, 4]);
        assert_eq!(unsettled.settled_at_once(&[5, 6]), 0);
        unsettled.settle(&[2]);
        assert_eq!(unsettled.settled_at_once(&[5, 6]), 2);
        assert_eq!(unsettled.settled_at_once(&[]), 0);
    }
}
