//! The outbox as a queue: claims that don't meet, settlements, low water, and the protocol of sleep and wake.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sql::jobs::{complete_jobs, fail_jobs};
use sql::outbox::{
    Deferred, LowWater, OUTBOX_CHANNEL, Settlement, Target, abandon_outbox, claim_outbox, count_outbox,
    outbox_next_due, rebuild_broker, relay_sleep, relay_wake, settle_outbox, wake_relays,
};
use sql::pool::Listener;
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{
    Hook, POLICY, api, consumer, count, dba, failure, hook, ingest, new_job, relay, started,
};

const BASE: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(60);

async fn fill(db: &TestDb, events: usize) {
    let hooks: Vec<Hook> = (0..events).map(|i| hook(&i.to_string())).collect();
    ingest(&api(db).await, &hooks).await;
}

#[tokio::test]
async fn two_relays_share_the_queue_and_a_dead_ones_rows_are_free_again() {
    let db = TestDb::create().await;
    fill(&db, 10).await;
    let (mut one, mut two) = (relay(&db).await, relay(&db).await);
    let first = one.transaction().await.unwrap();
    let second = two.transaction().await.unwrap();
    let mine = claim_outbox(&first, Target::Jobs, 6, LowWater::START)
        .await
        .unwrap();
    let theirs = claim_outbox(&second, Target::Jobs, 6, LowWater::START)
        .await
        .unwrap();
    assert_eq!((mine.len(), theirs.len()), (6, 4));
    assert!(
        mine.iter()
            .all(|row| theirs.iter().all(|other| other.id != row.id))
    );
    let event = mine[0].event.as_ref().unwrap();
    assert_eq!(
        (event.event_type.as_str(), event.body.clone()),
        ("order.created", hook("0").body)
    );
    drop(first);
    let settlement = Settlement {
        confirmed: theirs.iter().map(|row| row.id).collect(),
        deferred: Vec::new(),
    };
    settle_outbox(&second, &settlement, BASE, CAP).await.unwrap();
    second.commit().await.unwrap();
    assert_eq!(count_outbox(&one).await.unwrap(), 6);
    assert_eq!(
        count(&db, "select count(*) from store.job_log where what = 'published'").await,
        4
    );
    let again = one.transaction().await.unwrap();
    assert_eq!(
        claim_outbox(&again, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .len(),
        6
    );
}

/// Large bodies make small batches: a relay's memory is bounded, and all of them come in the end.
#[tokio::test]
async fn a_claim_is_bounded_in_bytes_too() {
    let db = TestDb::create().await;
    let large = |i: usize| Hook {
        body: vec![b'x'; 1_500_000],
        ..hook(&i.to_string())
    };
    ingest(&api(&db).await, &(0..7).map(large).collect::<Vec<_>>()).await;
    let mut client = relay(&db).await;
    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < 7 {
        let transaction = client.transaction().await.unwrap();
        let rows = claim_outbox(&transaction, Target::Jobs, 500, LowWater::START)
            .await
            .unwrap();
        assert!(!rows.is_empty(), "after {batches:?}");
        let settlement = Settlement {
            confirmed: rows.iter().map(|row| row.id).collect(),
            deferred: Vec::new(),
        };
        settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
        transaction.commit().await.unwrap();
        batches.push(rows.len());
    }
    assert_eq!(batches, [3, 3, 1]);
}

#[tokio::test]
async fn what_the_broker_refuses_waits_with_its_reason() {
    let db = TestDb::create().await;
    fill(&db, 1).await;
    let mut client = relay(&db).await;
    let transaction = client.transaction().await.unwrap();
    let row = claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
        .await
        .unwrap()
        .remove(0);
    let settlement = Settlement {
        confirmed: Vec::new(),
        deferred: vec![Deferred {
            id: row.id,
            error: "nacked".to_owned(),
            blameless: false,
        }],
    };
    settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
    transaction.commit().await.unwrap();
    let waits = "select count(*) from store.outbox_messages
                  where attempts = 1 and last_error = 'nacked' and next_attempt_at > clock_timestamp() + interval '300 ms'";
    assert_eq!(count(&db, waits).await, 1);
    let transaction = client.transaction().await.unwrap();
    assert!(
        claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .is_empty()
    );
    transaction.rollback().await.unwrap();
    let found = outbox_next_due(&client, LowWater::START.at).await.unwrap();
    let wait = found.due.unwrap() - found.now;
    assert!(
        wait > TimeDelta::milliseconds(200) && wait <= TimeDelta::seconds(1),
        "{wait}"
    );
}

#[tokio::test]
async fn a_claim_starts_at_its_low_water_mark() {
    let db = TestDb::create().await;
    fill(&db, 3).await;
    let mut client = relay(&db).await;
    let transaction = client.transaction().await.unwrap();
    let later = LowWater {
        at: Utc::now() + TimeDelta::hours(1),
        ..LowWater::START
    };
    assert!(
        claim_outbox(&transaction, Target::Jobs, 10, later)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_message_that_can_never_be_published_gives_its_job_up() {
    let db = TestDb::create().await;
    fill(&db, 2).await;
    let client = relay(&db).await;
    let id: Uuid = db
        .owner()
        .await
        .query_one("select id from store.outbox_messages order by id limit 1", &[])
        .await
        .unwrap()
        .get(0);
    abandon_outbox(&client, &[(id, "too large".to_owned())])
        .await
        .unwrap();
    abandon_outbox(&client, &[(id, "too large".to_owned())])
        .await
        .unwrap();
    assert_eq!(
        count(
            &db,
            "select count(*) from store.dead_jobs where cause = 'unpublishable'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.jobs where last_error = 'too large'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.outbox_messages where target = 'jobs'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.outbox_messages where target = 'dlq'"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn a_writer_wakes_who_would_sleep_past_its_row_and_nobody_else() {
    let db = TestDb::create().await;
    let client = relay(&db).await;
    let mut listener = Listener::connect(&db.config("relayforge_relay"), OUTBOX_CHANNEL)
        .await
        .unwrap();
    let id = Uuid::new_v4();
    assert_eq!(wake_relays(&client, None).await.unwrap(), 0, "nobody sleeps");
    relay_sleep(&client, id, Utc::now() + TimeDelta::seconds(60))
        .await
        .unwrap();
    assert_eq!(
        wake_relays(&client, Some(Utc::now() + TimeDelta::seconds(90)))
            .await
            .unwrap(),
        0,
        "it wakes earlier"
    );
    assert_eq!(wake_relays(&client, None).await.unwrap(), 1);
    assert_eq!(
        wake_relays(&client, None).await.unwrap(),
        0,
        "one notification is enough"
    );
    let heard = tokio::time::timeout(Duration::from_secs(5), listener.next())
        .await
        .unwrap();
    assert_eq!(heard.as_deref(), Some(""));
    relay_sleep(&client, id, Utc::now() + TimeDelta::seconds(60))
        .await
        .unwrap();
    relay_wake(&client, id).await.unwrap();
    assert_eq!(wake_relays(&client, None).await.unwrap(), 0);
}

/// Writers commit, then call `wake_relays`; a sleeper says so, looks, then waits. In no order is a row left unseen.
#[tokio::test]
async fn no_wake_up_is_lost() {
    let db = TestDb::create().await;
    let client = relay(&db).await;
    let mut listener = Listener::connect(&db.config("relayforge_relay"), OUTBOX_CHANNEL)
        .await
        .unwrap();
    let id = Uuid::new_v4();
    let writer = {
        let pool = db.pool("relayforge_api");
        tokio::spawn(async move {
            for i in 0..300 {
                let client = pool.get().await.unwrap();
                ingest(&client, &[hook(&format!("w{i}"))]).await;
                wake_relays(&client, None).await.unwrap();
            }
        })
    };
    let mut seen = 0;
    while seen < 300 {
        relay_sleep(&client, id, Utc::now() + TimeDelta::seconds(60))
            .await
            .unwrap();
        let mut claimer = relay(&db).await;
        let transaction = claimer.transaction().await.unwrap();
        let rows = claim_outbox(&transaction, Target::Jobs, 500, LowWater::START)
            .await
            .unwrap();
        let settlement = Settlement {
            confirmed: rows.iter().map(|row| row.id).collect(),
            deferred: Vec::new(),
        };
        settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
        transaction.commit().await.unwrap();
        seen += rows.len();
        if rows.is_empty() {
            // A lost wake-up would be this time-out: nothing else ends the wait.
            let heard = tokio::time::timeout(Duration::from_secs(20), listener.next()).await;
            assert!(heard.is_ok(), "slept through a row after {seen}");
        }
    }
    writer.await.unwrap();
}

/// What was lost with its connection is as good as any other: it does not wait longer each time.
#[tokio::test]
async fn what_was_lost_with_its_connection_waits_for_the_first_back_off_only() {
    let db = TestDb::create().await;
    fill(&db, 1).await;
    let mut client = relay(&db).await;
    for attempt in 1..=6 {
        db.owner()
            .await
            .execute(
                "update store.outbox_messages set next_attempt_at = clock_timestamp()",
                &[],
            )
            .await
            .unwrap();
        let transaction = client.transaction().await.unwrap();
        let row = claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .remove(0);
        let settlement = Settlement {
            deferred: vec![Deferred {
                id: row.id,
                error: "no confirm".to_owned(),
                blameless: true,
            }],
            ..Settlement::default()
        };
        settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
        transaction.commit().await.unwrap();
        let waits = format!(
            "select count(*) from store.outbox_messages
              where attempts = {attempt} and next_attempt_at <= clock_timestamp() + interval '1 second'"
        );
        assert_eq!(count(&db, &waits).await, 1, "attempt {attempt}");
    }
}

/// The work messages that there are: job number, target, attempt.
async fn work(db: &TestDb, jobs: &[Uuid]) -> Vec<String> {
    let rows = db
        .owner()
        .await
        .query(
            "select concat_ws(' ', array_position($1, job_id) - 1, target, attempt)
               from store.outbox_messages where target in ('jobs', 'retries') order by 1",
            &[&jobs],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_lost_broker_is_rebuilt_from_the_open_jobs() {
    let db = TestDb::create().await;
    let (relay, consumer) = (relay(&db).await, consumer(&db).await);
    let mut jobs = Vec::new();
    for id in ["queued", "retrying", "running", "done", "held", "in the outbox"] {
        jobs.push(new_job(&db, id).await);
    }
    let (retrying, running, done) = (jobs[1], jobs[2], jobs[3]);
    let run = started(&consumer, retrying, 1).await.run;
    fail_jobs(&consumer, &[failure(run, true)], &POLICY)
        .await
        .unwrap();
    started(&consumer, running, 1).await;
    let run = started(&consumer, done, 1).await.run;
    complete_jobs(&consumer, &[run]).await.unwrap();
    dba(&db)
        .await
        .query(
            "select relayforge.hold_jobs(array[$1::uuid], 'let me look')",
            &[&jobs[4]],
        )
        .await
        .unwrap();
    let owner = db.owner().await;
    // All but the last one have been published, and the broker has lost them.
    owner
        .execute(
            "delete from store.outbox_messages where job_id <> $1",
            &[&jobs[5]],
        )
        .await
        .unwrap();
    assert_eq!(rebuild_broker(&relay).await.unwrap(), 2);
    let rebuilt = ["0 jobs 1", "1 retries 2", "5 jobs 1"];
    assert_eq!(work(&db, &jobs).await, rebuilt);
    let due = "select count(*) from store.outbox_messages o join store.open_jobs j using (job_id)
                where o.next_attempt_at = j.due_at or (o.target = 'jobs' and o.next_attempt_at >= j.due_at)";
    assert_eq!(count(&db, due).await, 3, "a retry keeps its due time");
    // Again, and by two at once: each is there once.
    let other = crate::support::relay(&db).await;
    let (one, two) = tokio::join!(rebuild_broker(&relay), rebuild_broker(&other));
    assert_eq!((one.unwrap(), two.unwrap()), (0, 0));
    assert_eq!(work(&db, &jobs).await, rebuilt);
}

/// A relay has had a message confirmed by the queue that is gone now, and has not committed yet.
#[tokio::test]
async fn a_message_that_is_claimed_while_the_broker_is_rebuilt_is_written_again() {
    let db = TestDb::create().await;
    let jobs = [new_job(&db, "claimed").await, new_job(&db, "waiting").await];
    let (mut claiming, other) = (relay(&db).await, relay(&db).await);
    let transaction = claiming.transaction().await.unwrap();
    let claimed = claim_outbox(&transaction, Target::Jobs, 1, LowWater::START)
        .await
        .unwrap();
    assert_eq!(claimed[0].job_id, jobs[0]);
    assert_eq!(rebuild_broker(&other).await.unwrap(), 1);
    let settlement = Settlement {
        confirmed: vec![claimed[0].id],
        ..Settlement::default()
    };
    settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(work(&db, &jobs).await, ["0 jobs 1", "1 jobs 1"]);
}

#[tokio::test]
async fn a_rebuild_in_an_older_snapshot_is_refused() {
    let db = TestDb::create().await;
    let client = dba(&db).await;
    client
        .batch_execute("set default_transaction_isolation = 'repeatable read'")
        .await
        .unwrap();
    let refused = client
        .batch_execute("call relayforge.rebuild_broker()")
        .await
        .unwrap_err();
    assert_eq!(
        refused.code().map(tokio_postgres::error::SqlState::code),
        Some("RF400")
    );
}

#[tokio::test]
async fn a_dba_rebuilds_the_broker_with_one_call() {
    let db = TestDb::create().await;
    fill(&db, 5).await;
    let owner = db.owner().await;
    owner
        .execute("delete from store.outbox_messages", &[])
        .await
        .unwrap();
    let client = dba(&db).await;
    for written in [5_i64, 0] {
        let row = client
            .query_one("call relayforge.rebuild_broker()", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>("p_written"), written);
    }
    assert_eq!(count(&db, "select count(*) from store.outbox_messages").await, 5);
}

#[tokio::test]
async fn a_rebuild_wakes_the_relays_and_goes_page_by_page() {
    let db = TestDb::create().await;
    fill(&db, 5).await;
    let relay = relay(&db).await;
    let owner = db.owner().await;
    owner
        .execute("delete from store.outbox_messages", &[])
        .await
        .unwrap();
    relay_sleep(&relay, Uuid::now_v7(), Utc::now() + TimeDelta::seconds(60))
        .await
        .unwrap();
    let (mut after, mut pages) = (Some(Uuid::nil()), Vec::new());
    while let Some(last) = after {
        let page = owner
            .query_one(
                "select last_job_id, written from relayforge.rebuild_broker_step($1, 2)",
                &[&last],
            )
            .await
            .unwrap();
        after = page.get(0);
        pages.push(page.get::<_, i32>(1));
    }
    assert_eq!(pages, [2, 2, 1]);
    assert_eq!(rebuild_broker(&relay).await.unwrap(), 0);
    assert_eq!(count(&db, "select count(*) from store.relay_sleepers").await, 0);
}
