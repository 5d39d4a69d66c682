//! Thirty days of jobs, written straight into the tables, as the services would have left them. The statements are in
//! `tenants.sql`, `partitions.sql`, `day.sql` and `rest.sql`; this file says in which order, and on how many connections.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;

use super::scratch::{Role, Scratch, checkpoint};
use crate::DbError;
use crate::upkeep::maintain;

/// How many days the jobs are spread over, each filled on its own.
const DAYS: i64 = 30;

/// Jobs without an outcome, fewer if there are few jobs.
const OPEN_JOBS: i64 = 20_000;

/// What `day.sql` puts together once for all tables. Its rows are in the order of their time.
const CHUNK: &str = "create temporary table chunk (
    n bigint not null, at timestamptz not null, event_id uuid not null, job_id uuid not null, tenant_id uuid not null,
    source text not null, event_type text not null, provider_event_id text not null, hash text not null,
    state text, nth bigint, cause text, retried boolean not null, stored boolean not null)";

/// Settings that the statements read. Deliveries of a day go when the whole day is past its retention.
const SETTINGS: &str = "select set_config(s.name, s.value, false)
      from (values ('fill.now', $1::text), ('fill.jobs', $2), ('fill.open', $3), ('fill.open_from', $4), ('fill.open_every', $5),
                   ('fill.inbox_from', date_trunc('day', $1::text::timestamptz - interval '14 days', 'UTC')::text)) s(name, value)";

/// Tables with rows, largest first, as statements. As autovacuum would: it never analyses a partitioned table itself.
const VACUUMS: &str = "select format('vacuum (analyze) store.%I', c.relname)
      from pg_class c
     where c.relnamespace = 'store'::regnamespace and c.relkind = 'r' and pg_relation_size(c.oid) > 0
     order by pg_relation_size(c.oid) desc";

/// Makes the tenants that measurements send for: `large-1` to `large-16`, `small-1` to `small-1000`, and `idle`.
///
/// # Errors
/// [`DbError`] if they can't be made.
pub async fn make_tenants(scratch: &Scratch) -> Result<(), DbError> {
    scratch.alter(include_str!("tenants.sql")).await
}

/// How many jobs [`fill`] has written into this database; none if it has not, or not to its end.
///
/// # Errors
/// [`DbError`] if it can't be read.
pub async fn filled(scratch: &Scratch) -> Result<Option<i64>, DbError> {
    let row = scratch
        .session(Role::Login)
        .await?
        .query_one(
            "select (regexp_match(shobj_description(d.oid, 'pg_database'), 'filled with ([0-9]+) jobs'))[1]::bigint
               from pg_database d
              where d.datname = current_database()",
            &[],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Fills a fresh database that has its tenants with `jobs` jobs of the last thirty days and what belongs to them:
/// deliveries and ledger rows of the last fourteen, logs, 1 in 200 given up, 20,000 open with their messages, traffic,
/// rejections, replays, quotas. Tells `progress` how far it is.
///
/// # Errors
/// [`DbError`]: drop the database then.
pub async fn fill(scratch: &Scratch, jobs: i64, progress: &impl Fn(&str)) -> Result<(), DbError> {
    let login = scratch.session(Role::Login).await?;
    let owner = scratch.session(Role::Owner).await?;
    owner.batch_execute(include_str!("partitions.sql")).await?;
    // Upkeep takes away what thirty days would have seen dropped: the deliveries' partitions of the first half.
    let kept = maintain(&login, Duration::ZERO).await?;
    if let Some(failed) = kept.failed.first() {
        return Err(DbError::Bug(format!("upkeep: {failed}")));
    }
    let began = Instant::now();
    if jobs > 0 {
        write(scratch, &owner, jobs, began, progress).await?;
    }
    checkpoint(&login).await?;
    let name = scratch.name();
    login
        .batch_execute(&format!(
            "comment on database {name} is 'relayforge-perf: filled with {jobs} jobs'"
        ))
        .await?;
    progress(&format!("filled in {} s", began.elapsed().as_secs()));
    Ok(())
}

/// Writes the rows, and has the server know how many there are.
async fn write(
    scratch: &Scratch,
    owner: &Object,
    jobs: i64,
    began: Instant,
    progress: &impl Fn(&str),
) -> Result<(), DbError> {
    let now: String = owner
        .query_one("select clock_timestamp()::text", &[])
        .await?
        .try_get(0)?;
    let (one, other) = (
        Filler::new(scratch, jobs, &now).await?,
        Filler::new(scratch, jobs, &now).await?,
    );
    let next = AtomicI64::new(0);
    tokio::try_join!(
        one.days(&next, began, progress),
        other.days(&next, began, progress),
        one_rest(scratch, jobs, &now)
    )?;
    let statements: Vec<String> = owner
        .query(VACUUMS, &[])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    progress(&format!("{} tables to vacuum and analyse", statements.len()));
    let next = AtomicI64::new(0);
    tokio::try_join!(
        vacuum(&one.session, &statements, &next),
        vacuum(&other.session, &statements, &next)
    )?;
    Ok(())
}

async fn one_rest(scratch: &Scratch, jobs: i64, now: &str) -> Result<(), DbError> {
    let filler = Filler::new(scratch, jobs, now).await?;
    Ok(filler.session.batch_execute(include_str!("rest.sql")).await?)
}

async fn vacuum(session: &Object, statements: &[String], next: &AtomicI64) -> Result<(), DbError> {
    loop {
        let taken = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok();
        let Some(statement) = taken.and_then(|taken| statements.get(taken)) else {
            return Ok(());
        };
        session.batch_execute(statement).await?;
    }
}

/// One of the connections that fill.
struct Filler {
    session: Object,
    jobs: i64,
}

impl Filler {
    async fn new(scratch: &Scratch, jobs: i64, now: &str) -> Result<Self, DbError> {
        let session = scratch.session(Role::Owner).await?;
        let open = OPEN_JOBS.min(jobs / 100).max(1);
        let last_day = jobs / DAYS;
        let text = |number: i64| number.to_string();
        session
            .query(
                SETTINGS,
                &[
                    &now,
                    &text(jobs),
                    &text(open),
                    &text(jobs - last_day + 1),
                    &text((last_day / open).max(1)),
                ],
            )
            .await?;
        // A crash of the server would lose the database, which nobody would miss.
        session
            .batch_execute("set synchronous_commit = off; set temp_buffers = '128MB'")
            .await?;
        session.batch_execute(CHUNK).await?;
        Ok(Self { session, jobs })
    }

    /// Takes a day after the other until none is left.
    async fn days(&self, next: &AtomicI64, began: Instant, progress: &impl Fn(&str)) -> Result<(), DbError> {
        loop {
            let day = next.fetch_add(1, Ordering::Relaxed);
            if day >= DAYS {
                return Ok(());
            }
            let bound = |day: i64| (self.jobs * day / DAYS).to_string();
            let first = (self.jobs * day / DAYS + 1).to_string();
            self.session
                .query(
                    "select set_config('fill.first', $1, false), set_config('fill.last', $2, false)",
                    &[&first, &bound(day + 1)],
                )
                .await?;
            self.session.batch_execute(include_str!("day.sql")).await?;
            progress(&format!(
                "day {} of {DAYS}, {} s",
                day + 1,
                began.elapsed().as_secs()
            ));
        }
    }
}
