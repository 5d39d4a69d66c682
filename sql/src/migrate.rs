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

/// How often a migration is tried, when somebody holds a table that it has to change: for 10 s in all.
const MIGRATION_TRIES: u32 = 25;

/// Pause between these tries, in which those who queued behind the migration have their turn.
const MIGRATION_PAUSE: Duration = Duration::from_millis(200);

/// How often roles are written, when the migrator of another database of the cluster writes them at the same moment.
const ROLE_TRIES: u32 = 10;

/// How often the code swap is tried, when a reader holds a view that it has to replace.
const SWAP_TRIES: u32 = 5;

/// How long the planning of a call takes at the most, with every processor busy.
const PLANNED_WITHIN: Duration = Duration::from_millis(250);

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
    write_roles(&client, include_str!("bootstrap.sql")).await?;
    client
        .batch_execute("set role relayforge_owner; set search_path = store")
        .await?;
    let migrations = apply_migrations(&mut client).await?;
    let code = swap(&mut client).await?;
    let partitions = client
        .query_one("select relayforge.ensure_partitions() as made", &[])
        .await?
        .get("made");
    if code != Swapped::default() {
        have_functions_looked_up_anew(&client).await;
    }
    client.batch_execute("reset role").await?;
    set_passwords(&client, config).await?;
    Ok(Migrated::Done {
        migrations,
        code,
        partitions,
    })
}

/// Applies the migrations that are missing, each in a transaction of its own, and answers how many. Whoever comes after a
/// migration that waits for a lock waits behind it, so none waits longer than ingest is ready to (250 ms).
async fn apply_migrations(client: &mut Client) -> Result<usize, DbError> {
    client.batch_execute("set lock_timeout = '200ms'").await?;
    let (mut applied, mut tries) = (0, 0);
    loop {
        tries += 1;
        let error = match embedded::migrations::runner().run_async(client).await {
            Ok(report) => {
                client.batch_execute("reset lock_timeout").await?;
                return Ok(applied + report.applied_migrations().len());
            }
            Err(error) => error,
        };
        applied += error
            .report()
            .map_or(0, |report| report.applied_migrations().len());
        let sources = || std::iter::successors(std::error::Error::source(&error), |source| source.source());
        let locked = sources()
            .filter_map(|source| source.downcast_ref::<tokio_postgres::Error>())
            .any(|source| source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE));
        if !locked {
            let source = sources().next();
            return Err(DbError::Bug(format!("migration failed: {error}: {source:?}")));
        }
        if tries == MIGRATION_TRIES {
            return Err(DbError::Locked(format!(
                "a migration has to change what somebody holds, and nothing of it was changed: {error}"
            )));
        }
        tokio::time::sleep(MIGRATION_PAUSE).await;
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
            Err(error) if error.is_retryable() && tries < SWAP_TRIES => {
                tx.rollback().await?;
                tokio::time::sleep(Duration::from_millis(200 * u64::from(tries))).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ends what a swap may have left behind in other sessions. PostgreSQL takes no lock on a function that it plans a call
/// of: a session that did so while the function was being replaced may have missed that, and would call what is gone, or
/// run what is old, until it ends (seen: "cache lookup failed for function", again and again). A change of the schema's
/// own row has every session plan all that it has prepared anew.
async fn have_functions_looked_up_anew(client: &Client) {
    // Those that were planning when the swap was committed have done so by then.
    tokio::time::sleep(PLANNED_WITHIN).await;
    // The right is there already: what counts is that the row is written. Where that fails, somebody else has written it.
    let _ = client
        .batch_execute("grant usage on schema relayforge to relayforge_dba")
        .await;
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

/// Runs `statements` about roles, which are the whole cluster's: our lock keeps away only the migrators of this database,
/// and PostgreSQL fails whoever writes a role's row second (XX000, "tuple concurrently updated"). Safe to run again.
async fn write_roles(client: &Client, statements: &str) -> Result<(), DbError> {
    let mut tries = 1;
    loop {
        match client.batch_execute(statements).await {
            Err(error) if error.code() == Some(&SqlState::INTERNAL_ERROR) && tries < ROLE_TRIES => {
                tokio::time::sleep(Duration::from_millis(20 * u64::from(tries))).await;
                tries += 1;
            }
            done => return Ok(done?),
        }
    }
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
        write_roles(client, &statement).await?;
    }
    Ok(())
}
