//! What each view shows, row by row, of a state that the real functions have made; read as the DBA's role.

mod counts;
mod health;
mod jobs;
mod timeline;

use sql::testing::TestDb;

/// A view without a test here is a view that nobody has looked at.
#[tokio::test]
async fn every_view_has_a_test() {
    let tests = [
        include_str!("audit.rs"),
        include_str!("policies.rs"),
        include_str!("views/counts.rs"),
        include_str!("views/health.rs"),
        include_str!("views/jobs.rs"),
        include_str!("views/timeline.rs"),
    ]
    .concat();
    let db = TestDb::create().await;
    let views = db
        .owner()
        .await
        .query(
            "select c.relname::text from pg_class c
              where c.relnamespace = 'relayforge'::regnamespace and c.relkind = 'v'",
            &[],
        )
        .await
        .unwrap();
    assert!(!views.is_empty());
    for view in views {
        let name: String = view.get(0);
        assert!(
            tests.contains(&format!("relayforge.{name}")),
            "no test reads {name}"
        );
    }
}
