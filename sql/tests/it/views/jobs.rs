//! `job_overview`, `dead_letters` and `stuck_jobs`: jobs in each state, given up for each cause, waiting for each thing.

use sql::testing::TestDb;
use uuid::Uuid;

use crate::stage::Stage;
use crate::support::hook;

const MINUTE: i64 = 60;

/// A job for a new event of that id.
async fn job(stage: &Stage, second: i64, id: &str) -> Uuid {
    stage.accept(second, &hook(id)).await.1
}

/// A job that has failed its first attempt for good.
async fn dead_job(stage: &Stage, second: i64, id: &str) -> Uuid {
    let job = job(stage, second, id).await;
    let run = stage.start(second, job, 1).await;
    stage.fail(second, job, run, false, "no such order").await;
    job
}

#[tokio::test]
async fn the_overview_shows_each_state_and_counts_the_runs_that_began() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    job(&stage, 0, "queued").await;

    let processing = job(&stage, 1, "processing").await;
    stage.start(2, processing, 1).await;

    let retrying = job(&stage, 2, "retrying").await;
    let run = stage.start(3, retrying, 1).await;
    stage.fail(4, retrying, run, true, "no answer").await;

    let held = job(&stage, 3, "held").await;
    let run = stage.start(4, held, 1).await;
    stage.fail(5, held, run, true, "no answer").await;
    stage.verb(6, "hold_jobs", held, "let me look").await;

    let succeeded = job(&stage, 4, "succeeded").await;
    let run = stage.start(5, succeeded, 1).await;
    stage.complete(6, succeeded, run).await;

    dead_job(&stage, 5, "dead").await;

    let cancelled = job(&stage, 6, "cancelled").await;
    stage.verb(7, "cancel_jobs", cancelled, "a test").await;

    let again = dead_job(&stage, 7, "again").await;
    stage.verb(8, "reprocess_jobs", again, "it exists now").await;

    let failed_again = dead_job(&stage, 8, "failed again").await;
    stage
        .verb(9, "reprocess_jobs", failed_again, "it exists now")
        .await;
    let run = stage.start(10, failed_again, 2).await;
    stage.fail(11, failed_again, run, true, "no answer").await;

    let lost = job(&stage, 9, "lost").await;
    stage.start(10, lost, 1).await;
    stage.sweep(41, 5).await;

    let shown = stage
        .rows(
            "select j.status, j.attempts, j.created_at - :day, j.finished_at - :day, j.last_error
               from relayforge.job_overview j
              order by j.job_id",
        )
        .await;
    assert_eq!(
        shown,
        [
            "(queued,0,00:00:00,,)",
            // Its lease ran out, too: the sweeper looks at all.
            "(retrying,1,00:00:01,,)",
            "(retrying,1,00:00:02,,\"no answer\")",
            "(held,1,00:00:03,,\"no answer\")",
            "(succeeded,1,00:00:04,00:00:06,)",
            "(dead_lettered,1,00:00:05,00:00:05,\"no such order\")",
            "(cancelled,0,00:00:06,00:00:07,)",
            "(queued,1,00:00:07,,\"no such order\")",
            "(retrying,2,00:00:08,,\"no answer\")",
            "(retrying,1,00:00:09,,)",
        ]
    );
    let row = stage
        .rows(&format!(
            "select tenant, source, event_type, correlation_id, job_id, event_id = relayforge.event_of('default', 'generic', 'held')
               from relayforge.job_overview where job_id = '{held}'"
        ))
        .await;
    assert_eq!(row, [format!("(default,generic,order.created,test,{held},t)")]);
    let run = stage.start(50, processing, 2).await;
    let running =
        format!("select status, attempts from relayforge.job_overview where job_id = '{processing}'");
    assert_eq!(stage.rows(&running).await, ["(processing,2)"]);
    stage.complete(51, processing, run).await;
    let narrowed = stage
        .rows("select status from relayforge.job_overview where job_id >= relayforge.uuid7_floor(:day + interval '9 s')")
        .await;
    assert_eq!(narrowed, ["(retrying)"]);
}

#[tokio::test]
async fn dead_letters_of_each_cause() {
    let db = TestDb::create().await;
    let stage = Stage::of_yesterday(&db).await;
    dead_job(&stage, 0, "permanent").await;

    let exhausted = job(&stage, 1, "exhausted").await;
    for attempt in 1..=3 {
        let run = stage.start(1, exhausted, attempt).await;
        stage.fail(1, exhausted, run, true, "no answer").await;
    }

    let poison = job(&stage, 2, "poison").await;
    stage.start(2, poison, 1).await;
    stage.sweep(33, 1).await;

    let unpublishable = job(&stage, 4, "unpublishable").await;
    stage
        .relay
        .query(
            "select relayforge.abandon_outbox(array_agg(c.id), array_agg('no tenant'::text), $1)
               from relayforge.claim_outbox('jobs', 500, p_now => $1) c
              where c.job_id = $2",
            &[&stage.at(5), &unpublishable],
        )
        .await
        .unwrap();

    let expired = job(&stage, 6, "expired").await;
    stage
        .dba
        .query(
            "select relayforge.configure_upkeep(null, 1, null, null, null, null)",
            &[],
        )
        .await
        .unwrap();
    db.owner()
        .await
        .query(
            "select relayforge.upkeep_step('expire', '0', $1)",
            &[&stage.at(2 * 86_400)],
        )
        .await
        .unwrap();

    let reprocessed = dead_job(&stage, 7, "reprocessed").await;
    stage
        .verb(8, "reprocess_jobs", reprocessed, "it exists now")
        .await;

    let shown = stage
        .rows(
            "select d.cause, d.tenant, d.source, d.event_type, d.dead_at - :day, d.attempts, d.last_error, d.correlation_id
               from relayforge.dead_letters d
              order by d.job_id",
        )
        .await;
    assert_eq!(
        shown,
        [
            "(permanent,default,generic,order.created,00:00:00,1,\"no such order\",test)",
            "(exhausted,default,generic,order.created,00:00:01,3,\"no answer\",test)",
            "(poison,default,generic,order.created,00:00:33,1,\"1 runs in a row ended without an outcome\",test)",
            "(unpublishable,default,generic,order.created,00:00:05,0,\"no tenant\",test)",
            "(expired,default,generic,order.created,\"2 days\",0,\"deliveries are kept for 1 days\",test)",
        ]
    );
    let ids = "select event_id = relayforge.event_of('default', 'generic', 'expired'), job_id
                 from relayforge.dead_letters where cause = 'expired'";
    assert_eq!(stage.rows(ids).await, [format!("(t,{expired})")]);
}

#[tokio::test]
async fn stuck_jobs_are_told_what_they_wait_for_and_the_others_are_not_shown() {
    let db = TestDb::create().await;
    let stage = Stage::from_now(&db).await;
    // Older than five minutes, in the order they are to be shown.
    let lost = job(&stage, -16 * MINUTE, "lost").await;
    stage.publish(-16 * MINUTE, "jobs", None).await;
    stage.start(-15 * MINUTE, lost, 1).await;
    let unstarted = job(&stage, -14 * MINUTE, "unstarted").await;
    stage.publish(-14 * MINUTE, "jobs", None).await;
    let retry = job(&stage, -13 * MINUTE, "retry").await;
    let run = stage.start(-13 * MINUTE, retry, 1).await;
    stage.fail(-13 * MINUTE, retry, run, true, "no answer").await;
    let refused = job(&stage, -12 * MINUTE, "refused").await;
    for target in ["jobs", "retries"] {
        stage
            .publish(-11 * MINUTE, target, Some("no queue takes it"))
            .await;
    }
    let unpublished = job(&stage, -10 * MINUTE, "unpublished").await;
    // It has two messages then.
    stage
        .verb(-10 * MINUTE, "hold_jobs", unpublished, "let me look")
        .await;
    stage
        .verb(-10 * MINUTE, "release_jobs", unpublished, "go on")
        .await;
    // Held by an operator, succeeded, alive, or too young to be stuck.
    let held = job(&stage, -9 * MINUTE, "held").await;
    stage.verb(-9 * MINUTE, "hold_jobs", held, "let me look").await;
    let done = job(&stage, -8 * MINUTE, "done").await;
    let run = stage.start(-8 * MINUTE, done, 1).await;
    stage.complete(-8 * MINUTE, done, run).await;
    let alive = job(&stage, -7 * MINUTE, "alive").await;
    stage.start(0, alive, 1).await;
    job(&stage, -4 * MINUTE, "young").await;

    let shown = stage
        .rows(
            "select s.job_id, s.tenant, s.state, s.attempt, s.since - :day, s.why
               from relayforge.stuck_jobs s
              order by s.job_id",
        )
        .await;
    assert_eq!(
        shown,
        [
            format!("({lost},default,processing,1,-00:14:30,\"its lease ran out and no sweeper came\")"),
            format!("({unstarted},default,queued,1,-00:14:00,\"published, but no consumer started it\")"),
            format!("({retry},default,retrying,2,-00:12:00,\"not published: no queue takes it\")"),
            format!("({refused},default,queued,1,-00:12:00,\"not published: no queue takes it\")"),
            format!("({unpublished},default,queued,1,-00:10:00,\"not published yet\")"),
        ]
    );
}

/// The last error of an open job is looked up by the job, not searched for in the log of all jobs since; also where a
/// partition is so young that it has no statistics.
#[tokio::test]
async fn an_overview_of_one_job_does_not_walk_the_log() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    let job = job(&stage, 0, "a").await;
    db.owner()
        .await
        .batch_execute(
            "insert into store.job_log (id, job_id, what, attempt)
             select relayforge.uuid7(clock_timestamp(), 0), gen_random_uuid(), 'published', 1 from generate_series(1, 20000)",
        )
        .await
        .unwrap();
    let plan: Vec<String> = stage
        .dba
        .query(
            &format!("explain select * from relayforge.job_overview where job_id = '{job}'"),
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let of_the_log = plan.iter().filter(|line| line.contains("job_log_p"));
    let walks: Vec<_> = of_the_log
        .filter(|line| !line.contains("job_id_idx") && line.contains("Index Scan"))
        .collect();
    assert!(walks.is_empty(), "{walks:#?}");
    assert!(plan.iter().any(|line| line.contains("job_id_idx")), "{plan:#?}");
}
