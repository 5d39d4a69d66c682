//! Processes that freeze where it hurts and come back later: a relay in the middle of a batch, a consumer that is about
//! to write an outcome. What they held goes on without them, and what they do when they are back counts for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perf::demo::CHAOS;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use uuid::Uuid;

use super::cast::LEASE;
use super::load::{Event, Load};
use super::protocol::{PUBLISH, Protocol};
use super::wire::{Moment, Sprung, Trap};
use super::{Size, cast, ledger, seed};
use crate::world::{PATIENCE, World, eventually};

/// How long the database lets a claim be idle: 15 s, as the relay's role says, or less in a small test.
const IDLE_LIMIT_SMALL: Duration = Duration::from_secs(3);
const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// How long after that another relay may take until it has published what was claimed.
const PUBLISHED_AFTER: Duration = Duration::from_secs(5);

/// How long all of it may take in a small test, which runs beside others: the promise is of a machine that does nothing else.
/// Less than the idle limit that a small test does not have.
const SMALL_PUBLISHED_WITHIN: Duration = Duration::from_secs(12);

/// How long after its lease a job of a consumer that is gone may take until another has started it.
const STARTED_AFTER: Duration = Duration::from_secs(5);

const FINAL_WITHIN: Duration = Duration::from_secs(30);

/// How long the broker does not miss a relay: half of what it gives it.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// Messages that are published of a batch before its relay freezes, at most.
const PUBLISHED_BEFORE: usize = 12;

fn plain(_number: u64, _random: &mut StdRng) -> Event {
    Event {
        source: "generic",
        data: json!({}),
    }
}

/// How often consumers were told that a message is of a job that has run, or is running.
fn told_of_repeats(world: &World) -> usize {
    let consumers = world
        .services()
        .iter()
        .filter(|service| service.kind() == "consumer");
    consumers
        .map(|consumer| consumer.log().matches("a message started nothing").count())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_in_the_middle_of_a_batch() {
    let (size, seed) = (Size::chosen(), seed("a_relay_in_the_middle_of_a_batch"));
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    let limit = size.of(IDLE_LIMIT_SMALL, IDLE_LIMIT);
    if size == Size::Small {
        let shorter = format!(
            "alter role relayforge_relay in database {} set idle_in_transaction_session_timeout = '{} ms'",
            world.db.name(),
            limit.as_millis()
        );
        world.sql.batch_execute(&shorter).await.unwrap();
    }
    let trap = Arc::new(Trap::default());
    cast::start(&mut world, Some(&trap), &[]).await;
    let mut load = Load::start(&world, seed, plain);
    let (rounds, jobs) = size.of((1, 200), (5, 2_500));
    let mut published_after = Vec::new();
    for _ in 0..rounds {
        let spared = random.random_range(1..=PUBLISHED_BEFORE);
        let publish = Moment::Asked(Protocol::Amqp, &[PUBLISH]);
        let told = trap.set("relay", None, publish, spared);
        load.send(jobs / rounds);
        let Sprung { instance, release } = tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
        world.service(instance).signal("STOP").await;
        let frozen = Instant::now();
        // What it has claimed, nobody else can have before the database ends its session.
        let claimed = waiting(&world).await;
        assert!(!claimed.is_empty(), "{instance} holds nothing");
        let left = "select count(*) from store.outbox_messages where id = any ($1)";
        eventually(
            "another relay has published all",
            size.of(SMALL_PUBLISHED_WITHIN, limit + PUBLISHED_AFTER),
            async || {
                let left: i64 = world.sql.query_one(left, &[&claimed]).await.unwrap().get(0);
                (left == 0).then_some(())
            },
        )
        .await;
        let held = frozen.elapsed();
        assert!(held > limit / 2, "{instance} held nothing: {held:?}");
        published_after.push(held.as_secs_f64());
        load.answered(load.released()).await;
        ledger::all_is_final(&world, FINAL_WITHIN).await;
        // Now the rest of its batch goes out, unless the broker has missed its heartbeats by now; its claim can't be settled.
        let heard = frozen.elapsed() < HEARD_WITHIN;
        let repeats = told_of_repeats(&world);
        release.cancel();
        world.service(instance).signal("CONT").await;
        if heard {
            eventually("what it publishes late is known", PATIENCE, async || {
                (told_of_repeats(&world) > repeats).then_some(())
            })
            .await;
        } else {
            println!("frozen too long for a late message");
        }
        world.service(instance).answers_ready_with(200).await;
    }
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: a_relay_in_the_middle_of_a_batch: seed {seed}; frozen {rounds} times, all published after \
         {published_after:.1?} s with an idle limit of {limit:?}; {found}"
    );
    assert_eq!((found.runs as usize, found.rescued), (found.jobs, 0));
}

/// What is in the outbox now.
async fn waiting(world: &World) -> Vec<Uuid> {
    let query = "select id from store.outbox_messages";
    let rows = world.sql.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Some jobs take a while and some fail at first, so that there is something to hold at any moment.
fn lasting(number: u64, random: &mut StdRng) -> Event {
    let sleep_ms = random.random_range(50..=150);
    let data = if number.is_multiple_of(4) {
        json!({ "sleep_ms": sleep_ms, "fail_until_attempt": 2 })
    } else {
        json!({ "sleep_ms": sleep_ms })
    };
    Event { source: CHAOS, data }
}

/// What a consumer is about to do when it freezes.
const CALLS: [&[&str]; 2] = [&["relayforge.complete_jobs("], &["relayforge.fail_jobs("]];

/// Jobs that a consumer runs, and messages that wait for it: few, so that a frozen one keeps few from the others.
const SLOTS: &str = "8";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_past_its_lease() {
    let (size, seed) = (Size::chosen(), seed("a_consumer_past_its_lease"));
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    let trap = Arc::new(Trap::default());
    let more = [cast::SHORT_LEASE, ("CONSUMER__SLOTS", SLOTS)];
    cast::start(&mut world, Some(&trap), &more).await;
    let mut load = Load::start(&world, seed, lasting);
    let (rounds, jobs) = size.of((1, 200), (20, 2_400));
    let (mut overtaken, mut slowest) = (0, Duration::ZERO);
    let first = StdRng::seed_from_u64(seed).random_range(0..CALLS.len());
    for round in first..first + rounds {
        let call = Moment::Asked(Protocol::Postgres, CALLS[round % CALLS.len()]);
        let told = trap.set("consumer", None, call, 1);
        load.send(jobs / rounds);
        let Sprung { instance, release } = tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
        world.service(instance).signal("STOP").await;
        let frozen = Instant::now();
        let runs = running(&world).await;
        overtaken += outlive(&world, &runs).await;
        slowest = slowest.max(frozen.elapsed());
        // What it was about to write reaches the database now.
        let lost = lost_runs(&world, instance);
        release.cancel();
        world.service(instance).signal("CONT").await;
        eventually("it sees that its jobs are others'", PATIENCE, async || {
            (lost_runs(&world, instance) > lost).then_some(())
        })
        .await;
    }
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: a_consumer_past_its_lease: seed {seed}; frozen {rounds} times, {overtaken} of its runs taken over and ended \
         by others, {:.1} s after it froze at most, with a lease of {LEASE:?}; {found}",
        slowest.as_secs_f64()
    );
    assert!(overtaken >= rounds, "{overtaken}");
}

/// Every run that there is now.
async fn running(world: &World) -> Vec<Uuid> {
    let query = "select run_id from store.open_jobs where state = 'processing'";
    let rows = world.sql.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until none of these runs is its job's, and the jobs of those that were taken over have their outcome; returns
/// how many were taken over.
async fn outlive(world: &World, runs: &[Uuid]) -> usize {
    let alive = "select count(*) from store.open_jobs where run_id = any ($1)";
    eventually("no run is left", LEASE + STARTED_AFTER, async || {
        let left: i64 = world.sql.query_one(alive, &[&runs]).await.unwrap().get(0);
        (left == 0).then_some(())
    })
    .await;
    let taken = "select distinct l.job_id from store.job_log l, unnest($1::uuid[]) r
                  where l.what = 'rescued' and l.detail = 'the lease of run ' || r || ' ran out'";
    let taken: Vec<Uuid> = world
        .sql
        .query(taken, &[&runs])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let open = "select count(*) from store.jobs where id = any ($1) and outcome is null";
    eventually("others have ended its jobs", PATIENCE, async || {
        let open: i64 = world.sql.query_one(open, &[&taken]).await.unwrap().get(0);
        (open == 0).then_some(())
    })
    .await;
    taken.len()
}

fn lost_runs(world: &World, instance: &str) -> usize {
    let log = world.service(instance).log();
    log.matches("this run counts for nothing").count()
}

/// A consumer dies with all its slots busy: the last of its jobs is started by another within a lease and five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_dead_consumer() {
    fn long(_number: u64, _random: &mut StdRng) -> Event {
        let data = json!({ "sleep_ms": 4_000 });
        Event { source: CHAOS, data }
    }
    let (size, seed) = (Size::chosen(), seed("the_jobs_of_a_dead_consumer"));
    for (lease, jobs) in size.of(
        vec![(LEASE, 60)],
        vec![(LEASE, 1_000), (Duration::from_secs(10), 1_000)],
    ) {
        let mut world = World::new().await;
        ledger::record_every_finish(&world).await;
        let (slots, lease_ms) = (jobs.to_string(), lease.as_millis().to_string());
        let more = [
            ("CONSUMER__SLOTS", slots.as_str()),
            ("CONSUMER__LEASE_MS", &lease_ms),
        ];
        for (kind, name) in [("api", "api"), ("relay", "relay-1"), ("consumer", "consumer-1")] {
            cast::start_one(&mut world, kind, name, None, &more).await;
        }
        world.service("consumer-1").answers_ready_with(200).await;
        let mut load = Load::start(&world, seed, long);
        load.send(jobs);
        let all = i64::try_from(jobs).unwrap();
        let run = "select count(*) from store.open_jobs where state = 'processing'";
        let what = "it runs all jobs";
        eventually(what, PATIENCE, async || {
            (world.count(run).await == all).then_some(())
        })
        .await;
        // They are there already, and have nothing to do.
        for name in ["consumer-2", "consumer-3"] {
            cast::start_one(&mut world, "consumer", name, None, &more).await;
            world.service(name).answers_ready_with(200).await;
        }
        assert_eq!(world.count(run).await, all, "none has ended");
        world.service_mut("consumer-1").kill().await;
        let killed = Instant::now();
        let again = "select (select count(*) from store.open_jobs where state = 'processing' and attempt > 1)
                          + (select count(*) from store.jobs where outcome is not null)";
        let what = "the last of its jobs runs again";
        eventually(what, lease + STARTED_AFTER, async || {
            (world.count(again).await == all).then_some(())
        })
        .await;
        let recovered = killed.elapsed();
        world.service_mut("consumer-1").restart().await;
        let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
        println!(
            "faults: the_jobs_of_a_dead_consumer: seed {seed}; {jobs} jobs ran, all started again {:.1} s after the kill, with \
             a lease of {lease:?}; {found}",
            recovered.as_secs_f64()
        );
        assert!(
            found.runs as usize >= 2 * jobs && found.rescued >= all,
            "{found:?}"
        );
    }
}
