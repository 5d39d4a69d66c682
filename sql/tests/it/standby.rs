//! The DBA's views on a physical standby, where reports belong; and a standby that takes over. On servers of its own, in
//! a folder that goes with the test.

use std::time::{Duration, Instant};

use sql::migrate::{MigrateConfig, migrate};
use sql::testing::server::{OLDEST, Server, programs};
use sql::{DatabaseConfig, DbError, GenericClient as _, Pool, pool};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::stage::Stage;
use crate::support::{DEFAULT_TENANT, hook, stripe};

/// How long a standby may take to catch up, and to take over.
const PATIENCE: Duration = Duration::from_secs(10);

fn pool_of(server: &Server, role: &str) -> Pool {
    let config = DatabaseConfig {
        url: server.url(role),
        max_connections: 4,
    };
    pool::connect(&config, "relayforge-test").unwrap()
}

async fn set_up(server: &Server) {
    let config = MigrateConfig {
        url: server.url("postgres"),
        api_password: Some(server.password()),
        relay_password: Some(server.password()),
        consumer_password: Some(server.password()),
        dba_password: Some(server.password()),
    };
    migrate(&config).await.unwrap();
}

/// Something for every view to show.
async fn arrange(owner: &Client, stage: &Stage) {
    owner
        .query(
            "select relayforge.add_secret(relayforge.uuid7(clock_timestamp(), 0), $1, 'generic', $2, '0123456789abcdef')",
            &[&DEFAULT_TENANT, &vec![0_u8; 40]],
        )
        .await
        .unwrap();
    owner
        .query(
            "select relayforge.set_retry_policy('default', 'stripe', 'they are slow', 9)",
            &[],
        )
        .await
        .unwrap();
    let (_, job) = stage.accept(0, &stripe("evt_1", 100)).await;
    stage.deliver(1, &stripe("evt_1", 100)).await;
    stage.publish(2, "jobs", None).await;
    let run = stage.start(3, job, 1).await;
    stage.fail(4, job, run, false, "no such order").await;
    let (_, job) = stage.accept(5, &hook("a")).await;
    stage.start(6, job, 1).await;
    let (_, job) = stage.accept(7, &hook("b")).await;
    stage.verb(8, "hold_jobs", job, "let me look").await;
    let counts = [
        "relayforge.record_rejections(array['invalid_payload'], array['generic'], array[$1::uuid], array[1::bigint])",
        "relayforge.record_traffic(array[$1::uuid], array['generic'], array['accepted'], array[1::bigint])",
    ];
    for count in counts {
        stage
            .api
            .query(&format!("select {count}"), &[&DEFAULT_TENANT])
            .await
            .unwrap();
    }
    sql::outbox::relay_sleep(&stage.relay, Uuid::now_v7(), chrono::Utc::now())
        .await
        .unwrap();
}

/// Until the standby has replayed all that the primary has written.
async fn catch_up(primary: &Client, standby: &Client) {
    let position = primary
        .query_one("select pg_current_wal_lsn()::text", &[])
        .await
        .unwrap()
        .get::<_, String>(0);
    let replayed = "select coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
    let deadline = Instant::now() + PATIENCE;
    while !standby
        .query_one(replayed, &[&position])
        .await
        .unwrap()
        .get::<_, bool>(0)
    {
        assert!(Instant::now() < deadline, "{position} is not replayed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The rows of the views, but for columns that depend on the server or on when they are asked.
async fn shown(stage: &Stage) -> Vec<(String, Vec<String>)> {
    let views = stage
        .rows(
            "select c.relname from pg_class c
              where c.relnamespace = 'relayforge'::regnamespace and c.relkind = 'v' order by 1",
        )
        .await;
    assert!(views.len() > 10, "{views:?}");
    let mut all = Vec::new();
    for view in views {
        let name = view.trim_matches(['(', ')']).to_owned();
        let of_the_server = "array['outbox_dead_rows', 'outbox_vacuumed_at', 'open_jobs_dead_rows', 'open_jobs_vacuumed_at',
                                   'snapshot_age_xids', 'snapshot_age', 'snapshot_holder', 'outbox_lag', 'lease_overdue']";
        let rows = stage
            .rows(&format!(
                "select (to_jsonb(v) - {of_the_server})::text from relayforge.{name} v order by 1"
            ))
            .await;
        all.push((name, rows));
    }
    all
}

#[tokio::test]
async fn every_view_answers_on_a_standby_which_can_take_over() {
    let Some(programs) = programs() else {
        eprintln!(
            "SKIPPED: views on a standby. It needs initdb, postgres and pg_basebackup {OLDEST} or newer in PATH or \
             /usr/lib/postgresql/*/bin"
        );
        return;
    };
    let mut primary = Server::initialise(&programs);
    primary.start().await;
    set_up(&primary).await;
    let mut standby = primary.back_up();
    standby.start().await;
    let stage = Stage::on(|role| pool_of(&primary, role)).await.a_day_earlier();
    let (owner, superuser) = (primary.superuser().await, standby.superuser().await);
    arrange(&owner, &stage).await;
    catch_up(&owner, &superuser).await;

    let replica = Stage::on(|role| pool_of(&standby, role)).await.a_day_earlier();
    let (there, here) = (shown(&replica).await, shown(&stage).await);
    assert_eq!(there, here);
    for (view, rows) in there {
        // Its rows are of the last day; these are a day older.
        assert_eq!(rows.is_empty(), view == "suspected_replays", "{view}");
    }
    for reads in [
        "select relayforge.event_of('default', 'stripe', 'evt_1')",
        "select relayforge.partitions_end()",
        "select relayforge.list_partitions()",
        "select relayforge.inspect_queue()",
        "select relayforge.schema_code()",
    ] {
        assert!(!replica.rows(reads).await.is_empty(), "{reads}");
    }
    for writes in [
        "call relayforge.maintain()",
        "select relayforge.cancel_jobs(array[gen_random_uuid()], 'a test')",
        "select relayforge.erase_event(relayforge.event_of('default', 'stripe', 'evt_1'), 'a test')",
    ] {
        let error = replica.dba.batch_execute(writes).await.unwrap_err();
        assert_eq!(
            error.code(),
            Some(&SqlState::READ_ONLY_SQL_TRANSACTION),
            "{writes}: {error:?}"
        );
    }
    // A service that is led to a standby says so, and stores nothing.
    let pool = pool_of(&standby, "relayforge_api");
    let ping = sql::operators::ping(&pool).await.unwrap_err();
    assert!(matches!(ping, DbError::Unavailable(_)), "{ping}");

    a_report_there_is_named_here(&replica, &stage).await;
    take_over(&superuser, &replica).await;
}

/// With `hot_standby_feedback` a report on the standby keeps dead rows of the primary alive: the primary says who it is.
async fn a_report_there_is_named_here(replica: &Stage, stage: &Stage) {
    let report = "begin isolation level repeatable read; select 1 from relayforge.traffic limit 1";
    replica.dba.batch_execute(report).await.unwrap();
    let holder = "select snapshot_holder like 'standby walreceiver, pid %' from relayforge.queue_health";
    let deadline = Instant::now() + PATIENCE;
    while stage.rows(holder).await != ["(t)"] {
        assert!(
            Instant::now() < deadline,
            "the primary does not see the standby's report"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    replica.dba.batch_execute("rollback").await.unwrap();
}

/// The standby becomes the primary: what was committed is there, relays that slept are forgotten, and work goes on.
async fn take_over(superuser: &Client, replica: &Stage) {
    let promoted = superuser.query_one("select pg_promote()", &[]).await.unwrap();
    assert!(promoted.get::<_, bool>(0));
    let sleepers = superuser
        .query("select 1 from store.relay_sleepers", &[])
        .await
        .unwrap();
    assert!(sleepers.is_empty(), "the table is not replicated");
    assert_eq!(replica.deliver(8, &hook("a")).await.0, "duplicate");
    let (_, job) = replica.accept(9, &hook("c")).await;
    replica.publish(10, "jobs", None).await;
    let run = replica.start(11, job, 1).await;
    replica.complete(12, job, run).await;
    let state = format!("select status from relayforge.job_overview where job_id = '{job}'");
    assert_eq!(replica.rows(&state).await, ["(succeeded)"]);
}
