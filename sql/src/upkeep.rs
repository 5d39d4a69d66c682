//! What a service does for its database as long as it runs: watches that it is there and has our schema, and runs its
//! upkeep (partitions, expiry, retention, purges). Wraps `functions/upkeep/` and `functions/partitions/`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object};
use tokio_util::sync::CancellationToken;

use crate::operators::{check_in, check_pooling};
use crate::{DatabaseConfig, DbError, Pool, pool};

pub(crate) const CONFIGURE_UPKEEP: &str =
    "select relayforge.configure_upkeep($1, $2, $3, make_interval(secs => $4),
                                        make_interval(secs => $5), $6) as changed";
pub(crate) const MAINTAIN: &str = "call relayforge.maintain(make_interval(secs => $1), null, null)";
pub(crate) const PARTITIONS_END: &str =
    "select relayforge.partitions_end() as until, clock_timestamp() as now";

/// How often the database is asked whether it is there and has our schema.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// How often upkeep is run, by all processes together.
const UPKEEP_EVERY: Duration = Duration::from_secs(60);

/// A run that began less than this ago is enough: a process that wakes a little early does not run a second one.
const UPKEEP_NOT_WITHIN: Duration = Duration::from_secs(50);

/// Pause before upkeep is tried again after a failure.
const UPKEEP_RETRY: Duration = Duration::from_secs(10);

/// The longest run. It is made of short transactions, and what it leaves undone is done by the next one.
const UPKEEP_TIMEOUT: Duration = Duration::from_secs(600);

/// With partitions for less time than this, something has kept upkeep from making them for a week: readiness warns.
const HORIZON_WARNS: Duration = Duration::from_secs(7 * 86_400);

/// With partitions for less time than this, the process is about to be unable to store anything: not ready.
const HORIZON_FAILS: Duration = Duration::from_secs(600);

/// The readiness check of [`check_horizon`].
pub const PARTITIONS: &str = "partitions";

/// The readiness checks that [`watch`] reports.
pub const CHECKS: [&str; 2] = ["database", "schema"];

/// Reports under the names of [`CHECKS`] whether the database answers and has our schema, every two seconds until
/// `stop`. Before the first answer it also looks whether a pooler shares out sessions: then it is as if there were none.
pub async fn watch(pool: Pool, report: impl Fn(&'static str, Result<(), &str>), stop: CancellationToken) {
    let [database, schema] = CHECKS;
    let mut has_sessions = false;
    loop {
        let checked = async {
            if !has_sessions {
                check_pooling(&pool).await?;
                has_sessions = true;
            }
            check_in(&pool).await
        };
        match checked.await {
            Ok(()) => {
                report(database, Ok(()));
                report(schema, Ok(()));
            }
            Err(DbError::Conflict(why)) => {
                report(database, Ok(()));
                report(schema, Err(&why));
            }
            Err(DbError::Invalid(why)) => {
                tracing::error!(why, "the database can't be used");
                report(database, Err(&why));
            }
            Err(error) => {
                tracing::warn!(%error, "the database does not answer");
                report(database, Err("does not answer"));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

/// How long things are kept. The API has these from its configuration and notes them in the database, so that upkeep
/// does the same wherever it is called from.
#[derive(Debug, Clone)]
pub struct UpkeepSettings {
    /// How long a new partition is, `day` or `week`.
    pub partition_interval: String,
    /// Days that deliveries are kept at least.
    pub inbox_days: u16,
    /// Days that jobs and their log are kept at least.
    pub jobs_days: u16,
    /// How long an event is known by its provider's id.
    pub dedup_window: Duration,
    /// How long an event is known by the hash of its body.
    pub hash_window: Duration,
    /// The daily quota of tenants that have none of their own, for the view `tenant_usage`.
    pub default_daily_quota: i64,
}

/// Notes the settings; returns whether they differed from those noted before.
///
/// # Errors
/// [`DbError::Invalid`] names the bound that a value breaks.
pub async fn configure_upkeep(
    client: &impl GenericClient,
    settings: &UpkeepSettings,
) -> Result<bool, DbError> {
    let statement = client.prepare_cached(CONFIGURE_UPKEEP).await?;
    Ok(client
        .query_one(
            &statement,
            &[
                &settings.partition_interval,
                &i32::from(settings.inbox_days),
                &i32::from(settings.jobs_days),
                &settings.dedup_window.as_secs_f64(),
                &settings.hash_window.as_secs_f64(),
                &settings.default_daily_quota,
            ],
        )
        .await?
        .try_get("changed")?)
}

/// What a run of upkeep did and did not do, in words.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Maintained {
    /// What was done.
    pub done: Vec<String>,
    /// Steps that failed, each with the reason; the next run tries them again.
    pub failed: Vec<String>,
}

/// Runs upkeep, unless a run began less than `not_within` ago. Not inside a transaction.
///
/// # Errors
/// [`DbError`] if not even a step could be tried.
pub async fn maintain(client: &impl GenericClient, not_within: Duration) -> Result<Maintained, DbError> {
    let statement = client.prepare_cached(MAINTAIN).await?;
    let row = client.query_one(&statement, &[&not_within.as_secs_f64()]).await?;
    Ok(Maintained {
        done: row.try_get("p_done")?,
        failed: row.try_get("p_failed")?,
    })
}

/// For how long rows can still be stored before a table runs out of partitions: 14 days in a healthy system, nothing if
/// it has.
///
/// # Errors
/// [`DbError`] if it cannot be read.
pub async fn partition_horizon(client: &impl GenericClient) -> Result<Duration, DbError> {
    let statement = client.prepare_cached(PARTITIONS_END).await?;
    let row = client.query_one(&statement, &[]).await?;
    let (until, now): (DateTime<Utc>, DateTime<Utc>) = (row.try_get("until")?, row.try_get("now")?);
    Ok((until - now).to_std().unwrap_or_default())
}

/// What readiness says under [`PARTITIONS`]: fine, a warning days before partitions run out, or that they have.
///
/// # Errors
/// Says that there are none, and what to do.
pub fn check_horizon(horizon: Duration) -> Result<Option<String>, String> {
    let remedy = "look at relayforge.partition_health and run `call relayforge.maintain()`";
    if horizon < HORIZON_FAILS {
        Err(format!("partitions have run out: {remedy}"))
    } else if horizon < HORIZON_WARNS {
        Ok(Some(format!(
            "partitions run out in {:.1} days: {remedy}",
            horizon.as_secs_f64() / 86_400.0
        )))
    } else {
        Ok(None)
    }
}

/// Runs upkeep now and every minute until `stop`, with the settings first if there are any, and reports each time for how
/// long there are partitions. Processes of one database share the work: whoever comes first does it.
pub async fn keep(
    config: DatabaseConfig,
    settings: Option<UpkeepSettings>,
    report: impl Fn(Duration),
    stop: CancellationToken,
) {
    loop {
        let run = tokio::time::timeout(UPKEEP_TIMEOUT, run_once(&config, settings.as_ref()));
        let ran = tokio::select! {
            () = stop.cancelled() => return,
            ran = run => ran.unwrap_or_else(|_| Err(DbError::Unavailable("no end in time".to_owned()))),
        };
        let pause = match ran {
            Ok(horizon) => {
                report(horizon);
                // Another process has begun to make them, or died before it did.
                if horizon < HORIZON_FAILS {
                    UPKEEP_RETRY
                } else {
                    UPKEEP_EVERY
                }
            }
            Err(error) => {
                tracing::warn!(%error, "upkeep can't be run yet");
                UPKEEP_RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// On a connection of its own: a run may take longer than the role's statement_timeout, and the pool is for others.
async fn run_once(config: &DatabaseConfig, settings: Option<&UpkeepSettings>) -> Result<Duration, DbError> {
    let pool = pool::connect(
        &DatabaseConfig {
            max_connections: 1,
            ..config.clone()
        },
        "relayforge-upkeep",
    )?;
    let client: Object = pool.get().await?;
    client
        .batch_execute(&format!(
            "set statement_timeout = '{}s'",
            UPKEEP_TIMEOUT.as_secs()
        ))
        .await?;
    if let Some(settings) = settings
        && configure_upkeep(&client, settings).await?
    {
        tracing::info!(?settings, "noted how long things are kept");
    }
    let maintained = maintain(&client, UPKEEP_NOT_WITHIN).await?;
    for done in &maintained.done {
        tracing::info!(done, "upkeep");
    }
    for failed in &maintained.failed {
        tracing::warn!(failed, "a step of upkeep failed");
    }
    partition_horizon(&client).await
}
