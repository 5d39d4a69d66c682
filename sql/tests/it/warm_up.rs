//! Connections that are ready before they are needed.

use sql::testing::TestDb;
use sql::warm_up::{Calls, warm_up};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn each_role_opens_its_connections_and_leaves_nothing_behind() {
    let db = TestDb::create().await;
    for (role, calls) in [
        ("relayforge_api", Calls::Ingest),
        ("relayforge_relay", Calls::Relay),
        ("relayforge_consumer", Calls::Consumer),
    ] {
        let pool = db.pool(role);
        warm_up(pool.clone(), 3, calls, CancellationToken::new()).await;
        let status = pool.status();
        assert_eq!((status.size, status.available), (3, 3), "{role}");
    }
    let owner = db.owner().await;
    for table in [
        "webhook_inbox",
        "jobs",
        "outbox_messages",
        "tenant_daily_quota_usage",
        "job_log",
        "dedup_ledger",
    ] {
        let rows: i64 = owner
            .query_one(&format!("select count(*) from store.{table}"), &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn a_pool_of_fewer_connections_opens_all_but_one() {
    let db = TestDb::create().await;
    let pool = db.pool("relayforge_relay");
    pool.resize(3);
    warm_up(pool.clone(), 5, Calls::Relay, CancellationToken::new()).await;
    assert_eq!((pool.status().size, pool.status().available), (2, 2));
}

#[tokio::test]
async fn a_database_that_is_not_migrated_is_waited_for_until_the_stop() {
    let db = TestDb::create_empty().await;
    let stop = CancellationToken::new();
    let pool = db.pool("owner");
    let waiting = tokio::spawn(warm_up(pool, 2, Calls::Relay, stop.clone()));
    tokio::task::yield_now().await;
    stop.cancel();
    waiting.await.unwrap();
}
