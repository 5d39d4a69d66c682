//! Jobs that have no outcome yet, second by second.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sql::volume::{count_open_jobs, is_a_job_open};
use sql::{DbError, GenericClient};

/// How often jobs are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How often it is asked whether there are none left.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// One count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Seconds since counting began.
    pub at: f64,
    /// Jobs that were open.
    pub open: i64,
}

/// Counts jobs that were made since `since`, once a second, until it is dropped or the database fails; each is pushed to
/// `counts`, so that those of a future that is dropped are kept.
///
/// # Errors
/// [`DbError`] if they can't be counted. Otherwise it does not end.
pub(crate) async fn keep_counting(
    client: &impl GenericClient,
    since: DateTime<Utc>,
    counts: &mut Vec<Count>,
) -> Result<std::convert::Infallible, DbError> {
    let began = Instant::now();
    loop {
        let open = count_open_jobs(client, since).await?;
        counts.push(Count {
            at: began.elapsed().as_secs_f64(),
            open,
        });
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Until no job that was made since then is open; whether that came before the deadline.
///
/// # Errors
/// [`DbError`] if they can't be looked for.
pub(crate) async fn is_gone_by(
    client: &impl GenericClient,
    since: DateTime<Utc>,
    deadline: Instant,
) -> Result<bool, DbError> {
    while is_a_job_open(client, since).await? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(true)
}

/// The counts as points of a picture.
#[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^52")]
pub(crate) fn points(counts: &[Count]) -> Vec<(f64, f64)> {
    counts.iter().map(|count| (count.at, count.open as f64)).collect()
}

/// By how many jobs a second the backlog grows: the slope of the line that fits the counts best. None of fewer than three.
#[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^52")]
pub(crate) fn growth(counts: &[Count]) -> Option<f64> {
    if counts.len() < 3 {
        return None;
    }
    let number = counts.len() as f64;
    let mean_at = counts.iter().map(|count| count.at).sum::<f64>() / number;
    let mean_open = counts.iter().map(|count| count.open as f64).sum::<f64>() / number;
    let (mut covariance, mut variance) = (0.0, 0.0);
    for count in counts {
        covariance += (count.at - mean_at) * (count.open as f64 - mean_open);
        variance += (count.at - mean_at).powi(2);
    }
    (variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_slope_and_a_ripple_is_none() {
        let counts = |of: &dyn Fn(i64) -> i64| -> Vec<Count> {
            let count = |second: i64| Count {
                at: f64::from(i32::try_from(second).unwrap()),
                open: of(second),
            };
            (0..20).map(count).collect()
        };
        assert!((growth(&counts(&|second| 100 + 7 * second)).unwrap() - 7.0).abs() < 1e-9);
        assert!(growth(&counts(&|second| 100 + second % 2)).unwrap().abs() < 0.1);
        assert_eq!(growth(&counts(&|_| 5)[..2]), None);
    }
}
