//! What the server counts: WAL, and per table updates, dead rows and bytes. Partitions are added up to their table.

use std::collections::BTreeMap;

use deadpool_postgres::Object;
use tokio_postgres::types::PgLsn;

use super::scratch::{Role, Scratch};
use crate::DbError;

/// What the server is, and the settings that figures depend on.
const SERVER: &str = "select s.name, current_setting(s.name) as value
      from unnest(array['server_version', 'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'fsync', 'synchronous_commit',
                        'full_page_writes', 'wal_compression', 'wal_level', 'autovacuum', 'autovacuum_naptime', 'work_mem',
                        'random_page_cost', 'effective_cache_size', 'jit']) s(name)";

const ACTIVITY: &str = "select r.relname::text as table_name, sum(s.n_tup_upd)::bigint as updates, sum(s.n_tup_hot_upd)::bigint as hot_updates,
            sum(s.n_dead_tup)::bigint as dead_rows, sum(s.autovacuum_count)::bigint as autovacuums
      from pg_stat_user_tables s
      join pg_class r on r.oid = coalesce(pg_partition_root(s.relid), s.relid)
     where s.schemaname = 'store'
     group by r.relname
     order by r.relname";

const SIZES: &str = "select r.relname::text as table_name,
            sum(pg_table_size(c.oid) - t.bytes)::bigint as heap, sum(t.bytes)::bigint as toast, sum(pg_indexes_size(c.oid))::bigint as indexes
      from pg_class c
     cross join lateral (select coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) as bytes) t
      join pg_class r on r.oid = coalesce(pg_partition_root(c.oid), c.oid)
     where c.relnamespace = 'store'::regnamespace and c.relkind = 'r'
     group by r.relname
     order by r.relname";

/// A record is counted for the first block it names; those that name none are commits and the like.
const WAL_BY_TABLE: &str = "select coalesce(r.relname::text, case when w.file is null then 'commits and others' else 'catalogue' end) as table_name,
            coalesce(c.relkind = 'i', false) as is_index,
            sum(w.bytes)::bigint as bytes, sum(w.full_pages)::bigint as full_pages
      from (
        select (regexp_match(i.block_ref, '^blkref #0: rel [0-9]+/([0-9]+)/'))[1]::oid as database,
               (regexp_match(i.block_ref, '^blkref #0: rel [0-9]+/[0-9]+/([0-9]+)'))[1]::oid as file,
               sum(i.record_length) as bytes, sum(i.fpi_length) as full_pages
          from public.pg_get_wal_records_info($1, $2) i
         group by 1, 2
      ) w
      left join pg_class c on c.relfilenode = w.file and c.relnamespace in ('store'::regnamespace, 'pg_toast'::regnamespace)
      left join pg_index x on x.indexrelid = c.oid
      left join pg_class b on b.oid = coalesce(x.indrelid, c.oid)
      left join pg_class o on o.reltoastrelid = b.oid and b.relkind = 't'
      left join pg_class r on r.oid = coalesce(pg_partition_root(coalesce(o.oid, b.oid)), o.oid, b.oid)
     where w.database is null or w.database = (select d.oid from pg_database d where d.datname = current_database())
     group by 1, 2";

/// A setting of the server, or its version.
#[derive(Debug, Clone)]
pub struct Server {
    /// The setting.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What the server is: its version and the settings that figures depend on.
///
/// # Errors
/// [`DbError`] if they can't be read.
pub async fn describe_server(login: &Object) -> Result<Vec<Server>, DbError> {
    let rows = login.query(SERVER, &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Server {
            name: row.try_get("name")?,
            value: row.try_get("value")?,
        })
    };
    rows.iter().map(read).collect()
}

/// What has happened to a table since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableActivity {
    /// Rows updated.
    pub updates: i64,
    /// Of these, rows that stayed on their page and off the indexes.
    pub hot_updates: i64,
    /// Rows that are dead and not removed, estimated.
    pub dead_rows: i64,
    /// Times that autovacuum has come by.
    pub autovacuums: i64,
}

/// Hands in what a session has counted; otherwise the server learns of it up to a second later.
///
/// # Errors
/// [`DbError`] if it can't be handed in.
pub async fn flush_statistics(session: &Object) -> Result<(), DbError> {
    session.query("select pg_stat_force_next_flush()", &[]).await?;
    Ok(())
}

/// What has happened to each table of the schema, by name. Sessions that worked on them flush their statistics first.
///
/// # Errors
/// [`DbError`] if it can't be read.
pub async fn table_activity(login: &Object) -> Result<BTreeMap<String, TableActivity>, DbError> {
    let rows = login.query(ACTIVITY, &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        let activity = TableActivity {
            updates: row.try_get("updates")?,
            hot_updates: row.try_get("hot_updates")?,
            dead_rows: row.try_get("dead_rows")?,
            autovacuums: row.try_get("autovacuums")?,
        };
        Ok((row.try_get("table_name")?, activity))
    };
    rows.iter().map(read).collect()
}

/// Bytes of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Rows, with maps of free space and visibility.
    pub heap: i64,
    /// Values that were moved out of their rows, with their index.
    pub toast: i64,
    /// Indexes.
    pub indexes: i64,
}

/// How large each table of the schema is, by name.
///
/// # Errors
/// [`DbError`] if it can't be read.
pub async fn table_sizes(login: &Object) -> Result<BTreeMap<String, TableSize>, DbError> {
    let rows = login.query(SIZES, &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        let size = TableSize {
            heap: row.try_get("heap")?,
            toast: row.try_get("toast")?,
            indexes: row.try_get("indexes")?,
        };
        Ok((row.try_get("table_name")?, size))
    };
    rows.iter().map(read).collect()
}

/// WAL that was written between two moments, by the whole server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalUse {
    /// All of it.
    pub bytes: u64,
    /// Of it, images of whole pages: what the first change of a page after a checkpoint costs.
    pub full_pages: u64,
}

/// WAL that was written about one table of the database, or about none (commits, the catalogue).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableWal {
    /// About its rows, TOAST included.
    pub heap: i64,
    /// About its indexes.
    pub indexes: i64,
    /// Of both, images of whole pages.
    pub full_pages: i64,
}

/// Counts WAL from its start on. Keeps the server from removing it, so do not hold it for long.
pub struct WalMeter {
    login: Object,
    from: PgLsn,
}

impl WalMeter {
    /// Starts to count. Needs the extension `pg_walinspect`, which comes with PostgreSQL 15 (`postgresql-contrib`).
    ///
    /// # Errors
    /// [`DbError`] if the extension is not there, or `wal_level` is minimal.
    pub async fn start(scratch: &Scratch) -> Result<Self, DbError> {
        let login = scratch.session(Role::Login).await?;
        login
            .batch_execute(
                "set client_min_messages = warning;
                 create extension if not exists pg_walinspect schema public;
                 select pg_create_physical_replication_slot('relayforge_perf_' || pg_backend_pid(), true, true)",
            )
            .await?;
        let from = position(&login).await?;
        Ok(Self { login, from })
    }

    /// What was written since the start.
    ///
    /// # Errors
    /// [`DbError`] if it can't be read.
    pub async fn so_far(&self) -> Result<WalUse, DbError> {
        let to = position(&self.login).await?;
        if to <= self.from {
            return Ok(WalUse::default());
        }
        let row = self
            .login
            .query_one(
                "select pg_wal_lsn_diff($2, $1)::bigint as bytes,
                        (select sum(s.fpi_size)::bigint from public.pg_get_wal_stats($1, $2, false) s) as full_pages",
                &[&self.from, &to],
            )
            .await?;
        let unsigned = |name| row.try_get::<_, i64>(name).map(i64::unsigned_abs);
        Ok(WalUse {
            bytes: unsigned("bytes")?,
            full_pages: unsigned("full_pages")?,
        })
    }

    /// What was written since the start about each table; reads all of it.
    ///
    /// # Errors
    /// [`DbError`] if it can't be read.
    pub async fn by_table(&self) -> Result<BTreeMap<String, TableWal>, DbError> {
        let to = position(&self.login).await?;
        let mut tables: BTreeMap<String, TableWal> = BTreeMap::new();
        for row in self.login.query(WAL_BY_TABLE, &[&self.from, &to]).await? {
            let table = tables.entry(row.try_get("table_name")?).or_default();
            let bytes: i64 = row.try_get("bytes")?;
            if row.try_get("is_index")? {
                table.indexes += bytes;
            } else {
                table.heap += bytes;
            }
            table.full_pages += row.try_get::<_, i64>("full_pages")?;
        }
        Ok(tables)
    }
}

async fn position(login: &Object) -> Result<PgLsn, DbError> {
    let row = login.query_one("select pg_current_wal_flush_lsn()", &[]).await?;
    Ok(row.try_get(0)?)
}
