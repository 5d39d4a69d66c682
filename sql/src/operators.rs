//! What operators and readiness probes ask the database. Wraps `functions/operators/` and `functions/partitions/`.

use deadpool_postgres::GenericClient;
use uuid::Uuid;

use crate::DbError;
use crate::code_objects::CodeVersion;

pub(crate) const SCHEMA_CODE: &str = "select epoch, fingerprint from relayforge.schema_code()";
pub(crate) const CREATE_ADMIN_KEY: &str = "select relayforge.create_admin_key($1, $2, $3) as id";
pub(crate) const ENSURE_PARTITIONS: &str = "select relayforge.ensure_partitions($1) as made";

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
    let ours = CodeVersion::built_in().epoch;
    match schema_code(client).await {
        Ok(database) if database.epoch >= ours => Ok(()),
        Ok(database) => Err(DbError::Conflict(format!(
            "the database has code epoch {}, this binary needs {ours}: run relayforge-migrate",
            database.epoch
        ))),
        Err(DbError::Bug(_)) => Err(DbError::Conflict(
            "the database is not migrated: run relayforge-migrate".to_owned(),
        )),
        Err(error) => Err(error),
    }
}

/// Makes the partitions of the coming 14 days that are missing; returns how many. `interval` is `day` or `week`.
///
/// # Errors
/// [`DbError::Busy`] if somebody holds a lock on a parent: try again later.
pub async fn ensure_partitions(client: &impl GenericClient, interval: &str) -> Result<i32, DbError> {
    let statement = client.prepare_cached(ENSURE_PARTITIONS).await?;
    Ok(client
        .query_one(&statement, &[&interval])
        .await?
        .try_get("made")?)
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
