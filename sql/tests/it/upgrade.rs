//! Migrating beside those who use the database.

use sql::migrate::{Migrated, migrate};
use sql::testing::TestDb;

use crate::support::{count, until_somebody_waits};

const WAITING: &str = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
                        where not l.granted and a.datname = current_database()";

/// Whoever holds a table that a migration changes has everybody wait who comes behind the migration: it gives up after
/// two seconds, lets them pass, and tries again.
#[tokio::test]
async fn a_migration_waits_in_short_tries() {
    let db = TestDb::create().await;
    let reader = db.owner().await;
    reader
        .batch_execute("begin; lock table store.refinery_schema_history in access exclusive mode")
        .await
        .unwrap();
    let config = db.migrate_config();
    let migration = tokio::spawn(async move { migrate(&config).await });
    until_somebody_waits(&db).await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while count(&db, WAITING).await > 0 {
        assert!(std::time::Instant::now() < until, "it does not give up");
    }
    assert!(!migration.is_finished(), "it tries again");
    reader.batch_execute("rollback").await.unwrap();
    let migrated = migration.await.unwrap().unwrap();
    assert!(
        matches!(migrated, Migrated::Done { migrations: 0, .. }),
        "{migrated:?}"
    );
}
