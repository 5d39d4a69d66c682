//! Plans that were made while the queues were empty, as they are between two bursts, in the next burst: what a call reads
//! must follow from how much it asks for, not from how much waits, nor from what lies between the first and the last of it.

use std::time::Duration;

use sql::jobs::{
    FailedRun, JobAttempt, RetryPolicy, Run, Start, complete_jobs, fail_jobs, hand_back_runs, renew_leases,
    start_jobs,
};
use sql::outbox::{Deferred, LowWater, Settlement, Target, abandon_outbox, claim_outbox, settle_outbox};
use sql::testing::TestDb;
use sql::warm_up::{Calls, warm_up};
use sql::{GenericClient, Object};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{accepted, api, hook, ingest};

/// Jobs that wait, and how many of them each call is about.
const WAITING: usize = 1_000;
const ASKED: usize = 8;

/// Rows that a call may read for each that it is about: it locks, looks and writes.
const READS: i64 = 8;

const SECOND: Duration = Duration::from_secs(1);

/// A connection whose plans were made on tables that have been emptied, and the ids of the jobs that came after.
async fn planned_on_empty(db: &TestDb, role: &str, calls: Calls) -> (Object, Vec<Uuid>) {
    let owner = db.owner().await;
    for table in ["store.open_jobs", "store.outbox_messages"] {
        owner.batch_execute(&format!("vacuum {table}")).await.unwrap();
        let rows: f32 = owner
            .query_one(
                "select reltuples from pg_class where oid = $1::text::regclass",
                &[&table],
            )
            .await
            .unwrap()
            .get(0);
        // Before the first vacuum a table is planned for as if it had some pages.
        assert!(
            rows.abs() < f32::EPSILON,
            "{table} is planned for as if it had {rows} rows"
        );
    }
    let pool = db.pool(role);
    let gives_up = matches!(calls, Calls::Relay);
    warm_up(pool.clone(), 1, calls, CancellationToken::new()).await;
    let client = pool.get().await.unwrap();
    // Not in the warm-up, and only the sixth plan is kept.
    for _ in 0..if gives_up { 6 } else { 0 } {
        abandon_outbox(&client, &[]).await.unwrap();
    }
    let hooks: Vec<_> = (0..WAITING).map(|n| hook(&format!("e{n}"))).collect();
    let ingested = ingest(&api(db).await, &hooks).await;
    let jobs = ingested.iter().map(|one| accepted(one).job_id.unwrap()).collect();
    (client, jobs)
}

/// Rows that this connection has read of what grows with the work, partitions included.
async fn read(client: &impl GenericClient) -> i64 {
    client
        .query_one(
            "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint
               from pg_stat_xact_user_tables
              where schemaname = 'store' and relname ~ '^(open_jobs|outbox_messages|jobs|webhook_inbox)'",
            &[],
        )
        .await
        .unwrap()
        .get(0)
}

/// Makes the call in a transaction of its own, commits, and asserts that it read no more than it may.
macro_rules! reads_little {
    ($client:ident, $call:ident($($argument:expr),*)) => {{
        let transaction = $client.transaction().await.unwrap();
        let before = read(&transaction).await;
        let answer = $call(&transaction, $($argument),*).await.unwrap();
        let rows = read(&transaction).await - before;
        let most = READS * i64::try_from(ASKED).unwrap();
        assert!(rows <= most, "{} read {rows} rows for {ASKED}", stringify!($call));
        transaction.commit().await.unwrap();
        answer
    }};
}

#[tokio::test]
async fn the_consumers_calls_read_what_they_are_about() {
    let db = TestDb::create().await;
    let (mut client, jobs) = planned_on_empty(&db, "relayforge_consumer", Calls::Consumer).await;
    // Each call's from all over the place.
    let asks = |nth: usize| -> Vec<JobAttempt> {
        let spread = jobs.iter().skip(nth).step_by(WAITING / ASKED);
        spread.map(|&job_id| JobAttempt { job_id, attempt: 1 }).collect()
    };
    let mut runs = Vec::new();
    for nth in 0..3 {
        let answers = reads_little!(client, start_jobs(&asks(nth), SECOND * 60, 5));
        let started = answers.into_iter().map(|answer| match answer {
            Start::Started(job) => job.run,
            other => panic!("{other:?}"),
        });
        runs.push(started.collect::<Vec<Run>>());
    }
    assert_eq!(runs[0].len(), ASKED);
    let lost = reads_little!(client, renew_leases(&runs[0], SECOND * 60));
    assert!(lost.is_empty(), "{lost:?}");
    let completed = reads_little!(client, complete_jobs(&runs[0]));
    assert_eq!(completed.jobs.len(), ASKED);
    let failures: Vec<FailedRun> = runs[1]
        .iter()
        .enumerate()
        .map(|(n, &run)| FailedRun {
            run,
            error: "no".to_owned(),
            retryable: n % 2 == 0,
            retry_after: None,
        })
        .collect();
    let policy = RetryPolicy {
        max_attempts: 5,
        backoff_base: SECOND,
        backoff_cap: SECOND,
    };
    let failed = reads_little!(client, fail_jobs(&failures, &policy));
    assert_eq!(
        (failed.retrying.len(), failed.dead_lettered.len()),
        (ASKED / 2, ASKED / 2)
    );
    let back = reads_little!(client, hand_back_runs(&runs[2]));
    assert_eq!(back.len(), ASKED);
}

#[tokio::test]
async fn the_relays_calls_read_what_they_are_about() {
    let db = TestDb::create().await;
    let (mut client, jobs) = planned_on_empty(&db, "relayforge_relay", Calls::Relay).await;
    // Due are some from all over the place. A first message has its job's id.
    let due: Vec<Uuid> = jobs.into_iter().step_by(WAITING / ASKED).collect();
    let put_off =
        "update store.outbox_messages set next_attempt_at = now() + interval '1 hour' where id <> all ($1)";
    db.owner().await.execute(put_off, &[&due]).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let before = read(&transaction).await;
    let limit = u16::try_from(ASKED).unwrap();
    let claimed = claim_outbox(&transaction, Target::Jobs, limit, LowWater::START)
        .await
        .unwrap();
    assert_eq!(claimed.len(), ASKED);
    let (confirmed, deferred) = claimed.split_at(ASKED / 2);
    let settlement = Settlement {
        confirmed: confirmed.iter().map(|message| message.id).collect(),
        deferred: deferred
            .iter()
            .map(|message| Deferred {
                id: message.id,
                error: "no".to_owned(),
                blameless: false,
            })
            .collect(),
    };
    settle_outbox(&transaction, &settlement, SECOND, SECOND)
        .await
        .unwrap();
    let rows = read(&transaction).await - before;
    assert!(
        rows <= READS * i64::from(limit),
        "{rows} rows were read for {limit}"
    );
    transaction.commit().await.unwrap();
    let hopeless: Vec<(Uuid, String)> = deferred
        .iter()
        .map(|message| (message.id, "no".to_owned()))
        .collect();
    reads_little!(client, abandon_outbox(&hopeless));
    let left: i64 = db
        .owner()
        .await
        .query_one("select count(*) from store.outbox_messages", &[])
        .await
        .unwrap()
        .get(0);
    // The jobs of those have a message for the dead-letter queue in their place.
    assert_eq!(left, i64::try_from(WAITING - ASKED / 2).unwrap());
}
