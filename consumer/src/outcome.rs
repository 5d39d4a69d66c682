//! What a run comes to: the handler's verdict, and the count of what became of the jobs.
//!
//! Owns the verdict and its bounds. Whether a failed job is retried is decided in SQL; `finish.rs` asks for it.

use std::fmt::Display;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::task::JoinError;

use crate::metrics::metrics;

/// Longest error that is kept of a run, in characters: what the database keeps.
const MAX_ERROR_CHARS: usize = 2_000;

/// Longest wait that a handler may ask for. Beyond, an interval might not fit the database's type.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What a handler says of its run. Errors are stored, shown to operators and logged: no payload, no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Succeeded,
    /// It failed, and another attempt may succeed. Given up when no attempts are left.
    Retry {
        /// What went wrong; kept to 2,000 characters.
        error: String,
        /// Wait at least this long, at most a day; otherwise the back-off decides alone.
        after: Option<Duration>,
    },
    /// It failed, and would fail again: the job is given up at once.
    Failed {
        /// What went wrong; kept to 2,000 characters.
        error: String,
    },
}

impl Outcome {
    /// A failure that another attempt may mend, after the usual back-off.
    pub fn retry(error: impl Display) -> Self {
        Self::Retry {
            error: error.to_string(),
            after: None,
        }
    }

    /// A failure that another attempt may mend, but not before `wait` has passed: what a `Retry-After` asks for.
    pub fn retry_after(wait: Duration, error: impl Display) -> Self {
        Self::Retry {
            error: error.to_string(),
            after: Some(wait),
        }
    }

    /// A failure that no further attempt would mend.
    pub fn failed(error: impl Display) -> Self {
        Self::Failed {
            error: error.to_string(),
        }
    }

    /// The verdict on a handler that was stopped because it took too long.
    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::retry(format_args!(
            "the run took longer than CONSUMER__JOB_TIMEOUT_MS, {} ms, and was stopped",
            after.as_millis()
        ))
    }

    /// The verdict on a handler that has none: it panicked, or its task was ended under it.
    pub(crate) fn of_broken_handler(error: JoinError) -> Self {
        let Ok(panic) = error.try_into_panic() else {
            return Self::retry("the handler was stopped");
        };
        let text = match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => match panic.downcast::<&'static str>() {
                Ok(text) => (*text).to_owned(),
                Err(_) => "without a text".to_owned(),
            },
        };
        Self::retry(format_args!("the handler panicked: {text}"))
    }

    /// The same, within the bounds of what is stored.
    pub(crate) fn bounded(self) -> Self {
        match self {
            Self::Succeeded => Self::Succeeded,
            Self::Retry { error, after } => Self::Retry {
                error: cut(error),
                after: after.map(|wait| wait.min(MAX_RETRY_AFTER)),
            },
            Self::Failed { error } => Self::Failed { error: cut(error) },
        }
    }
}

/// A handler may end early by `?`: `Err` is its verdict, `Ok` a success.
impl From<Result<(), Self>> for Outcome {
    fn from(ended: Result<(), Self>) -> Self {
        ended.err().unwrap_or(Self::Succeeded)
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_ERROR_CHARS) {
        text.truncate(end);
    }
    text
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByStatus {
    status: &'static str,
}

metrics! {
    /// What became of jobs, whoever decided it: the handler, the sweeper, or a start too many.
    pub(crate) struct Tally {
        /// Runs that ended, by what became of their job: succeeded, retried or dead_lettered
        processed("jobs_processed"): Family<ByStatus, Counter> = all_statuses(),
        /// Attempts that failed and are followed by another
        retries("job_retries"): Counter = Counter::default(),
        /// Jobs that were given up; each has its copy in the dead-letter queue
        dead("dlq_messages"): Counter = Counter::default(),
    }
}

/// Every series is there from the start, at zero, so that its first increment is seen as one.
fn all_statuses() -> Family<ByStatus, Counter> {
    let family = Family::default();
    for status in ["succeeded", "retried", "dead_lettered"] {
        drop(family.get_or_create(&ByStatus { status }));
    }
    family
}

impl Tally {
    pub(crate) fn succeeded(&self) {
        self.processed
            .get_or_create(&ByStatus { status: "succeeded" })
            .inc();
    }

    pub(crate) fn retried(&self) {
        self.processed
            .get_or_create(&ByStatus { status: "retried" })
            .inc();
        self.retries.inc();
    }

    pub(crate) fn dead_lettered(&self, jobs: u64) {
        self.processed
            .get_or_create(&ByStatus {
                status: "dead_lettered",
            })
            .inc_by(jobs);
        self.dead.inc_by(jobs);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    async fn panicked(work: impl FnOnce() + Send + 'static) -> Outcome {
        Outcome::of_broken_handler(tokio::spawn(async move { work() }).await.unwrap_err())
    }

    #[tokio::test]
    async fn a_panic_is_a_retry_that_keeps_its_text() {
        let retry = |text: &str| Outcome::retry(format_args!("the handler panicked: {text}"));
        assert_eq!(panicked(|| panic!("plain")).await, retry("plain"));
        assert_eq!(panicked(|| panic!("number {}", 7)).await, retry("number 7"));
        assert_eq!(
            panicked(|| std::panic::panic_any(7)).await,
            retry("without a text")
        );
    }

    #[tokio::test]
    async fn a_handler_that_was_stopped_is_a_retry() {
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        let outcome = Outcome::of_broken_handler(task.await.unwrap_err());
        assert_eq!(outcome, Outcome::retry("the handler was stopped"));
    }

    #[test]
    fn an_error_is_cut_between_characters_and_a_wait_after_a_day() {
        let bounded = Outcome::Retry {
            error: "ü".repeat(2_001),
            after: Some(Duration::MAX),
        }
        .bounded();
        assert_eq!(
            bounded,
            Outcome::Retry {
                error: "ü".repeat(2_000),
                after: Some(MAX_RETRY_AFTER)
            }
        );
        let exact = Outcome::failed("x".repeat(2_000));
        assert_eq!(exact.clone().bounded(), exact);
    }

    #[test]
    fn every_status_is_there_at_zero_and_its_help_is_the_doc_comment() {
        let (tally, mut registry) = (Tally::new(), Registry::default());
        tally.register(&mut registry);
        let text = observability::metrics::encode(&registry).unwrap();
        for line in [
            "jobs_processed_total{status=\"succeeded\"} 0",
            "jobs_processed_total{status=\"retried\"} 0",
            "jobs_processed_total{status=\"dead_lettered\"} 0",
            "# HELP job_retries Attempts that failed and are followed by another.",
            "dlq_messages_total 0",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
