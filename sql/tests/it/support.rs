//! What several tests arrange: webhooks, and looks at the tables.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sql::event::SourceKind;
use sql::ingest::{Expect, Fingerprint, Ids, IngestRules, Ingested, NewWebhook, ingest_webhooks};
use sql::jobs::{FailedRun, JobAttempt, RetryPolicy, Run, Start, StartedJob, start_jobs};
use sql::testing::TestDb;
use sql::{DbError, GenericClient, Object};
use uuid::Uuid;

pub(crate) const DEFAULT_TENANT: Uuid = Uuid::nil();

pub(crate) const RULES: IngestRules = IngestRules {
    default_daily_quota: 1_000_000,
    dedup_window: Duration::from_secs(7 * 86_400),
    hash_window: Duration::from_secs(86_400),
};

/// A webhook to be varied by struct update.
#[derive(Clone)]
pub(crate) struct Hook {
    pub(crate) tenant: Uuid,
    pub(crate) source: &'static str,
    pub(crate) id: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) signed_at: Option<i64>,
}

/// A generic webhook of the default tenant with that event id.
pub(crate) fn hook(id: &str) -> Hook {
    Hook {
        tenant: DEFAULT_TENANT,
        source: "generic",
        id: Some(id.to_owned()),
        body: br#"{"event":"order.created","data":{}}"#.to_vec(),
        signed_at: None,
    }
}

/// A Stripe webhook of the default tenant, signed at that second.
pub(crate) fn stripe(id: &str, signed_at: i64) -> Hook {
    Hook {
        source: "stripe",
        signed_at: Some(signed_at),
        ..hook(id)
    }
}

pub(crate) async fn ingest_with(
    client: &impl GenericClient,
    hooks: &[Hook],
    rules: &IngestRules,
) -> Result<Vec<Ingested>, DbError> {
    let headers: Value = json!({ "content-type": "application/json" });
    let rows: Vec<NewWebhook<'_>> = hooks
        .iter()
        .map(|hook| NewWebhook {
            tenant_id: hook.tenant,
            source: hook.source,
            provider_event_id: hook.id.as_deref(),
            event_type: "order.created",
            body: &hook.body,
            fingerprint: Fingerprint::of(hook.tenant, hook.source, hook.id.as_deref(), &hook.body),
            headers: &headers,
            signature_timestamp: hook
                .signed_at
                .and_then(|at| DateTime::<Utc>::from_timestamp(at, 0)),
            secret_id: None,
            correlation_id: "test",
            trace_context: None,
        })
        .collect();
    // A guess that is often wrong.
    let mut expect = if rows.len() % 2 == 1 {
        Expect::New
    } else {
        Expect::Any
    };
    ingest_webhooks(client, &rows, rules, &mut expect).await
}

pub(crate) async fn ingest(client: &impl GenericClient, hooks: &[Hook]) -> Vec<Ingested> {
    ingest_with(client, hooks, &RULES).await.unwrap()
}

/// A connection as the API's role.
pub(crate) async fn api(db: &TestDb) -> Object {
    db.pool("relayforge_api").get().await.unwrap()
}

/// A connection as the consumer's role.
pub(crate) async fn consumer(db: &TestDb) -> Object {
    db.pool("relayforge_consumer").get().await.unwrap()
}

/// A connection as the relay's role.
pub(crate) async fn relay(db: &TestDb) -> Object {
    db.pool("relayforge_relay").get().await.unwrap()
}

pub(crate) async fn owner(db: &TestDb) -> Object {
    db.pool("owner").get().await.unwrap()
}

pub(crate) fn accepted(outcome: &Ingested) -> Ids {
    match outcome {
        Ingested::Accepted { ids } => *ids,
        other => panic!("not accepted: {other:?}"),
    }
}

pub(crate) fn duplicate(outcome: &Ingested) -> Ids {
    match outcome {
        Ingested::Duplicate { ids } => *ids,
        other => panic!("not a duplicate: {other:?}"),
    }
}

/// One number from a query.
pub(crate) async fn count(db: &TestDb, query: &str) -> i64 {
    db.owner().await.query_one(query, &[]).await.unwrap().get(0)
}

/// A tenant of its own, optionally with a daily quota.
pub(crate) async fn tenant(db: &TestDb, slug: &str, daily_quota: Option<i64>) -> Uuid {
    let id = sql::config::create_tenant(&owner(db).await, slug, slug, None)
        .await
        .unwrap();
    db.owner()
        .await
        .execute(
            "update store.tenants set daily_quota = $2 where id = $1",
            &[&id, &daily_quota],
        )
        .await
        .unwrap();
    id
}

/// A source of kind generic that differs from the built-in one.
pub(crate) async fn source(db: &TestDb, name: &str, dedup: &str, replay_policy: &str, fanout: bool) {
    let source = sql::config::NewSource {
        name,
        kind: SourceKind::Generic,
        dedup,
        replay_policy,
        job_kind: "log",
        fanout,
    };
    sql::config::create_source(&owner(db).await, source)
        .await
        .unwrap();
}

/// Ingests one webhook at another time than the database's now, for example `3 days` later. Returns the outcome and the
/// event's id.
pub(crate) async fn ingest_at(
    client: &impl GenericClient,
    hook: &Hook,
    offset: &str,
) -> (String, Option<Uuid>) {
    let signed_at = hook
        .signed_at
        .and_then(|at| DateTime::<Utc>::from_timestamp(at, 0));
    let row = client
        .query_one(
            "select outcome, event_id
               from relayforge.ingest_webhooks(array[$1::uuid], array[$2::text], array[$3::text], array['order.created'],
                      array[$4::bytea], array['{}'::jsonb], array[$5::timestamptz], array[null::uuid], array['test'],
                      array[null::jsonb], 1000000, '7 days', '1 day', clock_timestamp() + $6::text::interval)",
            &[&hook.tenant, &hook.source, &hook.id, &hook.body, &signed_at, &offset],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

/// Runs upkeep at another time than now, and returns what it did; nothing may fail. After a jump of more than a day it is
/// cautious for an hour: so it runs an hour earlier, too.
pub(crate) async fn maintain_at(db: &TestDb, offset: &str) -> Vec<String> {
    let owner = db.owner().await;
    owner
        .batch_execute(&format!(
            "update store.upkeep set cautious_until = null;
             update store.upkeep set last_run_at = clock_timestamp() + interval '{offset}' - interval '1 hour'
              where last_run_at < clock_timestamp() + interval '{offset}' - interval '1 day'"
        ))
        .await
        .unwrap();
    let row = owner
        .query_one(
            "call relayforge.maintain('0', null, null, clock_timestamp() + $1::text::interval)",
            &[&offset],
        )
        .await
        .unwrap();
    let failed: Vec<String> = row.get("p_failed");
    assert!(failed.is_empty(), "{failed:?}");
    row.get("p_done")
}

/// A connection as the DBA's role.
pub(crate) async fn dba(db: &TestDb) -> Object {
    db.pool("relayforge_dba").get().await.unwrap()
}

/// Sessions of this database that wait for a lock.
pub(crate) async fn waiting_sessions(db: &TestDb) -> i64 {
    let blocked = "select count(distinct pid) from pg_locks where not granted and pid in
                     (select pid from pg_stat_activity where datname = current_database())";
    count(db, blocked).await
}

/// Waits until some session of this database waits for a lock.
pub(crate) async fn until_somebody_waits(db: &TestDb) {
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while waiting_sessions(db).await == 0 {
        assert!(std::time::Instant::now() < until, "nobody waits");
    }
}

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 3,
    backoff_base: Duration::from_secs(1),
    backoff_cap: Duration::from_secs(10),
};

/// An accepted event's job.
pub(crate) async fn new_job(db: &TestDb, id: &str) -> Uuid {
    accepted(&ingest(&api(db).await, &[hook(id)]).await[0])
        .job_id
        .unwrap()
}

/// What one message is answered.
pub(crate) async fn start(client: &Object, job_id: Uuid, attempt: i32) -> Start {
    start_bounded(client, job_id, attempt, 5).await
}

/// The same, where so many runs in a row may end without an outcome.
pub(crate) async fn start_bounded(client: &Object, job_id: Uuid, attempt: i32, max_starts: u16) -> Start {
    start_jobs(client, &[JobAttempt { job_id, attempt }], LEASE, max_starts)
        .await
        .unwrap()
        .remove(0)
}

/// A run of that attempt.
pub(crate) async fn started(client: &Object, job_id: Uuid, attempt: i32) -> Box<StartedJob> {
    match start(client, job_id, attempt).await {
        Start::Started(job) => job,
        other => panic!("not started: {other:?}"),
    }
}

/// That run, failed.
pub(crate) fn failure(run: Run, retryable: bool) -> FailedRun {
    FailedRun {
        run,
        error: "no answer".to_owned(),
        retryable,
        retry_after: None,
    }
}
