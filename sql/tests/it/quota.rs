//! Quotas in `ingest_webhooks`: exact, held or refused, and never at the cost of a dedup key.

use sql::ingest::{IngestRules, Ingested};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    Hook, RULES, accepted, api, count, duplicate, hook, ingest, ingest_with, source, stripe, tenant,
    until_somebody_waits,
};

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

/// A session charges the row at the place where it has locked it: what others have charged while it waited counts, on a
/// tenant's first batch of a day, too.
#[tokio::test]
async fn sessions_that_wait_for_a_quota_row_accept_exactly_the_quota_together() {
    for known in [false, true] {
        let db = TestDb::create().await;
        let tenant = tenant(&db, "small", Some(10)).await;
        let hooks = |session: usize| -> Vec<Hook> {
            (0..4)
                .map(|i| Hook {
                    tenant,
                    ..hook(&format!("{session}-{i}"))
                })
                .collect()
        };
        if known {
            ingest(&api(&db).await, &hooks(9)[..1]).await;
        }
        let mut first = api(&db).await;
        let tx = first.transaction().await.unwrap();
        ingest(&tx, &hooks(0)).await;
        let waiting: Vec<_> = (1..4)
            .map(|session| (db.pool("relayforge_api"), hooks(session)))
            .map(|(pool, hooks)| {
                tokio::spawn(async move {
                    let client = pool.get().await.unwrap();
                    client.batch_execute("set lock_timeout = 0").await.unwrap();
                    ingest(&client, &hooks).await
                })
            })
            .collect();
        until_somebody_waits(&db).await;
        tx.commit().await.unwrap();
        let mut new = 0;
        for session in waiting {
            let outcomes = session.await.unwrap();
            new += outcomes
                .iter()
                .filter(|outcome| matches!(outcome, Ingested::Accepted { .. }))
                .count();
        }
        assert_eq!(new, if known { 5 } else { 6 }, "known: {known}");
        for counted in [
            "select used from store.tenant_daily_quota_usage where tenant_id <> '00000000-0000-0000-0000-000000000000'",
            "select count(*) from store.jobs",
            "select count(*) from store.dedup_ledger",
        ] {
            assert_eq!(count(&db, counted).await, 10, "{counted}");
        }
    }
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

async fn holding_tenant(db: &TestDb, quota: i64) -> Uuid {
    let id = tenant(db, "holding", Some(quota)).await;
    db.owner()
        .await
        .execute(
            "update store.tenants set quota_policy = 'hold' where id = $1",
            &[&id],
        )
        .await
        .unwrap();
    id
}

/// Up to the quota as ever, as many again held until midnight, and no more than that.
#[tokio::test]
async fn a_tenant_that_holds_has_a_second_quota_that_waits_for_midnight() {
    let db = TestDb::create().await;
    source(&db, "loud", "event_id", "absorb", true).await;
    let holding = holding_tenant(&db, 2).await;
    let client = api(&db).await;
    let hooks: Vec<Hook> = (0..6)
        .map(|i| Hook {
            tenant: holding,
            source: "loud",
            ..hook(&format!("e{i}"))
        })
        .collect();
    // In two batches, so that the cut falls inside of one.
    let mut outcomes = ingest(&client, &hooks[..3]).await;
    outcomes.extend(ingest(&client, &hooks[3..]).await);
    for outcome in &outcomes[..4] {
        accepted(outcome);
    }
    for outcome in &outcomes[4..] {
        assert!(matches!(outcome, Ingested::OverQuota { .. }), "{outcome:?}");
    }
    let rows = db
        .owner()
        .await
        .query(
            "select o.state, o.due_at > clock_timestamp(), extract(epoch from o.due_at)::bigint % 86400 = 0,
                    array(select m.target || ' ' || (m.next_attempt_at = o.due_at) from store.outbox_messages m
                           where m.job_id = o.job_id order by m.target)
               from store.open_jobs o order by o.job_id",
            &[],
        )
        .await
        .unwrap();
    let jobs: Vec<(&str, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        jobs,
        [
            ("queued", false),
            ("queued", false),
            ("held", true),
            ("held", true)
        ]
    );
    for row in &rows[2..] {
        assert!(row.get::<_, bool>(2), "due at UTC midnight");
    }
    for (number, row) in rows.iter().enumerate() {
        let work = if number < 2 { "jobs true" } else { "retries true" };
        assert_eq!(
            row.get::<_, Vec<String>>(3),
            ["events true", work],
            "what others are told waits as well"
        );
    }
    assert_eq!(
        count(&db, "select used from store.tenant_daily_quota_usage").await,
        4
    );
    let again = duplicate(&ingest(&client, &hooks[3..4]).await[0]);
    assert_eq!(
        (again.event_id, again.job_id),
        (accepted(&outcomes[3]).event_id, accepted(&outcomes[3]).job_id),
        "a held event is known as any other"
    );
}

/// The message that comes at midnight starts the job, whatever the clock of whoever starts it says.
#[tokio::test]
async fn a_job_that_the_quota_holds_starts_when_its_message_comes() {
    let db = TestDb::create().await;
    let holding = holding_tenant(&db, 1).await;
    let hooks = ["a", "b"].map(|id| Hook {
        tenant: holding,
        ..hook(id)
    });
    let outcomes = ingest(&api(&db).await, &hooks).await;
    let held = accepted(&outcomes[1]).job_id.unwrap();
    assert_eq!(
        count(
            &db,
            "select count(*) from relayforge.claim_outbox('jobs', 10, p_now => clock_timestamp())"
        )
        .await,
        1,
        "before midnight"
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from relayforge.claim_outbox('retries', 10, p_now => clock_timestamp() + interval '1 day')"
        )
        .await,
        1,
        "among what comes back: a day's worth of held events delays nothing new"
    );
    let started: String = db
        .owner()
        .await
        .query_one(
            "select outcome from relayforge.start_jobs(array[$1::uuid], array[1], '30 s', 3)",
            &[&held],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(started, "started");
}
