//! `relayforge-perf database`: every table of its report is filled, and its databases are gone afterwards. No figure is
//! judged here: on a test server they mean nothing.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use perf::config::DatabaseArgs;
use perf::database::{Cell, run};
use sql::{Secret, pool};

/// A run that is as small as it can be.
fn arguments(server: &str) -> DatabaseArgs {
    DatabaseArgs {
        database_url: Secret::from_str(server).unwrap(),
        jobs: 2_000,
        only: Vec::new(),
        keep: false,
        reuse: None,
        with: Some("create index perf_idx on webhook_inbox using hash (body_sha256)".to_owned()),
        undo: Some("drop index perf_idx".to_owned()),
        webhooks: 40,
        lifecycles: 300,
        messages: 1_000,
        through: 300,
        json: None,
        plans: None,
    }
}

#[tokio::test]
async fn every_table_of_the_report_is_filled_and_nothing_is_left() {
    let server = sql::testing::server_url().await;
    let report = run(&arguments(server.as_str())).await.unwrap();
    let rows: BTreeMap<&str, usize> = report
        .sections
        .iter()
        .map(|section| (section.name, section.rows.len()))
        .collect();
    for (name, least) in [
        ("views", 13),
        ("ingest", 5),
        ("change", 2),
        ("hot", 4),
        ("bytes", 8),
        ("claims", 2),
        ("dead", 3),
        ("hot_full", 2),
        ("settings", 10),
    ] {
        assert!(rows.get(name) >= Some(&least), "{name} of {rows:?}");
    }
    for section in &report.sections {
        for row in &section.rows {
            assert_eq!(row.len(), section.columns.len(), "{}: {row:?}", section.title);
            let missing = |cell: &Cell| matches!(cell, Cell::Figure(figure, _) if !figure.is_finite());
            assert!(!row.iter().any(missing), "{}: {row:?}", section.title);
        }
    }
    // Questions about data find some, or they would be answered fast for the wrong reason.
    let views = report
        .sections
        .iter()
        .find(|section| section.name == "views")
        .unwrap();
    for row in &views.rows {
        let question = format!("{} {}", row[0], row[1]);
        let may_be_none = ["idle", "small", "hour of", "lately"]
            .iter()
            .any(|word| question.contains(word));
        assert!(
            may_be_none || matches!(row[2], Cell::Figure(found, _) if found > 0.0),
            "{row:?}"
        );
    }
    assert!(
        report.goals.iter().all(|goal| goal.found.is_finite()),
        "{:?}",
        report.goals
    );
    assert!(report.goals.len() > 20, "{:?}", report.goals);

    let url = Secret::from_str(server.as_str()).unwrap();
    let client = pool::connect_one(&url, "relayforge-test").await.unwrap();
    let name = format!("relayforge_perf_{}%", std::process::id());
    let left: i64 = client
        .query_one("select count(*) from pg_database where datname like $1", &[&name])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_database_of_somebody_elses_is_not_touched() {
    let server = sql::testing::server_url().await;
    let error = run(&DatabaseArgs {
        reuse: Some("postgres".to_owned()),
        ..arguments(server.as_str())
    })
    .await
    .unwrap_err();
    assert!(
        format!("{error:#}").contains("not the name of a database for measurements"),
        "{error:#}"
    );
}
