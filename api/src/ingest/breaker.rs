//! Answers fast while the database is away: open from the first batch that finds it so until a probe gets an answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sql::Pool;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often the database is tried while the breaker is open.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// Longest that a probe waits for its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether webhooks are refused without asking the database.
#[derive(Default)]
pub(super) struct Breaker {
    open: AtomicBool,
    tripped: Notify,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// The database is away: from now on webhooks are refused at once.
    pub(super) fn trip(&self) {
        if !self.open.swap(true, Ordering::AcqRel) {
            tracing::error!("the database is away: webhooks are answered 503 until it is back");
        }
        self.tripped.notify_one();
    }

    /// Each time it has tripped, tries the database until that answers, and closes it then.
    pub(super) async fn probe(&self, pool: &Pool, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.tripped.notified() => {}
            }
            while self.is_open() {
                match timeout(PROBE_TIMEOUT, sql::operators::ping(pool)).await {
                    Ok(Ok(())) => {
                        self.open.store(false, Ordering::Release);
                        tracing::info!("the database is back");
                    }
                    Ok(Err(_)) | Err(_) => tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PROBE_EVERY) => {}
                    },
                }
            }
        }
    }
}
