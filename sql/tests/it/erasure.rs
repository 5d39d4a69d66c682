//! Erasure of what events carried: of one event, of a tenant.

use serde_json::json;
use sql::DbError;
use sql::ingest::{Expect, Fingerprint, Ingested, NewWebhook, ingest_webhooks};
use sql::jobs::{Start, complete_jobs};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    Hook, POLICY, RULES, accepted, api, consumer, count, dba, duplicate, failure, hook, ingest, start,
    started, tenant,
};

const CARRIED: &str = "select count(*) from store.webhook_inbox where body is not null or headers <> '{}' or trace_context is not null";

#[tokio::test]
async fn an_erased_event_leaves_that_it_was_there() {
    let db = TestDb::create().await;
    let (client, worker, operator) = (api(&db).await, consumer(&db).await, dba(&db).await);
    let other_body = Hook {
        body: b"personal".to_vec(),
        ..hook("a")
    };
    let outcomes = ingest(&client, &[hook("a"), other_body.clone(), hook("b")]).await;
    let (erased, kept) = (accepted(&outcomes[0]), accepted(&outcomes[2]));
    let job_id = erased.job_id.unwrap();
    let run = started(&worker, job_id, 1).await.run;
    sql::jobs::fail_jobs(&worker, &[failure(run, true)], &POLICY)
        .await
        .unwrap();
    let run = started(&worker, job_id, 2).await.run;

    let erase = async || -> Result<i64, DbError> {
        let row = operator
            .query_one(
                "select relayforge.erase_event($1, 'asked for')",
                &[&erased.event_id],
            )
            .await?;
        Ok(row.get(0))
    };
    assert_eq!(erase().await.unwrap(), 2);
    assert_eq!(erase().await.unwrap(), 0, "again");
    assert_eq!(count(&db, CARRIED).await, 1, "the other event's");
    assert_eq!(
        count(
            &db,
            "select count(*) from store.job_log where what = 'failed' and detail <> 'erased'"
        )
        .await,
        0
    );
    assert!(
        complete_jobs(&worker, &[run]).await.unwrap().jobs.is_empty(),
        "its job is cancelled"
    );
    assert!(matches!(start(&worker, job_id, 2).await, Start::Final));

    // A late retry of the provider is a duplicate still, and brings nothing back.
    let again = duplicate(&ingest(&client, &[other_body]).await[0]);
    assert_eq!((again.event_id, again.job_id), (erased.event_id, erased.job_id));
    assert_eq!(count(&db, CARRIED).await, 1);
    started(&worker, kept.job_id.unwrap(), 1).await;

    let unknown = operator
        .query_one(
            "select relayforge.erase_event($1, 'asked for')",
            &[&Uuid::from_u128(1)],
        )
        .await
        .map_err(DbError::from);
    assert!(matches!(unknown, Err(DbError::NotFound(_))));
    assert_eq!(
        count(
            &db,
            "select count(*) from store.admin_audit_log where action = 'erase_event' and reason = 'asked for'"
        )
        .await,
        2
    );
}

/// Its trace context carries the provider's baggage.
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
        fingerprint: Fingerprint::of(hook.tenant, hook.source, hook.id.as_deref(), &hook.body),
        headers: &headers,
        signature_timestamp: None,
        secret_id: None,
        correlation_id: "test",
        trace_context: Some(&trace),
    };
    ingest_webhooks(&api(&db).await, &[again], &RULES, &mut Expect::Any)
        .await
        .unwrap();
    let left = "select count(*) from store.webhook_inbox where trace_context is not null";
    assert_eq!(count(&db, left).await, 0);
}

async fn add_secret_and_sample(db: &TestDb, tenant_id: Uuid) {
    db.owner()
        .await
        .execute(
            "with s as (
               insert into store.tenant_provider_secrets (id, tenant_id, source, ciphertext, master_key_id)
               values (gen_random_uuid(), $1, 'generic', sha256('x'), '0123456789abcdef') returning id
             ), u as (
               insert into store.secret_usage select id, 1, now() from s
             )
             insert into store.webhook_rejections (hour, cause, source, tenant_id, count, last_at, sample, sample_detail)
             values (now(), 'invalid_event', 'generic', $1, 1, now(), 'personal', 'personal')",
            &[&tenant_id],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn an_erased_tenant_leaves_nothing_of_its_own() {
    let db = TestDb::create().await;
    let gone = tenant(&db, "gone", None).await;
    let (client, operator) = (api(&db).await, dba(&db).await);
    // More than one step of 500 jobs, and a bystander.
    let hooks: Vec<Hook> = (0..1203)
        .map(|i| Hook {
            tenant: gone,
            body: b"personal".to_vec(),
            ..hook(&format!("e{i}"))
        })
        .collect();
    for batch in hooks.chunks(256) {
        ingest(&client, batch).await;
    }
    accepted(&ingest(&client, &[hook("bystander")]).await[0]);
    add_secret_and_sample(&db, gone).await;

    let erased: i64 = operator
        .query_one("call relayforge.erase_tenant($1, 'contract ended')", &[&gone])
        .await
        .unwrap()
        .get(0);
    assert_eq!(erased, 1203);
    assert_eq!(count(&db, CARRIED).await, 1, "the bystander's");
    for (what, query) in [
        ("secrets", "select count(*) from store.tenant_provider_secrets"),
        ("uses of secrets", "select count(*) from store.secret_usage"),
        (
            "samples",
            "select count(*) from store.webhook_rejections where sample is not null or sample_detail is not null",
        ),
        (
            "the name",
            "select count(*) from store.tenants where name = 'gone'",
        ),
        (
            "open jobs",
            "select count(*) from store.open_jobs o join store.tenants t on t.id = o.tenant_id where t.slug = 'gone'",
        ),
    ] {
        assert_eq!(count(&db, query).await, 0, "{what}");
    }
    let outcome = &ingest(&client, &hooks[..1]).await[0];
    assert_eq!(*outcome, sql::ingest::Ingested::Suspended);
    // A second time finds nothing to do; a stranger is told so.
    let erased: i64 = operator
        .query_one("call relayforge.erase_tenant($1, 'once more')", &[&gone])
        .await
        .unwrap()
        .get(0);
    assert_eq!(erased, 0);
    let unknown = operator
        .query_one("call relayforge.erase_tenant($1, 'who?')", &[&Uuid::from_u128(1)])
        .await
        .map_err(DbError::from);
    assert!(matches!(unknown, Err(DbError::NotFound(_))));
    assert_eq!(
        count(
            &db,
            "select count(*) from store.admin_audit_log where action = 'erase_tenant'"
        )
        .await,
        4
    );
}

/// Somebody who was answered as a duplicate has the id of that delivery.
#[tokio::test]
async fn an_event_is_erased_by_the_id_of_any_delivery() {
    let db = TestDb::create().await;
    let (client, operator) = (api(&db).await, dba(&db).await);
    accepted(&ingest(&client, &[hook("a")]).await[0]);
    let other_body = Hook {
        body: b"another".to_vec(),
        ..hook("a")
    };
    let again = duplicate(&ingest(&client, &[other_body]).await[0]);
    assert_eq!(count(&db, CARRIED).await, 2);
    let erased: i64 = operator
        .query_one(
            "select relayforge.erase_event($1, 'asked to')",
            &[&again.inbox_id],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!((erased, count(&db, CARRIED).await), (2, 0));
    let target = "select count(*) from relayforge.audit_log where target = 'event/' ||
                    (select distinct event_id from store.webhook_inbox)";
    assert_eq!(count(&db, target).await, 1);
}

/// A dedup window that is longer than the retention: a duplicate may outlive the delivery that it repeats, and the job.
#[tokio::test]
async fn what_came_late_is_erased_too_and_nothing_is_kept_of_what_comes_after() {
    let db = TestDb::create().await;
    let (client, operator) = (api(&db).await, dba(&db).await);
    let late = tenant(&db, "late", None).await;
    let personal = |id: &str, body: &str| Hook {
        tenant: late,
        body: body.as_bytes().to_vec(),
        ..hook(id)
    };
    let first = accepted(&ingest(&client, &[personal("a", "v1")]).await[0]);
    ingest(&client, &[personal("a", "v2")]).await;
    // The first delivery and the job are past their retention.
    let owner = db.owner().await;
    owner
        .batch_execute(&format!(
            "delete from store.open_jobs; delete from store.jobs;
             delete from store.webhook_inbox where id = '{}'",
            first.event_id
        ))
        .await
        .unwrap();
    assert!(matches!(
        ingest(&client, &[personal("a", "v3")]).await[0],
        Ingested::Duplicate { .. }
    ));
    assert_eq!(count(&db, CARRIED).await, 1, "v2, and nothing of v3");
    let erased: i64 = operator
        .query_one("call relayforge.erase_tenant($1, 'contract ended')", &[&late])
        .await
        .unwrap()
        .get(0);
    assert_eq!((erased, count(&db, CARRIED).await), (2, 0));
}

/// A step by itself erases nothing: who began, and why, is in the audit log.
#[tokio::test]
async fn erasing_a_tenant_begins_with_its_audit_row() {
    let db = TestDb::create().await;
    let (client, operator) = (api(&db).await, dba(&db).await);
    let id = tenant(&db, "suspended", None).await;
    ingest(
        &client,
        &[Hook {
            tenant: id,
            ..hook("a")
        }],
    )
    .await;
    db.owner()
        .await
        .batch_execute("update store.tenants set status = 'suspended' where slug = 'suspended'")
        .await
        .unwrap();
    for step in ["wait", "events", "deliveries", "end"] {
        let error = operator
            .query(
                "select relayforge.erase_tenant_step($1, $2, null, null, null)",
                &[&id, &step],
            )
            .await
            .unwrap_err();
        assert_eq!(error.code().unwrap().code(), "RF409", "{step}: {error}");
    }
    assert_eq!(count(&db, CARRIED).await, 1);
    // Nor is a sample kept of a tenant that is not active any more.
    let sample = sql::ingest::RejectionCount {
        cause: "invalid_event",
        source: "generic".to_owned(),
        tenant_id: Some(id),
        count: 1,
        sample: Some(sql::ingest::RejectedSample {
            body: b"personal".to_vec(),
            detail: "personal".to_owned(),
        }),
    };
    sql::ingest::record_rejections(&client, &[sample]).await.unwrap();
    let kept =
        "select count(*) from store.webhook_rejections where sample is not null or sample_detail is not null";
    assert_eq!(count(&db, kept).await, 0);
    assert_eq!(
        count(&db, "select sum(count)::bigint from store.webhook_rejections").await,
        1
    );
}
