//! What the server has counted of the services' statements, by way of `pg_stat_statements`.
//!
//! For measurements only: no service calls this, and where the extension is not loaded nothing else misses it. The clock
//! of the server is here too, because whoever measures compares it with his own.

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;

use crate::DbError;

/// Says whether statements are counted: the library has to be there before the server starts.
const IS_LOADED: &str = "select 'pg_stat_statements' = any (regexp_split_to_array(current_setting('shared_preload_libraries'), '[ ,]+'))
            and exists (select 1 from pg_available_extensions where name = 'pg_stat_statements') as loaded";

const CREATE_EXTENSION: &str = "create extension if not exists pg_stat_statements with schema public";

/// Top-level statements only, whatever the server is set to: what a function does inside of itself nobody has sent.
const COUNTS: &str = "select r.rolname::text as role, regexp_replace(s.query, '\\s+', ' ', 'g') as statement, sum(s.calls)::bigint as calls
       from public.pg_stat_statements s
       join pg_roles r on r.oid = s.userid
      where s.toplevel and r.rolname = any ($1)
        and s.dbid = (select d.oid from pg_database d where d.datname = current_database())
      group by 1, 2";

/// Rises when the server forgets counts for lack of room, or when somebody resets them.
const FORGOTTEN: &str = "select dealloc + extract(epoch from stats_reset)::bigint as forgotten from public.pg_stat_statements_info";

const CLOCK: &str = "select clock_timestamp() as now";

/// How often a role has sent a statement since the server counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementCount {
    /// Whose session it was.
    pub role: String,
    /// The statement, constants replaced and on one line.
    pub statement: String,
    /// Times it was executed.
    pub calls: i64,
}

/// All counts at one moment.
#[derive(Debug, Clone)]
pub struct StatementCounts {
    /// By role and statement.
    pub counts: Vec<StatementCount>,
    /// Two readings with the same number can be compared; otherwise counts were lost in between.
    pub generation: i64,
}

/// Makes sure that statements can be counted in this database. Takes a superuser, or whoever may create the extension.
///
/// # Errors
/// [`DbError::Conflict`] says what the server's settings are missing.
pub async fn count_statements(client: &impl GenericClient) -> Result<(), DbError> {
    if !client
        .query_one(IS_LOADED, &[])
        .await?
        .try_get::<_, bool>("loaded")?
    {
        return Err(DbError::Conflict(
            "statements are not counted: the server needs shared_preload_libraries = pg_stat_statements"
                .to_owned(),
        ));
    }
    client.batch_execute(CREATE_EXTENSION).await?;
    Ok(())
}

/// What these roles have sent to this database so far, after [`count_statements`].
///
/// # Errors
/// [`DbError`] if it can't be read.
pub async fn statement_counts(
    client: &impl GenericClient,
    roles: &[&str],
) -> Result<StatementCounts, DbError> {
    let generation = client.query_one(FORGOTTEN, &[]).await?.try_get("forgotten")?;
    let rows = client.query(COUNTS, &[&roles]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok::<_, DbError>(StatementCount {
            role: row.try_get("role")?,
            statement: row.try_get("statement")?,
            calls: row.try_get("calls")?,
        })
    };
    Ok(StatementCounts {
        counts: rows.iter().map(read).collect::<Result<_, _>>()?,
        generation,
    })
}

/// The server's clock.
///
/// # Errors
/// [`DbError::Unavailable`] if it does not answer.
pub async fn clock(client: &impl GenericClient) -> Result<DateTime<Utc>, DbError> {
    let statement = client.prepare_cached(CLOCK).await?;
    Ok(client.query_one(&statement, &[]).await?.try_get("now")?)
}
