//! The life of a job in SQL: start, complete, fail, lease, sweep; each outcome, twice, and from somebody it is not for.

use std::time::Duration;

use sql::GenericClient;
use sql::jobs::{
    FailedRun, JobAttempt, Run, Start, Swept, complete_jobs, fail_jobs, hand_back_runs, renew_leases,
    start_jobs, sweep_leases,
};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    LEASE, POLICY, accepted, api, consumer, count, failure, hook, ingest, new_job, start, start_bounded,
    started,
};

/// As if that much time had passed for the lease.
async fn expire_leases(db: &TestDb) {
    db.owner()
        .await
        .execute("update store.open_jobs set lease_until = clock_timestamp() - interval '1 second' where run_id is not null", &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn each_start_is_answered_with_its_own_event_in_whatever_order_they_are_asked_for() {
    let db = TestDb::create().await;
    let hooks: Vec<_> = (0..6).map(|n| hook(&format!("e{n}"))).collect();
    let ingested = ingest(&api(&db).await, &hooks).await;
    let ids: Vec<_> = ingested.iter().map(accepted).collect();
    let mut asks: Vec<JobAttempt> = ids
        .iter()
        .map(|ids| JobAttempt {
            job_id: ids.job_id.unwrap(),
            attempt: 1,
        })
        .collect();
    asks.reverse();
    asks.swap(0, 3);
    // What starts nothing stands between them.
    asks.insert(
        2,
        JobAttempt {
            job_id: Uuid::from_u128(7),
            attempt: 1,
        },
    );
    asks[4].attempt = 2;
    let client = consumer(&db).await;
    let answers = start_jobs(&client, &asks, Duration::from_secs(60), 5)
        .await
        .unwrap();
    for (n, (ask, answer)) in asks.iter().zip(answers).enumerate() {
        match answer {
            Start::Started(job) => {
                assert_eq!(job.run.job_id, ask.job_id);
                let ids = ids.iter().find(|ids| ids.job_id == Some(ask.job_id)).unwrap();
                assert_eq!(job.event_id, ids.event_id, "{n}");
                let run: Uuid = db
                    .owner()
                    .await
                    .query_one(
                        "select run_id from store.open_jobs where job_id = $1",
                        &[&ask.job_id],
                    )
                    .await
                    .unwrap()
                    .get(0);
                assert_eq!(job.run.run_id, run, "{n}");
            }
            Start::Unknown => assert_eq!(n, 2),
            Start::Stale => assert_eq!(n, 4),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_job_is_started_once_and_finished_once() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    let job = started(&client, job_id, 1).await;
    let event = job.event.as_ref().unwrap();
    assert_eq!(
        (event.event_type.as_str(), event.tenant_slug.as_str()),
        ("order.created", "default")
    );
    assert_eq!(event.body, hook("a").body);
    assert!(
        matches!(start(&client, job_id, 1).await, Start::Busy),
        "the message came twice"
    );
    assert_eq!(complete_jobs(&client, &[job.run]).await.unwrap().jobs, [job_id]);
    assert!(
        complete_jobs(&client, &[job.run]).await.unwrap().jobs.is_empty(),
        "finished twice"
    );
    assert!(
        fail_jobs(&client, &[failure(job.run, true)], &POLICY)
            .await
            .unwrap()
            .retrying
            .is_empty()
    );
    assert!(
        matches!(start(&client, job_id, 1).await, Start::Final),
        "the message came late"
    );
    assert!(matches!(start(&client, Uuid::now_v7(), 1).await, Start::Unknown));
    assert_eq!(count(&db, "select count(*) from store.open_jobs").await, 0);
    let done = "select count(*) from store.jobs where outcome = 'succeeded' and attempts = 1 and finished_at >= started_at";
    assert_eq!(count(&db, done).await, 1);
}

#[tokio::test]
async fn an_array_may_hold_the_same_job_twice() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let asked = JobAttempt {
        job_id: new_job(&db, "a").await,
        attempt: 1,
    };
    let answers = start_jobs(&client, &[asked, asked], LEASE, 5).await.unwrap();
    assert!(
        matches!(answers[..], [Start::Started(_), Start::Busy]),
        "{answers:?}"
    );
    let Start::Started(job) = &answers[0] else {
        unreachable!()
    };
    assert_eq!(
        complete_jobs(&client, &[job.run, job.run]).await.unwrap().jobs,
        [asked.job_id]
    );
}

#[tokio::test]
async fn the_same_run_may_fail_twice_in_one_call() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let run = started(&client, new_job(&db, "a").await, 1).await.run;
    fail_jobs(&client, &[failure(run, true), failure(run, true)], &POLICY)
        .await
        .unwrap();
    let failed = "select count(*) from store.job_log where what = 'failed'";
    let messages = "select count(*) from store.outbox_messages where attempt = 2";
    assert_eq!((count(&db, failed).await, count(&db, messages).await), (1, 1));
}

/// Where the two disagree, one holds: no retry is promised for a job that has just been given up.
#[tokio::test]
async fn a_run_that_fails_twice_in_one_call_has_one_outcome() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let run = started(&client, new_job(&db, "a").await, 1).await.run;
    let failed = fail_jobs(&client, &[failure(run, true), failure(run, false)], &POLICY)
        .await
        .unwrap();
    assert_eq!(
        failed.retrying.len() + failed.dead_lettered.len(),
        1,
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_failure_is_retried_after_a_backoff_until_the_attempts_are_used_up() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    for attempt in 1..=2 {
        let job = started(&client, job_id, attempt).await;
        let before = chrono::Utc::now();
        let failed = fail_jobs(&client, &[failure(job.run, true)], &POLICY)
            .await
            .unwrap();
        assert_eq!(failed.retrying, [job_id]);
        let wait = (failed.next_due.unwrap() - before).num_milliseconds();
        let whole = 1000 << (attempt - 1);
        assert!(
            (whole / 2 - 50..whole + 2000).contains(&wait),
            "attempt {attempt}: {wait} ms"
        );
        assert!(
            matches!(start(&client, job_id, attempt).await, Start::Stale),
            "the old message came again"
        );
        let row = "select count(*) from store.outbox_messages o join store.open_jobs j on j.job_id = o.job_id
                    where o.attempt = j.attempt and o.next_attempt_at = j.due_at and j.state = 'retrying' and j.attempt = ";
        assert_eq!(count(&db, &format!("{row}{}", attempt + 1)).await, 1);
    }
    let job = started(&client, job_id, 3).await;
    let failed = fail_jobs(&client, &[failure(job.run, true)], &POLICY)
        .await
        .unwrap();
    assert_eq!((failed.dead_lettered, failed.next_due), (vec![job_id], None));
    let dead = "select count(*) from store.dead_jobs d join store.jobs j on j.id = d.job_id
                 where d.cause = 'exhausted' and j.outcome = 'dead_lettered' and j.attempts = 3 and j.last_error = 'no answer'";
    assert_eq!(count(&db, dead).await, 1);
    assert_eq!(
        count(
            &db,
            "select count(*) from store.outbox_messages where target = 'dlq'"
        )
        .await,
        1
    );
    assert_eq!(
        count(&db, "select count(*) from store.job_log where what = 'failed'").await,
        3
    );
    assert_eq!(
        count(&db, "select count(*) from store.job_log where what = 'dead'").await,
        1
    );
}

#[tokio::test]
async fn a_permanent_failure_and_a_handlers_own_delay_are_honoured_in_one_call() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let (one, two) = (new_job(&db, "a").await, new_job(&db, "b").await);
    let (one, two) = (started(&client, one, 1).await, started(&client, two, 1).await);
    let later = FailedRun {
        retry_after: Some(Duration::from_secs(3600)),
        error: "nul \0 and €".repeat(400),
        ..failure(two.run, true)
    };
    let before = chrono::Utc::now();
    let failed = fail_jobs(&client, &[failure(one.run, false), later], &POLICY)
        .await
        .unwrap();
    assert_eq!(
        (failed.dead_lettered, failed.retrying),
        (vec![one.run.job_id], vec![two.run.job_id])
    );
    assert!((failed.next_due.unwrap() - before).num_seconds() >= 3595);
    assert_eq!(
        count(
            &db,
            "select count(*) from store.dead_jobs where cause = 'permanent'"
        )
        .await,
        1
    );
    assert_eq!(
        count(&db, "select max(length(detail))::bigint from store.job_log").await,
        2000
    );
}

#[tokio::test]
async fn only_the_sweeper_takes_a_job_over_and_the_old_run_is_fenced() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    let lost = started(&client, job_id, 1).await;
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
        Swept::default(),
        "the lease is alive"
    );
    assert!(
        renew_leases(&client, &[lost.run], LEASE)
            .await
            .unwrap()
            .is_empty()
    );
    expire_leases(&db).await;
    assert!(
        matches!(start(&client, job_id, 1).await, Start::Busy),
        "a message does not take over"
    );
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
        Swept {
            rescued: 1,
            poisoned: 0
        }
    );
    // The frozen consumer comes back.
    assert_eq!(renew_leases(&client, &[lost.run], LEASE).await.unwrap(), [job_id]);
    assert!(complete_jobs(&client, &[lost.run]).await.unwrap().jobs.is_empty());
    assert!(
        fail_jobs(&client, &[failure(lost.run, true)], &POLICY)
            .await
            .unwrap()
            .retrying
            .is_empty()
    );
    assert!(matches!(start(&client, job_id, 1).await, Start::Stale));
    let run = started(&client, job_id, 2).await.run;
    assert!(
        complete_jobs(&client, &[lost.run]).await.unwrap().jobs.is_empty(),
        "beside the new run, too"
    );
    assert_eq!(complete_jobs(&client, &[run]).await.unwrap().jobs, [job_id]);
    assert_eq!(count(&db, "select attempts::bigint from store.jobs").await, 2);
}

/// A lease that has run out but was not swept yet still belongs to its run.
#[tokio::test]
async fn a_late_run_that_nobody_took_over_may_finish() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job = started(&client, new_job(&db, "a").await, 1).await;
    expire_leases(&db).await;
    assert_eq!(
        complete_jobs(&client, &[job.run]).await.unwrap().jobs,
        [job.run.job_id]
    );
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
        Swept::default()
    );
}

#[tokio::test]
async fn a_job_that_keeps_killing_its_consumer_is_poison() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    for attempt in 1..=2 {
        start_bounded(&client, job_id, attempt, 3).await;
        expire_leases(&db).await;
        assert_eq!(
            sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
            Swept {
                rescued: 1,
                poisoned: 0
            }
        );
    }
    start_bounded(&client, job_id, 3, 3).await;
    expire_leases(&db).await;
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
        Swept {
            rescued: 0,
            poisoned: 1
        }
    );
    assert!(matches!(start(&client, job_id, 4).await, Start::Final));
    assert_eq!(
        count(&db, "select count(*) from store.dead_jobs where cause = 'poison'").await,
        1
    );
}

/// A consumer that dies takes nothing from the job's budget of attempts: only failures do.
#[tokio::test]
async fn a_lost_run_is_no_failure() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    for attempt in [1, 3] {
        started(&client, job_id, attempt).await;
        expire_leases(&db).await;
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap();
        let job = started(&client, job_id, attempt + 1).await;
        let failed = fail_jobs(&client, &[failure(job.run, true)], &POLICY)
            .await
            .unwrap();
        assert_eq!(failed.retrying, [job_id], "attempt {attempt}");
    }
    let third_failure = started(&client, job_id, 5).await;
    let failed = fail_jobs(&client, &[failure(third_failure.run, true)], &POLICY)
        .await
        .unwrap();
    assert_eq!(failed.dead_lettered, [job_id]);
}

#[tokio::test]
async fn an_outcome_in_between_resets_the_poison_counter() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    start_bounded(&client, job_id, 1, 2).await;
    expire_leases(&db).await;
    sweep_leases(&client, 100, Duration::ZERO).await.unwrap();
    let job = started(&client, job_id, 2).await;
    fail_jobs(&client, &[failure(job.run, true)], &POLICY)
        .await
        .unwrap();
    start_bounded(&client, job_id, 3, 2).await;
    expire_leases(&db).await;
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
        Swept {
            rescued: 1,
            poisoned: 0
        }
    );
}

#[tokio::test]
async fn a_start_beyond_the_poison_limit_gives_the_job_up() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    started(&client, job_id, 1).await;
    expire_leases(&db).await;
    sweep_leases(&client, 100, Duration::ZERO).await.unwrap();
    // Another consumer is configured with a lower limit.
    let answer = start_jobs(&client, &[JobAttempt { job_id, attempt: 2 }], LEASE, 1)
        .await
        .unwrap()
        .remove(0);
    assert!(matches!(answer, Start::Poisoned), "{answer:?}");
    assert!(matches!(start(&client, job_id, 2).await, Start::Final));
}

/// The second of two messages for a job that the first has made poison.
#[tokio::test]
async fn a_message_beside_the_one_that_is_poisoned_finds_the_job_final() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    started(&client, job_id, 1).await;
    expire_leases(&db).await;
    sweep_leases(&client, 100, Duration::ZERO).await.unwrap();
    let asked = JobAttempt { job_id, attempt: 2 };
    let answers = start_jobs(&client, &[asked, asked], LEASE, 1).await.unwrap();
    assert!(
        matches!(answers[..], [Start::Poisoned, Start::Final]),
        "{answers:?}"
    );
}

#[tokio::test]
async fn held_jobs_do_not_start() {
    let db = TestDb::create().await;
    let job_id = new_job(&db, "a").await;
    db.owner()
        .await
        .execute(
            "update store.open_jobs set state = 'held', due_at = 'infinity'",
            &[],
        )
        .await
        .unwrap();
    assert!(matches!(
        start(&consumer(&db).await, job_id, 1).await,
        Start::Held
    ));
}

/// Two consumers get the same messages in opposite order, and finish in opposite order: no deadlock, one run each.
#[tokio::test]
async fn two_consumers_with_the_same_messages_share_them() {
    let db = TestDb::create().await;
    let mut asked = Vec::new();
    for i in 0..60 {
        asked.push(JobAttempt {
            job_id: new_job(&db, &i.to_string()).await,
            attempt: 1,
        });
    }
    let mut reversed = asked.clone();
    reversed.reverse();
    let (one, two) = (consumer(&db).await, consumer(&db).await);
    let (first, second) = tokio::join!(
        start_jobs(&one, &asked, LEASE, 5),
        start_jobs(&two, &reversed, LEASE, 5)
    );
    let runs: Vec<Run> = first
        .unwrap()
        .into_iter()
        .chain(second.unwrap())
        .filter_map(|answer| match answer {
            Start::Started(job) => Some(job.run),
            Start::Busy | Start::Locked => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(runs.len(), 60);
    let mut backwards = runs.clone();
    backwards.reverse();
    let (first, second) = tokio::join!(complete_jobs(&one, &runs), complete_jobs(&two, &backwards));
    assert_eq!(
        first.unwrap().jobs.len() + second.unwrap().jobs.len(),
        60,
        "each finished once"
    );
}

#[tokio::test]
async fn two_sweepers_at_once_rescue_each_job_once() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    for i in 0..20 {
        let job_id = new_job(&db, &i.to_string()).await;
        started(&client, job_id, 1).await;
    }
    expire_leases(&db).await;
    let (one, two) = (consumer(&db).await, consumer(&db).await);
    let (first, second) = tokio::join!(
        sweep_leases(&one, 100, Duration::ZERO),
        sweep_leases(&two, 100, Duration::ZERO)
    );
    let rescued = first.unwrap().rescued + second.unwrap().rescued;
    assert_eq!(rescued, 20);
    assert_eq!(
        count(
            &db,
            "select count(*) from store.outbox_messages where attempt = 2"
        )
        .await,
        20
    );
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap(),
        Swept::default()
    );
}

#[tokio::test]
async fn a_sweep_is_bounded_and_passes_over_held_rows() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    for i in 0..5 {
        let job_id = new_job(&db, &i.to_string()).await;
        started(&client, job_id, 1).await;
    }
    expire_leases(&db).await;
    let psql = db.owner().await;
    psql.batch_execute("begin; select 1 from store.open_jobs order by job_id limit 1 for update")
        .await
        .unwrap();
    assert_eq!(sweep_leases(&client, 3, Duration::ZERO).await.unwrap().rescued, 3);
    assert_eq!(sweep_leases(&client, 3, Duration::ZERO).await.unwrap().rescued, 1);
    psql.batch_execute("rollback").await.unwrap();
    assert_eq!(sweep_leases(&client, 3, Duration::ZERO).await.unwrap().rescued, 1);
}

/// The statements are the wrappers'; this one is what a client in another language would write.
#[tokio::test]
async fn the_functions_serve_other_clients_too() {
    let db = TestDb::create().await;
    let job_id = new_job(&db, "a").await;
    let client = consumer(&db).await;
    let row = client
        .query_one(
            "select outcome, run_id from relayforge.start_jobs(array[$1::uuid], array[1], interval '30 seconds', 5)",
            &[&job_id],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "started");
    let run_id: Uuid = row.get(1);
    let row = GenericClient::query_one(
        &client,
        "call relayforge.complete_jobs(array[$1::uuid], array[$2::uuid])",
        &[&job_id, &run_id],
    )
    .await
    .unwrap();
    assert_eq!(row.get::<_, Vec<Uuid>>(0), [job_id]);
}

/// `begin; hold_jobs(…)`, and a look: what a careful DBA types must not keep everybody else's outcomes and leases waiting.
#[tokio::test]
async fn a_job_in_an_open_transaction_holds_up_nobody_else() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let mut runs = Vec::new();
    for id in ["a", "b", "c"] {
        runs.push(started(&client, new_job(&db, id).await, 1).await.run);
    }
    let queued = new_job(&db, "d").await;
    let psql = db.owner().await;
    psql.batch_execute(&format!(
        "begin; select relayforge.hold_jobs(array['{}', '{queued}']::uuid[], 'let me look')",
        runs[0].job_id
    ))
    .await
    .unwrap();
    client.batch_execute("set lock_timeout = '1ms'").await.unwrap();

    assert!(
        renew_leases(&client, &runs, LEASE).await.unwrap().is_empty(),
        "none is lost"
    );
    let renewed =
        "select count(*) from store.open_jobs where lease_until > clock_timestamp() + interval '29 s'";
    assert!(count(&db, renewed).await >= 2);
    let done = complete_jobs(&client, &runs[..2]).await.unwrap();
    assert_eq!(
        (done.jobs, done.busy),
        (vec![runs[1].job_id], vec![runs[0].job_id])
    );
    let failures = [failure(runs[0], true), failure(runs[2], true)];
    let failed = fail_jobs(&client, &failures, &POLICY).await.unwrap();
    assert_eq!(
        (failed.retrying, failed.busy),
        (vec![runs[2].job_id], vec![runs[0].job_id])
    );
    let other = new_job(&db, "e").await;
    let asked = [queued, other].map(|job_id| JobAttempt { job_id, attempt: 1 });
    let answers = start_jobs(&client, &asked, LEASE, 5).await.unwrap();
    assert!(
        matches!(answers[..], [Start::Locked, Start::Started(_)]),
        "{answers:?}"
    );

    psql.batch_execute("rollback").await.unwrap();
    assert_eq!(
        complete_jobs(&client, &runs[..1]).await.unwrap().jobs,
        [runs[0].job_id]
    );
    assert!(matches!(start(&client, queued, 1).await, Start::Started(_)));
}

/// The limit is that of the consumer which had the job: whoever sweeps need not know it.
#[tokio::test]
async fn poison_is_counted_against_the_last_consumers_limit() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let strict = new_job(&db, "strict").await;
    let lenient = new_job(&db, "lenient").await;
    start_bounded(&client, strict, 1, 1).await;
    start_bounded(&client, lenient, 1, 2).await;
    expire_leases(&db).await;
    let relay = db.pool("relayforge_relay").get().await.unwrap();
    let swept = sweep_leases(&relay, 100, Duration::ZERO).await.unwrap();
    assert_eq!((swept.rescued, swept.poisoned), (1, 1));
    let dead = format!("select count(*) from store.dead_jobs where cause = 'poison' and job_id = '{strict}'");
    assert_eq!(count(&db, &dead).await, 1);
}

/// As if leases had been swept all the time until that long ago.
async fn swept(db: &TestDb, ago: &str) {
    let state = format!(
        "insert into store.sweeps (swept_at, resumed_at)
         values (clock_timestamp() - interval '{ago}', clock_timestamp() - interval '1 day')
         on conflict (singleton) do update set swept_at = excluded.swept_at, resumed_at = excluded.resumed_at"
    );
    db.owner().await.batch_execute(&state).await.unwrap();
}

#[tokio::test]
async fn many_sweepers_look_as_often_as_one_would() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let period = Duration::from_secs(3);
    started(&client, new_job(&db, "a").await, 1).await;
    expire_leases(&db).await;
    swept(&db, "1 second").await;
    assert_eq!(
        sweep_leases(&client, 100, period).await.unwrap(),
        Swept::default(),
        "one has just looked"
    );
    swept(&db, "4 seconds").await;
    assert_eq!(sweep_leases(&client, 100, period).await.unwrap().rescued, 1);
}

/// The database was away, or its clock has jumped: all leases are over, and most runs are alive.
#[tokio::test]
async fn after_a_while_without_sweeps_the_living_renew_their_leases_first() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let alive = started(&client, new_job(&db, "alive").await, 1).await.run;
    let dead = started(&client, new_job(&db, "dead").await, 1).await.run;
    let period = Duration::from_millis(100);
    for gap in ["1 hour", "-1 hour"] {
        expire_leases(&db).await;
        swept(&db, gap).await;
        assert_eq!(
            sweep_leases(&client, 100, period).await.unwrap(),
            Swept::default(),
            "{gap}"
        );
        let resumed =
            "select count(*) from store.sweeps where resumed_at > clock_timestamp() - interval '10 seconds'";
        assert_eq!(count(&db, resumed).await, 1, "{gap}");
    }
    assert!(renew_leases(&client, &[alive], LEASE).await.unwrap().is_empty());
    tokio::time::sleep(period * 6).await;
    assert_eq!(sweep_leases(&client, 100, period).await.unwrap().rescued, 1);
    assert_eq!(
        renew_leases(&client, &[alive, dead], LEASE).await.unwrap(),
        [dead.job_id]
    );
}

/// One that ends its process takes its neighbours with it. They do not come back together, again and again.
#[tokio::test]
async fn jobs_whose_runs_keep_ending_together_are_parted() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let mut jobs = Vec::new();
    for id in 0..20 {
        jobs.push(new_job(&db, &id.to_string()).await);
    }
    let due = "select count(distinct date_trunc('milliseconds', next_attempt_at))
                 from store.outbox_messages where attempt = ";
    for attempt in 1..=3 {
        for job_id in &jobs {
            started(&client, *job_id, attempt).await;
        }
        expire_leases(&db).await;
        let swept = sweep_leases(&client, 100, Duration::ZERO).await.unwrap();
        assert_eq!(swept.rescued, 20);
        let moments = count(&db, &format!("{due}{}", attempt + 1)).await;
        assert_eq!(
            moments > 10,
            attempt > 1,
            "attempt {attempt}: due at {moments} moments"
        );
    }
    let latest = "select count(*) from store.outbox_messages where next_attempt_at > clock_timestamp() + interval '20 seconds'";
    assert_eq!(count(&db, latest).await, 0);
}

#[tokio::test]
async fn a_run_that_is_handed_back_is_started_again_at_once_and_is_no_sign_of_poison() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let job_id = new_job(&db, "a").await;
    for attempt in 1..=7 {
        let run = started(&client, job_id, attempt).await.run;
        let other = Run {
            run_id: Uuid::new_v4(),
            ..run
        };
        assert!(
            hand_back_runs(&client, &[other]).await.unwrap().is_empty(),
            "somebody else's"
        );
        assert_eq!(hand_back_runs(&client, &[run]).await.unwrap(), [job_id]);
        assert!(hand_back_runs(&client, &[run]).await.unwrap().is_empty(), "twice");
        assert!(
            complete_jobs(&client, &[run]).await.unwrap().jobs.is_empty(),
            "fenced"
        );
        let message = format!(
            "select count(*) from store.outbox_messages
              where target = 'jobs' and attempt = {} and next_attempt_at <= clock_timestamp()",
            attempt + 1
        );
        assert_eq!(count(&db, &message).await, 1);
    }
    // Nor did any of it count against the budget of attempts.
    let run = started(&client, job_id, 8).await.run;
    let failed = fail_jobs(&client, &[failure(run, true)], &POLICY).await.unwrap();
    assert_eq!(failed.retrying, [job_id]);
}

#[tokio::test]
async fn a_run_whose_job_somebody_holds_is_not_handed_back_but_left_to_its_lease() {
    let db = TestDb::create().await;
    let client = consumer(&db).await;
    let runs = [
        started(&client, new_job(&db, "held").await, 1).await.run,
        started(&client, new_job(&db, "free").await, 1).await.run,
    ];
    let psql = db.owner().await;
    psql.batch_execute(&format!(
        "begin; select 1 from store.open_jobs where job_id = '{}' for update",
        runs[0].job_id
    ))
    .await
    .unwrap();
    assert_eq!(hand_back_runs(&client, &runs).await.unwrap(), [runs[1].job_id]);
    psql.batch_execute("rollback").await.unwrap();
    expire_leases(&db).await;
    assert_eq!(
        sweep_leases(&client, 100, Duration::ZERO).await.unwrap().rescued,
        1
    );
}
