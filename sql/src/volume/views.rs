//! What a DBA asks each view of schema `relayforge`, and what PostgreSQL says of how it answers.

use deadpool_postgres::Object;

use crate::DbError;

/// A delivery of a few days ago for the questions to be about, and its job.
const SAMPLE: &str = "select t.slug, i.source, i.provider_event_id, j.id::text as job_id
      from webhook_inbox i
      join jobs j on j.event_id = i.id
      join tenants t on t.id = i.tenant_id
     where i.id >= relayforge.uuid7_floor(clock_timestamp() - interval '3 days') and i.event_id = i.id and i.source = 'stripe'
     order by i.id
     limit 1";

/// Views about which there is no question of ours yet.
const OTHER_VIEWS: &str = "select v.viewname::text
      from pg_views v
     where v.schemaname = 'relayforge' and not v.viewname::text = any ($1)
     order by v.viewname";

/// A question to a view.
#[derive(Debug, Clone)]
pub struct ViewQuery {
    /// The view.
    pub view: String,
    /// The question, in a few words.
    pub what: String,
    /// The question, in SQL.
    pub statement: String,
}

/// How PostgreSQL answered.
#[derive(Debug, Clone)]
pub struct Explained {
    /// Planning, in milliseconds.
    pub planning_ms: f64,
    /// Execution, in milliseconds.
    pub execution_ms: f64,
    /// Rows that came back.
    pub rows: f64,
    /// The plan, as EXPLAIN prints it.
    pub plan: String,
}

/// The questions, about data that `fill` has made; views that it does not know are asked for a hundred rows.
///
/// # Errors
/// [`DbError::NotFound`] if the database is not filled.
pub async fn view_queries(owner: &Object) -> Result<Vec<ViewQuery>, DbError> {
    let sample = owner.query_opt(SAMPLE, &[]).await?.ok_or_else(|| {
        DbError::NotFound("a delivery of three days ago: the database is not filled".to_owned())
    })?;
    let text = |name| sample.try_get::<_, String>(name);
    let (slug, source, event) = (text("slug")?, text("source")?, text("provider_event_id")?);
    let job = text("job_id")?;
    let hour = "relayforge.uuid7_floor(now() - interval '1 hour')";
    let of_tenant = |tenant: &str| {
        format!(
            "select * from relayforge.job_overview where tenant_id = relayforge.tenant_of('{tenant}') order by job_id desc limit 50"
        )
    };
    let mut queries = Vec::new();
    let mut ask = |view: &str, what: &str, statement: String| {
        queries.push(ViewQuery {
            view: view.to_owned(),
            what: what.to_owned(),
            statement,
        });
    };
    ask(
        "event_timeline",
        "by the provider's id",
        format!(
            "select * from relayforge.event_timeline where event_id = relayforge.event_of('{slug}', '{source}', '{event}') order by at"
        ),
    );
    ask(
        "event_timeline",
        "by job",
        format!("select * from relayforge.event_timeline where job_id = '{job}' order by at"),
    );
    ask(
        "job_overview",
        "by job",
        format!("select * from relayforge.job_overview where job_id = '{job}'"),
    );
    for tenant in ["large-1", "small-7"] {
        ask(
            "job_overview",
            &format!("last hour of {tenant}"),
            format!(
                "select * from relayforge.job_overview where tenant = '{tenant}' and job_id >= {hour} order by job_id desc"
            ),
        );
    }
    for (what, tenant) in [("large", "large-1"), ("small", "small-7"), ("idle", "idle")] {
        ask(
            "job_overview",
            &format!("newest 50 of a tenant that is {what}"),
            of_tenant(tenant),
        );
    }
    for (view, what, statement) in PLAIN {
        ask(view, what, (*statement).to_owned());
    }
    let known: Vec<String> = queries.iter().map(|query| query.view.clone()).collect();
    for row in owner.query(OTHER_VIEWS, &[&known]).await? {
        let view: String = row.try_get(0)?;
        queries.push(ViewQuery {
            statement: format!("select * from relayforge.{view} limit 100"),
            what: "any 100".to_owned(),
            view,
        });
    }
    Ok(queries)
}

/// Questions that name nothing in particular.
const PLAIN: &[(&str, &str, &str)] = &[
    (
        "dead_letters",
        "newest 100",
        "select * from relayforge.dead_letters order by dead_at desc limit 100",
    ),
    (
        "dead_letters",
        "newest 100 of a tenant",
        "select * from relayforge.dead_letters where tenant = 'large-1' order by dead_at desc limit 100",
    ),
    (
        "dead_letters",
        "count by cause",
        "select cause, count(*) from relayforge.dead_letters group by cause",
    ),
    (
        "stuck_jobs",
        "all",
        "select * from relayforge.stuck_jobs order by since",
    ),
    (
        "stuck_jobs",
        "count by why",
        "select state, why, count(*) from relayforge.stuck_jobs group by state, why",
    ),
    ("outbox_backlog", "all", "select * from relayforge.outbox_backlog"),
    (
        "tenant_usage",
        "all",
        "select * from relayforge.tenant_usage order by used desc",
    ),
    (
        "tenant_usage",
        "one",
        "select * from relayforge.tenant_usage where tenant = 'large-1'",
    ),
    (
        "traffic",
        "last hour by tenant",
        "select tenant, what, sum(count) from relayforge.traffic where minute > now() - interval '1 hour' group by tenant, what",
    ),
    (
        "rejections",
        "today by tenant and cause",
        "select tenant, cause, sum(count) from relayforge.rejections where hour >= date_trunc('day', now(), 'UTC') group by tenant, cause",
    ),
    (
        "replays",
        "newest 100",
        "select * from relayforge.replays order by last_at desc limit 100",
    ),
    (
        "suspected_replays",
        "newest 100",
        "select * from relayforge.suspected_replays order by last_at desc limit 100",
    ),
    (
        "secret_usage",
        "retired, but used lately",
        "select * from relayforge.secret_usage where retired_at is not null and last_used_at > now() - interval '1 day'",
    ),
    (
        "secret_usage",
        "of a tenant",
        "select * from relayforge.secret_usage where tenant = 'large-1'",
    ),
    (
        "partition_health",
        "all",
        "select * from relayforge.partition_health order by table_name, from_at",
    ),
    ("queue_health", "all", "select * from relayforge.queue_health"),
    ("schema_version", "all", "select * from relayforge.schema_version"),
];

/// Runs the question and says how it was answered. `timing` counts the time of each step, which takes time itself.
///
/// # Errors
/// [`DbError`] if it can't be run.
pub async fn explain(session: &Object, statement: &str, timing: bool) -> Result<Explained, DbError> {
    let timing = if timing { "on" } else { "off" };
    let lines: Vec<String> = session
        .query(
            &format!("explain (analyze, buffers, timing {timing}) {statement}"),
            &[],
        )
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let plan = lines.join("\n");
    let after = |label: &str| -> Option<f64> {
        let (_, rest) = plan.split_once(label)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    match (
        after("\nPlanning Time: "),
        after("\nExecution Time: "),
        rows(&lines),
    ) {
        (Some(planning_ms), Some(execution_ms), Some(rows)) => Ok(Explained {
            planning_ms,
            execution_ms,
            rows,
            plan,
        }),
        _ => Err(DbError::Bug(format!("EXPLAIN says something new: {plan}"))),
    }
}

/// Rows of the topmost step: the second figure of that name on its line, the first being the estimate.
fn rows(lines: &[String]) -> Option<f64> {
    let (_, actual) = lines.first()?.split_once("(actual ")?;
    let (_, rows) = actual.split_once("rows=")?;
    rows.split_whitespace().next()?.parse().ok()
}
