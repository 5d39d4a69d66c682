//! `ingest_webhooks` from several sessions at once.

use std::time::Duration;

use sql::DbError;
use sql::ingest::Ingested;
use sql::testing::TestDb;

use crate::support::{
    Hook, RULES, accepted, api, count, duplicate, hook, ingest, ingest_with, tenant, waiting_sessions,
};

/// Two sessions with the same events in opposite order: one job each, no deadlock, and both know the ids.
#[tokio::test]
async fn the_same_batch_from_two_sessions_in_opposite_order_makes_each_job_once() {
    let db = TestDb::create().await;
    for round in 0..20 {
        let forward: Vec<Hook> = (0..40).map(|i| hook(&format!("{round}-{i}"))).collect();
        let backward: Vec<Hook> = forward.iter().rev().cloned().collect();
        let (one, two) = (api(&db).await, api(&db).await);
        let (one, two) = tokio::join!(ingest(&one, &forward), ingest(&two, &backward));
        for (mine, theirs) in one.iter().zip(two.iter().rev()) {
            let ids = match (mine, theirs) {
                (Ingested::Accepted { ids }, Ingested::Duplicate { ids: other })
                | (Ingested::Duplicate { ids: other }, Ingested::Accepted { ids }) => {
                    assert_eq!(ids.event_id, other.event_id);
                    assert_eq!(ids.job_id, other.job_id);
                    ids
                }
                other => panic!("{other:?}"),
            };
            assert!(ids.job_id.is_some());
        }
    }
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 800);
}

/// The duplicate waits for the first one's commit and then sees it; and if the first one rolls back, it is the new one.
#[tokio::test]
async fn a_duplicate_beside_an_open_transaction_waits_for_its_end() {
    let db = TestDb::create().await;
    for commits in [true, false] {
        let event = hook(if commits { "committed" } else { "rolled back" });
        let mut first = api(&db).await;
        let transaction = first.transaction().await.unwrap();
        let ids = accepted(&ingest(&transaction, std::slice::from_ref(&event)).await[0]);
        // Its own tenant's quota row is what it meets first; 250 ms of that, says the role.
        let second = api(&db).await;
        let waiting = tokio::spawn(async move { ingest_with(&second, &[event], &RULES).await });
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while waiting_sessions(&db).await == 0 && !waiting.is_finished() {
            assert!(
                std::time::Instant::now() < until,
                "the second session waits for the first"
            );
        }
        if commits {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        match waiting.await.unwrap() {
            Ok(outcomes) if commits => assert_eq!(duplicate(&outcomes[0]).event_id, ids.event_id),
            Ok(outcomes) => assert_ne!(accepted(&outcomes[0]).event_id, ids.event_id),
            // A slow machine may use up the 250 ms: then it is told to try again.
            Err(error) => assert!(matches!(error, DbError::Locked(_)), "{error}"),
        }
    }
}

/// A process that dies leaves its statement running in the server; the retry comes meanwhile, through another. Whichever
/// commits first, there is one event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_beside_the_statement_of_a_dead_process_makes_no_second_event() {
    let db = TestDb::create().await;
    let pool = db.pool("relayforge_api");
    for round in 0_u64..150 {
        let hooks: Vec<Hook> = (0..16).map(|i| hook(&format!("{round}-{i}"))).collect();
        let dying = tokio::spawn({
            let (hooks, client) = (hooks.clone(), api(&db).await);
            async move { ingest_with(&client, &hooks, &RULES).await.map(drop) }
        });
        // Anywhere between before it is sent and after it is answered.
        tokio::time::sleep(Duration::from_micros(round * 37 % 4000)).await;
        dying.abort();
        loop {
            let client = pool.get().await.unwrap();
            match ingest_with(&client, &hooks, &RULES).await {
                Ok(outcomes) => {
                    assert!(
                        outcomes
                            .iter()
                            .all(|o| matches!(o, Ingested::Accepted { .. } | Ingested::Duplicate { .. }))
                    );
                    break;
                }
                // Behind the dead one's locks for too long: the provider tries again.
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    }
    // The last dead one may still be at it.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let busy = "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' and pid <> pg_backend_pid()";
    while count(&db, busy).await > 0 {
        assert!(std::time::Instant::now() < until, "all statements end");
    }
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 150 * 16);
    assert_eq!(
        count(&db, "select count(distinct dedup_key) from store.jobs").await,
        150 * 16
    );
}

/// Somebody's psql session holds one tenant's quota row: that tenant waits, is told to try again, and nobody else is.
#[tokio::test]
async fn a_held_quota_row_is_busy_for_its_tenant_only() {
    let db = TestDb::create().await;
    let (held, free) = (tenant(&db, "held", None).await, tenant(&db, "free", None).await);
    let client = api(&db).await;
    accepted(
        &ingest(
            &client,
            &[Hook {
                tenant: held,
                ..hook("0")
            }],
        )
        .await[0],
    );
    let psql = db.owner().await;
    psql.batch_execute("begin; update store.tenant_daily_quota_usage set used = used")
        .await
        .unwrap();
    let both = [
        Hook {
            tenant: held,
            ..hook("1")
        },
        Hook {
            tenant: free,
            ..hook("1")
        },
    ];
    let error = ingest_with(&client, &both, &RULES).await.unwrap_err();
    assert!(matches!(error, DbError::Locked(_)), "{error}");
    accepted(&ingest(&client, &both[1..]).await[0]);
    psql.batch_execute("rollback").await.unwrap();
    accepted(&ingest(&client, &both[..1]).await[0]);
}
