//! What a run was promised, compared with what is stored: nothing missing, nothing doubled.

use chrono::{DateTime, Utc};
use sql::volume::for_each_stored;
use sql::{DbError, GenericClient};
use uuid::Uuid;

use super::events::Events;
use super::tally::Promise;
use crate::ledger::{Comparison, reckon};

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
    for_each_stored(client, prefix, since, |row| {
        let number = row.provider_event_id[prefix.len()..].parse();
        stored.extend(number.ok().map(|number| (number, row.event_id, row.job_id)));
    })
    .await?;
    let promises: Vec<_> = promises
        .iter()
        .map(|promise| (promise.number, Some(promise.event_id), promise.job_id))
        .collect();
    Ok(reckon(&promises, stored))
}
