//! Tenants, sources and secrets: what the API keeps in memory, and how they are made. Wraps `functions/config/`.

use deadpool_postgres::GenericClient;
use uuid::Uuid;

use crate::event::SourceKind;
use crate::secret::Sealed;
use crate::{DbError, row_enum};

pub(crate) const LOAD_TENANTS: &str =
    "select id, slug, status, rate_per_second, rate_burst from relayforge.load_tenants()";
pub(crate) const LOAD_SOURCES: &str = "select name, kind, dedup from relayforge.load_sources()";
pub(crate) const LOAD_SECRETS: &str =
    "select id, tenant_id, source, ciphertext, master_key_id from relayforge.load_secrets()";
pub(crate) const CREATE_TENANT: &str = "select relayforge.create_tenant($1, $2, $3) as id";
pub(crate) const CREATE_SOURCE: &str = "select relayforge.create_source($1, $2, $3, $4, $5, $6)";
pub(crate) const ADD_SECRET: &str = "select relayforge.add_secret($1, $2, $3, $4, $5)";
pub(crate) const RECORD_SECRET_USAGE: &str = "select relayforge.record_secret_usage($1, $2)";
pub(crate) const NEW_ID: &str = "select relayforge.uuid7(clock_timestamp(), 0) as id";

/// The channel that tells of changes to what this module loads.
pub const CONFIG_CHANNEL: &str = "relayforge_config";

/// A tenant, as ingest needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// UUIDv7, or the all-zero default tenant.
    pub id: Uuid,
    /// Name in URLs and routing keys.
    pub slug: String,
    /// Whether its webhooks are answered 403.
    pub suspended: bool,
    /// Signed requests per second, if it has a limit of its own.
    pub rate_per_second: Option<u32>,
    /// Signed requests at once, if it has a limit of its own.
    pub rate_burst: Option<u32>,
}

/// A source, as ingest needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name in URLs.
    pub name: String,
    /// Signature scheme and payload form.
    pub kind: SourceKind,
    /// Whether an event without the provider's id is refused.
    pub event_id_required: bool,
}

/// A valid version of a signing secret, sealed.
#[derive(Debug, Clone)]
pub struct StoredSecret {
    /// The version.
    pub id: Uuid,
    /// Whose it is.
    pub tenant_id: Uuid,
    /// Whose webhooks it verifies.
    pub source: String,
    /// The secret itself, sealed.
    pub sealed: Sealed,
}

/// All tenants.
///
/// # Errors
/// [`DbError`] if they cannot be read.
pub async fn load_tenants(client: &impl GenericClient) -> Result<Vec<Tenant>, DbError> {
    let statement = client.prepare_cached(LOAD_TENANTS).await?;
    let limit = |value: Option<i32>| value.and_then(|number| u32::try_from(number).ok());
    client
        .query(&statement, &[])
        .await?
        .iter()
        .map(|row| {
            Ok(Tenant {
                id: row.try_get("id")?,
                slug: row.try_get("slug")?,
                suspended: row.try_get::<_, &str>("status")? != "active",
                rate_per_second: limit(row.try_get("rate_per_second")?),
                rate_burst: limit(row.try_get("rate_burst")?),
            })
        })
        .collect()
}

/// All sources.
///
/// # Errors
/// [`DbError`] if they cannot be read.
pub async fn load_sources(client: &impl GenericClient) -> Result<Vec<Source>, DbError> {
    let statement = client.prepare_cached(LOAD_SOURCES).await?;
    client
        .query(&statement, &[])
        .await?
        .iter()
        .map(|row| {
            let kind: &str = row.try_get("kind")?;
            Ok(Source {
                name: row.try_get("name")?,
                kind: kind.parse().map_err(|_| row_enum("kind", kind))?,
                event_id_required: row.try_get::<_, &str>("dedup")? == "event_id",
            })
        })
        .collect()
}

/// All valid secrets, newest first.
///
/// # Errors
/// [`DbError`] if they cannot be read.
pub async fn load_secrets(client: &impl GenericClient) -> Result<Vec<StoredSecret>, DbError> {
    let statement = client.prepare_cached(LOAD_SECRETS).await?;
    client
        .query(&statement, &[])
        .await?
        .iter()
        .map(|row| {
            Ok(StoredSecret {
                id: row.try_get("id")?,
                tenant_id: row.try_get("tenant_id")?,
                source: row.try_get("source")?,
                sealed: Sealed {
                    ciphertext: row.try_get("ciphertext")?,
                    master_key_id: row.try_get("master_key_id")?,
                },
            })
        })
        .collect()
}

/// Makes a tenant, under the given id if there is one, and returns its id.
///
/// # Errors
/// [`DbError::Conflict`] if slug or id is taken, [`DbError::Invalid`] if the slug is not 1-63 of `[a-z0-9_-]`.
pub async fn create_tenant(
    client: &impl GenericClient,
    slug: &str,
    name: &str,
    id: Option<Uuid>,
) -> Result<Uuid, DbError> {
    let statement = client.prepare_cached(CREATE_TENANT).await?;
    Ok(client
        .query_one(&statement, &[&slug, &name, &id])
        .await?
        .try_get("id")?)
}

/// What a new source is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewSource<'a> {
    /// Name in URLs, 1-63 of `[a-z0-9_-]`.
    pub name: &'a str,
    /// Signature scheme and payload form.
    pub kind: SourceKind,
    /// `event_id`, `event_id_or_hash` or `none`.
    pub dedup: &'a str,
    /// `reject`, `reject_all` or `absorb`.
    pub replay_policy: &'a str,
    /// The consumer's handler.
    pub job_kind: &'a str,
    /// Whether events also go to the topic exchange.
    pub fanout: bool,
}

/// Makes a source.
///
/// # Errors
/// [`DbError::Conflict`] if the name is taken, [`DbError::Invalid`] for a value that is not one of those documented.
pub async fn create_source(client: &impl GenericClient, source: NewSource<'_>) -> Result<(), DbError> {
    let statement = client.prepare_cached(CREATE_SOURCE).await?;
    client
        .execute(
            &statement,
            &[
                &source.name,
                &source.kind.as_str(),
                &source.dedup,
                &source.replay_policy,
                &source.job_kind,
                &source.fanout,
            ],
        )
        .await?;
    Ok(())
}

/// An id from the database's clock, for a row that has to be sealed under it before it is written.
///
/// # Errors
/// [`DbError`] if the database does not answer.
pub async fn new_id(client: &impl GenericClient) -> Result<Uuid, DbError> {
    let statement = client.prepare_cached(NEW_ID).await?;
    Ok(client.query_one(&statement, &[]).await?.try_get("id")?)
}

/// Adds a version of a signing secret; those before it stay valid.
///
/// # Errors
/// [`DbError::NotFound`] if tenant or source do not exist, [`DbError::Conflict`] if the id is taken.
pub async fn add_secret(client: &impl GenericClient, secret: &StoredSecret) -> Result<(), DbError> {
    let statement = client.prepare_cached(ADD_SECRET).await?;
    client
        .execute(
            &statement,
            &[
                &secret.id,
                &secret.tenant_id,
                &secret.source,
                &secret.sealed.ciphertext,
                &secret.sealed.master_key_id,
            ],
        )
        .await?;
    Ok(())
}

/// Adds up how many webhooks each secret version has verified since the last call.
///
/// # Errors
/// [`DbError`]: nothing was added then.
pub async fn record_secret_usage(client: &impl GenericClient, uses: &[(Uuid, i64)]) -> Result<(), DbError> {
    let statement = client.prepare_cached(RECORD_SECRET_USAGE).await?;
    let (ids, counts): (Vec<Uuid>, Vec<i64>) = uses.iter().copied().unzip();
    client.execute(&statement, &[&ids, &counts]).await?;
    Ok(())
}
