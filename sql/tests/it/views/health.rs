//! `outbox_backlog`, `queue_health`, `partition_health` and `schema_version`: how the database is.

use sql::CodeVersion;
use sql::testing::TestDb;

use crate::stage::Stage;
use crate::support::{Hook, count, hook, source};

const MINUTE: i64 = 60;

#[tokio::test]
async fn what_waits_for_the_broker_by_target() {
    let db = TestDb::create().await;
    let stage = Stage::from_now(&db).await;
    let empty = [
        "(dlq,0,f,0,0,,)",
        "(events,0,f,0,0,,)",
        "(jobs,0,f,0,0,,)",
        "(retries,0,f,0,0,,)",
    ];
    let backlog = "select target, waiting, estimated, due, failing, oldest_due_at - :day, last_error
                     from relayforge.outbox_backlog order by target";
    assert_eq!(stage.rows(backlog).await, empty);

    // One is refused twice, one once, one is due, one is a retry, one was given up; all of them go to the exchange, too.
    source(&db, "fanned", "event_id", "absorb", true).await;
    let fanned = |id| Hook {
        source: "fanned",
        ..hook(id)
    };
    stage.accept(-9 * MINUTE, &fanned("a")).await;
    stage.publish(-9 * MINUTE, "jobs", Some("nacked")).await;
    stage.accept(-8 * MINUTE, &fanned("b")).await;
    stage.publish(-8 * MINUTE, "jobs", Some("unroutable")).await;
    stage.accept(-7 * MINUTE, &fanned("c")).await;
    let (_, job) = stage.accept(-6 * MINUTE, &fanned("d")).await;
    let run = stage.start(-6 * MINUTE, job, 1).await;
    stage.fail(MINUTE, job, run, true, "no answer").await;
    let (_, job) = stage.accept(-5 * MINUTE, &fanned("e")).await;
    let run = stage.start(-5 * MINUTE, job, 1).await;
    stage.fail(-4 * MINUTE, job, run, false, "no answer").await;
    // The oldest of the refused comes back a little after its refusal, by chance.
    assert_eq!(
        stage
            .rows(&backlog.replace(
                "oldest_due_at - :day",
                "date_trunc('minute', oldest_due_at - :day + '1 min')"
            ))
            .await,
        [
            "(dlq,1,f,1,0,-00:03:00,)",
            "(events,5,f,5,0,-00:08:00,)",
            "(jobs,5,f,5,2,-00:06:00,unroutable)",
            "(retries,1,f,0,0,00:03:00,)",
        ]
    );
}

#[tokio::test]
async fn a_backlog_beyond_a_hundred_thousand_is_estimated() {
    let db = TestDb::create().await;
    let stage = Stage::from_now(&db).await;
    db.owner()
        .await
        .batch_execute(
            "insert into store.outbox_messages (id, target, job_id, event_id, attempt, next_attempt_at)
             select gen_random_uuid(), 'jobs', gen_random_uuid(), gen_random_uuid(), 1, now() - interval '1 hour'
               from generate_series(1, 100001 + 5000);
             analyze store.outbox_messages",
        )
        .await
        .unwrap();
    let backlog = "select target, waiting, estimated, due from relayforge.outbox_backlog where target <> 'events' order by target";
    assert_eq!(
        stage.rows(backlog).await,
        ["(dlq,0,f,0)", "(jobs,105001,t,100001)", "(retries,0,f,0)"]
    );
}

#[tokio::test]
async fn what_slows_the_queues_down_and_who_does_it() {
    let db = TestDb::create().await;
    let stage = Stage::from_now(&db).await;
    let behind = "select outbox_oldest_due_at - :day, date_trunc('minute', outbox_lag),
                         processing, oldest_lease_until - :day, date_trunc('minute', lease_overdue), notify_queue_usage
                    from relayforge.queue_health";
    assert_eq!(stage.rows(behind).await, ["(,00:00:00,0,,00:00:00,0)"]);

    for (second, id) in [(-10 * MINUTE, "a"), (-9 * MINUTE, "b")] {
        let (_, job) = stage.accept(second, &hook(id)).await;
        stage.start(second, job, 1).await;
    }
    let report = db.pool("relayforge_dba").get().await.unwrap();
    report
        .batch_execute(
            "set application_name = 'monthly report';
             begin isolation level repeatable read;
             select 1 from relayforge.traffic limit 1",
        )
        .await
        .unwrap();
    let pid: i32 = report
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    stage.accept(-8 * MINUTE, &hook("c")).await;
    assert_eq!(
        stage.rows(behind).await,
        ["(-00:10:00,00:10:00,2,-00:09:30,00:09:00,0)"]
    );
    // The age counts the transactions of the whole server.
    let held = "select snapshot_age_xids > 0, snapshot_age < interval '1 min', snapshot_holder from relayforge.queue_health";
    let holder = format!("pid {pid}, monthly report, relayforge_dba, idle in transaction");
    assert_eq!(stage.rows(held).await, [format!("(t,t,\"{holder}\")")]);
    report.batch_execute("rollback").await.unwrap();
    // What a queue's churn leaves behind, as the statistics have it.
    stage.publish(0, "jobs", None).await;
    let (_, job) = stage.accept(0, &hook("d")).await;
    let run = stage.start(0, job, 1).await;
    stage.complete(0, job, run).await;
    for client in [&stage.relay, &stage.consumer, &stage.api] {
        client
            .query("select pg_stat_force_next_flush()", &[])
            .await
            .unwrap();
    }
    let dead = "select outbox_dead_rows > 0, open_jobs_dead_rows > 0, outbox_vacuumed_at is null, open_jobs_vacuumed_at is null
                  from relayforge.queue_health";
    assert_eq!(stage.rows(dead).await, ["(t,t,t,t)"]);
    db.owner()
        .await
        .batch_execute("vacuum store.outbox_messages, store.open_jobs")
        .await
        .unwrap();
    assert_eq!(stage.rows(dead).await, ["(f,f,f,f)"]);
}

#[tokio::test]
async fn partitions_with_when_they_go_and_when_they_run_out() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    stage
        .dba
        .query(
            "select relayforge.configure_upkeep(null, 3, 5, '1 day', '1 day', null)",
            &[],
        )
        .await
        .unwrap();
    stage.accept(0, &hook("a")).await;
    db.owner()
        .await
        .batch_execute("analyze store.webhook_inbox")
        .await
        .unwrap();
    let states = "select table_name, state, count(*), sum(rows), min(from_at) - :day, max(to_at) - :day,
                         bool_and(dropped_from = to_at + case table_name when 'webhook_inbox' then interval '3 days' else '5 days' end),
                         min(runs_out_at) - :day, max(runs_out_at) - :day, bool_and(bytes > 0),
                         bool_and(partition = table_name || '_p' || to_char(from_at at time zone 'UTC', 'YYYYMMDD'))
                    from relayforge.partition_health
                   group by table_name, state order by table_name, state desc";
    let expected: Vec<String> = ["job_log", "jobs", "webhook_inbox"]
        .iter()
        .flat_map(|table| {
            let rows = i32::from(*table == "webhook_inbox");
            [
                format!("({table},past,1,0,\"-1 days\",00:00:00,t,\"15 days\",\"15 days\",t,t)"),
                format!("({table},current,1,{rows},00:00:00,\"1 day\",t,\"15 days\",\"15 days\",t,t)"),
                format!("({table},ahead,14,0,\"1 day\",\"15 days\",t,\"15 days\",\"15 days\",t,t)"),
            ]
        })
        .collect();
    assert_eq!(stage.rows(states).await, expected);
    let newest = count(
        &db,
        "select count(*) from pg_inherits where inhparent = 'store.jobs'::regclass",
    )
    .await;
    assert_eq!(newest, 16, "all of them are shown");
}

#[tokio::test]
async fn the_version_is_that_of_the_binary_that_migrated() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    let code = CodeVersion::built_in();
    let newest = count(
        &db,
        "select max(version)::bigint from store.refinery_schema_history",
    )
    .await;
    assert_eq!(
        stage
            .rows("select epoch, fingerprint, migration from relayforge.schema_version")
            .await,
        [format!("({},{},{newest})", code.epoch, code.fingerprint)]
    );
}
