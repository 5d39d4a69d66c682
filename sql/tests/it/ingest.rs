//! `ingest_webhooks`: each outcome, alone, inside one batch, and from two sessions at once.

use std::time::Duration;

use sql::DbError;
use sql::ingest::{IngestRules, Ingested};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    Hook, RULES, accepted, api, count, duplicate, hook, ingest, ingest_with, source, stripe, tenant,
};

#[tokio::test]
async fn a_new_event_becomes_inbox_job_open_job_and_outbox_row() {
    let db = TestDb::create().await;
    let ids = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]);
    assert_eq!(ids.inbox_id, ids.event_id);
    let row = db
        .owner()
        .await
        .query_one(
            "select i.body, i.source, j.dedup_key, j.kind, j.outcome, o.state, o.attempt, b.target, b.attempt,
                    relayforge.uuid7_time(i.id), u.used
               from store.webhook_inbox i
               join store.jobs j on j.event_id = i.id
               join store.open_jobs o on o.job_id = j.id
               join store.outbox_messages b on b.job_id = j.id
               join store.tenant_daily_quota_usage u on u.tenant_id = i.tenant_id
              where i.id = $1 and j.id = $2",
            &[&ids.event_id, &ids.job_id],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, Vec<u8>>(0), hook("a").body);
    assert_eq!(row.get::<_, &str>(2), "provider:a");
    assert_eq!(
        (row.get::<_, &str>(3), row.get::<_, Option<&str>>(4)),
        ("log", None)
    );
    assert_eq!((row.get::<_, &str>(5), row.get::<_, i16>(6)), ("queued", 1));
    assert_eq!((row.get::<_, &str>(7), row.get::<_, i16>(8)), ("jobs", 1));
    let received: chrono::DateTime<chrono::Utc> = row.get(9);
    assert!(
        (chrono::Utc::now() - received).num_seconds().abs() < 10,
        "{received}"
    );
    assert_eq!(row.get::<_, i64>(10), 1);
    assert_eq!(ids.event_id.get_version_num(), 7);
}

#[tokio::test]
async fn a_duplicate_gets_the_first_ids_and_costs_nothing() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let first = accepted(&ingest(&client, &[hook("a")]).await[0]);
    let again = duplicate(&ingest(&client, &[hook("a")]).await[0]);
    assert_eq!((again.event_id, again.job_id), (first.event_id, first.job_id));
    assert_ne!(again.inbox_id, first.inbox_id);
    let other_body = Hook {
        body: br#"{"event":"x"}"#.to_vec(),
        ..hook("a")
    };
    assert_eq!(
        duplicate(&ingest(&client, &[other_body]).await[0]).job_id,
        first.job_id
    );
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 1);
    assert_eq!(
        count(&db, "select used from store.tenant_daily_quota_usage").await,
        1
    );
    assert_eq!(
        count(&db, "select duplicates::bigint from store.dedup_ledger").await,
        2
    );
    // The body is stored again only where it differs.
    assert_eq!(
        count(&db, "select count(*) from store.webhook_inbox where body is null").await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.webhook_inbox where body is not null"
        )
        .await,
        2
    );
}

#[tokio::test]
async fn what_makes_two_webhooks_the_same_event() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let other = tenant(&db, "other", None).await;
    source(&db, "each", "none", "absorb", false).await;
    source(&db, "strict", "event_id", "absorb", false).await;
    let no_id = Hook { id: None, ..hook("") };
    let first = accepted(&ingest(&client, std::slice::from_ref(&no_id)).await[0]);
    assert_eq!(
        duplicate(&ingest(&client, std::slice::from_ref(&no_id)).await[0]).event_id,
        first.event_id
    );
    for (why, new) in [
        (
            "another body without an id",
            Hook {
                body: b"{\"event\":\"y\"}".to_vec(),
                ..no_id.clone()
            },
        ),
        (
            "another tenant",
            Hook {
                tenant: other,
                ..no_id.clone()
            },
        ),
        (
            "another source",
            Hook {
                source: "github",
                ..no_id.clone()
            },
        ),
        (
            "an id, even the hash's text",
            Hook {
                id: Some(format!("hash:{:064}", 0)),
                ..no_id.clone()
            },
        ),
        (
            "a source that does not deduplicate",
            Hook {
                source: "each",
                ..hook("a")
            },
        ),
        (
            "the same there again",
            Hook {
                source: "each",
                ..hook("a")
            },
        ),
    ] {
        let outcome = &ingest(&client, &[new]).await[0];
        assert!(matches!(outcome, Ingested::Accepted { .. }), "{why}: {outcome:?}");
    }
    let outcome = &ingest(
        &client,
        &[Hook {
            source: "strict",
            ..no_id
        }],
    )
    .await[0];
    assert_eq!(*outcome, Ingested::EventIdRequired);
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_knows_its_own_duplicates() {
    let db = TestDb::create().await;
    let hooks: Vec<Hook> = ["b", "a", "b", "c", "a", "b"].iter().map(|id| hook(id)).collect();
    let outcomes = ingest(&api(&db).await, &hooks).await;
    let (b, a) = (accepted(&outcomes[0]), accepted(&outcomes[1]));
    accepted(&outcomes[3]);
    assert_eq!(duplicate(&outcomes[2]).job_id, b.job_id);
    assert_eq!(duplicate(&outcomes[4]).job_id, a.job_id);
    assert_eq!(duplicate(&outcomes[5]).event_id, b.event_id);
    assert!(b.event_id < a.event_id, "ids of one batch sort as they arrived");
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 3);
    assert_eq!(
        count(&db, "select used from store.tenant_daily_quota_usage").await,
        3
    );
}

#[tokio::test]
async fn a_batch_over_the_quota_is_cut_exactly_there_and_the_keys_stay_free() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let (small, free) = (
        tenant(&db, "small", Some(3)).await,
        tenant(&db, "free", None).await,
    );
    let known = Hook {
        tenant: small,
        ..hook("known")
    };
    accepted(&ingest(&client, std::slice::from_ref(&known)).await[0]);
    let mut hooks: Vec<Hook> = (0..5)
        .map(|i| Hook {
            tenant: small,
            ..hook(&format!("e{i}"))
        })
        .collect();
    hooks.push(hooks[4].clone());
    hooks.push(known);
    hooks.push(Hook {
        tenant: free,
        ..hook("e0")
    });
    let outcomes = ingest(&client, &hooks).await;
    assert!(matches!(outcomes[0], Ingested::Accepted { .. }));
    assert!(matches!(outcomes[1], Ingested::Accepted { .. }));
    for outcome in &outcomes[2..6] {
        assert!(
            matches!(outcome, Ingested::OverQuota { retry_after_seconds } if (1..=86_400).contains(retry_after_seconds)),
            "{outcome:?}"
        );
    }
    assert!(
        matches!(outcomes[6], Ingested::Duplicate { .. }),
        "a duplicate is answered over quota"
    );
    assert!(
        matches!(outcomes[7], Ingested::Accepted { .. }),
        "another tenant does not notice"
    );
    assert_eq!(
        count(
            &db,
            "select used from store.tenant_daily_quota_usage where used = 3"
        )
        .await,
        3
    );

    // With a higher quota the rejected ones are new: their keys were not consumed.
    db.owner()
        .await
        .execute(
            "update store.tenants set daily_quota = 100 where slug = 'small'",
            &[],
        )
        .await
        .unwrap();
    let outcomes = ingest(&client, &hooks[2..6]).await;
    assert!(
        outcomes[..3]
            .iter()
            .all(|outcome| matches!(outcome, Ingested::Accepted { .. })),
        "{outcomes:?}"
    );
    assert!(matches!(outcomes[3], Ingested::Duplicate { .. }));
}

#[tokio::test]
async fn the_default_quota_counts_for_who_has_none() {
    let db = TestDb::create().await;
    let rules = IngestRules {
        default_daily_quota: 1,
        ..RULES
    };
    let outcomes = ingest_with(&api(&db).await, &[hook("a"), hook("b")], &rules)
        .await
        .unwrap();
    assert!(matches!(outcomes[0], Ingested::Accepted { .. }));
    assert!(matches!(outcomes[1], Ingested::OverQuota { .. }));
}

#[tokio::test]
async fn an_older_signature_is_a_replay_and_a_newer_one_a_retry() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let first = accepted(&ingest(&client, &[stripe("evt", 1000)]).await[0]);
    let replay = Ingested::Replay {
        event_id: first.event_id,
        job_id: first.job_id,
    };
    assert_eq!(
        ingest(&client, &[stripe("evt", 1000)]).await[0],
        replay,
        "the same signature"
    );
    assert_eq!(
        ingest(&client, &[stripe("evt", 999)]).await[0],
        replay,
        "an older one"
    );
    let retry = duplicate(&ingest(&client, &[stripe("evt", 1001)]).await[0]);
    assert_eq!((retry.event_id, retry.job_id), (first.event_id, first.job_id));
    assert_eq!(
        ingest(&client, &[stripe("evt", 1001)]).await[0],
        replay,
        "the timestamp has moved forward"
    );
    // In one batch: a newer one after an older one is a retry, then both are replays.
    let outcomes = ingest(
        &client,
        &[
            stripe("new", 10),
            stripe("new", 10),
            stripe("new", 11),
            stripe("new", 11),
        ],
    )
    .await;
    accepted(&outcomes[0]);
    assert!(matches!(outcomes[1], Ingested::Replay { .. }), "{outcomes:?}");
    duplicate(&outcomes[2]);
    assert!(matches!(outcomes[3], Ingested::Replay { .. }), "{outcomes:?}");
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 2);
    assert_eq!(
        count(&db, "select count(*) from store.webhook_inbox").await,
        4,
        "a replay stores nothing"
    );
}

#[tokio::test]
async fn the_other_replay_policies() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    source(&db, "never", "event_id", "reject_all", false).await;
    source(&db, "timeless", "event_id", "reject", false).await;
    accepted(
        &ingest(
            &client,
            &[Hook {
                source: "never",
                ..stripe("e", 10)
            }],
        )
        .await[0],
    );
    let newer = &ingest(
        &client,
        &[Hook {
            source: "never",
            ..stripe("e", 20)
        }],
    )
    .await[0];
    assert!(matches!(newer, Ingested::Replay { .. }), "{newer:?}");
    // Without timestamps nothing is newer.
    accepted(
        &ingest(
            &client,
            &[Hook {
                source: "timeless",
                ..hook("e")
            }],
        )
        .await[0],
    );
    let again = &ingest(
        &client,
        &[Hook {
            source: "timeless",
            ..hook("e")
        }],
    )
    .await[0];
    assert!(matches!(again, Ingested::Replay { .. }), "{again:?}");
}

/// The first implementation's worst: 429, then 409 on every retry, and never a job.
#[tokio::test]
async fn an_over_quota_stripe_event_is_new_when_it_comes_again() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let none = IngestRules {
        default_daily_quota: 0,
        ..RULES
    };
    let outcome = &ingest_with(&client, &[stripe("evt", 1000)], &none).await.unwrap()[0];
    assert!(matches!(outcome, Ingested::OverQuota { .. }), "{outcome:?}");
    assert_eq!(count(&db, "select count(*) from store.dedup_ledger").await, 0);
    assert_eq!(
        count(&db, "select count(*) from store.stripe_event_idempotency").await,
        0
    );
    accepted(&ingest(&client, &[stripe("evt", 1000)]).await[0]);
}

#[tokio::test]
async fn a_key_is_free_again_after_its_window() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let no_id = Hook { id: None, ..hook("") };
    let first = accepted(&ingest(&client, &[hook("a"), no_id.clone()]).await[0]);
    let expired = IngestRules {
        dedup_window: Duration::ZERO,
        hash_window: Duration::ZERO,
        ..RULES
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    let outcomes = ingest_with(&client, &[hook("a"), no_id], &expired).await.unwrap();
    let second = accepted(&outcomes[0]);
    accepted(&outcomes[1]);
    assert_ne!(second.event_id, first.event_id);
    assert_eq!(
        duplicate(&ingest(&client, &[hook("a")]).await[0]).event_id,
        second.event_id
    );
}

#[tokio::test]
async fn fanout_makes_one_more_row_for_the_topic_exchange() {
    let db = TestDb::create().await;
    source(&db, "loud", "event_id", "absorb", true).await;
    let loud = Hook {
        source: "loud",
        ..hook("a")
    };
    let outcomes = ingest(&api(&db).await, &[loud.clone(), loud, hook("b")]).await;
    let ids = accepted(&outcomes[0]);
    let rows = db
        .owner()
        .await
        .query(
            "select target, job_id from store.outbox_messages where event_id = $1 order by target",
            &[&ids.event_id],
        )
        .await
        .unwrap();
    let targets: Vec<(&str, Option<Uuid>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(targets, [("events", ids.job_id), ("jobs", ids.job_id)]);
    assert_eq!(count(&db, "select count(*) from store.outbox_messages").await, 3);
}

#[tokio::test]
async fn strangers_and_the_suspended_are_told_apart_and_store_nothing() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let shut = tenant(&db, "shut", None).await;
    db.owner()
        .await
        .execute(
            "update store.tenants set status = 'suspended' where slug = 'shut'",
            &[],
        )
        .await
        .unwrap();
    let outcomes = ingest(
        &client,
        &[
            Hook {
                tenant: Uuid::from_u128(99),
                ..hook("a")
            },
            Hook {
                tenant: shut,
                ..hook("a")
            },
            Hook {
                source: "nobody",
                ..hook("a")
            },
            hook("a"),
        ],
    )
    .await;
    assert_eq!(
        outcomes[..3],
        [
            Ingested::UnknownTenant,
            Ingested::Suspended,
            Ingested::UnknownSource
        ]
    );
    accepted(&outcomes[3]);
    assert_eq!(count(&db, "select count(*) from store.dedup_ledger").await, 1);
    assert_eq!(
        count(&db, "select count(*) from store.tenant_daily_quota_usage").await,
        1
    );
}

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
        let blocked = "select count(*) from pg_locks where not granted and pid in
                         (select pid from pg_stat_activity where datname = current_database())";
        while count(&db, blocked).await == 0 && !waiting.is_finished() {
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

/// One element that can't be stored refuses the whole batch with `Invalid`, so that the API can split it.
#[tokio::test]
async fn a_value_the_schema_refuses_is_invalid_not_a_bug() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let error = ingest_with(&client, &[hook("a\0b"), hook("c")], &RULES)
        .await
        .unwrap_err();
    assert!(matches!(error, DbError::Invalid(_)), "{error}");
    let bytes = Hook {
        body: vec![0, 255, 254, 0],
        ..hook("bytes")
    };
    accepted(&ingest(&client, &[bytes]).await[0]);
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 1);
}

#[tokio::test]
async fn ten_thousand_rows_on_one_connection_need_no_sequential_scan() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    for batch in 0..100 {
        let hooks: Vec<Hook> = (0..100).map(|i| hook(&format!("{batch}-{i}"))).collect();
        ingest(&client, &hooks).await;
    }
    drop(client);
    db.owner()
        .await
        .batch_execute("select pg_stat_force_next_flush()")
        .await
        .unwrap();
    let scanned = "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables
                    where schemaname = 'store' and relname !~ '^(tenants|sources)$'";
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while count(
        &db,
        "select coalesce(sum(n_tup_ins), 0)::bigint from pg_stat_user_tables where relname = 'open_jobs'",
    )
    .await
        < 10_000
    {
        assert!(std::time::Instant::now() < until, "the counters arrive");
    }
    assert_eq!(count(&db, scanned).await, 0, "rows read by sequential scans");
}
