//! `ingest_webhooks`: each outcome, alone, inside one batch, and from two sessions at once.

use std::time::Duration;

use sql::DbError;
use sql::ingest::{Fingerprint, IngestRules, Ingested};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    Hook, RULES, accepted, api, count, duplicate, hook, ingest, ingest_with, source, tenant,
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

/// Batches of odd and even length are expected, rightly or not, to be new and to be anything.
#[tokio::test]
async fn what_is_expected_of_a_batch_changes_no_answer() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let known = hook("known");
    let first = accepted(&ingest(&client, std::slice::from_ref(&known)).await[0]);
    for (round, others) in [1, 2, 3, 4].into_iter().enumerate() {
        let new = hook(&format!("new {round}"));
        let mut hooks = vec![known.clone(); others];
        hooks.push(new.clone());
        hooks.push(new);
        let outcomes = ingest(&client, &hooks).await;
        assert_eq!(outcomes.len(), others + 2);
        for outcome in &outcomes[..others] {
            assert_eq!(duplicate(outcome).event_id, first.event_id);
        }
        let ids = accepted(&outcomes[others]);
        assert_eq!(duplicate(&outcomes[others + 1]).event_id, ids.event_id);
    }
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 5);
    assert_eq!(count(&db, "select count(*) from store.dedup_ledger").await, 5);
    assert_eq!(
        count(&db, "select sum(duplicates) from store.dedup_ledger").await,
        1 + 2 + 3 + 4 + 4
    );
    assert_eq!(
        count(&db, "select used from store.tenant_daily_quota_usage").await,
        5
    );
}

/// The key of an event that is gone may be there still, and one batch may hold an event twice: no answer need say so.
#[tokio::test]
async fn a_wrong_guess_is_owned_up_to_and_a_missing_hash_is_made() {
    let db = TestDb::create().await;
    let (owner, client) = (db.owner().await, api(&db).await);
    owner
        .batch_execute(
            "insert into store.dedup_ledger (digest, event_id, by_hash)
             select relayforge.dedup_digest('00000000-0000-0000-0000-000000000000', 'generic', 'provider:expired'),
                    relayforge.uuid7_floor(now() - interval '8 days'), false",
        )
        .await
        .unwrap();
    let call = "select outcome, guessed_wrong
                  from relayforge.ingest_webhooks(
                         array[$1::uuid, $1], array['generic', 'generic'], array[$2::text, $3::text], array['a', 'a'],
                         array['{}'::bytea, '{}'], array['{}'::jsonb, '{}'], array[null::timestamptz, null],
                         array[null::uuid, null], array['test', 'test'], array[null::jsonb, null], $4, '7 days', '1 day',
                         p_body_sha256s => array[null::bytea, sha256('{}')],
                         p_digests => array[null::bytea, relayforge.dedup_digest($1, 'generic', 'provider:' || $3)],
                         p_expect_new => true)";
    for (ids, quota, outcomes, is_wrong) in [
        (["new", "newer"], 100_i64, ["accepted", "accepted"], false),
        (["expired", "newest"], 100, ["accepted", "accepted"], true),
        (["new", "another"], 100, ["duplicate", "accepted"], true),
        (["twice", "twice"], 1, ["over_quota", "over_quota"], true),
    ] {
        let rows = owner
            .query(call, &[&Uuid::nil(), &ids[0], &ids[1], &quota])
            .await
            .unwrap();
        let found: Vec<(&str, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(found, outcomes.map(|outcome| (outcome, is_wrong)), "{ids:?}");
    }
    let again = ingest(&client, &[hook("new"), hook("twice")]).await;
    duplicate(&again[0]);
    accepted(&again[1]);
}

#[tokio::test]
async fn a_fingerprint_is_what_the_database_makes_of_the_same() {
    let db = TestDb::create().await;
    let owner = db.owner().await;
    let tenants = [
        Uuid::nil(),
        Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
    ];
    let ids = [
        None,
        Some("evt_1"),
        Some("\u{e4}\u{1f980}\\:'"),
        Some("provider:hash:"),
    ];
    for (tenant, source, id, body) in tenants.into_iter().flat_map(|tenant| {
        let pairs = ids
            .into_iter()
            .flat_map(|id| [(id, &b""[..]), (id, &b"\x00\\{}\xff"[..])]);
        pairs.flat_map(move |(id, body)| ["generic", "a_b"].map(|source| (tenant, source, id, body)))
    }) {
        let print = Fingerprint::of(tenant, source, id, body);
        let row = owner
            .query_one(
                "select sha256($4), relayforge.dedup_digest($1, $2, relayforge.dedup_key($3, sha256($4)))",
                &[&tenant, &source, &id, &body],
            )
            .await
            .unwrap();
        assert_eq!(print.body_sha256(), row.get::<_, &[u8]>(0), "{id:?}");
        assert_eq!(print.digest(), row.get::<_, &[u8]>(1), "{source} {id:?}");
    }
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
async fn a_hundred_thousand_rows_on_one_connection_need_no_sequential_scan() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    for batch in 0..400 {
        let hooks: Vec<Hook> = (0..250).map(|i| hook(&format!("{batch}-{i}"))).collect();
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
        < 100_000
    {
        assert!(std::time::Instant::now() < until, "the counters arrive");
    }
    assert_eq!(count(&db, scanned).await, 0, "rows read by sequential scans");
}

/// A duplicate costs no quota, so what it may store has a bound of its own: the row always, the body a few times.
#[tokio::test]
async fn the_differing_bodies_of_one_event_are_bounded() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let differing = |i: u8| Hook {
        body: vec![i],
        ..hook("a")
    };
    ingest(&client, &[hook("a")]).await;
    for batch in 0..3 {
        let hooks: Vec<Hook> = (0..10).map(|i| differing(batch * 10 + i)).collect();
        for outcome in ingest(&client, &hooks).await {
            duplicate(&outcome);
        }
    }
    assert_eq!(
        count(
            &db,
            "select count(*) from store.webhook_inbox where id <> event_id"
        )
        .await,
        30
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.webhook_inbox where id <> event_id and body is not null"
        )
        .await,
        16
    );
}
