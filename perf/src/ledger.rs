//! What a load run was promised, compared with what the database has: nothing missing, nothing doubled.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
    let mut stored: HashMap<String, Vec<(Uuid, Vec<Uuid>)>> = HashMap::new();
    for ids in sent.chunks(IDS_A_QUERY) {
        for event in find_events(client, tenant_id, source, ids, since).await? {
            stored
                .entry(event.provider_event_id)
                .or_default()
                .push((event.event_id, event.job_ids));
        }
    }
    let kept = |promise: &&Accepted| {
        let job = promise.job_id.map(|job| vec![job]);
        let rows = stored.get(&promise.provider_event_id).map(Vec::as_slice);
        matches!(rows, Some([(event, jobs)]) if Some(*event) == promise.event_id && Some(jobs) == job.as_ref())
    };
    let single = |events: &&Vec<(Uuid, Vec<Uuid>)>| {
        events.len() == 1 && events.iter().all(|(_, jobs)| jobs.len() <= 1)
    };
    Ok(Comparison {
        accepted: accepted.len(),
        stored: stored.values().map(Vec::len).sum(),
        jobs: stored.values().flatten().map(|(_, jobs)| jobs.len()).sum(),
        missing: accepted.len() - accepted.iter().filter(kept).count(),
        doubled: stored.len() - stored.values().filter(single).count(),
    })
}
