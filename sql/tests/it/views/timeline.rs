//! `event_timeline` and `replays`: the story of an event, whatever became of it and of the partitions it was in.

use sql::testing::TestDb;
use uuid::Uuid;

use crate::stage::Stage;
use crate::support::{Hook, hook, stripe, tenant};

/// Seconds, what, attempt and detail of one event, in the order that the view's comment tells to ask for.
async fn timeline(stage: &Stage, event: Uuid) -> Vec<String> {
    stage
        .rows(&format!(
            "select extract(epoch from at - :day)::integer as s, what, attempt, detail
               from relayforge.event_timeline
              where event_id = '{event}'
              order by at, step"
        ))
        .await
}

/// How an interval of seconds of the day is written inside of a detail.
fn time(stage: &Stage, second: i64) -> String {
    stage.at(second).format("%Y-%m-%d %H:%M:%S+00").to_string()
}

/// An event of tenant acme: delivered, delivered again with another body, replayed twice, failed once.
async fn first_attempt(db: &TestDb, stage: &Stage) -> (Uuid, Uuid) {
    let acme = tenant(db, "acme", None).await;
    let event_1 = |signed_at| Hook {
        tenant: acme,
        ..stripe("evt_1", signed_at)
    };
    let (event, job) = stage.accept(0, &event_1(100)).await;
    let retry = Hook {
        body: b"{\"again\":true}".to_vec(),
        ..event_1(200)
    };
    assert_eq!(stage.deliver(1, &retry).await.0, "duplicate");
    assert_eq!(stage.deliver(2, &event_1(150)).await.0, "replay");
    assert_eq!(stage.deliver(3, &event_1(200)).await.0, "replay");
    stage.publish(4, "jobs", None).await;
    let run = stage.start(5, job, 1).await;
    let lease = format!("run {run}, its lease lasts until {}", time(stage, 35));
    assert_eq!(
        timeline(stage, event).await[5..],
        [format!("(5,started,1,\"{lease}\")")]
    );
    stage.fail(6, job, run, true, "no answer").await;
    (event, job)
}

/// Held, released, given up, reprocessed, succeeded; then erased.
async fn to_the_end(stage: &Stage, event: Uuid, job: Uuid) {
    assert_eq!(stage.verb(7, "hold_jobs", job, "let me look").await, "held");
    assert_eq!(stage.verb(8, "release_jobs", job, "go on").await, "released");
    stage.publish(9, "retries", None).await;
    let run = stage.start(10, job, 2).await;
    stage.fail(11, job, run, false, "no such order").await;
    assert_eq!(
        stage.verb(12, "reprocess_jobs", job, "it exists now").await,
        "reprocessed"
    );
    assert_eq!(
        timeline(stage, event).await[8..],
        [
            "(9,published,2,)",
            "(10,started,2,)",
            "(11,failed,2,\"no such order\")",
            "(11,dead,2,\"permanent: no such order\")",
            "(12,reprocessed,2,\"ana: it exists now\")",
        ],
        "the third attempt has not begun"
    );
    stage.publish(13, "retries", None).await;
    let run = stage.start(14, job, 3).await;
    stage.complete(15, job, run).await;
    assert_eq!(stage.verb(16, "cancel_jobs", job, "too late").await, "final");
    assert_eq!(stage.erase(17, event).await, 2);
}

#[tokio::test]
async fn a_story_from_the_first_delivery_to_its_erasure() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    stage.dba.batch_execute("set timezone = 'UTC'").await.unwrap();
    let (event, job) = first_attempt(&db, &stage).await;
    let since = format!("refused 2 times since {}", time(&stage, 2));
    assert_eq!(
        timeline(&stage, event).await,
        [
            "(0,received,,\"correlation id test\")",
            "(0,queued,,\"as a job of kind log\")",
            "(1,duplicate,,\"its body differs\")",
            &format!("(3,replay,,\"{since}\")"),
            "(4,published,1,)",
            "(5,started,1,)",
            "(6,failed,1,\"no answer\")",
            "(66,due,2,retrying)",
        ]
    );
    to_the_end(&stage, event, job).await;
    assert_eq!(
        timeline(&stage, event).await,
        [
            "(0,received,,\"correlation id test\")",
            "(0,queued,,\"as a job of kind log\")",
            "(1,duplicate,,)",
            &format!("(3,replay,,\"{since}\")"),
            "(4,published,1,)",
            "(6,failed,1,erased)",
            "(7,held,2,\"ana: let me look\")",
            "(8,released,2,\"ana: go on\")",
            "(9,published,2,)",
            "(11,failed,2,erased)",
            "(11,dead,2,erased)",
            "(12,reprocessed,2,\"ana: it exists now\")",
            "(13,published,3,)",
            "(14,started,3,)",
            "(15,succeeded,3,)",
            "(17,erased,,)",
        ]
    );
    for (query, row) in [
        (
            "select distinct tenant, source, provider_event_id, event_id, job_id from relayforge.event_timeline",
            format!("(acme,stripe,evt_1,{event},{job})"),
        ),
        (
            "select relayforge.event_of('acme', 'stripe', 'evt_1')",
            format!("({event})"),
        ),
        (
            "select tenant, source, provider_event_id, event_id, times, first_at - :day, last_at - :day from relayforge.replays",
            format!("(acme,stripe,evt_1,{event},2,00:00:02,00:00:03)"),
        ),
    ] {
        assert_eq!(stage.rows(query).await, [row]);
    }
}

#[tokio::test]
async fn what_happens_within_a_millisecond_is_in_order_too() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    let (event, job) = stage.accept(0, &hook("a")).await;
    stage.publish(0, "jobs", None).await;
    let run = stage.start(0, job, 1).await;
    stage.fail(0, job, run, false, "no").await;
    stage.verb(0, "reprocess_jobs", job, "yes").await;
    stage.publish(0, "retries", None).await;
    let run = stage.start(0, job, 2).await;
    stage.complete(0, job, run).await;
    stage.deliver(0, &hook("a")).await;
    assert_eq!(
        timeline(&stage, event).await,
        [
            "(0,received,,\"correlation id test\")",
            "(0,queued,,\"as a job of kind log\")",
            "(0,duplicate,,)",
            "(0,published,1,)",
            "(0,failed,1,no)",
            "(0,dead,1,\"permanent: no\")",
            "(0,reprocessed,1,\"ana: yes\")",
            "(0,published,2,)",
            "(0,started,2,)",
            "(0,succeeded,2,)",
        ]
    );
    // A time of the clock has microseconds, an id has not: they must not be told apart by that.
    let finer = "select 1 from relayforge.event_timeline where at <> date_trunc('milliseconds', at)";
    assert!(stage.rows(finer).await.is_empty());
}

#[tokio::test]
async fn a_lost_run_a_held_quota_and_an_erasure_of_open_work() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    let (event, job) = stage.accept(0, &hook("a")).await;
    let run = stage.start(1, job, 1).await;
    stage.sweep(60, 5).await;
    assert_eq!(stage.erase(61, event).await, 1);
    assert_eq!(
        timeline(&stage, event).await[2..],
        [
            "(1,started,1,)".to_owned(),
            format!("(60,rescued,1,\"the lease of run {run} ran out\")"),
            "(61,erased,,)".to_owned(),
            "(61,cancelled,1,\"its event was erased\")".to_owned(),
        ]
    );
    // The provider sends it again: known, and not stored anew.
    let other_body = Hook {
        body: b"{}".to_vec(),
        ..hook("a")
    };
    assert_eq!(stage.deliver(62, &other_body).await.0, "duplicate");
    assert_eq!(timeline(&stage, event).await.last().unwrap(), "(62,duplicate,,)");

    let small = tenant(&db, "small", Some(0)).await;
    db.owner()
        .await
        .batch_execute("update store.tenants set daily_quota = 1, quota_policy = 'hold' where slug = 'small'")
        .await
        .unwrap();
    let of_small = |id| Hook {
        tenant: small,
        ..hook(id)
    };
    stage.accept(63, &of_small("b")).await;
    let (event, _) = stage.accept(64, &of_small("c")).await;
    assert_eq!(
        timeline(&stage, event).await[2..],
        ["(86400,due,1,held)"],
        "held until midnight"
    );
}

/// What upkeep drops on the day after the stage's, a partition at a time.
async fn drop_old(db: &TestDb, stage: &Stage, inbox_days: i32, jobs_days: i32) -> Option<String> {
    let query = "select relayforge.drop_old_partition($1, $2, array['webhook_inbox', 'jobs', 'job_log'], $3)";
    let day_after = stage.at(86_400 * 2);
    db.owner()
        .await
        .query_one(query, &[&inbox_days, &jobs_days, &day_after])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn an_event_outlives_its_delivery() {
    let db = TestDb::create().await;
    let stage = Stage::of_yesterday(&db).await;
    let (event, job) = stage.accept(0, &hook("a")).await;
    let run = stage.start(1, job, 1).await;
    stage.complete(2, job, run).await;
    let (_, dead) = stage.accept(3, &hook("b")).await;
    let run = stage.start(4, dead, 1).await;
    stage.fail(5, dead, run, false, "no").await;

    let dropped = drop_old(&db, &stage, 1, 2).await.unwrap();
    assert!(dropped.starts_with("webhook_inbox_p"), "{dropped}");
    assert_eq!(drop_old(&db, &stage, 1, 2).await, None);
    assert_eq!(
        timeline(&stage, event).await,
        [
            "(0,received,,\"its delivery is past its retention\")",
            "(0,queued,,\"as a job of kind log\")",
            "(1,started,1,)",
            "(2,succeeded,1,)",
        ]
    );
    let known = format!(
        "select distinct provider_event_id from relayforge.event_timeline where event_id = '{event}'"
    );
    assert_eq!(stage.rows(&known).await, ["(a)"], "from the dedup key");
    let jobs = "select status, attempts from relayforge.job_overview order by job_id";
    assert_eq!(stage.rows(jobs).await, ["(succeeded,1)", "(dead_lettered,1)"]);
    let again = stage.verb(6, "reprocess_jobs", dead, "again").await;
    assert_eq!(again, "no_event");
}

#[tokio::test]
async fn a_dead_letter_outlives_its_job_until_upkeep_comes_by() {
    let db = TestDb::create().await;
    let stage = Stage::of_yesterday(&db).await;
    let (event, job) = stage.accept(3, &hook("b")).await;
    let run = stage.start(4, job, 1).await;
    stage.fail(5, job, run, false, "no").await;
    for table in ["job_log_p", "jobs_p", "webhook_inbox_p"] {
        let dropped = drop_old(&db, &stage, 1, 1).await.unwrap();
        assert!(dropped.starts_with(table), "{dropped}");
    }
    assert!(timeline(&stage, event).await.is_empty());
    let jobs = "select * from relayforge.job_overview";
    assert!(stage.rows(jobs).await.is_empty());
    let known = "select relayforge.event_of('default', 'generic', 'b')";
    assert_eq!(stage.rows(known).await, [format!("({event})")]);
    let dead = "select job_id, tenant, source, event_type, cause, dead_at - :day, attempts, last_error, event_id, correlation_id
                  from relayforge.dead_letters";
    assert_eq!(
        stage.rows(dead).await,
        [format!("({job},default,generic,,permanent,00:00:05,,,,)")]
    );
    stage
        .dba
        .query("select relayforge.upkeep_step('dead_jobs')", &[])
        .await
        .unwrap();
    assert!(stage.rows(dead).await.is_empty());
}
