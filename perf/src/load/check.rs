//! What a run was promised, compared with what is stored: nothing missing, nothing doubled.

use chrono::{DateTime, Utc};
use sql::volume::for_each_stored;
use sql::{DbError, GenericClient};
use uuid::Uuid;

use super::events::Events;
use super::tally::Promise;
use crate::ledger::Comparison;

/// Compares promises with rows. The database is asked once, after the load.
///
/// # Errors
/// If the rows can't be read.
pub(super) async fn check(
    client: &impl GenericClient,
    events: &Events,
    since: DateTime<Utc>,
    promises: &[Promise],
) -> Result<Comparison, DbError> {
    let prefix = events.prefix();
    let mut stored: Vec<(u32, Uuid, Option<Uuid>)> = Vec::with_capacity(promises.len());
    for_each_stored(client, &prefix, since, |row| {
        let number = row.provider_event_id[prefix.len()..].parse();
        stored.extend(number.ok().map(|number| (number, row.event_id, row.job_id)));
    })
    .await?;
    Ok(compare(promises, stored))
}

fn compare(promises: &[Promise], mut stored: Vec<(u32, Uuid, Option<Uuid>)>) -> Comparison {
    stored.sort_unstable();
    let of = |number: u32| {
        let begin = stored.partition_point(|row| row.0 < number);
        let end = stored.partition_point(|row| row.0 <= number);
        &stored[begin..end]
    };
    let kept = |promise: &&Promise| {
        of(promise.number) == [(promise.number, promise.event_id, promise.job_id)] && promise.job_id.is_some()
    };
    let mut numbers: Vec<u32> = stored.iter().map(|row| row.0).collect();
    numbers.dedup();
    Comparison {
        accepted: promises.len(),
        stored: numbers.len(),
        jobs: stored.iter().filter(|row| row.2.is_some()).count(),
        missing: promises.len() - promises.iter().filter(kept).count(),
        doubled: numbers.iter().filter(|number| of(**number).len() > 1).count(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_promise_is_one_row_and_nothing_is_there_twice() {
        let id = Uuid::from_u128;
        let promise = |number| Promise {
            number,
            event_id: id(number.into()),
            job_id: Some(id(100)),
            due: Duration::ZERO,
        };
        let promises = [promise(1), promise(2), promise(3), promise(4)];
        let stored = vec![
            (1, id(1), Some(id(100))),
            // Two jobs; another job than was said; and 4 is not there. 5 was never answered.
            (2, id(2), Some(id(100))),
            (2, id(2), Some(id(101))),
            (3, id(3), Some(id(102))),
            (5, id(5), Some(id(100))),
        ];
        let found = compare(&promises, stored);
        assert_eq!(
            found,
            Comparison {
                accepted: 4,
                stored: 4,
                jobs: 5,
                missing: 3,
                doubled: 1,
            }
        );
        assert!(!found.is_right());
        assert!(compare(&promises[..1], vec![(1, id(1), Some(id(100)))]).is_right());
    }
}
