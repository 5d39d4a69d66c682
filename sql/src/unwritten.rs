//! Counts that wait to be written: added up in memory, because a row that every request updated would be the slowest
//! part of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys at once; while the database is away, the counts of further ones are lost.
const MAX_KEYS: usize = 10_000;

/// Counts by key.
#[derive(Debug)]
pub struct Unwritten<K>(Mutex<HashMap<K, i64>>);

impl<K> Default for Unwritten<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Unwritten<K> {
    /// Adds `count` under `key`.
    pub fn add(&self, key: K, count: i64) {
        Self::add_to(&mut self.lock(), key, count);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// All counts; from now on they are the caller's to write.
    pub fn take(&self) -> HashMap<K, i64> {
        std::mem::take(&mut *self.lock())
    }

    /// Takes back what could not be written.
    pub fn give_back(&self, counts: HashMap<K, i64>) {
        let mut unwritten = self.lock();
        for (key, count) in counts {
            Self::add_to(&mut unwritten, key, count);
        }
    }

    fn add_to(unwritten: &mut HashMap<K, i64>, key: K, count: i64) {
        if unwritten.len() < MAX_KEYS || unwritten.contains_key(&key) {
            *unwritten.entry(key).or_default() += count;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, i64>> {
        // No code panics while holding it, and counts are counts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_come_back_and_are_bounded() {
        let counts = Unwritten::default();
        counts.add("a", 1);
        let taken = counts.take();
        counts.add("a", 2);
        counts.give_back(taken);
        assert_eq!(counts.take(), HashMap::from([("a", 3)]));

        let many = Unwritten::default();
        for key in 0..=MAX_KEYS {
            many.add(key, 1);
        }
        many.add(0, 1);
        let taken = many.take();
        assert_eq!((taken.len(), taken[&0]), (MAX_KEYS, 2));
    }
}
