//! What a load run was promised, compared with what the database has: nothing missing, nothing doubled.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sql::operators::find_events;
use sql::{DbError, GenericClient};
use uuid::Uuid;

/// Ids looked up in one query.
const IDS_A_QUERY: usize = 10_000;

/// An event that was answered 202.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The provider's id of it.
    pub provider_event_id: String,
    /// The event id of the answer.
    pub event_id: Option<Uuid>,
    /// The job id of the answer.
    pub job_id: Option<Uuid>,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Events that were answered 202.
    pub accepted: usize,
    /// Events that are stored, of those that were sent.
    pub stored: usize,
    /// Jobs of those events.
    pub jobs: usize,
    /// Answered 202, but not stored with exactly the event and job of the answer.
    pub missing: usize,
    /// Sent once and stored as two events, or stored with two jobs.
    pub doubled: usize,
}

impl Comparison {
    /// Whether each promise was kept once.
    pub fn is_right(&self) -> bool {
        self.missing == 0 && self.doubled == 0
    }
}

/// Compares answers with rows. `sent` are the provider's ids of all events that were sent, answered or not.
///
/// # Errors
/// If the rows can't be read.
pub async fn compare(
    client: &impl GenericClient,
    tenant_id: Uuid,
    source: &str,
    since: DateTime<Utc>,
    sent: &[String],
    accepted: &[Accepted],
) -> Result<Comparison, DbError> {
    let mut stored = Vec::new();
    for ids in sent.chunks(IDS_A_QUERY) {
        for event in find_events(client, tenant_id, source, ids, since).await? {
            let key = event.provider_event_id;
            if event.job_ids.is_empty() {
                stored.push((key.clone(), event.event_id, None));
            }
            stored.extend(
                event
                    .job_ids
                    .iter()
                    .map(|job| (key.clone(), event.event_id, Some(*job))),
            );
        }
    }
    let promises: Vec<_> = accepted
        .iter()
        .map(|promise| {
            (
                promise.provider_event_id.clone(),
                promise.event_id,
                promise.job_id,
            )
        })
        .collect();
    Ok(reckon(&promises, stored))
}

/// Compares promises (an event's key, and the event and job that were promised) with what is stored: a row for each job of an
/// event, and one where it has none.
pub(crate) fn reckon<K: Ord + Clone>(
    promises: &[(K, Option<Uuid>, Option<Uuid>)],
    mut stored: Vec<(K, Uuid, Option<Uuid>)>,
) -> Comparison {
    stored.sort_unstable();
    let of = |key: &K| {
        let begin = stored.partition_point(|row| row.0 < *key);
        let end = stored.partition_point(|row| row.0 <= *key);
        &stored[begin..end]
    };
    let kept = |(key, event, job): &&(K, Option<Uuid>, Option<Uuid>)| {
        let [row] = of(key) else { return false };
        job.is_some() && (Some(row.1), row.2) == (*event, *job)
    };
    let mut events: Vec<(&K, Uuid)> = stored.iter().map(|row| (&row.0, row.1)).collect();
    events.dedup();
    let mut keys: Vec<&K> = stored.iter().map(|row| &row.0).collect();
    keys.dedup();
    Comparison {
        accepted: promises.len(),
        stored: events.len(),
        jobs: stored.iter().filter(|row| row.2.is_some()).count(),
        missing: promises.len() - promises.iter().filter(kept).count(),
        doubled: keys.iter().filter(|key| of(key).len() > 1).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_promise_is_one_row_and_nothing_is_there_twice() {
        let id = Uuid::from_u128;
        let promise = |number: u32| (number, Some(id(number.into())), Some(id(100)));
        let promises = [promise(1), promise(2), promise(3), promise(4)];
        let stored = vec![
            (1, id(1), Some(id(100))),
            // Two jobs; another job than was said; and 4 is not there. 5 was never answered.
            (2, id(2), Some(id(100))),
            (2, id(2), Some(id(101))),
            (3, id(3), Some(id(102))),
            (5, id(5), Some(id(100))),
        ];
        let found = reckon(&promises, stored);
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
        assert!(reckon(&promises[..1], vec![(1, id(1), Some(id(100)))]).is_right());
    }
}
