//! Retry policies: which one counts, field by field, and who may say so.

use std::time::Duration;

use sql::DbError;
use sql::jobs::{Failed, fail_jobs};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    DEFAULT_TENANT, Hook, POLICY, accepted, api, consumer, count, dba, failure, hook, ingest, started,
    stripe, tenant,
};

/// Sets a policy, as the DBA; the values are SQL.
async fn set(db: &TestDb, tenant: &str, source: &str, values: &str) -> Result<(), DbError> {
    let call = format!("select relayforge.set_retry_policy({tenant}, {source}, 'it is agreed', {values})");
    dba(db).await.batch_execute(&call).await?;
    Ok(())
}

/// A job of that event, run and failed once; what became of it, and after how many milliseconds it is due again.
async fn fail_once(db: &TestDb, event: Hook) -> (Failed, Option<i64>) {
    let job = accepted(&ingest(&api(db).await, &[event]).await[0])
        .job_id
        .unwrap();
    fail_attempt(db, job, 1).await
}

async fn fail_attempt(db: &TestDb, job: Uuid, attempt: i32) -> (Failed, Option<i64>) {
    let client = consumer(db).await;
    let run = started(&client, job, attempt).await.run;
    let before = chrono::Utc::now();
    let failed = fail_jobs(&client, &[failure(run, true)], &POLICY).await.unwrap();
    let wait = failed.next_due.map(|due| (due - before).num_milliseconds());
    (failed, wait)
}

#[track_caller]
fn about(wait: Option<i64>, seconds: i64) {
    let wait = wait.unwrap();
    assert!(
        (seconds * 1000 - 50..seconds * 1000 + 2000).contains(&wait),
        "{wait} ms"
    );
}

#[tokio::test]
async fn the_narrowest_policy_counts_field_by_field() {
    let db = TestDb::create().await;
    let other = tenant(&db, "other", None).await;
    set(&db, "null", "null", "p_jitter => 0, p_max_attempts => 1")
        .await
        .unwrap();
    set(
        &db,
        "null",
        "'stripe'",
        "p_backoff_base => '100 s', p_backoff_cap => '1 h'",
    )
    .await
    .unwrap();
    set(
        &db,
        "'default'",
        "null",
        "p_max_attempts => 2, p_backoff_base => '200 s', p_backoff_cap => '1 h'",
    )
    .await
    .unwrap();
    set(&db, "'default'", "'stripe'", "p_backoff_base => '300 s'")
        .await
        .unwrap();

    let (failed, wait) = fail_once(&db, stripe("evt_1", 100)).await;
    about(wait, 300);
    // The cap is the tenant's, and so is the number of attempts.
    let (again, none) = fail_attempt(&db, failed.retrying[0], 2).await;
    assert_eq!((again.dead_lettered.len(), none), (1, None));
    about(fail_once(&db, hook("a")).await.1, 200);
    let theirs = Hook {
        tenant: other,
        ..hook("a")
    };
    let (failed, _) = fail_once(&db, theirs).await;
    assert_eq!(
        failed.dead_lettered.len(),
        1,
        "one attempt, for everybody who has nothing else"
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.dead_jobs where cause = 'exhausted'"
        )
        .await,
        2
    );
}

#[tokio::test]
async fn without_a_policy_the_consumers_own_counts_and_a_change_counts_from_the_next_failure() {
    let db = TestDb::create().await;
    let (failed, wait) = fail_once(&db, hook("a")).await;
    let wait = wait.unwrap();
    assert!((450..3000).contains(&wait), "half to all of a second: {wait} ms");
    let job = failed.retrying[0];
    set(
        &db,
        "'default'",
        "'generic'",
        "p_backoff_base => '60 s', p_backoff_cap => '90 s', p_jitter => 0",
    )
    .await
    .unwrap();
    about(fail_attempt(&db, job, 2).await.1, 90);
    let removed = dba(&db)
        .await
        .query_one(
            "select relayforge.remove_retry_policy('default', 'generic', 'as before')",
            &[],
        )
        .await
        .unwrap();
    assert!(removed.get::<_, bool>(0));
    assert_eq!(
        fail_attempt(&db, job, 3).await.0.dead_lettered,
        [job],
        "three attempts again"
    );
}

#[tokio::test]
async fn a_cap_below_the_base_of_another_policy_holds() {
    let db = TestDb::create().await;
    set(&db, "'default'", "null", "p_backoff_cap => '5 s', p_jitter => 0")
        .await
        .unwrap();
    set(&db, "null", "null", "p_backoff_base => '50 s'")
        .await
        .unwrap();
    about(fail_once(&db, hook("a")).await.1, 5);
}

#[tokio::test]
async fn jitter_spreads_what_failed_together() {
    let db = TestDb::create().await;
    set(
        &db,
        "null",
        "null",
        "p_backoff_base => '100 s', p_backoff_cap => '100 s', p_jitter => 1",
    )
    .await
    .unwrap();
    let mut waits = Vec::new();
    for id in 0..20 {
        waits.push(fail_once(&db, hook(&id.to_string())).await.1.unwrap());
    }
    waits.sort_unstable();
    assert!(waits[0] < 40_000 && waits[19] > 60_000, "{waits:?}");
}

#[tokio::test]
async fn what_a_policy_cannot_say_is_refused_by_name_and_nothing_changes() {
    let db = TestDb::create().await;
    for (tenant, source, values, named) in [
        ("'nobody'", "null", "3", "tenant nobody"),
        ("null", "'nowhere'", "3", "source nowhere"),
        ("null", "null", "null", "at least one"),
        ("null", "null", "0", "retry_policies_max_attempts_bounds"),
        ("null", "null", "70000", "between 1 and 1000, not 70000"),
        (
            "null",
            "null",
            "p_backoff_base => '0 s'",
            "retry_policies_backoff_base_bounds",
        ),
        (
            "null",
            "null",
            "p_backoff_cap => '2 days'",
            "retry_policies_backoff_cap_bounds",
        ),
        (
            "null",
            "null",
            "p_backoff_base => '9 s', p_backoff_cap => '8 s'",
            "retry_policies_cap_not_below_base",
        ),
        ("null", "null", "p_jitter => 1.5", "retry_policies_jitter_bounds"),
    ] {
        let error = set(&db, tenant, source, values).await.unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    let client = dba(&db).await;
    let no_reason = client
        .batch_execute("select relayforge.set_retry_policy(null, null, '  ', 3)")
        .await;
    assert!(
        DbError::from(no_reason.unwrap_err())
            .to_string()
            .contains("reason")
    );
    assert_eq!(count(&db, "select count(*) from store.retry_policies").await, 0);
    assert_eq!(count(&db, "select count(*) from store.admin_audit_log").await, 0);
}

#[tokio::test]
async fn policies_are_shown_and_audited() {
    let db = TestDb::create().await;
    set(&db, "'default'", "'generic'", "7, '2 s', '3 min', 0.25")
        .await
        .unwrap();
    set(&db, &format!("'{DEFAULT_TENANT}'"), "'generic'", "8")
        .await
        .unwrap();
    set(&db, "null", "null", "p_jitter => 0").await.unwrap();
    let client = dba(&db).await;
    let shown = client
        .query(
            "select concat_ws(' ', coalesce(tenant, '*'), coalesce(source, '*'), max_attempts, backoff_base, jitter)
               from relayforge.retry_policies order by 1",
            &[],
        )
        .await
        .unwrap();
    let shown: Vec<String> = shown.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        shown,
        ["* * 0", "default generic 8"],
        "the second takes the first one's place"
    );
    let audited = format!(
        "select count(*) from store.admin_audit_log
          where action = 'set_retry_policy' and reason = 'it is agreed'
            and (target, detail->>'max_attempts') in (('retry_policy/{DEFAULT_TENANT}/generic', '7'),
                                                      ('retry_policy/{DEFAULT_TENANT}/generic', '8'))"
    );
    assert_eq!(count(&db, &audited).await, 2);
    let gone = "select relayforge.remove_retry_policy('default', 'generic', 'as before')";
    for there in [true, false] {
        assert_eq!(
            client.query_one(gone, &[]).await.unwrap().get::<_, bool>(0),
            there
        );
    }
}

/// A handler's own wish is honoured whatever the policy says.
#[tokio::test]
async fn a_handlers_retry_after_is_longer_than_a_short_back_off() {
    let db = TestDb::create().await;
    set(
        &db,
        "null",
        "null",
        "p_backoff_base => '1 s', p_backoff_cap => '1 s', p_jitter => 0",
    )
    .await
    .unwrap();
    let job = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0])
        .job_id
        .unwrap();
    let client = consumer(&db).await;
    let mut asked = failure(started(&client, job, 1).await.run, true);
    asked.retry_after = Some(Duration::from_secs(120));
    let before = chrono::Utc::now();
    let failed = fail_jobs(&client, &[asked], &POLICY).await.unwrap();
    about(failed.next_due.map(|due| (due - before).num_milliseconds()), 120);
}
