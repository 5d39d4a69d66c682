//! What the model test and the races have found and is not mended yet, each in its fewest steps. With the mending, a
//! test loses its `ignore` and moves to the file of its noun.

use std::time::Duration;

use serde_json::json;
use sql::ingest::{NewWebhook, ingest_webhooks};
use sql::jobs::{FailedRun, JobAttempt, RetryPolicy, Run, Start, fail_jobs, start_jobs, sweep_leases};
use sql::operators::job_overview;
use sql::testing::TestDb;
use uuid::Uuid;

use crate::races::{array, ask, running, verb as statement, waiting};
use crate::support::{RULES, accepted, api, consumer, count, hook, ingest, owner};

const LEASE: Duration = Duration::from_secs(30);
const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 3,
    backoff_base: Duration::from_secs(1),
    backoff_cap: Duration::from_secs(10),
};

async fn new_job(db: &TestDb) -> Uuid {
    accepted(&ingest(&api(db).await, &[hook("a")]).await[0])
        .job_id
        .unwrap()
}

async fn started(db: &TestDb, job_id: Uuid, attempt: i32) -> Run {
    let asked = JobAttempt { job_id, attempt };
    let answers = start_jobs(&consumer(db).await, &[asked], LEASE, 5).await.unwrap();
    match &answers[0] {
        Start::Started(job) => job.run,
        other => panic!("not started: {other:?}"),
    }
}

fn failure(run: Run, error: &str, retryable: bool) -> FailedRun {
    FailedRun {
        run,
        error: error.to_owned(),
        retryable,
        retry_after: None,
    }
}

async fn fail(db: &TestDb, failures: &[FailedRun]) {
    fail_jobs(&consumer(db).await, failures, &POLICY).await.unwrap();
}

async fn verb(db: &TestDb, function: &str, job: Uuid) {
    let query = format!("select outcome from relayforge.{function}(array[$1::uuid], 'test')");
    db.owner().await.query_one(&query, &[&job]).await.unwrap();
}

/// Its column says "runs that were started"; it counts the attempt that a held or reprocessed job waits for.
#[tokio::test]
async fn the_overview_counts_runs_that_were_started() {
    let db = TestDb::create().await;
    let job = new_job(&db).await;
    let run = started(&db, job, 1).await;
    fail(&db, &[failure(run, "no answer", true)]).await;
    verb(&db, "hold_jobs", job).await;
    let overview = job_overview(&owner(&db).await, &[job]).await.unwrap().remove(0);
    assert_eq!((overview.status.as_str(), overview.attempts), ("held", 1));
    verb(&db, "cancel_jobs", job).await;
    verb(&db, "reprocess_jobs", job).await;
    let overview = job_overview(&owner(&db).await, &[job]).await.unwrap().remove(0);
    assert_eq!((overview.status.as_str(), overview.attempts), ("queued", 1));
}

/// The error that gave the job up the first time hides those since.
#[tokio::test]
async fn the_overview_says_what_the_last_run_said() {
    let db = TestDb::create().await;
    let job = new_job(&db).await;
    let run = started(&db, job, 1).await;
    fail(&db, &[failure(run, "the first", false)]).await;
    verb(&db, "reprocess_jobs", job).await;
    let run = started(&db, job, 2).await;
    fail(&db, &[failure(run, "the second", true)]).await;
    let overview = job_overview(&owner(&db).await, &[job]).await.unwrap().remove(0);
    assert_eq!(overview.last_error.as_deref(), Some("the second"));
}

/// A job that was reprocessed and waits is said to have started the attempt that it waits for.
#[tokio::test]
async fn the_timeline_tells_of_starts_that_were() {
    let db = TestDb::create().await;
    let job = new_job(&db).await;
    let run = started(&db, job, 1).await;
    fail(&db, &[failure(run, "no answer", false)]).await;
    verb(&db, "reprocess_jobs", job).await;
    let told =
        "select coalesce(max(attempt), 0)::bigint from relayforge.event_timeline where what = 'started'";
    assert!(count(&db, told).await <= 1);
}

/// Bodies and headers of such a duplicate are left out; its trace context (with the provider's baggage) is not.
#[tokio::test]
async fn a_duplicate_of_an_erased_event_leaves_nothing() {
    let db = TestDb::create().await;
    let ids = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]);
    db.owner()
        .await
        .query("select relayforge.erase_event($1, 'test')", &[&ids.event_id])
        .await
        .unwrap();
    let (headers, hook) = (json!({}), hook("a"));
    let trace = serde_json::value::to_raw_value(&json!({ "baggage": "user=jane" })).unwrap();
    let again = NewWebhook {
        tenant_id: hook.tenant,
        source: hook.source,
        provider_event_id: hook.id.as_deref(),
        event_type: "order.created",
        body: &hook.body,
        headers: &headers,
        signature_timestamp: None,
        secret_id: None,
        correlation_id: "test",
        trace_context: Some(&trace),
    };
    ingest_webhooks(&api(&db).await, &[again], &RULES).await.unwrap();
    let left = "select count(*) from store.webhook_inbox where trace_context is not null";
    assert_eq!(count(&db, left).await, 0);
}

/// `complete_jobs` takes the same run twice in one call for one; `fail_jobs` logs it twice and writes two messages,
/// each with a due time of its own.
#[tokio::test]
async fn the_same_run_may_fail_twice_in_one_call() {
    let db = TestDb::create().await;
    let job = new_job(&db).await;
    let run = started(&db, job, 1).await;
    fail(
        &db,
        &[failure(run, "no answer", true), failure(run, "no answer", true)],
    )
    .await;
    let failed = "select count(*) from store.job_log where what = 'failed'";
    let messages = "select count(*) from store.outbox_messages where attempt = 2";
    assert_eq!((count(&db, failed).await, count(&db, messages).await), (1, 1));
}

/// As above, and where the two disagree, a retry is promised and written for a job that has just been given up.
#[tokio::test]
async fn a_run_that_fails_twice_in_one_call_has_one_outcome() {
    let db = TestDb::create().await;
    let job = new_job(&db).await;
    let run = started(&db, job, 1).await;
    let both = [failure(run, "no answer", true), failure(run, "no answer", false)];
    let failed = fail_jobs(&consumer(&db).await, &both, &POLICY).await.unwrap();
    assert_eq!(
        failed.retrying.len() + failed.dead_lettered.len(),
        1,
        "{failed:?}"
    );
}

/// The second of two messages for a job that the first has made poison is told that a run holds its lease.
#[tokio::test]
async fn a_message_beside_the_one_that_is_poisoned_finds_the_job_final() {
    let db = TestDb::create().await;
    let job_id = new_job(&db).await;
    started(&db, job_id, 1).await;
    let client = consumer(&db).await;
    db.owner()
        .await
        .batch_execute("update store.open_jobs set lease_until = clock_timestamp() - interval '1 second'")
        .await
        .unwrap();
    sweep_leases(&client, 100, 5).await.unwrap();
    let asked = JobAttempt { job_id, attempt: 2 };
    let answers = start_jobs(&client, &[asked, asked], LEASE, 1).await.unwrap();
    assert!(
        matches!(answers[..], [Start::Poisoned, Start::Final]),
        "{answers:?}"
    );
}

/// `reprocess_jobs` locks rows of `jobs` by id, open or not; `complete_jobs` updates them in the order of the
/// caller's array, under its locks of `open_jobs` only. (`cancel_jobs`, `fail_jobs` and the rest: in whatever order
/// their join yields.) One of the two ends in 40P01 after a second. `DbError::Busy`, so a caller that retries is served.
#[tokio::test]
async fn complete_and_reprocess_in_opposite_orders() {
    let db = TestDb::create().await;
    let mut runs = Vec::new();
    for id in ["a", "b", "c"] {
        runs.push(running(&db, id).await);
    }
    let jobs: Vec<Uuid> = runs.iter().map(|run| run.job_id).collect();
    let (psql, one, two) = (db.owner().await, db.owner().await, db.owner().await);
    psql.batch_execute(&format!(
        "begin; select from store.jobs where id = '{}' for no key update",
        jobs[1]
    ))
    .await
    .unwrap();
    let (late, current): (Vec<Uuid>, Vec<Uuid>) =
        runs.iter().rev().map(|run| (run.job_id, run.run_id)).unzip();
    let complete = format!(
        "call relayforge.complete_jobs({}, {}, null)",
        array(&late),
        array(&current)
    );
    let reprocess = statement("reprocess_jobs", &jobs);
    let first = tokio::spawn(async move { ask(&one, &complete).await });
    waiting(&db, 1).await;
    let second = tokio::spawn(async move { ask(&two, &reprocess).await });
    psql.batch_execute("commit").await.unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

/// Nothing that both lock: `reprocess_jobs` has seen the event before it was erased, `erase_event` has not seen
/// the job that was about to be opened. An open job remains whose event is gone.
#[tokio::test]
async fn reprocess_and_erase() {
    let db = TestDb::create().await;
    let ids = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]);
    let job = ids.job_id.unwrap();
    let (one, two) = (db.owner().await, db.owner().await);
    ask(&one, &statement("cancel_jobs", &[job])).await.unwrap();
    one.batch_execute("begin").await.unwrap();
    assert_eq!(
        ask(&one, &statement("reprocess_jobs", &[job])).await.unwrap(),
        "reprocessed"
    );
    let erase = format!("select relayforge.erase_event('{}', 'race')", ids.event_id);
    let erasing = tokio::spawn(async move { ask(&two, &erase).await });
    // Mended, it may wait.
    let until = std::time::Instant::now() + Duration::from_secs(1);
    while !erasing.is_finished() && std::time::Instant::now() < until {
        tokio::task::yield_now().await;
    }
    one.batch_execute("commit").await.unwrap();
    assert_eq!(erasing.await.unwrap().unwrap(), "1");
    let open = "select count(*) from store.open_jobs o join store.jobs j on j.id = o.job_id
                  join store.webhook_inbox i on i.id = j.event_id where i.erased_at is not null";
    assert_eq!(count(&db, open).await, 0, "open jobs of erased events");
}
