//! What operators and readiness probes ask the database. Wraps `functions/operators/`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object, Pool};
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

use crate::DbError;
use crate::code_objects::CodeVersion;

pub(crate) const SCHEMA_CODE: &str = "select epoch, fingerprint from relayforge.schema_code()";
pub(crate) const CHECK_IN: &str =
    "select epoch, fingerprint, current_setting('transaction_read_only')::boolean as read_only
       from relayforge.schema_code()";
pub(crate) const CREATE_ADMIN_KEY: &str = "select relayforge.create_admin_key($1, $2, $3) as id";
pub(crate) const JOB_OVERVIEW: &str =
    "select job_id, event_id, status, attempts, created_at, finished_at, last_error
       from relayforge.job_overview
      where job_id = any ($1)";
pub(crate) const FIND_EVENTS: &str = "select provider_event_id, event_id, deliveries, job_ids
       from relayforge.find_events($1, $2, $3, $4)";

/// How long a connection may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a database that was asked can't be used.
const READ_ONLY: &str = "it is read-only";
const NO_ANSWER: &str = "no answer in time";

/// Which code the database has.
///
/// # Errors
/// [`DbError::Bug`] if it was never migrated.
pub async fn schema_code(client: &impl GenericClient) -> Result<CodeVersion, DbError> {
    let statement = client.prepare_cached(SCHEMA_CODE).await?;
    let row = client.query_one(&statement, &[]).await?;
    Ok(CodeVersion {
        epoch: row.try_get("epoch")?,
        fingerprint: row.try_get("fingerprint")?,
    })
}

/// Checks that the database has this binary's code or newer: what readiness reports under `schema`.
///
/// # Errors
/// [`DbError::Conflict`] says what is missing; [`DbError::Unavailable`] if the database does not answer.
pub async fn check_schema(client: &impl GenericClient) -> Result<(), DbError> {
    check_epoch(schema_code(client).await.map(|database| database.epoch))
}

fn check_epoch(found: Result<i32, DbError>) -> Result<(), DbError> {
    let ours = CodeVersion::built_in().epoch;
    match found {
        Ok(epoch) if epoch >= ours => Ok(()),
        Ok(epoch) => Err(DbError::Conflict(format!(
            "the database has code epoch {epoch}, this binary needs {ours}: run relayforge-migrate"
        ))),
        Err(DbError::Bug(_)) => Err(DbError::Conflict(
            "the database is not migrated: run relayforge-migrate".to_owned(),
        )),
        Err(error) => Err(error),
    }
}

/// [`ping`] and [`check_schema`] in one statement, for who asks every few seconds.
///
/// # Errors
/// As of both.
pub async fn check_in(pool: &Pool) -> Result<(), DbError> {
    let client = pool.get().await?;
    let asked = async {
        let statement = client.prepare_cached(CHECK_IN).await?;
        let row = client.query_one(&statement, &[]).await?;
        Ok::<_, DbError>((row.try_get("epoch")?, row.try_get("read_only")?))
    };
    let why = match tokio::time::timeout(PING_TIMEOUT, asked).await {
        Ok(Ok((epoch, false))) => return check_epoch(Ok(epoch)),
        Ok(Ok((_, true))) => READ_ONLY,
        Ok(Err(error)) => return check_epoch(Err(error)),
        Err(_) => NO_ANSWER,
    };
    drop(Object::take(client));
    Err(DbError::Unavailable(why.to_owned()))
}

/// Makes a key of the admin API from its SHA-256 and returns its id; `role` is `viewer`, `operator` or `admin`.
///
/// # Errors
/// [`DbError::Conflict`] if the key exists, [`DbError::Invalid`] for another role.
pub async fn create_admin_key(
    client: &impl GenericClient,
    name: &str,
    role: &str,
    key_sha256: &[u8],
) -> Result<Uuid, DbError> {
    let statement = client.prepare_cached(CREATE_ADMIN_KEY).await?;
    Ok(client
        .query_one(&statement, &[&name, &role, &key_sha256])
        .await?
        .try_get("id")?)
}

/// Checks that two connections of the pool have a session each, of their own. Behind a pooler in transaction mode they
/// have not: prepared statements, LISTEN, advisory locks and settings would be somebody else's at any time.
///
/// # Errors
/// [`DbError::Invalid`] if they share sessions; [`DbError::Unavailable`] if the database does not answer.
pub async fn check_pooling(pool: &Pool) -> Result<(), DbError> {
    let (one, other) = (pool.get().await?, pool.get().await?);
    let asked = async {
        let before = backend(&one).await?;
        // A pooler gives this transaction a session: the one that has just been used, or, if it takes turns, the next,
        // and then has another one for the first connection.
        other.batch_execute("begin").await?;
        let beside = backend(&other).await?;
        let after = backend(&one).await?;
        other.batch_execute("rollback").await?;
        Ok::<_, DbError>(are_shared(&before, &beside, &after))
    };
    match tokio::time::timeout(PING_TIMEOUT, asked).await {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => Err(DbError::Invalid(
            "DATABASE__URL leads through a pooler in transaction mode: connect directly, or in session mode"
                .to_owned(),
        )),
        failed => {
            // Whatever they wait for, and in whatever transaction they are.
            drop((Object::take(one), Object::take(other)));
            match failed {
                Ok(Err(error)) => Err(error),
                _ => Err(DbError::Unavailable(NO_ANSWER.to_owned())),
            }
        }
    }
}

/// Whether what served a connection before, another one beside it, and the first again were not two sessions.
fn are_shared(before: &str, beside: &str, after: &str) -> bool {
    beside == before || after != before
}

/// The process that serves this connection; asked in a way that every pooler understands.
async fn backend(client: &Object) -> Result<String, DbError> {
    let messages = client.simple_query("select pg_backend_pid()").await?;
    let pid = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(pid.unwrap_or_default().to_owned())
}

/// Whether the database answers on some connection of the pool, and takes writes. A connection that does not answer, or
/// that leads to a server which was demoted, is discarded.
///
/// # Errors
/// [`DbError::Unavailable`] if it does not.
pub async fn ping(pool: &Pool) -> Result<(), DbError> {
    let client = pool.get().await?;
    let asked = client.query_one("select current_setting('transaction_read_only')::boolean", &[]);
    let why = match tokio::time::timeout(PING_TIMEOUT, asked).await {
        Ok(Ok(row)) if !row.try_get::<_, bool>(0)? => return Ok(()),
        Ok(Ok(_)) => READ_ONLY,
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => NO_ANSWER,
    };
    drop(Object::take(client));
    Err(DbError::Unavailable(why.to_owned()))
}

/// A job with its present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOverview {
    /// The job.
    pub job_id: Uuid,
    /// The event it is for.
    pub event_id: Uuid,
    /// `queued`, `processing`, `retrying`, `held`, or its outcome.
    pub status: String,
    /// Runs that were started.
    pub attempts: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it reached its outcome; none while it is open.
    pub finished_at: Option<DateTime<Utc>>,
    /// What the last failed run said.
    pub last_error: Option<String>,
}

/// The jobs of these ids that exist, in no particular order.
///
/// # Errors
/// [`DbError`] if they cannot be read.
pub async fn job_overview(
    client: &impl GenericClient,
    job_ids: &[Uuid],
) -> Result<Vec<JobOverview>, DbError> {
    let statement = client.prepare_cached(JOB_OVERVIEW).await?;
    client
        .query(&statement, &[&job_ids])
        .await?
        .iter()
        .map(|row| {
            Ok(JobOverview {
                job_id: row.try_get("job_id")?,
                event_id: row.try_get("event_id")?,
                status: row.try_get("status")?,
                attempts: row.try_get("attempts")?,
                created_at: row.try_get("created_at")?,
                finished_at: row.try_get("finished_at")?,
                last_error: row.try_get("last_error")?,
            })
        })
        .collect()
}

/// An event, found by the provider's id of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEvent {
    /// The provider's id.
    pub provider_event_id: String,
    /// Ours.
    pub event_id: Uuid,
    /// Deliveries of it that are stored, the first included.
    pub deliveries: i64,
    /// Its jobs, oldest first.
    pub job_ids: Vec<Uuid>,
}

/// The events stored under the provider's ids since a time: none for an id that is not there, two for one that is
/// there twice. Reads every delivery since then.
///
/// # Errors
/// [`DbError`] if they cannot be read.
pub async fn find_events(
    client: &impl GenericClient,
    tenant_id: Uuid,
    source: &str,
    provider_event_ids: &[String],
    since: DateTime<Utc>,
) -> Result<Vec<FoundEvent>, DbError> {
    let statement = client.prepare_cached(FIND_EVENTS).await?;
    client
        .query(&statement, &[&tenant_id, &source, &provider_event_ids, &since])
        .await?
        .iter()
        .map(|row| {
            Ok(FoundEvent {
                provider_event_id: row.try_get("provider_event_id")?,
                event_id: row.try_get("event_id")?,
                deliveries: row.try_get("deliveries")?,
                job_ids: row.try_get("job_ids")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::are_shared;

    #[test]
    fn a_pooler_that_shares_out_sessions_is_told_by_who_answers() {
        assert!(!are_shared("1", "2", "1"));
        // The session that was just used serves the other, which then holds it.
        assert!(are_shared("1", "1", "2"));
        // They take turns.
        assert!(are_shared("1", "2", "3"));
    }
}
