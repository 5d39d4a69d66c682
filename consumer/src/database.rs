//! Calls to the database that end: bounded in time, told apart by whether trying again helps.
//!
//! Owns the pool, the readiness check `database` and the two log lines about it. What is called is up to the others:
//! `delivery.rs`, `finish.rs`, `leases.rs`, `sweeper.rs`, `wake.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use observability::admin::Readiness;
use relay::backoff::Backoff;
use sql::warm_up::{Calls, warm_up};
use sql::{DbError, Object, Pool, pool};
use tokio_util::sync::CancellationToken;

pub(crate) use sql::pool::CALL_TIMEOUT;

/// Pauses after failed calls, from the first to the last. The last is far below a usual lease, so that leases
/// are renewed before they end when the database was away for a moment.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Connections that are open before the first message comes: for starts, both outcomes, and leases.
const WARM_CONNECTIONS: usize = 4;

/// The database of one consumer. Clones share the pool.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pool: Pool,
    readiness: Readiness,
    answers: Arc<AtomicBool>,
}

impl Database {
    /// Connects nowhere yet.
    pub(crate) fn new(pool: Pool, readiness: Readiness) -> Self {
        Self {
            pool,
            readiness,
            answers: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Has connections open and ready before they are needed.
    pub(crate) fn warm_up(&self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        warm_up(self.pool.clone(), WARM_CONNECTIONS, Calls::Consumer, stop)
    }

    /// Makes one call on a connection of the pool. After an error it is not known what it did, unless it says so.
    pub(crate) async fn call<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&Object) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let result = pool::call(&self.pool, limit, work).await;
        self.note(result.as_ref().err());
        result
    }

    fn note(&self, error: Option<&DbError>) {
        let wrong = error.filter(|error| matches!(error, DbError::Unavailable(_) | DbError::Bug(_)));
        match wrong {
            Some(error) => {
                let reason = error.to_string();
                self.readiness.set("database", Err(&reason));
                if self.answers.swap(false, Ordering::Relaxed) {
                    tracing::warn!(%error, "lost the database");
                }
            }
            None => {
                self.readiness.set("database", Ok(()));
                if !self.answers.swap(true, Ordering::Relaxed) {
                    tracing::info!("the database answers again");
                }
            }
        }
    }
}

/// Makes a call again and again until it passes, or fails in a way that repeating does not mend. For calls that are
/// safe to repeat.
pub(crate) async fn persist<T, F>(mut call: impl FnMut() -> F) -> Result<T, DbError>
where
    F: Future<Output = Result<T, DbError>>,
{
    let mut backoff = backoff();
    loop {
        match call().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(backoff.after_failure()).await,
            result => return result,
        }
    }
}

/// The pauses between calls that fail.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LAST_PAUSE)
}
