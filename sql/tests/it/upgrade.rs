//! An upgrade while services run: the code is swapped under load, and an old binary's statements on a newer schema.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sql::jobs::{JobAttempt, Start, complete_jobs, start_jobs};
use sql::migrate::{Migrated, migrate};
use sql::outbox::{LowWater, Settlement, Target, claim_outbox, count_outbox, settle_outbox};
use sql::testing::TestDb;
use sql::{DbError, Object, Pool};
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

use crate::support::{Hook, RULES, accepted, count, hook, ingest_with, tenant};

const LEASE: Duration = Duration::from_secs(60);
const SWAPS: usize = 3;

/// What the services of this test share.
struct World {
    /// The API is to take nothing in any more.
    stop: AtomicBool,
    /// The API has stopped: a relay that finds nothing may, too.
    drained: AtomicBool,
    batches: AtomicUsize,
}

/// Ingests for a tenant of its own (so that nobody waits for a quota row) until told to stop; answers with the jobs made.
async fn run_api(pool: Pool, world: Arc<World>, tenant: Uuid) -> Result<Vec<Uuid>, DbError> {
    let client = pool.get().await?;
    let mut jobs = Vec::new();
    for batch in 0.. {
        if world.stop.load(Ordering::Relaxed) {
            break;
        }
        let hooks: Vec<Hook> = (0..5)
            .map(|i| Hook {
                tenant,
                ..hook(&format!("{batch}.{i}"))
            })
            .collect();
        let outcomes = ingest_with(&client, &hooks, &RULES).await?;
        jobs.extend(outcomes.iter().filter_map(|outcome| accepted(outcome).job_id));
        world.batches.fetch_add(1, Ordering::Relaxed);
    }
    Ok(jobs)
}

/// Publishes to the channel, which is the broker, until it has been told to stop and finds nothing more.
async fn run_relay(
    pool: Pool,
    world: Arc<World>,
    broker: mpsc::UnboundedSender<JobAttempt>,
) -> Result<(), DbError> {
    let mut client = pool.get().await?;
    loop {
        let drained = world.drained.load(Ordering::SeqCst);
        let transaction = client.transaction().await?;
        let claimed = claim_outbox(&transaction, Target::Jobs, 50, LowWater::START).await?;
        let settlement = Settlement {
            confirmed: claimed.iter().map(|message| message.id).collect(),
            deferred: Vec::new(),
        };
        settle_outbox(&transaction, &settlement, LEASE, LEASE).await?;
        transaction.commit().await?;
        for message in &claimed {
            let _ = broker.send(JobAttempt {
                job_id: message.job_id,
                attempt: message.attempt.into(),
            });
        }
        match count_outbox(&client).await {
            // Its signature changes: see below.
            Err(DbError::Busy(_)) => {}
            counted => drop(counted?),
        }
        if drained && claimed.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Runs what the broker has, until it is gone; answers with the jobs completed.
async fn run_consumer(
    pool: Pool,
    broker: Arc<Mutex<mpsc::UnboundedReceiver<JobAttempt>>>,
) -> Result<Vec<Uuid>, DbError> {
    let client = pool.get().await?;
    let mut completed = Vec::new();
    loop {
        let mut messages = Vec::new();
        if broker.lock().await.recv_many(&mut messages, 20).await == 0 {
            return Ok(completed);
        }
        let runs: Vec<_> = start_jobs(&client, &messages, LEASE, 5)
            .await?
            .into_iter()
            .map(|start| match start {
                Start::Started(job) => job.run,
                other => panic!("not started: {other:?}"),
            })
            .collect();
        completed.extend(complete_jobs(&client, &runs).await?.jobs);
    }
}

/// As an earlier release would have left it: every object another, one of another signature.
async fn go_back(db: &TestDb) {
    db.owner()
        .await
        .batch_execute(
            "set role relayforge_owner;
             begin;
             update store.code_objects set checksum = '';
             drop function relayforge.count_outbox;
             create function relayforge.count_outbox(p_older integer default 0) returns bigint
             language sql stable security definer set search_path = store, pg_temp
             as 'select count(*) from outbox_messages';
             grant execute on function relayforge.count_outbox to relayforge_relay;
             commit",
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_swapped_under_load_and_no_call_fails() {
    let db = TestDb::create().await;
    let world = Arc::new(World {
        stop: AtomicBool::new(false),
        drained: AtomicBool::new(false),
        batches: AtomicUsize::new(0),
    });
    let (broker, queue) = mpsc::unbounded_channel();
    let queue = Arc::new(Mutex::new(queue));
    let mut apis = Vec::new();
    for slug in ["a", "b", "c"] {
        let tenant = tenant(&db, slug, None).await;
        apis.push(tokio::spawn(run_api(
            db.pool("relayforge_api"),
            Arc::clone(&world),
            tenant,
        )));
    }
    let relays: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn(run_relay(
                db.pool("relayforge_relay"),
                Arc::clone(&world),
                broker.clone(),
            ))
        })
        .collect();
    drop(broker);
    let consumers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(run_consumer(db.pool("relayforge_consumer"), Arc::clone(&queue))))
        .collect();

    let mut changed = 0;
    for _ in 0..SWAPS {
        go_back(&db).await;
        let Migrated::Done { code, .. } = migrate(&db.migrate_config()).await.unwrap() else {
            panic!("no newer code here")
        };
        changed += code.changed.len();
    }
    let under_way = world.batches.load(Ordering::Relaxed);
    world.stop.store(true, Ordering::SeqCst);

    let mut jobs = HashSet::new();
    for api in apis {
        jobs.extend(api.await.unwrap().unwrap());
    }
    world.drained.store(true, Ordering::SeqCst);
    for relay in relays {
        relay.await.unwrap().unwrap();
    }
    let mut completed = HashSet::new();
    for consumer in consumers {
        completed.extend(consumer.await.unwrap().unwrap());
    }
    assert!(changed > 150, "{changed} objects were swapped");
    assert!(under_way > 10, "only {under_way} batches came in meanwhile");
    let lost: Vec<_> = jobs.symmetric_difference(&completed).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), jobs.len());
    assert_eq!(count(&db, "select count(*) from store.open_jobs").await, 0);
    let ended = "select count(*) from store.jobs where outcome = 'succeeded' and attempts = 1";
    assert_eq!(usize::try_from(count(&db, ended).await).unwrap(), jobs.len());
}

/// Calls on one new session after another until told to stop. A session whose calls go on failing is kept, and must be
/// well again in the end. Answers with how many calls passed.
async fn call_on_new_sessions(pool: Pool, stop: Arc<AtomicBool>) -> Result<u32, DbError> {
    let mut passed = 0;
    let mut broken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let client = pool.get().await?;
        let before = passed;
        for _ in 0..10 {
            match count_outbox(&client).await {
                Ok(_) => passed += 1,
                Err(DbError::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if passed - before < 3 && broken.len() < 4 {
            broken.push(client);
        } else {
            drop(Object::take(client));
        }
    }
    for client in &broken {
        count_outbox(client).await?;
    }
    Ok(passed)
}

/// A function whose arguments change is dropped and made anew. A call that falls between is told to try again, and passes
/// once the migrator is through: no session goes on calling what is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_beside_a_change_of_signature_is_busy_for_a_moment() {
    let db = TestDb::create().await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            tokio::spawn(call_on_new_sessions(
                db.pool("relayforge_relay"),
                Arc::clone(&stop),
            ))
        })
        .collect();
    let client = db.owner().await;
    for change in 0..60 {
        let (old, new) = if change % 2 == 0 {
            ("", "p_older integer default 0")
        } else {
            ("integer", "")
        };
        client
            .batch_execute(&format!(
                "begin;
                 drop function relayforge.count_outbox({old});
                 create function relayforge.count_outbox({new}) returns bigint language plpgsql stable
                 as 'begin return 0; end';
                 grant execute on function relayforge.count_outbox to relayforge_relay;
                 commit"
            ))
            .await
            .unwrap();
    }
    go_back(&db).await;
    migrate(&db.migrate_config()).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut passed = 0;
    for caller in callers {
        passed += caller.await.unwrap().unwrap();
    }
    assert!(passed > 100, "only {passed} calls passed meanwhile");
}

/// A migration that waits for a lock has all others wait behind it, ingest too. So it gives up and tries again.
#[tokio::test]
async fn a_migration_waits_for_a_lock_briefly_and_again() {
    let db = TestDb::create().await;
    let mut holder = db.owner().await;
    let transaction = holder.transaction().await.unwrap();
    transaction
        .batch_execute("lock table store.refinery_schema_history")
        .await
        .unwrap();
    let config = db.migrate_config();
    let migrator = tokio::spawn(async move { migrate(&config).await });
    let waits_now = "select count(*) from pg_stat_activity
                      where datname = current_database() and application_name = 'relayforge-migrate'
                        and wait_event_type = 'Lock'";
    let mut waits = 0;
    let mut waiting = false;
    // It is seen to wait, to stop waiting, and to wait again.
    while waits < 3 {
        let now = count(&db, waits_now).await > 0;
        waits += usize::from(now && !waiting);
        waiting = now;
        assert!(!migrator.is_finished(), "it gave up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    transaction.commit().await.unwrap();
    migrator.await.unwrap().unwrap();
}
