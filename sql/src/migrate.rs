//! The migrator: roles, schemas, versioned migrations (refinery), then the code swap (`code_objects.rs`), under one
//! advisory lock, so that any number of replicas may start it at once.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::code_objects::{self, CodeVersion, Swapped};
use crate::{DbError, Secret, pool};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Key of the migrator's advisory lock: "relayfor" in ASCII.
const LOCK_KEY: i64 = 0x7265_6c61_7966_6f72;

/// How often a migration or the code swap is tried, when somebody holds a table or a view that it has to change. Each
/// try waits for at most two seconds, because everybody else waits behind it.
const TRIES: u32 = 5;

/// Where to migrate, and the passwords that the service roles get.
#[derive(clap::Args, Debug, Clone)]
pub struct MigrateConfig {
    /// PostgreSQL URL of a superuser, or of a role with CREATEROLE that owns the database.
    #[arg(
        long = "MIGRATE__DATABASE_URL",
        env = "MIGRATE__DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub url: Secret,

    /// Password of role relayforge_api. Unset: the role's login is left as it is.
    #[arg(
        long = "MIGRATE__API_PASSWORD",
        env = "MIGRATE__API_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub api_password: Option<Secret>,

    /// Password of role relayforge_relay. Unset: the role's login is left as it is.
    #[arg(
        long = "MIGRATE__RELAY_PASSWORD",
        env = "MIGRATE__RELAY_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub relay_password: Option<Secret>,

    /// Password of role relayforge_consumer. Unset: the role's login is left as it is.
    #[arg(
        long = "MIGRATE__CONSUMER_PASSWORD",
        env = "MIGRATE__CONSUMER_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub consumer_password: Option<Secret>,

    /// Password of role relayforge_dba. Unset: the role's login is left as it is.
    #[arg(
        long = "MIGRATE__DBA_PASSWORD",
        env = "MIGRATE__DBA_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub dba_password: Option<Secret>,
}

impl MigrateConfig {
    /// Checks the URL without connecting.
    ///
    /// # Errors
    /// Names the variable and what is wrong with it, never its value.
    pub fn validate(&self) -> Result<(), String> {
        pool::check_url(&self.url).map_err(|error| format!("MIGRATE__DATABASE_URL: {error}"))
    }
}

/// What a migration run did.
#[derive(Debug, PartialEq, Eq)]
pub enum Migrated {
    /// The database has the code of a newer release; nothing was changed.
    NewerCode {
        /// The database's epoch.
        database: i32,
        /// This binary's epoch.
        built_in: i32,
    },
    /// The database is now what this binary carries.
    Done {
        /// Migrations applied now.
        migrations: usize,
        /// Objects changed and removed.
        code: Swapped,
        /// Partitions made.
        partitions: i32,
    },
}

/// Text of all migrations, in order, for the fingerprint.
pub(crate) fn migrations() -> Vec<String> {
    let runner = embedded::migrations::runner();
    let mut all: Vec<_> = runner.get_migrations().iter().collect();
    all.sort_by_key(|migration| migration.version());
    all.iter()
        .map(|migration| format!("{}{}", migration.name(), migration.sql().unwrap_or_default()))
        .collect()
}

/// Brings the database to what this binary carries. Safe to run from many places at once, again and again, and beside
/// running services.
///
/// # Errors
/// [`DbError::Conflict`] if an object of the DBA's stands in the way (nothing of the code is changed then);
/// [`DbError::Unavailable`] if the database cannot be reached; [`DbError::Bug`] if a migration fails.
pub async fn migrate(config: &MigrateConfig) -> Result<Migrated, DbError> {
    let mut client = pool::connect_one(&config.url, "relayforge-migrate").await?;
    client
        .execute("select pg_advisory_lock($1)", &[&LOCK_KEY])
        .await?;
    // The lock goes with the connection, also when we fail.
    let built_in = CodeVersion::built_in();
    if let Some(database) = database_epoch(&client).await?
        && database > built_in.epoch
    {
        return Ok(Migrated::NewerCode {
            database,
            built_in: built_in.epoch,
        });
    }
    client.batch_execute(include_str!("bootstrap.sql")).await?;
    client
        .batch_execute("set role relayforge_owner; set search_path = store; set lock_timeout = '2s'")
        .await?;
    let migrations = run_migrations(&mut client).await?;
    let code = swap(&mut client).await?;
    let partitions = client
        .query_one("select relayforge.ensure_partitions() as made", &[])
        .await?
        .get("made");
    client.batch_execute("reset role").await?;
    set_passwords(&client, config).await?;
    Ok(Migrated::Done {
        migrations,
        code,
        partitions,
    })
}

/// Applies what is missing, each migration in a transaction of its own; returns how many.
async fn run_migrations(client: &mut Client) -> Result<usize, DbError> {
    let mut applied = 0;
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match embedded::migrations::runner().run_async(client).await {
            Ok(report) => return Ok(applied + report.applied_migrations().len()),
            Err(error) => error,
        };
        applied += error
            .report()
            .map_or(0, |report| report.applied_migrations().len());
        let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
        let locked = causes
            .filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>())
            .any(|cause| cause.code() == Some(&SqlState::LOCK_NOT_AVAILABLE));
        if locked && tries < TRIES {
            tracing::warn!(
                tries,
                "somebody holds a table that a migration changes; trying again"
            );
            tokio::time::sleep(Duration::from_millis(200 * u64::from(tries))).await;
            continue;
        }
        let text = format!(
            "migration failed: {error}: {:?}",
            std::error::Error::source(&error)
        );
        return Err(if locked {
            DbError::Locked(text)
        } else {
            DbError::Bug(text)
        });
    }
}

async fn swap(client: &mut Client) -> Result<Swapped, DbError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut tx = client.transaction().await?;
        match code_objects::swap(&mut tx).await {
            Ok(swapped) => {
                tx.commit().await?;
                return Ok(swapped);
            }
            Err(error) if error.is_retryable() && tries < TRIES => {
                tx.rollback().await?;
                tokio::time::sleep(Duration::from_millis(200 * u64::from(tries))).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The epoch in the comment of schema `relayforge`, or `None` before the first migration.
async fn database_epoch(client: &Client) -> Result<Option<i32>, DbError> {
    let row = client
        .query_one(
            "select (regexp_match(obj_description(to_regnamespace('relayforge'), 'pg_namespace'),
                                  'epoch ([0-9]+)'))[1]::integer as epoch",
            &[],
        )
        .await?;
    Ok(row.get("epoch"))
}

async fn set_passwords(client: &Client, config: &MigrateConfig) -> Result<(), DbError> {
    let roles = [
        ("relayforge_api", &config.api_password),
        ("relayforge_relay", &config.relay_password),
        ("relayforge_consumer", &config.consumer_password),
        ("relayforge_dba", &config.dba_password),
    ];
    for (role, password) in roles {
        let Some(password) = password else { continue };
        // ALTER ROLE takes no parameters: the server quotes the literal for us.
        let statement: String = client
            .query_one(
                "select format('alter role %I login password %L', $1::text, $2::text)",
                &[&role, &password.expose()],
            )
            .await?
            .get(0);
        client.batch_execute(&statement).await?;
    }
    Ok(())
}
