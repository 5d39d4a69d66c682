//! What operators do to jobs: cancel, hold, release, reprocess, as from psql. Each call is audited, with its reason.

use sql::jobs::{Start, complete_jobs};
use sql::testing::TestDb;
use sql::{DbError, Object};
use uuid::Uuid;

use crate::support::{
    POLICY, accepted, api, consumer, count, dba, failure, hook, ingest, new_job, start, started,
};

async fn verb(client: &Object, verb: &str, job_ids: &[Uuid]) -> Vec<(Uuid, String)> {
    client
        .query(
            &format!("select job_id, outcome from relayforge.{verb}($1, 'ticket 7')"),
            &[&job_ids],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

async fn one(client: &Object, name: &str, job_id: Uuid) -> String {
    let rows = verb(client, name, &[job_id]).await;
    assert_eq!(rows.len(), 1);
    rows[0].1.clone()
}

async fn status(db: &TestDb, job_id: Uuid) -> (String, i32) {
    let row = db
        .owner()
        .await
        .query_one(
            "select status, attempts::integer from relayforge.job_overview where job_id = $1",
            &[&job_id],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_cancelled_job_is_final_and_its_run_is_fenced() {
    let db = TestDb::create().await;
    let (operator, worker) = (dba(&db).await, consumer(&db).await);
    let (queued, running) = (new_job(&db, "a").await, new_job(&db, "b").await);
    let run = started(&worker, running, 1).await.run;
    let unknown = Uuid::from_u128(1);
    let mut outcomes = verb(&operator, "cancel_jobs", &[running, queued, unknown, queued]).await;
    outcomes.sort();
    let mut expected = [
        (queued, "cancelled".to_owned()),
        (running, "cancelled".to_owned()),
        (unknown, "unknown".to_owned()),
    ];
    expected.sort();
    assert_eq!(outcomes, expected);
    assert_eq!(one(&operator, "cancel_jobs", queued).await, "final");
    assert!(
        complete_jobs(&worker, &[run]).await.unwrap().jobs.is_empty(),
        "the run has lost its job"
    );
    assert!(matches!(start(&worker, queued, 1).await, Start::Final));
    assert_eq!(status(&db, queued).await, ("cancelled".to_owned(), 0));
    assert_eq!(status(&db, running).await, ("cancelled".to_owned(), 1));
    assert_eq!(count(&db, "select count(*) from store.dead_jobs").await, 0);
}

#[tokio::test]
async fn a_held_job_waits_for_its_release_and_nothing_else() {
    let db = TestDb::create().await;
    let (operator, worker) = (dba(&db).await, consumer(&db).await);
    let job_id = new_job(&db, "a").await;
    assert_eq!(one(&operator, "release_jobs", job_id).await, "not_held");
    assert_eq!(one(&operator, "hold_jobs", job_id).await, "held");
    assert_eq!(one(&operator, "hold_jobs", job_id).await, "held");
    assert!(matches!(start(&worker, job_id, 1).await, Start::Held));

    // The message is gone from the broker; the release writes another one.
    db.owner()
        .await
        .batch_execute("delete from store.outbox_messages")
        .await
        .unwrap();
    assert_eq!(one(&operator, "release_jobs", job_id).await, "released");
    assert_eq!(
        count(&db, "select attempt::bigint from store.outbox_messages").await,
        1
    );
    let run = started(&worker, job_id, 1).await.run;
    assert_eq!(one(&operator, "hold_jobs", job_id).await, "processing");

    // Between attempts it can be held again, and goes on where it was.
    sql::jobs::fail_jobs(&worker, &[failure(run, true)], &POLICY)
        .await
        .unwrap();
    assert_eq!(one(&operator, "hold_jobs", job_id).await, "held");
    assert!(matches!(start(&worker, job_id, 2).await, Start::Held));
    assert_eq!(one(&operator, "release_jobs", job_id).await, "released");
    assert_eq!(status(&db, job_id).await, ("retrying".to_owned(), 1));
    let run = started(&worker, job_id, 2).await.run;
    complete_jobs(&worker, &[run]).await.unwrap();
    assert_eq!(one(&operator, "hold_jobs", job_id).await, "final");
    assert_eq!(one(&operator, "release_jobs", job_id).await, "final");
}

/// The first implementation kept the attempts: the next failure was the last.
#[tokio::test]
async fn a_reprocessed_job_has_a_fresh_budget_of_attempts() {
    let db = TestDb::create().await;
    let (operator, worker) = (dba(&db).await, consumer(&db).await);
    let job_id = new_job(&db, "a").await;
    assert_eq!(one(&operator, "reprocess_jobs", job_id).await, "open");
    let fail = async |attempt| {
        let run = started(&worker, job_id, attempt).await.run;
        let failed = sql::jobs::fail_jobs(&worker, &[failure(run, true)], &POLICY)
            .await
            .unwrap();
        failed.dead_lettered.len()
    };
    let attempts = i32::from(POLICY.max_attempts);
    for attempt in 1..=attempts {
        assert_eq!(fail(attempt).await, usize::from(attempt == attempts));
    }
    assert_eq!(one(&operator, "reprocess_jobs", job_id).await, "reprocessed");
    assert_eq!(one(&operator, "reprocess_jobs", job_id).await, "open");
    assert_eq!(count(&db, "select count(*) from store.dead_jobs").await, 0);
    assert_eq!(status(&db, job_id).await, ("queued".to_owned(), attempts));
    assert!(
        matches!(start(&worker, job_id, 1).await, Start::Stale),
        "a message from before"
    );
    for attempt in attempts + 1..2 * attempts {
        assert_eq!(fail(attempt).await, 0);
    }
    let run = started(&worker, job_id, 2 * attempts).await.run;
    complete_jobs(&worker, &[run]).await.unwrap();
    assert_eq!(one(&operator, "reprocess_jobs", job_id).await, "succeeded");
    assert_eq!(
        one(&operator, "reprocess_jobs", Uuid::from_u128(1)).await,
        "unknown"
    );

    let cancelled = new_job(&db, "b").await;
    one(&operator, "cancel_jobs", cancelled).await;
    assert_eq!(one(&operator, "reprocess_jobs", cancelled).await, "reprocessed");
    started(&worker, cancelled, 1).await;
}

#[tokio::test]
async fn a_job_without_its_event_is_not_reprocessed() {
    let db = TestDb::create().await;
    let operator = dba(&db).await;
    let ids = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]);
    let job_id = ids.job_id.unwrap();
    operator
        .query("select relayforge.erase_event($1, 'asked for')", &[&ids.event_id])
        .await
        .unwrap();
    assert_eq!(one(&operator, "reprocess_jobs", job_id).await, "no_event");
    db.owner()
        .await
        .batch_execute("delete from store.webhook_inbox")
        .await
        .unwrap();
    assert_eq!(one(&operator, "reprocess_jobs", job_id).await, "no_event");
}

#[tokio::test]
async fn each_call_wants_a_reason_and_so_many_jobs() {
    let db = TestDb::create().await;
    let operator = dba(&db).await;
    let job_id = new_job(&db, "a").await;
    for verb in ["cancel_jobs", "hold_jobs", "release_jobs", "reprocess_jobs"] {
        for (job_ids, reason, why) in [
            (vec![job_id], "  ", "reason"),
            (vec![], "because", "1 to 1,000 jobs"),
            (vec![job_id; 1001], "because", ""),
            (
                (0..1001).map(Uuid::from_u128).collect(),
                "because",
                "1 to 1,000 jobs",
            ),
        ] {
            let outcome = operator
                .query(
                    &format!("select 1 from relayforge.{verb}($1, $2)"),
                    &[&job_ids, &reason],
                )
                .await
                .map_err(DbError::from);
            if why.is_empty() {
                outcome.unwrap();
            } else {
                let error = outcome.unwrap_err();
                assert!(
                    matches!(&error, DbError::Invalid(text) if text.contains(why)),
                    "{verb}: {error}"
                );
            }
        }
    }
    // A call that was refused has done nothing.
    assert_eq!(count(&db, "select count(*) from store.admin_audit_log").await, 4);
}
