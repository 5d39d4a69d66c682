//! What a load run has left in the database.

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use futures_util::{TryStreamExt as _, pin_mut};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::DbError;

/// One scan of the youngest partitions: a lookup for each of a million ids would take longer than the load did.
const STORED: &str = "select i.provider_event_id, i.event_id, j.id as job_id
       from store.webhook_inbox i
       left join store.jobs j on j.event_id = i.event_id and j.id >= relayforge.uuid7_floor($2)
      where i.id >= relayforge.uuid7_floor($2)
        and i.event_id = i.id
        and i.provider_event_id ^@ $1";

/// A job of a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredJob<'a> {
    /// The provider's id of the event.
    pub provider_event_id: &'a str,
    /// The event.
    pub event_id: Uuid,
    /// A job of it; none if it has none.
    pub job_id: Option<Uuid>,
}

/// Shows `each` the events that were stored since then under provider ids that begin with `prefix`: once for each job,
/// and once where there is none. For the owner of the schema.
///
/// # Errors
/// [`DbError`] if they can't be read, perhaps after some were shown.
pub async fn for_each_stored(
    client: &impl GenericClient,
    prefix: &str,
    since: DateTime<Utc>,
    mut each: impl FnMut(StoredJob<'_>),
) -> Result<(), DbError> {
    let parameters: [&(dyn ToSql + Sync); 2] = [&prefix, &since];
    let rows = client.query_raw(STORED, parameters).await?;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await? {
        each(StoredJob {
            provider_event_id: row.try_get("provider_event_id")?,
            event_id: row.try_get("event_id")?,
            job_id: row.try_get("job_id")?,
        });
    }
    Ok(())
}

const SUCCEEDED: &str = "select id, finished_at
       from store.jobs
      where id >= relayforge.uuid7_floor($1) and outcome = 'succeeded'";

const OPEN_JOBS: &str =
    "select count(*) as open from store.open_jobs where job_id >= relayforge.uuid7_floor($1)";

/// From the youngest on: what is taken in order of age leaves its dead rows at the other end.
const AN_OPEN_JOB: &str = "select job_id from store.open_jobs
      where job_id >= relayforge.uuid7_floor($1)
      order by job_id desc
      limit 1";

/// Shows `each` the jobs that were made since then and have succeeded, with the time of that. For the owner of the schema.
///
/// # Errors
/// [`DbError`] if they can't be read, perhaps after some were shown.
pub async fn for_each_succeeded(
    client: &impl GenericClient,
    since: DateTime<Utc>,
    mut each: impl FnMut(Uuid, DateTime<Utc>),
) -> Result<(), DbError> {
    let parameters: [&(dyn ToSql + Sync); 1] = [&since];
    let rows = client.query_raw(SUCCEEDED, parameters).await?;
    pin_mut!(rows);
    while let Some(row) = rows.try_next().await? {
        each(row.try_get("id")?, row.try_get("finished_at")?);
    }
    Ok(())
}

/// Jobs that were made since then and have no outcome yet. For the owner of the schema.
///
/// # Errors
/// [`DbError`] if they can't be counted.
pub async fn count_open_jobs(client: &impl GenericClient, since: DateTime<Utc>) -> Result<i64, DbError> {
    let statement = client.prepare_cached(OPEN_JOBS).await?;
    Ok(client.query_one(&statement, &[&since]).await?.try_get("open")?)
}

/// Whether a job that was made since then has no outcome yet; far cheaper than [`count_open_jobs`]. For the owner of the
/// schema.
///
/// # Errors
/// [`DbError`] if it can't be looked for.
pub async fn is_a_job_open(client: &impl GenericClient, since: DateTime<Utc>) -> Result<bool, DbError> {
    let statement = client.prepare_cached(AN_OPEN_JOB).await?;
    Ok(client.query_opt(&statement, &[&since]).await?.is_some())
}
