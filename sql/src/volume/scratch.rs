//! A database that a measurement has to itself, and sessions on it as the roles of the services.

use std::str::FromStr as _;

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::IsolationLevel;
use url::Url;

use crate::migrate::{MigrateConfig, migrate};
use crate::{DatabaseConfig, DbError, Secret, pool};

/// How the name of each such database begins: what is called otherwise is somebody's data, and never touched.
const PREFIX: &str = "relayforge_perf_";

/// Who a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Whoever the URL names: a superuser.
    Login,
    /// The owner of the schema.
    Owner,
    /// The API.
    Api,
    /// The relay.
    Relay,
    /// The consumer.
    Consumer,
    /// The person who reads the views.
    Dba,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Login => "none",
            Self::Owner => "relayforge_owner",
            Self::Api => "relayforge_api",
            Self::Relay => "relayforge_relay",
            Self::Consumer => "relayforge_consumer",
            Self::Dba => "relayforge_dba",
        }
    }
}

/// A migrated database that was made to be measured.
#[derive(Debug)]
pub struct Scratch {
    server: Secret,
    url: Secret,
    name: String,
}

impl Scratch {
    /// Makes and migrates a database on the server of that URL.
    ///
    /// # Errors
    /// [`DbError::Invalid`] if the name does not begin with `relayforge_perf_`; [`DbError`] if it can't be made.
    pub async fn create(server: &Secret, name: &str) -> Result<Self, DbError> {
        let scratch = Self::locate(server, name)?;
        let client = pool::connect_one(server, "relayforge-perf").await?;
        client
            .batch_execute(&format!("create database {name} template template0"))
            .await?;
        scratch.migrate().await?;
        Ok(scratch)
    }

    /// One that an earlier measurement has kept, brought to the code of this binary.
    ///
    /// # Errors
    /// [`DbError::Invalid`] if the name does not begin with `relayforge_perf_`; [`DbError`] if it is not there.
    pub async fn reuse(server: &Secret, name: &str) -> Result<Self, DbError> {
        let scratch = Self::locate(server, name)?;
        scratch.migrate().await?;
        Ok(scratch)
    }

    fn locate(server: &Secret, name: &str) -> Result<Self, DbError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if !name.starts_with(PREFIX) || name.len() > 63 || !name.bytes().all(plain) {
            return Err(DbError::Invalid(format!(
                "{name} is not the name of a database for measurements, {PREFIX}…"
            )));
        }
        let not_a_url = |_| DbError::Invalid("not a PostgreSQL URL".to_owned());
        let mut url = Url::parse(server.expose()).map_err(not_a_url)?;
        url.set_path(name);
        Ok(Self {
            server: server.clone(),
            url: Secret::from_str(url.as_str()).unwrap_or_else(|never| match never {}),
            name: name.to_owned(),
        })
    }

    /// No passwords: roles belong to the whole server, and measurements reach them by `set role`.
    async fn migrate(&self) -> Result<(), DbError> {
        migrate(&MigrateConfig {
            url: self.url.clone(),
            api_password: None,
            relay_password: None,
            consumer_password: None,
            dba_password: None,
        })
        .await
        .map(drop)
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How to reach it, as the URL's user.
    pub fn config(&self) -> DatabaseConfig {
        DatabaseConfig {
            url: self.url.clone(),
            max_connections: 10,
        }
    }

    /// A connection as that role. What `alter role … set` says does not hold for it: those time-outs come with a login.
    ///
    /// # Errors
    /// [`DbError`] if the server can't be reached, or the URL's user may not be that role.
    pub async fn session(&self, role: Role) -> Result<Object, DbError> {
        let config = DatabaseConfig {
            url: self.url.clone(),
            max_connections: 1,
        };
        let session = pool::connect(&config, "relayforge-perf")?.get().await?;
        let path = if role == Role::Owner {
            "; set search_path = store"
        } else {
            ""
        };
        session
            .batch_execute(&format!("set role {}{path}", role.name()))
            .await?;
        Ok(session)
    }

    /// Runs a statement as the schema's owner, to see what it changes: an index, a storage parameter.
    ///
    /// # Errors
    /// [`DbError`] if it can't be run.
    pub async fn alter(&self, statement: &str) -> Result<(), DbError> {
        Ok(self.session(Role::Owner).await?.batch_execute(statement).await?)
    }

    /// Drops it, whoever is connected.
    ///
    /// # Errors
    /// [`DbError`]: it is still there.
    pub async fn drop(&self) -> Result<(), DbError> {
        let client = pool::connect_one(&self.server, "relayforge-perf").await?;
        let statement = format!("drop database if exists {} with (force)", self.name);
        Ok(client.batch_execute(&statement).await?)
    }
}

/// Writes all that is dirty: the next change of each page logs the page whole.
///
/// # Errors
/// [`DbError`] if the session's user may not.
pub async fn checkpoint(login: &Object) -> Result<(), DbError> {
    Ok(login.batch_execute("checkpoint").await?)
}

/// Takes what is dead out of the tables that are queues.
///
/// # Errors
/// [`DbError`] if the session's user may not.
pub async fn vacuum_queues(login: &Object) -> Result<(), DbError> {
    Ok(login
        .batch_execute("vacuum store.outbox_messages, store.open_jobs, store.tenant_daily_quota_usage")
        .await?)
}

/// A snapshot as a report or a dump holds it: nothing that dies from now on is removed until it is dropped.
///
/// # Errors
/// [`DbError`]: there is none.
pub async fn hold_snapshot(session: &mut Object) -> Result<Transaction<'_>, DbError> {
    let transaction = session
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    transaction
        .query_one("select pg_current_snapshot()::text", &[])
        .await?;
    Ok(transaction)
}
