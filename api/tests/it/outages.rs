//! The database away, frozen, not migrated, coming late; and the end of the process.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use sql::testing::TestDb;
use sql::testing::proxy::Proxy;

use crate::app::{App, answer, problem, wait_until};

const DEADLINE: Duration = Duration::from_millis(1500);
const SETTINGS: &[(&str, &str)] = &[("INGEST__DEADLINE_MS", "1500")];

async fn behind_proxy() -> (App, Proxy) {
    let db = TestDb::create().await;
    let proxy = Proxy::before(db.url("relayforge_api").expose(), 5432).await;
    let app = App::start_at(db, proxy.url(), SETTINGS);
    (app.ready().await, proxy)
}

/// An accepted event, once the database is back; a retry of what was answered 503 may be a duplicate.
async fn recovers(app: &App, id: &str) {
    wait_until("webhooks are accepted again", async || {
        app.generic(id).send().await.unwrap().status() == StatusCode::ACCEPTED
    })
    .await;
    wait_until("it is ready again", async || {
        app.get("/readyz").await.status() == StatusCode::OK
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_webhooks_are_503_and_then_202_again() {
    let (app, proxy) = behind_proxy().await;
    assert_eq!(answer(app.generic("before")).await.0, StatusCode::ACCEPTED);
    proxy.shut(true);
    let refused = problem(app.generic("during"), 503, "unavailable").await;
    assert!(
        !refused["detail"].as_str().unwrap().contains("127.0.0.1"),
        "no address goes out: {refused}"
    );
    problem(app.generic("during"), 503, "unavailable").await;
    assert_eq!(app.get("/healthz").await.status(), StatusCode::OK);
    wait_until("it is not ready", async || {
        app.get("/readyz").await.status() == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let metrics = app.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("ingest_breaker_open 1"), "{metrics}");
    proxy.shut(false);
    recovers(&app, "during").await;
    assert_eq!(app.count("select count(*) from store.jobs").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_is_noticed_within_the_deadline() {
    let (app, proxy) = behind_proxy().await;
    assert_eq!(answer(app.generic("before")).await.0, StatusCode::ACCEPTED);
    proxy.stall(true);
    let asked = Instant::now();
    let waiting: Vec<_> = (0..10)
        .map(|i| tokio::spawn(app.generic(&format!("frozen-{i}")).send()))
        .collect();
    for answer in waiting {
        assert_eq!(
            answer.await.unwrap().unwrap().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert!(asked.elapsed() < DEADLINE * 3, "{:?}", asked.elapsed());
    // From now on the breaker answers: nothing waits for the database any more.
    problem(app.generic("breaker"), 503, "unavailable").await;
    proxy.stall(false);
    recovers(&app, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_a_database_and_without_a_schema() {
    let db = TestDb::create_empty().await;
    let migrate = db.migrate_config();
    let proxy = Proxy::before(db.url("relayforge_api").expose(), 5432).await;
    proxy.shut(true);
    let app = App::start_at(db, proxy.url(), SETTINGS);
    problem(app.generic("early"), 503, "unavailable").await;
    let report: serde_json::Value = app.get("/readyz").await.json().await.unwrap();
    assert_eq!(report["status"], "not_ready", "{report}");
    proxy.shut(false);
    // The roles may be there from another database of this server, the schema is not.
    wait_until("it says what is missing", async || {
        let report: serde_json::Value = app.get("/readyz").await.json().await.unwrap();
        report["checks"]["schema"]
            .as_str()
            .is_some_and(|why| why.contains("relayforge-migrate"))
    })
    .await;
    sql::migrate::migrate(&migrate).await.unwrap();
    recovers(&app, "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_costs_no_webhook() {
    let app = App::start().await.ready().await;
    for round in 0..5 {
        assert_eq!(
            answer(app.generic(&format!("a{round}"))).await.0,
            StatusCode::ACCEPTED
        );
        app.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
              where usename = 'relayforge_api' and datname = current_database()",
        )
        .await;
        recovers(&app, &format!("b{round}")).await;
    }
    assert_eq!(app.count("select count(*) from store.jobs").await, 10);
}

/// What a demoted primary looks like: it answers, and takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_an_outage() {
    let app = App::start().await.ready().await;
    let read_only = |value: &str| {
        format!(
            "do $$ begin execute format('alter role relayforge_api in database %I set default_transaction_read_only = {value}',
                                        current_database()); end $$;
             select pg_terminate_backend(pid) from pg_stat_activity
              where usename = 'relayforge_api' and datname = current_database()"
        )
    };
    app.execute(&read_only("on")).await;
    wait_until("it is not ready", async || {
        app.get("/readyz").await.status() == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    problem(app.generic("during"), 503, "unavailable").await;
    app.execute(&read_only("off")).await;
    recovers(&app, "after").await;
}

/// Nobody has made the partition: an operator's mistake, to be told apart from a webhook that can't be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_partition_is_an_outage() {
    let app = App::start().await.ready().await;
    let today = chrono::Utc::now().format("%Y%m%d");
    app.execute(&format!(
        "alter table store.webhook_inbox detach partition store.webhook_inbox_p{today}"
    ))
    .await;
    problem(app.generic("during"), 503, "unavailable").await;
    app.execute(&format!(
        "do $$ begin execute format(
           'alter table store.webhook_inbox attach partition store.webhook_inbox_p{today} for values from (%L) to (%L)',
           relayforge.uuid7_floor(date_trunc('day', now(), 'UTC')),
           relayforge.uuid7_floor(date_trunc('day', now(), 'UTC') + interval '1 day')); end $$"
    ))
    .await;
    recovers(&app, "during").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_in_flight() {
    let mut app = App::start().await.ready().await;
    let requests: Vec<_> = (0..50)
        .map(|i| tokio::spawn(answer(app.generic(&format!("{i}")))))
        .collect();
    wait_until("some have arrived", async || {
        app.count("select count(*) from store.jobs").await > 0
    })
    .await;
    let owner = app.owner().await;
    app.end().await.unwrap();
    let mut accepted = 0;
    for request in requests {
        // Refused connections are no promise; a 202 is.
        if let Ok((status, body)) = request.await {
            assert!(
                status == StatusCode::ACCEPTED || status == StatusCode::SERVICE_UNAVAILABLE,
                "{status} {body}"
            );
            accepted += i64::from(status == StatusCode::ACCEPTED);
        }
    }
    let jobs: i64 = owner
        .query_one("select count(*) from store.jobs", &[])
        .await
        .unwrap()
        .get(0);
    assert!(
        jobs >= accepted && accepted > 0,
        "{accepted} accepted, {jobs} jobs"
    );
}
