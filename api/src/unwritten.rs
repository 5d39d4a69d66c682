//! Counts that wait to be written: added up in memory, because a row that every request updated would be the slowest
//! part of it. What is counted is in `rejections.rs` and `traffic.rs`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sql::Pool;
use tokio_util::sync::CancellationToken;

use crate::rejections::Rejections;
use crate::traffic::Traffic;

/// How often counts are written.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Keys at once; while the database is away the counts of further ones are lost.
const MAX_KEYS: usize = 10_000;

/// Counts by key.
#[derive(Debug)]
pub(crate) struct Unwritten<K>(Mutex<HashMap<K, i64>>);

impl<K> Default for Unwritten<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Unwritten<K> {
    /// Adds `count` under `key`.
    pub(crate) fn add(&self, key: K, count: i64) {
        Self::add_to(&mut self.lock(), key, count);
    }

    /// All counts; from now on they are the caller's to write.
    pub(crate) fn take(&self) -> HashMap<K, i64> {
        std::mem::take(&mut *self.lock())
    }

    /// Takes back what could not be written.
    pub(crate) fn give_back(&self, counts: HashMap<K, i64>) {
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

/// Writes the counts once a second until `stop`, and once more then.
pub(crate) async fn keep_written(
    rejections: Arc<Rejections>,
    traffic: Arc<Traffic>,
    pool: Pool,
    stop: CancellationToken,
) {
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(WRITE_EVERY) => false,
        };
        if let Err(error) = rejections.write(&pool).await {
            tracing::warn!(%error, "rejections can't be written; they are counted on");
        }
        if let Err(error) = traffic.write(&pool).await {
            tracing::warn!(%error, "traffic can't be written; it is counted on");
        }
        if stopped {
            return;
        }
    }
}
