//! Tenants and sources: what the schema refuses, by name.

use sql::DbError;
use sql::config::create_tenant;
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::owner;

/// A slug that reads as an id could name two tenants: its own, and the one with that id.
#[tokio::test]
async fn a_slug_is_short_lower_case_and_no_id() {
    let db = TestDb::create().await;
    let client = owner(&db).await;
    let id = Uuid::now_v7();
    let long = "x".repeat(64);
    for slug in [
        "",
        "Acme",
        "a b",
        "a/b",
        "ä",
        &long,
        &id.to_string(),
        &id.simple().to_string(),
    ] {
        let error = create_tenant(&client, slug, "Acme", None).await.unwrap_err();
        assert!(matches!(error, DbError::Invalid(_)), "{slug}: {error}");
    }
    for slug in ["a", "acme-2_eu", &long[1..], &id.to_string()[1..]] {
        create_tenant(&client, slug, "Acme", None).await.unwrap();
    }
}

#[tokio::test]
async fn values_that_are_not_documented_are_refused() {
    let db = TestDb::create().await;
    let owner = db.owner().await;
    for change in [
        "update store.tenants set quota_policy = 'drop'",
        "update store.tenants set daily_quota = -1",
        "update store.tenants set status = 'gone'",
        "update store.sources set replay_policy = 'ask'",
        "update store.sources set dedup = 'sometimes'",
    ] {
        let error = DbError::from(owner.batch_execute(change).await.unwrap_err());
        assert!(matches!(error, DbError::Invalid(_)), "{change}: {error}");
    }
}
